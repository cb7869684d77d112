"""Checks that every sampler of the posterior must pass: a table of all of them, one line each.

Whether a sampler has the right distribution is tested in the files beside this one, by its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from posterior_tools import Forward, Levelled, Square, make_levelled, normal
from torch import Tensor

from randomwalk import GaussianMixture, InputError, RunError, operators, samplers
from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, Noise
from randomwalk.rng import ImageDraws, generator, measurement_stream
from randomwalk.samplers import SAMPLERS, schedules

LEVELS = 5
SHAPE = (2, 4, 4)
OPERATORS: dict[str, dict[str, Any]] = {"super_resolution": {"factor": 2}, "inpainting": {"missing": 0.5}}


@dataclass(frozen=True)
class Case:
    """Settings, and what the docstring says that they cost on n levels."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    evaluations: Callable[[int], int] = lambda n: n
    vjps: Callable[[int], int] = lambda n: 0


# One line for each sampler, or for each of its ways to work.
CASES = [
    Case("random_walk", {"step_scale": 0.7, "initial_temperature": 0.1, "preconditioned": True}),
    Case("random_walk", {"step_scale": 0.1, "initial_temperature": 0.1}),
    Case("dps", {"guidance": 0.1}, vjps=lambda n: n),
    Case("pigdm", {}, vjps=lambda n: n),
    Case("pigdm", {"adaptive_weight": True}, vjps=lambda n: n),
    Case("ddrm"),
    Case("ddnm_plus"),
    # The last 1, 2, .. n - 2 levels but one are each arrived at twice, and two steps are walked again each time.
    Case("ddnm_plus", {"travel_length": 2, "travel_repeats": 2}, evaluations=lambda n: n + 2 * len(range(0, n - 2, 2))),
    Case("diffpir"),
    # At the lowest level there is nowhere to go but to the clean image: one evaluation.
    Case("daps", {"ode_steps": 3}, evaluations=lambda n: 3 * (n - 1) + 1),
    Case("split_gibbs", {"prior_steps": 3}, evaluations=lambda n: 3 * (n - 1) + 1),
    Case("mmps", {"iterations": 2}, vjps=lambda n: 3 * n),
    Case("tds", vjps=lambda n: n - 1),
    Case("tweedie_smc", {}, evaluations=lambda n: n + 1, vjps=lambda n: 4 * (n + 1)),
    Case("tweedie_smc", {"weighted": False}, evaluations=lambda n: n + 1, vjps=lambda n: 4 * (n + 1)),
    # Two images with 8 pixels each, 14 together, in two channels.
    Case("tweedie_smc", {"max_rank": 64}, evaluations=lambda n: n + 1, vjps=lambda n: (28 + 2 + 1) * (n + 1)),
]
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.name, *case.settings]))
GENERAL = [name for name in POSTERIOR_NAMES if name != "posterior_mean"]
"""Samplers for more than denoising, and with levels."""
EACH_NAME = pytest.mark.parametrize("name", GENERAL)


def make(case: Case) -> Levelled:
    sigmas = schedules.make("karras", LEVELS, sigma_min=0.1, sigma_max=3.0)
    return make_levelled(case.name, sigmas, **case.settings)


def prior(dtype: torch.dtype = torch.float64) -> GaussianMixture:
    means = normal(3, *SHAPE, seed=1).to(dtype)
    return GaussianMixture([0.2, 0.5, 0.3], means, torch.tensor([0.1, 0.2, 0.4], dtype=dtype))


class Inputs(NamedTuple):
    """Measurements of some images, each image with its own mask, and its own random numbers."""

    operator: Operator
    y: Tensor
    draws: ImageDraws


def inputs(
    name: str, images: list[int], samples: list[int], dtype: torch.dtype = torch.float64, seed: int = 0
) -> Inputs:
    masks = [measurement_stream(3, image) for image in images]
    operator = operators.make(name, image_shape=SHAPE, generators=masks, **OPERATORS[name])
    clean = torch.stack([normal(*SHAPE, seed=10 + image) for image in images]).to(dtype)
    draws = ImageDraws([generator(seed, image, sample) for image in images for sample in samples])
    return Inputs(operator, operator(clean), draws)


def sample(
    sampler: Levelled, given: Inputs, num_samples: int, denoiser: Denoiser | None = None, callback: Any = None
) -> Tensor:
    measurement = Measurement(given.operator, GaussianNoise(0.2), given.y)
    return sampler.sample(denoiser or prior(given.y.dtype), measurement, num_samples, given.draws, callback)


def test_table_holds_every_sampler() -> None:
    assert {case.name for case in CASES} == set(GENERAL)
    assert {name for name, made in SAMPLERS.items() if made.needs.measurement != "none"} == set(POSTERIOR_NAMES)


@pytest.mark.parametrize("name", OPERATORS)
@EACH_CASE
def test_a_measurement_alone_is_as_in_a_batch(case: Case, name: str) -> None:
    sampler, together = make(case), sample(make(case), inputs(name, [0, 1, 2], [0, 1, 2]), 3)
    assert together.shape == (3, 3, *SHAPE)
    for image in range(3):
        torch.testing.assert_close(sample(sampler, inputs(name, [image], [0, 1, 2]), 3)[0], together[image])
        if not sampler.coupled_samples:
            for k in range(3):
                torch.testing.assert_close(sample(sampler, inputs(name, [image], [k]), 1)[0, 0], together[image, k])


