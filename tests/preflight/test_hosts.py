"""Hosts that cannot be found, reached or trusted: which line says so, and what is to be done."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.preflight.rig import API_KEY, PUBLISH, SECRET, USER_KEY, ask, gigya_config, local_gigya
from worker.clock import ManualClock, SystemClock
from worker.gigya.authorization import JwtCredentials, SecretCredentials
from worker.gigya.calls import GET_ACTION_CONFIG, PUBLISH_USER_ACTION
from worker.gigya.sites import Site
from worker.preflight import hosts
from worker.preflight.hosts import Host, host_lines, host_of
from worker.preflight.lines import Line, State
from worker.preflight.network import NoCaFile, Peer, SystemNetwork
from worker.sandbox.certificates import Authority
from worker.sandbox.gigya import LocalGigya

NONAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
EU1 = Site("main", "3_a", domain="eu1.gigya.com")
GM = host_of(EU1, GET_ACTION_CONFIG)


class FakeNetwork:
    """Knows the addresses of some hosts, and ends every connection as it is told."""

    def __init__(self, known: Mapping[str, Sequence[str] | OSError], end: Peer | OSError | None = None) -> None:
        self.known = known
        self.end = end
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self.known.get(host, NONAME)
        if isinstance(found, OSError):
            raise found
        return found

    async def connect(self, host: str, port: int, *, tls: bool, ca_file: Path | None) -> Peer:
        if isinstance(self.end, OSError):
            raise self.end
        if self.end is None:
            await asyncio.Event().wait()
            raise AssertionError
        return self.end


async def told(network: FakeNetwork, site: Site = EU1, host: Host = GM) -> tuple[Line, Line]:
    dns, connection = await host_lines(site, host, network=network, clock=ManualClock(1_800_000_000))
    return dns, connection


def refused_certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code = code
    return error


def test_each_method_has_the_host_of_its_prefix() -> None:
    assert host_of(EU1, PUBLISH_USER_ACTION) == Host("socialize.eu1.gigya.com", 443, tls=True)
    assert host_of(Site("main", "3_a", base_url="http://127.0.0.1:81/x"), GET_ACTION_CONFIG) == Host(
        "127.0.0.1", 81, tls=False
    )


async def test_a_host_that_is_gone_while_its_data_centre_is_there_reads_as_a_retirement() -> None:
    dns, connection = await told(FakeNetwork({"accounts.eu1.gigya.com": ["10.0.0.1"]}))
    assert dns.state is State.FAILED
    assert dns.found.startswith("THE METHODS ARE GONE")
    assert "Ask SAP" in dns.remedy
    assert (connection.state, connection.found) == (State.NOT_CHECKED, "see dns gm.eu1.gigya.com")


async def test_a_data_centre_without_any_host_is_the_wrong_one() -> None:
    dns, _ = await told(FakeNetwork({}))
    assert "data_center" in dns.remedy
    assert "SAP" not in dns.remedy


async def test_a_resolver_that_is_away_is_not_taken_for_a_retirement() -> None:
    network = FakeNetwork({"gm.eu1.gigya.com": socket.gaierror(socket.EAI_AGAIN, "try again")})
    dns, _ = await told(network)
    assert "the resolver of this machine does not answer" in dns.found
    assert network.asked == ["gm.eu1.gigya.com"]


async def test_a_base_url_with_an_unknown_name_is_told_as_such() -> None:
    site = Site("main", "3_a", base_url="https://proxy.example")
    dns, _ = await told(FakeNetwork({}), site, host_of(site, GET_ACTION_CONFIG))
    assert "base_url" in dns.remedy


@pytest.mark.parametrize(
    ("error", "words", "remedy"),
    [
        (refused_certificate(9), "not valid yet", "clock"),
        (refused_certificate(10), "expired", "Renew"),
        (refused_certificate(18), "does not trust", "ca_file"),
        (refused_certificate(20), "does not trust", "ca_file"),
        (refused_certificate(62), "another name", "base_url"),
        (refused_certificate(64), "another address", "name"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "handshake", "port"),
        (ConnectionRefusedError(), "refused", "firewall"),
        (ConnectionResetError(), "closed at once", "firewall"),
        (OSError(113, "no route"), "no connection", "route"),
        (NoCaFile("x"), "cannot be used", "PEM"),
        (TimeoutError(), "within", "firewall"),
    ],
    ids=str,
)
async def test_each_way_not_to_be_reached_has_its_words_and_its_remedy(error: OSError, words: str, remedy: str) -> None:
    dns, connection = await told(FakeNetwork({"gm.eu1.gigya.com": ["10.0.0.1", "10.0.0.2"]}, error))
    assert (dns.state, dns.found) == (State.OK, "10.0.0.1 and 1 more")
    assert connection.state is State.FAILED
    assert words in connection.found
    assert remedy in connection.remedy


@pytest.mark.parametrize(("days", "state"), [(30, State.OK), (5, State.WARNING)])
async def test_a_certificate_that_ends_soon_is_a_warning(days: int, state: State) -> None:
    end_s = 1_800_000_000 + days * 86_400
    _, connection = await told(FakeNetwork({"gm.eu1.gigya.com": ["10.0.0.1"]}, Peer("TLSv1.3", end_s)))
    assert connection.state is state
    assert connection.found.startswith("port 443, TLSv1.3, certificate valid until 2027-0")


async def test_a_host_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HOST_LIMIT_S", 0.05)
    _, connection = await told(FakeNetwork({"gm.eu1.gigya.com": ["10.0.0.1"]}))
    assert connection.reason == "connect_timeout"


async def test_a_resolver_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HOST_LIMIT_S", 0.05)
    is_over = threading.Event()

    def hanging(*_: object, **__: object) -> list[object]:
        is_over.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    dns, _ = await host_lines(EU1, GM, network=SystemNetwork(), clock=SystemClock())
    is_over.set()
    assert "does not answer within" in dns.found


async def test_a_name_that_does_not_exist_is_told_by_the_real_resolver_too() -> None:
    with pytest.raises(OSError):
        await SystemNetwork().resolve("no-such-host.invalid", 443)


# --- with TLS, against a server -------------------------------------------------------------------------------------


@asynccontextmanager
async def over_tls(authority: Authority, *names: str, days: float = 365, **config: object) -> AsyncIterator[LocalGigya]:
    import tempfile

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(authority.issue("gigya", hosts=names, days=days))
        file.flush()
        context.load_cert_chain(file.name)
    gigya = LocalGigya(gigya_config(**config))
    await gigya.start(tls=context)
    try:
        yield gigya
    finally:
        await gigya.stop()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    return file


async def test_a_server_of_the_given_authority_is_trusted(authority: Authority, ca_file: Path) -> None:
    async with over_tls(authority, "127.0.0.1") as gigya:
        found = await ask(gigya, ca_file=ca_file)
    assert found.troubled() == {}
    assert "TLSv1" in found["connection"].found
    assert "certificate valid until 20" in found["connection"].found


@pytest.mark.parametrize("offset_s", [0.0, 3600.0])
@pytest.mark.parametrize("mode", ["secret", "jwt"])
async def test_every_mode_is_examined_a_wrong_clock_included(
    authority: Authority, ca_file: Path, mode: str, offset_s: float
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    credentials = SecretCredentials(API_KEY, USER_KEY, SECRET)
    chosen = credentials if mode == "secret" else JwtCredentials.of(API_KEY, USER_KEY, pem)
    keys = {USER_KEY: {"secrets": [SECRET], "public_keys": [public]}}
    async with over_tls(authority, "127.0.0.1", keys=keys, clock_offset_s=offset_s) as gigya:
        found = await ask(gigya, ca_file=ca_file, credentials=chosen)
        assert gigya.ledger.stats()["executed"] == 0
    assert found.troubled() == ({"clock": State.FAILED} if offset_s else {})


@pytest.mark.parametrize(
    ("names", "days", "trusts", "words"),
    [
        (["127.0.0.1"], 365, False, "does not trust"),
        (["other.example"], 365, True, "another address"),
        (["127.0.0.1"], -1, True, "expired"),
    ],
)
async def test_a_server_that_cannot_be_trusted_is_not_asked_anything(
    authority: Authority, ca_file: Path, names: list[str], days: float, trusts: bool, words: str
) -> None:
    changes = {"ca_file": ca_file} if trusts else {}
    async with over_tls(authority, *names, days=days) as gigya:
        found = await ask(gigya, **changes)
        assert gigya.ledger.stats()["arrivals"] == 0
    assert found.troubled() == {"connection 127.0.0.1": State.FAILED}
    assert words in found["connection"].found
    assert found["connection"].reason == "tls_failure"
    assert {line.found.partition(";")[0] for line in found.lines if line.state is State.NOT_CHECKED} == {
        "see connection 127.0.0.1"
    }


async def test_plain_http_behind_https_is_a_failed_handshake() -> None:
    async with local_gigya() as gigya:
        found = await ask(gigya, base_url=gigya.base_url.replace("http:", "https:"))
    assert found.troubled() == {"connection 127.0.0.1": State.FAILED}
    assert "handshake" in found["connection"].found


async def test_a_port_where_nobody_listens_is_a_failed_connection() -> None:
    async with local_gigya() as gigya:
        pass
    found = await ask(gigya)
    assert found.troubled() == {"connection 127.0.0.1": State.FAILED}
    assert found["connection"].reason == "connect_refused"


# --- a site with hosts of its own for each prefix -------------------------------------------------------------------


async def test_one_host_that_is_gone_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gm host is gone, and the site only publishes: a warning, and the publishing host is asked nevertheless."""
    monkeypatch.setattr("worker.preflight.examination.host_of", _local_or_gone)
    async with local_gigya() as gigya:
        _local_or_gone.base = host_of(Site("m", "3", base_url=gigya.base_url), GET_ACTION_CONFIG)
        publishing = await ask(gigya, PUBLISH, network=_OnlyLocal())
        both = await ask(gigya, network=_OnlyLocal())
    assert publishing.troubled() == {"dns gm.gone.invalid": State.WARNING, "credentials": State.WARNING}
    assert "No rule of this site needs it" in publishing["dns gm.gone.invalid"].remedy
    assert publishing["method socialize.publishUserAction"].state is State.OK
    assert publishing["credentials"].found.startswith("nothing has proved them")
    assert both.troubled() == {"dns gm.gone.invalid": State.FAILED}
    assert both["method gm.notifyAction"].found == "see dns gm.gone.invalid"
    assert both["action watched_episode"].found.startswith("see dns gm.gone.invalid")


def _local_or_gone(site: Site, method: object) -> Host:
    prefix = getattr(method, "host_prefix", "")
    return Host("gm.gone.invalid", 443, tls=True) if prefix == "gm" else _local_or_gone.base  # type: ignore[attr-defined]


class _OnlyLocal(SystemNetwork):
    async def resolve(self, host: str, port: int) -> Sequence[str]:
        raise NONAME
