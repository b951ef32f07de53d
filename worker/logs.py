"""One line per thing worth knowing, on stderr: JSON in production, readable on a terminal.

Our own lines go straight through structlog; those of libraries come in from the standard logging, are limited when
they repeat, and look the same. Nothing that could be a secret, a UID or a payload gets out: callers do not log such
things, and what passes here is redacted all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePath
from types import TracebackType
from typing import BinaryIO, TypeAlias
from urllib.parse import quote

import orjson
import structlog

from worker.errors import WorkerError

Line: TypeAlias = MutableMapping[str, object]
HIDDEN = "***"
_HIDDEN_KEYS = frozenset(
    {
        *("secret", "sig", "signature", "token", "password", "authorization", "nonce"),
        *("user_key", "api_key", "private_key", "key", "kafka_key"),
        *("uid", "uids", "payload", "value", "body", "params"),
    }
)
_HIDDEN_ENDINGS = ("_secret", "_token", "_password", "_uid", "_payload")
_CONTAINERS = (dict, list, tuple)  # `dict | list` would make an object each time it is asked
_DEEPEST = 5  # levels of values that are shown
_KEYS_KEPT = 1_000
# What orjson could say of other types, and `Redaction` shows by name only.
_PLAIN_VALUES_ONLY = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_SHORTEST_SECRET = 6  # characters; hiding shorter ones would garble ordinary words
_ROOT = Path(__file__).parent.parent
_in_use: list[Redaction] = []  # the one of the last `configure`
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def user_mark(uid: str, key: bytes) -> str:
    """Return what stands for a user in logs: the first 12 hex digits of an HMAC-SHA256 of the UID.

    The key is the process's own and random, or it would be a way to test guesses.
    """
    return hmac.digest(key, uid.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:12]


def configure(
    *,
    secrets: Collection[str] = (),
    level: str = "info",
    stream: BinaryIO | None = None,
    readable: bool | None = None,
    now_s: Callable[[], float] = time.time,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> None:
    """Set up logging for this process; calling it again replaces what was there.

    `secrets` are values that are hidden wherever they show up. `readable` None: if stderr is a terminal.
    """
    target = stream if stream is not None else sys.stderr.buffer
    if readable is None:
        readable = stream is None and sys.stderr.isatty()
    write = LineWriter(target)
    redact = Redaction(secrets)
    _in_use[:] = [redact]
    render: Callable[[Line], str | bytes] = Readable(colour=readable and target.isatty()) if readable else _as_json
    threshold = logging.getLevelNamesMapping()[level.upper()]

    def finish(_: object, method: str, line: Line) -> str | bytes:
        level = "error" if method == "exception" else method
        stamped: Line = {"time": _stamp(now_s()), "level": level, "event": line.pop("event", ""), **line}
        _unfold_exception(stamped)
        if not readable and (harmless := redact.harmless(stamped)) is not None:
            return harmless
        return render(redact(stamped))

    structlog.configure(
        processors=[finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *name: write,
        # Not cached: a logger made at import time must follow a later `configure`, in tests above all.
        cache_logger_on_first_use=False,
    )
    handler = _FromLibraries(finish, write)
    handler.addFilter(RepeatFilter(monotonic_s))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)


def hide(secrets: Collection[str]) -> None:
    """Hide these values, too, from the next line on; without `configure` before it there is nothing to tell."""
    for redact in _in_use:
        redact.add(secrets)


class LineWriter:
    """Writes whole lines and flushes each, so that a kill loses none. Safe for threads.

    A stderr that is closed or full must not stop deliveries: what cannot be written is counted in `lost`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.lost = 0

    def msg(self, message: str | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                self._stream.write(data + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                self.lost += 1

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class Redaction:
    """Hides what must not be read: by key, and wherever a known secret shows up in a text."""

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets: frozenset[str] = frozenset()
        self._clear_keys: set[str] = set()  # of the lines so far: there are some dozens in the whole code
        self.add(secrets)

    def add(self, secrets: Collection[str]) -> None:
        """Hide these, too: keys that were exchanged while the process runs. The old ones stay hidden."""
        secrets = self._secrets = self._secrets | frozenset(secrets)
        known = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in (secret, quote(secret, "~"))}
        ordered = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._known_in_json = tuple(orjson.dumps(form)[1:-1] for form in ordered)

    def harmless(self, line: Line) -> bytes | None:
        """Return the line as JSON if there is nothing in it to hide, else None: it wants the closer look.

        Nearly all lines are harmless, and cleaning them value by value took half of what a line costs.
        """
        try:
            text = orjson.dumps(line, option=_PLAIN_VALUES_ONLY)
        except orjson.JSONEncodeError:
            return None
        for form in self._known_in_json:
            if form in text:
                return None
        return text if self._has_clear_keys(line, 0) else None

    def _has_clear_keys(self, value: Iterable[object], depth: int) -> bool:
        items = value
        if isinstance(value, dict):
            if not value.keys() <= self._clear_keys and not self._learn(value):
                return False
            items = value.values()
        for item in items:
            if isinstance(item, _CONTAINERS) and not (depth < _DEEPEST and self._has_clear_keys(item, depth + 1)):
                return False
        return True

    def _learn(self, keys: Collection[str]) -> bool:
        """Remember keys that need no hiding; False if one of them does."""
        if any(_is_hidden(key) for key in keys):
            return False
        if len(self._clear_keys) < _KEYS_KEPT:
            self._clear_keys.update(keys)
        return True

    def __call__(self, line: Line) -> Line:
        return {key: HIDDEN if _is_hidden(key) else self._clean(value, 0) for key, value in line.items()}

    def text(self, text: str) -> str:
        """Return a text without known secrets."""
        return self._known.sub(HIDDEN, text) if self._known is not None else text

    def _clean(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self.text(str(value))  # str(): an enum's member is one, too
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, BaseException):
            return self.text(describe(value))
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {
                self.text(str(key)): HIDDEN if _is_hidden(str(key)) else self._clean(item, depth + 1)
                for key, item in value.items()
            }
        named = isinstance(value, tuple) and hasattr(value, "_fields") and "__str__" in type(value).__dict__
        if named or isinstance(value, PurePath):
            return self.text(str(value))
        if isinstance(value, list | tuple | set | frozenset) and depth < _DEEPEST:
            return [self._clean(item, depth + 1) for item in value]
        return f"<{type(value).__name__}>"  # whose text might hold anything


@lru_cache(maxsize=1000)  # names of fields, the same few in every line
def _is_hidden(key: str) -> bool:
    folded = key.lower()
    return folded in _HIDDEN_KEYS or folded.endswith(_HIDDEN_ENDINGS)


def describe(error: BaseException) -> str:
    """Return an exception as text that is safe to log: its type, and its message only where we wrote it ourselves.

    A foreign message may quote what it stumbled over, a KeyError for one.
    """
    name = type(error).__name__
    if isinstance(error, WorkerError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name


def frames(tb: TracebackType | None) -> list[str]:
    """Return where an exception came from, outermost first: file, line and function, no source and no locals."""
    return [f"{_short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(tb)]


def bug_report(error: BaseException) -> str:
    """Return what a person sees of a bug: one line, then the frames and the causes."""
    lines = [f"a bug in gigya-worker: {describe(error)}"]
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if cause is not error:
            lines.append(f"  caused by {describe(cause)}")
        lines += [f"    {frame}" for frame in frames(cause.__traceback__)]
        if isinstance(cause, BaseExceptionGroup):
            for part in cause.exceptions:
                lines.append(f"  holds {describe(part)}")
                lines += [f"    {frame}" for frame in frames(part.__traceback__)]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def _short(filename: str) -> str:
    path = Path(filename)
    if path.is_relative_to(_ROOT / "worker"):
        return str(path.relative_to(_ROOT))
    return "/".join(path.parts[-2:])


def _unfold_exception(line: Line) -> None:
    """Replace `exc_info` by type, text and frames."""
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()[1]
    elif isinstance(found, tuple):
        found = found[1]
    if isinstance(found, BaseException):
        line["error"] = describe(found)
        line["frames"] = frames(found.__traceback__)


def _stamp(now_s: float) -> str:
    second, fraction = divmod(now_s, 1)
    milliseconds = min(999, int(fraction * 1000 + 0.0005))  # 0.123 may be 0.12299999 of a large number
    return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4)  # many lines fall into one second
def _second(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def _as_json(line: Line) -> bytes:
    try:
        return orjson.dumps(line)
    except orjson.JSONEncodeError:  # a lone surrogate, an integer beyond 64 bits
        return json.dumps(line).encode()


class Readable:
    """A line as a person reads it: time, level, event, then key=value."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, line: Line) -> str:
        rest = dict(line)
        stamp, level, event = (str(rest.pop(name, "")) for name in ("time", "level", "event"))
        trace = rest.pop("frames", None)
        head = f"{stamp[:19]}Z {level:<7} "
        if self._colour:
            head = f"\x1b[2m{stamp[:19]}Z\x1b[0m \x1b[{_COLOURS.get(level, '0')}m{level:<7}\x1b[0m "
        text = head + _one_line(event) + "".join(f" {key}={_value(value)}" for key, value in rest.items())
        if isinstance(trace, list):
            text += "".join(f"\n    {_one_line(str(frame))}" for frame in trace)
        return text


def _value(value: object) -> str:
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    if value and value.isprintable() and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _one_line(text: str) -> str:
    """Keep control characters of others from writing lines or colours of their own."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


class RepeatFilter(logging.Filter):
    """Lets a library say the same thing `burst` times in `window_s`, then only counts.

    aiokafka says sixty lines a second while a broker is away. Lines are the same when logger, level and template are;
    the first line of the next window says how many were left out, as `repeated`.
    """

    def __init__(self, monotonic_s: Callable[[], float], *, burst: int = 3, window_s: float = 30.0) -> None:
        super().__init__()
        self._monotonic_s = monotonic_s
        self._burst = burst
        self._window_s = window_s
        self._seen: dict[tuple[str, int, str], list[float]] = {}  # -> window's start, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = self._monotonic_s()
        key = (record.name, record.levelno, str(record.msg)[:200])
        window = self._seen.get(key)
        if window is None or now_s - window[0] >= self._window_s:
            left_out = max(0, int(window[1]) - self._burst) if window is not None else 0
            if len(self._seen) >= 1000:  # templates with values in them; forget rather than grow
                self._seen.clear()
            self._seen[key] = [now_s, 1]
            if left_out:
                record.repeated = left_out
            return True
        window[1] += 1
        return window[1] <= self._burst


class _FromLibraries(logging.Handler):
    """Turns a library's log record into a line of ours."""

    def __init__(self, finish: Callable[[object, str, Line], str | bytes], write: LineWriter) -> None:
        super().__init__()
        self._finish = finish
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line: Line = {"event": "library.said", "logger": record.name, "text": record.getMessage()[:1000]}
            if (repeated := getattr(record, "repeated", None)) is not None:
                line["repeated"] = repeated
            if record.exc_info:
                line["exc_info"] = record.exc_info
            self._write.msg(self._finish(None, record.levelname.lower(), line))
        except Exception:  # noqa: BLE001 - a library's malformed log call must not become our failure
            self._write.lost += 1
