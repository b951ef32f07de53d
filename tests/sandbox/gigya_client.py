"""A client of the local Gigya for its tests: signs with the standard library's own encoder, on purpose not ours."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from worker.sandbox.gigya import GigyaConfig, LocalGigya
from worker.sandbox.gigya_config import Key, Site

API_KEY = "3_test"
USER_KEY = "AKtest"
SECRET = base64.b64encode(b"a secret of thirty-two bytes....").decode()
NOW_S = 1_700_000_000.0


@dataclass
class Moments:
    """The two clocks of a local Gigya, moved by hand."""

    now: float = NOW_S
    elapsed: float = 1000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.elapsed += seconds


def config(*, site: Mapping[str, Any] | None = None, **settings: Any) -> GigyaConfig:
    """Return a config of one site, `main`, with the key of this module."""
    keys = {USER_KEY: Key(secrets=(SECRET,))}
    return GigyaConfig(sites={"main": Site(**{"api_key": API_KEY, "keys": keys, **(site or {})})}, **settings)


def base_string(verb: str, url: str, params: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}[parts.scheme.lower()]
    target = f"{parts.scheme.lower()}://{parts.netloc.lower().removesuffix(default)}{parts.path}"
    joined = "&".join(f"{name}={quote(params[name], safe='-._~')}" for name in sorted(params))
    return f"{verb.upper()}&{quote(target, safe='-._~')}&{quote(joined, safe='-._~')}"


def signature(verb: str, url: str, params: Mapping[str, str], secret: str = SECRET) -> str:
    key = base64.b64decode(secret)
    return base64.b64encode(hmac.digest(key, base_string(verb, url, params).encode(), "sha1")).decode()


@dataclass
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document

    @property
    def code(self) -> int:
        return int(self.json["errorCode"])


@dataclass
class Client:
    """Calls one local Gigya; every call is signed with a nonce of its own unless told otherwise."""

    gigya: LocalGigya
    session: aiohttp.ClientSession
    moments: Moments
    serial: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def signed(self, method: str, verb: str = "POST", secret: str = SECRET, **params: str | None) -> dict[str, str]:
        """Return all parameters of a call, signature included; None leaves one out."""
        common = {
            "apiKey": API_KEY,
            "userKey": USER_KEY,
            "format": "json",
            "httpStatusCodes": "false",
            "timestamp": str(int(self.moments.now)),
            "nonce": f"n-{next(self.serial)}",
        }
        sent = {name: value for name, value in {**common, **params}.items() if value is not None}
        return {**sent, "sig": signature(verb, f"{self.gigya.base_url}/{method}", sent, secret)}

    async def call(self, method: str, verb: str = "POST", secret: str = SECRET, **params: str | None) -> Answered:
        return await self.send(method, self.signed(method, verb, secret, **params), verb)

    async def notify(self, uid: str = "u1", action: str = "watched", **params: str | None) -> Answered:
        return await self.call("gm.notifyAction", UID=uid, action=action, **params)

    async def publish(self, uid: str = "u1", **params: str | None) -> Answered:
        given = {"userAction": '{"title":"Hi"}', **params}
        return await self.call("socialize.publishUserAction", UID=uid, **given)

    async def send(
        self, method: str, params: Mapping[str, str], verb: str = "POST", headers: Mapping[str, str] | None = None
    ) -> Answered:
        """Send parameters as they are: in the body of a POST, in the query of a GET."""
        form = urlencode(params)
        url = f"{self.gigya.base_url}/{method}"
        sent_headers = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        if verb.upper() == "GET":
            return await self._request("GET", f"{url}?{form}", None, headers or {})
        return await self._request(verb, url, form.encode(), sent_headers)

    async def control(self, verb: str, path: str, document: Any = None) -> Answered:
        body = None if document is None else json.dumps(document).encode()
        return await self._request(verb, f"{self.gigya.base_url}/_control/{path}", body, {})

    async def _request(self, verb: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answered:
        options = {"data": body, "headers": dict(headers), "allow_redirects": False}
        async with self.session.request(verb, URL(url, encoded=True), **options) as response:
            return Answered(response.status, dict(response.headers), await response.read())


@asynccontextmanager
async def serve(settings: GigyaConfig | None = None) -> AsyncIterator[Client]:
    """Run a local Gigya whose clocks stand still, and give a client of it."""
    moments = Moments()
    gigya = LocalGigya(settings or config(), now_s=lambda: moments.now, elapsed_s=lambda: moments.elapsed)
    timeout = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(limit=0)
    async with gigya, aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Client(gigya, session, moments)
