"""What a restart knows: nothing that is done is made again, what may have been made is asked about, letters stay true.

The site is the oracle. It has an ideal log: a suspect call is asked about first, and made only if it was not made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest

from tests.fakes import FakeCluster, FakeSource
from tests.pipeline.test_engine import DEAD, GROUP, TOPIC, Member, Sender, Site, World
from worker.clock import ManualClock
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.errors import Unmappable
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.kafka.progress import LIMIT_CHARACTERS, decode_progress
from worker.kafka.source import CommitFailed, Position
from worker.model import CallName, Event, Outcome, OutcomeKind, Record, TopicPartition
from worker.pipeline.engine import Ended

DELIVERED = Outcome(OutcomeKind.DELIVERED, "ok", attempts=1)
Made = tuple[str, TopicPartition, int]


class ListMapper:
    """One call for each of the uids in a record, in their order; none for an empty text; `odd` only by good rules."""

    def __init__(self, *, is_good: bool = True) -> None:
        self.is_good = is_good

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        uids = str(event.payload["uid"]).split(",")
        if "odd" in uids and not self.is_good:
            raise Unmappable("missing_field", "the rule names a field that the event has not")
        return tuple(
            Call(NOTIFY_ACTION, "main", uid, {"UID": uid}, CallName(0, "watched", item), None, frozenset())
            for item, uid in enumerate(uids)
            if uid
        )


class LoggingSite(Site):
    """Knows what it has executed, and says so when it is asked."""

    def __init__(self, clock: ManualClock, rng: Random) -> None:
        super().__init__(clock, rng)
        self.asked = 0
        self.attempted: set[Made] = set()


class AskingSender(Sender):
    """Asks about a suspect before its first attempt. A request that is under way when the process dies may arrive."""

    site: LoggingSite

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        site = self.site
        made = (delivery.call.uid, delivery.partition, delivery.offset)
        if (delivery.suspect and not delivery.attempts) or delivery.may_be_executed:
            site.asked += 1
            delivery.may_be_executed = False
            if made in site.executed:
                return DELIVERED
        delivery.attempts += 1
        if delivery.call.uid in site.blocked:
            await site.clock.sleep(site.latency_s())
            return Later("server_error", 1.0)
        site.attempted.add(made)
        try:
            await site.clock.sleep(site.latency_s())
        except asyncio.CancelledError:
            if site.rng.random() < 0.5:
                site.executed.append(made)
            raise
        answer = site.answer(delivery)
        if isinstance(answer, Outcome):
            site.executed.append(made)
            await site.clock.sleep(site.latency_s())
        elif answer.reason == "timeout":
            delivery.may_be_executed = True
            if site.rng.random() < 0.5:
                site.executed.append(made)
        return answer


class SlowCommits(FakeSource):
    """Commits take a while to arrive, and their answers another."""

    def __init__(self, cluster: FakeCluster, clock: ManualClock, latency_s: Callable[[], float]) -> None:
        super().__init__(cluster, [TOPIC], group_id=GROUP)
        self._slow_clock = clock
        self._latency_s = latency_s

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        await self._slow_clock.sleep(self._latency_s())
        is_kept = await super().commit(positions)
        await self._slow_clock.sleep(self._latency_s())
        return is_kept


class Restarts(World):
    """A world whose site keeps a log."""

    def __init__(self, partitions: int = 1, seed: int = 0) -> None:
        super().__init__(partitions, seed)
        self.site: LoggingSite = LoggingSite(self.clock, self.rng)
        self.commit_latency_s: Callable[[], float] = lambda: 0.003

    def sender(self) -> AskingSender:
        return AskingSender(self.site)

    def start(self, **options: Any) -> Member:
        source = SlowCommits(self.cluster, self.clock, self.commit_latency_s)
        return super().start(**{"mapper": ListMapper(), "source": source, **options})

    async def crash(self, member: Member) -> None:
        member.crash()
        await asyncio.gather(member.task, return_exceptions=True)

    async def stop(self, member: Member) -> None:
        member.engine.stop()
        assert await self.finish(member.task) is Ended.STOPPED
        assert member.is_balanced

    def executed_twice(self) -> dict[Made, int]:
        return {made: count for made, count in Counter(self.site.executed).items() if count > 1}

    def live_letters(self) -> set[bytes]:
        live: dict[bytes, bool] = {}
        for record in self.cluster.logs[TopicPartition(DEAD, 0)].records:
            assert record.key is not None
            live[record.key] = record.value is not None
        return {key for key, is_live in live.items() if is_live}


END = pytest.mark.parametrize("end", ["stop", "crash"])


async def gone(world: Restarts, member: Member, end: str) -> None:
    await (world.stop(member) if end == "stop" else world.crash(member))


@END
async def test_none_of_5000_records_that_finished_behind_a_blocked_one_is_made_again(end: str) -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    world.append("blocked", *(f"u{number % 700}" for number in range(5000)))
    first = world.start(max_ahead=10_000, max_held_bytes=100_000_000)
    await world.until(lambda: len(world.site.executed) == 5000)
    await world.clock.advance(3)
    assert world.committed() == 0
    await gone(world, first, end)
    world.site.blocked.clear()
    asked = world.site.asked
    second = world.start(until_end=True, max_ahead=10_000)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.executed_twice() == {}
    assert len(world.site.executed) == 5001
    assert second.ledger.total(second.engine.unfinished()).already_done == 5000
    assert second.is_balanced
    assert world.site.asked - asked == (1 if end == "crash" else 0)
    assert world.is_all_committed()


@END
async def test_of_what_finished_behind_a_blocked_record_nothing_is_made_again_and_it_is_counted(end: str) -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    world.append("u0", "blocked", "u1", "", "u2", "blocked", "u3")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 4)
    await world.clock.advance(2)
    await gone(world, first, end)
    world.site.blocked.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.executed_twice() == {}
    assert len(world.site.executed) == 6
    assert second.ledger.total({}).already_done == 4


async def test_a_call_that_failed_beside_one_that_is_blocked_fails_again_after_a_restart() -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    refused = Outcome(OutcomeKind.FAILED, "invalid_parameter", attempts=1)
    world.site.answer = lambda delivery: refused if delivery.call.uid == "bad" else DELIVERED
    world.append("bad,blocked,u1")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 2)
    await world.clock.advance(2)
    await world.stop(first)
    assert world.live_letters() == set()
    world.site.blocked.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.live_letters() == {f"{TOPIC}/0/0".encode()}
    assert [uid for uid, _, _ in world.site.executed].count("u1") == 1


@END
async def test_of_a_fan_out_of_which_one_call_is_blocked_the_other_99_are_not_made_again(end: str) -> None:
    world = Restarts()
    world.site.blocked = {"u41"}
    world.append(",".join(f"u{number}" for number in range(100)))
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 99)
    await world.clock.advance(2)
    await gone(world, first, end)
    world.site.blocked.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert Counter(world.site.executed) == {(f"u{number}", world.partitions[0], 0): 1 for number in range(100)}
    assert world.site.asked == (1 if end == "crash" else 0)


async def test_the_99_are_asked_about_where_other_rules_made_them() -> None:
    world = Restarts()
    world.site.blocked = {"u41"}
    world.append(",".join(f"u{number}" for number in range(100)))
    first = world.start(rules="0ne")
    await world.until(lambda: len(world.site.executed) == 99)
    await world.clock.advance(2)
    await world.stop(first)
    world.site.blocked.clear()
    second = world.start(until_end=True, rules="an0ther")
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.site.asked == 100
    assert world.executed_twice() == {}


async def test_an_end_that_is_not_sure_is_not_kept_but_found_out_anew() -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    unsure = Outcome(OutcomeKind.CAPPED, "limit_reached", maybe_executed=True)
    world.site.answer = lambda delivery: unsure if delivery.call.uid == "unsure" else DELIVERED
    world.append("unsure,sure,blocked")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 2)
    await world.clock.advance(2)
    await world.stop(first)
    world.site.blocked.clear()
    world.site.attempted.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert {uid for uid, _, _ in world.site.attempted} == {"unsure", "blocked"}


async def test_a_clean_stop_leaves_no_suspects_but_the_calls_that_nobody_could_decide() -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    world.site.answer = lambda delivery: (
        Later("timeout", 1.0) if delivery.call.uid == "unsure" and delivery.attempts < 1000 else DELIVERED
    )
    world.append("blocked", "unsure", "u1", "blocked", "blocked,u2")
    first = world.start()
    await world.until(lambda: len(world.site.executed) >= 2)
    await world.clock.advance(2)
    await world.stop(first)
    world.site.blocked.clear()
    world.site.answer = lambda delivery: DELIVERED
    asked = world.site.asked
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.site.asked - asked <= 1
    assert world.executed_twice() == {}


async def test_a_clean_stop_names_the_call_that_nobody_could_decide_and_it_is_asked_about() -> None:
    world = Restarts()
    world.site.answer = lambda delivery: Later("timeout", 1000.0)
    world.append("unsure", "u1,unsure")
    first = world.start()
    await world.until(lambda: len(world.site.attempted) == 2)
    await world.clock.advance(2)
    await world.stop(first)
    world.site.answer = lambda delivery: DELIVERED
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.site.asked == 2  # `unsure` of the second record stood behind, and was never made
    assert len(world.site.executed) == 3
    assert world.executed_twice() == {}


async def test_a_suspect_that_was_named_is_still_one_after_an_owner_that_never_came_to_it() -> None:
    """He commits a horizon before it, since more than enough calls stand before it."""
    world = Restarts()
    world.site.blocked = {f"blocked{number}" for number in range(60)}
    world.site.answer = lambda delivery: Later("timeout", 1000.0)
    world.append(*sorted(world.site.blocked), "unsure")
    first = world.start()
    await world.until(lambda: bool(world.site.attempted))
    world.site.executed = [("unsure", world.partitions[0], 60)]
    await world.clock.advance(2)
    await world.stop(first)
    second = world.start()
    second.sender.admit = asyncio.Event().wait
    await world.clock.advance(3)
    assert decode_progress(world.cluster.committed[GROUP, world.partitions[0]].metadata, 0).horizon <= 60
    await world.crash(second)
    world.site.blocked.clear()
    world.site.answer = lambda delivery: DELIVERED
    third = world.start(until_end=True)
    assert await world.finish(third.task) is Ended.REACHED_END
    assert world.executed_twice() == {}


async def test_after_a_crash_in_a_backlog_only_some_seconds_worth_of_calls_is_suspect() -> None:
    world = Restarts()
    world.site.latency_s = lambda: 0.5  # 50 in flight at twice that: 50 calls a second
    world.append(*(f"u{number}" for number in range(3000)))
    first = world.start(max_ahead=10_000, max_held_bytes=100_000_000)
    await world.until(lambda: len(world.site.executed) >= 600)
    read_to = first.engine.partitions()[0].position
    await world.crash(first)
    assert read_to == 3000  # the backlog was read: it waits
    world.site.latency_s = lambda: 0.01
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.executed_twice() == {}
    assert len(world.site.executed) == 3000
    assert world.site.asked < 400


async def test_what_was_appended_after_a_crash_is_not_suspect() -> None:
    world = Restarts()
    world.append("u1", "u2")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 2)
    await world.clock.advance(2)
    await world.crash(first)
    world.start()
    await world.clock.advance(1)
    world.append("u3", "u4")
    await world.until(world.is_all_committed)
    assert world.site.asked == 0
    await world.close()


async def test_a_group_without_any_offset_has_no_suspects() -> None:
    world = Restarts()
    world.append(*(f"u{number}" for number in range(50)))
    world.start()
    await world.until(world.is_all_committed)
    assert world.site.asked == 0
    await world.close()


@pytest.mark.parametrize("metadata", ["", "gw2 b=0", "consumer-7", "gw1 m=1f3a5c7e9b2d w=main:45"])
async def test_where_the_metadata_says_nothing_the_first_max_ahead_offsets_are_suspect(metadata: str) -> None:
    world = Restarts()
    world.append(*(f"u{number}" for number in range(50)))
    world.cluster.committed[GROUP, world.partitions[0]] = Position(0, metadata)
    member = world.start(max_ahead=20)
    await world.until(world.is_all_committed)
    assert world.site.asked == 20
    assert member.is_balanced
    await world.close()


async def test_a_map_for_another_offset_is_not_believed() -> None:
    world = Restarts()
    world.site.blocked = {"blocked"}
    world.append("u0", "blocked", "u1", "u2")
    first = world.start()
    await world.until(lambda: len(world.site.executed) == 3)
    await world.clock.advance(2)
    await world.stop(first)
    position = world.cluster.committed[GROUP, world.partitions[0]]
    assert position.offset == 1
    assert decode_progress(position.metadata, 1).done == (range(2, 4),)
    world.cluster.committed[GROUP, world.partitions[0]] = Position(0, position.metadata)  # a tool moved the offset
    world.site.blocked.clear()
    second = world.start(until_end=True)
    assert await world.finish(second.task) is Ended.REACHED_END
    assert second.ledger.total({}).already_done == 0
    assert world.site.asked == 4


async def test_a_broker_that_refuses_metadata_gets_offsets_and_nothing_is_lost_or_made_twice() -> None:
    world = Restarts()
    world.append(*(f"u{number % 90}" for number in range(300)))
    first = world.start(max_ahead=100)
    first.source.keeps_metadata = False
    await world.until(lambda: len(world.site.executed) >= 150)
    await world.crash(first)
    second = world.start(until_end=True, max_ahead=100)
    second.source.keeps_metadata = False
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.executed_twice() == {}
    assert len(world.site.executed) == 300


async def test_no_call_is_attempted_at_or_above_the_horizon_that_kafka_has() -> None:
    world = Restarts(seed=3)
    world.commit_latency_s = lambda: world.rng.choice([0.001, 0.2, 1.5])
    world.append(*(world.rng.choice(["", "", f"u{number % 40}"]) for number in range(2000)))
    member = world.start(max_ahead=10_000)
    while not world.is_all_committed():
        await world.clock.advance(0.01)
        position = world.cluster.committed[GROUP, world.partitions[0]]
        horizon = decode_progress(position.metadata, position.offset).horizon
        assert all(offset < horizon for _, _, offset in world.site.attempted)
    assert member.is_balanced
    await world.close()


class LateCommits(FakeSource):
    """One commit gets no answer, lies in a broker's socket, and is taken when others have come after it."""

    late: Mapping[TopicPartition, Position] | None = None
    is_stalled = False

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        if self.is_stalled:
            self.is_stalled, self.late = False, positions
            raise CommitFailed("no answer")
        return await super().commit(positions)


