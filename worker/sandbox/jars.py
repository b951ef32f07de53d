"""The broker's jars: fetched once, checked, kept in a cache that every checkout and CI share.

`python -m worker.sandbox.jars` fills the cache and prints where it is. The jars come through `jgo`'s pure-Python Maven
resolver, so neither Maven nor Java is needed; a cache that is complete is used without the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

KAFKA = "4.3.1"
# slf4j-simple writes the broker's log to stderr; Kafka still speaks the slf4j 1.7 API.
COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA}", "org.slf4j:slf4j-simple:1.7.36")
# Names and contents of all 46 jars. It pins what the resolver picks, too: jgo only warns about a wrong checksum.
DIGEST = "929899bc0205a413e019af82b4ea9cd72ca842beec55d2912c6e09780eb2d3d6"


class BrokerUnavailable(Exception):
    """No local Kafka can be had. The text is one line that says why and what to do."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no local Kafka: {why}; or set KAFKA_BOOTSTRAP=host:port to use another broker")


def cache_directory() -> Path:
    """Return $GIGYA_WORKER_CACHE, else gigya-worker in the user's cache folder; it need not exist."""
    if chosen := os.environ.get("GIGYA_WORKER_CACHE"):
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigya-worker"


def kafka_jars() -> Path:
    """Return the folder with the broker's jars, fetched if need be (some 45 MB, once). Raises BrokerUnavailable.

    Safe to call from many processes at once: one fetches, the others wait, and the folder appears whole or not at all.
    """
    try:
        folder = cache_directory() / f"kafka-{KAFKA}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _fetch_into(folder)
    except OSError as error:
        raise BrokerUnavailable(
            f"the cache {error.filename or cache_directory()} cannot be used ({error.strerror or error}); "
            "set GIGYA_WORKER_CACHE to a folder that can be written"
        ) from error
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system drops it when this process dies, so none is ever left behind."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_into(folder: Path) -> None:
    repository, unfinished = folder.with_name(f"{folder.name}.maven"), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)  # an interrupted fetch of an earlier process
    unfinished.mkdir()
    for jar in _resolve(repository):
        shutil.move(jar, unfinished / jar.name)
    shutil.rmtree(repository, ignore_errors=True)
    found = digest(unfinished)
    if found != DIGEST:
        shutil.rmtree(unfinished)
        raise BrokerUnavailable(f"the jars that were fetched are not those of Kafka {KAFKA} (digest {found[:12]}...)")
    unfinished.rename(folder)


def _resolve(repository: Path) -> list[Path]:
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerUnavailable("jgo is not installed; pip install 'gigya-worker[sandbox]'") from error
    logging.getLogger("jgo").setLevel(logging.ERROR)
    # Somebody's own registry, from jgo's settings file; None is jgo's default.
    mirrors = dict(GlobalSettings.load().repositories) or None
    maven = MavenContext(repo_cache=repository, local_repos=[], remote_repos=mirrors, timeout=30)
    try:
        wanted, needed = maven.resolver.resolve([maven.create_dependency(name) for name in COORDINATES])
        at_run_time = [*wanted, *(one for one in needed if one.scope in ("compile", "runtime"))]
        return sorted({one.artifact.resolve() for one in at_run_time})
    except Exception as error:  # the resolver raises whatever its HTTP and XML libraries do
        raise BrokerUnavailable(
            f"the jars of Kafka {KAFKA} could not be fetched from the Maven registry ({type(error).__name__}); "
            "connect to the network once"
        ) from error


def digest(folder: Path) -> str:
    """Return one SHA-256 over the names and contents of the jars in `folder`, whatever their order on disk."""
    total = hashlib.sha256()
    for jar in sorted(folder.glob("*.jar")):
        total.update(f"{jar.name} {hashlib.sha256(jar.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


if __name__ == "__main__":
    try:
        print(kafka_jars())
    except BrokerUnavailable as unavailable:
        sys.exit(str(unavailable))
