"""One tree from the settings file, secret files and the environment; what is wrong with it, all at once.

The environment wins over secret files, and these over the file. The parts live beside their readers (KafkaSettings in
kafka/settings.py and so on); here they are assembled and checked against each other. A secret is a SecretStr from the
moment it is known to be one, and no text made here holds a value of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.admin import AdminSettings
from worker.delivery.schedule import DeliverySettings
from worker.errors import Problem, Refused
from worker.gigya.sites import SiteSettings, data_center_problem
from worker.kafka.settings import KafkaSettings
from worker.pipeline.flood_guard import FloodGuardSettings
from worker.settings import site_files
from worker.settings.layers import (
    SECRETS_DIR,
    Layer,
    Origin,
    origin_of,
    problem_at,
    read_environment,
    read_file,
    read_secret_files,
    variable,
)
from worker.settings.shapes import Shape, shape_of
from worker.settings.yamlfile import Path, Tree, dotted, value_at

DEFAULT_FILE = FilePath("worker.yaml")
DEFAULT_SECRETS_DIR = FilePath("/run/secrets")
HIDDEN = "***"
_SITE_NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")  # no "__": it separates names of variables


class Settings(BaseSettings):
    """All settings of a worker. Built by hand it reads nothing; `load` reads the three sources."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kafka: KafkaSettings
    sites: dict[str, SiteSettings]
    delivery: DeliverySettings = DeliverySettings()
    admin: AdminSettings = AdminSettings()
    flood_guard: FloodGuardSettings = FloodGuardSettings()
    rules: FilePath = Field(
        default=FilePath("rules.yaml"),
        description="The rules file; relative to the settings file's folder, from a variable to the working directory.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # pydantic-settings' own sources ignore a misspelt variable and tell no places: `load` brings ours.
        return (init_settings,)


class _LayerSource(PydanticBaseSettingsSource):
    """Hands one layer to pydantic-settings, which merges them."""

    def __init__(self, tree: dict[str, Tree]) -> None:
        super().__init__(Settings)
        self._tree = tree

    def get_field_value(self, field: object, field_name: str) -> tuple[Tree, str, bool]:
        return self._tree.get(field_name), field_name, False

    def __call__(self) -> dict[str, Tree]:
        return self._tree


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that may be used, who set what, and what deserves a look. `file` is None if there was none."""

    settings: Settings
    layers: tuple[Layer, ...]  # the one that wins first
    warnings: tuple[Problem, ...]
    file: FilePath | None

    @property
    def secret_folders(self) -> tuple[FilePath, ...]:
        """Return where secret files are looked for; the folder need not exist."""
        return (self.layers[1].folder,)

    def origin(self, path: Path) -> Origin | None:
        """Return who set a value; None: it is the default."""
        return origin_of(self.layers, path)


def load(
    path: FilePath | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read settings from `path` (None: worker.yaml, which then may be missing), secret files and the environment.

    Raises Refused with everything that is wrong.
    """
    environ = os.environ if environ is None else environ
    file = path if path is not None else DEFAULT_FILE
    layers = _read_layers(file, environ, required=path is not None)
    problems = [problem for layer in reversed(layers) for problem in layer.problems]
    shape = shape_of(Settings)
    if not any(layer.tree for layer in layers):
        raise Refused(problems or [_nothing_set(file, layers[-1])])
    if layers[-1].problems and layers[-1].file is None:
        raise Refused(problems)  # a file that cannot be read would make every setting look missing
    try:
        sources = tuple(_LayerSource(layer.tree) for layer in layers)
        settings = Settings(_build_sources=(sources, {}))  # type: ignore[call-arg]  # a dataclass_transform hides it
    except ValidationError as error:
        raise Refused(_in_order(problems + _translate(error, layers, shape), _secrets_in(layers, shape))) from None
    settings = _with_resolved_paths(settings, layers, shape)
    found = list(_cross_check(settings, layers, shape))
    problems += [problem for problem in found if problem.severity == "error"]
    if problems:
        raise Refused(_in_order(problems, _secrets_in(layers, shape)))
    warnings = _in_order([problem for problem in found if problem.severity == "warn"], secret_values(settings))
    return Loaded(settings, layers, tuple(warnings), file if layers[-1].file is not None else None)


@dataclass(frozen=True, slots=True)
class Outline:
    """What settings that are refused still tell, so that the rules can be checked in the same go."""

    rules: FilePath
    sites: tuple[str, ...]
    topics: tuple[str, ...]


def outline(path: FilePath | None = None, *, environ: Mapping[str, str] | None = None) -> Outline | None:
    """Return what can be read of settings that `load` refuses; None where sites or topics cannot be told."""
    layers = _read_layers(path or DEFAULT_FILE, os.environ if environ is None else environ, required=path is not None)
    sites = {name for layer in layers for name in _mapping(value_at(layer.tree, ("sites",)))}
    topics = next((found for layer in layers if (found := value_at(layer.tree, ("kafka", "topics")))), None)
    if not sites or not isinstance(topics, list):
        return None
    origin = next((layer for layer in layers if isinstance(value_at(layer.tree, ("rules",)), str)), None)
    name = value_at(origin.tree, ("rules",)) if origin is not None else None
    folder = (origin or layers[-1]).folder
    file = folder / (name if isinstance(name, str) else "rules.yaml")
    return Outline(file, tuple(sorted(sites)), tuple(str(topic) for topic in topics))


def _read_layers(file: FilePath, environ: Mapping[str, str], *, required: bool) -> tuple[Layer, ...]:
    shape = shape_of(Settings)
    from_file = Layer(file.parent) if not required and not file.exists() else read_file(file, str(file), shape)
    known = from_file.tree
    folder = environ.get(SECRETS_DIR, "")
    from_secrets = read_secret_files(FilePath(folder or DEFAULT_SECRETS_DIR), shape, known, wanted=bool(folder))
    # Site names may be known to secret files only: variables match those, too.
    sites = {**_mapping(value_at(from_secrets.tree, ("sites",))), **_mapping(value_at(known, ("sites",)))}
    from_environment = read_environment(environ, shape, {**known, "sites": sites})
    return from_environment, from_secrets, from_file


def _mapping(value: Tree) -> dict[str, Tree]:
    return value if isinstance(value, dict) else {}


def _nothing_set(file: FilePath, layer: Layer) -> Problem:
    if layer.file is not None:
        return Problem(str(file), 1, 1, "is empty", "deploy/examples/worker.yaml shows every setting")
    remedy = "write it (deploy/examples/worker.yaml shows every setting), give --config, or set WORKER_* variables"
    return Problem(str(file), 0, 0, "there is no such file, and no variable sets anything", remedy)


def _in_order(problems: list[Problem], secrets: frozenset[str]) -> list[Problem]:
    """Sort by place, drop repetitions, and make sure that no text holds a secret, whoever wrote it."""
    unique = {(problem.file, problem.line, problem.column, problem.what): problem for problem in problems}
    ordered = sorted(
        unique.values(), key=lambda problem: (not problem.line, problem.file, problem.line, problem.column)
    )
    return [_masked(problem, secrets) for problem in ordered]


def _masked(problem: Problem, secrets: frozenset[str]) -> Problem:
    what, remedy, excerpt = problem.what, problem.remedy, problem.excerpt
    for secret in secrets:
        what, remedy = what.replace(secret, HIDDEN), remedy.replace(secret, HIDDEN)
        excerpt = "" if secret in excerpt else excerpt
    return replace(problem, what=what, remedy=remedy, excerpt=excerpt)


def _secrets_in(layers: tuple[Layer, ...], shape: Shape) -> frozenset[str]:
    """Return every text that a layer puts where a secret belongs, valid or not."""
    found = set()
    for layer in layers:
        for path, leaf in shape.leaves(layer.tree):
            value = value_at(layer.tree, path)
            if leaf.secret and isinstance(value, str | int | float) and len(str(value)) > 3:
                found.add(str(value))
    return frozenset(found)


def secret_values(model: BaseModel) -> frozenset[str]:
    """Return the value of every secret in a model: what logs must hide."""
    found: set[str] = set()
    for _, value in values_of(model):
        if isinstance(value, SecretStr) and value.get_secret_value():
            found.add(value.get_secret_value())
    return frozenset(found)


def values_of(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield every place of a model that is no model or mapping itself, in order."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from values_of(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from values_of(item, (*path, str(key)))
    else:
        yield path, value


# --- what pydantic found --------------------------------------------------------------------------------------------


def _translate(error: ValidationError, layers: tuple[Layer, ...], shape: Shape) -> list[Problem]:
    """Say in our words, and with a place, what pydantic found and the layers did not."""
    faulty = set().union(*(layer.faulty for layer in layers))
    problems = []
    for details in error.errors(include_url=False, include_input=False):
        path = _path(details["loc"], shape)
        if details["type"] == "extra_forbidden":
            path = (*path, details["loc"][-1])
        if any(path[: len(place)] == place for place in faulty):
            continue
        what, remedy = _words(details, path, shape)
        problems.append(_problem(layers, shape, path, what, remedy))
    return problems


def _path(loc: tuple[int | str, ...], shape: Shape) -> Path:
    """Return pydantic's place as one of ours: it puts the names of union members and validators in between."""
    path: list[str | int] = []
    here: Shape | None = shape
    for step in loc:
        below = here.below(step) if here is not None else None
        if below is not None:
            path.append(step)
            here = below
    return tuple(path)


_LIMITS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be less than {}"),
    "literal_error": ("expected", "must be {}"),
    "enum": ("expected", "must be {}"),
    "union_tag_invalid": ("expected_tags", "must be {}"),
    "too_long": ("max_length", "must have at most {} entries"),
    "string_too_long": ("max_length", "must have at most {} characters"),
}


def _words(details: ErrorDetails, path: Path, shape: Shape) -> tuple[str, str]:
    """Return what is wrong, and what to do."""
    context = details.get("ctx", {})
    kind = details["type"]
    if kind == "missing":
        return "is missing", _where_to_set(path, shape)
    if kind == "union_tag_not_found":
        return "says no mode", "add mode: signed"
    if kind == "extra_forbidden":
        return "does not go with the other settings here", "remove it"
    if kind in {"too_short", "string_too_short"}:
        least = context.get("min_length", 1)
        return ("must not be empty", "") if least == 1 else (f"must have at least {least} entries", "")
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return text.format(str(context.get(name, "something else")).replace("'", "")), ""
    if kind == "string_pattern_mismatch":
        return f"holds characters that are not allowed here ({context.get('pattern')})", ""
    if kind == "value_error":
        what, _, remedy = str(context.get("error", "is not valid")).partition("; ")
        return what, remedy
    if kind == "finite_number":
        return "must be a finite number", ""
    message = details["msg"]
    return message[:1].lower() + message[1:], ""


def _where_to_set(path: Path, shape: Shape) -> str:
    here = shape.at(path)
    if here is None or here.fields or here.values is not None:
        return "see deploy/examples/worker.yaml"
    name = variable(path)
    return f"set it, or {name}" + (f", or the secret file {name.lower()}" if here.secret else "")


def _problem(layers: tuple[Layer, ...], shape: Shape, path: Path, what: str, remedy: str = "") -> Problem:
    """Return a problem at the place where a value was set, or where what holds it stands."""
    text = f"{dotted(path)}: {what}" if path else what
    # Whoever's value counts is to blame; a value that nobody set is missing where most of its path is.
    setter = next((layer for layer in layers if value_at(layer.tree, path) is not None), None)
    for length in range(len(path), 0, -1):
        for layer in layers if setter is None else (setter,):
            if path[:length] in layer.origins:
                found = problem_at(layer, shape, path[:length], what, remedy, at_key=length < len(path))
                return Problem(found.file, found.line, found.column, text, remedy, excerpt=found.excerpt)
    file = next((layer.file for layer in layers if layer.file is not None), None)
    return Problem(file.name if file is not None else "settings", 0, 0, text, remedy)


# --- what no part can see alone -------------------------------------------------------------------------------------


def _with_resolved_paths(settings: Settings, layers: tuple[Layer, ...], shape: Shape) -> Settings:
    """Resolve every path against the folder of whoever set it: the settings file's, or the working directory."""

    def resolved(model: BaseModel, path: Path) -> BaseModel:
        changes: dict[str, object] = {}
        for name in type(model).model_fields:
            value, place = getattr(model, name), (*path, name)
            if isinstance(value, FilePath):
                changes[name] = _folder(layers, place) / value.expanduser()
            elif isinstance(value, BaseModel):
                changes[name] = resolved(value, place)
            elif isinstance(value, dict):
                changes[name] = {
                    key: resolved(item, (*place, key)) if isinstance(item, BaseModel) else item
                    for key, item in value.items()
                }
        return model.model_copy(update=changes)

    result = resolved(settings, ())
    assert isinstance(result, Settings)  # noqa: S101 - model_copy keeps the class
    return result


def _folder(layers: tuple[Layer, ...], path: Path) -> FilePath:
    return next((layer.folder for layer in layers if path in layer.origins), layers[-1].folder)


def _cross_check(settings: Settings, layers: tuple[Layer, ...], shape: Shape) -> Iterator[Problem]:
    """Yield what is wrong between the parts."""
    yield from _check_sites(settings, layers, shape)
    yield from _check_lease(settings, layers, shape)
    if settings.admin.stuck_after_s < 2 * settings.delivery.attempt_timeout_s:
        what = f"an attempt may take {settings.delivery.attempt_timeout_s:g} s, and would pass for a stuck worker"
        yield _problem(layers, shape, ("admin", "stuck_after_s"), what, "make it twice attempt_timeout_s at least")
    kafka = settings.kafka
    if kafka.dead_letter_topic in kafka.topics:
        what = "is among kafka.topics: the worker would read its own dead letters"
        yield _problem(layers, shape, ("kafka", "dead_letter_topic"), what, "name another topic")


def _check_sites(settings: Settings, layers: tuple[Layer, ...], shape: Shape) -> Iterator[Problem]:
    if not settings.sites:
        yield _problem(layers, shape, ("sites",), "there is no site", "add one; see deploy/examples/worker.yaml")
    seen: dict[str, str] = {}
    for name, site in settings.sites.items():
        place: Path = ("sites", name)
        if not _SITE_NAME.fullmatch(name):
            what = "a site's name is made of letters and digits, with single - or _ between them"
            yield _problem(layers, shape, place, what, "rename it")
        if (other := seen.setdefault(name.lower().replace("-", "_"), name)) != name:
            what = f"is the same name as {other} for environment variables"
            yield _problem(layers, shape, place, what, "rename one of them")
        for below, text in site_files.problems_of(site):
            what, _, remedy = text.partition("; ")
            yield _problem(layers, shape, (*place, *below), what, remedy)
        if site.data_center is not None:
            found = data_center_problem(site.data_center, file="")
            if found is not None:
                at = _problem(layers, shape, (*place, "data_center"), found.what, found.remedy)
                yield replace(at, severity="warn")


def _check_lease(settings: Settings, layers: tuple[Layer, ...], shape: Shape) -> Iterator[Problem]:
    """An attempt starts only if it would end within the lease that the last heartbeat gave: that must be possible."""
    attempt_s, session_s = settings.delivery.attempt_timeout_s, settings.kafka.session_timeout_s
    heartbeat_s = settings.kafka.heartbeat_interval_s
    if attempt_s + heartbeat_s >= session_s:
        what = (
            f"an attempt of {attempt_s:g} s does not fit into the lease that a heartbeat gives: {session_s:g} s, of"
            f" which {heartbeat_s:g} s may be over before the next one"
        )
        remedy = f"set it below {session_s - heartbeat_s:g}, or raise kafka.session_timeout_s"
        yield _problem(layers, shape, ("delivery", "attempt_timeout_s"), what, remedy)


# --- what is in effect ----------------------------------------------------------------------------------------------


def effective(loaded: Loaded) -> str:
    """Return the settings in effect as YAML, secrets masked, each with who set it as a comment."""
    hidden = secret_values(loaded.settings)
    lines: list[tuple[str, str]] = []
    above: Path = ()
    for path, value in values_of(loaded.settings):
        shared = next((i for i, step in enumerate(path[:-1]) if path[: i + 1] != above[: i + 1]), len(path) - 1)
        lines += [("  " * depth + f"{path[depth]}:", "") for depth in range(shared, len(path) - 1)]
        origin = loaded.origin(path)
        text = "  " * (len(path) - 1) + f"{path[-1]}: {_as_yaml(value, hidden)}"
        lines.append((text, str(origin) if origin is not None else "default"))
        above = path[:-1]
    width = min(60, max(len(text) for text, _ in lines))
    return "".join(f"{text:<{width}}  # {origin}".rstrip() + "\n" if origin else f"{text}\n" for text, origin in lines)


def _as_yaml(value: object, hidden: frozenset[str]) -> str:
    import json

    if isinstance(value, SecretStr):
        return f'"{HIDDEN}"' if value.get_secret_value() else '""'
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(_as_yaml(item, hidden) for item in value)}]"
    if value is None or isinstance(value, bool | int | float):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{}"
    text = str(value)
    for secret in hidden:
        text = text.replace(secret, HIDDEN)
    plain = re.fullmatch(r"[A-Za-z_/.][\w./:-]*", text) and text.lower() not in {"null", "true", "false", "yes", "no"}
    return text if plain and not text.endswith(":") else json.dumps(text, ensure_ascii=not text.isprintable())
