"""What earlier owners have left of a partition: what is done above the offset, what is suspect, what may have a letter.

Pure. An earlier owner is another process, or this one under an earlier assignment. No call at or above his horizon was
attempted, and no letter written of a record that his commit does not name. Where nothing is known, all that he can have
reached is suspect: he reads no further than `max_ahead` above the committed offset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from worker.kafka.membership import Found, untouched
from worker.kafka.progress import Bounds, Mark, Started, Unusable, decode_progress
from worker.model import CallName, Outcome, OutcomeKind

# How a call ended before a restart, of which only the kind is known. The labels are those that such ends have.
_OUTCOMES: Mapping[Mark, Outcome] = {
    Mark.DELIVERED: Outcome(OutcomeKind.DELIVERED, "ok", text="delivered before a restart"),
    Mark.CAPPED: Outcome(OutcomeKind.CAPPED, "limit_reached", text="capped before a restart"),
    Mark.STALE: Outcome(OutcomeKind.STALE, "stale", text="stale before a restart"),
}

_LEFT_OUT = Outcome(OutcomeKind.DELIVERED, "ok", text="done by the live group")


class Done:
    """Offsets that need no more work, in ascending runs."""

    __slots__ = ("_starts", "_stops", "runs")

    def __init__(self, runs: Sequence[range] = ()) -> None:
        self.runs = tuple(runs)
        self._starts = [run.start for run in self.runs]
        self._stops = [run.stop for run in self.runs]

    def __contains__(self, offset: int) -> bool:
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._stops[index]

    @property
    def end(self) -> int:
        """Return one above the last offset; 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    def runs_from(self, offset: int) -> list[range]:
        """Return the runs at and above `offset`, the first one cut off there."""
        index = bisect_right(self._stops, offset)
        return [range(max(run.start, offset), run.stop) for run in self.runs[index:]]


@dataclass(frozen=True, slots=True)
class CallBefore:
    """What is known of one call from before: how it ended, or whether it may have been made."""

    outcome: Outcome | None = None
    suspect: bool = False


_NOT_MADE = CallBefore()
_SUSPECT = CallBefore(suspect=True)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of a partition at the start of an assignment. The default: nobody has worked on it."""

    horizon: int = 0  # no call at or above it was attempted, and the group's commit says so
    suspect_below: int = 0  # unfinished calls of records below may have been made
    letters_below: int = 0  # of any record below a dead letter may have been written, though none is named
    done: Done = field(default_factory=Done)
    started: Mapping[int, Started] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)  # site -> what its sender left behind
    is_first: bool = False  # nobody of the group has owned the partition before
    bounds: Bounds | None = None  # of a backfill: every commit hands them on
    left_out: Done = field(default_factory=Done)  # of a backfill: another group has done these records
    left_out_calls: Mapping[int, frozenset[CallName]] = field(default_factory=dict)  # ... and these calls of others
    ignored: str = ""  # why the commit's metadata was not used, though there was some, or should have been

    def may_have_letter(self, offset: int) -> bool:
        """Return whether a dead letter of this record may have been written before."""
        if offset < self.letters_below:
            return True
        started = self.started.get(offset)
        return started is not None and started.has_letter

    def knows_ends(self, rules: str) -> bool:
        """Return whether it is known which calls of unfinished records had ended, if these rules map them."""
        return not self.ignored and all(each.rules == rules for each in self.started.values() if each.calls)

    def suspects_end(self, rules: str) -> int:
        """Return above which offset there are no suspects, if these rules map the records."""
        named = (
            offset + 1
            for offset, each in self.started.items()
            if Mark.SUSPECT in each.calls or (each.calls and each.rules != rules)
        )
        return max(self.suspect_below, *named, 0)

    def calls(self, offset: int, rules: str, count: int) -> Sequence[CallBefore]:
        """Return what is known of each of the `count` calls that these rules make of a record."""
        started = self.started.get(offset)
        is_below = offset < self.suspect_below
        if started is None or not started.calls:
            return [_SUSPECT if is_below else _NOT_MADE] * count
        if started.rules != rules or len(started.calls) != count:
            # Other rules made those calls: which of today's is which of them cannot be told.
            return [_SUSPECT] * count
        return [_before(mark, is_below) for mark in started.calls]


def left_out(call: CallName, names: Collection[CallName], known: CallBefore) -> CallBefore:
    """Return what is known of a call of which another group may have told the end."""
    return CallBefore(_LEFT_OUT) if call in names and known.outcome is None else known


def _before(mark: Mark, is_below: bool) -> CallBefore:
    outcome = _OUTCOMES.get(mark)
    if outcome is not None:
        return CallBefore(outcome)
    return _SUSPECT if is_below or mark is Mark.SUSPECT else _NOT_MADE


def earlier_of(found: Found, *, max_ahead: int) -> Earlier:
    """Return what a partition's commit tells, as it was found at the assignment.

    What lies above the partition's end of then came later: no earlier owner can have read it.
    """
    committed, end, left_out = found
    if committed is None:
        return Earlier(is_first=True)  # without a commit nothing was attempted
    try:
        progress = decode_progress(committed.metadata, committed.offset)
    except Unusable as error:
        below = min(committed.offset + max_ahead, end)
        return Earlier(committed.offset, suspect_below=below, letters_below=below, ignored=str(error))
    return Earlier(
        progress.horizon,
        suspect_below=min(progress.horizon, end),
        letters_below=progress.letters_below,
        is_first=committed == untouched(committed.offset, progress.bounds),
        bounds=progress.bounds,
        left_out=Done(left_out.runs),
        left_out_calls=left_out.calls,
        done=Done(progress.done),
        started=progress.started,
        left=progress.left,
    )
