"""What cannot go well does not start: exit code 1, a line that says what to do, and nothing consumed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.processes import HOST, free_port
from worker.sandbox.broker import Topic, create_topics
from worker.sandbox.events import DEMO_RULES, stream

pytestmark = pytest.mark.broker

LIMIT_S = 15.0  # on a busy machine; the checks themselves take one or two
BAD_SECRET = "not-base64-at-all!"


class Refusal(NamedTuple):
    """A start that must fail: what is changed, and words that its line must hold."""

    name: str
    parts: Callable[[Journey], dict[str, Any]]
    words: tuple[str, ...]
    rules: str = DEMO_RULES


def auth(journey: Journey, **changes: str) -> dict[str, Any]:
    settings: dict[str, Any] = journey.settings(0)["sites"]["main"]["auth"]
    return {"site": {"auth": {**settings, **changes}}}


REFUSALS = [
    Refusal(
        "the broker is away",
        lambda _: {"kafka": {"bootstrap_servers": f"{HOST}:{free_port()}"}},
        ("bootstrap_servers",),
    ),
    Refusal("a topic is missing", lambda j: {"kafka": {"topics": [j.topic, "nobody-made-me"]}}, ("nobody-made-me",)),
    Refusal(
        "the dead-letter topic is missing",
        lambda _: {"kafka": {"dead_letter_topic": "nobody-made-me"}},
        ("nobody-made-me",),
    ),
    Refusal(
        "the dead-letter topic is not compacted",
        lambda j: {"kafka": {"dead_letter_topic": f"{j.topic}.plain"}},
        (".plain", "cleanup.policy", "compact"),
    ),
    Refusal(
        "the dead-letter topic is read",
        lambda j: {"kafka": {"dead_letter_topic": j.topic}},
        ("worker.yaml", "dead_letter_topic"),
    ),
    Refusal("the secret is not base64", lambda j: auth(j, secret=BAD_SECRET), ("worker.yaml", "secret", "base64")),
    Refusal("a setting is unknown", lambda _: {"site": {"qouta_per_s": 5}}, ("qouta_per_s", "quota_per_s")),
    Refusal(
        "a rule is wrong",
        lambda _: {},
        ("rules.yaml:", "actionAtributes", "actionAttributes"),
        DEMO_RULES.replace("actionAttributes:", "actionAtributes:", 1).partition("    examples:")[0],
    ),
    Refusal("the rules are empty", lambda _: {}, ("rules.yaml",), ""),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name.replace(" ", "-"))
async def test_a_start_that_cannot_go_well_is_refused_in_one_line(begin: Begin, refusal: Refusal):
    async with begin(partitions=2) as journey:
        plain = f"{journey.topic}.plain"
        await create_topics(journey.broker.bootstrap, [Topic(plain)])
        await journey.append(stream(5, count=20, users=5))
        began_s = time.monotonic()
        worker = journey.start("worker", rules=refusal.rules, **refusal.parts(journey))
        code = await worker.ended(limit_s=LIMIT_S)
        took_s = time.monotonic() - began_s
        await journey.broker.delete_topics([plain])

        text = worker.stderr()
        tell(f"{took_s:.1f} s: {text}")
        assert code == 1, text
        check_text(text, refusal.words)
        assert worker.out_file.read_bytes() == b""
        assert await journey.broker.committed(journey.group) == {}
        assert (await journey.gigya.stats())["arrivals"] == 0
        assert await journey.dead_letters() == []


@pytest.mark.timeout(60)
async def test_an_admin_port_that_is_taken_is_refused_in_one_line(begin: Begin):
    async with begin(partitions=2) as journey:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            worker = journey.start("worker", admin={"port": port})
            assert await worker.ended(limit_s=LIMIT_S) == 1, worker.stderr()
        check_text(worker.stderr(), (str(port), "admin.port"))
        assert await journey.broker.committed(journey.group) == {}


def check_text(text: str, words: tuple[str, ...]) -> None:
    lines = text.splitlines()
    assert "Traceback" not in text
    assert 1 <= len(lines) <= 2, text  # what is wrong, and that nothing was started or consumed
    assert all(word in lines[0] for word in words), text
    assert "Nothing was" in lines[-1], text
    assert BAD_SECRET not in text
