"""DPS, PiGDM, DDRM, DDNM+ and DiffPIR: the algorithms of the papers, and what they do to a Gaussian posterior.

First, each sampler has the law of its paper's algorithm on a Gaussian prior, written out here once more in the paper's
own coordinates and with dense matrices; samplers with a small mistake do not. Second, that law goes where the docstring
says as the steps grow many: none of these samplers is exact in general, and each bias is a number that is checked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import test_posterior
import torch
from posterior_tools import (
    EACH_OPERATOR,
    ETA,
    EYE,
    SHAPE,
    SIZE,
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
    run,
    sampled,
    start,
)
from torch import Tensor

from randomwalk import GaussianMixture, InputError, operators, samplers
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, Noise, NoNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import schedules
from randomwalk.samplers.posterior import dps, steps
from randomwalk.samplers.posterior.ddnm_plus import DDNMPlus


class Exact(Noise):
    """No noise."""

    name = "none"
    std = 0.0


@dataclass(frozen=True)
class Affine:
    """``matrix z + offset``, so that the algorithms can be written down as in the papers."""

    matrix: Tensor
    offset: Tensor

    def __add__(self, other: Affine | Tensor) -> Affine:
        if isinstance(other, Tensor):
            return Affine(self.matrix, self.offset + other)
        return Affine(self.matrix + other.matrix, self.offset + other.offset)

    def __rmul__(self, factor: float) -> Affine:
        return Affine(factor * self.matrix, factor * self.offset)

    def __sub__(self, other: Affine) -> Affine:
        return self + -1 * other

    def through(self, matrix: Tensor) -> Affine:
        return Affine(matrix @ self.matrix, matrix @ self.offset)


IDENTITY = Affine(EYE, torch.zeros(SIZE, dtype=torch.float64))


def bars(sigmas: list[float]) -> list[tuple[float, float, float]]:
    """``sigma, alpha_bar, next alpha_bar`` of each step; the last goes to alpha_bar = 1."""
    alpha_bars = [1 / (1 + s**2) for s in sigmas]
    return list(zip(sigmas, alpha_bars, [*alpha_bars[1:], 1.0], strict=True))


def measurement_score(task: Task, clean: Affine, variance: float) -> Affine:
    """``A^T (variance A A^T + eta^2 I)^-1 (y - A clean)``, or its limit for eta -> 0."""
    A = task.matrix
    spread = variance * A @ A.T + task.eta**2 * torch.eye(len(A), dtype=A.dtype)
    gain = A.T @ (torch.linalg.inv(spread) if task.eta > 0 else torch.linalg.pinv(spread, rtol=1e-10))
    return (-1 * clean.through(gain @ A)) + gain @ task.y.flatten()


# ------------------------------------------------------------------------------- The algorithms as they were published


def pigdm_law(sampler: Levelled, task: Task, c: float = 1.0, d: float = 1.0, adaptive: bool = False) -> Law:
    """Song et al. 2023, algorithm 1, for z = sqrt(alpha_bar) x; with the weight that the score demands, or r^2."""
    sigmas = sampler.levels()
    law = start(sigmas[0]).then(EYE / math.sqrt(1 + sigmas[0] ** 2))
    for sigma, a, b in bars(sigmas):
        J, offset = task.denoise(sigma)
        clean = Affine(J / math.sqrt(a), offset)
        r2 = d**2 * (1 - a) / (1 - a + d**2 * a)
        score = measurement_score(task, clean, r2).through(J.T / math.sqrt(a))
        c1 = c * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        c2 = math.sqrt(1 - b - c1**2)
        if not adaptive:
            clean = clean + (1 - a) / math.sqrt(a) * score
        epsilon = 1 / math.sqrt(1 - a) * (IDENTITY - math.sqrt(a) * clean)
        step = math.sqrt(b) * clean + c2 * epsilon
        if adaptive:
            step = step + math.sqrt(a * b) * r2 * score
        law = law.then(step.matrix, step.offset, c1**2 * EYE)
    return law


def ddrm_law(sampler: Levelled, task: Task, c: float = 0.85, b: float = 1.0) -> Law:
    """Kawar et al. 2022, eq. 4, 7 and 8: coordinate by coordinate in the singular basis."""
    sigmas, eta = sampler.levels(), task.eta
    U, values, Vt = torch.linalg.svd(task.matrix)
    a = torch.cat([values, values.new_zeros(SIZE - len(values))])
    a[a < 1e-9] = 0
    measured = torch.cat([U.T @ task.y.flatten(), values.new_zeros(SIZE)])[:SIZE]
    level = [eta / float(v) if v > 0 else math.inf for v in a]
    z = [float(m / v) if v > 0 else 0.0 for m, v in zip(measured, a, strict=True)]
    mean = torch.tensor([z[i] if level[i] <= sigmas[0] else 0.0 for i in range(SIZE)], dtype=torch.float64)
    spread = [sigmas[0] ** 2 - level[i] ** 2 if level[i] <= sigmas[0] else sigmas[0] ** 2 for i in range(SIZE)]
    law = Law(mean, torch.diag(torch.tensor(spread, dtype=torch.float64)))  # in the singular basis
    for sigma, sigma_next in itertools.pairwise([*sigmas, 0.0]):
        J, offset = task.denoise(sigma)
        clean, keep = Affine(Vt @ J @ Vt.T, Vt @ offset), math.sqrt(1 - c**2) * sigma_next
        to_z, to_x, variance = [], [], []
        for i in range(SIZE):
            if a[i] == 0:
                weights = (0.0, keep / sigma, c**2 * sigma_next**2)
            elif sigma_next < level[i]:
                weights = (keep / level[i], 0.0, c**2 * sigma_next**2)
            else:
                weights = (b, 0.0, sigma_next**2 - b**2 * level[i] ** 2)
            for column, weight in zip((to_z, to_x, variance), weights, strict=True):
                column.append(weight)
        Z, X, spread_of_noise = (torch.diag(torch.tensor(q, dtype=torch.float64)) for q in (to_z, to_x, variance))
        step = clean.through(EYE - Z - X) + IDENTITY.through(X) + Z @ torch.tensor(z, dtype=torch.float64)
        law = law.then(step.matrix, step.offset, spread_of_noise)
    return law.then(Vt.T)


def travels(num: int, length: int, repeats: int) -> list[int]:
    """The times T - 1, .., 0, -1 of a walk that goes back ``length`` at 0, length, 2 length .., until T - length."""
    left, times, t = dict.fromkeys(range(0, num - length, length), repeats - 1), [], num
    while t > 0:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += length
            times.append(t)
    return [*times, -1]


def ddnm_law(sampler: Levelled, task: Task, c: float = 0.85, length: int = 1, repeats: int = 1) -> Law:
    """Wang et al. 2023, eq. 17 and 18 with the appendix' Lambda, for z = sqrt(alpha_bar) x; travel by the chain."""
    sigmas, eta = sampler.levels(), task.eta
    alpha_bar = [1 / (1 + s**2) for s in reversed(sigmas)]  # by time
    _, values, Vt = torch.linalg.svd(task.matrix)
    a = torch.cat([values, values.new_zeros(SIZE - len(values))])
    a[a < 1e-9] = 0
    pinv = torch.linalg.pinv(task.matrix, rtol=1e-9)
    law = start(sigmas[0]).then(EYE * math.sqrt(alpha_bar[-1]))
    for time, following in itertools.pairwise(travels(len(sigmas), length, repeats)):
        at, bar = alpha_bar[time], alpha_bar[following] if following >= 0 else 1.0
        if following > time:  # q(z_{t+l} | z_t)
            law = law.then(EYE * math.sqrt(bar / at), 0.0, (1 - bar / at) * EYE)
            continue
        J, offset = task.denoise(math.sqrt(1 / at - 1))
        clean = Affine(J / math.sqrt(at), offset)
        epsilon = 1 / math.sqrt(1 - at) * (IDENTITY - math.sqrt(at) * clean)
        root, std = math.sqrt(bar), math.sqrt(1 - bar)
        lam, with_epsilon, variance = [], [], []
        for v in a.tolist():
            noisy = v > 0 and eta > 0
            low = noisy and std < root * eta / v
            lam.append(v * std * math.sqrt(1 - c**2) / (root * eta) if low else 1.0)
            with_epsilon.append(0.0 if noisy else std * math.sqrt(1 - c**2))
            variance.append(std**2 - (root * eta / v) ** 2 if noisy and not low else c**2 * std**2)
        in_basis = [Vt.T @ torch.diag(torch.tensor(q, dtype=torch.float64)) @ Vt for q in (lam, with_epsilon, variance)]
        residual = clean.through(pinv @ task.matrix) + -pinv @ task.y.flatten()
        step = root * (clean - residual.through(in_basis[0])) + epsilon.through(in_basis[1])
        law = law.then(step.matrix, step.offset, in_basis[2])
    return law


