"""Noise of pictures that are given: photons, dim pictures, levels in another unit, and files of JPEG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import photograph
from config_examples import message_of
from given_tools import config_for, save_picture, task_for, told
from PIL import Image
from sampling_tools import other_notes, write_config

from randomwalk.cli import restore
from randomwalk.config.files import load_sample_config
from randomwalk.operators import noise as noises
from randomwalk.operators.noise import GaussianNoise, PoissonNoise
from randomwalk.sampling.foresight import image_notes, notes_of

ONE = {"name": "posterior_mean"}


def denoising(**noise: Any) -> dict[str, Any]:
    return {"operator": {"name": "denoising"}, "noise": noise, "given": True}


def smooth(height: int, width: int) -> np.ndarray:
    """A photograph without its finest details, from 0.2 to 0.8."""
    image = Image.fromarray(photograph(height, width)).resize((width // 4, height // 4)).resize((width, height))
    return 0.2 + 0.6 * np.asarray(image) / 255


def save_counts(path: Path, peak: float, height: int = 96, width: int = 96) -> None:
    """Photons, at most ``peak`` of which a file of 16 bits holds."""
    counts = np.random.default_rng(0).poisson(peak * smooth(height, width))
    save_picture(path, (counts / peak * 65535).round().clip(0, 65535).astype(np.uint16))


def test_photons_are_given_as_peak_or_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_counts(tmp_path / "a.png", 40)
    settings = {"name": "poisson", "gain": 6.375, "read_std": 3, "pixel_range": [0, 255]}
    task = task_for(tmp_path, tmp_path / "a.png", denoising(**settings), sampler=ONE)
    noise, _ = told(task, monkeypatch)
    assert isinstance(noise, PoissonNoise) and noise.peak == pytest.approx(40)
    assert noise.read_std == pytest.approx(6 / 255) == noises.make(**settings).read_std


def test_photons_are_estimated_and_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_counts(tmp_path / "a.png", 40)
    task = task_for(tmp_path, tmp_path / "a.png", denoising(name="poisson", peak="auto"), sampler=ONE)
    noise, _ = told(task, monkeypatch)
    assert isinstance(noise, PoissonNoise) and 2 / noise.peak + noise.read_std**2 == pytest.approx(2 / 40, rel=0.3)
    assert f"estimated {noise.peak:.3g} photons at white" in image_notes(task, 0)[0]


def test_samplers_that_do_not_know_photons_take_them_for_gaussian_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_counts(tmp_path / "a.png", 40)
    section = denoising(name="poisson", peak=40)
    schedule = {"name": "geometric", "num_steps": 3, "sigma_max": 10.0}
    walk = {"name": "random_walk", "step_scale": 0.7, "schedule": schedule}
    task = task_for(tmp_path / "1", tmp_path / "a.png", section, sampler={**walk, "preconditioned": True})
    assert any("mean variance" in note and "posterior_mean" in note for note in notes_of(task))
    noise, y = told(task, monkeypatch)
    assert isinstance(noise, GaussianNoise) and noise.std**2 == pytest.approx(2 * (float(y.mean()) + 1) / 40)
    exact = task_for(tmp_path / "2", tmp_path / "a.png", section, sampler=walk)
    assert not any("mean variance" in note for note in notes_of(exact)) and exact.measurements.knows_noise


def test_blurred_photons_are_weighted_by_their_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an even picture half of which is four times as bright, there the weight is half as large."""
    pixels = np.full((64, 64, 3), 0.1)
    pixels[:, 32:] = 0.4
    pixels *= [1, 0.8, 1.2]
    save_picture(tmp_path / "a.png", (pixels * 65535).astype(np.uint16))
    section = {"noise": {"name": "poisson", "peak": 1000}, "given": True}
    gaussian = {**section, "operator": {"name": "gaussian_blur", "std": 1.0}}
    schedule = {"name": "geometric", "num_steps": 3, "sigma_max": 10.0}
    walk = {"name": "random_walk", "step_scale": 0.7, "schedule": schedule, "preconditioned": True}
    task = task_for(tmp_path / "1", tmp_path / "a.png", gaussian, sampler=walk)
    assert any("around each pixel" in note for note in notes_of(task))
    noise, y = told(task, monkeypatch)
    weights = y / (2 * torch.from_numpy(pixels).permute(2, 0, 1) - 1)
    assert noise.std**2 == pytest.approx(2 * 0.5 / 1000, rel=1e-3)  # of the mean grey, 0.25
    expected = torch.from_numpy(0.25 / pixels).permute(2, 0, 1).sqrt()
    torch.testing.assert_close(weights[0, :, :, [0, 63]], expected[:, :, [0, 63]], atol=1e-3, rtol=0)
    circular = {**section, "operator": {"name": "gaussian_blur", "std": 1.0, "boundary": "circular"}}
    ddrm = {"name": "ddrm", "schedule": {**schedule, "sigma_max": 1.0}}
    _, y = told(task_for(tmp_path / "2", tmp_path / "a.png", circular, sampler=ddrm), monkeypatch)
    torch.testing.assert_close(y[0].double(), 2 * torch.from_numpy(pixels).permute(2, 0, 1) - 1, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", [8, 16])
def test_dim_pictures_are_brightened_for_the_network(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """White at an eighth of the range: noise, estimate and restoration are those of the bright picture."""
    bright = (smooth(96, 96) + 0.04 * np.random.default_rng(1).standard_normal((96, 96, 3))).clip(0, 1)
    white = 2**bits - 1
    save_picture(tmp_path / "a.png", (bright / 8 * white).round().astype(f"uint{bits}"))
    task = task_for(tmp_path, tmp_path / "a.png", denoising(std="auto"), sampler=ONE)
    loaded = task.load_measurable(0)
    std = task.measurements.estimated_noise[0].std
    assert std == pytest.approx(2 * 0.04 / 8, rel=0.15)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(type(task.denoiser), "forward", lambda self, x, sigma, label=None: seen.append((x, sigma)) or x)
    batch = task.sample(task.batches()[0], loaded[None])
    x, sigma = seen[0]
    gain = float((x + 1).mean() / (loaded + 1).mean())
    assert 6 < gain < 9 and sigma == pytest.approx(gain * std)
    assert float(np.quantile((x.numpy() + 1) / 2, 0.999)) == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(batch.x[0], loaded, rtol=0, atol=1e-5)
    assert batch.noise_std == std


def test_the_noise_of_dim_files_of_16_bits_may_be_below_the_steps_of_8(tmp_path: Path) -> None:
    dim = (smooth(96, 96) + 0.02 * np.random.default_rng(1).standard_normal((96, 96, 3))).clip(0, 1) / 40
    save_picture(tmp_path / "a.png", (dim * 65535).round().astype(np.uint16))
    task = task_for(tmp_path, tmp_path / "a.png", denoising(std="auto"), sampler=ONE)
    task.load_measurable(0)
    assert task.measurements.estimated_noise[0].std == pytest.approx(2 * 0.02 / 40, rel=0.15)
    assert "noise estimated as 0.1" in image_notes(task, 0)[0]


def test_white_leaves_a_jpeg_file_as_it_is(tmp_path: Path) -> None:
    sharp = np.asarray(Image.open("data/photographs/chelsea.png").convert("RGB"))[:160, :160]
    Image.fromarray(sharp).save(tmp_path / "a.jpg", quality=40)
    found = []
    for white in (True, False):
        section = denoising(std="auto", white=white)
        task = task_for(tmp_path / str(white), tmp_path / "a.jpg", section, sampler=ONE)
        task.load_measurable(0)
        found.append(task.measurements.estimated_noise[0].std * 127.5)
    assert found[0] < 4 < 7 < found[1]


@pytest.mark.parametrize(
    ("std", "pixel_range", "said"),
    [
        (
            0.1,
            [0, 255],
            "0.1 on [0, 255] is less than the rounding of an image; if it is meant on [0, 1], write 25.5",
        ),
        (
            25,
            [0, 1],
            "25 on [0, 1] is more than the range from black to white; if it is meant on [0, 255], write 0.098",
        ),
        (
            25,
            [-1, 1],
            "25 on [-1, 1] is more than the range from black to white; if it is meant on [0, 255], write 0.196",
        ),
        (0.5, [0, 1], ""),
        (0.5, [0, 255], ""),
    ],
)
def test_a_level_in_another_unit_is_noted(std: float, pixel_range: list[int], said: str, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", photograph(32, 32))
    section = denoising(std=std, pixel_range=pixel_range)
    notes = other_notes(task_for(tmp_path, tmp_path / "a.png", section, sampler=ONE))
    assert (said in notes[0]) if said else not notes


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ("{name: poisson}", ["noise.peak", "missing", "the photons at white, or auto, or the gain"]),
        ("{name: poisson, peak: 9, gain: 2}", ["noise.gain", "found beside peak: 9", "one of them"]),
        ("{name: poisson, peak: auto, read_std: 2}", ["noise.read_std", "which estimates it too"]),
        ("{name: poisson, peak: many}", ["noise.peak", "auto"]),
    ],
)
def test_settings_of_photons_that_contradict_themselves(noise: str, said: list[str], tmp_path: Path) -> None:
    path = write_config(tmp_path, measurement=denoising(std=1), data={"path": str(tmp_path)})
    message = message_of(lambda: load_sample_config(path, [f"measurement.noise={noise}"]))
    assert all(words in message for words in said), message


def test_photons_are_estimated_from_given_pictures_alone(tmp_path: Path) -> None:
    config = config_for(tmp_path, tmp_path, denoising(std=1))
    assert config.given
    path = write_config(tmp_path / "2", data={"path": str(tmp_path)})
    change = "measurement={operator: {name: denoising}, noise: {name: poisson, peak: auto}}"
    message = message_of(lambda: load_sample_config(path, [change]))
    assert "noise.peak: found auto" in message.replace(" (--set)", "") and "given: true" in message


def test_restore_takes_photons(tmp_path: Path) -> None:
    save_counts(tmp_path / "a.png", 40)
    for words, peak in (["--photons", "40"], 40), (["--photons", "auto"], "auto"):
        config = restore.config_of(restore.parser().parse_args([str(tmp_path / "a.png"), *words]))
        assert config.measurement is not None and config.measurement.noise.name == "poisson"
        assert config.measurement.noise.peak == peak and config.sampler.name == "posterior_mean"
