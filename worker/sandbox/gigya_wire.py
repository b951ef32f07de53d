"""How an Answer leaves the local Gigya: whole, or spoilt in one of a dozen ways.

The only module here that knows sockets.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import Mapping
from email.utils import formatdate
from typing import NoReturn

from aiohttp import web

from worker.sandbox.gigya_answers import reason_of, rendered, status_of
from worker.sandbox.gigya_auth import Incoming
from worker.sandbox.gigya_config import Fault
from worker.sandbox.gigya_engine import Answer
from worker.sandbox.gigya_parameters import Parameters
from worker.sandbox.gigya_signature import Malformed, parse_parameters

_SLOW_PIECES = 10
_GARBAGE = bytes(range(128, 256)) + b'{"errorCode":'


async def read(http: web.BaseRequest, *, trust_forwarded_proto: bool) -> Incoming:
    """Return what arrived, from the raw request line and body. Raises Malformed."""
    target = http.raw_path
    if not target.startswith("/"):
        raise Malformed("the request line holds no path")
    path, _, query = target.partition("?")
    body = await http.read() if http.can_read_body else b""
    if body and http.content_type != "application/x-www-form-urlencoded":
        raise Malformed("the body is not application/x-www-form-urlencoded")
    scheme = http.scheme
    if trust_forwarded_proto:
        scheme = http.headers.get("X-Forwarded-Proto", scheme)
    return Incoming(
        verb=http.method,
        scheme=scheme,
        host=http.headers.get("Host", ""),
        path=path,
        params=Parameters(parse_parameters(query.encode("utf-8", "surrogateescape"), body)),
        authorization=http.headers.get("Authorization", ""),
        ip=http.remote or "",
    )


def unreadable(http: web.BaseRequest) -> Incoming:
    """Return what is known of a request that could not be read."""
    path = http.raw_path.partition("?")[0]
    return Incoming(http.method, http.scheme, "", path, Parameters({}), "", http.remote or "")


async def write(
    http: web.BaseRequest, incoming: Incoming, answer: Answer, *, now_s: float, may_compress: bool
) -> web.StreamResponse:
    """Return the response, or send it spoilt. Does not return where the client gets no answer."""
    fault = answer.fault
    kind = fault.kind if fault else "slow"
    match kind:
        case "reset_before_execution" | "reset_after_execution":
            await _reset(http)
        case "timeout_before" | "timeout_after":
            await _hang()
    body, content_type = rendered(
        answer.body, incoming.method, incoming.params.get("format"), incoming.params.get("callback")
    )
    mirrors = (incoming.params.get("httpStatusCodes") or "").lower() == "true"
    status = status_of(answer.code) if mirrors else 200
    headers = {"Content-Type": content_type, "Date": formatdate(now_s, usegmt=True), **answer.headers}
    if fault is not None:
        status, body = _spoilt(fault, status, body, headers)
        if fault.kind == "cut":
            await _cut(http, status, headers, body)
        if fault.kind == "slow_body":
            return await _dribble(http, status, headers, body, fault.ms / 1000)
    elif may_compress and "gzip" in http.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, compresslevel=1)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, status=status, headers=headers)


def _spoilt(fault: Fault, status: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Return status and body as the fault leaves them, and change the headers with them."""
    match fault.kind:
        case "status":
            status = 503
            headers["Content-Type"] = "text/plain; charset=utf-8"
            body = reason_of(fault.status or status).encode()
        case "html":
            status = 502
            headers["Content-Type"] = "text/html; charset=utf-8"
            title = f"{fault.status or status} {reason_of(fault.status or status)}"
            body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()
        case "empty":
            body = b""
        case "truncated":
            body = body[: len(body) // 2]
        case "wrong_content_type":
            headers["Content-Type"] = "text/html; charset=utf-8"
        case "garbage":
            body = _GARBAGE
        case "redirect":
            status, body = 302, b""
            headers["Location"] = fault.location
    headers |= fault.headers
    return fault.status or status, body


async def _reset(http: web.BaseRequest) -> NoReturn:
    """Close the connection with a TCP reset."""
    transport = http.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Closing with an empty linger time is what makes it a reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    await _hang()


async def _hang() -> NoReturn:
    """Say nothing until the client hangs up or the server stops: both cancel this."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")


async def _cut(http: web.BaseRequest, status: int, headers: Mapping[str, str], body: bytes) -> NoReturn:
    """Promise the whole body, send half of it, close."""
    response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
    await response.prepare(http)
    await response.write(body[: len(body) // 2])
    if http.transport is not None:
        http.transport.close()
    await _hang()


async def _dribble(
    http: web.BaseRequest, status: int, headers: Mapping[str, str], body: bytes, seconds: float
) -> web.StreamResponse:
    """Send the body in small pieces, spread over `seconds`."""
    response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
    await response.prepare(http)
    size = max(1, -(-len(body) // _SLOW_PIECES))
    for start in range(0, len(body), size):
        await asyncio.sleep(seconds / _SLOW_PIECES)
        await response.write(body[start : start + size])
    await response.write_eof()
    return response
