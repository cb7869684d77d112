"""Tools for tests of objectives: a linear model of the score, and expectations without sampling error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.training.losses import Estimate, ImplicitScoreMatching, Probes, SlicedScoreMatching, squared_error

COVARIANCE = {
    2: [[1.5, 0.8], [0.8, 0.6]],
    3: [[1.0, 0.3, 0.2], [0.3, 0.5, -0.2], [0.2, -0.2, 0.9]],
}


@dataclass(frozen=True)
class Linear:
    """Denoiser ``D(x, sigma) = x - sigma^2 (W x + b)``, whose score is linear with one W and b for all levels.

    The score of Normal(0, S) at one sigma is ``W = (S + sigma^2 I)^-1``.
    """

    W: Tensor
    b: Tensor

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        score = -(x.flatten(1) @ self.W.T + self.b)
        return x + sigma[:, None, None, None] ** 2 * score.reshape(x.shape)


def cubature(n: int) -> Tensor:
    """Points ``[2n, n]`` over which the mean of any polynomial of degree 3 is its expectation under Normal(0, I_n)."""
    root = math.sqrt(n) * torch.eye(n, dtype=torch.float64)
    return torch.cat([root, -root])


def all_pairs(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Points X ~ Normal(0, S) and N, ``[4d, d, 1, 1]``, over which the mean of a linear model's loss, a quadratic
    function, is its expectation."""
    d = len(covariance)
    points = cubature(2 * d)
    x = points[:, :d] @ torch.linalg.cholesky(covariance).T
    return x[:, :, None, None], points[:, d:, None, None]


def all_probes(kind: str, d: int) -> Tensor:
    """Probes ``[K, d]`` over which the mean of any quadratic function is its expectation."""
    if kind == "gaussian":
        return cubature(d)
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d)


def estimates(d: int) -> dict[str, tuple[Estimate, str]]:
    """Every estimate of the error with the kind of its probes, as many as `all_probes` gives."""
    probes = {kind: Probes(kind, len(all_probes(kind, d))) for kind in ("rademacher", "gaussian")}
    return {
        "denoising": (squared_error, "rademacher"),
        "implicit, exact": (ImplicitScoreMatching(True), "rademacher"),
        **{f"implicit, {kind}": (ImplicitScoreMatching(False, p), kind) for kind, p in probes.items()},
        **{f"sliced, {kind}": (SlicedScoreMatching(p), kind) for kind, p in probes.items()},
    }


NAMES = list(estimates(2))


def expectation(name: str, model: Linear, covariance: Tensor, sigma: float) -> Tensor:
    """Expectation of the estimate ``name`` at one noise level, without sampling error."""
    error, kind = estimates(len(covariance))[name]
    x, noise = all_pairs(covariance)
    probes = all_probes(kind, len(covariance))[:, :, None, None]

    def normal(shape: tuple[int, ...]) -> Tensor:
        assert shape == tuple(probes.shape)
        return probes.expand(len(x), *shape)

    return error(model, x, noise, torch.full((len(x),), sigma, dtype=torch.float64), normal).mean()
