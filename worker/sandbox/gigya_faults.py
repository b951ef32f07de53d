"""Which request does a fault meet? Seeded, counted, timed.

Pure: time is an argument. Used from one event loop.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from worker.sandbox.gigya_config import Fault, Json


@dataclass(slots=True)
class Injected:
    """A fault that is waiting for its requests."""

    id: int
    fault: Fault
    ends_s: float | None
    rng: random.Random
    skipped: int = 0
    met: int = 0

    def meets(self, stage: str, site: str, method: str, uid: str) -> bool:
        """Return whether this request is the fault's, and count it."""
        fault = self.fault
        if (
            fault.where != stage
            or (fault.site is not None and fault.site != site)
            or (fault.method is not None and fault.method != method)
            or (fault.uid is not None and fault.uid != uid)
            or (fault.count is not None and self.met >= fault.count)
            or (fault.share < 1 and self.rng.random() >= fault.share)
        ):
            return False
        if self.skipped < fault.skip:
            self.skipped += 1
            return False
        self.met += 1
        return True

    def is_over(self, elapsed_s: float) -> bool:
        """Return whether it can meet nothing any more."""
        used_up = self.fault.count is not None and self.met >= self.fault.count
        return used_up or (self.ends_s is not None and elapsed_s >= self.ends_s)


@dataclass(slots=True)
class Picked:
    """What shall go wrong with one request at one stage."""

    fault: Fault | None = None
    delay_s: float = 0.0


@dataclass(slots=True)
class Faults:
    """All injected faults, oldest first. Times are seconds of a clock that never goes back."""

    injected: dict[int, Injected] = field(default_factory=dict)
    last_id: int = 0

    def inject(self, fault: Fault, elapsed_s: float) -> int:
        """Add a fault and return its id."""
        self.last_id += 1
        ends_s = None if fault.duration_s is None else elapsed_s + fault.duration_s
        self.injected[self.last_id] = Injected(self.last_id, fault, ends_s, random.Random(fault.seed))
        return self.last_id

    def remove(self, fault_id: int) -> bool:
        """End a fault early; returns False where it is over already."""
        return self.injected.pop(fault_id, None) is not None

    def clear(self) -> None:
        """End all faults."""
        self.injected.clear()

    def pick(self, stage: Literal["front", "api"], site: str, method: str, uid: str, elapsed_s: float) -> Picked:
        """Return the first fault that meets this request, and the delays of all `slow` ones before it."""
        picked = Picked()
        if not self.injected:
            return picked
        for injected in list(self.injected.values()):
            if injected.is_over(elapsed_s):
                del self.injected[injected.id]
                continue
            if not injected.meets(stage, site, method, uid):
                continue
            if injected.fault.kind != "slow":
                picked.fault = injected.fault
                break
            picked.delay_s += injected.fault.ms / 1000
        return picked

    def describe(self) -> list[Json]:
        """Return every fault with its id and how many requests it has met."""
        return [
            {"id": injected.id, "met": injected.met, **injected.fault.model_dump(mode="json", exclude_defaults=True)}
            for injected in self.injected.values()
        ]
