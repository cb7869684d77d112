"""Blur kernels: how a point of light looks in the photograph. Made by formula, or read from files of any kind.

    kernel = randomwalk.kernels.defocus(radius=2.5)        # [5, 5], float64, of sum 1
    operator = operators.blur_with_kernel((3, 256, 256), kernel, "unknown")

All have an odd number of rows and columns, and the point in the middle.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.arrays import read_array

LARGEST = 2047
"""Most pixels along a side of a kernel."""
_POINTS = 500  # of the path of a random motion kernel
_PARTS = 32  # of a pixel along each axis, for the share of it that a shape covers
_DARK = 0.02  # share of the largest value up to which a flat border is background
_NOISE = 6  # standard deviations of the noise of a background, above which there is light
_FAR = 0.25  # pixels off the middle that are worth a note


def gaussian_profile(std: float, size: int | None = None) -> Tensor:
    """Sampled Gaussian ``exp(-a^2 / (2 std^2))`` along one axis, float64, of sum 1.

    Args:
        std: in pixels.
        size: odd; the profile never extends beyond 4 standard deviations.
    """
    radius = int(4 * std + 0.5)
    if size is not None:
        radius = min(radius, size // 2)
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weight = torch.exp(-(place**2) / (2 * std**2))
    return weight / weight.sum()


def gaussian(std: float, size: int | None = None) -> Tensor:
    """Gaussian kernel ``[k, k]``, see :func:`gaussian_profile`."""
    profile = gaussian_profile(std, size)
    return torch.outer(profile, profile)


def defocus(radius: float) -> Tensor:
    """Kernel of a lens out of focus: a disc, each pixel weighted by the share of it that the disc covers.

    Args:
        radius: in pixels.
    """
    reach = int(np.ceil(radius - 0.5))
    place = np.arange(-reach, reach + 1)
    x = (np.arange((2 * reach + 1) * _PARTS) + 0.5) / _PARTS - reach - 0.5
    half = np.sqrt(np.clip(radius**2 - x**2, 0, None))  # of the chord at x
    inside = np.minimum(half, place[:, None] + 0.5) - np.maximum(-half, place[:, None] - 0.5)
    covered = torch.from_numpy(np.clip(inside, 0, None).reshape(len(place), len(place), _PARTS).mean(-1))
    covered = covered + covered.T  # the quadrature is along one axis only
    return covered / covered.sum()


def motion(length: float, angle: float = 0.0) -> Tensor:
    """Kernel of a camera that moves along a straight line: a bar one pixel wide, by the share of each pixel it covers.

    Args:
        length: of the bar, in pixels; 21 at angle 0 is 21 equal pixels in a row.
        angle: in degrees, counter-clockwise from the horizontal.
    """
    turn = np.deg2rad(angle)
    along, across = (
        side * ((np.arange(n) + 0.5) / n - 0.5) for side, n in ((length, int(np.ceil(_PARTS * length))), (1, _PARTS))
    )
    rows = along[:, None] * -np.sin(turn) + across * np.cos(turn)
    columns = along[:, None] * np.cos(turn) + across * np.sin(turn)
    reach = [int(np.round(np.abs(place).max())) for place in (rows, columns)]
    kernel = np.zeros([2 * n + 1 for n in reach])
    np.add.at(kernel, tuple(np.rint(place).astype(int) + n for place, n in zip((rows, columns), reach, strict=True)), 1)
    kernel += kernel[::-1, ::-1]  # points on the edge between two pixels are rounded to one side
    return torch.from_numpy(kernel / kernel.sum())


def random_motion(size: int, intensity: float, draws: np.random.Generator) -> Tensor:
    """Kernel ``[size, size]`` of sum 1: how long a camera that moves at constant speed looks at each pixel.

    The path has between half and the whole length of the kernel and starts in any direction. The direction then does
    a random walk, whose standard deviation at the end is ``2 intensity`` radians, with ``Poisson(2 intensity)`` jumps
    to any direction: 0 gives a straight line, 1 a tangled one. The mean of the path is in the middle of the kernel, and
    each point of the path is spread over the four pixels around it (bilinear weights).

    Args:
        size: odd, in pixels.
        intensity: between 0 and 1.
        draws: source of the random path.
    """
    length = draws.uniform(0.5, 1) * (size - 1)
    turns = draws.normal(0, 2 * intensity / _POINTS**0.5, _POINTS)
    turns[0] = draws.uniform(0, 2 * np.pi)
    for jump in draws.integers(1, _POINTS, draws.poisson(2 * intensity)):
        turns[jump] += draws.uniform(-np.pi, np.pi)
    angles = np.cumsum(turns)
    path = np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1), 0) * length / _POINTS
    path += (size - 1) / 2 - path.mean(0)  # no point is further than length / 2 from the mean: all fit in
    kernel = np.zeros((size, size))
    corner = np.clip(np.floor(path).astype(int), 0, max(size - 2, 0))
    for step in np.ndindex(2, 2) if size > 1 else [(0, 0)]:
        weight = np.prod(1 - np.abs(path - corner - step), axis=1)
        np.add.at(kernel, tuple((corner + step).T), weight)
    return torch.from_numpy(kernel / kernel.sum())


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelFile:
    """Kernel from a file, and what was changed about it.

    Attributes:
        kernel: ``[k, l]`` float64, with an odd number of rows and columns.
        notes: for the user, one line each.
    """

    kernel: Tensor
    notes: list[str] = field(default_factory=list)


def read(file: str | Path, *, flip: bool = False, center: bool | None = None) -> KernelFile:
    """Read a kernel from a NumPy file (.npy) or an image, which may be that of a photographed point of light.

    Of an image, a frame around it, a background that is not black, and white and black exchanged are mended, each with
    a note. Both kinds are cut to what is not 0, around the middle of the file; where that is far from the kernel,
    around its centre of mass rounded to a pixel, so that the blur does not move the picture. A note says by how much
    it does.

    Args:
        file: path.
        flip: turn the kernel by 180 degrees.
        center: whether to put the centre of mass into the middle, instead of the middle of the file (the pixel after
            it, where the number is even); by default where the two are further apart than a quarter of the kernel.

    Raises:
        InputError: the file cannot be read, or holds no kernel.
    """
    where, notes = f"blur: the kernel {file}", []
    if Path(file).suffix.lower() == ".npy":
        values = np.asarray(read_array(file, where), dtype=np.float64)
    else:
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise InputError(f"{where} cannot be read: {error}") from error
        values, found = _light(data, where)
        values, mended = _mended(values)
        notes = [f"{where} {note}" for note in (*found, *mended)]
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(f"{where} has shape {values.shape}; expected rows and columns of numbers")
    if not values.any():
        raise InputError(f"{where} is black everywhere; expected a bright point or path on black")
    cut, moved = _cut(values[::-1, ::-1] if flip else values, center)
    if max(cut.shape) > LARGEST:
        raise InputError(
            f"{where} has {cut.shape[0]}x{cut.shape[1]} pixels that are not black; at most {LARGEST} are allowed along "
            "a side: cut the image to the blurred point of light"
        )
    notes += [f"{where} {moved}"] if moved else []
    return KernelFile(torch.from_numpy(np.ascontiguousarray(cut)), notes)


def _light(data: bytes, where: str) -> tuple[np.ndarray, list[str]]:
    """Light at each pixel ``[H, W]``: grey values on black; the opacity, where what is not transparent is black."""
    with contextlib.suppress(*pictures.BROKEN), Image.open(io.BytesIO(data)) as image:
        if image.mode == "F":
            return np.asarray(image, dtype=np.float64), []
    picture = pictures.read(data, where)
    notes = [] if picture.colourless else ["is in colour: its grey values are taken"]
    grey = picture.pixels.astype(np.float64).mean(-1)
    if picture.alpha is not None and (picture.alpha != picture.alpha.max()).any():
        alpha = picture.alpha.astype(np.float64)
        lit = bool((grey * alpha).any())
        grey = grey * alpha / alpha.max() if lit else alpha
        notes.append(
            "is partly transparent: transparent pixels are taken as black" + ("" if lit else ", opaque ones as white")
        )
    return grey, notes


def _mended(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Kernel image without its frame and background, white on black."""
    notes = []
    if (width := _frame(values)) > 0:
        values = values[width:-width, width:-width]
        notes.append(f"has a frame of {width} pixel{'s' if width > 1 else ''}, which is cut off")
    span = np.ptp(values)
    corners = values[[0, 0, -1, -1], [0, -1, 0, -1]]
    if span > 0 and np.median(corners) > values.min() + 0.5 * span and np.sum(corners > values.min() + 0.5 * span) > 2:
        values = values.max() - values
        notes.append("is dark on a bright background: black and white are exchanged")
    ring, largest = _ring(values), values.max()
    level, top = float(np.median(ring)), float(ring.max())
    noise = _noise(values)
    flat = np.ptp(ring) <= 2 * _DARK * largest or 0 < noise < 2 * _DARK * largest
    if top > 0 and flat and level < 0.5 * largest:
        without = np.where(values > max(top, level + _NOISE * noise), values - level, 0.0)
        share = 1 - without.sum() / values.sum()
        if share > 0.01 and without.any():
            values = without
            notes.append(
                f"has a background of {100 * level / largest:.1f}% of its brightest pixel, {100 * share:.0f}% of all "
                "its light, which is subtracted"
            )
    elif noise > 2 * _DARK * largest:
        notes.append(
            f"has noise of {100 * noise / largest:.0f}% of its brightest pixel all over it, which passes for light: "
            "take a photograph with less, or cut it to the point of light"
        )
    return values, notes


