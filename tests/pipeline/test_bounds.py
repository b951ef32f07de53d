"""What is held is bounded, whatever there is, for however long. Sizes, not megabytes: those a journey measures."""

from __future__ import annotations

import pytest

from worker.model import KafkaRecord, TopicPartition
from worker.pipeline.tickets import Ticket

P0 = TopicPartition("user-events", 0)


@pytest.mark.parametrize("where", ["key", "value", "headers"])
def test_all_of_a_record_counts_for_the_memory_that_records_may_take(where: str) -> None:
    big = b"x" * 1_000_000
    parts = {"key": None, "value": b"{}", "headers": ()} | {where: (("h", big),) if where == "headers" else big}
    record = KafkaRecord("user-events", 0, 1, parts["value"], parts["key"], parts["headers"])  # type: ignore[arg-type]
    ticket = Ticket(record=record, partition=P0, epoch=1, number=1, started_s=0.0, calls=(), outcomes=[])
    assert ticket.size_bytes >= 1_000_000
