"""Which hosts of a site answer? One site speaks to several (gm.*, socialize.*), and one can be away alone. Pure.

A host that is silent for so many users in a row is in an outage. If another one has answered in that time, it is the
only one, and the others go on; else the whole site is. Fewer users than that prove nothing by themselves: then the
host is asked something that no call can be blamed for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

# So many different users in a row without one answer: not a call's fault any more.
OUTAGE_UIDS = 5
# Fewer users: after so long without an answer the host itself is asked.
SILENT_S = 10.0
# A probe that is due this long has nobody to make it: the call that was to make it has gone.
NOBODY_CAME_S = 5.0


@dataclass(slots=True)
class Silence:
    """A row of attempts on one host without an answer."""

    since_s: float
    uids: set[str] = field(default_factory=set)
    is_asked_about: bool = False


@dataclass(slots=True)
class Probes:
    """When a host that is away alone is tried again. One probe at a time."""

    at_s: float
    is_out: bool = False
    is_hurried: bool = False  # the one that is out decides nothing: another at once
    called_s: float = -math.inf  # when a waiting call was last told to be the probe


class Hosts:
    """Who has been silent since when. Times are monotonic."""

    def __init__(self) -> None:
        self._silences: dict[str, Silence] = {}
        self._heard_s: dict[str, float] = {}

    def unanswered(self, host: str, uid: str, now_s: float) -> bool:
        """Note an attempt without an answer; True when so many users have had none in a row."""
        silence = self._silences.get(host)
        if silence is None:
            silence = self._silences[host] = Silence(now_s)
        if len(silence.uids) < OUTAGE_UIDS:  # an outage may be long, and each probe another user's
            silence.uids.add(uid)
        return len(silence.uids) >= OUTAGE_UIDS

    def answered(self, host: str, now_s: float) -> None:
        """Note an answer of a host."""
        self._heard_s[host] = now_s
        if self._silences:
            self._silences.pop(host, None)

    def is_silent_alone(self, host: str) -> bool:
        """Return whether another host has answered since this one fell silent."""
        since_s = self._silences[host].since_s
        return any(heard_s >= since_s for other, heard_s in self._heard_s.items() if other != host)

    def to_ask_about(self) -> tuple[float, str]:
        """Return when a host is to be asked whether it is there, and which; (inf, "") for never."""
        due = (
            (silence.since_s + SILENT_S, host) for host, silence in self._silences.items() if not silence.is_asked_about
        )
        return min(due, default=(math.inf, ""))

    def asked_about(self, host: str) -> None:
        """Note that a host is being asked; once in each silence."""
        if (silence := self._silences.get(host)) is not None:
            silence.is_asked_about = True

    def __contains__(self, host: str) -> bool:
        """Return whether a host is silent now."""
        return host in self._silences

    def __iter__(self) -> Iterator[str]:
        return iter(self._silences)

    def forget(self, host: str | None = None) -> None:
        """Begin anew with a host, or with all."""
        if host is None:
            self._silences.clear()
        else:
            self._silences.pop(host, None)
