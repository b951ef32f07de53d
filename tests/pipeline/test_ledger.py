"""The ledger balances when, and only when, every record is accounted for once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.model import OutcomeKind, RecordEnd, TopicPartition
from worker.pipeline.ledger import Ledger, LedgerLine

ONE = TopicPartition("t", 0)
TWO = TopicPartition("t", 1)


def test_the_line_reads_as_a_person_wants_it() -> None:
    line = LedgerLine(read=16, filtered=4, done=10, dead_lettered=2)
    assert str(line) == "read 16 = filtered 4 + done 10 + stale 0 + dead letters 2 + unfinished 0        balanced"


def test_what_is_seldom_is_shown_when_it_happens() -> None:
    line = LedgerLine(read=1_204_331, already_done=331, done=1_204_000 - 5, handed_back=5)
    assert str(line).startswith("read 1,204,331 = already done 331 + filtered 0 + done 1,203,995")
    assert "+ handed back 5 +" in str(line)


def test_a_record_that_vanished_is_named() -> None:
    assert str(LedgerLine(read=3, done=1)).endswith("NOT BALANCED: 2 unaccounted for")
    assert str(LedgerLine(read=1, done=2)).endswith("NOT BALANCED: 1 counted too often")


def test_every_end_has_its_place() -> None:
    ledger = Ledger()
    ledger.assigned(ONE, 1)
    ledger.read(ONE, 20)
    ledger.already_done(ONE, 3)
    ledger.filtered(ONE, 10, "no_rule")
    ledger.filtered(ONE, 1, "no_value")
    ledger.ended(ONE, RecordEnd.DONE)
    ledger.ended(ONE, RecordEnd.STALE)
    ledger.ended(ONE, RecordEnd.DEAD_LETTERED, "unmappable")
    assert ledger.line(ONE, 3) == LedgerLine(20, 3, 11, 1, 1, 1, 0, 3)
    assert ledger.balanced({ONE: 3})
    assert ledger.ends == {
        (RecordEnd.FILTERED, "no_rule"): 10,
        (RecordEnd.FILTERED, "no_value"): 1,
        (RecordEnd.DONE, "done"): 1,
        (RecordEnd.STALE, "stale"): 1,
        (RecordEnd.DEAD_LETTERED, "unmappable"): 1,
    }


def test_an_end_counted_twice_does_not_balance() -> None:
    ledger = Ledger()
    ledger.read(ONE, 1)
    ledger.ended(ONE, RecordEnd.DONE)
    ledger.ended(ONE, RecordEnd.DONE)
    assert not ledger.balanced({})
    assert ledger.imbalances({}) == [f"t/0: {ledger.line(ONE)}"]


def test_errors_in_two_partitions_do_not_cancel_out() -> None:
    ledger = Ledger()
    ledger.read(ONE, 1)
    ledger.read(TWO, 1)
    ledger.filtered(ONE, 2, "no_rule")
    assert ledger.total({}).is_balanced
    assert not ledger.balanced({})


def test_an_error_of_a_closed_assignment_is_not_forgotten() -> None:
    ledger = Ledger()
    for epoch, handed_back in ((1, 1), (2, 3)):  # one too few, then one too many
        ledger.assigned(ONE, epoch)
        ledger.read(ONE, 2)
        ledger.handed_back(ONE, handed_back)
    assert ledger.total({}).is_balanced
    assert not ledger.balanced({})
    assert [text.split(":")[0] for text in ledger.imbalances({})] == ["t/0, assignment 1", "t/0, assignment 2"]


def test_a_late_end_of_a_revoked_assignment_is_not_counted() -> None:
    ledger = Ledger()
    ledger.assigned(ONE, 1)
    ledger.read(ONE, 1)
    ledger.handed_back(ONE, 1)
    assert not ledger.ended(ONE, RecordEnd.DONE, epoch=1)
    ledger.assigned(ONE, 2)
    assert not ledger.ended(ONE, RecordEnd.DONE, epoch=1)
    ledger.read(ONE, 1)
    assert ledger.ended(ONE, RecordEnd.DONE, epoch=2)
    assert ledger.balanced({})
    assert ledger.total({}) == LedgerLine(read=2, handed_back=1, done=1)


def test_a_partition_without_an_account_cannot_have_unfinished_records() -> None:
    assert not Ledger().balanced({ONE: 1})


def test_an_assignment_that_was_not_closed_is_found_out() -> None:
    ledger = Ledger()
    ledger.assigned(ONE, 1)
    ledger.read(ONE, 5)
    ledger.assigned(ONE, 2)
    assert not ledger.balanced({})


def test_topics_have_sums_of_their_own() -> None:
    ledger = Ledger()
    ledger.read(ONE, 1)
    ledger.read(TopicPartition("other", 0), 7)
    assert ledger.total_of("t", {ONE: 1}) == LedgerLine(read=1, unfinished=1)
    assert ledger.total_of("other", {}).read == 7


def test_calls_are_counted_by_outcome_and_reason() -> None:
    ledger = Ledger()
    ledger.call_ended(OutcomeKind.DELIVERED, "ok")
    ledger.call_ended(OutcomeKind.FAILED, "invalid_action")
    ledger.call_ended(OutcomeKind.FAILED, "invalid_action")
    assert ledger.calls == {(OutcomeKind.DELIVERED, "ok"): 1, (OutcomeKind.FAILED, "invalid_action"): 2}


STEPS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from(["read", "filter", "done", "dead", "stale", "revoke"])),
    max_size=80,
)


@given(STEPS)
def test_the_ledger_balances_after_every_step_of_a_correct_worker(steps: list[tuple[TopicPartition, str]]) -> None:
    ledger, unfinished, epoch = Ledger(), {ONE: 0, TWO: 0}, 0
    ends = {"done": RecordEnd.DONE, "dead": RecordEnd.DEAD_LETTERED, "stale": RecordEnd.STALE}
    read = 0
    for partition, step in steps:
        if step == "read":
            read += 1
            ledger.read(partition, 1)
            unfinished[partition] += 1
        elif step == "revoke":
            epoch += 1
            ledger.handed_back(partition, unfinished[partition])
            unfinished[partition] = 0
            ledger.assigned(partition, epoch)
        elif unfinished[partition]:
            unfinished[partition] -= 1
            if step == "filter":
                ledger.filtered(partition, 1, "no_rule")
            else:
                assert ledger.ended(partition, ends[step])
        assert ledger.balanced(unfinished)
        assert ledger.total(unfinished).is_balanced
        assert ledger.total(unfinished).read == read
    assert ledger.imbalances(unfinished) == []
