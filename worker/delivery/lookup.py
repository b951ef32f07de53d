"""Asks the site what a user did: requests to gm.getActionsLog, and what they have brought.

A question takes a permit and passes the gate as a call does. Its answer says something of the site (it is there, it
slows us down), and nothing of the call that it was put for but what the log holds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from worker.clock import Clock
from worker.delivery.gate import Gate, Permit
from worker.delivery.quota import QuotaState
from worker.delivery.signer import Request, Signer
from worker.delivery.site_state import State
from worker.delivery.site_time import SiteTime
from worker.delivery.standing import Standing
from worker.delivery.transport import Transport
from worker.gigya.actions_log import LogEntry, log_params, read_actions_log
from worker.gigya.calls import GET_ACTIONS_LOG
from worker.gigya.replies import NoReply, Reply, Verdict, VerdictKind, classify
from worker.gigya.sites import Site
from worker.metrics import Metrics

# Users whose last answers are kept: a restart asks about each user's suspects with one question for all of them.
_USERS_KEPT = 2_000
_ENTRIES_KEPT = 100_000  # of all of them: some 15 MB
_KEPT_S = 120.0  # what is older says nothing of a doubt that comes now, and a suspect's question costs a request
ANSWERS_KEPT = 2  # of one user: an absence counts when it was seen twice
# The end of the time range lies this far in the future, so that no clock can hide an entry.
_AHEAD_S = 3600.0
_UNKNOWN_CLOCK_S = 86_400.0
# Nothing a user does changes these: the key may not ask, or the method is gone.
_MAY_NOT_ASK = frozenset((403000, 403007, 403036, 405001, 410000))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A user's log as it was at `taken_s` (monotonic, when the question was put), from `from_s` (site) on."""

    taken_s: float
    from_s: float
    entries: tuple[LogEntry, ...] = field(repr=False)


class Brought(Enum):
    """What a question has brought."""

    ENTRIES = "entries"
    NOTHING = "nothing"  # no answer, or one that says nothing: ask again later
    FAILED = "failed"  # an answer of Gigya's: the log cannot tell now
    THROTTLED = "throttled"
    UNCLEAR = "unclear"  # refused, and it may be the user or our key
    REFUSED = "refused"  # asking again changes nothing
    FORBIDDEN = "forbidden"  # ... for no user


