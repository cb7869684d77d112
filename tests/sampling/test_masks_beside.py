"""Masks that are images next to the pictures."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from any_size_tools import photograph
from given_tools import BESIDE, config_for, save_picture, task_for
from PIL import Image
from sampling_tools import arrays_of, read_metrics

from randomwalk.errors import InputError
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
    assert len(task.names) == len(masks) and not any("mask" in name for name in task.names)
    operator, _ = task.make_operator(range(len(masks)))
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
