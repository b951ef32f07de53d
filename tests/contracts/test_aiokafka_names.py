"""The private names of aiokafka that worker/kafka leans on, seen working against a real broker.

They may change with any release; the version is pinned, and whoever raises it meets this file first.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
from collections.abc import AsyncIterator, Callable

import aiokafka.conn
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator, NoGroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest, SyncGroupRequest

from tests.contracts.harness import SESSION_TIMEOUT_S, KafkaScene, Owner
from worker.errors import CommitRefused
from worker.kafka.client import KafkaProducer
from worker.kafka.closing import _abandon
from worker.kafka.login import _TokenLogin
from worker.kafka.source import CommitFailed, KafkaSource, Position

OAuthAuthenticator = _TokenLogin.__base__  # the library's own: ours stands in its place


@pytest.fixture
async def scene(kafka_bootstrap: str, fresh_name: Callable[[str], str]) -> AsyncIterator[KafkaScene]:
    made = KafkaScene(kafka_bootstrap, fresh_name)
    yield made
    await made.close()


@pytest.fixture
async def joined(scene, fresh_name):
    partitions = await scene.topic(2)
    source = scene.source([partitions[0].topic], fresh_name("group"))
    await source.start(Owner())
    yield source, partitions
    await source.stop()


def coordinator_of(source: KafkaSource) -> GroupCoordinator:
    return source._consumer._coordinator


def test_the_version_is_the_one_whose_source_was_read():
    assert importlib.metadata.version("aiokafka") == "0.14.0"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GroupCoordinator._send_req, ["self", "request"]),
        (GroupCoordinator._do_commit_offsets, ["self", "assignment", "offsets"]),
        (GroupCoordinator.commit_offsets, ["self", "assignment", "offsets"]),
        (GroupCoordinator.fetch_committed_offsets, ["self", "partitions"]),
        (GroupCoordinator.request_rejoin, ["self"]),
        (GroupCoordinator.check_errors, ["self"]),
        (OAuthAuthenticator.step, ["self", "payload"]),
        (AIOKafkaAdminClient._send_request, ["self", "request", "node_id"]),
    ],
)
def test_the_methods_that_are_wrapped_or_called_take_what_they_took(method, parameters):
    assert list(inspect.signature(method).parameters) == parameters


def test_a_commit_is_built_before_anything_is_awaited():
    """What makes "still a member?" and the commit one step."""
    source = inspect.getsource(GroupCoordinator._do_commit_offsets)
    before = source[: source.index("await ")]
    assert "self.generation" in before
    assert "self.member_id" in before
    assert "OffsetCommitRequest(" in before


async def test_the_library_by_itself_still_takes_a_refused_token_for_an_accepted_one():
    """If not, worker/kafka/login.py need not put a login of its own in the library's place."""

    class Token(AbstractTokenProvider):
        async def token(self) -> str:
            return "token"

    login = OAuthAuthenticator(sasl_oauth_token_provider=Token())
    await login.step(None)
    assert await login.step(b'{"status":"invalid_token"}') is None
    assert aiokafka.conn.OAuthAuthenticator is _TokenLogin


async def test_a_heartbeat_that_is_answered_renews_the_lease(joined):
    source, _ = joined
    coordinator = coordinator_of(source)
    before_s = source.lease_valid_until_s()
    assert await coordinator._do_heartbeat()
    assert source.lease_valid_until_s() > before_s


async def test_heartbeats_of_the_library_itself_pass_the_wrapper(joined):
    source, _ = joined
    before_s = source.lease_valid_until_s()
    async with asyncio.timeout(10):
        while source.lease_valid_until_s() == before_s:
            await source.read((), max_records=1, timeout_s=0.1)
    assert issubclass(HeartbeatRequest, object)
    assert issubclass(SyncGroupRequest, object)


async def test_a_member_that_the_group_has_dropped_has_no_lease_and_commits_nothing(joined):
    """As after a long stop of the process: its partitions may be another's, and nobody has told it."""
    source, partitions = joined
    coordinator = coordinator_of(source)
    await coordinator._stop_heartbeat_task()
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
    with pytest.raises(CommitRefused):
        await source.commit({partitions[0]: Position(0)})


async def test_a_commit_from_outside_the_group_is_refused_though_the_broker_would_take_it(joined):
    source, partitions = joined
    coordinator = coordinator_of(source)
    await coordinator._stop_heartbeat_task()
    # An empty group takes a commit of anybody who names no member.
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
    coordinator.generation, coordinator.member_id = -1, ""
    with pytest.raises(CommitRefused):
        await source.commit({partitions[0]: Position(0)})


