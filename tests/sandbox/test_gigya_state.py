"""Does the local Gigya keep users, actions, caps, quota, networks, logs, sites and keys as set?"""

from __future__ import annotations

import asyncio
import base64
import gc
import json

import pytest

from tests.sandbox.gigya_client import NOW_S, SECRET, USER_KEY, config, serve
from worker.sandbox import gigya
from worker.sandbox.gigya_config import Action, GigyaConfig, Latency, ProviderResult, Providers, Quota

OTHER_SECRET = base64.b64encode(b"another secret").decode()

# users, actions, caps


async def test_unknown_users_are_refused_and_everybody_else_is_known() -> None:
    async with serve() as client:
        client.gigya.configure_site("main", {"unknown_users": ["ghost"]})
        assert (await client.notify(uid="ghost")).code == 403005
        assert (await client.publish(uid="ghost")).code == 403005
        assert (await client.notify(uid="alive")).code == 0
        client.gigya.configure_site("main", {"known_users": ["bob"]})
        assert (await client.notify(uid="alive")).code == 403005
        assert (await client.notify(uid="bob")).code == 0


async def test_unknown_and_disabled_actions_are_refused() -> None:
    site = {"accept_any_action": False, "actions": {"on": Action(), "off": Action(enabled=False)}}
    async with serve(config(site=site)) as client:
        assert (await client.notify(action="on")).code == 0
        assert (await client.notify(action="off")).code == 400126
        assert (await client.notify(action="unheard")).code == 400126
        assert (await client.notify(action="_points", points="1")).code == 0


async def test_the_daily_cap_holds_for_each_user_and_ends_after_a_day() -> None:
    async with serve(config(site={"actions": {"a": Action(daily_cap=2)}})) as client:
        codes = [(await client.notify(action="a")).code for _ in range(3)]
        assert codes == [0, 0, 400124]
        assert (await client.notify(action="a")).json["errorDetails"] == "DailyCap exceeded"
        assert (await client.notify(uid="u2", action="a")).code == 0
        client.moments.advance(86_400)
        assert (await client.notify(action="a")).code == 0
        assert client.gigya.ledger.executed_total == 4


async def test_the_frequency_cap_is_a_least_time_between_two() -> None:
    async with serve(config(site={"actions": {"a": Action(freq_cap_s=10)}})) as client:
        assert (await client.notify(action="a")).code == 0
        client.moments.advance(9)
        assert (await client.notify(action="a")).json["errorDetails"] == "FreqCap exceeded"
        client.moments.advance(1)
        assert (await client.notify(action="a")).code == 0


# quota and concurrency


async def test_the_quota_is_that_of_any_second() -> None:
    async with serve(config(site={"quota": Quota(per_s=3)})) as client:
        codes = []
        for _ in range(4):
            codes.append((await client.notify()).code)
            client.moments.advance(0.2)
        assert codes == [0, 0, 0, 403048]
        client.moments.advance(0.2)  # the first of the three is a second ago
        assert (await client.notify()).code == 0
        refused = await client.notify()
        assert (refused.status, refused.json["errorMessage"]) == (200, "Api rate limit exceeded")


async def test_the_quota_can_be_that_of_the_clocks_seconds() -> None:
    async with serve(config(site={"quota": Quota(per_s=2, window="second")})) as client:
        client.moments.elapsed = 1000.9
        assert [(await client.notify()).code for _ in range(3)] == [0, 0, 403048]
        client.moments.advance(0.1)
        assert [(await client.notify()).code for _ in range(3)] == [0, 0, 403048]


async def test_a_day_can_have_a_quota_too() -> None:
    async with serve(config(site={"quota": Quota(per_day=2)})) as client:
        assert [(await client.notify()).code for _ in range(3)] == [0, 0, 403048]
        client.moments.advance(86_400)
        assert (await client.notify()).code == 0


async def test_refused_requests_use_quota_only_when_set_so() -> None:
    async with serve(config(site={"quota": Quota(per_s=1, counts_refused=True)})) as client:
        await client.notify()
        client.moments.advance(0.9)
        assert (await client.notify()).code == 403048
        client.moments.advance(0.9)
        assert (await client.notify()).code == 403048


async def test_a_sixth_request_of_one_user_at_once_is_refused() -> None:
    async with serve(config(latency=Latency(ms=50))) as client:
        answers = await asyncio.gather(*(client.notify() for _ in range(7)), client.notify(uid="u2"))
        assert sorted(answer.code for answer in answers) == [0] * 6 + [409030] * 2
        assert (await client.notify()).code == 0
        stats = client.gigya.ledger.stats()
        assert stats["in_flight_max_per_uid"] == 7
        assert stats["in_flight"] == 0


