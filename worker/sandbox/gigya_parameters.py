"""Are the parameters of a request what the two API pages ask for?

Pure. Each check raises Refusal with the code a server would give: 400002 missing, 400004 malformed, 400006 not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

import orjson

from worker.sandbox.gigya_answers import Refusal
from worker.sandbox.gigya_config import Json

SUPPORTED_PROVIDERS = ("facebook", "twitter", "linkedin", "vkontakte", "renren", "sina")
COMMON = frozenset(
    {"apikey", "userkey", "secret", "sig", "timestamp", "nonce", "format", "callback", "httpstatuscodes", "sdk"}
)
_USUAL = frozenset({"apiKey", "userKey", "sig", "timestamp", "nonce", "format", "httpStatusCodes"})  # spares a lower()
_WHOLE = re.compile(r"-?[0-9]{1,18}\Z")
_MEDIA_FIELDS = {"image": ("src", "href"), "flash": ("src", "previewImageURL"), "video": ("src",), "mp3": ("src",)}
_ATTRIBUTE_VALUES = 3  # gm.notifyAction and socialize.publishUserAction: "no more than three values"
_CID_CHARACTERS = 100  # socialize.publishUserAction: cid


class Parameters:
    """The parameters of one request; names are looked up as written, then without regard to case (gigya-api 5.1)."""

    __slots__ = ("_folded", "sent")

    def __init__(self, sent: Mapping[str, str]) -> None:
        self.sent = sent
        self._folded: Mapping[str, str] | None = None

    def get(self, name: str) -> str | None:
        value = self.sent.get(name)
        if value is None:
            if self._folded is None:
                self._folded = {key.lower(): text for key, text in self.sent.items()}
            value = self._folded.get(name.lower())
        return value

    def need(self, name: str) -> str:
        """Return a parameter that must be there and not empty."""
        value = self.get(name)
        if not value:
            raise Refusal(400002, f"Missing required parameter : {name}")
        return value

    def business(self) -> dict[str, str]:
        """Return what is not authorization and not about the answer's form."""
        return {name: value for name, value in self.sent.items() if name not in _USUAL and name.lower() not in COMMON}

    def unknown(self, known: frozenset[str]) -> list[str]:
        """Return the business parameters whose lower-case name is not among `known`."""
        return [name for name in self.business() if name.lower() not in known]


Check = Callable[[Parameters, bool], None]


def check_notify_action(params: Parameters, strict_context: bool) -> None:
    """Check gm.notifyAction."""
    params.need("UID")
    params.need("action")
    points = params.get("points")
    if points and not _WHOLE.match(points):
        raise Refusal(400004, "Invalid parameter format : points must be a whole number")
    challenge_ids(params)
    _check_attributes(params)
    context = params.get("context")
    if context and strict_context:
        _object("context", context)


def check_publish_user_action(params: Parameters, strict_context: bool) -> None:
    """Check socialize.publishUserAction."""
    params.need("UID")
    _check_user_action("userAction", params.need("userAction"))
    for provider in SUPPORTED_PROVIDERS:
        override = params.get(f"{provider}UserAction")
        if override:
            _check_user_action(f"{provider}UserAction", override)
    _check_attributes(params)
    if len(params.get("cid") or "") > _CID_CHARACTERS:
        raise Refusal(400006, "Invalid parameter value : cid is longer than 100 characters")
    if params.get("shortURLs") not in (None, "", "always", "whenRequired", "never"):
        raise Refusal(400006, "Invalid parameter value : shortURLs")
    location = params.get("userLocation")
    if location:
        place = _object("userLocation", location)
        _check_coordinate(place, "latitude", 90)
        _check_coordinate(place, "longitude", 180)


def check_actions_log(params: Parameters, strict_context: bool) -> None:
    """Check gm.getActionsLog."""
    params.need("UID")
    for name in ("startTime", "endTime"):
        value = params.get(name)
        if value and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            raise Refusal(400004, f"Invalid parameter format : {name} must be Unix time")


def check_nothing(params: Parameters, strict_context: bool) -> None:
    """Check a method all of whose parameters are optional lists."""


