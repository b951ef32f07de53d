"""Every alarm looks at metrics that exist, says what to do, and its gauges say what is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from structlog.testing import capture_logs

from tests.delivery.fakes import make_scene, reply
from tests.pipeline.test_parking import P0, House, running
from worker.alarms import Alarms
from worker.clock import ManualClock
from worker.kafka.retention import Kept, Retention, kept_by
from worker.metrics import Metrics

ROOT = Path(__file__).parent.parent
RULES = [rule for group in YAML(typ="safe").load(ROOT / "deploy" / "alerts.yaml")["groups"] for rule in group["rules"]]


def exported() -> dict[str, set[str]]:
    """Return the name of every sample that /metrics can show, with its labels."""
    found = {}
    for collector, names in Metrics().registry._collector_to_names.items():
        labels = set(collector._labelnames)  # type: ignore[attr-defined]
        found |= {name: labels for name in names if not name.endswith("_created")}
    return found


def metrics_of(rule: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each metric of a rule with what stands in braces behind it."""
    yield from re.findall(r"\b(gigya_worker_\w+)(\{[^}]*\})?", rule["expr"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_metric_and_label_of_an_alarm_exists(rule: dict[str, str]) -> None:
    known = exported()
    named = list(metrics_of(rule))
    assert named
    labels = {"instance"}
    for metric, selector in named:
        assert metric in known, metric
        assert set(re.findall(r"(\w+)\s*[!=]", selector)) <= known[metric]
        labels |= known[metric]
    grouped = {
        word for words in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]) for word in words.split(", ") if word
    }
    assert grouped <= labels
    said = str(rule["annotations"])
    assert set(re.findall(r"\$labels\.(\w+)", said)) <= grouped | labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alarm_says_what_to_do_and_stands_in_the_readme(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["action"]
    assert f"| `{rule['alert']}` |" in (ROOT / "README.md").read_text()


def test_alarms_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


# --- the gauges ------------------------------------------------------------------------------------------------------

DAY_S = 86_400.0


class Scrape:
    """The alarms over a pipeline, and what they show."""

    def __init__(self, house: House, retention_s: float | None = DAY_S) -> None:
        self.metrics = Metrics()
        self.retention = Retention(["user-events"], dict, house.clock)  # type: ignore[arg-type]
        self.retention.seconds["user-events"] = retention_s
        self.scene = make_scene(reply(400093))
        self.end: int | None = None
        self.alarms = Alarms(
            offsets=house.offsets,
            ledger=house.ledger,
            senders={"main": self.scene.sender},
            retention=self.retention,
            quota_shares=lambda: {"main": 0.25},
            lease_valid_until_s=lambda: house.clock.monotonic_s() + 33.0,
            end_of=lambda _: self.end,
            clock=house.clock,
            metrics=self.metrics,
        )

    def value(self, name: str, **labels: str) -> float | None:
        self.alarms.set_gauges()
        return self.metrics.registry.get_sample_value(f"gigya_worker_{name}", labels)

    @property
    def filled(self) -> float | None:
        return self.value("retention_bytes_ratio", topic="user-events", partition="0")

    @property
    def ratio(self) -> float | None:
        return self.value("blocker_retention_ratio", topic="user-events", partition="0")


async def test_a_blocker_is_as_old_as_its_timestamp_says_not_as_long_as_it_has_been_here() -> None:
    async with running(House()) as house:
        scrape = Scrape(house)
        assert scrape.ratio == 0.0
        await house.take("u1")
        ticket = house.ticket(0)
        object.__setattr__(ticket.record, "timestamp", int((house.clock.now_s() - DAY_S / 2) * 1000))
        assert scrape.ratio == pytest.approx(0.5, abs=0.001)
        await house.clock.advance(DAY_S / 4)
        assert scrape.ratio == pytest.approx(0.75, abs=0.001)
        house.ledger.handed_back(P0, len(house.offsets.forget([P0])))
        assert scrape.ratio is None
        house.offsets.assign({P0: 0})
        house.ledger.assigned(P0, house.progress.epoch)


async def test_without_a_timestamp_its_time_here_counts_and_without_a_retention_nothing_does() -> None:
    async with running(House()) as house:
        await house.take("u1")
        await house.clock.advance(DAY_S / 4)
        assert Scrape(house).ratio == pytest.approx(0.25, abs=0.001)
        assert Scrape(house, None).ratio == 0.0
        assert Scrape(house, None).value("retention_seconds", topic="user-events") == -1


async def test_a_site_is_in_exactly_one_state() -> None:
    house = House()
    scrape = Scrape(house)
    await scrape.scene.once(scrape.scene.delivery("u1"))
    states = {state: scrape.value("site_state", site="main", state=state) for state in ("open", "outage", "stopped")}
    assert states == {"open": 0, "outage": 0, "stopped": 1}
    assert scrape.value("paused", site="main") == 0
    scrape.scene.sender.pause()
    assert scrape.value("paused", site="main") == 1


async def test_lease_and_share_are_shown() -> None:
    scrape = Scrape(House())
    assert scrape.value("lease_margin_seconds") == pytest.approx(33.0)
    assert scrape.value("quota_share", site="main") == 0.25


async def test_the_ledger_is_shown_count_by_count_and_what_is_missing() -> None:
    async with running(House()) as house:
        scrape = Scrape(house)
        await house.take("none", "u1", "bad")
        counts = {
            count: scrape.value("ledger_records", topic="user-events", count=count)
            for count in ("read", "filtered", "unfinished", "dead_lettered", "done")
        }
        assert counts == {"read": 3, "filtered": 1, "unfinished": 1, "dead_lettered": 1, "done": 0}
        assert scrape.value("ledger_missing", topic="user-events") == 0
        house.ledger.read(P0, 2)
        assert scrape.value("ledger_missing", topic="user-events") == 2
        house.ledger.filtered(P0, 2, "unwanted")


async def test_the_tasks_of_the_event_loop_are_counted_so_that_a_leak_can_be_seen() -> None:
    scrape = Scrape(House())
    before = scrape.value("tasks")
    assert before is not None
    assert before >= 1
    leaked = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
    assert scrape.value("tasks") == before + 3
    for task in leaked:
        task.cancel()
    await asyncio.gather(*leaked, return_exceptions=True)
    assert scrape.value("tasks") == before


# --- retention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "seconds", "size_bytes"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1"}, 604_800.0, None),
        ({"cleanup.policy": "compact,delete", "retention.ms": "1000"}, 1.0, None),
        ({"cleanup.policy": "compact", "retention.ms": "604800000", "retention.bytes": "1000"}, None, None),
        ({"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1000"}, None, 1000),
        ({}, None, None),
    ],
)
def test_only_a_topic_that_deletes_has_a_retention(
    config: dict[str, str], seconds: float | None, size_bytes: int | None
) -> None:
    kept = kept_by(config)
    assert (kept.seconds, kept.bytes) == (seconds, size_bytes)


