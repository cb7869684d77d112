"""How often `sample.py` notices that a measurement does not fit: wrong noise levels, kernels and priors.

The prior is the bundled VP network for clothes. Test images of Fashion-MNIST are blurred or lose three quarters of
their pixels, and the walk with momentum draws one sample of each posterior. A measurement is rejected if the chi-square
test of its residual (randomwalk/sampling/fit.py) has a p-value below the level. Rejections in the rows "right" are
false alarms.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.common import ROOT, Setup, add_fashion_mnist, add_weights, check_least, parser, start
from support.engine import Job, Record, Records, measure, sample
from support.frechet import load_split
from torch import Tensor

from randomwalk import operators
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.images.sources import open_images
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import ImageDraws, generator
from randomwalk.sampling import fit, measuring

SHAPE = (1, 32, 32)
CONFIG = ROOT / "configs" / "posterior" / "random_walk_momentum.yaml"
"""File with the settings of the walk, but for the number of levels."""
LEVELS = (fit.LEVEL, 0.01)
"""Levels of the test in the table."""
AT_ONCE = 25
"""Measurements in a batch."""


@dataclass(frozen=True)
class Case:
    """A measurement, and the sampler's assumptions about it.

    Attributes:
        operator: assumed, by name and settings.
        std: assumed noise level.
        measured: the operator of the measurement; the assumed one if None.
        noise: noise level of the measurement over the assumed one.
        images: kind of the images: those of the network, or "inverted" or "photographs".
    """

    operator: dict[str, Any]
    std: float
    measured: dict[str, Any] | None = None
    noise: float = 1.0
    images: str = "clothes"


BLUR: dict[str, Any] = {"name": "gaussian_blur", "std": 1.5}
MISSING: dict[str, Any] = {"name": "inpainting", "missing": 0.75}
CASES: dict[str, dict[str, Case]] = {
    "deblurring": {
        "right": Case(BLUR, 0.1),
        "noise stated as half": Case(BLUR, 0.05, noise=2.0),
        "noise stated as double": Case(BLUR, 0.2, noise=0.5),
        "kernel of 1.5, in truth 1 pixel": Case(BLUR, 0.1, {**BLUR, "std": 1.0}),
        "kernel of 1.5, in truth 2 pixels": Case(BLUR, 0.1, {**BLUR, "std": 2.0}),
        "inverted clothes": Case(BLUR, 0.1, images="inverted"),
        "photographs": Case(BLUR, 0.1, images="photographs"),
    },
    "random inpainting": {
        "right": Case(MISSING, 0.2),
        "noise stated as half": Case(MISSING, 0.1, noise=2.0),
        "noise stated as double": Case(MISSING, 0.4, noise=0.5),
        "inverted clothes": Case(MISSING, 0.2, images="inverted"),
        "photographs": Case(MISSING, 0.2, images="photographs"),
    },
}


def photographs(count: int) -> Tensor:
    """Grey windows of 32 x 32 pixels at random places of the bundled photographs, in 128 x 128 pixels."""
    source, draws = open_images(ROOT / "data" / "photographs"), generator(0, 0)
    whole = [source.load(i, 1, (128, 128), "crop") for i in range(len(source.names))]
    places = draws.integers(0, 97, (count, 2))
    return torch.stack([whole[k % len(whole)][:, r : r + 32, c : c + 32] for k, (r, c) in enumerate(places)])


@dataclass(frozen=True)
class Work:
    """A case with its network and images by kind, ``[N, 1, 32, 32]``."""

    case: Case
    denoiser: Denoiser
    images: dict[str, Tensor]
    walk: Mapping[str, Any]


def settings_of_walk(num_steps: int) -> dict[str, Any]:
    """Settings of the walk in `CONFIG`, with a number of levels."""
    sampler = load_sample_config(CONFIG).sampler
    schedule = sampler.schedule.model_dump(exclude={"name"}, exclude_unset=True)
    own = sampler.model_dump(exclude={"name", "schedule"}, exclude_unset=True)
    return {**own, "schedule": sampler.schedule.name, **schedule, "num_steps": num_steps}


def make_operator(settings: dict[str, Any], numbers: Sequence[int]) -> Operator:
    """Operator of these measurements, each with its own mask."""
    return operators.make(image_shape=SHAPE, generators=[generator(2, n) for n in numbers], **settings)


def do(job: Job) -> list[Record]:
    """Residual and p-value of one posterior sample of each measurement of a job."""
    work: Work = job.payload
    case, numbers = work.case, [int(item) for item in job.items]
    draws = ImageDraws([generator(1, n) for n in numbers], torch.device("cpu"))
    assumed, measured = (
        make_operator(settings, numbers) for settings in (case.operator, case.measured or case.operator)
    )
    with torch.no_grad():
        y = GaussianNoise(case.std * case.noise).apply(measured(work.images[case.images][numbers]), draws)
    given = Measurement(assumed, GaussianNoise(case.std), y)
    x, cost = sample("random_walk", work.walk, work.denoiser, given, 1, draws)
    error, known = y - assumed(x[:, 0]), measuring.known_part(assumed)
    squares = (error if known is None else error * known).square().flatten(1).sum(1)
    entries = measuring.known_entries(assumed, y).expand(len(y))
    residuals = (squares / entries).sqrt() / case.std
    return [
        {"residual": r, "p": fit.p_value(r, n), "evaluations": cost["evaluations"]}
        for r, n in zip(residuals.tolist(), entries.tolist(), strict=True)
    ]


def share(p_values: Sequence[float], level: float) -> tuple[float, float]:
    """Share of the p-values below a level, and its standard error."""
    found = float(np.mean(np.array(p_values) < level))
    return found, float(np.sqrt(found * (1 - found) / len(p_values)))


def table(setup: Setup, name: str, found: dict[str, list[Record]]) -> None:
    """Print the table of a task."""
    rows = []
    for title, records in found.items():
        p_values, residuals = [r["p"] for r in records], [r["residual"] for r in records]
        rejected = [share(p_values, level) for level in LEVELS]
        middle, factor = float(np.median(residuals)), fit.noise_factor(residuals)
        for level, one in zip(LEVELS, rejected, strict=True):
            setup.report.add(name, title, f"rejected_at_{level:g}", one, "1")
        setup.report.add(name, title, "median_residual", middle, "1")
        setup.report.add(name, title, "noise_factor", factor, "1")
        shares = [f"{100 * mean:.0f}%" for mean, _ in rejected]
        rows.append([title, *shares, f"{middle:.2f}", f"{factor:.2f}"])
    count, evaluations = len(next(iter(found.values()))), next(iter(found.values()))[0]["evaluations"]
    setup.report.table(
        name.capitalize(),
        ["assumption", *(f"rejected at {100 * level:g}%" for level in LEVELS), "median residual", "noise factor"],
        rows,
        [
            f"{count} measurements, one sample of each with {evaluations} evaluations; the noise is "
            f"{next(iter(CASES[name].values())).std:g} where it is stated rightly; network in {setup.precision}",
            f"the standard error of a share is {50 / count**0.5:.0f}% at most; none rejected means less than "
            f"{100 * (1 - 0.05 ** (1 / count)):.1f}% with 95% confidence",
            "residual: in units of the stated noise; noise factor: by which the stated level is to be multiplied, "
            "if it alone is wrong",
        ],
    )


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_weights(made, ["vp"])
    add_fashion_mnist(made)
    made.add_argument("--tasks", nargs="+", choices=list(CASES), default=list(CASES), help="only these")
    made.add_argument("--measurements", type=int, default=100, metavar="N", help="for each row (100)")
    made.add_argument("--evaluations", type=int, default=100, metavar="N", help="of each sample (100)")
    made.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the network (auto)")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure the tasks that the options name."""
    check_least(chosen, measurements=2, evaluations=2)
    if chosen.quick:
        chosen.measurements, chosen.evaluations = min(chosen.measurements, 4), min(chosen.evaluations, 10)
    clothes = load_split(chosen.fashion_mnist, "test")[0][-chosen.measurements :]
    setup = Setup.open("fit_detection", chosen, ["scipy"])
    images = {"clothes": clothes, "inverted": -clothes, "photographs": photographs(chosen.measurements)}
    walk = settings_of_walk(chosen.evaluations)
    records, denoiser = Records(setup.report.folder, chosen.resume), setup.load()["vp"]
    for name in chosen.tasks:
        config = {"precision": setup.precision, **walk}
        items = [str(n) for n in range(chosen.measurements)]
        jobs = [
            Job(name, title, {**config, "case": repr(case)}, items, Work(case, denoiser, images, walk))
            for title, case in CASES[name].items()
        ]
        found = measure(jobs, do, records, name, at_once=AT_ONCE, keep_failures=False)[name]
        table(setup, name, {title: list(images.values()) for title, images in found.items()})
    return setup.report.finish()


if __name__ == "__main__":
    start(main, options())
