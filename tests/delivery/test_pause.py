"""A pause: no request starts, calls and questions alike; what is in flight ends; nothing is held against anybody."""

from __future__ import annotations

from tests.delivery.fakes import OK, TIMEOUT, make_scene, reply
from worker.delivery.site_state import State
from worker.model import OutcomeKind

USERS = [f"u{number}" for number in range(10)]


async def test_no_request_starts_in_a_pause_and_all_go_on_after_it() -> None:
    scene = make_scene(OK, quota_per_s=100)
    scene.start()
    scene.sender.pause()
    scene.add(*USERS)
    await scene.advance(3600.0, step_s=60.0)
    assert not scene.transport.requests
    assert not scene.sender.is_open
    assert scene.sender.status().is_paused
    scene.sender.go_on()
    await scene.advance(1.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 10}
    await scene.stop()


async def test_what_is_in_flight_when_a_pause_begins_ends() -> None:
    scene = make_scene(OK)
    scene.transport.latency_s = 1.0
    scene.start()
    scene.add("u1")
    await scene.advance(0.1)
    scene.sender.pause()
    await scene.advance(2.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1}
    await scene.stop()


async def test_a_pause_asks_the_site_nothing_and_does_not_count_against_held_calls() -> None:
    scene = make_scene(lambda request: reply(403003) if request.uid else reply(500001), ask_limit_s=30.0)
    scene.start()
    scene.add("u1")
    await scene.advance(0.2)
    assert scene.sender.status().held == 1
    scene.sender.pause()
    before = len(scene.transport.requests)
    await scene.advance(300.0, step_s=1.0)
    assert len(scene.transport.requests) == before
    assert scene.sender.status().state is State.OPEN
    scene.transport.answer = lambda _: OK
    scene.sender.go_on()
    await scene.advance(5.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1}
    await scene.stop()


async def test_held_calls_are_decided_or_stop_the_site_after_a_pause_as_before_it() -> None:
    scene = make_scene(lambda request: reply(403003) if request.uid else reply(500001), ask_limit_s=30.0)
    scene.start()
    scene.add("u1")
    await scene.advance(0.2)
    scene.sender.pause()
    await scene.advance(100.0, step_s=1.0)
    scene.sender.go_on()
    await scene.advance(20.0, step_s=1.0)
    assert scene.sender.status().state is State.OPEN
    await scene.advance(20.0, step_s=1.0)
    assert scene.sender.status().reason == "undecided"
    await scene.stop()


async def test_an_outage_is_not_probed_in_a_pause() -> None:
    scene = make_scene(TIMEOUT)
    scene.transport.log = None
    scene.start()
    scene.add(*USERS)
    await scene.advance(5.0)
    assert scene.sender.status().state is State.OUTAGE
    scene.sender.pause()
    before = len(scene.transport.requests)
    await scene.advance(120.0, step_s=1.0)
    assert len(scene.transport.requests) == before
    scene.transport.answer = lambda _: OK
    scene.sender.go_on()
    await scene.advance(15.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 10}
    await scene.stop()


async def test_a_paused_member_wants_no_rate_of_the_group() -> None:
    scene = make_scene(OK, quota_per_s=1)
    scene.start()
    scene.add(*USERS)
    await scene.advance(1.5)
    assert scene.sender.calls_at_the_gate
    scene.sender.pause()
    assert not scene.sender.calls_at_the_gate
    await scene.stop()


async def test_the_status_tells_how_long_the_quota_makes_the_next_attempt_wait() -> None:
    scene = make_scene(OK, quota_per_s=0.1)
    await scene.once(scene.delivery("u1"))
    assert 9.0 < scene.sender.status().permit_in_s < 11.0
    await scene.clock.advance(12.0)
    assert scene.sender.status().permit_in_s == 0.0


async def test_a_call_that_an_operator_has_ended_in_doubt_leaves_nothing_open_behind() -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery("u1")
    await scene.once(delivery)
    assert delivery.doubt is not None
    assert any(scene.sender.ladder._left._open.values())
    scene.sender.abandon(delivery)
    assert not any(scene.sender.ladder._left._open.values())
    assert not any(noted.is_open for noted in delivery.doubt.attempts)
