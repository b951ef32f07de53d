"""How many requests a second a backfill may make beside the live worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from worker.errors import Problem, Refused
from worker.gigya.sites import SiteSettings


def rates_of(sites: Mapping[str, SiteSettings], rate_per_s: float | None) -> dict[str, float | None]:
    """Return each site's rate: what is asked for, else what the live worker leaves. None: no limit. Raises Refused."""
    problems: list[Problem] = []
    rates: dict[str, float | None] = {}
    for name, site in sites.items():
        rates[name] = rate_per_s or site.backfill_reserve_per_s or None
        if site.quota_per_s is None:
            continue
        if rates[name] is None:
            what = f"sites.{name} leaves nothing to a backfill: backfill_reserve_per_s is 0"
            remedy = "set it (the live worker then keeps to quota_per_s minus that), or say --rate"
            problems.append(Problem("settings", 0, 0, what, remedy))
        elif rate_per_s is not None and rate_per_s > site.quota_per_s:
            what = f"--rate {rate_per_s:g} is more than sites.{name}.quota_per_s, {site.quota_per_s:g}"
            problems.append(Problem("settings", 0, 0, what, "the site would refuse what is above it"))
    if problems:
        raise Refused(problems)
    return rates


def rate_words(sites: Mapping[str, SiteSettings], rates: Mapping[str, float | None]) -> dict[str, str]:
    """Return, for each site, its rate and what is left to the live worker."""
    words: dict[str, str] = {}
    for name, site in sites.items():
        rate = rates[name]
        if rate is None:
            words[name] = "as fast as it goes (no quota)"
            continue
        words[name] = f"at {rate:g}/s"
        if site.quota_per_s is None:
            continue
        live = site.live_quota_per_s or 0.0
        if live + rate > site.quota_per_s:
            words[name] += (
                f"; the live worker takes up to {live:g}/s, and both together more than the quota of"
                f" {site.quota_per_s:g}/s: the backfill gives way when it is throttled, and live calls may wait"
            )
        else:
            words[name] += f" (live keeps {live:g}/s)"
    return words
