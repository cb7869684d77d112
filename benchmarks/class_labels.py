"""Samples of given classes: how good they are, and how often a classifier sees the class that was asked for.

Two tables. One of the lessons in configs/fashion/, each as its files say or all by the same samplers, with weights that
train.py has made (those without are left out); one of configs/fashion/guided.yaml at several scales of guidance. The
Frechet distance is that of bundled_weights.py, to the test images as they are: these networks were trained without
mirroring. With ``--samplers`` the lessons are compared by equal samplers, at the noise levels that ``--levels`` names.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterator

import torch
from support import frechet, unconditional
from support.common import ROOT, Setup, add_fashion_mnist, bar, cell, check_least, parser, start
from torch import Tensor

from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.images.sheets import Row, overview
from randomwalk.images.standard_sets import FASHION_CLASSES
from randomwalk.images.tensors import to_bytes
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

LESSONS = ("vp_discrete", "vp_continuous", "sub_vp", "ve", "flow")
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
LEVELS = ("own", "flow", "karras")
SHOWN = 8
"""Images of each class in a picture."""
LOW, HIGH = 0.011, 150.0
"""Range of the levels ``flow``, which the networks of flow matching and of the VP SDE both know."""


def flow_levels(count: int) -> Tensor:
    """Levels ``sigma = t / (1 - t)`` at uniform times of flow matching, from HIGH to LOW: float64 ``[count]``."""
    times = torch.linspace(HIGH / (1 + HIGH), LOW / (1 + LOW), count, dtype=torch.float64)
    return times / (1 - times)


def load(setup: Setup, name: str, *changes: str) -> Task:
    """The task in configs/fashion/{name}.yaml, with other numbers of images, and other changes."""
    given = [f"num_images={setup.num_images}", f"batch_size={setup.options.batch_size}", f"precision={setup.precision}"]
    given += [f"seed={setup.options.seed}", "animation_frames=0", *changes]
    if setup.quick:
        given.append("sampler.schedule.num_steps=5")
    config = load_sample_config(ROOT / "configs" / "fashion" / f"{name}.yaml", given)
    path = str(ROOT / config.network.path)
    return load_task(
        config.model_copy(update={"network": config.network.model_copy(update={"path": path})}), setup.device
    )


def made(task: Task, label: str) -> tuple[Tensor, Tensor, int]:
    """The images of a task as 8-bit pictures would hold them, in [-1, 1]; their classes; evaluations for each."""
    found, evaluations = [], 0
    batches = task.batches()
    with bar(len(batches) * task.num_steps, label) as tick:
        for units in batches:
            batch = task.sample(units, None, lambda k, x, sigma, probe: tick())
            found.append(batch.x.cpu())
            evaluations = batch.evaluations
    pixels = torch.from_numpy(to_bytes(torch.cat(found)))[:, None]
    labels = torch.tensor([task.label_of(image) for image in range(len(task.images))])
    return pixels.float() / 127.5 - 1, labels, evaluations


def tasks(setup: Setup, lesson: str) -> Iterator[tuple[str, Task]]:
    """Rows of a lesson by name: its file's, or each of ``--samplers`` at each of ``--levels`` and ``--num-steps``.

    The levels ``own`` are uniform in the time of the network, those of ``flow`` in the time of flow matching, and
    ``karras`` goes from 80 to 0.02.
    """
    options = setup.options
    if not options.samplers:
        yield lesson, load(setup, f"{lesson}_sample")
    for sampler, levels, steps in itertools.product(options.samplers, options.levels, options.num_steps):
        schedule = "karras, sigma_min: 0.02, sigma_max: 80" if levels == "karras" else "pretrained"
        change = f"sampler={{name: {sampler}, schedule: {{name: {schedule}, num_steps: {steps}}}}}"
        task = load(setup, f"{lesson}_sample", change)
        if levels == "flow":
            task = dataclasses.replace(task, sigmas=flow_levels(len(task.sigmas)))
        yield f"{lesson}, {sampler}, {levels} levels, {steps}", task


def judged(setup: Setup, judge: unconditional.Judge, case: str, name: str, images: Tensor, labels: Tensor) -> list[str]:
    """Cells of a table: distance, and the share of the images that are seen as their class, with its standard error."""
    distance = judge.distances(images)[1]
    share = frechet.accuracy(judge.classifier, images, labels, judge.device)
    error = math.sqrt(share * (1 - share) / len(images))
    setup.report.add(case, name, "frechet_to_test", distance, "1")
    setup.report.add(case, name, "accuracy", (share, error), "1")
    return [f"{distance:.2f}", cell((100 * share, 100 * error), 1)]


def sheet(setup: Setup, name: str, images: Tensor, labels: Tensor) -> None:
    """A row of pictures for each class."""
    pixels = to_bytes(images)
    rows = [Row(FASHION_CLASSES[k], list(pixels[(labels == k).numpy()][:SHOWN])) for k in labels.unique().tolist()]
    setup.report.folder.write_image(f"samples_{name}.png", overview(rows, side=64))


def measure(setup: Setup) -> None:
    """Both tables."""
    train, labels = frechet.load_split(setup.options.fashion_mnist, "train")
    judge = unconditional.make_judge(setup, (train, labels))
    count = setup.num_images
    head = ["images", "evaluations", "Frechet distance", "accuracy (%)"]
    notes = [
        f"{count} images each; the distance falls with the number, so compare equal numbers only. Accuracy: the share "
        "that a classifier puts in the requested class, ± standard error",
        f"the classifier's accuracy on the test images is {100 * judge.accuracy:.1f}%; networks in {setup.precision}",
    ]
    true = [f"{count} training images", "", *judged(setup, judge, "lessons", "training", train[:count], labels[:count])]
    rows = [true]
    for lesson in setup.options.lessons:
        if not (ROOT / "results" / "fashion" / lesson / "model.safetensors").is_file():
            notes.append(f"{lesson}: not trained yet (python train.py --config configs/fashion/{lesson}_train.yaml)")
            continue
        for name, task in tasks(setup, lesson):
            images, classes, evaluations = made(task, name)
            rows.append([name, str(evaluations), *judged(setup, judge, "lessons", name, images, classes)])
            sheet(setup, name.replace(", ", "_"), images, classes)
    setup.report.table("Lessons: images of given classes", head, rows, notes)
    if not setup.options.scales:
        return
    rows = [true]
    for scale in setup.options.scales:
        name = f"scale {scale:g}"
        images, classes, evaluations = made(load(setup, "guided", f"guidance.scale={scale}"), name)
        rows.append([name, str(evaluations), *judged(setup, judge, "guidance", name, images, classes)])
        sheet(setup, f"scale_{scale:g}", images, classes)
    setup.report.table("Guidance: configs/fashion/guided.yaml", head, rows, notes[:2])


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the networks (auto)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument("--num-images", type=int, default=500, metavar="N", help="of each row (500)")
    made.add_argument("--batch-size", type=int, default=100, metavar="N", help="of the new images (100)")
    made.add_argument("--lessons", nargs="*", choices=LESSONS, default=list(LESSONS), help="only these")
    made.add_argument("--samplers", nargs="*", default=[], metavar="NAME", help="in place of those of the lessons")
    made.add_argument("--levels", nargs="+", choices=LEVELS, default=["own"], help="noise levels of --samplers (own)")
    made.add_argument("--num-steps", nargs="+", type=int, default=[40], metavar="N", help="of --samplers (40)")
    made.add_argument("--scales", nargs="*", type=float, default=list(SCALES), metavar="W", help=f"{SCALES}")
    add_fashion_mnist(made)
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure."""
    check_least(chosen, num_images=2, batch_size=1, seed=0)
    if min(chosen.num_steps) < 2:
        raise InputError(f"--num-steps {min(chosen.num_steps)}: expected 2 or more")
    unconditional.check_data(chosen.fashion_mnist)
    setup = Setup.open("class_labels", chosen, [])
    measure(setup)
    return setup.report.finish()


if __name__ == "__main__":
    start(main, options())
