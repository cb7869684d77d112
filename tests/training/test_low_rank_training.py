"""Training of a low-rank difference: only factors change, runs resume, and the file needs its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import DENOISER, NETWORK, save_photo_weights
from PIL import Image
from training_tools import interrupted_at

from randomwalk.config import TrainConfig
from randomwalk.denoisers import low_rank
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.weight_files import read_difference, read_weights
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.training.trainer import Trainer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_photo_weights(tmp_path / "base.safetensors", 1.0)


def trainer_of(folder: Path, name: str, base: Path, **changes: Any) -> Trainer:
    """A training that has not begun, on two images of noise."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{k}.png")
    config = TrainConfig.model_validate({
        "output": str(folder / name), "network": NETWORK, "denoiser": DENOISER, "initial_weights": str(base),
        "data": {"path": str(images), "image_size": 32, "fit": "crop", "num_validation": 1, "camera": 0.5},
        "objective": {"levels": {"name": "log_normal", "mean": -1.6, "std": 1.2}},
        "low_rank": {"rank": 2, "alpha": 4}, "optimizer": {"warmup_images": 0, "learning_rate": 0.01},
        "ema": {"half_life_images": 4, "warmup_ratio": None}, "batch_size": 2, "num_images": 8, "device": "cpu",
        "log_every": 1, "checkpoint_images": 4, "validate_images": 1000, "validation_sigmas": [0.5], **changes,
    })  # fmt: skip
    return Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(folder / name))


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return read_weights(folder / name / "model.safetensors").tensors


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_only_the_factors_change(optimizer: str, base: Path, tmp_path: Path) -> None:
    made = trainer_of(tmp_path, "run", base, optimizer={"name": optimizer, "warmup_images": 0})
    before = {key: value.clone() for key, value in made.denoiser.network.state_dict().items()}
    kept, factors = low_rank.split(before)
    made.run()
    after, averaged = made.denoiser.network.state_dict(), made.descent.averaged_state()
    assert kept.keys() == read_weights(base).tensors.keys() and len(factors) == 2 * 10
    for key, value in kept.items():
        assert torch.equal(after[key], value) and torch.equal(averaged[key], value), key
    for key, value in factors.items():
        assert not torch.equal(after[key], value) and not torch.equal(averaged[key], after[key]), key
    expected = low_rank.merged(*low_rank.split(averaged), 4)
    assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path, "run").items())
    assert read_difference(tmp_path / "run" / "model.safetensors")["training"]["images_seen"] == 8  # type: ignore[index]


def test_the_error_falls(base: Path, tmp_path: Path) -> None:
    """Of one image at one level, from a bad start: the factors alone learn."""
    made = trainer_of(tmp_path, "run", base, num_images=200, checkpoint_images=1000)
    x = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(1)) - 0.5
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def error(path: Path) -> float:
        with torch.inference_mode():
            return float((load_denoiser(path)(x + 0.3 * noise, 0.3) - x).square().mean())

    made.run()
    assert error(tmp_path / "run" / "model.safetensors") < 0.5 * error(base)


def test_a_killed_run_resumes_to_the_factors_of_one_that_was_not(base: Path, tmp_path: Path) -> None:
    trainer_of(tmp_path, "whole", base).run()
    killed = trainer_of(tmp_path, "killed", base)
    with interrupted_at(3, KeyboardInterrupt):
        killed.run()
    again = Trainer(killed.config, killed.context, killed.folder)
    again.resume()
    assert again.step == 2
    again.run()
    whole, resumed = weights(tmp_path, "whole"), weights(tmp_path, "killed")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_what_cannot_be_a_base_is_refused(base: Path, tmp_path: Path) -> None:
    settings = trainer_of(tmp_path, "a", base).config.model_dump()
    for change, message in (
        ({"initial_weights": None}, "low_rank: is a difference to initial_weights, which are missing"),
        ({"export_raw": True}, "export_raw: found true; allowed with low_rank: false"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate({**settings, **change})
    trainer_of(tmp_path, "run", base).run()
    torch.save(read_weights(base).tensors, tmp_path / "plain.pt")
    for path in (tmp_path / "run" / "model.safetensors", tmp_path / "plain.pt"):
        with pytest.raises(InputError, match=f"low_rank: .*{path.name} is not a file of train.py with whole weights"):
            trainer_of(tmp_path, "again", path)
