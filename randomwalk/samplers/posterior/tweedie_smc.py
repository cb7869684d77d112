"""Sequential Monte Carlo with second-order Tweedie moments: exact as its computation grows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from randomwalk.config.samplers import TweedieSMCSettings
from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.samplers.posterior.mmps import mean_and_shift
from randomwalk.samplers.posterior.moments import ImplicitMoments, Moments, measured_directions, moments
from randomwalk.samplers.posterior.particles import resampled
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler
from score_sde.devices import exact, exact_type

_FLOOR = 1e-3
"""The last step has fresh noise too, this fraction of the lowest level, so that its densities exist."""


class TweedieSMC(Sampler, TweedieSMCSettings):
    """Particles that follow the reverse diffusion, guided towards y, and weighted to correct for the guidance.

    Without y, the step from level s to the next level p is the Gaussian whose first two moments are those of the
    reverse diffusion, both by Tweedie's formulas (a = 1 - p^2 / s^2, C = s^2 dD/dx = Cov[X | X_s = x]):

        M(x' | x) = Normal(x + a (D - x),  p^2 a I + a^2 C)

    The likelihood of x at level s is approximated by ``g_s(x) = Normal(y; A D(x, s), A C A^T + eta^2 I)``, which would
    be p(y | X_s = x) if X given X_s were Gaussian. Particles move by ``Q(x' | x, y)``, M conditioned on y in the same
    Gaussian, and the weight of each is multiplied by ``g_p(x') M(x' | x) / (g_s(x) Q(x' | x, y))``; the last g is
    f(y | x') itself. The first step, from x = 0 to the highest level, is alike: p(x') ~ Normal(D(0), s^2 I + C(0)).
    Where the effective number of particles is small they are resampled. On a Gaussian prior all weights are 1, for any
    y.

    Exactness. In the product of the weights along a trajectory all g but the last cancel, so that the weighted
    particles target ``f(y | x_0) prod M(x_k+1 | x_k)``: as the particles grow in number, their averages converge to the
    posterior of the prior in which the chain of M ends (Del Moral 2004, Feynman-Kac Formulae, section 7.4), for any g
    and Q, which only decide how many it takes. With more levels (their ratios to 1, the highest to infinity, the lowest
    to 0) that chain converges to the reverse diffusion, which ends in the prior: M has its exact mean and, up to the
    next paragraph, its exact covariance, so that only third moments differ. Assumptions: a denoiser that is the
    posterior mean of a prior with a finite third moment, a linear A and Gaussian noise. The samples of one measurement
    depend on each other, as in every particle method.

    Approximation of C. The covariance is known by products with vectors, one backward pass each. Up to ``max_rank``,
    there is one for each entry of y and for some ``probes``: C is exact in the directions of y and of the probes, and
    isotropic elsewhere (`moments`); with ``probes = d - rank(A)`` it is exact. (Entries that are always 0, as missing
    pixels in inpainting, count but cost nothing.) This changes M to first order in the steps, not its limit. With more
    entries of y (images) conjugate gradients give Q's mean, and M and g have ``C ~ c I``,
    ``c = data_std^2 s^2 / (data_std^2 + s^2)``. The limits are the same, but far away: of a few particles in so many
    dimensions one has almost all the weight, and after resampling all are copies of it. ``weighted: false`` leaves the
    weights out: independent samples by Q, without correction.

    Source: ours; M and its covariance as in Rozet et al. 2024 (arXiv 2405.13712) and Boys et al. 2023 (arXiv
    2310.06721), the twisting of particles as in Wu et al. 2023 (arXiv 2306.17775).
    """

    needs = Needs(linear=True, gradient=True, noise=("gaussian",))

    def num_steps(self, num_levels: int) -> int:
        return num_levels + 1

    @property
    def coupled_samples(self) -> bool:
        return self.weighted

    def check(self, measurement: Measurement | None) -> None:
        super().check(measurement)
        assert measurement is not None
        operator = measurement.operator
        entries = torch.Size(operator.measurement_shape).numel()
        if not self._explicit(entries) and not operator.has_spectral:
            raise InputError(
                f"sampler TweedieSMC: {entries} entries of y and {self.probes} probes are more than "
                f"max_rank={self.max_rank}, and beyond it needs the spectral decomposition of the operator, which "
                f"{type(operator).__name__} does not have: raise max_rank, or define spectral(f, x)"
            )

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        x, log_weights = self.particles(problem, x, callback)
        if not self.weighted:
            return x
        return x[resampled(log_weights, problem.draws.uniform()[:: problem.num_samples], threshold=1.0)[0]]

    def particles(self, problem: Problem, x: Tensor, callback: Callback) -> tuple[Tensor, Tensor]:
        """Particles ``[B, C, H, W]`` and their log weights ``[M, S]``, whose mean estimates p(y) without bias.

        (For the distribution of y under the chain of M; up to a factor if y has more entries than ``max_rank`` allows.)
        """
        levels = problem.levels
        log_weights = exact(x.new_zeros((len(x) // problem.num_samples, problem.num_samples)))
        explicit = self._explicit(problem.measurement.y[0].numel())
        measured = measured_directions(problem.operator, problem.measurement.y) if explicit else None
        # Level, p^2 / s^2 and p^2 a of each step: from x = 0 to the highest level, down the levels, to 0.
        steps = zip(levels, [*levels[1:], _FLOOR * levels[-1]], strict=True)
        path = [(levels[0], 0.0, levels[0] ** 2), *((s, p**2 / s**2, p**2 * (1 - p**2 / s**2)) for s, p in steps)]
        for k, (sigma, keep, variance) in enumerate(path):
            here = self._moments(problem, x, sigma, measured)
            if k > 0 and self.weighted:
                log_evidence = exact(here.log_evidence(problem.eta))
                log_weights = log_weights + log_evidence.reshape(log_weights.shape)
                uniform = problem.draws.uniform()[:: problem.num_samples]
                rows, log_weights = resampled(log_weights, uniform, self.ess_threshold)
                here = here.take(rows)
                log_weights = log_weights - log_evidence[rows].reshape(log_weights.shape)
            moved, log_ratio = here.move(problem.eta, keep, variance, exact(problem.normal().flatten(1)))
            log_weights = log_weights + exact(log_ratio).reshape(log_weights.shape)
            x = moved.reshape(x.shape).to(x)
            callback(k, x, sigma)
        return x, log_weights + exact(problem.measurement.log_prob(x)).reshape(log_weights.shape)

    def begin(self, problem: Problem) -> Tensor:
        return problem.blank.new_zeros(problem.blank.shape)

    def _explicit(self, entries: int) -> bool:
        return entries + self.probes <= self.max_rank

    def _moments(
        self, problem: Problem, x: Tensor, sigma: float, measured: Mapping[int, Tensor] | None
    ) -> Moments | ImplicitMoments:
        if measured is not None:
            return moments(problem, x, sigma, measured, self.probes)
        variance = self.data_std**2 * sigma**2 / (self.data_std**2 + sigma**2)
        denoised, shift = mean_and_shift(problem, x, sigma, self.iterations)
        values = (x, denoised, shift, problem.residual(denoised))
        return ImplicitMoments(problem.operator, variance, *(value.to(exact_type(x.device)) for value in values))
