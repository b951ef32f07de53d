"""What an answer means: Reply | NoReply -> Verdict. Pure.

The body decides; the HTTP status decides only when the body cannot (the API answers 200 with an errorCode). *Refused*
is only what a whole JSON body says with a code outside 500xxx and 504xxx: anything else may have been executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType
from typing import cast

import orjson

from worker.gigya.calls import METHODS, RESERVED
from worker.gigya.error_codes import FAMILIES, TABLE, Row, row_of
from worker.gigya.reasons import REASONS, ReasonRow, VerdictKind
from worker.gigya.sites import is_gigya_domain
from worker.model import Json

__all__ = [
    "ANSWERS",
    "FAMILIES",
    "PROVIDER_REASONS",
    "REASONS",
    "TABLE",
    "NoReply",
    "ProviderResult",
    "ReasonRow",
    "Reply",
    "Row",
    "Verdict",
    "VerdictKind",
    "classify",
    "is_refusal",
    "parse_reply",
    "provider_results",
    "remedy_of",
    "row_of",
    "safe_text",
]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that came over HTTP. `repr` shows no body: it can echo what was sent."""

    status: int
    body: Mapping[str, Json] | None = field(repr=False, hash=False)  # None unless a whole JSON object
    error_code: int | None = None  # None unless it can be Gigya's: 0, or six digits
    call_id: str = ""
    server_time_s: float | None = None  # Unix seconds, of the Date header
    retry_after_s: float | None = None
    defect: str = ""  # why the body says nothing: a row of ANSWERS; empty when error_code is there


@dataclass(frozen=True, slots=True)
class NoReply:
    """No answer. `reason` is a row of ANSWERS; one that is not is read as no_reply or not_sent."""

    reason: str
    may_have_arrived: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Our reading of an answer. `reason` is a row of REASONS; `code` is Gigya's, where there was one."""

    kind: VerdictKind
    reason: str
    code: int | None = None


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """What one social network said to a publish. `kind` is OK, RETRY, REJECTED or USER."""

    provider: str
    kind: VerdictKind
    reason: str
    code: int


