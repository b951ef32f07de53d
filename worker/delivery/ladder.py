"""Carries the ladder out (`ambiguity.py`): who is in doubt, what the log is asked about him, and what follows.

A call in doubt stays at the head of its lane. Each of its turns is either one question to the log, or one attempt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from worker.clock import Clock
from worker.delivery import reasons
from worker.delivery.ambiguity import Doubt, Move, Step, climb
from worker.delivery.deliveries import Attempt, Delivery, Later
from worker.delivery.evidence import LogSays
from worker.delivery.gate import Gate, Permit
from worker.delivery.inquiry import Inquiry, leaves_entries
from worker.delivery.lookup import ANSWERS_KEPT, ActionsLog, Brought
from worker.delivery.own_calls import Noted, Was
from worker.delivery.recent import NOTHING, Recent, decode
from worker.delivery.schedule import LOG_AWAY, DeliverySettings, is_used_up, pause_s
from worker.delivery.signer import Signer
from worker.delivery.site_log import SiteLog
from worker.delivery.site_time import SiteTime
from worker.delivery.standing import Standing
from worker.delivery.transport import Transport
from worker.gigya.calls import GET_ACTIONS_LOG
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.model import Outcome, OutcomeKind, TopicPartition

# Who may not ask now may not ask in a minute either; a permission that was granted is found out after so long.
_FORBIDDEN_S = 60.0
# How soon to look again whether the group has been told of a doubt, at first and at the most. A commit is made every
# second; while the brokers are away thousands may wait for it, and each look is a turn of the lanes.
_UNTIL_TOLD_S, _UNTIL_TOLD_AT_MOST_S = 0.25, 5.0
# A log that refuses one user's question with what may be about the key: so often, then it is about the user.
_UNCLEAR_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Means:
    """What the ladder of one site works with."""

    site: Site
    settings: DeliverySettings
    gate: Gate
    log: ActionsLog
    clock: Clock
    metrics: Metrics
    lines: SiteLog
    pause: Callable[[int], float]  # seconds after so many questions in a row that brought nothing
    nonces_are_known: Callable[[], bool]  # whether the mode of authorization has nonces that a server can remember


# What comes of a turn: an end, a wait, a question to the log, or (None) an attempt.
Turn: TypeAlias = Outcome | Later | Literal[Move.ASK_LOG] | None


class Ladder:
    """The calls in doubt of one site. Used from one event loop."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._clock = means.clock
        self._settings = means.settings
        self._log = means.log
        self._inquiry = Inquiry(
            log=means.log,
            clock=means.clock,
            log_settle_s=means.settings.log_settle_s,
            is_shared=means.site.other_writers,
        )
        self._own = self._inquiry.own
        self._left = self._inquiry.left
        self._forbidden_until_s = -math.inf
        self._has_owned = False  # a partition, at any time

    # --- what attempts report -----------------------------------------------------------------------------------

    def suspect(self, delivery: Delivery, failure: Outcome) -> None:
        """Note, before its first attempt, that an earlier process may have made this call."""
        since_s = self._inquiry.since_s(delivery.partition)
        delivery.doubt = Doubt(failure, since_s, nonce_serial=delivery.nonce_serial, is_earlier=True)
        self._left.suspected(delivery)
        delivery.may_be_executed = True

    def doubted(self, attempt: Attempt, failure: Outcome) -> None:
        """Note that an attempt may have been executed."""
        delivery, now_s = attempt.delivery, self._clock.monotonic_s()
        doubt = delivery.doubt
        if doubt is None:
            doubt = delivery.doubt = Doubt(failure, now_s, nonce_serial=delivery.nonce_serial)
        doubt.failure = failure
        doubt.nonce_serial = delivery.nonce_serial
        doubt.has_arrived = False
        doubt.ask_again(now_s, times=2)
        if leaves_entries(delivery.call):
            # Until the log has told, and for ever where it cannot: a late copy has no end.
            noted = self._inquiry.note(delivery, attempt.started_s, math.inf, Was.POSSIBLE)
            noted.is_open = True
            doubt.attempts.append(noted)
        self._left.doubted(delivery)
        doubt.told_from = self._left.serial(delivery.partition)
        delivery.may_be_executed = True

    def after_doubt(self, delivery: Delivery, later: Later) -> Outcome | Later:
        """Return what a call in doubt waits for that would be sent again `later`, or how it ends at once."""
        doubt = delivery.doubt
        assert doubt is not None  # noqa: S101  # `doubted` has just made it
        doubt.not_before_s = self._clock.monotonic_s() + (later.wait_s or 0.0)
        decided = self.decide(delivery)
        return decided if isinstance(decided, Outcome | Later) else later

    def arrived(self, delivery: Delivery, failure: Outcome) -> None:
        """Note a 403004: a request with this call's nonce has arrived before. The next one carries a later nonce."""
        now_s = self._clock.monotonic_s()
        doubt = delivery.doubt
        if doubt is None:
            # Not of ours: an earlier process made it, and nobody told us that it may have.
            doubt = delivery.doubt = Doubt(failure, now_s, nonce_serial=delivery.nonce_serial, is_earlier=True)
            self._left.doubted(delivery)
            doubt.told_from = self._left.serial(delivery.partition)
        was_absent = doubt.says is LogSays.ABSENT
        doubt.ask_again(now_s, times=1 if was_absent else 2)
        doubt.has_arrived = True
        # An owner before may have used up any number of them, one for each refusal: one step at a time each would cost
        # a pause, and a record that was retried for minutes would be dead before a nonce is found that is not known.
        delivery.nonce_serial += 2 ** min(doubt.times_arrived, 16) - 1
        doubt.times_arrived += 1
        delivery.may_be_executed = True
        self._count("arrived")

    def delivered(self, attempt: Attempt) -> None:
        """Note a success, as what an entry of the log can come from."""
        self._inquiry.note(attempt.delivery, attempt.started_s, self._clock.monotonic_s(), Was.CERTAIN)
        if (doubt := attempt.delivery.doubt) is not None and doubt.says is LogSays.ABSENT:
            _set(doubt.attempts, Was.NOT)

    def before_end(self, delivery: Delivery, outcome: Outcome) -> Later | None:
        """Return what a call waits for that is refused after an attempt which may have been executed; None: it ends."""
        doubt = delivery.doubt
        if outcome.kind is OutcomeKind.FAILED:
            self._left.failed(delivery)
        if doubt is None or outcome.kind is OutcomeKind.DELIVERED:
            return None
        doubt.final = outcome
        if not self._can_ask(delivery):
            return None
        now_s = self._clock.monotonic_s()
        doubt.ask_again(now_s, times=1 if doubt.says is LogSays.ABSENT else 2)
        return Later(reasons.ASKING_THE_LOG, self._look_in_s(delivery, doubt))

    def begun(self, attempt: Attempt) -> None:
        """Note that an attempt is about to be made."""
        self._left.begun(attempt.delivery, attempt.started_s)

    def ended(self, delivery: Delivery) -> None:
        """Note that a call has ended, or that its last attempt was not executed."""
        self._left.closed(delivery)
        if (doubt := delivery.doubt) is None:
            return
        for noted in (*doubt.attempts, *([doubt.many] if doubt.many is not None else ())):
            noted.is_open = False

    # --- what one owner of a partition leaves behind for the next -----------------------------------------------

    def left_behind(self, partition: TopicPartition, watermark: int, limit_characters: int) -> str:
        """Return what a commit of this watermark says of this site's calls, for `recall`: ASCII without spaces.

        It is to be asked for in the same step as what the commit says of the records.
        """
        return self._left.note(partition, watermark, limit_characters)

    def serial(self, partition: TopicPartition) -> int:
        """Return a number that is another one whenever `left_behind` may say something else."""
        return self._left.serial(partition)

    def acknowledged(self, partition: TopicPartition, serial: int) -> None:
        """Note that a commit which says what there was to say at this serial has arrived."""
        self._left.acknowledged(partition, serial)

    def recall(
        self,
        partition: TopicPartition,
        note: str | Recent,
        *,
        suspects_below: int = 0,
        ends_are_known: bool = False,
        nothing_before: bool = False,
        awaits_commits: bool = False,
    ) -> None:
        """Take up at an assignment what the owner before left behind, before a record is handed out.

        Records below `suspects_below` may have calls that it has made; `ends_are_known` when it is known which calls
        of unfinished records had ended. `nothing_before`: the group has never had an owner of this partition.
        `awaits_commits`: commits say what is left behind, and `acknowledged` hears of them.
        """
        if not self._has_owned and not nothing_before:
            # The process before may have used the quota until a moment ago; what we use ourselves is counted.
            self._means.gate.quota.assume_used(self._clock.monotonic_s())
        self._has_owned = True
        left = decode(note) if isinstance(note, str) else note
        recent = NOTHING if nothing_before else left
        self._left.recall(
            partition,
            recent,
            suspects_below=suspects_below,
            ends_are_known=ends_are_known,
            awaits_commits=awaits_commits,
        )

    # --- a turn of a call in doubt ------------------------------------------------------------------------------

    def decide(self, delivery: Delivery) -> Turn:
        """Return how a call ends or what it waits for; None: it is attempted; `Move.ASK_LOG`: the log is asked."""
        doubt = delivery.doubt
        if doubt is None:
            return None
        if doubt.is_earlier and self._inquiry.remembers(delivery):
            return self._remembered(delivery, doubt)
        if doubt.says is None:
            self._read(delivery, doubt)
        stale_at_s = delivery.call.stale_at_s
        move = climb(
            doubt,
            can_ask=self._can_ask(delivery),
            nonces_are_known=self._means.nonces_are_known(),
            nonce_serial=delivery.nonce_serial,
            policy=self._settings.ambiguous,
            is_stale=stale_at_s is not None and self._clock.now_s() > stale_at_s,
        )
        return self._carry_out(delivery, doubt, move)

    async def ask(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        """Ask the log about a call; the permit is used up or given back."""
        doubt = delivery.doubt
        assert doubt is not None  # noqa: S101  # `decide` has said so
        brought = await self._log.look(delivery.call.uid, self._inquiry.needed_from_s(delivery, doubt), permit)
        if brought is Brought.ENTRIES:
            doubt.looked = (*doubt.looked, self._log.seen(delivery.call.uid)[-1])[-ANSWERS_KEPT:]
        later = self._after_look(delivery, doubt, brought)
        if later is not None:
            return later
        decided = self.decide(delivery)
        if isinstance(decided, Outcome | Later):
            return decided
        return Later(reasons.ASKING_THE_LOG, 0.0)

    def _carry_out(self, delivery: Delivery, doubt: Doubt, move: Move) -> Turn:
        match move:
            case Move.ASK_LOG:
                wait_s = self._look_in_s(delivery, doubt)
                return Later(reasons.ASKING_THE_LOG, wait_s) if wait_s > 0 else Move.ASK_LOG
            case Move.DELIVERED:
                self._inquiry.note_found(delivery, doubt)
                found = replace(doubt.failure, kind=OutcomeKind.DELIVERED, reason=reasons.FOUND_IN_LOG, text="")
                return self._end(delivery, found, "found_in_log", maybe_executed=False)
            case Move.END:
                assert doubt.final is not None  # noqa: S101  # that is what END means
                return self._end(delivery, doubt.final, "refused", maybe_executed=doubt.says is not LogSays.ABSENT)
            case Move.STALE:
                stale = replace(doubt.failure, kind=OutcomeKind.STALE, reason=reasons.STALE, code=None, text="")
                return self._end(delivery, stale, "stale", maybe_executed=doubt.says is not LogSays.ABSENT)
            case Move.ACCEPT:
                accepted = replace(doubt.failure, kind=OutcomeKind.DELIVERED, reason=reasons.ACCEPTED_UNDECIDED)
                return self._end(delivery, accepted, "accepted", maybe_executed=True)
            case Move.FAIL:
                return self._end(delivery, doubt.failure, "failed", maybe_executed=True)
            case Move.SEND_CLEARED | Move.SEND_SAME_NONCE | Move.SEND_ANYWAY:
                return self._send(delivery, doubt, _STEPS[move])

    def _send(self, delivery: Delivery, doubt: Doubt, step: Step) -> Later | None:
        wait_s = doubt.not_before_s - self._clock.monotonic_s()
        if wait_s > 0:
            return Later(doubt.failure.reason, wait_s)
        if step is not Step.CLEARED_BY_LOG:
            self._may_be_many(delivery, doubt)  # also where the log could not be asked at all
        is_told = self._left.knows(delivery.partition, doubt.told_from)
        if step is not Step.CLEARED_BY_LOG and leaves_entries(delivery.call) and not is_told:
            # Else, should we die, the next owner would expect one entry of this call, find two, and take the second
            # for that of an identical call which was never made.
            wait_s = min(_UNTIL_TOLD_S * 2**doubt.waited, _UNTIL_TOLD_AT_MOST_S)
            doubt.waited = min(doubt.waited + 1, 10)
            return Later(reasons.ASKING_THE_LOG, wait_s)
        doubt.step = step
        delivery.may_be_executed = step is not Step.CLEARED_BY_LOG
        if step is Step.CLEARED_BY_LOG:
            _set(doubt.attempts, Was.NOT)
        return None

    def resent(self, delivery: Delivery) -> None:
        """Say that a call in doubt is sent again, before its first byte is written."""
        step = delivery.doubt.step if delivery.doubt is not None else Step.POLICY
        if step is not Step.CLEARED_BY_LOG:
            self._means.metrics.possible_duplicates.labels(self._means.site.name).inc()
        self._count(step.name.lower())
        self._means.lines.resent(delivery, step)

    def _end(self, delivery: Delivery, outcome: Outcome, how: str, *, maybe_executed: bool) -> Outcome:
        self._count(how)
        if outcome.kind is OutcomeKind.FAILED or maybe_executed:
            self._left.failed(delivery)
        if not maybe_executed and outcome.kind is not OutcomeKind.DELIVERED and delivery.doubt is not None:
            _set(delivery.doubt.attempts, Was.NOT)
        self.ended(delivery)
        return replace(outcome, attempts=delivery.attempts, maybe_executed=maybe_executed)

    def _remembered(self, delivery: Delivery, doubt: Doubt) -> Outcome:
        """End a call that this process has itself made before, under an assignment whose last commits got lost."""
        self._inquiry.note_remembered(delivery, doubt)
        done = replace(doubt.failure, kind=OutcomeKind.DELIVERED, reason=reasons.REMEMBERED, text="")
        return self._end(delivery, done, "remembered", maybe_executed=False)

    # --- the log ------------------------------------------------------------------------------------------------

    def _can_ask(self, delivery: Delivery) -> bool:
        return leaves_entries(delivery.call) and self._clock.monotonic_s() >= self._forbidden_until_s

    def _look_in_s(self, delivery: Delivery, doubt: Doubt) -> float:
        """Return the seconds until the log is to be asked: it must have settled, twice."""
        settle_s = self._settings.log_settle_s
        due_s = doubt.asked_from_s + settle_s
        taken = [each.taken_s for each in self._inquiry.usable(delivery, doubt) if each.taken_s >= due_s]
        if taken:
            due_s = taken[-1] + settle_s / 2
        return max(0.0, max(due_s, doubt.look_not_before_s) - self._clock.monotonic_s())

    def _after_look(self, delivery: Delivery, doubt: Doubt, brought: Brought) -> Later | None:
        now_s = self._clock.monotonic_s()
        trouble = self._means.gate.state.trouble_of(GET_ACTIONS_LOG.host_prefix)
        if brought is Brought.FORBIDDEN:
            if now_s >= self._forbidden_until_s:
                self._means.lines.log_forbidden()
            self._forbidden_until_s = now_s + _FORBIDDEN_S
        elif brought is Brought.REFUSED:
            self._undecided(delivery, doubt)
        elif brought is Brought.THROTTLED:
            return Later("rate_limited", 0.0)
        elif brought is Brought.ENTRIES:
            doubt.fruitless = doubt.unclear = 0
        elif brought is Brought.FAILED:  # in an outage, too: as its probe this question would be asked for ever
            return self._look_later(delivery, doubt, brought)
        elif trouble is not None:
            return Later(trouble.state.value, 0.0)
        else:
            return self._look_later(delivery, doubt, brought)
        return None

    def _look_later(self, delivery: Delivery, doubt: Doubt, brought: Brought) -> Later | None:
        """Put a question off that brought nothing; None: it has been put long enough."""
        doubt.unclear += brought is Brought.UNCLEAR
        wait_s = self._means.pause(doubt.fruitless)
        doubt.fruitless += 1
        delivery.budget.age_s += wait_s  # its own time: else a log that is away would hold a user for ever
        is_away = doubt.fruitless >= self._settings.attempts or doubt.unclear >= _UNCLEAR_AT_MOST
        if is_away or is_used_up(delivery.budget, self._settings):
            self._undecided(delivery, doubt)
            return None
        doubt.look_not_before_s = self._clock.monotonic_s() + wait_s
        return Later(reasons.ASKING_THE_LOG, wait_s)

    def _undecided(self, delivery: Delivery, doubt: Doubt) -> None:
        doubt.says = LogSays.UNDECIDED
        self._may_be_many(delivery, doubt)
        self._count("log_cannot_tell")

    def _may_be_many(self, delivery: Delivery, doubt: Doubt) -> None:
        """Note, once, that an earlier process may have made a suspect, more than once even, and that we may do so, too.

        Its entries must not be taken for others', by us or by the next owner: to him our commits tell its kind.
        """
        if doubt.is_earlier and doubt.many is None and leaves_entries(delivery.call):
            doubt.many = self._inquiry.note_earlier(delivery, doubt, Was.POSSIBLE)
            doubt.many.is_many = doubt.many.is_open = True
            self._left.begun(delivery, self._clock.monotonic_s())  # from here on it is among those in doubt
            doubt.told_from = self._left.serial(delivery.partition)

    def _read(self, delivery: Delivery, doubt: Doubt) -> None:
        """Take from the answers so far what they say."""
        if not leaves_entries(delivery.call):
            return
        seen = self._inquiry.usable(delivery, doubt)
        if not seen:
            return
        settled_s = doubt.asked_from_s + self._settings.log_settle_s
        settled = [each for each in seen if each.taken_s >= settled_s]
        says = self._inquiry.says(delivery, doubt, seen[-1])
        if says is LogSays.THERE:
            doubt.says = says
        elif settled and says is LogSays.UNDECIDED:
            self._undecided(delivery, doubt)
        elif len(settled) >= doubt.asks_needed and says is LogSays.ABSENT:
            doubt.says = says
            self._count("not_in_log")

    def _count(self, step: str) -> None:
        self._means.metrics.ambiguity_steps.labels(self._means.site.name, step).inc()


_STEPS = {
    Move.SEND_CLEARED: Step.CLEARED_BY_LOG,
    Move.SEND_SAME_NONCE: Step.SAME_NONCE,
    Move.SEND_ANYWAY: Step.POLICY,
}


def _set(attempts: Sequence[Noted], was: Was) -> None:
    for noted in attempts:
        noted.was = was


def ladder_of(
    *,
    site: Site,
    settings: DeliverySettings,
    gate: Gate,
    signer: Signer,
    standing: Standing,
    transport: Transport,
    clock: Clock,
    rng: random.Random,
    metrics: Metrics,
    lines: SiteLog,
    site_time: SiteTime,
) -> Ladder:
    """Return the ladder of one site with what it works with."""
    log = ActionsLog(
        site=site,
        gate=gate,
        signer=signer,
        transport=transport,
        standing=standing,
        clock=clock,
        metrics=metrics,
        site_time=site_time,
    )
    means = Means(
        site=site,
        settings=settings,
        gate=gate,
        log=log,
        clock=clock,
        metrics=metrics,
        lines=lines,
        pause=lambda pauses: pause_s(LOG_AWAY, pauses, rng),
        nonces_are_known=lambda: signer.nonces_are_known,
    )
    return Ladder(means)
