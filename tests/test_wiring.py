"""What every run is made of, as far as it can be seen without its neighbours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from worker import wiring
from worker.clock import ManualClock
from worker.delivery.schedule import DeliverySettings


def test_an_attempt_starts_only_if_it_ends_within_the_lease() -> None:
    clock: Any = ManualClock()
    sender: Any = SimpleNamespace(may_write=None)
    until_s = clock.monotonic_s() + 45.0
    source: Any = SimpleNamespace(lease_valid_until_s=lambda: until_s)
    settings: Any = SimpleNamespace(delivery=DeliverySettings(attempt_timeout_s=10.0))

    wiring.keep_to_the_lease({"main": sender}, source, settings, clock)

    clock.step_monotonic(34.9)
    assert sender.may_write()
    clock.step_monotonic(0.2)  # ten seconds for the attempt are not left
    assert not sender.may_write()
    until_s += 45.0
    assert sender.may_write()
