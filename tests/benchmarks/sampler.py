"""Runs the worker and notes, each time the processor has spent a few milliseconds on it, where it is.

    python tests/benchmarks/sampler.py OUT run --config worker.yaml ...

A tracing profiler makes a call cost several times what it costs, and C code nothing; samples of CPU time do neither.
What C code takes (uvloop, orjson, a checksum) is told at the Python line that called it.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

SAMPLE_EVERY_S = 0.002
_DEPTH = 60


def main(out: Path) -> None:
    own: Counter[str] = Counter()  # samples by the function that was running
    within: Counter[str] = Counter()  # and by every function that was on the stack
    lines: Counter[str] = Counter()

    def sample(_number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        lines[f"{_name(frame)}:{frame.f_lineno}"] += 1
        own[_name(frame)] += 1
        seen = set()
        for _ in range(_DEPTH):
            if frame is None:
                break
            seen.add(_name(frame))
            frame = frame.f_back
        within.update(seen)

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_EVERY_S, SAMPLE_EVERY_S)
    try:
        runpy.run_module("worker", run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps({"own": own, "within": within, "lines": lines}))


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])} {code.co_qualname if sys.version_info >= (3, 11) else code.co_name}"


if __name__ == "__main__":
    result = Path(sys.argv[1])
    del sys.argv[1]
    sys.path[0] = str(Path(__file__).parents[2])
    main(result)
