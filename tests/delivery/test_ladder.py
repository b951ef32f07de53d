"""The ladder, step by step: what the log decides, what the nonce proves, and what is left to policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.delivery import fakes
from tests.delivery.fakes import BAD_GATEWAY, OK, TIMEOUT, Answer, Request, Scene, reply, sequence
from worker.clock import settle
from worker.delivery import lookup
from worker.delivery.recent import Recent, decode
from worker.delivery.sender import Delivery, Later
from worker.delivery.site_state import State
from worker.gigya.calls import NOTIFY_ACTION, PUBLISH_USER_ACTION, Method
from worker.gigya.replies import Reply
from worker.model import Outcome, OutcomeKind, TopicPartition

NO_ACCESS = reply(403007)  # the key may not read the log: nothing can be told from it


def make_scene(answer: Answer | Callable[[Request], Answer] = OK, **settings: object) -> Scene:
    """Return a scene of a sender that has been running for a while: nothing before that is unknown."""
    scene = fakes.make_scene(answer, **settings)  # type: ignore[arg-type]
    scene.clock.step_monotonic(60.0)
    return scene


def log_of(scene: Scene, *ages_s: float, action: str = "watched", points: int = 0, **more: object) -> None:
    """Let the log show executions of so many seconds ago."""
    now_s = scene.clock.now_s()
    entries = [
        {"time": int(now_s - age_s), "actionID": action, "points": points, "challengeID": "_default", **more}
        for age_s in ages_s
    ]
    scene.transport.log = lambda _: reply(0, actions=entries, date_s=float(int(scene.clock.now_s())))


def metric(scene: Scene, name: str, **labels: str) -> float:
    return scene.metrics.registry.get_sample_value(f"gigya_worker_{name}", {"site": "main", **labels}) or 0.0


async def until_ended(scene: Scene, delivery: Delivery, *, most: int = 200, commits: bool = False) -> Outcome:
    for _ in range(most):
        if commits:
            commit(scene)
        turn = asyncio.ensure_future(scene.once(delivery))
        await settle()
        while not turn.done():  # throttled: the gate makes it wait
            await scene.clock.advance(1.0)
        result = await turn
        if isinstance(result, Outcome):
            return result
        assert result.wait_s is not None
        await scene.clock.advance(result.wait_s)
    raise AssertionError(f"no end after {most} turns")


def nonces(scene: Scene) -> list[str]:
    return [request.params["nonce"] for request in scene.transport.calls()]


# --- step 1: the log -------------------------------------------------------------------------------------------------


async def test_a_call_that_the_log_shows_is_delivered_and_not_sent_again() -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery()
    await scene.once(delivery)
    log_of(scene, 0.0)
    outcome = await until_ended(scene, delivery)
    assert (outcome.kind, outcome.reason, outcome.maybe_executed) == (OutcomeKind.DELIVERED, "found_in_log", False)
    assert len(scene.transport.calls()) == 1
    assert len(scene.transport.looks) == 1
    assert metric(scene, "ambiguity_steps_total", step="found_in_log") == 1


async def test_a_call_that_the_log_does_not_show_twice_is_sent_again_with_the_same_nonce() -> None:
    scene = make_scene(sequence(TIMEOUT, OK))
    with capture_logs() as lines:
        outcome = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason, outcome.attempts) == (OutcomeKind.DELIVERED, "ok", 2)
    assert len(set(nonces(scene))) == 1
    first, second = scene.transport.looks
    sent = scene.transport.calls()
    assert first.at_s - sent[0].at_s >= 2.0
    assert sent[0].at_s < first.at_s < second.at_s <= sent[1].at_s
    assert metric(scene, "possible_duplicates_total") == 0
    assert metric(scene, "ambiguity_steps_total", step="cleared_by_log") == 1
    [line] = [line for line in lines if line["event"] == "call.resent_after_ambiguity"]
    assert (line["step"], line["why"]) == (1, "cleared_by_log")


async def test_where_nobody_was_before_the_log_decides_from_the_first_second_on() -> None:
    for nothing_before, reason in ((True, "found_in_log"), (False, "timeout")):
        scene = fakes.make_scene(TIMEOUT, ambiguous="dead_letter")
        scene.sender.ladder.recall(TopicPartition("t", 0), "", nothing_before=nothing_before)
        delivery = scene.delivery()
        await scene.once(delivery)
        log_of(scene, 0.0)
        assert (await until_ended(scene, delivery)).reason == reason


async def test_an_entry_that_shows_only_the_second_time_is_found() -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery()
    await scene.once(delivery)
    happened_s = int(scene.clock.now_s())
    entry = {"time": happened_s, "actionID": "watched", "points": 0, "challengeID": "_default"}
    shown = [reply(0, actions=[]), reply(0, actions=[entry])]
    scene.transport.log = lambda _: shown.pop(0)
    outcome = await until_ended(scene, delivery)
    assert outcome.reason == "found_in_log"
    assert len(scene.transport.calls()) == 1


async def test_the_entry_of_the_same_users_call_before_is_not_taken_for_this_ones() -> None:
    scene = make_scene(sequence(OK, TIMEOUT, OK))
    await until_ended(scene, scene.delivery())
    delivery = scene.delivery()
    await scene.once(delivery)
    log_of(scene, 0.0)  # one entry, two calls within the same second
    outcome = await until_ended(scene, delivery)
    assert (outcome.reason, outcome.attempts) == ("ok", 2)
    assert metric(scene, "possible_duplicates_total") == 0


async def test_two_entries_for_two_identical_calls_within_a_second_show_both() -> None:
    scene = make_scene(sequence(OK, TIMEOUT))
    await until_ended(scene, scene.delivery())
    delivery = scene.delivery()
    await scene.once(delivery)
    log_of(scene, 0.0, 0.0)
    assert (await until_ended(scene, delivery)).reason == "found_in_log"


async def test_one_call_that_writes_an_entry_for_each_of_three_challenges_counts_once() -> None:
    scene = make_scene(sequence(OK, TIMEOUT, OK))
    await until_ended(scene, scene.delivery())
    delivery = scene.delivery()
    await scene.once(delivery)
    now_s = int(scene.clock.now_s())
    entries = [{"time": now_s, "actionID": "watched", "points": 1, "challengeID": name} for name in ("a", "b", "c")]
    scene.transport.log = lambda _: reply(0, actions=entries)
    assert (await until_ended(scene, delivery)).reason == "ok"  # the entries are the first call's


async def test_entries_from_before_the_attempt_and_of_other_actions_prove_nothing() -> None:
    scene = make_scene(sequence(TIMEOUT, OK))
    await scene.clock.advance(100.0)
    delivery = scene.delivery()
    await scene.once(delivery)
    now_s = int(scene.clock.now_s())
    entries = [
        {"time": now_s - 60, "actionID": "watched", "points": 0, "challengeID": "_default"},
        {"time": now_s, "actionID": "shared", "points": 0, "challengeID": "_default"},
    ]
    scene.transport.log = lambda _: reply(0, actions=entries)
    outcome = await until_ended(scene, delivery)
    assert (outcome.reason, metric(scene, "possible_duplicates_total")) == ("ok", 0)


async def test_more_entries_than_there_were_calls_mean_that_another_writes_too_and_nothing_can_be_told() -> None:
    scene = make_scene(sequence(TIMEOUT, OK))
    delivery = scene.delivery()
    await scene.once(delivery)
    log_of(scene, 0.0, 0.0)
    with capture_logs() as lines:
        outcome = await until_ended(scene, delivery)
    assert outcome.reason == "ok"
    assert metric(scene, "possible_duplicates_total") == 1
    assert [line["step"] for line in lines if line["event"] == "call.resent_after_ambiguity"] == [2]


async def test_where_others_write_an_entry_proves_nothing_and_its_absence_still_does() -> None:
    for ages_s, duplicates in (((0.0,), 1), ((), 0)):
        scene = make_scene(sequence(TIMEOUT, OK), other_writers=True)
        delivery = scene.delivery()
        await scene.once(delivery)
        log_of(scene, *ages_s)
        assert (await until_ended(scene, delivery)).reason == "ok"
        assert metric(scene, "possible_duplicates_total") == duplicates


@pytest.mark.parametrize("offset_s", [-300.0, 300.0, 86_400.0])
async def test_a_site_whose_clock_is_wrong_is_asked_in_its_own_time(offset_s: float) -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery()
    await scene.once(delivery)
    there_s = int(scene.clock.now_s() + offset_s)
    entry = {"time": there_s, "actionID": "watched", "points": 0, "challengeID": "_default"}

    def log(request: Request) -> Answer:
        asked = range(int(request.params["startTime"]), int(request.params["endTime"]) + 1)
        now_s = float(int(scene.clock.now_s() + offset_s))
        return reply(0, actions=[entry] if there_s in asked else [], date_s=now_s)

    scene.transport.log = log
    assert (await until_ended(scene, delivery)).reason == "found_in_log"


async def test_a_site_whose_clock_is_set_meanwhile_proves_nothing_by_its_log() -> None:
    """Absent it seems to be: its entry has a time of the old clock."""
    answers = iter((OK, TIMEOUT, OK))
    scene = make_scene(lambda _: dated(next(answers), scene))
    await until_ended(scene, scene.delivery("u2"))
    delivery = scene.delivery()
    await scene.once(delivery)
    scene.transport.log = lambda _: reply(0, actions=[], date_s=float(int(scene.clock.now_s() + 300.0)))
    assert (await until_ended(scene, delivery)).reason == "ok"
    assert metric(scene, "possible_duplicates_total") == 1


def dated(answer: Answer, scene: Scene) -> Answer:
    return reply(0, date_s=float(int(scene.clock.now_s()))) if answer is OK else answer


async def test_a_question_without_an_answer_is_put_again_and_decides_nothing() -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery()
    await scene.once(delivery)
    happened_s = int(scene.clock.now_s())
    entry = {"time": happened_s, "actionID": "watched", "points": 0, "challengeID": "_default"}
    left: list[Answer] = [TIMEOUT, BAD_GATEWAY, reply(500001), reply(403002), reply(403003), reply(403048)]
    scene.transport.log = lambda _: left.pop(0) if left else reply(0, actions=[entry])
    assert (await until_ended(scene, delivery)).reason == "found_in_log"
    assert len(scene.transport.looks) == 7
    assert scene.sender.is_open


async def test_a_log_that_never_answers_leaves_it_to_the_nonce_when_the_calls_time_is_used_up() -> None:
    scene = make_scene(sequence(TIMEOUT, OK), give_up_after_s=60)
    scene.transport.log = lambda _: BAD_GATEWAY
    outcome = await until_ended(scene, scene.delivery())
    assert outcome.kind is OutcomeKind.DELIVERED
    assert len(set(nonces(scene))) == 1
    assert metric(scene, "possible_duplicates_total") == 1


async def test_a_key_that_may_not_read_the_log_is_not_used_for_it_again_soon() -> None:
    scene = make_scene(lambda request: TIMEOUT if len(scene.transport.calls()) % 2 == 0 else OK)
    scene.transport.log = lambda _: NO_ACCESS
    with capture_logs() as lines:
        for _ in range(5):
            assert (await until_ended(scene, scene.delivery())).kind is OutcomeKind.DELIVERED
    assert len(scene.transport.looks) == 1
    assert [line["event"] for line in lines].count("site.log_forbidden") == 1
    assert scene.sender.is_open


async def test_a_list_that_is_not_there_is_not_an_empty_log() -> None:
    scene = make_scene(sequence(TIMEOUT, OK))
    scene.transport.log = lambda _: reply(0)
    await until_ended(scene, scene.delivery())
    assert metric(scene, "possible_duplicates_total") == 1


# --- step 2: the nonce -----------------------------------------------------------------------------------------------


async def test_a_duplicate_nonce_after_a_resend_proves_arrival_and_the_log_is_asked_again() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(403004), OK))
    outcome = await until_ended(scene, scene.delivery())
    assert outcome.reason == "ok"
    first, second, third = nonces(scene)
    assert first == second != third
    assert len(scene.transport.looks) == 3  # twice, and once more after the 403004
    assert metric(scene, "possible_duplicates_total") == 0


async def test_a_duplicate_nonce_is_never_read_as_a_success() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(403004), reply(400126)))
    outcome = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "invalid_action")


async def test_a_late_entry_after_a_duplicate_nonce_is_found() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(403004)))
    delivery = scene.delivery()
    await scene.once(delivery)
    happened_s = int(scene.clock.now_s())
    entry = {"time": happened_s, "actionID": "watched", "points": 0, "challengeID": "_default"}
    scene.transport.log = lambda _: reply(0, actions=[entry] if len(scene.transport.calls()) > 1 else [])
    outcome = await until_ended(scene, delivery)
    assert (outcome.reason, outcome.attempts) == ("found_in_log", 2)


async def test_a_suspect_that_was_undecided_is_asked_about_again_once_its_arrival_is_proved() -> None:
    """That it may have been made, as was noted then, is no other call that its entry could come from."""
    scene = make_scene()
    answers_with_time(scene, OK, reply(403004), OK)
    await until_ended(scene, scene.delivery("u2"))
    made = scene.delivery()
    note = commit(scene)
    log_of(scene, 0.0)
    shows, scene.transport.log = scene.transport.log, lambda _: reply(0)  # it tells nothing at first
    await scene.advance(5.0)
    scene.sender.ladder.recall(PARTITION, note, suspects_below=100, ends_are_known=True)
    commit(scene)
    suspect = again(made)
    while len(scene.transport.calls()) < 2:
        result = await scene.once(suspect)
        assert isinstance(result, Later)
        await scene.advance((result.wait_s or 0.0) + 0.01)
        commit(scene)  # of which kind it is, must be told first
    scene.transport.log = shows
    assert (await until_ended(scene, suspect)).reason == "found_in_log"


async def test_a_call_without_a_log_is_sent_again_with_its_nonce_and_then_with_the_next() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(403004), OK))
    with capture_logs() as lines:
        outcome = await until_ended(scene, scene.delivery(method=PUBLISH_USER_ACTION))
    assert outcome.kind is OutcomeKind.DELIVERED
    first, second, third = (request.params["nonce"] for request in scene.transport.requests)
    assert first == second != third
    assert not scene.transport.looks
    assert [line["step"] for line in lines if line["event"] == "call.resent_after_ambiguity"] == [2, 3]
    assert metric(scene, "possible_duplicates_total") == 2


async def test_a_duplicate_nonce_at_the_first_attempt_means_that_an_earlier_process_made_it() -> None:
    scene = make_scene(sequence(reply(403004), OK))
    delivery = scene.delivery()
    first = await scene.once(delivery)
    assert isinstance(first, Later)
    assert delivery.may_be_executed
    outcome = await until_ended(scene, delivery)
    assert outcome.reason == "ok"
    assert len(scene.transport.looks) == 2


@pytest.mark.parametrize("refusal", [403048, 409030, 403002])
async def test_whatever_follows_a_refusal_carries_the_next_nonce(refusal: int) -> None:
    scene = make_scene(sequence(reply(refusal), OK))
    await until_ended(scene, scene.delivery())
    first, second = nonces(scene)
    assert first != second


async def test_two_processes_give_one_call_the_same_nonce_and_other_calls_others() -> None:
    made = []
    for _ in range(2):
        scene = make_scene(OK)
        for uid in ("u1", "u2"):
            await until_ended(scene, scene.delivery(uid))
        made.append(nonces(scene))
    assert made[0] == made[1]
    assert len(set(made[0])) == 2


# --- step 3: policy --------------------------------------------------------------------------------------------------


async def test_a_possible_duplicate_is_counted_and_logged_before_it_is_written() -> None:
    seen: list[float] = []

    def answer(_: Request) -> Answer:
        seen.append(metric(scene, "possible_duplicates_total"))
        return TIMEOUT if len(seen) == 1 else OK

    scene = make_scene(answer)
    scene.transport.log = lambda _: NO_ACCESS
    with capture_logs() as lines:
        outcome = await until_ended(scene, scene.delivery())
    assert outcome.kind is OutcomeKind.DELIVERED
    assert not outcome.maybe_executed
    assert metric(scene, "possible_duplicates_total") == 1
    assert [line["event"] for line in lines].count("call.resent_after_ambiguity") == 1


@pytest.mark.parametrize(
    ("policy", "kind", "reason"),
    [
        ("accept", OutcomeKind.DELIVERED, "accepted_undecided"),
        ("dead_letter", OutcomeKind.FAILED, "timeout"),
    ],
)
async def test_a_policy_that_sends_nothing_twice_decides_what_the_log_cannot(
    policy: str, kind: OutcomeKind, reason: str
) -> None:
    scene = make_scene(TIMEOUT, ambiguous=policy)
    scene.transport.log = lambda _: NO_ACCESS
    outcome = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.reason, outcome.maybe_executed) == (kind, reason, True)
    assert len(scene.transport.calls()) == 1


@pytest.mark.parametrize("policy", ["accept", "dead_letter"])
async def test_what_the_log_clears_is_sent_again_under_any_policy(policy: str) -> None:
    scene = make_scene(sequence(TIMEOUT, OK), ambiguous=policy)
    assert (await until_ended(scene, scene.delivery())).reason == "ok"


@pytest.mark.parametrize("policy", ["accept", "dead_letter"])
async def test_a_publish_without_an_answer_is_decided_at_once_by_policy(policy: str) -> None:
    scene = make_scene(TIMEOUT, ambiguous=policy)
    outcome = await scene.once(scene.delivery(method=PUBLISH_USER_ACTION))
    assert isinstance(outcome, Outcome)
    assert outcome.maybe_executed


# --- ends after doubt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400124, 400126, 404003])
async def test_a_final_refusal_after_an_attempt_that_was_executed_is_a_delivery(code: int) -> None:
    scene = make_scene(sequence(TIMEOUT, reply(code)))
    delivery = scene.delivery()
    await scene.once(delivery)
    happened_s = int(scene.clock.now_s())
    entry = {"time": happened_s, "actionID": "watched", "points": 0, "challengeID": "_default"}
    scene.transport.log = lambda _: reply(0, actions=[entry] if len(scene.transport.calls()) > 1 else [])
    outcome = await until_ended(scene, delivery)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.DELIVERED, "found_in_log")


async def test_a_cap_after_a_lost_request_is_a_cap() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(400124)))
    outcome = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.maybe_executed) == (OutcomeKind.CAPPED, False)


async def test_a_cap_after_an_attempt_that_nothing_can_decide_says_so() -> None:
    scene = make_scene(sequence(TIMEOUT, reply(400124)))
    scene.transport.log = lambda _: NO_ACCESS
    outcome = await until_ended(scene, scene.delivery())
    assert (outcome.kind, outcome.maybe_executed) == (OutcomeKind.CAPPED, True)


@pytest.mark.parametrize(
    ("in_log", "kind", "maybe"),
    [
        ("there", OutcomeKind.DELIVERED, False),
        ("absent", OutcomeKind.STALE, False),
        ("no access", OutcomeKind.STALE, True),
    ],
)
async def test_a_call_that_turns_stale_in_doubt_is_asked_about(in_log: str, kind: OutcomeKind, maybe: bool) -> None:
    scene = make_scene(TIMEOUT)
    delivery = scene.delivery(stale_at_s=scene.clock.now_s() + 1)
    assert isinstance(await scene.once(delivery), Later)
    if in_log == "there":
        log_of(scene, 0.0)
    elif in_log == "no access":
        scene.transport.log = lambda _: NO_ACCESS
    await scene.clock.advance(10.0)
    outcome = await until_ended(scene, delivery)
    assert (outcome.kind, outcome.maybe_executed, outcome.attempts) == (kind, maybe, 1)
    assert len(scene.transport.calls()) == 1


async def test_the_last_attempt_without_an_answer_is_asked_about_before_the_call_has_failed() -> None:
    scene = make_scene(TIMEOUT, attempts=1)
    delivery = scene.delivery()
    assert isinstance(await scene.once(delivery), Later)
    log_of(scene, 0.0)
    assert (await until_ended(scene, delivery)).reason == "found_in_log"


# --- suspects --------------------------------------------------------------------------------------------------------


async def test_a_suspect_is_asked_about_before_its_first_attempt_and_sent_if_it_is_not_there() -> None:
    scene = make_scene(OK)
    outcome = await until_ended(scene, scene.delivery(suspect=True))
    assert (outcome.reason, outcome.attempts) == ("ok", 1)
    assert len(scene.transport.looks) == 2
    assert scene.transport.requests[0].method == "gm.getActionsLog"
    assert metric(scene, "possible_duplicates_total") == 0


async def test_a_suspect_of_which_nothing_is_known_is_not_taken_for_delivered_by_an_entry() -> None:
    scene = make_scene(OK)
    log_of(scene, 70.0)  # before this process began; it may be that of an earlier call, which is done
    delivery = scene.delivery(suspect=True)
    outcome = await until_ended(scene, delivery)
    assert outcome.reason == "ok"
    assert metric(scene, "possible_duplicates_total") == 1


async def test_one_question_for_each_look_serves_all_suspects_of_a_user() -> None:
    scene = make_scene(OK)
    began_s = scene.clock.monotonic_s()
    for _ in range(20):
        await until_ended(scene, scene.delivery(suspect=True))
    assert len(scene.transport.looks) == 2
    assert scene.clock.monotonic_s() - began_s < 5.0


@pytest.mark.parametrize(
    ("policy", "kind", "requests"),
    [
        ("resend", OutcomeKind.DELIVERED, 1),
        ("accept", OutcomeKind.DELIVERED, 0),
        ("dead_letter", OutcomeKind.FAILED, 0),
    ],
)
async def test_a_suspect_that_the_log_cannot_tell_of_is_left_to_policy(
    policy: str, kind: OutcomeKind, requests: int
) -> None:
    scene = make_scene(OK, ambiguous=policy)
    scene.transport.log = lambda _: NO_ACCESS
    outcome = await until_ended(scene, scene.delivery(suspect=True))
    assert outcome.kind is kind
    assert len(scene.transport.calls()) == requests
    assert metric(scene, "possible_duplicates_total") == requests


# --- a partition that comes back -------------------------------------------------------------------------------------

PARTITION = TopicPartition("t", 0)


def again(delivery: Delivery) -> Delivery:
    """Return the same call as its next owner takes it up: nothing of what became of it is known to the group."""
    return Delivery(delivery.call, delivery.partition, delivery.offset, delivery.timestamp_ms, suspect=True)


def commit(scene: Scene) -> str:
    """Let the group hear what there is to tell, and return it."""
    note = scene.sender.ladder.left_behind(PARTITION, 0, 3000)
    scene.sender.ladder.acknowledged(PARTITION, scene.sender.ladder.serial(PARTITION))
    return note


async def come_back(scene: Scene, *, after_s: float = 5.0, left_by_another: bool) -> None:
    """Lose the partition with the last commits, and get it back some seconds later."""
    note = scene.sender.ladder.left_behind(PARTITION, 0, 3000) if left_by_another else ""
    await scene.advance(after_s)
    scene.sender.ladder.recall(PARTITION, note, suspects_below=100, ends_are_known=True)
    commit(scene)


def answers_with_time(scene: Scene, *answers: Answer) -> None:
    """Let the site answer with these in turn, and with its time."""
    left = sequence(*answers)

    def answer(request: Request) -> Answer:
        found = left(request)
        return replace(found, server_time_s=float(int(scene.clock.now_s()))) if isinstance(found, Reply) else found

    scene.transport.answer = answer


@pytest.mark.parametrize("method", [NOTIFY_ACTION, PUBLISH_USER_ACTION])
async def test_a_call_that_this_process_has_made_itself_is_neither_asked_about_nor_made_again(method: Method) -> None:
    scene = make_scene(OK)
    delivery = scene.delivery(method=method)
    await until_ended(scene, delivery)
    await come_back(scene, left_by_another=False)
    outcome = await until_ended(scene, again(delivery))
    assert (outcome.kind, outcome.reason, outcome.maybe_executed) == (OutcomeKind.DELIVERED, "remembered", False)
    assert len(scene.transport.requests) == 1
    assert metric(scene, "possible_duplicates_total") == 0


@pytest.mark.parametrize("left_by_another", [False, True])
async def test_what_is_remembered_of_a_call_is_told_to_the_next_owner_so_that_its_entry_is_taken_for_no_other(
    left_by_another: bool,
) -> None:
    scene = make_scene()
    answers_with_time(scene, OK)
    await until_ended(scene, scene.delivery("u2"))
    note = scene.sender.ladder.left_behind(PARTITION, 0, 3000) if left_by_another else ""
    delivery = scene.delivery()
    await until_ended(scene, delivery)
    await scene.advance(5.0 if left_by_another else 2.0)
    scene.sender.ladder.recall(PARTITION, note, suspects_below=100, ends_are_known=True)
    before = _executed(scene)  # that of the call itself is not known to be done
    await until_ended(scene, again(delivery))
    assert (before, _executed(scene)) == ((1, 2) if left_by_another else (0, 1))


async def test_an_attempt_of_the_very_same_call_does_not_explain_its_entry_away() -> None:
    scene = make_scene()
    answers_with_time(scene, OK, TIMEOUT, OK)
    await until_ended(scene, scene.delivery("u2"))
    delivery = scene.delivery()
    await scene.once(delivery)
    log_of(scene, 0.0)
    await come_back(scene, left_by_another=True)
    outcome = await until_ended(scene, again(delivery))
    assert outcome.reason == "found_in_log"
    assert len(scene.transport.calls()) == 2


async def test_a_call_of_ours_that_another_owner_has_told_of_too_accounts_for_one_entry_only() -> None:
    """Else the entry of the call in doubt would be taken for the other's second one, and it would be made twice."""
    scene = make_scene()
    answers_with_time(scene, OK)
    await until_ended(scene, scene.delivery())
    in_doubt = scene.delivery()  # made by the owner meanwhile, who died
    log_of(scene, 0.0, 0.0)
    await come_back(scene, left_by_another=True)
    outcome = await until_ended(scene, again(in_doubt), commits=True)
    assert outcome.reason == "found_in_log" or metric(scene, "possible_duplicates_total") == 1


