"""`dead-letters`: what died and why, in groups and one by one."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from worker.cli.options import Config, Format, Output
from worker.exits import ENDED_EARLY

if TYPE_CHECKING:
    from worker.deadletters.record import DeadLetter
    from worker.mapping.ruleset import RuleSet
    from worker.reprocess.choosing import Choice, Reading, Unclear
    from worker.reprocess.reading import Found
    from worker.settings.tree import Settings

_AGO_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(
    name="dead-letters",
    help="What died and why; make again what was not delivered.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GroupOption: TypeAlias = Annotated[
    str, typer.Option("--group", "-g", metavar="DIGITS", help="Only this group: the first digits of its name.")
]
Reasons: TypeAlias = Annotated[
    list[str] | None, typer.Option("--reason", metavar="REASON", help="Only this reason. Can be repeated.")
]
Since: TypeAlias = Annotated[
    str, typer.Option("--since", metavar="TIME", help="Died then or later: 2026-11-22T08:00Z, or 90m, 6h, 2d ago.")
]
Until: TypeAlias = Annotated[str, typer.Option("--until", metavar="TIME", help="Died before that, as for --since.")]
Where: TypeAlias = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="CEL",
        help="Only where this holds, of event and dlq (reason, code, rule, parameter, text, site, generation, topic, "
        "partition, offset, run, calls, ...).",
    ),
]
TimeLimit: TypeAlias = Annotated[
    float, typer.Option("--time-limit", metavar="SECONDS", min=1, help="For reading the dead-letter topic.")
]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=0, help="The newest N; 0: all.")]
Reveal: TypeAlias = Annotated[
    bool, typer.Option("--reveal", help="Show what is personal, too: keys, headers, and what the events hold.")
]
Places: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PLACE]...", help="topic/partition/offset of the records.", show_default=False),
]

_SHOWN = "Exit codes: 0 shown, also where there are none; 1 refused; 4 shown, but not all of it."


@app.command("groups", epilog=f"Example: gigya-worker dead-letters groups --since 6h.\n\n{_SHOWN}")
def groups(
    config: Config = None,
    reason: Reasons = None,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    time_limit_s: TimeLimit = 600,
    output: Format = Output.TABLE,
) -> None:
    """Show what died, in groups of one cause each: how many, how many users, since when, what to do.

    Users are told by the UID that the rule gives today, else by the record's Kafka key. Joins and changes nothing.
    """
    from worker.cli.dead_letters_output import show_groups

    setting = setting_of(config)
    found = _scan(setting, choice_of("", reason, since, until, where), time_limit_s, with_users=True)
    show_groups(found.index.groups(), output)
    say_unclear(found.unclear)


@app.command(
    "list", epilog=f"Example: gigya-worker dead-letters list --group a91c --where 'dlq.generation > 0'.\n\n{_SHOWN}"
)
def list_letters(
    config: Config = None,
    group: GroupOption = "",
    reason: Reasons = None,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    limit: Limit = 50,
    time_limit_s: TimeLimit = 600,
    output: Format = Output.TABLE,
) -> None:
    """Show dead letters one by one, the newest first: place, reason, and how their calls ended. Nothing personal."""
    from worker.cli.dead_letters_output import show_list

    setting = setting_of(config)
    chosen, found = _chosen(setting, choice_of(group, reason, since, until, where), [], limit, time_limit_s)
    show_list(chosen, sum(1 for _ in found.index.rows()), output)
    say_unclear(found.unclear)


@app.command("show", epilog=f"Example: gigya-worker dead-letters show user-events/3/118221 --reveal.\n\n{_SHOWN}")
def show(
    places: Places = None,
    config: Config = None,
    group: GroupOption = "",
    reason: Reasons = None,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    limit: Limit = 10,
    reveal: Reveal = False,
    time_limit_s: TimeLimit = 600,
    output: Format = Output.TABLE,
) -> None:
    """Show dead letters with their records: calls, headers, and the event; what it holds is masked unless --reveal."""
    from worker.cli.dead_letters_output import show_whole

    setting = setting_of(config)
    chosen, _found = _chosen(setting, choice_of(group, reason, since, until, where), places or [], limit, time_limit_s)
    show_whole([(letter, setting.reading.events(letter.record)) for letter in chosen], output, reveal=reveal)
    say_unclear(_found.unclear)
    missing = set(places or []) - {letter.key.decode("utf-8", "replace") for letter in chosen}
    if missing:
        say(f"no dead letter of {', '.join(sorted(missing))}: resolved, never there, or not among what was asked for")
        raise typer.Exit(ENDED_EARLY)


# --- what is wanted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What the commands work with. `rules` is None where the rules file is refused: dead letters can still be read."""

    settings: Settings
    rules: RuleSet | None
    reading: Reading


