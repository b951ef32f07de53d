"""Did the demo's events come to what they should have? Pure: the script says what should be, the evidence what is.

Expectations come from the generator of the events, findings from the local Gigya and the broker; what the worker says
of itself is not among them, but for its exit code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from worker.sandbox.demo_evidence import Appended, Evidence, Letter, Names
from worker.sandbox.events import NOTIFY_ACTION, PUBLISH_USER_ACTION, DemoScript, ExpectedCall, Fate, seen_call
from worker.sandbox.gigya_ledger import Arrival, Executed

DELIVERED, CAPPED, DEAD_LETTER, FILTERED, UNFINISHED = "delivered", "capped", "dead letter", "filtered", "unfinished"
LIMIT_REACHED, THROTTLED = 400124, 403048
_OUTCOME = {
    Fate.DELIVERED: DELIVERED,
    Fate.CAPPED: CAPPED,
    Fate.FILTERED: FILTERED,
    Fate.DEAD_LETTER: DEAD_LETTER,
}
# Reasons of dead letters that the README lists under "not an event".
_NOT_AN_EVENT = frozenset(
    {"empty_value", "invalid_utf8", "invalid_json", "truncated_json", "trailing_data", "not_an_object", "too_deep"}
)
_FIELDS = ("method", "uid", "action", "attributes", "points", "event_id", "seq", "title")


@dataclass(frozen=True, slots=True)
class Row:
    """One event, for the table."""

    place: str  # partition/offset
    event: str
    call: str
    outcome: str
    why: str
    differences: tuple[str, ...]  # empty: it came to what it should have


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo came to."""

    rows: tuple[Row, ...]  # in order of partition and offset
    ledger: Mapping[str, int]  # read, filtered, done, stale, dead_lettered, unfinished
    others: tuple[str, ...]  # differences that are no single event's
    requests: int  # that arrived at the local Gigya

    @property
    def differences(self) -> tuple[str, ...]:
        """Return every difference as a line; empty: all is as it should be."""
        return (*self.others, *(f"{row.place}  {text}" for row in self.rows for text in row.differences))

    @property
    def is_balanced(self) -> bool:
        return self.ledger["read"] == sum(count for name, count in self.ledger.items() if name != "read")

    @property
    def outcomes(self) -> Counter[str]:
        """Return how many events came to which outcome, in the order of the table."""
        return Counter(row.outcome for row in self.rows)


@dataclass(slots=True)
class _Found:
    """What was found of one event."""

    executed: list[Executed] = field(default_factory=list)
    refused: list[Arrival] = field(default_factory=list)  # 400124
    letter: Letter | None = None
    is_committed: bool = False

    @property
    def outcome(self) -> str:
        ends = [DELIVERED] * len(self.executed) + [CAPPED] * len(self.refused) + [DEAD_LETTER] * bool(self.letter)
        return " + ".join(ends) if ends else FILTERED if self.is_committed else UNFINISHED


def settled(names: Names, appended: Sequence[Appended], evidence: Evidence) -> int:
    """Return how many events have come to an end so far."""
    found, _ = _find(names, appended, evidence)
    return sum(one.outcome != UNFINISHED for one in found.values())


def throttling(evidence: Evidence) -> str:
    """Return `throttled once, held 0.4 s`; empty if nothing was throttled, or nothing was sent again yet."""
    held_s = [pause_s for arrival in evidence.arrivals if (pause_s := _held_s(arrival, evidence)) is not None]
    times = {0: "", 1: "once"}.get(len(held_s), f"{len(held_s)} times")
    return f"throttled {times}, held {sum(held_s):.1f} s" if times else ""


def judge(
    script: DemoScript, names: Names, appended: Sequence[Appended], evidence: Evidence, exit_code: int | None
) -> Report:
    """Compare everything. `exit_code` is the worker's; None: it had to be killed."""
    found, others = _find(names, appended, evidence)
    if exit_code != 0:
        others.insert(
            0, "the worker did not end in time" if exit_code is None else f"the worker exited with {exit_code}"
        )
    in_order = sorted(appended, key=lambda one: (one.partition, one.offset))
    rows = tuple(_row(script, one, found[one.place], evidence) for one in in_order)
    ledger = _ledger(found, evidence)
    others += _unordered(in_order, found)
    others += _answers(script, evidence)
    expected = script.expected_ledger()
    others += [
        f"ledger: {name.replace('_', ' ')} {ledger[name]} instead of {count}"
        for name, count in expected.items()
        if ledger[name] != count
    ]
    return Report(rows, ledger, tuple(others), len(evidence.arrivals))


