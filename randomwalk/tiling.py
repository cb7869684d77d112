"""Denoising large images in overlapping tiles, so that the network's memory is that of a tile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from randomwalk.denoisers import Denoiser

ALIGNMENT = 32
"""Tiles begin at multiples of it, so that a network's coarse grids lie on a tile as they would on the whole image."""

Evaluate: TypeAlias = Callable[[Tensor, float | Tensor], Tensor]
Span: TypeAlias = tuple[int, int]
"""Where a tile begins along an axis, and where it ends (exclusive)."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut up.

    Args:
        height, width: most rows and columns of a tile, multiples of `ALIGNMENT`.
        overlap: least number of pixels that neighbours share, a multiple of `ALIGNMENT` below both.
        at_once: how many images of a batch go through the network together.
    """

    height: int
    width: int
    overlap: int
    at_once: int = 1

    def __post_init__(self) -> None:
        for value in (self.height, self.width, self.overlap):
            if value <= 0 or value % ALIGNMENT:
                raise ValueError(f"{self}: expected multiples of {ALIGNMENT}")
        if self.overlap >= min(self.height, self.width) or self.at_once < 1:
            raise ValueError(f"{self}: expected an overlap below the sides of a tile, and at least one image at once")

    def is_whole(self, height: int, width: int) -> bool:
        """Whether one tile covers an image of that size."""
        return height <= self.height and width <= self.width


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """The fewest tiles that cover an axis, spread evenly; each shares ``overlap`` pixels or more with the next."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - tile) / (tile - overlap))
    step, last = (ALIGNMENT * math.ceil((length - tile) / n / ALIGNMENT) for n in (count, 1))
    starts = [min(i * step, last) for i in range(count + 1)]
    return [(start, min(start + tile, length)) for start in starts]


def windows(of: list[Span]) -> list[Tensor]:
    """Weights of the tiles along an axis, float64: smooth, close to 0 at the ends that lie in the image, of sum 1.

    ``sin^2`` over what a tile shares with the one before it, ``cos^2`` over what it shares with the next, then divided
    by the sum (which is 1 already, unless three tiles meet).
    """
    found = []
    for i, (start, stop) in enumerate(of):
        weight = torch.ones(stop - start, dtype=torch.float64)
        if i > 0:
            weight[: of[i - 1][1] - start] *= _rise(of[i - 1][1] - start)
        if i < len(of) - 1:
            weight[of[i + 1][0] - stop :] *= _rise(stop - of[i + 1][0]).flip(0)
        found.append(weight)
    total = torch.zeros(of[-1][1], dtype=torch.float64)
    for (start, stop), weight in zip(of, found, strict=True):
        total[start:stop] += weight
    return [weight / total[start:stop] for (start, stop), weight in zip(of, found, strict=True)]


def _rise(length: int) -> Tensor:
    return torch.sin((torch.arange(length, dtype=torch.float64) + 0.5) * (math.pi / 2 / length)) ** 2


class TiledDenoiser(Denoiser):
    """Another denoiser, evaluated on overlapping tiles of the images and blended:

        D(x, sigma) = sum_t w_t D(x_t, sigma),    sum_t w_t = 1 at every pixel,

    with smooth weights w_t that are close to 0 where a tile ends inside the image, since there the network lacks what
    it would see beyond. Where gradients are asked for, a tile is computed again for its backward pass and nothing of it
    is kept until then (Chen et al. 2016, arXiv 1604.06174), so that memory stays that of one tile.

    Args:
        denoiser: of images of any size.
        tiling: how to cut.
        watch: called as ``watch(done, total)`` after each tile, where there are several.
    """

    def __init__(self, denoiser: Denoiser, tiling: Tiling, watch: Callable[[int, int], object] | None = None) -> None:
        super().__init__()
        self.inner, self.tiling, self.watch = denoiser, tiling, watch
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.channels, self.image_size, self.any_size = denoiser.channels, denoiser.image_size, denoiser.any_size
        self.cost = denoiser.cost

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._blended(self.inner, x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._blended(self.inner.score, x, sigma)

    def _blended(self, function: Evaluate, x: Tensor, sigma: float | Tensor) -> Tensor:
        height, width = x.shape[-2:]
        at_once = self.tiling.at_once
        if self.tiling.is_whole(height, width) and len(x) <= at_once:
            return function(x, sigma)
        down = spans(height, self.tiling.height, self.tiling.overlap)
        across = spans(width, self.tiling.width, self.tiling.overlap)
        tiles = product(zip(down, windows(down), strict=True), zip(across, windows(across), strict=True))
        places = list(product(tiles, range(0, len(x), at_once)))
        out = torch.zeros_like(x)
        for done, ((((top, bottom), w_down), ((left, right), w_across)), first) in enumerate(places, 1):
            rows = slice(first, first + at_once)
            levels = sigma[rows] if isinstance(sigma, Tensor) and sigma.ndim else sigma
            tile = x[rows, :, top:bottom, left:right]
            if torch.is_grad_enabled() and x.requires_grad:
                part = checkpoint(function, tile, levels, use_reentrant=False, preserve_rng_state=False)
            else:
                part = function(tile, levels)
            out[rows, :, top:bottom, left:right] += torch.outer(w_down, w_across).to(x) * part
            if self.watch is not None:
                self.watch(done, len(places))
        return out
