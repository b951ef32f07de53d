"""What each mode sends, and what none of them shows."""

from __future__ import annotations

import base64
import json
import pickle
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from worker.gigya.authorization import (
    AnyCredentials,
    Authorized,
    JwtCredentials,
    SecretCredentials,
    authorized,
    bearer_token,
    mark_key,
)
from worker.gigya.signing import Credentials, decode_secret, signed_form

URL = "https://gm.eu1.gigya.com/gm.notifyAction"
PARAMS = {"UID": "u/1 é", "action": "watched", "context": '{"eventId":"e+1"}'}
SECRET = "bm90LWEtcmVhbC1zaXRlLXNlY3JldC0wMTIzNDU2Nzg5"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SIGNED = Credentials("3_key", "AKuser", decode_secret(SECRET))
WITH_SECRET = SecretCredentials("3_key", "AKuser", SECRET)
JWT = JwtCredentials.of("3_key", "AKuser", PEM)
ALL: list[AnyCredentials] = [SIGNED, WITH_SECRET, JWT]


def made(credentials: AnyCredentials, nonce: str = "n1", **more: str) -> Authorized:
    return authorized(URL, {**PARAMS, **more}, credentials, now_s=1_700_000_000.9, nonce=nonce)


def form(request: Authorized) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


def decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def test_mode_signed_sends_a_signature_and_no_header() -> None:
    request = made(SIGNED)
    assert request.authorization == ""
    assert request.body == signed_form(URL, PARAMS, SIGNED, now_s=1_700_000_000.9, nonce="n1")


def test_mode_secret_sends_the_secret_and_neither_time_nor_nonce() -> None:
    request = made(WITH_SECRET)
    own = {"apiKey": "3_key", "userKey": "AKuser", "secret": SECRET, "format": "json", "httpStatusCodes": "false"}
    assert form(request) == {**PARAMS, **own}
    assert request.authorization == ""


def test_mode_jwt_sends_the_site_in_the_body_and_the_rest_in_a_header() -> None:
    request = made(JWT)
    assert form(request) == {**PARAMS, "apiKey": "3_key", "format": "json", "httpStatusCodes": "false"}
    scheme, _, token = request.authorization.partition(" ")
    header, claims, signature = token.split(".")
    assert scheme == "Bearer"
    assert json.loads(decoded(header)) == {"alg": "RS256", "typ": "JWT", "kid": "AKuser"}
    assert json.loads(decoded(claims)) == {"iat": 1_700_000_000, "jti": "n1"}
    KEY.public_key().verify(decoded(signature), f"{header}.{claims}".encode(), padding.PKCS1v15(), SHA256())
    assert "=" not in token
    assert token.isascii()


def test_each_token_is_for_one_request() -> None:
    assert made(JWT, "n1").authorization != made(JWT, "n2").authorization


@pytest.mark.parametrize("credentials", ALL)
@pytest.mark.parametrize("name", ["apiKey", "userKey", "sig", "timestamp", "nonce", "format"])
def test_no_parameter_of_a_call_replaces_what_the_worker_sends(name: str, credentials: AnyCredentials) -> None:
    request = authorized(URL, {**PARAMS, name: "forged"}, credentials, now_s=1_700_000_000, nonce="n1")
    assert form(request).get(name) != "forged"


@pytest.mark.parametrize("credentials", ALL)
def test_nothing_of_a_key_is_shown(credentials: AnyCredentials) -> None:
    request = made(credentials)
    lines = [line for line in PEM.splitlines() if "-----" not in line]
    hidden = [SECRET, "AKuser", "3_key", *lines, request.body.decode(), str(decode_secret(SECRET))]
    for text in (repr(credentials), str(credentials), repr(request), str(request), f"{[credentials]}"):
        assert not [secret for secret in hidden if secret in text]
        assert not request.authorization or request.authorization[7:40] not in text


def test_a_private_key_does_not_travel_between_processes() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(JWT)


def test_two_readings_of_one_key_are_equal_and_other_keys_are_not() -> None:
    again = JwtCredentials.of("3_key", "AKuser", PEM.replace("\n", "\\n"))
    assert again == JWT
    assert hash(again) == hash(JWT)
    assert JwtCredentials.of("3_key", "AKother", PEM) != JWT
    assert JWT != SIGNED
    assert len({mark_key(each) for each in ALL}) == 3


def test_a_token_s_second_is_the_whole_one_before_it() -> None:
    _, claims, _ = bearer_token(JWT, now_s=1.999, jti="j").split(".")
    assert json.loads(decoded(claims))["iat"] == 1
