"""How `try` looks to people: the answer, then the evidence; no colour when piped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from worker.cli.problems import counted

if TYPE_CHECKING:
    from worker.gigya.calls import Call
    from worker.inspect.coverage import Coverage
    from worker.inspect.difference import CallChange, RecordChange, Totals
    from worker.inspect.preview import RuleSaid, Tried, TriedEvent
    from worker.inspect.request import Signatory

_GREEN, _YELLOW, _RED, _DIM, _BOLD = "32", "33", "31", "2", "1"
_SHOWN_CHARS = 200
TOP_TYPES = 10


class Ink:
    """Colours, on a terminal that wants them."""

    def __init__(self) -> None:
        self._is_on = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_on else text


def printable(text: str, limit: int = 0) -> str:
    """Keep what is in events from moving the cursor, and where `limit` says so from filling the screen."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return f"{clean[:limit]}..." if limit and len(clean) > limit else clean


# --- previews -------------------------------------------------------------------------------------------------------


class Preview:
    """Prints records as the calls they would become, and what they come to."""

    def __init__(self, *, now_s: float, signatories: Mapping[str, Signatory] | None) -> None:
        """With `signatories` each call is shown as the request it would be, too."""
        self._ink = Ink()
        self._now_s = now_s
        self._signatories = signatories
        self.records = 0
        self.fates: dict[str, int] = {}
        self.calls = 0
        self._users: set[tuple[str, str]] = set()

    def count(self, tried: Tried) -> None:
        self.records += 1
        self.fates[tried.fate.value] = self.fates.get(tried.fate.value, 0) + 1
        self.calls += len(tried.calls)
        self._users |= {(call.site, call.uid) for call in tried.calls}

    def show(self, tried: Tried) -> None:
        for line in self._lines(tried):
            print(line)

    def summary(self) -> str:
        """Return one line of totals."""
        filtered, dead = self.fates.get("filtered", 0), self.fates.get("dead_letter", 0)
        users = f" of {counted(len(self._users), 'user')}" if self.calls else ""
        return (
            f"{counted(self.records, 'record')}: {counted(self.calls, 'call')}{users}, {filtered} filtered,"
            f" {counted(dead, 'dead letter')}. Nothing was sent."
        )

    def _lines(self, tried: Tried) -> Iterable[str]:
        ink, kinds = self._ink, ", ".join(dict.fromkeys(_kind(event) for event in tried.events))
        head = f"{tried.where}  {printable(kinds, _SHOWN_CHARS)}".rstrip()
        if tried.fate.value == "calls":
            yield ink(_BOLD, head)
        else:
            is_dead = tried.fate.value == "dead_letter"
            fate = ink(_RED, "dead letter") if is_dead else ink(_DIM, "filtered")
            is_told_below = any(event.rules for event in tried.events)
            why = "" if is_told_below else f": {printable(tried.text, 2 * _SHOWN_CHARS)}"
            yield f"{ink(_BOLD, head)}  {fate}, {tried.reason}{why}"
        for event in tried.events:
            yield from self._event_lines(event, numbered=len(tried.events) > 1)

    def _event_lines(self, event: TriedEvent, *, numbered: bool) -> Iterable[str]:
        if numbered:
            text = "" if event.rules else f": {printable(event.text, _SHOWN_CHARS)}"
            why = f"  {event.filtered}{text}" if event.filtered else ""
            yield f"  event {event.number}  {printable(_kind(event), _SHOWN_CHARS)}{why}"
        for call in event.calls:
            yield from self._call_lines(call)
        for said in event.rules:
            if said.end.value != "fired" or not event.calls:
                yield f"  {self._said(said)}"

    def _said(self, said: RuleSaid) -> str:
        if said.end.value == "fired":
            return f"{said.rule}: would make its call, if the record were not a dead letter"
        word = self._ink(_RED, "fails") if said.end.value == "failed" else "no call"
        return f"{said.rule}: {word}, {printable(str(said), 2 * _SHOWN_CHARS)}"

    def _call_lines(self, call: Call) -> Iterable[str]:
        ink = self._ink
        item = f" (element {call.name.item})" if call.name.item else ""
        is_stale = call.stale_at_s is not None and self._now_s > call.stale_at_s
        stale = f"  {ink(_YELLOW, 'stale: older than max_age by now')}" if is_stale else ""
        yield (
            f"  {call.name.rule}{item} {ink(_GREEN, '->')} {ink(_GREEN, call.method.rule_key)}"
            f"  site {call.site}  UID {printable(call.uid)}{stale}"
        )
        shown = {name: value for name, value in call.params.items() if name != "UID"}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            yield f"      {name:<{width}}  {printable(value)}"
        if self._signatories is not None:
            from worker.inspect.request import masked_request

            request = masked_request(call, self._signatories[call.site], now_s=self._now_s)
            yield f"      {ink(_DIM, f'{request.verb} {request.url}')}"
            if request.authorization:
                yield f"      {ink(_DIM, f'Authorization: {request.authorization}')}"
            yield f"      {ink(_DIM, request.body)}"


