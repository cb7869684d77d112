"""EDM's sampler: Heun's method in sigma for the probability flow, with fresh noise before the steps if asked for."""

from __future__ import annotations

import math

from torch import Tensor

from randomwalk.config.samplers import HeunSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.samplers.sampler import Callback, Problem, Sampler, Sigmas, decreasing, pairs


class Heun(Sampler, HeunSettings):
    """EDM: raise the level s to ``r = s (1 + gamma)`` by noise, then step to the next level p, and correct the step.

        gamma = min(s_churn / N, sqrt(2) - 1) if s_min <= s <= s_max, else 0
        x     <- x + s_noise sqrt(r^2 - s^2) n
        d(x, sigma) = (x - D(x, sigma)) / sigma           the slope of the probability flow, dx / dsigma
        e     =  x + (p - r) d(x, r)
        x     <- x + (p - r) (d(x, r) + d(e, p)) / 2

    The last step, to p = 0, is not corrected: it goes to D. That makes 2N - 1 evaluations for N levels.

    Without churn it is of order 2. With it, at a fixed s_churn, the steps converge to an SDE with the marginals of the
    flow: its paths, and the distribution of the end point given the start, at order 1 only; but the distribution of the
    end point at order 2 if the start has that of X_sigma, since adding noise is exact and the flow back is Heun's
    method. That needs ``s_noise = 1``; another value changes the distribution at any N.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2 (algorithm 1 without churn).
    """

    order = marginal_order = 2
    strong_order = weak_order = 1

    def num_evaluations(self, num_levels: int) -> int:
        return 2 * num_levels - 1

    def raised(self, sigma: float, num_levels: int) -> float:
        """The level r from which the step is taken that begins at ``sigma``."""
        churns = self.s_min <= sigma <= (math.inf if self.s_max is None else self.s_max)
        return sigma * (1 + min(self.s_churn / num_levels, math.sqrt(2) - 1)) if churns else sigma

    def check_levels(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        levels = decreasing(sigmas).tolist()
        highest = max(levels, key=lambda sigma: self.raised(sigma, len(levels)))
        try:
            denoiser.check_sigma(self.raised(highest, len(levels)))
        except InputError as error:
            raise InputError(
                f"sampler: s_churn={self.s_churn:g} raises the level {highest:.6g} too far, set s_max below it: {error}"
            ) from error

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        def slope(x: Tensor, sigma: float) -> Tensor:
            return (x - problem.denoiser(x, sigma)) / sigma

        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            r = self.raised(sigma, len(problem.levels))
            if r > sigma:
                x = x + self.s_noise * math.sqrt(r**2 - sigma**2) * problem.draws.noise(k, x)
            d = slope(x, r)
            e = x + (sigma_next - r) * d
            x = x + (sigma_next - r) * (d + slope(e, sigma_next)) / 2 if sigma_next > 0 else e
            callback(k, x, sigma)
        return x
