"""Signatures against vectors from elsewhere, and against a second, slow signer that shares nothing with ours.

`signature-vectors.json`: requests with base string and signature. The generated ones were computed with the vendor's
Java SDK 3.6.0, PHP SDK 3.1.0 and Python SDK 3.6.0 (which raises on ports other than the scheme's own) and two
independent implementations, which agree; those whose id starts with `golden` were published in the tests of
SAP/gigya-java-sdk and SAP/gigya-android-sdk.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gigya.signing import (
    Credentials,
    base_string,
    decode_secret,
    first_difference,
    normal_url,
    percent_encode,
    signature,
    signed_form,
)

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "signature-vectors.json").read_text("utf-8"))
SECRET = "bm90LWEtcmVhbC1zaXRlLXNlY3JldC0wMTIzNDU2Nzg5"
URL = "https://gm.eu1.gigya.com/gm.notifyAction"
CREDENTIALS = Credentials("3_key", "AKuser", decode_secret(SECRET))

whole_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keys = st.one_of(
    st.sampled_from(["UID", "action", "points", "_under", "Zeta", "aB", "ab"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
).filter(lambda key: key != "sig")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_base_string_and_signature_are_those_of_the_vendors_sdks(vector: dict[str, Any]) -> None:
    method, url, params = vector["method"], vector["url"], vector["params"]
    assert base_string(method, url, params) == vector["base_string"]
    assert signature(method, url, params, vector["secret"]) == vector["signature"]


def test_the_file_holds_all_vectors() -> None:
    assert len(VECTORS) == 33


# A second signer, written from RFC 2104 and the vendor's description, byte by byte.


def slow_encode(text: str) -> str:
    encoded = ""
    for byte in text.encode("utf-8"):
        if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~":
            encoded += chr(byte)
        else:
            encoded += "%" + "0123456789ABCDEF"[byte // 16] + "0123456789ABCDEF"[byte % 16]
    return encoded


def slow_base_string(verb: str, url_parts: tuple[str, str, int | None, str], params: dict[str, str]) -> str:
    scheme, host, port, path = url_parts
    netloc = host.lower()
    if port is not None and (scheme.lower(), port) not in (("http", 80), ("https", 443)):
        netloc += f":{port}"
    by_bytes = sorted(params, key=lambda key: key.encode("utf-8"))
    joined = "&".join(key + "=" + slow_encode(params[key]) for key in by_bytes)
    url = scheme.lower() + "://" + netloc + path
    return verb.upper() + "&" + slow_encode(url) + "&" + slow_encode(joined)


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def slow_signature(base: str, key: bytes) -> str:
    block = (sha1(key) if len(key) > 64 else key).ljust(64, b"\0")
    inner = sha1(bytes(byte ^ 0x36 for byte in block) + base.encode("utf-8"))
    return base64.b64encode(sha1(bytes(byte ^ 0x5C for byte in block) + inner)).decode()


@given(
    verb=st.sampled_from(["POST", "post", "Get"]),
    scheme=st.sampled_from(["http", "https", "HTTP", "Https"]),
    host=st.sampled_from(["gm.eu1.gigya.com", "GM.US1.Gigya.COM", "localhost", "127.0.0.1", "[::1]", "[FE80::A]"]),
    port=st.one_of(st.none(), st.sampled_from([80, 443, 8080]), st.integers(1, 65535)),
    path=st.sampled_from(["", "/", "/gm.notifyAction", "/Proxy/gm.notifyAction/", "/a%20b;c/~x", "/å"]),
    rest=st.sampled_from(["", "?a=b&c", "#part", "?q#part", "?"]),
    user=st.sampled_from(["", "user@", "user:word@"]),
    params=st.dictionaries(keys, whole_text, max_size=8),
    key=st.binary(min_size=1, max_size=80),
)
def test_any_request_is_signed_as_the_slow_signer_does(
    verb: str,
    scheme: str,
    host: str,
    port: int | None,
    path: str,
    rest: str,
    user: str,
    params: dict[str, str],
    key: bytes,
) -> None:
    url = f"{scheme}://{user}{host}" + (f":{port}" if port is not None else "") + path + rest
    expected = slow_base_string(verb, (scheme, host, port, path), params)
    assert base_string(verb, url, params) == expected
    assert signature(verb, url, params, base64.b64encode(key).decode()) == slow_signature(expected, key)


@given(params=st.dictionaries(keys, whole_text, max_size=8), nonce=whole_text, now_s=st.floats(0, 4e9))
def test_the_fast_form_equals_the_public_functions(params: dict[str, str], nonce: str, now_s: float) -> None:
    body = signed_form(URL, params, CREDENTIALS, now_s=now_s, nonce=nonce)
    received = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True))
    sig = received.pop("sig")
    assert received == params | {
        "apiKey": "3_key",
        "userKey": "AKuser",
        "format": "json",
        "httpStatusCodes": "false",
        "timestamp": str(int(now_s)),
        "nonce": nonce,
    }
    assert sig == signature("POST", URL, received, SECRET)


@pytest.mark.parametrize("port", ["", ":443", ":8443"])
def test_the_fast_form_signs_the_normalised_url(port: str) -> None:
    url = f"https://GM.eu1.gigya.com{port}/gm.notifyAction"
    body = dict(parse_qsl(signed_form(url, {"UID": "u"}, CREDENTIALS, now_s=1, nonce="n").decode()))
    assert body.pop("sig") == signature("POST", url, body, SECRET)


def test_what_the_worker_adds_wins_over_parameters_of_the_same_name() -> None:
    odd = {"UID": "u", "sig": "mine", "apiKey": "mine", "format": "xml", "timestamp": "1"}
    assert signed_form(URL, odd, CREDENTIALS, now_s=5, nonce="n") == signed_form(
        URL, {"UID": "u"}, CREDENTIALS, now_s=5, nonce="n"
    )


def test_a_parameter_that_is_none_or_sig_is_not_signed_and_an_empty_one_is() -> None:
    signed = base_string("POST", URL, {"a": None, "b": "", "sig": "x", "c": "1"})
    assert signed.endswith("&b%3D%26c%3D1")


def test_keys_are_sorted_by_code_point() -> None:
    signed = base_string("POST", "http://h/p", dict.fromkeys(["alpha", "_under", "Zeta", "UID", "aB", "ab", "a"], "1"))
    assert signed.endswith("UID%3D1%26Zeta%3D1%26_under%3D1%26a%3D1%26aB%3D1%26ab%3D1%26alpha%3D1")


@given(whole_text)
def test_percent_encoding_leaves_only_unreserved_characters_and_escapes(text: str) -> None:
    assert percent_encode(text) == slow_encode(text)


@pytest.mark.parametrize(
    "url", ["", "gm.eu1.gigya.com/x", "https:///x", "https://h:99999/x", "https://h:x/y", "https://[::1/x"]
)
def test_a_url_without_a_usable_host_or_port_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError):
        base_string("POST", url, {})


def test_a_port_that_is_empty_or_written_with_zeros_counts_by_its_number() -> None:
    assert normal_url("https://h:/x") == normal_url("https://h:0443/x") == "https://h/x"
    assert normal_url("https://h:08443/x") == "https://h:8443/x"


def test_half_of_a_surrogate_pair_is_a_value_error_in_every_signer() -> None:
    with pytest.raises(ValueError):
        base_string("POST", URL, {"a": "\ud800"})
    with pytest.raises(ValueError):
        signed_form(URL, {"UID": "\ud800"}, CREDENTIALS, now_s=1, nonce="n")


@pytest.mark.parametrize("secret", ["QUJD", "QUI=", "QQ==", "+/+/", " QUJD\n", "asda34asfasfj9fuas=="])
def test_standard_padded_base64_is_a_secret(secret: str) -> None:
    assert decode_secret(secret) == base64.b64decode(secret)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "  \n",
        "QUI",
        "QQ=",
        "QQ",
        "QUJD-_-_",
        "QU JD",
        "QUJD\nQUJD",
        "QUJD=",
        "QQ===",
        "====",
        "Q===",
        "QQ==QQ==",
        "$ecret!!",
        '"QUJD"',
        "QUJD\u00e9QUJ",
        "QUJ\u0660",
    ],
)
def test_anything_else_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_secret(secret)
    assert not secret.strip() or secret.strip() not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.text(min_size=4, max_size=40).filter(lambda text: len(text.strip()) >= 4))
def test_no_text_but_base64_is_a_secret(text: str) -> None:
    try:
        expected = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        with pytest.raises(ValueError) as caught:
            decode_secret(text)
        assert text.strip() not in str(caught.value)
    else:
        assert decode_secret(text) == expected


def test_credentials_show_neither_key_nor_secret() -> None:
    assert "3_key" not in repr(CREDENTIALS)
    assert "AKuser" not in repr(CREDENTIALS)
    assert "secret" not in repr(CREDENTIALS)


@pytest.mark.parametrize(
    ("ours", "theirs", "at"), [("abc", "abc", None), ("abc", "axc", 1), ("ab", "abc", 2), ("", "a", 0)]
)
def test_the_first_difference_of_two_base_strings_is_a_position(ours: str, theirs: str, at: int | None) -> None:
    assert first_difference(ours, theirs) == at
