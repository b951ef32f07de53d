"""The local Gigya without its network: settings, sites, faults, ledger, and what happens to one request.

Used from one event loop; awaits nothing but its own latency.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worker.sandbox.gigya_answers import Refusal, envelope
from worker.sandbox.gigya_auth import Door, Incoming, authenticate, replaced_secret_refusal
from worker.sandbox.gigya_config import Fault, GigyaConfig, Json, Latency, Site, patched
from worker.sandbox.gigya_faults import Faults, Picked
from worker.sandbox.gigya_ledger import Arrival, Ledger
from worker.sandbox.gigya_methods import METHODS, Method, Moment
from worker.sandbox.gigya_site import NonceMemory, SiteState

_NORMAL_99TH = 2.3263  # the 99th percentile of the standard normal distribution


@dataclass(slots=True)
class Answer:
    """What one request comes to; `fault` says how the answer is spoilt on its way."""

    body: dict[str, Json]
    fault: Fault | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:
        return int(str(self.body["errorCode"]))


class Engine:
    """Settings, sites, faults and ledger. All of it may be read and changed while requests come in."""

    def __init__(
        self,
        config: GigyaConfig | None = None,
        *,
        now_s: Callable[[], float] = time.time,
        elapsed_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or GigyaConfig()
        self.elapsed_s = elapsed_s
        self._now_s = now_s
        self._started_s = now_s() - elapsed_s()
        self._rng = random.Random(self.config.seed)
        self.nonces = NonceMemory()
        self.ledger = Ledger(self.config.ledger)
        self.faults = Faults()
        self.sites = {name: SiteState(name, site) for name, site in self.config.sites.items()}
        self._outage: int | None = None
        self._working: set[asyncio.Task[Answer]] = set()

    # to be told

    def configure(self, patch: Mapping[str, Json]) -> None:
        """Change settings other than sites by a JSON merge patch. Raises ValueError and changes nothing if wrong."""
        if "sites" in patch:
            raise ValueError("sites are changed one by one: PATCH /_control/sites/NAME")
        self.config = patched(self.config, patch)
        self.ledger.bound(self.config.ledger)

    def configure_site(self, name: str, patch: Mapping[str, Json]) -> None:
        """Change one site by a JSON merge patch; a site that is new is added. Raises ValueError if wrong."""
        state = self.sites.get(name)
        settings = patched(state.settings if state else Site(api_key=f"3_{name}"), patch)
        others = (site.settings.api_key for site in self.sites.values() if site.name != name)
        if settings.api_key in others:
            raise ValueError("another site has this api_key")
        if state is None:
            self.sites[name] = SiteState(name, settings)
        else:
            state.configure(patch)

    def revoke(self, site: str, user_key: str, code: int = 403005) -> None:
        """Refuse everything a key signs, with `code`; 403003 looks like a secret that was replaced."""
        self._need_key(site, user_key)
        self.configure_site(site, {"keys": {user_key: {"refused_with": code}}})

    def restore(self, site: str, user_key: str) -> None:
        """Accept a revoked key again."""
        self._need_key(site, user_key)
        self.configure_site(site, {"keys": {user_key: {"refused_with": None}}})

    def _need_key(self, site: str, user_key: str) -> None:
        if site not in self.sites or user_key not in self.sites[site].settings.keys:
            raise ValueError("no such site or user key")

    def inject(self, fault: Fault) -> int:
        """Let something go wrong from now on; returns an id for `faults.remove`."""
        return self.faults.inject(fault, self.elapsed_s())

    def begin_outage(self, fault: Fault | None = None) -> int:
        """Answer every request with `fault` (default: HTTP 503, HTML) until `end_outage`; an earlier one ends."""
        self.end_outage()
        self._outage = self.inject(fault or Fault(kind="html", status=503))
        return self._outage

    def end_outage(self) -> None:
        """End the outage, if there is one."""
        if self._outage is not None:
            self.faults.remove(self._outage)
            self._outage = None

    def reset(self) -> None:
        """Forget what happened: ledger, counts, nonces, faults, caps, actions logs. Settings stay."""
        self.ledger.clear()
        self.nonces.clear()
        self.faults.clear()
        self._outage = None
        for site in self.sites.values():
            site.clear()

    # to be asked

    def now_s(self) -> float:
        """Return the server's own Unix time, offset included."""
        return self._now_s() + self.config.clock_offset_s

    def machine_s(self) -> float:
        """Return Unix time without the offset, never going back: the times of the ledger."""
        return self._started_s + self.elapsed_s()

    def site_of(self, incoming: Incoming) -> SiteState | None:
        """Return the site a request names by its apiKey."""
        api_key = incoming.params.get("apiKey")
        return next((site for site in self.sites.values() if site.settings.api_key == api_key), None)

    def arrive(self, incoming: Incoming, site: SiteState | None) -> Arrival:
        """Note a request's arrival."""
        name = site.name if site else ""
        call_id = uuid.uuid4().hex
        return self.ledger.arrive(
            self.machine_s(), name, incoming.method, incoming.uid, incoming.nonce, call_id, incoming.user_key
        )

    # one request

    async def answer(self, incoming: Incoming, site: SiteState | None, arrival: Arrival) -> Answer:
        """Take a request through front faults, admission, faults of the API, latency and execution.

        What is slow goes on when the client hangs up: a real server does not notice either.
        """
        front = self.faults.pick("front", arrival.site, arrival.method, arrival.uid, self.elapsed_s())
        if front.fault is not None:
            self.ledger.spoil(arrival, front.fault.label)
            if not front.fault.is_executing:
                await _pause(front.delay_s)
                return self._made_up(front.fault, arrival)
        work = self._work(incoming, site, arrival, front)
        latency = self.config.latency
        if not (front.delay_s or latency.ms or latency.upper_ms or self.faults.injected):
            return await work  # nothing in it waits
        task = asyncio.create_task(work, name=f"gigya-request-{arrival.number}")
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)

    async def abandon(self) -> None:
        """Drop the requests that are still being worked on."""
        for task in (working := list(self._working)):
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def _work(self, incoming: Incoming, site: SiteState | None, arrival: Arrival, front: Picked) -> Answer:
        picked = front
        try:
            method, known_site, door = self._recognise(incoming, site)
            admission = authenticate(incoming, known_site, door)
            if not known_site.meter.take(door.elapsed_s):
                raise Refusal(403048, "Api rate limit exceeded")
            known_site.enter(incoming.uid)
            try:
                picked = self._pick_again(front, arrival)
                if picked.fault is not None and not picked.fault.is_executing:
                    await _pause(picked.delay_s)
                    return self._refused_by(picked.fault, incoming, known_site, arrival)
                await _pause(picked.delay_s + drawn_s(self.config.latency, self._rng))
                door = self._door()
                admission.check(door)  # a copy of this request may have been executed meanwhile
                body = self._execute(method, known_site, incoming, arrival)
                admission.burn(door)
            finally:
                known_site.leave(incoming.uid)
        except Refusal as refusal:
            body = self._body(refusal.code, refusal.details, arrival) | refusal.fields
        self.ledger.decide(arrival, int(str(body["errorCode"])))
        if picked.fault is None:
            return Answer(body)
        if picked.fault.kind == "code":  # executed, and yet told otherwise
            body = self._body(picked.fault.code, "", arrival) | dict(picked.fault.fields)
        return Answer(body, picked.fault, picked.fault.headers)

    def _pick_again(self, front: Picked, arrival: Arrival) -> Picked:
        """Return the fault of the API's stage, unless one has met the request in front of it; delays add up."""
        if front.fault is not None:
            return front
        picked = self.faults.pick("api", arrival.site, arrival.method, arrival.uid, self.elapsed_s())
        if picked.fault is not None:
            self.ledger.spoil(arrival, picked.fault.label)
        return Picked(picked.fault, front.delay_s + picked.delay_s)

    def _recognise(self, incoming: Incoming, site: SiteState | None) -> tuple[Method, SiteState, Door]:
        method = METHODS.get(incoming.method)
        if method is None:
            raise Refusal(405001, "Invalid API method")
        if site is None:
            incoming.params.need("apiKey")
            raise Refusal(400093, "Invalid ApiKey parameter")
        return method, site, self._door()

    def _door(self) -> Door:
        config = self.config
        return Door(self.now_s(), self.elapsed_s(), config.timestamp_window_s, config.nonces, self.nonces)

    def _execute(self, method: Method, site: SiteState, incoming: Incoming, arrival: Arrival) -> dict[str, Json]:
        params, config = incoming.params, self.config
        ignored: list[str] = []
        if config.check_parameters:
            ignored = params.unknown(method.known)
            if ignored and config.unknown_parameters == "refused":
                raise Refusal(400006, f"Unknown parameter : {ignored[0]}")
            method.check(params, config.strict_context)
        moment = Moment(
            serial=arrival.number,
            now_s=self.now_s(),
            elapsed_s=self.elapsed_s(),
            ip=incoming.ip,
            log_delay_s=config.actions_log_delay_s,
            log_kept=config.ledger.actions_log_per_user,
        )
        done = method.execute(site, params, moment)
        if done.result is not None:
            self.ledger.execute(arrival, self.machine_s(), params.business(), done.result)
        body = self._body(0, "", arrival) | dict(done.fields)
        if ignored:
            body["ignoredParams"] = [
                {"paramName": name, "warningCode": 400006, "message": "unknown parameter"} for name in ignored
            ]
        return body

    def _refused_by(self, fault: Fault, incoming: Incoming, site: SiteState, arrival: Arrival) -> Answer:
        """Return the answer of a fault that keeps an admitted request from being executed."""
        answer = self._made_up(fault, arrival)
        user_key = incoming.params.get("userKey")
        secrets = site.accepted_secrets(user_key) if user_key else ()
        if fault.kind == "code" and fault.code == 403003 and secrets:
            shown = replaced_secret_refusal(incoming, secrets[0]).fields
            answer.body = answer.body | shown | dict(fault.fields)
        return answer

    def _made_up(self, fault: Fault, arrival: Arrival) -> Answer:
        """Return the answer of a fault that shows a code of its own."""
        if fault.kind == "code":
            self.ledger.decide(arrival, fault.code)
        body = self._body(fault.code, "", arrival) | dict(fault.fields)
        return Answer(body, fault, fault.headers)

    def _body(self, code: int, details: str, arrival: Arrival) -> dict[str, Json]:
        return envelope(code, details, arrival.call_id, self.now_s())


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def drawn_s(latency: Latency, rng: random.Random) -> float:
    """Return one latency in seconds."""
    match latency.distribution:
        case "fixed":
            return latency.ms / 1000
        case "uniform":
            return rng.uniform(latency.ms, max(latency.ms, latency.upper_ms)) / 1000
        case "lognormal":
            if latency.ms <= 0 or latency.upper_ms <= latency.ms:
                return latency.ms / 1000
            sigma = math.log(latency.upper_ms / latency.ms) / _NORMAL_99TH
            return rng.lognormvariate(math.log(latency.ms), sigma) / 1000
