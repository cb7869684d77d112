"""Phantoms: random bodies for tomography, and slices of a brain for magnetic resonance imaging.

Both are drawn on a grid twice as fine and averaged, so that pixels at an edge have parts of both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from randomwalk.errors import InputError
from randomwalk.images import instruments
from randomwalk.rng import Stream, generator

WATER = 0.2
"""Attenuation of water for X-rays of about 70 keV, per centimetre."""
MOST = 0.5
"""Largest attenuation of a body, per centimetre: dense bone."""
FINER = 2
"""Sub-pixels along a side of a pixel."""
MAPS = ("t1", "gm", "wm")
"""Volumes of a template: a T1-weighted image, and the probabilities of grey and of white matter."""


def draws_of(number: int, seed: int = 0) -> np.random.Generator:
    """Random numbers of the phantom of a number."""
    return generator(seed, Stream.PHANTOMS, number)


def body(side: int, draws: np.random.Generator) -> np.ndarray:
    """Draw a slice of a body for tomography: attenuation in 1/cm, float32 ``[side, side]`` from 0 to `MOST`.

    A body of soft tissue in air, often with a ring of bone or fat, holds organs (large ellipses, some of air or bone,
    one inside another), rods and polygons, and small details of low and high contrast; each part has a texture.

    Args:
        side: of the image, in pixels.
        draws: random numbers.
    """
    n = FINER * side
    y, x = (np.mgrid[:n, :n] + 0.5) / n * 2 - 1
    power = draws.uniform(2, 3)
    a, b = draws.uniform(0.6, 0.92, 2)
    turn = draws.uniform(-0.3, 0.3)
    u, v = _turned(x, y, turn)
    radius = (np.abs(u / a) ** power + np.abs(v / b) ** power) ** (1 / power)
    inside = radius < 1
    image = np.where(inside, draws.uniform(0.85, 1.1) * WATER, 0.0)
    if draws.random() < 0.6:  # a skull, or fat
        rim = (radius > 1 - draws.uniform(0.04, 0.12)) & (radius < 1 - draws.uniform(0, 0.03))
        image[rim] = draws.uniform(0.32, 0.48) if draws.random() < 0.5 else draws.uniform(0.16, 0.19)
    texture = ndimage.gaussian_filter(draws.standard_normal((n, n)), draws.uniform(1.5, 8))
    image += inside * texture / texture.std() * draws.uniform(0, 0.008)
    for _ in range(draws.integers(3, 14)):
        part = _ellipse(u / a, v / b, draws, 0.75, (0.06, 0.4)) & inside
        kind = draws.random()
        if kind < 0.6:
            image[part] += draws.uniform(-0.04, 0.05)
        elif kind < 0.75:
            image[part] = draws.uniform(0, 0.08)
        elif kind < 0.9:
            image[part] = draws.uniform(0.25, 0.48)
        else:
            image[part] = draws.uniform(0.18, 0.24)
    for _ in range(draws.integers(0, 4)):
        image[_polygon(x, y, draws) & inside] += draws.uniform(-0.1, 0.2)
    for _ in range(draws.integers(0, 25)):
        part = _ellipse(u / a, v / b, draws, 0.85, (0.01, 0.06)) & inside
        image[part] += draws.choice([-1, 1]) * math.exp(draws.uniform(math.log(0.005), math.log(0.25)))
    return _averaged(image.clip(0, MOST)).astype(np.float32)


@dataclass(frozen=True)
class Tissues:
    """A template of the brain: three volumes ``[X, Y, Z]`` from 0 to 1 with axes to the right, the front and the top.

    Attributes:
        brain: 1 inside the brain.
        grey, white: probabilities of grey and white matter.
    """

    brain: np.ndarray
    grey: np.ndarray
    white: np.ndarray


def read_tissues(folder: str | Path) -> Tissues:
    """Read the template MNI ICBM152 2009a from the files of nilearn (``nilearn/datasets/data``).

    Raises:
        InputError: a file is missing or cannot be read.
    """
    found = {}
    for name in MAPS:
        path = Path(folder) / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise InputError(f"{path}: is not there; the package nilearn has it, in nilearn/datasets/data")
        values = instruments.read(path).values.astype(np.float32)
        found[name] = values / values.max()
    return Tissues((found["t1"] > 0).astype(np.float32), found["gm"], found["wm"])


def brain_slice(tissues: Tissues, side: int, draws: np.random.Generator) -> np.ndarray:
    """Draw a slice of a head for magnetic resonance imaging: complex64 ``[side, side]``, magnitudes from 0 to about 1.

    A slice of the template, of any of three orientations, is scaled, turned, sheared and bent. Each tissue has a
    random intensity, that of a T1- or T2-weighted image or any other, and a texture; there may be lesions, skull and
    scalp. The sensitivity changes slowly over the image, and so does the phase.

    Args:
        tissues: the template.
        side: of the image, in pixels.
        draws: random numbers.
    """
    n = FINER * side
    brain, grey, white = _cut(tissues, n, draws)
    sharpness = draws.uniform(2, 12)
    shares = np.exp(sharpness * np.stack([grey, white, brain * (1 - grey - white).clip(0)]))
    shares = shares / shares.sum(0) * (brain > 0.5)
    kind = draws.random()
    if kind < 0.4:  # T1
        levels = np.array([draws.uniform(0.4, 0.65), draws.uniform(0.7, 1), draws.uniform(0.05, 0.3)])
    elif kind < 0.7:  # T2
        levels = np.array([draws.uniform(0.4, 0.7), draws.uniform(0.2, 0.45), draws.uniform(0.8, 1)])
    else:
        levels = draws.uniform(0.05, 1, 3)
    image = np.tensordot(levels, shares, 1)
    y, x = (np.mgrid[:n, :n] + 0.5) / n * 2 - 1
    for _ in range(draws.integers(0, 4)):
        part = _ellipse(x, y, draws, 0.5, (0.02, 0.1)) & (brain > 0.5)
        image[part] = draws.uniform(0.1, 1)
    if draws.random() < 0.75:
        image = _with_scalp(image, brain > 0.5, draws)
    fine, coarse = (
        ndimage.gaussian_filter(draws.standard_normal((n, n)), sigma) for sigma in draws.uniform([0.8, 3], [3, 8])
    )
    image *= 1 + draws.uniform(0, 0.06) * fine / fine.std() + draws.uniform(0, 0.04) * coarse / coarse.std()
    image = image.clip(0) * np.exp(draws.uniform(0, 0.3) * _smooth(x, y, draws))
    image *= draws.uniform(0.7, 1) / max(float(np.quantile(image, 0.995)), 1e-6)
    return _averaged(image * np.exp(1j * smooth_phase(n, draws))).astype(np.complex64)


def smooth_phase(side: int, draws: np.random.Generator) -> np.ndarray:
    """Draw a phase that changes slowly over an image, in radians, ``[side, side]``."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    return np.asarray(draws.uniform(-math.pi, math.pi) + draws.uniform(0, 1.5) * _smooth(x, y, draws))


