"""Which calls exist: method, host, parameters, limits with their source, and what settles an ambiguous attempt. Pure.

A method is one definition here; a further one is one more. `format`, `callback`, `httpStatusCodes` and authorization
are the worker's and no parameters. Pages: gm.notifyAction REST and socialize.publishUserAction REST of Gigya's
developer guide, as public copies had them in 2015; "guide" names other pages of the same guide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import cast

import orjson

from worker.gigya.kinds import (
    Attributes,
    FreeObject,
    Kind,
    Length,
    ListOf,
    Names,
    Number,
    Shape,
    Text,
    WholeNumber,
    compact_json,
)
from worker.gigya.values import (
    DYNAMIC,
    DYNAMIC_TEXT,
    Dynamic,
    ParameterError,
    Place,
    Value,
    kind_of,
    misfits,
    nearest,
    prune,
    pruned,
)
from worker.model import CallName, Json, OutcomeKind

__all__ = [
    "DYNAMIC",
    "DYNAMIC_TEXT",
    "GET_ACTIONS_LOG",
    "GET_ACTION_CONFIG",
    "METHODS",
    "NOTIFY_ACTION",
    "PROVIDERS",
    "PUBLISH_USER_ACTION",
    "Call",
    "Dynamic",
    "Method",
    "Parameter",
    "ParameterError",
    "ReadMethod",
    "Settles",
    "Value",
]

# Providers that publishUserAction supports, and the names that enabledProviders and disabledProviders take.
PROVIDERS = ("facebook", "twitter", "linkedin", "vkontakte", "renren", "sina")
# Gigya counts these itself when its plugins and APIs are used: notifying them would count them twice.
BUILT_IN_ACTIONS = ("share", "comment", "login", "referral")
# What the worker adds to every request, and the other ways to authorize one.
RESERVED = frozenset(
    ("format", "callback", "httpStatusCodes", "apiKey", "userKey", "secret", "timestamp", "nonce", "sig", "sdk")
) | frozenset(("oauth_token", "client_id", "client_secret", "regToken"))


class Settles(StrEnum):
    """What can tell whether an attempt without an answer was executed."""

    ACTIONS_LOG = "actions_log"  # gm.getActionsLog, for the user and time
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One business parameter of a method."""

    name: str
    kind: Kind
    source: str
    required: bool = False
    needs: str = ""  # another parameter without which the API ignores this one
    max_distinct: int = 0  # so many different values a site should use in all, over all rules; 0 = no such limit

    @property
    def limits(self) -> str:
        parts = [self.kind.limits]
        if self.required:
            parts.append("required")
        if self.needs:
            parts.append(f"only with {self.needs}")
        if self.max_distinct:
            parts.append(f"at most {self.max_distinct} different ones")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class ReadMethod:
    """A method that the worker calls for itself, to ask the site something; rules cannot."""

    name: str
    host_prefix: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method that rules can call. `parameters` stand in the order in which they are sent."""

    name: str
    rule_key: str
    host_prefix: str
    parameters: tuple[Parameter, ...]
    settles: Settles
    event_id_in: str | None
    _by_name: Mapping[str, Parameter] = field(init=False, repr=False, compare=False, hash=False)
    _demanding: tuple[Parameter, ...] = field(init=False, repr=False, compare=False, hash=False)
    _places: Mapping[str, Place] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        by_name = {parameter.name: parameter for parameter in self.parameters}
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))
        object.__setattr__(self, "_demanding", tuple(one for one in self.parameters if one.required or one.needs))
        object.__setattr__(self, "_places", {name: Place(name, literal=False) for name in by_name})

    def parameter(self, name: str) -> Parameter | None:
        return self._by_name.get(name)

    def check(self, values: Mapping[str, Value]) -> list[ParameterError]:
        """Return all that can be judged before any event, for values as the rules file has them.

        `DYNAMIC` at any depth stands for what only an event can tell, `DYNAMIC_TEXT` for text that only an event can
        complete. Values are shown in the texts: they come from the rules file.
        """
        problems: list[ParameterError] = []
        for name, value in values.items():
            parameter, place = self._by_name.get(name), Place(name, literal=True)
            if parameter is None:
                problems.append(self._unknown(name))
            elif unfit := list(misfits(value, place)):
                problems += unfit
            elif (slim := prune(value)) is not None:
                problems += parameter.kind.problems(slim, place)
            elif value is not None and parameter.required:
                problems.append(place.error("is empty", f"{self.name} requires it"))
        misspelt = {name.lower() for name in values if name not in self._by_name}
        problems += (problem for problem in self._missing(values) if problem.parameter.lower() not in misspelt)
        return problems

    def encode(self, values: Mapping[str, Json]) -> dict[str, str]:
        """Return the parameters as they are sent, UID included: empty values left out, objects as compact JSON.

        Raises ParameterError for the first value that is missing, of a wrong kind or over a limit; its text shows no
        value.
        """
        if not values.keys() <= self._by_name.keys():
            raise next(self._unknown(name) for name in values if name not in self._by_name)
        sent: dict[str, str] = {}
        for parameter in self.parameters:
            name = parameter.name
            if (raw := values.get(name)) is None:
                continue
            place = self._places[name]
            if (value := pruned(raw, place)) is None:
                continue
            for problem in parameter.kind.problems(value, place):
                raise problem
            # The cast holds: what came in was Json, and pruning only leaves out.
            sent[name] = parameter.kind.text(cast("Json", value))
        for problem in self._missing(sent):
            raise problem
        return sent

    def _missing(self, given: Mapping[str, Value]) -> Iterator[ParameterError]:
        for parameter in self._demanding:
            if parameter.required and given.get(parameter.name) is None:
                yield self._places[parameter.name].error("is missing", f"{self.name} requires it")
            elif parameter.needs and not _is_empty(given.get(parameter.name)) and _is_empty(given.get(parameter.needs)):
                yield self._places[parameter.name].error(
                    f"is set without {parameter.needs}",
                    f"the API ignores it then; set {parameter.needs} too, or leave {parameter.name} out",
                )

    def _unknown(self, name: str) -> ParameterError:
        if meant := next((reserved for reserved in RESERVED if reserved.lower() == name.lower()), None):
            return ParameterError(meant, "is the worker's", "a rule cannot set it")
        close = nearest(name, self._by_name)
        remedy = f'did you mean "{close}"?' if close else f"{self.name} has {', '.join(self._by_name)}"
        return ParameterError(name, f"is an unknown parameter of {self.rule_key}", remedy)


def _is_empty(value: Value) -> bool:
    return value is None or (isinstance(value, str | Sequence | Mapping) and not value)


@dataclass(frozen=True, slots=True)
class Call:
    """One API call that must happen, ready to be signed. `repr` shows neither UID nor parameters."""

    method: Method = field(repr=False)
    site: str
    uid: str = field(repr=False)
    params: Mapping[str, str] = field(repr=False, hash=False)  # business parameters exactly as sent, UID included
    name: CallName
    stale_at_s: float | None = None  # Unix seconds; the call is stale when now is later
    dead_letter_on: frozenset[OutcomeKind] = frozenset()  # of CAPPED and STALE: ends the rule wants dead-lettered


@dataclass(frozen=True, slots=True)
class MediaItems:
    """The media of a user action: a list of items that are all of one type.

    Source: PAGE, "add only ONE type of media items". No maximum number is published.
    """

    types: Mapping[str, Shape]

    @property
    def limits(self) -> str:
        return "list of items of one type: " + ", ".join(self.types)

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if value is DYNAMIC:
            return
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            yield place.error(f"is {kind_of(value)}, not a list", "write a list of items")
            return
        seen: set[str] = set()
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                yield from self._problems_of_item(item, place.item(index))
                if isinstance(media_type := item.get("type"), str):
                    seen.add(media_type)
            elif item is not DYNAMIC:
                yield place.item(index).error(f"is {kind_of(item)}, not a mapping", "write a mapping with type and src")
        if len(seen) > 1:
            yield place.error("mixes media types", "the API takes one type for each action")

    def _problems_of_item(self, item: Mapping[str, Value], place: Place) -> Iterator[ParameterError]:
        media_type = item.get("type")
        if isinstance(media_type, Dynamic):
            return
        if not isinstance(media_type, str):
            yield place.field("type").error("is missing or not text", f"use one of {', '.join(self.types)}")
        elif (shape := self.types.get(media_type)) is None:
            hint = "; a video is sent as flash" if media_type == "video" else ""
            yield place.field("type").error(
                f"{place.shown(media_type)}is not a media type", f"use one of {', '.join(self.types)}{hint}"
            )
        else:
            yield from shape.problems(item, place)

    def text(self, value: Json) -> str:
        return compact_json(value)


_TEXT = Text()
_GM = "gm.notifyAction REST"
_PUB = "socialize.publishUserAction REST"
_UID = Parameter(
    "UID",
    _TEXT,
    required=True,
    source="both pages: required with Gigya's own authorization; with account linking it is the site's user id",
)
# At most three values in total, "with a single key or each have their own key" (both pages). No limit is published for
# the length or the characters of keys and values.
_ACTION_ATTRIBUTES = Parameter(
    "actionAttributes", Attributes(max_values=3), source=f"{_GM}; {_PUB}: no more than three"
)

# Fields and "add only ONE type of media items": publishUserAction page, UserAction JSON Representation; the absolute
# linkBack: guide, UserAction JS. All fields are optional and empty ones must be removed ("Please remove empty values").
_USER_ACTION = Shape(
    {
        "userMessage": _TEXT,
        "title": _TEXT,
        "subtitle": _TEXT,
        "linkBack": Text(absolute_url=True),
        "description": _TEXT,
        "actionName": _TEXT,
        "actionLinks": ListOf(Shape({"title": _TEXT, "href": _TEXT})),
        "mediaItems": MediaItems(
            {
                "image": Shape({"type": _TEXT, "src": _TEXT, "href": _TEXT}, required=("src",)),
                "flash": Shape(
                    {"type": _TEXT, "src": _TEXT, "previewImageURL": _TEXT}
                    | dict.fromkeys(("width", "height", "previewImageWidth", "previewImageHeight"), Length()),
                    required=("src",),
                ),
                "mp3": Shape(dict.fromkeys(("type", "src", "title", "artist", "album"), _TEXT), required=("src",)),
            }
        ),
    }
)

NOTIFY_ACTION = Method(
    name="gm.notifyAction",
    rule_key="notifyAction",
    host_prefix="gm",
    parameters=(
        _UID,
        Parameter(
            "action",
            Text(
                refused=BUILT_IN_ACTIONS,
                refused_because="Gigya counts its built-in actions itself; notify custom actions, or _points",
            ),
            required=True,
            source=f"{_GM}: a custom action, or _points; no need to notify Gigya's default actions",
        ),
        Parameter("points", WholeNumber(), source=f"{_GM}: whole numbers only, negative ones reduce points"),
        Parameter("challengeIDs", Names(), needs="points", source=f"{_GM}: used only in conjunction with points"),
        _ACTION_ATTRIBUTES,
        Parameter("context", FreeObject(), source=f"{_GM}: passed back unchanged in the response"),
    ),
    settles=Settles.ACTIONS_LOG,
    event_id_in="context",
)

PUBLISH_USER_ACTION = Method(
    name="socialize.publishUserAction",
    rule_key="publishUserAction",
    host_prefix="socialize",
    parameters=(
        _UID,
        Parameter("userAction", _USER_ACTION, required=True, source=f"{_PUB}: UserAction JSON"),
        *(
            Parameter(f"{provider}UserAction", _USER_ACTION, source=f"{_PUB}: overrides userAction for {provider}")
            for provider in PROVIDERS
        ),
        _ACTION_ATTRIBUTES,
        Parameter(
            "cid",
            Text(max_chars=100),
            max_distinct=100,
            source=f"{_PUB}: maximum 100 characters, not more than 100 different context IDs",
        ),
        Parameter("enabledProviders", Names(choices=PROVIDERS), source=f"{_PUB}: valid provider names"),
        Parameter("disabledProviders", Names(choices=PROVIDERS), source=f"{_PUB}: valid provider names"),
        Parameter(
            "shortURLs", Text(choices=("always", "whenRequired", "never")), source=f"{_PUB}: always is the default"
        ),
        Parameter("tags", Names(), source=f"{_PUB}: a comma separated list"),
        Parameter(
            "userLocation",
            Shape({"latitude": Number(-90, 90), "longitude": Number(-180, 180), "placeID": _TEXT}),
            source=f"{_PUB}: longitude -180 to 180, latitude -90 to 90, inclusive; Twitter only",
        ),
    ),
    settles=Settles.NOTHING,
    event_id_in=None,
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.rule_key: method for method in (NOTIFY_ACTION, PUBLISH_USER_ACTION)}
)

# Read-only, needs no UID: proves credentials, data centre and that the product is on (guide, gm.getActionConfig).
GET_ACTION_CONFIG = ReadMethod("gm.getActionConfig", "gm")
# What a user did between startTime and endTime, in Unix seconds (guide, gm.getActionsLog).
GET_ACTIONS_LOG = ReadMethod("gm.getActionsLog", "gm")


def links_in(params: Mapping[str, str]) -> tuple[str, ...]:
    """Return where a publish, as it is sent, links to something: dotted names without the links themselves.

    The site's approved domains are about these. Empty for other methods.
    """
    found: dict[str, None] = {}
    for name, text in params.items():
        if name.lower().endswith("useraction"):
            found |= dict.fromkeys(f"{name}.{field}" for field in _link_fields(orjson.loads(text)))
    return tuple(found)


def _link_fields(user_action: Mapping[str, Json]) -> Iterator[str]:
    if user_action.get("linkBack"):
        yield "linkBack"
    for name, fields in (("actionLinks", ("href",)), ("mediaItems", ("src", "href", "previewImageURL"))):
        items = user_action.get(name)
        for item in items if isinstance(items, Sequence) else ():
            if isinstance(item, Mapping):
                yield from (f"{name}.{field}" for field in fields if item.get(field))
