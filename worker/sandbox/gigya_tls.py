"""HTTPS for the local Gigya: certificates made for this machine, and key pairs, so that every way in is open."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.sandbox.certificates import Authority
from worker.sandbox.gigya_config import GigyaConfig, Json
from worker.sandbox.gigya_keys import new_key_pair

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, slots=True)
class Secured:
    """A configuration with key pairs for all its user keys, and the certificates to serve it with.

    In a test: `secured = Secured.begin(config, folder)`, `LocalGigya(secured.config)`, `start(tls=secured.context())`.
    """

    config: GigyaConfig  # with the public halves of the key pairs
    ca_file: Path  # what clients must trust
    cert_file: Path  # the server's private key and certificate
    private_keys: Mapping[tuple[str, str], str] = field(repr=False)  # PEM, by site and user key; those made here

    @classmethod
    def begin(cls, config: GigyaConfig, folder: Path, host: str = "127.0.0.1") -> Secured:
        """Write certificates into `folder` (made if need be), and make a key pair for each user key without one."""
        folder.mkdir(parents=True, exist_ok=True)
        hosts = LOCAL_NAMES if host in (*LOCAL_NAMES, *_EVERYWHERE) else (*LOCAL_NAMES, host)
        authority = Authority("local Gigya")
        ca_file, cert_file = folder / "ca.pem", folder / "server.pem"
        ca_file.write_bytes(authority.pem)
        cert_file.touch(mode=0o600)  # it holds a private key
        cert_file.write_bytes(authority.issue("localhost", hosts=hosts))
        document = config.model_dump(mode="json")
        private_keys: dict[tuple[str, str], str] = {}
        for name, site in document["sites"].items():
            for user_key, key in site["keys"].items():
                if not key["public_keys"]:
                    pair = new_key_pair()
                    key["public_keys"] = [pair.public_key]
                    private_keys[name, user_key] = pair.private_key
        return cls(GigyaConfig.model_validate(document), ca_file, cert_file, private_keys)

    def context(self) -> ssl.SSLContext:
        """Return what the server listens with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file)
        return context

    def shown(self, credentials: dict[str, Json]) -> dict[str, Json]:
        """Return credentials with what a client needs besides: `ca_file`, and each site's `private_key`."""
        sites = credentials["sites"]
        for name, site in sites.items() if isinstance(sites, dict) else ():
            if isinstance(site, dict) and (private_key := self.private_keys.get((name, str(site["user_key"])))):
                site["private_key"] = private_key
        return {**credentials, "ca_file": str(self.ca_file)}
