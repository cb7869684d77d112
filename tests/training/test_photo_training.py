"""Training on folders of large photographs: cuts, scales, turns, what is kept in memory, and what is held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from randomwalk.config import TrainConfig
from randomwalk.config.training import TrainData
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource, open_images
from randomwalk.images.tensors import fit_to
from randomwalk.operators.noise import GaussianNoise
from randomwalk.training import images
from randomwalk.training.examples import _NoisyImages, split_images
from randomwalk.training.images import TrainingImages, cached, joined, largest_side, rescaled_cut


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders of three and two images, of different sizes and all of one value each: 10, 20, ..., 50."""
    made = []
    for name, values in (("a", (10, 20, 30)), ("b", (40, 50))):
        (tmp_path / name).mkdir()
        made.append(tmp_path / name)
        for value in values:
            Image.new("RGB", (20 + value, 40), (value,) * 3).save(tmp_path / name / f"{value}.png")
    return made


def config(folders: list[Path], **data: Any) -> TrainConfig:
    return TrainConfig.model_validate({
        "output": "unused", "num_images": 8, "network": {"name": "photo_unet", "image_size": 16},
        "denoiser": {"name": "edm"},
        "data": {"path": [str(f) for f in folders], "image_size": 16, "fit": "crop", **data},
    })  # fmt: skip


def values(source, indices) -> list[int]:
    return sorted(int(source.pixels(int(i), 3)[0, 0, 0]) for i in indices)


def test_several_folders_are_one_and_a_folder_of_its_own_is_for_validation(folders) -> None:
    split = split_images(config(folders, num_validation=2))
    assert len(split.training) == 3 and len(split.validation) == 2
    assert values(split.source, [*split.training, *split.validation]) == [10, 20, 30, 40, 50]
    split = split_images(config(folders[:1], validation_path=str(folders[1]), cache=True))
    assert values(split.source, split.training) == [10, 20, 30]
    assert values(split.source, split.validation) == [40, 50]


def test_images_to_validate_on_are_not_trained_on(folders) -> None:
    """Folders are opened with their subfolders, so that the one of validation may be inside."""
    for path in (folders[0].parent, folders[0].parent / "a" / ".." / "b"):
        with pytest.raises(InputError, match=r"validation_path: 2 of the 2 .*/b are in data.path too, such as .*40"):
            split_images(config([path], validation_path=str(folders[1])))


def test_decoding_shows_how_far_it_is(folders, capsys, monkeypatch) -> None:
    shown = images.progress_bar
    monkeypatch.setattr(images, "progress_bar", lambda *args, delay, **rest: shown(*args, **rest))
    source = open_images(folders[0])
    cached(source, 3, bar=False)
    assert capsys.readouterr().err == ""
    cached(source, 3)
    assert "decoding" in capsys.readouterr().err


def test_cached_images_are_those_of_the_files_and_are_read_once(folders) -> None:
    source = joined([open_images(folder) for folder in folders], 3)
    kept = cached(source, 3)
    for path in (p for folder in folders for p in folder.iterdir()):
        path.unlink()
    assert values(kept, range(5)) == [10, 20, 30, 40, 50]
    grey = cached(kept, 1)
    assert grey.pixels(3, 1).shape == (40, 60, 1)


def photograph() -> np.ndarray:
    """``[60, 90, 3]``: red is the row, green the column, blue noise."""
    rows, columns = np.mgrid[:60, :90]
    noise = np.random.default_rng(0).integers(0, 256, (60, 90))
    return np.stack([rows, columns, noise], -1).astype(np.uint8)


def test_a_cut_is_scaled_by_a_factor_between_the_two() -> None:
    """The slope of a ramp tells the factor."""
    pixels, draws, slopes = photograph(), np.random.default_rng(1), []
    for _ in range(200):
        cut = rescaled_cut(pixels, 16, [0.5, 1.0], draws).astype(float)
        assert cut.shape == (16, 16, 3)
        slopes.append((cut[12, 8, 0] - cut[4, 8, 0]) / 8)
    assert min(slopes) >= 1 - 0.15 and max(slopes) <= 2 + 0.15  # whole grey values, over eight pixels
    assert np.mean(slopes) == pytest.approx(2 * np.log(2), abs=0.08)  # E[1 / s], s uniform


