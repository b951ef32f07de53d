"""The counts that must balance: every record that was read is accounted for, exactly once.

    read = already done + filtered + stale + done + dead-lettered + handed back + unfinished

Pure. All but the last are counted here, where things happen; *unfinished* is told by whoever holds the unfinished
records (`pipeline/offsets`). Were it computed from the others, the sum could never be wrong, and would prove nothing.

A partition has one account per assignment (epoch). When it is revoked, what was unfinished is handed back, and the
account is closed into the partition's past; one that does not balance then is kept apart, so that two errors cannot
cancel out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

from worker.model import OutcomeKind, RecordEnd, TopicPartition

# Accounts that were closed unbalanced and are kept to be shown. One is a bug; a hundred say no more.
KEPT_IMBALANCES = 20


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """The counts of one account, or the sum of some."""

    read: int = 0
    already_done: int = 0
    filtered: int = 0
    stale: int = 0
    done: int = 0
    dead_lettered: int = 0
    handed_back: int = 0
    unfinished: int = 0

    @property
    def missing(self) -> int:
        """Return how many records were read and are in no other count; below zero: counted, and not read."""
        return self.read - (
            self.already_done
            + self.filtered
            + self.stale
            + self.done
            + self.dead_lettered
            + self.handed_back
            + self.unfinished
        )

    @property
    def is_balanced(self) -> bool:
        return self.missing == 0

    def __add__(self, other: LedgerLine) -> LedgerLine:
        return LedgerLine(*(getattr(self, name) + getattr(other, name) for name in _COUNTS))

    def __str__(self) -> str:
        """Return the line a person reads. What is seldom is left out while it is zero."""
        terms = [
            ("already done", self.already_done, False),
            ("filtered", self.filtered, True),
            ("done", self.done, True),
            ("stale", self.stale, True),
            ("dead letters", self.dead_lettered, True),
            ("handed back", self.handed_back, False),
            ("unfinished", self.unfinished, True),
        ]
        total = " + ".join(f"{name} {count:,}" for name, count, always in terms if always or count)
        return f"read {self.read:,} = {total}        {self._judgement()}"

    def _judgement(self) -> str:
        if self.is_balanced:
            return "balanced"
        lack = self.missing
        return f"NOT BALANCED: {lack:,} unaccounted for" if lack > 0 else f"NOT BALANCED: {-lack:,} counted too often"


_COUNTS = tuple(count.name for count in fields(LedgerLine))


class _Account:
    """One partition under one assignment; mutable, because the hot path adds to it."""

    __slots__ = ("already_done", "ends", "epoch", "filtered", "handed_back", "read")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.read = 0
        self.already_done = 0
        self.filtered = 0
        self.handed_back = 0
        self.ends = dict.fromkeys((RecordEnd.STALE, RecordEnd.DONE, RecordEnd.DEAD_LETTERED), 0)

    def line(self, unfinished: int) -> LedgerLine:
        return LedgerLine(
            read=self.read,
            already_done=self.already_done,
            filtered=self.filtered,
            stale=self.ends[RecordEnd.STALE],
            done=self.ends[RecordEnd.DONE],
            dead_lettered=self.ends[RecordEnd.DEAD_LETTERED],
            handed_back=self.handed_back,
            unfinished=unfinished,
        )


class Ledger:
    """Counts what was read and how it ended. Use one instance from one event loop."""

    def __init__(self) -> None:
        self._open: dict[TopicPartition, _Account] = {}
        self._past: dict[TopicPartition, LedgerLine] = {}
        self._imbalances: list[tuple[TopicPartition, int, LedgerLine]] = []
        self.ends: Counter[tuple[RecordEnd, str]] = Counter()  # records by end and reason
        self.calls: Counter[tuple[OutcomeKind, str]] = Counter()  # calls by outcome and reason

    def __repr__(self) -> str:
        return f"<Ledger [{len(self._open)} open, {len(self._past)} with a past, {len(self._imbalances)} unbalanced]>"

    def assigned(self, partition: TopicPartition, epoch: int) -> None:
        """Open an account. One of an earlier epoch that is still open is closed, and nothing of it was handed back."""
        if partition in self._open:
            self.handed_back(partition, 0)
        self._open[partition] = _Account(epoch)

    def read(self, partition: TopicPartition, count: int) -> None:
        """Note records taken from Kafka."""
        self._account(partition).read += count

    def already_done(self, partition: TopicPartition, count: int) -> None:
        """Note records that an earlier process had done, as the commit's map says."""
        self._account(partition).already_done += count

    def filtered(self, partition: TopicPartition, count: int, reason: str) -> None:
        """Note records that no rule wanted; once per slice, not per record."""
        self._account(partition).filtered += count
        self.ends[RecordEnd.FILTERED, reason] += count

    def ended(self, partition: TopicPartition, end: RecordEnd, reason: str = "", *, epoch: int | None = None) -> bool:
        """Note how one started record ended; False, and nothing is noted, if its assignment is over."""
        account = self._open.get(partition)
        if account is None or (epoch is not None and epoch != account.epoch):
            return False
        if end is RecordEnd.FILTERED:
            account.filtered += 1
        else:
            account.ends[end] += 1
        self.ends[end, reason or end.value] += 1
        return True

    def handed_back(self, partition: TopicPartition, count: int) -> None:
        """Close the account of a revoked partition, of which `count` records were unfinished."""
        account = self._open.pop(partition, None)
        if account is None:
            return
        account.handed_back = count
        line = account.line(unfinished=0)
        if not line.is_balanced:
            self._imbalances.append((partition, account.epoch, line))
            del self._imbalances[:-KEPT_IMBALANCES]
        self._past[partition] = self._past.get(partition, LedgerLine()) + line

    def call_ended(self, kind: OutcomeKind, reason: str) -> None:
        """Note how one call ended, also of a record whose assignment is over: it was made all the same."""
        self.calls[kind, reason] += 1

    def line(self, partition: TopicPartition, unfinished: int = 0) -> LedgerLine:
        """Return the counts of the open account; of nothing if there is none."""
        account = self._open.get(partition)
        return account.line(unfinished) if account else LedgerLine(unfinished=unfinished)

    def lines(self, unfinished: Mapping[TopicPartition, int]) -> dict[TopicPartition, LedgerLine]:
        """Return the counts of every open account, and of every partition that has unfinished records."""
        partitions = sorted(self._open.keys() | unfinished.keys())
        return {partition: self.line(partition, unfinished.get(partition, 0)) for partition in partitions}

    def total(self, unfinished: Mapping[TopicPartition, int]) -> LedgerLine:
        """Return the sum over all partitions and assignments of this process."""
        return sum([*self.lines(unfinished).values(), *self._past.values()], LedgerLine())

    def total_of(self, topic: str, unfinished: Mapping[TopicPartition, int]) -> LedgerLine:
        """Return the sum over one topic."""
        lines = [*self.lines(unfinished).items(), *self._past.items()]
        return sum((line for partition, line in lines if partition.topic == topic), LedgerLine())

    def balanced(self, unfinished: Mapping[TopicPartition, int]) -> bool:
        """Return whether every account balances, the closed ones included."""
        return not self._imbalances and all(line.is_balanced for line in self.lines(unfinished).values())

    def imbalances(self, unfinished: Mapping[TopicPartition, int]) -> list[str]:
        """Return one line of text for each account that does not balance; empty if all do."""
        now = [f"{partition}: {line}" for partition, line in self.lines(unfinished).items() if not line.is_balanced]
        return now + [f"{partition}, assignment {epoch}: {line}" for partition, epoch, line in self._imbalances]

    def _account(self, partition: TopicPartition) -> _Account:
        account = self._open.get(partition)
        if account is None:
            account = self._open[partition] = _Account(epoch=0)
        return account
