"""RSA key pairs of application keys: made as Gigya's Console makes them, and read. Pure but for chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves in PEM; the private one is PKCS#8."""

    private_key: str = field(repr=False)
    public_key: str


def new_key_pair(bits: int = 2048) -> KeyPair:
    """Return a fresh key pair; takes some 0.1 s."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = generate_private_key(public_exponent=65537, key_size=bits)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(private.decode("ascii"), public.decode("ascii"))


@lru_cache(maxsize=64)
def public_key_of(pem: str) -> RSAPublicKey:
    """Return an RSA public key. Raises ValueError for anything else."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey):
        raise ValueError("a public key must be RSA")  # noqa: TRY004 - pydantic wants a ValueError
    return key
