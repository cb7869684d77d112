"""Classical restoration, without a network, of colour images ``[1, 3, H, W]`` in [-1, 1].

Settings are arguments. They are chosen on validation photographs (photo_restoration.py --tune), never on those that are
measured.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from randomwalk.operators import Blur, Inpainting, Operator, SeparableBlur, SuperResolution
from support.baselines import kernel_of
from support.photo_problems import Problem

REACH = 15
"""Kernels are cut out so far around their middle; none here is larger."""


# --- denoising -------------------------------------------------------------------------------------------------------


def bm3d_missing() -> str | None:
    """Reason why BM3D cannot be used; None if it can."""
    try:
        importlib.import_module("bm3d")
    except (ImportError, OSError) as error:
        return (
            f"BM3D is left out: its package is not there ({error}). `pip install bm3d` gets it, under a licence for "
            "non-commercial use"
        )
    return None


def bm3d(y: Tensor, std: float) -> Tensor:
    """BM3D of colour or grey images (Dabov et al. 2007), by its authors' package at its own settings.

    Args:
        y: ``[1, 3, H, W]``, or ``[1, 1, H, W]`` if grey.
        std: of the noise, in [-1, 1] pixel units.
    """
    package, pixels = importlib.import_module("bm3d"), _pixels(y) / 2 + 0.5
    if pixels.shape[2] == 1:
        return _from_pixels(2 * package.bm3d(pixels[..., 0], std / 2)[..., None] - 1)
    return _from_pixels(2 * package.bm3d_rgb(pixels, std / 2) - 1)


def nl_means(y: Tensor, std: float, patch_size: int, patch_distance: int, h: float) -> Tensor:
    """Non-local means of colour patches (Buades et al. 2005), ``skimage.restoration.denoise_nl_means``.

    Args:
        std: of the noise, in [-1, 1] pixel units.
        patch_size, patch_distance: side of a patch, and how far away others are looked for, in pixels.
        h: cut-off distance, in units of ``std``.
    """
    from skimage.restoration import denoise_nl_means

    return _from_pixels(
        denoise_nl_means(_pixels(y), patch_size, patch_distance, h * std, fast_mode=True, sigma=std, channel_axis=-1)
    )


# --- restoration -----------------------------------------------------------------------------------------------------


def measurement(problem: Problem) -> Tensor:
    """The measurement itself."""
    return problem.y


def bicubic(problem: Problem) -> Tensor:
    """Bicubic interpolation."""
    return F.interpolate(problem.y, problem.truth.shape[-2:], mode="bicubic", align_corners=False)


def biharmonic(problem: Problem) -> Tensor:
    """Missing pixels from the kept, noisy ones by the biharmonic equation, ``skimage``'s ``inpaint_biharmonic``."""
    from skimage.restoration import inpaint_biharmonic

    assert isinstance(problem.operator, Inpainting)
    missing = problem.operator.mask[0, 0].numpy() == 0
    return _from_pixels(inpaint_biharmonic(_pixels(problem.operator(problem.y)), missing, channel_axis=-1))


def wiener(problem: Problem, balance: float) -> Tensor:
    """The Wiener filter for images whose spectrum falls as that of a Laplacian's inverse, ``skimage``'s ``wiener``.

    It takes the image for periodic. A blur that reflects at the border is that of the periodic image with its mirror
    images beside it, for a symmetric kernel as here.
    """
    from skimage.restoration import wiener as restore

    kernel, image = kernel_of(problem.operator, REACH), _pixels(problem.y)
    height, width = image.shape[:2]
    if not (isinstance(problem.operator, Blur) and problem.operator.circular):
        image = np.pad(image, ((0, height - 2), (0, width - 2), (0, 0)), mode="reflect")
    channels = [
        restore(np.ascontiguousarray(channel), kernel, balance, clip=False) for channel in np.moveaxis(image, 2, 0)
    ]
    return _from_pixels(np.stack(channels, -1)[:height, :width])


def richardson_lucy(problem: Problem, iterations: int) -> Tensor:
    """Richardson (1972) and Lucy (1974), ``u <- u A^T(v / A u) / A^T 1`` on [0, 1] pixels, with the blur's border."""
    operator, v = problem.operator, ((problem.y + 1) / 2).clamp_min(0)
    u, total = v.clamp_min(1e-3), operator.adjoint(torch.ones_like(v))
    for _ in range(iterations):
        u = u * operator.adjoint(v / operator(u).clamp_min(1e-6)) / total
    return 2 * u - 1


def total_variation(problem: Problem, weight: float, iterations: int = 300) -> Tensor:
    """``argmin ||A x - y||^2 / 2 + w TV(x)``, the gradient's norm taken over directions and colours together.

    By the primal-dual method of Chambolle and Pock (2011), algorithm 1, with the proximal map of the operator; steps in
    the ratio of what the image and the dual variable change by.

    Source: Rudin et al. 1992; of colours Bresson and Chan 2008.

    Args:
        weight: w, in units of the noise's standard deviation.
    """
    operator, y, w = problem.operator, problem.y, weight * problem.noise.std
    ratio = 0.2 / w
    tau, sigma = ratio / math.sqrt(8), 1 / (ratio * math.sqrt(8))
    x = ahead = operator.adjoint(y)
    dual = gradient(torch.zeros_like(x))
    for _ in range(iterations):
        dual = dual + sigma * gradient(ahead)
        dual = dual / (dual.square().sum((0, 2), keepdim=True).sqrt() / w).clamp_min(1)
        following = operator.proximal(x + tau * divergence(dual), y, 1.0, math.sqrt(tau))
        ahead, x = 2 * following - x, following
    return x


def gradient(x: Tensor) -> Tensor:
    """Forward differences of ``[B, C, H, W]`` down and to the right, 0 at the border, ``[2, B, C, H, W]``."""
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    return torch.stack([down, right])


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `gradient`."""
    down, right = p[0, ..., :-1, :], p[1, ..., :-1]
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))


@dataclass(frozen=True)
class Classical:
    """A method, and the operators that it is for.

    Attributes:
        restore: ``restore(problem, **settings) -> [1, 3, H, W]``, on the CPU.
        operators: their classes.
    """

    restore: Callable[..., Tensor]
    operators: tuple[type[Operator], ...]

    def suits(self, operator: Operator) -> bool:
        """True if the method is for the operator."""
        return isinstance(operator, self.operators)

    def __call__(self, problem: Problem, **settings: Any) -> Tensor:
        """The image that it makes, with colours that can be shown."""
        return self.restore(problem.to("cpu"), **settings).clamp(-1, 1)


CLASSICAL = {
    "the measurement itself": Classical(measurement, (SeparableBlur, Blur)),
    "bicubic interpolation": Classical(bicubic, (SuperResolution,)),
    "biharmonic": Classical(biharmonic, (Inpainting,)),
    "Wiener filter": Classical(wiener, (SeparableBlur, Blur)),
    "Richardson-Lucy": Classical(richardson_lucy, (SeparableBlur, Blur)),
    "total variation": Classical(total_variation, (Operator,)),
}


def _pixels(x: Tensor) -> np.ndarray:
    """``[1, C, H, W]`` as float64 ``[H, W, C]``."""
    array: np.ndarray = x[0].permute(1, 2, 0).double().cpu().numpy()
    return array


def _from_pixels(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float()
