"""Quality of the bundled networks: denoising, inpainting, super-resolution, and new images.

The first three are measured on the images of data/fashion_mnist, which no network was trained on, beside classical
methods; new images by their Frechet distance to the test set in the features of a classifier that is trained here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from support import baselines, unconditional
from support.common import (
    NETWORKS,
    ROOT,
    Setup,
    add_fashion_mnist,
    add_restoring,
    add_weights,
    bar,
    cell,
    check_least,
    check_num_images,
    parser,
    start,
    verdict,
)
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.errors import InputError
from randomwalk.images import metrics
from randomwalk.images.sheets import Row, overview
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_bytes
from randomwalk.operators import Inpainting
from randomwalk.rng import ImageDraws, measurement_stream
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

SIGMAS = (0.1, 0.25, 0.5, 1.0)
PROBLEMS = {
    "inpainting": ("Inpainting, 75% missing, noise 0.2", 3.0),
    "super_resolution": ("Super-resolution x4, noise 0.2", 2.0),
}
"""Title, and by how many dB the walk should be better than the first of the classical methods."""

SHOWN = 8
"""Number of images in the figures."""


# --- denoising -----------------------------------------------------------------------------------------------


def denoising(setup: Setup) -> None:
    """PSNR of D(x, sigma) beside total variation and non-local means; image i's noise is drawn from (seed, i)."""
    source = open_images(ROOT / "data" / "fashion_mnist")
    truth = torch.stack([source.load(i, 1, (32, 32), "pad") for i in range(setup.num_images)])
    draws = ImageDraws([measurement_stream(setup.options.seed, i) for i in range(len(truth))])
    psnr: dict[str, list[list[float]]] = {}
    chosen = []
    with bar(len(SIGMAS) * (2 + len(setup.weights)), "denoising") as tick:
        loaded = {NETWORKS[n]: denoiser for n, denoiser in setup.load().items()}
        for sigma in SIGMAS:
            noisy = truth + sigma * draws.normal(truth.shape[1:])
            for name, denoiser in loaded.items():
                with torch.inference_mode():
                    parts = [denoiser(x.to(setup.device), sigma).cpu() for x in noisy.split(64)]
                psnr.setdefault(name, []).append(metrics.psnr(torch.cat(parts), truth).tolist())
                tick()
            for name, best in (
                ("total variation", baselines.best_tv(noisy, truth, sigma)),
                ("non-local means", baselines.best_nl_means(noisy, truth, sigma, setup.quick)),
            ):
                psnr.setdefault(name, []).append(best.psnr)
                chosen.append(f"{name} at {sigma:g}, the best of {best.tried}: {dict(best.settings)}")
                tick()
    setup.report.settings["denoising_baselines"] = chosen
    _denoising_table(setup, psnr, len(truth))


def _denoising_table(setup: Setup, psnr: Mapping[str, list[list[float]]], count: int) -> None:
    rows = []
    for name, by_sigma in psnr.items():
        values = [metrics.mean_and_error(images) for images in by_sigma]
        rows.append([name, *map(cell, values)])
        for sigma, value in zip(SIGMAS, values, strict=True):
            setup.report.add(f"denoising, sigma {sigma:g}", name, "psnr", value, "dB")
    at = SIGMAS.index(0.5)
    classical = max(sum(psnr[name][at]) / count for name in ("total variation", "non-local means"))
    notes = [
        f"mean over {count} test images ± standard error, sigma on [-1, 1], data range 2, results clipped; "
        f"networks in {setup.precision}",
        "total variation and non-local means (scikit-image) have the settings that are best on these very images, "
        "which favours them",
    ]
    for n in setup.weights:
        gain = sum(psnr[NETWORKS[n]][at]) / count - classical
        notes.append(f"{NETWORKS[n]} over the better of the two at sigma 0.5: {verdict(gain, 3)}")
    setup.report.table("Denoising: PSNR (dB)", ["method", *(f"sigma {s:g}" for s in SIGMAS)], rows, notes)


# --- inpainting and super-resolution ---------------------------------------------------------------------------


@dataclass
class Restored:
    """Images restored by a method; ``x [N, S, C, H, W]`` has S samples of each."""

    x: Tensor
    evaluations: int = 0

    def qualities(self, truth: Tensor) -> dict[str, list[float]]:
        """PSNR and SSIM of every image, averaged over its samples."""
        flat, wanted = self.x.flatten(0, 1), truth.repeat_interleave(self.x.shape[1], 0)
        return {
            name: measure(flat, wanted).unflatten(0, self.x.shape[:2]).mean(1).tolist()
            for name, measure in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
        }


