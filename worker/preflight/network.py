"""Has the host an address, does something answer there, and may its certificate be trusted? I/O only: no request."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Peer:
    """Who answered. Empty and None without TLS."""

    tls_version: str = ""
    valid_until_s: float | None = None  # Unix time


class Network(Protocol):
    """What preflight does on the network apart from requests. Each call is bounded by its caller."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host. Raises OSError (socket.gaierror)."""
        ...

    async def connect(self, host: str, port: int, *, tls: bool, ca_file: Path | None) -> Peer:
        """Connect, shake hands, close. Raises OSError, ssl.SSLError among them; NoCaFile for a file that is no good."""
        ...


class NoCaFile(OSError):
    """The file with the certificates to trust cannot be used."""


class SystemNetwork:
    """The machine's own resolver and sockets."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Ask the resolver in a daemon thread: one that hangs must not keep the process from ending."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[str]] = loop.create_future()

        def ask() -> None:
            found: list[str] = []
            error: OSError | None = None
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(info[4][0]) for info in infos))
            except OSError as failed:
                error = failed
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle, found, error)

        def settle(found: list[str], error: OSError | None) -> None:
            if answered.done():
                return
            if error is not None:
                answered.set_exception(error)
            else:
                answered.set_result(found)

        threading.Thread(target=ask, name=f"resolve-{host}", daemon=True).start()
        return await answered

    async def connect(self, host: str, port: int, *, tls: bool, ca_file: Path | None) -> Peer:
        context = _context(ca_file) if tls else None
        _, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            return _peer(writer.get_extra_info("ssl_object"))
        finally:
            writer.transport.abort()  # nothing was sent, and nobody waits for a goodbye


def is_address(host: str) -> bool:
    """Tell whether a host is an address already, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (ssl.SSLError, OSError) as error:
        raise NoCaFile(f"{ca_file}") from error


def _peer(session: ssl.SSLObject | None) -> Peer:
    if session is None:
        return Peer()
    end = (session.getpeercert() or {}).get("notAfter")
    valid_until_s = float(ssl.cert_time_to_seconds(end)) if isinstance(end, str) else None
    return Peer(session.version() or "", valid_until_s)
