"""`preflight`: asks Kafka and each site whether a run would go well; a table with a remedy for what would not."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from worker.cli.options import Config, Format, Output
from worker.cli.problems import counted
from worker.exits import PROBLEMS

if TYPE_CHECKING:
    from rich.console import Console

    from worker.mapping.ruleset import RuleSet
    from worker.preflight.lines import Line, Report, State
    from worker.settings.tree import Settings

PIPED_WIDTH = 110
WIDEST = 140
MOST_NAMED = 4
_WORDS = {"ok": "ok", "warning": "warn", "failed": "FAILED", "not_checked": "-"}
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "not_checked": "dim"}

TimeLimit = Annotated[float, typer.Option("--time-limit", min=1, max=3600, metavar="SECONDS", help="For everything.")]


def preflight(config: Config = None, output: Format = Output.TABLE, time_limit: TimeLimit = 60.0) -> None:
    """Ask Kafka and each site whether a run would go well; nothing is consumed, created or changed.

    Exits 1 if a check failed, 0 if none did, warnings or not.
    """
    from worker.cli.loading import settings_and_rules

    loaded, rules = settings_and_rules(config)
    report = report_on(loaded.settings, rules, limit_s=time_limit)
    match output:
        case Output.JSON:
            print(json.dumps(as_json(report), ensure_ascii=False, indent=2))
        case Output.JSONL:
            for line in report.lines:
                print(json.dumps(_line_as_json(line), ensure_ascii=False))
        case Output.TABLE:
            show(report, sys.stdout)
    if report.failed:
        raise typer.Exit(PROBLEMS)


def before_run(settings: Settings, rules: RuleSet) -> None:
    """Examine before a run: tell on stderr what deserves a look, and end the process where a check failed."""
    report = report_on(settings, rules, limit_s=60.0)
    if report.failed:
        show(report, sys.stderr)
        print("gigya-worker: preflight failed. Nothing was consumed.", file=sys.stderr)
        raise typer.Exit(PROBLEMS)
    for line in report.lines:
        if line.state == "warning":
            print(_one_line(line), file=sys.stderr)
    print(f"preflight: {summary(report)}", file=sys.stderr)


def report_on(settings: Settings, rules: RuleSet, *, limit_s: float) -> Report:
    """Ask everything, and return what came of it."""
    import asyncio

    from worker import logs
    from worker.clock import SystemClock
    from worker.preflight.examination import examine
    from worker.settings.site_files import credentials_of
    from worker.settings.tree import secret_values

    # The libraries' own words on a broker that is away would land between the lines; the table says it better.
    logs.configure(secrets=secret_values(settings), level="critical")
    return asyncio.run(
        examine(
            settings.kafka,
            settings.sites,
            rules,
            credentials={name: credentials_of(site) for name, site in settings.sites.items()},
            delivery=settings.delivery,
            clock=SystemClock(),
            limit_s=limit_s,
        )
    )


# --- what it looks like -----------------------------------------------------------------------------------------------


def summary(report: Report) -> str:
    """Return the counts in words: `21 ok, 1 warning, 2 not checked`."""
    counts = report.counts()
    failed, warnings, passed, unchecked = (counts[state] for state in _in_order())
    words = [f"{failed} failed"] if failed else []
    words += [counted(warnings, "warning")] if warnings else []
    words += [f"{passed} ok"]
    words += [f"{unchecked} not checked"] if unchecked else []
    return ", ".join(words)


def _in_order() -> tuple[State, ...]:
    from worker.preflight.lines import State

    return State.FAILED, State.WARNING, State.OK, State.NOT_CHECKED


def show(report: Report, stream: TextIO) -> None:
    """Print the answer, then the table, part by part."""
    from rich.console import Console

    terminal = Console(file=stream, highlight=False, markup=False)
    width = min(terminal.width, WIDEST) if terminal.is_terminal else PIPED_WIDTH
    console = Console(file=stream, highlight=False, markup=False, width=width)
    if failed := report.failed:
        what = ", ".join(f"{_what(line)} ({line.part})" for line in failed[:MOST_NAMED])
        more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        console.print(f"Not ready: {what}{more}", style="bold red", soft_wrap=True)
    else:
        console.print("Ready.", style="bold green")
    for part in dict.fromkeys(line.part for line in report.lines):
        console.print()
        console.print(part, style="bold")
        lines = [line for line in report.lines if line.part == part]
        column = max(len(_what(line)) for line in lines)
        for line in lines:
            _print_line(line, column, width, console)
    console.print()
    console.print(f"{summary(report)}. Nothing was consumed or changed.")


def _print_line(line: Line, column: int, width: int, console: Console) -> None:
    """Print one check, and what to do below it. What does not fit goes on below the check's name."""
    from rich.text import Text

    dim = "dim" if line.state == "not_checked" else ""
    head = f"{_WORDS[line.state]:<6}"
    indent = " " * 10
    found = f"{_what(line):<{column}}  {_printable(line.found)}"
    rows = [Text(row, style=dim) for row in textwrap.wrap(found, width - len(indent), break_on_hyphens=False)]
    rows += [
        Text(row, style=dim or "bold")
        for row in textwrap.wrap(
            f"-> {_printable(line.remedy)}", width - len(indent), subsequent_indent="   ", break_on_hyphens=False
        )
        if line.remedy
    ]
    for number, row in enumerate(rows):
        margin = Text(f"  {head}  ", style=_COLOURS[line.state]) if number == 0 else Text(indent)
        console.print(margin + row, soft_wrap=True)


def _what(line: Line) -> str:
    return _printable(f"{line.check} {line.subject}".rstrip())


def as_json(report: Report) -> dict[str, object]:
    """Return a report for programs."""
    counts = report.counts()
    return {
        "ok": not report.failed,
        "counts": {state.value: counts[state] for state in _in_order()},
        "checks": [_line_as_json(line) for line in report.lines],
    }


def _line_as_json(line: Line) -> dict[str, str | int | None]:
    return {
        "part": line.part,
        "check": line.check,
        "subject": line.subject,
        "state": line.state,
        "found": line.found,
        "remedy": line.remedy,
        "reason": line.reason,
        "code": line.code,
    }


def _one_line(line: Line) -> str:
    what = f"{line.part}: {_what(line)}"
    return _printable(f"preflight: {_WORDS[line.state]}: {what}: {line.found}" + f"; {line.remedy}" * bool(line.remedy))


def _printable(text: str) -> str:
    """Keep what comes from elsewhere (names of actions) from moving the cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
