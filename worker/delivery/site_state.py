"""May the site be sent to at all, and if not, what is sent to find out? Pure: time and randomness are arguments.

*Outage*: nobody gets through, and that is nobody's fault. *Stopped*: the site refuses us (credentials, permission,
method, clock), and somebody must act. In both, calls wait and nothing is lost; probes end either by themselves.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.delivery.schedule import probe_pause_s

# So many different users in a row without one answer: not a call's fault any more.
_OUTAGE_UIDS = 5
_OUTAGE_SHORTEST_S = 0.5
_OUTAGE_LONGEST_S = 10.0


class State(StrEnum):
    OPEN = "open"
    OUTAGE = "outage"
    STOPPED = "stopped"


class Probe(StrEnum):
    """What a troubled site is sent to see whether it is back."""

    CALL = "call"  # one waiting call at a time
    QUESTION = "question"  # a signed gm.getActionConfig, which changes nothing


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a site is not open."""

    state: State  # OUTAGE or STOPPED
    reason: str  # stable snake_case, a row of `explain`
    code: int | None
    remedy: str
    method: str  # the method whose refusal stopped the site; empty where any method will do as the probe
    probe: Probe
    since_s: float  # monotonic
    since_unix_s: float


class SiteState:
    """Open, in an outage, or stopped; and when the next probe may go out.

    One probe at a time: `probe_started` and `probe_ended` come in pairs, whatever became of it.
    """

    def __init__(self, rng: random.Random, *, outage_probe: Probe = Probe.CALL) -> None:
        self.trouble: Trouble | None = None
        self._rng = rng
        self._outage_probe = outage_probe
        self._silent_uids: set[str] = set()  # users without an answer, in a row
        self._probe_out = False
        self._probe_at_s = math.inf
        self._is_hurried = False  # the probe that is out knows nothing of what has changed since: another at once

    @property
    def state(self) -> State:
        return self.trouble.state if self.trouble is not None else State.OPEN

    def call_due_s(self) -> float:
        """Return when a call may start: -inf now, inf not until something else happens."""
        if self.trouble is None:
            return -math.inf
        return self._probe_due_s(Probe.CALL, self.trouble)

    def question_due_s(self) -> float:
        """Return when the site is to be asked whether it is back; inf while it is open or calls are the probe."""
        return self._probe_due_s(Probe.QUESTION, self.trouble) if self.trouble is not None else math.inf

    def probe_started(self) -> None:
        self._probe_out = True

    def probe_ended(self, now_s: float) -> None:
        """Note that the probe is over; if it did not end the trouble, the next one follows after a pause."""
        self._probe_out = False
        if self.trouble is not None:
            self._probe_at_s = now_s if self._is_hurried else now_s + self._pause_s(self.trouble, now_s)
        self._is_hurried = False

    def hurry(self, now_s: float) -> None:
        """Let the next probe go out at once: something has changed."""
        self._probe_at_s = now_s
        self._is_hurried = self._probe_out

    def probe_returned(self) -> None:
        """Note that the permit of a probe was not used: the next in line may be the probe."""
        self._probe_out = False

    def unanswered(self, uid: str, now_s: float, now_unix_s: float, *, reason: str, remedy: str = "") -> bool:
        """Note a transport failure, HTTP 5xx or ambiguous answer; True when this one began an outage."""
        if self.trouble is not None:
            return False
        self._silent_uids.add(uid)
        if len(self._silent_uids) < _OUTAGE_UIDS:
            return False
        self._enter(Trouble(State.OUTAGE, reason, None, remedy, "", self._outage_probe, now_s, now_unix_s), now_s)
        return True

    def answered(self) -> bool:
        """Note a whole answer that says something else; True when it ended an outage."""
        if self._silent_uids:
            self._silent_uids.clear()
        if self.trouble is None or self.trouble.state is not State.OUTAGE:
            return False
        self.trouble = None
        return True

    def stop(self, trouble: Trouble, now_s: float) -> bool:
        """Stop the site, or say more exactly why it is stopped; True when it was not stopped before."""
        before = self.trouble
        if before is not None and before.state is State.STOPPED:
            kept = replace(trouble, since_s=before.since_s, since_unix_s=before.since_unix_s)
            self.trouble = kept
            return False
        self._enter(trouble, now_s)
        return True

    def open(self) -> bool:
        """Open the site: a probe got through, or an operator says so. True when it was not open."""
        was_troubled = self.trouble is not None
        self.trouble = None
        self._silent_uids.clear()
        return was_troubled

    def _enter(self, trouble: Trouble, now_s: float) -> None:
        self.trouble = trouble
        self._silent_uids.clear()
        self._probe_at_s = now_s + self._pause_s(trouble, now_s)

    def _probe_due_s(self, kind: Probe, trouble: Trouble) -> float:
        return math.inf if self._probe_out or trouble.probe is not kind else self._probe_at_s

    def _pause_s(self, trouble: Trouble, now_s: float) -> float:
        elapsed_s = now_s - trouble.since_s
        if trouble.state is State.OUTAGE:
            return probe_pause_s(elapsed_s, self._rng, shortest_s=_OUTAGE_SHORTEST_S, longest_s=_OUTAGE_LONGEST_S)
        return probe_pause_s(elapsed_s, self._rng)
