"""The walk that most samplers are: a random walk along the score while the noise level falls.

    x <- x + tau_k (score(x, sigma_k) + likelihood score(x)) + sqrt(2 tau_k T_k) n,    n ~ Normal(0, I)

The samplers in `randomwalk.samplers.walks` are choices of sigma_k, tau_k and T_k.

Source: Park et al. 2025, "Random Walks with Tweedie", doi 10.1109/MSP.2025.3590608.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Operator


class LinearStep(Protocol):
    """A step size that is a symmetric positive definite matrix P."""

    def apply(self, v: Tensor) -> Tensor:
        """``P v``."""

    def sqrt(self, v: Tensor) -> Tensor:
        """``P^(1/2) v``."""


class HasScore(Protocol):
    """The part of a measurement that the walk uses."""

    def score(self, x: Tensor) -> Tensor:
        """``grad_x log f(y | x)``."""


StepSize: TypeAlias = float | Tensor | LinearStep


@dataclass(frozen=True)
class Plan:
    """Noise level, step size and temperature of every step of a walk."""

    sigmas: list[float]
    step_sizes: list[StepSize]
    temperatures: list[float]


@dataclass(frozen=True)
class PreconditionedStep:
    """``P = scale (I / sigma^2 + A^T A / eta^2)^-1``: long where the measurement says little, short where it says much.

    For a flat prior this is ``scale`` times the inverse curvature of the target: ``scale`` in (0, 1] is stable in every
    direction, and ``scale = 1`` reaches the optimum in one step.

    Args:
        operator: A; needs ``spectral``.
        sigma: noise level of the prior.
        eta: standard deviation of the measurement noise.
        scale: fraction of the Newton step.
    """

    operator: Operator
    sigma: float
    eta: float
    scale: float

    def _gain(self, eigenvalues: Tensor) -> Tensor:
        return self.scale / (1 / self.sigma**2 + eigenvalues / self.eta**2)

    def apply(self, v: Tensor) -> Tensor:
        return self.operator.spectral(self._gain, v)

    def sqrt(self, v: Tensor) -> Tensor:
        return self.operator.spectral(lambda eigenvalues: self._gain(eigenvalues).sqrt(), v)


def walk(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    step_sizes: Sequence[StepSize] | Tensor,
    temperatures: Sequence[float] | Tensor,
    *,
    measurement: HasScore | None = None,
    noise: Callable[[int, Tensor], Tensor] | None = None,
    callback: Callable[[int, Tensor, float], object] | None = None,
) -> Tensor:
    """Walk from ``x`` and return where it ends. One evaluation of the denoiser at each step, without a graph.

    Args:
        denoiser: gives ``score(x, sigma)``.
        x: start ``[B, ...]``; not written to. The state is kept in its type, but in float32 at least.
        sigmas: noise level of each step.
        step_sizes: ``tau`` of each step: a number, a tensor that broadcasts against x, or a :class:`LinearStep`.
        temperatures: T of each step; nothing is drawn where it is 0.
        measurement: gives the likelihood score; None samples the prior.
        noise: ``noise(k, x)`` gives the draw of step k, like x; the default is ``torch.randn_like(x)``.
        callback: called as ``callback(k, x, sigma)`` after step k, with the state after it.

    Raises:
        InputError: the sequences differ in length, or a value is impossible.
        RunError: the state is no longer finite.
    """
    steps = _check(sigmas, step_sizes, temperatures)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    finite_steps = torch.zeros((), dtype=torch.long, device=x.device)
    with torch.no_grad():
        for k, (sigma, tau, temperature) in enumerate(steps):
            with torch.inference_mode():
                drift = denoiser.score(x, sigma)
            if measurement is not None:
                drift = drift + measurement.score(x)
            x = x + (tau * drift if isinstance(tau, (int, float, Tensor)) else tau.apply(drift))
            del drift  # large pictures: no tensor is kept longer than needed
            if temperature > 0:
                n = torch.randn_like(x) if noise is None else noise(k, x)
                n = tau**0.5 * n if isinstance(tau, (int, float, Tensor)) else tau.sqrt(n)
                x = (math.sqrt(2 * temperature) * n).add_(x)
                del n
            finite_steps += all_finite(x)
            # Reading the count waits for a GPU, so there it is read once, at the end.
            if (x.device.type == "cpu" or k == len(steps) - 1) and finite_steps <= k:
                bad = int(finite_steps)
                raise RunError(
                    f"the walk is not finite after step {bad} (sigma = {steps[bad][0]:.6g}): take smaller steps "
                    "(step_scale), or check the network and the measurement"
                )
            if callback is not None:
                callback(k, x, sigma)
    return x


def all_finite(x: Tensor) -> Tensor:
    """Whether all values are finite, a boolean scalar; without a tensor of the size of x."""
    low, high = torch.aminmax(x)  # NaN if one value is
    return low.isfinite() & high.isfinite()


def _check(
    sigmas: Sequence[float] | Tensor,
    step_sizes: Sequence[StepSize] | Tensor,
    temperatures: Sequence[float] | Tensor,
) -> list[tuple[float, StepSize, float]]:
    """Level, step size and temperature of each step; tensors are read here, once."""
    columns = [
        column.tolist() if isinstance(column, Tensor) and column.ndim == 1 else list(column)
        for column in (sigmas, step_sizes, temperatures)
    ]
    if not len(columns[0]) == len(columns[1]) == len(columns[2]):
        raise InputError(
            f"walk: {len(columns[0])} sigmas, {len(columns[1])} step sizes and {len(columns[2])} temperatures; "
            "expected one of each for every step"
        )
    for k, (sigma, tau, temperature) in enumerate(zip(*columns, strict=True)):
        if not (sigma > 0 and temperature >= 0 and not (isinstance(tau, (int, float)) and tau < 0)):
            raise InputError(
                f"walk: step {k} has sigma = {sigma}, step size {tau}, temperature {temperature}; expected a "
                "positive sigma and the others not negative"
            )
    return [(float(s), tau, float(t)) for s, tau, t in zip(*columns, strict=True)]
