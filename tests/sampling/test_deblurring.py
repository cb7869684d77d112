"""Runs that deblur photographs whose surroundings are unknown: sizes, results, resuming, notes and doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from any_size_tools import SAMPLER, photograph, write_photo_config
from given_tools import config_for, save_picture, task_for
from PIL import Image
from sampling_tools import read_metrics

from randomwalk import kernels
from randomwalk.config.files import load_sample_config
from randomwalk.images import pictures
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import doubts
from randomwalk.sampling import run as sampling
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.loading import load_task

NOISE = {"std": 2, "pixel_range": [0, 255]}
RESTORING = {**SAMPLER, "step_scale": 1.0, "prior_weight": 0.35, "kappa": 0.7, "last_denoised": True}
HOOK = np.zeros((5, 7), np.uint8)
HOOK[1, 1:6], HOOK[1:4, 5] = 255, 90


def deblurring(name: str, **settings: Any) -> dict[str, Any]:
    return {"operator": {"name": name, **settings}, "noise": NOISE, "given": True}


def images_of(run: Path) -> dict[str, tuple[int, ...]]:
    return {path.stem: np.asarray(Image.open(path)).shape for path in (run / "images").glob("*.png")}


@pytest.mark.parametrize(
    ("name", "settings", "taps"),
    [
        ("gaussian_blur", {"std": 1.0}, (9, 9)),
        ("defocus_blur", {"radius": 2.4}, (5, 5)),
        ("motion_blur", {"length": 5.0}, (1, 5)),
        ("blur", {"file": "kernel.png"}, (3, 5)),
    ],
)
def test_a_given_photograph_is_restored_with_its_surroundings_which_are_cut_off(
    name: str, settings: dict[str, Any], taps: tuple[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_picture(tmp_path / "in" / "photo.png", photograph(20, 26))
    if name == "blur":
        Image.fromarray(HOOK).save(tmp_path / "kernel.png")
        settings = {"file": str(tmp_path / "kernel.png")}
    config = config_for(tmp_path, tmp_path / "in", deblurring(name, **settings), sampler=RESTORING, batch_size=2)
    assert config.measurement is not None and getattr(config.measurement.operator, "boundary", "") == "unknown"
    task = load_task(config, torch.device("cpu"))
    larger = (3, 20 + taps[0] - 1, 26 + taps[1] - 1)
    assert task.images.shape_of(0) == task.measurements.operator_of([0])[0].image_shape == larger
    assert task.load_image(0).shape == (3, 20, 26)
    assert sampling.run(config) == 0
    run = Path(config.output)
    x = np.load(run / "arrays" / "0000_photo_sample0.npy")
    y = np.load(run / "arrays" / "0000_photo_measurement.npy")
    assert x.shape == y.shape == (3, 20, 26)
    assert set(images_of(run).values()) == {(20, 26, 3)}
    [row] = read_metrics(run)
    assert row["psnr"] == "" and 0 < float(row["residual"]) < 100
    shown = np.asarray(Image.open(run / "kernel.png"))
    assert shown.max() == 255 and shown.shape[0] * taps[1] == shown.shape[1] * taps[0]
    assert (run / "images" / "0000_photo_walk.webp").is_file() and (run / "overview.png").is_file()
    notes = capfd.readouterr().err
    assert ("centre of mass" in notes) == (name == "blur")


def test_the_restoration_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut out is where y is: a sampler that returns the sharp image gives its middle."""
    sharp = torch.from_numpy(photograph(30, 40, seed=3).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    kernel = np.random.default_rng(0).random((5, 3))
    np.save(tmp_path / "kernel.npy", kernel)
    y = save_picture(tmp_path / "in" / "photo.png", photograph(26, 38, seed=1))
    measurement = deblurring("blur", file=str(tmp_path / "kernel.npy"), center=False)
    task = task_for(tmp_path, tmp_path / "in", measurement, sampler=RESTORING)
    monkeypatch.setattr(type(task.sampler), "sample", lambda *args, **rest: sharp[None])
    [ids] = task.batches()
    batch = task.sample(ids, task.load_image(0)[None])
    assert torch.equal(batch.x[0], sharp[:, 2:-2, 1:-1])
    blurred = [scipy.signal.convolve2d(c, kernel / kernel.sum(), mode="valid") for c in sharp.numpy()]
    error = y.transpose(2, 0, 1) / 127.5 - 1 - np.stack(blurred)
    assert batch.residuals == pytest.approx([(error**2).mean() ** 0.5 / (2 * 2 / 255)], rel=1e-4)


def test_a_simulated_measurement_is_compared_with_the_part_of_the_truth_that_it_shows(tmp_path: Path) -> None:
    measurement = {"operator": {"name": "defocus_blur", "radius": 2.4, "boundary": "unknown"}, "noise": NOISE}
    path = write_photo_config(
        tmp_path, sizes=[(20, 26), (24, 24)], measurement=measurement, sampler=SAMPLER, num_samples=2
    )
    config = load_sample_config(path)
    assert sampling.run(config) == 0
    run = Path(config.output)
    truth = (photograph(20, 26)[2:-2, 2:-2].astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)
    x = np.load(run / "arrays" / "0000_a_sample0.npy")
    first = next(row for row in read_metrics(run) if row["image"] == "0" and row["sample"] == "0")
    assert x.shape == truth.shape == np.load(run / "arrays" / "0000_a_mean.npy").shape
    expected = 10 * np.log10(4 / ((np.clip(x, -1, 1) - truth) ** 2).mean())
    assert float(first["psnr"]) == pytest.approx(expected, abs=1e-3)
    assert images_of(run)["0000_a_truth"] == (16, 22, 3) and (run / "calibration.png").is_file()


def test_an_interrupted_deblurring_goes_on(tmp_path: Path) -> None:
    for i in range(2):
        save_picture(tmp_path / "in" / f"{i}.png", photograph(20 + i, 26, seed=i))
    np.save(tmp_path / "kernel.npy", HOOK.astype(float))
    measurement = deblurring("blur", file=str(tmp_path / "kernel.npy"))
    config = config_for(tmp_path, tmp_path / "in", measurement, sampler=RESTORING)
    assert sampling.run(config) == 0
    run = Path(config.output)
    before = np.load(run / "arrays" / "0001_1_sample0.npy")
    (run / "state" / "batch_00001.json").unlink()
    (run / "arrays" / "0001_1_sample0.npy").unlink()
    assert sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run)) == 0
    assert np.array_equal(np.load(run / "arrays" / "0001_1_sample0.npy"), before)


