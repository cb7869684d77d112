"""Quality, spread and cost of every posterior sampler on six inverse problems, beside classical methods.

A method is a file of configs/posterior, which has the settings for the random inpainting; inverse_problems.yaml has the
changes for the other tasks. All settings but those of random_walk_momentum were chosen on training images. With
--photographs, the photograph network restores the middle of photographs, with the settings chosen for clothes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from support import baselines
from support.common import (
    ROOT,
    Report,
    Setup,
    add_restoring,
    add_weights,
    cell,
    check_least,
    check_num_images,
    parser,
    start,
)
from support.engine import FAILED, Job, Record, Records, failure, measure, read_yaml
from support.photographs import ANY, photographs
from support.photographs import DEFAULT as PHOTO
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.errors import InputError
from randomwalk.images import metrics
from randomwalk.images.sheets import Row, new_figure, overview, png, tidy
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_bytes, to_pixels
from randomwalk.rng import Stream, generator
from randomwalk.sampling import calibration, intervals
from randomwalk.sampling.batch import SampleId
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

SETTINGS = read_yaml(Path(__file__).with_suffix(".yaml"))
TASKS = tuple(SETTINGS["tasks"])
METHODS = tuple(sorted(path.stem for path in (ROOT / "configs" / "posterior").glob("*.yaml")))
VE_METHODS = ("random_walk_preconditioned", "mmps", "tweedie_smc")
MOMENTUM = "random_walk_momentum"
"""Method that --evaluations is for: exact in the limit, so that its spread is measured against the evaluations."""
SHOWN = 8
"""Number of images in the figures."""
LEVEL = 0.9
"""Share of the pixels that recalibrated intervals cover."""


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A posterior sampler with a network, "vp" or "ve"; its name is that of its file in configs/posterior.

    Attributes:
        evaluations: number of noise levels; None for that of the file, or that of --cost.
    """

    name: str
    network: str = "vp"
    evaluations: int | None = None

    @property
    def title(self) -> str:
        """Name in the tables."""
        steps = "" if self.evaluations is None else f", {self.evaluations}"
        return f"{self.name}{steps}{'' if self.network == 'vp' else ', VE network'}"

    def can_do(self, task: str) -> bool:
        """True if the settings have the task."""
        return task in SETTINGS["methods"].get(self.name, {})


def load_config(setup: Setup, method: Method, task: str, changes: Mapping[str, Any]) -> SampleConfig:
    """Settings of a method for a task; with ``--quick`` a sixth of the noise levels.

    Raises:
        InputError: inverse_problems.yaml has no settings of the method for the task.
    """
    if not method.can_do(task):
        raise InputError(f"inverse_problems.yaml: methods: {method.name}: has no {task}")
    changes = {**SETTINGS["tasks"][task], **SETTINGS["methods"][method.name][task], **changes}
    return setup.load_config(f"posterior/{method.name}", method.network, changes)


def middles(setup: Setup) -> Path:
    """Folder of this run with the middles of the first photographs, as PNG files."""
    folder = setup.report.folder.path / "photographs"
    if not folder.is_dir():
        source = open_images(setup.options.photographs)
        if len(source) < setup.num_images:
            raise InputError(f"--photographs: {source.where} has {len(source)} images; expected {setup.num_images}")
        for photo in photographs(source, ANY, range(setup.num_images), setup.options.crop):
            name = f"photographs/{photo.number:02}.png"
            setup.report.folder.write_image(name, to_pixels(photo.pixels))
    return folder


