"""TIFF files that Pillow reads in part: 16 bits per channel, cut to 8 in colour, negatives, floating-point colours."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, TiffImagePlugin

from randomwalk.images import exif

WIDTH, HEIGHT, BITS, KIND, ORIENTATION, SAMPLES, PLANES = 256, 257, 258, 262, 274, 277, 284
COMPRESSION, FILL_ORDER, ROWS, PREDICTOR, TILE_WIDTH, TILE_LENGTH, EXTRA, FORMAT = (
    259,
    266,
    278,
    317,
    322,
    323,
    338,
    339,
)
PIECES = (273, 279, 324, 325)
"""Tags of the places and lengths of strips and tiles."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
SEPARATE = 2
FLOATING = 3
"""Value of the tag FORMAT."""
UNKNOWN, PREMULTIPLIED, ALPHA = 0, 1, 2
"""Meanings of a channel besides the colours."""


def is_tiff16(image: Image.Image) -> bool:
    """Whether an opened picture is a TIFF of 16-bit whole numbers: grey, or colours with up to one channel more."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    samples, kind = tags.get(SAMPLES, 1), tags.get(KIND)
    return (
        ((kind in (WHITE_IS_ZERO, BLACK_IS_ZERO) and samples == 1) or (kind == RGB and samples in (3, 4)))
        and _listed(tags.get(BITS, 1)) == (16,) * samples
        and set(_listed(tags.get(FORMAT, 1))) == {1}
        and tags.get(PREDICTOR, 1) in (1, 2)
    )


def is_float_colour(image: Image.Image) -> bool:
    """Whether an opened picture is a TIFF of floating-point colours, as `kinds` lets Pillow open them."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    return tags.get(KIND) == RGB and set(_listed(tags.get(FORMAT, 1))) == {FLOATING}


def in_16_bits(values: np.ndarray) -> np.ndarray:
    """Convert floating-point pixels, whose black is 0 and whose white is 1, to uint16.

    Raises:
        ValueError: there are others, so that nobody knows which number is white.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        found = f"from {low:.4g} to {high:.4g}" if np.isfinite([low, high]).all() else "and not all finite"
        raise ValueError(
            f"its pixels are floating-point numbers {found}; expected 0 (black) to 1 (white): "
            "scale or clip them, or save it with 8 or 16 bits"
        )
    return (values.astype(np.float64) * 65535).round().astype(np.uint16)


def orientation(image: Image.Image) -> int:
    """Orientation of an opened TIFF, from 1 (upright) to 8."""
    found = image.tag_v2.get(ORIENTATION, 1)  # type: ignore[attr-defined]
    return found if found in range(1, 9) else 1


def decode(data: bytes, image: Image.Image) -> np.ndarray:
    """Decode the page that is opened to ``[H, W, C]``, as it is stored, not turned upright; alpha last.

    The values are those of the file: whole numbers of 16 bits, or floating-point numbers.

    A row of interleaved colours is a row of a grey picture that is C times as wide, and separate planes are grey
    pictures. Pillow decodes these, after a directory that describes each is added to the file. Differences along a row
    (the predictor of TIFF) are between neighbours of one channel, and are summed up here.

    Raises:
        ValueError: the file is damaged.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    channels = tags.get(SAMPLES, 1)
    if is_float_colour(image) and tags.get(PREDICTOR, 1) != 1:
        raise ValueError("its floating-point numbers are stored as differences (a predictor); save it without")
    if tags.get(PLANES, 1) == SEPARATE and channels > 1:
        array = np.concatenate([_decode_grey(data, tags, 1, (k, channels)) for k in range(channels)], axis=2)
    else:
        array = _decode_grey(data, tags, channels, (0, 1))
    if tags.get(KIND) == WHITE_IS_ZERO:
        return 65535 - array
    extra = next(iter(_listed(tags.get(EXTRA, UNKNOWN))), UNKNOWN)
    if channels == 4 and extra == UNKNOWN:
        return array[..., :3]
    if channels == 4 and extra == PREMULTIPLIED:
        alpha = np.maximum(array[..., 3:], 1).astype(np.float64)
        array[..., :3] = (array[..., :3] * (65535 / alpha)).round().clip(0, 65535)
    return array


def _decode_grey(
    data: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2, channels: int, part: tuple[int, int]
) -> np.ndarray:
    """Decode one plane, ``[H, W, channels]``: the first, second, ... of as many parts of the strips or tiles."""
    width, height = tags[WIDTH], tags[HEIGHT]
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_as_grey(data, tags, channels, part))) as grey:
        array = np.array(grey)
    real = array.dtype.kind == "f"
    if array.shape != (height, width * channels) or array.dtype.itemsize != (4 if real else 2):
        raise ValueError("its tags contradict each other")
    array = array.astype(np.float32 if real else np.uint16).reshape(height, width, channels)
    if tags.get(PREDICTOR, 1) == 2:
        across = tags.get(TILE_WIDTH, width)
        for start in range(0, width, across):
            step = array[:, start : start + across]
            np.cumsum(step, axis=1, dtype=np.uint16, out=step)
    return array


def _as_grey(data: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2, channels: int, part: tuple[int, int]) -> bytes:
    """The file with a directory of a grey picture at its end, which is the first one."""
    order, big = exif.ORDERS[data[:2]], exif.is_big(data)
    unit, count_unit, kind, start = ("Q", "Q", 16, 8) if big else ("I", "H", 4, 4)
    values: dict[int, tuple[int, ...]] = {
        BITS: _listed(tags[BITS])[:1], KIND: (BLACK_IS_ZERO,), SAMPLES: (1,), FORMAT: _listed(tags.get(FORMAT, 1))[:1],
    }  # fmt: skip
    values |= {tag: _listed(tags[tag]) for tag in (HEIGHT, COMPRESSION, FILL_ORDER, ROWS, TILE_LENGTH) if tag in tags}
    values |= {tag: (tags[tag] * channels,) for tag in (WIDTH, TILE_WIDTH) if tag in tags}
    for tag in PIECES:
        if tag in tags:
            pieces = _listed(tags[tag])
            share = len(pieces) // part[1]
            values[tag] = pieces[part[0] * share : (part[0] + 1) * share]
    data += bytes(len(data) % 2)
    place = len(data)
    room = struct.calcsize(f"={unit}")
    end = place + struct.calcsize(f"={count_unit}") + len(values) * (4 + 2 * room) + room
    entries, behind = [], b""
    for tag in sorted(values):
        content = struct.pack(f"{order}{len(values[tag])}{unit}", *values[tag])
        entry = struct.pack(f"{order}HH{unit}", tag, kind, len(values[tag]))
        if len(values[tag]) > 1:
            content, behind = struct.pack(f"{order}{unit}", end + len(behind)), behind + content
        entries.append(entry + content)
    directory = struct.pack(f"{order}{count_unit}", len(values)) + b"".join(entries) + struct.pack(f"{order}{unit}", 0)
    head = data[:start] + struct.pack(f"{order}{unit}", place)
    return head + data[len(head) :] + directory + behind


def _listed(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
