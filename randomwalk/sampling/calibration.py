"""Are posterior samples calibrated? Ranks of the true pixels among those of the samples.

If S samples are drawn from the posterior, and the truth from the prior, then truth and samples are exchangeable: over
images and their measurements, the rank of the truth is uniform on 0 to S (simulation-based calibration: Talts et al.
2018, arXiv 1804.06788). Samples that are too narrow leave the truth outside too often, and the rank histogram rises at
both ends; samples that are too wide make it a hill; a shift tilts it.

The interval between the j-th smallest and the j-th largest sample then covers the truth with probability
``(S + 1 - 2j) / (S + 1)``, exactly and for any S.

**Ties.** True pixels are 8-bit, and black or white areas lie at the end of the range, where continuous samples scatter
around them meaninglessly. `pixel_ranks` therefore compares grey values, clipped and rounded as in image files, and
breaks ties at random: clipping and rounding treat truth and samples alike, so the ranks of correct samples stay
uniform. Pixels on which all agree (an empty background) have random ranks, which would dilute the others; `contested`
leaves them out. It selects by the standard deviation of the samples *and the truth* together, which treats the S + 1
alike: the coverage above still holds for the selected pixels, and a pixel where all samples agree on a wrong value is
among them. Selecting by the standard deviation of the samples alone would bias the coverage and hide such pixels. The
verdict is about the contested pixels. Over all pixels, slight residual noise on a black background counts as much as
a wrong shape: clipped samples are a few grey values brighter than the truth, and the ranks lean to 0.

**Errors.** Pixels of an image are dependent, images are not: the standard errors treat each image as one draw, however
many pixels it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

CONTESTED = 0.05
"""Standard deviation, in [-1, 1] pixel units, above which `contested` takes a pixel: 2.5 percent of the range."""
WANTED = (0.5, 0.8, 0.9)
"""Levels of the intervals in a table; with few samples, the nearest possible ones."""
CONFIDENCE = 0.95
"""Level of the confidence intervals: a difference counts if chance exceeds it in only 5% of all runs."""


# --- ranks -----------------------------------------------------------------------------------------------------------


def ranks(samples: np.ndarray, truth: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Number of samples below the truth, 0 to S; ties are broken at random.

    Args:
        samples: ``[S, ...]``.
        truth: ``[...]``.
        draws: breaks the ties.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return np.asarray(below + draws.integers(0, equal + 1))


def grey_values(x: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] as 8-bit grey values, clipped and rounded as in image files."""
    return np.asarray(np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.int16))


