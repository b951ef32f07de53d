"""What the tests of this room share: rules from a text, and the calls of an event."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from worker.mapping import rules
from worker.mapping.ruleset import RuleSet

Load = Callable[..., RuleSet]


@pytest.fixture
def load() -> Load:
    """Read rules from a text that may be indented; two topics, one site."""

    def read(text: str, *, sites: tuple[str, ...] = ("main",)) -> RuleSet:
        return rules.loads(dedent(text), file="rules.yaml", sites=sites, topics=["user-events", "other-events"])

    return read
