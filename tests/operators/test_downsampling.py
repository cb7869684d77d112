"""Downsampling against Pillow, SciPy and slices: the same pixels, at the same place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from randomwalk import InputError, operators
from randomwalk.operators import Operator
from randomwalk.operators.decimation import BlurredDecimation, downsample_with_kernel

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX, "nearest": Image.Resampling.NEAREST}
SIZES = [(16, 24, 2), (15, 21, 3), (32, 16, 4), (20, 10, 5), (4, 6, 2), (4, 4, 4)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)


def measured(x: np.ndarray, factor: int, downsampling: str) -> np.ndarray:
    operator = operators.make("super_resolution", image_shape=(1, *x.shape), factor=factor, downsampling=downsampling)
    return operator(torch.from_numpy(x)[None, None])[0, 0].numpy()


@pytest.mark.parametrize("downsampling", FILTERS)
@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_each_is_that_of_pillow(downsampling: str, height: int, width: int, factor: int) -> None:
    x = picture(height, width)
    small = Image.fromarray(x).resize((width // factor, height // factor), FILTERS[downsampling])
    np.testing.assert_allclose(measured(x, factor, downsampling), np.asarray(small), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_strided_takes_the_first_pixels(height: int, width: int, factor: int) -> None:
    x = picture(height, width)
    np.testing.assert_array_equal(measured(x, factor, "strided"), x[::factor, ::factor])


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_filters_do_not_move_the_picture(factor: int) -> None:
    """A ramp stays the ramp at the middle of each group of pixels, as SciPy and scikit-image have it."""
    ramp = np.add.outer(np.arange(12.0 * factor), 3 * np.arange(10.0 * factor)).astype(np.float32)
    middle = scipy.ndimage.zoom(ramp, 1 / factor, order=1, grid_mode=True, mode="nearest")
    for downsampling in ("bicubic", "bicubic_mirrored", "box"):
        found = measured(ramp, factor, downsampling)
        np.testing.assert_allclose(found[3:-3, 3:-3], middle[3:-3, 3:-3], rtol=1e-5)
    if factor % 2:
        np.testing.assert_allclose(measured(ramp, factor, "nearest"), middle, rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("downsampling", ["bicubic", "box"])
def test_a_dot_reduced_by_pillow_is_enlarged_in_its_place(downsampling: str, factor: int) -> None:
    rows, columns = np.mgrid[0:64, 0:48]
    dot = np.exp(-((rows - 30.5) ** 2 + (columns - 21.0) ** 2) / (2 * 6.0**2)).astype(np.float32)
    small = np.array(Image.fromarray(dot).resize((48 // factor, 64 // factor), FILTERS[downsampling]))
    operator = operators.make("super_resolution", image_shape=(1, 64, 48), factor=factor, downsampling=downsampling)
    large = operator.pinv(torch.from_numpy(small)[None, None])[0, 0].numpy()
    assert (large * rows).sum() / large.sum() == pytest.approx(30.5, abs=0.02)
    assert (large * columns).sum() / large.sum() == pytest.approx(21.0, abs=0.02)


@pytest.mark.parametrize("shape", [(5, 7), (4, 6), (3, 4)])
@pytest.mark.parametrize("factor", [2, 3])
def test_a_blur_by_scipy_and_every_second_pixel(shape: tuple[int, int], factor: int) -> None:
    draws, x = np.random.default_rng(1), picture(12, 18).astype(np.float64)
    kernel = draws.random(shape)
    small = scipy.ndimage.convolve(x, kernel, mode="wrap")[::factor, ::factor]
    operator = downsample_with_kernel((1, 12, 18), factor, torch.from_numpy(kernel))
    assert isinstance(operator, BlurredDecimation)
    np.testing.assert_allclose(operator(torch.from_numpy(x)[None, None])[0, 0].numpy(), small, atol=1e-12)


def test_a_separable_kernel_sees_nothing_beyond_the_border() -> None:
    draws, x = np.random.default_rng(1), picture(12, 18).astype(np.float64)
    kernel = np.outer(draws.random(5), draws.random(4))
    inside = scipy.ndimage.convolve(np.ones_like(x), kernel, mode="constant")
    small = (scipy.ndimage.convolve(x, kernel, mode="constant") * kernel.sum() / inside)[::2, ::2]
    operator = downsample_with_kernel((1, 12, 18), 2, torch.from_numpy(kernel))
    assert not isinstance(operator, BlurredDecimation)
    np.testing.assert_allclose(operator(torch.from_numpy(x)[None, None])[0, 0].numpy(), small, atol=1e-12)


def test_a_kernel_from_a_file_is_scaled(tmp_path: Path) -> None:
    kernel = np.random.default_rng(2).random((3, 5))
    np.save(tmp_path / "kernel.npy", kernel)
    settings = {"factor": 2, "downsampling": "strided", "file": str(tmp_path / "kernel.npy")}
    x = picture(8, 12).astype(np.float64)
    found = operators.make("super_resolution", image_shape=(1, 8, 12), **settings)(torch.from_numpy(x)[None, None])
    small = scipy.ndimage.convolve(x, kernel / kernel.sum(), mode="wrap")[::2, ::2]
    np.testing.assert_allclose(found[0, 0].numpy(), small, atol=1e-12)
    with pytest.raises(InputError, match="file: the kernel of a blur is for downsampling: strided"):
        operators.make("super_resolution", image_shape=(1, 8, 12), **{**settings, "downsampling": "box"})
    np.save(tmp_path / "kernel.npy", -kernel)
    with pytest.raises(InputError, match="expected a positive sum"):
        operators.make("super_resolution", image_shape=(1, 8, 12), **settings)


def test_a_kernel_off_the_image_at_the_border_wraps_around() -> None:
    """A row and a column whose weights all lie on one side leave nothing inside at the border."""
    kernel = torch.zeros(1, 7, dtype=torch.float64)
    kernel[0, 0] = 1  # looks three pixels to the right
    operator = downsample_with_kernel((1, 4, 8), 2, kernel)
    x = picture(4, 8).astype(np.float64)
    expected = np.roll(x, -3, axis=1)[::2, ::2]
    np.testing.assert_allclose(operator(torch.from_numpy(x)[None, None])[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("downsampling", ["bicubic", "box"])
def test_the_interpolation_of_a_small_picture_is_that_of_pillow(downsampling: str, factor: int) -> None:
    operator = operators.make("super_resolution", image_shape=(1, 8 * factor, 6 * factor), factor=factor,
                              downsampling=downsampling)  # fmt: skip
    small = picture(8, 6)
    large = Image.fromarray(small).resize((6 * factor, 8 * factor), Image.Resampling.BICUBIC)
    found = operator.interpolated(torch.from_numpy(small)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(found, np.asarray(large), rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"downsampling": "nearest"}, {"downsampling": "strided"}, {"kernel": (3, 4)},
                                      {"kernel": (1, 5)}])  # fmt: skip
@pytest.mark.parametrize("factor", [2, 3])
def test_an_interpolation_goes_through_the_pixels_in_their_place(settings: dict[str, Any], factor: int) -> None:
    if "kernel" in settings:
        kernel = torch.zeros(settings["kernel"], dtype=torch.float64)
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1  # a point stays a point
        operator: Operator = downsample_with_kernel((2, 4 * factor, 6 * factor), factor, kernel)
    else:
        shape = (2, 4 * factor, 6 * factor)
        operator = operators.make("super_resolution", image_shape=shape, factor=factor, **settings)
    small = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 2, 4, 6)))
    torch.testing.assert_close(operator(operator.interpolated(small)), small, rtol=1e-12, atol=1e-12)
