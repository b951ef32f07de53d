"""The local Gigya as a process with `--tls`: what it prints is all that a client needs, for each site and each mode."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from worker.sandbox.gigya_config import GigyaConfig
from worker.sandbox.gigya_keys import public_key_of
from worker.sandbox.gigya_tls import Secured

TWO_SITES = GigyaConfig.model_validate({"sites": {"one": {"api_key": "3_1"}, "two": {"api_key": "3_2"}}})


def test_two_sites_whose_user_keys_have_one_name_have_their_own_key_pairs(tmp_path: Path) -> None:
    secured = Secured.begin(TWO_SITES, tmp_path)
    assert set(secured.private_keys) == {("one", "AKlocal"), ("two", "AKlocal")}
    assert len(set(secured.private_keys.values())) == 2
    shown = secured.shown({"sites": {"one": {"user_key": "AKlocal"}, "two": {"user_key": "AKlocal"}}})
    sites = shown["sites"]
    assert isinstance(sites, dict)
    assert [sites[name]["private_key"] for name in ("one", "two")] == list(secured.private_keys.values())  # type: ignore[index,call-overload]


def test_a_key_pair_that_was_given_is_kept(tmp_path: Path) -> None:
    first = Secured.begin(TWO_SITES, tmp_path / "a")
    again = Secured.begin(first.config, tmp_path / "b")
    assert again.config == first.config
    assert not again.private_keys


def test_the_servers_own_private_key_is_for_its_owner_and_nothing_is_shown(tmp_path: Path) -> None:
    secured = Secured.begin(TWO_SITES, tmp_path)
    assert stat.S_IMODE(secured.cert_file.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(secured)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_as_a_process_it_is_reached_over_tls_by_name_and_by_address(host: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.sandbox.gigya", "--tls"), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert told["base_url"].startswith("https://127.0.0.1:")
        assert told["sites"]["main"]["private_key"].startswith("-----BEGIN PRIVATE KEY-----")
        trusted = ssl.create_default_context(cafile=told["ca_file"])
        url = told["control_url"].replace("127.0.0.1", host)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}health", ssl=trusted) as answer:
                assert (await answer.json())["ok"]
            async with session.get(f"{url}sites", ssl=trusted) as answer:
                (pem,) = (await answer.json())["main"]["keys"]["AKlocal"]["public_keys"]
            assert public_key_of(pem).key_size == 2048
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"{url}health")
    finally:
        process.terminate()
        assert await process.wait() == 0
    assert not os.path.lexists(told["ca_file"])  # noqa: ASYNC240 - once, at the end
