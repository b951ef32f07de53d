"""Which records are in a file: lines, documents, archives, and what is told of what is missing."""

from __future__ import annotations

import bz2
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inspect import samples
from worker.inspect.samples import Recording, Sampled, Unreadable
from worker.model import KafkaRecord


def recording(data: bytes, *, is_kcat: bool = False) -> Recording:
    return Recording("f", io.BytesIO(data), topic="t", now_ms=5, is_kcat=is_kcat)


def read(data: bytes) -> list[tuple[str, bytes | None]]:
    whole = recording(data)
    found = [(each.where, each.record.value) for each in whole]
    assert whole.damage == ""
    return found


def test_a_line_is_a_record_of_now_and_its_offset_is_its_number():
    (first, second) = recording(b'{"a": 1}\n{"a": 2}')
    assert first == Sampled("f:1", KafkaRecord("t", 0, 1, b'{"a": 1}', timestamp=5))
    assert second.record.offset == 2


def test_blank_lines_are_no_records_but_count_as_lines():
    assert read(b'\n{"a": 1}\r\n  \n{"b": 2}\n\n') == [("f:2", b'{"a": 1}'), ("f:4", b'{"b": 2}')]


def test_a_broken_line_is_a_record_and_costs_no_other():
    assert [value for _, value in read(b'{"a": 1}\n{"b":\n{"c": 3}\n')] == [b'{"a": 1}', b'{"b":', b'{"c": 3}']
    assert [value for _, value in read(b'{"a":\n{"b": 2}\n{"c": 3}\n')] == [b'{"a":', b'{"b": 2}', b'{"c": 3}']


def test_bytes_that_are_no_text_come_through():
    assert [value for _, value in read(b'{"a": 1}\n\xff\xfe\x00\n')] == [b'{"a": 1}', b"\xff\xfe\x00"]


def test_a_document_over_several_lines_is_one_record():
    document = json.dumps({"a": [1, {"b": "x\ny"}]}, indent=2).encode()
    ((where, value),) = read(document)
    assert where == "f:1"
    assert json.loads(value or b"") == {"a": [1, {"b": "x\ny"}]}


def test_documents_in_a_row_are_records_with_the_line_they_start_at():
    both = b'{\n "a": 1\n}\n\n{\n "b": 2\n}\n'
    assert [(where, json.loads(value or b"")) for where, value in read(both)] == [("f:1", {"a": 1}), ("f:5", {"b": 2})]


def test_a_list_is_one_record_and_the_codec_says_what_it_thinks_of_it():
    assert read(b'[{"a": 1}, {"a": 2}]') == [("f:1", b'[{"a": 1}, {"a": 2}]')]


def test_a_byte_order_mark_is_the_codecs_matter():
    assert read(b'\xef\xbb\xbf{"a": 1}\n{"b": 2}') == [("f:1", b'\xef\xbb\xbf{"a": 1}'), ("f:2", b'{"b": 2}')]


def test_nothing_is_nothing():
    assert read(b"") == read(b"\n\n") == []


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=3), max_size=30))
def test_whatever_is_written_as_lines_is_read_as_lines(events: list[dict[str, int | str]]) -> None:
    lines = [json.dumps(event).encode() for event in events]
    assert [value for _, value in read(b"\n".join(lines))] == lines
    assert [value for _, value in read(gzip.compress(b"\n".join(lines)))] == lines


LINES = [b'{"number": %d}' % number for number in range(2_000)]
ARCHIVE = gzip.compress(b"\n".join(LINES))


@given(st.integers(2, len(ARCHIVE) - 1))
def test_an_archive_cut_anywhere_gives_its_whole_lines_and_says_that_it_is_cut(length: int) -> None:
    cut = recording(ARCHIVE[:length])
    values = [each.record.value for each in cut]
    assert values == LINES[: len(values)]
    assert "the gzip archive is cut off" in cut.damage
    assert f"after line {len(values)}" in cut.damage


def test_what_is_missing_of_a_line_is_told():
    cut = recording(gzip.compress(b'{"a": 1}\n{"b": 2}')[:-8])
    assert [each.record.value for each in cut] == [b'{"a": 1}']
    assert cut.damage == "f: the gzip archive is cut off after line 1; 8 bytes of line 2 are not shown"


def test_a_damaged_archive_and_one_with_something_behind_it_are_told():
    broken = bytearray(ARCHIVE)
    broken[-6] ^= 1  # the checksum
    for data in (bytes(broken), ARCHIVE + b"more"):
        damaged = recording(data)
        assert len(list(damaged)) >= len(LINES) - 1
        assert "is damaged, or something else follows it" in damaged.damage


def test_of_documents_in_an_archive_that_is_cut_the_whole_ones_are_shown():
    documents = b'{\n "a": 1\n}\n{\n "b": 2\n}\n'
    cut = recording(gzip.compress(documents[:-3])[:-8])
    assert [each.where for each in cut] == ["f:1"]
    only = recording(gzip.compress(documents[:9])[:-8])
    assert list(only) == []
    assert "the document that starts there is not whole, and not shown" in only.damage


def test_archives_in_a_row_are_one():
    assert [value for _, value in read(gzip.compress(b"{}\n") + gzip.compress(b"{}\n"))] == [b"{}", b"{}"]


def test_other_archives_are_refused_with_the_way_to_read_them():
    with pytest.raises(Unreadable, match=r"f is bzip2; unpack it on the way: bzip2 -dc f \| gigya-worker try -"):
        list(recording(bz2.compress(b"{}")))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(Unreadable, match="line 2 is longer than 1 MiB"):
        list(recording(b"{}\n" + b"x" * (2 << 20)))


def test_a_line_of_kcat_is_a_whole_record():
    line = {
        "topic": "u",
        "partition": 3,
        "offset": 17,
        "ts": 1_700_000_000_000,
        "headers": ["ce_type", "a", "ce_id", None],
        "key": "u1",
        "payload": '{"a": 1}',
    }
    (one,) = recording(json.dumps(line).encode(), is_kcat=True)
    headers = [("ce_type", b"a"), ("ce_id", None)]
    assert one == Sampled("u/3/17", KafkaRecord("u", 3, 17, b'{"a": 1}', b"u1", headers, 1_700_000_000_000))
    (tombstone,) = recording(json.dumps({**line, "payload": None, "key": None}).encode(), is_kcat=True)
    assert tombstone.record.value is None
    (read_by_kcat,) = recording(json.dumps({**line, "payload": {"a": 1}}).encode(), is_kcat=True)
    assert read_by_kcat.record.value == b'{"a":1}'


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"topic": 1, "partition": 0, "offset": 0, "payload": ""}', b"x"])
def test_a_line_that_is_no_record_of_kcat_is_refused_with_its_number(line: bytes):
    with pytest.raises(Unreadable, match="f:2 is no record as `kcat -J` writes it"):
        list(recording(b'{"topic": "t", "partition": 0, "offset": 0, "payload": "{}"}\n' + line, is_kcat=True))
