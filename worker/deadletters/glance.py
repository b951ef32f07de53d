"""A quick look at a message of the dead-letter topic: what a million letters are grouped, chosen and put in order by.

Pure. A tenth of the price of reading the whole letter (`record.decode`), which is done for the few that are wanted.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from worker.deadletters.record import VERSION, NotADeadLetter

_VERSION = str(VERSION).encode()
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)


class Kind(NamedTuple):
    """What the letters of one group have in common; `text` is of one of them."""

    fingerprint: str
    reason: str
    code: int | None
    rule: str
    parameter: str
    site: str
    text: str


class Glance(NamedTuple):
    """What is seen of a letter without reading its record."""

    kind: Kind
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    run: str
    died_ms: int  # Unix time
    generation: int
    key: bytes | None  # the record's
    is_reference: bool


def glance(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> Glance:
    """Return what the headers of a letter say. Raises NotADeadLetter, as `decode` would, and later than it would.

    What `decode` refuses may pass here: whoever wants the letter itself hears of it.
    """
    own = dict(headers)  # the record's own are among them; none of those has a name of ours
    if own.get("dlq.version") != _VERSION:
        raise NotADeadLetter("no header dlq.version of a format that this worker reads")
    try:
        return _seen(key, own)
    except (KeyError, ValueError, TypeError) as error:
        raise NotADeadLetter(f"a header of dlq.* is missing or damaged ({type(error).__name__})") from None


def _seen(key: bytes | None, own: dict[str, bytes | None]) -> Glance:
    topic, partition, offset = own["dlq.topic"] or b"", own["dlq.partition"] or b"", own["dlq.offset"] or b""
    place, run = b"%b/%b/%b" % (topic, partition, offset), own.get("dlq.run")
    if (place if run is None else b"%b/%b" % (place, run)) != key:
        raise NotADeadLetter("its key is not topic/partition/offset of its headers: it was copied or changed")
    died = datetime.datetime.fromisoformat(_text(own["dlq.last_time"]))
    return Glance(
        _kind(own),
        _text(topic),
        int(partition),
        int(offset),
        int(own["dlq.timestamp"] or b""),
        _text(run) if run is not None else "",
        (died - _EPOCH) // _MILLISECOND,
        int(own.get("dlq.generation") or b"0"),
        own["dlq.key"],
        "dlq.reference" in own,
    )


# Most letters are of a few kinds: their texts are read once. Bounded, for somebody may write what he likes.
_KINDS_KEPT = 10_000
_kinds: dict[bytes, Kind] = {}


def _kind(own: dict[str, bytes | None]) -> Kind:
    name = own["dlq.fingerprint"]
    if name is None:
        raise ValueError("no fingerprint")
    known = _kinds.get(name)
    if known is None:
        code = own.get("dlq.code")
        rest = (_text(own.get(each) or b"") for each in ("dlq.rule", "dlq.parameter", "dlq.site", "dlq.text"))
        known = Kind(_text(name), _text(own["dlq.reason"]), None if code is None else int(code), *rest)
        if len(_kinds) < _KINDS_KEPT:
            _kinds[name] = known
    return known


def _text(value: bytes | None) -> str:
    if value is None:
        raise ValueError("nothing there")
    return value.decode("utf-8", "surrogateescape")
