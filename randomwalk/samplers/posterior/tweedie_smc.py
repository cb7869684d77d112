"""Sequential Monte Carlo with second-order Tweedie moments: exact as its computation grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.operators.noise import Likelihood, Noise
from randomwalk.samplers.posterior.implicit_moments import ImplicitMoments, implicit_moments
from randomwalk.samplers.posterior.moments import Moments, measured_directions, moments
from randomwalk.samplers.posterior.particles import resampled
from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require

_FLOOR = 1e-3
"""The last step has fresh noise too, this fraction of the lowest level, so that its densities exist."""


@dataclass(frozen=True, kw_only=True)
class TweedieSMC(PosteriorSampler):
    """Particles that go down the noise levels by the reverse diffusion, bent towards y, and weighted for the bend.

    Without y, the step from level s to the next level p is the Gaussian whose first two moments are those of the
    reverse diffusion, both by Tweedie's formulas (a = 1 - p^2 / s^2, C = s^2 dD/dx = Cov[X | X_s = x]):

        M(x' | x) = Normal(x + a (D - x),  p^2 a I + a^2 C)

    What y will say is foreseen by ``g_s(x) = Normal(y; A D(x, s), A C A^T + eta^2 I)``, which would be p(y | X_s = x)
    if X given X_s were Gaussian. Particles move by ``Q(x' | x, y)``, M conditioned on y in the same Gaussian, and the
    weight of each is multiplied by ``g_p(x') M(x' | x) / (g_s(x) Q(x' | x, y))``; the last g is f(y | x')
    itself. The first step, from nowhere to the highest level, is alike: p(x') ~ Normal(D(0), s^2 I + C(0)). Where the
    effective number of particles is small they are resampled. Weights are 1 on a Gaussian prior, whatever y is.

    Why it is exact. In the product of the weights along a path all g but the last cancel, so that the weighted
    particles target ``f(y | x_0) prod M(x_k+1 | x_k)``: with the particles their averages converge to the posterior
    of the prior that the chain of M ends in (Del Moral 2004, Feynman-Kac Formulae, section 7.4), whatever g and Q are;
    these decide how many it takes. With the levels (their ratios to 1, the highest to infinity, the lowest to 0)
    that chain converges to the reverse diffusion, which ends in the prior: M has its exact mean and, up to what is said
    below, its exact covariance, so that only third moments are missed. Assumed are a denoiser that is the posterior
    mean of a prior with a finite third moment, a linear A and Gaussian noise. The samples of one measurement depend on
    each other, as those of every particle method do.

    What is approximate in C. The covariance is known by products with vectors, one backward pass each. Up to
    ``max_rank``, there is one for each number of y and for some ``probes``: C is exact where y looks and where the
    probes are, and isotropic elsewhere (`moments`); with ``probes = d - rank(A)`` it is exact.
    This changes M to first order in the steps, not its limit. With more numbers in y (images) conjugate gradients give
    Q's mean, and M and g have ``C ~ c I``, ``c = data_std^2 s^2 / (data_std^2 + s^2)``. The limits are the same,
    but they are far off: a few particles among so many dimensions have one heavy weight and are copies of one another
    after a resampling. ``weighted: false`` leaves the weights out: independent samples by Q, which correct nothing.

    Source: ours; M and its covariance as in Rozet et al. 2024 (arXiv 2405.13712) and Boys et al. 2023 (arXiv
    2310.06721), the twisting of particles as in Wu et al. 2023 (arXiv 2306.17775).

    Args:
        probes: random directions of C besides those of y.
        max_rank: how many directions of C there may be in all, m + probes; beyond, conjugate gradients. (Those of
            numbers that are always 0, as missing pixels in inpainting, count but cost nothing.)
        iterations: of conjugate gradients, at every level.
        data_std: standard deviation of the clean pixels, for c.
        ess_threshold: resample below this share of effective particles.
        weighted: whether particles are weighted and resampled.
    """

    needs: ClassVar[Needs] = Needs(linear=True, gradient=True, noise=("gaussian",))

    probes: int = 2
    max_rank: int = 32
    iterations: int = 3
    data_std: float = 0.2
    ess_threshold: float = 0.5
    weighted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("probes", 0), ("max_rank", 0), ("iterations", 1)):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= least, name, value, f"an integer of at least {least}")
        require(self.data_std > 0, "data_std", self.data_std, "a positive number")
        require(0 <= self.ess_threshold <= 1, "ess_threshold", self.ess_threshold, "a number from 0 to 1")

    @property
    def num_steps(self) -> int:
        return len(self.levels()) + 1

    @property
    def couples(self) -> bool:
        return self.weighted

    def check(self, operator: Operator, noise: Noise) -> None:
        super().check(operator, noise)
        numbers = torch.Size(operator.measurement_shape).numel()
        if not self._explicit(numbers) and not operator.has_spectral:
            raise InputError(
                f"sampler TweedieSMC: {numbers} numbers in y and {self.probes} probes are more than "
                f"max_rank={self.max_rank}, and beyond it needs the spectral decomposition of the operator, which "
                f"{type(operator).__name__} does not have: raise max_rank, or define spectral(f, x)"
            )

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        x, log_weights = self.particles(problem, callback)
        return x[self._resampled(problem, log_weights, 1.0)[0]] if self.weighted else x

    def particles(self, problem: Problem, callback: Callback) -> tuple[Tensor, Tensor]:
        """Particles ``[B, C, H, W]`` and their log weights ``[M, S]``, whose mean estimates p(y) without bias.

        (For the law of y under the chain of M; up to a factor where y has more numbers than ``max_rank`` allows.)
        """
        x = problem.y.new_zeros((len(problem.y), *problem.operator.image_shape))
        log_weights = x.new_zeros((len(x) // problem.group, problem.group), dtype=torch.float64)
        explicit = self._explicit(problem.y[0].numel())
        measured = measured_directions(problem.operator, problem.y) if explicit else None
        for k, (s, keep, variance) in enumerate(_path(self.levels())):
            here = self._moments(problem, x, s, measured)
            if k > 0 and self.weighted:
                log_evidence = here.log_evidence(problem.eta)
                log_weights = log_weights + log_evidence.reshape(log_weights.shape)
                rows, log_weights = self._resampled(problem, log_weights, self.ess_threshold)
                here = here.take(rows)
                log_weights = log_weights - log_evidence[rows].reshape(log_weights.shape)
            moved, log_ratio = here.move(problem.eta, keep, variance, problem.normal().flatten(1).double())
            log_weights = log_weights + log_ratio.reshape(log_weights.shape)
            x = moved.reshape(x.shape).to(x)
            callback(k, x, s)
        likelihood = Likelihood(problem.operator, problem.y, problem.noise).log_prob(x).double()
        return x, log_weights + likelihood.reshape(log_weights.shape)

    def _explicit(self, numbers: int) -> bool:
        return numbers + self.probes <= self.max_rank

    def _moments(
        self, problem: Problem, x: Tensor, s: float, measured: Mapping[int, Tensor] | None
    ) -> Moments | ImplicitMoments:
        if measured is not None:
            return moments(problem, x, s, measured, self.probes)
        variance = self.data_std**2 * s**2 / (self.data_std**2 + s**2)
        return implicit_moments(problem, x, s, variance, self.iterations)

    @staticmethod
    def _resampled(problem: Problem, log_weights: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        return resampled(log_weights, problem.draws.uniform()[:: problem.group], threshold)


def _path(levels: Sequence[float]) -> list[tuple[float, float, float]]:
    """``s, p^2 / s^2, p^2 a`` of each step: from nowhere (x = 0) to the highest level, down the levels, to 0."""
    steps = zip(levels, [*levels[1:], _FLOOR * levels[-1]], strict=True)
    return [(levels[0], 0.0, levels[0] ** 2)] + [(s, p**2 / s**2, p**2 * (1 - p**2 / s**2)) for s, p in steps]
