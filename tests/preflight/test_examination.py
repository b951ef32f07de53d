"""Everything at once: several sites, Kafka away, servers that never answer; in time, and without a secret."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests.preflight.rig import NOTIFY, PUBLISH, SECRET, USER_KEY, gigya_config, local_gigya, settings
from worker.clock import SystemClock
from worker.delivery.schedule import DeliverySettings
from worker.gigya.signing import Credentials, decode_secret
from worker.gigya.sites import SiteSettings
from worker.kafka.client import Finding
from worker.kafka.settings import KafkaSettings
from worker.mapping import rules as rules_file
from worker.preflight import cluster
from worker.preflight.examination import examine
from worker.preflight.lines import Report, State
from worker.sandbox.gigya import LocalGigya

KAFKA = KafkaSettings(
    bootstrap_servers="127.0.0.1:9", group_id="g", topics=("events",), dead_letter_topic="events.dead"
)


async def examined(sites: dict[str, SiteSettings], text: str, *, limit_s: float = 10.0) -> Report:
    rules = rules_file.loads(f"version: 1\nrules:\n{text}", file="rules.yaml", sites=list(sites), topics=["events"])
    return await examine(
        KAFKA,
        sites,
        rules,
        credentials={name: Credentials(site.api_key, USER_KEY, decode_secret(SECRET)) for name, site in sites.items()},
        delivery=DeliverySettings(attempt_timeout_s=30, connect_timeout_s=30),
        clock=SystemClock(),
        limit_s=limit_s,
    )


@pytest.fixture
def kafka_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fine(_: KafkaSettings, *, limit_s: float) -> tuple[Finding, ...]:
        return (Finding("connection", "127.0.0.1:9", "connected"),)

    monkeypatch.setattr(cluster, "examine_cluster", fine)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def failed(report: Report) -> list[tuple[str, str, str]]:
    return [(line.part, line.check, line.subject) for line in report.failed]


async def test_kafka_that_is_away_is_told_beside_a_site_that_is_fine() -> None:
    async with local_gigya() as gigya:
        report = await examined({"main": settings(gigya)}, NOTIFY)
    assert failed(report) == [("kafka", "connection", "127.0.0.1:9")]
    unchecked = [(line.check, line.found) for line in report.lines if line.state is State.NOT_CHECKED]
    assert unchecked == [
        ("topic", "see connection"),
        ("dead-letter topic", "see connection"),
        ("dead-letter settings", "see connection"),
        ("group", "see connection"),
    ]


@pytest.mark.usefixtures("kafka_is_fine")
async def test_each_site_is_asked_with_its_own_rules_and_its_own_trouble() -> None:
    key = {"keys": {USER_KEY: {"secrets": [SECRET]}}}
    config = gigya_config().model_dump(mode="json")
    config["sites"]["main"]["keys"] = key["keys"]
    config["sites"]["second"] = {"api_key": "3_second", **key, "actions": {}}
    async with LocalGigya(type(gigya_config()).model_validate(config)) as gigya:
        gigya.revoke("second", USER_KEY, 403010)
        sites = {"main": settings(gigya), "second": settings(gigya, api_key="3_second")}
        text = NOTIFY + "    site: main\n" + PUBLISH + "    site: second\n"
        report = await examined(sites, text)
    assert failed(report) == [("site second", "credentials", "")]
    methods = {(line.part, line.subject) for line in report.lines if line.check == "method"}
    assert ("site main", "socialize.publishUserAction") not in methods
    assert ("site second", "gm.notifyAction") not in methods
    assert gigya.ledger.stats()["executed"] == 0


@pytest.mark.usefixtures("kafka_is_fine")
async def test_a_server_that_never_answers_is_given_up_in_time(silent: str) -> None:
    site = SiteSettings.model_validate(
        {"base_url": silent, "api_key": "3_a", "auth": {"user_key": USER_KEY, "secret": SECRET}}
    )
    began_s = time.monotonic()
    report = await examined({"main": site}, NOTIFY, limit_s=0.7)
    assert time.monotonic() - began_s < 3
    assert ("site main", "time", "") in failed(report)
    (method,) = [line for line in report.lines if line.subject == "gm.notifyAction"]
    assert method.state is State.NOT_CHECKED
    assert "0.7 s" in report.failed[0].found


async def test_a_kafka_that_never_answers_is_given_up_in_time(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: KafkaSettings, *, limit_s: float) -> tuple[Finding, ...]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(cluster, "examine_cluster", never)
    async with local_gigya() as gigya:
        report = await examined({"main": settings(gigya)}, NOTIFY, limit_s=0.7)
    assert failed(report) == [("kafka", "time", "")]


async def test_a_bug_is_not_a_good_report(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: KafkaSettings, *, limit_s: float) -> tuple[Finding, ...]:
        raise ZeroDivisionError

    monkeypatch.setattr(cluster, "examine_cluster", broken)
    async with local_gigya() as gigya:
        with pytest.raises(ZeroDivisionError):
            await examined({"main": settings(gigya)}, NOTIFY)


@pytest.mark.parametrize("code", [403003, 403005, 400093, 403010, 403036, 405001])
async def test_no_line_holds_a_key_or_a_secret(code: int) -> None:
    from worker.sandbox.gigya import Fault

    echo = {"errorDetails": f"userKey {USER_KEY} secret {SECRET} apiKey 3_test", "baseString": "POST&secret"}
    async with local_gigya() as gigya:
        gigya.inject(Fault(kind="code", code=code, fields=echo))
        report = await examined({"main": settings(gigya)}, NOTIFY)
    text = repr(report)
    assert not [word for word in (SECRET, USER_KEY, "3_test", "POST&") if word in text]
