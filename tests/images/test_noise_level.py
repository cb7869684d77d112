"""The noise of a picture estimated from the picture alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images import noise_estimation as noise_level
from randomwalk.images.noise_estimation import ROUNDING, estimate_noise


def scene(channels: int, size: int = 128) -> Tensor:
    """A picture with shading, edges, stripes and texture, far from black and white."""
    draws = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    colours = draws.uniform(0.3, 1, (6, channels))
    layers = [
        rows, (columns > 0.5), (np.hypot(rows - 0.4, columns - 0.3) < 0.2), np.sin(40 * columns * rows),
        (rows + columns > 1.5) * np.sin(90 * rows), (rows > 0.8) * draws.standard_normal((size, size)) * 0.3,
    ]  # fmt: skip
    x = sum(np.multiply.outer(colour, layer) for colour, layer in zip(colours, layers, strict=True))
    return torch.from_numpy(0.25 * (x - x.mean())).float().clamp(-0.6, 0.6)


def noisy(x: Tensor, std: float, seed: int = 0) -> Tensor:
    return x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("of_255", [2, 10, 25, 50])
@pytest.mark.parametrize(("channels", "tolerance"), [(3, 0.03), (1, 0.15)])
def test_noise_is_found_in_a_textured_picture(of_255: int, channels: int, tolerance: float) -> None:
    std = 2 * of_255 / 255
    x = scene(channels)
    assert x.std() > 0.1  # of which the noise has to be told apart
    assert estimate_noise(noisy(x, std)) == pytest.approx(std, rel=tolerance)


@pytest.mark.parametrize(("channels", "tolerance"), [(3, 0.02), (1, 0.1)])
def test_noise_alone(channels: int, tolerance: float) -> None:
    """In colours the mean of all variances is taken, which is exact; the smallest ones, of grey, are a little small."""
    found = [estimate_noise(noisy(torch.zeros(channels, 96, 96), 0.1, seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(0.1, rel=tolerance)


def test_pictures_of_eight_bits_whose_noise_is_clipped() -> None:
    """A dark and a bright half, in which half the noise is cut off: the patches that show it whole decide."""
    x = torch.zeros(3, 128, 128)
    x[:, :40], x[:, 80:] = -1, 1
    y = ((noisy(x, 0.1).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert estimate_noise(y) == pytest.approx(0.1, rel=0.05)


def as_jpeg(y: Tensor, quality: int, subsampling: int) -> Tensor:
    """Through a file of 8 bits; subsampling 0 keeps the colours, 2 halves their resolution."""
    file, pixels = io.BytesIO(), ((y + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality, subsampling=subsampling)
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("of_255", [10, 25])
@pytest.mark.parametrize(("quality", "subsampling"), [(97, 0), (97, 2), (90, 2)])
def test_noise_of_a_jpeg_file_whose_colours_are_subsampled(
    of_255: int, quality: int, subsampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    std = 2 * of_255 / 255
    y = as_jpeg(noisy(scene(3), std), quality, subsampling)
    assert estimate_noise(y) == pytest.approx(std, rel=0.2)
    monkeypatch.setattr(noise_level, "SUBSAMPLED", float("inf"))
    in_colours = estimate_noise(y)
    assert in_colours < 0.2 * std if subsampling else in_colours == pytest.approx(std, rel=0.1)


def test_grey_channels_that_are_equal() -> None:
    y = noisy(scene(1), 0.1)
    assert estimate_noise(y.expand(3, -1, -1)) == estimate_noise(y) == pytest.approx(0.1, rel=0.15)


def test_only_known_pixels_count() -> None:
    y = noisy(scene(3), 0.1)
    known = torch.ones(128, 128)
    known[30:90, 20:70] = 0
    painted = torch.where(known == 1, y, 0.9 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    assert estimate_noise(painted) > 0.12
    assert estimate_noise(painted, known) == pytest.approx(0.1, rel=0.06)


def test_a_drawing_without_noise_has_that_of_rounding() -> None:
    assert estimate_noise(torch.zeros(3, 64, 64)) == ROUNDING


def test_large_pictures_take_no_more_than_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    y = noisy(scene(3), 0.1)
    seen = []

    def count(patches: Tensor, was: Callable[[Tensor], np.ndarray] = noise_level._variances) -> np.ndarray:
        seen.append(len(patches))
        return was(patches)

    monkeypatch.setattr(noise_level, "_variances", count)
    monkeypatch.setattr(noise_level, "MOST_PATCHES", 2000)
    assert estimate_noise(y) == pytest.approx(0.1, rel=0.15)
    assert max(seen) <= 2000


@pytest.mark.parametrize("size", [(4, 64), (12, 12)])
def test_too_little_is_said(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"can't be estimated from \d+ patches .* it takes 375"):
        estimate_noise(torch.randn(3, *size))


def test_scattered_pixels_are_too_little() -> None:
    known = (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    with pytest.raises(InputError, match="from 0 patches of 5x5 known pixels"):
        estimate_noise(noisy(scene(3, 64), 0.1), known)


@pytest.mark.parametrize(("ratio", "subsampled"), [(3, False), (4, False), (6, True)])
def test_the_luma_decides_where_its_noise_is_five_times_that_of_the_colours(ratio: float, subsampled: bool) -> None:
    """Noise of b in each channel, and one common to all, with which the luma's is ``ratio`` times what b gives."""
    b, weights = 0.02, (0.299**2 + 0.587**2 + 0.114**2)
    a = b * (weights * (ratio**2 - 1)) ** 0.5
    y = noisy(torch.zeros(3, 128, 128), b) + a * torch.randn((1, 128, 128), generator=torch.Generator().manual_seed(9))
    assert estimate_noise(y) == pytest.approx(ratio * b if subsampled else b, rel=0.12)
