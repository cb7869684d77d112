"""The probability-flow ODE by the adaptive solvers of torchdiffeq."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.errors import RunError
from randomwalk.lookup import optional_library
from randomwalk.samplers.sampler import Noise, Solver, require

METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
"""Not fehlberg2, which lets errors of thirty times the tolerance pass: its estimate has a small constant."""
_MOST_STEPS = 10_000  # between two levels


@dataclass(frozen=True)
class ODE(Solver):
    """Probability flow with steps as long as a tolerance allows, in variables that stay of order 1:

        z = c x,    lambda = -ln sigma,    c = 1 / sqrt(1 + sigma^2)
        dz / dlambda = c (D(x, sigma) - c z)

    A step is taken if for every image the root mean square over pixels of ``error / (atol + rtol |z|)`` is at most 1:
    the norm is the *maximum over the images of the batch*, so that each meets the tolerance, whatever the others do.
    The steps are those of the batch: as many as its hardest image needs, and **an image depends on those beside it**,
    within the error; with the default tolerance and the bundled VP network that was 0.03 in the worst pixel. Therefore
    ``sample.py`` makes the images one by one, unless ``shared_steps`` allows it batches.

    Every level of the schedule is the end of a step, and the state there is what the callback sees. Levels add no
    accuracy, but each costs a step at least: take a few, two or more. From the last one to 0 the step is D, as that of
    the other solvers; let that level be small. How many evaluations it takes turns out on the way.

    At the last level the error follows the tolerance in proportion if the denoiser is smooth; networks that read a
    table of levels are not, and follow more slowly. In float32 nothing is gained below about 1e-6.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.3 and appendix D.4 (RK45 with both tolerances 1e-5); the
    variables are ours; Chen 2018, torchdiffeq.

    Args:
        method: of Runge and Kutta; bosh3 for loose tolerances, dopri8 for tight ones.
        rtol, atol: the tolerance, relative and absolute, on z.
        shared_steps: let images depend on those beside them, and be faster on a GPU.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    shared_steps: bool = False

    @property
    def couples(self) -> bool:
        return True

    def __post_init__(self) -> None:
        require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        for name in ("rtol", "atol"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")

    def num_evaluations(self, num_levels: int) -> int | None:
        return 1 if num_levels == 1 else None

    def states(
        self, denoise: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float], noise: Noise
    ) -> Iterator[Tensor]:
        flow = _Flow(denoise, levels[-1])
        for s, p in itertools.pairwise(levels):
            x = self._integrate(flow, x, s, p)
            yield x
        yield denoise(x, levels[-1]).clone()  # a tensor that gradients may be asked of

    def _integrate(self, flow: _Flow, x: Tensor, s: float, p: float) -> Tensor:
        """The state at level p, from that at level s."""
        torchdiffeq = optional_library("torchdiffeq", "ode", "the sampler ode")
        ends = torch.tensor([-math.log(s), -math.log(p)], dtype=torch.float64, device=x.device)
        options = {
            "norm": worst_rms,
            "step_t": ends[1:],  # or the solver would step past the end, to levels that the denoiser may not know
            "first_step": flow.step,
            "max_num_steps": _MOST_STEPS,
        }
        try:
            z = torchdiffeq.odeint(
                flow, _scale(s) * x, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options
            )
        except AssertionError as error:  # how torchdiffeq tells of steps that shrink to nothing, and of NaN
            raise RunError(
                f"ode: no step from sigma = {s:.6g} to {p:.6g} meets the tolerance ({error}): raise rtol and atol (now "
                f"{self.rtol:g} and {self.atol:g}), or check the network"
            ) from error
        return z[-1] / _scale(p)


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


def worst_rms(error: Tensor) -> Tensor:
    """Maximum over the images ``[B, ...]`` of the root mean square of each."""
    return error.flatten(1).square().mean(1).sqrt().max()


def _scale(sigma: float) -> float:
    return 1 / math.sqrt(1 + sigma**2)
