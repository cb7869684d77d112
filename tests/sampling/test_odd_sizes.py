"""Pictures of one pixel, of one row, and panoramas: every task restores them with a number for the noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_tools import AUTO, DENOISING, config_for, save_picture
from PIL import Image
from sampling_tools import arrays_of

from randomwalk.sampling import run as sampling

SIZES = [(1, 1), (1, 90), (90, 1), (2, 3), (5, 5), (7, 60), (16, 64)]
OPERATORS: list[dict[str, Any]] = [
    {"name": "denoising"},
    {"name": "super_resolution", "factor": 2},
    {"name": "gaussian_blur", "std": 1.0},
    {"name": "inpainting", "mask": "beside"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for height, width in SIZES:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        save_picture(tmp_path / "in" / f"{height}x{width}.png", pixels)
    return tmp_path / "in"


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator["name"])
def test_every_size_is_restored(operator: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    sizes = [size for size in SIZES if operator["name"] != "inpainting" or size != (1, 1)]
    if operator["name"] == "inpainting":
        (folder / "1x1.png").unlink()
        for height, width in sizes:
            mask = np.full((height, width), 255, np.uint8)
            mask[height // 2, width // 2] = 0
            Image.fromarray(mask).save(folder / f"{height}x{width}_mask.png")
    config = config_for(tmp_path, folder, {**DENOISING, "operator": operator})
    assert sampling.run(config) == 0
    found = {name: x.shape[1:] for name, x in arrays_of(Path(config.output)).items() if name.endswith("sample0")}
    factor = operator.get("factor", 1)
    assert sorted(found.values()) == sorted((height * factor, width * factor) for height, width in sizes)
    for path in (Path(config.output) / "images").glob("*_sample0.png"):
        height, width = (int(side) for side in path.stem.split("_")[1].split("x"))
        assert Image.open(path).size == (width * factor, height * factor)


def test_too_small_a_picture_for_an_estimate_is_told_to_state_its_noise(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_picture(folder / "large.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert sampling.run(config_for(tmp_path, folder, AUTO)) == 1
    told = capfd.readouterr().err
    for height, width in SIZES[:-1]:
        assert f"{height}x{width}.png: the noise can't be estimated" in told
    assert "give measurement.noise.std a number" in told
