"""Every code of Gigya's error table through the whole worker: what becomes of the call, the site, and the offset.

The column on the right of each code is written by hand from the facts about the API (protocol notes, section 3: its
class) and from the design (architecture, section 6: what a class means), and not from the table that is tested.
"""

from __future__ import annotations

import pytest

from tests.answers.world import NOTIFY, World, at_the_local_gigya, requests, without_a_log
from worker.gigya.error_codes import TABLE
from worker.gigya.reasons import REASONS
from worker.sandbox.gigya import Fault, LocalGigya

# code -> class and reason. rejected = DLQ, and codes of other products that may never appear; user = USER.
EXPECTED: dict[int, tuple[str, str]] = {
    200001: ("ok", "ok_with_warnings"),
    200003: ("ok", "ok_with_warnings"),
    200008: ("ok", "ok_with_warnings"),
    200009: ("ok", "ok_with_warnings"),
    200010: ("ok", "ok_with_warnings"),
    0: ("ok", "ok"),
    100001: ("rejected", "unknown_refusal"),
    **dict.fromkeys((206001, 206002, 206003, 206004, 206005), ("rejected", "account_flow")),
    301001: ("stop", "wrong_data_center"),
    400001: ("stop", "credentials_refused"),
    400002: ("rejected", "missing_parameter"),
    400003: ("rejected", "other_product"),
    400004: ("rejected", "invalid_parameter_format"),
    400006: ("rejected", "invalid_parameter_value"),
    400007: ("rejected", "duplicate_value"),
    400008: ("stop", "credentials_refused"),
    400009: ("rejected", "validation_failed"),
    **dict.fromkeys((400011, 400012, 400013, 400014, 400015), ("stop", "credentials_refused")),
    **dict.fromkeys(range(400020, 400032), ("rejected", "other_product")),
    400050: ("rejected", "other_product"),
    400093: ("stop", "invalid_api_key"),
    400096: ("user", "provider_unsupported"),
    400097: ("rejected", "other_product"),
    400100: ("rejected", "other_product"),
    400103: ("rejected", "other_product"),
    400106: ("user", "provider_not_connected"),
    400120: ("stop", "site_configuration"),
    400122: ("rejected", "provider_configuration"),
    400124: ("capped", "limit_reached"),
    400125: ("retry", "frequency_limit"),
    400126: ("rejected", "invalid_action"),
    400127: ("rejected", "insufficient_points"),
    **dict.fromkeys((401000, 401001, 401010, 401020, 401021, 401030), ("rejected", "other_product")),
    403000: ("stop", "permission_denied"),
    403002: ("clock", "request_expired"),
    403003: ("ask", "invalid_signature"),
    403004: ("nonce", "duplicate_nonce"),
    403005: ("ask", "user_unknown"),
    403006: ("stop", "insecure_transport"),
    403007: ("stop", "permission_denied"),
    403008: ("rejected", "other_product"),
    403009: ("user", "provider_session"),
    403010: ("stop", "credentials_refused"),
    403011: ("user", "provider_session"),
    403012: ("user", "provider_session"),
    403015: ("stop", "credentials_missing"),
    403017: ("user", "provider_user_mismatch"),
    403022: ("user", "provider_permission"),
    403023: ("user", "provider_permission"),
    403024: ("retry", "provider_limit"),  # without the word "duplicate"; with it tests/answers/test_publishing.py
    403025: ("stop", "credentials_refused"),
    403026: ("rejected", "other_product"),
    403031: ("rejected", "other_product"),
    403035: ("stop", "credentials_missing"),
    403036: ("stop", "product_not_enabled"),
    403037: ("rejected", "other_product"),
    403040: ("rejected", "other_product"),
    403041: ("user", "user_disabled"),
    **dict.fromkeys((403042, 403043, 403044, 403045, 403047), ("rejected", "other_product")),
    403048: ("throttled", "rate_limited"),
    **dict.fromkeys((403100, 403101, 403102, 403110, 403120), ("rejected", "other_product")),
    403200: ("rejected", "redundant_operation"),
    403201: ("stop", "credentials_refused"),
    **dict.fromkeys((404000, 404001, 404002, 404004), ("rejected", "not_found")),
    404003: ("user", "user_unknown"),
    405001: ("stop", "method_gone"),
    **dict.fromkeys((409001, 409003, 409010, 409011, 409012, 409013, 409014, 409040), ("rejected", "other_product")),
    409030: ("busy", "user_busy"),
    409031: ("user", "provider_session"),
    410000: ("stop", "method_gone"),
    **dict.fromkeys((413001, 413002, 413003, 413004), ("rejected", "too_large")),
    500000: ("ambiguous", "security_warning"),
    500001: ("ambiguous", "server_error"),
    500002: ("ambiguous", "server_error"),
    500003: ("stop", "site_configuration"),
    500014: ("user", "session_migration"),
    500023: ("ambiguous", "provider_error"),
    500026: ("ambiguous", "server_error"),
    500028: ("ambiguous", "server_error"),
    500031: ("stop", "site_configuration"),
    500032: ("ambiguous", "server_error"),
    500033: ("stop", "site_configuration"),
    500034: ("ambiguous", "server_error"),
    504001: ("ambiguous", "server_timeout"),
    504002: ("ambiguous", "server_timeout"),
    # not in the table: the fallback by range
    299999: ("ok", "ok_with_warnings"),
    399999: ("stop", "unknown_redirection"),
    400999: ("rejected", "unknown_refusal"),
    403999: ("rejected", "unknown_refusal"),
    409999: ("rejected", "unknown_refusal"),
    500999: ("ambiguous", "server_error"),
    503000: ("retry", "unknown_server_error"),
    504999: ("ambiguous", "server_timeout"),
}
# What readiness must tell the operator to do about a site that is stopped.
REMEDIES: dict[int, tuple[str, ...]] = {
    301001: ("data_center", "us1.gigya.com"),
    400001: ("auth", "https"),
    400120: ("domain", "Console"),
    403000: ("permission group", "Console"),
    403006: ("https",),
    403007: ("permission group", "Console"),
    403015: ("api_key", "user_key", "secret"),
    403035: ("api_key", "user_key", "secret"),
    403036: ("Ask SAP", "active for your site"),
    403201: ("application key of this site",),
    399999: ("data_center",),
    405001: ("Ask SAP", "active for your site"),
    410000: ("Ask SAP", "active for your site"),
    500003: ("Console",),
    500031: ("provider's application", "Console"),
    500033: ("Ask SAP",),
    400093: ("api_key", "data_center"),
    **dict.fromkeys(
        (400008, 400011, 400012, 400013, 400014, 400015, 403010, 403025), ("user key", "secret", "Console")
    ),
}
# And what a dead letter's reason must tell: `explain` shows it.
LETTER_REMEDIES = {
    "account_flow": "the user's account",
    "duplicate_nonce": "sends requests twice",
    "duplicate_value": "callId",
    "frequency_limit": "replay",
    "insufficient_points": "Discard",
    "invalid_action": "Console (Loyalty > Actions)",
    "invalid_parameter_format": "Fix the rule",
    "invalid_parameter_value": "Fix the rule",
    "invalid_signature": "secret",
    "missing_parameter": "Fix the rule",
    "not_found": "Fix the rule",
    "other_product": "callId",
    "provider_configuration": "disabledProviders",
    "provider_error": "network",
    "provider_limit": "replay",
    "provider_not_connected": "Discard",
    "provider_permission": "Site Setup > Permissions",
    "provider_session": "logged in",
    "provider_unsupported": "Discard",
    "provider_user_mismatch": "reconnected",
    "redundant_operation": "Discard",
    "security_warning": "callId",
    "server_error": "callId",
    "server_timeout": "callId",
    "session_migration": "Discard",
    "too_large": "Send less",
    "unknown_refusal": "verdicts",
    "unknown_server_error": "callId",
    "user_busy": "other system",
    "user_disabled": "enable the account",
    "user_unknown": "Discard",
    "validation_failed": "Fix the rule",
}
FIELDS = {301001: {"apiDomain": "us1.gigya.com"}}
ATTEMPTS = 3  # delivery.attempts in these tests
GIVE_UP_S = 20.0


