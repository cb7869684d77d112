"""The exact sampler: exact on a Gaussian prior with any number of levels; on a mixture its weights make it so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from posterior_tools import (
    EACH_OPERATOR,
    ETA,
    SHAPE,
    SIZE,
    Forward,
    Law,
    Levelled,
    NextLevel,
    Task,
    check_draws,
    isotropic,
    make_task,
    must_fail,
    normal,
    problem_of,
    sampled,
)
from torch import Tensor
from torch.distributions import MultivariateNormal

from randomwalk import Denoiser, GaussianMixture, InputError, operators
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Problem, schedules
from randomwalk.samplers.posterior.moments import ImplicitMoments, Moments, measured_directions, moments
from randomwalk.samplers.posterior.tweedie_smc import TweedieSMC

FEW = [1e4, 2.0, 0.3, 1e-5]


def sampler(levels: Any = FEW, **settings: Any) -> Levelled:
    return Levelled(TweedieSMC(**settings), levels)


def problem(task: Task, num: int, groups: int = 1, seed: int = 3, levels: Sequence[float] = (1.0,)) -> Problem:
    draws = TorchDraws(groups * num, torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = task.y.expand(groups * num, *task.y.shape[1:])
    return problem_of(task, y, draws, num, levels)


def weighted(made: Levelled, task: Task, num: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Particles ``[groups, num, d]`` and log weights ``[groups, num]``."""
    given, smc = problem(task, num, groups, levels=made.levels()), made.sampler
    assert isinstance(smc, TweedieSMC)
    with torch.no_grad():
        x, log_weights = smc.particles(given, smc.begin(given), lambda k, x, sigma: None)
    return x.reshape(groups, num, -1), log_weights


def full(task: Task) -> int:
    """Number of probes that makes the covariance exact."""
    return SIZE - int(torch.linalg.matrix_rank(task.matrix))


def log_evidence(task: Task) -> float:
    A = task.matrix
    spread = A @ task.prior.covariance @ A.T + task.eta**2 * torch.eye(len(A), dtype=torch.float64)
    return float(MultivariateNormal(A @ task.prior.mean, spread).log_prob(task.y.flatten()))


# ------------------------------------------------------------------------------------------------- A Gaussian prior


@EACH_OPERATOR
def test_moments_are_those_of_x_given_its_noisy_version(operator: str) -> None:
    task = make_task(operator)
    x, sigma = 2 * normal(3, *SHAPE, seed=4), 0.7
    J, b = task.denoise(sigma)
    C = sigma**2 * J
    for probes in (0, 1, full(task)):
        given = problem(task, 3)
        found = moments(given, x, sigma, measured_directions(given.operator, given.measurement.y), probes)
        mean = x.flatten(1) @ J.T + b
        torch.testing.assert_close(found.mean, mean)
        torch.testing.assert_close(found.seen @ found.seen.mT, (task.matrix @ C @ task.matrix.T).expand(3, -1, -1))
        spread = task.matrix @ C @ task.matrix.T + task.eta**2 * torch.eye(len(task.matrix), dtype=torch.float64)
        exact = MultivariateNormal(mean @ task.matrix.T, spread).log_prob(given.measurement.y.flatten(1))
        constant = len(task.matrix) / 2 * math.log(2 * math.pi)
        torch.testing.assert_close(found.log_evidence(task.eta), exact + constant)
        factor = found.inner.mT @ found.basis
        below = C - factor.mT @ factor  # never larger than C
        assert float(torch.linalg.eigvalsh(below).min()) > -1e-9
        if probes == full(task):
            torch.testing.assert_close(factor.mT @ factor, C.expand(3, -1, -1))


@EACH_OPERATOR
def test_four_levels_are_exact_on_a_gaussian(operator: str) -> None:
    """Every kernel is the true one: all weights are p(y), whatever was drawn, and the draws need none."""
    task = make_task(operator)
    made = sampler(probes=full(task))
    _, log_weights = weighted(made, task, 50)
    torch.testing.assert_close(log_weights, torch.full_like(log_weights, log_evidence(task)), rtol=0, atol=1e-4)
    check_draws(sampled(sampler(probes=full(task), weighted=False), task, 8000), task.posterior)


def test_mistakes_show_on_a_gaussian() -> None:
    task = make_task("super_resolution")
    unweighted = sampler(probes=full(task), weighted=False)
    for wrong in (
        task._replace(denoiser=NextLevel(task.denoiser, torch.tensor(FEW, dtype=torch.float64))),
        task._replace(noise=GaussianNoise(task.eta / 2)),
        task._replace(y=-task.y),
    ):
        must_fail(check_draws, sampled(unweighted, wrong, 8000), task.posterior)


