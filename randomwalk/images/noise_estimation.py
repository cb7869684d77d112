"""How strong the noise of a picture is, from the picture alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.tensors import LUMA

ROUNDING = 2 / 255 / math.sqrt(12)
"""Standard deviation of rounding to 8 bits, in [-1, 1] units: no picture is taken to have less noise."""
COLOUR_SIDE, GREY_SIDE = 5, 7
"""Side of the patches in pixels. Channels tell more than the pixels around, so that small ones do in colours."""
MOST_PATCHES = 200_000
FEWEST = 5
"""Patches for each number in one, below which nothing is estimated."""
SUBSAMPLED = 5.0
"""From so many times the noise of the colours on, that of the luminance is believed."""
FLAT = 3.72
"""Standard deviations above the mean energy of noise alone, up to which a grey patch is taken to be flat."""


def estimate_noise(y: Tensor, known: Tensor | None = None) -> float:
    """Standard deviation of white Gaussian noise in a picture, in the units of its pixels.

    All patches of a picture together lie near a space of few dimensions, and noise adds its variance in every
    direction: the variances along the other directions are that of the noise.

    In colour these directions are told by their variances, which are even: the largest ones are left out until the
    mean of the rest is not above its median (Chen, Zhu and Heng 2015, "An Efficient Statistical Method for Image Noise
    Level Estimation"). In grey pictures texture fills nearly all directions, so the smallest variances are taken, of
    the patches that are flat but for noise of the level found so far (Liu, Tanaka and Okutomi 2013, "Single-Image Noise
    Level Estimation for Blind Denoising"). If the picture was clipped to [-1, 1], patches with clipped pixels are
    left out while a quarter of all remains, since noise is smaller there.

    JPEG files mostly keep colours at half the resolution, and the noise of these at low frequencies only: some of the
    variances are then nearly nothing. Where the luminance has far more noise than that, its noise, which is
    ``sqrt(0.299^2 + 0.587^2 + 0.114^2)`` of what each channel had, tells the level before the colours were smoothed.

    Channels that are all equal count as one.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1].
        known: ``[H, W]``, 1 where y has been measured; patches that are not wholly known are left out.

    Raises:
        InputError: there are too few patches.
    """
    y, known = y.detach().float().cpu(), None if known is None else known.cpu()
    if (y == y[:1]).all():
        y = y[:1]
    side = GREY_SIDE if len(y) == 1 else COLOUR_SIDE
    patches, fewest = _patches(y, side, known), FEWEST * len(y) * side**2
    if len(patches) < fewest:
        raise InputError(
            f"the noise can't be estimated from {len(patches)} patches of {side}x{side} known pixels; it takes "
            f"{fewest}: give measurement.noise.std a number"
        )
    variance = _variance_of_flat_patches(patches) if len(y) == 1 else _level(_variances(patches))
    if len(y) == len(LUMA):
        before = _variance_before_subsampling(y, known)
        variance = before if before > SUBSAMPLED**2 * variance else variance
    return max(math.sqrt(max(variance, 0.0)), ROUNDING)


def _patches(y: Tensor, side: int, known: Tensor | None) -> Tensor:
    """``[N, C side side]``: evenly spaced patches, known and not clipped."""
    if min(y.shape[1:]) < side:
        return y.new_empty(0, len(y) * side**2)
    stride = max(1, math.ceil(math.sqrt(y[0].numel() / MOST_PATCHES)))

    def cut(image: Tensor) -> Tensor:
        windows = image.unfold(1, side, stride).unfold(2, side, stride)
        return windows.permute(1, 2, 0, 3, 4).reshape(-1, len(image) * side**2)

    patches = cut(y)
    if known is not None:
        patches = patches[cut(known[None]).amin(1) > 0]
    if len(patches) == 0 or y.abs().max() > 1:
        return patches
    clipped = (patches.abs() >= 1).sum(1)
    return patches[clipped <= np.quantile(clipped.numpy(), 0.25)]


def _variances(patches: Tensor) -> np.ndarray:
    """Variances of the patches along their principal directions, increasing."""
    centred = patches - patches.mean(0)
    return torch.linalg.eigvalsh((centred.T @ centred / len(centred)).double()).numpy()


def _level(variances: np.ndarray) -> float:
    """Mean of the variances without the largest ones, as few of these as bring it down to the median."""
    for count in range(len(variances), 0, -1):
        mean = variances[:count].mean()
        if mean <= np.median(variances[:count]):
            break
    return float(mean)


def _variance_before_subsampling(y: Tensor, known: Tensor | None) -> float:
    """What the luminance says of the variance in each channel; 0 if there are too few patches."""
    weights = torch.tensor(LUMA)
    patches = _patches((weights[:, None, None] * y).sum(0, keepdim=True), GREY_SIDE, known)
    if len(patches) < FEWEST * GREY_SIDE**2:
        return 0.0
    return _variance_of_flat_patches(patches) / float(weights.square().sum())


def _variance_of_flat_patches(patches: Tensor) -> float:
    """Mean of the smallest eighth of the variances, of the patches whose differences noise alone could make.

    The very smallest one is too small by chance, as patches are few and chosen by their energy.
    """
    side = GREY_SIDE
    across = patches.reshape(-1, side, side)
    differences = [across[:, :, 2:] - across[:, :, :-2], across[:, 2:] - across[:, :-2]]
    energy = sum((d.square().sum((1, 2)) for d in differences), torch.zeros(len(patches))) / 4
    lowest = side**2 // 8
    variance = _variances(patches)[:lowest].mean()
    for _ in range(4):
        flat = energy <= _most_energy(side) * variance
        if flat.sum() < FEWEST * side**2:
            break
        variance = _variances(patches[flat])[:lowest].mean()
    return float(variance)


def _most_energy(side: int) -> float:
    """Energy of the differences of a patch of noise of variance 1, `FLAT` standard deviations above its mean."""
    line = np.eye(side)[2:] - np.eye(side)[:-2]
    form = (np.kron(np.eye(side), line.T @ line) + np.kron(line.T @ line, np.eye(side))) / 4
    return float(np.trace(form) + FLAT * math.sqrt(2 * np.trace(form @ form)))
