"""What the source does between two assignments, without a broker; the rest is in tests/contracts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka import errors as kafka_errors

from worker.clock import SystemClock
from worker.kafka.membership import Membership
from worker.kafka.settings import KafkaSettings
from worker.kafka.source import KafkaSource, SourceFailed


def between_assignments(met: Exception | None) -> KafkaSource:
    """Return a source whose partitions were taken, and whose coordinator has met something since."""

    def check_errors() -> None:
        if met is not None:
            raise met

    coordinator = SimpleNamespace(_send_req=None, _do_commit_offsets=None, check_errors=check_errors)
    settings = KafkaSettings(bootstrap_servers="localhost:9", group_id="g", topics=("t",), dead_letter_topic="t.dead")
    source = KafkaSource(settings, drain_s=1.0, clock=SystemClock())
    source._consumer = SimpleNamespace(_coordinator=coordinator)
    source._membership = Membership(source._consumer, SystemClock(), 45.0)
    return source


async def test_a_permission_that_is_lost_during_a_rebalance_ends_the_source_instead_of_hanging_it() -> None:
    source = between_assignments(kafka_errors.GroupAuthorizationFailedError("g"))

    with pytest.raises(
        SourceFailed, match=r"no permission Read on group g; grant it: kafka-acls.sh .* --group g --operation Read"
    ):
        await source.read((), max_records=1, timeout_s=0.0)


async def test_what_passes_by_itself_during_a_rebalance_is_heard_so_that_the_group_goes_on() -> None:
    source = between_assignments(kafka_errors.GroupCoordinatorNotAvailableError())

    assert await source.read((), max_records=1, timeout_s=0.0) == {}


async def test_a_rebalance_without_trouble_reads_nothing() -> None:
    assert await between_assignments(None).read((), max_records=1, timeout_s=0.0) == {}
