"""What the worker says about itself over HTTP (/livez, /readyz, /metrics, /status), and what it is told by POST
(/pause, /resume, /park).

The one place that serves HTTP. It knows nothing of the rooms below: whoever wires the worker hands it a `View` and a
`Control`. No answer holds a secret, a UID or a payload; that is their promise.

Whoever reaches the port may read. Only who knows the token may tell the worker something; without a token in the
settings nobody may.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Annotated, Literal, Protocol

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from worker.errors import StartFailed
from worker.model import Json

_log = structlog.get_logger("worker.admin")
_STOP_S = 1.0  # a probe's answer is written within this, or the connection is closed
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BODY_LIMIT_BYTES = 4096
_BODY_LIMIT_S = 5.0
# A wrong token costs nothing to try: one line in the log for all within so many seconds.
_SAY_AGAIN_S = 10.0


class AdminSettings(BaseModel):
    """The `admin:` part of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for probes from outside a container."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 switches it off."""
    token: SecretStr | None = None
    """What a POST must carry as `Authorization: Bearer`; without one no POST is accepted."""
    stuck_after_s: Annotated[float, Field(ge=30, le=86_400, json_schema_extra={"unit": "seconds"})] = 300.0
    """Records held, no gate to blame, nothing finished for so long: /livez fails. Longer than an attempt takes. A run
    with --until-end ends after so long of a site that is stopped, or dead letters that cannot be written."""


class View(Protocol):
    """What the worker can tell of itself, at any moment between start and stop. Cheap; called from the event loop."""

    def livez(self) -> tuple[bool, str]:
        """Return whether the process makes progress at all, and one line that says why (not)."""
        ...

    def readyz(self) -> Mapping[str, Json]:
        """Return {"ready": bool, component: {"state", "reason", "remedy", ...}}: what a person needs to act."""
        ...

    def status(self) -> Mapping[str, Json]:
        """Return assignment, lag, blockers, lanes, gates, ledger."""
        ...

    def metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        ...


class Command(BaseModel):
    """What a POST may say; an empty body says nothing. Every text is one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    site: Annotated[str, Field(max_length=200)] = ""  # pause, resume; empty: all of them
    record: Annotated[str, Field(max_length=300)] = ""  # park: topic/partition/offset
    by: Annotated[str, Field(max_length=100)] = ""  # who says so: whom others call
    why: Annotated[str, Field(max_length=300)] = ""

    @field_validator("site", "record", "by", "why")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("must be one line of printable text")
        return text


class Control(Protocol):
    """What the worker can be told. Each answer is an HTTP status and what to say."""

    def pause(self, site: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        """Start no new request of a site, or of all where none is named."""
        ...

    def resume(self, site: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        """End pauses and stops of a site, or of all; then also what the flood guard holds."""
        ...

    async def park(self, record: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        """Turn one unfinished record into a dead letter."""
        ...


_TAKES: Mapping[str, frozenset[str]] = {
    "pause": frozenset(("site", "by", "why")),
    "resume": frozenset(("site", "by", "why")),
    "park": frozenset(("record", "by", "why")),
}


class AdminServer:
    """Serves a View, and takes orders for a Control, on one port until it is stopped."""

    def __init__(self, settings: AdminSettings, view: View, control: Control | None = None) -> None:
        self._settings = settings
        self._view = view
        self._control = control
        self._runner: web.AppRunner | None = None
        self._say_again_s = float("-inf")

    async def start(self, *, port: int | None = None) -> int:
        """Listen, and return the port; 0 when the settings switch it off.

        `port` is for tests, where 0 means any free one. Raises StartFailed when the address cannot be had.
        """
        host = self._settings.host
        wanted = self._settings.port if port is None else port
        if port is None and wanted == 0:
            return 0
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, wanted).start()
        except OSError as error:
            await runner.cleanup()
            raise StartFailed(_cannot_listen(host, wanted, error)) from error
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port; does nothing if it was never open."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_answer_as_json], client_max_size=_BODY_LIMIT_BYTES)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status)
        for name in ("pause", "resume", "park"):
            application.router.add_post(f"/{name}", self._told)
        return application

    async def _livez(self, _: web.Request) -> web.Response:
        alive, text = self._view.livez()
        return web.Response(text=text + "\n", status=200 if alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        answer = self._view.readyz()
        return _json(answer, 200 if answer.get("ready") is True else 503)

    async def _status(self, _: web.Request) -> web.Response:
        return _json(self._view.status(), 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._view.metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def _told(self, request: web.Request) -> web.Response:
        control, token = self._control, self._settings.token
        if control is None or token is None or not token.get_secret_value():
            return _json({"error": "Method Not Allowed", "remedy": "no POST is taken without admin.token"}, 405)
        if not _is_token(request.headers.get("Authorization", ""), token.get_secret_value()):
            return self._refused(request)
        name: Literal["pause", "resume", "park"] = request.path[1:]  # type: ignore[assignment]  # as routed
        async with asyncio.timeout(_BODY_LIMIT_S):
            body = await request.read()
        try:
            command = Command.model_validate_json(body) if body.strip() else Command()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return _json({"error": f"{where}: {first['msg']}", "takes": sorted(_TAKES[name])}, 400)
        if not command.model_fields_set <= _TAKES[name]:
            return _json({"error": f"/{name} does not take all of this", "takes": sorted(_TAKES[name])}, 400)
        if name == "park":
            status, answer = await control.park(command.record, command.by, command.why)
        else:
            tell = control.pause if name == "pause" else control.resume
            status, answer = tell(command.site, command.by, command.why)
        return _json(answer, status)

    def _refused(self, request: web.Request) -> web.Response:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._say_again_s:
            self._say_again_s = now_s + _SAY_AGAIN_S
            _log.warning("admin.refused", path=request.path, authorized="Authorization" in request.headers)
        answer = _json({"error": "Unauthorized", "remedy": "send Authorization: Bearer and admin.token"}, 401)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


@web.middleware
async def _answer_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn a wrong path or method, and a bug in a View, into an answer; the worker goes on."""
    try:
        return await handler(request)
    except TimeoutError:
        return _json({"error": "the body did not arrive"}, 408)
    except web.HTTPException as refusal:
        answer = _json({"error": refusal.reason}, refusal.status)
        if (allowed := refusal.headers.get("Allow")) is not None:
            answer.headers["Allow"] = allowed
        return answer
    except Exception:  # noqa: BLE001 - a View with a bug must not take down the probes; it is logged with its place
        _log.exception("admin.answer_failed", path=request.path)
        return _json({"error": "the worker could not answer; see its log"}, 500)


def _is_token(header: str, token: str) -> bool:
    """Compare in a time that tells neither how much is right nor how long the token is."""
    scheme, _, given = header.partition(" ")
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given.strip(), token)]
    return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


def _json(body: Mapping[str, Json], status: int) -> web.Response:
    text = orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=_plain)
    return web.Response(body=text + b"\n", status=status, content_type="application/json")


def _plain(value: object) -> object:
    """Make JSON of what a View may hand over besides: named tuples, mappings, sets."""
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__str__ is not object.__str__ and isinstance(value, tuple | PurePath):
        return str(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"admin: port {port} on {host} is taken by another process; set admin.port (0 switches it off)"
        case errno.EACCES:
            return f"admin: port {port} on {host} needs privileges; set admin.port to one above 1023"
        case errno.EADDRNOTAVAIL:
            return f"admin: {host} is not an address of this machine; set admin.host"
    return (
        f"admin: cannot listen on {host}:{port} ({error.strerror or type(error).__name__}); see admin.host, admin.port"
    )
