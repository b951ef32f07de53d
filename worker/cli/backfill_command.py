"""`backfill`: a range of the past through the same pipeline as `run`."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from worker.cli.options import Config, Format, Output
from worker.exits import CANCELLED, ENDED_EARLY, OK, UNBALANCED

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.backfill.plan import Prospect
    from worker.backfill.report import Report
    from worker.backfill.wanted import Wanted
    from worker.backfill_app import Errand
    from worker.mapping.ruleset import RuleSet
    from worker.settings.tree import Loaded, Settings

# Steps of niceness: on a busy machine a third of what a live worker gets, which is enough for heartbeats.
NICER = 5
EXAMPLE = (
    "Example: gigya-worker backfill --topic user-events --from 2026-11-01 --to 2026-11-08   shows the plan; the same "
    "with --yes makes the calls, and goes on where it was after any interruption. Exit codes: 0 done; 1 refused, "
    "nothing was sent; 2 wrong usage; 3 the ledger does not balance; 4 not all is done, the same command goes on; "
    "5 cancelled by a second signal."
)
Files: TypeAlias = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILE]...", help="JSON lines, or gzip of these, in place of a range of topics.", show_default=False
    ),
]
State: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state", metavar="FILE", help="Of files: where the progress is kept (default: backfill-RUN_ID.state.json)."
    ),
]
Topics: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--topic",
        metavar="NAME",
        help="One of kafka.topics (default: all). Can be repeated.",
    ),
]
From: TypeAlias = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="From the first record that is not older (UTC), or `earliest`."),
]
To: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="TIME",
        help="To before the first record that is not older (default: the end as it is when the run begins).",
    ),
]
Offsets: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--offsets",
        metavar="TOPIC/PARTITION:BEGIN-END",
        help="In place of times; END is left out; either number may be empty. Can be repeated.",
    ),
]
Rules: TypeAlias = Annotated[
    Path | None, typer.Option("--rules", "-r", metavar="FILE", help="Other rules than those of the settings.")
]
Rate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="N",
        min=0.01,
        help="Requests a second at each site (default: what the live worker leaves, backfill_reserve_per_s).",
    ),
]
RunId: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="NAME",
        help="Another name than the one made of the range: makes all calls again, on purpose.",
    ),
]
Gap: TypeAlias = Annotated[
    bool, typer.Option("--accept-gap", help="Replay what there is of a range that is not whole any more.")
]
Sole: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--sole-writer",
        help="Nobody else notifies the same actions of the same users meanwhile, the live worker included: then "
        "Gigya's action log can prove that a call was executed.",
    ),
]
Skip: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--skip-delivered",
        help="Leave out what the live group has done of the range, as far as its offsets and dead letters tell.",
    ),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Make the calls.")]
PlanOnly: TypeAlias = Annotated[bool, typer.Option("--plan", help="Show what a run would do; so without --yes.")]
ReportFile: TypeAlias = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Also write the report there, as JSON.")
]
AdminPort: TypeAlias = Annotated[
    int, typer.Option("--admin-port", metavar="N", min=0, max=65535, help="For /status, /park and the others (0: off).")
]


def backfill(
    file: Files = None,
    config: Config = None,
    topic: Topics = None,
    from_: From = None,
    to: To = None,
    offsets: Offsets = None,
    rules: Rules = None,
    rate: Rate = None,
    run_id: RunId = None,
    skip_delivered: Skip = False,
    accept_gap: Gap = False,
    sole_writer: Sole = False,
    plan: PlanOnly = False,
    yes: Yes = False,
    report: ReportFile = None,
    state: State = None,
    admin_port: AdminPort = 0,
    output: Format = Output.TABLE,
) -> None:
    """Replay a range of the past: a plan first, then the same calls that `run` would have made.

    Progress lives in a consumer group of its own. The same command, typed again, goes on where it was.
    """
    from worker.cli.loading import settings_and_rules
    from worker.settings.site_files import secrets_of
    from worker.settings.tree import load, secret_values

    if plan and yes:
        raise typer.BadParameter("--plan shows, and --yes makes the calls: say one of them")
    _give_way()
    loaded, ruleset = settings_and_rules(config, rules)
    settings = loaded.settings
    if file and skip_delivered:
        raise typer.BadParameter("--skip-delivered asks what became of Kafka's records: lines of files are others")
    if file:
        wanted = _wanted_files(settings, file, topic, rules, has_range=bool(from_ or to or offsets))
    else:
        wanted = replace(_wanted(settings, topic, from_, to, offsets, rules), skips_delivered=skip_delivered)
    from worker import logs

    key_lines = {line for site in settings.sites.values() for line in secrets_of(site)}
    level = "warning" if sys.stderr.isatty() else "info"  # lines of single records would tear the bar
    logs.configure(secrets=secret_values(settings) | key_lines, level=level)
    errand = _errand(settings, wanted, run_id, rate)
    errand = replace(errand, accept_gap=accept_gap, is_sole_writer=sole_writer, admin_port=admin_port)
    if file:
        path = state or Path(f"backfill-{errand.run_id}.state.json")
        errand = replace(errand, paths=tuple(file), state_file=path)
    if not yes:
        raise typer.Exit(_plan(loaded, ruleset, errand, output))
    raise typer.Exit(_run(loaded, ruleset, errand, report, output, lambda: load(config)))


def _give_way() -> None:
    """Leave the processor to others where it is scarce: the live worker may be on the same machine."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(NICER)


# --- what is wanted ---------------------------------------------------------------------------------------------------


