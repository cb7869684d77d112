"""Computed tomography with parallel beams: the Radon transform, its exact adjoint, and filtered back-projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from randomwalk.config.operators import Window
from randomwalk.errors import InputError
from randomwalk.operators.operator import Operator

LARGEST = 2**28
"""Most entries of the matrix that are not 0; it takes 16 bytes for each, with its transpose."""


class Tomography(Operator):
    """``(A x)[v, d]``: line integral of the image along the ray of view v that meets the detector's entry d.

    The ray of the angle ``a`` and the detector's coordinate ``t`` is ``X cos a + Y sin a = t``, with X to the right, Y
    upwards and the origin in the middle of the image (as ``skimage.transform.radon``; the middle of an even number of
    pixels lies between two of them, here and in deepinv). Rays are one line each, through the middle of a detector's
    entry. The image is interpolated linearly where they cross its rows, or its columns if they cross more of these, and
    0 outside (Joseph 1982, IEEE TMI 1(3)). A is a sparse matrix and its adjoint the transposed one, to rounding.

    The measurement is ``[B, C, views, detectors]``, with the channels each for itself. Lengths are in the unit of
    ``pixel_size``: an image of attenuation per length becomes attenuation. The unit of A x is that of the pixels,
    [-1, 1], times the length: a projection p of the attenuation ``(x + 1) / 2 mu`` is ``(A x + A 1) mu / 2``.

    Args:
        image_shape: ``(C, H, W)``.
        angles: of the views, in degrees.
        detectors: entries of the detector; by default as many as the image's diagonal needs.
        pixel_size: side of a pixel.
        detector_spacing: distance of two entries of the detector; that of two pixels by default.
        window: of the ramp filter, see :meth:`interpolated`.
    """

    axes = ("channels", "views", "detectors")
    pointers: Tensor
    entries: Tensor
    lengths: Tensor
    back_pointers: Tensor
    back_entries: Tensor
    back_lengths: Tensor
    angles: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: Tensor,
        detectors: int | None = None,
        *,
        pixel_size: float = 1.0,
        detector_spacing: float | None = None,
        window: Window = "hann",
    ) -> None:
        super().__init__(image_shape)
        _, height, width = self.image_shape
        self.spacing = 1.0 if detector_spacing is None else detector_spacing / pixel_size
        self.detectors = math.ceil(math.hypot(height, width) / self.spacing) if detectors is None else detectors
        self.pixel_size, self.window = pixel_size, window
        if (size := 2 * len(angles) * self.detectors * max(height, width)) > LARGEST:
            raise InputError(
                f"tomography: {len(angles)} views of {self.detectors} entries of a {height}x{width} image are a matrix "
                f"of {size:.1e} entries, more than {LARGEST:.1e}; take fewer views or detectors or a smaller image"
            )
        self.register_buffer("angles", angles.double())
        rays = [_rays(float(angle), self._places(), height, width) for angle in torch.deg2rad(self.angles)]
        index = torch.cat([row + view * self.detectors for view, (row, _, _) in enumerate(rays)])
        pixel = torch.cat([pixel for _, pixel, _ in rays])
        lengths = torch.cat([length for _, _, length in rays]).float() * pixel_size
        for name, rows, columns, count in (
            ("", index, pixel, len(angles) * self.detectors),
            ("back_", pixel, index, height * width),
        ):
            order = rows.argsort(stable=True)
            starts = torch.searchsorted(rows[order], torch.arange(count + 1))
            self.register_buffer(f"{name}pointers", starts.int())
            self.register_buffer(f"{name}entries", columns[order].int())
            self.register_buffer(f"{name}lengths", lengths[order])

    def _places(self) -> Tensor:
        """Coordinates of the detector's entries, in pixels."""
        return self.spacing * (torch.arange(self.detectors, dtype=torch.float64) - (self.detectors - 1) / 2)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.image_shape[0], len(self.angles), self.detectors)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x.flatten(2), self, False)
        return y.unflatten(2, self.measurement_shape[1:])

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = _Product.apply(y.flatten(2), self, True)
        return x.unflatten(2, self.image_shape[1:])

    def product(self, values: Tensor, back: bool) -> Tensor:
        """The matrix, or the transposed one, times ``[B, C, n]``."""
        name = "back_" if back else ""
        pointers, entries, lengths = (self.get_buffer(name + kind) for kind in ("pointers", "entries", "lengths"))
        made = embedding_bag(
            entries,
            values.flatten(0, 1).T.contiguous(),
            pointers,
            mode="sum",
            per_sample_weights=lengths.to(values.dtype),
            include_last_offset=True,
        )
        return made.T.unflatten(0, values.shape[:2])

    def preconditioner(self, damping: float, like: Tensor) -> Callable[[Tensor], Tensor]:
        """The filter ``1 / (V / (pi d |f|) + damping)`` at the frequency f in cycles per pixel.

        Back-projected projections of V views with d pixels from ray to ray are nearly the image filtered by
        ``V / (pi d |f|)``.
        """
        _, height, width = self.image_shape
        size = (2 * height, 2 * width)
        across = torch.fft.rfftfreq(size[1], dtype=like.dtype, device=like.device)
        frequency = torch.hypot(torch.fft.fftfreq(size[0], dtype=like.dtype, device=like.device)[:, None], across)
        frequency = frequency.clamp_min(1 / (3 * max(height, width)))
        filtering = 1 / (len(self.angles) * self.pixel_size**2 / (math.pi * self.spacing * frequency) + damping)
        return lambda v: torch.fft.irfft2(filtering * torch.fft.rfft2(v, s=size), s=size)[..., :height, :width]

    def interpolated(self, y: Tensor) -> Tensor:
        """Filtered back-projection: the ramp filter with the window in each view, linearly interpolated at each pixel.

        Each view counts by half the angle to its two neighbours, modulo 180 degrees. The ramp filter is the
        transform of the band-limited kernel (Kak & Slaney 1988, equation 61); the hann window is ``cos^2`` of the
        frequency, 0 at the highest.
        """
        filtered = self._filtered(y) / (self.spacing * self.pixel_size)
        _, height, width = self.image_shape
        rows = -(torch.arange(height, dtype=torch.float64, device=y.device) - (height - 1) / 2)[:, None]
        columns = torch.arange(width, dtype=torch.float64, device=y.device) - (width - 1) / 2
        padded = torch.nn.functional.pad(filtered, (1, 1))
        image = y.new_zeros((len(y), *self.image_shape))
        for view, (angle, weight) in enumerate(zip(torch.deg2rad(self.angles), _weights(self.angles), strict=True)):
            place = (columns * angle.cos() + rows * angle.sin()) / self.spacing + (self.detectors - 1) / 2
            first = place.floor().clamp(-1, self.detectors - 1)
            share = (place - first).clamp(0, 1).to(y.dtype)
            low = padded[:, :, view][:, :, first.long() + 1]
            high = padded[:, :, view][:, :, first.long() + 2]
            image += weight.to(y) * ((1 - share) * low + share * high)
        return image

    def _filtered(self, y: Tensor) -> Tensor:
        """Rows of y after the ramp filter with the window, in units of the detector's entries."""
        size = 2 ** math.ceil(math.log2(2 * self.detectors))
        distance = torch.arange(size, dtype=torch.float64, device=y.device)
        distance = torch.minimum(distance, size - distance)
        kernel = torch.where(distance % 2 == 1, -1 / (math.pi * distance) ** 2, 0.0)
        kernel[0] = 0.25
        ramp = torch.fft.rfft(kernel).real
        if self.window == "hann":
            ramp = ramp * torch.cos(torch.linspace(0, math.pi / 2, len(ramp), dtype=ramp.dtype, device=y.device)) ** 2
        return torch.fft.irfft(ramp.to(y.dtype) * torch.fft.rfft(y, n=size), n=size)[..., : self.detectors]


