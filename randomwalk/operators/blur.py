"""Blur with a kernel: Gaussian, from a file, or the path of a shaking camera."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot, pad

from randomwalk.config.operators import Boundary
from randomwalk.errors import InputError
from randomwalk.images.arrays import read_array
from randomwalk.images.pictures import BROKEN
from randomwalk.operators.dense import Dense
from randomwalk.operators.operator import RCOND, Operator
from randomwalk.operators.separable import Separable

_POINTS = 500  # of the path of a motion kernel


def extension(size: int, before: int, after: int, boundary: Boundary) -> Tensor:
    """Matrix ``[before + size + after, size]`` that extends a row of pixels at both ends, float64.

    reflect mirrors it about the edge pixel, which is not repeated; replicate repeats the edge pixel; zero adds zeros
    (mid-grey); circular adds the pixels of the other end. Any number of pixels can be added.
    """
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

    ``(h, w)`` is the middle of the kernel, which is not flipped (correlation). ``boundary`` extends the image beyond
    its border. A circular blur is diagonal in Fourier space and has a spectral decomposition and a pseudo-inverse in
    closed form; the others solve by conjugate gradients. Kernels that are the product of a row and a column have both
    at any boundary (:func:`blur_with_kernel`), and so has any blur of small images (:meth:`Dense.of`).

    Args:
        image_shape: ``(C, H, W)``.
        kernel: ``[k, l]``, or ``[B, 1, k, l]`` with one for each image of the batch.
        boundary: reflect, replicate, zero or circular, see :func:`extension`.
    """

    per_image = ("kernel",)
    kernel: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, image_shape: Sequence[int], kernel: Tensor, boundary: Boundary) -> None:
        super().__init__(image_shape)
        kernel = kernel.double()
        kernel = kernel[None, None] if kernel.ndim == 2 else kernel
        if kernel.ndim != 4 or kernel.shape[1] != 1 or kernel.numel() == 0:
            raise InputError(f"blur: the kernel has shape {tuple(kernel.shape)}; expected [k, l] or [B, 1, k, l]")
        self.circular = boundary == "circular"
        self.register_buffer("kernel", kernel)
        for name, size, taps in zip(("rows", "columns"), self.image_shape[1:], kernel.shape[2:], strict=True):
            if self.circular:  # moves the middle of the kernel to the first pixel, and wraps a kernel that is too large
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
                "this blur has no spectral decomposition: use boundary: circular, dense: true (for small images), or a "
                "sampler setting that does not need one"
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

    def __init__(self, image_shape: Sequence[int], rows: Tensor, columns: Tensor, boundary: Boundary) -> None:
        _, height, width = image_shape
        super().__init__(image_shape, blur_matrix(height, rows, boundary), blur_matrix(width, columns, boundary))


class GaussianBlur(SeparableBlur):
    """Blur with a Gaussian, ``exp(-a^2 / (2 std^2))`` at the pixels, scaled to sum 1.

    Args:
        image_shape: ``(C, H, W)``.
        std: in pixels.
        kernel_size: odd, in pixels; the kernel never extends beyond 4 standard deviations.
        boundary: see :func:`extension`.
    """

    def __init__(self, image_shape: Sequence[int], std: float, kernel_size: int | None, boundary: Boundary) -> None:
        kernel = gaussian_kernel(std, kernel_size)
        super().__init__(image_shape, kernel, kernel, boundary)


def gaussian_kernel(std: float, kernel_size: int | None) -> Tensor:
    """Sampled Gaussian along one axis, float64, of sum 1; see :class:`GaussianBlur`."""
    radius = int(4 * std + 0.5)
    if kernel_size is not None:
        radius = min(radius, kernel_size // 2)
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weight = torch.exp(-(place**2) / (2 * std**2))
    return weight / weight.sum()


def blur_matrix(size: int, kernel: Tensor, boundary: Boundary) -> Tensor:
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
    if Path(file).suffix == ".npy":
        kernel = torch.from_numpy(read_array(file, f"blur: the kernel {file}"))
    else:
        try:
            with Image.open(file) as image:
                values = np.asarray(image.convert("L") if image.mode not in ("F", "I", "I;16") else image)
            kernel = torch.from_numpy(np.array(values, dtype=np.float64))
        except BROKEN as error:
            raise InputError(f"blur: the kernel {file} cannot be read as an image: {error}") from error
    if kernel.ndim != 2 or kernel.numel() == 0 or not kernel.isfinite().all():
        raise InputError(
            f"blur: the kernel {file} has shape {tuple(kernel.shape)}; expected rows and columns of numbers"
        )
    return kernel


def blur_with_kernel(image_shape: Sequence[int], kernel: Tensor, boundary: Boundary) -> Blur | SeparableBlur:
    """Blur with a kernel; a :class:`SeparableBlur` if the kernel is the product of a row and a column.

    Args:
        image_shape: ``(C, H, W)``.
        kernel: ``[k, l]``, used as it is.
        boundary: see :func:`extension`.
    """
    u, s, vt = torch.linalg.svd(kernel.double())
    if len(s) == 1 or s[1] <= 1e-12 * s[0]:
        return SeparableBlur(image_shape, u[:, 0] * s[0], vt[0], boundary)
    return Blur(image_shape, kernel, boundary)


def make_blur(
    image_shape: Sequence[int], file: str, normalize: bool, boundary: Boundary, dense: bool
) -> Blur | SeparableBlur | Dense:
    """Blur with the kernel of a file, see :class:`randomwalk.config.operators.BlurSettings`."""
    kernel = read_kernel(file)
    if normalize:
        if not kernel.sum() > 0:
            raise InputError(
                f"blur: the kernel {file} sums to {float(kernel.sum()):g}; use normalize: false, or another kernel"
            )
        kernel = kernel / kernel.sum()
    blur = blur_with_kernel(image_shape, kernel, boundary)
    return Dense.of(blur) if dense and isinstance(blur, Blur) else blur


def motion_kernel(size: int, intensity: float, draws: np.random.Generator) -> Tensor:
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


def make_motion_blur(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    kernel_size: int,
    intensity: float,
    boundary: Boundary,
    dense: bool,
) -> Blur | Dense:
    """Blur with one motion kernel for each generator, see :class:`randomwalk.config.operators.MotionBlurSettings`.

    Only the circular boundary has a spectral decomposition, so that every sampler can use it; with the others, solves
    by conjugate gradients take up to thousands of products, and may fail.
    """
    kernels = [motion_kernel(kernel_size, intensity, draws) for draws in generators]
    blur = Blur(image_shape, torch.stack(kernels)[:, None], boundary)
    return Dense.of(blur) if dense else blur
