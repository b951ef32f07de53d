"""The README's tables of settings, metrics and reasons, made from the code.

`python -m tests.readme` writes them; test_readme.py says when that was forgotten.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from worker.cli.explain import all_entries
from worker.metrics import Metrics
from worker.settings.tree import Settings

README = Path(__file__).parent.parent / "README.md"


def settings_table() -> str:
    rows = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for path, field in _fields(Settings, ()):
        default = _default(field)
        text = (field.description or "").replace("|", "\\|")
        unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
        unit = "" if unit in ("policy", "") or not isinstance(unit, str) else f" ({unit})"
        rows.append(f"| `{'.'.join(path)}` | {default} | {text}{unit} |")
    return "\n".join(rows)


def metrics_table() -> str:
    rows = ["| metric | kind | meaning |", "| --- | --- | --- |"]
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(rows)


def reasons_table() -> str:
    """Return all that `explain` knows: the codes of a reason beside it, each with what they mean and what to do."""
    codes: defaultdict[str, list[str]] = defaultdict(list)
    rows = ["| reason | is | codes | meaning | what to do |", "| --- | --- | --- | --- | --- |"]
    entries = list(all_entries())
    for entry in entries:
        if entry.code is not None:
            codes[entry.reason].append(entry.word)
    for entry in sorted((each for each in entries if each.code is None), key=lambda each: (each.verdict, each.word)):
        texts = (entry.meaning, entry.remedy)
        meaning, remedy = (text.replace("|", "\\|") for text in texts)
        rows.append(f"| `{entry.word}` | {entry.verdict} | {', '.join(codes[entry.word])} | {meaning} | {remedy} |")
    return "\n".join(rows)


TABLES = {"settings": settings_table, "metrics": metrics_table, "reasons": reasons_table}


def written(text: str) -> str:
    """Return the README with its tables as they should be."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: made by python -m tests.readme -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for the table of {name}")
        made = f"{begin}\n{table()}\n{end}"
        text = pattern.sub(lambda _, made=made: made, text)
    return text


def _fields(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        here = (*path, name)
        if inner is None:
            yield here, field
        elif _is_map(field.annotation):
            yield from _fields(inner, (*here, "*"))
        else:
            yield from _fields(inner, here)


def _is_map(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _model_in(annotation: object) -> type[BaseModel] | None:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return "\\*\\*\\*"
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return f"`{value}`" if value != {} else "none"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
