"""What the worker says about itself: whoever is asked why nothing moves finds it here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from tests.delivery.fakes import BAD_GATEWAY, OK, make_scene, reply
from worker.control import Pause, Who
from worker.gigya.calls import PUBLISH_USER_ACTION
from worker.metrics import Metrics
from worker.status import WorkerView


def view_of(
    sender: object,
    *,
    pauses: dict[str, Pause] | None = None,
    trouble: str = "",
    letters_policy: str = "compact",
    imbalances: Sequence[str] = (),
    **engine: object,
) -> WorkerView:
    """Return the view of a worker in which all is well but for what is given."""
    state = {
        "has_joined": True,
        "trouble": "",
        "last_commit_error": "",
        "partitions": list,
        "lost": dict,
        "unfinished": dict,
    }
    return WorkerView(
        engine=SimpleNamespace(**state | engine),  # type: ignore[arg-type]
        handler=SimpleNamespace(flood=None, held_bytes=0, letters_waiting=0, rules_digest="d1g35t"),  # type: ignore[arg-type]
        lanes=SimpleNamespace(statistics=dict),  # type: ignore[arg-type]
        ledger=SimpleNamespace(  # type: ignore[arg-type]
            imbalances=lambda _: list(imbalances), total=lambda _: "", balanced=lambda _: True, lines=lambda _: {}
        ),
        letters=SimpleNamespace(  # type: ignore[arg-type]
            status=lambda: SimpleNamespace(failing_since_s=None, waiting=0, written=0)
        ),
        senders={"main": sender},  # type: ignore[dict-item]
        metrics=Metrics(),
        reload=None,
        control=SimpleNamespace(pauses=pauses or {}),  # type: ignore[arg-type]
        watchdog=SimpleNamespace(trouble=trouble),  # type: ignore[arg-type]
        alarms=SimpleNamespace(set_gauges=lambda: None, letters_policy=letters_policy),  # type: ignore[arg-type]
        version="0",
    )


def test_a_ledger_that_does_not_balance_is_unready_and_says_which_account() -> None:
    answer = view_of(make_scene().sender, imbalances=["t/0: read 2 = done 1", "t/1: read 3 = done 1"]).readyz()
    assert answer["ready"] is False
    assert answer["ledger"]["state"] == "unbalanced"
    assert "t/0: read 2 = done 1" in str(answer["ledger"])


def test_a_dead_letter_topic_that_deletes_letters_is_unready_and_says_what_to_do() -> None:
    answer = view_of(make_scene().sender, letters_policy="delete").readyz()
    assert answer["ready"] is False
    assert (answer["dead_letters"]["state"], answer["dead_letters"]["policy"]) == ("not_kept", "delete")
    assert "cleanup.policy" in answer["dead_letters"]["remedy"]


def test_a_worker_in_which_all_is_well_is_ready() -> None:
    assert view_of(make_scene().sender).readyz()["ready"] is True


@pytest.mark.parametrize("last_commit_error", ["", "no answer in time"])
def test_a_worker_whose_heartbeats_go_unanswered_is_not_ready_and_says_that_it_makes_no_calls(
    last_commit_error: str,
) -> None:
    answer = view_of(make_scene(may_write=lambda: False).sender, last_commit_error=last_commit_error).readyz()

    assert answer["ready"] is False
    assert answer["kafka"]["state"] == "no_heartbeat"
    assert answer["kafka"]["reason"] == "no_heartbeat"
    assert "none is started" in answer["kafka"]["text"]


def test_a_worker_that_has_not_joined_yet_does_not_miss_heartbeats() -> None:
    answer = view_of(make_scene(may_write=lambda: False).sender, has_joined=False).readyz()

    assert answer["kafka"]["state"] == "joining"


def test_a_paused_site_is_not_ready_and_says_since_when_and_whom_to_ask() -> None:
    scene = make_scene()
    scene.sender.pause()
    view = view_of(scene.sender, pauses={"main": Pause(1_700_000_000.0, Who("anna", "their maintenance"))})
    answer = view.readyz()
    assert answer["ready"] is False
    part = answer["site:main"]
    assert (part["state"], part["reason"], part["since"]) == ("paused", "paused", "2023-11-14T22:13:20Z")
    assert (part["by"], part["why"]) == ("anna", "their maintenance")
    assert "Ask anna" in part["remedy"]
    assert view.status()["gates"]["main"]["state"] == "paused"


async def test_a_site_that_is_stopped_and_paused_says_both() -> None:
    scene = make_scene(reply(400093))
    await scene.once(scene.delivery("u1"))
    scene.sender.pause()
    part = view_of(scene.sender, pauses={"main": Pause(1_700_000_000.0, Who())}).readyz()["site:main"]
    assert part["state"] == "stopped"
    assert part["paused"]["since"] == "2023-11-14T22:13:20Z"


def test_livez_fails_with_what_the_watchdog_found() -> None:
    assert view_of(make_scene().sender).livez() == (True, "ok")
    assert view_of(make_scene().sender, trouble="stuck: 3 records").livez() == (False, "stuck: 3 records")


async def test_the_status_tells_that_the_days_limit_is_reached() -> None:
    scene = make_scene(lambda _: reply(403048), quota_per_s=50.0)
    scene.start()
    scene.add(*(f"u{number}" for number in range(20)))
    await scene.advance(600.0, step_s=1.0)
    await scene.stop()

    assert view_of(scene.sender).status()["gates"]["main"]["quota"] == "exhausted"


async def test_a_host_that_is_away_alone_is_named_and_makes_the_site_unready() -> None:
    scene = make_scene(lambda request: BAD_GATEWAY if request.method.startswith("socialize") else OK)
    for number in range(5):
        await scene.once(scene.delivery(f"p{number}", method=PUBLISH_USER_ACTION))
        await scene.once(scene.delivery(f"u{number}"))
    answer = view_of(scene.sender).readyz()
    part = answer["site:main"]
    assert (answer["ready"], part["state"], part["hosts"]) == (False, "outage", ["socialize"])
    assert part["remedy"]
    assert view_of(scene.sender).status()["gates"]["main"]["hosts"] == ["socialize"]
