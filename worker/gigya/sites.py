"""A Gigya site: its settings, its data centre, its URLs. Pure; files named here are read elsewhere."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from worker.errors import Problem
from worker.gigya.authorization import AnyCredentials, JwtCredentials, SecretCredentials
from worker.gigya.private_key import read_private_key
from worker.gigya.reasons import VerdictKind
from worker.gigya.signing import Credentials, decode_secret

# Short ids of data centres. Sources: SAP Help (2025) for us1 to global; the vendor's SDKs for il1 (not a customers'
# data centre) and ru1 (absent from SAP Help since 2025).
DATA_CENTERS: Mapping[str, str] = MappingProxyType(
    {
        "us1": "us1.gigya.com",
        "eu1": "eu1.gigya.com",
        "eu2": "eu2.gigya.com",
        "au1": "au1.gigya.com",
        "cn1": "cn1.sapcdm.cn",
        "ru1": "ru1.gigya.com",
        "global": "global.gigya.com",
        "il1": "il1.gigya.com",
    }
)
_STAGING = frozenset(("us1-st1.gigya.com", "eu1-st1.gigya.com", "au1-st1.gigya.com", "cn1-st1.gigya-api.cn"))
_KNOWN_DOMAINS = frozenset(DATA_CENTERS.values()) | _STAGING
_DOUBTFUL_DOMAINS = {
    "cn1.gigya-api.cn": "an old name; newer sources use cn1.sapcdm.cn",
    "ru1.gigya.com": "absent from SAP's present list of data centres",
}
_PREFIXES = ("gm.", "socialize.", "accounts.", "ds.")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_PARENT_DOMAINS = (".gigya.com", ".sapcdm.cn", ".gigya-api.cn")

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


MODES = ("signed", "secret", "jwt")
# What people call them elsewhere.
_OTHER_NAMES = {"hmac": "signed", "oauth1": "signed", "sig": "signed", "rs256": "jwt", "bearer": "jwt", "rsa": "jwt"}


class AuthSettings(BaseModel):
    """How requests to one site are authorized: a mode, a user key, and what that mode takes, no more."""

    model_config = ConfigDict(**_FROZEN, validate_default=True)  # a key that the mode wants is missed here

    mode: Literal["signed", "secret", "jwt"] = Field(
        default="signed",
        description="How requests are authorized: signed (HMAC; the secret stays here), secret (it goes along), "
        "jwt (a bearer token, RS256). secret and jwt: HTTPS only.",
    )
    user_key: Annotated[str, Field(min_length=1)] = Field(
        description="The user key or application key (Console > Admin > Applications)."
    )
    secret: SecretStr | None = Field(
        default=None, description="Its secret, for modes signed and secret: standard, padded base64."
    )
    private_key: SecretStr | None = Field(
        default=None, description="Its RSA private key (PEM), for mode jwt; or private_key_file in its place."
    )
    private_key_file: Path | None = Field(
        default=None, description="A file with the private key; read again when its content changes."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _is_a_mode(cls, value: object) -> object:
        if not isinstance(value, str) or value in MODES:
            return value
        folded = value.strip().lower()
        near = _OTHER_NAMES.get(folded) or next(iter(difflib.get_close_matches(folded, MODES, n=1)), "")
        raise ValueError("must be signed, secret or jwt" + (f"; did you mean {near}?" if near else ""))

    @field_validator("user_key", mode="before")
    @classmethod
    def _without_white_space(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @field_validator("secret")
    @classmethod
    def _is_the_secret_of_its_mode(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        mode = info.data.get("mode")
        if value is None:
            if mode in ("signed", "secret"):
                raise PydanticKnownError("missing")
            return None
        if mode == "jwt":
            raise ValueError("does not go with mode jwt, which takes a private key; remove it, or set mode: signed")
        decode_secret(value.get_secret_value())
        return value

    @field_validator("private_key")
    @classmethod
    def _is_an_rsa_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        _check_mode_takes_a_key(info)
        read_private_key(value.get_secret_value())
        return value

    @field_validator("private_key_file")
    @classmethod
    def _is_the_only_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None:
            _check_mode_takes_a_key(info)
        if info.data.get("mode") != "jwt" or "private_key" not in info.data:
            return value
        if value is None and info.data["private_key"] is None:
            raise ValueError("is missing; mode jwt takes the private key from this file, or from private_key")
        if value is not None and info.data["private_key"] is not None:
            raise ValueError("and private_key are both set; keep one of them")
        return value


def _check_mode_takes_a_key(info: ValidationInfo) -> None:
    if (mode := info.data.get("mode")) in ("signed", "secret"):
        raise ValueError(f"does not go with mode {mode}, which takes a secret; remove it, or set mode: jwt")


class SiteSettings(BaseModel):
    """One entry of the `sites:` section of the settings."""

    model_config = _FROZEN

    data_center: str | None = Field(
        default=None, description="The site's data centre: a short id (eu1, us1, ...) or a domain (eu1.gigya.com)."
    )
    base_url: str | None = Field(
        default=None,
        description="In place of data_center, for tests and proxies: calls go to <base_url>/<method>. "
        "Plain http on loopback only.",
    )
    ca_file: Path | None = Field(default=None, description="CA certificates (PEM) to trust for base_url.")
    api_key: Annotated[str, Field(min_length=1)] = Field(description="The site's API key.")
    auth: AuthSettings = Field(description="How requests are authorized.")
    quota_per_s: Annotated[float, Field(gt=0, le=100_000, json_schema_extra={"unit": "requests per second"})] | None = (
        Field(default=50.0, description="Requests the site allows; null = no limit.")
    )
    backfill_reserve_per_s: Annotated[
        float, Field(ge=0, le=100_000, json_schema_extra={"unit": "requests per second"})
    ] = Field(
        default=0.0,
        description="Of these, what the live worker leaves to backfills: it keeps to quota_per_s minus this. "
        "The same in every member.",
    )
    other_writers: bool = Field(
        default=False,
        description="Whether others than this worker notify the same actions of the same users. If so, an entry in the "
        "action log does not prove that a call of ours was executed, only its absence proves that it was not.",
    )
    verdicts: dict[int, VerdictKind] = Field(
        default_factory=dict, description="Other readings of error codes, e.g. {400126: stop}; see `explain`."
    )

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_white_space(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @field_validator("data_center")
    @classmethod
    def _is_a_data_center(cls, value: str | None) -> str | None:
        return None if value is None else _checked_data_center(value)

    @field_validator("base_url")
    @classmethod
    def _is_a_base_url(cls, value: str | None) -> str | None:
        return None if value is None else _checked_base_url(value)

    @field_validator("verdicts")
    @classmethod
    def _are_error_codes(cls, value: dict[int, VerdictKind]) -> dict[int, VerdictKind]:
        if wrong := [code for code in value if not 100_000 <= code <= 999_999]:
            raise ValueError(f"{wrong[0]} is not an error code: they have six digits (0 is always a success)")
        return value

    @field_validator("backfill_reserve_per_s")
    @classmethod
    def _leaves_something_to_the_live_worker(cls, value: float, info: ValidationInfo) -> float:
        if not value or "quota_per_s" not in info.data:
            return value
        quota_per_s = info.data["quota_per_s"]
        if quota_per_s is None:
            raise ValueError("needs a quota to be taken from; set quota_per_s, or leave this at 0")
        if value >= quota_per_s:
            raise ValueError(f"must be less than quota_per_s ({quota_per_s:g}), or the live worker could make no call")
        return value

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.data_center is None) == (self.base_url is None):
            raise ValueError("set data_center, or base_url in its place: exactly one of them")
        if self.ca_file is not None and self.base_url is None:
            raise ValueError("ca_file is for base_url; Gigya's own certificates are trusted through the system")
        return self

    @field_validator("auth")
    @classmethod
    def _is_safe_on_this_connection(cls, value: AuthSettings, info: ValidationInfo) -> AuthSettings:
        base_url = info.data.get("base_url")
        if value.mode != "signed" and isinstance(base_url, str) and base_url.startswith("http:"):
            # On loopback, too: Gigya answers 403006 or 400001 to it, and whoever tests this way learns the wrong thing.
            raise ValueError(
                f"mode {value.mode} is for HTTPS only, on loopback too, and base_url is plain http; set base_url to "
                "https, with ca_file where the certificate is your own, or mode: signed"
            )
        return value

    @property
    def live_quota_per_s(self) -> float | None:
        """Return the requests a second of all live workers together; None without a limit."""
        return None if self.quota_per_s is None else self.quota_per_s - self.backfill_reserve_per_s

    def credentials(self, private_key: str | None = None) -> AnyCredentials:
        """Return what authorizes the site's requests; `private_key` is the content of `auth.private_key_file`.

        Raises ValueError as `read_private_key` does.
        """
        auth = self.auth
        if auth.mode == "jwt":
            pem = private_key if auth.private_key is None else auth.private_key.get_secret_value()
            return JwtCredentials.of(self.api_key, auth.user_key, pem or "")
        secret = auth.secret.get_secret_value() if auth.secret is not None else ""
        if auth.mode == "secret":
            return SecretCredentials(self.api_key, auth.user_key, secret.strip())
        return Credentials(self.api_key, auth.user_key, decode_secret(secret))


class Addressed(Protocol):
    """What has a URL: `calls.Method` and `calls.ReadMethod`."""

    @property
    def name(self) -> str: ...
    @property
    def host_prefix(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Site:
    """One site, without its secret. Exactly one of `domain` and `base_url` is not empty."""

    name: str
    api_key: str = field(repr=False)
    domain: str = ""  # of the data centre, e.g. eu1.gigya.com
    base_url: str = ""  # without a slash at its end
    ca_file: Path | None = None
    quota_per_s: float | None = 50.0  # of live workers: what backfills have is not in it
    verdicts: Mapping[int, VerdictKind] = field(default_factory=dict, hash=False)
    other_writers: bool = False  # of the same actions of the same users

    @classmethod
    def of(cls, name: str, settings: SiteSettings) -> Site:
        return cls(
            name=name,
            api_key=settings.api_key,
            domain=domain_of(settings.data_center) if settings.data_center else "",
            base_url=settings.base_url or "",
            ca_file=settings.ca_file,
            quota_per_s=settings.live_quota_per_s,
            verdicts=MappingProxyType(dict(settings.verdicts)),
            other_writers=settings.other_writers,
        )


def url_of(site: Site, method: Addressed) -> str:
    """Return the URL of a method: https://<prefix>.<domain>/<method>, or <base_url>/<method>."""
    if site.base_url:
        return f"{site.base_url}/{method.name}"
    return f"https://{method.host_prefix}.{site.domain}/{method.name}"


