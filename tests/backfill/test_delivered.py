"""What the live group has done of a range: its offsets, its map and its dead letters; and what they do not tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.backfill.delivered import Letters, known_of
from worker.deadletters.ends import CallEnd
from worker.deadletters.record import DeadLetter, encode
from worker.kafka.membership import LeftOut, Position
from worker.kafka.progress import Note, Progress, fit
from worker.kafka.ranges import Span
from worker.model import CallName, KafkaRecord, Outcome, OutcomeKind, TopicPartition

P0 = TopicPartition("t", 0)
SPANS = {P0: Span(10, 100)}
FIRST, SECOND = CallName(0, "first"), CallName(0, "second")


def committed(offset: int, *done: range) -> dict[TopicPartition, Position]:
    return {P0: Position(offset, fit(Note(), Progress(offset, offset, done=done))[0])}


def letter(offset: int, *ends: tuple[CallName, OutcomeKind, bool], run: str = "") -> DeadLetter:
    calls = tuple(CallEnd(name, Outcome(kind, "x", maybe_executed=maybe)) for name, kind, maybe in ends)
    return DeadLetter(KafkaRecord("t", 0, offset, b"{}"), "rejected", "text", "f" * 16, calls=calls, run=run)


def letters(*found: DeadLetter, resolved: tuple[int, ...] = ()) -> Letters:
    noted = Letters(SPANS)
    for each in found:
        message = encode(each)
        noted.note(message.key, message.value, list(message.headers))
    for offset in resolved:
        noted.note(f"t/0/{offset}".encode(), None, [])
    return noted


def test_what_lies_below_the_offset_and_in_the_map_is_left_out() -> None:
    known = known_of(SPANS, committed(40, range(50, 60), range(95, 120)), letters())
    assert known.left_out[P0].runs == (range(10, 40), range(50, 60), range(95, 100))
    assert (known.offsets, known.ahead) == (45, 45)


def test_a_group_that_has_committed_nothing_has_done_nothing() -> None:
    known = known_of(SPANS, {}, letters())
    assert known.left_out == {P0: LeftOut()}
    assert known.ahead == 90


def test_an_offset_without_a_map_tells_what_is_below_it() -> None:
    known = known_of(SPANS, {P0: Position(40, "of another program")}, letters())
    assert known.left_out[P0].runs == (range(10, 40),)


def test_a_dead_record_is_not_left_out_but_its_calls_that_were_delivered_are() -> None:
    dead = letter(20, (FIRST, OutcomeKind.DELIVERED, False), (SECOND, OutcomeKind.FAILED, False))
    known = known_of(SPANS, committed(40), letters(dead))
    assert known.left_out[P0] == LeftOut((range(10, 20), range(21, 40)), {20: frozenset({FIRST})})
    assert (known.letters, known.unsure) == (1, 0)


def test_a_call_that_may_have_been_executed_is_not_taken_for_done_and_is_counted() -> None:
    dead = letter(20, (FIRST, OutcomeKind.STALE, True), (SECOND, OutcomeKind.FAILED, True))
    known = known_of(SPANS, committed(40), letters(dead))
    assert known.left_out[P0].calls == {}
    assert known.unsure == 2
    assert any("2 of them may have been executed" in words for words in known.words())


def test_a_letter_that_was_resolved_or_is_a_backfills_or_outside_says_nothing() -> None:
    others = (letter(20), letter(21, run="week-44"), letter(5), letter(100))
    known = known_of(SPANS, committed(40), letters(*others, resolved=(20,)))
    assert known.left_out[P0] == LeftOut((range(10, 40),), {})


def test_a_letter_that_cannot_be_read_makes_all_calls_of_its_record_again() -> None:
    noted = letters()
    noted.note(b"t/0/20", b"{}", [("foreign", b"x")])
    assert known_of(SPANS, committed(40), noted).left_out[P0].runs == (range(10, 20), range(21, 40))


@given(st.integers(0, 120), st.sets(st.integers(10, 99)), st.sets(st.integers(0, 130)))
def test_an_offset_is_left_out_if_and_only_if_it_was_passed_and_did_not_die(
    offset: int, dead: set[int], done: set[int]
) -> None:
    runs = tuple(range(each, each + 1) for each in sorted(done) if each > offset)
    merged: list[range] = []
    for run in runs:
        if merged and merged[-1].stop == run.start:
            run = range(merged.pop().start, run.stop)
        merged.append(run)
    known = known_of(SPANS, committed(offset, *merged), letters(*map(letter, dead)))
    found = {each for run in known.left_out[P0].runs for each in run}
    assert found == {
        each for each in range(10, 100) if (each < offset or (each > offset and each in done)) and each not in dead
    }
