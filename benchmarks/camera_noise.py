"""How often the noise of a picture is taken for that of a camera, which decides between `path` and `camera_path`.

White noise should nearly never be, and noise that has been through demosaicking or JPEG should be. The pictures are
those of `support/strangers.py`, made without the library. No network is used.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from support import strangers
from support.common import ROOT, Report, check_least, parser, start
from support.photographs import spread
from support.strangers import Stranger

from randomwalk.images.noise_whiteness import CAMERA, colour_ratio, is_camera_noise
from randomwalk.images.sources import open_images
from randomwalk.rng import generator

Make = Callable[[np.ndarray, int, np.random.Generator], Stranger]


def kinds() -> dict[str, Make]:
    """Ways to make a noisy picture, by name: ``make(photo, side, draws)``."""
    given = [(sigma, "white") for sigma in (2, 3, 5, 10, 15, 25, 35, 50)]
    given += [(sigma, "demosaicked") for sigma in (5, 10, 25)]
    given += [(sigma, f"jpeg {quality}") for sigma in (10, 25) for quality in (95, 85, 60)]
    given += [(25, "jpeg 95 4:4:4"), (10, "resized"), (0, "white"), (0, "jpeg 85")]
    made: dict[str, Make] = {
        f"noise {sigma}, {kind}": partial(strangers.noisy_photograph, noise=sigma, kind=kind) for sigma, kind in given
    }
    for photons, quality in ((4000, 95), (1000, 90), (300, 85)):
        make = partial(strangers.camera_photograph, photons=photons, read=3, quality=quality)
        made[f"camera, {photons} photons, JPEG {quality}"] = make
    return made


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    check_least(options, num_images=1, crop=128, seed=0)
    options.num_images = min(options.num_images, 3) if options.quick else options.num_images
    source = open_images(options.data or ROOT / "data" / "photographs")
    photos = [source.pixels(k, 3).astype(float) for k in spread(len(source), options.num_images)]
    report, rows = Report("camera_noise", options, "cpu", ["scipy", "pillow"]), []
    for name, make in kinds().items():
        seen: list[torch.Tensor] = []
        for k, photo in enumerate(photos):
            side = min(options.crop, *(length // 8 * 8 for length in photo.shape[:2]))
            side = round(0.7 * side) // 8 * 8 if "resized" in name else side
            y = make(photo, side, generator(options.seed, k)).before
            seen.append(torch.from_numpy(y / 127.5 - 1).permute(2, 0, 1).float())
        ratios = [ratio for y in seen if (ratio := colour_ratio(y)) is not None]
        share = statistics.fmean(is_camera_noise(y) for y in seen)
        report.add(name, "rule", "taken for a camera's", share, "1")
        quantiles = np.quantile(ratios, [0, 0.5, 1]) if ratios else [float("nan")] * 3
        rows.append([name, f"{share:.1%}", *(f"{value:.3f}" for value in quantiles), str(len(seen) - len(ratios))])
    head = ["noise", "taken for a camera's", "least ratio", "median", "largest", "undecided"]
    notes = [
        f"{len(photos)} photographs, cut to at most {options.crop} pixels; the ratio is that of `colour_ratio`, and "
        f"counts as a camera's below {CAMERA:g}",
        "undecided: without noise in the quiet parts; such pictures are taken for white noise",
    ]
    report.table("Noise taken for that of a camera", head, rows, notes)
    return report.finish()


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="photographs (those of this repository)")
    made.add_argument("--num-images", type=int, default=1000, metavar="N", help="at most so many, evenly spaced (1000)")
    made.add_argument("--crop", type=int, default=256, metavar="N", help="longest side of the pictures (256)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    return made


if __name__ == "__main__":
    start(main, options())
