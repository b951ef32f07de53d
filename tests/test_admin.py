"""The admin port: four pages, nothing else, and a bug in a page stays in that page."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest
from structlog.testing import capture_logs

from worker.admin import AdminServer, AdminSettings
from worker.errors import StartFailed
from worker.model import Json, TopicPartition


class Seen:
    """A View whose answers a test sets."""

    def __init__(self) -> None:
        self.alive = True
        self.ready: dict[str, Json] = {"ready": True, "kafka": {"state": "ok"}}

    def livez(self) -> tuple[bool, str]:
        return self.alive, "running" if self.alive else "the engine has not moved for 60 s"

    def readyz(self) -> Mapping[str, Json]:
        return self.ready

    def status(self) -> Mapping[str, Json]:
        return {"assigned": [TopicPartition("user-events", 3)], "lag": {"user-events/3": 7}}

    def metrics(self) -> bytes:
        return b"# HELP x y\nx 1\n"


class Heard:
    """A Control that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def pause(self, site: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        self.told.append(("pause", site, by, why))
        return 200, {"paused": ["main"]}

    def resume(self, site: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        self.told.append(("resume", site, by, why))
        return 200, {}

    async def park(self, record: str, by: str, why: str) -> tuple[int, Mapping[str, Json]]:
        self.told.append(("park", record, by, why))
        return 404, {"state": "not_ours"}


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, Seen]]:
    view = Seen()
    admin = AdminServer(AdminSettings(), view)
    port = await admin.start(port=0)
    yield f"http://127.0.0.1:{port}", view
    await admin.stop()


async def get(url: str, *, method: str = "GET") -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_livez_says_yes_or_why_not(server: tuple[str, Seen]) -> None:
    url, view = server
    assert (await get(f"{url}/livez"))[::2] == (200, "running\n")
    view.alive = False
    assert (await get(f"{url}/livez"))[::2] == (503, "the engine has not moved for 60 s\n")


async def test_readyz_is_503_unless_ready_is_exactly_true(server: tuple[str, Seen]) -> None:
    url, view = server
    assert (await get(f"{url}/readyz"))[0] == 200
    view.ready = {"ready": False, "site:main": {"state": "stopped", "remedy": "check the secret"}}
    status, kind, text = await get(f"{url}/readyz")
    assert status == 503
    assert kind.startswith("application/json")
    assert "check the secret" in text
    view.ready = {}
    assert (await get(f"{url}/readyz"))[0] == 503


async def test_status_writes_a_partition_the_way_logs_do(server: tuple[str, Seen]) -> None:
    assert '"user-events/3"' in (await get(f"{server[0]}/status"))[2]


async def test_metrics_are_prometheus_text(server: tuple[str, Seen]) -> None:
    assert (await get(f"{server[0]}/metrics")) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        "# HELP x y\nx 1\n",
    )


@pytest.mark.parametrize("path", ["livez", "readyz", "metrics", "status", "pause", "resume", "park"])
async def test_a_post_is_not_allowed(server: tuple[str, Seen], path: str) -> None:
    status, _, text = await get(f"{server[0]}/{path}", method="POST")
    assert status == 405
    assert "Method Not Allowed" in text


async def test_an_unknown_page_is_404(server: tuple[str, Seen]) -> None:
    assert (await get(f"{server[0]}/backfill"))[0] == 404


