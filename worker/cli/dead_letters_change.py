"""`dead-letters replay`, `discard` and `park`: what changes something, and asks first."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from worker.cli.dead_letters import (
    GroupOption,
    Places,
    Reasons,
    Since,
    TimeLimit,
    Until,
    Where,
    app,
    choice_of,
    say,
    say_unclear,
    setting_of,
)
from worker.cli.options import Config, Format, Output
from worker.exits import CANCELLED, ENDED_EARLY, INTERRUPTED, PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.cli.backfill_output import Screen
    from worker.gigya.sites import SiteSettings
    from worker.mapping.ruleset import RuleSet
    from worker.replay_app import Errand, Report, Sight
    from worker.reprocess.choosing import Choice
    from worker.reprocess.index import Index
    from worker.reprocess.plan import Tally
    from worker.settings.tree import Loaded, Settings

DEFAULT_RATE_PER_S = 20.0
commands = app  # with those of this file
_PLACE = re.compile(r"[A-Za-z0-9._-]{1,249}/[0-9]{1,9}/[0-9]{1,18}")

All: TypeAlias = Annotated[bool, typer.Option("--all", help="All of them.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do it. Without: only show what would be done.")]
By: TypeAlias = Annotated[str, typer.Option("--by", metavar="NAME", help="Who does it (default: this login).")]
Why: TypeAlias = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, in one line.")]
Rate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="PER_S",
        min=0.1,
        help="Requests a second to each site (default: its backfill_reserve_per_s, else 20).",
    ),
]

Sole: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--sole-writer",
        help="Nobody else, the live worker included, notifies the same actions of these users: the log may prove them.",
    ),
]

_REPLAYED = (
    "Exit codes: 0 shown, or all that was meant is resolved; 1 refused; 4 ended, and some letters are left: died "
    "again, left out, or stopped; 5 cancelled by a second signal; 130 interrupted before a call was made."
)


@app.command("replay", epilog=f"Example: gigya-worker dead-letters replay --group a91c --yes --rate 50.\n\n{_REPLAYED}")
def replay(
    config: Config = None,
    group: GroupOption = "",
    reason: Reasons = None,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    everything: All = False,
    yes: Yes = False,
    rate: Rate = None,
    max_generation: Annotated[
        int, typer.Option("--max-generation", metavar="N", min=1, help="Leave out what was replayed so often already.")
    ] = 5,
    include_maybe_executed: Annotated[
        bool,
        typer.Option("--include-maybe-executed", help="Make calls again, too, that may have been executed."),
    ] = False,
    sole_writer: Sole = False,
    by: By = "",
    time_limit_s: TimeLimit = 600,
    output: Format = Output.TABLE,
) -> None:
    """Make the calls of dead letters again that were not delivered: by the rules as they are now, in order.

    Without --yes it shows what would be sent and what would still fail. Interrupted by anything, the same command goes
    on. What is resolved gets a tombstone; what fails again stays, one generation older.
    """
    from worker.cli.loading import settings_and_rules
    from worker.replay_app import Errand
    from worker.reprocess.plan import Terms
    from worker.settings.tree import load

    choice = choice_of(group, reason, since, until, where)
    _check_meant(choice, [], everything=everything)
    loaded, rules = settings_and_rules(config)
    settings = loaded.settings
    _configure_logs(settings)
    errand = Errand(
        choice,
        Terms(max_generation, include_maybe_executed),
        _rates(settings.sites, rate),
        by or _login(),
        limit_s=time_limit_s,
        max_bytes=settings.delivery.max_buffer_bytes,
        is_sole_writer=sole_writer,
    )
    if yes:
        raise typer.Exit(_replayed(loaded, rules, errand, output, lambda: load(config)))
    _preview(settings, rules, errand, output)


def _replayed(loaded: Loaded, rules: RuleSet, errand: Errand, output: Output, reread: Callable[[], Loaded]) -> int:
    """Replay, show what was done, and return the exit code."""
    from worker import replay_app
    from worker.cli.backfill_output import Screen
    from worker.cli.dead_letters_output import show_plan, show_report
    from worker.cli.run_command import run_on_loop
    from worker.signals import stoppable

    reports: list[Report] = []

    def shown(plan: Tally) -> None:
        show_plan(plan, errand, output, sys.stderr)

    with Screen("replay") as screen:

        async def work() -> int:
            reports.append(await replay_app.run(loaded, rules, errand, shown=shown, show=_on(screen), reread=reread))
            return _exit_code(reports[0])

        code = run_on_loop(stoppable(work()))
    if not reports:
        say("interrupted before a call was made; nothing was changed")
        return INTERRUPTED
    report = reports[0]
    show_report(report, output)
    say_unclear(report.unclear)
    if report.trouble:
        say(report.trouble)
    if report.ended is None or report.ended.value != "done":
        say("what was under way is noted; the same command goes on where this one was")
    return code


def _preview(settings: Settings, rules: RuleSet, errand: Errand, output: Output) -> None:
    import asyncio

    from worker import replay_app
    from worker.cli.backfill_output import Screen
    from worker.cli.dead_letters_output import show_plan

    with Screen("preview") as screen:
        plan, unclear = asyncio.run(replay_app.preview(settings, rules, errand, show=_on(screen)))
    show_plan(plan, errand, output, sys.stdout)
    if output is Output.TABLE:
        print("Nothing sent yet. Run again with --yes.")
    say_unclear(unclear)


def _exit_code(report: Report) -> int:
    if report.ended is None:
        return CANCELLED
    is_whole = report.ended.value == "done" and not report.result.left and not report.result.died_again
    return 0 if is_whole else ENDED_EARLY


def _on(screen: Screen) -> Callable[[Sight], None]:
    """Return what shows a replay's sights as a backfill's are shown."""
    from worker.backfill_app import Sight as Shown

    began_s = time.monotonic()

    def show(sight: Sight) -> None:
        took_s = time.monotonic() - began_s
        is_told = sight.what == "replaying" and sight.done and took_s > 1
        left_s = took_s / sight.done * (sight.of - sight.done) if is_told else None
        note = "" if sight.what == "replaying" else sight.what
        screen(Shown(sight.done, sight.of, sight.calls, 0, left_s, note))

    return show


def _rates(sites: dict[str, SiteSettings], rate: float | None) -> dict[str, float | None]:
    """Return what each site is asked in a second: what is said, else its reserve, else 20; never above its quota."""
    rates: dict[str, float | None] = {}
    for name, site in sites.items():
        wanted = rate or site.backfill_reserve_per_s or DEFAULT_RATE_PER_S
        if rate is not None and site.quota_per_s is not None and rate > site.quota_per_s:
            raise typer.BadParameter(f"--rate {rate:g} is more than sites.{name}.quota_per_s, {site.quota_per_s:g}")
        rates[name] = wanted if site.quota_per_s is None else min(wanted, site.quota_per_s)
    return rates


def _check_meant(choice: Choice, places: Sequence[str], *, everything: bool) -> None:
    if everything != (choice.is_all and not places):
        raise typer.BadParameter(
            "--all goes with no choice" if everything else "say which: --group, --reason, --since, --where; or --all"
        )


def _configure_logs(settings: Settings) -> None:
    from worker import logs
    from worker.settings.site_files import secrets_of
    from worker.settings.tree import secret_values

    key_lines = {line for site in settings.sites.values() for line in secrets_of(site)}
    logs.configure(secrets=secret_values(settings) | key_lines, level="warning")


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


# --- discard ----------------------------------------------------------------------------------------------------------


@app.command(
    "discard",
    epilog="Example: gigya-worker dead-letters discard --group 07fe --why 'test users, CS-17'.\n\n"
    "Exit codes: 0 discarded, or there was nothing to discard; 1 refused, or not agreed to.",
)
def discard(
    why: Why,
    places: Places = None,
    config: Config = None,
    group: GroupOption = "",
    reason: Reasons = None,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    by: By = "",
    time_limit_s: TimeLimit = 600,
) -> None:
    """Give dead letters up: their calls are never made. Asks first; who and why stand in the tombstones' headers."""
    import asyncio

    from worker import replay_app
    from worker.cli.backfill_output import Screen
    from worker.replay_app import Errand
    from worker.reprocess.plan import Terms

    choice = choice_of(group, reason, since, until, where)
    _check_meant(choice, places or [], everything=everything)
    if not why.strip():
        raise typer.BadParameter("--why: say why, for whoever looks for these letters later")
    setting = setting_of(config)
    answers: list[bool] = []

    def agreed(index: Index, rows: Sequence[int]) -> bool:
        answers.append(_agreed(index, rows, yes=yes))
        return answers[-1]

    with Screen("discard") as screen:
        count = asyncio.run(
            replay_app.discard(
                setting.settings,
                Errand(choice, Terms(1), {}, by or _login(), limit_s=time_limit_s),
                setting.reading,
                places=places or [],
                why=why,
                agreed=agreed,
                show=_on(screen),
            )
        )
    if answers and not answers[-1]:
        say("nothing was discarded")
        raise typer.Exit(PROBLEMS)
    print(f"{count:,} discarded." if count else "No such dead letters.")


