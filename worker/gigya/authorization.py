"""How a request proves who sends it: three modes, one way to ask for each. Pure: time and nonce are arguments.

*signed*: a signature over all parameters; the secret never leaves the process. *secret*: the secret itself goes along;
HTTPS only. *jwt*: a bearer token, signed with a private key whose public half Gigya has; HTTPS only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from worker.gigya.private_key import read_private_key
from worker.gigya.signing import Credentials, percent_encode, signed_form

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authorized:
    """A request that proves who sends it: the urlencoded body of a POST, and its Authorization header ("" = none).

    Both may hold what is as good as a password: `repr` shows neither.
    """

    body: bytes = field(repr=False)
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SecretCredentials:
    """Mode *secret*: user key and secret go along with each request. `repr` shows nothing."""

    api_key: str = field(repr=False)
    user_key: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class JwtCredentials:
    """Mode *jwt*: a user key and the private key that goes with it, parsed once. `repr` shows nothing."""

    api_key: str = field(repr=False)
    user_key: str = field(repr=False)
    private_key: RSAPrivateKey = field(repr=False)
    fingerprint: bytes = field(repr=False)  # SHA-256 of the private key: tells two apart, and keys the marks of users

    @classmethod
    def of(cls, api_key: str, user_key: str, pem: str) -> JwtCredentials:
        """Raises ValueError as `read_private_key` does."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = read_private_key(pem)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return cls(api_key, user_key, key, hashlib.sha256(der).digest())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JwtCredentials):
            return NotImplemented
        ours = (self.api_key, self.user_key, self.fingerprint)
        return ours == (other.api_key, other.user_key, other.fingerprint)

    def __hash__(self) -> int:
        return hash((self.api_key, self.user_key, self.fingerprint))


AnyCredentials: TypeAlias = Credentials | SecretCredentials | JwtCredentials


def authorized(
    url: str, params: Mapping[str, str], credentials: AnyCredentials, *, now_s: float, nonce: str
) -> Authorized:
    """Return `params` as a request that the site accepts from us.

    `now_s` is Unix time by the *site's* clock, sent in whole seconds (not in mode secret). `nonce` must be new with
    every request: it is the nonce of a signature, the `jti` of a token, and not used in mode secret.
    """
    match credentials:
        case Credentials():
            return Authorized(signed_form(url, params, credentials, now_s=now_s, nonce=nonce))
        case SecretCredentials():
            own = {"userKey": credentials.user_key, "secret": credentials.secret}
            return Authorized(_form(params, credentials.api_key, own))
        case JwtCredentials():
            return Authorized(
                _form(params, credentials.api_key, {}), f"Bearer {bearer_token(credentials, now_s=now_s, jti=nonce)}"
            )


def bearer_token(credentials: JwtCredentials, *, now_s: float, jti: str) -> str:
    """Return a token for one request: RS256, `kid` = user key, claims `iat` (whole seconds) and `jti`; no others.

    The `jti` makes it good for one request only, so none is kept: signing with 2048 bits takes 0.4 ms of CPU.
    """
    import jwt  # with its cryptography some 60 ms, which only this mode is to pay

    return jwt.encode(
        {"iat": int(now_s), "jti": jti},
        credentials.private_key,
        algorithm="RS256",
        headers={"kid": credentials.user_key},
    )


def mark_key(credentials: AnyCredentials) -> bytes:
    """Return bytes that only who has the credentials can know: what keys the marks of users in logs."""
    match credentials:
        case Credentials():
            return credentials.secret_key
        case SecretCredentials():
            return credentials.secret.encode()
        case JwtCredentials():
            return credentials.fingerprint


# What only the worker sets, whatever the mode: a parameter of a call that is named so is left out.
_RESERVED = frozenset(("apiKey", "userKey", "secret", "sig", "timestamp", "nonce", "oauth_token"))


def _form(params: Mapping[str, str], api_key: str, own: Mapping[str, str]) -> bytes:
    business = {key: value for key, value in params.items() if key not in _RESERVED}
    fields = {**business, "apiKey": api_key, "format": "json", "httpStatusCodes": "false", **own}
    return "&".join([f"{percent_encode(key)}={percent_encode(value)}" for key, value in fields.items()]).encode("ascii")
