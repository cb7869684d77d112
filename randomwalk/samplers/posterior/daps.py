"""Decoupled annealing posterior sampling."""

from __future__ import annotations

from torch import Tensor

from randomwalk.config.samplers import DAPSSettings
from randomwalk.samplers.posterior.splitting import SplittingSampler, denoise, descent
from randomwalk.samplers.sampler import Callback, Problem, pairs


class DAPS(SplittingSampler, DAPSSettings):
    """At every level s: an image without y, an image with y near it, and fresh noise of the next level p.

        z  = end of the probability flow from (x, s), by Euler steps     (D(x, s), if there is one)
        x0 ~ Normal(x0; z, r^2 I) f(y | x0)                              see SplittingSampler
        x  = x0 + p n

    with r = s as in the authors' code, or ``r^2 = s^2 c^2 / (s^2 + c^2)`` with c = ``data_std``, the variance that
    X given X_s has if the pixels of X are independent with variance c^2.

    It does not converge to the posterior, because ``Normal(z, r^2 I)`` is not the distribution of X given X_s. On a
    Gaussian prior that distribution has the mean D(x, s), but the end of the flow spreads as widely as X itself: where
    nothing is measured, many levels with many ode_steps and r = s lead to **twice the prior's variance** (1.65 times it
    at 200 levels from 10 to 0.03 with 5 ode_steps, on white images of variance 1/2). With one ode_step, which is then a
    Langevin step of size s^2, they lead to the posterior. On a prior Normal(m, c^2 I), one ode_step with data_std = c
    is exact at any number of levels. More ode_steps make sharper images.

    Source: Zhang et al. 2024, arXiv 2407.01521, and the code published with it. There the likelihood has a fixed
    eta = 0.01 and the size of the Langevin steps decreases to a hundredth; here both follow the measurement.
    """

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        draw_given_y, c = self.conditional(problem), self.data_std
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            z = denoise(problem, x, descent(sigma, problem.levels[-1], self.ode_steps), stochasticity=0.0)
            x = draw_given_y(z, sigma if c is None else sigma * c / (sigma**2 + c**2) ** 0.5)
            if sigma_next > 0:
                x = x + sigma_next * problem.normal()
            callback(k, x, sigma)
        return x
