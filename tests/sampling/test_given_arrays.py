"""Measurements in files of arrays: k-space, projections, mosaics and what deepinv measures, made by other libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from any_size_tools import save_photo_weights
from array_tools import library, save
from config_examples import message_of
from sampling_tools import ROOT, read_metrics, write_config

from randomwalk import operators
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.operators.measured import as_measurement
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

HIGH = 3000.0
RIDGE = {
    "name": "random_walk",
    "step_scale": 1.0,
    "initial_temperature": 0.0,
    "final_temperature": 0.0,
    "schedule": {"name": "geometric", "num_steps": 80, "sigma_min": 0.5, "sigma_max": 0.501},
}
"""A walk without noise to the mean given y, of the prior that `task_of` gives the network: x + 0.5 n, x ~ N(0, 0.5^2)."""
PRIOR = 0.5
"""Variance of each number of that prior, pixels in [-1, 1]."""


def phantom(height: int, width: int) -> np.ndarray:
    """Two bright ellipses on a disc, from 0 to 2700."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = 1500.0 * (x**2 + y**2 < 0.8)
    image += 1200.0 * ((x - 0.2) ** 2 / 0.1 + (y + 0.3) ** 2 / 0.04 < 1)
    return image - 900.0 * ((x + 0.3) ** 2 / 0.05 + (y - 0.2) ** 2 / 0.1 < 1)


def coil_maps(coils: int, height: int, width: int) -> np.ndarray:
    """Smooth complex sensitivities of sum of squares 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    near = np.exp(-((x - np.cos(turn)) ** 2) - (y - np.sin(turn)) ** 2) * np.exp(1j * (x + 2 * turn))
    return near / np.sqrt((np.abs(near) ** 2).sum(0))


def kspace_of(image: np.ndarray) -> np.ndarray:
    """Unitary Fourier transform by NumPy, with the zero frequency in the middle."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes)


def task_of(folder: Path, operator: dict[str, Any], channels: int, data: dict[str, Any], **changes: Any) -> Path:
    """YAML file of a task on given arrays, with a network whose weights are 0."""
    folder.mkdir(parents=True, exist_ok=True)
    network = {"path": str(save_photo_weights(folder / "w.safetensors", 0.0, num_channels=channels))}
    noise = changes.pop("noise", {"std": 900.0})
    measurement = {"operator": operator, "noise": noise, "given": True}
    task = {"network": network, "data": data, "measurement": measurement, "sampler": RIDGE, "animation_frames": 0}
    return write_config(folder, count=1, **{**task, **changes})


def loaded(path: Path) -> tuple[Task, torch.Tensor]:
    task = load_task(load_sample_config(path), torch.device("cpu"))
    return task, task.load_measurable(0)


def results_of(path: Path) -> Path:
    """Folder of a run by sample.py, which must succeed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), "--diffusion_config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(yaml.safe_load(path.read_text())["output"])


def ridge(matrix: np.ndarray, y: np.ndarray, std: float, low: float, high: float) -> np.ndarray:
    """Mean given y of images with the prior, in the units in which low and high are -1 and 1.

    Args:
        matrix: A, real or complex.
        y: measurement.
        std: of the noise in each real number.
        low, high: the range.
    """
    middle, variance = (low + high) / 2, PRIOR * ((high - low) / 2) ** 2
    gram = matrix.conj().T @ matrix + np.eye(matrix.shape[1]) * std**2 / variance
    return middle + np.linalg.solve(gram, matrix.conj().T @ (y - middle * matrix.sum(1)))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance relative to the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# --- k-space ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".h5"])
def test_kspace_of_many_coils_becomes_a_complex_image_in_its_units(suffix: str, tmp_path: Path) -> None:
    """Every fourth column and ten in the middle, by 6 coils; the image is real times a smooth phase."""
    library(suffix)
    height, width, coils = 24, 28, 6
    maps = coil_maps(coils, height, width)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = phantom(height, width) * np.exp(1j * (0.5 * x + y))
    columns = (np.arange(width) % 4 == 0) | (np.abs(np.arange(width) - width // 2) < 5)
    draws = np.random.default_rng(0)
    noise = draws.normal(0, 900, (2, coils, height, width))
    kspace = columns * (kspace_of(maps * image) + noise[0] + 1j * noise[1])
    save(tmp_path / "in" / f"a{suffix}", kspace)
    np.save(tmp_path / "maps.npy", maps)
    np.save(tmp_path / "mask.npy", columns.astype(np.uint8))
    data = {"path": str(tmp_path / "in"), "range": [-HIGH, HIGH]}
    found = []
    for name, mask in (("nonzero", {"mask": "nonzero"}), ("file", {"mask": "file", "file": str(tmp_path / "mask.npy")})):
        operator = {"name": "mri", "maps": str(tmp_path / "maps.npy"), **mask}
        run = results_of(task_of(tmp_path / name, operator, 2, data))
        [result] = (run / "units").iterdir()
        assert result.name == f"0000_a_sample0{suffix}"
        values = {
            ".npy": np.load,
            ".mat": lambda path: scipy.io.loadmat(path)["scan"],
            ".h5": lambda path: library(".h5").File(path)["scan"][()],
        }[suffix](result)  # type: ignore[operator]
        assert values.shape == (height, width) and np.iscomplexobj(values)
        every = np.eye(image.size).reshape(-1, 1, height, width)
        matrix = (columns * kspace_of(maps * every)).reshape(image.size, -1).T
        assert error(values.ravel(), ridge(matrix, kspace.ravel(), 900.0, -HIGH, HIGH)) < 1e-4
        [row] = read_metrics(run)
        assert float(row["residual"]) == pytest.approx(1, abs=0.15)
        found.append(values)
    np.testing.assert_array_equal(*found)


def test_kspace_of_slices(tmp_path: Path) -> None:
    """As fastMRI has it: [slices, coils, rows, columns]; the result is a volume."""
    volume = np.stack([phantom(16, 20), phantom(16, 20)[::-1]]) * (1 + 0j)
    maps = coil_maps(4, 16, 20)
    save(tmp_path / "in" / "a.npy", kspace_of(maps * volume[:, None]).astype(np.complex64))
    np.save(tmp_path / "maps.npy", maps)
    operator = {"name": "mri", "maps": str(tmp_path / "maps.npy"), "mask": "nonzero"}
    data = {"path": str(tmp_path / "in"), "range": [-HIGH, HIGH], "axis": 0}
    run = results_of(task_of(tmp_path, operator, 2, data))
    result = np.load(run / "units" / "0000_a_sample0.npy")
    assert result.shape == (2, 16, 20) and result.dtype == np.complex64
    share = PRIOR / (PRIOR + (900 / HIGH) ** 2)  # A^H A = 1
    assert error(result, share * volume) < 1e-4