async def test_a_commit_that_arrives_after_later_ones_does_not_stand() -> None:
    world = Restarts()
    source = LateCommits(world.cluster, [TOPIC], group_id=GROUP)
    world.append("u1")
    member = world.start(source=source)
    await world.until(lambda: world.committed() == 1)
    source.is_stalled = True
    world.append("u2")
    await world.until(lambda: source.late is not None)
    world.append("u3")
    await world.until(lambda: world.committed() == 3)
    await world.clock.advance(30)
    newest = world.cluster.committed[GROUP, world.partitions[0]]
    assert source.late is not None
    assert source.late[world.partitions[0]] != newest
    world.cluster.committed[GROUP, world.partitions[0]] = source.late[world.partitions[0]]
    await world.clock.advance(6)
    assert world.cluster.committed[GROUP, world.partitions[0]] == newest
    await world.stop(member)


class MemoryOfASite:
    """Leaves a word behind, and notes what it hears."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.changes = 0
        self.limits: list[int] = []
        self.was_first: list[bool] = []
        self.heard: list[tuple[str, int, bool]] = []
        self.told = -1

    def acknowledged(self, partition: TopicPartition, serial: int) -> None:
        self.told = serial

    def left_behind(self, partition: TopicPartition, watermark: int, limit_characters: int) -> str:
        self.limits.append(limit_characters)
        return self.word[:limit_characters]

    def serial(self, partition: TopicPartition) -> int:
        return self.changes

    def recall(
        self,
        partition: TopicPartition,
        note: str,
        *,
        suspects_below: int = 0,
        ends_are_known: bool = False,
        nothing_before: bool = False,
        awaits_commits: bool = False,
    ) -> None:
        assert awaits_commits
        self.heard.append((note, suspects_below, ends_are_known))
        self.was_first.append(nothing_before)


async def test_a_sender_hears_what_of_its_words_the_group_has_and_a_commit_that_failed_told_nothing() -> None:
    world, memory = Restarts(), MemoryOfASite("word")
    world.append("u1")
    member = world.start(memories={"main": memory})
    await world.clock.advance(3)
    assert memory.told == 0
    member.source.refuses_commits = True
    memory.changes, memory.word = 7, "other"
    await world.clock.advance(5)
    assert memory.told == 0
    member.source.refuses_commits = False
    await world.clock.advance(2)
    assert memory.told == 7
    memory.changes = 8  # and nothing else is to be said: the group has the words
    await world.clock.advance(2)
    assert memory.told == 8
    await world.stop(member)


async def test_what_a_sender_has_to_leave_behind_makes_a_commit_due_though_no_record_has_moved() -> None:
    world = Restarts()
    world.site.blocked = {"u1"}
    world.append("u1")
    memory = MemoryOfASite("r1.before")
    member = world.start(memories={"main": memory})
    await world.clock.advance(5)
    memory.word, memory.changes = "r1.after", 1
    await world.clock.advance(5)
    assert "r1.after" in world.cluster.committed[GROUP, world.partitions[0]].metadata
    assert memory.was_first == [True]
    await world.stop(member)
    await world.close()


@pytest.mark.parametrize("rules", ["same", "0ther"])
async def test_what_the_senders_of_one_owner_leave_behind_the_senders_of_the_next_one_hear(rules: str) -> None:
    world = Restarts()
    world.site.blocked = {"u1"}
    world.append("u0", "u1,u2", "u3")
    first = world.start(rules="same", memories={"main": MemoryOfASite("r1.a"), "other": MemoryOfASite("r1.b" * 9999)})
    await world.until(lambda: len(world.site.executed) == 3)
    await world.clock.advance(2)
    await world.stop(first)
    assert len(world.cluster.committed[GROUP, world.partitions[0]].metadata) <= LIMIT_CHARACTERS
    memories = {"main": MemoryOfASite(""), "other": MemoryOfASite("")}
    second = world.start(rules=rules, memories=memories)
    await world.clock.advance(2)
    is_same = rules == "same"
    assert memories["main"].heard == [("r1.a", 1 if is_same else 2, is_same)]
    ((other, _, _),) = memories["other"].heard
    assert other.startswith("r1.b")
    assert len(other) > 1000
    await world.stop(second)


# --- dead letters ------------------------------------------------------------------------------------------------


async def test_a_letter_that_a_restart_with_mended_rules_makes_untrue_is_withdrawn() -> None:
    world = Restarts()
    world.append("u1", "odd", "u2")
    world.commit_latency_s = lambda: 5.0 if world.live_letters() else 0.003
    first = world.start(mapper=ListMapper(is_good=False), rules="bad")
    await world.until(lambda: bool(world.live_letters()))
    await world.crash(first)  # between the letter and the commit that passes its record
    world.commit_latency_s = lambda: 0.003
    assert world.committed() <= 1
    second = world.start(until_end=True, rules="good")
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.live_letters() == set()
    assert ("odd", world.partitions[0], 1) in world.site.executed
    assert second.is_balanced


async def test_a_letter_stays_whose_record_dies_again_and_nothing_is_withdrawn_that_never_was() -> None:
    world = Restarts()
    world.append("u1", "odd", "u2")
    first = world.start(mapper=ListMapper(is_good=False))
    await world.until(lambda: bool(world.live_letters()))
    await world.crash(first)
    second = world.start(until_end=True, mapper=ListMapper(is_good=False))
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.live_letters() == {f"{TOPIC}/0/1".encode()}
    assert all(record.value is not None for record in world.cluster.logs[TopicPartition(DEAD, 0)].records)


async def test_the_letter_of_a_record_that_no_rule_wants_any_more_is_withdrawn_too() -> None:
    class Nobody:
        def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
            return ()

    world = Restarts()
    world.append("odd", "u2")
    world.commit_latency_s = lambda: 5.0 if world.live_letters() else 0.003
    first = world.start(mapper=ListMapper(is_good=False))
    await world.until(lambda: bool(world.live_letters()))
    await world.crash(first)
    world.commit_latency_s = lambda: 0.003
    second = world.start(until_end=True, mapper=Nobody())
    assert await world.finish(second.task) is Ended.REACHED_END
    assert world.live_letters() == set()
    assert second.is_balanced
    assert second.ledger.total({}).filtered + second.ledger.total({}).already_done == 2


async def test_a_letter_from_before_is_withdrawn_after_a_clean_stop_in_between_too() -> None:
    world = Restarts()
    world.site.blocked = {"odd"}
    world.append("u1", "odd", "u2")
    world.commit_latency_s = lambda: 5.0 if world.live_letters() else 0.003
    first = world.start(mapper=ListMapper(is_good=False))
    await world.until(lambda: bool(world.live_letters()))
    await world.crash(first)
    world.commit_latency_s = lambda: 0.003
    second = world.start()
    await world.clock.advance(5)
    await world.stop(second)
    world.site.blocked.clear()
    third = world.start(until_end=True)
    assert await world.finish(third.task) is Ended.REACHED_END
    assert world.live_letters() == set()


# --- anything, at any moment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_crashes_when_nothing_is_lost_made_twice_or_out_of_order_and_letters_are_true(seed: int) -> None:
    world = Restarts(partitions=2, seed=seed)
    rng = world.rng
    world.site.latency_s = lambda: rng.choice([0.0, 0.01, 0.05, 0.4])
    world.commit_latency_s = lambda: rng.choice([0.0, 0.002, 0.02, 0.3])
    world.site.answer = lambda delivery: (
        Later(rng.choice(["server_error", "timeout"]), rng.random()) if rng.random() < 0.2 else DELIVERED
    )
    expected: set[Made] = set()
    odd: set[Made] = set()
    for _ in range(400):
        number = rng.randrange(2)
        kinds = ["", f"u{rng.randint(0, 9)}", ",".join(f"u{each}" for each in rng.sample(range(10), 4)), "odd"]
        (text,) = rng.choices(kinds, [4, 4, 1, 0.3])
        partition = world.partitions[number]
        offset = world.cluster.logs[partition].end
        text = ",".join(f"{uid}-{number}" if uid.startswith("u") else uid for uid in text.split(","))
        made = {(uid, partition, offset) for uid in text.split(",") if uid}
        (odd if text == "odd" else expected).update(made)
        world.append(text, partition=number)
    alive: list[Member] = []
    for step in range(12):
        if step == 6:  # the rules are mended, for all
            for member in alive:
                await world.crash(member)
            alive.clear()
        if not alive or (len(alive) < 3 and rng.random() < 0.5):
            is_good = step >= 6
            mapper = ListMapper(is_good=is_good)
            alive.append(world.start(mapper=mapper, rules=f"rules{is_good:d}", max_ahead=rng.choice([20, 1000])))
        for _ in range(rng.randint(1, 25)):
            await world.clock.advance(rng.choice([0.0, 0.001, 0.01, 0.1]))
        member = alive.pop(rng.randrange(len(alive)))
        if rng.random() < 0.3:
            await world.stop(member)
            continue
        await world.crash(member)
        if alive:
            rebalancing = asyncio.create_task(world.cluster.rebalance(GROUP))
            await world.until(rebalancing.done)
    for member in alive:
        await world.stop(member)
    last = world.start(until_end=True)
    assert await world.finish(last.task) is Ended.REACHED_END
    assert world.is_all_committed()
    executed = set(world.site.executed)
    assert executed - odd == expected
    assert world.executed_twice() == {}
    letters = world.live_letters()
    assert {made for made in odd if f"{made[1]}/{made[2]}".encode() not in letters} == odd & executed
    for uid, partition in {(uid, partition) for uid, partition, _ in expected}:
        firsts = world.site.first_executions(uid, partition)
        assert firsts == sorted(firsts), (uid, partition)
    assert last.is_balanced
