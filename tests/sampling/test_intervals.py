"""Recalibrated intervals: their guarantee, on simulated images and through the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling_tools import make_config

from randomwalk.cli import calibrate
from randomwalk.config.files import load_sampling
from randomwalk.config.sampling import SampleConfig
from randomwalk.errors import InputError
from randomwalk.sampling import intervals
from randomwalk.sampling import run as sampling
from randomwalk.sampling.intervals import FLOOR, bounds, factor, fewest, read, scores


def coverage_of_others(n: int, level: float, rule: Any, pixels: int, seed: int, repeats: int = 4000) -> float:
    """Mean share of the pixels of a new image that the factor of n others covers.

    Scores of an image are a common factor times its own: dependent within an image, as those of pictures are.
    """
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(repeats):
        images = np.abs(rng.standard_normal((n + 1, pixels))) * np.exp(rng.standard_normal((n + 1, 1)))
        covered.append((images[-1] <= rule(list(images[:-1]), level)).mean())
    return float(np.mean(covered))


@pytest.mark.parametrize(("n", "level", "pixels"), [(9, 0.9, 4), (19, 0.8, 1), (19, 0.9, 8), (40, 0.5, 3)])
def test_images_not_seen_are_covered_as_often_as_it_says(n: int, level: float, pixels: int) -> None:
    """Between the level and 2 / (n + 1) above it, within three standard errors."""
    found = coverage_of_others(n, level, factor, pixels, seed=n)
    error = 3 * (0.25 / 4000) ** 0.5
    assert level - error < found < level + 2 / (n + 1) + error


def plain_quantile(images: list[np.ndarray], level: float) -> float:
    """Quantile of all scores, without the new image's place among them."""
    return float(np.quantile(np.concatenate(images), level, method="inverted_cdf"))


def quantile_of_pixels(images: list[np.ndarray], level: float) -> float:
    """Split conformal rule for pixels, as if those of an image were exchangeable with all others."""
    every = np.sort(np.concatenate(images))
    return float(every[min(math.ceil((len(every) + 1) * level), len(every)) - 1])


@pytest.mark.parametrize(
    ("wrong", "n", "level", "pixels"),
    [(plain_quantile, 10, 0.9, 1), (plain_quantile, 4, 0.8, 100), (quantile_of_pixels, 4, 0.8, 100)],
)
def test_wrong_rules_cover_too_few(wrong: Any, n: int, level: float, pixels: int) -> None:
    error = 3 * (0.25 / 4000) ** 0.5
    assert coverage_of_others(n, level, wrong, pixels, seed=n) < level - error
    assert coverage_of_others(n, level, factor, pixels, seed=n) > level - error


def test_images_of_a_known_posterior_with_samples_that_are_too_narrow() -> None:
    """x ~ Normal(0, C), y = x + 0.5 n; four samples of half the posterior's spread, shifted by a third of it.

    From 19 images, 300 times: the intervals cover 80% of the pixels of another image, while ``mean ± 1.28 std``, right
    for many exact samples, covers less than 50%.
    """
    rng, pixels, n = np.random.default_rng(5), 16, 19
    distance = np.abs(np.subtract.outer(np.arange(pixels), np.arange(pixels)))
    prior = np.exp(-distance / 5)
    gain = prior @ np.linalg.inv(prior + 0.25 * np.eye(pixels))
    root, spread = np.linalg.cholesky(prior), np.linalg.cholesky(prior - gain @ prior)
    recalibrated, as_it_is = [], []
    for _ in range(300):
        truth = rng.standard_normal((n + 1, pixels)) @ root.T
        y = truth + 0.5 * rng.standard_normal(truth.shape)
        draws = y @ gain.T + 0.1 + 0.5 * rng.standard_normal((4, n + 1, pixels)) @ spread.T
        mean, std = draws.mean(0), draws.std(0, ddof=1)
        q = factor(list(scores(mean, std, truth)[:-1]), 0.8)
        low, high = bounds(mean[-1], std[-1], q, cut=False)
        recalibrated.append(((low <= truth[-1]) & (truth[-1] <= high)).mean())
        as_it_is.append((np.abs(truth[-1] - mean[-1]) <= 1.28 * std[-1]).mean())
    error = 3 * np.std(recalibrated, ddof=1) / 300**0.5
    assert 0.8 - error < np.mean(recalibrated) < 0.8 + 2 / (n + 1) + error
    assert np.mean(as_it_is) < 0.5


def test_the_factor_by_hand() -> None:
    """Nine images of two pixels, of which half a pixel may be missed at the level 0.85: 0.85 * 10 = 8.5 of 9."""
    images = [np.array([k + 1.0, 0.5]) for k in range(9)]
    assert factor(images, 0.85) == 8.0
    assert factor(images, 0.9) == 9.0
    assert factor([np.ones(4)] * 9, 0.9) == 1.0


def test_images_of_different_sizes_count_alike() -> None:
    small, large = np.full(2, 5.0), np.full(2000, 1.0)
    assert factor([small] * 5 + [large] * 5, 0.5) == 5.0  # 5.5 of 10 images


