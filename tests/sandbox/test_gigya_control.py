"""Can the local Gigya be told and asked everything over HTTP, and run as a process of its own?"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.sandbox.gigya_client import API_KEY, SECRET, USER_KEY, Answered, config, serve, signature
from worker.sandbox.gigya_config import Latency, LedgerSettings

ROOT = Path(__file__).parents[2]


def lines(answer: Answered) -> list[dict[str, Any]]:
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


async def test_the_ledger_tells_what_was_executed_in_order_and_nothing_else() -> None:
    async with serve() as client:
        await client.notify(uid="u1", action="a", points="5", context='{"eventId":"e1"}')
        await client.notify(uid="u1", action="a", secret="AAAA")
        client.moments.advance(2)
        await client.publish(uid="u2")
        executed = lines(await client.control("GET", "ledger"))
        assert [(entry["order"], entry["arrival"], entry["method"], entry["uid"]) for entry in executed] == [
            (1, 1, "gm.notifyAction", "u1"),
            (2, 3, "socialize.publishUserAction", "u2"),
        ]
        first = executed[0]
        assert first["params"] == {"UID": "u1", "action": "a", "points": "5", "context": '{"eventId":"e1"}'}
        assert first["result"] == {"points": 5, "challenges": ["_default"]}
        assert (first["site"], first["nonce"], first["fault"]) == ("main", "n-1", None)
        assert len(first["call_id"]) == 32
        assert executed[1]["at_s"] == first["at_s"] + 2


async def test_arrivals_name_the_key_that_signed_and_stalls_are_told_from_four_milliseconds_on() -> None:
    async with serve() as client:
        await client.notify(uid="u1")
        arrived = lines(await client.control("GET", "arrivals"))
        assert [entry["user_key"] for entry in arrived] == [USER_KEY]
        client.gigya.ledger.stall(17.0, 0.003)
        client.gigya.ledger.stall(18.0, 0.05)
        assert lines(await client.control("GET", "stalls")) == [{"ended_s": 18.0, "lasted_s": 0.05}]


async def test_arrivals_hold_the_refused_requests_too() -> None:
    async with serve() as client:
        await client.notify(uid="u1")
        await client.notify(uid="u1", secret="AAAA")
        await client.notify(apiKey="3_other")
        arrived = lines(await client.control("GET", "arrivals"))
        assert [(entry["number"], entry["site"], entry["code"], entry["executed"]) for entry in arrived] == [
            (1, "main", 0, True),
            (2, "main", 403003, False),
            (3, "", 400093, False),
        ]
        assert {entry["answer"] for entry in arrived} == {"sent"}


async def test_ledger_and_arrivals_can_be_filtered_and_read_on() -> None:
    async with serve() as client:
        for uid in ("a", "b", "a"):
            await client.notify(uid=uid)
        assert [entry["order"] for entry in lines(await client.control("GET", "ledger?uid=a"))] == [1, 3]
        assert [entry["order"] for entry in lines(await client.control("GET", "ledger?after=2"))] == [3]
        assert [entry["number"] for entry in lines(await client.control("GET", "arrivals?site=other"))] == []
        assert lines(await client.control("GET", "arrivals?method=gm.getActionsLog")) == []


async def test_a_bounded_ledger_drops_the_oldest_and_counts_on() -> None:
    async with serve(config(ledger=LedgerSettings(executed_kept=2, arrivals_kept=0))) as client:
        for _ in range(5):
            await client.notify()
        assert [entry["order"] for entry in lines(await client.control("GET", "ledger"))] == [4, 5]
        assert lines(await client.control("GET", "arrivals")) == []
        stats = (await client.control("GET", "stats")).json
        assert (stats["arrivals"], stats["executed"]) == (5, 5)
        assert (stats["executed_dropped"], stats["arrivals_dropped"]) == (3, 5)


async def test_the_stats_hold_the_busiest_second_and_the_counts() -> None:
    async with serve() as client:
        for step_s in (0.4, 0.4, 0.4, 0.9):
            await client.notify()
            client.moments.advance(step_s)
        await client.notify(secret="AAAA")
        await client.control("POST", "faults", {"kind": "html"})
        await client.call("gm.getActionConfig")
        stats = (await client.control("GET", "stats")).json
        assert stats["busiest_second"] == {"main": 3}
        assert stats["codes"] == {"main": {"0": 4, "403003": 1}}
        assert stats["faults"] == {"main": {"html": 1}}
        assert stats["methods"] == {"main": {"gm.notifyAction": 5, "gm.getActionConfig": 1}}
        assert (stats["in_flight_max"], stats["in_flight_max_per_uid"], stats["in_flight"]) == (1, 1, 0)


async def test_faults_are_injected_listed_and_removed() -> None:
    async with serve() as client:
        first = (await client.control("POST", "faults", {"kind": "code", "code": 403048, "count": 5})).json["id"]
        second = (await client.control("POST", "faults", {"kind": "html", "uid": "u9"})).json["id"]
        assert (await client.notify()).code == 403048
        listed = (await client.control("GET", "faults")).json["faults"]
        assert listed == [
            {"id": first, "met": 1, "kind": "code", "code": 403048, "count": 5},
            {"id": second, "met": 0, "kind": "html", "uid": "u9"},
        ]
        assert (await client.control("DELETE", f"faults/{first}")).json == {"removed": True}
        assert (await client.control("DELETE", f"faults/{first}")).json == {"removed": False}
        assert (await client.notify()).code == 0
        assert (await client.control("DELETE", "faults")).json == {"faults": []}


async def test_an_outage_is_switched_on_and_off() -> None:
    async with serve() as client:
        await client.control("POST", "outage", {})
        assert (await client.notify()).status == 503
        await client.control("POST", "outage", {"kind": "status", "status": 500, "duration_s": 5})
        assert (await client.notify()).status == 500
        client.moments.advance(5)
        assert (await client.notify()).code == 0
        await client.control("POST", "outage", {"kind": "empty"})
        assert (await client.notify()).body == b""
        await client.control("DELETE", "outage")
        assert (await client.notify()).code == 0


async def test_settings_are_patched_and_a_null_takes_a_key_back_to_its_default() -> None:
    async with serve(config(latency=Latency(ms=1))) as client:
        patch = {"clock_offset_s": -500, "latency": {"upper_ms": 3}, "nonces": {"retention_s": 0}}
        shown = (await client.control("PATCH", "config", patch)).json
        assert (shown["clock_offset_s"], shown["latency"]["ms"], shown["nonces"]["retention_s"]) == (-500, 1, 0)
        assert (await client.notify()).code == 403002
        shown = (await client.control("PATCH", "config", {"clock_offset_s": None, "latency": None})).json
        assert (shown["clock_offset_s"], shown["latency"]["ms"]) == (0, 0)
        assert (await client.notify()).code == 0


async def test_a_site_is_patched_and_a_new_one_added() -> None:
    async with serve() as client:
        patch = {"quota": {"per_s": 1}, "actions": {"a": {"daily_cap": 1}}, "unknown_users": ["ghost"]}
        shown = (await client.control("PATCH", "sites/main", patch)).json
        assert shown["main"]["actions"]["a"]["daily_cap"] == 1
        assert (await client.notify(uid="ghost")).code == 403005
        assert (await client.notify()).code == 403048
        shown = (await client.control("PATCH", "sites/extra", {"api_key": "3_extra"})).json
        assert sorted(shown) == ["extra", "main"]
        assert (await client.control("GET", "sites")).json == shown


async def test_quota_and_provider_counts_survive_a_patch_of_something_else() -> None:
    async with serve() as client:
        results = [{"provider": "twitter", "code": 500023, "count": 1}]
        await client.control("PATCH", "sites/main", {"quota": {"per_s": 2}, "providers": {"results": results}})
        assert (await client.publish(enabledProviders="twitter")).code == 500023
        await client.control("PATCH", "sites/main", {"unknown_users": ["x"]})
        assert (await client.publish(enabledProviders="twitter")).code == 0
        assert (await client.notify()).code == 403048


async def test_a_key_is_revoked_and_restored() -> None:
    async with serve() as client:
        key = {"site": "main", "user_key": USER_KEY}
        await client.control("POST", "revoke", {**key, "code": 403003})
        assert (await client.notify()).code == 403003
        await client.control("POST", "restore", key)
        assert (await client.notify()).code == 0


async def test_reset_forgets_what_happened_and_keeps_the_settings() -> None:
    async with serve() as client:
        await client.control("PATCH", "sites/main", {"actions": {"a": {"daily_cap": 1}}})
        await client.notify(action="a", nonce="n")
        await client.control("POST", "faults", {"kind": "html"})
        await client.control("POST", "reset")
        assert (await client.notify(action="a", nonce="n")).code == 0
        assert (await client.notify(action="a")).code == 400124
        assert (await client.control("GET", "stats")).json["executed"] == 1


@pytest.mark.parametrize(
    ("verb", "path", "document", "status", "text"),
    [
        ("GET", "nonsense", None, 404, "GET /_control/stats"),
        ("POST", "faults", {"kind": "earthquake"}, 400, "kind"),
        ("POST", "faults", {"kind": "html", "typo": 1}, 400, "typo"),
        ("POST", "faults", [], 400, "JSON object"),
        ("PATCH", "config", {"latency": {"ms": -1}}, 400, "greater than or equal to 0"),
        ("PATCH", "config", {"sites": {}}, 400, "one by one"),
        ("PATCH", "sites", {}, 400, "sites/NAME"),
        ("PATCH", "sites/new", {"api_key": API_KEY}, 400, "another site"),
        ("POST", "revoke", {"site": "main", "user_key": "AKno"}, 400, "no such"),
        ("POST", "revoke", {"site": "main"}, 400, "user_key is missing"),
        ("POST", "revoke", {"site": "main", "user_key": USER_KEY, "code": "x"}, 400, "number"),
        ("DELETE", "faults/x", None, 400, "invalid literal"),
    ],
)
async def test_a_wrong_control_is_refused_and_changes_nothing(
    verb: str, path: str, document: Any, status: int, text: str
) -> None:
    async with serve() as client:
        before = (await client.control("GET", "sites")).json
        answer = await client.control(verb, path, document)
        assert (answer.status, text in answer.json["error"]) == (status, True), answer.body
        assert (await client.control("GET", "sites")).json == before
        assert (await client.notify()).code == 0


# as a process


@contextmanager
def launched(*command: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start Python with `command`, read the line it prints, and see to it that it ends."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


async def notify(told: dict[str, Any]) -> dict[str, Any]:
    site = told["sites"]["main"]
    url = f"{told['base_url']}/gm.notifyAction"
    params = {"apiKey": site["api_key"], "userKey": site["user_key"], "format": "json", "UID": "u", "action": "a"}
    params |= {"timestamp": str(int(time.time())), "nonce": "n"}
    params["sig"] = signature("POST", url, params, site["secret"])
    async with aiohttp.ClientSession() as session, session.post(url, data=params) as response:
        document = await response.json()
        assert isinstance(document, dict)
        return document


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_prints_what_a_client_needs_and_ends_at_a_signal(number: signal.Signals) -> None:
    with launched("-m", "worker.sandbox.gigya") as (process, told):
        assert asyncio.run(notify(told))["errorCode"] == 0
        assert told["pid"] == process.pid
        process.send_signal(number)
        assert process.wait(10) == 0


def test_the_process_reads_its_config(tmp_path: Path) -> None:
    file = tmp_path / "gigya.json"
    site = {"keys": {USER_KEY: {"secrets": [SECRET]}}, "actions": {"a": {"daily_cap": 0}}}
    file.write_text(json.dumps({"sites": {"main": site}}))
    with launched("-m", "worker.sandbox.gigya", "--config", str(file)) as (_, told):
        assert told["sites"]["main"]["secret"] == SECRET
        assert asyncio.run(notify(told))["errorCode"] == 400124


@pytest.mark.parametrize("text", ["{", '{"sites": {"main": {"typo": 1}}}', None])
def test_a_config_that_is_wrong_is_refused_without_a_traceback(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "gigya.json"
    if text is not None:
        file.write_text(text)
    command = [sys.executable, "-m", "worker.sandbox.gigya", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert str(file) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_process_ends_when_its_parent_is_killed() -> None:
    script = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-m", "worker.sandbox.gigya"], stdout=subprocess.PIPE, text=True)
        print(child.stdout.readline(), flush=True)
        time.sleep(60)
    """
    with launched("-c", textwrap.dedent(script)) as (parent, told):
        assert asyncio.run(notify(told))["errorCode"] == 0
        parent.kill()
        parent.wait()
        port = int(told["base_url"].rpartition(":")[2])
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return
            time.sleep(0.05)
    raise AssertionError("the local Gigya outlived its parent")