def best_setting(setup: Setup, network: str, problem: str) -> SampleConfig:
    """The walk with the settings of configs/fashion/{network}_{problem}.yaml."""
    return load_config(setup, f"fashion/{network}_{problem}", network, num_samples=2 if setup.quick else 4)


def load_config(setup: Setup, name: str, network: str, **changes: Any) -> SampleConfig:
    """A file of configs/ with our network, images and batch size."""
    return setup.load_config(name, network, {"data.fit": "pad", "batch_size": 64, **changes})


def papers_setting(setup: Setup, network: str, problem: str) -> SampleConfig:
    """The same measurement with the sampler and the start of the paper, within the range of our network."""
    config = load_config(setup, f"fashion/{network}_{problem}", network)
    paper = load_config(setup, f"ffhq256/{network}_{problem}", network)
    schedule: dict[str, Any] = {"sigma_min": None, "sigma_max": None}
    if setup.quick:
        schedule["num_steps"] = 50
    sampler = paper.sampler.model_copy(update={"schedule": paper.sampler.schedule.model_copy(update=schedule)})
    return config.model_copy(update={"sampler": sampler, "start": paper.start})


def run_task(task: Task, tick: Callable[[int], object]) -> tuple[Restored, Tensor, Tensor]:
    """All samples of a task, the true images and the measurements."""
    x, evaluations, truths, measurements = [], 0, {}, {}
    for units in task.batches():
        truth = torch.stack([task.load_image(unit.image) for unit in units]).to(task.device)
        batch = task.sample(units, truth, lambda k, x, sigma, probe: tick(len(x)))
        assert batch.measurement is not None
        x.append(batch.x.cpu())
        evaluations = batch.evaluations
        for row, unit in enumerate(units):
            truths[unit.image], measurements[unit.image] = truth[row].cpu(), batch.measurement[row].cpu()
    samples = torch.cat(x).unflatten(0, (len(task.images), task.config.num_samples))
    restored = Restored(samples, evaluations)
    return restored, torch.stack(list(truths.values())), torch.stack(list(measurements.values()))


def restoration(setup: Setup, problem: str) -> None:
    """Both networks with two settings of the walk each, beside the classical methods."""
    tasks: dict[str, Task] = {}
    for n in setup.weights:
        tasks[f"{NETWORKS[n]}, best setting"] = load_task(best_setting(setup, n, problem), setup.device)
        if not setup.options.no_paper:
            tasks[f"{NETWORKS[n]}, the paper's"] = load_task(papers_setting(setup, n, problem), setup.device)
    methods: dict[str, Restored] = {}
    truth = measurement = torch.empty(0)
    work = sum(task.num_steps * len(task.images) * task.config.num_samples for task in tasks.values())
    with bar(work, problem.replace("_", "-"), "evaluations") as tick:
        for name, task in tasks.items():
            restored, truth, y = run_task(task, tick)
            if len(measurement) and not torch.equal(y, measurement):
                raise InputError(f"configs/fashion/*_{problem}.yaml: differ in measurement; expected the same in both")
            measurement = y
            methods[name] = restored
            if (count := restored.x.shape[1]) > 1:
                mean = restored.x.clamp(-1, 1).mean(1, keepdim=True)
                methods[f"{name}, mean of {count}"] = Restored(mean, restored.evaluations * count)
    classical, chosen = _classical(next(iter(tasks.values())), measurement, truth)
    setup.report.settings[problem] = {name: task.config.sampler.model_dump() for name, task in tasks.items()}
    _restoration_table(setup, problem, {**classical, **methods}, truth, chosen)
    _restoration_picture(setup, problem, {**classical, **methods}, truth, measurement)


def _classical(task: Task, y: Tensor, truth: Tensor) -> tuple[dict[str, Restored], str]:
    """The baseline first, then other ways to do without a network; and the weight of the total variation."""
    operator, _ = task.measurements.operator_of(range(len(truth)))
    operator.cpu()
    if isinstance(operator, Inpainting):
        found = {"biharmonic inpainting": baselines.biharmonic(y, operator.mask)}
    else:
        bicubic = F.interpolate(y, truth.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)
        found = {"bicubic interpolation": bicubic, "pseudo-inverse": operator.pinv(y).clamp(-1, 1)}
    name, baseline = next(iter(found.items()))
    best = baselines.best_tv(baseline, truth, task.measurements.noise.std)
    found[f"{name}, then total variation"] = baselines.apply(baselines.tv(), baseline, **best.settings)
    return {name: Restored(x[:, None]) for name, x in found.items()}, f"{best.settings['weight']:g}"