def _agreed(index: Index, rows: Sequence[int], *, yes: bool) -> bool:
    kinds = Counter((index.kind(row).fingerprint[:8], index.kind(row).reason) for row in rows)
    for (name, reason), count in kinds.most_common():
        print(f"  {name}  {count:>9,}  {reason}")
    if yes:
        return True
    if not sys.stdin.isatty():
        say(f"{len(rows):,} dead letters would be given up for good; say --yes where nobody can be asked")
        return False
    return typer.confirm(f"Give up {len(rows):,} dead letters for good?")


# --- park -------------------------------------------------------------------------------------------------------------


@app.command(
    "park",
    epilog="Example: gigya-worker dead-letters park user-events/3/118221 --why CS-17.\n\n"
    "Exit codes: 0 parked, or it ended meanwhile; 1 refused; 4 it waits for an attempt in flight: ask again.",
)
def park(
    record: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="What holds its partition.")],
    config: Config = None,
    admin: Annotated[
        str,
        typer.Option("--admin", metavar="URL", help="Admin port of the member that has it (default: the settings')."),
    ] = "",
    by: By = "",
    why: Why = "",
    output: Format = Output.TABLE,
) -> None:
    """Let a running worker turn an unfinished record into a dead letter, so that it holds its partition no longer.

    Goes through the worker's admin port, with admin.token. /status names the records that hold partitions.
    """
    from worker.settings.tree import load

    if not _PLACE.fullmatch(record):
        raise typer.BadParameter(f"{record}: write topic/partition/offset, as /status names it")
    settings = load(config).settings
    token = settings.admin.token
    if token is None or not token.get_secret_value():
        say("no POST is taken without admin.token; set it for the worker and for this command")
        raise typer.Exit(PROBLEMS)
    if not admin and not settings.admin.port:
        say("admin.port is 0 here; name the worker's with --admin http://HOST:PORT")
        raise typer.Exit(PROBLEMS)
    host = settings.admin.host if settings.admin.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    url = (admin or f"http://{host}:{settings.admin.port}").rstrip("/")
    status, answer = _posted(
        f"{url}/park", token.get_secret_value(), {"record": record, "by": by or _login(), "why": why}
    )
    if output is Output.TABLE:
        _show_parked(status, answer, record)
    else:
        print(json.dumps(answer, indent=2 if output is Output.JSON else None))
    raise typer.Exit({200: 0, 202: ENDED_EARLY}.get(status, PROBLEMS))


