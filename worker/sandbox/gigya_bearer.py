"""Is this bearer token good? Checked by hand, segment by segment, without a line of the worker's own.

Pure. The rules are gigya-api 1.5: RS256, `kid` = user key, claims `iat` (seconds) and `jti`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from worker.sandbox.gigya_answers import Refusal
from worker.sandbox.gigya_keys import public_key_of

BAD_HEADER = 400008
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it arrived; nothing in it is proved before `verify`."""

    user_key: str
    issued_s: int
    jti: str
    signed: bytes
    signature: bytes

    def verify(self, public_keys: Iterable[str]) -> None:
        """Raise Refusal unless one of the keys (PEM) has signed this."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        for pem in public_keys:
            try:
                public_key_of(pem).verify(self.signature, self.signed, PKCS1v15(), SHA256())
            except InvalidSignature:
                continue
            return
        raise _refused("the signature does not fit the user key's public key")


def read_token(authorization: str) -> Token:
    """Return the token of an Authorization header. Raises Refusal for what is no RS256 token with all it needs."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise _refused("only bearer tokens are accepted")
    parts = token.strip().split(".")
    if len(parts) != 3:
        raise _refused("a token has three segments")
    header, claims = _document(parts[0]), _document(parts[1])
    if header.get("alg") != "RS256" or header.get("typ") != "JWT":
        raise _refused("alg must be RS256, typ JWT")
    user_key, issued_s, jti = header.get("kid"), claims.get("iat"), claims.get("jti")
    if not isinstance(user_key, str) or not user_key:
        raise _refused("kid must be the user key")
    if not isinstance(issued_s, int) or isinstance(issued_s, bool):
        raise _refused("iat must be a whole number of seconds")
    if not isinstance(jti, str) or not jti:
        raise _refused("jti is missing")
    return Token(user_key, issued_s, jti, f"{parts[0]}.{parts[1]}".encode(), _bytes(parts[2]))


def jti_of(authorization: str) -> str:
    """Return the jti that a header claims, for the ledger; empty where there is none."""
    try:
        return read_token(authorization).jti
    except Refusal:
        return ""


def user_key_of(authorization: str) -> str:
    """Return the user key that a header claims; empty where there is none."""
    try:
        return read_token(authorization).user_key
    except Refusal:
        return ""


def _document(segment: str) -> dict[str, object]:
    try:
        document: object = orjson.loads(_bytes(segment))
    except orjson.JSONDecodeError:
        raise _refused("a segment holds no JSON") from None
    if not isinstance(document, dict):
        raise _refused("a segment holds no JSON object")
    return document


def _bytes(segment: str) -> bytes:
    if not _SEGMENT.fullmatch(segment):
        raise _refused("a segment is not base64url without padding")
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise _refused("a segment is not base64url without padding") from None


def _refused(why: str) -> Refusal:
    return Refusal(BAD_HEADER, f"Invalid authentication header : {why}")
