"""A file counts as changed by its content, once it has settled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from worker.clock import ManualClock
from worker.watch import ContentWatch, digest_of


class Scene:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.taken: list[tuple[str, bool]] = []
        self.watch = ContentWatch(lambda: digest_of([path], limit_bytes=1000), self._take, clock=self.clock)

    async def _take(self, is_asked_for: bool) -> None:
        self.taken.append((self.path.read_text(), is_asked_for))

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            await self.clock.advance(0.25)
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 5)  # what runs in a thread has had its turn
            await self.clock.advance(0)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    path = tmp_path / "file"
    path.write_text("first")
    return Scene(path)


async def _with(scene: Scene, act: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(scene.watch.run())
    try:
        await act()
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_at_the_start_is_not_taken_again(scene: Scene) -> None:
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == []


async def test_what_is_there_at_the_start_is_taken_once_where_it_does_not_count_as_taken(scene: Scene) -> None:
    scene.watch = ContentWatch(scene.path.read_bytes, scene._take, clock=scene.clock, is_taken=False)
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == [("first", False)]


async def test_a_new_content_is_taken_once(scene: Scene) -> None:
    scene.path.write_text("second")
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == [("second", False)]


async def test_a_symbolic_link_that_is_swapped_is_a_new_content(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("swapped")
    scene.path.unlink()
    scene.path.symlink_to(other)
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == [("swapped", False)]


async def test_the_same_content_written_again_is_nothing_new(scene: Scene) -> None:
    scene.path.write_text("first")
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == []


async def test_whoever_asks_gets_it_read_again_at_once(scene: Scene) -> None:
    async def act() -> None:
        scene.watch.look_now()
        await scene.pass_time(1)

    await _with(scene, act)
    assert scene.taken == [("first", True)]


async def test_a_content_that_comes_while_another_is_being_taken_is_not_missed(scene: Scene) -> None:
    take = scene._take

    async def slow_take(is_asked_for: bool) -> None:
        await take(is_asked_for)
        if len(scene.taken) == 1:
            scene.path.write_text("third")

    scene.watch._take = slow_take
    scene.path.write_text("second")
    await _with(scene, lambda: scene.pass_time(20))
    assert scene.taken == [("second", False), ("third", False)]


async def test_a_file_that_is_gone_is_a_change_and_not_the_end(scene: Scene) -> None:
    async def act() -> None:
        scene.path.unlink()
        scene.path.parent.joinpath("file").write_text("back")
        await scene.pass_time(10)

    await _with(scene, act)
    assert scene.taken == [("back", False)]
