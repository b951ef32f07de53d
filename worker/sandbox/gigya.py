"""A local Gigya: another company's server, for demos, tests and benchmarks. Shares no code with the worker.

In a test: `async with LocalGigya(config) as gigya: ... gigya.base_url, gigya.inject(...), gigya.ledger`.
As a process of its own: `python -m worker.sandbox.gigya --port 0 --config gigya.json` prints one line of JSON with the
address and the credentials, and runs until SIGTERM, SIGINT, or the end of the process that started it. With `--tls` it
makes certificates for this machine, and a key pair for each user key without one, and the line tells `ca_file` and
`private_key`: all three ways to prove who calls are open then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import ssl
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from worker.sandbox.gigya_answers import envelope
from worker.sandbox.gigya_config import Fault, GigyaConfig, Json
from worker.sandbox.gigya_control import PREFIX, Control
from worker.sandbox.gigya_engine import Answer, Engine
from worker.sandbox.gigya_signature import Malformed
from worker.sandbox.gigya_wire import read, unreadable, write

if TYPE_CHECKING:
    from worker.sandbox.gigya_tls import Secured

__all__ = ["Fault", "GigyaConfig", "LocalGigya"]

_MAX_LINE_BYTES = 1 << 17  # a GET carries every parameter in the request line
_PARENT_CHECK_S = 0.25
_STALL_CHECK_S = 0.005


class LocalGigya(Engine):
    """An Engine that listens. Start it once; `stop` then `start` with the same port brings it back with its memory."""

    base_url = ""
    _runner: web.ServerRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> str:
        """Listen, and return the base URL: POST to `<base_url>/gm.notifyAction`. Port 0 takes a free one."""
        self._control = Control(self)
        server = web.Server(
            self._serve,
            handler_cancellation=True,  # a time-out fault ends when its client hangs up
            keepalive_timeout=self.config.keep_alive_s,
            access_log=None,
            max_line_size=_MAX_LINE_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        try:
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        address = runner.addresses[0]
        self.base_url = f"{'https' if tls else 'http'}://{host}:{address[1]}"
        return self.base_url

    async def stop(self) -> None:
        """Stop listening and close every connection; what hangs is cancelled. Does nothing when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self.abandon()

    async def __aenter__(self) -> LocalGigya:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        if http.raw_path.startswith(PREFIX):
            return await self._control.serve(http)
        problem = ""
        try:
            incoming = await read(http, trust_forwarded_proto=self.config.trust_forwarded_proto)
        except Malformed as error:
            incoming, problem = unreadable(http), str(error)
        site = self.site_of(incoming)
        arrival = self.arrive(incoming, site)
        outcome = "none"
        try:
            if problem:
                self.ledger.decide(arrival, 400001)
                answer = Answer(envelope(400001, f"Invalid request format : {problem}", arrival.call_id, self.now_s()))
            else:
                answer = await self.answer(incoming, site, arrival)
            response = await write(http, incoming, answer, now_s=self.now_s(), may_compress=self.config.gzip)
            outcome = "sent"
            return response
        finally:
            self.ledger.leave(arrival, outcome)


def main(arguments: list[str] | None = None) -> int:
    """Run a local Gigya as a process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox.gigya", description="A local Gigya for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--config", type=Path, help="a JSON file; without it: one site, everything allowed")
    parser.add_argument("--tls", action="store_true", help="HTTPS, with certificates made for this run")
    parser.add_argument("--folder", type=Path, help="where certificates and keys go (default: one that goes again)")
    parser.add_argument("--stay", action="store_true", help="go on when the process that started this one ends")
    chosen = parser.parse_args(arguments)
    try:
        config = GigyaConfig.model_validate_json(chosen.config.read_bytes()) if chosen.config else GigyaConfig()
    except (OSError, ValueError) as error:
        print(f"{chosen.config}: {error}", file=sys.stderr)
        return 1
    parent = None if chosen.stay else os.getppid()
    _collect_rarely()
    try:
        with contextlib.ExitStack() as folders, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            secured = None
            if chosen.tls:
                from worker.sandbox.gigya_tls import Secured

                folder = chosen.folder or Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="gigya-")))
                secured = Secured.begin(config, folder, chosen.host)
            runner.run(
                _run(LocalGigya(secured.config if secured else config), chosen.host, chosen.port, parent, secured)
            )
    except OSError as error:
        print(f"cannot listen on {chosen.host}:{chosen.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _collect_rarely() -> None:
    """Let full collections of garbage be rare: what happened is kept, and each would look through all of it.

    After half an hour of 200 calls/s that stopped every request for a second, on a busy machine for six.
    """
    gc.set_threshold(700, 10, 10_000)


def credentials(gigya: LocalGigya) -> dict[str, Json]:
    """Return what a client needs: the address, and for each site its keys."""
    sites: dict[str, Json] = {}
    for name, site in gigya.sites.items():
        user_key, key = next(iter(site.settings.keys.items()), ("", None))
        sites[name] = {
            "api_key": site.settings.api_key,
            "user_key": user_key,
            "secret": key.secrets[0] if key and key.secrets else "",
            "quota_per_s": site.settings.quota.per_s,
        }
    return {"base_url": gigya.base_url, "control_url": f"{gigya.base_url}{PREFIX}", "pid": os.getpid(), "sites": sites}


async def _run(gigya: LocalGigya, host: str, port: int, parent: int | None, secured: Secured | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await gigya.start(host, port, tls=secured.context() if secured else None)
    shown = credentials(gigya)
    print(orjson.dumps(secured.shown(shown) if secured else shown).decode(), flush=True)
    watch = asyncio.create_task(_note_stalls(gigya))
    try:
        await _until(ended, parent)
    finally:
        watch.cancel()
        await gigya.stop()


async def _note_stalls(gigya: LocalGigya) -> None:
    """Note when this process did not get to run: what arrives in such a time seems to arrive at once after it."""
    while True:
        asleep_s = gigya.machine_s()
        await asyncio.sleep(_STALL_CHECK_S)
        awake_s = gigya.machine_s()
        gigya.ledger.stall(awake_s, awake_s - asleep_s - _STALL_CHECK_S)


async def _until(ended: asyncio.Event, parent: int | None) -> None:
    """Wait for a signal, or for the parent to end: an orphan gets another parent.

    The kernel's own notice (PR_SET_PDEATHSIG) is tied to the thread that started us, which may well end earlier.
    """
    while not ended.is_set() and (parent is None or os.getppid() == parent):
        try:
            await asyncio.wait_for(ended.wait(), None if parent is None else _PARENT_CHECK_S)
        except TimeoutError:
            continue


def _loop_factory() -> Any:
    """Return uvloop's where there is one: twice as many requests a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
