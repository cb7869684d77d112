"""Measurement operators against dense matrices, recorded values and automatic differentiation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from randomwalk import InputError, operators
from randomwalk.noise import GaussianLikelihood, GaussianNoise
from randomwalk.operators import Operator
from randomwalk.operators.inpainting import box_mask, random_mask
from randomwalk.operators.separable import downsampling_matrix
from randomwalk.rng import ImageDraws, generator

REFERENCE = Path(__file__).parent / "reference"


class Correlation(Operator):
    """What a user writes: only forward. A correlation with a small kernel, and a weight for each channel."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape)
        taps = torch.randn((image_shape[0], 1, 3, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.register_buffer("taps", taps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, self.get_buffer("taps").to(x.dtype), stride=2, groups=x.shape[1])


class Square(Operator):
    """Differentiable and not linear."""

    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


# One line for each operator and setting: name, settings, image shape.
CASES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    ("denoising", {}, (3, 4, 6)),
    ("inpainting", {"missing": 0.6}, (3, 6, 5)),
    ("inpainting", {"mask": "box", "box_size": [2, 4], "margin": 1}, (1, 8, 6)),
    ("super_resolution", {"factor": 1}, (1, 4, 5)),
    ("super_resolution", {"factor": 2}, (2, 4, 8)),
    ("super_resolution", {"factor": 3}, (1, 9, 6)),
    ("super_resolution", {"factor": 4}, (3, 4, 12)),
    ("super_resolution", {"factor": 5}, (1, 5, 15)),
    ("user", {}, (2, 7, 6)),
]
EACH_CASE = pytest.mark.parametrize(("name", "settings", "shape"), CASES)


def build(name: str, settings: dict[str, Any], shape: tuple[int, int, int], batch: int = 1) -> Operator:
    if name == "user":
        return Correlation(shape)
    draws = [generator(3, image) for image in range(batch)]
    return operators.make(name, image_shape=shape, generators=draws, **settings)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(operator: Operator, shape: tuple[int, int, int]) -> Tensor:
    """A as a matrix, column by column."""
    size = int(np.prod(shape))
    images = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return operator(images).reshape(size, -1).T


@pytest.mark.parametrize("batch", [1, 3])
@EACH_CASE
def test_adjoint(name: str, settings: dict[str, Any], shape: tuple[int, int, int], batch: int) -> None:
    operator = build(name, settings, shape, batch)
    assert operator.linear
    x, y = normal(batch, *shape), normal(batch, *operator.measurement_shape, seed=1)
    assert operator(x).shape == y.shape and operator.adjoint(y).shape == x.shape
    forward, backward = ((a * b).flatten(1).sum(1) for a, b in ((operator(x), y), (x, operator.adjoint(y))))
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


@EACH_CASE
def test_norm(name: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> None:
    operator = build(name, settings, shape)
    exact = torch.linalg.svdvals(dense(operator, shape))[0].item()
    assert operator.norm() == pytest.approx(exact, rel=1e-5 if name == "user" else 1e-12)


@EACH_CASE
def test_pseudo_inverse_and_spectral_functions(
    name: str, settings: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    operator = build(name, settings, shape)
    x, y = normal(2, *shape), normal(2, *operator.measurement_shape, seed=1)
    if name == "user":
        with pytest.raises(InputError, match=r"define pinv\(y\)"):
            operator.pinv(y)
        with pytest.raises(InputError, match=r"define spectral\(f, x\)"):
            operator.spectral(torch.sqrt, x)
        return
    matrix = dense(operator, shape)
    expected = (y.flatten(1) @ torch.linalg.pinv(matrix).T).reshape(x.shape)
    torch.testing.assert_close(operator.pinv(y), expected, rtol=1e-10, atol=1e-10)
    eigenvalues, vectors = torch.linalg.eigh(matrix.T @ matrix)
    for f in (lambda t: t, lambda t: 1 / (0.3 + 5 * t), lambda t: torch.exp(-t)):
        expected = (x.flatten(1) @ (vectors * f(eigenvalues)) @ vectors.T).reshape(x.shape)
        torch.testing.assert_close(operator.spectral(f, x), expected, rtol=1e-10, atol=1e-10)


@EACH_CASE
def test_single_precision_stays_single(name: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> None:
    operator = build(name, settings, shape)
    x = normal(2, *shape).float()
    y = operator(x)
    assert y.dtype == operator.adjoint(y).dtype == torch.float32
    torch.testing.assert_close(y.double(), operator(x.double()), rtol=1e-5, atol=1e-5)
    if name != "user":
        assert operator.pinv(y).dtype == operator.spectral(torch.exp, x).dtype == torch.float32


def test_inpainting_matches_reference() -> None:
    with np.load(REFERENCE / "op_inpainting.npz") as data:
        r = {key: torch.from_numpy(data[key]) for key in data.files if data[key].ndim}
    operator = operators.Inpainting(r["inpaint_x"].shape[1:], r["inpaint_mask"])
    noisy = r["inpaint_y_noisy_sigma0p2"]
    torch.testing.assert_close(operator(r["inpaint_x"]), r["inpaint_y"], rtol=0, atol=1e-6)
    torch.testing.assert_close(operator(r["inpaint_x"]) + 0.2 * r["inpaint_noise"], noisy, rtol=0, atol=1e-6)
    gradient = -GaussianLikelihood(operator, noisy, 1.0).score(r["inpaint_x"] / 2)
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
    operator = operators.make("super_resolution", image_shape=x.shape[1:], factor=factor)
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-6)
    torch.testing.assert_close(operator.adjoint(v), adjoint_v, rtol=0, atol=1e-6)
    torch.testing.assert_close(-GaussianLikelihood(operator, v, 1.0).score(x), gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(downsampling_matrix(x.shape[3], factor).float(), matrix)


def test_super_resolution_of_a_large_image_matches_reference() -> None:
    with np.load(REFERENCE / "op_super_resolution.npz") as data:
        x, y = torch.from_numpy(data["sr_256_x_bytes"]) / 127.5 - 1, torch.from_numpy(data["sr_256_y"])
    torch.testing.assert_close(operators.make("super_resolution", image_shape=(3, 256, 256))(x), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_super_resolution_keeps_a_constant(factor: int) -> None:
    operator = operators.make("super_resolution", image_shape=(1, 3 * factor, factor), factor=factor)
    ones = torch.ones(1, 1, 3 * factor, factor, dtype=torch.float64)
    torch.testing.assert_close(operator(ones), torch.ones(1, 1, 3, 1, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("missing", [0.0, 0.29, 0.75, 0.92])
def test_random_masks_drop_exactly_the_fraction(missing: float) -> None:
    operator = operators.make(
        "inpainting", image_shape=(3, 20, 28), generators=[generator(i) for i in range(4)], missing=missing
    )
    dropped = (operator.get_buffer("mask") == 0).flatten(1).sum(1)
    assert operator.get_buffer("mask").shape == (4, 1, 20, 28)
    assert (dropped == int(missing * 20 * 28)).all()


def test_random_masks_are_uniform_over_the_pixels() -> None:
    draws = generator(0)
    kept = torch.stack([random_mask(8, 8, 0.75, draws) for _ in range(2000)]).mean(0)
    assert (kept - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5  # five standard errors


def test_box_masks_stay_inside_and_reach_the_limits() -> None:
    draws = generator(1)
    corners, sides = set(), set()
    for _ in range(3000):
        rows, columns = (box_mask(16, 20, [3, 5], 2, draws) == 0).nonzero().T
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        assert len(rows) == height * width  # a full rectangle
        assert 2 <= top < 16 - 2 - height and 2 <= left < 20 - 2 - width
        corners |= {("row", top), ("column", left)}
        sides |= {(height, width)}
    assert corners == {("row", i) for i in range(2, 11)} | {("column", i) for i in range(2, 15)}
    assert sides == {(h, w) for h in (3, 4, 5) for w in (3, 4, 5)}
    exact_fit = box_mask(8, 8, 4, 2, draws)
    assert (exact_fit[2:6, 2:6] == 0).all() and exact_fit.sum() == 48


@pytest.mark.parametrize("settings", [{"missing": 0.5}, {"mask": "box", "box_size": [2, 5]}])
def test_the_mask_of_an_image_does_not_depend_on_the_batch(settings: dict[str, Any]) -> None:
    def masks(images: list[int]) -> Tensor:
        draws = [generator(7, image) for image in images]
        return operators.make("inpainting", image_shape=(1, 9, 9), generators=draws, **settings).get_buffer("mask")

    together = masks([0, 1, 2, 3])
    assert torch.equal(together, torch.cat([masks([image]) for image in range(4)]))
    assert not torch.equal(together[0], together[1])


def test_mask_from_a_file(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), dtype=np.uint8)
    pixels[2:, 3:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    settings: dict[str, Any] = {"mask": "file", "file": tmp_path / "mask.png"}
    operator = operators.make("inpainting", image_shape=(3, 6, 8), **settings)
    x = normal(2, 3, 6, 8)
    torch.testing.assert_close(operator(x), x * (torch.from_numpy(pixels) > 0))
    with pytest.raises(InputError, match=r"mask\.png has 6x8 pixels, but the images have 8x8"):
        operators.make("inpainting", image_shape=(3, 8, 8), **settings)
    (tmp_path / "mask.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"mask\.png cannot be read"):
        operators.make("inpainting", image_shape=(3, 6, 8), **settings)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("blurring", {}, "unknown; expected one of denoising, inpainting, super_resolution"),
        ("super_resolution", {"scale": 4}, "unknown setting scale; allowed: factor"),
        ("denoising", {"factor": 4}, "unknown setting factor; allowed: none"),
        ("super_resolution", {"factor": 5}, "factor 5 does not divide the image size 8x8"),
        ("super_resolution", {"factor": 0}, "expected a positive integer"),
        ("inpainting", {"missing": 1.0}, "missing=1.0"),
        ("inpainting", {"mask": "circle"}, "expected random, box or file"),
        ("inpainting", {"mask": "box", "box_size": 7, "margin": 1}, "does not fit 8x8"),
        ("inpainting", {"mask": "box"}, "needs the setting box_size"),
        ("inpainting", {"mask": "file"}, "needs the setting file"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        operators.make(name, image_shape=(3, 8, 8), **settings)


def test_bad_masks_are_refused() -> None:
    with pytest.raises(InputError, match="only 0"):
        operators.Inpainting((1, 2, 2), torch.full((2, 2), 0.5))
    with pytest.raises(InputError, match="shape"):
        operators.Inpainting((1, 2, 2), torch.ones(3, 2))
    with pytest.raises(InputError, match="not linear"):
        Square((1, 2, 2)).adjoint(torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("operator", [Correlation((2, 7, 6)), Square((2, 7, 6))], ids=["linear", "nonlinear"])
def test_likelihood_score_is_the_gradient_of_its_log_density(operator: Operator) -> None:
    x = normal(3, 2, 7, 6)
    y = operator(x) + 0.3 * normal(3, *operator.measurement_shape, seed=1)
    likelihood = GaussianLikelihood(operator, y, 0.3)
    exact = torch.distributions.Normal(operator(x), 0.3).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x), exact, rtol=1e-12, atol=0)
    start = (x + 0.1).requires_grad_()
    gradient = torch.autograd.grad(likelihood.log_prob(start).sum(), start)[0]
    with torch.no_grad():
        score = likelihood.score(start.detach())
    assert not score.requires_grad
    torch.testing.assert_close(score, gradient, rtol=1e-12, atol=1e-12)


def test_noise_level_is_stated_in_a_pixel_range() -> None:
    assert GaussianNoise(0.2).std == pytest.approx(0.2)
    assert GaussianNoise(0.2, pixel_range=(0, 1)).std == pytest.approx(0.4)
    assert GaussianNoise(51, pixel_range=(0, 255)).std == pytest.approx(0.4)
    clean = torch.zeros(2, 3, 50, 50)
    noisy = GaussianNoise(0.2, (0, 1)).apply(clean, ImageDraws([generator(0), generator(1)]))
    assert noisy.std().item() == pytest.approx(0.4, rel=5 / (2 * clean.numel()) ** 0.5)  # five standard errors
    alone = GaussianNoise(0.2, (0, 1)).apply(clean[:1], ImageDraws([generator(1)]))
    assert torch.equal(noisy[1:], alone)
    for std, pixel_range in ((0.0, (-1, 1)), (-1.0, (-1, 1)), (0.2, (1, 0))):
        with pytest.raises(InputError, match="noise"):
            GaussianNoise(std, pixel_range)
