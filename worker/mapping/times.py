"""When did an event happen, and how long is a `max_age`? Pure."""

from __future__ import annotations

import datetime
import re
from typing import Final

from worker.model import Json

_DURATION: Final = re.compile(r"(\d{1,9})([smhd])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# RFC 3339, section 5.6: a full date, a time with seconds, an offset. `fromisoformat` alone takes much more.
_RFC_3339: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(\.\d{1,12})?([Zz]|[-+]\d{2}:\d{2})", re.ASCII
)

# Epoch numbers by magnitude: seconds until the year 5138, milliseconds from 1973 on, and so forth.
_MAGNITUDES: Final = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))


def duration_s(text: str) -> int | None:
    """Read `90s`, `15m`, `24h` or `7d`: one whole number above zero, one unit. None when it is something else."""
    match = _DURATION.fullmatch(text.strip())
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    return seconds or None


def unix_s(value: Json) -> float | None:
    """Read RFC 3339 text (any offset, any fraction) or an epoch number in s, ms, us or ns; None for anything else."""
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    for limit, per_second in _MAGNITUDES:
        if abs(value) < limit:
            return value / per_second
    return None


def _from_text(text: str) -> float | None:
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    day, minute, second, fraction, offset = match.groups()
    # A leap second is written :60; Unix time has none, so it is the first instant of the next minute.
    leap_s = 1.0 if second == "60" else 0.0
    try:
        moment = datetime.datetime.fromisoformat(f"{day}T{minute}:{'59' if leap_s else second}{offset.upper()}")
        return moment.timestamp() + leap_s + float(fraction or 0)
    except (ValueError, OverflowError):
        return None
