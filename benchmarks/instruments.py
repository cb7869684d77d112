"""Reconstruction in MRI and tomography: the walk at one setting, beside classical methods and deepinv's samplers.

The images are phantoms that the bundled networks were not trained on, or other people's arrays. K-space of eight coils
has Gaussian noise; projections are counts of photons, which all methods take for Gaussian noise with the variance that
the counts of each ray say. Settings of the other methods were chosen for each case by --tune, on phantoms of other
numbers. Restorations with noise of their own (kappa = 1) give intervals, whose width is found on yet other phantoms.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support import photo_peers
from support.common import ROOT, Report, check_least, parser, start
from support.engine import (
    Clock,
    Job,
    Record,
    Records,
    Settings,
    choose,
    combinations,
    failure,
    measure,
    read_yaml,
    write_setting,
)
from support.engine import sample as draw
from support.photo_baselines import divergence, gradient
from support.photo_problems import Problem
from support.photographs import fingerprint, spread
from torch import Tensor

import randomwalk
from randomwalk import operators
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.images import metrics
from randomwalk.images.array_source import open_arrays
from randomwalk.images.phantoms import body, brain_slice, draws_of, read_tissues
from randomwalk.operators import Measurement
from randomwalk.operators import noise as noises
from randomwalk.operators.instrument_noise import BeerLambertNoise
from randomwalk.operators.noise import GaussianNoise
from randomwalk.operators.weighted import Weighted
from randomwalk.rng import ImageDraws, generator
from randomwalk.sampling import intervals

HERE = Path(__file__).parent
SETTINGS = HERE / "instruments_settings.yaml"
TESTED, TUNED, CALIBRATED = 200_000, 300_000, 400_000
"""Numbers of the first phantom that is measured, that settings are chosen on, and that intervals are calibrated on."""
WALK, SAMPLES, TV = "random_walk", "random_walk, kappa 1", "total variation"
NONE = {"mri": "zero-filled", "tomography": "filtered back-projection"}
TV_ITERATIONS = 300
LEVEL, NORMAL = 0.9, 1.645
"""Level of the intervals, and the factor of the standard deviation that gives it for a Gaussian."""
QUANTILES = 1001
"""Quantiles that stand for the scores of all pixels of an image."""
MEASURED = {"psnr": "dB", "ssim": "1", "evaluations": "1", "seconds": "s"}


@dataclass(frozen=True)
class Case:
    """An instrument: its kind, operator, noise, and the range of the images, which becomes [-1, 1]."""

    kind: str
    title: str
    operator: Mapping[str, Any]
    noise: Mapping[str, Any]
    range: tuple[float, float]

    def problem(self, truth: Tensor, number: int) -> Problem:
        """Measure an image ``[1, C, H, W]``; the operator has norm 1 and the noise is Gaussian."""
        draws = [generator(0, number)]
        operator = operators.make(image_shape=truth.shape[1:], generators=draws, **self.operator)
        noise = noises.make(**self.noise).of_operator(operator)
        y = noise.apply(operator(truth), ImageDraws(draws, torch.device("cpu")))
        std, weights, norm = noise.std, torch.ones_like(y), operator.norm()
        if isinstance(noise, BeerLambertNoise):
            std, weights = noise.stable_std, noise.weights(y)
        weights = weights / norm
        return Problem(Weighted(operator, weights), GaussianNoise(std / norm), weights * y, truth)


def cases(plan: Mapping[str, Any], kinds: Sequence[str]) -> list[Case]:
    """The cases of instruments.yaml."""
    return [
        Case(kind, title, operator, plan[kind]["noise"], tuple(plan[kind]["range"]))
        for kind in kinds
        for title, operator in plan[kind]["cases"].items()
    ]


# --- images ----------------------------------------------------------------------------------------------------------


def phantoms(case: Case, first: int, count: int, side: int, template: Path | None) -> list[Tensor]:
    """Phantoms ``[1, C, H, W]`` in [-1, 1], from a number on."""
    low, high = case.range
    tissues = read_tissues(template) if case.kind == "mri" and template is not None else None
    found = []
    for number in range(first, first + count):
        draws = draws_of(number)
        image = body(side, draws) if tissues is None else brain_slice(tissues, side, draws)
        planes = np.stack([image.real, image.imag]) if np.iscomplexobj(image) else image[None]
        found.append(torch.from_numpy(((planes - low) * (2 / (high - low)) - 1).astype(np.float32))[None])
    return found


def others(case: Case, path: Path) -> list[Tensor]:
    """The arrays of a folder or a file, ``[1, C, H, W]`` in [-1, 1]."""
    source = open_arrays(path)
    source.range = case.range
    channels = 2 if case.kind == "mri" else 1
    return [torch.from_numpy(source.pixels(i, channels)).permute(2, 0, 1)[None] for i in range(len(source))]


# --- methods ---------------------------------------------------------------------------------------------------------


def total_variation(problem: Problem, weight: float) -> Tensor:
    """``argmin ||A x - y||^2 / 2 + w TV(x)``, by the primal-dual method of Condat (2013) and Vu (2013), ||A|| = 1.

    Args:
        weight: w, in units of the noise's standard deviation.
    """
    operator, w = problem.operator, weight * problem.noise.std
    tau = 1.0
    sigma = (1 / tau - 0.5) / 8
    x = problem.operator.interpolated(problem.y)
    dual = gradient(torch.zeros_like(x))
    for _ in range(TV_ITERATIONS):
        following = x - tau * (operator.adjoint(operator(x) - problem.y) - divergence(dual))
        dual = dual + sigma * gradient(2 * following - x)
        dual = dual / (dual.square().sum((0, 2), keepdim=True).sqrt() / w).clamp_min(1)
        x = following
    return x


def restore(title: str, settings: Settings, problem: Problem, denoiser: Denoiser, number: int) -> tuple[Tensor, Record]:
    """Samples ``[S, C, H, W]`` of a method, mostly one, and its cost."""
    clock, cost = Clock(torch.device("cpu")), {"evaluations": 0, "vjps": 0}
    if title in NONE.values():
        x = problem.operator.interpolated(problem.y)
    elif title == TV:
        x = total_variation(problem, **settings)
    elif photo_peers.library_of(title):
        x, counter = photo_peers.restore(title, settings, problem, denoiser, number)
        cost = {"evaluations": counter.evaluations, "vjps": counter.vjps}
    else:
        count = settings.get("count", 1)
        draws = ImageDraws([generator(1, number, k) for k in range(count)], torch.device("cpu"))
        given = Measurement(problem.operator, problem.noise, problem.y)
        own = {key: value for key, value in settings.items() if key != "count"}
        found, cost = draw(title, own, denoiser, given, count, draws)
        return found[0], cost
    return x, {**cost, "seconds": clock.seconds()}


@dataclass(frozen=True)
class Work:
    """A method on the images of a case, by their numbers."""

    case: Case
    title: str
    settings: Settings
    images: Mapping[str, Tensor]
    denoiser: Denoiser


def do(job: Job) -> list[Record]:
    """Qualities of a method on the images of a job."""
    work: Work = job.payload
    made = []
    for item in job.items:
        truth = work.images[item]
        problem = work.case.problem(truth, int(item))
        x, cost = restore(work.title, work.settings, problem, work.denoiser, int(item))
        mean = x.mean(0, keepdim=True)
        record = {"psnr": psnr(mean, truth), "ssim": float(metrics.ssim(shown(mean), shown(truth))), **cost}
        if len(x) > 1:
            record |= {"one_psnr": psnr(x[:1], truth), "scores": scores_within(x, truth)}
        made.append(record)
    return made


def shown(x: Tensor) -> Tensor:
    """Magnitudes from 0 to 1 as [-1, 1]; images of one channel as they are."""
    return x if x.shape[1] == 1 else 2 * x.square().sum(1, keepdim=True).sqrt() - 1


def psnr(x: Tensor, truth: Tensor) -> float:
    """PSNR in dB: of magnitudes with the peak 1, of attenuation with the largest of the range."""
    return float(10 * torch.log10(4 / (shown(x) - shown(truth)).square().mean()))


def scores_within(x: Tensor, truth: Tensor) -> list[float]:
    """`intervals.scores` of samples ``[S, C, H, W]`` in the object: the air around it is no question."""
    kept = (truth > -0.9) if truth.shape[1] == 1 else (truth.square().sum(1, keepdim=True) > 0.05**2).expand_as(truth)
    found = intervals.scores(x.mean(0).numpy(), x.std(0).numpy(), truth[0].numpy())[kept[0].numpy()]
    return np.quantile(found, np.linspace(0, 1, QUANTILES)).tolist()


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Options, plan, records and networks, which all cases share."""

    options: argparse.Namespace
    plan: Mapping[str, Any]
    records: Records
    denoisers: Mapping[str, Denoiser]
    weights: Mapping[str, str]

    def job(self, case: Case, title: str, settings: Settings, images: Mapping[str, Tensor]) -> Job:
        """A method on images of a case."""
        config = {
            "case": repr(case), "settings": settings, "side": self.options.side, "precision": self.options.precision,
            "data": str(self.options.data), "weights": self.weights[case.kind],
        }  # fmt: skip
        work = Work(case, title, settings, images, self.denoisers[case.kind])
        return Job(case.title, title, config, list(images), work)

    def images(self, case: Case, first: int, count: int) -> dict[str, Tensor]:
        """Phantoms by their numbers."""
        made = phantoms(case, first, count, self.options.side, self.options.template)
        return {str(first + k): image for k, image in enumerate(made)}

    def measured(self, case: Case) -> dict[str, Tensor]:
        """The images of the table."""
        if self.options.data is None:
            return self.images(case, TESTED, self.options.images)
        found = others(case, self.options.data)
        return {str(TESTED + k): found[k] for k in spread(len(found), self.options.images)}

    def methods(self, case: Case) -> dict[str, Settings]:
        """Settings of each method: those of the file, and for the walk those of the plan."""
        chosen = read_yaml(SETTINGS).get(case.title, {})
        left = {title: chosen.get(title, combinations(self.plan[title])[0]) for title in self.candidates()}
        walk = {WALK: dict(self.plan["restoration"]), SAMPLES: self.samples()}
        return {NONE[case.kind]: {}, **left, **walk}

    def samples(self) -> Settings:
        """Settings of the samples."""
        return {**self.plan["samples"], "count": self.options.samples}

    def candidates(self) -> list[str]:
        """Methods whose settings are chosen; without deepinv only the classical one."""
        lacking = photo_peers.missing("deepinv")
        return [TV, *([] if lacking else [name for name in self.plan if photo_peers.library_of(name)])]

    def tune(self, case: Case) -> None:
        """Choose the settings of each method by PSNR, and write them."""
        images = self.images(case, TUNED, self.options.tuned)
        for title in [name for name in self.candidates() if name in (self.options.methods or self.candidates())]:

            def loss(settings: Settings, whole: bool, title: str = title) -> float:
                found = measure([self.job(case, title, settings, images)], do, self.records, f"{case.title}: {title}")
                records = found[case.title][title]
                return float("inf") if failure(records) else -statistics.fmean(r["psnr"] for r in records.values())

            best, losses = choose(combinations(self.plan[title]), loss)
            write_setting(SETTINGS, [case.title, title], best)
            print(f"{case.title}: {title}: {best}, {-min(losses):.2f} dB")

    def table(self, case: Case, report: Report) -> None:
        """Measure a case and print its table."""
        images = self.measured(case)
        jobs = [self.job(case, title, settings, images) for title, settings in self.methods(case).items()]
        found = measure(jobs, do, self.records, case.title)[case.title]
        rows = []
        for title, records in found.items():
            if said := failure(records):
                rows.append([title, said, "", "", "", ""])
                continue
            means = {key: statistics.fmean(r[key] for r in records.values()) for key in MEASURED}
            for key, unit in MEASURED.items():
                report.add(case.title, title, key, means[key], unit)
            behind = [found[SAMPLES][k]["psnr"] - r["psnr"] for k, r in records.items()]
            name = f"{title}, mean of {self.options.samples}" if title == SAMPLES else title
            rows.append([
                name, f"{means['psnr']:.2f}", f"{means['ssim']:.3f}", f"{means['evaluations']:g}",
                f"{means['seconds']:.1f}", "" if title == SAMPLES else f"{min(behind):+.2f}",
            ])  # fmt: skip
        head = ["method", "PSNR", "SSIM", "evaluations", "seconds", "least gain of the samples' mean"]
        report.table(case.title, head, rows, self.notes(case, found[SAMPLES], report))

    def notes(self, case: Case, records: Mapping[str, Record], report: Report) -> list[str]:
        """Coverage of the intervals, before and after calibration on other phantoms."""
        images = self.images(case, CALIBRATED, self.options.calibrated)
        job = self.job(case, SAMPLES, self.samples(), images)
        other = measure([job], do, self.records, f"{case.title}, calibration")[case.title][SAMPLES]
        q = float(np.quantile([r["scores"] for r in other.values()], LEVEL))
        shares = {}
        for name, factor in (("plain", NORMAL), ("calibrated", q)):
            covered = [float(np.mean(np.array(r["scores"]) <= factor)) for r in records.values()]
            error = statistics.stdev(covered) / len(covered) ** 0.5 if len(covered) > 1 else 0.0
            shares[name] = (statistics.fmean(covered), error)
            report.add(case.title, SAMPLES, f"coverage_{name}", shares[name], "1")
        one = statistics.fmean(r["one_psnr"] for r in records.values())
        report.add(case.title, SAMPLES, "one_psnr", one, "dB")
        said = {name: f"{100 * mean:.1f}% +- {100 * error:.1f}%" for name, (mean, error) in shares.items()}
        return [
            f"{len(records)} images; evaluations are of one sample, seconds of all; one sample has {one:.2f} dB",
            f"intervals of {LEVEL:.0%} in the object: mean +- {NORMAL} std covers {said['plain']}; with the factor "
            f"{q:.2f}, which covers {LEVEL:.0%} in {len(other)} other phantoms, {said['calibrated']}; randomwalk "
            "calibrate, which has a guarantee, takes a larger factor, the more so the fewer images there are",
        ]


