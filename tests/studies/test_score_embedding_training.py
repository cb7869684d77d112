"""Trainings of few images through train.py: files, resuming, rebuilding, the clock, the messages."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from randomwalk.config.files import load_training
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.weight_files import read_weights
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding import training
from randomwalk.studies.score_embedding.methods import DDPM
from randomwalk.studies.score_embedding.objective import stratified_times
from randomwalk.studies.score_embedding.trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
EMBEDDING: dict[str, Any] = {
    "name": "score_embedding", "base": 2.0, "num_levels": 5, "density": {"name": "intensity"}, "time_scale": 1.0,
}  # fmt: skip
DDPM_METHOD: dict[str, Any] = {"name": "ddpm", "num_timesteps": 20, "beta_max": 0.4}


def config(tmp_path: Path, method: dict[str, Any] = EMBEDDING, **changes: Any) -> ScoreEmbeddingConfig:
    data = {
        "output": str(tmp_path / "run"),
        "data": {"path": str(ROOT / "data" / "photographs"), "image_size": 16, "num_images": 2},
        "method": method,
        "network": {
            "name": "ddpm_unet", "image_size": 16, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1,
            "attn_resolutions": [], "num_classes": 2, "dropout": 0.1,
        },
        "batch_size": 5,
        "num_steps": 6,
        "checkpoint_steps": 2,
        "device": "cpu",
        **changes,
    }  # fmt: skip
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    loaded = load_training(path)
    assert isinstance(loaded, ScoreEmbeddingConfig)
    return loaded


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder / "model.safetensors").tensors


EVERY_STEP = {"enabled": True, "every_steps": 2}
FILES = ("config.yaml", "run.json", "images.npy", "log.csv", "profile.csv", "timings.csv", "metrics.csv", "samples.npy",
         "crossings.csv", "frames.npy", "checkpoint.pt", "model.safetensors", "samples.png", "report.html")  # fmt: skip


@pytest.mark.parametrize("method", [EMBEDDING, DDPM_METHOD], ids=["embedding", "ddpm"])
def test_a_run_leaves_everything_and_its_weights_denoise(tmp_path: Path, method: dict[str, Any]) -> None:
    assert training.run(config(tmp_path, method, profile=EVERY_STEP, sampling={"num_samples": 2})) == 0
    folder = tmp_path / "run"
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert [int(row["step"]) for row in rows(folder, "log.csv")] == [1, 2, 3, 4, 5, 6]
    assert len(rows(folder, "profile.csv")) == 3 * 2 * 2  # measurements, images, samples
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (2, 2, 3, 16, 16) and samples.min() >= 0 and samples.max() <= 1
    found = rows(folder, "metrics.csv")
    assert [row["name"] for row in found] == ["astronaut.png"] * 2 + ["chelsea.png"] * 2
    denoiser = load_denoiser(folder / "model.safetensors")
    out = denoiser(torch.zeros(2, 3, 16, 16), 1.0, torch.tensor([0, 1]))  # type: ignore[call-arg]
    assert torch.isfinite(out).all()
    if method is EMBEDDING:
        assert np.load(folder / "scores.npy").shape == (5, 2, 3, 2, 16, 16)


@pytest.mark.parametrize("method", [EMBEDDING, {**EMBEDDING, "batches": "mixed"}, DDPM_METHOD])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, method: dict[str, Any]) -> None:
    ema = {"half_life_images": 20}
    whole = config(tmp_path, method, ema=ema, output=str(tmp_path / "whole"))
    training.run(whole)
    halted = config(tmp_path, method, ema=ema)
    trainer = Trainer(halted, CPU, RunFolder.create(halted.output))
    trainer.folder.write_text("config.yaml", (tmp_path / "whole" / "config.yaml").read_text())
    trainer.prepare()
    before = trainer.save
    trainer.save = lambda: (before(), stop(trainer.step))[0]  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert len(rows(tmp_path / "run", "log.csv")) == 4
    training.run(halted, resume=halted.output)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["loss"] for row in rows(tmp_path / "run", "log.csv")] == [
        row["loss"] for row in rows(tmp_path / "whole", "log.csv")
    ]
    assert np.array_equal(np.load(tmp_path / "run" / "samples.npy"), np.load(tmp_path / "whole" / "samples.npy"))


def stop(step: int) -> None:
    """A kill after the checkpoint of step 4."""
    if step == 4:
        raise KeyboardInterrupt


def test_an_interrupted_run_has_a_checkpoint_of_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.train_step

    def interrupted(self: Trainer) -> Any:
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"all 3 steps .* --resume"):
        patch.setattr(Trainer, "train_step", interrupted)
        training.run(config(tmp_path))
    assert [int(row["step"]) for row in rows(tmp_path / "run", "log.csv")] == [1, 2, 3]
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["images"]) == (3, 15)


def test_no_train_rebuilds_samples_and_report_and_leaves_the_weights(tmp_path: Path) -> None:
    run = config(tmp_path)
    training.run(run)
    folder = tmp_path / "run"
    kept, samples = (folder / "model.safetensors").read_bytes(), np.load(folder / "samples.npy")
    for name in ("report.html", "samples.npy", "metrics.csv"):
        (folder / name).unlink()
    training.run(run, no_train=True)
    assert (folder / "report.html").is_file()
    assert np.array_equal(np.load(folder / "samples.npy"), samples)
    assert (folder / "model.safetensors").read_bytes() == kept
    assert len(rows(folder, "log.csv")) == 6


def test_no_train_without_a_run_or_of_another_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        training.run(config(tmp_path), no_train=True)
    training.run(config(tmp_path))
    with pytest.raises(InputError, match=r"differs from .* in batch_size"):
        training.run(config(tmp_path, batch_size=4), no_train=True)


# --- the clock -------------------------------------------------------------------------------------------------------


def test_the_total_has_density_solve_and_training_and_no_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Trainer.samples

    def samples(self: Trainer) -> Any:
        time.sleep(0.3)
        return slow(self)

    monkeypatch.setattr(Trainer, "samples", samples)
    training.run(config(tmp_path, profile=EVERY_STEP))
    seconds = {row["stage"]: float(row["seconds"]) for row in rows(tmp_path / "run", "timings.csv")}
    assert seconds["total"] == pytest.approx(seconds["density"] + seconds["solve"] + seconds["training"], abs=2e-4)
    assert min(seconds["density"], seconds["solve"], seconds["training"]) > 0
    assert seconds["profiling"] > 0.9 and seconds["sampling"] > 0.3
    first, last = (rows(tmp_path / "run", "profile.csv")[k] for k in (0, -1))
    assert float(first["seconds"]) > seconds["density"] + seconds["solve"]
    assert float(last["seconds"]) == pytest.approx(seconds["total"], abs=1e-3)  # not the 0.9 s of profiling


def test_a_limit_of_time_counts_the_solver_too(tmp_path: Path) -> None:
    training.run(config(tmp_path, num_steps=100_000, time_limit=1.0, checkpoint_steps=1_000_000))
    seconds = {row["stage"]: float(row["seconds"]) for row in rows(tmp_path / "run", "timings.csv")}
    step = seconds["training"] / len(rows(tmp_path / "run", "log.csv"))
    assert 1.0 <= seconds["total"] < 1.0 + 20 * step + 0.5


def test_a_training_stops_once_its_samples_are_good_enough(tmp_path: Path) -> None:
    profile = {"enabled": True, "every_steps": 1, "stop_at": 0.0, "hold": 3}
    training.run(config(tmp_path, profile=profile, sampling={"start": "truth", "truth_weight": 1.0}, num_steps=50))
    ssim = [float(row["ssim"]) for row in rows(tmp_path / "run", "profile.csv")]
    assert len(rows(tmp_path / "run", "log.csv")) < 50 and min(ssim[-3:]) > -1


# --- what is trained on ----------------------------------------------------------------------------------------------


def trainer_of(tmp_path: Path, **changes: Any) -> Trainer:
    made = config(tmp_path, **changes)
    trainer = Trainer(made, CPU, RunFolder.create(made.output))
    trainer.prepare()
    return trainer


def test_a_batch_is_one_image_moved_along_its_own_field(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    method: Any = trainer.method
    u, t, image = method.examples(1, np.random.default_rng(0))
    assert image.tolist() == [1] * 5 and method.image_of(1) == 1 and trainer.epoch(3) == 1.5
    assert torch.equal(u[0], trainer.images[1])  # the first level is not moved
    draws = np.random.default_rng(0)
    draws.random(5)
    times = stratified_times(torch.arange(5), torch.from_numpy(draws.random(5)), 5, 1e-3)
    torch.testing.assert_close(t, times)
    moved = trainer.images[1].clone()
    for n in range(1, 5):
        moved = moved - 0.5 * (2.0 ** (2 * float(t[n]))) * method.field[n, 1] / 5
        torch.testing.assert_close(u[n], moved)
    assert (u[4] - u[0]).abs().max() > 1e-3


@pytest.mark.parametrize("batches", ["by_image", "mixed"])
def test_without_embedding_the_images_are_as_they_are(tmp_path: Path, batches: str) -> None:
    trainer = trainer_of(tmp_path, method={**EMBEDDING, "embedding": "none", "batches": batches})
    method: Any = trainer.method
    u, _, image = method.examples(0, np.random.default_rng(0))
    assert torch.equal(u, trainer.images[image])
    assert trainer.clock.seconds["solve"] == 0 and not trainer.folder.has("scores.npy")


def test_legacy_and_random_fields_are_others(tmp_path: Path) -> None:
    fields = []
    for changes in ({}, {"solver": {"name": "legacy", "tolerance": 1e-5}}, {"embedding": "random"}):
        fields.append(trainer_of(tmp_path, method={**EMBEDDING, **changes}).method.field)  # type: ignore[attr-defined]
    norms = [field.norm(dim=(-2, -1)) for field in fields]
    torch.testing.assert_close(norms[2], norms[0])
    assert not torch.allclose(norms[1][1:], norms[0][1:], rtol=0.1)
    assert (tmp_path / "run").is_dir() and list(tmp_path.glob("run_*/convergence.csv"))


def test_the_levels_of_a_shorter_sampling_have_the_highest_one(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, method={**DDPM_METHOD, "num_steps": 7})
    method: Any = trainer.method
    assert isinstance(method, DDPM)
    levels = method.levels(trainer.denoiser)
    table = trainer.denoiser.table  # type: ignore[union-attr]
    assert len(levels) == 7 and levels[0] == float(table[-1]) and levels[-1] == float(table[0])
    assert levels == sorted(levels, reverse=True)


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_command_profiles_and_rebuilds(tmp_path: Path) -> None:
    config(tmp_path, num_steps=2)
    task = str(tmp_path / "task.yaml")
    done = command("--config", task, "--profile", "--set", "profile.every_steps=1", "sampling.tolerance=0.1")
    assert done.returncode == 0, done.stderr
    assert "density" in done.stdout and "SSIM 0.95, sustained: not reached" in done.stdout
    assert len(rows(tmp_path / "run", "profile.csv")) == 4
    (tmp_path / "run" / "report.html").unlink()
    again = command("--resume", str(tmp_path / "run"), "--no-train")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_config_that_is_not_there_or_wrong_is_one_message(tmp_path: Path) -> None:
    missing = command("--config", str(tmp_path / "nothing.yaml"))
    assert missing.returncode == 2 and "nothing.yaml" in missing.stderr and "Traceback" not in missing.stderr
    config(tmp_path)
    wrong = command("--config", str(tmp_path / "task.yaml"), "--set", "method.base=0.5", "method.solver.name=newton")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "method.base" in wrong.stderr and "method.solver" in wrong.stderr


def test_no_train_is_for_few_images_only() -> None:
    done = command("--config", "configs/vp_train.yaml", "--no-train")
    assert done.returncode == 2 and "--no-train: is for" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.num_classes": 3}, "network.num_classes: found 3; allowed: data.num_images, which is 2"),
        ({"data.indices": [1]}, "indices: found 1 of them"),
        ({"profile": {"stop_at": 0.9}}, "stop_at: nothing is measured unless profile.enabled"),
        ({"profile": {"every_steps": 2, "every_seconds": 1.0}}, "every_steps: every_seconds is given too"),
        ({"data.image_size": 32}, "data.image_size: found 32; allowed: 16"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config(tmp_path)
    overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True).strip()}" for key, value in changes.items()]
    with pytest.raises(InputError) as error:
        load_training(tmp_path / "task.yaml", [text.removesuffix("\n...") for text in overrides])
    assert message in str(error.value).replace(" (--set)", "")


def test_a_loss_that_is_not_finite_ends_the_run_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"loss or its gradient is not finite .* Lower optimizer.learning_rate"):
        training.run(config(tmp_path, optimizer={"learning_rate": 1e9, "warmup_images": 0}, num_steps=40))