def setting_of(config: Path | None) -> Setting:
    """Load settings; and rules, which need not be right: it may be why there are dead letters. Raises Refused."""
    from worker import logs
    from worker.cli.loading import rules_of
    from worker.codecs.choice import auto
    from worker.errors import Refused
    from worker.reprocess.choosing import Reading
    from worker.settings.tree import load, secret_values

    settings = load(config).settings
    logs.configure(secrets=secret_values(settings), level="critical")  # its lines would land between ours
    rules: RuleSet | None
    try:
        rules = rules_of(settings)
    except Refused:
        say("the rules are refused (see gigya-worker check): users are told by their Kafka keys, events read as JSON")
        rules = None
    return Setting(settings, rules, Reading(rules, auto))


def choice_of(group: str, reasons: list[str] | None, since: str, until: str, where: str) -> Choice:
    from worker.mapping.expressions import BadExpression
    from worker.mapping.selecting import Condition
    from worker.reprocess.choosing import Choice

    if group and not re.fullmatch("[0-9a-f]{1,16}", group):
        raise typer.BadParameter(f"--group {group}: give the first digits of a group's name, such as a91c")
    try:
        condition = Condition(where) if where else None
    except BadExpression as error:
        remedy = f"; {error.remedy}" if error.remedy else ""
        raise typer.BadParameter(f"--where, character {error.offset + 1}: {error.what}{remedy}") from None
    now_s = time.time()
    return Choice(
        group,
        frozenset(reasons or ()),
        unix_ms("--since", since, now_s) if since else None,
        unix_ms("--until", until, now_s) if until else None,
        condition,
    )


def unix_ms(option: str, text: str, now_s: float) -> int:
    """Return a moment that was typed: RFC 3339 (without an offset: UTC), or how long ago."""
    import datetime

    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return round((now_s - int(ago[1]) * _AGO_S[ago[2]]) * 1000)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write 2026-11-22T08:00Z, 2026-11-22, or 90m, 6h, 2d") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


# --- reading ----------------------------------------------------------------------------------------------------------


def _scan(setting: Setting, choice: Choice, limit_s: float, *, with_users: bool) -> Found:
    import asyncio

    from worker.cli.progress import bar
    from worker.kafka.ranges import RangeReader
    from worker.reprocess.reading import scan

    kafka = setting.settings.kafka

    async def read() -> Found:
        async with RangeReader.opened(kafka) as reader:
            with bar("reading") as progress:
                return await scan(
                    reader,
                    kafka.dead_letter_topic,
                    choice,
                    setting.reading,
                    limit_s=limit_s,
                    with_users=with_users,
                    progress=progress,
                )

    return asyncio.run(read())


def _chosen(
    setting: Setting, choice: Choice, places: list[str], limit: int, limit_s: float
) -> tuple[list[DeadLetter], Found]:
    """Return the newest letters that are meant, and what the topic held."""
    import asyncio

    from worker.cli.progress import bar
    from worker.kafka.ranges import RangeReader
    from worker.reprocess.reading import letters, scan

    kafka = setting.settings.kafka
    topic = kafka.dead_letter_topic

    async def read() -> tuple[list[DeadLetter], Found]:
        async with RangeReader.opened(kafka) as reader:
            with bar("reading") as progress:
                found = await scan(reader, topic, choice, setting.reading, limit_s=limit_s, progress=progress)
            index, wanted = found.index, set(places)
            rows = [row for row in index.rows() if not wanted or index.place(row) in wanted]
            rows.sort(key=lambda row: (-index.died_ms(row), index.where(row)))
            if limit and not wanted:
                del rows[limit:]
            by_row = await letters(reader, topic, index, rows, found.unclear)
            return [by_row[row] for row in rows if row in by_row], found

    return asyncio.run(read())


def say_unclear(unclear: Unclear) -> None:
    if unclear.messages:
        say(
            f"{unclear.messages:,} messages of the topic are no dead letters that this worker can read, and were passed"
            f" over (the last: {unclear.message_place}: {unclear.message_text})"
        )
    if unclear.conditions:
        say(f"--where cannot be told of {unclear.conditions:,} letters, which are left out ({unclear.condition_text})")


def say(text: str) -> None:
    print(f"gigya-worker: {text}", file=sys.stderr)
