"""`demo`: sample events through a local Kafka and a local Gigya, and a table of what became of each."""

from __future__ import annotations

import logging
import os
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.problems import counted
from worker.exits import OK, PROBLEMS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.status import Status
    from rich.table import Table

    from worker.sandbox.demo import Played
    from worker.sandbox.demo_evidence import Names
    from worker.sandbox.demo_report import Report
    from worker.sandbox.events import DemoScript

WIDTH = 100
MOST_DIFFERENCES = 10
LINE_EVERY_S = 1.0  # when piped: a line of progress at most so often
INTERRUPTED = 128 + signal.SIGINT  # what shells expect of a program that Ctrl-C ended
_COLOURS = {"delivered": "green", "capped": "yellow", "filtered": "dim", "dead letter": "magenta"}


def demo(
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Other users, shows and order for every N.")] = 0,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the worker's settings, rules and log, and say where (done anyway on failure)."
        ),
    ] = False,
) -> None:
    """Send sample events through a local Kafka and a local Gigya and show what became of each.

    Exits 0 if every event came to what it should have, 1 if not. KAFKA_BOOTSTRAP=host:port uses another broker.
    """
    from worker.sandbox.demo import play
    from worker.sandbox.jars import BrokerUnavailable

    # Without it aiokafka's warnings (a new topic has no leader for some milliseconds) would land between our lines.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    screen = Screen(_console())
    try:
        with screen:
            played = play(seed, screen, keep=keep)
    except BrokerUnavailable as unavailable:
        print(f"gigya-worker: {unavailable}", file=sys.stderr)
        raise typer.Exit(PROBLEMS) from None
    except KeyboardInterrupt:
        print("\ngigya-worker: interrupted; everything that was started has been stopped and removed", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(show(played, screen.console))


def _console() -> Console:
    from rich.console import Console

    stream = sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # shows and users have names that not every terminal can write
    terminal = Console(highlight=False, markup=False)
    width = min(terminal.width, WIDTH + 20) if terminal.is_terminal else WIDTH
    return Console(highlight=False, markup=False, width=width)


class Screen:
    """Shows how the demo goes: a bar on a terminal, a few plain lines when piped. The Watcher of `play`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._status: Status | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._line = ""  # not yet printed
        self._printed = ""
        self._printed_s = time.monotonic()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was, whatever happened."""
        if self._status is not None:
            self._status.stop()
        if self._progress is not None:
            self._progress.stop()
        self._print_line()

    def begun(self, what: str) -> None:
        if self.console.is_terminal:
            self._status = self.console.status(what)
            self._status.start()
        else:
            self._say(f"{what} ...")

    def ready(self, kafka: str, gigya: str, script: DemoScript, names: Names) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        if self._status is not None:
            self._status.stop()
        address = gigya.removeprefix("http://")
        local = "Gigya is local" if os.environ.get("KAFKA_BOOTSTRAP") else "both local"
        self._say(f"Kafka {kafka}, Gigya on {address} ({local}; every signature is verified)")
        events, users = counted(len(script.events), "event"), counted(len(script.users), "user")
        self._say(f"{events} of {users} -> topic {names.topic}, {counted(script.partitions, 'partition')}")
        if self.console.is_terminal:
            columns = (
                TextColumn("  delivering"),
                BarColumn(30, complete_style="green", finished_style="green"),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            )
            self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
            self._task = self._progress.add_task("", total=len(script.events), note="")
            self._progress.start()

    def settled(self, count: int, total: int, note: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=count, note=note)
            return
        line = f"  delivering  {count}/{total}  {note}".rstrip()
        self._line = line if line != self._printed else ""
        if time.monotonic() - self._printed_s >= LINE_EVERY_S:
            self._print_line()

    def _print_line(self) -> None:
        if self._line:
            self._say(self._line)
            self._printed, self._line = self._line, ""
        self._printed_s = time.monotonic()

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


def show(played: Played, console: Console) -> int:
    """Print what the demo came to, and return the exit code."""
    report = played.report
    _show_answer(played, console)
    if played.log_tail:
        console.print("\nthe worker's last words", style="bold")
        for line in played.log_tail:
            for part in textwrap.wrap(_printable(line), console.width - 2, break_on_hyphens=False)[:3]:
                console.print(f"  {part}")
    console.print()
    console.print(_table(report, console.width))
    console.print()
    _show_ledger(report, console)
    _show_next(played, console)
    return PROBLEMS if report.differences else OK


def _show_answer(played: Played, console: Console) -> None:
    report = played.report
    took = f"{played.took_s:.1f} s"
    console.print()
    if not report.differences:
        ends = ", ".join(_ended(outcome, count) for outcome, count in report.outcomes.most_common())
        console.print(f"All {len(report.rows)} events ended as they should: {ends}. ({took})", style="bold")
        return
    console.print(f"FAILED: {_differ(report)} from what should have become of the events. ({took})", style="bold red")
    for text in report.differences[:MOST_DIFFERENCES]:
        console.print(f"  {_printable(text)}")
    if (more := len(report.differences) - MOST_DIFFERENCES) > 0:
        console.print(f"  and {more} more")


def _ended(outcome: str, count: int) -> str:
    return counted(count, outcome) if outcome == "dead letter" else f"{count} {outcome}"


def _differ(report: Report) -> str:
    count = len(report.differences)
    return f"{counted(count, 'thing')} {'differs' if count == 1 else 'differ'}"


def _table(report: Report, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=width - 1, header_style="bold")
    if report.differences:
        table.add_column("", width=1, no_wrap=True)
    table.add_column("offset", width=6, no_wrap=True)
    table.add_column("event", width=28, no_wrap=True, overflow="ellipsis")
    table.add_column("call", width=19, no_wrap=True, overflow="ellipsis")
    table.add_column("outcome", width=11)
    table.add_column("why", ratio=1)
    for row in report.rows:
        cells = (row.place, row.event, row.call, row.outcome, row.why)
        style = "bold red" if row.differences else ""
        colour = style or _COLOURS.get(row.outcome, "")
        texts = [Text(_printable(cell), style=colour if cell is row.outcome else style) for cell in cells]
        if report.differences:
            texts.insert(0, Text("!" if row.differences else "", style=style))
        table.add_row(*texts)
    return table


def _show_ledger(report: Report, console: Console) -> None:
    terms = " + ".join(
        f"{name.replace('dead_lettered', 'dead letters')} {count}"
        for name, count in report.ledger.items()
        if name != "read"
    )
    judgement = "balanced" if report.is_balanced else "NOT BALANCED"
    _line(console, "ledger", f"read {report.ledger['read']} = {terms}        {judgement}")
    sources = "the local Gigya's ledger, the dead-letter topic, the committed offsets"
    _line(console, "checked", f"against {sources}: {_differ(report) if report.differences else 'all agree'}")


def _show_next(played: Played, console: Console) -> None:
    if played.folder is not None:
        _line(console, "kept", f"{played.folder} (the worker's settings, rules and log)")
    if played.report.differences:
        _line(console, "next", "read the worker's log; gigya-worker explain CODE|REASON says what a reason means")
        return
    _line(console, "next", "gigya-worker sandbox     both servers, to try your own rules")
    _line(console, "", 'README, "Rules in five minutes"')


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"{name:<9}{text}", soft_wrap=True)


def _printable(text: str) -> str:
    """Keep what is in events and logs from moving the cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
