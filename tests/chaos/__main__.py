"""`make chaos`: every schedule on a real broker, against the local Gigya, and what the judge says of each.

    python -m tests.chaos --seconds 1800 --seed 7 --only kill-none

Without `--only` the time is shared out among all schedules. Exit code 1 if a run fails; the line that repeats it is
printed with it. Two cores are enough.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.judge import Judgement
from tests.chaos.run import Run
from tests.chaos.schedules import BY_NAME, SCHEDULES, Schedule
from worker.sandbox.broker import BrokerUnavailable, LocalKafka

SHORTEST_S = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is killed is what this is about
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Seeded schedules of everything bad.")
    parser.add_argument("--seconds", type=float, help="for all schedules together (default: what each needs)")
    parser.add_argument("--seed", type=int, help="of load, moments and faults (default: a new one)")
    parser.add_argument("--only", metavar="NAME", action="append", choices=BY_NAME, help=", ".join(BY_NAME))
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep settings and logs of all processes there")
    chosen = parser.parse_args(arguments)
    schedules = [BY_NAME[name] for name in chosen.only] if chosen.only else list(SCHEDULES)
    if chosen.list:
        for schedule in schedules:
            print(f"{schedule.name:16} {schedule.long_s:5.0f} s  {schedule.what}")
        return 0
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1 << 16)
    stretch = chosen.seconds / sum(schedule.long_s for schedule in schedules) if chosen.seconds else 1.0
    try:
        with tempfile.TemporaryDirectory(prefix="gigya-worker-chaos-") as temporary:
            folder = chosen.keep or Path(temporary)
            ran = asyncio.run(_all(schedules, stretch, seed, folder))
    except BrokerUnavailable as error:
        print(f"no Kafka: {error}", file=sys.stderr)
        return 1
    failed = sum(bool(found.faults) for _, found in ran)
    print(table(ran))
    print(f"{len(schedules) - failed} of {len(schedules)} schedules passed, seed {seed}")
    return 1 if failed else 0


async def _all(schedules: Sequence[Schedule], stretch: float, seed: int, folder: Path) -> list[tuple[str, Judgement]]:
    ran = []
    with LocalKafka() as kafka:
        for schedule in schedules:
            seconds = max(SHORTEST_S, schedule.long_s * stretch)
            where = folder / f"{schedule.name}-{seed}"
            where.mkdir(parents=True)
            began_s = time.monotonic()
            print(f"{schedule.name}: {schedule.what}; {seconds:.0f} s, seed {seed}", flush=True)
            found = await perform(schedule, kafka, where, seconds=seconds, seed=seed)
            ran.append((schedule.name, found))
            print(report(found, took_s=time.monotonic() - began_s), flush=True)
            if found.faults:
                print(f"  again:  python -m tests.chaos --only {schedule.name} --seconds {seconds:.0f} --seed {seed}\n")
    return ran


async def perform(schedule: Schedule, kafka: LocalKafka, folder: Path, *, seconds: float, seed: int) -> Judgement:
    """Run one schedule and judge it. What stops it in the middle is a fault like another."""
    if schedule.own_broker:
        with LocalKafka() as own:
            return await _perform(schedule, own, folder, seconds, seed)
    return await _perform(schedule, kafka, folder, seconds, seed)


async def _perform(schedule: Schedule, kafka: LocalKafka, folder: Path, seconds: float, seed: int) -> Judgement:
    async with Run.begin(kafka, folder, schedule.setup, seed=seed) as run:
        try:
            await schedule.act(run, seconds)
        except AssertionError as error:
            run.faults.append(f"the schedule broke off: {error}")
        return await run.judged()


def report(found: Judgement, *, took_s: float) -> str:
    """Return what is printed of a run."""
    width = max(map(len, found.figures), default=0)
    lines = [f"  {name:{width}}  {text}" for name, text in found.figures.items()]
    lines += [f"  FAULT  {fault}" for fault in found.faults]
    return "\n".join([*lines, f"  {'FAILED' if found.faults else 'passed'} after {took_s:.0f} s", ""])


# Column of the table -> figure of the judge, of which the first words will do.
COLUMNS = {
    "calls": "calls",
    "calls/s offered, made": "load",
    "in flight at kills": "kills",
    "lost": "lost",
    "out of order": "out of order",
    "executed twice": "executed twice",
    "most in a second": "most in a second",
    "ledger": "ledger",
}


def table(ran: Sequence[tuple[str, Judgement]]) -> str:
    """Return one row for each run."""
    rows = [f"| schedule | {' | '.join(COLUMNS)} | |", f"| --- |{' --- |' * len(COLUMNS)} --- |"]
    for name, found in ran:
        cells = [_short(column, found.figures.get(figure, "")) for column, figure in COLUMNS.items()]
        rows.append(f"| {name} | {' | '.join(cells)} | {'FAILED' if found.faults else 'passed'} |")
    return "\n".join(rows)


def _short(column: str, figure: str) -> str:
    """Return the part of a figure that fits into a cell."""
    match column:
        case "calls/s offered, made":
            return ", ".join(re.findall(r"(\d+)(?: calls)?/s", figure))
        case "in flight at kills":
            return figure.rpartition("(")[2].rstrip(")")
        case "executed twice":
            return figure.partition(":")[0]
        case "most in a second":
            return figure.partition(" allowed")[0]
        case _:
            return figure


if __name__ == "__main__":
    sys.exit(main())
