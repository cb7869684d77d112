"""A damaged image among those of a training: skipped, reported, and replaced in the same way every time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training_tools import interrupted_at

from randomwalk.config import TrainConfig
from randomwalk.distributed import Context, Launch
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.training import check, progress, sets
from randomwalk.training.examples import Examples, split_images
from randomwalk.training.trainer import Trainer

COUNT, SIZE = 12, 8
CUT, EMPTY, TEXT = 3, 5, 8
"""A JPEG that ends early, with a good header; a file of no bytes; one that is no picture."""


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "curves", lambda *arguments: b"")


def jpeg(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (brightness, brightness, brightness)).save(file, "JPEG", quality=100)
    return file.getvalue()


def folder_of(folder: Path, damaged: bool = True) -> Path:
    """Twelve pictures of even brightness, 20 times their number, in two classes; three of them are damaged."""
    for i in range(COUNT):
        path = folder / ("even" if i % 2 == 0 else "odd") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(20 * i)
        bad = {CUT: data[: len(data) * 3 // 5], EMPTY: b"", TEXT: b"<html>not a picture</html>"}
        path.write_bytes(bad.get(i, data) if damaged else data)
    return folder


def config_of(data: Path, output: Path, workers: int = 0, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": str(output),
            "data": {"path": str(data), "image_size": SIZE, "num_validation": 0, "flip": False} | changes,
            "network": {"name": "unet", "image_size": SIZE, "in_channels": 3, "out_channels": 3, "model_channels": 8,
                        "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": [], "num_head_channels": 8,
                        "norm_groups": 4, "num_classes": 3},
            "denoiser": {"name": "vp", "null_label": 2},
            "labels": {"dropout": 0.0001},
            "optimizer": {"warmup_images": 0},
            "batch_size": 4,
            "num_images": 48,
            "checkpoint_images": 16,
            "device": "cpu",
            "workers": workers,
        }
    )  # fmt: skip


def number(path: str) -> int:
    return int(Path(path).stem)


def examples(config: TrainConfig, steps: int, first: int = 0) -> tuple[list[Tensor], list[int], list[int]]:
    """The parts, the numbers of the images that they show, told by their brightness, and the labels."""
    split = split_images(config, bar=False)
    stream = Examples(config, split, 0, 1, first=first, micro_batch=4)
    parts = [stream.next() for _ in range(steps)]
    shown = [round(float(x + 1) * 127.5 / 20) for part in parts for x in part[0].mean((1, 2, 3))]
    return [t for part in parts for t in part], shown, [int(k) for part in parts for k in part[3]]


def test_the_next_image_that_decodes_takes_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the whole folder has a good image, the damaged one has the same; else it has the next of the order."""
    whole = examples(config_of(folder_of(tmp_path / "whole", False), tmp_path / "a"), 9)
    capsys.readouterr()
    data = folder_of(tmp_path / "damaged")
    found = examples(config_of(data, tmp_path / "b"), 9)
    bad = {CUT, EMPTY, TEXT}
    assert {*whole[1]} == {*range(COUNT)} and bad.isdisjoint(found[1])
    for start in range(0, 36, COUNT):  # an epoch
        order = whole[1][start : start + COUNT]
        for k in range(COUNT):
            expected = next(i for i in [*order[k:], *order[:k]] if i not in bad)
            assert found[1][start + k] == expected
            assert found[2][start + k] == expected % 2  # and its label
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 3 and [line.rpartition("(")[2] for line in told] == [f"{k} so far)" for k in (1, 2, 3)]
    for i in bad:
        (line,) = [line for line in told if f"{i:02d}.jpg" in line]
        assert line.startswith(f"warning: {data}: ") and "does not decode" in line