# --- a crash after a call was sent again -----------------------------------------------------------------------------


async def test_a_call_is_sent_again_unasked_only_once_the_group_knows_that_it_may_have_been_made() -> None:
    scene = make_scene()
    answers_with_time(scene, OK, TIMEOUT, OK)
    scene.sender.ladder.recall(PARTITION, "", nothing_before=True, awaits_commits=True)
    await until_ended(scene, scene.delivery("u2"))
    commit(scene)
    scene.transport.log = lambda _: reply(0)  # tells nothing
    delivery = scene.delivery()
    for _ in range(100):  # the broker is away
        result = await scene.once(delivery)
        assert isinstance(result, Later)
        await scene.advance((result.wait_s or 0.0) + 0.01)
    assert len(scene.transport.calls()) == 2
    commit(scene)
    assert (await until_ended(scene, delivery)).reason == "ok"


@pytest.mark.parametrize("log", [reply(0), reply(403007)], ids=["tells nothing", "is forbidden"])
async def test_a_suspect_is_sent_again_unasked_only_once_the_group_knows_that_it_may_be(log: Reply) -> None:
    scene = make_scene()
    scene.sender.ladder.recall(PARTITION, "", suspects_below=100, awaits_commits=True)
    commit(scene)  # that there are suspects: not which of them are made again
    scene.transport.log = lambda _: log
    delivery = scene.delivery(suspect=True)
    for _ in range(100):
        result = await scene.once(delivery)
        assert isinstance(result, Later)
        await scene.advance((result.wait_s or 0.0) + 0.01)
    assert not scene.transport.calls()
    commit(scene)
    assert (await until_ended(scene, delivery)).reason == "ok"


