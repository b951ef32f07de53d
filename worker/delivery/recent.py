"""What a process leaves behind for the next owner of a partition: which calls it has made in the last seconds. Pure.

A call may have been made by the process that is gone. The action log shows what was executed, not by which request; so
the next owner must know which entries of the user come from calls that are *done*, and from when on none is missing.
Of each call there are 42 bits, five characters of a hash of user and action and two of the points, in the commit's
metadata:

    r1.<until>.<from>.<first>.<kinds of calls that were executed>.<of those that may have been>.<of those in doubt>

`until`: when it was written; `from`: all calls since then are listed; `first`: nothing that was unfinished at `until`
was attempted earlier. Milliseconds, site time, base 36; 0 for not known. A call in doubt at `until` may have been
executed more than once by now; it is the first of its user that the next owner finds unfinished.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from worker.delivery.evidence import SLACK_S, Made
from worker.delivery.own_calls import points_of
from worker.gigya.calls import Call

VERSION = "r1"
KIND_CHARACTERS = 7
_USER_CHARACTERS = 5
_POINTS_CHARACTERS = KIND_CHARACTERS - _USER_CHARACTERS
_NO_POINTS = "__"
# An attempt that ended at a moment was executed at most this long before; attempts time out sooner by default.
LONGEST_S = 30.0
# So much of the past is needed that no clock error moves an entry of an unfinished call out of what is known.
REACH_S = 2 * SLACK_S
_TIME = r"\.([0-9a-z]{1,12})"
_NOTE = re.compile(rf"{VERSION}{_TIME * 3}\.([\w-]*)\.([\w-]*)\.([\w-]*)", re.ASCII)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Recent:
    """What was left behind. Times are Unix seconds by the site's clock."""

    until_s: float
    known_from_s: float | None
    first_s: float | None
    executed: tuple[str, ...] = ()  # kinds, with repetitions
    possible: tuple[str, ...] = ()  # each once, and nobody knows how often
    in_doubt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of the time before a partition was ours."""

    since_s: float  # monotonic: nobody else makes its calls since
    suspects_below: int = 0  # offset: what lies below may have been made by the earlier owner
    recent: Recent | None = None
    # Whether it is known which calls of unfinished records had ended: else one of `executed` may be the suspect itself.
    ends_are_known: bool = False

    @property
    def known_from_s(self) -> float | None:
        return self.recent.known_from_s if self.recent is not None else None

    @property
    def first_s(self) -> float | None:
        return self.recent.first_s if self.recent is not None else None

    def made_like(self, call: Call, *, is_head: bool = False) -> Iterator[Made]:
        """Yield what entries could come from that fit this call; `is_head`: it is the one that was in doubt."""
        recent = self.recent
        if recent is None or recent.known_from_s is None:
            return
        wanted = kind_of(call.uid, call.params["action"], points_of(call))
        from_s = recent.known_from_s - LONGEST_S
        for kind in recent.executed:
            if fits(kind, wanted):
                is_certain = self.ends_are_known and (kind == wanted or wanted.endswith(_NO_POINTS))
                yield Made(from_s, recent.until_s, is_certain)
        for kind in recent.possible if is_head and self.ends_are_known else recent.possible + recent.in_doubt:
            if fits(kind, wanted):
                yield Made(from_s, math.inf, is_certain=False, is_many=True)


def kind_of(user: str, action: str, points: int | None) -> str:
    """Return seven characters for user, action and points of a call."""
    who = _hash(f"{len(user)}:{user}{action}")[:_USER_CHARACTERS]
    return who + (_NO_POINTS if points is None else _hash(str(points))[:_POINTS_CHARACTERS])


def fits(kind: str, wanted: str) -> bool:
    """Say whether calls of both kinds can leave the same entries."""
    if kind[:_USER_CHARACTERS] != wanted[:_USER_CHARACTERS]:
        return False
    return kind == wanted or kind.endswith(_NO_POINTS) or wanted.endswith(_NO_POINTS)


def encode(recent: Recent, limit_characters: int, known_from_s: Sequence[float] = ()) -> str:
    """Return the note. What does not fit is left out, the oldest first: then less of the past is known.

    `known_from_s` has, for each of `executed` from the oldest on, the time from which all is known without it.
    """
    executed, start = recent.executed, recent.known_from_s
    head = _head(recent)
    always = len(recent.possible) + len(recent.in_doubt)
    room = (limit_characters - len(head) - len(_number(start))) // KIND_CHARACTERS - always
    if room < 0:
        return ""
    if (dropped := len(executed) - room) > 0:
        start = known_from_s[dropped - 1] if len(known_from_s) >= dropped else None
        executed = executed[dropped:]
    times = ".".join(_number(each) for each in (recent.until_s, start, recent.first_s))
    return f"{VERSION}.{times}.{''.join(executed)}.{''.join(recent.possible)}.{''.join(recent.in_doubt)}"


def decode(text: str) -> Recent | None:
    """Return what was left behind; None for what is damaged, foreign or of another version."""
    found = _NOTE.fullmatch(text)
    if found is None:
        return None
    until_s, known_from_s, first_s = (_seconds(digits) for digits in found.groups()[:3])
    lists = found.groups()[3:]
    if until_s is None or any(len(kinds) % KIND_CHARACTERS for kinds in lists):
        return None
    executed, possible, in_doubt = (tuple(_cut(kinds)) for kinds in lists)
    return Recent(until_s, known_from_s, first_s, executed, possible, in_doubt)


def _head(recent: Recent) -> str:
    return f"{VERSION}.{_number(recent.until_s)}..{_number(recent.first_s)}..."


def _cut(kinds: str) -> Iterable[str]:
    return (kinds[at : at + KIND_CHARACTERS] for at in range(0, len(kinds), KIND_CHARACTERS))


def _hash(text: str) -> str:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")


def _number(seconds: float | None) -> str:
    if seconds is None:
        return "0"
    number, digits = max(1, round(seconds * 1000)), ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _seconds(digits: str) -> float | None:
    return int(digits, 36) / 1000 or None