def _wanted(
    settings: Settings,
    topics: list[str] | None,
    from_: str | None,
    to: str | None,
    offsets: list[str] | None,
    rules: Path | None,
) -> Wanted:
    """Return the range that the options say."""
    import time

    from worker.backfill.wanted import Wanted, offsets_of, time_ms

    try:
        spans = offsets_of(offsets or [])
        begin_ms = time_ms(from_) if from_ is not None else None
        end_ms = time_ms(to) if to is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if spans and (from_ or to or topics):
        raise typer.BadParameter("--offsets says it all: --topic, --from and --to do not go with it")
    if not spans and from_ is None:
        raise typer.BadParameter("which range? Say --from (a time, or earliest), or --offsets")
    if end_ms is not None and end_ms > time.time() * 1000:
        raise typer.BadParameter("--to is in the future: a backfill has an end; `run` makes calls of what is to come")
    if begin_ms is not None and end_ms is not None and end_ms <= begin_ms:
        raise typer.BadParameter("--to is not after --from")
    named = tuple(dict.fromkeys(topics or (partition.topic for partition in spans) if topics or spans else ()))
    if unknown := [name for name in named if name not in settings.kafka.topics]:
        known = ", ".join(settings.kafka.topics)
        raise typer.BadParameter(f"{unknown[0]} is not among kafka.topics ({known}), for which the rules are made")
    return Wanted(
        topics=named or tuple(settings.kafka.topics),
        from_ms=begin_ms,
        to_ms=end_ms,
        offsets=spans,
        rules=str(rules) if rules is not None else "",
    )


def _wanted_files(
    settings: Settings, paths: list[Path], topics: list[str] | None, rules: Path | None, *, has_range: bool
) -> Wanted:
    """Return the files as what is wanted."""
    from worker.backfill.files import names_of
    from worker.backfill.wanted import Wanted

    if has_range:
        raise typer.BadParameter("files are replayed whole: --from, --to and --offsets do not go with them")
    if any(str(path) == "-" for path in paths):
        raise typer.BadParameter("a pipe cannot be read again after an interruption: name files")
    named = topics or list(settings.kafka.topics)
    if len(named) != 1:
        raise typer.BadParameter(f"say with --topic which of {', '.join(named)} the lines are of")
    if named[0] not in settings.kafka.topics:
        raise typer.BadParameter(f"{named[0]} is not among kafka.topics, for which the rules are made")
    try:
        names = names_of(paths)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Wanted(topics=tuple(named), files=names, rules=str(rules) if rules is not None else "")


def _errand(settings: Settings, wanted: Wanted, run_id: str | None, rate: float | None) -> Errand:
    from worker.backfill.rates import rates_of
    from worker.backfill.wanted import checked_run_id
    from worker.backfill_app import Errand

    try:
        name = checked_run_id(run_id) if run_id is not None else wanted.run_id
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Errand(wanted, name, rates_of(settings.sites, rate))


def _plan(loaded: Loaded, rules: RuleSet, errand: Errand, output: Output) -> int:
    import asyncio

    from worker import backfill_app
    from worker.cli.backfill_output import Screen, show_plan

    async def work() -> Prospect:
        with Screen(f"plan {errand.run_id}") as screen:
            return await backfill_app.plan(loaded, rules, errand, show=screen)

    show_plan(asyncio.run(work()), output)
    return OK


# --- making the calls -------------------------------------------------------------------------------------------------


def _run(
    loaded: Loaded,
    rules: RuleSet,
    errand: Errand,
    report_file: Path | None,
    output: Output,
    reread: Callable[[], Loaded],
) -> int:
    from worker import backfill_app, signals
    from worker.cli.backfill_output import Screen, show_report
    from worker.cli.run_command import run_on_loop

    reports: list[Report] = []

    async def work() -> int:
        with Screen(f"backfill {errand.run_id}") as screen:
            reports.append(await backfill_app.run(loaded, rules, errand, show=screen, reread=reread))
        return OK

    run_on_loop(signals.stoppable(work(), stopped=ENDED_EARLY))
    if not reports:
        print("gigya-worker: stopped while it was starting; nothing was sent", file=sys.stderr)
        return ENDED_EARLY
    (report,) = reports
    if report_file is not None:
        _write(report, report_file)
    show_report(report, output)
    _say_how_to_go_on(report)
    return _exit_code(report)


def _write(report: Report, file: Path) -> None:
    import json

    try:
        file.write_text(json.dumps(report.document(), ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        why = error.strerror or type(error).__name__
        print(f"gigya-worker: the report could not be written to {file} ({why}); it follows", file=sys.stderr)


def _say_how_to_go_on(report: Report) -> None:
    from worker.backfill.report import Ended

    if report.ended is Ended.WAS_FINISHED:
        print(
            f"gigya-worker: run {report.run_id} is finished; to make its calls again on purpose, say --run-id NAME",
            file=sys.stderr,
        )
    elif report.ended is Ended.NO_SHARE:
        print(
            f"gigya-worker: another process works on this run ({report.run_id}) and has all its partitions; should it "
            "die, the same command goes on",
            file=sys.stderr,
        )
    elif report.ended is not Ended.FINISHED:
        print(f"gigya-worker: the same command goes on; the progress is in {report.where}", file=sys.stderr)


def _exit_code(report: Report) -> int:
    from worker.backfill.report import Ended

    if not report.is_balanced:
        return UNBALANCED
    if report.ended is Ended.CANCELLED:
        return CANCELLED
    return OK if report.ended in (Ended.FINISHED, Ended.WAS_FINISHED) else ENDED_EARLY
