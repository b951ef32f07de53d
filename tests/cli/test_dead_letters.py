"""`dead-letters groups`, `list` and `show`, on a real topic, as a person or a script types them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reprocess.letters import DIED_S, letter_at
from tests.reprocess.topics import prepare, run, settings, write
from worker.sandbox.broker import Topic, create_topics


@pytest.fixture
async def topic(kafka_bootstrap: str, fresh_name: Callable[[str], str], tmp_path: Path) -> str:
    name = fresh_name("dead")
    await create_topics(kafka_bootstrap, [Topic.dead_letters(name)])
    prepare(tmp_path, settings(kafka_bootstrap, name))
    return name


def groups(folder: Path, *words: str) -> list[dict[str, Any]]:
    done = run(folder, "groups", "-o", "jsonl", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_groups_tell_what_died_of_what_and_what_to_do(topic: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    unknown = [letter_at(offset, uid=f"u{offset % 3}", died_s=DIED_S + offset) for offset in range(5)]
    parked = letter_at(9, reason="parked", code=None, rule="")
    await write(kafka_bootstrap, topic, [*unknown, parked, letter_at(10), (letter_at(10), None)])
    big, small = groups(tmp_path)
    assert (big["records"], big["users"], big["reason"], big["code"], big["rule"]) == (
        5, 3, "user_unknown", 403005, "watched",
    )  # fmt: skip
    assert big["example"] == "user-events/0/4"
    assert big["remedy"].endswith(".")
    assert (small["reason"], small["records"]) == ("parked", 1)
    shown = run(tmp_path, "groups")
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert shown.stdout.splitlines()[-1] == (
        f"2 groups, 6 dead letters. gigya-worker dead-letters replay --group {big['group'][:4]}"
    )
    whole = json.loads(run(tmp_path, "groups", "-o", "json", "--reason", "parked").stdout)
    assert (whole["records"], len(whole["groups"])) == (1, 1)


async def test_an_empty_topic_is_no_error(topic: str, tmp_path: Path) -> None:
    done = run(tmp_path, "groups")
    assert (done.returncode, done.stdout, done.stderr) == (0, "No dead letters.\n", "")
    assert run(tmp_path, "list", "-o", "jsonl").stdout == ""


async def test_letters_are_listed_newest_first_and_nothing_personal_is_among_it(
    topic: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    letters = [letter_at(offset, uid=f"hidden-{offset}", died_s=DIED_S + offset) for offset in range(20)]
    await write(kafka_bootstrap, topic, letters)
    done = run(tmp_path, "list", "-n", "3", "-o", "jsonl")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["offset"] for each in listed] == [19, 18, 17]
    assert listed[0]["calls"][0]["outcome"] == "failed"
    table = run(tmp_path, "list", "-n", "3").stdout
    assert "3 dead letters of 20; the newest first" in table
    chosen = run(tmp_path, "list", "-o", "jsonl", "--where", 'event.user.uid == "hidden-4"', "--group", "0" * 0)
    assert [json.loads(line)["offset"] for line in chosen.stdout.splitlines()] == [4]
    assert "hidden" not in done.stdout + table + chosen.stdout


async def test_a_letter_is_shown_masked_unless_it_shall_be_revealed(
    topic: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    await write(kafka_bootstrap, topic, [letter_at(1, uid="hidden-1"), letter_at(2, uid="hidden-2", run="r1")])
    masked = run(tmp_path, "show", "user-events/0/1")
    assert masked.returncode == 0
    assert "hidden" not in masked.stdout
    assert '{"type":"***","user":{"uid":"***"},"n":"***"}' in masked.stdout
    (revealed,) = json.loads(run(tmp_path, "show", "user-events/0/2/r1", "--reveal", "-o", "json").stdout)["letters"]
    assert revealed["event"]["user"]["uid"] == revealed["key"] == "hidden-2"
    missing = run(tmp_path, "show", "user-events/0/3", "user-events/0/1")
    assert missing.returncode == 4
    assert "no dead letter of user-events/0/3" in missing.stderr


async def test_what_is_no_letter_is_counted_and_passed_over(topic: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    from aiokafka import AIOKafkaProducer

    await write(kafka_bootstrap, topic, [letter_at(1)])
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        await producer.send_and_wait(topic, b"something", key=b"else")
    done = run(tmp_path, "groups")
    assert done.returncode == 0
    assert "1 group, 1 dead letter." in done.stdout
    assert "1 messages of the topic are no dead letters" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["groups", "--where", "dead.x"], 2, "unknown name"),
        (["groups", "--since", "yesterday"], 2, "2026-11-22T08:00Z"),
        (["list", "--group", "xyz"], 2, "first digits"),
        (["list", "--group", "ffff"], 1, "no group begins with ffff"),
    ],
)
async def test_what_cannot_be_meant_is_one_clear_word(
    words: list[str], code: int, says: str, topic: str, tmp_path: Path
) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == code
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


async def test_groups_are_shown_though_the_rules_are_refused(topic: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    await write(kafka_bootstrap, topic, [letter_at(1), letter_at(2)])
    (tmp_path / "rules.yaml").write_text("version: 7\n")
    done = run(tmp_path, "groups", "-o", "jsonl")
    assert done.returncode == 0
    assert json.loads(done.stdout)["users"] == 1
    assert "the rules are refused" in done.stderr


@pytest.mark.timeout(180)
async def test_a_hundred_thousand_dead_letters_are_grouped_in_seconds(
    topic: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    causes = (("user_unknown", 403005), ("timeout", None), ("missing_field", None))
    await write(
        kafka_bootstrap,
        topic,
        (
            letter_at(number, partition=number % 12, uid=f"u{number % 1_000}", reason=reason, code=code)
            for number in range(100_000)
            for reason, code in [causes[number % 3]]
        ),
    )
    began_s = time.monotonic()
    found = groups(tmp_path)
    took_s = time.monotonic() - began_s
    assert sorted(each["records"] for each in found) == [33_333, 33_333, 33_334]
    assert {each["users"] for each in found} == {1_000}
    assert took_s < 40, took_s  # 5 s alone
