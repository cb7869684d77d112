"""PSNR of the networks for photographs as denoisers, beside published figures, other networks and classical methods.

The images are CBSD68, in colour or grey, or any folder. White Gaussian noise of a known standard deviation is added to
whole images, and not quantised; what comes out is clipped. Every method gets the same noisy images. The settings of the
classical methods were chosen on photographs of the Berkeley validation set that are not in CBSD68.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from support import denoising_peers, photo_baselines
from support.common import Report, check_least, parser, start, verdict
from support.engine import Clock, Job, Record, Records, measure
from support.photo_problems import MEASUREMENT, Problem
from support.photographs import (
    ANY,
    BUNDLED,
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
from randomwalk.images import metrics
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import LUMA
from randomwalk.operators import Identity
from randomwalk.operators.noise import GaussianNoise
from randomwalk.sampling import measuring

LEVELS = (5, 15, 25, 50, 100)
"""Standard deviations of the noise, of 255."""
TEST_SET = "cbsd68"
PUBLISHED_LEVELS = (15, 25, 50)
PUBLISHED = {
    "BM3D (Dabov et al. 2007)": {"colour": (33.52, 30.71, 27.38), "grey": (31.07, 28.57, 25.62)},
    "DnCNN (Zhang et al. 2017)": {"colour": (33.90, 31.24, 27.95), "grey": (31.73, 29.23, 26.23)},
    "FFDNet (Zhang et al. 2018)": {"colour": (33.87, 31.21, 27.96), "grey": (31.63, 29.19, 26.29)},
    "DRUNet (Zhang et al. 2021), 33 M weights": {"colour": (34.30, 31.69, 28.51), "grey": (31.91, 29.48, 26.59)},
}
"""PSNR on CBSD68 and BSD68 at `PUBLISHED_LEVELS`; all but BM3D are networks, of which DnCNN has one for each level."""
RIVALS = {"colour": "DnCNN (Zhang et al. 2017)", "grey": "BM3D (Dabov et al. 2007)"}
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
        denoise: ``(y [1, C, H, W], level) -> [1, C, H, W]``, C = 3, or 1 with grey images; the level of `LEVELS`.
        config: what decides its results, besides image and noise.
        num_images: on so many of the images; None for all.
        levels: at these of the levels.
    """

    denoise: Callable[[Tensor, int], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    num_images: int | None = None
    levels: Collection[int] = LEVELS


# --- methods ---------------------------------------------------------------------------------------------------------


def networks(options: argparse.Namespace, device: torch.device) -> dict[str, Method]:
    """The network that the options name."""
    denoiser = load_model(options.network, device, options.precision)

    def denoise(y: Tensor, level: int) -> Tensor:
        channels, noise = y.shape[1], GaussianNoise(in_pixels(level))
        if channels == 1:  # as the program treats grey pictures
            y, noise = y.expand(-1, measuring.COPIES, -1, -1), noise.of_copies(measuring.COPIES)
        with torch.inference_mode():
            x: Tensor = denoiser(y.to(device), noise.std).cpu()
            return x if channels == 3 else x.mean(1, keepdim=True)

    size = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
    config = {"weights": fingerprint(options.network), "precision": options.precision}
    return {f"{options.network.stem}, {size:.1f} M weights": Method(denoise, config)}


def classical(options: argparse.Namespace) -> dict[str, Method]:
    """Methods without a network; for colour images those whose settings were chosen, and BM3D if it is installed."""

    def total_variation(y: Tensor, level: int) -> Tensor:
        problem = Problem(Identity(y.shape[1:]), GaussianNoise(level * 2 / 255), y, y)
        return photo_baselines.total_variation(problem, TV_WEIGHTS[level], TV_ITERATIONS)

    def nl_means(y: Tensor, level: int) -> Tensor:
        return photo_baselines.nl_means(y, in_pixels(level), **NL_MEANS[level])

    def bm3d(y: Tensor, level: int) -> Tensor:
        return photo_baselines.bm3d(y, in_pixels(level))

    by_level = {str(level): settings for level, settings in NL_MEANS.items()}
    weights = {str(level): weight for level, weight in TV_WEIGHTS.items()}
    found = {NOISY: Method(lambda y, level: y)}
    if not options.grey:
        tv = {"weights": weights, "iterations": TV_ITERATIONS}
        found["total variation"] = Method(total_variation, tv, levels=TV_WEIGHTS)
        found["non-local means"] = Method(nl_means, {"settings": by_level}, levels=NL_MEANS)
    if options.bm3d_images and photo_baselines.bm3d_missing() is None:
        found[BM3D] = Method(bm3d, num_images=options.bm3d_images)
    return found


# --- measurements ----------------------------------------------------------------------------------------------------


def noisy(photo: Photograph, level: int, seed: int) -> Tensor:
    """The photograph with noise, ``[1, C, H, W]``, neither clipped nor quantised."""
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
        config = {**method.config, "seed": options.seed, "crop": options.crop, "grey": options.grey}
        for level in options.levels:
            if level in method.levels:
                payload = (method, level, chosen, options, device)
                jobs.append(Job(f"sigma {level}", title, config, list(chosen), payload))
    found = measure(jobs, judge, records, "denoising", keep_failures=False)
    return {
        title: {level: found[f"sigma {level}"][title] for level in options.levels if level in method.levels}
        for title, method in methods.items()
    }


def mean(images: Mapping[str, Record], metric: str, only: Mapping[str, Record] | None = None) -> float:
    """Over the images, or over those that another method has too."""
    return statistics.fmean(record[metric] for key, record in images.items() if only is None or key in only)


# --- tables ----------------------------------------------------------------------------------------------------------


def write(report: Report, options: argparse.Namespace, found: Levels, trained: list[str], notes: list[str]) -> None:
    """The table, results.csv, and how far the networks are from the published figure to compare with.

    Args:
        trained: the networks among the methods.
    """
    rows, shown = [], options.levels
    for title, levels in found.items():
        psnr = [f"{mean(levels[level], 'psnr'):.2f}" if level in levels else "" for level in shown]
        ssim = [f"{mean(levels[level], 'ssim'):.3f}" if level in levels else "" for level in shown]
        seconds = statistics.fmean(mean(images, "seconds") for images in levels.values())
        rows.append([title, str(len(next(iter(levels.values())))), *psnr, *ssim, f"{seconds:.2f}"])
        for level, images in levels.items():
            for metric, unit in (("psnr", "dB"), ("ssim", "1"), ("seconds", "s")):
                report.add(f"sigma {level}", title, metric, mean(images, metric), unit)
    colours = "grey" if options.grey else "colour"
    count = len(next(iter(found[NOISY].values())))
    published = not options.quick and options.photos is None and options.crop == 0 and count == SETS[TEST_SET]
    if published:
        for name, values in PUBLISHED.items():
            figures = dict(zip(PUBLISHED_LEVELS, values[colours], strict=True))
            cells = [f"{figures[level]:.2f}" if level in figures else "" for level in shown]
            rows.append([f"published: {name}", "68", *cells, *[""] * (len(shown) + 1)])
    else:
        notes = [*notes, "published figures are for all 68 images of CBSD68, whole: they are not shown beside these"]
    head = ["method", "images", *(f"PSNR, {level}" for level in shown), *(f"SSIM, {level}" for level in shown), "s"]
    pictures = "photographs" if options.quick or options.photos else "CBSD68"
    title = f"Denoising of {pictures} in {colours}, noise of {', '.join(map(str, shown))} of 255"
    report.table(title, head, rows, [*common_notes(options), *notes, *subset_notes(found, trained)])
    for name in trained if published else []:
        figures = dict(zip(PUBLISHED_LEVELS, PUBLISHED[RIVALS[colours]][colours], strict=True))
        gains = {level: mean(found[name][level], "psnr") - figures[level] for level in shown if level in figures}
        lines = [f"{level}: {verdict(gain, options.target)}" for level, gain in gains.items()]
        report.say(f"{name}, against {RIVALS[colours]}: {'; '.join(lines)}.")
        for level, gain in gains.items():
            report.add(f"sigma {level}", name, "gain_over_published", gain, "dB")
    report.save()


def common_notes(options: argparse.Namespace) -> list[str]:
    """Notes on how all numbers were measured."""
    cut = "whole images" if options.crop == 0 else f"images cut to {options.crop} pixels"
    return [
        f"mean over {cut}; noise of seed {options.seed}, not quantised, results clipped; networks in "
        f"{options.precision}, one for all levels",
        "s: seconds for each image, of the processor, or by the clock on a GPU",
    ]


def subset_notes(found: Levels, trained: list[str]) -> list[str]:
    """Notes on the networks on the images of methods that saw only some of them."""
    notes = []
    total = max(len(images) for levels in found.values() for images in levels.values())
    for title, levels in found.items():
        count = max(len(images) for images in levels.values())
        for name in trained if count < total else []:
            same = [f"{mean(found[name][level], 'psnr', images):.2f}" for level, images in levels.items()]
            notes.append(f"on the {count} images of {title}, {name} reaches {' / '.join(same)}")
    return notes


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_options(made, crop=0)
    made.add_argument("--photos", type=Path, metavar="FOLDER", help="any photographs, instead of CBSD68 in --data")
    made.add_argument("--grey", action="store_true", help="grey images (luma), by the same networks")
    made.add_argument("--levels", type=int, nargs="+", choices=LEVELS, default=list(LEVELS), help="noise levels (all)")
    made.add_argument("--num-images", type=int, default=68, metavar="N", help="at most so many, evenly spaced (68)")
    made.add_argument(
        "--bm3d-images", type=int, default=12, metavar="N", help="BM3D, which is slow, on so many; 0: on none (12)"
    )
    made.add_argument(
        "--target",
        type=float,
        default=0.0,
        metavar="DB",
        help="by how much to exceed what is published of DnCNN, of BM3D with grey images (0)",
    )
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    check_options(chosen, without_data=chosen.photos is not None)
    check_least(chosen, num_images=1, bm3d_images=0)
    chosen.levels = sorted(set(chosen.levels))
    if chosen.quick:
        chosen.num_images, chosen.bm3d_images, chosen.crop = 2, min(chosen.bm3d_images, 1), chosen.crop or 64
    folder = ANY if chosen.photos else BUNDLED if chosen.data is None else TEST_SET
    source = open_images(chosen.photos) if chosen.photos else open_set(chosen.data, folder)
    photos = photographs(source, folder, spread(len(source), chosen.num_images), chosen.crop)
    if chosen.grey:
        luma = torch.tensor(LUMA)[:, None, None]
        photos = [replace(photo, pixels=(luma * photo.pixels).sum(0, keepdim=True)) for photo in photos]
    device = resolve_device(chosen.device)
    trained = networks(chosen, device)
    report = Report("denoising", chosen, str(device), ["scikit-image", "torchmetrics", "bm3d", "ffdnet", "scico"])
    missing = [photo_baselines.bm3d_missing()] if chosen.bm3d_images else []
    peers = {}
    for peer in denoising_peers.PEERS:
        if chosen.grey or peer.takes_colour:
            missing.append(peer.missing())
            if missing[-1] is None:
                peers[peer.title] = Method(peer.load(1 if chosen.grey else 3), levels=peer.levels)
    methods = {**classical(chosen), **trained, **peers}
    found = measure_all(chosen, device, methods, photos, Records(report.folder, chosen.resume))
    write(report, chosen, found, list(trained), [line for line in missing if line])
    return report.finish()


if __name__ == "__main__":
    start(main, options())
