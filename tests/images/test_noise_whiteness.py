"""White noise and that of cameras: told apart by the colours of tracked photographs, through Pillow's files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from randomwalk.images.noise_whiteness import colour_ratio, is_camera_noise
from randomwalk.lookup import find_file

NAMES = ("astronaut", "chelsea", "coffee")


def photograph(name: str) -> np.ndarray:
    """The middle 256 x 256 pixels of a tracked photograph, on [0, 255]."""
    with Image.open(find_file(f"data/photographs/{name}.png")) as image:
        pixels = np.asarray(image.convert("RGB"), float)
    top, left = ((side - 256) // 2 for side in pixels.shape[:2])
    return pixels[top : top + 256, left : left + 256]


def noisy(pixels: np.ndarray, std: float) -> np.ndarray:
    return pixels + std * np.random.default_rng(0).standard_normal(pixels.shape)


def as_file(pixels: np.ndarray, quality: int | None = None) -> Tensor:
    """Pixels as they are in a file of 8 bits: a PNG, or JPEG of some quality."""
    file = pixels.round().clip(0, 255).astype(np.uint8)
    if quality is not None:
        data = io.BytesIO()
        Image.fromarray(file).save(data, "JPEG", quality=quality)
        file = np.asarray(Image.open(data))
    return torch.from_numpy(file.transpose(2, 0, 1) / 127.5 - 1).float()


def interpolated(pixels: np.ndarray) -> np.ndarray:
    """Pixels of a Bayer sensor, green above blue, and the rest by SciPy's filter: the mean of the neighbours seen."""
    seen = np.zeros(pixels.shape)
    seen[::2, ::2, 1] = seen[::2, 1::2, 2] = seen[1::2, ::2, 0] = seen[1::2, 1::2, 1] = 1
    box = (3, 3, 1)
    return np.where(
        seen > 0, pixels, ndimage.uniform_filter(seen * pixels, box) / ndimage.uniform_filter(seen, box).clip(0.01)
    )


def test_the_ratio_is_one_for_white_noise_and_that_of_the_filter_for_filtered_noise() -> None:
    """Noise of equal variance in 500 x 500 pixels: the mean of 400 blocks with 2 x 10 high frequencies and more."""
    grey = np.full((500, 500, 3), 128.0)
    assert colour_ratio(as_file(noisy(grey, 10))) == pytest.approx(1, abs=0.06)
    n = ndimage.gaussian_filter(noisy(0 * grey, 30), (0.5, 0.5, 0), mode="wrap")
    k = np.pi * np.arange(8) / 8
    gain = ndimage.gaussian_filter1d(np.eye(1, 9, 4)[0], 0.5, mode="constant")
    response = np.array([(gain * np.cos(w * np.arange(-4, 5))).sum() for w in k]) ** 2
    power, radius = np.outer(response, response), np.hypot(*np.mgrid[:8, :8])
    expected = power[radius >= 6.5].mean() / power[(radius >= 2.5) & (radius < 4.5)].mean()
    found = colour_ratio(as_file(grey + n))
    assert found is not None and expected < 0.4 and found == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("std", [2, 5, 15, 50])
def test_white_noise_is_white(name: str, std: int) -> None:
    assert not is_camera_noise(as_file(noisy(photograph(name), std)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("std", [5, 10, 25])
def test_demosaicked_and_compressed_noise_is_not(name: str, std: int) -> None:
    y = noisy(photograph(name), std)
    assert is_camera_noise(as_file(interpolated(y)))
    assert is_camera_noise(as_file(interpolated(y), 90))
    assert is_camera_noise(as_file(y, 85))


def test_nothing_is_said_without_colours_noise_or_pixels() -> None:
    y = as_file(interpolated(noisy(photograph("coffee"), 15)))
    assert is_camera_noise(y)
    assert colour_ratio(y[:1]) is None and colour_ratio(y[:1].expand(3, -1, -1)) is None
    assert colour_ratio(y[:, :100, :100]) is None and colour_ratio(y[:, :7, :7]) is None
    assert colour_ratio(torch.zeros(3, 256, 256)) is None
    assert colour_ratio(torch.ones(3, 256, 256)) is None and not is_camera_noise(torch.ones(3, 256, 256))


def test_clipped_pixels_do_not_count() -> None:
    """Half of the picture is clipped at white, where what is left of the noise has another spectrum."""
    pixels = np.full((512, 512, 3), 128.0)
    pixels[:, 256:] = 255
    y = as_file(noisy(pixels, 10))
    assert colour_ratio(y) == pytest.approx(1, abs=0.1)
    low = ndimage.gaussian_filter(noisy(0 * pixels, 40), (1, 1, 0))
    y[:, :, 256:] = torch.maximum(y, as_file(pixels + low))[:, :, 256:]
    assert colour_ratio(y) == pytest.approx(1, abs=0.1)


def test_large_pictures_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    import randomwalk.images.noise_whiteness as module

    y = as_file(noisy(np.full((600, 800, 3), 128.0), 10))
    whole = colour_ratio(y)
    monkeypatch.setattr(module, "MOST", 2000)
    seen: list[int] = []
    cut = module._blocks
    monkeypatch.setattr(module, "_blocks", lambda *a: seen.append(len(cut(*a))) or cut(*a))
    assert colour_ratio(y) == pytest.approx(whole, abs=0.15) and max(seen) < 2500
