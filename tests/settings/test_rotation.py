"""Keys that change under a running worker: taken over by content, checked first, never half, and told of."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from worker import logs
from worker import watch as watch_module
from worker.clock import SystemClock
from worker.gigya.authorization import AnyCredentials, JwtCredentials, SecretCredentials
from worker.gigya.signing import Credentials, decode_secret
from worker.metrics import Metrics
from worker.settings import rotation
from worker.settings.rotation import KeyWatch, other_changes
from worker.settings.site_files import credentials_of
from worker.settings.tree import load

FIRST, SECOND = "Zmlyc3QtZmlyc3QtZmlyc3Q=", "c2Vjb25kLXNlY29uZC1zZWM="


def new_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


PEMS = [new_pem(), new_pem()]
SETTINGS = f"""\
kafka: {{bootstrap_servers: "localhost:9092", group_id: g, topics: [t], dead_letter_topic: t.dead}}
sites:
  main:
    data_center: eu1
    api_key: 3_main
    auth: {{mode: signed, user_key: AKmain}}
  tokens:
    data_center: eu1
    api_key: 3_tokens
    auth: {{mode: jwt, user_key: AKtokens, private_key_file: key.pem}}
  inline:
    data_center: eu1
    api_key: 3_inline
    auth: {{mode: secret, user_key: AKinline, secret: {FIRST}}}
