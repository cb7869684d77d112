"""Ranks of the truth among posterior samples, on a Gaussian model whose posterior is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from randomwalk.sampling import calibration
from randomwalk.sampling.calibration import Calibration

ETA = 0.5
PIXELS, IMAGES, SAMPLES = 64, 200, 19


def gaussian_model(
    images: int, seed: int, narrow: float = 1.0, shift: float = 0.0, num_samples: int = SAMPLES
) -> Calibration:
    """x ~ Normal(0, C) with neighbouring pixels alike, y = x + ETA n; samples of p(x | y), altered on purpose.

    The posterior is Normal(K y, C - K C) with K = C (C + ETA^2 I)^-1.
    """
    draws = np.random.default_rng(seed)
    distance = np.abs(np.subtract.outer(np.arange(PIXELS), np.arange(PIXELS)))
    prior = 0.3**2 * np.exp(-distance / 10)
    gain = prior @ np.linalg.inv(prior + ETA**2 * np.eye(PIXELS))
    root = np.linalg.cholesky(prior)
    posterior_root = np.linalg.cholesky(prior - gain @ prior)
    found = []
    for _ in range(images):
        truth = root @ draws.standard_normal(PIXELS)
        mean = gain @ (truth + ETA * draws.standard_normal(PIXELS))
        samples = mean + shift + narrow * draws.standard_normal((num_samples, PIXELS)) @ posterior_root.T
        found.append(calibration.counts(calibration.pixel_ranks(samples, truth, draws), num_samples))
    return Calibration(np.stack(found))


def test_exact_samples_have_flat_ranks() -> None:
    found = gaussian_model(IMAGES, seed=0)
    assert found.num_pixels == IMAGES * PIXELS and found.num_images == IMAGES
    z = [(share.value - share.expected) / share.error for share in found.histogram()]
    assert np.abs(z).max() < 3.5  # 20 of them: P = 0.01
    for estimate in (*found.coverages(), found.mean_rank()):
        assert abs(estimate.value - estimate.expected) < 3.5 * estimate.error
    assert found.verdict() == "calibrated, within the error"


@pytest.mark.parametrize(
    ("altered", "verdict"),
    [({"narrow": 0.8}, "too narrow"), ({"narrow": 1.25}, "too wide")],
)
def test_a_wrong_spread_is_found(altered: dict[str, float], verdict: str) -> None:
    found = gaussian_model(IMAGES, 1, **altered)  # type: ignore[arg-type]
    assert found.verdict() == verdict
    ends = found.histogram()[0].value + found.histogram()[-1].value
    assert (ends > 2 / (SAMPLES + 1)) == (verdict == "too narrow")
    expected, width = [], altered["narrow"]
    # Between the extremes of S draws of Normal(0, w^2), by quadrature over the truth's place, Normal(0, 1).
    for z in np.linspace(-6, 6, 2001):
        below = 0.5 * math.erfc(-z / width / math.sqrt(2))
        expected.append((1 - below**SAMPLES - (1 - below) ** SAMPLES) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    covered = found.coverage(1)
    assert abs(covered.value - np.sum(expected) * 0.006) < 3.5 * covered.error


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "too bright"), (-0.1, "too dark")])
def test_a_shift_is_found(shift: float, verdict: str) -> None:
    assert verdict in gaussian_model(IMAGES, 2, shift=shift).verdict()


def test_images_count_not_pixels() -> None:
    """Over many runs the standard error is the scatter of the value, with all pixels of an image alike as well."""
    runs = [gaussian_model(20, seed).coverage(2) for seed in range(100)]
    scatter = np.std([run.value for run in runs], ddof=1)
    assert np.mean([run.error for run in runs]) == pytest.approx(scatter, rel=0.25)
    independent_pixels = math.sqrt(0.8 * 0.2 / (20 * PIXELS))
    assert scatter > 1.5 * independent_pixels  # what counting pixels would claim
    assert np.mean([not run.differs for run in runs]) >= 0.9  # 0.95 - 2.2 standard errors


def test_ties_are_broken_evenly_and_by_the_seed() -> None:
    samples, truth = np.zeros((4, 50_000)), np.zeros(50_000)
    found = calibration.counts(calibration.ranks(samples, truth, np.random.default_rng(0)), 4)
    assert np.abs(found - 10_000).max() < 4 * math.sqrt(50_000 * 0.2 * 0.8)
    again = calibration.counts(calibration.ranks(samples, truth, np.random.default_rng(0)), 4)
    np.testing.assert_array_equal(found, again)
    rank = calibration.ranks(np.array([[1.0], [2.0], [4.0]]), np.array([3.0]), np.random.default_rng(0))
    np.testing.assert_array_equal(rank, [2])


def test_clipping_and_rounding_leave_exact_ranks_flat() -> None:
    """Truth at the end of the range, as in a background: clipped like the samples, it is one of them."""
    draws = np.random.default_rng(3)
    truth, samples = -1 + 0.02 * draws.standard_normal(40_000), -1 + 0.02 * draws.standard_normal((9, 40_000))
    quantised = calibration.grey_values(truth) / 127.5 - 1  # what a picture of the truth holds
    found = calibration.counts(calibration.pixel_ranks(samples, quantised, draws), 9)
    assert np.abs(found - 4000).max() < 4 * math.sqrt(40_000 * 0.1 * 0.9)
    raw = calibration.counts(calibration.ranks(samples, quantised, draws), 9)
    assert raw.max() > 6000  # without, the truth would sit in the middle


def test_the_choice_of_contested_pixels_leaves_the_levels_as_they_are() -> None:
    draws = np.random.default_rng(4)
    spread = draws.uniform(0.02, 0.1, 100_000)  # half of the pixels are near the threshold
    truth, samples = spread * draws.standard_normal(100_000), spread * draws.standard_normal((5, 100_000))
    chosen = calibration.contested(samples, truth)
    assert 0.2 < chosen.mean() < 0.8
    found = calibration.counts(calibration.pixel_ranks(samples, truth, draws)[chosen], 5)
    n = chosen.sum()
    assert np.abs(found - n / 6).max() < 4 * math.sqrt(n * 5 / 36)
    # The samples' own standard deviation chooses pixels whose truth lies inside too often.
    biased = calibration.counts(calibration.pixel_ranks(samples, truth, draws)[samples.std(0, ddof=1) > 0.05], 5)
    assert biased[[0, -1]].sum() < biased.sum() / 3 - 4 * math.sqrt(biased.sum() * 2 / 9)


def test_samples_that_agree_on_something_wrong_are_contested() -> None:
    samples, truth = np.full((9, 2), 0.5), np.array([-0.5, 0.5])
    np.testing.assert_array_equal(calibration.contested(samples, truth), [True, False])
    # Of 0, 0 and t the standard deviation is t / sqrt(3), by the formula without bias.
    far, near = 0.051 * math.sqrt(3), 0.049 * math.sqrt(3)
    np.testing.assert_array_equal(calibration.contested(np.zeros((2, 2)), np.array([far, near]), 0.05), [True, False])


@pytest.mark.parametrize(
    ("num_samples", "expected"), [(1, []), (2, [1]), (4, [1]), (9, [2, 1]), (19, [5, 2, 1]), (99, [25, 10, 5])]
)
def test_the_intervals_of_a_table(num_samples: int, expected: list[int]) -> None:
    assert calibration.interval_ranks(num_samples) == expected


def test_levels_are_exact_for_few_samples() -> None:
    found = gaussian_model(400, 5, num_samples=4)
    assert [round(c.expected, 12) for c in found.coverages()] == [0.2, 0.6]
    assert found.summary().startswith("60% intervals cover")
    assert all(abs(c.value - c.expected) < 3.5 * c.error for c in found.coverages())


def test_one_image_has_no_error_and_no_verdict() -> None:
    found = gaussian_model(1, 0)
    assert math.isnan(found.coverage(1).error) and not found.coverage(1).differs
    assert "one image" in found.verdict() and "±" not in found.summary()
    empty = Calibration(np.zeros((2, 20), dtype=int))
    assert empty.num_images == 0 and empty.summary() == "no pixels"
    assert {row["found"] for row in empty.table()} == {None}


def test_images_without_pixels_do_not_count() -> None:
    some = gaussian_model(10, 6)
    more = Calibration(np.concatenate([some.counts, np.zeros((5, SAMPLES + 1), dtype=int)]))
    assert more.coverage(1) == some.coverage(1) and more.num_images == 10


def test_the_table() -> None:
    rows = gaussian_model(10, 7).table()
    assert all(set(row) == set(calibration.COLUMNS) - {"pixels"} for row in rows)
    assert [row["expected"] for row in rows if row["quantity"] == "coverage"] == [0.5, 0.8, 0.9]
    assert sum(row["found"] for row in rows if row["quantity"] == "share_of_rank") == pytest.approx(1, abs=1e-4)


def test_the_standard_error_of_three_images_is_its_formula() -> None:
    """``sqrt(n / (n - 1) sum (part - ratio whole)^2) / sum whole``, here with 2, 4 and 7 of 10: 13 of 30."""
    found = Calibration(np.array([[8, 2], [6, 4], [3, 7]])).mean_rank()
    assert found.value == pytest.approx(13 / 30)
    deviations = np.array([2, 4, 7]) - 10 * 13 / 30
    assert found.error == pytest.approx(math.sqrt(3 / 2 * np.square(deviations).sum()) / 30)
    assert found.error == pytest.approx(0.14530, abs=5e-6)
    assert found.margin == pytest.approx(4.302653 * found.error, rel=1e-6)  # Student's t, 2 degrees of freedom, 97.5%
