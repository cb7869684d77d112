"""The posterior of a sparse prior by a collapsed Gibbs sampler, and the error of samples against it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dgemm
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from support.sparse_problem import Scales, SparseProblem

REFRESH = 100
"""Sweeps after which the matrices are computed anew, so that rounding does not add up."""
HELD = 32
"""Changes of a matrix that are collected before they are made."""
LONGEST = 16
"""Times the given number of sweeps that chains are continued for at most."""
KEPT = 1000
"""Gaussians, about, that describe the marginal distributions."""


class Chains:
    """Gibbs samplers of the variances D of the coefficients given y, with the coefficients integrated out.

    Given D, y has the covariance ``S = B D B^T + eta^2 I`` with ``B = A Psi``. With ``M = B^T S^-1 B`` and
    ``u = B^T S^-1 y``, a change of the variance of coefficient i by delta changes the logarithm of p(y | D) by

        -log(1 + delta M_ii) / 2 + delta u_i^2 / (2 (1 + delta M_ii))

    and M and u by multiples of ``M_i M_i^T`` and of ``M_i u_i``. The coefficients given D are Gaussian, with the mean
    ``D u`` and the variances ``D - D M D``, so that means over a chain are of these, and not of draws.

    All matrices come from ``G = B^T B / eta^2`` and ``b = B^T y / eta^2``: ``M = (I + G D)^-1 G``,
    ``u = (I + G D)^-1 b``. So coefficients that G does not couple have chains of their own, in blocks of k. The changes
    of M are collected and made together, by a product of matrices.

    Args:
        gram: G of each block, ``[K, k, k]``.
        projected: b, ``[K, k]``.
        scales: density of a coefficient.
        num: number of independent chains of each block, which start from draws of the prior.
        draws: theirs.
    """

    def __init__(
        self, gram: np.ndarray, projected: np.ndarray, scales: Scales, num: int, draws: np.random.Generator
    ) -> None:
        self.draws, self.gram, self.projected, self.num = draws, gram, projected, num
        self.variances, self.log_weights = scales.variances.numpy(), scales.weights.log().numpy()
        rows, k = len(gram) * num, gram.shape[1]  # the chains of the first block, those of the second, ...
        self.D = draws.choice(self.variances, (rows, k), p=scales.weights.numpy())
        self.M, self.u, self.diagonals = np.empty((rows, k, k)), np.empty((rows, k)), np.empty((rows, k))
        # M is that in the memory less the sum of share v v^T over the changes held.
        self.held, self.changes, self.shares = np.zeros(rows, int), np.zeros((rows, HELD, k)), np.zeros((rows, HELD))
        self.refresh()

    def refresh(self) -> None:
        """Compute M and u from D."""
        for c, D in enumerate(self.D):
            G, b = self.gram[c // self.num], self.projected[c // self.num]
            found = np.linalg.solve(np.eye(len(D)) + G * D, np.column_stack([G, b]))
            self.M[c], self.u[c] = found[:, :-1], found[:, -1]
        self.diagonals[:] = np.einsum("cii->ci", self.M)
        self.held[:] = 0
        self.shares[:] = 0

    def sweep(self) -> None:
        """Draw the variance of every coefficient in turn, given the others and y."""
        rows, k = self.D.shape
        # The largest of log weights with independent noise of Gumbel's law is a draw by the weights.
        noise = self.log_weights - np.log(-np.log(self.draws.random((k, rows, len(self.variances)))))
        for i in range(k):
            delta = self.variances - self.D[:, i, None]
            factor = 1 + delta * self.diagonals[:, i, None]
            log = (delta * (self.u[:, i, None] ** 2) / factor - np.log(factor)) / 2 + noise[i]
            chosen = log.argmax(1)
            changed = (self.variances[chosen] != self.D[:, i]).nonzero()[0]
            if len(changed):
                taken = chosen[changed]
                self.change(i, changed, delta[changed, taken] / factor[changed, taken])
                self.D[changed, i] = self.variances[taken]

    def change(self, i: int, chains: np.ndarray, share: np.ndarray) -> None:
        """Take ``share M_i M_i^T`` from M, and ``share u_i M_i`` from u, of some chains."""
        row, held = self.M[chains, i], self.held[chains]
        if most := held.max():
            before = self.changes[chains, :most]
            row -= ((self.shares[chains, :most] * before[:, :, i])[:, None] @ before)[:, 0]
        self.u[chains] -= (share * self.u[chains, i])[:, None] * row
        self.diagonals[chains] -= share[:, None] * row**2
        self.changes[chains, held], self.shares[chains, held] = row, share
        self.held[chains] += 1
        for c in chains[held + 1 == HELD]:
            scaled = self.shares[c, :, None] * self.changes[c]
            dgemm(-1.0, self.changes[c].T, scaled.T, 1.0, self.M[c].T, trans_b=1, overwrite_c=1)  # in place
            self.held[c] = 0
            self.shares[c] = 0

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each coefficient given D and y, ``[num, K k]``."""
        both = self.D * self.u, self.D - self.D**2 * self.diagonals
        mean, variance = (v.reshape(-1, self.num, v.shape[1]).swapaxes(0, 1).reshape(self.num, -1) for v in both)
        return mean, variance


