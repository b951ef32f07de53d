"""Which sites and topics does a rules file name? For rules that are tried without settings, which would say it.

Then every name that the rules use is taken for right: a misspelt one is found by `check`, beside the settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker.mapping.document import Fields, Items, Node, Scalar, read

SITE = "main"
TOPIC = "events"


def names_in(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sites and the topics that a rules file names, each in its order; stand-ins where it names none."""
    _, root = read(path, str(path))
    if not isinstance(root, Fields):
        return (SITE,), (TOPIC,)
    sites: dict[str, None] = {}
    topics: dict[str, None] = {}
    rules = root.get("rules")
    for rule in rules.value.values if rules is not None and isinstance(rules.value, Items) else ():
        sites |= dict.fromkeys(_texts(rule, "site"))
        topics |= dict.fromkeys(_texts(rule, "topics"))
    sources = root.get("sources")
    if sources is not None and isinstance(sources.value, Fields):
        # Every topic is in a source there: a topic that only a rule names must be refused, as it would be.
        topics = {topic: None for entry in sources.value.entries for topic in _texts(entry.value, "topics")}
    return tuple(sites) or (SITE,), tuple(topics) or (TOPIC,)


def _texts(node: Node, key: str) -> Iterator[str]:
    """Yield the text of a key, or the texts of its list; nothing where there is none."""
    entry = node.get(key) if isinstance(node, Fields) else None
    if entry is None:
        return
    for value in entry.value.values if isinstance(entry.value, Items) else (entry.value,):
        if isinstance(value, Scalar) and isinstance(value.value, str):
            yield value.value
