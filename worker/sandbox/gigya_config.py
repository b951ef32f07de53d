"""What the local Gigya can be told: one tree, used to start it and, as a JSON merge patch, to change it while it runs.

Pure. Everything here is frozen; a patch makes a new, checked value.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from worker.sandbox.gigya_keys import public_key_of

Json: TypeAlias = JsonValue  # a recursive alias that pydantic can check

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """What all settings here have in common: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # input can be a secret


class Action(Settings):
    """One action of a site, as its Console would show it (gigya-api 5.2)."""

    points: int = 0
    daily_cap: Count | None = None  # times in 24 h for one user
    freq_cap_s: Seconds | None = None  # least time between two of one user
    enabled: bool = True
    title: str = ""
    description: str = ""
    challenges: tuple[str, ...] = ("_default",)  # an execution writes one log entry for each


class Quota(Settings):
    """How many requests a site may make; above it the answer is 403048 in a 200 body."""

    per_s: Annotated[float, Field(gt=0)] | None = None  # null = no limit
    window: Literal["sliding", "second"] = "sliding"  # any second, or the seconds of the clock
    per_day: Count | None = None
    counts_refused: bool = False  # whether a refused request uses quota too


class ProviderResult(Settings):
    """What a network answers to a post; the first entry that matches and is not used up decides."""

    provider: str
    code: int = 0
    message: str = ""
    details: str = ""
    uid: str | None = None  # only for this user
    count: Count | None = None  # so many times, then no more; null = always


class Providers(Settings):
    """The networks that users are connected to, and how posting goes."""

    connected: tuple[str, ...] = ("facebook", "twitter")
    connected_by_uid: Mapping[str, tuple[str, ...]] = {}
    results: tuple[ProviderResult, ...] = ()


class Key(Settings):
    """An application or user key. Several secrets or key pairs are accepted at once, as in a rotation."""

    secrets: tuple[str, ...] = Field(default=(), repr=False)  # for signatures, and sent along over TLS
    public_keys: tuple[str, ...] = ()  # PEM: of the key pairs that may sign bearer tokens
    refused_with: int | None = None  # revoked: answer this code (403003, 403005, 403010, ...) whatever the signature

    @field_validator("secrets")
    @classmethod
    def _decodable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for secret in value:
            decode_secret(secret)
        return value

    @field_validator("public_keys")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pem in value:
            public_key_of(pem)
        return value

    @model_validator(mode="after")
    def _can_be_proved(self) -> Self:
        if not self.secrets and not self.public_keys:
            raise ValueError("a key needs a secret or a public key")
        return self


def _local_keys() -> Mapping[str, Key]:
    return {"AKlocal": Key(secrets=(new_secret(),))}


class Site(Settings):
    """One Gigya site."""

    api_key: str = "3_local"
    keys: Mapping[str, Key] = Field(default_factory=_local_keys)
    partner_secret: str | None = Field(default=None, repr=False)  # signing without userKey; refused since 2023
    quota: Quota = Quota()
    in_flight_per_uid: int | None = 5  # more at once: 409030
    actions: Mapping[str, Action] = {}
    accept_any_action: bool = True  # an action that is not listed is known, enabled, worth 0 points and uncapped
    providers: Providers = Providers()
    approved_domains: tuple[str, ...] | None = None  # of linkBack; subdomains included; null = every domain
    unapproved_link_code: int = 400120  # no public source names the code of a refused linkBack
    known_users: frozenset[str] | None = None  # null = everybody
    unknown_users: frozenset[str] = frozenset()
    unknown_user_code: int = 403005


class Nonces(Settings):
    """How nonces are remembered; the real rules are not published, so every one can be had."""

    retention_s: Seconds | None = 600.0  # 0 = none, null = for ever
    burnt: Literal["before_refusals", "after_refusals"] = "before_refusals"  # after: only what was executed is burnt
    scope: Literal["key", "site", "server"] = "key"
    reused_jti_code: int = 400008  # a bearer token's second use; no public source names the code


class Latency(Settings):
    """How long the server works on a request: admitted at arrival, executed at the end."""

    distribution: Literal["fixed", "uniform", "lognormal"] = "fixed"
    ms: Annotated[float, Field(ge=0)] = 0.0  # the time; the lower bound; the median
    upper_ms: Annotated[float, Field(ge=0)] = 0.0  # unused; the upper bound; the 99th percentile


class LedgerSettings(Settings):
    """How much is remembered; null = everything. What is dropped is counted, and counts are never dropped."""

    executed_kept: Count | None = None
    arrivals_kept: Count | None = 200_000
    actions_log_per_user: Count | None = 1_000  # 0 switches gm.getActionsLog's memory off


