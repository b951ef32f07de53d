"""How the calls of a dead letter ended, as JSON that stays small however many there are.

Pure. A replay makes the calls again that were not delivered, so an end that is dropped is a call made twice or never.
Therefore: up to the limit every call has a row of its own with all that is known; above it, calls that ended alike
share a row that lists their items as ranges (`"items": "0-57,59-99"`), which loses callId, attempts and text; and only
what does not fit even so is left out, counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from worker.model import CallName, Json, Outcome, OutcomeKind

ROW_TEXT_LIMIT = 300  # characters of one call's text
DETAILS_LIMIT = 10  # entries of one call's details; publishing has six providers
ITEMS_LIMIT = 200_000  # of all rows: what somebody writes into a header must not fill our memory
RANGES_PER_ROW = 50


class Damaged(ValueError):
    """The JSON is not what `calls_to_json` writes. The text holds none of it."""


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call of a record, and how it ended."""

    name: CallName
    outcome: Outcome


def calls_to_json(calls: Sequence[CallEnd], limit_bytes: int) -> tuple[bytes, int]:
    """Return the JSON, at most `limit_bytes` long, and the number of calls that did not fit in."""
    if len(calls) * 60 <= limit_bytes:  # no row is shorter: do not build what cannot fit
        rows = _joined([_packed(_full_row(call)) for call in calls])
        if len(rows) <= limit_bytes:
            return rows, 0
    kept: list[bytes] = []
    size_bytes, written = 2, 0
    for row, count in _shared_rows(calls):
        packed = _packed(row)
        if size_bytes + len(packed) + 1 > limit_bytes or written + count > ITEMS_LIMIT:
            break
        kept.append(packed)
        size_bytes += len(packed) + 1
        written += count
    return _joined(kept), len(calls) - written


def _packed(row: Mapping[str, Json]) -> bytes:
    # Not orjson: a lone surrogate in a name must not keep a dead letter from being written.
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _joined(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _full_row(call: CallEnd) -> dict[str, Json]:
    name, outcome = call.name, call.outcome
    row = _row(name.event, name.rule, outcome)
    row["item"] = name.item
    row["attempts"] = outcome.attempts
    if outcome.call_id:
        row["callId"] = outcome.call_id[:ROW_TEXT_LIMIT]
    if outcome.text:
        row["text"] = outcome.text[:ROW_TEXT_LIMIT]
    if outcome.details:
        row["details"] = {
            key[:ROW_TEXT_LIMIT]: value[:ROW_TEXT_LIMIT]
            for key, value in islice(outcome.details.items(), DETAILS_LIMIT)
        }
    return row


def _row(event: int, rule: str, outcome: Outcome) -> dict[str, Json]:
    row: dict[str, Json] = {"event": event, "rule": rule, "outcome": outcome.kind.value, "reason": outcome.reason}
    if outcome.code is not None:
        row["code"] = outcome.code
    if outcome.maybe_executed:
        row["maybe_executed"] = True
    return row


def _shared_rows(calls: Sequence[CallEnd]) -> Iterator[tuple[dict[str, Json], int]]:
    alike: dict[tuple[int, str, OutcomeKind, str, int | None, bool], list[int]] = {}
    for call in calls:
        outcome = call.outcome
        kind = (call.name.event, call.name.rule, outcome.kind, outcome.reason, outcome.code, outcome.maybe_executed)
        alike.setdefault(kind, []).append(call.name.item)
    for (event, rule, kind_of_end, reason, code, maybe), items in alike.items():
        ranges = _ranges(sorted(items))
        for start in range(0, len(ranges), RANGES_PER_ROW):
            part = ranges[start : start + RANGES_PER_ROW]
            row = _row(event, rule, Outcome(kind_of_end, reason, code, maybe_executed=maybe))
            row["items"] = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in part)
            yield row, sum(high - low + 1 for low, high in part)


def _ranges(items: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for item in items:
        if ranges and item == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], item)
        else:
            ranges.append((item, item))
    return ranges


def calls_from_json(text: bytes) -> tuple[CallEnd, ...]:
    """Return the calls that `calls_to_json` wrote, in their order; raises Damaged for anything else."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise Damaged("header dlq.calls is not JSON") from None
    if not isinstance(rows, list):
        raise Damaged("header dlq.calls is not a list")
    calls: list[CallEnd] = []
    for row in rows:
        if not isinstance(row, dict):
            raise Damaged("header dlq.calls holds something that is no call")
        outcome = _outcome(row)
        event, rule = _number(row, "event"), _text(row, "rule")
        calls.extend(CallEnd(CallName(event, rule, item), outcome) for item in _items(row, ITEMS_LIMIT - len(calls)))
    return tuple(calls)


def _outcome(row: Mapping[str, Json]) -> Outcome:
    try:
        kind = OutcomeKind(_text(row, "outcome"))
    except ValueError:
        raise Damaged("header dlq.calls: unknown outcome") from None
    details = row.get("details", {})
    if not isinstance(details, dict) or not all(isinstance(value, str) for value in details.values()):
        raise Damaged("header dlq.calls: details are not texts")
    return Outcome(
        kind=kind,
        reason=_text(row, "reason"),
        code=_number(row, "code") if "code" in row else None,
        call_id=_text(row, "callId", ""),
        attempts=_number(row, "attempts", 0),
        maybe_executed=row.get("maybe_executed") is True,
        text=_text(row, "text", ""),
        details=details,
    )


def _items(row: Mapping[str, Json], room: int) -> list[int]:
    if "items" not in row:
        if room < 1:
            raise Damaged("header dlq.calls holds too many calls")
        return [_number(row, "item", 0)]
    items: list[int] = []
    for part in _text(row, "items").split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            raise Damaged("header dlq.calls: items are not ranges")
        low = int(match[1])
        high = int(match[2] or low)
        if high - low >= room - len(items):
            raise Damaged("header dlq.calls holds too many calls")
        items.extend(range(low, high + 1))
    return items


def _text(row: Mapping[str, Json], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise Damaged(f"header dlq.calls: {name} is missing or no text")
    return value


def _number(row: Mapping[str, Json], name: str, default: int | None = None) -> int:
    value = row.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Damaged(f"header dlq.calls: {name} is missing or no whole number")
    return value
