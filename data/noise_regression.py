"""Fit the estimate of noise that is not white: python data/noise_regression.py --bsds BSDS500

Damages 900 times a photograph of ``BSDS500/train`` and 900 times one of ``test`` (none of ``val``) as cameras and
programs do, denoises 128 x 128 pixels of each with the bundled network at twelve levels, and fits
``randomwalk/images/noise_regression.npz`` to the levels with the highest PSNR. Half an hour of one processor core with
bf16 units. The levels at which ``photo_camera`` is best are others, in ``noise_regression_camera.npz``:

    python data/noise_regression.py --bsds BSDS500 --network photo_camera --each 450

The file of the repository was fitted with an earlier network of 2.9 million weights. A fit with the present one was no
better on the pictures of ``benchmarks/real_photographs.py``: 0.23 dB better for noise of 25 of 255 in JPEG 30, 0.15 to
0.36 dB worse for noise of 10 in JPEG 95 and WebP, for noise of 1 in 16 bits and for clean pictures, and within 0.1 dB
in the other rows.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.images.noise_regression import COEFFICIENTS, features
from randomwalk.images.pictures import steps_of

LEVELS = (1.0, 1.5, 2.2, 3.2, 4.6, 6.6, 9.5, 13.6, 19.6, 28.0, 40.0, 58.0)
"""Levels of 255 at which each picture is denoised."""
GRID = np.concatenate([[-0.5], np.log(LEVELS)])
"""Their logarithms, the first for the picture as it is."""
CAP = 45.0
"""PSNR in dB above which differences don't count."""
SIDE, BATCH = 128, 256
LUMA = np.array([0.299, 0.587, 0.114])
LANCZOS, BICUBIC, BILINEAR, BOX = (Image.Resampling[n] for n in ("LANCZOS", "BICUBIC", "BILINEAR", "BOX"))
Table = Any
"""Luminance table of a JPEG file; None for others."""


# --- damaged pictures: floats [H, W, C] on [0, 255] ----------------------------------------------------------------


def in_8_bits(y: np.ndarray) -> np.ndarray:
    """Round and clip."""
    return y.round().clip(0, 255)


def through_file(y: np.ndarray, kind: str, **options: Any) -> tuple[np.ndarray, Table]:
    """Write and read a picture by Pillow."""
    file, pixels = io.BytesIO(), in_8_bits(y).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, kind, **options)
    with Image.open(file) as image:
        table, array = getattr(image, "quantization", None), np.array(image)
    array = array[..., None] if array.ndim == 2 else array
    return array.astype(float), table[0] if table else None


def as_jpeg(y: np.ndarray, draws: np.random.Generator, low: int, high: int) -> tuple[np.ndarray, Table]:
    """Through a JPEG file of some quality, and some subsampling of the colours."""
    quality = int(draws.integers(low, high))
    return through_file(y, "jpeg", quality=quality, subsampling=int(draws.integers(0, 3)))


def resized(y: np.ndarray, factor: float, how: Image.Resampling) -> np.ndarray:
    """Scale by Pillow, in floats."""
    size = tuple(max(8, round(side * factor)) for side in (y.shape[1], y.shape[0]))
    channels = [Image.fromarray(y[..., c].astype(np.float32)).resize(size, how) for c in range(y.shape[2])]
    return np.stack([np.asarray(one) for one in channels], -1).astype(float)


def bayer(height: int, width: int) -> list[np.ndarray]:
    """Where a sensor sees red, green and blue."""
    row, column = np.mgrid[:height, :width] % 2
    red, blue = ((row == 0) & (column == 0)).astype(float), ((row == 1) & (column == 1)).astype(float)
    return [red, 1 - red - blue, blue]