def load(setup: Setup, method: Method, name: str) -> Task:
    """A task ready to run."""
    changes: dict[str, Any] = {"num_samples": setup.options.num_samples, "batch_size": 32}
    if setup.options.photographs is not None:
        sides = [setup.options.crop] * 2
        changes |= {"network.path": str(PHOTO), "data.path": str(middles(setup)), "image_size": sides}
    config = load_config(setup, method, name, changes)
    if method.evaluations is not None:
        changes["sampler.schedule.num_steps"] = method.evaluations
    elif setup.options.cost is not None:
        levels = config.sampler.schedule.num_steps * setup.options.cost / cost(load_task(config, setup.device))
        changes["sampler.schedule.num_steps"] = max(2, round(levels))
    config = load_config(setup, method, name, changes)
    if setup.quick:
        changes["sampler.schedule.num_steps"] = max(2, config.sampler.schedule.num_steps // 6)
        config = load_config(setup, method, name, changes)
    return load_task(config, setup.device)


def cost(task: Task) -> int:
    """Forward passes that a sample costs, a backward pass counted as two; found by making the samples of one image."""
    units = [SampleId(0, s) for s in range(task.config.num_samples)]
    batch = task.sample(units, torch.stack([task.load_image(0)] * len(units)))
    return batch.evaluations + 2 * batch.vjps


def described(task: Task) -> dict[str, Any]:
    """Everything that decides the result of an image, besides the image."""
    config = task.config
    parts = {"sampler": config.sampler, "measurement": config.measurement}
    return {
        **{key: json.loads(part.model_dump_json(exclude_none=True)) for key, part in parts.items() if part},
        "network": Path(config.network.path).stem,
        "seed": config.seed,
        "num_samples": config.num_samples,
        "precision": config.precision,
    }


def why_not(setup: Setup, method: Method, like: Method, task: str) -> str:
    """Why a sampler cannot do a task that another method can.

    Raises:
        InputError: it can.
    """
    loaded, own = load(setup, like, task), load(setup, method, TASKS[0])
    try:
        own.sampler.check(loaded.trial_measurement())
    except InputError as error:
        return str(error)
    raise InputError(f"inverse_problems.yaml: methods: {method.name}: has no {task}, but the sampler can do it")


# --- one image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A task, and where the first sample of each of the first images is kept."""

    task: Task
    shown: dict[int, Tensor] = field(default_factory=dict)


def restore(job: Job) -> list[Record]:
    """Restore the images of a job and judge them.

    Raises:
        RunError: the sampler diverges.
    """
    task, images = job.payload.task, [int(item) for item in job.items]
    count = task.config.num_samples
    units = [SampleId(image, s) for image in images for s in range(count)]
    truth = torch.stack([task.load_image(image) for image in images])
    began = time.process_time()
    batch = task.sample(units, truth.repeat_interleave(count, 0))
    cost = {
        "evaluations": batch.evaluations,
        "vjps": batch.vjps,
        "cpu": (time.process_time() - began) / len(units),
    }
    x = batch.x.cpu().unflatten(0, (len(images), count))
    job.payload.shown.update((image, x[row, 0]) for row, image in enumerate(images) if image < SHOWN)
    return [
        {**judge(x[row], truth[row], generator(task.config.seed, Stream.TIES, image)), **cost}
        for row, image in enumerate(images)
    ]


def judge(samples: Tensor, truth: Tensor, draws: np.random.Generator) -> Record:
    """Qualities, ranks and scores for a recalibration of the samples ``[S, C, H, W]`` of one image."""
    each = truth.expand_as(samples)
    mean = samples.clamp(-1, 1).mean(0, keepdim=True)
    found = calibration.pixel_ranks(samples.numpy(), truth.numpy(), draws)
    contested = calibration.contested(samples.numpy(), truth.numpy())
    scores = intervals.scores(mean[0].numpy(), samples.clamp(-1, 1).std(0).numpy(), truth.numpy())
    return {
        "psnr": float(metrics.psnr(samples, each).mean()),
        "ssim": float(metrics.ssim(samples, each).mean()),
        "psnr_of_mean": float(metrics.psnr(mean, truth[None])),
        "crps": crps(samples.clamp(-1, 1), truth),
        "ranks": calibration.counts(found[contested], len(samples)).tolist(),
        "scores": np.sort(scores, axis=None).round(3).tolist(),
    }


def crps(samples: Tensor, truth: Tensor) -> float:
    """Continuous ranked probability score, averaged over the pixels; posterior samples minimise its expectation.

        mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 S (S - 1))

    Source: Gneiting and Raftery 2007, eq. 21, in the form that is unbiased for every S (Ferro 2014).
    """
    count = len(samples)
    distance = (samples - truth).abs().mean()
    spread = (samples[:, None] - samples[None]).abs().mean(dim=tuple(range(2, samples.ndim + 1))).sum()
    return float(distance - spread / (2 * count * (count - 1)))


def ranks_of(images: Sequence[Record]) -> calibration.Calibration:
    """Rank histograms of the contested pixels."""
    return calibration.Calibration(np.array([record["ranks"] for record in images]))


def can_recalibrate(num_images: int) -> bool:
    """Whether all images but one are enough for a recalibration."""
    return num_images > intervals.fewest(LEVEL)


def coverages(images: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Shares of the pixels in three kinds of intervals, with standard errors.

    Returns:
        coverage: contested pixels, from the least to the greatest sample.
        covered_by_std: all pixels, mean ± 1.645 standard deviations, which is 90% of a Gaussian.
        recalibrated: all pixels, see `recalibrated`; the last two only of enough images.
    """
    widest = ranks_of(images).coverage(1)
    found = {"coverage": (widest.value, widest.error)}
    if can_recalibrate(len(images)):
        gaussian = float(ndtri((1 + LEVEL) / 2))
        inside = [float((np.array(record["scores"]) <= gaussian).mean()) for record in images]
        found |= {"covered_by_std": metrics.mean_and_error(inside), "recalibrated": recalibrated(images)}
    return found


def recalibrated(images: Sequence[Record]) -> tuple[float, float]:
    """Share of the pixels of an image in intervals of `LEVEL` recalibrated on all the others; mean, standard error."""
    scores = [np.array(record["scores"]) for record in images]
    factors = [intervals.factor(scores[:i] + scores[i + 1 :], LEVEL) for i in range(len(scores))]
    return metrics.mean_and_error([float((one <= q).mean()) for one, q in zip(scores, factors, strict=True)])


# --- a task ----------------------------------------------------------------------------------------------------------


def run(setup: Setup, records: Records, name: str, chosen: Sequence[Method]) -> None:
    """Measure one task with all methods that can do it, and print its table."""
    able = [method for method in chosen if method.can_do(name)]
    if not able:
        raise InputError(f"{name}: none of {', '.join(m.name for m in chosen)} can do it")
    reasons = {m.title: why_not(setup, m, able[0], name) for m in chosen if m not in able and m.network == "vp"}
    work = {method.title: Work(load(setup, method, name)) for method in able}
    images = [str(image) for image in range(setup.num_images)]
    jobs = [Job(name, title, described(one.task), images, one) for title, one in work.items()]
    at_once = max(1, jobs[0].payload.task.config.batch_size // setup.options.num_samples)
    found = measure(jobs, restore, records, name, at_once=at_once)[name]
    reasons |= {title: r[FAILED] for title, images in found.items() for r in images.values() if FAILED in r}
    done = {title: list(images.values()) for title, images in found.items() if failure(images) is None}
    shown = {title: torch.stack([one.shown[k] for k in sorted(one.shown)]) for title, one in work.items() if one.shown}
    table(setup, name, jobs[0].payload.task, done, reasons, {title: x for title, x in shown.items() if title in done})


def measurements(task: Task, images: Sequence[int]) -> tuple[Tensor, Tensor]:
    """True images, and the measurements that every sampler is given of them."""
    truth = torch.stack([task.load_image(image) for image in images])
    operator, draws = task.measurements.operator_of(images)
    with torch.no_grad():
        return truth, task.measurements.noise.apply(operator(truth.to(task.device)), draws).cpu()


HEAD = ("method", "evaluations", "vjps", "PSNR (dB)", "PSNR of mean", "SSIM", "CRPS", "CPU (ms)")


def table(
    setup: Setup,
    name: str,
    task: Task,
    done: Mapping[str, Sequence[Record]],
    reasons: Mapping[str, str],
    shown: Mapping[str, Tensor],
) -> None:
    """Print the table of a task, and draw its figure unless an earlier run made some of the images.

    Args:
        done: records by method.
        reasons: why other methods have none.
        shown: images of the figure by method, ``[N, C, H, W]``.
    """
    truth, y = measurements(task, range(setup.num_images))
    operator, _ = task.measurements.operator_of(range(len(truth)))
    plain, chosen = baselines.classical(operator.cpu(), y, truth, setup.quick)
    count = setup.options.num_samples
    covers = [f"{100 * (count - 1) / (count + 1):.0f}% covers"]
    covers += ["90% ± std", "recalibrated"] if can_recalibrate(setup.num_images) else []
    rows = [classical_row(setup.report, name, title, x, truth, len(covers)) for title, x in plain.items()]
    rows += [row(setup.report, name, title, images) for title, images in done.items()]
    head = [*HEAD[:-1], *covers, HEAD[-1]]
    rows += [[title, *["-"] * (len(head) - 1)] for title in reasons]
    measurement = task.config.measurement
    assert measurement is not None
    parts = {"A": measurement.operator, "noise": measurement.noise}
    notes = [
        "; ".join(f"{key}: {json.dumps(part.model_dump(exclude_none=True))}" for key, part in parts.items()),
        f"mean over {len(truth)} test images ± standard error; {count} samples of each; networks in "
        f"{setup.precision}; evaluations and vector-Jacobian products (vjps) for each sample, counted",
        f"CPU: processor time for each sample in batches of {task.config.batch_size}, to be compared with "
        f"{forward_time(task):.0f} ms for one forward pass and not with other machines",
        *[f"chosen for these very images, {text}" for text in chosen],
        *[f"{title}: {reason}" for title, reason in reasons.items()],
    ]
    setup.report.table(name.replace("_", " ").capitalize(), head, rows, notes)
    ranks = {title: ranks_of(images) for title, images in done.items()}
    setup.report.folder.write_bytes(f"{name}_ranks.png", rank_figure(ranks))
    if truth.shape[1:] == y.shape[1:]:
        plain = {"measurement": y, **plain}
    columns = min(SHOWN, setup.num_images)
    if len(shown) == len(done) and all(len(x) == columns for x in shown.values()):
        images = {"truth": truth, **plain, **shown}
        lines = [Row(title, list(to_bytes(x[:columns]))) for title, x in images.items()]
        setup.report.folder.write_image(f"{name}.png", overview(lines, side=64))


def classical_row(report: Report, case: str, title: str, x: Tensor, truth: Tensor, covers: int) -> list[str]:
    """Row of a method that makes one image of each, whose CRPS is the mean absolute error, and nothing to cover."""
    psnr, ssim = (metrics.mean_and_error(f(x, truth).tolist()) for f in (metrics.psnr, metrics.ssim))
    error = metrics.mean_and_error((x - truth).abs().mean(dim=(1, 2, 3)).tolist())
    for metric, value, unit in (("psnr", psnr, "dB"), ("ssim", ssim, "1"), ("crps", error, "1")):
        report.add(case, title, metric, value, unit)
    return [title, "", "", cell(psnr), "", cell(ssim, 3), f"{error[0]:.4f}", *[""] * covers, ""]


def row(report: Report, case: str, title: str, images: Sequence[Record]) -> list[str]:
    """Row of a sampler."""
    units = {"psnr": "dB", "psnr_of_mean": "dB", "ssim": "1", "crps": "1", "cpu": "s"}
    found = {key: metrics.mean_and_error([record[key] for record in images]) for key in units}
    for key in ("psnr", "psnr_of_mean", "ssim", "crps"):
        report.add(case, title, key, found[key], units[key])
    for key, share in coverages(images).items():
        report.add(case, title, key, share, "1")
    for rank, estimate in enumerate(ranks_of(images).histogram()):
        report.add(case, title, f"share_of_rank_{rank}", (estimate.value, estimate.error), "1")
    report.add(case, title, "cpu", found["cpu"], "s")
    for key in ("evaluations", "vjps"):
        report.add(case, title, key, images[0][key], "1")
    covered = [f"{100 * share:.0f}% ± {100 * error:.0f}%" for share, error in coverages(images).values()]
    counted = [str(images[0]["evaluations"]), str(images[0]["vjps"])]
    qualities = [cell(found["psnr"]), cell(found["psnr_of_mean"]), cell(found["ssim"], 3), f"{found['crps'][0]:.4f}"]
    return [title, *counted, *qualities, *covered, f"{1e3 * found['cpu'][0]:.0f}"]


def rank_figure(found: Mapping[str, calibration.Calibration]) -> bytes:
    """Rank histograms of the methods as a PNG; those of samples of the posterior are flat, at 1."""
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    figure = new_figure((2.9 * columns, 0.5 + 1.9 * lines))
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (title, ranks) in zip(axes, found.items(), strict=False):
        shares = ranks.histogram()
        axis.bar(range(len(shares)), [len(shares) * share.value for share in shares], width=1, color="#2a6fba")
        axis.axhline(1, color="#b5482a", linestyle="--", linewidth=1)
        axis.set_title(title, fontsize=9)
        tidy(axis)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    figure.tight_layout()
    return png(figure)


def forward_time(task: Task) -> float:
    """Processor time of one forward pass for each image of a batch, in ms; the median of three."""
    x = torch.zeros((task.config.batch_size, *task.images.shape), device=task.device)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.process_time()
            task.denoiser(x, 1.0).sum().item()
            times.append(time.process_time() - began)
    return 1e3 * sorted(times[1:])[1] / len(x)


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="only these tasks")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="only these files of configs/posterior")
    made.add_argument(
        "--ve-methods",
        nargs="*",
        metavar="NAME",
        default=list(VE_METHODS),
        help="methods to run with the VE network too",
    )
    made.add_argument("--num-samples", type=int, default=4, metavar="N", help="samples of each image (4)")
    made.add_argument(
        "--evaluations", type=int, nargs="+", metavar="N", help=f"rows of {MOMENTUM}, one for each number"
    )
    made.add_argument(
        "--cost",
        type=int,
        metavar="N",
        help="so many levels of the others that a sample costs about N forward passes, a backward pass counted as "
        "two (default: the levels of their files)",
    )
    add_weights(made)
    add_restoring(made, 32)
    made.add_argument("--photographs", metavar="FOLDER", help="restore these with the photograph network, not clothes")
    made.add_argument("--crop", type=int, default=48, metavar="N", help="side of their middle, in pixels (48)")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure the tasks that the options name."""
    check_num_images(chosen)
    check_least(chosen, seed=0, num_samples=2, crop=32)
    if min(chosen.evaluations or [2]) < 2:
        raise InputError(f"--evaluations {min(chosen.evaluations)}: expected 2 or more")
    if (chosen.cost or 2) < 2:
        raise InputError(f"--cost {chosen.cost}: expected 2 or more")
    if unknown := sorted({*(chosen.methods or []), *chosen.ve_methods} - set(METHODS)):
        raise InputError(f"there is no configs/posterior/{unknown[0]}.yaml; there are {', '.join(METHODS)}")
    names = chosen.methods or METHODS
    methods = [Method(name, "vp", n) for name in names for n in chosen.evaluations or [None] if name == MOMENTUM]
    methods += [Method(name) for name in names if name != MOMENTUM]
    methods += [Method(name, "ve") for name in chosen.ve_methods if name in names and chosen.photographs is None]
    setup = Setup.open("inverse_problems", chosen, ["scikit-image", "torchmetrics"], quick_images=2)
    records = Records(setup.report.folder, chosen.resume)
    for name in chosen.tasks:
        run(setup, records, name, methods)
    setup.report.say(
        "CRPS, the continuous ranked probability score (mean over pixels; for a single image the mean absolute error), "
        "is least for samples of the posterior; the settings were chosen by it. Coverage is that of the interval from "
        f"the least to the greatest of {chosen.num_samples} samples, over the pixels on which samples and truth "
        "differ. Of more than nine images there are, over all pixels, intervals of 1.645 standard deviations around "
        "the mean, and the same recalibrated for 90% on the other images (leave one out). LPIPS is left out: its "
        "weights are not part of this repository."
    )
    return setup.report.finish()


if __name__ == "__main__":
    start(main, options())
