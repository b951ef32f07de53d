"""What a command needs that talks to the outside: settings and rules that may be used."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.mapping.ruleset import RuleSet
    from worker.settings.tree import Loaded, Settings


def settings_and_rules(config: Path | None, other_rules: Path | None = None) -> tuple[Loaded, RuleSet]:
    """Read and check both; print warnings on stderr. Raises Refused: nothing is to be started then.

    `other_rules` stand in for those that the settings name.
    """
    from worker.cli.problems import print_problems
    from worker.reload import checked
    from worker.settings.tree import load

    loaded = load(config)
    if other_rules is not None:
        loaded = replace(loaded, settings=loaded.settings.model_copy(update={"rules": other_rules}))
    rules, warnings = checked(lambda: rules_of(loaded.settings))
    print_problems([*loaded.warnings, *warnings], sys.stderr)
    return loaded, rules


def rules_of(settings: Settings) -> RuleSet:
    """Read the rules file that the settings name. Raises Refused."""
    from worker.mapping import rules as rules_file

    return rules_file.load(settings.rules, sites=tuple(settings.sites), topics=settings.kafka.topics)
