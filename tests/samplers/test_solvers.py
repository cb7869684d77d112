"""The solvers of the prior that are no walk, against their textbooks, and by what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_examples import SAMPLE, message_of
from sampling_tools import arrays_of, make_config, other_notes, read_metrics
from torch import Tensor

from randomwalk import (
    Denoiser,
    GaussianMixture,
    GaussianNoise,
    InputError,
    Measurement,
    operators,
    samplers,
)
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import RunError
from randomwalk.rng import StepNoise
from randomwalk.runs.folder import RunFolder
from randomwalk.samplers import schedules
from randomwalk.samplers.heun import Heun
from randomwalk.sampling import run as sampling
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

LEVELS = 12
SIGMAS = schedules.make("karras", LEVELS, sigma_min=0.02, sigma_max=20.0)
NOISE = torch.randn((LEVELS, 2, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = 20 * torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NAMES = ("heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ode")
SETTINGS: dict[str, dict[str, Any]] = {"heun": {"s_churn": 3.0, "s_min": 0.05, "s_max": 10.0, "s_noise": 1.01}}


def epsilon(z: Tensor, alpha_bar: float) -> Tensor:
    """Some epsilon network, Lipschitz as networks are: nothing about the updates needs it to be exact."""
    return torch.sin(2 * z) / 2 + alpha_bar * z


class AnyDenoiser(Denoiser):
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        assert not isinstance(sigma, Tensor)
        alpha_bar = 1 / (1 + sigma**2)
        return x - sigma * epsilon(math.sqrt(alpha_bar) * x, alpha_bar)


def draw(k: int, x: Tensor) -> Tensor:
    return NOISE[k].to(x)


# --- textbooks -------------------------------------------------------------------------------------------------------


def edm(x: Tensor, s_churn: float = 0, s_min: float = 0, s_max: float = math.inf, s_noise: float = 1) -> Tensor:
    """Algorithm 2 of Karras et al. 2022, line by line, with t for sigma."""
    t = [*SIGMAS.tolist(), 0.0]
    N, D = LEVELS, AnyDenoiser()
    for i in range(N):
        gamma = min(s_churn / N, 2**0.5 - 1) if s_min <= t[i] <= s_max else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + (t_hat**2 - t[i] ** 2) ** 0.5 * s_noise * NOISE[i]
        d = (x_hat - D(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x - D(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
    return x


def vp_levels() -> tuple[list[float], list[float], list[float]]:
    """alpha, sigma and lambda = ln(alpha / sigma) of the variance-preserving diffusion."""
    alphas = [1 / math.sqrt(1 + s**2) for s in SIGMAS.tolist()]
    sigmas = [math.sqrt(1 - a**2) for a in alphas]
    return alphas, sigmas, [math.log(a / s) for a, s in zip(alphas, sigmas, strict=True)]


def x_theta(z: Tensor, lam: float) -> Tensor:
    """The data prediction of the epsilon network at lambda, on the diffusion's own state z."""
    alpha_bar = 1 / (1 + math.exp(-2 * lam))
    return (z - math.sqrt(1 - alpha_bar) * epsilon(z, alpha_bar)) / math.sqrt(alpha_bar)


