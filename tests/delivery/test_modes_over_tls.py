"""Every mode against a server that checks it by itself, over TLS with certificates of its own; and keys that change."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.load import Load
from worker.clock import SystemClock
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Sender
from worker.delivery.site_state import State
from worker.delivery.transport import HttpTransport
from worker.gigya.authorization import AnyCredentials, JwtCredentials, SecretCredentials
from worker.gigya.calls import GET_ACTION_CONFIG
from worker.gigya.signing import Credentials, decode_secret
from worker.gigya.sites import Site, url_of
from worker.metrics import Metrics
from worker.sandbox.gigya import Fault, GigyaConfig, LocalGigya
from worker.sandbox.gigya_keys import KeyPair, new_key_pair
from worker.sandbox.gigya_tls import Secured

MODES = ("signed", "secret", "jwt")
OLD, NEW = "b2xkLW9sZC1vbGQtb2xkLQ==", "bmV3LW5ldy1uZXctbmV3LQ=="
PAIRS: dict[str, KeyPair] = {OLD: new_key_pair(), NEW: new_key_pair()}


def credentials(mode: str, secret: str) -> AnyCredentials:
    match mode:
        case "jwt":
            return JwtCredentials.of("3_test", "key", PAIRS[secret].private_key)
        case "secret":
            return SecretCredentials("3_test", "key", secret)
    return Credentials("3_test", "key", decode_secret(secret))


def accepted(*secrets: str) -> dict[str, Any]:
    """Return what the server is told when it shall accept these."""
    return {"keys": {"key": {"secrets": list(secrets), "public_keys": [PAIRS[each].public_key for each in secrets]}}}


@dataclass
class Scene:
    gigya: LocalGigya
    sender: Sender
    load: Load
    transport: HttpTransport

    def accept(self, *secrets: str) -> None:
        self.gigya.configure_site("main", accepted(*secrets))

    def check_each_call_was_executed_once(self) -> None:
        """Delivered = executed, none twice, whatever happened in between."""
        executed = Counter(json.loads(entry.params["context"])["eventId"] for entry in self.gigya.ledger.executed)
        assert set(self.load.outcomes) == {"delivered ok"}
        assert set(executed.values()) == {1}
        assert len(executed) == self.load.outcomes["delivered ok"]


@asynccontextmanager
async def serving(mode: str, folder: Path, *, users: int, quota_per_s: float, **config: Any) -> AsyncIterator[Scene]:
    site_config = {"api_key": "3_test", **accepted(OLD)}
    secured = Secured.begin(GigyaConfig.model_validate({"sites": {"main": site_config}, **config}), folder)
    gigya = LocalGigya(secured.config)
    await gigya.start(tls=secured.context())
    clock, nonces = SystemClock(), itertools.count()
    site = Site("main", "3_test", base_url=gigya.base_url, quota_per_s=quota_per_s)
    transport = HttpTransport(
        clock, connect_timeout_s=3, attempt_timeout_s=3, max_connections=100, ca_file=secured.ca_file
    )
    sender = Sender(
        site=site,
        credentials=credentials(mode, OLD),
        settings=DeliverySettings(attempt_timeout_s=3, connect_timeout_s=3),
        transport=transport,
        clock=clock,
        rng=random.Random(1),
        nonce=lambda: f"n{next(nonces)}",
        metrics=Metrics(),
        mark=lambda _: "someone",
    )
    load = Load(sender)
    tasks = [asyncio.ensure_future(sender.run()), asyncio.ensure_future(load.run(users))]
    try:
        yield Scene(gigya, sender, load, transport)
        load.finish()
        await asyncio.wait_for(tasks[1], 20)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await transport.close()
        await gigya.stop()


@pytest.mark.parametrize("mode", MODES)
async def test_calls_are_accepted_in_every_mode(mode: str, tmp_path: Path) -> None:
    async with serving(mode, tmp_path, users=10, quota_per_s=100.0) as scene:
        await asyncio.sleep(0.5)
    scene.check_each_call_was_executed_once()
    assert scene.load.outcomes.total() >= 20
    nonces = [entry.nonce for entry in scene.gigya.ledger.executed]
    assert len(set(nonces)) == len(nonces) if mode != "secret" else set(nonces) == {""}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", [403004, 403002, 500001, 409030])
async def test_each_attempt_proves_itself_anew(mode: str, code: int, tmp_path: Path) -> None:
    async with serving(mode, tmp_path, users=5, quota_per_s=100.0) as scene:
        scene.gigya.inject(Fault(kind="code", code=code, count=3))
        await asyncio.sleep(0.4)
    scene.check_each_call_was_executed_once()
    # A copy of a call in doubt carries its nonce, in the mode that has nonces: the server knows it.
    known = {403004} if (mode, code) == ("signed", 500001) else set()
    assert {arrival.code for arrival in scene.gigya.ledger.arrivals} == {0, code} | known


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_to_the_site_proves_itself_as_calls_do(mode: str, tmp_path: Path) -> None:
    async with serving(mode, tmp_path, users=5, quota_per_s=100.0) as scene:
        scene.gigya.inject(Fault(kind="code", code=403005, uid="user-1", count=1))
        await asyncio.sleep(1.0)
        scene.load.finish()
    asked = [arrival.code for arrival in scene.gigya.ledger.arrivals if arrival.method == GET_ACTION_CONFIG.name]
    assert set(asked) <= {0}
    scene.check_each_call_was_executed_once()


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_key_stops_the_site_and_loses_nothing(mode: str, tmp_path: Path) -> None:
    async with serving(mode, tmp_path, users=20, quota_per_s=200.0) as scene:
        scene.accept(NEW)
        await asyncio.sleep(1.0)
        status = scene.sender.status()
        assert status.state is State.STOPPED
        assert status.reason == "credentials_refused"
        scene.sender.rotate(credentials(mode, NEW))
        before = scene.load.outcomes.total()
        await asyncio.sleep(1.0)
        assert scene.sender.is_open
        assert scene.load.outcomes.total() > before + 50
    scene.check_each_call_was_executed_once()


@pytest.mark.parametrize("mode", MODES)
async def test_a_rotation_under_load_with_both_keys_good_for_a_while_is_not_noticed(mode: str, tmp_path: Path) -> None:
    async with serving(mode, tmp_path, users=50, quota_per_s=200.0, latency={"ms": 100}) as scene:
        for old, new in itertools.pairwise([OLD, NEW, OLD]):
            await asyncio.sleep(0.3)
            scene.accept(old, new)
            await asyncio.sleep(0.1)
            scene.sender.rotate(credentials(mode, new))
            await asyncio.sleep(1.0)  # what was signed with the old key has arrived
            scene.accept(new)
            assert scene.sender.is_open
        await asyncio.sleep(0.3)
        assert scene.sender.is_open
    scene.check_each_call_was_executed_once()
    assert {arrival.code for arrival in scene.gigya.ledger.arrivals} == {0}


async def test_a_token_over_plain_http_and_a_certificate_that_nobody_vouched_for_are_told_apart(tmp_path: Path) -> None:
    async with serving("jwt", tmp_path, users=1, quota_per_s=10.0) as scene:
        scene.load.finish()
        strict = HttpTransport(SystemClock(), connect_timeout_s=3, attempt_timeout_s=3, max_connections=1)
        site = Site("main", "3_test", base_url=scene.gigya.base_url)
        answer = await strict.post(url_of(site, GET_ACTION_CONFIG), b"apiKey=3_test", authorization="Bearer x")
        await strict.close()
        assert getattr(answer, "reason", "") == "tls_failure"
