"""`explain`: what an error code of Gigya's or a reason of the worker's means, and what to do."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from worker.cli.options import Format, Output
from worker.exits import PROBLEMS


@dataclass(frozen=True, slots=True)
class Entry:
    """One code or reason. `code` is None for a reason; `consequence` says what the worker does with it."""

    word: str
    code: int | None
    name: str
    verdict: str
    reason: str
    meaning: str
    consequence: str
    remedy: str
    source: str


# What a verdict means for the call; the table of the README says the same.
_CONSEQUENCES = {
    "ok": "The call is done (outcome delivered).",
    "retry": "The worker tries again, within the budget of attempts and time; then the call has failed.",
    "throttled": "The worker slows down and tries again; this uses up no budget.",
    "rejected": "The call has failed: the record becomes a dead letter, and the worker goes on.",
    "user": "The call has failed for this user: the record becomes a dead letter, and the worker goes on.",
    "capped": "The worker counts the call as done (outcome capped) and goes on; on_cap: dead_letter keeps it for a "
    "replay.",
    "resign": "The worker corrects its clock or its nonce, signs again and tries again.",
    "ask": "The call is held and the site is asked; only a second refusal after the site accepted us decides.",
    "ambiguous": "The call may have been made. delivery.ambiguous decides: resend (a possible duplicate, counted), "
    "accept, or dead_letter.",
    "stop": "The site is stopped: its calls wait, nothing is sent to it or dead-lettered, and /readyz says why.",
    "dead letter": "The record becomes a dead letter, none of its calls is made, and the worker goes on.",
    "filtered": "Nothing is called for the record; its offset is passed at once.",
    "waiting": "The record stays unfinished and its offset is not passed.",
    "worker": "It concerns the worker, not one record; no record is passed or dead-lettered for it.",
}


def explain(
    word: Annotated[
        str | None, typer.Argument(metavar="CODE|REASON", help="An errorCode of Gigya's, or a reason of the worker's.")
    ] = None,
    output: Format = Output.TABLE,
) -> None:
    """Say what an error code or a reason means and what to do; without one, list them all."""
    entries = list(all_entries()) if word is None else find(word.strip())
    if not entries:
        print(_unknown(str(word)), file=sys.stderr)
        raise typer.Exit(PROBLEMS)
    match output:
        case Output.JSON:
            print(json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=2))
        case Output.JSONL:
            for entry in entries:
                print(json.dumps(asdict(entry), ensure_ascii=False))
        case Output.TABLE if word is None:  # an overview
            for entry in entries:
                print(f"{entry.word:<26} {entry.verdict:<12} {entry.name or entry.meaning}")
        case Output.TABLE:
            print("\n\n".join(_as_text(entry) for entry in entries))


def find(word: str) -> list[Entry]:
    """Return the entry of a code (a family's, if the table does not list it) or of a reason; [] if unknown."""
    from worker.gigya.error_codes import row_of

    if word.isascii() and word.isdigit():
        code = int(word) if len(word) <= 6 else -1
        known = code == 0 or 100_000 <= code <= 999_999
        return [_of_code(code, row_of(code))] if known else []
    return [entry for entry in all_entries() if entry.word == word.lower()]


def all_entries() -> Iterator[Entry]:
    """Yield the codes in order, then the reasons; a reason that codes have stands among both."""
    from worker.delivery.reasons import DELIVERY_REASONS
    from worker.gigya.reasons import REASONS
    from worker.gigya.replies import TABLE
    from worker.reasons import OWN_REASONS

    for code, row in sorted(TABLE.items()):
        yield _of_code(code, row)
    for reason in (*REASONS.values(), *DELIVERY_REASONS.values()):
        does = _CONSEQUENCES[reason.kind]
        yield Entry(reason.reason, None, "", reason.kind.value, reason.reason, reason.meaning, does, reason.remedy, "")
    for name, own in OWN_REASONS.items():
        yield Entry(name, None, "", own.end, name, own.meaning, _CONSEQUENCES[own.end], own.remedy, "")


def _of_code(code: int, row: object) -> Entry:
    from worker.gigya.error_codes import Row

    assert isinstance(row, Row)  # noqa: S101 - imported late, so that --help does not load the table
    does = _CONSEQUENCES[row.kind]
    return Entry(str(code), code, row.name, row.kind.value, row.reason, row.meaning, does, row.remedy, row.source)


def _as_text(entry: Entry) -> str:
    title = f"{entry.word}  {entry.name}" if entry.name else entry.word
    verdict = f"verdict: {entry.verdict}" if entry.verdict in _VERDICTS else f"end: {entry.verdict}"
    lines = [f"{title:<74} {verdict}"]
    if entry.code is not None:
        lines.append(f"  reason: {entry.reason}")
    for text in (entry.meaning, entry.consequence, f"What to do: {entry.remedy}"):
        lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="  ")
    if entry.source:
        lines.append(f"  Source: {entry.source}.")
    return "\n".join(lines)


_VERDICTS = frozenset(_CONSEQUENCES) - {"dead letter", "filtered", "waiting", "worker"}


def _unknown(word: str) -> str:
    from worker.settings.shapes import nearest

    near = nearest(word, [entry.word for entry in all_entries()])
    hint = f"did you mean {near}?" if near else "gigya-worker explain lists all"
    return f"gigya-worker: {word!r} is neither an error code nor a reason; {hint}"
