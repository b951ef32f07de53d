"""The command line: what a person sees, what a program sees, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from worker.cli import main
from worker.errors import Problem, Refused, StartFailed

SECRET = "aHVudGVyMmh1bnRlcjI="
SETTINGS = f"""\
kafka: {{bootstrap_servers: "localhost:9092", group_id: g, topics: [user-events], dead_letter_topic: user-events.dead}}
sites:
  main:
    data_center: eu1
    api_key: 3_abc
    auth: {{mode: signed, user_key: AKey, secret: {SECRET}}}
"""
RULES = """\
version: 1
rules:
  - name: episode-watched
    on: [episode.watched]
    when: event.progress >= 0.9
    notifyAction:
      UID: ${ event.user.uid }
      action: watched_episode
    examples:
      - event: {type: episode.watched, progress: 0.97, user: {uid: u1}}
        calls: [{UID: u1, action: watched_episode}]
"""
HEAVY = ("aiohttp", "aiokafka", "pydantic", "ruamel", "structlog", "orjson", "cel_expr_python", "prometheus_client")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("worker.yaml").write_text(SETTINGS)
    Path("rules.yaml").write_text(RULES)


def say(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main.app, list(words), env=env, catch_exceptions=False)


# --- check ----------------------------------------------------------------------------------------------------------


def test_good_files_are_counted_and_exit_0() -> None:
    result = say("check")
    assert result.output == "No problem found. 1 rule, 1 example. Nothing was started.\n"
    assert result.exit_code == 0


def test_problems_of_settings_and_rules_are_told_in_one_go() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("data_center", "data_centre"))
    Path("rules.yaml").write_text(RULES.replace("action: watched", "acton: watched"))
    result = say("check")
    lines = result.output.splitlines()
    assert any(line.startswith("rules.yaml:8:7: error: ") for line in lines), lines
    assert any(line.startswith("worker.yaml:4:5: error: sites.main.data_centre: unknown setting") for line in lines)
    assert lines[-1].endswith("Nothing was started.")
    assert result.exit_code == 1


def test_an_example_that_does_not_hold_is_a_problem() -> None:
    Path("rules.yaml").write_text(RULES.replace("progress: 0.97", "progress: 0.2"))
    result = say("check")
    assert result.exit_code == 1
    assert "expected 1 call, got none" in result.output


def test_warnings_alone_exit_0() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("eu1", "eu9"))
    result = say("check")
    assert "worker.yaml:4:18: warning: sites.main.data_center" in result.output
    assert "0 errors, 1 warning." in result.output
    assert result.exit_code == 0


def test_json_output_is_one_document() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("data_center", "data_centre"))
    result = say("check", "--output", "json")
    document = json.loads(result.output)
    assert document["ok"] is False
    assert {"file", "line", "column", "severity", "what", "remedy", "excerpt"} == set(document["problems"][0])
    assert result.exit_code == 1


def test_jsonl_output_is_a_problem_a_line() -> None:
    Path("worker.yaml").write_text(SETTINGS.replace("data_center", "data_centre"))
    assert [json.loads(line)["file"] for line in say("check", "-o", "jsonl").output.splitlines()]


def test_print_shows_settings_without_secrets_and_keeps_stdout_pure() -> None:
    result = say("check", "--print")
    assert 'secret: "***"' in result.stdout
    assert SECRET not in result.output
    assert "Nothing was started" not in result.stdout
    assert "Nothing was started" in result.stderr


def test_a_settings_file_that_is_not_there_is_one_line() -> None:
    result = say("check", "--config", "other.yaml")
    assert result.output.splitlines()[0] == ("other.yaml: error: there is no such file; give its path, or write it")
    assert result.exit_code == 1


def test_on_a_terminal_a_problem_shows_its_line_with_a_caret(capsys: pytest.CaptureFixture[str]) -> None:
    from worker.cli.problems import print_problems

    class Terminal:
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            return sys.stdout.write(text)

        def flush(self) -> None:
            pass

    problem = Problem("rules.yaml", 14, 15, "1.5 is no whole number", "write 1 or 2", excerpt="      points: 1.5")
    print_problems([problem], Terminal())  # type: ignore[arg-type]  # as much of a stream as print needs
    plain = capsys.readouterr().out.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain == (
        "rules.yaml:14:15  error  1.5 is no whole number\n"
        "                         points: 1.5\n"
        "                                 ^^^\n"
        "                         write 1 or 2\n"
    )


# --- explain --------------------------------------------------------------------------------------------------------


def test_a_code_is_explained_with_verdict_remedy_and_source() -> None:
    result = say("explain", "400124")
    assert result.output.splitlines()[0].split() == ["400124", "limit", "reached", "verdict:", "capped"]
    assert "What to do:" in result.output
    assert "Source: Gigya's error table" in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize("word", ["403999", "500123", "0", "user_busy", "flood_guard", "STALE"])
def test_every_code_and_reason_has_an_answer(word: str) -> None:
    assert say("explain", word).exit_code == 0


@pytest.mark.parametrize(("word", "near"), [("user_bussy", "user_busy"), ("flod_guard", "flood_guard")])
def test_an_unknown_word_gets_the_nearest_one_and_exit_1(word: str, near: str) -> None:
    result = say("explain", word)
    assert f"did you mean {near}?" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize("word", ["12", "9999999999999999999999", "-1", "", "٤٠٠١٢٤"])
def test_what_is_no_code_and_no_reason_is_refused(word: str) -> None:
    assert say("explain", "--", word).exit_code == 1


def test_without_a_word_all_are_listed() -> None:
    words = {line.split()[0] for line in say("explain").output.splitlines()}
    assert {"400124", "403003", "user_busy", "flood_guard"} <= words
    assert len(json.loads(say("explain", "-o", "json").output)) == len(words)


# --- the frame ------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, worker.cli.main as m\n"
        "try: m.app(['--help'], prog_name='gigya-worker')\n"
        f"except SystemExit: print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_names_every_command_and_the_exit_codes() -> None:
    output = " ".join(say("--help").output.split())
    for word in ("run", "check", "explain", "sandbox", "Exit codes:"):
        assert word in output


def test_a_wrong_option_exits_2() -> None:
    assert say("check", "--nonsense").exit_code == 2
    assert say("nonsense").exit_code == 2


def test_an_unknown_setting_stops_run_before_anything_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.report(Refused([Problem("worker.yaml", 4, 5, "unknown setting", "did you mean x?")])) == 1
    assert capsys.readouterr().err == (
        "worker.yaml:4:5: error: unknown setting; did you mean x?\n1 problem. Nothing was started.\n"
    )


def test_a_failed_start_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    error = ExceptionGroup("tasks", [ExceptionGroup("inner", [StartFailed("topic x does not exist; create it")])])
    assert main.report(error) == 1
    assert capsys.readouterr().err == "gigya-worker: topic x does not exist; create it\nNothing was consumed.\n"


def test_a_bug_is_named_with_its_place_and_exits_70(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as caught:
        {}["uid-4711"]
    assert main.report(caught.value) == 70
    text = capsys.readouterr().err
    assert text.startswith("a bug in gigya-worker: KeyError\n")
    assert "test_command_line.py" in text
    assert "4711" not in text


def test_python_m_worker_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "worker", "explain", "400124"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("400124")