def _restoration_table(
    setup: Setup, problem: str, methods: Mapping[str, Restored], truth: Tensor, tv_weight: str
) -> None:
    quality = {name: restored.qualities(truth) for name, restored in methods.items()}
    baseline = next(iter(methods))
    title, target = PROBLEMS[problem]
    rows, verdicts = [], []
    for name, restored in methods.items():
        gain = [a - b for a, b in zip(quality[name]["psnr"], quality[baseline]["psnr"], strict=True)]
        psnr, ssim, over = map(metrics.mean_and_error, (quality[name]["psnr"], quality[name]["ssim"], gain))
        shown_gain = "" if name == baseline else cell(over)
        rows.append([name, f"{restored.evaluations}", cell(psnr), shown_gain, cell(ssim, 3)])
        setup.report.add(problem, name, "psnr", psnr, "dB")
        setup.report.add(problem, name, "ssim", ssim, "1")
        if name != baseline:
            setup.report.add(problem, name, f"psnr_over_{baseline.replace(' ', '_')}", over, "dB")
        if restored.evaluations:
            setup.report.add(problem, name, "evaluations", restored.evaluations, "1")
            if "mean of" not in name:
                verdicts.append(f"{name}, over {baseline}: {verdict(over[0], target)}")
    setup.report.table(
        title,
        ["method", "evaluations", "PSNR (dB)", "gain (dB)", "SSIM"],
        rows,
        [
            f"mean over {len(truth)} test images ± standard error; the gain is over {baseline}; `mean of n` is the "
            "mean image of n samples, the row above it the mean quality of single samples",
            f"best setting: configs/fashion/*_{problem}.yaml; the paper's: configs/ffhq256/*_{problem}.yaml with the "
            f"same measurement{', with 50 steps only' if setup.quick else ''}; networks in {setup.precision}",
            f"total variation has the weight that is best on these very images ({tv_weight})",
            *verdicts,
            "the target is for single samples of the best setting",
        ],
    )


def _restoration_picture(
    setup: Setup, problem: str, methods: Mapping[str, Restored], truth: Tensor, measurement: Tensor
) -> None:
    factor = truth.shape[-1] // measurement.shape[-1]
    seen = measurement.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    shown = {"truth": truth, "measurement": seen, **{name: restored.x[:, 0] for name, restored in methods.items()}}
    rows = [Row(name, list(to_bytes(x[:SHOWN]))) for name, x in shown.items()]
    setup.report.folder.write_image(f"{problem}.png", overview(rows, side=64))


# --- the script ----------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Setup], None]] = {
    "denoising": denoising,
    "inpainting": lambda setup: restoration(setup, "inpainting"),
    "super_resolution": lambda setup: restoration(setup, "super_resolution"),
    "unconditional": lambda setup: unconditional.measure(setup),
}


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="do only these")
    add_weights(made)
    made.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="only these")
    add_restoring(made, 64)
    made.add_argument("--no-paper", action="store_true", help="leave out the paper's settings, most of the work")
    made.add_argument("--num-samples", type=int, default=2000, metavar="N", help="new images of each sampler (2000)")
    made.add_argument("--batch-size", type=int, default=250, metavar="N", help="of the new images (250)")
    add_fashion_mnist(made, "for `unconditional`")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Do the parts that the options name."""
    check(chosen)
    for path in (getattr(chosen, n) for n in chosen.networks):
        load_denoiser(path)  # a bad file ends the run now, not after ten minutes
    setup = Setup.open("bundled_weights", chosen, ["scikit-image", "torchmetrics"])
    report = setup.report
    times = []
    for part in chosen.parts:
        began, busy = time.perf_counter(), time.process_time()
        PARTS[part](setup)
        wall, busy = (time.perf_counter() - began) / 60, (time.process_time() - busy) / 60
        times.append(f"* {part}: {busy:.1f} minutes of processor time in {wall:.1f} minutes")
        for name, minutes in (("processor_time", busy), ("time", wall)):
            report.add(part, "this script", name, minutes, "min")
    where = f"{report.settings['processor']} ({setup.device}), {torch.get_num_threads()} threads"
    report.say("\n".join([f"On {where}:\n", *times]))
    return report.finish()


def check(chosen: argparse.Namespace) -> None:
    """Raise InputError for numbers that make no sense, and for data that is missing."""
    check_num_images(chosen)
    check_least(chosen, num_samples=2, batch_size=1, seed=0)
    if "unconditional" in chosen.parts:
        unconditional.check_data(chosen.fashion_mnist)


if __name__ == "__main__":
    start(main, options())
