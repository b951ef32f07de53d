"""When an event happened, and how long an age is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.mapping import times
from worker.model import Json


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), (" 1s ", 1),
        ("0s", None), ("90", None), ("1.5h", None), ("-1h", None), ("1h30m", None), ("PT1H", None), ("1w", None),
        ("", None), ("s", None), ("1 h", None), ("9999999999d", None), ("１s", 1),
    ],
)  # fmt: skip
def test_a_duration_is_one_number_and_one_unit(text: str, seconds: int | None) -> None:
    assert times.duration_s(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "2023-11-14T22:13:20Z", "2023-11-14t22:13:20z", "2023-11-14 22:13:20Z", "2023-11-14T22:13:20.000Z",
        "2023-11-14T23:13:20+01:00", "2023-11-14T16:43:20-05:30", "2023-11-14T22:13:20-00:00",
        1_700_000_000, 1_700_000_000.0, 1_700_000_000_000, 1_700_000_000_000_000, 1_700_000_000_000_000_000,
    ],
)  # fmt: skip
def test_a_time_is_read_in_all_its_forms(value: Json) -> None:
    assert times.unix_s(value) == 1_700_000_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2023-11-14T22:13:20.5Z", 1_700_000_000.5),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000.123456789),
        ("2016-12-31T23:59:60Z", 1_483_228_800),  # a leap second
        (1_700_000_000_123, 1_700_000_000.123),
        (0, 0),
        (-86400, -86400),
    ],
)
def test_a_time_keeps_its_fraction(value: Json, seconds: float) -> None:
    assert times.unix_s(value) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "value",
    [
        None, True, "", "yesterday", "2023-11-14", "2023-11-14T22:13:20", "2023-11-14T22:13Z", "20231114T221320Z",
        "2023-13-14T22:13:20Z", "2023-11-14T25:13:20Z", "2023-11-14T22:13:61Z", "1700000000",
        "2023-11-14T22:13:20+99:00", "0000-01-01T00:00:00Z", "٢٠٢٣-11-14T22:13:20Z", [], {}, 1e30,
    ],
)  # fmt: skip
def test_anything_else_is_no_time(value: Json) -> None:
    assert times.unix_s(value) is None


@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_no_value_makes_the_reading_of_a_time_raise(value: Json) -> None:
    assert times.unix_s(value) is None or isinstance(times.unix_s(value), float)
