"""The worker with a clock that is wrong: `python wrong_clock.py FILE run --config worker.yaml`.

The file holds by how many seconds, and may change while the worker runs; time that only goes on (monotonic) is right.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LOOK_EVERY_S = 0.02


class WrongClock:
    """Unix time as a machine has it whose clock nobody sets."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset_s = 0.0
        self._looked_s = float("-inf")

    def time(self) -> float:
        """Return Unix seconds, off by what the file says."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._offset_s = float(self._file.read_text() or "0")
            self._looked_s = now_s
        return time.time() + self._offset_s


def main() -> None:
    del sys.path[0]  # the folder of this file: its modules are nobody's business but the tests'
    clock = WrongClock(Path(sys.argv.pop(1)))
    from worker import clock as worker_clock
    from worker.cli.main import run

    worker_clock.SystemClock.now_s = lambda self: clock.time()  # type: ignore[method-assign]
    run()


if __name__ == "__main__":
    main()
