"""Offsets and progress against a model: whatever ends when, whoever owns the partition, however a commit fares.

The model knows each attempt and each end. Of what Kafka may hold at any moment, the next owner must believe: nothing
done that has not ended, and every call suspect of which an attempt was made and no end is told.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.pipeline.test_offsets import NOTE, P0
from worker.delivery.deliveries import Delivery
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.kafka.membership import Found, Position
from worker.model import CallName, KafkaRecord, Outcome, OutcomeKind
from worker.pipeline import horizon
from worker.pipeline.earlier import Earlier, earlier_of
from worker.pipeline.horizon import Heads
from worker.pipeline.offsets import Commit, Offsets, PartitionProgress
from worker.pipeline.tickets import Ticket

RECORDS = 400
MAX_AHEAD = 60
RULES = "0123456789ab"
ENDS = (OutcomeKind.DELIVERED, OutcomeKind.CAPPED, OutcomeKind.STALE)


class Partition(RuleBasedStateMachine):
    """One partition of the group, from owner to owner."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_of: dict[int, int] = {}  # how many calls the rules make of each record
        self.attempted: set[tuple[int, int]] = set()
        self.ended: set[tuple[int, int]] = set()
        self.stored: Position | None = None  # what Kafka has
        self.under_way: tuple[Commit, bool] | None = None
        self.void: list[Ticket] = []  # of owners that are gone
        self.now_s = 0.0
        self.offsets = Offsets()
        # A few calls are then a backlog.
        self._fewest, horizon.FEWEST = horizon.FEWEST, 3
        self._own()

    def teardown(self) -> None:
        horizon.FEWEST = self._fewest

    # --- who owns it --------------------------------------------------------------------------------------------

    def _own(self) -> None:
        self.offsets.assign({P0: self.stored.offset if self.stored else 0}, {P0: self._earlier()}, self.now_s)
        progress = self.offsets.get(P0)
        assert progress is not None
        self.progress: PartitionProgress = progress

    def _earlier(self) -> Earlier:
        return earlier_of(Found(self.stored, RECORDS), max_ahead=MAX_AHEAD)

    @rule()
    def crash(self) -> None:
        self.offsets, self.under_way = Offsets(), None
        self.void.clear()
        self._own()

    @rule()
    def lose_it_and_get_it_back(self) -> None:
        """To the same process, perhaps while a commit is under way, whose answer then says nothing any more."""
        self.void += self.offsets.forget([P0])
        self._own()

    @precondition(lambda self: self.under_way is None)
    @rule(is_heard=st.booleans())
    def give_it_up_after_a_drain(self, is_heard: bool) -> None:
        self.progress.is_closing = self.progress.is_drained = True
        if (commit := self.offsets.due(NOTE, now_s=self.now_s).get(P0)) is not None and is_heard:
            self.stored = commit.position
        self.void += self.offsets.forget([P0])
        self._own()

    # --- its work -----------------------------------------------------------------------------------------------

    @rule(counts=st.lists(st.sampled_from((0, 0, 1, 1, 1, 3)), min_size=1, max_size=12))
    def read(self, counts: list[int]) -> None:
        progress, earlier = self.progress, self.progress.earlier
        for count in counts:
            offset = progress.position
            if offset >= RECORDS:
                return
            self._take(offset, self.calls_of.setdefault(offset, count), progress, earlier)

    def _take(self, offset: int, count: int, progress: PartitionProgress, earlier: Earlier) -> None:
        if not count or offset in earlier.done:
            progress.pass_to(offset + 1)
            return
        call = Call(NOTIFY_ACTION, "main", "u", {"UID": "u", "action": "a"}, CallName(0, "rule"))
        record = KafkaRecord(P0.topic, P0.partition, offset, b"{}")
        ticket = Ticket(
            record, P0, progress.epoch, offset, self.now_s, (call,) * count, [None] * count, RULES,
            deliveries=[None] * count,
        )  # fmt: skip
        progress.start(ticket)
        for index, known in enumerate(earlier.calls(offset, RULES, count)):
            if known.outcome is not None:
                ticket.call_ended(index, known.outcome)
                continue
            ticket.has_suspects |= known.suspect
            ticket.deliveries[index] = Delivery(call, P0, offset, 0, known.suspect)
        if ticket.ended_calls == count:
            self.offsets.finish(ticket)

    def _open(self) -> list[tuple[Ticket, int]]:
        """Return the calls that may be attempted, as the lanes let them."""
        return [
            (ticket, index)
            for offset, ticket in self.progress.unfinished.items()
            if offset < self.progress.horizon.below
            for index, outcome in enumerate(ticket.outcomes)
            if outcome is None
        ]

    @precondition(lambda self: self._open())
    @rule(end=st.sampled_from((*ENDS, None, None)), picks=st.lists(st.integers(0, 1000), min_size=1, max_size=8))
    def attempt(self, end: OutcomeKind | None, picks: list[int]) -> None:
        for pick in picks:
            if not (calls := self._open()):
                return
            ticket, index = calls[pick % len(calls)]
            delivery = ticket.deliveries[index]
            assert delivery is not None
            self.attempted.add((ticket.offset, index))
            self.progress.horizon.has_begun(ticket.offset)
            delivery.attempts += 1
            delivery.may_be_executed = end is None
            if end is not None:
                self._end(ticket, index, end)

    def _end(self, ticket: Ticket, index: int, end: OutcomeKind) -> None:
        self.ended.add((ticket.offset, index))
        if ticket.call_ended(index, Outcome(end, "ok")):
            self.offsets.finish(ticket)
        else:
            self.offsets.changed(ticket)

    @precondition(lambda self: self.void)
    @rule()
    def an_end_of_an_owner_that_is_gone_is_heard(self) -> None:
        """It moves nothing: the partition may be another's, who has not read it."""
        before = self.progress.committable, len(self.progress.unfinished)
        assert not self.offsets.finish(self.void.pop())
        assert (self.progress.committable, len(self.progress.unfinished)) == before

    # --- commits ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way is None)
    @rule(passed_s=st.sampled_from((0.0, 0.01, 1.0)), is_short=st.booleans(), arrives=st.booleans())
    def commit(self, passed_s: float, is_short: bool, arrives: bool) -> None:
        self.now_s += passed_s
        if is_short:
            self.progress.horizon.ran_short()
        below = self.progress.horizon.below
        unfinished = self.progress.unfinished
        heads = Heads(
            [each for each in unfinished if each >= below], lambda: [each for each in unfinished if each < below]
        )
        due = self.offsets.due(NOTE, heads=lambda partition: heads, now_s=self.now_s).get(P0)
        if due is not None:
            self.under_way = due, arrives
            if arrives:
                self.stored = due.position  # it has arrived; nobody here knows yet

    @precondition(lambda self: self.under_way is None)
    @rule()
    def commit_and_hear_of_it(self) -> None:
        self.commit(1.0, False, True)
        if self.under_way is not None:
            self.answer(True, True)

    @precondition(lambda self: self.under_way is not None)
    @rule(is_heard=st.booleans(), keeps_metadata=st.sampled_from((True, True, True, False)))
    def answer(self, is_heard: bool, keeps_metadata: bool) -> None:
        assert self.under_way is not None
        commit, has_arrived = self.under_way
        self.under_way = None
        if not (is_heard and has_arrived):
            return  # refused, lost, or arrived and its answer lost
        if not keeps_metadata:
            self.stored = Position(commit.position.offset)
        self.offsets.acknowledged({P0: commit}, implied_ahead=None if keeps_metadata else MAX_AHEAD)

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def the_next_owner_believes_nothing_done_that_is_not_and_suspects_all_that_may_be(self) -> None:
        stored = self.stored
        believed = self._earlier()
        base = stored.offset if stored is not None else 0
        for offset, count in self.calls_of.items():
            is_done = offset < base or offset in believed.done
            known = believed.calls(offset, RULES, count)
            for index in range(count):
                call = (offset, index)
                if is_done or known[index].outcome is not None:
                    assert call in self.ended, f"{call} is believed to have ended"
                elif call in self.attempted:
                    assert known[index].suspect, f"{call} was attempted, and is no suspect"


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
