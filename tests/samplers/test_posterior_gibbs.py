"""DAPS and split Gibbs: their laws on a Gaussian prior, what these converge to, and what they do not."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from posterior_tools import (
    EACH_OPERATOR,
    EYE,
    SHAPE,
    Law,
    Levelled,
    NextLevel,
    Script,
    Square,
    Task,
    check_convergence,
    check_law,
    dissect,
    error,
    isotropic,
    make_levelled,
    make_task,
    must_fail,
    normal,
    problem_of,
    start,
)
from torch import Tensor

from randomwalk import Denoiser, InputError, samplers
from randomwalk.operators import Identity, Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Problem, schedules
from randomwalk.samplers.posterior import daps as daps_module
from randomwalk.samplers.posterior import splitting


def levels(steps: int, sigma_min: float = 0.03, sigma_max: float = 10.0) -> list[float]:
    return schedules.make("karras", steps, sigma_min=sigma_min, sigma_max=sigma_max).tolist()


def inner_levels(sigma: float, lowest: float, steps: int) -> list[float]:
    """Even steps in ``sigma^(1/7)``."""
    if sigma <= lowest or steps == 1:
        return [sigma]
    ends = (sigma ** (1 / 7), lowest ** (1 / 7))
    return [((1 - i / (steps - 1)) * ends[0] + i / (steps - 1) * ends[1]) ** 7 for i in range(steps)]


class Affine(NamedTuple):
    """``x -> matrix x + offset + n``, n of covariance ``spread``."""

    matrix: Tensor
    offset: Tensor
    spread: Tensor


def denoising(task: Task, path: Sequence[float], stochasticity: float) -> Affine:
    """DDIM's steps along the path, and to 0."""
    matrix, offset, spread = EYE, torch.zeros_like(EYE[0]), torch.zeros_like(EYE)
    for s, p in zip(path, [*path[1:], 0.0], strict=True):
        J, b = task.denoise(s)
        v2 = stochasticity**2 * p**2 * (1 - p**2 / s**2)
        keep = math.sqrt(p**2 - v2) / s
        M = (1 - keep) * J + keep * EYE
        matrix, offset, spread = M @ matrix, M @ offset + (1 - keep) * b, M @ spread @ M.T + v2 * EYE
    return Affine(matrix, offset, spread)


def given_y(law: Law, task: Task, r: float, steps: int | None = None, c: float = 0.0) -> Law:
    """After a draw of ``Normal(x; z, r^2 I) Normal(y; A x, eta^2 I)``, z of this law; by Langevin steps if given."""
    A = task.matrix
    precision = EYE / r**2 + A.T @ A / task.eta**2
    pull = torch.linalg.inv(precision) / r**2
    offset = torch.linalg.solve(precision, A.T @ task.y.flatten()) / task.eta**2
    if steps is None:
        return law.then(pull, offset, torch.linalg.inv(precision))
    h = c / (1 / r**2 + torch.linalg.matrix_norm(A, 2) ** 2 / task.eta**2)
    once = EYE - h * precision
    power, spread = EYE, torch.zeros_like(EYE)
    for _ in range(steps):
        spread, power = once @ spread @ once.T + 2 * h * EYE, once @ power
    return law.then(pull + power @ (EYE - pull), offset - power @ offset, spread)


LANGEVIN = {"inner": "langevin", "langevin_steps": 5, "langevin_step": 0.4}


def inner_of(settings: dict[str, Any]) -> dict[str, Any]:
    return {"steps": 5, "c": 0.4} if settings.get("inner") == "langevin" else {}


# ---------------------------------------------------------------------------------------------------------------- DAPS


def daps(sigmas: Sequence[float], **settings: Any) -> Levelled:
    return make_levelled("daps", sigmas, **settings)


def law_of_daps(task: Task, sigmas: Sequence[float], **settings: Any) -> Law:
    law = start(sigmas[0])
    for s, p in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        law = law.then(*denoising(task, inner_levels(s, sigmas[-1], settings.get("ode_steps", 5)), 0.0))
        d = settings.get("data_std")
        law = given_y(law, task, s if d is None else 1 / math.sqrt(1 / s**2 + 1 / d**2), **inner_of(settings))
        law = law.then(EYE, spread=p**2 * EYE)
    return law


@EACH_OPERATOR
@pytest.mark.parametrize("settings", [{}, {"ode_steps": 1}, {"data_std": 0.7}, LANGEVIN], ids=str)
def test_law_of_daps(operator: str, settings: dict[str, Any]) -> None:
    task, sigmas = make_task(operator), levels(12)
    check_law(dissect(daps(sigmas, **settings), task), law_of_daps(task, sigmas, **settings))


