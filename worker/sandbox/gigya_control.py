"""The control endpoint of the local Gigya: JSON under `/_control/`, on the same port as the API.

Every path and what it takes stands in ROUTES. A wrong request is answered with 400 and a text; nothing is changed then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping

import orjson
from aiohttp import web

from worker.sandbox.gigya_config import Fault, Json
from worker.sandbox.gigya_engine import Engine
from worker.sandbox.gigya_ledger import Filter, arrival_lines, executed_lines, stall_lines

PREFIX = "/_control/"
_LINES_AT_ONCE = 500


class BadControl(ValueError):
    """The control request is wrong; the text says how."""


class Control:
    """Serves the control endpoint of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def serve(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one control request."""
        words = http.path.removeprefix(PREFIX).strip("/").split("/")
        handler = ROUTES.get((http.method, words[0]))
        if handler is None:
            known = ", ".join(f"{verb} {PREFIX}{word}" for verb, word in ROUTES)
            return _json({"error": f"no such control; there are: {known}"}, status=404)
        try:
            return await handler(self, http, words[1:])
        except ValueError as error:  # pydantic's ValidationError and orjson's JSONDecodeError are ValueErrors
            return _json({"error": str(error)}, status=400)

    async def health(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        return _json({"ok": True, "time": self.engine.now_s()})

    async def config(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        if http.method == "PATCH":
            self.engine.configure(await _document(http))
        shown: dict[str, Json] = self.engine.config.model_dump(mode="json", exclude={"sites"})
        return _json(shown)

    async def sites(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        if http.method == "PATCH":
            if len(words) != 1 or not words[0]:
                raise BadControl(f"PATCH {PREFIX}sites/NAME")
            self.engine.configure_site(words[0], await _document(http))
        shown: dict[str, Json] = {
            name: site.settings.model_dump(mode="json") for name, site in self.engine.sites.items()
        }
        return _json(shown)

    async def revoke(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        document = await _document(http)
        code = document.get("code", 403005)
        if not isinstance(code, int):
            raise BadControl("code must be a number")
        self.engine.revoke(_text(document, "site"), _text(document, "user_key"), code)
        return _json({"ok": True})

    async def restore(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        document = await _document(http)
        self.engine.restore(_text(document, "site"), _text(document, "user_key"))
        return _json({"ok": True})

    async def faults(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        if http.method == "POST":
            return _json({"id": self.engine.inject(Fault.model_validate(await _document(http)))})
        if http.method == "DELETE" and words:
            return _json({"removed": self.engine.faults.remove(int(words[0]))})
        if http.method == "DELETE":
            self.engine.faults.clear()
        return _json({"faults": self.engine.faults.describe()})

    async def outage(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        if http.method == "DELETE":
            self.engine.end_outage()
            return _json({"ok": True})
        document = await _document(http)
        fault = Fault.model_validate({"kind": "html", "status": 503 if "kind" not in document else None, **document})
        return _json({"id": self.engine.begin_outage(fault)})

    async def ledger(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        return await _lines(http, executed_lines(self.engine.ledger, _filter(http)))

    async def arrivals(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        return await _lines(http, arrival_lines(self.engine.ledger, _filter(http)))

    async def stalls(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        return await _lines(http, stall_lines(self.engine.ledger))

    async def stats(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        return _json(self.engine.ledger.stats())

    async def reset(self, http: web.BaseRequest, words: list[str]) -> web.StreamResponse:
        self.engine.reset()
        return _json({"ok": True})


Handler = Callable[[Control, web.BaseRequest, list[str]], Awaitable[web.StreamResponse]]

ROUTES: Mapping[tuple[str, str], Handler] = {
    ("GET", "health"): Control.health,
    ("GET", "config"): Control.config,
    ("PATCH", "config"): Control.config,
    ("GET", "sites"): Control.sites,
    ("PATCH", "sites"): Control.sites,
    ("POST", "revoke"): Control.revoke,
    ("POST", "restore"): Control.restore,
    ("GET", "faults"): Control.faults,
    ("POST", "faults"): Control.faults,
    ("DELETE", "faults"): Control.faults,
    ("POST", "outage"): Control.outage,
    ("DELETE", "outage"): Control.outage,
    ("GET", "ledger"): Control.ledger,
    ("GET", "arrivals"): Control.arrivals,
    ("GET", "stalls"): Control.stalls,
    ("GET", "stats"): Control.stats,
    ("POST", "reset"): Control.reset,
}


def _filter(http: web.BaseRequest) -> Filter:
    query = http.query
    return Filter(
        after=int(query.get("after", "0")),
        site=query.get("site", ""),
        method=query.get("method", ""),
        uid=query.get("uid", ""),
    )


async def _document(http: web.BaseRequest) -> dict[str, Json]:
    document: Json = orjson.loads(await http.read() or b"{}")
    if not isinstance(document, dict):
        raise BadControl("the body must be a JSON object")
    return document


def _text(document: Mapping[str, Json], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise BadControl(f"{name} is missing")
    return value


def _json(document: dict[str, Json], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


async def _lines(http: web.BaseRequest, lines: Iterator[bytes]) -> web.StreamResponse:
    """Send JSON lines piece by piece, so that a long ledger stops nobody else for long."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(http)
    piece: list[bytes] = []
    for line in lines:
        piece.append(line)
        if len(piece) == _LINES_AT_ONCE:
            await response.write(b"".join(piece))
            piece.clear()
    await response.write(b"".join(piece))
    await response.write_eof()
    return response
