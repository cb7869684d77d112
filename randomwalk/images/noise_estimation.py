"""Estimation of the noise level of a picture from the picture alone."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.anscombe import stabilised
from randomwalk.images.tensors import LUMA, strips

ROUNDING = 2 / 255 / math.sqrt(12)
"""Standard deviation of rounding to 8 bits, in [-1, 1] units."""
MOST_PHOTONS = 1e4
"""Most photons at white that are estimated: more make as much noise as rounding to 8 bits."""
CUT_OFF = 0.03
"""Share of white pixels in a square from which on the noise there is taken to be cut off."""
FEW = 2.0
"""Photons below which the variance of their transform is less than 1."""
SMOOTH = 9
"""Side of the squares over which the brightness of pixels is averaged."""
COLOUR_SIDE, GREY_SIDE = 5, 7
"""Side of the patches in pixels; smaller in colour, where the channels say more than the surrounding pixels."""
MOST_PATCHES = 200_000
FEWEST = 5
"""Fewest patches for an estimate, as a multiple of the values in a patch."""
SUBSAMPLED = 5.0
"""Ratio of the noise levels of luma and colours above which the colours count as subsampled."""
FLAT = 3.72
"""Largest energy of a flat grey patch, in standard deviations above the mean for noise alone."""


def estimate_noise(y: Tensor, known: Tensor | None = None, least: float = ROUNDING) -> float:
    """Estimate the standard deviation of white Gaussian noise in a picture, in the units of its pixels.

    The patches of a clean picture lie near a subspace of few dimensions, and noise adds its variance in every
    direction: along the other directions, the variance of the patches is that of the noise.

    In colour, these directions are those of equal variance: the largest variances are dropped until the mean of the
    rest does not exceed its median (Chen, Zhu and Heng 2015, "An Efficient Statistical Method for Image Noise Level
    Estimation"). In grey pictures, texture fills nearly all directions, so the estimate is the mean of the smallest
    variances over patches that are flat up to noise of the level found so far (Liu, Tanaka and Okutomi 2013,
    "Single-Image Noise Level Estimation for Blind Denoising"). If the picture was clipped to [-1, 1], patches with
    clipped pixels, whose noise is smaller, are left out as long as a quarter of all patches remains.

    Most JPEG files store colours at half the resolution, which removes the high frequencies of their noise: some of the
    variances then nearly vanish. If the luma has far more noise than that, the estimate comes from the luma, whose
    noise was ``sqrt(0.299^2 + 0.587^2 + 0.114^2)`` times that of a channel.

    Equal channels count as one.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1].
        known: ``[H, W]``, 1 where y was measured; only patches that are known entirely are used.
        least: the least estimate, that of rounding to the values of the file.

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
            f"the noise can't be estimated from {len(patches)} patches of {side}x{side} known pixels; it takes {fewest}"
        )
    variance = _variance_of_flat_patches(patches) if len(y) == 1 else _level(_variances(patches))
    if len(y) == len(LUMA):
        before = _variance_before_subsampling(y, known)
        variance = before if before > SUBSAMPLED**2 * variance else variance
    return max(math.sqrt(max(variance, 0.0)), least)


