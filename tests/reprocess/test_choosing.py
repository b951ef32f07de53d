"""Which letters are meant, whom they are about, and what is shown of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reprocess.letters import DIED_S, letter_at, message
from worker.codecs.choice import auto
from worker.deadletters.ends import CallEnd
from worker.deadletters.glance import glance
from worker.mapping import rules as rules_file
from worker.mapping.expressions import BadExpression
from worker.mapping.ruleset import RuleSet
from worker.mapping.selecting import Condition
from worker.model import CallName, Outcome, OutcomeKind
from worker.reprocess.choosing import Choice, Reading, Unclear, group_digits, holds
from worker.reprocess.documents import masked, of_whole_letter
from worker.reprocess.index import Group, user_number

RULES = """
version: 1
rules:
  - name: watched
    on: [watched]
    notifyAction: {UID: "${ event.user.uid }", action: watched}
  - name: joined
    on: [joined]
    notifyAction: {UID: "${ 'x-' + event.user.uid }", action: joined}
"""


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    (tmp_path / "rules.yaml").write_text(RULES)
    return rules_file.load(tmp_path / "rules.yaml", sites=("main",), topics=("user-events",))


def chosen(choice: Choice, **letter: object) -> bool:
    sent = message(letter_at(1, **letter), 0)  # type: ignore[arg-type]
    return choice.takes(glance(sent.key, sent.headers))


def test_reason_time_and_group_choose() -> None:
    name = letter_at(1).fingerprint
    assert chosen(Choice())
    assert chosen(Choice(group=name[:4], reasons=frozenset({"user_unknown"}), since_ms=round(DIED_S * 1000)))
    assert not chosen(Choice(group="f" * 16))
    assert not chosen(Choice(reasons=frozenset({"parked"})))
    assert not chosen(Choice(since_ms=round(DIED_S * 1000) + 1))
    assert not chosen(Choice(until_ms=round(DIED_S * 1000)))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('event.user.uid == "u1"', True),
        ('event.user.uid == "u2"', False),
        ('dlq.reason == "user_unknown" && dlq.code == 403005 && dlq.generation == 0', True),
        ('dlq.rule.startsWith("join")', False),
        ('dlq.calls.exists(c, c.outcome == "failed" && !c.maybe_executed)', True),
        ("kafka.offset == 1", True),
        ("has(event.missing) && event.missing > 3", False),
    ],
)
def test_a_condition_sees_the_event_and_the_letter(where: str, expected: bool, rules: RuleSet) -> None:
    unclear = Unclear()
    assert holds(Condition(where), Reading(rules, auto), message(letter_at(1), 0), unclear) is expected
    assert unclear.conditions == 0


def test_a_condition_that_cannot_be_told_does_not_hold_and_is_counted(rules: RuleSet) -> None:
    unclear = Unclear()
    for value in (b'{"type": "watched"}', b"{"):
        sent = message(letter_at(1, value=value), 0)
        assert not holds(Condition("event.user.uid != 'u9'"), Reading(rules, auto), sent, unclear)
    assert unclear.conditions == 2
    assert holds(Condition("dlq.offset == 1"), Reading(rules, auto), message(letter_at(1, value=b"{"), 0), unclear)


@pytest.mark.parametrize("where", ["", "event.x +", "1 + 1", "letter.reason == 'x'"])
def test_what_is_no_condition_is_refused_with_its_place(where: str) -> None:
    with pytest.raises(BadExpression):
        Condition(where)


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(BadExpression) as error:
        Condition("dead.reason == 'x'")
    assert "dlq" in error.value.remedy


def test_users_are_told_by_the_rules_uid_else_by_the_key(rules: RuleSet) -> None:
    def user(reading: Reading, **letter: object) -> int:
        sent = message(letter_at(1, **letter), 0)  # type: ignore[arg-type]
        return reading.user(glance(sent.key, sent.headers), sent)

    reading = Reading(rules, auto)
    assert user(reading) == user_number(b"u1")
    assert user(reading, rule="joined") == user_number(b"x-u1")
    by_key = user_number(b"\0u1")
    assert user(reading, rule="gone") == by_key
    assert user(reading, value=b'{"type": "watched"}') == by_key
    assert user(Reading(None, auto)) == by_key


def test_what_is_personal_is_masked_and_its_shape_is_not() -> None:
    letter = letter_at(1, uid="secret-user")
    shown = json.dumps(of_whole_letter(letter, auto(letter.record), reveal=False))
    assert "secret-user" not in shown
    assert "t-1" not in shown
    assert '"event": {"type": "***", "user": {"uid": "***"}, "n": "***"}' in shown
    revealed = of_whole_letter(letter, auto(letter.record), reveal=True)
    assert revealed["key"] == "secret-user"
    assert revealed["headers"] == [{"name": "trace", "value": "t-1"}]
    assert masked({"a": [1, None, True, {"b": 2.5}]}) == {"a": ["***", None, True, {"b": "***"}]}


def test_bytes_that_are_no_event_are_shown_only_on_demand() -> None:
    letter = letter_at(1, value=b"{secret")
    assert of_whole_letter(letter, (), reveal=False)["event"] == "7 bytes that cannot be read"
    assert of_whole_letter(letter, (), reveal=True)["event"] == "{secret"
    assert of_whole_letter(letter_at(1, value=b"\xff"), (), reveal=True)["event"] == "base64:/w=="


def test_a_group_has_as_many_digits_as_tell_it_from_the_others() -> None:
    def group(name: str) -> Group:
        sent = message(letter_at(1), 0)
        return Group(glance(sent.key, sent.headers).kind._replace(fingerprint=name), 1, 1, 0, 0, "t/0/1")

    assert group_digits([group("a91c000000000000"), group("b91c000000000000")]) == 4
    assert group_digits([group("a91c120000000000"), group("a91c130000000000")]) == 6


def test_calls_of_a_letter_can_be_asked_about() -> None:
    done = CallEnd(CallName(0, "a"), Outcome(OutcomeKind.DELIVERED, "ok"))
    failed = CallEnd(CallName(0, "b"), Outcome(OutcomeKind.FAILED, "timeout", maybe_executed=True))
    sent = message(letter_at(1, calls=[done, failed]), 0)
    condition = Condition('dlq.calls.filter(c, c.outcome == "delivered").size() == 1 && dlq.calls[1].maybe_executed')
    assert holds(condition, Reading(None, auto), sent, Unclear())
