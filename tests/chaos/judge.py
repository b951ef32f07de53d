"""The judge: what must have happened in a run, from what was appended and what the local Gigya did. Pure.

Five checks after every run:

    lost                no call that had to be made was never executed, and only bad records are dead letters
    order               the first executions of each user follow their partition
    executed twice      not where the ladder can decide; elsewhere no oftener than the worker's log had said before
    quota               no second sees more arrivals than the quota, plus max(1 %, 2 + members)
    ledger              balanced whenever it was asked, and in the last line

and two more that cost nothing: no commit ever goes back, and a run must have had the load it claims.

Every execution too many must have been announced by a line that names the call and says that neither the action log
nor anything else could decide; it was flushed before the call was sent. That a worker does not say so of everything is
known here without asking it: a notifyAction whose action its user has in no other call is either in the action log or
was not executed. While one member has had the call's partition for some time (SETTLED_S), and the clocks kept still,
such a call must not be executed twice, whatever the log lines say. Nor must any call whose answer came some time
(MAPPED_S) before a member went: the commit's map has it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from tests.chaos.workload import Call, Event

LEAST_PER_S = 200.0  # appended; and made, unless the run states another number
METHODS_OF_CALLS = frozenset({"gm.notifyAction", "socialize.publishUserAction"})  # questions are not load
LEAST_USERS = 300
LEAST_IDENTICAL = 0.2
LEAST_IN_FLIGHT = 8
IN_FLIGHT_AT_KILLS = 0.8
# A bunch that waited is looked at for some time: its arrivals are spread over about so much.
STALL_EDGE_S = 0.05
# A call whose answer came so long before its member goes is known to have ended, whoever comes next: commits are made
# every second, and carry a map.
MAPPED_S = 5.0
# A request that arrives so soon after its member went may have been written before: it was on its way, or the server
# did not get to look at it, or the member was not gone at the very moment that was noted.
ON_ITS_WAY_S = 0.5
# What a new owner of a partition cannot know, and what a clock was before it stepped, is of no account after so long.
SETTLED_S = 10.0
# The worker's line for a call that is made again. Step 1: the log has shown that it was not executed.
RESENT = frozenset({"call.resent_after_ambiguity"})
STEP_OF_THE_LOG = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """An event, and where Kafka put it."""

    event: Event
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Execution:
    """A call that took effect at the local Gigya."""

    order: int
    mark: str
    at_s: float
    fault: str | None = None  # what then happened to its answer; None: it was sent
    arrived_s: float = 0.0  # its request, some time before


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that reached the local Gigya, refused or not."""

    at_s: float
    method: str
    code: int | None = None
    user_key: str = ""


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which the local Gigya did not get to run; what reached it meanwhile seems to arrive at its end."""

    ended_s: float
    lasted_s: float


@dataclass(frozen=True, slots=True)
class Undecided:
    """One line of a worker: this call is made again, and may have been executed."""

    partition: int
    offset: int
    call: str


@dataclass(frozen=True, slots=True)
class Commit:
    at_s: float
    partition: int
    offset: int


@dataclass(slots=True)
class Stretch:
    """A stretch of time (Unix) in which events were appended at the load's rate."""

    begin_s: float
    end_s: float = 0.0
    calls: int = 0


@dataclass(slots=True)
class Evidence:
    """All that a run leaves behind."""

    placed: Sequence[Placed] = ()
    executions: Sequence[Execution] = ()
    arrivals: Sequence[Arrival] = ()
    stalls: Sequence[Stall] = ()
    letters: Collection[tuple[int, int]] = ()  # partition and offset of the records whose dead letters stand
    undecided: Sequence[Undecided] = ()
    assignments: Sequence[tuple[float, int]] = ()  # when (Unix), and which partition
    clock_steps_s: Sequence[float] = ()  # when (Unix) the server's clock was set
    commits: Sequence[Commit] = ()
    imbalances: Sequence[str] = ()
    capped: Collection[str] = ()  # marks of calls that may end at the daily cap
    quota_per_s: float = 0.0
    members: int = 1
    offered: Sequence[Stretch] = ()
    breaks_s: Sequence[float] = ()  # when (Unix) a member was killed, stopped, put to sleep; the broker left or came
    away: Sequence[Stretch] = ()  # when nobody could be served, by the schedule: no site, or a group that waits
    letters_allowed: int = 0  # of good records: what a flood may cost before the guard holds the worker
    in_flight_at_kills: Sequence[int] = ()
    least_made_per_s: float = LEAST_PER_S


