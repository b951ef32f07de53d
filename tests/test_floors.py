"""Imports go down the house, never up or across; each library has one home."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker

FLOORS = [  # bottom to top; rooms of one line do not import each other
    {"errors", "exits", "clock", "metrics", "reasons"},
    {"model", "logs", "memory", "signals", "stacks", "watch"},
    {"gigya", "codecs"},
    {"mapping"},
    {"delivery", "kafka", "deadletters"},
    {"pipeline"},
    {"admin", "alarms", "control", "dry_run", "inspect", "preflight", "reload", "reprocess", "watchdog"},
    {"backfill", "status"},
    {"settings"},
    {"wiring"},
    {"app", "backfill_app", "replay_app"},
    {"cli"},
    {"__main__"},
]
WORKER = Path(worker.__file__).parent
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(WORKER.rglob("*.py"))
PURE = ("gigya", "codecs", "mapping")
# Library -> where it may be imported. The sandbox is another company's: it has its own copies of everything.
HOMES = {
    "aiohttp": {"delivery/transport.py", "admin.py"},
    "aiokafka": {"kafka"},
    "cel_expr_python": {"mapping"},
    "typer": {"cli"},
    "rich": {"cli"},
    "uvloop": {"cli", "app.py"},
    "pydantic_settings": {"settings/tree.py"},
    "prometheus_client": {"metrics.py"},
    "jwt": {"gigya/authorization.py"},
    "cryptography": {"gigya/authorization.py", "gigya/private_key.py"},
}


def room_of(path: Path) -> str:
    return path.relative_to(WORKER).parts[0].removesuffix(".py")


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return the nodes of a file, read once for all tests."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def rooms_imported(path: Path) -> Iterator[str]:
    for module in modules_imported(path):
        if module.startswith("worker."):
            yield module.split(".")[1]


def modules_imported(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the room"
            if node.module == "worker":
                yield from (f"worker.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(WORKER)))
def test_imports_only_go_down(path: Path) -> None:
    room = room_of(path)
    if room in {"__init__", "sandbox"}:
        return
    assert room in FLOOR, f"{room} has no floor yet: give it one in this file"
    for other in rooms_imported(path):
        if other == room or (room, other) == ("cli", "sandbox"):
            continue
        assert other in FLOOR, f"{path.name}: {room} may not import {other}"
        assert FLOOR[other] < FLOOR[room], f"{path.name}: {room} may not import {other}"


def test_the_sandbox_shares_no_code_with_the_worker() -> None:
    for path in (WORKER / "sandbox").rglob("*.py"):
        assert set(rooms_imported(path)) <= {"sandbox"}, path.name


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    for path in FILES:
        place = path.relative_to(WORKER)
        if place.parts[0] == "sandbox" or not any(name.split(".")[0] == library for name in modules_imported(path)):
            continue
        assert {place.parts[0], str(place)} & HOMES[library], f"{place} may not import {library}"


def test_only_the_transport_speaks_http_and_only_the_admin_port_serves_it() -> None:
    web, client = set(), set()
    for path in FILES:
        if room_of(path) == "sandbox":
            continue
        for node in nodes_of(path):
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom | ast.Import) else set()
            module = getattr(node, "module", None) or ""
            if module.startswith("aiohttp.web") or (module == "aiohttp" and "web" in names):
                web.add(str(path.relative_to(WORKER)))
            if (module == "aiohttp" and names - {"web"}) or "aiohttp" in names or module.startswith("aiohttp.client"):
                client.add(str(path.relative_to(WORKER)))
    assert web <= {"admin.py"}
    assert client <= {"delivery/transport.py"}


def test_pure_rooms_import_nothing_that_does_io_or_reads_a_clock() -> None:
    forbidden = {"asyncio", "socket", "time", "random", "secrets", "threading", "subprocess", "logging", "structlog"}
    for path in FILES:
        if room_of(path) in PURE:
            assert not forbidden & {name.split(".")[0] for name in modules_imported(path)}, path.name


def test_an_init_file_holds_a_docstring_and_nothing_else() -> None:
    for path in WORKER.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path


def test_no_file_is_longer_than_500_lines() -> None:
    longest = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in longest.items() if lines > 500} == {}


def test_no_function_is_longer_than_70_lines() -> None:
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"
