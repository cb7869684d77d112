"""Signs of a wrong noise level: restorations of a photograph that are told half and twice its noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk import operators
from randomwalk.config.files import load_sample_config
from randomwalk.operators import Inpainting
from randomwalk.sampling import doubts, measuring
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.loading import load_task

SIDE, NOISE = 96, 6.0
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "boxes": ("photo_inpainting", "", {}),
    "x2": ("photo_super_resolution", "super_resolution", {"factor": 2}),
    "blur": ("photo_deblur", "gaussian_blur", {"std": 1.6, "boundary": "unknown"}),
}


def boxes() -> torch.Tensor:
    mask = torch.ones(SIDE, SIDE)
    mask[10:30, 20:40] = mask[50:75, 40:80] = 0
    return mask


def doubts_of(kind: str, told: float, folder: Path) -> list[str]:
    """What is said of an 8-bit picture with noise of `NOISE`, if it is given as ``told`` of 255."""
    file, name, settings = KINDS[kind]
    pixels = np.asarray(Image.open("data/photographs/astronaut.png").convert("RGB"))[:SIDE, 60 : 60 + SIDE]
    x = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    shape = (3, SIDE, SIDE)
    operator = operators.make(name, image_shape=shape, **settings) if name else Inpainting(shape, boxes())
    y = operator(x) + NOISE * torch.randn(operator(x).shape, generator=torch.Generator().manual_seed(0))
    Image.fromarray(y[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    changes = [f"data.path={folder / 'photo.png'}", f"output={folder / 'out'}", f"measurement.noise.std={told}"]
    if not name:
        Image.fromarray((255 * boxes()).byte().numpy()).save(folder / "photo_mask.png")
    elif name == "gaussian_blur":
        changes.append("measurement.operator.std=1.6")
    task = load_task(load_sample_config(Path("configs") / f"{file}.yaml", changes), torch.device("cpu"))
    [ids] = task.batches()
    return doubts.of_batch(task, task.sample(ids, task.load_measurable(0)[None]))


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_noise_is_noticed(kind: str, tmp_path: Path) -> None:
    assert doubts_of(kind, NOISE, tmp_path) == []
    [less] = doubts_of(kind, 2 * NOISE, tmp_path)
    assert "there is less noise, and the restoration is too smooth; try measurement.noise.std (--noise) " in less
    assert NOISE * 0.9 < float(less.split()[-1]) < NOISE * 1.6


@pytest.mark.parametrize("kind", ["boxes", "blur"])  # at x2 half of it is fitted as texture
def test_half_the_noise_is_noticed(kind: str, tmp_path: Path) -> None:
    [more] = doubts_of(kind, NOISE / 2, tmp_path)
    assert "there is more noise, which the restoration shows as texture; try measurement.noise.std" in more
    assert float(more.split()[-1]) == pytest.approx(0.7 * NOISE)


def test_the_residual_is_that_of_even_areas_and_known_pixels() -> None:
    """The upper half of the picture is even, with a residual of 0.1; the lower one is not, and has another."""
    operator = Inpainting((1, 40, 40), torch.ones(40, 40))
    x = torch.zeros(2, 1, 40, 40)
    x[:, :, 20:] = 0.5 * torch.randn(1, 1, 20, 40, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    y = x + 0.1
    y[:, :, 20:] += 0.3
    batch = Batch([SampleId(0, 0), SampleId(1, 0)], x, measurement=y, noise_std=0.05)
    assert measuring.even_residuals(operator, batch) == pytest.approx([2.0, 2.0])
    half = torch.ones(40, 40)
    half[:, ::2] = 0
    batch.measurement = torch.where(half > 0, y, 7.0)  # what is unknown does not count
    assert measuring.even_residuals(Inpainting((1, 40, 40), half), batch) == pytest.approx([2.0, 2.0])
    bright = Batch(batch.ids, x.clone(), measurement=x + 0.1, noise_std=0.05)
    bright.x[1] += 0.95
    assert measuring.even_residuals(operator, bright) == [pytest.approx(2.0), None]
    small = operators.make("super_resolution", image_shape=(3, 80, 80), factor=2)
    enlarged = Batch(
        batch.ids, torch.zeros(2, 3, 80, 80), measurement=small(torch.zeros(2, 3, 80, 80)) + 0.1, noise_std=0.05
    )
    assert measuring.even_residuals(small, enlarged) == pytest.approx([2.0, 2.0])
    batch.measurement = torch.zeros(2, 30)
    assert measuring.even_residuals(operator, batch) is None


def test_crowding_is_the_share_of_known_neighbours() -> None:
    alone = torch.zeros(1, 1, 9, 9)
    alone[0, 0, 1::3, 1::3] = 1
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1
    assert measuring.crowding(alone) == [0.0]
    # two of four neighbours, and at the left border three, as if the picture went on
    assert measuring.crowding(stripes) == pytest.approx([(3 * 2 + 3) / 16])
    assert measuring.crowding(torch.ones(2, 1, 3, 4)) == [1.0, 1.0]


def test_bounds_follow_the_neighbours_of_known_pixels() -> None:
    settings = load_sample_config("configs/photo_inpainting.yaml", ["data.path=x.png"]).measurement
    assert settings is not None
    lone, half, crowded = (doubts.bounds_of(settings.operator, c) for c in (0.1, 0.45, 0.9))
    assert lone == doubts.OF_LONE_PIXELS and crowded == doubts.OF_CROWDED_PIXELS
    assert half == pytest.approx(((lone[0] + crowded[0]) / 2, (lone[1] + crowded[1]) / 2))


def test_a_level_below_that_of_the_walk_does_not_matter() -> None:
    def said(residual: float, std: float) -> str:
        batch = Batch([SampleId(0, 0)], torch.empty(0), noise_std=std, even_residuals=[residual])
        return doubts.of_noise(batch, 0, (0.6, 1.0), 0.01)

    assert said(0.5, 0.009) == "" and "less noise" in said(0.5, 0.011)
    assert said(1.9, 0.005) == "" and "more noise" in said(2.1, 0.005) and "more noise" in said(1.1, 0.02)


def test_the_level_to_try_is_readable_and_auto_where_the_one_given_tells_nothing() -> None:
    def tried(residual: float, std: float) -> str:
        batch = Batch([SampleId(0, 0)], torch.empty(0), noise_std=std / 127.5, even_residuals=[residual])
        return doubts.of_noise(batch, 0, (0.6, 1.0), 0.0).split()[-1]

    assert (
        tried(480.0, 0.01) == "auto"
        and tried(1.5, 0.01) == "0.014"
        and tried(0.4, 30.0) == "13.2"
        and tried(1.2, 100.0) == "140"
    )