"""


class User:
    """Somebody who uses a site's key."""

    def __init__(self) -> None:
        self.keys: list[AnyCredentials] = []

    def rotate(self, credentials: AnyCredentials) -> None:
        self.keys.append(credentials)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.users = {name: User() for name in ("main", "tokens", "inline")}
        self.metrics = Metrics()
        self.stream = io.BytesIO()
        self.look_now: Callable[[], None] = lambda: None

    def write(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def swap_secrets(self, number: int, secret: str) -> None:
        """Do what Kubernetes does: a new folder, and a link that is replaced in one step."""
        data = self.secrets / f"..data_{number}"
        data.mkdir()
        (data / "worker_sites__main__auth__secret").write_text(secret + "\n")
        link = self.secrets / "..data_tmp"
        link.symlink_to(data.name)
        os.replace(link, self.secrets / "..data")
        visible = self.secrets / "worker_sites__main__auth__secret"
        if not visible.is_symlink():
            visible.symlink_to("..data/worker_sites__main__auth__secret")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in files, threads and metrics
                await asyncio.sleep(0.01)

    async def some_looks(self) -> None:
        await asyncio.sleep(0.15)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gigya_worker_{name}", labels) or 0.0

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(watch_module, "SETTLE_S", 0.02)
    made = Scene(tmp_path)
    made.secrets.mkdir()
    made.swap_secrets(1, FIRST)
    made.write("key.pem", PEMS[0])
    made.write("worker.yaml", SETTINGS)
    logs.configure(stream=made.stream, readable=False)
    async with watched(made):
        yield made


@asynccontextmanager
async def watched(scene: Scene) -> AsyncIterator[KeyWatch]:
    environ = {"WORKER_SECRETS_DIR": str(scene.secrets)}
    path = scene.folder / "worker.yaml"
    loaded = load(path, environ=environ)
    credentials = {name: credentials_of(site) for name, site in loaded.settings.sites.items()}
    watch = KeyWatch(
        loaded, credentials, lambda: load(path, environ=environ), clock=SystemClock(), metrics=scene.metrics
    )
    scene.look_now = watch.look_now
    task = asyncio.create_task(watch.run(scene.users))
    try:
        yield watch
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_secret_whose_link_kubernetes_swaps_is_taken_over_by_its_site_alone(scene: Scene) -> None:
    await scene.some_looks()
    assert not any(user.keys for user in scene.users.values())
    scene.swap_secrets(2, SECOND)
    await scene.until(lambda: bool(scene.users["main"].keys))
    await scene.some_looks()
    assert scene.users["main"].keys == [Credentials("3_main", "AKmain", decode_secret(SECOND))]
    assert not scene.users["tokens"].keys
    assert not scene.users["inline"].keys
    assert scene.metric("key_rotations_total", site="main") == 1
    assert [line["site"] for line in scene.lines("key.rotated")] == ["main"]


async def test_a_key_that_changed_while_the_worker_started_is_taken_over(scene: Scene) -> None:
    environ = {"WORKER_SECRETS_DIR": str(scene.secrets)}
    loaded = load(scene.folder / "worker.yaml", environ=environ)
    credentials = {name: credentials_of(site) for name, site in loaded.settings.sites.items()}
    scene.swap_secrets(2, SECOND)
    late = KeyWatch(
        loaded,
        credentials,
        lambda: load(scene.folder / "worker.yaml", environ=environ),
        clock=SystemClock(),
        metrics=Metrics(),
    )
    users = {"main": User()}
    task = asyncio.create_task(late.run(users))
    await scene.until(lambda: bool(users["main"].keys))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert users["main"].keys == [Credentials("3_main", "AKmain", decode_secret(SECOND))]


async def test_a_private_key_file_is_taken_over_when_its_content_changes(scene: Scene) -> None:
    scene.write("key.pem", PEMS[1].replace("\n", "\\n"))
    await scene.until(lambda: bool(scene.users["tokens"].keys))
    assert scene.users["tokens"].keys == [JwtCredentials.of("3_tokens", "AKtokens", PEMS[1])]


async def test_a_key_in_the_settings_file_is_taken_over(scene: Scene) -> None:
    scene.write("worker.yaml", SETTINGS.replace(FIRST, SECOND))
    await scene.until(lambda: bool(scene.users["inline"].keys))
    assert scene.users["inline"].keys == [SecretCredentials("3_inline", "AKinline", SECOND)]


async def test_a_file_that_was_touched_and_says_the_same_changes_nothing(scene: Scene) -> None:
    scene.swap_secrets(2, FIRST)
    scene.write("key.pem", PEMS[0])
    await scene.some_looks()
    assert not any(user.keys for user in scene.users.values())
    assert not scene.stream.getvalue()


async def test_a_user_key_and_its_secret_change_together(scene: Scene) -> None:
    changed = SETTINGS.replace("AKinline", "AKother").replace(FIRST, SECOND)
    scene.write("worker.yaml", changed)
    await scene.until(lambda: bool(scene.users["inline"].keys))
    assert scene.users["inline"].keys == [SecretCredentials("3_inline", "AKother", SECOND)]


async def test_a_site_may_change_its_mode(scene: Scene) -> None:
    scene.write("worker.yaml", SETTINGS.replace("mode: secret", "mode: signed"))
    await scene.until(lambda: bool(scene.users["inline"].keys))
    assert scene.users["inline"].keys == [Credentials("3_inline", "AKinline", decode_secret(FIRST))]


@pytest.mark.parametrize(
    "bad", [PEMS[1][:700], "", "not a key", b"\x30\x82\x00", PEMS[1].replace("PRIVATE", "PUBLIC")], ids=range(5)
)
async def test_a_bad_key_is_refused_loudly_and_the_old_one_stays(scene: Scene, bad: str | bytes) -> None:
    scene.write("key.pem", bad)
    await scene.until(lambda: scene.metric("keys_refused") == 1)
    await scene.some_looks()
    assert not scene.users["tokens"].keys
    assert scene.metric("key_rotations_refused_total") == 1, "once for each content, not at each look"
    (line,) = scene.lines("keys.refused")
    assert line["level"] == "error"
    assert "sites.tokens.auth.private_key_file" in line["problems"][0]
    parts = [part[:20].encode() for pem in PEMS for part in pem.splitlines()[1:-1]]
    assert not [part for part in parts if part in scene.stream.getvalue()]
    scene.write("key.pem", PEMS[1])
    await scene.until(lambda: bool(scene.users["tokens"].keys))
    assert scene.metric("keys_refused") == 0


async def test_a_file_that_goes_for_a_moment_while_it_is_replaced_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "SETTLE_S", 0.4)
    (scene.folder / "key.pem").unlink()
    await asyncio.sleep(0.1)
    scene.write("key.pem", PEMS[1])
    await scene.until(lambda: bool(scene.users["tokens"].keys))
    assert not scene.lines("keys.refused")