@dataclass(slots=True)
class Judgement:
    """What the judge found: faults fail the run, figures are printed in any case."""

    faults: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def check(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)


def judge(evidence: Evidence) -> Judgement:
    """Return what is wrong with a run, and its figures."""
    found = Judgement()
    calls = {call.mark: (place, call) for place in evidence.placed for call in place.event.calls}
    times = Counter(execution.mark for execution in evidence.executions)
    _lost(found, evidence, calls, times)
    _order(found, evidence, calls)
    _twice(found, evidence, calls, times)
    _quota(found, evidence)
    found.figures["ledger"] = "balanced" if not evidence.imbalances else f"{len(evidence.imbalances)} times unbalanced"
    found.check(not evidence.imbalances, f"ledger: {_some(evidence.imbalances)}")
    back = commits_going_back(evidence.commits)
    found.check(not back, f"commits went back: {_some(back)}")
    _load(found, evidence, [call for _, call in calls.values()])
    return found


Calls = Mapping[str, tuple[Placed, Call]]


def _lost(found: Judgement, evidence: Evidence, calls: Calls, times: Mapping[str, int]) -> None:
    letters = set(evidence.letters)
    bad = {(each.partition, each.offset) for each in evidence.placed if each.event.is_bad}
    flooded = letters - bad if evidence.letters_allowed else set()
    in_letters = {mark for mark, (place, _) in calls.items() if (place.partition, place.offset) in flooded}
    lost = [mark for mark in calls if mark not in times and mark not in evidence.capped and mark not in in_letters]
    untrue = [mark for mark in in_letters if mark in times]
    strange = sorted(set(times) - set(calls))
    found.figures["calls"] = f"{len(calls):,}"
    found.figures["lost"] = str(len(lost))
    found.figures["letters"] = f"{len(letters & bad)} of {len(bad)} bad records, {len(flooded)} of a flood"
    found.check(not lost, f"lost: {len(lost)} calls were never executed: {_some(_places(lost, calls))}")
    found.check(letters >= bad, f"lost: bad records without a dead letter: {_some(sorted(bad - letters))}")
    found.check(
        len(letters - bad) <= evidence.letters_allowed,
        f"{len(letters - bad)} dead letters of good records, {evidence.letters_allowed} are allowed: "
        f"{_some(sorted(letters - bad))}",
    )
    found.check(not untrue, f"a dead letter stands, and its call was executed: {_some(_places(untrue, calls))}")
    found.check(not strange, f"calls were executed that nobody asked for: {_some(strange)}")


def _order(found: Judgement, evidence: Evidence, calls: Calls) -> None:
    wrong = out_of_order(evidence.executions, calls)
    found.figures["out of order"] = str(len(wrong))
    found.check(
        not wrong, f"order: {len(wrong)} first executions overtook an earlier call of their user: {_some(wrong)}"
    )


def out_of_order(executions: Iterable[Execution], calls: Calls) -> list[str]:
    """Return the places of calls whose first execution came after that of a later call of their user and partition."""
    last: dict[tuple[str, int], tuple[int, int]] = {}
    seen: set[str] = set()
    wrong = []
    for execution in sorted(executions, key=lambda each: each.order):
        if execution.mark in seen or execution.mark not in calls:
            continue
        seen.add(execution.mark)
        place, call = calls[execution.mark]
        user, here = (call.uid, place.partition), (place.offset, call.item)
        if here < last.get(user, here):
            wrong.append(f"{place.partition}/{place.offset} after {place.partition}/{last[user][0]}")
        last[user] = max(here, last.get(user, here))
    return wrong


def alone(calls: Iterable[Call]) -> set[str]:
    """Return the calls that the action log can decide: no other call of their user has the action."""
    all_calls = list(calls)
    users_of = Counter((call.uid, call.action) for call in all_calls)
    return {call.mark for call in all_calls if call.action and users_of[call.uid, call.action] == 1}


