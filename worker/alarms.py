"""The gauges that alarms look at, set anew for every scrape. The rules that read them are in deploy/alerts.yaml."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from typing import Protocol

from worker.clock import Clock
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.kafka.retention import Retention
from worker.metrics import Metrics
from worker.model import Record, TopicPartition
from worker.pipeline.ledger import Ledger, LedgerLine
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.tickets import Ticket

SAMPLE = 100  # records whose mean size stands for all of their partition


class Told(Protocol):
    """What is asked of a site's sender."""

    def status(self) -> SiteStatus: ...


class Alarms:
    """Reads, never changes, but for the gauges."""

    def __init__(
        self,
        *,
        offsets: Offsets,
        ledger: Ledger,
        senders: Mapping[str, Told],
        retention: Retention,
        quota_shares: Callable[[], Mapping[str, float]],
        lease_valid_until_s: Callable[[], float],
        end_of: Callable[[TopicPartition], int | None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`quota_shares`: site -> our part of its quota. `lease_valid_until_s` is monotonic.

        `end_of`: one above the last offset of a partition of ours, where that is known.
        """
        self._offsets = offsets
        self._ledger = ledger
        self._senders = senders
        self._retention = retention
        self._quota_shares = quota_shares
        self._lease_valid_until_s = lease_valid_until_s
        self._end_of = end_of
        self._clock = clock
        self._metrics = metrics

    def set_gauges(self) -> None:
        metrics = self._metrics
        metrics.lease_margin_s.set(max(0.0, self._lease_valid_until_s() - self._clock.monotonic_s()))
        metrics.tasks.set(len(asyncio.all_tasks()))
        self._set_sites()
        self._set_ledger()
        for topic, seconds in self._retention.seconds.items():
            metrics.retention_s.labels(topic).set(-1 if seconds is None else seconds)
        # A partition that was revoked must not be reported any more.
        metrics.blocker_retention_ratio.clear()
        metrics.retention_bytes_ratio.clear()
        for progress in self._offsets:
            topic, number = progress.partition
            ratio = 0.0 if progress.blocker is None else self._retention.part_used(topic, self._age_s(progress.blocker))
            metrics.blocker_retention_ratio.labels(topic, str(number)).set(ratio)
            filled = self._retention.part_filled(topic, self._unread_bytes(progress))
            metrics.retention_bytes_ratio.labels(topic, str(number)).set(filled)

    @property
    def letters_policy(self) -> str:
        """Return the dead-letter topic's cleanup.policy, as far as it is known."""
        return self._retention.letters_policy

    def _unread_bytes(self, progress: PartitionProgress) -> float:
        """Return about how much of a partition is not done: its offsets, as large as those that wait here."""
        end = self._end_of(progress.partition)
        sample = [ticket.record for ticket in islice(progress.unfinished.values(), SAMPLE)]
        if end is None or not sample:
            return 0.0
        return (end - progress.committable) * sum(map(_size_bytes, sample)) / len(sample)

    def _age_s(self, ticket: Ticket) -> float:
        """Return how old a record is as its topic sees it; where it has no timestamp, since it was started."""
        if ticket.record.timestamp < 0:
            return self._clock.monotonic_s() - ticket.started_s
        return max(0.0, self._clock.now_s() - ticket.record.timestamp / 1000)

    def _set_sites(self) -> None:
        metrics, shares = self._metrics, self._quota_shares()
        for name, sender in self._senders.items():
            status = sender.status()
            metrics.paused.labels(name).set(1 if status.is_paused else 0)
            metrics.quota_share.labels(name).set(shares.get(name, -1))
            shown = State.OUTAGE if status.state is State.OPEN and status.away else status.state
            for state in State:
                metrics.site_state.labels(name, state.value).set(1 if state is shown else 0)

    def _set_ledger(self) -> None:
        unfinished = {progress.partition: len(progress.unfinished) for progress in self._offsets}
        for topic in {*self._retention.seconds, *(partition.topic for partition in unfinished)}:
            line = self._ledger.total_of(topic, unfinished)
            for count in fields(LedgerLine):
                self._metrics.ledger_records.labels(topic, count.name).set(getattr(line, count.name))
            self._metrics.ledger_missing.labels(topic).set(line.missing)


def _size_bytes(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers
