"""Schroedinger bridges: the closed form between Gaussians, the iteration towards it, and the runs around both.

The iteration is proven without networks: between Gaussians the regression of bridge matching is affine, so that least
squares at each time of the grid stands in for the training, in the trainer's own loop. Loops with a mistake in them
must miss the same mark.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_examples import message_of
from torch import Tensor, nn

from randomwalk.config import files as configio
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.errors import InputError
from randomwalk.rng import generator
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.bridge import figures, gaussian, measures, sampling, trainer, training
from randomwalk.studies.bridge.ends import exact_bridge, make_end
from randomwalk.studies.bridge.gaussian import Direction, GaussianBridge
from randomwalk.studies.bridge.matching import BridgeDrift, Drift, brownian_bridge, clock_of, time_of
from randomwalk.studies.bridge.model import Bridge, load_bridge
from randomwalk.studies.bridge.simulation import simulate, simulate_flow, time_grid
from randomwalk.studies.bridge.trainer import BridgeTrainer
from randomwalk.studies.points import datasets
from randomwalk.studies.points.datasets import as_points

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "bridge"
M0, S0 = np.array([-1.0, 0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
M1, S1 = np.array([2.0, -1.0]), np.array([[0.5, -0.3], [-0.3, 1.4]])
WAYS: list[Direction] = ["forward", "backward"]


class Function(nn.Module):
    """A function in the place of a network."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        return self.function(x, clock)


def bridge(sigma: float = 1.0) -> GaussianBridge:
    return gaussian.schroedinger_bridge(M0, S0, M1, S1, sigma)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# --- the closed form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_coupling_is_that_of_entropic_transport(sigma: float) -> None:
    """Its density is exp(x0 . x1 / sigma^2) times a function of each end: that is what the optimal plan is known by."""
    made = bridge(sigma)
    joint = np.block([[S0, made.C], [made.C.T, S1]])
    np.testing.assert_allclose(np.linalg.inv(joint)[:2, 2:], -np.eye(2) / sigma**2, atol=1e-9 / sigma**4)
    assert np.linalg.eigvalsh(joint)[0] > 0


def test_the_coupling_is_what_sinkhorn_finds() -> None:
    import ot

    sigma, side = 0.8, np.linspace(-4.5, 4.5, 18)  # steps of the least standard deviation: exact to exp(-2 pi^2)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), 2).reshape(-1, 2)
    a, b = (np.exp(-0.5 * np.einsum("ni,ij,nj->n", grid, np.linalg.inv(S), grid)) for S in (S0, S1))
    near = [weights > 1e-7 * weights.max() for weights in (a, b)]
    x, y, a, b = grid[near[0]], grid[near[1]], a[near[0]] / a[near[0]].sum(), b[near[1]] / b[near[1]].sum()
    cost = np.square(x[:, None] - y[None]).sum(2)
    plan = ot.sinkhorn(a, b, cost, 2 * sigma**2, numItermax=1000, stopThr=1e-10)
    # The Gaussians lie on a grid and are cut off at 1e-7 of their height.
    assert relative(x.T @ plan @ y, bridge(sigma).C) < 1e-3


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("coupled", [True, False])
def test_the_drift_moves_the_mean_and_the_covariance_as_stated(direction: Direction, coupled: bool) -> None:
    """d Sigma / d time = A Sigma + Sigma A^T + sigma^2 I in the direction's own time, for any Gaussian coupling."""
    made = bridge(0.7) if coupled else gaussian.independent(bridge(0.7))
    sign, h = (1 if direction == "forward" else -1), 1e-5
    for t in (0.1, 0.5, 0.9):
        A, S = made.slope(t, direction), made.covariance(t)
        change = (made.covariance(t + h) - made.covariance(t - h)) / (2 * h)  # exact: Sigma_t is quadratic in t
        np.testing.assert_allclose(A @ S + S @ A.T + 0.49 * np.eye(2), sign * change, atol=1e-9)
        x = torch.tensor(made.mean(t))[None, :, None, None]
        np.testing.assert_allclose(as_points(made.drift(x, t, direction))[0], sign * (M1 - M0), atol=1e-12)


def test_the_drifts_are_conditional_means_and_finite_at_the_ends() -> None:
    made = bridge(0.7)
    for t in (0.2, 0.7):
        ahead, back = (1 - t) * made.C.T + t * S1, (1 - t) * S0 + t * made.C  # Cov(X_1, X_t), Cov(X_0, X_t)
        inverse = np.linalg.inv(made.covariance(t))
        np.testing.assert_allclose(made.slope(t), (ahead @ inverse - np.eye(2)) / (1 - t), atol=1e-12)
        np.testing.assert_allclose(made.slope(t, "backward"), (back @ inverse - np.eye(2)) / t, atol=1e-12)
    for t in (0.0, 1.0):
        both = made.slope(t) + made.slope(t, "backward")
        np.testing.assert_allclose(both, -0.49 * np.linalg.inv(made.covariance(t)), atol=1e-9)  # Nelson


def drift_energy_by_quadrature(made: GaussianBridge) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    slopes = [(made.slope(t), made.covariance(t)) for t in (1 + nodes) / 2]
    terms = [float(np.trace(A @ S @ A.T)) for A, S in slopes]
    return float(np.sum((M1 - M0) ** 2) + np.dot(weights, terms) / 2)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_energies(sigma: float) -> None:
    made = bridge(sigma)
    assert made.drift_energy() == pytest.approx(drift_energy_by_quadrature(made), rel=1e-9)
    other = gaussian.independent(made)  # not the bridge: it loses divergence when it is made Markovian, and costs more
    assert drift_energy_by_quadrature(other) < other.drift_energy() - 0.1
    assert drift_energy_by_quadrature(other) > made.drift_energy()
    assert made.flow_energy() >= gaussian.wasserstein(M0, S0, M1, S1)


def test_small_noise_is_optimal_transport() -> None:
    made, best = bridge(0.02), gaussian.wasserstein(M0, S0, M1, S1)
    # C is that of optimal transport up to sigma^2 / 2 in each of two coordinates.
    assert made.transport_cost() == pytest.approx(best, abs=2 * 0.02**2)
    assert made.flow_energy() == pytest.approx(best, abs=1e-5)


# --- the exact iteration ---------------------------------------------------------------------------------------------


def test_markovian_fitting_converges_geometrically() -> None:
    made = bridge()
    errors = [relative(it.C, made.C) for it in gaussian.markovian_fitting(gaussian.independent(made), 12, 60)]
    ratios = np.array(errors[1:]) / np.array(errors[:-1])
    assert errors[0] == 1 and (ratios < 0.6).all() and errors[-1] < 1e-3
    assert np.ptp(ratios[6:]) < 0.01  # one factor, in the end
    assert relative(gaussian.markovian_coupling(made, 60), made.C) < 1e-6  # the bridge itself stays as it is
    wrong = GaussianBridge(M0, S0, M1, S1, 1.0, gaussian.schroedinger_coupling(S0, S1, 1.3))
    assert relative(gaussian.markovian_coupling(wrong, 60), wrong.C) > 0.02  # that of another sigma does not


# --- simulation ------------------------------------------------------------------------------------------------------


def law_at_the_end(drift: Callable[[Tensor, float], Tensor], times: list[float], start: tuple[np.ndarray, np.ndarray],
                   sigma: float, step_noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Mean and covariance that `simulate` gives for an affine drift, without any draw.

    The end is affine in the start and the noises: rows of the batch start at the mean, but one coordinate of the start
    or of the noise of one step is larger by 1, which gives every coefficient.
    """
    mean, S = start
    steps = len(times) - 1
    rows = torch.tensor(mean).repeat(3 + 2 * steps, 1)
    rows[1:3] += torch.eye(2, dtype=torch.float64)

    def noise(k: int, x: Tensor) -> Tensor:
        pulse = torch.zeros_like(x)
        pulse[3 + 2 * k : 5 + 2 * k] = step_noise * torch.eye(2, dtype=x.dtype)
        return pulse

    end = simulate(drift, rows, times, sigma, noise).numpy()
    J = (end[1:] - end[0]).T
    return end[0], J[:, :2] @ S @ J[:, :2].T + J[:, 2:] @ J[:, 2:].T


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_simulation_has_the_order_of_euler(direction: Direction, grid: str) -> None:
    made, backward = bridge(), direction == "backward"
    start, goal = ((M0, S0), S1) if not backward else ((M1, S1), S0)

    def error(steps: int, **mistake: float) -> float:
        times = time_grid(steps, grid, backward)
        mean, S = law_at_the_end(lambda x, t: made.drift(x, t, direction), times, start, 1.0, **mistake)
        np.testing.assert_allclose(mean, M0 if backward else M1, atol=1e-9)  # the mean moves evenly
        return relative(S, goal)

    errors = [error(n) for n in (50, 100, 200)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.01 and all(0.9 < order < 1.1 for order in orders), (errors, orders)
    broken = [error(n, step_noise=1 / math.sqrt(2)) for n in (100, 200)]
    assert broken[-1] > 0.1 and abs(math.log2(broken[0] / broken[1])) < 0.1


def test_the_flow_has_the_law_of_the_bridge() -> None:
    made = bridge()
    rows = torch.tensor(M0 + np.array([[0, 0], [1, 0], [0, 1]]))
    errors = []
    for steps in (20, 40):
        end = simulate_flow(
            lambda x, t: made.drift(x, t), lambda x, t: made.drift(x, t, "backward"), rows, time_grid(steps)
        ).numpy()
        J = (end[1:] - end[0]).T
        np.testing.assert_allclose(end[0], M1, atol=1e-5)  # the velocity of the first half step is that of its middle
        errors.append(relative(J @ S0 @ J.T, S1))
    assert errors[1] < 2e-3 and math.log2(errors[0] / errors[1]) > 1.7  # the midpoint rule


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_time_grids(grid: str) -> None:
    times = time_grid(10, grid)
    assert (times[0], times[-1]) == (0, 1) and np.all(np.diff(times) > 0)
    back = time_grid(10, grid, backward=True)
    assert (back[0], back[-1]) == (1, 0)
    np.testing.assert_allclose(back, times[::-1], atol=1e-15)  # both grids are symmetric


def test_the_clock() -> None:
    clock = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(clock_of(time_of(clock)), clock)
    np.testing.assert_allclose(time_of(clock[::10]).numpy(), time_grid(10), atol=1e-15)


# --- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, 1])
def test_targets_are_the_way_to_the_end_in_its_own_units(end: int) -> None:
    g = torch.Generator().manual_seed(0)
    x0, x1, z = (torch.randn(20_000, 2, 1, 1, generator=g, dtype=torch.float64) for _ in range(3))
    x0, x1 = 3 * x0, 4 * x1  # differences with a standard deviation of 5
    drift = BridgeDrift(nn.Identity(), end, 0.7, 5.0)
    for t in (0.0, 1e-6, 0.3, 0.9, 1.0):
        times = torch.full((len(x0),), t, dtype=torch.float64)
        r, target = abs(end - t), drift.target(x0, x1, times, z)
        xt = brownian_bridge(x0, x1, times, z, 0.7)
        size = math.sqrt(r * (25 * r + 0.49 * (1 - r)))
        torch.testing.assert_close(xt + size * target, x1 if end else x0, rtol=0, atol=1e-9)
        # 40,000 numbers: their mean square is 1 within 4 sqrt(2 / 40,000).
        assert float(target.square().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("direction", WAYS)
def test_a_network_that_knows_the_mean_gives_the_drift(direction: Direction) -> None:
    """The regression's optimum E[target | x], put in the place of the network, is the exact drift."""
    made, end = bridge(0.7), int(direction == "forward")

    def best(x: Tensor, clock: Tensor) -> Tensor:
        t = float(time_of(clock)[0])
        to_end = (1 - t) * made.C.T + t * S1 if end else (1 - t) * S0 + t * made.C
        gain = torch.tensor(to_end @ np.linalg.inv(made.covariance(t)))
        mean = torch.tensor(M1 if end else M0) + (x.flatten(1) - torch.tensor(made.mean(t))) @ gain.T
        r = abs(end - t)
        return (mean.reshape(x.shape) - x) / math.sqrt(r * (9 * r + 0.49 * (1 - r)))

    drift = BridgeDrift(Function(best), end, 0.7, 3.0)
    x = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.05, 0.5, 0.95):
        torch.testing.assert_close(drift(x, t), made.drift(x, t, direction), rtol=1e-5, atol=1e-5)  # times are float32


