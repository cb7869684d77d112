"""Samplers of the posterior against an exact one: a Gaussian prior with the covariance of Fashion-MNIST.

On a Gaussian prior the posterior is known, whatever the linear operator is: the errors of its mean and of the standard
deviation of its pixels, and the coverage of 90% intervals, tell which samplers converge to it as their evaluations
grow and which do not. The prior is benchmarks/fashion_mnist_8x8.npz, made by --write-prior. Settings are those of
benchmarks/posterior_gaussian.yaml, for few and for many evaluations, chosen by --tune among a few candidates for each
sampler on measurements of other seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from support.common import Report, bar, cell, parser, start
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

from randomwalk import samplers
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Measurement
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Sampler, schedules

SETTINGS = Path(__file__).with_name("posterior_gaussian.yaml")
BUDGETS = {"few": 30, "many": 300}
"""Evaluations of the denoiser for a sample."""
SMALLER_BUDGETS = {
    "tweedie_smc": {"few": 15, "many": 40},
    "tweedie_smc, complete": {"few": 3, "many": 6},
}
"""Of samplers whose evaluations are dear: a product with the Jacobian for each number of y, and matrices."""
MOST_DIRECTIONS = {"tweedie_smc": 40, "tweedie_smc, complete": 64}
"""Numbers in y and probes, beyond which these rows take too long; "tweedie_smc, conjugate gradients" is for them."""
EXACT = "exact samples"
LEVELS = ("schedule", "sigma_min", "sigma_max")


def grid(base: Mapping[str, Any], **axes: Iterable[Any]) -> list[dict[str, Any]]:
    """The base with every combination of the values of the axes."""
    return [{**base, **dict(zip(axes, values, strict=True))} for values in itertools.product(*axes.values())]


_STEPS = {"schedule": "karras", "sigma_min": 0.01, "sigma_max": 40.0}
_LOW = {**_STEPS, "sigma_max": 5.0}
_WARM = {"initial_temperature": 1.0, "sigma_min": 0.01}
_GRADIENTS = {**_STEPS, "max_rank": 0}
# Up to nine for each. LEVELS and the budget make the noise levels, the rest is the sampler's.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "random_walk": [
        {
            "schedule": "sigmoid",
            "sigma_min": 0.01,
            "sigma_max": 3.0,
            "step_scale": 0.7,
            "initial_temperature": 0.1,
            "start_std": 1.0,
        },
        *grid({**_WARM, "step_scale": 0.7}, schedule=("linear", "sigmoid"), sigma_max=(0.3, 1.0, 3.0)),
        {**_WARM, "schedule": "linear", "sigma_max": 1.0, "step_scale": 1.0},
    ],
    "random_walk, preconditioned": grid(
        {**_WARM, "preconditioned": True},
        schedule=("karras", "geometric"),
        sigma_max=(3.0, 10.0),
        step_scale=(0.4, 0.8),
    ),
    "dps": grid(_STEPS, guidance=(0.1, 0.3, 1.0, 3.0), stochasticity=(0.5, 1.0)),
    "pigdm": grid(_STEPS, data_std=(0.2, 0.4, 0.6, 0.8), stochasticity=(0.5, 1.0)),
    "ddrm": [
        *grid(_STEPS, stochasticity=(0.0, 0.3, 0.6, 0.85, 0.95, 1.0)),
        *grid({**_STEPS, "stochasticity_measured": 0.8}, stochasticity=(0.6, 0.85)),
    ],
    "ddnm_plus": [
        *grid(_STEPS, stochasticity=(0.0, 0.3, 0.6, 0.85, 1.0)),
        *grid({**_STEPS, "travel_repeats": 2, "travel_length": 3}, stochasticity=(0.6, 0.85, 1.0)),
    ],
    "diffpir": [
        *grid(_STEPS, stochasticity=(0.1, 0.3, 1.0)),
        *grid(_LOW, stochasticity=(0.03, 0.1, 0.3, 1.0)),
        {**_LOW, "stochasticity": 0.3, "strength": 2.0},
    ],
    "daps": [
        *grid({**_STEPS, "sigma_max": 10.0}, ode_steps=(1, 2, 5), data_std=(0.5, None)),
        *grid({**_STEPS, "ode_steps": 1}, data_std=(1.0, None)),
    ],
    "split_gibbs": grid(_LOW, rho_min=(0.05, 0.1, 0.2), prior_steps=(3, 6, 12)),
    "mmps": grid(_STEPS, iterations=(2, 4, 8), stochasticity=(0.0, 0.5, 1.0)),
    "tds": grid(_STEPS, data_std=(0.2, 0.4, 0.8, 1.6), ess_threshold=(0.2, 0.5)),
    "tweedie_smc": grid({**_STEPS, "max_rank": 64}, probes=(2, 6), ess_threshold=(0.2, 0.5)),
    "tweedie_smc, complete": [{**_STEPS, "max_rank": 64, "probes": "complete"}],
    "tweedie_smc, conjugate gradients": grid(_GRADIENTS, data_std=(0.2, 0.4, 0.8, 1.6), iterations=(3, 8)),
    "tweedie_smc, unweighted": grid(
        {**_GRADIENTS, "weighted": False}, data_std=(0.05, 0.1, 0.2, 0.4), iterations=(3, 8)
    ),
}


def make_sampler(row: str, settings: Mapping[str, Any], budget: int, rank: int) -> tuple[Sampler, torch.Tensor]:
    """The sampler of a row of the table, and as many noise levels as the budget of evaluations allows.

    Args:
        row: its name, and after a comma what tells it from others of the name.
        settings: of the sampler and of its noise levels.
        budget: evaluations of the denoiser, about.
        rank: of the operator; the others of the 64 dimensions are for the probes of "tweedie_smc, complete".
    """
    own = dict(settings)
    per_level = own.get("ode_steps", 1) * own.get("prior_steps", 1) * own.get("travel_repeats", 1)
    span = {key: own.pop(key) for key in LEVELS}
    levels = schedules.make(span.pop("schedule"), max(2, budget // per_level), **span)
    if own.get("probes") == "complete":
        own["probes"] = math.prod(SHAPE) - rank
    own.pop("start_std", None)
    return samplers.make(row.split(",")[0], **own), levels


def measure(
    row: str, settings: Mapping[str, Any], budget: int, problem: GaussianProblem, num_samples: int, seed: int
) -> dict[str, float] | None:
    """Errors and cost of a sampler on a problem; None if it does not apply or its state was not finite."""
    began = time.process_time()
    evaluations, vjps = 0, 0
    if row == EXACT:
        x = problem.exact(num_samples, seed)
    else:
        if not affordable(row, problem):
            return None
        sampler, levels = make_sampler(row, settings, budget, problem.rank)
        denoiser = CountingDenoiser(problem.prior)
        draws = TorchDraws(len(problem.y) * num_samples, torch.Generator().manual_seed(seed), dtype=torch.float64)
        try:
            given = Measurement(problem.operator, problem.noise, problem.y)
            std = settings.get("start_std")
            begin = None if std is None else std * draws.normal(SHAPE)
            x = sampler.sample(denoiser, levels, given, num_samples=num_samples, start=begin, draws=draws)
            x = x.reshape(len(problem.y), num_samples, -1)
        except RunError:
            return None
        evaluations, vjps = denoiser.evaluations, denoiser.vjps
    seconds = time.process_time() - began
    return {**judge(problem, x), "evaluations": evaluations, "vjps": vjps, "seconds": seconds}


def affordable(row: str, problem: GaussianProblem) -> bool:
    """Whether a row is measured on a problem."""
    probes = math.prod(SHAPE) - problem.rank if row == "tweedie_smc, complete" else 0
    return problem.y[0].numel() + probes <= MOST_DIRECTIONS.get(row, math.inf)


def budget_of(row: str, budget: str, quick: bool = False) -> int:
    """Evaluations of a row."""
    return SMALLER_BUDGETS.get(row, BUDGETS)[budget] // (2 if quick else 1)


# --- tuning --------------------------------------------------------------------------------------------------


def score(found: Mapping[str, float] | None) -> float:
    """What tuning makes small: the root of the squares of both errors; 2 if that is larger, or nothing was finite."""
    return 2.0 if found is None else min(2.0, math.hypot(corrected(found, "mean"), corrected(found, "std")))


def tune(options: argparse.Namespace) -> None:
    """Choose the settings of every row, and write them."""
    chosen: dict[str, Any] = yaml.safe_load(SETTINGS.read_text("utf-8")) if SETTINGS.exists() else {}
    prior, noises = GaussianPrior.load(), itertools.cycle(NOISES)
    problems = [
        make_problem(prior, name, next(noises), options.measurements, options.seed + 1000) for name in options.operators
    ]
    for budget, row in itertools.product(options.budgets, options.samplers):
        able = [p for p in problems if affordable(row, p)]
        scores = []
        for settings in CANDIDATES[row]:
            if len(CANDIDATES[row]) == 1:
                scores.append(math.nan)
                break
            found = [measure(row, settings, budget_of(row, budget), p, options.num_samples, 1) for p in able]
            scores.append(statistics.fmean(map(score, found)))
        best = min(range(len(scores)), key=scores.__getitem__)
        chosen.setdefault(budget, {})[row] = CANDIDATES[row][best]
        print(f"{budget}, {row}: {', '.join(f'{s:.3f}' for s in scores)}; best {CANDIDATES[row][best]}", flush=True)
        plain = yaml.SafeDumper
        plain.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
        SETTINGS.write_text(yaml.dump(chosen, Dumper=plain, sort_keys=False, width=120), encoding="utf-8")


# --- the table -----------------------------------------------------------------------------------------------


def make_problems(prior: GaussianPrior, options: argparse.Namespace, seed: int) -> list[GaussianProblem]:
    """All operators at all noise levels."""
    return [
        make_problem(prior, name, std, options.measurements, seed)
        for name, std in itertools.product(options.operators, NOISES)
    ]


Found = dict[tuple[str, str, str], dict[str, float] | None]
"""By row, budget and problem."""


def pooled(found: Iterable[Mapping[str, float] | None]) -> dict[str, float]:
    """Means over problems (of the squares, where they are squared); empty without any."""
    whole = [f for f in found if f is not None]
    return {key: statistics.fmean(f[key] for f in whole) for key in whole[0]} if whole else {}


def shown(found: Mapping[str, float]) -> list[str]:
    """Errors of mean and standard deviation, and coverage, as a table has them."""
    if not found:
        return ["–"] * 3
    errors = [_short(corrected(found, moment)) for moment in ("mean", "std")]
    return [*errors, f"{100 * found['coverage']:.0f}%"]


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1g}"


def run(options: argparse.Namespace, settings: Mapping[str, Any], problems: list[GaussianProblem]) -> Found:
    """Every row on every problem."""
    found: Found = {}
    jobs = list(itertools.product([EXACT, *options.samplers], options.budgets, problems))
    with bar(len(jobs), "samplers", "runs") as tick:
        for row, budget, problem in jobs:
            evaluations = budget_of(row, budget, options.quick)
            own = settings[budget].get(row, {})
            seed = options.seed if budget == "few" else options.seed + 1
            found[row, budget, problem.name] = measure(row, own, evaluations, problem, options.num_samples, seed)
            tick(1, f"{row}, {budget}")
    return found


def add(report: Report, found: Found) -> None:
    """Rows of results.csv."""
    for (row, budget, problem), values in found.items():
        case = f"{problem}, {budget}"
        if values is None:
            continue
        for moment in ("mean", "std"):
            report.add(case, row, f"{moment}_error", corrected(values, moment), "1")
            report.add(case, row, f"{moment}_error_uncorrected", math.sqrt(values[f"{moment}_sq"]), "1")
            report.add(case, row, f"{moment}_floor", math.sqrt(values[f"{moment}_floor_sq"]), "1")
        for metric, unit in (("spread", "1"), ("coverage", "1"), ("evaluations", "1"), ("vjps", "1"), ("seconds", "s")):
            report.add(case, row, metric, values[metric], unit)


def tables(report: Report, options: argparse.Namespace, found: Found) -> None:
    """All problems together at every budget, then each problem at the largest."""
    names = list(dict.fromkeys(problem for _, _, problem in found))
    rows = []
    for row in [EXACT, *options.samplers]:
        line = [row]
        for budget in options.budgets:
            together = pooled(found[row, budget, name] for name in names)
            cost = [f"{together[key]:.0f}" for key in ("evaluations", "vjps")] if together else ["–"] * 2
            spread = cell(together["spread"]) if together else "–"
            line += [*cost, *shown(together)[:2], spread, shown(together)[2]]
        failed = sum(found[row, budget, name] is None for budget in options.budgets for name in names)
        rows.append([*line, str(failed or "")])
    head = ["evaluations", "vjps", "mean", "std", "spread", "coverage"]
    report.table(
        f"All {len(names)} problems",
        ["sampler", *(f"{what} ({b})" for b in options.budgets for what in head), "left out"],
        rows,
        [
            "mean: error of the posterior mean, root mean square over pixels, relative to that of the exact standard "
            "deviation; std: error of the standard deviation of the pixels, likewise. Both are corrected for what "
            f"{options.num_samples} independent samples have by chance (squares subtracted; what is left by chance is "
            f"in the row {EXACT}), averaged over problems as squares",
            "spread: standard deviation of the samples relative to the exact one, below 1 too narrow; coverage of 90% "
            "intervals by exact posterior probability",
            "evaluations and vjps (products with the Jacobian of the denoiser) for a sample, counted by the denoiser",
            f"left out: runs whose state was not finite, or with more numbers in y and probes than {MOST_DIRECTIONS}",
        ],
    )
    last = options.budgets[-1]
    for std in NOISES:
        rows = [
            [row, *(" / ".join(shown(pooled([found[row, last, f"{n}, noise {std:g}"]]))) for n in options.operators)]
            for row in [EXACT, *options.samplers]
        ]
        title = f"Noise {std:g}, {last} evaluations: mean / std / coverage"
        report.table(title, ["sampler", *options.operators], rows)


def options() -> argparse.ArgumentParser:
    """The options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--samplers", nargs="+", default=list(CANDIDATES), metavar="NAME", help="rows of the table (all)")
    made.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=list(OPERATORS), metavar="NAME")
    made.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS), help=f"{BUDGETS}")
    made.add_argument("--measurements", type=int, default=None, metavar="M", help="of each problem (2)")
    made.add_argument("--num-samples", type=int, default=None, metavar="S", help="of each (199; 99 when tuning)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
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
    small = chosen.tune or chosen.quick
    chosen.measurements = 2 if chosen.measurements is None else chosen.measurements
    chosen.num_samples = (99 if small else 199) if chosen.num_samples is None else chosen.num_samples
    for name, low in (("measurements", 1), ("num_samples", 19), ("seed", 0)):
        if getattr(chosen, name) < low:
            raise InputError(f"--{name.replace('_', '-')} {getattr(chosen, name)}: expected {low} or more")
    if chosen.write_prior:
        write_prior(chosen.write_prior)
        return 0
    if chosen.tune:
        tune(chosen)
        return 0
    if chosen.quick:
        chosen.budgets = ["few"]
    settings = yaml.safe_load(SETTINGS.read_text("utf-8"))
    report = Report("posterior_gaussian", chosen, "cpu")
    report.settings["samplers"] = {budget: settings[budget] for budget in chosen.budgets}
    report.settings["problems"] = {"operators": OPERATORS, "noises": NOISES, "prior": PRIOR.name}
    began = time.process_time()
    found = run(chosen, settings, make_problems(GaussianPrior.load(), chosen, chosen.seed))
    add(report, found)
    tables(report, chosen, found)
    minutes = (time.process_time() - began) / 60
    where = f"{report.settings['processor']}, {torch.get_num_threads()} threads"
    report.say(f"On {where}: {minutes:.1f} minutes of processor time.")
    report.save()
    print(f"\nfiles: {report.folder.path}")
    return 0


if __name__ == "__main__":
    start(main, options())
