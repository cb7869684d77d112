"""Measurements in files of arrays: k-space, projections, mosaics and what deepinv measures, made by other libraries."""

from __future__ import annotations

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
from PIL import Image
from sampling_tools import read_metrics, write_config

from randomwalk import operators
from randomwalk.cli.sample import command
from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.images.array_source import open_arrays
from randomwalk.operators.instrument_noise import BeerLambertNoise
from randomwalk.operators.measured import as_measurement
from randomwalk.operators.weighted import Weighted
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.loading import load_task

HIGH = 3000.0
RIDGE = {
    "name": "random_walk",
    "step_scale": 1.0,
    "initial_temperature": 0.0,
    "final_temperature": 0.0,
    "schedule": {"name": "geometric", "num_steps": 80, "sigma_min": 0.5, "sigma_max": 0.501},
}
"""A walk without noise to the mean given y, of the prior of the network of `task_of`: x + 0.5 n, x ~ N(0, 0.5^2)."""
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
    measurement = {"operator": operator, "noise": noise, "given": changes.pop("given", True)}
    task = {"network": network, "data": data, "measurement": measurement, "sampler": RIDGE, "animation_frames": 0}
    return write_config(folder, count=1, **{**task, **changes})


def results_of(path: Path) -> Path:
    """Folder of a run by the program sample.py, which must succeed."""
    assert command(["--diffusion_config", str(path)]) == 0
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
    for name, mask in (
        ("nonzero", {"mask": "nonzero"}),
        ("file", {"mask": "file", "file": str(tmp_path / "mask.npy")}),
    ):
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


@pytest.mark.parametrize("coils", [1, 3])
def test_complex_channels_of_files_are_those_of_mri(coils: int, tmp_path: Path) -> None:
    """The real part of a file is the first channel of its image, and NumPy's transform the k-space of both."""
    draws = np.random.default_rng(0)
    image = draws.normal(0, 1000, (7, 10)) + 1j * draws.normal(0, 500, (7, 10))
    source = open_arrays(save(tmp_path / "in" / "a.npy", image))
    source.range = (-HIGH, HIGH)
    x = source.load(0, 2, (7, 10), "keep")[None].double()
    maps, settings = coil_maps(coils, 7, 10) if coils > 1 else np.ones((1, 7, 10)), {"acceleration": 1.0}
    if coils > 1:
        np.save(tmp_path / "maps.npy", maps)
        settings["maps"] = str(tmp_path / "maps.npy")  # type: ignore[assignment]
    operator = operators.make("mri", image_shape=(2, 7, 10), **settings)
    kspace = kspace_of(maps * image)
    y = as_measurement(operator, kspace if coils > 1 else kspace[0], "a", "mri")
    assert y.shape == operator.measurement_shape
    assert error(HIGH * operator(x)[0].numpy(), y.numpy()) < 1e-6
    back = HIGH * operator.adjoint(y[None] / HIGH)[0].numpy()
    assert error(back[0] + 1j * back[1], image) < 1e-6


# --- projections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".dcm"])
def test_projections_of_scikit_image_become_an_image_in_its_units(suffix: str, tmp_path: Path) -> None:
    """From the front, the side and the back, where interpolation plays no part, with an offset in the range."""
    library(suffix)
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    size, low, std = 15, -400.0, 3000.0
    image = phantom(size, size)
    angles = [0.0, 90.0, 180.0]
    sinogram = np.round(2 * transform.radon(image, angles, circle=True).T) / 2  # [views, detectors]
    save(tmp_path / "in" / f"a{suffix}", sinogram.astype(np.float32))
    every = np.eye(size**2).reshape(-1, size, size)
    views = [every.sum(1), every.sum(2)[:, ::-1], every.sum(1)[:, ::-1]]
    matrix = np.stack(views, 1).reshape(size**2, -1).T
    np.testing.assert_allclose(matrix @ image.ravel(), sinogram.ravel(), atol=0.26)
    operator = {"name": "tomography", "views": angles}
    data = {"path": str(tmp_path / "in"), "range": [low, HIGH]}
    run = results_of(task_of(tmp_path, operator, 1, data, noise={"std": std}))
    [result] = (run / "units").iterdir()
    assert result.suffix == (".npy" if suffix == ".dcm" else suffix)  # DICOM says where pixels are
    values = np.asarray(Image.open(result)) if suffix == ".tif" else np.load(result)
    assert values.shape == (size, size)
    assert error(values.ravel(), ridge(matrix, sinogram.ravel(), std, low, HIGH)) < 1e-4


