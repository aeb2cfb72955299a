"""Endings of photo files: those that are read, and those that are known and are not."""

from __future__ import annotations

from pathlib import Path

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PAGED_SUFFIXES = TIFF_SUFFIXES | {".gif", ".webp"}
"""Formats that are in use for several pictures in one file."""
PHOTO_SUFFIXES = PAGED_SUFFIXES | JPEG_SUFFIXES | {
    ".png", ".bmp", ".jp2", ".j2k", ".avif", ".pgm", ".ppm",
}  # fmt: skip

_PLAIN = "save it as JPEG or PNG"
_DEVELOP = "develop it to TIFF, PNG or JPEG"
_SLICES = "data.train=nifti:FOLDER or dicom:FOLDER reads its slices"
_ARRAY = "save it as TIFF"
_OME = "export it as OME-TIFF"
_GDAL = "make a TIFF of it with gdal_translate"
_FRAMES = "save its frames as JPEG or PNG, with ffmpeg for instance"

_UNREAD: dict[str, tuple[str, str]] = {
    "HEIC": ("heic heif hif", _PLAIN),
    "camera raw": ("nef cr2 cr3 arw dng orf rw2 raf pef srw raw nrw 3fr iiq", _DEVELOP),
    "DICOM": ("dcm dicom ima", _SLICES),
    "a volume": ("nii nii.gz mha mhd nrrd mgz mgh", _SLICES),
    "an array": ("npy npz h5 hdf5 hdf nc", _ARRAY),
    "a microscope's format": ("czi nd2 lif lsm oib oif vsi ims stk dv zvi", _OME),
    "a slide": ("svs ndpi mrxs scn bif", _OME),
    "a GIS format": ("ecw sid img vrt jpx", _GDAL),
    "a drawing": ("pdf svg eps ai psd xcf kra", _PLAIN),
    "JPEG XL": ("jxl", _PLAIN),
    "JPEG XR": ("jxr wdp", _PLAIN),
    "a high dynamic range format": ("exr hdr", _ARRAY),
    "a film": ("mp4 mov avi mkv webm m4v mpg mpeg wmv", _FRAMES),
    "an old format": ("tga dds pcx ico cur sgi xbm xpm ras pnm pbm fits fit", _PLAIN),
}

_REASONS = {
    f".{ending}": f"{what} is not read ({way_out})"
    for what, (endings, way_out) in _UNREAD.items()
    for ending in endings.split()
}


def is_photo(path: Path) -> bool:
    """Return whether the file's ending is one of a photo that can be read."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def why_unread(path: Path) -> str | None:
    """Return why a picture of this ending is not read and the way out; None for other files."""
    double = "".join(path.suffixes[-2:]).lower()
    return _REASONS.get(double) or _REASONS.get(path.suffix.lower())
