"""Measurements of Gaussian images with the mean and covariance of Fashion-MNIST, their exact posteriors, and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from randomwalk import GaussianMixture, operators
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.operators import Operator
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import generator
from support import frechet
from support.common import RunFolder

PRIOR = Path(__file__).parents[1] / "fashion_mnist_8x8.npz"
SHAPE = (1, 8, 8)
LEVEL = 0.9
"""Nominal coverage of the intervals."""

OPERATORS: dict[str, dict[str, Any]] = {
    "inpainting": {"missing": 0.5},
    "super_resolution": {"factor": 2},
    "gaussian_blur": {"std": 1.0},
    "compressed_sensing": {"ratio": 0.25, "matrix": "dense"},
    "fourier_subsampling": {"acceleration": 2.0, "center_fraction": 0.25},
}
NOISES = (0.1, 0.2)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[1, 8, 8]`` and covariance ``[64, 64]``, float64, of the middle 24x24 pixels averaged over 3x3.

    Args:
        images: ``[N, 1, 32, 32]``.
    """
    pixels = F.avg_pool2d(images[..., 4:28, 4:28].double(), 3).flatten(1)
    return pixels.mean(0).reshape(SHAPE), torch.cov(pixels.T, correction=0)


def write_prior(folder: Path, path: Path = PRIOR) -> None:
    """Compute the prior from the training images of Fashion-MNIST in ``folder``, and write it."""
    mean, covariance = moments(frechet.load_split(folder, "train")[0])
    RunFolder(path.parent).write(
        path.name, lambda file: np.savez_compressed(file, mean=mean.numpy(), covariance=covariance.numpy())
    )


class GaussianPrior(Denoiser):
    """``X ~ Normal(m, S)``, and ``D(x, sigma) = m + S (S + sigma^2 I)^-1 (x - m)`` by one product with a matrix.

    What GaussianMixture computes for one component, in half the time: matrices are kept for the levels seen last.

    Args:
        mean: ``[1, 8, 8]``.
        covariance: ``[64, 64]``.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.exact = GaussianMixture([1.0], mean[None], covariance[None])
        self.matrices: dict[float, Tensor] = {}

    @classmethod
    def load(cls, path: Path = PRIOR) -> GaussianPrior:
        """The prior that comes with the benchmarks."""
        with np.load(path) as file:
            return cls(torch.from_numpy(file["mean"]), torch.from_numpy(file["covariance"]))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        matrix = self._matrix(float(sigma))
        return (self.mean.flatten() + (x - self.mean).flatten(1) @ matrix).reshape(x.shape)

    def _matrix(self, sigma: float) -> Tensor:
        if sigma not in self.matrices:
            if len(self.matrices) > 2000:
                self.matrices.clear()
            basis, values = self.exact.basis, self.exact.eigenvalues[0]
            assert basis is not None
            with torch.inference_mode(False):  # the walk's tensors could not be used where gradients are wanted
                self.matrices[sigma] = (basis[0] * (values / (values + sigma**2))) @ basis[0].T
        return self.matrices[sigma]


@dataclass(frozen=True)
class GaussianProblem:
    """Measurements of several images by one operator.

    Attributes:
        name: of the operator, and the noise.
        y: ``[M, *measurement_shape]``.
        means: of the exact posteriors, ``[M, d]``.
        covariance: of all of them (it does not depend on y), ``[d, d]``.
    """

    name: str
    prior: GaussianPrior
    operator: Operator
    noise: GaussianNoise
    y: Tensor
    means: Tensor
    covariance: Tensor

    @property
    def rank(self) -> int:
        """Rank of the operator; y may have entries without information, such as missing pixels."""
        columns = self.operator(torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE))
        return int(torch.linalg.matrix_rank(columns.flatten(1), rtol=1e-6))

    @property
    def std(self) -> Tensor:
        """Standard deviation of the pixels in the posterior, ``[d]``."""
        return self.covariance.diagonal().sqrt()

    def exact(self, num_samples: int, seed: int) -> Tensor:
        """Samples of the posteriors, ``[M, S, d]``."""
        draws = torch.Generator().manual_seed(seed)
        normal = torch.randn(len(self.means), num_samples, len(self.std), generator=draws, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(self.covariance)
        return self.means[:, None] + normal @ (vectors * values.clamp_min(0).sqrt()).T


def make_problem(prior: GaussianPrior, name: str, std: float, num: int, seed: int) -> GaussianProblem:
    """``num`` fresh images, measured by one operator; operator, images and noise are drawn from the seed."""
    place = list(OPERATORS).index(name)
    generators = [generator(seed, place, 0)]
    operator = operators.make(name, image_shape=SHAPE, generators=generators, **OPERATORS[name]).double()
    draws, noise = generator(seed, place, 1), GaussianNoise(std)
    clean = operator(prior.exact.sample(num, draws))
    y = clean + std * torch.from_numpy(draws.standard_normal(clean.shape))
    posteriors = [prior.exact.posterior(operator, one, std) for one in y]
    means = torch.stack([p.means[0] for p in posteriors])
    return GaussianProblem(f"{name}, noise {std:g}", prior, operator, noise, y, means, posteriors[0].covariances()[0])


# --- errors --------------------------------------------------------------------------------------------------


def order_statistic(num_samples: int) -> int:
    """j, such that the j-th smallest and the j-th largest sample include a share of 0.9 of the posterior.

    It includes ``(S + 1 - 2 j) / (S + 1)`` in expectation, which is 0.9 if 20 divides S + 1.
    """
    return round((num_samples + 1) * (1 - LEVEL) / 2)


def judge(problem: GaussianProblem, x: Tensor) -> dict[str, float]:
    """Errors of samples ``[M, S, d]``, squared where they are errors of moments.

    With the exact mean m and standard deviation s of every pixel, and ``|.|^2`` sums over pixels, averaged over M,

        mean_sq        = |mean of samples - m|^2 / |s|^2
        std_sq         = |std of samples - s|^2 / |s|^2
        mean_floor_sq  = |std of samples|^2 / S / |s|^2          what S independent samples have by chance,
        std_floor_sq   = |std of samples|^2 / (2 (S - 1)) / |s|^2    if they are nearly Gaussian

    and ``spread = sqrt(|std of samples|^2 / |s|^2)``. ``coverage`` is the probability, under the exact posterior, of
    the interval of every pixel from the j-th smallest to the j-th largest sample, averaged over pixels: the share of
    true pixels that it covers, without the chance of drawing them.
    """
    num = x.shape[1]
    total = problem.std.square().sum()
    mean, std = x.mean(1), x.std(1)
    spread = float(std.square().sum(1).mean() / total)
    j = order_statistic(num)
    ordered = x.sort(1).values
    low, high = ((ordered[:, k] - problem.means) / problem.std for k in (j - 1, num - j))
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    return {
        "mean_sq": float((mean - problem.means).square().sum(1).mean() / total),
        "std_sq": float((std - problem.std).square().sum(1).mean() / total),
        "mean_floor_sq": spread / num,
        "std_floor_sq": spread / (2 * (num - 1)),
        "spread": math.sqrt(spread),
        "coverage": float(inside.mean()),
    }


def corrected(found: Mapping[str, float], moment: str) -> float:
    """Error of a moment, "mean" or "std", less its floor; the root of the difference of squares, 0 if negative."""
    return math.sqrt(max(0.0, found[f"{moment}_sq"] - found[f"{moment}_floor_sq"]))
