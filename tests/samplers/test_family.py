"""Plug-and-play methods as settings of the walk, against the library deepinv's own runs of them.

deepinv's physics, proximal maps and loops are its own; only the denoiser is ours. Everything is in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from operator_cases import normal, random_kernel
from torch import Tensor

from randomwalk import GaussianNoise, Measurement, operators, samplers
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.operators import Operator
from randomwalk.operators.deepinv_adapter import from_deepinv
from randomwalk.rng import StepNoise
from randomwalk.samplers.posterior.steps import SingularStep
from randomwalk.samplers.walk import PreconditionedStep

SHAPE = (1, 8, 8)
ETA = 0.05
OPERATORS = ["inpainting", "blur"]


class Bounded(Denoiser):
    """A denoiser that is not linear, with values in [-1, 1], to which deepinv's DiffPIR clips."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return torch.tanh((x + 0.3 * x.roll(1, -1)) / (1 + sigma**2))

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return (self(x, sigma) - x) / sigma**2


def unit_range(x: Tensor, sigma: Tensor | float) -> Tensor:
    """The denoiser in deepinv's units, pixels and sigma on the scale of [0, 1]."""
    denoised: Tensor = Bounded()(2 * x - 1, 2 * float(sigma))
    return (denoised + 1) / 2


def problem(name: str) -> tuple[Any, Measurement, Tensor]:
    """deepinv's physics; our measurement; and its y in deepinv's units."""
    physics = pytest.importorskip("deepinv.physics")
    operator: Operator
    if name == "inpainting":
        mask = (normal(8, 8, seed=3) > 0).double()
        theirs = physics.Inpainting(SHAPE, mask=mask[None])
        operator = operators.Inpainting(SHAPE, mask)
    else:
        kernel = random_kernel(3, 3)
        theirs = physics.BlurFFT(SHAPE, (kernel / kernel.sum())[None, None])
        operator = from_deepinv(theirs, SHAPE)
    y = operator(0.5 * normal(1, *SHAPE, seed=4)) + ETA * normal(1, *SHAPE, seed=5)
    return theirs, Measurement(operator, GaussianNoise(ETA), y), (y + operator(torch.ones(1, *SHAPE).double())) / 2


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("ratio", [0.65, 0.8])
@pytest.mark.parametrize("name", OPERATORS)
def test_half_quadratic_splitting_is_that_of_deepinv(name: str, ratio: float) -> None:
    """DPIR (Zhang et al. 2021): deepinv weighs a step by the level p of the denoising that follows it, we by s.

    Hence ``lambda = 0.23 (s / p)^2``, the form of our automatic weight, and one denoising more at the end.
    """
    optim = pytest.importorskip("deepinv.optim")
    physics, given, y = problem(name)
    levels = [ratio**k for k in range(9)]
    gammas = [(sigma / ETA) ** 2 / 0.23 for sigma in levels]
    method = optim.HQS(
        prior=optim.prior.PnP(unit_range),
        data_fidelity=optim.data_fidelity.L2(),
        stepsize=gammas,
        sigma_denoiser=[sigma / 2 for sigma in levels],
        max_iter=len(levels),
        early_stop=False,
    )
    with torch.no_grad():
        expected = 2 * method(y, physics) - 1
    walk = samplers.make(
        "random_walk",
        step_scale=1.0,
        preconditioned=True,
        prior_weight=0.23 / ratio**2,
        kappa=0.0,
        last_denoised=ratio == 0.65,  # as far below its last level as the walk denoises once more
    )
    start = given.operator.proximal(2 * physics.A_adjoint(y) - 1, given.y, ETA, levels[0] / 0.23**0.5)
    found = walk.sample(Bounded(), levels[:-1], given, start=start)
    found = found if ratio == 0.65 else Bounded()(found, levels[-1])
    assert difference(found, expected) < 1e-6
    wrong = walk.model_copy(update={"prior_weight": 0.23}).sample(Bounded(), levels[:-1], given, start=start)
    assert difference(wrong, expected) > 1e-3


def draws() -> Iterator[Tensor]:
    yield from normal(20, 1, *SHAPE, seed=6)


