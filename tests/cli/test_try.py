"""`try`: what a person sees, what a program sees, the exit code; and that nothing is ever sent."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_command_line import RULES, SECRET, SETTINGS
from worker.cli import main
from worker.sandbox.events import DEMO_RULES, stream

GOOD = {"type": "episode.watched", "id": "e1", "progress": 0.97, "user": {"uid": "u1"}}
EVENTS = [GOOD, {**GOOD, "progress": 0.2}, {**GOOD, "user": {}}, {"type": "episode.watchd"}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(RULES)
    Path("events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in EVENTS))


def say(*words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main.app, ["try", *words], input=stdin, catch_exceptions=False)


# --- previews -------------------------------------------------------------------------------------------------------


def test_events_are_shown_as_their_calls_or_with_the_reason_why_not() -> None:
    result = say("events.jsonl")
    assert result.stdout == (
        "events.jsonl:1  episode.watched\n"
        "  episode-watched -> notifyAction  site main  UID u1\n"
        "      action   watched_episode\n"
        '      context  {"eventId":"e1"}\n'
        "events.jsonl:2  episode.watched  filtered, when_false\n"
        "  episode-watched: no call, when is false: event.progress >= 0.9 (event.progress is 0.2)\n"
        "events.jsonl:3  episode.watched  dead letter, missing_field\n"
        "  episode-watched: fails, UID: event.user.uid is missing\n"
        'events.jsonl:4  episode.watchd  filtered, no_rule: no rule names the type "episode.watchd"; on: has'
        ' "episode.watched"\n'
        "4 records: 1 call of 1 user, 2 filtered, 1 dead letter. Nothing was sent.\n"
    )
    assert result.exit_code == 0


@pytest.mark.parametrize("words", [(), ("-",)])
def test_events_come_through_a_pipe(words: tuple[str, ...]) -> None:
    result = say(*words, stdin=json.dumps(GOOD, indent=2))
    assert result.stdout.startswith("stdin:1  episode.watched\n  episode-watched -> notifyAction")


def test_an_archive_through_a_pipe_is_read() -> None:
    assert "1 call of 1 user" in say(stdin=gzip.compress(json.dumps(GOOD).encode())).stdout


def test_programs_get_one_document_or_one_line_for_each_record() -> None:
    document = json.loads(say("events.jsonl", "-o", "json").stdout)
    assert document["totals"] == {"records": 4, "calls": 1, "fates": {"calls": 1, "filtered": 2, "dead_letter": 1}}
    lines = [json.loads(line) for line in say("events.jsonl", "-o", "jsonl").stdout.splitlines()]
    assert lines == document["records"]
    (call,) = lines[0]["events"][0]["calls"]
    assert (call["rule"], call["uid"], call["params"]["action"]) == ("episode-watched", "u1", "watched_episode")
    assert lines[1]["events"][0]["rules"][0]["facts"] == ["event.progress is 0.2"]
    assert (lines[2]["fate"], lines[2]["reason"]) == ("dead_letter", "missing_field")


def test_a_call_that_is_too_old_by_now_is_marked() -> None:
    Path("rules.yaml").write_text(RULES.replace("    examples:", "    max_age: 1h\n    examples:"))
    assert "stale: older than max_age by now" in say(stdin=json.dumps({**GOOD, "time": "2020-01-01T00:00:00Z"})).stdout
    assert "stale" not in say(stdin=json.dumps(GOOD)).stdout


def test_what_is_in_events_cannot_move_the_cursor() -> None:
    result = say(stdin=json.dumps({**GOOD, "user": {"uid": "\x1b[2Ju\n1"}}))
    assert "\x1b" not in result.stdout
    assert "UID \ufffd[2Ju\ufffd1" in result.stdout


# --- settings, or none ----------------------------------------------------------------------------------------------


def test_without_settings_a_request_shows_what_stands_in() -> None:
    shown = say("events.jsonl", "--request").stdout
    assert "POST https://gm.DATA_CENTER/gm.notifyAction" in shown
    assert "apiKey=API_KEY" in shown


def test_with_settings_a_request_is_that_of_the_site_without_its_secrets() -> None:
    Path("worker.yaml").write_text(SETTINGS)
    result = say("events.jsonl", "--request")
    assert "POST https://gm.eu1.gigya.com/gm.notifyAction" in result.stdout
    assert "apiKey=3_abc" in result.stdout
    assert "sig=***" in result.stdout
    assert SECRET not in result.output
    assert "AKey" not in result.output.replace("AKey***", "")
    (line, *_) = say("events.jsonl", "--request", "-o", "jsonl").stdout.splitlines()
    assert json.loads(line)["events"][0]["calls"][0]["request"]["verb"] == "POST"


def test_settings_that_are_not_complete_still_give_sites_and_topics() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("api_key: 3_abc", "quota_per_s: 5"))
    Path("rules.yaml").write_text(RULES.replace("    on:", "    topics: [user-events]\n    on:"))
    result = say("events.jsonl")
    assert "the settings are not complete (see gigya-worker check)" in result.stderr
    assert "1 call of 1 user" in result.stdout


def test_a_topic_that_the_settings_do_not_have_is_refused_as_by_check() -> None:
    Path("worker.yaml").write_text(SETTINGS)
    Path("rules.yaml").write_text(RULES.replace("    on:", "    topics: [user-event]\n    on:"))
    with pytest.raises(Exception, match=r'topic "user-event" is not among kafka\.topics'):
        say("events.jsonl")


def test_without_settings_the_names_in_the_rules_are_taken_for_right() -> None:
    rules = RULES.replace("    on:", "    topics: [a, b]\n    site: shop\n    on:")
    Path("rules.yaml").write_text(rules)
    assert "1 call of 1 user" in say("events.jsonl", "--topic", "b").stdout
    assert "site shop" in say("events.jsonl", "--topic", "b").stdout
    refused = say("events.jsonl")
    assert refused.exit_code == 2
    assert "say with --topic which of a, b the events are of" in " ".join(refused.output.replace("│", "").split())


@pytest.mark.parametrize("example", sorted((Path(__file__).parents[2] / "deploy/examples").glob("*rules.yaml")))
def test_every_example_of_rules_can_be_tried_by_itself(example: Path) -> None:
    result = say("events.jsonl", "--rules", str(example), "--topic", "events", "--coverage")
    assert result.stdout.startswith("4 records, ")


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("events.jsonl", "--last", "5"), "FILE does not go with it"),
        (("events.jsonl", "--coverage", "--diff", "rules.yaml"), "ask for one of them"),
        (("events.jsonl", "--coverage", "--request"), "--request shows single calls"),
        (("events.jsonl", "--cap", "1"), "add --coverage"),
        (("events.jsonl", "--coverage", "--cap", "many"), "write a whole number"),
        (("--last", "1", "--kcat"), "--kcat is for lines of a file"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(words: tuple[str, ...], what: str) -> None:
    result = say(*words)
    assert result.exit_code == 2
    assert what in " ".join(result.output.replace("│", "").split())


def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run it as a process, as a shell does."""
    done = subprocess.run([sys.executable, "-m", "worker", "try", *words], input=stdin, capture_output=True, timeout=50)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_file_that_is_not_there_is_one_line() -> None:
    done = run("nothing.jsonl")
    assert done.stderr.startswith("gigya-worker: nothing.jsonl cannot be read (No such file or directory)\n")
    assert (done.returncode, done.stdout) == (1, "")