def _twice(found: Judgement, evidence: Evidence, calls: Calls, times: Mapping[str, int]) -> None:
    said = Counter((line.partition, line.offset, line.call) for line in evidence.undecided)
    twice = [mark for mark, count in times.items() if count > 1 and mark in calls]
    unsaid = []
    for mark in twice:
        place, call = calls[mark]
        if times[mark] - 1 > said[place.partition, place.offset, call.name]:
            unsaid.append(mark)
    only_one = alone(call for _, call in calls.values())
    forgotten = _forgotten(twice, evidence)
    needless = _decidable([mark for mark in twice if mark in only_one], evidence, calls)
    found.figures["executed twice"] = (
        f"{sum(times[mark] - 1 for mark in twice)}: {len(unsaid)} unannounced, {len(forgotten)} long done, "
        f"{len(needless)} that the log could decide, {len(only_one & set(twice))} with an action of their own; "
        f"{len(evidence.undecided)} announced"
    )
    text = "twice: {} calls were executed again though {}: {}"
    found.check(
        not needless, text.format(len(needless), "the action log could decide", _some(_places(needless, calls)))
    )
    found.check(not unsaid, text.format(len(unsaid), "no line had announced it", _some(_places(unsaid, calls))))
    found.check(not forgotten, text.format(len(forgotten), "they were long done", _some(_places(forgotten, calls))))


def _forgotten(marks: Sequence[str], evidence: Evidence) -> list[str]:
    """Return those calls that ended well before the first change after their arrival, and were made again after it."""
    executed: defaultdict[str, list[Execution]] = defaultdict(list)
    for execution in evidence.executions:
        executed[execution.mark].append(execution)
    breaks_s = sorted(evidence.breaks_s)
    found = []
    for mark in marks:
        first, *later = sorted(executed[mark], key=lambda each: each.at_s)
        next_s = next((at_s for at_s in breaks_s if at_s >= first.arrived_s - ON_ITS_WAY_S), math.inf)
        if first.fault is None and first.at_s + MAPPED_S < next_s and any(each.at_s > next_s for each in later):
            found.append(mark)
    return found


def _decidable(marks: Sequence[str], evidence: Evidence, calls: Calls) -> list[str]:
    """Return those calls about which owner and clock were settled from before the first execution to the last."""
    executed_s: defaultdict[str, list[float]] = defaultdict(list)
    for execution in evidence.executions:
        executed_s[execution.mark].append(execution.at_s)
    unsettled = defaultdict(list)
    for at_s, partition in evidence.assignments:
        unsettled[partition].append(at_s)
    return [
        mark
        for mark in marks
        if not any(
            min(executed_s[mark]) - SETTLED_S <= at_s <= max(executed_s[mark])
            for at_s in (*unsettled[calls[mark][0].partition], *evidence.clock_steps_s)
        )
    ]


def _quota(found: Judgement, evidence: Evidence) -> None:
    allowed = evidence.quota_per_s + max(evidence.quota_per_s * 0.01, 2 + evidence.members)
    throttled = sum(arrival.code == 403048 for arrival in evidence.arrivals)
    times_s = [arrival.at_s for arrival in evidence.arrivals]
    most = max((count for _, count in seconds_of(times_s)), default=0)
    over, excused = [], 0
    for begin_s, count in seconds_of(times_s):
        # Of a bunch that the server only got to look at when the second had begun, a part came before it.
        late_s = (
            max((stall_within(stall, begin_s) for stall in evidence.stalls), default=0.0) if count > allowed else 0.0
        )
        if count > allowed + evidence.quota_per_s * late_s:
            over.append(f"{count} from {begin_s:.3f}")
        excused += count > allowed
    found.figures["most in a second"] = (
        f"{most} of {allowed:g} allowed, {throttled} refused; {excused - len(over)} seconds above it began in a stall"
    )
    found.check(not over, f"quota: in {len(over)} seconds more than {allowed:g} requests arrived: {_some(over)}")


def seconds_of(times_s: Iterable[float]) -> Iterator[tuple[float, int]]:
    """Yield every second that ends with an arrival: when its first arrival was, and how many it has."""
    ordered = sorted(times_s)
    first = 0
    for last, at_s in enumerate(ordered):
        while ordered[first] <= at_s - 1.0:
            first += 1
        yield ordered[first], last - first + 1


