"""Stated and measured orders of convergence of every sampler of the prior: tables, and a figure of the errors."""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from support.common import Report, bar, parser, start
from support.convergence import (
    ADAPTIVE,
    CASES,
    CHURN,
    MEAN,
    MISTAKES,
    PREDICTORS,
    SIGMA_MAX,
    SIGMA_MIN,
    SLACK,
    SLACK_OF_POWER,
    STEPS,
    TOLERANCES,
    VARIANCES,
    adaptive_errors,
    agrees,
    errors,
    measured_order,
    power_of_tolerance,
    stated,
)

from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder

KNOWN = CASES | PREDICTORS
LABELS = {
    "order": "flow: the end",
    "strong_order": "SDE: the end, same path",
    "weak_order": "SDE: law given the start",
    "marginal_order": "SDE: law from the exact start",
}


Found = dict[str, dict[int, dict[str, float]]]


def order_table(report: Report, title: str, found: Found, notes: Sequence[str]) -> None:
    """Stated and measured orders."""
    rows, steps = [], list(next(iter(found.values())))
    for name, by_steps in found.items():
        case = (KNOWN | MISTAKES)[name]
        for metric, said in stated(case).items():
            values = [by_steps[n][metric] for n in steps]
            order = measured_order(steps, values)
            for n, value in zip(steps, values, strict=True):
                report.add(f"{n} steps", name, f"error_of_{metric}", value, "std")
            report.add("", name, metric, order, "1")
            verdict = "agrees" if agrees(order, said) else "DIFFERS"
            rows.append([name, LABELS[metric], *(f"{v:.1e}" for v in values[-3:]), f"{order:.2f}", f"{said}", verdict])
    head = ["sampler", "error of", *(f"{n} steps" for n in steps[-3:]), "measured", "stated", "verdict"]
    report.table(title, head, rows, notes)


def adaptive_table(report: Report, found: Mapping[str, Mapping[float, tuple[float, int]]]) -> None:
    """Errors of the adaptive solver against its tolerance."""
    rows, tolerances = [], max(found.values(), key=len)
    for method, curve in found.items():
        for tolerance, (error, evaluations) in curve.items():
            report.add(f"tolerance {tolerance:.0e}", f"ode, {method}", "error_of_order", error, "std")
            report.add(f"tolerance {tolerance:.0e}", f"ode, {method}", "evaluations", evaluations, "1")
        power = power_of_tolerance(list(curve), [error for error, _ in curve.values()])
        report.add("", f"ode, {method}", "power_of_tolerance", power, "1")
        verdict = "agrees" if abs(power - 1) < SLACK_OF_POWER else "DIFFERS"
        cells = [f"{curve[t][0] / t:.2f} ({curve[t][1]})" if t in curve else "–" for t in tolerances]
        rows.append([method, *cells, f"{power:.2f}", "1", verdict])
    report.table(
        "ode: error / tolerance (evaluations)",
        ["method", *(f"{t:.0e}" for t in tolerances), "power", "stated", "verdict"],
        rows,
        [
            "worst of four samples, root mean square over pixels; rtol = atol; no level between the first and the last",
            f"power: of the tolerance in the error; it agrees within {SLACK_OF_POWER}",
        ],
    )


def slopes(axis: Any, found: Found, metric: str) -> None:
    """Lines of the stated orders, below the curves."""
    lowest: dict[int, tuple[int, float]] = {}
    for name, by_steps in found.items():
        n = max(by_steps)
        order = stated(CASES[name]).get(metric) if name in CASES else None
        if order is not None:
            lowest[order] = min(lowest.get(order, (n, math.inf)), (n, by_steps[n][metric]))
    for order, (n, error) in lowest.items():
        line = [(k, 0.6 * error * (n / k) ** order) for k in (n / 8, n)]
        axis.loglog(*zip(*line, strict=True), "--", color="0.6", linewidth=1)
        axis.annotate(f"$N^{{-{order}}}$", line[1], (4, 0), textcoords="offset points", va="center", color="0.4")
    axis.margins(x=0.1)


