"""Forecast of the noise that a sampler will leave, and of the details that it will lose, before it runs.

**Noise.** In a flat area the state is the true pixels and noise, of standard deviation r. A network at the level s
removes noise of that level and little more: it takes the rest for texture. So in a step

    r <- sqrt((r - tau / s^2 f(r, s))^2 + 2 tau T),    f = r if r < s, else s min((r / s)^response, 1.3)

with the ``response`` of the denoiser, 0 for NCSN++ and about 1/2 for other networks. The last r is the noise left. It
is large if steps are short, or if the lowest levels are too few or too far apart to remove the noise of those before.

**Details.** Of data ``Normal(0, w^2)`` the exact denoiser is ``D(x, s) = w^2 / (s^2 + w^2) x``, a walk is linear, and

    v <- (1 - tau / (s^2 + w^2))^2 v + 2 tau T

is the variance of its state, which should end at ``w^2`` (with momentum: of its state and its velocity together). A
sampler that removes all the noise of a level at once leaves none, but details finer than the level before its last jump
are never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.rng import StepNoise, Stream, generator
from randomwalk.samplers.sampler import Sampler, Sigmas, decreasing
from randomwalk.samplers.walk import Plan

NOISE_LIMIT = 0.05
"""Smallest noise that is visible in flat areas: 2.5% of the range of pixels, 6 of 255."""
MOST = 1.3
"""Largest noise that a network removes, in multiples of its level (measured where there was 4 times as much)."""
DETAIL_LIMIT = 0.35
"""Smallest relative error of the contrast of details that is visible."""
FINE, COARSE = 0.1, 0.25
"""The smallest and the largest w: details within an object, 13 and 32 of 255."""
_SIDE = 64  # of the images for samplers that are not walks: their spread is known to 1%


@dataclass(frozen=True)
class Remainder:
    """Errors of the images that a sampler makes.

    Attributes:
        noise: standard deviation of the noise left, pixels in [-1, 1].
        detail: relative error of the contrast of details, below 0 if it is too low; the one furthest from 0.
    """

    noise: float
    detail: float

    @property
    def good(self) -> bool:
        """Whether neither is visible."""
        return self.noise <= NOISE_LIMIT and abs(self.detail) <= DETAIL_LIMIT


def noise_of_walk(plan: Plan, start_std: float, response: float) -> float:
    """Standard deviation of the noise that a walk leaves in flat areas, where nothing is measured."""
    state = _Spread.at_rest(torch.tensor(start_std**2, dtype=torch.float64), plan)
    for s, tau, temperature, momentum in _steps(plan):
        r = float(state.x.sqrt())
        taken = r if r < s else s * min((r / s) ** response, MOST)
        state = state.after(taken / (s**2 * r) if r > 0 else 0.0, tau, temperature, momentum)
    return float(state.x.sqrt())


def spread_of_walk(plan: Plan, start_std: float, w: Tensor) -> Tensor:
    """Standard deviation at the end of a walk over data ``Normal(0, w^2)``, like w, where nothing is measured."""
    state = _Spread.at_rest(start_std**2 + w**2, plan)
    for s, tau, temperature, momentum in _steps(plan):
        state = state.after(1 / (s**2 + w**2), tau, temperature, momentum)
    return state.x.sqrt()


class _Spread(NamedTuple):
    """Second moments of a pixel x, of mean 0, and of its velocity v in a walk."""

    x: Tensor  # Var(x)
    both: Tensor  # Cov(x, v)
    v: Tensor  # Var(v)

    @classmethod
    def at_rest(cls, variance: Tensor, plan: Plan) -> _Spread:
        """Moments of the start, with a velocity of the first temperature."""
        return cls(variance, torch.zeros_like(variance), torch.full_like(variance, _steps(plan)[0][2]))

    def after(self, curvature: float | Tensor, tau: float, temperature: float, momentum: float) -> _Spread:
        """Moments after a step along the score ``-curvature x``, see :func:`randomwalk.samplers.walk.glide`."""
        if momentum == 0:
            return self._replace(x=(1 - tau * curvature) ** 2 * self.x + 2 * tau * temperature)
        kick, half = (2 * tau) ** 0.5 * curvature, (tau / 2) ** 0.5
        x, both, v = self.x, self.both - kick * self.x, self.v - 2 * kick * self.both + kick**2 * self.x
        x, both = x + 2 * half * both + half**2 * v, both + half * v
        both, v = momentum * both, momentum**2 * v + temperature * (1 - momentum**2)
        return _Spread(x + 2 * half * both + half**2 * v, both + half * v, v)


def remainder(
    sampler: Sampler, sigmas: Sigmas, start_std: float | None = None, response: float = Denoiser.response
) -> Remainder | None:
    """Errors of a sampler of the prior, by the recursions for a walk, otherwise by running it on draws.

    None if it makes steps of its own between the levels.

    Args:
        sampler: of the prior.
        sigmas: decreasing noise levels.
        start_std: standard deviation of the start; the highest level if None.
        response: attribute of the denoiser.
    """
    if sampler.num_evaluations(len(sigmas)) is None:
        return None
    start = float(decreasing(sigmas)[0]) if start_std is None else start_std
    w = torch.linspace(FINE, COARSE, 4, dtype=torch.float64)
    plan = sampler.plan(sigmas)
    if plan is not None:
        noise, spread = noise_of_walk(plan, start, response), spread_of_walk(plan, start, w)
    else:
        noise = float(_run(sampler, _Black(response), torch.zeros(1, dtype=w.dtype), sigmas, start))
        spread = _run(sampler, _Normal(w), w, sigmas, start)
    error = (spread - w) / w
    return Remainder(noise, float(error[error.abs().argmax()]))


def _steps(plan: Plan) -> list[tuple[float, float, float, float]]:
    """Level, step size in directions that are not measured, temperature and momentum of every step.

    Where the prior has a weight lambda, P is ``c s^2 / lambda`` there and the drift lambda times the score: as a step
    of ``c s^2`` at the temperature ``T / lambda``.
    """
    momenta = plan.momenta or [0.0] * len(plan.sigmas)
    return [
        (s, float(tau), t, a)
        if isinstance(tau, (int, float, Tensor))
        else (s, tau.scale * s**2, t / tau.prior_weight, a)
        for s, tau, t, a in zip(plan.sigmas, plan.step_sizes, plan.temperatures, momenta, strict=True)
    ]


class _Black(Denoiser):
    """Denoiser of black images that removes too little noise if there is more than its level."""

    def __init__(self, response: float) -> None:
        super().__init__()
        self.response = response

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x + sigma**2 * self.score(x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        r = x.square().mean((1, 2, 3), keepdim=True).sqrt()
        k = (r / sigma).clamp(min=1)
        return -x / sigma**2 * (k**self.response).clamp(max=MOST) / k


class _Normal(Denoiser):
    """Denoiser of images whose pixels are ``Normal(0, w^2)``, with a w for each row."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.variance = w.reshape(-1, 1, 1, 1) ** 2

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x * (self.variance / (self.variance + sigma**2))

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return -x / (self.variance + sigma**2)


def _run(sampler: Sampler, denoiser: Denoiser, w: Tensor, sigmas: Sigmas, start_std: float) -> Tensor:
    """Standard deviation at the end, like w, if the start is that of data with standard deviation w."""
    stream = generator(0, Stream.REMAINDER)

    def normal(x: Tensor) -> Tensor:
        """The same draws for all rows, with mean 0 and standard deviation 1 exactly."""
        n = torch.from_numpy(stream.standard_normal(x[0].shape)).to(x)
        return ((n - n.mean()) / n.std(correction=0)).expand_as(x)

    start = (start_std**2 + w**2).sqrt().reshape(-1, 1, 1, 1).expand(-1, 1, _SIDE, _SIDE)
    end = sampler.sample(denoiser, sigmas, start=start * normal(start), draws=StepNoise(lambda _, x: normal(x)))
    return end.square().mean((1, 2, 3)).sqrt()
