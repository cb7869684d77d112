"""Super-resolution: smaller images by a filter, by a choice of pixels, or by a blur and a choice of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randomwalk.config.operators import Downsampling
from randomwalk.errors import InputError
from randomwalk.operators import kernels
from randomwalk.operators.blur import Blur
from randomwalk.operators.operator import RCOND, Operator
from randomwalk.operators.separable import Separable, SuperResolution, check_factor, enlarged


class BlurredDecimation(Operator):
    """``(A x)[i, j] = sum_ab k[a, b] x[f i - a + h, f j - b + w]``: blur, then every f-th pixel, the first included.

    ``(h, w)`` is the middle of the kernel, which is what a point of light becomes (convolution), and the image goes on
    at its opposite border. In Fourier space, ``A A^T`` of the small image is diagonal,

        t(omega) = mean over the f^2 aliases omega' of omega of |k^(omega')|^2

    which gives the pseudo-inverse, the norm and ``f(A^T A) = f(0) I + A^T g(A A^T) A``, ``g(t) = (f(t) - f(0)) / t``.
    Source: Zhao et al. 2016, "Fast Single Image Super-Resolution Using a New Analytical Solution".

    Args:
        image_shape: ``(C, H, W)``.
        factor: f, divides H and W.
        kernel: ``[k, l]``.
    """

    def __init__(self, image_shape: Sequence[int], factor: int, kernel: Tensor) -> None:
        super().__init__(image_shape)
        check_factor(*self.image_shape[1:], factor)
        self.factor, self.blur = factor, Blur(image_shape, kernel, "circular")

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (channels, height // self.factor, width // self.factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(x)[..., :: self.factor, :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        spread = y.new_zeros((*y.shape[:-2], *self.image_shape[1:]))
        spread[..., :: self.factor, :: self.factor] = y
        return self.blur.adjoint(spread)

    def pinv(self, y: Tensor) -> Tensor:
        t = self._eigenvalues(y)
        return self.adjoint(_filter(y, torch.where(t > RCOND**2 * t.max(), 1 / t, 0.0)))

    def interpolated(self, y: Tensor) -> Tensor:
        return enlarged(y, self.factor, "strided")

    def norm(self) -> float:
        return float(self._eigenvalues(self.blur.kernel).max().sqrt())

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        t = self._eigenvalues(self.blur.kernel)
        at_zero = f(t.new_zeros(()))
        change = torch.where(t > RCOND**2 * t.max(), (f(t) - at_zero) / t, 0.0)
        return at_zero.to(x.dtype) * x + self.adjoint(_filter(self(x), change.to(x.dtype)))

    def _eigenvalues(self, like: Tensor) -> Tensor:
        """Eigenvalues t of ``A A^T``, half of them, in the precision of ``like``."""
        _, height, width = self.measurement_shape
        kernel = (self.blur.rows.T @ self.blur.kernel @ self.blur.columns).to(like.dtype)  # on the grid of the image
        squared = torch.fft.fft2(kernel).abs() ** 2
        aliases = squared.reshape(self.factor, height, self.factor, width)
        return aliases.mean((0, 2))[:, : width // 2 + 1]


class SeparableDecimation(Separable):
    """Blur along rows and columns, then every ``factor``-th pixel, the first one included.

    Args:
        image_shape: ``(C, H, W)``.
        rows, columns: matrices ``[H / factor, H]`` and ``[W / factor, W]``, see :class:`Separable`.
    """

    def interpolated(self, y: Tensor) -> Tensor:
        return enlarged(y, self.image_shape[1] // len(self.rows), "strided")


def _filter(x: Tensor, transfer: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


def downsample_with_kernel(
    image_shape: Sequence[int], factor: int, kernel: Tensor
) -> BlurredDecimation | SeparableDecimation:
    """Blur with a kernel, then every ``factor``-th pixel, the first one included.

    Kernels that are the product of a row and a column, such as a Gaussian, see only what is inside the border (their
    weights there are scaled to the same sum); for others the image goes on at its opposite border.

    Args:
        image_shape: ``(C, H, W)``.
        factor: divides H and W.
        kernel: ``[k, l]``, what a point of light becomes, used as it is.
    """
    _, height, width = image_shape
    check_factor(height, width, factor)
    u, s, vt = torch.linalg.svd(kernel.double())
    rows, columns = _decimation_matrix(height, factor, u[:, 0]), _decimation_matrix(width, factor, vt[0])
    if (len(s) > 1 and s[1] > 1e-12 * s[0]) or rows is None or columns is None:
        return BlurredDecimation(image_shape, factor, kernel)
    return SeparableDecimation(image_shape, rows * s[0], columns)


def _decimation_matrix(size: int, factor: int, kernel: Tensor) -> Tensor | None:
    """Convolution with a kernel ``[k]`` along one axis at every ``factor``-th pixel, ``[size / factor, size]``.

    None if at some place hardly anything of the kernel lies inside.
    """
    taps = torch.arange(len(kernel))
    place = torch.arange(0, size, factor)[:, None] - taps + len(kernel) // 2
    weight = kernel.expand(place.shape) * ((place >= 0) & (place < size))
    matrix = kernel.new_zeros(len(place), size).scatter_add_(1, place.clamp(0, size - 1), weight)
    inside = matrix.sum(1, keepdim=True) / kernel.sum()
    return matrix / inside if (inside > 0.1).all() else None


def make_super_resolution(
    image_shape: Sequence[int], factor: int, downsampling: Downsampling, file: str | None
) -> Operator:
    """Super-resolution, see :class:`randomwalk.config.operators.SuperResolutionSettings`."""
    if file is None:
        return SuperResolution(image_shape, factor, downsampling)
    found = kernels.read(file)
    total = float(found.kernel.sum())
    if not total > 0:
        raise InputError(f"super_resolution: the kernel {file} sums to {total:g}; expected a positive sum")
    operator = downsample_with_kernel(image_shape, factor, found.kernel / total)
    operator.notes = tuple(found.notes)
    return operator