def owner_after(before: Scene, note: str, *answers: Answer) -> Scene:
    """Return the next owner of a partition, five seconds later."""
    scene = make_scene()
    scene.clock.step_wall_clock(before.clock.now_s() - scene.clock.now_s() + 5.0)
    answers_with_time(scene, *answers)
    scene.sender.ladder.recall(PARTITION, note, suspects_below=100, ends_are_known=True, awaits_commits=True)
    return scene


@pytest.mark.parametrize("is_undecided", [True, False])
async def test_a_suspect_of_two_owners_has_one_entry_unless_the_second_has_told_that_it_may_have_more(
    is_undecided: bool,
) -> None:
    """Two calls alike; the first owner dies when he has made one, the second when he has, or has not, made it again."""
    first = make_scene()
    answers_with_time(first, OK, OK)
    first.sender.ladder.recall(PARTITION, "", nothing_before=True, awaits_commits=True)
    await until_ended(first, first.delivery("u2"))
    note = commit(first)
    suspect, successor = first.delivery(), first.delivery()
    await until_ended(first, suspect)

    second = owner_after(first, note, OK, OK)
    await until_ended(second, second.delivery("u2"))
    note = commit(second)
    if is_undecided:
        second.transport.log = lambda _: reply(0)
        doubtful = again(suspect)
        while len(second.transport.calls()) < 2:
            note = commit(second)
            result = await second.once(doubtful)
            await second.advance(0.01 + (result.wait_s or 0.0 if isinstance(result, Later) else 0.0))

    third = owner_after(second, note, OK)
    commit(third)
    ages_s = [third.clock.now_s() - each.clock.now_s() for each in (first, second)]
    log_of(third, *(ages_s if is_undecided else ages_s[:1]))
    assert (await until_ended(third, again(suspect))).reason == "found_in_log"
    assert (await until_ended(third, again(successor), commits=True)).reason == "ok"  # it was never made: no loss
    # Which of two entries is whose nobody can tell; of one it is clear.
    assert metric(third, "possible_duplicates_total") == (1 if is_undecided else 0)


