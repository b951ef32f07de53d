"""The two scenes every battery runs in: the fake cluster, and a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.contracts.harness import FakeScene, KafkaScene, Owner, Scene, Source


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.broker)])
async def scene(request: pytest.FixtureRequest, fresh_name: Callable[[str], str]) -> AsyncIterator[Scene]:
    made: Scene
    if request.param == "kafka":
        made = KafkaScene(request.getfixturevalue("kafka_bootstrap"), fresh_name)
    else:
        made = FakeScene(fresh_name)
    yield made
    await made.close()


@pytest.fixture
async def started() -> AsyncIterator[Callable[[Source], object]]:
    """Start sources, and stop them when the test is over."""
    sources: list[Source] = []

    async def start(source: Source, owner: Owner | None = None) -> Source:
        owner = owner or Owner()
        owner.source = source
        sources.append(source)
        await source.start(owner)
        return source

    yield start
    for source in reversed(sources):
        await source.stop()


@pytest.fixture
def group(fresh_name: Callable[[str], str]) -> str:
    return fresh_name("group")
