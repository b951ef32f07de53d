"""What do the answers of one site mean, line by line? Pure: what was asked, and what came back, in; lines out.

Every answer is put down to one check (`CHECKS`: reason -> check). Checks that no answer spoke about say so, rather
than pass: a line is `ok` only where an answer proves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker.gigya.calls import GET_ACTION_CONFIG, PUBLISH_USER_ACTION, Method
from worker.gigya.error_codes import row_of
from worker.gigya.replies import NoReply, Reply, Verdict, VerdictKind, classify, safe_text
from worker.gigya.sites import Addressed, is_gigya_domain
from worker.preflight.asking import Asked
from worker.preflight.lines import Check, Line, State
from worker.preflight.remedies import remedy_for

CLOCK_WARNS_AT_S = 30.0
# Gigya's table says that two minutes are too much already (403002); a request takes its time, too.
CLOCK_FAILS_AT_S = 110.0

CHECKS: Mapping[str, Check] = {
    "dns_failure": Check.DNS,
    **dict.fromkeys(
        ("tls_failure", "connect_timeout", "connect_refused", "connect_failed", "reset_before_send", "not_sent"),
        Check.CONNECTION,
    ),
    "request_expired": Check.CLOCK,
    **dict.fromkeys(
        (
            "credentials_refused",
            "credentials_missing",
            "invalid_api_key",
            "insecure_transport",
            "invalid_signature",
            "unauthorized_user",
        ),
        Check.CREDENTIALS,
    ),
    "wrong_data_center": Check.DATA_CENTER,
    "unknown_redirection": Check.DATA_CENTER,
    "permission_denied": Check.PERMISSION,
    "product_not_enabled": Check.PRODUCT,
    "site_configuration": Check.PRODUCT,
}
_SITE_WIDE = (Check.DATA_CENTER, Check.CREDENTIALS, Check.PERMISSION, Check.PRODUCT)
# What an answer proves that comes from a check further on: who is told that he may not is known.
_PROVED_BY_REFUSAL = {
    Check.PERMISSION: (Check.DATA_CENTER, Check.CREDENTIALS),
    Check.PRODUCT: (Check.DATA_CENTER, Check.CREDENTIALS),
}
# Without a user these are what a living method may well say to an empty call: no user, unknown user, no session.
_NO_USER = frozenset((403005, 403035))
_PRODUCTS = {"gm": "Loyalty (gm)", "socialize": "publishing (socialize)"}


@dataclass(slots=True)
class SiteFacts:
    """All that was learned of one site. `hosts`: prefix -> host; `network`: the lines of dns and connection."""

    name: str
    address: str
    hosts: Mapping[str, str]
    methods: Sequence[Method]  # of the site's enabled rules
    network: list[Line] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    @property
    def part(self) -> str:
        return f"site {self.name}"

    @property
    def needs_loyalty(self) -> bool:
        """Tell whether a rule calls a method of gm; a site that only publishes may have it off."""
        return any(method.host_prefix == GET_ACTION_CONFIG.host_prefix for method in self.methods)

    def config(self) -> Asked | None:
        return next((asked for asked in self.asked if not asked.is_empty_call), None)

    @property
    def is_accepted(self) -> bool:
        """Tell whether the site has accepted our credentials: gm.getActionConfig answered 0."""
        asked = self.config()
        return asked is not None and isinstance(asked.answer, Reply) and classify(asked.answer).kind is VerdictKind.OK

    @property
    def is_hopeless(self) -> bool:
        """Tell whether more questions would only be refused for the same reason."""
        return any(blame.check in (Check.CREDENTIALS, Check.DATA_CENTER, Check.CLOCK) for blame in blames(self))


@dataclass(frozen=True, slots=True)
class Blame:
    """A check that an answer speaks against."""

    check: Check
    state: State
    asked: Asked
    found: str
    remedy: str
    verdict: Verdict


def blames(facts: SiteFacts) -> list[Blame]:
    """Return what the answers speak against, in the order of the questions."""
    return [blame for asked in facts.asked if (blame := _blame(facts, asked)) is not None]


def lines(facts: SiteFacts) -> Iterator[Line]:
    """Yield the lines of a site but for its actions."""
    blamed = blames(facts)
    yield from _network_lines(facts, blamed)
    yield _clock_line(facts, blamed)
    for check in _SITE_WIDE:
        yield _site_wide_line(facts, check, blamed)
    asked: tuple[Addressed, ...] = (GET_ACTION_CONFIG, *facts.methods)
    for method in asked:
        yield _method_line(facts, method.name, method.host_prefix, blamed)


def why_not(facts: SiteFacts) -> str:
    """Return why something that only gm.getActionConfig tells is not checked."""
    return _see(facts, GET_ACTION_CONFIG.host_prefix, blames(facts), ())


# --- one answer -------------------------------------------------------------------------------------------------------


def _blame(facts: SiteFacts, asked: Asked) -> Blame | None:
    verdict = classify(asked.answer)
    if asked.is_empty_call:
        return _blame_of_empty_call(facts, asked, verdict)
    if verdict.kind is VerdictKind.OK:
        return None
    check = CHECKS.get(verdict.reason, Check.METHOD)
    only_loyalty = check in (Check.DNS, Check.CONNECTION, Check.PERMISSION, Check.PRODUCT, Check.METHOD)
    state = State.WARNING if only_loyalty and not facts.needs_loyalty else State.FAILED
    return _made(facts, asked, verdict, check, state)


def _blame_of_empty_call(facts: SiteFacts, asked: Asked, verdict: Verdict) -> Blame | None:
    if verdict.kind is VerdictKind.OK:
        return _made(facts, asked, verdict, Check.METHOD, State.FAILED)
    if verdict.code in _NO_USER:
        # Without a user: alive. Only where nothing else has shown that we are known it could mean us.
        doubtful = not facts.is_accepted
        return _made(facts, asked, verdict, Check.CREDENTIALS, State.WARNING) if doubtful else None
    check = CHECKS.get(verdict.reason)
    if check is not None:
        return _made(facts, asked, verdict, check, State.FAILED)
    if verdict.reason in ("server_error", "security_warning", "provider_error", "unknown_server_error"):
        has_code = verdict.code is not None
        return _made(facts, asked, verdict, Check.METHOD, State.WARNING if has_code else State.FAILED)
    if verdict.code is None or verdict.kind in (VerdictKind.AMBIGUOUS, VerdictKind.THROTTLED, VerdictKind.RESIGN):
        return _made(facts, asked, verdict, Check.METHOD, State.FAILED)
    if verdict.kind is VerdictKind.STOP:  # the method is gone
        return _made(facts, asked, verdict, Check.METHOD, State.FAILED)
    return None  # refused for what an empty call lacks


def _made(facts: SiteFacts, asked: Asked, verdict: Verdict, check: Check, state: State) -> Blame:
    remedy = remedy_for(
        verdict.reason,
        code=verdict.code,
        site=facts.name,
        method=asked.method,
        product=_PRODUCTS.get(asked.host_prefix, asked.host_prefix),
        data_center=_named_domain(asked.answer),
        is_empty_call=asked.is_empty_call,
        is_loyalty_needed=facts.needs_loyalty,
    )
    return Blame(check, state, asked, _found(asked, verdict, check), remedy, verdict)


def _found(asked: Asked, verdict: Verdict, check: Check) -> str:
    answer = asked.answer
    if isinstance(answer, NoReply) or answer.error_code is None:
        text = f"{asked.method}: {safe_text(answer)}"
    else:
        text = f"{asked.method} answers {safe_text(answer)}: {row_of(answer.error_code).meaning}"
        text += f" (callId {answer.call_id})" if answer.call_id else ""
    if verdict.kind is VerdictKind.OK:
        return f"{asked.method} accepts a call without a user and without anything to do; it must refuse that"
    if verdict.reason == "method_gone":
        return f"THE METHOD IS GONE. {text}"
    if verdict.reason == "product_not_enabled":
        return f"THE PRODUCT IS OFF: {_PRODUCTS.get(asked.host_prefix, asked.host_prefix)}. {text}"
    if check is Check.METHOD and verdict.reason in ("html_body", "http_not_found", "foreign_body"):
        return f"NO ANSWER OF GIGYA'S. {text}"
    return text


def _named_domain(answer: Reply | NoReply) -> str:
    domain = answer.body.get("apiDomain") if isinstance(answer, Reply) and answer.body is not None else None
    return domain if isinstance(domain, str) and is_gigya_domain(domain) else ""


# --- lines ------------------------------------------------------------------------------------------------------------


def _network_lines(facts: SiteFacts, blamed: Sequence[Blame]) -> Iterator[Line]:
    """Yield what was learned of the hosts; a request may have met what the check before it did not."""
    for line in facts.network:
        blame = next(
            (one for one in blamed if one.check == line.check and facts.hosts[one.asked.host_prefix] == line.subject),
            None,
        )
        yield _line(facts, line.check, line.subject, blame) if blame and line.state is not State.FAILED else line


def _clock_line(facts: SiteFacts, blamed: Sequence[Blame]) -> Line:
    if (blame := _worst(blamed, Check.CLOCK)) is not None:
        return _line(facts, Check.CLOCK, "", blame)
    measured = [asked.offset_s for asked in facts.asked if asked.offset_s is not None]
    was_refused = any(asked.clock_refused for asked in facts.asked)
    if not measured:
        if was_refused:
            return Line(facts.part, Check.CLOCK, "", State.FAILED, *_clock_refused(""), "request_expired", 403002)
        has_answer = any(isinstance(asked.answer, Reply) for asked in facts.asked)
        why = "no answer has a Date header" if has_answer else _see(facts, "", blamed, ())
        return Line(facts.part, Check.CLOCK, "", State.NOT_CHECKED, why)
    offset_s = measured[0]
    apart = f"our clock is {abs(offset_s):.0f} s {'behind' if offset_s > 0 else 'ahead of'} Gigya's"
    if was_refused:
        return Line(facts.part, Check.CLOCK, "", State.FAILED, *_clock_refused(apart), "request_expired", 403002)
    remedy = remedy_for("request_expired", site=facts.name)
    if abs(offset_s) >= CLOCK_FAILS_AT_S:
        found = f"{apart}: from two minutes on requests are refused (403002)"
        return Line(facts.part, Check.CLOCK, "", State.FAILED, found, remedy, "request_expired")
    if abs(offset_s) >= CLOCK_WARNS_AT_S:
        return Line(facts.part, Check.CLOCK, "", State.WARNING, f"{apart}; 120 s are too much", remedy)
    return Line(facts.part, Check.CLOCK, "", State.OK, f"{abs(offset_s):.0f} s apart")


def _clock_refused(apart: str) -> tuple[str, str]:
    found = "403002 request has expired" + (f": {apart}" if apart else "")
    return found, remedy_for("request_expired", site="")


def _site_wide_line(facts: SiteFacts, check: Check, blamed: Sequence[Blame]) -> Line:
    if (blame := _worst(blamed, check)) is not None:
        return _line(facts, check, "", blame)
    if facts.is_accepted:
        return Line(facts.part, check, "", State.OK, _accepted(facts, check))
    if by := next((blame for blame in blamed if check in _PROVED_BY_REFUSAL.get(blame.check, ())), None):
        return Line(facts.part, check, "", State.OK, f"not what {by.asked.method} was refused for; see {by.check}")
    if check is Check.CREDENTIALS and facts.asked and not _has_failure(facts, blamed):
        found = "nothing has proved them: gm.getActionConfig cannot be asked, and an empty call may not look at them"
        return Line(facts.part, check, "", State.WARNING, found, remedy_for("unproven", site=facts.name))
    return Line(facts.part, check, "", State.NOT_CHECKED, _see(facts, "", blamed, (check,)))


def _has_failure(facts: SiteFacts, blamed: Sequence[Blame]) -> bool:
    states = [blame.state for blame in blamed] + [line.state for line in facts.network]
    return State.FAILED in states


def _accepted(facts: SiteFacts, check: Check) -> str:
    others = [method.name for method in facts.methods]
    if check is Check.DATA_CENTER:
        return facts.address
    if check is Check.CREDENTIALS:
        return "accepted"
    what = GET_ACTION_CONFIG.name if check is Check.PERMISSION else "Loyalty is on"
    if check is Check.PRODUCT:
        others = [_PRODUCTS["socialize"] for method in facts.methods if method is PUBLISH_USER_ACTION]
    return f"{what}; not refused: {', '.join(others)}" if others else what


def _method_line(facts: SiteFacts, name: str, prefix: str, blamed: Sequence[Blame]) -> Line:
    own = [blame for blame in blamed if blame.asked.method == name]
    if (blame := _worst(own, Check.METHOD)) is not None:
        return _line(facts, Check.METHOD, name, blame)
    asked = next((one for one in facts.asked if one.method == name), None)
    if asked is None or own:
        return Line(facts.part, Check.METHOD, name, State.NOT_CHECKED, _see(facts, prefix, own or blamed, ()))
    took = f"{asked.took_s * 1000:.0f} ms"
    if not asked.is_empty_call:
        return Line(facts.part, Check.METHOD, name, State.OK, f"answers in {took}")
    code = asked.answer.error_code if isinstance(asked.answer, Reply) else None
    found = f"alive: refuses an empty call ({code}) in {took}"
    return Line(facts.part, Check.METHOD, name, State.OK, found)


def _see(facts: SiteFacts, prefix: str, blamed: Sequence[Blame], own: Sequence[Check]) -> str:
    """Return which line tells why a check could not be made."""
    if found := next((blame for blame in blamed if blame.check not in own), None):
        subject = f" {found.asked.method}" if found.check is Check.METHOD else ""
        return f"see {found.check}{subject}"
    host = facts.hosts.get(prefix)
    trouble = [line for line in facts.network if line.state in (State.FAILED, State.WARNING) and line.remedy]
    if found_line := next((line for line in trouble if host in (None, line.subject)), None):
        return f"see {found_line.check} {found_line.subject}"
    return "not asked"


def _worst(blamed: Sequence[Blame], check: Check) -> Blame | None:
    against = [blame for blame in blamed if blame.check is check]
    return next((blame for blame in against if blame.state is State.FAILED), against[0] if against else None)


def _line(facts: SiteFacts, check: str, subject: str, blame: Blame) -> Line:
    code = blame.verdict.code or None
    return Line(facts.part, check, subject, blame.state, blame.found, blame.remedy, blame.verdict.reason, code)