async def test_a_file_that_is_named_before_it_is_there_is_found_when_it_comes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "RETRY_EVERY_S", 0.1)
    scene.write("worker.yaml", SETTINGS.replace("key.pem", "next.pem"))
    await scene.until(lambda: scene.metric("keys_refused") == 1)
    await asyncio.sleep(0.6)
    assert len(scene.lines("keys.refused")) == 1, "said once, however often it is tried"
    scene.write("next.pem", PEMS[1])
    await scene.until(lambda: bool(scene.users["tokens"].keys))
    assert scene.metric("keys_refused") == 0


async def test_another_sites_credentials_are_not_taken_by_the_second_look_either(scene: Scene) -> None:
    moved = SETTINGS.replace("api_key: 3_inline", "api_key: 3_moved")
    scene.write("worker.yaml", moved)
    await scene.until(lambda: len(scene.lines("settings.wait_for_restart")) == 1)
    scene.swap_secrets(2, SECOND)
    scene.write("worker.yaml", moved.replace(FIRST, SECOND))
    await scene.until(lambda: bool(scene.users["main"].keys))
    await scene.some_looks()
    assert not scene.users["inline"].keys
    assert len(scene.lines("settings.wait_for_restart")) == 1, "said once"


async def test_whatever_else_changed_is_told_and_waits_for_a_restart(scene: Scene) -> None:
    changed = SETTINGS.replace(FIRST, SECOND).replace("group_id: g,", "group_id: other,")
    scene.write("worker.yaml", changed.replace("api_key: 3_tokens", "api_key: 3_moved"))
    await scene.until(lambda: bool(scene.lines("settings.wait_for_restart")))
    (line,) = scene.lines("settings.wait_for_restart")
    assert line["settings"] == ["kafka.group_id", "sites.tokens.api_key"]
    assert scene.users["inline"].keys
    assert not scene.users["tokens"].keys, "credentials of another site are not for the address in use"


async def test_being_asked_to_look_reads_at_once_and_says_so_when_nothing_changed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LOOK_EVERY_S", 3600.0)
    monkeypatch.setattr(watch_module, "SETTLE_S", 3600.0)
    await scene.some_looks()
    scene.look_now()
    await scene.until(lambda: bool(scene.lines("keys.unchanged")))
    scene.swap_secrets(2, SECOND)
    scene.look_now()
    await scene.until(lambda: bool(scene.users["main"].keys))


async def test_a_new_key_is_hidden_in_logs_from_the_moment_it_is_known(scene: Scene) -> None:
    scene.swap_secrets(2, SECOND)
    scene.write("key.pem", PEMS[1])
    await scene.until(lambda: bool(scene.users["main"].keys and scene.users["tokens"].keys))
    part = PEMS[1].splitlines()[5]
    rotation.log.info("somebody.talks", said=f"it was {SECOND} and {part}")
    assert scene.lines("somebody.talks")[0]["said"] == "it was *** and ***"


async def test_other_changes_are_those_outside_of_auth(scene: Scene) -> None:
    environ = {"WORKER_SECRETS_DIR": str(scene.secrets)}
    before = load(scene.folder / "worker.yaml", environ=environ).settings
    scene.write("worker.yaml", SETTINGS.replace(FIRST, SECOND).replace("  inline:", "  renamed:"))
    now = load(scene.folder / "worker.yaml", environ=environ).settings
    assert other_changes(before, before) == []
    assert {path.split(".")[1] for path in other_changes(before, now)} == {"inline", "renamed"}
