"""Log lines: readable for machines and people, and never a secret, a UID or a payload."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from worker import logs
from worker.errors import StartFailed
from worker.model import TopicPartition

SECRET = "s3cr3t+/value=="


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def out(time: Time) -> io.BytesIO:
    stream = io.BytesIO()
    logs.configure(secrets=[SECRET], stream=stream, now_s=time, monotonic_s=time)
    return stream


def lines(out: io.BytesIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_event_first(out: io.BytesIO) -> None:
    structlog.get_logger("x").info("record.done", partition=TopicPartition("user-events", 3), offset=7)
    assert out.getvalue() == (
        b'{"time":"2023-11-14T22:13:20.000Z","level":"info","event":"record.done",'
        b'"partition":"user-events/3","offset":7}\n'
    )


@pytest.mark.parametrize("key", ["secret", "sig", "UID", "token", "api_token", "user_uid", "key", "payload", "nonce"])
def test_what_such_a_key_holds_is_hidden(out: io.BytesIO, key: str) -> None:
    structlog.get_logger("x").info("a.b", **{key: "visible"}, inner={key: "visible"})
    assert b"visible" not in out.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        f"before {SECRET} after",
        "body: s3cr3t%2B%2Fvalue%3D%3D&x=1",
        [SECRET],
        {"deep": {"deeper": SECRET}},
        {SECRET: 1},
        StartFailed(f"login with {SECRET}"),
        Path(f"/run/{SECRET}"),
    ],
)
def test_a_known_secret_is_hidden_wherever_it_shows_up(out: io.BytesIO, value: object) -> None:
    structlog.get_logger("x").info("a.b", value_of=value)
    assert lines(out)
    assert b"s3cr3t" not in out.getvalue()


def test_a_hidden_key_is_found_at_any_depth_also_after_lines_that_held_none(out: io.BytesIO) -> None:
    log = structlog.get_logger("x")
    log.info("a.b", calls=[{"rule": "r", "more": ({"depth": 1},)}])
    log.info("a.b", calls=[{"rule": "r", "more": ({"depth": 1, "user_uid": "visible"},)}])
    assert b"visible" not in out.getvalue()
    assert lines(out)[0]["calls"] == [{"rule": "r", "more": [{"depth": 1}]}]
    assert lines(out)[1]["calls"] == [{"rule": "r", "more": [{"depth": 1, "user_uid": "***"}]}]


def test_a_secret_that_json_escapes_is_hidden(time: Time) -> None:
    stream = io.BytesIO()
    logs.configure(secrets=['s3cr3t"\\with\nescapes'], stream=stream, now_s=time, monotonic_s=time)
    structlog.get_logger("x").info("a.b", text='login with s3cr3t"\\with\nescapes')
    assert b"s3cr3t" not in stream.getvalue()


def test_bytes_and_unknown_objects_are_named_not_shown(out: io.BytesIO) -> None:
    class Call:
        def __repr__(self) -> str:
            return "visible"

    structlog.get_logger("x").info("a.b", data=b"visible", call=Call())
    assert lines(out)[0]["data"] == "<7 bytes>"
    assert lines(out)[0]["call"] == "<Call>"


def test_a_bug_is_logged_with_its_place_and_without_its_message(out: io.BytesIO) -> None:
    try:
        {}["uid-4711"]
    except KeyError:
        structlog.get_logger("x").exception("engine.failed")
    (line,) = lines(out)
    assert line["error"] == "KeyError"
    assert line["level"] == "error"
    assert "test_logs.py" in str(line["frames"])
    assert b"4711" not in out.getvalue()


def test_libraries_lines_look_like_ours_and_are_redacted(out: io.BytesIO) -> None:
    logging.getLogger("aiokafka.conn").error("cannot reach %s with %s", "broker:9092", SECRET)
    (line,) = lines(out)
    assert line["event"] == "library.said"
    assert line["logger"] == "aiokafka.conn"
    assert line["text"] == "cannot reach broker:9092 with ***"


def test_a_library_that_repeats_itself_is_cut_short_and_counted(out: io.BytesIO, time: Time) -> None:
    for number in range(60):
        logging.getLogger("aiokafka").error("broker %s is away", number)
    assert len(lines(out)) == 3
    time.s += 31
    logging.getLogger("aiokafka").error("broker %s is away", 60)
    assert lines(out)[-1]["repeated"] == 57


def test_different_lines_of_a_library_do_not_hide_each_other(out: io.BytesIO) -> None:
    for message in ("one", "two", "three", "four", "five"):
        logging.getLogger("aiokafka").error(message)
    assert len(lines(out)) == 5


def test_a_library_below_warning_is_not_heard(out: io.BytesIO) -> None:
    logging.getLogger("aiokafka").info("fetched")
    assert not lines(out)


def test_a_malformed_log_call_of_a_library_raises_nothing() -> None:
    out = io.BytesIO()
    logs.configure(stream=out)  # here, because pytest's own handler, added since the fixtures ran, does raise
    logging.getLogger("aiokafka").error("%d", "x")
    assert not lines(out)


def test_a_stderr_that_is_gone_stops_nothing() -> None:
    stream = io.BytesIO()
    stream.close()
    writer = logs.LineWriter(stream)
    writer.msg("lost")
    assert writer.lost == 1


@pytest.mark.parametrize("odd", ["\ud800", 2**70, float("nan"), "\x1b[31m\n"])
def test_odd_values_still_make_one_line(out: io.BytesIO, odd: object) -> None:
    structlog.get_logger("x").info("a.b", odd=odd)
    assert out.getvalue().count(b"\n") == 1


def test_on_a_terminal_a_line_reads_like_a_sentence() -> None:
    stream = io.BytesIO()
    logs.configure(stream=stream, readable=True, now_s=Time())
    structlog.get_logger("x").warning("call.held", site="main", code=403003, remedy="do this", odd="a\nb\x1b[2J")
    assert stream.getvalue().decode() == (
        '2023-11-14T22:13:20Z warning call.held site=main code=403003 remedy="do this" odd="a\\nb\\u001b[2J"\n'
    )


def test_a_user_mark_is_twelve_hex_digits_of_an_hmac() -> None:
    # RFC 4231, test case 2: key "Jefe".
    assert logs.user_mark("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60"


def test_a_user_mark_takes_any_text_a_uid_can_be() -> None:
    assert len(logs.user_mark("\ud800", b"k")) == 12


def test_a_bug_report_names_frames_and_causes_but_no_values() -> None:
    try:
        try:
            int("uid-4711")
        except ValueError as error:
            raise TypeError("uid-4711") from error
    except TypeError as error:
        report = logs.bug_report(error)
    assert report.startswith("a bug in gigya-worker: TypeError\n")
    assert "caused by ValueError" in report
    assert "4711" not in report
