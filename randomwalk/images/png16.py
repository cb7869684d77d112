"""PNG files with 16 bits per channel, including colour, which Pillow cuts to 8 bits and cannot write; chunks of PNG."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

Chunk = tuple[bytes, bytes]
"""Kind and content of a chunk."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Values per pixel by the colour type of the file: grey, colour, and each with alpha."""
WHOLE = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and column and row distance of the pixels in each pass of an interlaced file."""


def is_png16(data: bytes) -> bool:
    """Whether a file is a PNG with 16 bits per channel, by its header."""
    return data[:8] == SIGNATURE and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def is_grey(data: bytes) -> bool:
    """Whether a PNG file is grey, by its header; Pillow reports 16-bit grey with alpha as colour."""
    return data[25] in (0, 4)


def decode(data: bytes) -> np.ndarray:
    """Decode a 16-bit PNG to uint16 ``[H, W, C]`` with all channels of the file, alpha last.

    The filters of PNG combine each byte with the bytes at the same place in neighbouring pixels. The upper bytes alone
    are therefore the data of an 8-bit PNG, and so are the lower ones: Pillow decodes both.

    Raises:
        ValueError: the file is damaged.
    """
    header, packed = b"", []
    for kind, content in chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in CHANNELS:
        raise ValueError(f"a PNG with 16 bits per channel has no colour type {colour}")
    rows = list(_passes(width, height, CHANNELS[colour], interlaced))
    expected = sum(count * length for count, length in rows)
    raw = np.frombuffer(zlib.decompressobj().decompress(b"".join(packed), expected), np.uint8)
    if raw.size != expected:
        raise ValueError("the PNG is cut short")
    halves = []
    for half in (0, 1):
        parts, start = [], 0
        for count, length in rows:
            lines = raw[start : start + count * length].reshape(count, length)
            parts.append(np.concatenate([lines[:, :1], lines[:, 1 + half :: 2]], axis=1).tobytes())
            start += count * length
        eight = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
        with Image.open(io.BytesIO(_file((b"IHDR", eight), (b"IDAT", zlib.compress(b"".join(parts), 1))))) as image:
            halves.append(np.asarray(image).reshape(height, width, -1).astype(np.uint16))
    return halves[0] << 8 | halves[1]


def encode(pixels: np.ndarray) -> bytes:
    """Encode uint16 pixels as a PNG file.

    Args:
        pixels: ``[H, W, C]``: grey, grey and alpha, colour, or colour and alpha.
    """
    height, width, channels = pixels.shape
    colour = next(kind for kind, count in CHANNELS.items() if count == channels)
    lines = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.diff(lines, axis=0, prepend=np.zeros_like(lines[:1]))  # modulo 256, the filter "up", number 2
    raw = np.concatenate([np.full((height, 1), 2, np.uint8), filtered], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return _file((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)))


def chunks(data: bytes, sound: bool = False) -> Iterator[Chunk]:
    """Chunks of a PNG file in their order.

    Args:
        data: bytes of the file.
        sound: leave out those whose checksum is wrong.
    """
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        kind, content = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if not sound or data[start + 8 + length : start + 12 + length] == _checksum(kind, content):
            yield kind, content
        start += length + 12


def with_chunks(data: bytes, added: Sequence[Chunk]) -> bytes:
    """PNG file with further chunks behind its header, which come before the pixels."""
    end = len(SIGNATURE) + 25
    return data[:end] + b"".join(_packed(kind, content) for kind, content in added) + data[end:]


def _passes(width: int, height: int, channels: int, interlaced: int) -> Iterator[tuple[int, int]]:
    """Number of lines and bytes per line (including the filter byte) of every pass that has pixels."""
    for left, top, across, down in ADAM7 if interlaced else WHOLE:
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            yield lines, 1 + 2 * channels * columns


def _file(*content: Chunk) -> bytes:
    return SIGNATURE + b"".join(_packed(kind, one) for kind, one in (*content, (b"IEND", b"")))


def _packed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + _checksum(kind, content)


def _checksum(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(kind + content))
