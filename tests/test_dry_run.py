"""What stands in for the ways out: it counts, and it cannot send."""

from __future__ import annotations

import ast
import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

import worker.dry_run
from tests.inspect.conftest import RULES, sampled, trial
from worker.cli import main
from worker.clock import ManualClock, settle
from worker.delivery.deliveries import Delivery
from worker.dry_run import FROM_THE_EVENT, SUMMARY_EVERY_S, DryRun, WouldBe
from worker.gigya.calls import Call
from worker.mapping import rules
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import Outcome, OutcomeKind, TopicPartition


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def dry_run(clock: ManualClock, metrics: Metrics) -> DryRun:
    return DryRun(["main"], loaded(RULES), clock=clock, metrics=metrics)


def loaded(text: str) -> RuleSet:
    return rules.loads(text, file="rules.yaml", sites=["main"], topics=["events", "others"])


def call_of(text: str = RULES) -> Call:
    event = {"type": "liked", "uid": "u1", "kind": "secret-of-the-event"}
    return trial(text).of(sampled(event)).calls[0]


async def made(dry_run: DryRun, call: Call) -> Outcome:
    sender = dry_run.senders["main"]
    delivery = Delivery(call=call, partition=TopicPartition("events", 0), offset=0, timestamp_ms=0)
    outcome = await sender.attempt(delivery, await sender.admit())
    assert isinstance(outcome, Outcome)
    return outcome


async def test_a_call_is_counted_by_rule_and_action_and_ends_delivered(dry_run: DryRun, metrics: Metrics):
    outcome = await made(dry_run, call_of())
    assert (outcome.kind, outcome.reason, outcome.attempts) == (OutcomeKind.DELIVERED, "dry_run", 0)
    assert dry_run.calls == {WouldBe("main", "also", "did"): 1}
    labels = {"site": "main", "rule": "also", "action": "did"}
    assert metrics.registry.get_sample_value("gigya_worker_dry_run_calls_total", labels) == 1
    assert metrics.registry.get_sample_value("gigya_worker_dry_run") == 1


async def test_a_call_older_than_its_rule_allows_is_stale(dry_run: DryRun):
    outcome = await made(dry_run, replace(call_of(), stale_at_s=999.9))
    assert outcome.kind is OutcomeKind.STALE
    assert dry_run.stale == {WouldBe("main", "also", "did"): 1}
    assert not dry_run.calls


async def test_an_action_that_an_event_gives_is_told_by_nobody(dry_run: DryRun):
    await made(dry_run, call_of(RULES.replace("action: did", "action: '${ event.kind }'")))
    assert dry_run.calls == {WouldBe("main", "also", FROM_THE_EVENT): 1}
    with capture_logs() as lines:
        dry_run.log_summary()
    assert "secret-of-the-event" not in str(lines) + "".join(dry_run.lines())
    assert "u1" not in str(lines) + "".join(dry_run.lines())


async def test_actions_of_rules_that_were_loaded_anew_are_known(dry_run: DryRun):
    changed = RULES.replace("action: did", "action: did_anew")
    assert dry_run.knowing(lambda: loaded(changed))().rules
    await made(dry_run, call_of(changed))
    assert dry_run.calls == {WouldBe("main", "also", "did_anew"): 1}


async def test_a_dead_letter_is_counted_by_its_reason_and_written_nowhere(dry_run: DryRun):
    for reason in (b"missing_field", b"missing_field", b"wrong_type"):
        await dry_run.letters.send("dead", b"k", b"v", [("other", b"x"), ("dlq.reason", reason)])
    assert dry_run.letters.by_reason == {"missing_field": 2, "wrong_type": 1}
    assert "0 calls and 3 dead letters would have been made; nothing was sent" in next(dry_run.lines())


async def test_the_count_is_told_every_minute(dry_run: DryRun, clock: ManualClock):
    await made(dry_run, call_of())
    with capture_logs() as lines:
        running = asyncio.create_task(dry_run.run())
        await settle()
        await clock.advance(SUMMARY_EVERY_S * 2)
        running.cancel()
    assert [line["event"] for line in lines] == ["dry_run.summary"] * 2
    assert lines[0]["calls"] == [{"site": "main", "rule": "also", "action": "did", "calls": 1, "stale": 0}]


def test_nothing_that_can_send_is_imported():
    tree = ast.parse(Path(worker.dry_run.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"worker.delivery.transport", "worker.kafka.client", "aiohttp", "aiokafka"} & modules
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not {"Sender", "HttpTransport", "KafkaProducer"} & names


def test_a_dry_run_with_a_preflight_that_asks_the_sites_is_wrong_usage():
    result = CliRunner().invoke(main.app, ["run", "--dry-run", "--preflight"])
    assert result.exit_code == 2
    assert "run preflight by itself" in " ".join(result.output.replace("│", "").split())
