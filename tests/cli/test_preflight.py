"""`preflight` and `run --preflight` as a person and as a program see them, on a real broker."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.preflight.rig import API_KEY, NOTIFY, PUBLISH, SECRET, USER_KEY, gigya_config
from worker.cli import main
from worker.sandbox.broker import Topic, create_topics
from worker.sandbox.gigya import Fault, LocalGigya

pytestmark = pytest.mark.broker


@pytest.fixture
def gigya() -> Iterator[LocalGigya]:
    """A local Gigya on a loop of its own: the command has its own, too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = LocalGigya(gigya_config())
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def config(gigya: LocalGigya, kafka_bootstrap: str, fresh_name: Callable[[str], str], tmp_path: Path) -> Path:
    events, letters = fresh_name("events"), fresh_name("letters")
    asyncio.run(create_topics(kafka_bootstrap, [Topic(events, 2), Topic.dead_letters(letters)]))
    (tmp_path / "rules.yaml").write_text("version: 1\nrules:\n" + NOTIFY + PUBLISH)
    file = tmp_path / "worker.yaml"
    file.write_text(
        f"""\
kafka: {{bootstrap_servers: "{kafka_bootstrap}", group_id: g, topics: [{events}], dead_letter_topic: {letters}}}
admin: {{port: 0}}
sites:
  main:
    base_url: {gigya.base_url}
    api_key: {API_KEY}
    auth: {{mode: signed, user_key: {USER_KEY}, secret: {SECRET}}}
"""
    )
    return file


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, arguments)


def test_a_good_answer_comes_first_and_exits_0(config: Path, gigya: LocalGigya) -> None:
    result = invoke("preflight", "--config", str(config))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Ready."
    assert lines[-1] == "16 ok. Nothing was consumed or changed."
    assert [line for line in lines if line != line.rstrip()] == []
    assert SECRET not in result.output
    assert gigya.ledger.stats()["executed"] == 0


def test_a_failed_line_has_its_remedy_below_it_and_exits_1(config: Path, gigya: LocalGigya) -> None:
    gigya.inject(Fault(kind="code", code=405001, method="gm.notifyAction"))
    result = invoke("preflight", "--config", str(config))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "Not ready: method gm.notifyAction (site main)"
    (at,) = [number for number, line in enumerate(lines) if line.startswith("  FAILED")]
    assert "THE METHOD IS GONE" in lines[at]
    assert "-> Ask SAP" in "\n".join(lines[at : at + 5])
    assert lines[-1].startswith("1 failed, 15 ok")


def test_a_warning_exits_0(config: Path, gigya: LocalGigya) -> None:
    gigya.configure({"clock_offset_s": 60})
    result = invoke("preflight", "--config", str(config))
    assert result.exit_code == 0
    assert "  warn    clock" in result.stdout
    assert "1 warning, 15 ok" in result.stdout


def test_programs_get_every_line_with_its_state(config: Path, gigya: LocalGigya) -> None:
    gigya.inject(Fault(kind="code", code=403036, method="gm.getActionConfig"))
    whole = json.loads(invoke("preflight", "--config", str(config), "--output", "json").stdout)
    assert whole["ok"] is False
    assert whole["counts"]["failed"] == 1
    (failed,) = [check for check in whole["checks"] if check["state"] == "failed"]
    assert (failed["part"], failed["check"], failed["code"], failed["reason"]) == (
        "site main", "product", 403036, "product_not_enabled",
    )  # fmt: skip
    assert failed["remedy"].startswith("Ask SAP")
    lines = invoke("preflight", "--config", str(config), "--output", "jsonl").stdout.splitlines()
    assert [json.loads(line)["check"] for line in lines] == [check["check"] for check in whole["checks"]]


def test_a_missing_topic_is_a_line_of_its_own(config: Path) -> None:
    config.write_text(config.read_text().replace("topics: [", "topics: [nowhere, "))
    result = invoke("preflight", "--config", str(config))
    assert result.exit_code == 1
    assert "FAILED  topic nowhere" in result.stdout
    assert "kafka-topics.sh" in result.stdout


def test_settings_that_are_refused_are_refused_as_everywhere(tmp_path: Path) -> None:
    result = invoke("preflight", "--config", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert result.stdout == ""


def test_run_does_not_start_on_a_failed_line(config: Path, gigya: LocalGigya) -> None:
    gigya.revoke("main", USER_KEY, 403010)
    result = invoke("run", "--preflight", "--until-end", "--config", str(config))
    assert result.exit_code == 1
    assert "FAILED  credentials" in result.stderr
    assert "Nothing was consumed." in result.stderr


def test_run_goes_on_after_a_good_preflight(config: Path) -> None:
    result = invoke("run", "--preflight", "--until-end", "--config", str(config))
    assert result.exit_code == 0, result.stderr
    assert "preflight: 16 ok" in result.stderr
    assert "ledger  read 0" in result.stderr
