"""Bits per dimension of the bundled networks on test images, by the probability flow, beside simple models.

The images are those of Fashion-MNIST in the black border that the networks know, 32 x 32 pixels, dequantised evenly. A
network's number is that of the density of X + sigma_min N at its lowest noise level (`samplers/likelihood.py`), so it
includes what a density that smooth has to pay; the table says how much that is. The dequantisation and the probes of
image i are functions of (seed, i). Each batch of images is saved when it is done: --resume FOLDER goes on with an
earlier run.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from support.common import NETWORKS, Report, add_fashion_mnist, add_weights, check_least, parser, start
from support.engine import Job, Record, Records, measure
from support.frechet import load_split
from torch import Tensor

from randomwalk.denoisers.checkpoints import load_denoiser, resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.metrics import mean_and_error
from randomwalk.rng import ImageDraws, measurement_stream
from randomwalk.samplers.likelihood import bits_per_dimension, dequantise, log_likelihood

CELL = 2 / 255
"""Distance of two grey values."""
BORDER = 2
"""Black pixels on each side."""


@dataclass(frozen=True)
class Run:
    """One way to compute the numbers of a network.

    Args:
        images: how many.
        tolerance: relative and absolute, of the solver.
        probes: of each image.
    """

    images: int
    tolerance: float
    probes: int = 1

    @property
    def label(self) -> str:
        """A name among the records."""
        return f"tolerance {self.tolerance:g}, probes {self.probes}"


@dataclass
class Setup:
    """Data, options and records of the benchmark."""

    options: argparse.Namespace
    report: Report
    records: Records
    device: torch.device
    train: Tensor
    test: Tensor
    mean: float
    variance: float

    @property
    def dimensions(self) -> int:
        """Pixels of an image, with the border."""
        return self.test[0].numel()

    @property
    def inner(self) -> int:
        """Pixels of an image, without the border."""
        return (self.test.shape[-1] - 2 * BORDER) ** 2

    def draws(self, images: Sequence[int]) -> ImageDraws:
        """The streams of images: first the dequantisation, then the probes."""
        return ImageDraws([measurement_stream(self.options.seed, i) for i in images], self.device)

    def dequantised(self) -> Tensor:
        """All test images in float64, with the numbers that the networks see."""
        return dequantise(self.test, self.draws(range(len(self.test)))).cpu().double()


# --- the networks ----------------------------------------------------------------------------------------------


def measured(setup: Setup, name: str, denoiser: Denoiser, run: Run) -> list[Record]:
    """Records of the images of a run, in their order."""
    config = {
        "network": getattr(setup.options, name).stem,
        "sigma": [denoiser.sigma_min, denoiser.sigma_max],
        "start": [setup.mean, setup.variance],
        "seed": setup.options.seed,
    }
    method, images = f"{name}, {run.label}", [str(i) for i in range(run.images)]
    jobs = [Job("likelihood", method, config, images, (setup, denoiser, run))]
    found = measure(jobs, evaluate, setup.records, method, at_once=setup.options.batch_size, keep_failures=False)
    return list(found["likelihood"][method].values())


def evaluate(job: Job) -> list[Record]:
    """Records of one batch."""
    setup, denoiser, run = job.payload
    images = [int(item) for item in job.items]
    draws = setup.draws(images)
    x = dequantise(setup.test[images].to(setup.device), draws)
    began = time.process_time()
    found = log_likelihood(
        denoiser,
        x,
        data_mean=setup.mean,
        data_variance=setup.variance,
        probes=run.probes,
        draws=draws,
        rtol=run.tolerance,
        atol=run.tolerance,
    )
    variance = denoiser.sigma_max**2 + 1
    standard = -(found.latent.square() / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1) / 2
    columns = {
        "log_prob": found.log_prob.tolist(),
        "standard_start": (found.volume + standard).tolist(),
        "standard_error": found.standard_error.tolist() if run.probes > 1 else [None] * len(images),
    }
    seconds = (time.process_time() - began) / len(images)
    shared = {"evaluations": found.evaluations, "vjps": found.vjps, "seconds": seconds}
    return [{**{key: values[row] for key, values in columns.items()}, **shared} for row in range(len(images))]


def bits(setup: Setup, found: Sequence[Record], key: str = "log_prob") -> list[float]:
    """Bits per dimension of each image."""
    values = torch.tensor([record[key] for record in found], dtype=torch.float64)
    return bits_per_dimension(values, setup.dimensions).tolist()


def network_rows(setup: Setup, name: str, denoiser: Denoiser) -> tuple[list[str], str]:
    """The row of a network, and a note on how far it can be trusted."""
    chosen, case = setup.options, f"{len(setup.test)} test images"
    main = Run(len(setup.test), chosen.tolerance)
    few = Run(chosen.check_images, chosen.tolerance / 10)
    many = Run(chosen.check_images, chosen.tolerance, chosen.probes)
    found = {run: measured(setup, name, denoiser, run) for run in (main, few, many)}
    values = bits(setup, found[main])
    coarse = [a - b for a, b in zip(values, bits(setup, found[few]), strict=False)]
    start = [b - a for a, b in zip(values, bits(setup, found[main], "standard_start"), strict=True)]
    scale = setup.dimensions * math.log(2)
    variances = [record["standard_error"] ** 2 * chosen.probes for record in found[many]]
    of_a_probe = math.sqrt(sum(variances) / len(variances)) / scale
    evaluations = [record["evaluations"] for record in found[main]]
    minutes = sum(record["seconds"] for run in found for record in found[run]) / 60
    label = NETWORKS[name]
    for metric, value, unit in (
        ("evaluations", sum(evaluations) / len(evaluations), "1"),
        ("tolerance_difference", sum(coarse) / len(coarse), "bits"),
        ("tolerance_largest_difference", max(map(abs, coarse)), "bits"),
        ("standard_error_of_a_probe", of_a_probe, "bits"),
        ("standard_start_difference", sum(start) / len(start), "bits"),
        ("processor_time", minutes, "min"),
    ):
        setup.report.add(case, label, metric, value, unit)
    note = (
        f"{label}: sigma {denoiser.sigma_min:.3g} to {denoiser.sigma_max:.4g}, {min(evaluations)} to "
        f"{max(evaluations)} evaluations, with one product with the Jacobian each; at a tenth of the tolerance "
        f"{len(coarse)} images have {-sum(coarse) / len(coarse):+.4f} bits, none more than {max(map(abs, coarse)):.4f} "
        f"off; one probe of the trace has a standard error of {of_a_probe:.4f} for one image (from {chosen.probes} "
        f"probes of each of these), {of_a_probe / math.sqrt(len(values)):.4f} for the mean, which the interval "
        f"includes; a start from Normal(0, sigma_max^2 + 1) changes the mean by {sum(start) / len(start):+.5f}; "
        f"{minutes:.0f} minutes of processor time"
    )
    return row(setup, label, denoiser.sigma_min, values), note


# --- models without a network ----------------------------------------------------------------------------------


def histogram(setup: Setup) -> list[float]:
    """Bits of each image if every pixel has the histogram of its place, counts of the training images plus one."""
    train, test = (((part + 1) * 127.5).round().long().flatten(1) for part in (setup.train, setup.test))
    places = torch.arange(setup.dimensions)
    counts = torch.ones(setup.dimensions, 256, dtype=torch.float64)
    counts.view(-1).index_add_(0, (places * 256 + train).flatten(), torch.ones(train.numel(), dtype=torch.float64))
    costs = -(counts / counts.sum(1, keepdim=True)).log2()
    return costs[places, test].mean(1).tolist()


def gaussian(setup: Setup, variances: Sequence[float]) -> list[list[float]]:
    """Bits of each dequantised image under Normal(mean, C + variance I), mean and C those of the training images."""
    flat = setup.train.flatten(1)
    mean = flat.mean(0, dtype=torch.float64)
    covariance = torch.zeros(setup.dimensions, setup.dimensions, dtype=torch.float64)
    for part in flat.split(4096):
        centred = part.double() - mean
        covariance += centred.T @ centred / len(flat)
    x, found = setup.dequantised().flatten(1), []
    for variance in variances:
        spread = covariance + variance * torch.eye(len(mean), dtype=torch.float64)
        log_prob = torch.distributions.MultivariateNormal(mean, spread).log_prob(x)
        found.append(bits_per_dimension(log_prob, setup.dimensions).tolist())
    return found


def price(sigma: float) -> float:
    """Bits that a pixel costs whose value is certain, in a density that is smoothed by sigma."""
    return math.log2(math.sqrt(2 * math.pi) * sigma / CELL) + CELL**2 / 12 / (2 * sigma**2 * math.log(2))


# --- the table -------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% confidence interval (Student)."""
    mean, error = mean_and_error(values)
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def row(setup: Setup, label: str, sigma: float | None, values: Sequence[float]) -> list[str]:
    """A row of the table; its numbers go into the results."""
    case = f"{len(values)} test images"
    mean, half = interval(values)
    share = setup.dimensions / setup.inner
    certain = 0.0 if sigma is None else price(sigma) * (1 - 1 / share)
    numbers = {"bits_per_dimension": mean, "interval": half, "bits_per_inner_pixel": mean * share}
    if sigma is not None:
        numbers["bits_of_the_border"] = certain
        numbers["bits_per_inner_pixel_without_border"] = (mean - certain) * share
    for metric, value in numbers.items():
        setup.report.add(case, label, metric, value, "bits")
    return [
        label,
        "" if sigma is None else f"{sigma:.3g}",
        f"{mean:.3f} ± {half:.3f}",
        f"{mean * share:.3f}",
        "" if sigma is None else f"{certain:.3f}",
        "" if sigma is None else f"{(mean - certain) * share:.3f}",
    ]


