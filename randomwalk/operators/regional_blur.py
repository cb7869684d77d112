"""Blur that changes over the image: a kernel for each region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from randomwalk.config.operators import Boundary, RegionalBlurSettings
from randomwalk.errors import InputError
from randomwalk.operators import kernels
from randomwalk.operators.blur import Blur, continued
from randomwalk.operators.operator import Operator


class RegionalBlur(Operator):
    """``A x = sum_k h_k * (w_k x)``: each point of light becomes the mean of the kernels ``h_k``, weighted by ``w_k``.

    The weights are a partition of unity, ``sum_k w_k = 1``. Borders are those of :class:`Blur`. The blur has no
    spectral decomposition; its pseudo-inverse and proximal map are by conjugate gradients. As deepinv's
    ``SpaceVaryingBlur``, whose masks come first.

    Source: Nagy and O'Leary 1998, doi 10.1137/S106482759528507X; Denis et al. 2015, doi 10.1007/s11263-015-0817-x.

    Args:
        image_shape: ``(C, H, W)``.
        kernels: ``[K, k, l]``.
        weights: ``[K, H, W]``.
        boundary: see :class:`Blur`.

    Raises:
        InputError: kernels and weights do not belong together, or an image is smaller than an unknown boundary needs.
    """

    weights: Tensor

    def __init__(self, image_shape: Sequence[int], kernels: Tensor, weights: Tensor, boundary: Boundary) -> None:
        super().__init__(image_shape)
        if kernels.ndim != 3 or weights.shape != (len(kernels), *self.image_shape[1:]):
            raise InputError(
                f"regional_blur: kernels of shape {tuple(kernels.shape)} and weights of shape {tuple(weights.shape)}; "
                f"expected [K, k, l] and [K, H, W] with H, W = {self.image_shape[1:]}"
            )
        self.register_buffer("weights", weights.double())
        self.blurs = nn.ModuleList(Blur(image_shape, kernel, boundary) for kernel in kernels)
        self.margins = self.blurs[0].margins  # type: ignore[assignment]

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.shown_shape

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.blurs, self.weights.to(x.dtype), strict=True)
        return torch.stack([blur(weight * x) for blur, weight in parts]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.blurs, self.weights.to(y.dtype), strict=True)
        return torch.stack([weight * blur.adjoint(y) for blur, weight in parts]).sum(0)  # type: ignore[operator]

    def interpolated(self, y: Tensor) -> Tensor:
        return continued(y, self.margins)


def weights_of(rows: int, columns: int, height: int, width: int) -> Tensor:
    """Weights ``[rows columns, H, W]`` of a grid of regions, row by row: 1 at the middle of each, and linear between.

    Beyond the outer middles they stay as they are there.
    """
    down, across = _hats(rows, height), _hats(columns, width)
    return torch.einsum("ah,bw->abhw", down, across).flatten(0, 1)


def _hats(parts: int, size: int) -> Tensor:
    """Weights ``[parts, size]`` along one axis, float64."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * parts / size - 0.5  # the middles are at 0, 1, ...
    distance = (place.clamp(0, parts - 1) - torch.arange(parts)[:, None]).abs()
    return (1 - distance).clamp_min(0)


def read_kernels(files: Sequence[str], flip: bool, center: bool | None, normalize: bool) -> tuple[Tensor, list[str]]:
    """Kernels ``[K, k, l]`` with zeros around the smaller ones, and notes on their files.

    Raises:
        InputError: a file cannot be read, or its kernel cannot be scaled to sum 1.
    """
    read = [kernels.read(file, flip=flip, center=center) for file in files]
    made, notes = [], [note for found in read for note in found.notes]
    height, width = (max(found.kernel.shape[axis] for found in read) for axis in (0, 1))
    for file, found in zip(files, read, strict=True):
        kernel = found.kernel
        if normalize and not kernel.sum() > 0:
            raise InputError(
                f"regional_blur: the kernel {file} sums to {float(kernel.sum()):g}; use normalize: false, or another "
                "kernel"
            )
        rows, columns = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
        made.append(pad(kernel / kernel.sum() if normalize else kernel, (columns, columns, rows, rows)))
    return torch.stack(made), notes


def size_of_kernels(settings: RegionalBlurSettings) -> tuple[int, int]:
    """Number of rows and columns of the largest kernels."""
    found, _ = read_kernels(settings.files, settings.flip, settings.center, False)
    return found.shape[1], found.shape[2]


def make_regional_blur(
    image_shape: Sequence[int],
    files: Sequence[str],
    regions: Sequence[int],
    flip: bool,
    center: bool | None,
    normalize: bool,
    boundary: Boundary,
) -> RegionalBlur:
    """Blur with a kernel for each region, see :class:`randomwalk.config.operators.RegionalBlurSettings`."""
    found, notes = read_kernels(files, flip, center, normalize)
    _, height, width = image_shape
    blur = RegionalBlur(image_shape, found, weights_of(regions[0], regions[1], height, width), boundary)
    blur.notes = tuple(notes)
    return blur
