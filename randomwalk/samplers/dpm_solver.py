"""DPM-Solver++ and UniPC: multistep integrators of the probability flow, from the denoised images of earlier steps.

With ``lambda = -ln sigma`` the flow is ``dx / dlambda = D - x``, and from level s to p, with ``h = ln(s / p)``,

    x_p = (p / s) x_s + integral of h e^(-h (1 - u)) D(lambda_s + u h) du, u from 0 to 1

exactly. The solvers replace D by a polynomial in u. (These are the paper's coordinates with alpha = 1; its VP update is
the same with ``x = z / alpha`` and ``sigma = sigma_t / alpha_t``.)

Sources: Lu et al. 2022, arXiv 2211.01095; Zhao et al. 2023, arXiv 2302.04867.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from randomwalk.config.samplers import DPMSolver2MSettings, DPMSolver3MSettings, UniPCSettings
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
    """DPM-Solver++(3M): a parabola through the last three denoised images. One evaluation for each level.

        x_p = (p / s) x_s + (1 - p / s) D_s + phi_2 D' + phi_3 D'' / (2 (1 + h))
        phi_2 = 1 - (1 - p / s) / h,    phi_3 = 1 - 2 phi_2 / h            the integrals of u and u^2
        D', D'': derivatives at u = 0 of the parabola through D_s, D_q, D_o at u = 0, -r_q, -r_q - r_o
        r_q = ln(q / s) / h,    r_o = ln(o / q) / h

    The factor ``1 / (1 + h)`` goes to 1 as the steps shrink. Long steps extrapolate too far without: at 20 evaluations
    and fewer the error was up to 2.9 times that of the published form, which has 1/2 in its place and is of order 2.
    With it the error there is 0.75 to 1.10 times the published one (``tests/samplers/test_solvers.py``). Below about
    ten evaluations the line of 2M is better.

    Of order 3 only if the start is too. The first step takes D_s alone, and is corrected by the line through D_s and
    D_p as soon as D_p is known; the second is that of 2M. Both are single steps of error ``h^3``, as all the others
    together. The last step, to p = 0, goes to D_s.

    Source: Lu et al. 2022, arXiv 2211.01095; the paper has no algorithm of 3M. The code published with it has
    (``multistep_dpm_solver_third_update``).
    """

    order = 3

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        older: list[tuple[float, Tensor]] = []  # levels and denoised images before sigma, the latest first
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            D = problem.denoiser(x, sigma)
            if len(older) == 1:
                x = corrected(x, *older[0], sigma, D)
            if sigma_next == 0 or not older:
                x = first_order(x, sigma, sigma_next, D)
            elif len(older) == 1:
                x = second_order(x, sigma, sigma_next, D, *older[0])
            else:
                x = third_order(x, sigma, sigma_next, D, *older[0], *older[1])
            older = [(sigma, D), *older[:1]]
            callback(k, x, sigma)
        return x


class UniPC(Sampler, UniPCSettings):
    """UniPC: a polynomial through denoised images, and again with that of the new level. One evaluation for each level.

        predict   x_p from the polynomial through D at the last n levels, s among them
        denoise   D_p = D(x_p, p)
        correct   x_p from the polynomial through these and D_p, from the same x_s

    with n = ``solver_order``, or fewer where there are not yet so many. D_p is not computed again for the corrected
    x_p, and is what the next step begins with. A line has the weight 1/2 of its slope in place of the exact
    ``phi_2 / (1 - p / s)``, as published for B(h) = e^h - 1. Of order 3 for n = 2; for n = 3 all steps but the first,
    whose error is ``h^3`` too, are of order 4. The last step, to p = 0, goes to D_s.

    Source: Zhao et al. 2023, arXiv 2302.04867, UniPC with B_2 and the prediction of data.
    """

    order = 3

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        older: list[tuple[float, Tensor]] = []  # levels and denoised images before sigma, the latest first
        before = x
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            D = problem.denoiser(x, sigma)
            if older:
                x = polynomial(before, older[0][0], sigma, older[0][1], [*older[1:], (sigma, D)])
            before, older = x, [(sigma, D), *older[: self.solver_order - 1]]
            x = D if sigma_next == 0 else polynomial(x, sigma, sigma_next, D, older[1:])
            callback(k, x, sigma)
        return x


def phis(sigma: float, sigma_next: float) -> tuple[float, float]:
    """``(phi_2, phi_3)``, the integrals of ``h e^(-h (1 - u))`` times u and u^2 over a step."""
    h = math.log(sigma / sigma_next)
    phi_2 = 1 - (1 - sigma_next / sigma) / h
    return phi_2, 1 - 2 * phi_2 / h


def corrected(x: Tensor, sigma: float, D: Tensor, sigma_next: float, D_next: Tensor) -> Tensor:
    """The state at level p after a step of order 1 from s, by the line through D_s and D_p."""
    return x + phis(sigma, sigma_next)[0] * (D_next - D)


def first_order(x: Tensor, sigma: float, sigma_next: float, D: Tensor) -> Tensor:
    """The step from level s to p with a constant D; also DDIM's."""
    return (sigma_next / sigma) * x + (1 - sigma_next / sigma) * D


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
    phi_2, phi_3 = phis(sigma, sigma_next)
    return first_order(x, sigma, sigma_next, D) + phi_2 * (near + r_q * half_second) + phi_3 / (1 + h) * half_second


def polynomial(x: Tensor, sigma: float, sigma_next: float, D: Tensor, others: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The step of UniPC, from D at level s and at other levels: ``sum_m c_m r_m^i`` are the integrals of u^i.

    Args:
        x, sigma, sigma_next, D: the state and D at level s, and the level p.
        others: levels and denoised images; that of p for the corrector.
    """
    h, integral, integrals = math.log(sigma / sigma_next), 1 - sigma_next / sigma, []
    for i in range(1, len(others) + 1):
        integral = 1 - i * integral / h
        integrals.append(integral)
    if len(others) == 1:
        integrals = [(1 - sigma_next / sigma) / 2]
    r = torch.tensor([math.log(sigma / level) / h for level, _ in others], dtype=torch.float64)
    powers = torch.stack([r**i for i in range(1, len(others) + 1)]) if others else r.reshape(0, 0)
    weights = torch.linalg.solve(powers, r.new_tensor(integrals)).tolist()
    x = first_order(x, sigma, sigma_next, D)
    for weight, (_, other) in zip(weights, others, strict=True):
        x = x + weight * (other - D)
    return x
