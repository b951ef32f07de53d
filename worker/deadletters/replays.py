"""What a replay leaves in the dead-letter topic, beside letters: that it has begun with one, and what it has executed.

Pure. A process can die between a call and the tombstone of its letter. So before the first call of a letter is
attempted, a *mark* is written and acknowledged, under a key of its own beside the letter's; whoever finds it later
knows that this letter's calls may have been made, and asks about them first. The letter is not rewritten for it: that
would cost its size once more, could make it too large for the topic, and could overwrite what somebody else wrote.

What ends a letter (a tombstone, or the letter's next generation) tells in `dlq.made` which calls were executed and
when: entries of action logs that are explained by these are not taken for those of calls in doubt.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import orjson

from worker.deadletters.record import PREFIX
from worker.model import Json

MARK = b"replay:"  # no topic's name has a colon, and a file's letters begin with `file:`
MADE = PREFIX + "made"
RESOLVED = PREFIX + "resolved"
_LINE_LIMIT = 300  # characters of who and why

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """That a replay has begun with a letter. Times are Unix seconds by the clock of the process that wrote it."""

    generation: int  # of the letter: one of another generation is meant by no other mark
    at_s: float
    rest: str  # what stood still at `rest_s` beside the replay: see `kafka/groups.py`; empty: something did not
    rest_s: float
    ahead_s: float | None  # the sites' clocks minus ours, the mean of those that are known


class Made(NamedTuple):
    """A call that a replay has made. Unix seconds by the site's clock; `kind` as in worker/delivery/recent.py."""

    site: str
    kind: str
    from_s: float
    until_s: float
    is_certain: bool  # False: it may have been executed


def mark_key(letter_key: bytes) -> bytes:
    return MARK + letter_key


def letter_key(key: bytes | None) -> bytes | None:
    """Return the key of the letter that a mark is about; None for what is no mark."""
    return key[len(MARK) :] if key is not None and key.startswith(MARK) else None


def encode_mark(begun: Begun) -> bytes:
    return orjson.dumps(asdict(begun))


def decode_mark(value: bytes) -> Begun | None:
    """Return what a mark says; None where it is damaged or of another version, which is as if it said nothing."""
    try:
        read = orjson.loads(value)
        ahead = read["ahead_s"]
        return Begun(
            int(read["generation"]),
            float(read["at_s"]),
            str(read["rest"]),
            float(read["rest_s"]),
            None if ahead is None else float(ahead),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def made_header(made: Sequence[Made]) -> Headers:
    """Return the header that tells what was executed; none where nothing was."""
    rows: list[Json] = [[*each] for each in made]
    return ((MADE, orjson.dumps(rows)),) if rows else ()


def made_in(headers: Sequence[tuple[str, bytes | None]]) -> list[Made] | None:
    """Return what a message says was executed; None if that cannot be read."""
    text = next((value for name, value in headers if name == MADE), None)
    if text is None:
        return []
    try:
        return [
            Made(str(site), str(kind), float(from_s), float(until_s), bool(certain))
            for site, kind, from_s, until_s, certain in orjson.loads(text)
        ]
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None


def resolved_headers(how: str, *, by: str, why: str, now_s: float) -> Headers:
    """Return what a tombstone tells of its reason: how (`replay`, `discard`), who, why, and when."""
    at = datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    texts = {"": how, "_by": by, "_why": why, "_time": at}
    return tuple(
        (RESOLVED + name, " ".join(text.split())[:_LINE_LIMIT].encode("utf-8", "replace"))
        for name, text in texts.items()
        if text
    )
