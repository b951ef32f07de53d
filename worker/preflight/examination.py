"""Asks everything, side by side and within a limit, and puts the lines in order. Changes nothing anywhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence

from worker.clock import Clock
from worker.delivery.schedule import DeliverySettings
from worker.delivery.transport import HttpTransport, Transport
from worker.gigya.authorization import AnyCredentials
from worker.gigya.calls import GET_ACTION_CONFIG, Method
from worker.gigya.replies import NoReply, Reply
from worker.gigya.sites import Addressed, Site, SiteSettings
from worker.kafka.settings import KafkaSettings
from worker.mapping.ruleset import Rule, RuleSet
from worker.model import Json
from worker.preflight import judging
from worker.preflight.actions import Action, action_lines, named_actions, read_actions
from worker.preflight.asking import EMPTY, Asked, Asker, may_be_asked
from worker.preflight.cluster import PART as KAFKA
from worker.preflight.cluster import cluster_lines
from worker.preflight.hosts import Host, host_lines, host_of
from worker.preflight.judging import SiteFacts
from worker.preflight.lines import Check, Line, Report, State
from worker.preflight.network import Network, SystemNetwork

LIMIT_S = 60.0
_KAFKA_LIMIT_S = 20.0
# An answer of Gigya's takes tenths of a second; the time-outs of delivery may be far more patient.
_ATTEMPT_LIMIT_S = 10.0


async def examine(
    kafka: KafkaSettings,
    sites: Mapping[str, SiteSettings],
    rules: RuleSet,
    *,
    credentials: Mapping[str, AnyCredentials],
    delivery: DeliverySettings,
    clock: Clock,
    limit_s: float = LIMIT_S,
    network: Network | None = None,
) -> Report:
    """Return what stands between these settings and a run that goes well. Takes `limit_s` at most.

    At each site: one gm.getActionConfig, a second one where an action is not in its answer, and an empty call for each
    method of the site's rules; never faster than its quota. `credentials`: of every site.
    """
    transport_of = _transport_of(delivery, clock)
    inquiries = [
        Inquiry(
            name,
            settings,
            credentials[name],
            [rule for rule in rules.enabled if rule.site == name],
            transport_of=transport_of,
            clock=clock,
            network=network or SystemNetwork(),
        )
        for name, settings in sites.items()
    ]
    at_kafka = asyncio.create_task(cluster_lines(kafka, limit_s=min(limit_s, _KAFKA_LIMIT_S)), name="preflight-kafka")
    at_sites = [asyncio.create_task(one.run(), name=f"preflight-{one.name}") for one in inquiries]
    tasks: list[asyncio.Task[list[Line]] | asyncio.Task[None]] = [at_kafka, *at_sites]
    try:
        await asyncio.wait(tasks, timeout=limit_s)
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
    lines: list[Line] = []
    for inquiry, asking in zip(inquiries, at_sites, strict=True):
        lines += _unless_cut_short(inquiry.facts.part, asking, limit_s)
        lines += inquiry.lines()
    lines += _unless_cut_short(KAFKA, at_kafka, limit_s)
    lines += at_kafka.result() if not at_kafka.cancelled() else []
    return Report(tuple(lines))


def _unless_cut_short(part: str, task: asyncio.Task[list[Line]] | asyncio.Task[None], limit_s: float) -> Sequence[Line]:
    if not task.cancelled():
        task.result()  # a bug of ours must not look like a good report
        return ()
    remedy = "Look at the lines that took so long; --time-limit gives more."
    return (Line(part, Check.TIME, "", State.FAILED, f"not done within {limit_s:g} s", remedy),)


class Inquiry:
    """Asks one site; whatever was learned so far stands in `facts`."""

    def __init__(
        self,
        name: str,
        settings: SiteSettings,
        credentials: AnyCredentials,
        rules: Sequence[Rule],
        *,
        transport_of: Callable[[Site], HttpTransport],
        clock: Clock,
        network: Network,
    ) -> None:
        self.name = name
        self._site = Site.of(name, settings)
        self._credentials = credentials
        self._rules = rules
        self._transport_of = transport_of
        self._clock = clock
        self._network = network
        self._methods = _distinct([rule.method for rule in rules])
        self._questions: tuple[Addressed, ...] = (GET_ACTION_CONFIG, *self._methods)
        self._hosts = {method.host_prefix: host_of(self._site, method) for method in self._questions}
        self._actions: Mapping[str, Action] | None = None
        self.facts = SiteFacts(
            name,
            self._site.base_url or self._site.domain,
            hosts={prefix: host.name for prefix, host in self._hosts.items()},
            methods=self._methods,
        )

    async def run(self) -> None:
        """Find the hosts, then ask. Raises nothing but cancellation."""
        hosts = tuple(dict.fromkeys(self._hosts.values()))
        for found in await asyncio.gather(*(self._host(host) for host in hosts)):
            self.facts.network += found
        if not any(self._can_reach(method) for method in self._questions):
            return
        transport = self._transport_of(self._site)
        try:
            await self._ask(transport)
        finally:
            await transport.close()

    def lines(self) -> list[Line]:
        """Return what is known by now, in order."""
        actions = action_lines(
            self.facts.part,
            self._rules,
            self._actions,
            why_not=judging.why_not(self.facts),
            is_accepted=self.facts.is_accepted,
        )
        return [*judging.lines(self.facts), *actions]

    async def _host(self, host: Host) -> list[Line]:
        lines = await host_lines(self._site, host, network=self._network, clock=self._clock)
        is_needed = self.facts.needs_loyalty or host != self._hosts[GET_ACTION_CONFIG.host_prefix]
        is_needed = is_needed or any(self._hosts[method.host_prefix] == host for method in self._methods)
        return lines if is_needed else [_softened(line) for line in lines]

    def _can_reach(self, method: Addressed) -> bool:
        host = self.facts.hosts[method.host_prefix]
        mine = [line for line in self.facts.network if line.subject == host]
        return all(line.state is State.OK or line.reason == "" for line in mine)

    async def _ask(self, transport: Transport) -> None:
        asker = Asker(
            site=self._site,
            credentials=self._credentials,
            transport=transport,
            clock=self._clock,
            nonce=lambda: secrets.token_hex(16),
        )
        if self._can_reach(GET_ACTION_CONFIG):
            await self._ask_for_actions(asker)
        for method in self._methods:
            if self.facts.is_hopeless:
                return
            if self._can_reach(method) and not self._is_silent(method) and may_be_asked(method):
                self.facts.asked.append(await asker.ask(method, EMPTY, is_empty_call=True))

    async def _ask_for_actions(self, asker: Asker) -> None:
        asked = await asker.ask(GET_ACTION_CONFIG, {"includeDisabledActions": "true"})
        self.facts.asked.append(asked)
        actions = read_actions(_body(asked)) if self.facts.is_accepted else None
        missing = [name for name in named_actions(self._rules) if actions is not None and name not in actions]
        if actions is not None and missing:
            # Asked for by name before it is called unknown: nobody promises that the whole list is the whole.
            params = {"includeDisabledActions": "true", "includeActions": ",".join(missing)}
            actions = {**actions, **(read_actions(_body(await asker.ask(GET_ACTION_CONFIG, params))) or {})}
        self._actions = actions

    def _is_silent(self, method: Method) -> bool:
        """Tell whether its host has failed the site already by not answering: asking again would only cost time."""
        if not self.facts.needs_loyalty:
            return False  # then silence on gm.getActionConfig was a warning only
        host = self.facts.hosts[method.host_prefix]
        return any(
            isinstance(asked.answer, NoReply) and self.facts.hosts[asked.host_prefix] == host
            for asked in self.facts.asked
        )


def _softened(line: Line) -> Line:
    if line.state is not State.FAILED:
        return line
    remedy = f"No rule of this site needs it. {line.remedy}"
    return Line(line.part, line.check, line.subject, State.WARNING, line.found, remedy, line.reason, line.code)


def _body(asked: Asked) -> Mapping[str, Json] | None:
    return asked.answer.body if isinstance(asked.answer, Reply) else None


def _distinct(methods: Sequence[Method]) -> tuple[Method, ...]:
    return tuple({method.name: method for method in methods}.values())


def _transport_of(delivery: DeliverySettings, clock: Clock) -> Callable[[Site], HttpTransport]:
    limit_s = min(delivery.attempt_timeout_s, _ATTEMPT_LIMIT_S)

    def transport(site: Site) -> HttpTransport:
        return HttpTransport(
            clock,
            connect_timeout_s=min(delivery.connect_timeout_s, limit_s),
            attempt_timeout_s=limit_s,
            max_connections=4,
            ca_file=site.ca_file,
        )

    return transport
