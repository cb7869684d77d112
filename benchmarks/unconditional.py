"""New images of the bundled networks by several samplers: their Frechet distance to the test set, and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import frechet
import torch
from common import bar, cell
from frechet import Moments, frechet_distance
from torch import Tensor

from randomwalk import samplers, schedules
from randomwalk.denoisers import Denoiser
from randomwalk.progress import to_bytes
from randomwalk.report import grid
from randomwalk.rng import ImageDraws, generator

if TYPE_CHECKING:
    from bundled_weights import Setup

SHOWN = 64
"""How many images a picture shows."""


@dataclass(frozen=True)
class Walk:
    """A way to make new images.

    Args:
        name: of the sampler.
        schedule: name, num_steps and shape; the range is that of the network unless it says otherwise.
        settings: of the sampler.
        start: standard deviation of the start; the highest noise level if None.
        note: shown beside the name.
    """

    name: str
    schedule: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: float | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The name with its settings."""
        values = ", ".join(f"{key} {value:g}" for key, value in self.settings.items())
        return f"{self.name}{f' ({values})' if values else ''}{f', {self.note}' if self.note else ''}"

    def plan(self, denoiser: Denoiser, quick: bool) -> tuple[samplers.WalkSampler, Tensor, int]:
        """The sampler, the noise levels, and the number of evaluations."""
        settings: dict[str, Any] = {
            "sigma_min": max(denoiser.sigma_min, 0.02),
            "sigma_max": min(denoiser.sigma_max, 80.0),
        }
        settings |= self.schedule
        if quick:
            settings["num_steps"] = max(2, settings["num_steps"] // 3)
        sampler, sigmas = samplers.make(self.name, **self.settings), schedules.make(**settings)
        return sampler, sigmas, sampler.num_evaluations(len(sigmas))


KARRAS = {"name": "karras", "num_steps": 12}
WALKS = [
    Walk("ddim", KARRAS),
    Walk("ddpm_small", KARRAS),
    Walk("ve_reverse_diffusion", KARRAS),
    Walk("random_walk", {"name": "geometric", "num_steps": 16}, {"step_scale": 0.7, "initial_temperature": 0.1}),
]


def check_data(folder: Path) -> None:
    """Raise InputError if the files of Fashion-MNIST are not there."""
    frechet.load_split(folder, "test")


@dataclass
class Judge:
    """A classifier, and what the features of the test set look like to it."""

    classifier: frechet.Classifier
    device: torch.device
    accuracy: float
    test: Moments
    mirrored_test: Moments

    def distances(self, images: Tensor) -> tuple[float, float]:
        """Frechet distance to the test set with all its mirror images, and to the test set as it is."""
        own = Moments(frechet.in_batches(self.classifier.features, images, self.device))
        return frechet_distance(own, self.mirrored_test), frechet_distance(own, self.test)


def make_judge(setup: Setup, train: tuple[Tensor, Tensor]) -> Judge:
    """Train the classifier, and look at the test set."""
    images, labels = (part[:12800] for part in train) if setup.quick else train
    passes = 1 if setup.quick else 3
    with bar(passes * len(images), "classifier", "images") as tick:
        classifier = frechet.train_classifier(
            images, labels, passes, setup.options.seed, setup.device, lambda n, loss: tick(n, f"loss {loss:.2f}")
        )
    test, test_labels = frechet.load_split(setup.options.fashion_mnist, "test")
    features = frechet.in_batches(classifier.features, frechet.with_mirrors(test), setup.device)
    share = frechet.accuracy(classifier, test, test_labels, setup.device)
    return Judge(classifier, setup.device, share, Moments(features[: len(test)]), Moments(features))


def new_images(
    setup: Setup, denoiser: Denoiser, walk: Walk, count: int, tick: Callable[[int], object]
) -> tuple[Tensor, float]:
    """``count`` images as 8-bit pictures would hold them, in [-1, 1]; and the seconds for each.

    Image i is a function of the seed and i: its start and its walk are drawn from (seed, i, 1), as sample.py does.
    """
    sampler, sigmas, _ = walk.plan(denoiser, setup.quick)
    std = float(sigmas[0]) if walk.start is None else walk.start
    found, began = [], time.perf_counter()
    for numbers in torch.arange(count).split(setup.options.batch_size):
        draws = ImageDraws([generator(setup.options.seed, int(i), 1) for i in numbers], setup.device)
        x = std * draws.normal((1, 32, 32))
        x = sampler.sample(denoiser, x, sigmas, noise=draws.noise, callback=lambda k, x, sigma: tick(len(x)))
        found.append(x.cpu())
    seconds = (time.perf_counter() - began) / count
    pixels = torch.from_numpy(to_bytes(torch.cat(found)))[:, None]
    return pixels.float() / 127.5 - 1, seconds


def measure(setup: Setup) -> None:
    """The whole part."""
    count = 200 if setup.quick else setup.options.num_samples
    train = frechet.load_split(setup.options.fashion_mnist, "train")
    judge = make_judge(setup, train)
    case, rows = f"unconditional, {count} samples", []
    sets = [part for part in frechet.half_mirrored(train[0], setup.options.seed).split(count) if len(part) == count]
    values = list(zip(*(judge.distances(part) for part in sets[:20]), strict=True))
    distances = [frechet.spread(list(column)) for column in values]
    rows.append([f"{count} training images", "", "", *map(cell, distances), ""])
    _add(setup, case, "training images", [mean for mean, _ in distances])
    setup.report.add(case, "classifier", "test_accuracy", judge.accuracy, "1")
    loaded = setup.load()
    todo = [(n, walk) for n in loaded for walk in WALKS]
    work = count * sum(walk.plan(loaded[n], setup.quick)[2] for n, walk in todo)
    with bar(work, "new images", "evaluations") as tick:
        for n, walk in todo:
            _, sigmas, evaluations = walk.plan(loaded[n], setup.quick)
            images, seconds = new_images(setup, loaded[n], walk, count, tick)
            found = judge.distances(images)
            levels = f"{walk.schedule['name']}, {float(sigmas[0]):.3g} to {float(sigmas[-1]):.2g}"
            rows.append([f"{n.upper()} {walk.label}", levels, f"{evaluations}", *map(cell, found), f"{seconds:.3f}"])
            _add(setup, case, f"{n.upper()} {walk.label}", found)
            setup.report.add(case, f"{n.upper()} {walk.label}", "evaluations", evaluations, "1")
            setup.report.add(case, f"{n.upper()} {walk.label}", "seconds_per_image", seconds, "s")
            picture = grid(list(to_bytes(images[:SHOWN])), side=64)
            setup.report.folder.write_image(f"samples_{n}_{walk.name}{walk.note and '_' + walk.note}.png", picture)
    setup.report.settings["unconditional"] = [asdict(walk) for walk in WALKS]
    _table(setup, rows, judge, count, len(sets[:20]))


def _add(setup: Setup, case: str, method: str, distances: tuple[float, ...] | list[float]) -> None:
    for metric, value in zip(("frechet_to_test_and_mirrors", "frechet_to_test"), distances, strict=True):
        setup.report.add(case, method, metric, value, "1")


def _table(setup: Setup, rows: list[list[str]], judge: Judge, count: int, sets: int) -> None:
    reached = "met" if judge.accuracy > 0.9 else "MISSED"
    setup.report.table(
        "New images: Frechet distance to the 10,000 test images",
        ["images", "noise levels", "evaluations", "test and mirrors", "test as it is", "s per image"],
        rows,
        [
            f"squared distance in the {frechet.FEATURES} features of a classifier that was trained on images and their "
            f"mirror images; its test accuracy is {100 * judge.accuracy:.2f}% (target over 90%: {reached})",
            f"{count} images against the test set; the distance falls with the number, so compare equal numbers only",
            "the networks were trained with mirroring: half of their shoes point to the right, as in no test image; "
            "the first distance counts every test image along with its mirror image",
            f"training images: mean ± standard deviation over {sets} disjoint sets, half of the images mirrored; "
            "this is what perfect samples would get",
            f"networks in {setup.precision}; pictures: samples_*.png",
        ],
    )
