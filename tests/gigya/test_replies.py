"""What an answer means: codes, bodies that say nothing, silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gigya.replies import (
    ANSWERS,
    FAMILIES,
    REASONS,
    TABLE,
    NoReply,
    Reply,
    Verdict,
    VerdictKind,
    classify,
    is_refusal,
    parse_reply,
    provider_results,
    row_of,
    safe_text,
)

NOW_S = 1_700_000_000.0
OK, RETRY, THROTTLED, REJECTED, USER, CAPPED, RESIGN, ASK, AMBIGUOUS, STOP = VerdictKind


def reply(body: Any = None, *, status: int = 200, raw: bytes | None = None, **headers: str) -> Reply:
    content = raw if raw is not None else json.dumps(body).encode()
    return parse_reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, content, NOW_S)


def coded(code: Any, **fields: Any) -> Reply:
    return reply({"errorCode": code, **fields})


# The table. Ranges and classes as the vendor's table and the design have them.

EXPECTED: dict[VerdictKind, list[int]] = {
    OK: [0, 200001, 200003, 200008, 200009, 200010],
    STOP: [301001, 400001, 400008, *range(400011, 400016), 400093, 400120, 403000, 403006, 403007, 403010, 403015,
           403025, 403035, 403036, 403201, 405001, 410000, 500003, 500031, 500033],
    REJECTED: [100001, *range(206001, 206006), 400002, 400003, 400004, 400006, 400007, 400009, *range(400020, 400032),
               400050, 400097, 400100, 400103, 400122, 400126, 400127, 401000, 401001, 401010, 401020, 401021, 401030,
               403008, 403026, 403031, 403037, 403040, *range(403042, 403046), 403047, 403100, 403101, 403102, 403110,
               403120, 403200, 404000, 404001, 404002, 404004, 409001, 409003, *range(409010, 409015), 409040,
               *range(413001, 413005)],
    USER: [400096, 400106, 403009, 403011, 403012, 403017, 403022, 403023, 403041, 404003, 409031, 500014],
    CAPPED: [400124],
    RETRY: [400125, 403024, 409030],
    RESIGN: [403002, 403004],
    ASK: [403003, 403005],
    THROTTLED: [403048],
    AMBIGUOUS: [500000, 500001, 500002, 500023, 500026, 500028, 500032, 500034, 504001, 504002],
}  # fmt: skip


@pytest.mark.parametrize(("code", "kind"), [(code, kind) for kind, codes in EXPECTED.items() for code in codes])
def test_each_code_has_its_verdict(code: int, kind: VerdictKind) -> None:
    verdict = classify(coded(code))
    assert verdict.kind is kind
    assert verdict.code == code
    assert REASONS[verdict.reason].kind is kind


def test_the_table_holds_these_codes_and_no_others() -> None:
    assert set(TABLE) == {code for codes in EXPECTED.values() for code in codes}


def test_every_row_says_what_it_means_what_to_do_and_who_says_so() -> None:
    for row in (*TABLE.values(), *FAMILIES.values()):
        assert row.name
        assert row.meaning.endswith(".")
        assert row.remedy.endswith(".")
        assert row.source
        assert row.kind is REASONS[row.reason].kind
    for reason in REASONS.values():
        assert reason.reason.replace("_", "a").isalnum()
        assert reason.reason == reason.reason.lower()
        assert reason.meaning.endswith(".")
        assert reason.remedy.endswith(".")


def test_every_reason_can_be_given() -> None:
    given_by_rows = {row.reason for row in (*TABLE.values(), *FAMILIES.values())}
    assert set(REASONS) == given_by_rows | set(ANSWERS) | {
        "credentials_missing",
        "link_not_approved",
        "provider_limit",
    }


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (200777, OK, "ok_with_warnings"),
        (206099, REJECTED, "account_flow"),
        (300000, STOP, "unknown_redirection"),
        (400999, REJECTED, "unknown_refusal"),
        (401999, REJECTED, "unknown_refusal"),
        (403999, REJECTED, "unknown_refusal"),
        (404999, REJECTED, "unknown_refusal"),
        (409999, REJECTED, "unknown_refusal"),
        (429000, THROTTLED, "rate_limited"),
        (500999, AMBIGUOUS, "server_error"),
        (503000, RETRY, "unknown_server_error"),
        (504999, AMBIGUOUS, "server_timeout"),
        (100999, REJECTED, "unknown_refusal"),
        (999999, REJECTED, "unknown_refusal"),
    ],
)
def test_a_code_that_is_not_listed_falls_back_to_its_family(code: int, kind: VerdictKind, reason: str) -> None:
    assert classify(coded(code)) == Verdict(kind, reason, code)


# Codes whose text decides


@pytest.mark.parametrize("name", ["apiKey", "userKey", "secret", "APIKEY", "sig", "nonce", "timestamp"])
def test_a_missing_credential_stops_the_site(name: str) -> None:
    verdict = classify(coded(400002, errorMessage=f"Missing required parameter : {name}"))
    assert verdict == Verdict(STOP, "credentials_missing", 400002)
    assert classify(coded(400002, errorDetails=f"Missing {name}")).kind is STOP


@pytest.mark.parametrize("text", ["Missing required parameter: action", "secretQuestion", "", None, 5, ["secret"]])
def test_another_missing_parameter_is_the_calls_matter(text: Any) -> None:
    assert classify(coded(400002, errorMessage=text)).kind is REJECTED


def test_a_duplicate_status_is_accepted_and_another_provider_limit_is_not() -> None:
    duplicate = coded(403024, errorDetails="Limit reached: Status is a duplicate.")
    assert classify(duplicate) == Verdict(OK, "provider_duplicate", 403024)
    assert classify(coded(403024)) == Verdict(RETRY, "provider_limit", 403024)


def test_clock_and_nonce_are_signed_again_for_different_reasons() -> None:
    assert classify(coded(403002)).reason == "request_expired"
    assert classify(coded(403004)).reason == "duplicate_nonce"


# Overrides


def test_an_override_beats_table_family_and_text() -> None:
    overrides = {400126: STOP, 400999: RETRY, 400002: USER, 403024: REJECTED}
    assert classify(coded(400126), overrides) == Verdict(STOP, "invalid_action", 400126)
    assert classify(coded(400999), overrides).kind is RETRY
    assert classify(coded(400002, errorMessage="secret"), overrides).kind is USER
    assert classify(coded(403024, errorDetails="duplicate"), overrides).kind is REJECTED
    assert classify(coded(400124), overrides).kind is CAPPED
    assert classify(NoReply("timeout", may_have_arrived=True), overrides).kind is AMBIGUOUS


# What an errorCode may look like


@pytest.mark.parametrize("code", [403048, "403048", 403048.0])
def test_a_code_may_be_a_number_or_its_digits(code: Any) -> None:
    assert coded(code).error_code == 403048


@pytest.mark.parametrize("code", [0, "0", 0.0, -0.0])
def test_zero_is_success(code: Any) -> None:
    assert classify(coded(code)) == Verdict(OK, "ok", 0)


@pytest.mark.parametrize(
    "code",
    [
        None,
        True,
        False,
        -1,
        -403048,
        1,
        42,
        99999,
        1_000_000,
        10**30,
        403048.5,
        "",
        "abc",
        "-403048",
        "403048 ",
        "4030480",
        "00",
        "+0",
        "0x0",
        "４０３０４８",
        [],
        {},
        [403048],
        1e308,
    ],
)
def test_what_cannot_be_gigyas_code_decides_nothing(code: Any) -> None:
    assert coded(code).error_code is None
    assert classify(coded(code)) == Verdict(AMBIGUOUS, "no_error_code")


# Status decides only when the body cannot


@pytest.mark.parametrize("status", [200, 301, 400, 403, 404, 429, 500, 502, 503, 504])
def test_a_code_in_the_body_decides_whatever_the_status(status: int) -> None:
    assert classify(reply({"errorCode": 400124}, status=status)).kind is CAPPED
    assert classify(reply({"errorCode": 0}, status=status)).kind is OK


@pytest.mark.parametrize(
    ("status", "raw", "kind", "reason"),
    [
        (200, b"", AMBIGUOUS, "empty_body"),
        (204, b"", AMBIGUOUS, "empty_body"),
        (200, b" \r\n", AMBIGUOUS, "empty_body"),
        (200, b"<html>sign in</html>", AMBIGUOUS, "html_body"),
        (200, b"\xef\xbb\xbf<!DOCTYPE html>", AMBIGUOUS, "html_body"),
        (200, b'{"errorCode": 0, "callId": "a', AMBIGUOUS, "truncated_body"),
        (200, b'{"errorCode": 0', AMBIGUOUS, "truncated_body"),
        (200, b'{"errorCode": 403000}{', AMBIGUOUS, "truncated_body"),
        (200, b'{"errorCode": NaN}', AMBIGUOUS, "truncated_body"),
        (200, b'{"a":"\xff"}', AMBIGUOUS, "truncated_body"),
        (200, b"{" * 100_000, AMBIGUOUS, "truncated_body"),
        (200, b"Bad Request", AMBIGUOUS, "foreign_body"),
        (200, b"\x1f\x8b\x00", AMBIGUOUS, "foreign_body"),
        (200, b"[]", AMBIGUOUS, "foreign_body"),
        (200, b"0", AMBIGUOUS, "foreign_body"),
        (200, b"null", AMBIGUOUS, "foreign_body"),
        (200, b"[" * 100_000, AMBIGUOUS, "foreign_body"),
        (200, b"{}", AMBIGUOUS, "no_error_code"),
        (200, b'{"message":"ok"}', AMBIGUOUS, "no_error_code"),
        (301, b"", AMBIGUOUS, "http_redirect"),
        (302, b"<html>", AMBIGUOUS, "http_redirect"),
        (307, b"{}", AMBIGUOUS, "http_redirect"),
        (400, b"Bad Request", AMBIGUOUS, "http_4xx"),
        (401, b"", AMBIGUOUS, "http_forbidden"),
        (403, b"<html>", AMBIGUOUS, "http_forbidden"),
        (404, b"<html>", AMBIGUOUS, "http_not_found"),
        (405, b"", AMBIGUOUS, "http_not_found"),
        (407, b"", AMBIGUOUS, "http_forbidden"),
        (408, b"", AMBIGUOUS, "http_4xx"),
        (410, b"", AMBIGUOUS, "http_not_found"),
        (413, b"", AMBIGUOUS, "http_too_large"),
        (429, b"", THROTTLED, "http_429"),
        (429, b"<html>slow down</html>", THROTTLED, "http_429"),
        (500, b"", AMBIGUOUS, "http_5xx"),
        (500, b'{"message": "oops"}', AMBIGUOUS, "http_5xx"),
        (502, b"<html>", AMBIGUOUS, "bad_gateway"),
        (503, b"", AMBIGUOUS, "service_unavailable"),
        (504, b"", AMBIGUOUS, "gateway_timeout"),
        (599, b"", AMBIGUOUS, "http_5xx"),
    ],
)
def test_a_body_that_says_nothing_is_read_by_its_status(
    status: int, raw: bytes, kind: VerdictKind, reason: str
) -> None:
    answer = reply(raw=raw, status=status)
    assert classify(answer) == Verdict(kind, reason)
    assert not is_refusal(answer)
    assert safe_text(answer).startswith(f"HTTP {status}: ")


def test_the_content_type_does_not_matter() -> None:
    assert classify(reply({"errorCode": 0}, Content_Type="text/javascript")).kind is OK
    assert classify(reply(raw=b"<html>", Content_Type="application/json")).reason == "html_body"


@pytest.mark.parametrize(
    "reason", ["dns_failure", "connect_timeout", "connect_refused", "tls_failure", "reset_before_send"]
)
def test_what_cannot_have_arrived_is_tried_again(reason: str) -> None:
    assert classify(NoReply(reason, may_have_arrived=False)) == Verdict(RETRY, reason)


@pytest.mark.parametrize("reason", ["timeout", "reset_after_send", "body_cut_off", "invalid_http"])
def test_what_may_have_arrived_is_ambiguous(reason: str) -> None:
    assert classify(NoReply(reason, may_have_arrived=True)) == Verdict(AMBIGUOUS, reason)


def test_a_silence_of_unknown_reason_still_has_a_stable_one() -> None:
    assert classify(NoReply("odd", may_have_arrived=True)) == Verdict(AMBIGUOUS, "no_reply")
    assert classify(NoReply("odd", may_have_arrived=False)) == Verdict(RETRY, "not_sent")


# Refusal


@pytest.mark.parametrize("code", [301001, 400124, 403003, 403048, 409030, 503000])
def test_a_whole_body_with_another_code_proves_that_nothing_was_executed(code: int) -> None:
    assert is_refusal(coded(code))


@pytest.mark.parametrize("code", [0, 200008, 500001, 500003, 500014, 504001, 500999, None, "x"])
def test_success_server_errors_and_no_code_prove_nothing(code: Any) -> None:
    assert not is_refusal(coded(code))
    assert not is_refusal(NoReply("dns_failure", may_have_arrived=False))


# Headers


def test_server_time_and_retry_after_are_read() -> None:
    answer = reply({"errorCode": 403048}, Date="Tue, 14 Nov 2023 22:13:20 GMT", Retry_After="7")
    assert (answer.server_time_s, answer.retry_after_s) == (1_700_000_000.0, 7.0)


def test_a_retry_after_date_counts_from_the_servers_clock_else_from_ours() -> None:
    later = "Tue, 14 Nov 2023 22:13:30 GMT"
    assert reply({}, Date="Tue, 14 Nov 2023 22:13:00 GMT", Retry_After=later).retry_after_s == 30
    assert reply({}, Retry_After=later).retry_after_s == 10
    assert reply({}, Retry_After="Tue, 14 Nov 2000 22:13:30 GMT").retry_after_s == 0


@pytest.mark.parametrize("text", ["", "-5", "soon", "1.5", "9" * 400, "nan", "Tue, 99 Nov 2023 99:99:99 GMT"])
def test_a_header_that_says_nothing_is_none(text: str) -> None:
    answer = parse_reply(200, {"date": text, "retry-after": text}, b"{}", NOW_S)
    assert (answer.server_time_s, answer.retry_after_s) == (None, None)


@pytest.mark.parametrize("call_id", ["", None, 5, "a b", "a\nb", "x" * 101, {"a": 1}])
def test_a_call_id_that_could_break_a_log_line_is_dropped(call_id: Any) -> None:
    assert coded(0, callId=call_id).call_id == ""
    assert coded(0, callId="bb5d9224614946c58a6771a081cddb9a").call_id == "bb5d9224614946c58a6771a081cddb9a"


any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "errorCode",
                    "errorMessage",
                    "errorDetails",
                    "callId",
                    "providerErrorCodes",
                    "provider",
                    "apiDomain",
                    "ignoredParams",
                    "paramName",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)
bodies = st.one_of(st.binary(max_size=60), any_json.map(lambda value: json.dumps(value).encode()))
headers = st.dictionaries(st.sampled_from(["Date", "date", "Retry-After"]), st.text(max_size=40), max_size=2)


@given(st.integers(100, 599), headers, bodies)
def test_no_answer_raises_and_every_reason_can_be_explained(status: int, head: dict[str, str], body: bytes) -> None:
    answer = parse_reply(status, head, body, NOW_S)
    verdict = classify(answer)
    assert verdict.reason in REASONS
    assert all(result.reason in REASONS for result in provider_results(answer))
    assert safe_text(answer)
    assert answer.error_code is not None or verdict.kind in (AMBIGUOUS, THROTTLED)


@given(st.integers(), st.booleans())
def test_any_number_has_a_row(code: int, flag: bool) -> None:
    assert row_of(code).reason in REASONS
    assert classify(NoReply("", may_have_arrived=flag)).reason in ANSWERS


# Publishing


def test_each_provider_is_read_by_its_own_code() -> None:
    answer = coded(
        0,
        providerErrorCodes=[
            {"provider": "facebook", "errorCode": 0, "errorMessage": "OK"},
            {"provider": "Twitter", "errorCode": 403024, "errorDetails": "Limit reached: Status is a duplicate."},
            {"provider": "linkedin", "errorCode": 500023},
            {"provider": "vkontakte", "errorCode": 500031},
            {"provider": "renren", "errorCode": 403022},
            {"provider": "sina", "errorCode": 403024},
            {"provider": "jane@example.com", "errorCode": 403005},
            {"provider": "odd"},
            "odd",
        ],
    )
    assert classify(answer).kind is OK
    assert [(result.provider, result.kind, result.code) for result in provider_results(answer)] == [
        ("facebook", OK, 0),
        ("twitter", OK, 403024),
        ("linkedin", RETRY, 500023),
        ("vkontakte", REJECTED, 500031),
        ("renren", USER, 403022),
        ("sina", RETRY, 403024),
        ("unnamed", USER, 403005),
    ]


@pytest.mark.parametrize("listed", [None, "x", 5, {}, [], [None]])
def test_an_answer_without_provider_results_has_none(listed: Any) -> None:
    assert provider_results(coded(0, providerErrorCodes=listed)) == ()
    assert provider_results(reply(raw=b"")) == ()


# Texts


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (coded(400124, errorDetails="DailyCap exceeded for jane"), "400124 limit reached (DailyCap)"),
        (
            coded(400002, errorMessage="Missing required parameter: action"),
            "400002 missing required parameter (names action)",
        ),
        (coded(400006, errorDetails="Invalid UserAction jane"), "400006 invalid parameter value (names userAction)"),
        (coded(301001, apiDomain="us1.gigya.com"), "301001 invalid data center (apiDomain us1.gigya.com)"),
        (coded(301001, apiDomain="evil.example"), "301001 invalid data center"),
        (
            coded(200008, ignoredParams=[{"paramName": "CID"}, {"paramName": "jane"}]),
            "200008 ok with errors (ignored cid)",
        ),
        (coded(403005, errorDetails="jane is not a user"), "403005 unauthorized user"),
        (coded(400999, errorMessage="jane"), "400999 unknown 4xxxxx"),
        (NoReply("dns_failure", may_have_arrived=False), "The host's name cannot be resolved."),
    ],
)
def test_the_safe_text_takes_over_known_words_only(answer: Reply | NoReply, text: str) -> None:
    assert safe_text(answer) == text


def test_an_answer_shows_no_body() -> None:
    assert "jane" not in repr(coded(403005, errorDetails="jane"))
