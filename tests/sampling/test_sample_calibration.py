"""Several samples of an image by sample.py, and whether it tells right spreads from wrong ones."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_tools import SIZE, arrays_of, files_of, make_config, read_metrics

from randomwalk.rng import Stream, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import calibration
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task


def read_calibration(run: Path) -> list[dict[str, str]]:
    with (run / "calibration.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_calibration_is_that_of_the_arrays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, count=4, num_samples=9, batch_size=16)
    assert sampling.run(config) == 0
    run, task = Path(config.output), load_task(config, torch.device("cpu"))
    arrays, inside, counts = list(arrays_of(run).items()), 0.0, []
    for i in range(4):
        samples = np.stack([v for name, v in arrays if name.startswith(f"000{i}") and "_sample" in name])
        truth, shown = task.load_image(i).numpy(), np.sort(calibration.grey_values(samples), axis=0)
        grey = calibration.grey_values(truth)
        ranks = calibration.pixel_ranks(samples, truth, generator(config.seed, Stream.TIES, i))
        counts.append(calibration.counts(ranks, 9))
        inside += ((shown[0] < grey) & (grey < shown[-1])).mean() / 4
    rows = [row for row in read_calibration(run) if row["pixels"] == "all"]
    shares = [float(row["found"]) for row in rows if row["quantity"] == "share_of_rank"]
    np.testing.assert_allclose(shares, np.sum(counts, 0) / (4 * SIZE**2), atol=1e-6)
    widest = next(row for row in rows if row["quantity"] == "coverage" and row["rank"] == "1")
    assert float(widest["expected"]) == 0.8 and widest["images"] == "4"
    assert float(widest["found"]) == pytest.approx(inside, abs=0.02)  # ties at the ends
    assert {row["pixels"] for row in read_calibration(run)} == {"contested", "all"}
    text = capfd.readouterr().out
    assert "80% intervals cover" in text and "calibration.png" in text and "of the contested pixels" in text
    assert getattr(Image.open(run / "calibration.png"), "width", 0) > 800


@pytest.mark.parametrize(
    ("factor", "shift", "verdict"), [(1.0, 0.0, "calibrated"), (0.3, 0.0, "too narrow"), (1.0, 0.5, "too bright")]
)
def test_a_run_tells_right_samples_from_wrong_ones(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    shift: float,
    verdict: str,
) -> None:
    """Samples that are exchangeable with the true images, or were, before they were narrowed or shifted."""

    def load_image(self: Task, image: int) -> torch.Tensor:
        return 0.3 * torch.from_numpy(generator(99, image).standard_normal((1, SIZE, SIZE), dtype=np.float32))

    def posterior(self: Task, probe: Any, measurement: Any, draws: Any, callback: Any) -> torch.Tensor:
        x = draws.normal(self.images.shape)
        for k in range(self.num_steps):
            probe(x, 1.0)
            callback(k, x, 1.0)
        return shift + factor * 0.3 * x

    monkeypatch.setattr(Task, "load_image", load_image)
    monkeypatch.setattr(Task, "_sample", posterior)
    config = make_config(tmp_path, count=30, num_samples=9, batch_size=90, animation_frames=0)
    assert sampling.run(config) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if "contested pixels" in line)
    assert "80% intervals cover" in line and verdict in line, line
    rows = [row for row in read_calibration(Path(config.output)) if row["pixels"] == "contested"]
    far = [abs(float(r["found"]) - float(r["expected"])) > 4 * float(r["standard_error"]) for r in rows]
    assert any(far) == (verdict != "calibrated")


def test_a_resumed_run_ends_with_the_same_calibration(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=2, num_samples=3, batch_size=2)
    assert sampling.run(config) == 0
    run = Path(config.output)
    before = files_of(run)
    assert {"calibration.csv", "calibration.png"} <= before.keys()
    next((run / "arrays").glob("0001*_sample1.npy")).unlink()
    (run / "calibration.csv").unlink()
    assert sampling.run(config, RunFolder.resume(run)) == 0
    assert files_of(run) == before


def test_one_image_has_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, count=1, num_samples=2)
    assert sampling.run(config) == 0
    assert "33.3% intervals cover" in (text := capfd.readouterr().out) and "one image" in text
    assert {row["standard_error"] for row in read_calibration(Path(config.output))} == {""}


def test_single_samples_have_no_calibration(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=1)
    assert sampling.run(config) == 0
    assert not (Path(config.output) / "calibration.csv").exists()
    assert math.isfinite(float(read_metrics(Path(config.output))[0]["psnr"]))
