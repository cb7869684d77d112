"""Does embedding scores help on a set of images? 1,000 of Fashion-MNIST's, at an equal time budget.

The same network is trained with the correct score embedded, with the published one, with a random field and with none,
for as many seconds of density, solver and training together. Measured are its errors as a denoiser of test images, at
several noise levels and in the mean that the training minimises, and the Frechet distance of its samples to the test
set in the features of a classifier (as in bundled_weights.py). The closed-form denoiser of the training set stands
beside them: it needs no training, and knows nothing else. The arms are full configurations (score_embedding_set.yaml).

A record of every run is written when it ends; --resume FOLDER goes on with those that are there.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from support import arms, frechet, set_report, unconditional
from support.common import Report, add_fashion_mnist, check_least, parser, start
from support.engine import Record, Records
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.images.tensors import to_bytes
from randomwalk.rng import ImageDraws, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.samplers import schedules
from randomwalk.studies.score_embedding.images import load_images
from randomwalk.studies.score_embedding.trainer import Trainer
from score_sde import sdes

SETTINGS = Path(__file__).with_suffix(".yaml")
TIMES = 10
"""Noise levels at which the denoiser is measured: the middles of as many parts of [0, 1]."""
STEPS = 40
"""Steps of the sampler, DDPM on the levels of Karras et al."""


@dataclass(frozen=True)
class Task:
    """Judge and data that measure a run."""

    judge: unconditional.Judge
    test: Tensor
    num_samples: int
    pictures: RunFolder


def do(job: arms.Job) -> Record:
    """Train until the time is over, and measure."""
    arms.one_thread()
    if not job.arm.trained:
        denoiser = EmpiricalDenoiser(training_images(job.config))
        return measure(denoiser, job) | {"steps": 0, "timings": {}, "shift": []}
    with tempfile.TemporaryDirectory(prefix="set") as place, arms.quiet():
        new = job.config, resolve_device(job.config.device), RunFolder.create(Path(place) / "run")
        field = job.extra.pictures.file(f"field_{job.arm.name}.pt")
        trainer = Trainer(*new) if job.arm.counted else arms.Solved(*new, field)
        trainer.prepare()
        timings = dict(trainer.clock.seconds)
        if not job.arm.counted:
            trainer.clock.seconds.update(density=0.0, solve=0.0)
        trainer.run()
        timings["training"] = trainer.clock.seconds["training"]
        average = trainer.descent.ema
        if average is not None:
            trainer.denoiser.network.load_state_dict(average.state_dict_of(trainer.denoiser.network))
        found = measure(trainer.denoiser.eval(), job)
        return found | {"steps": trainer.step, "timings": timings, "shift": arms.shift(trainer)}


# --- measurements ----------------------------------------------------------------------------------------------------


def levels(config: ScoreEmbeddingConfig) -> tuple[Tensor, Tensor]:
    """At the times of `TIMES`: noise levels of pixels in [-1, 1]; 1 / (2 g^2 std^2), which weights their errors."""
    method = config.method
    assert isinstance(method, EmbeddingMethod)
    sde = sdes.make("power_ve", base=method.base)
    t = method.eps + (1 - method.eps) * (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    std = sde.std(t)
    return 2 * std, 1 / (2 * sde.diffusion(t) ** 2 * std**2)


@torch.inference_mode()
def errors(denoiser: Denoiser, images: Tensor, sigmas: Tensor) -> list[float]:
    """Mean squared error of D(x + sigma n, sigma), by sigma, of pixels in [-1, 1]; n is the same for all denoisers."""
    found = []
    for number, sigma in enumerate(sigmas.tolist()):
        total = 0.0
        for places in torch.arange(len(images)).split(100):
            clean = images[places]
            noise = ImageDraws([generator(0, number, int(i)) for i in places]).normal(clean.shape[1:])
            total += float((denoiser(clean + sigma * noise, sigma) - clean).double().square().sum())
        found.append(total / images.numel())
    return found


def loss_of(config: ScoreEmbeddingConfig, mse: list[float], pixels: int) -> float:
    """The loss of the training, ``mean over t of ||s std + z||^2 / (2 g^2)``, of a denoiser's errors at the times.

    With ``D = y + std^2 s`` and ``y = u + std z``: ``s std + z = (D - u) / std``. Pixels in [0, 1] have a quarter of
    the squared errors of those in [-1, 1].
    """
    weights = levels(config)[1]
    return float((weights * torch.tensor(mse, dtype=torch.float64) / 4 * pixels).mean())


def measure(denoiser: Denoiser, job: arms.Job) -> Record:
    """Errors on the test images, and the Frechet distance of new images; a picture of some."""
    task: Task = job.extra
    sigmas, _ = levels(job.config)
    mse = errors(denoiser, task.test, sigmas)
    images = samples(denoiser.eval(), job, task.num_samples)
    set_report.sheet(task.pictures, f"{job.arm.name}_{job.seed}", images)
    return {
        "sigma": sigmas.tolist(),
        "mse": mse,
        "loss": loss_of(job.config, mse, task.test[0].numel()),
        "frechet": task.judge.distances(images)[1],
    }


@torch.inference_mode()
def samples(denoiser: Denoiser, job: arms.Job, count: int) -> Tensor:
    """New images, as 8-bit pictures would hold them, in [-1, 1]; image i is a function of the seed and i."""
    method = job.config.method
    assert isinstance(method, EmbeddingMethod)
    sde = sdes.make("power_ve", base=method.base)
    low, high = 2 * float(sde.std(method.eps)), 2 * float(sde.std(1.0))
    sigmas, sampler = schedules.make("karras", STEPS, sigma_min=low, sigma_max=high), samplers.make("ddpm_small")
    mean, root = start_law(training_images(job.config), high)
    found = []
    for numbers in torch.arange(count).split(100):
        draws = ImageDraws([generator(job.seed, int(i), 1) for i in numbers])
        noise = draws.normal((1, 32, 32))
        x = (mean + noise.flatten(1) @ root.T).reshape(noise.shape)
        found.append(sampler.sample(denoiser, sigmas, start=x, draws=draws))
    pixels = torch.from_numpy(to_bytes(torch.cat(found)))[:, None]
    return pixels.float() / 127.5 - 1


def start_law(images: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` and a root of the covariance ``[d, d]`` of the images with noise of standard deviation sigma.

    Samples start from the normal law with these moments: at the highest level of the paper's SDE the noise does not
    hide the images, so that noise alone would be a start that the network has never seen.
    """
    points = images.flatten(1).double()
    covariance = points.T.cov() + sigma**2 * torch.eye(points.shape[1], dtype=torch.float64)
    return points.mean(0).float(), torch.linalg.cholesky(covariance).float()


