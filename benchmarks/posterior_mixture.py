"""Samplers of the posterior against an exact one: the Gaussian mixture of MCGDiff in 8, 80 and 800 dimensions.

For each dimension of x and of y (1, 2, 4) there are 20 problems, with fixed seeds, and each sampler makes 1,000 samples
of each. Its settings are those of benchmarks/posterior_mixture.yaml, chosen by --tune among as many candidates for each
sampler, on problems of other seeds: the best mean sliced W1. With 800 dimensions they are those of 80.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from support.common import Report, bar, cell, parser, start
from support.mixture_problem import SLICES, MixtureProblem, make_problem, sliced

from randomwalk import samplers
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Measurement
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Sampler, schedules

SETTINGS = Path(__file__).with_name("posterior_mixture.yaml")
HEADER = "# The best settings of each sampler, by dimension of x: posterior_mixture.py --tune writes this file.\n"
DIMENSIONS, MEASURED = (8, 80, 800), (1, 2, 4)
HIGHEST = {8: 80.0, 80: 200.0, 800: 600.0}
"""Highest noise level: above the norms of the means, 45, 143 and 453."""
LOWEST = 0.01
FLOOR = "exact samples"


def grid(base: Mapping[str, Any], **axes: Iterable[Any]) -> list[dict[str, Any]]:
    """The base with every combination of the values of the axes."""
    return [{**base, **dict(zip(axes, values, strict=True))} for values in itertools.product(*axes.values())]


# Candidates: six for each. "schedule" and "num_steps" are those of the noise levels, the others those of the sampler.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "random_walk": [
        {"schedule": "sigmoid", "num_steps": 750, "step_scale": c, "initial_temperature": t, "start_std": 1.0}
        for c, t in ((0.15651, 0.0), (0.77683, 0.0), (0.7, 1.0))
    ]
    + grid({"schedule": "karras", "num_steps": 750, "initial_temperature": 1.0}, step_scale=(0.2, 0.7))
    + [{"schedule": "geometric", "num_steps": 750, "initial_temperature": 1.0, "step_scale": 0.7}],
    "random_walk, preconditioned": grid(
        {"num_steps": 500, "preconditioned": True, "step_scale": 0.5},
        schedule=("karras", "geometric"),
        initial_temperature=(0.0, 0.3, 1.0),
    ),
    "dps": [
        *grid({"schedule": "karras", "num_steps": 250}, guidance=(0.01, 0.03, 0.1, 0.3, 1.0)),
        {"schedule": "karras", "num_steps": 1000, "guidance": 0.1},
    ],
    "pigdm": grid({"schedule": "karras", "num_steps": 100}, stochasticity=(0.5, 1.0), data_std=(1.0, 4.0, 12.0)),
    "ddrm": grid(
        {"schedule": "karras", "num_steps": 100}, stochasticity=(0.7, 0.85, 1.0), stochasticity_measured=(0.85, 1.0)
    ),
    "ddnm_plus": grid({"schedule": "karras", "num_steps": 100}, stochasticity=(0.7, 0.85, 1.0), travel_repeats=(1, 2)),
    "diffpir": grid({"schedule": "karras", "num_steps": 100}, strength=(0.3, 1.0, 3.0), stochasticity=(0.3, 1.0)),
    "daps": grid({"schedule": "karras", "num_steps": 50}, ode_steps=(4, 8), data_std=(1.0, 12.0, None)),
    "split_gibbs": grid({"schedule": "karras", "num_steps": 50}, rho_min=(0.03, 0.3, 1.0), prior_steps=(8, 16)),
    "mmps": grid({"schedule": "karras", "num_steps": 100}, iterations=(1, 2, 4), stochasticity=(0.7, 1.0)),
    "tds": grid({"schedule": "karras", "num_steps": 100}, data_std=(1.0, 4.0, 12.0), ess_threshold=(0.3, 0.7)),
    "tweedie_smc": grid({"num_steps": 60}, schedule=("karras", "geometric"), probes=(1, 2, 4)),
}
for _candidate in CANDIDATES["ddnm_plus"]:
    _candidate["travel_length"] = 5 if _candidate["travel_repeats"] > 1 else 1


@dataclass(frozen=True)
class Job:
    """One problem, and the samplers with their settings to try on it."""

    d: int
    m: int
    seed: int
    num_samples: int
    samplers: list[tuple[str, dict[str, Any]]]


def make_sampler(name: str, settings: Mapping[str, Any], d: int) -> tuple[Sampler, torch.Tensor]:
    """The sampler of a row of the table, and noise levels for d dimensions."""
    own = dict(settings)
    levels = schedules.make(own.pop("schedule"), own.pop("num_steps"), sigma_min=LOWEST, sigma_max=HIGHEST[d])
    own.pop("start_std", None)
    return samplers.make(name.split(",")[0], **own), levels


def do(job: Job) -> list[dict[str, float] | None]:
    """Sample and measure: distances, error of the weights and cost of every sampler; None if it was not finite."""
    torch.set_num_threads(1)
    problem = make_problem(job.d, job.m, job.seed)
    exact = problem.exact(job.num_samples, job.seed)
    outcomes: list[dict[str, float] | None] = []
    for name, settings in job.samplers:
        began, denoiser = time.process_time(), CountingDenoiser(problem.prior)
        try:
            if name == FLOOR:
                x = problem.exact(job.num_samples, job.seed + 1_000_000)
            else:
                x = _sample(*make_sampler(name, settings, job.d), settings.get("start_std"), problem, denoiser, job)
        except RunError:
            outcomes.append(None)
            continue
        cost = {"evaluations": denoiser.evaluations, "vjps": denoiser.vjps, "seconds": time.process_time() - began}
        w1, w2 = sliced(x, exact)
        outcomes.append({"sliced_w1": w1, "sliced_w2": w2, "weight_error": problem.weight_error(x), **cost})
    return outcomes


def _sample(
    sampler: Sampler,
    levels: torch.Tensor,
    start_std: float | None,
    problem: MixtureProblem,
    denoiser: CountingDenoiser,
    job: Job,
) -> torch.Tensor:
    draws = TorchDraws(job.num_samples, torch.Generator().manual_seed(job.seed))  # float32: four times as fast
    given = Measurement(problem.operator, problem.noise, problem.y)
    begin = None if start_std is None else start_std * draws.normal(problem.operator.image_shape)
    return sampler.sample(denoiser, levels, given, num_samples=job.num_samples, start=begin, draws=draws).flatten(1)


def run(jobs: list[Job], processes: int, label: str) -> list[list[dict[str, float] | None]]:
    """The outcomes of all jobs, in their order."""
    with bar(len(jobs), label, "problems") as tick:
        if processes == 1:
            outcomes = []
            for job in jobs:
                outcomes.append(do(job))
                tick()
            return outcomes
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(do, job) for job in jobs]
            for future in futures:
                future.add_done_callback(lambda _: tick())
            return [future.result() for future in futures]


def seeds(d: int, m: int, count: int) -> list[int]:
    """Of the problems of a cell, as MCGDiff numbers them (not with its random numbers)."""
    return [2 ** DIMENSIONS.index(d) * 3 ** MEASURED.index(m) + i for i in range(count)]


# --- tuning --------------------------------------------------------------------------------------------------


def tune(options: argparse.Namespace) -> None:
    """Choose the settings of every sampler, for each dimension, and write them."""
    chosen: dict[int, dict[str, Any]] = yaml.safe_load(SETTINGS.read_text("utf-8")) if SETTINGS.exists() else {}
    trials = [(name, candidate) for name in options.samplers for candidate in CANDIDATES[name]]
    for d in sorted(set(options.dimensions) - {800}):
        jobs = [
            Job(d, m, 100_000 + 100 * m + i, options.num_samples, trials)
            for m in MEASURED
            for i in range(options.problems)
        ]
        found = list(zip(*run(jobs, options.processes, f"tuning, {d} dimensions"), strict=True))
        scores = [statistics.fmean(math.inf if v is None else v["sliced_w1"] for v in column) for column in found]
        best = chosen.setdefault(d, {})
        for name in options.samplers:
            own = [(score, settings) for score, (other, settings) in zip(scores, trials, strict=True) if other == name]
            best[name] = dict(min(own, key=lambda pair: pair[0])[1])
            print(f"{d} dimensions, {name}: W1 {', '.join(f'{s:.2f}' for s, _ in own)}; best {best[name]}", flush=True)
        SETTINGS.write_text(HEADER + yaml.safe_dump(chosen, sort_keys=False, width=120), encoding="utf-8")


# --- the table -----------------------------------------------------------------------------------------------


def confidence(values: list[float]) -> tuple[float, float]:
    """Mean, and 1.96 standard deviations over the square root of the number."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), 1.96 * spread / math.sqrt(len(values))


