"""The permissions that the README names are enough for the commands on dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reprocess.letters import letter_at
from tests.reprocess.topics import prepare, run, settings
from tests.secure import SecureKafka, Way, readme_acls
from worker.deadletters.record import encode
from worker.kafka.client import KafkaProducer, KafkaSettings
from worker.sandbox.broker import Topic, create_topics

WAY = Way("SASL_PLAINTEXT", "SCRAM-SHA-256")
ACL = "kafka-acls.sh --bootstrap-server B --add --allow-principal User:stranger"


@pytest.mark.timeout(120)
async def test_the_readmes_permissions_are_enough(
    secure_kafka: SecureKafka, fresh_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic, group = fresh_name("topic"), fresh_name("group")
    dead = f"{topic}.dead"
    await create_topics(secure_kafka.bootstrap, [Topic(topic), Topic.dead_letters(dead)])
    given = secure_kafka.settings(WAY, user="stranger")
    kafka = {**given, "topics": [topic], "dead_letter_topic": dead, "group_id": group}
    prepare(tmp_path, settings("", dead, kafka=kafka))
    commands = readme_acls(user="stranger", topic=topic, letters=dead, group=group)
    commands += [f"{ACL} --topic {dead} --operation Read", f"{ACL} --group {group}.replay --operation Read"]
    await secure_kafka.run(commands)
    try:
        producer = KafkaProducer(KafkaSettings(**kafka))
        await producer.start()
        for offset in (1, 2):
            await producer.send(dead, *encode(letter_at(offset)))
        await producer.stop()

        (found,) = [json.loads(line) for line in run(tmp_path, "groups", "-o", "jsonl").stdout.splitlines()]
        assert found["records"] == 2
        preview = run(tmp_path, "replay", "--all")
        assert "2 records -> 2 calls to make" in preview.stdout, preview.stderr
        done = run(tmp_path, "discard", "--all", "--yes", "--why", "a test")
        assert done.stdout.endswith("2 discarded.\n"), done.stderr
    finally:
        await secure_kafka.run(command.replace("--add", "--remove") for command in commands)
