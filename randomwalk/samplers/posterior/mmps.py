"""Moment matching posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from randomwalk.samplers.posterior.conjugate_gradients import conjugate_gradients
from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import ddim, pairs


@dataclass(frozen=True, kw_only=True)
class MMPS(PosteriorSampler):
    """Takes X given X_s = x for a Gaussian with its mean and covariance, both by Tweedie's formulas. Then

        E[X | X_s = x, y] = D + C A^T (A C A^T + eta^2 I)^-1 (y - A D),    C = s^2 dD/dx = Cov[X | X_s = x]

    takes the place of D in the reverse diffusion, from s to the next level p (0 after the last):

        x <- DDIM(x, E) = E + sqrt(p^2 - v^2) / s (x - E) + v n,    v^2 = stochasticity^2 p^2 (s^2 - p^2) / s^2

    The inverse is applied by conjugate gradients, each iteration a product of C with a vector: a backward pass through
    the network. With as many iterations as y has numbers, on any Gaussian prior, E is exact and the samples converge to
    the posterior as the steps grow many; fewer iterations leave out directions of y with a small ``A C A^T``, so that
    the samples follow y less than they should. On any other prior the law of X given X_s is no Gaussian, which is
    a bias that no number of steps removes.

    A network's Jacobian is symmetric only as far as the network is exact. Like the source, this uses the product with
    its transpose wherever C stands and trusts the symmetry; see :func:`conjugate_gradients` for what it does where
    ``A C A^T`` turns out not to be positive.

    Source: Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization", arXiv
    2405.13712.

    Args:
        iterations: of conjugate gradients at every level; the backward passes are ``iterations + 1``.
        stochasticity: 0 for the deterministic steps of DDIM, 1 for the ancestral ones of DDPM.
    """

    needs: ClassVar[Needs] = Needs(linear=True, gradient=True, noise=("gaussian", "none"))

    iterations: int = 3
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        x = levels[0] * problem.normal()
        for k, (s, p) in enumerate(pairs(levels)):
            mean = posterior_mean(problem, x, s, self.iterations)
            x = ddim(problem, x, mean, s, p, self.stochasticity)
            callback(k, x, s)
        return x


def posterior_mean(problem: Problem, x: Tensor, sigma: float, iterations: int) -> Tensor:
    """``E[X | X_s = x, y]`` as if X given X_s were Gaussian, see MMPS."""
    denoised, shift = mean_and_shift(problem, x, sigma, iterations)
    return denoised + shift


def mean_and_shift(problem: Problem, x: Tensor, sigma: float, iterations: int) -> tuple[Tensor, Tensor]:
    """``D(x, s)``, and ``C A^T (A C A^T + eta^2 I)^-1 (y - A D)``, which is what y adds to it."""
    operator = problem.operator
    denoised, product = problem.denoiser.linearized(x, sigma)

    def covariance(v: Tensor) -> Tensor:
        return sigma**2 * product(v)

    def spread(v: Tensor) -> Tensor:
        return operator(covariance(operator.adjoint(v))) + problem.eta**2 * v

    weights = conjugate_gradients(spread, problem.residual(denoised), iterations)
    return denoised, covariance(operator.adjoint(weights))
