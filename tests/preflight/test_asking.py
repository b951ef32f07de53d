"""What is sent, how often and how fast; and that none of it can be executed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.delivery.fakes import ScriptedTransport
from tests.preflight.rig import ask, local_gigya
from worker.clock import ManualClock
from worker.gigya.calls import GET_ACTION_CONFIG, METHODS, NOTIFY_ACTION, PUBLISH_USER_ACTION, Method
from worker.gigya.replies import NoReply, Reply
from worker.gigya.signing import Credentials
from worker.gigya.sites import Site
from worker.preflight.asking import EMPTY, Asker, may_be_asked
from worker.sandbox.gigya_ledger import arrival_lines

SITE = Site("main", "3_a", domain="eu1.gigya.com", quota_per_s=2.0)
# What every request carries to say who sends it, and nothing else.
OWN = {"apiKey", "userKey", "format", "httpStatusCodes", "nonce", "timestamp", "sig"}


class HastyManualClock(ManualClock):
    """Moves itself while somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.step_monotonic(max(0.0, seconds))


def asker(clock: ManualClock, transport: ScriptedTransport, site: Site = SITE) -> Asker:
    nonces = itertools.count()
    return Asker(
        site=site,
        credentials=Credentials("3_a", "AK", b"secret"),
        transport=transport,
        clock=clock,
        nonce=lambda: f"n{next(nonces)}",
    )


def refusal(code: int, server_time_s: float | None = None) -> Reply:
    return Reply(200, {"errorCode": code}, code, server_time_s=server_time_s)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_method_of_the_rules_may_be_asked_by_an_empty_call(method: Method) -> None:
    assert may_be_asked(method)


@pytest.mark.parametrize("lacking", ["UID", "action"])
def test_a_method_that_could_do_something_without_parameters_is_never_asked(lacking: str) -> None:
    parameters = tuple(replace(one, required=one.required and one.name != lacking) for one in NOTIFY_ACTION.parameters)
    method = replace(NOTIFY_ACTION, parameters=parameters)
    assert not may_be_asked(method)


async def test_an_empty_call_with_anything_in_it_is_refused_before_it_is_sent() -> None:
    clock = ManualClock()
    transport = ScriptedTransport(clock, lambda _: refusal(400002))
    with pytest.raises(ValueError, match="cannot be asked"):
        await asker(clock, transport).ask(NOTIFY_ACTION, {"UID": "u1"}, is_empty_call=True)
    assert transport.requests == []


@pytest.mark.parametrize("method", [NOTIFY_ACTION, PUBLISH_USER_ACTION])
async def test_an_empty_call_carries_nothing_but_who_we_are(method: Method) -> None:
    clock = HastyManualClock()
    transport = ScriptedTransport(clock, lambda _: refusal(400002))
    await asker(clock, transport).ask(method, EMPTY, is_empty_call=True)
    (request,) = transport.requests
    assert set(request.params) == OWN


async def test_requests_keep_the_quota_repetitions_included() -> None:
    clock = HastyManualClock()
    transport = ScriptedTransport(clock, lambda _: refusal(500001))
    asking = asker(clock, transport, replace(SITE, quota_per_s=0.25))
    await asking.ask(GET_ACTION_CONFIG, {})
    await asking.ask(NOTIFY_ACTION, EMPTY, is_empty_call=True)
    times = [request.at_s for request in transport.requests]
    assert len(times) == 6
    assert all(later - earlier >= 4.0 for earlier, later in itertools.pairwise(times))


async def test_every_repetition_has_a_nonce_of_its_own() -> None:
    clock = HastyManualClock()
    transport = ScriptedTransport(clock, lambda _: NoReply("timeout", may_have_arrived=True))
    await asker(clock, transport).ask(GET_ACTION_CONFIG, {})
    nonces = [request.params["nonce"] for request in transport.requests]
    assert len(nonces) == len(set(nonces)) == 3


async def test_a_refused_clock_is_corrected_once_and_then_told() -> None:
    clock = HastyManualClock()
    transport = ScriptedTransport(clock, lambda _: refusal(403002, clock.now_s() + 500))
    asked = await asker(clock, transport).ask(GET_ACTION_CONFIG, {})
    assert len(transport.requests) == 2
    assert asked.clock_refused
    assert asked.offset_s == pytest.approx(500, abs=1)
    first, second = (int(request.params["timestamp"]) for request in transport.requests)
    assert second - first == pytest.approx(500, abs=1)


async def test_what_the_server_sees_of_preflight_reads_only_or_lacks_everything() -> None:
    async with local_gigya(unknown_parameters="refused") as gigya:
        await ask(gigya)
        methods = [line["method"] for line in _arrivals(gigya.ledger)]
        assert methods == ["gm.getActionConfig", "gm.notifyAction", "socialize.publishUserAction"]
        assert gigya.ledger.stats()["codes"] == {"main": {"0": 1, "400002": 2}}


def _arrivals(ledger: object) -> list[dict[str, object]]:
    import json

    from worker.sandbox.gigya_ledger import Filter

    return [json.loads(line) for line in arrival_lines(ledger, Filter())]  # type: ignore[arg-type]
