"""Muon: orthogonal steps for convolution kernels (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 32
"""Adam optimizes kernels with fewer input or output channels, such as those of the first and last layer."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration ``X <- a X + b (X X^T) X + c (X X^T)^2 X``."""


def orthogonalized(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Bring the singular values of a matrix ``[m, n]`` to between 0.7 and 1.2, in bf16 arithmetic.

    With the singular value decomposition U S V^T the result is about U V^T, the matrix of spectral norm 1 with the
    largest inner product with the given one.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.bfloat16()
    x = x / (x.norm() + 1e-12)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide is matrix else x.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """``M <- mu M + (1 - mu) G``, ``W <- W - lr 0.2 sqrt(max(m, n)) U V^T`` with U V^T of ``mu M + (1 - mu) G``.

    The kernel ``[out, in, h, w]`` is a matrix with m = out and n = in h w. The factor gives the update the root mean
    square 0.2 that Adam's usually has, so that both can share a learning rate
    (Liu et al. 2025, arXiv 2502.16982, eq. 4).

    Args:
        kernels: the parameters, of four dimensions.
        lr: learning rate.
        momentum: mu.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["average"] = torch.zeros_like(kernel)
                average = state["average"].lerp_(kernel.grad, 1 - group["momentum"])
                ahead = kernel.grad.lerp(average, group["momentum"])
                rows = ahead.permute(0, 2, 3, 1).flatten(1)  # in the order of channels-last memory: no copy
                update = orthogonalized(rows).unflatten(1, (*ahead.shape[2:], ahead.shape[1])).permute(0, 3, 1, 2)
                kernel.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(rows.shape)))


class MuonAndAdam:
    """Muon for kernels of at least `CHANNELS` input and output channels, Adam for all other parameters.

    It has the methods of a PyTorch optimizer that the trainers use.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, **adam: Any) -> None:
        kernels: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for p in parameters:
            (kernels if p.ndim == 4 and min(p.shape[:2]) >= CHANNELS else others).append(p)
        self.parts: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=lr, **adam)]
        if kernels:
            self.parts.append(Muon(kernels, lr, momentum))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both optimizers."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """Take a step with both optimizers."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        for part, of_part in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(of_part)