@dataclass(frozen=True)
class Reference:
    """The posterior of every coefficient as an even mixture of Gaussians.

    Attributes:
        means, stds: of the Gaussians, ``[R, d]``.
        mean, std: of the posterior, ``[d]``.
        error: standard error of the mean in posterior standard deviations, root mean square over the coefficients,
            from the differences between chains.
        sweeps: of each chain, without those that were thrown away.
    """

    means: Tensor
    stds: Tensor
    mean: Tensor
    std: Tensor
    error: float
    sweeps: int

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


def blocks(gram: np.ndarray) -> list[np.ndarray]:
    """Coefficients that a matrix couples: for each size of a set of such the sets, ``[K, k]``."""
    num, labels = connected_components(np.abs(gram) > 1e-9 * np.abs(gram).max(), directed=False)
    order, sizes = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=num)
    sets = np.split(order, np.cumsum(sizes)[:-1])
    return [np.stack([s for s in sets if len(s) == size]) for size in np.unique(sizes)]


def reference(problem: SparseProblem, chains: int, sweeps: int, burn_in: int, seed: int, wanted: float) -> Reference:
    """The posterior, from independent chains that start from draws of the prior.

    Chains are continued, to twice as many sweeps each time, until the standard error of the mean is as wanted, or for
    `LONGEST` times as many sweeps.

    Args:
        chains: their number.
        sweeps: of each chain, at least.
        burn_in: sweeps before these, of which nothing is kept.
        seed: of all draws.
        wanted: standard error of the mean, see `Reference`.
    """
    B, draws = problem.matrix().numpy(), np.random.default_rng(seed)
    gram, projected = B.T @ B / problem.noise.std**2, B.T @ problem.y.flatten().numpy() / problem.noise.std**2
    sets = blocks(gram)
    running = [Chains(gram[s[:, :, None], s[:, None]], projected[s], problem.prior.scales, chains, draws) for s in sets]
    order = np.argsort(np.concatenate([s.ravel() for s in sets]))
    every: list[tuple[np.ndarray, np.ndarray]] = []
    first, total = -burn_in, sweeps
    while True:
        for k in range(first, total):
            for part in running:
                part.sweep()
                if k % REFRESH == 0:
                    part.refresh()
            if k >= 0:
                mean, variance = zip(*(part.moments() for part in running), strict=True)
                every.append((np.concatenate(mean, 1)[:, order], np.concatenate(variance, 1)[:, order]))
        means, variances = (np.stack(v, 1) for v in zip(*every, strict=True))  # [chains, sweeps, d]
        mean, std = means.mean((0, 1)), np.sqrt(variances.mean((0, 1)) + means.var((0, 1)))
        error = float(np.sqrt(np.square(means.mean(1).std(0, ddof=1) / std).mean() / chains))
        if error <= wanted or total >= LONGEST * sweeps:
            break
        first, total = total, 2 * total
    thin = max(1, chains * total // KEPT)
    m, v = (torch.from_numpy(all_of.reshape(-1, len(std))[::thin].copy()) for all_of in (means, variances))
    return Reference(m, v.sqrt(), torch.from_numpy(mean), torch.from_numpy(std), error, total)


def errors(z: Tensor, exact: Reference) -> dict[str, float]:
    """Errors of samples ``z [N, d]`` of the coefficients.

    Returns:
        mean_error: root mean square over the coefficients of the error of the mean, in posterior standard deviations.
        std_error: the same for the standard deviation.
        std_ratio: mean over the coefficients of the ratio of the standard deviations.
        coverage_90: probability, by the reference, of the intervals from the 5% to the 95% quantile of the samples.
        w1: mean distance W1 of the marginal distributions, in posterior standard deviations.
        mmse_gap: decibels by which the mean of the samples is worse than the posterior mean, expected given y.
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
        "mmse_gap": 10 * math.log10(1 + float((z.mean(0) - exact.mean).square().sum() / exact.std.square().sum())),
    }
