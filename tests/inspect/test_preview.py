"""What becomes of a record, and why there is no call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inspect.conftest import RULES, Try, sampled, trial
from worker.errors import RecordError
from worker.inspect.preview import Fate, RuleEnd, Tried
from worker.inspect.samples import Sampled
from worker.mapping import rules
from worker.mapping.mapper import Mapper
from worker.model import Event, Json

WATCHED: dict[str, Json] = {"type": "watched", "uid": "u1", "progress": 0.95, "points": 3}


def said(tried: Tried) -> dict[str, str]:
    return {each.rule: f"{each.end.value}: {each}" for event in tried.events for each in event.rules}


def test_an_event_becomes_the_calls_of_every_rule_that_fires(tried: Try):
    result = tried(WATCHED)
    assert result.fate is Fate.CALLS
    assert [(call.name.rule, call.params["action"]) for call in result.calls] == [
        ("watched", "watched_it"),
        ("also", "did"),
    ]


def test_a_when_that_is_false_is_told_with_what_the_event_has(tried: Try):
    result = tried({**WATCHED, "progress": 0.2})
    assert said(result)["watched"] == "when_false: when is false: event.progress >= 0.9 (event.progress is 0.2)"
    assert [call.name.rule for call in result.calls] == ["also"]


def test_of_a_list_it_is_told_for_which_elements_when_is_false(tried: Try):
    result = tried({"type": "bought", "uid": "u1", "items": [{"name": "a", "price": 1}, {"name": "b", "price": 0}]})
    assert (result.fate, result.reason) == (Fate.FILTERED, "when_false")
    assert said(result)["items"] == (
        "when_false: when is false for all 2 elements: item.price > 1 (0: item.price is 1; 1: item.price is 0)"
    )


def test_each_element_makes_its_call(tried: Try):
    result = tried({"type": "bought", "uid": "u1", "items": [{"name": "a", "price": 1}, {"name": "b", "price": 2}]})
    assert [call.name.item for call in result.calls] == [1]


def test_a_list_without_elements_is_told(tried: Try):
    result = tried({"type": "bought", "uid": "u1", "items": []})
    assert said(result) == {"items": "no_item: event.items has no elements"}


def test_a_type_that_no_rule_names_is_told_with_the_nearest_one(tried: Try):
    result = tried({"type": "watchd"})
    assert (result.fate, result.reason) == (Fate.FILTERED, "no_rule")
    assert result.text == 'no rule names the type "watchd"; on: has "watched"'


def test_a_type_far_from_all_is_told_with_those_there_are(tried: Try):
    assert tried({"type": "zzz"}).text == 'no rule names the type "zzz"; on: has bought, liked, opened, watched'


def test_a_rule_for_another_topic_and_one_that_is_switched_off_are_told(tried: Try):
    assert tried({"type": "opened"}).text == 'rule "elsewhere" names the type, for others only (topics:)'
    assert tried({"type": "closed"}).text == 'rule "off" names the type, and is switched off (enabled: false)'
    assert tried({"type": "opened", "uid": "u1"}, topic="others").fate is Fate.CALLS


def test_an_event_without_type_is_told(tried: Try):
    assert tried({"a": 1}).reason == "no_type"


def test_a_missing_field_is_told_with_rule_and_parameter_and_no_call_is_made(tried: Try):
    result = tried({**WATCHED, "uid": None, "points": 1.5})
    assert result.fate is Fate.DEAD_LETTER
    assert result.calls == ()
    result = tried({"type": "watched", "uid": "u1", "progress": 1})
    assert (result.fate, result.reason) == (Fate.DEAD_LETTER, "missing_field")
    assert result.text == 'rule "watched", points: event.points is missing'
    assert said(result) == {"watched": "failed: points: event.points is missing", "also": "fired: "}


def test_a_value_over_a_limit_is_told_with_the_value(tried: Try):
    result = tried({**WATCHED, "points": 1.5})
    assert said(result)["watched"] == "failed: points: points is not a whole number (event.points is 1.5)"


@pytest.mark.parametrize(
    ("value", "reason"), [(b"{", "truncated_json"), (b"", "empty_value"), (b"[1]", "not_an_object")]
)
def test_what_no_codec_reads_is_a_dead_letter(tried: Try, value: bytes, reason: str):
    result = tried(value)
    assert (result.fate, result.reason, result.events) == (Fate.DEAD_LETTER, reason, ())


def test_a_tombstone_is_filtered(tried: Try):
    assert (tried(None).fate, tried(None).reason) == (Fate.FILTERED, "no_value")


def test_of_a_batch_each_event_is_told_and_one_failure_is_the_records(tried: Try):
    def cloud_event(number: int, data: Json) -> Json:
        return {"specversion": "1.0", "id": str(number), "source": "/s", "type": "liked", "data": data}

    both = tried([cloud_event(1, {"uid": "u1"}), cloud_event(2, {"uid": "u2"})])
    assert [call.uid for call in both.calls] == ["u1", "u2"]
    one = tried([cloud_event(1, {"uid": "u1"}), cloud_event(2, {})])
    assert (one.fate, one.calls, len(one.events)) == (Fate.DEAD_LETTER, (), 2)


events = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["watched", "liked", "opened", "closed", "bought", "else"]) | st.integers(),
        "uid": st.sampled_from(["u1", "u2", ""]) | st.none() | st.integers(),
        "progress": st.floats(0, 1) | st.text(max_size=2),
        "points": st.integers(-5, 5) | st.floats(0, 2),
        "items": st.lists(st.fixed_dictionaries({"name": st.text(max_size=2)}, optional={"price": st.integers(0, 3)})),
    },
)
_RULES = rules.loads(RULES, file="rules.yaml", sites=["main"], topics=["events", "others"])
_MAPPER, _TRIAL = Mapper(_RULES), trial(RULES)


@given(events)
def test_what_is_shown_is_what_the_worker_does_and_every_silence_has_a_reason(event: dict[str, Json]) -> None:
    one = sampled(event)
    tried = _TRIAL.of(one)
    (decoded,) = _MAPPER.decode(one.record)
    if failure := _failure(one, decoded):
        assert (tried.fate, tried.reason, tried.calls) == (Fate.DEAD_LETTER, failure.reason, ())
        assert any(each.end is RuleEnd.FAILED and each.text for each in tried.events[0].rules)
        return
    calls = _MAPPER.calls(one.record, decoded)
    assert tried.calls == calls
    if not calls:
        assert (tried.fate, tried.reason) == (Fate.FILTERED, _MAPPER.why(one.record, decoded))
        assert tried.text


def _failure(one: Sampled, event: Event) -> RecordError | None:
    try:
        _MAPPER.calls(one.record, event)
    except RecordError as error:
        return error
    return None
