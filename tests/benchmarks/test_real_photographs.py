"""The benchmark on photographs that were damaged without the library: how they are made, and a row from files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import real_photographs
import torch
from PIL import Image
from scipy import signal
from support import strangers
from support.common import ROOT
from support.photographs import load_model

from randomwalk.images import pictures

DRAWS = np.random.default_rng


def photo(side: int = 120) -> np.ndarray:
    return DRAWS(1).uniform(40, 210, (side, side, 3))


@pytest.mark.parametrize("name", strangers.KERNELS)
def test_a_point_of_light_becomes_the_kernel(name: str) -> None:
    kernel = strangers.KERNELS[name]()
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1)
    side = len(kernel) + 2
    sky = np.zeros((side + 2 * strangers.SURROUNDINGS + len(kernel) - 1,) * 2 + (3,))
    sky[len(sky) // 2, len(sky) // 2] = 200 / kernel.max()
    y = strangers.inside(strangers.blurred(sky, kernel, 0, side, DRAWS(0)), strangers.SURROUNDINGS)
    np.testing.assert_allclose(y[1:-1, 1:-1, 0], 200 * kernel / kernel.max(), atol=0.51)
    assert name.startswith("motion") == bool(np.abs(kernel - kernel[::-1, ::-1]).max() > 0.1 * kernel.max())


def test_the_blurred_picture_is_the_middle_of_the_larger_one() -> None:
    one = strangers.blurred_photograph(photo(), 32, DRAWS(0), strangers.disc(2.5), 0)
    larger = strangers.middle(photo(), 32 + 6)
    expected = signal.convolve2d(larger[..., 1], strangers.disc(2.5), "valid")
    np.testing.assert_allclose(strangers.decoded(one.files["photo.png"])[..., 1], expected, atol=0.51)
    np.testing.assert_array_equal(one.truth, strangers.inside(larger, 3))
    known = strangers.blurred_photograph(photo(), 32, DRAWS(0), strangers.disc(2.5), 0, surroundings=True)
    whole = strangers.decoded(known.files["photo.png"])
    np.testing.assert_array_equal(strangers.inside(whole, known.margin), one.before)


def test_edgetaper_keeps_the_middle_and_makes_the_border_continuous() -> None:
    y, kernel = photo(64), strangers.disc(2.5)
    tapered = strangers.edgetaper(y, kernel)
    np.testing.assert_allclose(tapered[8:-8, 8:-8], y[8:-8, 8:-8])
    assert np.abs(tapered[0] - tapered[-1]).mean() < 0.3 * np.abs(y[0] - y[-1]).mean()


def test_16_bits_are_read_as_they_were_written() -> None:
    pixels = DRAWS(0).uniform(0, 255, (5, 7, 3))
    for values in (pixels, pixels[..., 0]):
        found = pictures.read(strangers.encoded_in_16_bits(values), "photo.png")
        np.testing.assert_array_equal(found.pixels.squeeze(), np.rint(values * 257))


def test_a_bayer_sensor_keeps_a_third_and_even_colours() -> None:
    seen = strangers.mosaic(photo(8))
    assert (seen.sum(2) == 1).all() and seen.sum((0, 1)).tolist() == [16, 32, 16]
    np.testing.assert_allclose(strangers.demosaicked(np.full((8, 8, 3), 77.0)), 77)
    np.testing.assert_array_equal(strangers.demosaicked(photo(8))[seen > 0], photo(8)[seen > 0])


def test_known_pixels_of_a_painted_photograph_are_those_of_the_photograph() -> None:
    one = strangers.painted_photograph(photo(), 96, DRAWS(0), noise=5)
    assert one.known is not None and 0.5 < one.known.mean() < 0.95
    assert abs((one.before - one.truth)[one.known].std() - 5) < 0.2
    with Image.open(io.BytesIO(one.files["mask.png"])) as mask:
        assert len(np.unique(np.asarray(mask))) > 10  # soft edges


def test_scipy_fills_a_ramp_in_exactly() -> None:
    ramp = np.repeat((np.arange(96.0)[:, None] + np.arange(96))[..., None], 3, 2)
    one = strangers.square_photograph(ramp, 64, DRAWS(0), hole=9)
    assert one.known is not None and (~one.known).sum() == 81 and (one.before[~one.known] == 255).all()
    np.testing.assert_array_equal(strangers.interpolated(one), one.truth)
    sparse = strangers.sparse_photograph(ramp, 64, DRAWS(0), missing=0.5)
    inner = np.s_[4:-4, 4:-4]
    np.testing.assert_allclose(strangers.interpolated(sparse)[inner], sparse.truth[inner], atol=0.5)


def test_gain_and_variation_are_over_the_picture_before() -> None:
    one = strangers.small_photograph(photo(96), 64, DRAWS(0), factor=2, how="box")
    same = real_photographs.figures(one.before, one)
    assert same["gain"] == 0 and same["variation"] == 1
    flat = real_photographs.figures(np.full_like(one.truth, 99), one)
    assert flat["gain"] < 0 and flat["variation"] == 0


@pytest.mark.parametrize("row", [row for make in real_photographs.SECTIONS.values() for row in make()])
def test_every_row_makes_a_picture_of_its_size(row: real_photographs.Row) -> None:
    one = row.make(photo(160), 64, DRAWS(0))
    assert one.truth.shape == one.before.shape == (64, 64, 3)
    name, data = next(iter(one.files.items()))
    assert pictures.read(data, name).pixels.shape[0] in (64, 32, 16)


def test_a_row_is_restored_from_files(tmp_path: Path) -> None:
    words = ["--quick", "--crop", "64", "--sections", "enlargement", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert real_photographs.main(real_photographs.options().parse_args(words)) == 0
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gain = {row["method"]: float(row["value"]) for row in rows if row["metric"] == "gain"}
    assert gain["before"] == 0 and gain["set: bicubic"] > 0.5 and gain["set: nearest"] < 0
    assert (tmp_path / "out" / "real_photographs.png").is_file()


def test_dpir_restores_a_blurred_photograph_in_its_place() -> None:
    pytest.importorskip("deepinv")
    whole = np.asarray(Image.open(ROOT / "data" / "photographs" / "coffee.png").convert("RGB"), float)
    kernel = strangers.disc(2.5)
    one = strangers.blurred_photograph(whole, 64, DRAWS(0), kernel, 2)
    denoiser = load_model(ROOT / "pretrained_models" / "photo.safetensors", torch.device("cpu"), "fp32")
    before = real_photographs.psnr(one.before, one.truth)
    for padding, gain in (("valid", 3), ("circular", 1)):
        x = real_photographs.dpir(one, kernel, 2, padding, denoiser)
        assert real_photographs.psnr(x, one.truth) > before + gain
