"""Operators that act along rows and columns separately, and super-resolution, which is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randomwalk.config.operators import Downsampling
from randomwalk.errors import InputError
from randomwalk.operators.operator import RCOND, Operator


class Separable(Operator):
    """``A x = R x C^T`` in every channel: one matrix along each axis.

    The singular value decompositions of R and C give everything else. All are stored in float64 and applied in the type
    of the images.

    Args:
        image_shape: ``(C, H, W)``.
        rows: R, ``[h, H]``.
        columns: C, ``[w, W]``.
    """

    rows: Tensor
    columns: Tensor
    rows_left: Tensor  # left singular vectors, one to a column
    columns_left: Tensor
    rows_basis: Tensor  # right singular vectors, one to a row
    columns_basis: Tensor
    singular_values: Tensor  # of A, [min(h, H), min(w, W)]; all others are 0

    def __init__(self, image_shape: Sequence[int], rows: Tensor, columns: Tensor) -> None:
        super().__init__(image_shape)
        values = []
        for axis, matrix in (("rows", rows.double()), ("columns", columns.double())):
            u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
            self.register_buffer(axis, matrix)
            self.register_buffer(f"{axis}_left", u)
            self.register_buffer(f"{axis}_basis", vt)
            values.append(s)
        self.register_buffer("singular_values", torch.outer(*values))

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.image_shape[0], len(self.rows), len(self.columns))

    def forward(self, x: Tensor) -> Tensor:
        return _sandwich(self.rows, x, self.columns.T)

    def adjoint(self, y: Tensor) -> Tensor:
        return _sandwich(self.rows.T, y, self.columns)

    def pinv(self, y: Tensor) -> Tensor:
        inverse = reciprocal(self.singular_values).to(y.dtype)
        inside = inverse * _sandwich(self.rows_left.T, y, self.columns_left)
        return _sandwich(self.rows_basis.T, inside, self.columns_basis)

    def norm(self) -> float:
        return float(self.singular_values.max())

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # f(A^T A) = f(0) I + V (f(s^2) - f(0)) V^T, V the singular vectors of both axes.
        at_zero = f(self.singular_values.new_zeros(()))
        change = (f(self.singular_values**2) - at_zero).to(x.dtype)
        inside = change * _sandwich(self.rows_basis, x, self.columns_basis.T)
        return at_zero.to(x.dtype) * x + _sandwich(self.rows_basis.T, inside, self.columns_basis)


def reciprocal(singular_values: Tensor, dim: int | None = None) -> Tensor:
    """``1 / s``, and 0 where s is below ``RCOND`` times the largest (along ``dim``, or of all)."""
    largest = singular_values.max() if dim is None else singular_values.amax(dim, keepdim=True)
    return torch.where(singular_values > RCOND * largest, 1 / singular_values, 0.0)


def _sandwich(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """``left x right`` for every image and channel, in x's type."""
    return left.to(x.dtype) @ x @ right.to(x.dtype)


class SuperResolution(Separable):
    """Reduction of height and width by an integer factor, see :func:`downsampling_matrix`.

    Args:
        image_shape: ``(C, H, W)``.
        factor: divides H and W.
        downsampling: kind of the reduction.
    """

    def __init__(self, image_shape: Sequence[int], factor: int, downsampling: Downsampling = "bicubic") -> None:
        _, height, width = image_shape
        check_factor(height, width, factor)
        super().__init__(
            image_shape,
            downsampling_matrix(height, factor, downsampling),
            downsampling_matrix(width, factor, downsampling),
        )
        self.factor, self.downsampling = factor, downsampling

    def interpolated(self, y: Tensor) -> Tensor:
        return enlarged(y, self.factor, self.downsampling)


def check_factor(height: int, width: int, factor: int) -> None:
    """Raise InputError unless the factor divides both sizes."""
    if height % factor or width % factor:
        raise InputError(
            f"super_resolution: factor {factor} does not divide the image size {height}x{width}; "
            "choose a factor that does, or crop the images"
        )


def enlarged(y: Tensor, factor: int, downsampling: Downsampling) -> Tensor:
    """Cubic interpolation ``[B, C, factor h, factor w]`` of small images ``[B, C, h, w]``, each pixel in its place.

    For bicubic and box this is Pillow's ``resize`` with ``BICUBIC``.
    """
    rows, columns = (_interpolation_matrix(size, factor, downsampling).to(y) for size in y.shape[-2:])
    return _sandwich(rows, y, columns.T)


def _interpolation_matrix(count: int, factor: int, downsampling: Downsampling) -> Tensor:
    """Cubic interpolation along one axis, ``[factor count, count]`` float64; every row sums to 1."""
    place = {"nearest": float(factor // 2), "strided": 0.0}.get(downsampling, (factor - 1) / 2)
    distance = (torch.arange(factor * count, dtype=torch.float64)[:, None] - place) / factor - torch.arange(count)
    weight = _cubic(distance.abs())
    return weight / weight.sum(1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic kernel of Keys 1981, "Cubic convolution interpolation", a = -1/2."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return near * (distance <= 1) + far * ((distance > 1) & (distance <= 2))


def downsampling_matrix(size: int, factor: int, downsampling: Downsampling = "bicubic") -> Tensor:
    """Reduction by an integer factor along one axis, ``[size / factor, size]`` float64; every row sums to 1.

    Output j stands for the ``factor`` inputs around ``c = (j + 1/2) factor - 1/2``, so that nothing moves, except with
    strided:

    ========================  =========================================================================================
    bicubic                   cubic kernel around c, stretched by the factor; weights beyond the border are left out and
                              the others scaled to sum 1, as by Pillow's ``resize`` with ``BICUBIC``
    bicubic_mirrored          the same, the image mirrored with the edge pixel repeated, as by MATLAB's ``imresize``
    box                       mean of the ``factor`` inputs, as by Pillow's ``BOX`` or OpenCV's ``INTER_AREA``
    nearest                   input ``j factor + factor // 2``, as by Pillow's ``NEAREST``
    strided                   input ``j factor``, as ``x[::factor]`` and the nearest pixels of OpenCV and PyTorch
    ========================  =========================================================================================
    """
    count = size // factor
    first = torch.arange(count)[:, None] * factor
    if downsampling == "nearest":
        taps, weight = first + factor // 2, torch.ones(count, 1, dtype=torch.float64)
    elif downsampling == "strided":
        taps, weight = first, torch.ones(count, 1, dtype=torch.float64)
    elif downsampling == "box":
        taps = first + torch.arange(factor)
        weight = torch.ones(taps.shape, dtype=torch.float64)
    else:
        centre = first + (factor - 1) / 2
        taps = centre.floor().long() + torch.arange(-2 * factor, 2 * factor + 2)
        weight = _cubic(((taps - centre.double()) / factor).abs())
        if downsampling == "bicubic":
            weight = weight * ((taps >= 0) & (taps < size))
    inside = taps % (2 * size)
    inside = torch.where(inside < size, inside, 2 * size - 1 - inside)
    matrix = torch.zeros(count, size, dtype=torch.float64).scatter_add_(1, inside, weight)
    return matrix / matrix.sum(1, keepdim=True)
