"""A dead-letter topic on the real broker, filled with letters, and the command line run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from worker.deadletters.record import DeadLetter, encode, key_of

RULES = """
version: 1
rules:
  - name: watched
    on: [watched]
    notifyAction: {UID: "${ event.user.uid }", action: watched}
"""


async def write(bootstrap: str, topic: str, letters: Iterable[DeadLetter | tuple[DeadLetter, None]]) -> None:
    """Append letters; one in a pair with None is resolved."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_batch_size=262_144) as sender:
        for each in letters:
            if isinstance(each, tuple):
                await sender.send(topic, value=None, key=key_of(each[0].record, each[0].run))
            else:
                key, value, headers = encode(each)
                await sender.send(topic, value=value, key=key, headers=list(headers))
        await sender.flush()


def settings(bootstrap: str, dead: str, **parts: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": bootstrap, "group_id": "g", "topics": ["user-events"], "dead_letter_topic": dead,
        },
        "sites": {"main": {"data_center": "eu1", "api_key": "k", "auth": {"user_key": "u", "secret": "c2VjcmV0"}}},
    }  # fmt: skip
    for name, changes in parts.items():
        tree.setdefault(name, {}).update(changes)
    return tree


def run(folder: Path, *words: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `gigya-worker dead-letters ...` in a folder with settings and rules, as a script would: piped."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    command = [sys.executable, "-m", "worker", "dead-letters", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, cwd=folder)


def prepare(folder: Path, tree: dict[str, Any], rules: str = RULES) -> None:
    (folder / "worker.yaml").write_text(json.dumps(tree))
    (folder / "rules.yaml").write_text(rules)
