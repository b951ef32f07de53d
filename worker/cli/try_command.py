"""`try`: events as the calls they would become, the coverage of a sample, the difference of two rules files."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from worker.cli.options import Config, Format, Output
from worker.exits import ENDED_EARLY, PROBLEMS

if TYPE_CHECKING:
    from worker.inspect.coverage import Caps
    from worker.inspect.preview import Trial
    from worker.inspect.request import Signatory
    from worker.inspect.samples import Sample
    from worker.kafka.settings import KafkaSettings
    from worker.mapping.ruleset import RuleSet
    from worker.model import Json

STDIN = Path("-")


File: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="Events: JSON lines, one JSON document or several, or gzip of these. - or nothing: standard input.",
        show_default=False,
    ),
]
Rules: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--rules", "-r", metavar="FILE", help="The rules to try (default: those of the settings, or rules.yaml)."
    ),
]
Last: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--last", metavar="N", min=1, help="The newest N records of the live topics; joins and commits nothing."
    ),
]
Topic: TypeAlias = Annotated[
    str | None,
    typer.Option("--topic", metavar="NAME", help="The topic to read, or the one that the lines are taken to be from."),
]
TimeLimit: TypeAlias = Annotated[
    float, typer.Option("--time-limit", metavar="SECONDS", min=1, help="For --last: show what has come by then.")
]
Kcat: TypeAlias = Annotated[
    bool, typer.Option("--kcat", help="Lines are records as `kcat -J` writes them: with partition, key, headers.")
]
Request: TypeAlias = Annotated[
    bool, typer.Option("--request", help="Also show each call's request, with all that is secret as ***.")
]
Cover: TypeAlias = Annotated[
    bool, typer.Option("--coverage", help="Count over the sample: what fired, what did not and why, users.")
]
Cap: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--cap",
        metavar="[ACTION=]N",
        help="For --coverage: a user's cap in 24 hours, of one action or of all others. Can be repeated.",
    ),
]
Diff: TypeAlias = Annotated[
    Path | None,
    typer.Option("--diff", metavar="OTHER_RULES", help="Show, call by call, what other rules would change."),
]


def try_rules(
    file: File = None,
    config: Config = None,
    rules: Rules = None,
    last: Last = None,
    topic: Topic = None,
    time_limit_s: TimeLimit = 30,
    kcat: Kcat = False,
    request: Request = False,
    coverage: Cover = False,
    cap: Cap = None,
    diff: Diff = None,
    output: Format = Output.TABLE,
) -> None:
    """Show events as the calls that the rules would make of them, or why they make none. Sends nothing.

    What is shown holds the events' own data, UIDs among it: that is what it is for. It goes to standard output only,
    and into no log. Settings are not needed for events of a file: --rules alone will do.

    Exit code 0: shown. 1: refused (rules, settings, input), or --diff found a difference. 4: shown, but the input is
    cut off or damaged, or the time was up: what is missing is told on standard error.
    """
    _check_usage(file, last, coverage=coverage, cap=cap, diff=diff, request=request, kcat=kcat)
    caps = _caps(cap or [])
    setting = _setting(config, rules, needs_kafka=last is not None)
    # What is older than max_age is told as of now: that is when the worker would make the calls.
    now_s = time.time()
    differs = False
    with contextlib.ExitStack() as files:
        sample: Sample
        if last is not None:
            sample = _last_of_topic(setting, last, topic, time_limit_s)
        else:
            sample = _of_file(setting, files, file, topic, now_s, is_kcat=kcat)
        if diff is not None:
            differs = _show_difference(setting, diff, sample, output)
        else:
            _show(setting, sample, output, now_s=now_s, with_requests=request, caps=caps if coverage else None)
    if sample.damage:
        _say(sample.damage)
    if differs or sample.damage:
        raise typer.Exit(PROBLEMS if differs else ENDED_EARLY)


# --- what is wanted ---------------------------------------------------------------------------------------------------


def _check_usage(
    file: Path | None,
    last: int | None,
    *,
    coverage: bool,
    cap: list[str] | None,
    diff: Path | None,
    request: bool,
    kcat: bool,
) -> None:
    problem = ""
    if file is not None and last is not None:
        problem = "--last reads the live topic: FILE does not go with it"
    elif kcat and last is not None:
        problem = "--kcat is for lines of a file: --last reads the records themselves"
    elif coverage and diff is not None:
        problem = "--coverage and --diff are two answers: ask for one of them"
    elif request and (coverage or diff is not None):
        problem = "--request shows single calls: it goes with neither --coverage nor --diff"
    elif cap and not coverage:
        problem = "--cap counts over a sample: add --coverage"
    elif file in (None, STDIN) and last is None and sys.stdin.isatty():
        problem = "no events: name a FILE, pipe them in, or read the live topic with --last 20"
    if problem:
        raise typer.BadParameter(problem)


def _caps(texts: list[str]) -> Caps:
    from worker.inspect.coverage import Caps

    default: int | None = None
    by_action: dict[str, int] = {}
    for text in texts:
        action, separator, number = text.rpartition("=")
        if not number.isdecimal() or (separator and not action):
            raise typer.BadParameter(f"--cap {text}: write a whole number, or ACTION=NUMBER")
        if separator:
            by_action[action] = int(number)
        else:
            default = int(number)
    return Caps(default, by_action)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What the rules are tried in: sites and topics of the settings, or stand-ins."""

    rules: RuleSet
    topics: tuple[str, ...]
    signatories: Mapping[str, Signatory]
    kafka: KafkaSettings | None


