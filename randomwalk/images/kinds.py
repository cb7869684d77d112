"""Which files are pictures, by name or content, and what to do with those that are not."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
    ".jfif", ".jpe", ".mpo", ".apng", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".pbm", ".pnm", ".dib",
    ".tga", ".icb", ".vda", ".vst", ".pcx", ".psd", ".qoi", ".dds", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm",
    ".xpm", ".ico", ".cur", ".icns",
)  # fmt: skip
"""Suffixes of pictures, which need not be looked into."""
ARRAY_SUFFIXES = (
    ".npy", ".npz", ".mat", ".h5", ".hdf5", ".nii", ".nii.gz", ".dcm", ".dicom", ".ima", ".tif", ".tiff",
)  # fmt: skip
"""Suffixes of the arrays that `instruments` reads, if `data.range` says that there are arrays."""
TOLD_BY_CONTENT = (
    "PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "PSD", "QOI",
)  # fmt: skip
"""Pillow's names of the formats that the beginning of a file tells, so that it needs no suffix."""
FORMATS = (
    *TOLD_BY_CONTENT, "DIB", "TGA", "PCX", "DDS", "SGI", "SUN", "XBM", "XPM", "ICO", "CUR", "ICNS",
)  # fmt: skip
"""Formats that are decoded. The rest of Pillow's are guesses, or run a program (EPS)."""
STACKS = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
"""Formats whose pictures in one file are pages of one kind; not layers, sizes, or the gain map beside a photograph."""
for _order, _big in ((b"II", ""), (b"MM", "B")):  # floating-point TIFF files, which Pillow does not open otherwise
    TiffImagePlugin.OPEN_INFO.setdefault((_order, 1, (3,), 1, (64,), ()), ("F", f"F;64{_big}F"))
    for _bits in (32, 64):  # decoded by `tiff16`
        TiffImagePlugin.OPEN_INFO.setdefault((_order, 2, (3,), 1, (_bits,) * 3, ()), ("RGB", "RGB"))
