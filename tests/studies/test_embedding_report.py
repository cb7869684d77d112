"""The report of a training with embedded scores: made of the run's files, of all their numbers, and of nothing else."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_tools import fake_run

from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.studies.score_embedding import report, report_data
from randomwalk.studies.score_embedding.report import (
    crossing_table,
    metric_table,
    pixels,
    running_median,
    seconds,
    settings,
)

NAMES = ["<b>astronaut</b>.png", 'a "cat" & co.png', "coffee.png"]
NEEDED = ["config.yaml", "images.npy", "samples.npy", "log.csv", "timings.csv", "metrics.csv"]
OPTIONAL = ["run.json", "profile.csv", "crossings.csv", "convergence.csv", "frames.npy", "scores.npy", "times.npy"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Path]]:
    """A run with everything, and its report."""
    folder = fake_run(tmp_path_factory.mktemp("runs") / "full", 3, names=NAMES)
    return folder, report.write(folder)


def rows_of(folder: RunFolder, name: str) -> list[dict[str, str]]:
    with folder.file(name).open(newline="") as file:
        return list(csv.DictReader(file))


def cells_of(page: str) -> set[str]:
    """Text of all the cells of an HTML page."""
    return {unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)}


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_files_of_a_full_run(full: tuple[RunFolder, list[Path]]) -> None:
    folder, paths = full
    assert paths == [folder.file(name) for name in ("samples.png", "report.html")]
    page = paths[1].read_text()
    for forbidden in ("<script", "http:", "https:", 'src="/', "<link"):
        assert forbidden not in page
    assert 'name="viewport"' in page


def test_pictures_of_the_page_decode(full: tuple[RunFolder, list[Path]]) -> None:
    paths = full[1]
    page = paths[1].read_text()
    found = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    titles = ["Curves", "Samples beside the truth", "From noise to image", "The embedded images and their field"]
    assert re.findall(r'<img alt="([^"]+)"', page) == titles and len(found) == len(titles)
    for data in found:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size[0] > 400 and len(picture.convert("L").getcolors(256) or []) > 2
    with Image.open(paths[0]) as picture:
        assert picture.width > 3 * 128


def test_names_are_escaped(full: tuple[RunFolder, list[Path]]) -> None:
    page = full[1][1].read_text()
    assert not any(name in page for name in NAMES[:2])
    assert "&lt;b&gt;astronaut&lt;/b&gt;" in page and "a &quot;cat&quot; &amp; co.png" in page


@pytest.mark.parametrize("method", ["score_embedding", "ddpm"])
def test_a_run_without_the_optional_files(tmp_path: Path, method: str) -> None:
    folder = fake_run(tmp_path / "bare", 1, 8, method, profile=False, frames=False, channels=1)
    for name in OPTIONAL:
        folder.file(name).unlink(missing_ok=True)
    page = report.write(folder)[1].read_text()
    assert re.findall(r'<img alt="([^"]+)"', page) == ["Curves", "Samples beside the truth"]
    assert "Crossings" not in page and ("alpha_bar_T" in page) == (method == "ddpm")


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_needed_file_is_missing_or_damaged(tmp_path: Path, name: str, damage: str) -> None:
    folder = fake_run(tmp_path / "run", 2, 8)
    path = folder.file(name)
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2].rstrip(b"0123456789.,-e\n"))
    with pytest.raises(InputError, match=re.escape(str(path))):
        report.write(folder)
    assert not folder.has("report.html")


@pytest.mark.parametrize("name", [name for name in OPTIONAL if name != "crossings.csv"])
def test_an_optional_file_that_is_there_must_be_whole(tmp_path: Path, name: str) -> None:
    folder = fake_run(tmp_path / "run", 2, 8)
    folder.file(name).write_bytes(b"\x00damaged")
    with pytest.raises(InputError, match=re.escape(name)):
        report.write(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("samples.npy", (1, 2, 3, 8, 9)), ("samples.npy", (1, 3, 3, 8, 8)), ("frames.npy", (5, 3, 8, 8)),
     ("images.npy", (1, 3, 8, 8)), ("scores.npy", (10, 2, 3, 8, 8))],
)  # fmt: skip
def test_shapes_that_do_not_fit(tmp_path: Path, name: str, shape: Sequence[int]) -> None:
    folder = fake_run(tmp_path / "run", 2, 8)
    folder.write_array(name, np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=re.escape(name)):
        report.write(folder)


def test_an_archive_of_arrays_is_no_array(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 2, 8)
    with folder.file("times.npy").open("wb") as file:
        np.savez(file, a=np.ones(2), b=np.ones(2))
    with pytest.raises(InputError, match=r"times\.npy: is not an array .*several"):
        report.write(folder)
    with pytest.raises(InputError, match=r"times\.npy: cannot be read .*several"):
        folder.read_array("times.npy")


def test_a_number_that_is_none_is_named_with_its_row(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 1, 8)
    rows = rows_of(folder, "log.csv")
    rows[4]["loss"] = "many"
    write_csv(folder, "log.csv", list(rows[0]), rows)
    with pytest.raises(InputError, match=r"log\.csv: row 5 .*many"):
        report.write(folder)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_files(full: tuple[RunFolder, list[Path]]) -> None:
    folder, paths = full
    cells = cells_of(paths[1].read_text())
    metrics = rows_of(folder, "metrics.csv")
    for row in metrics:
        assert {f"{float(row['ssim']):.4f}", f"{float(row['mse']):.5f}", row["evaluations"]} <= cells
    assert f"{np.mean([float(row['ssim']) for row in metrics]):.4f}" in cells
    for row in rows_of(folder, "timings.csv"):
        assert seconds(float(row["seconds"])) in cells
    assert {"0.9, sustained", "31.7 s", "0.95, sustained", "not reached", "0.95, first", "44.1 s"} <= cells
    assert "0.0002; peak reached 0.00015, 75% of it" in cells


def test_other_files_make_other_numbers(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 1, 8, start="truth", truth_weight=0.65)
    rows = rows_of(folder, "metrics.csv")
    write_csv(folder, "metrics.csv", list(rows[0]), [rows[0] | {"ssim": 0.12344, "mse": 0.056789}])
    write_csv(folder, "timings.csv", ["stage", "seconds"], [{"stage": "total", "seconds": 7.25}])
    run = report_data.read(folder)
    assert metric_table(run)[1] == [["astronaut.png", "0.1234", "26.02", "0.05679", "146"]]
    assert run.seconds("total") == 7.25 and run.seconds("solve") is None
    assert dict(settings(run))["start of sampling"].startswith(
        "65% of the true image, and noise: it contains the answer"
    )


def test_means_are_over_the_samples_of_an_image(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 2, 8, samples=2, start="truth")
    rows = rows_of(folder, "metrics.csv")
    changed = [row | {"ssim": value} for row, value in zip(rows, (0.2, 0.4, 0.6, 0.8), strict=True)]
    write_csv(folder, "metrics.csv", list(rows[0]), changed)
    cells = metric_table(report_data.read(folder))[1]
    assert [row[1] for row in cells] == ["0.3000", "0.7000", "0.5000"]


def test_unconditional_samples_stand_beside_the_nearest_image(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 3, 8)
    truth = np.load(folder.file("images.npy"))
    folder.write_array("samples.npy", truth[None, [2, 0, 0]])
    run = report_data.read(folder)
    assert not run.conditional and run.targets(0) == [2, 0, 0]
    labels = [row[0] for row in metric_table(run)[1]]
    assert labels == ["0, coffee.png", "1, astronaut.png", "2, astronaut.png", "mean of 3"]


@pytest.mark.parametrize(
    ("betas", "expected", "digits"),
    [((1e-4, 0.02), 4e-5, 5), ((1e-4, 0.008), 0.017, 3), ((5e-4, 0.004), 0.105, 3), ((5e-4, 0.001), 0.47, 2),
     ((1e-4, 0.002), 0.35, 2)],
)  # fmt: skip
def test_alpha_bar_of_the_published_tables(betas: tuple[float, float], expected: float, digits: int) -> None:
    assert round(report_data.alpha_bar_end(*betas, 1000), digits) == expected


def test_crossings_of_a_single_image_stand_for_the_mean(tmp_path: Path) -> None:
    assert len(crossing_table(report_data.read(fake_run(tmp_path / "one", 1, 8)))[1]) == 4
    assert len(crossing_table(report_data.read(fake_run(tmp_path / "three", 3, 8)))[1]) == 4


def test_running_median_forgets_outliers_and_keeps_slopes() -> None:
    values = np.arange(200.0)
    # A median of a symmetric neighbourhood leaves a line as it is, but for the cut neighbourhoods at the ends.
    assert np.array_equal(running_median(values)[5:-5], values[5:-5])
    values[100] = 1e6
    assert running_median(values).max() < 200


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_clipped_and_never_stretched() -> None:
    image = np.array([[[-1.0, 0.25], [0.5, 2.0]]])
    assert pixels(image).tolist() == [[0, 64], [128, 255]]
    stretched = (image - image.min()) / (image.max() - image.min())  # what the published figures do
    assert pixels(stretched).tolist() != pixels(image).tolist()


def test_embedded_images_follow_the_flow(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 2, 8)
    found = report_data.embedded(folder, report_data.read(folder), 1, 10)
    assert found is not None and found.levels.tolist() == list(range(10))
    scores, times = np.load(folder.file("scores.npy")).astype(float), np.load(folder.file("times.npy"))
    u = np.load(folder.file("images.npy"))[:1].astype(float)
    for n in range(10):
        if n:
            u = u - 0.5 * 4 ** times[n] * scores[n, :1].sum(2) / 10
        # Rounding of a few sums of numbers of order one, in double precision.
        assert np.allclose(found.images[n], u, rtol=0, atol=1e-13)


def test_nothing_is_embedded_without_a_field(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", 1, 8, "ddpm")
    assert report_data.embedded(folder, report_data.read(folder), 1, 10) is None
