"""``max_memory``: sample.py stays below it, by tiles that no result shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import SAMPLER, save_photo_weights, write_photo_config
from sampling_tools import ROOT, arrays_of, files_of, make_config, other_notes, read_metrics

import sample
from randomwalk.cli import options as cli
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.tiling import Tiling
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import memory, task
from randomwalk.sampling import run as sampling
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.memory import GIB
from randomwalk.sampling.progress import Progress

CPU = torch.device("cpu")
SIZES = ((150, 200), (40, 50))
TILED = "a.png is denoised in tiles of up to 128x128 pixels that overlap by 64, to stay below"


def make_photo_config(folder: Path, *args: Any, **changes: Any) -> SampleConfig:
    return load_sample_config(write_photo_config(folder, *args, **changes))


def changed(config: SampleConfig, **changes: Any) -> SampleConfig:
    return config.model_copy(update=changes)


def gib_for_a_tile(config: SampleConfig) -> float:
    """The bound under which the least tiles of the largest image fit, and no larger ones."""
    budget = load_task(config, CPU).budget
    assert budget is not None
    pixels = SIZES[0][0] * SIZES[0][1]
    return (memory.PROGRAM + budget.copies * 12 * pixels + budget.per_pixel * 130**2) / GIB


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleConfig, Path]:
    """A run of a large photograph and a small one, whole."""
    config = make_photo_config(tmp_path_factory.mktemp("whole"), SIZES)
    assert sampling.run(config) == 0
    return config, Path(config.output)


# --- the results -----------------------------------------------------------------------------------------------


def test_tiles_change_no_result(
    finished: tuple[SampleConfig, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, run = finished
    tiled = changed(config, output=str(tmp_path / "run"), max_memory=gib_for_a_tile(config))
    assert sampling.run(tiled) == 0
    assert TILED in capfd.readouterr().err
    ours, whole = arrays_of(tmp_path / "run"), arrays_of(run)
    assert not np.array_equal(ours["0000_a_sample0"], whole["0000_a_sample0"])
    np.testing.assert_array_equal(ours["0001_b_sample0"], whole["0001_b_sample0"])
    for mine, theirs in zip(read_metrics(tmp_path / "run"), read_metrics(run), strict=True):
        assert float(mine["psnr"]) == pytest.approx(float(theirs["psnr"]), abs=0.05)
        assert mine["evaluations"] == theirs["evaluations"] == "3"


def test_images_made_from_nothing_are_tiled_too(tmp_path: Path) -> None:
    schedule = {"name": "geometric", "num_steps": 3, "sigma_min": 0.05, "sigma_max": 10.0}
    changes: dict[str, Any] = {"sampler": {"name": "ddim", "schedule": schedule}, "measurement": None, "data": None}
    config = make_photo_config(tmp_path, SIZES, num_images=1, image_size=list(SIZES[0]), **changes)
    assert sampling.run(config) == 0
    tiled = changed(config, output=str(tmp_path / "tiled"), max_memory=gib_for_a_tile(config))
    made = load_task(tiled, CPU)
    assert made.tiling_of(made.batches()[0]) == Tiling(128, 128, 64)
    assert notes_of(made)[0].startswith(TILED.replace("a.png", "image 0"))
    assert sampling.run(tiled) == 0
    (whole,), (ours,) = (arrays_of(Path(c.output)).values() for c in (config, tiled))
    assert 0 < ((ours - whole) ** 2).mean() < 0.01 * whole.var()


def test_large_images_are_made_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ((20, 26), (20, 26), (40, 40), (20, 26), (40, 40))
    made = load_task(make_photo_config(tmp_path, sizes, batch_size=16), CPU)
    assert [[unit.image for unit in batch] for batch in made.batches()] == [[0, 1, 3], [2, 4]]
    monkeypatch.setattr(task, "BATCH_PIXELS", 2 * 20 * 26)
    assert [[unit.image for unit in batch] for batch in made.batches()] == [[0, 1], [3], [2], [4]]


def test_each_image_in_tiles_is_named_once(tmp_path: Path) -> None:
    """However many batches its samples make, and not where only the rows of a batch go through in turn."""
    sizes = (*SIZES, SIZES[0])
    config = make_photo_config(tmp_path, sizes, num_samples=2, batch_size=1)
    made = load_task(changed(config, max_memory=gib_for_a_tile(config)), CPU)
    (note,) = other_notes(made)
    assert note.startswith(TILED) and note.endswith("(max_memory); so is another image")
    together = load_task(changed(config, batch_size=2), CPU)
    assert together.budget is not None
    pixels = SIZES[0][0] * SIZES[0][1]
    budget = together.budget
    budget.gib = (memory.PROGRAM + budget.copies * 24 * pixels + budget.per_pixel * pixels * 1.1) / GIB
    tiling = together.tiling_of(together.batches()[0])
    assert tiling is not None and tiling.at_once == 1 and other_notes(together) == []


def test_the_note_says_which_limit_made_the_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_photo_config(tmp_path, SIZES)
    monkeypatch.setattr(memory, "CPU_PIXELS", 128**2)
    by_speed = load_task(changed(config, max_memory=8.0), CPU)
    assert by_speed.tiling_of(by_speed.batches()[0]) == Tiling(128, 128, 64)
    (note,) = other_notes(by_speed)
    assert note == TILED.removesuffix("to stay below") + memory.FAST_ENOUGH
    monkeypatch.undo()
    (note,) = other_notes(load_task(changed(config, max_memory=gib_for_a_tile(config)), CPU))
    assert note.startswith(TILED) and note.endswith("GiB (max_memory)")


# --- the bound -------------------------------------------------------------------------------------------------

MEASURED = """
import sys, sample
from randomwalk.cli import options as cli
status = cli.run(lambda: sample.main(sample.parser().parse_args(sys.argv[1:])))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak", int(peak) / 2**20)
sys.exit(status)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
def test_a_run_stays_below_the_bound(tmp_path: Path) -> None:
    """With gradients through a wide network; whole, it takes more than the bound."""
    sampler = {"name": "dps", "schedule": {**SAMPLER["schedule"], "num_steps": 1}}
    path = write_photo_config(tmp_path, ((400, 600),), sampler=sampler, animation_frames=0)
    save_photo_weights(tmp_path / "photo.safetensors", 1.0, widths=[64, 8], num_blocks=[1, 1])
    command = [sys.executable, "-c", MEASURED, "--config", str(path), "--max-memory", "1.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "in tiles of up to" in done.stderr
    assert 0.5 < float(done.stdout.splitlines()[-1].removeprefix("peak ")) < 1.3


def test_too_little_memory_is_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = changed(make_photo_config(tmp_path, SIZES[::-1]), max_memory=0.7)
    assert cli.run(lambda: sampling.run(config)) == 2
    text = capfd.readouterr().err
    # Of the image that takes most, so that a bound that is enough for it is enough for all.
    assert text.startswith("error: max_memory is 0.7 GiB, but images of 150x200 pixels take 1.2") and "raise" in text
    assert not Path(config.output).exists()


def test_networks_of_one_size_know_no_tiles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_memory: is for networks .* lower batch_size"):
        load_task(changed(make_config(tmp_path), max_memory=4.0), CPU)


def test_what_is_free_is_the_bound_where_none_is_given(
    finished: tuple[SampleConfig, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = changed(finished[0], output=str(tmp_path / "run"))
    monkeypatch.setattr(memory, "LIBRARIES", 1000.0)  # as if the network were a large one
    monkeypatch.setattr(memory, "free_memory", lambda device, processes: 3.279 * GIB)
    assert sampling.dry_run(config) == 0
    assert "# memory: at most 3.27 GiB (60% of the free memory)" in capfd.readouterr().out
    assert sampling.run(config) == 0
    folder = RunFolder.resume(config.output)
    assert folder.read_json("run.json")["inputs"]["memory"] == 3.27
    # Less is free when the run is resumed: it keeps the bound that it began with, and so its results.
    (tmp_path / "run" / "images" / "0000_a_sample0.png").unlink()
    less = gib_for_a_tile(config) * GIB
    monkeypatch.setattr(memory, "free_memory", lambda device, processes: less)
    tiled = load_task(config, CPU)
    assert tiled.tiling_of(tiled.batches()[0]) is not None
    assert sampling.run(config, folder) == 0
    ours, whole = files_of(tmp_path / "run"), files_of(finished[1])
    ours.pop("config.yaml"), whole.pop("config.yaml")
    assert ours == whole


def test_a_resumed_run_may_be_given_another_bound(finished: tuple[SampleConfig, Path]) -> None:
    words = ["--resume", finished[0].output, "--max-memory", "2.5"]
    config, _ = cli.sample_config(sample.parser().parse_args(words))
    assert isinstance(config, SampleConfig) and config.max_memory == 2.5


# --- the bar ---------------------------------------------------------------------------------------------------


def test_the_bar_counts_tiles(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Context(Launch(), CPU), 3)
    monkeypatch.setattr("randomwalk.sampling.progress.bar_interval", lambda: 0.0)
    progress.tile(4, 30)
    progress.tile(5, 30)  # at once after the other: not shown
    progress.close()
    text = capfd.readouterr().err
    assert "0/3 steps" in text and "tile 4 of 30" in text and "tile 5" not in text
