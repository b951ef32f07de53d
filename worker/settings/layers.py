"""How do a settings file, secret files and environment variables become one tree, and who said what?

Every value keeps its origin, so that a problem names a line, a variable or a file. What is wrong is reported without
the value, because a value may be a secret that landed in the wrong place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from worker.errors import Problem
from worker.settings.shapes import NAMES, Shape, misplaced, nearest
from worker.settings.yamlfile import MAX_BYTES, Path, Scalar, Tree, YamlFile, dotted, read_yaml, value_at

PREFIX = "WORKER_"
SECRETS_DIR = "WORKER_SECRETS_DIR"
# Kubernetes gives every pod such variables for a Service that happens to be called "worker" or "worker-...".
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a value: a file with line and column, a variable, or a secret file."""

    name: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(slots=True)
class Layer:
    """What one source says. A layer's own mistakes are in `problems`; what it could not read is not in `tree`."""

    folder: FilePath  # what relative paths in this layer are relative to
    tree: dict[str, Tree] = field(default_factory=dict, repr=False)  # it may hold secrets, and so may the file
    origins: dict[Path, Origin] = field(default_factory=dict)
    keys: dict[Path, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)  # places that already have a problem
    file: YamlFile | None = field(default=None, repr=False)

    def origin(self, path: Path) -> Origin | None:
        """Return who set this very value, or the list or mapping that holds it; None if this layer did not."""
        for length in range(len(path), 0, -1):
            if (found := self.origins.get(path[:length])) is not None:
                return found if length == len(path) or value_at(self.tree, path) is not None else None
        return None


def variable(path: Path) -> str:
    """Return the name of the environment variable for a place."""
    return PREFIX + "__".join(str(step).replace("-", "_").upper() for step in path)


def problem_at(layer: Layer, shape: Shape, path: Path, what: str, remedy: str = "", *, at_key: bool = False) -> Problem:
    """Return a problem with its place in this layer and, for a file, the line with everything secret hidden."""
    origin = (layer.keys.get(path) if at_key else None) or layer.origins.get(path) or Origin("settings")
    excerpt = ""
    if layer.file is not None and origin.line:
        excerpt = layer.file.excerpt(origin.line, origin.column, shown=lambda place: _may_be_shown(shape, place))
    text = f"{dotted(path)}: {what}" if origin.line and path else what
    return Problem(origin.name, origin.line, origin.column, text, remedy, excerpt=excerpt)


def _may_be_shown(shape: Shape, path: Path) -> bool:
    """Only what is known to be harmless is shown; a key nobody knows may be a misspelt secret."""
    found = shape.at(path)
    return found is not None and bool(found.kinds) and not found.secret


# --- the settings file ----------------------------------------------------------------------------------------------


def read_file(path: FilePath, name: str, shape: Shape) -> Layer:
    """Read a settings file. A file that cannot be read is a problem of the layer."""
    layer = Layer(path.parent)
    text = _text_of(path, name, layer.problems)
    if text is None:
        return layer
    file, problems = read_yaml(text, name)
    layer.problems += problems
    if file is None:
        return layer
    layer.file = file
    layer.tree = file.tree
    layer.origins = {path: Origin(name, span.line, span.column) for path, span in file.values.items() if path}
    layer.keys = {path: Origin(name, span.line, span.column) for path, span in file.keys.items()}
    if not layer.problems:  # a value that YAML could not read is null here, and would be reported twice
        _check(layer, shape)
    return layer


def _text_of(path: FilePath, name: str, problems: list[Problem]) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            problems.append(Problem(name, 0, 0, "is larger than a megabyte", "give the right file"))
            return None
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        problems.append(Problem(name, line, column, "is not UTF-8 here", "save the file as UTF-8"))
    except FileNotFoundError:
        problems.append(Problem(name, 0, 0, "there is no such file", "give its path, or write it"))
    except OSError as error:
        problems.append(Problem(name, 0, 0, f"cannot be read: {error.strerror or type(error).__name__}"))
    return None


def _check(layer: Layer, shape: Shape) -> None:
    """Report what nobody knows and what has the wrong kind."""
    for path, what, remedy in misplaced(layer.tree, shape):
        unknown = what == "unknown setting"
        if unknown:
            remedy = _did_you_mean(path, shape, layer.tree)
        layer.faulty.add(path)
        layer.problems.append(problem_at(layer, shape, path, what, remedy, at_key=unknown))


def _did_you_mean(path: Path, shape: Shape, tree: Tree) -> str:
    parent = shape.at(path[:-1])
    word = str(path[-1])
    if parent is not None and (near := nearest(word, parent.fields)):
        return f"did you mean {near}?"
    elsewhere = [dotted(place) for place, _ in shape.leaves(tree) if place[-1] == word]
    return f"did you mean {elsewhere[0]}?" if elsewhere else ""


# --- the environment and secret files -------------------------------------------------------------------------------


def read_environment(environ: Mapping[str, str], shape: Shape, known: Tree) -> Layer:
    """Read WORKER_* variables; `known` is the file's tree, whose map keys (site names) are matched without case.

    An empty variable counts as not set, as compose files pass them. One that nobody knows is a problem.
    """
    layer = Layer(FilePath())
    for name in sorted(environ):
        value = environ[name]
        if not name.startswith(PREFIX) or name == SECRETS_DIR or not value or _is_service_link(name, value):
            continue
        _set(layer, shape, known, name.removeprefix(PREFIX), Origin(name), value)
    return layer


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and bool(_SERVICE_ADDRESS.match(value)))


