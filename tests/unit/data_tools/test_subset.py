"""The published rule of the subsets, and the lists made by it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from data_tools.subset import Rule, main, make_lists, natural, rank, read_names, short
from sam_train.data.shards.writer import ShardSample, write_shards
from sam_train.errors import UserError

PUBLISHED = [
    "sa_1838", "sa_4196", "sa_6261", "sa_7585", "sa_8667", "sa_8963", "sa_10129", "sa_14362",
    "sa_15726",
]  # fmt: skip
NAMES = [f"sa_{n}" for n in range(1, 20_001)]


def test_the_rule_is_the_three_lines_of_the_page() -> None:
    # Written anew from the page: first 12 hex digits of the SHA-256 of the name.
    for name in NAMES[::997]:
        digits = hashlib.sha256(name.encode("ascii")).hexdigest()[:12]
        assert rank(name) == int(digits, 16) / 16**12
    # Fixed for ever: lists that people have published must stay what they are.
    assert [name for name in NAMES if rank(name) < 0.0003] == PUBLISHED


def test_fractions_are_nested_and_of_the_right_size() -> None:
    lists = make_lists(NAMES, fractions=(0.01, 0.1), val_fraction=0.02).names
    one, ten, val = (set(lists[f]) for f in ("subset_0.01.txt", "subset_0.1.txt", "val_0.02.txt"))
    assert one < ten
    assert not ten & val
    # Binomial: five standard deviations.
    for found, fraction in ((one, 0.01), (ten, 0.1), (val, 0.02)):
        expected = fraction * len(NAMES)
        assert abs(len(found) - expected) < 5 * expected**0.5


def test_the_lists_do_not_depend_on_the_order_or_on_other_images() -> None:
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    whole = make_lists(NAMES, fractions=(0.1,)).names["subset_0.1.txt"]
    assert make_lists(shuffled, fractions=(0.1,)).names["subset_0.1.txt"] == whole
    half = make_lists(NAMES[:10_000], fractions=(0.1,)).names["subset_0.1.txt"]
    assert half == [name for name in whole if natural(name) <= natural(NAMES[9_999])]


@pytest.mark.parametrize(("fraction", "val"), [(1.0, 0.1), (0.95, 0.1), (1.0, 1.0), (0.0, 0.0)])
def test_training_and_validation_never_share_an_image(fraction: float, val: float) -> None:
    rule = Rule(fraction=fraction, val_fraction=val)
    trains = [name for name in NAMES[:3000] if rule.trains(name)]
    validates = [name for name in NAMES[:3000] if rule.validates(name)]
    assert not set(trains) & set(validates)
    if fraction == 1:
        assert len(trains) + len(validates) == 3000
    if fraction == 0:
        assert not trains
        assert not validates


def test_names_come_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# a list\nsa_1\n\n ./sa_2.jpg\nsa_000000.tar/sa_3\nx/sa_4.json\r\n")
    assert read_names(path, option="--ids") == ["sa_1", "sa_2", "sa_3", "sa_4"]
    assert short("a/b.c.jpg") == "b.c"
    path.write_text("# nothing\n")
    with pytest.raises(UserError, match="names no image"):
        read_names(path, option="--ids")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_names(path, option="--ids")


def test_lists_from_shards_and_from_keys_are_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [
        ShardSample(image_id=n, jpeg=b"-", width=1, height=1, annotations=[]) for n in range(1, 301)
    ]
    write_shards(samples, tmp_path / "shards", samples_per_shard=100)
    keys = tmp_path / "keys.txt"
    keys.write_text("".join(f"sa_{n}.jpg\n" for n in range(300, 0, -1)) + "sa_7\n")
    options = ("--fraction", "0.1", "0.5", "--val-fraction", "0.1", "--out")
    assert main([str(tmp_path / "shards"), *options, str(tmp_path / "a")]) == 0
    assert main(["--keys", str(keys), *options, str(tmp_path / "b")]) == 0
    assert "300 images; 1 repeated name counted once" in capsys.readouterr().out
    files = ["subset_0.1.txt", "subset_0.5.txt", "val_0.1.txt"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert main(["--keys", str(keys), *options, str(tmp_path / "c"), "--dry-run"]) == 0
    assert not (tmp_path / "c").exists()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert main(["--keys", str(tmp_path / "none.txt"), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "nothing to choose from" in err[0]
    assert "none.txt: No such file" in err[1]
