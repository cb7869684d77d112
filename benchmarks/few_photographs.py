"""Restoration of photographs with few evaluations of the network: PSNR and LPIPS of four methods, and their figure.

The methods are given the same start, interpolated y, and the same network, which sees the picture turned another way at
each step. All are tried at the same numbers of evaluations; levels are geometric and end at the noise.

* walk: the settings of configs/photo_deblur.yaml, which are those of the other restoring configs
* DPIR: the walk with c = 1, kappa = 0 and lambda = 0.23 s^2 / p^2, from 49 of 255, without noise in the start
* DiffPIR: lambda = 1, zeta = 0.5, which were the best of several on validation photographs
* multistep: DPM-Solver++(2M) with noise (that of its SDE), whose denoised images are pulled to y as the walk's are
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from support.common import Report, add_restoring, bar, cell, parser, resolve_precision, start
from support.perceptual import add_alexnet, lpips, lpips_missing
from support.photo_problems import Case, Problem, make_problem
from support.photographs import ROOT, VALIDATION, add_network, in_pixels, load_model, photographs, spread
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import turning
from randomwalk.errors import InputError
from randomwalk.images import metrics
from randomwalk.images.sources import open_images
from randomwalk.operators import Measurement
from randomwalk.rng import ImageDraws
from randomwalk.runs.folder import RunFolder
from randomwalk.samplers import RandomWalk
from randomwalk.samplers.sampler import pairs

BUDGETS = (4, 8, 12, 16, 24, 40)
CASES = (
    Case("random_inpainting", "80% missing", {"name": "inpainting", "mask": "random", "missing": 0.8}, 10),
    Case("super_resolution_x4", "x4", {"name": "super_resolution", "factor": 4}, 2),
    Case("gaussian_blur", "Gaussian blur", {"name": "gaussian_blur", "std": 1.6}, 2),
    Case("motion_blur", "motion blur", {"name": "motion_blur", "length": 9.0, "angle": 30.0}, 10),
)
HIGHEST = in_pixels(49)
"""First level of DPIR."""
LAST = RandomWalk.LAST


def default_walk() -> RandomWalk:
    """The sampler of the configs for photographs."""
    settings = load_sample_config(ROOT / "configs" / "photo_deblur.yaml").sampler
    made = samplers.from_settings(settings)
    assert isinstance(made, RandomWalk)
    return made


def geometric(first: float, last: float, count: int) -> list[float]:
    """``count`` levels; the last one alone if it is one."""
    return torch.logspace(math.log10(first), math.log10(last), count, dtype=torch.float64).tolist()


def by_walk(problem: Problem, denoiser: Denoiser, draws: ImageDraws, evaluations: int) -> Tensor:
    """The walk of the configs."""
    walk, given = default_walk(), Measurement(problem.operator, problem.noise, problem.y)
    assert walk.schedule is not None
    first, last = walk.schedule.sigma_max, walk.schedule.sigma_min
    assert first is not None and last is not None
    begin = problem.operator.interpolated(problem.y)
    begin = begin + first * draws.normal(begin.shape[1:])
    return walk.sample(denoiser, geometric(first, last, evaluations - 1), given, start=begin, draws=draws)


def by_dpir(problem: Problem, denoiser: Denoiser, draws: ImageDraws, evaluations: int) -> Tensor:
    """Half-quadratic splitting."""
    levels = geometric(HIGHEST, max(problem.noise.std, 0.012), evaluations)
    walk = default_walk().model_copy(
        update={
            "step_scale": 1.0,
            "kappa": 0.0,
            "prior_weight": 0.23 * (levels[0] / levels[1]) ** 2,
            "down_to_noise": False,
        }
    )
    begin = problem.operator.interpolated(problem.y)
    given = Measurement(problem.operator, problem.noise, problem.y)
    return walk.sample(denoiser, levels[:-1], given, start=begin, draws=draws)


def by_diffpir(problem: Problem, denoiser: Denoiser, draws: ImageDraws, evaluations: int) -> Tensor:
    """DiffPIR."""
    levels = geometric(0.5, max(problem.noise.std, 0.012), evaluations)
    begin = problem.operator.interpolated(problem.y)
    begin = begin + levels[0] * draws.normal(begin.shape[1:])
    sampler = samplers.make("diffpir", strength=1.0, stochasticity=0.5)
    given = Measurement(problem.operator, problem.noise, problem.y)
    with turning(denoiser) as turned:
        return sampler.sample(turned, levels, given, start=begin, draws=draws)


def by_multistep(problem: Problem, denoiser: Denoiser, draws: ImageDraws, evaluations: int) -> Tensor:
    """SDE-DPM-Solver++(2M) with the proximal map of the denoised image, by the walk's lambda, in the place of D.

        x' = p^2 / s^2 x + (1 - p^2 / s^2) D~ + p sqrt(1 - p^2 / s^2) n

    Source: Lu et al. 2022, arXiv 2211.01095, section 4.3. Without the noise both PSNR and LPIPS are worse.
    """
    levels = geometric(0.5, max(problem.noise.std, 0.012), evaluations - 1)
    x = problem.operator.interpolated(problem.y)
    x = x + levels[0] * draws.normal(x.shape[1:])
    previous: tuple[float, Tensor] | None = None
    with turning(denoiser) as turned, torch.no_grad():
        for sigma, sigma_next in pairs(levels):
            following = sigma_next or sigma * levels[-1] / levels[-2]
            r = 2 * following / math.sqrt(RandomWalk.WEIGHT)  # s / sqrt(lambda)
            clean = problem.operator.proximal(
                turned(x, sigma), problem.y, problem.noise.std, r, tolerance=0.1, iterations=20
            )
            if previous is not None and sigma_next > 0:
                ratio = math.log(sigma / sigma_next) / (2 * math.log(previous[0] / sigma))
                ahead = clean + ratio * (clean - previous[1])
            else:
                ahead = clean
            kept = (sigma_next / sigma) ** 2
            x = kept * x + (1 - kept) * ahead
            if sigma_next > 0:
                x = x + sigma_next * math.sqrt(1 - kept) * draws.normal(x.shape[1:])
            previous = (sigma, clean)
        return turned(x, max(LAST * levels[-1], denoiser.sigma_min))


METHODS: dict[str, Callable[[Problem, Denoiser, ImageDraws, int], Tensor]] = {
    "walk": by_walk,
    "DPIR": by_dpir,
    "DiffPIR": by_diffpir,
    "multistep": by_multistep,
}
Found = dict[str, dict[str, dict[int, dict[str, float]]]]
"""Means over the photographs by case, method, evaluations and metric."""


def measure(options: argparse.Namespace, report: Report, device: torch.device) -> Found:
    """All methods at all numbers of evaluations."""
    denoiser = load_model(options.network, device, resolve_precision(options.precision, device))
    source = open_images(options.photographs)
    photos = photographs(source, VALIDATION, spread(len(source), options.num_images), options.crop, 4)
    missing = lpips_missing(options.alexnet)
    if missing:
        report.say(missing)
    found: Found = {}
    with bar(len(CASES) * len(METHODS) * len(options.budgets), "few", "runs") as tick:
        for case in CASES:
            problems = [make_problem(case, photo, options.seed).to(device) for photo in photos]
            for name, method in METHODS.items():
                for budget in options.budgets:
                    ends = [
                        method(one, denoiser, photo.draws(options.seed, 1), budget).cpu()
                        for one, photo in zip(problems, photos, strict=True)
                    ]
                    judged = {
                        "psnr": [float(metrics.psnr(x, p.truth.cpu())) for x, p in zip(ends, problems, strict=True)]
                    }
                    if not missing:
                        judged["lpips"] = [
                            lpips(x, p.truth, options.alexnet) for x, p in zip(ends, problems, strict=True)
                        ]
                    means = {metric: sum(values) / len(values) for metric, values in judged.items()}
                    found.setdefault(case.name, {}).setdefault(name, {})[budget] = means
                    for metric, value in means.items():
                        report.add(case.name, f"{name}, {budget} evaluations", metric, value, METRICS[metric])
                    report.save()
                    tick(1, f"{case.title}, {name} {budget}: {means['psnr']:.2f} dB")
    return found


METRICS = {"psnr": "dB", "lpips": "1"}
LABELS = {"psnr": "PSNR (dB)", "lpips": "LPIPS (AlexNet)"}


def tables(report: Report, found: Found, budgets: Sequence[int]) -> None:
    """PSNR and LPIPS, a table of each."""
    for metric, digits in (("psnr", 2), ("lpips", 3)):
        rows = [
            [case, method, *(cell(curve[n][metric], digits) for n in budgets)]
            for case, by_method in found.items()
            for method, curve in by_method.items()
            if metric in curve[budgets[0]]
        ]
        if rows:
            report.table(LABELS[metric], ["case", "method", *map(str, budgets)], rows)


def draw(found: Found, folder: RunFolder) -> None:
    """A row of curves for each metric, few_photographs.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_method = next(iter(found.values()))
    curve = next(iter(by_method.values()))
    metrics_there = list(next(iter(curve.values())))
    figure = Figure(figsize=(3.1 * len(found), 2.6 * len(metrics_there) + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(metrics_there), len(found), squeeze=False, sharex=True)
    for metric, row in zip(metrics_there, axes, strict=True):
        for axis, (case, by_method) in zip(row, found.items(), strict=True):
            for method, curve in by_method.items():
                axis.plot(list(curve), [one[metric] for one in curve.values()], marker="o", markersize=3, label=method)
            budgets = list(next(iter(by_method.values())))
            axis.set_xscale("log")
            axis.set_xticks(budgets, [str(n) for n in budgets])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if metric == metrics_there[0]:
                axis.set_title(case.replace("_", " "), fontsize=9)
            if metric == metrics_there[-1]:
                axis.set_xlabel("evaluations")
        row[0].set_ylabel(LABELS[metric])
    lines = axes[0, 0].get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside lower center", ncols=len(lines[0]), frameon=False)
    folder.write("few_photographs.png", lambda file: figure.savefig(file, format="png"))


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_restoring(made, 4)
    add_alexnet(made)
    made.add_argument(
        "--photographs", type=Path, default=ROOT / "data" / "photographs", metavar="FOLDER", help="of photographs"
    )
    made.add_argument("--crop", type=int, default=96, metavar="N", help="cut them at the centre to N pixels (96)")
    made.add_argument(
        "--budgets", nargs="+", type=int, default=list(BUDGETS), metavar="N", help=f"evaluations {BUDGETS}"
    )
    add_network(made)
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure, print and draw."""
    if min(chosen.budgets) < 3:
        raise InputError(f"--budgets {min(chosen.budgets)}: expected 3 or more")
    if chosen.quick:
        chosen.budgets, chosen.num_images, chosen.crop = [4, 8], 1, 64
    chosen.budgets = sorted(set(chosen.budgets))
    device = resolve_device(chosen.device)
    report = Report("few_photographs", chosen, str(device), ["torchmetrics"])
    found = measure(chosen, report, device)
    tables(report, found, chosen.budgets)
    draw(found, report.folder)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
