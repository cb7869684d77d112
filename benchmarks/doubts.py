"""The noise level in restored photographs: the residual in even areas, told the right level, half of it and twice it.

Photographs are degraded, stored in 8 bits, and restored by the walk of configs/photo_*.yaml. A row gives the range of
the residual with each level, in units of the level that was told, and how often there is a warning that it is wrong, by
the bounds of randomwalk/sampling/doubts.py. A level below the lowest one of the walk changes nothing but blurs, so that
no warning is counted there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from support.common import Report, add_restoring, bar, check_least, parser, resolve_precision, start
from support.photo_methods import restore
from support.photo_plan import default_walk
from support.photo_problems import MULTIPLE, SAMPLER, Case, Problem, make_problem
from support.photographs import BUNDLED, VALIDATION, add_network, load_model, open_set, photographs, spread
from torch import Tensor

from randomwalk.config.operators import OperatorSettings, blurs_of
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.errors import InputError
from randomwalk.images.sources import open_images
from randomwalk.operators.noise import GaussianNoise
from randomwalk.sampling import doubts, measuring
from randomwalk.sampling.batch import Batch, SampleId

OPERATORS: Mapping[str, Mapping[str, Any]] = {
    "80% missing": {"name": "inpainting", "mask": "random", "missing": 0.8},
    "50% missing": {"name": "inpainting", "mask": "random", "missing": 0.5},
    "20% missing": {"name": "inpainting", "mask": "random", "missing": 0.2},
    "boxes missing": {"name": "inpainting", "mask": "boxes", "count": 4, "size": 32},
    "x2": {"name": "super_resolution", "factor": 2},
    "x4": {"name": "super_resolution", "factor": 4},
    "Gaussian blur": {"name": "gaussian_blur", "std": 1.6, "boundary": "unknown"},
    "motion blur": {"name": "motion_blur", "length": 9.0, "angle": 30.0, "boundary": "unknown"},
}
NOISE = (2.0, 5.0, 10.0)
"""Standard deviations, of 255."""
TOLD = {"right": 1.0, "half": 0.5, "twice": 2.0}
"""Factors of the level that the walk is told."""


def settings_of(operator: Mapping[str, Any]) -> OperatorSettings:
    """The operator as a config declares it; of a mask that only the benchmarks draw, the name alone."""
    boxes = operator.get("mask") == "boxes"
    known = {"name": operator["name"], "mask": "beside"} if boxes else operator
    found: OperatorSettings = TypeAdapter(OperatorSettings).validate_python(dict(known))
    return found


def in_8_bits(y: Tensor) -> Tensor:
    """The measurement as a picture of 8 bits holds it."""
    return ((y + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def residual_and_doubt(
    problem: Problem, x: Tensor, settings: OperatorSettings, lowest: float
) -> tuple[float, bool] | None:
    """Residual in even areas of a restored image, and whether a run warns of it; None without even areas."""
    batch = Batch([SampleId(0, 0)], x, measurement=problem.y, noise_std=problem.noise.std)
    found = measuring.even_residuals(problem.operator, batch)
    if found is None or found[0] is None:
        return None
    batch.even_residuals = found
    known = measuring.known_part(problem.operator)
    bounds = doubts.bounds_of(settings, None if known is None else measuring.crowding(known)[0])
    return found[0], bounds is not None and doubts.of_noise(batch, 0, bounds, lowest) != ""


def main(options: argparse.Namespace) -> int:
    """Restore, count the warnings, and report."""
    check_least(options, num_images=1)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    denoiser = load_model(options.network, device, precision)
    if options.quick:
        photos = photographs(open_set(None, BUNDLED), BUNDLED, [0], 64, MULTIPLE)
    elif options.data is None:
        raise InputError("--data: is needed, a folder of photographs (--quick does without)")
    else:
        source = open_images(options.data)
        photos = photographs(source, VALIDATION, spread(len(source), options.num_images), options.crop, MULTIPLE)
    report = Report("doubts", options, str(device))
    report.settings["precision"] = precision
    walk = default_walk("photo_deblur.yaml", 4 if options.quick else 24)
    chosen = {title: OPERATORS[title] for title in options.degradations or OPERATORS}
    rows, tries = [], len(chosen) * len(NOISE) * len(TOLD)
    with bar(tries * len(photos), "restorations", unit="restorations") as tick:
        for title, operator in chosen.items():
            settings = settings_of(operator)
            lowest = 0.0 if blurs_of(settings) else walk["sigma_min"]
            for noise in NOISE:
                case, cells = Case(title, title, operator, noise), [title, f"{noise:g}"]
                for name, factor in TOLD.items():
                    told, found = GaussianNoise(factor * noise * 2 / 255), []
                    for photo in photos:
                        tick()
                        problem = make_problem(case, photo, options.seed).to(device)
                        problem = replace(problem, y=in_8_bits(problem.y), noise=told)
                        draws = photo.draws(options.seed, SAMPLER)
                        x = restore("random_walk", walk, problem, denoiser, draws).x
                        found.append(residual_and_doubt(problem, x, settings, lowest))
                    residuals = [one[0] for one in found if one is not None]
                    warnings = sum(one[1] for one in found if one is not None)
                    matters = told.std >= lowest
                    rate = f"{warnings} of {len(residuals)}" if matters else "-"
                    cells += [f"{min(residuals):.3f} to {max(residuals):.3f}" if residuals else "-", rate]
                    if residuals and matters:
                        report.add(f"{title}, noise {noise:g}", name, "warnings", warnings / len(residuals), "share")
                rows.append(cells)
    head = ["degradation", "noise"] + [f"{name}{what}" for name in TOLD for what in ("", ": warned")]
    report.table(f"{len(photos)} photographs", head, rows)
    return report.finish()


def options() -> argparse.ArgumentParser:
    """Its options."""
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="photographs; --quick takes one of this repository")
    made.add_argument("--crop", type=int, default=128, metavar="N", help="side of the pictures (128)")
    made.add_argument("--degradations", nargs="+", choices=list(OPERATORS), metavar="NAME", help="only these (all)")
    add_restoring(made, 10)
    add_network(made)
    return made


if __name__ == "__main__":
    start(main, options())
