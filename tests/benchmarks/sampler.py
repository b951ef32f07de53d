"""Runs the worker and notes, each time the processor has spent a few milliseconds on it, where it is.

    python tests/benchmarks/sampler.py OUT run --config worker.yaml ...

A tracing profiler makes a call cost several times what it costs, and C code nothing; samples of CPU time do neither.
What C code takes (uvloop, orjson, a checksum) is told at the Python line that called it.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

SAMPLE_EVERY_S = 0.002  # what is asked for; kernels give no more than one sample each timer tick, often 4 ms


def main(out: Path) -> None:
    stacks: Counter[tuple[str, ...]] = Counter()
    names: dict[CodeType, str] = {}

    def sample(_number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            code = frame.f_code
            name = names.get(code)
            if name is None:
                name = names[code] = f"{'/'.join(Path(code.co_filename).parts[-2:])} {code.co_qualname}"
            stack.append(name)
            frame = frame.f_back
        stacks[tuple(reversed(stack))] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_EVERY_S, SAMPLE_EVERY_S)
    try:
        runpy.run_module("worker", run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # The format of flame graph tools: frames from the outermost on, and how often they were seen together.
        out.write_text("".join(f"{';'.join(stack)} {count}\n" for stack, count in stacks.items()))


if __name__ == "__main__":
    result = Path(sys.argv[1])
    del sys.argv[1]
    sys.path[0] = str(Path(__file__).parents[2])
    main(result)