_NOT_ARRIVED = (
    "dns_failure", "connect_timeout", "connect_refused", "connect_failed", "tls_failure",
    "reset_before_send", "not_sent",
)  # fmt: skip
_MAYBE_ARRIVED = ("timeout", "reset_after_send", "body_cut_off", "invalid_http", "no_reply")
_BODY_DEFECTS = ("empty_body", "html_body", "truncated_body", "foreign_body", "no_error_code")
_BY_STATUS = {
    401: "http_forbidden",
    403: "http_forbidden",
    404: "http_not_found",
    405: "http_not_found",
    407: "http_forbidden",
    410: "http_not_found",
    413: "http_too_large",
    429: "http_429",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
_BY_STATUS_CLASS = {3: "http_redirect", 4: "http_4xx", 5: "http_5xx"}

# Every reason that is not a code's: what the transport reports, and what a body that says nothing leaves.
ANSWERS: Mapping[str, ReasonRow] = MappingProxyType(
    {
        reason: REASONS[reason]
        for reason in (
            *_NOT_ARRIVED,
            *_MAYBE_ARRIVED,
            *_BODY_DEFECTS,
            *dict.fromkeys(_BY_STATUS.values()),
            *_BY_STATUS_CLASS.values(),
        )
    }
)
_NUMBERS = (int, float)  # `int | float` would be made anew for every answer
_NO_OVERRIDES: Mapping[int, VerdictKind] = MappingProxyType({})


def parse_reply(status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Reply:
    """Read an answer; nothing here raises for what a server can send.

    `headers` should not care for letter case. `now_s` is Unix time by our clock: a `Retry-After` that is a date counts
    from the answer's own Date where there is one. The content type does not matter: the API has answered JSON as
    text/javascript, and a page that calls itself JSON is none.
    """
    server_time_s = _http_date_s(_header(headers, "Date"))
    reference_s = now_s if server_time_s is None else server_time_s
    retry_after_s = _retry_after_s(_header(headers, "Retry-After"), reference_s)
    document, defect = _json_object(body)
    code = _error_code(document)
    call_id = document.get("callId") if document is not None else None
    return Reply(
        status=status,
        body=document,
        error_code=code,
        call_id=call_id if isinstance(call_id, str) and _CALL_ID.fullmatch(call_id) else "",
        server_time_s=server_time_s,
        retry_after_s=retry_after_s,
        defect="" if code is not None else defect or "no_error_code",
    )


def classify(answer: Reply | NoReply, overrides: Mapping[int, VerdictKind] = _NO_OVERRIDES) -> Verdict:
    """Return what an answer means. `overrides` are the site's `verdicts`, code by code; they beat every reading."""
    if isinstance(answer, NoReply):
        return _verdict_on_silence(answer)
    code = answer.error_code
    if code is None:
        reason = _BY_STATUS.get(answer.status) or _BY_STATUS_CLASS.get(answer.status // 100) or answer.defect
        row = REASONS.get(reason, REASONS["foreign_body"])
        return Verdict(row.kind, row.reason)
    if code in overrides:
        return Verdict(overrides[code], row_of(code).reason, code)
    reason = _refined(code, answer) or row_of(code).reason
    return Verdict(REASONS[reason].kind, reason, code)


def is_refusal(answer: Reply | NoReply) -> bool:
    """Tell whether the answer proves that this attempt was not executed, and never will be.

    True only for a whole JSON body with an errorCode that is no success and outside 500xxx and 504xxx.
    """
    if isinstance(answer, NoReply) or answer.error_code is None:
        return False
    return answer.error_code // 100_000 not in (0, 2) and answer.error_code // 1000 not in (500, 504)


def provider_results(reply: Reply, overrides: Mapping[int, VerdictKind] = _NO_OVERRIDES) -> tuple[ProviderResult, ...]:
    """Return what each social network said to a publish, in the answer's order; networks it does not name are absent.

    A network's own 5xxxxx can be tried again for it alone; what would stop a site here only fails this network.
    """
    listed = reply.body.get("providerErrorCodes") if reply.body is not None else None
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return ()
    results = []
    for entry in listed:
        if isinstance(entry, Mapping) and (code := _error_code(entry)) is not None:
            verdict = classify(Reply(status=200, body=entry, error_code=code), overrides)
            kind = _KIND_FOR_PROVIDER.get(verdict.kind, verdict.kind)
            reason = PROVIDER_REASONS.get(code, verdict.reason)
            results.append(ProviderResult(_provider_name(entry.get("provider")), kind, reason, code))
    return tuple(results)


def safe_text(answer: Reply | NoReply) -> str:
    """Return a line on an answer for logs and dead letters, made of our own words only.

    Gigya's texts can echo what was sent; of them only known words are taken over: names of parameters, the two caps,
    a data centre's domain.
    """
    if isinstance(answer, NoReply):
        return ANSWERS.get(answer.reason, ANSWERS["no_reply" if answer.may_have_arrived else "not_sent"]).meaning
    if answer.error_code is None:
        return f"HTTP {answer.status}: {REASONS[classify(answer).reason].meaning}"
    hints = _hints(answer)
    line = f"{answer.error_code} {row_of(answer.error_code).name}"
    return f"{line} ({'; '.join(hints)})" if hints else line


def remedy_of(verdict: Verdict, answer: Reply | NoReply) -> str:
    """Return what to do about an answer: the code's own remedy, or its reason's; with the data centre that it names."""
    row = row_of(verdict.code) if verdict.code is not None else None
    remedy = row.remedy if row is not None and row.reason == verdict.reason else REASONS[verdict.reason].remedy
    domain = answer.body.get("apiDomain") if isinstance(answer, Reply) and answer.body is not None else None
    if verdict.code == 301001 and isinstance(domain, str) and is_gigya_domain(domain):
        return f"{remedy} It names {domain}."
    return remedy


def _verdict_on_silence(answer: NoReply) -> Verdict:
    reason = answer.reason
    if reason not in ANSWERS:
        reason = "no_reply" if answer.may_have_arrived else "not_sent"
    return Verdict(VerdictKind.AMBIGUOUS if answer.may_have_arrived else VerdictKind.RETRY, reason)


def _refined(code: int, reply: Reply) -> str:
    """Return the reason where one code means two things and the text tells which; empty otherwise."""
    if code == 400002 and _CREDENTIAL_NAMES.search(_texts(reply)):
        return "credentials_missing"
    if code == 403024 and "duplicate" not in _texts(reply).lower():
        return "provider_limit"
    return ""


# What these codes mean when a social network, or a publish, is refused with them: not the site's own matter.
PROVIDER_REASONS: Mapping[int, str] = MappingProxyType({400120: "link_not_approved", 500031: "provider_configuration"})
_KIND_FOR_PROVIDER = {
    VerdictKind.AMBIGUOUS: VerdictKind.RETRY,
    VerdictKind.THROTTLED: VerdictKind.RETRY,
    VerdictKind.RESIGN: VerdictKind.RETRY,
    VerdictKind.STOP: VerdictKind.REJECTED,
    VerdictKind.CAPPED: VerdictKind.REJECTED,
    VerdictKind.ASK: VerdictKind.USER,
}
_CALL_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,100}")  # goes into logs and headers: no spaces, no line ends
_CREDENTIAL_NAMES = re.compile(r"\b(?:apiKey|userKey|secret|sig|timestamp|nonce)\b", re.IGNORECASE)
_KNOWN_NAMES = {
    name.lower(): name
    for name in (*RESERVED, *(parameter.name for method in METHODS.values() for parameter in method.parameters))
}
_NAMES_PARAMETERS = frozenset((400002, 400004, 400006, 400009))


def _hints(reply: Reply) -> list[str]:
    texts, body = _texts(reply), reply.body or {}
    hints = []
    if reply.error_code in _NAMES_PARAMETERS and (names := _known_names(texts)):
        hints.append("names " + ", ".join(names))
    if reply.error_code == 400124:
        hints += [word for word in ("DailyCap", "FreqCap") if word.lower() in texts.lower()]
    if reply.error_code == 403024 and "duplicate" in texts.lower():
        hints.append("duplicate")
    domain = body.get("apiDomain")
    if reply.error_code == 301001 and isinstance(domain, str) and is_gigya_domain(domain):
        hints.append(f"apiDomain {domain}")
    if ignored := _ignored_names(body.get("ignoredParams")):
        hints.append("ignored " + ", ".join(ignored))
    return hints


def _texts(reply: Reply) -> str:
    body = reply.body or {}
    parts = [body.get("errorMessage"), body.get("errorDetails")]
    return " ".join(part[:2000] for part in parts if isinstance(part, str))


def _known_names(text: str) -> list[str]:
    found = (_KNOWN_NAMES.get(word.lower()) for word in re.findall(r"[A-Za-z_]+", text))
    return list(dict.fromkeys(name for name in found if name))[:5]


def _ignored_names(listed: Json) -> list[str]:
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    names = (entry.get("paramName") for entry in listed if isinstance(entry, Mapping))
    return [known for name in names if isinstance(name, str) and (known := _KNOWN_NAMES.get(name.lower()))][:5]


def _provider_name(name: Json) -> str:
    return name.lower() if isinstance(name, str) and re.fullmatch("[A-Za-z]{1,20}", name) else "unnamed"


def _json_object(body: bytes) -> tuple[Mapping[str, Json] | None, str]:
    """Return the body as an object, or None and the defect that explains it."""
    stripped = body.strip(b" \t\r\n\xef\xbb\xbf")
    if not stripped:
        return None, "empty_body"
    try:
        document = orjson.loads(stripped)
    except orjson.JSONDecodeError:
        if stripped.startswith(b"<"):
            return None, "html_body"
        return None, "truncated_body" if stripped.startswith(b"{") else "foreign_body"
    return (cast("Mapping[str, Json]", document), "") if isinstance(document, dict) else (None, "foreign_body")


def _error_code(document: Mapping[str, Json] | None) -> int | None:
    """Return the errorCode if it can be Gigya's: 0 or six digits, as a number without a fraction or as digits.

    True and false, negative, huge and broken numbers are somebody else's JSON: nothing is concluded from them.
    """
    code = document.get("errorCode") if document is not None else None
    if isinstance(code, str) and re.fullmatch("0|[1-9][0-9]{5}", code):
        return int(code)
    if isinstance(code, bool) or not isinstance(code, _NUMBERS):
        return None
    return int(code) if code == 0 or (100_000 <= code <= 999_999 and code == int(code)) else None


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name) or headers.get(name.lower()) or ""


def _retry_after_s(text: str, reference_s: float) -> float | None:
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    moment_s = _http_date_s(text)
    return None if moment_s is None else max(0.0, moment_s - reference_s)


@lru_cache(maxsize=8)  # the Date header changes once a second; parsing it costs as much as the body
def _http_date_s(text: str) -> float | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
