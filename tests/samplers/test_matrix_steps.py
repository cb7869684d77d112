"""Matrix steps without a spectral decomposition, and the settings of the walk that restores images.

A step is affine in the state, and in every draw: its law is taken from the step itself, without sampling error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from operator_cases import dense, normal, random_kernel
from torch import Tensor

from randomwalk import InputError, Measurement, kernels, operators, samplers
from randomwalk.config.samplers import ScheduleSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import Probe
from randomwalk.operators import Blur, Operator, blur_with_kernel, solve
from randomwalk.operators.noise import GaussianNoise, PoissonNoise
from randomwalk.operators.operator import cut
from randomwalk.samplers.posterior.splitting import gaussian_conditional
from randomwalk.samplers.sampler import Problem
from randomwalk.samplers.walk import PreconditionedStep

SHAPE = (1, 6, 5)
SIZE = math.prod(SHAPE)
SIGMA, ETA, SCALE, WEIGHT, TEMPERATURE = 0.7, 0.2, 0.6, 0.35, 0.8
Move = Callable[[Tensor, Tensor, Tensor, float, Callable[[Tensor], Tensor]], Tensor]


class Law(NamedTuple):
    mean: Tensor
    covariance: Tensor


def unknown_blur() -> Blur:
    found = blur_with_kernel(SHAPE, random_kernel(3, 2), "unknown")
    assert isinstance(found, Blur) and not found.has_spectral
    return found


def step_of(operator: Operator) -> PreconditionedStep:
    return PreconditionedStep(operator, SIGMA, ETA, SCALE, WEIGHT)


def law_of(operator: Operator, move: Move) -> Law:
    """Law of the state after a step from a fixed state: the response to each entry of each draw, one to a row."""
    x, score = normal(1, *SHAPE), normal(1, *SHAPE, seed=1)
    y = normal(1, *operator.measurement_shape, seed=2)
    rows = 1 + SIZE + y[0].numel()
    used = 1

    def draw(like: Tensor) -> Tensor:
        nonlocal used
        out = torch.zeros(rows, like[0].numel(), dtype=torch.float64)
        out[used : used + out.shape[1]] = torch.eye(out.shape[1], dtype=torch.float64)
        used += out.shape[1]
        return out.reshape(rows, *like.shape[1:])

    end = move(x.expand(rows, *SHAPE), score.expand(rows, *SHAPE), y, TEMPERATURE, draw).flatten(1)
    response = end[1:] - end[0]
    return Law(end[0], response.T @ response)


def exact(operator: Operator) -> Law:
    """``x + P (lambda score + A^T (y - A x) / eta^2)`` and ``2 T P``, with matrices."""
    x, score = normal(1, *SHAPE).flatten(), normal(1, *SHAPE, seed=1).flatten()
    y, matrix = normal(1, *operator.measurement_shape, seed=2).flatten(), dense(operator)
    curvature = WEIGHT / SIGMA**2 * torch.eye(SIZE, dtype=torch.float64) + matrix.T @ matrix / ETA**2
    P = SCALE * torch.linalg.inv(curvature)
    return Law(x + P @ (WEIGHT * score + matrix.T @ (y - matrix @ x) / ETA**2), 2 * TEMPERATURE * P)


def error(found: Law, expected: Law) -> float:
    whiten = torch.linalg.inv(torch.linalg.cholesky(expected.covariance))
    spread = whiten @ found.covariance @ whiten.T - torch.eye(SIZE, dtype=torch.float64)
    return max(float((whiten @ (found.mean - expected.mean)).abs().max()), float(torch.linalg.matrix_norm(spread, 2)))


@pytest.fixture(autouse=True)
def _exact_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(solve.TOLERANCE, torch.float64, 1e-12)


def solved(step: PreconditionedStep) -> Move:
    return replace(step, rough=False).perturb_and_solve


OPERATORS: dict[str, Callable[[], Operator]] = {
    "blur, unknown": unknown_blur,
    "blur, reflect": lambda: blur_with_kernel(SHAPE, random_kernel(3, 2), "reflect"),
    "gaussian blur, unknown": lambda: operators.make("gaussian_blur", image_shape=SHAPE, std=0.4, boundary="unknown"),
    "inpainting": lambda: operators.make("inpainting", image_shape=SHAPE, missing=0.5),
    "blur, circular": lambda: blur_with_kernel(SHAPE, random_kernel(3, 2), "circular"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_perturb_then_solve_has_the_law_of_the_matrix_step(name: str) -> None:
    operator = OPERATORS[name]()
    step = step_of(operator)
    assert error(law_of(operator, solved(step)), exact(operator)) < 1e-9
    if operator.has_spectral:  # both forms
        measurement = Measurement(operator, GaussianNoise(ETA), normal(1, *operator.measurement_shape, seed=2))
        closed = law_of(operator, lambda x, score, y, t, draw: step.move(x, score, measurement, t, draw))
        assert error(closed, exact(operator)) < 1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_without_noise_for_y_the_step_is_the_proximal_map_of_a_perturbed_image(name: str) -> None:
    """``c P lambda / s^2`` of noise ``sqrt(2 T / c) r`` in the denoised image, in both forms."""
    operator = OPERATORS[name]()
    step = replace(step_of(operator), noise="image")
    expected = exact(operator)
    passed = expected.covariance / (2 * TEMPERATURE) * WEIGHT / SIGMA**2  # P lambda / s^2
    noise = 2 * TEMPERATURE / SCALE * SIGMA**2 / WEIGHT
    expected = Law(expected.mean, noise * passed @ passed.T)
    assert error(law_of(operator, solved(step)), expected) < 1e-8  # P comes twice, and with it its condition number
    if operator.has_spectral:
        measurement = Measurement(operator, GaussianNoise(ETA), normal(1, *operator.measurement_shape, seed=2))
        closed = law_of(operator, lambda x, score, y, t, draw: step.move(x, score, measurement, t, draw))
        assert error(closed, expected) < 1e-8
    assert error(law_of(operator, solved(step_of(operator))), expected) > 0.1


@pytest.mark.parametrize("name", OPERATORS)
def test_white_noise_is_that_of_the_unmeasured_directions_everywhere(name: str) -> None:
    """``2 T c s^2 / lambda``, and no draw for y."""
    operator = OPERATORS[name]()
    measurement = Measurement(operator, GaussianNoise(ETA), normal(1, *operator.measurement_shape, seed=2))
    step = replace(step_of(operator), noise="white", rough=False)
    white = 2 * TEMPERATURE * SCALE * SIGMA**2 / WEIGHT * torch.eye(SIZE, dtype=torch.float64)
    found = law_of(operator, lambda x, score, y, t, draw: step.move(x, score, measurement, t, draw))
    assert error(found, exact(operator)._replace(covariance=white)) < 1e-9


def test_the_automatic_weight_lets_through_a_part_of_the_next_level() -> None:
    """The noise of y in a direction of singular value a: ``w eta / a``, ``w = t^2 / (t^2 + lambda), t = s a / eta``."""
    levels, eta = [1.0, 0.6, 0.4, 0.1], 0.1
    given = Measurement(operators.Identity(SHAPE), GaussianNoise(eta), torch.zeros(1, *SHAPE))
    walk = samplers.make("random_walk", step_scale=1.0, preconditioned=True, prior_weight="auto", kappa=0.7)
    plan = walk.plan(levels, given)
    a = torch.logspace(-4, 4, 100_001, dtype=torch.float64)
    for step, following in zip(plan.step_sizes, [0.6, 0.4, 0.1, 0.1 * 0.1 / 0.4], strict=True):
        assert isinstance(step, PreconditionedStep) and step.noise == "image"
        t = step.sigma * a / eta
        most = float((t**2 / (t**2 + step.prior_weight) * eta / a).max())
        assert most == pytest.approx(following / 1.2**0.5, rel=1e-4)
    single = walk.plan([0.3], given).step_sizes[0]
    assert isinstance(single, PreconditionedStep) and single.prior_weight == pytest.approx(0.3)


def test_each_step_sees_the_image_turned_another_way() -> None:
    """A network that adds a picture of its own adds it in all eight ways in turn."""

    class Adds(Shrink):
        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return x + own

        def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return own / sigma**2

    own = normal(1, 1, 4, 4)
    probe, states = Probe(Adds()), [torch.zeros(1, 1, 4, 4, dtype=torch.float64)]
    walk = samplers.make("random_walk", step_scale=1.0, final_temperature=0.0, turns=8)
    shown = []

    def look(k: int, x: Tensor, sigma: float) -> None:
        states.append(x)
        shown.append(float((probe.denoised() - x).abs().max()))

    walk.sample(probe, torch.linspace(1, 0.1, 9), start=states[0], callback=look)
    ways = [after - before for before, after in pairwise(states)]
    turned = [own.rot90(-(k // 2 % 4), (-2, -1)) for k in range(9)]
    expected = [e.flip(-1) if k % 2 else e for k, e in enumerate(turned)]
    for way, right in zip(ways, expected, strict=True):
        torch.testing.assert_close(way, right)
    assert len({tuple(way.flatten().round(decimals=6).tolist()) for way in ways}) == 8
    assert max(shown) < 1e-12 and probe.evaluations == 9 and isinstance(probe.inner, Adds)


def test_a_blurred_picture_is_continued_at_its_border() -> None:
    blur = unknown_blur()
    y = normal(1, *blur.measurement_shape)
    found = blur.interpolated(y)
    assert found.shape == (1, *SHAPE)
    torch.testing.assert_close(cut(found, blur.margins), y)
    assert (found[..., 0, :] == found[..., blur.margins[0], :]).all()


@pytest.mark.parametrize("mistake", ["no sqrt(2)", "no scale", "image noise alone", "weight of the noise"])
def test_a_wrong_step_has_another_law(mistake: str) -> None:
    operator = unknown_blur()
    step = step_of(operator)

    def wrong(x: Tensor, score: Tensor, y: Tensor, temperature: float, draw: Callable[[Tensor], Tensor]) -> Tensor:
        if mistake == "no scale":
            temperature *= SCALE
        draws = [draw(x), draw(y.expand(len(x), *y.shape[1:]))]
        draws[1] = 0 * draws[1] if mistake == "image noise alone" else draws[1]
        draws[0] = WEIGHT**0.5 * draws[0] if mistake == "weight of the noise" else draws[0]
        factor = 0.5**0.5 if mistake == "no sqrt(2)" else 1.0
        return solved(step)(x, score, y, temperature, lambda like: factor * draws.pop(0))

    assert error(law_of(operator, wrong), exact(operator)) > 0.1


def test_the_tolerance_of_the_walk_changes_a_step_little() -> None:
    """At most a part of ``TOLERANCE`` of what y asks for, in the norm of the solver, and far less in the image."""
    blur = blur_with_kernel((1, 40, 40), random_kernel(7, 5) / 35, "unknown")
    x, score = normal(1, 1, 40, 40), normal(1, 1, 40, 40, seed=1)
    y = blur(normal(1, 1, 40, 40, seed=2))
    step = PreconditionedStep(blur, 0.5, 0.02, 1.0, 0.35)
    rough = step.perturb_and_solve(x, score, y, 0.0, torch.zeros_like)
    fine = solved(step)(x, score, y, 0.0, torch.zeros_like)
    start = x + 0.5**2 * score
    assert 1e-6 < float((rough - fine).norm() / (fine - start).norm()) < 0.1


def test_preconditioning_makes_the_solution_quick() -> None:
    """On a blur whose surroundings are unknown, 20 iterations reach what takes hundreds without."""
    blur = blur_with_kernel((1, 60, 60), kernels.defocus(3), "unknown")
    z, y = normal(1, 1, 60, 60), blur(normal(1, 1, 60, 60, seed=1))
    fine = blur.proximal(z, y, 0.016, 0.5)
    quick = blur.proximal(z, y, 0.016, 0.5, tolerance=0.0, iterations=20)
    plain = z + blur.adjoint(Operator.solve(blur, y - blur(z), (0.016 / 0.5) ** 2, 0.0, 20))
    scale = float((fine - z).norm())
    assert float((quick - fine).norm()) < 0.01 * scale < 0.1 * float((plain - fine).norm())


class Black(Denoiser):
    """Denoiser of black images."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return torch.zeros_like(x)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return -x / sigma**2