async def made_again(scene: Scene, delivery: Delivery, calls: int) -> str:
    """Let a call be attempted until so many requests of calls were made; return the last commit before that."""
    note = ""
    while len(scene.transport.calls()) < calls:
        note = commit(scene)
        result = await scene.once(delivery)
        await scene.advance(0.01 + (result.wait_s or 0.0 if isinstance(result, Later) else 0.0))
    return note


async def first_owner(*answers: Answer) -> Scene:
    """Return an owner of a fresh partition who has heard the site's time."""
    scene = make_scene()
    answers_with_time(scene, OK, *answers)
    scene.sender.ladder.recall(PARTITION, "", nothing_before=True, awaits_commits=True)
    await until_ended(scene, scene.delivery("u2"))
    return scene


@pytest.mark.parametrize("log", [TIMEOUT, reply(403007)], ids=["silent", "forbidden"])
@pytest.mark.parametrize("is_suspect", [True, False])
async def test_a_doubt_is_told_also_by_an_owner_who_never_heard_the_sites_time(log: Answer, is_suspect: bool) -> None:
    """He makes it again without an answer, and dies: two entries, and an identical call that was never made."""
    first = await first_owner(OK)
    note = commit(first)
    doubtful, successor = first.delivery(), first.delivery()
    if is_suspect:
        await until_ended(first, doubtful)
    second = owner_after(first, note)
    second.transport.answer = lambda _: TIMEOUT
    second.transport.log = lambda _: log
    taken_up = again(doubtful)
    taken_up.suspect = is_suspect
    note = await made_again(second, taken_up, 1 if is_suspect else 2)
    third = owner_after(second, note, OK)
    log_of(third, 5.0, 6.0)
    await until_ended(third, again(doubtful), commits=True)
    assert (await until_ended(third, again(successor), commits=True)).reason == "ok"


