"""Figures of a sampling run: schedule and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from randomwalk.images.sheets import legend_below, new_figure, png, tidy
from randomwalk.samplers import Plan
from randomwalk.samplers.walk import PosteriorFlow, PreconditionedStep
from randomwalk.sampling.calibration import CONTESTED, Calibration


def schedule_figure(levels: Sequence[float], plan: Plan | None = None, norm: float | None = None) -> bytes:
    """Draw the noise levels as a PNG; for a walk, the noise level, step size and temperature of every step.

    Args:
        levels: of the schedule.
        plan: of the walk; None for other samplers.
        norm: of the operator, for steps that differ by direction and are shortest in that of the largest gain. The last
            step of a walk with momentum, a `PosteriorFlow`, is drawn by its step along the score of the prior.
    """
    figure = new_figure((11, 3.5) if plan is not None else (4.2, 3.2))
    axes = figure.subplots(1, 3 if plan is not None else 1, squeeze=False)[0]
    left, bottom = (0.05, 0.23) if plan is not None else (0.13, 0.15)
    figure.subplots_adjust(left=left, right=0.985, top=0.9, bottom=bottom, wspace=0.2)
    sigmas = np.asarray(levels if plan is None else plan.sigmas)
    axes[0].semilogy(np.arange(len(sigmas)), sigmas, color="#2a6fba")
    axes[0].set_title("noise level σ")
    if plan is not None:
        _draw_walk(axes, plan, norm)
    for axis in axes:
        axis.set_xlabel("step k" if plan is not None else "level")
        axis.minorticks_off()
        axis.xaxis.get_major_locator().set_params(integer=True)
        tidy(axis)
    return png(figure)


def _draw_walk(axes: Any, plan: Plan, norm: float | None) -> None:
    k, sigmas = np.arange(len(plan.sigmas)), np.asarray(plan.sigmas)
    for label, values in _step_sizes(plan, norm).items():
        axes[1].semilogy(k, values, label=label)
    axes[1].semilogy(k, sigmas**2, color="0.7", linestyle=":", label="σ² (a jump to the denoised image)", zorder=0)
    axes[1].set_title("step size τ")
    legend_below(axes[1])
    axes[2].plot(k, plan.temperatures, color="#b5482a")
    axes[2].set_title("temperature T")
    axes[2].set_ylim(bottom=0)


def _step_sizes(plan: Plan, norm: float | None) -> dict[str, np.ndarray]:
    steps = [step for step in plan.step_sizes if not isinstance(step, (int, float, Tensor))]
    if len(steps) < len(plan.step_sizes):
        numbers = [
            float(step) if isinstance(step, (int, float, Tensor)) else step.scale * step.sigma**2
            for step in plan.step_sizes
        ]
        return {"τ": np.array(numbers)}
    c, weight, s = (np.array([getattr(step, name) for step in steps]) for name in ("scale", "prior_weight", "sigma"))
    found = {"τ where nothing is measured": c * s**2 / weight}
    if norm is not None:
        eta = np.array([step.eta if isinstance(step, PreconditionedStep) else np.inf for step in steps])
        with np.errstate(divide="ignore"):
            most = c / (weight / s**2 + (norm / eta) ** 2)
        for k, step in enumerate(steps):
            if isinstance(step, PosteriorFlow):
                most[k] = step.along_score(norm**2)
        found["τ where most is measured"] = most
    return found


def calibration_lines(calibrations: Mapping[str, Calibration]) -> list[str]:
    """Summary of the calibration, as lines to print."""
    if not calibrations:
        return []
    chosen, everything = calibrations["contested"], calibrations["all"]
    if chosen.num_pixels == 0:
        return [f"samples and truth agree everywhere (std below {CONTESTED:g}): no spread to judge"]
    share = chosen.num_pixels / everything.num_pixels
    which = f"of the contested pixels ({100 * share:.0f}% of all)"
    return [
        f"{chosen.summary()} {which}: {chosen.verdict()}",
        f"{everything.summary()} of all pixels; contested: std of samples and truth together above {CONTESTED:g}",
    ]


def calibration_figure(calibrations: Mapping[str, Calibration]) -> bytes:
    """Draw rank histograms, and coverage against its nominal level, with 95% intervals over images, as a PNG.

    Args:
        calibrations: by choice of pixels; the first is the main one.
    """
    figure = new_figure((10, 4.2))
    histogram, coverage = figure.subplots(1, 2, width_ratios=[1.35, 1])
    figure.subplots_adjust(left=0.075, right=0.98, top=0.84, bottom=0.2, wspace=0.2)
    styles = [("#2a6fba", 0.55), ("0.35", 0.0)]
    for (name, found), (colour, filled) in zip(calibrations.items(), styles, strict=False):
        if found.num_pixels:
            _draw_ranks(histogram, found, colour, filled)
            _draw_coverage(coverage, found, f"{name} pixels", colour)
    first = next(iter(calibrations.values()))
    places = first.num_samples + 1
    histogram.axhline(1, color="#b5482a", linestyle="--", linewidth=1)
    histogram.set(xlabel=f"rank of the truth among {first.num_samples} samples", ylabel=f"share of pixels x {places}")
    histogram.set_ylim(bottom=0)
    histogram.xaxis.get_major_locator().set_params(integer=True)
    histogram.set_title("Rank histogram, 95% intervals over images", loc="left", fontsize=11)
    coverage.plot([0, 1], [0, 1], color="#b5482a", linestyle="--", linewidth=1, label="exact samples")
    coverage.set(xlabel="nominal level of the interval", ylabel="share of true pixels inside", xlim=(0, 1), ylim=(0, 1))
    coverage.set_title("Coverage", loc="left", fontsize=11)
    legend_below(coverage)
    for axis in (histogram, coverage):
        tidy(axis)
    figure.suptitle(calibration_lines(calibrations)[0], fontsize=10, x=0.075, ha="left")
    return png(figure)


def _draw_ranks(axis: Any, found: Calibration, colour: str, filled: float) -> None:
    shares, places = found.histogram(), found.num_samples + 1
    ranks, heights = np.arange(places), np.array([share.value for share in shares]) * places
    if filled:
        axis.bar(ranks, heights, width=1, color=colour, alpha=filled, edgecolor="white", linewidth=0.5)
        axis.errorbar(ranks, heights, [share.margin * places for share in shares], color=colour, fmt="none")
    else:
        axis.stairs(heights, np.arange(places + 1) - 0.5, color=colour)


def _draw_coverage(axis: Any, found: Calibration, label: str, colour: str) -> None:
    levels = found.coverages()
    nominal, shares = [c.expected for c in levels], [c.value for c in levels]
    axis.plot(nominal, shares, color=colour, marker="o", markersize=3, label=label)
    low, high = ([c.value + sign * c.margin for c in levels] for sign in (-1, 1))
    axis.fill_between(nominal, low, high, color=colour, alpha=0.2, linewidth=0)
