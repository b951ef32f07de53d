"""What a benchmark is, and what it brings: figures, each with its aim or what it stands beside. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.benchmarks.rig import Rig


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one run. `aim` is a bound: from below where more is better, else from above."""

    name: str
    value: float
    unit: str
    aim: float | None = None
    more_is_better: bool = False
    beside: str = ""  # what others measured, or what is possible at all

    @property
    def is_met(self) -> bool:
        if self.aim is None:
            return True
        return self.value >= self.aim if self.more_is_better else self.value <= self.aim


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one run, and who was busy: what is near 100 % is what limited it."""

    figures: Sequence[Figure]
    busy: str


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: what it shows, and a function that runs it once."""

    name: str
    about: str
    run: Callable[[Rig, bool], Awaitable[Result]]
