"""What did an expression see? The fields that it names, with what an event has there. Pure.

For people who look at their own events (`try`, failing examples), never for a log: these texts hold values.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from worker.mapping.expressions import Expression
from worker.mapping.scan import Path, walk
from worker.model import Json

_SHOWN_CHARS: Final = 60


def facts_of(expression: Expression, variable: Callable[[str], Json]) -> tuple[str, ...]:
    """Return a text for each path, such as `event.progress is 0.2` or `event.user is missing`."""
    found: dict[str, None] = {}
    for path in expression.fields.paths:
        depth, value = walk(variable(path.root), path.keys)
        if depth == len(path.keys):
            found[f"{path} is {shown(json.dumps(value, ensure_ascii=False, default=str))}"] = None
        else:
            found[f"{Path(path.root, path.keys[: depth + 1])} is missing"] = None
    return tuple(found)


def shown(text: str) -> str:
    """Return a text short enough for a line."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
