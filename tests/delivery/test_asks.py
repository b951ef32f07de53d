"""403003 and 403005 decide nothing alone: what does, as a table and as a property."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery.asks import Accepted, Asks, SiteAnswer


def make_asks(limit_s: float = 300.0) -> Asks[str]:
    return Asks(random.Random(1), limit_s=limit_s)


def question(asks: Asks[str], answer: SiteAnswer, now_s: float = 0.0) -> Accepted[str]:
    tick = asks.question_started()
    asks.question_ended(answer, now_s)
    if answer is SiteAnswer.REFUSED:
        asks.void()
    return asks.accepted(tick) if answer is SiteAnswer.ACCEPTED else Accepted()


def test_the_first_acceptance_sends_a_call_again_and_the_second_decides_it() -> None:
    asks = make_asks()
    asks.hold("call", "u1", 0.0, accepted_in=-1)
    assert question(asks, SiteAnswer.ACCEPTED) == Accepted(again=("call",))
    asks.hold("call", "u1", 1.0, accepted_in=asks.epoch)
    assert question(asks, SiteAnswer.ACCEPTED) == Accepted(decided=("call",))


def test_what_started_before_the_refusal_was_read_says_nothing_about_it() -> None:
    asks = make_asks()
    earlier = asks.tick()
    asks.hold("call", "u1", 0.0, accepted_in=-1)
    assert asks.accepted(earlier, by_uid="u2") == Accepted()
    assert asks.accepted(asks.tick(), by_uid="u2") == Accepted(again=("call",))


def test_a_success_of_the_same_user_says_nothing() -> None:
    asks = make_asks()
    asks.hold("call", "u1", 0.0, accepted_in=-1)
    assert asks.accepted(asks.tick(), by_uid="u1") == Accepted()


def test_empty_answers_release_nobody_and_are_followed_by_longer_pauses() -> None:
    asks = make_asks()
    asks.hold("call", "u1", 0.0, accepted_in=-1)
    now_s, pauses = 0.1, []
    for answer in [SiteAnswer.FORBIDDEN, SiteAnswer.UNKNOWN] * 30:
        assert question(asks, answer, now_s) == Accepted()
        pauses.append(asks.question_due_s() - now_s)
        now_s += pauses[-1]
    assert 0.8 <= pauses[0] <= 1.2
    assert 24.0 <= pauses[-1] <= 36.0


def test_one_question_at_a_time_and_none_without_a_held_call() -> None:
    asks = make_asks()
    assert asks.question_due_s() == math.inf
    asks.hold("call", "u1", 5.0, accepted_in=-1)
    assert asks.question_due_s() == 5.1
    asks.question_started()
    assert asks.question_due_s() == math.inf


def test_the_limit_counts_from_the_hold_and_anew_after_a_trouble() -> None:
    asks = make_asks(limit_s=300.0)
    assert asks.undecided_at_s() == math.inf
    asks.hold("a", "u1", 10.0, accepted_in=-1)
    assert asks.undecided_at_s() == 310.0
    asks.restart(100.0)
    assert asks.undecided_at_s() == 400.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["revoke", "restore", "ask", "other", "send", "send"]), st.integers(0, 3)),
        max_size=60,
    )
)
def test_a_call_of_a_good_user_is_never_decided_while_the_site_tells_the_truth_about_our_key(
    steps: list[tuple[str, int]],
) -> None:
    """The key is revoked and restored at random; every refusal of these calls is the key's.

    A revocation that nobody asked about is the one thing that no bookkeeping can see, so a question follows each.
    """
    asks, revoked = make_asks(), False
    held: set[int] = set()
    sent_again_in = dict.fromkeys(range(4), -1)
    for step, user in steps:
        freed: Accepted[str] = Accepted()
        if step == "revoke":
            revoked = True
            question(asks, SiteAnswer.REFUSED)
        elif step == "restore":
            revoked = False
        elif step == "ask" and held:
            freed = question(asks, SiteAnswer.REFUSED if revoked else SiteAnswer.ACCEPTED)
        elif step == "other" and not revoked:
            freed = asks.accepted(asks.tick(), by_uid="somebody else")
        elif step == "send" and user not in held and revoked:
            asks.tick()
            asks.hold(str(user), f"u{user}", 0.0, accepted_in=sent_again_in[user])
            held.add(user)
        assert not freed.decided
        for call in freed.again:
            held.discard(int(call))
            sent_again_in[int(call)] = asks.epoch
