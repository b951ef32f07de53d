"""Sites: settings, URLs, data centres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from worker.gigya.calls import GET_ACTION_CONFIG, NOTIFY_ACTION, PUBLISH_USER_ACTION
from worker.gigya.reasons import VerdictKind
from worker.gigya.sites import Site, SiteSettings, data_center_problem, is_gigya_domain, url_of

SECRET = "bm90LWEtcmVhbC1zaXRlLXNlY3JldC0wMTIzNDU2Nzg5"
AUTH = {"mode": "signed", "user_key": "AKuser", "secret": SECRET}


def settings(**values: Any) -> SiteSettings:
    address = {} if "base_url" in values or "data_center" in values else {"data_center": "eu1"}
    return SiteSettings.model_validate({"api_key": "3_key", "auth": AUTH, **address, **values})


def site(**values: Any) -> Site:
    return Site.of("main", settings(**values))


@pytest.mark.parametrize(
    ("data_center", "url"),
    [
        ("eu1", "https://gm.eu1.gigya.com/gm.notifyAction"),
        (" US1 ", "https://gm.us1.gigya.com/gm.notifyAction"),
        ("cn1", "https://gm.cn1.sapcdm.cn/gm.notifyAction"),
        ("global", "https://gm.global.gigya.com/gm.notifyAction"),
        ("au1.gigya.com", "https://gm.au1.gigya.com/gm.notifyAction"),
        ("eu9", "https://gm.eu9.gigya.com/gm.notifyAction"),
        ("cdc.example.org", "https://gm.cdc.example.org/gm.notifyAction"),
    ],
)
def test_a_data_centre_gives_the_methods_url(data_center: str, url: str) -> None:
    assert url_of(site(data_center=data_center), NOTIFY_ACTION) == url


def test_each_method_has_its_own_host() -> None:
    assert url_of(site(), PUBLISH_USER_ACTION) == "https://socialize.eu1.gigya.com/socialize.publishUserAction"
    assert url_of(site(), GET_ACTION_CONFIG) == "https://gm.eu1.gigya.com/gm.getActionConfig"


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8080",
        "http://localhost:1/",
        "http://[::1]:80",
        "https://proxy.example",
        "https://p.example/Gigya/",
    ],
)
def test_a_base_url_is_the_root_of_all_methods(base_url: str) -> None:
    assert url_of(site(base_url=base_url), NOTIFY_ACTION) == f"{base_url.rstrip('/')}/gm.notifyAction"


@pytest.mark.parametrize(
    "values",
    [
        {"data_center": "eu1", "base_url": "https://x.example"},
        {"data_center": None},
        {"data_center": "https://eu1.gigya.com"},
        {"data_center": "gm.eu1.gigya.com"},
        {"data_center": "eu 1"},
        {"data_center": ""},
        {"data_center": "eu1", "ca_file": "/etc/ca.pem"},
        {"base_url": "http://gigya.example"},
        {"base_url": "http://127.0.0.1.example"},
        {"base_url": "ftp://127.0.0.1"},
        {"base_url": "127.0.0.1:80"},
        {"base_url": "https://"},
        {"base_url": "https://h:99999"},
        {"base_url": "https://h?x=1"},
        {"base_url": "https://h#x"},
        {"base_url": "https://user:pw@h"},
        {"base_url": "https://h/a b"},
        {"api_key": " "},
        {"quota_per_s": 0},
        {"quota_per_s": -1},
        {"quota_per_s": float("nan")},
        {"quota_per_s": float("inf")},
        {"backfill_reserve_per_s": -1},
        {"backfill_reserve_per_s": 50},
        {"quota_per_s": 20, "backfill_reserve_per_s": 20},
        {"quota_per_s": None, "backfill_reserve_per_s": 1},
        {"verdicts": {400126: "stopp"}},
        {"verdicts": {0: "stop"}},
        {"verdicts": {"x": "stop"}},
        {"qouta_per_s": 5},
        {"auth": AUTH | {"mode": "jwt"}},
        {"auth": AUTH | {"user_key": ""}},
        {"auth": AUTH | {"secret": "not base64!"}},
        {"auth": AUTH | {"secret": SECRET[:-1]}},
        {"auth": {"mode": "signed", "user_key": "AK"}},
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_refused_without_showing_a_value(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**values)
    assert SECRET[:-1] not in str(caught.value)
    assert "not base64!" not in str(caught.value)


def test_a_secret_is_visible_nowhere() -> None:
    whole = settings()
    assert SECRET not in f"{whole!r} {whole} {whole.model_dump()} {whole.credentials()!r}"
    assert whole.credentials().secret_key == b"not-a-real-site-secret-0123456789"


def test_white_space_around_keys_and_secret_is_dropped() -> None:
    spaced = settings(api_key=" 3_key\n", auth={"user_key": "AKuser\n", "secret": SECRET + "\n"})
    assert spaced.credentials() == settings().credentials()


def test_the_quota_is_fifty_unless_it_is_set_and_null_is_none() -> None:
    assert settings().quota_per_s == 50
    assert settings(quota_per_s=None).quota_per_s is None


def test_the_live_worker_leaves_the_reserve_to_backfills() -> None:
    assert site(base_url="https://h").quota_per_s == 50
    assert site(base_url="https://h", quota_per_s=80, backfill_reserve_per_s=30).quota_per_s == 50
    assert site(base_url="https://h", quota_per_s=None).quota_per_s is None
    assert settings(quota_per_s=80, backfill_reserve_per_s=79.5).live_quota_per_s == 0.5


def test_verdicts_are_read_by_code() -> None:
    assert site(verdicts={"400126": "stop"}).verdicts == {400126: VerdictKind.STOP}


def test_a_ca_file_goes_with_a_base_url() -> None:
    assert site(base_url="https://h", ca_file="/etc/ca.pem").ca_file == Path("/etc/ca.pem")


@pytest.mark.parametrize("known", ["eu1", "us1", "cn1", "au1.gigya.com", "us1-st1.gigya.com"])
def test_a_known_data_centre_is_no_problem(known: str) -> None:
    assert data_center_problem(known, file="worker.yaml") is None


@pytest.mark.parametrize("odd", ["eu9", "cdc.example.org", "cn1.gigya-api.cn", "ru1"])
def test_an_unknown_or_old_data_centre_is_a_warning(odd: str) -> None:
    problem = data_center_problem(odd, file="worker.yaml", line=9, column=5)
    assert problem is not None
    assert problem.severity == "warn"
    assert str(problem).startswith("worker.yaml:9:5: data_center ")


def test_a_site_shows_no_key() -> None:
    assert "3_key" not in repr(site())
    assert hash(site()) == hash(site())


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("eu1.gigya.com", True),
        ("cn1.sapcdm.cn", True),
        ("gigya.com.evil.example", False),
        ("a b.gigya.com", False),
        ("", False),
    ],
)
def test_only_the_vendors_domains_are_shown(domain: str, expected: bool) -> None:
    assert is_gigya_domain(domain) is expected
