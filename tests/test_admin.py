"""The admin port: four pages, nothing else, and a bug in a page stays in that page."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

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


@pytest.mark.parametrize("path", ["livez", "readyz", "metrics", "status"])
async def test_a_post_is_not_allowed(server: tuple[str, Seen], path: str) -> None:
    status, _, text = await get(f"{server[0]}/{path}", method="POST")
    assert status == 405
    assert "Method Not Allowed" in text


async def test_an_unknown_page_is_404(server: tuple[str, Seen]) -> None:
    assert (await get(f"{server[0]}/pause"))[0] == 404


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
