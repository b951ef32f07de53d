"""What a commit says beside its offset: who made it, how fast sites could be served, what is done above it. Pure.

Kafka keeps up to 4,096 characters with every committed offset (ASCII here: the limit counts UTF-16 units). Every commit
of ours carries all of it, since a commit without would wipe it. It is read by other members, by the partition's next
owner and by other versions: a version comes first, fields that are not known are passed over, and what is damaged or
foreign says nothing.

    gw1 m=1f3a5c7e9b2d w=main:45,other:7.5 b=120 h=1153 d=FwA c=9f86d081884c.Sgg s=5c1d0e2b

    m, w   the member, and the calls per second it could use at each site; of the member, not of the partition
    b, h   the base, which is the committed offset, and the horizon
    e      of a backfill: where its range begins and ends in this partition, and the rules it was begun with
    l      of every record below it a dead letter may exist; absent: only of those that c names
    d      runs of records from the base on, in turn unfinished and done (the first may be empty)
    c      records that had started: under which rules, whether a dead letter may exist, and what became of each call
    r      site by site, what its calls of the last seconds were: see delivery/recent.py; as much as there is room for
    s      CRC-32 of everything from b to here: a map that lost its end would be another map

Runs and distances are Elias-gamma codes, packed: a record costs at most a bit and a half, whatever the pattern, so that
10,000 records always fit.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

VERSION = "gw1"
LIMIT_CHARACTERS = 4096
# Of these, what names and wishes may take. The rest is for the progress: see ROOM_BITS.
NOTE_CHARACTERS = 900
# What the fields b, h, e, l and s and the separators take at most, offsets having up to 19 digits; and the heads of
# field c for four versions of the rules.
_FRAME_CHARACTERS = 216
ROOM_BITS = (LIMIT_CHARACTERS - NOTE_CHARACTERS - _FRAME_CHARACTERS) * 6
RULES_DIGITS = 12
_MEMBER = re.compile(r"[0-9a-f]{4,32}")
_SITE = re.compile(r"[A-Za-z0-9_-]{1,200}")
_PROGRESS = re.compile(r"(?:^| )(b=\d{1,19} h=\d{1,19}(?: [^ ]+)*?) s=([0-9a-f]{8})(?: |$)")
_PACKED = re.compile(r"[A-Za-z0-9_-]*")
_RULES = re.compile(r"[0-9A-Za-z]{0,64}")
_BOUNDS = re.compile(r"(\d{1,19})-(\d{1,19})-([0-9A-Za-z]{0,12})")
# A few significant digits: the note changes, and is committed again, only when the wish really changes.
DIGITS = 2


@dataclass(frozen=True, slots=True)
class Note:
    """What a member tells the others, the same with every partition."""

    member: str = ""  # hex digits, drawn anew by every process: tells whose word this is; empty: nobody's
    wanted_per_s: Mapping[str, float] = field(default_factory=dict)  # site -> what the member could use


class Mark(Enum):
    """What is known of one call of a record that had started. The values are prefix codes."""

    OPEN = "0"  # has not ended
    DELIVERED = "10"
    SUSPECT = "110"  # has not ended, and an attempt may have been executed
    CAPPED = "1110"
    STALE = "1111"


@dataclass(frozen=True, slots=True)
class Started:
    """A record that had started and not ended."""

    rules: str  # the first digits of the digest of the rules that mapped it
    calls: tuple[Mark, ...] = ()  # in the order of mapping; empty: nothing is known of them
    has_letter: bool = False  # a dead letter of it may have been written


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a backfill reads of one partition: offsets from `begin` to below `end`.

    They are fixed when it is begun, and every commit of it carries them: the topic grows meanwhile, and a time may
    mean another offset by then.
    """

    begin: int
    end: int
    rules: str = ""  # the first digits of the digest of the rules it was begun with


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of one partition from its committed offset on."""

    base: int  # the committed offset
    horizon: int  # no call of a record at or above it was attempted
    letters_below: int = 0  # of any record below it a dead letter may exist
    done: tuple[range, ...] = ()  # offsets that need no more work; ascending, not touching, none below the base
    started: Mapping[int, Started] = field(default_factory=dict)  # by offset, ascending; none of them done
    left: Mapping[str, str] = field(default_factory=dict)  # site -> what its sender left behind; not for us to read
    bounds: Bounds | None = None  # of a backfill


class Unusable(ValueError):
    """Metadata that holds no progress for this offset. `str()` says why: absent, foreign, version, base, damaged."""


# --- the member's note -------------------------------------------------------------------------------------------


def encode(note: Note) -> str:
    """Return the note as ASCII text. Sites that do not fit are left out, the last ones first."""
    if note.member and not _MEMBER.fullmatch(note.member):
        raise ValueError("a member is named by 4 to 32 hex digits")
    head = f"{VERSION} m={note.member}" if note.member else VERSION
    wishes: list[str] = []
    length = len(head) + len(" w=")
    for site, rate in note.wanted_per_s.items():
        wish = f"{site}:{_rounded(rate)}"
        length += len(wish) + 1
        if length > NOTE_CHARACTERS:
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


# --- the partition's progress ------------------------------------------------------------------------------------


def fit(
    note: Note,
    progress: Progress,
    limit_characters: int = LIMIT_CHARACTERS,
    left: Callable[[int], Mapping[str, str]] = lambda limit_characters: {},
) -> tuple[str, Progress]:
    """Return the metadata of a commit, and what of the progress it says: all of it, wherever that fits.

    What does not fit is left out so that less is believed done, never more; the horizon then covers what was left out.
    Readers of partitions keep it from coming to that: see `worst_bits`. `left` is asked for what the senders leave
    behind in so many characters, and only beside a progress that is told in full: that is what makes it true.
    """
    head = encode(note)
    for less in _less_and_less(progress):
        room = limit_characters - len(head) - 1 - len(_text(less))
        if room < 0:
            continue
        if less is progress and (beside := left(room - len(" r="))):
            with_left = replace(progress, left=beside)
            if len(head) + 1 + len(text := _text(with_left)) <= limit_characters:
                return f"{head} {text}", with_left
        return f"{head} {_text(less)}", less
    raise ValueError(f"{limit_characters} characters cannot hold even an empty map")


def _less_and_less(progress: Progress) -> Iterator[Progress]:
    yield progress
    # What became of single calls is dropped first; that a letter may exist is asked before one is written.
    letters = {offset: replace(each, calls=()) for offset, each in progress.started.items() if each.has_letter}
    horizon = max(progress.horizon, *(offset + 1 for offset in progress.started), 0)
    progress = replace(progress, started=letters, horizon=horizon)
    yield progress
    while progress.done:
        kept = len(progress.done) // 2
        horizon = max(progress.horizon, progress.done[-1].stop)
        progress = replace(progress, done=progress.done[:kept], horizon=horizon)
        yield progress
    while letters:
        letters = dict(list(letters.items())[: len(letters) // 2])
        progress = replace(progress, started=letters)
        yield progress


def decode_progress(metadata: str, offset: int) -> Progress:
    """Return what the metadata of a commit at `offset` says. Raises Unusable."""
    if not metadata:
        raise Unusable("absent")
    version, _, rest = metadata.partition(" ")
    if version != VERSION:
        raise Unusable("version" if re.fullmatch(r"gw\d{1,9}", version) else "foreign")
    found = _PROGRESS.search(rest)
    if found is None:
        # A version of ours that keeps no progress, or the text lost its end.
        raise Unusable("damaged" if " b=" in metadata else "absent")
    body, checksum = found.groups()
    if f"{zlib.crc32(body.encode('utf-8', 'replace')):08x}" != checksum:
        raise Unusable("damaged")
    fields = dict(part.partition("=")[::2] for part in body.split(" "))
    base, horizon = int(fields["b"]), int(fields["h"])
    if base != offset:
        raise Unusable("base")
    try:
        done, started = _done(base, fields.get("d", "")), _started(base, fields.get("c", ""))
        left = dict(part.partition(":")[::2] for part in filter(None, fields.get("r", "").split(",")))
        return Progress(base, horizon, int(fields.get("l", "0")), done, started, left, _bounds(fields.get("e")))
    except (ValueError, IndexError) as error:
        raise Unusable("damaged") from error


def _bounds(text: str | None) -> Bounds | None:
    if text is None:
        return None
    found = _BOUNDS.fullmatch(text)
    if found is None:
        raise ValueError("not bounds")
    return Bounds(int(found[1]), int(found[2]), found[3])


def _text(progress: Progress) -> str:
    parts = [f"b={progress.base}", f"h={progress.horizon}"]
    if (bounds := progress.bounds) is not None:
        parts.append(f"e={bounds.begin}-{bounds.end}-{bounds.rules[:RULES_DIGITS]}")
    if progress.letters_below > progress.base:
        parts.append(f"l={progress.letters_below}")
    if progress.done:
        parts.append(f"d={_packed(_runs(progress.base, progress.done))}")
    if progress.started:
        parts.append(f"c={_by_rules(progress.base, progress.started)}")
    if progress.left:
        parts.append(f"r={','.join(f'{site}:{text}' for site, text in progress.left.items())}")
    body = " ".join(parts)
    return f"{body} s={zlib.crc32(body.encode()):08x}"


def _runs(base: int, done: Sequence[range]) -> str:
    codes: list[str] = []
    at = base - 1  # one more than its length is coded of the first run, which may be empty
    for run in done:
        codes += (_gamma(run.start - at), _gamma(len(run)))
        at = run.stop
    return "".join(codes)


def _done(base: int, text: str) -> tuple[range, ...]:
    codes, at, done = _Codes(text), base - 1, []
    while codes.has_more:
        start = at + codes.gamma()
        at = start + codes.gamma()
        done.append(range(start, at))
    return tuple(done)


def _by_rules(base: int, started: Mapping[int, Started]) -> str:
    codes: dict[str, list[str]] = {}
    last: dict[str, int] = {}
    for offset, each in started.items():
        mine = codes.setdefault(each.rules, [])
        mine += (_gamma(offset - last.get(each.rules, base - 1)), _gamma(len(each.calls) + 1))
        mine.append("1" if each.has_letter else "0")
        mine += [mark.value for mark in each.calls]
        last[each.rules] = offset
    return ",".join(f"{rules}.{_packed(''.join(mine))}" for rules, mine in codes.items())


def _started(base: int, text: str) -> dict[int, Started]:
    started: dict[int, Started] = {}
    for group in filter(None, text.split(",")):
        rules, dot, packed = group.partition(".")
        if not dot or not _RULES.fullmatch(rules):
            raise ValueError("not a group of records")
        codes, offset = _Codes(packed), base - 1
        while codes.has_more:
            offset += codes.gamma()
            count = codes.gamma() - 1
            has_letter = codes.bit() == "1"
            started[offset] = Started(rules, tuple(codes.mark() for _ in range(count)), has_letter)
    return dict(sorted(started.items()))


# --- bits --------------------------------------------------------------------------------------------------------


def worst_bits(span: int, runs: int) -> float:
    """Return how many bits at most `runs` Elias-gamma codes can take whose numbers sum up to `span`."""
    if span <= 0 or runs <= 0:
        return 0.0
    # The sum is greatest for equal numbers, and grows with their count up to a mean of about two.
    runs = min(runs, max(1, int(span / 1.9)))
    return runs * (2 * math.log2(max(1.0, span / runs)) + 1) + 2


def worst_bits_of_calls(count: int) -> int:
    """Return how many bits the marks of a record of so many calls can take, its distance from the last one apart."""
    return 2 * (count + 1).bit_length() + 4 * count


def _gamma(number: int) -> str:
    digits = f"{number:b}"
    return "0" * (len(digits) - 1) + digits


def _packed(bits: str) -> str:
    bits += "0" * (-len(bits) % 8)
    return base64.urlsafe_b64encode(int(bits or "0", 2).to_bytes(len(bits) // 8, "big")).decode().rstrip("=")


class _Codes:
    """Reads packed codes. Raises ValueError or IndexError for what cannot be one."""

    def __init__(self, packed: str) -> None:
        if not _PACKED.fullmatch(packed):
            raise ValueError("not packed bits")
        raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        self._bits = f"{int.from_bytes(raw, 'big'):0{len(raw) * 8}b}" if raw else ""
        self._at = 0

    @property
    def has_more(self) -> bool:
        """Return whether another code follows; every one holds a 1, and zeros fill the last byte up."""
        return self._bits.find("1", self._at) >= 0

    def gamma(self) -> int:
        first = self._bits.index("1", self._at)
        end = first + (first - self._at) + 1
        if end > len(self._bits) or first - self._at > 63:
            raise ValueError("a number is cut off")
        number, self._at = int(self._bits[first:end], 2), end
        return number

    def bit(self) -> str:
        bit = self._bits[self._at]
        self._at += 1
        return bit

    def mark(self) -> Mark:
        code = ""
        while len(code) < 4 and not code.endswith("0"):
            code += self.bit()
        return Mark(code)