async def test_a_call_that_was_refused_often_before_a_restart_needs_few_attempts_to_find_a_nonce_of_its_own() -> None:
    """Each refusal used up one. One by one it would have failed before, as a duplicate of itself."""
    first = make_scene(reply(409030))
    refused = first.delivery()
    for _ in range(11):
        result = await first.once(refused)
        assert isinstance(result, Later)
        await first.advance(result.wait_s or 0.0)
    refused.budget.attempts = 0  # of settings that allow more
    for _ in range(11):
        await first.once(refused)
    used = set(nonces(first))
    assert len(used) == 22

    second = make_scene(lambda request: reply(403004) if request.params["nonce"] in used else OK)
    log_of(second)
    outcome = await until_ended(second, again(refused))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.DELIVERED, "ok")
    assert len(second.transport.calls()) <= 6
    assert metric(second, "possible_duplicates_total") == 0


async def test_the_first_suspect_of_a_user_in_one_partition_does_not_hide_what_is_in_doubt_in_another() -> None:
    other = TopicPartition("t", 1)
    first = await first_owner(TIMEOUT, TIMEOUT)
    first.sender.ladder.recall(other, "", nothing_before=True, awaits_commits=True)
    never_made, in_doubt = first.delivery(), first.delivery()
    in_doubt.partition = other
    first.transport.log = lambda _: reply(0)
    notes = {}
    while len(first.transport.calls()) < 3:  # it is made twice
        for partition in (PARTITION, other):
            notes[partition] = first.sender.ladder.left_behind(partition, 0, 3000)
            first.sender.ladder.acknowledged(partition, first.sender.ladder.serial(partition))
        result = await first.once(in_doubt)
        await first.advance(0.01 + (result.wait_s or 0.0 if isinstance(result, Later) else 0.0))
    second = owner_after(first, notes[PARTITION], OK)
    second.sender.ladder.recall(other, notes[other], suspects_below=100, ends_are_known=True)
    log_of(second, 6.0, 7.0)
    assert (await until_ended(second, again(never_made), commits=True)).reason == "ok"


