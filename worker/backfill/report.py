"""What a run came to, for people and for programs. Pure.

A process counts what it did itself: what earlier starts of the same run did is known by the offsets they passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from worker.backfill.tally import Kind
from worker.model import Json, RecordEnd
from worker.pipeline.ledger import LedgerLine


class Ended(StrEnum):
    """Why a process of a run came back."""

    FINISHED = "finished"  # the whole range is done
    WAS_FINISHED = "was_finished"  # ... before this process began
    PART_DONE = "part_done"  # what this process had is done; another one of the run goes on
    NO_SHARE = "no_share"  # other processes of the run have all partitions
    STOPPED = "stopped"  # asked to, after a drain
    CANCELLED = "cancelled"  # by a second signal
    HELD = "held"  # it cannot go on: the flood guard, or records lost to retention


_WORDS = {
    Ended.FINISHED: "done: the whole range",
    Ended.WAS_FINISHED: "was finished before; nothing was sent now",
    Ended.PART_DONE: "this process has done its part; another one of the run goes on",
    Ended.NO_SHARE: "another process works on this run, and has all its partitions; this one did nothing",
    Ended.STOPPED: "stopped, after what was in flight had ended",
    Ended.CANCELLED: "cancelled: what was in flight will be asked about first",
    Ended.HELD: "held: it cannot go on",
}


@dataclass(frozen=True, slots=True)
class Report:
    """How one process of a run ended."""

    run_id: str
    where: str  # the group, or the state file, in which the progress lives
    ended: Ended
    size: int = 0  # offsets, or lines, of the whole range
    behind_before: int = 0  # of these, passed by earlier starts
    behind: int = 0  # passed now
    took_s: float = 0.0
    ledger: LedgerLine = field(default_factory=LedgerLine)
    imbalances: tuple[str, ...] = ()
    calls: Mapping[Kind, int] = field(default_factory=dict)
    ends: Mapping[tuple[RecordEnd, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what is missing of the range, why it was held

    @property
    def is_balanced(self) -> bool:
        return not self.imbalances and self.ledger.is_balanced

    def lines(self) -> Iterator[str]:
        """Yield the report for people, the answer first."""
        yield f"backfill {self.run_id}  {_WORDS[self.ended]}"
        for note in self.notes:
            yield f"  ! {note}"
        if self.ended in (Ended.WAS_FINISHED, Ended.NO_SHARE):
            return
        yield f"  range     {self.behind:,} of {self.size:,} offsets are done"
        if self.behind_before:
            yield f"            {self.behind_before:,} of them by earlier starts, which are not counted below"
        yield f"  ledger    {self.ledger}"
        yield f"  took      {self.took_s:,.1f} s"
        for kind, count in sorted(self.calls.items()):
            yield f"  {count:>9,}  calls  {kind.site}  {kind.rule}  {kind.outcome}: {kind.reason}"
        for (end, reason), count in sorted(self.ends.items()):
            yield f"  {count:>9,}  records  {end}: {reason}"

    def document(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "run_id": self.run_id,
            "progress_in": self.where,
            "ended": self.ended.value,
            "range": {"size": self.size, "done": self.behind, "done_by_earlier_starts": self.behind_before},
            "took_s": round(self.took_s, 3),
            "ledger": {
                "read": self.ledger.read,
                "already_done": self.ledger.already_done,
                "filtered": self.ledger.filtered,
                "done": self.ledger.done,
                "stale": self.ledger.stale,
                "dead_lettered": self.ledger.dead_lettered,
                "handed_back": self.ledger.handed_back,
                "unfinished": self.ledger.unfinished,
                "balanced": self.is_balanced,
            },
            "calls": [{**kind._asdict(), "calls": count} for kind, count in sorted(self.calls.items())],
            "records": [
                {"end": end.value, "reason": reason, "records": count}
                for (end, reason), count in sorted(self.ends.items())
            ],
            "notes": list(self.notes),
        }
