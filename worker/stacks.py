"""Where every task of the event loop stands: file, line and function, and nothing that could be data."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

_ROOT = Path(__file__).parent.parent
_DEEPEST = 30  # frames of one task
_MOST = 50  # different stacks; of a thousand attempts that hang in one place one is shown, and their number


def stacks_of_tasks() -> list[str]:
    """Return one line for each different stack, the most frequent first: how many, whose, and the way down.

    No locals, no source lines. Names of tasks are ours and hold no data; those without a name of ours are left out.
    """
    stacks: Counter[tuple[str, str]] = Counter()
    for task in asyncio.all_tasks():
        name = task.get_name()
        stacks["" if name.startswith("Task-") else name, " > ".join(_way_down(task))] += 1
    return [f"{count} x {name or 'task'}: {way}" for (name, way), count in stacks.most_common(_MOST)]


def _way_down(task: asyncio.Task[object]) -> list[str]:
    """Return the places from a task's outermost coroutine to what it waits for.

    `Task.get_stack` knows only the first of them for a task that waits.
    """
    way: list[str] = []
    waiting: object = task.get_coro()
    while waiting is not None and len(way) < _DEEPEST:
        frame = _first(waiting, "cr_frame", "gi_frame", "ag_frame")
        code = _first(waiting, "cr_code", "gi_code", "ag_code")
        if isinstance(frame, FrameType):
            way.append(_place(frame.f_code, frame.f_lineno))
        elif isinstance(code, CodeType):
            way.append(_place(code, code.co_firstlineno))
        else:
            way.append(type(waiting).__name__)  # a future, or an iterator of C
            break
        waiting = _first(waiting, "cr_await", "gi_yieldfrom", "ag_await")
    return way


def _first(thing: object, *names: str) -> object:
    return next((getattr(thing, name) for name in names if hasattr(thing, name)), None)


def _place(code: CodeType, line: int) -> str:
    path = Path(code.co_filename)
    where = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(*path.parts[-2:])
    return f"{where}:{line} {code.co_name}"