async def test_a_call_that_failed_is_not_taken_for_the_one_in_doubt_behind_it() -> None:
    """Its record waits for its letter when the owner dies, so that it is the first of its user that is unfinished."""
    first = await first_owner(reply(400006), TIMEOUT, TIMEOUT)
    failed, in_doubt = first.delivery(), first.delivery()
    assert (await until_ended(first, failed, commits=True)).kind is OutcomeKind.FAILED
    first.transport.log = lambda _: reply(0)
    await made_again(first, in_doubt, 3)
    second = owner_after(first, commit(first), OK)
    log_of(second, 5.0)  # of the one in doubt
    assert (await until_ended(second, again(failed), commits=True)).reason != "found_in_log"


async def test_a_log_that_fails_while_calls_can_be_made_is_no_outage_and_ends_undecided() -> None:
    scene = make_scene(OK)
    scene.transport.log = lambda _: reply(500001)
    suspects = [scene.delivery(f"u{number}", suspect=True) for number in range(8)]
    for suspect in suspects:
        assert (await until_ended(scene, suspect)).reason == "ok"
    assert scene.sender.status().state is State.OPEN
    assert metric(scene, "possible_duplicates_total") == len(suspects)


@pytest.mark.parametrize("untold", [True, False])
async def test_what_an_owner_before_may_have_made_again_untold_explains_no_other_call(untold: bool) -> None:
    """As an interrupted replay may have, or a worker of an older version: two entries, and two calls alike."""
    scene = make_scene()
    now_s = scene.clock.now_s()
    left = Recent(now_s - 5, now_s - 60, now_s - 20, copies_untold=untold)
    scene.sender.ladder.recall(PARTITION, left, suspects_below=100, ends_are_known=True)
    log_of(scene, 8.0, 9.0)
    assert (await until_ended(scene, scene.delivery(suspect=True))).reason == "found_in_log"
    second = await until_ended(scene, scene.delivery(suspect=True), commits=True)
    assert second.reason == ("ok" if untold else "found_in_log")


