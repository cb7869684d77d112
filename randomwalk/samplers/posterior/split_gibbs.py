"""Split Gibbs sampling with a diffusion prior (PnP-DM)."""

from __future__ import annotations

from torch import Tensor

from randomwalk.config.samplers import SplitGibbsSettings
from randomwalk.samplers.posterior.splitting import SplittingSampler, denoise, descent
from randomwalk.samplers.sampler import Callback, Problem


class SplitGibbs(SplittingSampler, SplitGibbsSettings):
    """Gibbs sampling of an image x and a copy z of it, ``p(x) Normal(x; z, rho^2 I) f(y | z)``: in turn

        z ~ Normal(z; x, rho^2 I) f(y | z)      see SplittingSampler
        x ~ p(x) Normal(x; z, rho^2 I)          reverse diffusion from X_rho = z to the clean image

    where rho is the noise level, or ``rho_min`` for the levels below that. The start is a black image, x = 0.

    At a fixed rho, if the reverse diffusion is exact (many ``prior_steps``), x ends in the posterior of a *wider*
    likelihood, ``p(x) f_rho(y | x)`` with ``f_rho(y | x) = E[f(y | x + rho n)]``: for a linear operator and Gaussian
    noise the noise of y has covariance ``eta^2 I + rho^2 A A^T`` in place of ``eta^2 I``. So the bias is small if
    rho_min |A| is well below eta. But where nothing is measured, the influence of the start decreases by a factor
    ``1 - rho^2 / (rho^2 + c^2)`` a turn (c the standard deviation of X there): the smaller rho_min, the more levels
    are needed. Few ``prior_steps`` make x too narrow, which is the larger bias in practice: on a Gaussian prior with a
    real covariance (benchmarks/posterior_gaussian.py) the spread is 0.86 of the exact one with 6 of them, 0.97 with 30.

    Source: Wu et al. 2024, "Principled probabilistic imaging using diffusion models as plug-and-play priors", arXiv
    2405.18782; in the commands published with it rho falls by a tenth each turn from 10 to 0.3, or to 0.1 if A is not
    linear, and stays there for the rest of 100 turns.
    """

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        draw_given_y = self.conditional(problem)
        for k, sigma in enumerate(problem.levels):
            rho = max(sigma, self.rho_min)
            z = draw_given_y(x, rho)
            x = denoise(problem, z, descent(rho, problem.levels[-1], self.prior_steps), self.stochasticity)
            callback(k, x, sigma)
        return x

    def begin(self, problem: Problem) -> Tensor:
        return problem.blank.new_zeros(problem.blank.shape)
