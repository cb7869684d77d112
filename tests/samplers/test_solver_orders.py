"""Every order of convergence that a sampler states is the one that it has; a solver with a mistake has another."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import solver_orders
import torch
from support import convergence
from support.convergence import CASES, MISTAKES, PREDICTORS, SIGMA_MAX, Case
from torch import Tensor

from randomwalk import GaussianMixture, samplers
from randomwalk.errors import InputError
from randomwalk.rng import StepNoise
from randomwalk.samplers import SAMPLERS, Problem, Sampler, dpm_solver, integrate, schedules
from randomwalk.samplers.heun import Heun
from randomwalk.samplers.sampler import Callback, pairs
from randomwalk.samplers.walks import VEReverseDiffusion

ORDERS = ("order", "strong_order", "weak_order", "marginal_order")
STEPS = (32, 64, 128)


def check_orders(case: Case) -> None:
    said = convergence.stated(case)
    for name, order in convergence.orders(case, STEPS).items():
        assert convergence.agrees(order, said[name]), f"{name}: measured {order:.2f}, stated {said[name]}"


@pytest.mark.parametrize("name", [*CASES, *PREDICTORS])
def test_the_measured_order_is_the_stated_one(name: str) -> None:
    check_orders((CASES | PREDICTORS)[name])


def test_the_third_image_of_unipc_pays() -> None:
    """Its steps are of order 4, but the first, whose error is small here."""
    two, three = CASES["unipc"], Case(samplers.make("unipc", solver_order=3))
    assert 3.5 < convergence.orders(three, STEPS)["order"] < 4
    assert convergence.errors(three, 64)["order"] < 0.25 * convergence.errors(two, 64)["order"]


@pytest.mark.parametrize("schedule", ["karras", "geometric"])
@pytest.mark.parametrize("prior", ["Gaussian", "mixture"])
def test_the_third_order_is_level_with_the_published_form_in_few_evaluations(prior: str, schedule: str) -> None:
    """In root mean square, for 200 draws: without the factor 1 / (1 + h) it is up to 2.4 times as far at 20."""
    generator = torch.Generator().manual_seed(0)
    if prior == "Gaussian":
        means, spread = (
            torch.full((1, 1, 1, 4), 0.4).double(),
            torch.diag(torch.tensor([0.01, 0.05, 0.3, 1.0])).double(),
        )
        denoiser = GaussianMixture([1.0], means, spread[None])
    else:
        means = 0.5 * torch.randn((3, 1, 2, 4), generator=generator, dtype=torch.float64)
        denoiser = GaussianMixture([0.2, 0.5, 0.3], means, torch.tensor([0.02, 0.1, 0.25]).double())
    start = 80 * torch.randn((200, *means.shape[1:]), generator=generator, dtype=torch.float64)

    def end(sampler: Sampler, name: str, steps: int) -> Tensor:
        return sampler.sample(denoiser, schedules.make(name, steps, sigma_min=0.02, sigma_max=80.0), start=start)

    exact = end(samplers.make("dpmpp_3m"), "geometric", 2000)
    ratios = []
    for n in (8, 10, 12, 15, 20):
        ours, published = (
            (end(sampler, schedule, n) - exact).square().mean().sqrt()
            for sampler in (samplers.make("dpmpp_3m"), convergence.Published3M())
        )
        ratios.append(float(ours / published))
    assert max(ratios) < 1.15 and sum(ratios) / len(ratios) < 1.06, ratios


def test_every_stated_order_is_measured() -> None:
    measured = {
        (type(case.sampler), metric) for case in [*CASES.values(), *PREDICTORS.values()] for metric in case.metrics
    }
    stated = {(made, metric) for made in SAMPLERS.values() for metric in ORDERS if getattr(made, metric) is not None}
    assert stated == measured


# --- mistakes --------------------------------------------------------------------------------------------------------


class Uncorrected(Sampler):
    """Euler's method."""

    order = 2

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        return x + (sigma_next - sigma) * (x - problem.denoiser(x, sigma)) / sigma


