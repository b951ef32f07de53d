"""Every way an answer can fail to arrive, or arrive spoilt, through the whole worker.

Each fault twice: for one user, where it costs the call what the design says; and for everybody, where it is an outage,
or a throttling, and costs nobody anything. Written by hand from the design (architecture, section 6): a request whose
headers were never written did not arrive; no reply, HTTP 5xx, empty, truncated or foreign bodies are ambiguous; the
body decides wherever there is a whole one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.answers.world import World, at_the_local_gigya, authority, requests, running, site_at, without_a_log
from worker.clock import ManualClock
from worker.sandbox.gigya import Fault

ATTEMPTS = 3  # delivery.attempts in these tests
USERS = tuple(f"user-{number}" for number in range(6))


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A fault of the local Gigya, and what must come of it."""

    name: str
    fault: dict[str, Any]
    reason: str  # empty: the answer is read as if nothing had happened
    executes: bool = False  # the call took effect though the answer does not say so
    hangs: bool = False


SPOILT = [
    Spoilt("HTML", {"kind": "html"}, "bad_gateway"),
    Spoilt("HTML that calls itself a success", {"kind": "html", "status": 200}, "html_body"),
    Spoilt("a sign-in page", {"kind": "html", "status": 403}, "http_forbidden"),
    Spoilt("an empty body", {"kind": "empty"}, "empty_body"),
    Spoilt("an empty body after the call was executed", {"kind": "empty", "executes": True}, "empty_body", True),
    Spoilt("truncated JSON", {"kind": "truncated"}, "truncated_body", True),
    Spoilt("an answer that is cut off", {"kind": "cut"}, "body_cut_off", True),
    Spoilt("no JSON at all", {"kind": "garbage"}, "foreign_body"),
    Spoilt("a redirect", {"kind": "redirect"}, "http_redirect"),
    Spoilt("HTTP 404", {"kind": "status", "status": 404}, "http_not_found"),
    Spoilt("HTTP 413", {"kind": "status", "status": 413}, "http_too_large"),
    Spoilt("HTTP 418", {"kind": "status", "status": 418}, "http_4xx"),
    Spoilt("HTTP 500", {"kind": "status", "status": 500}, "http_5xx"),
    Spoilt("HTTP 502", {"kind": "status", "status": 502}, "bad_gateway"),
    Spoilt("HTTP 503", {"kind": "status", "status": 503}, "service_unavailable"),
    Spoilt("HTTP 504", {"kind": "status", "status": 504}, "gateway_timeout"),
    Spoilt("a reset before the execution", {"kind": "reset_before_execution"}, "reset_after_send"),
    Spoilt("a reset after the execution", {"kind": "reset_after_execution"}, "reset_after_send", True),
    Spoilt("silence", {"kind": "timeout_before"}, "timeout", hangs=True),
    Spoilt("silence after the execution", {"kind": "timeout_after"}, "timeout", True, hangs=True),
    Spoilt("a body too slow to wait for", {"kind": "slow_body", "ms": 5_000}, "timeout", True, hangs=True),
]
HARMLESS = [
    Spoilt("a wrong content type", {"kind": "wrong_content_type"}, ""),
    Spoilt("a slow body", {"kind": "slow_body", "ms": 50}, ""),
    Spoilt("a slow site", {"kind": "slow", "ms": 50}, ""),
    Spoilt("a success with HTTP 500", {"kind": "wrong_content_type", "status": 500}, ""),
]
HANGS = {"time_limit_s": 0.3}
named = pytest.mark.parametrize("spoilt", SPOILT, ids=lambda spoilt: spoilt.name)


@named
async def test_for_one_user_it_costs_his_call_its_attempts(spoilt: Spoilt) -> None:
    settings = HANGS if spoilt.hangs else {}
    async with at_the_local_gigya(settings=settings, nonces={"retention_s": 0}) as (world, gigya):
        without_a_log(gigya)
        gigya.inject(Fault(uid="bad", **spoilt.fault))
        world.append("bad", "good")
        await world.all_committed()

        assert world.verdicts == {("ambiguous", spoilt.reason): ATTEMPTS, ("ok", "ok"): 1}
        (end,) = world.letters[0].calls
        assert (end.outcome.kind, end.outcome.reason) == ("failed", spoilt.reason)
        assert (end.outcome.attempts, end.outcome.maybe_executed) == (ATTEMPTS, True)
        assert world.possible_duplicates == ATTEMPTS - 1
        executed = sum(entry.uid == "bad" for entry in gigya.ledger.executed)
        assert executed == (ATTEMPTS if spoilt.executes else 0)
        assert world.is_ready
        assert 1 not in world.letters


