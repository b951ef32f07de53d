"""What `try` found, as JSON: the shape that programs rely on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from worker.gigya.calls import Call
from worker.inspect.coverage import Coverage, RuleCount
from worker.inspect.difference import CallChange, RecordChange, Totals
from worker.inspect.preview import RuleSaid, Tried, TriedEvent
from worker.inspect.request import Signatory, masked_request
from worker.model import Json

TOP_TYPES: Final = 10


def of_record(tried: Tried, *, now_s: float, signatories: Mapping[str, Signatory] | None) -> dict[str, Json]:
    """Return one record; with `signatories`, each call has the request it would be."""
    record = tried.record
    return {
        "where": tried.where,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "fate": tried.fate.value,
        "reason": tried.reason,
        "text": tried.text,
        "events": [_of_event(event, now_s, signatories) for event in tried.events],
    }


def _of_event(event: TriedEvent, now_s: float, signatories: Mapping[str, Signatory] | None) -> dict[str, Json]:
    return {
        "event": event.number,
        "type": event.type,
        "filtered": event.filtered,
        "text": event.text,
        "calls": [_of_call(call, now_s, signatories) for call in event.calls],
        "rules": [_of_rule(said) for said in event.rules],
    }


def _of_rule(said: RuleSaid) -> dict[str, Json]:
    return {
        "rule": said.rule,
        "end": said.end.value,
        "text": said.text,
        "reason": said.reason,
        "parameter": said.parameter,
        "facts": list(said.facts),
    }


def _of_call(call: Call, now_s: float, signatories: Mapping[str, Signatory] | None) -> dict[str, Json]:
    found: dict[str, Json] = {
        "rule": call.name.rule,
        "item": call.name.item,
        "method": call.method.name,
        "site": call.site,
        "uid": call.uid,
        "params": dict(call.params),
        "stale": call.stale_at_s is not None and now_s > call.stale_at_s,
    }
    if signatories is not None:
        request = masked_request(call, signatories[call.site], now_s=now_s)
        found["request"] = {
            "verb": request.verb,
            "url": request.url,
            "authorization": request.authorization,
            "body": request.body,
        }
    return found


def of_coverage(coverage: Coverage, *, top: int = TOP_TYPES) -> dict[str, Json]:
    """Return the counts over a sample."""
    spread, spread_uids = coverage.in_several_partitions()
    return {
        "records": {fate.value: count for fate, count in coverage.records.items()},
        "events": coverage.events,
        "calls": coverage.calls,
        "filtered": dict(coverage.filtered.most_common()),
        "dead_letters": dict(coverage.dead.most_common()),
        "undecodable": dict(coverage.undecodable.most_common()),
        "rules": [_of_count(name, count) for name, count in coverage.rules.items()],
        "switched_off": list(coverage.switched_off),
        "unknown_types": [{"type": kind, "events": count} for kind, count in coverage.unknown_types.most_common(top)],
        "unknown_types_in_all": len(coverage.unknown_types),
        "users": coverage.users,
        "busiest": [{"uid": uid, "calls": calls} for uid, calls in coverage.busiest()],
        # Of a file's plain lines nobody knows the partition.
        "in_several_partitions": spread if coverage.is_spread_known else None,
        "in_several_partitions_for_example": list(spread_uids),
        "actions": [
            {
                "action": action,
                "calls": count.calls,
                "cap": count.cap,
                "over_cap": count.over_cap,
                "users_over_cap": len(count.users_over_cap),
            }
            for action, count in sorted(coverage.actions.items(), key=lambda item: -item[1].calls)
        ],
    }


def _of_count(name: str, count: RuleCount) -> dict[str, Json]:
    return {
        "rule": name,
        "seen": count.seen,
        "fired": count.fired,
        "calls": count.calls,
        "stale": count.stale,
        "when_false": count.when_false,
        "no_item": count.no_item,
        "failed": count.failed,
        "lost_with_its_record": count.lost,
        "failures": [
            {
                "reason": failure.reason,
                "parameter": failure.parameter,
                "text": failure.text,
                "events": events,
                "first": where,
            }
            for failure, (events, where) in sorted(count.failures.items(), key=lambda item: -item[1][0])
        ],
    }


def of_change(change: RecordChange) -> dict[str, Json]:
    """Return what is not the same of one record."""
    return {
        "where": change.before.where,
        "before": {"fate": change.before.fate.value, "reason": change.before.reason, "text": change.before.text},
        "after": {"fate": change.after.fate.value, "reason": change.after.reason, "text": change.after.text},
        "reordered": change.is_reordered,
        "calls": [_of_call_change(each) for each in change.calls],
    }


def _of_call_change(change: CallChange) -> dict[str, Json]:
    call = change.call
    return {
        "change": change.kind.value,
        "rule": call.name.rule,
        "item": call.name.item,
        "method": call.method.name,
        "site": call.site,
        "uid": call.uid,
        "params": dict(call.params),
        "fields": [{"name": each.name, "before": each.before, "after": each.after} for each in change.fields],
    }


def of_totals(totals: Totals) -> dict[str, Json]:
    """Return what all changes come to."""
    return {
        "records": totals.records,
        "records_changed": totals.records_changed,
        "calls_before": totals.calls_before,
        "calls_after": totals.calls_after,
        "calls": {kind.value: count for kind, count in totals.calls.items()},
        "rules": {rule: {kind.value: n for kind, n in kinds.items()} for rule, kinds in totals.by_rule.items()},
        "fields": dict(totals.fields.most_common()),
        "ends": [{"before": before, "after": after, "records": n} for (before, after), n in totals.ends.most_common()],
        "reordered": totals.reordered,
    }


def as_text(document: Mapping[str, Json], *, is_indented: bool = False) -> str:
    """Return JSON; text that is no text anywhere else (half of a surrogate pair) cannot be in it."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 if is_indented else None).decode()
