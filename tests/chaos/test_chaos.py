"""The short form of `make chaos`: eight schedules with numbers of their own, in eight minutes at most.

The load is that of the long form: 220 calls/s (260 or 330 where members go), 300 users, more than a fifth of the calls
identical to an earlier one of the same user, and at most the quota of 300/s (360, 400). What is done in it stands in
SHORT. Seeds are fixed: what differs from run to run is the machine. `make chaos` draws new ones, and has the other
schedules, the 50 kills, and the soak. (Nine took five to eight minutes on two cores that had four to eight times as
much to do; on a quiet machine it is the sum of the seconds below and some twelve for each start and end.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.__main__ import perform, report
from tests.chaos.schedules import BY_NAME
from worker.sandbox.broker import BrokerUnavailable, LocalKafka

pytestmark = pytest.mark.broker

SEED = 22
# What is appended is the load of the long form. What a machine of two cores, busy with other things, makes of it each
# second is its matter: everything is made in the end, or is lost.
LEAST_MADE_PER_S = 50.0
# Schedule -> seconds of trouble. In them:
SHORT = {
    "kill-unlimited": 24.0,  # two times kill -9, each with 8 or more calls in flight
    "api-rough": 20.0,  # six kinds of lost answers, 0.1 to 0.2 % each; no site for 2 s, a revoked key for 2 s; a group
    "clock-steps": 14.0,  # one or two steps of up to five minutes, while one answer in 200 gets lost
    "broker-killed": 8.0,  # one kill -9 of the broker
    "rebalances": 12.0,  # some four members come or go
    "zombie": 25.0,  # one of three sleeps for 8 to 12 s of a session of 6
    "fan-out": 8.0,  # 99 of 100 calls of a record are made, then one clean restart and one kill -9
    "flood-thin": 8.0,  # 20,000 events, of which one in a hundred is wanted, and cannot be mapped
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    """A broker of its own, whatever KAFKA_BOOTSTRAP says: what is done here is done to no other."""
    try:
        with LocalKafka() as kafka:
            yield kafka
    except BrokerUnavailable as unavailable:
        pytest.fail(str(unavailable), pytrace=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SHORT)
async def test_nothing_is_lost_out_of_order_twice_or_above_the_quota(name: str, kafka: LocalKafka, tmp_path: Path):
    began_s = time.monotonic()
    schedule = BY_NAME[name]
    short = replace(schedule, setup=replace(schedule.setup, least_made_per_s=LEAST_MADE_PER_S))
    found = await perform(short, kafka, tmp_path, seconds=SHORT[name], seed=SEED)
    sys.stdout.write(f"{name}\n{report(found, took_s=time.monotonic() - began_s)}\n")
    assert not found.faults
