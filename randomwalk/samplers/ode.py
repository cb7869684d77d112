"""The probability-flow ODE by the adaptive solvers of torchdiffeq."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.config.samplers import ODESettings
from randomwalk.samplers.integrate import integrate
from randomwalk.samplers.sampler import Callback, Problem, Sampler


class ODE(Sampler, ODESettings):
    """Probability flow with steps as long as a tolerance allows, in variables that stay of order 1:

        z = c x,    lambda = -ln sigma,    c = 1 / sqrt(1 + sigma^2)
        dz / dlambda = c (D(x, sigma) - c z)

    A step is taken if for every image the root mean square over pixels of ``error / (atol + rtol |z|)`` is at most 1:
    the norm is the *maximum over the images of the batch*, so that each meets the tolerance, whatever the others do.
    The steps are those of the batch: as many as its hardest image needs, and **an image depends on those beside it**,
    within the error; with the default tolerance and the bundled VP network that was 0.03 in the worst pixel. Therefore
    ``sample.py`` makes the images one by one, unless ``shared_steps`` is set.

    Every level of the schedule is the end of a step, and the callback is given the state there. Levels add no accuracy,
    but each costs at least a step: take a few, two or more. From the last one to 0 the step is D, as that of the other
    solvers, so that level should be small. The number of evaluations depends on the tolerance.

    At the last level the error is proportional to the tolerance if the denoiser is smooth; networks that read a table
    of levels are not, and their error decreases more slowly. In float32 nothing is gained below about 1e-6. The method
    fehlberg2 is left out: its error estimate lets errors of thirty times the tolerance pass.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.3 and appendix D.4 (RK45 with both tolerances 1e-5); the
    variables are ours; Chen 2018, torchdiffeq.
    """

    @property
    def coupled_images(self) -> bool:
        return True

    @property
    def batch_of_one(self) -> bool:
        return not self.shared_steps

    def num_evaluations(self, num_levels: int) -> int | None:
        return 1 if num_levels == 1 else None

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        flow = _Flow(problem.denoiser, problem.levels[-1])
        for k, (sigma, sigma_next) in enumerate(itertools.pairwise(problem.levels)):
            times = -torch.tensor([sigma, sigma_next], dtype=torch.float64).log()
            where = f"ode, from sigma = {sigma:.6g} to {sigma_next:.6g}"
            z = integrate(
                flow, _scale(sigma) * x, times, where,
                method=self.method, rtol=self.rtol, atol=self.atol, first_step=flow.step,
            )  # fmt: skip
            x = z[-1] / _scale(sigma_next)
            callback(k, x, sigma)
        x = problem.denoiser(x, problem.levels[-1])
        callback(len(problem.levels) - 1, x, problem.levels[-1])
        return x


class _Flow:
    """``dz / dlambda``, and the length of the latest step, with which the next stretch begins."""

    def __init__(self, denoise: Callable[[Tensor, float], Tensor], lowest: float) -> None:
        self.denoise, self.lowest = denoise, lowest
        self.step: Tensor | None = None

    def __call__(self, time: Tensor, z: Tensor) -> Tensor:
        sigma = max(math.exp(-float(time)), self.lowest)  # lambda has the type of z: it is rounded
        c = _scale(sigma)
        return c * (self.denoise(z / c, sigma) - c * z)

    def callback_step(self, time: Tensor, z: Tensor, step: Tensor) -> None:
        """Called by torchdiffeq before every try, with the step as it would be without an end nearby."""
        self.step = step


def _scale(sigma: float) -> float:
    return 1 / math.sqrt(1 + sigma**2)
