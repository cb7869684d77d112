"""Pictures with transparency: what is hidden under it does not show in what is seen, and no fringe appears."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from given_tools import AUTO, DENOISING, config_for, noisy_photograph, task_for
from PIL import Image
from sampling_tools import ROOT

from randomwalk.config.files import load_sample_config
from randomwalk.images import pictures
from randomwalk.images.pictures import Picture
from randomwalk.operators.noise import GaussianNoise
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
RADIUS = np.hypot(ROWS - SIDE / 2, COLUMNS - SIDE / 2)
ALPHA = (np.clip((22 - RADIUS) / 3 + 0.5, 0, 1) * 255).round().astype(np.uint8)
"""A disc with a soft rim."""
HIDDEN = [(0, 0, 0), (255, 255, 255), (0, 255, 0)]


def save(path: Path, pixels: np.ndarray, hidden: tuple[int, int, int], alpha: np.ndarray = ALPHA) -> Path:
    shown = np.where(alpha[..., None] > 0, pixels, np.array(hidden, np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([shown, alpha])).save(path)
    return path


def over(image: np.ndarray, background: float) -> np.ndarray:
    """A picture with alpha over a background of one brightness."""
    alpha = image[..., 3:] / 255
    return image[..., :3] * alpha + background * (1 - alpha)


@pytest.mark.parametrize("operator", [{"name": "denoising"}, {"name": "super_resolution", "factor": 2}])
def test_what_is_hidden_changes_nothing_that_is_seen(operator: dict[str, object], tmp_path: Path) -> None:
    pixels = noisy_photograph(SIDE, SIDE, of_255=10)
    shown = []
    for k, hidden in enumerate(HIDDEN):
        save(tmp_path / f"{k}" / "a.png", pixels, hidden)
        config = config_for(tmp_path / f"{k}", tmp_path / f"{k}" / "a.png", {**DENOISING, "operator": operator})
        assert sampling.run(config) == 0
        written = np.asarray(Image.open(Path(config.output) / "images" / "0000_a_sample0.png")).astype(float)
        if len(written) == SIDE:
            np.testing.assert_array_equal(written[..., 3], ALPHA)
        shown.append([over(written, background) for background in (0, 255)])
    for other in shown[1:]:
        np.testing.assert_array_equal(other, shown[0])


def test_noise_is_estimated_from_what_is_seen(tmp_path: Path) -> None:
    pixels = noisy_photograph(128, 128, of_255=15)
    rows, columns = np.mgrid[:128, :128]
    alpha = (255 * (np.hypot(rows - 64, columns - 64) < 35)).astype(np.uint8)  # less than a quarter
    task = task_for(tmp_path, save(tmp_path / "in" / "a.png", pixels, (0, 0, 0), alpha), AUTO)
    task.load_measurable(0)
    noise = task.measurements.estimated_noise[0]
    assert isinstance(noise, GaussianNoise) and noise.std * 127.5 == pytest.approx(15, rel=0.12)


def test_an_enlarged_cut_out_has_no_fringe(tmp_path: Path) -> None:
    """A cut-out made small by Pillow, enlarged by the bundled network: its rim is as good as by bicubic enlargement."""
    photo = Image.open(ROOT / "data" / "photographs" / "coffee.png").convert("RGB").crop((96, 60, 160, 124))
    radius = np.hypot(ROWS - 31.5, COLUMNS - 31.5)
    alpha = (np.clip((26 - radius) / 3 + 0.5, 0, 1) * 255).round().astype(np.uint8)
    truth = np.dstack([np.asarray(photo), alpha]).astype(float)
    small = np.array(Image.fromarray(truth.astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC))
    path = save(tmp_path / "in" / "a.png", small[..., :3], (0, 255, 0), small[..., 3])
    changes = [f"data.path={path}", f"output={tmp_path / 'run'}", "device=cpu", "measurement.noise.std=2"]
    changes += ["sampler.schedule.num_steps=20", "precision=bf16"]
    task = load_task(load_sample_config("configs/photo_super_resolution.yaml", changes), torch.device("cpu"))
    batch = task.sample(task.batches()[0], task.load_measurable(0)[None].contiguous())
    assert task.images.source is not None
    found = np.asarray(
        Image.open(io.BytesIO(pictures.encode(batch.x[0], task.images.source.picture(0), coloured=True)))
    )
    bicubic = np.asarray(Image.open(path).resize((64, 64), Image.Resampling.BICUBIC))
    rim = (radius > 22) & (radius < 30)
    for background in (0, 255):
        error, usual = (
            np.sqrt(((over(image.astype(float), background) - over(truth, background))[rim] ** 2).mean())
            for image in (found, bicubic)
        )
        assert error < 1.1 * usual


def test_a_palette_with_a_transparent_colour_keeps_it(tmp_path: Path) -> None:
    pixels = noisy_photograph(SIDE, SIDE, of_255=10)
    palette = Image.fromarray(pixels).quantize(255)
    indices = np.where(ALPHA > 127, np.asarray(palette), 255).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    colours = palette.getpalette()
    assert colours is not None
    image.putpalette([*colours[: 3 * 255], 0, 255, 0])
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png", transparency=255)
    config = config_for(tmp_path, tmp_path / "in" / "a.png", DENOISING)
    assert sampling.run(config) == 0
    written = np.asarray(Image.open(Path(config.output) / "images" / "0000_a_sample0.png"))
    np.testing.assert_array_equal(written[..., 3], np.where(ALPHA > 127, 255, 0))


def test_the_visible_part_is_reflected_and_stays_as_it_is() -> None:
    pixels = np.arange(8, dtype=np.uint16)[None, :, None] * np.ones((3, 1, 1), np.uint16)
    alpha = np.array([[0, 0, 0, 5, 9, 9, 9, 9]] * 3, np.uint16)
    found = Picture(pixels, alpha).continued()
    np.testing.assert_array_equal(found.pixels[..., 0], [[6, 5, 4, 3, 4, 5, 6, 7]] * 3)
    far = np.array([[0, 0, 0, 0, 0, 0, 9, 9]] * 3, np.uint16)
    np.testing.assert_array_equal(Picture(pixels, far).continued().pixels[..., 0], [[7, 7, 7, 7, 7, 7, 6, 7]] * 3)
    for whole in (np.zeros_like(alpha), np.full_like(alpha, 7)):
        np.testing.assert_array_equal(Picture(pixels, whole).continued().pixels, pixels)


def test_a_grey_picture_with_colours_hidden_under_transparency_is_grey() -> None:
    grey = noisy_photograph(8, 8, of_255=5)[..., :1].repeat(3, axis=2)
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:, 4:] = 0
    grey[:, 4:] = [0, 255, 0]
    assert Picture(grey, alpha).colourless and not Picture(grey).colourless
