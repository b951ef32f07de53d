"""Private keys as people paste them: repaired where only one thing can be meant, else refused by name, never quoted."""

from __future__ import annotations

import base64
import json
import re
import textwrap

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.gigya import private_key
from worker.gigya.private_key import read_private_key

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PKCS8 = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PKCS1 = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
NUMBERS = KEY.private_numbers()


def bare(pem: str) -> str:
    return "".join(pem.splitlines()[1:-1])


MANGLED = {
    "as it was": lambda pem: pem,
    "with Windows line ends": lambda pem: pem.replace("\n", "\r\n"),
    "with old Mac line ends": lambda pem: pem.replace("\n", "\r"),
    "with literal backslash n": lambda pem: pem.replace("\n", "\\n"),
    "with literal backslash r backslash n": lambda pem: pem.replace("\n", "\\r\\n"),
    "escaped twice": lambda pem: pem.replace("\n", "\\\\n"),
    "with a literal backslash n before each line end": lambda pem: pem.replace("\n", "\\n\n"),
    "with line continuations": lambda pem: pem.replace("\n", "\\\n"),
    "on one line with spaces": lambda pem: pem.replace("\n", " "),
    "on one line with tabs": lambda pem: pem.replace("\n", "\t"),
    "on one line with nothing": lambda pem: pem.replace("\n", ""),
    "with the backslashes lost": lambda pem: pem.replace("\n", "n"),
    "with empty lines between": lambda pem: pem.replace("\n", "\n\n"),
    "indented": lambda pem: textwrap.indent(pem, "    "),
    "in double quotes": lambda pem: f'"{pem}"',
    "in single quotes and escaped": lambda pem: "'" + pem.replace("\n", "\\n") + "'",
    "as a JSON string": json.dumps,
    "with a byte order mark": lambda pem: "\ufeff" + pem,
    "with text around it": lambda pem: f"Bag Attributes\n  friendlyName: key\n{pem}\nthe end\n",
    "without BEGIN and END": bare,
    "without BEGIN and END, in lines": lambda pem: "\n".join(pem.splitlines()[1:-1]),
    "as base64 of the whole": lambda pem: base64.b64encode(pem.encode()).decode(),
    "as base64 of the whole, in lines": lambda pem: base64.encodebytes(pem.encode()).decode(),
    "with another kind's BEGIN line": lambda pem: re.sub(
        "(RSA )?PRIVATE KEY", "PRIVATE KEY" if "RSA" in pem else "RSA PRIVATE KEY", pem
    ),
}


@pytest.mark.parametrize("pem", [PKCS8, PKCS1], ids=["PKCS8", "PKCS1"])
@pytest.mark.parametrize("how", MANGLED)
def test_a_mangled_key_that_can_mean_one_thing_is_read(how: str, pem: str) -> None:
    assert read_private_key(MANGLED[how](pem)).private_numbers() == NUMBERS


@pytest.mark.parametrize("bits", [2048, 3072])
def test_keys_with_lost_backslashes_are_read_whatever_the_length_of_the_last_line(bits: int) -> None:
    for _ in range(2):
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            pem = key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
            assert read_private_key(pem.replace("\n", "n")).private_numbers() == key.private_numbers()


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


EC = ec.generate_private_key(ec.SECP256R1())
PASSPHRASE = BestAvailableEncryption(b"passphrase")
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
LINES = PKCS8.splitlines()
REFUSED = {
    "nothing": ("", "is empty"),
    "white space": (" \n ", "is empty"),
    "a path": ("/run/secrets/gigya.pem", "a path goes into private_key_file"),
    "a secret": ("c2VjcmV0LXNlY3JldC1zZWNyZXQ=", "is not in PEM"),
    "words": ("my private key", "is not in PEM"),
    "an encrypted key": (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PASSPHRASE).decode(), "is encrypted"),
    "an encrypted key of the older kind": (
        KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, PASSPHRASE).decode(),
        "is encrypted",
    ),
    "an encrypted key without its lines": (
        bare(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PASSPHRASE).decode()),
        "is encrypted",
    ),
    "an EC key": (pem_of(EC), "is no RSA key"),
    "an EC key of the older kind": (pem_of(EC, PrivateFormat.TraditionalOpenSSL), "elliptic-curve"),
    "an Ed25519 key": (
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "is no RSA key",
    ),
    "a DSA key": (
        dsa.generate_private_key(2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "is no RSA key",
    ),
    "an OpenSSH key": (KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(), "OpenSSH"),
    "a public key": (
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "is a public key",
    ),
    "a public key of the older kind": (
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode(),
        "is a public key",
    ),
    "a public key without its lines": (
        bare(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()),
        "is a public key",
    ),
    "a certificate": ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "is a certificate"),
    "a message": ("-----BEGIN PGP MESSAGE-----\nMIIB\n-----END PGP MESSAGE-----", "is no private key"),
    "two keys": (PKCS8 + PKCS1, "more than one private key"),
    "a JWK": ('{"kty": "RSA", "n": "abc"}', "JWK"),
    "no END": ("\n".join(LINES[:-1]), "is cut off"),
    "no BEGIN": ("\n".join(LINES[1:]), "no whole BEGIN line"),
    "a line missing": ("\n".join([*LINES[:5], *LINES[6:]]), "cannot be read"),
    "a character missing": (PKCS8.replace(LINES[5], LINES[5][1:]), "is cut off"),
    "a character changed": (PKCS8.replace(LINES[3], "!" + LINES[3][1:]), "holds characters"),
    "dots for line ends": (PKCS8.replace("\n", "."), "holds characters"),
    "a key that is too small": (pem_of(SMALL), "has 1024 bits"),
    "bits that do not belong together": (PKCS8.replace(LINES[12], LINES[12][::-1]), "cannot be read"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused_by_name_and_not_quoted(what: str) -> None:
    text, expected = REFUSED[what]
    with pytest.raises(ValueError) as refused:
        read_private_key(text)
    assert expected in str(refused.value)
    words = {text[start : start + 16] for start in range(0, len(text) - 16, 16)} - {"-----BEGIN PRIVA"}
    assert not [word for word in words if word in str(refused.value) and "-----" not in word]
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_key_that_would_make_every_request_slow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_key, "LARGEST_BITS", 2047)  # making one of 8192 bits takes ten seconds
    with pytest.raises(ValueError, match="has 2048 bits, too slow"):
        read_private_key(PKCS8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(PKCS8) - 1), st.integers(0, 40), st.text(max_size=5))
def test_no_damage_makes_anything_but_a_key_or_a_text(at: int, length: int, put: str) -> None:
    refusal: ValueError | None = None
    try:
        read_private_key(PKCS8[:at] + put + PKCS8[at + length :])
    except ValueError as refused:
        refusal = refused
    assert refusal is None or (type(refusal) is ValueError and "\n" not in str(refusal))
