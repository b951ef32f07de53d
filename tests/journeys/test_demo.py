"""`gigya-worker demo` as a person runs it: a real Kafka, the real worker, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from typer.testing import CliRunner

from worker.cli.main import app
from worker.sandbox.demo_evidence import Evidence, Witness

ROOT = Path(__file__).parents[2]
LIMIT_S = 50.0

pytestmark = pytest.mark.broker


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, so that what is left behind can be seen."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run_demo(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "demo", *arguments]
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=LIMIT_S, check=False
    )


def rows_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if re.match(r"!?\s*\d/\d ", line)]


def test_the_demo_shows_what_became_of_every_event_and_leaves_nothing_behind(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)

    done = run_demo()

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(
        re.match(r"All 16 events ended as they should: 9 delivered, 4 filtered, 2 dead letters, 1 capped", line)
        for line in lines
    )
    assert "  delivering  16/16  throttled once, held" in done.stdout
    assert len(rows_of(done.stdout)) == 16
    assert re.search(
        r"^ledger   read 16 = filtered 4 \+ done 10 \+ stale 0 \+ dead letters 2 \+ unfinished 0 +balanced$",
        done.stdout,
        re.MULTILINE,
    )
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in done.stdout
    assert list(temporary.iterdir()) == []


def test_another_broker_is_left_as_it_was_and_keep_leaves_the_workers_files(
    temporary: Path, kafka_bootstrap: str
) -> None:
    done = run_demo("--seed", "7", "--keep", environment={"KAFKA_BOOTSTRAP": kafka_bootstrap})

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Kafka on {kafka_bootstrap}, Gigya on" in done.stdout
    topic = re.search(r"topic (gigya-worker-demo-\w+), 4 partitions", done.stdout)
    assert topic
    assert not [name for name in asyncio.run(topics_at(kafka_bootstrap)) if name.startswith(topic[1])]
    assert len(rows_of(done.stdout)) == 16
    (kept,) = temporary.iterdir()
    assert str(kept) in done.stdout
    assert {"worker.yaml", "rules.yaml", "worker.log"} <= {file.name for file in kept.iterdir()}


async def topics_at(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


def test_another_seed_is_another_demo(kafka_bootstrap: str) -> None:
    shown = [
        rows_of(run_demo("--seed", seed, environment={"KAFKA_BOOTSTRAP": kafka_bootstrap}).stdout) for seed in "12"
    ]

    assert [len(rows) for rows in shown] == [16, 16]
    assert {row[:38] for row in shown[0]} != {row[:38] for row in shown[1]}


def without_a_letter(evidence: Evidence) -> Evidence:
    return replace(evidence, letters=evidence.letters[1:])


def with_other_points(evidence: Evidence) -> Evidence:
    entry = next(entry for entry in evidence.executed if "points" in entry.params)
    changed = replace(entry, params={**entry.params, "points": "9"})
    return replace(evidence, executed=tuple(changed if one is entry else one for one in evidence.executed))


@pytest.mark.parametrize(
    ("falsified", "said"),
    [(without_a_letter, "filtered instead of dead letter"), (with_other_points, "points of the call is 9 instead of")],
)
def test_one_false_entry_of_the_evidence_is_found_and_ends_with_1(
    falsified: Callable[[Evidence], Evidence],
    said: str,
    temporary: Path,
    kafka_bootstrap: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    true = Witness.final

    async def final(witness: Witness) -> Evidence:
        return falsified(await true(witness))

    monkeypatch.setattr(Witness, "final", final)

    result = CliRunner().invoke(app, ["demo"])

    assert result.exit_code == 1, result.output
    assert "FAILED: " in result.output
    assert said in result.output
    assert len([row for row in rows_of(result.output) if row.startswith("!")]) == 1
    (kept,) = temporary.iterdir()
    assert f"kept     {kept}" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting Kafka", "16 events of 6 users"])
def test_a_demo_that_is_interrupted_takes_everything_with_it(
    moment: str, number: signal.Signals, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "worker", "demo"]
    demo = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with demo:
        assert demo.stdout is not None
        next(line for line in demo.stdout if line.startswith(moment))
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=LIMIT_S)

    assert demo.returncode == 130, errors
    assert errors.strip().startswith("gigya-worker: interrupted")
    assert len(errors.strip().splitlines()) == 1
    assert eventually(lambda: not list(temporary.iterdir()))
    assert eventually(lambda: not list(processes_that_name(temporary)))


def test_a_demo_that_is_killed_takes_everything_with_it(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, "-m", "worker", "demo"], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE
    )
    with demo:
        assert demo.stdout is not None
        next(line for line in demo.stdout if line.startswith("16 events"))
        demo.kill()

    assert eventually(lambda: not list(temporary.iterdir()))
    assert eventually(lambda: not list(processes_that_name(temporary)))


def eventually(is_so: Callable[[], bool]) -> bool:
    """Wait for other processes, which tell nobody that they have ended."""
    deadline_s = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def processes_that_name(folder: Path) -> Iterator[str]:
    """Yield the command lines of running processes that name `folder`, on systems that show them."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if str(folder) in line:
            yield line


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-port", "nowhere.invalid:9092"])
def test_a_broker_that_cannot_be_had_is_one_clear_line(address: str, temporary: Path) -> None:
    done = run_demo(environment={"KAFKA_BOOTSTRAP": address})

    assert done.returncode == 1
    assert done.stderr.startswith(f"gigya-worker: no Kafka at {address} (")
    assert "correct KAFKA_BOOTSTRAP" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(temporary.iterdir()) == []