def challenge_ids(params: Parameters) -> tuple[str, ...]:
    """Return `challengeIDs`: a comma list, a JSON array, or the page's own array with single quotes."""
    text = (params.get("challengeIDs") or "").strip()
    if not text.startswith("["):
        return split_list(text)
    try:
        ids = orjson.loads(text)
    except orjson.JSONDecodeError:
        quoted = re.fullmatch(r"\[\s*('[^']*'\s*(,\s*'[^']*'\s*)*)?\]", text)
        if quoted is None:
            raise Refusal(400004, "Invalid parameter format : challengeIDs is not an array") from None
        return tuple(re.findall(r"'([^']*)'", text))
    if not all(isinstance(item, str) for item in ids):
        raise Refusal(400004, "Invalid parameter format : challengeIDs must hold strings")
    return tuple(ids)


def split_list(text: str | None) -> tuple[str, ...]:
    """Return the parts of a comma list, without blanks and empty ones."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def links_of(params: Parameters) -> list[str]:
    """Return every linkBack of a publishUserAction that has been checked."""
    names = ["userAction", *(f"{provider}UserAction" for provider in SUPPORTED_PROVIDERS)]
    documents = (_object(name, text) for name in names if (text := params.get(name)))
    return [str(document["linkBack"]) for document in documents if document.get("linkBack")]


def _check_attributes(params: Parameters) -> None:
    text = params.get("actionAttributes")
    if not text:
        return
    count = 0
    for value in _object("actionAttributes", text).values():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise Refusal(400004, "Invalid parameter format : actionAttributes must hold strings or arrays of strings")
        count += len(values)
    if count > _ATTRIBUTE_VALUES:
        raise Refusal(400006, f"Invalid parameter value : actionAttributes has {count} values, 3 are allowed")


def _check_user_action(name: str, text: str) -> None:
    document = _object(name, text)
    for key in ("userMessage", "title", "subtitle", "linkBack", "description", "actionName"):
        if not isinstance(document.get(key, ""), str):
            raise Refusal(400004, f"Invalid parameter format : {name}.{key} must be a string")
    empty = next((key for key in _empty_keys(document, name)), None)
    if empty is not None:
        raise Refusal(400006, f"Invalid parameter value : {empty} is empty")
    link = document.get("linkBack")
    if link and not _is_absolute(str(link)):
        raise Refusal(400006, f"Invalid parameter value : {name}.linkBack is not an absolute URL")
    for item in _objects(document, name, "actionLinks"):
        if not item.get("title") or not _is_absolute(str(item.get("href", ""))):
            raise Refusal(400006, f"Invalid parameter value : {name}.actionLinks needs title and href")
    _check_media(_objects(document, name, "mediaItems"), name)


def _check_media(items: list[dict[str, Json]], name: str) -> None:
    kinds = {str(item.get("type")) for item in items}
    if not kinds <= _MEDIA_FIELDS.keys():
        raise Refusal(400006, f"Invalid parameter value : {name}.mediaItems has an unknown type")
    if len(kinds) > 1 and kinds != {"flash", "video"}:
        raise Refusal(400006, f"Invalid parameter value : {name}.mediaItems mixes types")
    for item in items:
        missing = [key for key in _MEDIA_FIELDS[str(item["type"])] if not item.get(key)]
        if missing:
            raise Refusal(400006, f"Invalid parameter value : {name}.mediaItems lacks {missing[0]}")


def _empty_keys(value: Json, path: str) -> Iterable[str]:
    """Yield the paths of empty values: the page asks to remove them."""
    if value is None or value in ("", [], {}):
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _empty_keys(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _empty_keys(item, f"{path}[{index}]")


def _check_coordinate(place: dict[str, Json], name: str, limit: int) -> None:
    value = place.get(name)
    if value is None:
        return
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever is no number is refused just below
    except (TypeError, ValueError):
        raise Refusal(400004, f"Invalid parameter format : userLocation.{name} is not a number") from None
    if not -limit <= number <= limit:
        raise Refusal(400006, f"Invalid parameter value : userLocation.{name} is out of range")


def _object(name: str, text: str) -> dict[str, Json]:
    try:
        value: Json = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refusal(400004, f"Invalid parameter format : {name} is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400004, f"Invalid parameter format : {name} is not a JSON object")
    return value


def _objects(document: dict[str, Json], name: str, key: str) -> list[dict[str, Json]]:
    items = document.get(key, [])
    if not isinstance(items, list):
        raise Refusal(400004, f"Invalid parameter format : {name}.{key} is not an array")
    objects = [item for item in items if isinstance(item, dict)]
    if len(objects) != len(items):
        raise Refusal(400004, f"Invalid parameter format : {name}.{key} must hold objects")
    return objects


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
