"""The interface of a measurement operator, the simplest one, and the measurement ``y = noise(A(x))``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from typing_extensions import Self

from randomwalk.errors import InputError
from randomwalk.operators.noise import GaussianNoise, Noise
from randomwalk.operators.solve import conjugate_gradients, largest_eigenvalue
from randomwalk.rng import Draws, Stream, torch_generator
from score_sde.devices import exact_type, fitting

ImageShape = tuple[int, int, int]
Margins = tuple[int, int, int, int]
"""Rows above and below, columns left and right."""

WITHOUT_SPECTRAL = "a sampler that needs none (random_walk, diffpir, daps, split_gibbs, pigdm, mmps, dps)"
"""Advice in messages where an operator has no spectral decomposition."""
RCOND = 1e-4
"""Pseudo-inverses treat singular values below this share of the largest as 0."""


class Operator(nn.Module):
    """A map from images to measurements. Its masks and matrices are buffers.

    Args:
        image_shape: ``(C, H, W)`` of the images.
    """

    linear: bool = True
    per_image: tuple[str, ...] = ()
    """Names of the buffers that may have one entry for each image of a batch, along their first dimension."""
    margins: Margins = (0, 0, 0, 0)
    """Rows above and below and columns left and right of the part of an image that the measurement shows."""
    notes: tuple[str, ...] = ()
    """Remarks for the user on how the operator was made, one line each."""
    axes: tuple[str, ...] = ()
    """Names of the axes of one image's measurement in a file of arrays; empty for pictures and where nobody knows."""
    parts_axis: int | None = None
    """Axis of one image's measurement with the real and the imaginary part of what files have as complex numbers."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        if len(image_shape) != 3 or any(size < 1 for size in image_shape):
            raise InputError(f"image_shape={tuple(image_shape)}: expected channels, height and width")
        channels, height, width = image_shape
        self.image_shape: ImageShape = (channels, height, width)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Operator:
        return super()._apply(fitting(fn), recurse)

    def forward(self, x: Tensor) -> Tensor:
        """``A x``, ``[B, *measurement_shape]``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one image's measurement, without the batch."""
        with torch.no_grad():
            return tuple(self(self._blank())[0].shape)

    @property
    def sampled(self) -> Tensor | None:
        """Mask ``[B or 1, ...]`` for measurements, 0 at entries that are always 0 but for noise; None without one."""
        return None

    def cut(self, x: Tensor) -> Tensor:
        """The part of images ``[..., H, W]`` that the measurement shows, without the margins."""
        return cut(x, self.margins)

    @property
    def shown_shape(self) -> ImageShape:
        """Shape ``(C, H, W)`` of the part of an image that the measurement shows."""
        top, bottom, left, right = self.margins
        channels, height, width = self.image_shape
        return (channels, height - top - bottom, width - left - right)

    def measure(self, x: Tensor, noise: Noise, draws: Draws | None = None) -> Measurement:
        """A measurement of the images ``x [B, C, H, W]``, with noise.

        Args:
            x: true images.
            noise: kind and level of the noise.
            draws: random numbers of the B rows; by default from PyTorch's generator.
        """
        with torch.no_grad():
            return Measurement(self, noise, noise.of_operator(self).apply(self(x), draws))

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``; by automatic differentiation unless a subclass defines it.

        Raises:
            InputError: the operator is not linear.
        """
        if not self.linear:
            raise InputError(f"{type(self).__name__} is not linear and has no adjoint")
        with torch.enable_grad():
            x = y.new_zeros((len(y), *self.image_shape)).requires_grad_()
            return torch.autograd.grad(self(x), x, y)[0]

    def pinv(self, y: Tensor) -> Tensor:
        """``A^+ y``: of the least-squares solutions of ``A x = y``, the one of smallest norm.

        By conjugate gradients on ``A^T A x = A^T y``, to the residual of ``solve.TOLERANCE``, unless a subclass defines
        it. Closed forms treat singular values below ``RCOND`` times the largest as 0: in single precision their
        inverses return only rounding errors.

        Raises:
            InputError: the operator is not linear.
            RunError: conjugate gradients do not converge.
        """
        if not self.linear:
            raise InputError(f"{type(self).__name__} is not linear and has no pseudo-inverse")
        return conjugate_gradients(self._gram, self.adjoint(y))

    def interpolated(self, y: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` interpolated from measurements ``[B, *measurement_shape]``, to start a walk from.

        Raises:
            InputError: the operator defines no such image.
        """
        raise InputError(f"{type(self).__name__} does not interpolate an image from its measurements")

    def norm(self) -> float:
        """Largest singular value of A, or an upper bound of the Jacobian's if A is not linear.

        By Lanczos' method, from below, unless a subclass defines it.

        Raises:
            InputError: the operator is not linear and does not define it.
        """
        blank = self._exact_blank()
        start = torch.randn(blank.shape, generator=torch_generator(0, Stream.NORM), dtype=torch.float64).to(blank.dtype)
        start = start.to(blank.device)
        with torch.no_grad():  # an operator with a state for each image returns as many rows
            start = start.expand(len(self(start)), *self.image_shape)
            return largest_eigenvalue(self._gram, start) ** 0.5

    @property
    def has_norm(self) -> bool:
        """Whether ``norm`` can be used: an operator that is not linear must define it."""
        return self.linear or type(self).norm is not Operator.norm

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``f(A^T A) x``, ``f`` acting on each eigenvalue of ``A^T A``: ``f(t) = t`` gives ``A^T A x``.

        Args:
            f: maps a tensor of eigenvalues, of any shape, to values of the same shape.
            x: ``[B, C, H, W]``.
        """
        raise InputError(
            f"{type(self).__name__} has no spectral decomposition: define spectral(f, x), or use {WITHOUT_SPECTRAL}"
        )

    @property
    def has_spectral(self) -> bool:
        """Whether ``spectral`` can be used."""
        return type(self).spectral is not Operator.spectral

    def proximal(
        self,
        z: Tensor,
        y: Tensor,
        eta: float,
        sigma: float,
        *,
        tolerance: float | None = None,
        iterations: int | None = None,
    ) -> Tensor:
        """``argmin_x ||A x - y||^2 / eta^2 + ||x - z||^2 / sigma^2``, the mean of x given y if x ~ N(z, sigma^2 I).

        That is ``z + (A^T A + q)^-1 A^T (y - A z) = z + A^T (A A^T + q)^-1 (y - A z)``, ``q = (eta/sigma)^2``: the
        first in closed form where there is a spectral decomposition, and by conjugate gradients where there is a
        :meth:`preconditioner` or y has more entries than x; otherwise the second by :meth:`solve`.

        Args:
            z: ``[B, C, H, W]``.
            y: ``[B, *measurement_shape]``.
            eta: noise level of the measurement; 0 gives the limit, ``z + A^+ (y - A z)``.
            sigma: standard deviation of the prior, positive.
            tolerance, iterations: of :meth:`solve`.

        Raises:
            InputError: the operator is not linear.
            RunError: conjugate gradients do not converge.
        """
        if eta == 0:
            return z + self.pinv(y - self(z))
        damping = (eta / sigma) ** 2
        if self.has_spectral:
            right = self.adjoint(y - self(z))
            # A^T v vanishes where t = 0; its rounding errors there must not be divided by a tiny damping.
            return z + self.spectral(lambda t: (t > 0) / (t + damping), right)
        preconditioner = self.preconditioner(damping, z)
        if preconditioner is None and y[0].numel() <= z[0].numel():
            return z + self.adjoint(self.solve(y - self(z), damping, tolerance, iterations))
        return z + conjugate_gradients(
            lambda v: self._gram(v) + damping * v,
            self.adjoint(y - self(z)),
            tolerance=tolerance,
            enough=iterations,
            preconditioner=preconditioner,
        )

    def rough(self, z: Tensor, y: Tensor) -> tuple[float, int]:
        """Tolerance and iterations of :meth:`proximal` at which the steps of a walk end, whichever comes first.

        In the space of measurements a tenth of the residual is enough. In that of images ``A^T`` hides most of what
        small singular values ask for: a tenth and 20 iterations took 0.9 to 1.4 dB from MRI and tomography.
        """
        in_images = self.preconditioner(1.0, z) is not None or y[0].numel() > z[0].numel()
        return (0.01, 60) if in_images else (0.1, 20)

    def preconditioner(self, damping: float, like: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Map of images that is symmetric and near to ``(A^T A + damping I)^-1``; None unless a subclass has one.

        With it, :meth:`proximal` solves in the space of images, and otherwise in that of measurements.

        Args:
            damping: positive.
            like: images ``[B, C, H, W]``, for their type and device.
        """
        return None

    def solve(self, b: Tensor, damping: float, tolerance: float | None = None, iterations: int | None = None) -> Tensor:
        """``(A A^T + damping I)^-1 b`` for measurements b, by conjugate gradients.

        Args:
            b: ``[B, *measurement_shape]``.
            damping: positive.
            tolerance: relative residual at which a row is solved; that of ``solve.TOLERANCE`` by default.
            iterations: at which the result is taken as it is; by default it must reach the tolerance.

        Raises:
            InputError: the operator is not linear.
            RunError: conjugate gradients do not converge.
        """
        if not self.linear:
            raise InputError(f"{type(self).__name__} is not linear: there is no system to solve")
        return conjugate_gradients(
            lambda u: self(self.adjoint(u)) + damping * u, b, tolerance=tolerance, enough=iterations
        )

    def of_ones(self) -> Tensor:
        """``A 1``, ``[1, *measurement_shape]``: the measurement of an image of ones, in the most exact type."""
        with torch.no_grad():
            y: Tensor = self(torch.ones_like(self._exact_blank()))
        return y.to(exact_type(y.device))

    def _gram(self, x: Tensor) -> Tensor:
        """``A^T A x``."""
        return self.adjoint(self(x))

    def repeated(self, num: int) -> Self:
        """The operator for batches that repeat every image ``num`` times in a row."""
        if num == 1 or all(len(self.get_buffer(name)) == 1 for name in self.per_image):
            return self
        other = copy.copy(self)
        other._buffers = {
            name: b.repeat_interleave(num, 0) if b is not None and name in self.per_image and len(b) > 1 else b
            for name, b in self._buffers.items()
        }
        return other

    def _blank(self) -> Tensor:
        """A batch of one image of zeros, of the type and on the device of the operator's buffers."""
        like = next((b for b in chain(self.buffers(), self.parameters()) if b.is_floating_point()), torch.empty(0))
        return like.new_zeros((1, *self.image_shape))

    def _exact_blank(self) -> Tensor:
        """A batch of one image of zeros of the most exact type in which the operator computes."""
        blank = self._blank()
        return blank.to(exact_type(blank.device))


