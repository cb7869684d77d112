"""Whether the spread of posterior samples is to be believed: ranks of the true pixels among those of the samples.

If S samples are drawn from the posterior, and the truth from the prior, then the truth is one more draw like them: its
rank among them, 0 to S, takes each value with probability 1 / (S + 1), over images and their measurements
(simulation-based calibration: Talts et al. 2018, arXiv 1804.06788). Too narrow samples leave the truth outside too
often, and the histogram of the ranks rises to both ends; too wide ones make it a hill; shifted ones tilt it.

The interval between the j-th smallest and the j-th largest sample then covers the truth with probability
``(S + 1 - 2j) / (S + 1)`` exactly, at any S.

**Ties.** True pixels are 8-bit, and in dark or bright areas at the end of the range, where continuous samples scatter
about them without saying anything. So `pixel_ranks` compares all of them as grey values, clipped and rounded as in
the pictures that are written, and breaks ties at random: clipping and rounding treat truth and samples alike, and the
ranks stay uniform where the samples are right. Pixels that all agree on (an empty background) have ranks of chance
alone, which would dilute what the others say; `contested` leaves them out. What it looks at is the standard deviation
of the samples *and the truth* together. It treats the S + 1 alike, so the levels above hold as they are for the
chosen pixels, and a pixel where all samples agree on something wrong is among them; choosing by the samples' standard
deviation alone would bias the one and hide the other. The verdict goes by these pixels. Over all pixels, a little noise
that is left in the samples of a black background counts as much as a wrong shape does: the clipped samples are a few
grey values brighter than the truth there, and the ranks lean to 0.

**Errors.** Pixels of an image depend on one another, images do not: the standard errors here treat each image as one
draw, whatever the number of its pixels.
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
"""Levels of the intervals that a table shows, or the nearest that there are with so few samples."""
CONFIDENCE = 0.95
"""A difference counts as one if chance alone makes a larger one in 1 - 0.95 of all runs."""


# --- ranks -----------------------------------------------------------------------------------------------------------


def ranks(samples: np.ndarray, truth: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """How many samples are below the truth, 0 to S; among those equal to it, it takes a place at random.

    Args:
        samples: ``[S, ...]``.
        truth: ``[...]``.
        draws: breaks the ties.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return np.asarray(below + draws.integers(0, equal + 1))


def grey_values(x: np.ndarray) -> np.ndarray:
    """Pixels of [-1, 1] as the 8-bit values that pictures of them hold: clipped and rounded."""
    return np.asarray(np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.int16))


def pixel_ranks(samples: np.ndarray, truth: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """`ranks` of grey values; samples ``[S, ...]`` and truth ``[...]`` in [-1, 1] pixels."""
    return ranks(grey_values(samples), grey_values(truth), draws)


def contested(samples: np.ndarray, truth: np.ndarray, level: float = CONTESTED) -> np.ndarray:
    """Where the standard deviation of samples and truth together, clipped to [-1, 1], is above ``level``: bool."""
    together = np.concatenate([samples, truth[None]]).clip(-1, 1)
    return np.asarray(together.std(0, ddof=1) > level)


def counts(found: np.ndarray, num_samples: int) -> np.ndarray:
    """How often each rank 0 to S occurs, ``[S + 1]``."""
    return np.bincount(found.reshape(-1), minlength=num_samples + 1)


# --- statistics over images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A share or a mean of pixels, and what it should be.

    Attributes:
        value: over all pixels of all images.
        error: its standard error, from the differences between images; NaN for fewer than two.
        expected: what it is for samples of the posterior.
        images: how many have any such pixels.
    """

    value: float
    error: float
    expected: float
    images: int

    @property
    def margin(self) -> float:
        """Half the width of the confidence interval around the value (Student's t)."""
        return float(stdtrit(self.images - 1, (1 + CONFIDENCE) / 2)) * self.error if self.images > 1 else math.nan

    @property
    def differs(self) -> bool:
        """Whether it is off by more than chance explains; never where that is not known."""
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
    """The j whose levels are nearest to the wanted ones, each once, those of the narrowest intervals first."""
    nearest = (round((num_samples + 1) * (1 - level) / 2) for level in wanted)
    return sorted({min(max(j, 1), num_samples // 2) for j in nearest}, reverse=True) if num_samples > 1 else []


@dataclass(frozen=True)
class Calibration:
    """Rank histograms of some images, and what they say.

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
        """Images with any pixels."""
        return int(np.count_nonzero(self.counts.sum(1)))

    @property
    def num_pixels(self) -> int:
        """Pixels of all images."""
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
        """Of all the intervals, the narrowest first."""
        return [self.coverage(j) for j in range(self.num_samples // 2, 0, -1)]

    def mean_rank(self) -> Estimate:
        """Mean of rank / S; 1/2 expected, less if the samples are too bright, more if they are too dark."""
        positions = np.arange(self.num_samples + 1) / self.num_samples
        return _estimate(self.counts @ positions, self.counts.sum(1), 0.5)

    def widest(self) -> Estimate:
        """Coverage at the level nearest to 90 percent."""
        return self.coverage(interval_ranks(self.num_samples, [0.9])[0])

    def verdict(self) -> str:
        """Whether the spread is to be believed, in words."""
        wide, rank = self.widest(), self.mean_rank()
        if math.isnan(wide.error):
            return "how far this is chance can't be told from one image"
        width = "too narrow" if wide.value < wide.expected else "too wide"
        shift = "too bright" if rank.value < rank.expected else "too dark"
        found = [word for word, differs in ((width, wide.differs), (shift, rank.differs)) if differs]
        return ", ".join(found) if found else "as it should be, within the error"

    def summary(self) -> str:
        """``90% intervals cover 71% ± 2%``, of which pixels is left to the caller."""
        wide = self.widest()
        if self.num_pixels == 0:
            return "no pixels"
        error = "" if math.isnan(wide.error) else f" ± {100 * wide.error:.1f}%"
        return f"{round(100 * wide.expected, 1):g}% intervals cover {100 * wide.value:.1f}%{error}"

    def table(self) -> list[dict[str, Any]]:
        """Rows of a table in long form: coverages at the levels of `WANTED`, mean rank, rank histogram."""
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
"""Of calibration.csv: `table` for each choice of ``pixels``."""


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
