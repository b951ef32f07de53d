"""The dead letter format: what goes in comes out, whatever a record carries."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.deadletters.ends import CallEnd
from worker.deadletters.record import (
    CALLS_LIMIT_BYTES,
    TEXT_LIMIT,
    DeadLetter,
    Message,
    NotADeadLetter,
    as_reference,
    decode,
    encode,
    fingerprint,
)
from worker.model import CallName, KafkaRecord, Outcome, OutcomeKind

NAMES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["dlq.", "dlq.reason", "dlq.version", "dlq.kept.", "dlq.kept.dlq.kept.x", "trace-id", ""]),
)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=30)), max_size=8).map(tuple)
RECORDS = st.builds(
    KafkaRecord,
    topic=st.sampled_from(["user-events", "file:ev\u00e9nts.jsonl", "a.b_c"]),
    partition=st.integers(0, 10_000),
    offset=st.integers(0, 2**62),
    value=st.none() | st.binary(max_size=200),
    key=st.none() | st.binary(max_size=50),
    headers=HEADERS,
    timestamp=st.integers(-1, 2**45),
)
OUTCOMES = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    reason=st.sampled_from(["ok", "invalid_action", "daily_cap"]),
    code=st.none() | st.integers(0, 999_999),
    call_id=st.text("0123456789abcdef", max_size=32),
    attempts=st.integers(0, 50),
    maybe_executed=st.booleans(),
    text=st.text(max_size=50),
    details=st.dictionaries(st.sampled_from(["facebook", "twitter"]), st.text(max_size=20)),
)
ENDS = st.builds(
    CallEnd,
    name=st.builds(CallName, event=st.integers(0, 9), rule=st.text(min_size=1, max_size=20), item=st.integers(0, 99)),
    outcome=OUTCOMES,
)
TIMES_S = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)
LETTERS = st.builds(
    DeadLetter,
    record=RECORDS,
    reason=st.sampled_from(["unmappable", "undecodable", "invalid_action"]),
    text=st.text(max_size=100),
    fingerprint=st.just("0123456789abcdef"),
    calls=st.lists(ENDS, max_size=5).map(tuple),
    site=st.sampled_from(["", "main"]),
    first_s=TIMES_S,
    last_s=TIMES_S,
    generation=st.integers(0, 99),
    rules_digest=st.sampled_from(["", "5be1"]),
    code=st.none() | st.integers(-1, 999_999),
    rule=st.text(max_size=30),
    parameter=st.text(max_size=30),
    run=st.sampled_from(["", "2026-11-01-quiz"]),
    worker_version=st.just("0.1.0"),
    calls_left_out=st.integers(0, 3),
)

RECORD = KafkaRecord("user-events", 3, 118221, b'{"type":"x"}', b"u1", (("trace", b"1"),), 1_700_000_000_123)
LETTER = DeadLetter(
    record=RECORD,
    reason="invalid_action",
    text="400126 invalid action",
    fingerprint=fingerprint(reason="invalid_action", code=400126, rule="watched", text="400126 invalid action"),
    calls=(
        CallEnd(CallName(0, "liked"), Outcome(OutcomeKind.DELIVERED, "ok", 0, "c0ffee", 1)),
        CallEnd(CallName(0, "watched"), Outcome(OutcomeKind.FAILED, "invalid_action", 400126, "beef", 2)),
    ),
    site="main",
    first_s=1_700_000_001.5,
    last_s=1_700_000_002.25,
    rules_digest="5be1",
    code=400126,
    rule="watched",
    worker_version="0.1.0",
)


def headers_of(message: Message) -> dict[str, bytes | None]:
    return dict(message.headers)


def changed(message: Message, name: str, value: bytes | None) -> Message:
    return message._replace(headers=tuple((n, value if n == name else v) for n, v in message.headers))


def without(message: Message, name: str) -> Message:
    return message._replace(headers=tuple(header for header in message.headers if header[0] != name))


@given(LETTERS)
def test_a_letter_comes_back_as_it_was_written(letter: DeadLetter) -> None:
    assert decode(*encode(letter)) == letter


@given(RECORDS)
def test_a_letter_of_a_letter_gives_back_the_letter_and_then_the_record(record: KafkaRecord) -> None:
    first = encode(replace(LETTER, record=record))
    as_read = KafkaRecord("user-events.dead", 0, 7, first.value, first.key, first.headers, 1)
    second = decode(*encode(replace(LETTER, record=as_read)))
    assert second.record == as_read
    third = decode(second.record.key, second.record.value, second.record.headers)
    assert third.record == record


@given(LETTERS)
def test_a_reference_comes_back_as_it_was_written(letter: DeadLetter) -> None:
    reference = as_reference(letter)
    assert decode(*encode(reference)) == reference
    assert as_reference(decode(*encode(reference))) == reference


@given(st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=20)), max_size=20))
def test_nothing_but_a_clear_error_comes_of_foreign_headers(headers: list[tuple[str, bytes | None]]) -> None:
    with pytest.raises(NotADeadLetter):
        decode(b"k", b"v", headers)


@given(st.data())
def test_nothing_but_a_clear_error_comes_of_one_damaged_header(data: st.DataObject) -> None:
    message = encode(as_reference(LETTER) if data.draw(st.booleans()) else LETTER)
    name = data.draw(st.sampled_from([name for name, _ in message.headers]))
    hostile = st.sampled_from([b"[{}]", b"[" * 10_000, b"[1]", b"9" * 5000, b"0001-01-01T00:00+14:00"])
    value = data.draw(st.none() | st.binary(max_size=40) | hostile)
    with contextlib.suppress(NotADeadLetter):
        decode(*changed(message, name, value))


def test_the_wire_format_is_this_one() -> None:
    message = encode(LETTER)
    assert message.key == b"user-events/3/118221"
    assert message.value == b'{"type":"x"}'
    assert message.headers == (
        ("trace", b"1"),
        ("dlq.version", b"1"),
        ("dlq.topic", b"user-events"),
        ("dlq.partition", b"3"),
        ("dlq.offset", b"118221"),
        ("dlq.timestamp", b"1700000000123"),
        ("dlq.reason", b"invalid_action"),
        ("dlq.code", b"400126"),
        ("dlq.rule", b"watched"),
        ("dlq.fingerprint", b"79fbfe7931701e48"),
        ("dlq.site", b"main"),
        ("dlq.first_time", b"2023-11-14T22:13:21.500Z"),
        ("dlq.last_time", b"2023-11-14T22:13:22.250Z"),
        ("dlq.generation", b"0"),
        ("dlq.rules", b"5be1"),
        ("dlq.worker", b"0.1.0"),
        ("dlq.text", b"400126 invalid action"),
        ("dlq.key", b"u1"),
        (
            "dlq.calls",
            b'[{"event":0,"rule":"liked","outcome":"delivered","reason":"ok","code":0,"item":0,"attempts":1,'
            b'"callId":"c0ffee"},{"event":0,"rule":"watched","outcome":"failed","reason":"invalid_action",'
            b'"code":400126,"item":0,"attempts":2,"callId":"beef"}]',
        ),
    )


def test_a_record_without_a_value_is_no_tombstone() -> None:
    message = encode(replace(LETTER, record=replace(RECORD, value=None)))
    assert message.value == b""
    assert headers_of(message)["dlq.value_null"] == b"1"
    assert decode(*message).record.value is None


def test_an_empty_value_and_an_empty_key_are_not_null() -> None:
    record = decode(*encode(replace(LETTER, record=replace(RECORD, value=b"", key=b"")))).record
    assert (record.value, record.key) == (b"", b"")


def test_a_null_key_stays_null() -> None:
    message = encode(replace(LETTER, record=replace(RECORD, key=None)))
    assert headers_of(message)["dlq.key"] is None
    assert decode(*message).record.key is None


def test_a_run_has_letters_of_its_own() -> None:
    assert encode(replace(LETTER, run="r1")).key == b"user-events/3/118221/r1"


def test_a_line_of_a_file_is_named_by_it() -> None:
    record = KafkaRecord("file:old.jsonl.gz", 0, 17, b"{}")
    assert encode(replace(LETTER, record=record, run="r1")).key == b"file:old.jsonl.gz/0/17/r1"


def test_a_file_name_that_is_not_utf_8_comes_back() -> None:
    record = KafkaRecord("file:caf\udce9", 0, 1, b"{}")
    assert decode(*encode(replace(LETTER, record=record))).record == record


def test_a_reference_keeps_the_digest_and_drops_the_bytes() -> None:
    value = b"x" * 2_000_000
    record = KafkaRecord("t", 0, 1, value, b"k" * 5_000, (("h", b"y" * 2_000_000), ("dlq.topic", b"z")), 5)
    message = encode(as_reference(replace(LETTER, record=record, text="t" * 9_999)))
    size_bytes = len(message.key) + len(message.value) + sum(len(n) + len(v or b"") for n, v in message.headers)
    assert size_bytes < 16_384
    letter = decode(*message)
    assert letter.reference is not None
    assert letter.reference.sha256 == hashlib.sha256(value).hexdigest()
    assert letter.reference.value_bytes == 2_000_000
    assert letter.reference.headers_left_out == 2
    assert letter.reference.key_left_out
    assert (letter.record.topic, letter.record.offset, letter.record.value) == ("t", 1, None)


def test_a_long_text_is_cut() -> None:
    text = decode(*encode(replace(LETTER, text="\u00e4" * 5_000))).text
    assert len(text) == TEXT_LIMIT
    assert text.endswith("\u2026")


def test_a_lone_surrogate_in_a_text_does_not_keep_the_letter_from_being_written() -> None:
    assert decode(*encode(replace(LETTER, text="a\ud800b"))).text == "a?b"


def fan_out(count: int, delivered: int) -> tuple[CallEnd, ...]:
    done = Outcome(OutcomeKind.DELIVERED, "ok", 0, "c" * 32, 1)
    failed = Outcome(OutcomeKind.FAILED, "invalid_action", 400126, "c" * 32, 3, text="x" * 200)
    return tuple(
        CallEnd(CallName(0, "each-viewer", item), done if item % 100 < delivered else failed) for item in range(count)
    )


def test_a_fan_out_of_a_hundred_calls_keeps_all_that_is_known_of_each() -> None:
    calls = fan_out(100, delivered=99)
    assert decode(*encode(replace(LETTER, calls=calls))).calls == calls


def test_a_fan_out_of_ten_thousand_calls_stays_small_and_forgets_no_end() -> None:
    calls = fan_out(10_000, delivered=99)
    message = encode(replace(LETTER, calls=calls))
    assert len(headers_of(message)["dlq.calls"] or b"") < CALLS_LIMIT_BYTES
    letter = decode(*message)
    assert letter.calls_left_out == 0
    assert {(call.name, call.outcome.kind) for call in letter.calls} == {(c.name, c.outcome.kind) for c in calls}


def test_ends_that_do_not_fit_in_are_counted() -> None:
    kinds = (OutcomeKind.DELIVERED, OutcomeKind.FAILED)
    calls = tuple(CallEnd(CallName(n, "r", 0), Outcome(kinds[n % 2], "x")) for n in range(5_000))
    letter = decode(*encode(replace(LETTER, calls=calls)))
    assert letter.calls_left_out > 0
    assert len(letter.calls) + letter.calls_left_out == 5_000
    again = decode(*encode(letter))
    assert again.calls_left_out >= letter.calls_left_out
    assert len(again.calls) + again.calls_left_out == 5_000


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (encode(LETTER)._replace(value=None), "resolved"),  # type: ignore[arg-type]
        (without(encode(LETTER), "dlq.version"), "something else than this worker"),
        (changed(encode(LETTER), "dlq.version", b"2"), "its format is 2"),
        (changed(encode(LETTER), "dlq.offset", b"1e3"), "dlq.offset is not a whole number"),
        (changed(encode(LETTER), "dlq.offset", "\u0664".encode()), "dlq.offset is not a whole number"),
        (changed(encode(LETTER), "dlq.offset", b"5"), "its key is not"),
        (changed(encode(LETTER), "dlq.topic", None), "dlq.topic is missing"),
        (without(encode(LETTER), "dlq.key"), "dlq.key is missing"),
        (changed(encode(LETTER), "dlq.first_time", b"yesterday"), "dlq.first_time is not a time"),
        (changed(encode(LETTER), "dlq.first_time", b"2023-11-14"), "dlq.first_time is not a time in UTC"),
        (changed(encode(LETTER), "dlq.calls", b"{"), "dlq.calls is not JSON"),
        (changed(encode(LETTER), "dlq.calls", b"{}"), "dlq.calls is not a list"),
        (changed(encode(LETTER), "dlq.calls", b'[{"outcome":"won"}]'), "unknown outcome"),
        (
            changed(
                encode(LETTER),
                "dlq.calls",
                b'[{"event":0,"rule":"r","outcome":"failed","reason":"x","items":"0-999999999"}]',
            ),
            "too many calls",
        ),
        (encode(LETTER)._replace(headers=(*encode(LETTER).headers, ("dlq.reason", b"x"))), "dlq.reason is there twice"),
    ],
)
def test_a_message_that_is_no_letter_is_refused_with_the_place(message: Message, what: str) -> None:
    with pytest.raises(NotADeadLetter, match=what):
        decode(*message)


def test_unknown_headers_of_the_same_format_are_passed_over() -> None:
    message = encode(LETTER)
    assert decode(*message._replace(headers=(*message.headers, ("dlq.colour", b"red")))) == LETTER


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("event.n is 17, too large", "event.n is 18.5, too large"),
        ('expected a number, got "Glee"', 'expected a number, got "Lost \\ 2"'),
        ("user 0b9f9a3e-1d3c-4a53-9a0c-2b9c4e8f1a11 unknown", "user 7e57d004-2b97-0e7a-b45f-5387367791cd unknown"),
        ("call beef01ab failed", "call 77aa00ff failed"),
        ("user u-1881 is gone", "user u-9 is gone"),
        ("at 2026-11-22 10:14:03", "at 2025-01-01 00:00:00"),
        ("mail to a@b.example bounced", "mail to somebody+x@example.org bounced"),
        ("see https://a.example/x", "see https://b.example/y?z"),
        ("cut in the middle of 'x \"abc", "cut in the middle of 'x \"defg hij"),
    ],
)
def test_failures_that_differ_only_in_values_are_of_one_group(one: str, other: str) -> None:
    assert fingerprint(reason="r", text=one) == fingerprint(reason="r", text=other)


def test_what_tells_failures_apart_is_in_the_fingerprint() -> None:
    base = {"reason": "r", "code": 400006, "rule": "a", "parameter": "UID", "text": "is missing"}
    others = [
        {"reason": "s"},
        {"code": 400004},
        {"code": None},
        {"rule": "b"},
        {"parameter": "action"},
        {"text": "is empty"},
    ]
    prints = {fingerprint(**(base | other)) for other in [{}, *others]}
    assert len(prints) == 7


def test_fingerprints_are_the_same_in_every_version() -> None:
    # Literal on purpose: another value here splits every group of every topic in two.
    assert fingerprint(reason="undecodable", text="JSON ends at byte 21") == "a2449de04825a51f"
    assert (
        fingerprint(reason="unmappable", rule="episode-watched", parameter="UID", text="event.user is missing")
        == "62c7e950fff34ae6"
    )