@pytest.mark.parametrize("kappa, share", [(0.7, 0.7), ("auto", 1 - math.exp(-0.06 / 0.05))])
@pytest.mark.parametrize("scale", [1.0, 0.8, 1.4])
@pytest.mark.parametrize("weight", [1.0, 0.35])
def test_kappa_is_the_noise_left_in_units_of_the_next_level(
    scale: float, weight: float, kappa: float | str, share: float
) -> None:
    """Where nothing is measured: from noise of the level s, one step leaves kappa p."""
    operator = operators.Inpainting((1, 100, 100), torch.zeros(100, 100))
    measurement = Measurement(operator, GaussianNoise(0.1), torch.zeros(1, 1, 100, 100))
    walk = samplers.make("random_walk", step_scale=scale, preconditioned=True, prior_weight=weight, kappa=kappa)
    states: list[Tensor] = []
    torch.manual_seed(0)
    start = 0.1 * torch.randn(1, 1, 100, 100)
    levels = [0.1, 0.06, 0.045]
    walk.sample(Black(), levels, measurement, start=start, callback=lambda k, x, sigma: states.append(x))
    assert float(states[0].std()) == pytest.approx(share * 0.06, rel=0.04)
    prior = samplers.make("random_walk", step_scale=scale, kappa=kappa)
    assert prior.plan(levels).temperatures == pytest.approx(
        [t / weight for t in walk.plan(levels, measurement).temperatures]
    )