async def test_an_unknown_member_learns_from_its_heartbeat_that_the_lease_is_over(joined):
    source, _ = joined
    coordinator = coordinator_of(source)
    coordinator.generation += 5
    assert not await coordinator._do_heartbeat()
    assert source.lease_valid_until_s() == float("-inf")


async def test_without_a_lease_a_commit_waits_for_better_times(joined, monkeypatch):
    source, partitions = joined
    monkeypatch.setattr(source._membership, "_last_sign_s", float("-inf"))
    with pytest.raises(CommitFailed):
        await source.commit({partitions[0]: Position(0)})


async def test_metadata_that_the_broker_refuses_leaves_the_offset_alone(joined):
    source, partitions = joined
    await source.commit({partitions[0]: Position(0, "x" * 4096)})
    assert await source.committed(partitions[:1]) == {partitions[0]: Position(0, "x" * 4096)}
    await source.commit({partitions[0]: Position(0, "x" * 4097)})
    assert await source.committed(partitions[:1]) == {partitions[0]: Position(0, "")}


async def test_positions_pass_the_markers_of_transactions_and_taken_back_events_never_happened(scene, fresh_name):
    (partition,) = await scene.topic()
    producer = AIOKafkaProducer(bootstrap_servers=scene.bootstrap, transactional_id=fresh_name("transaction"))
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(partition.topic, b"kept", partition=0)
    await producer.begin_transaction()
    await producer.send_and_wait(partition.topic, b"taken back", partition=0)
    await producer.abort_transaction()
    await producer.stop()
    source = scene.source([partition.topic], fresh_name("group"))
    await source.start(Owner())
    values = []
    async with asyncio.timeout(10):
        while source.position(partition) < 4:
            for batch in (await source.read([partition], max_records=10, timeout_s=0.1)).values():
                values += [record.value for record in batch]
    assert values == [b"kept"]
    assert await source.end_offsets([partition]) == {partition: 4}
    await source.stop()


async def with_a_failed_fetch(source: KafkaSource) -> AIOKafkaConsumer:
    """Start a source whose fetches fail, and return its consumer when one has: the next one waits a second."""
    await source.start(Owner())
    consumer = source._consumer
    has_failed, send = asyncio.Event(), consumer._client.send

    async def failing(node: int, request: object, **options: object) -> object:
        if type(request).__name__.startswith("Fetch"):
            has_failed.set()
            raise KafkaConnectionError("gone")
        return await send(node, request, **options)

    consumer._client.send = failing
    async with asyncio.timeout(10):
        await has_failed.wait()
    return consumer


async def test_a_source_whose_fetch_has_just_failed_leaves_its_group_and_does_not_seem_cancelled(scene, fresh_name):
    (partition,) = await scene.topic()
    group = fresh_name("group")
    source = scene.source([partition.topic], group)
    await with_a_failed_fetch(source)

    await source.stop()

    other = scene.source([partition.topic], group)
    async with asyncio.timeout(SESSION_TIMEOUT_S - 2):  # else it is kept waiting until a session has ended
        await other.start(Owner())
    await other.stop()
    assert not [task for task in asyncio.all_tasks() if "aiokafka" in str(task.get_coro())]


async def test_the_library_itself_lets_a_cancellation_out_of_its_stop(scene, fresh_name):
    """When this fails, `_stopped` of worker/kafka/closing.py may go."""
    (partition,) = await scene.topic()
    source = scene.source([partition.topic], fresh_name("group"))
    consumer = await with_a_failed_fetch(source)
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    await _abandon(consumer)
    await source.stop()


async def test_a_producer_that_does_not_deliver_is_replaced(scene, fresh_name):
    (partition,) = await scene.topic(settings={"cleanup.policy": "compact"})
    producer: KafkaProducer = scene.producer(partition.topic)
    await producer.start()
    first = producer._producer
    await producer._give_up_on(first)
    await producer.send(partition.topic, b"k", b"v", [])
    assert producer._producer is not first
    await producer.stop()


def test_the_names_of_the_consumer_and_the_producer_are_there():
    for owner, names in (
        (AIOKafkaConsumer.__init__, ("_client", "_subscription", "_fetcher", "_coordinator")),
        (
            GroupCoordinator.__init__,
            ("generation", "member_id", "_coordination_task", "_heartbeat_task", "_commit_refresh_task"),
        ),
        (NoGroupCoordinator.__init__, ("_reset_committed_task",)),
        (Fetcher.__init__, ("_fetch_task", "_pending_tasks")),
        (AIOKafkaProducer.__init__, ("client", "_sender", "_closed")),
    ):
        text = inspect.getsource(owner)
        assert [name for name in names if f"self.{name}" not in text] == []
