"""Outage, stop and ask: nothing is dead-lettered for what is the site's matter, and everything resumes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from tests.delivery.fakes import BAD_GATEWAY, OK, REFUSED_CONNECTION, TIMEOUT, Request, make_scene, reply
from worker.delivery.deliveries import Later
from worker.delivery.site_state import State
from worker.gigya.calls import PUBLISH_USER_ACTION
from worker.gigya.replies import NoReply, Reply
from worker.gigya.signing import base_string
from worker.model import OutcomeKind

USERS = [f"u{n}" for n in range(50)]


# --- outage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [TIMEOUT, REFUSED_CONNECTION, BAD_GATEWAY, reply(500001), reply(504001)])
async def test_an_outage_of_a_minute_fails_nothing_and_ends_by_itself(failure: Reply | NoReply) -> None:
    scene = make_scene(failure, quota_per_s=100, attempts=3, give_up_after_s=10)
    scene.transport.latency_s = 0.01
    scene.start()
    scene.add(*USERS)
    await scene.advance(60.0)
    assert scene.sender.status().state is State.OUTAGE
    assert scene.sender.status().remedy
    assert not scene.ended
    sent = len(scene.transport.requests)
    assert sent < 100
    scene.transport.answer = lambda _: OK
    await scene.advance(15.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 50}
    await scene.stop()


async def test_an_outage_gives_back_what_its_first_failures_took_from_budgets() -> None:
    scene = make_scene(TIMEOUT)
    deliveries = [scene.delivery(f"u{n}") for n in range(5)]
    for delivery in deliveries[:4]:
        await scene.once(delivery)
        assert delivery.budget.attempts == 1
    await scene.once(deliveries[4])
    assert not scene.sender.is_open
    assert [delivery.budget.attempts for delivery in deliveries] == [0] * 5


async def test_failures_of_four_users_are_no_outage_and_one_answer_breaks_the_row() -> None:
    scene = make_scene(TIMEOUT)
    for n in range(4):
        await scene.once(scene.delivery(f"u{n}"))
    scene.transport.answer = lambda _: reply(400126)
    await scene.once(scene.delivery("u9"))
    scene.transport.answer = lambda _: TIMEOUT
    for n in range(4):
        await scene.once(scene.delivery(f"other{n}"))
    assert scene.sender.is_open


async def test_one_user_whose_calls_break_the_server_is_no_outage() -> None:
    scene = make_scene(TIMEOUT, attempts=20)
    scene.transport.log = lambda _: TIMEOUT  # nor does his log answer
    delivery = scene.delivery("poison")
    while len(scene.transport.requests) < 12:
        result = await scene.once(delivery)
        assert isinstance(result, Later)
        assert scene.sender.is_open
        await scene.clock.advance(result.wait_s or 0.0)


async def test_probes_of_an_outage_come_from_different_users_and_ever_more_slowly() -> None:
    scene = make_scene(TIMEOUT)
    scene.start()
    scene.add(*USERS)
    await scene.advance(120.0)
    probes = scene.transport.requests[5:]
    assert 10 < len(probes) < 60
    assert all(first.uid != second.uid for first, second in pairwise(probes))
    assert probes[-1].at_s - probes[-2].at_s > 2 * (probes[1].at_s - probes[0].at_s)
    await scene.stop()


@pytest.mark.parametrize("policy", ["accept", "dead_letter"])
async def test_an_outage_is_probed_with_questions_where_an_unanswered_call_would_end(policy: str) -> None:
    scene = make_scene(TIMEOUT, ambiguous=policy)
    scene.start()
    scene.add(*USERS[:5])
    await scene.advance(1.0)
    scene.add(*[f"late{n}" for n in range(20)])
    await scene.advance(60.0)
    assert len(scene.transport.calls()) == 5
    assert scene.transport.questions
    scene.transport.answer = lambda _: OK
    await scene.advance(15.0)
    assert len(scene.ended) == 25
    assert [scene.ended[n].reason for n in range(5, 25)] == ["ok"] * 20
    await scene.stop()


async def test_throttling_ends_an_outage_since_it_is_an_answer() -> None:
    scene = make_scene(TIMEOUT)
    for n in range(5):
        await scene.once(scene.delivery(f"u{n}"))
    assert not scene.sender.is_open
    await scene.clock.advance(2.0)
    scene.transport.answer = lambda _: reply(403048)
    await scene.once(scene.delivery("u6"))
    assert scene.sender.is_open


# --- stop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403007, 403036, 405001, 410000, 400093, 301001, 400001, 403010])
async def test_a_stop_holds_everything_until_a_call_gets_through(code: int) -> None:
    scene = make_scene(reply(code), quota_per_s=200)
    scene.transport.latency_s = 0.01
    scene.start()
    scene.add(*USERS)
    with capture_logs() as lines:
        await scene.advance(20.0)
    status = scene.sender.status()
    assert (status.state, status.code) == (State.STOPPED, code)
    assert status.remedy
    assert not scene.ended
    assert len(scene.transport.requests) < 40
    assert not scene.transport.questions
    assert [line["event"] for line in lines].count("site.stopped") == 1
    scene.transport.answer = lambda _: OK
    await scene.advance(6.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 50}
    await scene.stop()


async def test_a_stop_of_one_method_is_not_ended_by_the_success_of_another() -> None:
    gone = True

    def answer(request: Request) -> Reply:
        return reply(403036) if gone and request.method == "socialize.publishUserAction" else OK

    scene = make_scene(answer)
    scene.start()
    scene.add("publisher", method=PUBLISH_USER_ACTION)
    await scene.advance(0.5)
    scene.add(*USERS)
    await scene.advance(30.0)
    assert scene.sender.status().state is State.STOPPED
    assert not scene.ended
    gone = False
    await scene.advance(15.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 51}
    await scene.stop()


async def test_when_the_refused_call_is_gone_any_other_call_becomes_the_probe() -> None:
    scene = make_scene(lambda request: reply(403036) if request.method.startswith("socialize") else OK)
    scene.start()
    await scene.once(scene.delivery("publisher", method=PUBLISH_USER_ACTION))
    scene.add(*USERS)
    await scene.advance(30.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 50}
    await scene.stop()


async def test_an_operator_can_resume_a_stopped_site() -> None:
    scene = make_scene(reply(403007))
    scene.start()
    scene.add("u1")
    await scene.advance(0.5)
    scene.transport.answer = lambda _: OK
    scene.sender.resume()
    await scene.advance(0.1)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1}
    await scene.stop()


# --- ask ----------------------------------------------------------------------------------------------------------


async def test_a_secret_revoked_for_twenty_seconds_under_load_loses_and_fails_nothing() -> None:
    revoked = False
    scene = make_scene(lambda _: reply(403003) if revoked else OK, quota_per_s=100)
    scene.transport.latency_s = 0.4
    scene.start()
    scene.add(*[f"u{n % 120}" for n in range(1200)])
    await scene.advance(3.0)
    revoked = True
    await scene.advance(20.0)
    status = scene.sender.status()
    assert (status.state, status.reason, status.code) == (State.STOPPED, "credentials_refused", 403003)
    assert status.held > 20
    before = len(scene.ended)
    revoked = False
    await scene.advance(4.5)
    assert scene.sender.is_open
    assert len(scene.ended) > before + 30
    await scene.advance(15.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1200}
    assert scene.waiting == 0
    await scene.stop()


@pytest.mark.parametrize(("code", "reason"), [(403003, "invalid_signature"), (403005, "user_unknown")])
async def test_a_refusal_between_two_acceptances_is_the_calls_own_matter(code: int, reason: str) -> None:
    scene = make_scene(lambda request: reply(code) if request.uid == "bad" else OK)
    scene.transport.latency_s = 0.05
    scene.start()
    scene.add("bad")
    await scene.advance(2.0)
    assert (scene.ended[0].kind, scene.ended[0].reason, scene.ended[0].code) == (OutcomeKind.FAILED, reason, code)
    assert scene.ended[0].attempts == 2
    assert len(scene.transport.questions) == 2
    assert scene.sender.is_open
    await scene.stop()


async def test_successes_of_other_users_decide_without_a_question() -> None:
    scene = make_scene(lambda request: reply(403005) if request.uid == "bad" else OK, quota_per_s=100)
    scene.transport.latency_s = 0.01
    scene.start()
    scene.add("bad", *[f"u{n}" for n in range(50)])
    for batch in range(10):
        await scene.advance(0.4)
        scene.add(*[f"u{batch}-{n}" for n in range(50)])
    assert scene.ended[0].reason == "user_unknown"
    assert not scene.transport.questions
    await scene.stop()


async def test_one_question_serves_every_call_held_before_it_started() -> None:
    bad = {f"bad{n}" for n in range(10)}
    scene = make_scene(lambda request: reply(403005) if request.uid in bad else OK)
    scene.start()
    scene.add(*sorted(bad))
    await scene.advance(2.0)
    assert len(scene.transport.questions) == 2
    assert scene.kinds() == {OutcomeKind.FAILED: 10}
    await scene.stop()


async def test_a_refusal_seen_while_the_site_refused_us_does_not_count_after_it() -> None:
    """Accepted, refused again, then the key is revoked and restored: the second refusal proves nothing."""
    refuse_uid, revoked = True, False

    def answer(request: Request) -> Reply:
        if revoked or (refuse_uid and request.uid == "u1"):
            return reply(403003)
        return OK

    scene = make_scene(answer)
    scene.transport.latency_s = 0.02
    scene.start()
    scene.add("u1")
    await scene.advance(0.15)  # refused once, held, the question is out: accepted, sent again
    revoked = True
    await scene.advance(5.0)
    assert scene.sender.status().state is State.STOPPED
    refuse_uid = revoked = False
    await scene.advance(5.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1}
    await scene.stop()


async def test_while_questions_are_forbidden_only_another_users_success_decides() -> None:
    def answer(request: Request) -> Reply:
        if request.method == "gm.getActionConfig":
            return reply(403007)
        return reply(403005) if request.uid == "bad" else OK

    scene = make_scene(answer)
    scene.start()
    scene.add("bad")
    await scene.advance(20.0)
    assert not scene.ended
    assert scene.sender.is_open
    scene.add("good1")
    await scene.advance(1.0)
    scene.add("good2")
    await scene.advance(1.0)
    assert scene.ended[0].reason == "user_unknown"
    await scene.stop()


@pytest.mark.parametrize("answer_to_question", [403048, 500001, 403007])
async def test_without_a_decision_for_long_the_site_is_stopped_and_nothing_fails(answer_to_question: int) -> None:
    healed = False

    def answer(request: Request) -> Reply:
        if healed:
            return OK
        return reply(answer_to_question if request.method == "gm.getActionConfig" else 403003)

    scene = make_scene(answer, ask_limit_s=30)
    scene.start()
    scene.add("u1", "u2")
    await scene.advance(32.0)
    status = scene.sender.status()
    assert (status.state, status.reason) == (State.STOPPED, "undecided")
    assert not scene.ended
    healed = True
    await scene.advance(40.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 2}
    await scene.stop()


async def test_a_question_without_an_answer_is_asked_again_later_and_later() -> None:
    scene = make_scene(lambda request: TIMEOUT if request.method == "gm.getActionConfig" else reply(403005))
    scene.start()
    scene.add("u1")
    await scene.advance(100.0)
    asked = [request.at_s for request in scene.transport.questions]
    assert 8 < len(asked) < 50
    assert not scene.ended
    await scene.stop()


async def test_a_held_call_that_is_forgotten_is_asked_about_no_more() -> None:
    scene = make_scene(reply(403005))
    delivery = scene.delivery()
    await scene.once(delivery)
    assert scene.sender.status().held == 1
    scene.sender.forget(delivery)
    scene.start()
    await scene.advance(400.0, step_s=5.0)
    assert scene.sender.is_open
    assert not scene.transport.questions
    await scene.stop()


async def test_the_log_tells_where_base_strings_differ_and_shows_neither() -> None:
    scene = make_scene()

    def answer(request: Request) -> Reply:
        theirs = base_string("POST", "https://gm.eu1.gigya.com/gm.notifyAction", {**request.params, "action": "other"})
        return reply(403003, baseString=theirs, expectedSignature="x")

    scene.transport.answer = answer
    with capture_logs() as lines:
        await scene.once(scene.delivery())
    held = next(line for line in lines if line["event"] == "call.held")
    assert held["base_strings_differ_at"] > 50
    assert "baseString" not in repr(lines)
