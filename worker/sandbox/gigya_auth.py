"""May this request be served? One function for each way to prove who is calling.

Pure but for the nonce memory. A further way is one more entry of MODES.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from worker.sandbox.gigya_answers import Refusal
from worker.sandbox.gigya_bearer import BAD_HEADER, jti_of, read_token, user_key_of
from worker.sandbox.gigya_config import Nonces, decode_secret
from worker.sandbox.gigya_parameters import Parameters
from worker.sandbox.gigya_signature import base_string, sign
from worker.sandbox.gigya_site import NonceMemory, SiteState


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it arrived."""

    verb: str
    scheme: str
    host: str  # the Host header, port included
    path: str  # without the query
    params: Parameters
    authorization: str  # the header; empty without one
    ip: str

    @property
    def method(self) -> str:
        return self.path.lstrip("/")

    @property
    def uid(self) -> str:
        return self.params.get("UID") or ""

    @property
    def nonce(self) -> str:
        """Return what makes the request unique: the nonce of a signature, or the jti of a bearer token."""
        return self.params.get("nonce") or (jti_of(self.authorization) if self.authorization else "")

    @property
    def user_key(self) -> str:
        """Return the user key that the request names, proved or not."""
        return self.params.get("userKey") or (user_key_of(self.authorization) if self.authorization else "")

    def base_string(self) -> str:
        """Return what a client that signs must have signed."""
        return base_string(self.verb, self.scheme, self.host, self.path, self.params.sent)


@dataclass(frozen=True, slots=True)
class Door:
    """What the server knows when a request stands before it."""

    now_s: float
    elapsed_s: float
    window_s: float | None
    nonces: Nonces
    memory: NonceMemory


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller who has proved who he is; where nonces are burnt after refusals, checking and burning are to come."""

    nonce_scope: str | None = None
    nonce: str = ""
    repeated: Refusal | None = None  # what a nonce that is known by now is answered with

    def check(self, door: Door) -> None:
        """Raise Refusal when the nonce is known by now."""
        if self.nonce_scope is None:
            return
        if door.memory.knows(self.nonce_scope, self.nonce, door.nonces, door.elapsed_s):
            raise self.repeated or Refusal(403004, "Duplicate nonce")

    def burn(self, door: Door) -> None:
        """Remember the nonce."""
        if self.nonce_scope is not None:
            door.memory.burn(self.nonce_scope, self.nonce, door.nonces, door.elapsed_s)


def authenticate(incoming: Incoming, site: SiteState, door: Door) -> Admission:
    """Return what proves the caller. Raises Refusal.

    Where nonces are burnt before refusals, this one is burnt when the call returns.
    """
    for applies, check in MODES:
        if applies(incoming):
            return check(incoming, site, door)
    # What carries no credentials counts as a call from a browser (gigya-api 3).
    raise Refusal(403015, "Missing referrer : the request carries no credentials")


def _signed(incoming: Incoming, site: SiteState, door: Door) -> Admission:
    """Check signature, then timestamp, then nonce (gigya-api 1.2 and 1.4)."""
    params = incoming.params
    for name in ("sig", "timestamp", "nonce"):
        params.need(name)
    user_key = params.get("userKey")
    base = incoming.base_string()
    secrets = _secrets(site, user_key)
    revoked_with = site.revoked_with(user_key) if user_key else None
    expected = [sign(base, secret) for secret in secrets]
    if revoked_with == 403003:
        raise replaced_secret_refusal(incoming, secrets[0] if secrets else b"")
    if revoked_with is not None:
        raise Refusal(revoked_with, "the user key was revoked")
    if (params.get("sig") or "") not in expected:
        raise signature_refusal(base, expected[0] if expected else "")
    _check_timestamp(params.get("timestamp") or "", door)
    scope = {"key": f"{site.name}/{user_key}", "site": site.name, "server": ""}[door.nonces.scope]
    return _once(Admission(scope, incoming.nonce), door)


def _once(admission: Admission, door: Door) -> Admission:
    """Refuse a nonce that is known, and burn it now if it is to be burnt before refusals."""
    admission.check(door)
    if door.nonces.burnt == "before_refusals":
        admission.burn(door)
        return Admission()
    return admission


def _secrets(site: SiteState, user_key: str | None) -> tuple[bytes, ...]:
    if user_key:
        return site.accepted_secrets(user_key)
    if site.settings.partner_secret is None:
        raise Refusal(400002, "Missing required parameter : userKey")
    return (decode_secret(site.settings.partner_secret),)


def _check_timestamp(text: str, door: Door) -> None:
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400004, "Invalid parameter format : timestamp")
    if door.window_s is not None and abs(int(text) - door.now_s) > door.window_s:
        raise Refusal(403002, "Request has expired : the timestamp is too far from the server's time")


def signature_refusal(base: str, expected: str) -> Refusal:
    """Return 403003 as the real server words it, with its own base string (gigya-api 1.7)."""
    return Refusal(403003, "Invalid request signature", baseString=base, expectedSignature=expected)


def replaced_secret_refusal(incoming: Incoming, secret_key: bytes) -> Refusal:
    """Return the 403003 of a secret that was replaced: the server expects what the old one cannot give."""
    base = incoming.base_string()
    return signature_refusal(base, sign(base, b"replaced" + secret_key))


def _secret(incoming: Incoming, site: SiteState, door: Door) -> Admission:
    """Check a secret that was sent along: over TLS only."""
    if incoming.scheme != "https":
        raise Refusal(403006, "Secret was sent over HTTP")
    user_key = incoming.params.need("userKey")
    site.accepted_secrets(user_key)  # refuses an unknown key
    revoked_with = site.revoked_with(user_key)
    if revoked_with is not None:
        raise Refusal(403010 if revoked_with == 403003 else revoked_with, "the user key was revoked")
    sent = (incoming.params.get("secret") or "").encode()
    if not any(hmac.compare_digest(sent, secret.encode()) for secret in site.settings.keys[user_key].secrets):
        raise Refusal(403010, "Invalid secret")
    return Admission()


def _bearer(incoming: Incoming, site: SiteState, door: Door) -> Admission:
    """Check a bearer token: over TLS, signed by a key pair of its user key, in time, and new (gigya-api 1.5)."""
    if incoming.scheme != "https":
        raise Refusal(400001, "Invalid request format : bearer tokens need HTTPS")
    token = read_token(incoming.authorization)
    site.accepted_secrets(token.user_key)  # refuses an unknown key
    revoked_with = site.revoked_with(token.user_key)
    if revoked_with is not None:
        raise Refusal(BAD_HEADER if revoked_with == 403003 else revoked_with, "the user key was revoked")
    token.verify(site.settings.keys[token.user_key].public_keys)
    _check_timestamp(str(token.issued_s), door)
    scope = {"key": f"{site.name}/{token.user_key}", "site": site.name, "server": ""}[door.nonces.scope]
    repeated = Refusal(door.nonces.reused_jti_code, "Invalid authentication header : the jti was used before")
    return _once(Admission(f"jti {scope}", token.jti, repeated), door)


MODES: tuple[tuple[Callable[[Incoming], bool], Callable[[Incoming, SiteState, Door], Admission]], ...] = (
    (lambda incoming: bool(incoming.authorization), _bearer),
    (lambda incoming: incoming.params.get("secret") is not None, _secret),
    (lambda incoming: incoming.params.get("sig") is not None or incoming.params.get("userKey") is not None, _signed),
)