def test_a_cut_is_no_larger_than_its_image() -> None:
    cut = rescaled_cut(photograph()[:20, :30], 16, [0.1, 0.1], np.random.default_rng(0))
    assert cut.shape == (16, 16, 3)


def test_cuts_of_resized_images_keep_the_subject(tmp_path) -> None:
    """With fit: resize the scale is relative to the short side: the largest cut has all 60 rows, the smallest 48."""
    Image.fromarray(photograph()).save(tmp_path / "p.png")
    data = TrainData(path=str(tmp_path), image_size=16, fit="resize", rescale=[1.0, 1.25], flip=False)
    images = TrainingImages(open_images(tmp_path), np.array([0]), data, seed=3)
    rows, columns = [], []
    for position in range(200):
        x = (images[position].numpy() + 1) * 127.5
        rows.append((x[0, 12, 8] - x[0, 4, 8]) / 8 * 16)  # the height of the cut
        columns.append(x[1, 8].mean())  # its middle column
    assert 48 - 2 <= min(rows) < 50 and 58 < max(rows) <= 60 + 2
    assert np.mean(rows) == pytest.approx(60 * np.log(1.25) / 0.25, abs=1.0)  # E[60 / s], s uniform
    assert min(columns) < 33 and max(columns) > 57  # from the left end of the picture to the right one


def test_cached_images_are_as_large_as_they_are_used(tmp_path) -> None:
    Image.fromarray(photograph()).save(tmp_path / "p.png")
    settings: dict[str, Any] = {"path": str(tmp_path), "image_size": 16, "channels": 3}
    assert largest_side(TrainData(**settings)) == 16
    assert largest_side(TrainData(**settings, rescale=[1.0, 1.2])) == 20
    assert largest_side(TrainData(**settings, validation_size=24)) == 24
    assert largest_side(TrainData(**settings, fit="crop")) is None
    source = open_images(tmp_path)
    kept = cached(source, 3, cover=20)
    assert kept.pixels(0, 3).shape == (20, 30, 3)
    small, file = (s.load(0, 3, (16, 16), "resize") for s in (cached(source, 3, cover=16), source))
    assert np.array_equal(small, file)
    assert cached(source, 3, cover=100).pixels(0, 3).shape == (60, 90, 3)


def test_the_examples_are_cuts_flipped_and_turned(tmp_path) -> None:
    """Each of the eight symmetries of the square comes up, about equally often; and the same again the next time."""
    Image.fromarray(photograph()).save(tmp_path / "p.png")
    data = TrainData(path=str(tmp_path), image_size=16, fit="crop", flip=True, turn=True)
    images = TrainingImages(open_images(tmp_path), np.array([0]), data, seed=3)
    found: dict[tuple[int, int, int], int] = {}
    for position in range(400):
        x = images[position].numpy()
        red, green = x[0], x[1]
        slopes = (red[9, 8] - red[8, 8], red[8, 9] - red[8, 8], green[9, 8] - green[8, 8] + green[8, 9] - green[8, 8])
        key = tuple(int(np.sign(round(float(s) * 127.5))) for s in slopes)
        found[key] = found.get(key, 0) + 1
    assert len(found) == 8
    assert min(found.values()) > 25  # 50 are expected, with standard deviation 6.6
    assert np.array_equal(images[7].numpy(), images[7].numpy())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"fit": "resize", "rescale": [0.5, 1.0]}, r"rescale: found \[0.5, 1.0\]; allowed with fit: resize: 1 and"),
        ({"fit": "pad", "rescale": [1.0, 1.0]}, "rescale: is for fit: crop and resize, but fit is pad"),
        ({"rescale": [1.0, 0.5]}, r"rescale: found \[1.0, 0.5\]; allowed: \[smallest, largest\]"),
        ({"dataset": "cifar10"}, "path: found a list; allowed with dataset cifar10: one path"),
        ({"dataset": "cifar10", "path": "x", "validation_path": "v"}, "validation_path: is for dataset: folder"),
    ],
)
def test_settings_that_do_not_go_together(folders, data, message) -> None:
    with pytest.raises(ValidationError, match=message):
        config(folders, **data)


def test_another_size_for_validation_needs_a_network_that_takes_it(folders) -> None:
    good = config(folders, validation_size=24)
    wrong = good.model_dump() | {"network": {"name": "ncsnpp", "image_size": 16}, "denoiser": {"name": "ve"}}
    with pytest.raises(ValidationError, match=r"data\.validation_size: found 24; allowed: 16"):
        TrainConfig.model_validate(wrong)


