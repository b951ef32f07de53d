"""How dead letters look: the answer, then the evidence, then what to do; no colour when piped."""

from __future__ import annotations

import datetime
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from worker.cli.explain import find
from worker.cli.options import Output
from worker.cli.problems import counted
from worker.inspect.documents import as_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.deadletters.glance import Kind
    from worker.deadletters.record import DeadLetter
    from worker.model import Event, Json
    from worker.replay_app import Errand, Report
    from worker.reprocess.index import Group
    from worker.reprocess.plan import Tally

PIPED_WIDTH = 160
COMMAND = "gigya-worker dead-letters"


def console() -> Console:
    """Return where tables go: as wide as the terminal, or as wide as a line should be."""
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    if terminal.is_terminal:
        return terminal
    return Console(highlight=False, markup=False, width=PIPED_WIDTH, no_color=True)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_short = column in right or column in ("group", "first", "last", "died", "gen")
        justify = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=is_short, overflow="fold")  # type: ignore[arg-type]
    return made


def moment(unix_ms: float) -> str:
    """Return a time as a person here says it: `today 08:02`, `14 Nov 11:20`."""
    then = datetime.datetime.fromtimestamp(unix_ms / 1000).astimezone()
    now = datetime.datetime.now().astimezone()
    if then.date() == now.date():
        return f"today {then:%H:%M}"
    return f"{then.day} {then:%b %H:%M}" if then.year == now.year else f"{then:%Y-%m-%d}"


def place_of(kind: Kind) -> str:
    """Return where in the rules, or with which code of Gigya's, the letters of a group died."""
    rule = f"rule {kind.rule}" + (f", {kind.parameter}" if kind.parameter else "") if kind.rule else ""
    return "; ".join(filter(None, (str(kind.code) if kind.code is not None else "", rule)))


def meaning_of(kind: Kind) -> tuple[str, str]:
    """Return what a reason means, and what can be done: of its code where it has one."""
    entries = find(str(kind.code)) if kind.code is not None else []
    entries = [entry for entry in entries if entry.reason == kind.reason] or find(kind.reason)
    return (entries[0].meaning, entries[0].remedy) if entries else ("", "")


# --- groups -----------------------------------------------------------------------------------------------------------


def show_groups(groups: Sequence[Group], output: Output) -> None:
    from worker.reprocess.documents import of_group

    documents = [
        of_group(group, meaning=meaning, remedy=remedy)
        for group in groups
        for meaning, remedy in [meaning_of(group.kind)]
    ]
    match output:
        case Output.JSON:
            print(as_text({"records": sum(group.records for group in groups), "groups": documents}, is_indented=True))
        case Output.JSONL:
            for document in documents:
                print(as_text(document))
        case Output.TABLE:
            _groups_table(groups)


def _groups_table(groups: Sequence[Group]) -> None:
    from worker.reprocess.choosing import group_digits

    if not groups:
        print("No dead letters.")
        return
    digits = group_digits(groups)
    shown = table("group", "records", "users", "first", "last", "reason", "where", "what, and what to do",
                  right=("records", "users"))  # fmt: skip
    for group in groups:
        kind = group.kind
        text = printable(kind.text)
        shown.add_row(
            kind.fingerprint[:digits],
            f"{group.records:,}",
            f"{group.users:,}",
            moment(group.first_ms),
            moment(group.last_ms),
            kind.reason,
            printable(place_of(kind)),
            f"{text}{'' if text.endswith('.') or not text else '.'} {meaning_of(kind)[1]} E.g. {group.example}".strip(),
        )
    console().print(shown)
    total = sum(group.records for group in groups)
    name = groups[0].kind.fingerprint[:digits]
    print(f"{counted(len(groups), 'group')}, {counted(total, 'dead letter')}. {COMMAND} replay --group {name}")


# --- letters ----------------------------------------------------------------------------------------------------------


def show_list(letters: Sequence[DeadLetter], total: int, output: Output) -> None:
    from worker.reprocess.documents import of_letter

    match output:
        case Output.JSON:
            print(as_text({"total": total, "letters": [of_letter(letter) for letter in letters]}, is_indented=True))
        case Output.JSONL:
            for letter in letters:
                print(as_text(of_letter(letter)))
        case Output.TABLE:
            _list_table(letters, total)


