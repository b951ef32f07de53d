"""`check`: settings, rules and their examples, every problem at once; starts nothing and calls nobody."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.options import Config, Format, Output
from worker.cli.problems import as_json, counted, print_problems
from worker.exits import PROBLEMS

if TYPE_CHECKING:
    from worker.errors import Problem
    from worker.mapping.ruleset import RuleSet
    from worker.settings.tree import Loaded


def check(
    config: Config = None,
    output: Format = Output.TABLE,
    print_settings: Annotated[
        bool, typer.Option("--print", help="Also print the settings in effect, secrets masked, and who set each.")
    ] = False,
) -> None:
    """Check settings, rules and the examples in the rules. Exit code 1 if the worker would refuse to start."""
    loaded, rules, problems = find_problems(config)
    if print_settings and loaded is not None:
        from worker.settings.tree import effective

        print(effective(loaded), end="")
    # With --print the settings alone are the output, so that they can be piped as YAML.
    stream = sys.stderr if print_settings else sys.stdout
    errors = sum(problem.severity == "error" for problem in problems)
    counts = {} if rules is None else {"rules": len(rules.rules), "examples": sum(len(r.examples) for r in rules.rules)}
    match output:
        case Output.JSON:
            totals = {"ok": errors == 0, "errors": errors, "warnings": len(problems) - errors, **counts}
            document = {**totals, "problems": [as_json(problem) for problem in problems]}
            print(json.dumps(document, ensure_ascii=False, indent=2), file=stream)
        case Output.JSONL:
            for problem in problems:
                print(json.dumps(as_json(problem), ensure_ascii=False), file=stream)
        case Output.TABLE:
            print_problems(problems, stream)
            print(_summary(errors, len(problems) - errors, counts), file=stream)
    if errors:
        raise typer.Exit(PROBLEMS)


def find_problems(config: Path | None) -> tuple[Loaded | None, RuleSet | None, list[Problem]]:
    """Return settings and rules, None where refused, and all problems of both."""
    from worker.errors import Refused
    from worker.mapping import examples
    from worker.mapping import rules as rules_file
    from worker.settings.tree import load, outline

    problems: list[Problem] = []
    loaded = None
    try:
        loaded = load(config)
    except Refused as refused:
        problems += refused.problems
    if loaded is not None:
        problems += loaded.warnings
        place, sites, topics = loaded.settings.rules, tuple(loaded.settings.sites), loaded.settings.kafka.topics
    elif (known := outline(config)) is not None:
        # The rules are checked all the same: whoever must correct the settings shall not come back for the rules.
        place, sites, topics = known.rules, known.sites, known.topics
    else:
        return None, None, problems
    try:
        rules = rules_file.load(place, sites=sites, topics=topics)
    except Refused as refused:
        return loaded, None, [*refused.problems, *problems]
    found = [*rules.warnings, *examples.run(rules)]
    return loaded, rules, [*sorted(found, key=lambda problem: (problem.line, problem.column)), *problems]


def _summary(errors: int, warnings: int, counts: dict[str, int]) -> str:
    found = counted(errors, "error")
    if warnings:
        found += f", {counted(warnings, 'warning')}"
    if not errors and not warnings:
        found = "No problem found"
    of = f" {counted(counts['rules'], 'rule')}, {counted(counts['examples'], 'example')}." if counts else ""
    return f"{found}.{of} Nothing was started."
