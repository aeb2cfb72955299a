"""What lies on the disk: parts that know what they belong to, the record, the lock."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.download_http import Remote
from data_tools.download_part import Arrival, LocalError, PartialFile, Record, only_one
from sam_train.errors import UserError

REMOTE = Remote(size=10, etag='"a"')


def _begun(tmp_path: Path, data: bytes = b"12345") -> PartialFile:
    part = PartialFile(tmp_path / "a.tar")
    part.start(REMOTE)
    with part.appending() as file:
        file.write(data)
    return part


def test_a_part_knows_what_it_belongs_to_and_gets_its_name_at_the_end(tmp_path: Path) -> None:
    _begun(tmp_path)
    part = PartialFile(tmp_path / "a.tar")  # as another run finds it
    assert (part.belongs_to(), part.position()) == (REMOTE, 5)
    with part.appending() as file:
        file.write(b"67890")
    assert not (tmp_path / "a.tar").exists()
    part.finish()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.tar", b"1234567890")]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"size": "5"}', '{"sizes": 5}', '{"etag": 1}'])
def test_a_part_with_a_damaged_note_counts_as_absent(tmp_path: Path, note: str) -> None:
    part = _begun(tmp_path)
    (tmp_path / "a.tar.part.json").write_text(note)
    assert (part.belongs_to(), part.position()) == (None, 0)


def test_a_part_without_a_note_and_a_note_without_a_part_count_as_absent(tmp_path: Path) -> None:
    part = _begun(tmp_path)
    note = tmp_path / "a.tar.part.json"
    text = note.read_text()
    note.unlink()
    assert (part.belongs_to(), part.position()) == (None, 0)
    part.path.unlink()
    note.write_text(text)
    assert (part.belongs_to(), part.position()) == (None, 0)


def test_more_bytes_than_the_file_has_are_no_part_of_it(tmp_path: Path) -> None:
    assert _begun(tmp_path, b"12345678901").position() == 0


def test_beginning_anew_leaves_nothing_of_the_old_file(tmp_path: Path) -> None:
    _begun(tmp_path).start(Remote(size=3))
    part = PartialFile(tmp_path / "a.tar")
    assert part.position() == 0
    with part.appending() as file:
        file.write(b"new")
    assert (part.belongs_to(), part.path.read_bytes()) == (Remote(size=3), b"new")


def test_a_device_that_is_full_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    part = PartialFile(tmp_path / "a.tar")
    part.path.symlink_to("/dev/full")
    with pytest.raises(LocalError, match=r"the disk of \S+ is full"), part.appending() as file:
        file.write(b"1")


def test_the_record_outlives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    first = Arrival(file_name="a.tar", size=10, checksum="md5:00", note="cut at byte 10")
    second = Arrival(file_name="b.tar", size=20)
    record = Record(tmp_path)
    record.add(Arrival(file_name="a.tar", size=9))
    record.add(first)
    record.add(second)
    path = tmp_path / "downloaded.tsv"
    whole = path.read_text()
    assert Record(tmp_path).get("b.tar") == second
    path.write_text(whole[:-2])
    again = Record(tmp_path)
    assert (again.get("a.tar"), again.get("b.tar"), again.get("c.tar")) == (first, None, None)
    again.add(second)
    assert Record(tmp_path).get("b.tar") == second


HOLD = """
import sys, time
from pathlib import Path
from data_tools.download_part import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_folder_is_held_by_one_process_and_free_when_it_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError) as caught, only_one(tmp_path):
                pass
            assert re.search(rf"process {holder.pid} of \S+ on \S+ since 20", str(caught.value))
        finally:
            holder.send_signal(signal.SIGKILL)
    with only_one(tmp_path):
        pass
