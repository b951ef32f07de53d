"""What a user did, as gm.getActionsLog tells it: the question, and its answer read. Pure.

An entry says when, which action, how many points, and for which challenge; it does not say which request it comes from
(guide, gm.getActionsLog). One call writes one entry for each challenge that its action belongs to.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.gigya.replies import Reply
from worker.model import Json


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a user's log. `time_s` is Unix time by the site's clock."""

    time_s: float
    action: str
    points: int | None
    challenge: str


def log_params(uid: str, start_s: float, end_s: float) -> dict[str, str]:
    """Return the parameters that ask for a time range, in whole Unix seconds, rounded outwards."""
    return {"UID": uid, "startTime": str(max(0, math.floor(start_s))), "endTime": str(math.ceil(end_s))}


def read_actions_log(reply: Reply) -> tuple[LogEntry, ...] | None:
    """Return the entries of an accepted answer; None where it is not clear what the log holds.

    A list that is absent is not an empty one: nothing is concluded from what is not said.
    """
    listed = reply.body.get("actions") if reply.body is not None else None
    if reply.error_code != 0 or not isinstance(listed, Sequence) or isinstance(listed, str):
        return None
    entries = []
    for each in listed:
        entry = _entry(each)
        if entry is None:
            return None
        entries.append(entry)
    return tuple(entries)


def execution_times(entries: Iterable[LogEntry], action: str, points: int | None) -> list[float] | None:
    """Return when the action was executed, ascending: one time for each execution, however many challenges it has.

    With `points`, only executions that granted so many. The challenge with the most entries counts, so that executions
    within one second stay apart, and one that straddles two seconds is still one. None where that cannot be told:
    another challenge has entries that this one lacks.
    """
    by_challenge: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        if entry.action == action and (points is None or entry.points is None or entry.points == points):
            by_challenge[entry.challenge].append(entry.time_s)
    every = sorted((sorted(times) for times in by_challenge.values()), key=_count, reverse=True)
    if not every:
        return []
    return every[0] if all(_is_within(times, every[0]) for times in every[1:]) else None


def _count(times: Sequence[float]) -> int:
    return len(times)


def _is_within(some: Sequence[float], all_of_them: Sequence[float]) -> bool:
    """Say whether each of `some` stands beside one of its own in `all_of_them`, at most a second away."""
    position = 0
    for time_s in some:
        while position < len(all_of_them) and all_of_them[position] < time_s - 1.0:
            position += 1
        if position == len(all_of_them) or all_of_them[position] > time_s + 1.0:
            return False
        position += 1
    return True


def _entry(value: Json) -> LogEntry | None:
    if not isinstance(value, Mapping):
        return None
    time_s, action = _time_s(value.get("time")), value.get("actionID")
    if time_s is None or not isinstance(action, str):
        return None
    # Interned: thousands of entries are kept, of a few actions and challenges.
    challenge = sys.intern(str(value.get("challengeID") or ""))
    return LogEntry(time_s, sys.intern(action), _whole(value.get("points")), challenge)


_MILLISECONDS_FROM = 1e11  # as seconds that would be the year 5138


def _time_s(value: Json) -> float | None:
    """Read Unix seconds or milliseconds, as a number or digits, or ISO 8601: the page does not show which."""
    if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    number = float(value)
    return number / 1000 if number >= _MILLISECONDS_FROM else number


def _whole(value: Json) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None
