"""Which calls of a letter are made again, and which are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.pipeline.fakes import call
from tests.reprocess.letters import letter_at
from worker.deadletters.ends import CallEnd
from worker.deadletters.record import DeadLetter
from worker.errors import Unmappable
from worker.gigya.calls import Call
from worker.model import CallName, Outcome, OutcomeKind, Record
from worker.reprocess.plan import Decision, Fate, LeftOut, Tally, Terms, decide, seconds_at

TERMS = Terms(max_generation=3)


def ended(rule: str, kind: OutcomeKind, *, maybe: bool = False) -> CallEnd:
    return CallEnd(CallName(0, rule), Outcome(kind, "x", maybe_executed=maybe))


def decided(*ends: CallEnd, today: tuple[Call, ...], terms: Terms = TERMS, **letter: object) -> Decision:
    dead: DeadLetter = letter_at(1, calls=ends, **letter)  # type: ignore[arg-type]
    return decide(dead, lambda record: today, terms)


def made(decision: Decision) -> list[str]:
    return [each.name.rule for each in decision.to_make]


A, B = call("u1", "a"), call("u1", "b")


@pytest.mark.parametrize(
    ("kind", "maybe", "is_made"),
    [
        (OutcomeKind.FAILED, False, True),
        (OutcomeKind.FAILED, True, False),
        (OutcomeKind.DELIVERED, False, False),
        (OutcomeKind.DELIVERED, True, False),
        (OutcomeKind.CAPPED, False, False),
        (OutcomeKind.STALE, False, False),
        (OutcomeKind.STALE, True, False),
    ],
)
def test_only_what_failed_for_sure_is_made_again(kind: OutcomeKind, maybe: bool, is_made: bool) -> None:
    decision = decided(ended("a", kind, maybe=maybe), ended("b", OutcomeKind.FAILED), today=(A, B))
    assert made(decision) == (["a", "b"] if is_made else ["b"])


def test_what_may_have_been_executed_is_made_where_it_is_asked_for() -> None:
    ends = (ended("a", OutcomeKind.FAILED, maybe=True),)
    left = decided(*ends, today=(A,))
    assert (left.fate, left.left_out, [name.rule for name in left.held_back]) == (
        Fate.LEFT_OUT, LeftOut.MAYBE_EXECUTED, ["a"],
    )  # fmt: skip
    assert made(decided(*ends, today=(A,), terms=Terms(3, include_maybe_executed=True))) == ["a"]


def test_a_cap_that_the_rule_keeps_for_a_replay_is_tried_again() -> None:
    kept = call("u1", "a", keep=frozenset({OutcomeKind.CAPPED}))
    assert made(decided(ended("a", OutcomeKind.CAPPED), today=(kept,))) == ["a"]
    assert decided(ended("a", OutcomeKind.CAPPED), today=(A,)).fate is Fate.RESOLVED


def test_a_record_that_could_not_be_mapped_then_makes_all_its_calls_now() -> None:
    assert made(decided(today=(A, B))) == ["a", "b"]


def test_a_record_that_no_rule_wants_any_more_is_resolved() -> None:
    assert decided(ended("a", OutcomeKind.FAILED), today=()).fate is Fate.RESOLVED


def test_a_new_rules_call_is_made_unless_a_delivered_one_may_have_had_its_name() -> None:
    assert made(decided(ended("a", OutcomeKind.FAILED), today=(A, B))) == ["a", "b"]
    renamed = decided(ended("old", OutcomeKind.DELIVERED), ended("a", OutcomeKind.FAILED), today=(A, B))
    assert made(renamed) == ["a"]
    assert [name.rule for name in renamed.held_back] == ["b"]
    assert made(decided(ended("old", OutcomeKind.FAILED), today=(A,))) == ["a"]


def test_a_call_whose_end_did_not_fit_into_the_letter_may_have_been_executed() -> None:
    letter = letter_at(1, calls=[ended("a", OutcomeKind.FAILED)])
    decision = decide(replace(letter, calls_left_out=1), lambda record: (A, B), TERMS)
    assert made(decision) == ["a"]
    assert [name.rule for name in decision.held_back] == ["b"]


def test_what_was_replayed_often_enough_is_left_alone() -> None:
    assert decided(today=(A,), generation=3).left_out is LeftOut.GENERATION_LIMIT
    assert decided(today=(A,), generation=2).fate is Fate.CALLS


def test_a_tally_counts_what_would_be_sent_and_what_would_not() -> None:
    def fails(record: Record) -> tuple[Call, ...]:
        raise Unmappable("missing_field", "event.x is missing", rule="a", parameter="UID")

    tally = Tally()
    tally.add(decided(ended("a", OutcomeKind.DELIVERED), ended("b", OutcomeKind.FAILED), today=(A, B)))
    tally.add(decided(today=(A,)), is_suspect=True)
    tally.add(decide(letter_at(7), fails, TERMS))
    tally.add(decided(today=(A,), generation=9))
    assert (tally.letters, tally.calls_to_make, len(tally.users), tally.suspects) == (4, 2, 1, 1)
    assert tally.not_made == {"delivered": 1}
    assert tally.failures == {("missing_field", "a, UID", "event.x is missing"): 1}
    assert tally.left_out == {LeftOut.GENERATION_LIMIT: 1}
    assert tally.examples["missing_field"] == ["user-events/0/7"]
    assert seconds_at(tally, {"main": 4.0}) == 0.5
    assert seconds_at(tally, {"main": None}) is None
