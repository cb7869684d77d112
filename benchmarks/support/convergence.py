"""Orders of convergence of the samplers of the prior, measured on a Gaussian without sampling error.

X ~ Normal(m, v) in every pixel, so that every step is an affine map, and so is the state at the last level, of the
start and of the draws: its coefficients are read off by giving the sampler unit starts and unit draws. With
``tau = sigma^2``, all of these samplers approach, as their steps shrink, one of the equations

    dx = (1 + kappa) / 2 score(x, sigma) |dtau| + sqrt(kappa) dW        kappa = 0: the flow; kappa = 1: the reverse SDE

which all carry the distribution of X_sigma to lower levels, and of which x at level tau' < tau is known:

    x' - m = F(tau) (x - m) + sqrt(kappa) integral of F dW,    F(tau) = ((v + tau') / (v + tau))^((1 + kappa) / 2)

The error of order (kappa = 0) and of strong_order is the root mean square of the difference from that x' for the same
start and, where there is noise, the same path W, whose increments are the sampler's draws. That of weak_order is the
difference in mean and standard deviation given the start; that of marginal_order the difference in standard deviation
after a start with the distribution of X_sigma. All are in units of the standard deviation of X_sigma at the last level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk import GaussianMixture, samplers
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.rng import StepNoise
from randomwalk.samplers import Sampler, dpm_solver, schedules
from randomwalk.samplers.sampler import Callback, Problem, pairs

MEAN = 0.4
VARIANCES = torch.tensor([0.05, 0.3, 1.0], dtype=torch.float64)
"""Mixture over three pixels, so that no error vanishes by chance."""
SIGMA_MAX, SIGMA_MIN = 10.0, 0.1
STEPS = (8, 16, 32, 64, 128, 256)
"""Between the two levels."""
TOLERANCES = tuple(10.0**-n for n in range(3, 11))
SLACK = 0.1
"""Tolerance of a measured order: the next terms of the error contribute 0.03 at most here."""
SLACK_OF_POWER = 0.25
"""Tolerance of the power of the tolerance in the error, which should be 1: a step is accepted with any error below the
tolerance, so that chance makes a factor of ten, over four decades of tolerance at least."""
CHURN = 2.0


@dataclass(frozen=True)
class Case:
    """A sampler, and the equation that it approaches.

    Args:
        sampler: with its settings.
        kappa: of the equation; 0 if nothing is drawn.
        even: steps of equal length in ln sigma, for which alone the kappa of churn is the same in all of them.
    """

    sampler: Sampler
    kappa: float = 0.0
    even: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the orders that there are."""
        return ("strong_order", "weak_order", "marginal_order") if self.kappa else ("order",)

    def levels(self, steps: int) -> Tensor:
        """The ends of so many steps, ``[steps + 1]``: in ln sigma, each second one has half the length of the first.

        In a smooth schedule neighbouring steps are nearly equal, and the more so the more there are: a solver that took
        them for equal would still have its order.
        """
        k = torch.arange(steps + 1, dtype=torch.float64)
        if not self.even:
            k[1:-1:2] += 1 / 3
        return schedules.geometric(k / steps, SIGMA_MIN, SIGMA_MAX)


# One line for each sampler whose steps are affine.
CASES: dict[str, Case] = {
    "ddim": Case(samplers.make("ddim")),
    "probability_flow": Case(samplers.make("probability_flow")),
    "heun": Case(samplers.make("heun")),
    "dpmpp_2m": Case(samplers.make("dpmpp_2m")),
    "dpmpp_3m": Case(samplers.make("dpmpp_3m")),
    "unipc": Case(samplers.make("unipc")),
    "ve_reverse_diffusion": Case(samplers.make("ve_reverse_diffusion"), kappa=1),
    "ddpm_small": Case(samplers.make("ddpm_small"), kappa=1),
    "ddpm_large": Case(samplers.make("ddpm_large"), kappa=1),
    "ddim, eta 0.5": Case(samplers.make("ddim", eta=0.5), kappa=0.25),
    "heun with churn": Case(
        samplers.make("heun", s_churn=CHURN), kappa=CHURN / math.log(SIGMA_MAX / SIGMA_MIN), even=True
    ),
}
PREDICTORS: dict[str, Case] = {
    f"{predictor}, {sde}{', flow' if flow else ''}": Case(
        samplers.make(
            "predictor_corrector", sde={"name": sde}, predictor=predictor, corrector="none", probability_flow=flow
        ),
        kappa=0 if flow else 1,
    )
    for predictor in ("euler_maruyama", "reverse_diffusion", "ancestral")
    for sde in ("vp", "sub_vp", "ve")
    for flow in (False, True)
}
"""predictor_corrector, without a corrector: its steps are not affine."""
ADAPTIVE: dict[str, tuple[float, ...]] = {
    "dopri5": TOLERANCES,
    "dopri8": TOLERANCES,
    "bosh3": TOLERANCES[:6],
    "adaptive_heun": TOLERANCES[:5],
}
"""Methods of ode, and tolerances that they reach soon enough."""


