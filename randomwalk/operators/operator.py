"""The interface of a measurement operator, and the simplest one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from typing_extensions import Self

from randomwalk.errors import InputError

ImageShape = tuple[int, int, int]


class Operator(nn.Module):
    """A map from images to measurements. Whatever it holds (masks, matrices) is a buffer.

    Args:
        image_shape: ``(C, H, W)`` of the images.
    """

    linear: bool = True
    per_image: tuple[str, ...] = ()
    """Names of the buffers that may have one entry for each image of a batch, along their first dimension."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        if len(image_shape) != 3 or any(size < 1 for size in image_shape):
            raise InputError(f"image_shape={tuple(image_shape)}: expected channels, height and width")
        channels, height, width = image_shape
        self.image_shape: ImageShape = (channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """``A x``, ``[B, *measurement_shape]``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one image's measurement, without the batch."""
        with torch.no_grad():
            return tuple(self(self._blank())[0].shape)

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
        """``A^+ y``: of the least-squares solutions of ``A x = y``, the one of smallest norm."""
        raise InputError(f"{type(self).__name__} has no pseudo-inverse: define pinv(y), or start from noise")

    def norm(self) -> float:
        """Largest singular value of A; by power iteration, from below, unless a subclass defines it."""
        blank, squared = self._blank(), 0.0
        x = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
        with torch.no_grad():
            for _ in range(1000):
                x = self.adjoint(self(x / x.norm()))
                previous, squared = squared, float(x.norm())
                if squared - previous <= 1e-7 * squared:
                    break
        return squared**0.5

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``f(A^T A) x``, ``f`` acting on each eigenvalue of ``A^T A``: ``f(t) = t`` gives ``A^T A x``.

        Args:
            f: maps a tensor of eigenvalues, of any shape, to values of the same shape.
            x: ``[B, C, H, W]``.
        """
        raise InputError(
            f"{type(self).__name__} has no spectral decomposition: define spectral(f, x), "
            "or use a sampler setting that does not need it (random_walk with preconditioned: false)"
        )

    @property
    def has_spectral(self) -> bool:
        """Whether ``spectral`` is defined."""
        return type(self).spectral is not Operator.spectral

    def proximal(self, z: Tensor, y: Tensor, eta: float, sigma: float) -> Tensor:
        """``argmin_x ||A x - y||^2 / eta^2 + ||x - z||^2 / sigma^2``, the mean of x given y if x ~ N(z, sigma^2 I).

        Args:
            z: ``[B, C, H, W]``.
            y: ``[B, *measurement_shape]``.
            eta: of the measurement; 0 gives the limit, ``z + A^+ (y - A z)``.
            sigma: of the prior, positive.
        """
        if eta == 0:
            return z + self.pinv(y - self(z))
        return z + self.spectral(lambda t: 1 / (t + eta**2 / sigma**2), self.adjoint(y - self(z)))

    def repeated(self, num: int) -> Self:
        """The operator for batches in which every image comes ``num`` times in a row."""
        if num == 1 or all(len(self.get_buffer(name)) == 1 for name in self.per_image):
            return self
        other = copy.copy(self)
        other._buffers = {
            name: b.repeat_interleave(num, 0) if b is not None and name in self.per_image and len(b) > 1 else b
            for name, b in self._buffers.items()
        }
        return other

    def _blank(self) -> Tensor:
        """A batch of one black image, of the type and on the device of what the operator holds."""
        like = next((b for b in chain(self.buffers(), self.parameters()) if b.is_floating_point()), torch.empty(0))
        return like.new_zeros((1, *self.image_shape))


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