def simple_rows(setup: Setup, denoisers: Mapping[str, Denoiser]) -> list[list[str]]:
    """Every grey value as likely; the histogram; the Gaussian, as it is and as smooth as each network's density."""
    sigmas = sorted({denoiser.sigma_min for denoiser in denoisers.values()})
    sharp, *smooth = gaussian(setup, [CELL**2 / 12, *(sigma**2 for sigma in sigmas)])
    return [
        row(setup, "even on 256 values", None, [8.0] * len(setup.test)),
        row(setup, "histogram of each pixel", None, histogram(setup)),
        row(setup, "Gaussian", None, sharp),
        *(row(setup, f"Gaussian + {s:.3g} N", s, values) for s, values in zip(sigmas, smooth, strict=True)),
    ]


def table(setup: Setup, rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """The table with what must be known to read it."""
    black = float((setup.test == -1).flatten(1).float().mean())
    setup.report.table(
        f"Bits per dimension of {len(setup.test)} test images",
        ["model", "sigma_min", "of 1024 pixels, 95%", "of 784", "border", "of 784 without it"],
        rows,
        [
            "bits per dimension = -log p / (1024 ln 2) + log2(127.5) at uniformly dequantised images; 95% interval "
            "over images",
            "of 784: the same bits for the 784 pixels inside the border, a code length of the 28 x 28 image",
            "border: the part of the bits of 1024 that the density of X + sigma_min N spends on the 240 pixels of the "
            "border, all of which are black in X; the last column is without it. Every other pixel that is certain "
            f"costs the same; {100 * black:.0f}% of all pixels are black",
            "Gaussian: mean and covariance of the training images, dequantised, and with sigma_min N added, as the "
            "networks' densities have it; histogram: code length of the bytes themselves",
            f"networks in fp32, tolerance {setup.options.tolerance:g}, started at sigma_max from "
            f"Normal({setup.mean:.3f}, sigma_max^2 + {setup.variance:.3f}): mean and variance of the training pixels",
            *notes,
        ],
    )


# --- the script ------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_weights(made)
    made.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="only these")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument("--num-images", type=int, default=256, metavar="N", help="the first N test images (256)")
    made.add_argument("--batch-size", type=int, default=64, metavar="N", help="images that share the steps (64)")
    made.add_argument("--tolerance", type=float, default=3e-4, help="of the solver, relative and absolute (3e-4)")
    made.add_argument("--check-images", type=int, default=8, metavar="N", help="images of the two checks (8)")
    made.add_argument("--probes", type=int, default=4, metavar="N", help="probes in the check of their spread (4)")
    made.add_argument("--resume", metavar="FOLDER", help="reuse what an earlier run with the same settings has done")
    add_fashion_mnist(made)
    return made


