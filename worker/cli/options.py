"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, or problems found; 2 wrong usage; 3 the ledger does not balance; "
    "4 ended before everything was done; 5 cancelled by a second signal; 70 a bug; 130 Ctrl-C."
)


class Output(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The settings file (default: worker.yaml).", show_default=False
    ),
]
Format: TypeAlias = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]
