"""A key is exchanged while calls are under way: nothing is lost, and the old key's refusals decide nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.delivery.fakes import OK, Answer, Request, make_scene, reply
from worker.delivery.deliveries import Later
from worker.delivery.site_state import State
from worker.gigya.authorization import SecretCredentials
from worker.model import Outcome, OutcomeKind

OLD, NEW = SecretCredentials("3_key", "user", "old"), SecretCredentials("3_key", "user", "new")
WRONG = SecretCredentials("3_key", "user", "wrong")


def by_secret(*accepted: str, code: int = 403010) -> object:
    good = list(accepted)

    def answer(request: Request) -> Answer:
        return OK if request.params.get("secret") in good else reply(code)

    return answer


def secrets_of(requests: list[Request]) -> list[str | None]:
    return [request.params.get("secret") for request in requests]


async def test_the_next_attempt_uses_the_new_key() -> None:
    scene = make_scene()
    scene.sender.rotate(OLD)
    await scene.once(scene.delivery())
    scene.sender.rotate(NEW)
    await scene.once(scene.delivery())
    assert secrets_of(scene.transport.requests) == ["old", "new"]


@pytest.mark.parametrize("code", [403010, 403003, 403005, 400008, 403007])
async def test_a_refusal_of_a_request_with_the_old_key_is_not_heard(code: int) -> None:
    scene = make_scene(by_secret("new", code=code))
    scene.sender.rotate(OLD)
    scene.transport.latency_s = 1.0
    delivery = scene.delivery()
    attempt = asyncio.ensure_future(scene.once(delivery))
    await scene.clock.advance(0.5)
    scene.sender.rotate(NEW)
    await scene.clock.advance(1.0)
    assert await attempt == Later("key_rotated", 0.0)
    assert scene.sender.is_open
    again = asyncio.ensure_future(scene.once(delivery))
    await scene.clock.advance(1.5)
    result = await again
    assert isinstance(result, Outcome)
    assert result.kind is OutcomeKind.DELIVERED
    assert not scene.transport.questions


async def test_a_call_in_flight_keeps_its_own_key_and_its_success_counts() -> None:
    scene = make_scene(by_secret("old", "new"))
    scene.sender.rotate(OLD)
    scene.transport.latency_s = 1.0
    attempt = asyncio.ensure_future(scene.once(scene.delivery()))
    await scene.clock.advance(0.5)
    scene.sender.rotate(NEW)
    await scene.clock.advance(1.0)
    result = await attempt
    assert isinstance(result, Outcome)
    assert result.kind is OutcomeKind.DELIVERED
    assert secrets_of(scene.transport.requests) == ["old"]


@pytest.mark.parametrize("code", [403010, 403003, 403005, 400008])
async def test_a_site_that_is_stopped_for_its_key_is_tried_at_once_after_a_rotation(code: int) -> None:
    scene = make_scene(by_secret("new", code=code), ask_limit_s=5)
    scene.sender.rotate(OLD)
    scene.start()
    scene.add(*(f"u{n}" for n in range(8)))
    await scene.advance(600.0, step_s=1.0)
    assert scene.sender.status().state is State.STOPPED
    assert not scene.ended
    scene.sender.rotate(NEW)
    await scene.advance(0.3, step_s=0.01)
    assert scene.sender.is_open, "ten minutes into a stop the next probe by itself is half a minute away"
    assert scene.kinds() == {OutcomeKind.DELIVERED: 8}
    await scene.stop()


async def test_a_wrong_key_after_a_wrong_key_stays_stopped_and_loses_nothing() -> None:
    scene = make_scene(by_secret("new"))
    scene.sender.rotate(OLD)
    scene.start()
    scene.add("u1", "u2", "u3")
    await scene.advance(30.0, step_s=0.5)
    before = len(scene.transport.requests)
    scene.sender.rotate(WRONG)
    await scene.advance(0.3)
    assert "wrong" in secrets_of(scene.transport.requests[before:])
    assert scene.sender.status().state is State.STOPPED
    assert len(scene.transport.requests) < before + 4, "one probe at once, then as before"
    scene.sender.rotate(NEW)
    await scene.advance(0.5)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 3}
    await scene.stop()


async def test_a_probe_with_the_old_key_that_is_out_during_the_rotation_does_not_delay_the_next() -> None:
    scene = make_scene(by_secret("new"))
    scene.sender.rotate(OLD)
    scene.start()
    scene.add("u1", "u2", "u3")
    await scene.advance(300.0, step_s=1.0)
    scene.transport.latency_s = 1.0
    before = len(scene.transport.requests)
    while len(scene.transport.requests) == before:
        await scene.clock.advance(0.1)
    scene.sender.rotate(NEW)
    await scene.advance(2.5)
    assert scene.sender.is_open
    await scene.advance(3.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 3}
    await scene.stop()


async def test_held_calls_are_asked_about_with_the_new_key() -> None:
    scene = make_scene(by_secret("new", code=403003))
    scene.sender.rotate(OLD)
    scene.transport.latency_s = 1.0
    scene.start()
    scene.add("u1", "u2")
    await scene.advance(1.3)  # both are held, and the question is out with the old key
    assert scene.sender.status().held == 2
    assert secrets_of(scene.transport.questions) == ["old"]
    scene.sender.rotate(NEW)
    await scene.advance(6.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 2}
    assert scene.sender.is_open
    assert secrets_of(scene.transport.questions)[1:] == ["new"]
    await scene.stop()


async def test_the_old_keys_success_does_not_make_the_new_keys_refusal_a_calls_own_matter() -> None:
    """The new key is not active yet while requests with the old one still come home."""
    good = {"old"}

    def answer(request: Request) -> Answer:
        return OK if request.params["secret"] in good and request.uid != "slow" else reply(403003)

    scene = make_scene(answer, ask_limit_s=3600)
    scene.sender.rotate(OLD)
    scene.start()
    scene.transport.latency_s = 1.0
    scene.add("slow", *(f"u{n}" for n in range(5)))
    await scene.advance(0.5)
    scene.sender.rotate(NEW)
    await scene.advance(60.0)
    assert OutcomeKind.FAILED not in scene.kinds()
    scene.add(*(f"v{n}" for n in range(5)))
    await scene.advance(60.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 5}
    assert scene.sender.status().state is State.STOPPED
    good.add("new")
    await scene.advance(120.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 10, OutcomeKind.FAILED: 1}  # slow is refused by a good key, too
    await scene.stop()


def test_no_attempt_shows_what_it_sends() -> None:
    scene = make_scene()
    scene.sender.rotate(NEW)
    request = scene.sender._signer.sign(scene.delivery().call.method, {"UID": "somebody"})
    assert b"new" in request.body
    assert "new" not in repr(request)
    assert "somebody" not in repr(request)
