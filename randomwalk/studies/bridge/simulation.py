"""Simulation of a bridge: the Euler-Maruyama method, and the deterministic flow with the same marginals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from randomwalk.studies.bridge.matching import Drift

Noise = Callable[[int, Tensor], Tensor]
"""``noise(step, x)``: standard normal draws of the shape of x."""
Callback = Callable[[int, Tensor, float], object]
"""``callback(step, x, t)`` after every step."""


def time_grid(num_steps: int, grid: str = "cosine", backward: bool = False) -> list[float]:
    """Times from 0 to 1, or from 1 to 0, ``num_steps + 1`` of them.

    Args:
        grid: "uniform", or "cosine", t = sin^2(pi k / 2 num_steps): dense at both ends. The last of 100 steps is then
            2.5e-4 long, and its noise 0.016 sigma instead of 0.1 sigma.
    """
    s = np.arange(num_steps + 1) / num_steps
    times = s if grid == "uniform" else np.sin(np.pi / 2 * s) ** 2
    times[-1] = 1.0
    return [float(t) for t in (1 - times if backward else times)]


def host_noise(generator: np.random.Generator) -> Noise:
    """Noise drawn on the host, the same for every device, from one stream for all steps."""

    def draw(k: int, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return torch.from_numpy(generator.standard_normal(tuple(x.shape))).to(x)
        return torch.from_numpy(generator.standard_normal(tuple(x.shape), dtype=np.float32)).to(x)

    return draw


@torch.no_grad()
def simulate(
    drift: Drift, x: Tensor, times: Sequence[float], sigma: float, noise: Noise, callback: Callback | None = None
) -> Tensor:
    """Simulate by the Euler-Maruyama method, from the first time to the last.

        x <- x + h u(x, t) + sigma sqrt(h) n,    h = |t' - t|

    Args:
        drift: u, in the process's own time: with descending times it points to t = 0.
        x: where the process starts, ``[B, ...]``.
        times: ascending or descending; the drift is not evaluated at the last one.
        sigma: of the Brownian motion.
        noise: see `Noise`.
        callback: called with the state after every step.
    """
    for k, (t, after) in enumerate(pairwise(times)):
        h = abs(after - t)
        x = x + h * drift(x, t) + sigma * math.sqrt(h) * noise(k, x)
        if callback is not None:
            callback(k, x, after)
    return x


@torch.no_grad()
def simulate_flow(
    forward: Drift, backward: Drift, x: Tensor, times: Sequence[float], callback: Callback | None = None
) -> Tensor:
    """Solve the ordinary differential equation dx/dt = v = (forward - backward drift) / 2, by the midpoint rule.

    Its points have the marginals of the bridge. The midpoints avoid both ends, where one of the drifts is not defined.

    Args:
        times: ascending.
        callback: ``callback(step, v, t)`` with the velocity at the middle of the step, not the state.
    """
    for k, (t, after) in enumerate(pairwise(times)):
        h, middle = after - t, (t + after) / 2
        # The first half step needs a velocity at t; at t = 0 there is no backward drift, so that the middle's is used.
        start = middle if t == 0 else t
        half = x + h / 4 * (forward(x, start) - backward(x, start))
        v = (forward(half, middle) - backward(half, middle)) / 2
        x = x + h * v
        if callback is not None:
            callback(k, v, middle)
    return x