def _setting(config: Path | None, rules: Path | None, *, needs_kafka: bool) -> _Setting:
    """Load rules, and settings where there are any that can be read; say on stderr what stands in for them."""
    from worker.cli.problems import print_problems
    from worker.errors import Refused
    from worker.gigya.sites import Site
    from worker.inspect.names import names_in
    from worker.inspect.request import Signatory
    from worker.mapping import rules as rules_file
    from worker.settings.tree import load, outline

    try:
        settings = load(config).settings
    except Refused:
        known = outline(config)
        if needs_kafka or (config is not None and not config.exists()):
            raise
        place = rules or (known.rules if known is not None else Path("rules.yaml"))
        if known is not None:
            sites, topics = known.sites, known.topics
            _say("the settings are not complete (see gigya-worker check); sites and topics are taken from them")
        else:
            sites, topics = names_in(place)
        signatories = {name: Signatory(Site(name, "API_KEY", domain="DATA_CENTER"), "signed", "") for name in sites}
        kafka = None
    else:
        place, topics, kafka = rules or settings.rules, settings.kafka.topics, settings.kafka
        signatories = {
            name: Signatory(Site.of(name, site), site.auth.mode, site.auth.user_key)
            for name, site in settings.sites.items()
        }
    found = rules_file.load(place, sites=tuple(signatories), topics=topics)
    print_problems(found.warnings, sys.stderr)
    return _Setting(found, tuple(topics), signatories, kafka)


def _say(text: str) -> None:
    print(f"gigya-worker: {text}", file=sys.stderr)


# --- where events come from -------------------------------------------------------------------------------------------


def _last_of_topic(setting: _Setting, count: int, topic: str | None, time_limit_s: float) -> Sample:
    """Read the newest records of the live topics, without a group. Raises StartFailed."""
    import asyncio

    from worker import logs
    from worker.inspect.samples import LiveSample
    from worker.kafka.ranges import RangeReader

    kafka = setting.kafka
    assert kafka is not None  # noqa: S101  # with --last, settings that cannot be used are refused
    # Log lines would land between ours, and standard output is for the answer alone.
    logs.configure(level="critical")
    topics = [topic] if topic is not None else list(setting.topics)

    async def read() -> LiveSample:
        async with RangeReader.opened(kafka, limit_s=time_limit_s) as reader:
            found = await reader.last(topics, count, limit_s=time_limit_s)
            late = "" if found.is_whole else f"the time was up after {time_limit_s:g} s; there may be more to read"
            lost = sum(reader.lost.values())
            gone = f"{lost} records were deleted by retention while they were being read" if lost else ""
            return LiveSample(found.records, damage="; ".join(filter(None, (late, gone))))

    return asyncio.run(read())


