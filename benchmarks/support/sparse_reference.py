"""The posterior of a sparse prior by a collapsed Gibbs sampler, and the error of samples against it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dger
from torch import Tensor

from support.sparse_problem import SparseProblem

REFRESH = 100
"""Sweeps after which the matrices are computed anew, so that rounding does not add up."""
KEPT = 1000
"""Gaussians, about, that describe the marginal distributions."""


class Chains:
    """Gibbs samplers of the variances D of the coefficients given y, with the coefficients integrated out.

    Given D, y has the covariance ``S = B D B^T + eta^2 I`` with ``B = A Psi``. With ``M = B^T S^-1 B`` and
    ``u = B^T S^-1 y``, a change of the variance of coefficient i by delta changes the logarithm of p(y | D) by

        -log(1 + delta M_ii) / 2 + delta u_i^2 / (2 (1 + delta M_ii))

    and M and u by multiples of ``M_i M_i^T`` and of ``M_i u_i``. The coefficients given D are Gaussian, with the mean
    ``D u`` and the variances ``D - D M D``, so that means over a chain are of these, and not of draws.

    Args:
        problem: prior and measurement.
        num: number of independent chains, which start from draws of the prior.
        seed: of their draws.
    """

    def __init__(self, problem: SparseProblem, num: int, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.B, self.y = problem.matrix().numpy(), problem.y.flatten().numpy()
        self.eta, scales = problem.noise.std, problem.prior.scales
        self.variances, self.log_weights = scales.variances.numpy(), scales.weights.log().numpy()
        d = self.B.shape[1]
        self.D = self.draws.choice(self.variances, (num, d), p=scales.weights.numpy())
        self.M, self.u = np.empty((num, d, d)), np.empty((num, d))
        self.refresh()

    def refresh(self) -> None:
        """Compute M and u from D."""
        for c, D in enumerate(self.D):
            S = (self.B * D) @ self.B.T + self.eta**2 * np.eye(len(self.B))
            found = self.B.T @ np.linalg.solve(S, np.column_stack([self.B, self.y]))
            self.M[c], self.u[c] = found[:, :-1], found[:, -1]

    def sweep(self) -> None:
        """Draw the variance of every coefficient in turn, given the others and y."""
        num, d = self.D.shape
        # The largest of log weights with independent noise of Gumbel's law is a draw by the weights.
        noise = self.log_weights - np.log(-np.log(self.draws.random((d, num, len(self.variances)))))
        diagonals = np.einsum("cii->ci", self.M)
        for i in range(d):
            delta = self.variances - self.D[:, i, None]
            factor = 1 + delta * diagonals[:, i, None]
            log = (delta * (self.u[:, i, None] ** 2) / factor - np.log(factor)) / 2 + noise[i]
            chosen = log.argmax(1)
            for c in (self.variances[chosen] != self.D[:, i]).nonzero()[0]:
                k, row = chosen[c], self.M[c, i].copy()
                share = delta[c, k] / factor[c, k]
                self.u[c] -= share * self.u[c, i] * row
                dger(-share, row, row, a=self.M[c].T, overwrite_a=True)  # M is symmetric; in place
                self.D[c, i] = self.variances[k]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each coefficient given D and y, ``[num, d]``."""
        return self.D * self.u, self.D - self.D**2 * np.einsum("cii->ci", self.M)


@dataclass(frozen=True)
class Reference:
    """The posterior of every coefficient as an even mixture of Gaussians.

    Attributes:
        means, stds: of the Gaussians, ``[R, d]``.
        mean, std: of the posterior, ``[d]``.
        error: standard error of the mean in posterior standard deviations, root mean square over the coefficients,
            from the differences between chains.
    """

    means: Tensor
    stds: Tensor
    mean: Tensor
    std: Tensor
    error: float

    def probability(self, low: Tensor, high: Tensor) -> Tensor:
        """Probability of an interval of every coefficient, ``[d]``."""
        inside = torch.special.ndtr((high - self.means) / self.stds) - torch.special.ndtr(
            (low - self.means) / self.stds
        )
        return inside.mean(0)

    def draws(self, num: int, seed: int) -> Tensor:
        """Draws of every coefficient alone, ``[num, d]``."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.means), (num, self.means.shape[1]), generator=generator)
        normal = torch.randn(chosen.shape, generator=generator, dtype=self.means.dtype)
        return self.means.gather(0, chosen) + self.stds.gather(0, chosen) * normal


def reference(problem: SparseProblem, chains: int, sweeps: int, burn_in: int, seed: int) -> Reference:
    """The posterior, from independent chains that start from draws of the prior."""
    means, variances = np.empty((2, chains, sweeps, problem.truth.numel()))
    running = Chains(problem, chains, seed)
    for k in range(burn_in + sweeps):
        running.sweep()
        if k % REFRESH == 0:
            running.refresh()
        if k >= burn_in:
            means[:, k - burn_in], variances[:, k - burn_in] = running.moments()
    mean = means.mean((0, 1))
    std = np.sqrt(variances.mean((0, 1)) + means.var((0, 1)))
    spread = means.mean(1).std(0, ddof=1) / math.sqrt(chains) / std
    thin = max(1, chains * sweeps // KEPT)
    every, kept = (torch.from_numpy(v.reshape(-1, len(mean))[::thin].copy()) for v in (means, variances))
    return Reference(
        every, kept.sqrt(), torch.from_numpy(mean), torch.from_numpy(std), float(np.sqrt((spread**2).mean()))
    )


def errors(z: Tensor, exact: Reference) -> dict[str, float]:
    """Errors of samples ``z [N, d]`` of the coefficients.

    Returns:
        mean_error: root mean square over the coefficients of the error of the mean, in posterior standard deviations.
        std_error: the same for the standard deviation.
        std_ratio: mean over the coefficients of the ratio of the standard deviations.
        coverage_90: probability, by the reference, of the intervals from the 5% to the 95% quantile of the samples.
        w1: mean distance W1 of the marginal distributions, in posterior standard deviations.
    """
    z = z.to(exact.mean)
    ratio = z.std(0) / exact.std
    low, high = torch.quantile(z, torch.tensor([0.05, 0.95], dtype=z.dtype), dim=0)
    far = (z.sort(0).values - exact.draws(len(z), 0).sort(0).values).abs().mean(0)
    return {
        "mean_error": float(((z.mean(0) - exact.mean) / exact.std).square().mean().sqrt()),
        "std_error": float((ratio - 1).square().mean().sqrt()),
        "std_ratio": float(ratio.mean()),
        "coverage_90": float(exact.probability(low, high).mean()),
        "w1": float((far / exact.std).mean()),
    }