@EACH_OPERATOR
def test_daps_with_one_ode_step_converges(operator: str) -> None:
    """It is Langevin then, with a step of s^2."""
    task = make_task(operator)
    laws = [law_of_daps(task, levels(steps, 0.01), ode_steps=1) for steps in (200, 400, 800)]
    check_convergence([error(law, task.posterior) for law in laws], last=0.02)


def inflation_of_daps(sigmas: Sequence[float], ode_steps: int) -> float:
    """Variance of a pixel that y says nothing about, over that of a white prior of variance 1 / 2, in numbers."""
    variance = sigmas[0] ** 2
    for s, p in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        path = inner_levels(s, sigmas[-1], ode_steps)
        for a, b in zip(path, [*path[1:], 0.0], strict=True):
            variance *= ((0.5 + a * b) / (0.5 + a**2)) ** 2
        variance += s**2 + p**2
    return variance / 0.5


def test_inflation_of_daps_in_numbers() -> None:
    task, sigmas = make_task("inpainting", prior=isotropic(0.5)), levels(12)
    missing = task.matrix.diagonal() == 0
    assert missing.any()
    found = law_of_daps(task, sigmas).covariance.diagonal()[missing] / 0.5
    torch.testing.assert_close(found, torch.full_like(found, inflation_of_daps(sigmas, 5)))


@pytest.mark.parametrize(("ode_steps", "expected"), [(1, 1.02), (2, 1.24), (5, 1.65), (20, 1.86), (200, 1.92)])
def test_inflation_of_daps_at_its_usual_number_of_levels(ode_steps: int, expected: float) -> None:
    assert inflation_of_daps(levels(200), ode_steps) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("ode_steps_of", "limit"), [(lambda n: 1, 1.0), (lambda n: n, 2.0)], ids=["one", "many"])
def test_limit_of_the_inflation_of_daps(ode_steps_of: Callable[[int], int], limit: float) -> None:
    excess = [inflation_of_daps(levels(n, 1 / n), ode_steps_of(n)) - limit for n in (100, 200, 400, 800)]
    check_convergence(excess, last=0.03)


@EACH_OPERATOR
def test_daps_is_exact_on_white_images(operator: str) -> None:
    """One ode_step and the variance of the data, at any number of levels; what is left is of the start."""
    task = make_task(operator, prior=isotropic(0.5))
    law = dissect(daps([1000.0, 3.0, 0.6, 0.1], ode_steps=1, data_std=math.sqrt(0.5)), task)
    assert error(law, task.posterior) < 1e-6


# --------------------------------------------------------------------------------------------------------- Split Gibbs


def split_gibbs(sigmas: Sequence[float], **settings: Any) -> Levelled:
    return make_levelled("split_gibbs", sigmas, **settings)


def law_of_split_gibbs(task: Task, sigmas: Sequence[float], **settings: Any) -> Law:
    law, prior_steps, stochasticity = start(0.0), settings.get("prior_steps", 10), settings.get("stochasticity", 1.0)

    @functools.cache
    def prior_step(rho: float) -> Affine:
        return denoising(task, inner_levels(rho, sigmas[-1], prior_steps), stochasticity)

    for s in sigmas:
        rho = max(s, settings.get("rho_min", 0.1))
        law = given_y(law, task, rho, **inner_of(settings)).then(*prior_step(rho))
    return law


@EACH_OPERATOR
@pytest.mark.parametrize(
    "settings", [{}, {"rho_min": 0.5, "prior_steps": 3}, {"stochasticity": 0.0}, LANGEVIN], ids=str
)
def test_law_of_split_gibbs(operator: str, settings: dict[str, Any]) -> None:
    task, sigmas = make_task(operator), levels(8)
    check_law(dissect(split_gibbs(sigmas, **settings), task), law_of_split_gibbs(task, sigmas, **settings))


def widened(task: Task, rho: float) -> Law:
    """The posterior if the noise of y has covariance ``eta^2 I + rho^2 A A^T``."""
    A, C = task.matrix, task.prior.covariance
    noise = task.eta**2 * torch.eye(len(A), dtype=torch.float64) + rho**2 * A @ A.T
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + noise)
    return Law(task.prior.mean + gain @ (task.y.flatten() - A @ task.prior.mean), C - gain @ A @ C)


