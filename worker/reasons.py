"""Why a record or a call ended, or waits, where the reason is the worker's own and not an answer of Gigya's.

Answers are in gigya/reasons.py; `gigya-worker explain` shows both. A reason is a stable label: metrics, logs and dead
letters carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class OwnReason:
    """One reason for people. `end` is `filtered`, `dead letter`, `outcome` or `waiting`."""

    end: str
    meaning: str
    remedy: str


_DEAD = "dead letter"
_FIX_PRODUCER = "Correct the producer; discard the dead letter, or send a corrected event."

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    # Records that are not events (codecs)
    ("empty_value", _DEAD, "The record's value has no bytes; a tombstone would be null.", _FIX_PRODUCER),
    ("invalid_utf8", _DEAD, "The value is not UTF-8 text.", "Let the producer write UTF-8, or choose another codec."),
    (
        "invalid_json",
        _DEAD,
        "The value is not JSON; the text names the character where it ends to be.",
        "Look at the bytes there. A leading byte 0 is Avro or Protobuf of a schema registry.",
    ),
    ("truncated_json", _DEAD, "The JSON ends too early.", "Look for a size limit between the producer and the topic."),
    ("trailing_data", _DEAD, "Something follows the JSON document.", "Write one event into one record."),
    ("not_an_object", _DEAD, "The value is JSON, but no object: a list, a text, a number.", _FIX_PRODUCER),
    (
        "not_a_number",
        _DEAD,
        "NaN and Infinity are not JSON.",
        "Let the producer leave such numbers out.",
    ),
    ("number_too_large", _DEAD, "A number is beyond what a double holds.", "Let the producer write it as text."),
    ("lone_surrogate", _DEAD, "Half of a surrogate pair is escaped: text that was cut in two.", _FIX_PRODUCER),
    ("too_deep", _DEAD, "More levels are nested than a JSON reader follows.", _FIX_PRODUCER),
    # Records that no call comes of
    ("no_value", "filtered", "A tombstone: the record has no value.", "Nothing to do."),
    ("no_type", "filtered", "The event says no type where event.type looks.", "Check event.type in the rules."),
    ("no_rule", "filtered", "No rule names this type of event.", "Nothing to do, unless a rule should."),
    ("when_false", "filtered", "Rules name the type, and `when` of each is false.", "Nothing to do."),
    ("unwanted", "filtered", "No rule wants the event: no type, no rule for it, or `when` is false.", "Nothing to do."),
    # Ends that are ours
    (
        "stale",
        "outcome",
        "The event is older than the rule's max_age; no call was made for it now.",
        "Nothing to do; on_stale: dead_letter keeps such events.",
    ),
    # What holds a record
    ("waiting", "waiting", "A call waits for its turn, for the quota, or for an earlier call of its user.", "Wait."),
    ("in_flight", "waiting", "A request is under way.", "Wait; the time-out is delivery.attempt_timeout_s."),
    ("backoff", "waiting", "A call failed and is tried again after a pause.", "See the last reason in /status."),
    ("dead_letter", "waiting", "The dead letter is being written.", "If it lasts, check the dead-letter topic."),
    (
        "flood_guard",
        "waiting",
        "Too many of the last records would be dead letters: the worker holds before it writes more of them.",
        "Correct the rules, the producer or the credentials, then restart.",
    ),
)
OWN_REASONS: Mapping[str, OwnReason] = MappingProxyType(
    {reason: OwnReason(end, meaning, remedy) for reason, end, meaning, remedy in _ROWS}
)