def test_too_few_images_for_the_level() -> None:
    assert fewest(0.9) == 9 and fewest(0.5) == 1 and fewest(0.95) == 19
    with pytest.raises(InputError, match=r"a level of 0.9 needs at least 9 images with their truth; found 8"):
        factor([np.ones(3)] * 8, 0.9)


def test_scores_and_bounds_say_the_same() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(-0.9, 0.9, (3, 8, 8)), rng.uniform(0, 0.2, (3, 8, 8))
    truth = np.clip(mean + 0.2 * rng.standard_normal(mean.shape), -1, 1)
    low, high = bounds(mean, std, 1.3)
    inside = (low <= truth) & (truth <= high)
    assert 0.3 < inside.mean() < 0.9
    assert np.array_equal(inside, scores(mean, std, truth) <= 1.3)
    assert low.min() >= -1 and high.max() <= 1
    assert np.all(scores(mean, 0 * std, mean + FLOOR) == pytest.approx(1.0))  # no spread: one grey level is one
    low, high = bounds(3 * mean, std, 1.3, cut=False)  # values of arrays
    assert np.array_equal((low <= 3 * truth) & (3 * truth <= high), scores(3 * mean, std, 3 * truth) <= 1.3)
    assert high.max() > 1


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a run on twelve images of four samples each, and its calibration."""
    folder = tmp_path_factory.mktemp("calibrated")
    config = make_config(folder, 12, num_samples=4)
    assert sampling.run(config) == 0
    assert calibrate.command([str(folder / "run"), "--level", "0.8", "--output", str(folder / "q.json")]) == 0
    return folder, folder / "q.json"


def config_of(folder: Path, **changes: Any) -> SampleConfig:
    """The config of the run, with another output."""
    made = load_sampling(folder / "run" / "config.yaml")
    assert isinstance(made, SampleConfig)
    return SampleConfig.model_validate({**made.model_dump(exclude_unset=True), **changes})


def test_a_run_is_calibrated_on_its_own_truths(calibrated: tuple[Path, Path]) -> None:
    folder, file = calibrated
    made = read(file)
    assert (made.level, made.images) == (0.8, 12) and made.settings["num_samples"] == 4
    found = intervals.scores_of_run(sampling.RunFolder(folder / "run"))
    assert np.mean([(one <= made.factor).mean() for one in found]) == pytest.approx(13 / 12 * 0.8, abs=0.02)


def test_another_run_takes_the_intervals(
    calibrated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = calibrated
    config = config_of(folder, output=str(tmp_path / "out"), intervals=str(file), seed=1)
    assert sampling.run(config) == 0
    said = capsys.readouterr()
    assert "80% intervals, recalibrated on 12 images: ± " in said.out and "of the true pixels" in said.out
    assert "was found with other settings" not in said.err
    made, arrays = read(file), tmp_path / "out" / "arrays"
    for low in sorted(arrays.glob("*_low.npy")):
        mean, std, high = (np.load(str(low).replace("_low", f"_{kind}")) for kind in ("mean", "std", "high"))
        assert np.array_equal(np.load(low), bounds(mean, std, made.factor)[0])
        assert np.array_equal(high, bounds(mean, std, made.factor)[1])
    assert len(list(arrays.glob("*_low.npy"))) == len(list((tmp_path / "out" / "images").glob("*_high.png"))) == 12


def test_other_settings_than_those_calibrated_are_named(
    calibrated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = calibrated
    config = config_of(folder, output=str(tmp_path / "out"), intervals=str(file), num_samples=3)
    assert sampling.run(config) == 0
    assert f"intervals: {file}: was found with other settings, so its level may not hold (num_samples: 4, here 3)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a file that randomwalk calibrate writes"),
        ("[1]", "is not a file that randomwalk calibrate writes"),
        (json.dumps({"level": 0.9}), "missing 2 required"),
        (json.dumps({"level": 0.9, "factor": -1, "images": 9}), "is not a number in its range"),
        (json.dumps({"level": 0.9, "factor": 1, "images": 9, "settings": []}), "settings is not a section"),
        ("[" * 100_000, "is not a file that randomwalk calibrate writes"),
    ],
)
def test_other_files_are_one_message(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(InputError, match=r"q.json: is not a file that randomwalk calibrate writes") as caught:
        read(tmp_path / "q.json")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_calibrated_is_one_message(
    calibrated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = calibrated

    def said(*words: str) -> str:
        assert calibrate.command(list(words)) == 2
        return capsys.readouterr().err

    run, out = str(folder / "run"), ["--output", str(tmp_path / "q.json")]
    assert "--level: found 1.5; allowed: a share between 0 and 1" in said(run, "--level", "1.5", *out)
    assert "a level of 0.95 needs at least 19 images" in said(run, "--level", "0.95", *out)
    assert "exists already; replace it with --overwrite" in said(run, "--output", str(file))
    assert "there is no folder" in said(run, "--output", str(tmp_path / "none" / "q.json"))
    assert "there is no such folder" in said(str(tmp_path / "none"), *out)
    config = config_of(folder, output=str(tmp_path / "one"), num_samples=1)
    assert sampling.run(config) == 0
    capsys.readouterr()
    assert "has one sample of each image" in said(str(tmp_path / "one"), *out)
    assert not (tmp_path / "q.json").exists()
