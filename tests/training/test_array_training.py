"""Training on arrays of instruments: units, complex numbers, volumes, the range that is found, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from randomwalk import load_denoiser
from randomwalk.config import TrainConfig
from randomwalk.config.training import TrainData
from randomwalk.errors import InputError
from randomwalk.rng import generator
from randomwalk.training import run, sets
from randomwalk.training.examples import split_images
from randomwalk.training.images import TrainingImages

SIDE = 16


def config(path: Path, channels: int = 1, **data: Any) -> TrainConfig:
    given = {"path": str(path), "channels": channels, "image_size": SIDE, "num_validation": 1, "flip": False, **data}
    network = {
        "name": "photo_unet", "image_size": SIDE, "num_channels": channels, "widths": [4, 4], "num_blocks": [1, 1],
        "block": "gated", "code_size": 8,
    }  # fmt: skip
    settings = {
        "output": str(path.parent / "run"), "data": given, "network": network, "denoiser": {"name": "edm"},
        "num_images": 8, "batch_size": 4, "optimizer": {"warmup_images": 4}, "device": "cpu", "precision": "fp32",
        "validation_sigmas": [0.1],
    }  # fmt: skip
    return TrainConfig.model_validate(settings)


def folder(tmp_path: Path, values: np.ndarray) -> Path:
    """A folder of .npy files, one for each of ``values``."""
    (tmp_path / "arrays").mkdir()
    for k, array in enumerate(values):
        np.save(tmp_path / "arrays" / f"{k}.npy", array)
    return tmp_path / "arrays"


def examples_of(settings: TrainConfig) -> dict[int, torch.Tensor]:
    """An example of each training image, by its index."""
    split = split_images(settings, bar=False)
    data = settings.data
    images = TrainingImages(split.source, split.training, data, 0)  # type: ignore[arg-type]
    return {image: x for x, image in map(images.example, range(len(split.training)))}


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("lists", [False, True])
def test_examples_are_the_arrays_in_the_units_of_the_network(tmp_path: Path, cache: bool, lists: bool) -> None:
    values = generator(0).uniform(-1000, 3000, (4, SIDE, SIDE)).astype(np.float32)
    path = folder(tmp_path, values)
    settings = config(path, range=[-1000, 1000], cache=cache)
    if lists:
        assert isinstance(settings.data, TrainData)
        settings.data.path = [str(path), str(path)]
    found = examples_of(settings)
    assert len(found) == (7 if lists else 3)
    for image, x in found.items():
        expected = values[image % 4] / 1000  # of 3000 HU too: nothing is clipped, nor rounded to 8 bits
        np.testing.assert_allclose(x.numpy(), expected[None], atol=1e-6)


def test_complex_numbers_are_two_channels_and_slices_of_volumes_are_images(tmp_path: Path) -> None:
    draws = generator(1)
    volume = draws.standard_normal((SIDE, 5, SIDE)) + 1j * draws.standard_normal((SIDE, 5, SIDE))
    np.savez(tmp_path / "scan.npz", image=volume, other=np.zeros(3))
    found = examples_of(config(tmp_path / "scan.npz", 2, range=[-4, 4], array="image", axis=1))
    assert len(found) == 4
    for k, x in found.items():
        np.testing.assert_allclose(x.numpy(), np.stack([volume[:, k].real, volume[:, k].imag]) / 4, atol=1e-6)


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_sizes_are_fitted_without_leaving_the_units(tmp_path: Path, fit: str) -> None:
    values = np.full((3, 40, 24), 5.0) if fit != "pad" else np.full((3, 10, 12), 5.0)
    rescale = {"crop": [0.5, 0.9], "resize": [1.0, 1.5], "pad": None}[fit]
    for x in examples_of(config(folder(tmp_path, values), range=[0, 8], fit=fit, rescale=rescale)).values():
        assert x.shape == (1, SIDE, SIDE)
        inside = x if fit != "pad" else x[:, 3:-3, 2:-2]
        torch.testing.assert_close(inside, torch.full_like(inside, 0.25))
        assert fit != "pad" or float(x[0, 0, 0]) == -1  # the least number stands for black


def test_the_range_is_found_and_a_network_is_trained(tmp_path: Path) -> None:
    values = generator(2).uniform(0, 0.3, (4, SIDE, SIDE))
    values[0, 0, 0], values[1, 1, 1] = -0.1, 0.5
    settings = config(folder(tmp_path, values), range="auto")
    found = sets.ImageSet(settings, bar=False)
    assert found.config.data.range == pytest.approx([-0.1, 0.5])  # type: ignore[union-attr]
    assert "with [-0.1, 0.5] as [-1, 1]" in found.description
    assert run(settings) == 0
    denoiser = load_denoiser(tmp_path / "run" / "model.safetensors")
    assert denoiser(torch.zeros(1, 1, SIDE, SIDE), 0.5).shape == (1, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channels": 2}, "channels: found 2; allowed without range: 1 or 3"),
        ({"axis": 0}, "axis: is for arrays; set range"),
        ({"array": "x"}, "array: is for arrays; set range"),
        ({"range": [1, 0]}, "range: found [1.0, 0.0]; allowed: [low, high]"),
        ({"range": [0, 1], "channels": 3, "grey": 0.5}, "grey: found 0.5; it is for pictures"),
        ({"range": [0, 1], "channels": 3, "camera": 0.5}, "camera: found 0.5; it is for pictures"),
        ({"range": [0, 1], "dataset": "mnist"}, "dataset: found mnist; it is for pictures"),
    ],
)
def test_settings_of_arrays_and_of_pictures_are_not_mixed(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("[", r"\[")):
        config(tmp_path, **{"channels": 1, **given})


@pytest.mark.parametrize(
    ("values", "channels", "given", "said"),
    [
        (np.zeros((2, SIDE, SIDE), complex), 1, {"range": [-1, 1]}, "it is complex, which takes two"),
        (np.zeros((2, 5, SIDE, SIDE)), 1, {"range": [-1, 1]}, "a volume needs data.axis"),
        (np.zeros((2, SIDE, SIDE)), 1, {"range": "auto"}, "all numbers are 0, which gives no range"),
        (np.zeros((2, SIDE, SIDE), complex), 2, {"range": [0, 1]}, r"that of both parts, \[-high, high\]"),
        (np.full((2, SIDE, SIDE), np.nan), 1, {"range": [0, 1]}, "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, values: np.ndarray, channels: int, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        examples_of(sets.with_range(config(folder(tmp_path, values), channels, **given)))
