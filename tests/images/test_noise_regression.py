"""The level of best denoising of pictures whose noise has been through Pillow's files and filters; photon counts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from randomwalk.images import noise_regression
from randomwalk.images.noise_estimation import ROUNDING, estimate_noise, estimate_photons
from randomwalk.images.noise_regression import COEFFICIENTS, estimate_level
from randomwalk.images.pictures import jpeg_steps
from randomwalk.images.sources import open_images
from randomwalk.lookup import find_file
from randomwalk.training.cameras import demosaicked

NAMES = ("astronaut", "chelsea", "coffee")


def photograph(name: str) -> np.ndarray:
    """The middle 192 x 192 pixels of a tracked photograph, on [0, 255]."""
    with Image.open(find_file(f"data/photographs/{name}.png")) as image:
        pixels = np.asarray(image.convert("RGB"), float)
    top, left = ((side - 192) // 2 for side in pixels.shape[:2])
    return pixels[top : top + 192, left : left + 192]


def noisy(pixels: np.ndarray, std: float) -> np.ndarray:
    y = pixels + std * np.random.default_rng(0).standard_normal(pixels.shape)
    return y.round().clip(0, 255)


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1).float()


def through(pixels: np.ndarray, kind: str, **options: int) -> tuple[Tensor, tuple[float, float]]:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    with Image.open(file) as image:
        y = tensor(np.asarray(image.convert("RGB"), float))
    file.seek(0)
    return y, jpeg_steps(file)


@pytest.mark.parametrize("name", NAMES)
def test_white_noise_is_found_as_before(name: str) -> None:
    y = tensor(noisy(photograph(name), 15))
    assert estimate_level(y) == pytest.approx(15 / 127.5, rel=0.12)
    y = tensor(noisy(photograph(name), 90))[:, :128, :128]  # more than the regression knows
    assert estimate_level(y) == estimate_noise(y)


@pytest.mark.parametrize("network", list(COEFFICIENTS))
@pytest.mark.parametrize("name", NAMES)
def test_clean_photographs_stay(name: str, network: str) -> None:
    assert estimate_level(tensor(photograph(name)), network=network) < 3.5 / 127.5


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_cameras_take_demosaicked_noise_for_what_it_is(name: str) -> None:
    """They are best at the level of the error, and the network for white noise at others."""
    sharp = photograph(name)
    y = tensor((255 * demosaicked(noisy(sharp, 15) / 255)).round().clip(0, 255))
    error = float((y - tensor(sharp)).square().mean().sqrt())
    assert 0.8 < estimate_level(y, network="photo_camera") / error < 1.4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("quality", "subsampling"), [(60, 2), (85, 0)])
def test_noise_of_jpeg_files_is_not_underestimated(name: str, quality: int, subsampling: int) -> None:
    """The best levels for noise of 10 are 10 to 20 of 255; compression leaves little that looks like white noise."""
    y, steps = through(noisy(photograph(name), 10), "jpeg", quality=quality, subsampling=subsampling)
    assert 9 / 127.5 < estimate_level(y, jpeg_steps=steps) < 26 / 127.5
    if (quality, subsampling) == (60, 2):
        assert estimate_noise(y) < 7 / 127.5


@pytest.mark.parametrize("name", NAMES)
def test_noise_that_was_filtered_is_found(name: str) -> None:
    def halves(values: np.ndarray) -> np.ndarray:  # each pixel beside its neighbour, as demosaicking leaves them
        return ndimage.convolve1d(ndimage.convolve1d(values, [0.25, 0.5, 0.25], axis=0), [0.25, 0.5, 0.25], axis=1)

    sharp = photograph(name)
    y = tensor((sharp + halves(noisy(sharp, 25) - sharp)).round().clip(0, 255))
    left = 25 * 0.375  # of the noise
    assert estimate_noise(y) < 0.75 * left / 127.5 < 0.9 * left / 127.5 < estimate_level(y) < 3 * left / 127.5
    file, _ = through(noisy(sharp, 25), "webp", quality=80)
    assert 15 / 127.5 < estimate_level(file) < 40 / 127.5


def test_clean_jpeg_files_have_the_noise_of_their_blocks() -> None:
    found = []
    for quality in (90, 30):
        y, steps = through(photograph("chelsea"), "jpeg", quality=quality)
        found.append(estimate_level(y, jpeg_steps=steps) * 127.5)
    assert found[0] < 6 < 8 < found[1] < 25


def test_grey_pictures_have_the_level_of_three_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = noisy(photograph("coffee").mean(2, keepdims=True), 15)
    y = tensor(grey)
    assert estimate_level(y) == estimate_level(y.expand(3, -1, -1)) == pytest.approx(15 / 127.5, rel=0.15)
    monkeypatch.setattr(noise_regression, "regression", lambda *_: np.log(60.0))
    assert estimate_level(y) == pytest.approx(60 / 127.5 / 3**0.5)


def test_windows_hold_known_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    y, seen = tensor(noisy(photograph("coffee"), 10)), []
    known = torch.ones(192, 192)
    known[:, 140:] = 0
    painted = torch.where(known > 0, y, torch.ones(()))
    monkeypatch.setattr(noise_regression, "regression", lambda w, *_: seen.append(w) or np.log(30.0))
    assert estimate_level(painted, known) == pytest.approx(30 / 127.5)
    assert len(seen) == 2 and all((window != 255).mean() > 0.9 for window in seen)
    assert estimate_level(y[:, :90, :90]) == estimate_noise(y[:, :90, :90])


def test_the_texture_of_most_windows_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter(np.log([20.0, 50.0, 60.0, 80.0]))
    monkeypatch.setattr(noise_regression, "regression", lambda *_: next(levels))
    found = estimate_level(tensor(noisy(photograph("coffee"), 8))) * 127.5
    assert found == pytest.approx(20**0.25 * 50**0.75)


def test_steps_of_a_jpeg_file_are_those_of_pillow(tmp_path: Path) -> None:
    Image.fromarray(photograph("coffee").astype(np.uint8)).save(tmp_path / "a.jpg", quality=60)
    Image.fromarray(photograph("coffee").astype(np.uint8)).save(tmp_path / "b.png")
    # ITU-T T.81, table K.1, at Pillow's quality 60: 80% of its entries.
    first = np.array([[16, 11, 10, 16], [12, 12, 14, 19], [14, 13, 16, 24], [14, 17, 22, 29]])
    [jpeg, png] = [open_images(tmp_path).jpeg_steps(i) for i in (0, 1)]
    last = np.array([[68, 109, 103, 77], [81, 104, 113, 92], [103, 121, 120, 101], [112, 100, 103, 99]])
    assert jpeg[0] == pytest.approx(np.floor((first * 80 + 50) / 100).mean())
    assert jpeg[1] == pytest.approx(np.floor((last * 80 + 50) / 100).mean()) and png == (0, 0)


@pytest.mark.parametrize(("peak", "read_std"), [(8, 0.0), (30, 0.0), (120, 0.0), (60, 0.05)])
def test_photons_are_counted(peak: float, read_std: float) -> None:
    """The variance at middling brightness is found to 30%, in smoothed pictures, in floats and in files."""
    draws = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(photograph("coffee"), (1.5, 1.5, 0)) * 0.8
    x = tensor(smooth).double().numpy()
    y = 2 * draws.poisson(peak * (x + 1) / 2) / peak - 1 + read_std * draws.standard_normal(x.shape)
    for picture in (y, y.clip(-1, 1)) if peak > 8 else (y,):  # a file cuts off a quarter of 8 photons
        found, read = estimate_photons(torch.from_numpy(picture))
        assert 2 * 0.8 / found + read**2 == pytest.approx(2 * 0.8 / peak + read_std**2, rel=0.3)


def test_the_least_noise_is_that_of_the_file() -> None:
    flat = torch.zeros(3, 128, 128)
    assert estimate_level(flat, least=0.05) == 0.05 and estimate_noise(flat) == ROUNDING
    assert estimate_noise(flat, least=1e-5) == 1e-5
