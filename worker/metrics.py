"""The catalogue: every metric, its unit, and what it tells. The README's table is made from this file.

One `Metrics` is passed to whoever counts; there is no global registry, so tests do not see each other.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """All metrics of one worker."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"gigya_worker_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"gigya_worker_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"gigya_worker_{name}", meaning, labels, registry=registry, buckets=buckets)

        # Records
        self.records_read = counter("records_read", "Records taken from Kafka.", "topic")
        self.records_ended = counter(
            "records_ended",
            "Records that ended, by end (filtered, done, stale, dead_lettered) and reason.",
            "topic",
            "end",
            "reason",
        )
        self.records_unfinished = gauge("records_unfinished", "Records started and not ended.", "topic", "partition")
        self.lag_records = gauge(
            "lag_records", "Records between the committed offset and the end.", "topic", "partition"
        )
        self.blocker_age_s = gauge(
            "blocker_age_seconds",
            "Age of a partition's oldest unfinished record since it was started; 0 if none.",
            "topic",
            "partition",
        )
        self.commits = counter("commits", "Offset commits, by result (ok, refused, failed).", "result")
        self.rebalances = counter("rebalances", "Assignments received.")
        self.dead_letters = counter("dead_letters", "Dead letters written, by reason.", "topic", "reason")
        self.dead_letter_write_failures = counter("dead_letter_write_failures", "Dead letter writes that failed once.")
        self.flood_guard_held = gauge("flood_guard_held", "1 while the flood guard holds the worker.")

        # Calls
        self.calls_ended = counter(
            "calls_ended", "Calls that ended, by outcome and reason.", "site", "outcome", "reason"
        )
        self.attempts = counter(
            "attempts", "HTTP requests made for calls, by verdict and reason.", "site", "verdict", "reason"
        )
        self.probes = counter("probes", "Requests made to ask the site something, by result.", "site", "result")
        self.attempt_s = histogram(
            "attempt_seconds",
            "From the start of an attempt to its answer.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            "site",
        )
        self.event_to_call_s = histogram(
            "event_to_call_seconds",
            "From the record's Kafka timestamp to the answer that ended its call.",
            (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0),
            "site",
        )
        self.calls_waiting = gauge(
            "calls_waiting", "Calls that wait: gate, back-off, held, behind another call.", "site"
        )
        self.calls_in_flight = gauge("calls_in_flight", "Attempts started and not answered.", "site")
        self.possible_duplicates = counter(
            "possible_duplicates", "Calls sent again though an earlier attempt may have been executed.", "site"
        )
        self.throttled = counter("throttled", "Answers 403048 (API rate limit exceeded).", "site")
        self.rate_per_s = gauge(
            "rate_per_second", "Permits per second the quota grants now; -1 without a limit.", "site"
        )
        self.site_open = gauge("site_open", "1 when the site is open, 0 in an outage or stopped.", "site")
        self.rules_reloads = counter("rules_reloads", "Changed rules files, by result (ok, refused).", "result")
        self.rules_refused = gauge(
            "rules_refused", "1 while the rules file holds what is refused; a restart would fail."
        )
        self.key_rotations = counter("key_rotations", "Keys that were exchanged while the worker ran.", "site")
        self.key_rotations_refused = counter(
            "key_rotations_refused", "Times that changed keys or settings were refused, and the old keys stayed."
        )
        self.keys_refused = gauge(
            "keys_refused", "1 while the key and settings files hold what is refused; a restart would fail."
        )
        self.clock_offset_s = gauge("clock_offset_seconds", "The site's clock minus ours.", "site")

    def exposition(self) -> bytes:
        """Return the text that /metrics answers."""
        return generate_latest(self.registry)
