"""Turns parameters into a request that the site accepts now: URL, corrected timestamp, fresh nonce, who we are.

The credentials can be exchanged at any time: a request is made whole with those of its moment and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from worker.clock import Clock
from worker.delivery.site_clock import SiteClock
from worker.gigya.authorization import AnyCredentials, authorized
from worker.gigya.replies import Reply
from worker.gigya.signing import Credentials, base_string, first_difference
from worker.gigya.sites import Addressed, Site, url_of


@dataclass(frozen=True, slots=True)
class Request:
    """One POST, ready to be sent once. Body and header may be as good as a password: `repr` shows neither."""

    url: str
    body: bytes = field(repr=False)
    authorization: str = field(repr=False)  # the header; empty for none
    key_serial: int  # of the credentials it was made with


class Signer:
    """Signs the requests of one site. Sign after the permit, so that no request ages in a queue of ours."""

    def __init__(
        self, *, site: Site, credentials: AnyCredentials, clock: Clock, site_clock: SiteClock, nonce: Callable[[], str]
    ) -> None:
        """`nonce` gives a new text at each call: the nonce of a signature, the jti of a token."""
        self.site_clock = site_clock
        self.key_serial = 0  # how often the credentials were exchanged
        self._site = site
        self._credentials = credentials
        self._clock = clock
        self._nonce = nonce
        self._urls: dict[str, str] = {}

    def rotate(self, credentials: AnyCredentials) -> None:
        """Sign with these from now on."""
        self._credentials = credentials
        self.key_serial += 1

    def is_outdated(self, request: Request) -> bool:
        """Return whether the credentials were exchanged since this request was made."""
        return request.key_serial != self.key_serial

    @property
    def nonces_are_known(self) -> bool:
        """Return whether a copy can be recognised: a secret goes without a nonce, a token is used once."""
        return isinstance(self._credentials, Credentials)

    def sign(self, method: Addressed, params: Mapping[str, str], nonce: str = "") -> Request:
        """Return a POST that proves who we are. Without a nonce of its own it gets a new one, and a token always."""
        url = self._urls.get(method.name)
        if url is None:
            url = self._urls[method.name] = url_of(self._site, method)
        if not nonce or not self.nonces_are_known:
            nonce = self._nonce()
        site_now_s = self._clock.now_s() + self.site_clock.offset_s
        made = authorized(url, params, self._credentials, now_s=site_now_s, nonce=nonce)
        return Request(url, made.body, made.authorization, self.key_serial)


def base_strings_differ_at(request: Request, reply: Reply) -> int | None:
    """Return the first position at which the site's base string differs from ours; None if equal or not told.

    A 403003 brings the site's own base string. It holds user data: only the position may be logged.
    """
    theirs = reply.body.get("baseString") if reply.body is not None else None
    if not isinstance(theirs, str):
        return None
    params = dict(parse_qsl(request.body.decode("ascii"), keep_blank_values=True))
    return first_difference(base_string("POST", request.url, params), theirs)