def test_the_loss_is_one_number_for_each_pair() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 2, 1).double()
    drift = BridgeDrift(Function(lambda x, clock: network(x)), 1, 1.0, 2.0)
    x0, x1, z = torch.randn(3, 6, 2, 1, 1, dtype=torch.float64)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    whole = drift.loss(x0, x1, t, z)
    assert whole.shape == (6,)
    single = torch.cat([drift.loss(x0[i : i + 1], x1[i : i + 1], t[i : i + 1], z[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, single)
    expected = (network(brownian_bridge(x0, x1, t, z, 1.0)) - drift.target(x0, x1, t, z)).square().mean((1, 2, 3))
    torch.testing.assert_close(whole, expected)


# --- the trainer's iteration with exact regressions ------------------------------------------------------------------

STEPS, PAIRS = 24, 16_000


class Table(nn.Module):
    """Affine in x at each time of the grid."""

    def __init__(self, coefficients: Tensor) -> None:
        super().__init__()
        self.coefficients = coefficients

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        k = round(float(clock[0]) * STEPS)
        return (self.coefficients[k][0] + x.flatten(1) @ self.coefficients[k][1:]).reshape(x.shape)


class LeastSquares(BridgeTrainer):
    """The trainer's loop over pairs, with least squares at each time in place of the training of a network."""

    noise_power = 1.0

    def averaged_bridge(self) -> Bridge:
        return self.bridge

    def fit_exactly(self) -> tuple[Tensor, Tensor]:
        x0, x1 = self.pairs(self.fit)
        drift, found = self.bridge.drift(self.fit % 2 == 1), []
        for k in range(STEPS + 1):
            t = time_of(torch.full((len(x0),), k / STEPS))
            z = torch.from_numpy(generator(9, self.fit, k).standard_normal(x0.shape, dtype=np.float32))
            xt, target = brownian_bridge(x0, x1, t, self.noise_power * z, 1.0), drift.target(x0, x1, t, z)
            design = torch.cat([torch.ones(len(x0), 1), xt.flatten(1)], 1)
            found.append(torch.linalg.lstsq(design.double(), target.flatten(1).double()).solution.float())
        drift.network = Table(torch.stack(found))
        self.fit += 1
        return x0, x1


def gaussian_config(tmp_path: Path, **changes: Any) -> BridgeConfig:
    settings = {
        "source": {"name": "normal", "mean": M0.tolist(), "covariance": S0.tolist()},
        "target": {"name": "normal", "mean": M1.tolist(), "covariance": S1.tolist()},
        "num_pairs": PAIRS, "num_steps": STEPS, "iterations": 8, **changes,
    }  # fmt: skip
    network = {"name": "mlp", "hidden": 8}
    return BridgeConfig.model_validate({"output": str(tmp_path), "bridge": settings, "network": network})


def cross(x0: Tensor, x1: Tensor) -> np.ndarray:
    a, b = (as_points(x).astype(np.float64) for x in (x0, x1))
    return (a - a.mean(0)).T @ (b - b.mean(0)) / len(a)


def iterate(tmp_path: Path, kind: type[LeastSquares] = LeastSquares) -> np.ndarray:
    """``[8, 2]``, of the pairs that each fit learned from: |Cov(X_0, X_1) - C| / |C|, and the error of the covariance
    of the end that was simulated."""
    made = kind(gaussian_config(tmp_path), torch.device("cpu"), RunFolder(tmp_path))
    exact = exact_bridge(made.bridge.source, made.bridge.target, 1.0)
    assert exact is not None
    errors = []
    for fit in range(8):
        x0, x1 = made.fit_exactly()
        end, S = (x1, S1) if fit % 2 == 0 else (x0, S0)
        errors.append((relative(cross(x0, x1), exact.C), relative(cross(end, end), S)))
    return np.array(errors)


def tolerances() -> tuple[float, float]:
    """What steps and number of points may leave of both errors, for a loop that is right.

    Four standard deviations of the (cross-)covariance of PAIRS normal points, once for the points and once for the
    regression on as many, and for the coupling the sum over fits, each of which passes on 0.56 of what it got; and the
    error of Euler's method with the exact drift.
    """
    made, J = bridge(), np.eye(2)
    times = time_grid(STEPS)
    S = S0
    for t, after in pairwise(times):
        step = np.eye(2) + (after - t) * made.slope(t)
        J, S = step @ J, step @ S @ step.T + (after - t) * np.eye(2)
    points = math.sqrt((np.trace(S0) * np.trace(S1) + np.sum(made.C**2)) / PAIRS) / np.linalg.norm(made.C)
    coupling = relative(S0 @ J.T, made.C) + 4 * math.sqrt(2) * points / math.sqrt(1 - 0.56**2)
    end = max(math.sqrt((np.trace(s) ** 2 + np.sum(s**2)) / PAIRS) / np.linalg.norm(s) for s in (S0, S1))
    return float(coupling), relative(S, S1) + 4 * math.sqrt(2) * end


def test_the_trainers_iteration_converges_to_the_closed_form(tmp_path: Path) -> None:
    errors, limits = iterate(tmp_path), tolerances()
    exact = gaussian.markovian_fitting(gaussian.independent(bridge()), 7, 60)
    expected = np.array([relative(it.C, bridge().C) for it in exact])
    assert max(limits) < 0.2
    assert (np.abs(errors[:, 0] - expected) < limits[0]).all() and (errors[:, 1] < limits[1]).all(), (errors, limits)
    assert errors[1, 0] > 3 * errors[3:, 0].mean(), errors


class NoIteration(LeastSquares):
    """Keeps the independent coupling."""

    def pairs(self, fit: int) -> tuple[Tensor, Tensor]:
        return super().pairs(0)


class WrongNoise(LeastSquares):
    """Draws bridges of half the noise."""

    noise_power = 0.5


class SwappedTimes(LeastSquares):
    """Asks each drift at the times of the other direction."""

    def pairs(self, fit: int) -> tuple[Tensor, Tensor]:
        def swapped(drift: Drift, x: Tensor, times: list[float], *rest: Any) -> Tensor:
            after = dict(pairwise(times))
            return simulate(lambda x, t: drift(x, 1 - after[t]), x, times, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "simulate", swapped)
            return super().pairs(fit)


@pytest.mark.parametrize("mistake", [NoIteration, WrongNoise, SwappedTimes])
def test_an_iteration_with_a_mistake_misses_it(tmp_path: Path, mistake: type[LeastSquares]) -> None:
    assert (iterate(tmp_path, mistake)[-1] > tolerances()).any()


def test_the_first_coupling_of_the_paper(tmp_path: Path) -> None:
    config = gaussian_config(tmp_path, first_coupling="reference")
    x0, x1 = BridgeTrainer(config, torch.device("cpu"), RunFolder(tmp_path)).pairs(0)
    # Brownian motion from the source: Cov(X_0, X_1) = S_0 and Cov(X_1) = S_0 + sigma^2; four standard deviations.
    assert relative(cross(x0, x1), S0) < 4 * 2 / math.sqrt(PAIRS)
    assert relative(cross(x1, x1), S0 + np.eye(2)) < 4 * 1.5 / math.sqrt(PAIRS)


# --- measures --------------------------------------------------------------------------------------------------------


def test_pairs_have_their_start_first_in_either_direction() -> None:
    points = np.arange(12.0).reshape(3, 2, 2)
    for times, first, last in (([0.0, 0.5, 1.0], 0, 2), ([1.0, 0.5, 0.0], 2, 0)):
        x0, x1 = measures.Paths(np.array(times), points).pairs()
        np.testing.assert_array_equal(x0, points[first])
        np.testing.assert_array_equal(x1, points[last])


def test_exact_drifts_pass_the_measures_and_a_wrong_one_does_not() -> None:
    exact, num, times = bridge(), 5000, time_grid(200)
    start = make_end({"name": "normal", "mean": M0.tolist(), "covariance": S0.tolist()}).sample(num, generator(0))
    good = measures.simulate_paths(exact.drift, start, times, 1.0, generator(1))
    bad = measures.simulate_paths(lambda x, t: 0.9 * exact.drift(x, t), start, times, 1.0, generator(1))
    lines = measures.moment_errors(good, exact, "forward")
    for key in ("mean", "covariance"):
        # Root mean squares of errors of two and three numbers: three times that is beyond 99.9%; 0.01 is Euler's error.
        assert all(float(line[f"{key}_error"]) < 3 * float(line[f"{key}_noise"]) + 0.01 for line in lines)
    assert float(measures.moment_errors(bad, exact, "forward")[-1]["mean_error"]) > 0.15
    energy = measures.drift_energy(exact.drift, good)
    assert energy.mean() == pytest.approx(exact.drift_energy(), abs=4 * energy.std() / math.sqrt(num) + 0.1)
    flow = measures.flow_along(exact.drift, lambda x, t: exact.drift(x, t, "backward"), start, times)
    assert flow.energy.mean() == pytest.approx(exact.flow_energy(), abs=4 * flow.energy.std() / math.sqrt(num) + 0.02)
    assert gaussian.wasserstein(M0, S0, M1, S1) < flow.cost.mean() + 4 * flow.cost.std() / math.sqrt(num)
    assert (flow.cost <= flow.length**2 + 1e-4).all() and (flow.length**2 <= flow.energy + 1e-4).all()
    x0, x1 = good.pairs()
    assert np.square(x1 - x0).sum(1).mean() == pytest.approx(exact.transport_cost(), rel=0.03)
    assert measures.cross_covariance_error(good, exact) < 0.08


def test_transport_plans_of_points() -> None:
    ends = [make_end({"name": "normal", "mean": m.tolist(), "covariance": S.tolist()}) for m, S in ((M0, S0), (M1, S1))]
    found, exact = measures.transport_costs(ends[0], ends[1], 1.0, 200, 0), bridge()
    for name, expected in (
        ("entropic", exact.transport_cost()),
        ("optimal", gaussian.wasserstein(M0, S0, M1, S1)),
        ("independent", gaussian.independent(exact).transport_cost()),
    ):
        values = found[name]
        # Student's t of 8 draws: 99.9% of them are within 5.4 standard errors; 0.1 for the bias of plans of few points.
        assert values.mean() == pytest.approx(expected, abs=5.4 * values.std(ddof=1) / math.sqrt(8) + 0.1), name
    gains = found["independent"] - found["entropic"], found["independent"] - found["optimal"]
    assert np.mean(gains[0]) == pytest.approx(
        2 * np.trace(exact.C), rel=0.15
    )  # correlations of 8 x 200 pairs: 4 x 1 / 40
    assert (gains[1] > gains[0]).all()


# --- runs ------------------------------------------------------------------------------------------------------------

SMALL = """\
output: {output}
bridge:
  source: {{name: moons}}
  target: {{name: gaussian}}
  iterations: 3
  first_steps: 4
  steps: 3
  num_pairs: 300
  num_steps: 5
network: {{name: mlp, hidden: 8, num_blocks: 1, time_scale: 1000}}
batch_size: 16
log_every: 2
evaluation: {{num_points: 200, num_steps: 6, floor_repeats: 1, num_transport: 100, animation_frames: 3}}
device: cpu
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("bridge")
    (folder / "bridge.yaml").write_text(SMALL.format(output=folder / "whole"))
    config = configio.load_training(folder / "bridge.yaml")
    assert isinstance(config, BridgeConfig) and training.run(config) == 0
    return folder / "whole"


def test_a_run_leaves_numbers_and_pictures(trained: Path) -> None:
    made = {path.name for path in trained.iterdir()}
    assert made == {
        "config.yaml", "run.json", "checkpoint.pt", "checkpoint_before.pt", "model.safetensors", "log.csv", "fits.csv",
        "metrics.csv", "bridge.png", "bridge.webp", "report.html",
    }  # fmt: skip
    measured = (trained / "metrics.csv").read_text()
    for name in ("end_chamfer,forward", "end_emd,backward", "middle_chamfer,both", "transport_cost,", "flow_cost"):
        assert name in measured
    assert "drift_energy" not in measured  # for Gaussians alone
    assert len((trained / "fits.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("how", ["between checkpoints", "by a signal"])
def test_killed_and_resumed_is_uninterrupted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A signal leaves a checkpoint amid a fit."""
    (tmp_path / "bridge.yaml").write_text(SMALL.format(output=tmp_path / "run"))
    config = configio.load_training(tmp_path / "bridge.yaml")
    assert isinstance(config, BridgeConfig)
    step = BridgeTrainer.train_step

    def killed(self: BridgeTrainer) -> tuple[Tensor, Tensor]:
        if self.fit == 2 and self.fit_step == 1:
            if how == "between checkpoints":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BridgeTrainer, "train_step", killed)
        training.run(config)
    assert not (tmp_path / "run" / "metrics.csv").exists()
    monkeypatch.setattr(figures, "bridge_figure", lambda *arguments: b"")
    monkeypatch.setattr(figures, "animation", lambda *arguments: b"")
    assert training.run(config, resume=str(tmp_path / "run")) == 0
    for weights in ("ema", "raw"):
        files = [folder / "model.safetensors" for folder in (trained, tmp_path / "run")]
        whole, resumed = (load_bridge(file, weights).state_dict() for file in files)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (trained / "metrics.csv").read_bytes() == (tmp_path / "run" / "metrics.csv").read_bytes()
    for name in ("log.csv", "fits.csv"):
        columns = [[line.rsplit(",", 1)[0] for line in (f / name).read_text().splitlines()]
                   for f in (trained, tmp_path / "run")]  # fmt: skip
        assert columns[0] == columns[1]  # all but the seconds


def test_each_fit_changes_one_direction(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(SMALL.format(output=tmp_path))
    config = configio.load_training(tmp_path / "bridge.yaml")
    assert isinstance(config, BridgeConfig)
    made = BridgeTrainer(config, torch.device("cpu"), RunFolder(tmp_path))
    states: list[dict[str, Tensor]] = []

    def keep() -> None:
        states.append({key: value.clone() for key, value in made.bridge.state_dict().items()})

    keep()
    made.save = keep  # type: ignore[method-assign]
    made.run()
    assert len(states) == 4
    for fit, (before, after) in enumerate(pairwise(states)):
        changed = {key.split("_")[0] for key in after if not torch.equal(before[key], after[key])}
        assert changed == {"forward" if fit % 2 else "backward"}


def use(folder: Path, trained: Path, **changes: Any) -> BridgeSampleConfig:
    settings = {"output": str(folder), "bridge": {"path": str(trained / "model.safetensors")}, "num_points": 200,
                "num_steps": 6, "animation_frames": 0, "device": "cpu"}  # fmt: skip
    return BridgeSampleConfig.model_validate(settings | changes)


def test_a_trained_bridge_is_used(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampling.run(use(tmp_path / "both", trained)) == 0
    monkeypatch.setattr(figures, "bridge_figure", lambda *arguments: b"")  # once is enough
    made = {path.name for path in (tmp_path / "both").iterdir()}
    assert made >= {"forward.npy", "forward_start.npy", "backward.npy", "bridge.png", "metrics.csv"}
    assert sampling.run(use(tmp_path / "one", trained, direction="backward")) == 0
    ends = [np.load(tmp_path / name / "backward.npy") for name in ("both", "one")]
    assert np.array_equal(*ends) and ends[0].shape == (200, 2) and not (tmp_path / "one" / "forward.npy").exists()
    np.save(tmp_path / "mine.npy", np.array([[0.0, 1.0], [2.0, -1.0]]))
    own = use(tmp_path / "own", trained, direction="forward", points=str(tmp_path / "mine.npy"), num_points=None)
    assert sampling.run(own) == 0 and np.load(tmp_path / "own" / "forward.npy").shape == (2, 2)
    again = use(tmp_path / "again", trained, seed=1, direction="backward")
    assert sampling.run(again) == 0 and not np.array_equal(np.load(tmp_path / "again" / "backward.npy"), ends[0])


# --- configs and messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_load_and_survive_a_dump(path: Path, tmp_path: Path) -> None:
    load = configio.load_sampling if path.stem.endswith("_sample") else configio.load_training
    config = load(path)
    assert isinstance(config, (BridgeConfig, BridgeSampleConfig))
    (tmp_path / "again.yaml").write_text(configio.dump(config))
    assert load(tmp_path / "again.yaml") == config
    other = configio.load_training if path.stem.endswith("_sample") else configio.load_sampling
    assert ("sample.py" if path.stem.endswith("_sample") else "train.py") in message_of(other, path)


def test_any_set_can_be_an_end() -> None:
    schema = json.loads((ROOT / "configs/schema/bridge.schema.json").read_text())
    assert tuple(schema["$defs"]["SetEnd"]["properties"]["name"]["enum"]) == datasets.SETS
    loaded = configio.load_training(CONFIGS / "gaussian_to_swiss_roll.yaml", ["bridge.target.name=checkerboard"])
    assert isinstance(loaded, BridgeConfig) and loaded.bridge.target.name == "checkerboard"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("bridge.source.name=moon", ["bridge.source.name", "moons"]),
        ("bridge.iterations=1", ["bridge.iterations", "at least 2"]),
        ("bridge.sigma=0", ["bridge.sigma", "above 0"]),
        ("bridge.source={name: normal, covariance: [[1, 2], [2, 1]]}", ["covariance", "positive definite"]),
        ("network.num_channels=3", ["network.num_channels", "allowed: 2"]),
        ("network.num_classes=4", ["network.num_classes", "no classes"]),
        ("bridge.step=3", ["bridge.step", "did you mean"]),
    ],
)
def test_bad_settings(change: str, parts: list[str]) -> None:
    message = message_of(configio.load_training, CONFIGS / "moons_to_swiss_roll.yaml", [change])
    for part in parts:
        assert part in message, message


def test_bad_files(trained: Path, tmp_path: Path) -> None:
    assert "train.py" in message_of(load_bridge, tmp_path / "none.safetensors")
    assert "is not a bridge" in message_of(load_bridge, ROOT / "pretrained_models" / "fashion_vp.safetensors")
    assert "bridge" in message_of(load_denoiser, trained / "model.safetensors")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "nan.npy", np.full((4, 2), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    for name, part in (("flat", "[n, 2]"), ("nan", "finite"), ("text", "cannot be read"), ("absent", "is not a file")):
        assert part in message_of(sampling.read_points, str(tmp_path / f"{name}.npy"))
    assert "one direction" in message_of(
        configio.load_sampling, CONFIGS / "moons_to_swiss_roll_sample.yaml", ["points=a.npy", "num_points="]
    )
    (tmp_path / "config.yaml").write_text(SMALL.format(output=tmp_path))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    config = configio.load_training(tmp_path / "config.yaml")
    assert isinstance(config, BridgeConfig)
    with pytest.raises(InputError, match=r"checkpoint\.pt: is damaged .* there is no checkpoint_before\.pt; restore"):
        training.run(config, resume=str(tmp_path))


def test_the_table_of_a_run_is_text_in_columns() -> None:
    rows = [
        measures.Row("end_chamfer", "forward", 0.1, 0.01, 0.2, "two exact sets"),
        measures.Row("transport_cost_optimal", "", 11.92, what="exact"),
    ]
    head, first, second = training.table(rows)
    assert first.split() == ["end", "chamfer,", "forward", "0.1", "±", "0.01", "0.2", "0.500", "two", "exact", "sets"]
    assert second.split() == ["transport", "cost", "optimal", "11.92", "exact"]
    assert head.index("the ideal is") == first.index("two exact sets") == second.index("exact")
    assert first.index("0.500") + len("0.500") == head.index("ratio") + len("ratio")


def test_a_mean_has_its_standard_error_and_the_entropic_plan_the_cost_of_the_bridge() -> None:
    assert measures._mean(np.array([1.0, 2.0, 6.0])) == pytest.approx((3.0, math.sqrt(7 / 3)))
    end = {"name": "normal", "mean": [0.0, 0.0], "covariance": [[1.0, 0.0], [0.0, 1.0]]}
    points, sigma = make_end(end), 1.2
    exact = gaussian.schroedinger_bridge(np.zeros(2), np.eye(2), np.zeros(2), np.eye(2), sigma).transport_cost()
    found = measures.transport_costs(points, points, sigma, 150, 0)["entropic"]
    assert abs(found.mean() - exact) < 5 * found.std(ddof=1) / math.sqrt(len(found))