BEGINNING = 64
"""Bytes of a file that tell its kind."""
DNG_VERSION = 50706
"""TIFF tag of raw files in Adobe's format."""
MOST_NAMES = 10
"""Files that are named in a message."""


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is not decoded.

    Attributes:
        what: description, as in "a.dng is ...".
        advice: what to do.
        suffixes: of its files.
        beginnings: bytes at the start, or ``(place, bytes)``.
    """

    what: str
    advice: str
    suffixes: tuple[str, ...]
    beginnings: tuple[bytes | tuple[int, bytes], ...] = ()

    def is_kind_of(self, beginning: bytes) -> bool:
        """Whether a file begins so."""
        places = ((0, one) if isinstance(one, bytes) else one for one in self.beginnings)
        return any(beginning[place : place + len(one)] == one for place, one in places)


HEIC = Foreign(
    "HEIC",
    "pip install pillow-heif, then it is read directly; or convert it: heif-convert FILE.heic FILE.png",
    (".heic", ".heif", ".hif"),
    tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
)
RAW = Foreign(
    "a camera's raw file",
    "develop it to a TIFF of 16 bits: darktable-cli FILE.dng FILE.tif, dcraw -T -6 FILE.dng, or rawpy in Python",
    (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".rwl", ".raf", ".pef",
     ".srw", ".3fr", ".fff", ".iiq", ".erf", ".mef", ".mos", ".kdc", ".dcr", ".mrw", ".x3f", ".gpr", ".raw"),
    ((4, b"ftypcrx "), b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", (8, b"CR\2\0")),
)  # fmt: skip
FOREIGN = (
    HEIC,
    RAW,
    Foreign("JPEG XL", "convert it: djxl FILE.jxl FILE.png", (".jxl",), (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    Foreign(
        "an array of numbers",
        "sample.py reads it with data.range: [low, high] or auto; or save it as a PNG or TIFF of 8 or 16 bits",
        tuple(suffix for suffix in ARRAY_SUFFIXES if suffix not in SUFFIXES), (b"\x93NUMPY", b"\x89HDF\r\n"),
    ),
    Foreign(
        "a page or a drawing", "save it as PNG: pdftoppm -png FILE.pdf FILE", (".pdf", ".eps", ".ps", ".svg"),
        (b"%PDF", b"%!PS", b"<svg"),
    ),
    Foreign(
        "a film", "take its frames: ffmpeg -i FILE.mp4 FILE-%04d.png", (".mov", ".mp4", ".avi", ".mkv", ".webm"),
        ((4, b"ftypqt  "), (4, b"ftypisom"), (4, b"ftypmp4"), b"\x1a\x45\xdf\xa3"),
    ),
)  # fmt: skip
"""Kinds that are answered with the package or program that converts them."""
NEVER_FOREIGN = (b"\xff\xd8\xff", b"\x89PNG")
"""Beginnings of JPEG and PNG files, which are so whatever they are called."""


def foreign_kind(name: str, beginning: bytes) -> Foreign | None:
    """Kind of a file that is not decoded; None if it may be a picture, or is of no known kind.

    HEIC is decoded if the package pillow-heif is installed.

    Args:
        name: of the file.
        beginning: its first `BEGINNING` bytes.
    """
    if beginning.startswith(NEVER_FOREIGN) or b"avif" in beginning[4:]:
        return None
    found = next((kind for kind in FOREIGN if kind.is_kind_of(beginning)), None)
    if found is HEIC:
        return None if heif_is_decoded() else HEIC
    return found or next((kind for kind in FOREIGN if name.lower().endswith(kind.suffixes)), None)


@functools.cache
def heif_is_decoded() -> bool:
    """Whether the package pillow-heif, which decodes HEIC, is installed; it is told to Pillow."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def open_picture(file: IO[bytes], name: str, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open a picture by Pillow, which reads its header only.

    Args:
        file: at its start.
        name: of the file.
        formats: those that are decoded.

    Raises:
        ValueError: it is no picture, or of a kind that is not decoded.
        Exception: whatever Pillow's decoders raise for a damaged file.
    """
    beginning = file.read(BEGINNING)
    file.seek(0)
    kind = foreign_kind(name, beginning)
    if kind is not None:
        raise ValueError(f"it is {kind.what}: {kind.advice}")
    is_heif = HEIC.is_kind_of(beginning) and b"avif" not in beginning
    try:
        return Image.open(file, formats=["HEIF"] if is_heif else _supported(formats))
    except UnidentifiedImageError as error:  # its message has an address in memory
        raise ValueError("it is not an image, or is in a format that is not supported") from error


def _supported(formats: Sequence[str]) -> list[str]:
    """The formats that this version of Pillow has."""
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def has_picture_name(name: str) -> bool:
    """Whether a file counts as a picture by its suffix."""
    return PurePath(name).suffix.lower() in SUFFIXES


def suffix_of(name: str) -> str:
    """Suffix of a name of a picture or an array; empty if it is of neither, so that scan.2024 has none."""
    suffix = array_suffix(name) or PurePath(name).suffix
    return suffix if array_suffix(name) or suffix.lower() in (*SUFFIXES, *HEIC.suffixes) else ""


def array_suffix(name: str) -> str:
    """Suffix of an array's name, such as .nii.gz; empty if it is of no array."""
    return next((name[-len(end) :] for end in ARRAY_SUFFIXES if name.lower().endswith(end)), "")


def stem_of(name: str) -> str:
    """Name of a picture or an array, with its folders, without its suffix."""
    return name.removesuffix(suffix_of(name)) if suffix_of(name) else name


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a hidden folder below the first, or one of those that macOS puts into zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePath(name).parts)


def is_picture(file: IO[bytes], name: str) -> bool:
    """Whether a file whose suffix does not say so is a picture; only its header is read."""
    try:
        with open_picture(file, name, TOLD_BY_CONTENT) as image:
            return not (image.format == "TIFF" and DNG_VERSION in image.tag_v2)  # type: ignore[attr-defined]
    except Exception:  # damaged files can raise anything
        return False


def left_out_notes(where: str, names: Sequence[str], arrays: bool = False) -> list[str]:
    """Describe the files of a folder that are no pictures: one line, and one for each kind that can be converted.

    Args:
        where: the folder or zip.
        names: of the files, each perhaps followed by a reason in parentheses.
        arrays: whether arrays are wanted instead of pictures; then one line only.
    """
    if not names:
        return []
    are = "1 file is not a readable image" if len(names) == 1 else f"{len(names)} files are not readable images"
    if arrays:
        are = "1 file is not an array" if len(names) == 1 else f"{len(names)} files are not arrays"
    found = [f"{where}: {are}: {', '.join(names[:MOST_NAMES])}{', ...' if len(names) > MOST_NAMES else ''}"]
    for kind in () if arrays else FOREIGN:
        count = sum(name.lower().endswith(kind.suffixes) for name in names)
        if count:
            found.append(f"{where}: {count} of them {'is' if count == 1 else 'are'} {kind.what}: {kind.advice}")
    return found
