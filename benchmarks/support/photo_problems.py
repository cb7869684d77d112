"""Degradations of photographs, which photo_restoration.yaml lists: operators, masks of text and boxes, measurements."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from randomwalk import operators
from randomwalk.errors import InputError
from randomwalk.operators import Inpainting, Operator
from randomwalk.operators.noise import GaussianNoise
from support.photographs import Photograph

MULTIPLE = 4
"""Sides of the photographs are multiples of it, so that the factors of super-resolution divide them."""
MEASUREMENT, SAMPLER = 0, 1
"""Random streams of a photograph, after the seed: what is measured of it, and what samplers draw."""
TEXT = "All human beings are born free and equal in dignity and rights."
"""Text of the text mask (Universal Declaration of Human Rights, article 1)."""


@dataclass(frozen=True)
class Case:
    """A degradation at a noise level.

    Attributes:
        degradation: its name in the YAML file.
        title: in tables.
        operator: name and settings, as in a config; the masks ``text`` and ``boxes`` are those of this file.
        noise: standard deviation, of 255.
        by: what the settings of methods are chosen by, "psnr" or "lpips".
    """

    degradation: str
    title: str
    operator: Mapping[str, Any]
    noise: float
    by: str = "psnr"

    @property
    def name(self) -> str:
        """Name in records, settings and results."""
        return f"{self.degradation}, noise {self.noise:g}{', for the eye' if self.for_the_eye else ''}"

    @property
    def heading(self) -> str:
        """Name in headings of tables."""
        return f"{self.title}, noise {self.noise:g} of 255{', for the eye' if self.for_the_eye else ''}"

    @property
    def for_the_eye(self) -> bool:
        """True if LPIPS counts, rather than PSNR."""
        return self.by == "lpips"

    @property
    def law(self) -> dict[str, Any]:
        """Everything that decides the measurement besides the photograph and the seed."""
        return {"operator": dict(self.operator), "noise": self.noise}


@dataclass(frozen=True)
class Problem:
    """A measurement ``y [1, ...]`` of a photograph, and the true ``[1, 3, H, W]``, which methods must not look at."""

    operator: Operator
    noise: GaussianNoise
    y: Tensor
    truth: Tensor

    def to(self, device: torch.device | str) -> Problem:
        """The same on a device; a copy, since a module that moves is not left where it was."""
        operator = copy.deepcopy(self.operator).to(device)
        return replace(self, operator=operator, y=self.y.to(device), truth=self.truth.to(device))


def make_problem(case: Case, photo: Photograph, seed: int) -> Problem:
    """Degrade a photograph: its mask or kernel and the noise are the same whatever else is measured."""
    draws = photo.draws(seed, MEASUREMENT)
    operator = make_operator(case.operator, photo.pixels.shape, draws.generators[0])
    noise = GaussianNoise(case.noise * 2 / 255)
    truth = photo.pixels[None]
    with torch.no_grad():
        return Problem(operator, noise, noise.apply(operator(truth), draws), truth)


def make_operator(settings: Mapping[str, Any], shape: Sequence[int], draws: np.random.Generator) -> Operator:
    """The operator of a degradation for an image ``[C, H, W]``.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    _, height, width = shape
    rest = {key: value for key, value in settings.items() if key not in ("name", "mask")}
    if settings["name"] == "inpainting" and settings.get("mask") in MASKS:
        try:
            return Inpainting(shape, MASKS[settings["mask"]](height, width, draws, **rest))
        except TypeError as error:
            raise InputError(f"inpainting, mask {settings['mask']}: {error}") from error
    return operators.make(image_shape=shape, generators=[draws], **settings)


def text_mask(height: int, width: int, draws: np.random.Generator, size: int) -> Tensor:
    """Mask ``[H, W]`` with lines of text, 0 on the letters: Pillow's own font, so that it is the same everywhere.

    Args:
        draws: where the text begins.
        size: of the font, in pixels.
    """
    font = ImageFont.load_default(size)
    sheet = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(sheet)
    for top in range(-int(draws.integers(size)), height, round(1.5 * size)):
        start = int(draws.integers(len(TEXT)))
        line = f"{TEXT[start:]} {TEXT} " * (1 + width // (len(TEXT) * size // 4))
        pen.text((0, top), line, font=font, fill=255)
    return torch.from_numpy((np.asarray(sheet) < 128).astype(np.float32))


def boxes_mask(height: int, width: int, draws: np.random.Generator, count: int, size: int) -> Tensor:
    """Mask ``[H, W]`` with ``count`` squares of zeros, anywhere; they may overlap.

    Args:
        size: side of a square, in pixels.
    """
    if not 1 <= size < min(height, width) or count < 1:
        raise InputError(f"inpainting: {count} boxes of {size} pixels do not fit {height}x{width}")
    mask = torch.ones(height, width)
    for _ in range(count):
        top, left = (int(draws.integers(side - size + 1)) for side in (height, width))
        mask[top : top + size, left : left + size] = 0
    return mask


MASKS: dict[str, Callable[..., Tensor]] = {"text": text_mask, "boxes": boxes_mask}
"""Masks that the library does not have, by their names in photo_restoration.yaml."""
