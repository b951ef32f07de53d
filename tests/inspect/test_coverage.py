"""What is counted over a sample."""

from __future__ import annotations

from collections.abc import Iterable

from tests.inspect.conftest import RULES, sampled, trial
from worker.inspect.coverage import CAP_WINDOW_S, Caps, Coverage, Failure
from worker.inspect.documents import as_text, of_coverage
from worker.inspect.preview import Fate
from worker.inspect.samples import Sampled
from worker.model import Json

TRIAL = trial(RULES)


def liked(uid: str, **fields: int | str) -> Sampled:
    return sampled({"type": "liked", "uid": uid}, **fields)


def watched(**changes: Json) -> Sampled:
    return sampled({"type": "watched", "uid": "u1", "progress": 1, "points": 3, **changes})


def coverage(samples: Iterable[Sampled], *, now_s: float = 1_000, caps: Caps | None = None) -> Coverage:
    found = Coverage(TRIAL.rules, now_s=now_s, caps=caps or Caps())
    for each in samples:
        found.add(TRIAL.of(each))
    return found


def test_each_rule_has_what_it_said():
    found = coverage([watched(), watched(progress=0.1), watched(points=0.5), liked("u2")])
    rule = found.rules["watched"]
    assert (rule.seen, rule.fired, rule.calls, rule.when_false, rule.failed) == (3, 1, 1, 1, 1)
    also = found.rules["also"]
    assert (also.seen, also.fired, also.calls, also.lost) == (4, 4, 3, 1)
    assert found.rules["elsewhere"].seen == 0
    assert found.switched_off == ("off",)


def test_failures_are_told_apart_with_the_first_place():
    found = coverage([watched(points=0.5), watched(points=1.5), sampled({"type": "watched", "progress": 1})])
    failures = found.rules["watched"].failures
    too_fine = Failure("invalid_parameter", "points", "points is not a whole number")
    assert failures[too_fine] == (2, "f:1")
    assert {failure.reason for failure in failures} == {"invalid_parameter", "missing_field"}


def test_records_are_counted_by_what_becomes_of_them():
    found = coverage(
        [liked("u1"), sampled({"type": "x"}), sampled({}), sampled(None), sampled(b"{"), watched(points=0.5)]
    )
    assert found.records == {Fate.CALLS: 1, Fate.FILTERED: 3, Fate.DEAD_LETTER: 2}
    assert found.filtered == {"no_rule": 1, "no_type": 1, "no_value": 1}
    assert found.dead == {"truncated_json": 1, "invalid_parameter": 1}
    assert found.undecodable == {"truncated_json": 1}


def test_types_that_no_rule_knows_are_counted():
    assert coverage([sampled({"type": kind}) for kind in "aab"]).unknown_types == {"a": 2, "b": 1}


def test_calls_older_than_max_age_are_counted_as_of_now():
    assert coverage([watched()], now_s=1_000 + 3_600).rules["watched"].stale == 0
    assert coverage([watched()], now_s=1_001 + 3_600).rules["watched"].stale == 1


def test_a_uid_in_two_partitions_or_topics_has_no_order():
    found = coverage(
        [liked("a"), liked("a"), liked("b"), liked("b", partition=1), liked("c"), liked("c", topic="others")]
    )
    assert found.in_several_partitions() == (2, ("b", "c"))
    assert found.users == 3


def test_the_busiest_users_come_first():
    assert coverage([liked("a"), liked("b"), liked("b")]).busiest() == (("b", 2), ("a", 1))


def test_a_cap_is_for_each_user_action_and_24_hours():
    hour_ms = 3_600_000
    at = [liked("a", timestamp=hour * hour_ms) for hour in (0, 1, 2, 23, 24, 25, 26)]
    found = coverage([*at, liked("b", timestamp=hour_ms)], caps=Caps(2))
    # Granted at 0 and 1; 2 and 23 are over it; 24 and 25 take the places of 0 and 1; 26 is over it.
    assert found.actions["did"].over_cap == 3
    assert found.actions["did"].users_over_cap == {("main", "a")}
    assert CAP_WINDOW_S == 86_400


def test_a_cap_of_an_action_goes_before_that_of_all():
    found = coverage([watched(), watched(), liked("u1")], caps=Caps(1, {"did": 3}))
    assert (found.actions["watched_it"].over_cap, found.actions["did"].over_cap) == (1, 0)
    assert coverage([watched(), watched()]).actions["did"].cap is None


def test_the_document_can_be_written_and_holds_the_counts():
    found = of_coverage(coverage([watched(), watched(points=0.5), liked("a"), sampled(b"")], caps=Caps(1)))
    assert '"dead_letters":{"invalid_parameter":1,"empty_value":1}' in as_text(found)
    assert found["in_several_partitions"] == 0
