"""Blur with a kernel: Gaussian, a lens out of focus, a moving camera, or from a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from randomwalk.config.operators import Boundary, OneBlurSettings
from randomwalk.errors import InputError
from randomwalk.operators import kernels
from randomwalk.operators.composition import Composition
from randomwalk.operators.dense import Dense
from randomwalk.operators.operator import RCOND, WITHOUT_SPECTRAL, Margins, Operator
from randomwalk.operators.separable import Separable
from randomwalk.operators.solve import conjugate_gradients


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
    """``(A x)[i, j] = sum_ab k[a, b] x[i - a + h, j - b + w]`` in every channel: a point of light becomes the kernel.

    ``(h, w)`` is the middle of the kernel. ``boundary`` says what lies beyond the image's border:

    * *unknown*: nothing is assumed. The image is larger than the measurement, which is the part of the blur that
      depends on no other pixels (``scipy.signal.convolve2d`` with ``mode="valid"``); :meth:`cut` is its place.
    * *reflect, replicate, zero, circular*: see :func:`extension`. The measurement has the image's size.

    A circular blur is diagonal in Fourier space and has a spectral decomposition and a pseudo-inverse in closed form;
    the others solve by conjugate gradients, with the circular one as preconditioner. Kernels that are the product of a
    row and a column have both at any boundary (:func:`blur_with_kernel`), and so has any blur of small images
    (:meth:`Dense.of`).

    Args:
        image_shape: ``(C, H, W)``.
        kernel: ``[k, l]``, or ``[B, 1, k, l]`` with one for each image of the batch.
        boundary: unknown, reflect, replicate, zero or circular.
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
        self.circular, self.unknown = boundary == "circular", boundary == "unknown"
        self.register_buffer("kernel", kernel)
        for name, size, taps in zip(("rows", "columns"), self.image_shape[1:], kernel.shape[2:], strict=True):
            if self.circular:  # moves the middle of the kernel to the first pixel, and wraps a kernel that is too large
                matrix = one_hot((torch.arange(taps) - taps // 2) % size, size).double()
            elif self.unknown:
                matrix = torch.empty(0)
            else:
                matrix = extension(size, *reach(taps), boundary)
            self.register_buffer(name, matrix)
        if self.unknown:
            self.margins = margins_of(self.image_shape, kernel.shape[2:])

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.shown_shape

    def forward(self, x: Tensor) -> Tensor:
        _, height, width = self.measurement_shape
        if not (self.circular or self.unknown):
            x = self.rows.to(x.dtype) @ x @ self.columns.T.to(x.dtype)
        return self._filter(x, self._transfer(x))[..., :height, :width]

    def adjoint(self, y: Tensor) -> Tensor:
        x = self._filter(y, self._transfer(y).conj())
        if self.circular:
            return x
        if self.unknown:
            return x[..., : self.image_shape[1], : self.image_shape[2]]
        x = x[..., : len(self.rows), : len(self.columns)]
        return self.rows.T.to(x.dtype) @ x @ self.columns.to(x.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        if not self.circular:
            return super().pinv(y)
        transfer = self._transfer(y)
        squared = transfer.abs() ** 2
        largest = squared.amax((-2, -1), keepdim=True)
        return self._filter(y, torch.where(squared > RCOND**2 * largest, transfer.conj() / squared, 0.0))

    def interpolated(self, y: Tensor) -> Tensor:
        return continued(y, self.margins)

    def solve(self, b: Tensor, damping: float, tolerance: float | None = None, iterations: int | None = None) -> Tensor:
        _, height, width = self.measurement_shape
        power = self._transfer(b).abs() ** 2

        def product(u: Tensor) -> Tensor:
            # Where nothing is extended, A A^T is one filter between padding with zeros and cutting.
            gram = self._filter(u, power)[..., :height, :width] if self.unknown else self(self.adjoint(u))
            return gram + damping * u

        def inverse(u: Tensor) -> Tensor:
            return self._filter(u, 1 / (power + damping))[..., :height, :width]

        return conjugate_gradients(
            product, b, tolerance=tolerance, enough=iterations, preconditioner=inverse if damping > 0 else None
        )

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
                f"this blur has no spectral decomposition: use {WITHOUT_SPECTRAL}, boundary: circular, or dense: true "
                "(for small images)"
            )
        return self._filter(x, f(self._transfer(self.kernel).abs() ** 2).to(x.dtype))

    @property
    def _grid(self) -> tuple[int, int]:
        """Size of the grid on which images are filtered: at least that of what is blurred, and fast to transform."""
        _, height, width = self.image_shape
        if self.circular:
            return height, width
        return fast_size(height if self.unknown else len(self.rows)), fast_size(
            width if self.unknown else len(self.columns)
        )

    def _transfer(self, like: Tensor) -> Tensor:
        """Factor of each frequency, in the precision of ``like``."""
        if self.circular:
            return torch.fft.rfft2((self.rows.T @ self.kernel @ self.columns).to(like.dtype))
        # The turned kernel at the first pixels, as a correlation: no output that is kept wraps around.
        return torch.fft.rfft2(self.kernel.flip(-2, -1).to(like.dtype), s=self._grid).conj()

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        """Filter of ``x``, with zeros after it where it is smaller than the grid."""
        grid = self._grid
        return torch.fft.irfft2(torch.fft.rfft2(x, s=grid) * transfer, s=grid)


def reach(taps: int) -> tuple[int, int]:
    """Number of pixels before and after one that its blur depends on: the middle of the kernel is at ``taps // 2``."""
    return taps - 1 - taps // 2, taps // 2


def margins_of(image_shape: Sequence[int], taps: Sequence[int]) -> Margins:
    """Pixels above, below, left and right of the place of a measurement whose surroundings are unknown.

    Raises:
        InputError: the image is smaller than the kernel, so that there is no measurement.
    """
    _, height, width = image_shape
    if height < taps[0] or width < taps[1]:
        raise InputError(
            f"blur: boundary: unknown measures only what depends on no pixels beyond the border, and an image of "
            f"{height}x{width} pixels has none with a kernel of {taps[0]}x{taps[1]}; take another boundary, such as "
            "reflect, or a larger image"
        )
    return (*reach(taps[0]), *reach(taps[1]))


def continued(y: Tensor, margins: Margins) -> Tensor:
    """Images ``[B, C, h, w]`` with their border pixels repeated in the margins around them."""
    top, bottom, left, right = margins
    return pad(y, (left, right, top, bottom), mode="replicate")


def fast_size(size: int) -> int:
    """The smallest number from ``size`` on without prime factors above 5, for fast Fourier transforms."""
    from scipy.fft import next_fast_len  # slow to import

    return int(next_fast_len(size, real=True))


class SeparableBlur(Separable):
    """:class:`Blur` with the kernel ``rows[a] columns[b]``: one matrix along each axis, at any boundary.

    Args:
        image_shape: ``(C, H, W)``.
        rows, columns: ``[k]`` and ``[l]``.
        boundary: see :class:`Blur`.
    """

    taps: tuple[Tensor, Tensor]

    def __init__(self, image_shape: Sequence[int], rows: Tensor, columns: Tensor, boundary: Boundary) -> None:
        _, height, width = image_shape
        margins = margins_of(image_shape, (len(rows), len(columns))) if boundary == "unknown" else Operator.margins
        super().__init__(image_shape, blur_matrix(height, rows, boundary), blur_matrix(width, columns, boundary))
        self.margins, self.taps = margins, (rows, columns)

    def interpolated(self, y: Tensor) -> Tensor:
        return continued(y, self.margins)

    @property
    def kernel(self) -> Tensor:
        """The kernel, ``[1, 1, k, l]``."""
        return torch.outer(*self.taps)[None, None]


class GaussianBlur(SeparableBlur):
    """Blur with a Gaussian, ``exp(-a^2 / (2 std^2))`` at the pixels, scaled to sum 1.

    Args:
        image_shape: ``(C, H, W)``.
        std: in pixels.
        kernel_size: odd, in pixels; the kernel never extends beyond 4 standard deviations.
        boundary: see :class:`Blur`.
    """

    def __init__(self, image_shape: Sequence[int], std: float, kernel_size: int | None, boundary: Boundary) -> None:
        profile = kernels.gaussian_profile(std, kernel_size)
        super().__init__(image_shape, profile, profile, boundary)


def blur_matrix(size: int, kernel: Tensor, boundary: Boundary) -> Tensor:
    """Matrix ``[size, size]`` of the convolution with ``kernel`` ``[k]`` along one axis, float64.

    With an unknown boundary it has ``size - k + 1`` rows.
    """
    taps = len(kernel)
    if boundary == "unknown":
        extended = torch.eye(size, dtype=torch.float64)
    else:
        extended = extension(size, *reach(taps), boundary)
    windows = extended.unfold(0, len(extended) - taps + 1, 1)  # [k, source, output]
    return torch.einsum("a,asj->js", kernel.double().flip(0), windows)


def blur_with_kernel(image_shape: Sequence[int], kernel: Tensor, boundary: Boundary) -> Blur | SeparableBlur:
    """Blur with a kernel; a :class:`SeparableBlur` if the kernel is the product of a row and a column.

    Args:
        image_shape: ``(C, H, W)``.
        kernel: ``[k, l]``, used as it is: as a point of light looks, see :class:`Blur`.
        boundary: see :class:`Blur`.
    """
    u, s, vt = torch.linalg.svd(kernel.double())
    if len(s) == 1 or s[1] <= 1e-12 * s[0]:
        return SeparableBlur(image_shape, u[:, 0] * s[0], vt[0], boundary)
    return Blur(image_shape, kernel, boundary)


def kernel_of(operator: Operator) -> Tensor | None:
    """Kernel ``[k, l]`` of a blur, for the first image of a batch, or of the part of a composition that is one."""
    if isinstance(operator, Composition):
        found = kernel_of(operator.first)
        return kernel_of(operator.second) if found is None else found
    return operator.kernel[0, 0] if isinstance(operator, (Blur, SeparableBlur)) else None


def size_of_kernel(settings: OneBlurSettings) -> tuple[int, int]:
    """Number of rows and columns of the kernel of a blur.

    Raises:
        InputError: its file cannot be read.
    """
    if settings.name == "gaussian_blur":
        return (len(kernels.gaussian_profile(settings.std, settings.kernel_size)),) * 2
    if settings.name == "defocus_blur":
        kernel = kernels.defocus(settings.radius)
    elif settings.name == "blur":
        kernel = kernels.read(settings.file, flip=settings.flip, center=settings.center).kernel
    elif settings.length is None:
        return settings.kernel_size, settings.kernel_size
    else:
        kernel = kernels.motion(settings.length, settings.angle)
    return kernel.shape[0], kernel.shape[1]


def make_blur(
    image_shape: Sequence[int],
    file: str,
    flip: bool,
    center: bool | None,
    normalize: bool,
    boundary: Boundary,
    dense: bool,
) -> Blur | SeparableBlur | Dense:
    """Blur with the kernel of a file, see :class:`randomwalk.config.operators.BlurSettings`."""
    found = kernels.read(file, flip=flip, center=center)
    kernel = found.kernel
    if normalize:
        if not kernel.sum() > 0:
            raise InputError(
                f"blur: the kernel {file} sums to {float(kernel.sum()):g}; use normalize: false, or another kernel"
            )
        kernel = kernel / kernel.sum()
    blur = _with_kernel(image_shape, kernel, boundary, dense)
    blur.notes = tuple(found.notes)
    return blur


def make_defocus_blur(
    image_shape: Sequence[int], radius: float, boundary: Boundary, dense: bool
) -> Blur | SeparableBlur | Dense:
    """Blur with a disc, see :class:`randomwalk.config.operators.DefocusBlurSettings`."""
    return _with_kernel(image_shape, kernels.defocus(radius), boundary, dense)


def make_motion_blur(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    length: float | None,
    angle: float,
    kernel_size: int,
    intensity: float,
    boundary: Boundary,
    dense: bool,
) -> Blur | SeparableBlur | Dense:
    """Blur along a straight line, or with one path for each generator, see
    :class:`randomwalk.config.operators.MotionBlurSettings`.
    """
    if length is not None:
        return _with_kernel(image_shape, kernels.motion(length, angle), boundary, dense)
    paths = [kernels.random_motion(kernel_size, intensity, draws) for draws in generators]
    blur = Blur(image_shape, torch.stack(paths)[:, None], boundary)
    return Dense.of(blur) if dense else blur


def _with_kernel(
    image_shape: Sequence[int], kernel: Tensor, boundary: Boundary, dense: bool
) -> Blur | SeparableBlur | Dense:
    blur = blur_with_kernel(image_shape, kernel, boundary)
    return Dense.of(blur) if dense and isinstance(blur, Blur) else blur
