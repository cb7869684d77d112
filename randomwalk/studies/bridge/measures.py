"""Errors of a bridge: its ends, its regularity, and between Gaussians all its moments.

Ends. Chamfer and earth mover's distances of each simulated end to fresh exact points, beside the floor, the same
distance between two exact sets.

Middle. The forward and the backward process of a bridge are one in distribution: distances of their points at t = 1/2.

Regularity. The bridge is the process nearest to Brownian motion with the given ends, and its coupling the plan of
entropic transport. Measured are

    transport_cost    E ||X_1 - X_0||^2 of each direction's pairs, beside that of the entropic plan between two exact
                      sets (POT, regularisation 2 sigma^2 of the squared distance), of the optimal plan without
                      entropy, and of independent pairs
    flow_cost         the same of the pairs that the flow of the current velocity v = (forward - backward drift) / 2
                      makes, whose points have the bridge's marginals; at least the optimal plan's
    straightness      E ||x_1 - x_0|| / E int ||v|| dt along that flow: its paths are straight where it is 1
    flow_energy       E int ||v||^2 dt, and
    drift_energy      E int ||u||^2 dt of the forward drift, which the Schroedinger bridge minimises. Only between
                      Gaussians: onto a curve, such as the swiss roll, both are infinite (the marginal narrows as
                      sigma sqrt(1 - t), and ||v|| grows as 1 / sqrt(1 - t))

Between two Gaussians they have exact values, and the mean and covariance of the simulated points are compared with
the closed form at every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from randomwalk.lookup import optional_library
from randomwalk.rng import Stream, generator
from randomwalk.studies.bridge import gaussian
from randomwalk.studies.bridge.ends import exact_bridge
from randomwalk.studies.bridge.gaussian import GaussianBridge
from randomwalk.studies.bridge.matching import Drift
from randomwalk.studies.bridge.model import Bridge
from randomwalk.studies.bridge.simulation import host_noise, simulate, simulate_flow, time_grid
from randomwalk.studies.points import metrics
from randomwalk.studies.points.datasets import PointSet, as_images, as_points

COLUMNS = ("measure", "direction", "value", "error", "reference", "what")


@dataclass(frozen=True)
class Row:
    """Measured value.

    Attributes:
        error: its standard error; nan where it is not known.
        reference: value of a perfect bridge, or None.
        what: description of the reference.
    """

    measure: str
    direction: str
    value: float
    error: float = math.nan
    reference: float | None = None
    what: str = ""


@dataclass(frozen=True)
class Paths:
    """Simulated points of one direction.

    Attributes:
        times: ``[K + 1]``, from the start of the direction to its end.
        points: ``[K + 1, n, 2]``.
    """

    times: np.ndarray
    points: np.ndarray

    def at(self, t: float) -> np.ndarray:
        """Points ``[n, 2]`` at the time nearest to t."""
        found: np.ndarray = self.points[int(np.abs(self.times - t).argmin())]
        return found

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs X_0 and X_1, ``[n, 2]`` each, in either direction."""
        return (self.points[0], self.points[-1]) if self.times[0] == 0 else (self.points[-1], self.points[0])


