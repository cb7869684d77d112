"""Training with class labels: where they come from, what is dropped, what is learned, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training_tools import interrupted_at

from randomwalk import samplers
from randomwalk.config import TrainConfig
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.guidance import guided
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError
from randomwalk.images.sources import open_dataset, open_images
from randomwalk.rng import ImageDraws, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.samplers import schedules
from randomwalk.sampling.loading import load_task
from randomwalk.training import progress
from randomwalk.training.examples import Examples, split_images
from randomwalk.training.labels import TrainingLabels
from randomwalk.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
COLOURS = {"brick": (220, 60, 40), "sky": (60, 130, 250)}
SPREAD, PER_CLASS = 20, 60


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than the trainings here, and is looked at in other tests."""
    monkeypatch.setattr(progress, "curves", lambda *arguments: b"")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one pixel, of two colours with some spread, in a folder each; one colour is twice as frequent."""
    folder, rng = tmp_path_factory.mktemp("pixels"), np.random.default_rng(0)
    for times, (name, colour) in enumerate(COLOURS.items(), start=1):
        (folder / name / "deeper").mkdir(parents=True)
        for i in range(times * PER_CLASS):
            value = np.clip(rng.normal(colour, SPREAD, (1, 1, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(value).save(folder / name / ("deeper" if i % 2 else ".") / f"{i:03d}.png")
    return folder


def settings(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output": str(output),
        "data": {"path": str(data), "image_size": 1, "channels": 3, "num_validation": 6},
        "network": {"name": "mlp", "num_channels": 3, "hidden": 32, "num_blocks": 2, "num_classes": 3},
        "denoiser": {"name": "sde", "sde": {"name": "vp"}, "prediction": "v", "null_label": 2},
        "labels": {"dropout": 0.3},
        "optimizer": {"warmup_images": 8},
        "ema": {"half_life_images": 16},
        "batch_size": 8,
        "num_images": 64,
        "checkpoint_images": 16,
        "validate_images": 1_000_000,
        "device": "cpu",
    } | changes


def make_trainer(data: Path, output: Path, **changes: Any) -> Trainer:
    config = TrainConfig.model_validate(settings(data, output, **changes))
    return Trainer(config, Context(Launch(), CPU), RunFolder.create(output))


def weights(trainer: Trainer) -> list[Tensor]:
    return [value.clone() for value in trainer.ema.average.values()]


# --- where labels come from ----------------------------------------------------------------------------------------


def test_folders_are_classes_in_the_order_of_their_names(pixels: Path, tmp_path: Path) -> None:
    source = open_images(pixels)
    assert source.classes == ["brick", "sky"] and source.labels is not None
    assert [source.classes[k] for k in source.labels] == [Path(name).parts[0] for name in source.names]
    Image.new("L", (1, 1)).save(tmp_path / "alone.png")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (1, 1)).save(tmp_path / name / "x.png")
    assert open_images(tmp_path).labels is None  # one image is in no class
    assert open_images(tmp_path / "a").labels is None


def test_examples_have_the_label_of_their_image_or_none(pixels: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings(pixels, tmp_path))
    split = split_images(config)
    examples = Examples(config, split, 0, 1, first=0, micro_batch=8)
    dropped = 0
    for _ in range(50):
        x, _, _, labels = examples.next()
        dropped += int((labels == 2).sum())
        reddish = (x[:, 0] > x[:, 2]).flatten()  # far apart: 4 spreads at least
        assert torch.equal(labels[labels != 2] == 0, reddish[labels != 2])
    # Binomial, within four standard deviations.
    assert abs(dropped / 400 - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5


def test_labels_do_not_depend_on_how_the_batch_is_shared(pixels: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings(pixels, tmp_path))
    split = split_images(config)
    whole = Examples(config, split, 0, 1, first=24, micro_batch=8).next()
    halves = [Examples(config, split, rank, 2, first=24, micro_batch=4).next() for rank in range(2)]
    assert len(whole) == 4 and torch.equal(whole[3], torch.cat([half[3] for half in halves]))


# --- training ------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def trained_twice(pixels: Path, tmp_path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of a run, and of one that is killed after its fifth step and goes on from the fourth."""
    whole = make_trainer(pixels, tmp_path / "whole")
    whole.run()
    killed = make_trainer(pixels, tmp_path / "killed")
    with interrupted_at(5, KilledError):
        killed.run()
    resumed = Trainer(killed.config, killed.context, RunFolder(killed.folder.path))
    resumed.resume()
    assert resumed.step == 4
    resumed.run()
    return weights(whole), weights(resumed)