def estimate_photons(y: Tensor, known: Tensor | None = None) -> tuple[float, float]:
    """Estimate the photons at white of a picture with photon noise, and the standard deviation of its read noise.

    The variance of a pixel with mean x is ``2 (x + 1) / peak + read_std^2``. It is estimated in four parts of the
    picture by brightness, with `estimate_noise`, and fitted by ``peak`` and ``read_std``. Since a part has pixels of
    more than one brightness, both variances are then scaled until Anscombe's transform has the variance 1.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1], which count photons: linear, as raw files are, not with a gamma curve.
        known: ``[H, W]``, 1 where y was measured.

    Returns:
        ``peak``, at most `MOST_PHOTONS`, and ``read_std`` in [-1, 1] units.

    Raises:
        InputError: there are too few patches, or the picture is black.
    """
    y, known = y.detach().float().cpu(), torch.ones(y.shape[1:]) if known is None else known.cpu()
    smooth, cut_off = _averages(y.mean(0)) + 1, _averages((y >= 1).float().amax(0))
    if y.max() == 1 and float((known * (cut_off < CUT_OFF)).mean()) > 0.2 * float(known.mean()):
        known = known * (cut_off < CUT_OFF)  # a file cuts noise off at white, so that there is less of it
    edges = np.quantile(smooth[known > 0].numpy(), [0, 0.25, 0.5, 0.75, 1]) if (known > 0).any() else np.zeros(5)
    means, variances = [], []
    for low, high in pairwise(edges):
        part = known * (smooth >= low) * (smooth <= high)
        try:
            variances.append(max(estimate_noise(y, part, least=0.0) ** 2, 1e-12))
        except InputError:  # this brightness is in edges and textures
            continue
        means.append([float(smooth[part > 0].mean()), 1.0])
    if len(means) < 2:  # photons alone
        means, variances = [[max(float(smooth[known > 0].mean()), 1e-6)]], [estimate_noise(y, known) ** 2]
    from scipy.optimize import nnls  # slow to import

    slope, read = [*nnls(np.array(means) / np.array(variances)[:, None], np.ones(len(means)))[0], 0.0][:2]
    for _ in range(2):
        peak = min(2 / max(slope, 1e-12), MOST_PHOTONS)
        read_photons = math.sqrt(read) * peak / 2
        black, white = stabilised(torch.tensor([0.0, peak], dtype=torch.float64), read_photons).tolist()
        z = (stabilised((y + 1) * (peak / 2), read_photons) - black) * (2 / (white - black)) - 1
        try:
            std = estimate_noise(z, known * (smooth * (peak / 2) > FEW), least=0.0)
        except InputError:  # all of it is dark
            std = estimate_noise(z, known, least=0.0)
        excess = (std * (white - black) / 2) ** 2
        slope, read = slope * excess, read * excess
    return float(min(2 / max(slope, 1e-12), MOST_PHOTONS)), math.sqrt(read)


def _averages(image: Tensor) -> Tensor:
    """Averages of ``[H, W]`` over squares of side `SMOOTH` around each pixel."""
    pool = torch.nn.functional.avg_pool2d
    return pool(image[None, None], SMOOTH, 1, SMOOTH // 2, count_include_pad=False)[0, 0]


def _patches(y: Tensor, side: int, known: Tensor | None) -> Tensor:
    """Evenly spaced patches ``[N, C side side]`` that are known and, as far as possible, not clipped."""
    if min(y.shape[1:]) < side:
        return y.new_empty(0, len(y) * side**2)
    stride = max(1, math.ceil(math.sqrt(y[0].numel() / MOST_PATCHES)))

    def cut(image: Tensor) -> Tensor:
        windows = image.unfold(1, side, stride).unfold(2, side, stride)
        return windows.permute(1, 2, 0, 3, 4).reshape(-1, len(image) * side**2)

    patches = cut(y)
    if known is not None:
        patches = patches[cut(known[None]).amin(1) > 0]
    if len(patches) == 0 or max(map(abs, torch.stack(torch.aminmax(y)).tolist())) > 1:
        return patches
    clipped = (patches.abs() >= 1).sum(1)
    return patches[clipped <= np.quantile(clipped.numpy(), 0.25)]


def _variances(patches: Tensor) -> np.ndarray:
    """Variances of the patches along their principal directions, in ascending order."""
    centred = patches - patches.mean(0)
    return torch.linalg.eigvalsh((centred.T @ centred / len(centred)).double()).numpy()


def _level(variances: np.ndarray) -> float:
    """Mean of the variances after dropping the largest until it does not exceed the median."""
    for count in range(len(variances), 0, -1):
        mean = variances[:count].mean()
        if mean <= np.median(variances[:count]):
            break
    return float(mean)


def _variance_before_subsampling(y: Tensor, known: Tensor | None) -> float:
    """Noise variance of each channel before subsampling, estimated from the luma; 0 if there are too few patches."""
    weights = torch.tensor(LUMA)
    luma = torch.empty((1, *y.shape[1:]))
    for rows in strips(y.shape[1], y[:, 0].numel()):
        luma[:, rows] = (weights[:, None, None] * y[:, rows]).sum(0, keepdim=True)
    patches = _patches(luma, GREY_SIDE, known)
    if len(patches) < FEWEST * GREY_SIDE**2:
        return 0.0
    return _variance_of_flat_patches(patches) / float(weights.square().sum())


def _variance_of_flat_patches(patches: Tensor) -> float:
    """Mean of the smallest eighth of the variances over the patches whose differences may be noise alone.

    The smallest variance by itself would be biased low, since the patches are few and selected by their energy.
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
    """Energy of the differences in a patch of noise of variance 1, `FLAT` standard deviations above its mean."""
    line = np.eye(side)[2:] - np.eye(side)[:-2]
    form = (np.kron(np.eye(side), line.T @ line) + np.kron(line.T @ line, np.eye(side))) / 4
    return float(np.trace(form) + FLAT * math.sqrt(2 * np.trace(form @ form)))
