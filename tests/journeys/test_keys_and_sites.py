"""Keys that are rotated under load, over TLS with bearer tokens; two sites, one of which is stopped in the middle."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import Execution, executed_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess, until
from worker.sandbox.events import DEMO_RULES, stream
from worker.sandbox.gigya_keys import KeyPair, new_key_pair

pytestmark = pytest.mark.broker

AT_ONCE = {"delivery": {"max_in_flight": 40}}


class KeyVolume:
    """A folder with a private key, as Kubernetes mounts a secret: links, swapped in one step."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._number = 0
        self.file = folder / "key.pem"
        self.file.symlink_to("..data/key.pem")

    def swap(self, pair: KeyPair) -> None:
        self._number += 1
        data = self._folder / f"..{self._number}"
        data.mkdir()
        (data / "key.pem").write_text(pair.private_key)
        link = self._folder / "..data_tmp"
        link.symlink_to(data.name)
        os.replace(link, self._folder / "..data")


async def accept(journey: Journey, *pairs: KeyPair) -> None:
    """Let the site accept tokens of these key pairs, and no others."""
    user_key = journey.gigya.site["user_key"]
    keys = {user_key: {"public_keys": [pair.public_key for pair in pairs]}}
    await journey.gigya.control("PATCH", "sites/main", {"keys": keys})


async def rotations(worker: WorkerProcess, count: int) -> None:
    async def has_rotated() -> bool:
        return await worker.metric("gigya_worker_key_rotations_total") >= count

    await until(f"{count} rotations", has_rotated, limit_s=20)


async def everything_arrived_once(journey: Journey, worker: WorkerProcess) -> None:
    await journey.all_done()
    assert await worker.stopped() == 0, worker.tail()
    executions = await journey.executions()
    assert executed_calls(executions) == journey.expected
    for name in journey.gigya.sites:  # one user's calls to two sites have no order among them
        of_site = [Execution.of(line) for line in await journey.gigya.control("GET", f"ledger?site={name}")]
        assert out_of_order(of_site) == []
    assert repeated(executions) == {}
    assert await journey.dead_letters() == []


@pytest.mark.timeout(120)
async def test_a_key_is_rotated_under_load_with_both_good_and_then_with_the_old_one_gone_first(
    begin: Begin, tmp_path: Path
):
    pairs = [new_key_pair() for _ in range(3)]
    volume = KeyVolume(tmp_path / "volume")
    volume.swap(pairs[0])
    async with begin(partitions=4, gigya={"latency": {"ms": 20}}, tls=True) as journey:
        lines = (line for pair in pairs for line in pair.private_key.splitlines())
        journey.secrets = {line for line in lines if "-----" not in line} | {"Bearer ", "eyJ"}
        await accept(journey, pairs[0])
        await journey.append(stream(7, count=9_000, users=300, share_matching=0.5, share_bad=0.0))
        auth = {"mode": "jwt", "user_key": journey.gigya.site["user_key"], "private_key_file": str(volume.file)}
        site = {"ca_file": journey.gigya.ca_file, "auth": auth, "quota_per_s": 150}
        worker = journey.start("worker", site=site, **AT_ONCE)
        await journey.executed_at_least(200)

        await accept(journey, pairs[0], pairs[1])
        volume.swap(pairs[1])
        await rotations(worker, 1)
        await accept(journey, pairs[1])
        assert (await worker.readiness())[0] == 200
        codes = (await journey.gigya.stats())["codes"]["main"]
        assert set(codes) == {"0"}, codes
        assert await journey.gigya.executed_count() < len(journey.expected), "over too soon to show anything"

        await accept(journey, pairs[2])

        async def is_stopped() -> bool:
            status, parts = await worker.readiness()
            return status == 503 and parts["site:main"]["state"] == "stopped"

        await until("the site is stopped", is_stopped)
        volume.swap(pairs[2])
        worker.signal(signal.SIGHUP)
        await rotations(worker, 2)
        await journey.ready(worker, limit_s=5)

        await everything_arrived_once(journey, worker)
        codes = (await journey.gigya.stats())["codes"]["main"]
        tell(f"answers by code: {codes}")
        assert set(codes) <= {"0", "400008"}


@pytest.mark.timeout(120)
async def test_of_two_sites_one_is_stopped_in_the_middle_and_the_other_goes_on(begin: Begin):
    sites = {"main": {"api_key": "3_main"}, "south": {"api_key": "3_south"}}
    # Episodes are told to one site, everything else to the other.
    rules = re.sub(r"^  - name: (?=episode)", "  - site: main\n    name: ", DEMO_RULES, flags=re.MULTILINE)
    rules = re.sub(r"^  - name: ", "  - site: south\n    name: ", rules, flags=re.MULTILINE)
    async with begin(partitions=4, gigya={"latency": {"ms": 10}, "sites": sites}, tls=True) as journey:
        await journey.append(stream(11, count=6_000, users=300, share_matching=0.6, share_bad=0.0))
        worker = journey.start("worker", sites=both_sites(journey), rules=rules, **AT_ONCE)
        await journey.executed_at_least(150)
        south = journey.gigya.sites["south"]
        await journey.gigya.control("POST", "revoke", {"site": "south", "user_key": south["user_key"], "code": 403010})

        async def parts() -> dict[str, str]:
            _, found = await worker.readiness()
            return {name: part["state"] for name, part in found.items() if name.startswith("site:")}

        async def is_stopped() -> bool:
            return await parts() == {"site:main": "open", "site:south": "stopped"}

        await until("one site is stopped", is_stopped)
        before = await executed_by_site(journey)

        async def main_goes_on() -> bool:
            return (await executed_by_site(journey))["main"] >= before["main"] + 200

        await until("the other goes on", main_goes_on)
        assert (await executed_by_site(journey))["south"] <= before["south"] + 40, "what was in flight, and no more"
        assert await parts() == {"site:main": "open", "site:south": "stopped"}
        await journey.gigya.control("POST", "restore", {"site": "south", "user_key": south["user_key"]})

        await everything_arrived_once(journey, worker)
        tell(f"executed by site: {await executed_by_site(journey)}")


def both_sites(journey: Journey) -> dict[str, dict[str, object]]:
    """Return the settings of two sites, each in a mode of its own."""
    north, south = journey.gigya.sites["main"], journey.gigya.sites["south"]
    common = {"base_url": journey.gigya.base_url, "ca_file": journey.gigya.ca_file, "quota_per_s": 100}
    jwt = {"mode": "jwt", "user_key": north["user_key"], "private_key": north["private_key"]}
    secret = {"mode": "secret", "user_key": south["user_key"], "secret": south["secret"]}
    return {
        "main": {**common, "api_key": north["api_key"], "auth": jwt},
        "south": {**common, "api_key": south["api_key"], "auth": secret},
    }


async def executed_by_site(journey: Journey) -> dict[str, int]:
    lines = await journey.gigya.control("GET", "ledger")
    sites = [line["site"] for line in lines]
    return {name: sites.count(name) for name in ("main", "south")}
