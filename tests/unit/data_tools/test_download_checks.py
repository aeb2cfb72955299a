"""Checksums against the system's own programs; tars against real damage."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from data_tools.download_checks import Checksum, Halted, read_checksums, tar_damage
from sam_train.errors import UserError


@pytest.mark.parametrize("program", ["md5sum", "sha1sum", "sha256sum", "sha512sum"])
@pytest.mark.parametrize("form", [[], ["--binary"], ["--tag"]], ids=["text", "binary", "BSD"])
def test_what_the_programs_write_is_read_and_agreed_with(
    tmp_path: Path, program: str, form: list[str]
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine")
    data = tmp_path / "sa_000000.tar"
    data.write_bytes(bytes(range(256)) * 5000)
    command = [program, *form, data.name]
    written = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    sums = tmp_path / "sums"
    sums.write_bytes(b"# a comment\n\n" + written.stdout)
    (name, checksum), *others = read_checksums(sums).items()
    assert (name, others) == (data.name, [])
    assert str(checksum).startswith(program.removesuffix("sum") + ":")
    assert checksum.of(data) == checksum.digest
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    assert checksum.of(data) != checksum.digest


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    sums.write_text("d41d8cd98f00b204e9800998ecf8427e  a.tar\nabcd  b.tar\n")
    with pytest.raises(UserError, match="sums, line 2"):
        read_checksums(sums)


def test_hashing_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(Halted):
        Checksum("md5", "0" * 32).of(tmp_path / "file", halted=lambda: True)


def test_a_tar_is_walked_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("sa_1.jpg", "sa_1.json"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    assert tar_damage(path) is None
    whole = path.read_bytes()
    path.write_bytes(whole[:2300])
    assert tar_damage(path) == "cut at byte 2300, inside sa_1.json"
    path.write_bytes(whole[:1536] + b"?" * 512 + whole[2048:])
    assert tar_damage(path) == "damaged header at byte 1536"
