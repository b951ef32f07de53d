"""What the transport says of every way a request can go wrong: the fake and the real one keep the same contract."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.delivery.fakes import OK, ScriptedTransport
from worker.clock import ManualClock, SystemClock
from worker.delivery.transport import HttpTransport, Transport
from worker.gigya.replies import NoReply, Reply

BODY = b'{"errorCode":0,"callId":"abc"}'
Serve = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One accepted connection of a server that the test scripts byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number

    async def request(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        return head + await self.reader.readexactly(length)

    def send(self, body: bytes = BODY, *, status: str = "200 OK", headers: str = "", length: int | None = None) -> None:
        size = len(body) if length is None else length
        self.writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body)

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.close()


class Server:
    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Server]:
    server, tasks = Server(), set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        connection = Connection(reader, writer, server.connections)
        original = connection.request

        async def request() -> bytes:
            data = await original()
            server.requests.append(data)
            return data

        connection.request = request  # type: ignore[method-assign]
        try:
            await serve(connection)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(accept(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/gm.notifyAction"
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def http(**more: object) -> AsyncIterator[HttpTransport]:
    settings = {"connect_timeout_s": 0.3, "attempt_timeout_s": 0.5, "max_connections": 10, **more}
    transport = HttpTransport(SystemClock(), **settings)  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.close()


async def answered(serve: Serve, **more: object) -> tuple[Reply | NoReply, Server]:
    async with serving(serve) as server, http(**more) as transport:
        return await transport.post(server.url, b"a=1"), server


# --- the contract: fake and real ----------------------------------------------------------------------------------


async def good(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.send()


async def silent(connection: Connection) -> None:
    await connection.request()
    await connection.reader.read()


@asynccontextmanager
async def either(which: str, fault: str = "") -> AsyncIterator[tuple[Transport, str, list[object]]]:
    """Yield a transport, a URL, and the list of what arrived."""
    if which == "fake":
        answers = {"": OK, "silent": NoReply("timeout", True), "refused": NoReply("connect_refused", False)}
        fake = ScriptedTransport(ManualClock(), lambda _: answers[fault])
        yield fake, "https://gm.eu1.gigya.com/gm.notifyAction", fake.requests  # type: ignore[misc]
        return
    async with serving(silent if fault == "silent" else good) as server, http() as transport:
        url = f"http://127.0.0.1:{_closed_port()}/gm.notifyAction" if fault == "refused" else server.url
        yield transport, url, server.requests  # type: ignore[misc]


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("which", ["fake", "real"])
async def test_an_answer_is_a_reply_and_the_write_was_announced_once(which: str) -> None:
    announced: list[int] = []
    async with either(which) as (transport, url, arrived):

        def before_write() -> bool:
            announced.append(len(arrived))
            return True

        answer = await transport.post(url, b"UID=u1", before_write=before_write)
        assert isinstance(answer, Reply)
        assert (answer.status, answer.error_code) == (200, 0)
        assert announced == [0]
        assert len(arrived) == 1


@pytest.mark.parametrize("which", ["fake", "real"])
async def test_a_request_that_is_withdrawn_before_its_first_byte_does_not_arrive(which: str) -> None:
    async with either(which) as (transport, url, arrived):
        answer = await transport.post(url, b"UID=u1", before_write=lambda: False)
        assert answer == NoReply("not_sent", may_have_arrived=False)
        assert not arrived
        assert isinstance(await transport.post(url, b"UID=u1"), Reply)


@pytest.mark.parametrize("which", ["fake", "real"])
async def test_silence_after_the_request_means_that_it_may_have_arrived(which: str) -> None:
    async with either(which, "silent") as (transport, url, arrived):
        assert await transport.post(url, b"UID=u1") == NoReply("timeout", may_have_arrived=True)
        assert len(arrived) == 1


@pytest.mark.parametrize("which", ["fake", "real"])
async def test_a_refused_connection_never_announces_a_write(which: str) -> None:
    announced: list[bool] = []

    def before_write() -> bool:
        announced.append(True)
        return True

    async with either(which, "refused") as (transport, url, arrived):
        answer = await transport.post(url, b"UID=u1", before_write=before_write)
        assert answer == NoReply("connect_refused", may_have_arrived=False)
        assert not announced
        assert not arrived


# --- the real one -------------------------------------------------------------------------------------------------


async def test_connections_are_kept_and_the_request_is_as_it_should_be() -> None:
    async with serving(good) as server, http() as transport:
        for _ in range(5):
            assert isinstance(await transport.post(server.url, b"a=1&b=%20"), Reply)
        assert server.connections == 1
    head = server.requests[0].decode().lower()
    assert head.startswith("post /gm.notifyaction http/1.1\r\n")
    assert "content-type: application/x-www-form-urlencoded" in head
    assert "cookie" not in head
    assert head.endswith("\r\n\r\na=1&b=%20")


async def test_a_reset_before_the_answer_may_have_arrived_and_is_not_sent_again() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    answer, server = await answered(serve)
    assert answer == NoReply("reset_after_send", may_have_arrived=True)
    assert len(server.requests) == 1


async def test_a_server_that_closes_without_an_answer_may_have_executed_the_call() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()

    answer, server = await answered(serve)
    assert answer == NoReply("reset_after_send", may_have_arrived=True)
    assert len(server.requests) == 1


async def test_a_kept_connection_that_was_closed_while_idle_costs_nothing() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send()
        if connection.number > 1:
            await connection.reader.read()

    async with serving(serve) as server, http() as transport:
        first = await transport.post(server.url, b"a=1")
        for _ in range(100):  # until the end of the connection has been seen
            await asyncio.sleep(0.001)
        second = await transport.post(server.url, b"a=2")
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert len(server.requests) == 2


async def test_a_kept_connection_that_is_closed_by_the_next_request_is_not_retried() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send()
        await connection.request()
        connection.reset()

    async with serving(serve) as server, http() as transport:
        assert isinstance(await transport.post(server.url, b"a=1"), Reply)
        assert await transport.post(server.url, b"a=2") == NoReply("reset_after_send", may_have_arrived=True)
    assert len(server.requests) == 2
    assert server.connections == 1


@pytest.mark.parametrize(
    ("length", "reason"), [(100, "body_cut_off"), (None, "truncated_body")], ids=["by length", "by brackets"]
)
async def test_a_truncated_answer_says_nothing(length: int | None, reason: str) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(BODY[:-5], length=length)

    answer, _ = await answered(serve)
    if isinstance(answer, NoReply):
        assert answer == NoReply(reason, may_have_arrived=True)
    else:
        assert (answer.error_code, answer.defect) == (None, reason)


async def test_a_body_that_trickles_beyond_the_time_limit_is_a_timeout() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(BODY[:5], length=len(BODY))
        for byte in BODY[5:]:
            await asyncio.sleep(0.05)
            connection.writer.write(bytes([byte]))

    answer, _ = await answered(serve, attempt_timeout_s=0.3)
    assert answer == NoReply("timeout", may_have_arrived=True)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_answer_is_read(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(pack(BODY), headers=f"Content-Encoding: {encoding}\r\n")

    answer, _ = await answered(serve)
    assert isinstance(answer, Reply)
    assert answer.call_id == "abc"


async def test_a_compressed_answer_that_is_broken_says_nothing() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(b"no gzip at all", headers="Content-Encoding: gzip\r\n")

    answer, _ = await answered(serve)
    assert isinstance(answer, NoReply)
    assert answer.may_have_arrived


async def test_a_redirect_is_not_followed() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(b"", status="302 Found", headers="Location: /elsewhere\r\nSet-Cookie: a=b\r\n")

    answer, server = await answered(serve)
    assert isinstance(answer, Reply)
    assert answer.status == 302
    assert len(server.requests) == 1


async def test_a_page_of_html_is_a_reply_without_a_word_of_gigyas() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(b"<html>maintenance</html>", status="503 Service Unavailable", headers="Retry-After: 9\r\n")

    answer, _ = await answered(serve)
    assert isinstance(answer, Reply)
    assert (answer.status, answer.error_code, answer.retry_after_s) == (503, None, 9.0)


async def test_an_answer_that_is_not_http_may_have_arrived() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    answer, _ = await answered(serve)
    assert answer == NoReply("invalid_http", may_have_arrived=True)


async def test_an_endless_answer_is_cut_off() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.send(b"[", length=10**9)
        while True:
            connection.writer.write(b" " * 65536)
            await connection.writer.drain()

    answer, _ = await answered(serve, attempt_timeout_s=10)
    assert answer == NoReply("foreign_body", may_have_arrived=True)


async def test_a_name_that_does_not_exist_is_told_from_an_outage() -> None:
    async with http(connect_timeout_s=5, attempt_timeout_s=5) as transport:
        answer = await transport.post("https://gm.no-such-data-center.invalid/gm.notifyAction", b"a=1")
    assert answer == NoReply("dns_failure", may_have_arrived=False)


async def test_a_server_that_speaks_no_tls_is_a_tls_failure() -> None:
    async def serve(connection: Connection) -> None:
        await connection.reader.read(10)
        connection.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(serve) as server, http() as transport:
        answer = await transport.post(server.url.replace("http://", "https://"), b"a=1")
    assert answer == NoReply("tls_failure", may_have_arrived=False)


async def test_a_handshake_that_hangs_is_a_connect_timeout() -> None:
    async def serve(connection: Connection) -> None:
        await connection.reader.read(10)
        await connection.reader.read()

    async with serving(serve) as server, http(connect_timeout_s=0.1) as transport:
        answer = await transport.post(server.url.replace("http://", "https://"), b"a=1")
    assert answer == NoReply("connect_timeout", may_have_arrived=False)


async def test_waiting_for_a_free_connection_does_not_count_as_arrived() -> None:
    async with serving(silent) as server, http(max_connections=1, connect_timeout_s=0.1) as transport:
        first = asyncio.ensure_future(transport.post(server.url, b"a=1"))
        await asyncio.sleep(0.02)
        assert await transport.post(server.url, b"a=2") == NoReply("connect_timeout", may_have_arrived=False)
        assert await first == NoReply("timeout", may_have_arrived=True)
        assert len(server.requests) == 1


async def test_a_ca_file_that_is_none_is_refused_when_the_transport_is_made(tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrong = tmp_path / "ca.pem"
    wrong.write_text("not a certificate")
    with pytest.raises((ssl.SSLError, OSError)):
        HttpTransport(SystemClock(), connect_timeout_s=1, attempt_timeout_s=1, max_connections=1, ca_file=wrong)


async def test_cancelling_a_request_closes_its_connection_and_leaves_the_pool_usable() -> None:
    hang = True

    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            if hang:
                await connection.reader.read()
            connection.send()

    async with serving(serve) as server, http(max_connections=1) as transport:
        request = asyncio.ensure_future(transport.post(server.url, b"a=1"))
        await asyncio.sleep(0.02)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        hang = False
        assert isinstance(await transport.post(server.url, b"a=2"), Reply)