def dpmpp_2m(x: Tensor) -> Tensor:
    """Algorithm 2 of Lu et al. 2022, in alpha and sigma, with one more step to the clean image."""
    alpha, sigma, lam = vp_levels()
    z = alpha[0] * x
    predictions: list[Tensor] = []
    for i in range(1, LEVELS):
        predictions.append(x_theta(z, lam[i - 1]))
        h = lam[i] - lam[i - 1]
        D = predictions[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * predictions[-1] - 1 / (2 * r) * predictions[-2]
        z = sigma[i] / sigma[i - 1] * z - alpha[i] * (math.exp(-h) - 1) * D
    return x_theta(z, lam[-1])


def dpmpp_3m(x: Tensor) -> Tensor:
    """Proposition 4.1 there with Lagrange's parabola for x_theta, its curvature divided by 1 + h, and Gauss' integrals.

    z_t = sigma_t / sigma_s z_s + sigma_t integral of e^lambda x_theta(lambda) dlambda from lambda_s to lambda_t
    """
    alpha, sigma, lam = vp_levels()
    nodes, weights = np.polynomial.legendre.leggauss(20)

    def integral(i: int, degrees: list[np.poly1d], values: list[Tensor], start: Tensor) -> Tensor:
        """From level i - 1 to i, of polynomials in u with these values, beside the start's share."""
        h = lam[i] - lam[i - 1]
        z = sigma[i] / sigma[i - 1] * start
        for node, weight in zip((nodes + 1) / 2, weights * h / 2, strict=True):
            for polynomial, value in zip(degrees, values, strict=True):
                z = z + sigma[i] * weight * math.exp(lam[i - 1] + node * h) * float(polynomial(node)) * value
        return z

    z, predictions = alpha[0] * x, []
    for i in range(1, LEVELS):
        predictions.append(x_theta(z, lam[i - 1]))
        h = lam[i] - lam[i - 1]
        if i == 1:
            z = integral(1, [np.poly1d([1])], predictions, z)
        elif i == 2:
            z = integral(1, [np.poly1d([-1, 1]), np.poly1d([1, 0])], predictions, alpha[0] * x)  # the first, corrected
            r = (lam[1] - lam[0]) / h
            D = (1 + 1 / (2 * r)) * predictions[1] - 1 / (2 * r) * predictions[0]
            z = integral(2, [np.poly1d([1])], [D], z)
        else:
            u = [(lam[i - 1 - n] - lam[i - 1]) / h for n in range(3)]
            shares = []
            for j, k, m in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
                share = np.poly1d([u[k], u[m]], r=True) / ((u[j] - u[k]) * (u[j] - u[m]))
                shares.append(np.poly1d([share[2] / (1 + h), share[1], share[0]]))
            z = integral(i, shares, predictions[-1:-4:-1], z)
    return x_theta(z, lam[-1])


def unipc(x: Tensor, order: int) -> Tensor:
    """Zhao et al. 2023, algorithms 1 and 2 with B_2(h) = e^h - 1, as in the code published with it."""
    alpha, sigma, lam = vp_levels()
    z = alpha[0] * x
    predictions = [x_theta(z, lam[0])]
    for i in range(1, LEVELS):
        p, h, hh = min(order, i), lam[i] - lam[i - 1], -(lam[i] - lam[i - 1])
        rks = [(lam[i - 1 - m] - lam[i - 1]) / h for m in range(1, p)]
        D1 = [(predictions[-1 - m] - predictions[-1]) / r for m, r in enumerate(rks, 1)]
        h_phi_1 = B_h = math.expm1(hh)
        h_phi_k, b, R = h_phi_1 / hh - 1, [], []
        for k in range(1, p + 1):
            R.append([r ** (k - 1) for r in [*rks, 1.0]])
            b.append(h_phi_k * math.factorial(k) / B_h)
            h_phi_k = h_phi_k / hh - 1 / math.factorial(k + 1)
        rho_p = [0.5] if p == 2 else np.linalg.solve(np.array(R)[:-1, :-1], b[:-1]) if p > 2 else []
        rho_c = [0.5] if p == 1 else np.linalg.solve(np.array(R), b)
        base = sigma[i] / sigma[i - 1] * z - alpha[i] * h_phi_1 * predictions[-1]
        predicted = base - alpha[i] * B_h * sum((float(c) * d for c, d in zip(rho_p, D1, strict=True)), 0 * z)
        D_t = x_theta(predicted, lam[i])
        corrected = sum((float(c) * d for c, d in zip(rho_c, [*D1, D_t - predictions[-1]], strict=True)), 0 * z)
        z = base - alpha[i] * B_h * corrected
        predictions.append(D_t)
    return predictions[-1]


# name, settings, textbook: one line for each solver and setting.
TEXTBOOKS: dict[str, tuple[str, dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "heun": ("heun", {}, edm),
    "heun_churn": ("heun", SETTINGS["heun"], lambda x: edm(x, **SETTINGS["heun"])),
    "heun_most_churn": ("heun", {"s_churn": 100.0}, lambda x: edm(x, 100.0)),
    "dpmpp_2m": ("dpmpp_2m", {}, dpmpp_2m),
    "dpmpp_3m": ("dpmpp_3m", {}, dpmpp_3m),
    "unipc": ("unipc", {}, lambda x: unipc(x, 2)),
    "unipc, 3": ("unipc", {"solver_order": 3}, lambda x: unipc(x, 3)),
}


@pytest.mark.parametrize("case", TEXTBOOKS)
def test_textbook_update(case: str) -> None:
    """In float64; the two differ by rounding, which e^lambda and differences of near levels make larger."""
    name, settings, textbook = TEXTBOOKS[case]
    end, expected = (
        samplers.make(name, **settings).sample(AnyDenoiser(), SIGMAS, start=START, draws=StepNoise(draw)),
        textbook(START),
    )
    difference = float((end - expected).abs().max() / expected.abs().max())
    print(f"{case}: {difference:.1e}")
    assert difference < 1e-10


def two_points() -> GaussianMixture:
    """A denoiser whose flow leads together, as that of data does: errors do not grow on the way."""
    means = torch.stack([torch.full((1, 3, 4), 0.7), torch.full((1, 3, 4), -0.5)]).double()
    return GaussianMixture([0.3, 0.7], means, 0.05)


def at_the_last_level(name: str, num_levels: int, **settings: Any) -> Tensor:
    """The state before the last step."""
    states: list[Tensor] = []
    levels = schedules.make("karras", num_levels, sigma_min=0.02, sigma_max=20.0)
    sampler = samplers.make(name, **settings)
    sampler.sample(two_points(), levels, start=START[:, None], callback=lambda k, x, sigma: states.append(x))
    return states[-2]


def test_the_adaptive_solver_ends_where_many_small_steps_do() -> None:
    """Against Heun, whose error, of order 2, is a third of the difference to half as many steps."""
    expected = at_the_last_level("heun", 401)
    error = (at_the_last_level("heun", 201) - expected).abs().max() / 3
    difference = (at_the_last_level("ode", 5, rtol=1e-9, atol=1e-9) - expected).abs().max()
    assert 0.5 * error < difference < 2 * error


# --- promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [1, 2, 3, LEVELS])
@pytest.mark.parametrize("name", NAMES)
def test_steps_evaluations_and_the_last_step(name: str, num_levels: int) -> None:
    sampler, levels = samplers.make(name, **SETTINGS.get(name, {})), SIGMAS[-num_levels:]
    denoiser, seen = CountingDenoiser(AnyDenoiser()), []
    end = sampler.sample(
        denoiser, levels, start=START, draws=StepNoise(draw), callback=lambda k, x, sigma: seen.append((k, x, sigma))
    )
    assert [k for k, _, _ in seen] == list(range(sampler.num_steps(num_levels))) == list(range(num_levels))
    assert [sigma for _, _, sigma in seen] == levels.tolist()
    expected = sampler.num_evaluations(num_levels)
    assert denoiser.evaluations == expected or (expected is None and denoiser.evaluations >= 6 * num_levels - 5)
    assert torch.equal(end, seen[-1][1])
    before = seen[-2][1] if num_levels > 1 else START
    torch.testing.assert_close(end, AnyDenoiser()(before, float(levels[-1])), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ode"])
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    sampler = samplers.make(name, **SETTINGS.get(name, {}))
    together = sampler.sample(AnyDenoiser(), SIGMAS, start=START, draws=StepNoise(draw))
    for row in range(len(START)):
        one = slice(row, row + 1)
        alone = sampler.sample(
            AnyDenoiser(), SIGMAS, start=START[one], draws=StepNoise(lambda k, x, one=one: draw(k, x)[one])
        )
        torch.testing.assert_close(alone, together[one], rtol=1e-12, atol=1e-12)


def test_an_image_depends_on_its_batch_within_the_tolerance_of_the_adaptive_solver() -> None:
    sampler, start = samplers.make("ode"), START[:, None]
    together = sampler.sample(two_points(), SIGMAS, start=start)
    alone = torch.cat([sampler.sample(two_points(), SIGMAS, start=row[None]) for row in start])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)  # ten tolerances, of which each takes a few
    assert not torch.equal(alone, together)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_near_float64(name: str) -> None:
    """Within rounding of the start, which is at most 60, in each of the steps; ode may take others."""
    sampler, start = samplers.make(name, **SETTINGS.get(name, {})), START[:, None].float()
    exact, single = (
        sampler.sample(two_points(), SIGMAS, start=x, draws=StepNoise(lambda k, x: draw(k, x)[:, None]))
        for x in (start.double(), start)
    )
    assert single.dtype == torch.float32
    bound = 1e-4 if name == "ode" else LEVELS * 60 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=bound)


@pytest.mark.parametrize("name", NAMES)
def test_neither_start_nor_graph_is_touched(name: str) -> None:
    start = START.clone().requires_grad_()
    end = samplers.make(name).sample(AnyDenoiser(), SIGMAS, start=start)
    assert torch.equal(start, START) and not end.requires_grad
    (2 * end.requires_grad_()).sum().backward()  # would fail with a tensor of inference mode
    torch.manual_seed(0)
    churned = samplers.make("heun", s_churn=3.0).sample(AnyDenoiser(), SIGMAS, start=START)  # draws its own noise
    assert not torch.equal(churned, samplers.make("heun").sample(AnyDenoiser(), SIGMAS, start=START))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_is_refused(name: str, tmp_path: Path) -> None:
    operator = operators.make("super_resolution", image_shape=(1, 4, 4), factor=2)
    likelihood = Measurement(operator, GaussianNoise(0.2), torch.ones(1, 1, 2, 2))
    with pytest.raises(InputError, match="takes no measurement: use random_walk"):
        samplers.make(name).sample(AnyDenoiser(), SIGMAS, likelihood, start=START)
    path = tmp_path / "task.yaml"
    path.write_text(SAMPLE)
    message = message_of(load_sample_config, path, [f"sampler.name={name}", "sampler.step_scale="])
    assert f"'{name}'" in message and "with a measurement" in message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("sigmas", "said"), [([1.0, 2.0], "decreasing"), ([2.0, 1.0, 1.0], "level 1 occurs twice"), ([], "positive")]
)
def test_bad_levels_are_named(name: str, sigmas: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        samplers.make(name).sample(AnyDenoiser(), sigmas, start=START)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("heun", {"s_churn": -1.0}, "s_churn: found -1.0; allowed: a number of at least 0"),
        ("heun", {"s_min": 2.0, "s_max": 1.0}, "s_min: found 2.0; allowed: a number below s_max, which is 1.0"),
        ("heun", {"s_noise": 0.0}, "s_noise: found 0.0"),
        ("ode", {"method": "euler"}, "method: found 'euler'; allowed: one of dopri5"),
        ("ode", {"rtol": 0.0}, "rtol: found 0.0; allowed: a number above 0"),
        ("dpmpp_2m", {"eta": 1.0}, "eta: unknown key; .*known with name: dpmpp_2m: name, schedule"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        samplers.make(name, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_not_finite_stops_the_run(name: str) -> None:
    class Broken(Denoiser):
        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return x * (math.nan if float(sigma) < 1 else 0)

    with pytest.raises(RunError, match=r"check the network"):
        samplers.make(name).sample(Broken(), SIGMAS, start=START)


def test_churn_stays_where_the_denoiser_can_be_used() -> None:
    denoiser = AnyDenoiser()
    denoiser.sigma_max = 20.0
    samplers.make("heun", s_churn=3.0, s_max=10.0).sample(denoiser, SIGMAS, start=START, draws=StepNoise(draw))
    with pytest.raises(InputError, match=r"s_churn=3 raises the level 20 too far, set s_max below it: sigma = 25 is"):
        samplers.make("heun", s_churn=3.0).sample(denoiser, SIGMAS, start=START, draws=StepNoise(draw))


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_by_name(name: str, tmp_path: Path) -> None:
    settings = {**SETTINGS.get(name, {}), "name": name, "schedule": {"name": "karras", "num_steps": 4}}
    config = make_config(tmp_path, data=None, measurement=None, num_images=3, sampler=settings)
    assert sampling.run(config) == 0
    run, task = RunFolder(Path(config.output)), load_task(config, torch.device("cpu"))
    assert run.has("schedule.png") and task.plan() is None and task.num_steps == 4
    made = arrays_of(run.path)
    assert len(made) == 3 and all(np.isfinite(array).all() for array in made.values())
    assert other_notes(task) == [] and max(map(len, task.batches())) == (1 if name == "ode" else config.batch_size)
    counts = {int(row["evaluations"]) for row in read_metrics(run.path)}
    if name == "ode":
        assert min(counts) > 3 * 6
    else:
        assert counts == {samplers.make(name).num_evaluations(4)}


def test_images_share_steps_only_where_that_is_allowed(tmp_path: Path) -> None:
    """By default image i is the same at any batch size; with shared steps the user is told."""

    def run(folder: str, size: int, **more: bool) -> tuple[Task, dict[str, np.ndarray]]:
        settings = {"name": "ode", "schedule": {"name": "karras", "num_steps": 2}, **more}
        where = tmp_path / folder
        where.mkdir()
        config = make_config(where, data=None, measurement=None, num_images=3, sampler=settings, batch_size=size)
        assert sampling.run(config) == 0
        return load_task(config, torch.device("cpu")), arrays_of(Path(config.output))

    (_, alone), (_, beside) = run("one", 1), run("three", 3)
    assert all(np.array_equal(alone[name], beside[name]) for name in alone)
    task, shared = run("shared", 3, shared_steps=True)
    assert len(task.batches()) == 1 and "each depends on the others" in notes_of(task)[0]
    assert any(not np.array_equal(alone[name], shared[name]) for name in alone)


def test_churn_beyond_the_network_is_refused_before_the_run(tmp_path: Path) -> None:
    settings = {"name": "heun", "s_churn": 3.0, "schedule": {"name": "karras", "num_steps": 4}}
    config = make_config(tmp_path, data=None, measurement=None, num_images=1, sampler=settings)
    with pytest.raises(InputError, match="set s_max below it"):
        load_task(config, torch.device("cpu"))


def test_levels_at_both_ends_of_the_churned_range_are_raised() -> None:
    """As in algorithm 2 of the paper, ``S_tmin <= t <= S_tmax``; by ``s_churn / N``, at most ``sqrt(2) - 1``."""
    heun = samplers.make("heun", s_churn=3.0, s_min=0.5, s_max=10.0)
    assert isinstance(heun, Heun)
    assert heun.raised(10.0, 20) == pytest.approx(11.5) and heun.raised(0.5, 20) == pytest.approx(0.575)
    assert heun.raised(10.01, 20) == 10.01 and heun.raised(0.499, 20) == 0.499
    assert heun.raised(1.0, 2) == pytest.approx(math.sqrt(2))


def test_a_level_that_is_raised_too_far_is_named_though_the_highest_is_not_raised() -> None:
    network = AnyDenoiser()
    network.sigma_max = 20.0
    heun = samplers.make("heun", s_churn=100.0, s_max=19.5)
    with pytest.raises(InputError, match=r"raises the level 19 too far"):
        heun.check_levels(network, [20.0, 19.0, 1.0])
    heun.check_levels(network, [20.0, 10.0, 1.0])