def test_without_rules_it_is_the_rules_that_are_missing() -> None:
    Path("rules.yaml").unlink()
    done = run("events.jsonl")
    assert done.stderr.startswith("rules.yaml: error: ")
    assert done.returncode == 1


def test_rules_that_are_refused_are_told_with_their_places() -> None:
    Path("rules.yaml").write_text(RULES.replace("action:", "acton:"))
    done = run("events.jsonl")
    assert done.returncode == 1
    assert "\nrules.yaml:8:7: error: " in done.stderr


def test_an_archive_that_is_cut_off_shows_what_there_is_and_exits_4() -> None:
    Path("cut.gz").write_bytes(gzip.compress(Path("events.jsonl").read_bytes())[:-30])
    done = run("cut.gz", "--coverage")
    assert done.returncode == 4
    assert done.stderr.startswith("gigya-worker: cut.gz: the gzip archive is cut off after line ")
    assert "Nothing was sent." in done.stdout


def test_a_reader_that_goes_away_is_no_bug() -> None:
    Path("many.jsonl").write_text(f"{json.dumps(GOOD)}\n" * 2_000)
    command = f"{sys.executable} -m worker try many.jsonl | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=50)
    assert done.stdout.decode() == "many.jsonl:1  episode.watched\n"
    assert b"Traceback" not in done.stderr
    assert b"bug" not in done.stderr


# --- coverage and difference ----------------------------------------------------------------------------------------


