"""The request that a call would be, with everything secret masked. Made without any secret; sends nothing.

The body is made by the code that makes the real one, from stand-ins: names, order and encoding are the real ones, and
no secret can be in it that is not `***`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from worker.gigya.authorization import SecretCredentials, authorized
from worker.gigya.calls import Call
from worker.gigya.signing import Credentials
from worker.gigya.sites import Site, url_of

MASK: Final = "***"
_STAND_IN: Final = "X"
_SHOWN_OF_A_KEY: Final = 4
Mode = Literal["signed", "secret", "jwt"]
# What hides a secret or is new with each attempt, by the name it has in the body.
_MASKED: Final = frozenset(("sig", "secret", "nonce", "userKey"))


@dataclass(frozen=True, slots=True)
class Signatory:
    """A site, and how its requests are authorized; without what is secret about that."""

    site: Site
    mode: Mode
    user_key: str

    @property
    def masked_key(self) -> str:
        """Return the beginning of the user key: enough to tell two apart."""
        return self.user_key[:_SHOWN_OF_A_KEY] + MASK


@dataclass(frozen=True, slots=True)
class MaskedRequest:
    """What would be sent. `authorization` is the header of that name, empty where there is none."""

    verb: str
    url: str
    authorization: str
    body: str


def masked_request(call: Call, signatory: Signatory, *, now_s: float) -> MaskedRequest:
    """Return the request of a call as it would be sent now."""
    url = url_of(signatory.site, call.method)
    stand_in: Credentials | SecretCredentials
    if signatory.mode == "signed":
        stand_in = Credentials(signatory.site.api_key, _STAND_IN, b"")
    else:
        stand_in = SecretCredentials(signatory.site.api_key, _STAND_IN, _STAND_IN)
    made = authorized(url, call.params, stand_in, now_s=now_s, nonce=_STAND_IN).body.decode("ascii")
    pairs: list[str] = []
    for pair in made.split("&"):
        name, _, value = pair.partition("=")
        if signatory.mode == "jwt" and name in ("userKey", "secret"):
            continue  # both are in the token
        shown = signatory.masked_key if name == "userKey" else MASK
        pairs.append(f"{name}={shown if name in _MASKED else value}")
    bearer = f"Bearer {MASK}" if signatory.mode == "jwt" else ""
    return MaskedRequest("POST", url, bearer, "&".join(pairs))
