"""Reports of trainings: curves of what the logs say, and samples under one slider."""

from __future__ import annotations

import csv
from pathlib import Path
from urllib.parse import unquote

import pytest
from kills import bridge_training, image_training, point_training
from page_tools import data_of, lasting
from training_tools import interrupted_at

from randomwalk.cli.main import main
from randomwalk.training.report import smoothed


def column(path: Path, name: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_the_curves_are_those_of_the_logs(tmp_path: Path) -> None:
    assert main([*image_training(tmp_path), "--set", "validate_images=4"]) == 0
    run = tmp_path / "run"
    data = data_of(run / "report.html")
    charts = {chart["title"]: chart for chart in data["charts"]}
    [line] = charts["Training loss"]["lines"]
    assert [y for _, y in line["points"]] == pytest.approx(column(run / "log.csv", "loss"))
    assert [x for x, _ in line["points"]] == column(run / "log.csv", "images")
    [line] = charts["Validation: PSNR of denoised validation images, dB"]["lines"]
    assert line["label"] == "σ = 0.5"
    assert [y for _, y in line["points"]] == pytest.approx(column(run / "validation.csv", "psnr_at_0.5"))
    [image] = data["images"]
    assert [one["label"] for one in image["pictures"]] == ["4 images", "8 images"]
    assert all((run / unquote(one["src"])).is_file() for one in image["pictures"])
    assert (data["left"], data["right"], data["finished"]) == ("4 images", "8 images", True)
    assert data["settings"] == (run / "config.yaml").read_text()
    assert any("batch_size" in line or "warmup" in line for line in data["warnings"]) == bool(data["warnings"])


def test_a_training_in_progress_is_watched_and_resumed(tmp_path: Path) -> None:
    words = image_training(tmp_path)
    assert main(words) == 0
    whole = lasting(tmp_path / "run" / "report.html")
    (tmp_path / "run").rename(tmp_path / "whole")
    with interrupted_at(3, RuntimeError):
        main(words)
    data = data_of(tmp_path / "run" / "report.html")
    assert data["finished"] is False and data["progress"] == {"done": 2, "total": 8, "unit": "images"}
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert lasting(tmp_path / "run" / "report.html") == whole


def test_points_and_bridges_have_reports(tmp_path: Path) -> None:
    for name, made, title in (
        ("points", point_training, "Training"),
        ("bridge", bridge_training, "Training of a bridge"),
    ):
        (tmp_path / name).mkdir()
        assert main(made(tmp_path / name)) == 0
        run = tmp_path / name / "run"
        data = data_of(run / "report.html")
        assert data["title"].startswith(title) and data["charts"][0]["title"] == "Training loss"
        assert all((run / unquote(figure["src"])).is_file() for figure in data["figures"])
    assert [figure["title"] for figure in data["figures"]] == ["Bridge", "Animation"]
    assert data["tables"][0]["rows"] and len(data["charts"][0]["lines"]) == 2  # both directions


def test_the_running_mean_of_a_line_is_the_line() -> None:
    points = [[float(k), 3.0 * k] for k in range(200)]
    found = smoothed(points)
    assert len(found) == 196 and all(y == pytest.approx(3 * (x - 2)) for x, y in found)