def training_images(config: ScoreEmbeddingConfig) -> Tensor:
    """In [-1, 1]."""
    return 2 * load_images(config.data)[0] - 1


# --- the benchmark ---------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--arms", nargs="+", metavar="NAME", help="only these of the YAML file")
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="of each: weights, noise, samples (3)")
    made.add_argument("--num-images", type=int, default=1000, metavar="N", help="training images (1000)")
    made.add_argument("--num-samples", type=int, default=1000, metavar="N", help="new images of each run (1000)")
    made.add_argument("--minutes", type=float, metavar="M", help="of density, solver and training (those of the file)")
    made.add_argument("--processes", type=int, default=1, metavar="N", help="side by side, one thread each (1)")
    made.add_argument("--resume", metavar="FOLDER", help="of an earlier run: what is there is not done again")
    add_fashion_mnist(made)
    return made


def main(chosen: argparse.Namespace) -> int:
    """Run what is missing, and print."""
    check_least(chosen, seeds=1, processes=1, num_images=2, num_samples=2)
    unconditional.check_data(chosen.fashion_mnist)
    found = arms.chosen(arms.load(SETTINGS, chosen.quick), chosen.arms)
    if chosen.quick:
        chosen.num_images, chosen.num_samples, chosen.seeds = 20, 50, min(chosen.seeds, 2)
    arms.one_thread()
    data = {"path": str(chosen.fashion_mnist), "num_images": chosen.num_images}
    if chosen.minutes is not None:
        found = [arms.changed(arm, {"time_limit": 60 * chosen.minutes}) for arm in found]
    device = resolve_device(chosen.device)
    configs = {(arm.name, seed): arm.config(seed, str(device), data) for seed in range(chosen.seeds) for arm in found}
    report = Report("score_embedding_set", chosen, str(device))
    report.settings["arms"] = {arm.name: arm.data for arm in found}
    train = frechet.load_split(chosen.fashion_mnist, "train")
    judge = unconditional.make_judge(setup_of(chosen, report, device), train)
    test = frechet.load_split(chosen.fashion_mnist, "test")[0][: 50 if chosen.quick else 1000]
    task = Task(judge, test, chosen.num_samples, report.folder)
    case = f"{chosen.num_images} images"
    jobs = [arms.Job(case, arm, seed, configs[arm.name, seed], task) for seed in range(chosen.seeds) for arm in found]
    records = arms.run(jobs, do, Records(report.folder, chosen.resume), chosen.processes)
    for arm in found:
        report.folder.file(f"field_{arm.name}.pt").unlink(missing_ok=True)  # large, and of no use to anyone
    outcomes: dict[str, list[Record]] = {}
    for job, record in zip(jobs, records, strict=True):
        outcomes.setdefault(job.arm.name, []).append(record)
    floor = set_report.floor(judge, train[0], chosen.num_images, chosen.num_samples)
    set_report.write(report, found, {name: config for (name, _), config in configs.items()}, outcomes, floor, judge)
    return report.finish()


def setup_of(chosen: argparse.Namespace, report: Report, device: torch.device) -> Any:
    """Setup of the judge, the same for all seeds."""
    options = SimpleNamespace(seed=0, fashion_mnist=chosen.fashion_mnist)
    return SimpleNamespace(quick=chosen.quick, options=options, device=device, report=report)


if __name__ == "__main__":
    start(main, options())
