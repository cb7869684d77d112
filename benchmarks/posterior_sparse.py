"""Posterior samplers with many measurements: sparse priors in an orthonormal basis, against a Gibbs sampler.

The coefficients of an image of d pixels are independent, small or large; its denoiser is exact. A quarter, half or
three quarters as many numbers as pixels are measured. Particles collapse here, and the question is which sampler
gives the posterior, at how many evaluations. The settings of each are those of posterior_sparse_settings.yaml: the
candidates of posterior_sparse.yaml with the least mean distance W1 on problems of other seeds with 64 pixels, chosen
by --tune. The walks are run with several numbers of levels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from support.common import Report, check_least, parser, start
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
from support.levy_problem import make_line
from support.sparse_problem import BASES, OPERATORS, PRIORS, SparseProblem, make_problem
from support.sparse_reference import Reference, errors, reference

from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.rng import TorchDraws
from randomwalk.runs.folder import RunFolder

PLAN = Path(__file__).with_suffix(".yaml")
SETTINGS = PLAN.with_stem("posterior_sparse_settings")
CANDIDATES = {name: combinations(given) for name, given in read_yaml(PLAN)["samplers"].items()}
EXACT = "exact samples"
WALKS = ("random_walk, momentum", "random_walk, matrix step")
"""Samplers that are run with several numbers of levels."""
METRICS = ("mean_error", "std_error", "std_ratio", "coverage_90", "w1", "mmse_gap")
LINE = "levy"
"""Basis of the increments of a line of pixels."""
CHAINS, BURN_IN = 16, 50
"""Of the reference."""
WANTED = 0.03
"""Standard error of its mean, in posterior standard deviations."""
NEAR = {"mean_error": (0.0, 0.1), "std_ratio": (0.97, 1.03), "coverage_90": (0.89, 0.91)}
"""Means over problems of what samples of the posterior have, see :func:`needed`."""
TUNED = 64
"""Pixels of the problems of --tune."""


@dataclass(frozen=True)
class Case:
    """Problems of one kind: prior, basis, operator, numbers of pixels and of measurements, noise, condition of A."""

    prior: str
    basis: str
    operator: str
    d: int
    m: int
    eta: float
    condition: float | None = None

    def __str__(self) -> str:
        """The numbers, and what is not the first of its kind."""
        parts = [f"d {self.d}", f"m {self.m}", f"eta {self.eta:g}"]
        parts += [f"condition {self.condition:g}"] if self.condition else []
        kinds = ((self.operator, OPERATORS), (self.basis, BASES), (self.prior, PRIORS))
        return ", ".join(parts + [name for name, names in kinds if name != next(iter(names))])


@cache
def problem_of(case: Case, seed: int) -> SparseProblem:
    """A problem."""
    if case.basis == LINE:
        return make_line(case.prior, case.operator, case.d, case.m, case.eta, seed)
    return make_problem(case.prior, case.basis, case.operator, case.d, case.m, case.eta, seed, case.condition)


@cache
def reference_of(case: Case, seed: int, sweeps: int) -> tuple[Reference, float]:
    """Its posterior, and the seconds that it took."""
    began = time.process_time()
    found = reference(problem_of(case, seed), CHAINS, sweeps, BURN_IN, seed, WANTED)
    return found, time.process_time() - began


def job_of(row: str, settings: Settings, case: Case, seeds: list[int], options: argparse.Namespace) -> Job:
    """A sampler, or exact samples, on problems of a case."""
    config = {"settings": settings, "num_samples": options.num_samples, "sweeps": options.sweeps, "case": asdict(case)}
    payload = (row, settings, case, options.num_samples, options.sweeps)
    return Job(str(case), row, json.loads(json.dumps(config)), [str(s) for s in seeds], payload)


def do(job: Job) -> list[Record]:
    """Errors and cost of a sampler on one problem.

    Raises:
        RunError: the state is not finite.
    """
    torch.set_num_threads(1)
    (row, settings, case, num_samples, sweeps), seed = job.payload, int(job.items[0])
    problem = problem_of(case, seed)
    exact, seconds = reference_of(case, seed, sweeps)
    if row == EXACT:
        cost: Record = {"evaluations": 0, "vjps": 0, "seconds": seconds}
        cost |= {"reference_error": exact.error, "sweeps": exact.sweeps}
        return [{**errors(exact.draws(num_samples, seed + 1_000_000), exact), **cost}]
    draws = TorchDraws(num_samples, torch.Generator().manual_seed(seed))
    given = Measurement(problem.operator, problem.noise, problem.y.float())
    samples, cost = sample(row, settings, problem.prior, given, num_samples, draws)
    return [{**errors(problem.prior.analyse(samples[0]).flatten(1), exact), **cost}]


def tune(options: argparse.Namespace) -> int:
    """Choose the settings of every sampler, and write them."""
    folder = RunFolder.create(options.out or Path("results") / "benchmarks" / "posterior_sparse_tuning")
    records = Records(folder, options.resume)
    seeds = [100_000 + i for i in range(options.problems)]
    for name in options.samplers:

        def loss(settings: Settings, _: bool, name: str = name) -> float:
            """Mean W1, infinite if a run failed."""
            cases = [Case("two scales", "identity", "rows", TUNED, TUNED // 2, eta) for eta in options.etas]
            jobs = [
                replace(job_of(name, settings, case, seeds, options), method=f"{name} {json.dumps(settings)}")
                for case in cases
            ]
            found = measure(jobs, do, records, name, processes=options.processes)
            every = [r for methods in found.values() for items in methods.values() for r in items.values()]
            return statistics.fmean(math.inf if FAILED in r else r["w1"] for r in every)

        best, losses = choose(CANDIDATES[name], loss)
        print(f"{name}: W1 {', '.join(f'{s:.2f}' for s in losses)}; best {best}", flush=True)
        write_setting(SETTINGS, [name], best)
    return 0


# --- the table -------------------------------------------------------------------------------------------------------


def rows_of(options: argparse.Namespace, settings: dict[str, Settings]) -> dict[str, Settings]:
    """Settings of every row of the table: of the walks one for each number of levels."""
    rows: dict[str, Settings] = {EXACT: {}}
    for name in options.samplers:
        if name in WALKS:
            rows |= {f"{name}, {n}": {**settings[name], "num_steps": n} for n in options.evaluations}
        else:
            rows[name] = settings[name]
    return rows


def table(
    report: Report, records: Records, case: Case, options: argparse.Namespace, rows: dict[str, Settings]
) -> dict[str, dict[str, float]]:
    """Measure and print one case.

    Returns:
        means over the problems for each row.
    """
    seeds = list(range(1, 1 + options.problems))
    jobs = [job_of(row, own, case, seeds, options) for row, own in rows.items()]
    found, lines, means = measure(jobs, do, records, str(case), processes=options.processes)[str(case)], [], {}
    for row in rows:
        kept = [record for record in found[row].values() if FAILED not in record]
        for metric in (*METRICS, "evaluations", "vjps", "seconds"):
            values = [record[metric] for record in kept]
            if values:
                error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                unit = {"seconds": "s", "mmse_gap": "dB"}.get(metric, "1")
                report.add(str(case), row, metric, (statistics.fmean(values), error), unit)
        report.add(str(case), row, "not_finite", len(found[row]) - len(kept), "1")
        keys = (*METRICS, "evaluations", "vjps", "seconds")
        mean = {key: statistics.fmean(r[key] for r in kept) if kept else math.nan for key in keys}
        means[row], worst = mean, max((r["mean_error"] for r in kept), default=math.nan)
        lines.append(
            [
                row,
                *(f"{mean[key]:.0f}" for key in ("evaluations", "vjps")),
                f"{mean['mean_error']:.3f}",
                f"{worst:.3f}",
                f"{mean['std_error']:.3f}",
                f"{mean['std_ratio']:.3f}",
                f"{100 * mean['coverage_90']:.1f}%",
                f"{mean['w1']:.3f}",
                f"{mean['mmse_gap']:.3f}",
                f"{mean['seconds']:.1f}",
            ]
        )
    uncertain = [record["reference_error"] for record in found[EXACT].values()]
    sweeps = [record["sweeps"] for record in found[EXACT].values()]
    head = ["sampler", "evaluations", "vjps", "mean", "worst", "std", "std ratio", "90% covers", "W1", "gap", "seconds"]
    report.add(str(case), EXACT, "reference_error", max(uncertain), "1")
    report.table(
        str(case),
        head,
        lines,
        [
            "in posterior standard deviations of each coefficient: root mean square error of the mean (mean "
            f"and worst of {options.problems} problems) and of the std, mean ratio of the stds, distance W1 of "
            "the marginals; 90% covers: probability, by the reference, of the interval from the 5% to the 95% "
            "quantile; gap: decibels by which the mean square error of the mean is above that of the posterior mean",
            f"{options.num_samples} samples; {EXACT}: as many draws from the reference, and its seconds; all of one "
            "processor",
            f"reference: {CHAINS} chains of {min(sweeps)} to {max(sweeps)} sweeps; standard error of its mean from the "
            "differences between chains, in posterior standard deviations, root mean square, at most "
            f"{max(uncertain):.3f}",
        ],
    )
    return means


def needed(means: dict[str, dict[str, float]], name: str) -> float:
    """The least number of evaluations of a walk whose mean results are all in `NEAR`; infinite if there is none."""
    near = [
        mean["evaluations"]
        for row, mean in means.items()
        if row.rpartition(", ")[0] == name and all(low <= mean[key] <= high for key, (low, high) in NEAR.items())
    ]
    return min(near, default=math.inf)


def summary(report: Report, every: dict[Case, dict[str, dict[str, float]]], names: list[str]) -> None:
    """Print the evaluations that the walks need in each case."""
    lines = []
    for case, means in every.items():
        line = [str(case)]
        for name in names:
            rows = {row: mean for row, mean in means.items() if row.rpartition(", ")[0] == name}
            found = needed(means, name)
            report.add(str(case), name, "evaluations_needed", found, "1")
            line += [f"{mean['mean_error']:.3f}, {mean['std_ratio']:.3f}" for mean in rows.values()]
            line.append(f"{found:.0f}" if found < math.inf else "more")
        lines.append(line)
    tried = [row.rpartition(", ")[2] for row in next(iter(every.values())) if row.rpartition(", ")[0] == names[0]]
    head = ["case", *(f"{name}, {n}" for name in names for n in (*tried, "needed"))]
    ranges = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in NEAR.items())
    notes = [f"mean_error, std_ratio; needed: least of the evaluations tried with, on average over problems, {ranges}"]
    report.table("Evaluations needed", head, lines, notes)


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--dimensions", type=int, nargs="+", default=[64, 256], metavar="D", help="pixels (64 256)")
    made.add_argument(
        "--parts",
        type=int,
        nargs="+",
        choices=(1, 2, 3),
        default=[1, 2, 3],
        help="quarters of d measured (1 2 3); a blur measures every pixel",
    )
    made.add_argument(
        "--etas", type=float, nargs="+", default=[0.1, 0.03], metavar="ETA", help="noise levels (0.1 0.03)"
    )
    for name, names, what in (
        ("priors", PRIORS, "densities of a coefficient"),
        ("bases", [*BASES, LINE], f"bases of the coefficients; {LINE}: they are the increments of a line of pixels"),
        ("operators", OPERATORS, "what is measured"),
    ):
        first = next(iter(names))
        made.add_argument(
            f"--{name}", nargs="+", choices=list(names), default=[first], metavar="NAME", help=f"{what} ({first})"
        )
    made.add_argument(
        "--conditions",
        type=float,
        nargs="+",
        default=[None],
        metavar="K",
        help="of random rows: singular values from 1 to 1 / K",
    )
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--evaluations", type=int, nargs="+", default=[100, 250, 400], metavar="N", help="of the walks")
    made.add_argument("--problems", type=int, metavar="N", help="problems of each case (3; 2 when tuning, 1 quick)")
    made.add_argument("--num-samples", type=int, metavar="N", help="samples of each problem (500; 200 quick)")
    made.add_argument("--sweeps", type=int, metavar="N", help="least sweeps of its chains (200; 100 quick)")
    made.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes, one thread each (1)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


def cases(chosen: argparse.Namespace) -> list[Case]:
    """All cases."""
    found = [
        Case(prior, basis, operator, d, d if operator == "blur" else d * part // 4, eta, condition)
        for d in chosen.dimensions
        for operator in chosen.operators
        for prior in chosen.priors
        for basis in chosen.bases
        for condition in chosen.conditions
        for part in chosen.parts
        for eta in chosen.etas
    ]
    return list(dict.fromkeys(found))  # a blur has no parts


def main(chosen: argparse.Namespace) -> int:
    """Tune, or print the tables."""
    if unknown := sorted(set(chosen.samplers) - set(CANDIDATES)):
        raise InputError(f"--samplers: {', '.join(unknown)}; expected some of {', '.join(CANDIDATES)}")
    if wrong := [d for d in chosen.dimensions if d < 4 or d & (d - 1) or d.bit_length() % 2 == 0]:
        raise InputError(f"--dimensions {wrong[0]}: expected powers of 4, such as 64 or 256")
    if chosen.quick:
        chosen.dimensions, chosen.parts, chosen.etas, chosen.evaluations = [64], [2], [0.1], [100]
    chosen.problems = chosen.problems or (1 if chosen.quick else 2 if chosen.tune else 3)
    chosen.num_samples = chosen.num_samples or (200 if chosen.quick else 500)
    chosen.sweeps = chosen.sweeps or (100 if chosen.quick else 200)
    check_least(chosen, problems=1, num_samples=2, sweeps=2, processes=1)
    if chosen.tune:
        return tune(chosen)
    settings = read_yaml(SETTINGS)
    report = Report("posterior_sparse", chosen, "cpu", ["scipy"])
    report.settings["samplers"] = settings
    records = Records(report.folder, chosen.resume)
    every = {case: table(report, records, case, chosen, rows_of(chosen, settings)) for case in cases(chosen)}
    if walks := [name for name in WALKS if name in chosen.samplers]:
        summary(report, every, walks)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
