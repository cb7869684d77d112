"""Decoupled annealing posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Problem, require
from randomwalk.samplers.posterior.splitting import SplittingSampler, denoise, descent
from randomwalk.samplers.posterior.steps import pairs


@dataclass(frozen=True, kw_only=True)
class DAPS(SplittingSampler):
    """At every level s: an image without y, an image with y near it, and fresh noise of the next level p.

        z  = end of the probability flow from (x, s), by Euler steps     (D(x, s), if there is one)
        x0 ~ Normal(x0; z, r^2 I) f(y | x0)                              see SplittingSampler
        x  = x0 + p n

    with r = s as in the authors' code, or ``r^2 = s^2 c^2 / (s^2 + c^2)`` with c = ``data_std``, the variance that
    X given X_s has if the pixels of X are independent with variance c^2.

    What it converges to is not the posterior, because ``Normal(z, r^2 I)`` is not the law of X given X_s. On a
    Gaussian prior the mean of that law is D(x, s), but the end of the flow spreads as widely as X itself does: where y
    says nothing, many levels with many ode_steps and r = s lead to **twice the prior's variance** (1.65 times it at 200
    levels from 10 to 0.03 with 5 ode_steps, on white images of variance 1/2). With one ode_step they lead to the
    posterior: it is a Langevin step of size s^2 then. On a prior Normal(m, c^2 I), one ode_step with data_std = c is
    exact at any number of levels. More ode_steps make sharper images.

    Source: Zhang et al. 2024, arXiv 2407.01521, and the code published with it. There the likelihood is
    given a fixed eta = 0.01 and the size of the Langevin steps falls to a hundredth; here both follow the problem.

    Args:
        ode_steps: Euler steps of the flow at every level, one evaluation of the denoiser each.
        data_std: c; None for r = s.
    """

    ode_steps: int = 5
    data_std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ode_steps >= 1, "ode_steps", self.ode_steps, "1 or more")
        require(self.data_std is None or self.data_std > 0, "data_std", self.data_std, "a positive number, or none")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        given_y = self.conditional(problem)
        x = levels[0] * problem.normal()
        for k, (s, p) in enumerate(pairs(levels)):
            z = denoise(problem, x, descent(s, levels[-1], self.ode_steps), stochasticity=0.0)
            r = s if self.data_std is None else s * self.data_std / (s**2 + self.data_std**2) ** 0.5
            x = given_y(z, r)
            if p > 0:
                x = x + p * problem.normal()
            callback(k, x, s)
        return x
