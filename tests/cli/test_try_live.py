"""`try --last`: the newest records of a live topic, read beside whoever works on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.cli.test_command_line import RULES
from tests.cli.test_try import GOOD
from tests.contracts.harness import KafkaScene

ONLY_THE_BROKER = """
import sys
def look(event, arguments):
    if event == "socket.connect" and arguments[1][1] != BROKER:
        sys.stderr.write(f"TOUCHED {arguments[1]}\\n")
        raise AssertionError(event)
sys.addaudithook(look)
from worker.cli.main import run
run()
"""


@pytest.fixture
async def scene(
    kafka_bootstrap: str, fresh_name: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KafkaScene]:
    monkeypatch.chdir(tmp_path)
    made = KafkaScene(kafka_bootstrap, fresh_name)
    yield made
    await made.close()


def run(bootstrap: str, topic: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    settings = {
        "kafka": {"bootstrap_servers": bootstrap, "group_id": "g", "topics": [topic], "dead_letter_topic": "d"},
        "sites": {"main": {"data_center": "eu1", "api_key": "k", "auth": {"user_key": "u", "secret": "c2VjcmV0"}}},
    }
    Path("worker.yaml").write_text(json.dumps(settings))
    Path("rules.yaml").write_text(RULES)
    code = ONLY_THE_BROKER.replace("BROKER", bootstrap.rpartition(":")[2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    command = [sys.executable, "-c", code, "try", *words]
    return subprocess.run(command, capture_output=True, timeout=50, env=environment)


async def test_the_newest_records_are_shown_with_their_places_and_only_the_broker_is_spoken_to(scene: KafkaScene):
    left, right = await scene.topic(2)
    for number in range(8):
        event = {**GOOD, "user": {"uid": f"u{number % 3}"}, "id": f"e{number}"}
        await scene.append((left, right)[number % 2], json.dumps(event).encode(), key=b"k")
    done = run(scene.bootstrap, left.topic, "--last", "4", "-o", "jsonl")
    assert (done.returncode, done.stderr) == (0, b"")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["where"] for each in shown} == {
        f"{left.topic}/{partition}/{offset}" for partition in (0, 1) for offset in (2, 3)
    }
    assert [each["events"][0]["calls"][0]["rule"] for each in shown] == ["episode-watched"] * 4


async def test_coverage_knows_the_partitions(scene: KafkaScene):
    left, right = await scene.topic(2)
    for partition in (left, right):
        await scene.append(partition, json.dumps(GOOD).encode(), b"{", None, key=b"k")
    done = run(scene.bootstrap, left.topic, "--last", "100", "--coverage")
    assert b"UIDs in several partitions: 1, for example u1; their order is not defined" in done.stdout
    assert b"6 records, 2 events: 2 calls of 1 user" in done.stdout


async def test_a_topic_can_be_named_and_one_that_is_not_there_is_one_line(scene: KafkaScene):
    (only,) = await scene.topic()
    await scene.append(only, json.dumps(GOOD).encode())
    assert b"1 call of 1 user" in run(scene.bootstrap, "other", "--last", "1", "--topic", only.topic).stdout
    missing = run(scene.bootstrap, "not-there", "--last", "1")
    assert missing.returncode == 1
    assert b"topic not-there does not exist" in missing.stderr
    assert b"Traceback" not in missing.stderr


def test_without_a_broker_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run("127.0.0.1:1", "t", "--last", "1")
    assert done.returncode == 1
    assert done.stderr.startswith(b"gigya-worker: Kafka at 127.0.0.1:1: nothing answers there")
