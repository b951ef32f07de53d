"""One host of a site can be away alone, and a site can be away though few use it: neither is a call's fault."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.delivery.fakes import BAD_GATEWAY, OK, TIMEOUT, Answer, Request, Scene, make_scene, reply
from worker.delivery.hosts import OUTAGE_UIDS, SILENT_S, Hosts
from worker.delivery.site_state import State
from worker.gigya.calls import PUBLISH_USER_ACTION
from worker.model import OutcomeKind

USERS = [f"u{number}" for number in range(30)]
PUBLISH = "socialize.publishUserAction"


def socialize_away(request: Request) -> Answer:
    return BAD_GATEWAY if request.method == PUBLISH else OK


def scene_of(answer: object, **settings: object) -> Scene:
    scene = make_scene(answer, **settings)  # type: ignore[arg-type]
    scene.transport.log = None  # `answer` answers for the action log, too
    scene.transport.latency_s = 0.01
    scene.start()
    return scene


def away(scene: Scene) -> list[str]:
    return [trouble.host for trouble in scene.sender.status().away]


# --- one host alone --------------------------------------------------------------------------------------------------


async def test_publishes_wait_for_their_host_and_burn_no_budget_while_the_other_host_goes_on() -> None:
    scene = scene_of(socialize_away, attempts=3, give_up_after_s=20)
    for number, user in enumerate(USERS):  # gm answers all the time between the failures of socialize
        scene.add(f"p{user}", method=PUBLISH_USER_ACTION)
        scene.add(user)
        await scene.advance(0.1 if number < 20 else 0.5)
    await scene.advance(600.0, step_s=1.0)
    assert scene.sender.status().state is State.OPEN
    assert away(scene) == ["socialize"]
    assert scene.kinds() == {OutcomeKind.DELIVERED: 30}
    assert scene.sender.status().held >= 29

    scene.transport.answer = lambda _: OK
    await scene.advance(120.0, step_s=1.0)
    assert away(scene) == []
    assert scene.kinds() == {OutcomeKind.DELIVERED: 60}
    await scene.stop()


async def test_a_host_that_is_away_alone_gets_one_probe_at_a_time_each_another_users() -> None:
    scene = scene_of(socialize_away)
    scene.add(*USERS)
    scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
    await scene.advance(20.0)
    assert away(scene) == ["socialize"]
    before = len(scene.transport.calls(PUBLISH))
    await scene.advance(100.0, step_s=0.5)
    probes = scene.transport.calls(PUBLISH)[before:]
    assert 5 < len(probes) < 60
    assert len({probe.uid for probe in probes}) == len(probes) or max(Counter(p.uid for p in probes).values()) <= 3
    assert all(later.at_s - earlier.at_s > 0.3 for earlier, later in pairwise(probes))
    await scene.stop()


async def test_the_outage_of_one_host_is_said_with_its_name() -> None:
    with capture_logs() as lines:
        scene = scene_of(socialize_away)
        scene.add(*USERS)
        scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
        await scene.advance(20.0)
        await scene.stop()
    (line,) = [line for line in lines if line["event"] == "site.outage"]
    assert (line["host"], line["reason"], line["log_level"]) == ("socialize", "bad_gateway", "error")


async def test_when_nobody_answers_the_whole_site_is_away() -> None:
    scene = scene_of(TIMEOUT)
    scene.add(*USERS[:10])
    scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
    await scene.advance(10.0)
    assert scene.sender.status().state is State.OUTAGE
    scene.transport.answer = lambda _: OK
    await scene.advance(60.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 40}
    await scene.stop()


async def test_a_host_that_comes_back_first_is_found_though_all_calls_in_the_queue_are_the_other_ones() -> None:
    scene = scene_of(BAD_GATEWAY)
    scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
    await scene.advance(5.0)
    assert scene.sender.status().state is State.OUTAGE
    scene.transport.answer = socialize_away
    scene.add("late")
    await scene.advance(12.0)
    assert scene.sender.status().state is State.OPEN
    assert away(scene) == ["socialize"]
    assert scene.kinds() == {OutcomeKind.DELIVERED: 1}
    scene.transport.answer = lambda _: OK
    await scene.advance(60.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 31}
    await scene.stop()


@pytest.mark.parametrize("policy", ["accept", "dead_letter"])
async def test_where_a_call_without_an_answer_would_end_by_policy_only_those_in_flight_come_into_that_doubt(
    policy: str,
) -> None:
    scene = scene_of(socialize_away, ambiguous=policy)
    scene.add(*USERS)
    await scene.advance(0.2)
    for number, user in enumerate(USERS):
        scene.add(f"g{number}")
        scene.add(f"p{user}", method=PUBLISH_USER_ACTION)
        await scene.advance(0.05)
    await scene.advance(600.0, step_s=1.0)
    tried = {request.uid for request in scene.transport.calls(PUBLISH)}
    assert len(tried) <= OUTAGE_UIDS + 2
    await scene.stop()


async def test_a_call_that_waits_for_a_host_can_be_given_back_and_another_is_the_probe() -> None:
    scene = scene_of(socialize_away)
    scene.add(*USERS)
    scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
    await scene.advance(20.0)
    waiting = list(scene.sender._standing._waiting["socialize"])
    for delivery in waiting[:20]:
        scene.sender.forget(delivery)
        scene._held.pop(delivery.offset)
    scene.transport.answer = lambda _: OK
    await scene.advance(60.0)
    assert away(scene) == []
    assert scene.sender.status().held == 0
    await scene.stop()


async def test_an_operator_can_open_a_host() -> None:
    scene = scene_of(socialize_away)
    scene.add(*USERS)
    scene.add(*(f"p{user}" for user in USERS), method=PUBLISH_USER_ACTION)
    await scene.advance(200.0, step_s=1.0)
    scene.transport.answer = lambda _: OK
    scene.sender.resume()
    await scene.advance(1.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: 60}
    await scene.stop()


# --- few users -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [1, 2, 4])
@pytest.mark.parametrize("failure", [TIMEOUT, BAD_GATEWAY, reply(500001)])
async def test_an_outage_with_few_users_is_nobodys_fault(users: int, failure: Answer) -> None:
    scene = scene_of(failure, attempts=8, give_up_after_s=60)
    scene.add(*USERS[:users])
    await scene.advance(SILENT_S + 3.0)
    assert scene.sender.status().state is State.OUTAGE
    await scene.advance(3600.0, step_s=5.0)
    assert not scene.ended
    scene.transport.answer = lambda _: OK
    await scene.advance(60.0)
    assert scene.kinds() == {OutcomeKind.DELIVERED: users}
    await scene.stop()


async def test_a_call_that_breaks_the_server_has_failed_when_the_site_answers_a_question() -> None:
    scene = scene_of(lambda request: TIMEOUT if request.method == "gm.notifyAction" else OK, attempts=4)
    scene.transport.log = lambda _: reply(0, actions=[])
    scene.add("poison")
    await scene.advance(600.0, step_s=1.0)
    assert scene.sender.status().state is State.OPEN
    assert scene.kinds() == {OutcomeKind.FAILED: 1}
    await scene.stop()


async def test_a_host_with_one_user_is_asked_by_a_call_without_any_parameter() -> None:
    scene = scene_of(socialize_away, attempts=8)
    scene.add("p1", method=PUBLISH_USER_ACTION)
    for _ in range(200):
        scene.add("g")
        await scene.advance(1.0, step_s=0.2)
    questions = [request for request in scene.transport.calls(PUBLISH) if not request.uid]
    assert questions
    assert set(questions[0].params) <= {
        "apiKey", "userKey", "format", "httpStatusCodes", "timestamp", "nonce", "sig"
    }  # fmt: skip
    assert away(scene) == ["socialize"]
    assert OutcomeKind.FAILED not in scene.kinds()
    scene.transport.answer = lambda _: OK
    await scene.advance(60.0)
    assert scene.waiting == 0
    await scene.stop()


async def test_nobody_is_asked_while_answers_come() -> None:
    scene = scene_of(lambda request: TIMEOUT if request.uid == "poison" else OK, attempts=1000)
    scene.transport.log = lambda _: reply(0, actions=[])
    scene.add("poison")
    for number in range(100):
        scene.add(f"u{number}")
        await scene.advance(1.0)
    assert not scene.transport.questions
    await scene.stop()


# --- the pure part ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["gm", "socialize"]), st.sampled_from(USERS[:7]), st.booleans()), max_size=60)
)
def test_a_host_is_silent_for_as_many_users_as_have_had_no_answer_since_its_last_one(
    steps: list[tuple[str, str, bool]],
) -> None:
    hosts = Hosts()
    expected: dict[str, set[str]] = {"gm": set(), "socialize": set()}
    for now_s, (host, user, is_answered) in enumerate(steps):
        if is_answered:
            hosts.answered(host, now_s)
            expected[host].clear()
        else:
            expected[host].add(user)
            assert hosts.unanswered(host, user, now_s) == (len(expected[host]) >= OUTAGE_UIDS)
        assert set(hosts) == {name for name, users in expected.items() if users}
