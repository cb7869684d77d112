"""EDM's sampler: Heun's method in sigma for the probability flow, with fresh noise before the steps if asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.samplers.sampler import Noise, Sigmas, Solver, decreasing, require


@dataclass(frozen=True)
class Heun(Solver):
    """EDM: raise the level s to ``r = s (1 + gamma)`` by noise, then step to the next level p, and correct the step.

        gamma = min(s_churn / N, sqrt(2) - 1) if s_min <= s <= s_max, else 0
        x     <- x + s_noise sqrt(r^2 - s^2) n
        d(x, sigma) = (x - D(x, sigma)) / sigma           the slope of the probability flow, dx / dsigma
        e     =  x + (p - r) d(x, r)
        x     <- x + (p - r) (d(x, r) + d(e, p)) / 2

    The last step, to p = 0, is not corrected: it goes to D. That makes 2N - 1 evaluations for N levels.

    Without churn it is of order 2. With it, what the steps approach as N grows with s_churn fixed is an SDE with the
    marginals of the flow; its paths, and the law of the end given the start, are met at order 1 only, but the law of
    the end at order 2 if the start has the law of X_sigma: adding noise is exact, and flowing back is Heun's method.
    That needs ``s_noise = 1``; another value changes the law at any N.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2 (algorithm 1 without churn).

    Args:
        s_churn: how much noise is added, over all steps.
        s_min, s_max: the levels at which it is added, both inclusive.
        s_noise: its standard deviation relative to what the raised level says.
    """

    order: ClassVar[int | None] = 2
    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 2
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_min"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        require(self.s_max >= self.s_min, "s_max", self.s_max, f"a number of at least s_min = {self.s_min:g}")
        require(self.s_noise > 0, "s_noise", self.s_noise, "a positive number")

    def num_evaluations(self, num_levels: int) -> int:
        return 2 * num_levels - 1

    def raised(self, sigma: float, num_levels: int) -> float:
        """The level from which the step is taken that begins at ``sigma``."""
        churns = self.s_min <= sigma <= self.s_max
        return sigma * (1 + min(self.s_churn / num_levels, math.sqrt(2) - 1)) if churns else sigma

    def check(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        levels = decreasing(sigmas).tolist()
        highest = max(levels, key=lambda sigma: self.raised(sigma, len(levels)))
        try:
            denoiser.check_sigma(self.raised(highest, len(levels)))
        except InputError as error:
            raise InputError(
                f"sampler: s_churn={self.s_churn:g} raises the level {highest:.6g} too far, set s_max below it: {error}"
            ) from error

    def states(
        self, denoise: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float], noise: Noise
    ) -> Iterator[Tensor]:
        def slope(state: Tensor, sigma: float) -> Tensor:
            return (state - denoise(state, sigma)) / sigma

        for k, (s, p) in enumerate(itertools.pairwise([*levels, 0.0])):
            r = self.raised(s, len(levels))
            if r > s:
                x = x + self.s_noise * math.sqrt(r**2 - s**2) * noise(k, x)
            d = slope(x, r)
            e = x + (p - r) * d
            x = x + (p - r) * (d + slope(e, p)) / 2 if p > 0 else e
            yield x
