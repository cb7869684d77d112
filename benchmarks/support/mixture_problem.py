"""The problem of Cardoso et al. 2023 (MCGDiff, arXiv 2308.07983): a mixture of 25 Gaussians, some noisy measurements.

The posterior is a mixture in closed form, so that the whole distribution of a sampler's samples can be judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from randomwalk import GaussianMixture
from randomwalk.operators import Dense
from randomwalk.operators.noise import GaussianNoise

SLICES = 1000


@dataclass(frozen=True)
class MixtureProblem:
    """A prior, a measurement, and the exact posterior; samples are images of ``[d, 1, 1]``.

    Attributes:
        prior: 25 components Normal(m_k, I), ``m = (-8 i, -8 j, -8 i, -8 j, ...)`` for i and j from -2 to 2, with
            weights like squares of normal draws.
        operator: A ``[m, d]``, singular vectors of a normal matrix, singular values uniform on [0, 1].
        y: ``A x + eta n`` with x from the prior, ``[1, m]``; eta uniform on [0, largest singular value].
    """

    prior: GaussianMixture
    operator: Dense
    noise: GaussianNoise
    y: Tensor

    @cached_property
    def spread(self) -> Tensor:
        """``A A^T + eta^2 I``, the covariance of y given a component, ``[m, m]``."""
        A = self.operator.matrix[0]
        return A @ A.T + self.noise.std**2 * torch.eye(len(A), dtype=A.dtype)

    @cached_property
    def weights(self) -> Tensor:
        """Weights of the components given y, ``[25]``."""
        predicted = self.prior.means @ self.operator.matrix[0].T
        evidence = torch.distributions.MultivariateNormal(predicted, self.spread).log_prob(self.y)
        return (self.prior.log_weights + evidence).softmax(0)

    def exact(self, num: int, seed: int) -> Tensor:
        """Exact samples of the posterior, ``[num, d]``: with x from component k and y' = A x + eta n,

        x + A^T (A A^T + eta^2 I)^-1 (y - y') is a sample of component k given y.
        """
        draws, A = np.random.default_rng(seed), self.operator.matrix[0]
        chosen = torch.from_numpy(draws.choice(25, num, p=self.weights.numpy()))
        x = self.prior.means[chosen] + torch.from_numpy(draws.standard_normal((num, A.shape[1])))
        simulated = x @ A.T + self.noise.std * torch.from_numpy(draws.standard_normal((num, len(A))))
        return x + torch.linalg.solve(self.spread, (self.y - simulated).T).T @ A

    def weight_error(self, x: Tensor) -> float:
        """Half the sum of the errors of the 25 weights of the components, by the samples ``x [N, d]``."""
        found = self.prior.responsibilities(x.reshape(-1, *self.prior.event_shape)).mean(0)
        return float((found - self.weights).abs().sum() / 2)


def make_problem(d: int, m: int, seed: int) -> MixtureProblem:
    """One problem, in float64.

    Args:
        d: dimension of x, even.
        m: dimension of y.
        seed: of everything that is drawn.
    """
    draws = np.random.default_rng(seed)
    grid = [(-8.0 * i, -8.0 * j) for i in range(-2, 3) for j in range(-2, 3)]
    means = torch.tensor(grid, dtype=torch.float64).repeat(1, d // 2)
    prior = GaussianMixture(draws.standard_normal(25) ** 2, means.reshape(25, d, 1, 1), 1.0)
    u, s, vt = np.linalg.svd(draws.standard_normal((m, d)), full_matrices=False)
    s = np.sort(draws.uniform(size=m))[::-1]
    operator = Dense((d, 1, 1), torch.from_numpy((u * s) @ vt))
    noise = GaussianNoise(float(draws.uniform() * s[0]))
    y = operator(prior.sample(1, draws)) + noise.std * torch.from_numpy(draws.standard_normal((1, m)))
    return MixtureProblem(prior, operator, noise, y)


def sliced(x: Tensor, exact: Tensor, seed: int = 0) -> tuple[float, float]:
    """Sliced Wasserstein distances of two sets of as many points, ``[N, d]`` each.

    The first is that of the paper: the mean over random unit directions of the distance W1 of the projections, which
    for sets of the same size is the mean difference of their sorted values. The second is the root of the mean W2^2.
    """
    directions = torch.randn(x.shape[1], SLICES, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    directions = directions / directions.norm(dim=0)
    difference = (x @ directions).sort(0).values - (exact @ directions).sort(0).values
    return float(difference.abs().mean()), float(difference.square().mean().sqrt())
