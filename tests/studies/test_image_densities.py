"""Densities of images: kernel estimates against SciPy's, their limits, and mistakes that these must find."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gaussian_kde
from torch import Tensor

from randomwalk import InputError
from randomwalk.rng import generator
from randomwalk.studies.score_embedding import density

PHOTOGRAPH = Path(__file__).parents[2] / "data" / "photographs" / "astronaut.png"
ESTIMATORS = ("histogram", "gaussian", "published")


def photograph(size: int) -> Tensor:
    """``[1, 3, size, size]`` in [0, 1]."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size)))
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None]


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- pairs of values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 9, 20])
def test_gaussian_is_scipys(size: int) -> None:
    images = torch.cat([photograph(size), uniform(1, 3, size, size)])
    m0 = density.value_pair_kde(images, "gaussian")
    assert m0.shape == images.shape and m0.dtype == torch.float64
    for found, field in zip(m0.flatten(0, 1), images.flatten(0, 1).numpy(), strict=True):
        pairs = np.stack([field.ravel(), field.T.ravel()])
        expected = gaussian_kde(pairs).logpdf(pairs).reshape(field.shape)
        # Squared distances of up to some 100 standard deviations of the kernel, to rounding, and sums of them.
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-11)


def test_gaussian_needs_no_table_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    images, sizes, addmm = uniform(1, 1, 40, 40), [], torch.addmm

    def recorded(*args: Tensor, beta: int) -> Tensor:
        out = addmm(*args, beta=beta)
        sizes.append(out.numel())
        return out

    whole = density.value_pair_kde(images, "gaussian")
    monkeypatch.setattr(density, "CHUNK", 5000)
    monkeypatch.setattr(torch, "addmm", recorded)
    torch.testing.assert_close(density.value_pair_kde(images, "gaussian"), whole, rtol=0, atol=1e-12)
    assert len(sizes) > 200 and max(sizes) <= 5000


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_symmetry(estimator: str) -> None:
    """m0 is a symmetric matrix, and the transposed image has the same."""
    images = photograph(24)
    m0 = density.value_pair_kde(images, estimator)
    torch.testing.assert_close(m0, m0.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(density.value_pair_kde(images.mT, estimator), m0, rtol=0, atol=1e-12)
    assert float(m0.std()) > 0.1


def check_histogram() -> None:
    """It tends to the exact estimate as the square of the bins' width."""
    images = photograph(32)
    exact = density.value_pair_kde(images, "gaussian")
    apart = [
        float((density.value_pair_kde(images, bins=bins) - exact).square().mean().sqrt()) for bins in (33, 65, 129)
    ]
    assert all(3 < a / b < 5.5 for a, b in pairwise(apart))
    assert apart[-1] < 1e-3


def test_histogram_tends_to_the_exact_estimate() -> None:
    check_histogram()
    assert torch.equal(density.value_pair_kde(photograph(16)), density.value_pair_kde(photograph(16), "histogram", 128))


def no_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scott's factor as the bandwidth, as in the published code."""

    def principal(field: Tensor) -> list[tuple[Tensor, Tensor]]:
        axes = ((field + field.T) / math.sqrt(2), (field - field.T) / math.sqrt(2))
        return [(axis, torch.tensor(density.scott(axis.numel())).double()) for axis in axes]

    patched(monkeypatch, principal)


def one_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard deviation of the values along both axes: pairs of neighbours' values are correlated."""
    own = density._principal

    def principal(field: Tensor) -> list[tuple[Tensor, Tensor]]:
        (first, _), (second, _) = own(field)
        return [(axis, field.std() * density.scott(axis.numel())) for axis in (first, second)]

    patched(monkeypatch, principal)


def other_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scott's factor of one dimension."""
    own = density._principal

    def principal(field: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(axis, std * axis.numel() ** (1 / 6 - 1 / 5)) for axis, std in own(field)]

    patched(monkeypatch, principal)


def patched(monkeypatch: pytest.MonkeyPatch, principal: object) -> None:
    """The histogram with other kernels than the exact estimate."""
    own = density._histogram

    def histogram(field: Tensor, bins: int) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(density, "_principal", principal)
            return own(field, bins)

    monkeypatch.setitem(density._ESTIMATORS, "histogram", histogram)


@pytest.mark.parametrize("mistake", [no_deviation, one_deviation, other_dimension])
def test_mistakes_of_the_bandwidth_are_found(mistake: object, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        check_histogram()


def test_mass_is_one_but_for_what_is_outside() -> None:
    """Of the kernel estimate in the plane: on the unit square, and on one that holds all of it."""
    points = uniform(300, 2) * torch.tensor([1.0, 0.4]) + torch.tensor([0.0, 0.3])
    step = 0.01
    for low, high in ((0.0, 1.0), (-1.0, 2.0)):
        side = torch.arange(low + step / 2, high, step, dtype=torch.float64)
        mass = float(density._plane_kde(points, torch.cartesian_prod(side, side)).exp().sum()) * step**2
        inside = gaussian_kde(points.T.numpy()).integrate_box([low, low], [high, high])
        # Midpoint sums of a normal density 10 steps wide are right to all digits but for the cut at the border,
        # step^2 / 24 times the slope there; SciPy's integral is by 1e-5 of its own.
        assert mass == pytest.approx(inside, abs=5e-5)
    assert mass == pytest.approx(1, abs=1e-6)


def test_published_smoothes_with_a_fixed_width() -> None:
    """One value: the normal kernel of standard deviation n^(-1/6), mirrored at the borders of the unit square."""
    for size in (40, 64):
        sigma = (size**2) ** (-1 / 6)
        m0 = density.value_pair_kde(torch.full((1, 1, size, size), 0.5), "published")
        mirrored = sum(math.exp(-(k**2) / (2 * sigma**2)) for k in range(-3, 4)) / (sigma * math.sqrt(2 * math.pi))
        # The filter ends at 4 standard deviations, exp(-8) of the middle, and the bins are 1/64 of them wide.
        assert float((m0 - 2 * math.log(mirrored)).abs().max()) < 4 * math.exp(-8)


def test_published_step_by_step() -> None:
    """Its histogram, its filter as a matrix, and its interpolation of logarithms, which is half a bin off."""
    field, bins = uniform(1, 1, 6, 6), 256
    sigma = 36 ** (-1 / 6) * bins
    reach = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weight = np.exp(-(reach**2) / (2 * sigma**2))
    smooth = np.zeros((bins, bins))
    for i in range(bins):
        mirrored = (i + reach) % (2 * bins)
        np.add.at(smooth[i], np.where(mirrored < bins, mirrored, 2 * bins - 1 - mirrored), weight / weight.sum())
    values = field[0, 0].numpy()
    counts = np.zeros((bins, bins))
    np.add.at(counts, ((values.T * bins).astype(int), (values * bins).astype(int)), bins**2 / 36)
    log = np.log(smooth @ counts @ smooth.T)
    expected = np.empty((6, 6))
    for k, j in np.ndindex(6, 6):
        (x, p), (y, q) = ((int(v), v - int(v)) for v in (values[j, k] * bins, values[k, j] * bins))
        expected[k, j] = np.array([1 - p, p]) @ log[x : x + 2, y : y + 2] @ np.array([1 - q, q])
    assert values.max() * bins < bins - 1
    found = density.value_pair_kde(field, "published")[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_published_is_smoother_than_the_exact_estimate() -> None:
    """Off by a good half of the field's own deviation on a photograph."""
    images = photograph(64)
    published, exact = (density.value_pair_kde(images, name)[0, 0] for name in ("published", "gaussian"))
    assert 0.5 < float((published - exact).square().mean().sqrt()) < 0.9
    correlation = float(torch.corrcoef(torch.stack([published.flatten(), exact.flatten()]))[0, 1])
    assert 0.85 < correlation < 0.97
    assert float(published.std()) < 0.75 * float(exact.std())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_degenerate_images(estimator: str) -> None:
    """One value, or a symmetric image, whose pairs lie on a line."""
    flat = density.value_pair_kde(torch.zeros(1, 2, 8, 8), estimator)
    assert flat.isfinite().all() and float(flat.std()) < 1e-12
    half = uniform(1, 1, 12, 12)
    m0 = density.value_pair_kde((half + half.mT) / 2, estimator)
    assert m0.isfinite().all() and float(m0.std()) > 0.01


def test_rectangles_have_no_pairs() -> None:
    with pytest.raises(InputError, match=r"4x6 pixels .* intensity or position_kde"):
        density.value_pair_kde(uniform(1, 1, 4, 6))
    for name in ("intensity", "position_kde"):
        assert density.make(name, uniform(1, 1, 4, 6)).shape == (1, 1, 4, 6)


# --- positions -------------------------------------------------------------------------------------------------------


def test_intensity() -> None:
    images = uniform(2, 3, 5, 8)
    p = density.intensity(images, 0.2).exp()
    torch.testing.assert_close(p.sum((-2, -1)), torch.ones(2, 3).double(), rtol=1e-14, atol=0)
    torch.testing.assert_close(p / p[..., :1, :1], (images + 0.2) / (images[..., :1, :1] + 0.2))


def test_position_kde_is_scipys() -> None:
    images = uniform(2, 3, 9, 12)
    images[1] = 0
    images[1, :, 2:4, 3:5] = 1  # most draws here: far pixels are at the floor
    found = density.position_kde(images, 400, 1e-3, generator=generator(5))
    for image, m, draws in zip(images, found, generator(5).spawn(2), strict=True):
        weight = (image.mean(0) + 1e-3).flatten()
        grid = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 12), indexing="ij")).reshape(2, -1)
        points = grid[:, draws.choice(108, size=400, p=(weight / weight.sum()).numpy())].T
        points = (points + 0.01 * draws.standard_normal((400, 2))).clip(0, 1)
        expected = gaussian_kde(points.T)(grid).clip(1e-10)
        np.testing.assert_allclose(m[0].exp().flatten().numpy(), expected / expected.sum(), rtol=1e-9)
        assert torch.equal(m, m[:1].expand(3, 9, 12))
    torch.testing.assert_close(found.exp().sum((-2, -1)), torch.ones(2, 3).double(), rtol=1e-13, atol=0)
    assert float(found[1].max() - found[1].min()) > 10


