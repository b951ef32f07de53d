"""Dead letters as the topic holds them, for the tests of reading them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from worker.deadletters.ends import CallEnd
from worker.deadletters.record import DeadLetter, encode, fingerprint, key_of
from worker.model import CallName, KafkaRecord, Outcome, OutcomeKind

TOPIC = "user-events"
DIED_S = 1_763_800_000.0


def letter_at(
    offset: int,
    *,
    partition: int = 0,
    uid: str = "u1",
    reason: str = "user_unknown",
    code: int | None = 403005,
    rule: str = "watched",
    run: str = "",
    died_s: float = DIED_S,
    timestamp_ms: int = 1_763_700_000_000,
    calls: Sequence[CallEnd] | None = None,
    value: bytes | None = None,
    generation: int = 0,
) -> DeadLetter:
    event = {"type": "watched", "user": {"uid": uid}, "n": offset}
    record = KafkaRecord(
        TOPIC, partition, offset, value or json.dumps(event).encode(), uid.encode(), (("trace", b"t-1"),), timestamp_ms
    )
    failed = Outcome(OutcomeKind.FAILED, reason, code, attempts=1)
    return DeadLetter(
        record,
        reason,
        "the user is unknown",
        fingerprint(reason=reason, code=code, rule=rule),
        calls=[CallEnd(CallName(0, rule), failed)] if calls is None else tuple(calls),
        site="main",
        first_s=died_s - 1,
        last_s=died_s,
        code=code,
        rule=rule,
        run=run,
        generation=generation,
        rules_digest="0" * 64,
    )


def message(letter: DeadLetter, at: int, *, partition: int = 0, written_ms: int = 0) -> KafkaRecord:
    """Return a letter as a message of the dead-letter topic."""
    key, value, headers = encode(letter)
    return KafkaRecord("dead", partition, at, value, key, headers, written_ms)


def tombstone(letter: DeadLetter, at: int, *, partition: int = 0, written_ms: int = 0) -> KafkaRecord:
    return KafkaRecord("dead", partition, at, None, key_of(letter.record, letter.run), (), written_ms)
