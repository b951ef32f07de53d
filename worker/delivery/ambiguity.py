"""What becomes of a call when an attempt may have been executed and no answer says so? Pure.

The ladder. Each step comes only where the one before it cannot tell:

    1  ask the action log    there: delivered. Not there, twice, after it had time to settle: send again
    2  the same nonce        send again; 403004 then proves that the earlier one arrived, never that it was executed
    3  policy                resend, accept, or dead_letter

Whatever is sent again in step 1 and 2 carries the nonce of the attempt in doubt, so that a late first copy loses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from worker.delivery.evidence import LogSays
from worker.delivery.own_calls import Noted
from worker.delivery.schedule import AmbiguousPolicy
from worker.model import Outcome

if TYPE_CHECKING:
    from worker.delivery.lookup import Snapshot

# How often the log must say that a call is not there, each time after it has had time to settle.
ASKED_TWICE = 2


class Step(IntEnum):
    """Why a call was sent again, as the log line and the counter tell it."""

    CLEARED_BY_LOG = 1  # not executed, says the log: no possible duplicate
    SAME_NONCE = 2
    POLICY = 3


class Move(Enum):
    """What is done next about a call in doubt."""

    ASK_LOG = "ask_log"
    DELIVERED = "delivered"  # found in the log
    END = "end"  # as the refusal says that came meanwhile
    STALE = "stale"
    SEND_CLEARED = "send_cleared"
    SEND_SAME_NONCE = "send_same_nonce"
    SEND_ANYWAY = "send_anyway"
    ACCEPT = "accept"  # taken for delivered: a loss is possible
    FAIL = "fail"  # dead-lettered: somebody decides later


@dataclass(slots=True)
class Doubt:
    """What is known of a call of which an attempt may have been executed. Times are monotonic."""

    failure: Outcome  # how it ends where nothing can decide and the policy is to dead-letter it
    asked_from_s: float  # the log is given `log_settle_s` from here on
    nonce_serial: int  # of the attempt in doubt
    is_earlier: bool = False  # the attempt may be an earlier process's: nobody knows when, or how many
    attempts: list[Noted] = field(default_factory=list)  # those of this process
    not_before_s: float = 0.0  # the pause before it may be sent again
    asks_needed: int = ASKED_TWICE
    look_not_before_s: float = 0.0  # the pause after a question that brought nothing
    fruitless: int = 0  # questions in a row that brought nothing
    unclear: int = 0  # questions in a row of which it is not clear what their refusal is about
    says: LogSays | None = None  # None: to be asked
    # The last answers of the log, beside those that are kept for whoever asks: more users may be in doubt than those
    # have room for, and then the first answer would be gone whenever the second one comes.
    looked: tuple[Snapshot, ...] = ()
    has_arrived: bool = False  # 403004 has proved it
    times_arrived: int = 0  # how often it has
    final: Outcome | None = None  # a refusal of a later attempt, which holds only if no earlier one was executed
    step: Step = Step.POLICY  # of what is sent next
    many: Noted | None = None  # of an earlier process's call: that nobody knows how often it was executed
    waited: int = 0  # how often the group had not been told yet
    told_from: int = 0  # of what the group is told: from this serial on it is told of this doubt

    def ask_again(self, now_s: float, *, times: int) -> None:
        """Forget what the log said: something has happened since."""
        self.says = None
        self.asked_from_s = now_s
        self.asks_needed = times


def climb(
    doubt: Doubt,
    *,
    can_ask: bool,
    nonces_are_known: bool,
    nonce_serial: int,
    policy: AmbiguousPolicy,
    is_stale: bool,
) -> Move:
    """Return what comes next. `nonces_are_known`: the mode has nonces; `nonce_serial` is that of the next attempt."""
    if doubt.says is None and can_ask:
        return Move.ASK_LOG
    if doubt.says is LogSays.THERE:
        return Move.DELIVERED
    if doubt.final is not None:
        return Move.END
    if is_stale:
        return Move.STALE
    if doubt.says is LogSays.ABSENT:
        return Move.SEND_CLEARED
    match policy:
        case "accept":
            return Move.ACCEPT
        case "dead_letter":
            return Move.FAIL
        case "resend":
            is_first_copy = nonces_are_known and not doubt.has_arrived and nonce_serial == doubt.nonce_serial
            return Move.SEND_SAME_NONCE if is_first_copy else Move.SEND_ANYWAY


def needs_harmless_probes(policy: AmbiguousPolicy) -> bool:
    """Say whether an outage must be probed with questions: under this policy a call without an answer would end."""
    return policy != "resend"