def test_many_numbers_are_exact_on_white_images() -> None:
    """There conjugate gradients with as many iterations as eigenvalues and the one number c are exact."""
    task = make_task("inpainting", prior=isotropic(0.25))
    made = sampler(max_rank=0, iterations=2, data_std=0.5)
    _, log_weights = weighted(made, task, 50)
    assert float(log_weights.std()) < 1e-4
    check_draws(sampled(sampler(max_rank=0, iterations=2, data_std=0.5, weighted=False), task, 8000), task.posterior)
    wrong = sampler(max_rank=0, iterations=2, data_std=1.0, weighted=False)
    must_fail(check_draws, sampled(wrong, task, 8000), task.posterior)


# -------------------------------------------------------------------------------------------------------- A mixture


def levels(num: int = 20) -> Tensor:
    return schedules.make("karras", num, sigma_min=0.03, sigma_max=30.0)


def mixture() -> tuple[Task, GaussianMixture]:
    """Two components far apart, of which y alone does not choose one."""
    direction = normal(*SHAPE, seed=6)
    means = torch.stack([3 * direction / direction.norm(), -3 * direction / direction.norm()])
    prior = GaussianMixture([0.3, 0.7], means, torch.tensor([0.1, 0.3], dtype=torch.float64))
    operator = Forward(normal(2, SIZE, seed=7) / 3)
    y = torch.tensor([[0.25, -0.4]], dtype=torch.float64)
    exact = prior.posterior(operator, y, 0.5)
    nothing = Law(torch.zeros(SIZE), torch.eye(SIZE))
    return Task(prior, operator, GaussianNoise(0.5), y, nothing, operator.get_buffer("matrix"), nothing), exact


def check_weights(found: Tensor, exact: GaussianMixture) -> None:
    """Mean share of the first component over independent sets of particles, within five standard errors."""
    share = found.mean()
    standard_error = found.std() / math.sqrt(len(found))
    assert standard_error < 0.01
    assert abs(share - exact.log_weights[0].exp()) < 5 * standard_error


def shares(made: Levelled, task: Task, seed: int = 5) -> Tensor:
    """Share of the first component in each of 60 sets of 100 particles."""
    x = sampled(made, task, 100, groups=60, seed=seed)
    prior = task.denoiser
    assert isinstance(prior, GaussianMixture)
    return prior.responsibilities(x.reshape(-1, *SHAPE))[:, 0].reshape(60, 100).mean(1)


@pytest.mark.parametrize(
    ("num", "settings"), [(20, {"probes": 6}), (20, {"probes": 1}), (80, {"max_rank": 0, "data_std": 1.0})]
)
def test_mode_weights(num: int, settings: dict[str, Any]) -> None:
    """The fewer second moments there are, the more levels it takes (with 20 the last one is 0.04 off)."""
    task, exact = mixture()
    assert 0.2 < float(exact.log_weights[0].exp()) < 0.8
    if "max_rank" in settings:
        task = task._replace(operator=operators.Dense.of(task.operator))
    check_weights(shares(sampler(levels(num), **settings), task), exact)


def test_weights_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, or with a wrong factor in them, the modes have wrong weights."""
    task, exact = mixture()
    must_fail(check_weights, shares(sampler(levels(), probes=6, weighted=False), task), exact)
    move = Moments.move

    def without_ratio(*arguments: Any) -> tuple[Tensor, Tensor]:
        x, log_ratio = move(*arguments)
        return x, 0 * log_ratio

    monkeypatch.setattr(Moments, "move", without_ratio)
    must_fail(check_weights, shares(sampler(levels(), probes=6), task), exact)


def test_refuses_many_numbers_without_spectral() -> None:
    made = TweedieSMC(probes=3, max_rank=5)
    with pytest.raises(InputError, match="3 entries of y and 3 probes are more than max_rank=5"):
        made.check(Measurement(Forward(normal(3, SIZE, seed=2)), GaussianNoise(0.1), torch.zeros(1, 3)))
    made.check(make_task("super_resolution").measurement)


def test_evidence_and_weights_are_right_where_particles_are_resampled() -> None:
    """At every step: the mean weight is p(y), without bias, and so are the shares of the modes."""
    task, exact = mixture()
    prior = task.denoiser
    assert isinstance(prior, GaussianMixture)
    A = task.matrix
    spread = A @ prior.covariances() @ A.T + task.eta**2 * torch.eye(2, dtype=torch.float64)
    evidence = MultivariateNormal(prior.means @ A.T, spread).log_prob(task.y)
    log_p = torch.logsumexp(prior.log_weights + evidence, 0)
    x, log_weights = weighted(sampler(levels(), probes=6, ess_threshold=1.0), task, 100, groups=60)
    ratio = (log_weights.logsumexp(1) - math.log(100) - log_p).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(60) < 0.05
    share = prior.responsibilities(x.reshape(-1, *SHAPE))[:, 0].reshape(60, 100)
    check_weights((share * log_weights.softmax(1)).sum(1), exact)


class Stretch(Denoiser):
    """D(x) = factor x, whose Jacobian no covariance of a prior allows for a factor below 0 or above 1."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize(("factor", "share"), [(-1.0, 0.0), (0.3, 0.3), (2.0, 1.0)])
