"""`groups.tsv`: what people write, and what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_train.data.groups_file import read_groups, write_groups
from sam_train.errors import UserError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    groups = {"sa_2": "Patient 7, left", "sa_000000.tar/sa_1": 'slide "B" größer'}
    path = write_groups(tmp_path, groups)
    assert path.read_text(encoding="utf-8").splitlines()[:2] == [
        "name\tgroup",
        "sa_2\tPatient 7, left",
    ]
    assert read_groups(tmp_path) == groups
    assert [each.name for each in tmp_path.iterdir()] == ["groups.tsv"]


@pytest.mark.parametrize(
    "content",
    [
        "name\tgroup\nsa_1\ta\nsa_2\tb\n",
        "name\tgroup\r\nsa_1\ta\r\nsa_2\tb\r\n\r\n",
        "\ufeffName\tGroup\nsa_1.jpg\ta\nsa_2.json\tb",
        'group\tcomment\tname\na\t"\tsa_1\nb\t\tsa_2\n\t\tsa_3\n',
        "name\tgroup\nsa_1\ta\n\nsa_2\t b \nsa_1\ta\n",
    ],
)
def test_ways_of_writing_the_same(content: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(content.encode())
    assert read_groups(tmp_path) == {"sa_1": "a", "sa_2": "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must name the columns"),
        (b"sa_1\ta\n", "must name the columns"),
        (b"name,group\nsa_1,a\n", "'name,group'"),
        (b"name\tgroup\nsa_1\n", "line 2"),
        (b"name\tgroup\nsa_1\ta\nsa_1\tb\n", "line 3: sa_1 is in group 'a' already"),
        (b"name\tgroup\nsa_1\t\xff\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_path(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "groups.tsv").write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_groups(tmp_path)
    assert str(tmp_path / "groups.tsv") in str(raised.value)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file_is_no_groups_and_cells_stay_cells(tmp_path: Path) -> None:
    assert read_groups(tmp_path) == {}
    for bad in ({"sa_1": ""}, {"": "a"}, {"sa\t1": "a"}, {"sa_1": "a\nb"}):
        with pytest.raises(ValueError, match="cannot stand"):
            write_groups(tmp_path, bad)
