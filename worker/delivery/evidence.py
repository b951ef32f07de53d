"""Was this call executed? What the user's action log proves, and what it cannot. Pure.

An entry does not say which request it comes from, and a user may repeat one action within seconds. So the entries are
weighed against *everything* that can have written them: this worker's other calls of the same action, of which each
is known to have been executed (it must have an entry) or may have been. Two stories are told, one in which the call was
executed and one in which it was not; where only one of them fits the entries, that one is true.

All times are Unix seconds by the site's clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# How far an entry's time may be from what we believe: whole seconds in the log and in the Date header that our idea of
# the site's clock comes from, the way there and back, and clocks of a site's machines that differ.
SLACK_S = 3.0


class LogSays(StrEnum):
    THERE = "there"  # executed
    ABSENT = "absent"  # not executed, as far as the log shows by now
    UNDECIDED = "undecided"  # the entries fit both stories, or neither


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was executed, or may have been, at some time between `from_s` and `until_s`.

    `is_many`: nobody knows how often. Entries of that time can come from it, then, however many they are.
    """

    from_s: float
    until_s: float
    is_certain: bool = True
    is_many: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one call.

    `attempts` of it may have been executed, None: nobody knows how many. `others` are this worker's other calls that
    the same entries could come from. All of them are known that were executed from `known_from_s` on; who else
    wrote before that is open. `is_shared`: others than this worker write such entries, too, at any time.
    """

    from_s: float
    until_s: float
    attempts: int | None
    others: Sequence[Made] = ()
    known_from_s: float = -math.inf
    is_shared: bool = False


def weigh(question: Question, entries: Sequence[float], *, seen_from_s: float, settled_s: float) -> LogSays:
    """Weigh the entries of the call's action, ascending.

    The log was asked for everything from `seen_from_s` on. What was executed up to `settled_s` has an entry by now.
    """
    ours = (question.from_s - SLACK_S, question.until_s + SLACK_S)
    # What others write needs no explanation of ours, nor what came before all is known, nor what cannot be this call's.
    known_from_s = math.inf if question.is_shared else max(question.known_from_s + SLACK_S, ours[0])
    unexplained = [each for each in entries if known_from_s <= each <= ours[1]]
    others = [(made.from_s - SLACK_S, made.until_s + SLACK_S) for made in question.others]
    many = [span for made, span in zip(question.others, others, strict=True) if made.is_many]
    unexplained = [each for each in unexplained if not any(begin <= each <= end for begin, end in many)]
    shown = [
        span
        for made, span in zip(question.others, others, strict=True)
        if made.is_certain and span[0] >= seen_from_s and made.until_s <= settled_s
    ]
    copies = len(entries) if question.attempts is None else question.attempts
    not_executed = _each_comes_from(unexplained, others) and _each_has(shown, entries)
    executed = _each_comes_from(unexplained, [*others, *[ours] * copies]) and _each_has([*shown, ours], entries)
    if executed and not not_executed:
        return LogSays.THERE
    return LogSays.ABSENT if not_executed and not executed else LogSays.UNDECIDED


Span = tuple[float, float]


def _each_comes_from(entries: Sequence[float], spans: Sequence[Span]) -> bool:
    """Say whether every entry can have come from a span of its own."""
    return _match(entries, spans, all_entries=True)


def _each_has(spans: Sequence[Span], entries: Sequence[float]) -> bool:
    """Say whether every span can have an entry of its own.

    Together with `_each_comes_from` that is all there is to ask: where each side can be served alone, one matching
    serves both (Mendelsohn and Dulmage, 1958).
    """
    return _match(entries, spans, all_entries=False)


def _match(entries: Sequence[float], spans: Sequence[Span], *, all_entries: bool) -> bool:
    """Give each entry, in order of time, to the open span that closes first: no matching is larger (Glover, 1967)."""
    coming = sorted(spans, reverse=True)
    closing: list[float] = []
    for entry in entries:
        while coming and coming[-1][0] <= entry:
            heapq.heappush(closing, coming.pop()[1])
        while closing and closing[0] < entry:
            if not all_entries:
                return False  # closed without an entry
            heapq.heappop(closing)
        if closing:
            heapq.heappop(closing)
        elif all_entries:
            return False
    return all_entries or not (coming or closing)
