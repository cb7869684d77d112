"""Classical restoration by scikit-image, at the settings that suit the very images that it is measured on.

Choosing the settings by the true images favours these methods over what is compared with them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from randomwalk.images import metrics
from randomwalk.operators import (
    CompressedSensing,
    Inpainting,
    Operator,
    OrthonormalRows,
    SeparableBlur,
    SuperResolution,
)

Method = Callable[..., np.ndarray]
"""``method(image [H, W], **settings)``."""


@dataclass(frozen=True)
class Best:
    """The best settings of a method, the PSNR of every image with them, and how many settings were tried."""

    settings: Mapping[str, Any]
    psnr: list[float]
    tried: int


def apply(method: Method, images: Tensor, **settings: Any) -> Tensor:
    """``method`` of each channel of the images ``[B, C, H, W]``, several at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda channel: method(channel, **settings), images.flatten(0, 1).numpy()))
    return torch.from_numpy(np.stack(done)).unflatten(0, images.shape[:2]).float()


def search(
    method: Method,
    images: Tensor,
    truth: Tensor,
    tries: Sequence[Mapping[str, Any]],
    finalists: int = 0,
    first: int = 12,
) -> Best:
    """The best of ``tries`` by the mean PSNR over the images.

    Args:
        finalists: if given, all settings are tried on the ``first`` images, and so many of the best on all of them.
    """
    chosen = list(tries)
    if finalists and len(images) > first:
        scores = [_mean(method, images[:first], truth[:first], settings) for settings in chosen]
        chosen = [chosen[n] for n in np.argsort(scores)[::-1][:finalists]]
    results = [metrics.psnr(apply(method, images, **settings), truth).tolist() for settings in chosen]
    best = int(np.argmax([np.mean(psnr) for psnr in results]))
    return Best(chosen[best], results[best], len(tries))


def _mean(method: Method, images: Tensor, truth: Tensor, settings: Mapping[str, Any]) -> float:
    return float(metrics.psnr(apply(method, images, **settings), truth).mean())


TV_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.2)
"""Weights of total variation that are tried, in units of sigma."""


def best_tv(noisy: Tensor, truth: Tensor, sigma: float) -> Best:
    """Total variation (Chambolle 2004), ``denoise_tv_chambolle``, at its best weight."""
    return search(tv(), noisy, truth, [{"weight": round(w * sigma, 6)} for w in TV_WEIGHTS])


def tv() -> Method:
    """Denoising by total variation; setting ``weight``."""
    from skimage.restoration import denoise_tv_chambolle

    method: Method = denoise_tv_chambolle
    return method


def best_nl_means(noisy: Tensor, truth: Tensor, sigma: float, quick: bool = False) -> Best:
    """Non-local means (Buades et al. 2005), ``denoise_nl_means``, which is told sigma.

    Tried are both of its modes, three sizes of patches, three search distances, and cut-off distances h around the
    best; all of them on the first 12 images, and the best three on all.
    """
    from skimage.restoration import denoise_nl_means

    patches = (3, 5, 7) if sigma < 0.2 else (5, 7, 9)
    tries = [
        {"fast_mode": fast, "patch_size": patch, "patch_distance": distance, "h": round(h * sigma, 6), "sigma": sigma}
        for fast, steps in ((True, (0.3, 0.4, 0.55, 0.7, 1.0)), (False, (0.7, 0.85, 1.0)))
        for patch, distance, h in itertools.product(patches, (5, 7, 9), steps)
        if not quick or (fast and distance == 7)
    ]
    return search(denoise_nl_means, noisy, truth, tries, finalists=3)


def biharmonic(measurement: Tensor, masks: Tensor) -> Tensor:
    """Missing pixels from the kept, noisy ones by the biharmonic equation, ``inpaint_biharmonic``, clipped.

    Args:
        measurement: ``[B, C, H, W]``.
        masks: ``[B, 1, H, W]``, 1 where a pixel was kept.
    """
    from skimage.restoration import inpaint_biharmonic

    def restore(pair: np.ndarray) -> np.ndarray:
        image, mask = pair
        filled: np.ndarray = inpaint_biharmonic(np.where(mask > 0, image, 0.0), mask == 0)
        return filled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = torch.stack([measurement, masks.expand_as(measurement)], 2).flatten(0, 1).numpy()
        done = torch.from_numpy(np.stack(list(pool.map(restore, pairs))))
    return done.unflatten(0, measurement.shape[:2]).float().clamp(-1, 1)