def diffpir_law(sampler: Levelled, task: Task, strength: float = 1.0, zeta: float = 0.3) -> Law:
    """Zhu et al. 2023, algorithm 1, for z = sqrt(alpha_bar) x."""
    sigmas, A = sampler.levels(), task.matrix
    law = start(sigmas[0]).then(EYE / math.sqrt(1 + sigmas[0] ** 2))
    for sigma, a, b in bars(sigmas):
        J, offset = task.denoise(sigma)
        clean = Affine(J / math.sqrt(a), offset)
        if task.eta > 0:
            rho = strength * task.eta**2 / sigma**2
            inverse = torch.linalg.inv(A.T @ A + rho * EYE)
            clean = clean.through(rho * inverse) + inverse @ A.T @ task.y.flatten()
        else:
            pinv = torch.linalg.pinv(A, rtol=1e-9)
            clean = clean - clean.through(pinv @ A) + pinv @ task.y.flatten()
        epsilon = 1 / math.sqrt(1 - a) * (IDENTITY - math.sqrt(a) * clean)
        step = math.sqrt(b) * clean + math.sqrt((1 - b) * (1 - zeta)) * epsilon
        law = law.then(step.matrix, step.offset, zeta * (1 - b) * EYE)
    return law


def dps_path(task: Task, sigmas: list[float], script: Tensor, zeta: float, c: float = 1.0) -> Tensor:
    """Chung et al. 2023, algorithm 1, in x / sqrt(1 + s^2), one sample after the other; ``script [B, steps, d]``."""
    ends = []
    for draws in script:
        z = sigmas[0] / math.sqrt(1 + sigmas[0] ** 2) * draws[0]
        for k, (sigma, a, b) in enumerate(bars(sigmas)):
            J, offset = task.denoise(sigma)
            clean = J @ z / math.sqrt(a) + offset
            residual = task.y.flatten() - task.matrix @ clean
            gradient = -(J / math.sqrt(a)).T @ task.matrix.T @ residual / residual.norm()
            beta, beta_tilde = 1 - a / b, (1 - b) / (1 - a) * (1 - a / b)
            if c == 1:  # DDPM's own form
                mean = math.sqrt(b) * beta / (1 - a) * clean + math.sqrt(a / b) * (1 - b) / (1 - a) * z
            else:
                epsilon = (z - math.sqrt(a) * clean) / math.sqrt(1 - a)
                mean = math.sqrt(b) * clean + math.sqrt(1 - b - c**2 * beta_tilde) * epsilon
            noise = draws[k + 1] if k + 1 < len(sigmas) else 0 * z
            z = mean + c * math.sqrt(beta_tilde) * noise - zeta * gradient
        ends.append(z)
    return torch.stack(ends)


