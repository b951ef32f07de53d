"""Where a backfill of files keeps its progress: one locked file, replaced whole with every commit.

The lock is on the file that has the name: whoever holds it after having looked that the name still means that file is
alone. It goes with the process, however that ends. A commit writes another file, locks it, and gives it the name; so
the one with the name is always whole, and always locked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from worker.errors import StartFailed
from worker.model import Json

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

VERSION = 1


class StateFile:
    """A document on disk that one process at a time may change."""

    def __init__(self, path: Path, held: IO[bytes]) -> None:
        self.path = path
        self._held = held

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[StateFile]:
        """Open and lock it; it is made if it is not there. Raises StartFailed."""
        state = cls(path, _lock(path))
        try:
            yield state
        finally:
            state._held.close()

    def read(self) -> dict[str, Json]:
        """Return what was written last; nothing at first. Raises StartFailed."""
        return _document(self.path)

    def write(self, document: Mapping[str, Json]) -> None:
        """Replace it; when this returns it is on disk. Raises OSError, and then the last one stands."""
        beside = self.path.with_name(self.path.name + ".new")
        new = beside.open("w+b")
        try:
            _try_lock(new)
            new.write(json.dumps({"version": VERSION, **document}, indent=1).encode())
            new.flush()
            os.fsync(new.fileno())
            beside.replace(self.path)
        except BaseException:
            new.close()
            raise
        old, self._held = self._held, new
        old.close()


def look_into(path: Path) -> dict[str, Json]:
    """Return what a state file says, without holding it; nothing where there is none. Raises StartFailed."""
    return _document(path) if path.exists() else {}


def _document(path: Path) -> dict[str, Json]:
    try:
        text = path.read_bytes()
        document = json.loads(text) if text else {}
    except OSError as error:
        raise StartFailed(f"{path} cannot be read ({error.strerror or type(error).__name__})") from error
    except ValueError:
        document = None
    if not isinstance(document, dict) or (document and document.get("version") != VERSION):
        raise StartFailed(f"{path} is not the state of a backfill, or of another version; name another one (--state)")
    return document


def _lock(path: Path) -> IO[bytes]:
    if fcntl is None:
        raise StartFailed("a backfill of files needs file locks, which this system does not have")
    while True:
        try:
            held = path.open("a+b")
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise StartFailed(f"{path} cannot be written ({why}); say with --state where the progress goes") from error
        if not _try_lock(held):
            held.close()
            raise StartFailed(f"another process works on this run: it holds {path}")
        if path.exists() and os.path.samestat(os.fstat(held.fileno()), path.stat()):
            return held
        held.close()  # it was replaced between our opening and our locking it


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
