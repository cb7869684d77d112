"""Blur with a kernel: Gaussian, or from a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import one_hot, pad

from randomwalk.errors import InputError
from randomwalk.operators.dense import Dense
from randomwalk.operators.operator import RCOND, Operator
from randomwalk.operators.separable import Separable

Boundary = Literal["reflect", "replicate", "zero", "circular"]


def extension(size: int, before: int, after: int, boundary: str) -> Tensor:
    """Matrix ``[before + size + after, size]`` that continues a row of pixels at both ends, float64.

    reflect mirrors it about the edge pixel, which is not repeated; replicate repeats the edge pixel; zero continues
    with zeros (mid-grey); circular with the other end. Any number of pixels can be added.
    """
    if boundary not in get_args(Boundary):
        raise InputError(f"blur: boundary={boundary!r}; expected one of {', '.join(get_args(Boundary))}")
    place = torch.arange(-before, size + after)
    if boundary == "reflect":
        period = max(2 * size - 2, 1)
        source = size - 1 - (place % period - (size - 1)).abs()
    elif boundary == "circular":
        source = place % size
    else:
        source = place.clamp(0, size - 1)
    matrix = one_hot(source, size).double()
    return matrix * ((place >= 0) & (place < size))[:, None] if boundary == "zero" else matrix


class Blur(Operator):
    """``(A x)[i, j] = sum_ab k[a, b] x[i + a - h, j + b - w]`` in every channel, the same size out.

    ``(h, w)`` is the middle of the kernel, which is not flipped (correlation). Beyond the border the image goes on as
    ``boundary`` says. A circular blur is diagonal in Fourier space, so it has a spectral decomposition and a
    pseudo-inverse in closed form; for the others the solves are by conjugate gradients. Kernels that are the product
    of a row and a column have both at any boundary, see :func:`make_blur`; so has any blur of small images through
    :meth:`Dense.of`.

    Args:
        image_shape: ``(C, H, W)``.
        kernel: ``[k, l]``, or ``[B, 1, k, l]`` with one for each image of the batches that it is used on.
        boundary: reflect, replicate, zero or circular, see :func:`extension`.
    """

    per_image = ("kernel",)
    kernel: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, image_shape: Sequence[int], kernel: Tensor, boundary: Boundary = "reflect") -> None:
        super().__init__(image_shape)
        kernel = kernel.double()
        kernel = kernel[None, None] if kernel.ndim == 2 else kernel
        if kernel.ndim != 4 or kernel.shape[1] != 1 or kernel.numel() == 0:
            raise InputError(f"blur: the kernel has shape {tuple(kernel.shape)}; expected [k, l] or [B, 1, k, l]")
        self.circular = boundary == "circular"
        self.register_buffer("kernel", kernel)
        for name, size, taps in zip(("rows", "columns"), self.image_shape[1:], kernel.shape[2:], strict=True):
            if self.circular:  # brings the middle of the kernel to the first pixel, and wraps what is too large
                matrix = one_hot((torch.arange(taps) - taps // 2) % size, size).double()
            else:
                matrix = extension(size, taps // 2, taps - 1 - taps // 2, boundary)
            self.register_buffer(name, matrix)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        _, height, width = self.image_shape
        if not self.circular:
            x = self.rows.to(x.dtype) @ x @ self.columns.T.to(x.dtype)
        return self._filter(x, self._transfer(x).conj())[..., :height, :width]

    def adjoint(self, y: Tensor) -> Tensor:
        if self.circular:
            return self._filter(y, self._transfer(y))
        _, height, width = self.image_shape
        padded = pad(y, (0, len(self.columns) - width, 0, len(self.rows) - height))
        x = self._filter(padded, self._transfer(y))
        return self.rows.T.to(x.dtype) @ x @ self.columns.to(x.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        if not self.circular:
            return super().pinv(y)
        transfer = self._transfer(y)
        squared = transfer.abs() ** 2
        largest = squared.amax((-2, -1), keepdim=True)
        return self._filter(y, torch.where(squared > RCOND**2 * largest, transfer / squared, 0.0))

    def norm(self) -> float:
        if self.circular:
            return float(self._transfer(self.kernel).abs().max())
        one = copy.copy(self)  # all channels are alike
        one.image_shape = (1, *self.image_shape[1:])
        return Operator.norm(one)

    @property
    def has_spectral(self) -> bool:
        return self.circular

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.circular:
            raise InputError(
                "this blur has no spectral decomposition: take boundary circular, for small images dense: true "
                "(Dense.of), or a sampler setting that does without"
            )
        return self._filter(x, f(self._transfer(self.kernel).abs() ** 2).to(x.dtype))

    def _transfer(self, like: Tensor) -> Tensor:
        """Fourier transform of the kernel on the grid that images are filtered on, in the precision of ``like``."""
        if self.circular:
            return torch.fft.rfft2((self.rows.T @ self.kernel @ self.columns).to(like.dtype))
        return torch.fft.rfft2(self.kernel.to(like.dtype), s=(len(self.rows), len(self.columns)))

    @staticmethod
    def _filter(x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


class SeparableBlur(Separable):
    """:class:`Blur` with the kernel ``rows[a] columns[b]``: one matrix along each axis, at any boundary.

    Args:
        image_shape: ``(C, H, W)``.
        rows, columns: ``[k]`` and ``[l]``.
        boundary: see :func:`extension`.
    """

    def __init__(
        self, image_shape: Sequence[int], rows: Tensor, columns: Tensor, boundary: Boundary = "reflect"
    ) -> None:
        _, height, width = image_shape
        super().__init__(image_shape, blur_matrix(height, rows, boundary), blur_matrix(width, columns, boundary))


class GaussianBlur(SeparableBlur):
    """Blur with a Gaussian, ``exp(-a^2 / (2 std^2))`` at the pixels, scaled to sum 1.

    It is cut off at 4 standard deviations, or earlier by ``kernel_size``.

    Args:
        image_shape: ``(C, H, W)``.
        std: in pixels.
        kernel_size: odd; None does not cut off before 4 standard deviations.
        boundary: see :func:`extension`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        std: float = 3.0,
        kernel_size: int | None = None,
        boundary: Boundary = "reflect",
    ) -> None:
        kernel = gaussian_kernel(std, kernel_size)
        super().__init__(image_shape, kernel, kernel, boundary)


