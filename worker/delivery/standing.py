"""How do we stand with the site, and who finds out? Calls that are held, questions to the site, stops and their ends.

The decisions are those of `SiteState` and `Asks`; this module carries them out: it asks the site, holds and releases
calls, and says so in the log. Questions are requests: each takes a permit, and no answer to one is a verdict on a call.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from worker.clock import Clock, Timer
from worker.delivery import reasons
from worker.delivery.asks import Accepted, Asks, SiteAnswer
from worker.delivery.deliveries import Attempt, Delivery
from worker.delivery.gate import Gate, Permit
from worker.delivery.quota import QuotaState
from worker.delivery.schedule import DeliverySettings
from worker.delivery.signer import Request, Signer, base_strings_differ_at
from worker.delivery.site_log import SiteLog
from worker.delivery.site_state import Probe, State, Trouble
from worker.delivery.transport import Transport
from worker.gigya.calls import GET_ACTION_CONFIG
from worker.gigya.replies import REASONS, NoReply, Reply, Verdict, VerdictKind, classify, remedy_of, safe_text
from worker.gigya.sites import Addressed, Site
from worker.metrics import Metrics

# What the site can say to a question. Anything else, and silence: ask later.
_REFUSALS = frozenset((403003, 403005, 400093, 403010, 400008))
_FORBIDDEN = frozenset((403000, 403007, 403036, 405001, 410000))
# The answers to a call that show, sent as a probe, that the site takes our calls again.
_TAKEN = frozenset((VerdictKind.OK, VerdictKind.CAPPED, VerdictKind.REJECTED, VerdictKind.USER, VerdictKind.RETRY))
# In an outage of the whole site the hosts that did not begin it are asked so often whether they are back.
_OTHERS_EVERY_S = 10.0
# A probe that is due this long has nobody to make it: the refused calls were dropped with their partitions.
_NOBODY_CAME_S = 5.0


class Standing:
    """The one who knows whether calls to this site make sense. Used from one event loop."""

    def __init__(
        self,
        *,
        site: Site,
        settings: DeliverySettings,
        gate: Gate,
        signer: Signer,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        log: SiteLog,
    ) -> None:
        self.released: Callable[[Delivery], None] = _nobody_waits
        self.asks: Asks[Delivery] = Asks(rng, limit_s=settings.ask_limit_s)
        self._site = site
        self._gate = gate
        self._state = gate.state
        self._signer = signer
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._refused: set[Delivery] = set()  # calls that the stop's own method refused: fit to be its probe
        self._parked: set[Delivery] = set()  # calls of other methods, out of the probe's way until the site opens
        self._waiting: dict[str, OrderedDict[Delivery, None]] = {}  # for a host that is away alone
        self._questions: dict[str, Addressed] = {GET_ACTION_CONFIG.host_prefix: GET_ACTION_CONFIG}  # by host
        self._others_asked_s: dict[str, float] = {}
        self.outage_began: Callable[[str], None] = _nobody_waits  # told of the host that a question found silent
        self._last_answer = SiteAnswer.UNKNOWN
        self._limit: Timer | None = None  # runs while calls are held: a question may wait long for its permit
        self._changed = asyncio.Event()

    @property
    def held(self) -> int:
        """Return how many calls wait for `released`."""
        return len(self.asks) + len(self._parked) + sum(map(len, self._waiting.values()))

    # --- what attempts report -----------------------------------------------------------------------------------

    def unanswered(self, method: Addressed, uid: str, verdict: Verdict) -> bool:
        """Note that nothing conclusive came back; True when this one began an outage."""
        host, now_s = method.host_prefix, self._clock.monotonic_s()
        self._questions.setdefault(host, method)
        if host not in self._state.hosts:
            self._changed.set()  # it may have to be asked
        remedy = _remedy_of_silence(verdict)
        if not self._state.unanswered(host, uid, now_s, self._clock.now_s(), reason=verdict.reason, remedy=remedy):
            return False
        self._say_outage(host)
        return True

    def _say_outage(self, host: str) -> None:
        if (trouble := self._state.trouble_of(host)) is not None:
            self._log.outage(trouble, is_alone=self._state.trouble is None)
        self._moved()

    def answered(self, method: Addressed) -> None:
        """Note a whole answer that is none of those: an outage ends with it."""
        host = method.host_prefix
        self._questions.setdefault(host, method)
        if (ended := self._state.answered(host, self._clock.monotonic_s())) is not None:
            self._opened(ended, by="answer", freed=())
            if ended.host in self._state.away:
                self._say_outage(ended.host)  # the site is back but for the host that fell silent

    def wait_for_host(self, delivery: Delivery) -> bool:
        """Hold a call to a host that is away alone, unless it may be the probe."""
        host = delivery.call.method.host_prefix
        if host not in self._state.away:
            return False
        is_due = self._state.probe_host_due_s(host) <= self._clock.monotonic_s()
        if is_due and self._state.away[host].probe is Probe.CALL:
            return False
        self._waiting.setdefault(host, OrderedDict())[delivery] = None
        self._changed.set()
        return True

    @contextmanager
    def probing(self, host: str) -> Iterator[None]:
        """Be the probe of a host, if it is away alone."""
        if host not in self._state.away:
            yield
            return
        self._state.host_probe_started(host)
        try:
            yield
        finally:
            self._state.host_probe_ended(host, self._clock.monotonic_s())
            self._changed.set()

    def succeeded(self, attempt: Attempt) -> None:
        """Note a success: it speaks for every call that was held before its attempt began, but for the same user's."""
        if len(self.asks):
            self._free(self.asks.accepted(attempt.tick, by_uid=attempt.delivery.call.uid))

    def probe_taken(self, attempt: Attempt, verdict: Verdict) -> None:
        """Note what became of the call that was the probe of a stopped site."""
        trouble = self._state.trouble
        if trouble is None or trouble.state is not State.STOPPED or verdict.kind not in _TAKEN:
            return
        if trouble.method and self._refused and attempt.delivery.call.method.name != trouble.method:
            return  # says nothing about the method that was refused
        self._open(trouble, by="call", tick=attempt.tick, uid=attempt.delivery.call.uid)

    def hold(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply, *, in_flight: int) -> None:
        """Keep a call that was refused with 403003 or 403005 until something tells whether it is the call or us.

        Its `refusal` is the end it will have if it is the call.
        """
        delivery = attempt.delivery
        differs_at = base_strings_differ_at(attempt.request, answer) if isinstance(answer, Reply) else None
        self.asks.hold(delivery, delivery.call.uid, self._clock.monotonic_s(), accepted_in=delivery.accepted_in)
        self._log.held(attempt, verdict, in_flight=in_flight, differs_at=differs_at)
        self._watch_limit()
        self._moved()

    def refuse(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> None:
        """Stop the site: a call's own verdict says that it refuses us. The call waits, and may be the probe."""
        self._refused.add(attempt.delivery)
        method = attempt.delivery.call.method.name
        remedy = remedy_of(verdict, answer)
        self.stop(verdict.reason, verdict.code, safe_text(answer), Probe.CALL, method=method, remedy=remedy)

    def stop(
        self, reason: str, code: int | None, text: str, probe: Probe, *, method: str = "", remedy: str = ""
    ) -> None:
        """Stop the site, or say more exactly why it is stopped. Nothing is sent until a probe gets through."""
        rows = reasons.DELIVERY_REASONS if reason in reasons.DELIVERY_REASONS else REASONS
        now_s, remedy = self._clock.monotonic_s(), remedy or rows[reason].remedy
        trouble = Trouble(State.STOPPED, reason, code, remedy, method, probe, now_s, self._clock.now_s())
        is_new = self._state.stop(trouble, now_s)
        self.asks.void()
        if is_new:
            self._log.stopped(trouble, held=self.held, text=text)
        if probe is Probe.CALL:
            self._release(self.asks.take_all())  # at the gate any of them can be the probe
        self._moved()

    def park(self, delivery: Delivery) -> bool:
        """Hold a call that got the probe's permit but cannot be the probe: it is not of the method that was refused."""
        trouble = self._state.trouble
        if trouble is None or not trouble.method or not self._refused:
            return False
        if delivery.call.method.name == trouble.method:
            return False
        self._parked.add(delivery)
        self._changed.set()
        return True

    def forget(self, delivery: Delivery) -> None:
        """Drop a call that is not ours any more."""
        self.asks.forget(delivery)
        self._refused.discard(delivery)
        self._parked.discard(delivery)
        if (waiting := self._waiting.get(delivery.call.method.host_prefix)) is not None:
            waiting.pop(delivery, None)
        if not self._refused and self._parked:
            self._let_any_call_probe()

    def resume(self) -> None:
        """Open the site because an operator says so; if it still refuses us, the next answer stops it again."""
        if (trouble := self._state.trouble or next(iter(self._state.away.values()), None)) is not None:
            self._open(trouble, by="resume", tick=0, uid=None)

    def unpaused(self) -> None:
        """Note the end of a pause, in which nothing could be asked."""
        self.asks.restart(self._clock.monotonic_s())
        self._watch_limit()
        self._moved()

    def rotated(self) -> None:
        """Note that the credentials were exchanged: what the site said of the old ones is void; it is asked anew."""
        now_s = self._clock.monotonic_s()
        self.asks.void()
        self.asks.restart(now_s)
        if self._state.trouble is not None and self._state.trouble.state is State.STOPPED:
            self._state.hurry(now_s)
        self._moved()

    # --- asking the site ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask the site when there is something to ask, until cancelled."""
        while True:
            now_s = self._clock.monotonic_s()
            if self._question_due_s() <= now_s:
                await self._ask()
            elif self._silence_due_s() <= now_s:
                await self._ask_host(self._state.hosts.to_ask_about()[1])
            elif host := self._call_host_probes(now_s) or self._other_host_due(now_s)[1]:
                await self._ask_host(host)
            elif self._deserted_at_s() <= now_s:
                self._let_any_call_probe()
            else:
                look_again_s = now_s + _NOBODY_CAME_S if self._parked else math.inf
                due_s = min(self._question_due_s(), self._silence_due_s(), self._host_probes_due_s(), look_again_s)
                await self._wait_until(min(due_s, self._other_host_due(now_s)[0]), now_s)

    def _question_due_s(self) -> float:
        return self.asks.question_due_s() if self._state.trouble is None else self._state.question_due_s()

    def _silence_due_s(self) -> float:
        return self._state.hosts.to_ask_about()[0] if self._state.trouble is None else math.inf

    def _host_probes_due_s(self) -> float:
        if self._state.trouble is not None:
            return math.inf
        hosts = (host for host in self._state.away if self._waiting.get(host))
        return min(map(self._state.call_probe_due_s, hosts), default=math.inf)

    def _call_host_probes(self, now_s: float) -> str:
        """Tell a call that waits for a host to be its probe, where one is due; return a host that is to be asked."""
        for host, trouble in self._state.away.items() if self._state.trouble is None else ():
            if (waiting := self._waiting.get(host)) and self._state.call_probe_due_s(host) <= now_s:
                if trouble.probe is Probe.QUESTION:
                    return host
                self._state.probe_called(host, now_s)
                self._release((waiting.popitem(last=False)[0],))
        return ""

    def _other_host_due(self, now_s: float) -> tuple[float, str]:
        """Return when, in an outage of the site, a host other than the silent one is to be asked, and which if now.

        The calls to the silent one may stand before all others at the gate: none of those might ever be the probe.
        """
        trouble = self._state.trouble
        if trouble is None or not trouble.host:
            return math.inf, ""
        others = (host for host in self._questions if host != trouble.host)
        due_s, host = min(
            ((self._others_asked_s.get(host, -math.inf) + _OTHERS_EVERY_S, host) for host in others),
            default=(math.inf, ""),
        )
        return due_s, host if due_s <= now_s else ""

    async def _ask_host(self, host: str) -> None:
        """Ask a host whether it is there: silent to few users, away alone, or not the one that took the site away.

        Any whole answer will do, a refusal too: gm.getActionConfig changes nothing, and neither does a call without
        any parameter, which names no user and nothing to do.
        """
        permit = await self._gate.admit_question()
        trouble, now_s = self._state.trouble, self._clock.monotonic_s()
        is_silent = host in self._state.hosts or host in self._state.away
        if not is_silent if trouble is None else self._other_host_due(now_s)[1] != host:
            self._gate.give_back(permit)  # things changed while the question waited for its permit
            return
        self._state.hosts.asked_about(host)
        self._others_asked_s[host] = now_s
        request = self._signer.sign(self._questions[host], {})
        with self.probing(host):
            answer = await self._post(request, permit)
        verdict = classify(answer, self._site.verdicts)
        is_silent = isinstance(answer, NoReply) or verdict.kind is VerdictKind.AMBIGUOUS
        self._metrics.probes.labels(self._site.name, "silent" if is_silent else "answered").inc()
        if not is_silent:
            if verdict.kind is VerdictKind.THROTTLED and isinstance(answer, Reply):
                self._gate.quota.throttled(permit.serial, self._clock.monotonic_s(), answer.retry_after_s)
                self._metrics.throttled.labels(self._site.name).inc()
            self.answered(self._questions[host])
        elif host in self._state.hosts and self._state.trouble_of(host) is None:
            now_s, remedy = self._clock.monotonic_s(), _remedy_of_silence(verdict)
            self._state.fall_silent(host, now_s, self._clock.now_s(), reason=verdict.reason, remedy=remedy)
            self.outage_began(host)
            self._say_outage(host)

    def _watch_limit(self) -> None:
        if self._limit is None and len(self.asks):
            left_s = self.asks.undecided_at_s() - self._clock.monotonic_s()
            self._limit = self._clock.call_later(max(0.001, left_s), self._check_limit)

    def _check_limit(self) -> None:
        self._limit = None
        if self._state.trouble is not None or self._gate.is_paused:
            return  # its end starts the limit anew
        if self.asks.undecided_at_s() <= self._clock.monotonic_s():
            probe = Probe.CALL if self._last_answer is SiteAnswer.FORBIDDEN else Probe.QUESTION
            self.stop(reasons.UNDECIDED, None, "no decision within ask_limit_s", probe)
            return
        self._watch_limit()

    def _deserted_at_s(self) -> float:
        """Return when the probe counts as deserted: due for long, while the calls that could be it are gone."""
        return self._state.call_due_s() + _NOBODY_CAME_S if self._parked and not self._gate.is_paused else math.inf

    def _let_any_call_probe(self) -> None:
        self._refused.clear()
        self._release(self._parked_again())

    async def _ask(self) -> None:
        trouble_before = self._state.trouble
        permit = await self._gate.admit_question()
        if self._question_due_s() > self._clock.monotonic_s() or self._state.trouble is not trouble_before:
            self._gate.give_back(permit)  # things changed while the question waited for its permit
            return
        is_probe = trouble_before is not None
        if is_probe:
            self._state.probe_started()
        tick = self.asks.question_started()
        answer: Reply | NoReply = NoReply("not_sent", may_have_arrived=False)
        request = self._signer.sign(GET_ACTION_CONFIG, {})
        try:
            answer = await self._post(request, permit)
        finally:
            verdict = classify(answer, self._site.verdicts)
            site_answer = None if self._signer.is_outdated(request) else _site_answer(verdict)
            self.asks.question_ended(site_answer, self._clock.monotonic_s())
            if is_probe:
                self._state.probe_ended(self._clock.monotonic_s())
        self._heard(site_answer, verdict, answer, tick, permit)

    async def _post(self, request: Request, permit: Permit) -> Reply | NoReply:
        written = False

        def before_write() -> bool:
            nonlocal written
            written = True
            self._gate.written(permit)
            return True

        generation = self._signer.site_clock.generation
        sent_s = self._clock.now_s()
        try:
            answer = await self._transport.post(
                request.url, request.body, authorization=request.authorization, before_write=before_write
            )
        finally:
            self._gate.ended(permit, was_written=written)
        if isinstance(answer, Reply) and answer.server_time_s is not None:
            self._signer.site_clock.measure(answer.server_time_s, sent_s, self._clock.now_s())
            if answer.error_code == 403002:
                self._signer.site_clock.refused(generation, can_correct=True)
        return answer

    def _heard(
        self, site_answer: SiteAnswer | None, verdict: Verdict, answer: Reply | NoReply, tick: int, permit: Permit
    ) -> None:
        """Note what the site said to a question; None: it was put with a key that is not in use any more."""
        self._last_answer = site_answer or SiteAnswer.UNKNOWN
        self._metrics.probes.labels(self._site.name, self._last_answer.value).inc()
        if verdict.kind is VerdictKind.THROTTLED and isinstance(answer, Reply):
            self._gate.quota.throttled(permit.serial, self._clock.monotonic_s(), answer.retry_after_s)
            self._metrics.throttled.labels(self._site.name).inc()
        elif isinstance(answer, Reply) and answer.error_code is not None:
            if verdict.kind is not VerdictKind.AMBIGUOUS:
                self.answered(GET_ACTION_CONFIG)
            if self._gate.quota.state is not QuotaState.STEADY:
                self._gate.quota.accepted(permit.serial, self._clock.monotonic_s())
        trouble = self._state.trouble
        if site_answer is SiteAnswer.ACCEPTED:
            if trouble is not None:
                self._open(trouble, by="question", tick=tick, uid=None)
            else:
                self._free(self.asks.accepted(tick))
        elif site_answer is SiteAnswer.REFUSED:
            if trouble is None or trouble.probe is Probe.QUESTION:
                is_stop = verdict.kind is VerdictKind.STOP
                reason = verdict.reason if is_stop else "credentials_refused"
                remedy = remedy_of(verdict, answer) if is_stop else ""
                text = f"gm.getActionConfig: {safe_text(answer)}"
                self.stop(reason, verdict.code, text, Probe.QUESTION, remedy=remedy)
        elif site_answer is SiteAnswer.FORBIDDEN and trouble is not None and trouble.state is State.STOPPED:
            # We may not ask: only a call can show whether the site is back.
            self.stop(trouble.reason, trouble.code, "", Probe.CALL, remedy=trouble.remedy)
        self._gate.refresh()

    async def _wait_until(self, due_s: float, now_s: float) -> None:
        self._changed.clear()
        timer = self._clock.call_later(due_s - now_s, self._changed.set) if due_s < math.inf else None
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # --- opening and releasing ----------------------------------------------------------------------------------

    def _open(self, trouble: Trouble, *, by: str, tick: int, uid: str | None) -> None:
        self._state.open()
        accepted = self.asks.accepted(tick, by_uid=uid)
        self._free(accepted)
        self._opened(trouble, by=by, freed=accepted.again)

    def _opened(self, trouble: Trouble, *, by: str, freed: Iterable[Delivery]) -> None:
        self._refused.clear()
        parked = (*self._parked_again(), *self._back_from_hosts())
        self.asks.restart(self._clock.monotonic_s())
        self._watch_limit()
        self._log.opened(trouble, by=by, released=len(parked) + len(tuple(freed)))
        self._release(parked)
        self._moved()

    def _free(self, accepted: Accepted[Delivery]) -> None:
        for delivery in accepted.decided:
            delivery.decided = delivery.refusal
        for delivery in accepted.again:
            delivery.accepted_in = self.asks.epoch
        self._release((*accepted.decided, *accepted.again))

    def _parked_again(self) -> tuple[Delivery, ...]:
        parked, self._parked = tuple(self._parked), set()
        return parked

    def _back_from_hosts(self) -> Iterable[Delivery]:
        for host in [host for host in self._waiting if host not in self._state.away]:
            yield from self._waiting.pop(host)

    def _release(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.released(delivery)

    def _moved(self) -> None:
        self._changed.set()
        self._gate.refresh()


def _site_answer(verdict: Verdict) -> SiteAnswer:
    if verdict.kind is VerdictKind.OK:
        return SiteAnswer.ACCEPTED
    if verdict.code in _REFUSALS:
        return SiteAnswer.REFUSED
    if verdict.code in _FORBIDDEN or verdict.reason == "dns_failure":
        return SiteAnswer.FORBIDDEN
    return SiteAnswer.UNKNOWN


def _remedy_of_silence(verdict: Verdict) -> str:
    row = REASONS[verdict.reason]
    if row.kind is not VerdictKind.RETRY:  # those tell what to do about a request that never got there
        row = reasons.DELIVERY_REASONS[reasons.OUTAGE]
    return row.remedy


def _nobody_waits(_: object) -> None:
    """Stand in until the lanes have said who is to be told."""