def uncorrelated(a: np.ndarray, b: np.ndarray) -> None:
    """Check that columns ``[n, i]`` and ``[n, j]`` of independent rows have no correlation beyond chance."""
    a, b = ((x - x.mean(0)) / x.std(0) for x in (a, b))
    assert np.abs(a.T @ b / len(a)).max() * math.sqrt(len(a)) < 4.5  # of 100 numbers: P = 0.001


def test_noise_levels_orientations_and_noise_do_not_know_each_other() -> None:
    """Examples of one asymmetric image: its flip and turn, the level and the noise are drawn independently."""
    half = np.zeros((4, 4, 1), np.uint8)
    half[:2, :3] = 255
    source = ImageSource(["a"], lambda i: half, "here")
    data = TrainData(path="here", image_size=4, channels=1, fit="crop", flip=True, turn=True)
    examples = _NoisyImages(TrainingImages(source, np.array([0]), data, seed=1), 1, None)
    drawn = [examples[k] for k in range(1200)]
    x, noise = (np.stack([one[k].flatten().double().numpy() for one in drawn]) for k in (0, 2))
    level = np.array([[float(one[1])] for one in drawn])
    uncorrelated(x[:, [0, 1, 3]], noise)
    uncorrelated(x[:, [0, 1, 3]], noise**2)
    uncorrelated(level, noise)
    uncorrelated(x[1:, [0, 1, 3]], x[:-1, [0, 1, 3]])
    uncorrelated(noise[1:], noise[:-1])
    ways, counts = np.unique(x, axis=0, return_counts=True)
    assert len(ways) == 8 and np.abs(counts - 150).max() < 4.5 * math.sqrt(1200 / 8)  # two flips, four turns


def test_a_random_cut_begins_at_every_place() -> None:
    pixels = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6, 1)
    draws = np.random.default_rng(0)
    corners = [int(fit_to(pixels, (3, 3), "crop", draws)[0, 0, 0]) for _ in range(1200)]
    places, counts = np.unique(corners, return_counts=True)
    assert places.tolist() == [6 * row + column for row in range(3) for column in range(4)]
    assert np.abs(counts - 100).max() < 4.5 * math.sqrt(100)


def test_a_share_of_the_cuts_is_grey_with_grey_noise(tmp_path: Path) -> None:
    """Three copies of a grey picture with one noise of standard deviation s sqrt(3) are told s, as in sampling."""
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(tmp_path / "grey.png")

    def examples(share: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        whole = config([tmp_path], num_validation=0, grey=share)
        split = split_images(whole)
        assert isinstance(whole.data, TrainData)
        images = TrainingImages(split.source, split.training, whole.data, 0)
        return [(item[0], item[2]) for item in map(_NoisyImages(images, 0, None).__getitem__, range(100))]

    def is_grey(x: torch.Tensor) -> bool:
        return bool((x == x[:1]).all())

    coloured, half = examples(0.0), examples(0.5)
    assert sum(is_grey(x) for x, _ in coloured) == 20  # one in five is so anyway
    assert not any(is_grey(noise) for _, noise in coloured)
    assert 40 <= sum(is_grey(x) for x, _ in half) <= 80
    copies = GaussianNoise(1.0).of_copies(3)
    for (x, noise), (before, white) in zip(half, coloured, strict=True):
        if is_grey(x):
            assert is_grey(noise) and torch.allclose(noise[0], white.mean(0))
            assert torch.allclose(x[0], torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114]), before))
        else:
            assert torch.equal(x, before) and torch.equal(noise, white)
    std = torch.stack([noise for x, noise in half if is_grey(x)]).std()
    assert float(std) * copies.std == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("data", "other", "message"),
    [
        ({"channels": 1}, {}, "grey: found 0.1, but with channels: 1 all images are grey"),
        ({}, {"objective": {"name": "sliced_score_matching"}}, "the noise of sliced_score_matching is white"),
    ],
)
def test_grey_noise_is_for_colour_networks_and_denoising(folders, data, other, message) -> None:
    settings = config(folders).model_dump(exclude_unset=True)
    settings["data"] |= {"grey": 0.1, **data}
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({**settings, **other})
