"""What the social networks made of a publish: one acceptance delivers it, others may be tried again. Pure.

When all networks refuse, Gigya answers with one code for all of them. That code is hardly ever the site's matter: it
can be that of one user's network, or of one event's link, and those must not stop a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from worker.delivery.schedule import AmbiguousPolicy
from worker.gigya.calls import PROVIDERS, PUBLISH_USER_ACTION, Call, links_in
from worker.gigya.replies import PROVIDER_REASONS, REASONS, ProviderResult, Verdict, VerdictKind

LINK_NOT_APPROVED = "link_not_approved"
# Answers about the site or the request as a whole, even where networks are listed beside them.
_ABOUT_THE_SITE = frozenset((VerdictKind.THROTTLED, VerdictKind.RESIGN, VerdictKind.ASK, VerdictKind.STOP))


def is_publish(call: Call) -> bool:
    return call.method is PUBLISH_USER_ACTION


def verdict_of(verdict: Verdict, results: Sequence[ProviderResult], params: Mapping[str, str]) -> Verdict:
    """Return what an answer to a publish means, given its code's verdict and what each network said.

    A network that may be tried again makes it a retry; otherwise the first refusal that is listed is the reason.
    """
    if verdict.kind is VerdictKind.OK:
        return verdict
    if results and (verdict.kind not in _ABOUT_THE_SITE or verdict.code in {result.code for result in results}):
        order = (VerdictKind.OK, VerdictKind.RETRY)
        first = next((result for kind in order for result in results if result.kind is kind), results[0])
        return Verdict(first.kind, first.reason, first.code)
    if verdict.kind is VerdictKind.STOP and verdict.code is not None and verdict.code in PROVIDER_REASONS:
        reason = PROVIDER_REASONS[verdict.code]
        # Without a link 400120 can only be about the site's own domains.
        if reason != LINK_NOT_APPROVED or links_in(params):
            return Verdict(REASONS[reason].kind, reason, verdict.code)
    return verdict


def told(text: str, reason: str, params: Mapping[str, str]) -> str:
    """Return the text of a refusal, with the places of the links where one of them is to blame."""
    if reason != LINK_NOT_APPROVED or not (places := links_in(params)):
        return text
    return f"{text} (links in {', '.join(places)})"


def results_by_provider(results: Iterable[ProviderResult]) -> dict[str, str]:
    """Return provider -> `ok`, or code and reason; safe to log."""
    return {result.provider: "ok" if result.code == 0 else f"{result.code} {result.reason}" for result in results}


def providers_to_retry(results: Iterable[ProviderResult], policy: AmbiguousPolicy) -> tuple[ProviderResult, ...]:
    """Return who failed for now, and may be sent the post again.

    A network that may have taken the post (500023) is asked again only where a duplicate is preferred to a loss.
    """
    return tuple(
        result
        for result in results
        if result.kind is VerdictKind.RETRY
        and result.provider in PROVIDERS
        and (policy == "resend" or not may_have_taken_it(result))
    )


def may_have_taken_it(result: ProviderResult) -> bool:
    return REASONS[result.reason].kind is VerdictKind.AMBIGUOUS


def params_for(params: Mapping[str, str], results: Sequence[ProviderResult]) -> dict[str, str]:
    """Return the parameters that send a publish to these providers only."""
    kept = {name: value for name, value in params.items() if name != "disabledProviders"}
    return {**kept, "enabledProviders": ",".join(result.provider for result in results)}
