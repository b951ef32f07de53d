"""What a commit says beside its offset: who made it, and how fast each site could be served. Pure.

Kafka keeps up to 4,096 characters with every committed offset (ASCII here: the limit counts UTF-16 units). Every commit
of ours carries the whole note, since a commit without one would wipe it. The note is read by other members and by
later versions: a version comes first, fields that are not known are kept out of the way, and whatever is damaged or
foreign is no note at all.

    gw1 m=1f3a5c7e9b2d w=main:45,other:7.5
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = "gw1"
LIMIT_CHARACTERS = 4096
_MEMBER = re.compile(r"[0-9a-f]{4,32}")
_SITE = re.compile(r"[A-Za-z0-9_-]{1,200}")
# A few significant digits: the note changes, and is committed again, only when the wish really changes.
DIGITS = 2


@dataclass(frozen=True, slots=True)
class Note:
    """The metadata of one partition's commit."""

    member: str  # hex digits, drawn anew by every process: tells whose word this is
    wanted_per_s: Mapping[str, float] = field(default_factory=dict)  # site -> what the member could use


def encode(note: Note) -> str:
    """Return the note as ASCII text within Kafka's limit. Sites that do not fit are left out, the last ones first."""
    if not _MEMBER.fullmatch(note.member):
        raise ValueError("a member is named by 4 to 32 hex digits")
    head = f"{VERSION} m={note.member}"
    wishes: list[str] = []
    length = len(head) + len(" w=")
    for site, rate in note.wanted_per_s.items():
        wish = f"{site}:{_rounded(rate)}"
        length += len(wish) + 1
        if length > LIMIT_CHARACTERS:
            break
        wishes.append(wish)
    return f"{head} w={','.join(wishes)}" if wishes else head


def decode(metadata: str) -> Note | None:
    """Return the note; None where there is none, or one that is damaged, foreign or of an unknown version."""
    version, _, rest = metadata.partition(" ")
    if version != VERSION:
        return None
    fields = dict(part.partition("=")[::2] for part in rest.split(" "))
    member = fields.get("m", "")
    if not _MEMBER.fullmatch(member):
        return None
    wanted: dict[str, float] = {}
    for wish in filter(None, fields.get("w", "").split(",")):
        site, _, text = wish.rpartition(":")
        rate = _rate(text)
        if rate is None or not _SITE.fullmatch(site):
            return None
        wanted[site] = rate
    return Note(member, wanted)


def _rounded(rate: float) -> str:
    return f"{float(f'{rate:.{DIGITS}g}'):g}" if math.isfinite(rate) and rate > 0 else "0"


def _rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if math.isfinite(rate) and rate >= 0 else None
