"""The private key of mode *jwt*: read from text that has been through environment variables, consoles and clipboards.

Gigya shows a key once, as PEM; what arrives here often has lost its line breaks. What can only mean one thing is
repaired; anything else is refused with a text that says what it is and never quotes it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# RFC 7518, section 3.3: "A key of size 2048 bits or larger MUST be used with these algorithms."
SMALLEST_BITS = 2048
# Signing takes the event loop's time: measured 0.4 ms with 2048 bits, 1 ms with 3072, 2 ms with 4096, 33 ms with 8192.
LARGEST_BITS = 4096

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
# Line breaks whose backslash was lost: full lines of 64, and an n where each break was.
_LETTER_N = re.compile(r"n(?:[A-Za-z0-9+/]{64}n)*[A-Za-z0-9+/]{1,64}={0,2}n", re.ASCII)
_COPY_AGAIN = "copy it again, from the BEGIN line to the END line"
_NO_RSA_KEY = "is no RSA key; Gigya's bearer tokens are RS256, which takes an RSA key"
_NOT_A_KEY = {
    "ENCRYPTED PRIVATE KEY": (
        "is encrypted with a passphrase, and no setting gives one; decrypt it: openssl pkey -in key.pem -out plain.pem"
    ),
    "EC PRIVATE KEY": "is an elliptic-curve key; Gigya's bearer tokens are RS256, which takes an RSA key",
    "DSA PRIVATE KEY": "is a DSA key; Gigya's bearer tokens are RS256, which takes an RSA key",
    "OPENSSH PRIVATE KEY": "is in OpenSSH's own format; convert it: ssh-keygen -p -m PEM -f key",
    "PUBLIC KEY": "is a public key; the private one is wanted, which Gigya's Console shows once",
    "RSA PUBLIC KEY": "is a public key; the private one is wanted, which Gigya's Console shows once",
    "CERTIFICATE": "is a certificate; the private key is wanted",
    "CERTIFICATE REQUEST": "is a certificate request; the private key is wanted",
}


def read_private_key(text: str) -> RSAPrivateKey:
    """Return the RSA key of a PEM text (PKCS#8 or PKCS#1), its line breaks repaired where they were mangled.

    Also read: the base64 alone, without BEGIN and END lines, and base64 of the whole PEM. Raises ValueError, whose
    text completes "the private key ..." and never quotes it.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    label, der = _der_of(_unquoted(text))
    key = _loaded(label, der)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError(_NO_RSA_KEY)  # noqa: TRY004 - the text is wrong, not the type of an argument
    if key.key_size < SMALLEST_BITS:
        raise ValueError(f"has {key.key_size} bits, and RS256 wants {SMALLEST_BITS} or more; make a new key pair")
    if key.key_size > LARGEST_BITS:
        raise ValueError(f"has {key.key_size} bits, too slow to sign each request with; {SMALLEST_BITS} are usual")
    return key


def _unquoted(text: str) -> str:
    """Return a text without what shells, .env files and editors leave around it, its line breaks real ones."""
    text = text.removeprefix("\ufeff").strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        text = text[1:-1].strip()
    # Any number of backslashes: each layer of JSON, YAML or shell quoting that was not undone doubles them.
    text = re.sub(r"\\+[rn]", "\n", text)
    return re.sub(r"\\+\s*\n", "\n", text).replace("\r", "\n").strip()


def _der_of(text: str, *, may_be_wrapped: bool = True) -> tuple[str, bytes]:
    """Return the label of the only private key in a text (empty without BEGIN and END lines) and its bytes."""
    blocks = [(label, body) for label, body in _BLOCK.findall(text)]
    private = [(label, body) for label, body in blocks if label.endswith("PRIVATE KEY")]
    if len(private) > 1:
        raise ValueError("holds more than one private key; keep the one that Gigya gave for this user key")
    if private:
        label, body = private[0]
        if label in _NOT_A_KEY:
            raise ValueError(_NOT_A_KEY[label])
        if "ENCRYPTED" in body:  # Proc-Type: 4,ENCRYPTED, the older way
            raise ValueError(_NOT_A_KEY["ENCRYPTED PRIVATE KEY"])
        return label, _decoded(body)
    if blocks:
        label = blocks[0][0]
        raise ValueError(_NOT_A_KEY.get(label, "is no private key; its BEGIN line names something else"))
    return _der_without_lines(text, may_be_wrapped=may_be_wrapped)


def _der_without_lines(text: str, *, may_be_wrapped: bool) -> tuple[str, bytes]:
    if not text:
        raise ValueError("is empty; it begins with -----BEGIN PRIVATE KEY-----")
    if _BEGIN.search(text):
        raise ValueError(f"is cut off: its END line is missing, or another one; {_COPY_AGAIN}")
    if "-----END" in text or "----BEGIN" in text:
        raise ValueError(f"has no whole BEGIN line; {_COPY_AGAIN}")
    if text.startswith("{"):
        raise ValueError("is JSON, a JWK by the look of it; PEM is wanted: -----BEGIN PRIVATE KEY-----")
    body = "".join(text.split())
    if not _BASE64.fullmatch(body) or len(body) < 100:
        looks_like_a_path = len(text) < 300 and re.search(r"[/\\]|\.(pem|key|txt)$", text) is not None
        hint = "a path goes into private_key_file" if looks_like_a_path else "PEM begins with -----BEGIN PRIVATE KEY"
        raise ValueError(f"is not in PEM; {hint}")
    der = _decoded(body)
    if der.startswith(b"-----BEGIN ") and may_be_wrapped:
        return _der_of(_unquoted(der.decode("ascii", "replace")), may_be_wrapped=False)
    return "", der


def _decoded(body: str) -> bytes:
    packed = "".join(body.split())
    if packed.startswith("nM") and _LETTER_N.fullmatch(packed):  # base64 of DER begins with M, never with n
        inner = packed[1:-1]
        packed = "".join(inner[start : start + 64] for start in range(0, len(inner), 65))
    if not _BASE64.fullmatch(packed):
        raise ValueError(f"holds characters between its BEGIN and END lines that PEM does not know; {_COPY_AGAIN}")
    if len(packed) % 4:
        raise ValueError(f"is cut off, or its line breaks were replaced by something else; {_COPY_AGAIN}")
    try:
        return base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise ValueError(f"is not base64 between its BEGIN and END lines; {_COPY_AGAIN}") from None


def _loaded(label: str, der: bytes) -> object:
    """Return the key of a DER text. What it is decides, not what its BEGIN line says: the two are often mixed up."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

    try:
        return load_der_private_key(der, password=None)
    except TypeError:  # how the library says that it wants a passphrase
        raise ValueError(_NOT_A_KEY["ENCRYPTED PRIVATE KEY"]) from None
    except UnsupportedAlgorithm:
        raise ValueError("is of a kind that RS256 does not take; an RSA key is wanted") from None
    except ValueError:
        pass
    try:
        load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"cannot be read: cut off, changed, or no key in PKCS#8 or PKCS#1; {_COPY_AGAIN}") from None
    raise ValueError(_NOT_A_KEY["PUBLIC KEY"])
