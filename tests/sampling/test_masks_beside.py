"""Masks that are images next to the pictures."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from any_size_tools import SAMPLER, photograph
from given_tools import BESIDE, config_for, save_picture, task_for
from PIL import Image, ImageDraw
from sampling_tools import arrays_of, read_metrics

from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.sources import open_images
from randomwalk.sampling import run as sampling


def save_masked(folder: Path, name: str = "photo.jpg", dark: tuple[int, int] = (5, 11)) -> np.ndarray:
    """A photograph with a mask beside it that is dark in some rows; the mask."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(20, 26)).save(folder / name)
    mask = np.full((20, 26), 255, np.uint8)
    mask[dark[0] : dark[1]] = 0
    Image.fromarray(mask).save(folder / f"{Path(name).stem}_mask.png")
    return (mask > 0).astype(np.float32)


@pytest.mark.parametrize("where", ["file", "folder", "zip"])
def test_masks_are_those_beside_the_pictures(where: str, tmp_path: Path) -> None:
    masks = [save_masked(tmp_path / "in" / "a", dark=(5, 11)), save_masked(tmp_path / "in" / "b", "x.png", (0, 9))]
    path = tmp_path / "in"
    if where == "file":
        path, masks = tmp_path / "in" / "a" / "photo.jpg", masks[:1]
    if where == "zip":
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for file in sorted((tmp_path / "in").rglob("*.*")):
                archive.write(file, str(file.relative_to(tmp_path / "in")))
        path = tmp_path / "in.zip"
    task = task_for(tmp_path, path, BESIDE)
    assert len(task.images) == len(masks) and not any("mask" in name for name in task.images.names)
    operator, _ = task.measurements.operator_of(range(len(masks)))
    np.testing.assert_array_equal(operator.get_buffer("mask")[:, 0].numpy(), np.stack(masks))


def test_painted_pixels_are_missing_and_do_not_matter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    known = save_masked(tmp_path / "in", "photo.png")
    config = config_for(tmp_path, tmp_path / "in", BESIDE)
    assert sampling.run(config) == 0
    assert "note: photo.png: 30.0% of the pixels are missing, where the mask is painted" in capfd.readouterr().err
    first, [row] = arrays_of(Path(config.output)), read_metrics(Path(config.output))
    y, x = first["0000_photo_measurement"], first["0000_photo_sample0"]
    rms = math.sqrt((((y - x) * known) ** 2).sum() / (3 * known.sum()))
    assert float(row["residual"]) == pytest.approx(rms / (50 / 255), rel=1e-3)
    shown = np.asarray(Image.open(Path(config.output) / "images" / "0000_photo_measurement.png"))
    assert set(shown[known == 0].flatten()) == {128}
    painted = photograph(20, 26).copy()
    painted[known == 0] = (255, 0, 0)
    Image.fromarray(painted).save(tmp_path / "in" / "photo.png")
    again = config.model_copy(update={"output": str(tmp_path / "again")})
    assert sampling.run(again) == 0
    np.testing.assert_array_equal(arrays_of(tmp_path / "again")["0000_photo_sample0"], x)


def test_a_mask_beside_a_true_picture(tmp_path: Path) -> None:
    known = save_masked(tmp_path / "in")
    measurement = {**BESIDE, "given": False}
    config = config_for(tmp_path, tmp_path / "in", measurement, data={"path": str(tmp_path / "in"), "fit": "keep"})
    assert sampling.run(config) == 0
    shown = np.asarray(Image.open(Path(config.output) / "images" / "0000_photo_measurement.png"))
    np.testing.assert_array_equal((shown == 128).all(2), known == 0)
    assert read_metrics(Path(config.output))[0]["psnr"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "there is no photo_mask.png next to photo.png"),
        (np.zeros((8, 9), np.uint8), "photo_mask.png has 8x9 pixels, but photo.png has 20x26"),
        (np.zeros((20, 26), np.uint8), "photo_mask.png keeps no pixel; expected a mask that is dark where"),
        (np.full((20, 26), 255, np.uint8), "photo_mask.png keeps all pixels"),
    ],
)
def test_masks_that_will_not_do(mask: np.ndarray | None, message: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "photo.png", photograph(20, 26))
    if mask is not None:
        Image.fromarray(mask).save(tmp_path / "in" / "photo_mask.png")
    with pytest.raises(InputError, match=message):
        task_for(tmp_path, tmp_path / "in" / "photo.png", BESIDE)


