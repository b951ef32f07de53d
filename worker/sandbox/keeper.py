"""Keeps the processes of a cluster, and ends them when nobody is left to.

Runs as a script in a process and a session of its own: whoever uses the cluster holds the other end of its standard
input. When that end closes, for whatever reason (kill -9 included), the keeper kills what still runs, removes the
folder if it was told to, and ends. Imports the standard library only, so that it is up in some 20 ms.

One request a line, one answer a line, both JSON: {"do": "start", "node": 1, "command": [...], "log": path} -> pid;
{"do": "signal", "node": 1, "number": 15} -> exit code; {"do": "poll", "node": 1} -> exit code, null while it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

STOP_LIMIT_S = 30.0
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


class Keeper:
    def __init__(self) -> None:
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}

    def answer(self, request: dict[str, Any]) -> int | None:
        """Do what a request says; returns what the module's docstring promises."""
        node = request["node"]
        if request["do"] == "start":
            self.nodes[node] = _start(request["command"], Path(request["log"]))
            return self.nodes[node].pid
        process = self.nodes.get(node)
        if process is None:
            return 0
        if request["do"] == "poll":
            return process.poll()
        return _end(process, request["number"])

    def end_all(self) -> None:
        for process in self.nodes.values():
            _end(process, signal.SIGKILL)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    # The session of its own keeps Ctrl-C in a terminal from reaching the broker before its users have drained.
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_the_keeper if sys.platform == "linux" else None,
        )


def _die_with_the_keeper() -> None:
    """Ask Linux to kill this process when the keeper itself is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], number: int) -> int:
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main(folder_to_remove: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper()
    try:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(keeper.answer(json.loads(line))) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the user died between a request and its answer
    finally:
        keeper.end_all()
        if folder_to_remove:
            shutil.rmtree(folder_to_remove, ignore_errors=True)
        with contextlib.suppress(OSError):
            sys.stdout.close()


if __name__ == "__main__":
    main(sys.argv[1])