def read_secret_files(folder: FilePath, shape: Shape, known: Tree, *, wanted: bool) -> Layer:
    """Read the files of a folder that are named like variables, in lower case. Other files are somebody else's.

    A folder that does not exist is a problem only if it was `wanted`. One line end after the value is dropped.
    """
    layer = Layer(folder)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        if wanted or not isinstance(error, FileNotFoundError):
            what = f"cannot be read: {error.strerror or type(error).__name__}"
            layer.problems.append(Problem(str(folder), 0, 0, what, f"create it, or correct {SECRETS_DIR}"))
        return layer
    for name in names:
        if not name.lower().startswith(PREFIX.lower()):
            continue
        path = folder / name
        text = _text_of(path, str(path), layer.problems)
        if text is None:
            continue
        value = text.removesuffix("\n").removesuffix("\r")
        if not value:
            layer.problems.append(Problem(str(path), 0, 0, "is empty", "put the value into it, or remove the file"))
            continue
        _set(layer, shape, known, name[len(PREFIX) :], Origin(str(path)), value)
    return layer


def _set(layer: Layer, shape: Shape, known: Tree, name: str, origin: Origin, text: str) -> None:
    """Put one variable's or secret file's text where its name says."""
    path, target = _resolve(name.split("__"), shape, known)
    if target is None:
        names = [variable(place) for place, _ in shape.leaves(known)]
        near = nearest(PREFIX + name, names)
        if origin.name != PREFIX + name and near:  # a secret file
            near = near.lower()
        layer.problems.append(Problem(origin.name, 0, 0, "unknown setting", f"did you mean {near}?" if near else ""))
        return
    layer.origins[path] = origin
    try:
        value = _value_of(text, target)
    except ValueError as error:
        layer.faulty.add(path)
        layer.problems.append(Problem(origin.name, 0, 0, str(error)))
        return
    for place, what, remedy in misplaced(value, target, path):  # inside JSON; a single value fits by now
        layer.faulty.add(place)
        layer.problems.append(Problem(origin.name, 0, 0, f"{dotted(place)}: {what}", remedy))
    if not _put(layer.tree, path, value):
        layer.faulty.add(path)
        layer.problems.append(Problem(origin.name, 0, 0, "contradicts another variable that sets a part of it"))


def _resolve(steps: list[str], shape: Shape, known: Tree) -> tuple[Path, Shape | None]:
    """Return the place that a variable's name means, matched without case; None where there is none."""
    path: list[str] = []
    here: Shape | None = shape
    for step in steps:
        assert here is not None  # noqa: S101 - the loop ends where a step is not found
        names = [*here.fields, *(known if here.values is not None and isinstance(known, dict) else ())]
        key = next((name for name in names if _fold(name) == _fold(step)), None)
        if key is None and here.values is not None and step:
            key = step.lower()
        here = here.below(key) if key is not None else None
        if here is None or key is None:
            return tuple(path), None
        known = known.get(key) if isinstance(known, dict) else None
        path.append(key)
    return tuple(path), here


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _value_of(text: str, shape: Shape) -> Tree:
    """Read a text as what its place takes: JSON for mappings, JSON or a comma list for lists.

    ValueError's text names the kind that is wanted, never the text.
    """
    kinds = shape.kinds
    stripped = text.strip()
    if stripped[:1] == "{" and "mapping" in kinds:
        return _json(stripped)
    if "list" in kinds and (stripped[:1] == "[" or "text" not in kinds):
        if stripped[:1] == "[":
            return _json(stripped)
        return [_value_of(item, shape.items or Shape()) for part in text.split(",") if (item := part.strip())]
    if "null" in kinds and stripped == "null":
        return None
    if "flag" in kinds and stripped.lower() in {"true", "false"}:
        return stripped.lower() == "true"
    if "integer" in kinds and re.fullmatch(r"[+-]?\d{1,40}", stripped, re.ASCII):
        return int(stripped)
    if kinds & {"number"} and (number := _number(stripped)) is not None:
        return number
    if "text" in kinds or not kinds:
        return text
    wanted = " or ".join(NAMES[kind] for kind in NAMES if kind in kinds)
    raise ValueError(f"must be {wanted}{', as JSON or key by key' if kinds == {'mapping'} else ''}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _json(text: str) -> Tree:
    def refuse(_: str) -> Scalar:
        raise ValueError

    try:
        value: Tree = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ValueError("is not valid JSON") from None
    return value


def _put(tree: dict[str, Tree], path: Path, value: Tree) -> bool:
    """Set a value in a tree; False where something that is no mapping stands in the way."""
    for step in path[:-1]:
        below = tree.setdefault(str(step), {})
        if not isinstance(below, dict):
            return False
        tree = below
    last = str(path[-1])
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        return all(_put(tree, (last, key), item) for key, item in value.items())
    if last in tree:
        return False
    tree[last] = value
    return True


def origin_of(layers: Iterable[Layer], path: Path) -> Origin | None:
    """Return who set a value; the first layer that did counts. None: it is the default."""
    for layer in layers:
        if value_at(layer.tree, path) is not None or path in layer.origins:
            return layer.origin(path)
    return None
