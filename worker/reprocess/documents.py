"""Groups and letters for programs, as JSON; what is personal in a record is masked unless it is to be shown. Pure."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence

from worker.deadletters.record import DeadLetter
from worker.model import Event, Json
from worker.reprocess.choosing import facts_of
from worker.reprocess.index import Group

MASK = "***"


def time_text(unix_ms: float) -> str:
    """Return a time in UTC, to the second."""
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def of_group(group: Group, *, meaning: str, remedy: str) -> dict[str, Json]:
    kind = group.kind
    return {
        "group": kind.fingerprint,
        "records": group.records,
        "users": group.users,
        "first": time_text(group.first_ms),
        "last": time_text(group.last_ms),
        "reason": kind.reason,
        "code": kind.code,
        "site": kind.site,
        "rule": kind.rule,
        "parameter": kind.parameter,
        "text": kind.text,
        "meaning": meaning,
        "remedy": remedy,
        "example": group.example,
    }


def of_letter(letter: DeadLetter) -> dict[str, Json]:
    """Return what a letter says, without its record: nothing personal."""
    facts = facts_of(letter)
    first_s, last_s = facts.pop("first_s"), facts.pop("last_s")
    assert isinstance(first_s, float | int)  # noqa: S101  # that is what a letter has
    assert isinstance(last_s, float | int)  # noqa: S101
    calls = facts.pop("calls"), facts.pop("calls_left_out")
    facts["group"] = facts.pop("fingerprint")
    return {**facts, "first": time_text(first_s * 1000), "died": time_text(last_s * 1000)} | dict(
        zip(("calls", "calls_left_out"), calls, strict=True)
    )


def of_whole_letter(letter: DeadLetter, events: Sequence[Event], *, reveal: bool) -> dict[str, Json]:
    """Return a letter with its record. Names of fields are shown; what they hold only with `reveal`."""
    record, reference = letter.record, letter.reference
    value: Json = None
    if events:
        payloads = [event.payload if reveal else masked(event.payload) for event in events]
        value = payloads[0] if len(payloads) == 1 else payloads
    elif record.value is not None:
        value = as_text(record.value) if reveal else f"{len(record.value)} bytes that cannot be read"
    headers: list[Json] = [
        {"name": name, "value": None if held is None else as_text(held) if reveal else MASK}
        for name, held in record.headers
    ]
    whole: dict[str, Json] = {
        **of_letter(letter),
        "key": None if record.key is None else as_text(record.key) if reveal else MASK,
        "headers": headers,
        "event": value,
    }
    if reference is not None:
        whole["reference"] = {
            "sha256": reference.sha256,
            "value_bytes": reference.value_bytes,
            "headers_left_out": reference.headers_left_out,
            "key_left_out": reference.key_left_out,
        }
    return whole


def masked(value: Json) -> Json:
    """Return the shape of a value: names of fields, true, false and null stay; texts and numbers do not."""
    if isinstance(value, Mapping):
        return {name: masked(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [masked(held) for held in value]
    return value if value is None or isinstance(value, bool) else MASK


def as_text(held: bytes) -> str:
    """Return bytes as text; where they are none, in base64 and marked so."""
    try:
        return held.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(held).decode('ascii')}"
