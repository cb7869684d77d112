"""The interface of a measurement operator, and the simplest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from randomwalk.errors import InputError

ImageShape = tuple[int, int, int]


class Operator(nn.Module):
    """A map from images to measurements. Whatever it holds (masks, matrices) is a buffer.

    Args:
        image_shape: ``(C, H, W)`` of the images.
    """

    linear: bool = True

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
