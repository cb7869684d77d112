"""New images of the bundled networks by several samplers: their Frechet distance to the test set, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.images.sheets import grid
from randomwalk.images.tensors import to_bytes
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers import schedules
from support import frechet
from support.common import ROOT, Setup, bar, cell
from support.frechet import Moments, frechet_distance

SHOWN = 64
"""Number of images in a figure."""


@dataclass(frozen=True)
class Walk:
    """A way to make new images.

    Args:
        sampler: its name and settings.
        schedule: name, num_steps and what else it takes; the range is that of the network unless it is given.
        start: mean and standard deviation of the start; 0 and the highest noise level if None.
        config: the file in configs/ that it is taken from.
    """

    sampler: Mapping[str, Any]
    schedule: Mapping[str, Any]
    start: tuple[float, float] | None = None
    config: str | None = None

    @classmethod
    def of_config(cls, name: str) -> Walk:
        """The sampler, the schedule and the start of configs/{name}.yaml."""
        config = load_sample_config(ROOT / "configs" / f"{name}.yaml")
        sampler = config.sampler.model_dump(exclude_none=True)
        schedule = sampler.pop("schedule")
        assert config.start.std is not None and config.start.mean != "measurement"
        return cls(sampler, schedule, (config.start.mean, config.start.std), name)

    @property
    def label(self) -> str:
        """Its name, and where it is from."""
        return f"{self.sampler['name']}{f' of {self.config}.yaml' if self.config else ''}"

    def plan(self, denoiser: Denoiser, quick: bool) -> tuple[samplers.Sampler, Tensor, int]:
        """The sampler, the noise levels, and the number of steps, each with one evaluation."""
        settings = dict(self.schedule)
        if "num_timesteps" not in settings:
            span = {"sigma_min": max(denoiser.sigma_min, 0.02), "sigma_max": min(denoiser.sigma_max, 80.0)}
            settings = span | settings
        if quick:
            settings["num_steps"] = max(2, settings["num_steps"] // 10)
        sampler, sigmas = samplers.make(**self.sampler), schedules.make(**settings)
        return sampler, sigmas, sampler.num_steps(len(sigmas))


def walks(network: str) -> list[Walk]:
    """Every sampler with a number of steps that is usual for it, and the paper's walk as our config has it."""
    karras = {"name": "karras", "num_steps": 20}
    return [
        Walk({"name": "ddim"}, karras),
        Walk({"name": "ddpm_small"}, karras),
        Walk({"name": "ve_reverse_diffusion"}, {**karras, "num_steps": 100}),
        Walk.of_config({"vp": "vp_uncond_sigmoidSchedule", "ve": "ve_uncond"}[network]),
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


def new_images(setup: Setup, denoiser: Denoiser, walk: Walk, count: int, tick: Callable[[int], object]) -> Tensor:
    """``count`` images as 8-bit pictures would hold them, in [-1, 1].

    Image i is a function of the seed and i: its start and its walk are drawn from (seed, i, 1), as sample.py does.
    """
    sampler, sigmas, _ = walk.plan(denoiser, setup.quick)
    mean, std = walk.start or (0.0, float(sigmas[0]))
    found = []
    for numbers in torch.arange(count).split(setup.options.batch_size):
        draws = ImageDraws([generator(setup.options.seed, int(i), 1) for i in numbers], setup.device)
        x = mean + std * draws.normal((1, 32, 32))
        x = sampler.sample(denoiser, sigmas, start=x, draws=draws, callback=lambda k, x, sigma: tick(len(x)))
        found.append(x.cpu())
    pixels = torch.from_numpy(to_bytes(torch.cat(found)))[:, None]
    return pixels.float() / 127.5 - 1


def measure(setup: Setup) -> None:
    """The whole part."""
    count = 100 if setup.quick else setup.options.num_samples
    train = frechet.load_split(setup.options.fashion_mnist, "train")
    judge = make_judge(setup, train)
    case, rows = f"unconditional, {count} samples", []
    sets = [part for part in frechet.half_mirrored(train[0], setup.options.seed).split(count) if len(part) == count]
    values = list(zip(*(judge.distances(part) for part in sets[:20]), strict=True))
    distances = [frechet.spread(list(column)) for column in values]
    rows.append([f"{count} training images", "", "", *map(cell, distances)])
    _add(setup, case, "training images", [mean for mean, _ in distances])
    setup.report.add(case, "classifier", "test_accuracy", judge.accuracy, "1")
    loaded = setup.load()
    todo = [(n, walk) for n in loaded for walk in walks(n)]
    work = count * sum(walk.plan(loaded[n], setup.quick)[2] for n, walk in todo)
    with bar(work, "new images", "evaluations") as tick:
        for n, walk in todo:
            _, sigmas, evaluations = walk.plan(loaded[n], setup.quick)
            images = new_images(setup, loaded[n], walk, count, tick)
            found = judge.distances(images)
            levels = f"{walk.schedule['name']}, {float(sigmas[0]):.3g} to {float(sigmas[-1]):.2g}"
            rows.append([f"{n.upper()} {walk.label}", levels, f"{evaluations}", *map(cell, found)])
            _add(setup, case, f"{n.upper()} {walk.label}", found)
            setup.report.add(case, f"{n.upper()} {walk.label}", "evaluations", evaluations, "1")
            picture = grid(list(to_bytes(images[:SHOWN])), side=64)
            setup.report.save()  # the next one may take long
            setup.report.folder.write_image(f"samples_{n}_{walk.sampler['name']}.png", picture)
    setup.report.settings["unconditional"] = {n: [asdict(walk) for walk in walks(n)] for n in loaded}
    _table(setup, rows, judge, count, len(sets[:20]))


def _add(setup: Setup, case: str, method: str, distances: tuple[float, ...] | list[float]) -> None:
    for metric, value in zip(("frechet_to_test_and_mirrors", "frechet_to_test"), distances, strict=True):
        setup.report.add(case, method, metric, value, "1")


def _table(setup: Setup, rows: list[list[str]], judge: Judge, count: int, sets: int) -> None:
    reached = "met" if judge.accuracy > 0.9 else "MISSED"
    setup.report.table(
        "New images: Frechet distance to the 10,000 test images",
        ["images", "noise levels", "evaluations", "test and mirrors", "test as it is"],
        rows,
        [
            f"squared distance in the {frechet.FEATURES} features of a classifier that was trained on images and their "
            f"mirror images; its test accuracy is {100 * judge.accuracy:.2f}% (target over 90%: {reached})",
            f"{count} images against the test set; the distance falls with the number, so compare equal numbers only",
            "the networks were trained with mirroring: half of their shoes point to the right, unlike any test image; "
            "the first distance counts every test image along with its mirror image",
            f"training images: mean ± standard deviation over {sets} disjoint sets, half of the images mirrored; "
            "this is what perfect samples would get",
            f"networks in {setup.precision}; pictures: samples_*.png",
        ],
    )
