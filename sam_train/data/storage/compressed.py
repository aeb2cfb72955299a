"""Archives that cannot be read where a sample lies, and the command that makes a tar of them."""

from __future__ import annotations

from pathlib import Path

_KINDS = (
    (b"\x1f\x8b", "a gzip-compressed tar", "gzip -dc"),
    (b"BZh", "a bzip2-compressed tar", "bzip2 -dc"),
    (b"\xfd7zXZ\x00", "an xz-compressed tar", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed tar", "zstd -dc"),
    (b"PK\x03\x04", "a zip file", "unzip"),
)
MAGIC = 6
"""First bytes that tell."""
_ENDINGS = (".tgz", ".tbz2", ".txz", ".tzst", ".gz", ".bz2", ".xz", ".zst", ".zip")


def has_compressed_name(name: str) -> bool:
    """Return whether a file's name is that of a compressed tar or a zip file."""
    lower = name.lower()
    return lower.endswith((".tgz", ".tbz2", ".txz", ".tzst", ".zip")) or (
        # A plain `.gz` may be a compressed list or JSON, which is no shard.
        ".tar." in lower and lower.endswith(_ENDINGS)
    )


def compressed(path: str, begin: bytes) -> str | None:
    """Say which kind of archive a file is and what helps; None for a tar.

    Args:
        begin: its first `MAGIC` bytes.
    """
    # By content: many archives have the name of a plain tar.
    for magic, kind, command in _KINDS:
        if begin.startswith(magic):
            return f"it is {kind}, which cannot be read in parts: {_way_out(path, command)}"
    return None


def _way_out(path: str, command: str) -> str:
    if command == "unzip":
        folder = str(Path(path).with_suffix(""))
        return f"unpack it once, `unzip {path} -d {folder}`, and give the folder {folder}"
    return (
        f"unpack it once, `{command} {path} > {tar_name(path)}`, and give that; or read it front "
        f"to back with data.mode=stream and data.train='pipe:{command} {path}'"
    )


def tar_name(path: str) -> str:
    """Return where the tar inside a compressed one may be written."""
    lower = path.lower()
    for ending in _ENDINGS:
        if lower.endswith(ending):
            stem = path[: -len(ending)]
            return stem if stem.lower().endswith(".tar") else f"{stem}.tar"
    stem = path[: -len(".tar")] if lower.endswith(".tar") else path
    return f"{stem}_unpacked.tar"
