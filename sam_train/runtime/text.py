"""Small pieces of English for messages."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, at most 200 characters, or else its kind."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def count(number: int, what: str) -> str:
    """Write a number and its noun in English: `1 photo`, `2,000 photos`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
