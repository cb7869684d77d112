"""Training: the average, the data, and runs that are killed, shared or given bad input."""

from __future__ import annotations

import csv
import itertools
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import randomwalk
from randomwalk.config import TrainConfig
from randomwalk.config import files as configio
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError, RunError
from randomwalk.images.sources import ImageSource, open_images
from randomwalk.images.tensors import fit_to, to_pixels, to_tensor
from randomwalk.runs.folder import RunFolder
from randomwalk.training.ema import EMA
from randomwalk.training.examples import Examples, Split, split_images
from randomwalk.training.trainer import Trainer
from randomwalk.training.validation import denoising_psnr

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of several sizes, modes and formats."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, (mode, size) in enumerate([("L", (8, 8)), ("RGB", (12, 9)), ("RGBA", (7, 16)), ("P", (20, 20))] * 3):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:02d}.png")
    return folder


def settings(images: Path, output: Path, **changes: object) -> dict[str, object]:
    network = {"name": "unet", "image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 32}
    network |= {"num_res_blocks": 1, "channel_mult": [1, 1], "num_head_channels": 32}
    return {
        "output": str(output),
        "data": {"path": str(images), "image_size": 8, "channels": 1, "fit": "crop", "num_validation": 4},
        "network": network,
        "denoiser": {"name": "vp"},
        "optimizer": {"warmup_images": 8},
        "ema": {"half_life_images": 16},
        "batch_size": 4,
        "num_images": 32,
        "log_every": 1,
        "checkpoint_images": 8,
        "validate_images": 16,
        "validation_sigmas": [0.5],
        "device": "cpu",
    } | changes


def written(tmp_path: Path, images: Path, name: str, **changes: object) -> Path:
    """A YAML file with the settings; the run's folder is beside it, called ``name``."""
    import yaml

    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings(images, tmp_path / name, **changes)))
    return path


def train(*arguments: str | Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# --- the average -------------------------------------------------------------------------------------------------


def test_ema_forgets_by_images_and_leaves_buffers_alone() -> None:
    module = torch.nn.BatchNorm1d(1)
    ema = EMA(module, half_life=100, warmup_ratio=None)
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.running_mean.fill_(7.0)  # type: ignore[union-attr]
    for _ in range(10):
        ema.update(module, batch_size=10, images_seen=1000)
    assert ema.average["weight"].item() == pytest.approx(3 - 2 * 0.5, rel=1e-5)
    assert ema.state_dict_of(module)["running_mean"].item() == 7.0
    warm = EMA(module, half_life=1e9, warmup_ratio=0.05)
    assert warm.decay(10, images_seen=10_000) == pytest.approx(0.5 ** (10 / 500))


# --- data --------------------------------------------------------------------------------------------------------


def test_folder_and_zip_give_the_same_tensors_in_range(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in images.iterdir():
            file.write(path, path.name)
    folder, zipped = open_images(images), open_images(archive)
    assert folder.names == zipped.names and len(folder) == 12
    for channels in (1, 3):
        for i in range(4):
            x = folder.load(i, channels, (8, 8), "resize")
            assert x.shape == (channels, 8, 8) and x.min() >= -1 and x.max() <= 1
            assert torch.equal(x, zipped.load(i, channels, (8, 8), "resize"))


def test_fit_keeps_the_pixels_that_it_need_not_change() -> None:
    pixels = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1)
    assert np.array_equal(fit_to(pixels, (3, 3), "crop"), pixels[1:4, 2:5])
    padded = fit_to(pixels, (9, 9), "pad")
    assert np.array_equal(padded[2:7, 1:8], pixels) and padded.sum() == pixels.sum()
    assert fit_to(pixels, (10, 4), "resize").shape == (10, 4, 1)
    assert np.array_equal(to_pixels(to_tensor(pixels)), pixels[..., 0])


def test_examples_are_a_function_of_the_position(images: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings(images, tmp_path / "run"))
    split = split_images(config)
    assert not set(split.training) & set(split.validation) and len(split.validation) == 4
    whole = Examples(config, split, 0, 1, first=12, micro_batch=4).next()
    halves = [Examples(config, split, rank, 2, first=12, micro_batch=2).next() for rank in range(2)]
    for i, both in enumerate(whole):
        assert torch.equal(both, torch.cat([half[i] for half in halves]))


# --- runs --------------------------------------------------------------------------------------------------------


def in_process(images: Path, output: Path, **changes: object) -> Trainer:
    config = TrainConfig.model_validate(settings(images, output, **changes))
    trainer = Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(output))
    trainer.run()
    return trainer


