"""Runs on arrays of instruments: units, volumes, complex numbers, and results in the format of the file."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from any_size_tools import SAMPLER
from array_tools import AFFINE, library, save, scan
from config_examples import message_of
from given_tools import config_for, told
from PIL import Image
from sampling_tools import NETWORK, ROOT, SIZE, arrays_of, read_metrics, write_config

from randomwalk.cli import calibrate
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import build_network, save_denoiser
from randomwalk.errors import InputError
from randomwalk.images.tensors import to_bytes
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.batch import SampleId
from randomwalk.sampling.loading import load_task

LOW, HIGH = -1000.0, 3000.0
HALF = (HIGH - LOW) / 2
DENOISING: dict[str, Any] = {"operator": {"name": "denoising"}, "noise": {"std": 100}, "given": True}


def on(path: Path, **data: Any) -> dict[str, Any]:
    return {"path": str(path), "range": [LOW, HIGH], **data}


def in_units(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) + 1) * HALF + LOW


def weights_of(folder: Path, channels: int) -> dict[str, str]:
    """A tiny network of the size `SIZE` for images of so many channels."""
    folder.mkdir(parents=True, exist_ok=True)
    network = {**NETWORK, "in_channels": channels, "out_channels": channels}
    draws, zeros = torch.Generator().manual_seed(0), build_network(network).state_dict()
    state = {key: torch.randn(value.shape, generator=draws) * 0.03 for key, value in zeros.items()}
    save_denoiser(folder / "weights.safetensors", {"network": network, "denoiser": {"name": "vp"}}, state)
    return {"path": str(folder / "weights.safetensors")}


SHORT = {**SAMPLER, "schedule": {"name": "geometric", "num_steps": 3, "sigma_max": 20.0}}

# --- units -----------------------------------------------------------------------------------------------------------


def test_a_given_array_is_restored_in_its_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = scan(20, 26)
    values[3, 4] = 9000.0  # beyond the range, and kept
    config = config_for(tmp_path, save(tmp_path / "in" / "a.npy", values), DENOISING, data=on(tmp_path / "in"))
    assert config.measurement is not None and config.measurement.noise.pixel_range == [LOW, HIGH]  # type: ignore[union-attr]
    assert sampling.run(config) == 0
    run, arrays = Path(config.output), arrays_of(Path(config.output))
    y, x = arrays["0000_a_measurement"], arrays["0000_a_sample0"]
    np.testing.assert_allclose(y, np.broadcast_to((values - LOW) / HALF - 1, (3, 20, 26)), atol=1e-6)
    assert y.max() == pytest.approx(4)
    result = np.load(run / "units" / "0000_a_sample0.npy")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, in_units(x[0]), rtol=1e-6, atol=1e-3)
    [row] = read_metrics(run)
    assert float(row["residual"]) == pytest.approx(math.sqrt(((values - result) ** 2).mean()) / 100, rel=1e-3)
    shown = np.asarray(Image.open(run / "images" / "0000_a_sample0.png"))
    np.testing.assert_array_equal(shown, to_bytes(torch.from_numpy(x)[None])[0])
    noise, _ = told(load_task(config, torch.device("cpu")), monkeypatch)
    assert noise.std == pytest.approx(math.sqrt(3) * 100 / HALF)  # three copies have one noise


def test_auto_is_what_the_files_have_and_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, two = scan(20, 26), scan(20, 26, seed=1)
    low, high = min(one.min(), two.min()), max(one.max(), two.max())
    for name, values in (("a", one), ("b", two)):
        save(tmp_path / "in" / f"{name}.npy", values)
    config = config_for(tmp_path, tmp_path / "in", DENOISING, data=on(tmp_path / "in", range="auto"))
    assert sampling.dry_run(config) == 0
    note = f"data.range: auto found [{low:.9g}, {high:.9g}], which become -1 and 1"
    printed = capfd.readouterr()
    assert note in printed.err and f"{float(low)}" in printed.out
    assert sampling.run(config) == 0
    assert note in capfd.readouterr().err
    run = Path(config.output)
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["data"]["range"] == written["measurement"]["noise"]["pixel_range"] == [float(low), float(high)]
    first, result = arrays_of(run), (run / "units" / "0001_b_sample0.npy").read_bytes()
    assert min(first[f"{name}_measurement"].min() for name in ("0000_a", "0001_b")) == -1
    (run / "state" / "batch_00000.json").unlink()
    (run / "units" / "0001_b_sample0.npy").unlink()
    assert sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run)) == 0
    assert (run / "units" / "0001_b_sample0.npy").read_bytes() == result


def test_an_estimated_noise_is_said_in_units(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = scan(64, 64) + np.random.default_rng(1).normal(0, 150, (64, 64)).astype(np.float32)
    measurement = {**DENOISING, "noise": {"std": "auto"}}
    config = config_for(tmp_path, save(tmp_path / "in" / "a.npy", values), measurement, data=on(tmp_path / "in"))
    assert sampling.run(config) == 0
    [line] = [line for line in capfd.readouterr().err.splitlines() if "noise estimated as" in line]
    assert line.endswith("in its units")
    assert float(line.split()[-4]) == pytest.approx(150, rel=0.1)


def test_true_arrays_are_measured_and_compared(tmp_path: Path) -> None:
    values = scan(20, 26)
    save(tmp_path / "in" / "a.npy", values)
    measurement = {"operator": {"name": "denoising"}, "noise": {"std": 100}}
    config = config_for(
        tmp_path, tmp_path / "in", measurement, data=on(tmp_path / "in", fit="keep"), num_samples=2, batch_size=2
    )
    assert sampling.run(config) == 0
    run, arrays = Path(config.output), arrays_of(Path(config.output))
    rows = read_metrics(run)
    results = [np.load(run / "units" / f"0000_a_sample{s}.npy").astype(float) for s in range(2)]
    for row, result in zip(rows, results, strict=False):
        error = ((result.clip(LOW, HIGH) - values) ** 2).mean()
        assert float(row["psnr"]) == pytest.approx(10 * math.log10((HIGH - LOW) ** 2 / error), abs=0.01)
    mean, std = (np.load(run / "units" / f"0000_a_{kind}.npy") for kind in ("mean", "std"))
    np.testing.assert_allclose(mean, np.mean(results, axis=0), atol=1e-2)
    np.testing.assert_allclose(std, np.std(results, axis=0, ddof=1), rtol=1e-3, atol=1e-2)  # without an offset
    noise = in_units(arrays["0000_a_measurement"][0]) - values
    assert noise.std() == pytest.approx(100, rel=4 / math.sqrt(2 * noise.size))


# --- volumes, channels, formats --------------------------------------------------------------------------------------


def test_a_volume_is_restored_slice_by_slice_and_put_together(tmp_path: Path) -> None:
    nibabel = library(".nii.gz")
    save(tmp_path / "in" / "head.nii.gz", scan(7, 9, 4))
    measurement = {**DENOISING, "operator": {"name": "super_resolution", "factor": 2}}
    config = config_for(tmp_path, tmp_path / "in", measurement, data=on(tmp_path / "in", axis=2))
    assert sampling.run(config) == 0
    run, arrays = Path(config.output), arrays_of(Path(config.output))
    result = nibabel.load(run / "units" / "0000_head_sample0.nii.gz")
    assert result.shape == (14, 18, 4) and {path.name for path in (run / "units").iterdir()} == {
        "0000_head_sample0.nii.gz"
    }
    for k in range(4):
        x = arrays[f"{k:04d}_head_slice{k:04d}_sample0"][0]
        np.testing.assert_allclose(np.asarray(result.dataobj)[..., k], in_units(x), rtol=1e-5, atol=1e-2)
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose(result.affine @ corner, AFFINE @ corner, atol=1e-5)
    assert result.header.get_zooms() == (0.75, 1.0, 3.0)


def test_holes_of_a_volume_are_filled_and_what_is_known_stays(tmp_path: Path) -> None:
    values, known = scan(3, 20, 26), np.random.default_rng(0).random((3, 20, 26)) > 0.3
    save(tmp_path / "in" / "v.npy", values)
    np.save(tmp_path / "in" / "v_mask.npy", known)
    measurement = {**DENOISING, "operator": {"name": "inpainting", "mask": "beside"}, "keep_known": True}
    data = on(tmp_path / "in", axis=0, num_images=2)
    config = config_for(tmp_path, tmp_path / "in", measurement, data=data)
    assert sampling.run(config) == 0
    result = np.load(Path(config.output) / "units" / "0000_v_sample0.npy")
    np.testing.assert_allclose(result[:2][known[:2]], values[:2][known[:2]], rtol=1e-5, atol=1e-3)
    assert np.isfinite(result[:2]).all() and np.isnan(result[2]).all()  # the third was not asked for


def test_a_blurred_array_keeps_its_size(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.tif", scan(20, 26))
    measurement = {**DENOISING, "operator": {"name": "gaussian_blur", "std": 1.0}}
    config = config_for(tmp_path, tmp_path / "in", measurement, data=on(tmp_path / "in"))
    assert sampling.run(config) == 0
    with Image.open(Path(config.output) / "units" / "0000_a_sample0.tif") as image:
        assert image.mode == "F" and image.size == (26, 20) and np.ptp(np.asarray(image)) > 100


def test_complex_arrays_go_through_a_network_of_two_channels(tmp_path: Path) -> None:
    values = (scan(SIZE, SIZE) + 1j * scan(SIZE, SIZE, seed=1)).astype(np.complex64)
    save(tmp_path / "in" / "a.npy", values)
    data = {"path": str(tmp_path / "in"), "range": "auto"}
    two = weights_of(tmp_path / "two", 2)
    config = config_for(
        tmp_path / "1", tmp_path / "in", DENOISING, data=data, network=two, sampler=SHORT, num_samples=2
    )
    assert sampling.run(config) == 0
    run = Path(config.output)
    x, result = arrays_of(run)["0000_a_sample0"], np.load(run / "units" / "0000_a_sample0.npy")
    most = max(np.abs(values.real).max(), np.abs(values.imag).max())
    np.testing.assert_allclose(result, (x[0] + 1j * x[1]) * most, rtol=1e-5)
    shown = np.asarray(Image.open(run / "images" / "0000_a_sample0.png"))
    np.testing.assert_array_equal(shown, (np.hypot(*x).clip(0, 1) * 255).round())
    one = weights_of(tmp_path / "one", 1)
    config = config_for(tmp_path / "2", tmp_path / "in", DENOISING, data=data, network=one, sampler=SHORT)
    with pytest.raises(
        InputError, match=r"a\.npy has 2 channels \(it is complex, which takes two\), but 1 is expected"
    ):
        sampling.run(config)


def test_intervals_of_complex_arrays_reach_beyond_the_range(tmp_path: Path) -> None:
    """Calibrated on both parts, and not on the magnitudes between 0 and 1 that a picture shows."""
    draws = np.random.default_rng(0)
    for name in "abcd":
        parts = 2 * draws.standard_normal((2, SIZE, SIZE))
        save(tmp_path / "in" / f"{name}.npy", (parts[0] + 1j * parts[1]).astype(np.complex64))
    given = {"operator": {"name": "denoising"}, "noise": {"std": 0.5}}
    data = {"path": str(tmp_path / "in"), "range": [-1, 1]}
    two = weights_of(tmp_path / "two", 2)
    settings = {"data": data, "network": two, "sampler": SHORT, "num_samples": 2}
    config = config_for(tmp_path / "1", tmp_path / "in", given, **settings)
    assert sampling.run(config) == 0
    file = tmp_path / "q.json"
    assert calibrate.command([config.output, "--level", "0.75", "--output", str(file)]) == 0
    again = config_for(tmp_path / "2", tmp_path / "in", given, **settings, intervals=str(file))
    assert sampling.run(again) == 0
    arrays = arrays_of(Path(again.output))
    stems = [name.removesuffix("_low") for name in arrays if name.endswith("_low")]
    inside = [
        (arrays[f"{s}_low"] <= arrays[f"{s}_truth"]) & (arrays[f"{s}_truth"] <= arrays[f"{s}_high"]) for s in stems
    ]
    assert 0.75 * 5 / 4 - 0.01 < np.mean(inside) < 0.95  # 3.75 of 4 images
    assert max(arrays[f"{s}_high"].max() for s in stems) > 2


def test_three_copies_of_an_array_are_one_measurement_for_the_test_of_its_fit(tmp_path: Path) -> None:
    momentum = {
        "name": "random_walk", "preconditioned": True, "momentum": "auto", "initial_temperature": 1.0,
        "step_scale": 1.2, "schedule": {"name": "geometric", "num_steps": 3, "sigma_max": 3.0},
    }  # fmt: skip
    path = save(tmp_path / "in" / "a.npy", scan(20, 26))
    config = config_for(tmp_path, path, DENOISING, data=on(tmp_path / "in"), sampler=momentum)
    task = load_task(config, torch.device("cpu"))
    batch = task.sample([SampleId(0, 0)], task.load_image(0)[None])
    assert batch.measurement is not None and batch.measurement.shape == (1, 3, 20, 26)
    assert batch.entries == [520.0]


def test_any_number_of_channels_is_that_of_the_network(tmp_path: Path) -> None:
    values = scan(5, SIZE, SIZE)
    save(tmp_path / "in" / "a.npz", values)
    network = weights_of(tmp_path / "five", 5)
    config = config_for(
        tmp_path / "1", tmp_path / "in", DENOISING, data=on(tmp_path / "in"), network=network, sampler=SHORT
    )
    assert sampling.run(config) == 0
    with np.load(Path(config.output) / "units" / "0000_a_sample0.npz") as archive:
        np.testing.assert_allclose(
            archive["scan"], in_units(arrays_of(Path(config.output))["0000_a_sample0"]), rtol=1e-5, atol=1e-2
        )


@pytest.mark.parametrize("suffix", [".mat", ".h5", ".dcm"])
def test_results_come_in_the_format_of_the_file(suffix: str, tmp_path: Path) -> None:
    library(suffix)
    from randomwalk.images import instruments

    save(tmp_path / "in" / f"a{suffix}", scan(20, 26))
    config = config_for(tmp_path, tmp_path / "in", DENOISING, data=on(tmp_path / "in"))
    assert sampling.run(config) == 0
    x = in_units(arrays_of(Path(config.output))["0000_a_sample0"][0])
    result = instruments.read(Path(config.output) / "units" / f"0000_a_sample0{suffix}").values
    step = np.ptp(x) / 65535 if suffix == ".dcm" else 0
    np.testing.assert_allclose(result, x, rtol=1e-5, atol=0.51 * step + 1e-2)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_damaged_array_is_skipped_and_the_others_are_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.npy", scan(20, 26))
    save(tmp_path / "in" / "b.npy", np.full((20, 26), np.nan))
    (tmp_path / "in" / "c.png").write_bytes(b"none")
    config = config_for(tmp_path, tmp_path / "in", DENOISING, data=on(tmp_path / "in", range="auto"))
    assert sampling.run(config) == 1
    text = capfd.readouterr().err
    assert "b.npy: cannot be read as a .npy file of numbers: it has entries that are not finite" in text
    assert "1 file is not an array: c.png" in text
    assert {path.name for path in (Path(config.output) / "units").iterdir()} == {"0000_a_sample0.npy"}


def test_without_a_range_arrays_are_answered_with_the_key(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.npy", scan(20, 26))
    config = config_for(tmp_path, tmp_path / "in", DENOISING)
    with pytest.raises(InputError, match=r"is an array of numbers: sample\.py reads it with data\.range"):
        load_task(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("data", "noise", "words"),
    [
        ({"range": [2, 1]}, {}, ["data.range", "[low, high]"]),
        ({"range": "all"}, {}, ["data.range", "auto"]),
        ({"axis": 0}, {}, ["data.axis", "set range"]),
        ({"dataset": "scan"}, {}, ["data.dataset", "set range"]),
        ({"range": "auto", "axis": 3}, {}, ["data.axis"]),
        ({"range": "auto", "page": "all"}, {}, ["data.page", "axis, for volumes"]),
        ({"range": [0, 4000]}, {"pixel_range": [0, 255]}, ["pixel_range", "units of data.range", "remove it"]),
        ({"range": "auto"}, {"pixel_range": [-1, 1]}, ["pixel_range", "units of data.range", "remove it"]),
    ],
)
def test_settings_that_contradict_each_other(
    data: dict[str, Any], noise: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    measurement = {**DENOISING, "noise": {"std": 1, **noise}}
    path = write_config(tmp_path, 1, data={"path": str(tmp_path), **data}, measurement=measurement)
    message = message_of(lambda: load_sample_config(path))
    assert all(word in message for word in words), message


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_program_of_the_page_runs_and_restores(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "instruments.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shape, _, error = done.stdout.strip().splitlines()[-1].rpartition(" ")
    assert shape == "(3, 96, 96)" and float(error) < 60 / 2, done.stdout  # of a noise of 60
