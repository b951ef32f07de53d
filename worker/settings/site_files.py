"""The files that a site's settings name: its private key, its CA certificates. Read here, because sites are pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

from worker.gigya.authorization import AnyCredentials
from worker.gigya.private_key import read_private_key
from worker.gigya.sites import SiteSettings
from worker.settings.yamlfile import MAX_BYTES


def credentials_of(site: SiteSettings) -> AnyCredentials:
    """Return what authorizes a site's requests, the private key read from its file where it stands in one.

    Raises ValueError for a file without a usable key.
    """
    file = site.auth.private_key_file
    return site.credentials(_text_of(file) if file is not None else None)


def problems_of(site: SiteSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with the files that a site names: the place below the site, and `what; remedy`."""
    if (file := site.auth.private_key_file) is not None:
        try:
            read_private_key(_text_of(file))
        except ValueError as error:
            yield ("auth", "private_key_file"), str(error)
    if site.ca_file is not None and (found := _wrong_with_certificates(site.ca_file)):
        yield ("ca_file",), found


def secrets_of(site: SiteSettings) -> Iterator[str]:
    """Yield the texts that logs must hide beside the settings' own secrets: the lines of private keys."""
    auth = site.auth
    texts = [auth.private_key.get_secret_value()] if auth.private_key is not None else []
    if auth.private_key_file is not None:
        try:
            texts.append(_text_of(auth.private_key_file))
        except ValueError:
            return
    for text in texts:
        # Line by line, because what quotes a part of it is not to be read either.
        yield from re.findall(r"[A-Za-z0-9+/=]{32,}", text.replace("\\n", "\n"))


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}; a relative path starts at the settings file's folder") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}; look at {file}") from None
    if len(data) > MAX_BYTES:
        raise ValueError("is larger than a megabyte; give the file with the private key")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            "is not text (DER, PKCS#12?); convert the key to PEM: openssl pkey -inform DER -in key -out key.pem"
        ) from None


def _wrong_with_certificates(file: Path) -> str:
    try:
        ssl.create_default_context(cafile=str(file))
    except FileNotFoundError:
        return f"there is no file {file}; a relative path starts at the settings file's folder"
    except ssl.SSLError:
        return "holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}; look at {file}"
    return ""