def _frame(values: np.ndarray) -> int:
    """Width of the frame of one value around a background of another one; 0 without one."""
    near, width, inside = _DARK * np.ptp(values), 0, values
    while min(inside.shape) > 4 and np.abs(_ring(inside) - values[0, 0]).max() <= near:
        width, inside = width + 1, inside[1:-1, 1:-1]
    background = np.median(_ring(inside))
    flat = np.mean(np.abs(_ring(inside) - background) <= near) > 0.75
    differs = np.abs(background - values[0, 0]) > 0.25 * np.ptp(values)
    return width if flat and differs and np.ptp(inside) > near else 0


def _ring(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of an array."""
    if min(values.shape) < 3:
        return values.ravel()
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _noise(values: np.ndarray) -> float:
    """Standard deviation of the noise around a photographed point of light; 0 if the outermost pixels are not noise.

    Noise has no values far from its median, and neighbours that differ as much as distant pixels do.
    """
    ring, sides = _ring(values), (values[0], values[-1], values[:, 0], values[:, -1])
    level = np.median(ring)
    std = 1.4826 * float(np.median(np.abs(ring - level)))  # of a Gaussian, by its median absolute deviation
    if min(values.shape) < 16 or ring.max() > level + _NOISE * std:
        return 0.0
    near = np.mean(np.concatenate([np.diff(side) for side in sides]) ** 2)
    return std if near > np.var(ring) else 0.0


def _cut(values: np.ndarray, center: bool | None) -> tuple[np.ndarray, str]:
    """The part that is not 0, with the same reach on both sides of the middle, and a note if the picture moves."""
    weights = np.abs(values)
    profiles = [weights.sum(1 - axis) for axis in (0, 1)]
    used = [np.flatnonzero(profile) for profile in profiles]
    halves = [(size - 1) / 2 for size in values.shape]
    mass = [float((p * np.arange(len(p))).sum() / p.sum()) for p in profiles]
    far = any(abs((u[0] + u[-1]) / 2 - half) > (u[-1] - u[0] + 1) / 4 for u, half in zip(used, halves, strict=True))
    off = [m - half for m, half in zip(mass, halves, strict=True)]
    moves = (far if center is None else center) and max(map(abs, off)) > 0.5 + 1e-6
    if moves:
        middle = [int(np.ceil(m - 0.5 - 1e-6)) for m in mass]
    else:  # of an even number, the pixel on the side of the centre of mass
        middle = [
            int(np.ceil(h) if center is False or o > -1e-6 else np.floor(h)) for h, o in zip(halves, off, strict=True)
        ]
    cut = values
    for axis, at in enumerate(middle):
        reach = max(at - used[axis][0], used[axis][-1] - at)
        before, after = max(reach - at, 0), max(at + reach + 1 - values.shape[axis], 0)
        pads = [(0, 0), (0, 0)]
        pads[axis] = (before, after)
        cut = np.pad(cut, pads).take(range(at - reach + before, at + reach + 1 + before), axis=axis)
    left = [m - at for m, at in zip(mass, middle, strict=True)]
    if moves:
        return cut, f"has its centre of mass {_words(off)} of its middle, and is moved there (center: false keeps it)"
    if max(map(abs, left)) > _FAR:
        remedy = "; center: true moves it there" if max(map(abs, left)) > 0.5 + 1e-6 else ""
        return cut, f"moves the picture by {_words(left)}, where its centre of mass is{remedy}"
    return cut, ""


def _words(off: Sequence[float]) -> str:
    """Distance in words, such as "2.0 pixels down and 0.5 to the left"."""
    down, right = off
    parts = [(abs(down), "down" if down > 0 else "up"), (abs(right), f"to the {'right' if right > 0 else 'left'}")]
    shown = [(f"{much:.1f}", where) for much, where in parts if much > 0.05]
    return " and ".join(f"{much}{'' if i else ' pixels'} {where}" for i, (much, where) in enumerate(shown))