@EACH_OPERATOR
@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_bias_of_split_gibbs(operator: str, rho: float) -> None:
    """At a fixed rho, after many turns, it is that of the wider noise, as the reverse diffusion becomes exact."""
    task = make_task(operator)
    errors = []
    for prior_steps in (20, 40, 80):
        turns = levels(100, sigma_min=0.1 / prior_steps, sigma_max=0.2)
        errors.append(error(law_of_split_gibbs(task, turns, rho_min=rho, prior_steps=prior_steps), widened(task, rho)))
    check_convergence(errors, last=0.1)


def test_split_gibbs_comes_near_the_posterior() -> None:
    """The bias falls with rho_min^2, if there are turns enough."""
    task = make_task("super_resolution")
    check_convergence([error(widened(task, rho), task.posterior) for rho in (0.2, 0.1, 0.05)], last=0.01, order=1.9)
    law = law_of_split_gibbs(task, levels(150, 0.005), rho_min=0.1, prior_steps=40)
    assert error(law, task.posterior) < 0.1


# ------------------------------------------------------------------------------------------------------------ Mistakes


class Lower(Denoiser):
    """Evaluates another denoiser at nine tenths of the level."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out: Tensor = self.inner(x, 0.9 * sigma)
        return out


class Shrunk:
    """Draws that are too small by a factor of sqrt(2)."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def normal(self, shape: Sequence[int]) -> Tensor:
        return math.sqrt(0.5) * self.inner.normal(shape)


