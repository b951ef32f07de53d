"""Rules and events to try."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from worker.inspect.preview import Trial, Tried
from worker.inspect.samples import Sampled
from worker.mapping import rules
from worker.model import Json, KafkaRecord

RULES = """\
version: 1
rules:
  - name: watched
    on: [watched]
    when: event.progress >= 0.9
    notifyAction: {UID: "${ event.uid }", action: watched_it, points: "${ event.points }"}
    max_age: 1h
  - name: also
    on: [watched, liked]
    notifyAction: {UID: "${ event.uid }", action: did}
  - name: elsewhere
    topics: [others]
    on: [opened]
    notifyAction: {UID: "${ event.uid }", action: opened}
  - name: off
    on: [closed]
    enabled: false
    notifyAction: {UID: "${ event.uid }", action: closed}
  - name: items
    on: [bought]
    each: event.items
    when: item.price > 1
    notifyAction: {UID: "${ event.uid }", action: bought, context: {item: "${ item.name }"}}
"""
Try = Callable[..., Tried]


def trial(text: str) -> Trial:
    return Trial(rules.loads(text, file="rules.yaml", sites=["main"], topics=["events", "others"]))


def sampled(event: Json | bytes | None, **fields: int | str) -> Sampled:
    value = event if event is None or isinstance(event, bytes) else json.dumps(event).encode()
    place = {"topic": "events", "partition": 0, "offset": 0, "timestamp": 1_000_000, **fields}
    return Sampled("f:1", KafkaRecord(value=value, **place))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tried() -> Try:
    """Try one event under RULES."""
    on = trial(RULES)
    return lambda event, **fields: on.of(sampled(event, **fields))
