"""DPM-Solver++: multistep exponential integrators of the probability flow, from the denoised images of earlier steps.

With ``lambda = -ln sigma`` the flow is ``dx / dlambda = D - x``, and from level s to p, with ``h = ln(s / p)``,

    x_p = (p / s) x_s + integral of h e^(-h (1 - u)) D(lambda_s + u h) du, u from 0 to 1

exactly. The solvers replace D by a polynomial in u. (These are the paper's coordinates with alpha = 1; its VP update is
the same with ``x = z / alpha`` and ``sigma = sigma_t / alpha_t``.)

Source: Lu et al. 2022, arXiv 2211.01095.
"""

from __future__ import annotations

import math

from torch import Tensor

from randomwalk.config.samplers import DPMSolver2MSettings, DPMSolver3MSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.samplers.sampler import Callback, Problem, Sampler, pairs


class DPMSolver2M(Sampler, DPMSolver2MSettings):
    """DPM-Solver++(2M): a line through the last two denoised images. One evaluation for each level.

        r   = ln(q / s) / ln(s / p)                 q, s, p: the levels before, of, and after the step
        D~  = D_s + (D_s - D_q) / (2 r)
        x_p = (p / s) x_s + (1 - p / s) D~

    The first step has no D_q and takes ``D~ = D_s``. It is of order 1, but a single step: its error is ``h^2``, as that
    of all the others together. The last step, to p = 0, goes to D_s.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """

    order = 2

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        previous: tuple[float, Tensor] | None = None
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            D = problem.denoiser(x, sigma)
            if previous is None or sigma_next == 0:
                x = first_order(x, sigma, sigma_next, D)
            else:
                x = second_order(x, sigma, sigma_next, D, *previous)
            previous = (sigma, D)
            callback(k, x, sigma)
        return x


class DPMSolver3M(Sampler, DPMSolver3MSettings):
    """DPM-Solver++(3M): a parabola through the last three denoised images. N + 1 evaluations for N > 1 levels.

        x_p = (p / s) x_s + (1 - p / s) D_s + phi_2 D' + phi_3 D'' / 2
        phi_2 = 1 - (1 - p / s) / h,    phi_3 = 1 - 2 phi_2 / h            the integrals of u and u^2
        D', D'': derivatives at u = 0 of the parabola through D_s, D_q, D_o at u = 0, -r_q, -r_q - r_o
        r_q = ln(q / s) / h,    r_o = ln(o / q) / h

    Of order 3 only if the start is too, and so the first step is not of order 1, whose error ``h^2`` would stay: it is
    a single step of order 2, ``x_p = (p / s) x_s + (1 - p / s) D_m`` with ``D_m`` at ``m = sqrt(s p)`` after a step of
    order 1 from s, which is the one evaluation more. The second step is that of 2M. Both are single steps of error
    ``h^3``, as all the others together. The last step, to p = 0, goes to D_s.

    Source: Lu et al. 2022, arXiv 2211.01095, whose algorithm 1 (with r = 1/2) is the first step; the paper has no
    algorithm of 3M. The code published with it has (``multistep_dpm_solver_third_update``), with ``phi_3 D'' / 4`` and
    a first step of order 1; that is of order 2.
    """

    order = 3

    def num_evaluations(self, num_levels: int) -> int:
        return num_levels + (num_levels > 1)

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        older: list[tuple[float, Tensor]] = []  # levels and denoised images before sigma, the latest first
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            D = problem.denoiser(x, sigma)
            if sigma_next == 0:
                x = first_order(x, sigma, sigma_next, D)
            elif not older:
                x = midpoint(problem.denoiser, x, sigma, sigma_next, D)
            elif len(older) == 1:
                x = second_order(x, sigma, sigma_next, D, *older[0])
            else:
                x = third_order(x, sigma, sigma_next, D, *older[0], *older[1])
            older = [(sigma, D), *older[:1]]
            callback(k, x, sigma)
        return x


def first_order(x: Tensor, sigma: float, sigma_next: float, D: Tensor) -> Tensor:
    """The step from level s to p with a constant D; also DDIM's."""
    return (sigma_next / sigma) * x + (1 - sigma_next / sigma) * D


def midpoint(denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, D: Tensor) -> Tensor:
    """The single step of order 2 from level s to p, from D at level s and at ``sqrt(s p)``."""
    m = math.sqrt(sigma * sigma_next)
    return first_order(x, sigma, sigma_next, denoiser(first_order(x, sigma, m, D), m))


def second_order(x: Tensor, sigma: float, sigma_next: float, D: Tensor, sigma_prev: float, D_prev: Tensor) -> Tensor:
    """The step of 2M, from D at level s and D_q at the level q before it."""
    ratio = math.log(sigma / sigma_next) / (2 * math.log(sigma_prev / sigma))
    return first_order(x, sigma, sigma_next, D + ratio * (D - D_prev))


def third_order(
    x: Tensor,
    sigma: float,
    sigma_next: float,
    D: Tensor,
    sigma_prev: float,
    D_prev: Tensor,
    sigma_prev2: float,
    D_prev2: Tensor,
) -> Tensor:
    """The step of 3M, from D at level s, D_q at the level q before it, and D_o at the level o before that."""
    h = math.log(sigma / sigma_next)
    r_q, r_o = math.log(sigma_prev / sigma) / h, math.log(sigma_prev2 / sigma_prev) / h
    near, far = (D - D_prev) / r_q, (D_prev - D_prev2) / r_o  # divided differences
    half_second = (near - far) / (r_q + r_o)
    phi_2 = 1 - (1 - sigma_next / sigma) / h
    phi_3 = 1 - 2 * phi_2 / h
    return first_order(x, sigma, sigma_next, D) + phi_2 * (near + r_q * half_second) + phi_3 * half_second
