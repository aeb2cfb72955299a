"""The list of links: as it is saved by people, and never trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.download_links import Failure, Link, read_links, select, write_failed
from sam_train.errors import UserError

THOUSAND = [Link(f"sa_{k:06d}.tar", f"https://x.org/{k}") for k in range(1000)]


def _list(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "links.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "file_name\tcdn_link\nb.tar\thttps://x.org/b?s=1\na.tar\thttps://x.org/a\n",
        "b.tar\thttps://x.org/b?s=1\na.tar\thttps://x.org/a",
        "cdn_link\tsize\tfile_name\nhttps://x.org/b?s=1\t9\tb.tar\nhttps://x.org/a\t9\ta.tar\n",
        "\ufefffile_name\tcdn_link\r\nb.tar\thttps://x.org/b?s=1\r\n\r\na.tar\thttps://x.org/a\r\n",
        "file_name    cdn_link\nb.tar    https://x.org/b?s=1\na.tar    https://x.org/a\n",
        "a.tar\thttps://x.org/a\nb.tar\thttps://x.org/b?s=1\na.tar\thttps://x.org/a\n",
    ],
    ids=["as published", "no header", "other columns", "of windows", "pasted", "twice the same"],
)
def test_every_form_of_the_list_is_the_same_list(tmp_path: Path, text: str) -> None:
    links = read_links(_list(tmp_path, text))
    assert links == [Link("a.tar", "https://x.org/a"), Link("b.tar", "https://x.org/b?s=1")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no list of links"),
        ("<!doctype html><html>", "no list of links"),
        (b"\xff\xd8\xff\xe0 a photo", "no list of links"),
        ("file_name\tcdn_link\n", "names no files"),
        ("a.tar\n", "line 1"),
        ("file_name\tcdn_link\na.tar\tftp://x.org/a\n", "line 2: the link of a.tar"),
        ("a.tar\thttps://x.org/1\na.tar\thttps://x.org/2\n", "line 2: a.tar has two links"),
        ("../a.tar\thttps://x.org/a\n", "'../a.tar'"),
        ("/etc/passwd\thttps://x.org/a\n", "'/etc/passwd'"),
        (".bashrc\thttps://x.org/a\n", "'.bashrc'"),
        ("a.tar.part\thttps://x.org/a\n", "'a.tar.part'"),
        ("failed.tsv\thttps://x.org/a\n", "'failed.tsv'"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read_links(_list(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tsv: No such file"):
        read_links(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("only", "limit", "numbers"),
    [
        (None, None, range(1000)),
        (None, 3, range(3)),
        ("0-9", None, range(10)),
        ("7", None, [7]),
        ("998-2000,5,1-2", None, [1, 2, 5, 998, 999]),
        ("sa_00000?.tar", None, range(10)),
        ("*7.tar,sa_000001.tar", 2, [1, 7]),
    ],
)
def test_only_and_limit(only: str | None, limit: int | None, numbers: list[int]) -> None:
    chosen = select(THOUSAND, only=only, limit=limit)
    assert chosen == [THOUSAND[k] for k in numbers]


def test_only_that_fits_nothing_says_what_there_is() -> None:
    with pytest.raises(UserError, match=r"--only 1000-1999 .* sa_000000\.tar to sa_000999\.tar"):
        select(THOUSAND, only="1000-1999", limit=None)


def test_what_failed_is_a_list_again_until_nothing_fails(tmp_path: Path) -> None:
    failures = [Failure(link, "HTTP 403 Forbidden: it has expired") for link in THOUSAND[3:5]]
    path = write_failed(tmp_path, failures)
    assert path is not None
    assert read_links(path) == THOUSAND[3:5]
    assert write_failed(tmp_path, []) is None
    assert not path.exists()
