"""How a request is signed (mode *signed*): parameters in, signed parameters out. Pure: time and nonce are arguments.

The algorithm is the one that the vendor's Python, Java and PHP SDKs agree on: HMAC-SHA1 over the verb, the URL and the
sorted parameters, each value percent-encoded before the whole is encoded once more. Where they differ, the choice is
told at the function. `tests/gigya/signature-vectors.json` holds requests that those SDKs signed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_encoded_byte = [chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256)].__getitem__
_only_unreserved = re.compile(r"[A-Za-z0-9\-._~]*").fullmatch
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs a site's requests: the site's key, a user or application key, and the decoded secret of the latter.

    `repr` shows neither key nor secret.
    """

    api_key: str = field(repr=False)
    user_key: str = field(repr=False)
    secret_key: bytes = field(repr=False)


def decode_secret(secret: str) -> bytes:
    """Return the key bytes of a secret in standard, padded base64. White space around it is dropped.

    Raises ValueError, whose text never shows the secret, for anything else: the SDKs disagree on unpadded secrets, and
    two of them turn a URL-safe one into a useless key without a word. Surrounding white space is tolerated by all
    three (a secret file ends with a newline). Unused bits of the last character may be set: published secrets do so.
    """
    text = secret.strip()
    if not text:
        raise ValueError("the secret is empty; copy it from the Console (Admin > Applications)")
    if "-" in text or "_" in text:
        raise ValueError("the secret is URL-safe base64 (it holds - or _); Gigya's secrets are standard base64")
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text, re.ASCII):
        raise ValueError("the secret holds a character that base64 does not know; copy it again, whole and unquoted")
    if len(text) % 4:
        raise ValueError(
            f"the secret is not padded base64: {len(text)} characters are not a multiple of four; "
            "copy it whole, with the = signs at its end"
        )
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        # From None: the chained text is the library's, and nobody has promised that it never quotes its input.
        raise ValueError("the secret is not base64; copy it again from the Console (Admin > Applications)") from None


def base_string(method: str, url: str, params: Mapping[str, str | None]) -> str:
    """Return the text that is signed: verb, URL and parameters, each encoded, joined by `&`.

    `method` is the HTTP verb, in any case. Of the URL count scheme, host, a port that is not the scheme's own, and the
    path as it stands; query, fragment and user information do not. A parameter `sig` is left out, and so is one that
    is None; an empty one stays. Keys are sorted by code point (the same order as by UTF-8 byte) and not encoded by
    themselves. Raises ValueError for a URL without a usable host or port, and for half of a surrogate pair.
    """
    pairs = ((key, value) for key, value in params.items() if value is not None and key != "sig")
    joined = "&".join(f"{key}={percent_encode(value)}" for key, value in sorted(pairs))
    return f"{method.upper()}&{percent_encode(normal_url(url))}&{percent_encode(joined)}"


def signature(method: str, url: str, params: Mapping[str, str | None], secret: str) -> str:
    """Return the `sig` of a request: standard base64, with padding, of HMAC-SHA1 over its base string.

    Raises ValueError as `base_string` and `decode_secret` do.
    """
    return _signed(base_string(method, url, params), decode_secret(secret))


def signed_form(url: str, params: Mapping[str, str], credentials: Credentials, *, now_s: float, nonce: str) -> bytes:
    """Return the urlencoded body of a signed POST: `params`, what the worker adds, and `sig`.

    `now_s` is Unix time as the *site's* clock has it; it is sent in whole seconds. `nonce` must be new with every
    request. What the worker adds (apiKey, userKey, format, httpStatusCodes, timestamp, nonce) wins over `params`.

    Every value is encoded once. The joined pairs are the body as they stand, and their second encoding, for the base
    string, is three replacements: encoded values hold only unreserved characters and `%XX`.
    """
    fields = {
        **params,
        "apiKey": credentials.api_key,
        "format": "json",
        "httpStatusCodes": "false",
        "nonce": nonce,
        "timestamp": str(int(now_s)),
        "userKey": credentials.user_key,
    }
    fields.pop("sig", None)
    keys = sorted(fields)
    joined = "&".join([f"{key}={percent_encode(fields[key])}" for key in keys])
    if not _are_plain(keys):
        return _signed_form_of_odd_keys(url, fields, credentials)
    encoded_twice = joined.replace("%", "%25").replace("=", "%3D").replace("&", "%26")
    sig = _signed(_post_prefix(url) + encoded_twice, credentials.secret_key)
    encoded_sig = sig.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")  # all that base64 has to encode
    return f"{joined}&sig={encoded_sig}".encode("ascii")


def first_difference(ours: str, theirs: str) -> int | None:
    """Return the first position at which two base strings differ; None when they are equal.

    For the log, after a 403003: the position may be shown, the strings hold a user's data and may not.
    """
    if ours == theirs:
        return None
    shorter = min(len(ours), len(theirs))
    return next((at for at in range(shorter) if ours[at] != theirs[at]), shorter)


def percent_encode(value: str) -> str:
    """Return `value` with every UTF-8 byte but `A-Z a-z 0-9 - . _ ~` as `%XX` in upper case.

    Raises UnicodeEncodeError, a ValueError, for half of a surrogate pair. Measured against `urllib.parse.quote`: half
    the time for short texts of letters and for JSON alike.
    """
    if _only_unreserved(value):
        return value
    return "".join(map(_encoded_byte, value.encode()))


def normal_url(url: str) -> str:
    """Return the URL as it is signed: scheme and host in lower case, no default port, nothing after the path.

    An IPv6 address keeps its brackets and an empty path stays empty, as in the Java and PHP SDKs.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    host = parts.hostname
    if not scheme or not host:
        raise ValueError("a URL to sign needs a scheme and a host")
    if ":" in host:
        host = f"[{host}]"
    if parts.port is None or parts.port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}{parts.path}"
    return f"{scheme}://{host}:{parts.port}{parts.path}"


def _signed(base: str, secret_key: bytes) -> str:
    digest = hmac.digest(secret_key, base.encode(), "sha1")
    return binascii.b2a_base64(digest, newline=False).decode("ascii")


@lru_cache(maxsize=64)  # a worker has two URLs for each site; nothing of a user is kept here
def _post_prefix(url: str) -> str:
    return f"POST&{percent_encode(normal_url(url))}&"


def _are_plain(keys: Iterable[str]) -> bool:
    names = "".join(keys)
    return names.isascii() and names.isidentifier()


def _signed_form_of_odd_keys(url: str, fields: Mapping[str, str], credentials: Credentials) -> bytes:
    """Return the same as `signed_form` for keys that hold more than letters, digits and underscores."""
    sig = _signed(base_string("POST", url, fields), credentials.secret_key)
    pairs = [f"{percent_encode(key)}={percent_encode(value)}" for key, value in {**fields, "sig": sig}.items()]
    return "&".join(pairs).encode("ascii")
