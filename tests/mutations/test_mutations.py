"""Break the code on purpose, promise by promise: the test that keeps the promise must notice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Mutation, broken, misfits, mutation

ROOT = Path(__file__).parents[2]
PURE = [mutant for mutant in MUTATIONS if not mutant.needs_broker]
ON_A_BROKER = [mutant for mutant in MUTATIONS if mutant.needs_broker]
NAMED_BY_NAME = {"argvalues": PURE, "ids": [mutant.name for mutant in PURE]}


class Workshop:
    """A copy of the tree, and a process in it that runs tests as they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("worker", "tests", "deploy"):
            shutil.copytree(ROOT / name, root / name)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, root / name)
        # With -m the directory it is started in comes first: the copy's worker, not the one that is installed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutations.trial"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def run(
        self, tests: Sequence[str], mutant: Mutation | None = None, environment: Mapping[str, str] | None = None
    ) -> dict[str, list[str]]:
        """Run tests, in a tree that is broken so, and return which passed, which noticed, and what else happened."""
        texts = broken(mutant, self.root) if mutant is not None else {}
        files = {str(path): text for path, text in texts.items()}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"tests": tests, "files": files, "environment": environment or {}}) + "\n")
        self._process.stdin.flush()
        told: dict[str, list[str]] = json.loads(self._process.stdout.readline())
        return told


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("tree"))
    yield shop
    shop.close()


def all_tests(mutants: Sequence[Mutation]) -> list[str]:
    return sorted({test for mutant in mutants for test in mutant.noticed_by})


def assert_noticed(told: Mapping[str, Sequence[str]], tests: Sequence[str]) -> None:
    assert not told["otherwise"], "it must fail by what it asserts, not by breaking"
    for test in tests:
        assert any(_is_of(noticed, test) for noticed in told["noticed"]), f"{test} notices nothing"


def _is_of(ran: str, test: str) -> bool:
    return ran == test or ran.startswith((f"{test}[", f"{test}::"))


def test_names_are_there_once() -> None:
    names = [mutant.name for mutant in MUTATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", MUTATIONS, ids=[mutant.name for mutant in MUTATIONS])
def test_what_is_to_be_broken_stands_in_the_code_exactly_once(mutant: Mutation) -> None:
    assert misfits(mutant, ROOT) == []
    assert mutant.noticed_by


@pytest.mark.timeout(300)
def test_without_a_mutation_all_these_tests_pass(workshop: Workshop) -> None:
    tests = all_tests(PURE)
    told = workshop.run(tests)
    assert told["noticed"] == told["otherwise"] == []
    assert [test for test in tests if not any(_is_of(ran, test) for ran in told["passed"])] == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", PURE, ids=[mutant.name for mutant in PURE])
def test_a_broken_promise_is_noticed(workshop: Workshop, mutant: Mutation) -> None:
    assert_noticed(workshop.run(mutant.noticed_by, mutant), mutant.noticed_by)


@pytest.mark.timeout(300)
def test_without_a_mutation_all_these_tests_pass_on_a_broker(workshop: Workshop, kafka_bootstrap: str) -> None:
    tests = all_tests(ON_A_BROKER)
    told = workshop.run(tests, environment={"KAFKA_BOOTSTRAP": kafka_bootstrap})
    assert told["noticed"] == told["otherwise"] == []
    assert [test for test in tests if not any(_is_of(ran, test) for ran in told["passed"])] == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", ON_A_BROKER, ids=[mutant.name for mutant in ON_A_BROKER])
def test_a_broken_promise_is_noticed_on_a_broker(workshop: Workshop, kafka_bootstrap: str, mutant: Mutation) -> None:
    told = workshop.run(mutant.noticed_by, mutant, {"KAFKA_BOOTSTRAP": kafka_bootstrap})
    assert_noticed(told, mutant.noticed_by)


def test_a_mutation_that_breaks_nothing_or_everything_is_not_taken_for_noticed(workshop: Workshop) -> None:
    """The judge can fail, too."""
    file, old = "worker/pipeline/offsets.py", "Pure: no I/O, no clock, no tasks."
    test = "tests/pipeline/test_offsets.py::test_a_gap_holds_the_commit_back"
    harmless = mutation("harmless", file, old, old.upper(), test)
    assert workshop.run([test], harmless) == {"passed": [test], "noticed": [], "otherwise": []}
    for text in ('"""\nraise ImportError\n"""', '"""\nif\n"""'):
        told = workshop.run([test], mutation("fatal", file, old, text, test))
        assert told["otherwise"]
        assert not told["noticed"]
    assert misfits(mutation("gone", file, "no such text", "", test), ROOT)
    assert misfits(mutation("twice", file, "self", "", test), ROOT)
