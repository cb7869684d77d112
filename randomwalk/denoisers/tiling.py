"""Denoising large images in overlapping tiles, so that the network's memory is that of a tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import Wrapper

ALIGNMENT = 32
"""Tiles begin at its multiples, so that a network's coarse grids are the same on a tile as on the whole image."""

Evaluate: TypeAlias = Callable[[Tensor, float | Tensor], Tensor]
Span: TypeAlias = tuple[int, int]
"""Begin and end (exclusive) of a tile along an axis."""


@dataclass(frozen=True)
class Tiling:
    """Division of an image into tiles.

    Args:
        height, width: largest size of a tile, multiples of `ALIGNMENT`.
        overlap: smallest overlap of neighbours in pixels, a multiple of `ALIGNMENT` below both.
        at_once: images of a batch in one evaluation of the network.
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
    """The fewest tiles of at most ``tile`` pixels that cover an axis, evenly spread and no larger than they need be.

    Each shares ``overlap`` pixels or a little more with the next.
    """
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - tile) / (tile - overlap))
    tile = ALIGNMENT * math.ceil((length + count * overlap) / (count + 1) / ALIGNMENT)
    step, last = (ALIGNMENT * math.ceil((length - tile) / n / ALIGNMENT) for n in (count, 1))
    starts = [min(i * step, last) for i in range(count + 1)]
    return [(start, min(start + tile, length)) for start in starts]


def windows(of: list[Span]) -> list[Tensor]:
    """Weights of the tiles along an axis, float64: smooth, close to 0 at the ends inside the image, of sum 1.

    ``sin^2`` on the overlap with the previous tile and ``cos^2`` on that with the next, divided by the sum (which
    differs from 1 only where three tiles meet).
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


class TiledDenoiser(Wrapper):
    """Another denoiser, evaluated on overlapping tiles of the images and blended:

        D(x, sigma) = sum_t w_t D(x_t, sigma),    sum_t w_t = 1 at every pixel,

    with smooth weights w_t that are close to 0 where a tile ends inside the image, where the network lacks context. A
    product with the transposed Jacobian is the sum of those of the tiles with ``w_t v_t``; each tile is computed again
    for it, so that memory stays that of one tile.

    Args:
        denoiser: of images of any size.
        tiling: division into tiles.
        watch: called as ``watch(done, total)`` after each tile, if there are several.
    """

    def __init__(self, denoiser: Denoiser, tiling: Tiling, watch: Callable[[int, int], object] | None = None) -> None:
        super().__init__(denoiser)
        self.tiling, self.watch = tiling, watch

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._blended(self.inner, x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._blended(self.inner.score, x, sigma)

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if self._takes_whole(x):
            return self.inner.linearized(x, sigma)
        x = x.detach()

        def transposed(v: Tensor) -> Tensor:
            out = torch.zeros_like(x)
            for at, levels, weights in self._tiles(x, sigma):
                out[at] += self.inner.linearized(x[at], levels)[1](weights * v[at])
            return out

        with torch.no_grad():
            return self(x, sigma), transposed

    def _blended(self, function: Evaluate, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self._takes_whole(x):
            return function(x, sigma)
        out = torch.zeros_like(x)
        for at, levels, weights in self._tiles(x, sigma):
            out[at] += weights * function(x[at], levels)
        return out

    def _takes_whole(self, x: Tensor) -> bool:
        return self.tiling.is_whole(x.shape[-2], x.shape[-1]) and len(x) <= self.tiling.at_once

    def _tiles(self, x: Tensor, sigma: float | Tensor) -> Iterator[tuple[tuple[slice, ...], float | Tensor, Tensor]]:
        """Place in x, noise levels and weights ``[H, W]`` of each tile."""
        down = spans(x.shape[-2], self.tiling.height, self.tiling.overlap)
        across = spans(x.shape[-1], self.tiling.width, self.tiling.overlap)
        tiles = product(zip(down, windows(down), strict=True), zip(across, windows(across), strict=True))
        places = list(product(tiles, range(0, len(x), self.tiling.at_once)))
        for done, (((vertical, w_down), (horizontal, w_across)), first) in enumerate(places, 1):
            rows = slice(first, first + self.tiling.at_once)
            levels = sigma[rows] if isinstance(sigma, Tensor) and sigma.ndim else sigma
            yield (rows, slice(None), slice(*vertical), slice(*horizontal)), levels, torch.outer(w_down, w_across).to(x)
            if self.watch is not None:
                self.watch(done, len(places))
