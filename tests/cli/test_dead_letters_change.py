"""`dead-letters replay` (its preview), `discard` and `park`, as a script types them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition as Theirs

from tests.journeys.brokerview import BrokerView
from tests.reprocess.letters import letter_at
from tests.reprocess.topics import prepare, run, settings, write
from worker.deadletters.record import DeadLetter, as_reference
from worker.model import KafkaRecord
from worker.sandbox.broker import Topic, create_topics


@pytest.fixture
async def dead(kafka_bootstrap: str, fresh_name: Callable[[str], str], tmp_path: Path) -> str:
    """A dead-letter topic, and settings with a group of their own."""
    name, source = fresh_name("dead"), fresh_name("source")
    await create_topics(kafka_bootstrap, [Topic.dead_letters(name), Topic(source, 1)])
    group = fresh_name("group")
    prepare(tmp_path, settings(kafka_bootstrap, name, kafka={"topics": [source], "group_id": group}))
    return name


def source_of(folder: Path) -> str:
    return str(json.loads((folder / "worker.yaml").read_text())["kafka"]["topics"][0])


def as_of(source: str, letter: DeadLetter) -> DeadLetter:
    record = letter.record
    return replace(
        letter,
        record=KafkaRecord(source, record.partition, record.offset, record.value, record.key, (), record.timestamp),
    )


async def test_a_preview_tells_what_would_be_sent_and_what_would_not(
    dead: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    letters = [letter_at(number, uid=f"hidden-{number % 3}") for number in range(9)]
    broken = letter_at(20, value=b'{"type": "watched", "user": {}}')
    old = letter_at(21, generation=5)
    await write(kafka_bootstrap, dead, [*letters, broken, old])
    shown = run(tmp_path, "replay", "--all")
    assert shown.returncode == 0, shown.stderr
    assert "11 records -> 9 calls to make (watched 9), 1 still fail, 1 left out" in shown.stdout
    assert "missing_field: watched, UID; event.user.uid is missing" in shown.stdout
    assert "generation_limit: user-events/0/21" in shown.stdout
    assert "3 users; at main 20/s beside live traffic" in shown.stdout
    assert "hidden" not in shown.stdout
    plan = json.loads(run(tmp_path, "replay", "--all", "-o", "json", "--max-generation", "9").stdout)
    assert plan["fates"] == {"calls": 10, "still_fails": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay"], "say which"),
        (["replay", "--all", "--group", "a9"], "--all goes with no choice"),
        (["replay", "--all", "--rate", "500"], "more than sites.main.quota_per_s"),
        (["discard", "--all", "--why", " "], "say why"),
        (["park", "somewhere"], "topic/partition/offset"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_word(words: list[str], says: str, tmp_path: Path) -> None:
    prepare(tmp_path, settings("127.0.0.1:1", "dead"))
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())


async def test_a_reference_is_fetched_while_the_source_topic_has_its_record(
    dead: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path)
    whole = as_of(source, letter_at(1))
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        for value in (b"another", whole.record.value, b"and another"):
            await producer.send_and_wait(source, value, partition=0)
    another = as_reference(as_of(source, letter_at(2)))  # the record there is not the one that was too large
    await write(kafka_bootstrap, dead, [as_reference(whole), another])
    shown = run(tmp_path, "replay", "--all").stdout
    assert "2 records -> 1 call to make (watched 1), 1 left out" in shown
    assert f"reference_gone: {source}/0/2" in shown

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.delete_records({Theirs(source, 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    assert "2 records -> 0 calls to make, 2 left out" in run(tmp_path, "replay", "--all").stdout


async def test_a_record_that_the_group_has_not_passed_is_left_to_the_worker(
    dead: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path)
    kafka = json.loads((tmp_path / "worker.yaml").read_text())["kafka"]
    await write(kafka_bootstrap, dead, [as_of(source, letter_at(offset)) for offset in (3, 4, 5)])
    from aiokafka import AIOKafkaConsumer

    # By itself it would commit its position when it stops, over what is committed here.
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=kafka["group_id"], enable_auto_commit=False)
    await consumer.start()
    consumer.assign([Theirs(source, 0)])
    await consumer.commit({Theirs(source, 0): 4})
    await consumer.stop()
    shown = run(tmp_path, "replay", "--all").stdout
    assert "3 records -> 1 call to make (watched 1), 2 left out" in shown
    assert f"not_committed: {source}/0/4, {source}/0/5" in shown


async def test_discarding_asks_and_tells_who_and_why(dead: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    kept = letter_at(9, reason="parked", code=None)
    await write(kafka_bootstrap, dead, [letter_at(1), letter_at(2), kept])
    asked = run(tmp_path, "discard", "--reason", "user_unknown", "--why", "CS-17")
    assert asked.returncode == 1
    assert "2 dead letters would be given up for good; say --yes" in asked.stderr
    assert run(tmp_path, "groups", "-o", "jsonl").stdout.count("\n") == 2

    done = run(tmp_path, "discard", "--reason", "user_unknown", "--why", "CS-17\n", "--by", "anna", "--yes")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 discarded."), done.stderr
    tombstones = [each for each in await BrokerView(kafka_bootstrap).stored(dead) if each.value is None]
    assert {each.key for each in tombstones} == {b"user-events/0/1", b"user-events/0/2"}
    told = dict(tombstones[0].headers)
    assert (told["dlq.resolved"], told["dlq.resolved_by"], told["dlq.resolved_why"]) == (b"discard", b"anna", b"CS-17")
    (left,) = [json.loads(line) for line in run(tmp_path, "groups", "-o", "jsonl").stdout.splitlines()]
    assert left["reason"] == "parked"
    assert run(tmp_path, "discard", "user-events/0/77", "--why", "x", "--yes").stdout == "No such dead letters.\n"


# --- park -------------------------------------------------------------------------------------------------------------


class Admin(BaseHTTPRequestHandler):
    answer: ClassVar[tuple[int, dict[str, Any]]] = (200, {})
    heard: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.heard.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(json.dumps(self.answer[1]).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def admin_port() -> Iterator[int]:
    Admin.heard.clear()
    server = HTTPServer(("127.0.0.1", 0), Admin)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


CALLS = [{"call": "0/watched/0", "outcome": "failed", "reason": "parked", "maybe_executed": True}]


@pytest.mark.parametrize(
    ("status", "answer", "code", "says"),
    [
        (200, {"state": "dead_lettered", "calls": CALLS}, 0, "0/watched/0  failed parked, maybe executed"),
        (202, {"state": "parking", "waits_for": "the attempt in flight"}, 4, "waits for the attempt in flight"),
        (404, {"error": "it has not been read", "position": 7}, 1, "it has not been read (position 7)"),
        (401, {"error": "Unauthorized"}, 1, "Unauthorized"),
    ],
)
def test_parking_goes_through_the_admin_port_with_the_token(
    status: int, answer: dict[str, Any], code: int, says: str, admin_port: int, tmp_path: Path
) -> None:
    Admin.answer = (status, answer)
    prepare(tmp_path, settings("127.0.0.1:1", "dead", admin={"port": admin_port, "token": "correct-horse-battery"}))
    done = run(tmp_path, "park", "user-events/0/7", "--by", "anna", "--why", "CS-17")
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert Admin.heard == [
        ("/park", "Bearer correct-horse-battery", {"record": "user-events/0/7", "by": "anna", "why": "CS-17"})
    ]
    assert "correct-horse" not in done.stdout + done.stderr


def test_without_a_token_or_a_worker_parking_says_so(tmp_path: Path) -> None:
    prepare(tmp_path, settings("127.0.0.1:1", "dead"))
    assert "admin.token" in run(tmp_path, "park", "user-events/0/7").stderr
    prepare(tmp_path, settings("127.0.0.1:1", "dead", admin={"port": 1, "token": "correct-horse-battery"}))
    done = run(tmp_path, "park", "user-events/0/7")
    assert done.returncode == 1
    assert "no worker answers there" in done.stderr
