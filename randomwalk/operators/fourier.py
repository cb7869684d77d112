"""Operators in Fourier space: subsampling as in magnetic resonance imaging, and phase retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators.operator import RCOND, Operator
from score_sde.devices import exact_type


class FourierSubsampling(Operator):
    """``A x = mask * F x``: some lines of the unitary Fourier transform, the zero frequency in the middle.

    The measurement ``[B, 2 C, H, W]`` holds the real parts of all channels, then the imaginary parts; missing lines
    stay in it as zeros before the noise, whose standard deviation is that of a real or an imaginary part. The images
    are real, so a line determines the opposite one: ``A^T A = F^-1 (mask + mask mirrored) / 2 F``.

    Args:
        image_shape: ``(C, H, W)``.
        mask: ``[W]`` of 0 and 1 (columns), ``[H, W]``, or ``[B, 1, H or 1, W]`` with one for each image.
    """

    per_image = ("mask",)
    mask: Tensor

    def __init__(self, image_shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(image_shape)
        self.register_buffer("mask", kspace_mask("fourier_subsampling", mask, self.image_shape))

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (2 * channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        lines = self.mask * torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
        return torch.cat([lines.real, lines.imag], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        real, imaginary = (self.mask * y).chunk(2, 1)
        lines = torch.fft.ifftshift(torch.complex(real, imaginary), dim=(-2, -1))
        return torch.fft.ifft2(lines, norm="ortho").real

    def pinv(self, y: Tensor) -> Tensor:
        return self._filter(self.adjoint(y), lambda t: torch.where(t > RCOND**2, 1 / t, 0.0))

    def norm(self) -> float:
        return float(self._eigenvalues().max()) ** 0.5

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self._filter(x, f)

    def _eigenvalues(self) -> Tensor:
        """Eigenvalues of ``A^T A`` (0, 1/2 or 1) by frequency, the zero frequency first."""
        mask = torch.fft.ifftshift(self.mask.to(exact_type(self.mask.device)), dim=(-2, -1))
        mirrored = mask.flip((-2, -1)).roll((1, 1), (-2, -1))
        return (mask + mirrored) / 2

    def _filter(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.fft.ifft2(f(self._eigenvalues()).to(x.dtype) * torch.fft.fft2(x)).real


def kspace_mask(operator: str, mask: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Mask of Fourier space as float32 ``[B, 1, 1 or H, W]``.

    Args:
        operator: its name in messages.
        mask: 0 and 1, ``[W]`` (columns), ``[H, W]``, or ``[B, 1, 1 or H, W]`` with one for each image.
        image_shape: ``(C, H, W)``.

    Raises:
        InputError: it has another shape, other values, or is 0 for all of an image.
    """
    _, height, width = image_shape
    mask = mask.to(torch.float32)
    mask = mask.reshape(1, 1, -1, mask.shape[-1]) if mask.ndim < 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2] not in (1, height) or mask.shape[3] != width:
        raise InputError(
            f"{operator}: the mask has shape {tuple(mask.shape)}; expected [W], [H, W] or [B, 1, 1 or H, W] with "
            f"H, W = {height}, {width}"
        )
    if not ((mask == 0) | (mask == 1)).all() or (mask == 0).flatten(1).all(1).any():
        raise InputError(f"{operator}: a mask holds only 0 (missing) and 1 (measured), and at least one 1")
    return mask


def line_mask(width: int, acceleration: float, center_fraction: float, draws: np.random.Generator) -> Tensor:
    """Mask ``[W]`` of ``round(W / acceleration)`` columns, more of them at low frequencies.

    ``round(center_fraction W)`` columns in the middle, at least one, are always measured; the others are drawn with the
    weights ``(1 - |k| / k_max)^2`` of their distance k from the middle, ``k_max`` half a column beyond the last one.
    """
    if acceleration > width:
        raise InputError(f"fourier_subsampling: acceleration={acceleration}; expected a number from 1 to {width}")
    count, center = max(1, round(width / acceleration)), max(1, round(center_fraction * width))
    if center > count:
        raise InputError(
            f"fourier_subsampling: center_fraction={center_fraction} is {center} of {width} columns, but acceleration "
            f"{acceleration} leaves {count}; lower one of them"
        )
    mask = np.zeros(width, dtype=np.float32)
    first = width // 2 - center // 2
    mask[first : first + center] = 1
    distance = np.abs(np.arange(width) - width // 2) / (width // 2 + 0.5)
    weights = (1 - distance) ** 2 * (mask == 0)
    if count > center:
        mask[draws.choice(width, count - center, replace=False, p=weights / weights.sum())] = 1
    return torch.from_numpy(mask)


def make_fourier_subsampling(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    acceleration: float,
    center_fraction: float,
) -> FourierSubsampling:
    """Fourier subsampling with one mask of columns for each generator, see :func:`line_mask`."""
    masks = [line_mask(image_shape[2], acceleration, center_fraction, draws) for draws in generators]
    return FourierSubsampling(image_shape, torch.stack(masks)[:, None, None])


class PhaseRetrieval(Operator):
    """``A(x) = |F P x|``: modulus of the unitary Fourier transform of the image with a border of zeros (P), centred.

    Not linear, and invariant to shifts, to a rotation by 180 degrees and to the sign of x; its Jacobian's norm is at
    most 1.
    The derivative at a vanishing coefficient is taken to be 0.

    Args:
        image_shape: ``(C, H, W)``.
        oversample: the border has ``int(oversample / 8 * H)`` rows at the top and at the bottom, columns likewise:
            2 makes an image 1.5 times as large along each axis, as usual in the literature.
    """

    linear = False

    def __init__(self, image_shape: Sequence[int], oversample: float) -> None:
        super().__init__(image_shape)
        self.border = tuple(int(oversample / 8 * size) for size in self.image_shape[1:])

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (channels, height + 2 * self.border[0], width + 2 * self.border[1])

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.border
        padded = torch.nn.functional.pad(x, (columns, columns, rows, rows))
        return torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho").abs(), dim=(-2, -1))

    def norm(self) -> float:
        return 1.0
