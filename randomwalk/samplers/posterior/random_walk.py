"""The paper's walk with a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from randomwalk import samplers
from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.operators.noise import Likelihood, Noise
from randomwalk.samplers.posterior.sampler import Callback, PosteriorSampler, Problem
from randomwalk.samplers.walk import walk


@dataclass(frozen=True, kw_only=True)
class RandomWalk(PosteriorSampler):
    """Adds the exact likelihood score ``grad log f(y | x)`` to the score of the prior; see samplers.RandomWalk.

        x <- x + tau (score(x, s) + A^T (y - A x) / eta^2) + sqrt(2 tau T) n,    tau = min(c s^2, eta^2)

    or, if ``preconditioned``, with the matrix step ``tau = c (I / s^2 + A^T A / eta^2)^-1``, which a stiff likelihood
    does not limit. The walk targets ``p_s(x) f(y | x)`` at every level, which is the posterior when s arrives at 0;
    it samples that if it mixes at the low levels, which a finite walk between far modes does not.

    Source: Park et al. 2025, doi 10.1109/MSP.2025.3590608.

    Args:
        step_scale: c.
        initial_temperature, final_temperature: T, linear between them.
        preconditioned: use the matrix step.
        start_mean, start_std: of the start; the highest noise level if None.
    """

    step_scale: float = 0.7
    initial_temperature: float = 0.1
    final_temperature: float = 1.0
    preconditioned: bool = False
    start_mean: float = 0.0
    start_std: float | None = None

    def check(self, operator: Operator, noise: Noise) -> None:
        super().check(operator, noise)
        if noise.std == 0:
            raise InputError("sampler random_walk follows the likelihood's score: it needs noise with a positive std")
        if self.preconditioned and not (operator.linear and operator.has_spectral and noise.name == "gaussian"):
            raise InputError(
                "sampler random_walk with preconditioned: true needs a linear operator with a spectral decomposition "
                f"and Gaussian noise; here are {type(operator).__name__} and {noise.name}: take preconditioned: false"
            )

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        start_std = levels[0] if self.start_std is None else self.start_std
        sampler = samplers.RandomWalk(
            self.step_scale, self.initial_temperature, self.final_temperature, self.preconditioned
        )
        likelihood = Likelihood(problem.operator, problem.y, problem.noise)
        plan = sampler.plan(levels, likelihood)
        return walk(
            problem.denoiser,
            self.start_mean + start_std * problem.normal(),
            plan.sigmas,
            plan.step_sizes,
            plan.temperatures,
            likelihood=likelihood,
            noise=problem.draws.noise,
            callback=callback,
        )
