"""Which offsets may be committed: the finished prefix, whatever the order of finishing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.progress import Note, decode_progress
from worker.model import KafkaRecord, TopicPartition
from worker.pipeline.earlier import Earlier
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.tickets import Ticket

P0 = TopicPartition("user-events", 0)
P1 = TopicPartition("user-events", 1)
NOTE = Note("1f3a5c7e9b2d")


def ticket(progress: PartitionProgress, offset: int) -> Ticket:
    record = KafkaRecord(progress.partition.topic, progress.partition.partition, offset, b"{}")
    return Ticket(
        record=record,
        partition=progress.partition,
        epoch=progress.epoch,
        number=offset,
        started_s=0.0,
        calls=(),
        outcomes=[],
    )


def assigned(position: int = 0) -> tuple[Offsets, PartitionProgress]:
    offsets = Offsets()
    offsets.assign({P0: position})
    progress = offsets.get(P0)
    assert progress is not None
    return offsets, progress


def start(progress: PartitionProgress, *numbers: int) -> list[Ticket]:
    tickets = [ticket(progress, number) for number in numbers]
    for each in tickets:
        progress.start(each)
    return tickets


def commit_of(offsets: Offsets) -> dict[TopicPartition, int]:
    """Commit what is due, successfully."""
    due = offsets.due(NOTE)
    offsets.acknowledged(due)
    return {partition: commit.position.offset for partition, commit in due.items()}


def test_what_is_due_first_is_a_horizon() -> None:
    offsets, progress = assigned(7)
    assert progress.horizon.below == 0
    assert commit_of(offsets) == {P0: 7}
    assert progress.horizon.below > 7


def test_a_gap_holds_the_commit_back() -> None:
    offsets, progress = assigned()
    first, second, third = start(progress, 0, 1, 2)
    offsets.finish(second)
    offsets.finish(third)
    assert commit_of(offsets) == {P0: 0}
    offsets.finish(first)
    assert commit_of(offsets) == {P0: 3}


def test_records_that_nobody_wants_move_the_watermark_without_being_started() -> None:
    offsets, progress = assigned()
    progress.pass_to(500)
    assert commit_of(offsets) == {P0: 500}


def test_records_that_nobody_wants_do_not_pass_an_unfinished_one() -> None:
    offsets, progress = assigned()
    progress.pass_to(5)
    (blocker,) = start(progress, 5)
    progress.pass_to(900)
    assert commit_of(offsets) == {P0: 5}
    assert progress.ahead == 895
    offsets.finish(blocker)
    assert commit_of(offsets) == {P0: 900}


def test_holes_left_by_compaction_are_not_waited_for() -> None:
    offsets, progress = assigned()
    first, second = start(progress, 10, 4000)
    offsets.finish(first)
    assert commit_of(offsets) == {P0: 4000}
    offsets.finish(second)
    assert commit_of(offsets) == {P0: 4001}


def test_a_late_finish_after_revocation_is_not_committed() -> None:
    offsets, progress = assigned()
    (late,) = start(progress, 0)
    assert offsets.forget({P0}) == [late]
    offsets.assign({P0: 0})
    assert not offsets.finish(late)
    assert commit_of(offsets) == {P0: 0}
    assert late.is_void


def test_a_late_finish_does_not_end_the_record_that_was_read_again() -> None:
    offsets, progress = assigned()
    (late,) = start(progress, 0)
    offsets.forget({P0})
    offsets.assign({P0: 0})
    again = offsets.get(P0)
    assert again is not None
    (ours,) = start(again, 0)
    assert not offsets.finish(late)
    assert again.committable == 0
    assert offsets.finish(ours)
    assert again.committable == 1


def test_nothing_is_committed_twice() -> None:
    offsets, progress = assigned()
    progress.pass_to(3)
    offsets.acknowledged(offsets.due(NOTE))
    assert commit_of(offsets) == {}


def test_a_commit_confirmed_for_an_earlier_assignment_is_not_believed_for_this_one() -> None:
    offsets, progress = assigned()
    progress.pass_to(9)
    due = offsets.due(NOTE)
    offsets.forget({P0})
    offsets.assign({P0: 0})
    offsets.acknowledged(due)
    again = offsets.get(P0)
    assert again is not None
    assert again.committed == 0


def test_a_changed_note_is_a_reason_to_commit_an_offset_that_has_not_moved() -> None:
    offsets, _ = assigned(7)
    offsets.acknowledged(offsets.due(Note("a1b2")))
    assert offsets.due(Note("a1b2")) == {}
    assert offsets.due(Note("a1b2", {"main": 3.0}))[P0].position.offset == 7


def test_a_record_is_finished_once_only() -> None:
    offsets, progress = assigned()
    (only,) = start(progress, 0)
    assert offsets.finish(only)
    assert not offsets.finish(only)


def test_the_blocker_is_the_oldest_unfinished_record() -> None:
    offsets, progress = assigned()
    first, second, _ = start(progress, 3, 8, 9)
    assert progress.blocker is first
    offsets.finish(first)
    assert progress.blocker is second


@given(st.data())
def test_any_finishing_order_never_skips_unfinished_work(data: st.DataObject) -> None:
    offsets = Offsets()
    offsets.assign({P0: 0, P1: 0})
    unfinished: dict[TopicPartition, dict[int, Ticket]] = {P0: {}, P1: {}}
    position = {P0: 0, P1: 0}
    for _ in range(data.draw(st.integers(1, 60))):
        partition = data.draw(st.sampled_from([P0, P1]))
        progress = offsets.get(partition)
        assert progress is not None
        action = data.draw(st.sampled_from(["start", "start", "pass", "finish", "commit"]))
        if action == "start":
            offset = position[partition] + data.draw(st.integers(0, 3))  # holes are fine
            (unfinished[partition][offset],) = start(progress, offset)
            position[partition] = offset + 1
        elif action == "pass":
            position[partition] += data.draw(st.integers(0, 5))
            progress.pass_to(position[partition])
        elif action == "finish" and unfinished[partition]:
            offset = data.draw(st.sampled_from(sorted(unfinished[partition])))
            assert offsets.finish(unfinished[partition].pop(offset))
        elif action == "commit":
            due = offsets.due(NOTE)
            for committed_partition, commit in due.items():
                offset = commit.position.offset
                assert all(each >= offset for each in unfinished[committed_partition])
                assert offset <= position[committed_partition]
            offsets.acknowledged(due)
    for partition in (P0, P1):
        for left in unfinished[partition].values():
            offsets.finish(left)
    for partition, offset in commit_of(offsets).items():
        assert offset == position[partition]


def test_of_a_flood_of_letters_a_commit_names_a_hundred_and_the_next_ones_as_these_end() -> None:
    offsets, progress = assigned()
    dying = start(progress, *range(5_000))
    for each in dying:
        each.is_dying = True
    written: list[int] = []
    while progress.unfinished:
        before = set(progress.unfinished)
        named = offsets.acknowledged(offsets.due(NOTE))
        assert 0 < len(named) <= 100
        assert [each.offset for each in named] == sorted(before)[: len(named)]
        for each in named:
            assert offsets.finish(each)
        written += [each.offset for each in named]
    assert written == list(range(5_000))


def test_what_may_be_written_already_stays_named_however_many_die_before_it() -> None:
    offsets, progress = assigned()
    tickets = start(progress, *range(0, 40_000, 10))  # more than a commit has room for
    late = tickets[3_990:]
    for each in late:
        each.is_dying = True
    assert offsets.acknowledged(offsets.due(NOTE)) == late  # their writes are under way from here on
    for each in tickets[:3_990]:
        each.is_dying = True
        offsets.changed(each)
    for _ in range(3):
        (commit,) = offsets.due(NOTE).values()
        told = decode_progress(commit.position.metadata, commit.position.offset)
        assert {each.offset for each in late} <= {offset for offset, each in told.started.items() if each.has_letter}
        offsets.acknowledged({P0: commit})
        offsets.finish(tickets.pop(0))
    assert sum(each.may_have_letter for each in progress.unfinished.values()) <= 100


def test_records_with_a_letter_from_before_that_live_keep_no_other_from_being_named() -> None:
    offsets = Offsets()
    offsets.assign({P0: 0}, {P0: Earlier(0, suspect_below=500, letters_below=500, ignored="damaged")})
    progress = offsets.get(P0)
    assert progress is not None
    tickets = start(progress, *range(600))
    for each in tickets[:500]:
        each.may_have_letter = True
    tickets[550].is_dying = True
    (commit,) = offsets.due(NOTE).values()
    assert offsets.acknowledged({P0: commit}) == [tickets[550]]
    assert list(decode_progress(commit.position.metadata, 0).started) == [550]  # the others stand below `letters_below`
