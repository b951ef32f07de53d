"""How things stand beside a replay: which records the workers still hold, and whether anything moves. Pure.

The workers' own commits tell: a record that its group has not passed is in that group's hands, and it may make its
calls yet. And if no group has moved from one moment to another, no worker has made a call in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from worker.deadletters.replays import Begun, Made
from worker.delivery.recent import Left, Recent
from worker.kafka.membership import Position
from worker.kafka.progress import Unusable, decode_progress
from worker.kafka.ranges import Span
from worker.model import TopicPartition
from worker.pipeline.earlier import Done

# Compaction keeps a tombstone for a day at least (delete.retention.ms), unless somebody has set less; so long, then,
# what an interrupted replay had executed can be told.
KNOWN_FOR_S = 12 * 3_600.0
CLOCK_SLACK_S = 60.0  # of a site whose clock was never heard

Commits = Mapping[TopicPartition, Position]


def run_group(group: str, run: str) -> str:
    """Return the group of a backfill, empty run: of the live worker."""
    return f"{group}.backfill.{run}" if run else group


class Hands:
    """The records that groups still hold, by run: empty for the live worker."""

    def __init__(self, commits: Mapping[str, Commits]) -> None:
        self._passed: dict[tuple[str, TopicPartition], tuple[int, Done]] = {}
        for run, by_partition in commits.items():
            for partition, position in by_partition.items():
                self._passed[run, partition] = (position.offset, _done(position))

    def hold(self, run: str, partition: TopicPartition, offset: int) -> bool:
        """Say whether a group may still work on a record. One that has committed nothing is not there any more."""
        passed = self._passed.get((run, partition))
        return passed is not None and offset >= passed[0] and offset not in passed[1]


def _done(position: Position) -> Done:
    try:
        return Done(decode_progress(position.metadata, position.offset).done)
    except Unusable:
        return Done()


def rest_of(group: str, commits: Mapping[str, Commits], spans: Mapping[TopicPartition, Span]) -> str:
    """Return what stands for the commits of all groups while the live one has done all there is; empty if it has not.

    Offsets only grow: the same at two moments means that nothing was done in between.
    """
    live = commits.get(group, {})
    if any(span.size and live.get(partition, Position(0)).offset < span.end for partition, span in spans.items()):
        return ""
    rows = sorted(
        (name, *partition, position.offset) for name, found in commits.items() for partition, position in found.items()
    )
    return blake2b(json.dumps(rows).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What is known of an interrupted replay. `marks` are those of letters that are still there."""

    marks: tuple[Begun, ...]
    all_chosen: bool  # all its letters are replayed now

    @property
    def since_s(self) -> float:
        """Return when it began with the first of these letters (Unix time, our clock)."""
        return min(mark.at_s for mark in self.marks)

    def is_told(self, rest: str, now_s: float, *, is_sole_writer: bool = False) -> bool:
        """Say whether all that was executed since is known: by replays, which say so, and by nobody else.

        `is_sole_writer`: somebody knows that there was nobody else.
        """
        same_rest = is_sole_writer or (bool(rest) and all(mark.rest == rest for mark in self.marks))
        is_recent = now_s - min(mark.rest_s for mark in self.marks) < KNOWN_FOR_S
        return same_rest and is_recent and self.all_chosen and self._ahead_s is not None

    @property
    def _ahead_s(self) -> float | None:
        known = [(mark.at_s, mark.ahead_s) for mark in self.marks if mark.ahead_s is not None]
        return max(known)[1] if known else None

    def recent(self, site: str, made: list[Made] | None, now_s: float) -> Recent:
        """Return what the ladder of a site is told; `made` None: it is not known what was executed."""
        ahead_s = self._ahead_s
        if made is None or ahead_s is None:
            slack_s = CLOCK_SLACK_S if ahead_s is None else 1.0
            return Recent(now_s, None, self.since_s + (ahead_s or 0.0) - slack_s)
        of_site = [each for each in made if each.site == site]
        return Recent(
            until_s=now_s + ahead_s,
            known_from_s=min(mark.rest_s for mark in self.marks) + ahead_s,
            first_s=self.since_s + ahead_s - 1.0,
            executed=tuple(Left(each.kind, each.from_s, each.until_s) for each in of_site if each.is_certain),
            possible=tuple(dict.fromkeys(each.kind for each in of_site if not each.is_certain)),
            copies_untold=len({mark.rest_s for mark in self.marks}) > 1,  # replays commit nothing that would tell
        )
