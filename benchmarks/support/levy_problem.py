"""Levy processes as priors: lines of pixels with independent increments, whose denoiser is exact on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from randomwalk.errors import InputError
from support.sparse_problem import PRIORS, Prior, SparseProblem, problem_with

LogDensity = Callable[[Tensor], Tensor]
"""Logarithm of the density of an increment, elementwise."""


def laplace_log_density(std: float) -> LogDensity:
    """Laplace's in closed form; its `Scales` have too many terms for a grid."""
    rate = math.sqrt(2) / std
    return lambda z: math.log(rate / 2) - rate * z.abs()


INCREMENTS: dict[str, tuple[LogDensity, float]] = {
    "two scales": (PRIORS["two scales"]().log_density, 0.1),
    "gaussian": (PRIORS["gaussian"]().log_density, 0.45),
    "laplace": (laplace_log_density(0.45), 0.1),
}
"""Densities of an increment, and the widths of their narrowest parts; a kink has none, and any small one is taken."""


class LevyPrior(Prior):
    """``x_i = z_1 + ... + z_i``, with independent increments z of one density p.

    Given a noisy line v, the x_i are a Markov chain. With ``l(x) = exp(-(v_i - x)^2 / (2 s^2))`` its messages are

        f_i(x) = int p(x - x') l_{i-1}(x') f_{i-1}(x') dx',    f_1 = p
        b_i(x) = int p(x' - x) l_{i+1}(x') b_{i+1}(x') dx',    b_d = 1

    and the density of x_i given v is proportional to ``f_i l_i b_i``, whose mean is the denoised pixel. The messages
    are kept on the grid ``v_i + k h``, which moves with v_i: an integral is a sum over it (trapezoidal rule), and a
    step a convolution with p.

    **Error.** The sum converges exponentially for smooth p, in ``r / h`` with ``r = (1 / s^2 + 2 / w^2)^(-1/2)`` for p
    of the width w, and the grid ends `REACH` s from v_i: with ``h = `SPACING` r`` the denoised pixels are exact to
    1e-7 s in float64. A kink of p leaves an error of order h^2, below 1e-3 s (root mean square) for Laplace's density.
    `tests/benchmarks/test_levy_problem.py` measures both.

    Args:
        name: of p, in `INCREMENTS`.
        length: d.

    Raises:
        InputError: there is no such density.
    """

    SPACING = 0.8
    REACH = 8.0

    def __init__(self, name: str, length: int) -> None:
        if name not in INCREMENTS:
            raise InputError(f"increments {name!r}: expected one of {', '.join(INCREMENTS)}")
        super().__init__(PRIORS[name](), (1, 1, length))
        self.log_density, self.width = INCREMENTS[name]

    def analyse(self, x: Tensor) -> Tensor:
        return torch.diff(x, dim=-1, prepend=torch.zeros_like(x[..., :1]))

    def synthesise(self, z: Tensor) -> Tensor:
        return z.cumsum(-1)

    def grid(self, sigma: float) -> tuple[float, int]:
        """Spacing h, and number of points on each side of v_i."""
        h = self.SPACING / math.sqrt(1 / sigma**2 + 2 / self.width**2)
        return h, math.ceil(self.REACH * sigma / h)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        v, s = x.flatten(1), float(sigma)
        h, n = self.grid(s)
        offsets = h * torch.arange(-n, n + 1, device=v.device).to(v)
        lags = h * torch.arange(-2 * n, 2 * n + 1, device=v.device).to(v)
        seen = torch.exp(-offsets.square() / (2 * s**2))
        kernels = [_exp(self.log_density(step[:, None] + lags)) for step in torch.diff(v).unbind(1)]
        forward = [_exp(self.log_density(v[:, :1] + offsets))]
        for kernel in kernels:
            forward.append(_scaled(_correlate(kernel, (seen * forward[-1]).flip(1))))
        backward = torch.ones_like(forward[0])
        means = []
        for i in range(len(forward) - 1, -1, -1):
            weights = forward[i] * seen * backward
            means.append(weights @ offsets / weights.sum(1))
            if i > 0:
                backward = _scaled(_correlate(kernels[i - 1], seen * backward).flip(1))
        return (torch.stack(means[::-1], 1) / s**2).reshape(x.shape)


def make_line(prior: str, operator: str, d: int, m: int, eta: float, seed: int) -> SparseProblem:
    """One problem, in float64: a Levy process of d pixels, as `sparse_problem.make_problem` does for images."""
    return problem_with(LevyPrior(prior, d), operator, m, eta, seed)


def _correlate(kernels: Tensor, weights: Tensor) -> Tensor:
    """``sum_c kernels[b, j + c] weights[b, c]`` of kernels ``[B, 2 G - 1]`` and weights ``[B, G]``: ``[B, G]``."""
    return conv1d(kernels[None], weights[:, None], groups=len(kernels))[0]


def _exp(log: Tensor) -> Tensor:
    """Exponential up to a factor for each row: where neighbours are far apart, that of every entry may be 0."""
    return (log - log.amax(1, keepdim=True)).exp_()


def _scaled(message: Tensor) -> Tensor:
    return message / message.amax(1, keepdim=True)