class Published3M(Sampler):
    """DPM-Solver++(3M) as in the code published with the paper: half the curvature, and a first step of order 1."""

    order = 3

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        older: list[tuple[float, Tensor]] = []
        for k, (s, p) in enumerate(pairs(problem.levels)):
            D = problem.denoiser(x, s)
            if p == 0 or not older:
                x = dpm_solver.first_order(x, s, p, D)
            elif len(older) == 1:
                x = dpm_solver.second_order(x, s, p, D, *older[0])
            else:
                (q, D_q), (o, D_o) = older
                curvature = ((D - D_q) / math.log(q / s) - (D_q - D_o) / math.log(o / q)) / math.log(o / s)
                h = math.log(s / p)
                phi_3 = 1 - 2 / h + 2 * (1 - p / s) / h**2
                more = (1 / (1 + h) - 1 / 2) * phi_3 * h**2 * curvature
                x = dpm_solver.third_order(x, s, p, D, q, D_q, o, D_o) - more
            older = [(s, D), *older[:1]]
            callback(k, x, s)
        return x


MISTAKES: dict[str, Case] = {"dpmpp_3m as published": Case(Published3M())}
"""Not of this program: for comparison."""


# --- exact and measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """State at the last level: ``offset + gain x + sum_k noise_k n_k``, pixel by pixel.

    Attributes:
        offset, gain: ``[d]``.
        noise: ``[steps, d]``.
    """

    offset: Tensor
    gain: Tensor
    noise: Tensor


def prior() -> GaussianMixture:
    """The Gaussian."""
    means = torch.full((1, len(VARIANCES), 1, 1), MEAN, dtype=torch.float64)
    return GaussianMixture([1.0], means, VARIANCES[None])


def respond(sampler: Sampler, sigmas: Tensor) -> tuple[Response, int]:
    """Result of the sampler from start and draws, and its evaluations of the denoiser until the last level.

    Row 0 of the batch starts at 0, row 1 at 1, both without noise; row 2 + k has a unit draw at step k.
    """
    steps, found = len(sigmas) - 1, []
    x = torch.zeros(steps + 2, len(VARIANCES), 1, 1, dtype=torch.float64)
    x[1] = 1
    denoiser = CountingDenoiser(prior())

    def noise(k: int, state: Tensor) -> Tensor:
        draw = torch.zeros_like(state)
        draw[2 + k : 3 + k] = 1  # nothing at the step beyond the last level
        return draw

    def watch(k: int, state: Tensor, sigma: float) -> None:
        if k == steps - 1:
            found.append((state.flatten(1), denoiser.evaluations))

    sampler.sample(denoiser, sigmas, start=x, draws=StepNoise(noise), callback=watch)
    [(state, evaluations)] = found
    return Response(state[0], state[1] - state[0], state[2:] - state[0]), evaluations


def errors(case: Case, steps: int) -> dict[str, float]:
    """The error of every order of a case, and the number of evaluations."""
    sigmas = case.levels(steps)
    response, evaluations = respond(case.sampler, sigmas)
    tau, end = sigmas.square()[:, None], SIGMA_MIN**2
    power = (1 + case.kappa) / 2
    gain = ((VARIANCES + end) / (VARIANCES + SIGMA_MAX**2)) ** power
    # Mean square over starts ~ Normal(0, SIGMA_MAX^2), with which sample.py begins.
    start_part = (response.offset - MEAN * (1 - gain)) ** 2 + (response.gain - gain) ** 2 * SIGMA_MAX**2

    def integral(exponent: float) -> Tensor:
        """Integral of ``((v + end) / (v + tau))^exponent`` over every step, ``[steps, d]``."""
        v = VARIANCES
        antiderivative = (v + tau).log() if exponent == 1 else (v + tau) ** (1 - exponent) / (1 - exponent)
        return (v + end) ** exponent * (antiderivative[:-1] - antiderivative[1:])

    # A draw is the increment of W over its step, scaled to variance 1: n_k = (W_k - W_{k+1}) / sqrt(tau_k - tau_{k+1}).
    brownian = math.sqrt(case.kappa) * integral(power) / (tau[:-1] - tau[1:]).sqrt()
    variance = case.kappa * integral(2 * power).sum(0) if case.kappa else torch.zeros_like(VARIANCES)
    strong = response.noise.square().sum(0) - 2 * (response.noise * brownian).sum(0) + variance
    spread = response.noise.square().sum(0).sqrt() - variance.sqrt()
    last = VARIANCES + end
    marginal = (response.gain**2 * (VARIANCES + SIGMA_MAX**2) + response.noise.square().sum(0)).sqrt() - last.sqrt()
    squares = {
        "order": start_part,
        "strong_order": start_part + strong,
        "weak_order": start_part + spread**2,
        "marginal_order": marginal**2,
    }
    found = {name: float((square / last).mean().sqrt()) for name, square in squares.items() if name in case.metrics}
    return found | {"evaluations": evaluations}


def measured_order(steps: Sequence[int], values: Sequence[float]) -> float:
    """The order p of an error ``C N^-p (1 + a / N)``, from the last three numbers of steps N.

    Raises:
        ValueError: they do not double.
    """
    if len(steps) < 3 or not steps[-1] == 2 * steps[-2] == 4 * steps[-3]:
        raise ValueError(f"{steps[-3:]}: expected three numbers of steps, each twice the one before")
    earlier, later = (math.log2(values[k - 1] / values[k]) for k in (-2, -1))
    return 2 * later - earlier


def orders(case: Case, steps: Sequence[int] = STEPS) -> dict[str, float]:
    """The measured orders of a case."""
    found = [errors(case, n) for n in steps]
    return {name: measured_order(steps, [one[name] for one in found]) for name in case.metrics}


def stated(case: Case) -> dict[str, int | None]:
    """The orders that the sampler states, of those that the case has."""
    return {name: getattr(case.sampler, name) for name in case.metrics}


def agrees(measured: float, said: int | None) -> bool:
    """True if a measured order is the stated one."""
    return said is not None and abs(measured - said) < SLACK


def adaptive_errors(method: str, tolerance: float, num_levels: int = 2) -> tuple[float, int]:
    """The error of order of the adaptive solver, of its worst sample, and its number of evaluations."""
    draws = torch.Generator().manual_seed(0)
    x = SIGMA_MAX * torch.randn(4, len(VARIANCES), 1, 1, generator=draws, dtype=torch.float64)
    found, denoiser = [], CountingDenoiser(prior())

    def watch(k: int, state: Tensor, sigma: float) -> None:
        if k == num_levels - 2:
            found.append((state, denoiser.evaluations))

    sampler = samplers.make("ode", method=method, rtol=tolerance, atol=tolerance)
    levels = schedules.make("karras", num_levels, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    sampler.sample(denoiser, levels, start=x, callback=watch)
    [(end, evaluations)] = found
    gain = ((VARIANCES + SIGMA_MIN**2) / (VARIANCES + SIGMA_MAX**2)).sqrt()
    difference = (end - MEAN).flatten(1) - gain * (x - MEAN).flatten(1)
    return float((difference.square() / (VARIANCES + SIGMA_MIN**2)).mean(1).max().sqrt()), evaluations


def power_of_tolerance(tolerances: Sequence[float], values: Sequence[float]) -> float:
    """The q of ``error = C tolerance^q``, by least squares."""
    x, y = (torch.tensor(list(column), dtype=torch.float64).log() for column in (tolerances, values))
    return float(((x - x.mean()) * y).sum() / (x - x.mean()).square().sum())
