"""Metadata of pictures, which are colour space, resolution, EXIF, XMP and text, as chunks of a PNG file.

Results are PNG files, so what other formats say is translated, and what PNG files say is copied. ICC profiles are
fields of a picture of their own.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence

from PIL import Image, PngImagePlugin

from randomwalk.images import exif, png16
from randomwalk.images.png16 import Chunk

RESOLUTION, EXIF, TEXT = b"pHYs", b"eXIf", (b"tEXt", b"zTXt", b"iTXt")
LENGTHS = {
    b"gAMA": 4, b"sRGB": 1, b"cHRM": 32, b"cICP": 4, b"mDCV": 24, b"mDCv": 24, b"cLLI": 8, b"cLLi": 8, RESOLUTION: 9,
}  # fmt: skip
"""Bytes of the chunks that say which colours and brightness the numbers mean, and how large the pixels are."""
OF_COLOURS = (b"iCCP", b"cHRM", b"cICP")
"""Chunks that hold only for the channels of the file: not for grey if it has colours, nor the other way round."""
XMP = b"XML:com.adobe.xmp"
RAW_PROFILE = b"Raw profile type "
"""Beginning of the keywords under which some programs write EXIF data as text."""
IPTC, OF_PHOTOSHOP = 0x0404, b"8BIM"
"""Number of the block with captions and keywords among Photoshop's, and the bytes with which these begin."""
IPTC_OF_TIFF = 33723
INCH = 0.0254
"""Metres."""
UNSPECIFIED, REC_709, SRGB_CURVE = 2, 1, 13
"""Primaries and transfer functions of ITU-T H.273."""
MOST_TEXT = 2**23
"""Most bytes of all texts, and of a profile, that are kept."""
PngImagePlugin.MAX_TEXT_CHUNK = MOST_TEXT  # Pillow takes no profile of more than a megabyte otherwise


def chunks_of(image: Image.Image, data: bytes, page: int, turned: bool) -> tuple[Chunk, ...]:
    """Metadata of a page of an opened picture, without its ICC profile.

    Args:
        image: opened, at the page.
        data: bytes of the file.
        page: number of the page, from 0.
        turned: whether its width and height are exchanged when it is made upright.
    """
    found = list(_of_png(image, data) if image.format == "PNG" else _of_others(image, data, page))
    if not turned:
        return tuple(found)
    return tuple((kind, _turned(content) if kind == RESOLUTION else content) for kind, content in found)


def written(chunks: Sequence[Chunk], width: int, height: int, same_channels: bool, gps: bool) -> list[Chunk]:
    """Chunks to write with a result, which is upright.

    Args:
        chunks: of the picture that it was made from.
        width, height: of the result.
        same_channels: whether it is grey like the picture, or coloured like it.
        gps: keep the coordinates.
    """
    out = []
    for kind, content in chunks:
        if kind in OF_COLOURS and not same_channels:
            continue
        if kind == EXIF:
            found = exif.upright(content, width, height, gps)
            out += [] if found is None else [(kind, found)]
        elif kind in TEXT:
            out += _upright_text(kind, content, gps)
        else:
            out.append((kind, content))
    return out


def profile_chunks(profile: bytes | None) -> list[Chunk]:
    """ICC profile as a chunk; none if it is too large."""
    if profile is None or len(profile) > MOST_TEXT:
        return []
    return [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))]


def _of_png(image: Image.Image, data: bytes) -> Iterator[Chunk]:
    kept: list[Chunk] = []
    behind, room = False, MOST_TEXT
    for kind, content in png16.chunks(data, sound=True):
        behind = behind or kind == b"IDAT"
        if kind in (*LENGTHS, EXIF):
            first = kind not in [one for one, _ in kept]
            if first and (kind == EXIF or (not behind and len(content) == LENGTHS[kind])):
                kept.append((kind, content))
        elif kind in TEXT and not content.startswith((RAW_PROFILE + b"exif\0", RAW_PROFILE + b"APP1\0")):
            room -= _length_of_text(kind, content)
            if room >= 0:
                kept.append((kind, content))
    if EXIF not in [kind for kind, _ in kept]:
        for key in ("exif", "APP1"):
            text = image.info.get(f"{RAW_PROFILE.decode()}{key}")
            with contextlib.suppress(ValueError):
                found = bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
                if (block := found.removeprefix(exif.PREFIX))[:2] in exif.ORDERS:
                    kept.append((EXIF, block))
                    break
    yield from kept


