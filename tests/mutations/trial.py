"""Runs tests in a copy of the tree, each time in a fork of a process that has imported what the tests always need.

`python -m tests.mutations.trial`, started in the copy, reads one JSON line for each trial and answers it with one:

    {"tests": [node ids], "files": {path: text}, "environment": {...}}  ->  {"passed": [...], "noticed": [...], ...}

Starting Python, pytest and the libraries anew for each trial would cost five times as much as the tests.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

# Nothing of the worker's own is imported before the fork.
_LIBRARIES = (
    "aiohttp", "aiohttp.web", "aiokafka", "cel_expr_python", "orjson", "prometheus_client", "pydantic",
    "pydantic_settings", "pytest_asyncio", "ruamel.yaml", "structlog", "structlog.testing", "hypothesis.strategies",
    "hypothesis.stateful", "jwt", "cryptography.hazmat.primitives.serialization", "cryptography.x509",
)  # fmt: skip
_ALREADY = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
_OPTIONS = ("-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--timeout=50", "-s", "-W", _ALREADY)


class Verdicts:
    """What became of each test: passed, failed by an assertion, or failed by something else."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.noticed: list[str] = []
        self.otherwise: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report = yield
        if call.excinfo is None:
            if call.when == "call":
                self.passed.append(item.nodeid)
        elif call.when == "call" and _is_assertion(call.excinfo.value):
            self.noticed.append(item.nodeid)
        else:
            self.otherwise.append(f"{item.nodeid} ({call.when}): {call.excinfo.exconly()[:300]}")
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.otherwise.append(f"{report.nodeid} (collection): {report.longreprtext[-300:]}")


def _is_assertion(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_assertion(each) for each in error.exceptions)
    return isinstance(error, AssertionError | pytest.fail.Exception)


def _in_a_fork(tests: Sequence[str], environment: Mapping[str, str]) -> dict[str, list[str]]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        verdicts = Verdicts()
        try:
            os.environ.update(environment)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            pytest.main([*_OPTIONS, *tests], plugins=[verdicts])
        except BaseException as error:  # noqa: BLE001  # told to whoever asked; a fork must not go on as its parent
            verdicts.otherwise.append(f"pytest itself: {error!r}")
        with os.fdopen(writer, "w") as pipe:
            json.dump(vars(verdicts), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        return {"passed": [], "noticed": [], "otherwise": ["the process died"]}
    told: dict[str, list[str]] = json.loads(answer)
    return told


@contextmanager
def _changed(files: Mapping[str, str]) -> Iterator[None]:
    """Change files for a while. Their bytecode goes: Python tells two versions of one second and size not apart."""
    were = {Path(name): Path(name).read_text("utf-8") for name in files}
    _write({Path(name): text for name, text in files.items()})
    try:
        yield
    finally:
        _write(were)


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        path.write_text(text, "utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def main() -> None:
    for library in _LIBRARIES:
        importlib.import_module(library)
    # The same examples each time, and no search for a smaller one: that it fails is all that is asked.
    quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("trial", derandomize=True, database=None, phases=quick, deadline=None)
    hypothesis.settings.load_profile("trial")
    for line in sys.stdin:
        trial = json.loads(line)
        sys.dont_write_bytecode = bool(trial["files"])
        with _changed(trial["files"]):
            told = _in_a_fork(trial["tests"], trial["environment"])
        print(json.dumps(told), flush=True)  # noqa: T201  # when the files are whole again: who hears it may read them


if __name__ == "__main__":
    main()
