"""Intervals that cover the truth as often as they say, by recalibration on images whose truth is known.

The interval of a pixel is ``mean ± q s``, with mean and standard deviation of the samples of its image and
``s = sqrt(std^2 + FLOOR^2)``. The samples may be of any sampler, biased or too narrow: q makes up for it on average.
With the score ``|truth - mean| / s`` of a pixel, an image misses the share

    L_i(q) = share of its pixels whose score is above q,

which lies in [0, 1] and falls with q. From n images q is the smallest with

    (L_1(q) + ... + L_n(q) + 1) / (n + 1) <= alpha.

**Guarantee** (conformal risk control, Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814, theorem 1):
if these n images and a new one, with their measurements and samples, are exchangeable, then ``E[L_{n+1}(q)] <= alpha``:
on average over images the intervals cover at least the share ``1 - alpha`` of the pixels. Proof in a line: the 1 is at
least the new image's loss, so q is no smaller than the same rule with all n + 1 images, which none of them is special
to. The share is at most ``2 / (n + 1)`` above ``1 - alpha`` if no two scores are equal. The guarantee is neither for
each single image nor for each kind of pixel: edges may be missed more often than flat parts.

Exchangeable means that the new picture was measured in the same way, by the same operator with the same noise, and
that its subject might as well have been among the n. Photographs of another kind, or a blur that is only thought to be
known, are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from randomwalk.config.resumption import differences
from randomwalk.config.sampling import SampleConfig
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.report import pictures_of

FLOOR = 1 / 127.5
"""One of 255, in [-1, 1] pixel units: no interval is narrower than rounding."""


def scores(mean: np.ndarray, std: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``|truth - mean| / sqrt(std^2 + FLOOR^2)`` of each pixel, all of one shape."""
    return np.asarray(np.abs(truth - mean) / np.hypot(std, FLOOR))


def scores_of_run(folder: RunFolder) -> list[np.ndarray]:
    """`scores` of the images of a finished run, from its files.

    Raises:
        InputError: a file is missing or damaged.
    """
    found = []
    for _, names in sorted(pictures_of(folder).items()):
        if "truth" not in names:
            continue
        stem = PurePosixPath(names["truth"]).name.removesuffix("_truth.png")
        mean, std, truth = (folder.read_array(f"arrays/{stem}_{kind}.npy") for kind in ("mean", "std", "truth"))
        if not mean.shape == std.shape == truth.shape:
            raise InputError(f"{folder.file(f'arrays/{stem}_truth.npy')}: does not have the shape of {stem}_mean.npy")
        found.append(scores(mean, std, truth))
    return found


def bounds(mean: np.ndarray, std: np.ndarray, factor: float, cut: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of ``mean ± factor sqrt(std^2 + FLOOR^2)``.

    Args:
        mean, std: of the samples, of one shape.
        factor: q.
        cut: whether the ends are cut to [-1, 1], where pixels of pictures are; arrays have values beyond.
    """
    half = factor * np.hypot(std, FLOOR)
    low, high = mean - half, mean + half
    return (np.clip(low, -1, 1), np.clip(high, -1, 1)) if cut else (low, high)


def fewest(level: float) -> int:
    """Smallest number n of images for a level: below it no q has ``1 / (n + 1) <= 1 - level``."""
    return math.ceil(level / (1 - level) - 1e-9)


def factor(found: Sequence[np.ndarray], level: float) -> float:
    """The factor q of the module's rule.

    Args:
        found: `scores` of the images, an array for each.
        level: share of the pixels to cover, ``1 - alpha``.

    Raises:
        InputError: there are too few images for the level.
    """
    n = len(found)
    if n < fewest(level):
        raise InputError(
            f"a level of {level:g} needs at least {fewest(level)} images with their truth; found {n}; use more images "
            "or a lower level"
        )
    every = np.concatenate([np.ravel(one) for one in found])
    weights = np.repeat([1 / one.size for one in found], [one.size for one in found])
    order = np.argsort(every)
    covered = np.cumsum(weights[order])  # sum over the images of 1 - L_i at each score
    first = int(np.searchsorted(covered, (n + 1) * level - 1e-9))
    return float(every[order][min(first, len(every) - 1)])


@dataclass(frozen=True)
class Intervals:
    """Recalibration of a run's samples.

    Attributes:
        level: share of the pixels that the intervals cover on average.
        factor: q.
        images: number n of images that it was found on.
        settings: of the run, that decide what its samples are.
    """

    level: float
    factor: float
    images: int
    settings: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The file's contents."""
        return json.dumps(asdict(self), indent=1) + "\n"


def settings_of(config: SampleConfig) -> dict[str, Any]:
    """Settings that decide what the samples of a picture are, and how it was measured."""
    keys = {"network", "guidance", "measurement", "sampler", "start", "num_samples"}
    whole = config.model_dump(mode="json", include=keys)
    whole["measurement"].pop("given", None)
    return whole


def read(path: Path) -> Intervals:
    """Read a file that `randomwalk calibrate` wrote.

    Raises:
        InputError: it is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        made = Intervals(**data)
        numbers = [made.level, made.factor, made.images]
        if not all(type(n) in (int, float) and math.isfinite(n) and n > 0 for n in numbers) or made.level >= 1:
            raise ValueError("level, factor or images is not a number in its range")
        if not isinstance(made.settings, dict):
            raise ValueError("settings is not a section")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"intervals: {path}: is not a file that randomwalk calibrate writes ({reason})") from error
    return made


def notes(made: Intervals, config: SampleConfig) -> list[str]:
    """One line if the run is another than the one that was calibrated, with the settings that differ."""
    changed = differences(made.settings, settings_of(config))
    found = [f"{key}: {old}, here {new}" for key, (old, new) in changed.items()]
    if not found:
        return []
    return [
        f"intervals: {config.intervals}: was found with other settings, so its level may not hold "
        f"({'; '.join(found[:3])}{'; ...' if len(found) > 3 else ''})"
    ]


def remark(made: Intervals, halves: Sequence[float], covered: Sequence[float]) -> str:
    """The intervals of a run in words.

    Args:
        halves: mean half width for each image, in [-1, 1] pixel units.
        covered: share of the true pixels inside, for each image; empty without the truth.
    """
    width = 127.5 * sum(halves) / len(halves)
    said = f"{100 * made.level:g}% intervals, recalibrated on {made.images} images: ± {width:.1f} of 255 on average"
    if covered:
        said += f"; they cover {100 * sum(covered) / len(covered):.1f}% of the true pixels"
    return said
