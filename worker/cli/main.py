"""The command line `gigya-worker`, and what every way of going wrong looks like to a person.

Command modules import what they need inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys

import typer

from worker.cli import (
    backfill_command,
    check,
    dead_letters_change,
    demo,
    explain,
    preflight_command,
    run_command,
    sandbox,
    try_command,
)
from worker.cli.options import EXIT_CODES
from worker.exits import BUG, PROBLEMS

app = typer.Typer(
    name="gigya-worker",
    help="Domain events from Kafka become Gigya calls: signed, paced, in order for each user.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints local variables, and those hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_command.run)
app.command("backfill", epilog=backfill_command.EXAMPLE)(backfill_command.backfill)
app.command("check")(check.check)
app.command("demo")(demo.demo)
app.command("explain")(explain.explain)
app.command("preflight")(preflight_command.preflight)
app.add_typer(dead_letters_change.commands)
app.command("sandbox")(sandbox.sandbox)
app.command("try")(try_command.try_rules)


def run() -> None:
    """Run a command and end the process with its exit code: the console script, and `python -m worker`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character must not cost the answer
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="gigya-worker")
    except Exception as error:  # noqa: BLE001 - the last one to hear of it; it always ends in a text and an exit code
        sys.exit(report(error))


def _first(error: Exception) -> Exception:
    """Return what a group of task failures holds first; task groups nest."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def report(error: Exception) -> int:
    """Print what went wrong: a line per problem where it is somebody's mistake, frames without locals for a bug."""
    from worker import logs
    from worker.errors import Refused, WorkerError

    if isinstance(error, ExceptionGroup):  # of tasks that ran side by side; what is nobody's mistake comes first
        _, bugs = error.split(WorkerError)
        error = _first(bugs or error)
    if isinstance(error, Refused):
        from worker.cli.problems import show_refusal

        show_refusal(error)
        return PROBLEMS
    if isinstance(error, WorkerError):
        print(f"gigya-worker: {error}", file=sys.stderr)
        print("Nothing was consumed." if error.reason == "start_failed" else f"reason: {error.reason}", file=sys.stderr)
        return PROBLEMS
    print(logs.bug_report(error), file=sys.stderr)
    return BUG
