"""Bridge matching: the Brownian bridge, the parameterisation of the drift by a network, and its loss.

The reference process is sigma times Brownian motion on [0, 1]. Between X_0 and X_1 it is the bridge

    X_t = (1 - t) X_0 + t X_1 + sigma sqrt(t (1 - t)) Z,    Z ~ Normal(0, I)

and the Markov process closest to the bridges over a coupling of (X_0, X_1), which has their marginals, is

    forward    dX = u(X, t) dt + sigma dW from t = 0 to 1,    u(x, t) = E[(X_1 - X_t) / (1 - t) | X_t = x]
    backward   the same from t = 1 to 0 in its own time,      u(x, t) = E[(X_0 - X_t) / t       | X_t = x]

(Shi, De Bortoli, Campbell and Doucet 2023, arXiv 2303.16852).
Both are one formula in terms of the final time "end" of the process and the remaining time r = |end - t|:

    u(x, t) = E[X_end - X_t | X_t = x] / r

Parameterisation. The network F does not give u, which grows without bound as r -> 0. It gives the difference to the
end in units of its size s(r), where c is the standard deviation of a coordinate of X_1 - X_0 for independent ends:

    X_end - X_t = r (X_end - X_start) - sigma sqrt(r (1 - r)) Z            (the sign of Z does not matter)
    s(r) = sqrt(r) k(r),    k(r) = sqrt(c^2 r + sigma^2 (1 - r))
    F(x, t) ~ E[(X_end - X_t) / s(r) | X_t = x],    u(x, t) = k(r) / sqrt(r) F(x, t)

The targets of F have a variance of about 1 at all times, also at both ends, where the quotient is computed without its
common factor sqrt(r). At r -> 0 F is minus the mean of Z, as an epsilon network's, so that an error of F moves
the end of the process by sigma sqrt(r) times that error. The loss is the squared error of F, which is that of u
with the weight r / k(r)^2.
An Euler step never asks for u at r = 0.

Times are drawn, and given to the network, on the scale of `clock_of`, which is finer at both ends, where the points of
a thin set separate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Drift = Callable[[Tensor, float], Tensor]
"""``drift(x [B, ...], t) -> [B, ...]`` in the process's own time."""


def time_of(clock: Tensor) -> Tensor:
    """t = sin^2(pi clock / 2): evenly spaced clocks from 0 to 1 give times that are dense at both ends."""
    return torch.sin(clock * (math.pi / 2)).square()


def clock_of(t: Tensor) -> Tensor:
    """Inverse of `time_of`."""
    return torch.asin(t.clamp(0, 1).sqrt()) * (2 / math.pi)


def over(values: Tensor, x: Tensor) -> Tensor:
    """Values ``[B]`` with the axes of ``x [B, ...]``, to broadcast."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def brownian_bridge(x0: Tensor, x1: Tensor, t: Tensor, z: Tensor, sigma: float) -> Tensor:
    """State X_t of the Brownian bridge between given ends.

    Args:
        x0, x1, z: ``[B, ...]``; z standard normal.
        t: ``[B]`` in [0, 1].
    """
    s = over(t, x0)
    return (1 - s) * x0 + s * x1 + sigma * (s * (1 - s)).sqrt() * z


class BridgeDrift(nn.Module):
    """Drift of one direction.

    Args:
        network: F, ``network(x [B, C, H, W], clock [B])``.
        end: final time of the process: 1 for the forward one, 0 for the backward one.
        sigma: of the Brownian motion.
        spread: c above.
    """

    def __init__(self, network: nn.Module, end: int, sigma: float, spread: float) -> None:
        super().__init__()
        if end not in (0, 1):
            raise ValueError(f"end={end}: expected 1 (forward) or 0 (backward)")
        self.network, self.end, self.sigma, self.spread = network, end, sigma, spread

    def size(self, r: Tensor) -> Tensor:
        """k(r), ``[B] -> [B]``."""
        return (self.spread**2 * r + self.sigma**2 * (1 - r)).sqrt()

    def forward(self, x: Tensor, t: float) -> Tensor:
        """u(x, t).

        Args:
            x: ``[B, C, H, W]``.
            t: in [0, 1], not the end.
        """
        times = torch.full((len(x),), t, device=x.device)
        r = (self.end - times).abs()
        out: Tensor = over(self.size(r) / r.sqrt(), x) * self.network(x, clock_of(times))
        return out

    def target(self, x0: Tensor, x1: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Target (X_end - X_t) / s(r), X_t the `brownian_bridge` of the same arguments; finite at all t in [0, 1]."""
        r = over((self.end - t).abs(), x0)
        way = (x1 - x0) if self.end == 1 else (x0 - x1)
        k = over(self.size((self.end - t).abs()), x0)
        return (r.sqrt() * way - self.sigma * (1 - r).sqrt() * z) / k

    def loss(self, x0: Tensor, x1: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Mean over coordinates of (F(X_t, t) - target)^2, one value for each pair, ``[B]``.

        Args:
            x0, x1: pairs of the coupling, ``[B, C, H, W]``.
            t: ``[B]`` in [0, 1].
            z: standard normal, ``[B, C, H, W]``.
        """
        xt = brownian_bridge(x0, x1, t, z, self.sigma)
        error = self.network(xt, clock_of(t)) - self.target(x0, x1, t, z)
        return error.square().flatten(1).mean(1)
