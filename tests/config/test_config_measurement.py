"""The measurement section of a configuration: operators and noise by name, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from config_examples import SAMPLE, message_of

from randomwalk import operators
from randomwalk.config import SampleConfig
from randomwalk.config.files import dump, load_sample_config
from randomwalk.operators import noise


def load(folder: Path, *overrides: str) -> SampleConfig:
    (folder / "task.yaml").write_text(SAMPLE, encoding="utf-8")
    return load_sample_config(folder / "task.yaml", overrides)


OPERATORS = [
    "{name: denoising}",
    "{name: inpainting}",
    "{name: super_resolution}",
    "{name: gaussian_blur, std: 1.5, kernel_size: 9, boundary: circular}",
    "{name: motion_blur, kernel_size: 5, intensity: 0.2, dense: true}",
    "{name: motion_blur, length: 5, angle: 30, boundary: unknown}",
    "{name: defocus_blur, radius: 1.5, boundary: unknown}",
    "{name: blur, file: kernel.npy, flip: true, center: false, normalize: false, boundary: zero}",
    "{name: regional_blur, files: [kernel.npy, kernel.npy], regions: [1, 2], normalize: false, boundary: unknown}",
    "{name: colorization}",
    "{name: compressed_sensing, ratio: 0.5, matrix: dense}",
    "{name: fourier_subsampling, acceleration: 2, center_fraction: 0.2}",
    "{name: mri, mask: equispaced, acceleration: 2, center_fraction: 0.25, coils: 3}",
    "{name: mri, mask: file, file: mask.npy, maps: maps.npy}",
    "{name: tomography, views: 3, arc: 360, detectors: 9, pixel_size: 0.1, detector_spacing: 0.2, window: none}",
    "{name: tomography, views: [0, 45.5, -30]}",
    "{name: demosaic, pattern: GBRG}",
    "{name: deepinv, physics: Blur, arguments: {filter: [[[[0, 1, 0], [1, 2, 1], [0, 1, 0]]]], padding: circular}}",
    "{name: phase_retrieval, oversample: 4}",
    "{name: hdr, factor: 3}",
    "{name: jpeg, quality: 5, subsampling: '4:4:4'}",
    "{name: composition, first: {name: gaussian_blur}, second: {name: inpainting, missing: 0.5}}",
    "{name: composition, first: {name: gaussian_blur}, second: {name: hdr}}",
]


@pytest.mark.parametrize("section", OPERATORS)
def test_every_operator_is_made_from_its_section(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.save("kernel.npy", np.eye(3))
    np.save("mask.npy", np.arange(8) % 2)
    np.save("maps.npy", np.ones((3, 8, 8)) * 1j)
    if "deepinv" in section:
        pytest.importorskip("deepinv", reason="needs deepinv")
    config = load(tmp_path, f"measurement.operator={section}")
    assert config.measurement is not None
    settings = config.measurement.operator.model_dump(exclude_none=True)
    shape = (2 if settings["name"] == "mri" else 3, 8, 8)
    assert operators.make(image_shape=shape, **settings).image_shape == shape
    (tmp_path / "resolved.yaml").write_text(dump(config), encoding="utf-8")
    again = load_sample_config(tmp_path / "resolved.yaml")
    assert again.measurement == config.measurement


def test_no_operator_or_noise_is_forgotten() -> None:
    assert {section.split("name: ")[1].split(",")[0].rstrip("}") for section in OPERATORS} == set(operators.OPERATORS)
    assert {section.split("name: ")[1].split(",")[0].rstrip("}") for section, _ in NOISES[1:]} == set(noise.NOISES)


NOISES = [
    ("{std: 0.2}", 0.2),
    ("{name: gaussian, std: 0.2, pixel_range: [0, 1]}", 0.4),
    ("{name: laplace, std: 51, pixel_range: [0, 255]}", 0.4),
    ("{name: poisson, peak: 50}", 0.2),
    ("{name: rician, std: 0.2, pixel_range: [0, 1]}", 0.4),
    ("{name: gamma, looks: 4}", 0.5),
    ("{name: quantized, bits: 1, std: 0.3, pixel_range: [0, 2]}", (0.3**2 + 2**2 / 12) ** 0.5),
    ("{name: beer_lambert, photons: 100, pixel_range: [0, 1]}", 0.2),
    ("{name: none}", 0.0),
]


@pytest.mark.parametrize(("section", "std"), NOISES)
def test_every_noise_is_made_from_its_section(section: str, std: float, tmp_path: Path) -> None:
    operator = ["measurement.operator={name: tomography}"] if "beer_lambert" in section else []
    config = load(tmp_path, *operator, f"measurement.noise={section}")
    assert config.measurement is not None
    made = noise.make(**config.measurement.noise.model_dump(exclude_none=True))
    assert made.std == pytest.approx(std)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("operator={name: gaussian_blurr}", ["measurement.operator.name", "did you mean gaussian_blur?"]),
        ("operator={name: gaussian_blur, std: 0}", ["measurement.operator.std", "found 0", "above 0"]),
        ("operator={name: gaussian_blur, kernel_size: 4}", ["measurement.operator.kernel_size", "found 4", "odd"]),
        ("operator={name: gaussian_blur, sigma: 4}", ["operator.sigma", "unknown key", "gaussian_blur", "std"]),
        ("operator={name: motion_blur, kernel_size: 4}", ["measurement.operator.kernel_size", "found 4", "odd"]),
        ("operator={name: motion_blur, intensity: 2}", ["measurement.operator.intensity", "at least 0 and at most 1"]),
        ("operator={name: motion_blur, boundary: mirror}", ["measurement.operator.boundary", "reflect", "circular"]),
        ("operator={name: blur}", ["measurement.operator.file", "missing", "text"]),
        ("operator={name: compressed_sensing, ratio: 2}", ["measurement.operator.ratio", "above 0 and at most 1"]),
        ("operator={name: fourier_subsampling, acceleration: 0.5}", ["operator.acceleration", "of at least 1"]),
        ("operator={name: jpeg, quality: 0}", ["measurement.operator.quality", "at least 1 and at most 100"]),
        ("operator={name: jpeg, subsampling: '4:2:2'}", ["measurement.operator.subsampling", "4:2:0, 4:4:4"]),
        ("operator={name: composition, first: {name: hdr}}", ["measurement.operator.second", "missing"]),
        (
            "operator={name: composition, first: {name: blurr, file: x}, second: {name: hdr}}",
            ["measurement.operator.first.name", "did you mean blur?"],
        ),
        (
            "operator={name: composition, first: {name: hdr, factor: 0}, second: {name: hdr}}",
            ["measurement.operator.first.factor", "found 0", "above 0"],
        ),
        ("noise={name: gauss, std: 1}", ["measurement.noise.name", "did you mean gaussian?", "poisson", "none"]),
        ("noise={name: poisson, std: 1}", ["measurement.noise", "peak"]),
        ("noise={name: beer_lambert, photons: 10}", ["measurement", "found beer_lambert", "projections of tomography"]),
        ("noise={name: quantized, std: 1}", ["measurement.noise.bits", "missing"]),
        ("noise={name: gamma}", ["measurement.noise.looks", "missing"]),
        ("noise={name: poisson, peak: 0}", ["measurement.noise.peak", "found 0", "above 0"]),
        ("noise={name: laplace, std: 1, pixel_range: [1, 0]}", ["measurement.noise.pixel_range", "[black, white]"]),
    ],
)
def test_messages(override: str, said: list[str], tmp_path: Path) -> None:
    message = message_of(load, tmp_path, f"measurement.{override}")
    for words in said:
        assert words in message, message


def test_photons_come_from_pixels(tmp_path: Path) -> None:
    photons = "measurement.noise={name: poisson, peak: 9}"
    load(tmp_path, photons)
    for name in ("compressed_sensing", "fourier_subsampling", "phase_retrieval"):
        message = message_of(load, tmp_path, photons, f"measurement.operator={{name: {name}}}")
        assert "measurement.noise.name" in message and f"{name} does not measure pixels" in message
        nested: Any = f"measurement.operator={{name: composition, first: {{name: hdr}}, second: {{name: {name}}}}}"
        assert f"{name} does not measure pixels" in message_of(load, tmp_path, photons, nested)