def gaussian_kernel(std: float, kernel_size: int | None = None) -> Tensor:
    """Sampled Gaussian along one axis, float64, of sum 1; see :class:`GaussianBlur`."""
    if not 0 < std < float("inf"):
        raise InputError(f"gaussian_blur: std={std}; expected a positive number of pixels")
    radius = int(4 * std + 0.5)
    if kernel_size is not None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"gaussian_blur: kernel_size={kernel_size}; expected an odd number of pixels")
        radius = min(radius, kernel_size // 2)
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weight = torch.exp(-(place**2) / (2 * std**2))
    return weight / weight.sum()


def blur_matrix(size: int, kernel: Tensor, boundary: str) -> Tensor:
    """Matrix ``[size, size]`` of the correlation with ``kernel`` ``[k]`` along one axis, float64."""
    taps = len(kernel)
    extended = extension(size, taps // 2, taps - 1 - taps // 2, boundary)
    windows = extended.unfold(0, size, 1)  # [k, source, output]
    return torch.einsum("a,asj->js", kernel.double(), windows)


def taper(y: Tensor, blur: Operator) -> Tensor:
    """Fade the borders of a blurred photograph into its circular blur, ``w y + (1 - w) A y``, as MATLAB's edgetaper.

    A photograph does not continue at its opposite border, as a circular blur assumes. The weight w is 1 in the interior
    and falls to 0 at the border: one minus the autocorrelation of the kernel's profile, along each axis.

    Args:
        y: measurement ``[1, C, H, W]``.
        blur: circular blur A with one kernel.
    """
    point = torch.zeros_like(y)
    point[..., 0, 0] = 1
    spread, weight = blur(point)[0, 0], torch.ones_like(y[0, 0])
    for axis in (0, 1):
        profile = spread.sum(1 - axis)
        size = len(profile)
        correlation = torch.fft.irfft(torch.fft.rfft(profile).abs().square(), n=size)
        place = torch.arange(size, device=y.device)
        fall = 1 - (correlation / correlation.max())[torch.minimum(place, size - 1 - place)]
        weight = weight * (fall[:, None] if axis == 0 else fall)
    return weight * y + (1 - weight) * blur(y)


def read_kernel(file: str | Path) -> Tensor:
    """Kernel ``[k, l]`` from a NumPy file (.npy) or the grey values of an image, float64."""
    try:
        if Path(file).suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        else:
            with Image.open(file) as image:
                values = np.asarray(image.convert("L") if image.mode not in ("F", "I", "I;16") else image)
        kernel = torch.from_numpy(np.array(values, dtype=np.float64))
    except (OSError, UnidentifiedImageError, ValueError, TypeError) as error:
        raise InputError(f"blur: the kernel {file} cannot be read as an image or a NumPy file: {error}") from error
    if kernel.ndim != 2 or kernel.numel() == 0 or not kernel.isfinite().all():
        raise InputError(
            f"blur: the kernel {file} has shape {tuple(kernel.shape)}; expected rows and columns of numbers"
        )
    return kernel


def make_blur(
    image_shape: Sequence[int],
    file: str | Path | None = None,
    kernel: Tensor | None = None,
    normalize: bool = True,
    boundary: Boundary = "reflect",
    dense: bool = False,
) -> Blur | SeparableBlur | Dense:
    """Blur with the kernel of a file; a :class:`SeparableBlur` if the kernel is the product of a row and a column.

    Args:
        image_shape: ``(C, H, W)``.
        file: an image (its grey values), or a two-dimensional .npy file.
        kernel: ``[k, l]``, instead of a file.
        normalize: scale the kernel to sum 1.
        boundary: see :func:`extension`.
        dense: as a matrix, for small images, see :class:`Dense`; not needed where there is another closed form.
    """
    if file is not None and kernel is None:
        kernel = read_kernel(file)
    elif kernel is None or file is not None:
        raise InputError("blur: needs the setting file, the path of the kernel, or a kernel")
    kernel = kernel.double()
    if kernel.ndim != 2:
        raise InputError(f"blur: the kernel has shape {tuple(kernel.shape)}; expected [k, l]")
    if normalize:
        if not kernel.sum() > 0:
            raise InputError(f"blur: the kernel sums to {float(kernel.sum()):g}; take normalize: false, or another one")
        kernel = kernel / kernel.sum()
    u, s, vt = torch.linalg.svd(kernel)
    if len(s) == 1 or s[1] <= 1e-12 * s[0]:
        return SeparableBlur(image_shape, u[:, 0] * s[0], vt[0], boundary)
    blur = Blur(image_shape, kernel, boundary)
    return Dense.of(blur) if dense else blur
