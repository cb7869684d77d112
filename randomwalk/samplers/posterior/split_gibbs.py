"""Split Gibbs sampling with a diffusion prior (PnP-DM)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Problem, require
from randomwalk.samplers.posterior.splitting import SplittingSampler, denoise, descent


@dataclass(frozen=True, kw_only=True)
class SplitGibbs(SplittingSampler):
    """Gibbs sampling of an image x and a copy z of it, ``p(x) Normal(x; z, rho^2 I) f(y | z)``: in turn

        z ~ Normal(z; x, rho^2 I) f(y | z)      see SplittingSampler
        x ~ p(x) Normal(x; z, rho^2 I)          reverse diffusion from X_rho = z to the clean image

    with rho falling along the noise levels down to ``rho_min``, where it stays for the levels that are left.

    At a fixed rho, if the reverse diffusion is exact (many ``prior_steps``), x ends in the posterior of a *wider*
    likelihood, ``p(x) f_rho(y | x)`` with ``f_rho(y | x) = E[f(y | x + rho n)]``: for a linear operator and Gaussian
    noise the noise of y has covariance ``eta^2 I + rho^2 A A^T`` in place of ``eta^2 I``. So the bias is small if
    rho_min |A| is well below eta. But where y says nothing, x forgets its start by a factor
    ``1 - rho^2 / (rho^2 + c^2)`` a turn (c the standard deviation of X there): the smaller rho_min, the more levels
    are needed. Few ``prior_steps`` make x too narrow, which is the larger bias in practice: on a Gaussian prior with a
    real covariance (benchmarks/posterior_gaussian.py) the spread is 0.86 of the exact one with 6 of them, 0.97 with 30.

    Source: Wu et al. 2024, "Principled probabilistic imaging using diffusion models as plug-and-play priors", arXiv
    2405.18782; in the commands published with it rho falls by a tenth each turn from 10 to 0.3, or to 0.1 if A is not
    linear, and stays there for the rest of 100 turns.

    Args:
        rho_min: lowest rho, in [-1, 1] pixel units.
        prior_steps: steps of the reverse diffusion, one evaluation of the denoiser each.
        stochasticity: of these steps; 1 draws from ``p(x | z)``, 0 follows the probability flow, whose end is no draw.
    """

    rho_min: float = 0.1
    prior_steps: int = 10
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rho_min >= 0, "rho_min", self.rho_min, "a number of at least 0")
        require(self.prior_steps >= 1, "prior_steps", self.prior_steps, "1 or more")
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        given_y = self.conditional(problem)
        x = problem.y.new_zeros((len(problem.y), *problem.operator.image_shape))
        for k, s in enumerate(levels):
            rho = max(s, self.rho_min)
            z = given_y(x, rho)
            x = denoise(problem, z, descent(rho, levels[-1], self.prior_steps), self.stochasticity)
            callback(k, x, s)
        return x
