"""Holds the worker when too many records die, so that a bad deploy does not empty a topic into another.

Pure. Every record that some rule wants (or that cannot be read) gets the next number when it is started; records that
are filtered get none, so that the guard works where one event in a hundred matters as where all do. A record that must
die asks first, and its letter is written only if then still

* no `window` records in a row, in the order they were started, hold more than `max_ratio` of letters, and
* no more than `max_run` letters stand side by side.

It does not matter in which order deaths become known. What is unfinished, or ended well, is no letter: it counts as not
dead and breaks a run. At the start, where fewer than `window` records exist, the share is taken of those, but of
`min_sample` at least: a few records that are yet to come are counted as good ones, so that two bad ones of the first
ten do not stop anybody.

So what a flood can cost is known beforehand: of records that all die, `max_run` letters; of any mixture that goes over
`max_ratio`, at most `max_ratio * window` letters of any `window` records. Each `resume` allows as much again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Letters that are remembered; the oldest go first. At three bad ones in a hundred these span 300,000 records, more than
# 10,000 unfinished ones on each of 24 partitions.
REMEMBERED = 10_000


class FloodGuardSettings(BaseModel):
    """When the worker stops instead of writing dead letters. Counted are records that were not filtered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="How many records in a row are looked at. 1000: with 3 % bad ones, chance reaches 5 %, never 10 %.",
    )
    max_ratio: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="The greatest share of them that may be dead letters; 1 switches this off. 0.1: where 1 % of all "
        "events are bad and a third is wanted, 3 % of what counts is bad; a bad deploy is far above a tenth.",
    )
    max_run: int | None = Field(
        default=50,
        ge=1,
        description="How many dead letters may stand side by side; null switches this off. 50: one bad batch of one "
        "producer passes, and a flood in which everything dies is stopped after 50 letters.",
    )
    min_sample: int = Field(
        default=500,
        ge=1,
        description="After a start, the share is taken of at least so many records. 500: up to 50 letters in any case.",
    )

    @model_validator(mode="after")
    def _sample_fits(self) -> Self:
        if self.min_sample > self.window:
            raise ValueError(f"min_sample ({self.min_sample}) is greater than window ({self.window})")
        return self


@dataclass(frozen=True, slots=True)
class Flood:
    """Why the guard holds the worker."""

    reason: str  # flood_ratio | flood_run
    number: int  # of the record that tripped it
    text: str
    remedy: str


class FloodGuard:
    """Decides which records may become dead letters. Use one instance from one event loop."""

    def __init__(self, settings: FloodGuardSettings) -> None:
        self._settings = settings
        self._first: int | None = None  # number of the first record since the start or the last resume
        self._next = 0  # one above the highest number started
        self._letters: list[int] = []  # numbers of records that may be written, ascending
        self._parked: list[int] = []  # numbers that are taken out of the sequence, ascending
        self.ended_well = 0  # records since the start or the last resume, for the operator
        self.flood: Flood | None = None  # set while it holds the worker

    def __repr__(self) -> str:
        state = self.flood.reason if self.flood else "open"
        return f"<FloodGuard [{state}, {self._sample()} started, {len(self._letters)} letters]>"

    def started(self, number: int) -> None:
        """Note that an unfiltered record was started; numbers ascend by one."""
        if self._first is None:
            self._first = number
        self._next = number + 1

    def ended(self, number: int) -> None:
        """Note that a record ended otherwise than dead. For the decision that is the same as unfinished."""
        if self._first is not None and number >= self._first:
            self.ended_well += 1

    def died(self, number: int) -> bool:
        """Return whether the letter of this record may be written; False trips the guard, or finds it tripped.

        Asking again for a record that may be written is harmless. One that may not stays unfinished, and asks again
        after `resume`.
        """
        if self._holds(number):
            return True
        if self.flood is not None:
            return False
        index = bisect_left(self._letters, number)
        self._letters.insert(index, number)
        self.flood = self._flood_at(index)
        if self.flood is not None:
            del self._letters[index]
            return False
        if len(self._letters) > REMEMBERED:
            del self._letters[0]
        return True

    def parked(self, number: int) -> None:
        """Note that an operator turns this record into a dead letter: it counts neither as dead nor as a record."""
        if number not in self._parked:
            self._parked.insert(bisect_left(self._parked, number), number)
            del self._parked[:-REMEMBERED]

    def forgotten(self, number: int) -> None:
        """Note that this record was given back before its end: it is read, and started, again by its new owner."""
        if self._holds(number):
            del self._letters[bisect_left(self._letters, number)]

    def resume(self) -> None:
        """Go on by an operator's word. What died before is forgiven, or the next death would hold again."""
        self._first = self._next
        self._letters.clear()
        self.ended_well = 0
        self.flood = None

    def _holds(self, number: int) -> bool:
        index = bisect_left(self._letters, number)
        return index < len(self._letters) and self._letters[index] == number

    def _sample(self) -> int:
        return 0 if self._first is None else self._next - self._first

    def _flood_at(self, index: int) -> Flood | None:
        return self._run_at(index) or self._share_at(index)

    def _run_at(self, index: int) -> Flood | None:
        limit, letters = self._settings.max_run, self._letters
        if limit is None:
            return None
        low = high = index
        while low > 0 and self._distance(low - 1, low) == 1 and high - low < limit:
            low -= 1
        while high + 1 < len(letters) and self._distance(high, high + 1) == 1 and high - low < limit:
            high += 1
        if high - low < limit:
            return None
        text = f"more than {limit} records in a row would become dead letters (max_run {limit})"
        return self._tripped("flood_run", letters[index], text)

    def _share_at(self, index: int) -> Flood | None:
        settings, letters = self._settings, self._letters
        if settings.max_ratio >= 1:
            return None
        sample = min(settings.window, max(settings.min_sample, self._sample()))
        allowed = int(settings.max_ratio * sample + 1e-9)  # 0.29 * 100 is 28.999999999999996
        # Some window that holds this letter holds too many if `allowed` letters further on lies within its length.
        for low in range(max(0, index - allowed), min(index, len(letters) - 1 - allowed) + 1):
            if self._distance(low, low + allowed) < settings.window:
                text = (
                    f"more than {allowed} of {sample} records would become dead letters "
                    f"(max_ratio {settings.max_ratio:g}, window {settings.window})"
                )
                return self._tripped("flood_ratio", letters[index], text)
        return None

    def _distance(self, low: int, high: int) -> int:
        """Return how many records after the letter at index `low` that at `high` was started; parked ones apart."""
        first, last = self._letters[low], self._letters[high]
        if not self._parked:
            return last - first
        return last - first - (bisect_right(self._parked, last) - bisect_left(self._parked, first))

    def _tripped(self, reason: str, number: int, text: str) -> Flood:
        remedy = (
            "look at the newest dead letters: if rules or events are at fault, mend them and restart; if these records "
            "shall die, raise the limit named here and restart, or let as many again die (POST /resume). Nothing is "
            "lost: these records stay unfinished"
        )
        return Flood(reason, number, text, remedy)