@named
async def test_the_log_tells_what_was_executed_and_what_was_not(spoilt: Spoilt) -> None:
    async with at_the_local_gigya(settings=HANGS if spoilt.hangs else {}) as (world, gigya):
        await world.pass_time(60)
        gigya.inject(Fault(uid="bad", method="gm.notifyAction", count=1, **spoilt.fault))
        world.append("bad", "good")
        await world.all_committed()
        assert sum(entry.uid == "bad" for entry in gigya.ledger.executed) == 1
        reason = "found_in_log" if spoilt.executes else "ok"
        assert world.ends == Counter([("delivered", reason), ("delivered", "ok")])
        assert (world.possible_duplicates, world.letters) == (0, {})


@named
async def test_for_everybody_it_is_an_outage_that_costs_nobody_anything(spoilt: Spoilt) -> None:
    async with at_the_local_gigya(settings={"attempts": 2, **(HANGS if spoilt.hangs else {})}) as (world, gigya):
        fault = gigya.inject(Fault(**spoilt.fault))
        world.append(*USERS)
        await world.until(lambda: world.readiness["state"] != "open")
        assert (world.readiness["state"], world.readiness["reason"]) == ("outage", spoilt.reason)
        assert "network" in world.readiness["remedy"]
        assert "by itself" in world.readiness["remedy"]
        asked = len(gigya.ledger.arrivals)
        await world.pass_time(2 if spoilt.hangs else 20)
        # Probes, one at a time: each user's call, or the question to the log whether it was executed.
        assert 1 <= len(gigya.ledger.arrivals) - asked <= 30
        assert (world.committed, world.letters, world.ends) == (0, {}, {})
        assert not world.is_ready

        gigya.faults.remove(fault)
        await world.all_committed()
        assert world.is_ready
        assert sum(world.ends.values()) == len(USERS)  # with a budget of two attempts each
        assert set(world.ends) <= {("delivered", "ok"), ("delivered", "found_in_log")}
        assert world.letters == {}


@pytest.mark.parametrize("spoilt", HARMLESS, ids=lambda spoilt: spoilt.name)
async def test_a_whole_body_is_believed_whatever_is_around_it(spoilt: Spoilt) -> None:
    async with at_the_local_gigya() as (world, gigya):
        gigya.inject(Fault(**spoilt.fault))
        world.append("one", "two")
        await world.all_committed()
        assert world.ends == {("delivered", "ok"): 2}
        assert requests(gigya) == 2
        assert world.possible_duplicates == 0


async def test_compressed_answers_are_read() -> None:
    async with at_the_local_gigya(gzip=True) as (world, gigya):
        gigya.inject(Fault(kind="code", code=400126, uid="bad"))
        world.append("bad", "good")
        await world.all_committed()
        assert world.ends == {("failed", "invalid_action"): 1, ("delivered", "ok"): 1}


@pytest.mark.parametrize("retry_after_s", [None, 40])
async def test_http_429_slows_the_site_down_and_waits_as_long_as_it_is_told(retry_after_s: int | None) -> None:
    async with at_the_local_gigya(settings={"attempts": 1, "give_up_after_s": 5}) as (world, gigya):
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        gigya.inject(Fault(kind="status", status=429, headers=headers, count=3))
        begun_s = world.clock.monotonic_s()
        world.append("one", "two")
        await world.all_committed()
        took_s = world.clock.monotonic_s() - begun_s
        assert world.verdicts == {("throttled", "http_429"): 3, ("ok", "ok"): 2}
        assert world.ends == {("delivered", "ok"): 2}
        # The first two went out together; each wait that the site asks for is waited for.
        assert took_s < 10 if retry_after_s is None else 80 <= took_s < 100
        assert world.is_ready


