"""The interface of a denoiser, ``D(x, sigma) = E[X | X + sigma N = x]``, and the base of adapters around a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from randomwalk.errors import InputError
from score_sde.devices import fitting

# A float32 sigma may miss the end of the range that it was computed from by rounding.
_RANGE_SLACK = 1e-5


def broadcast_sigma(sigma: float | Tensor, x: Tensor) -> Tensor:
    """``sigma`` (a number, or one per image ``[B]``) as a tensor of x's type that broadcasts against ``x``."""
    s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return s.reshape(-1, *[1] * (x.ndim - 1)) if s.ndim else s


class Denoiser(nn.Module):
    """MMSE denoiser, and by Tweedie's formula the score of the noisy density.

    Subclasses define ``forward`` and, if these are fixed, ``channels`` and ``image_size``.

    Attributes:
        sigma_min, sigma_max: range of its noise levels.
        channels, image_size: those of its training; None if it accepts any.
        any_size: whether it takes images of other sizes than ``image_size`` too.
        cost: network evaluations per evaluation of the denoiser.
        response: with k > 1 times the noise of the stated level in the image, it removes about ``k^response`` times
            the stated level. Measured with the bundled epsilon networks: 1.05 and 1.2 for k = 1.1 and 1.5.
    """

    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    channels: int | None = None
    image_size: int | None = None
    any_size: bool = False
    cost: int = 1
    response: float = 0.5

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Denoiser:
        return super()._apply(fitting(fn), recurse)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma) = E[X | X + sigma N = x].

        Args:
            x: noisy images ``[B, C, H, W]``.
            sigma: a number, or ``[B]``, one for each image.
        """
        raise NotImplementedError

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """grad log p_sigma(x) = (D(x, sigma) - x) / sigma^2 (Tweedie's formula)."""
        return (self(x, sigma) - x) / broadcast_sigma(sigma, x) ** 2

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """D(x, sigma) and the product with the transpose of its Jacobian, ``v -> (dD/dx)^T v``.

        For an exact denoiser the Jacobian is symmetric, and ``sigma^2 dD/dx = Cov[X | X_sigma = x]`` (the second-order
        Tweedie formula). Each product is a backward pass; the graph lives as long as the function.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self(x, sigma)
        return out.detach(), lambda v: torch.autograd.grad(out, x, v, retain_graph=True)[0]

    def loss(self, x: Tensor, sigma: float | Tensor, noise: Tensor | None = None) -> Tensor:
        """Denoising score matching: ``mean |(D(x + sigma n, sigma) - x) / sigma|^2``, a scalar to be minimised.

        The weight ``1 / sigma^2`` makes it the mean squared error of the predicted noise, DDPM's ``L_simple``.

        Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; Vincent 2011.

        Args:
            x: clean images ``[B, C, H, W]``.
            sigma: a number, or ``[B]`` one for each image.
            noise: n, like x; drawn from Normal(0, 1) if None.
        """
        n, s = torch.randn_like(x) if noise is None else noise, broadcast_sigma(sigma, x)
        return ((self(x + s * n, sigma) - x) / s).square().mean()

    def own_levels(self, u: Tensor) -> Tensor:
        """Noise levels at even steps of the denoiser's own time, from the highest (u = 0) to the lowest (1).

        The time is ln sigma here. Float64, like u.
        """
        return self.sigma_max * (self.sigma_min / self.sigma_max) ** u

    def check_sigma(self, sigma: float | Tensor) -> None:
        """Raise InputError for a noise level outside the range. Tensors are trusted: reading them would wait
        for the GPU at every step."""
        if isinstance(sigma, Tensor):
            return
        if not self.sigma_min * (1 - _RANGE_SLACK) <= sigma <= self.sigma_max * (1 + _RANGE_SLACK):
            raise InputError(
                f"sigma = {sigma:.6g} is outside the range of this denoiser, "
                f"{self.sigma_min:.6g} to {self.sigma_max:.6g} (pixels in [-1, 1]): "
                "choose sigma_min and sigma_max of the schedule inside it"
            )


class NetworkDenoiser(Denoiser):
    """Base of the adapters around a network.

    Their ``forward`` and ``score`` also take ``label``: ``[B]`` integers, the classes of the images, for
    class-conditional networks.

    Args:
        network: the network; float32 parameters.
        sigma_min, sigma_max: range of the noise levels of its training, in [-1, 1] pixel units.
        null_label: the class that means "any class", if the network has one.

    Attributes:
        num_classes: number of classes of the network; None if it takes no labels.
        classes: their names, if its file has them: label k is ``classes[k]``.
        notes: remarks on what was found in its file and taken, one line each.
        of_cameras: whether at least half of its training examples had the noise of cameras.
    """

    num_classes: int | None = None
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()
    of_cameras: bool = False

    def __init__(self, network: nn.Module, sigma_min: float, sigma_max: float, null_label: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.null_label = null_label
        self.autocast_dtype: torch.dtype | None = None

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return (self(x, sigma, label) - x) / broadcast_sigma(sigma, x) ** 2

    def call_network(self, x: Tensor, condition: Tensor, label: Tensor | None = None) -> Tensor:
        """Output of the network in x's type; the network computes in ``autocast_dtype`` if set.

        The network sees channels last. Its output is contiguous again, since sums of both layouts are slow.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        labels = () if label is None else (label,)
        with torch.autocast(x.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            out: Tensor = self.network(x, condition, *labels)
        return out.to(x.dtype, memory_format=torch.contiguous_format)
