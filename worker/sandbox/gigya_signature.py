"""What did the client sign? Rebuilt from what arrived, without a line of the worker's own signing.

Pure. The rules are gigya-api 1.2; percent-decoding and -encoding are done here by hand, on purpose.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping

_FROM_HEX = {
    high.encode() + low.encode(): bytes([int(high + low, 16)])
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]*\Z")
_ENCODED = [chr(byte) if _UNRESERVED.match(chr(byte)) else f"%{byte:02X}" for byte in range(256)]
_DEFAULT_PORT = {"http": "80", "https": "443"}


class Malformed(ValueError):
    """The request cannot be read; the text says why and holds no value of it."""


def parse_parameters(*parts: bytes) -> dict[str, str]:
    """Return the parameters of a query and a form body together; where a parameter stands makes no difference.

    Raises Malformed for a bad escape, bytes that are not UTF-8, and a parameter given twice.
    """
    params: dict[str, str] = {}
    for part in parts:
        for pair in part.split(b"&"):
            if not pair:
                continue
            raw_name, _, raw_value = pair.partition(b"=")
            name = raw_name.decode() if raw_name.isalnum() else decode(raw_name)
            if name in params:
                raise Malformed("a parameter is given twice")
            params[name] = raw_value.decode() if raw_value.isalnum() else decode(raw_value)
    return params


def decode(text: bytes) -> str:
    """Undo form encoding: `+` and `%20` are a space. Raises Malformed."""
    if b"+" in text:
        text = text.replace(b"+", b" ")
    if b"%" in text:
        head, *tail = text.split(b"%")
        pieces = [head]
        for piece in tail:
            byte = _FROM_HEX.get(piece[:2])
            if byte is None:
                raise Malformed("a percent sign is not followed by two hexadecimal digits")
            pieces += (byte, piece[2:])
        text = b"".join(pieces)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a parameter is not UTF-8") from error


def encode(value: str) -> str:
    """Percent-encode every UTF-8 byte except letters, digits and `-._~`."""
    if _UNRESERVED.match(value):
        return value
    return "".join([_ENCODED[byte] for byte in value.encode("utf-8")])


def base_string(verb: str, scheme: str, host: str, path: str, params: Mapping[str, str]) -> str:
    """Return the text that must have been signed.

    `host` is the Host header, port included; the scheme's own port is dropped. `path` has no query. A parameter named
    `sig` is left out.
    """
    scheme = scheme.lower()
    name, colon, port = host.lower().rpartition(":")
    if colon and port == _DEFAULT_PORT.get(scheme):
        authority = name
    else:
        authority = host.lower()
    joined = "&".join([f"{key}={encode(params[key])}" for key in sorted(params) if key != "sig"])
    return f"{verb.upper()}&{encode(f'{scheme}://{authority}{path}')}&{encode(joined)}"


def sign(base: str, secret_key: bytes) -> str:
    """Return base64 of HMAC-SHA1 over the base string."""
    return base64.b64encode(hmac.digest(secret_key, base.encode("utf-8"), "sha1")).decode("ascii")