def _of_file(
    setting: _Setting, files: contextlib.ExitStack, file: Path | None, topic: str | None, now_s: float, *, is_kcat: bool
) -> Sample:
    """Open a file, to be closed with `files`, or take standard input. Raises Unreadable."""
    from worker.inspect.samples import Recording, Unreadable

    if topic is None:
        says_topics = any(rule.topics for rule in setting.rules.rules) or len(setting.rules.sources) > 1
        if len(setting.topics) > 1 and says_topics and not is_kcat:
            names = ", ".join(setting.topics)
            raise typer.BadParameter(
                f"the rules tell topics apart: say with --topic which of {names} the events are of"
            )
        topic = setting.topics[0]
    if file is None or file == STDIN:
        name, stream = "stdin", sys.stdin.buffer
    else:
        try:
            name, stream = str(file), files.enter_context(file.open("rb"))
        except OSError as error:
            raise Unreadable(f"{file} cannot be read ({error.strerror or type(error).__name__})") from error
    return Recording(name, stream, topic=topic, now_ms=int(now_s * 1000), is_kcat=is_kcat)


# --- answers ----------------------------------------------------------------------------------------------------------


def _show(
    setting: _Setting, sample: Sample, output: Output, *, now_s: float, with_requests: bool, caps: Caps | None
) -> None:
    from worker.inspect.preview import Trial

    trial = Trial(setting.rules)
    if caps is not None:
        _show_coverage(trial, sample, output, now_s, caps)
    else:
        _show_records(trial, sample, output, now_s, setting.signatories if with_requests else None)


def _show_records(
    trial: Trial, sample: Sample, output: Output, now_s: float, signatories: Mapping[str, Signatory] | None
) -> None:
    from worker.cli.try_output import Preview
    from worker.inspect.documents import as_text, of_record

    preview = Preview(now_s=now_s, signatories=signatories)
    documents: list[Json] = []
    for sampled in sample:
        tried = trial.of(sampled)
        preview.count(tried)
        match output:
            case Output.TABLE:
                preview.show(tried)
            case Output.JSON:
                documents.append(of_record(tried, now_s=now_s, signatories=signatories))
            case Output.JSONL:
                print(as_text(of_record(tried, now_s=now_s, signatories=signatories)))
    if output is Output.TABLE:
        print(preview.summary())
    elif output is Output.JSON:
        totals: dict[str, Json] = {"records": preview.records, "calls": preview.calls, "fates": preview.fates}
        print(as_text({"totals": totals, "records": documents}, is_indented=True))


def _show_coverage(trial: Trial, sample: Sample, output: Output, now_s: float, caps: Caps) -> None:
    from worker.cli.try_output import show_coverage
    from worker.inspect.coverage import Coverage
    from worker.inspect.documents import as_text, of_coverage

    coverage = Coverage(trial.rules, now_s=now_s, caps=caps)
    coverage.is_spread_known = sample.has_places
    for sampled in sample:
        coverage.add(trial.of(sampled))
    if output is Output.TABLE:
        show_coverage(coverage)
    else:
        print(as_text(of_coverage(coverage), is_indented=output is Output.JSON))


def _show_difference(setting: _Setting, other: Path, sample: Sample, output: Output) -> bool:
    """Show what changes from the rules to the other ones; return whether anything does."""
    from worker.cli.try_output import show_difference
    from worker.inspect.difference import Totals
    from worker.inspect.documents import as_text, of_change, of_totals
    from worker.inspect.preview import Trial
    from worker.mapping import rules as rules_file

    sites = tuple(setting.signatories)
    before = Trial(setting.rules)
    after = Trial(rules_file.load(other, sites=sites, topics=setting.topics))
    totals, changes = Totals(), []
    for sampled in sample:
        change = totals.add(before.of(sampled), after.of(sampled))
        if change is None:
            continue
        if output is Output.JSONL:
            print(as_text(of_change(change)))
        else:
            changes.append(change)
    if output is Output.TABLE:
        show_difference(totals, changes)
    elif output is Output.JSON:
        document: dict[str, Json] = {"totals": of_totals(totals), "changes": [of_change(change) for change in changes]}
        print(as_text(document, is_indented=True))
    return totals.records_changed > 0
