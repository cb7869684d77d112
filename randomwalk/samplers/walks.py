"""Known algorithms as settings of the random walk: noise levels, step sizes and temperatures.

Throughout, ``s = sigma_k`` is the level of a step, ``p = sigma_{k+1}`` the next, lower one, and ``p = 0`` after the
last. The textbook updates in other coordinates (alpha_bar, timesteps) are the same once ``x = z / sqrt(alpha_bar)``
and ``sigma^2 = (1 - alpha_bar) / alpha_bar``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.operators import Operator
from randomwalk.operators.noise import Likelihood
from randomwalk.samplers.sampler import Callback, Noise, Sampler, Sigmas, decreasing, refuse_measurement, require
from randomwalk.samplers.walk import PreconditionedStep, StepSize, walk


@dataclass(frozen=True)
class Plan:
    """Noise level, step size and temperature of every step of a walk."""

    sigmas: list[float]
    step_sizes: list[StepSize]
    temperatures: list[float]


@dataclass(frozen=True)
class WalkSampler(Sampler):
    """Base of the samplers that are settings of the walk. A subclass defines ``plan``."""

    def plan(self, sigmas: Sigmas, likelihood: Likelihood | None = None) -> Plan:
        """The settings of the walk.

        Args:
            sigmas: decreasing noise levels.
            likelihood: of the measurement; None samples the prior.
        """
        raise NotImplementedError

    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sigmas,
        likelihood: Likelihood | None = None,
        *,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Walk from ``x`` along ``plan(sigmas, likelihood)``; the arguments are those of ``randomwalk.walk``."""
        plan = self.plan(sigmas, likelihood)
        steps = (plan.sigmas, plan.step_sizes, plan.temperatures)
        return walk(denoiser, x, *steps, likelihood=likelihood, noise=noise, callback=callback)


