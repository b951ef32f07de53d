"""Whatever a server answers: the same lines, each trouble with a remedy, and nothing is proved that was not shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.gigya.calls import GET_ACTION_CONFIG, NOTIFY_ACTION, PUBLISH_USER_ACTION
from worker.gigya.replies import ANSWERS, REASONS, NoReply, Reply, VerdictKind, classify, parse_reply
from worker.preflight.asking import Asked
from worker.preflight.judging import CHECKS, SiteFacts, lines
from worker.preflight.lines import Check, Line, State
from worker.preflight.remedies import remedy_for

HOSTS = {"gm": "gm.eu1.gigya.com", "socialize": "socialize.eu1.gigya.com"}
METHODS = (NOTIFY_ACTION, PUBLISH_USER_ACTION)
EXPECTED = [
    *((check, host) for host in HOSTS.values() for check in ("dns", "connection")),
    ("clock", ""), ("data centre", ""), ("credentials", ""), ("permission", ""), ("product", ""),
    ("method", "gm.getActionConfig"), ("method", "gm.notifyAction"), ("method", "socialize.publishUserAction"),
]  # fmt: skip

codes = st.one_of(st.sampled_from([0, 200008, 403003, 403007, 403036, 405001, 400002]), st.integers(100_000, 999_999))
replies = st.builds(
    lambda code, status: parse_reply(status, {}, b'{"errorCode": %d, "errorMessage": "x", "callId": "c"}' % code, 0.0),
    codes,
    st.sampled_from([200, 403, 500]),
)
pages = st.builds(
    lambda status, body: parse_reply(status, {}, body, 0.0),
    st.integers(200, 599),
    st.sampled_from([b"", b"<html>", b"{", b"[]", b"{}", b'{"errorCode": true}', b"Bad Request"]),
)
silences = st.builds(NoReply, st.sampled_from([*ANSWERS, "something new"]), st.booleans())
answers = st.one_of(replies, pages, silences)


def facts(*given: Reply | NoReply | None) -> SiteFacts:
    found = SiteFacts("main", "eu1.gigya.com", HOSTS, METHODS)
    for host in HOSTS.values():
        # A certificate that ends soon must not hide that the request was not let through.
        found.network.append(Line("site main", Check.DNS, host, State.OK, "10.0.0.1"))
        found.network.append(Line("site main", Check.CONNECTION, host, State.WARNING, "ends soon", "Renew it."))
    for method, answer in zip((GET_ACTION_CONFIG, *METHODS), given, strict=True):
        if answer is not None:
            is_empty_call = method is not GET_ACTION_CONFIG
            found.asked.append(Asked(method.name, method.host_prefix, is_empty_call, answer, 0.01))
    return found


@given(config=st.none() | answers, notify=st.none() | answers, publish=st.none() | answers)
def test_any_answers_make_the_same_lines_and_every_trouble_has_its_remedy(
    config: Reply | NoReply | None, notify: Reply | NoReply | None, publish: Reply | NoReply | None
) -> None:
    found = list(lines(facts(config, notify, publish)))
    assert [(line.check, line.subject) for line in found] == EXPECTED
    for line in found:
        assert line.found
        assert bool(line.remedy) == (line.state in (State.FAILED, State.WARNING))
        assert "{" not in line.remedy


@given(config=st.none() | answers, notify=st.none() | answers)
def test_credentials_are_good_only_where_the_site_has_shown_it(
    config: Reply | NoReply | None, notify: Reply | NoReply | None
) -> None:
    (line,) = [one for one in lines(facts(config, notify, None)) if one.check == "credentials"]
    shown = [answer for answer in (config, notify) if answer is not None and not isinstance(answer, NoReply)]
    accepted = isinstance(config, Reply) and classify(config).kind is VerdictKind.OK
    recognised = any(classify(answer).reason in CHECKS for answer in shown)
    if line.state is State.OK:
        assert accepted or recognised


@given(config=answers, publish=answers)
def test_a_question_that_was_not_accepted_never_ends_in_a_report_without_trouble(
    config: Reply | NoReply, publish: Reply | NoReply
) -> None:
    is_accepted = classify(config).kind is VerdictKind.OK
    failed = [one for one in lines(facts(config, None, publish)) if one.state is State.FAILED]
    assert failed or is_accepted


def test_every_reason_that_belongs_to_a_line_of_its_own_exists() -> None:
    assert CHECKS.keys() <= REASONS.keys()


def test_no_remedy_speaks_of_a_worker_that_is_running() -> None:
    running = ("sent again", "tried again", "resume", "Calls wait", "replay", "dead letter", "restart")
    for reason in REASONS:
        text = remedy_for(reason, site="main", method="gm.notifyAction", product="Loyalty")
        assert not [word for word in running if word in text], reason
