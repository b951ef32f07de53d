"""The `auth:` of a site: three modes, each with its own keys; what does not fit is refused at its place, unquoted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from worker.cli.problems import one_line
from worker.errors import Refused
from worker.gigya.authorization import JwtCredentials, SecretCredentials
from worker.sandbox.certificates import Authority
from worker.settings.site_files import credentials_of, secrets_of
from worker.settings.tree import Loaded, effective, load

SECRET = "aHVudGVyMmh1bnRlcjI="  # padded base64
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
ONE_LINE = PEM.replace("\n", "\\n")
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PARTS = [line for line in PEM.splitlines() if "-----" not in line]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key.pem").write_text(PEM)
    Path("public.pem").write_text(PUBLIC)
    Path("key.der").write_bytes(KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    Path("ca.pem").write_bytes(Authority().pem)


def text(auth: str, address: str = "data_center: eu1") -> str:
    return f"""\
kafka: {{bootstrap_servers: "localhost:9092", group_id: g, topics: [t], dead_letter_topic: t.dead}}
sites:
  main:
    {address}
    api_key: 3_abc
    auth: {{{auth}}}
"""


def loaded(auth: str, address: str = "data_center: eu1", environ: Mapping[str, str] | None = None) -> Loaded:
    Path("worker.yaml").write_text(text(auth, address))
    return load(Path("worker.yaml"), environ=environ or {})


def lines(auth: str, address: str = "data_center: eu1", environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(Refused) as refused:
        loaded(auth, address, environ)
    return [one_line(problem) for problem in refused.value.problems]


def in_file(pem: str) -> dict[str, str]:
    return {"WORKER_SITES__MAIN__AUTH__PRIVATE_KEY": pem}


REFUSED = {
    "an unknown mode": (
        f"mode: singed, user_key: AK, secret: {SECRET}",
        "worker.yaml:6:18: error: sites.main.auth.mode: must be signed, secret or jwt; did you mean signed?",
    ),
    "a mode by another name": ("mode: RS256, user_key: AK, private_key_file: key.pem", "did you mean jwt?"),
    "a mode in capitals": ("mode: JWT, user_key: AK, private_key_file: key.pem", "did you mean jwt?"),
    "a mode that is nothing like one": (
        "mode: kerberos, user_key: AK",
        "sites.main.auth.mode: must be signed, secret or jwt",
    ),
    "a number for a mode": ("mode: 1, user_key: AK", "sites.main.auth.mode: must be text"),
    "no secret": (
        "mode: signed, user_key: AK",
        "sites.main.auth.secret: is missing; set it, or WORKER_SITES__MAIN__AUTH__SECRET, or the secret file",
    ),
    "no secret in mode secret": ("mode: secret, user_key: AK", "sites.main.auth.secret: is missing"),
    "no secret and no mode": ("user_key: AK", "sites.main.auth.secret: is missing"),
    "no private key": (
        "mode: jwt, user_key: AK",
        "sites.main.auth.private_key_file: is missing; mode jwt takes the private key from this file",
    ),
    "two private keys": (
        f'mode: jwt, user_key: AK, private_key_file: key.pem, private_key: "{ONE_LINE}"',
        "sites.main.auth.private_key_file: and private_key are both set; keep one of them",
    ),
    "a secret in mode jwt": (
        f"mode: jwt, user_key: AK, private_key_file: key.pem, secret: {SECRET}",
        "sites.main.auth.secret: does not go with mode jwt",
    ),
    "a key file in mode signed": (
        f"mode: signed, user_key: AK, secret: {SECRET}, private_key_file: key.pem",
        "sites.main.auth.private_key_file: does not go with mode signed",
    ),
    "a private key and no mode": (
        f'user_key: AK, secret: {SECRET}, private_key: "{ONE_LINE}"',
        "sites.main.auth.private_key: does not go with mode signed, which takes a secret; remove it, or set mode: jwt",
    ),
    "a key file that is not there": (
        "mode: jwt, user_key: AK, private_key_file: no.pem",
        "worker.yaml:6:55: error: sites.main.auth.private_key_file: there is no file ",
    ),
    "a folder for a key file": ("mode: jwt, user_key: AK, private_key_file: .", "private_key_file: cannot be read"),
    "a DER file": ("mode: jwt, user_key: AK, private_key_file: key.der", "private_key_file: is not text (DER"),
    "a public key's file": ("mode: jwt, user_key: AK, private_key_file: public.pem", "is a public key"),
    "a path for a key": (
        "mode: jwt, user_key: AK, private_key: /run/secrets/key.pem",
        "sites.main.auth.private_key: is not in PEM; a path goes into private_key_file",
    ),
    "half a key": (f'mode: jwt, user_key: AK, private_key: "{ONE_LINE[:400]}"', "private_key: is cut off"),
    "no user key": ("mode: jwt, private_key_file: key.pem", "sites.main.auth.user_key: is missing"),
    "an unknown key": (
        "mode: jwt, user_key: AK, private_key_file: key.pem, private_keyfle: key.pem",
        "did you mean private_key_file?",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_at_its_place(what: str) -> None:
    auth, expected = REFUSED[what]
    found = lines(auth)
    assert any(expected in line for line in found), found
    assert len(found) == 1, found
    assert not [part for part in (SECRET, *PARTS) for line in found if part in line]


@pytest.mark.parametrize("mode", ["secret", "jwt"])
@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost"])
def test_modes_that_need_https_are_refused_over_http_even_on_loopback(mode: str, host: str) -> None:
    key = f"secret: {SECRET}" if mode == "secret" else "private_key_file: key.pem"
    found = lines(f"mode: {mode}, user_key: AK, {key}", f'base_url: "http://{host}"')
    assert len(found) == 1
    assert f"sites.main.auth: mode {mode} is for HTTPS only" in found[0]
    assert loaded(f"mode: {mode}, user_key: AK, {key}", f'base_url: "https://{host}"')


def test_each_mode_gives_its_credentials() -> None:
    kept = loaded(f"mode: secret, user_key: AK, secret: {SECRET}").settings.sites["main"]
    assert credentials_of(kept) == SecretCredentials("3_abc", "AK", SECRET)
    from_file = loaded("mode: jwt, user_key: AK, private_key_file: key.pem").settings.sites["main"]
    assert credentials_of(from_file) == JwtCredentials.of("3_abc", "AK", PEM)
    inline = loaded(f'mode: jwt, user_key: AK, private_key: "{ONE_LINE}"').settings.sites["main"]
    assert credentials_of(inline) == credentials_of(from_file)


def test_a_private_key_may_be_a_variable_with_mangled_line_breaks_or_a_secret_file(tmp_path: Path) -> None:
    variable = loaded("mode: jwt, user_key: AK", environ=in_file(PEM.replace("\n", " "))).settings.sites["main"]
    assert credentials_of(variable) == JwtCredentials.of("3_abc", "AK", PEM)
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "worker_sites__main__auth__private_key").write_text(PEM)
    kept = loaded("mode: jwt, user_key: AK", environ={"WORKER_SECRETS_DIR": str(folder)}).settings.sites["main"]
    assert credentials_of(kept) == JwtCredentials.of("3_abc", "AK", PEM)


def test_a_key_file_is_looked_for_beside_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded("mode: jwt, user_key: AK, private_key_file: key.pem")
    monkeypatch.chdir("/")
    assert load(tmp_path / "worker.yaml", environ={}).settings.sites["main"].auth.private_key_file is not None


@pytest.mark.parametrize(
    ("file", "expected"),
    [("no.pem", "there is no file"), ("key.pem", "holds no certificate in PEM"), (".", "sites.main.ca_file: ")],
)
def test_a_ca_file_that_cannot_be_used_is_refused_at_the_start(file: str, expected: str) -> None:
    auth = f"mode: signed, user_key: AK, secret: {SECRET}"
    address = f'base_url: "https://localhost", ca_file: "{file}"'.replace(", ", "\n    ")
    found = lines(auth, address)
    assert len(found) == 1
    assert expected in found[0]
    assert loaded(auth, address.replace(f'"{file}"', '"ca.pem"'))


def test_nothing_that_is_printed_or_shown_holds_a_private_key() -> None:
    found = loaded(f'mode: jwt, user_key: AK, private_key: "{ONE_LINE}"')
    for shown in (effective(found), repr(found.settings), str(found.settings.model_dump()), repr(found)):
        assert not [part for part in PARTS if part in shown]


def test_logs_are_told_every_line_of_a_private_key() -> None:
    for auth in (f'private_key: "{ONE_LINE}"', f"private_key: '{ONE_LINE}'", "private_key_file: key.pem"):
        found = loaded(f"mode: jwt, user_key: AK, {auth}")
        assert set(PARTS[:-1]) <= set(secrets_of(found.settings.sites["main"])), auth  # the last one is short


def test_no_error_about_a_private_key_shows_it() -> None:
    for broken in (PEM[:300], PEM.replace("A", "!"), PEM + PEM, PUBLIC, "x" + PEM[30:]):
        found = lines("mode: jwt, user_key: AK", environ=in_file(broken))
        assert found
        assert not [part for part in PARTS for line in found if part[:16] in line]
