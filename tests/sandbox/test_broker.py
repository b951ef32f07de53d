"""The local Kafka: from nothing to serving and back to nothing, whatever happens to who started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from worker.sandbox import jars
from worker.sandbox.broker import HOST, LocalKafka, Topic, create_topics
from worker.sandbox.jars import BrokerUnavailable

COMMAND = [sys.executable, "-m", "worker.sandbox.broker"]


def until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.05)


def is_open(bootstrap: str) -> bool:
    import socket

    host, port = bootstrap.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def produce(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


async def values(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


@pytest.mark.broker
def test_data_outlives_a_stop_and_a_crash_and_is_gone_after_close():
    with LocalKafka() as kafka:
        bootstrap = kafka.bootstrap()
        asyncio.run(create_topics(bootstrap, [Topic("t"), Topic("t")][:1]))
        asyncio.run(produce(bootstrap, "t", b"1"))
        kafka.stop()
        assert not is_open(bootstrap)
        kafka.start()
        asyncio.run(produce(bootstrap, "t", b"2"))
        kafka.kill()
        assert not is_open(bootstrap)
        kafka.start()
        assert kafka.bootstrap() == bootstrap
        assert asyncio.run(values(bootstrap, "t", 2)) == [b"1", b"2"]
    assert not kafka.directory.exists()
    kafka.close()


@pytest.mark.broker
def test_several_nodes_replicate_and_survive_the_loss_of_one():
    with LocalKafka(nodes=3) as kafka:
        topic = Topic("t", replicas=3, settings={"min.insync.replicas": "2"})
        asyncio.run(create_topics(kafka.bootstrap(), [topic]))
        asyncio.run(produce(kafka.bootstrap(), "t", b"1"))
        kafka.kill(3)
        asyncio.run(produce(kafka.bootstrap(), "t", b"2"))


@pytest.mark.broker
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_is_left_when_its_process_goes(how):
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    bootstrap = process.stdout.readline().strip()
    assert is_open(bootstrap)
    folders = _folders_of(process.pid)
    process.send_signal(signal.Signals[how])
    code = process.wait(15)
    process.stdout.close()
    until(lambda: not is_open(bootstrap))
    until(lambda: not any(folder.exists() for folder in folders))
    assert code == (-signal.SIGKILL if how == "SIGKILL" else 0)


def _folders_of(parent: int) -> list[Path]:
    """Return the temporary folders that the keepers of a process were told to remove."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat[1]) == parent and any(word.endswith("keeper.py") for word in words):
            found.append(Path(words[-2]))
    assert found or sys.platform != "linux"
    return found


@pytest.mark.broker
def test_it_goes_when_the_process_that_started_it_has_gone():
    script = (
        f"import subprocess, sys; p = subprocess.Popen({COMMAND!r}, stdout=subprocess.PIPE, text=True);"
        "print(p.stdout.readline(), flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    bootstrap = parent.stdout.readline().strip()
    assert is_open(bootstrap)
    parent.kill()
    parent.communicate()
    until(lambda: not is_open(bootstrap))


@pytest.mark.broker
def test_a_port_that_is_taken_is_one_line(kafka_bootstrap):
    host, port = kafka_bootstrap.split(",")[0].split(":")
    if host != HOST:
        pytest.fail("this test needs a broker on loopback")
    done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"no local Kafka: port {port} of {HOST} is taken; or set KAFKA_BOOTSTRAP=host:port to use another broker"
    )


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    environment = {**os.environ, "GIGYA_WORKER_CACHE": str(tmp_path / "file" / "cache")}
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 1
    assert "set GIGYA_WORKER_CACHE to a folder that can be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_registry_that_cannot_be_reached_is_one_line(tmp_path):
    environment = {**os.environ, "GIGYA_WORKER_CACHE": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment |= {"https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=environment, timeout=50)
    assert done.returncode == 1
    assert done.stderr.startswith("no local Kafka: the jars of Kafka")
    assert "set KAFKA_BOOTSTRAP" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _jars_from(folder: Path) -> Callable[[Path], list[Path]]:
    def resolve(repository: Path) -> list[Path]:
        repository.mkdir(parents=True)
        for name in ("a.jar", "b.jar"):
            (repository / name).write_text(name)
        return sorted(repository.glob("*.jar"))

    return resolve


def test_jars_that_are_not_the_known_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGYA_WORKER_CACHE", str(tmp_path))
    monkeypatch.setattr(jars, "_resolve", _jars_from(tmp_path))
    with pytest.raises(BrokerUnavailable, match="are not those of Kafka"):
        jars.kafka_jars()
    assert not list(tmp_path.glob("kafka-*.part"))
    assert not (tmp_path / f"kafka-{jars.KAFKA}").exists()


def test_an_interrupted_fetch_is_cleared_away_and_a_complete_one_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGYA_WORKER_CACHE", str(tmp_path))
    unfinished = tmp_path / f"kafka-{jars.KAFKA}.part"
    unfinished.mkdir()
    (unfinished / "half.jar").touch()
    monkeypatch.setattr(jars, "_resolve", _jars_from(tmp_path))
    monkeypatch.setattr(jars, "DIGEST", "21d68f7c3b9b9bb7a1bb7b5a6c4d6e1b")
    with pytest.raises(BrokerUnavailable):
        jars.kafka_jars()
    monkeypatch.setattr(jars, "DIGEST", _digest_of_two(tmp_path / "expected"))
    folder = jars.kafka_jars()
    assert sorted(jar.name for jar in folder.iterdir()) == ["a.jar", "b.jar"]
    monkeypatch.setattr(jars, "_resolve", None)
    assert jars.kafka_jars() == folder


def _digest_of_two(folder: Path) -> str:
    _jars_from(folder)(folder)
    return jars.digest(folder)
