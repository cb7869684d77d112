"""Moments of X given X_s = x where y has too many entries for a backward pass through the denoiser for each.

The counterpart of `moments` with approximations: the shift of the mean towards y by a few iterations of conjugate
gradients, and every covariance by one number c with functions of ``A^T A``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from randomwalk.operators import Operator
from randomwalk.samplers.posterior.mmps import mean_and_shift
from randomwalk.samplers.sampler import Problem


@dataclass(frozen=True)
class ImplicitMoments:
    """``X | X_s = x ~ Normal(D, c I)``; given y its mean is ``D + C A^T (A C A^T + eta^2 I)^-1 (y - A D)``.

    Attributes:
        operator: A; needs ``spectral``.
        variance: c.
        x, mean, shift: the state, D, and how far the mean moves with y, ``[B, C, H, W]`` float64.
        residual: ``y - A D``, ``[B, ...]`` float64.
    """

    operator: Operator
    variance: float
    x: Tensor
    mean: Tensor
    shift: Tensor
    residual: Tensor

    def log_evidence(self, eta: float) -> Tensor:
        """``log Normal(y; A D, c A A^T + eta^2 I)``, ``[B]``, up to a constant of each measurement."""
        c, pulled = self.variance, self.operator.adjoint(self.residual)
        explained = c * pulled * self.operator.spectral(lambda t: (t > 0) / (c * t + eta**2), pulled)
        return (explained.flatten(1).sum(1) - self.residual.square().flatten(1).sum(1)) / (2 * eta**2)

    def take(self, rows: Tensor) -> ImplicitMoments:
        """The moments of some rows, in the order given. Only rows of the same measurement may change places."""
        return replace(self, x=self.x[rows], mean=self.mean[rows], shift=self.shift[rows], residual=self.residual[rows])

    def move(self, eta: float, keep: float, variance: float, normal: Tensor) -> tuple[Tensor, Tensor]:
        """As Moments.move, with a = 1 - keep and

            M(x' | x)    = Normal(keep x + a D,           (variance + a^2 c) I)
            Q(x' | x, y) = Normal(keep x + a (D + shift), variance I + a^2 c eta^2 (c A^T A + eta^2 I)^-1)

        The ratio is up to a constant of each measurement.
        """
        a, c, normal = 1 - keep, self.variance, normal.reshape(self.x.shape)
        step = a * self.shift + self.operator.spectral(
            lambda t: (variance + a**2 * c * eta**2 / (c * t + eta**2)).sqrt(), normal
        )
        log_ratio = (normal.square() - step.square() / (variance + a**2 * c)).flatten(1).sum(1) / 2
        return (keep * self.x + a * self.mean + step).flatten(1), log_ratio


def implicit_moments(problem: Problem, x: Tensor, sigma: float, variance: float, iterations: int) -> ImplicitMoments:
    """The moments at the states ``x [B, C, H, W]``: one evaluation, ``iterations + 1`` backward passes.

    Args:
        problem: its operator is linear with a spectral decomposition.
        x: states at the noise level ``sigma``.
        variance: c.
        iterations: of conjugate gradients.
    """
    denoised, shift = mean_and_shift(problem, x, sigma, iterations)
    residual = problem.residual(denoised)
    return ImplicitMoments(problem.operator, variance, x.double(), denoised.double(), shift.double(), residual.double())