def cut(x: Tensor, margins: Margins) -> Tensor:
    """Images ``[..., H, W]`` without their margins."""
    top, bottom, left, right = margins
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


class Identity(Operator):
    """``A x = x``: denoising."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def norm(self) -> float:
        return 1.0

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return f(torch.ones((), dtype=x.dtype, device=x.device)) * x


class TightRows(Operator):
    """Base of operators with orthogonal rows of one length, ``A A^T = c I``, or rows of zeros. Subclasses define the
    adjoint.

    Args:
        image_shape: ``(C, H, W)``.
        gain: c.
    """

    def __init__(self, image_shape: Sequence[int], gain: float = 1.0) -> None:
        super().__init__(image_shape)
        self.gain = gain

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.gain

    def norm(self) -> float:
        return self.gain**0.5

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # A^T A / c is a projection: the eigenvalues are 0 and c.
        at_zero, at_gain = f(x.new_tensor([0.0, self.gain], dtype=exact_type(x.device))).to(x.dtype)
        return at_zero * x + (at_gain - at_zero) / self.gain * self._gram(x)


class Measurement:
    """A measurement ``y = noise(A(x))`` and its likelihood ``f(y | x)``.

    Args:
        operator: A.
        noise: kind and level of the noise.
        y: ``[B, *operator.measurement_shape]``, or one ``[1, ...]`` for the whole batch.
    """

    def __init__(self, operator: Operator, noise: Noise, y: Tensor) -> None:
        self.operator, self.noise, self.y = operator, noise.of_operator(operator), y

    @property
    def std(self) -> float:
        """eta, the standard deviation of the noise (0 for exact measurements), in [-1, 1] pixel units."""
        return self.noise.std

    def residual(self, x: Tensor) -> Tensor:
        """``y - A(x)``."""
        return self.y - self.operator(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """``log f(y | x)`` for each image, ``[B]``."""
        return self.noise.log_prob(self.y, self.operator(x))

    def score(self, x: Tensor) -> Tensor:
        """``grad_x log f(y | x)``, for Gaussian noise ``J(x)^T (y - A(x)) / std^2``, where ``J = A`` if A is linear.

        Raises:
            InputError: there is no noise, hence no density.
        """
        if self.noise.std == 0:
            raise InputError("noise 'none' has no likelihood score; use a sampler that does not need one, or add noise")
        if self.operator.linear and isinstance(self.noise, GaussianNoise):
            return self.operator.adjoint(self.residual(x)) / self.std**2
        if self.operator.linear:
            return self.operator.adjoint(self.noise.score(self.y, self.operator(x)))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(x).sum(), x)[0]

    def brightened(self, gain: float) -> Measurement:
        """The measurement of ``gain (x + 1) - 1``, for operators that keep the brightness of even areas."""
        if gain == 1:
            return self
        noise = self.noise.brightened(gain)
        noise.copies = self.noise.copies
        return Measurement(self.operator, noise, gain * (self.y + 1) - 1)

    def repeated(self, num: int) -> Measurement:
        """Each measurement ``num`` times in a row."""
        return Measurement(self.operator.repeated(num), self.noise, self.y.repeat_interleave(num, 0))