def test_a_kernel_is_read_and_files_are_opened_as_often_for_many_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "kernel.npy", HOOK.astype(float))
    measurement = deblurring("blur", file=str(tmp_path / "kernel.npy"))
    reads, opened, read, header = [], [], kernels.read, pictures.read_header
    monkeypatch.setattr(kernels, "read", lambda *args, **rest: reads.append(1) or read(*args, **rest))
    monkeypatch.setattr(pictures, "read_header", lambda *args: opened.append(args[1]) or header(*args))
    count = {}
    for number in (1, 4):
        folder = tmp_path / f"{number}"
        for i in range(number):
            save_picture(folder / "in" / f"{i}.png", photograph(20, 26, seed=i))
        reads.clear(), opened.clear()
        task = task_for(folder, folder / "in", measurement, sampler=RESTORING)
        notes_of(task)
        task.batches()
        count[number] = len(reads)
        assert len(opened) == len(set(opened)) == number
    assert count[4] == count[1]


def test_tiles_and_memory_are_those_of_the_larger_image(tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "photo.png", photograph(250, 140))
    measurement = deblurring("defocus_blur", radius=6.0)
    task = task_for(tmp_path, tmp_path / "in", measurement, sampler=RESTORING)
    assert task.budget is not None
    task.budget.gib = (task.budget._outside((3, 262, 152), 1) + 160**2 * task.budget.per_pixel) / 2**30
    [ids] = task.batches()
    tiling = task.tiling_of(ids)
    assert tiling is not None and not tiling.is_whole(262, 152)
    assert task.sample(ids, task.load_image(0)[None]).x.shape == (1, 3, 250, 140)


