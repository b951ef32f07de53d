"""Turns parameters into a request that the site accepts now: URL, corrected timestamp, fresh nonce, signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from worker.clock import Clock
from worker.delivery.site_clock import SiteClock
from worker.gigya.replies import Reply
from worker.gigya.signing import Credentials, base_string, first_difference, signed_form
from worker.gigya.sites import Addressed, Site, url_of


class Signer:
    """Signs the requests of one site. Sign after the permit, so that no request ages in a queue of ours."""

    def __init__(
        self, *, site: Site, credentials: Credentials, clock: Clock, site_clock: SiteClock, nonce: Callable[[], str]
    ) -> None:
        self.site_clock = site_clock
        self._site = site
        self._credentials = credentials
        self._clock = clock
        self._nonce = nonce
        self._urls: dict[str, str] = {}

    def sign(self, method: Addressed, params: Mapping[str, str]) -> tuple[str, bytes]:
        """Return URL and body of a signed POST."""
        url = self._urls.get(method.name)
        if url is None:
            url = self._urls[method.name] = url_of(self._site, method)
        site_now_s = self._clock.now_s() + self.site_clock.offset_s
        return url, signed_form(url, params, self._credentials, now_s=site_now_s, nonce=self._nonce())


def base_strings_differ_at(url: str, body: bytes, reply: Reply) -> int | None:
    """Return the first position at which the site's base string differs from ours; None if equal or not told.

    A 403003 brings the site's own base string. It holds user data: only the position may be logged.
    """
    theirs = reply.body.get("baseString") if reply.body is not None else None
    if not isinstance(theirs, str):
        return None
    params = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True))
    return first_difference(base_string("POST", url, params), theirs)