def _posted(url: str, token: str, body: dict[str, str]) -> tuple[int, dict[str, object]]:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(  # noqa: S310  # the settings' own, or what was typed
        url,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--admin {url}: write http://HOST:PORT")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, _object(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _object(error.read())
    except (urllib.error.URLError, OSError) as error:
        why = getattr(error, "reason", error)
        say(f"{url}: no worker answers there ({why}); name the member that has the record with --admin")
        raise typer.Exit(PROBLEMS) from None


def _object(text: bytes) -> dict[str, object]:
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"error": "what answers there is no gigya-worker"}


def _show_parked(status: int, answer: dict[str, object], record: str) -> None:
    if status not in (200, 202):
        detail = "; ".join(f"{key} {value}" for key, value in answer.items() if key not in ("error", "record"))
        say(f"{record}: {answer.get('error', f'HTTP {status}')}" + (f" ({detail})" if detail else ""))
        return
    waits = f", waits for {answer['waits_for']}" if "waits_for" in answer else ""
    print(f"{record}  {answer.get('state', '')}{waits}")
    calls = answer.get("calls")
    for call in calls if isinstance(calls, list) else []:
        maybe = ", maybe executed" if call.get("maybe_executed") else ""
        print(f"  {call.get('call')}  {call.get('outcome')} {call.get('reason')}{maybe}".rstrip())
