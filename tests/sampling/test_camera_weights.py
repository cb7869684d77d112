"""Weights by the kind of the noise: those for cameras where it is not white, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import photograph, save_photo_weights
from given_tools import config_for, save_picture, task_for
from safetensors.torch import load_file
from scipy import ndimage

from randomwalk.cli import restore
from randomwalk.cli.file_checks import check_files
from randomwalk.denoisers.checkpoints import load_denoiser, read_config, save_denoiser
from randomwalk.errors import InputError
from randomwalk.images.noise_regression import estimate_level
from randomwalk.sampling.foresight import image_notes
from randomwalk.sampling.task import Task

ONE = {"name": "posterior_mean"}


def denoising(**noise: Any) -> dict[str, Any]:
    return {"operator": {"name": "denoising"}, "noise": {"std": "auto", **noise}, "given": True}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """White noise, smoothed noise, and grey smoothed noise, of 192 x 192 pixels."""
    folder = tmp_path / "pictures"
    noise = np.random.default_rng(0).normal(0, 1, (192, 192, 3))
    smoothed = ndimage.gaussian_filter(noise, (0.8, 0.8, 0))
    clean = photograph(192, 192) * 0.5 + 64.0
    for name, n in (("a_white", 12 * noise), ("b_camera", 30 * smoothed), ("c_grey", 30 * smoothed[..., :1])):
        x = clean if n.shape[2] == 3 else clean[..., :1]
        save_picture(folder / f"{name}.png", (x + n).round().clip(0, 255).astype(np.uint8))
    return folder


def made(tmp_path: Path, pictures: Path, measurement: dict[str, Any], camera: Path | None = None) -> Task:
    tmp_path.mkdir(exist_ok=True)
    path = save_photo_weights(tmp_path / "photo.safetensors")
    other = save_photo_weights(tmp_path / "camera.safetensors", 0.5) if camera is None else camera
    network = {"path": str(path), "camera_path": str(other)}
    return task_for(tmp_path, pictures, measurement, network=network, sampler=ONE, precision="fp32")


def sampled(task: Task, image: int) -> torch.Tensor:
    [ids] = [ids for ids in task.batches() if any(one.image == image for one in ids)]
    x = task.sample(ids, torch.stack([task.load_measurable(one.image) for one in ids])).x
    return x[[one.image for one in ids].index(image)][None]


def test_each_picture_takes_its_weights(tmp_path: Path, pictures: Path) -> None:
    task = made(tmp_path, pictures, denoising())
    for image, (name, why) in enumerate(
        [("photo", "it is white, or too little is known of it"), ("camera", r"it is that of a camera (not white)")]
    ):
        x = sampled(task, image)
        expected = load_denoiser(tmp_path / f"{name}.safetensors")
        y = task.load_image(image)[None]
        torch.testing.assert_close(x, expected(y, task.measurements.estimated_noise[image].std), rtol=1e-4, atol=1e-4)
        [note] = image_notes(task, image)
        assert why in note and note.endswith(f"so {name}.safetensors was taken")
    sampled(task, 2)
    assert task.measurements.of_cameras == {1}


def test_weights_of_cameras_get_a_level_of_their_own(tmp_path: Path, pictures: Path) -> None:
    task = made(tmp_path, pictures, denoising())
    assert task.camera is not None and not task.camera.of_cameras
    task.camera.of_cameras = True
    for image, network in enumerate(["photo", "photo_camera"]):
        sampled(task, image)
        y = task.load_image(image)
        assert task.measurements.estimated_noise[image].std == estimate_level(y, network=network)
    assert estimate_level(y) != estimate_level(y, network="photo_camera")


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"config": {"data": {"camera": 0.5}}}, True), ({"config": {"data": {"camera": 0.25}}}, False),
        ({"config": {"data": {"camera": "all"}}}, False), ({"config": [0.8]}, False), ("none", False),
    ],
)  # fmt: skip
def test_weights_say_whether_they_are_for_cameras(training: Any, expected: bool, tmp_path: Path) -> None:
    weights = save_photo_weights(tmp_path / "a.safetensors")
    description, state = read_config(weights), load_file(weights)
    ema = {key.removeprefix("ema."): value for key, value in state.items()}
    save_denoiser(tmp_path / "b.safetensors", {**(description or {}), "training": training}, ema)
    assert load_denoiser(tmp_path / "b.safetensors").of_cameras is expected


def test_the_bundled_difference_is_for_cameras() -> None:
    found = [load_denoiser(f"pretrained_models/{name}.safetensors").of_cameras for name in ("photo", "photo_camera")]
    assert found == [False, True]


def test_the_choice_does_not_depend_on_what_came_before(tmp_path: Path, pictures: Path) -> None:
    task = made(tmp_path, pictures, denoising())
    first = [sampled(task, image) for image in (0, 1)]
    again = made(tmp_path / "again", pictures, denoising())
    assert all(torch.equal(sampled(again, image), first[image]) for image in (1, 0, 1))


@pytest.mark.parametrize("noise", [{"std": 12, "pixel_range": [0, 255]}, {"white": True}])
def test_noise_that_is_said_to_be_white_is_not_looked_at(noise: dict[str, Any], tmp_path: Path, pictures: Path) -> None:
    task = made(tmp_path, pictures, denoising(**noise))
    assert task.camera is None
    sampled(task, 1)
    assert not task.measurements.of_cameras and not any("taken" in note for note in image_notes(task, 1))


def test_weights_of_another_kind_are_refused(tmp_path: Path, pictures: Path) -> None:
    other = save_photo_weights(tmp_path / "small.safetensors", image_size=16)
    with pytest.raises(InputError, match=r"network\.camera_path: .*small\.safetensors has image_size 16; expected 32"):
        made(tmp_path, pictures, denoising(), other)


def test_a_missing_file_is_found_before_the_start(tmp_path: Path, pictures: Path) -> None:
    network = {"path": str(save_photo_weights(tmp_path / "photo.safetensors")), "camera_path": "nothing.safetensors"}
    config = config_for(tmp_path, pictures, denoising(), network=network, sampler=ONE)
    with pytest.raises(InputError, match=r"network\.camera_path: nothing\.safetensors does not exist"):
        check_files(config)


def test_the_prior_of_restore() -> None:
    def paths(*words: str) -> tuple[str, str | None]:
        network = restore.config_of(restore.parser().parse_args(["a.png", *words])).network
        return Path(network.path).stem, network.camera_path and Path(network.camera_path).stem

    camera = ("--prior", "photo_camera")
    assert paths() == paths("--prior", "photo") == paths("--enlarge", "2") == ("photo", None)
    assert paths(*camera) == paths(*camera, "--enlarge", "2") == ("photo_camera", None)
    assert paths("--prior", "auto") == ("photo", "photo_camera")
