"""What a broker says of how long topics are kept."""

from __future__ import annotations

from collections.abc import Callable

from worker.kafka.retention import Kept, ask_retention
from worker.kafka.settings import KafkaSettings
from worker.sandbox.broker import Topic, create_topics


async def test_age_size_and_policy_are_those_of_the_topics(
    kafka_bootstrap: str, fresh_name: Callable[[str], str]
) -> None:
    source, letters = fresh_name("source"), fresh_name("letters")
    limits = {"retention.ms": "3600000", "retention.bytes": "1073741824"}
    await create_topics(kafka_bootstrap, [Topic(source, settings=limits), Topic(letters)])
    settings = KafkaSettings(
        bootstrap_servers=kafka_bootstrap, group_id="unused", topics=[source], dead_letter_topic=letters
    )
    found = await ask_retention(settings)
    assert found[source] == Kept(3600.0, 1_073_741_824, "delete")
    assert found[letters].policy == "delete"  # what a broker makes by itself
