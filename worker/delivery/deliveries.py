"""One call on its way: what it is, what it has used up, what is known of it. Values, no behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.delivery.ambiguity import Doubt
from worker.delivery.gate import Permit
from worker.delivery.schedule import Budget
from worker.delivery.signer import Request
from worker.gigya.calls import Call
from worker.gigya.replies import ProviderResult
from worker.model import Outcome, TopicPartition


@dataclass(slots=True, eq=False)
class Delivery:
    """A call that is to be made, and how far it has come. The fields after `suspect` are the sender's."""

    call: Call
    partition: TopicPartition
    offset: int
    timestamp_ms: int
    suspect: bool = False  # an earlier process may have made this call
    run: str = ""  # in its nonces, in place of the sender's: a replay makes calls of several generations

    attempts: int = 0  # requests begun for it
    budget: Budget = field(default_factory=Budget)
    resigns: int = 0  # how often it was refused for its timestamp or nonce
    may_be_executed: bool = False  # an attempt may have been executed, and neither answer nor log tells
    doubt: Doubt | None = None  # what is known of that
    nonce_serial: int = 0  # at least the answers that decided an attempt; each has used up a nonce
    accepted_in: int = -1  # the epoch of `Asks` in which it was sent again after a refusal
    refusal: Outcome | None = None  # the end it will have if it is the call's own matter that it was refused
    decided: Outcome | None = None  # it ended while it was held
    providers: dict[str, str] = field(default_factory=dict)  # of a publish: what each network said last
    is_published: bool = False  # at least one network has taken it: whatever becomes of the others, it is delivered
    params: Mapping[str, str] | None = None  # what is sent in place of the call's own, to the providers left


@dataclass(slots=True, eq=False)
class Attempt:
    """One request for a call, from its permit to its answer."""

    delivery: Delivery
    permit: Permit
    tick: int  # of `Asks`: what started before what
    generation: int  # of `SiteClock`: which correction its timestamp has
    started_s: float  # monotonic
    started_unix_s: float
    request: Request
    is_written: bool = False
    is_withdrawn: bool = False  # not sent after all: `may_write` said no
    results: tuple[ProviderResult, ...] = ()  # of a publish: what its answer says of each network


@dataclass(frozen=True, slots=True)
class Later:
    """The call has not ended.

    `wait_s`: seconds until it may be attempted again; 0 = as soon as the gate lets it. None: held, until the sender
    calls `released` with it.
    """

    reason: str
    wait_s: float | None
