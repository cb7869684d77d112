"""The mean of the posterior of a noisy image, by Tweedie's formula."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from randomwalk.config.samplers import PosteriorMeanSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.anscombe import stabilised, unbiased_inverse
from randomwalk.operators import Identity, Measurement
from randomwalk.operators.noise import PoissonNoise
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler, Sigmas

OTHERS = "sampler.name random_walk with preconditioned: true, as in configs/photo_inpainting.yaml and photo_deblur.yaml"


class PosteriorMean(Sampler, PosteriorMeanSettings):
    """Denoising by one evaluation at the level of the noise, ``y = x + eta n``:

        E[x | y] = D(y, eta) = y + eta^2 score(y, eta)

    which no other estimate exceeds in mean squared error. Below the network's lowest level s the score at that level
    stands for that at eta. With four ``turns`` R of the image it is the mean of ``R^-1 D(R y, eta)``, which a network
    that is not exactly equivariant approximates better.

    Counts of photons, ``k = peak (y + 1) / 2`` with read noise of standard deviation r photons, are given Gaussian
    noise of variance 1 by Anscombe's transform, denoised and transformed back without bias:

        z = 2 sqrt(k + 3/8 + r^2),   z0, z1 = z at black and at white,   f = 2 / (z1 - z0)
        d = D(f (z - z0) - 1, f),    x = the mean count whose z has the mean z0 + (d + 1) / f, times 2 / peak, minus 1

    Where a file has cut off what was darker than black or brighter than white, the mean of such pixels is corrected for
    it, see `unclipped`.

    Grey images in equal channels of a network for colours have the noise of one channel in three: eta is that of
    `Noise.of_copies` then. The result does not depend on the start, and there is one for each measurement.

    Source: Robbins 1956 and Efron 2011 (Tweedie's formula); Makitalo and Foi 2013 (photons).
    """

    needs = Needs(linear=True, noise=("gaussian", "poisson"), copies=16)

    def num_steps(self, num_levels: int) -> int:
        return 1

    def num_evaluations(self, num_levels: int) -> int | None:
        return self.turns

    def levels(self, denoiser: Denoiser, sigmas: Sigmas | None = None) -> Tensor:
        """One level, here the lowest of the denoiser: `run` takes that of the noise instead."""
        return torch.tensor([denoiser.sigma_min or 1.0], dtype=torch.float64)

    def check(self, measurement: Measurement | None) -> None:
        if measurement is not None and not isinstance(measurement.operator, Identity):
            raise InputError(
                "sampler posterior_mean is for denoising alone, where one evaluation of the network is the mean of the "
                f"posterior; here the operator is {type(measurement.operator).__name__}: take {OTHERS}"
            )
        super().check(measurement)

    def begin(self, problem: Problem) -> Tensor:
        return problem.measurement.y

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        noise, y = problem.measurement.noise, problem.measurement.y.to(problem.blank)
        if isinstance(noise, PoissonNoise):
            x = self._of_counts(problem.denoiser, y, noise)
        else:
            x, std = self._mean(problem.denoiser, y, noise.std), noise.std / noise.copies**0.5
            x = unclipped(x, std, y)
            x = -unclipped(-x, std, -y)
        callback(0, x, noise.std)
        return x

    def _of_counts(self, denoiser: Denoiser, y: Tensor, noise: PoissonNoise) -> Tensor:
        """The mean of images given counts of photons, by Anscombe's transform."""
        peak, read_std = noise.photons, noise.read_photons
        black, white = stabilised(torch.tensor([0.0, peak], dtype=torch.float64), read_std).tolist()
        factor = 2 / (white - black)
        z = (stabilised((y + 1) * (peak / 2), read_std) - black) * factor - 1
        d = unclipped(self._mean(denoiser, z, factor * noise.copies**0.5), factor, y)
        return unbiased_inverse((d + 1) / factor + black, read_std) * (2 / peak) - 1

    def _mean(self, denoiser: Denoiser, y: Tensor, eta: float) -> Tensor:
        """``D(y, eta)``."""
        sigma = max(eta, denoiser.sigma_min)
        total = denoiser(y, sigma)
        for quarter in range(1, self.turns):
            total = total + denoiser(y.rot90(quarter, (-2, -1)), sigma).rot90(-quarter, (-2, -1))
        return y + (total / self.turns - y) * (eta / sigma) ** 2


def unclipped(d: Tensor, std: float, y: Tensor) -> Tensor:
    """The means of values with noise whose means were d after all above white had been cut off, as picture files do.

    ``E[min(x + std n, w)] = w + std g((x - w) / std)`` with ``g(u) = u - u Phi(u) - phi(u)``, solved for x. Rows of y
    without a white pixel, and with one beyond, were not cut off, and stay.

    Source: Foi 2009, "Clipped noisy images: Heteroskedastic modeling and practical denoising".

    Args:
        d: denoised images ``[B, ...]``, with white at 1.
        std: of the noise.
        y: the noisy ones, cut off at 1.
    """
    cut = (y.flatten(1).amax(1) == 1).reshape(-1, *[1] * (y.ndim - 1))
    if not cut.any():
        return d
    u, g = _means_of_clipped()
    v = ((d - 1) / std).cpu().double()
    found = 1 + std * torch.from_numpy(np.interp(v.numpy(), g, u)).to(d)
    return torch.where(cut & (v > g[0]).to(d.device), found.clamp(max=1), d)


@cache
def _means_of_clipped() -> tuple[np.ndarray, np.ndarray]:
    """u, and the mean of ``min(u + n, 0)``."""
    u = np.linspace(-6, 3, 3001)
    phi = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return u, u * ndtr(-u) - phi