def _list_table(letters: Sequence[DeadLetter], total: int) -> None:
    if not letters:
        print("No dead letters.")
        return
    shown = table("record", "group", "died", "gen", "reason", "where", "calls", "what", right=("gen",))
    for letter in letters:
        where = "; ".join(
            filter(None, (str(letter.code) if letter.code is not None else "", letter.rule and f"rule {letter.rule}"))
        )
        shown.add_row(
            printable(letter.key.decode("utf-8", "replace")),
            letter.fingerprint[:8],
            moment(letter.last_s * 1000),
            str(letter.generation),
            letter.reason,
            printable(where),
            _calls_in_short(letter),
            printable(letter.text),
        )
    console().print(shown)
    more = f" of {total:,}; the newest first, --limit 0 shows all" if total > len(letters) else ""
    print(f"{counted(len(letters), 'dead letter')}{more}. {COMMAND} show PLACE")


def _calls_in_short(letter: DeadLetter) -> str:
    if not letter.calls:
        return "none"
    ends = Counter(end.outcome.kind.value for end in letter.calls)
    maybe = sum(end.outcome.maybe_executed for end in letter.calls)
    words = [f"{count:,} {kind}" for kind, count in ends.most_common()]
    return ", ".join(words + ([f"{maybe:,} maybe executed"] if maybe else []))


def show_whole(found: Sequence[tuple[DeadLetter, Sequence[Event]]], output: Output, *, reveal: bool) -> None:
    from worker.reprocess.documents import of_whole_letter

    documents = [of_whole_letter(letter, events, reveal=reveal) for letter, events in found]
    match output:
        case Output.JSON:
            print(as_text({"letters": documents}, is_indented=True))
        case Output.JSONL:
            for document in documents:
                print(as_text(document))
        case Output.TABLE:
            for (letter, _), document in zip(found, documents, strict=True):
                _show_letter(letter, document)
            if not documents:
                print("No dead letters.")
            elif not reveal:
                print("What is personal is masked; --reveal shows it.")


def _show_letter(letter: DeadLetter, document: dict[str, Json]) -> None:
    place = printable(letter.key.decode("utf-8", "replace"))
    died = f"died {moment(letter.last_s * 1000)}, group {letter.fingerprint[:8]}, generation {letter.generation}"
    console().print(f"{place}  {letter.reason}  ({died})", style="bold", soft_wrap=True)
    rule = ", ".join(filter(None, (letter.rule and f"rule {letter.rule}", letter.parameter)))
    lines = [
        ("what", ": ".join(filter(None, (rule, letter.text)))),
        ("code", "" if letter.code is None else str(letter.code)),
        ("site", letter.site),
        ("rules", letter.rules_digest[:12]),
        ("run", letter.run),
        ("key", str(document["key"])),
    ]
    if letter.reference is not None:
        lines.append(("reference", f"{letter.reference.value_bytes:,} bytes stand in the source topic only"))
    for name, text in lines:
        if text:
            print(f"  {name:<10} {printable(text)}")
    for end in letter.calls:
        outcome = end.outcome
        code = f" {outcome.code}" if outcome.code is not None else ""
        maybe = ", maybe executed" if outcome.maybe_executed else ""
        attempts = f", {counted(outcome.attempts, 'attempt')}" if outcome.attempts else ""
        ended = f"{outcome.kind.value}: {outcome.reason}{code}{attempts}{maybe}"
        print(f"  {'call':<10} {printable(str(end.name))}  {ended}")
    headers = document["headers"]
    assert isinstance(headers, list)  # noqa: S101  # of_whole_letter has made it
    for header in headers:
        print(f"  {'header':<10} {printable(as_text(header))}")
    print(f"  {'event':<10} {printable(as_text({'': document['event']})[4:-1])}\n")


# --- a replay ---------------------------------------------------------------------------------------------------------


def show_plan(plan: Tally, errand: Errand, output: Output, stream: TextIO) -> None:
    """Print what a replay would do; for programs on standard output only, and only where that is the answer."""
    if output is Output.TABLE:
        for line in _plan_lines(plan, errand):
            print(line, file=stream)
    elif stream is sys.stdout:
        print(as_text(plan_document(plan), is_indented=output is Output.JSON))