# ---------------------------------------------------------------------------------------------- First: the same law

LAWS: dict[str, Callable[..., Law]] = {
    "pigdm": pigdm_law,
    "ddrm": ddrm_law,
    "ddnm_plus": ddnm_law,
    "diffpir": diffpir_law,
}
# Settings of the sampler, and those of its law.
VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("pigdm", {}, {"c": 1.0}),
    ("pigdm", {"stochasticity": 0.0, "data_std": 0.5}, {"c": 0.0, "d": 0.5}),
    ("pigdm", {"stochasticity": 0.6, "adaptive_weight": True}, {"c": 0.6, "adaptive": True}),
    ("ddrm", {}, {}),
    ("ddrm", {"stochasticity": 0.4, "stochasticity_measured": 0.3}, {"c": 0.4, "b": 0.3}),
    ("ddnm_plus", {}, {}),
    ("ddnm_plus", {"stochasticity": 0.3}, {"c": 0.3}),
    ("ddnm_plus", {"travel_length": 3, "travel_repeats": 2}, {"length": 3, "repeats": 2}),
    ("diffpir", {}, {}),
    ("diffpir", {"strength": 4.0, "stochasticity": 0.0}, {"strength": 4.0, "zeta": 0.0}),
]
EACH_VARIANT = pytest.mark.parametrize(("name", "settings", "of_law"), VARIANTS)