def test_the_noise_of_a_blurred_photograph_is_rather_taken_too_large(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    pixels = (photograph(96, 96) * 0.5 + 64 + noise).round().clip(0, 255).astype(np.uint8)
    save_picture(tmp_path / "in" / "photo.png", pixels)
    levels = []
    for operator in ({"name": "denoising"}, {"name": "gaussian_blur", "std": 1.0}):
        measurement = {"operator": operator, "noise": {"std": "auto"}, "given": True}
        task = task_for(tmp_path / str(operator["name"]), tmp_path / "in", measurement)
        task.load_measurable(0)
        levels.append(task.measurements.estimated_noise[0].std)
    assert levels[1] == pytest.approx(1.1 * levels[0])


# --- doubts ----------------------------------------------------------------------------------------------------------


def batch_of(x: torch.Tensor, y: torch.Tensor, residual: float) -> Batch:
    return Batch([SampleId(0, 0)], x[None], measurement=y[None], noise_std=2 * 2 / 255, even_residuals=[residual])


def test_doubts_name_what_to_change(tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "photo.png", photograph(60, 60))
    task = task_for(tmp_path, tmp_path / "in", deblurring("defocus_blur", radius=2.4), sampler=RESTORING)
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 60, 60, generator=generator).cumsum(1).cumsum(2) / 300).clamp(-0.9, 0.9)
    kernel = kernels.defocus(2.4)
    y = torch.from_numpy(
        np.stack([scipy.signal.convolve2d(c, kernel.numpy(), mode="same", boundary="symm") for c in x.numpy()])
    ).float()
    y = y + 2 * 2 / 255 * torch.randn(y.shape, generator=generator)
    assert doubts.of_batch(task, batch_of(x, y, 0.9)) == []
    [more] = doubts.of_batch(task, batch_of(x, y, 1.2))
    assert (
        more.startswith(
            "photo.png: in even areas of the picture the residual is 1.20 times the assumed noise of 2 of 255"
        )
        and "(--noise) 2.8" in more
    )
    [less] = doubts.of_batch(task, batch_of(x, y, 0.5))
    assert "there is less noise" in less and "(--noise) 1.1" in less
    [outside] = doubts.of_batch(task, batch_of(torch.where(x > x.quantile(0.9), 1.1, x), y, 0.9))
    assert "10% of its values are outside the range" in outside
    ripples = 0.3 * torch.sin(torch.arange(60) * 2.0)
    [wavy] = doubts.of_batch(task, batch_of(x + ripples, y, 0.9))
    assert "ripples" in wavy and "kernel may be wrong" in wavy
    other = task_for(tmp_path / "2", tmp_path / "in", deblurring("defocus_blur", radius=2.4))
    assert doubts.of_batch(other, batch_of(x, y, 1.2)) == []  # a sampler whose residual is another


def test_the_contrast_of_a_restoration_does_not_depend_on_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 200, 200, generator=generator).cumsum(1).cumsum(2)  # white differences
    x = x / x.std()
    for radius in (2.5, 6.0):
        kernel = kernels.defocus(radius)
        y = torch.from_numpy(
            np.stack([scipy.signal.fftconvolve(c, kernel.numpy(), mode="valid") for c in x.numpy()])
        ).float()
        reach = kernel.shape[0] // 2
        middle = x[:, reach:-reach, reach:-reach]
        sharp = doubts.contrast(middle, y, kernel, 0.0)
        noisy = doubts.contrast(middle, y + 0.005 * torch.randn(y.shape, generator=generator), kernel, 0.005)
        assert noisy == pytest.approx(sharp, rel=0.05) and 0.3 < sharp < 1.1
