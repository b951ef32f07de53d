"""What a command needs that talks to the outside: settings and rules that may be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.mapping.ruleset import RuleSet
    from worker.settings.tree import Loaded


def settings_and_rules(config: Path | None) -> tuple[Loaded, RuleSet]:
    """Read and check both; print warnings on stderr. Raises Refused: nothing is to be started then."""
    from worker.cli.problems import print_problems
    from worker.errors import Refused
    from worker.mapping import examples
    from worker.mapping import rules as rules_file
    from worker.settings.tree import load

    loaded = load(config)
    settings = loaded.settings
    rules = rules_file.load(settings.rules, sites=tuple(settings.sites), topics=settings.kafka.topics)
    # Rules whose own examples do not hold cannot be right: they never start the worker.
    found = [*loaded.warnings, *rules.warnings, *examples.run(rules)]
    if any(problem.severity == "error" for problem in found):
        raise Refused(found)
    print_problems(found, sys.stderr)
    return loaded, rules
