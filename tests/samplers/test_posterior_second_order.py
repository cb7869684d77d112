"""MMPS: its law on a Gaussian prior, and the conjugate gradients in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from posterior_tools import (
    EACH_OPERATOR,
    EYE,
    SHAPE,
    SIZE,
    Forward,
    Law,
    Levelled,
    NextLevel,
    Task,
    check_convergence,
    check_law,
    check_moments,
    dissect,
    error,
    make_levelled,
    make_task,
    must_fail,
    normal,
    problem_of,
    sampled,
    start,
)
from torch import Tensor

from randomwalk import Denoiser, InputError
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import schedules
from randomwalk.samplers.posterior import mmps
from randomwalk.samplers.posterior.mmps import conjugate_gradients


def levels(steps: int) -> Tensor:
    """From where the start is forgotten, to a level that falls as the steps grow many."""
    return schedules.make("karras", steps, sigma_min=0.5 / steps, sigma_max=1000.0)


def sampler(steps: int, iterations: int = SIZE, stochasticity: float = 1.0) -> Levelled:
    return make_levelled("mmps", levels(steps), iterations=iterations, stochasticity=stochasticity)


def recursion(task: Task, steps: int, stochasticity: float) -> Law:
    """DDIM on the posterior as if that were the prior: its denoiser is E[X | X_s, y]."""
    sigmas = levels(steps).tolist()
    law, (mean, covariance) = start(sigmas[0]), task.posterior
    for s, p in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        J = covariance @ torch.linalg.inv(covariance + s**2 * EYE)
        v2 = stochasticity**2 * p**2 * (1 - p**2 / s**2)
        keep = math.sqrt(p**2 - v2) / s
        law = law.then((1 - keep) * J + keep * EYE, (1 - keep) * (EYE - J) @ mean, v2 * EYE)
    return law


STOCHASTICITY = pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])


@STOCHASTICITY
@EACH_OPERATOR
def test_law_of_mmps(operator: str, stochasticity: float) -> None:
    task = make_task(operator)
    check_law(dissect(sampler(15, stochasticity=stochasticity), task), recursion(task, 15, stochasticity))


@STOCHASTICITY
@EACH_OPERATOR
def test_mmps_converges_to_the_posterior(operator: str, stochasticity: float) -> None:
    task = make_task(operator)
    errors = [error(recursion(task, steps, stochasticity), task.posterior) for steps in (100, 200, 400)]
    check_convergence(errors, last=0.06)


def test_an_operator_that_has_no_decomposition() -> None:
    task = make_task("dense")
    plain = task._replace(operator=Forward(task.matrix))
    check_law(dissect(sampler(10), plain), recursion(task, 10, 1.0))


def test_too_few_iterations_are_a_bias() -> None:
    """Three rows of A and one iteration: not affine in the draws any more, and another law, that three do not have."""
    task, expected = make_task("dense"), recursion(make_task("dense"), 15, 1.0)
    check_moments(sampled(sampler(15, iterations=3), task, 200, groups=20), expected)
    must_fail(check_moments, sampled(sampler(15, iterations=1), task, 200, groups=20), expected)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_iterations_lead_to_the_posterior_mean(sigma: float) -> None:
    task = make_task("dense")
    draws = TorchDraws(50, torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = problem_of(task, task.y.expand(50, *task.y.shape[1:]), draws)
    x = sigma * problem.normal()
    (mean, covariance), flat = task.posterior, x.flatten(1)
    exact = mean + (flat - mean) @ torch.linalg.inv(covariance + sigma**2 * EYE) @ covariance
    found = [torch.add(*mmps.mean_and_shift(problem, x, sigma, iterations)).flatten(1) for iterations in (1, 2, 3, 10)]
    # In the norm in which conjugate gradients come nearer with every iteration.
    spread = task.matrix @ (EYE - task.denoise(sigma)[0]) @ task.matrix.T
    misses = [(((value - exact) @ task.matrix.T) @ torch.linalg.inv(spread)).norm(dim=1) for value in found]
    assert (misses[2] < 1e-6 * misses[0]).all()
    torch.testing.assert_close(found[2], exact, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found[3], found[2], rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------------------------ Mistakes


class HalfJacobian(Denoiser):
    """A denoiser whose products with the Jacobian are too small."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out: Tensor = self.inner(x, sigma)
        return out

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        out, product = super().linearized(x, sigma)
        return out, lambda v: product(v) / 2


