"""Notices that files have changed, by content.

Kubernetes swaps a symbolic link, editors write a new file, others write in place: what they have in common is the
content, so that is what is compared. It is looked at every few seconds, and counts as changed when two looks in a row
saw the same, so that no file is taken half written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from worker.clock import Clock

LOOK_EVERY_S = 3.0
SETTLE_S = 0.5


class ContentWatch:
    """Calls `take` for every new content, until it is cancelled. `look_now` may be called from a signal handler."""

    def __init__(
        self,
        fingerprint: Callable[[], bytes],
        take: Callable[[bool], Awaitable[None]],
        *,
        clock: Clock,
        is_taken: bool = True,
    ) -> None:
        """`fingerprint` may block: it is called in a thread. `take` hears whether somebody asked for it.

        The content as it is now counts as taken, unless `is_taken` says otherwise.
        """
        self._fingerprint = fingerprint
        self._take = take
        self._clock = clock
        self._candidate = fingerprint()
        self._seen = self._candidate if is_taken else b""
        self._is_asked_for = False
        self._wake = asyncio.Event()

    def look_now(self) -> None:
        """Take everything again, whether anything seems to have changed or not."""
        self._is_asked_for = True
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wait(SETTLE_S if self._candidate != self._seen else LOOK_EVERY_S)
            is_asked_for, self._is_asked_for = self._is_asked_for, False
            now_there = await asyncio.to_thread(self._fingerprint)
            is_settled, self._candidate = now_there == self._candidate, now_there
            if is_asked_for or (is_settled and now_there != self._seen):
                self._seen = now_there
                await self._take(is_asked_for)
                # Another content than before means that files changed while they were being taken, or that others are
                # watched now. Nobody can tell which, so what settles is taken once more.
                self._candidate = await asyncio.to_thread(self._fingerprint)

    async def _wait(self, seconds: float) -> None:
        timer = self._clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()


def digest_of(paths: Iterable[Path], *, limit_bytes: int) -> bytes:
    """Return a digest of these files' content, up to `limit_bytes` of each; that one cannot be read counts, too."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        try:
            with path.open("rb") as file:
                content = file.read(limit_bytes)
        except OSError as error:
            content = f"cannot be read: {type(error).__name__}".encode()
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.digest()
