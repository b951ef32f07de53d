"""A site to ask: the local Gigya, rules, and an inquiry that does not really pause."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.clock import SystemClock
from worker.delivery.transport import HttpTransport
from worker.gigya.authorization import AnyCredentials
from worker.gigya.signing import Credentials, decode_secret
from worker.gigya.sites import Site, SiteSettings
from worker.mapping import rules as rules_file
from worker.mapping.ruleset import RuleSet
from worker.preflight.examination import Inquiry
from worker.preflight.lines import Line, State
from worker.preflight.network import Network, SystemNetwork
from worker.sandbox.gigya import GigyaConfig, LocalGigya

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
API_KEY = "3_test"
USER_KEY = "AKtest"

NOTIFY = """
  - name: watched
    on: [episode.watched]
    notifyAction: {UID: "${ event.uid }", action: watched_episode, points: 10}
"""
PUBLISH = """
  - name: shared
    on: [show.shared]
    publishUserAction: {UID: "${ event.uid }", userAction: {title: "${ event.title }"}}
"""


class HastyClock(SystemClock):
    """Notes pauses instead of making them."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)


def rules(*texts: str) -> RuleSet:
    return rules_file.loads(
        "version: 1\nrules:\n" + "".join(texts), file="rules.yaml", sites=["main"], topics=["events"]
    )


def gigya_config(**changes: object) -> GigyaConfig:
    """Return a Gigya whose site `main` has the action of NOTIFY. `changes`: keys of GigyaConfig, all others of Site."""
    site = {
        "api_key": API_KEY,
        "keys": {USER_KEY: {"secrets": [SECRET]}},
        "accept_any_action": False,
        "actions": {"watched_episode": {"points": 5, "daily_cap": 3}},
    }
    whole = {name: value for name, value in changes.items() if name in GigyaConfig.model_fields}
    site |= {name: value for name, value in changes.items() if name not in whole}
    return GigyaConfig.model_validate({"sites": {"main": site}, **whole})


def settings(gigya: LocalGigya, **changes: object) -> SiteSettings:
    auth = {"mode": "signed", "user_key": USER_KEY, "secret": SECRET}
    whole = {"base_url": gigya.base_url, "api_key": API_KEY, "auth": auth, "quota_per_s": None, **changes}
    return SiteSettings.model_validate(whole)


@dataclass(frozen=True, slots=True)
class Told:
    """The lines of one site."""

    lines: Sequence[Line]

    def __getitem__(self, what: str) -> Line:
        """Return a line by its check, or by check and subject: `method gm.notifyAction`."""
        (line,) = [line for line in self.lines if what in (line.check, f"{line.check} {line.subject}")]
        return line

    def troubled(self) -> dict[str, State]:
        """Return what is neither ok nor left unchecked."""
        found = {f"{line.check} {line.subject}".strip(): line.state for line in self.lines}
        return {what: state for what, state in found.items() if state in (State.FAILED, State.WARNING)}


async def ask(
    gigya: LocalGigya,
    *texts: str,
    clock: SystemClock | None = None,
    network: Network | None = None,
    timeout_s: float = 2.0,
    secret: str = SECRET,
    user_key: str = USER_KEY,
    credentials: AnyCredentials | None = None,
    **changes: object,
) -> Told:
    """Return what preflight tells of the local Gigya's site `main`."""
    chosen = clock or HastyClock()

    def transport_of(site: Site) -> HttpTransport:
        return HttpTransport(
            chosen,
            connect_timeout_s=timeout_s,
            attempt_timeout_s=timeout_s,
            max_connections=4,
            ca_file=site.ca_file,
        )

    site_settings = settings(gigya, **changes)
    inquiry = Inquiry(
        "main",
        site_settings,
        credentials or Credentials(site_settings.api_key, user_key, decode_secret(secret)),
        rules(*(texts or (NOTIFY, PUBLISH))).enabled,
        transport_of=transport_of,
        clock=chosen,
        network=network or SystemNetwork(),
    )
    await inquiry.run()
    return Told(inquiry.lines())


@asynccontextmanager
async def local_gigya(**changes: object) -> AsyncIterator[LocalGigya]:
    async with LocalGigya(gigya_config(**changes)) as gigya:
        yield gigya
        executed = gigya.ledger.stats()["executed"]
        assert executed == 0, "preflight made something happen"
