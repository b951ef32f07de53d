"""How is a node of the rules file read, and what is said when it is something else? Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from worker.gigya.values import nearest
from worker.mapping.document import Entry, Fields, Items, Node, Place, Scalar, Source
from worker.mapping.expressions import Expression
from worker.mapping.templates import compile_at


class Reader:
    """Reads keys, texts and expressions; problems go to the source, and reading goes on as far as it makes sense."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._error = source.error

    def keys(self, fields: Fields, known: Collection[str], what: str) -> dict[str, Entry]:
        """Return the entries by name; unknown names are reported with the nearest known one."""
        found: dict[str, Entry] = {}
        for entry in fields.entries:
            if entry.key in known:
                found[entry.key] = entry
                continue
            close = nearest(entry.key, known)
            remedy = f'did you mean "{close}"?' if close else f"known: {', '.join(known)}"
            self._error(entry.place, f'{what} has an unknown key "{entry.key[:60]}"', remedy)
        return found

    def text(self, entry: Entry, what: str) -> str | None:
        node = entry.value
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value.strip():
            return node.value
        is_number = isinstance(node, Scalar) and isinstance(node.value, int | float)
        self._error(
            node.place,
            f"{what} is {kind_of_node(node)}, not text",
            "put quotes around it" if is_number else "write a text",
        )
        return None

    def texts(self, entry: Entry, what: str) -> list[tuple[str, Place]]:
        """Return one text or a list of texts."""
        nodes = entry.value.values if isinstance(entry.value, Items) else (entry.value,)
        if not nodes:
            self._error(entry.value.place, f"{what} is an empty list", "name at least one, or remove the key")
        found = ((self.text(Entry(entry.key, node.place, node), what), node.place) for node in nodes)
        return [(text, place) for text, place in found if text is not None]

    def bare(self, entry: Entry, what: str, *, with_item: bool = False) -> Expression | None:
        """Compile an expression that stands without `${ }`."""
        node = entry.value
        if not isinstance(node, Scalar) or node.value is None:
            self._error(
                node.place, f"{what} is {kind_of_node(node)}, not an expression", "write CEL, in quotes if need be"
            )
            return None
        if node.text.lstrip().startswith("${"):
            self._error(node.place, f"{what} is CEL as it stands, without ${{ }}", "remove ${ and }")
            return None
        return compile_at(self.source, node, node.text, 0, what, with_item=with_item)

    def wrong_kind(self, node: Node, what: str, wanted: str, remedy: str) -> None:
        """Report a node of another kind than the one wanted."""
        self._error(node.place, f"{what} is {kind_of_node(node)}, not {wanted}", remedy)

    def optional_text(self, entry: Entry | None, what: str) -> str | None:
        return self.text(entry, what) if entry is not None else None

    def is_known(self, value: str, place: Place, known: Collection[str], what: str) -> bool:
        """Tell whether a name is among the known ones; report it if not."""
        if value in known:
            return True
        close = nearest(value, known)
        remedy = f'did you mean "{close}"?' if close else f"known: {', '.join(known) or '(none)'}"
        self._error(place, what, remedy)
        return False


def locate(fields: Fields, path: str, *, of_key: bool = False) -> Place | None:
    """Return the place of a dotted path such as `userAction.mediaItems[0].type`, or of what comes nearest to it."""
    node: Node = fields
    place: Place | None = None
    while path:
        if isinstance(node, Items):
            match = re.match(r"\[(\d+)\]\.?", path)
            if match is None or int(match[1]) >= len(node.values):
                break
            node, path = node.values[int(match[1])], path[match.end() :]
            place = node.place
            continue
        entry = _longest(node, path) if isinstance(node, Fields) else None
        if entry is None:
            break
        path = path[len(entry.key) :].removeprefix(".")
        node = entry.value
        place = entry.place if of_key else node.place
    return place


def _longest(fields: Fields, path: str) -> Entry | None:
    """Return the entry whose key, which may hold dots, is the longest start of the path."""
    lower = path.lower()
    fitting = [
        entry
        for entry in fields.entries
        if lower.startswith(entry.key.lower()) and path[len(entry.key) : len(entry.key) + 1] in ("", ".", "[")
    ]
    return max(fitting, key=lambda entry: len(entry.key), default=None)


def kind_of_node(node: Node) -> str:
    match node:
        case Items():
            return "a list"
        case Fields():
            return "a mapping"
        case Scalar(value=None):
            return "empty"
        case Scalar(value=bool()):
            return "true or false"
        case Scalar(value=str()):
            return "text"
        case _:
            return "a number"
