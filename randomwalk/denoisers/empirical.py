"""The exact denoiser of a finite set of images: the optimum of a training on a few images."""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser, broadcast_sigma
from randomwalk.errors import InputError
from score_sde.devices import exact_type


class EmpiricalDenoiser(Denoiser):
    """E[X | X + sigma N = x] for X uniform on n images x_k:

        D(x, sigma) = sum_k w_k x_k,    w = softmax_k( -|x - x_k|^2 / (2 sigma^2) )

    It minimises the denoising loss on these images, and sampling with it returns them. With labels, the indices of the
    images, it returns the image of that index for all x: the optimum of a network conditioned on the index.
    `GaussianMixture` with covariance 0 is the same for few images; this one takes any number, in chunks.

    Args:
        images: ``[n, C, H, W]`` in [-1, 1].
        chunk: images compared at once.

    Raises:
        InputError: there are no images, or they have another shape or are not finite.
    """

    images: Tensor

    def __init__(self, images: Tensor, chunk: int = 1024) -> None:
        super().__init__()
        if images.ndim != 4 or not images.numel() or not images.is_floating_point() or not images.isfinite().all():
            raise InputError(f"empirical denoiser: expected finite images [n, C, H, W], found {tuple(images.shape)}")
        self.register_buffer("images", images.detach().clone(), persistent=False)
        self.channels = images.shape[1]
        self.image_size = images.shape[2] if images.shape[2] == images.shape[3] else None
        self.chunk = chunk

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        if label is not None:
            return self.images[label].to(x)
        weights = self.responsibilities(x, sigma)
        out = torch.zeros_like(x, dtype=weights.dtype).flatten(1)
        for share, part in zip(weights.split(self.chunk, 1), self.images.split(self.chunk), strict=True):
            out = out + share @ part.flatten(1).to(weights.dtype)
        return out.reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """grad log p_sigma(x) = (D(x, sigma) - x) / sigma^2."""
        return (self(x, sigma, label) - x) / broadcast_sigma(sigma, x) ** 2

    def responsibilities(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Probability of each image given ``X_sigma = x``, ``[B, n]``; at sigma = 0, 1 for the nearest.

        In float64, or in float32 on a device without it.
        """
        z = x.flatten(1).to(exact_type(x.device))
        distances = torch.cat([self._distances(z, part) for part in self.images.split(self.chunk)], 1)
        above = distances - distances.detach().amin(1, keepdim=True)
        variance = torch.as_tensor(sigma, dtype=z.dtype, device=x.device).reshape(-1, 1) ** 2
        return (-above / (2 * variance.clamp_min(torch.finfo(z.dtype).tiny))).softmax(1)

    @staticmethod
    def _distances(z: Tensor, part: Tensor) -> Tensor:
        """``|x - x_k|^2`` up to the common |x|^2, which would cost digits at large sigma; ``[B, chunk]``."""
        points = part.flatten(1).to(z)
        return points.square().sum(1) - 2 * z @ points.T