# --- what belongs to which event -----------------------------------------------------------------------------------


def _find(names: Names, appended: Sequence[Appended], evidence: Evidence) -> tuple[dict[str, _Found], list[str]]:
    """Return what was found of each event by its place, and what belongs to none."""
    found = {one.place: _Found(is_committed=evidence.committed.get(one.partition, 0) > one.offset) for one in appended}
    others: list[str] = []
    by_call = {_identity(one.event.call): one.place for one in appended if one.event.call is not None}
    for entry in evidence.executed:
        call = seen_call(entry.method, entry.params)
        place = by_call.get(_identity(call))
        if place is None:
            others.append(f"executed, and no event asks for it: {entry.method} {call.action or call.title}")
        else:
            found[place].executed.append(entry)
    for letter in evidence.letters:
        place = letter.origin.removeprefix(f"{names.topic}/")
        if place in found:
            found[place].letter = letter
        else:
            others.append(f"dead letter of a record that is not of the demo: {letter.origin}")
    others += _give_refusals(appended, found, evidence)
    return found, others


def _identity(call: ExpectedCall) -> tuple[str, str, str]:
    """Return what tells calls apart: the event's id; a publish carries none, there the title must do."""
    return call.method, call.uid, call.event_id or call.title


def _give_refusals(appended: Sequence[Appended], found: Mapping[str, _Found], evidence: Evidence) -> Iterator[str]:
    """Give each refusal for a cap to its user's next event that asked for a call and has none.

    The ledger keeps no parameters of refused requests; calls of one user are made in the order of his events.
    """
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for one in sorted(appended, key=lambda one: (one.partition, one.offset)):
        if one.event.call is not None and not found[one.place].executed and not found[one.place].letter:
            waiting[one.event.uid].append(one.place)
    for arrival in evidence.arrivals:
        if arrival.code != LIMIT_REACHED:
            continue
        if waiting[arrival.uid]:
            found[waiting[arrival.uid].pop(0)].refused.append(arrival)
        else:
            yield f"{arrival.code} was answered to a call that no event asks for"


# --- one event -----------------------------------------------------------------------------------------------------


def _row(script: DemoScript, one: Appended, found: _Found, evidence: Evidence) -> Row:
    return Row(
        place=one.place,
        event=one.event.title,
        call=_call_text(found),
        outcome=found.outcome,
        why=_why(one, found, evidence),
        differences=tuple(_differences(script, one, found)),
    )


def _call_text(found: _Found) -> str:
    if found.executed:
        entry = found.executed[0]
        call = seen_call(entry.method, entry.params)
        if call.method == PUBLISH_USER_ACTION:
            return "publishUserAction"
        return call.action + (f" +{call.points}" if call.points is not None else "")
    return found.refused[0].method.split(".")[-1] if found.refused else "-"


def _why(one: Appended, found: _Found, evidence: Evidence) -> str:
    if found.letter is not None:
        blamed = f"rule {found.letter.rule}, {found.letter.parameter}" if found.letter.rule else found.letter.reason
        return f"{blamed}: {found.letter.text}"
    if found.refused:
        return f"{LIMIT_REACHED}: user's daily cap"
    if found.executed:
        return _why_delivered(found.executed[0], evidence)
    if not found.is_committed:
        return "nothing is known of it"
    if one.event.why == "when_false":
        return f"progress {orjson.loads(one.event.value)['progress']} < 0.9"
    return f"no rule for {one.event.title.split()[0]}" if one.event.why == "no_rule" else "no call, no dead letter"


def _why_delivered(entry: Executed, evidence: Evidence) -> str:
    if codes := _provider_codes(entry):
        return ", ".join(f"{provider} {code or 'ok'}" for provider, code in codes.items())
    for arrival in evidence.arrivals:
        if arrival.uid == entry.uid and (pause_s := _held_s(arrival, evidence, entry.arrival)) is not None:
            return f"after {THROTTLED}, held {pause_s:.1f} s"
    return f"callId {entry.call_id[:8]}"


def _held_s(throttled: Arrival, evidence: Evidence, until: int | None = None) -> float | None:
    """Return how long it took from a throttled request to its user's next one (which must be `until`, if given)."""
    if throttled.code != THROTTLED:
        return None
    later = (one for one in evidence.arrivals if one.number > throttled.number and one.uid == throttled.uid)
    following = next(later, None)
    if following is None or until not in (None, following.number):
        return None
    return following.at_s - throttled.at_s


