"""May the site be sent to at all, and if not, what is sent to find out? Pure: time and randomness are arguments.

*Outage*: nobody gets through, and that is nobody's fault; of a whole site, or of one of its hosts alone. *Stopped*: the
site refuses us (credentials, permission, method, clock), and somebody must act. In both, calls wait and nothing is
lost; probes end either by themselves.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.delivery.hosts import NOBODY_CAME_S, Hosts, Probes
from worker.delivery.schedule import probe_pause_s

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
    host: str = ""  # of an outage: the host that fell silent


class SiteState:
    """Open, in an outage, or stopped; and when the next probe may go out.

    One probe at a time: `probe_started` and `probe_ended` come in pairs, whatever became of it.
    """

    def __init__(self, rng: random.Random, *, outage_probe: Probe = Probe.CALL) -> None:
        self.trouble: Trouble | None = None
        self._rng = rng
        self._outage_probe = outage_probe
        self.hosts = Hosts()
        self.away: dict[str, Trouble] = {}  # hosts in an outage, while the site's others answer
        self._probes: dict[str, Probes] = {}  # of these
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

    def trouble_of(self, host: str) -> Trouble | None:
        """Return why calls to a host wait: the site's trouble, or the host's own."""
        return self.trouble if self.trouble is not None else self.away.get(host)

    def unanswered(
        self, host: str, uid: str, now_s: float, now_unix_s: float, *, reason: str, remedy: str = ""
    ) -> bool:
        """Note a transport failure, HTTP 5xx or ambiguous answer; True when this one began an outage."""
        if self.trouble_of(host) is not None or not self.hosts.unanswered(host, uid, now_s):
            return False
        self.fall_silent(host, now_s, now_unix_s, reason=reason, remedy=remedy)
        return True

    def fall_silent(self, host: str, now_s: float, now_unix_s: float, *, reason: str, remedy: str) -> None:
        """Begin an outage: of this host alone where another has answered meanwhile, else of the site."""
        trouble = Trouble(State.OUTAGE, reason, None, remedy, "", self._outage_probe, now_s, now_unix_s, host)
        if host in self.hosts and self.hosts.is_silent_alone(host):
            self._leave_out(trouble, now_s + self._pause_s(trouble, now_s))
        else:
            self._enter(trouble, now_s)

    def answered(self, host: str, now_s: float) -> Trouble | None:
        """Note a whole answer that says something else; return the outage that it ended, if any."""
        self.hosts.answered(host, now_s)
        if host in self.away:
            del self._probes[host]
            return self.away.pop(host)
        trouble = self.trouble
        if trouble is None or trouble.state is not State.OUTAGE:
            return None
        self.trouble = None
        if trouble.host not in ("", host):
            self._leave_out(trouble, now_s)  # that one host answers says nothing of the one that fell silent
        return trouble

    def probe_host_due_s(self, host: str) -> float:
        """Return when a call to this host, which is away alone, may be the probe; inf while one is out."""
        probes = self._probes[host]
        return math.inf if probes.is_out else probes.at_s

    def host_probe_started(self, host: str) -> None:
        if host in self._probes:
            self._probes[host].is_out = True

    def host_probe_ended(self, host: str, now_s: float) -> None:
        """Note that a probe of a host is over; if it brought no answer, the next one follows after a pause."""
        if (probes := self._probes.get(host)) is not None:
            self._probes[host] = Probes(now_s if probes.is_hurried else now_s + self._pause_s(self.away[host], now_s))

    def hurry_host(self, host: str) -> None:
        """Let another probe of a host follow the one that is out at once."""
        if (probes := self._probes.get(host)) is not None:
            probes.is_hurried = probes.is_out

    def call_probe_due_s(self, host: str) -> float:
        """Return when one of the calls that wait for a host is to be told to be its probe."""
        return max(self.probe_host_due_s(host), self._probes[host].called_s + NOBODY_CAME_S)

    def probe_called(self, host: str, now_s: float) -> None:
        self._probes[host].called_s = now_s

    def _leave_out(self, trouble: Trouble, probe_at_s: float) -> None:
        self.away[trouble.host] = trouble
        self._probes[trouble.host] = Probes(probe_at_s)
        self.hosts.forget(trouble.host)

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
        was_troubled = self.trouble is not None or bool(self.away)
        self.trouble = None
        self.away.clear()
        self._probes.clear()
        self.hosts.forget()
        return was_troubled

    def _enter(self, trouble: Trouble, now_s: float) -> None:
        self.trouble = trouble
        self.hosts.forget()
        self._probe_at_s = now_s + self._pause_s(trouble, now_s)

    def _probe_due_s(self, kind: Probe, trouble: Trouble) -> float:
        return math.inf if self._probe_out or trouble.probe is not kind else self._probe_at_s

    def _pause_s(self, trouble: Trouble, now_s: float) -> float:
        elapsed_s = now_s - trouble.since_s
        if trouble.state is State.OUTAGE:
            return probe_pause_s(elapsed_s, self._rng, shortest_s=_OUTAGE_SHORTEST_S, longest_s=_OUTAGE_LONGEST_S)
        return probe_pause_s(elapsed_s, self._rng)