def test_a_killed_run_resumes_to_the_weights_of_one_that_was_not(
    pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = trained_twice(pixels, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    # A mistake: draws that go on where the last ones ended.
    stream = np.random.default_rng(0)
    monkeypatch.setattr(
        TrainingLabels, "at", lambda self, position, image: 2 if stream.random() < 0.3 else int(self.labels[image])
    )
    whole, resumed = trained_twice(pixels, tmp_path / "mistake")
    assert not all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_network_learns_the_classes_apart(pixels: Path, tmp_path: Path) -> None:
    """Means of samples of each class, and of none, against those of the training images.

    The tolerance: four standard errors of the mean of 400 draws, and the training's own error, which for seeds 0 to 3
    is at most 0.06 in the mean of a class and 0.11 in that of all, where one class may get too large a share.
    """
    longer: dict[str, Any] = {"batch_size": 32, "num_images": 32 * 250, "checkpoint_images": 10**6}
    longer |= {"optimizer": {"learning_rate": 5e-3, "decay": "cosine", "warmup_images": 320}}
    trainer = make_trainer(pixels, tmp_path / "run", **longer, ema={"half_life_images": 400})
    trainer.run()
    denoiser = load_denoiser(tmp_path / "run" / "model.safetensors")
    source = open_images(pixels)
    split = split_images(trainer.config)
    of_image = torch.stack([source.load(int(i), 3, (1, 1), "resize") for i in split.training]).flatten(1)
    assert source.labels is not None
    labels = torch.from_numpy(source.labels[split.training])
    sigmas = schedules.make("karras", 16, sigma_min=0.02, sigma_max=40.0)
    for chosen, training_error in ((0, 0.08), (1, 0.08), (None, 0.14)):
        draws = ImageDraws([generator(1, i) for i in range(400)])
        x = float(sigmas[0]) * draws.normal((3, 1, 1))
        told = guided(denoiser, None if chosen is None else [chosen])
        found = samplers.make("heun").sample(told, sigmas, start=x).flatten(1)

        def check(true: Tensor, found: Tensor = found, training_error: float = training_error) -> None:
            assert ((found.mean(0) - true.mean(0)).abs() < 4 * true.std(0) / 20 + training_error).all()

        check(of_image if chosen is None else of_image[labels == chosen])
        with pytest.raises(AssertionError):  # the other class, or one of them for both
            check(of_image[labels == (1 if chosen is None else 1 - chosen)])


# --- what is refused -----------------------------------------------------------------------------------------------

MLP = {"name": "mlp", "num_channels": 3, "hidden": 32, "num_blocks": 2}
NCSNPP = {"network": {"name": "ncsnpp", "image_size": 1, "ch_mult": [1]}, "denoiser": {"name": "ve"}}
SDE = {"name": "sde", "sde": {"name": "vp"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"labels.*: missing; network\.num_classes is 3"),
        ({"labels": None, "network": MLP}, r"denoiser\.null_label.*: found 2; it is for networks with classes"),
        (NCSNPP, r"labels.*: network ncsnpp has no classes"),
        ({"network": MLP}, r"network\.num_classes.*: missing"),
        ({"denoiser": SDE | {"null_label": 1}}, r"denoiser\.null_label.*: found 1; .* it is 2"),
        ({"denoiser": SDE}, r"denoiser\.null_label.*: found nothing; .* it is 2"),
        ({"labels": {"dropout": 0}}, r"denoiser\.null_label.*: found 2; labels\.dropout is 0"),
        ({"labels": {"dropout": 1}}, r"labels\.dropout"),
        (
            {"data": {"dataset": "points", "set": "moons"}, "network": MLP | {"num_channels": 2, "num_classes": 3}},
            r"labels.*: points have no labels",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    import yaml

    chosen = {k: v for k, v in (settings(tmp_path, tmp_path / "run") | changes).items() if v is not None}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(chosen))
    with pytest.raises(InputError, match=message):
        load_train_config(tmp_path / "train.yaml")


def test_data_that_do_not_fit_the_classes_are_refused(pixels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels: the images of .* have none: put each into a subfolder"):
        make_trainer(pixels / "sky" / "deeper", tmp_path / "a")
    more = {"network": MLP | {"num_classes": 4}, "denoiser": SDE | {"null_label": 3}}
    with pytest.raises(InputError, match=r"num_classes: found 4; allowed: 3, for the 2 classes .*null_label is 2"):
        make_trainer(pixels, tmp_path / "b", **more)
    exact = {"labels": {"dropout": 0.0}, "denoiser": SDE}
    with pytest.raises(InputError, match=r"num_classes: found 3; allowed: 2, for the 2 classes of .*pixels[0-9]*$"):
        make_trainer(pixels, tmp_path / "c", **exact)


# --- CIFAR-10 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """50 training images in the files of CIFAR-10; torchvision is told their checksums, and downloads nothing."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch() -> dict[str, Any]:
        labels = [int(k) for k in rng.permutation(10)]
        data = np.repeat(np.array(labels, np.uint8)[:, None] * 25, 3072, 1)  # brightness tells the class
        return {"data": data, "labels": labels}

    lists = {
        key: [[name, write(name, batch())] for name, _ in getattr(CIFAR10, key)] for key in ("train_list", "test_list")
    }
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = CIFAR10.meta | {"md5": write(CIFAR10.meta["filename"], {"label_names": names})}
    for key, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(CIFAR10, key, value)
    monkeypatch.setattr(CIFAR10, "download", lambda self: None)
    return tmp_path / "cifar10"


def test_cifar10_is_trained_and_sampled_as_its_configs_say(cifar10: Path, tmp_path: Path) -> None:
    """A smaller network for a few steps; all else is that of the files."""
    run = tmp_path / "run"
    smaller = ["network.model_channels=32", "network.num_res_blocks=1", "network.num_head_channels=32"]
    smaller += ["network.channel_mult=[1,1]", "network.image_size=8", "data.image_size=8", "device=cpu"]
    fewer = ["batch_size=4", "num_images=8", "data.num_validation=2", "workers=0", "precision=fp32"]
    paths = [f"data.path={cifar10}", f"output={run}"]
    config = load_train_config(ROOT / "configs/cifar10/vp_continuous_train.yaml", [*smaller, *fewer, *paths])
    source = open_dataset("cifar10", cifar10)
    assert len(source) == 50 and source.labels is not None and source.classes[3] == "cat"
    for i in (0, 17):
        assert source.load(i, 3, (32, 32), "resize").mean() == pytest.approx(
            source.labels[i] * 25 / 127.5 - 1, abs=1e-5
        )
    Trainer(config, Context(Launch(), CPU), RunFolder.create(run)).run()
    shorter = ["sampler.schedule.num_steps=2", "num_images=2", "device=cpu", f"network.path={run}/model.safetensors"]
    sample = load_sample_config(ROOT / "configs/cifar10/vp_continuous_sample.yaml", [*shorter, f"output={tmp_path}/s"])
    made = load_task(sample, CPU)
    (units,) = made.batches()
    batch = made.sample(units, None)
    assert batch.x.shape == (2, 3, 8, 8) and batch.x.isfinite().all()
