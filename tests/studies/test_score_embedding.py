"""Embedding, times, loss and measurements of score embedding, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from randomwalk.config.score_embedding import EmbeddingData, ExactSettings, SemiImplicitSettings
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource
from randomwalk.studies.score_embedding import measures
from randomwalk.studies.score_embedding.embedding import displacements, field_of, random_like
from randomwalk.studies.score_embedding.images import choose, load_images
from randomwalk.studies.score_embedding.objective import draw_levels, score_matching_loss, stratified_times
from randomwalk.studies.score_embedding.solvers import level_times, solve
from score_sde import sdes

PHOTOGRAPHS = Path(__file__).parents[2] / "data" / "photographs"


def photograph(size: int = 32) -> Tensor:
    data = EmbeddingData(path=str(PHOTOGRAPHS / "chelsea.png"), image_size=size, num_images=1)
    return load_images(data)[0]


# --- embedding -------------------------------------------------------------------------------------------------------


def test_a_zero_field_moves_nothing() -> None:
    assert not displacements(torch.zeros(10, 1, 3, 8, 8), torch.ones(10)).any()


def test_displacements_are_the_sums_of_the_steps_of_euler() -> None:
    g = torch.Generator().manual_seed(0)
    field, diffusion = torch.randn(6, 2, 3, 4, 4, generator=g), torch.rand(6, generator=g) + 1
    u = torch.rand(2, 3, 4, 4, generator=g)
    found = u + displacements(field.clone(), diffusion)
    assert torch.equal(found[0], u)  # the field of the first level moves nothing
    for n in range(1, 6):
        u = u - 0.5 * diffusion[n] ** 2 * field[n] / 6
        torch.testing.assert_close(found[n], u)


def test_the_field_adds_both_components_or_takes_one() -> None:
    score = torch.randn(3, 1, 1, 2, 4, 5)
    assert torch.equal(field_of(score, "sum"), score[..., 0, :, :] + score[..., 1, :, :])
    assert torch.equal(field_of(score, "rows"), score[..., 0, :, :])
    assert torch.equal(field_of(score, "columns"), score[..., 1, :, :])


def test_a_random_field_has_the_norm_of_the_field_at_every_level_and_nothing_else_of_it() -> None:
    field = torch.randn(5, 2, 3, 16, 16) * torch.linspace(1, 3, 5).reshape(-1, 1, 1, 1, 1)
    found = random_like(field, seed=3)
    torch.testing.assert_close(found.flatten(-2).norm(dim=-1), field.flatten(-2).norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(found.flatten(-2), field.flatten(-2), dim=-1)
    assert cosine.abs().max() < 5 / 16  # five standard deviations of the cosine of random directions in 256 dimensions
    assert torch.equal(found, random_like(field, seed=3)) and not torch.equal(found, random_like(field, seed=4))


# --- solvers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linearisation", ["lagged", "newton"])
@pytest.mark.parametrize("linear_solver", ["lu", "bicgstab", "adi"])
def test_settings_lead_to_the_solver_that_they_name(linear_solver: str, linearisation: str) -> None:
    sde, m0 = sdes.make("power_ve", base=2.0), photograph(12).double()[:, :1]
    exact = solve(ExactSettings(name="exact"), m0, level_times(5, 1e-3), sde)
    settings = {"name": "semi_implicit", "linear_solver": linear_solver, "linearisation": linearisation}
    errors = []
    for num_levels in (5, 9, 17):
        found = solve(SemiImplicitSettings.model_validate(settings), m0, level_times(num_levels, 1e-3), sde)
        errors.append(float((found.log_density[-1] - exact.log_density[-1]).square().mean().sqrt()))
        assert 1 <= found.iterations <= 20 and len(found.residuals) == found.iterations
    assert exact.iterations == 0 and errors == sorted(errors, reverse=True)
    assert errors[0] < 0.2 * float((exact.log_density[-1] - m0).square().mean().sqrt())


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "share"), [("full", 1.0), ("published", 0.5)])
def test_times_lie_in_the_parts_of_their_levels_in_their_order(law: str, share: float) -> None:
    n, eps = 20, 1e-3
    level, uniform = torch.arange(n).repeat(500), torch.rand(500 * n, dtype=torch.float64)
    t = stratified_times(level, uniform, n, eps, law)
    place = (t - eps) / ((1 - eps) if law == "full" else (1 - 0.5 / n - eps)) * n - level
    low = 0.0 if law == "full" else -eps  # U - eps: the published times may begin below eps, by eps dt / 2
    assert place.min() >= low and place.max() < share * 1.03  # the published parts are longer by 1 / (1 - dt / 2 - eps)
    assert place.max() > 0.97 * share and place.min() < 0.03
    assert (t.reshape(500, n).diff(dim=1) > 0).all()


def test_the_published_times_never_come_near_the_start_of_the_sampling() -> None:
    for n, latest in ((20, 0.951), (10, 0.905)):
        found = float(stratified_times(torch.tensor(n - 1), torch.tensor(1.0), n, 1e-3, "published"))
        assert found == pytest.approx(latest, abs=5e-4)
    assert float(stratified_times(torch.tensor(9), torch.tensor(1.0), 10, 1e-3, "full")) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [4, 10, 25])
def test_a_batch_goes_through_the_levels_as_evenly_as_it_can(size: int) -> None:
    places = draw_levels(size, 10, torch.rand(math.ceil(size / 10) * 10))
    assert len(places) == size == len(places.unique())
    assert (places.diff() > 0).all() and places.max() < math.ceil(size / 10) * 10


# --- loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_of_the_exact_score_of_one_image_is_zero() -> None:
    sde, u = sdes.make("power_ve", base=5.0), photograph().double()
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    z = torch.randn(20, 3, 32, 32, dtype=torch.float64)
    std = sde.std(t).reshape(-1, 1, 1, 1)
    score = -(u + std * z - u) / std**2
    # The error is the rounding of score * std + z, 1e-15 of values around 1, squared and summed over 3072 pixels.
    assert score_matching_loss(score, z, t, sde).max() < 1e-20
    assert score_matching_loss(score * 1.01, z, t, sde).min() > 1e-3


def zero_network_loss(size: int, base: float, num_levels: int, law: str) -> float:
    """The mean loss of a network that gives 0, over a fine grid of times, with z^2 at its mean."""
    sde, fine = sdes.make("power_ve", base=base), 400
    uniform = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    level = torch.arange(num_levels).repeat_interleave(fine)
    t = stratified_times(level, uniform.repeat(num_levels), num_levels, 1e-3, law)
    z = torch.ones(len(t), 3, 1, 1, dtype=torch.float64)
    return size**2 * float(score_matching_loss(torch.zeros_like(z), z, t, sde).mean())


@pytest.mark.parametrize(
    ("size", "base", "num_levels", "uniform", "published"),
    [(32, 5.0, 20, 458, 485), (32, 2.0, 10, 831, 880), (64, 2.0, 10, 3324, 3519)],
)
def test_the_mean_loss_of_a_network_that_gives_zero(
    size: int, base: float, num_levels: int, uniform: float, published: float
) -> None:
    def closed(eps: float) -> float:
        """(D / 2) E base^(-2 t), t even on [eps, 1]."""
        return 3 * size**2 / 2 * (base ** (-2 * eps) - base**-2) / ((1 - eps) * 2 * math.log(base))

    # The midpoint rule errs by (ln base / (400 N))^2 / 6 of the value, less than 1e-7 here.
    assert zero_network_loss(size, base, num_levels, "full") == pytest.approx(closed(1e-3), rel=1e-6)
    assert closed(0) == pytest.approx(uniform, abs=0.5)
    assert zero_network_loss(size, base, num_levels, "published") == pytest.approx(published, abs=0.5)


# --- measurements ----------------------------------------------------------------------------------------------------


def test_an_image_is_like_itself() -> None:
    u = photograph()
    assert float(measures.ssim(u, u)) == pytest.approx(1, abs=1e-12)
    assert float(measures.mse(u, u)) == 0 and float(measures.psnr(u, u)) == math.inf
    assert float(measures.psnr(u + 0.1, u)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("std", [0.02, 0.1, 0.3])
def test_ssim_is_that_of_scikit_image(std: float) -> None:
    u = photograph().double()
    noisy = (u + std * torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=u.dtype)).clamp(0, 1)
    expected = structural_similarity(u[0].numpy(), noisy[0].numpy(), channel_axis=0, data_range=1.0)
    assert float(measures.ssim(noisy, u)) == pytest.approx(float(expected), abs=1e-10)


def test_stretching_hides_an_error_of_contrast() -> None:
    u = measures.stretch(photograph())
    dull = 0.3 + 0.4 * u
    assert float(measures.mse(measures.stretch(dull), u)) < 1e-12 < float(measures.mse(dull, u))


def test_a_crossing_counts_only_if_it_is_sustained() -> None:
    x = [10.0 * k for k in range(8)]
    values = [0.1, 0.5, 0.96, 0.7, 0.9, 0.97, 0.96, 0.98]
    assert measures.sustained_crossing(x, values, 0.95, hold=1) == pytest.approx(10 + 10 * 0.45 / 0.46)
    assert measures.sustained_crossing(x, values, 0.95, hold=3) == pytest.approx(40 + 10 * 0.05 / 0.07)
    assert measures.sustained_crossing(x, values, 0.95, hold=4) is None
    assert measures.sustained_crossing(x, values, 0.05, hold=8) == 0
    assert measures.interpolate(x, values, 45.0) == pytest.approx(0.935)


# --- which images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def animals() -> Callable[[int], ImageSource]:
    """A set with the classes of CIFAR-10, of which every tenth image is a dog."""
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def make(n: int) -> ImageSource:
        labels = np.arange(n) % 10
        return ImageSource([str(i) for i in range(n)], lambda i: np.zeros((8, 8, 3), np.uint8), "here", labels, classes)

    return make


@pytest.mark.parametrize(
    ("seed", "count", "dogs"), [(9, 1, [1081]), (56, 3, [3296, 4860, 389]), (42, 1, [1501]), (123, 1, [2648])]
)
def test_images_are_drawn_as_by_the_published_code(
    animals: Callable[[int], ImageSource], seed: int, count: int, dogs: list[int]
) -> None:
    data = EmbeddingData(dataset="cifar10", path="x", image_size=32, num_images=count, class_name="dog", draw_seed=seed)
    assert choose(animals(50_000), data) == [10 * dog + 5 for dog in dogs]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_name": "unicorn"}, "class_name: found 'unicorn'; known in here are airplane"),
        ({"num_images": 101}, "num_images: image 100 was asked for, counted from 0; here has 100"),
        ({"indices": [3, 100], "num_images": 2}, "indices: image 100 was asked for"),
        ({"class_name": "dog", "num_images": 11, "draw_seed": 1}, "num_images: image 10 was asked for"),
    ],
)
def test_images_that_are_not_there(
    animals: Callable[[int], ImageSource], settings: dict[str, object], message: str
) -> None:
    data = EmbeddingData.model_validate({"path": "x", "image_size": 32, "num_images": 1, **settings})
    with pytest.raises(InputError, match=message):
        choose(animals(100), data)
