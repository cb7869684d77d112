"""Log densities by the probability flow against those known in closed form, and the bits that they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from randomwalk import GaussianMixture, InputError, RunError
from randomwalk.denoisers.denoiser import Denoiser, broadcast_sigma
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers import likelihood as module
from randomwalk.samplers.likelihood import bits_per_dimension, dequantise, log_likelihood

SIGMA_MIN = 0.05
NAT_PER_DIMENSION = 1e-3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(count: int, shape: tuple[int, ...], seed: int = 0) -> GaussianMixture:
    """Full covariances with eigenvalues from 0.01 (a fraction of the pixels has little spread) to a few."""
    d = math.prod(shape)
    factors = normal(count, d, d, seed=seed + 1) / d**0.5
    covariances = factors @ factors.mT + 0.01 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(1.0 + torch.arange(count), normal(count, *shape, seed=seed), covariances)


def noisy(model: GaussianMixture, count: int, seed: int = 3) -> Tensor:
    x = model.sample(count, generator(seed))
    return x + SIGMA_MIN * normal(*x.shape, seed=seed)


def draws(count: int, first: int = 0) -> ImageDraws:
    return ImageDraws([generator(7, i) for i in range(first, first + count)])


def error(model: GaussianMixture, x: Tensor, sigma_max: float = 1e4, **settings: Any) -> float:
    """Largest error in nats per dimension."""
    found = log_likelihood(model, x, sigma_min=SIGMA_MIN, sigma_max=sigma_max, **settings)
    return float((found.log_prob - model.log_prob(x, SIGMA_MIN)).abs().max()) / x[0].numel()


# --- against the closed form -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("shape", [(1,), (2, 1, 1), (1, 2, 3), (1, 4, 4)])
def test_density_of_gaussian_and_mixture(shape: tuple[int, ...], count: int) -> None:
    """At sigma_max = 1e4 the start costs |e| / sigma_max, some 1e-4; the solver's tolerance is less."""
    model = mixture(count, shape)
    assert error(model, noisy(model, 10)) < NAT_PER_DIMENSION


def test_the_rest_of_the_error_is_the_start_and_the_tolerance() -> None:
    """log_prob - log p = log prior(x') - log p(x', sigma_max), both in closed form, plus the solver's error."""
    model = mixture(3, (2, 1, 1))
    x = noisy(model, 20)
    for tolerance in (1e-4, 1e-5, 1e-7):
        found = log_likelihood(model, x, sigma_min=SIGMA_MIN, sigma_max=100, rtol=tolerance, atol=tolerance)
        start = found.prior_log_prob - model.log_prob(found.latent, 100)
        total = found.log_prob - model.log_prob(x, SIGMA_MIN)
        assert (start.abs() / 2).max() > 5e-3  # at this sigma_max it is what counts
        # Some forty steps, each with a local error of at most the tolerance, which the flow hardly amplifies.
        assert ((total - start).abs() / 2).max() < 40 * tolerance


def test_the_error_of_the_start_falls_with_sigma_max() -> None:
    """The error is of order |e| / sigma_max without the mean of the data, and |S - v I| / sigma_max^2 with it."""
    model = mixture(1, (2, 1, 1))
    x = noisy(model, 20)
    tight = {"rtol": 1e-7, "atol": 1e-7}
    for settings, factor in (({}, 10), ({"data_mean": model.means[0].reshape(2, 1, 1)}, 100)):
        errors = [error(model, x, sigma_max, **tight, **settings) for sigma_max in (20.0, 200.0)]
        assert errors[0] / errors[1] == pytest.approx(factor, rel=0.15)  # the next order is 2 / 20 of it