@pytest.mark.parametrize("changes", [{"cache": True}, {"workers": 2}])
def test_the_examples_do_not_depend_on_who_decodes(
    tmp_path: Path, changes: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(tmp_path / "data")
    plain, _, _ = examples(config_of(data, tmp_path / "a"), 6)
    capfd.readouterr()
    other, _, _ = examples(config_of(data, tmp_path / "a", **changes), 6)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    assert capfd.readouterr().err.count("it is skipped") == 3
    later, _, _ = examples(config_of(data, tmp_path / "a"), 2, first=16)  # as a resumed run does
    assert all(torch.equal(a, b) for a, b in zip(plain[-8:], later, strict=True))


def test_a_killed_run_passes_them_the_same_way(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data")

    def trainer(name: str) -> Trainer:
        config = config_of(data, tmp_path / name, num_validation=3)
        return Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(tmp_path / name))

    whole, killed = trainer("whole"), trainer("killed")
    whole.run()
    with interrupted_at(6, KeyboardInterrupt):
        killed.run()
    resumed = Trainer(killed.config, killed.context, RunFolder(killed.folder.path))
    resumed.resume()
    assert resumed.step == 4
    resumed.run()
    pairs = zip(whole.ema.average.values(), resumed.ema.average.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_validation_is_the_mean_over_those_that_decode(tmp_path: Path) -> None:
    """The same images without the damaged ones give the same numbers."""
    from randomwalk.training.trainer import build_denoiser
    from randomwalk.training.validation import denoising_psnr

    training = folder_of(tmp_path / "training", False)
    held_out = folder_of(tmp_path / "held_out")
    config = config_of(training, tmp_path / "a", validation_path=str(held_out))
    denoiser = build_denoiser(config).eval()
    split = split_images(config)
    with torch.no_grad():
        found = denoising_psnr(denoiser, split, config)
    assert {number(split.source.names[i]) for i in split.damaged} == {CUT, EMPTY, TEXT}
    good = split.validation[[i not in split.damaged for i in split.validation]]
    assert len(good) == 9
    fresh = split_images(config)
    fresh.validation = good
    with torch.no_grad():
        assert found == pytest.approx(denoising_psnr(denoiser, fresh, config), rel=1e-5)
    assert not fresh.damaged


def test_a_dry_run_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config_of(folder_of(tmp_path / "data"), tmp_path / "run")) == 0
    told = capsys.readouterr()
    assert "# ok: 12 training and 0 validation images" in told.out
    lines = told.err.splitlines()
    assert all(any(f"{i:02d}.jpg does not decode" in line for line in lines) for i in (CUT, EMPTY, TEXT))
    assert lines[-1] == "warning: 3 of 12 images do not decode; training skips them"


def test_a_dry_run_of_many_images_decodes_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sets, "CHECKED", 4)
    assert check(config_of(folder_of(tmp_path / "data", False), tmp_path / "run")) == 0
    assert capsys.readouterr().err == "note: 4 of the 12 images were decoded, evenly chosen\n"


@pytest.mark.parametrize("cache", [False, True])
def test_all_damaged_is_one_error_before_anything_starts(tmp_path: Path, cache: bool) -> None:
    data = folder_of(tmp_path / "data", False)
    for path in data.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"^data\.path: none of the 12 images decodes; the first: .*\.jpg"):
        split_images(config_of(data, tmp_path / "run", cache=cache))
    good = folder_of(tmp_path / "good", False)
    with pytest.raises(InputError, match=r"^the validation images: none of the 12 images decodes"):
        split_images(config_of(good, tmp_path / "run", validation_path=str(data)))


def test_the_order_of_a_folder_without_damage_is_what_it_was(tmp_path: Path) -> None:
    from randomwalk.rng import Stream, generator

    config = config_of(folder_of(tmp_path / "data", False), tmp_path / "a")
    split = split_images(config)
    _, shown, _ = examples(config, 6)
    orders = [generator(0, Stream.ORDER, epoch).permutation(split.training) for epoch in (0, 1)]
    names = [number(split.source.names[i]) for order in orders for i in order]
    assert shown == names and np.bincount(shown).tolist() == [2] * COUNT