# publishing


async def test_one_network_is_enough_for_a_success() -> None:
    twitter = ProviderResult(provider="twitter", code=403024, details="Limit reached: Status is a duplicate.")
    async with serve(config(site={"providers": Providers(results=(twitter,))})) as client:
        body = (await client.publish()).json
        assert body["errorCode"] == 0
        assert list(body["providerPostIDs"]) == ["facebook"]
        assert body["providerErrorCodes"] == [
            {"provider": "facebook", "errorCode": 0, "errorMessage": "OK"},
            {
                "provider": "twitter",
                "errorCode": 403024,
                "errorMessage": "Provider limit reached",
                "errorDetails": "Limit reached: Status is a duplicate.",
            },
        ]
        entry = client.gigya.ledger.executed[0]
        assert entry.result == {"posted": ["facebook"], "providers": {"facebook": 0, "twitter": 403024}}


async def test_a_publish_that_fails_everywhere_is_an_error_and_executes_nothing() -> None:
    results = tuple(ProviderResult(provider=name, code=500023) for name in ("facebook", "twitter"))
    async with serve(config(site={"providers": Providers(results=results)})) as client:
        body = (await client.publish()).json
        assert body["errorCode"] == 500023
        assert len(body["providerErrorCodes"]) == 2
        assert client.gigya.ledger.executed_total == 0


async def test_a_network_that_fails_twice_succeeds_the_third_time() -> None:
    twitter = ProviderResult(provider="twitter", code=500023, count=2)
    async with serve(config(site={"providers": Providers(results=(twitter,))})) as client:
        codes = []
        for _ in range(3):
            body = (await client.publish(enabledProviders="twitter")).json
            codes.append(body["errorCode"])
        assert codes == [500023, 500023, 0]


@pytest.mark.parametrize(
    ("params", "posted"),
    [
        ({}, ["facebook", "twitter", "linkedin"]),
        ({"enabledProviders": "twitter"}, ["twitter"]),
        ({"enabledProviders": "Twitter, sina"}, ["twitter"]),
        ({"disabledProviders": "twitter,facebook"}, ["linkedin"]),
        ({"enabledProviders": "twitter,linkedin", "disabledProviders": "twitter"}, ["linkedin"]),
    ],
)
async def test_enabled_and_disabled_providers_are_honoured(params: dict[str, str], posted: list[str]) -> None:
    providers = Providers(connected=("facebook", "twitter", "linkedin", "googleplus"))
    async with serve(config(site={"providers": providers})) as client:
        body = (await client.publish(**params)).json
        assert list(body["providerPostIDs"]) == posted


async def test_a_user_without_a_network_that_can_post_is_refused() -> None:
    providers = Providers(connected_by_uid={"none": (), "odd": ("googleplus",)})
    async with serve(config(site={"providers": providers})) as client:
        assert (await client.publish(uid="none")).code == 400106
        assert (await client.publish(uid="odd")).code == 400096
        assert (await client.publish(uid="u", enabledProviders="sina")).code == 400106


async def test_a_link_to_a_domain_that_is_not_approved_is_refused() -> None:
    async with serve(config(site={"approved_domains": ["example.com"], "unapproved_link_code": 400120})) as client:
        for link, code in (
            ("https://example.com/x", 0),
            ("https://www.example.com/x", 0),
            ("https://notexample.com/x", 400120),
            ("https://evil.test/?example.com", 400120),
        ):
            answer = await client.publish(userAction=json.dumps({"linkBack": link}))
            assert answer.code == code, link
        override = await client.publish(twitterUserAction='{"linkBack":"https://evil.test/"}')
        assert override.code == 400120


# reading back


async def test_the_actions_log_has_an_entry_for_each_challenge_of_an_execution() -> None:
    site = {"actions": {"a": Action(points=7, challenges=("c1", "c2"))}}
    async with serve(config(site=site)) as client:
        await client.notify(action="a")
        client.moments.advance(5)
        await client.notify(action="a", points="3", challengeIDs="c3")
        await client.notify(uid="u2", action="a")
        log = (await client.call("gm.getActionsLog", UID="u1")).json["actions"]
        shown = [(entry["time"] - int(NOW_S), entry["points"], entry["challengeID"]) for entry in log]
        assert shown == [(0, 7, "c1"), (0, 7, "c2"), (5, 3, "c1"), (5, 3, "c2"), (5, 3, "c3")]
        late = await client.call("gm.getActionsLog", UID="u1", startTime=f"{NOW_S + 1:.0f}", endTime=f"{NOW_S + 9:.0f}")
        assert len(late.json["actions"]) == 3