def pixel_ranks(samples: np.ndarray, truth: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """`ranks` of grey values; samples ``[S, ...]`` and truth ``[...]`` in [-1, 1] pixels."""
    return ranks(grey_values(samples), grey_values(truth), draws)


def contested(samples: np.ndarray, truth: np.ndarray, level: float = CONTESTED) -> np.ndarray:
    """Mask of pixels where samples and truth together, clipped to [-1, 1], have a standard deviation over ``level``."""
    pooled = np.concatenate([samples, truth[None]]).clip(-1, 1)
    return np.asarray(pooled.std(0, ddof=1) > level)


def counts(found: np.ndarray, num_samples: int) -> np.ndarray:
    """Number of pixels at each rank 0 to S, ``[S + 1]``."""
    return np.bincount(found.reshape(-1), minlength=num_samples + 1)


# --- statistics over images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """Share or mean over pixels, and its expected value.

    Attributes:
        value: over all pixels of all images.
        error: standard error, from the differences between images; NaN for fewer than two images.
        expected: value for exact posterior samples.
        images: number of images with such pixels.
    """

    value: float
    error: float
    expected: float
    images: int

    @property
    def margin(self) -> float:
        """Half-width of the confidence interval of the value (Student's t)."""
        return float(stdtrit(self.images - 1, (1 + CONFIDENCE) / 2)) * self.error if self.images > 1 else math.nan

    @property
    def differs(self) -> bool:
        """Whether value and expected value differ by more than the margin; False if the margin is unknown."""
        return abs(self.value - self.expected) > self.margin


def _estimate(part: np.ndarray, whole: np.ndarray, expected: float) -> Estimate:
    """``sum part / sum whole`` over images, and the standard error of this ratio estimator (linearized)."""
    images, total = int(np.count_nonzero(whole)), whole.sum()
    if total == 0:
        return Estimate(math.nan, math.nan, expected, 0)
    ratio = part.sum() / total
    error = math.nan
    if images > 1:
        error = math.sqrt(images / (images - 1) * ((part - ratio * whole) ** 2).sum()) / total
    return Estimate(float(ratio), float(error), expected, images)


def interval_ranks(num_samples: int, wanted: Sequence[float] = WANTED) -> list[int]:
    """Ranks j of the intervals with levels nearest to the wanted ones, without repetition, the narrowest first."""
    nearest = (round((num_samples + 1) * (1 - level) / 2) for level in wanted)
    return sorted({min(max(j, 1), num_samples // 2) for j in nearest}, reverse=True) if num_samples > 1 else []


@dataclass(frozen=True)
class Calibration:
    """Rank histograms of images, and their statistics.

    Args:
        counts: ``[images, S + 1]``, from `counts`.
    """

    counts: np.ndarray

    @property
    def num_samples(self) -> int:
        """S."""
        return int(self.counts.shape[1] - 1)

    @property
    def num_images(self) -> int:
        """Number of images with pixels."""
        return int(np.count_nonzero(self.counts.sum(1)))

    @property
    def num_pixels(self) -> int:
        """Number of pixels of all images."""
        return int(self.counts.sum())

    def _share(self, chosen: slice, expected: float) -> Estimate:
        return _estimate(self.counts[:, chosen].sum(1), self.counts.sum(1), expected)

    def histogram(self) -> list[Estimate]:
        """Share of the pixels at each rank; 1 / (S + 1) expected."""
        places = self.num_samples + 1
        return [self._share(slice(r, r + 1), 1 / places) for r in range(places)]

    def coverage(self, j: int) -> Estimate:
        """Share of the pixels between the j-th smallest and the j-th largest sample, ``1 <= j <= S / 2``."""
        places = self.num_samples + 1
        return self._share(slice(j, places - j), (places - 2 * j) / places)

    def coverages(self) -> list[Estimate]:
        """Coverages of all intervals, the narrowest first."""
        return [self.coverage(j) for j in range(self.num_samples // 2, 0, -1)]

    def mean_rank(self) -> Estimate:
        """Mean of rank / S; 1/2 expected, less if the samples are too bright, more if they are too dark."""
        positions = np.arange(self.num_samples + 1) / self.num_samples
        return _estimate(self.counts @ positions, self.counts.sum(1), 0.5)

    def widest(self) -> Estimate:
        """Coverage at the level nearest to 90 percent."""
        return self.coverage(interval_ranks(self.num_samples, [0.9])[0])

    def verdict(self) -> str:
        """Judgement of the spread and the mean of the samples, in words."""
        wide, rank = self.widest(), self.mean_rank()
        if math.isnan(wide.error):
            return "one image is too few to judge by"
        width = "too narrow" if wide.value < wide.expected else "too wide"
        shift = "too bright" if rank.value < rank.expected else "too dark"
        found = [word for word, differs in ((width, wide.differs), (shift, rank.differs)) if differs]
        return ", ".join(found) if found else "calibrated, within the error"

    def summary(self) -> str:
        """Coverage in words, ``90% intervals cover 71.0% ± 2.0%``."""
        wide = self.widest()
        if self.num_pixels == 0:
            return "no pixels"
        error = "" if math.isnan(wide.error) else f" ± {100 * wide.error:.1f}%"
        return f"{round(100 * wide.expected, 1):g}% intervals cover {100 * wide.value:.1f}%{error}"

    def table(self) -> list[dict[str, Any]]:
        """Rows of a long table: coverages at the levels of `WANTED`, mean rank, rank histogram."""
        intervals = [("coverage", j, self.coverage(j)) for j in interval_ranks(self.num_samples)]
        histogram = [("share_of_rank", r, share) for r, share in enumerate(self.histogram())]
        return [
            {
                "quantity": quantity,
                "rank": rank,
                "expected": round(found.expected, 6),
                "found": _rounded(found.value),
                "standard_error": _rounded(found.error),
                "images": found.images,
                "pixel_count": self.num_pixels,
            }
            for quantity, rank, found in [*intervals, ("mean_rank", None, self.mean_rank()), *histogram]
        ]


COLUMNS = ["pixels", "quantity", "rank", "expected", "found", "standard_error", "images", "pixel_count"]
"""Columns of calibration.csv: `Calibration.table` for each choice of ``pixels``."""


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
