"""A condition that chooses among dead letters: CEL over `event`, `kafka`, `ce`, and `dlq`: what a letter says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from worker.mapping import scan
from worker.mapping.expressions import (
    BadExpression,
    Expression,
    Failed,
    activation,
    compile_program,
    has_nul,
    is_true,
)
from worker.mapping.view import View
from worker.model import Event, Json, Record

LETTER: Final = "dlq"
_ROOTS: Final = (*scan.ROOTS, LETTER)


class Condition:
    """A compiled condition. Raises BadExpression for what can give no bool."""

    def __init__(self, source: str) -> None:
        if not source.strip():
            raise BadExpression(0, "an empty condition", 'write what shall hold, such as dlq.rule == "episode-watched"')
        program = compile_program(source, with_item=False, roots=_ROOTS)
        kind = str(program.return_type())
        if kind not in ("BOOL", "DYN"):
            raise BadExpression(0, f"it gives {kind.lower()}, not true or false", "compare something in it")
        hides = kind == "DYN" and scan.can_make_optional(source)
        self._expression = Expression(source, program, kind, None, scan.fields(source, _ROOTS), hides, source)

    def holds(self, record: Record, events: Sequence[Event], letter: Mapping[str, Json]) -> bool:
        """Say whether it holds for one of the events of a letter's record; without any, `event` has no fields.

        Raises Failed where it can be told of none of them: a field that is missing, say.
        """
        failed: Failed | None = None
        for event in events or (Event({}),):
            try:
                if self._holds(record, event, letter):
                    return True
            except Failed as error:
                failed = error
        if failed is not None:
            raise failed
        return False

    def _holds(self, record: Record, event: Event, letter: Mapping[str, Json]) -> bool:
        keys, roots = self._expression.fields.event_keys, self._expression.fields.roots
        payload = event.payload
        if keys is not None:  # CEL converts all that it is handed
            payload = {key: payload[key] for key in keys if key in payload}
        variables: dict[str, Json] = {"event": payload, LETTER: letter, "ce": event.attributes or {}}
        if has_nul({"event": payload, "ce": variables["ce"]}):
            raise Failed("bad_text", "the event holds a NUL character, at which an expression would cut the text")
        if "kafka" in roots:
            variables["kafka"] = View(record, event).kafka()
        return is_true(self._expression, activation(variables, roots=_ROOTS))
