"""Measurement operators against recorded values of the paper's public code, and where these are not right."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from randomwalk import operators
from randomwalk.config.operators import Boundary
from randomwalk.operators import Measurement
from randomwalk.operators.inpainting import random_mask
from randomwalk.operators.kernels import gaussian_profile
from randomwalk.operators.noise import GaussianNoise
from randomwalk.operators.separable import downsampling_matrix

REFERENCE = Path(__file__).parents[1] / "reference"


def recorded(file: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{file}.npz") as data:
        return {key: torch.from_numpy(np.asarray(data[key])) for key in data.files}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_inpainting_matches_reference() -> None:
    with np.load(REFERENCE / "op_inpainting.npz") as data:
        r = {key: torch.from_numpy(data[key]) for key in data.files if data[key].ndim}
    operator = operators.Inpainting(r["inpaint_x"].shape[1:], r["inpaint_mask"])
    noisy = r["inpaint_y_noisy_sigma0p2"]
    torch.testing.assert_close(operator(r["inpaint_x"]), r["inpaint_y"], rtol=0, atol=1e-6)
    torch.testing.assert_close(operator(r["inpaint_x"]) + 0.2 * r["inpaint_noise"], noisy, rtol=0, atol=1e-6)
    gradient = -Measurement(operator, GaussianNoise(1.0), noisy).score(r["inpaint_x"] / 2)
    torch.testing.assert_close(gradient, r["inpaint_cond_grad_at_half_x"], rtol=0, atol=1e-6)


def test_random_mask_matches_reference() -> None:
    legacy: Any = np.random.RandomState(0)  # the recorded mask came from numpy's legacy stream
    legacy.uniform()  # which the reference spends on the fraction
    with np.load(REFERENCE / "op_inpainting.npz") as data:
        recorded = data["mask_random92_256_seed0"]
    assert (random_mask(256, 256, 0.92, legacy).numpy() == recorded).all()


@pytest.mark.parametrize("case", ["sr_32", "sr_24x40", "sr_16_f2"])
def test_super_resolution_matches_reference(case: str) -> None:
    with np.load(REFERENCE / "op_super_resolution.npz") as data:
        x, y, v, adjoint_v, gradient, matrix = (
            torch.from_numpy(data[f"{case}_{key}"])
            for key in ("x", "y", "v", "adjoint_v", "cond_grad_at_x_given_v", "matrix_width")
        )
        factor = int(data[f"{case}_factor"])
    operator = operators.SuperResolution(x.shape[1:], factor, "bicubic_mirrored")
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-6)
    torch.testing.assert_close(operator.adjoint(v), adjoint_v, rtol=0, atol=1e-6)
    torch.testing.assert_close(-Measurement(operator, GaussianNoise(1.0), v).score(x), gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(downsampling_matrix(x.shape[3], factor, "bicubic_mirrored").float(), matrix)


def test_super_resolution_of_a_large_image_matches_reference() -> None:
    with np.load(REFERENCE / "op_super_resolution.npz") as data:
        x, y = torch.from_numpy(data["sr_256_x_bytes"]) / 127.5 - 1, torch.from_numpy(data["sr_256_y"])
    operator = operators.make("super_resolution", image_shape=(3, 256, 256), downsampling="bicubic_mirrored")
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-6)


def test_what_the_reference_calls_transpose_is_not_the_adjoint() -> None:
    r = recorded("op_super_resolution")
    x, y = r["sr_32_x"].double(), r["sr_32_y"].double()
    operator = operators.make("super_resolution", image_shape=x.shape[1:], downsampling="bicubic_mirrored")
    ours, theirs = operator.adjoint(operator(x)), r["sr_32_nearest_upsampled_y"].double()
    torch.testing.assert_close((ours * x).sum(), y.square().sum(), rtol=1e-6, atol=0)  # <A^T A x, x> = ||A x||^2
    assert ((theirs * x).sum() / y.square().sum() - 1).abs() > 0.1
    multiple = (ours * theirs).sum() / ours.square().sum()
    assert (multiple * ours - theirs).norm() > 0.05 * theirs.norm()  # nor a multiple of it


@pytest.mark.parametrize("case", ["gauss_k61", "gauss_k9", "gauss_k5_truncated", "motion_k61", "motion_k7_random"])
def test_blur_matches_reference(case: str) -> None:
    r = {key.removeprefix(f"{case}_"): value for key, value in recorded("op_blur").items() if key.startswith(case)}
    kernel = r["kernel"].double() / r["kernel"].double().sum()
    operator = operators.blur_with_kernel(r["x"].shape[1:], kernel.flip(0, 1), "reflect")  # the reference correlates
    assert isinstance(operator, operators.SeparableBlur) == case.startswith("gauss")
    close(operator(r["x"]), r["y"])
    close(operator.adjoint(r["v"]), r["adjoint_v"])
    if "cond_grad_at_x_given_v" in r:
        close(-Measurement(operator, GaussianNoise(1.0), r["v"]).score(r["x"]), r["cond_grad_at_x_given_v"])


def test_both_forms_of_a_blur_agree() -> None:
    r = recorded("op_blur")
    x, kernel = r["gauss_k9_x"].double(), r["gauss_k9_kernel"]
    for boundary in get_args(Boundary):
        separable = operators.blur_with_kernel(x.shape[1:], kernel / kernel.sum(), boundary)
        general = operators.Blur(x.shape[1:], kernel / kernel.sum(), boundary)
        torch.testing.assert_close(separable(x), general(x), rtol=1e-12, atol=1e-12)
        y = general(x)
        torch.testing.assert_close(separable.adjoint(y), general.adjoint(y), rtol=1e-12, atol=1e-12)


def test_gaussian_blur_matches_reference() -> None:
    r = recorded("op_blur")
    operator = operators.make("gaussian_blur", image_shape=(3, 64, 64), std=3.0, kernel_size=61)
    close(operator(r["gauss_k61_x"]), r["gauss_k61_y"])
    close(operator.adjoint(r["gauss_k61_v"]), r["gauss_k61_adjoint_v"])


@pytest.mark.parametrize(("case", "size", "std"), [("gauss_k9", 9, 1.5), ("gauss_k5_truncated", 5, 3.0)])
def test_a_small_kernel_is_a_gaussian_as_the_one_of_the_reference_is_not(case: str, size: int, std: float) -> None:
    # The reference filters an impulse within the kernel's window, whose edges mirror what the window cuts off.
    theirs = recorded("op_blur")[f"{case}_kernel"].diagonal().sqrt()  # the factor of a product
    ours = gaussian_profile(std, size)
    place = torch.arange(size, dtype=torch.float64) - size // 2
    exact = torch.exp(-(place**2) / (2 * std**2))
    torch.testing.assert_close(ours / ours[size // 2], exact, rtol=1e-12, atol=0)
    assert (theirs / theirs[size // 2] / exact)[0] > 1.1


def test_colorization_matches_reference() -> None:
    r = {key.removeprefix("color_"): value for key, value in recorded("op_color_phase").items()}
    operator = operators.make("colorization", image_shape=r["x"].shape[1:])
    close(operator(r["x"]), r["y"])
    close(operator.adjoint(r["v"]), r["adjoint_v"])
    close(-Measurement(operator, GaussianNoise(1.0), r["v"]).score(r["x"]), r["cond_grad_at_x_given_v"])


@pytest.mark.parametrize("case", ["phase_o0p25", "phase_o2"])
def test_phase_retrieval_matches_reference(case: str) -> None:
    # The reference pads as for 256 pixels whatever the size: 8 times as much as ours on its images of 32.
    r = {key.removeprefix(f"{case}_"): value for key, value in recorded("op_color_phase").items()}
    oversample, pad = float(r["oversample"]), int(r["pad"])
    same = operators.make("phase_retrieval", image_shape=r["x"].shape[1:], oversample=8 * oversample)
    assert same.measurement_shape[1] == 32 + 2 * pad
    close(same(r["x"]), r["y"])
    close(-Measurement(same, GaussianNoise(1.0), r["y"]).score(r["query"]), r["cond_grad_at_query_given_y"])


@pytest.mark.parametrize("oversample", [0.25, 2.0])
def test_phase_retrieval_pads_in_proportion_as_the_reference_does_at_256_pixels_alone(oversample: float) -> None:
    for size in (256, 64, 32):
        operator = operators.make("phase_retrieval", image_shape=(1, size, size // 2), oversample=oversample)
        border = [int(oversample / 8 * side) for side in (size, size // 2)]
        assert operator.measurement_shape == (1, size + 2 * border[0], size // 2 + 2 * border[1])