def draw(found: Found, adaptive: Mapping[str, Mapping[float, tuple[float, int]]], folder: RunFolder) -> None:
    """The errors of every order, orders.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 7.5), dpi=100)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.96, bottom=0.06, wspace=0.16, hspace=0.28)
    axes, steps = figure.subplots(2, 3).flatten(), list(next(iter(found.values())))
    colours = dict(zip(found, itertools.cycle(f"C{n}" for n in range(10)), strict=False))
    for axis, metric in zip(axes, ("order", "order", "strong_order", "weak_order", "marginal_order"), strict=False):
        against_evaluations = axis is axes[1]
        for name, by_steps in found.items():
            curve = [(n, one) for n, one in by_steps.items() if metric in one]
            x = [one["evaluations"] if against_evaluations else n for n, one in curve]
            look: dict[str, Any] = {"marker": ".", "color": "0.2" if name in MISTAKES else colours[name], "label": name}
            if curve:
                axis.loglog(x, [one[metric] for _, one in curve], ":" if name in MISTAKES else "-", **look)
        if against_evaluations:
            axis.set(title=f"{LABELS[metric]}, by cost", xlabel="evaluations of the denoiser")
        else:
            axis.set(title=LABELS[metric], xlabel="steps N")
            slopes(axis, found, metric)
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.minorticks_off()
    for method, by_tolerance in adaptive.items():
        axes[5].loglog(list(by_tolerance), [error for error, _ in by_tolerance.values()], marker=".", label=method)
    axes[5].loglog(TOLERANCES, TOLERANCES, "--", color="0.6", label="error = tolerance")
    axes[5].set(title="ode: the end", xlabel="tolerance")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    for axis in axes[::3]:
        axis.set_ylabel("error (standard deviations)")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    few_colours = Image.open(picture).convert("RGB").quantize(128)
    folder.write("orders.png", lambda file: few_colours.save(file, format="png", optimize=True))


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--samplers", nargs="+", default=list(KNOWN), metavar="NAME", help="; ".join(KNOWN))
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure, print and draw."""
    if unknown := sorted(set(chosen.samplers) - set(KNOWN)):
        raise InputError(f"--samplers: {'; '.join(unknown)}: expected some of {'; '.join(KNOWN)}")
    torch.set_num_threads(1)  # the tensors are tiny
    report = Report("solver_orders", chosen, "cpu", ["torchdiffeq"])
    cases = {name: KNOWN[name] for name in chosen.samplers} | MISTAKES
    steps = STEPS[:-1] if chosen.quick else STEPS
    with bar(len(cases) * len(steps) + sum(map(len, ADAPTIVE.values())), "orders", "runs") as tick:
        found: Found = {name: {} for name in cases}
        for name, case in cases.items():
            for n in steps:
                found[name][n] = errors(case, n)
                tick(1, name)
        adaptive: dict[str, dict[float, tuple[float, int]]] = {method: {} for method in ADAPTIVE}
        for method, tolerances in ADAPTIVE.items():
            for tolerance in tolerances[::2] if chosen.quick else tolerances:
                adaptive[method][tolerance] = adaptive_errors(method, tolerance)
                tick(1, method)
    notes = [
        f"sigma from {SIGMA_MAX:g} to {SIGMA_MIN:g}, each second step half as long in ln sigma (not with churn); "
        f"pixels of mean {MEAN} and variances {', '.join(f'{v:g}' for v in VARIANCES.tolist())}",
        "root mean square errors in standard deviations of X_sigma at the last level, exact: no draws are made",
        f"measured: from the last three numbers of steps, the next order taken out; it agrees within {SLACK}",
        f"churn: s_churn = {CHURN:g}; the step from the last level to 0 is D for all but probability_flow, and is "
        "not part of this",
        "published: of the code that came with the paper, which calls it third-order",
    ]
    predictors = {name: found.pop(name) for name in PREDICTORS if name in found}
    order_table(report, "Orders", found, notes)
    if predictors:
        order_table(
            report, "Orders of the predictors, by the SDE in whose coordinates they step", predictors, notes[1:3]
        )
    adaptive_table(report, adaptive)
    draw(found, adaptive, report.folder)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
