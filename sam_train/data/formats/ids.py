"""Ids of other programs: 7, 7.0, "7" and "007" are the same where nothing else is called so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

Id = int | str


def as_id(value: Any) -> Id | None:
    """Return an id as it stands in a file, 7.0 as 7; None where there is none."""
    # Not `isinstance`: True is an int in Python.
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    if isinstance(value, str):
        return value.strip() or None
    return None


def as_number(value: Any) -> int | None:
    """Return the whole number that an id is or spells ("7", "007", "7.0"), if it does."""
    found = as_id(value)
    if found is None or isinstance(found, int):
        return found
    # Not int(): it also takes "1_000" and other alphabets' digits.
    # Their length is bounded below: Python takes quadratic time for the digits of a long number.
    digits = found.removeprefix("-")
    whole, _, rest = digits.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 400 and not rest.strip("0")):
        return None
    return -int(whole) if digits != found else int(whole)


def sort_key(value: Id) -> tuple[int, int, str]:
    """Return a key that sorts ids as numbers where they are or spell one, and texts after them."""
    number = as_number(value)
    return (1, 0, str(value)) if number is None else (0, number, str(value))


class IdIndex:
    """Places of ids in a list, found from however another entry writes them."""

    def __init__(self, ids: Iterable[Id | None]) -> None:
        self.exact: dict[Id, list[int]] = {}
        self._loose: dict[int, list[int]] = {}
        for place, own in enumerate(ids):
            if own is None:
                continue
            self.exact.setdefault(own, []).append(place)
            if (number := as_number(own)) is not None:
                self._loose.setdefault(number, []).append(place)

    def find(self, value: Any) -> list[int]:
        """Return the places of an id: as it is written, else of the same number."""
        found = as_id(value)
        if found is None:
            return []
        # First as it is written: "7" and "007" may stand in one file for different photos.
        if found in self.exact:
            return self.exact[found]
        number = as_number(found)
        return [] if number is None else self._loose.get(number, [])
