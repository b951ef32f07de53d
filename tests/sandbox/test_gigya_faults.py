"""Does the local Gigya break as told, and execute exactly what its ledger says?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.sandbox.gigya_client import Client, config, serve
from worker.sandbox.gigya import Fault
from worker.sandbox.gigya_config import Action, Latency, Nonces, Quota
from worker.sandbox.gigya_engine import drawn_s
from worker.sandbox.gigya_faults import Faults


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the other end of a socket, which no manual clock moves."""
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def gives_up(call: Awaitable[Any]) -> None:
    """Run a call that hangs until the client gives up."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.05)


def last(client: Client) -> dict[str, Any]:
    arrival = client.gigya.ledger.arrivals[-1]
    return {"code": arrival.code, "fault": arrival.fault, "executed": arrival.executed, "answer": arrival.answer}


@pytest.mark.parametrize("code", [400124, 403000, 403048, 405001, 409030, 500001, 504002, 999999])
async def test_any_code_can_be_answered_without_an_execution(code: int) -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="code", code=code, count=1))
        answer = await client.notify()
        assert (answer.status, answer.code) == (200, code)
        assert last(client) == {"code": code, "fault": f"code:{code}", "executed": False, "answer": "sent"}
        assert (await client.notify()).code == 0


async def test_a_code_can_be_answered_although_the_call_was_executed() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="code", code=500001, executes=True))
        assert (await client.notify()).code == 500001
        assert last(client) == {"code": 0, "fault": "code:500001", "executed": True, "answer": "sent"}


async def test_further_fields_and_headers_can_be_given() -> None:
    async with serve() as client:
        fields = {"apiDomain": "eu1.gigya.com", "location": "https://gm.eu1.gigya.com/gm.notifyAction"}
        client.gigya.inject(Fault(kind="code", code=301001, fields=fields, headers={"Retry-After": "3"}))
        answer = await client.notify()
        assert answer.json["apiDomain"] == "eu1.gigya.com"
        assert answer.headers["Retry-After"] == "3"


async def test_an_injected_403003_carries_the_servers_base_string() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="code", code=403003))
        body = (await client.notify()).json
        assert body["baseString"].startswith("POST&http%3A%2F%2F127.0.0.1")
        assert len(body["expectedSignature"]) == 28


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "body"),
    [
        (Fault(kind="html"), 502, "text/html", b"<html>"),
        (Fault(kind="html", status=200), 200, "text/html", b"<html>"),
        (Fault(kind="status", status=429, headers={"Retry-After": "2"}), 429, "text/plain", b"Too Many"),
        (Fault(kind="status"), 503, "text/plain", b"Service Un"),
        (Fault(kind="empty"), 200, "application/json", b""),
        (Fault(kind="garbage"), 200, "application/json", b"\x80\x81"),
        (Fault(kind="redirect"), 302, "application/json", b""),
        (Fault(kind="wrong_content_type", executes=False), 200, "text/html", b'{"callId"'),
    ],
)
async def test_foreign_answers_come_from_in_front_of_the_api(
    fault: Fault, status: int, content_type: str, body: bytes
) -> None:
    async with serve() as client:
        client.gigya.inject(fault)
        answer = await client.notify(secret="AAAA")  # nobody there looks at the signature
        assert answer.status == status
        assert answer.headers["Content-Type"].startswith(content_type)
        assert answer.body.startswith(body)
        assert client.gigya.ledger.executed_total == 0
        assert fault.headers.items() <= answer.headers.items()


async def test_a_redirect_names_another_place() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="redirect", status=307, location="https://x.invalid/y"))
        answer = await client.notify()
        assert (answer.status, answer.headers["Location"]) == (307, "https://x.invalid/y")


@pytest.mark.parametrize("kind", ["truncated", "wrong_content_type"])
async def test_a_spoilt_answer_follows_an_execution(kind: Any) -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind=kind))
        answer = await client.notify()
        assert answer.status == 200
        assert answer.body.endswith(b"}") == (kind == "wrong_content_type")
        assert client.gigya.ledger.executed_total == 1


async def test_a_cut_answer_breaks_off_in_the_body() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="cut"))
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.notify()
        assert client.gigya.ledger.executed_total == 1


async def test_a_slow_body_comes_whole_in_the_end() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="slow_body", ms=60))
        begun = time.monotonic()
        assert (await client.notify()).code == 0
        assert time.monotonic() - begun >= 0.06


@pytest.mark.parametrize(("kind", "executed"), [("reset_before_execution", 0), ("reset_after_execution", 1)])
async def test_a_reset_closes_the_connection_with_or_without_an_execution(kind: Any, executed: int) -> None:
    async with serve() as client:
        await client.notify(uid="warm-up")
        client.gigya.reset()
        client.gigya.inject(Fault(kind=kind, count=1))
        with pytest.raises(aiohttp.ClientError):
            await client.notify()
        assert client.gigya.ledger.executed_total == executed
        await until(lambda: last(client)["answer"] == "none")
        assert (await client.notify()).code == 0


@pytest.mark.parametrize(("kind", "executed"), [("timeout_before", 0), ("timeout_after", 1)])
async def test_a_time_out_never_answers_and_ends_when_the_client_hangs_up(kind: Any, executed: int) -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind=kind, count=1))
        await gives_up(client.notify())
        assert client.gigya.ledger.executed_total == executed
        await until(lambda: last(client)["answer"] == "none")
        assert client.gigya.ledger.in_flight_total == 0
        assert (await client.notify()).code == 0


async def test_a_slow_call_is_executed_late_although_the_client_is_gone() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="slow", ms=120, count=1))
        await gives_up(client.notify())
        assert client.gigya.ledger.executed_total == 0
        await until(lambda: client.gigya.ledger.executed_total == 1)
        assert client.gigya.ledger.executed[0].arrival == 1


async def test_of_a_late_first_copy_and_its_resend_one_is_executed() -> None:
    async with serve(config(nonces=Nonces(burnt="after_refusals"))) as client:
        client.gigya.inject(Fault(kind="slow", ms=100, count=1))
        sent = client.signed("gm.notifyAction", UID="u", action="a")
        await gives_up(client.send("gm.notifyAction", sent))
        assert (await client.send("gm.notifyAction", sent)).code == 0
        await until(lambda: client.gigya.ledger.arrivals[0].code is not None)
        assert client.gigya.ledger.arrivals[0].code == 403004
        assert client.gigya.ledger.executed_total == 1


async def test_a_lost_answer_can_be_that_of_a_refusal() -> None:
    async with serve(config(site={"actions": {"a": Action(daily_cap=0)}})) as client:
        client.gigya.inject(Fault(kind="timeout_after", count=1))
        await gives_up(client.notify(action="a"))
        await until(lambda: last(client)["answer"] == "none")
        assert last(client) == {"code": 400124, "fault": "timeout_after", "executed": False, "answer": "none"}


async def test_a_lost_answer_can_be_that_of_a_throttling_when_lost_in_front() -> None:
    async with serve(config(site={"quota": Quota(per_s=1)})) as client:
        await client.notify()
        client.gigya.inject(Fault(kind="reset_after_execution", stage="front"))
        with pytest.raises(aiohttp.ClientError):
            await client.notify()
        assert client.gigya.ledger.arrivals[-1].code == 403048


@pytest.mark.parametrize(("burnt", "code"), [("before_refusals", 403004), ("after_refusals", 0)])
async def test_an_injected_code_burns_the_nonce_when_refusals_do(burnt: Any, code: int) -> None:
    async with serve(config(nonces=Nonces(burnt=burnt))) as client:
        client.gigya.inject(Fault(kind="code", code=500001, count=1))
        assert (await client.notify(nonce="n")).code == 500001
        assert (await client.notify(nonce="n")).code == code


async def test_what_breaks_in_front_of_the_api_burns_no_nonce() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="html", count=1))
        await client.notify(nonce="n")
        assert (await client.notify(nonce="n")).code == 0


async def test_a_fault_meets_only_what_it_names() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="code", code=500001, method="gm.notifyAction", uid="bad"))
        assert (await client.notify(uid="good")).code == 0
        assert (await client.publish(uid="bad")).code == 0
        assert (await client.notify(uid="bad")).code == 500001
        client.gigya.faults.clear()
        client.gigya.inject(Fault(kind="code", code=500001, site="other"))
        assert (await client.notify(uid="bad")).code == 0


async def test_a_fault_can_skip_some_and_ends_after_its_count_or_its_time() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="code", skip=1, count=2))
        assert [(await client.notify()).code for _ in range(4)] == [0, 500001, 500001, 0]
        client.gigya.inject(Fault(kind="code", duration_s=10))
        client.moments.advance(9)
        assert (await client.notify()).code == 500001
        client.moments.advance(1)
        assert (await client.notify()).code == 0
        assert client.gigya.faults.injected == {}


def test_a_share_is_met_at_random_and_the_same_again_with_the_same_seed() -> None:
    def met(seed: int) -> list[bool]:
        faults = Faults()
        faults.inject(Fault(kind="html", share=0.2, seed=seed), 0.0)
        return [faults.pick("front", "main", "m", "u", 0.0).fault is not None for _ in range(1000)]

    assert met(1) == met(1) != met(2)
    assert 150 < sum(met(1)) < 250


def test_delays_add_up_and_the_oldest_fault_is_taken() -> None:
    faults = Faults()
    for fault in (Fault(kind="slow", ms=10), Fault(kind="slow", ms=20), Fault(kind="html"), Fault(kind="empty")):
        faults.inject(fault, 0.0)
    picked = faults.pick("front", "main", "m", "u", 0.0)
    assert picked.fault is not None
    assert (picked.fault.kind, picked.delay_s) == ("html", pytest.approx(0.03))


async def test_an_outage_meets_everything_until_it_is_over() -> None:
    async with serve() as client:
        client.gigya.begin_outage()
        assert (await client.notify()).status == 503
        client.gigya.begin_outage(Fault(kind="reset_before_execution"))
        with pytest.raises(aiohttp.ClientError):
            await client.call("gm.getActionConfig")
        client.gigya.end_outage()
        client.gigya.end_outage()
        assert (await client.notify()).code == 0


async def test_latency_is_waited_for_before_the_execution() -> None:
    async with serve(config(latency=Latency(ms=30))) as client:
        begun = time.monotonic()
        assert (await client.notify()).code == 0
        assert time.monotonic() - begun >= 0.03


def test_latencies_follow_their_distribution() -> None:
    rng = random.Random(1)
    uniform = [drawn_s(Latency(distribution="uniform", ms=5, upper_ms=10), rng) for _ in range(500)]
    assert 0.005 <= min(uniform) < max(uniform) <= 0.010
    skewed = sorted(drawn_s(Latency(distribution="lognormal", ms=10, upper_ms=100), rng) for _ in range(2000))
    assert 0.009 < skewed[1000] < 0.011
    assert 0.07 < skewed[1980] < 0.14
    assert drawn_s(Latency(distribution="lognormal", ms=10), rng) == 0.01


async def test_a_stopped_server_hangs_on_nothing_and_comes_back_with_its_memory() -> None:
    async with serve() as client:
        client.gigya.inject(Fault(kind="timeout_before"))
        hanging = asyncio.create_task(client.notify())
        await until(lambda: client.gigya.ledger.in_flight_total == 1)
        port = int(client.gigya.base_url.rpartition(":")[2])
        await client.gigya.stop()
        with pytest.raises(aiohttp.ClientError):
            await hanging
        await client.gigya.start(port=port)
        client.gigya.faults.clear()
        assert (await client.notify()).code == 0
        assert client.gigya.ledger.arrivals_total == 2
