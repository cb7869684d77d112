"""EXIF data of photographs, which are tags in the layout of a TIFF file: from a picture to one that was made of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

PREFIX = b"Exif\0\0"
ORDERS = {b"II": "<", b"MM": ">"}
"""Byte orders by the first two bytes."""
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of a value by the number of its type."""
SHORT, LONG = 3, 4
ORIENTATION, CAMERA, GPS, INTEROPERABILITY = 274, 34665, 34853, 40965
"""Tags; the last three are directories of their own."""
PIXELS = (40962, 40963)
"""Tags of the width and height of the picture."""
OF_PIXELS = {
    *range(254, 267), 273, *range(277, 282), 284, *range(288, 293), 301, *range(317, 333), *range(338, 348),
    *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724, 50706, 50707,
}  # fmt: skip
"""Tags of a TIFF file that say how its pixels are stored, or what is kept elsewhere (XMP, profile) or is large."""
MOST_BYTES = 2**18
"""Bytes of all values of a directory that are kept."""
MOST_TAGS = 2000


@dataclass(frozen=True)
class Directory:
    """Tags by number: type, count and bytes of each, or a directory."""

    tags: dict[int, tuple[int, int, bytes] | Directory]


def upright(block: bytes, width: int, height: int, gps: bool) -> bytes | None:
    """EXIF data for an upright picture of another size, without the thumbnail, which shows the picture as it was.

    Values keep their types and bytes. Notes of the maker of the camera are copied, though they may point to places
    that have moved.

    Args:
        block: EXIF data, without `PREFIX`.
        width, height: of the picture.
        gps: keep the coordinates.

    Returns:
        None if the data are damaged.
    """
    order = ORDERS.get(block[:2])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(f"{order}I", block, 4)
        first = _directory(block, order, place, big=False)
    except struct.error:
        return None
    if ORIENTATION in first.tags:
        first.tags[ORIENTATION] = (SHORT, 1, struct.pack(f"{order}H", 1))
    camera = first.tags.get(CAMERA)
    if isinstance(camera, Directory):
        for tag, side in zip(PIXELS, (width, height), strict=True):
            if tag in camera.tags:
                camera.tags[tag] = (LONG, 1, struct.pack(f"{order}I", side))
    if not gps:
        first.tags.pop(GPS, None)
    return _written(order, first)


def of_tiff(data: bytes, page: int) -> bytes | None:
    """EXIF data of a page of a TIFF or BigTIFF file; None if there are none.

    Args:
        data: bytes of the file.
        page: from 0.
    """
    order = ORDERS.get(data[:2])
    if order is None:
        return None
    try:
        place, big = page_of_tiff(data, page)
        found = _directory(data, order, place, big)
    except (struct.error, EOFError):
        return None
    return _written(order, found) if found.tags else None


def is_big(data: bytes) -> bool:
    """Whether a TIFF file is a BigTIFF."""
    return data[2:4] in (b"+\0", b"\0+")


def page_of_tiff(data: bytes, page: int) -> tuple[int, bool]:
    """Place of the directory of a page, and whether the file is a BigTIFF.

    Raises:
        struct.error: the file is cut short.
        EOFError: it has fewer pages.
    """
    order, big = ORDERS[data[:2]], is_big(data)
    start, unit, count_unit, entry = (8, "Q", "Q", 20) if big else (4, "I", "H", 12)
    (place,) = struct.unpack_from(f"{order}{unit}", data, start)
    for _ in range(page):
        (count,) = struct.unpack_from(f"{order}{count_unit}", data, place)
        following = place + struct.calcsize(f"={count_unit}") + entry * count
        (place,) = struct.unpack_from(f"{order}{unit}", data, following)
        if place == 0:
            raise EOFError("it has fewer pages")
    return place, big


def _directory(data: bytes, order: str, place: int, big: bool, depth: int = 0) -> Directory:
    """Read a directory and those in it, without the tags of the pixels and those that are damaged."""
    head, unit, room = (8, "Q", 8) if big else (2, "I", 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)
    tags: dict[int, tuple[int, int, bytes] | Directory] = {}
    left = MOST_BYTES
    for n in range(min(count, MOST_TAGS)):
        start = place + head + n * (4 + 2 * room)
        if start + 4 + 2 * room > len(data):
            break
        tag, kind, number = struct.unpack_from(f"{order}HH{unit}", data, start)
        if tag in tags:
            continue
        length, at = WIDTHS.get(kind, 0) * number, start + 4 + room
        (there,) = struct.unpack_from(f"{order}{unit}", data, at)
        if tag in (CAMERA, GPS, INTEROPERABILITY) and depth < 2:
            if there + head <= len(data):
                tags[tag] = _directory(data, order, there, big, depth + 1)
        elif length and length <= left and (depth or tag not in OF_PIXELS):
            at = at if length <= room else there
            if at + length <= len(data):
                tags[tag] = (kind, number, data[at : at + length])
                left -= length
    return Directory(tags)


def _written(order: str, first: Directory) -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + _block(order, first, len(head))


def _block(order: str, directory: Directory, start: int) -> bytes:
    """Bytes of a directory that is written at a place: its tags, the longer values, and the directories in it."""
    end = start + 2 + 12 * len(directory.tags) + 4
    entries, behind = [struct.pack(f"{order}H", len(directory.tags))], b""
    for tag, value in sorted(directory.tags.items(), key=lambda item: item[0]):
        kind, count, content = (LONG, 1, b"") if isinstance(value, Directory) else value
        if isinstance(value, Directory) or len(content) > 4:
            place = struct.pack(f"{order}I", end + len(behind))
            behind += _block(order, value, end + len(behind)) if isinstance(value, Directory) else content
            behind += bytes(len(behind) % 2)
        else:
            place = content.ljust(4, b"\0")
        entries.append(struct.pack(f"{order}HHI", tag, kind, count) + place)
    return b"".join(entries) + bytes(4) + behind
