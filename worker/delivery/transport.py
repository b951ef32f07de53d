"""One HTTP request to the site: bytes out, `Reply` or `NoReply` back. The only module that sees a socket.

Nothing is retried and no redirect is followed here: a request that is sent again without a new signature is refused
as a duplicate, and a signed request holds for its URL only. (aiohttp itself re-sends only idempotent methods when a
kept connection turns out to be closed; POST is none. A contract test watches that.)
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from worker.clock import Clock
from worker.gigya.replies import NoReply, Reply, parse_reply

# Below the idle time-out of servers and load balancers (60 s and more is usual, 15 s happens), so that it is we who
# close: a request written into a connection that the server is closing looks like one that was lost.
_KEEP_ALIVE_S = 10.0
_DNS_TTL_S = 30
# An answer of these methods has some hundred bytes. getActionConfig lists a site's actions: kilobytes.
_LARGEST_BODY_BYTES = 4 * 1024 * 1024


class Transport(Protocol):
    """Makes one request. Called by `Sender`, many at a time from one event loop."""

    async def post(
        self, url: str, body: bytes, *, authorization: str = "", before_write: Callable[[], bool] | None = None
    ) -> Reply | NoReply:
        """POST an urlencoded body; return what came back, or that nothing did. Ends within the attempt's time-out.

        `authorization` is the header of that name; without one none is sent.
        `before_write` is called at most once, synchronously, when the connection is in hand and just before the first
        byte is written; False means that it must not be, and `NoReply("not_sent", may_have_arrived=False)` returns.
        If it was not called, nothing was written. Raises nothing but cancellation.
        """
        ...


class HttpTransport:
    """The real one: a pool of kept connections, TLS verified with the system's or the given CA certificates."""

    def __init__(
        self,
        clock: Clock,
        *,
        connect_timeout_s: float,
        attempt_timeout_s: float,
        max_connections: int,
        ca_file: Path | None = None,
    ) -> None:
        """Call inside the event loop. Raises OSError or ssl.SSLError for a CA file that cannot be used."""
        self._clock = clock
        self._session = _session(connect_timeout_s, attempt_timeout_s, max_connections, ca_file)
        self._urls: dict[str, URL] = {}

    async def post(
        self, url: str, body: bytes, *, authorization: str = "", before_write: Callable[[], bool] | None = None
    ) -> Reply | NoReply:
        form = _Form(body, before_write)
        target = self._urls.get(url)
        if target is None:
            target = self._urls[url] = URL(url)
        try:
            headers = {"Authorization": authorization} if authorization else None
            async with self._session.post(target, data=form, headers=headers, allow_redirects=False) as response:
                content = await _read(response)
                return parse_reply(response.status, response.headers, content, self._clock.now_s())
        except _TooLarge:
            return NoReply("foreign_body", may_have_arrived=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # asyncio.TimeoutError is an OSError
            return _no_reply(error, form)

    async def close(self) -> None:
        """Close all connections. Requests in flight end as NoReply."""
        await self._session.close()


class _NotWritten(Exception):
    """The request was withdrawn before its first byte."""


class _TooLarge(Exception):
    """The answer is larger than any answer of these methods."""


class _Form(aiohttp.BytesPayload):
    """A request body that knows whether its first byte was written.

    aiohttp keeps the headers back until the body's first write, and sends both at once: a body that was not begun
    means that no byte was sent.
    """

    def __init__(self, body: bytes, before_write: Callable[[], bool] | None) -> None:
        super().__init__(body, content_type="application/x-www-form-urlencoded")
        self.is_begun = False
        self.is_withdrawn = False
        self._before_write = before_write

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise _NotWritten
        if self._before_write is not None and not self._before_write():
            self.is_withdrawn = True
            raise _NotWritten
        self.is_begun = True
        await super().write_with_length(writer, content_length)


def _session(
    connect_timeout_s: float, attempt_timeout_s: float, max_connections: int, ca_file: Path | None
) -> aiohttp.ClientSession:
    # Made once: loading the CA certificates takes some 20 ms of CPU.
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    connector = aiohttp.TCPConnector(
        limit=max_connections,
        keepalive_timeout=_KEEP_ALIVE_S,
        ttl_dns_cache=_DNS_TTL_S,
        ssl=context,
    )
    # aiohttp rounds time-outs above five seconds up to whole seconds unless told otherwise; a lease cannot allow that.
    timeout = aiohttp.ClientTimeout(total=attempt_timeout_s, connect=connect_timeout_s, ceil_threshold=math.inf)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "User-Agent": "gigya-worker"},
        auto_decompress=True,
        raise_for_status=False,
        trust_env=False,
    )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = await response.content.readany()
    while not response.content.at_eof():
        content += await response.content.readany()
        if len(content) > _LARGEST_BODY_BYTES:
            raise _TooLarge
    return content


# What an exception means when no byte was written, most specific first. Everything else is "not_sent".
_BEFORE_SEND: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (aiohttp.ClientConnectorDNSError, "dns_failure"),
    (aiohttp.ClientConnectorCertificateError, "tls_failure"),
    (aiohttp.ClientSSLError, "tls_failure"),
    (aiohttp.ClientConnectorError, "connect_failed"),
    (asyncio.TimeoutError, "connect_timeout"),
    (aiohttp.ClientConnectionError, "reset_before_send"),
)
# And when some were: the request may have arrived, whatever it was.
_AFTER_SEND: tuple[tuple[type[Exception], str], ...] = (
    (asyncio.TimeoutError, "timeout"),
    (aiohttp.ClientPayloadError, "body_cut_off"),
    (aiohttp.ClientResponseError, "invalid_http"),
    (aiohttp.ClientConnectionError, "reset_after_send"),
    (OSError, "reset_after_send"),
)


def _no_reply(error: Exception, form: _Form) -> NoReply:
    if form.is_begun:
        return NoReply(_named(error, _AFTER_SEND, "no_reply"), may_have_arrived=True)
    if form.is_withdrawn:
        return NoReply("not_sent", may_have_arrived=False)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return NoReply("connect_refused", may_have_arrived=False)
    return NoReply(_named(error, _BEFORE_SEND, "not_sent"), may_have_arrived=False)


def _named(error: Exception, table: tuple[tuple[type[Exception], str], ...], otherwise: str) -> str:
    return next((reason for kind, reason in table if isinstance(error, kind)), otherwise)
