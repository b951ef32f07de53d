"""Every example file is real: the settings file has each setting and no other, and the rules' examples hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from worker.errors import Refused
from worker.mapping import examples, rules
from worker.settings.shapes import Shape, shape_of
from worker.settings.tree import Loaded, Settings, load
from worker.settings.yamlfile import read_yaml, value_at

FOLDER = Path(__file__).parent.parent / "deploy" / "examples"
RULES = sorted(FOLDER.glob("*rules.yaml"))


@pytest.fixture(scope="module")
def full() -> str:
    return (FOLDER / "worker.yaml").read_text()


def settings_of(shape: Shape, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every setting there is; the one entry of a map is called `main`, as in the example."""
    children = {**shape.fields, **({"main": shape.values} if shape.values is not None and shape.values.fields else {})}
    for name, child in children.items():
        yield (*path, name)
        yield from settings_of(child, (*path, name))


def loaded(text: str, folder: Path) -> Loaded:
    (folder / "worker.yaml").write_text(text)
    return load(folder / "worker.yaml", environ={})


@pytest.mark.parametrize("path", list(settings_of(shape_of(Settings))), ids=".".join)
def test_every_setting_appears_in_the_example(path: tuple[str, ...], full: str) -> None:
    file, problems = read_yaml(full, "worker.yaml")
    assert file is not None
    assert not problems
    assert path in file.keys, f"deploy/examples/worker.yaml says nothing of {'.'.join(path)}"


def test_every_key_of_the_example_is_a_setting_and_has_its_default(full: str, tmp_path: Path) -> None:
    # Two addresses of one site, or a CA file without a base_url, are what no real file has: null is left out of both.
    found = loaded(full, tmp_path)
    assert not found.warnings
    file, _ = read_yaml(full, "worker.yaml")
    assert file is not None
    for part in ("delivery", "admin", "flood_guard"):
        default = Settings.model_fields[part].get_default()
        assert isinstance(default, BaseModel)
        assert getattr(found.settings, part) == default
        assert isinstance(value_at(file.tree, (part,)), dict)


def test_a_typo_anywhere_in_the_example_is_found(full: str, tmp_path: Path) -> None:
    for path in settings_of(shape_of(Settings)):
        key = path[-1]
        if path == ("sites", "main"):
            continue  # a site may have any name
        with pytest.raises(Refused):
            loaded(re.sub(rf"^( *){key}:", rf"\1{key}x:", full, count=1, flags=re.MULTILINE), tmp_path)


def topics_of(path: Path) -> list[str]:
    """Return the topics of a rules file's sources: those that the settings beside it would name."""
    sources = YAML(typ="safe").load(path).get("sources", {"": {"topics": ["user-events"]}})
    return [topic for source in sources.values() for topic in source["topics"]]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_examples_of_example_rules_hold(path: Path) -> None:
    found = rules.load(path, sites=["main"], topics=topics_of(path))
    assert [str(problem) for problem in (*found.warnings, *examples.run(found))] == []
    assert all(rule.examples for rule in found.rules), "a rule in an example file shows what it does"


def test_the_rules_that_the_example_settings_name_are_there(full: str) -> None:
    settings = load(FOLDER / "worker.yaml", environ={}).settings
    assert rules.load(settings.rules, sites=tuple(settings.sites), topics=settings.kafka.topics).rules
