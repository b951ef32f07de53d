"""A Gigya site: its settings, its data centre, its URLs. Pure; files named here are read elsewhere."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from worker.errors import Problem
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


class SignedAuth(BaseModel):
    """Mode `signed`: each request carries a signature, the secret never leaves the process."""

    model_config = _FROZEN

    mode: Literal["signed"] = Field(default="signed", description="How requests are authorized.")
    user_key: Annotated[str, Field(min_length=1)] = Field(
        description="The user key or application key (Console > Admin > Applications)."
    )
    secret: SecretStr = Field(description="Its secret: standard, padded base64.")

    @field_validator("user_key", mode="before")
    @classmethod
    def _without_white_space(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @field_validator("secret")
    @classmethod
    def _decodes(cls, value: SecretStr) -> SecretStr:
        decode_secret(value.get_secret_value())
        return value


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
    auth: SignedAuth = Field(description="How requests are authorized.")
    quota_per_s: Annotated[float, Field(gt=0, le=100_000, json_schema_extra={"unit": "requests per second"})] | None = (
        Field(default=50.0, description="Requests the site allows; null = no limit.")
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

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.data_center is None) == (self.base_url is None):
            raise ValueError("set data_center, or base_url in its place: exactly one of them")
        if self.ca_file is not None and self.base_url is None:
            raise ValueError("ca_file is for base_url; Gigya's own certificates are trusted through the system")
        return self

    def credentials(self) -> Credentials:
        """Return what signs the site's requests."""
        secret_key = decode_secret(self.auth.secret.get_secret_value())
        return Credentials(api_key=self.api_key, user_key=self.auth.user_key, secret_key=secret_key)


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
    quota_per_s: float | None = 50.0
    verdicts: Mapping[int, VerdictKind] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, name: str, settings: SiteSettings) -> Site:
        return cls(
            name=name,
            api_key=settings.api_key,
            domain=domain_of(settings.data_center) if settings.data_center else "",
            base_url=settings.base_url or "",
            ca_file=settings.ca_file,
            quota_per_s=settings.quota_per_s,
            verdicts=MappingProxyType(dict(settings.verdicts)),
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
