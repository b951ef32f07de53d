"""What do expressions give for every element of a list? One evaluation for all of them. Pure.

Element by element, CEL would convert the event anew for each: with an expression that reads the list itself, a thousand
elements would take seconds. So condition and parts become one comprehension over the list. It says nothing of which
element failed, and its budget of 10,000 steps is for all of them; so where it fails, each half of the list is tried by
itself, down to the one element whose expressions are evaluated singly and name what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cel_expr_python import cel

from worker.mapping.expressions import Activation, Expression, Program, as_json, compile_program, slowly
from worker.mapping.scan import ITEM
from worker.model import Json

# What the parts give for an element, in order; None for one that the condition leaves out.
Row = Sequence[Json] | None


@dataclass(frozen=True, slots=True)
class OverItems:
    """A condition and parts, compiled into one."""

    program: Program
    may_hide_optional: bool

    def rows(
        self,
        items: Sequence[Json],
        bind: Callable[[Sequence[Json]], Activation | None],
        single: Callable[[int], Row],
        start: int = 0,
    ) -> list[Row]:
        """Return a row for each element. What `single` raises for an element is raised for the first that fails.

        `bind` gives the variables with these elements as `item`, or None where that cannot be.
        """
        found = self._evaluate(bind(items))
        if found is not None and len(found) == len(items):
            return found
        if len(items) == 1:
            return [single(start)]
        half = len(items) // 2
        left = self.rows(items[:half], bind, single, start)
        return left + self.rows(items[half:], bind, single, start + half)

    def _evaluate(self, variables: Activation | None) -> list[Row] | None:
        if variables is None:
            return None
        try:
            result = self.program.eval(variables)
            if result.type() == cel.Type.ERROR:
                return None
            values = slowly(result) if self.may_hide_optional else result.plain_value()
            if not isinstance(values, list):
                return None
            return [None if row is None else [as_json(value) for value in row] for row in values]
        except Exception:  # noqa: BLE001  whatever it is, the single evaluation names it
            return None


def over_items(condition: Expression | None, parts: Sequence[Expression]) -> OverItems:
    """Compile a condition and parts that compile singly, each with `item`."""
    row = "dyn([" + ",".join(f"dyn({part.cel_source}\n)" for part in parts) + "])"
    if condition is not None:
        row = f"({condition.cel_source}\n) ? {row} : dyn(null)"
    # The variable of the comprehension hides the one that holds the list.
    program = compile_program(f"{ITEM}.map({ITEM}, {row})", with_item=True)
    hides = any(one.may_hide_optional for one in (*parts, *([condition] if condition is not None else [])))
    return OverItems(program, hides)
