"""Rules are swapped only when they can be right; a wrong file changes nothing but what the operator is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from worker.clock import ManualClock
from worker.mapping import rules as rules_file
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import Event, Record
from worker.reload import RulesReload

RULES = """
version: 1
rules:
  - name: watched
    on: [episode.watched]
    notifyAction:
      UID: ${ event.user.uid }
      action: watched_episode
      points: 10
    examples:
      - event: {type: episode.watched, user: {uid: u1}}
        calls: [{UID: u1, action: watched_episode, points: 10}]
"""


class User:
    """Who maps records."""

    def __init__(self, digest: str) -> None:
        self.rules_digest = digest
        self.swaps: list[str] = []

    def use_rules(self, mapper: Mapper, digest: str, decode: Callable[[Record], tuple[Event, ...]]) -> None:
        self.rules_digest = digest
        self.swaps.append(digest)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "rules.yaml"
        self.path.write_text(RULES)
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.user = User(self.load().digest)
        self.reload = RulesReload(self.path, self.load, self.user, clock=self.clock, metrics=self.metrics)

    def load(self) -> RuleSet:
        return rules_file.load(self.path, sites=("main",), topics=("user-events",))

    async def write(self, text: str) -> None:
        self.path.write_text(text)
        task = asyncio.create_task(self.reload.run())
        for _ in range(60):
            await self.clock.advance(0.25)
            await asyncio.to_thread(lambda: None)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_rules_that_hold_are_used(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    before = scene.user.rules_digest
    await scene.write(RULES.replace("10", "20"))
    assert scene.user.swaps == [scene.load().digest]
    assert scene.user.rules_digest != before


async def test_a_comment_swaps_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.write("# a comment\n" + RULES)
    assert scene.user.swaps == []


async def test_a_file_that_is_wrong_is_refused_with_its_place_and_the_rules_in_force_stay(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    before = scene.user.rules_digest
    await scene.write(RULES.replace("points:", "pionts:"))
    assert scene.user.rules_digest == before
    assert "rules.yaml:9:7" in scene.reload.refused[0]
    assert scene.metrics.registry.get_sample_value("gigya_worker_rules_refused") == 1
    await scene.write(RULES.replace("10", "20"))
    assert scene.reload.refused == ()
    assert scene.metrics.registry.get_sample_value("gigya_worker_rules_refused") == 0


async def test_rules_whose_own_example_does_not_hold_are_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.write(RULES.replace("      points: 10", "      points: 11"))
    assert scene.user.swaps == []
    assert scene.reload.refused
