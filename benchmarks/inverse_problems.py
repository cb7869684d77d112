"""Every posterior sampler on six inverse problems: quality, spread, and cost, beside classical methods.

The settings are those of configs/posterior/NAME.yaml, which hold the random inpainting, and in lines

    # TASK: --set KEY=VALUE ...

what to change for the other tasks; this script reads them. They were chosen on training images.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support import baselines
from support.common import ROOT, Report, add_restoring, add_weights, bar, cell, parser, resolve_precision, start
from support.records import Record, Records, described
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics
from randomwalk.images.sheets import Row, overview
from randomwalk.images.tensors import to_bytes
from randomwalk.rng import generator
from randomwalk.sampling import calibration
from randomwalk.sampling.batch import SampleId
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import TIES_STREAM, Task

CONFIGS = ROOT / "configs" / "posterior"
DEFAULT_TASK = "random_inpainting"
TASKS = (DEFAULT_TASK, "box_inpainting", "super_resolution", "deblurring", "compressed_sensing", "phase_retrieval")
VE_METHODS = ("random_walk_preconditioned", "mmps", "tweedie_smc")
NUM_SAMPLES = 4
SHOWN = 8
"""How many images the pictures show."""

_TASK_LINE = re.compile(r"^# (\w+): --set (.+)$", re.MULTILINE)


# --- settings --------------------------------------------------------------------------------------------------------


def overrides(path: Path) -> dict[str, list[str]]:
    """What to ``--set`` in a file of configs/posterior for each task that it is for."""
    text = path.read_text(encoding="utf-8")
    return {DEFAULT_TASK: []} | {task: shlex.split(words) for task, words in _TASK_LINE.findall(text)}


def methods() -> dict[str, Path]:
    """The files of configs/posterior by their names."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def load_config(path: Path, task: str, changes: Mapping[str, Any] | None = None) -> SampleConfig:
    """The config of a method for a task.

    Raises:
        InputError: the file does not say what to set for the task, or is wrong.
    """
    found = overrides(path)
    if task not in found:
        raise InputError(f"{path}: has no line `# {task}: --set ...`")
    changed = [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    return load_sample_config(path, [*found[task], *changed])


@dataclass
class Setup:
    """The options, and what follows from them."""

    options: argparse.Namespace
    report: Report
    device: torch.device
    precision: str

    @property
    def num_images(self) -> int:
        """How many of the test images are restored."""
        return 2 if self.options.quick else int(self.options.num_images)

    def load(self, path: Path, task: str, network: str) -> Task:
        """A task ready to run; with ``--quick`` with a sixth of its steps."""
        changes: dict[str, Any] = {
            "network.path": str(getattr(self.options, network)),
            "data.path": str(ROOT / "data" / "fashion_mnist"),
            "data.num_images": self.num_images,
            "seed": self.options.seed,
            "num_samples": NUM_SAMPLES,
            "batch_size": 32,
            "precision": self.precision,
        }
        config = load_config(path, task, changes)
        if self.options.quick:
            steps = max(2, config.sampler.schedule.num_steps // 6)
            config = load_config(path, task, {**changes, "sampler.schedule.num_steps": steps})
        return load_task(config, self.device)


# --- samplers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A file of configs/posterior with one of the networks."""

    name: str
    path: Path
    network: str

    @property
    def title(self) -> str:
        """Its name in the tables."""
        return f"{self.name}{'' if self.network == 'vp' else ', VE network'}"


def chosen_methods(options: argparse.Namespace) -> list[Method]:
    """Every method with the VP network, and some with the VE network.

    Raises:
        InputError: a name that has no file.
    """
    found = methods()
    for name in (*(options.methods or []), *options.ve_methods):
        if name not in found:
            raise InputError(f"{name!r}: there is no {CONFIGS}/{name}.yaml; there are {', '.join(found)}")
    names = options.methods or list(found)
    vp = [Method(name, found[name], "vp") for name in names]
    return vp + [Method(name, found[name], "ve") for name in options.ve_methods if name in names]


def restore(task: Task, images: Sequence[int], tick: Callable[[int], object]) -> tuple[Tensor, Tensor, list[Record]]:
    """Samples ``[N, S, C, H, W]`` of some images, their measurements, and a record of each.

    Raises:
        RunError: the sampler diverges.
    """
    count = task.config.num_samples
    at_once = max(1, task.config.batch_size // count)
    samples, measured, records = [], [], []
    for first in range(0, len(images), at_once):
        part = images[first : first + at_once]
        units = [SampleId(image, s) for image in part for s in range(count)]
        truth = torch.stack([task.load_image(image) for image in part])
        busy = time.process_time()
        batch = task.sample(units, truth.repeat_interleave(count, 0), lambda k, x, sigma, probe: tick(len(x)))
        busy = (time.process_time() - busy) / len(units)
        assert batch.measurement is not None
        x = batch.x.cpu().unflatten(0, (len(part), count))
        cost = {"evaluations": batch.evaluations, "vjps": batch.vjps, "cpu": busy}
        records += [
            {**judge(x[row], truth[row], generator(task.config.seed, image, *TIES_STREAM)), **cost}
            for row, image in enumerate(part)
        ]
        samples.append(x)
        measured.append(batch.measurement[::count].cpu())
    return torch.cat(samples), torch.cat(measured), records


def judge(samples: Tensor, truth: Tensor, draws: np.random.Generator) -> Record:
    """Qualities and ranks of the samples ``[S, C, H, W]`` of one image."""
    each = truth.expand_as(samples)
    mean = samples.clamp(-1, 1).mean(0, keepdim=True)
    found = calibration.pixel_ranks(samples.numpy(), truth.numpy(), draws)
    contested = calibration.contested(samples.numpy(), truth.numpy())
    return {
        "psnr": float(metrics.psnr(samples, each).mean()),
        "ssim": float(metrics.ssim(samples, each).mean()),
        "psnr_of_mean": float(metrics.psnr(mean, truth[None])),
        "crps": crps(samples.clamp(-1, 1), truth),
        "ranks": calibration.counts(found[contested], len(samples)).tolist(),
    }


def crps(samples: Tensor, truth: Tensor) -> float:
    """Continuous ranked probability score, mean over the pixels; the expectation is least for posterior samples.

        mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 S (S - 1))

    Source: Gneiting and Raftery 2007, eq. 21, in the form that S does not bias (Ferro 2014).
    """
    count = len(samples)
    distance = (samples - truth).abs().mean()
    spread = (samples[:, None] - samples[None]).abs().mean(dim=tuple(range(2, samples.ndim + 1))).sum()
    return float(distance - spread / (2 * count * (count - 1)))


def why_not(setup: Setup, method: Method, like: Method, task: str) -> str:
    """Why a sampler cannot do a task whose measurement another method's file has.

    Raises:
        InputError: it can.
    """
    loaded = setup.load(like.path, task, like.network)
    own = setup.load(method.path, DEFAULT_TASK, method.network)
    try:
        own.sampler.check(loaded.trial_measurement())
    except InputError as error:
        return str(error)
    raise InputError(f"{method.path}: has no line `# {task}: --set ...`, but the sampler can do it")


# --- a task ----------------------------------------------------------------------------------------------------------


def measure(setup: Setup, records: Records, name: str, chosen: Sequence[Method]) -> None:
    """One task with all methods that can do it."""
    able = [method for method in chosen if name in overrides(method.path)]
    if not able:
        raise InputError(f"{name}: none of {', '.join(m.name for m in chosen)} has a line `# {name}: --set ...`")
    reasons = {m.title: why_not(setup, m, able[0], name) for m in chosen if m not in able and m.network == "vp"}
    tasks = {method: setup.load(method.path, name, method.network) for method in able}
    laws = {task.config.measurement.model_dump_json() for task in tasks.values() if task.config.measurement}
    if len(laws) > 1:
        raise InputError(f"{CONFIGS}: the measurements of {name} differ; expected the same in all files")
    shown: dict[str, Tensor] = {}
    work = sum(task.num_steps for task in tasks.values()) * setup.num_images * NUM_SAMPLES
    with bar(work, name, "steps") as tick:
        for method, task in tasks.items():
            found = records.of(name, method.title, described(task))
            left = [image for image in range(setup.num_images) if str(image) not in found]
            tick((setup.num_images - len(left)) * NUM_SAMPLES * task.num_steps, method.title)
            if not left:
                continue
            try:
                samples, _, new = restore(task, left, tick)
            except RunError as error:
                reasons[method.title] = str(error)
                continue
            found |= {str(image): record for image, record in zip(left, new, strict=True)}
            shown[method.title] = samples[:SHOWN, 0]
            records.save()
    done = {m.title: records.of(name, m.title, described(task)) for m, task in tasks.items()}
    done = {title: {k: v for k, v in images.items() if int(k) < setup.num_images} for title, images in done.items()}
    _table(setup, name, next(iter(tasks.values())), {t: list(r.values()) for t, r in done.items() if r}, reasons, shown)


def measurements(task: Task, images: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The true images and the measurements that every sampler is given of them."""
    truth = torch.stack([task.load_image(image) for image in images])
    operator, draws = task.make_operator(images)
    assert task.noise is not None
    with torch.no_grad():
        return truth, task.noise.apply(operator(truth.to(task.device)), draws).cpu()


HEAD = ("method", "evaluations", "vjps", "PSNR (dB)", "PSNR of mean", "SSIM", "CRPS", "60% covers", "CPU (ms)")


def _table(
    setup: Setup,
    name: str,
    task: Task,
    done: Mapping[str, Sequence[Record]],
    reasons: Mapping[str, str],
    shown: Mapping[str, Tensor],
) -> None:
    truth, y = measurements(task, range(setup.num_images))
    operator, _ = task.make_operator(range(len(truth)))
    plain, chosen = baselines.classical(operator.cpu(), y, truth, setup.options.quick)
    rows = [_classical_row(setup, name, title, x, truth) for title, x in plain.items()]
    rows += [_row(setup, name, title, images) for title, images in done.items()]
    rows += [[title, *["-"] * (len(HEAD) - 1)] for title in reasons]
    measurement = task.config.measurement
    assert measurement is not None
    law = {"A": measurement.operator, "noise": measurement.noise}
    notes = [
        "; ".join(f"{key}: {json.dumps(part.model_dump(exclude_none=True))}" for key, part in law.items()),
        f"mean over {len(truth)} test images ± standard error; {NUM_SAMPLES} samples of each; networks in "
        f"{setup.precision}; evaluations and vector-Jacobian products (vjps) for each sample, counted",
        f"CPU: processor time for each sample in batches of {task.config.batch_size}, to be compared with "
        f"{_forward_time(task):.0f} ms for one forward pass and not with other machines",
        *[f"chosen for these very images, {text}" for text in chosen],
        *[f"{title}: {reason}" for title, reason in reasons.items()],
    ]
    setup.report.table(name.replace("_", " ").capitalize(), HEAD, rows, notes)
    if truth.shape[1:] == y.shape[1:]:
        plain = {"measurement": y, **plain}
    pictures = {"truth": truth, **plain, **shown}
    if len(shown) == len(done):  # else these are not all there: an earlier run made them
        lines = [Row(title, list(to_bytes(x[:SHOWN]))) for title, x in pictures.items()]
        setup.report.folder.write_image(f"{name}.png", overview(lines, side=64))


def _classical_row(setup: Setup, case: str, title: str, x: Tensor, truth: Tensor) -> list[str]:
    psnr, ssim = (metrics.mean_and_error(f(x, truth).tolist()) for f in (metrics.psnr, metrics.ssim))
    error = (x - truth).abs().mean(dim=(1, 2, 3)).tolist()
    _add(setup, case, title, {"psnr": (psnr, "dB"), "ssim": (ssim, "1"), "crps": (metrics.mean_and_error(error), "1")})
    return [title, "", "", cell(psnr), "", cell(ssim, 3), f"{sum(error) / len(error):.4f}", "", ""]


def _row(setup: Setup, case: str, title: str, images: Sequence[Record]) -> list[str]:
    psnr, mean, ssim, score, cpu = (
        metrics.mean_and_error([record[key] for record in images])
        for key in ("psnr", "psnr_of_mean", "ssim", "crps", "cpu")
    )
    cover = calibration.Calibration(np.array([record["ranks"] for record in images])).coverage(1)
    found = {"psnr": (psnr, "dB"), "psnr_of_mean": (mean, "dB"), "ssim": (ssim, "1"), "crps": (score, "1")}
    cost = images[0]
    _add(setup, case, title, {**found, "coverage": ((cover.value, cover.error), "1"), "cpu": (cpu, "s")})
    for key in ("evaluations", "vjps"):
        setup.report.add(case, title, key, cost[key], "1")
    covered = f"{100 * cover.value:.0f}% ± {100 * cover.error:.0f}%"
    counted = [str(cost["evaluations"]), str(cost["vjps"])]
    qualities = [cell(psnr), cell(mean), cell(ssim, 3), f"{score[0]:.4f}", covered]
    return [title, *counted, *qualities, f"{1e3 * cpu[0]:.0f}"]


def _add(setup: Setup, case: str, title: str, values: Mapping[str, tuple[tuple[float, float], str]]) -> None:
    for metric, ((value, error), unit) in values.items():
        setup.report.add(case, title, metric, value, unit)
        setup.report.add(case, title, f"{metric}_standard_error", error, unit)


def _forward_time(task: Task) -> float:
    """Processor time of one forward pass, for each image of a batch, in ms; the median of three."""
    x = torch.zeros((task.config.batch_size, *task.image_shape), device=task.device)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.process_time()
            task.denoiser(x, 1.0).sum().item()
            times.append(time.process_time() - began)
    return 1e3 * sorted(times[1:])[1] / len(x)


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """The options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="do only these")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="only these files of configs/posterior")
    made.add_argument(
        "--ve-methods", nargs="*", metavar="NAME", default=list(VE_METHODS), help="those that the VE network has too"
    )
    add_weights(made)
    add_restoring(made, 32)
    made.add_argument("--resume", metavar="FOLDER", help="take what an earlier run with these settings left there")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Do the tasks that the options name."""
    if not 2 <= chosen.num_images <= 64:
        raise InputError(f"--num-images {chosen.num_images}: expected 2 to 64, which data/fashion_mnist has")
    if chosen.seed < 0:
        raise InputError(f"--seed {chosen.seed}: expected 0 or more")
    found = chosen_methods(chosen)
    device = resolve_device(chosen.device)
    precision = resolve_precision(chosen.precision, device)
    report = Report("inverse_problems", chosen, str(device), ["scikit-image", "torchmetrics"])
    report.settings["precision"] = precision
    setup = Setup(chosen, report, device, precision)
    records = Records(report.folder, chosen.resume)
    metrics.load()
    for name in chosen.tasks:
        measure(setup, records, name, found)
    report.say(
        "CRPS, the continuous ranked probability score (mean over pixels; for a single image the mean absolute error), "
        "is least for samples of the posterior; the settings were chosen by it. Coverage is that of the interval from "
        f"the least to the greatest of {NUM_SAMPLES} samples, over the pixels that they and the truth contest. LPIPS "
        "is left out: its weights are no part of this repository."
    )
    report.save()
    print(f"\nfiles: {report.folder.path}")
    return 0


if __name__ == "__main__":
    start(main, options())
