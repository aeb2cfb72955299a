"""The headers of an untrusted tar: where its regular files lie. Nothing is extracted.

Python's tarfile takes a damaged header for the end of the archive; a training run must know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""Long names and pax records above this are damage, not names."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file: its bytes are [offset, offset + size) of the tar."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class Listing:
    """The members that lie completely inside the file, and why the walk ended early if it did."""

    members: list[Member] = field(default_factory=list)
    damage: str | None = None
    refused: list[str] = field(default_factory=list)
    """Names of links, devices and files that point out of the archive; folders are not counted."""


@dataclass(frozen=True, slots=True)
class Header:
    """Fields of the block before a member; a long name stands in a block of its own."""

    name: str
    size: int
    kind: bytes


def list_members(read_at: Callable[[int, int], bytes], *, size: int) -> Listing:
    """Walk the headers of a tar of `size` bytes.

    Args:
        read_at: (offset, length) -> bytes, shorter only at the end of the file.

    Members with an absolute name or `..` in it, links, devices and folders are passed over.
    """
    listing = Listing()
    listing.members.extend(walk_members(read_at, listing, size=size))
    return listing


def walk_members(
    read_at: Callable[[int, int], bytes], listing: Listing, *, size: int | None
) -> Iterator[Member]:
    """Yield the members one by one, as their headers are met; never look back.

    Args:
        read_at: as for `list_members`; its offsets only rise.
        listing: is told of damage and of what was refused.
        size: of the tar; None where only its end will tell, so that the last member may be cut.
    """
    offset = 0
    name: str | None = None
    length: int | None = None
    while True:
        block = read_at(offset, BLOCK)
        if len(block) < BLOCK:
            # Without its closing zero block a tar was cut, though maybe only there.
            listing.damage = f"cut at byte {size if size is not None else offset + len(block)}"
            return
        # One zero block is enough for an end; the second, which the standard asks for, is often
        # missing.
        if block == bytes(BLOCK):
            return
        header = parse_header(block)
        if header is None:
            # The places of all later headers follow from this one, so nothing behind it can be
            # trusted.
            listing.damage = f"damaged header at byte {offset}"
            return
        # A pax size says what octal digits cannot. It counts for the member, not for headers.
        bytes_here = header.size if length is None or header.kind in b"LKxg" else length
        begin = offset + BLOCK
        if size is not None and begin + bytes_here > size:
            listing.damage = f"cut at byte {size}, inside {name or header.name}"
            return
        if header.kind in b"LKxg":
            # Refused before it is read, because the length comes from the file.
            if bytes_here > _MAX_EXTENSION:
                listing.damage = f"damaged header at byte {offset}"
                return
            payload = read_at(begin, bytes_here)
            # L and K are GNU's long name and long link, x and g are pax headers.
            if header.kind == b"L":
                name = payload.rstrip(b"\0").decode("utf-8", "replace")
            elif header.kind == b"x":
                name, length = _parse_pax(payload, name=name)
        else:
            member = Member(name or header.name, begin, bytes_here)
            # Regular files: 0, 7 (contiguous) and the old NUL.
            if header.kind in b"07\0" and _is_safe(member.name):
                yield member
            # Folders are silent; links, devices and unsafe names are counted.
            elif header.kind != b"5":
                listing.refused.append(member.name)
            # They were of this member alone.
            name, length = None, None
        # Rounded up to whole blocks of 512 bytes.
        offset = begin + -(-bytes_here // BLOCK) * BLOCK


def parse_header(block: bytes) -> Header | None:
    """Parse the header in a block of 512 bytes; return None if its checksum or its size is
    wrong."""
    size = _number(block[124:136])
    checksum = _number(block[148:156])
    # The checksum counts its own field as spaces.
    if size is None or checksum != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    name = block[:100].split(b"\0", 1)[0]
    # ustar splits a long path in two fields.
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    full = prefix + b"/" + name if prefix else name
    return Header(full.decode("utf-8", "replace"), size, block[156:157])


def _number(field_: bytes) -> int | None:
    if field_[0] == 0x80:  # GNU's form for what does not fit into octal digits
        return int.from_bytes(field_[1:], "big")
    digits = field_.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits and digits.isalnum() else None if digits else 0
    except ValueError:
        return None


def _parse_pax(payload: bytes, *, name: str | None) -> tuple[str | None, int | None]:
    """Parse the `path` and `size` of a pax record list; unreadable records are passed over."""
    length: int | None = None
    at = 0
    # By position: cutting the rest off a record at a time would copy a damaged megabyte of tiny
    # records a hundred thousand times.
    while (space := payload.find(b" ", at, at + 20)) >= 0:
        digits = payload[at:space]
        if not digits.isdigit() or not space - at < int(digits) <= len(payload) - at:
            break
        # A record is `LENGTH KEY=VALUE\n`; LENGTH counts itself.
        key, _, value = payload[space + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size" and value.isdigit() and len(value) < 20:
            length = int(value)
        at += int(digits)
    return name, length


def _is_safe(name: str) -> bool:
    # Names reach terminals and lists: no line breaks, no control sequences.
    inside = not name.startswith("/") and ".." not in name.split("/")
    return bool(name) and name.isprintable() and inside
