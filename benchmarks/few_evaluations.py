"""Restoration with few network evaluations: PSNR of four samplers, beside the paper's 750 steps.

The walk has the settings of configs/fashion/vp_inpainting.yaml and vp_super_resolution.yaml beside it, the others
those of configs/posterior/NAME.yaml; only the number of steps changes. Evaluations are counted in forward passes: one
for each of the denoiser, and two for each vector-Jacobian product, which is what its backward pass takes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

import bundled_weights
import inverse_problems
import torch
from support.common import Setup, add_restoring, add_weights, bar, cell, check_num_images, parser, start

from randomwalk.config import SampleConfig
from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.batch import SampleId
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

PROBLEMS = {"inpainting": "random_inpainting", "super_resolution": "super_resolution"}
"""Names of the default config and of the task in configs/posterior."""
WALK = "random_walk_preconditioned"
SAMPLERS = (WALK, "diffpir", "ddnm_plus", "mmps")
BUDGETS = (5, 10, 20, 50, 100)
PAPER = "the paper's walk"
FORWARD_PASSES = 2
"""Cost of a vector-Jacobian product, in forward passes."""

Psnr = tuple[float, float]
"""Mean and standard error over the images."""


def config_of(setup: Setup, sampler: str, problem: str) -> SampleConfig:
    """The settings of a sampler, with our images and one sample of each."""
    if sampler == PAPER:
        return bundled_weights.papers_setting(setup, "vp", problem)
    if sampler == WALK:
        return bundled_weights.load_config(setup, f"fashion/vp_{problem}", "vp")
    return inverse_problems.load_config(setup, inverse_problems.Method(sampler), PROBLEMS[problem], {"num_samples": 1})


def with_steps(config: SampleConfig, steps: int) -> SampleConfig:
    """The same settings with another number of noise levels."""
    schedule = config.sampler.schedule.model_copy(update={"num_steps": steps})
    sampler = config.sampler.model_copy(update={"schedule": schedule})
    return config.model_copy(update={"sampler": sampler})


def cost_of_a_step(config: SampleConfig) -> int:
    """Forward passes for each noise level."""
    settings = config.sampler.model_dump()
    return 1 + FORWARD_PASSES * (settings["iterations"] + 1) if settings["name"] == "mmps" else 1


def restored(task: Task) -> tuple[Psnr, int]:
    """PSNR of the images of a task, and how many forward passes each took.

    Raises:
        RunError: the sampler diverges.
    """
    images = range(len(task.images))
    truth = torch.stack([task.load_image(image) for image in images]).to(task.device)
    batch = task.sample([SampleId(image, 0) for image in images], truth)
    psnr = metrics.mean_and_error(metrics.psnr(batch.x, truth).tolist())
    return psnr, batch.evaluations + FORWARD_PASSES * batch.vjps


def measure(setup: Setup, problem: str) -> dict[str, dict[int, Psnr]]:
    """PSNR by sampler and number of forward passes; a table of it."""
    jobs = [(PAPER, 0)] + [(sampler, budget) for sampler in SAMPLERS for budget in setup.options.budgets]
    found: dict[str, dict[int, Psnr]] = {}
    with bar(len(jobs), problem.replace("_", "-"), "runs") as tick:
        for sampler, budget in jobs:
            config = config_of(setup, sampler, problem)
            if budget:
                steps = budget // cost_of_a_step(config)
                if steps < 2:
                    tick()
                    continue
                config = with_steps(config, steps)
            try:
                psnr, passes = restored(load_task(config, setup.device))
            except RunError:
                tick(1, f"{sampler} diverges")
                continue
            found.setdefault(sampler, {})[passes] = psnr
            setup.report.add(problem, f"{sampler}, {passes} forward passes", "psnr", psnr, "dB")
            setup.report.save()
            tick(1, f"{sampler} {passes}: {psnr[0]:.2f} dB")
    rows = [
        [sampler, str(passes), cell(psnr)] for sampler, curve in found.items() for passes, psnr in sorted(curve.items())
    ]
    setup.report.table(
        problem.replace("_", "-").capitalize(),
        ["sampler", "forward passes", "PSNR (dB)"],
        rows,
        [f"single samples, mean over {setup.num_images} test images ± standard error; VP network, {setup.precision}"],
    )
    return found


def draw(found: Mapping[str, Mapping[str, Mapping[int, Psnr]]], folder: RunFolder) -> None:
    """The curves of all problems, few_evaluations.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.6 * len(found), 8), 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (problem, curves) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for sampler, curve in curves.items():
            passes = sorted(curve)
            means = [curve[n][0] for n in passes]
            if sampler == PAPER:
                axis.axhline(means[0], color="0.5", linestyle="--", label=f"{sampler}, {passes[0]} steps")
            else:
                axis.errorbar(passes, means, [curve[n][1] for n in passes], marker="o", capsize=2, label=sampler)
        axis.set(xscale="log", xlabel="forward passes for each image", title=problem.replace("_", "-"))
        passes = sorted({n for name, curve in curves.items() if name != PAPER for n in curve})
        ticks = [n for n, after in zip(passes, [*passes[1:], math.inf], strict=True) if after > 1.2 * n]
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("PSNR (dB), mean ± standard error")
    lines = first.get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside lower center", ncols=len(lines[0]), frameon=False)
    folder.write("few_evaluations.png", lambda file: figure.savefig(file, format="png"))


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_weights(made, ["vp"])
    made.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), help="only these")
    made.add_argument(
        "--budgets", nargs="+", type=int, metavar="N", default=list(BUDGETS), help=f"forward passes {BUDGETS}"
    )
    add_restoring(made, 16)
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure and draw."""
    check_num_images(chosen)
    if min(chosen.budgets) < 2:
        raise InputError(f"--budgets {min(chosen.budgets)}: expected 2 or more")
    if chosen.quick:
        chosen.budgets = [5, 10]
    setup = Setup.open("few_evaluations", chosen, ["torchmetrics"])
    draw({problem: measure(setup, problem) for problem in chosen.problems}, setup.report.folder)
    return setup.report.finish()


if __name__ == "__main__":
    start(main, options())
