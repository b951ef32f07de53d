"""What every test may ask for: a broker, and names that nobody else uses."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.secure import SecureKafka
from worker.sandbox.broker import LocalKafka
from worker.sandbox.jars import BrokerUnavailable, kafka_jars

# How long an example takes says something about the machine, which is shared. (CI has a profile of its own.)
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if settings.get_current_profile_name() == "default":
    settings.load_profile("shared")


# A shell lets what it runs in the background ignore SIGINT (`make test` does that with half of the tests), and children
# inherit it: Ctrl-C ends what is tested here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"kafka_bootstrap", "secure_kafka"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the broker's jars before the first test: a test's time limit is not meant for downloads."""
    wanted = any(item.get_closest_marker("broker") for item in session.items)
    if wanted and not os.environ.get("KAFKA_BOOTSTRAP") and not session.config.option.collectonly:
        try:
            kafka_jars()
        except BrokerUnavailable:
            return  # the fixture says it, in the tests that need it


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """Undo what an earlier test configured: a threshold of its would hide the lines that this one waits for."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The address of a Kafka: KAFKA_BOOTSTRAP, else a local one for this session. None to be had fails the test."""
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        host, _, port = given.split(",")[0].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            pytest.fail(f"KAFKA_BOOTSTRAP={given}: nothing answers there ({error})", pytrace=False)
        yield given
        return
    try:
        kafka = LocalKafka()
        kafka.start()
    except BrokerUnavailable as unavailable:
        pytest.fail(str(unavailable), pytrace=False)
    yield kafka.bootstrap()
    kafka.close()


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A local Kafka with certificates, logins and permissions, for this session; never the one of KAFKA_BOOTSTRAP."""
    try:
        secure = SecureKafka(tmp_path_factory.mktemp("secure"))
    except BrokerUnavailable as unavailable:
        pytest.fail(str(unavailable), pytrace=False)
    yield secure
    secure.close()


_numbers = itertools.count(1)
_session = uuid.uuid4().hex[:6]


@pytest.fixture
def fresh_name() -> Callable[[str], str]:
    """Make a name for a topic or a group that no other test, session or user of the broker has."""
    return lambda kind: f"{kind}-{_session}-{next(_numbers)}"