def test_the_isotropic_rest_lies_between_nothing_and_the_noise(factor: float, share: float) -> None:
    task = make_task("inpainting")._replace(denoiser=Stretch(factor))
    given, sigma = problem(task, 3), 0.7
    directions = measured_directions(given.operator, given.measurement.y)
    found = moments(given, normal(3, *SHAPE, seed=4), sigma, directions, 1)
    torch.testing.assert_close(found.rest, torch.full((3, 1), share * sigma**2, dtype=torch.float64))
    assert found.basis.isfinite().all() and found.inner.isfinite().all()


KEEP, FRESH = 0.3, 0.2  # p^2 / s^2, and the variance of the fresh noise, of a step


def check_step(found: Any, eta: float, prior: MultivariateNormal, proposal: MultivariateNormal, constant: bool) -> None:
    """Check that ``move`` draws from the proposal, and its log ratio of the two densities, up to a constant or not."""
    zero = found.move(eta, KEEP, FRESH, torch.zeros(SIZE, SIZE, dtype=torch.float64))[0]
    unit = found.move(eta, KEEP, FRESH, torch.eye(SIZE, dtype=torch.float64))[0] - zero
    torch.testing.assert_close(zero, proposal.mean)
    torch.testing.assert_close(unit.T @ unit, proposal.covariance_matrix[0], rtol=1e-9, atol=1e-9)
    x, log_ratio = found.move(eta, KEEP, FRESH, normal(SIZE, SIZE, seed=5))
    exact = prior.log_prob(x) - proposal.log_prob(x)
    torch.testing.assert_close(log_ratio + (exact - log_ratio).mean() * constant, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("probes", [0, 2])
@EACH_OPERATOR
def test_a_step_and_its_weight_are_those_of_the_dense_gaussians(operator: str, probes: int) -> None:
    task, sigma = make_task(operator), 0.7
    given = problem(task, SIZE)
    x = (2 * normal(1, *SHAPE, seed=4)).expand(SIZE, *SHAPE)
    found = moments(given, x, sigma, measured_directions(given.operator, given.measurement.y), probes)
    found = found.take(torch.zeros(SIZE, dtype=torch.long))  # all rows with the probes of the first
    eye, a = torch.eye(SIZE, dtype=torch.float64), 1 - KEEP
    B = found.basis.mT @ found.inner
    rest = found.rest[..., None] * (eye - found.basis.mT @ found.basis)
    seen = task.matrix @ B
    P = torch.linalg.inv(torch.eye(seen.shape[2], dtype=torch.float64) + seen.mT @ seen / task.eta**2)
    shift = (B @ P @ seen.mT @ found.residual[..., None])[..., 0] / task.eta**2
    here = KEEP * found.x + a * found.mean
    prior = MultivariateNormal(here, FRESH * eye + a**2 * (B @ B.mT + rest))
    proposal = MultivariateNormal(here + a * shift, FRESH * eye + a**2 * (B @ P @ B.mT + rest))
    check_step(found, task.eta, prior, proposal, constant=False)


@pytest.mark.parametrize("operator", ["super_resolution", "inpainting"])
def test_an_isotropic_step_and_its_weight_are_those_of_the_dense_gaussians(operator: str) -> None:
    """The number c in place of every covariance; evidence and ratio up to what is the same for all particles."""
    task, c, eta = make_task(operator), 0.4, ETA
    rows = [normal(1, *SHAPE, seed=k).expand(SIZE, *SHAPE) for k in (4, 5, 6)]
    A, eye, a = task.matrix, torch.eye(SIZE, dtype=torch.float64), 1 - KEEP
    y = task.y.expand(SIZE, *task.y.shape[1:])
    found = ImplicitMoments(task.operator, c, *rows, y - task.operator(rows[1]))
    x, mean, shift = (row.flatten(1) for row in rows)
    here = KEEP * x + a * mean
    prior = MultivariateNormal(here, (FRESH + a**2 * c) * eye)
    narrow = a**2 * c * eta**2 * torch.linalg.inv(c * A.T @ A + eta**2 * eye)
    check_step(found, eta, prior, MultivariateNormal(here + a * shift, FRESH * eye + narrow), constant=True)
    other = normal(SIZE, *SHAPE, seed=7)
    found = ImplicitMoments(task.operator, c, rows[0], other, rows[2], y - task.operator(other))
    spread = c * A @ A.T + eta**2 * torch.eye(len(A), dtype=torch.float64)
    exact = MultivariateNormal(other.flatten(1) @ A.T, spread).log_prob(y.flatten(1))
    log_evidence = found.log_evidence(eta)
    torch.testing.assert_close(log_evidence - log_evidence.mean(), exact - exact.mean(), rtol=1e-9, atol=1e-9)


def test_as_many_directions_as_max_rank_are_allowed() -> None:
    given = Measurement(Forward(normal(3, SIZE, seed=2)), GaussianNoise(0.1), torch.zeros(1, 3))
    TweedieSMC(probes=3, max_rank=6).check(given)
