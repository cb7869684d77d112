"""Moment matching posterior sampling."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from randomwalk.config.samplers import MMPSSettings
from randomwalk.operators.solve import iterates
from randomwalk.samplers.posterior.steps import ddim
from randomwalk.samplers.sampler import Needs, Problem, Sampler


class MMPS(Sampler, MMPSSettings):
    """Approximates X given X_s = x by a Gaussian with its mean and covariance, both by Tweedie's formulas. Then

        E[X | X_s = x, y] = D + C A^T (A C A^T + eta^2 I)^-1 (y - A D),    C = s^2 dD/dx = Cov[X | X_s = x]

    takes the place of D in the reverse diffusion, from s to the next level p (0 after the last):

        x <- DDIM(x, E) = E + sqrt(p^2 - v^2) / s (x - E) + v n,    v^2 = stochasticity^2 p^2 (s^2 - p^2) / s^2

    The inverse is applied by conjugate gradients, each iteration a product of C with a vector: a backward pass through
    the network. With as many iterations as y has entries, on any Gaussian prior, E is exact and the samples converge to
    the posterior with the number of steps; fewer iterations leave out directions of y with a small ``A C A^T``, so that
    the samples follow y less than they should. On any other prior X given X_s is not Gaussian, a bias that no number of
    steps removes.

    A network's Jacobian is symmetric only as far as the network is exact. Like the source, this uses the product with
    the transpose in place of C; see :func:`conjugate_gradients` for the case of an ``A C A^T`` that is not positive.

    Source: Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization", arXiv
    2405.13712.
    """

    needs = Needs(linear=True, gradient=True, noise=("gaussian", "none"))

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        denoised, shift = mean_and_shift(problem, x, sigma, self.iterations)
        return ddim(problem, x, denoised + shift, sigma, sigma_next, self.stochasticity)


def mean_and_shift(problem: Problem, x: Tensor, sigma: float, iterations: int) -> tuple[Tensor, Tensor]:
    """``D(x, s)``, and the shift of the mean by y, ``C A^T (A C A^T + eta^2 I)^-1 (y - A D)``."""
    operator = problem.operator
    denoised, product = problem.denoiser.linearized(x, sigma)

    def covariance(v: Tensor) -> Tensor:
        return sigma**2 * product(v)

    def spread(v: Tensor) -> Tensor:
        return operator(covariance(operator.adjoint(v))) + problem.eta**2 * v

    weights = conjugate_gradients(spread, problem.residual(denoised), iterations)
    return denoised, covariance(operator.adjoint(weights))


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Approximate solutions u of ``V u = b``, from u = 0: exact after as many iterations as b has entries.

    Every row of the batch has its own step sizes. A row stops when its residual is down to rounding, or when
    ``v^T V v`` is not positive in its direction v, against the assumption on V. The products continue for the other
    rows: their number is always ``iterations``.

    Source: Hestenes and Stiefel 1952.

    Args:
        product: ``v -> V v`` on each row, V symmetric and positive definite.
        b: ``[B, ...]``.
        iterations: products with V.
    """
    tolerance = 10 * torch.finfo(b.dtype).eps
    return next(islice(iterates(product, b, tolerance, restart=False), iterations, None))[0]
