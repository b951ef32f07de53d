"""A nonce says which call it is, and nothing else moves it."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.nonces import nonce_of
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.model import CallName

CALL = Call(NOTIFY_ACTION, "main", "u", {"UID": "u", "action": "a"}, CallName(0, "rule", 0))
PLACE = ("", "group", "topic", 3, 42, 1_700_000_000_000)


def test_a_nonce_is_128_bits_in_hex_and_always_the_same() -> None:
    nonce = nonce_of(*PLACE, CALL, 0)
    assert re.fullmatch("[0-9a-f]{32}", nonce)
    reordered = replace(CALL, params={"action": "a", "UID": "u"}, stale_at_s=5.0, site="other")
    assert nonce_of(*PLACE, reordered, 0) == nonce


def test_every_part_of_what_a_call_is_makes_another_nonce() -> None:
    nonces = {
        nonce_of(*PLACE, CALL, 0),
        nonce_of("replay/1", *PLACE[1:], CALL, 0),
        nonce_of("", "other", *PLACE[2:], CALL, 0),
        nonce_of("", "group", "other", *PLACE[3:], CALL, 0),
        nonce_of("", "group", "topic", 4, 42, PLACE[5], CALL, 0),
        nonce_of("", "group", "topic", 3, 43, PLACE[5], CALL, 0),
        nonce_of("", "group", "topic", 3, 42, -1, CALL, 0),
        nonce_of(*PLACE, replace(CALL, name=CallName(1, "rule", 0)), 0),
        nonce_of(*PLACE, replace(CALL, name=CallName(0, "rule2", 0)), 0),
        nonce_of(*PLACE, replace(CALL, name=CallName(0, "rule", 1)), 0),
        nonce_of(*PLACE, replace(CALL, params={"UID": "u", "action": "b"}), 0),
        nonce_of(*PLACE, CALL, 1),
    }
    assert len(nonces) == 12


texts = st.text(max_size=3)


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_parts_cannot_run_into_each_other(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    def nonce(parts: tuple[str, str, str]) -> str:
        run, group, topic = parts
        return nonce_of(run, group, topic, 0, 0, 0, CALL, 0)

    assert (nonce(one) == nonce(other)) == (one == other)