def test_known_samplers_are_members_of_the_family() -> None:
    levels = (3.0 * 0.7 ** torch.arange(8, dtype=torch.float64)).tolist()
    ddim = samplers.make("random_walk", step_scale=1 - 0.7, kappa=1.0).plan(levels)
    theirs = samplers.make("ddim").plan(levels)
    assert theirs is not None and ddim.temperatures == pytest.approx([0.0] * 8, abs=1e-12)
    assert ddim.step_sizes[:-1] == pytest.approx(theirs.step_sizes[:-1])
    ddpm = samplers.make("random_walk", step_scale=1 - 0.7**2, kappa=1.0).plan(levels)
    small = samplers.make("ddpm_small").plan(levels)
    assert small is not None and ddpm.step_sizes[:-1] == pytest.approx(small.step_sizes[:-1])
    assert ddpm.temperatures[:-1] == pytest.approx(small.temperatures[:-1])


def test_levels_go_down_to_the_noise_if_it_is_above_the_last() -> None:
    operator, levels = operators.Identity(SHAPE), [3.0, 1.0, 0.3, 0.01]
    walk = samplers.make("random_walk", step_scale=1.0, preconditioned=True, kappa=0.7, down_to_noise=True)
    for eta, last in ((0.1, 0.1), (0.005, 0.01), (5.0, 0.01)):
        plan = walk.plan(levels, Measurement(operator, GaussianNoise(eta), torch.zeros(1, *SHAPE)))
        steps = torch.tensor(plan.sigmas).log().diff()
        assert plan.sigmas[0] == 3.0 and plan.sigmas[-1] == pytest.approx(last)
        torch.testing.assert_close(steps / steps.sum(), torch.tensor(levels).log().diff() / np.log(0.01 / 3))
        assert [step.sigma for step in plan.step_sizes] == plan.sigmas  # type: ignore[union-attr]