async def test_the_actions_log_can_lag_behind() -> None:
    async with serve(config(actions_log_delay_s=2)) as client:
        await client.notify()
        assert (await client.call("gm.getActionsLog", UID="u1")).json["actions"] == []
        client.moments.advance(2)
        assert len((await client.call("gm.getActionsLog", UID="u1")).json["actions"]) == 1


async def test_the_actions_log_is_for_known_users_and_sound_times() -> None:
    async with serve() as client:
        client.gigya.configure_site("main", {"unknown_users": ["ghost"]})
        assert (await client.call("gm.getActionsLog", UID="ghost")).code == 403005
        assert (await client.call("gm.getActionsLog", UID="u", startTime="yesterday")).code == 400004
        assert (await client.call("gm.getActionsLog")).code == 400002


async def test_the_action_config_lists_caps_and_leaves_out_what_was_not_asked_for() -> None:
    site = {"actions": {"a": Action(points=5, daily_cap=3), "b": Action(freq_cap_s=1), "c": Action(enabled=False)}}
    async with serve(config(site=site)) as client:

        async def names(**params: str) -> list[str]:
            body = (await client.call("gm.getActionConfig", **params)).json
            return [action["actionID"] for action in body["actions"]]

        assert await names() == ["a", "b"]
        assert await names(includeDisabledActions="true") == ["a", "b", "c"]
        assert await names(includeActions="b,c") == ["b"]
        assert await names(excludeActions="a") == ["b"]
        body = (await client.call("gm.getActionConfig")).json
        assert (body["actions"][0]["points"], body["actions"][0]["dailyCap"]) == (5, 3)
        assert "dailyCap" not in body["actions"][1]


# sites and keys


async def test_two_sites_have_their_own_keys_users_and_quota() -> None:
    async with serve(config(site={"quota": Quota(per_s=1)})) as client:
        second = {"api_key": "3_second", "keys": {"AKsecond": {"secrets": [OTHER_SECRET]}}}
        client.gigya.configure_site("second", second)
        other = {"apiKey": "3_second", "userKey": "AKsecond", "secret": OTHER_SECRET}
        assert (await client.notify()).code == 0
        assert (await client.notify()).code == 403048
        assert [(await client.notify(**other)).code for _ in range(3)] == [0, 0, 0]
        assert (await client.notify(apiKey="3_second")).code == 403005
        assert client.gigya.ledger.stats()["busiest_second"] == {"main": 2, "second": 4}


async def test_a_revoked_key_is_refused_until_it_is_restored() -> None:
    async with serve() as client:
        client.gigya.revoke("main", USER_KEY)
        assert (await client.notify()).code == 403005
        client.gigya.revoke("main", USER_KEY, 403003)
        refused = await client.notify()
        assert refused.code == 403003
        assert refused.json["baseString"].startswith("POST&http%3A%2F%2F127.0.0.1")
        client.gigya.restore("main", USER_KEY)
        assert (await client.notify()).code == 0


async def test_both_secrets_are_accepted_in_the_middle_of_a_rotation() -> None:
    async with serve() as client:
        client.gigya.configure_site("main", {"keys": {USER_KEY: {"secrets": [OTHER_SECRET, SECRET]}}})
        assert (await client.notify()).code == 0
        assert (await client.notify(secret=OTHER_SECRET)).code == 0
        client.gigya.configure_site("main", {"keys": {USER_KEY: {"secrets": [OTHER_SECRET]}}})
        assert (await client.notify()).code == 403003


def test_a_config_with_a_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="standard base64"):
        GigyaConfig.model_validate({"sites": {"main": {"keys": {"AK": {"secrets": ["not base64!"]}}}}})


def test_two_sites_with_one_api_key_are_refused() -> None:
    with pytest.raises(ValueError, match="same api_key"):
        GigyaConfig.model_validate({"sites": {"one": {}, "two": {}}})


def test_a_server_that_keeps_all_that_happened_does_not_look_through_it_again_and_again():
    before = gc.get_threshold()
    try:
        gigya._collect_rarely()
        young, _, full = gc.get_threshold()
        assert young > 0, "garbage is still collected"
        assert full >= 1_000
    finally:
        gc.set_threshold(*before)