@EACH_CASE
def test_order_of_the_images_does_not_matter(case: Case) -> None:
    ordered = sample(make(case), inputs("inpainting", [0, 1, 2], [0, 1]), 2)
    permuted = sample(make(case), inputs("inpainting", [2, 0, 1], [0, 1]), 2)
    torch.testing.assert_close(permuted, ordered[[2, 0, 1]])


@EACH_CASE
def test_the_draws_alone_decide(case: Case) -> None:
    torch.manual_seed(1)
    first = sample(make(case), inputs("inpainting", [0], [0, 1]), 2)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(sample(make(case), inputs("inpainting", [0], [0, 1]), 2), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    other = sample(make(case), inputs("inpainting", [0], [0, 1], seed=1), 2)
    assert (other - first).abs().amax((2, 3, 4)).min() > 1e-3
    if not make(case).coupled_samples:
        assert (first[0, 0] - first[0, 1]).abs().max() > 1e-3


@EACH_CASE
def test_cost_is_as_documented(case: Case) -> None:
    denoiser = CountingDenoiser(prior())
    sample(make(case), inputs("inpainting", [0, 1], [0, 1]), 2, denoiser)
    assert (denoiser.evaluations, denoiser.vjps) == (case.evaluations(LEVELS), case.vjps(LEVELS))
    assert make(case).sampler.needs.gradient == (denoiser.vjps > 0)


@EACH_CASE
def test_callback_is_called_after_each_step(case: Case) -> None:
    calls: list[tuple[int, Tensor, float]] = []
    sampler, given = make(case), inputs("inpainting", [0, 1], [0, 1])
    out = sample(sampler, given, 2, callback=lambda k, x, sigma: calls.append((k, x.clone(), sigma)))
    assert [k for k, _, _ in calls] == list(range(sampler.num_steps))
    assert {sigma for _, _, sigma in calls} <= set(sampler.levels())
    assert all(x.shape == (4, *SHAPE) for _, x, _ in calls)
    last = calls[-1][1].reshape(out.shape)
    for image in range(2):
        for k in range(2):
            candidates = (
                last[image] if sampler.coupled_samples else last[image, k : k + 1]
            )  # particles are resampled at the end
            assert any(torch.equal(out[image, k], x) for x in candidates)


@EACH_CASE
def test_single_precision_stays_single(case: Case) -> None:
    given = inputs("super_resolution", [0, 1], [0, 1], torch.float32)
    before = given.y.clone()
    out = sample(make(case), given, 2)
    assert out.dtype == torch.float32 and not out.requires_grad
    assert torch.equal(given.y, before)
    double = sample(make(case), inputs("super_resolution", [0, 1], [0, 1]), 2)
    assert (out - double).abs().max() < 1e-3


@EACH_CASE
def test_a_state_that_is_not_finite_stops_the_run(case: Case) -> None:
    given = inputs("inpainting", [0], [0])
    given.y[0, 0] = float("nan")
    with pytest.raises(RunError, match="not finite"):
        sample(make(case), given, 1)


REQUIRED: dict[str, dict[str, Any]] = {"random_walk": {"step_scale": 0.5}}
"""Settings without a default."""


class Unknown(Noise):
    """A kind of noise that no sampler knows."""

    name = "unheard-of"
    std = 0.1


@EACH_NAME
def test_refusals(name: str) -> None:
    sigmas, shape, settings = [1.0, 0.1], (1, 2, 4), REQUIRED.get(name, {})
    sampler, noise, y = samplers.make(name, **settings), GaussianNoise(0.2), torch.zeros(1, 1)
    matrix = Forward(normal(3, 8, seed=2))
    if sampler.needs.measurement == "required":
        with pytest.raises(InputError, match="needs a measurement"):
            sampler.sample(prior(), sigmas, shape=(1, *SHAPE))
    if sampler.needs.linear:
        with pytest.raises(InputError, match="Square is not linear"):
            sampler.check(Measurement(Square(shape), noise, y))
    if sampler.needs.spectral:
        with pytest.raises(InputError, match="needs the spectral decomposition of the operator, which Forward"):
            sampler.check(Measurement(matrix, noise, y))
    if sampler.needs.noise:
        with pytest.raises(InputError, match=r"noise 'unheard-of'; it supports .*gaussian"):
            operator = matrix if not sampler.needs.spectral else operators.Identity(shape)
            sampler.check(Measurement(operator, Unknown(), y))
    with pytest.raises(InputError, match=rf"sampler {name}: nonsense: unknown key; .*known with name: {name}: "):
        samplers.make(name, **settings, nonsense=1)
    identity = Measurement(operators.Identity(shape), noise, torch.zeros(1, *shape))
    for bad in ([0.1, 1.0], [1.0, 0.0], [], [[1.0]]):
        with pytest.raises(InputError, match="positive and decreasing"):
            sampler.sample(prior(), bad, identity)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="unknown; expected one of random_walk"):
        samplers.make("nonsense")
