"""Does the local Gigya accept what the vendor's SDKs sign, and nothing else?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sandbox.gigya_client import NOW_S, Answered, Client, base_string, serve
from worker.sandbox.gigya import GigyaConfig
from worker.sandbox.gigya_config import Key, Site
from worker.sandbox.gigya_signature import Malformed, decode, encode, parse_parameters
from worker.sandbox.gigya_signature import base_string as rebuilt

_FILE = Path(__file__).parents[1] / "gigya" / "signature-vectors.json"
_METHODS = ("/gm.notifyAction", "/socialize.publishUserAction")
VECTORS = [vector for vector in json.loads(_FILE.read_text()) if urlsplit(vector["url"]).path in _METHODS]


def vector_config(vector: dict[str, Any]) -> GigyaConfig:
    key = Key(secrets=(vector["secret"],))
    site = Site(api_key=vector["params"]["apiKey"], keys={"AKtestUserKey": key}, partner_secret=vector["secret"])
    window = None if vector["id"] == "timestamp-ms" else 120.0
    return GigyaConfig(
        sites={"main": site}, timestamp_window_s=window, strict_context=False, trust_forwarded_proto=True
    )


async def send_vector(client: Client, vector: dict[str, Any], params: dict[str, str]) -> Answered:
    """Send a vector as a TLS proxy would pass it on: the client's own Host header and scheme."""
    parts = urlsplit(vector["url"])
    headers = {"Host": parts.netloc, "X-Forwarded-Proto": parts.scheme}
    return await client.send(parts.path.lstrip("/"), params, vector["method"], headers)


def test_the_vectors_of_both_methods_are_here() -> None:
    assert len(VECTORS) >= 31


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
async def test_every_vector_is_accepted_over_http(vector: dict[str, Any]) -> None:
    async with serve(vector_config(vector)) as client:
        answer = await send_vector(client, vector, {**vector["params"], "sig": vector["signature"]})
        assert answer.code == 0, answer.body
        assert client.gigya.ledger.executed[0].uid == vector["params"]["UID"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
async def test_every_vector_with_one_byte_changed_is_refused_with_the_right_base_string(vector: dict[str, Any]) -> None:
    params, sig = vector["params"], vector["signature"]
    async with serve(vector_config(vector)) as client:
        other_sig = ("A" if sig[0] != "A" else "B") + sig[1:]
        answer = await send_vector(client, vector, {**params, "sig": other_sig})
        assert (answer.code, answer.json["baseString"]) == (403003, vector["base_string"])
        assert answer.json["expectedSignature"] == sig
        for name in [name for name in params if name not in ("apiKey", "userKey") and params[name]]:
            last = "x" if params[name][-1] != "x" else "y"
            changed = {**params, name: params[name][:-1] + last}
            answer = await send_vector(client, vector, {**changed, "sig": sig})
            if name == "format":
                assert b"<errorCode>403003</errorCode>" in answer.body
                continue
            assert answer.code == 403003, name
            assert answer.json["baseString"] == base_string(vector["method"], vector["url"], changed)
        assert client.gigya.ledger.executed_total == 0


@given(st.text())
def test_what_is_encoded_here_is_what_the_standard_library_encodes(value: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in value):
        return
    assert encode(value) == quote(value, safe="-._~")
    assert decode(encode(value).encode()) == value


@given(st.dictionaries(st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_the_base_string_is_the_same_as_the_standard_librarys(params: dict[str, str]) -> None:
    ours = rebuilt("POST", "https", "GM.us1.gigya.com:443", "/gm.notifyAction", params)
    assert ours == base_string("post", "https://gm.us1.gigya.com/gm.notifyAction", params)


@pytest.mark.parametrize(
    ("scheme", "host", "authority"),
    [
        ("http", "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http", "LOCALHOST:80", "http://localhost"),
        ("HTTPS", "gm.eu1.gigya.com:443", "https://gm.eu1.gigya.com"),
        ("https", "gm.eu1.gigya.com:80", "https://gm.eu1.gigya.com:80"),
        ("https", "gm.eu1.gigya.com", "https://gm.eu1.gigya.com"),
        ("http", "[::1]:8080", "http://[::1]:8080"),
        ("http", "[::1]", "http://[::1]"),
    ],
)
def test_only_the_schemes_own_port_is_dropped(scheme: str, host: str, authority: str) -> None:
    assert rebuilt("GET", scheme, host, "/Path", {}) == f"GET&{quote(authority + '/Path', safe='-._~')}&"


@pytest.mark.parametrize("body", [b"a=%zz", b"a=%f", b"a=%", b"a=%ff", b"a=1&a=2", b"%41=1&A=2"])
def test_a_form_that_cannot_be_read_one_way_only_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_parameters(b"", body)


def test_query_and_body_count_the_same() -> None:
    assert parse_parameters(b"b=x+y&c", b"a=%C3%A9%2b") == {"a": "é+", "b": "x y", "c": ""}


async def test_a_request_that_cannot_be_read_is_answered_with_400001() -> None:
    async with serve(GigyaConfig()) as client:
        answer = await client._request("POST", f"{client.gigya.base_url}/gm.notifyAction?a=%zz", b"", {})
        assert answer.code == 400001


def test_the_clock_of_these_vectors_stands_at_their_timestamp() -> None:
    assert {vector["params"]["timestamp"] for vector in VECTORS} == {f"{NOW_S:.0f}", f"{NOW_S:.0f}000"}


def test_the_local_gigya_shares_no_code_with_the_worker() -> None:
    room = Path(__file__).parents[2] / "worker" / "sandbox"
    for file in room.glob("gigya*.py"):
        imported = re.findall(r"^\s*(?:from|import) (worker[\w.]*)", file.read_text(), re.MULTILINE)
        assert all(name.startswith("worker.sandbox.") for name in imported), file.name
