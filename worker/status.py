"""What the worker says about itself: /readyz, /status and the gauges of /metrics.

Reads, never changes. No UID and no Kafka key: a blocker is named by topic/partition/offset.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Protocol

from worker.alarms import Alarms
from worker.control import Control, Pause
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.metrics import Metrics
from worker.model import Json
from worker.pipeline.engine import Engine, PartitionStatus
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.reasons import OWN_REASONS
from worker.reload import RulesReload
from worker.watchdog import Watchdog


class SiteSender(Protocol):
    """What is told of a site's sender."""

    may_write: Callable[[], bool]

    def status(self) -> SiteStatus:
        """Return how the site stands now."""
        ...


class WorkerView:
    """The View that admin.py shows."""

    def __init__(
        self,
        *,
        engine: Engine,
        handler: Handler,
        lanes: Lanes,
        ledger: Ledger,
        letters: DeadLetterWriter,
        senders: Mapping[str, SiteSender],
        metrics: Metrics,
        reload: RulesReload | None,
        control: Control,
        watchdog: Watchdog,
        alarms: Alarms,
        version: str,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._lanes = lanes
        self._ledger = ledger
        self._letters = letters
        self._senders = senders
        self._metrics = metrics
        self._reload = reload
        self._control = control
        self._watchdog = watchdog
        self._alarms = alarms
        self._version = version

    def livez(self) -> tuple[bool, str]:
        """Return that the event loop turns: whoever gets this answer knows it does; and what the watchdog found."""
        return not self._watchdog.trouble, self._watchdog.trouble or "ok"

    def readyz(self) -> Mapping[str, Json]:
        """Return each component with its state and, where it is in trouble, the reason and what to do."""
        parts: dict[str, dict[str, Json]] = {
            f"site:{name}": _site_part(sender.status(), self._control.pauses.get(name))
            for name, sender in self._senders.items()
        }
        parts["kafka"] = self._kafka_part()
        parts["dead_letters"] = self._letters_part()
        parts["flood_guard"] = self._guard_part()
        parts["ledger"] = self._ledger_part()
        parts["rules"] = self._rules_part()
        return {"ready": all(part["state"] in ("ok", "open") for part in parts.values()), **parts}

    def status(self) -> Mapping[str, Json]:
        """Return the whole picture: assignment, lag, blockers, lanes, gates, ledger."""
        unfinished = self._engine.unfinished()
        return {
            "version": self._version,
            "rules_digest": self._handler.rules_digest,
            "partitions": [_partition_part(partition) for partition in self._engine.partitions()],
            "lanes": {
                name: {
                    "users": lanes.users,
                    "waiting": lanes.waiting,
                    "in_flight": lanes.in_flight,
                    "held": lanes.held,
                    "in_backoff": lanes.in_backoff,
                    "longest_lane": lanes.longest_lane,
                }
                for name, lanes in self._lanes.statistics().items()
            },
            "gates": {
                name: _gate_part(sender.status(), self._control.pauses.get(name))
                for name, sender in self._senders.items()
            },
            "held_bytes": self._handler.held_bytes,
            "ledger": {
                "line": str(self._ledger.total(unfinished)),
                "balanced": self._ledger.balanced(unfinished),
                "partitions": {str(partition): str(line) for partition, line in self._ledger.lines(unfinished).items()},
            },
        }

    def metrics(self) -> bytes:
        """Return the exposition, with the gauges as of now."""
        self._set_gauges()
        return self._metrics.exposition()

    def _set_gauges(self) -> None:
        metrics = self._metrics
        self._alarms.set_gauges()
        for gauge in (metrics.lag_records, metrics.records_unfinished, metrics.blocker_age_s):
            gauge.clear()  # a partition that was revoked must not be reported any more
        for each in self._engine.partitions():
            labels = (each.partition.topic, str(each.partition.partition))
            metrics.records_unfinished.labels(*labels).set(each.unfinished)
            metrics.blocker_age_s.labels(*labels).set(each.blocker_age_s)
            if each.lag is not None:
                metrics.lag_records.labels(*labels).set(each.lag)
        for name, lanes in self._lanes.statistics().items():
            metrics.calls_waiting.labels(name).set(lanes.waiting)
            metrics.calls_in_flight.labels(name).set(lanes.in_flight)
        for name, sender in self._senders.items():
            status = sender.status()
            metrics.site_open.labels(name).set(1 if status.state is State.OPEN else 0)
            metrics.rate_per_s.labels(name).set(-1 if status.rate_per_s is None else status.rate_per_s)
            metrics.clock_offset_s.labels(name).set(status.clock_offset_s)

    def _kafka_part(self) -> dict[str, Json]:
        partitions = self._engine.partitions()
        part: dict[str, Json] = {
            "state": "ok",
            "assigned": len(partitions),
            "lag": sum(each.lag or 0 for each in partitions),
        }
        if held_back := sum(each.held_back for each in partitions):
            part["held_back"] = held_back
        if self._engine.trouble:
            part |= {
                "state": "disconnected",
                "reason": self._engine.trouble,
                "remedy": "Nothing is read, nothing is lost. The worker goes on by itself when that is mended; a "
                "password or certificate that was exchanged needs a restart, a token file does not.",
            }
        elif lost := self._engine.lost():
            part |= {
                "state": "records_lost",
                "reason": "offset_out_of_range",
                "lost": {str(partition): count for partition, count in lost.items()},
                "remedy": "Retention deleted records before they were read. These partitions stand still. Start with "
                "--accept-gap to go on behind the gap, and raise the topic's retention.",
            }
        elif self._engine.has_joined and not all(sender.may_write() for sender in self._senders.values()):
            part |= {
                "state": "no_heartbeat",
                "reason": "no_heartbeat",
                "text": OWN_REASONS["no_heartbeat"].meaning,
                "remedy": "Look at the brokers, the network and this machine's CPU. The worker goes on by itself.",
            }
        elif self._engine.last_commit_error:
            part |= {
                "state": "commit_failing",
                "reason": self._engine.last_commit_error,
                "remedy": "Offsets are not being committed; calls go on, and a restart now would repeat them. Look at "
                "the brokers.",
            }
        elif not self._engine.has_joined:
            part |= {"state": "joining", "reason": "joining", "text": OWN_REASONS["joining"].meaning}
        return part

    def _letters_part(self) -> dict[str, Json]:
        status = self._letters.status()
        if status.failing_since_s is None and self._alarms.letters_policy != "compact":
            return {
                "state": "not_kept",
                "reason": "not_compacted",
                "text": OWN_REASONS["not_compacted"].meaning,
                "policy": self._alarms.letters_policy,
                "remedy": OWN_REASONS["not_compacted"].remedy,
            }
        if status.failing_since_s is None:
            return {"state": "ok", "waiting": self._handler.letters_waiting, "written": status.written}
        return {
            "state": "failing",
            "reason": status.reason,
            "text": status.text,
            "since": _time_text(status.failing_since_s),
            "waiting": self._handler.letters_waiting,
            "remedy": status.remedy,
        }

    def _guard_part(self) -> dict[str, Json]:
        flood = self._handler.flood
        if flood is None:
            return {"state": "ok"}
        return {"state": "held", "reason": flood.reason, "text": flood.text, "remedy": flood.remedy}

    def _rules_part(self) -> dict[str, Json]:
        part: dict[str, Json] = {"state": "ok", "in_force": self._handler.rules_digest}
        if self._reload is not None and self._reload.refused:
            # Ready all the same: the rules in force do their work. A restart would not come up.
            part["refused"] = list(self._reload.refused)
            part["remedy"] = "The rules file was changed and is wrong. Correct it: a restart would fail."
        return part

    def _ledger_part(self) -> dict[str, Json]:
        imbalances = self._ledger.imbalances(self._engine.unfinished())
        if not imbalances:
            return {"state": "ok"}
        return {
            "state": "unbalanced",
            "reason": imbalances[0],
            "remedy": "This is a bug in the worker: some record is accounted for twice, or not at all. Keep the log "
            "and report it.",
        }


def _site_part(status: SiteStatus, pause: Pause | None) -> dict[str, Json]:
    if pause is not None and status.state is State.OPEN:
        return {"state": "paused", **_pause_part(status.site, pause)}
    part: dict[str, Json] = {"state": status.state.value}
    if status.state is State.OPEN and status.away:
        first = status.away[0]
        part = {
            "state": State.OUTAGE.value,
            "hosts": sorted(trouble.host for trouble in status.away),  # only these; calls to the others go on
            "reason": first.reason,
            "since": _time_text(first.since_unix_s),
            "remedy": first.remedy,
        }
    if pause is not None:
        part["paused"] = _pause_part(status.site, pause)
    if status.reason:
        part["reason"] = status.reason
    if status.code is not None:
        part["code"] = status.code
    if status.since_s is not None:
        part["since"] = _time_text(status.since_s)
    if status.remedy:
        part["remedy"] = status.remedy
    if status.held:
        part["held"] = status.held
    return part


def _pause_part(site: str, pause: Pause) -> dict[str, Json]:
    call = f"Ask {pause.who.by}" if pause.who.by else "Ask who paused it (site.paused in the log)"
    return {
        "reason": "paused",
        "since": _time_text(pause.since_s),
        **pause.who.facts(),
        "remedy": f'Nothing is lost. {call}; POST /resume {{"site": "{site}"}} ends the pause, and so does a restart.',
    }


def _gate_part(status: SiteStatus, pause: Pause | None) -> dict[str, Json]:
    return {
        **_site_part(status, pause),
        "quota": status.quota.value,
        "rate_per_s": status.rate_per_s,
        "clock_offset_s": round(status.clock_offset_s, 3),
    }


def _partition_part(status: PartitionStatus) -> dict[str, Json]:
    part: dict[str, Json] = {
        "partition": str(status.partition),
        "position": status.position,
        "committed": status.committed,
        "lag": status.lag,
        "held_back": status.held_back,
        "unfinished": status.unfinished,
    }
    if status.blocker_offset is not None:
        part["blocker"] = {
            "record": f"{status.partition}/{status.blocker_offset}",
            "age_s": round(status.blocker_age_s, 1),
            "attempts": status.blocker_attempts,
            "reason": status.blocker_reason,
            "user": status.blocker_user,
        }
    return part


def _time_text(unix_s: float) -> str:
    return dt.datetime.fromtimestamp(unix_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
