"""Files as records: each line once, a lock that outlives no process, and no word lost of what is not whole."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from worker.backfill.files import (
    FileRecord,
    FileSource,
    begun,
    names_of,
    records_of,
    refuse_other_files,
    state_in,
    survey_file,
)
from worker.backfill.state_file import StateFile, look_into
from worker.errors import StartFailed
from worker.kafka.membership import Position
from worker.kafka.progress import Note, Progress, fit
from worker.model import TopicPartition

LINES = [b'{"n": %d}' % number for number in range(1, 51)]


class Nobody:
    async def partitions_assigned(self, partitions: frozenset[TopicPartition]) -> None: ...

    async def partitions_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "past.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join([*LINES[:10], b"", *LINES[10:]]) + b"\n"))
    return path


def test_a_file_is_surveyed_to_its_last_line_blank_ones_counted(file: Path) -> None:
    found = survey_file(file, "events")
    assert (found.end, found.damage) == (52, "")
    records = list(records_of(found, "events", 7, begin=9))
    assert [record.offset for record in records] == [9, 10, *range(12, 52)]
    first = records[0]
    assert isinstance(first, FileRecord)
    assert (first.topic, first.partition, first.value, first.timestamp) == ("file:past.jsonl.gz", 0, LINES[8], 7)
    assert first.origin.topic == "events"


def test_an_archive_that_is_cut_is_named_with_the_line_where_it_ends(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])
    found = survey_file(file, "events")
    assert "cut off" in found.damage
    assert "past.jsonl.gz" in found.damage


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rename one"):
        names_of([tmp_path / "a" / "x.jsonl", tmp_path / "b" / "x.jsonl"])


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"nothing\.jsonl cannot be read"):
        survey_file(tmp_path / "nothing.jsonl", "events")


async def test_what_is_committed_is_where_the_next_process_goes_on(file: Path, tmp_path: Path) -> None:
    path, found = tmp_path / "state.json", survey_file(file, "events")
    with StateFile.opened(path) as held:
        source = FileSource([found], begun([found], 7, "r1"), held, topic="events")
        await source.start(Nobody())
        batch = await source.read([found.partition], max_records=20, timeout_s=0)
        assert len(batch[found.partition]) == 20
        metadata, _ = fit(Note(), Progress(12, 15, bounds=source.bounds(found.partition)))
        await source.commit({found.partition: Position(12, metadata)})
    state = state_in(look_into(path), path)
    assert state is not None
    with StateFile.opened(path) as held:
        again = FileSource([found], state, held, topic="events")
        await again.start(Nobody())
        (batch,) = (await again.read([found.partition], max_records=500, timeout_s=0)).values()
        assert [record.offset for record in batch] == list(range(12, 52))
        assert {record.timestamp for record in batch} == {7}
        assert again.position(found.partition) == 52
        assert again.found(found.partition).committed == Position(12, metadata)
        assert await again.read([found.partition], max_records=500, timeout_s=0) == {}


def test_a_file_that_was_changed_or_exchanged_is_another_run(file: Path, tmp_path: Path) -> None:
    state = begun([survey_file(file, "events")], 7, "r1")
    file.write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(StartFailed, match="has changed since this run began"):
        refuse_other_files(state, [survey_file(file, "events")], tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    with pytest.raises(StartFailed, match=r"knows nothing of other\.jsonl"):
        refuse_other_files(state, [survey_file(other, "events")], tmp_path)


@pytest.mark.parametrize("text", ["not json", "[]", '{"version": 2}', '{"version": 1, "files": 3}'])
def test_a_file_that_is_no_state_is_not_written_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(StartFailed, match="not the state of a backfill"):
        state_in(look_into(path), path)


def test_a_second_process_is_refused_also_after_the_first_has_committed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with StateFile.opened(path) as held:
        for number in range(3):
            with pytest.raises(StartFailed, match="another process works on this run"), StateFile.opened(path):
                pass
            held.write({"number": number})
    with StateFile.opened(path) as held:
        assert held.read()["number"] == 2


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    program = """
        import sys, time
        from pathlib import Path
        from worker.backfill.state_file import StateFile
        with StateFile.opened(Path(sys.argv[1])) as held:
            held.write({"number": 1})
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StartFailed, match="another process"), StateFile.opened(path):
            pass
        os.kill(process.pid, signal.SIGKILL)
    with StateFile.opened(path) as held:
        assert held.read()["number"] == 1
