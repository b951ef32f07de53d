"""One attempt of one call, from permit to verdict, and what follows from it; one `Sender` per site.

    admit       site open (or a probe due), and a permit of the quota
    attempt     stale? -> timestamp, nonce, signature -> transport -> verdict -> Outcome, or Later
    run         what the site itself is asked: about held calls, and whether it is back

Nothing is ever dead-lettered for what is the site's matter: throttling, outage, stop.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from worker.clock import Clock
from worker.delivery import reasons
from worker.delivery.ambiguity import Move, needs_harmless_probes
from worker.delivery.deliveries import Attempt, Delivery, Later
from worker.delivery.gate import Gate, Permit
from worker.delivery.ladder import Turn, ladder_of
from worker.delivery.nonces import nonce_of
from worker.delivery.outcomes import SiteStatus, backoff_of, outcome_of
from worker.delivery.publishing import (
    is_publish,
    may_have_taken_it,
    params_for,
    providers_to_retry,
    results_by_provider,
    verdict_of,
)
from worker.delivery.quota import Quota, QuotaState
from worker.delivery.schedule import (
    OWN_FAULT,
    Backoff,
    Charge,
    DeliverySettings,
    is_used_up,
    pause_s,
)
from worker.delivery.signer import Signer
from worker.delivery.site_clock import SiteClock
from worker.delivery.site_log import SiteLog
from worker.delivery.site_state import Probe, SiteState
from worker.delivery.site_time import SiteTime
from worker.delivery.standing import Standing
from worker.delivery.transport import Transport
from worker.gigya.authorization import AnyCredentials
from worker.gigya.replies import NoReply, Reply, Verdict, VerdictKind, classify, provider_results, safe_text
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.model import Outcome, OutcomeKind

__all__ = ["Delivery", "Later", "Permit", "Sender", "SiteStatus"]

_WITHDRAWN_WAIT_S = 0.25


class Sender:
    """Makes the calls of one site. Used from one event loop; `run` must be running."""

    def __init__(
        self,
        *,
        site: Site,
        credentials: AnyCredentials,
        settings: DeliverySettings,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        nonce: Callable[[], str],
        metrics: Metrics,
        mark: Callable[[str], str],
        may_write: Callable[[], bool] = lambda: True,
        run: str = "",
        group: str = "",
    ) -> None:
        """`mark` stands for a UID in logs. `run` (empty for the live worker) and `group` go into the nonces of calls;
        `nonce` makes all others. `may_write` (the lease) is asked before a connection, and before a byte.
        """
        self._site = site
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self.may_write = may_write  # public: whoever knows the lease is made after the senders
        self._log = SiteLog(site.name, clock, mark)
        self._quota = Quota(site.quota_per_s, clock.monotonic_s(), yields=bool(run))
        outage_probe = Probe.QUESTION if needs_harmless_probes(settings.ambiguous) else Probe.CALL
        self._state = SiteState(rng, outage_probe=outage_probe)
        self._gate = Gate(self._quota, self._state, clock)
        self._site_clock = SiteClock()
        self._signer = Signer(site=site, credentials=credentials, clock=clock, site_clock=self._site_clock, nonce=nonce)
        self._standing = Standing(
            site=site,
            settings=settings,
            gate=self._gate,
            signer=self._signer,
            transport=transport,
            clock=clock,
            rng=rng,
            metrics=metrics,
            log=self._log,
        )
        self._site_time = SiteTime(clock)
        self.ladder = ladder_of(
            site=site,
            settings=settings,
            gate=self._gate,
            signer=self._signer,
            standing=self._standing,
            transport=transport,
            clock=clock,
            rng=rng,
            metrics=metrics,
            lines=self._log,
            site_time=self._site_time,
        )  # public: commits carry what it leaves behind
        self._run_and_group = (run, group)
        self._in_flight = 0
        self._requests_written = 0
        self._charges: dict[
            str, deque[tuple[Delivery, Charge]]
        ] = {}  # by host, since its last answer: an outage gives them back
        self._standing.outage_began = self._refund
        self._attempt_s = metrics.attempt_s.labels(site.name)
        self._attempts: dict[tuple[VerdictKind, str], Callable[[], None]] = {}

    @property
    def released(self) -> Callable[[Delivery], None]:
        """Told of every held call that may be attempted again."""
        return self._standing.released

    @released.setter
    def released(self, told: Callable[[Delivery], None]) -> None:
        self._standing.released = told

    @property
    def is_open(self) -> bool:
        return self._state.trouble is None and not self._gate.is_paused and self.may_write()

    def status(self) -> SiteStatus:
        trouble, now_s = self._state.trouble, self._clock.monotonic_s()
        return SiteStatus(
            site=self._site.name,
            state=self._state.state,
            reason=trouble.reason if trouble is not None else "",
            code=trouble.code if trouble is not None else None,
            since_s=trouble.since_unix_s if trouble is not None else None,
            remedy=trouble.remedy if trouble is not None else "",
            held=self._standing.held,
            rate_per_s=self._quota.rate_per_s,
            quota=self._quota.state,
            clock_offset_s=self._site_time.ahead_s or self._site_clock.measured_s,
            is_paused=self._gate.is_paused,
            permit_in_s=max(0.0, self._quota.due_s(now_s) - now_s),
            away=tuple(self._state.away.values()),
        )

    @property
    def requests_written(self) -> int:
        """Return how many calls' requests were begun since the start."""
        return self._requests_written

    @property
    def calls_at_the_gate(self) -> bool:
        """Return whether a call waits for a permit now."""
        return self._gate.has_calls_waiting

    async def run(self) -> None:
        """Ask the site when there is something to ask, until cancelled."""
        await self._standing.run()

    def set_quota(self, quota_per_s: float | None) -> None:
        """Change the site's quota; less takes effect with the next permit."""
        self._quota.set_quota(quota_per_s, self._clock.monotonic_s())
        self._gate.refresh()

    def pause(self) -> None:
        """Start no request until `go_on`, neither calls nor questions; what is in flight ends."""
        self._gate.pause()

    def go_on(self) -> None:
        """End a pause. It was nobody's fault: the time that calls may be held undecided begins anew."""
        self._gate.go_on()
        self._standing.unpaused()

    def resume(self) -> None:
        """Open the site because an operator says so."""
        self._standing.resume()

    def rotate(self, credentials: AnyCredentials) -> None:
        """Use these credentials from the next attempt on; what is in flight keeps its own.

        A site that is stopped, and calls that are held, are asked about at once.
        """
        self._signer.rotate(credentials)
        self._standing.rotated()

    async def admit(self) -> Permit:
        """Wait until one attempt may start. Cancelling it loses no permit."""
        while True:
            permit = await self._gate.admit_call()
            if self.may_write():
                return permit
            # Before a connection is opened for it, and here rather than in each lane, of which there may be thousands.
            self._gate.give_back(permit)
            await self._clock.sleep(_WITHDRAWN_WAIT_S)

    def give_back(self, permit: Permit) -> None:
        """Return a permit that was not used."""
        self._gate.give_back(permit)

    def forget(self, delivery: Delivery) -> None:
        """Drop a call that is held: it is not ours any more."""
        self._standing.forget(delivery)

    def abandon(self, delivery: Delivery) -> None:
        """Drop a call that an operator has ended: nothing more will be known of it."""
        self._standing.forget(delivery)
        self.ladder.ended(delivery)

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        """Make exactly one attempt; the permit is used up or given back, whatever happens."""
        unsent = self._without_request(delivery, permit)
        if unsent is not None and unsent is not Move.ASK_LOG:
            self._gate.give_back(permit)
            return unsent
        with self._standing.probing(delivery.call.method.host_prefix):
            return await (self.ladder.ask(delivery, permit) if unsent else self._request(delivery, permit))

    async def _request(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        attempt = self._begin(delivery, permit)
        self.ladder.begun(attempt)
        self._in_flight += 1
        try:
            request = attempt.request
            answer = await self._transport.post(
                request.url,
                request.body,
                authorization=request.authorization,
                before_write=partial(self._about_to_write, attempt),
            )
            return self._judge(attempt, answer)
        finally:
            self._in_flight -= 1
            if delivery.doubt is None:
                self.ladder.ended(delivery)
            self._gate.ended(permit, was_written=attempt.is_written)

    # --- before the request -------------------------------------------------------------------------------------

    def _without_request(self, delivery: Delivery, permit: Permit) -> Turn:
        """Return what needs no attempt, or must not have one; None: go on."""
        if delivery.decided is not None:
            decided, delivery.decided = delivery.decided, None
            return self._ended(delivery, decided)
        trouble = self._state.trouble
        if trouble is not None:
            if not permit.probe:  # the permit is older than the trouble
                return Later(trouble.state.value, 0.0)
            if self._standing.park(delivery):
                return Later(reasons.STOPPED, None)
        elif self._state.away and self._standing.wait_for_host(delivery):
            return Later(reasons.OUTAGE, None)
        if delivery.suspect and not delivery.attempts and delivery.doubt is None:
            delivery.may_be_executed = True
            self.ladder.suspect(delivery, outcome_of(delivery, OutcomeKind.FAILED, reasons.SUSPECT))
        if delivery.doubt is not None:
            return self.ladder.decide(delivery)
        stale_at_s = delivery.call.stale_at_s
        if stale_at_s is not None and self._clock.now_s() > stale_at_s:
            return self._ended(delivery, outcome_of(delivery, OutcomeKind.STALE, reasons.STALE))
        return None

    def _begin(self, delivery: Delivery, permit: Permit) -> Attempt:
        params = delivery.params if delivery.params is not None else delivery.call.params
        request = self._signer.sign(delivery.call.method, params, self._nonce_of(delivery, params))
        delivery.attempts += 1
        return Attempt(
            delivery=delivery,
            permit=permit,
            tick=self._standing.asks.tick(),
            generation=self._site_clock.generation,
            started_s=self._clock.monotonic_s(),
            started_unix_s=self._clock.now_s(),
            request=request,
        )

    def _about_to_write(self, attempt: Attempt) -> bool:
        if not self.may_write():
            attempt.is_withdrawn = True
            return False
        if attempt.delivery.may_be_executed or attempt.delivery.doubt is not None:
            # Said before the first byte: a counter dies with the process, and so would a line that comes later.
            self.ladder.resent(attempt.delivery)
        attempt.is_written = True
        self._requests_written += 1
        self._gate.written(attempt.permit)
        return True

    # --- after the answer ---------------------------------------------------------------------------------------

    def _judge(self, attempt: Attempt, answer: Reply | NoReply) -> Outcome | Later:
        if attempt.is_withdrawn:
            return Later("not_sent", _WITHDRAWN_WAIT_S)
        verdict = self._read(attempt, answer)
        self._note(attempt, answer, verdict)
        if isinstance(answer, Reply) and answer.error_code is not None and verdict.kind is not VerdictKind.AMBIGUOUS:
            attempt.delivery.nonce_serial += 1  # decided, and the server may have burnt the nonce before it refused
        is_outdated = self._signer.is_outdated(attempt.request)
        if is_outdated and verdict.kind in (VerdictKind.STOP, VerdictKind.ASK):
            return Later(reasons.KEY_ROTATED, 0.0)  # may be about the old key: the new one is to be heard
        if attempt.permit.probe:
            self._standing.probe_taken(attempt, verdict)
        delivery = attempt.delivery
        match verdict.kind:
            case VerdictKind.OK:
                self.ladder.delivered(attempt)
                if not is_outdated:  # that the old key was accepted proves nothing for the new one
                    self._standing.succeeded(attempt)
                return self._accepted(attempt, verdict, answer)
            case VerdictKind.CAPPED:
                return self._ended(delivery, outcome_of(delivery, OutcomeKind.CAPPED, verdict.reason, verdict, answer))
            case VerdictKind.REJECTED | VerdictKind.USER:
                return self._failed(delivery, verdict, answer)
            case VerdictKind.RETRY if attempt.results:
                return self._networks_again(attempt, verdict, answer)
            case VerdictKind.RETRY:
                return self._again(attempt, verdict, answer, backoff_of(verdict, answer))
            case VerdictKind.THROTTLED:
                return self._throttled(attempt, verdict, answer)
            case VerdictKind.RESIGN:
                return self._sign_again(attempt, verdict, answer)
            case VerdictKind.ASK:
                return self._ask(attempt, verdict, answer)
            case VerdictKind.STOP:
                self._standing.refuse(attempt, verdict, answer)
                return Later(reasons.STOPPED, 0.0)
            case VerdictKind.AMBIGUOUS:
                return self._ambiguous(attempt, verdict, answer)

    def _read(self, attempt: Attempt, answer: Reply | NoReply) -> Verdict:
        """Return what an answer means for this call; of a publish, note what each network said."""
        overrides, delivery = self._site.verdicts, attempt.delivery
        verdict = classify(answer, overrides)
        if not is_publish(delivery.call) or isinstance(answer, NoReply):
            return verdict
        attempt.results = provider_results(answer, overrides)
        delivery.providers |= results_by_provider(attempt.results)
        return verdict if verdict.code in overrides else verdict_of(verdict, attempt.results, delivery.call.params)

    def _note(self, attempt: Attempt, answer: Reply | NoReply, verdict: Verdict) -> None:
        """Note what an answer says of the site, whatever it says of the call."""
        now_s = self._clock.monotonic_s()
        self._attempt_s.observe(now_s - attempt.started_s)
        self._count(verdict)
        if verdict.kind is VerdictKind.AMBIGUOUS or isinstance(answer, NoReply):
            method = attempt.delivery.call.method
            if self._standing.unanswered(method, attempt.delivery.call.uid, verdict):
                self._refund(method.host_prefix)
            return
        if answer.server_time_s is not None:
            self._site_clock.measure(answer.server_time_s, attempt.started_unix_s, self._clock.now_s())
            self._site_time.heard(answer.server_time_s, attempt.started_s, now_s)
        if answer.error_code is None:
            return
        method = attempt.delivery.call.method
        if self._charges:
            self._charges.pop(method.host_prefix, None)
        self._standing.answered(method)
        if verdict.kind is not VerdictKind.RESIGN:
            self._site_clock.accepted()
        if verdict.kind is not VerdictKind.THROTTLED and self._quota.state is not QuotaState.STEADY:
            self._quota.accepted(attempt.permit.serial, now_s)
            self._gate.refresh()  # a long hold may just have ended

    def _count(self, verdict: Verdict) -> None:
        count = self._attempts.get((verdict.kind, verdict.reason))
        if count is None:
            count = self._metrics.attempts.labels(self._site.name, verdict.kind.value, verdict.reason).inc
            self._attempts[verdict.kind, verdict.reason] = count
        count()

    def _refund(self, host: str) -> None:
        for delivery, charge in self._charges.pop(host, ()):
            delivery.budget.refund(charge)

    def _accepted(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later:
        delivery = attempt.delivery
        delivery.is_published = True
        if left := providers_to_retry(attempt.results, self._settings.ambiguous):
            delivery.params = params_for(delivery.call.params, left)
            delivery.may_be_executed = any(may_have_taken_it(result) for result in left)
            partly = Verdict(VerdictKind.RETRY, left[0].reason, left[0].code)
            return self._again(attempt, partly, answer, OWN_FAULT)
        return self._ended(delivery, outcome_of(delivery, OutcomeKind.DELIVERED, verdict.reason, verdict, answer))

    def _networks_again(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later:
        """Try a publish again that no network took: only with those that failed for now."""
        delivery = attempt.delivery
        in_doubt = any(may_have_taken_it(result) for result in attempt.results)
        delivery.may_be_executed |= in_doubt
        if left := providers_to_retry(attempt.results, self._settings.ambiguous):
            delivery.params = params_for(delivery.call.params, left)
        elif in_doubt and (ended := self._by_policy(delivery, verdict, answer)) is not None:
            return ended
        return self._again(attempt, verdict, answer, OWN_FAULT)

    def _throttled(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Later:
        retry_after_s = answer.retry_after_s if isinstance(answer, Reply) else None
        self._quota.throttled(attempt.permit.serial, self._clock.monotonic_s(), retry_after_s)
        self._metrics.throttled.labels(self._site.name).inc()
        is_exhausted = self._quota.state is QuotaState.EXHAUSTED
        self._log.throttled(verdict, rate_per_s=self._quota.rate_per_s, is_exhausted=is_exhausted)
        return Later(verdict.reason, 0.0)  # the gate makes it wait, as it does everybody

    def _sign_again(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later:
        delivery = attempt.delivery
        if verdict.code == 403002:
            can_correct = isinstance(answer, Reply) and answer.server_time_s is not None
            offset_s = self._site_clock.offset_s
            if self._site_clock.refused(attempt.generation, can_correct=can_correct):
                self._standing.stop(reasons.CLOCK_REFUSED, verdict.code, safe_text(answer), Probe.QUESTION)
                return Later(reasons.STOPPED, 0.0)
            if self._site_clock.offset_s != offset_s:
                self._log.clock_corrected(self._site_clock.offset_s)
        elif self._signer.nonces_are_known:
            self.ladder.arrived(delivery, outcome_of(delivery, OutcomeKind.FAILED, verdict.reason, verdict, answer))
        delivery.resigns += 1
        if delivery.resigns == 1 or self._state.trouble is not None:
            return Later(verdict.reason, 0.0)
        return self._again(attempt, verdict, answer, OWN_FAULT)

    def _ask(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Later:
        trouble = self._state.trouble
        if trouble is not None and trouble.probe is Probe.CALL:
            return Later(reasons.STOPPED, 0.0)  # calls are the probe: it must stay at the gate
        reason = "user_unknown" if verdict.code == 403005 else verdict.reason
        attempt.delivery.refusal = outcome_of(attempt.delivery, OutcomeKind.FAILED, reason, verdict, answer)
        self._standing.hold(attempt, verdict, answer, in_flight=self._in_flight)
        return Later("ask", None)

    def _ambiguous(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later:
        delivery = attempt.delivery
        delivery.may_be_executed = True
        self.ladder.doubted(attempt, outcome_of(delivery, OutcomeKind.FAILED, verdict.reason, verdict, answer))
        later = self._again(attempt, verdict, answer, OWN_FAULT)
        if isinstance(later, Outcome) or self._state.trouble_of(delivery.call.method.host_prefix) is not None:
            return later
        return self.ladder.after_doubt(delivery, later)

    def _by_policy(self, delivery: Delivery, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later | None:
        """Return how a publish ends that some network may have taken; None: it is sent again."""
        match self._settings.ambiguous:
            case "resend":
                return None
            case "accept":
                accepted = outcome_of(delivery, OutcomeKind.DELIVERED, reasons.ACCEPTED_UNDECIDED, verdict, answer)
                return self._ended(delivery, accepted)
            case "dead_letter":
                return self._failed(delivery, verdict, answer)

    def _again(self, attempt: Attempt, verdict: Verdict, answer: Reply | NoReply, backoff: Backoff) -> Outcome | Later:
        delivery, host = attempt.delivery, attempt.delivery.call.method.host_prefix
        if (trouble := self._state.trouble_of(host)) is not None:
            return Later(trouble.state.value, 0.0)  # not its fault, and the gate makes it wait
        retry_after_s = answer.retry_after_s if isinstance(answer, Reply) else None
        wait_s = pause_s(backoff, delivery.budget.pauses, self._rng, retry_after_s)
        took_s = self._clock.monotonic_s() - attempt.started_s
        charge = delivery.budget.charge(backoff, took_s=took_s, pause_s=wait_s)
        if verdict.kind is VerdictKind.AMBIGUOUS:
            self._charges.setdefault(host, deque(maxlen=1_000)).append((delivery, charge))
        if (charge.attempts or charge.age_s) and is_used_up(delivery.budget, self._settings):
            return self._failed(delivery, verdict, answer)
        self._log.retry(delivery, verdict.reason, code=verdict.code, wait_s=wait_s)
        return Later(verdict.reason, wait_s)

    def _failed(self, delivery: Delivery, verdict: Verdict, answer: Reply | NoReply) -> Outcome | Later:
        return self._ended(delivery, outcome_of(delivery, OutcomeKind.FAILED, verdict.reason, verdict, answer))

    def _ended(self, delivery: Delivery, outcome: Outcome) -> Outcome | Later:
        """End a call; where an earlier attempt may have been executed, the log has the last word on a refusal."""
        self._standing.forget(delivery)
        later = self.ladder.before_end(delivery, outcome)
        if later is None:
            self.ladder.ended(delivery)
        return later or outcome

    # --- small parts --------------------------------------------------------------------------------------------

    def _nonce_of(self, delivery: Delivery, params: Mapping[str, str]) -> str:
        call = delivery.call if params is delivery.call.params else replace(delivery.call, params=params)
        run, group = delivery.run or self._run_and_group[0], self._run_and_group[1]
        topic, partition = delivery.partition
        serial = delivery.nonce_serial
        return nonce_of(run, group, topic, partition, delivery.offset, delivery.timestamp_ms, call, serial)
