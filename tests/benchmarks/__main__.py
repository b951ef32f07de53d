"""`make bench`: figures on a real broker, with the settings of `run`. No figure unless the books balance.

The broker is started here, or is the one that KAFKA_BOOTSTRAP names. Two cores are enough; other work on the machine
spoils wall times and, through shared caches, CPU times: hence several runs, and their spread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.baselines import compared
from tests.benchmarks.benches import BENCHES
from tests.benchmarks.figures import Bench, Result
from tests.benchmarks.rig import Rig, Unbalanced, machine, rig
from worker.sandbox.broker import BrokerUnavailable, LocalKafka

RUNS = 3
OK, NO_FIGURE = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a run had no figure. An aim that is not met is told, and fails nothing."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a topic that is a moment old has no leader yet
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Figures on a real broker.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=BENCHES, help="; ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="one run each, with fewer events; rough figures")
    parser.add_argument("--runs", type=int, help=f"runs of each benchmark (default {RUNS})")
    parser.add_argument("--profile", metavar="NAME", choices=BENCHES, help="one run, and where its CPU time went")
    parser.add_argument(
        "--stacks", metavar="FILE", type=Path, help="with --profile: keep the samples, for a flame graph"
    )
    chosen = parser.parse_args(arguments)
    names = [chosen.profile] if chosen.profile else chosen.only or list(BENCHES)
    runs = 1 if chosen.profile else chosen.runs or (1 if chosen.quick else RUNS)
    print(machine(), end="\n\n")
    try:
        with _broker() as bootstrap, tempfile.TemporaryDirectory() as folder:
            profile = (chosen.stacks or Path(folder) / "stacks") if chosen.profile else None
            return asyncio.run(_measure(bootstrap, [BENCHES[name] for name in names], runs, chosen.quick, profile))
    except BrokerUnavailable as error:
        print(f"no Kafka: {error}; set KAFKA_BOOTSTRAP=host:port to use another one", file=sys.stderr)
        return NO_FIGURE


async def _measure(bootstrap: str, benches: Sequence[Bench], runs: int, quick: bool, profile: Path | None) -> int:
    outcome = OK
    async with rig(bootstrap, profile=profile) as on:
        if profile is None:
            print(await compared(on, quick=quick), end="\n\n", flush=True)
        for bench in benches:
            try:
                results = await _repeat(bench, on, runs, quick)
            except Unbalanced as error:
                print(f"{bench.name}: no figure: {error}\n", flush=True)
                outcome = NO_FIGURE
                continue
            print(report.table(bench, results), end="\n\n", flush=True)
            if profile is not None:
                print(report.profile(profile), end="\n\n", flush=True)
            elif not report.is_met(results):
                print(f"  to see why:  python -m tests.benchmarks --profile {bench.name}\n", flush=True)
    return outcome


async def _repeat(bench: Bench, on: Rig, runs: int, quick: bool) -> list[Result]:
    return [await bench.run(on, quick) for _ in range(runs)]


@contextlib.contextmanager
def _broker() -> Iterator[str]:
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield bootstrap
        return
    with LocalKafka() as kafka:
        yield kafka.bootstrap()


if __name__ == "__main__":
    sys.exit(main())
