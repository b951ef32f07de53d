"""An operator's word that one record shall become a dead letter now, so that it holds its partition no longer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from worker.delivery.deliveries import Delivery
from worker.model import Outcome, OutcomeKind

PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Parked:
    """Who parks a record, and why; either may be empty. One line each, safe to write into a letter."""

    by: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """Return it for people. What was typed stands in quotes: fingerprints leave that out, and stay one group."""
        by = f" by {_quoted(self.by)}" if self.by else ""
        why = f": {_quoted(self.why)}" if self.why else ""
        return f"parked{by}{why}"


def parked_outcome(delivery: Delivery, parked: Parked) -> Outcome:
    """Return how a call ends whose record is parked and that has no attempt in flight.

    An end that is known already is not thrown away; what nobody could decide yet is said to be in doubt.
    """
    if delivery.decided is not None:
        return delivery.decided
    if delivery.is_published:  # at least one network has it: whatever becomes of the others, it is delivered
        return Outcome(OutcomeKind.DELIVERED, "ok", attempts=delivery.attempts, details=delivery.providers)
    return Outcome(
        OutcomeKind.FAILED,
        PARKED,
        attempts=delivery.attempts,
        maybe_executed=delivery.may_be_executed or (delivery.suspect and not delivery.attempts),
        text=parked.text,
        details=delivery.providers,
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
