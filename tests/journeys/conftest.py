"""What the journeys share: where their processes' files go, and time enough."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.harness import Journey

Begin = Callable[..., AbstractAsyncContextManager[Journey]]


@pytest.fixture
def begin(kafka_bootstrap: str, tmp_path: Path) -> Begin:
    """Return what begins a journey on the tests' broker: `async with begin(partitions=4) as journey`."""

    def on_broker(**options: Any) -> AbstractAsyncContextManager[Journey]:
        return Journey.begin(kafka_bootstrap, tmp_path, **options)

    return on_broker
