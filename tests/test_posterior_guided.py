"""DPS, PiGDM, DDRM, DDNM+ and DiffPIR: the algorithms of the papers, and what they do to a Gaussian posterior.

First, each sampler has the law of its paper's algorithm on a Gaussian prior, written out here once more in the paper's
own coordinates and with dense matrices; samplers with a small mistake do not. Second, that law goes where the docstring
says as the steps grow many: none of these samplers is exact in general, and each bias is a number that is checked.
"""

from __future__ import annotations

import functools
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
    PRIOR,
    SHAPE,
    SIZE,
    Forward,
    Law,
    NextLevel,
    Script,
    Square,
    Task,
    check_convergence,
    check_law,
    dissect,
    error,
    isotropic,
    make_task,
    must_fail,
    normal,
    run,
    sampled,
    start,
)
from torch import Tensor

from randomwalk import InputError, posterior, schedules
from randomwalk.noise import GaussianNoise, Noise
from randomwalk.operators import Operator
from randomwalk.posterior import PosteriorSampler, ddnm_plus, ddrm, dps, steps


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
    gain = A.T @ torch.linalg.pinv(variance * A @ A.T + task.eta**2 * torch.eye(len(A), dtype=A.dtype), rtol=1e-10)
    return (-1 * clean.through(gain @ A)) + gain @ task.y.flatten()


# ------------------------------------------------------------------------------- The algorithms as they were published


def pigdm_law(sampler: PosteriorSampler, task: Task, c: float = 1.0, d: float = 1.0, adaptive: bool = False) -> Law:
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


def ddrm_law(sampler: PosteriorSampler, task: Task, c: float = 0.85, b: float = 1.0) -> Law:
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
        clean, rows, shift, variances = Affine(Vt @ J @ Vt.T, Vt @ offset), [], [], []
        for i in range(SIZE):
            own, here = Affine(clean.matrix[i], clean.offset[i]), Affine(EYE[i], torch.zeros((), dtype=torch.float64))
            given, keep = Affine(0 * EYE[i], torch.tensor(z[i], dtype=torch.float64)), math.sqrt(1 - c**2)
            variance = c**2 * sigma_next**2
            if a[i] == 0:
                new = own + keep * sigma_next / sigma * (here - own)
            elif sigma_next < level[i]:
                new = own + keep * sigma_next / level[i] * (given - own)
            else:
                new = (1 - b) * own + b * given
                variance = sigma_next**2 - b**2 * level[i] ** 2
            rows.append(new.matrix)
            shift.append(new.offset)
            variances.append(variance)
        law = law.then(torch.stack(rows), torch.stack(shift), torch.diag(torch.tensor(variances, dtype=torch.float64)))
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


def ddnm_law(sampler: PosteriorSampler, task: Task, c: float = 0.85, length: int = 1, repeats: int = 1) -> Law:
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


def diffpir_law(sampler: PosteriorSampler, task: Task, strength: float = 1.0, zeta: float = 0.3) -> Law:
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


def make(name: str, num: int = 10, low: float = 0.03, high: float = 10.0, **settings: Any) -> PosteriorSampler:
    return posterior.make(name, schedules.make("karras", num, sigma_min=low, sigma_max=high), **settings)


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


def dps_ends(sampler: PosteriorSampler, task: Task) -> tuple[Tensor, Tensor]:
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

    def proximal(self, z: Tensor, y: Tensor, eta: float, sigma: float) -> Tensor:
        return (z + self.inner.proximal(z, y, eta, sigma)) / 2


def broken(mutation: str, sampler: PosteriorSampler, task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task with which the sampler makes a mistake."""
    if mutation == "sigma' for sigma":
        return task._replace(denoiser=NextLevel(task.denoiser, sampler.sigmas))
    if mutation == "eta^2 for eta":
        return task._replace(noise=GaussianNoise(ETA**2))
    if mutation == "half the guidance":
        return task._replace(operator=HalfAsFar(task.operator))
    honest = sampler.run
    monkeypatch.setattr(
        type(sampler),
        "run",
        lambda self, problem, callback: honest(replace(problem, draws=Colder(problem.draws)), callback),
    )
    return task


MUTATIONS = ("sigma' for sigma", "eta^2 for eta", "half the guidance", "no sqrt(2)")


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", LAWS)
def test_a_wrong_sampler_has_another_law(name: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, task = make(name), make_task("super_resolution")
    expected = LAWS[name](sampler, task)
    must_fail(check_law, dissect(sampler, broken(mutation, sampler, task, monkeypatch)), expected)


@pytest.mark.parametrize("module", [steps, ddrm, ddnm_plus], ids=["pigdm", "ddrm", "ddnm_plus"])
def test_variance_for_standard_deviation_is_another_law(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {steps: "pigdm"}.get(module, module.__name__.split(".")[-1])
    sampler, task = make(name), make_task("super_resolution")
    function = "fresh_noise" if module is steps else "remaining"
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args: right(*args) ** 2 / 10)
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
