"""Twisted sequential Monte Carlo with an isotropic covariance (the Twisted Diffusion Sampler)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.operators.noise import Likelihood, Noise
from randomwalk.samplers.posterior.particles import resampled
from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.splitting import norm_or_one
from randomwalk.samplers.posterior.steps import fresh_noise


@dataclass(frozen=True, kw_only=True)
class TDS(PosteriorSampler):
    """Particles that walk towards y, weighted by what that walk leaves out.

    The prior is the chain of DDPM's ancestral steps, x ~ Normal(0, s^2 I) at the highest level, then from s to p

        M(x' | x) = Normal(D + p^2/s^2 (x - D), v^2 I),    v^2 = p^2 (s^2 - p^2) / s^2

    and ``X = D(x, s)`` at the lowest level. A twist t_s(x) is a guess of ``p(y | X_s = x)``,

        t_s(x) = Normal(y; A D(x, s), r^2 A A^T + eta^2 I),    r^2 = s^2 c^2 / (s^2 + c^2)

    with c = ``data_std``; at the lowest level r = 0, so that the last twist is the likelihood of X itself. The proposal
    Q has D + a s^2 grad log t_s(x) in the place of D, a from 0 to 1, and particles are weighted by

        w = M(x' | x) t_p(x') / (Q(x' | x) t_s(x))

    The source has a = 1. But where pixels are correlated, as in images, ``s^2 dD/dx`` has eigenvalues far above r^2;
    particles then overshoot y by their ratio at every step, until they overflow. Here a stops the particle at the
    most likely image on the line, see :meth:`Twist.reach`; it is 1 where the twist is right.
    They are resampled where their effective sample size is below ``ess_threshold`` S, and at the end. Whatever the
    twists are, as S grows, the samples converge to the posterior of the chain's prior, and the mean of the weights is
    an unbiased estimate of its p(y) for any S; the chain's prior converges to the prior as the steps grow many and the
    lowest level falls to 0. What the twists decide is how many particles that takes.

    Without a spectral decomposition, or with noise that is not Gaussian, or an operator that is not linear,

        t_s(x) = f(y | A(D))^b,    b = eta^2 / (eta^2 + |A|^2 r^2)

    where the norm of an operator that is not linear is taken to be 1 if it does not define any, and eta is the noise's
    ``std``.

    Source: Wu et al. 2023, "Practical and asymptotically exact conditional sampling in diffusion models", arXiv
    2306.17775. Resampling is systematic here.

    Args:
        data_std: c, standard deviation of the pixels.
        ess_threshold: 0 for no resampling before the end, 1 for resampling at every step.
    """

    needs: ClassVar[Needs] = Needs(gradient=True)

    data_std: float = 0.5
    ess_threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.data_std > 0, "data_std", self.data_std, "a positive number")
        require(0 <= self.ess_threshold <= 1, "ess_threshold", self.ess_threshold, "a number from 0 to 1")

    def check(self, operator: Operator, noise: Noise) -> None:
        super().check(operator, noise)
        if noise.std == 0:
            raise InputError("sampler TDS weights particles by the likelihood: it needs noise with a positive std")

    @property
    def couples(self) -> bool:
        return True

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        x, log_weights = self.weighted(problem, callback)
        rows, _ = resampled(log_weights, problem.draws.uniform()[:: problem.group], threshold=1.0)
        return x[rows]

    def weighted(self, problem: Problem, callback: Callback) -> tuple[Tensor, Tensor]:
        """Particles ``[B, C, H, W]`` and their log weights ``[M, S]``, the mean weight an estimate of p(y)."""
        levels, twist = self.levels(), Twist(problem)
        x = levels[0] * problem.normal()
        log_weights = x.new_zeros((len(x) // problem.group, problem.group)).double()
        spent = 0 * log_weights  # what the weights have of the twist so far
        for k, (s, p) in enumerate(pairwise(levels)):
            denoised, product = problem.denoiser.linearized(x, s)
            log_twist, score = twist(denoised, s**2 * self.data_std**2 / (s**2 + self.data_std**2))
            move = s**2 * product(score)
            pull = (1 - p**2 / s**2) * twist.reach(denoised, score, move) * move
            log_weights = log_weights + log_twist.reshape(spent.shape) - spent
            rows, log_weights = resampled(log_weights, problem.draws.uniform()[:: problem.group], self.ess_threshold)
            x, denoised, pull, spent = x[rows], denoised[rows], pull[rows], log_twist[rows].reshape(spent.shape)
            v, n = fresh_noise(s, p, stochasticity=1.0), problem.normal()
            x = denoised + p**2 / s**2 * (x - denoised) + pull + v * n
            log_weights = log_weights + log_ratio(pull / v, n).reshape(spent.shape)
            callback(k, x, s)
        x = problem.denoiser(x, levels[-1])
        log_weights = log_weights + twist.likelihood.log_prob(x).double().reshape(spent.shape) - spent
        callback(len(levels) - 1, x, levels[-1])
        return x, log_weights


class Twist:
    """``log t(D)`` and its gradient in D, for a denoised image D whose pixels are off by a variance of r^2.

    Where t is Gaussian its constant and what y holds outside the range of A are left out: they are the same for all
    the particles of a measurement, and the steps after add and subtract them again.

    Args:
        problem: gives A, y and eta.
    """

    def __init__(self, problem: Problem) -> None:
        operator, noise = problem.operator, problem.noise
        self.problem = problem
        self.likelihood = Likelihood(operator, problem.y, noise)
        self.gaussian = operator.linear and operator.has_spectral and noise.name == "gaussian"
        self.gain = 1.0 if self.gaussian else norm_or_one(operator) ** 2

    def __call__(self, denoised: Tensor, variance: float) -> tuple[Tensor, Tensor]:
        """``[B]`` float64 and ``[B, C, H, W]``."""
        eta = self.problem.eta
        if not self.gaussian:
            power = eta**2 / (eta**2 + self.gain * variance)
            score = power * self.likelihood.score(denoised)
            return power * self.likelihood.log_prob(denoised).double(), score
        # With u = A^T (r^2 A A^T + eta^2)^-1 q,  q^T (r^2 A A^T + eta^2)^-1 q = |q - r^2 A u|^2 / eta^2 + r^2 |u|^2,
        # and u is where the right-hand side is smallest: rounding errors of u come in squared.
        operator, residual = self.problem.operator, self.problem.residual(denoised)
        # There is nothing of A^T q where t = 0, and 1 / eta^2 there would drown the rest in rounding errors.
        score = operator.spectral(lambda t: (t > 0) / (variance * t + eta**2), operator.adjoint(residual))
        left = residual - variance * operator(score)
        return -_dot(left, left) / (2 * eta**2) - variance * _dot(score, score) / 2, score

    def reach(self, denoised: Tensor, score: Tensor, move: Tensor) -> Tensor:
        """How much of ``move = C score`` to make: to the most likely image on that line, and not more than all of it.

        For a linear A and a Gaussian of covariance C around D it is the largest of
        ``-a^2 score^T C score / 2 - |q - a A move|^2 / (2 eta^2)``, and where C = r^2 I it is at a = 1.

        Returns:
            a, ``[B, 1, 1, 1]`` from 0 to 1.
        """
        seen = self.problem.operator(denoised + move) - self.problem.operator(denoised)
        slope = _dot(self.likelihood.score(denoised), move)
        curvature = _dot(score, move) + _dot(seen, seen) / self.problem.eta**2
        a = torch.where((slope > 0) & (curvature > 0), slope / curvature, 0).clamp(0, 1)
        return a.to(move).reshape(-1, *[1] * (move.ndim - 1))


def log_ratio(shift: Tensor, n: Tensor) -> Tensor:
    """``log Normal(shift + n; 0, I) - log Normal(n; 0, I)``, ``[B]`` float64, for a proposal that is shifted.

    The difference of the two squares is worked out, so that it keeps its digits if they are large.
    """
    return -(shift * (n + shift / 2)).double().flatten(1).sum(1)


def _dot(v: Tensor, w: Tensor) -> Tensor:
    return (v.double() * w.double()).flatten(1).sum(1)
