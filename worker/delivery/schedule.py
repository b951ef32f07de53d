"""How long until the next attempt, and when is enough enough? Pure: randomness is an argument.

A budget counts only what may be the call's own fault. Whatever is the site's matter (throttling, an outage, a stop,
a question to the site) and whatever is spent waiting at a gate costs a call nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

AmbiguousPolicy = Literal["resend", "accept", "dead_letter"]


class DeliverySettings(BaseModel):
    """The `delivery:` section of the settings. Every field's unit is in its `json_schema_extra`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_in_flight: Annotated[int, Field(ge=1, le=10_000, json_schema_extra={"unit": "attempts"})] = Field(
        default=200, description="Attempts that may be started and not answered at the same time, over all sites."
    )
    max_ahead: Annotated[int, Field(ge=1, json_schema_extra={"unit": "offsets"})] = Field(
        default=10_000, description="How far a partition is read beyond its oldest unfinished record."
    )
    max_buffer_bytes: Annotated[int, Field(ge=1_048_576, json_schema_extra={"unit": "bytes"})] = Field(
        default=67_108_864, description="Memory for records that are read and not ended."
    )
    attempts: Annotated[int, Field(ge=1, le=1000, json_schema_extra={"unit": "attempts"})] = Field(
        default=12, description="Attempts that may fail by the call's own fault before it has failed."
    )
    give_up_after_s: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = Field(
        default=3600.0,
        description="Time a call may spend on attempts that fail by its own fault and on the pauses between them.",
    )
    connect_timeout_s: Annotated[float, Field(gt=0, le=300, json_schema_extra={"unit": "seconds"})] = Field(
        default=5.0, description="From the wish for a connection to a usable one: name, TCP and TLS."
    )
    attempt_timeout_s: Annotated[float, Field(gt=0, le=300, json_schema_extra={"unit": "seconds"})] = Field(
        default=10.0, description="From the start of an attempt to its whole answer; the connection is included."
    )
    drain_s: Annotated[float, Field(gt=0, le=3600, json_schema_extra={"unit": "seconds"})] = Field(
        default=20.0, description="How long calls may still wait for a permit when partitions or the process must go."
    )
    ambiguous: AmbiguousPolicy = Field(
        default="resend",
        description="What becomes of a call when an attempt may have been executed and nothing can tell: send it again "
        "(a duplicate is better than a loss), accept it as delivered, or dead-letter it.",
        json_schema_extra={"unit": "policy"},
    )
    log_settle_s: Annotated[float, Field(ge=0, le=300, json_schema_extra={"unit": "seconds"})] = Field(
        default=2.0, description="How long Gigya's action log is given to show an action before its absence counts."
    )
    ask_limit_s: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = Field(
        default=300.0, description="How long a call may be held undecided (403003, 403005) before its site is stopped."
    )

    @model_validator(mode="after")
    def _check_timeouts(self) -> Self:
        if self.connect_timeout_s > self.attempt_timeout_s:
            raise ValueError(
                f"connect_timeout_s ({self.connect_timeout_s:g}) is longer than attempt_timeout_s "
                f"({self.attempt_timeout_s:g}), which includes it; lower the first or raise the second"
            )
        return self


@dataclass(frozen=True, slots=True)
class Backoff:
    """One class of failures: how its pauses grow, and what it takes from the call's budget."""

    base_s: float
    cap_s: float
    uses_attempts: bool
    uses_age: bool


# The call may be to blame: the pauses of twelve attempts add up to some four minutes on average.
OWN_FAULT = Backoff(base_s=0.5, cap_s=120.0, uses_attempts=True, uses_age=True)
# 409030: another system keeps this user busy. Worth waiting for, but not for ever.
BUSY_USER = Backoff(base_s=0.25, cap_s=30.0, uses_attempts=False, uses_age=True)
# The request never reached the site (no name, no connection, no TLS): no call can cause that.
NOT_ARRIVED = Backoff(base_s=0.25, cap_s=30.0, uses_attempts=False, uses_age=False)

# The action log was asked, and nothing came back.
LOG_AWAY = Backoff(base_s=0.5, cap_s=30.0, uses_attempts=False, uses_age=True)

# A `Retry-After` beyond this is a mistake or a maintenance window; looking again costs one request.
RETRY_AFTER_LIMIT_S = 300.0


@dataclass(slots=True)
class Budget:
    """What one call has used of its patience."""

    attempts: int = 0
    age_s: float = 0.0
    pauses: int = 0  # how often it was put off in a row; the exponent of the next pause

    def charge(self, backoff: Backoff, *, took_s: float, pause_s: float) -> Charge:
        """Take one failure of `took_s` seconds and the pause after it from the budget; return what was taken."""
        charge = Charge(int(backoff.uses_attempts), took_s + pause_s if backoff.uses_age else 0.0)
        self.attempts += charge.attempts
        self.age_s += charge.age_s
        self.pauses += 1
        return charge

    def refund(self, charge: Charge) -> None:
        """Give back what an outage made look like the call's own fault."""
        self.attempts -= charge.attempts
        self.age_s = max(0.0, self.age_s - charge.age_s)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one failure took from a budget."""

    attempts: int
    age_s: float


def pause_s(backoff: Backoff, pauses: int, rng: random.Random, retry_after_s: float | None = None) -> float:
    """Return the seconds until the next attempt: exponential with full jitter, never less than `Retry-After`.

    Full jitter (0 up to the ceiling) spreads calls that failed together more evenly than any other shape.
    """
    ceiling_s = min(backoff.cap_s, backoff.base_s * 2.0 ** min(pauses, 40))
    drawn_s = rng.uniform(0.0, ceiling_s)
    return drawn_s if retry_after_s is None else max(drawn_s, min(retry_after_s, RETRY_AFTER_LIMIT_S))


def is_used_up(budget: Budget, settings: DeliverySettings) -> bool:
    """Say whether a call has had all the attempts, or all the time, that its own failures may cost."""
    return budget.attempts >= settings.attempts or budget.age_s >= settings.give_up_after_s


def probe_pause_s(elapsed_s: float, rng: random.Random, *, shortest_s: float = 1.0, longest_s: float = 30.0) -> float:
    """Return the seconds until a troubled site is asked again, given how long it has been in trouble.

    A seventh of the trouble's length so far, jittered by a fifth: the site is noticed to be back after at most some
    15 % more than it was away, with few requests on the way (about 25 in the first five minutes).
    """
    return rng.uniform(0.8, 1.2) * min(longest_s, max(shortest_s, elapsed_s / 7.0))