def table(report: Report, d: int, names: list[str], options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """All of one dimension of x."""
    rows, methods = [], [(FLOOR, {}), *((name, dict(settings[name])) for name in names)]
    jobs = [Job(d, m, seed, options.num_samples, methods) for m in MEASURED for seed in seeds(d, m, options.problems)]
    outcomes = run(jobs, options.processes, f"{d} dimensions")
    for k, (name, _) in enumerate(methods):
        row: list[str] = [name]
        costs: list[dict[str, float]] = []
        failed = 0
        for m in MEASURED:
            of_cell = [found[k] for job, found in zip(jobs, outcomes, strict=True) if job.m == m]
            found = [v for v in of_cell if v is not None]
            failed += len(of_cell) - len(found)
            for metric in ("sliced_w1", "sliced_w2", "weight_error"):
                value = confidence([v[metric] for v in found]) if found else (math.nan, math.nan)
                if metric != "sliced_w2":
                    row.append(cell(value))
                report.add(f"d_x {d}, d_y {m}", name, metric, value[0], "1")
                report.add(f"d_x {d}, d_y {m}", name, f"{metric}_confidence", value[1], "1")
            for metric, unit in (("evaluations", "1"), ("vjps", "1"), ("seconds", "s")):
                if found:
                    report.add(f"d_x {d}, d_y {m}", name, metric, statistics.fmean(v[metric] for v in found), unit)
            report.add(f"d_x {d}, d_y {m}", name, "not_finite", len(of_cell) - len(found), "1")
            costs += found
        cost = {key: statistics.fmean(v[key] for v in costs) if costs else math.nan for key in ("vjps", "seconds")}
        evaluations = costs[0]["evaluations"] if costs else math.nan
        rows.append([*row, f"{evaluations:g}", f"{cost['vjps']:.0f}", f"{cost['seconds']:.1f}", str(failed or "")])
    head = ["sampler", *(f"{what}, d_y {m}" for m in MEASURED for what in ("W1", "weights"))]
    report.table(
        f"{d} dimensions",
        [*head, "evaluations", "vjps", "processor s", "not finite"],
        rows,
        [
            f"W1: mean over {SLICES} random directions of the distance W1 between projections of {options.num_samples} "
            "samples and as many exact ones (MCGDiff's definition); weights: half the sum of the errors of the weights "
            f"of the 25 components; mean over {options.problems} problems ± 1.96 standard errors",
            f"{FLOOR}: what a perfect sampler would get; W2 and all numbers: results.csv",
            "evaluations and vjps (products with the Jacobian of the denoiser, mean over d_y) for a sample, counted by "
            "the denoiser; seconds of the processor for all samples of a problem, one thread",
        ],
    )


def options() -> argparse.ArgumentParser:
    """The options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--dimensions", type=int, nargs="+", choices=DIMENSIONS, default=list(DIMENSIONS), metavar="D")
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--problems", type=int, default=None, metavar="N", help="in each cell (20; 2 when tuning)")
    made.add_argument(
        "--num-samples", type=int, default=None, metavar="N", help="of each problem (1000; 300 when tuning)"
    )
    made.add_argument("--processes", type=int, default=1, metavar="N", help="side by side, one thread each (1)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Tune, or print the tables."""
    if unknown := sorted(set(chosen.samplers) - set(CANDIDATES)):
        raise InputError(f"--samplers: {', '.join(unknown)}; expected some of {', '.join(CANDIDATES)}")
    if chosen.quick:
        chosen.dimensions = [8]
    chosen.problems = chosen.problems or (2 if chosen.tune or chosen.quick else 20)
    chosen.num_samples = chosen.num_samples or (300 if chosen.tune or chosen.quick else 1000)
    if chosen.tune:
        tune(chosen)
        return 0
    settings = yaml.safe_load(SETTINGS.read_text("utf-8"))
    report = Report("posterior_mixture", chosen, "cpu", ["scipy"])
    report.settings["samplers"] = settings
    for d in chosen.dimensions:
        table(report, d, chosen.samplers, chosen, settings.get(d, settings[80]))
    print(f"\nfiles: {report.folder.path}")
    return 0


if __name__ == "__main__":
    start(main, options())
