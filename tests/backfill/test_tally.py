"""How fast it goes, what came of it, and how fast it may go."""

from __future__ import annotations

import pytest

from worker.backfill.rates import rate_words, rates_of
from worker.backfill.report import Ended, Report
from worker.backfill.tally import Kind, Pace
from worker.errors import Refused
from worker.gigya.sites import SiteSettings
from worker.pipeline.ledger import LedgerLine


def test_what_is_left_takes_as_long_as_the_last_minute_says() -> None:
    pace = Pace()
    pace.note(0, 0)
    assert pace.left_s(100) is None
    for second in range(1, 100):  # fast for half a minute, then 2 a second
        pace.note(second, 1_000 * min(second, 30) + 2 * max(0, second - 30))
    assert pace.left_s(100) == pytest.approx(50)


def test_nothing_is_foretold_while_nothing_moves() -> None:
    pace = Pace()
    for second in range(10):
        pace.note(second, 7)
    assert pace.left_s(100) is None


def site(**more: object) -> SiteSettings:
    auth = {"mode": "signed", "user_key": "AK", "secret": "c2VjcmV0"}
    return SiteSettings.model_validate({"data_center": "eu1", "api_key": "3_x", "auth": auth, **more})


def test_a_backfill_gets_what_the_live_worker_leaves() -> None:
    sites = {"main": site(quota_per_s=200, backfill_reserve_per_s=80), "free": site(quota_per_s=None)}
    assert rates_of(sites, None) == {"main": 80, "free": None}
    assert rates_of(sites, 20) == {"main": 20, "free": 20}
    assert rate_words(sites, rates_of(sites, None))["main"] == "at 80/s (live keeps 120/s)"


def test_more_than_the_live_worker_leaves_is_said() -> None:
    sites = {"main": site(quota_per_s=200, backfill_reserve_per_s=80)}
    assert "more than the quota of 200/s" in rate_words(sites, rates_of(sites, 90))["main"]


@pytest.mark.parametrize(("rate", "what"), [(None, "leaves nothing to a backfill"), (201.0, "more than sites.main")])
def test_a_rate_that_is_nobodys_to_give_is_refused(rate: float | None, what: str) -> None:
    with pytest.raises(Refused, match=what):
        rates_of({"main": site(quota_per_s=200)}, rate)


def test_a_report_says_first_how_it_ended() -> None:
    kind = Kind("main", "quiz-won", "delivered", "ok")
    report = Report(
        "r1", "g.backfill.r1", Ended.FINISHED, 100, 40, 100, 3.0, LedgerLine(read=60, filtered=59, done=1),
        calls={kind: 1},
    )  # fmt: skip
    first, *more = report.lines()
    assert first == "backfill r1  done: the whole range"
    assert any("40 of them by earlier starts" in line for line in more)
    assert any("main  quiz-won  delivered: ok" in line for line in more)
    document = report.document()
    assert document["calls"] == [
        {"site": "main", "rule": "quiz-won", "outcome": "delivered", "reason": "ok", "calls": 1}
    ]
