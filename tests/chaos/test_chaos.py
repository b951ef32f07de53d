"""The short form of `make chaos`: every schedule whose promises hold, with numbers of its own, in a few minutes.

Seeds are fixed here: what differs from run to run is the machine. `make chaos` draws new ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.__main__ import perform, report
from tests.chaos.schedules import BY_NAME
from worker.sandbox.broker import BrokerUnavailable, LocalKafka

pytestmark = pytest.mark.broker

SEED = 22
# Schedule -> seconds of trouble; the load is that of the long form: 220 calls/s, 300 users, a quarter identical.
SHORT = {
    "api-rough": 24.0,
    "clock-steps": 20.0,
    "broker-killed": 10.0,
    "letters-refused": 5.0,
    "busy-user": 12.0,
    "flood-thin": 10.0,
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    """A broker that may be killed: never the one of KAFKA_BOOTSTRAP."""
    try:
        with LocalKafka() as kafka:
            yield kafka
    except BrokerUnavailable as unavailable:
        pytest.fail(str(unavailable), pytrace=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SHORT)
async def test_nothing_is_lost_out_of_order_twice_or_above_the_quota(name: str, kafka: LocalKafka, tmp_path: Path):
    began_s = time.monotonic()
    found = await perform(BY_NAME[name], kafka, tmp_path, seconds=SHORT[name], seed=SEED)
    sys.stdout.write(f"{name}\n{report(found, took_s=time.monotonic() - began_s)}\n")
    assert not found.faults
