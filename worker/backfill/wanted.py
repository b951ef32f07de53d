"""What is to be replayed, as it was asked for, and the name of the run that follows from it. Pure.

The run id is made of what the command says, and of nothing that changes by itself: neither the present time, nor the
ends of the topics, nor the content of the rules. So the same command goes on where it was, whatever happened between;
that a mended rule does not silently begin a second run, which would make all calls again, is why the rules' digest is
not in it. A second run on purpose has a name of its own (`--run-id`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.kafka.ranges import Span
from worker.model import TopicPartition

EARLIEST = "earliest"
END = 2**63 - 1
_OFFSETS = re.compile(
    r"(?P<topic>[A-Za-z0-9._-]{1,249})/(?P<partition>\d{1,9}):(?P<begin>\d{0,18})-(?P<end>\d{0,18})", re.A
)
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", re.ASCII)
_ID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """A range: of all partitions of some topics by time, or of some partitions by offset; or files."""

    topics: tuple[str, ...]
    from_ms: int | None = None  # None: from the oldest record that is there
    to_ms: int | None = None  # None: to the end, as it is when the run begins
    offsets: Mapping[TopicPartition, Span] = field(default_factory=dict)  # in place of the times; END: as above
    files: tuple[str, ...] = ()  # names, in place of all that
    rules: str = ""  # the file, if the command names one
    skips_delivered: bool = False

    @property
    def run_id(self) -> str:
        """Return the name that the same command always has."""
        spans = sorted([*partition, *span] for partition, span in self.offsets.items())
        said = [sorted(self.topics), self.from_ms, self.to_ms, spans, list(self.files), self.rules]
        if self.skips_delivered:
            said.append("skip-delivered")
        return hashlib.sha256(json.dumps(said).encode("utf-8", "surrogatepass")).hexdigest()[:_ID_DIGITS]


def time_ms(text: str) -> int | None:
    """Return a moment in milliseconds; None for `earliest`. UTC where no zone is said. Raises ValueError.

    Nothing relative to now: the same command would mean another range the next time.
    """
    if text == EARLIEST:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is no time; write 2026-11-01, 2026-11-01T08:00 or 2026-11-01T08:00+02:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def offsets_of(texts: Sequence[str]) -> dict[TopicPartition, Span]:
    """Return what `TOPIC/PARTITION:BEGIN-END` say, the end left out, either number empty for all. Raises ValueError."""
    found: dict[TopicPartition, Span] = {}
    for text in texts:
        said = _OFFSETS.fullmatch(text)
        if said is None:
            raise ValueError(f"{text}: write TOPIC/PARTITION:BEGIN-END, for example user-events/3:1000-2000")
        partition = TopicPartition(said["topic"], int(said["partition"]))
        span = Span(int(said["begin"] or 0), int(said["end"]) if said["end"] else END)
        if span.end <= span.begin:
            raise ValueError(f"{text}: the range is empty; END is the first offset that is left out")
        if partition in found:
            raise ValueError(f"{text}: {partition} is named twice")
        found[partition] = span
    return found


def checked_run_id(text: str) -> str:
    """Return a run id if it may be part of a group's name and of a dead letter's key. Raises ValueError."""
    if not _RUN_ID.fullmatch(text):
        raise ValueError("a run id has up to 60 letters, digits, dots, dashes and underscores")
    return text


def time_text(moment_ms: int) -> str:
    """Return a moment for people, in UTC."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=moment_ms)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
