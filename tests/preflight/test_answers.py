"""Every failing answer of a Gigya: the right line fails, with the right remedy, and nothing is executed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.preflight.rig import API_KEY, NOTIFY, PUBLISH, SECRET, USER_KEY, HastyClock, Told, ask, local_gigya
from worker.gigya.authorization import JwtCredentials, SecretCredentials
from worker.gigya.error_codes import TABLE
from worker.preflight.lines import State
from worker.sandbox.gigya import Fault

FAILED, WARNING, OK, NOT_CHECKED = State.FAILED, State.WARNING, State.OK, State.NOT_CHECKED
CONFIG, NOTIFYING, PUBLISHING = "gm.getActionConfig", "gm.notifyAction", "socialize.publishUserAction"

# code -> the line that must fail, and words that its remedy must hold. What is not here belongs to the method's line.
ELSEWHERE: dict[int, tuple[str, tuple[str, ...]]] = {
    301001: ("data centre", ("data_center",)),
    400001: ("credentials", ("auth", "https")),
    400008: ("credentials", ("private key", "Console")),
    400011: ("credentials", ("auth",)),
    400012: ("credentials", ("auth",)),
    400013: ("credentials", ("auth",)),
    400014: ("credentials", ("auth",)),
    400015: ("credentials", ("auth",)),
    400093: ("credentials", ("api_key", "data_center")),
    400120: ("product", ("domain", "Console")),
    403000: ("permission", ("permission group",)),
    403002: ("clock", ("NTP",)),
    403003: ("credentials", ("secret", "user key")),
    403005: ("credentials", ("user_key", "data_center")),
    403006: ("credentials", ("https",)),
    403007: ("permission", ("permission group",)),
    403010: ("credentials", ("user key", "secret")),
    403015: ("credentials", ("api_key", "browser")),
    403025: ("credentials", ("auth",)),
    403035: ("credentials", ("api_key",)),
    403036: ("product", ("Ask SAP", "retired")),
    403201: ("credentials", ("application key",)),
    500003: ("product", ("default application",)),
    500031: ("product", ("provider",)),
    500033: ("product", ("Ask SAP",)),
}
GONE = {405001: ("Ask SAP", "retired"), 410000: ("Ask SAP", "retired")}
SUCCESSES = frozenset((0, 200001, 200003, 200008, 200009, 200010))
# To a call without a user these say no more than that there is none.
NO_USER = frozenset((403005, 403035))
NOT_FOR_PEOPLE_YET = ("sent again", "tried again", "resume", "Calls wait", "eplay", "dead letter", "iscard")


@pytest.fixture(autouse=True, scope="module")
def one_tls_context() -> Iterator[None]:
    """Load the system's certificates once, not for each of five hundred transports that speak plain http anyway."""
    made = ssl.create_default_context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lambda **_: made)
        yield


def failing() -> list[int]:
    return [code for code in TABLE if code not in SUCCESSES]


def state_of_an_empty_call(code: int) -> State:
    """Say how the method's own line ends when an empty call is answered with a code that belongs to no other line."""
    if code in GONE or code in (403004, 403048, 504001, 504002):
        return FAILED
    if code // 100_000 == 5 and code != 500014:  # 500014 speaks of a user's session
        return WARNING
    return OK


async def asked_with(method: str, *rules: str, clock: HastyClock | None = None, **fault: object) -> Told:
    async with local_gigya() as gigya:
        gigya.inject(Fault.model_validate({"method": method, **fault}))
        return await ask(gigya, *rules, clock=clock, timeout_s=0.25)


def assert_remedy(told: Told, what: str, words: tuple[str, ...]) -> None:
    remedy = told[what].remedy
    assert [word for word in words if word not in remedy] == [], remedy
    assert [word for word in NOT_FOR_PEOPLE_YET if word in remedy] == [], remedy
    assert "{" not in remedy


async def test_a_site_that_is_all_right_is_told_so() -> None:
    async with local_gigya() as gigya:
        told = await ask(gigya)
    assert told.troubled() == {}
    assert [line.state for line in told.lines] == [OK] * len(told.lines)
    assert [line.check for line in told.lines] == [
        "dns", "connection", "clock", "data centre", "credentials", "permission", "product", "method", "method",
        "method", "action",
    ]  # fmt: skip


@pytest.mark.parametrize("code", failing())
async def test_a_code_for_the_question_fails_the_line_that_it_belongs_to(code: int) -> None:
    what, words = ELSEWHERE.get(code, (f"method {CONFIG}", GONE.get(code, ())))
    told = await asked_with(CONFIG, kind="code", code=code)
    assert told.troubled() == {what: FAILED}
    assert str(code) in told[what].found
    assert told[what].code == code
    assert_remedy(told, what, words)
    assert told["action watched_episode"].state is NOT_CHECKED


