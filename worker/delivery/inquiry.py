"""Weighs what the log shows of a call in doubt against all that this process knows to have been made, and by whom.

`evidence.py` has the rules of it, `own_calls.py` what this process has made, `left_behind.py` what others have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from worker.clock import Clock
from worker.delivery.ambiguity import Doubt
from worker.delivery.deliveries import Delivery
from worker.delivery.evidence import SLACK_S, LogSays, Made, Question, weigh
from worker.delivery.left_behind import LeftBehind
from worker.delivery.lookup import ActionsLog, Snapshot
from worker.delivery.own_calls import Noted, OwnCalls, Place, Was, has_sure_points, noted_of
from worker.gigya.actions_log import execution_times
from worker.gigya.calls import Call, Settles
from worker.model import TopicPartition

# An earlier process made a call after its record was written; the producer's clock may be this wrong.
_RECORD_TIME_SLACK_S = 300.0
# A record without a timestamp can be of any age.
_ANY_AGE_S = 86_400.0


class Inquiry:
    """What is known of one site's calls. Used from one event loop."""

    def __init__(self, *, log: ActionsLog, clock: Clock, log_settle_s: float, is_shared: bool) -> None:
        self._log = log
        self._clock = clock
        self._log_settle_s = log_settle_s
        self._is_shared = is_shared
        self._began_s = clock.monotonic_s()
        self.own = OwnCalls(self._began_s)
        self.left = LeftBehind(self.own, log.site_time, clock)

    def since_s(self, partition: TopicPartition) -> float:
        """Return since when (monotonic) nobody but this process makes the partition's calls."""
        earlier = self.left.earlier.get(partition)
        return earlier.since_s if earlier is not None else self._began_s

    # --- what is noted ------------------------------------------------------------------------------------------

    def note(self, delivery: Delivery, from_s: float, until_s: float, was: Was) -> Noted:
        """Note an attempt of ours that began at `from_s` (monotonic).

        One that began before the partition was ours anew is noted as of the time before: its end reaches nobody.
        """
        since_s = self.since_s(delivery.partition)
        noted = noted_of(delivery.call, _place(delivery), from_s, until_s, was)
        noted.owned_since_s = since_s if from_s >= since_s else -math.inf
        return self.own.add(noted, self._clock.monotonic_s())

    def note_earlier(self, delivery: Delivery, doubt: Doubt, was: Was) -> Noted:
        """Note what became of a call that an earlier owner made, if he did."""
        now_s = self._clock.monotonic_s()
        to_monotonic_s = now_s - self._log.site_time.at(now_s)
        from_s, until_s = self._span(delivery, doubt)
        noted = noted_of(delivery.call, _place(delivery), from_s + to_monotonic_s, until_s + to_monotonic_s, was)
        noted.owned_since_s = self.since_s(delivery.partition)
        return self.own.add(noted, now_s)

    def note_found(self, delivery: Delivery, doubt: Doubt) -> None:
        """Note that an entry is this call's: it explains no other call."""
        if doubt.is_earlier:
            self._renew(delivery)
            self.note_earlier(delivery, doubt, Was.CERTAIN)
            self._note_copies(delivery, doubt)
        elif len(doubt.attempts) == 1:
            doubt.attempts[0].was = Was.CERTAIN
            doubt.attempts[0].until_s = self._clock.monotonic_s()

    def _note_copies(self, delivery: Delivery, doubt: Doubt) -> None:
        earlier = self.left.earlier.get(delivery.partition)
        if earlier is None or earlier.recent is None or earlier.recent.copies_untold:
            # It was in doubt before: the owner before us may have sent it again, and died before he could say so.
            self.note_earlier(delivery, doubt, Was.POSSIBLE).is_many = True

    def remembers(self, delivery: Delivery) -> bool:
        """Say whether this process knows that the call was executed."""
        place, action = _place(delivery), delivery.call.params.get("action", "")
        return any(
            # Other rules may have made another call of the record since.
            noted.was is Was.CERTAIN and noted.place == place and noted.action == action
            for noted in self.own.of_user(delivery.call.uid)
        )

    def note_remembered(self, delivery: Delivery, doubt: Doubt) -> None:
        """Note that what this process remembers of a call is true under the present assignment, too."""
        self._renew(delivery)
        self._note_copies(delivery, doubt)

    def _renew(self, delivery: Delivery) -> None:
        """Note anew what was noted of a call under assignments that are over: nobody has been told of it."""
        since_s, place = self.since_s(delivery.partition), _place(delivery)
        known = [noted for noted in self.own.of_partition(delivery.partition) if noted.place == place]
        for noted in reversed(known):
            if noted.owned_since_s < since_s and noted.was is not Was.NOT:
                self.own.add(replace(noted, owned_since_s=since_s, is_open=False), self._clock.monotonic_s())
                noted.was = Was.NOT

    # --- what the log says --------------------------------------------------------------------------------------

    def usable(self, delivery: Delivery, doubt: Doubt) -> Sequence[Snapshot]:
        """Return the answers so far that reach back far enough."""
        needed_from_s = self.needed_from_s(delivery, doubt)
        seen = self._log.seen(delivery.call.uid)
        answers = {each.taken_s: each for each in (*doubt.looked, *seen)}
        return [answers[taken_s] for taken_s in sorted(answers) if answers[taken_s].from_s <= needed_from_s]

    def says(self, delivery: Delivery, doubt: Doubt, snapshot: Snapshot) -> LogSays:
        """Return what an answer of the log says of a call in doubt."""
        call, at = delivery.call, self._log.site_time.at
        points = call.params.get("points")
        times = execution_times(snapshot.entries, call.params["action"], int(points) if points else None)
        begun_s = self.since_s(delivery.partition) if doubt.is_earlier else doubt.attempts[0].from_s
        if times is None or begun_s < self._log.site_time.steady_from_s:
            return LogSays.UNDECIDED  # entries from before the site's clock was set have times that mean nothing now
        from_s, until_s = self._span(delivery, doubt)
        if not doubt.is_earlier:
            until_s = at(snapshot.taken_s)
        question = Question(
            from_s,
            until_s,
            None if doubt.is_earlier else len(doubt.attempts),
            list(self._others(delivery, snapshot)),
            known_from_s=self._known_from_s(delivery, doubt),
            is_shared=self._is_shared,
        )
        settled_s = at(snapshot.taken_s) - self._log_settle_s
        return weigh(question, times, seen_from_s=snapshot.from_s, settled_s=settled_s)

    def needed_from_s(self, delivery: Delivery, doubt: Doubt) -> float:
        """Return from when on (site) the log is needed: also what may have written entries before has its say."""
        from_s = self._span(delivery, doubt)[0]
        earlier = self.left.earlier.get(delivery.partition)
        if doubt.is_earlier and earlier is not None and earlier.known_from_s is not None:
            from_s = min(from_s, earlier.known_from_s)
        return from_s - 2 * SLACK_S

    def _others(self, delivery: Delivery, snapshot: Snapshot) -> Iterator[Made]:
        """Yield what else the entries can come from."""
        call, at, place = delivery.call, self._log.site_time.at, _place(delivery)
        for noted in self.own.like(call):
            # What was noted of the very same call explains nothing away: it is this call, or a copy of it.
            if noted.place != place and noted.from_s <= snapshot.taken_s:
                yield self._made(noted, call, at)
        is_head = self.left.is_head(delivery)
        for partition, earlier in self.left.earlier.items():
            yield from earlier.made_like(call, is_head=is_head and partition == delivery.partition)

    def _made(self, noted: Noted, call: Call, at: Callable[[float], float]) -> Made:
        # What was ours under an assignment before the present one may stand in what its last owner has left, too.
        is_of_now = noted.owned_since_s >= self.since_s(noted.place.partition)
        is_certain = noted.was is Was.CERTAIN and is_of_now and has_sure_points(noted, call)
        return Made(at(noted.from_s), at(noted.until_s), is_certain, noted.is_many)

    def _span(self, delivery: Delivery, doubt: Doubt) -> tuple[float, float]:
        """Return between which times (site) the call was executed, if it was."""
        at = self._log.site_time.at
        now_s = self._clock.monotonic_s()
        if not doubt.is_earlier:
            return at(doubt.attempts[0].from_s), at(now_s)
        since_s = at(self.since_s(delivery.partition))
        # Where this process has attempted it, too, any of those may be the one.
        until_s = at(now_s) if doubt.attempts or doubt.has_arrived else since_s
        earlier = self.left.earlier.get(delivery.partition)
        if earlier is not None and earlier.first_s is not None:
            return earlier.first_s, until_s
        if delivery.timestamp_ms < 0:
            return since_s - _ANY_AGE_S, until_s
        return min(delivery.timestamp_ms / 1000, since_s) - _RECORD_TIME_SLACK_S, until_s

    def _known_from_s(self, delivery: Delivery, doubt: Doubt) -> float:
        """Return from when on (site) all is known that can have written entries like this call's."""
        at = self._log.site_time.at
        complete_s = at(self.own.complete_from_s)
        earlier = self.left.earlier.get(delivery.partition)
        if earlier is not None and earlier.known_from_s is not None:
            since_s = earlier.known_from_s
            # What was noted here since the assignment must all be there still.
            return since_s if self.own.complete_from_s <= earlier.since_s else max(since_s, complete_s)
        if doubt.is_earlier:
            return math.inf  # its other calls of that time are not known
        return max(complete_s, at(self.since_s(delivery.partition)))


def leaves_entries(call: Call) -> bool:
    """Say whether the action log tells of such calls."""
    return call.method.settles is Settles.ACTIONS_LOG


def _place(delivery: Delivery) -> Place:
    return Place(delivery.partition, delivery.offset, delivery.call.name)