def plan_document(plan: Tally) -> dict[str, Json]:
    return {
        "letters": plan.letters,
        "fates": {fate.value: count for fate, count in plan.fates.items()},
        "calls": [{"site": site, "what": what, "count": count} for (site, what), count in plan.calls.most_common()],
        "users": len(plan.users),
        "calls_not_made": dict(plan.not_made),
        "still_fail": [
            {"reason": reason, "where": where, "text": text, "letters": count}
            for (reason, where, text), count in plan.failures.most_common()
        ],
        "left_out": {why.value: count for why, count in plan.left_out.items()},
        "examples": {reason: list(places) for reason, places in plan.examples.items()},
        "begun_before": plan.suspects,
    }


def _plan_lines(plan: Tally, errand: Errand) -> Iterator[str]:
    from worker.reprocess.plan import Fate, seconds_at

    if not plan.letters:
        yield "No such dead letters."
        return
    made = ", ".join(f"{printable(what)} {count:,}" for (_, what), count in plan.calls.most_common(5))
    fates = plan.fates
    yield (
        f"{counted_many(plan.letters, 'record')} -> {counted_many(plan.calls_to_make, 'call')} to make"
        + (f" ({made})" if made else "")
        + (f", {fates[Fate.FAILS]:,} still fail" if fates[Fate.FAILS] else "")
        + (f", {fates[Fate.RESOLVED]:,} with nothing left to make" if fates[Fate.RESOLVED] else "")
        + (f", {fates[Fate.LEFT_OUT]:,} left out" if fates[Fate.LEFT_OUT] else "")
    )
    for (reason, where, text), count in plan.failures.most_common(5):
        yield f"  still fails  {count:>9,}  {reason}: {printable('; '.join(filter(None, (where, text))))}"
    for why, count in plan.left_out.most_common():
        yield f"  left out     {count:>9,}  {why.value}: {', '.join(map(printable, plan.examples[why.value]))}"
    if plan.not_made["maybe_executed"] and plan.left_out.total() == 0:
        yield f"  maybe executed, not made again: {', '.join(map(printable, plan.examples['maybe_executed']))}"
    if plan.not_made["delivered"]:
        delivered = counted_many(plan.not_made["delivered"], "call")
        yield f"  {delivered} of these records were delivered and are not made again"
    if plan.suspects:
        yield f"  {counted_many(plan.suspects, 'record')} an interrupted replay had begun with: asked about first"
    if plan.first:
        place, call = plan.first[0]
        action = printable(call.params.get("action", ""))
        yield f"  first: {call.method.rule_key} {action}, rule {call.name.rule}, from {printable(place)}"
        seconds = seconds_at(plan, dict(errand.rates_per_s))
        rates = ", ".join(f"{name} {rate:g}/s" for name, rate in errand.rates_per_s.items() if rate is not None)
        users = counted_many(len(plan.users), "user")
        took = f", about {_duration(seconds)}" if seconds is not None else ""
        yield f"  {users}; at {rates} beside live traffic{took}"


def _duration(seconds: float) -> str:
    from worker.cli.backfill_output import duration

    return duration(seconds)


def counted_many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show_report(report: Report, output: Output) -> None:
    """Print what a replay has done."""
    result = report.result
    ended = report.ended.value if report.ended is not None else "cancelled"
    if output is not Output.TABLE:
        document: dict[str, Json] = {
            "ended": ended,
            "resolved": result.resolved,
            "died_again": result.died_again,
            "left": result.left,
            "calls": [
                {"outcome": outcome, "reason": reason, "count": count}
                for (outcome, reason), count in result.outcomes.most_common()
            ],
            "maybe_executed": list(result.maybe_executed),
            "plan": plan_document(report.plan),
        }
        print(as_text(document, is_indented=output is Output.JSON))
        return
    words = [f"{result.resolved:,} resolved"]
    words += [f"{result.died_again:,} died again"] if result.died_again else []
    words += [f"{result.left:,} left as they were"] if result.left else []
    head = {"done": "Done", "failing": "Ended: too many in a row died again"}.get(ended, f"Ended: {ended}")
    print(f"{head}. {', '.join(words)}.")
    for (outcome, reason), count in result.outcomes.most_common():
        print(f"  {count:>9,} calls {outcome}  {reason}")
    if result.maybe_executed:
        print(f"  maybe executed: {', '.join(map(printable, result.maybe_executed[:20]))}")
    if result.died_again:
        print(f"  {COMMAND} groups")


def printable(text: str) -> str:
    """Keep what comes from elsewhere from moving the cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