async def test_a_bug_in_a_page_is_500_without_its_text_and_the_others_go_on(
    server: tuple[str, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, view = server

    def broken() -> Mapping[str, Json]:
        raise KeyError("uid-4711")

    monkeypatch.setattr(view, "status", broken)
    status, _, text = await get(f"{url}/status")
    assert status == 500
    assert "4711" not in text
    assert (await get(f"{url}/livez"))[0] == 200


async def test_port_0_in_the_settings_switches_it_off() -> None:
    admin = AdminServer(AdminSettings(port=0), Seen())
    assert await admin.start() == 0
    await admin.stop()


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        admin = AdminServer(AdminSettings(), Seen())
        with pytest.raises(StartFailed, match=r"is taken by another process; set admin\.port"):
            await admin.start(port=taken.getsockname()[1])


async def test_an_address_of_another_machine_is_one_clear_line() -> None:
    admin = AdminServer(AdminSettings(host="192.0.2.1"), Seen())
    with pytest.raises(StartFailed, match=r"is not an address of this machine; set admin\.host"):
        await admin.start(port=0)


def test_the_token_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(AdminSettings.model_validate({"token": "hunter2"}))


# --- what is told by POST -------------------------------------------------------------------------------------------

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def told() -> AsyncIterator[tuple[str, Heard]]:
    control = Heard()
    admin = AdminServer(AdminSettings.model_validate({"token": TOKEN}), Seen(), control)
    port = await admin.start(port=0)
    yield f"http://127.0.0.1:{port}", control
    await admin.stop()


async def post(url: str, body: bytes = b"", headers: Mapping[str, str] = BEARER) -> tuple[int, dict[str, Json]]:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def test_a_post_with_the_token_is_carried_out_and_answered_in_json(told: tuple[str, Heard]) -> None:
    url, control = told
    assert await post(f"{url}/pause", b'{"site": "main", "by": "anna", "why": "x"}') == (200, {"paused": ["main"]})
    assert await post(f"{url}/park", b'{"record": "user-events/3/17"}') == (404, {"state": "not_ours"})
    await post(f"{url}/resume")
    assert control.told == [
        ("pause", "main", "anna", "x"),
        ("park", "user-events/3/17", "", ""),
        ("resume", "", "", ""),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN.upper()}",
    ],
)
@pytest.mark.parametrize("path", ["pause", "resume", "park"])
async def test_without_the_right_token_nothing_is_done(told: tuple[str, Heard], path: str, header: str) -> None:
    url, control = told
    status, answer = await post(f"{url}/{path}", b"{}", {"Authorization": header} if header else {})
    assert status == 401
    assert TOKEN not in str(answer)
    assert not control.told


async def test_a_refusal_is_logged_once_for_a_flood_of_them_and_without_what_was_sent(told: tuple[str, Heard]) -> None:
    with capture_logs() as lines:
        for _ in range(20):
            await post(f"{told[0]}/park", b"{}", {"Authorization": "Bearer guess-4711"})
    assert [line["event"] for line in lines] == ["admin.refused"]
    assert "4711" not in str(lines)


@pytest.mark.parametrize("token", [None, ""])
async def test_without_a_token_in_the_settings_no_post_is_taken_whatever_it_carries(token: str | None) -> None:
    control = Heard()
    admin = AdminServer(AdminSettings.model_validate({"token": token}), Seen(), control)
    url = f"http://127.0.0.1:{await admin.start(port=0)}"
    for header in ("Bearer ", "Bearer", "Bearer None", ""):
        status, answer = await post(f"{url}/pause", b"{}", {"Authorization": header})
        assert status == 405
        assert "admin.token" in str(answer["remedy"])
    assert not control.told
    await admin.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"main"',
        b'{"site": 1}',
        b'{"site": null}',
        b'{"sites": "main"}',
        b'{"record": "user-events/0/1"}',
        b'{"site": "ma\\nin"}',
        b'{"by": "\\u0000"}',
        b'{"why": "\\u202e"}',
        b"\xff\xfe",
        b'{"by": "' + b"x" * 101 + b'"}',
        b'{"why": "' + b"x" * 301 + b'"}',
    ],
)
async def test_a_body_that_is_not_what_is_taken_is_refused_and_changes_nothing(
    told: tuple[str, Heard], body: bytes
) -> None:
    url, control = told
    status, answer = await post(f"{url}/pause", body)
    assert status == 400
    assert answer["takes"] == ["by", "site", "why"]
    assert not control.told


async def test_a_large_body_is_refused(told: tuple[str, Heard]) -> None:
    url, control = told
    assert (await post(f"{url}/pause", b'{"why": "' + b"x" * 100_000 + b'"}'))[0] == 413
    assert not control.told


async def test_a_body_that_does_not_come_is_not_waited_for_without_end(
    told: tuple[str, Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.admin._BODY_LIMIT_S", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(2)

    post_slowly = {"data": slowly(), "headers": BEARER}
    async with aiohttp.ClientSession() as session, session.post(f"{told[0]}/pause", **post_slowly) as answer:
        assert answer.status == 408
    assert not told[1].told


async def test_a_get_of_what_is_told_by_post_is_not_allowed(told: tuple[str, Heard]) -> None:
    assert (await get(f"{told[0]}/pause"))[0] == 405
    assert not told[1].told