def test_nothing_moves_if_the_data_are_what_the_start_says() -> None:
    centre = normal(2, 1, 1, seed=5)
    model = GaussianMixture([1.0], centre[None], 0.3)
    x = noisy(model, 5)
    found = log_likelihood(
        model, x, sigma_min=SIGMA_MIN, sigma_max=2.0, data_mean=centre, data_variance=0.3, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(found.log_prob, model.log_prob(x, SIGMA_MIN), rtol=1e-12, atol=1e-12)
    expected = centre + (x - centre) * math.sqrt((4 + 0.3) / (SIGMA_MIN**2 + 0.3))
    torch.testing.assert_close(found.latent, expected, rtol=1e-12, atol=1e-12)
    rounded = log_likelihood(model, x.float(), sigma_min=SIGMA_MIN, sigma_max=40.0, data_mean=centre, data_variance=0.3)
    torch.testing.assert_close(rounded.log_prob, found.log_prob, rtol=0, atol=1e-4)  # float32 of x


def test_the_density_of_the_model_has_integral_one() -> None:
    """One pixel: the probabilities of the 256 cells, each width times density at a random point of the cell."""
    model = GaussianMixture([0.3, 0.7], torch.tensor([[-0.3], [0.25]]).double(), torch.tensor([0.02, 0.03]).double())
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    found = log_likelihood(model, x, sigma_min=SIGMA_MIN, sigma_max=1e4)
    # The trapezoidal rule of a smooth function is exact; the tails beyond [-1, 1] are below 1e-4.
    assert float((-bits_per_dimension(found.log_prob, 1)).exp2().sum()) == pytest.approx(1, abs=5e-4)


@pytest.mark.parametrize("broken", ["sign", "drift of the scale", "half the trace", "velocity"])
def test_a_broken_flow_fails(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, integrate = 2, module.integrate

    def broken_rate(right: Callable[[Tensor, Tensor], Tensor], log_sigma: Tensor, state: Tensor) -> Tensor:
        rates, own = right(log_sigma, state), 1 / (math.exp(2 * log_sigma) + 1)
        if broken == "sign":
            rates[:, size:] *= -1
        elif broken == "drift of the scale":  # the divergence of v z / c^2 is forgotten
            rates[:, size:] -= own
        elif broken == "half the trace":
            rates[:, size:] = own + (rates[:, size:] - own) / 2
        else:
            rates[:, :size] *= 2
        return rates

    model = mixture(2, (2, 1, 1))
    x = noisy(model, 10)
    monkeypatch.setattr(module, "integrate", lambda right, *a, **b: integrate(partial(broken_rate, right), *a, **b))
    assert error(model, x) > 10 * NAT_PER_DIMENSION


def test_without_the_change_of_variables_it_fails() -> None:
    model = mixture(2, (2, 1, 1))
    x = noisy(model, 10)
    found = log_likelihood(model, x, sigma_min=SIGMA_MIN, sigma_max=1e4)
    forgotten = math.log(math.sqrt(1e8 + 1) / math.sqrt(SIGMA_MIN**2 + 1))
    mutant = found.log_prob / 2 - forgotten
    assert ((mutant - model.log_prob(x, SIGMA_MIN) / 2).abs() > 10 * NAT_PER_DIMENSION).all()


# --- Hutchinson ------------------------------------------------------------------------------------------------


COPIES = 300
ENDS: dict[str, Any] = {"sigma_min": SIGMA_MIN, "sigma_max": 1e3, "rtol": 1e-4, "atol": 1e-4}


def estimates(model: GaussianMixture, probe: Any) -> tuple[Tensor, Tensor]:
    """Errors of many estimates of the log density for each of two images, and their standard errors."""
    x = noisy(model, 2)
    exact = log_likelihood(model, x, divergence="exact", **ENDS)
    assert exact.standard_error.tolist() == [0.0, 0.0]
    many = x.repeat_interleave(COPIES, 0)
    found = log_likelihood(model, many, divergence="hutchinson", probes=2, probe=probe, draws=draws(2 * COPIES), **ENDS)
    away = found.log_prob - exact.log_prob.repeat_interleave(COPIES)
    return away.reshape(2, COPIES), found.standard_error.reshape(2, COPIES)


def biases(away: Tensor) -> Tensor:
    """Bias for each image, in standard errors."""
    return (away.mean(1) / (away.std(1) / COPIES**0.5)).abs()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_estimate_has_no_bias(probe: Any, count: int) -> None:
    away, _ = estimates(mixture(count, (1, 2, 3)), probe)
    assert (biases(away) < 4).all()


def test_probes_without_unit_variance_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module._probes
    monkeypatch.setattr(module, "_probes", lambda *a: 1.2 * right(*a))
    away, _ = estimates(mixture(1, (1, 2, 3)), "rademacher")
    assert (biases(away) > 8).all()


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_standard_error_is_that_of_theory(probe: Any) -> None:
    """For a Gaussian the estimate is ``v^T A v``, A the integral of S / (S + sigma^2) against ln sigma."""
    model = mixture(1, (1, 2, 3))
    values, vectors = torch.linalg.eigh(model.covariances()[0])

    def integral(sigma: float) -> Tensor:
        return (sigma**2 / (values + sigma**2)).log() / 2

    a = vectors @ torch.diag(integral(1e3) - integral(SIGMA_MIN)) @ vectors.T
    variance = 2 * a.square().sum() - (2 * a.diagonal().square().sum() if probe == "rademacher" else 0)
    away, errors = estimates(model, probe)
    # 600 values of one degree of freedom each: 6% for normal ones, and v^T A v has heavier tails.
    for found in (away.square().mean(), errors.square().mean()):
        assert float(found) == pytest.approx(float(variance) / 2, rel=0.3)


def test_many_pixels_are_estimated() -> None:
    model = mixture(2, (1, 6, 6))
    x = noisy(model, 3)
    found = log_likelihood(model, x, probes=40, draws=draws(3), **ENDS)
    assert found.divergence == "hutchinson" and found.probes == 40 and found.vjps == 40 * found.evaluations
    away = (found.log_prob - model.log_prob(x, SIGMA_MIN)).abs()
    assert (away < 4 * found.standard_error + 36 * NAT_PER_DIMENSION).all()
    assert (found.standard_error < 36 * 0.05).all()
    one = log_likelihood(model, x, sigma_min=1.0, sigma_max=2.0, draws=draws(3))
    assert one.probes == 1 and one.standard_error.isnan().all()


# --- images of a batch -----------------------------------------------------------------------------------------


def test_an_image_is_a_function_of_its_own_draws() -> None:
    model = mixture(2, (1, 6, 6))
    x = noisy(model, 5)
    ends: dict[str, Any] = {"sigma_min": SIGMA_MIN, "sigma_max": 1e2}
    together = log_likelihood(model, x, draws=draws(5), **ends)
    for i in (0, 3):
        alone = log_likelihood(model, x[i : i + 1], draws=draws(1, first=i), **ends)
        # Equal but for the steps, which are shared.
        assert abs(float(together.log_prob[i] - alone.log_prob[0])) / 36 < 100 * 1e-5
    other = log_likelihood(model, x, draws=draws(5, first=1), **ends)
    assert ((together.log_prob - other.log_prob).abs() / 36 > 100 * 1e-5).all()  # the probes do matter


def test_easy_images_do_not_hide_a_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number must not loosen its tolerance, as it does in a norm over the batch: the mutation."""
    model = mixture(3, (2, 1, 1))
    hard = 3 * normal(1, 2, 1, 1, seed=9)
    easy = model.means[:1].reshape(1, 2, 1, 1).expand(99, 2, 1, 1)
    ends: dict[str, Any] = {"sigma_min": SIGMA_MIN, "sigma_max": 1e4}
    alone = log_likelihood(model, hard, **ends)
    batch = log_likelihood(model, torch.cat([easy, hard]), **ends)
    assert batch.evaluations >= alone.evaluations
    assert abs(float(batch.log_prob[-1] - alone.log_prob[0])) / 2 < 40 * 1e-5
    wrong = partial(module.integrate, norm=lambda error: error.square().mean().sqrt())
    monkeypatch.setattr(module, "integrate", lambda *a, norm, **b: wrong(*a, **b))
    assert log_likelihood(model, torch.cat([easy, hard]), **ends).evaluations < alone.evaluations


def test_callers_may_be_in_inference_mode_and_types_are_kept() -> None:
    model, shape = mixture(2, (2, 1, 1)), (2, 1, 1)
    x = noisy(model, 3)
    expected = log_likelihood(model, x, sigma_min=SIGMA_MIN, sigma_max=1e2)
    seen: list[torch.dtype] = []
    with torch.inference_mode():
        inside = log_likelihood(model, x.clone(), sigma_min=SIGMA_MIN, sigma_max=1e2, data_mean=torch.zeros(shape))
    assert torch.equal(inside.log_prob, expected.log_prob)
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    single = log_likelihood(model, x.float(), sigma_min=SIGMA_MIN, sigma_max=1e2)
    assert set(seen) == {torch.float32} and single.log_prob.dtype == torch.float64
    # Rounding of x moves log p by 6e-8 |x| |score|, some 1e-5.
    torch.testing.assert_close(single.log_prob, expected.log_prob, rtol=0, atol=5e-4)


def test_evaluations_are_counted() -> None:
    model = CountingDenoiser(mixture(1, (1, 2, 3)))
    seen: list[tuple[int, float]] = []
    found = log_likelihood(
        model,
        normal(2, 1, 2, 3),
        sigma_min=SIGMA_MIN,
        sigma_max=1e2,
        callback=lambda n, sigma: seen.append((n, sigma)),
    )
    assert found.evaluations == model.evaluations == len(seen) == seen[-1][0]
    assert found.vjps == model.vjps == 6 * found.evaluations
    levels = [sigma for _, sigma in seen]
    assert min(levels) >= SIGMA_MIN and max(levels) <= 100 and levels[-1] == pytest.approx(100)
    assert (found.sigma_min, found.sigma_max, found.divergence, found.probes) == (SIGMA_MIN, 100.0, "exact", 0)


# --- bits per dimension ----------------------------------------------------------------------------------------


def grid(levels: int = 256) -> Tensor:
    return torch.arange(levels, dtype=torch.float64) / ((levels - 1) / 2) - 1


@pytest.mark.parametrize("levels", [2, 256])
def test_the_even_density_gives_all_bits(levels: int) -> None:
    d, volume_of_a_pixel = 5, levels * 2 / (levels - 1)
    log_prob = torch.full((3,), -d * math.log(volume_of_a_pixel), dtype=torch.float64)
    expected = torch.full((3,), math.log2(levels), dtype=torch.float64)
    torch.testing.assert_close(bits_per_dimension(log_prob, d, levels), expected, rtol=1e-14, atol=0)
    offset = float(bits_per_dimension(torch.zeros(1), 1))
    assert offset == pytest.approx(math.log2(127.5)) and abs(offset - 7) > 5e-3  # the 7 of another scaling is wrong


@pytest.mark.parametrize("levels", [2, 256])
def test_a_dequantised_pixel_lies_between_the_ends_of_its_cell(levels: int) -> None:
    """Half the distance of two grey values to either side, for the smallest and the largest draws."""

    class Ends:
        def normal(self, shape: Any) -> Tensor:
            return torch.tensor([[-9.0, 0.0, 9.0]], dtype=torch.float64)

    found = dequantise(torch.zeros(1, 3, dtype=torch.float64), Ends(), levels)  # type: ignore[arg-type]
    half = 1 / (levels - 1)
    torch.testing.assert_close(found, torch.tensor([[-half, 0.0, half]], dtype=torch.float64), rtol=0, atol=1e-12)


def test_dequantised_images_fill_their_cells_evenly() -> None:
    x = grid()[None, None, None].expand(200, 1, 1, 256)
    found = dequantise(x, draws(200))
    u = (found - x) * 127.5 + 0.5
    assert u.min() >= 0 and u.max() <= 1 and found.dtype == x.dtype
    ordered, n = u.flatten().sort().values, u.numel()
    gap = (ordered - torch.arange(n) / n).abs().max()
    assert gap < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1%
    assert torch.equal(dequantise(x[5:6], draws(1, first=5)), found[5:6])


def test_bits_of_a_gaussian_are_those_of_its_cells() -> None:
    """From byte images through the flow, beside ``-log2 P(cell)`` by the error function, which they bound."""
    centre, std = 0.1, 0.2
    spread = std**2 - SIGMA_MIN**2
    model = GaussianMixture([1.0], torch.full((1, 1, 2, 2), centre, dtype=torch.float64), spread)
    count = 400
    drawn = centre + std * normal(count, 1, 2, 2, seed=4)
    x = ((drawn + 1) * 127.5).round() / 127.5 - 1
    found = log_likelihood(
        model, dequantise(x, draws(count)), sigma_min=SIGMA_MIN, sigma_max=10.0, data_mean=centre, data_variance=spread
    )
    bits = bits_per_dimension(found.log_prob, 4)
    edges = torch.special.ndtr((torch.stack([x - 1 / 255, x + 1 / 255]) - centre) / std)
    exact = -(edges[1] - edges[0]).log2().flatten(1).mean(1)
    # By Jensen: more by w^2 / (24 std^2 ln 2) = 9e-5 bits in the mean; the spread of one image is measured.
    excess = bits - exact
    assert abs(float(excess.mean()) - 9e-5) < 4 * float(excess.std()) / math.sqrt(count)
    assert float(excess.std()) < 0.02
    entropy = math.log2(std * math.sqrt(2 * math.pi * math.e)) + math.log2(127.5)
    assert abs(float(bits.mean()) - entropy) < 4 * float(bits.std()) / math.sqrt(count)


# --- what is refused -------------------------------------------------------------------------------------------


class Exploding(Denoiser):
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x / (broadcast_sigma(sigma, x) < 0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma_min": None}, "sigma_min 0"),
        ({"sigma_max": None}, "sigma_max inf"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "expected 0 < sigma_min < sigma_max"),
        ({"divergence": "hutchinson"}, "needs draws"),
        ({"divergence": "other"}, "divergence 'other'"),
        ({"probe": "other"}, "probe 'other'"),
        ({"probes": 0}, "probes 0"),
        ({"method": "euler"}, "expected dopri5"),
        ({"atol": 0.0}, "atol 0"),
        ({"data_variance": 0.0}, "data_variance 0"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], said: str) -> None:
    given = {"sigma_min": 0.1, "sigma_max": 1.0, **settings}
    with pytest.raises(InputError, match=said):
        log_likelihood(mixture(1, (2,)), normal(1, 2), **given)


def test_draws_are_asked_for_where_the_trace_is_estimated() -> None:
    x = normal(1, 1, 33, 1)
    assert x[0].numel() == module.EXACT_UP_TO + 1
    with pytest.raises(InputError, match="33 pixels needs draws"):
        log_likelihood(mixture(1, (1, 33, 1)), x, sigma_min=0.1, sigma_max=1.0)


def test_a_flow_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(RunError, match="likelihood: the solver gave up"):
        log_likelihood(Exploding(), normal(1, 2), sigma_min=0.1, sigma_max=1.0)


def test_neither_pixels_nor_probes_hide_the_error_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is judged by the worst image, by its pixels and by its log density, whichever is worse."""
    norms = []

    def spy(*arguments: Any, norm: Any, **settings: Any) -> Tensor:
        norms.append(norm)
        return integrate(*arguments, norm=norm, **settings)

    integrate = module.integrate
    monkeypatch.setattr(module, "integrate", spy)
    log_likelihood(mixture(1, (2, 2)), normal(2, 2, 2), sigma_min=0.1, sigma_max=1.0)
    error = torch.zeros(2, 5, dtype=torch.float64)
    error[1, 4] = 3
    assert float(norms[0](error)) == 3
    error[0, :4] = 5
    assert float(norms[0](error)) == 5
