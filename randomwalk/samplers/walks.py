"""Known algorithms as settings of the random walk: noise levels, step sizes and temperatures.

In the equations ``s`` is the level of a step (``sigma``), ``p`` the next, lower one (``sigma_next``), 0 after the last.
The textbook updates in other coordinates (alpha_bar, timesteps) are the same once ``x = z / sqrt(alpha_bar)``
and ``sigma^2 = (1 - alpha_bar) / alpha_bar``.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from randomwalk.config.samplers import (
    AnnealedLangevinSettings,
    DDIMSettings,
    DDPMLargeSettings,
    DDPMSmallSettings,
    ProbabilityFlowSettings,
    RandomWalkSettings,
    VEReverseDiffusionSettings,
)
from randomwalk.denoisers.wrappers import turning
from randomwalk.errors import InputError
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import Noise
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler, Sigmas, decreasing
from randomwalk.samplers.walk import Plan, PosteriorFlow, PreconditionedStep, PriorStep, StepSize, walk


class WalkSampler(Sampler):
    """Base of the samplers that are settings of the walk. A subclass defines ``plan`` or ``coefficients``."""

    repeats_levels = True

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        """``(tau, T)`` of the steps from each level to the next, float64."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients or plan")

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        self.check(measurement)
        s = decreasing(sigmas)
        step_sizes, temperatures = self.coefficients(s, torch.cat([s[1:], s.new_zeros(1)]))
        return Plan(s.tolist(), step_sizes.tolist(), temperatures.tolist())

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        return follow(self.plan(problem.levels, problem.given), problem, x, callback)


