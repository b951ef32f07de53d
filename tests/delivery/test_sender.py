"""What one attempt makes of every verdict: an Outcome, or Later, and what it costs."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.delivery.fakes import (
    BAD_GATEWAY,
    OK,
    REFUSED_CONNECTION,
    TIMEOUT,
    Scene,
    make_scene,
    reply,
    sequence,
    settle,
)
from worker.delivery.quota import QuotaState
from worker.delivery.sender import Later
from worker.delivery.site_state import State
from worker.gigya.calls import PUBLISH_USER_ACTION
from worker.gigya.replies import NoReply, VerdictKind
from worker.model import Outcome, OutcomeKind


def metric(scene: Scene, name: str, **labels: str) -> float:
    return scene.metrics.registry.get_sample_value(f"gigya_worker_{name}", {"site": "main", **labels}) or 0.0


async def until_ended(scene: Scene, delivery, *, most: int = 100) -> tuple[Outcome, list[float]]:  # type: ignore[no-untyped-def]
    """Attempt again and again, honouring the pauses; return the outcome and the pauses."""
    waits: list[float] = []
    for _ in range(most):
        result = await scene.once(delivery)
        if isinstance(result, Outcome):
            return result, waits
        assert result.wait_s is not None
        waits.append(result.wait_s)
        await scene.clock.advance(result.wait_s)
    raise AssertionError(f"no end after {most} attempts")


async def test_an_accepted_call_is_delivered_with_its_call_id() -> None:
    scene = make_scene(OK)
    outcome = await scene.once(scene.delivery())
    assert outcome == Outcome(OutcomeKind.DELIVERED, "ok", code=0, call_id="c0", attempts=1)
    assert metric(scene, "attempts_total", verdict="ok", reason="ok") == 1


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (400124, OutcomeKind.CAPPED, "limit_reached"),
        (400126, OutcomeKind.FAILED, "invalid_action"),
        (404003, OutcomeKind.FAILED, "user_unknown"),
        (400002, OutcomeKind.FAILED, "missing_parameter"),
        (403041, OutcomeKind.FAILED, "user_disabled"),
    ],
)
async def test_a_refusal_of_the_call_ends_it_at_once(code: int, kind: OutcomeKind, reason: str) -> None:
    scene = make_scene(reply(code))
    outcome = await scene.once(scene.delivery())
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.reason, outcome.code, outcome.maybe_executed) == (kind, reason, code, False)


async def test_every_attempt_has_its_own_nonce_and_the_time_of_its_permit() -> None:
    scene = make_scene(sequence(TIMEOUT, OK))
    delivery = scene.delivery()
    await scene.once(delivery)
    await scene.clock.advance(100.0)
    await scene.once(delivery)
    first, second = scene.transport.requests
    assert first.params["nonce"] != second.params["nonce"]
    assert int(second.params["timestamp"]) - int(first.params["timestamp"]) == 100


async def test_a_request_does_not_age_while_it_waits_for_its_permit() -> None:
    scene = make_scene(OK)
    scene.sender.pause()
    waiting = asyncio.ensure_future(scene.once(scene.delivery()))
    await scene.advance(300.0, step_s=100.0)
    scene.sender.go_on()
    assert isinstance(await waiting, Outcome)
    (request,) = scene.transport.requests
    assert int(request.params["timestamp"]) == int(scene.clock.now_s())


async def test_failures_by_the_calls_own_fault_are_capped_by_attempts() -> None:
    scene = make_scene(BAD_GATEWAY, attempts=5)
    outcome, waits = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason, outcome.attempts) == (OutcomeKind.FAILED, "bad_gateway", 5)
    assert not outcome.maybe_executed  # the log has said so after each of them
    assert sum(waits) <= 5 * 3.0 + sum(0.5 * 2**n for n in range(5))


async def test_failures_by_the_calls_own_fault_are_capped_by_age() -> None:
    scene = make_scene(TIMEOUT, attempts=1000, give_up_after_s=600)
    outcome, waits = await until_ended(scene, scene.delivery())
    assert outcome.kind is OutcomeKind.FAILED
    assert sum(waits) + 0.001 > 600 - 120


async def test_a_busy_user_uses_age_only_and_waits_up_to_half_a_minute() -> None:
    scene = make_scene(reply(409030), attempts=2, give_up_after_s=300)
    outcome, waits = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "user_busy")
    assert outcome.attempts > 10
    assert max(waits) <= 30.0
    assert not outcome.maybe_executed


async def test_a_request_that_never_arrived_uses_no_budget() -> None:
    scene = make_scene(REFUSED_CONNECTION, attempts=2, give_up_after_s=1)
    delivery = scene.delivery()
    for _ in range(50):
        result = await scene.once(delivery)
        assert isinstance(result, Later)
        await scene.clock.advance(result.wait_s or 0.0)
    assert delivery.budget.attempts == 0
    assert not delivery.may_be_executed


async def test_throttling_uses_no_budget_and_lowers_the_rate() -> None:
    scene = make_scene(sequence(*[reply(403048)] * 20, OK), quota_per_s=100, attempts=1, give_up_after_s=1)
    delivery = scene.delivery()
    for _ in range(20):
        admit = asyncio.ensure_future(scene.sender.admit())
        await scene.advance(650.0, step_s=10.0)
        assert await scene.sender.attempt(delivery, await admit) == Later("rate_limited", 0.0)
    assert (scene.sender.status().rate_per_s or 0) < 100
    assert metric(scene, "throttled_total") == 20
    assert (delivery.budget.attempts, delivery.budget.age_s) == (0, 0.0)
    admit = asyncio.ensure_future(scene.sender.admit())
    await scene.advance(900.0, step_s=5.0)
    outcome = await scene.sender.attempt(delivery, await admit)
    assert isinstance(outcome, Outcome)
    assert outcome.kind is OutcomeKind.DELIVERED


async def test_throttling_again_and_again_at_the_lowest_rate_is_an_alert() -> None:
    scene = make_scene(reply(403048), quota_per_s=50)
    scene.start()
    scene.add("u1", "u2")
    with capture_logs() as lines:
        await scene.advance(600.0, step_s=1.0)
    assert scene.sender.status().quota is QuotaState.EXHAUSTED
    assert any(line["event"] == "site.throttled" and line["log_level"] == "error" for line in lines)
    assert len(scene.transport.requests) < 40
    scene.transport.answer = lambda _: OK
    await scene.advance(650.0, step_s=1.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 2}
    await scene.stop()


async def test_retry_after_is_honoured_for_a_lane_and_for_the_site() -> None:
    busy = reply(400125)
    scene = make_scene(type(busy)(**{**_fields(busy), "retry_after_s": 17.0}))
    result = await scene.once(scene.delivery())
    assert isinstance(result, Later)
    assert result.wait_s is not None
    assert result.wait_s >= 17.0


def _fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


async def test_a_wrong_clock_is_corrected_from_the_date_header_and_the_call_signed_again() -> None:
    scene = make_scene()
    there_s = scene.clock.now_s() + 3600

    def answer(request):  # type: ignore[no-untyped-def]
        is_close = abs(int(request.params["timestamp"]) - there_s) < 60
        return reply(0 if is_close else 403002, date_s=there_s)

    scene.transport.answer = answer
    delivery = scene.delivery()
    assert await scene.once(delivery) == Later("request_expired", 0.0)
    outcome = await scene.once(delivery)
    assert isinstance(outcome, Outcome)
    assert outcome.kind is OutcomeKind.DELIVERED
    assert delivery.budget.attempts == 0
    assert scene.sender.status().clock_offset_s == pytest.approx(3600, abs=1)


async def test_a_slow_answer_moves_the_idea_of_the_sites_clock_no_further_than_the_quick_ones_allow() -> None:
    scene = make_scene()
    takes_s = [0.05, 9.0, 0.05, 6.0]

    def answer(request):  # type: ignore[no-untyped-def]
        scene.clock.step_monotonic(takes_s.pop(0))
        return reply(0, date_s=float(int(scene.clock.now_s() + 60.0)))  # written when all of that had passed

    scene.transport.answer = answer
    while takes_s:
        await scene.once(scene.delivery())
        assert scene.sender.status().clock_offset_s == pytest.approx(60, abs=1)


async def test_requests_that_were_underway_when_the_clock_was_corrected_do_not_count_against_the_site() -> None:
    scene = make_scene()
    there_s = scene.clock.now_s() + 3600
    scene.transport.answer = lambda request: reply(
        0 if abs(int(request.params["timestamp"]) - there_s) < 90 else 403002, date_s=there_s
    )
    scene.transport.latency_s = 0.2
    scene.start()
    scene.add(*[f"u{n}" for n in range(50)])
    await scene.advance(2.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 50}
    assert scene.sender.is_open
    await scene.stop()


async def test_three_refusals_right_after_corrections_stop_the_site_and_lose_nothing() -> None:
    scene = make_scene(lambda _: reply(403002, date_s=scene.clock.now_s()))
    scene.start()
    scene.add(*[f"u{n}" for n in range(20)])
    await scene.advance(30.0)
    status = scene.sender.status()
    assert (status.state, status.reason, status.code) == (State.STOPPED, "clock_refused", 403002)
    assert not scene.ended
    assert len(scene.transport.calls()) < 20 * 3
    scene.transport.answer = lambda _: OK
    await scene.advance(30.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 20}
    await scene.stop()


async def test_a_duplicate_nonce_is_signed_afresh_and_then_uses_the_budget() -> None:
    scene = make_scene(reply(403004), attempts=3)
    outcome, _ = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason, outcome.attempts) == (OutcomeKind.FAILED, "duplicate_nonce", 4)
    assert scene.sender.is_open


async def test_a_stale_call_is_never_sent() -> None:
    scene = make_scene(OK)
    outcome = await scene.once(scene.delivery(stale_at_s=scene.clock.now_s() - 1))
    assert outcome == Outcome(OutcomeKind.STALE, "stale")
    assert not scene.transport.requests


async def test_a_request_that_may_not_be_written_is_put_off_and_blames_nobody() -> None:
    allowed = True
    scene = make_scene(OK, may_write=lambda: allowed)
    delivery = scene.delivery()
    for _ in range(10):
        permit = await scene.sender.admit()
        allowed = False  # the lease ends while the connection is being opened
        assert await scene.sender.attempt(delivery, permit) == Later("not_sent", 0.25)
        allowed = True
    outcome = await scene.once(delivery)
    assert isinstance(outcome, Outcome)
    assert scene.sender.is_open
    assert len(scene.transport.requests) == 1


async def test_without_a_lease_nobody_is_admitted_and_no_permit_is_lost() -> None:
    allowed = False
    scene = make_scene(OK, quota_per_s=10.0, may_write=lambda: allowed)
    scene.start()
    scene.add("u1", "u2", "u3")
    await scene.advance(60.0)
    assert not scene.transport.requests
    assert not scene.later
    assert not scene.sender.is_open
    allowed = True
    await scene.advance(1.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 3}
    await scene.stop()


async def test_an_override_of_the_settings_decides() -> None:
    scene = make_scene(reply(400126), verdicts={400126: VerdictKind.STOP})
    assert await scene.once(scene.delivery()) == Later("stopped", 0.0)
    assert scene.sender.status().code == 400126


async def test_a_publish_goes_again_only_to_the_providers_that_failed_for_now() -> None:
    partly = reply(
        0,
        providerErrorCodes=[
            {"provider": "facebook", "errorCode": 0},
            {"provider": "twitter", "errorCode": 500023},
            {"provider": "linkedin", "errorCode": 403023},
        ],
    )
    scene = make_scene(sequence(partly, reply(0, providerErrorCodes=[{"provider": "twitter", "errorCode": 0}])))
    outcome, _ = await until_ended(scene, scene.delivery(method=PUBLISH_USER_ACTION))
    assert outcome.kind is OutcomeKind.DELIVERED
    assert outcome.details == {"facebook": "ok", "twitter": "ok", "linkedin": "403023 provider_permission"}
    assert [r.params.get("enabledProviders") for r in scene.transport.requests] == [None, "twitter"]


async def test_a_publish_that_one_provider_took_is_delivered_whatever_becomes_of_the_others() -> None:
    partly = reply(
        0, providerErrorCodes=[{"provider": "facebook", "errorCode": 0}, {"provider": "twitter", "errorCode": 500023}]
    )
    scene = make_scene(sequence(partly, reply(500023)), attempts=3)
    outcome, _ = await until_ended(scene, scene.delivery(method=PUBLISH_USER_ACTION))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.DELIVERED, "ok")
    assert outcome.details["twitter"] == "500023 provider_error"


async def test_cancelling_admissions_loses_no_permit() -> None:
    scene = make_scene(OK, quota_per_s=10)
    for _ in range(50):
        waiting = [asyncio.ensure_future(scene.sender.admit()) for _ in range(3)]
        await settle()
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            if not isinstance(result, BaseException):
                scene.sender.give_back(result)
        await scene.clock.advance(0.001)
    scene.start()
    scene.add(*[f"u{n}" for n in range(40)])
    await scene.advance(4.1, step_s=0.01)
    assert len(scene.ended) >= 40
    await scene.stop()


async def test_a_permit_that_falls_due_as_its_waiter_is_cancelled_goes_to_the_next() -> None:
    scene = make_scene(OK, quota_per_s=1)
    await scene.sender.admit()
    first, second = (asyncio.ensure_future(scene.sender.admit()) for _ in range(2))
    await settle()
    scene.clock.step_monotonic(1.1)
    scene.sender.set_quota(1)  # whatever lets the gate look: the first one has a permit now, and has not run yet
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()


async def test_a_cancelled_attempt_returns_the_probe_to_the_others() -> None:
    scene = make_scene(reply(403007))
    assert await scene.once(scene.delivery()) == Later("stopped", 0.0)
    never: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    scene.transport.answer = lambda _: never  # type: ignore[assignment,return-value]
    await scene.clock.advance(2.0)
    probing = asyncio.ensure_future(scene.once(scene.delivery("u2")))
    await scene.clock.advance(2.0)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    scene.transport.answer = lambda _: OK
    probing = asyncio.ensure_future(scene.once(scene.delivery("u3")))
    await scene.clock.advance(5.0)
    assert isinstance(await probing, Outcome)
    assert scene.sender.is_open


async def test_no_log_line_holds_a_uid_or_a_key() -> None:
    uid = "very-secret-user"
    scene = make_scene(sequence(TIMEOUT, reply(403003, baseString="POST&x"), reply(403048), reply(403007)))
    with capture_logs() as lines:
        for _ in range(4):
            await scene.once(scene.delivery(uid))
            await scene.clock.advance(1.0)
    assert {"call.retry", "call.held", "site.throttled", "site.stopped"} <= {line["event"] for line in lines}
    assert uid not in repr(lines)
    assert "3_key" not in repr(lines)


async def test_a_garbage_reason_of_a_transport_is_still_a_verdict() -> None:
    scene = make_scene(NoReply("gremlins", may_have_arrived=True))
    result = await scene.once(scene.delivery())
    assert isinstance(result, Later)
    assert result.reason == "asking_the_log"
    assert scene.metrics.registry.get_sample_value(
        "gigya_worker_attempts_total", {"site": "main", "verdict": "ambiguous", "reason": "no_reply"}
    )
