"""The catalogue: every metric, its unit, and what it tells. The README's table is made from this file.

One `Metrics` is passed to whoever counts; there is no global registry, so tests do not see each other.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """All metrics of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._add_records()
        self._add_calls()
        self._add_dry_run()
        self._add_changes()
        self._add_alarms()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"gigya_worker_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"gigya_worker_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gigya_worker_{name}", meaning, labels, registry=self.registry, buckets=buckets)

    def _add_records(self) -> None:
        self.records_read = self._counter("records_read", "Records taken from Kafka.", "topic")
        self.records_ended = self._counter(
            "records_ended",
            "Records that ended, by end (filtered, done, stale, dead_lettered; already_done earlier) and reason.",
            "topic",
            "end",
            "reason",
        )
        self.records_unfinished = self._gauge(
            "records_unfinished", "Records started and not ended.", "topic", "partition"
        )
        self.lag_records = self._gauge(
            "lag_records", "Records between the committed offset and the end.", "topic", "partition"
        )
        self.blocker_age_s = self._gauge(
            "blocker_age_seconds",
            "Age of a partition's oldest unfinished record since it was started; 0 if none.",
            "topic",
            "partition",
        )
        self.commits = self._counter("commits", "Offset commits, by result (ok, refused, failed).", "result")
        self.rebalances = self._counter("rebalances", "Assignments received.")
        self.dead_letters = self._counter("dead_letters", "Dead letters written, by reason.", "topic", "reason")
        self.dead_letters_withdrawn = self._counter(
            "dead_letters_withdrawn",
            "Tombstones written for records that may have had a dead letter before a restart, and need none now.",
            "topic",
        )
        self.dead_letter_write_failures = self._counter(
            "dead_letter_write_failures", "Dead letter writes that failed once."
        )
        self.flood_guard_held = self._gauge("flood_guard_held", "1 while the flood guard holds the worker.")

    def _add_calls(self) -> None:
        self.calls_ended = self._counter(
            "calls_ended", "Calls that ended, by outcome and reason.", "site", "outcome", "reason"
        )
        self.attempts = self._counter(
            "attempts", "HTTP requests made for calls, by verdict and reason.", "site", "verdict", "reason"
        )
        self.probes = self._counter("probes", "Requests made to ask the site something, by result.", "site", "result")
        self.attempt_s = self._histogram(
            "attempt_seconds",
            "From the start of an attempt to its answer.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            "site",
        )
        self.event_to_call_s = self._histogram(
            "event_to_call_seconds",
            "From the record's Kafka timestamp to the answer that ended its call.",
            (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0),
            "site",
        )
        self.calls_waiting = self._gauge(
            "calls_waiting", "Calls that wait: gate, back-off, held, behind another call.", "site"
        )
        self.calls_in_flight = self._gauge("calls_in_flight", "Attempts started and not answered.", "site")
        self.suspects = self._counter(
            "suspect_calls", "Calls that an earlier process may have made: they are asked about first.", "topic"
        )
        self.possible_duplicates = self._counter(
            "possible_duplicates", "Calls sent again though an earlier attempt may have been executed.", "site"
        )
        self.log_lookups = self._counter(
            "log_lookups", "Questions to the action log about calls in doubt, by what they brought.", "site", "result"
        )
        self.ambiguity_steps = self._counter(
            "ambiguity_steps",
            "Calls that may have been executed: each step taken about them (found_in_log, remembered, not_in_log, "
            "log_cannot_tell, cleared_by_log, same_nonce, arrived, policy, accepted, failed, refused, stale).",
            "site",
            "step",
        )
        self.throttled = self._counter("throttled", "Answers 403048 (API rate limit exceeded).", "site")
        self.rate_per_s = self._gauge(
            "rate_per_second", "Permits per second the quota grants now; -1 without a limit.", "site"
        )
        self.site_open = self._gauge("site_open", "1 when the site is open, 0 in an outage or stopped.", "site")
        self.clock_offset_s = self._gauge("clock_offset_seconds", "The site's clock minus ours.", "site")

    def _add_dry_run(self) -> None:
        self.dry_run = self._gauge("dry_run", "1 while this is a dry run: nothing is sent, and no dead letter written.")
        self.dry_run_calls = self._counter(
            "dry_run_calls",
            "Calls that a dry run would have made, by rule and action; records that are read again count again.",
            "site",
            "rule",
            "action",
        )

    def _add_changes(self) -> None:
        self.rules_reloads = self._counter("rules_reloads", "Changed rules files, by result (ok, refused).", "result")
        self.rules_refused = self._gauge(
            "rules_refused", "1 while the rules file holds what is refused; a restart would fail."
        )
        self.key_rotations = self._counter("key_rotations", "Keys that were exchanged while the worker ran.", "site")
        self.key_rotations_refused = self._counter(
            "key_rotations_refused", "Times that changed keys or settings were refused, and the old keys stayed."
        )
        self.keys_refused = self._gauge(
            "keys_refused", "1 while the key and settings files hold what is refused; a restart would fail."
        )

    def _add_alarms(self) -> None:
        self.stuck = self._gauge("stuck", "1 while the progress watchdog finds the worker stuck; /livez then fails.")
        self.tasks = self._gauge("tasks", "Tasks of the event loop; growth that never ends is a leak, and a bug.")
        self.paused = self._gauge("paused", "1 while an operator has paused the site.", "site")
        self.site_state = self._gauge(
            "site_state",
            "1 for the state the site is in, 0 for the others: open, outage (also of one host), stopped.",
            "site",
            "state",
        )
        self.lease_margin_s = self._gauge(
            "lease_margin_seconds",
            "How long our partitions are surely ours; no attempt starts below attempt_timeout_s. 0: perhaps not.",
        )
        self.quota_share = self._gauge(
            "quota_share", "This member's part of the site's quota, 0 to 1; -1 without a quota.", "site"
        )
        self.retention_s = self._gauge(
            "retention_seconds", "After how long the topic deletes records; -1 for never by age or unknown.", "topic"
        )
        self.blocker_retention_ratio = self._gauge(
            "blocker_retention_ratio",
            "Age of a partition's oldest unfinished record by its timestamp, as a part of the topic's retention: at 1 "
            "the topic deletes it. 0 if there is none, or no retention by age.",
            "topic",
            "partition",
        )
        self.retention_bytes_ratio = self._gauge(
            "retention_bytes_ratio",
            "Size of what is not done of a partition, as a part of the topic's retention.bytes; estimated from the "
            "records that wait: too high where the topic is compressed. 0 without a limit by size.",
            "topic",
            "partition",
        )
        self.ledger_records = self._gauge(
            "ledger_records",
            "The ledger by count: read = already_done + filtered + stale + done + dead_lettered + handed_back + "
            "unfinished. Of this process.",
            "topic",
            "count",
        )
        self.ledger_missing = self._gauge(
            "ledger_missing", "Records read that are in no other count of the ledger; anything but 0 is a bug.", "topic"
        )

    def exposition(self) -> bytes:
        """Return the text that /metrics answers."""
        return generate_latest(self.registry)