def prepare(chosen: argparse.Namespace) -> Setup:
    """Read the data, open the report."""
    device = resolve_device(chosen.device)
    train, test = (load_split(chosen.fashion_mnist, split)[0] for split in ("train", "test"))
    if chosen.num_images > len(test):
        raise InputError(f"--num-images {chosen.num_images}: the test set has {len(test)}")
    if chosen.quick:
        train = train[:6000]
    mean = float(train.mean(dtype=torch.float64))
    variance = float(np.var(train.numpy(), dtype=np.float64))
    report = Report("likelihood", chosen, str(device), ["torchdiffeq", "scipy"])
    records = Records(report.folder, chosen.resume)
    return Setup(chosen, report, records, device, train, test[: chosen.num_images], mean, variance)


def main(chosen: argparse.Namespace) -> int:
    """Measure the networks, then the simple models."""
    if chosen.quick:
        chosen.num_images, chosen.check_images, chosen.probes, chosen.tolerance = 4, 2, 2, 3e-3
    check(chosen)
    weights: dict[str, Any] = {name: getattr(chosen, name) for name in chosen.networks}
    for path in weights.values():
        load_denoiser(path)  # a file that does not load is told now
    setup = prepare(chosen)
    denoisers = {name: load_denoiser(path, device=setup.device) for name, path in weights.items()}
    rows, notes = simple_rows(setup, denoisers), []
    for name, denoiser in denoisers.items():
        added, note = network_rows(setup, name, denoiser)
        rows.append(added)
        notes.append(note)
    table(setup, rows, notes)
    return setup.report.finish()


def check(chosen: argparse.Namespace) -> None:
    """Raise InputError for numbers that make no sense."""
    check_least(chosen, num_images=2, batch_size=1, check_images=1, probes=2, seed=0)
    if chosen.check_images > chosen.num_images:
        raise InputError(f"--check-images {chosen.check_images}: expected at most --num-images {chosen.num_images}")
    if not chosen.tolerance > 0:
        raise InputError(f"--tolerance {chosen.tolerance:g}: expected more than 0")


if __name__ == "__main__":
    start(main, options())
