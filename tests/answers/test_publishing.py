"""publishUserAction through the whole worker: what is sent, what each network says, and who is asked again.

The local Gigya posts to every network that a user is connected to and the call allows; one success is a success of the
call, and only when all refuse there is an error (the API page). Its ledger says who was posted to.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from tests.answers.world import PUBLISH, TOPIC, World, at_the_local_gigya, requests
from worker.gigya.reasons import REASONS, VerdictKind
from worker.sandbox.gigya import Fault, LocalGigya

NETWORKS = ("facebook", "twitter", "linkedin")
LINK = {"title": "Glee", "linkBack": "https://www.example.com/glee"}
FOREIGN = {"title": "Glee", "linkBack": "https://elsewhere.example/glee"}


def connected(*results: dict[str, Any], networks: tuple[str, ...] = NETWORKS, **site: Any) -> dict[str, Any]:
    """Return a local site whose users are connected to these networks, which answer so."""
    return {"providers": {"connected": networks, "results": results}, **site}


def answers(provider: str, code: int, count: int | None = None, details: str = "") -> dict[str, Any]:
    return {"provider": provider, "code": code, "count": count, "details": details}


def posted(gigya: LocalGigya) -> Counter[str]:
    """Return how often each network was posted to."""
    publishes = (entry for entry in gigya.ledger.executed if entry.method == PUBLISH)
    return Counter(str(name) for entry in publishes for name in entry.result["posted"])  # type: ignore[union-attr]


def share(world: World, uid: str = "u1", **more: Any) -> None:
    world.append(uid, kind="shared", userAction=more.pop("userAction", LINK), **more)


def sent(gigya: LocalGigya, index: int = -1) -> dict[str, str]:
    return dict(gigya.ledger.executed[index].params)


# --- what is sent --------------------------------------------------------------------------------------------------


async def test_links_media_and_overrides_arrive_as_the_event_has_them() -> None:
    action = {
        "userMessage": 'I said "é" & <b>more</b> 👍',
        **LINK,
        "subtitle": "a show",
        "description": "about singing",
        "actionLinks": [{"title": "Watch", "href": "https://www.example.com/watch?a=1&b=2"}],
        "mediaItems": [
            {"type": "image", "src": "https://img.example.com/1.png", "href": "https://www.example.com/1"},
            {"type": "image", "src": "https://img.example.com/2.png", "href": "https://www.example.com/2"},
        ],
    }
    override = {"title": "short", "linkBack": "https://www.example.com/t"}
    async with at_the_local_gigya(site=connected()) as (world, gigya):
        share(world, userAction=action, twitterUserAction=override, disabledProviders=["linkedin"])
        await world.all_committed()
        params = sent(gigya)
        assert orjson.loads(params["userAction"]) == action
        assert orjson.loads(params["twitterUserAction"]) == override
        assert params["disabledProviders"] == "linkedin"
        assert set(params) == {"UID", "userAction", "twitterUserAction", "disabledProviders"}
        assert posted(gigya) == {"facebook": 1, "twitter": 1}


async def test_empty_values_are_removed_at_every_depth() -> None:
    action = {
        **LINK,
        "subtitle": "",
        "description": None,
        "actionLinks": [{"title": "Watch", "href": "https://www.example.com/w"}, {"title": "", "href": None}],
        "mediaItems": [
            {"type": "mp3", "src": "https://a.example.com/a.mp3", "title": "", "artist": None, "album": "Hits"},
        ],
    }
    empty = {"title": "", "actionLinks": [{"title": "", "href": ""}, None], "mediaItems": []}
    async with at_the_local_gigya(site=connected()) as (world, gigya):
        share(world, userAction=action, facebookUserAction=empty, disabledProviders=[])
        await world.all_committed()
        params = sent(gigya)
        assert orjson.loads(params["userAction"]) == {
            **LINK,
            "actionLinks": [{"title": "Watch", "href": "https://www.example.com/w"}],
            "mediaItems": [{"type": "mp3", "src": "https://a.example.com/a.mp3", "album": "Hits"}],
        }
        assert set(params) == {"UID", "userAction"}
        assert world.letters == {}


async def test_a_video_is_sent_with_its_sizes_and_preview() -> None:
    video = {
        "type": "flash",
        "src": "https://v.example.com/1.swf",
        "previewImageURL": "https://v.example.com/1.png",
        "width": "300",
        "height": "200",
        "previewImageWidth": "90",
        "previewImageHeight": "60",
    }
    async with at_the_local_gigya(site=connected()) as (world, gigya):
        share(world, userAction={**LINK, "mediaItems": [video]})
        await world.all_committed()
        assert orjson.loads(sent(gigya)["userAction"])["mediaItems"] == [video]


@pytest.mark.parametrize(
    ("action", "place"),
    [
        ({"title": ""}, "userAction"),
        ({"linkBack": "/relative"}, "userAction.linkBack"),
        (
            {"mediaItems": [{"type": "image", "src": "https://a/1"}, {"type": "mp3", "src": "https://a/2"}]},
            "mediaItems",
        ),
        ({"mediaItems": [{"type": "image", "href": "https://a/1"}]}, "userAction.mediaItems[0].src"),
    ],
)
async def test_what_gigya_would_refuse_is_dead_lettered_without_a_request(action: Any, place: str) -> None:
    async with at_the_local_gigya(site=connected()) as (world, gigya):
        share(world, userAction=action)
        await world.all_committed()
        assert place in world.letters[0].parameter + world.letters[0].text
        assert requests(gigya, method=PUBLISH) == 0


# --- networks that fail -------------------------------------------------------------------------------------------


async def test_a_network_that_fails_twice_and_then_takes_it_is_asked_alone() -> None:
    site = connected(answers("twitter", 500023, count=2))
    async with at_the_local_gigya(site=site) as (world, gigya):
        share(world, disabledProviders=["renren"])
        await world.all_committed()
        assert posted(gigya) == {"facebook": 1, "linkedin": 1, "twitter": 1}
        assert requests(gigya, method=PUBLISH) == 3
        assert sent(gigya, 0)["disabledProviders"] == "renren"
        assert sent(gigya)["enabledProviders"] == "twitter"
        assert "disabledProviders" not in sent(gigya)
        assert sent(gigya)["userAction"] == sent(gigya, 0)["userAction"]
        assert world.ends == {("delivered", "ok"): 1}
        assert world.possible_duplicates == 2  # 500023: the network may have taken the post
        assert world.is_ready


async def test_only_networks_that_may_be_tried_again_are_and_the_others_are_told_of() -> None:
    site = connected(
        answers("twitter", 403024, details="Limit reached: too many"),
        answers("linkedin", 403022),
        networks=(*NETWORKS, "vkontakte"),
    )
    with capture_logs() as lines:
        async with at_the_local_gigya(site=site) as (world, gigya):
            share(world)
            await world.all_committed()
        (line,) = (line for line in lines if line["event"] == "record.done")
        assert line["calls"][0]["networks"] == {
            "facebook": "ok",
            "vkontakte": "ok",
            "twitter": "403024 provider_limit",
            "linkedin": "403022 provider_permission",
        }
        assert posted(gigya) == {"facebook": 1, "vkontakte": 1}
        tried = [entry.params.get("enabledProviders") for entry in gigya.ledger.executed]
        assert tried == [None]  # a post that nobody takes changes nothing: it is not in the ledger of executions
        assert requests(gigya, method=PUBLISH) == 3
        assert world.ends == {("delivered", "ok"): 1}
        assert world.letters == {}
        assert world.possible_duplicates == 0  # a limit is a refusal: the network has not taken it


async def test_a_duplicate_status_is_an_acceptance() -> None:
    details = "Limit reached: Status is a duplicate."
    site = connected(answers("facebook", 403024, details=details), networks=("facebook",))
    async with at_the_local_gigya(site=site) as (world, gigya):
        share(world)
        await world.all_committed()
        assert list(world.ends) in ([("delivered", "provider_duplicate")], [("delivered", "ok")])
        assert requests(gigya, method=PUBLISH) == 1
        assert world.letters == {}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (400096, "provider_unsupported"),
        (400106, "provider_not_connected"),
        (400120, "link_not_approved"),
        (400122, "provider_configuration"),
        (403009, "provider_session"),
        (403011, "provider_session"),
        (403012, "provider_session"),
        (403017, "provider_user_mismatch"),
        (403022, "provider_permission"),
        (403023, "provider_permission"),
        (409031, "provider_session"),
        (500014, "session_migration"),
        (500031, "provider_configuration"),
    ],
)
async def test_a_refusal_by_the_only_network_is_that_calls_matter_and_stops_nobody(code: int, reason: str) -> None:
    site = connected(answers("facebook", code), networks=("facebook",))
    async with at_the_local_gigya(site=site) as (world, gigya):
        share(world)
        world.append("another")
        await world.all_committed()
        letter = world.letters[0]
        assert (letter.reason, letter.code, letter.rule) == (reason, code, "shared")
        (end,) = letter.calls
        assert end.outcome.details == {"facebook": f"{code} {reason}"}
        assert end.outcome.maybe_executed is False
        assert requests(gigya, method=PUBLISH) == 1
        assert world.is_ready
        assert world.ends[("delivered", "ok")] == 1


async def test_when_all_networks_fail_each_is_judged_by_its_own_code() -> None:
    # The one code that stands for all is the first network's, which must not be tried again; another may be.
    site = connected(answers("facebook", 403022), answers("twitter", 500023, count=1), networks=NETWORKS[:2])
    async with at_the_local_gigya(site=site) as (world, gigya):
        share(world)
        await world.all_committed()
        assert posted(gigya) == {"twitter": 1}
        assert sent(gigya)["enabledProviders"] == "twitter"
        assert world.ends == {("delivered", "ok"): 1}


async def test_a_network_that_is_down_for_all_users_is_no_outage_of_the_site() -> None:
    site = connected(answers("facebook", 500023), networks=("facebook",))
    async with at_the_local_gigya(site=site) as (world, _):
        for number in range(8):
            share(world, uid=f"u{number}")
        world.append("another")
        await world.all_committed()
        assert world.is_ready
        assert world.ends == {("failed", "provider_error"): 8, ("delivered", "ok"): 1}
        assert {letter.calls[0].outcome.maybe_executed for letter in world.letters.values()} == {True}


@pytest.mark.parametrize(
    ("policy", "end"), [("accept", ("delivered", "accepted_undecided")), ("dead_letter", ("failed", "provider_error"))]
)
async def test_a_network_in_doubt_is_asked_once_under_another_policy(policy: str, end: tuple[str, str]) -> None:
    site = connected(answers("facebook", 500023), networks=("facebook",))
    async with at_the_local_gigya(site=site, settings={"ambiguous": policy}) as (world, gigya):
        share(world)
        await world.all_committed()
        assert requests(gigya, method=PUBLISH) == 1
        assert world.ends == {end: 1}


async def test_a_network_that_never_recovers_leaves_a_publish_that_another_took_delivered() -> None:
    async with at_the_local_gigya(site=connected(answers("twitter", 500023))) as (world, gigya):
        share(world)
        await world.all_committed()
        assert posted(gigya) == {"facebook": 1, "linkedin": 1}
        assert world.ends == {("delivered", "ok"): 1}


async def test_a_lost_answer_to_the_second_attempt_does_not_post_to_the_first_network_again() -> None:
    async with at_the_local_gigya(site=connected(answers("twitter", 500023, count=1))) as (world, gigya):
        gigya.inject(Fault(kind="reset_before_execution", method=PUBLISH, skip=1, count=1))
        share(world)
        await world.all_committed()
        assert posted(gigya) == {"facebook": 1, "linkedin": 1, "twitter": 1}


# --- links that the site has not approved --------------------------------------------------------------------------


async def test_one_foreign_link_is_dead_lettered_with_its_place_and_the_site_goes_on() -> None:
    async with at_the_local_gigya(site=connected(approved_domains=["example.com"])) as (world, gigya):
        share(world, uid="foreign", userAction=FOREIGN)
        share(world, uid="good")
        world.append("another")
        await world.all_committed()
        letter = world.letters[0]
        assert (letter.reason, letter.code) == ("link_not_approved", 400120)
        assert "userAction.linkBack" in letter.text
        assert "elsewhere" not in letter.text  # payload is for whoever may read the record
        assert letter.record.topic == TOPIC
        assert b"elsewhere.example" in (letter.record.value or b"")
        assert "approved URLs" in REASONS[letter.reason].remedy
        assert world.is_ready
        assert list(world.letters) == [0]
        assert posted(gigya) == dict.fromkeys(NETWORKS, 1)
        assert requests(gigya, uid="foreign", method=PUBLISH) == 1


async def test_the_place_of_a_foreign_link_in_an_override_is_told() -> None:
    async with at_the_local_gigya(site=connected(approved_domains=["example.com"])) as (world, _):
        share(world, twitterUserAction=FOREIGN)
        await world.all_committed()
        assert "userAction.linkBack, twitterUserAction.linkBack" in world.letters[0].text


async def test_domains_that_are_not_registered_at_all_are_held_by_the_flood_guard() -> None:
    async with at_the_local_gigya(site=connected(approved_domains=["example.com"])) as (world, _):
        for number in range(80):
            share(world, uid=f"u{number}", userAction=FOREIGN)
        await world.until(lambda: world.view.readyz()["flood_guard"]["state"] == "held")  # type: ignore[index,call-overload]
        await world.pass_time(5)
        assert len(world.letters) <= 50
        assert not world.is_ready


async def test_the_same_code_without_a_link_is_the_sites_matter() -> None:
    async with at_the_local_gigya(site=connected()) as (world, gigya):
        gigya.inject(Fault(kind="code", code=400120, method=PUBLISH))
        share(world, userAction={"title": "Glee"})
        await world.until(lambda: world.readiness["state"] != "open")
        assert (world.readiness["state"], world.readiness["reason"]) == ("stopped", "site_configuration")
        assert "Register the domain" in world.readiness["remedy"]
        assert world.letters == {}


async def test_whatever_other_code_it_has_can_be_told_in_the_settings() -> None:
    # Which code a refused link has is published nowhere. One that stops the site says so, with its code.
    site = connected(approved_domains=["example.com"], unapproved_link_code=403007)
    async with at_the_local_gigya(site=site) as (world, _):
        share(world, userAction=FOREIGN)
        await world.until(lambda: world.readiness["state"] != "open")
        assert world.readiness["code"] == 403007
    async with at_the_local_gigya(site=site, verdicts={403007: VerdictKind.REJECTED}) as (world, _):
        share(world, userAction=FOREIGN)
        share(world, uid="good")
        await world.all_committed()
        assert world.letters[0].code == 403007
        assert world.is_ready