async def test_the_second_entry_of_a_call_that_was_sent_again_is_not_taken_for_its_successors() -> None:
    """The owner dies after the second attempt, with no commit since the doubt was told: a loss otherwise."""
    scene = make_scene()
    answers_with_time(scene, OK, TIMEOUT, OK)
    scene.sender.ladder.recall(PARTITION, "", nothing_before=True, awaits_commits=True)
    await until_ended(scene, scene.delivery("u2"))
    commit(scene)
    first, successor = scene.delivery(), scene.delivery()
    await scene.once(first)
    note = commit(scene)
    scene.transport.log = lambda _: reply(0)
    await until_ended(scene, first)
    following = make_scene()
    following.clock.step_wall_clock(scene.clock.now_s() - following.clock.now_s() + 8.0)
    answers_with_time(following, OK)
    following.sender.ladder.recall(PARTITION, note, suspects_below=100, ends_are_known=True, awaits_commits=True)
    commit(following)
    log_of(following, 8.0, 9.0)
    assert (await until_ended(following, again(first))).reason == "found_in_log"
    assert (await until_ended(following, again(successor), commits=True)).reason == "ok"
    assert metric(following, "possible_duplicates_total") == 1


def _executed(scene: Scene) -> int:
    recent = decode(scene.sender.ladder.left_behind(PARTITION, 0, 3000))
    return len(recent.executed) if recent is not None else 0