async def test_a_wrong_data_centre_names_the_right_one() -> None:
    async with at_the_local_gigya() as (world, gigya):
        fields = {"apiDomain": "us1.gigya.com", "location": "https://gm.us1.gigya.com/gm.notifyAction"}
        gigya.inject(Fault(kind="code", code=301001, stage="front", fields=fields))
        world.append("one")
        await world.until(lambda: world.readiness["state"] != "open")
        assert (world.readiness["state"], world.readiness["reason"]) == ("stopped", "wrong_data_center")
        assert "Set the site's data_center" in world.readiness["remedy"]
        assert "us1.gigya.com" in world.readiness["remedy"]
        await world.pass_time(30)
        assert (world.committed, world.letters) == (0, {})


async def test_a_foreign_domain_in_such_an_answer_is_not_shown() -> None:
    async with at_the_local_gigya() as (world, gigya):
        fields = {"apiDomain": "evil.example/?a=b"}
        gigya.inject(Fault(kind="code", code=301001, stage="front", fields=fields))
        world.append("one")
        await world.until(lambda: world.readiness["state"] != "open")
        assert "evil" not in str(world.view.readyz())


# --- below HTTP ----------------------------------------------------------------------------------------------------

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"errorCode":0,"callId":"abc"}'
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """A server that does as the test says with each connection, and remembers what was said to it."""

    serve: Serve
    tls: ssl.SSLContext | None = None
    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _listener: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", port, ssl=self.tls)
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._listener is not None
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._run(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length"))
        body = await reader.readexactly(length)
        self.requests.append(body)
        return body


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def at_a_raw_server(
    serve: Callable[[RawServer], Serve], *, https: bool = False, **settings: Any
) -> AsyncIterator[tuple[World, RawServer]]:
    """Run a worker at a raw server. `https` is only how it is called: the server may know nothing of TLS."""
    server = RawServer(serve=lambda reader, writer: asyncio.sleep(0))
    server.serve = serve(server)
    await server.start()
    try:
        url = server.url.replace("http:", "https:") if https else server.url
        async with running(ManualClock(), site_at(url), **settings) as world:
            yield world, server
    finally:
        await server.stop()


def always_answers(server: RawServer) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(ANSWER)

    return serve


async def check_not_arrived(world: World, reason: str, words: tuple[str, ...]) -> None:
    """Every call waits for ever, at no cost, and readiness says what to do about it."""
    world.append(*USERS)
    await world.until(lambda: world.readiness["state"] != "open")
    assert (world.readiness["state"], world.readiness["reason"]) == ("outage", reason)
    assert [word for word in words if word not in world.readiness["remedy"]] == []
    await world.pass_time(20)
    assert set(world.verdicts) == {("retry", reason)}
    assert (world.committed, world.letters, world.ends) == (0, {}, {})
    assert world.possible_duplicates == 0


async def test_a_name_that_does_not_resolve_did_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_knows(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody_knows)  # a real resolver may take minutes to give up
    async with running(ManualClock(), site_at("https://gm.no-such-data-center.invalid"), attempts=1) as world:
        await check_not_arrived(world, "dns_failure", ("data_center", "DNS", "ask SAP"))


async def test_a_port_where_nobody_listens_did_not_arrive_and_heals_by_itself() -> None:
    server = RawServer(serve=lambda reader, writer: asyncio.sleep(0))
    await server.start()
    port = server.port
    await server.stop()
    async with running(ManualClock(), site_at(f"http://127.0.0.1:{port}"), attempts=1) as world:
        await check_not_arrived(world, "connect_refused", ("base_url", "firewall"))
        server.serve = always_answers(server)
        await server.start(port)
        try:
            await world.all_committed()
            assert world.ends == {("delivered", "ok"): len(USERS)}
            assert len(server.requests) == len(USERS)
        finally:
            await server.stop()


async def test_a_server_without_tls_did_not_arrive() -> None:
    def answers_in_plain(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        return serve

    async with at_a_raw_server(answers_in_plain, https=True, attempts=1) as (world, server):
        await check_not_arrived(world, "tls_failure", ("CA certificates", "ca_file"))
        assert server.requests == []


@pytest.mark.parametrize(("hosts", "days"), [(["127.0.0.1"], -1), (["elsewhere.example"], 10)], ids=["old", "foreign"])
async def test_a_certificate_that_is_not_good_did_not_arrive(hosts: list[str], days: float, tmp_path: Any) -> None:
    file = tmp_path / "server.pem"
    file.write_bytes(authority()[0].issue("localhost", hosts=hosts, days=days))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    server = RawServer(serve=lambda reader, writer: asyncio.sleep(0), tls=tls)
    await server.start()
    try:
        async with running(ManualClock(), site_at(server.url), attempts=1) as world:
            await check_not_arrived(world, "tls_failure", ("CA certificates", "clock"))
    finally:
        await server.stop()


async def test_a_handshake_that_hangs_did_not_arrive() -> None:
    def hangs(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        return serve

    async with at_a_raw_server(hangs, https=True, attempts=1, **HANGS) as (world, _):
        world.append(*USERS)
        await world.until(lambda: world.readiness["state"] != "open")
        assert (world.readiness["state"], world.readiness["reason"]) == ("outage", "connect_timeout")
        assert "firewall" in world.readiness["remedy"]
        assert (world.committed, world.ends, world.possible_duplicates) == (0, {}, 0)


async def test_a_reset_before_the_body_was_sent_did_not_arrive() -> None:
    def resets(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)  # the first byte of the handshake
            reset(writer)

        return serve

    async with at_a_raw_server(resets, https=True, attempts=1) as (world, server):
        world.append(*USERS)
        await world.until(lambda: world.readiness["state"] != "open")
        await world.pass_time(30)
        assert world.readiness["reason"] in ("connect_failed", "tls_failure", "reset_before_send")
        assert {kind for kind, _ in world.verdicts} == {"retry"}
        assert (world.committed, world.letters, world.ends) == (0, {}, {})
        assert server.requests == []
        assert world.possible_duplicates == 0


async def test_a_reset_after_the_body_was_sent_may_have_arrived() -> None:
    def resets_the_first(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            if len(server.requests) == 1:
                reset(writer)
                return
            while True:
                writer.write(ANSWER)  # to the question about the log, too, which it leaves undecided
                await server.request(reader)

        return serve

    async with at_a_raw_server(resets_the_first) as (world, server):
        world.append("one")
        await world.all_committed()
        assert world.verdicts == {("ambiguous", "reset_after_send"): 1, ("ok", "ok"): 1}
        assert world.ends == {("delivered", "ok"): 1}
        assert world.possible_duplicates == 1
        first, _, second = server.requests
        assert first != second, "a second attempt is signed anew"


async def test_a_connection_that_was_closed_while_idle_costs_nothing() -> None:
    def closes_after_each(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            writer.write(ANSWER)

        return serve

    async with at_a_raw_server(closes_after_each) as (world, server):
        for number in range(1, 4):
            world.append("one")
            await world.all_committed()
            await asyncio.sleep(0.02)  # for the close to arrive: nothing of ours waits for it
            assert server.connections == number
        assert world.verdicts == {("ok", "ok"): 3}
        assert world.possible_duplicates == 0


async def test_a_kept_connection_that_is_reset_by_the_next_request_is_in_doubt() -> None:
    def resets_the_second(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await server.request(reader)
                if len(server.requests) == 2:
                    reset(writer)
                    return
                writer.write(ANSWER)

        return serve

    async with at_a_raw_server(resets_the_second) as (world, server):
        world.append("one", "one")
        await world.all_committed()
        assert world.verdicts == {("ok", "ok"): 2, ("ambiguous", "reset_after_send"): 1}
        assert world.possible_duplicates == 1
        assert server.connections == 2


async def test_what_is_no_http_at_all_may_have_arrived() -> None:
    def another_protocol(server: RawServer) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

        return serve

    async with at_a_raw_server(another_protocol) as (world, _):
        world.append("one")
        await world.all_committed()
        assert world.verdicts == {("ambiguous", "invalid_http"): ATTEMPTS}
        assert world.letters[0].reason == "invalid_http"
