"""Makes the calls of dead letters again: through the lanes, as the pipeline does, and in the order of the records.

    letters (in their original order)
       |  decide           what is to be made of each; what needs no call is resolved at once
       |  mark             written and acknowledged before a call of the letter is attempted
       v
    lanes                  one call at a time for each user
       v
    all calls have ended   a tombstone | the letter's next generation; then the mark goes

Only a few letters are under way at a time: after a crash those are the ones that are asked about.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, Protocol

import structlog

from worker.clock import Clock
from worker.deadletters.record import DeadLetter, as_reference, encode, fingerprint
from worker.deadletters.replays import (
    Begun,
    Headers,
    Made,
    encode_mark,
    made_header,
    mark_key,
    resolved_headers,
)
from worker.delivery.deliveries import Delivery
from worker.delivery.own_calls import points_of
from worker.delivery.recent import kind_of
from worker.errors import TooLarge
from worker.gigya.calls import Settles
from worker.model import Outcome, OutcomeKind, RecordEnd, TopicPartition
from worker.pipeline.lanes import Lanes
from worker.pipeline.letters import letter_of
from worker.pipeline.site_lanes import Job
from worker.pipeline.tickets import Ticket
from worker.reprocess.plan import Decision, Fate

log = structlog.get_logger(__name__)

# Letters under way: a few seconds' worth, so that one user who backs off holds up nobody for long, and few enough to be
# asked about after a crash.
FEWEST, MOST = 200, 1_000
AHEAD_S = 2.0


class Store(Protocol):
    """Writes letters, marks and tombstones durably; each returns when the write is acknowledged."""

    async def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """Never gives up, but raises TooLarge for what the topic will never take."""
        ...


class Ended(StrEnum):
    """Why a replay came back."""

    DONE = "done"
    STOPPED = "stopped"
    FAILING = "failing"  # too many letters in a row died again


@dataclass(slots=True, eq=False)
class _Open:
    """A letter whose calls are being made."""

    decision: Decision
    ticket: Ticket
    is_suspect: bool
    joined_s: float = 0.0  # Unix time by the site: what it executes is executed later
    made: list[Made] = field(default_factory=list)
    mark: asyncio.Task[None] | None = None  # being written; None: it stands there already


class Given(NamedTuple):
    """One letter to be replayed. `is_suspect`: an interrupted replay had begun with it."""

    decision: Decision
    is_suspect: bool


@dataclass(slots=True)
class Result:
    """What became of the letters that were taken up."""

    resolved: int = 0
    died_again: int = 0
    left: int = 0  # as they were: nothing of them was made, or it could not be written down
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (outcome, reason) of calls that were made
    maybe_executed: list[str] = field(default_factory=list)  # places of letters with calls that are still in doubt


class Replayer:
    """One replay. Used from one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        rules_digest: str,
        begun: Callable[[DeadLetter], Begun],
        site_now_s: Callable[[str], float],
        is_ours: Callable[[], bool],
        by: str,
        window: int,
        max_failing: int | None,
    ) -> None:
        """`begun` says what a letter's mark holds; `site_now_s` the time at a site; `is_ours`: nobody replaces us yet.

        `max_failing`: so many letters in a row may die again, None: any number.
        """
        self._store = store
        self._clock = clock
        self._rules_digest = rules_digest
        self._begun = begun
        self._site_now_s = site_now_s
        self._is_ours = is_ours
        self._by = by
        self._window = max(1, window)
        self._max_failing = max_failing
        self.lanes: Lanes | None = None  # set by whoever wires both, which need each other
        self.result = Result()
        self._open: dict[Ticket, _Open] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._stop = asyncio.Event()
        self._number = 0
        self._resolving = 0
        self._failing = 0
        self._ended = Ended.DONE
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def done(self) -> int:
        """Return how many letters have been dealt with."""
        return self.result.resolved + self.result.died_again + self.result.left

    def stop(self) -> None:
        """Take up no further letter; what is in flight ends. Safe to call twice, and from a signal handler."""
        if self._ended is Ended.DONE:
            self._ended = Ended.STOPPED
        self._stop.set()
        self._room.set()

    async def run(self, letters: AsyncIterator[Given], *, drain_s: float) -> Ended:
        """Replay until all have ended, or until asked to stop. What is open then is settled when this returns."""
        lanes = self._wired()
        dispatching = asyncio.create_task(lanes.run(), name="lanes")
        try:
            async with asyncio.TaskGroup() as self._tasks:
                feeding = self._tasks.create_task(self._feed(letters), name="feed")
                stopping = asyncio.create_task(self._stop.wait(), name="stop")
                done, _ = await asyncio.wait({feeding, stopping, dispatching}, return_when=asyncio.FIRST_COMPLETED)
                if dispatching in done:
                    dispatching.result()
                if feeding not in done:
                    await self._drain(feeding, drain_s)
                stopping.cancel()
                await asyncio.gather(stopping, return_exceptions=True)
            await self._settle_open()
            return self._ended
        finally:
            dispatching.cancel()
            await asyncio.gather(dispatching, return_exceptions=True)

    async def _drain(self, feeding: asyncio.Task[None], drain_s: float) -> None:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        partitions = {ticket.partition for ticket in self._open}
        await self._wired().drain(partitions, until_s=self._clock.monotonic_s() + drain_s)

    # --- taking letters up ------------------------------------------------------------------------------------------

    async def _feed(self, letters: AsyncIterator[Given]) -> None:
        """Mark and join letters in their order: marks are written side by side, and joining keeps the order."""
        marked: asyncio.Queue[_Open | None] = asyncio.Queue(self._window)
        joining = asyncio.create_task(self._join_marked(marked), name="join")
        try:
            async for decision, is_suspect in letters:
                await self._fewer_than(self._window)
                match decision.fate:
                    case Fate.CALLS:
                        opened = self._opened(decision, is_suspect)
                        if not is_suspect:
                            opened.mark = self._later(self._mark(decision.letter))
                            if opened.mark is None:
                                return
                        await marked.put(opened)
                    case Fate.RESOLVED:
                        self._at_once(self._resolve(decision.letter, []))
                    case Fate.FAILS:
                        self._at_once(self._restate(decision))
                    case Fate.LEFT_OUT:
                        self.result.left += 1
            await marked.put(None)
            await joining
            await self._fewer_than(1)
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)

    async def _fewer_than(self, count: int) -> None:
        while len(self._open) + self._resolving >= count:
            self._room.clear()
            await self._room.wait()

    def _at_once(self, work: Coroutine[None, None, None]) -> None:
        """Do what needs no call, beside the others."""

        async def counted() -> None:
            await work
            self._resolving -= 1
            self._room.set()

        self._resolving += 1
        self._later(counted())

    def _opened(self, decision: Decision, is_suspect: bool) -> _Open:
        record = decision.letter.record
        ticket = Ticket(
            record=record,
            partition=TopicPartition(record.topic, record.partition),
            epoch=0,
            number=self._number,
            started_s=self._clock.monotonic_s(),
            calls=decision.calls,
            outcomes=list(decision.kept),
            deliveries=[None] * len(decision.calls),
            rules_digest=self._rules_digest,
        )
        self._number += 1
        opened = self._open[ticket] = _Open(decision, ticket, is_suspect)
        return opened

    async def _mark(self, letter: DeadLetter) -> None:
        await self._store.put(mark_key(letter.key), encode_mark(self._begun(letter)), ())

    async def _join_marked(self, marked: asyncio.Queue[_Open | None]) -> None:
        while (opened := await marked.get()) is not None:
            if opened.mark is not None:
                await opened.mark
            if not self._stop.is_set():
                self._join(opened)

    def _join(self, opened: _Open) -> None:
        ticket, letter = opened.ticket, opened.decision.letter
        run = f"{letter.run}/" if letter.run else ""
        joined = []
        for index, (call, kept) in enumerate(zip(ticket.calls, ticket.outcomes, strict=True)):
            if kept is None:
                delivery = Delivery(
                    call=call,
                    partition=ticket.partition,
                    offset=ticket.offset,
                    timestamp_ms=ticket.record.timestamp,
                    suspect=opened.is_suspect,
                    run=f"{run}replay/{letter.generation + 1}",
                )
                ticket.deliveries[index] = delivery
                joined.append(Job(delivery, ticket, index))
        opened.joined_s = min(self._site_now_s(job.delivery.call.site) for job in joined)
        for job in joined:
            self._wired().join(job)

    # --- ends -------------------------------------------------------------------------------------------------------

    def call_ended(self, job: Job, outcome: Outcome) -> None:
        """Note how a call ended; when it was its letter's last, end the letter. Called by the lanes."""
        opened = self._open.get(job.ticket)
        if opened is None:
            return
        self.result.outcomes[outcome.kind.value, outcome.reason] += 1
        call = job.delivery.call
        may_be = outcome.kind is OutcomeKind.DELIVERED or outcome.maybe_executed
        if may_be and call.method.settles is Settles.ACTIONS_LOG:
            kind = kind_of(call.uid, call.params["action"], points_of(call))
            is_certain = outcome.kind is OutcomeKind.DELIVERED and not outcome.maybe_executed
            opened.made.append(Made(call.site, kind, opened.joined_s, self._site_now_s(call.site), is_certain))
        if job.ticket.call_ended(job.call_index, outcome):
            self._later(self._end(opened))

    def _later(self, work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        """Do it beside the others; None where all of them are being given up: the letter keeps its mark then."""
        assert self._tasks is not None  # noqa: S101  # calls end only while it runs
        try:
            return self._tasks.create_task(work)
        except RuntimeError:
            work.close()
            return None

    async def _end(self, opened: _Open) -> None:
        ticket = opened.ticket
        if ticket.end() is RecordEnd.DEAD_LETTERED:
            await self._renew(opened, generation=opened.decision.letter.generation + 1)
            self._died_again()
        else:
            await self._resolve(opened.decision.letter, opened.made)
            self._failing = 0
        self._close(opened)

    def _died_again(self) -> None:
        self._failing += 1
        if self._max_failing is not None and self._failing >= self._max_failing and not self._stop.is_set():
            self._ended = Ended.FAILING
            self.stop()

    def _close(self, opened: _Open) -> None:
        self._open.pop(opened.ticket, None)
        self._room.set()

    async def _resolve(self, letter: DeadLetter, made: list[Made]) -> None:
        if not self._is_ours():
            self.result.left += 1
            return
        headers = resolved_headers("replay", by=self._by, why="", now_s=self._clock.now_s()) + made_header(made)
        await self._store.put(letter.key, None, headers)
        await self._unmark(letter)
        self.result.resolved += 1

    async def _renew(self, opened: _Open, *, generation: int, keep_mark: bool = False) -> None:
        """Write the letter anew, with how its calls have ended by now."""
        before, ticket = opened.decision.letter, opened.ticket
        letter = letter_of(ticket, first_s=before.first_s, last_s=self._clock.now_s())
        letter = replace(letter, generation=generation, run=before.run)
        if before.reference is not None:  # the topic does not take the record itself
            letter = as_reference(letter)
        if any(end.outcome.maybe_executed for end in letter.calls):
            self.result.maybe_executed.append(before.key.decode("utf-8", "replace"))
        if not self._is_ours() or not await self._is_written(letter, opened.made):
            self.result.left += 1
            return
        if not keep_mark:
            await self._unmark(before)
        self.result.died_again += 1

    async def _is_written(self, letter: DeadLetter, made: list[Made]) -> bool:
        message = encode(letter)
        try:
            await self._store.put(message.key, message.value, message.headers + made_header(made))
        except TooLarge:
            # As a reference its bytes could be lost: the source topic need not have them any more. The mark stays, so
            # that the next replay asks about what was made now.
            log.error("replay.letter_too_large", record=letter.key.decode("utf-8", "replace"))  # noqa: TRY400
            return False
        return True

    async def _restate(self, decision: Decision) -> None:
        """Say why a letter cannot become calls today, where that is another reason than the one it tells."""
        before, error = decision.letter, decision.error
        assert error is not None  # noqa: S101  # that is what it failed of
        kind = fingerprint(reason=error.reason, rule=error.rule, parameter=error.parameter, text=error.text)
        self.result.left += 1
        if kind != before.fingerprint and self._is_ours():
            letter = replace(
                before,
                reason=error.reason,
                text=error.text,
                code=None,
                rule=error.rule,
                parameter=error.parameter,
                fingerprint=kind,
                rules_digest=self._rules_digest,
            )
            if before.reference is not None:
                letter = as_reference(replace(letter, reference=None))
            await self._is_written(letter, [])

    async def _unmark(self, letter: DeadLetter) -> None:
        await self._store.put(mark_key(letter.key), None, ())

    # --- what is open when it stops -------------------------------------------------------------------------------

    async def _settle_open(self) -> None:
        """Leave no letter with a mark that is not in doubt, and none without what is known of its calls."""
        for opened in list(self._open.values()):
            await self._settle(opened)
            self._close(opened)

    async def _settle(self, opened: _Open) -> None:
        ticket, letter = opened.ticket, opened.decision.letter
        in_doubt = opened.is_suspect and not any(ticket.deliveries)
        for index, delivery in enumerate(ticket.deliveries):
            if delivery is not None and ticket.outcomes[index] is None:
                in_doubt |= delivery.may_be_executed or (delivery.suspect and not delivery.attempts)
        has_new = any(
            delivery is not None and outcome is not None
            for delivery, outcome in zip(ticket.deliveries, ticket.outcomes, strict=True)
        )
        if has_new:
            self._keep_old_ends(ticket, letter)
            await self._renew(opened, generation=letter.generation, keep_mark=in_doubt)
            self.result.died_again -= 1
        elif not in_doubt and self._is_ours():
            await self._unmark(letter)
        self.result.left += 1

    def _keep_old_ends(self, ticket: Ticket, letter: DeadLetter) -> None:
        """Let calls that have not ended now have the ends that the letter tells; a replay makes them again."""
        before = {end.name: end.outcome for end in letter.calls}
        stopped = Outcome(OutcomeKind.FAILED, letter.reason, text=letter.text, attempts=0)
        for index, call in enumerate(ticket.calls):
            if ticket.outcomes[index] is None:
                ticket.outcomes[index] = before.get(call.name, stopped)

    def _wired(self) -> Lanes:
        assert self.lanes is not None  # noqa: S101  # wired before anything runs
        return self.lanes


def window_of(rates_per_s: Collection[float | None]) -> int:
    """Return how many letters may be under way at these rates of the sites; None: no limit."""
    known = [rate for rate in rates_per_s if rate is not None]
    wanted = sum(known) * AHEAD_S if len(known) == len(rates_per_s) else MOST
    return int(max(FEWEST, min(MOST, wanted)))