def of(*classes: str) -> list[int]:
    return [code for code, (kind, _) in EXPECTED.items() if kind in classes]


def test_every_row_of_the_table_is_expected_here() -> None:
    assert set(TABLE) <= set(EXPECTED)


def inject(gigya: LocalGigya, code: int, *, uid: str | None = None, method: str | None = NOTIFY) -> None:
    gigya.inject(Fault(kind="code", code=code, uid=uid, method=method, fields=FIELDS.get(code, {})))


async def refused_for(world: World, gigya: LocalGigya, code: int) -> None:
    """Let `bad` be answered this code whenever he is called, and another user's event stand behind his."""
    if code:
        inject(gigya, code, uid="bad")
    world.append("bad", "good")
    await world.all_committed()
    assert world.is_ready
    assert world.readiness == {"state": "open"}
    assert requests(gigya, uid="good") == 1
    assert 1 not in world.letters


def check_letter(world: World, code: int, *, attempts: int, maybe_executed: bool) -> None:
    letter, reason = world.letters[0], EXPECTED[code][1]
    (end,) = letter.calls
    assert (letter.reason, letter.code, letter.rule) == (reason, code, "watched")
    assert (end.outcome.kind, end.outcome.attempts) == ("failed", attempts)
    assert end.outcome.maybe_executed is maybe_executed
    assert end.outcome.call_id
    assert str(code) in letter.text
    assert LETTER_REMEDIES[reason] in REASONS[reason].remedy