def test_coverage_says_what_fired_what_did_not_and_why() -> None:
    shown = say("events.jsonl", "--coverage", "--cap", "1").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["episode-watched", "3", "1", "1", "1", "0", "1", "0", "0"] in rows
    assert ["watched_episode", "1", "1", "in", "24", "h", "0", "0"] in rows
    assert any(row[:4] == ["1", "episode-watched", "missing_field", "UID"] for row in rows)
    assert ["1", "episode.watchd"] in rows
    assert "these lines do not say their partition" in shown


def test_coverage_for_programs_is_one_document() -> None:
    document = json.loads(say("events.jsonl", "--coverage", "-o", "json").stdout)
    assert document["records"] == {"calls": 1, "filtered": 2, "dead_letter": 1}
    assert document["in_several_partitions"] is None
    assert document["rules"][0]["failures"][0]["first"] == "events.jsonl:3"


def test_records_with_their_partition_show_users_without_order() -> None:
    lines = [
        json.dumps({"topic": "user-events", "partition": number, "offset": 0, "ts": 1, "payload": json.dumps(GOOD)})
        for number in range(2)
    ]
    shown = say("--kcat", "--coverage", stdin="\n".join(lines)).stdout
    assert "UIDs in several partitions: 1, for example u1; their order is not defined" in shown


def test_no_difference_exits_0() -> None:
    result = say("events.jsonl", "--diff", "rules.yaml")
    assert result.stdout == "No difference: 4 records, 1 call under both. Nothing was sent.\n"
    assert result.exit_code == 0


def test_a_difference_exits_1_and_is_told_in_sum_and_call_by_call() -> None:
    Path("new.yaml").write_text(RULES.replace(">= 0.9", ">= 0.1").replace("watched_episode", "seen"))
    result = say("events.jsonl", "--diff", "new.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == (
        "2 of 4 records change; calls: 1 added, 1 changed (1 before, 2 after). Nothing was sent."
    )
    assert "  ~ episode-watched  notifyAction  UID u1\n      action: watched_episode => seen\n" in result.stdout
    why = "when_false: episode-watched, when is false: event.progress >= 0.9 (event.progress is 0.2)"
    assert f"  filtered ({why}) => calls\n" in result.stdout
    document = json.loads(say("events.jsonl", "--diff", "new.yaml", "-o", "json").stdout)
    assert document["totals"]["calls"] == {"changed": 1, "added": 1}
    lines = [json.loads(line) for line in say("events.jsonl", "--diff", "new.yaml", "-o", "jsonl").stdout.splitlines()]
    assert lines == document["changes"]


def test_ten_thousand_events_are_compared_in_seconds() -> None:
    Path("old.yaml").write_text(DEMO_RULES)
    Path("new.yaml").write_text(DEMO_RULES.replace("20 : 10", "20 : 11"))
    events = stream(7, count=10_000, users=500, share_matching=1 / 3, share_bad=0.01)
    Path("big.jsonl").write_bytes(b"".join((event.value or b"").replace(b"\n", b" ") + b"\n" for event in events))
    begun_s = time.monotonic()
    result = say("big.jsonl", "--rules", "old.yaml", "--diff", "new.yaml", "-o", "jsonl")
    assert result.exit_code == 1
    changes = [json.loads(line) for line in result.stdout.splitlines()]
    assert {field["name"] for change in changes for call in change["calls"] for field in call["fields"]} == {"points"}
    assert time.monotonic() - begun_s < 30, "some 2 s are meant; the limit is for a machine that does other things"


# --- nothing is sent ------------------------------------------------------------------------------------------------

WITHOUT_SOCKETS = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        sys.stderr.write(f"TOUCHED {event} {arguments}\\n")
        raise AssertionError(event)
sys.addaudithook(refuse)
import atexit
def look():
    loaded = [name for name in ("worker.delivery.transport", "worker.delivery.sender") if name in sys.modules]
    sys.stderr.write(f"LOADED {loaded}\\n")
atexit.register(look)
from worker.cli.main import run
run()
"""


@pytest.mark.parametrize("words", [(), ("--request",), ("--coverage", "--cap", "3"), ("--diff", "rules.yaml")])
def test_no_socket_is_made_and_nothing_that_could_send_is_loaded(words: tuple[str, ...]) -> None:
    Path("worker.yaml").write_text(SETTINGS)
    command = [sys.executable, "-c", WITHOUT_SOCKETS, "try", "events.jsonl", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    done = subprocess.run(command, capture_output=True, timeout=50, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"TOUCHED" not in done.stderr
    assert b"LOADED []" in done.stderr
