"""What each operator's settings do: masks, kernels, selections; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import normal
from PIL import Image
from torch import Tensor

from randomwalk import InputError, operators
from randomwalk.operators.inpainting import box_mask, random_mask
from randomwalk.rng import generator


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_super_resolution_keeps_a_constant(factor: int) -> None:
    operator = operators.make("super_resolution", image_shape=(1, 3 * factor, factor), factor=factor)
    ones = torch.ones(1, 1, 3 * factor, factor, dtype=torch.float64)
    torch.testing.assert_close(operator(ones), torch.ones(1, 1, 3, 1, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("missing", [0.0, 0.29, 0.75, 0.92])
def test_random_masks_drop_exactly_the_fraction(missing: float) -> None:
    operator = operators.make(
        "inpainting", image_shape=(3, 20, 28), generators=[generator(i) for i in range(4)], missing=missing
    )
    dropped = (operator.get_buffer("mask") == 0).flatten(1).sum(1)
    assert operator.get_buffer("mask").shape == (4, 1, 20, 28)
    assert (dropped == int(missing * 20 * 28)).all()


def test_random_masks_are_uniform_over_the_pixels() -> None:
    draws = generator(0)
    kept = torch.stack([random_mask(8, 8, 0.75, draws) for _ in range(2000)]).mean(0)
    assert (kept - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5  # five standard errors


def test_box_masks_stay_inside_and_reach_the_limits() -> None:
    draws = generator(1)
    corners, sides = set(), set()
    for _ in range(3000):
        rows, columns = (box_mask(16, 20, [3, 5], 2, draws) == 0).nonzero().T
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        assert len(rows) == height * width  # a full rectangle
        assert 2 <= top < 16 - 2 - height and 2 <= left < 20 - 2 - width
        corners |= {("row", top), ("column", left)}
        sides |= {(height, width)}
    assert corners == {("row", i) for i in range(2, 11)} | {("column", i) for i in range(2, 15)}
    assert sides == {(h, w) for h in (3, 4, 5) for w in (3, 4, 5)}
    exact_fit = box_mask(8, 8, 4, 2, draws)
    assert (exact_fit[2:6, 2:6] == 0).all() and exact_fit.sum() == 48


@pytest.mark.parametrize("settings", [{"missing": 0.5}, {"mask": "box", "box_size": [2, 5]}])
def test_the_mask_of_an_image_does_not_depend_on_the_batch(settings: dict[str, Any]) -> None:
    def masks(images: list[int]) -> Tensor:
        draws = [generator(7, image) for image in images]
        return operators.make("inpainting", image_shape=(1, 9, 9), generators=draws, **settings).get_buffer("mask")

    together = masks([0, 1, 2, 3])
    assert torch.equal(together, torch.cat([masks([image]) for image in range(4)]))
    assert not torch.equal(together[0], together[1])


def test_mask_from_a_file(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), dtype=np.uint8)
    pixels[2:, 3:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    settings: dict[str, Any] = {"mask": "file", "file": tmp_path / "mask.png"}
    operator = operators.make("inpainting", image_shape=(3, 6, 8), **settings)
    x = normal(2, 3, 6, 8)
    torch.testing.assert_close(operator(x), x * (torch.from_numpy(pixels) > 0))
    with pytest.raises(InputError, match=r"mask\.png has 6x8 pixels, but the images have 8x8"):
        operators.make("inpainting", image_shape=(3, 8, 8), **settings)
    (tmp_path / "mask.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"mask\.png cannot be read"):
        operators.make("inpainting", image_shape=(3, 6, 8), **settings)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("blurring", {}, "unknown; expected one of denoising, inpainting, super_resolution"),
        ("super_resolution", {"scale": 4}, "unknown setting scale; allowed: factor"),
        ("denoising", {"factor": 4}, "unknown setting factor; allowed: none"),
        ("super_resolution", {"factor": 5}, "factor 5 does not divide the image size 8x8"),
        ("super_resolution", {"factor": 0}, "expected a positive integer"),
        ("inpainting", {"missing": 1.0}, "missing=1.0"),
        ("inpainting", {"mask": "circle"}, "expected random, box or file"),
        ("inpainting", {"mask": "box", "box_size": 7, "margin": 1}, "does not fit 8x8"),
        ("inpainting", {"mask": "box"}, "needs the setting box_size"),
        ("inpainting", {"mask": "file"}, "needs the setting file"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        operators.make(name, image_shape=(3, 8, 8), **settings)


def test_bad_masks_are_refused() -> None:
    with pytest.raises(InputError, match="only 0"):
        operators.Inpainting((1, 2, 2), torch.full((2, 2), 0.5))
    with pytest.raises(InputError, match="shape"):
        operators.Inpainting((1, 2, 2), torch.ones(3, 2))
