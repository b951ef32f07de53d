"""Keeps this member at its share of each site's quota, by what the group's commits say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import structlog

from worker.clock import Clock
from worker.delivery.shares import SHARED, Share, Wish, divide, divisible, wanted_per_s
from worker.errors import WorkerError
from worker.kafka.progress import Note, decode
from worker.kafka.source import Position
from worker.model import TopicPartition

log = structlog.get_logger(__name__)

READ_EVERY_S = 2.0


class Commits(Protocol):
    """Where the group's commits are read."""

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Position | None]:
        """Return what the group has committed, ours or not; None where nothing is. Raises WorkerError."""
        ...

    def partitions_of_group(self) -> Sequence[TopicPartition]:
        """Return every partition of the group's topics, ours or not."""
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours."""
        ...


class Meter(Protocol):
    """One site's sender, as far as its rate goes."""

    @property
    def requests_written(self) -> int:
        """Return how many requests were begun since the start."""
        ...

    @property
    def calls_at_the_gate(self) -> bool:
        """Return whether a call waits for a permit now."""
        ...

    def set_quota(self, quota_per_s: float | None) -> None:
        """Go at this rate from the next permit on."""
        ...


class GroupQuota:
    """Divides the sites' quotas among the members of the group. Sites without a quota are left alone."""

    def __init__(
        self,
        *,
        quotas_per_s: Mapping[str, float | None],
        meters: Mapping[str, Meter],
        commits: Commits,
        clock: Clock,
        member: str,
    ) -> None:
        """`member` names this process among the others: hex digits, drawn anew at every start."""
        self._quotas = {site: quota for site, quota in quotas_per_s.items() if quota is not None}
        self._meters = meters
        self._commits = commits
        self._clock = clock
        self._member = member
        self._shares = {site: Share(quota) for site, quota in self._quotas.items()}
        self._wanted: dict[str, float] = dict(self._quotas)
        self._written = {site: meters[site].requests_written for site in self._quotas}
        self._had_backlog = dict.fromkeys(self._quotas, False)
        self._looked_s = clock.monotonic_s()
        self._is_failing = False

    @property
    def has_quotas(self) -> bool:
        """Return whether there is anything to divide."""
        return bool(self._quotas)

    def shares(self) -> dict[str, float]:
        """Return which part of each site's quota is this member's, 0 to 1; sites without a quota are left out."""
        rates = ((site, self._shares[site].rate_per_s, quota) for site, quota in self._quotas.items())
        return {site: rate / quota if rate is not None and quota else 0.0 for site, rate, quota in rates}

    @property
    def note(self) -> Note:
        """Return what this member's commits carry."""
        return Note(self._member, dict(self._wanted))

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Begin anew with the even share; at this moment every member does."""
        if not partitions:
            return  # more members than partitions: it has no calls to make, and no rate is 0
        every = len(self._commits.partitions_of_group())
        is_alone = len(partitions) >= every
        for site, quota in self._quotas.items():
            self._shares[site].restart(quota if is_alone else quota * SHARED * len(partitions) / every)
            self._set(site)

    async def run(self) -> None:
        """Measure and divide until cancelled."""
        while True:
            await self._clock.sleep(READ_EVERY_S / 2)
            self._sample()
            await self._clock.sleep(READ_EVERY_S / 2)
            self._sample()
            self._measure()
            await self._divide()

    def _sample(self) -> None:
        for site in self._quotas:
            self._had_backlog[site] |= self._meters[site].calls_at_the_gate

    def _measure(self) -> None:
        now_s = self._clock.monotonic_s()
        elapsed_s = max(1e-3, now_s - self._looked_s)
        self._looked_s = now_s
        for site, quota in self._quotas.items():
            written = self._meters[site].requests_written
            used_per_s = (written - self._written[site]) / elapsed_s
            self._written[site] = written
            self._wanted[site] = wanted_per_s(
                used_per_s=used_per_s, has_backlog=self._had_backlog[site], quota_per_s=quota
            )
            self._had_backlog[site] = False

    async def _divide(self) -> None:
        every = self._commits.partitions_of_group()
        try:
            committed = await self._commits.committed(every)
        except WorkerError as error:
            if not self._is_failing:
                # The last shares stay: their sum keeps the quota as long as nobody takes more.
                log.warning("quota.group_unread", error=str(error))
            self._is_failing = True
            return
        self._is_failing = False
        if not self._commits.assignment():
            return
        notes = {partition: position and decode(position.metadata) for partition, position in committed.items()}
        owners = Counter(note.member if note else "" for note in notes.values())
        words = {note.member: note for note in notes.values() if note}
        if self._member not in words:
            return  # our first commit is not there yet: others do not know of us, and neither do we count
        members = sorted(owners)
        for site, quota in self._quotas.items():
            wishes = [
                Wish(owners[member], words[member].wanted_per_s.get(site) if member else None) for member in members
            ]
            rates = divide(divisible(quota, wishes), wishes)
            self._shares[site].read(rates[members.index(self._member)])
            self._set(site)

    def _set(self, site: str) -> None:
        self._meters[site].set_quota(self._shares[site].rate_per_s)