def _cut(tissues: Tissues, n: int, draws: np.random.Generator) -> np.ndarray:
    """A slice of the three volumes, ``[3, n, n]``, bent."""
    shape = np.array(tissues.brain.shape)
    axis = int(draws.choice([2, 2, 1, 0]))  # half of them axial
    across, down = [k for k in range(3) if k != axis]
    depth = shape[axis] * draws.uniform(0.25, 0.75)
    y, x = (np.mgrid[:n, :n] + 0.5) / n * 2 - 1
    turn, shear = draws.uniform(-0.25, 0.25), draws.uniform(-0.08, 0.08)
    u, v = _turned(x, y, turn)
    half = 0.5 * shape.max() / draws.uniform(0.9, 1.25)
    bend = draws.uniform(0, 5)
    fields = [ndimage.gaussian_filter(draws.standard_normal((n, n)), draws.uniform(10, 30)) for _ in range(2)]
    u, v = (half * w + bend * field / field.std() for w, field in zip((u + shear * v, v), fields, strict=True))
    places = np.empty((3, n, n))
    places[axis] = depth
    places[across] = shape[across] / 2 + u * draws.choice([-1, 1])
    places[down] = shape[down] / 2 - v  # the front, or the top, is up
    maps = (tissues.brain, tissues.grey, tissues.white)
    return np.stack([ndimage.map_coordinates(m, places, order=1, mode="constant") for m in maps])


def _with_scalp(image: np.ndarray, brain: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """The image with a dark skull, perhaps with marrow, and a bright scalp around the brain."""
    if not brain.any():
        return image
    n = len(image)
    around = ndimage.gaussian_filter(ndimage.binary_closing(brain, iterations=max(1, n // 40)).astype(float), n / 60)
    distance = ndimage.distance_transform_edt(around < 0.5) / n * 256
    fluid, skull, scalp = draws.uniform([0.5, 4, 4], [3, 10, 12]).cumsum()
    made = image.copy()
    outside = ~brain
    made[outside & (distance < fluid)] = draws.uniform(0.05, 0.9)
    made[outside & (distance >= fluid) & (distance < skull)] = draws.uniform(0, 0.1)
    if draws.random() < 0.5:
        width = (skull - fluid) / 4
        middle = (fluid + skull) / 2
        made[outside & (np.abs(distance - middle) < width)] = draws.uniform(0.1, 0.7)
    made[outside & (distance >= skull) & (distance < scalp)] = draws.uniform(0.3, 1.1)
    return made


def _smooth(x: np.ndarray, y: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """A smooth function of the place: a polynomial of second degree, with values of about 1."""
    a = draws.standard_normal(5)
    return (a[0] * x + a[1] * y + a[2] * x * y + a[3] * (x**2 - 0.5) + a[4] * (y**2 - 0.5)) / 1.5


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _ellipse(
    x: np.ndarray, y: np.ndarray, draws: np.random.Generator, reach: float, sizes: tuple[float, float]
) -> np.ndarray:
    """Whether places are in a random ellipse: its centre at most ``reach`` from the middle, half-axes in ``sizes``."""
    distance, towards = reach * math.sqrt(draws.random()), draws.uniform(0, 2 * math.pi)
    low, high = math.log(sizes[0]), math.log(sizes[1])
    a = math.exp(draws.uniform(low, high))
    b = a * draws.uniform(0.5, 1)
    u, v = _turned(x - distance * math.cos(towards), y - distance * math.sin(towards), draws.uniform(0, math.pi))
    return np.asarray((u / a) ** 2 + (v / b) ** 2 < 1)


def _polygon(x: np.ndarray, y: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Whether places are in a random convex polygon of three to six sides, a thin one (a rod) with four."""
    cx, cy = draws.uniform(-0.6, 0.6, 2)
    count, size, turn = int(draws.integers(3, 7)), draws.uniform(0.03, 0.2), draws.uniform(0, 2 * math.pi)
    found = np.ones(x.shape, bool)
    for k in range(count):
        angle = turn + 2 * math.pi * k / count
        far = size * (draws.uniform(0.1, 0.4) if count == 4 and k % 2 else 1)
        found &= (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle) < far
    return found


def _averaged(fine: np.ndarray) -> np.ndarray:
    """Means of ``FINER x FINER`` sub-pixels."""
    height, width = (length // FINER for length in fine.shape)
    made: np.ndarray = fine.reshape(height, FINER, width, FINER).mean((1, 3))
    return made
