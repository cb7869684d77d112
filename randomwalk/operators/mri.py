"""Cartesian magnetic resonance imaging: complex images as two channels, one coil or many, masks in k-space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.arrays import read_array
from randomwalk.operators.fourier import kspace_mask
from randomwalk.operators.operator import Operator, TightRows

_SPACE = (-2, -1)


class MRI(TightRows):
    """``y = M F x``: some points of the unitary Fourier transform of a complex image, as one coil receives them.

    ``x [B, 2, H, W]`` and ``y [B, 2, H, W]`` hold the real part, then the imaginary part. F is centred: the middle
    ``(H // 2, W // 2)`` is the origin of both the image and k-space, as in fastMRI. Points that are not measured stay
    in y, as zeros before the noise. Gaussian noise of standard deviation eta is complex: both parts have it.
    Conventions are those of deepinv's ``MRI``, where the noise is masked too.

    Args:
        image_shape: ``(2, H, W)``.
        mask: M, 1 where k-space is measured, else 0: ``[W]`` (columns), ``[H, W]``, or ``[B, 1, 1 or H, W]`` with one
            for each image.
    """

    per_image = ("mask",)
    axes = ("rows", "columns")
    parts_axis = 0
    mask: Tensor

    def __init__(self, image_shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(image_shape)
        self.register_buffer("mask", _checked(mask, self.image_shape))

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    @property
    def sampled(self) -> Tensor:
        return self.mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * _parts(_fourier(_complex(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        return _parts(_inverse(_complex(self.mask * y)))

    def interpolated(self, y: Tensor) -> Tensor:
        """The zero-filled image."""
        return self.adjoint(y)


class MultiCoilMRI(Operator):
    """``y_n = M F (s_n x)``: the image weighted by the sensitivity ``s_n`` of each of N coils, then as :class:`MRI`.

    ``y [B, 2, N, H, W]`` holds the real parts of all coils, then the imaginary parts, as deepinv's ``MultiCoilMRI``.
    ``A^T A = sum_n conj(s_n) F^-1 M F s_n`` has no spectral decomposition: samplers solve by conjugate gradients.

    Args:
        image_shape: ``(2, H, W)``.
        mask: M, as for :class:`MRI`.
        maps: complex sensitivities ``[N, H, W]``. ``sum_n |s_n|^2 = 1`` gives A a norm of at most 1.
    """

    per_image = ("mask",)
    axes = ("coils", "rows", "columns")
    parts_axis = 0
    mask: Tensor
    maps: Tensor

    def __init__(self, image_shape: Sequence[int], mask: Tensor, maps: Tensor) -> None:
        super().__init__(image_shape)
        if maps.ndim != 3 or len(maps) == 0 or tuple(maps.shape[1:]) != self.image_shape[1:]:
            raise InputError(
                f"mri: the sensitivity maps have shape {tuple(maps.shape)}; expected [N, H, W] with N coils and "
                f"H, W = {self.image_shape[1:]}"
            )
        self.register_buffer("mask", _checked(mask, self.image_shape))
        # Pairs of real numbers, because moving a module to a real type would drop imaginary parts.
        self.register_buffer("maps", torch.view_as_real(maps.to(torch.complex128)).movedim(-1, 0).contiguous())

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (2, self.maps.shape[1], *self.image_shape[1:])

    @property
    def sampled(self) -> Tensor:
        return self.mask[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.sampled * _parts(_fourier(self._sensitivities(x) * _complex(x)[:, None]))

    def adjoint(self, y: Tensor) -> Tensor:
        coils = _inverse(_complex(self.sampled * y))
        return _parts((self._sensitivities(y).conj() * coils).sum(1))

    def interpolated(self, y: Tensor) -> Tensor:
        """The zero-filled images of the coils, put together by their sensitivities."""
        return self.adjoint(y)

    def _sensitivities(self, like: Tensor) -> Tensor:
        real, imaginary = self.maps.to(like.dtype)
        return torch.complex(real, imaginary)


def _complex(parts: Tensor) -> Tensor:
    """``[B, 2, ...]`` as complex ``[B, ...]``."""
    return torch.complex(parts[:, 0], parts[:, 1])


def _parts(values: Tensor) -> Tensor:
    """Complex ``[B, ...]`` as ``[B, 2, ...]``."""
    return torch.stack([values.real, values.imag], 1)


def _fourier(image: Tensor) -> Tensor:
    """Centred unitary Fourier transform of ``[..., H, W]``."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, _SPACE), norm="ortho"), _SPACE)


def _inverse(kspace: Tensor) -> Tensor:
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, _SPACE), norm="ortho"), _SPACE)