def _of_others(image: Image.Image, data: bytes, page: int) -> Iterator[Chunk]:
    if (colour := data.find(b"colrnclx", 0, 2**16)) >= 0 and image.format in ("AVIF", "HEIF"):
        primaries, transfer = struct.unpack_from(">HH", data.ljust(colour + 12, b"\0"), colour + 8)
        known = UNSPECIFIED not in (primaries, transfer) and max(primaries, transfer) < 256
        if known and (primaries, transfer) != (REC_709, SRGB_CURVE):
            yield b"cICP", bytes([primaries, transfer, 0, 1])
    density = image.info.get("dpi")
    with contextlib.suppress(TypeError, ValueError, OverflowError, ZeroDivisionError, struct.error):
        if density is not None and min(density) > 1:  # 1 stands for unknown
            yield RESOLUTION, struct.pack(">IIB", *(round(float(one) / INCH) for one in density), 1)
    block = exif.of_tiff(data, page) if image.format == "TIFF" else image.info.get("exif")
    if isinstance(block, bytes) and block:
        yield EXIF, block.removeprefix(exif.PREFIX)
    xmp = image.info.get("xmp")
    if isinstance(xmp, bytes) and 0 < len(xmp) <= MOST_TEXT:
        yield b"iTXt", _itxt(XMP, xmp.rstrip(b"\0"))
    blocks = image.info.get("photoshop")
    iptc = image.tag_v2.get(IPTC_OF_TIFF) if image.format == "TIFF" else None  # type: ignore[attr-defined]
    iptc = blocks.get(IPTC) if isinstance(blocks, dict) else iptc
    if isinstance(iptc, bytes) and 0 < len(iptc) <= MOST_TEXT:
        yield b"zTXt", _iptc_text(iptc)
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment.strip(b"\0") and len(comment) <= MOST_TEXT:
        try:
            text = comment.decode()
        except UnicodeDecodeError:
            text = comment.decode("latin-1")
        yield b"iTXt", _itxt(b"Comment", text.replace("\0", "").encode())


def _length_of_text(kind: bytes, content: bytes) -> int:
    """Bytes of a text, decompressed; more than any that is kept if it is damaged or longer than `MOST_TEXT`."""
    _, _, rest = content.partition(b"\0")
    packed = rest[1:] if kind == b"zTXt" else b""
    if kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    if not packed:
        return len(content)
    try:
        return len(zlib.decompressobj().decompress(packed, MOST_TEXT + 1))
    except zlib.error:
        return MOST_TEXT + 1


def _itxt(keyword: bytes, text: bytes) -> bytes:
    return keyword + b"\0\0\0\0\0" + text


def _iptc_text(iptc: bytes) -> bytes:
    """IPTC data as ImageMagick and ExifTool write them into PNG files: as a block of Photoshop's, in hexadecimals."""
    block = OF_PHOTOSHOP + struct.pack(">HHI", IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    lines = "\n".join(block.hex()[k : k + 72] for k in range(0, 2 * len(block), 72))
    return RAW_PROFILE + b"iptc\0\0" + zlib.compress(f"\niptc\n{len(block):8d}\n{lines}\n".encode())


def _turned(content: bytes) -> bytes:
    return content[4:8] + content[:4] + content[8:]


def _upright_text(kind: bytes, content: bytes, gps: bool) -> list[Chunk]:
    """A text chunk, with XMP data that say that the picture is upright, and on demand without coordinates."""
    keyword, _, rest = content.partition(b"\0")
    is_xmp = kind == b"iTXt" and keyword == XMP
    hidden = b"gps" in keyword.lower() or keyword.startswith((RAW_PROFILE + b"xmp", RAW_PROFILE + b"APP1", XMP))
    if not is_xmp:
        return [] if hidden and not gps else [(kind, content)]
    parts = rest[2:].split(b"\0", 2)  # language, keyword in it, text
    if len(parts) < 3:
        return []
    text = parts[2]
    if rest[:1] == b"\1":
        try:
            text = zlib.decompressobj().decompress(text, MOST_TEXT)
        except zlib.error:
            return []
    text = re.sub(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)[2-8]""", rb"\g<1>1", text)
    if not gps:
        text = re.sub(rb"""\s+exif:GPS\w+\s*=\s*(?:"[^"]*"|'[^']*')""", b"", text)
        text = re.sub(rb"<exif:GPS(\w+)(?:[^>]*/>|.*?</exif:GPS\1\s*>)", b"", text, flags=re.DOTALL)
    return [(kind, _itxt(XMP, text))]