def make(name: str, num: int = 10, low: float = 0.03, high: float = 10.0, **settings: Any) -> Levelled:
    return make_levelled(name, schedules.make("karras", num, sigma_min=low, sigma_max=high), **settings)


@EACH_OPERATOR
@EACH_VARIANT
def test_law_is_that_of_the_paper(name: str, settings: dict[str, Any], of_law: dict[str, Any], operator: str) -> None:
    sampler, task = make(name, **settings), make_task(operator)
    check_law(dissect(sampler, task), LAWS[name](sampler, task, **of_law))


@EACH_OPERATOR
@EACH_VARIANT
def test_law_of_exact_measurements(name: str, settings: dict[str, Any], of_law: dict[str, Any], operator: str) -> None:
    sampler, task = make(name, **settings), make_task(operator)._replace(noise=Exact())
    law = dissect(sampler, task)
    check_law(law, LAWS[name](sampler, task, **of_law))
    if name != "pigdm" and settings.get("stochasticity_measured", 1) == 1:  # all the samples fit y
        torch.testing.assert_close(task.matrix @ law.mean, task.y.flatten())
        assert float((task.matrix @ law.covariance @ task.matrix.T).abs().max()) < 1e-12


def dps_ends(sampler: Levelled, task: Task) -> tuple[Tensor, Tensor]:
    script = normal(4, sampler.num_steps, SIZE, seed=3)
    return run(sampler, task, Script(script.flatten(1)), 4), script