def follow(plan: Plan, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
    """Walk from ``x`` by a plan and return where it ends."""
    steps = (plan.sigmas, plan.step_sizes, plan.temperatures)
    noise = problem.draws.noise
    return walk(
        problem.denoiser,
        x,
        *steps,
        measurement=problem.given,
        momenta=plan.momenta,
        noise=noise,
        callback=callback,
    )


class RandomWalk(WalkSampler, RandomWalkSettings):
    """The paper's walk: ``tau = c s^2``, T linear from T0 to T1, no noise on the last step.

        x <- x + tau score(x, s) + sqrt(2 tau T) n

    With a measurement the exact likelihood score ``grad log f(y | x)`` is added to that of the prior,

        x <- x + tau (score(x, s) + A^T (y - A x) / eta^2) + sqrt(2 tau T) n,    tau = min(c s^2, eta^2)

    or, if ``preconditioned``, with the matrix step ``P = c (lambda I / s^2 + A^T A / eta^2)^-1``,

        x <- x + P (lambda score(x, s) + A^T (y - A x) / eta^2) + sqrt(2 T) P^(1/2) n

    (`PreconditionedStep`). With lambda = 1 the walk targets ``p_s(x) f(y | x)`` at every level, which becomes the
    posterior as s goes to 0; it samples the posterior if it mixes at the low levels, which a finite walk between
    distant modes does not.

    The matrix step is c s^2 where nothing is measured, and so needs tens of steps where the scalar one, slow in every
    direction, needs hundreds. The scalar step is stable for operators of norm at most 1, or a little more, as that of
    blurs that reflect at the border; where ``||A||^2`` is above 5/4, the paper's ``eta^2`` becomes ``eta^2 / ||A||^2``.
    (An operator that is not linear and does not define ``norm`` is taken to have 1.) For noise that is not Gaussian,
    eta is its ``stable_std`` here.

    **Momentum.** With ``momentum`` a in (0, 1) all steps but the last are those of `glide`: x has a velocity, of which
    a step keeps the share a, with new noise for the rest. It is for exact samples with many measurements, with
    T0 = T1 = 1. The steps that a slow direction needs grow like the square root of its condition, not like the
    condition itself. The positions are exact on Gaussians at any stable step, c < 2, so c can be above 1. The friction
    follows the number n of levels,

        auto    a = exp(-40 / n)

    since a longer walk has time for slower directions, which need less of it (40 was chosen on the sparse priors of
    ``benchmarks/posterior_sparse.py``). That is for exact denoisers, whose Jacobian is symmetric without negative
    eigenvalues. That of a network has some, -e, where a step has the curvature c (1 + e), and an antisymmetric part,
    which heats a walk with little friction: there c = 0.5 and a = 0.67 keep the law of noisy images, and c = 1.6 with a
    = 0.9 does not (``benchmarks/kept_law.py``). The last step has neither velocity nor noise. It takes away the noise
    of the level and, unlike a jump to the denoised image, little of the variance of X: if ``preconditioned`` by
    `PosteriorFlow`, otherwise by Euler's step of the prior's probability flow, ``x + s^2 score(x, s) / 2``, which takes
    a share of up to ``(s/w)^2`` too much where y is precise, w being the standard deviation of X. Both leave a share
    ``(s/w)^4 / 4`` too much where nothing is measured. So the lowest level should be a fraction, such as 0.3, of the
    smallest details of X; it need not be below eta. The highest can be half of the standard deviation of X, since more
    levels below are worth more than some above. Momentum does not help the walk to find the weights of distant modes.

    **Restoration.** Other settings give one good image in few steps instead of samples: a weight of the prior
    (``prior_weight``) lambda < 1, c near 1, and a temperature that follows the next level p,

        2 T c s^2 / lambda = kappa^2 p^2 - (1 - c)^2 s^2      (T = 0 where that is negative, and on the last step)

    so that where nothing is measured, noise of standard deviation ``kappa p`` is left: of that in x, (1 - c) s, and
    what is drawn. It is drawn into the denoised image alone, before that is pulled towards y, whose own noise is left
    where y is seen. For c = 1:

        x <- argmin_z lambda ||z - D(x, s) - kappa p n||^2 / s^2 + ||A z - y||^2 / eta^2

    At high levels noise lets the network look for structures; at low ones the few steps that are left don't average it
    away. The kappa ``auto`` falls with the level, in [-1, 1] pixel units:

        kappa = 1 - exp(-p / 0.05)

    With c above 1 (over-relaxation) the step goes beyond the proximal map, so that few steps reach further. c = 1.4 and
    the 0.05 were chosen on photographs.

    The noise of y that this lets through has a standard deviation of up to ``s / (2 sqrt(lambda))``, in directions
    whose singular value is ``sqrt(lambda) eta / s``. The weight ``auto``, ``lambda = 1.2 s^2 / (4 p^2)``, keeps it
    below that of the next level, which the network expects (1.2 was chosen on photographs; the last s / p is the one
    before it).
    With ``turns`` the network sees x turned and mirrored, in the next of 8 ways at each step. With ``last_denoised``
    the last state x is replaced by ``D(x, 0.65 s)``, since less than the noise of y is left in it, and with
    ``down_to_noise`` the levels from the first to that of the noise are spaced as those of the schedule, on the
    logarithmic scale, if eta is above the last of them.

    Known methods are members of the family. DPIR (Zhang et al. 2021) is c = 1, kappa = 0, ``lambda = 0.23 s^2 / p^2``,
    which for geometric levels is one number, from the proximal map of ``A^T y``, and one denoising more at the end.
    DiffPIR is ``c = 1 - sqrt(1 - zeta) p / s`` and kappa = 1, with the noise where y is seen too (`DiffPIR`). Without a
    measurement DDIM is ``c = 1 - p / s, kappa = 1``, and DDPM ``c = 1 - p^2 / s^2``.

    Source: Park et al. 2025, doi 10.1109/MSP.2025.3590608, and the code published with it.
    """

    needs = Needs(measurement="optional", copies=16)
    FADING: ClassVar[float] = 0.05
    LAST: ClassVar[float] = 0.65
    WEIGHT: ClassVar[float] = 1.2
    FRICTION: ClassVar[float] = 40.0

    def num_steps(self, num_levels: int) -> int:
        return num_levels + self.last_denoised

    def knows(self, noise: Noise) -> bool:
        return not self.preconditioned or noise.name == "gaussian"

    @property
    def samples_posterior(self) -> bool:
        at_one = self.initial_temperature == self.final_temperature == 1
        return self.momentum != 0 and at_one and self.prior_weight == 1 and self.kappa is None

    def check(self, measurement: Measurement | None) -> None:
        super().check(measurement)
        if measurement is None:
            return
        operator, noise = measurement.operator, measurement.noise
        if noise.std == 0:
            raise InputError("sampler random_walk follows the likelihood's score: it needs noise with a positive std")
        if self.preconditioned and not (operator.linear and noise.name == "gaussian"):
            raise InputError(
                "sampler random_walk with preconditioned: true needs a linear operator and Gaussian noise; here are "
                f"{type(operator).__name__} and {noise.name}: take preconditioned: false"
            )
        if self.preconditioned and self.momentum != 0 and not operator.has_spectral:
            raise InputError(
                "sampler random_walk with preconditioned: true and momentum needs the spectral decomposition of the "
                f"operator, which {type(operator).__name__} does not have: take momentum: 0, or for small images "
                "dense: true"
            )
        if not self.preconditioned and (self.prior_weight != 1 or self.kappa is not None):
            key = "kappa" if self.prior_weight == 1 else "prior_weight"
            raise InputError(f"sampler random_walk: {key} is for preconditioned: true; set that, or remove it")

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        self.check(measurement)
        s = decreasing(sigmas)
        if measurement is not None and self.down_to_noise and s[0] > measurement.std > s[-1]:
            s = s[0] * (s / s[0]) ** (math.log(measurement.std / s[0]) / math.log(s[-1] / s[0]))
        c, weights = self.step_scale, torch.ones_like(s)
        if measurement is not None:
            weights = self._weights(s) if self.prior_weight == "auto" else weights * self.prior_weight
        if self.kappa is None:
            temperatures = torch.linspace(self.initial_temperature, self.final_temperature, len(s), dtype=s.dtype)
        else:
            p = s.roll(-1)
            kappa = 1 - torch.exp(-p / self.FADING) if self.kappa == "auto" else self.kappa
            drawn = (kappa * p) ** 2 - ((1 - c) * s) ** 2
            temperatures = weights * drawn.clamp_min(0) / (2 * c * s**2)
        temperatures[-1] = 0
        steps: list[StepSize]
        if measurement is not None and self.preconditioned:
            operator, eta = measurement.operator, measurement.std
            noise: Literal["matrix", "image"] = "matrix" if self.kappa is None else "image"
            steps = [
                PreconditionedStep(operator, sigma, eta, c, weight, noise)
                for sigma, weight in zip(s.tolist(), weights.tolist(), strict=True)
            ]
        else:
            longest = math.inf
            if measurement is not None:
                longest = measurement.noise.stable_std**2 / _excess(measurement.operator)
            steps = [min(c * sigma**2, longest) for sigma in s.tolist()]
        if self.momentum == 0:
            return Plan(s.tolist(), steps, temperatures.tolist())
        momentum, last = math.exp(-self.FRICTION / len(s)) if self.momentum == "auto" else self.momentum, float(s[-1])
        if measurement is None:
            steps[-1] = last**2 / 2
        elif self.preconditioned:
            steps[-1] = PosteriorFlow(measurement.operator, last, measurement.std)
        else:
            steps[-1] = PriorStep(measurement.operator, last, 1 / 2)
        return Plan(s.tolist(), steps, temperatures.tolist(), [momentum] * (len(s) - 1) + [0.0])

    def _weights(self, s: Tensor) -> Tensor:
        """``lambda = 1.2 s^2 / (4 p^2)`` of each step; with a single level p is s."""
        ratios = s[:-1] / s[1:] if len(s) > 1 else s.new_ones(1)
        return self.WEIGHT / 4 * torch.cat([ratios, ratios[-1:]])[: len(s)] ** 2

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        plan = self.plan(problem.levels, problem.given)
        if self.turns > 1 and x.ndim != 4:
            raise InputError(f"sampler random_walk: turns: 8 is for images; here are {x.ndim - 1}-d samples: remove it")
        with turning(problem.denoiser) if self.turns > 1 else nullcontext(problem.denoiser) as denoiser:
            x = follow(plan, replace(problem, denoiser=denoiser), x, callback)
            if self.last_denoised:
                sigma = max(self.LAST * plan.sigmas[-1], denoiser.sigma_min)
                x = denoiser(x, sigma)
                callback(len(problem.levels), x, sigma)
        return x


class AnnealedLangevin(WalkSampler, AnnealedLangevinSettings):
    """NCSN: L Langevin steps at each level, ``tau = c s^2``, ``T = 1``, in the last one too.

    Source: Song and Ermon 2019, arXiv 1907.05600, algorithm 1, where ``tau = epsilon s^2 / (2 sigma_L^2)``: c = 0.1 for
    its epsilon = 2e-5 and sigma_L = 0.01 (the code released with it takes twice that).
    """

    def num_steps(self, num_levels: int) -> int:
        return self.steps_per_level * num_levels

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        return super().plan(decreasing(sigmas).repeat_interleave(self.steps_per_level), measurement)

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return self.step_scale * sigma**2, torch.ones_like(sigma)


class VEReverseDiffusion(WalkSampler, VEReverseDiffusionSettings):
    """Score-SDE's reverse-diffusion predictor of the VE SDE: ``tau = s^2 - p^2``, ``T = 1/2``.

    The last step is its mean, ``T = 0``.
    Source: Song et al. 2021, arXiv 2011.13456, algorithm 2 without corrector.
    """

    strong_order = weak_order = marginal_order = 1

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return sigma**2 - sigma_next**2, torch.where(sigma_next > 0, 0.5, 0.0).to(sigma)


class DDPMSmall(WalkSampler, DDPMSmallSettings):
    """DDPM with the posterior variance: ``tau = s^2 - p^2``, ``T = p^2 / (2 s^2)``. Also Score-SDE's VE ancestral step.

    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 with ``sigma_t^2 = beta-tilde_t``.
    """

    strong_order = weak_order = marginal_order = 1

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return sigma**2 - sigma_next**2, sigma_next**2 / (2 * sigma**2)


class DDPMLarge(WalkSampler, DDPMLargeSettings):
    """DDPM with the forward variance: ``tau = s^2 - p^2``, ``T = alpha_t / 2``.

    ``alpha_t = (1 + p^2) / (1 + s^2)``, for pixels in [-1, 1]. The last step is its mean, ``T = 0``.
    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 with ``sigma_t^2 = beta_t``.
    """

    strong_order = weak_order = marginal_order = 1

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma_next**2) / (1 + sigma**2)
        return sigma**2 - sigma_next**2, torch.where(sigma_next > 0, alpha / 2, 0.0)