@pytest.mark.parametrize("code", of("ok"))
async def test_a_code_of_success_is_delivered_at_once(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        reason = EXPECTED[code][1]
        assert world.verdicts[("ok", reason)] == (2 if reason == "ok" else 1)
        assert world.ends[("delivered", reason)] >= 1
        assert world.letters == {}
        assert requests(gigya, uid="bad") == 1


@pytest.mark.parametrize("code", of("rejected", "user"))
async def test_a_refusal_of_the_call_is_dead_lettered_at_the_first_attempt(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        assert world.verdicts == {EXPECTED[code]: 1, ("ok", "ok"): 1}
        assert requests(gigya, uid="bad") == 1
        check_letter(world, code, attempts=1, maybe_executed=False)
        assert world.possible_duplicates == 0


@pytest.mark.parametrize("code", of("capped"))
async def test_a_cap_is_a_business_outcome(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        assert world.ends == {("capped", "limit_reached"): 1, ("delivered", "ok"): 1}
        assert world.letters == {}
        assert requests(gigya, uid="bad") == 1


@pytest.mark.parametrize("code", of("retry"))
async def test_what_may_pass_is_tried_as_often_as_the_settings_say(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        assert world.verdicts == {EXPECTED[code]: ATTEMPTS, ("ok", "ok"): 1}
        check_letter(world, code, attempts=ATTEMPTS, maybe_executed=False)
        assert world.possible_duplicates == 0


@pytest.mark.parametrize("code", of("ambiguous"))
async def test_what_may_have_been_executed_is_sent_again_and_every_time_is_counted(code: int) -> None:
    async with at_the_local_gigya(nonces={"retention_s": 0}) as (world, gigya):
        without_a_log(gigya)
        await refused_for(world, gigya, code)
        assert world.verdicts == {EXPECTED[code]: ATTEMPTS, ("ok", "ok"): 1}
        check_letter(world, code, attempts=ATTEMPTS, maybe_executed=True)
        assert world.possible_duplicates == ATTEMPTS - 1


@pytest.mark.parametrize(("policy", "end"), [("accept", "delivered"), ("dead_letter", "failed")])
@pytest.mark.parametrize("code", [500001, 504002])
async def test_what_may_have_been_executed_ends_at_once_under_another_policy(code: int, policy: str, end: str) -> None:
    async with at_the_local_gigya(settings={"ambiguous": policy}) as (world, gigya):
        without_a_log(gigya)
        await refused_for(world, gigya, code)
        reason = "accepted_undecided" if policy == "accept" else EXPECTED[code][1]
        assert world.ends == {(end, reason): 1, ("delivered", "ok"): 1}
        assert requests(gigya, uid="bad") == 1
        assert world.possible_duplicates == 0
        if policy == "dead_letter":
            check_letter(world, code, attempts=1, maybe_executed=True)


@pytest.mark.parametrize("code", of("busy"))
async def test_a_busy_user_costs_time_and_not_attempts(code: int) -> None:
    async with at_the_local_gigya(settings={"give_up_after_s": GIVE_UP_S, "attempts": 2}) as (world, gigya):
        begun_s = world.clock.monotonic_s()
        await refused_for(world, gigya, code)
        took_s = world.clock.monotonic_s() - begun_s
        assert GIVE_UP_S / 3 < took_s < GIVE_UP_S + 5  # the last pause is charged and not waited for
        attempts = requests(gigya, uid="bad")
        assert attempts > 3
        check_letter(world, code, attempts=attempts, maybe_executed=False)


@pytest.mark.parametrize("code", of("nonce"))
async def test_a_duplicate_nonce_is_signed_again_once_for_nothing(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        assert world.verdicts == {("resign", "duplicate_nonce"): 1 + ATTEMPTS, ("ok", "ok"): 1}
        check_letter(world, code, attempts=1 + ATTEMPTS, maybe_executed=False)
        nonces = [each.nonce for each in gigya.ledger.arrivals]
        assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize("code", of("throttled"))
async def test_throttling_costs_the_call_nothing_however_long_it_lasts(code: int) -> None:
    async with at_the_local_gigya(settings={"attempts": 1, "give_up_after_s": 5}) as (world, gigya):
        inject(gigya, code)
        world.append("bad", "good")
        await world.pass_time(900)
        assert 8 < requests(gigya) < 60  # so much of it is read as the day's limit: long holds
        assert world.committed == 0
        assert world.letters == {}
        assert world.ends == {}
        assert world.is_ready
        gates = world.view.status()["gates"]["main"]  # type: ignore[index,call-overload]
        assert gates["quota"] == "exhausted"  # type: ignore[index,call-overload]

        gigya.faults.clear()
        await world.all_committed()
        assert world.ends == {("delivered", "ok"): 2}


@pytest.mark.parametrize("code", of("ask"))
async def test_a_signature_or_a_user_refused_decides_nothing_until_the_site_was_asked(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        await refused_for(world, gigya, code)
        assert requests(gigya, uid="bad") == 2  # sent again after an acceptance, and refused between two of them
        check_letter(world, code, attempts=2, maybe_executed=False)


@pytest.mark.parametrize("code", of("ask"))
async def test_the_same_refusal_of_everything_stops_the_site_and_loses_nothing(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        gigya.revoke("main", "key", code)
        world.append("bad", "good")
        await world.until(lambda: world.readiness["state"] != "open")
        await world.pass_time(60)
        assert world.readiness["state"] == "stopped"
        assert (world.readiness["reason"], world.readiness["code"]) == ("credentials_refused", code)
        assert all(word in world.readiness["remedy"] for word in ("user key", "secret", "Console"))
        assert (world.committed, world.letters) == (0, {})

        gigya.restore("main", "key")
        await world.all_committed()
        assert world.is_ready
        assert world.ends == {("delivered", "ok"): 2}


@pytest.mark.parametrize("code", of("clock"))
async def test_timestamps_that_no_correction_helps_stop_the_site(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        inject(gigya, code, method=None)
        world.append("bad", "good")
        await world.until(lambda: world.readiness["state"] != "open")
        assert (world.readiness["state"], world.readiness["reason"]) == ("stopped", "clock_refused")
        assert "NTP" in world.readiness["remedy"]
        assert ("resign", "request_expired") in world.verdicts
        await world.pass_time(60)
        assert (world.committed, world.letters) == (0, {})

        gigya.faults.clear()
        await world.all_committed()
        assert world.ends == {("delivered", "ok"): 2}


@pytest.mark.parametrize("code", of("stop"))
async def test_a_refusal_of_the_site_stops_it_with_a_remedy_and_loses_nothing(code: int) -> None:
    async with at_the_local_gigya() as (world, gigya):
        inject(gigya, code)
        world.append("bad", "good")
        await world.until(lambda: world.readiness["state"] != "open")
        asked = requests(gigya)
        await world.pass_time(60)

        assert world.readiness["state"] == "stopped"
        assert (world.readiness["reason"], world.readiness["code"]) == (EXPECTED[code][1], code)
        missing = [word for word in REMEDIES[code] if word not in world.readiness["remedy"]]
        assert not missing, world.readiness["remedy"]
        assert 1 <= requests(gigya) - asked <= 25  # a slow probe, and nothing else
        assert ("stop", EXPECTED[code][1]) in world.verdicts
        assert (world.committed, world.letters, world.ends) == (0, {}, {})

        gigya.faults.clear()
        await world.all_committed()
        assert world.is_ready
        assert world.ends == {("delivered", "ok"): 2}
        assert world.possible_duplicates == 0