def domain_of(data_center: str) -> str:
    """Return the domain of a data centre; a short id that nobody knows is taken for one below gigya.com."""
    if data_center in DATA_CENTERS:
        return DATA_CENTERS[data_center]
    return data_center if "." in data_center else f"{data_center}.gigya.com"


def data_center_problem(data_center: str, *, file: str, line: int = 0, column: int = 0) -> Problem | None:
    """Return a warning for a data centre that is not known, or not for long; None when there is nothing to say."""
    domain = domain_of(data_center)
    if (doubt := _DOUBTFUL_DOMAINS.get(domain)) is not None:
        return Problem(file, line, column, f"data_center {domain} is {doubt}", "make sure that it answers", "warn")
    if domain in _KNOWN_DOMAINS:
        return None
    known = ", ".join(DATA_CENTERS)
    what = f"data_center {domain} is not known"
    return Problem(file, line, column, what, f"known are {known}; calls go there all the same", "warn")


def is_gigya_domain(domain: str) -> bool:
    """Tell whether a domain is one of the vendor's, so that it may be shown when an answer names it."""
    return len(domain) <= 100 and bool(_DOMAIN.fullmatch(domain)) and domain.endswith(_PARENT_DOMAINS)


def _checked_data_center(value: str) -> str:
    text = value.strip().lower()
    if "/" in text or ":" in text:
        raise ValueError("data_center is a short id such as eu1 or a domain such as eu1.gigya.com, not a URL")
    if not _DOMAIN.fullmatch(text):
        raise ValueError("data_center is neither a short id such as eu1 nor a domain such as eu1.gigya.com")
    if text.startswith(_PREFIXES):
        raise ValueError(f"data_center goes without the host's prefix: write {text.partition('.')[2]}")
    return text


def _checked_base_url(value: str) -> str:
    text = value.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("base_url is not a URL; write it like https://proxy.example:8443/gigya") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", text):
        raise ValueError("base_url needs http or https and a host; write it like https://proxy.example:8443/gigya")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("base_url has a query, a fragment or a user in it; it takes scheme, host, port and path only")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("base_url is plain http, which is allowed on loopback only (127.0.0.1, localhost); use https")
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
