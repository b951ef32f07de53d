"""What preflight tells: one line for each thing that was checked. Values only. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What became of a check."""

    OK = "ok"
    WARNING = "warning"  # a run would start; somebody should look
    FAILED = "failed"  # a run would stop, lose nothing, and deliver nothing
    NOT_CHECKED = "not_checked"  # another line says why; or nothing can check it


class Check(StrEnum):
    """What is checked of a site, in the order in which it is told."""

    DNS = "dns"
    CONNECTION = "connection"
    CLOCK = "clock"
    DATA_CENTER = "data centre"
    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    PRODUCT = "product"
    METHOD = "method"
    ACTION = "action"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Line:
    """One check. `found` and `remedy` are safe to show; `remedy` is there where something is to be done."""

    part: str  # "kafka", or "site NAME"
    check: str
    subject: str  # the host, method, action, topic or group; empty where the check is of the whole part
    state: State
    found: str
    remedy: str = ""
    reason: str = ""  # a row of `explain`; empty where no answer of Gigya's is the cause
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All lines, part by part."""

    lines: tuple[Line, ...]

    @property
    def failed(self) -> Sequence[Line]:
        return [line for line in self.lines if line.state is State.FAILED]

    def counts(self) -> Counter[State]:
        return Counter(line.state for line in self.lines)
