"""A folder of colour photographs is trained on as it is; what ruins a training is said before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk.config import TrainConfig
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.config.labels import Labels
from randomwalk.config.training import PointData
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError
from randomwalk.progress import UNWATCHED, progress_bar
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.points.training import PointTrainingSet
from randomwalk.training import check
from randomwalk.training.progress import Progress, curves
from randomwalk.training.sets import ImageSet
from randomwalk.training.trainer import Trainer
from randomwalk.training.validation import Validation

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "folder_train.yaml"
TINY = [
    "network.model_channels=8", "network.channel_mult=[1,1]", "network.attention_resolutions=[]",
    "network.num_head_channels=8", "network.norm_groups=2", "device=cpu", "precision=fp32",
]  # fmt: skip
SMALL = ["data.image_size=16", "network.image_size=16", "validation_sigmas=[0.5]"]
FEW = ["batch_size=4", "num_images=8", "optimizer.warmup_images=4", "data.num_validation=2"]


def save_pictures(folder: Path, num: int, size: tuple[int, int] = (90, 70), mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num)
    for i in range(num):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return folder


def warned(capsys: pytest.CaptureFixture[str], config: TrainConfig) -> list[str]:
    """The warnings of a dry run."""
    assert check(config, PointTrainingSet if isinstance(config.data, PointData) else ImageSet) == 0
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_subfolders_are_classes_if_there_are_any(tmp_path: Path) -> None:
    for name in ("wild", "cat", "dog"):
        save_pictures(tmp_path / "animals" / name, 2)
    config = load_train_config(FOLDER, [f"data.path={tmp_path / 'animals'}", *TINY, *FEW])
    assert config.labels == Labels(auto=True)
    data = ImageSet(config)
    assert data.config.labels == Labels() and data.config.network.num_classes == 4  # type: ignore[union-attr]
    assert data.config.denoiser.null_label == 3  # type: ignore[union-attr]
    assert data.description == "4 training and 2 validation images of 3 classes (cat, dog, wild)"
    for folder in (tmp_path / "animals" / "cat", save_pictures(tmp_path / "one" / "album", 3).parent):
        lines = [f"data.path={folder}", *TINY, *FEW, "data.num_validation=1"]
        plain = ImageSet(load_train_config(FOLDER, lines))
        assert plain.config.labels is None and plain.config.network.num_classes is None  # type: ignore[union-attr]
        assert "class" not in plain.description


def test_the_two_commands_of_a_folder(tmp_path: Path) -> None:
    """Train and sample as configs/folder_*.yaml say, with a network of no size and a few steps; then resume."""
    for name in ("cat", "dog", "wild"):
        save_pictures(tmp_path / "animals" / name, 3)

    def run(script: str, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("train.py", "--config", str(FOLDER), "--set", "data.path=animals", *TINY, *SMALL, *FEW)
    kept = load_train_config(tmp_path / "results" / "folder" / "config.yaml")
    assert kept.labels == Labels() and kept.network.num_classes == 4  # type: ignore[union-attr]
    save_pictures(tmp_path / "animals" / "unicorn", 1)  # a run goes on with the classes that it began with
    found = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--resume", "results/folder"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert found.returncode == 2 and "network.num_classes: found 4; allowed: 5" in found.stderr
    sample = str(ROOT / "configs" / "folder_sample.yaml")
    few = ["num_images=3", "sampler.schedule.num_steps=2", "device=cpu", "animation_frames=2"]
    run("sample.py", "--diffusion_config", sample, "--set", *few, "guidance.labels=[0,1,2]")
    assert len(list((tmp_path / "results" / "folder_samples").rglob("*.png"))) >= 3


def test_the_sampling_config_goes_with_the_training() -> None:
    training = load_train_config(FOLDER)
    sampling = load_sample_config(ROOT / "configs" / "folder_sample.yaml", ["guidance=null"])  # of a folder without any
    assert sampling.network.path == f"{training.output}/model.safetensors"


def test_labels_that_the_data_settle_may_not_be_given_too(tmp_path: Path) -> None:
    for key in ("network.num_classes", "denoiser.null_label"):
        with pytest.raises(InputError, match=f"{key}.*: found 4; with labels.auto the data determine it"):
            load_train_config(FOLDER, [f"{key}=4"])
    with pytest.raises(InputError, match="ncsnpp has no classes"):
        load_train_config(ROOT / "configs" / "ve_train.yaml", ["labels.auto=true"])


# --- warnings ------------------------------------------------------------------------------------------------------


def test_a_sensible_training_has_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_pictures(tmp_path / "p", 12)
    assert warned(capsys, load_train_config(FOLDER, [f"data.path={path}", *TINY, *FEW])) == []
    assert warned(capsys, load_train_config(ROOT / "configs" / "toy" / "moons_train.yaml")) == []


def test_a_warm_up_longer_than_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["num_images=16", "batch_size=8", "optimizer.warmup_images=64"]
    path = save_pictures(tmp_path / "p", 12)
    found = warned(capsys, load_train_config(FOLDER, [f"data.path={path}", *TINY, "data.num_validation=2", *lines]))
    assert len(found) == 1 and "warmup_images, 64: the learning rate only reaches 25% of its value" in found[0]
    moons = ROOT / "configs" / "toy" / "moons_train.yaml"
    found = warned(capsys, load_train_config(moons, lines))
    assert len(found) == 1 and "reaches 25%" in found[0]
    assert warned(capsys, load_train_config(moons, [*lines, "num_images=64"])) == []


def test_fewer_images_than_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_pictures(tmp_path / "p", 5)
    found = warned(capsys, load_train_config(FOLDER, [f"data.path={path}", *TINY, *FEW]))
    assert len(found) == 1 and "there are 3 images to train on, fewer than batch_size, 4" in found[0]
    path = save_pictures(tmp_path / "p", 6)
    assert warned(capsys, load_train_config(FOLDER, [f"data.path={path}", *TINY, *FEW])) == []


@pytest.mark.parametrize(("size", "bad"), [((90, 70), True), ((30, 20), True), ((64, 64), False), ((28, 28), False)])
def test_black_bars(size: tuple[int, int], bad: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_pictures(tmp_path / "p", 8, size)
    lines = [f"data.path={path}", *TINY, *FEW, "data.fit=pad", "data.rescale=null"]
    found = warned(capsys, load_train_config(FOLDER, lines))
    assert len(found) == bad and all("data.fit is pad" in line and str(path) in line for line in found)


@pytest.mark.parametrize("mode", ["RGB", "L", "grey in RGB", "P"])
@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_grey_network_on_colour(mode: str, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_pictures(tmp_path / "p", 8, mode="L" if mode.startswith("grey") else mode)
    if mode.startswith("grey"):
        for file in path.iterdir():
            Image.open(file).convert("RGB").save(file)
    grey = ["data.channels=1", "network.in_channels=1", "network.out_channels=1", f"data.cache={cache}"]
    found = warned(capsys, load_train_config(FOLDER, [f"data.path={path}", *TINY, *FEW, *grey]))
    assert len(found) == (mode in ("RGB", "P")) and all("data.channels is 1, but" in line for line in found)


def test_warnings_come_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from randomwalk.training import run

    path = save_pictures(tmp_path / "p", 5)
    lines = [f"data.path={path}", *TINY, *SMALL, *FEW, f"output={tmp_path / 'run'}"]
    assert run(load_train_config(FOLDER, lines)) == 0
    assert capsys.readouterr().err.startswith("warning: there are 3 images")


def test_noise_levels_of_the_validation_are_those_of_the_denoiser(tmp_path: Path) -> None:
    path = save_pictures(tmp_path / "p", 5)
    config = load_train_config(FOLDER, [f"data.path={path}", *TINY, *FEW, "validation_sigmas=[0.5,200.0]"])
    with pytest.raises(InputError, match=r"validation_sigmas: found 200; allowed: 0\.01 to 157"):
        check(config)


# --- the log -------------------------------------------------------------------------------------------------------


def point_trainer(output: Path, *lines: str) -> Trainer:
    config = load_train_config(ROOT / "configs" / "toy" / "swiss_roll_train.yaml", [f"output={output}", *lines])
    return Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(output), PointTrainingSet(config))


def test_a_validation_may_come_before_the_first_row_of_the_log(tmp_path: Path) -> None:
    trainer = point_trainer(tmp_path / "run", "batch_size=64", "num_images=256", "validate_images=64", "log_every=3")
    trainer.run()
    rows = trainer.folder.read_csv("validation.csv")
    assert [int(row["images"]) for row in rows] == [64, 128, 192, 256]
    assert [int(row["step"]) for row in trainer.folder.read_csv("log.csv")] == [3, 4]
    assert trainer.folder.has("model.safetensors")


def test_speed_is_images_by_the_seconds_of_training(tmp_path: Path) -> None:
    """From the first row on, and in the first one after an interruption; time between steps does not count."""
    progress = Progress(RunFolder(tmp_path), Context(Launch(), torch.device("cpu")))
    one = torch.tensor(1.0)
    progress.restore(step=0, images=0, seconds=0.0)
    rows = progress.rows["log.csv"]
    progress.log(4, 40, one, one, 0.1, seconds=2.0)
    progress.log(6, 60, one, one, 0.1, seconds=2.5)
    progress.restore(step=6, images=60, seconds=2.5)
    progress.log(8, 80, one, one, 0.1, seconds=7.5)
    progress.close()
    assert [float(row["images_per_second"]) for row in progress.rows["log.csv"]] == [20, 40, 4]
    assert len(rows) == 2


def test_no_panel_of_the_curves_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    seen: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: seen.append(figure))
    found = Validation({"psnr_at_0.5": 20.0}, "PSNR", None, "images")
    for rows in (0, 1, 2, 90):
        log = [{"loss": "0.5", "images": str(100 * i)} for i in range(rows)]
        curves(log, [{"psnr_at_0.5": "20", "images": "100"}], found)
        axes = seen[-1].axes
        assert len(axes) == (2 if rows else 1)
        for axis in axes:  # a line of one point shows with a marker only
            assert all(len(line.get_xdata()) > 1 or line.get_marker() != "None" for line in axis.lines) and axis.lines


def test_a_failure_speaks_of_a_checkpoint_only_if_there_is_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.state_of("checkpoint.pt") == f"there is no checkpoint in {tmp_path} yet"
    folder.write_torch("checkpoint.pt", {})
    assert folder.state_of("checkpoint.pt") == f"the last checkpoint in {tmp_path} is from before"


def test_bars_that_nobody_watches_are_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line at the start and one at the end, none of them drawn over; on a terminal the bar is as usual."""
    with progress_bar(total=2000, desc="work") as bar:
        for _ in range(2000):
            bar.update()
    said = capsys.readouterr().err
    assert "\r" not in said
    assert [line.split("|")[0] for line in said.splitlines()] == ["work:   0%", "work: 100%"]
    assert bar.mininterval == bar.maxinterval == UNWATCHED
