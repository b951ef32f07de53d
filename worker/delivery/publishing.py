"""What the social networks made of a publish: one acceptance delivers it, others may be tried again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from worker.delivery.schedule import AmbiguousPolicy
from worker.gigya.calls import PROVIDERS
from worker.gigya.replies import REASONS, ProviderResult, VerdictKind


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