def _kind(event: TriedEvent) -> str:
    return event.type if event.type is not None else "(no type)"


# --- coverage -------------------------------------------------------------------------------------------------------


def show_coverage(coverage: Coverage) -> None:
    """Print the counts over a sample."""
    total = sum(coverage.records.values())
    print(
        f"{counted(total, 'record')}, {counted(coverage.events, 'event')}: {counted(coverage.calls, 'call')} of"
        f" {counted(coverage.users, 'user')}. Nothing was sent."
    )
    for title, counts in (("filtered", coverage.filtered), ("dead letters", coverage.dead)):
        reasons = " · ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
        share = f"{sum(counts.values()) / total:7.1%}" if total else ""
        print(f"  {title:<13}{sum(counts.values()):>9,} {share}  {reasons}".rstrip())
    print()
    _show_rules(coverage)
    _show_failures(coverage)
    _show_unknown(coverage)
    _show_users(coverage)


def _show_rules(coverage: Coverage) -> None:
    head = ("rule", "asked", "fired", "calls", "when false", "empty list", "failed", "lost", "stale")
    rows = [
        (name, *(f"{n:,}" for n in (
            count.seen, count.fired, count.calls, count.when_false, count.no_item, count.failed, count.lost, count.stale
        )))
        for name, count in coverage.rules.items()
    ]  # fmt: skip
    _columns(head, rows)
    if any(count.lost for count in coverage.rules.values()):
        print("  lost: it fired, and another rule's failure makes the record a dead letter: no call of it is made")
    if any(count.stale for count in coverage.rules.values()):
        print("  stale: calls that are older than max_age by now, and would not be made now")
    for name, count in coverage.rules.items():
        if not count.seen:
            print(f"  {name}: no event of this sample has a type and topic that it names")
    if coverage.switched_off:
        print(f"  switched off: {', '.join(coverage.switched_off)}")


def _show_failures(coverage: Coverage) -> None:
    rows = [
        (f"{events:,}", name, failure.reason, failure.parameter, printable(failure.text, _SHOWN_CHARS), where)
        for name, count in coverage.rules.items()
        for failure, (events, where) in sorted(count.failures.items(), key=lambda item: -item[1][0])
    ]
    if rows:
        print()
        _columns(("events", "rule", "reason", "parameter", "what is wrong", "first seen"), rows)
    if coverage.undecodable:
        print()
        reasons = " · ".join(f"{reason} {count:,}" for reason, count in coverage.undecodable.most_common())
        print(f"no events at all in {sum(coverage.undecodable.values()):,} records: {reasons}")


def _show_unknown(coverage: Coverage) -> None:
    if not coverage.unknown_types:
        return
    print()
    events = sum(coverage.unknown_types.values())
    print(f"types that no rule knows: {len(coverage.unknown_types):,}, with {counted(events, 'event')}")
    for kind, count in coverage.unknown_types.most_common(TOP_TYPES):
        print(f"  {count:>9,}  {printable(kind, _SHOWN_CHARS)}")
    if (more := len(coverage.unknown_types) - TOP_TYPES) > 0:
        print(f"  and {more:,} more")


