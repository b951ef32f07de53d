"""Which requests does preflight make, and why do they change nothing? I/O through the transport; every wait is bounded.

`gm.getActionConfig` reads. No read method tells whether `gm.notifyAction` or `socialize.publishUserAction` is alive, so
each is asked by an *empty call*: a request with our authorization and no business parameter at all. It cannot be
executed, twice over: it names no user, and nothing to do. Both pages require UID "if you are using the REST API
directly with Gigya's proprietary authorization method"; gm.notifyAction requires `action`, socialize.publishUserAction
`userAction`. (UID may be absent only where an OAuth session of a user stands for it; none of our modes has one.) A
method without two required parameters, UID among them, is never asked: see `may_be_asked`.

A living method answers 400002 (missing required parameter) or another refusal of its own; one that was removed answers
405001 or 410000, from no host, or not in JSON. Whether Gigya looks at permission and product before it looks at
parameters is not documented: 400002 proves that the method is there, not that this key may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.clock import Clock
from worker.delivery.signer import Signer
from worker.delivery.site_clock import SiteClock
from worker.delivery.transport import Transport
from worker.gigya.authorization import AnyCredentials
from worker.gigya.calls import Method, ParameterError
from worker.gigya.replies import NoReply, Reply, VerdictKind, classify
from worker.gigya.sites import Addressed, Site

# A single hiccup is no finding: what may pass is asked again after these pauses, unless the question is this old.
LAST_REPETITION_S = 8.0
PAUSES_S = (0.5, 1.0)
_MAY_PASS = frozenset((VerdictKind.RETRY, VerdictKind.AMBIGUOUS, VerdictKind.THROTTLED))
_LONGEST_PAUSE_S = 5.0

EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and what came back. `offset_s`: the site's clock minus ours, where the answer tells."""

    method: str
    host_prefix: str
    is_empty_call: bool
    answer: Reply | NoReply
    took_s: float
    offset_s: float | None = None
    clock_refused: bool = False  # a 403002 came first; the answer is to the question signed by the corrected clock


def may_be_asked(method: Method) -> bool:
    """Tell whether an empty call of a method cannot be executed: it names no user, and nothing to do."""
    required = {parameter.name for parameter in method.parameters if parameter.required}
    if "UID" not in required or len(required) < 2:
        return False
    try:
        method.encode(EMPTY)
    except ParameterError:
        return True
    return False


class Asker:
    """Asks one site, one question at a time and never faster than its quota."""

    def __init__(
        self,
        *,
        site: Site,
        credentials: AnyCredentials,
        transport: Transport,
        clock: Clock,
        nonce: Callable[[], str],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._site_clock = SiteClock()
        self._signer = Signer(site=site, credentials=credentials, clock=clock, site_clock=self._site_clock, nonce=nonce)
        self._gap_s = 0.0 if site.quota_per_s is None else 1.0 / site.quota_per_s
        self._next_s = clock.monotonic_s()

    async def ask(self, method: Addressed, params: Mapping[str, str], *, is_empty_call: bool = False) -> Asked:
        """Ask until an answer settles it, or LAST_REPETITION_S have passed. Raises nothing but cancellation."""
        if is_empty_call and (params or not isinstance(method, Method) or not may_be_asked(method)):
            raise ValueError(f"{method.name} cannot be asked by an empty call")
        began_s = self._clock.monotonic_s()
        offset_s: float | None = None
        clock_refused = False
        pauses = iter(PAUSES_S)
        while True:
            await self._wait_for_quota()
            sent_s = self._clock.monotonic_s()
            answer, measured_s = await self._post(method, params)
            now_s = self._clock.monotonic_s()
            offset_s = offset_s if measured_s is None else measured_s
            if isinstance(answer, Reply) and answer.error_code == 403002 and not clock_refused:
                clock_refused = True
                self._site_clock.refused(self._site_clock.generation, can_correct=True)
                continue
            pause_s = next(pauses, None)
            if pause_s is None or classify(answer).kind not in _MAY_PASS or now_s - began_s > LAST_REPETITION_S:
                took_s = now_s - sent_s
                return Asked(method.name, method.host_prefix, is_empty_call, answer, took_s, offset_s, clock_refused)
            await self._clock.sleep(_wanted_pause_s(answer, pause_s))

    async def _wait_for_quota(self) -> None:
        now_s = self._clock.monotonic_s()
        wait_s, self._next_s = self._next_s - now_s, max(now_s, self._next_s) + self._gap_s
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    async def _post(self, method: Addressed, params: Mapping[str, str]) -> tuple[Reply | NoReply, float | None]:
        request = self._signer.sign(method, params)
        sent_s = self._clock.now_s()
        answer = await self._transport.post(request.url, request.body, authorization=request.authorization)
        if not isinstance(answer, Reply) or answer.error_code is None or answer.server_time_s is None:
            return answer, None  # a page from something in between has that something's time
        self._site_clock.measure(answer.server_time_s, sent_s, self._clock.now_s())
        return answer, self._site_clock.measured_s


def _wanted_pause_s(answer: Reply | NoReply, pause_s: float) -> float:
    asked_for_s = answer.retry_after_s if isinstance(answer, Reply) else None
    return min(_LONGEST_PAUSE_S, max(pause_s, asked_for_s or 0.0))