async def test_more_users_in_doubt_than_answers_are_kept_for_are_all_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """By turns, as lanes take them: between two questions about a user all others have been asked about."""
    monkeypatch.setattr(lookup, "_USERS_KEPT", 3)
    scene = make_scene()
    log_of(scene)
    waiting = [scene.delivery(f"u{number}", suspect=True) for number in range(8)]
    for _ in range(12):
        turns = [(each, await scene.once(each)) for each in waiting]
        waiting = [each for each, result in turns if isinstance(result, Later)]
        await scene.clock.advance(2.0)
    assert waiting == []
    assert len(scene.transport.looks) == 16  # each twice


async def test_users_with_long_logs_fill_no_more_than_the_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_ENTRIES_KEPT", 100)
    scene = make_scene()
    log_of(scene, *(30.0,) * 40)
    for number in range(10):
        await scene.once(scene.delivery(f"u{number}", suspect=True))
    kept = scene.sender.ladder._log._snapshots
    assert list(kept) == ["u8", "u9"]
    assert sum(len(each.entries) for answers in kept.values() for each in answers) == 80
    assert scene.sender.ladder._log._entries == 80


async def test_answers_of_the_log_are_dropped_after_two_minutes() -> None:
    scene = make_scene()
    log_of(scene, 30.0)
    await scene.once(scene.delivery("u1", suspect=True))
    await scene.clock.advance(110.0)
    await scene.once(scene.delivery("u2", suspect=True))
    await scene.clock.advance(20.0)
    await scene.once(scene.delivery("u3", suspect=True))
    assert list(scene.sender.ladder._log._snapshots) == ["u2", "u3"]