def simulate_paths(
    drift: Drift, start: np.ndarray, times: Sequence[float], sigma: float, draws: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Paths:  # fmt: skip
    """Send points ``[n, 2]`` along one direction, and keep all their positions."""
    kept = [start]
    simulate(
        drift, as_images(start, device), times, sigma, host_noise(draws), lambda k, x, t: kept.append(as_points(x))
    )
    return Paths(np.array(times), np.stack(kept))


def send(
    bridge: Bridge, directions: Sequence[bool], num: int, num_steps: int, grid: str, seed: int,
    device: torch.device | str,
) -> dict[bool, Paths]:  # fmt: skip
    """Simulate paths of fresh points for each direction, forward under True; they do not depend on each other."""
    found = {}
    for forward in directions:
        start = bridge.start(forward).sample(num, generator(seed, Stream.BRIDGE_START, forward))
        times = time_grid(num_steps, grid, backward=not forward)
        draws = generator(seed, Stream.BRIDGE_NOISE, forward)
        found[forward] = simulate_paths(bridge.drift(forward), start, times, bridge.sigma, draws, device)
    return found


# --- ends ------------------------------------------------------------------------------------------------------------


def _distances(measure: str, direction: str, a: np.ndarray, b: np.ndarray) -> dict[str, Row]:
    found = {name: metric(a, b) for name, metric in metrics.METRICS.items()}
    return {name: Row(f"{measure}_{name}", direction, d.value, d.error) for name, d in found.items()}


def end_rows(bridge: Bridge, paths: dict[bool, Paths], repeats: int, seed: int) -> list[Row]:
    """Distances of the simulated ends to exact points; the floors are means over ``repeats`` pairs of exact sets."""
    rows = []
    for forward, way in paths.items():
        end, num = bridge.end(forward), way.points.shape[1]
        floors = {name: metrics.floor(name, end, num, repeats, seed).value for name in metrics.METRICS}
        exact = end.sample(num, generator(seed, Stream.BRIDGE_EXACT, forward))
        found = _distances("end", "forward" if forward else "backward", way.points[-1], exact)
        rows += [replace(row, reference=floors[name], what="two exact sets") for name, row in found.items()]
    return rows


def middle_rows(paths: dict[bool, Paths]) -> list[Row]:
    """Distances between both directions at t = 1/2; the floors are those between the halves of each direction."""
    ahead, back = paths[True].at(0.5), paths[False].at(0.5)
    half = len(ahead) // 2
    rows = []
    for name, row in _distances("middle", "both", ahead, back).items():
        halves = [metrics.METRICS[name](x[:half], x[half : 2 * half]).value for x in (ahead, back)]
        rows.append(replace(row, reference=sum(halves) / 2, what="halves of one direction"))
    return rows


# --- regularity ------------------------------------------------------------------------------------------------------


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


NUM_FLOW = 4000
"""Number of paths over which energies are averaged."""
TRANSPORT_REPEATS = 8


def transport_costs(source: PointSet, target: PointSet, sigma: float, num: int, seed: int) -> dict[str, np.ndarray]:
    """Costs E ||X_1 - X_0||^2 of the entropic, optimal and independent plans between ``num`` exact points of each end.

    Each is an array with a value for each draw of the points.
    """
    ot = optional_library("ot", "bridge", "the report of a bridge")
    even, found = np.full(num, 1 / num), []
    for repeat in range(TRANSPORT_REPEATS):
        draws = generator(seed, Stream.BRIDGE_PLANS, repeat)
        x0, x1 = (end.sample(num, draws).astype(float) for end in (source, target))
        cost = np.square(x0).sum(1)[:, None] + np.square(x1).sum(1) - 2 * x0 @ x1.T
        log = cost.max() / (2 * sigma**2) > 500  # beyond that, exp(-cost / regularisation) is 0 in float64
        method = "sinkhorn_log" if log else "sinkhorn"
        plan = ot.sinkhorn(even, even, cost, 2 * sigma**2, method=method, numItermax=2000, stopThr=1e-6, warn=False)
        best = float(ot.emd2(even, even, cost, numItermax=10**7))
        found.append([float((plan * cost).sum()), best, float(cost.mean())])
    return dict(zip(("entropic", "optimal", "independent"), np.array(found).T, strict=True))


@dataclass(frozen=True)
class Flow:
    """Measurements along the flow of each point, ``[n]`` each.

    Attributes:
        cost: ||x_1 - x_0||^2.
        length: int ||v|| dt.
        energy: int ||v||^2 dt.
    """

    cost: np.ndarray
    length: np.ndarray
    energy: np.ndarray


def flow_along(
    forward: Drift, backward: Drift, start: np.ndarray, times: Sequence[float], device: torch.device | str = "cpu"
) -> Flow:
    """Send points ``[n, 2]`` along the flow of the current velocity."""
    speeds: list[np.ndarray] = []
    x1 = simulate_flow(
        forward,
        backward,
        as_images(start, device),
        times,
        lambda k, v, t: speeds.append(np.square(as_points(v).astype(np.float64)).sum(1)),
    )
    steps, squared = np.diff(times)[:, None], np.stack(speeds)
    cost = np.square(as_points(x1).astype(np.float64) - start).sum(1)
    return Flow(cost, (steps * np.sqrt(squared)).sum(0), (steps * squared).sum(0))


def drift_energy(drift: Drift, paths: Paths, device: torch.device | str = "cpu") -> np.ndarray:
    """Energy int ||u||^2 dt of each path, ``[n]``: the sum over the steps of the Euler method."""
    total = np.zeros(paths.points.shape[1])
    with torch.no_grad():
        for k, h in enumerate(np.abs(np.diff(paths.times))):
            u = as_points(drift(as_images(paths.points[k], device), float(paths.times[k])))
            total += h * np.square(u).sum(1)
    return total


def _references(
    bridge: Bridge, exact: GaussianBridge | None, num: int, seed: int
) -> tuple[dict[str, tuple[float, float]], str]:
    """Transport costs with their standard errors, and their source in words."""
    if exact is None:
        found = transport_costs(bridge.source, bridge.target, bridge.sigma, num, seed)
        return {name: _mean(values) for name, values in found.items()}, f"POT, {TRANSPORT_REPEATS} x {num} points"
    plain = gaussian.wasserstein(exact.m0, exact.S0, exact.m1, exact.S1)
    apart = gaussian.independent(exact).transport_cost()
    costs = {"entropic": exact.transport_cost(), "optimal": plain, "independent": apart}
    return {name: (cost, math.nan) for name, cost in costs.items()}, "exact"


def regularity_rows(bridge: Bridge, paths: dict[bool, Paths], num_transport: int, seed: int) -> list[Row]:
    """Transport cost, energy and straightness, each beside that of the Schroedinger bridge or of optimal transport."""
    exact = exact_bridge(bridge.source, bridge.target, bridge.sigma)
    costs, where = _references(bridge, exact, num_transport, seed)
    rows = []
    for forward, way in paths.items():
        x0, x1 = way.pairs()
        value, direction = _mean(np.square(x1 - x0).sum(1)), "forward" if forward else "backward"
        rows.append(Row("transport_cost", direction, *value, costs["entropic"][0], f"entropic plan, {where}"))
    rows += [Row(f"transport_cost_{name}", "", *costs[name], what=where) for name in costs]
    device = next(bridge.parameters()).device
    start, times = paths[True].points[0, :NUM_FLOW], [float(t) for t in paths[True].times]
    flow = flow_along(bridge.forward_drift, bridge.backward_drift, start, times, device)
    straight = float(np.sqrt(flow.cost).mean() / flow.length.mean())
    rows.append(
        Row("flow_cost", "forward", *_mean(flow.cost), costs["optimal"][0], f"at least the optimal plan's, {where}")
    )
    rows.append(Row("straightness", "forward", straight, reference=1.0, what="straight paths"))
    if exact is not None:
        some = Paths(paths[True].times, paths[True].points[:, :NUM_FLOW])
        spent = drift_energy(bridge.forward_drift, some, device)
        rows.append(Row("flow_energy", "forward", *_mean(flow.energy), exact.flow_energy(), "exact"))
        rows.append(Row("drift_energy", "forward", *_mean(spent), exact.drift_energy(), "exact"))
    return rows


# --- Gaussians -------------------------------------------------------------------------------------------------------

MOMENTS = ("direction", "t", "mean_error", "mean_noise", "covariance_error", "covariance_noise")


def moment_errors(paths: Paths, exact: GaussianBridge, direction: str) -> list[dict[str, float | str]]:
    """Errors of the mean and the covariance of the simulated points at every time, and those of n exact points.

        mean_error        |mean - mu_t| / sqrt(tr Sigma_t)                 mean_noise   sqrt(1 / n)
        covariance_error  |cov - Sigma_t| / |Sigma_t| (Frobenius)          covariance_noise
                          sqrt((tr(Sigma_t)^2 + tr(Sigma_t^2)) / n) / |Sigma_t|

    (the root mean squares of n independent normal points).
    """
    num = paths.points.shape[1]
    found: list[dict[str, float | str]] = []
    for t, points in zip(paths.times, paths.points.astype(np.float64), strict=True):
        mean, S = exact.mean(t), exact.covariance(t)
        size = float(np.linalg.norm(S))
        noise = math.sqrt((np.trace(S) ** 2 + np.trace(S @ S)) / num) / size
        found.append({
            "direction": direction, "t": float(t),
            "mean_error": float(np.linalg.norm(points.mean(0) - mean) / math.sqrt(np.trace(S))),
            "mean_noise": math.sqrt(1 / num),
            "covariance_error": float(np.linalg.norm(np.cov(points.T) - S)) / size,
            "covariance_noise": noise,
        })  # fmt: skip
    return found


def cross_covariance_error(paths: Paths, exact: GaussianBridge) -> float:
    """|Cov(X_0, X_1) - C| / |C| of the simulated pairs, Frobenius norms."""
    x0, x1 = (x.astype(np.float64) for x in paths.pairs())
    cross = (x0 - x0.mean(0)).T @ (x1 - x1.mean(0)) / (len(x0) - 1)
    return float(np.linalg.norm(cross - exact.C) / np.linalg.norm(exact.C))


def exact_paths(
    exact: GaussianBridge, like: dict[bool, Paths], draws: Callable[[bool], np.random.Generator]
) -> dict[bool, Paths]:
    """Simulate the exact drifts from the same starts in the same steps.

    The remaining errors are those of the Euler method and of the number of points.
    """
    found = {}
    for forward, way in like.items():
        direction: gaussian.Direction = "forward" if forward else "backward"

        def drift(x: Tensor, t: float, direction: gaussian.Direction = direction) -> Tensor:
            return exact.drift(x, t, direction)

        times = [float(t) for t in way.times]
        found[forward] = simulate_paths(drift, way.points[0], times, exact.sigma, draws(forward))
    return found


def gaussian_rows(
    exact: GaussianBridge, paths: dict[bool, Paths], references: dict[bool, Paths]
) -> tuple[list[Row], list[dict[str, float | str]]]:
    """Largest and mean errors over time, and the table of `moment_errors` behind them.

    Args:
        references: of `exact_paths`.
    """
    rows: list[Row] = []
    table: list[dict[str, float | str]] = []
    for forward, way in paths.items():
        direction = "forward" if forward else "backward"
        learned = moment_errors(way, exact, direction)
        best = moment_errors(references[forward], exact, f"{direction}, exact drift")
        table += learned + best
        for key in ("mean_error", "covariance_error"):
            mine, theirs = (np.array([float(line[key]) for line in lines]) for lines in (learned, best))
            for name, number in (("largest", np.max), ("mean", np.mean)):
                values = float(number(mine)), math.nan, float(number(theirs))
                rows.append(Row(f"{key}_{name}", direction, *values, "exact drift simulated"))
        apart, least = (cross_covariance_error(p[forward], exact) for p in (paths, references))
        rows.append(Row("coupling_error", direction, apart, math.nan, least, "exact drift simulated"))
    return rows, table