async def test_a_limit_by_size_is_filled_by_all_that_is_not_done_and_empty_where_all_is() -> None:
    async with running(House()) as house:
        scrape = Scrape(house)
        scrape.retention.bytes["user-events"] = 1_000_000
        scrape.end = 100_000
        assert scrape.filled == 0.0
        await house.take("u1", "u2")  # two bytes each
        assert scrape.filled == pytest.approx(0.2)
        scrape.retention.bytes["user-events"] = None
        assert scrape.filled == 0.0


def kept(seconds: float, policy: str = "compact") -> dict[str, Kept]:
    return {"t": Kept(seconds, None, "delete"), "t.dead": Kept(None, None, policy), "foreign": Kept(1.0, 1, "delete")}


async def test_retention_is_asked_for_again_and_an_answer_that_fails_leaves_what_was_known() -> None:
    clock = ManualClock()
    answers: list[dict[str, Kept] | OSError] = [kept(10.0), OSError("away"), OSError("away"), kept(20.0)]

    async def ask() -> dict[str, Kept]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    retention = Retention(["t"], ask, clock)
    running_ = asyncio.create_task(retention.run())
    await clock.advance(1.0)
    assert retention.seconds == {"t": 10.0}
    await clock.advance(80.0)
    assert retention.seconds == {"t": 10.0}
    await clock.advance(60.0)
    assert retention.seconds == {"t": 20.0}
    running_.cancel()
    await asyncio.gather(running_, return_exceptions=True)


async def test_a_dead_letter_topic_that_would_delete_letters_is_told_once_and_until_it_is_mended() -> None:
    clock = ManualClock()
    policy = "compact"

    async def ask() -> dict[str, Kept]:
        return kept(10.0, policy)

    retention = Retention(["t"], ask, clock, dead_letter_topic="t.dead")
    running_ = asyncio.create_task(retention.run())
    with capture_logs() as lines:
        for policy in ("compact", "delete", "delete", "compact"):
            await clock.advance(60.0)
            assert retention.letters_policy == policy
    assert [line["event"] for line in lines] == ["dead_letters.not_kept"]
    running_.cancel()
    await asyncio.gather(running_, return_exceptions=True)
