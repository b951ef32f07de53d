"""`sandbox`: the settings that it prints are right, and it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.cli.sandbox import settings_text
from worker.sandbox.gigya import GigyaConfig, LocalGigya
from worker.settings.tree import load


async def test_the_settings_it_prints_are_accepted(tmp_path: Path) -> None:
    async with LocalGigya(GigyaConfig()) as gigya:
        (tmp_path / "worker.yaml").write_text(settings_text("127.0.0.1:9092", gigya))
        settings = load(tmp_path / "worker.yaml", environ={}).settings
    (site,) = settings.sites.values()
    assert site.base_url == gigya.base_url


def test_it_never_overwrites_a_file(tmp_path: Path) -> None:
    (tmp_path / "worker.yaml").write_text("mine")
    command = [sys.executable, "-m", "worker", "sandbox", "--write", str(tmp_path / "worker.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "exists already; nothing was started" in done.stderr
    assert (tmp_path / "worker.yaml").read_text() == "mine"


@pytest.mark.broker
def test_both_servers_run_until_it_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    command = [sys.executable, "-m", "worker", "sandbox", "--write", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            seen = []
            while not (seen and seen[-1].startswith("Send events")):
                line = process.stdout.readline()
                assert line, f"it ended early: {seen}"
                seen.append(line)
            settings = load(file, environ={}).settings
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert seen[0].startswith(f"Kafka on {settings.kafka.bootstrap_servers}")
