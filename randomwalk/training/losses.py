r"""Unbiased estimates of the error of a denoiser: denoising, implicit and sliced score matching.

The mean squared error of D at the noise level sigma, per pixel of d,

    e(sigma) = E ||X - D(x, sigma)||^2 / d,     x = X + sigma N,

has the same minimiser as the error of the score ``s = (D - x) / sigma^2``, since
``E||X - D||^2 = sigma^4 E||s - grad log p_sigma||^2 + constant``. Each function here gives one number for each image,
whose expectation is exactly e(sigma). With ``r = D - x = sigma^2 s`` and its Jacobian J_r they are

* denoising (Vincent 2011): ``||X - D||^2 / d``.
* implicit (Hyvarinen 2005): ``(||r||^2 + 2 sigma^2 tr J_r + sigma^2 d) / d``, which does not use X. It is
  ``sigma^4 2 (tr J_s + ||s||^2 / 2) / d + sigma^2``, Hyvarinen's objective at x up to factor and constant, and also
  Stein's unbiased estimate of the risk of D. The trace is exact, or ``e^T J e`` with random e of ``E e e^T = I``
  (Hutchinson), which is the variance-reduced sliced score matching of Song et al. 2019.
* sliced (Song et al. 2019, arXiv 1905.07088, eq. 8): ``((e^T r)^2 + 2 sigma^2 e^T J_r e + sigma^2 d) / d``, which is
  ``sigma^4 2 (e^T J_s e + (e^T s)^2 / 2) / d + sigma^2``.

All three have the same weight w(sigma), the same scale and, on average, the same gradient; they differ in variance. The
weight ``sigma^-2`` is the weight ``sigma^2`` of the score, with which no noise level outweighs the others.

Only the first is cheap. The others are differentiated twice: in x for the divergence, then in the parameters. Attention
is therefore computed by the plain formula, PyTorch's only one with a second derivative; the UNet, NCSN++ and the MLP
then have one. Recomputed activations and compiled networks do not, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from randomwalk.config.objective import EXACT_UP_TO
from randomwalk.denoisers.denoiser import broadcast_sigma
from randomwalk.errors import InputError

Model = Callable[[Tensor, Tensor], Tensor]
"""``model(x [B, ...], sigma [B]) -> D [B, ...]``, row by row."""
Normal = Callable[[tuple[int, ...]], Tensor]
"""``normal(shape) -> [B, *shape]``, draws of Normal(0, 1) for the rows of a batch."""


class Estimate(Protocol):
    """Unbiased estimate of e(sigma) for each image, differentiable in the parameters of the model."""

    def __call__(self, model: Model, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
        """``[B]``.

        Args:
            model: D.
            x, noise: clean images X and standard normal N, ``[B, ...]``.
            sigma: ``[B]``.
            normal: draws the probes, if there are any; PyTorch's global generator if None.
        """


def squared_error(model: Model, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
    """``||X - D||^2 / d``."""
    return (x - model(x + broadcast_sigma(sigma, x) * noise, sigma)).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Probes:
    """Random vectors e with ``E e e^T = I``.

    Args:
        kind: rademacher, each pixel -1 or 1, for the least variance of the trace; or gaussian.
        number: of vectors for each image.
    """

    kind: str = "rademacher"
    number: int = 1

    def draw(self, x: Tensor, normal: Normal | None) -> Tensor:
        """``[number, *x.shape]``."""
        shape = (self.number, *x.shape[1:])
        e = (torch.randn(len(x), *shape, device=x.device) if normal is None else normal(shape)).to(x).transpose(0, 1)
        return torch.where(e < 0, -1.0, 1.0).to(x) if self.kind == "rademacher" else e


@dataclass(frozen=True)
class ImplicitScoreMatching:
    """``(||r||^2 + 2 sigma^2 tr J_r + sigma^2 d) / d``.

    Args:
        exact: the trace by d products with the Jacobian, for images of at most `EXACT_UP_TO` values; otherwise
            Hutchinson's estimate. None is exact wherever that is allowed.
        probes: of the estimate.
    """

    exact: bool | None = None
    probes: Probes = Probes()

    def __call__(self, model: Model, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
        size = x[0].numel()
        exact = size <= EXACT_UP_TO if self.exact is None else self.exact
        if exact and size > EXACT_UP_TO:
            raise InputError(
                f"objective.divergence: exact takes a backward pass for each of the {size} values of an image; "
                f"allowed: hutchinson, or at most {EXACT_UP_TO} values"
            )
        noisy, r = _residual(model, x, noise, sigma)
        if exact:
            trace = sum(_product(r, noisy, unit).flatten(1)[:, i] for i, unit in enumerate(_units(x)))
        else:
            trace = torch.stack([_dot(e, _product(r, noisy, e)) for e in self.probes.draw(x, normal)]).mean(0)
        return (_dot(r, r) + sigma**2 * (2 * trace + size)) / size


@dataclass(frozen=True)
class SlicedScoreMatching:
    """``((e^T r)^2 + 2 sigma^2 e^T J_r e + sigma^2 d) / d``, averaged over the probes.

    Args:
        probes: e.
    """

    probes: Probes = Probes()

    def __call__(self, model: Model, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
        size = x[0].numel()
        noisy, r = _residual(model, x, noise, sigma)
        slices = [
            _dot(e, r).square() + 2 * sigma**2 * _dot(e, _product(r, noisy, e)) for e in self.probes.draw(x, normal)
        ]
        return torch.stack(slices).mean(0) / size + sigma**2


def _residual(model: Model, x: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """``X + sigma N`` as a leaf of the graph, and r there."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # newer PyTorch than the denoising loss needs

    noisy = (x + broadcast_sigma(sigma, x) * noise).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        return noisy, model(noisy, sigma) - noisy


def _product(r: Tensor, noisy: Tensor, v: Tensor) -> Tensor:
    """``J_r^T v`` for every row, differentiable in the parameters."""
    return torch.autograd.grad(r, noisy, v, create_graph=True)[0]


def _units(x: Tensor) -> Tensor:
    """Unit vectors of an image, each for the whole batch: ``[d, *x.shape]``, without copies."""
    eye = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
    return eye.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
