"""The table that `make bench` prints. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.figures import Bench, Figure, Result

_ROOMS = {"codecs", "deadletters", "delivery", "gigya", "kafka", "mapping", "pipeline", "worker"}
HEAD = f"{'':<42}{'min':>10}{'median':>10}{'max':>10}   aim"


def table(bench: Bench, results: Sequence[Result]) -> str:
    """Return the figures of some runs of one benchmark. The aim is compared with the median."""
    lines = [f"{bench.name}: {bench.about}; {len(results)} run{'s' if len(results) > 1 else ''}", HEAD]
    lines += [_row(row) for row in zip(*(result.figures for result in results), strict=True)]
    lines.append(f"  busy, in parts of one core: {results[-1].busy}")
    return "\n".join(lines)


def is_met(results: Sequence[Result]) -> bool:
    return all(_median(row).is_met for row in zip(*(result.figures for result in results), strict=True))


def _row(row: Sequence[Figure]) -> str:
    values = [figure.value for figure in row]
    middle = _median(row)
    numbers = "".join(f"{_number(value):>10}" for value in (min(values), middle.value, max(values)))
    name = f"  {middle.name}, {middle.unit}" if middle.unit else f"  {middle.name}"
    return f"{name:<42}{numbers}   {_aim(middle)}".rstrip()


def _median(row: Sequence[Figure]) -> Figure:
    first = row[0]
    middle = statistics.median(figure.value for figure in row)
    return Figure(first.name, middle, first.unit, first.aim, first.more_is_better, first.beside)


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return figure.beside
    bound = f"{'at least' if figure.more_is_better else 'at most'} {_number(figure.aim)}"
    return f"{bound:<18} {'met' if figure.is_met else 'NOT MET'}"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def profile(file: Path, top: int = 25) -> str:
    """Return where the CPU time of a sampled run went: by function alone, and by function of ours with all it calls."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        stack = frames.split(";")
        own[stack[-1]] += int(count)
        within.update(dict.fromkeys((name for name in stack if _is_ours(name)), int(count)))
    total = own.total()
    lines = [f"{total:,} samples of CPU time"]
    for title, counts in (("itself, with the C code it calls", own), ("of ours, with all it calls", within)):
        lines += ["", title]
        lines += [f"  {count / total:6.1%}  {name}" for name, count in counts.most_common(top)]
    return "\n".join(lines)


def _is_ours(name: str) -> bool:
    """Return whether a function is the worker's, and not of the frame that everything runs in."""
    return name.split("/")[0] in _ROOMS
