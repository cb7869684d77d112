"""Reports of sampling runs: every picture that a page names is there, and its numbers are those of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from page_tools import data_of, lasting
from PIL import Image
from sampling_tools import make_config, read_metrics

from randomwalk.errors import RunError
from randomwalk.images.sheets import STD_WHITE, std_map
from randomwalk.runs import report as reports
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import progress, report
from randomwalk.sampling import run as sampling
from randomwalk.sampling.image_results import ImageResults

NAMES = ["<script>alert(1)<\u2215script>.png", "a#b?c=d&e %41'\".png", "写真 é 1.png"]


def addresses_of(data: Any) -> list[str]:
    """Addresses of all pictures of a page."""
    if isinstance(data, dict):
        own = [data["src"]] if "src" in data else []
        return own + [address for value in data.values() for address in addresses_of(value)]
    return [address for value in data for address in addresses_of(value)] if isinstance(data, list) else []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with two samples of each of three images with odd names."""
    base = tmp_path_factory.mktemp("report")
    config = make_config(base, 3, num_samples=2, batch_size=2, output=str(base / "run #1"))
    for path, name in zip(sorted((base / "images").iterdir()), NAMES, strict=True):
        path.rename(path.with_name(name))
    assert sampling.run(config) == 0
    return base / "run #1"


def test_every_picture_is_there(finished: Path) -> None:
    data = data_of(finished / "report.html")
    found = addresses_of(data)
    assert all((finished / unquote(address)).is_file() for address in found)
    pictures = {str(path.relative_to(finished)) for path in finished.rglob("images/*")}
    assert (
        pictures <= {unquote(address) for address in found} and "schedule.png" in found and "calibration.png" in found
    )
    labels = ["measurement", "sample 0", "sample 1", "mean of 2", "truth"]
    assert all([one["label"] for one in image["pictures"]] == labels for image in data["images"])
    assert (data["left"], data["right"]) == ("measurement", "mean of 2") and data["finished"] is True


def test_the_numbers_are_those_of_the_run(finished: Path) -> None:
    data, rows = data_of(finished / "report.html"), read_metrics(finished)
    [table] = [table for table in data["tables"] if table["title"] == "Metrics"]
    assert len(table["rows"]) == len(rows) == 9 and {image["name"] for image in data["images"]} == set(NAMES)
    for shown, row in zip(table["rows"], rows, strict=True):
        assert shown["name"] == row["name"] and str(shown["sample"]) == row["sample"]
        assert shown["psnr"] == float(row["psnr"])
        assert shown["residual"] == (float(row["residual"]) if row["residual"] else None)
        image = data["images"][int(shown["href"].removeprefix("#image-"))]
        assert image["name"] == row["name"]
    means = [float(row["psnr"]) for row in rows if row["sample"] == "mean"]
    [summary] = [table for table in data["tables"] if table["title"] == "Summary"]
    cell = next(row["mean of samples"] for row in summary["rows"] if row["what"].startswith("PSNR"))
    assert cell.startswith(f"{np.mean(means):.2f} ± ")
    assert f"{means[0]:.1f} dB" in data["images"][0]["caption"]


def test_the_colour_bar_is_that_of_the_map(finished: Path) -> None:
    image = data_of(finished / "report.html")["images"][0]
    [scale] = [extra["scale"] for extra in image["extras"] if extra["label"] == "Spread"]
    count = len(scale["colours"])
    expected = std_map(np.array([[STD_WHITE * k / (count - 1) for k in range(count)]]))[0].tolist()
    assert count > 8 and scale["colours"] == [f"rgb({r} {g} {b})" for r, g, b in expected]
    assert scale["low"] == "0" and scale["high"].startswith(f"{STD_WHITE:g} ")
    [extra] = [extra["src"] for extra in image["extras"] if extra["label"] == "Spread"]
    arrays = sorted((finished / "arrays").glob("0000_*_std.npy"))
    shown = np.asarray(Image.open(finished / unquote(extra)))
    assert np.array_equal(shown, std_map(np.sqrt((np.load(arrays[0]) ** 2).mean(0))))


def test_settings_command_and_notes_are_there(finished: Path) -> None:
    data = data_of(finished / "report.html")
    assert data["settings"] == (finished / "config.yaml").read_text()
    assert any("sampler.schedule" in line for line in data["warnings"])  # of few steps
    assert data["commands"][0] == ["command", RunFolder(finished).facts()["command"]]
    assert any("interval" in line or "contested" in line for line in data["remarks"])