def test_half_quadratic_splitting_is_a_walk_without_noise() -> None:
    """DPIR: the proximal map of the denoised image, lambda = 0.23, and at the end the denoised image."""
    operator = unknown_blur()
    measurement = Measurement(operator, GaussianNoise(ETA), normal(1, *operator.measurement_shape))
    levels, prior = [1.0, 0.5, 0.3], Shrink()
    walk = samplers.make(
        "random_walk", step_scale=1.0, preconditioned=True, prior_weight=0.23, kappa=0.0, last_denoised=True
    )
    seen: list[tuple[int, float]] = []
    found = walk.sample(
        prior, levels, measurement, start=normal(1, *SHAPE), callback=lambda k, x, s: seen.append((k, s))
    )
    x = normal(1, *SHAPE)
    for sigma in levels:
        x = operator.proximal(prior(x, sigma), measurement.y, ETA, sigma / 0.23**0.5)
    expected = prior(x, 0.65 * 0.3)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()  # the tolerance of the walk
    assert (
        seen == [(0, 1.0), (1, 0.5), (2, 0.3), (3, pytest.approx(0.195))]
        and walk.num_steps(3) == walk.num_evaluations(3) == 4
    )


class Shrink(Denoiser):
    """Denoiser of images whose pixels are Normal(0, 1)."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x / (1 + sigma**2)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return -x / (1 + sigma**2)


def test_draws_between_the_prior_and_y_have_the_law_of_the_matrix() -> None:
    """daps and split_gibbs with a blur that has no spectral decomposition."""
    operator, r = unknown_blur(), 0.4
    matrix, z = dense(operator), normal(1, *SHAPE)
    y = normal(1, *operator.measurement_shape, seed=2)
    num = 20_000
    draws = Normals(num)
    problem = Problem(
        Black(), [1.0], draws, z.new_zeros(()).expand(num, *SHAPE), Measurement(operator, GaussianNoise(ETA), y)
    )
    x = gaussian_conditional(problem, z.expand(num, *SHAPE), r).flatten(1)
    curvature = torch.eye(SIZE, dtype=torch.float64) / r**2 + matrix.T @ matrix / ETA**2
    covariance = torch.linalg.inv(curvature)
    mean = covariance @ (z.flatten() / r**2 + matrix.T @ y.flatten() / ETA**2)
    white = (x - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert (white.mean(0).abs() < 5 / num**0.5).all()
    standard_error = torch.full((SIZE, SIZE), num**-0.5, dtype=torch.float64).fill_diagonal_((2 / num) ** 0.5)
    assert ((white.T @ white / num - torch.eye(SIZE, dtype=torch.float64)).abs() < 5 * standard_error).all()


class Normals:
    """Draws of Normal(0, I) in double precision."""

    def __init__(self, rows: int) -> None:
        self.rows, self.source = rows, torch.Generator().manual_seed(1)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn((self.rows, *shape), generator=self.source, dtype=torch.float64)

    def uniform(self) -> Tensor:
        raise NotImplementedError

    def noise(self, k: int, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_what_the_walk_refuses() -> None:
    blur = unknown_blur()
    y = torch.zeros(1, *blur.measurement_shape)
    given = Measurement(blur, GaussianNoise(0.1), y)
    for settings, said in (
        ({"kappa": 0.7}, "kappa is for preconditioned: true"),
        ({"prior_weight": 0.3}, "prior_weight is for preconditioned: true"),
    ):
        with pytest.raises(InputError, match=said):
            samplers.make("random_walk", step_scale=1.0, **settings).plan([1.0, 0.5], given)
    with pytest.raises(InputError, match="linear operator and Gaussian noise; here are Blur and poisson"):
        samplers.make("random_walk", step_scale=1.0, preconditioned=True).check(
            Measurement(blur, PoissonNoise(30.0), y)
        )
    with pytest.raises(InputError, match="turns: 8 is for images; here are 1-d samples"):
        samplers.make("random_walk", step_scale=1.0, turns=8).sample(Shrink(), [1.0, 0.5], shape=(3, 2))
    with pytest.raises(InputError, match="final_temperature: found beside kappa"):
        samplers.make("random_walk", step_scale=1.0, kappa=0.7, final_temperature=0.3)
    with pytest.raises(InputError, match=r"DDRM needs the spectral .* that needs none \(random_walk, diffpir, daps"):
        samplers.make("ddrm").check(given)


@pytest.mark.parametrize("name", ["random_walk", "diffpir", "daps", "split_gibbs", "pigdm", "mmps", "dps"])
def test_the_samplers_that_a_message_names_deblur_with_unknown_surroundings(name: str) -> None:
    """On a prior of independent pixels each comes closer to y than the prior's mean is."""
    blur = blur_with_kernel((1, 12, 12), random_kernel(3, 3) / 4.5, "unknown")
    y = blur(normal(1, 1, 12, 12)).float()
    given = Measurement(blur, GaussianNoise(0.1), y)
    settings = {"random_walk": {"step_scale": 1.0, "preconditioned": True}}.get(name, {})
    schedule = ScheduleSettings(name="geometric", num_steps=12, sigma_min=0.05, sigma_max=3.0)
    torch.manual_seed(0)
    x = samplers.make(name, schedule=schedule, **settings).sample(Shrink(), None, given)
    assert x.shape == (1, 1, 12, 12)
    assert float((y - blur(x)).norm() / y.norm()) < 0.8
    assert np.isfinite(x.numpy()).all()
