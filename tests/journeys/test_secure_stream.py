"""The journey over SASL_SSL with the README's permissions and no more, from compressed transactions, by jwt and TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import bad_ones, executed_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess, until
from tests.journeys.transactions import Transactions
from tests.secure import USERS, SecureKafka, Way, readme_acls, unsigned_token
from worker.sandbox.events import SampleEvent, stream

Begin = Callable[..., AbstractAsyncContextManager[Journey]]
LOGIN = Way("SASL_SSL", "SCRAM-SHA-512")
# An attempt must fit into a session of four seconds.
QUICK = {"attempt_timeout_s": 1, "connect_timeout_s": 1}


@pytest.fixture
def begin(secure_kafka: SecureKafka, tmp_path: Path) -> Begin:
    return lambda **options: Journey.begin(secure_kafka.bootstrap, tmp_path, **options)


async def let_in(secure_kafka: SecureKafka, journey: Journey, user: str) -> dict[str, Any]:
    """Grant a user what the README says, and return the settings with which his worker comes in."""
    await secure_kafka.run(readme_acls(user=user, topic=journey.topic, letters=journey.dead_topic, group=journey.group))
    return secure_kafka.settings(LOGIN, user=user)


@pytest.mark.timeout(120)
async def test_what_was_committed_is_made_once_and_what_was_taken_back_never(begin: Begin, secure_kafka: SecureKafka):
    gigya = {"latency": {"ms": 5}}
    async with begin(partitions=4, gigya=gigya, tls=True) as journey, Transactions.opened(journey) as producer:
        secure = {"kafka": await let_in(secure_kafka, journey, "worker-1"), "site": by_jwt(journey)}
        events = list(stream(21, count=1_500, users=60))
        events, open_for_long = events[:-40], events[-40:]
        journey.secrets = {USERS["worker-1"]}
        never = list(stream(22, count=20, users=60, share_matching=1.0, share_bad=0.0))
        await producer.append(events[:900], taken_back=never)
        first = journey.start("first", **secure)
        await journey.executed_at_least(len(journey.expected) // 3)
        assert await first.stopped() == 0, first.tail()

        second = journey.start("second", **secure)
        await producer.append(events[900:], taken_back=never)
        await journey.all_done()  # to the ends, although the last record of each partition is a marker
        await an_open_transaction_is_seen_and_waited_for(journey, producer, open_for_long, second)
        await journey.all_done()
        assert await second.stopped() == 0, second.tail()

        await producer.append([], taken_back=never)
        last = journey.start("last", until_end=True, **secure)
        assert await last.ended() == 0, last.tail()
        assert "ledger  read 0 =" in last.stderr()
        await journey.all_done(limit_s=5)

        await check(journey)


def by_jwt(journey: Journey) -> dict[str, Any]:
    site = journey.gigya.site
    auth = {"mode": "jwt", "user_key": site["user_key"], "private_key": site["private_key"]}
    return {"ca_file": journey.gigya.ca_file, "auth": auth}


async def an_open_transaction_is_seen_and_waited_for(
    journey: Journey, producer: Transactions, open_for_long: list[SampleEvent], worker: WorkerProcess
) -> None:
    await producer.begin()
    written = await producer.write(open_for_long)

    async def is_seen() -> bool:
        _, text = await worker.get("/status")
        return sum(part["held_back"] for part in json.loads(text)["partitions"]) == len(open_for_long)

    await until("the records behind the open transaction are told", is_seen)
    status, readiness = await worker.readiness()
    assert status == 200, readiness
    assert readiness["kafka"]["held_back"] == len(open_for_long)
    before = await journey.gigya.executed_count()
    assert before == len(journey.expected)
    await producer.commit()
    journey.appended += written
    await journey.executed_at_least(len(journey.expected))


async def check(journey: Journey) -> None:
    executions = await journey.executions()
    tell(f"{len(journey.expected)} calls; {sum((await journey.broker.ends(journey.topic)).values())} offsets")
    assert executed_calls(executions) == journey.expected
    assert repeated(executions) == {}
    assert out_of_order(executions) == []
    bad = {f"{journey.topic}/{each.partition}/{each.offset}".encode() for each in bad_ones(journey.appended)}
    assert bad
    assert {letter.key for letter in await journey.dead_letters()} == bad


@pytest.mark.timeout(90)
async def test_while_dead_letters_may_not_be_written_readiness_says_so_and_their_records_wait(
    begin: Begin, secure_kafka: SecureKafka
):
    async with begin(partitions=2) as journey:
        worker = journey.start("worker", kafka=await let_in(secure_kafka, journey, "worker-2"))
        await journey.ready(worker)
        write = f"--allow-principal User:worker-2 --topic {journey.dead_topic} --operation Write"
        common = f"kafka-acls.sh --bootstrap-server {secure_kafka.kafka.bootstrap('SASL_SSL')}"
        await secure_kafka.run([f"{common} --remove {write}"])
        await journey.append(stream(31, count=200, users=40, share_bad=0.1))
        first_bad = {
            partition: min(each.offset for each in bad_ones(journey.appended) if each.partition == partition)
            for partition in (0, 1)
        }

        async def is_told() -> bool:
            status, readiness = await worker.readiness()
            return status == 503 and readiness["dead_letters"]["state"] == "failing"

        await until("readiness tells of the dead letters", is_told)
        part = (await worker.readiness())[1]["dead_letters"]
        assert part["text"].endswith(f"; grant it: {common} --add {write}")
        await journey.executed_at_least(len(journey.expected))  # what is good goes on

        async def is_committed_up_to_the_first() -> bool:
            return await journey.broker.committed(journey.group) == first_bad

        await until("offsets stand at the first bad records", is_committed_up_to_the_first)
        assert await journey.dead_letters() == []
        await secure_kafka.run([f"{common} --add {write}"])
        await journey.all_done()
        assert len(await journey.dead_letters()) == len(bad_ones(journey.appended))
        await journey.ready(worker)
        assert repeated(await journey.executions()) == {}

        read = f"--allow-principal User:worker-2 --topic {journey.topic} --operation Read"
        await secure_kafka.run([f"{common} --remove {read}"])
        assert await worker.ended() == 1
        assert f"grant it: {common} --add {read}" in worker.tail(3)
        assert "Traceback" not in worker.stderr()


@pytest.mark.timeout(90)
async def test_a_token_that_nobody_renews_is_told_by_readiness_and_a_new_one_needs_no_restart(
    begin: Begin, secure_kafka: SecureKafka, tmp_path: Path
):
    token = tmp_path / "token"
    token.write_text(unsigned_token("reader", ends_in_s=3600))
    way = Way("SASL_PLAINTEXT", "OAUTHBEARER")  # where the broker ends each login after some seconds
    async with begin(partitions=2) as journey:
        await let_in(secure_kafka, journey, "reader")
        settings = secure_kafka.settings(way, token_file=str(token))
        worker = journey.start("worker", kafka={**settings, "session_timeout_s": 4}, delivery=QUICK)
        await journey.ready(worker)
        token.write_text(unsigned_token("reader", ends_in_s=-5))

        async def is_told() -> dict[str, Any] | None:
            status, readiness = await worker.readiness()
            return readiness["kafka"] if status == 503 and readiness["kafka"]["state"] == "disconnected" else None

        told = await until("readiness tells of the connection", is_told)
        assert f"the token in kafka.security.token_file {token} expired" in told["reason"]
        await journey.append(stream(41, count=100, users=20))
        token.write_text(unsigned_token("reader", ends_in_s=3600))
        await journey.all_done()
        await journey.ready(worker)
        assert executed_calls(await journey.executions()) == journey.expected
        assert await worker.stopped() == 0