class GigyaConfig(Settings):
    """The whole local Gigya."""

    sites: Mapping[str, Site] = Field(default_factory=lambda: {"main": Site()})
    timestamp_window_s: Seconds | None = 120.0  # further away from the server's clock: 403002; null = not checked
    clock_offset_s: float = 0.0  # added to the server's clock: Date, time, window, actions log
    nonces: Nonces = Nonces()
    latency: Latency = Latency()
    check_parameters: bool = True
    strict_context: bool = True  # context must be a JSON object, as its page says
    unknown_parameters: Literal["ignored", "refused"] = "ignored"  # ignored ones are named in ignoredParams
    actions_log_delay_s: Seconds = 0.0  # an execution shows in gm.getActionsLog only after so long
    trust_forwarded_proto: bool = False  # X-Forwarded-Proto gives the scheme, as behind a TLS proxy
    gzip: bool = False  # compress answers to clients that accept it (the real one always does)
    keep_alive_s: Seconds = 75.0
    seed: int = 0
    ledger: LedgerSettings = LedgerSettings()

    @field_validator("sites")
    @classmethod
    def _one_api_key_each(cls, value: Mapping[str, Site]) -> Mapping[str, Site]:
        if len({site.api_key for site in value.values()}) != len(value):
            raise ValueError("two sites have the same api_key")
        return value


FaultKind = Literal[
    "code",
    "status",
    "html",
    "empty",
    "truncated",
    "cut",
    "wrong_content_type",
    "garbage",
    "redirect",
    "reset_before_execution",
    "reset_after_execution",
    "timeout_before",
    "timeout_after",
    "slow",
    "slow_body",
]
_EXECUTING = {"truncated", "cut", "wrong_content_type", "slow_body", "reset_after_execution", "timeout_after"}
_NEVER_EXECUTING = {"reset_before_execution", "timeout_before"}


class Fault(Settings):
    """Something that goes wrong for the requests it matches; of several faults the oldest that matches is taken.

    `slow` is the exception: it only adds `ms` before the execution, and other faults may follow.
    """

    kind: FaultKind
    # what it does
    code: int = 500001  # kind code, and the body of kinds that show one without an execution
    status: int | None = None  # HTTP status; each kind has its own default
    fields: Mapping[str, Json] = {}  # added to the body
    headers: Mapping[str, str] = {}  # e.g. Retry-After
    location: str = "https://elsewhere.invalid/"  # of redirect
    ms: Annotated[float, Field(ge=0)] = 1000.0  # of slow and slow_body
    executes: bool | None = None  # the call is executed although the answer is this; null = as the kind says
    stage: Literal["front", "api"] | None = None  # front: before anything was verified; api: after admission
    # what it meets
    site: str | None = None
    method: str | None = None  # "gm.notifyAction"
    uid: str | None = None
    share: Share = 1.0
    seed: int = 0
    skip: Count = 0  # let so many matching requests pass first
    count: Count | None = None  # then meet so many; null = no limit
    duration_s: Seconds | None = None  # counted from the injection

    @property
    def is_executing(self) -> bool:
        if self.kind in _NEVER_EXECUTING:
            return False
        return self.kind in _EXECUTING if self.executes is None else self.executes

    @property
    def label(self) -> str:
        """The fault's name in ledger and counts: its kind, and the code it shows where that is the point."""
        return f"code:{self.code}" if self.kind == "code" else self.kind

    @property
    def where(self) -> Literal["front", "api"]:
        return self.stage or ("api" if self.kind == "code" or self.is_executing else "front")


Model = TypeVar("Model", bound=Settings)


def patched(settings: Model, patch: Mapping[str, Json]) -> Model:
    """Return `settings` with a JSON merge patch (RFC 7396) applied; null takes a key back to its default.

    Raises pydantic's ValidationError, a ValueError, when the result would be wrong.
    """
    current: Json = settings.model_dump(mode="json")
    return type(settings).model_validate(_merged(current, dict(patch)))


def _merged(target: Json, patch: Json) -> Json:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def new_secret() -> str:
    """Return a fresh secret of the shape Gigya hands out: base64 of 32 bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def decode_secret(secret: str) -> bytes:
    """Return the HMAC key of a base64 secret; raises ValueError when it is none."""
    try:
        return base64.b64decode(secret, validate=True)
    except binascii.Error as error:
        raise ValueError("a secret must be standard base64 with padding") from error