def without_root(langevin: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Langevin steps without their sqrt(2)."""

    def wrong(problem: Problem, *args: Any) -> Tensor:
        return langevin(dataclasses.replace(problem, draws=Shrunk(problem.draws)), *args)

    return wrong


def mean_alone(problem: Problem, z: Tensor, r: float) -> Tensor:
    return problem.operator.proximal(z, problem.measurement.y, problem.eta, r)


@pytest.mark.parametrize("mutation", ["none", "no sqrt(2)", "sigma' for sigma", "eta squared", "centre at x"])
def test_a_wrong_daps_has_another_law(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, sigmas = make_task("super_resolution"), levels(8)
    settings = {"ode_steps": 1, **LANGEVIN}
    expected, wrong = law_of_daps(task, sigmas, **settings), task
    if mutation == "no sqrt(2)":
        monkeypatch.setattr(splitting, "langevin", without_root(splitting.langevin))
    if mutation == "sigma' for sigma":
        wrong = task._replace(denoiser=NextLevel(task.denoiser, torch.tensor(sigmas, dtype=torch.float64)))
    if mutation == "eta squared":
        wrong = task._replace(noise=GaussianNoise(task.eta**2))
    if mutation == "centre at x":
        monkeypatch.setattr(daps_module, "denoise", lambda problem, x, path, stochasticity: x)
    actual = dissect(daps(sigmas, **settings), wrong)
    if mutation == "none":
        check_law(actual, expected)
    else:
        must_fail(check_law, actual, expected)


@pytest.mark.parametrize("mutation", ["none", "no sqrt(2)", "denoiser at another level", "eta squared", "no draw of z"])
def test_a_wrong_split_gibbs_has_another_law(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, sigmas = make_task("super_resolution"), levels(6)
    settings = {} if mutation == "no draw of z" else LANGEVIN
    expected, wrong = law_of_split_gibbs(task, sigmas, **settings), task
    if mutation == "no sqrt(2)":
        monkeypatch.setattr(splitting, "langevin", without_root(splitting.langevin))
    if mutation == "denoiser at another level":
        wrong = task._replace(denoiser=Lower(task.denoiser))
    if mutation == "eta squared":
        wrong = task._replace(noise=GaussianNoise(task.eta**2))
    if mutation == "no draw of z":
        monkeypatch.setattr(splitting, "gaussian_conditional", mean_alone)
    actual = dissect(split_gibbs(sigmas, **settings), wrong)
    if mutation == "none":
        check_law(actual, expected)
    else:
        must_fail(check_law, actual, expected)


# ------------------------------------------------------------------------------------- Inner steps, and what is refused

Z, Y, R, STD = 0.5, 1.0, 0.8, 0.5  # two modes, near -1 and 1


def law_on_a_line(steps: int, h: float) -> tuple[Tensor, Tensor]:
    """Nodes and probabilities of ``steps`` Langevin steps from Z towards Normal(x; Z, R^2) Normal(Y; x^2, STD^2)."""
    nodes = torch.linspace(-3, 3, 401, dtype=torch.float64)
    drift = (Z - nodes) / R**2 + 2 * nodes * (Y - nodes**2) / STD**2
    gap = (nodes[:, None] - nodes - h * drift) ** 2 / (4 * h)
    step = torch.exp(-gap) / math.sqrt(4 * math.pi * h) * (nodes[1] - nodes[0])
    weights = (nodes == nodes[(nodes - Z).abs().argmin()]).double()
    for _ in range(steps):
        weights = step @ weights
    return nodes, weights / weights.sum()


def check_on_a_line(x: Tensor, law: tuple[Tensor, Tensor]) -> None:
    """First two moments and the probability of the left mode, within five standard errors."""
    nodes, weights = law
    for f in (lambda t: t, lambda t: t**2, lambda t: (t < 0).double()):
        values = f(x.flatten())
        assert abs(float(values.mean() - weights @ f(nodes))) < 5 * float(values.std()) / math.sqrt(values.numel())


def langevin_on_squares(steps: int, h: float) -> Tensor:
    y = torch.full((2000, *SHAPE), Y, dtype=torch.float64)
    draws = TorchDraws(len(y), torch.Generator().manual_seed(0), dtype=torch.float64)
    unused = make_task("inpainting")
    problem = problem_of(unused._replace(operator=Square(SHAPE), noise=GaussianNoise(STD)), y, draws)
    with torch.no_grad():
        return splitting.langevin(problem, torch.full_like(y, Z), R, steps, h)


def test_langevin_steps_with_an_operator_that_is_not_linear() -> None:
    x = langevin_on_squares(100, 0.01)
    check_on_a_line(x, law_on_a_line(100, 0.01))
    must_fail(check_on_a_line, x, law_on_a_line(100, 0.005))


def test_langevin_steps_converge() -> None:
    nodes, _ = law_on_a_line(0, 0.01)
    exact = (-((nodes - Z) ** 2) / (2 * R**2) - (Y - nodes**2) ** 2 / (2 * STD**2)).softmax(0)
    distances = [float((law_on_a_line(round(12 / h), h)[1] - exact).abs().sum()) / 2 for h in (0.02, 0.01, 0.005)]
    check_convergence(distances, last=0.02)


def test_without_noise_the_measured_part_is_kept() -> None:
    """Exact measurements: y where A sees, a draw around z where it does not."""
    task = make_task("inpainting")
    draws = TorchDraws(20_000, torch.Generator().manual_seed(0), dtype=torch.float64)
    noiseless = GaussianNoise(1.0)
    noiseless.std = 0.0
    y = task.y.expand(20_000, *SHAPE)
    x = splitting.gaussian_conditional(problem_of(task._replace(noise=noiseless), y, draws), 0 * y, 0.7)
    seen = task.matrix.diagonal() == 1
    x = x.flatten(1)
    assert torch.equal(x[:, seen], y.flatten(1)[:, seen])
    assert (x[:, ~seen].std(0) / 0.7 - 1).abs().max() < 5 / math.sqrt(2 * len(x))


def test_single_precision_is_enough_at_high_levels() -> None:
    """Where r^2 / eta^2 is beyond the digits of single precision."""
    task, ends = make_task("super_resolution", eta=0.01), []
    z = 80 * normal(50, *SHAPE, seed=1)
    for dtype in (torch.float32, torch.float64):
        y, draws = task.y.to(dtype).expand(50, *task.y.shape[1:]), Script(normal(50, 8, seed=2).to(dtype))
        problem = problem_of(task, y, draws)
        ends.append(task.operator(splitting.gaussian_conditional(problem, z.to(dtype), 80.0)))
    torch.testing.assert_close(ends[0].double(), ends[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["daps", "split_gibbs"])
def test_refusals_of_the_inner_draw(name: str) -> None:
    y = torch.zeros(1, *SHAPE)
    exact, stepping = (samplers.make(name, inner=inner) for inner in ("exact", "langevin"))
    with pytest.raises(InputError, match="inner: exact needs a linear operator"):
        exact.check(Measurement(Square(SHAPE), GaussianNoise(0.1), y))
    noiseless = GaussianNoise(0.1)
    noiseless.std = 0.0
    with pytest.raises(InputError, match="noise with a positive std"):
        stepping.check(Measurement(Identity(SHAPE), noiseless, y))
    exact.check(Measurement(Identity(SHAPE), noiseless, y))
    samplers.make(name).check(Measurement(Square(SHAPE), GaussianNoise(0.1), y))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("daps", "inner", "newton"),
        ("daps", "langevin_steps", 0),
        ("daps", "langevin_step", 2.0),
        ("daps", "ode_steps", 0),
        ("daps", "data_std", 0.0),
        ("split_gibbs", "rho_min", -0.1),
        ("split_gibbs", "prior_steps", 0),
        ("split_gibbs", "stochasticity", 1.5),
    ],
)
def test_impossible_settings_are_refused(name: str, setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=setting):
        make_levelled(name, [1.0], **{setting: value})
