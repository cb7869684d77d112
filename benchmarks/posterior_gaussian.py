"""Posterior samplers against an exact posterior: a Gaussian prior with the covariance of Fashion-MNIST.

On a Gaussian prior the posterior is known for every linear operator. Errors of its mean and of the standard deviation
of its pixels, and the coverage of 90% intervals, tell which samplers converge to it as their evaluations grow. The
prior is benchmarks/fashion_mnist_8x8.npz, made by --write-prior. The settings for few and for many evaluations are in
posterior_gaussian_settings.yaml, chosen by --tune among the candidates of posterior_gaussian.yaml on measurements
with other seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.common import Report, cell, check_least, parser, start
from support.engine import (
    FAILED,
    Found,
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
from support.gaussian_problem import (
    NOISES,
    OPERATORS,
    PRIOR,
    SHAPE,
    GaussianPrior,
    GaussianProblem,
    corrected,
    judge,
    make_problem,
    write_prior,
)

from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.rng import TorchDraws
from randomwalk.runs.folder import RunFolder

PLAN = Path(__file__).with_suffix(".yaml")
SETTINGS = PLAN.with_stem("posterior_gaussian_settings")
CANDIDATES = {row: combinations(given) for row, given in read_yaml(PLAN)["samplers"].items()}
BUDGETS = {"few": 30, "many": 300}
"""Approximate evaluations of the denoiser for a sample."""
SMALLER_BUDGETS = {
    "tweedie_smc": {"few": 15, "many": 40},
    "tweedie_smc, complete": {"few": 3, "many": 6},
}
"""Budgets of samplers whose steps are expensive: a product with the Jacobian for every entry of y, and matrices."""
MOST_DIRECTIONS = {"tweedie_smc": 40, "tweedie_smc, complete": 64}
"""Most entries of y and probes with which these rows are measured; beyond them they take too long."""
EXACT = "exact samples"


def with_levels(settings: Mapping[str, Any], budget: int, rank: int) -> Settings:
    """Settings with as many noise levels as the budget of evaluations allows.

    Args:
        budget: approximate number of evaluations of the denoiser.
        rank: of the operator; the probes of "tweedie_smc, complete" are for the remaining of the 64 dimensions.
    """
    per_level = math.prod(settings.get(key, 1) for key in ("ode_steps", "prior_steps", "travel_repeats"))
    probes = {"probes": math.prod(SHAPE) - rank} if settings.get("probes") == "complete" else {}
    return {**settings, "num_steps": max(2, budget // per_level), **probes}


def affordable(row: str, problem: GaussianProblem) -> bool:
    """True if a row is measured on a problem."""
    probes = math.prod(SHAPE) - problem.rank if row == "tweedie_smc, complete" else 0
    return problem.y[0].numel() + probes <= MOST_DIRECTIONS.get(row, math.inf)


def job_of(
    options: argparse.Namespace, problem: GaussianProblem, budget: str, row: str, settings: Settings, seed: int
) -> Job:
    """A sampler on a problem, or exact samples; with ``--quick`` with half the evaluations.

    Args:
        seed: of the samples.
    """
    evaluations = SMALLER_BUDGETS.get(row, BUDGETS)[budget] // (2 if options.quick else 1)
    config = {
        "settings": settings,
        "budget": evaluations,
        "measurements": options.measurements,
        "num_samples": options.num_samples,
        "seed": options.seed,
    }
    work = (problem, row, with_levels(settings, evaluations, problem.rank), options.num_samples)
    return Job(f"{problem.name}, {budget}", row, config, [str(seed)], work)


def do(job: Job) -> list[Record]:
    """Errors and cost of a sampler on a problem.

    Raises:
        RunError: the state is not finite.
    """
    problem, row, settings, num_samples = job.payload
    seed, began = int(job.items[0]), time.process_time()
    if row == EXACT:
        x = problem.exact(num_samples, seed)
        cost: Record = {"evaluations": 0, "vjps": 0, "seconds": time.process_time() - began}
    else:
        draws = TorchDraws(len(problem.y) * num_samples, torch.Generator().manual_seed(seed), dtype=torch.float64)
        given = Measurement(problem.operator, problem.noise, problem.y)
        x, cost = sample(row, settings, problem.prior, given, num_samples, draws)
    return [{**judge(problem, x.flatten(2)), **cost}]


def tune(options: argparse.Namespace) -> int:
    """Choose the settings of every row, and write them."""
    prior, noises = GaussianPrior.load(), itertools.cycle(NOISES)
    problems = [
        make_problem(prior, name, next(noises), options.measurements, options.seed + 1000) for name in options.operators
    ]
    folder = RunFolder.create(options.out or Path("results") / "benchmarks" / "posterior_gaussian_tuning")
    records = Records(folder, options.resume)
    for budget, row in itertools.product(options.budgets, options.samplers):

        def loss(settings: Settings, _: bool, budget: str = budget, row: str = row) -> float:
            """Root of the sum of the squares of both errors, at most 2, averaged over the problems."""
            jobs = [job_of(options, p, budget, row, settings, 1) for p in problems if affordable(row, p)]
            jobs = [replace(job, method=f"{row} {json.dumps(settings)}") for job in jobs]
            found = [r for case in measure(jobs, do, records, row).values() for m in case.values() for r in m.values()]
            return statistics.fmean(
                2.0 if FAILED in r else min(2.0, math.hypot(corrected(r, "mean"), corrected(r, "std"))) for r in found
            )

        best, losses = choose(CANDIDATES[row], loss)
        print(f"{budget}, {row}: {', '.join(f'{s:.3f}' for s in losses)}; best {best}", flush=True)
        write_setting(SETTINGS, [budget, row], best)
    return 0


# --- the table -------------------------------------------------------------------------------------------------------


def records_of(found: Found, row: str, budget: str, problems: Iterable[str]) -> list[Record]:
    """Records of a row with a budget on those of the problems that it could do."""
    kept = [r for p in problems for r in found[f"{p}, {budget}"].get(row, {}).values()]
    return [record for record in kept if FAILED not in record]


def pooled(records: Sequence[Record]) -> dict[str, float]:
    """Means over records (of the squares, where they are squared); empty without any."""
    return {key: statistics.fmean(r[key] for r in records) for key in records[0]} if records else {}


def shown(pool: Mapping[str, float]) -> list[str]:
    """Errors of mean and standard deviation, and coverage, as the tables have them."""
    if not pool:
        return ["–"] * 3
    errors = [corrected(pool, moment) for moment in ("mean", "std")]
    return [*(f"{e:.2f}" if e < 10 else f"{e:.1g}" for e in errors), f"{100 * pool['coverage']:.0f}%"]


def add(report: Report, case: str, row: str, record: Record) -> None:
    """Add a record to results.csv."""
    for moment in ("mean", "std"):
        report.add(case, row, f"{moment}_error", corrected(record, moment), "1")
        report.add(case, row, f"{moment}_error_uncorrected", math.sqrt(record[f"{moment}_sq"]), "1")
        report.add(case, row, f"{moment}_floor", math.sqrt(record[f"{moment}_floor_sq"]), "1")
    for metric, unit in (("spread", "1"), ("coverage", "1"), ("evaluations", "1"), ("vjps", "1"), ("seconds", "s")):
        report.add(case, row, metric, record[metric], unit)


def tables(report: Report, options: argparse.Namespace, found: Found) -> None:
    """Print all problems together at every budget, then each problem at the largest."""
    names = [f"{name}, noise {std:g}" for name, std in itertools.product(options.operators, NOISES)]
    samplers = [EXACT, *options.samplers]
    rows = []
    for row in samplers:
        line, left_out = [row], 0
        for budget in options.budgets:
            records = records_of(found, row, budget, names)
            left_out += len(names) - len(records)
            pool = pooled(records)
            cost = [f"{pool[key]:.0f}" for key in ("evaluations", "vjps")] if pool else ["–"] * 2
            *errors, coverage = shown(pool)
            line += [*cost, *errors, cell(pool["spread"]) if pool else "–", coverage]
        rows.append([*line, str(left_out or "")])
    head = ["evaluations", "vjps", "mean", "std", "spread", "coverage"]
    report.table(
        f"All {len(names)} problems",
        ["sampler", *(f"{what} ({b})" for b in options.budgets for what in head), "left out"],
        rows,
        [
            "mean: error of the posterior mean, root mean square over pixels, relative to that of the exact standard "
            "deviation; std: error of the standard deviation of the pixels, likewise. Both are corrected for the "
            f"error that {options.num_samples} independent samples have by chance (its square is subtracted; the row "
            f"{EXACT} shows what chance leaves); squares are averaged over problems",
            "spread: standard deviation of the samples relative to the exact one, below 1 too narrow; coverage of 90% "
            "intervals by exact posterior probability",
            "evaluations and vjps (products with the Jacobian of the denoiser) for a sample, counted by the denoiser",
            f"left out: runs whose state was not finite, or with more entries of y and probes than {MOST_DIRECTIONS}",
        ],
    )
    last = options.budgets[-1]
    for std in NOISES:
        cells = {
            row: [pooled(records_of(found, row, last, [f"{n}, noise {std:g}"])) for n in options.operators]
            for row in samplers
        }
        rows = [[row, *(" / ".join(shown(pool)) for pool in pools)] for row, pools in cells.items()]
        title = f"Noise {std:g}, {last} evaluations: mean / std / coverage"
        report.table(title, ["sampler", *options.operators], rows)


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=list(OPERATORS), metavar="NAME")
    made.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS), help=f"{BUDGETS}")
    made.add_argument("--measurements", type=int, default=2, metavar="M", help="of each problem (2)")
    made.add_argument("--num-samples", type=int, metavar="S", help="of each measurement (199; 99 when tuning)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    made.add_argument(
        "--write-prior",
        type=Path,
        metavar="FOLDER",
        help=f"compute {PRIOR.name} from the training images of Fashion-MNIST in FOLDER, and do nothing else",
    )
    return made


def main(chosen: argparse.Namespace) -> int:
    """Write the prior, tune, or print the tables."""
    if unknown := sorted(set(chosen.samplers) - set(CANDIDATES)):
        raise InputError(f"--samplers: {', '.join(unknown)}; expected some of {', '.join(CANDIDATES)}")
    if chosen.num_samples is None:
        chosen.num_samples = 99 if chosen.tune or chosen.quick else 199
    check_least(chosen, measurements=1, num_samples=19, seed=0)
    if chosen.write_prior:
        write_prior(chosen.write_prior)
        return 0
    if chosen.tune:
        return tune(chosen)
    if chosen.quick:
        chosen.budgets = ["few"]
    settings = read_yaml(SETTINGS)
    report = Report("posterior_gaussian", chosen, "cpu")
    report.settings["samplers"] = {budget: settings[budget] for budget in chosen.budgets}
    report.settings["problems"] = {"operators": OPERATORS, "noises": NOISES, "prior": PRIOR.name}
    began, prior = time.process_time(), GaussianPrior.load()
    problems = [
        make_problem(prior, name, std, chosen.measurements, chosen.seed)
        for name, std in itertools.product(chosen.operators, NOISES)
    ]
    jobs = [
        job_of(chosen, problem, b, row, settings[b].get(row, {}), chosen.seed + list(BUDGETS).index(b))
        for row, b, problem in itertools.product([EXACT, *chosen.samplers], chosen.budgets, problems)
        if affordable(row, problem)
    ]
    found = measure(jobs, do, Records(report.folder, chosen.resume), "samplers")
    for job in jobs:
        record = found[job.case][job.method][job.items[0]]
        if FAILED not in record:
            add(report, job.case, job.method, record)
    tables(report, chosen, found)
    minutes = (time.process_time() - began) / 60
    where = f"{report.settings['processor']}, {torch.get_num_threads()} threads"
    report.say(f"On {where}: {minutes:.1f} minutes of processor time.")
    return report.finish()


if __name__ == "__main__":
    start(main, options())
