"""JSON as programs really write it: other encodings, byte order marks, NaN, compressed, damaged.

A file that keeps to the standard is decoded as it is. Only one that does not is mended. Words that
are no JSON (NaN, Infinity, None) become null. A number that is none is then missing where it is
needed, and harms nothing elsewhere.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import math
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from sam_train.errors import UserError

Form = TypeVar("Form")

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COMPRESSED = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\x00", lzma))
_LFS = b"version https://git-lfs"

_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*+(?:"|\Z)'  # a string, whatever it holds
    rb"|-?\b(?:NaN|nan|Infinity|inf|None|undefined|True|False)\b"
    rb"|-?\d[\d.]*[eE][+-]?\d{3,}|-?\d{400,}"
    rb"|,(?=\s*[\]}])",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(slots=True, kw_only=True)
class JsonFile:
    """A JSON file of anybody, as UTF-8."""

    path: Path
    text: bytes
    notes: list[str] = field(default_factory=list)
    """Sentences for people: what is unusual about the file and was taken all the same."""
    _mended: bool = False

    def decode(self, form: type[Form]) -> Form:
        """Return the content as `form`.

        Raises:
            UserError: the file is no JSON, or cut off.
            msgspec.ValidationError: it is JSON, but not of this form.
        """
        try:
            return msgspec.json.decode(self.text, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Once decoding failed: mending a whole file takes longer than reading it.
            self._mend()
        try:
            return msgspec.json.decode(self.text, type=form)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: {self._trouble(str(error))}") from None
        except RecursionError:
            raise UserError(f"{self.path}: no annotation file; it is nested too deeply") from None

    def _mend(self) -> None:
        if self._mended:
            return
        self._mended = True
        text = _TOKEN.sub(_mended_token, self.text)
        if text != self.text:
            self.text = text
            self.notes.append(
                f"{self.path.name} is not quite JSON (NaN, a comma too many or the like): "
                "what is no number there counts as missing"
            )

    def _trouble(self, error: str) -> str:
        """Say in one line why this is no JSON."""
        text = self.text.decode("utf-8", "replace")
        try:
            # Only for its message, which names the place; msgspec's counts bytes.
            json.loads(text, strict=False)
        except json.JSONDecodeError as found:
            if found.msg == "Extra data":
                return (
                    f"several JSON values one after the other (line {found.lineno}; JSON Lines?), "
                    "where one object is expected"
                )
            # At the very end: the file was cut, and nothing is wrong before that.
            if found.pos >= len(text.rstrip()) - 1 or found.msg.startswith("Unterminated"):
                return (
                    f"cut off: it ends after {len(self.text):,} bytes in the middle of a value; "
                    "copy or download it again"
                )
            near = text[max(0, found.pos - 20) : found.pos + 20].replace("\n", " ")
            return f"no JSON from line {found.lineno}, column {found.colno} on (near `{near}`)"
        except (ValueError, RecursionError):
            pass
        return f"no JSON ({error})"


def read_json(path: Path) -> JsonFile:
    """Read a JSON file, also one compressed (gzip, bzip2, xz, or alone in a zip) or not in UTF-8.

    Raises:
        UserError: it cannot be read, or is visibly something else.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    return as_json(path, raw)


def as_json(path: Path, raw: bytes) -> JsonFile:
    """Return the bytes of a file as JSON text; see `read_json`.

    Raises:
        UserError: they are visibly something else.
    """
    data = _uncompressed(path, raw)
    text, encoding = _as_utf8(data)
    start = text.lstrip()[:200]
    if not start:
        raise UserError(f"{path} is empty")
    if start.startswith(_LFS):
        raise UserError(f"{path} is a pointer of Git LFS, not the file: fetch it with git lfs pull")
    if start[:1] == b"<":
        raise UserError(
            f"{path} is XML or a web page, not JSON (`cvat` reads CVAT's XML; a failed download is "
            "a web page)"
        )
    if start[:1] not in b"[{":
        begin = start.split(b"\n")[0][:40].decode("utf-8", "replace")
        raise UserError(f"{path} is no JSON: it begins with `{begin}`")
    found = JsonFile(path=path, text=text)
    if encoding:
        found.notes.append(f"{path.name} is not in UTF-8: read as {encoding}")
    return found


def _uncompressed(path: Path, raw: bytes) -> bytes:
    try:
        for magic, module in _COMPRESSED:
            if raw.startswith(magic):
                return bytes(module.decompress(raw))
        if not raw.startswith(b"PK\x03\x04"):
            return raw
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(".json")]
            if len(names) == 1:
                return archive.read(names[0])
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or cut off: it cannot be unpacked ({error})") from None
    listed = ", ".join(sorted(names)[:3]) or "none"
    raise UserError(
        f"{path} is a zip with {len(names)} JSON files ({listed}): unpack it and name one of them"
    )


def _as_utf8(data: bytes) -> tuple[bytes, str]:
    """Return the text as UTF-8 without a mark, and its encoding where that is worth a word."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            body = data[len(mark) :]
            if encoding == "utf-8":
                data = body
                break
            return body.decode(encoding, "replace").encode(), ""
    # UTF-16 of English text is ASCII with zero bytes between the letters.
    if data.isascii() and b"\x00" not in data[:4]:
        return data, ""
    # Without a mark: JSON begins with ASCII, so zero bytes tell how wide a character is.
    if b"\x00" in data[:4] and (encoding := json.detect_encoding(data[:4])) != "utf-8":
        return data.decode(encoding, "replace").encode(), ""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return data, ""
    try:
        # Before Latin-1, which takes any bytes and has control characters for the quotes of cp1252.
        return data.decode("cp1252").encode(), "Windows' Western letters (cp1252)"
    except UnicodeDecodeError:
        return data.decode("latin-1").encode(), "Latin-1"


def _mended_token(match: re.Match[bytes]) -> bytes:
    token = match.group()
    first = token[:1]
    if first == b'"':
        return _mended_string(token)
    if first == b",":
        return b""
    if token in (b"True", b"False"):
        return token.lower()
    try:
        # A long number in a name or id is fine; one that no float holds is not.
        if math.isfinite(float(token)) and len(token) < 400:
            return token
    except ValueError:
        pass
    return b"null"


def _mended_string(token: bytes) -> bytes:
    """Return a JSON string with control characters escaped and backslashes that escape nothing
    doubled, as paths written by hand have them."""
    if b"\\" in token:
        token = _ESCAPE.sub(
            lambda m: (
                m.group()
                if m.group(1)[:1] in b'"\\/bfnrt' or len(m.group(1)) == 5
                else b"\\" + m.group()
            ),
            token,
        )
        if _SURROGATE.search(token):
            try:
                text = json.loads(token.decode("utf-8"), strict=False)
                whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                token = json.dumps(whole).encode()
            except ValueError:
                pass
    return _CONTROL.sub(lambda m: b"\\u%04x" % m.group()[0], token)
