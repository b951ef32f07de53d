"""Keys that change while the worker runs: noticed by content, checked like at the start, then used from then on.

Watched are the settings file, the secret files and the private key files (worker/watch.py says how).
Only the `auth` of sites that run already is taken over; anything else that changed waits for a restart, and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from worker import logs
from worker.clock import Clock
from worker.errors import Problem, Refused
from worker.gigya.authorization import AnyCredentials
from worker.gigya.sites import SiteSettings
from worker.metrics import Metrics
from worker.settings.layers import PREFIX
from worker.settings.site_files import credentials_of, secrets_of
from worker.settings.tree import Loaded, Settings, secret_values, values_of
from worker.settings.yamlfile import MAX_BYTES, dotted
from worker.watch import ContentWatch, digest_of

# What was refused is read again now and then: it may name a file that is not watched yet, and appears later.
RETRY_EVERY_S = 30.0

log = structlog.get_logger(__name__)


class Rotatable(Protocol):
    """What uses a site's credentials: `delivery.sender.Sender`."""

    def rotate(self, credentials: AnyCredentials) -> None:
        """Use these from the next request on."""
        ...


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files say now."""

    loaded: Loaded
    credentials: Mapping[str, AnyCredentials]


class KeyWatch:
    """Looks for new keys until it is cancelled. `look_now` may be called from a signal handler of the event loop."""

    def __init__(
        self,
        loaded: Loaded,
        credentials: Mapping[str, AnyCredentials],
        reread: Callable[[], Loaded],
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`credentials` are in use now. `reread` reads all settings anew, in a thread; it raises Refused."""
        self._started_with = loaded.settings
        self._loaded = loaded
        self._reread = reread
        self._clock = clock
        self._refused: tuple[str, ...] = ()  # why what stands in the files is not used; empty while it is
        self._metrics = metrics
        self._in_use = dict(credentials)
        self._users: Mapping[str, Rotatable] = {}
        # The start took its time: what changed between reading and watching counts, too.
        self._watch = ContentWatch(self._content, self._take, clock=clock, is_taken=False)

    def look_now(self) -> None:
        """Read everything again, whether anything seems to have changed or not."""
        self._watch.look_now()

    async def run(self, users: Mapping[str, Rotatable]) -> None:
        """Hand every new key to who uses it, by site."""
        self._users = users
        await self._watch.run()

    def _content(self) -> bytes:
        """Return what changes when there is something to read again: the files, and time while they are refused."""
        retry = int(self._clock.monotonic_s() / RETRY_EVERY_S) if self._refused else 0
        return fingerprint(self._loaded) + str(retry).encode()

    async def _take(self, is_asked_for: bool) -> None:
        try:
            found = await asyncio.to_thread(self._find)
        except Refused as refused:
            self._refuse(refused.problems, is_asked_for=is_asked_for)
            return
        self._refused = ()
        self._metrics.keys_refused.set(0)
        secrets = {secret for site in found.loaded.settings.sites.values() for secret in secrets_of(site)}
        logs.hide(secrets | secret_values(found.loaded.settings))
        changed = [name for name, user in self._users.items() if self._take_one(name, user, found)]
        self._tell_the_rest(found.loaded.settings)
        self._loaded = found.loaded
        if is_asked_for and not changed:
            log.info("keys.unchanged")

    def _find(self) -> _Found:
        loaded = self._reread()
        try:
            return _Found(loaded, {name: credentials_of(site) for name, site in loaded.settings.sites.items()})
        except ValueError as error:  # a file that changed between the two reads
            raise Refused([Problem("private_key_file", 0, 0, str(error))]) from None

    def _take_one(self, name: str, user: Rotatable, found: _Found) -> bool:
        now = found.credentials.get(name)
        site = found.loaded.settings.sites.get(name)
        if now is None or site is None or now == self._in_use[name]:
            return False
        if _address(site) != _address(self._started_with.sites[name]):
            return False  # another site: its credentials are not for the one in use
        self._in_use[name] = now
        user.rotate(now)
        self._metrics.key_rotations.labels(name).inc()
        log.warning("key.rotated", site=name, mode=site.auth.mode)
        return True

    def _refuse(self, problems: Iterable[Problem], *, is_asked_for: bool) -> None:
        texts = tuple(map(_text_of, problems))
        is_known, self._refused = texts == self._refused, texts
        if is_known and not is_asked_for:
            return  # said already
        self._metrics.key_rotations_refused.inc()
        self._metrics.keys_refused.set(1)
        log.error(
            "keys.refused",
            problems=texts,
            remedy="Correct the files. The keys read before stay in use; until this is mended, a restart would fail.",
        )

    def _tell_the_rest(self, now: Settings) -> None:
        changed = other_changes(self._started_with, now)
        if changed and changed != other_changes(self._started_with, self._loaded.settings):
            log.warning("settings.wait_for_restart", settings=changed[:20])


def _address(site: SiteSettings) -> tuple[str, str | None, str | None]:
    return site.api_key, site.data_center, site.base_url


def fingerprint(loaded: Loaded) -> bytes:
    """Return a digest of the content of every file that a key can come from. Reads files; blocking."""
    return digest_of(_watched(loaded), limit_bytes=MAX_BYTES)


def other_changes(before: Settings, now: Settings) -> list[str]:
    """Return the places that differ between two trees of settings, other than the `auth` of sites that both have."""
    old, new = dict(values_of(before)), dict(values_of(now))
    both = before.sites.keys() & now.sites.keys()
    return sorted(
        dotted(path)
        for path in old.keys() | new.keys()
        if not (path[0] == "sites" and path[1] in both and path[2] == "auth") and old.get(path) != new.get(path)
    )


def _watched(loaded: Loaded) -> Iterator[Path]:
    if loaded.file is not None:
        yield loaded.file
    for folder in loaded.secret_folders:
        try:
            yield from (path for path in folder.iterdir() if path.name.lower().startswith(PREFIX.lower()))
        except OSError:
            continue
    for site in loaded.settings.sites.values():
        if site.auth.private_key_file is not None:
            yield site.auth.private_key_file


def _text_of(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return f"{place}: {problem.what}" + (f"; {problem.remedy}" if problem.remedy else "")
