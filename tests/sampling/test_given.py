"""Pictures that are measurements themselves: restored without a truth, with their noise estimated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from any_size_tools import SAMPLER, photograph
from config_examples import message_of
from given_tools import AUTO, DENOISING, config_for, noisy_photograph, save_picture, task_for, told
from PIL import Image
from sampling_tools import SIZE, arrays_of, read_metrics, save_images, save_weights, write_config

from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.tensors import to_pixels
from randomwalk.operators.noise import GaussianNoise, LaplaceNoise, Noise, PoissonNoise
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task

# --- what a run leaves ---------------------------------------------------------------------------------------


def test_a_given_picture_is_restored_as_the_file_that_it_was(tmp_path: Path) -> None:
    pixels = save_picture(
        tmp_path / "in" / "photo.png",
        np.random.default_rng(0).integers(0, 65536, (20, 26, 3), dtype=np.uint16),
        np.random.default_rng(1).integers(0, 65536, (20, 26), dtype=np.uint16),
    )
    config = config_for(tmp_path, tmp_path / "in" / "photo.png", DENOISING)
    assert sampling.run(config) == 0
    run, arrays = Path(config.output), arrays_of(Path(config.output))
    y, x = arrays["0000_photo_measurement"], arrays["0000_photo_sample0"]
    np.testing.assert_allclose(y, pixels.transpose(2, 0, 1) / 32767.5 - 1, atol=1e-6)
    written = pictures.read((run / "images" / "0000_photo_sample0.png").read_bytes(), "x")
    np.testing.assert_array_equal(
        written.pixels, np.rint((x.astype(float).clip(-1, 1).transpose(1, 2, 0) + 1) * 32767.5)
    )
    before = pictures.read((tmp_path / "in" / "photo.png").read_bytes(), "x")
    assert written.alpha is not None and before.alpha is not None
    np.testing.assert_array_equal(written.alpha, before.alpha)
    [row] = read_metrics(run)
    assert row["psnr"] == row["ssim"] == row["measurement_psnr"] == ""
    assert float(row["residual"]) == pytest.approx(math.sqrt(((y - x) ** 2).mean()) / (50 / 255), rel=1e-3)
    assert float(row["noise_of_255"]) == 25
    names = {path.name for path in (run / "images").iterdir()}
    kinds = ("measurement.png", "sample0.png", "walk.webp")
    assert names == {f"0000_photo_{kind}" for kind in kinds}
    assert (run / "overview.png").is_file()


def test_the_summary_has_the_residual_and_no_psnr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "photo.png", photograph(20, 26))
    assert sampling.run(config_for(tmp_path, tmp_path / "photo.png", DENOISING)) == 0
    text = capsys.readouterr().out
    assert "residual / noise" in text and "PSNR" not in text


def test_a_small_picture_is_of_a_larger_one(tmp_path: Path) -> None:
    save_picture(tmp_path / "photo.png", photograph(7, 9))
    measurement = {**DENOISING, "operator": {"name": "super_resolution", "factor": 3}}
    config = config_for(tmp_path, tmp_path / "photo.png", measurement)
    assert sampling.run(config) == 0
    arrays = arrays_of(Path(config.output))
    assert arrays["0000_photo_measurement"].shape == (3, 7, 9)
    assert arrays["0000_photo_sample0"].shape == (3, 21, 27)
    shown = np.asarray(Image.open(Path(config.output) / "images" / "0000_photo_measurement.png"))
    np.testing.assert_array_equal(shown, photograph(7, 9).repeat(3, 0).repeat(3, 1))


def test_a_grey_picture_can_be_given_to_be_coloured(tmp_path: Path) -> None:
    save_picture(tmp_path / "photo.png", photograph(8, 9)[..., :1])
    config = config_for(tmp_path, tmp_path / "photo.png", {**DENOISING, "operator": {"name": "colorization"}})
    task = load_task(config, torch.device("cpu"))
    assert task.load_image(0).shape == (1, 8, 9) and task.images.shape_of(0) == (3, 8, 9)
    assert sampling.run(config) == 0
    x = arrays_of(Path(config.output))["0000_photo_sample0"]
    assert np.ptp(x, axis=0).max() > 0.1
    written = np.asarray(Image.open(Path(config.output) / "images" / "0000_photo_sample0.png"))
    np.testing.assert_array_equal(written, to_pixels(torch.from_numpy(x)))


def test_samples_of_a_given_picture_have_a_mean_and_no_calibration(tmp_path: Path) -> None:
    save_picture(tmp_path / "photo.png", photograph(20, 26))
    config = config_for(tmp_path, tmp_path / "photo.png", DENOISING, num_samples=2)
    assert sampling.run(config) == 0
    run = Path(config.output)
    assert [(row["sample"], row["psnr"]) for row in read_metrics(run)] == [("0", ""), ("1", ""), ("mean", "")]
    assert (run / "images" / "0000_photo_mean.png").is_file() and not (run / "calibration.png").exists()


def test_a_folder_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    for i, size in enumerate([(24, 30), (26, 26), (24, 30)]):
        save_picture(tmp_path / "in" / f"{i}.png", noisy_photograph(*size, of_255=20, seed=i))
    config = config_for(tmp_path, tmp_path / "in", AUTO)
    assert sampling.run(config) == 0
    run = Path(config.output)
    from randomwalk.runs.folder import RunFolder

    first = arrays_of(run)
    metrics = [{**row, "seconds": ""} for row in read_metrics(run)]
    (run / "state" / "batch_00001.json").unlink()
    (run / "arrays" / "0001_1_sample0.npy").unlink()
    assert sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run)) == 0
    second = arrays_of(run)
    assert all(np.array_equal(first[name], second[name]) for name in first) and first.keys() == second.keys()
    assert [{**row, "seconds": ""} for row in read_metrics(run)] == metrics


def test_a_network_of_one_size_takes_measurements_of_that(tmp_path: Path) -> None:
    weights = {"path": str(save_weights(tmp_path / "weights.safetensors"))}
    save_picture(tmp_path / "fits.png", photograph(SIZE // 2, SIZE // 2)[..., :1])
    save_picture(tmp_path / "not.png", photograph(SIZE, SIZE)[..., :1])
    sampler = {**SAMPLER, "schedule": {"name": "geometric", "num_steps": 3, "sigma_max": 20.0}}
    measurement = {**DENOISING, "operator": {"name": "super_resolution", "factor": 2}}
    task = task_for(tmp_path / "1", tmp_path / "fits.png", measurement, network=weights, sampler=sampler)
    assert task.images.shape_of(0) == (1, SIZE, SIZE)
    with pytest.raises(InputError, match=r"not\.png: is a measurement of 24x24 pixels, but the network .* takes 12x12"):
        task_for(tmp_path / "2", tmp_path / "not.png", measurement, network=weights, sampler=sampler)


# --- noise ---------------------------------------------------------------------------------------------------


def test_the_noise_is_estimated_stated_and_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_picture(tmp_path / "in" / "a.png", noisy_photograph(64, 64, of_255=8))
    save_picture(tmp_path / "in" / "b.png", noisy_photograph(64, 64, of_255=20))
    config = config_for(tmp_path, tmp_path / "in", AUTO)
    assert sampling.dry_run(config) == 0
    foretold = capfd.readouterr().err
    assert sampling.run(config) == 0
    rows, text = read_metrics(Path(config.output)), capfd.readouterr().err
    for row, expected in zip(rows, (8, 20), strict=True):
        assert float(row["noise_of_255"]) == pytest.approx(expected, rel=0.05)
        note = f"note: {row['name']}: noise estimated as {float(row['noise_of_255']):.1f} of 255"
        assert note in text and note in foretold
    task = load_task(config, torch.device("cpu"))
    assert len(task.batches()) == 2  # not together: each has noise of its own
    noise, _ = told(task, monkeypatch, image=1)
    assert noise.std == pytest.approx(2 * float(rows[1]["noise_of_255"]) / 255, rel=1e-4)


def test_the_estimate_leaves_painted_pixels_out(tmp_path: Path) -> None:
    pixels = noisy_photograph(64, 64, of_255=8)
    pixels[20:40, 10:50] = np.random.default_rng(5).integers(0, 256, (20, 40, 3))
    save_picture(tmp_path / "in" / "a.png", pixels)
    mask = np.full((64, 64), 255, np.uint8)
    mask[20:40, 10:50] = 0
    Image.fromarray(mask).save(tmp_path / "in" / "a_mask.png")
    task = task_for(tmp_path, tmp_path / "in", {**AUTO, "operator": {"name": "inpainting", "mask": "beside"}})
    task.load_measurable(0)
    assert task.measurements.estimated_noise[0].std == pytest.approx(16 / 255, rel=0.06)


def test_a_test_with_the_truth_can_hide_the_noise_from_the_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_picture(tmp_path / "in" / "a.png", (photograph(64, 64) * 0.5 + 64).astype(np.uint8))
    measurement = {"operator": {"name": "denoising"}, "noise": {"std": 0.2}, "estimate_noise": True}
    task = task_for(tmp_path, tmp_path / "in", measurement, data={"path": str(tmp_path / "in"), "fit": "keep"})
    noise, y = told(task, monkeypatch)
    assert float((y[0] - task.load_image(0)).std()) == pytest.approx(0.2, rel=0.02)
    assert noise.std != 0.2 and noise.std == pytest.approx(0.2, rel=0.03)


def test_a_picture_too_small_to_estimate_is_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "in" / "a.png", noisy_photograph(8, 8, of_255=8))
    save_picture(tmp_path / "in" / "b.png", noisy_photograph(64, 64, of_255=8))
    assert sampling.run(config_for(tmp_path, tmp_path / "in", AUTO)) == 1
    assert "a.png: the noise can't be estimated from 16 patches" in capfd.readouterr().err


# --- grey pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise", [GaussianNoise(0.2), LaplaceNoise(0.2), PoissonNoise(40.0)], ids=["gaussian", "laplace", "poisson"]
)
def test_copies_of_a_measurement_weigh_as_much_as_one(noise: Noise) -> None:
    draws = torch.Generator().manual_seed(0)
    y, a, b = (0.5 * torch.rand(1, 1, 5, 5, generator=draws).double() for _ in range(3))
    one = noise.log_prob(y, a) - noise.log_prob(y, b)
    copies = [image.expand(1, 3, 5, 5) for image in (y, a, b)]
    law = noise.of_copies(3)
    torch.testing.assert_close(law.log_prob(copies[0], copies[1]) - law.log_prob(copies[0], copies[2]), one)
    assert abs(noise.log_prob(copies[0], copies[1]) - noise.log_prob(copies[0], copies[2]) - one) > 1


@pytest.mark.parametrize("given", [True, False])
def test_a_grey_picture_is_three_equal_channels_and_stays_grey(
    given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = np.random.default_rng(2).integers(0, 256, (20, 26), dtype=np.uint8)
    save_picture(tmp_path / "in" / "a.png", photograph(20, 26)[..., :1], alpha)
    save_picture(tmp_path / "in" / "b.png", photograph(20, 26))
    measurement = {**DENOISING, "given": given}
    config = config_for(tmp_path, tmp_path / "in", measurement, data={"path": str(tmp_path / "in"), "fit": "keep"})
    assert sampling.run(config) == 0
    run, arrays = Path(config.output), arrays_of(Path(config.output))
    for kind in ("measurement", "sample0"):
        x = arrays[f"0000_a_{kind}"]
        assert x.shape == (3, 20, 26) and np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2])
        assert not np.array_equal(arrays[f"0001_b_{kind}"][0], arrays[f"0001_b_{kind}"][1])
    written = pictures.read((run / "images" / "0000_a_sample0.png").read_bytes(), "x")
    assert written.grey and written.alpha is not None and np.array_equal(written.alpha, alpha)
    y, x, [row, other] = arrays["0000_a_measurement"][0], arrays["0000_a_sample0"][0], read_metrics(run)
    assert float(row["noise_of_255"]) == float(other["noise_of_255"]) == 25
    assert float(row["residual"]) == pytest.approx(math.sqrt(((y - x) ** 2).mean()) / (50 / 255), rel=1e-3)
    task = load_task(config, torch.device("cpu"))
    assert len(task.batches()) == 2  # not together: the noise is not the same to the sampler
    assert told(task, monkeypatch, 0)[0].std == pytest.approx(math.sqrt(3) * 50 / 255)
    assert told(task, monkeypatch, 1)[0].std == pytest.approx(50 / 255)


def test_a_grey_picture_in_a_file_with_colours_has_one_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = noisy_photograph(64, 64, of_255=8)[..., :1].repeat(3, axis=2)
    save_picture(tmp_path / "in" / "a.png", grey)
    Image.fromarray(grey).save(tmp_path / "in" / "b.webp", quality=100)  # lossy: its channels are not quite equal
    save_picture(tmp_path / "in" / "c.png", grey[..., :1])
    save_picture(tmp_path / "in" / "d.png", noisy_photograph(64, 64, of_255=8))
    task = task_for(tmp_path, tmp_path / "in", AUTO)
    assert task.images.greys == [True, True, True, False]
    as_colours, as_grey = told(task, monkeypatch, 0), told(task, monkeypatch, 2)
    assert as_colours[0].std == as_grey[0].std > 12 / 255 and torch.equal(as_colours[1], as_grey[1])
    (tmp_path / "in" / "a.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    assert task_for(tmp_path / "again", tmp_path / "in", AUTO).images.greys == [False, True, True, False]


# --- what is refused -----------------------------------------------------------------------------------------

INPAINTING = "{name: inpainting, missing: 0.5}"
REFUSED = [
    (
        "measurement={operator: {name: phase_retrieval}, noise: {std: 1}, given: true}",
        ["measurement.given", "phase_retrieval"],
    ),
    (
        "measurement={operator: {name: motion_blur}, noise: {std: 1}, given: true}",
        ["motion_blur without length draws a random kernel"],
    ),
    (f"measurement={{operator: {INPAINTING}, noise: {{std: 1}}, given: true}}", ["mask: random", "file or beside"]),
    (f"measurement={{operator: {INPAINTING}, noise: {{std: auto}}}}", ["noise.std", "found auto", "estimate_noise"]),
    ("measurement={operator: {name: hdr}, noise: {std: auto}, given: true}", ["noise.std", "found auto", "hdr"]),
    (
        "measurement={operator: {name: compressed_sensing}, noise: {std: 1}, estimate_noise: true}",
        ["estimate_noise", "compressed_sensing"],
    ),
    (
        "measurement={operator: {name: denoising}, noise: {name: poisson, peak: 9}, estimate_noise: true}",
        ["estimate_noise", "poisson"],
    ),
    (
        "measurement={operator: {name: denoising}, noise: {std: 1}, given: true, estimate_noise: true}",
        ["noise.std is known", "std: auto"],
    ),
    ("measurement={operator: {name: denoising}, noise: {std: automatic}}", ["measurement.noise.std", "auto"]),
    ("measurement={operator: {name: inpainting, mask: beside}, noise: {std: 1}}", ["data.fit", "beside", "keep"]),
]


@pytest.mark.parametrize(("override", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_configs_that_contradict_themselves(override: str, words: list[str], tmp_path: Path) -> None:
    save_images(tmp_path / "in", 1)
    path = write_config(tmp_path / "task")
    message = message_of(lambda: load_sample_config(path, [override]))
    assert all(word in message for word in words), message


def test_given_measurements_keep_their_size(tmp_path: Path) -> None:
    path = write_config(tmp_path, measurement=DENOISING, data={"path": str(tmp_path), "fit": "crop"})
    message = message_of(lambda: load_sample_config(path))
    assert "found crop, but given measurements keep their size" in message
    path = write_config(tmp_path / "2", measurement=DENOISING, data={"path": str(tmp_path)})
    config = load_sample_config(path)
    assert config.data is not None and config.data.fit == "keep"