def test_position_kde_follows_the_intensity() -> None:
    """The mass of a bright half is its share of the draws, give or take what the kernel moves over the edge."""
    images = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    images[..., :10, :] = 1
    p = density.position_kde(images, 4000, 0.1).exp()[0, 0]
    share = 1.1 / 1.2
    kernel = 4000 ** (-1 / 6) * math.sqrt(1 / 12)  # about, in units of the side
    edge = kernel / math.sqrt(2 * math.pi)  # mass moved over the middle, over the density there
    draws = 5 * math.sqrt(share * (1 - share) / 4000)
    assert abs(float(p[:10].sum()) - share) < 2 * edge + draws
    assert abs(float(p[:10].sum()) - 0.5) > 0.3
    assert abs(float(p[:, :10].sum()) - 0.5) < 5 * math.sqrt(0.25 / 4000)


def test_draws_belong_to_the_image() -> None:
    images = uniform(3, 1, 6, 6)
    together = density.position_kde(images, 50, generator=generator(1))
    draws = generator(1)
    parts = [density.position_kde(images[i : i + 1], 50, generator=draws) for i in range(3)]
    assert torch.equal(torch.cat(parts), together)
    assert not torch.equal(density.position_kde(images, 50, generator=generator(2)), together)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_by_name() -> None:
    images = photograph(8)
    for name, function in density.DENSITIES.items():
        assert torch.equal(density.make(name, images), function(images))
    assert torch.equal(density.make("intensity", images, offset=0.3), density.intensity(images, 0.3))


def test_what_cannot_be_had() -> None:
    images = uniform(1, 1, 4, 4)
    with pytest.raises(InputError, match="density 'kde': unknown; expected one of value_pair_kde, intensity, pos"):
        density.make("kde", images)
    with pytest.raises(InputError, match="unknown setting bins; allowed: offset"):
        density.make("intensity", images, bins=3)
    with pytest.raises(InputError, match="estimator 'tree': unknown; expected one of histogram, gaussian, published"):
        density.make("value_pair_kde", images, estimator="tree")
    with pytest.raises(InputError, match="bins=1"):
        density.value_pair_kde(images, bins=1)
    with pytest.raises(InputError, match="offset=0"):
        density.intensity(images, 0)
    with pytest.raises(InputError, match="num_points=2"):
        density.position_kde(images, 2)
    for name in density.DENSITIES:
        for bad in (images[0], 2 * images - 1, images * torch.nan):
            with pytest.raises(InputError, match=r"in \[0, 1\]"):
                density.make(name, bad)
