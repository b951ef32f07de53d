"""Settings: three sources, every problem at once and with its place, and no secret anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.cli.problems import one_line
from worker.errors import Problem, Refused
from worker.settings.layers import Origin
from worker.settings.tree import Loaded, effective, load, outline, secret_values

SECRET = "aHVudGVyMmh1bnRlcjI="  # padded base64
NOT_A_SECRET = "hunter2-is-no-base64"
GOOD = f"""\
kafka:
  bootstrap_servers: localhost:9092
  group_id: gigya-worker
  topics: [user-events]
  dead_letter_topic: user-events.dead
sites:
  main:
    data_center: eu1
    api_key: 3_abc
    auth: {{mode: signed, user_key: AKey, secret: {SECRET}}}
    quota_per_s: 50
delivery: {{attempts: 12, drain_s: 20}}
admin: {{port: 8080}}
rules: rules.yaml
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str | bytes = GOOD, environ: Mapping[str, str] | None = None) -> Loaded:
    path = Path("worker.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, environ=environ or {})


def problems(text: str | bytes = GOOD, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(Refused) as refused:
        loaded(text, environ)
    return refused.value.problems


def lines(text: str | bytes = GOOD, environ: Mapping[str, str] | None = None) -> list[str]:
    return [one_line(problem) for problem in problems(text, environ)]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# What is wrong with the file -> the file, and what one line of the answer holds.
BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "worker.yaml:1:1: error: is empty"),
    "only a comment": ("# nothing\n", "is empty"),
    "a list": ("- a\n- b\n", "must be a mapping"),
    "a text": ("hello\n", "must be a mapping"),
    "not UTF-8": (b"kafka:\n  group_id: \xff\n", "worker.yaml:2:13: error: is not UTF-8 here"),
    "UTF-16": (GOOD.encode("utf-16"), "is not UTF-8"),
    "a zero byte": (GOOD + "x: \0\n", "worker.yaml:15:4: error: holds a character that YAML forbids (U+0000)"),
    "a tab": ("kafka:\n\tgroup_id: a\n", "worker.yaml:2:1: error: not valid YAML: a tab"),
    "an open bracket": (changed("[user-events]", "[user-events"), "a bracket is not closed"),
    "an open quote": (changed("rules: rules.yaml", "rules: 'rules.yaml"), "a quoted text is not closed"),
    "a colon in a plain value": (changed("rules.yaml", "a: b"), "put quotes around"),
    "broken indentation": ("kafka:\n    a: 1\n  b: 2\n", "not valid YAML"),
    "two documents": (GOOD + "---\n" + GOOD, "a second document starts here"),
    "a key twice": (GOOD + "rules: other.yaml\n", "worker.yaml:15:1: error: rules is given twice"),
    "an anchor used": (changed("rules.yaml", "*rules"), "reads as an alias"),
    "an alias": ("a: &x [1]\nb: *x\n", "aliases (*name) are not read here"),
    "a merge key": (changed("admin: {port", "admin: {<<: {}, port"), "merge keys"),
    "a tag": (changed("rules.yaml", "!env RULES"), "tags (!name) are not read here"),
    "a python tag": (changed("rules.yaml", "!!python/object:os.system x"), "tags (!name)"),
    "deep nesting": ("[" * 1000, "nested too deeply"),
    "nesting that YAML takes": ("a: " + "[" * 80 + "]" * 80, "nested too deeply"),
    "no kafka": (GOOD[GOOD.index("sites:") :], "kafka: is missing"),
    "no topics": (changed("  topics: [user-events]\n", ""), "kafka.topics: is missing"),
    "empty topics": (changed("[user-events]", "[]"), "kafka.topics: must not be empty"),
    "topics as text": (
        changed("[user-events]", "user-events"),
        "worker.yaml:4:11: error: kafka.topics: must be a",
    ),
    "a number for a topic": (changed("[user-events]", "[1]"), "kafka.topics[0]: must be text"),
    "a value that is missing": (changed("group_id: gigya-worker", "group_id:"), "kafka.group_id: has no value"),
    "a number for a name": (changed("group_id: gigya-worker", "group_id: 12"), "put quotes around it"),
    "a topic twice": (changed("[user-events]", "[a, a]"), "kafka.topics: names a topic twice; remove one"),
    "a topic's name with a blank": (
        changed("[user-events]", "[a b]"),
        "worker.yaml:4:12: error: kafka.topics[0]: ",
    ),
    "no port": (changed("localhost:9092", "localhost"), "kafka.bootstrap_servers: must be host:port"),
    "a login without a password": (
        changed("sites:", "  security: {protocol: SASL_SSL, mechanism: PLAIN, username: u}\nsites:"),
        "worker.yaml:6:13: error: kafka.security: password is missing",
    ),
    "dead letters among the topics": (
        changed("user-events.dead", "user-events"),
        "worker.yaml:5:22: error: kafka.dead_letter_topic",
    ),
    "an unknown key": (GOOD + "kafak: {}\n", "worker.yaml:15:1: error: kafak: unknown setting; did you mean kafka?"),
    "an unknown nested key": (
        changed("quota_per_s", "qouta_per_s"),
        "worker.yaml:11:5: error: sites.main.qouta_per_s: unknown setting; did you mean quota_per_s?",
    ),
    "a key in the wrong place": (GOOD + "drain_s: 3\n", "did you mean delivery.drain_s?"),
    "no sites": (GOOD[: GOOD.index("sites:")], "sites: is missing"),
    "sites without one": (GOOD[: GOOD.index("sites:")] + "sites: {}\n", "there is no site"),
    "a site that is text": (GOOD[: GOOD.index("sites:")] + "sites: {main: eu1}\n", "sites.main: must be a mapping"),
    "a site's name with two underscores": (changed("  main:", "  my__site:"), "a site's name is made of"),
    "two sites of one name": (
        changed("sites:\n", "sites:\n  MAIN: {data_center: eu1, api_key: a, auth: {user_key: b, secret: YQ==}}\n"),
        "is the same name as",
    ),
    "no data centre": (changed("    data_center: eu1\n", ""), "set data_center, or base_url"),
    "a URL for a data centre": (changed("eu1", "'https://eu1.gigya.com'"), "worker.yaml:8:18: error: sites.main.data"),
    "plain http far away": (changed("data_center: eu1", "base_url: http://proxy.example"), "loopback only"),
    "no API key": (changed("    api_key: 3_abc\n", ""), "WORKER_SITES__MAIN__API_KEY"),
    "an empty API key": (changed("3_abc", "''"), "sites.main.api_key: must not be empty"),
    "no secret": (changed(f", secret: {SECRET}", ""), "or the secret file worker_sites__main__auth__secret"),
    "an unknown mode": (changed("mode: signed", "mode: singed"), "sites.main.auth.mode: must be signed"),
    "yes for a number": (changed("drain_s: 20", "drain_s: yes"), "delivery.drain_s: must be a number, is text"),
    "a number in quotes": (changed("attempts: 12", "attempts: '12'"), "write it without quotes"),
    "a fraction for a whole number": (changed("attempts: 12", "attempts: 1.5"), "must be a whole number"),
    "true for a number": (changed("attempts: 12", "attempts: true"), "must be a whole number, is true or false"),
    "no attempts": (changed("attempts: 12", "attempts: 0"), "delivery.attempts: must be at least 1"),
    "a negative time": (changed("drain_s: 20", "drain_s: -1"), "delivery.drain_s: must be more than 0"),
    "an infinite time": (changed("drain_s: 20", "drain_s: .inf"), "delivery.drain_s"),
    "no number": (changed("drain_s: 20", "drain_s: .nan"), "delivery.drain_s"),
    "a port that is none": (changed("8080", "80800"), "admin.port: must be at most 65535"),
    "a number of ten thousand digits": (changed("8080", "8" * 10_000), "is not a number that can be read"),
    "a quota of nothing": (changed("quota_per_s: 50", "quota_per_s: 0"), "sites.main.quota_per_s: must be more than 0"),
    "a reserve that leaves nothing": (
        changed("quota_per_s: 50", "quota_per_s: 50\n    backfill_reserve_per_s: 50"),
        "sites.main.backfill_reserve_per_s: must be less than quota_per_s (50)",
    ),
    "a reserve of no limit": (
        changed("quota_per_s: 50", "quota_per_s: null\n    backfill_reserve_per_s: 5"),
        "sites.main.backfill_reserve_per_s: needs a quota to be taken from",
    ),
    "a lease that can never hold": (
        changed("attempts: 12", "attempt_timeout_s: 43"),
        "worker.yaml:12:31: error: delivery.attempt_timeout_s: an attempt of 43 s does not fit",
    ),
    "a list for rules": (changed("rules: rules.yaml", "rules: [a]"), "rules: must be text, is a list"),
    "control characters in a key": (GOOD + '"a\\e[2Jb": 1\n', "unknown setting"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_a_line_that_says_so(name: str) -> None:
    text, expected = BAD_FILES[name]
    found = lines(text)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize("name", BAD_FILES)
def test_no_answer_to_a_bad_file_shows_its_secret(name: str) -> None:
    for problem in problems(BAD_FILES[name][0]):
        assert SECRET not in repr(problem)


BAD_ENVIRONMENTS: dict[str, tuple[dict[str, str], str]] = {
    "a misspelt variable": (
        {"WORKER_KAFKA__BOOTSTRAP_SERVER": "a:1"},
        "WORKER_KAFKA__BOOTSTRAP_SERVER: error: unknown setting; did you mean WORKER_KAFKA__BOOTSTRAP_SERVERS?",
    ),
    "one underscore too few": ({"WORKER_ADMIN_PORT": "1"}, "did you mean WORKER_ADMIN__PORT?"),
    "nothing after the prefix": ({"WORKER_": "1"}, "WORKER_: error: unknown setting"),
    "a step too deep": ({"WORKER_ADMIN__PORT__X": "1"}, "unknown setting; did you mean WORKER_ADMIN__PORT?"),
    "text for a whole number": ({"WORKER_ADMIN__PORT": "yes"}, "WORKER_ADMIN__PORT: error: must be a whole number"),
    "a fraction for a whole number": ({"WORKER_DELIVERY__ATTEMPTS": "1.5"}, "must be a whole number"),
    "infinity": ({"WORKER_DELIVERY__DRAIN_S": "inf"}, "WORKER_DELIVERY__DRAIN_S: error: must be a number"),
    "out of bounds": ({"WORKER_ADMIN__PORT": "80800"}, "admin.port: must be at most 65535"),
    "no choice": (
        {"WORKER_DELIVERY__AMBIGUOUS": "guess"},
        "WORKER_DELIVERY__AMBIGUOUS: error: delivery.amb",
    ),
    "broken JSON": ({"WORKER_KAFKA__TOPICS": "[a"}, "WORKER_KAFKA__TOPICS: error: is not valid JSON"),
    "JSON with an unknown key": ({"WORKER_ADMIN": '{"prot": 1}'}, "WORKER_ADMIN: error: admin.prot: unknown setting"),
    "a bad entry of a list": (
        {"WORKER_KAFKA__TOPICS": "user-events,a b"},
        "WORKER_KAFKA__TOPICS: error: kafka.topics[1]: holds characters",
    ),
    "text for a part": ({"WORKER_ADMIN": "on"}, "must be a mapping, as JSON or key by key"),
    "a part and its whole": (
        {"WORKER_ADMIN": '{"port": 1}', "WORKER_ADMIN__PORT": "2"},
        "contradicts another variable",
    ),
    "a secrets folder that is not there": ({"WORKER_SECRETS_DIR": "/nowhere"}, "/nowhere: error: cannot be read"),
    "a secret that is no base64": (
        {"WORKER_SITES__MAIN__AUTH__SECRET": NOT_A_SECRET},
        "WORKER_SITES__MAIN__AUTH__SECRET: error: sites.main.auth.secret",
    ),
    "a site that is not complete": ({"WORKER_SITES__OTHER__API_KEY": "x"}, "sites.other.auth: is missing"),
}


@pytest.mark.parametrize("name", BAD_ENVIRONMENTS)
def test_a_bad_variable_is_refused_by_its_name(name: str) -> None:
    environ, expected = BAD_ENVIRONMENTS[name]
    found = lines(GOOD, environ)
    assert any(expected in line for line in found), found
    assert NOT_A_SECRET not in "".join(found)


def test_all_problems_are_told_at_once() -> None:
    text = changed("attempts: 12", "attempts: 0").replace("group_id: gigya-worker", "group_id: 1").replace("8080", "x")
    found = lines(text + "kafak: 1\n", {"WORKER_NOTHING": "1", "WORKER_DELIVERY__DRAIN_S": "soon"})
    assert len(found) == 6, found


def test_a_problem_points_at_the_value_and_shows_its_line() -> None:
    (problem,) = problems(changed("quota_per_s: 50", "quota_per_s: -5"))
    assert (problem.line, problem.column) == (11, 18)
    assert problem.excerpt == "    quota_per_s: -5"


# --- where a secret could leak --------------------------------------------------------------------------------------

LEAKS = {
    "a secret that is no base64": changed(SECRET, NOT_A_SECRET),
    "beside an error in one line": changed("mode: signed", "mode: 7").replace(SECRET, NOT_A_SECRET),
    "after an error in one line": changed("user_key: AKey", "user_key: 7").replace(SECRET, NOT_A_SECRET),
    "a misspelt key": changed(f"secret: {SECRET}", f"secrt: {NOT_A_SECRET}"),
    "in the wrong place": GOOD + f"secret: {NOT_A_SECRET}\n",
    "in a list": changed(SECRET, f"[{NOT_A_SECRET}]"),
    "as a mapping": changed(SECRET, f"{{a: {NOT_A_SECRET}}}"),
    "twice": changed(SECRET, f"{NOT_A_SECRET}, secret: {NOT_A_SECRET}"),
    "as an alias": changed(SECRET, f"*{NOT_A_SECRET}"),
    "as a tag": changed(SECRET, f"!{NOT_A_SECRET}"),
    "in a broken line": changed(SECRET, f'"{NOT_A_SECRET}" x'),
    "with an open quote": changed(SECRET, f'"{NOT_A_SECRET}'),
    "in a comment": changed("mode: signed", "mode: 7") + f"admn: 1 # {NOT_A_SECRET}\n",
    "over two lines": changed(f"secret: {SECRET}", f'secret: "{NOT_A_SECRET}\n      {NOT_A_SECRET}", sercet: 1'),
    "as a block": GOOD + f"secret: |\n  {NOT_A_SECRET}\n  {NOT_A_SECRET}\n",
    "for the whole site": GOOD[: GOOD.index("  main:")] + f"  main: {NOT_A_SECRET}\n",
    "for the authorization": changed(f"{{mode: signed, user_key: AKey, secret: {SECRET}}}", NOT_A_SECRET),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_secret_shows_up_in_no_error_however_it_is_wrong(name: str) -> None:
    with pytest.raises(Refused) as refused:
        loaded(LEAKS[name])
    shown = str(refused.value) + repr(refused.value.problems) + repr(refused.value)
    if name in {"for the whole site", "for the authorization"}:  # nobody can know that this is one
        shown = str(refused.value)
    assert NOT_A_SECRET not in shown
    assert refused.value.__cause__ is None


def test_a_secret_is_in_no_text_made_of_good_settings() -> None:
    found = loaded(GOOD.replace("port: 8080", "token: hunter2-token"))
    for text in (repr(found.settings), str(found.settings), effective(found), str(found.settings.model_dump())):
        assert SECRET not in text
        assert "hunter2" not in text
    assert secret_values(found.settings) == {SECRET, "hunter2-token"}


def test_a_secret_in_the_wrong_setting_is_masked_where_settings_are_printed() -> None:
    assert SECRET not in effective(loaded(changed("group_id: gigya-worker", f"group_id: {SECRET}")))


# --- three sources --------------------------------------------------------------------------------------------------


def test_a_variable_wins_over_a_secret_file_and_that_over_the_settings_file() -> None:
    folder = Path("secrets")
    folder.mkdir()
    (folder / "worker_kafka__group_id").write_text("from-secret-file\n")
    (folder / "worker_admin__port").write_text("81")
    (folder / "somebody_elses").write_text("x")
    found = loaded(GOOD, {"WORKER_SECRETS_DIR": "secrets", "WORKER_ADMIN__PORT": "82"})
    assert found.settings.kafka.group_id == "from-secret-file"
    assert found.settings.admin.port == 82
    assert found.settings.delivery.attempts == 12
    assert str(found.origin(("admin", "port"))) == "WORKER_ADMIN__PORT"
    assert str(found.origin(("kafka", "group_id"))) == "secrets/worker_kafka__group_id"
    assert str(found.origin(("delivery", "attempts"))) == "worker.yaml:12"
    assert found.origin(("delivery", "max_ahead")) is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("worker_kafka__gruop_id", b"x", "did you mean worker_kafka__group_id?"),
        ("worker_kafka__group_id", b"", "is empty"),
        ("worker_kafka__group_id", b"\xff", "is not UTF-8"),
        ("worker_sites__main__auth__secret", b"hunter2-is-no-base64", "worker_sites__main__auth__secret: error:"),
    ],
)
def test_a_bad_secret_file_is_refused_by_its_name(name: str, content: bytes, expected: str) -> None:
    folder = Path("secrets")
    folder.mkdir()
    (folder / name).write_bytes(content)
    found = lines(GOOD, {"WORKER_SECRETS_DIR": "secrets"})
    assert any(expected in line for line in found), found
    assert "hunter2" not in "".join(found)


def test_settings_can_come_from_variables_alone() -> None:
    environ = {
        "WORKER_KAFKA__BOOTSTRAP_SERVERS": "a:1",
        "WORKER_KAFKA__TOPICS": "one, two",
        "WORKER_KAFKA__GROUP_ID": "group",
        "WORKER_KAFKA__DEAD_LETTER_TOPIC": "dead",
        "WORKER_SITES__MAIN__DATA_CENTER": "eu1",
        "WORKER_SITES__MAIN__API_KEY": "3_abc",
        "WORKER_SITES__MAIN__AUTH__USER_KEY": "AKey",
        "WORKER_SITES__MAIN__AUTH__SECRET": SECRET,
        "WORKER_SITES__MAIN__QUOTA_PER_S": "null",
        "WORKER_SITES__MAIN__VERDICTS__400126": "stop",
    }
    found = load(environ=environ)
    assert list(found.settings.kafka.topics) == ["one", "two"]
    assert found.settings.sites["main"].quota_per_s is None
    assert list(found.settings.sites["main"].verdicts) == [400126]
    assert found.file is None


def test_a_list_in_a_variable_may_be_json() -> None:
    assert list(loaded(GOOD, {"WORKER_KAFKA__TOPICS": '["a.b", "c"]'}).settings.kafka.topics) == ["a.b", "c"]


@pytest.mark.parametrize("spelling", ["Main-EU", "main_eu", "MAIN-eu"])
def test_a_sites_name_matches_its_variable_without_case(spelling: str) -> None:
    found = loaded(changed("  main:", f"  {spelling}:"), {"WORKER_SITES__MAIN_EU__QUOTA_PER_S": "7"})
    assert [site.quota_per_s for site in found.settings.sites.values()] == [7]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert loaded(GOOD, {"WORKER_ADMIN__PORT": ""}).settings.admin.port == 8080


def test_variables_that_kubernetes_makes_for_a_service_called_worker_are_not_ours() -> None:
    loaded(
        GOOD,
        {
            "WORKER_SERVICE_HOST": "10.0.0.1",
            "WORKER_SERVICE_PORT_HTTP": "80",
            "WORKER_PORT": "tcp://10.0.0.1:80",
            "WORKER_PORT_80_TCP_ADDR": "10.0.0.1",
            "WORKER_ADMIN_PORT": "tcp://10.0.0.1:80",
        },
    )


def test_a_settings_file_that_is_not_there_is_refused_only_if_it_was_asked_for() -> None:
    with pytest.raises(Refused, match="there is no such file"):
        load(Path("other.yaml"), environ={})
    with pytest.raises(Refused, match=r"set WORKER_\* variables"):
        load(environ={})


def test_a_folder_in_place_of_the_file_is_refused() -> None:
    Path("folder").mkdir()
    with pytest.raises(Refused, match="cannot be read"):
        load(Path("folder"), environ={})


def test_the_rules_are_looked_for_beside_the_settings_file_or_where_the_variable_was_set() -> None:
    Path("etc").mkdir()
    Path("etc/worker.yaml").write_text(GOOD)
    assert load(Path("etc/worker.yaml"), environ={}).settings.rules == Path("etc/rules.yaml")
    assert load(Path("etc/worker.yaml"), environ={"WORKER_RULES": "r.yaml"}).settings.rules == Path("r.yaml")


def test_a_data_centre_that_nobody_knows_is_a_warning() -> None:
    (warning,) = loaded(changed("eu1", "eu9")).warnings
    assert (warning.severity, warning.line) == ("warn", 8)


def test_settings_that_are_refused_still_tell_where_the_rules_are() -> None:
    Path("worker.yaml").write_text(changed("attempts: 12", "attempts: 0"))
    found = outline(Path("worker.yaml"), environ={})
    assert found is not None
    assert (found.rules, found.sites, found.topics) == (Path("rules.yaml"), ("main",), ("user-events",))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        loaded().settings.rules = Path("x")


# --- what is printed ------------------------------------------------------------------------------------------------


def test_what_is_printed_says_who_set_each_value() -> None:
    text = effective(loaded(GOOD, {"WORKER_ADMIN__PORT": "82"}))
    shown = {" ".join(line.split()) for line in text.splitlines()}
    assert "port: 82 # WORKER_ADMIN__PORT" in shown
    assert "group_id: gigya-worker # worker.yaml:3" in shown
    assert "max_ahead: 10000 # default" in shown
    assert 'secret: "***" # worker.yaml:10' in shown


def test_what_is_printed_is_a_settings_file_again() -> None:
    text = effective(loaded()).replace('"***"', SECRET)
    again = loaded(text)
    assert again.settings == loaded().settings


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_no_text_in_a_variable_makes_a_traceback(text: str) -> None:
    Path("worker.yaml").write_text(GOOD)
    for name in ("WORKER_KAFKA__TOPICS", "WORKER_ADMIN", "WORKER_ADMIN__PORT", "WORKER_DELIVERY__DRAIN_S"):
        with contextlib.suppress(Refused):
            load(Path("worker.yaml"), environ={name: text})


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*GOOD.splitlines(), "a: [", "  - x", "? y", "!!int a", "&b *b", "'", "\t", "%Y"])))
def test_no_file_makes_a_traceback_or_shows_its_secret(parts: list[str]) -> None:
    Path("worker.yaml").write_text("\n".join(parts))
    shown = ""
    try:
        load(Path("worker.yaml"), environ={})
    except Refused as refused:
        shown = str(refused)
    assert SECRET not in shown


def test_an_origin_reads_like_a_place() -> None:
    assert str(Origin("worker.yaml", 3, 4)) == "worker.yaml:3"
    assert str(Origin("WORKER_RULES")) == "WORKER_RULES"
