"""What a sender tells: how a call ended, and how its site stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from worker.delivery import reasons
from worker.delivery.deliveries import Delivery
from worker.delivery.publishing import told
from worker.delivery.quota import QuotaState
from worker.delivery.schedule import BUSY_USER, NOT_ARRIVED, OWN_FAULT, Backoff
from worker.delivery.site_state import State, Trouble
from worker.gigya.replies import NoReply, Reply, Verdict, safe_text
from worker.model import Outcome, OutcomeKind


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """How a site stands, for /readyz, /status and the gauges."""

    site: str
    state: State
    reason: str  # empty while open
    code: int | None
    since_s: float | None  # Unix seconds
    remedy: str
    held: int  # calls that wait for a decision about the site or about themselves
    rate_per_s: float | None  # None without a limit
    quota: QuotaState
    clock_offset_s: float  # the site's clock minus ours, by all answers; 0 before the first
    is_paused: bool = False  # by an operator
    permit_in_s: float = 0.0  # how long the quota makes the next attempt wait
    away: tuple[Trouble, ...] = ()  # hosts in an outage while the site's others answer


def backoff_of(verdict: Verdict, answer: Reply | NoReply) -> Backoff:
    if verdict.reason == "user_busy":
        return BUSY_USER
    return NOT_ARRIVED if isinstance(answer, NoReply) and not answer.may_have_arrived else OWN_FAULT


def outcome_of(
    delivery: Delivery,
    kind: OutcomeKind,
    reason: str,
    verdict: Verdict | None = None,
    answer: Reply | NoReply | None = None,
) -> Outcome:
    if delivery.is_published and kind is not OutcomeKind.DELIVERED:
        # A provider has the post: whatever became of the others, the publish was delivered.
        kind, reason, verdict = OutcomeKind.DELIVERED, "ok", None
    is_sure = kind is OutcomeKind.DELIVERED and reason != reasons.ACCEPTED_UNDECIDED
    return Outcome(
        kind,
        reason,
        code=verdict.code if verdict is not None else None,
        call_id=answer.call_id if isinstance(answer, Reply) else "",
        attempts=delivery.attempts,
        maybe_executed=delivery.may_be_executed and not is_sure,
        text=told(safe_text(answer), reason, delivery.call.params) if answer is not None and not is_sure else "",
        details=delivery.providers,
    )