def wiener(kernel: np.ndarray) -> Method:
    """Deconvolution by the Wiener filter, ``skimage.restoration.wiener``; setting ``balance``."""
    from skimage.restoration import wiener as restore

    return lambda image, balance: restore(image, kernel, balance, clip=False)


def richardson_lucy(kernel: np.ndarray) -> Method:
    """Deconvolution of the image on [0, 1], ``skimage.restoration.richardson_lucy``; setting ``num_iter``."""
    from skimage.restoration import richardson_lucy as restore

    return lambda image, num_iter: 2 * restore((image.clip(-1, 1) + 1) / 2, kernel, num_iter) - 1


def deconvolutions(blurred: Tensor, truth: Tensor, kernel: np.ndarray) -> dict[str, tuple[Best, Tensor]]:
    """Both at their best settings, and the images that these make.

    Args:
        kernel: of the blur, ``[K, K]``.
    """
    tries: dict[str, tuple[Method, list[dict[str, Any]]]] = {
        "Wiener": (wiener(kernel), [{"balance": b} for b in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)]),
        "Richardson-Lucy": (richardson_lucy(kernel), [{"num_iter": n} for n in (3, 6, 10, 20, 40)]),
    }
    best = {name: search(method, blurred, truth, settings) for name, (method, settings) in tries.items()}
    return {name: (found, apply(tries[name][0], blurred, **found.settings)) for name, found in best.items()}


def best_variational(operator: Operator, y: Tensor, truth: Tensor, tries: Sequence[float], iterations: int) -> Best:
    """`variational` at its best weight."""
    scored = [(w, metrics.psnr(variational(operator, y, w, iterations), truth).tolist()) for w in tries]
    weight, psnr = max(scored, key=lambda pair: sum(pair[1]))
    return Best({"weight": weight, "iterations": iterations}, psnr, len(scored))


def variational(operator: Operator, y: Tensor, weight: float, iterations: int) -> Tensor:
    """``argmin ||A x - y||^2 / 2 + w TV(x)`` for a linear operator, ``[B, C, H, W]``, TV of each channel.

    By FISTA (Beck and Teboulle 2009) from ``A^T y``, each proximal map by ``denoise_tv_chambolle``, which is stopped
    early, so that the minimum is approximate.
    """
    step = 1 / operator.norm() ** 2
    x = ahead = operator.adjoint(y) * step
    t = 1.0
    for _ in range(iterations):
        moved = ahead - step * operator.adjoint(operator(ahead) - y)
        smooth = apply(tv(), moved, weight=weight * step, max_num_iter=30)
        following = (1 + (1 + 4 * t**2) ** 0.5) / 2
        ahead = smooth + (t - 1) / following * (smooth - x)
        x, t = smooth, following
    return x.clamp(-1, 1)


VARIATIONAL_WEIGHTS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Weights of the total variation that are tried."""


def classical(operator: Operator, y: Tensor, truth: Tensor, quick: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Images by what there is for an operator, the baseline first, and the settings that were chosen for them.

    None for an operator that is not linear.
    """
    if not operator.linear:
        return {}, []
    found: dict[str, Tensor] = {}
    chosen: list[str] = []
    if isinstance(operator, Inpainting):
        found["biharmonic"] = biharmonic(y, operator.mask.expand(len(y), -1, -1, -1))
    elif isinstance(operator, SuperResolution):
        found["bicubic interpolation"] = F.interpolate(y, truth.shape[-2:], mode="bicubic", align_corners=False)
    elif isinstance(operator, SeparableBlur):
        found["the measurement itself"] = y
        for title, (best, x) in deconvolutions(y, truth, kernel_of(operator)).items():
            found[title] = x
            chosen.append(f"{title}: {dict(best.settings)}")
    if isinstance(operator, SuperResolution | OrthonormalRows | CompressedSensing):
        found["pseudo-inverse"] = operator.pinv(y)
    iterations = 10 if quick else 40
    best = best_variational(operator, y, truth, VARIATIONAL_WEIGHTS[:: 3 if quick else 1], iterations)
    found["total variation"] = variational(operator, y, **best.settings)
    chosen.append(f"total variation: {dict(best.settings)}")
    return {title: x.clamp(-1, 1) for title, x in found.items()}, chosen


def kernel_of(blur: Operator, reach: int = 6) -> np.ndarray:
    """The image of one bright pixel, ``[2 reach + 1] * 2``."""
    _, height, width = blur.image_shape
    point = torch.zeros(1, *blur.image_shape)
    point[..., height // 2, width // 2] = 1
    rows, columns = (slice(side // 2 - reach, side // 2 + reach + 1) for side in (height, width))
    return np.asarray(blur(point)[0, 0, rows, columns].double().numpy())