@pytest.mark.parametrize("method", [NOTIFYING, PUBLISHING])
@pytest.mark.parametrize("code", failing())
async def test_a_code_for_an_empty_call_fails_the_line_that_it_belongs_to(code: int, method: str) -> None:
    told = await asked_with(method, kind="code", code=code)
    if code in ELSEWHERE and code not in NO_USER:
        what, words = ELSEWHERE[code]
        assert told.troubled() == {what: FAILED}
        assert told[f"method {method}"].state is NOT_CHECKED
    else:
        what, words = f"method {method}", GONE.get(code, ())
        expected = state_of_an_empty_call(code)
        assert told.troubled() == ({what: expected} if expected is not OK else {})
    if what in told.troubled():
        assert method in told[what].found
        assert_remedy(told, what, words)


@pytest.mark.parametrize("code", [405001, 410000])
@pytest.mark.parametrize("method", [NOTIFYING, PUBLISHING])
async def test_a_method_that_is_gone_is_unmistakable(method: str, code: int) -> None:
    told = await asked_with(method, kind="code", code=code)
    assert told[f"method {method}"].found.startswith("THE METHOD IS GONE")


@pytest.mark.parametrize(("method", "product"), [(NOTIFYING, "Loyalty"), (PUBLISHING, "publishing")])
async def test_a_product_that_is_off_is_unmistakable(method: str, product: str) -> None:
    told = await asked_with(method, kind="code", code=403036)
    assert told["product"].found.startswith(f"THE PRODUCT IS OFF: {product}")


@pytest.mark.parametrize("code", [0, 200008])
@pytest.mark.parametrize("method", [NOTIFYING, PUBLISHING])
async def test_a_method_that_accepts_an_empty_call_is_not_trusted(method: str, code: int) -> None:
    told = await asked_with(method, kind="code", code=code)
    assert told.troubled() == {f"method {method}": FAILED}
    assert "must refuse" in told[f"method {method}"].found


async def test_the_right_data_centre_is_named_as_it_is_to_be_set() -> None:
    fields = {"apiDomain": "us1.gigya.com", "location": "https://gm.us1.gigya.com/gm.getActionConfig"}
    told = await asked_with(CONFIG, kind="code", code=301001, fields=fields)
    assert told["data centre"].remedy == "Set sites.main.data_center: us1.gigya.com"


async def test_a_domain_that_is_not_gigyas_is_not_passed_on() -> None:
    told = await asked_with(CONFIG, kind="code", code=301001, fields={"apiDomain": "evil.example"})
    assert "evil" not in f"{told['data centre']}"


async def test_a_missing_key_is_a_matter_of_the_credentials() -> None:
    fields = {"errorDetails": "Missing required parameter: userKey"}
    told = await asked_with(CONFIG, kind="code", code=400002, fields=fields)
    assert told.troubled() == {"credentials": FAILED}


SPOILT: list[tuple[dict[str, object], str]] = [
    ({"kind": "status", "status": 401}, "proxies"),
    ({"kind": "status", "status": 404}, "may be gone"),
    ({"kind": "status", "status": 407}, "proxies"),
    ({"kind": "status", "status": 413}, "proxies"),
    ({"kind": "status", "status": 418}, "proxies"),
    ({"kind": "status", "status": 429}, "Wait"),
    ({"kind": "status", "status": 500}, "again"),
    ({"kind": "status", "status": 503}, "again"),
    ({"kind": "html"}, "again"),
    ({"kind": "html", "status": 200}, "method is gone"),
    ({"kind": "empty"}, "again"),
    ({"kind": "truncated", "executes": False}, "again"),
    ({"kind": "cut", "executes": False}, "again"),
    ({"kind": "garbage"}, "Something other than Gigya"),
    ({"kind": "redirect"}, "proxies"),
    ({"kind": "reset_before_execution"}, "again"),
    ({"kind": "timeout_before"}, "again"),
    ({"kind": "slow_body", "ms": 3000}, "again"),
]


@pytest.mark.parametrize("method", [CONFIG, NOTIFYING, PUBLISHING])
@pytest.mark.parametrize(("fault", "word"), SPOILT, ids=lambda value: str(value))
async def test_what_is_no_answer_of_gigyas_fails_the_methods_line(
    fault: dict[str, object], word: str, method: str
) -> None:
    told = await asked_with(method, **fault)
    assert told.troubled() == {f"method {method}": FAILED}
    assert_remedy(told, f"method {method}", (word,))


@pytest.mark.parametrize("method", [CONFIG, NOTIFYING])
async def test_json_under_a_wrong_content_type_is_an_answer_all_the_same(method: str) -> None:
    assert (await asked_with(method, kind="wrong_content_type")).troubled() == {}


async def test_a_compressed_answer_is_read() -> None:
    async with local_gigya(gzip=True) as gigya:
        assert (await ask(gigya)).troubled() == {}


@pytest.mark.parametrize(
    "fault", [{"kind": "code", "code": 500001}, {"kind": "html"}, {"kind": "code", "code": 403048}]
)
async def test_a_single_hiccup_is_no_finding(fault: dict[str, object]) -> None:
    clock = HastyClock()
    assert (await asked_with(CONFIG, clock=clock, count=2, **fault)).troubled() == {}
    assert clock.pauses_s == [0.5, 1.0]


