"""Masks of the known pixels of a picture, as painting programs save them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.pictures import Picture

Grow = int | Literal["auto"]
MANY_COLOURS = 32
"""Fewest colours of a mask that may be a copy of the photograph; paint has few."""
LOOKED_AT = 100_000
"""Pixels of a large mask that are looked at for its colours."""
LOSSY = 12
"""Largest difference of most pixels, of 255, between a photograph and its copy in a format that loses detail."""


RINGS = 24
"""Largest difference from white, of 255, that still counts as white in a mask that is a JPEG file: its rings."""


@dataclass(frozen=True)
class Mask:
    """Known part of a picture.

    Attributes:
        known: ``[H, W]``, 1 where pixels are known, 0 where they are missing; some of both.
        notes: how the mask was understood, one line each, for the user.
    """

    known: Tensor
    notes: list[str]


def read_mask(
    mask: Picture,
    name: str,
    size: tuple[int, int],
    whose: str,
    *,
    grow: Grow = "auto",
    invert: bool = False,
    photograph: Callable[[], Picture] | None = None,
) -> Mask:
    """Find the known pixels of a picture by a mask that somebody painted.

    Known is what is white, fully but for the rings of a JPEG file: the soft edge of a brush is unknown. Transparent
    pixels of a layer are known, and its paint is unknown, whatever the colour. If the mask is a copy of the photograph,
    what differs from it is unknown: what was painted over or erased.

    Args:
        mask: the mask, of any kind: black on white, a colour, a layer with transparency.
        name: name of the mask in messages.
        size: height and width of the picture that it belongs to.
        whose: that picture in messages.
        grow: pixels by which the unknown area is widened on all sides; auto is 1 for masks with a soft edge, whose
            faintest paint is rounded away, and 0 for the others.
        invert: whether black is known instead of white.
        photograph: gives the picture that the mask belongs to, called if the mask may be a copy of it.

    Raises:
        InputError: the size is another, all pixels are known or none, or the mask is a copy that lost detail.
    """
    if mask.pixels.shape[:2] != tuple(size):
        sizes = ["{}x{}".format(*shape) for shape in (mask.pixels.shape[:2], size)]
        raise InputError(f"{name} has {sizes[0]} pixels, but {whose} has {sizes[1]}; expected a mask of the same size")
    ground = 0 if invert else 255
    distance = np.abs(_bytes(mask.pixels).astype(np.int16) - ground).max(2)  # 0 is known
    rings = (distance > 0) & (distance <= RINGS) if mask.jpeg else np.zeros(distance.shape, bool)
    distance[rings] = 0
    alpha = np.full(distance.shape, 255, np.uint8) if mask.alpha is None else _bytes(mask.alpha)
    unknown = (distance > 0) & (alpha > 0)
    notes = []
    copied = None if photograph is None else _unlike(mask, alpha, unknown, photograph, name, whose)
    if copied is not None:
        unknown, soft = copied, np.ones_like(copied)
        notes.append(f"{name} is a copy of {whose}: what differs is unknown")
    elif not unknown.any() and (alpha > 0).any() and (alpha == 0).any():
        unknown, soft = alpha > 0, alpha < 255
        notes.append(f"{name} has paint of one colour on a transparent layer: the paint is unknown")
    else:
        soft = (alpha < 255) | (distance < distance.max(where=unknown & (alpha == 255), initial=0))
    soft &= unknown
    if not unknown.any() or unknown.all():
        hint = "" if mask.alpha is not None or unknown.any() else " (paint it on white, or on a layer of its own)"
        if unknown.all():
            hint = f"; only fully {'black' if invert else 'white'} pixels are known, and the nearest to that is "
            hint += f"{abs(ground - int(distance.min()))} of 255"
        raise InputError(
            f"{name} keeps {'no pixel' if unknown.all() else 'all pixels'}; expected a mask that is "
            f"{'bright' if invert else 'dark'} where pixels are missing and {'black' if invert else 'white'} elsewhere"
            f"{hint}"
        )
    width = int(soft.any()) if grow == "auto" else grow
    grown = _widened(unknown, width)
    if grown.all():
        raise InputError(f"{name} keeps no pixel once its unknown area is widened by {width}; choose a smaller grow")
    if copied is None and rings.any():
        notes.append(
            f"{name} is a JPEG file, with rings around its edges: what is within {RINGS} of 255 of "
            f"{'black' if invert else 'white'} counts as {'black' if invert else 'white'}; save masks as PNG instead"
        )
    if copied is None and soft.any():
        notes.append(
            f"{name}: {int(soft.sum())} pixels are partly painted and count as unknown"
            + (f"; the unknown area is widened by {width}" if width else "")
        )
    if grown.mean() > 0.5 and not _scattered(~grown):
        notes.append(
            f"warning: {name} leaves {(~grown).mean():.1%} of the pixels known; if what is "
            f"{'black' if invert else 'white'} in it is to be filled in, set invert: {str(not invert).lower()}"
        )
    return Mask(torch.from_numpy((~grown).astype(np.float32)), notes)


def read_mask_file(path: str | Path) -> tuple[Picture, str]:
    """Decode a mask file; the picture, and its name in messages.

    Raises:
        InputError: it cannot be read, or does not decode.
    """
    name = f"inpainting: the mask {path}"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    return pictures.read(data, name), name


def _unlike(
    mask: Picture, alpha: np.ndarray, unknown: np.ndarray, photograph: Callable[[], Picture], name: str, whose: str
) -> np.ndarray | None:
    """Where a copy of the photograph is painted or erased, ``[H, W]``; None if the mask is no copy.

    A copy has many colours, and most of what is not white in it is as in the photograph.
    """
    pixels = _bytes(mask.pixels)
    if not unknown.any() or _count_colours(pixels[unknown]) < MANY_COLOURS:
        return None
    shown = _bytes(photograph().pixels)
    difference = np.abs(pixels.astype(np.int16) - shown).max(2)
    near = unknown & (difference <= LOSSY)
    if near.sum() < unknown.sum() / 2 or _count_colours(pixels[near]) < MANY_COLOURS:
        return None
    if np.mean(difference[near] == 0) < 0.5:
        raise InputError(
            f"{name} seems to be a copy of {whose} in a format that loses detail, so that what was painted cannot be "
            "told; save it as PNG, or paint on white"
        )
    return (difference > 0) | (alpha < 255)


def _count_colours(pixels: np.ndarray) -> int:
    """Number of different colours among pixels ``[N, C]``, of up to `LOOKED_AT` of them."""
    return len(np.unique(pixels[:: max(1, len(pixels) // LOOKED_AT)], axis=0))


def _widened(area: np.ndarray, pixels: int) -> np.ndarray:
    """Pixels of an area ``[H, W]`` and those up to so many rows and columns away from it."""
    if not pixels:
        return area
    wide = max_pool2d(torch.from_numpy(area.astype(np.float32))[None], 2 * pixels + 1, 1, pixels)
    return wide[0].numpy() > 0


def _scattered(area: np.ndarray) -> bool:
    """Whether an area is single pixels rather than strokes: few of its pixels lie within it."""
    within = ~_widened(~area, 1)
    return within.sum() < area.sum() / 10


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values in 8 bits."""
    return (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
