"""How `backfill` looks to people: a bar on a terminal, lines when piped; the plan and the report."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from worker.cli.options import Output
from worker.cli.problems import counted
from worker.cli.try_output import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

    from worker.backfill.plan import Prospect
    from worker.backfill.report import Report
    from worker.backfill_app import Sight

LINE_EVERY_S = 10.0


class Screen:
    """Shows how far a run has come, on standard error: standard output is for the report."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._line = ""
        self._printed_s = time.monotonic()

    def __enter__(self) -> Screen:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(stderr=True, highlight=False, markup=False)
            text = TextColumn("{task.fields[text]}")
            self._progress = Progress(TextColumn(f"  {self._name}"), BarColumn(30), text, console=console)
            self._task = self._progress.add_task("", total=None, text="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was, whatever happened."""
        if self._progress is not None:
            self._progress.stop()
        elif self._line:
            self._print()

    def __call__(self, sight: Sight) -> None:
        text = words(sight)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=sight.done, total=sight.size or None, text=text)
            return
        self._line = f"{self._name}  {text}"
        if time.monotonic() - self._printed_s >= LINE_EVERY_S:
            self._print()

    def _print(self) -> None:
        print(self._line, file=sys.stderr, flush=True)
        self._line, self._printed_s = "", time.monotonic()


def words(sight: Sight) -> str:
    """Return how far a run has come in one line."""
    if not sight.size:
        return sight.note or "nothing to read"
    left = "" if sight.left_s is None else f", about {duration(sight.left_s)} left"
    share = sight.done / sight.size
    note = f"  {sight.note}" if sight.note else ""
    return f"{sight.done:,}/{sight.size:,} ({share:.1%}), {sight.calls:,} calls{left}{note}"


def duration(seconds: float) -> str:
    """Return a time for people: two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def show_plan(prospect: Prospect, output: Output) -> None:
    """Print the plan on standard output."""
    match output:
        case Output.TABLE:
            for line in _plan_lines(prospect):
                print(line)
        case Output.JSON:
            print(json.dumps(prospect.document(), ensure_ascii=False, indent=2))
        case Output.JSONL:
            print(json.dumps(prospect.document(), ensure_ascii=False))


def _plan_lines(prospect: Prospect) -> Iterator[str]:
    plan = prospect.plan
    share = f"{plan.filtered / plan.records:8.1%}" if plan.records else ""
    yield (
        f"Plan of run {prospect.run_id} (read {counted(prospect.partitions, 'partition')}, {plan.records:,} records,"
        f" {plan.events:,} events in {prospect.took_s:.1f} s)"
    )
    yield from (f"  ! {note}" for note in prospect.notes)
    if prospect.behind:
        yield f"  done before           {prospect.behind:>9,} offsets, by earlier starts of this run"
    yield f"  filtered              {plan.filtered:>9,}{share}"
    actions = sorted(plan.actions.items(), key=lambda item: -item[1].calls)
    sites = {site for site, _ in plan.actions}
    of_actions = (f"{printable(f'{site} ' * (len(sites) > 1) + name)} {one.calls:,}" for (site, name), one in actions)
    yield f"  calls                 {plan.calls:>9,}   {' · '.join(of_actions)}".rstrip()
    yield f"  older than max_age    {plan.stale:>9,}   of these: they would not be made"
    if prospect.caps_unknown:
        why = "; ".join(f"site {site}: {text}" for site, text in prospect.caps_unknown.items())
        yield f"  over a daily cap      not known: {why}"
    else:
        yield f"  over a daily cap      {plan.over_cap:>9,}   of these: the site would refuse them (400124)"
    reasons = " · ".join(f"{reason} {count:,}" for reason, count in plan.dead.most_common())
    yield f"  dead letters          {sum(plan.dead.values()):>9,}   {reasons}".rstrip()
    yield f"  users                 {plan.users:>9,}   the busiest has {counted(plan.busiest, 'call')}"
    undefined = "their order is not defined" if plan.spread else ""
    yield f"  in several partitions {plan.spread:>9,}   {undefined}".rstrip()
    took = "" if plan.duration_s is None else f", about {duration(plan.duration_s)}"
    for site, rate in prospect.rates.items():
        yield f"  site {site}: {rate}{took}"
    for planned, request in prospect.requests():
        yield f"  {planned.place}/{planned.offset}  rule {planned.call.name.rule}  {request.verb} {request.url}"
        yield f"      {request.body}"
    yield (
        "Gigya has no event time: all of this counts as done today, for points of the last days and daily caps, on top"
    )
    yield "of what these users are granted today. Nothing was sent. The same command with --yes makes the calls."


def show_report(report: Report, output: Output) -> None:
    """Print the report on standard output."""
    match output:
        case Output.TABLE:
            for line in report.lines():
                print(line)
        case Output.JSON:
            print(json.dumps(report.document(), ensure_ascii=False, indent=2))
        case Output.JSONL:
            print(json.dumps(report.document(), ensure_ascii=False))