@dataclass(frozen=True)
class RandomWalk(WalkSampler):
    """The paper's walk: ``tau = c s^2``, T linear from T0 to T1, no noise on the last step.

    With a measurement ``tau = min(c s^2, eta^2)``, or, if ``preconditioned``, the matrix step
    ``c (I / s^2 + A^T A / eta^2)^-1``. The latter is c s^2 where nothing is measured, and so needs tens of steps where
    the former, slow in every direction, needs hundreds. The former is stable for operators whose norm is at most 1, or
    a little more, as that of blurs that reflect at the border; where ``||A||^2`` is above 5/4, the paper's ``eta^2``
    becomes ``eta^2 / ||A||^2``. (An operator that is not linear and does not define ``norm`` is taken to have 1.) Of
    noise that is not Gaussian, eta is the ``stable_std`` here.

    Source: Park et al. 2025, doi 10.1109/MSP.2025.3590608, and the code published with it.

    Args:
        step_scale: c; below 2, or the walk diverges.
        initial_temperature: T0; below 1 starts as a colder, more deterministic walk.
        final_temperature: T1; 1 samples, 0 climbs to a mode.
        preconditioned: use the matrix step.
    """

    step_scale: float = 0.7
    initial_temperature: float = 0.1
    final_temperature: float = 1.0
    preconditioned: bool = False

    def __post_init__(self) -> None:
        require(0 < self.step_scale < 2, "step_scale", self.step_scale, "a number above 0 and below 2")
        for name in ("initial_temperature", "final_temperature"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")

    def plan(self, sigmas: Sigmas, likelihood: Likelihood | None = None) -> Plan:
        s, _ = _levels(sigmas)
        temperatures = torch.linspace(self.initial_temperature, self.final_temperature, len(s), dtype=s.dtype)
        temperatures[-1] = 0
        steps: list[StepSize]
        if likelihood is not None and self.preconditioned:
            operator, eta = likelihood.operator, likelihood.std
            steps = [PreconditionedStep(operator, sigma, eta, self.step_scale) for sigma in s.tolist()]
        else:
            longest = math.inf if likelihood is None else likelihood.noise.stable_std**2 / _excess(likelihood.operator)
            steps = [min(self.step_scale * sigma**2, longest) for sigma in s.tolist()]
        return Plan(s.tolist(), steps, temperatures.tolist())


@dataclass(frozen=True)
class PriorSampler(WalkSampler):
    """Base of the walks that have no form with a measurement. A subclass defines ``settings``."""

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """``(tau, T)`` of the steps from level s to level p."""
        raise NotImplementedError

    def plan(self, sigmas: Sigmas, likelihood: Likelihood | None = None) -> Plan:
        refuse_measurement(self, likelihood)
        s, p = _levels(sigmas)
        step_sizes, temperatures = self.settings(s, p)
        return Plan(s.tolist(), step_sizes.tolist(), temperatures.tolist())


@dataclass(frozen=True)
class AnnealedLangevin(PriorSampler):
    """NCSN: L Langevin steps at each level, ``tau = c s^2``, ``T = 1``, in the last one too.

    Source: Song and Ermon 2019, arXiv 1907.05600, algorithm 1, where ``tau = epsilon s^2 / (2 sigma_L^2)``: c = 0.1 for
    its epsilon = 2e-5 and sigma_L = 0.01 (the code released with it takes twice that).

    Args:
        step_scale: c.
        steps_per_level: L.
    """

    step_scale: float = 0.1
    steps_per_level: int = 1

    def __post_init__(self) -> None:
        require(0 < self.step_scale < 2, "step_scale", self.step_scale, "a number above 0 and below 2")
        whole = isinstance(self.steps_per_level, int) and self.steps_per_level >= 1
        require(whole, "steps_per_level", self.steps_per_level, "a positive integer")

    def num_steps(self, num_levels: int) -> int:
        return self.steps_per_level * num_levels

    def plan(self, sigmas: Sigmas, likelihood: Likelihood | None = None) -> Plan:
        repeated = _levels(sigmas)[0].repeat_interleave(self.steps_per_level)
        return super().plan(repeated, likelihood)

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.step_scale * s**2, torch.ones_like(s)


@dataclass(frozen=True)
class VEReverseDiffusion(PriorSampler):
    """Score-SDE's reverse-diffusion predictor of the VE SDE: ``tau = s^2 - p^2``, ``T = 1/2``.

    The last step is its mean, ``T = 0``.
    Source: Song et al. 2021, arXiv 2011.13456, algorithm 2 without corrector.
    """

    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 1

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return s**2 - p**2, torch.where(p > 0, 0.5, 0.0).to(s)


@dataclass(frozen=True)
class DDPMSmall(PriorSampler):
    """DDPM with the posterior variance: ``tau = s^2 - p^2``, ``T = p^2 / (2 s^2)``. Also Score-SDE's VE ancestral step.

    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 with ``sigma_t^2 = beta-tilde_t``.
    """

    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 1

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return s**2 - p**2, p**2 / (2 * s**2)


@dataclass(frozen=True)
class DDPMLarge(PriorSampler):
    """DDPM with the forward variance: ``tau = s^2 - p^2``, ``T = alpha_t / 2``.

    ``alpha_t = (1 + p^2) / (1 + s^2)``, for pixels in [-1, 1]. The last step is its mean, ``T = 0``.
    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 with ``sigma_t^2 = beta_t``.
    """

    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 1

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return s**2 - p**2, torch.where(p > 0, (1 + p**2) / (2 * (1 + s**2)), 0.0)


@dataclass(frozen=True)
class DDIM(PriorSampler):
    """DDIM: ``tau = s^2 - s sqrt(p^2 - v)``, ``T = v / (2 tau)``; ``v = eta^2 p^2 (s^2 - p^2) / s^2`` is what it adds.

    ``eta = 0`` is deterministic, ``tau = s (s - p)``, Euler in sigma for the probability flow; ``eta = 1`` is
    ddpm_small.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16.

    Args:
        eta: between 0 and 1.
    """

    order: ClassVar[int | None] = 1
    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, "eta", self.eta, "a number from 0 to 1")

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.eta**2 * p**2 * (s**2 - p**2) / s**2
        tau = s**2 - s * (p**2 - variance).sqrt()
        return tau, torch.where(tau > 0, variance / (2 * tau), 0.0)


@dataclass(frozen=True)
class ProbabilityFlow(PriorSampler):
    """Probability-flow ODE by Euler's method in ``sigma^2``: ``tau = (s^2 - p^2) / 2``, ``T = 0``.

    The last step, to p = 0, goes half the way to the denoised image; let the last level be small.
    Source: Song et al. 2021, arXiv 2011.13456, eq. 13 and appendix D.3, for the VE SDE.
    """

    order: ClassVar[int | None] = 1

    def settings(self, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return (s**2 - p**2) / 2, torch.zeros_like(s)


def _excess(operator: Operator) -> float:
    """``||A||^2`` if that is too much for steps of ``eta^2``, which are stable below 2 - c, else 1."""
    if not operator.has_norm:
        return 1.0
    squared = operator.norm() ** 2
    return squared if squared > 1.25 else 1.0


def _levels(sigmas: Sigmas) -> tuple[Tensor, Tensor]:
    """The level of each step and the next one, float64 on the CPU."""
    s = decreasing(sigmas)
    return s, torch.cat([s[1:], s.new_zeros(1)])