def test_a_run_in_progress_shows_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page has the images of the batches that are done; resumed, it ends as that of an uninterrupted run."""
    whole = make_config(tmp_path, 4, output=str(tmp_path / "whole"))
    assert sampling.run(whole) == 0
    parts = whole.model_copy(update={"output": str(tmp_path / "parts")})
    write = ImageResults.write_batch
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    monkeypatch.setattr(reports, "RELOAD", 0.0)
    monkeypatch.setattr(reports, "LARGEST_SHARE", 1e9)

    def dies(self: ImageResults, b: int, *rest: Any) -> None:
        if b == 1:
            raise RunError("dies")
        write(self, b, *rest)

    monkeypatch.setattr(ImageResults, "write_batch", dies)
    with pytest.raises(RunError, match="dies"):
        sampling.run(parts)
    monkeypatch.undo()
    data = data_of(tmp_path / "parts" / "report.html")
    assert data["finished"] is False and "--resume" in data["resume"] and data["written"] > 0
    assert len(data["images"]) == 2 and 6 < data["progress"]["done"] <= 12 == data["progress"]["total"]
    assert all((tmp_path / "parts" / unquote(address)).is_file() for address in addresses_of(data))
    assert sampling.run(parts, RunFolder.resume(tmp_path / "parts")) == 0
    assert lasting(tmp_path / "parts" / "report.html") == lasting(tmp_path / "whole" / "report.html")


def test_notes_on_images_and_skipped_ones_are_in_words(tmp_path: Path) -> None:
    config = make_config(
        tmp_path, 3, measurement={"operator": {"name": "denoising"}, "given": True, "noise": {"std": "auto"}},
        network={"path": "pretrained_models/photo.safetensors"},
        sampler={"name": "posterior_mean"}, animation_frames=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for k, path in enumerate(sorted((tmp_path / "images").iterdir())):
        Image.fromarray(rng.integers(90, 160, (64, 64), dtype=np.uint8)).save(path)
        if k == 1:
            path.write_bytes(path.read_bytes()[:400])
    assert sampling.run(config) == 1
    data = data_of(tmp_path / "run" / "report.html")
    assert any(line.startswith("picture a.png: noise estimated as") for line in data["warnings"])
    assert any(line.startswith("image 1 was skipped: ") for line in data["warnings"])
    assert [image["name"] for image in data["images"]] == ["picture a.png", "picture c.png"]


def test_an_unconditional_run_has_samples_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path, 1, data=None, measurement=None, num_images=3, sampler={
        "name": "ddim", "schedule": {"name": "karras", "num_steps": 3, "sigma_max": 20.0}})  # fmt: skip
    assert sampling.run(config) == 0
    data = data_of(tmp_path / "run" / "report.html")
    assert [[one["label"] for one in image["pictures"]] for image in data["images"]] == [["sample"]] * 3
    assert [image["name"] for image in data["images"]] == ["image 0", "image 1", "image 2"]


def test_a_page_shows_a_bounded_number_of_images(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_IMAGES", 2)
    rows = report.rows_of(RunFolder(finished))
    assert list(report.images_of(RunFolder(finished), rows, True)) == [0, 1]


@pytest.mark.parametrize(
    ("name", "image", "kind"),
    [("0003_a_mean_sample12.png", 3, "sample12"), ("0003_walk_truth.png", 3, "truth"), ("12345.png", 12345, "sample0"),
     ("0000_walk.webp", 0, "walk"), ("0001_x_std.png", 1, "std"), ("0001_a\nb_mean.png", 1, "mean")],
)  # fmt: skip
def test_names_of_pictures_tell_what_they_are(tmp_path: Path, name: str, image: int, kind: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).touch()
    (tmp_path / "images" / ".0003_x_mean.png.tmp").touch()
    assert report.pictures_of(RunFolder(tmp_path)) == {image: {kind: f"images/{name}"}}


def test_samples_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for k in range(12):
        folder.write_image(f"images/0000_a_sample{k}.png", np.zeros((2, 3), np.uint8))
    [shown] = report.images_of(folder, [{"image": 0, "sample": 0}], True).values()
    assert [picture.label for picture in shown.pictures] == [f"sample {k}" for k in range(12)]
    assert shown.size == (3, 2)