@pytest.mark.parametrize("zeta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_diffpir_is_that_of_deepinv(name: str, zeta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At deepinv's own levels, with the same draws. Three things differ there:

    * its lambda is twice that of the paper, as the noise is on the scale of [0, 1] and the level on that of [-1, 1];
    * it ends with a state that is not denoised, at a level of 0.01 where we go to 0;
    * its levels are among 1000, in single precision, which makes the difference of 1e-7 that is left.
    """
    sampling, fidelity = pytest.importorskip("deepinv.sampling"), pytest.importorskip("deepinv.optim.data_fidelity")
    physics, given, y = problem(name)
    method = sampling.DiffPIR(unit_range, fidelity.L2(), sigma=ETA / 2, max_iter=12, zeta=zeta, lambda_=6.0)
    theirs = draws()
    monkeypatch.setattr(torch, "randn_like", lambda x: next(theirs))
    expected = (2 * method(y, physics, x_init=(normal(1, *SHAPE, seed=7) + 1) / 2) - 1) / float(
        method.sqrt_alphas_cumprod[0]
    )

    levels, ours, states = method.sigmas[method.seq.long()].double(), draws(), []
    start = normal(1, *SHAPE, seed=7) + (levels[0] ** 2 - ETA**2).sqrt() * next(ours)
    sampler = samplers.make("diffpir", strength=6.0 / 2, stochasticity=zeta)

    def step(k: int, x: Tensor) -> Tensor:
        return next(ours)

    sampler.sample(
        Bounded(), levels, given, start=start, draws=StepNoise(step), callback=lambda k, x, s: states.append(x)
    )
    assert difference(states[-2], expected) < 1e-6
    assert difference(states[-1], expected) > 1e-3


@pytest.mark.parametrize("name", ["diffpir", "ddrm", "ddnm_plus"])
def test_where_nothing_is_measured_the_three_take_the_same_step(name: str) -> None:
    """``c = 1 - sqrt(1 - zeta) p / s`` and noise ``sqrt(zeta) p``; the walk's kappa = 1 leaves as much for that c."""
    levels, zeta = [2.0, 1.2, 0.9], 0.3
    given = Measurement(operators.Inpainting(SHAPE, torch.zeros(8, 8)), GaussianNoise(ETA), torch.zeros(1, *SHAPE))
    share = {"stochasticity": zeta if name == "diffpir" else math.sqrt(zeta)}
    plan = samplers.make(name, **share).plan(levels, given)
    assert plan is not None
    x, score, n = (normal(1, *SHAPE, seed=seed) for seed in range(3))
    for s, p, step, temperature in zip(levels, [*levels[1:], 0.0], plan.step_sizes, plan.temperatures, strict=True):
        assert isinstance(step, PreconditionedStep | SingularStep)
        denoised = x + s**2 * score
        expected = denoised + math.sqrt(1 - zeta) * p / s * (x - denoised) + math.sqrt(zeta) * p * n
        torch.testing.assert_close(step.move(x, score, given, temperature, lambda like: n), expected)
        assert step.scale * s**2 == pytest.approx(s**2 - math.sqrt(1 - zeta) * p * s)
        assert 2 * temperature / step.prior_weight * step.scale * s**2 == pytest.approx(zeta * p**2)
        walk = samplers.make("random_walk", step_scale=step.scale, preconditioned=True, kappa=1.0)
        if p > 0:
            first = walk.plan([s, p], given)
            assert first.temperatures[0] == pytest.approx(temperature / step.prior_weight)


def test_travel_is_part_of_the_temperature() -> None:
    """By `travel` the state is as noisy as at the level to which it goes back."""
    given = Measurement(operators.Inpainting(SHAPE, torch.zeros(8, 8)), GaussianNoise(ETA), torch.zeros(1, *SHAPE))
    sampler = samplers.make("ddnm_plus", stochasticity=1.0, travel_length=2, travel_repeats=2)
    plan = sampler.plan([2.0, 1.2, 0.9, 0.5], given)
    assert plan is not None
    steps = [step for step in plan.step_sizes if isinstance(step, SingularStep)]
    back = [2 * t * step.scale * step.sigma**2 for step, t in zip(steps, plan.temperatures, strict=True)]
    assert plan.sigmas == [2.0, 1.2, 0.9, 1.2, 0.9, 0.5]
    assert back == pytest.approx([1.2**2, 0.9**2, 1.2**2, 0.9**2, 0.5**2, 0.0])
