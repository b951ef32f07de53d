"""Can the hosts of a site be found and reached? Lines of dns and connection, host by host. No request is made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from worker.clock import Clock
from worker.gigya.sites import Addressed, Site, url_of
from worker.preflight.lines import Check, Line, State
from worker.preflight.network import Network, NoCaFile, Peer, is_address
from worker.preflight.remedies import remedy_for

HOST_LIMIT_S = 8.0
CERTIFICATE_WARNS_AT_S = 7 * 86_400.0
# Every data centre has it, whatever became of gm and socialize: an SDK sends all methods there.
_CONTROL_PREFIX = "accounts"
_SAYS_NO_SUCH_NAME = frozenset(
    code for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (code := getattr(socket, name, None)) is not None
)
# OpenSSL's X509_V_ERR numbers -> what is wrong, what to do (openssl x509_vfy.h).
_CERTIFICATE_FAULTS = {
    9: ("is not valid yet", "Set this machine's clock (NTP); if it is right, the server's certificate is wrong."),
    10: ("has expired", "Renew it, if the server is yours; else set this machine's clock (NTP)."),
    62: ("is for another name", "Check base_url or data_center: the name must be one of the certificate's."),
    64: ("is for another address", "Use the server's name in base_url: the certificate does not hold the address."),
}
_UNTRUSTED = (
    "is of an authority that this machine does not trust",
    "Set ca_file to the authority's certificate if base_url is your own proxy; if you have none, something in between"
    " breaks TLS open, or this machine's CA certificates are too old.",
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where methods with the same prefix are."""

    name: str
    port: int
    tls: bool


def host_of(site: Site, method: Addressed) -> Host:
    parts = urlsplit(url_of(site, method))
    tls = parts.scheme == "https"
    return Host(parts.hostname or "", parts.port or (443 if tls else 80), tls)


async def host_lines(site: Site, host: Host, *, network: Network, clock: Clock) -> list[Line]:
    """Return the lines of one host; that of the connection says `see dns` where there is no address."""
    part = f"site {site.name}"
    try:
        found = await _resolved(host, network)
    except (OSError, UnicodeError) as error:
        what, remedy = await _no_address(site, host, error, network)
        unreached = Line(part, Check.CONNECTION, host.name, State.NOT_CHECKED, f"see dns {host.name}")
        return [Line(part, Check.DNS, host.name, State.FAILED, what, remedy, "dns_failure"), unreached]
    lines = [Line(part, Check.DNS, host.name, State.OK, found)]
    try:
        async with asyncio.timeout(HOST_LIMIT_S):
            peer = await network.connect(host.name, host.port, tls=host.tls, ca_file=site.ca_file)
    except (OSError, ssl.SSLError) as error:  # TimeoutError is an OSError
        what, remedy, reason = _unreached(host, site.ca_file, error)
        lines.append(Line(part, Check.CONNECTION, host.name, State.FAILED, what, remedy, reason))
    else:
        lines.append(_reached(part, host, peer, clock.now_s()))
    return lines


async def _resolved(host: Host, network: Network) -> str:
    if is_address(host.name):
        return "is an address"
    async with asyncio.timeout(HOST_LIMIT_S):
        addresses = await network.resolve(host.name, host.port)
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return f"{addresses[0]}" + (f" and {len(addresses) - 1} more" if len(addresses) > 1 else "")


async def _no_address(site: Site, host: Host, error: Exception, network: Network) -> tuple[str, str]:
    if isinstance(error, TimeoutError):
        return f"the resolver does not answer within {HOST_LIMIT_S:g} s", "Check the DNS of this machine."
    if isinstance(error, socket.gaierror) and error.errno not in _SAYS_NO_SUCH_NAME:
        return "the resolver of this machine does not answer", "Check the DNS of this machine, and its network."
    if not site.domain:
        return "there is no such name", "Check base_url, and the DNS of this machine."
    control = f"{_CONTROL_PREFIX}.{site.domain}"
    prefix = host.name.partition(".")[0]
    try:
        async with asyncio.timeout(HOST_LIMIT_S):
            await network.resolve(control, host.port)
    except (OSError, UnicodeError):
        remedy = "Check data_center (a short id such as eu1, or its domain), and the DNS of this machine."
        return f"there is no such name, and no {control} either", remedy
    what = f"THE METHODS ARE GONE, as it seems: {host.name} has no address, while {control} has one"
    return what, remedy_for("method_gone", site=site.name, product=f"what {prefix}.* belongs to")


def _unreached(host: Host, ca_file: Path | None, error: Exception) -> tuple[str, str, str]:
    """Return what is wrong, what to do, and the reason that a request would have ended with."""
    at = f"port {host.port}"
    if isinstance(error, NoCaFile):
        remedy = "It must be a readable file with certificates in PEM form."
        return f"ca_file {ca_file} cannot be used", remedy, "tls_failure"
    if isinstance(error, ssl.SSLCertVerificationError):
        what, remedy = _CERTIFICATE_FAULTS.get(error.verify_code, _UNTRUSTED)
        return f"{at}: the certificate {what}", remedy, "tls_failure"
    if isinstance(error, ssl.SSLError):
        remedy = "Check the port of base_url, and proxies in between: what answers there speaks no TLS of ours."
        return f"{at}: the TLS handshake failed", remedy, "tls_failure"
    for kind, reason, what in (
        (TimeoutError, "connect_timeout", f"no connection within {HOST_LIMIT_S:g} s"),
        (ConnectionRefusedError, "connect_refused", "connections are refused"),
        (ConnectionResetError, "connect_failed", "the connection was closed at once"),
    ):
        if isinstance(error, kind):
            return f"{at}: {what}", remedy_for(reason, site=""), reason
    return f"{at}: no connection could be made", remedy_for("connect_failed", site=""), "connect_failed"


def _reached(part: str, host: Host, peer: Peer, now_s: float) -> Line:
    if not host.tls:
        return Line(part, Check.CONNECTION, host.name, State.OK, f"port {host.port}, plain http (loopback)")
    found = ", ".join(_certificate(host, peer))
    if peer.valid_until_s is not None and peer.valid_until_s - now_s < CERTIFICATE_WARNS_AT_S:
        remedy = "Renew the certificate, if the server is yours; Gigya renews its own."
        return Line(part, Check.CONNECTION, host.name, State.WARNING, found, remedy)
    return Line(part, Check.CONNECTION, host.name, State.OK, found)


def _certificate(host: Host, peer: Peer) -> Iterator[str]:
    yield f"port {host.port}"
    yield peer.tls_version or "TLS"
    if peer.valid_until_s is not None:
        yield f"certificate valid until {datetime.fromtimestamp(peer.valid_until_s, UTC):%Y-%m-%d}"
