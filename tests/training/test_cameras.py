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
from randomwalk.training.cameras import SPREAD, STRONGEST, camera_noise, demosaicked
from randomwalk.training.examples import Examples, split_images


def photo(seed: int = 0, side: int = 48) -> np.ndarray:
    """A smooth random picture ``[3, side, side]`` in [-1, 1]."""
    coarse = generator(seed).uniform(-0.8, 0.8, (3, 4, 4)).astype(np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], (side, side), mode="bicubic")[0].numpy()


@pytest.mark.parametrize("level", [3, 10, 25, 50])
def test_its_level_is_the_one_that_is_told_up_to_a_known_factor(level: int) -> None:
    logs = []
    for k in range(120):
        noise = camera_noise(photo(k), level / 127.5, generator(level, k))
        assert noise.shape == (3, 48, 48) and np.isfinite(noise).all()
        logs.append(math.log(np.sqrt(np.mean(noise**2))))
    assert np.mean(logs) == pytest.approx(0, abs=4 * SPREAD / math.sqrt(120))
    assert np.std(logs) == pytest.approx(SPREAD, rel=0.3)  # 4.5 standard errors


def test_what_enters_is_scaled_until_the_level_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demosaicking and smoothing take noise away, which more of it makes up for; little is left to the last factor.

    Where that factor is 1, the photograph has whole grey values.
    """
    monkeypatch.setattr(cameras, "SPREAD", 0.0)
    remainders = []
    for k in range(60):
        x, sigma = photo(k), 20 / 127.5
        found = []
        for trials in (1, 3):
            monkeypatch.setattr(cameras, "TRIALS", trials)
            y = x + sigma * camera_noise(x, sigma, generator(7, k))
            found.append(float(np.mean(np.abs(np.round((y + 1) * 127.5) - (y + 1) * 127.5))))
        remainders.append(found)
    first, last = np.mean(remainders, 0)
    assert last < first


def test_neighbours_and_colours_have_noise_in_common() -> None:
    x, products = np.zeros((3, 48, 48), np.float32), []
    for k in range(100):
        n = camera_noise(x, 25 / 127.5, generator(3, k))
        products.append([np.mean(n[:, :, 1:] * n[:, :, :-1]) / np.mean(n**2), np.mean(n[0] * n[2]) / np.mean(n**2)])
    beside, colours = np.mean(products, 0)
    assert beside > 0.34 and colours > 0.3  # white noise: 0 +- 0.002; without demosaicking, 0.25 beside


def test_noise_is_weakest_where_it_is_clipped() -> None:
    x = np.concatenate([np.full((3, 48, 24), -0.2), np.full((3, 48, 24), 0.97)], 2).astype(np.float32)
    ratios = [
        np.std(n[..., :20]) / np.std(n[..., 28:]) for n in (camera_noise(x, 0.2, generator(k)) for k in range(40))
    ]
    assert min(ratios) > 1.1


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

    (x, u, white), (x1, u1, every), (_, _, half) = batch(0.0), batch(1.0), batch(0.5)
    assert torch.equal(x, x1) and torch.equal(u, u1)
    sigma = torch.exp(-1.6 + 1.2 * torch.special.ndtri(u))
    assert 0 < (sigma >= STRONGEST).sum() < 20
    changed = (every != white).flatten(1).any(1)
    assert torch.equal(changed, sigma < STRONGEST)
    taken = (half != white).flatten(1).any(1)
    assert 15 <= taken.sum() <= 40 and not bool((taken & ~changed).any())
    assert torch.equal(half[taken], every[taken])


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