def test_a_mask_may_have_a_suffix_in_capitals(tmp_path: Path) -> None:
    known = save_masked(tmp_path / "in", "photo.png")
    (tmp_path / "in" / "photo_mask.png").rename(tmp_path / "in" / "photo_mask.PNG")
    source = open_images(tmp_path / "in").without_masks()
    assert source.names == ["photo.png"]
    np.testing.assert_array_equal(source.mask(0).known.numpy(), known)


def test_a_picture_without_its_mask_is_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_masked(tmp_path / "in", "a.png")
    save_picture(tmp_path / "in" / "b.png", photograph(20, 26))
    assert sampling.run(config_for(tmp_path, tmp_path / "in", BESIDE)) == 1
    assert "there is no b_mask.png next to b.png" in capfd.readouterr().err


def test_a_mask_without_a_picture_is_a_picture(tmp_path: Path) -> None:
    save_masked(tmp_path / "in", "a.png")
    save_picture(tmp_path / "in" / "the_mask.png", photograph(20, 26))
    assert open_images(tmp_path / "in").without_masks().names == ["a.png", "the_mask.png"]


# --- what is known stays ---------------------------------------------------------------------------------------------


def painted_pixels(kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A noisy picture, with its transparency: in colour, in 16 bits, or of three channels that are nearly equal."""
    draws = np.random.default_rng(1)
    if kind == "grey, 16 bits":
        return draws.integers(0, 65536, (64, 48, 1), dtype=np.uint16), None
    if kind == "colour, 16 bits":
        return draws.integers(0, 65536, (64, 48, 3), dtype=np.uint16), None
    if kind == "nearly grey":
        return draws.integers(0, 255, (64, 48, 1), dtype=np.uint8) + draws.integers(0, 2, (64, 48, 3), np.uint8), None
    pixels = draws.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    return pixels, draws.integers(0, 256, (64, 48), dtype=np.uint8) if kind == "transparent" else None


def run_painted(folder: Path, kind: str, measurement: dict[str, Any], **changes: Any) -> tuple[np.ndarray, ...]:
    """Fill in a hole of a picture: its pixels, those of the result, and where the mask says known."""
    pixels, alpha = painted_pixels(kind)
    save_picture(folder / "in" / "a.png", pixels, alpha)
    mask = Image.new("L", (48, 64), 255)
    ImageDraw.Draw(mask).ellipse([10, 20, 30, 40], fill=0)
    mask.save(folder / "in" / "a_mask.png")
    config = config_for(folder, folder / "in", measurement, **changes)
    assert sampling.run(config) == 0
    kind = "mean" if config.num_samples > 1 else "sample0"
    made = pictures.read((Path(config.output) / "images" / f"0000_a_{kind}.png").read_bytes(), "result")
    assert made.pixels.dtype == pixels.dtype
    visible = np.ones(mask.size[::-1], bool) if alpha is None else alpha > 0  # colours that nobody sees may change
    return pixels, made.pixels, (np.asarray(mask) == 255) & visible


@pytest.mark.parametrize(
    "kind", ["colour", "transparent", "nearly grey", "grey, 16 bits", "colour, 16 bits", "mean of samples", "exact"]
)
def test_known_pixels_stay_as_they_are_to_the_bit(kind: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_samples": 3} if kind == "mean of samples" else {}
    noise: dict[str, Any] = {"std": "auto"}
    if kind == "exact":
        noise, changes = {"name": "none"}, {"sampler": {"name": "ddrm", "schedule": SAMPLER["schedule"]}}
    before, after, known = run_painted(tmp_path, kind, {**BESIDE, "noise": noise}, **changes)
    np.testing.assert_array_equal(after[known], before[known])
    assert (after[~known] != before[~known]).mean() > 0.9
    [row] = [row for row in read_metrics(tmp_path / "run") if row["sample"] == "0"]
    assert kind == "exact" or float(row["residual"]) > 0.01  # of what the walk ends with, before they are put back


@pytest.mark.parametrize(
    "measurement", [{"noise": {"std": 25, "pixel_range": [0, 255]}}, {"noise": {"std": "auto"}, "keep_known": False}]
)
def test_noise_that_is_given_or_asked_to_be_removed_is_removed(measurement: dict[str, Any], tmp_path: Path) -> None:
    before, after, known = run_painted(tmp_path, "colour", {**BESIDE, **measurement})
    assert (after[known] != before[known]).mean() > 0.5


def test_known_pixels_can_be_kept_with_a_given_noise(tmp_path: Path) -> None:
    before, after, known = run_painted(tmp_path, "colour", {**BESIDE, "keep_known": True})
    np.testing.assert_array_equal(after[known], before[known])


def test_too_few_known_pixels_to_estimate_noise_from_are_kept(tmp_path: Path) -> None:
    """Scattered known pixels, as of a picture of which most are lost."""
    pixels = save_picture(tmp_path / "in" / "a.png", photograph(40, 40))
    known = np.random.default_rng(0).random((40, 40)) < 0.2
    Image.fromarray(known.astype(np.uint8) * 255).save(tmp_path / "in" / "a_mask.png")
    config = config_for(tmp_path, tmp_path / "in", {**BESIDE, "noise": {"std": "auto"}})
    assert sampling.run(config) == 0
    made = np.asarray(Image.open(tmp_path / "run" / "images" / "0000_a_sample0.png"))
    np.testing.assert_array_equal(made[known], pixels[known])


@pytest.mark.parametrize("mask", ["beside", "file"])
def test_what_was_made_of_a_mask_is_told(mask: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A copy of the photograph painted red, and an inverted mask."""
    photo = photograph(40, 60)
    save_picture(tmp_path / "in" / "a.png", photo)
    painted = Image.fromarray(photo)
    ImageDraw.Draw(painted).rectangle([10, 10, 19, 19], fill=(255, 0, 0))
    path = tmp_path / ("in" if mask == "beside" else ".") / "a_mask.png"
    painted.save(path)
    operator = {"name": "inpainting", "mask": mask} | ({} if mask == "beside" else {"file": str(path)})
    config = config_for(tmp_path, tmp_path / "in" / "a.png", {**BESIDE, "operator": operator})
    assert sampling.run(config) == 0
    told = capfd.readouterr().err
    assert "a_mask.png is a copy of a.png: what differs is unknown" in told
    assert "note: a.png: 6.0% of the pixels are missing" in told  # 12 x 12 of 40 x 60
    white = Image.new("L", (60, 40))
    ImageDraw.Draw(white).rectangle([10, 10, 19, 19], fill=255)
    white.save(path)
    again = config.model_copy(update={"output": str(tmp_path / "again")})
    assert sampling.run(again) == 0
    assert "\nwarning: " in capfd.readouterr().err


@pytest.mark.parametrize("change", ["given", "operator"])
def test_only_given_pictures_with_a_mask_have_known_pixels_to_keep(change: str, tmp_path: Path) -> None:
    measurement: dict[str, Any] = {**BESIDE, "keep_known": True}
    measurement[change] = False if change == "given" else {"name": "denoising"}
    with pytest.raises(InputError, match=r"keep_known .*: is for the operator inpainting and .* given"):
        config_for(tmp_path, tmp_path, measurement, data={"path": str(tmp_path), "fit": "keep"})
