"""How `backfill` looks to people: a bar on a terminal, lines when piped; the plan and the report."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from worker.cli.options import Output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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
    return f"{sight.done:,}/{sight.size:,} ({share:.1%}), {sight.calls:,} calls ended{left}{note}"


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