def _checked(mask: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """The mask as ``[B, 1, 1 or H, W]``."""
    channels = image_shape[0]
    if channels != 2:
        raise InputError(
            f"mri: the images have {channels} channel{'s' * (channels != 1)}; expected 2, the real and the imaginary "
            "part"
        )
    return kspace_mask("mri", mask, image_shape)


# --- masks -----------------------------------------------------------------------------------------------------------


def column_mask(
    width: int, acceleration: float, center_fraction: float, draws: np.random.Generator, even: bool
) -> Tensor:
    """Mask ``[W]`` of ``round(W / acceleration)`` columns of k-space, of which the middle ones are the calibration.

    ``round(center_fraction W)`` columns in the middle are always measured. The others are drawn without preference, or
    evenly spaced among the outer columns from a first one that is drawn: as fastMRI's masks, with the exact number.

    Args:
        width: W.
        acceleration: W divided by the number of columns.
        center_fraction: share of the columns.
        draws: random numbers.
        even: whether the outer columns are evenly spaced.
    """
    count, center = _counts(width, acceleration, center_fraction)
    mask = np.zeros(width, dtype=np.float32)
    first = width // 2 - center // 2
    mask[first : first + center] = 1
    outer = np.flatnonzero(mask == 0)
    if even and count > center:
        spacing = len(outer) / (count - center)
        mask[outer[np.floor(spacing * (draws.random() + np.arange(count - center))).astype(int)]] = 1
    elif count > center:
        mask[draws.choice(outer, count - center, replace=False)] = 1
    return torch.from_numpy(mask)


def point_mask(
    height: int, width: int, acceleration: float, center_fraction: float, draws: np.random.Generator
) -> Tensor:
    """Mask ``[H, W]`` of ``round(H W / acceleration)`` points of k-space, more of them at low frequencies.

    A disc about the middle (an ellipse where H and W differ), of ``center_fraction`` of the points, is always measured.
    The others are drawn with the weights ``(1 - r)^2``, where r is the distance from the middle, from 0 to 1 at the
    corners.
    """
    count, center = _counts(height * width, acceleration, center_fraction)
    rows = (np.arange(height) - height // 2)[:, None] / height
    columns = (np.arange(width) - width // 2) / width
    radius = np.sqrt(rows**2 + columns**2).ravel()
    mask = np.zeros(height * width, dtype=np.float32)
    mask[np.argsort(radius, kind="stable")[:center]] = 1
    weights = (1 - radius / (radius.max() + 1 / max(height, width))) ** 2 * (mask == 0)
    if count > center:
        mask[draws.choice(height * width, count - center, replace=False, p=weights / weights.sum())] = 1
    return torch.from_numpy(mask.reshape(height, width))


def _counts(size: int, acceleration: float, center_fraction: float) -> tuple[int, int]:
    """Numbers of columns or points that are measured, and of those in the middle."""
    if acceleration > size:
        raise InputError(f"mri: acceleration={acceleration}; expected a number from 1 to {size}")
    count, center = max(1, round(size / acceleration)), max(1, round(center_fraction * size))
    if center > count:
        raise InputError(
            f"mri: center_fraction={center_fraction} is {center} of {size} columns or points, but acceleration "
            f"{acceleration} leaves {count}; lower one of them"
        )
    return count, center


# --- sensitivities ---------------------------------------------------------------------------------------------------


def birdcage_maps(coils: int, height: int, width: int) -> Tensor:
    """Smooth complex sensitivities ``[N, H, W]`` of N coils on a circle around the image, ``sum_n |s_n|^2 = 1``.

    ``s_n ~ i exp(-i a_n) / conj(z - 1.5 exp(i a_n))``, ``a_n = 2 pi n / N``, at the place ``z`` in the complex plane,
    whose unit is half of the image's width (height): fields of wires, as by sigpy's ``birdcage_maps``.
    """
    rows = (torch.arange(height, dtype=torch.float64) - height / 2)[:, None] / (height / 2)
    columns = (torch.arange(width, dtype=torch.float64) - width / 2) / (width / 2)
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    wire = 1.5 * torch.exp(1j * angle)
    field = 1j * torch.exp(-1j * angle) / (columns + 1j * rows - wire).conj()
    return field / field.abs().square().sum(0).sqrt()


def make_mri(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    masks: Sequence[Tensor] | None,
    mask: str,
    acceleration: float,
    center_fraction: float | None,
    file: str | None,
    coils: int,
    maps: str | None,
) -> MRI | MultiCoilMRI:
    """Magnetic resonance imaging, see :class:`randomwalk.config.operators.MRISettings`.

    Args:
        image_shape: ``(2, H, W)``.
        generators: one for each image, for masks that are drawn.
        masks: ``[H, W]`` of each image, for ``mask="nonzero"``.
        mask, acceleration, center_fraction, file, coils, maps: settings.
    """
    _, height, width = image_shape
    center = 0.32 / acceleration if center_fraction is None else center_fraction
    if mask == "file":
        assert file is not None
        read = torch.from_numpy(read_array(file, f"mri: the mask {file}"))
        if read.ndim not in (1, 2):
            raise InputError(f"mri: the mask {file} has shape {tuple(read.shape)}; expected [W] or [H, W]")
        found = read
    elif mask == "nonzero":
        if masks is None:
            raise InputError(
                "mri: mask: nonzero is where a given k-space is not 0, and none is given; take another mask"
            )
        found = torch.stack(list(masks))[:, None]
    elif mask == "variable_density":
        found = torch.stack([point_mask(height, width, acceleration, center, draws) for draws in generators])[:, None]
    else:
        even = mask == "equispaced"
        columns = [column_mask(width, acceleration, center, draws, even) for draws in generators]
        found = torch.stack(columns)[:, None, None]
    if maps is not None:
        given = read_array(maps, f"mri: the sensitivity maps {maps}", complex_too=True)
        return MultiCoilMRI(image_shape, found, torch.from_numpy(given))
    return (
        MRI(image_shape, found) if coils == 1 else MultiCoilMRI(image_shape, found, birdcage_maps(coils, height, width))
    )
