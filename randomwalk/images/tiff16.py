"""Colour TIFF files with 16 bits per channel, which Pillow cuts to 8 bits."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, TiffImagePlugin

WIDTH, HEIGHT, BITS, KIND, ORIENTATION, SAMPLES, PLANES = 256, 257, 258, 262, 274, 277, 284
PREDICTOR, TILE_WIDTH, EXTRA, FORMAT = 317, 322, 338, 339
_DROPPED = {BITS, ORIENTATION, PREDICTOR, EXTRA, FORMAT, 280, 281, 340, 341}
"""Tags that have a value for each channel, or are undone here."""
_LONG = 4
_UNITS = {3: "H", _LONG: "I"}


def is_tiff16(data: bytes, image: Image.Image) -> bool:
    """Whether the picture opened from ``data`` is a TIFF with interleaved colours of 16 bits, as whole numbers."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    samples = tags.get(SAMPLES, 1)
    return (
        data[:4] in (b"II*\0", b"MM\0*")  # and not BigTIFF
        and samples in (3, 4)
        and _listed(tags.get(BITS, 1)) == (16,) * samples
        and set(_listed(tags.get(FORMAT, 1))) == {1}
        and tags.get(KIND) == 2
        and tags.get(PLANES, 1) == 1
        and tags.get(PREDICTOR, 1) in (1, 2)
        and (samples == 3 or set(_listed(tags.get(EXTRA, 2))) == {2})
    )


def orientation(image: Image.Image) -> int:
    """Orientation of an opened TIFF, from 1 (upright) to 8."""
    found = image.tag_v2.get(ORIENTATION, 1)  # type: ignore[attr-defined]
    return found if found in range(1, 9) else 1


def decode(data: bytes, image: Image.Image) -> np.ndarray:
    """Decode the first page of a file to uint16 ``[H, W, C]``, as it is stored, not turned upright; alpha last.

    A row of interleaved colours is a row of a grey picture that is C times as wide. Pillow decodes that one, after a
    directory that describes it is added to the file. Differences along a row (the predictor of TIFF) are between
    neighbours of one channel, and are summed up here.

    Raises:
        ValueError: the file is damaged.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    channels, width, height = tags[SAMPLES], tags[WIDTH], tags[HEIGHT]
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_as_grey(data, channels))) as grey:
        array = np.array(grey)
    if array.shape != (height, width * channels) or array.dtype.itemsize != 2:
        raise ValueError("its tags contradict each other")
    array = array.astype(np.uint16).reshape(height, width, channels)
    if tags.get(PREDICTOR, 1) == 2:
        across = tags.get(TILE_WIDTH, width)
        for start in range(0, width, across):
            part = array[:, start : start + across]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return array


def _as_grey(data: bytes, channels: int) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, place)
    entries: dict[int, bytes] = {}
    for n in range(count):
        raw = data[place + 2 + 12 * n : place + 14 + 12 * n]
        tag, kind = struct.unpack_from(f"{order}HH", raw)
        if tag in (WIDTH, TILE_WIDTH):
            (value,) = struct.unpack_from(f"{order}{_UNITS[kind]}", raw, 8)
            raw = struct.pack(f"{order}HHII", tag, _LONG, 1, value * channels)
        if tag not in _DROPPED:
            entries[tag] = raw
    for tag, value in ((BITS, 16), (KIND, 1), (SAMPLES, 1)):
        entries[tag] = struct.pack(f"{order}HHII", tag, _LONG, 1, value)
    data += bytes(len(data) % 2)
    directory = b"".join(entries[tag] for tag in sorted(entries))
    head = data[:4] + struct.pack(f"{order}I", len(data))
    return head + data[8:] + struct.pack(f"{order}H", len(entries)) + directory + bytes(4)


def _listed(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