class ActionsLog:
    """The action logs of one site's users."""

    def __init__(
        self,
        *,
        site: Site,
        gate: Gate,
        signer: Signer,
        transport: Transport,
        standing: Standing,
        clock: Clock,
        metrics: Metrics,
        site_time: SiteTime,
    ) -> None:
        self.site_time = site_time
        self._site = site
        self._gate = gate
        self._signer = signer
        self._transport = transport
        self._standing = standing
        self._clock = clock
        self._metrics = metrics
        self._was_silent = False
        self._snapshots: OrderedDict[str, tuple[Snapshot, ...]] = OrderedDict()
        self._entries = 0  # in all of them

    def seen(self, uid: str) -> tuple[Snapshot, ...]:
        """Return the last answers for a user, oldest first."""
        return self._snapshots.get(uid, ())

    async def look(self, uid: str, from_s: float, permit: Permit) -> Brought:
        """Ask for what a user did since `from_s` (site time). The permit is used up or given back."""
        if not self.site_time.is_known:
            from_s -= _UNKNOWN_CLOCK_S
        started_s = self._clock.monotonic_s()
        until_s = self.site_time.at(started_s) + _AHEAD_S + (0.0 if self.site_time.is_known else _UNKNOWN_CLOCK_S)
        request = self._signer.sign(GET_ACTIONS_LOG, log_params(uid, from_s, until_s))
        answer = await self._post(request, permit)
        brought = self._heard(request, answer, permit, uid)
        if brought is Brought.ENTRIES and isinstance(answer, Reply):
            entries = read_actions_log(answer)
            if entries is None:
                brought = Brought.REFUSED  # it answers, and we cannot read it: nor can we next time
            else:
                self._keep(uid, Snapshot(started_s, math.floor(from_s), entries))
        self._metrics.log_lookups.labels(self._site.name, brought.value).inc()
        return brought

    async def _post(self, request: Request, permit: Permit) -> Reply | NoReply:
        is_written = False

        def before_write() -> bool:
            nonlocal is_written
            is_written = True
            self._gate.written(permit)
            return True

        generation = self._signer.site_clock.generation
        sent_s, sent_unix_s = self._clock.monotonic_s(), self._clock.now_s()
        try:
            answer = await self._transport.post(
                request.url, request.body, authorization=request.authorization, before_write=before_write
            )
        finally:
            self._gate.ended(permit, was_written=is_written)
        if isinstance(answer, Reply) and answer.server_time_s is not None:
            self.site_time.heard(answer.server_time_s, sent_s, self._clock.monotonic_s())
            self._signer.site_clock.measure(answer.server_time_s, sent_unix_s, self._clock.now_s())
            if answer.error_code == 403002:
                self._signer.site_clock.refused(generation, can_correct=True)
        return answer

    def _heard(self, request: Request, answer: Reply | NoReply, permit: Permit, uid: str) -> Brought:
        """Note what an answer says of the site, and return what it brings."""
        verdict = classify(answer, self._site.verdicts)
        now_s = self._clock.monotonic_s()
        if verdict.kind is VerdictKind.THROTTLED:
            retry_after_s = answer.retry_after_s if isinstance(answer, Reply) else None
            self._gate.quota.throttled(permit.serial, now_s, retry_after_s)
            self._metrics.throttled.labels(self._site.name).inc()
        elif isinstance(answer, NoReply) or (verdict.kind is VerdictKind.AMBIGUOUS and answer.error_code is None):
            self._was_silent = True
            self._standing.unanswered(GET_ACTIONS_LOG, uid, verdict)
        elif verdict.kind is VerdictKind.AMBIGUOUS:
            pass  # 500001: the log is in trouble, which says nothing of calls, neither that they can be made nor not
        elif answer.error_code is not None:
            if self._was_silent:
                # Only then does it show that the site is back: a log that answers all along says nothing of calls.
                self._was_silent = False
                self._standing.answered(GET_ACTIONS_LOG)
            if self._gate.state.state is State.OUTAGE:
                self._gate.state.hurry(now_s)  # what was to be the probe was this question: a call can follow at once
            self._gate.state.hurry_host(GET_ACTIONS_LOG.host_prefix)
            if self._gate.quota.state is not QuotaState.STEADY:
                self._gate.quota.accepted(permit.serial, now_s)
        self._gate.refresh()
        if verdict.kind is VerdictKind.AMBIGUOUS and isinstance(answer, Reply) and answer.error_code is not None:
            return Brought.FAILED
        return _brought(verdict, is_outdated=self._signer.is_outdated(request))

    def _keep(self, uid: str, snapshot: Snapshot) -> None:
        before = self.seen(uid)
        kept = self._snapshots[uid] = (*before, snapshot)[-ANSWERS_KEPT:]
        self._entries += _entries(kept) - _entries(before)
        self._snapshots.move_to_end(uid)
        while len(self._snapshots) > 1 and self._has_too_many(snapshot.taken_s):
            _, dropped = self._snapshots.popitem(last=False)
            self._entries -= _entries(dropped)

    def _has_too_many(self, now_s: float) -> bool:
        oldest = next(iter(self._snapshots.values()))[-1]
        is_old = oldest.taken_s < now_s - _KEPT_S
        return is_old or len(self._snapshots) > _USERS_KEPT or self._entries > _ENTRIES_KEPT


def _entries(snapshots: Iterable[Snapshot]) -> int:
    return sum(len(each.entries) for each in snapshots)


def _brought(verdict: Verdict, *, is_outdated: bool) -> Brought:
    match verdict.kind:
        case VerdictKind.OK:
            return Brought.ENTRIES
        case VerdictKind.THROTTLED:
            return Brought.THROTTLED
        case VerdictKind.STOP if verdict.code in _MAY_NOT_ASK and not is_outdated:
            return Brought.FORBIDDEN
        case VerdictKind.ASK if not is_outdated:
            return Brought.UNCLEAR
        case VerdictKind.REJECTED | VerdictKind.USER | VerdictKind.CAPPED:
            return Brought.REFUSED
        case _:
            return Brought.NOTHING
