"""Why a record was filtered, became a dead letter, or waits, where no call is the reason.

Calls have theirs in gigya/reasons.py and delivery/reasons.py; `gigya-worker explain` shows all. A reason is a stable
label: metrics, logs and dead letters carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class OwnReason:
    """One reason for people. `end` is `filtered`, `dead letter`, `waiting`, or `worker`: no record's matter."""

    end: str
    meaning: str
    remedy: str


_DEAD = "dead letter"
_WORKER = "worker"
_FIX_PRODUCER = "Correct the producer; discard the dead letter, or send a corrected event."

_AFTER_A_FLOOD = (
    "Look at the newest dead letters; correct the rules, the producer or the credentials, then restart. If these "
    "records shall die, raise the limit in flood_guard, or let as many again die (POST /resume)."
)

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
    # ... and what should be CloudEvents and is none
    (
        "missing_attribute",
        _DEAD,
        "A CloudEvent lacks one of specversion, id, source and type, or it is empty.",
        "Correct the producer. If the records are no CloudEvents, write format: json in the rules.",
    ),
    ("bad_attribute", _DEAD, "A CloudEvent's attribute is not text, or no UTF-8, or holds a NUL.", _FIX_PRODUCER),
    (
        "unknown_specversion",
        _DEAD,
        "The CloudEvent's specversion is not 1.x.",
        "Let the producer write CloudEvents 1.0.",
    ),
    (
        "unknown_format",
        _DEAD,
        "The content-type header names an event format of CloudEvents other than JSON (Avro, Protobuf, XML).",
        "Let the producer write application/cloudevents+json, or binary mode with JSON data.",
    ),
    (
        "bad_data",
        _DEAD,
        "A CloudEvent's data cannot be told: data_base64 is no base64 or stands beside data, or a batch is no list.",
        _FIX_PRODUCER,
    ),
    # Records that no call comes of
    (
        "no_value",
        "filtered",
        "The record holds no event: a tombstone without a value, or an empty batch.",
        "Nothing to do.",
    ),
    ("no_type", "filtered", "The event says no type where event.type looks.", "Check event.type in the rules."),
    ("no_item", "filtered", "Rules name the type, and the list that their `each` names is empty.", "Nothing to do."),
    ("no_rule", "filtered", "No rule names this type of event.", "Nothing to do, unless a rule should."),
    ("when_false", "filtered", "Rules name the type, and `when` of each is false.", "Nothing to do."),
    ("unwanted", "filtered", "No rule wants the event: no type, no rule for it, or `when` is false.", "Nothing to do."),
    # Events that a rule wants and cannot make its call of (mapping); all of the record's calls are left undone
    (
        "missing_field",
        _DEAD,
        "A rule reads a field that the event does not have.",
        "If it may be missing, write has(event.x) ? event.x : null; else correct the producer. Then replay.",
    ),
    (
        "wrong_type",
        _DEAD,
        "A value has another type than the expression or the parameter wants.",
        "Convert it in the rule (string(), int(), double()), or correct the producer. Then replay.",
    ),
    (
        "expression_failed",
        _DEAD,
        "An expression of a rule fails on this event: no such overload, division by zero, an index out of range.",
        "Run the event as an example of the rule with gigya-worker check; correct the expression, then replay.",
    ),
    (
        "expression_budget",
        _DEAD,
        "An expression of a rule takes too long on this event.",
        "Write it simpler, above all loops over lists within loops. Then replay.",
    ),
    (
        "too_many_items",
        _DEAD,
        "The list of a rule's `each` has more than 1,000 elements.",
        "Let the producer split the event, or take a part of the list in each: with filter(), then replay.",
    ),
    ("when_not_bool", _DEAD, "A rule's `when` gives neither true nor false.", "Compare something in it. Then replay."),
    (
        "inexact_number",
        _DEAD,
        "A whole number is beyond what it can be converted to without loss.",
        "Let the producer write it as text, or leave it as it is in the rule.",
    ),
    ("bad_text", _DEAD, "A text holds what no UTF-8 can: half of a surrogate pair.", _FIX_PRODUCER),
    (
        "invalid_parameter",
        _DEAD,
        "A parameter breaks a limit of the API; the text names parameter and limit.",
        "Correct rule or producer, then replay.",
    ),
    (
        "unreadable_time",
        _DEAD,
        "The rule has a max_age, and the event's time cannot be read.",
        "Correct event.time in the rules: RFC 3339, or seconds, milliseconds, ... since 1970. Then replay.",
    ),
    (
        "parked",
        _DEAD,
        "An operator turned the record into a dead letter (POST /park), so that it holds its partition no longer; the "
        "text says who and why. Of its calls, those not marked maybe_executed were not made.",
        "Find out what held it, then replay or discard.",
    ),
    # What holds a record
    ("waiting", "waiting", "A call waits for its turn, the quota, or its user's earlier call.", "Nothing to do."),
    (
        "ask",
        "waiting",
        "A call was refused with 403003 or 403005, which decide nothing alone: the site is being asked.",
        "Nothing to do; no decision for delivery.ask_limit_s stops the site, and /readyz says so.",
    ),
    (
        "paused",
        "waiting",
        "An operator has paused the site: no request to it starts.",
        "Ask whoever paused it; POST /resume ends the pause, and so does a restart.",
    ),
    ("dead_letter", "waiting", "The dead letter is being written.", "If it lasts, check the dead-letter topic."),
    (
        "flood_guard",
        "waiting",
        "Too many of the last records would be dead letters: the worker holds before it writes more of them.",
        _AFTER_A_FLOOD,
    ),
    ("flood_run", "waiting", "Too many records in a row would be dead letters: the flood guard holds.", _AFTER_A_FLOOD),
    ("flood_ratio", "waiting", "Too great a share would be dead letters: the flood guard holds.", _AFTER_A_FLOOD),
    (
        "dead_letter_write_failed",
        "waiting",
        "The dead-letter topic did not take the letter; it is written again until it does.",
        "Look at the brokers, and at the login's Write on the topic.",
    ),
    (
        "dead_letter_too_large",
        "waiting",
        "The dead-letter topic takes no message of this size: a reference to the record is written in its place.",
        "Raise max.message.bytes of the dead-letter topic to that of the source topics.",
    ),
    # What concerns the worker, not a record
    ("joining", _WORKER, "The group has given this member no partitions yet.", "Nothing to do, unless it lasts."),
    (
        "no_heartbeat",
        _WORKER,
        "The group has not answered a heartbeat for so long that another member may own our partitions before an "
        "attempt ends: none is started.",
        "Look at the brokers, the network and this machine's CPU. The worker goes on by itself.",
    ),
    (
        "not_compacted",
        _WORKER,
        "The dead-letter topic is not purely compacted (any more): letters will be deleted with age, looked at or not. "
        "It was altered, or deleted and made anew by a broker with auto.create.topics.enable.",
        "Set its cleanup.policy to compact (kafka-configs.sh --alter), and look which letters it still holds. New ones "
        "are written meanwhile; the worker looks again every minute.",
    ),
    (
        "offset_out_of_range",
        _WORKER,
        "Retention deleted records before they were read: their partition stands still.",
        "Start with --accept-gap to go on behind the gap, and raise the topic's retention.",
    ),
    (
        "commit_failed",
        _WORKER,
        "A commit did not happen, or is not known to have; the next one carries the same or more.",
        "Look at the brokers.",
    ),
    (
        "commit_refused",
        _WORKER,
        "The group refused a commit: the partitions have another owner by now.",
        "Nothing to do; if it repeats, look for pauses of this process (CPU, memory) longer than the session time-out.",
    ),
    (
        "source_failed",
        _WORKER,
        "Reading cannot go on: a permission is gone, or a topic was deleted. The worker drains and ends; nothing is "
        "lost.",
        "Mend what the line names, then start it again.",
    ),
    (
        "file_failed",
        _WORKER,
        "A file of a backfill could not be read to its end. What was read is done, and kept in the state file.",
        "Mend what the line names; the same command goes on.",
    ),
    (
        "refused",
        _WORKER,
        "Settings or rules are wrong. Nothing was started.",
        "Correct what the lines name; gigya-worker check says all of it at once.",
    ),
    (
        "start_failed",
        _WORKER,
        "Something outside is missing at the start: broker, topic, login, permission. Nothing was consumed.",
        "Mend what the lines name; gigya-worker preflight says all of it at once.",
    ),
    (
        "unreadable_input",
        _WORKER,
        "A file, a pipe or a topic that a command shall read cannot be read at all.",
        "The line says what is wrong with it.",
    ),
    (
        "not_a_dead_letter",
        _WORKER,
        "A message of the dead-letter topic is none of ours: foreign, damaged, or of a newer worker.",
        "Find out who else writes to the topic; a newer worker's letters are for a newer worker to read.",
    ),
    (
        "maybe_executed",
        _WORKER,
        "A replay leaves the dead letter as it is: calls of it may have been executed, and nothing could tell.",
        "Find out whether the user has got it; then discard it, or replay with --include-maybe-executed.",
    ),
    (
        "generation_limit",
        _WORKER,
        "A replay leaves the dead letter as it is: it died again as often as --max-generation allows.",
        "Look at it with dead-letters show; discard it, or raise --max-generation.",
    ),
    (
        "not_committed",
        _WORKER,
        "A replay leaves the dead letter as it is: the group has not passed its record, and would make its calls, too.",
        "Let the worker run, and replay again; after a crash or when the group was set back it makes the calls itself.",
    ),
    (
        "reference_gone",
        _WORKER,
        "The dead letter is a reference, and its record is not in the source topic any more, or is another one.",
        "Send the event anew, and discard the letter.",
    ),
    (
        "no_such_group",
        _WORKER,
        "No dead letter is in a group whose name begins so, or several groups are.",
        "gigya-worker dead-letters groups lists them; give more digits.",
    ),
    (
        "unproven",
        _WORKER,
        "Preflight found nothing that proves a site's credentials, and nothing that refutes them.",
        "Give the key's permission group gm.getActionConfig (Console > Admin > Applications).",
    ),
)
OWN_REASONS: Mapping[str, OwnReason] = MappingProxyType(
    {reason: OwnReason(end, meaning, remedy) for reason, end, meaning, remedy in _ROWS}
)
