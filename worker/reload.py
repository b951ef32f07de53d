"""New rules while the worker runs: checked first, examples included, then used from the next record on.

A file that is wrong is refused loudly and the rules in force stay. Every record is mapped by exactly one version; its
log line and its dead letter name it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from worker.clock import Clock
from worker.errors import Problem, Refused
from worker.mapping import examples
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import Event, Record
from worker.watch import ContentWatch, digest_of

log = structlog.get_logger(__name__)

LARGEST_FILE_BYTES = 4 * 1024 * 1024
PROBLEMS_TOLD = 20


class RulesUser(Protocol):
    """Who maps records: `pipeline.handler.Handler`."""

    @property
    def rules_digest(self) -> str:
        """Return which rules the next record is mapped by."""
        ...

    def use_rules(self, mapper: Mapper, digest: str, decode: Callable[[Record], tuple[Event, ...]]) -> None:
        """Read and map by these from the next record on."""
        ...


def checked(load: Callable[[], RuleSet]) -> tuple[RuleSet, list[Problem]]:
    """Return rules that can be right, and the warnings about them. Raises Refused; a failing example is a reason."""
    rules = load()
    found = [*rules.warnings, *examples.run(rules)]
    if any(problem.severity == "error" for problem in found):
        raise Refused(found)
    return rules, found


class RulesReload:
    """Watches the rules file and swaps the rules between two records.

    `refused` says what is wrong with a newer file; it is empty while the file is in force.
    """

    def __init__(
        self, path: Path, load: Callable[[], RuleSet], user: RulesUser, *, clock: Clock, metrics: Metrics
    ) -> None:
        """`load` reads the file anew; it blocks, is called in a thread, and raises Refused."""
        self._load = load
        self._user = user
        self._metrics = metrics
        self._watch = ContentWatch(lambda: digest_of([path], limit_bytes=LARGEST_FILE_BYTES), self._take, clock=clock)
        self.refused: tuple[str, ...] = ()

    def look_now(self) -> None:
        """Read the rules again; from a signal handler."""
        self._watch.look_now()

    async def run(self) -> None:
        """Look for new rules until cancelled."""
        await self._watch.run()

    async def _take(self, is_asked_for: bool) -> None:
        try:
            rules, _ = await asyncio.to_thread(checked, self._load)
        except Refused as refused:
            errors = [str(problem) for problem in refused.problems if problem.severity == "error"]
            self.refused = tuple(errors[:PROBLEMS_TOLD])
            self._metrics.rules_reloads.labels("refused").inc()
            self._metrics.rules_refused.set(1)
            log.error(  # noqa: TRY400  # a user's mistake: its problems are the message, a traceback is not
                "rules.refused",
                problems=list(self.refused),
                in_force=self._user.rules_digest,
                remedy="Correct the rules file. The rules read before stay in force; a restart would fail.",
            )
            return
        self.refused = ()
        self._metrics.rules_refused.set(0)
        before = self._user.rules_digest
        if rules.digest == before:
            if is_asked_for:
                log.info("rules.unchanged", rules=before)
            return
        mapper = await asyncio.to_thread(Mapper, rules)
        self._user.use_rules(mapper, rules.digest, mapper.decode)
        self._metrics.rules_reloads.labels("ok").inc()
        log.warning("rules.reloaded", before=before, rules=rules.digest, enabled=len(rules.enabled))