def test_a_run_leaves_weights_that_load_and_numbers_that_add_up(images: Path, tmp_path: Path) -> None:
    config = written(tmp_path, images, "run")
    done = train("--config", config)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    for name in ("config.yaml", "run.json", "log.csv", "validation.csv", "curves.png", "samples.png", "report.html"):
        assert (run / name).stat().st_size > 0, name
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [int(row["images"]) for row in rows] == list(range(4, 33, 4))
    assert [int(r["step"]) for r in csv.DictReader((run / "validation.csv").open())] == [4, 8]
    denoiser = randomwalk.load_denoiser(run / "model.safetensors")
    assert denoiser(torch.zeros(2, 1, 8, 8), 1.0).shape == (2, 1, 8, 8)
    assert configio.load_train_config(run / "config.yaml").num_images == 32
    # The same seed trains the same weights, here in this process.
    in_process(images, tmp_path / "again")
    again = weights(tmp_path / "again")
    assert all(torch.equal(value, again[key]) for key, value in weights(run).items())


def test_a_killed_run_resumes_to_the_weights_of_one_that_was_not(images: Path, tmp_path: Path) -> None:
    dropout = {"num_images": 64, "network": settings(images, tmp_path)["network"] | {"dropout": 0.3}}  # type: ignore
    whole = in_process(images, tmp_path / "whole", **dropout)
    config = written(tmp_path, images, "killed", **dropout)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    run, deadline = tmp_path / "killed", time.monotonic() + 120
    while not (run / "checkpoint.pt").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train("--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(run)[name]), name
    steps = [int(row["step"]) for row in csv.DictReader((run / "log.csv").open())]
    assert steps == list(range(1, whole.step + 1))


def test_two_processes_at_half_the_batch_train_the_weights_of_one(images: Path, tmp_path: Path) -> None:
    """Up to float32 rounding, whose size is that of summing the same gradients in two parts in one process."""
    one = in_process(images, tmp_path / "one", num_images=16, precision="fp32")
    assert one.step == 4
    in_process(images, tmp_path / "parts", num_images=16, precision="fp32", accumulate=2)
    config = written(tmp_path, images, "two", num_images=16, precision="fp32")
    done = train("--config", config, launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"))
    assert done.returncode == 0, done.stderr
    start = Trainer(one.config, one.context, one.folder).denoiser.network.state_dict()
    expected = weights(tmp_path / "one")

    def distance(other: dict[str, torch.Tensor]) -> float:
        return max((value - other[name]).abs().max().item() for name, value in expected.items())

    rounding, moved = distance(weights(tmp_path / "parts")), distance({f"ema.{k}": v for k, v in start.items()})
    assert 0 < rounding < 1e-2 * moved
    assert distance(weights(tmp_path / "two")) < 10 * rounding


def test_training_learns_to_denoise(tmp_path: Path) -> None:
    """On copies of one image, whose MMSE denoiser is that image; an untrained network returns its input."""
    folder = tmp_path / "one"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((8, 8), 200, np.uint8)).save(folder / name)
    changes = {"data": {"path": str(folder), "image_size": 8, "channels": 1, "num_validation": 1}}
    changes |= {"optimizer": {"learning_rate": 2e-3, "warmup_images": 160}, "batch_size": 16, "num_images": 16 * 80}
    in_process(folder, tmp_path / "run", **changes, validate_images=16 * 80, checkpoint_images=10**6)
    psnr = float(list(csv.DictReader((tmp_path / "run" / "validation.csv").open()))[-1]["psnr_at_0.5"])
    assert psnr > 3 + 10 * math.log10(4 / 0.5**2)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(images: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings(images, tmp_path / "run"))
    trainer = Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(tmp_path / "run"))
    trainer.save()
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        trainer.descent.parameters[0].fill_(float("nan"))
    with pytest.raises(RunError, match="not finite at step 1"):
        trainer.run()
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_a_network_that_diverges_stops_the_run_where_it_was_good(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss stays finite: only the validation sees it. Resumed, the run ends as one that went well."""
    whole = in_process(images, tmp_path / "whole")
    config = TrainConfig.model_validate(settings(images, tmp_path / "run"))
    trainer = Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(tmp_path / "run"))
    step = Trainer.train_step

    def apart(self: Trainer, *given: Any) -> Any:
        if self.step == 5:
            with torch.no_grad():
                for parameter in self.descent.parameters:
                    parameter.normal_()
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", apart)
        with pytest.raises(RunError, match=r"has diverged: at step 8 .* dB below .* back at step 4\. .*learning_rate="):
            trainer.run()
    again = Trainer(config, trainer.context, trainer.folder)
    again.resume()
    assert again.step == 4
    again.run()
    for name, value in weights(whole.folder.path).items():
        assert torch.equal(value, weights(trainer.folder.path)[name])


def test_a_training_ends_after_given_minutes_with_its_decay_stretched_to_them(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step takes 2 s of a clock that ticks when it is read: 10 s are five steps of the eight, and the cosine is
    at their share of the time. The finished run has nothing left to do."""
    ticks = itertools.count()
    monkeypatch.setattr("randomwalk.training.loop.time.perf_counter", lambda: 2.0 * next(ticks))
    optimizer = {"learning_rate": 1.0, "warmup_images": 0, "decay": "cosine"}
    run = in_process(images, tmp_path / "run", max_minutes=10 / 60, optimizer=optimizer)
    rows = RunFolder(tmp_path / "run").read_csv("log.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    expected = [0.5 * (1 + math.cos(math.pi * k / 5)) for k in range(5)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    again = Trainer(run.config, run.context, run.folder)
    again.resume()
    again.run()
    assert again.step == 5


def test_a_missing_folder_is_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        in_process(images, tmp_path / "run", data={"path": "nowhere", "image_size": 8, "channels": 1})


def test_a_batch_that_cannot_be_shared_equally_is_refused(images: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings(images, tmp_path / "run", batch_size=5))
    with pytest.raises(InputError, match="batch_size is 5"):
        Trainer(config, Context(Launch(size=2), torch.device("cpu")), RunFolder.create(tmp_path / "run"))


def test_a_checkpoint_of_another_network_is_refused(images: Path, tmp_path: Path) -> None:
    trainer = in_process(images, tmp_path / "run", num_images=8)
    other = settings(images, tmp_path)["network"] | {"model_channels": 64}  # type: ignore[operator]
    config = trainer.config.model_copy(update={"network": type(trainer.config.network).model_validate(other)})
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        Trainer(config, trainer.context, trainer.folder).resume()


def test_dry_run_starts_nothing(images: Path, tmp_path: Path) -> None:
    done = train("--config", written(tmp_path, images, "run"), "--dry-run", "--set", "seed=3")
    assert done.returncode == 0, done.stderr
    assert "seed: 3" in done.stdout and "8 training and 4 validation images" in done.stdout
    assert not (tmp_path / "run").exists()


def test_training_can_start_from_weights(images: Path, tmp_path: Path) -> None:
    first = in_process(images, tmp_path / "first", num_images=8)
    config = first.config.model_copy(update={"initial_weights": str(tmp_path / "first" / "model.safetensors")})
    second = Trainer(config, first.context, RunFolder.create(tmp_path / "second"))
    for name, value in second.ema.average.items():
        assert torch.equal(value, first.ema.average[name]), name
    wider = {**first.config.network.model_dump(), "model_channels": 64}
    other = config.model_copy(update={"network": type(config.network).model_validate(wider)})
    with pytest.raises(InputError, match=r"initial_weights: .* does not fit"):
        Trainer(other, first.context, first.folder)


def test_the_psnr_of_a_validation_clips_and_averages_decibels(images: Path, tmp_path: Path) -> None:
    """Of D = 3 and X = 0 it is ``10 log10(4 / 1)``, 6.02 dB; of two images it is the mean of theirs."""

    class Constant(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, sigma: Any) -> torch.Tensor:
            return torch.full_like(x, 3.0)

    config = TrainConfig.model_validate(settings(images, tmp_path / "run"))
    pixels = np.array([[[0.0]], [[0.5]]]).repeat(8, 1).repeat(8, 2)
    source = ImageSource(["a", "b"], lambda i: np.zeros((8, 8), np.uint8), "here")
    source.load = lambda i, *rest: torch.from_numpy(pixels[i : i + 1]).float()  # type: ignore[method-assign]
    nothing = np.array([], dtype=np.int64)
    for chosen, expected in (([0], 6.0206), ([0, 1], (6.0206 + 12.0412) / 2)):
        found = denoising_psnr(Constant(), Split(source, nothing, np.array(chosen), []), config)
        assert found == {0.5: pytest.approx(expected, abs=1e-4)}


def test_the_noise_of_a_validation_belongs_to_the_image(images: Path, tmp_path: Path) -> None:
    seen = []

    class Looks(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, sigma: Any) -> torch.Tensor:
            seen.append(x)
            return x

    config = TrainConfig.model_validate(settings(images, tmp_path / "run"))
    split = split_images(config)
    denoising_psnr(Looks(), split, config)
    clean = torch.stack([split.source.load(i, 1, (8, 8), "crop") for i in split.validation.tolist()])
    noise = ((torch.cat(seen) - clean) / 0.5).flatten(1).double()
    products = (noise @ noise.T / noise.shape[1]).fill_diagonal_(0)
    assert len(noise) == 4 and float(products.abs().max()) < 4.5 / noise.shape[1] ** 0.5
