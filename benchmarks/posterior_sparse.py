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
from dataclasses import replace
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
METRICS = ("mean_error", "std_error", "std_ratio", "coverage_90", "w1")
CHAINS, BURN_IN = 16, 50
"""Of the reference."""
TUNED = 64
"""Pixels of the problems of --tune."""


@cache
def problem_of(kind: tuple[str, str, str], d: int, m: int, eta: float, seed: int) -> SparseProblem:
    """A problem."""
    return make_problem(*kind, d, m, eta, seed)


@cache
def reference_of(
    kind: tuple[str, str, str], d: int, m: int, eta: float, seed: int, sweeps: int
) -> tuple[Reference, float]:
    """Its posterior, and the seconds that it took."""
    began = time.process_time()
    found = reference(problem_of(kind, d, m, eta, seed), CHAINS, sweeps, BURN_IN, seed)
    return found, time.process_time() - began


def job_of(
    row: str, settings: Settings, case: tuple[int, int, float], seeds: list[int], options: argparse.Namespace
) -> Job:
    """A sampler, or exact samples, on problems with d pixels, m measurements and noise eta."""
    d, m, eta = case
    kind = (options.prior, options.basis, options.operator)
    config = {"settings": settings, "num_samples": options.num_samples, "sweeps": options.sweeps, "kind": kind}
    payload = (row, settings, kind, d, m, eta, options.num_samples, options.sweeps)
    return Job(name_of(case), row, json.loads(json.dumps(config)), [str(s) for s in seeds], payload)


def name_of(case: tuple[int, int, float]) -> str:
    """Name of a case."""
    return "d {}, m {}, eta {:g}".format(*case)


def do(job: Job) -> list[Record]:
    """Errors and cost of a sampler on one problem.

    Raises:
        RunError: the state is not finite.
    """
    torch.set_num_threads(1)
    (row, settings, kind, d, m, eta, num_samples, sweeps), seed = job.payload, int(job.items[0])
    problem = problem_of(kind, d, m, eta, seed)
    exact, seconds = reference_of(kind, d, m, eta, seed, sweeps)
    if row == EXACT:
        cost: Record = {"evaluations": 0, "vjps": 0, "seconds": seconds, "reference_error": exact.error}
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
            cases = [(TUNED, TUNED // 2, eta) for eta in options.etas]
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
    report: Report,
    records: Records,
    case: tuple[int, int, float],
    options: argparse.Namespace,
    rows: dict[str, Settings],
) -> None:
    """Measure and print one case."""
    seeds = list(range(1, 1 + options.problems))
    jobs = [job_of(row, own, case, seeds, options) for row, own in rows.items()]
    found, lines = measure(jobs, do, records, name_of(case), processes=options.processes)[name_of(case)], []
    for row in rows:
        kept = [record for record in found[row].values() if FAILED not in record]
        for metric in (*METRICS, "evaluations", "vjps", "seconds"):
            values = [record[metric] for record in kept]
            if values:
                error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                report.add(
                    name_of(case), row, metric, (statistics.fmean(values), error), "s" if metric == "seconds" else "1"
                )
        report.add(name_of(case), row, "not_finite", len(found[row]) - len(kept), "1")
        mean = {key: statistics.fmean(r[key] for r in kept) if kept else math.nan for key in (*METRICS, "seconds")}
        worst = max((r["mean_error"] for r in kept), default=math.nan)
        first = kept[0] if kept else {"evaluations": math.nan, "vjps": math.nan}
        lines.append(
            [
                row,
                *(f"{first[key]:g}" for key in ("evaluations", "vjps")),
                f"{mean['mean_error']:.3f}",
                f"{worst:.3f}",
                f"{mean['std_error']:.3f}",
                f"{mean['std_ratio']:.3f}",
                f"{100 * mean['coverage_90']:.1f}%",
                f"{mean['w1']:.3f}",
                f"{mean['seconds']:.1f}",
            ]
        )
    uncertain = [record["reference_error"] for record in found[EXACT].values()]
    head = ["sampler", "evaluations", "vjps", "mean", "worst", "std", "std ratio", "90% covers", "W1", "processor s"]
    report.add(name_of(case), EXACT, "reference_error", max(uncertain), "1")
    report.table(
        name_of(case),
        head,
        lines,
        [
            "in posterior standard deviations of each coefficient: root mean square error of the mean (mean "
            f"and worst of {options.problems} problems) and of the std, mean ratio of the stds, distance W1 of "
            "the marginals; 90% covers: probability, by the reference, of the interval from the 5% to the 95% quantile",
            f"{options.num_samples} samples; {EXACT}: as many draws from the reference, and its seconds",
            f"reference: {CHAINS} chains of {options.sweeps} sweeps; standard error of its mean from the differences "
            f"between chains, in posterior standard deviations, root mean square, at most {max(uncertain):.3f}",
        ],
    )


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--dimensions", type=int, nargs="+", default=[64, 256], metavar="D", help="pixels (64 256)")
    made.add_argument(
        "--parts", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3], help="quarters of d measured"
    )
    made.add_argument(
        "--etas", type=float, nargs="+", default=[0.1, 0.03], metavar="ETA", help="noise levels (0.1 0.03)"
    )
    made.add_argument(
        "--prior", choices=list(PRIORS), default="two scales", help="density of a coefficient (two scales)"
    )
    made.add_argument("--basis", choices=list(BASES), default="identity", help="basis of the coefficients (identity)")
    made.add_argument("--operator", choices=OPERATORS, default="rows", help="what is measured (rows)")
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--evaluations", type=int, nargs="+", default=[100, 250, 400], metavar="N", help="of the walks")
    made.add_argument("--problems", type=int, metavar="N", help="problems of each case (3; 2 when tuning, 1 quick)")
    made.add_argument("--num-samples", type=int, metavar="N", help="samples of each problem (500; 200 quick)")
    made.add_argument("--sweeps", type=int, metavar="N", help="sweeps of each chain of the reference (300; 100 quick)")
    made.add_argument("--processes", type=int, default=1, metavar="N", help="number of processes, one thread each (1)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--resume", metavar="FOLDER", help="folder of an earlier run; its results are not measured again")
    return made


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
    chosen.sweeps = chosen.sweeps or (100 if chosen.quick else 300)
    check_least(chosen, problems=1, num_samples=2, sweeps=2, processes=1)
    if chosen.tune:
        return tune(chosen)
    settings = read_yaml(SETTINGS)
    report = Report("posterior_sparse", chosen, "cpu", ["scipy"])
    report.settings["samplers"] = settings
    records = Records(report.folder, chosen.resume)
    for case in [(d, d * part // 4, eta) for d in chosen.dimensions for part in chosen.parts for eta in chosen.etas]:
        table(report, records, case, chosen, rows_of(chosen, settings))
    return report.finish()


if __name__ == "__main__":
    start(main, options())