def _show_users(coverage: Coverage) -> None:
    if not coverage.calls:
        return
    print()
    busiest = " · ".join(f"{printable(uid, 60)} {calls:,}" for uid, calls in coverage.busiest())
    print(f"busiest users (UID, calls): {busiest}")
    if coverage.is_spread_known:
        count, uids = coverage.in_several_partitions()
        example = f", for example {', '.join(printable(uid, 60) for uid in uids)}" if uids else ""
        print(f"UIDs in several partitions: {count:,}{example}" + ("; their order is not defined" if count else ""))
    else:
        print("UIDs in several partitions: not known, as these lines do not say their partition (--last and --kcat do)")
    rows = [
        (
            action,
            f"{one.calls:,}",
            "-" if one.cap is None else f"{one.cap} in 24 h",
            f"{one.over_cap:,}",
            f"{len(one.users_over_cap):,}",
        )
        for action, one in sorted(coverage.actions.items(), key=lambda item: -item[1].calls)
    ]
    print()
    _columns(("action", "calls", "cap", "over it", "users"), rows)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head; numbers stand to the right."""
    ink = Ink()
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    numbers = [all(row[at].replace(",", "").isdecimal() for row in rows) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:>{width}}" if is_number else f"{cell:<{width}}"
            for cell, width, is_number in zip(cells, widths, numbers, strict=True)
        )
        return f"  {'  '.join(padded)}".rstrip()

    print(ink(_BOLD, line(head)))
    for row in rows:
        print(line(row))


# --- difference -----------------------------------------------------------------------------------------------------


def show_difference(totals: Totals, changes: Sequence[RecordChange]) -> None:
    """Print what changes: all of it in a few lines, then call by call."""
    ink = Ink()
    for line in _totals(totals):
        print(line)
    for change in changes:
        kinds = ", ".join(dict.fromkeys(_kind(event) for event in (*change.before.events, *change.after.events)))
        print(f"\n{ink(_BOLD, f'{change.before.where}  {printable(kinds, _SHOWN_CHARS)}')}")
        if change.ends_otherwise:
            print(f"  {_end(change.before)} => {_end(change.after)}")
        for each in change.calls:
            _show_call_change(each, ink)
        if change.is_reordered:
            print("  the same calls of a user, in another order")


def _totals(totals: Totals) -> Iterable[str]:
    if not totals.records_changed:
        yield (
            f"No difference: {counted(totals.records, 'record')}, {counted(totals.calls_after, 'call')}"
            " under both. Nothing was sent."
        )
        return
    calls = ", ".join(f"{totals.calls[kind]:,} {kind.value}" for kind in sorted(totals.calls)) or "none"
    yield (
        f"{totals.records_changed:,} of {counted(totals.records, 'record')} change; calls: {calls}"
        f" ({totals.calls_before:,} before, {totals.calls_after:,} after). Nothing was sent."
    )
    for rule, kinds in totals.by_rule.items():
        yield f"  {rule}: {', '.join(f'{count:,} {kind.value}' for kind, count in kinds.items())}"
    if totals.fields:
        yield f"  fields: {' · '.join(f'{name} {count:,}' for name, count in totals.fields.most_common())}"
    for (before, after), count in totals.ends.most_common():
        yield f"  {count:,} end otherwise: {before} => {after}"
    if totals.reordered:
        yield f"  {totals.reordered:,} with a user's calls in another order"


def _end(tried: Tried) -> str:
    why = f" ({tried.reason}: {printable(tried.text, _SHOWN_CHARS)})" if tried.reason else ""
    return f"{tried.fate.value}{why}"


def _show_call_change(change: CallChange, ink: Ink) -> None:
    call = change.call
    sign, colour = {"added": ("+", _GREEN), "removed": ("-", _RED), "changed": ("~", _YELLOW)}[change.kind.value]
    item = f" (element {call.name.item})" if call.name.item else ""
    print(ink(colour, f"  {sign} {call.name.rule}{item}  {call.method.rule_key}  UID {printable(call.uid)}"))
    if change.fields:
        for one in change.fields:
            before, after = (printable(value) if value is not None else "(none)" for value in (one.before, one.after))
            print(f"      {one.name}: {before} => {after}")
    else:
        shown = {name: value for name, value in call.params.items() if name != "UID"}
        for name, value in shown.items():
            print(f"      {name}: {printable(value)}")