WRONG: dict[str, Callable[[Task], Task]] = {
    "sigma' for sigma": lambda task: task._replace(denoiser=NextLevel(task.denoiser, levels(15))),
    "half the covariance": lambda task: task._replace(denoiser=HalfJacobian(task.denoiser)),
    "eta squared": lambda task: task._replace(noise=GaussianNoise(task.eta**2)),
    "y halved": lambda task: task._replace(y=task.y / 2),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_mmps_has_another_law(mistake: str) -> None:
    task = make_task("super_resolution")
    must_fail(check_law, dissect(sampler(15), WRONG[mistake](task)), recursion(task, 15, 1.0))


@pytest.mark.parametrize(("setting", "value"), [("iterations", 0), ("stochasticity", -0.1), ("stochasticity", 1.1)])
def test_impossible_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=setting):
        make_levelled("mmps", [1.0], **{setting: value})


# -------------------------------------------------------------------------------------------------- Conjugate gradients


def systems(rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Positive definite matrices ``[B, n, n]`` of very different sizes, and right-hand sides."""
    roots = normal(rows, size, size, seed=3)
    scale = 10.0 ** torch.arange(rows, dtype=torch.float64)[:, None, None]
    return scale * (roots @ roots.mT + 0.1 * torch.eye(size)), normal(rows, size, seed=4)


def apply(matrices: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.einsum("bij,bj->bi", matrices, v)


def test_each_iteration_is_the_best_in_its_krylov_space() -> None:
    """In the norm of V, and the last one is the solution."""
    matrices, b = systems(4, 6)
    exact = torch.linalg.solve(matrices, b)
    for iterations in range(1, 7):
        found = conjugate_gradients(apply(matrices), b, iterations)
        for V, right, u in zip(matrices, b, found, strict=True):
            unit = V / torch.linalg.matrix_norm(V, 2)
            krylov = torch.stack([torch.linalg.matrix_power(unit, k) @ right for k in range(iterations)], 1)
            basis = torch.linalg.qr(krylov)[0]
            best = basis @ torch.linalg.solve(basis.T @ V @ basis, basis.T @ right)
            torch.testing.assert_close(u, best, rtol=1e-6, atol=1e-6 * float(best.abs().max()))
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=0)


def test_rows_do_not_touch_each_other() -> None:
    matrices, b = systems(4, 6)
    together = conjugate_gradients(apply(matrices), b, 3)
    for row in range(4):
        alone = conjugate_gradients(apply(matrices[row : row + 1]), b[row : row + 1], 3)
        torch.testing.assert_close(alone[0], together[row])
    b[1] *= 1e-20  # a row is solved to its own size, not to that of the largest
    small = conjugate_gradients(apply(matrices), b, 6)[1]
    torch.testing.assert_close(small, torch.linalg.solve(matrices[1], b[1]), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterations_after_the_solution_change_nothing(dtype: torch.dtype) -> None:
    """Also not those of a row that starts at its solution, 0."""
    matrices, b = (value.to(dtype) for value in systems(3, 4))
    matrices, b = matrices / matrices.diagonal(dim1=1, dim2=2).amax(1)[:, None, None], b.clone()
    b[1] = 0
    found, later = (conjugate_gradients(apply(matrices), b, iterations) for iterations in (12, 500))
    assert (found[1] == 0).all()
    tolerance = 1e3 * torch.finfo(dtype).eps
    torch.testing.assert_close(later, found, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, b), rtol=30 * tolerance, atol=30 * tolerance)


def test_a_row_that_is_not_positive_stops() -> None:
    matrices, b = systems(2, 4)
    matrices[1] *= -1
    found = conjugate_gradients(apply(matrices), b, 4)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[0], torch.linalg.solve(matrices, b)[0])


def test_a_row_that_turns_out_not_to_be_positive_stays_where_it_is() -> None:
    """Its second direction v has v^T V v < 0, but its residual then has not: it must not go on from there."""
    diagonal = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0, 0.5]], dtype=torch.float64)
    once, often = (conjugate_gradients(lambda v: diagonal * v, b, iterations) for iterations in (1, 9))
    torch.testing.assert_close(once, b * 2.25 / 2.75)
    assert torch.equal(often, once)


def test_measurements_are_images_too() -> None:
    b = normal(2, *SHAPE, seed=5)
    torch.testing.assert_close(conjugate_gradients(lambda v: 2 * v, b, 1), b / 2)
