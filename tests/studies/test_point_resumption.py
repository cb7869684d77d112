"""Trainings that are interrupted, damaged or changed, and lose nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from randomwalk.cli import train
from randomwalk.config import TrainConfig
from randomwalk.config.files import dump, load_train_config
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.points import training
from randomwalk.training.trainer import Trainer
from randomwalk.training.validation import Validation


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations that cost nothing."""
    found = Validation({"chamfer": 1.0}, "", None, "points")
    monkeypatch.setattr(training.PointTrainingSet, "validate", lambda self, denoiser: found)
    monkeypatch.setattr("randomwalk.training.progress.curves", lambda *given: b"")
    monkeypatch.setattr(RunFolder, "write_image", lambda self, name, image: None)
    monkeypatch.setattr("randomwalk.training.progress._tensorboard", lambda folder: None)


def written(folder: Path, **changes: Any) -> Path:
    settings = {
        "output": str(folder),
        "data": {"dataset": "points", "set": "mixture"},
        "network": {"name": "mlp", "hidden": 16, "num_blocks": 1, "time_scale": 250.0},
        "denoiser": {"name": "edm", "sigma_data": 2.0},
        "optimizer": {"warmup_images": 64, "decay": "cosine"},
        "ema": {"half_life_images": 100},
        "batch_size": 8, "num_images": 128, "log_every": 1, "checkpoint_images": 32, "validate_images": 16,
        "device": "cpu",
    }  # fmt: skip
    path = folder.with_suffix(".yaml")
    path.write_text(dump(TrainConfig.model_validate({**settings, **changes})))
    return path


def rows(folder: Path, name: str = "log.csv") -> list[int]:
    return [int(row["images"]) for row in RunFolder(folder).read_csv(name)]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int, times: int = 1) -> None:
    """Send a signal to this process in the midst of a step."""
    take = Trainer.train_step

    def stopped(self: Trainer) -> Any:
        found = take(self)
        if self.step == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(Trainer, "train_step", stopped)


