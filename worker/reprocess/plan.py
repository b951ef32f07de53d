"""What a replay does with a dead letter: which calls are made again, and why others are not. Pure.

A call is known by its name (event, rule, item). What was delivered is never made again, nor what ended as its rule
accepts (capped, stale); what may have been executed only where that is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from worker.deadletters.record import DeadLetter
from worker.delivery.reasons import SUSPECT
from worker.errors import RecordError
from worker.gigya.calls import Call
from worker.model import CallName, Outcome, OutcomeKind, Record
from worker.reprocess.index import user_number

EXAMPLES = 5
_RENAMED = "the letter has calls of rules that are not there any more: this may be one of them under another name"
_LEFT_OUT = "how this call ended did not fit into the letter"


class Fate(StrEnum):
    """What a replay does with a letter."""

    CALLS = "calls"  # makes calls
    RESOLVED = "resolved"  # there is nothing left to make
    FAILS = "still_fails"  # today's rules cannot make its calls either
    LEFT_OUT = "left_out"


class LeftOut(StrEnum):
    """Why a letter is left as it is. Each is a row of `explain`."""

    MAYBE_EXECUTED = "maybe_executed"
    GENERATION_LIMIT = "generation_limit"
    NOT_COMMITTED = "not_committed"
    REFERENCE_GONE = "reference_gone"


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all letters of a replay."""

    max_generation: int
    include_maybe_executed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with one letter. `kept` has a place for each call: how it has ended, None where it is to be made."""

    letter: DeadLetter
    fate: Fate
    left_out: LeftOut | None = None
    calls: tuple[Call, ...] = ()
    kept: tuple[Outcome | None, ...] = ()
    error: RecordError | None = None

    @property
    def to_make(self) -> list[Call]:
        return [call for call, kept in zip(self.calls, self.kept, strict=True) if kept is None]

    @property
    def held_back(self) -> list[CallName]:
        """Return the calls that may have been executed and are left out for it."""
        return [
            call.name for call, kept in zip(self.calls, self.kept, strict=True) if kept is not None and _is_open(kept)
        ]


def decide(letter: DeadLetter, calls_of: Callable[[Record], tuple[Call, ...]], terms: Terms) -> Decision:
    """Decide by the record's bytes and today's rules; `calls_of` raises RecordError for what they cannot map."""
    if letter.generation >= terms.max_generation:
        return Decision(letter, Fate.LEFT_OUT, LeftOut.GENERATION_LIMIT)
    try:
        calls = calls_of(letter.record)
    except RecordError as error:
        return Decision(letter, Fate.FAILS, error=error)
    if not calls:
        return Decision(letter, Fate.RESOLVED)
    before = {end.name: end.outcome for end in letter.calls}
    today = {call.name for call in calls}
    gone = {name.event for name, end in before.items() if _was_made(end) and name not in today}
    kept = tuple(_kept(call, before, letter.calls_left_out, gone, terms) for call in calls)
    if None in kept:
        return Decision(letter, Fate.CALLS, calls=calls, kept=kept)
    if any(outcome is not None and _is_open(outcome) for outcome in kept):
        return Decision(letter, Fate.LEFT_OUT, LeftOut.MAYBE_EXECUTED, calls, kept)
    return Decision(letter, Fate.RESOLVED, calls=calls, kept=kept)


def _kept(call: Call, before: dict[CallName, Outcome], left_out: int, gone: set[int], terms: Terms) -> Outcome | None:
    """Return the end that a call has and keeps; None: it is to be made."""
    outcome = before.get(call.name)
    if outcome is None:
        if not before or terms.include_maybe_executed or not (left_out or call.name.event in gone):
            return None  # none of the record's calls was made, or no call that was can have been this one
        text = _LEFT_OUT if left_out else _RENAMED
        return Outcome(OutcomeKind.FAILED, SUSPECT, maybe_executed=True, text=text)
    if outcome.kind is OutcomeKind.DELIVERED:
        return outcome
    if outcome.maybe_executed:
        return None if terms.include_maybe_executed else outcome
    if outcome.kind is OutcomeKind.FAILED or outcome.kind in call.dead_letter_on:
        return None
    return outcome


def _was_made(outcome: Outcome) -> bool:
    return outcome.kind is OutcomeKind.DELIVERED or outcome.maybe_executed


def _is_open(outcome: Outcome) -> bool:
    return outcome.maybe_executed and outcome.kind is not OutcomeKind.DELIVERED


@dataclass(slots=True)
class Tally:
    """What a replay would do, or has done, in all. Places are of letters."""

    fates: Counter[Fate] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # (site, what): to be made
    not_made: Counter[str] = field(default_factory=Counter)  # calls that have ended, by outcome
    failures: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (reason, where, text)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # of what fails or is left out, by reason
    suspects: int = 0  # letters that an interrupted replay has begun with
    changed: int = 0  # letters that were gone or other ones when they were looked at again
    first: list[tuple[str, Call]] = field(default_factory=list)
    users: set[int] = field(default_factory=set)

    @property
    def letters(self) -> int:
        return self.fates.total()

    @property
    def calls_to_make(self) -> int:
        return self.calls.total()

    def add(self, decision: Decision, *, is_suspect: bool = False) -> None:
        place = decision.letter.key.decode("utf-8", "replace")
        self.fates[decision.fate] += 1
        self.suspects += is_suspect and decision.fate is Fate.CALLS
        for call in decision.to_make:
            self.calls[call.site, what(call)] += 1
            self.users.add(user_number(f"{call.site}\0{call.uid}".encode("utf-8", "surrogatepass")))
            if len(self.first) < EXAMPLES:
                self.first.append((place, call))
        for kept in decision.kept:
            if kept is not None:
                self.not_made["maybe_executed" if _is_open(kept) else kept.kind.value] += 1
        if decision.error is not None:
            error = decision.error
            self.failures[error.reason, ", ".join(filter(None, (error.rule, error.parameter))), error.text] += 1
            self._example(error.reason, place)
        if decision.left_out is not None:
            self.left_out[decision.left_out] += 1
            self._example(decision.left_out.value, place)
        elif decision.held_back:
            self._example(LeftOut.MAYBE_EXECUTED.value, place)

    def _example(self, reason: str, place: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(place)


def what(call: Call) -> str:
    """Return what a call does, for people: its action, or its method."""
    return call.params.get("action") or call.method.rule_key or call.method.name


def seconds_at(tally: Tally, rates_per_s: dict[str, float | None]) -> float | None:
    """Return how long the calls take at these rates, site beside site; None where a site has no limit."""
    by_site: Counter[str] = Counter()
    for (site, _), count in tally.calls.items():
        by_site[site] += count
    slowest_s = 0.0
    for site, count in by_site.items():
        rate = rates_per_s[site]
        if rate is None:
            return None
        slowest_s = max(slowest_s, count / rate)
    return slowest_s