class DDIM(WalkSampler, DDIMSettings):
    """DDIM: ``tau = s^2 - s sqrt(p^2 - v)``, ``T = v / (2 tau)``, new variance ``v = eta^2 p^2 (s^2 - p^2) / s^2``.

    ``eta = 0`` is deterministic, ``tau = s (s - p)``, Euler in sigma for the probability flow; ``eta = 1`` is
    ddpm_small.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16.
    """

    order = strong_order = weak_order = marginal_order = 1

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.eta**2 * sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
        tau = sigma**2 - sigma * (sigma_next**2 - variance).sqrt()
        return tau, torch.where(tau > 0, variance / (2 * tau), 0.0)


class ProbabilityFlow(WalkSampler, ProbabilityFlowSettings):
    """Probability-flow ODE by Euler's method in ``sigma^2``: ``tau = (s^2 - p^2) / 2``, ``T = 0``.

    The last step, to p = 0, goes half the way to the denoised image, so the last level should be small.
    Source: Song et al. 2021, arXiv 2011.13456, eq. 13 and appendix D.3, for the VE SDE.
    """

    order = 1

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return (sigma**2 - sigma_next**2) / 2, torch.zeros_like(sigma)


def _excess(operator: Operator) -> float:
    """``||A||^2`` if steps of ``eta^2`` would be too long for it (they are stable below 2 - c), else 1."""
    if not operator.has_norm:
        return 1.0
    squared = operator.norm() ** 2
    return squared if squared > 1.25 else 1.0