@pytest.mark.parametrize("c", [1.0, 0.5])
@EACH_OPERATOR
def test_dps_walks_as_in_the_paper(operator: str, c: float) -> None:
    sampler, task = make("dps", guidance=0.4, stochasticity=c), make_task(operator)
    ends, script = dps_ends(sampler, task)
    torch.testing.assert_close(ends, dps_path(task, sampler.levels(), script, 0.4, c), rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------------- Samplers with a small mistake


class Colder:
    """Draws that are too small by sqrt(2)."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.inner.normal(shape) / math.sqrt(2)

    def noise(self, k: int, x: Tensor) -> Tensor:
        return self.normal(x.shape[1:])


class HalfAsFar(Operator):
    """Half of another operator's pull toward y."""

    def __init__(self, inner: Operator) -> None:
        super().__init__(SHAPE)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self.inner.spectral(f, x)

    def pinv(self, y: Tensor) -> Tensor:
        return self.inner.pinv(y) / 2

    def proximal(self, z: Tensor, y: Tensor, eta: float, sigma: float, **settings: Any) -> Tensor:
        return (z + self.inner.proximal(z, y, eta, sigma)) / 2


def broken(mutation: str, sampler: Levelled, task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task with which the sampler makes a mistake."""
    if mutation == "sigma' for sigma":
        return task._replace(denoiser=NextLevel(task.denoiser, sampler.sigmas))
    if mutation == "eta^2 for eta":
        return task._replace(noise=GaussianNoise(ETA**2))
    if mutation == "half the guidance":
        return task._replace(operator=HalfAsFar(task.operator))
    made = type(sampler.sampler)
    for name in ("run", "begin"):
        honest = getattr(made, name)
        monkeypatch.setattr(
            made,
            name,
            lambda self, problem, *rest, honest=honest: honest(
                self, replace(problem, draws=Colder(problem.draws)), *rest
            ),
        )
    return task


MUTATIONS = ("sigma' for sigma", "eta^2 for eta", "half the guidance", "no sqrt(2)")


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", LAWS)
def test_a_wrong_sampler_has_another_law(name: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, task = make(name), make_task("super_resolution")
    expected = LAWS[name](sampler, task)
    must_fail(check_law, dissect(sampler, broken(mutation, sampler, task, monkeypatch)), expected)


@pytest.mark.parametrize(
    ("name", "function"), [("pigdm", "fresh_noise"), ("ddrm", "remaining"), ("ddnm_plus", "remaining")]
)
def test_variance_for_standard_deviation_is_another_law(
    name: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, task = make(name), make_task("super_resolution")
    right = getattr(steps, function)
    monkeypatch.setattr(steps, function, lambda *args: right(*args) ** 2 / 10)
    must_fail(check_law, dissect(sampler, task), LAWS[name](sampler, task))


def norm_over_the_batch(problem: Any, clean: Tensor) -> Tensor:
    """The mistake of the code released with DPS."""
    residual = problem.residual(clean)
    return -problem.operator.adjoint(residual) / residual.norm()


@pytest.mark.parametrize("mutation", ["sigma' for sigma", "no sqrt(2)", "norm over the batch", "half the guidance"])
def test_a_wrong_dps_walks_elsewhere(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, task = make("dps", guidance=0.4), make_task("super_resolution")
    expected = dps_path(task, sampler.levels(), dps_ends(sampler, task)[1], 0.4)
    if mutation == "norm over the batch":
        monkeypatch.setattr(dps, "residual_slope", norm_over_the_batch)
    elif mutation == "half the guidance":
        sampler = make("dps", guidance=0.2)
    else:
        task = broken(mutation, sampler, task, monkeypatch)
    ends, _ = dps_ends(sampler, task)
    must_fail(torch.testing.assert_close, ends, expected)


def test_a_norm_over_the_batch_depends_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    case = test_posterior.Case("dps", {"guidance": 0.1})
    test_posterior.test_a_measurement_alone_is_as_in_a_batch(case, "inpainting")
    monkeypatch.setattr(dps, "residual_slope", norm_over_the_batch)
    with pytest.raises(AssertionError):
        test_posterior.test_a_measurement_alone_is_as_in_a_batch(case, "inpainting")


# ------------------------------------------------------------------------------------- Second: where the laws go


def total(law: Law, basis: Tensor) -> float:
    """Variance of the law in these directions (rows) altogether."""
    return float((basis @ law.covariance @ basis.T).trace())


def directions(task: Task) -> tuple[Tensor, Tensor]:
    """Orthonormal directions that the measurement sees, and those that it does not."""
    basis, rank = torch.linalg.svd(task.matrix)[2], int(torch.linalg.matrix_rank(task.matrix))
    return basis[:rank], basis[rank:]


@pytest.mark.parametrize(("c", "high"), [(0.0, 1000.0), (1.0, 50.0)])
@EACH_OPERATOR
def test_pigdm_is_exact_for_the_prior_that_it_assumes(operator: str, c: float, high: float) -> None:
    task, d = make_task(operator, isotropic(0.5)), math.sqrt(0.5)
    laws = [pigdm_law(make("pigdm", n, 0.01, high), task, c, d) for n in (50, 100, 200)]
    check_convergence([error(law, task.posterior) for law in laws], last=0.1)


@EACH_OPERATOR
def test_pigdm_is_biased_for_another_prior(operator: str) -> None:
    """Also with d^2 = 0.7, the mean of the variances (from 0.2 to 1.2): by 0.08, 0.25 and 0.08 of a standard deviation
    or relative in variance, whatever the number of steps."""
    task, size = make_task(operator), {"super_resolution": 0.08, "inpainting": 0.25, "dense": 0.08}[operator]
    for n in (200, 400):
        law = pigdm_law(make("pigdm", n, 0.01, 50.0), task, d=math.sqrt(0.7))
        assert error(law, task.posterior) == pytest.approx(size, abs=0.02)


@EACH_OPERATOR
def test_the_adaptive_weight_of_pigdm_fits_the_noise(operator: str) -> None:
    """The more steps, the less spread is left where y says something: it goes to 0, and the mean to A x = y."""
    task = make_task(operator)
    laws = [pigdm_law(make("pigdm", n, 0.01, 50.0), task, adaptive=True) for n in (50, 100, 200)]
    spread = [total(law, task.matrix) / total(task.posterior, task.matrix) for law in laws]
    assert all(after < 0.65 * before for before, after in itertools.pairwise(spread)) and spread[-1] < 0.1
    torch.testing.assert_close(task.matrix @ laws[-1].mean, task.y.flatten(), rtol=0, atol=0.02)


@pytest.mark.parametrize(("strength", "zeta"), [(1.0, 0.9), (4.0, 0.75)])
@EACH_OPERATOR
def test_diffpir_goes_to_a_cold_posterior_with_tempered_noise(operator: str, strength: float, zeta: float) -> None:
    """Its mean is that for noise sqrt(lambda) eta; its covariance that times (1 + sqrt(1 - zeta)) / 2."""
    task = make_task(operator)
    tempered = make_task(operator, eta=ETA * math.sqrt(strength)).posterior
    target = Law(tempered.mean, (1 + math.sqrt(1 - zeta)) / 2 * tempered.covariance)
    laws = [diffpir_law(make("diffpir", n, 0.01, 50.0), task, strength, zeta) for n in (50, 100, 200, 400)]
    check_convergence([error(law, target) for law in laws], last=0.1, order=0.8)
    assert error(laws[-1], task.posterior) > 0.2


@pytest.mark.parametrize("c", [0.0, 0.85, 1.0])
@EACH_OPERATOR
def test_ddrm_loses_spread_where_nothing_is_measured(operator: str, c: float) -> None:
    """Down to (1 + sqrt(1 - c^2)) / 2 of the variance: 0.76 for its usual c."""
    task = make_task(operator, isotropic(0.5))
    unseen, limit = directions(task)[1], (1 + math.sqrt(1 - c**2)) / 2
    laws = [ddrm_law(make("ddrm", n, 0.01, 50.0), task, c) for n in (100, 400)]
    few, many = (abs(total(law, unseen) / total(task.posterior, unseen) - limit) for law in laws)
    assert many < 0.4 * few and many < 0.02


@EACH_OPERATOR
def test_ddrm_goes_to_the_pseudoinverse_where_something_is_measured(operator: str) -> None:
    """The more steps, the nearer to z = A^+ y, with the noise in it, and the less spread."""
    task = make_task(operator, isotropic(0.5))
    seen, z = directions(task)[0], torch.linalg.pinv(task.matrix, rtol=1e-9) @ task.y.flatten()
    laws = [ddrm_law(make("ddrm", n, 0.01, 50.0), task) for n in (25, 100, 400)]
    distance = [float((seen @ (law.mean - z)).norm()) for law in laws]
    spread = [total(law, seen) / total(task.posterior, seen) for law in laws]
    assert all(after < 0.65 * before for q in (distance, spread) for before, after in itertools.pairwise(q))
    assert spread[-1] < 0.06 and distance[-1] < 0.5 * float((seen @ (task.posterior.mean - z)).norm())


@EACH_OPERATOR
def test_ddnm_plus_is_ddrm(operator: str) -> None:
    """With noisy measurements and b = 1, up to the start, which a prior without correlations forgets at once."""
    task = make_task(operator, isotropic(0.5))
    for c in (0.0, 0.85):
        check_law(dissect(make("ddnm_plus", stochasticity=c), task), dissect(make("ddrm", stochasticity=c), task))


@pytest.mark.parametrize("zeta", [0.1, 0.4])
def test_dps_misses_the_measurement_by_its_last_step_whatever_the_noise(zeta: float) -> None:
    """For a mask a step of guidance changes ``q = ||y - A x||`` to ``|zeta - q|``, back and forth in the end: its root
    mean square is between zeta / 2 and zeta / sqrt(2). With the exact posterior it is 2.1 eta here."""
    task = make_task("inpainting")
    sampler = make("dps", 100, 0.01, 20.0, guidance=zeta)
    x = sampled(sampler, task, 200)[0]
    misfit = float((task.y.flatten() - x @ task.matrix.T).square().sum(1).mean().sqrt())
    assert zeta / 2 < misfit < zeta / math.sqrt(2)
    assert torch.equal(x, sampled(sampler, task._replace(noise=GaussianNoise(ETA / 10)), 200)[0])


# ---------------------------------------------------------------------------------------------------------- The rest


def test_slope_of_a_nonlinear_operator() -> None:
    clean, y = normal(3, *SHAPE, seed=1), normal(3, *SHAPE, seed=2)
    y[2] = clean[2] ** 2  # fits
    task = make_task("inpainting")
    problem = problem_of(task._replace(operator=Square(SHAPE)), y, Script(y))
    residual = y - clean**2
    norms = residual.flatten(1).norm(dim=1).clamp_min(1e-300).reshape(3, 1, 1, 1)
    torch.testing.assert_close(dps.residual_slope(problem, clean), -2 * clean * residual / norms)


def test_path_of_the_travel() -> None:
    """Six levels, back by two at the fourth and at the last one."""
    path = DDNMPlus(travel_length=2, travel_repeats=2).path(6)
    assert path == [(0, 1), (1, 2), (2, 1), (1, 2), (2, 3), (3, 4), (4, 3), (3, 4), (4, 5), (5, 6)]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dps", {"guidance": -1.0}, "guidance: found -1.0; allowed: a number of at least 0"),
        ("dps", {"stochasticity": 2.0}, "stochasticity: found 2.0; allowed: a number of at least 0 and at most 1"),
        ("pigdm", {"data_std": 0.0}, "data_std: found 0.0; allowed: a number above 0"),
        (
            "ddrm",
            {"stochasticity_measured": 1.5},
            "stochasticity_measured: found 1.5; allowed: ",
        ),
        ("ddnm_plus", {"travel_repeats": 0}, "travel_repeats: found 0; allowed: a whole number of at least 1"),
        ("diffpir", {"strength": 0.0}, "strength: found 0.0; allowed: a number above 0"),
    ],
)
def test_impossible_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name, **settings)


@pytest.mark.parametrize("name", ["ddrm", "ddnm_plus"])
def test_small_singular_values_of_exact_measurements_count(name: str) -> None:
    """A singular value of 3e-3 is seen, and A x = y in the end; a column of zeros is not."""
    matrix = torch.diag(torch.tensor([1.0, 0.3, 3e-3, 0.0], dtype=torch.float64))[:3]
    operator = operators.Dense((1, 1, 4), matrix)
    y = torch.tensor([[0.5, -0.2, 4e-3]], dtype=torch.float64)
    prior = GaussianMixture([1.0], torch.zeros(1, 1, 1, 4, dtype=torch.float64), 0.5)
    draws = TorchDraws(1, torch.Generator().manual_seed(0), dtype=torch.float64)
    x = samplers.make(name).sample(prior, [10.0, 1.0, 0.1], Measurement(operator, NoNoise(), y), draws=draws)
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2])
def test_singular_values_count_by_their_share_of_the_largest(size: float) -> None:
    matrix = size * torch.diag(torch.tensor([1.0, 2e-4, 5e-5, 0.0], dtype=torch.float64))
    measured = steps.seen(operators.Dense((1, 1, 4), matrix))
    assert measured(matrix.diagonal() ** 2).tolist() == [True, True, False, False]