async def test_a_wait_that_the_site_asks_for_is_kept_within_reason() -> None:
    clock = HastyClock()
    await asked_with(CONFIG, clock=clock, kind="status", status=429, headers={"Retry-After": "3600"})
    assert max(clock.pauses_s) == 5.0


# --- the site's own state, without any fault ------------------------------------------------------------------------


async def test_a_wrong_secret_is_a_matter_of_the_credentials() -> None:
    async with local_gigya() as gigya:
        told = await ask(gigya, secret="b3RoZXItb3RoZXItb3RoZXI=")
    assert told.troubled() == {"credentials": FAILED}
    assert_remedy(told, "credentials", ("secret",))
    assert told[f"method {NOTIFYING}"].found == "see credentials"


async def test_an_unknown_user_key_and_an_unknown_api_key_are_told_apart() -> None:
    async with local_gigya() as gigya:
        assert "user_key" in (await ask(gigya, user_key="AKother"))["credentials"].remedy
        assert "api_key" in (await ask(gigya, api_key="3_other"))["credentials"].remedy


@pytest.mark.parametrize("code", [403003, 403005, 403010])
async def test_a_revoked_key_is_a_matter_of_the_credentials(code: int) -> None:
    async with local_gigya() as gigya:
        gigya.revoke("main", "AKtest", code)
        assert (await ask(gigya)).troubled() == {"credentials": FAILED}


@pytest.mark.parametrize(
    ("offset_s", "state", "words"),
    [
        (0.0, OK, "apart"),
        (-20.0, OK, "apart"),
        (45.0, WARNING, "45 s behind"),
        (-45.0, WARNING, "45 s ahead"),
        (115.0, FAILED, "115 s behind"),
        (3600.0, FAILED, "3600 s behind"),
        (-3600.0, FAILED, "3600 s ahead"),
    ],
)
async def test_a_wrong_clock_is_measured_and_hides_nothing_else(offset_s: float, state: State, words: str) -> None:
    async with local_gigya(clock_offset_s=offset_s) as gigya:
        told = await ask(gigya)
    assert told["clock"].state is state
    assert words in told["clock"].found.replace("3599", "3600").replace("3601", "3600")
    assert bool(told["clock"].remedy) == (state is not OK)
    assert told["credentials"].state is OK
    assert told["action watched_episode"].state is OK


async def test_links_that_are_not_approved_do_not_matter_yet() -> None:
    async with local_gigya(approved_domains=["approved.example"]) as gigya:
        assert (await ask(gigya)).troubled() == {}


async def test_a_secret_that_travels_over_plain_http_is_a_matter_of_the_credentials() -> None:
    async with local_gigya() as gigya:
        told = await ask(gigya, credentials=SecretCredentials(API_KEY, USER_KEY, SECRET))
    assert told.troubled() == {"credentials": FAILED}
    assert told["credentials"].code == 403006
    assert_remedy(told, "credentials", ("https",))


async def test_a_token_of_another_key_is_a_matter_of_the_credentials() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    async with local_gigya() as gigya:
        told = await ask(gigya, credentials=JwtCredentials.of(API_KEY, USER_KEY, pem))
    assert set(told.troubled()) == {"credentials"}
    assert_remedy(told, "credentials", ())


# --- a site that only publishes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "what"),
    [(403036, "product"), (405001, f"method {CONFIG}"), (403007, "permission"), (410000, f"method {CONFIG}")],
)
async def test_a_site_that_only_publishes_goes_without_loyalty(code: int, what: str) -> None:
    told = await asked_with(CONFIG, PUBLISH, kind="code", code=code)
    proves_credentials = code in (403036, 403007)
    assert told.troubled() == {what: WARNING} | ({} if proves_credentials else {"credentials": WARNING})
    assert told[f"method {PUBLISHING}"].state is OK


async def test_a_site_that_only_publishes_needs_its_credentials_all_the_same() -> None:
    told = await asked_with(CONFIG, PUBLISH, kind="code", code=403010)
    assert told.troubled() == {"credentials": FAILED}


async def test_a_site_that_only_publishes_fails_where_its_method_is_silent_too() -> None:
    async with local_gigya() as gigya:
        gigya.inject(Fault(kind="timeout_before"))
        told = await ask(gigya, PUBLISH, timeout_s=0.1)
    assert told[f"method {CONFIG}"].state is WARNING
    assert told[f"method {PUBLISHING}"].state is FAILED


@pytest.mark.parametrize("code", sorted(NO_USER))
async def test_no_user_is_a_doubt_where_nothing_has_shown_that_we_are_known(code: int) -> None:
    async with local_gigya() as gigya:
        gigya.inject(Fault(kind="html", method=CONFIG))
        gigya.inject(Fault(kind="code", code=code, method=PUBLISHING))
        told = await ask(gigya, PUBLISH)
    assert told["credentials"].state is WARNING


async def test_a_site_without_rules_is_asked_for_its_credentials_only() -> None:
    async with local_gigya() as gigya:
        told = await ask(gigya, NOTIFY + "    enabled: false\n")
        assert [line.subject for line in told.lines if line.check == "method"] == [CONFIG]
        assert told.troubled() == {}
