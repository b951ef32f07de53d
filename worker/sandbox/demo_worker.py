"""The worker as the demo runs it: a process of its own, settings in a file, its log in another.

A keeper (`keeper.py`) holds the process and the folder, so that neither outlives the demo, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from worker.sandbox import keeper

SETTINGS, RULES, LOG, NO_SECRETS = "worker.yaml", "rules.yaml", "worker.log", "secrets"
_NODE = 1  # what the keeper calls its only process


class WorkerProcess:
    """A folder with settings and rules, and the one worker that runs on them. All methods block, for milliseconds."""

    def __init__(self, *, keep: bool = False) -> None:
        """Make the folder. It is removed by `close`, or when this process dies; with `keep` it stays."""
        self.folder = Path(tempfile.mkdtemp(prefix="gigya-worker-demo-"))
        # -I: neither the environment nor the current folder decides what the keeper imports.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, "" if keep else str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=_environment(self.folder / NO_SECRETS),
        )

    def start(self, settings: str, rules: str) -> None:
        """Write the files and start `worker run --until-end` on them."""
        (self.folder / SETTINGS).write_text(settings, encoding="utf-8")
        (self.folder / RULES).write_text(rules, encoding="utf-8")
        config = str(self.folder / SETTINGS)
        command = [sys.executable, "-m", "worker", "run", "--config", config, "--until-end"]
        self._ask(do="start", command=command, log=str(self.folder / LOG))

    def exit_code(self) -> int | None:
        """Return None while it runs; a negative number is the signal that ended it."""
        return self._ask(do="poll")

    def kill(self) -> None:
        """End it at once. Nothing is drained: what it reads is thrown away with the demo."""
        self._ask(do="signal", number=int(signal.SIGKILL))

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines it wrote that may say what went wrong; if there are none, the last lines."""
        path = self.folder / LOG
        written = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        telling = [line for line in written if line.strip() and '"level":"info"' not in line]
        return (telling or written)[-lines:]

    def save_folder(self) -> Path:
        """Move the folder to where the keeper does not remove it, and return that place."""
        saved = self.folder.with_name(self.folder.name.replace("demo-", "demo-kept-", 1))
        self.folder = self.folder.rename(saved)
        return saved

    def close(self) -> None:
        """Kill what still runs and remove the folder, unless it was kept or saved; may be called twice."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
            self._keeper.wait()
            if self._keeper.stdout:
                self._keeper.stdout.close()

    def _ask(self, **request: object) -> int | None:
        to_keeper, from_keeper = self._keeper.stdin, self._keeper.stdout
        if to_keeper is None or from_keeper is None:
            raise ValueError("the keeper was started without pipes")
        to_keeper.write(json.dumps({"node": _NODE, **request}) + "\n")
        to_keeper.flush()
        answer = json.loads(from_keeper.readline())
        return None if answer is None else int(answer)


def _environment(no_secrets: Path) -> Mapping[str, str]:
    """Return the environment without what would change the demo's settings: variables, and this machine's secrets."""
    no_secrets.mkdir()
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("WORKER_")}
    return others | {"WORKER_SECRETS_DIR": str(no_secrets)}
