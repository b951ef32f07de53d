"""The demo believes the two servers and nobody else: whatever is wrong in the evidence is found, and only that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sandbox.demo_evidence import Appended, Evidence, Letter, Names
from worker.sandbox.demo_report import Report, judge, settled, throttling
from worker.sandbox.events import PUBLISH_USER_ACTION, DemoScript, ExpectedCall, Fate, demo
from worker.sandbox.gigya_ledger import Arrival, Executed

NAMES = Names()
CAP, THROTTLED = 400124, 403048


class World:
    """Two servers in which everything went as the script wants; a test then changes what it is about."""

    def __init__(self, seed: int = 0) -> None:
        self.script = demo(seed)
        self.appended = appended(self.script)
        self.executed: list[Executed] = []
        self.arrivals: list[Arrival] = []
        self.letters: list[Letter] = []
        self.exit_code: int | None = 0
        self._numbers = count(1)
        for one in self.appended:
            self._happen(one)
        self.ends = dict(Counter(one.partition for one in self.appended))
        self.committed = dict(self.ends)

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            tuple(self.executed), tuple(self.arrivals), tuple(self.letters), dict(self.ends), dict(self.committed)
        )

    def report(self) -> Report:
        return judge(self.script, NAMES, self.appended, self.evidence, self.exit_code)

    def place_of(self, fate: Fate) -> str:
        return next(one.place for one in self.appended if one.event.fate is fate)

    def _happen(self, one: Appended) -> None:
        event = one.event
        if event.is_bad:
            is_unmappable = event.why == "unmappable"
            reason = "missing_field" if is_unmappable else "truncated_json"
            rule = "episode-watched" if is_unmappable else ""
            origin = f"{NAMES.topic}/{one.place}"
            self.letters.append(Letter(origin, event.value, event.key, reason, "a text", rule, "UID" if rule else ""))
        if event.call is None:
            return
        if event.uid == self.script.throttled_uid and not any(old.code == THROTTLED for old in self.arrivals):
            self.arrive(event.call, THROTTLED)
        arrival = self.arrive(event.call, CAP if event.fate is Fate.CAPPED else 0)
        if event.fate is Fate.DELIVERED:
            self.execute(event.call, arrival)

    def arrive(self, call: ExpectedCall, code: int) -> Arrival:
        number = next(self._numbers)
        at_s = 1000 + number * 0.2
        arrival = Arrival(number, at_s, "main", call.method, call.uid, f"n{number}", f"c{number:031}", code)
        self.arrivals.append(arrival)
        return arrival

    def execute(self, call: ExpectedCall, arrival: Arrival) -> None:
        self.executed.append(
            Executed(
                order=len(self.executed) + 1,
                arrival=arrival.number,
                arrived_s=arrival.at_s,
                at_s=arrival.at_s,
                site="main",
                method=call.method,
                uid=call.uid,
                params=params_of(call),
                nonce=arrival.nonce,
                call_id=arrival.call_id,
                fault=None,
                result=self._result_of(call),
            )
        )

    def _result_of(self, call: ExpectedCall) -> dict[str, dict[str, int]]:
        if call.method != PUBLISH_USER_ACTION:
            return {}
        refused = 403024 if call.uid == self.script.failing_uid else 0
        return {"providers": {"facebook": 0, "twitter": refused}}


def appended(script: DemoScript) -> list[Appended]:
    offsets: Counter[int] = Counter()
    placed = []
    for event in script.events:
        partition = event.partition or 0
        placed.append(Appended(event, partition, offsets[partition]))
        offsets[partition] += 1
    return placed


def params_of(call: ExpectedCall) -> dict[str, str]:
    params = {"UID": call.uid, "actionAttributes": orjson.dumps(call.attributes).decode()}
    if call.method == PUBLISH_USER_ACTION:
        return params | {"userAction": orjson.dumps({"title": call.title}).decode()}
    context = orjson.dumps({"eventId": call.event_id, "seq": call.seq}).decode()
    return params | {"action": call.action, "points": str(call.points), "context": context}


@given(st.integers(0, 1_000))
def test_a_run_in_which_all_went_well_has_no_difference(seed: int) -> None:
    report = World(seed).report()

    assert report.differences == ()
    assert report.is_balanced
    assert report.ledger == demo(seed).expected_ledger()
    assert report.outcomes == {"delivered": 9, "filtered": 4, "dead letter": 2, "capped": 1}


@given(st.integers(0, 200), st.data())
def test_whatever_single_entry_is_missing_shows(seed: int, data: st.DataObject) -> None:
    world = World(seed)
    pile = data.draw(st.sampled_from([world.executed, world.arrivals, world.letters]))
    seen = [entry for entry in pile if not isinstance(entry, Arrival) or entry.code]  # 0: `executed` says it all
    pile.remove(data.draw(st.sampled_from(seen)))

    assert world.report().differences


def test_a_call_that_was_never_made_is_named_by_its_event() -> None:
    world = World()
    place = world.place_of(Fate.DELIVERED)
    call = next(one.event.call for one in world.appended if one.place == place)
    world.executed = [entry for entry in world.executed if params_of(call) != entry.params]  # type: ignore[arg-type]

    report = world.report()

    row = next(row for row in report.rows if row.place == place)
    assert row.outcome == "filtered"
    assert any("filtered instead of delivered" in text for text in row.differences)
    assert "ledger: done 9 instead of 10" in report.differences
    assert not [row for row in report.rows if row.differences and row.place != place]


def test_a_call_made_twice_is_a_difference() -> None:
    world = World()
    world.executed.append(replace(world.executed[0], order=99))

    assert any("delivered + delivered instead of delivered" in text for text in world.report().differences)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points", "11"),
        ("action", "watched_trailer"),
        ("actionAttributes", '{"tv-show":"Lost"}'),
        ("context", '{"eventId":"ID","seq":77}'),
        ("UID", "somebody-else"),
    ],
)
def test_one_changed_parameter_is_a_difference(name: str, value: str) -> None:
    world = World()
    entry = next(entry for entry in world.executed if "points" in entry.params)
    event_id = str(orjson.loads(entry.params["context"])["eventId"])
    changed = replace(entry, params={**entry.params, name: value.replace("ID", event_id)})
    world.executed[world.executed.index(entry)] = changed

    assert world.report().differences


def test_another_answer_of_a_provider_is_a_difference() -> None:
    world = World()
    entry = next(entry for entry in world.executed if entry.uid == world.script.failing_uid and entry.result)
    world.executed[world.executed.index(entry)] = replace(entry, result={"providers": {"facebook": 0, "twitter": 0}})

    assert any("the providers' codes are" in text for text in world.report().differences)


@pytest.mark.parametrize("change", [{"value": b"{}"}, {"key": None}, {"reason": "missing_field", "rule": "r"}])
def test_a_dead_letter_that_is_not_the_record_or_has_another_reason_is_a_difference(change: dict[str, object]) -> None:
    world = World()
    letter = next(letter for letter in world.letters if not letter.rule)
    world.letters[world.letters.index(letter)] = replace(letter, **change)  # type: ignore[arg-type]

    report = world.report()

    assert [row.place for row in report.rows if row.differences] == [letter.origin.split("/", 1)[1]]


def test_a_dead_letter_of_a_delivered_event_is_a_difference() -> None:
    world = World()
    place = world.place_of(Fate.DELIVERED)
    world.letters.append(replace(world.letters[0], origin=f"{NAMES.topic}/{place}"))

    report = world.report()

    assert f"{place}  " in " ".join(report.differences)
    assert not report.is_balanced


def test_a_dead_letter_of_no_event_is_a_difference() -> None:
    world = World()
    world.letters.append(replace(world.letters[0], origin="elsewhere/0/0"))

    assert "dead letter of a record that is not of the demo: elsewhere/0/0" in world.report().differences


def test_an_offset_that_was_not_committed_is_a_difference() -> None:
    world = World()
    world.committed[1] -= 1

    report = world.report()

    assert report.ledger["unfinished"] == 1
    assert report.differences


def test_calls_of_one_user_in_another_order_are_a_difference() -> None:
    world = World()
    uid = next(uid for uid, times in Counter(entry.uid for entry in world.executed).items() if times > 1)
    first, second = (entry for entry in world.executed if entry.uid == uid)
    world.executed = _swapped(world.executed, first, second)

    assert any("before" in text and "of the same user" in text for text in world.report().differences)


def _swapped(entries: list[Executed], first: Executed, second: Executed) -> list[Executed]:
    orders = {first.order: second.order, second.order: first.order}
    swapped = [replace(entry, order=orders.get(entry.order, entry.order)) for entry in entries]
    return sorted(swapped, key=lambda entry: entry.order)


def test_a_signature_that_was_refused_is_a_difference() -> None:
    world = World()
    world.arrivals[0].code = 403003

    assert "the local Gigya answered 403003, 1 x" in world.report().differences


def test_a_moment_without_throttling_is_a_difference() -> None:
    world = World()
    world.arrivals = [arrival for arrival in world.arrivals if arrival.code != THROTTLED]

    assert any(text.startswith("403048 was answered 0 times instead of 1") for text in world.report().differences)


@pytest.mark.parametrize(
    ("exit_code", "text"), [(3, "the worker exited with 3"), (None, "the worker did not end in time")]
)
def test_the_worker_has_to_end_with_0_even_if_all_else_is_right(exit_code: int | None, text: str) -> None:
    world = World()
    world.exit_code = exit_code

    assert world.report().differences == (text,)


def test_progress_counts_what_has_an_end_and_tells_the_throttled_moment() -> None:
    world = World()
    nothing = Evidence((), (), (), {}, {})
    calls_only = replace(world.evidence, committed={}, letters=())

    assert settled(NAMES, world.appended, nothing) == 0
    assert settled(NAMES, world.appended, calls_only) == 10
    assert settled(NAMES, world.appended, world.evidence) == len(world.appended)
    assert throttling(nothing) == ""
    assert throttling(world.evidence) == "throttled once, held 0.2 s"


def test_the_table_is_in_the_order_of_the_topic_and_says_why() -> None:
    rows = World().report().rows

    assert [row.place for row in rows] == sorted(row.place for row in rows)
    whys = {row.outcome: row.why for row in rows}
    assert whys["capped"] == "400124: user's daily cap"
    assert any(row.why == "after 403048, held 0.2 s" for row in rows)
    assert any(row.why == "facebook ok, twitter 403024" for row in rows)
    assert any(row.why.startswith("no rule for page.viewed") for row in rows)
    assert any(row.why.endswith("< 0.9") for row in rows)
    assert any(row.why == "truncated_json: a text" for row in rows)
    assert any(row.why == "rule episode-watched, UID: a text" for row in rows)