def bilinear(raw: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
    """Demosaic by means of neighbours."""
    cross = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.convolve(values, cross, mode="mirror")

    return np.stack([mean(raw * one) / mean(one) for one in seen], -1)


def malvar(raw: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
    """Demosaic by the filters of Malvar, He and Cutler (2004)."""
    red, green, blue = seen
    at_other = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
    in_row = np.array(
        [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
    ) / 8  # fmt: skip
    across = np.array(
        [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
    ) / 8  # fmt: skip
    greens, rows, columns, corners = (
        ndimage.convolve(raw, filter_, mode="mirror") for filter_ in (at_other, in_row, in_row.T, across)
    )
    red_rows = red.any(1, keepdims=True)
    reds = np.where(red > 0, raw, np.where(blue > 0, corners, np.where(red_rows, rows, columns)))
    blues = np.where(blue > 0, raw, np.where(red > 0, corners, np.where(red_rows, columns, rows)))
    return np.stack([reds, np.where(green > 0, raw, greens), blues], -1)


def photographed(
    x: np.ndarray, draws: np.random.Generator, peak: float, read: float, gains: Any, how: Any
) -> np.ndarray:
    """Linear light, photons and read noise on a mosaic, white balance, demosaicking, gamma."""
    light, seen = (x / 255) ** 2.2, bayer(*x.shape[:2])
    raw = sum(light[..., c] / gains[c] * seen[c] for c in range(3))
    raw = draws.poisson(raw * peak) / peak + read / 255 * draws.standard_normal(raw.shape)
    balanced = sum(raw * seen[c] * gains[c] for c in range(3))
    return 255 * np.clip(how(balanced, seen), 0, 1) ** (1 / 2.2)


Damaged = tuple[np.ndarray, np.ndarray, Table]
"""The truth, the picture, and the table of its file."""


def between(low: float, high: float, draws: np.random.Generator) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(draws.uniform(np.log(low), np.log(high))))


def smaller(x: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Scale a photograph down."""
    return resized(x, between(0.4, 0.9, draws), LANCZOS).clip(0, 255)


def clean(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Scale, blur, or change the contrast or brightness, without noise."""
    y, which = x, draws.random()
    if which < 0.25:
        y = resized(x, between(0.4, 0.9, draws), LANCZOS)
    elif which < 0.4:
        y = resized(x, between(1.1, 1.8, draws), BICUBIC)
    elif which < 0.5:
        blur = draws.uniform(0.4, 1.5)
        y = ndimage.gaussian_filter(x, (blur, blur, 0))
    elif which < 0.55:
        y = 127.5 + (x - 127.5) * draws.uniform(0.3, 0.9)
    elif which < 0.62:
        y = x * draws.uniform(0.15, 0.6)
    elif which < 0.68:
        y = 127.5 + (x - 127.5) * draws.uniform(1.1, 1.6)
    x = y.clip(0, 255)
    return x, x.round(), None


def clean_jpeg(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Compress without noise."""
    x = smaller(x, draws) if draws.random() < 0.3 else x
    return (x, *as_jpeg(x, draws, 30, 99))


def white(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Add white noise, mostly rounded to 8 bits."""
    x = smaller(x, draws) if draws.random() < 0.2 else x
    x = x * draws.uniform(0.2, 0.8) if draws.random() < 0.1 else x
    y = x + between(1.5, 62, draws) * draws.standard_normal(x.shape)
    return x, in_8_bits(y) if draws.random() < 0.85 else y, None


def white_jpeg(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Add white noise and compress."""
    std, quality = between(2, 50, draws), int(draws.integers(30, 98))
    y = x + std * draws.standard_normal(x.shape)
    return (x, *through_file(y, "jpeg", quality=quality, subsampling=int(draws.integers(0, 3))))


def noisy_then_resized(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Add white noise and scale; sometimes compress."""
    std, factor = between(3, 50, draws), between(0.35, 1.5, draws)
    ways = [BILINEAR, BICUBIC, LANCZOS, BOX] if factor < 1 else [BILINEAR, BICUBIC, LANCZOS]
    how = ways[draws.integers(len(ways))]
    y = in_8_bits(resized(in_8_bits(x + std * draws.standard_normal(x.shape)), factor, how))
    x = resized(x, factor, how).clip(0, 255)
    return (x, *as_jpeg(y, draws, 50, 98)) if draws.random() < 0.4 else (x, y, None)


def raw(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """See through a Bayer filter, with white noise or that of a camera; sometimes scale down or compress."""
    how = (bilinear, malvar)[int(draws.integers(2))]
    if draws.random() < 0.5:
        std, seen = between(3, 40, draws), bayer(*x.shape[:2])
        mosaic = sum(x[..., c] * seen[c] for c in range(3)) + std * draws.standard_normal(x.shape[:2])
        y = how(mosaic, seen)
    else:
        peak, read = between(60, 8000, draws), between(0.2, 4, draws)
        gains = (draws.uniform(1, 2.2), 1.0, draws.uniform(1, 2.2))
        y = photographed(x, draws, peak, read, gains, how)
    y = in_8_bits(y)
    if draws.random() < 0.3:
        factor = between(0.4, 0.9, draws)
        y, x = in_8_bits(resized(y, factor, LANCZOS)), resized(x, factor, LANCZOS).clip(0, 255)
    return (x, *as_jpeg(y, draws, 50, 98)) if draws.random() < 0.55 else (x, y, None)


def webp(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Add white noise, mostly, and write as WebP."""
    std = 0.0 if draws.random() < 0.25 else between(2, 40, draws)
    quality = int(draws.integers(40, 98))
    y, _ = through_file(x + std * draws.standard_normal(x.shape), "webp", quality=quality)
    return x, (y @ LUMA)[..., None].round() if x.shape[2] == 1 else y, None


def grain(x: np.ndarray, draws: np.random.Generator) -> Damaged:
    """Add the same smooth noise to all channels; sometimes compress."""
    std, n = between(3, 30, draws), draws.standard_normal(x.shape[:2])
    n = ndimage.gaussian_filter(n, draws.uniform(0, 0.9))
    y = in_8_bits(x + std * (n / n.std())[..., None])
    return (x, *as_jpeg(y, draws, 50, 98)) if draws.random() < 0.5 else (x, y, None)


KINDS = (clean, clean_jpeg, white, white_jpeg, noisy_then_resized, raw, webp, grain)
SHARES = {
    "photo": (0.13, 0.11, 0.18, 0.22, 0.13, 0.14, 0.06, 0.03),
    "photo_camera": (0.05, 0.1, 0.05, 0.2, 0.08, 0.45, 0.04, 0.03),
}
"""Shares of the kinds of damage, by network."""


def damaged(x: np.ndarray, draws: np.random.Generator, network: str) -> Damaged:
    """Damage a photograph in some way, grey or in colour."""
    kind = KINDS[draws.choice(len(KINDS), p=SHARES[network])]
    if draws.random() < 0.12 and kind is not raw:
        x = (x @ LUMA)[..., None]
    return kind(x, draws)


# --- what is best for them -------------------------------------------------------------------------------------------


def measure(split: Path, seed: int, denoiser: nn.Module, network: str, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[N, F]`` of damaged pictures, and the PSNR ``[N, 1 + L]`` of each as it is and denoised."""
    files, found, curves = sorted(split.glob("*.jpg")), [], []
    for k in range(each):
        turn, i = divmod(k, len(files))
        draws = np.random.default_rng([seed, turn, i])
        truth, y, table = damaged(np.asarray(Image.open(files[i]).convert("RGB")).astype(float), draws, network)
        side = min(SIDE, *(n // 8 * 8 for n in y.shape[:2]))
        top, left = (int(draws.integers((n - side) // 8 + 1)) * 8 for n in y.shape[:2])
        truth, y = truth[top : top + side, left : left + side], y[top : top + side, left : left + side]
        steps = (0.0, 0.0) if table is None else steps_of(table)
        found.append(features(y.astype(np.float16) if (y != y.round()).any() else y, steps))
        t, z = (torch.from_numpy(v.transpose(2, 0, 1).copy()).float() / 127.5 - 1 for v in (truth, y))
        copies = z.expand(3, -1, -1)[None].repeat(len(LEVELS), 1, 1, 1)
        with torch.inference_mode():
            tried = torch.cat([copies[:1], denoiser(copies, torch.tensor(LEVELS) / 127.5)])
        error = (tried.mean(1, keepdim=True) if len(z) == 1 else tried).clamp(-1, 1) - t
        mse = (error / 2).square().mean((1, 2, 3)).double().clamp(min=1e-10)
        curves.append((-10 * mse.log10()).clamp(max=CAP).numpy())
        if k % 50 == 49:
            print(f"{split.name}: {k + 1} of {each}", flush=True)
    return np.array(found), np.array(curves)


# --- the regression --------------------------------------------------------------------------------------------------


class Regression(nn.Module):
    """A linear function plus a small network: the logarithm of the level."""

    def __init__(self, inputs: int, width: int = 16) -> None:
        super().__init__()
        self.l, self.a = nn.Linear(inputs, 1), nn.Linear(inputs, width)
        self.b, self.c = nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.zeros_(self.c.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (self.l(x) + self.c(torch.tanh(self.b(torch.tanh(self.a(x))))))[:, 0]


def loss_at(psnr: Tensor, level: Tensor) -> Tensor:
    """dB below the best, at the logarithm of a level."""
    grid = torch.tensor(GRID, dtype=torch.float32)
    inside = level.detach().clamp(float(grid[0]) + 1e-4, float(grid[-1]) - 1e-4)
    i = torch.searchsorted(grid, inside).clamp(1, len(grid) - 1)
    share = (level - grid[i - 1]) / (grid[i] - grid[i - 1])
    below, above = psnr.gather(1, (i - 1)[:, None])[:, 0], psnr.gather(1, i[:, None])[:, 0]
    return psnr.max(1).values - (below + (above - below) * share)


def fit(z: np.ndarray, curves: np.ndarray, seed: int, steps: int = 2000, rate: float = 4e-3) -> Regression:
    """From the middle of the good levels at first, then by the loss in dB itself."""
    torch.manual_seed(seed)
    x, psnr = torch.tensor(z, dtype=torch.float32), torch.tensor(curves, dtype=torch.float32)
    share = torch.softmax((psnr - psnr.max(1, keepdim=True).values) / 0.15, 1)
    middle = (share * torch.tensor(GRID, dtype=torch.float32)).sum(1)
    model = Regression(x.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    draws = torch.Generator().manual_seed(seed)
    for k in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=draws)
        level = model(x[rows] + 0.03 * torch.randn(BATCH, x.shape[1], generator=draws))
        near = nn.functional.huber_loss(level, middle[rows], delta=0.3)
        lost = loss_at(psnr[rows], level)
        outside = 0.05 * (level - GRID[-1] - 0.2).relu().mean() + 0.2 * (GRID[0] - 0.1 - level).relu().mean()
        late = k / steps
        loss = near * (1 - 0.8 * late) + (lost + 0.3 * lost**2).mean() * (0.2 + 0.8 * late) * 0.5 + outside
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def main() -> None:
    """Measure, fit and save."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bsds", type=Path, required=True, help="folder with train and test")
    options.add_argument("--network", choices=list(COEFFICIENTS), default="photo", help="that denoises (photo)")
    options.add_argument("--each", type=int, default=900, metavar="N", help="pictures of each of both folders (900)")
    chosen = options.parse_args()
    out = COEFFICIENTS[chosen.network]
    denoiser = load_denoiser(f"pretrained_models/{chosen.network}.safetensors", precision="bf16")
    parts = [
        measure(chosen.bsds / split, seed, denoiser, chosen.network, chosen.each)
        for split, seed in (("train", 1), ("test", 2))
    ]
    found, curves = (np.concatenate(both) for both in zip(*parts, strict=True))
    mean, std = found.mean(0), found.std(0) + 1e-3
    models = [fit(np.clip((found - mean) / std, -4, 4), curves, seed).state_dict() for seed in range(3)]
    weights = {key: np.stack([model[key].numpy() for model in models]) for key in models[0]}
    np.savez_compressed(out, mean=mean.astype(np.float32), std=std.astype(np.float32), **weights)
    print(f"{out}: {sum(value.size for value in weights.values())} coefficients from {len(found)} pictures")


if __name__ == "__main__":
    main()