def equal_weights(a: Path, b: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_training_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    assert train.command(["--config", str(written(tmp_path / "whole"))]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_after(patch, 3, number)
        assert train.command(["--config", str(written(tmp_path / "run"))]) == status
    said = capsys.readouterr().err
    assert "all 24 points so far, so nothing is lost" in said and f"--resume {tmp_path / 'run'}" in said
    assert rows(tmp_path / "run") == [8, 16, 24]
    assert train.command(["--resume", str(tmp_path / "run")]) == 0
    assert "from point 24" in capsys.readouterr().out
    assert equal_weights(tmp_path / "whole", tmp_path / "run")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_second_signal_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 3, signal.SIGTERM, times=2)
    assert train.command(["--config", str(written(tmp_path / "run"))]) == 143
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("batch_size", [4, 32])
def test_another_batch_size_goes_on_from_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], batch_size: int
) -> None:
    config, run = written(tmp_path / "run"), str(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_after(patch, 8, signal.SIGTERM)
        assert train.command(["--config", str(config)]) == 143
    seen: list[int] = []
    batch = training.PointExamples.batch
    monkeypatch.setattr(training.PointExamples, "batch", lambda s, first: (seen.append(first), batch(s, first))[1])
    assert train.command(["--resume", run, "--set", f"batch_size={batch_size}", "num_images=256"]) == 0
    assert "from point 64" in capsys.readouterr().out
    assert seen == list(range(64, 256, batch_size))
    logged = [*range(8, 65, 8), *range(64 + batch_size, 257, batch_size)]
    assert rows(tmp_path / "run") == logged
    validated = rows(tmp_path / "run", "validation.csv")
    assert validated == sorted(validated) and validated[-1] == 256
    rates = [float(row["learning_rate"]) for row in RunFolder(run).read_csv("log.csv")]
    assert rates[8:] == sorted(rates[8:], reverse=True)  # the cosine goes on by images
    kept = load_train_config(tmp_path / "run" / "config.yaml")
    assert (kept.batch_size, kept.num_images) == (batch_size, 256)
    (entry,) = RunFolder(run).read_json("run.json")["resumed"]
    assert entry["changed"] == {"batch_size": [8, batch_size], "num_images": [128, 256]}


def test_a_checkpoint_that_counts_steps_alone_is_of_the_recorded_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4, signal.SIGTERM)
        assert train.command(["--config", str(written(tmp_path / "run"))]) == 143
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert (state.pop("images"), state["step"]) == (32, 4)
    torch.save(state, path)
    found: list[int] = []
    monkeypatch.setattr(Trainer, "run", lambda self: found.append(self.images_seen))
    for _ in range(2):  # the second time the config says 16
        assert train.command(["--resume", str(tmp_path / "run"), "--set", "batch_size=16"]) == 0
    assert found == [32, 32]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_finished_training_makes_its_weights_again(tmp_path: Path, harm: str) -> None:
    assert train.command(["--config", str(written(tmp_path / "run"))]) == 0
    path = tmp_path / "run" / "model.safetensors"
    before = {name: value.clone() for name, value in load_file(path).items()}  # the file is mapped into memory
    path.unlink() if harm == "missing" else path.write_bytes(b"damaged")
    assert train.command(["--resume", str(tmp_path / "run")]) == 0
    assert all(torch.equal(value, before[name]) for name, value in load_file(path).items())
    assert rows(tmp_path / "run")[-1] == 128


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.command(["--config", str(written(tmp_path / "whole"))]) == 0
    assert train.command(["--config", str(written(tmp_path / "run"))]) == 0
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-300])
    capsys.readouterr()
    assert train.command(["--resume", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "from point 96" in said.out and said.err.count("continuing from checkpoint_before.pt") == 1
    assert equal_weights(tmp_path / "whole", tmp_path / "run") and rows(tmp_path / "run")[-1] == 128
    for name in ("checkpoint.pt", "checkpoint_before.pt"):
        (tmp_path / "run" / name).write_bytes(b"")
    assert train.command(["--resume", str(tmp_path / "run")]) == 2
    assert "checkpoint_before.pt" in capsys.readouterr().err


def test_what_may_not_change_is_refused_with_what_may(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.command(["--config", str(written(tmp_path / "run"))]) == 0
    changes = ("seed=3", "data.set=moons", "network.hidden=32", "denoiser.sigma_data=1.0", "ema.warmup_ratio=1.0")
    for change in changes:
        capsys.readouterr()
        assert train.command(["--resume", str(tmp_path / "run"), "--set", change]) == 2
        said = capsys.readouterr().err
        assert f"differs from that of the run in {change.partition('=')[0]}" in said
        assert "May change: num_images, max_minutes" in said and "batch_size" in said
    assert "resumed" not in RunFolder(tmp_path / "run").read_json("run.json")


def test_a_full_disk_is_one_message_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save

    def full(value: Any, file: Any) -> None:
        if value["images"] > 32:
            raise OSError(28, "No space left on device")
        save(value, file)

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        assert train.command(["--config", str(written(tmp_path / "run", validate_images=1000))]) == 1
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'run' / 'checkpoint.pt'} cannot be written: No space left on device" in said
    assert f"--resume {tmp_path / 'run'}" in said
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert train.command(["--resume", str(tmp_path / "run")]) == 0


def test_new_hyperparameters_take_the_place_of_saved_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4, signal.SIGTERM)
        assert train.command(["--config", str(written(tmp_path / "run"))]) == 143
    found: list[Any] = []
    monkeypatch.setattr(Trainer, "run", lambda self: found.append(self.descent.optimizer.param_groups[0]))
    change = ["optimizer.weight_decay=0.25", "optimizer.betas=[0.5, 0.75]"]
    assert train.command(["--resume", str(tmp_path / "run"), "--set", *change]) == 0
    assert (found[0]["weight_decay"], found[0]["betas"]) == (0.25, (0.5, 0.75))


def test_a_network_that_diverges_with_nothing_to_go_back_to_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_train_config(written(tmp_path / "run"))
    assert training.run(config) == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    for name in ("validated.pt", "validated_before.pt"):
        (tmp_path / "run" / name).unlink()
    monkeypatch.setattr("randomwalk.training.progress.Progress.fall", lambda self: 9.0)
    with pytest.raises(RunError, match=r"has diverged.* No earlier state was kept"):
        training.run(config.model_copy(update={"num_images": 136}), resume=str(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    with pytest.raises(InputError, match="seed"):
        training.run(config.model_copy(update={"num_images": 136, "seed": 4}), resume=str(tmp_path / "run"))
