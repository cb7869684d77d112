"""PSNR of the networks for photographs as denoisers of CBSD68, beside published figures and classical methods.

White Gaussian noise of a known standard deviation is added to whole images, and not quantised; what comes out is
clipped. Every method gets the same noisy images. The settings of the classical methods were chosen on photographs of
the Berkeley validation set that are not in CBSD68.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from support import photo_baselines
from support.common import Report, check_least, parser, start, verdict
from support.engine import Clock, Job, Record, Records, measure
from support.photo_problems import MEASUREMENT, Problem
from support.photographs import (
    BUNDLED,
    MODELS,
    SETS,
    Photograph,
    add_options,
    check_options,
    fingerprint,
    in_pixels,
    load_model,
    open_set,
    photographs,
    spread,
)
from torch import Tensor

from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.errors import InputError
from randomwalk.images import metrics
from randomwalk.operators import Identity
from randomwalk.operators.noise import GaussianNoise

LEVELS = (15, 25, 50)
"""Standard deviations of the noise, of 255."""
TEST_SET = "cbsd68"
PUBLISHED = {
    "CBM3D (Dabov et al. 2007)": (33.52, 30.71, 27.38),
    "DnCNN (Zhang et al. 2017)": (33.90, 31.24, 27.95),
    "FFDNet (Zhang et al. 2018)": (33.87, 31.21, 27.96),
    "DRUNet (Zhang et al. 2021), 33 M weights": (34.30, 31.69, 28.51),
}
"""PSNR on CBSD68 at `LEVELS`; all but CBM3D are networks, of which DnCNN has another one for each level."""
RIVAL = "DnCNN (Zhang et al. 2017)"
NL_MEANS: dict[int, dict[str, Any]] = {
    15: {"patch_size": 3, "patch_distance": 6, "h": 0.55},
    25: {"patch_size": 3, "patch_distance": 6, "h": 0.55},
    50: {"patch_size": 5, "patch_distance": 10, "h": 0.4},
}
TV_WEIGHTS = {15: 0.9, 25: 1.0, 50: 1.2}
TV_ITERATIONS = 100
NOISY, BM3D = "the noisy image itself", "BM3D, its authors' package"


@dataclass(frozen=True)
class Method:
    """A denoiser of the table.

    Attributes:
        denoise: ``(y [1, 3, H, W], level) -> [1, 3, H, W]``, the level of `LEVELS`.
        config: what decides its results, besides image and noise.
        num_images: on so many of the images; None for all.
    """

    denoise: Callable[[Tensor, int], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    num_images: int | None = None


# --- methods ---------------------------------------------------------------------------------------------------------


def networks(options: argparse.Namespace, device: torch.device) -> dict[str, Method]:
    """The networks that the options name."""
    found = {}
    for name in options.models:
        path = getattr(options, name)
        denoiser = load_model(path, device, options.precision)

        def denoise(y: Tensor, level: int, denoiser: torch.nn.Module = denoiser) -> Tensor:
            with torch.inference_mode():
                x: Tensor = denoiser(y.to(device), in_pixels(level)).cpu()
                return x

        size = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
        config = {"weights": fingerprint(path), "precision": options.precision}
        found[f"{MODELS[name]}, {size:.1f} M weights"] = Method(denoise, config)
    return found


def classical(options: argparse.Namespace) -> dict[str, Method]:
    """Methods without a network; BM3D if its package is installed."""

    def total_variation(y: Tensor, level: int) -> Tensor:
        problem = Problem(Identity(y.shape[1:]), GaussianNoise(level * 2 / 255), y, y)
        return photo_baselines.total_variation(problem, TV_WEIGHTS[level], TV_ITERATIONS)

    def nl_means(y: Tensor, level: int) -> Tensor:
        return photo_baselines.nl_means(y, in_pixels(level), **NL_MEANS[level])

    def bm3d(y: Tensor, level: int) -> Tensor:
        return photo_baselines.bm3d(y, in_pixels(level))

    by_level = {str(level): settings for level, settings in NL_MEANS.items()}
    weights = {str(level): weight for level, weight in TV_WEIGHTS.items()}
    found = {
        NOISY: Method(lambda y, level: y),
        "total variation": Method(total_variation, {"weights": weights, "iterations": TV_ITERATIONS}),
        "non-local means": Method(nl_means, {"settings": by_level}),
    }
    if options.bm3d_images and photo_baselines.bm3d_missing() is None:
        found[BM3D] = Method(bm3d, num_images=options.bm3d_images)
    return found


# --- measurements ----------------------------------------------------------------------------------------------------


def noisy(photo: Photograph, level: int, seed: int) -> Tensor:
    """The photograph with noise, ``[1, 3, H, W]``, neither clipped nor quantised."""
    normal = photo.draws(seed, MEASUREMENT, level).normal(photo.pixels.shape)
    return photo.pixels[None] + in_pixels(level) * normal


def judge(job: Job) -> list[Record]:
    """PSNR, SSIM and seconds of one image."""
    method, level, photos, options, device = job.payload
    photo = photos[job.items[0]]
    y, clock = noisy(photo, level, options.seed), Clock(device)
    x = method.denoise(y, level)
    seconds, truth = clock.seconds(), photo.pixels[None]
    return [{"psnr": float(metrics.psnr(x, truth)), "ssim": float(metrics.ssim(x, truth)), "seconds": seconds}]


Levels = dict[str, dict[int, dict[str, Record]]]
"""Records by method, level and image."""


def measure_all(
    options: argparse.Namespace,
    device: torch.device,
    methods: Mapping[str, Method],
    photos: list[Photograph],
    records: Records,
) -> Levels:
    """Measure all methods at all levels."""
    jobs = []
    for title, method in methods.items():
        chosen = {photos[k].key: photos[k] for k in spread(len(photos), method.num_images or len(photos))}
        config = {**method.config, "seed": options.seed, "crop": options.crop}
        for level in LEVELS:
            jobs.append(Job(f"sigma {level}", title, config, list(chosen), (method, level, chosen, options, device)))
    found = measure(jobs, judge, records, "denoising", keep_failures=False)
    return {title: {level: found[f"sigma {level}"][title] for level in LEVELS} for title in methods}


def mean(images: Mapping[str, Record], metric: str, only: Mapping[str, Record] | None = None) -> float:
    """Over the images, or over those that another method has too."""
    return statistics.fmean(record[metric] for key, record in images.items() if only is None or key in only)


# --- tables ----------------------------------------------------------------------------------------------------------


def write(report: Report, options: argparse.Namespace, found: Levels, trained: list[str], notes: list[str]) -> None:
    """The table, results.csv, and how far the networks are from the published figure to compare with.

    Args:
        trained: the networks among the methods.
    """
    rows = []
    for title, levels in found.items():
        psnr = [f"{mean(levels[level], 'psnr'):.2f}" for level in LEVELS]
        ssim = [f"{mean(levels[level], 'ssim'):.3f}" for level in LEVELS]
        seconds = statistics.fmean(mean(levels[level], "seconds") for level in LEVELS)
        rows.append([title, str(len(levels[LEVELS[0]])), *psnr, *ssim, f"{seconds:.2f}"])
        for level in LEVELS:
            for metric, unit in (("psnr", "dB"), ("ssim", "1"), ("seconds", "s")):
                report.add(f"sigma {level}", title, metric, mean(levels[level], metric), unit)
    whole = not options.quick and options.crop == 0 and len(found[NOISY][LEVELS[0]]) == SETS[TEST_SET]
    if whole:
        rows += [
            [f"published: {name}", "68", *(f"{v:.2f}" for v in values), *[""] * 4] for name, values in PUBLISHED.items()
        ]
    else:
        notes = [*notes, "published figures are for all 68 images, whole: they are not shown beside these"]
    head = ["method", "images", *(f"PSNR, {level}" for level in LEVELS), *(f"SSIM, {level}" for level in LEVELS), "s"]
    images = "photographs" if options.data is None else "CBSD68"
    title = f"Denoising of {images}, noise of {', '.join(map(str, LEVELS))} of 255"
    report.table(title, head, rows, [*common_notes(options), *notes, *subset_notes(found, trained)])
    for name in trained if whole else []:
        gains = [mean(found[name][level], "psnr") - PUBLISHED[RIVAL][k] for k, level in enumerate(LEVELS)]
        lines = [f"{level}: {verdict(gain, options.target)}" for level, gain in zip(LEVELS, gains, strict=True)]
        report.say(f"{name}, against {RIVAL}: {'; '.join(lines)}.")
        for level, gain in zip(LEVELS, gains, strict=True):
            report.add(f"sigma {level}", name, "gain_over_dncnn", gain, "dB")
    report.save()


def common_notes(options: argparse.Namespace) -> list[str]:
    """Notes on how all numbers were measured."""
    cut = "whole images" if options.crop == 0 else f"images cut to {options.crop} pixels"
    return [
        f"mean over {cut}, colour; noise of seed {options.seed}, not quantised, results clipped; networks in "
        f"{options.precision}, one for all levels",
        "s: seconds for each image, of the processor, or by the clock on a GPU",
    ]


def subset_notes(found: Levels, trained: list[str]) -> list[str]:
    """Notes on the networks on the images of methods that saw only some of them."""
    notes = []
    total = max(len(levels[LEVELS[0]]) for levels in found.values())
    for title, levels in found.items():
        count = len(levels[LEVELS[0]])
        for name in trained if count < total else []:
            same = [f"{mean(found[name][level], 'psnr', levels[level]):.2f}" for level in LEVELS]
            notes.append(f"on the {count} images of {title}, {name} reaches {' / '.join(same)}")
    return notes


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_options(made, crop=0)
    made.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="only these networks")
    made.add_argument("--num-images", type=int, default=68, metavar="N", help="so many, evenly spaced (68)")
    made.add_argument(
        "--bm3d-images", type=int, default=12, metavar="N", help="BM3D, which is slow, on so many; 0: on none (12)"
    )
    made.add_argument(
        "--target", type=float, default=0.0, metavar="DB", help=f"by how much to exceed {RIVAL.split(' ')[0]} (0)"
    )
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    check_options(chosen)
    check_least(chosen, num_images=1, bm3d_images=0)
    if (most := max(chosen.num_images, chosen.bm3d_images)) > SETS[TEST_SET]:
        raise InputError(f"{most} images: CBSD68 has {SETS[TEST_SET]}")
    if chosen.quick:
        chosen.num_images, chosen.bm3d_images, chosen.crop = 2, min(chosen.bm3d_images, 1), chosen.crop or 64
    folder = TEST_SET if chosen.data is not None else BUNDLED
    source = open_set(chosen.data, folder)
    photos = photographs(source, folder, spread(len(source), chosen.num_images), chosen.crop)
    device = resolve_device(chosen.device)
    trained = networks(chosen, device)
    report = Report("denoising", chosen, str(device), ["scikit-image", "torchmetrics", "bm3d"])
    missing = photo_baselines.bm3d_missing() if chosen.bm3d_images else None
    metrics.load()
    methods = {**classical(chosen), **trained}
    found = measure_all(chosen, device, methods, photos, Records(report.folder, chosen.resume))
    write(report, chosen, found, list(trained), [missing] if missing else [])
    return report.finish()


if __name__ == "__main__":
    start(main, options())
