"""Colorization, demosaicking and compressed sensing: operators with orthogonal rows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.tensors import LUMA
from randomwalk.operators.operator import TightRows

DENSE_LIMIT = 4096
"""Most entries of an image for which compressed sensing draws a dense matrix."""


class Colorization(TightRows):
    """``A x = 0.299 red + 0.587 green + 0.114 blue``: grey measurements ``[B, 1, H, W]`` of colour images.

    Args:
        image_shape: ``(3, H, W)``.
    """

    luma: Tensor

    def __init__(self, image_shape: Sequence[int]) -> None:
        if image_shape[0] != 3:
            raise InputError(f"colorization: the images have {image_shape[0]} channels; expected 3 (red, green, blue)")
        luma = torch.tensor(LUMA, dtype=torch.float64)
        super().__init__(image_shape, float(luma.square().sum()))
        self.register_buffer("luma", luma[:, None, None])

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (1, *self.image_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return (self.luma.to(x.dtype) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.luma.to(y.dtype) * y


class Demosaic(TightRows):
    """``A x``: red, green or blue at each pixel, measurements ``[B, 1, H, W]`` of colour images, as a sensor has them.

    Pixels with even row and column have the first colour of the pattern, those to the right of them the second, those
    below the third, and those across the last. deepinv's ``Demosaicing`` has BGGR and keeps three channels.

    Args:
        image_shape: ``(3, H, W)``.
        pattern: RGGB, BGGR, GRBG or GBRG.
    """

    axes = ("channels", "rows", "columns")
    colours: Tensor

    def __init__(self, image_shape: Sequence[int], pattern: str) -> None:
        if image_shape[0] != 3:
            raise InputError(f"demosaic: the images have {image_shape[0]} channels; expected 3 (red, green, blue)")
        super().__init__(image_shape)
        colours = torch.zeros(image_shape[0], image_shape[1], image_shape[2])
        for place, colour in enumerate(pattern):
            colours["RGB".index(colour), place // 2 :: 2, place % 2 :: 2] = 1
        self.register_buffer("colours", colours)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (1, *self.image_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return (self.colours * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.colours * y


class CompressedSensing(TightRows):
    """``A = S H D``: random signs D, an orthonormal transform H that mixes all pixels, a random selection S of rows.

    H is the Hartley transform ``Re F x - Im F x``, F the unitary Fourier transform of the image as one vector; it is
    its own inverse. The m rows are orthonormal; memory is that of an image and time that of a fast Fourier transform,
    at any image size. Source: Do, Gan, Nguyen and Tran 2012, arXiv 1106.5037.

    Args:
        image_shape: ``(C, H, W)``; d = C H W.
        signs: D, ``[B, d]`` of -1 and 1, or ``[1, d]`` for all images.
        rows: S, ``[B, m]`` indices, or ``[1, m]``.
    """

    per_image = ("signs", "rows")
    signs: Tensor
    rows: Tensor

    def __init__(self, image_shape: Sequence[int], signs: Tensor, rows: Tensor) -> None:
        super().__init__(image_shape)
        self.register_buffer("signs", signs.float())
        self.register_buffer("rows", rows)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.rows.shape[1],)

    def forward(self, x: Tensor) -> Tensor:
        batch = max(len(x), len(self.rows))
        return _hartley(self.signs * x.flatten(1)).expand(batch, -1).gather(1, self.rows.expand(batch, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        spread = y.new_zeros(len(y), self.signs.shape[1]).scatter(1, self.rows.expand(len(y), -1), y)
        return (self.signs * _hartley(spread)).reshape(-1, *self.image_shape)


class OrthonormalRows(TightRows):
    """``A x = Q x`` of the image as one vector, Q dense with orthonormal rows.

    Args:
        image_shape: ``(C, H, W)``; d = C H W.
        matrix: Q, ``[B, m, d]``, or ``[1, m, d]`` for all images.
    """

    per_image = ("matrix",)
    matrix: Tensor

    def __init__(self, image_shape: Sequence[int], matrix: Tensor) -> None:
        super().__init__(image_shape)
        self.register_buffer("matrix", matrix)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.matrix.shape[1],)

    def forward(self, x: Tensor) -> Tensor:
        return times(self.matrix, x.flatten(1))

    def adjoint(self, y: Tensor) -> Tensor:
        return times(self.matrix.mT, y).reshape(-1, *self.image_shape)


def times(matrix: Tensor, x: Tensor) -> Tensor:
    """``M x`` for every row of x, ``[B, n]``, in its type; M ``[B, m, n]``, or ``[1, m, n]`` for all rows."""
    matrix = matrix.to(x.dtype)
    return x @ matrix[0].T if len(matrix) == 1 else (matrix @ x[..., None])[..., 0]


def _hartley(x: Tensor) -> Tensor:
    """Orthonormal discrete Hartley transform of every row: symmetric, and its own inverse."""
    transformed: Tensor = torch.fft.fft(x, norm="ortho")
    return transformed.real - transformed.imag


def make_compressed_sensing(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    ratio: float,
    matrix: str,
) -> TightRows:
    """Compressed sensing with ``m = round(ratio C H W)`` orthonormal rows, at least one, drawn for each image.

    Args:
        image_shape: ``(C, H, W)``; d = C H W.
        generators: one for each image.
        ratio: measurements per entry of the image.
        matrix: "hartley" draws :class:`CompressedSensing`, at any size; "dense" rows of an orthogonal matrix that are
            uniform among all (the QR decomposition of a Gaussian matrix; Mezzadri 2007, arXiv math-ph/0609050), up to
            d = 4096, in ``8 B m d`` bytes.
    """
    size = prod(image_shape)
    count = max(1, round(ratio * size))
    if matrix == "hartley":
        signs = np.stack([2.0 * draws.integers(0, 2, size) - 1 for draws in generators])
        rows = np.stack([np.sort(draws.choice(size, count, replace=False)) for draws in generators])
        return CompressedSensing(image_shape, torch.from_numpy(signs), torch.from_numpy(rows))
    if size > DENSE_LIMIT:
        raise InputError(
            f"compressed_sensing: a dense matrix for images of {size} entries is too large; matrix: dense is for "
            f"at most {DENSE_LIMIT}; use matrix: hartley"
        )
    return OrthonormalRows(image_shape, torch.stack([_uniform_rows(count, size, draws) for draws in generators]))


def _uniform_rows(count: int, size: int, draws: np.random.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.from_numpy(draws.standard_normal((size, count))))
    return (q * r.diagonal().sign()).T.contiguous()
