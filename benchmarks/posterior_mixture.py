"""Posterior samplers against an exact posterior: the Gaussian mixture of MCGDiff in 8, 80 and 800 dimensions.

For each dimension of x and of y (1, 2, 4) there are 20 problems with fixed seeds. Each sampler makes 1,000 samples for
each of them. Its settings are those of posterior_mixture_settings.yaml: the candidates of posterior_mixture.yaml with
the best mean sliced W1 on problems of other seeds, chosen by --tune. In 800 dimensions they are those of 80.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from support.common import Report, cell, check_least, parser, start
from support.engine import (
    FAILED,
    Job,
    Record,
    Records,
    Settings,
    choose,
    combinations,
    measure,
    read_yaml,
    sample,
    write_setting,
)
from support.mixture_problem import SLICES, make_problem, sliced

from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.rng import TorchDraws
from randomwalk.runs.folder import RunFolder

PLAN = Path(__file__).with_suffix(".yaml")
SETTINGS = PLAN.with_stem("posterior_mixture_settings")
CANDIDATES = {name: combinations(given) for name, given in read_yaml(PLAN)["samplers"].items()}
DIMENSIONS, MEASURED = (8, 80, 800), (1, 2, 4)
LOWEST = 0.01
HIGHEST = {8: 80.0, 80: 200.0, 800: 600.0}
"""Noise levels, from above the norms of the means: 45, 143 and 453."""
FLOOR = "exact samples"


def job_of(name: str, settings: Settings, d: int, m: int, seeds: list[int], num_samples: int) -> Job:
    """A sampler, or exact samples, on problems with d dimensions of x and m of y."""
    config = {"settings": settings, "num_samples": num_samples}
    return Job(f"d_x {d}, d_y {m}", name, config, [str(s) for s in seeds], (name, settings, d, m, num_samples))


def do(job: Job) -> list[Record]:
    """Distances, error of the weights and cost of a sampler on one problem.

    Raises:
        RunError: the state is not finite.
    """
    torch.set_num_threads(1)
    (name, settings, d, m, num_samples), seed = job.payload, int(job.items[0])
    problem = make_problem(d, m, seed)
    exact, began = problem.exact(num_samples, seed), time.process_time()
    if name == FLOOR:
        x = problem.exact(num_samples, seed + 1_000_000)
        cost: Record = {"evaluations": 0, "vjps": 0, "seconds": time.process_time() - began}
    else:
        draws = TorchDraws(num_samples, torch.Generator().manual_seed(seed))  # float32: four times as fast
        levels = {"sigma_min": LOWEST, "sigma_max": HIGHEST[d]}
        given = Measurement(problem.operator, problem.noise, problem.y)
        samples, cost = sample(name, {**levels, **settings}, problem.prior, given, num_samples, draws)
        x = samples[0].flatten(1)
    w1, w2 = sliced(x, exact)
    return [{"sliced_w1": w1, "sliced_w2": w2, "weight_error": problem.weight_error(x), **cost}]


def tune(options: argparse.Namespace) -> int:
    """Choose the settings of every sampler for each dimension, and write them."""
    folder = RunFolder.create(options.out or Path("results") / "benchmarks" / "posterior_mixture_tuning")
    records = Records(folder, options.resume)
    for d in sorted(set(options.dimensions) - {800}):
        for name in options.samplers:

            def loss(settings: Settings, _: bool, d: int = d, name: str = name) -> float:
                """Mean sliced W1, infinite if a run failed."""
                jobs = []
                for m in MEASURED:
                    seeds = [100_000 + 100 * m + i for i in range(options.problems)]
                    job = job_of(name, settings, d, m, seeds, options.num_samples)
                    jobs.append(replace(job, method=f"{name} {json.dumps(settings)}"))
                found = measure(jobs, do, records, f"{d} dimensions, {name}", processes=options.processes)
                every = [r for methods in found.values() for items in methods.values() for r in items.values()]
                return statistics.fmean(math.inf if FAILED in r else r["sliced_w1"] for r in every)

            best, losses = choose(CANDIDATES[name], loss)
            print(f"{d} dimensions, {name}: W1 {', '.join(f'{s:.2f}' for s in losses)}; best {best}", flush=True)
            write_setting(SETTINGS, [d, name], best)
    return 0


# --- the table -------------------------------------------------------------------------------------------------------


def confidence(values: list[float]) -> tuple[float, float]:
    """Mean, and 1.96 of its standard errors; NaN without any values."""
    if not values:
        return math.nan, math.nan
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), 1.96 * spread / math.sqrt(len(values))


def table(
    report: Report, records: Records, d: int, options: argparse.Namespace, settings: Mapping[str, Settings]
) -> None:
    """Measure and print one dimension of x."""
    methods = {FLOOR: {}, **{name: settings[name] for name in options.samplers}}
    jobs = []
    for m in MEASURED:  # seeds as MCGDiff numbers them, not with its random numbers
        first = 2 ** DIMENSIONS.index(d) * 3 ** MEASURED.index(m)
        seeds = list(range(first, first + options.problems))
        jobs += [job_of(name, own, d, m, seeds, options.num_samples) for name, own in methods.items()]
    found = measure(jobs, do, records, f"{d} dimensions", processes=options.processes)
    rows = []
    for name in methods:
        line, costs, failed = [name], [], 0
        for m in MEASURED:
            case = f"d_x {d}, d_y {m}"
            kept = [record for record in found[case][name].values() if FAILED not in record]
            lost = len(found[case][name]) - len(kept)
            for metric in ("sliced_w1", "sliced_w2", "weight_error"):
                value = confidence([record[metric] for record in kept])
                if metric != "sliced_w2":
                    line.append(cell(value))
                report.add(case, name, metric, value[0], "1")
                report.add(case, name, f"{metric}_confidence", value[1], "1")
            for metric, unit in (("evaluations", "1"), ("vjps", "1"), ("seconds", "s")):
                if kept:
                    report.add(case, name, metric, statistics.fmean(record[metric] for record in kept), unit)
            report.add(case, name, "not_finite", lost, "1")
            costs += kept
            failed += lost
        evaluations = costs[0]["evaluations"] if costs else math.nan
        vjps, seconds = (confidence([record[key] for record in costs])[0] for key in ("vjps", "seconds"))
        rows.append([*line, f"{evaluations:g}", f"{vjps:.0f}", f"{seconds:.1f}", str(failed or "")])
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
            "the denoiser; processor seconds for all samples of a problem, one thread",
        ],
    )


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--dimensions", type=int, nargs="+", choices=DIMENSIONS, default=list(DIMENSIONS), metavar="D")
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--problems", type=int, metavar="N", help="problems of each size (20; 2 when tuning)")
    made.add_argument("--num-samples", type=int, metavar="N", help="samples of each problem (1000; 300 when tuning)")
    made.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes, one thread each (1)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Tune, or print the tables."""
    if unknown := sorted(set(chosen.samplers) - set(CANDIDATES)):
        raise InputError(f"--samplers: {', '.join(unknown)}; expected some of {', '.join(CANDIDATES)}")
    if chosen.quick:
        chosen.dimensions = [8]
    chosen.problems = chosen.problems or (2 if chosen.tune or chosen.quick else 20)
    chosen.num_samples = chosen.num_samples or (300 if chosen.tune or chosen.quick else 1000)
    check_least(chosen, problems=1, num_samples=2, processes=1)
    if chosen.tune:
        return tune(chosen)
    settings = read_yaml(SETTINGS)
    report = Report("posterior_mixture", chosen, "cpu", ["scipy"])
    report.settings["samplers"] = settings
    records = Records(report.folder, chosen.resume)
    for d in chosen.dimensions:
        table(report, records, d, chosen, settings.get(d, settings[80]))
    return report.finish()


if __name__ == "__main__":
    start(main, options())