def test_the_size_of_an_image_behind_projections(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.npy", np.ones((4, 15)))
    data = {"path": str(tmp_path / "in"), "range": [0.0, 1.0]}
    for settings, size, expected in (
        ({}, None, (15, 15)),
        ({"pixel_size": 0.5, "detector_spacing": 1.0}, None, (30, 30)),
        ({"detectors": 15}, [9, 12], (9, 12)),
    ):
        changes = {} if size is None else {"image_size": size}
        folder = tmp_path / str(expected[1])
        path = task_of(folder, {"name": "tomography", "views": 4, **settings}, 1, data, **changes)
        task = load_task(load_sample_config(path), torch.device("cpu"))
        assert task.images.shape_of(0) == (1, *expected) and task.load_measurable(0).shape == (1, 4, 15)
    save(tmp_path / "in" / "b.npy", np.ones((4, 15)))
    save(tmp_path / "in" / "c.npy", np.ones((4, 17)))
    path = task_of(tmp_path / "three", {"name": "tomography", "views": 4}, 1, data)
    task = load_task(load_sample_config(path), torch.device("cpu"))
    first, second, third = (task.measurements.operator_of([i])[0] for i in range(3))
    assert first is second and third.measurement_shape == (1, 4, 17)
    path = task_of(tmp_path / "other", {"name": "tomography", "views": 5}, 1, data)
    task = load_task(load_sample_config(path), torch.device("cpu"))
    with pytest.raises(InputError, match=r"shape 4x15, real; tomography measures \[views, detectors\] 5x15"):
        task.load_measurable(0)


def test_counted_photons_become_projections(tmp_path: Path) -> None:
    """Of attenuations from 0 to 0.05; where none is counted half a photon stands for it, and the noise knows."""
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    attenuation = phantom(15, 15) / 60_000
    integrals = transform.radon(attenuation, [0.0, 90.0], circle=True).T
    counts = np.random.default_rng(0).poisson(1000 * np.exp(-integrals))
    counts[0, 3] = 0
    save(tmp_path / "in" / "a.npy", counts)
    data = {"path": str(tmp_path / "in"), "range": [0.01, 0.05]}
    operator = {"name": "tomography", "views": [0.0, 90.0]}
    path = task_of(tmp_path, operator, 1, data, noise={"name": "beer_lambert", "photons": 1000.0})
    task = load_task(load_sample_config(path), torch.device("cpu"))
    y = task.load_measurable(0).double().numpy()[0]
    chord = 15  # the length of each ray in the square of the image
    expected = (-np.log(np.where(counts > 0, counts, 0.5) / 1000) - 0.03 * chord) / 0.02
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
    noise = task.measurements.measure(Batch([SampleId(0, 0)], torch.empty(0)), task.load_measurable(0)[None], 1).noise
    assert isinstance(noise, BeerLambertNoise)
    np.testing.assert_allclose(noise.counts(torch.from_numpy(y)[None, None])[0, 0], counts, atol=0.01)
    [result] = (results_of(path) / "units").iterdir()
    assert np.isfinite(np.load(result)).all()
    save(tmp_path / "in" / "a.npy", counts - 1)
    with pytest.raises(InputError, match=r"a\.npy: noise beer_lambert: found -1 photons"):
        load_task(load_sample_config(path), torch.device("cpu")).load_measurable(0)


def test_photons_of_rays_pass_for_gaussian_noise_with_weights(tmp_path: Path) -> None:
    """For a sampler that does not know them, whether counts are given or simulated; one that does is told as it is."""
    attenuation = phantom(15, 15) / 60_000
    save(tmp_path / "in" / "a.npy", attenuation)
    data = {"path": str(tmp_path / "in"), "range": [0.0, 0.05]}
    operator = {"name": "tomography", "views": 4, "pixel_size": 2.0}
    noise = {"name": "beer_lambert", "photons": 500.0}
    walk = {**RIDGE, "preconditioned": True}
    path = task_of(tmp_path, operator, 1, data, noise=noise, sampler=walk, given=False)
    task = load_task(load_sample_config(path), torch.device("cpu"))
    assert not task.measurements.knows_noise and any("weighted least squares" in note for note in notes_of(task))
    batch = Batch([SampleId(0, 0)], torch.empty(0))
    measurement = task.measurements.measure(batch, task.load_measurable(0)[None], 1)
    told = task.measurements.told(0, measurement, 1.0)
    assert isinstance(told.operator, Weighted) and told.noise.name == "gaussian" and batch.noise_std is None
    counts = 500 * np.exp(-0.025 * (measurement.y + measurement.operator.of_ones()).numpy())
    np.testing.assert_allclose(told.operator.weights, np.sqrt(counts / 500), rtol=1e-4)
    np.testing.assert_allclose(told.y, told.operator.weights * measurement.y)
    assert told.std == pytest.approx(1 / (0.025 * 500**0.5))
    plain = task_of(tmp_path / "plain", operator, 1, data, noise=noise, given=False)
    assert load_task(load_sample_config(plain), torch.device("cpu")).measurements.knows_noise


# --- mosaics, and what deepinv measures ------------------------------------------------------------------------------


def test_a_mosaic_becomes_colours_in_its_units(tmp_path: Path) -> None:
    colours = np.stack([phantom(9, 8), phantom(9, 8)[::-1], 0.5 * phantom(9, 8)])
    known = np.zeros((3, 9, 8), bool)
    for colour, row, column in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        known[colour, row::2, column::2] = True
    save(tmp_path / "in" / "a.npz", (known * colours).sum(0))
    data = {"path": str(tmp_path / "in"), "range": [0.0, HIGH]}
    run = results_of(task_of(tmp_path, {"name": "demosaic"}, 3, data, noise={"std": 450.0}))
    result = np.load(run / "units" / "0000_a_sample0.npz")["scan"]
    share, middle = PRIOR / (PRIOR + 0.3**2), HIGH / 2
    assert error(result, middle + share * known * (colours - middle)) < 1e-4


def test_what_deepinv_measures_becomes_an_image_in_its_units(tmp_path: Path) -> None:
    """A vector of 60 numbers, and complex visibilities would go the same way."""
    pytest.importorskip("deepinv", reason="needs deepinv")
    settings = {"physics": "CompressedSensing", "arguments": {"m": 60}}
    physics = operators.make("deepinv", image_shape=(1, 8, 9), **settings).physics  # type: ignore[union-attr]
    every = torch.eye(72).reshape(72, 1, 8, 9)
    matrix = torch.cat([physics.A(one) for one in every.split(1)]).double().numpy().T  # type: ignore[operator]
    image = phantom(8, 9)
    save(tmp_path / "in" / "a.npy", matrix @ image.ravel())
    data = {"path": str(tmp_path / "in"), "range": [0.0, HIGH]}
    path = task_of(tmp_path / "1", {"name": "deepinv", **settings}, 1, data, noise={"std": 1500.0}, image_size=[8, 9])
    result = np.load(results_of(path) / "units" / "0000_a_sample0.npy")
    assert error(result.ravel(), ridge(matrix, matrix @ image.ravel(), 1500.0, 0.0, HIGH)) < 1e-4
    path = task_of(tmp_path / "2", {"name": "deepinv", **settings}, 1, data)
    with pytest.raises(InputError, match=r"image_size: missing; a\.npy does not tell the height and width"):
        load_task(load_sample_config(path), torch.device("cpu"))


# --- what is refused -------------------------------------------------------------------------------------------------

COILS = {"name": "mri", "maps": "maps.npy", "acceleration": 1.0}


@pytest.mark.parametrize(
    ("settings", "image", "values", "said"),
    [
        (COILS, (2, 6, 8), np.zeros((3, 6, 8)) + 0j, "3x6x8, complex; mri measures [coils, rows, columns] 4x6x8"),
        (COILS, (2, 6, 8), np.zeros((6, 8, 4)) + 0j, "in another order, which numpy's transpose(2, 0, 1) changes"),
        (COILS, (2, 6, 8), np.zeros((4, 6, 8)), "4x6x8, real; mri measures [coils, rows, columns] 4x6x8, complex"),
        ({"name": "mri"}, (2, 6, 8), np.zeros((6, 8)), "6x8, real; mri measures [rows, columns] 6x8, complex"),
        ({"name": "mri"}, (2, 6, 8), np.zeros((2, 6, 8)) + 0j, "2x6x8, complex; mri measures [rows, columns] 6x8"),
        ({"name": "tomography", "views": 5}, (1, 6, 6), np.zeros((9, 5)), "order, which numpy's transpose(1, 0)"),
        ({"name": "tomography", "views": 5}, (1, 6, 6), np.zeros((5, 9)) + 0j, "is complex, but tomography measures"),
        ({"name": "tomography", "views": 5}, (2, 6, 6), np.zeros((5, 9)), "[channels, views, detectors] 2x5x9"),
        ({"name": "demosaic"}, (3, 6, 6), np.zeros((3, 6, 6)), "3x6x6, real; demosaic measures [rows, columns] 6x6"),
    ],
)  # fmt: skip
def test_wrong_shapes(
    settings: dict[str, Any], image: tuple[int, int, int], values: np.ndarray, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("maps.npy", coil_maps(4, 6, 8))
    operator = operators.make(image_shape=image, **settings)
    with pytest.raises(InputError) as caught:
        as_measurement(operator, values, "in: a.npy", str(settings["name"]))
    assert str(caught.value).startswith("in: a.npy: ") and said in str(caught.value), caught.value


def test_shapes_that_are_taken_as_they_are() -> None:
    projections = operators.make("tomography", image_shape=(3, 6, 6), views=5)
    copies = as_measurement(projections, np.arange(45.0).reshape(5, 9), "a", "tomography")
    assert copies.shape == (3, 5, 9) and torch.equal(copies[0], copies[2])  # grey, for a network of colours
    kspace = operators.make("mri", image_shape=(2, 6, 8))
    parts = np.arange(96.0).reshape(2, 6, 8)
    pair, one = (as_measurement(kspace, values, "a", "mri") for values in (parts, parts[0] + 1j * parts[1]))
    assert torch.equal(pair, one) and torch.equal(pair, torch.from_numpy(parts))


@pytest.mark.parametrize(
    ("operator", "data", "words"),
    [
        ({"name": "mri", "mask": "nonzero"}, {}, ["data.range", "missing", "[-high, high]"]),
        ({"name": "tomography"}, {"range": "auto"}, ["data.range", "found auto", "[low, high]"]),
        ({"name": "mri", "mask": "nonzero"}, {"range": [0.0, 2.0]}, ["data.range", "[-high, high]"]),
        ({"name": "mri"}, {"range": [-2.0, 2.0]}, ["mask: random, which is drawn", "file or nonzero"]),
        ({"name": "mri", "mask": "nonzero", "coils": 4}, {"range": [-2.0, 2.0]}, ["coils", "give maps"]),
        (
            {"name": "mri", "mask": "nonzero", "acceleration": 2.0},
            {"range": [-2.0, 2.0]},
            ["acceleration", "remove it"],
        ),
        (
            {"name": "composition", "first": {"name": "denoising"}, "second": {"name": "tomography"}},
            {"range": [0.0, 2.0]},
            ["tomography in a composition", "mri, tomography, deepinv alone"],
        ),
    ],
)
def test_settings_that_contradict_each_other(
    operator: dict[str, Any], data: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = task_of(tmp_path, operator, 2, {"path": str(tmp_path), **data})
    message = message_of(lambda: load_sample_config(path))
    assert all(word in message for word in words), message


def test_a_mask_of_zeros_belongs_to_a_given_kspace(tmp_path: Path) -> None:
    operator = {"name": "mri", "mask": "nonzero"}
    with pytest.raises(InputError, match="nonzero is where a given k-space is not 0"):
        operators.make(image_shape=(2, 6, 8), **operator)
    measurement = {"operator": operator, "noise": {"std": 1.0}}
    path = write_config(tmp_path, 1, measurement=measurement)
    assert "nonzero is that of a given k-space" in message_of(lambda: load_sample_config(path))
    save(tmp_path / "in" / "a.npy", np.zeros((6, 8), complex))
    path = task_of(tmp_path / "2", operator, 2, {"path": str(tmp_path / "in"), "range": [-1.0, 1.0]})
    with pytest.raises(InputError, match=r"a\.npy is 0 everywhere, which is no k-space"):
        load_task(load_sample_config(path), torch.device("cpu"))
