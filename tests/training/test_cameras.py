"""Noise of cameras as a share of the training examples: its level, its colour, and where it is white all the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from randomwalk.config import TrainConfig
from randomwalk.rng import generator
from randomwalk.training import cameras
from randomwalk.training.cameras import GAMMA, SPREAD, STRONGEST, demosaicked, photographed
from randomwalk.training.examples import Examples, split_images


def photo(seed: int = 0, side: int = 48) -> np.ndarray:
    """A smooth random picture ``[3, side, side]`` in [-1, 1]."""
    coarse = generator(seed).uniform(-0.8, 0.8, (3, 4, 4)).astype(np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], (side, side), mode="bicubic")[0].numpy()


def errors(x: np.ndarray, sigma: float, count: int, seed: int = 0) -> list[tuple[np.ndarray, float]]:
    return [photographed(x, sigma, generator(seed, k)) for k in range(count)]


@pytest.mark.parametrize("noise", [3, 10, 25, 50])
def test_the_level_is_that_of_the_error_up_to_a_known_factor(noise: int) -> None:
    logs = []
    for error, level in errors(photo(), noise / 127.5, 200, noise):
        assert error.shape == (3, 48, 48) and np.isfinite(error).all()
        logs.append(math.log(level / np.sqrt(np.mean(error**2))))
    assert np.mean(logs) == pytest.approx(0, abs=4 * SPREAD / math.sqrt(200))
    assert np.std(logs) == pytest.approx(SPREAD, rel=0.2)  # 4 standard errors


def test_a_photograph_has_whole_grey_values_in_8_bits() -> None:
    x = photo()
    for error, _ in errors(x, 0.1, 30):
        pixels = (x.clip(-1, 1) + error + 1) * 127.5
        assert (
            np.abs(pixels - np.rint(pixels)).max() < 1e-3 and 0 <= np.rint(pixels).min() <= np.rint(pixels).max() <= 255
        )


def test_neighbours_and_colours_have_noise_in_common() -> None:
    products = []
    for n, _ in errors(np.zeros((3, 48, 48), np.float32), 25 / 127.5, 200, 3):
        square = max(np.mean(n**2), 1e-9)
        products.append([np.mean(n[:, :, 1:] * n[:, :, :-1]) / square, np.mean(n[0] * n[2]) / square])
    beside, colours = np.mean(products, 0)
    assert beside > 0.51 and colours > 0.45  # white noise: 0 +- 0.002; without demosaicking 0.44 beside


def test_noise_of_the_stated_strength_enters_white_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """With shot noise too, whose strength is given at white; in the shadows the gamma curve makes it stronger."""
    monkeypatch.setattr(cameras, "demosaicked", lambda y: y)
    monkeypatch.setattr(cameras, "jpeg", lambda pixels, *_: pixels)
    monkeypatch.setattr(cameras.ndimage, "gaussian_filter", lambda y, _: y)
    x = np.concatenate([np.full((3, 48, 24), -0.6), np.full((3, 48, 24), 0.6)], 2).astype(np.float32)
    stds = np.array([[error[..., :20].std(), error[..., 28:].std()] for error, _ in errors(x, 0.05, 120)]) / 0.05
    noisy = stds[stds[:, 1] > 0.1]
    white, shot = noisy[noisy[:, 0] / noisy[:, 1] < 1.1], noisy[noisy[:, 0] / noisy[:, 1] > 1.1]
    assert len(white) > 25 and len(shot) > 45 and 5 < len(stds) - len(noisy) < 40
    assert np.allclose(white, 1, atol=0.08)
    # d (y ** (1 / gamma)) / dy = y ** (1 / gamma - 1) / gamma at y = 0.8 ** gamma, times gamma sqrt(y + read)
    bright = 0.8 ** (1 - GAMMA) * np.sqrt(0.8**GAMMA + np.array([0.0, 0.05]))
    assert np.all(shot[:, 0] > 1.15)  # the same at 0.2 without read noise
    assert bright[0] - 0.08 < shot[:, 1].min() and shot[:, 1].max() < bright[1] + 0.08


def test_demosaicking_keeps_what_the_sensor_saw_and_flat_colours() -> None:
    pixels = generator(0).uniform(0, 1, (12, 14, 3))
    y = demosaicked(pixels)
    assert np.array_equal(y[::2, ::2, 0], pixels[::2, ::2, 0])
    assert np.array_equal(y[1::2, 1::2, 2], pixels[1::2, 1::2, 2])
    assert np.array_equal(y[::2, 1::2, 1], pixels[::2, 1::2, 1])
    assert not np.array_equal(y, pixels)
    assert np.allclose(demosaicked(np.broadcast_to([0.2, 0.5, 0.8], (12, 14, 3))), [0.2, 0.5, 0.8])
    ramp = np.broadcast_to(np.arange(14.0)[None, :, None], (12, 14, 3))
    assert np.allclose(demosaicked(ramp)[:, 2:-2], ramp[:, 2:-2])


def config(folder: Path, camera: float, **other: object) -> TrainConfig:
    return TrainConfig.model_validate({
        "output": "unused", "num_images": 64, "network": {"name": "photo_unet", "image_size": 16},
        "denoiser": {"name": "edm"}, "batch_size": 64,
        "data": {"path": str(folder), "image_size": 16, "fit": "crop", "num_validation": 0, "camera": camera},
        "objective": {"levels": {"name": "log_normal", "mean": -1.6, "std": 1.2}}, **other,
    })  # fmt: skip


def test_a_share_of_the_examples_has_it_below_the_strongest_level(tmp_path: Path) -> None:
    for i in range(4):
        pixels = ((photo(i).transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")

    def batch(share: float) -> tuple[torch.Tensor, ...]:
        whole = config(tmp_path, share)
        return Examples(whole, split_images(whole), 0, 1, 0, 64).next()

    (x, u, white), (same, told, every), (_, told_half, half) = batch(0.0), batch(1.0), batch(0.5)
    assert torch.equal(x, same)
    sigma, level = (torch.exp(-1.6 + 1.2 * torch.special.ndtri(v)) for v in (u, told))
    assert 0 < (sigma >= STRONGEST).sum() < 20
    changed = (every != white).flatten(1).any(1)
    assert torch.equal(changed, sigma < STRONGEST) and torch.equal(told[~changed], u[~changed])
    pixels = (x + level[:, None, None, None] * every + 1)[changed] * 127.5
    assert torch.allclose(pixels, pixels.round(), atol=2e-3)  # x + sigma N is a photograph of 8 bits
    taken = (half != white).flatten(1).any(1)
    assert 15 <= taken.sum() <= 40 and not bool((taken & ~changed).any())
    assert torch.equal(half[taken], every[taken]) and torch.equal(told_half, torch.where(taken, told, u))


@pytest.mark.parametrize(
    ("data", "other", "message"),
    [
        ({"camera": 1.5}, {}, "camera"),
        ({"channels": 1, "camera": 0.5}, {"network": {"name": "photo_unet", "in_channels": 1, "out_channels": 1}},
         "camera: found 0.5, but it is for colours and channels is 1"),
        ({"camera": 0.5}, {"objective": {"name": "denoising"}}, "data.camera: found 0.5; it needs objective.levels"),
        ({"camera": 0.5}, {"objective": {"name": "implicit_score_matching", "levels": {"name": "log_normal"}}},
         "data.camera: found 0.5; allowed: 0, since the noise of implicit_score_matching is white"),
    ],
)  # fmt: skip
def test_where_it_makes_no_sense_is_an_error(
    data: dict[str, object], other: dict[str, object], message: str, tmp_path: Path
) -> None:
    base = config(tmp_path, 0.0).model_dump(exclude_unset=True)
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({**base, **other, "data": {**base["data"], **data}})