class NotFlowingBack(Heun):
    """Churn whose noise raises the state, but not the level from which the step is taken."""

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        def slope(x: Tensor, sigma: float) -> Tensor:
            return (x - problem.denoiser(x, sigma)) / sigma

        for k, (s, p) in enumerate(pairs(problem.levels)):
            x = x + math.sqrt(self.raised(s, len(problem.levels)) ** 2 - s**2) * problem.draws.noise(k, x)
            d = slope(x, s)
            e = x + (p - s) * d
            x = x + (p - s) * (d + slope(e, p)) / 2 if p > 0 else e
            callback(k, x, s)
        return x


class Cold(VEReverseDiffusion):
    """Noise of half the variance."""

    def coefficients(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        tau, temperature = super().coefficients(sigma, sigma_next)
        return tau, temperature / 2


def not_corrected(x: Tensor, *rest: Any) -> Tensor:
    return x


def predicted_alone(
    x: Tensor, sigma: float, sigma_next: float, D: Tensor, others: list[tuple[float, Tensor]]
) -> Tensor:
    """UniP-2: the corrector repeats the predictor."""
    older = [one for one in others if one[0] > sigma]
    return (
        dpm_solver.second_order(x, sigma, sigma_next, D, *older[0])
        if older
        else dpm_solver.first_order(x, sigma, sigma_next, D)
    )


def equal_steps(x: Tensor, sigma: float, sigma_next: float, D: Tensor, sigma_prev: float, D_prev: Tensor) -> Tensor:
    return dpm_solver.first_order(x, sigma, sigma_next, D + (D - D_prev) / 2)


# The case, and functions of dpm_solver that are replaced.
MUTANTS: dict[str, tuple[Case, dict[str, Callable[..., Tensor]]]] = {
    "heun without the correction": (Case(Uncorrected()), {}),
    "2M without r": (CASES["dpmpp_2m"], {"second_order": equal_steps}),
    "3M, first step of order 1": (CASES["dpmpp_3m"], {"corrected": not_corrected}),
    "UniPC without the corrector": (CASES["unipc"], {"polynomial": predicted_alone}),
    "3M as published": (MISTAKES["dpmpp_3m as published"], {}),
    "churn, not flowing back": (
        Case(NotFlowingBack(s_churn=convergence.CHURN), CASES["heun with churn"].kappa, even=True), {}
    ),
    "half the noise": (Case(Cold(), kappa=1), {}),
    "another equation": (Case(CASES["ddim, eta 0.5"].sampler, kappa=0.5), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_has_another_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, replaced = MUTANTS[name]
    for function, mutant in replaced.items():
        monkeypatch.setattr(dpm_solver, function, mutant)
    with pytest.raises(AssertionError, match="measured"):
        check_orders(case)


# --- the adaptive solver ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", convergence.ADAPTIVE)
def test_the_error_follows_the_tolerance(method: str) -> None:
    tolerances = convergence.ADAPTIVE[method][: {"bosh3": 4, "adaptive_heun": 3}.get(method)]  # low orders take long
    values = [convergence.adaptive_errors(method, tolerance)[0] for tolerance in tolerances]
    power = convergence.power_of_tolerance(tolerances, values)
    assert abs(power - 1) < convergence.SLACK_OF_POWER, power
    # The sum of the local errors, of which there are at most a few tens, and which the flow shrinks from high levels.
    assert all(error < 10 * tolerance for error, tolerance in zip(values, tolerances, strict=True))


def test_levels_on_the_way_do_not_make_it_worse() -> None:
    for num_levels in (2, 3, 10, 40):
        assert convergence.adaptive_errors("dopri5", 1e-6, num_levels)[0] < 1e-6


def far_image_among(easy: int) -> float:
    """Error, in units of the tolerance, of an image that starts far away beside others that do not move at all."""
    x = torch.full((1 + easy, 3, 1, 1), convergence.MEAN, dtype=torch.float64)
    x[0] += 3 * SIGMA_MAX
    found: list[Tensor] = []
    sampler = SAMPLERS["ode"](method="bosh3", rtol=1e-5, atol=1e-5)
    sampler.sample(convergence.prior(), [SIGMA_MAX, 0.1], start=x, callback=lambda k, state, sigma: found.append(state))
    v = convergence.VARIANCES
    exact = convergence.MEAN + ((v + 0.01) / (v + SIGMA_MAX**2)).sqrt() * (3 * SIGMA_MAX)
    return float((found[0][0].flatten() - exact).square().mean().sqrt()) / 1e-5


def test_each_image_meets_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = far_image_among(0)
    assert far_image_among(200) < 2 * alone
    monkeypatch.setattr(integrate, "worst_rms", lambda error: error.square().mean().sqrt())
    assert far_image_among(200) > 3 * alone  # a norm over the batch lets the others pay


# --- the measurement -------------------------------------------------------------------------------------------------


def test_the_strong_error_is_that_of_simulated_paths() -> None:
    """Coarse and fine walks on 1000 common paths; the fine one has 64 times the steps, and so 1/64 of the error."""
    case, steps, finer, paths = CASES["ve_reverse_diffusion"], 16, 64, 1000
    coarse = case.levels(steps)
    tau = coarse.square()
    parts = torch.arange(finer, dtype=torch.float64) / finer
    fine = torch.cat([(tau[:-1, None] + (tau[1:] - tau[:-1])[:, None] * parts).flatten(), tau[-1:]]).sqrt()
    draws = torch.Generator().manual_seed(0)
    start = SIGMA_MAX * torch.randn(paths, 3, 1, 1, generator=draws, dtype=torch.float64)
    small = torch.randn(steps, finer, paths, 3, 1, 1, generator=draws)
    ends = []
    for levels, noise in ((coarse, small.sum(1) / math.sqrt(finer)), (fine, small.flatten(0, 1))):
        found: dict[int, Tensor] = {}
        case.sampler.sample(
            convergence.prior(),
            levels,
            start=start,
            draws=StepNoise(lambda k, x, noise=noise: noise[k].double() if k < len(noise) else torch.zeros_like(x)),
            callback=lambda k, x, sigma, found=found: found.update({k: x}),
        )
        ends.append(found[len(levels) - 2])
    last = convergence.VARIANCES.reshape(3, 1, 1) + convergence.SIGMA_MIN**2
    squares = ((ends[0] - ends[1]).square() / last).flatten(1).mean(1)
    expected = convergence.errors(case, steps)["strong_order"] ** 2
    standard_error = float(squares.std()) / math.sqrt(paths)
    assert abs(float(squares.mean()) - expected) < 5 * standard_error + 2 / finer * expected


def test_the_measured_order_of_a_known_error() -> None:
    steps = (16, 32, 64)
    assert convergence.measured_order(steps, [n**-2.0 * (1 + 0.5 / n) for n in steps]) == pytest.approx(2, abs=1e-3)
    with pytest.raises(ValueError, match="twice"):
        convergence.measured_order((16, 32, 48), [1, 0.5, 0.3])
    assert convergence.power_of_tolerance((1e-2, 1e-4), (1e-1, 1e-2)) == pytest.approx(0.5)


# --- the script ------------------------------------------------------------------------------------------------------


def test_the_script_leaves_tables_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_orders, "ADAPTIVE", {"dopri5": (1e-3, 1e-4, 1e-5)})
    arguments = ["--quick", "--samplers", "ddim", "ddpm_small", "--out", str(tmp_path / "out")]
    assert solver_orders.main(solver_orders.options().parse_args(arguments)) == 0
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        found = {(row["method"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    assert found["ddim", "order"] == pytest.approx(1, abs=convergence.SLACK)
    assert ("ddpm_small", "strong_order") in found and ("ode, dopri5", "power_of_tolerance") in found
    assert (tmp_path / "out" / "orders.png").stat().st_size > 10_000
    assert "DIFFERS" in (tmp_path / "out" / "table.md").read_text()  # the published 3M
    with pytest.raises(InputError, match="no_such"):
        solver_orders.main(solver_orders.options().parse_args(["--samplers", "no_such"]))
