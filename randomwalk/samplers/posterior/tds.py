"""Twisted sequential Monte Carlo with an isotropic covariance (the Twisted Diffusion Sampler)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from randomwalk.config.samplers import TDSSettings
from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.samplers.posterior.particles import resampled
from randomwalk.samplers.posterior.splitting import norm_or_one
from randomwalk.samplers.posterior.steps import fresh_noise
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler
from score_sde.devices import exact


class TDS(Sampler, TDSSettings):
    """Particles that move towards y, weighted to correct for the difference to the exact posterior.

    The prior is the chain of DDPM's ancestral steps, x ~ Normal(0, s^2 I) at the highest level, then from s to p

        M(x' | x) = Normal(D + p^2/s^2 (x - D), v^2 I),    v^2 = p^2 (s^2 - p^2) / s^2

    and ``X = D(x, s)`` at the lowest level. A twist t_s(x) approximates ``p(y | X_s = x)``,

        t_s(x) = Normal(y; A D(x, s), r^2 A A^T + eta^2 I),    r^2 = s^2 c^2 / (s^2 + c^2)

    with c = ``data_std``; at the lowest level r = 0, so that the last twist is the likelihood of X itself. The proposal
    Q has D + a s^2 grad log t_s(x) in place of D, a from 0 to 1, and particles are weighted by

        w = M(x' | x) t_p(x') / (Q(x' | x) t_s(x))

    The source has a = 1. But where pixels are correlated, as in images, ``s^2 dD/dx`` has eigenvalues far above r^2;
    particles then overshoot y by the ratio at every step, until they overflow. Here a stops the particle at the most
    likely image on the line, see :meth:`Twist.reach`; it is 1 where the twist is exact. Of the S particles of a
    measurement, those are resampled whose effective number is below ``ess_threshold`` S, and all at the end.

    For any twists, as S grows, the samples converge to the posterior of the chain's prior, and the mean of the weights
    is an unbiased estimate of its p(y) for any S; the chain's prior converges to the prior with many steps and a lowest
    level near 0. The twists only decide how many particles that takes.

    Without a spectral decomposition, or with noise that is not Gaussian, or an operator that is not linear,

        t_s(x) = f(y | A(D))^b,    b = eta^2 / (eta^2 + |A|^2 r^2)

    where the norm of an operator that is not linear is taken to be 1 if it does not define any, and eta is the noise's
    ``std``.

    Source: Wu et al. 2023, "Practical and asymptotically exact conditional sampling in diffusion models", arXiv
    2306.17775. Resampling is systematic here.
    """

    needs = Needs(gradient=True)

    def check(self, measurement: Measurement | None) -> None:
        super().check(measurement)
        if measurement is not None and measurement.std == 0:
            raise InputError("sampler TDS weights particles by the likelihood: it needs noise with a positive std")

    @property
    def coupled_samples(self) -> bool:
        return True

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        x, log_weights = self.weighted(problem, x, callback)
        rows, _ = resampled(log_weights, problem.draws.uniform()[:: problem.num_samples], threshold=1.0)
        return x[rows]

    def weighted(self, problem: Problem, x: Tensor, callback: Callback) -> tuple[Tensor, Tensor]:
        """Particles ``[B, C, H, W]`` and their log weights ``[M, S]``, whose mean weight estimates p(y)."""
        levels, twist = problem.levels, Twist(problem)
        log_weights = exact(x.new_zeros((len(x) // problem.num_samples, problem.num_samples)))
        spent = 0 * log_weights  # the twists already in the weights
        for k, (sigma, sigma_next) in enumerate(pairwise(levels)):
            denoised, product = problem.denoiser.linearized(x, sigma)
            log_twist, score = twist(denoised, sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2))
            move = sigma**2 * product(score)
            keep = sigma_next**2 / sigma**2
            pull = (1 - keep) * twist.reach(denoised, score, move) * move
            log_weights = log_weights + log_twist.reshape(spent.shape) - spent
            uniform = problem.draws.uniform()[:: problem.num_samples]
            rows, log_weights = resampled(log_weights, uniform, self.ess_threshold)
            x, denoised, pull, spent = x[rows], denoised[rows], pull[rows], log_twist[rows].reshape(spent.shape)
            v, n = fresh_noise(sigma, sigma_next, stochasticity=1.0), problem.normal()
            x = denoised + keep * (x - denoised) + pull + v * n
            log_weights = log_weights + log_ratio(pull / v, n).reshape(spent.shape)
            callback(k, x, sigma)
        x = problem.denoiser(x, levels[-1])
        log_weights = log_weights + exact(problem.measurement.log_prob(x)).reshape(spent.shape) - spent
        callback(len(levels) - 1, x, levels[-1])
        return x, log_weights


class Twist:
    """``log t(D)`` and its gradient in D, for a denoised image D whose pixels have errors of variance r^2.

    Where t is Gaussian, its constant and the part of y outside the range of A are left out: they are the same for all
    the particles of a measurement, and cancel in the weights.

    Args:
        problem: gives A, y and eta.
    """

    def __init__(self, problem: Problem) -> None:
        operator = problem.operator
        self.problem = problem
        self.gaussian = operator.linear and operator.has_spectral and problem.measurement.noise.name == "gaussian"
        self.gain = 1.0 if self.gaussian else norm_or_one(operator) ** 2

    def __call__(self, denoised: Tensor, variance: float) -> tuple[Tensor, Tensor]:
        """``log t``, ``[B]`` float64, and its gradient, ``[B, C, H, W]``."""
        eta = self.problem.eta
        if not self.gaussian:
            power = eta**2 / (eta**2 + self.gain * variance)
            score = power * self.problem.measurement.score(denoised)
            return power * exact(self.problem.measurement.log_prob(denoised)), score
        # With u = A^T (r^2 A A^T + eta^2)^-1 q,  q^T (r^2 A A^T + eta^2)^-1 q = |q - r^2 A u|^2 / eta^2 + r^2 |u|^2,
        # and u minimises the right-hand side: its rounding errors enter squared.
        operator, residual = self.problem.operator, self.problem.residual(denoised)
        # A^T q is 0 where t = 0, and 1 / eta^2 there would only amplify rounding errors.
        score = operator.spectral(lambda t: (t > 0) / (variance * t + eta**2), operator.adjoint(residual))
        left = residual - variance * operator(score)
        return -_dot(left, left) / (2 * eta**2) - variance * _dot(score, score) / 2, score

    def reach(self, denoised: Tensor, score: Tensor, move: Tensor) -> Tensor:
        """Fraction of ``move = C score`` that leads to the most likely image on that line, at most 1.

        For a linear A and a Gaussian of covariance C around D it maximises
        ``-a^2 score^T C score / 2 - |q - a A move|^2 / (2 eta^2)``, and where C = r^2 I it is at a = 1.

        Returns:
            a, ``[B, 1, 1, 1]`` from 0 to 1.
        """
        seen = self.problem.operator(denoised + move) - self.problem.operator(denoised)
        slope = _dot(self.problem.measurement.score(denoised), move)
        curvature = _dot(score, move) + _dot(seen, seen) / self.problem.eta**2
        a = torch.where((slope > 0) & (curvature > 0), slope / curvature, 0).clamp(0, 1)
        return a.to(move).reshape(-1, *[1] * (move.ndim - 1))


def log_ratio(shift: Tensor, n: Tensor) -> Tensor:
    """``log Normal(shift + n; 0, I) - log Normal(n; 0, I)``, ``[B]`` float64, for a proposal that is shifted.

    The difference of the two squares is factored, to keep its digits if they are large.
    """
    return -exact(shift * (n + shift / 2)).flatten(1).sum(1)


def _dot(v: Tensor, w: Tensor) -> Tensor:
    return (exact(v) * exact(w)).flatten(1).sum(1)
