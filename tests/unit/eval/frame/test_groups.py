"""A CSV of groups: what it says about which mask, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_train.errors import UserError
from sam_train.eval.frame.groups import Groups, read_groups


def table(tmp_path: Path, text: str, **more: list[str]) -> Groups:
    path = tmp_path / "groups.csv"
    path.write_bytes(text.encode("utf-8"))
    return read_groups(path, columns=more.get("columns", []), option="fairness.groups")


def test_a_mask_by_name_or_number_and_what_is_said_of_its_image(tmp_path: Path) -> None:
    groups = table(
        tmp_path,
        "image,mask,age,tone\n"
        "a.jpg,,young,\n"
        "a.jpg,17,old,3\n"
        "people/b.jpg,b.png: label 2,,5\n"
        "sa_12,mask 0,young,\n",
    )
    names = ["a.jpg: annotation 16", "a.jpg: annotation 17"]
    assert groups.of_masks("any", "train/a.jpg", names) == {
        0: {"age": "young"},
        1: {"age": "old", "tone": "3"},
    }
    found = groups.of_masks("any", "people/b.jpg", ["b.png: label 1", "b.png: label 2"])
    assert found == {1: {"tone": "5"}}
    assert groups.of_masks("any", "other/b.jpg", ["b.png: label 2"]) == {}
    assert groups.of_masks("x", "sa_000.tar/sa_12", ["mask 0", "mask 10"]) == {0: {"age": "young"}}


def test_a_row_may_speak_of_one_data_set(tmp_path: Path) -> None:
    groups = table(tmp_path, "dataset;image;age\none;a.jpg;old\ntwo;a.jpg;young\n")
    assert groups.of_masks("one", "a.jpg", ["m"]) == {0: {"age": "old"}}
    assert groups.of_masks("two", "a.jpg", ["m"]) == {0: {"age": "young"}}
    assert groups.of_masks("three", "a.jpg", ["m"]) == {}


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, blanks around cells, lines of commas at the end."""
    groups = table(tmp_path, '\ufeffimage,age\r\n"a, b.jpg", "old" \r\n,\r\n\r\n')
    assert groups.columns == ["age"]
    assert groups.of_masks("any", "a, b.jpg", ["m"])[0]["age"].strip('"') == "old"


def test_only_the_columns_asked_for(tmp_path: Path) -> None:
    many = "".join(f"{k}.jpg,old,{k}\n" for k in range(60))
    with pytest.raises(UserError, match="column url has 60 values"):
        table(tmp_path, f"image,age,url\n{many}")
    groups = table(tmp_path, f"image,age,url\n{many}", columns=["age"])
    assert groups.of_masks("any", "7.jpg", ["m"]) == {0: {"age": "old"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must name the columns"),
        ("photo,age\na,b\n", "one of them `image`"),
        ("image,age,age\na,b,c\n", "each once"),
        ("image,mask\na,b\n", "no column with groups"),
        ("image,age\na,b,c\n", "line 2: 3 cells"),
    ],
)
def test_what_is_no_such_table(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        table(tmp_path, text)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_groups(tmp_path / "none.csv", option="fairness.groups")
    (tmp_path / "bytes.csv").write_bytes(b"image,age\n\xff\xfe,\xb1\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_groups(tmp_path / "bytes.csv", option="fairness.groups")
