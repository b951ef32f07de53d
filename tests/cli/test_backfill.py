"""What the command line of `backfill` takes, and what it refuses before anything is asked or sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from worker.cli import main

SETTINGS = """\
kafka: {bootstrap_servers: "127.0.0.1:1", group_id: g, topics: [a, b], dead_letter_topic: dead}
sites:
  main:
    data_center: eu1
    api_key: 3_x
    auth: {mode: signed, user_key: AK, secret: c2VjcmV0}
    quota_per_s: 50
    backfill_reserve_per_s: 10
"""
RULES = """\
version: 1
rules:
  - name: watched
    on: [episode.watched]
    notifyAction: {UID: '${ event.uid }', action: watched}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.nice", lambda steps: steps)  # of the tests' own process
    (tmp_path / "worker.yaml").write_text(SETTINGS)
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "past.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "which range?"),
        (["--from", "yesterday"], "yesterday is no time"),
        (["--from", "2026-11-08", "--to", "2026-11-01"], "--to is not after --from"),
        (["--from", "2026-11-08", "--to", "2999-01-01"], "--to is in the future"),
        (["--from", "earliest", "--offsets", "a/0:1-2"], "--offsets says it all"),
        (["--offsets", "a/0"], "write TOPIC/PARTITION:BEGIN-END"),
        (["--offsets", "other/0:1-2"], "other is not among kafka.topics (a, b)"),
        (["--from", "earliest", "--topic", "other"], "other is not among kafka.topics"),
        (["--from", "earliest", "--plan", "--yes"], "say one of them"),
        (["--from", "earliest", "--run-id", "a/b"], "a run id has up to 60"),
        (["past.jsonl"], "say with --topic which of a, b"),
        (["past.jsonl", "--topic", "a", "--from", "earliest"], "files are replayed whole"),
        (["-", "--topic", "a"], "a pipe cannot be read again"),
        (["past.jsonl", "--topic", "a", "--skip-delivered"], "lines of files are others"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main.app, ["backfill", *options], terminal_width=200)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.replace("│", " ").split())


def test_without_a_rate_nothing_is_started() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("    backfill_reserve_per_s: 10\n", ""))
    result = CliRunner().invoke(main.app, ["backfill", "--from", "earliest"])
    assert "leaves nothing to a backfill" in str(result.exception)


def test_the_help_has_an_example_and_the_exit_codes() -> None:
    text = " ".join(CliRunner().invoke(main.app, ["backfill", "--help"], terminal_width=200).output.split())
    assert "Example: gigya-worker backfill --topic user-events --from 2026-11-01" in text
    assert "4 not all is done" in text
