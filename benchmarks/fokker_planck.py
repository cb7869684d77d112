"""Seconds and errors of every solver of the Fokker-Planck equation, at several sizes of one channel of a photograph.

The density of the value pairs of the photograph in grey is followed over ten levels of the SDE with g = 2^t, the
paper's settings for 64 x 64 pixels (tolerance 1e-6). A time is that of the whole call, from the density at the first
level to all densities and scores: the least of several calls after one to warm up, one call if it takes longer than two
seconds. On the CPU everything runs on one thread and the time is the processor's, which other programs do not lengthen
much.

The error of a finite-difference solver is the root mean square of the difference of its log density to the exact one
over the pixels of all later levels (without the mean of each level, on which no score depends), beside the standard
deviation of the exact one. The exact solvers are compared with each other, and with a cosine that decays in closed
form.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from support.common import ROOT, Report, bar, parser, start
from torch import Tensor

from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.errors import InputError
from randomwalk.images.sources import open_images
from randomwalk.studies.score_embedding import cole_hopf, finite_difference, legacy
from randomwalk.studies.score_embedding.density import value_pair_kde
from randomwalk.studies.score_embedding.solution import Solution
from randomwalk.studies.score_embedding.solvers import level_times
from score_sde.sdes import PowerVE

SIZES, QUICK_SIZES = (32, 64, 128, 256), (32, 64)
LEVELS, SDE, TOLERANCE, EPS = 10, PowerVE(2.0), 1e-6, 1e-3
REPEATED, BUDGET, QUICK_BUDGET = 2.0, 2.0, 0.5
"""Seconds from which a call is not repeated; seconds for the repetitions."""
COMPARED, FASTER, FLAT = 64, 500.0, 2.0
"""The size at which the ratios are taken, and the targets: the ratio, and by how much the cost of a pixel may grow."""

KEPT, MATRIX, COSINE = "exact, matrix, kernels kept", "exact, matrix", "exact, dct"
EXACT = (KEPT, MATRIX, COSINE)
DIFFERENCES: dict[str, dict[str, object]] = {
    "semi-implicit, bicgstab": {"linear_solver": "bicgstab"},
    "semi-implicit, bicgstab, Newton": {"linear_solver": "bicgstab", "linearisation": "newton"},
    "semi-implicit, adi": {"linear_solver": "adi"},
    "semi-implicit, LU": {"linear_solver": "lu"},
}
LU, LEGACY = "semi-implicit, LU", "legacy (as published), LU"

Solver = Callable[[Tensor], Solution]


def solvers(size: int, device: torch.device) -> dict[str, Solver]:
    """Every solver, as a function of the first log density."""
    times = level_times(LEVELS, EPS)
    kernels = cole_hopf.make_kernels((size, size), times, SDE, device=device)
    made: dict[str, Solver] = {
        KEPT: lambda m0: cole_hopf.solve(m0, times, SDE, prepared=kernels),
        MATRIX: lambda m0: cole_hopf.solve(m0, times, SDE),
        COSINE: lambda m0: cole_hopf.solve(m0, times, SDE, method="dct"),
    }
    for name, settings in DIFFERENCES.items():
        arguments: dict[str, object] = {"tolerance": TOLERANCE, "max_iterations": 100} | settings
        made[name] = partial(_call, finite_difference.solve, times, arguments)
    made[LEGACY] = partial(_call, legacy.solve, times, {"tolerance": TOLERANCE})
    return made


def _call(solve: Callable[..., Solution], times: Tensor, arguments: dict[str, object], m0: Tensor) -> Solution:
    return solve(m0, times, SDE, **arguments)


def timed(solver: Solver, m0: Tensor, budget: float) -> tuple[float, Solution]:
    """Seconds of a call, and what it returns."""

    def once() -> float:
        if m0.device.type == "cuda":
            torch.cuda.synchronize(m0.device)
        clock = time.process_time if m0.device.type == "cpu" else time.perf_counter
        begin = clock()
        kept.append(solver(m0))
        if m0.device.type == "cuda":
            torch.cuda.synchronize(m0.device)
        del kept[:-1]
        return clock() - begin

    kept: list[Solution] = []
    first = once()
    if first > REPEATED:
        return first, kept[0]
    least, spent = math.inf, 0.0
    while spent < budget:
        seconds = once()
        least, spent = min(least, seconds), spent + max(seconds, 1e-5)
    return least, kept[0]


def difference(found: Solution, right: Solution) -> float:
    """Root mean square of the difference of the log densities of the later levels, without a constant of each."""
    apart = found.log_density[1:] - right.log_density[1:]
    return float((apart - apart.mean(dim=(-2, -1), keepdim=True)).square().mean().sqrt())


def error_of_cosine(solver: Solver, size: int, device: torch.device) -> float:
    """Largest error of the log of ``1 + cos cos / 2``, whose wave decays by ``exp(-tau lambda)``."""
    wave = torch.cos(3 * math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size)
    tau = 0.5 * (SDE.variance(level_times(LEVELS, EPS)) - SDE.variance(EPS))
    height = 0.5 * torch.exp(-2 * tau * (2 - 2 * math.cos(3 * math.pi / size)))
    right = (1 + height[:, None, None] * wave[:, None] * wave).log().to(device)
    return float((solver(right[0, None, None]).log_density[:, 0, 0] - right).abs().max())


Found = dict[tuple[str, int], dict[str, float]]


def measure(chosen: argparse.Namespace, device: torch.device, report: Report) -> Found:
    """Seconds, errors and iterations of every solver at every size."""
    photograph, budget = open_images(chosen.images), QUICK_BUDGET if chosen.quick else BUDGET
    found: Found = {}
    with bar(len(chosen.sizes) * len(solvers(2, device)), "solvers", "solutions") as tick:
        for size in chosen.sizes:
            image = photograph.load(chosen.index, 1, (size, size), "resize")
            m0 = value_pair_kde((image[None].double() + 1) / 2).to(device)
            table, solutions = solvers(size, device), {}
            for name, solver in table.items():
                tick(0, f"{size} pixels, {name}")
                seconds, solutions[name] = timed(solver, m0, budget)
                right = solutions[KEPT]
                one = found[name, size] = {"seconds": seconds, "iterations": solutions[name].iterations}
                if name not in EXACT:
                    one["error"] = difference(solutions[name], right)
                else:
                    one["error_of_cosine"] = error_of_cosine(solver, size, device)
                    one["error"] = float((solutions[name].log_density - right.log_density).abs().max())
                tick(1)
            spread = right.log_density[1:].std(dim=(-2, -1)).square().mean().sqrt()
            found["spread", size] = {"error": float(spread)}
    for (name, size), one in found.items():
        for metric, value in one.items():
            report.add(f"{size} pixels", name, metric, value, "s" if metric == "seconds" else "1")
    return found


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if 1e-3 <= value < 1e3 or not value else f"{value:.1e}"


def tables(report: Report, found: Found, sizes: list[int]) -> None:
    """Seconds; errors."""
    names, head = [name for name in dict.fromkeys(name for name, _ in found) if name != "spread"], map(str, sizes)
    pixels = [f"{size} x {size}" for size in head]
    rows = [[name, *(short(found[name, size]["seconds"]) for size in sizes)] for name in names]
    notes = [
        f"one channel, {LEVELS} levels, g = 2^t, tolerance {TOLERANCE:g}",
        "kernels kept: they depend on the size and the levels alone, and serve all channels and images; the row below "
        "makes them for this one channel",
    ]
    report.table("Seconds", ["solver", *pixels], rows, notes)
    rows = [[name, *(short(found[name, size]["error"]) for size in sizes)] for name in names if name not in EXACT]
    rows.append(["(standard deviation of the exact one)", *(short(found["spread", size]["error"]) for size in sizes)])
    notes = [
        "of the semi-implicit scheme: from its steps in time, and from central differences of a rough log density",
        "legacy does not approximate the equation: its fields die out, and 0 would have the error of the last row",
    ]
    report.table("Error against the exact solution", ["solver", *pixels], rows, notes)
    rows = []
    for name in EXACT:
        rows.append([f"{name}: of a cosine", *(short(found[name, size]["error_of_cosine"]) for size in sizes)])
    rows.append(["matrix and dct: apart", *(short(found[COSINE, size]["error"]) for size in sizes)])
    report.table("Largest error of the exact solvers", ["", *pixels], rows)
    names = [name for name in names if name not in EXACT]
    rows = [[name, *(f"{found[name, size]['iterations']:.0f}" for size in sizes)] for name in names]
    note = f"legacy: sweeps over all levels; the others: sweeps of the step that needs most. {LEVELS - 1} steps"
    report.table("Iterations", ["solver", *pixels], rows, [note])


def judged(value: float, target: float, at_least: bool) -> str:
    """The verdict of a target in words."""
    met = value >= target if at_least else value <= target
    return f"target {'at least' if at_least else 'at most'} {target:g}: {'met' if met else 'MISSED'}"


def verdicts(report: Report, found: Found, sizes: list[int]) -> None:
    """Ratios at one size, and the cost of a pixel."""
    size = COMPARED if COMPARED in sizes else sizes[-1]
    rows = []
    for slow in (LEGACY, LU):
        for name in EXACT:
            ratio = found[slow, size]["seconds"] / found[name, size]["seconds"]
            report.add(f"{size} pixels", name, f"times faster than {slow}", ratio, "1")
            rows.append([f"{slow} / {name}", f"{ratio:.0f}", judged(ratio, FASTER, True)])
    report.table(f"Speed-up of the exact solution, at {size} x {size}", ["", "ratio", ""], rows)
    rows = []
    for name in EXACT:
        costs = [1e9 * found[name, size]["seconds"] / (size**2 * (LEVELS - 1)) for size in sizes]
        growth = costs[-1] / min(costs)
        report.add("", name, "growth of the cost of a pixel", growth, "1")
        rows.append([name, *(f"{cost:.0f}" for cost in costs), f"{growth:.2f}", judged(growth, FLAT, False)])
    head = ["nanoseconds", *(f"{size} x {size}" for size in sizes), "last / least", ""]
    report.table("Cost of a pixel and level of the exact solution", head, rows)


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--sizes", nargs="+", type=int, metavar="N", help=f"of a side; {SIZES}, quick {QUICK_SIZES}")
    folder = ROOT / "data" / "photographs"
    made.add_argument("--images", type=Path, default=folder, metavar="FOLDER", help="photographs (the bundled ones)")
    made.add_argument("--index", type=int, default=0, metavar="N", help="which of them, from 0 (0)")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    chosen.sizes = sorted(chosen.sizes or (QUICK_SIZES if chosen.quick else SIZES))
    if chosen.sizes[0] < 2:
        raise InputError(f"--sizes {chosen.sizes[0]}: expected 2 or more pixels")
    if not 0 <= chosen.index < len(open_images(chosen.images)):
        raise InputError(f"--index {chosen.index}: {chosen.images} has {len(open_images(chosen.images))} images")
    device = resolve_device(chosen.device)
    torch.set_num_threads(1)
    report = Report("fokker_planck", chosen, str(device), ["scipy"])
    with torch.inference_mode():
        found = measure(chosen, device, report)
    tables(report, found, chosen.sizes)
    verdicts(report, found, chosen.sizes)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
