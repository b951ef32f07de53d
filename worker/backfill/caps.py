"""The daily caps of each site's actions, as it tells them: one `gm.getActionConfig` for each site, which only reads."""

from __future__ import annotations

from collections.abc import Callable

from worker.clock import Clock
from worker.delivery.transport import Transport
from worker.gigya.authorization import AnyCredentials
from worker.gigya.calls import GET_ACTION_CONFIG
from worker.gigya.replies import Reply, classify
from worker.gigya.sites import Site
from worker.inspect.coverage import Caps
from worker.preflight.actions import read_actions
from worker.preflight.asking import EMPTY, Asker


async def ask_caps(
    site: Site, credentials: AnyCredentials, transport: Transport, clock: Clock, nonce: Callable[[], str]
) -> Caps | str:
    """Return the site's caps, or why they are not known."""
    asker = Asker(site=site, credentials=credentials, transport=transport, clock=clock, nonce=nonce)
    answer = (await asker.ask(GET_ACTION_CONFIG, EMPTY)).answer
    actions = read_actions(answer.body) if isinstance(answer, Reply) else None
    if actions is None:
        verdict = classify(answer)
        return f"gm.getActionConfig was answered with {verdict.code or verdict.reason}"
    return Caps(None, {name: int(one.daily_cap) for name, one in actions.items() if one.daily_cap is not None})
