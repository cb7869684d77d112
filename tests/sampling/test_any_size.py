"""``data.fit: keep``: every image keeps its own size, through files, batches, operators and results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import SIZES, photograph, write_photo_config
from PIL import Image
from sampling_tools import arrays_of, files_of, make_config, other_notes, read_metrics, save_weights

from randomwalk.cli import options as cli
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.images import sheets
from randomwalk.images.sources import open_images
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.inputs import inputs_of
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

CPU = torch.device("cpu")


def make_photo_config(folder: Path, *args: Any, **changes: Any) -> SampleConfig:
    return load_sample_config(write_photo_config(folder, *args, **changes))


def changed(config: SampleConfig, **changes: Any) -> SampleConfig:
    return config.model_copy(update=changes)


def images_of(task: Task) -> list[list[int]]:
    return [[unit.image for unit in batch] for batch in task.batches()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleConfig, Path]:
    """A run of five photographs of three sizes, two at a time."""
    config = make_photo_config(tmp_path_factory.mktemp("photographs"))
    assert sampling.run(config) == 0
    return config, Path(config.output)


# --- sizes without decoding ------------------------------------------------------------------------------------


def encoded(kind: str, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(photograph(30, 21)).save(out, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


def test_sizes_are_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", 6)[:-200])
    (tmp_path / "b.png").write_bytes(encoded("PNG")[:-40])
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the whole file was read"))
    source = open_images(tmp_path)
    assert [source.size(i) for i in range(2)] == [(21, 30), (30, 21)]
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b\.png does not decode"):
        source.size(1)


# --- batches ---------------------------------------------------------------------------------------------------


def test_batches_hold_images_of_one_size(finished: tuple[SampleConfig, Path]) -> None:
    task = load_task(finished[0], CPU)
    assert images_of(task) == [[0, 2], [3], [1], [4]]
    assert task.images.shape_of(1) == (3, 33, 17) and task.images.shape == (3, *max(SIZES, key=lambda s: s[0] * s[1]))


def test_a_run_keeps_every_size(finished: tuple[SampleConfig, Path]) -> None:
    _, run = finished
    arrays = arrays_of(run)
    for i, (height, width) in enumerate(SIZES):
        stem = f"000{i}_{chr(ord('a') + i)}"
        assert arrays[f"{stem}_sample0"].shape == arrays[f"{stem}_measurement"].shape == (3, height, width)
        truth = np.asarray(Image.open(run / "images" / f"{stem}_truth.png"))
        np.testing.assert_array_equal(truth, photograph(height, width, seed=i))
        assert (run / "images" / f"{stem}_walk.webp").is_file()
    assert [row["image"] for row in read_metrics(run)] == list("01234")
    assert all(row["psnr"] for row in read_metrics(run))
    assert (run / "overview.png").is_file()


def test_an_image_does_not_depend_on_the_others(finished: tuple[SampleConfig, Path], tmp_path: Path) -> None:
    config, run = finished
    assert config.data is not None
    alone = changed(config, output=str(tmp_path / "run"), data=changed(config.data, num_images=2), batch_size=1)  # type: ignore[arg-type]
    assert sampling.run(alone) == 0
    for name, value in arrays_of(tmp_path / "run").items():
        np.testing.assert_allclose(value, arrays_of(run)[name], atol=1e-4)


def test_every_sample_of_an_image_has_one_measurement(tmp_path: Path) -> None:
    """Also where the operator of the batch before is used again."""
    config = make_photo_config(tmp_path, SIZES[:1], num_samples=2, batch_size=1)
    task = load_task(config, CPU)
    first, second = (task.sample(units, task.load_image(0)[None]) for units in task.batches())
    assert first.measurement is not None and second.measurement is not None
    torch.testing.assert_close(first.measurement, second.measurement, rtol=0, atol=0)
    assert not torch.equal(first.x, second.x)


def test_a_file_alone(tmp_path: Path) -> None:
    config = make_photo_config(tmp_path)
    one = changed(config, data=changed(config.data, path=config.data.path + "/b.png"))  # type: ignore[arg-type, union-attr]
    assert sampling.run(one) == 0
    assert arrays_of(Path(config.output))["0000_b_sample0"].shape == (3, 33, 17)


# --- what goes wrong -------------------------------------------------------------------------------------------


def test_a_network_of_one_size_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path)
    keep = changed(config, data=changed(config.data, fit="keep"))  # type: ignore[arg-type]
    assert cli.run(lambda: sampling.run(keep)) == 2
    text = capfd.readouterr().err
    assert "data.fit: keep" in text and "12x12" in text and "resize, crop or pad" in text
    assert not Path(config.output).exists()


def test_a_size_cannot_be_asked_for_as_well(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image_size.*keep"):
        make_photo_config(tmp_path, image_size=[16, 16])


def test_sizes_that_the_operator_cannot_take_are_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    measurement = {"operator": {"name": "inpainting", "mask": "box", "box_size": 18}, "noise": {"std": 0.1}}
    config = make_photo_config(tmp_path, (*SIZES[:4], (17, 60)), measurement=measurement)  # the last is the largest
    assert sampling.run(config) == 1
    text = capfd.readouterr().err
    assert "2 of 5 images" in text and "does not fit 33x17" in text and "does not fit 17x60" in text
    assert [row["image"] for row in read_metrics(Path(config.output))] == list("023")
    assert sampling.dry_run(config) == 1


def test_an_operator_that_fits_no_image_is_one_message(tmp_path: Path) -> None:
    measurement = {"operator": {"name": "inpainting", "mask": "box", "box_size": 30}, "noise": {"std": 0.1}}
    with pytest.raises(InputError, match="does not fit 24x24"):
        load_task(make_photo_config(tmp_path, measurement=measurement), CPU)


@pytest.mark.parametrize("when", ["broken at first", "broken later"])
def test_a_mended_image_changes_no_other_batch(
    finished: tuple[SampleConfig, Path], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_photo_config(tmp_path)
    path = Path(config.data.path) / "a.png"  # type: ignore[union-attr]
    good = path.read_bytes()
    path.write_bytes(b"not an image" if when == "broken at first" else good[:60])
    assert sampling.run(config) == 1
    path.write_bytes(good)
    made: list[list[int]] = []
    sample = Task.sample

    def watched(task: Task, units: list[SampleId], *args: Any) -> Batch:
        made.append([unit.image for unit in units])
        return sample(task, units, *args)

    monkeypatch.setattr(Task, "sample", watched)
    assert sampling.run(config, RunFolder.resume(config.output)) == 0
    # The size of a file without a header was not known when the batches were formed: it is alone.
    assert made == ([[0]] if when == "broken at first" else [[0, 2]])
    for name, value in arrays_of(Path(config.output)).items():
        np.testing.assert_allclose(value, arrays_of(finished[1])[name], atol=1e-4)
    if when == "broken later":
        ours, whole = files_of(Path(config.output)), files_of(finished[1])
        ours.pop("config.yaml"), whole.pop("config.yaml")
        assert ours == whole


def test_mended_images_keep_their_batches_if_they_are_grey(tmp_path: Path) -> None:
    """Grey images are alone, as are those of an unknown size: batches stay in their order."""
    config = make_photo_config(tmp_path)
    folder = Path(config.data.path)  # type: ignore[union-attr]
    for name in ("a.png", "d.png"):
        (folder / name).write_bytes(b"not an image")
    begun = load_task(config, CPU)
    assert images_of(begun) == [[0], [1], [2], [3], [4]]
    for name in ("a.png", "d.png"):
        Image.fromarray(photograph(20, 26)).convert("L" if name == "d.png" else "RGB").save(folder / name)
    resumed = load_task(config, CPU)
    sampling._restore_inputs(resumed, {"sizes": begun.images.sizes})
    assert images_of(resumed) == images_of(begun)


def test_a_resumed_run_refuses_other_sizes(tmp_path: Path) -> None:
    config = make_photo_config(tmp_path)
    sampling.run(config)
    Image.fromarray(photograph(20, 27)).save(Path(config.data.path) / "c.png")  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"c\.png: has 20x27 pixels, but had 20x26"):
        sampling.run(config, RunFolder.resume(config.output))


# --- super-resolution ------------------------------------------------------------------------------------------


def test_super_resolution_cuts_what_its_factor_does_not_divide(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    measurement = {"operator": {"name": "super_resolution", "factor": 4}, "noise": {"std": 0.05}}
    config = make_photo_config(tmp_path, ((22, 27), (33, 17), (24, 24), (3, 40)), measurement=measurement)
    assert sampling.run(config) == 1
    text = capfd.readouterr().err
    assert "a.png is cropped from 22x27 to 20x24 pixels" in text and "so is another image" in text
    assert "d.png: 3x40 pixels are too few for super_resolution by 4" in text
    run = Path(config.output)
    truth = np.asarray(Image.open(run / "images" / "0000_a_truth.png"))
    np.testing.assert_array_equal(truth, photograph(22, 27)[:20, :24])
    assert arrays_of(run)["0001_b_measurement"].shape == (3, 8, 4)


def test_super_resolution_of_a_blurred_image(tmp_path: Path) -> None:
    parts = {"first": {"name": "gaussian_blur", "std": 1.0}, "second": {"name": "super_resolution", "factor": 2}}
    measurement = {"operator": {"name": "composition", **parts}, "noise": {"std": 0.05}}
    config = make_photo_config(tmp_path, ((21, 27),), measurement=measurement)
    sampler = changed(config.sampler, preconditioned=False)  # type: ignore[arg-type]
    task = load_task(changed(config, sampler=sampler), CPU)
    assert task.images.shape_of(0) == (3, 20, 26) and len(other_notes(task)) == 1


# --- pictures --------------------------------------------------------------------------------------------------


def test_large_pictures_are_thumbnails_in_the_overview() -> None:
    wide, small = photograph(300, 900), photograph(40, 30)
    sheet = sheets.overview([sheets.Row("truth", [wide, small, small])])
    assert sheet.width < 3 * sheets.THUMBNAIL + 120 and sheet.height < sheets.THUMBNAIL
    left = sheet.width - 3 * (sheets.THUMBNAIL + 8)
    assert np.ptp(np.asarray(sheet)[:, left : left + sheets.THUMBNAIL].astype(int), axis=(0, 1)).min() > 50


def test_large_pictures_are_not_animated(tmp_path: Path) -> None:
    config = make_photo_config(tmp_path, ((16, 520), (16, 24)))
    assert sampling.run(config) == 0
    assert [path.name for path in (Path(config.output) / "images").glob("*.webp")] == ["0001_b_walk.webp"]


def test_other_fits_know_no_sizes(tmp_path: Path) -> None:
    task = load_task(make_config(tmp_path), CPU)
    assert task.images.sizes is None and images_of(task) == [[0, 1], [2, 3], [4]]
    save_weights(tmp_path / "weights.safetensors")
    assert "sizes" not in inputs_of(task)