def stall_within(stall: Stall, begin_s: float) -> float:
    """Return for how long before a second's first arrival the server had been looking away."""
    return (
        stall.lasted_s
        if stall.ended_s - stall.lasted_s - STALL_EDGE_S <= begin_s <= stall.ended_s + STALL_EDGE_S
        else 0.0
    )


def commits_going_back(commits: Iterable[Commit]) -> list[str]:
    """Return where a committed offset was followed by a lower one."""
    by_partition: defaultdict[int, list[Commit]] = defaultdict(list)
    for commit in sorted(commits, key=lambda each: each.at_s):
        by_partition[commit.partition].append(commit)
    return [
        f"partition {partition}: {before.offset} -> {after.offset}"
        for partition, ones in sorted(by_partition.items())
        for before, after in pairwise(ones)
        if after.offset < before.offset
    ]


def _load(found: Judgement, evidence: Evidence, calls: Sequence[Call]) -> None:
    """Check the load: a run without it has shown nothing."""
    offered_s = sum(stretch.end_s - stretch.begin_s for stretch in evidence.offered)
    offered = sum(stretch.calls for stretch in evidence.offered) / offered_s if offered_s > 0 else 0.0
    calls_s = [arrival.at_s for arrival in evidence.arrivals if arrival.method in METHODS_OF_CALLS]
    made = typical_per_s(calls_s, evidence.offered, evidence.away)
    users = len({call.uid for call in calls})
    identical = identical_share(calls)
    found.figures["load"] = (
        f"{offered:.0f} calls/s offered, {made:.0f}/s made in a typical second, {users} users, "
        f"{identical:.0%} identical"
    )
    found.check(offered >= LEAST_PER_S, f"load: {offered:.0f} calls/s were offered, {LEAST_PER_S:g} are asked for")
    least = evidence.least_made_per_s
    found.check(made >= least, f"load: {made:.0f} calls/s were made, {least:g} are asked for")
    found.check(users >= LEAST_USERS, f"load: {users} users, {LEAST_USERS} are asked for")
    found.check(identical >= LEAST_IDENTICAL, f"load: {identical:.1%} identical calls, a fifth is asked for")
    if evidence.in_flight_at_kills:
        busy = sum(count >= LEAST_IN_FLIGHT for count in evidence.in_flight_at_kills) / len(evidence.in_flight_at_kills)
        found.figures["kills"] = (
            f"{len(evidence.in_flight_at_kills)}, with {LEAST_IN_FLIGHT} or more calls in flight at {busy:.0%} of them "
            f"({', '.join(map(str, evidence.in_flight_at_kills))})"
        )
        found.check(
            busy >= IN_FLIGHT_AT_KILLS, f"load: {LEAST_IN_FLIGHT} calls in flight at {busy:.0%} of the kills only"
        )


def typical_per_s(times_s: Iterable[float], stretches: Sequence[Stretch], away: Sequence[Stretch] = ()) -> float:
    """Return the usual rate of arrivals under load, over those quarters of a second that saw any.

    Of a worker that was just killed none arrive, and a site that is `away` gets probes only: the schedule's matter. So
    is a group that waits for the session of a dead member to end before anybody is given partitions again.
    """
    quarters = Counter(int(at_s * 4) for at_s in times_s)
    within = [
        count
        for quarter, count in quarters.items()
        if any(stretch.begin_s <= quarter / 4 and (quarter + 1) / 4 <= stretch.end_s for stretch in stretches)
        and not any(stretch.begin_s <= (quarter + 1) / 4 and quarter / 4 <= stretch.end_s for stretch in away)
    ]
    return 4.0 * median(within) if within else 0.0


def identical_share(calls: Iterable[Call]) -> float:
    """Return the share of calls that repeat an earlier one of their user, all but the mark alike."""
    seen: set[tuple[str, str, str]] = set()
    total = repeats = 0
    for call in calls:
        key = (call.uid, call.rule, call.content or call.action)
        total += 1
        repeats += key in seen
        seen.add(key)
    return repeats / total if total else 0.0


def _places(marks: Iterable[str], calls: Calls) -> list[str]:
    return [f"{calls[mark][0].partition}/{calls[mark][0].offset} {calls[mark][1].name}" for mark in marks]


def _some(things: Sequence[object], most: int = 5) -> str:
    shown = ", ".join(str(thing) for thing in things[:most])
    return f"{shown} and {len(things) - most} more" if len(things) > most else shown
