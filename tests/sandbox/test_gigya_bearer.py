"""Bearer tokens at the local Gigya, made here by hand: neither its own code nor the worker's has a part in them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.sandbox.gigya_client import API_KEY, NOW_S, USER_KEY, Answered, Client, config, serve
from worker.sandbox.gigya_config import Nonces

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TLS = {"X-Forwarded-Proto": "https"}
HEADER = {"alg": "RS256", "typ": "JWT", "kid": USER_KEY}
CLAIMS = {"iat": int(NOW_S), "jti": "j1"}


def public_pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def segment(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def token(header: Any = HEADER, claims: Any = CLAIMS, key: rsa.RSAPrivateKey = KEY) -> str:
    signed = f"{segment(header)}.{segment(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@asynccontextmanager
async def door(**more: Any) -> AsyncIterator[Client]:
    """Serve a site whose user key has a key pair, behind what looks like TLS."""
    async with serve(config(trust_forwarded_proto=True, **more)) as client:
        client.gigya.configure_site("main", {"keys": {USER_KEY: {"public_keys": [public_pem(KEY)]}}})
        yield client


async def notify(client: Client, bearer: str, headers: Mapping[str, str] = TLS) -> Answered:
    params = {"apiKey": API_KEY, "format": "json", "UID": "u", "action": "a"}
    return await client.send("gm.notifyAction", params, headers={"Authorization": bearer, **headers})


async def test_a_token_of_the_user_keys_own_key_pair_is_accepted_once() -> None:
    async with door() as client:
        assert (await notify(client, f"Bearer {token()}")).code == 0
        assert (await notify(client, f"Bearer {token()}")).code == 400008
        assert (await notify(client, f"Bearer {token(claims={**CLAIMS, 'jti': 'j2'})}")).code == 0
        assert [entry.nonce for entry in client.gigya.ledger.executed] == ["j1", "j2"]


async def test_the_code_of_a_second_use_can_be_chosen() -> None:
    async with door(nonces=Nonces(reused_jti_code=403004)) as client:
        await notify(client, f"Bearer {token()}")
        assert (await notify(client, f"Bearer {token()}")).code == 403004


async def test_a_token_that_came_unencrypted_is_refused() -> None:
    async with door() as client:
        assert (await notify(client, f"Bearer {token()}", {})).code == 400001
        assert (await notify(client, f"Bearer {token()}")).code == 0  # and was not burnt


@pytest.mark.parametrize(
    ("bearer", "code"),
    [
        ("Bearer x.y.z", 400008),
        ("Bearer ", 400008),
        ("Basic abc", 400008),
        (f"Bearer {token()}.x", 400008),
        (f"Bearer {token()[:-4]}AAAA", 400008),
        (f"Bearer {token()}==", 400008),
        (f"Bearer {token(key=OTHER_KEY)}", 400008),
        (f"Bearer {token({**HEADER, 'alg': 'none'})}", 400008),
        (f"Bearer {token({**HEADER, 'alg': 'HS256'})}", 400008),
        (f"Bearer {token({'alg': 'RS256', 'typ': 'JWT'})}", 400008),
        (f"Bearer {token([1])}", 400008),
        (f"Bearer {token(claims={'iat': int(NOW_S)})}", 400008),
        (f"Bearer {token(claims={'jti': 'j'})}", 400008),
        (f"Bearer {token(claims={'iat': NOW_S + 0.5, 'jti': 'j'})}", 400008),
        (f"Bearer {token(claims={'iat': int(NOW_S) - 121, 'jti': 'j'})}", 403002),
        (f"Bearer {token(claims={'iat': int(NOW_S) + 121, 'jti': 'j'})}", 403002),
        (f"Bearer {token({**HEADER, 'kid': 'AKnobody'})}", 403005),
        (f"bearer {token()}", 0),
    ],
)
async def test_which_tokens_are_refused(bearer: str, code: int) -> None:
    async with door() as client:
        answer = await notify(client, bearer)
        assert answer.code == code, answer.body


async def test_in_a_rotation_both_key_pairs_are_good_and_then_the_new_one_alone() -> None:
    async with door() as client:
        keys = {USER_KEY: {"public_keys": [public_pem(OTHER_KEY), public_pem(KEY)]}}
        client.gigya.configure_site("main", {"keys": keys})
        assert (await notify(client, f"Bearer {token(key=KEY)}")).code == 0
        assert (await notify(client, f"Bearer {token(claims={**CLAIMS, 'jti': 'j2'}, key=OTHER_KEY)}")).code == 0
        client.gigya.configure_site("main", {"keys": {USER_KEY: {"public_keys": [public_pem(OTHER_KEY)]}}})
        assert (await notify(client, f"Bearer {token(claims={**CLAIMS, 'jti': 'j3'}, key=KEY)}")).code == 400008


async def test_a_revoked_user_key_opens_nothing() -> None:
    async with door() as client:
        client.gigya.revoke("main", USER_KEY, 403005)
        assert (await notify(client, f"Bearer {token()}")).code == 403005


async def test_a_user_key_without_a_secret_takes_no_signature() -> None:
    async with door() as client:
        client.gigya.configure_site("main", {"keys": {USER_KEY: {"secrets": []}}})
        assert (await client.notify()).code == 403003
        assert (await notify(client, f"Bearer {token()}")).code == 0
