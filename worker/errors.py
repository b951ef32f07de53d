"""What can go wrong, and what each thing means for the record.

A class exists where somebody reacts differently to it. Every error carries `reason`, a stable snake_case label for
metrics and dead letters, and a text that is safe to log: no secret, no UID, no payload. What may hold personal data
stays in `__cause__` and is never printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file of the user's, and where, and what to do.

    `line` and `column` count from 1; 0 means the place is not known (a setting from the environment, a missing key).
    """

    file: str
    line: int
    column: int
    what: str
    remedy: str = ""
    severity: Literal["error", "warn"] = "error"
    excerpt: str = ""  # the source line as it stands, never one that can hold a secret

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")


class WorkerError(Exception):
    """The root of this tree; nobody catches it but the command line."""

    reason: str  # of the class, or of the one error; `explain` has a row for each


class Refused(WorkerError):
    """A start that would go wrong for sure. Nothing has been consumed; exit code 1.

    Holds all problems that were found, not only the first. `str()` is one line per problem.
    """

    reason = "refused"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class StartFailed(WorkerError):
    """Something outside is missing at start (broker, topic, login, permission). Nothing consumed; exit code 1.

    The text says what is wrong and what to do, in one line for each thing.
    """

    reason = "start_failed"


class RecordError(WorkerError):
    """This record cannot become calls, today or tomorrow, until somebody changes it or the rules: a dead letter.

    `text` is safe to log; `rule` and `parameter` are empty where none is to blame.
    """

    def __init__(self, reason: str, text: str, *, rule: str = "", parameter: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.rule = rule
        self.parameter = parameter


class Undecodable(RecordError):
    """The bytes are not an event: the record becomes a dead letter."""


class Unmappable(RecordError):
    """A rule wants the event and cannot make its call: the record becomes a dead letter, none of its calls is made."""


class WriteFailed(WorkerError):
    """A dead letter could not be written now. The record stays unfinished and the write is tried again."""

    reason = "dead_letter_write_failed"


class TooLarge(WorkerError):
    """The dead-letter topic takes no message of this size, today or tomorrow: the record is written as a reference."""

    reason = "dead_letter_too_large"


class CommitRefused(WorkerError):
    """The group refused a commit: the partitions have another owner by now. Their records are forgotten here."""

    reason = "commit_refused"


class PartitionLost(WorkerError):
    """A partition's next offset no longer exists (retention). It is read no further until somebody decides."""

    reason = "offset_out_of_range"