def _provider_codes(entry: Executed) -> dict[str, int]:
    codes = entry.result.get("providers")
    return {name: int(str(code)) for name, code in codes.items()} if isinstance(codes, dict) else {}


def _differences(script: DemoScript, one: Appended, found: _Found) -> Iterator[str]:
    event, expected = one.event, _OUTCOME[one.event.fate]
    if found.outcome != expected:
        yield f"{event.title}: {found.outcome} instead of {expected}"
        return
    if not found.is_committed:
        yield f"{event.title}: {found.outcome}, and its offset is not committed"
    if found.letter is not None:
        yield from _letter_differences(one, found.letter)
    if event.call is not None and event.fate is Fate.DELIVERED:
        yield from _call_differences(script, event.call, found.executed[0])
    if event.call is not None and found.refused and found.refused[0].method != event.call.method:
        yield f"{event.title}: the call was {found.refused[0].method} instead of {event.call.method}"


def _letter_differences(one: Appended, letter: Letter) -> Iterator[str]:
    if (letter.value, letter.key) != (one.event.value, one.event.key):
        yield f"{one.event.title}: the dead letter does not hold the record byte for byte"
    kind = "undecodable" if letter.reason in _NOT_AN_EVENT else "unmappable" if letter.rule else letter.reason
    if kind != one.event.why:
        yield f"{one.event.title}: dead for {letter.reason} instead of as {one.event.why}"


def _call_differences(script: DemoScript, expected: ExpectedCall, entry: Executed) -> Iterator[str]:
    call = seen_call(entry.method, entry.params)
    for name in _FIELDS:
        wanted, seen = getattr(expected, name), getattr(call, name)
        if wanted != seen:
            yield f"{name} of the call is {seen!r} instead of {wanted!r}"
    if expected.method == PUBLISH_USER_ACTION:
        results = {result.provider: result.code for result in script.providers.results if result.uid == entry.uid}
        wanted = {provider: results.get(provider, 0) for provider in script.providers.connected}
        if _provider_codes(entry) != wanted:
            yield f"the providers' codes are {_provider_codes(entry)} instead of {wanted}"


# --- all of them ---------------------------------------------------------------------------------------------------


def _ledger(found: Mapping[str, _Found], evidence: Evidence) -> dict[str, int]:
    """Return the counts, each from its own source, so that they can fail to add up."""
    return {
        "read": sum(evidence.ends.values()),
        "filtered": sum(one.outcome == FILTERED for one in found.values()),
        "done": sum(bool(one.executed or one.refused) for one in found.values()),
        "stale": 0,  # none can be: every event was written seconds ago
        "dead_lettered": len(evidence.letters),
        "unfinished": sum(max(0, end - evidence.committed.get(part, 0)) for part, end in evidence.ends.items()),
    }


def _unordered(in_order: Sequence[Appended], found: Mapping[str, _Found]) -> Iterator[str]:
    """Yield where one user's calls were executed in another order than that of his events."""
    latest: dict[str, tuple[int, str]] = {}
    for one in in_order:
        for entry in found[one.place].executed[:1]:
            order, place = latest.get(one.event.uid, (0, ""))
            if entry.order < order:
                yield f"{one.place} was executed before {place} of the same user"
            latest[one.event.uid] = max((order, place), (entry.order, one.place))


def _answers(script: DemoScript, evidence: Evidence) -> Iterator[str]:
    """Yield what the local Gigya answered and should not have had to, and the throttled moment if it is missing."""
    calls = [arrival for arrival in evidence.arrivals if arrival.method in (NOTIFY_ACTION, PUBLISH_USER_ACTION)]
    codes = Counter(arrival.code for arrival in calls if arrival.code not in (0, LIMIT_REACHED, THROTTLED))
    for code, count in codes.items():
        yield f"the local Gigya answered {code if code is not None else 'nothing'}, {count} x"
    throttled = Counter(arrival.uid for arrival in calls if arrival.code == THROTTLED)
    wanted = Counter({fault.uid: fault.count for fault in script.faults if fault.code == THROTTLED})
    if throttled != wanted:
        yield f"{THROTTLED} was answered {throttled.total()} times instead of {wanted.total()}, or to another user"