class _Product(torch.autograd.Function):
    """Product with the matrix of the operator, whose derivative is that with the transposed one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, operator: Tomography, back: bool) -> Tensor:
        ctx.operator, ctx.back = operator, back
        return operator.product(values, back)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradients[0], ctx.operator, not ctx.back), None, None


def _rays(angle: float, places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Detector's entry, pixel and weight of every part of the rays of a view, for pixels of side 1.

    A ray passes the row ``Y`` at ``X = (t - Y sin a) / cos a``, where the image is interpolated between two pixels; two
    rows are ``1 / |cos a|`` apart along the ray. Where ``|sin a|`` is larger, columns take the place of the rows.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    by_rows = abs(cosine) >= abs(sine)
    lines, across = (height, width) if by_rows else (width, height)
    line = torch.arange(lines, dtype=torch.float64) - (lines - 1) / 2  # from top to bottom, or from left to right
    t = places[:, None]
    place = (t + line * sine) / cosine if by_rows else (line * cosine - t) / sine
    place = place + (across - 1) / 2
    first = place.floor()
    parts = []
    for pixel, share in ((first, 1 - (place - first)), (first + 1, place - first)):
        entry, crossed = torch.nonzero((pixel >= 0) & (pixel < across) & (share > 0), as_tuple=True)
        other = pixel[entry, crossed].long()
        flat = crossed * width + other if by_rows else other * width + crossed
        parts.append((entry, flat, share[entry, crossed] / max(abs(cosine), abs(sine))))
    entry, flat, weight = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return entry, flat, weight


def _weights(angles: Tensor) -> Tensor:
    """Angle for which each view stands, in radians: half of that between its neighbours, modulo 180 degrees."""
    turned, order = (angles % 180).sort()
    after = torch.cat([turned[1:], turned[:1] + 180]) - turned
    weights = torch.empty_like(turned)
    weights[order] = (after + after.roll(1)) / 2
    return torch.deg2rad(weights)


def make_tomography(
    image_shape: Sequence[int],
    views: int | list[float],
    arc: float,
    detectors: int | None,
    pixel_size: float,
    detector_spacing: float | None,
    window: Window,
) -> Tomography:
    """Tomography, see :class:`randomwalk.config.operators.TomographySettings`."""
    angles = (
        torch.arange(views, dtype=torch.float64) * (arc / views)
        if isinstance(views, int)
        else torch.tensor(views, dtype=torch.float64)
    )
    return Tomography(
        image_shape, angles, detectors, pixel_size=pixel_size, detector_spacing=detector_spacing, window=window
    )
