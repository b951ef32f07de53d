"""Kafka's findings as lines: what is wrong apart from what to do, and what could not be checked."""

from __future__ import annotations

import pytest

from worker.errors import StartFailed
from worker.kafka.client import Finding
from worker.kafka.settings import KafkaSettings
from worker.preflight import cluster
from worker.preflight.lines import State

SETTINGS = KafkaSettings(bootstrap_servers="b:9092", group_id="g", topics=("t1", "t2"), dead_letter_topic="d")


async def told(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> list[tuple[str, str, State, str, str]]:
    async def found(_: KafkaSettings, *, limit_s: float) -> tuple[Finding, ...]:
        return findings

    monkeypatch.setattr(cluster, "examine_cluster", found)
    lines = await cluster.cluster_lines(SETTINGS, limit_s=1)
    return [(line.check, line.subject, line.state, line.found, line.remedy) for line in lines]


async def test_a_problem_is_parted_from_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = StartFailed("Kafka at b:9092: the login was refused; check kafka.security.username and password")
    first, *others = await told(monkeypatch, Finding("connection", "b:9092", "", problem))
    remedy = "Check kafka.security.username and password"
    assert first == ("connection", "b:9092", State.FAILED, "the login was refused", remedy)
    assert {(state, found) for _, _, state, found, _ in others} == {(State.NOT_CHECKED, "see connection")}
    assert [subject for _, subject, *_ in others] == ["t1", "t2", "d", "d", "g"]


async def test_a_problem_without_a_remedy_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = await told(monkeypatch, Finding("connection", "b:9092", "", StartFailed("something odd")))
    assert first[4] == "Look at the broker's own log."


async def test_what_was_not_asked_names_what_stood_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = await told(
        monkeypatch,
        Finding("connection", "b:9092", "connected"),
        Finding("topic", "t1", "there"),
        Finding("topic", "t2", "there"),
        Finding("dead-letter topic", "d", "", StartFailed("dead-letter topic d does not exist; create it")),
        Finding("permission", "Read on topic t2", "", StartFailed("this login may not Read; grant it")),
        Finding("group", "g", "may be used"),
    )
    assert lines[-1][:4] == ("dead-letter settings", "d", State.NOT_CHECKED, "see dead-letter topic")
    assert [line[0] for line in lines if line[2] is State.FAILED] == ["dead-letter topic", "permission"]