def main(options: argparse.Namespace) -> int:
    """Measure the cases that the options name, or choose settings."""
    check_least(options, images=2, samples=4, calibrated=1, tuned=1, side=32)
    plan = read_yaml(HERE / "instruments.yaml")
    if options.quick:
        options.images, options.samples, options.calibrated, options.side = 2, 4, 4, 32
        plan["samples"]["num_steps"] = 10
        plan["DPS (deepinv)"]["evaluations"] = [20]
    kinds = [kind for kind in NONE if kind in options.kinds]
    if "mri" in kinds and options.template is None:
        kinds.remove("mri")
        print("note: MRI is left out: its phantoms need --template, the folder nilearn/datasets/data of nilearn")
    report = Report("instruments", options, "cpu", ["scipy", "deepinv"])
    denoisers: dict[str, Denoiser] = {}
    weights: dict[str, str] = {}
    for kind in kinds:
        path = ROOT / "pretrained_models" / f"{plan[kind]['network']}.safetensors"
        denoisers[kind] = randomwalk.load_denoiser(path, precision=options.precision)
        weights[kind] = fingerprint(path)
    bench = Bench(options, plan, Records(report.folder, options.resume), denoisers, weights)
    for case in cases(plan, kinds):
        if options.tune:
            bench.tune(case)
        else:
            bench.table(case, report)
    return report.finish()


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--kinds", nargs="+", choices=list(NONE), default=list(NONE), help="only these instruments")
    made.add_argument("--template", type=Path, help="folder nilearn/datasets/data, for the phantoms of MRI")
    made.add_argument("--data", type=Path, metavar="PATH", help="arrays to measure instead of phantoms")
    made.add_argument("--images", type=int, default=6, metavar="N", help="to measure (6)")
    made.add_argument("--samples", type=int, default=8, metavar="N", help="restorations of an image, for a spread (8)")
    made.add_argument("--calibrated", type=int, default=12, metavar="N", help="phantoms for the intervals (12)")
    made.add_argument("--tune", action="store_true", help="choose the settings of the other methods, and write them")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="only these, with --tune")
    made.add_argument("--tuned", type=int, default=2, metavar="N", help="phantoms to choose settings on (2)")
    made.add_argument("--side", type=int, default=128, metavar="N", help="of the phantoms, in pixels (128)")
    made.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the network (auto)")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


if __name__ == "__main__":
    start(main, options())
