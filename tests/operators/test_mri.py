"""Magnetic resonance imaging: conventions, masks, sensitivities, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import normal

from randomwalk import GaussianMixture, GaussianNoise, InputError, Measurement, operators, samplers
from randomwalk.operators.mri import MRI, MultiCoilMRI, birdcage_maps, column_mask, point_mask
from randomwalk.rng import generator


def complex_of(parts: torch.Tensor) -> torch.Tensor:
    return torch.complex(parts[:, 0], parts[:, 1])


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
def test_kspace_is_that_of_the_definition(height: int, width: int) -> None:
    """``y[k, l] = sum x[i, j] exp(-2 pi i ((i - h) (k - h) / H + (j - w) (l - w) / W)) / sqrt(H W)``, middle (h, w)."""
    x, mask = normal(2, 2, height, width), (torch.arange(width) % 2 == 0).float()
    rows, columns = (torch.arange(size, dtype=torch.float64) - size // 2 for size in (height, width))
    by_row = torch.exp(-2j * math.pi * torch.outer(rows, rows) / height)
    by_column = torch.exp(-2j * math.pi * torch.outer(columns, columns) / width)
    expected = mask * (by_row @ complex_of(x) @ by_column) / math.sqrt(height * width)
    torch.testing.assert_close(complex_of(MRI((2, height, width), mask)(x)), expected, rtol=1e-10, atol=1e-10)

    maps = torch.view_as_complex(normal(3, height, width, 2, seed=1))
    coils = MultiCoilMRI((2, height, width), mask, maps)(x)
    assert coils.shape == (2, 2, 3, height, width)
    weighted = (maps * complex_of(x)[:, None]).flatten(0, 1)
    each = MRI((2, height, width), mask)(torch.stack([weighted.real, weighted.imag], 1))
    torch.testing.assert_close(complex_of(coils).flatten(0, 1), complex_of(each), rtol=1e-10, atol=1e-10)


def test_the_conventions_are_those_of_deepinv() -> None:
    physics = pytest.importorskip("deepinv", reason="needs deepinv").physics
    mask = point_mask(9, 12, 3.0, 0.1, generator(0))
    maps, x = birdcage_maps(4, 9, 12), normal(2, 2, 9, 12).float()
    pairs = (
        (MRI((2, 9, 12), mask), physics.MRI(mask=mask, img_size=(2, 9, 12))),
        (
            MultiCoilMRI((2, 9, 12), mask, maps),
            physics.MultiCoilMRI(mask, maps.to(torch.complex64), img_size=(2, 9, 12)),
        ),
    )
    for ours, theirs in pairs:
        y = normal(2, *ours.measurement_shape, seed=1).float()
        torch.testing.assert_close(ours(x), theirs.A(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.adjoint(y), theirs.A_adjoint(y), rtol=1e-5, atol=1e-5)


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(
    ("width", "acceleration", "center"), [(64, 4.0, 0.08), (65, 8.0, 0.04), (33, 3.0, 0.1), (8, 1.0, 0.0)]
)
def test_columns(width: int, acceleration: float, center: float, even: bool) -> None:
    masks = torch.stack([column_mask(width, acceleration, center, generator(seed), even) for seed in range(400)])
    count, calibration = round(width / acceleration), max(1, round(center * width))
    assert (masks.sum(1) == count).all()
    first = width // 2 - calibration // 2
    assert (masks[:, first : first + calibration] == 1).all()
    outer = torch.cat([masks[:, :first], masks[:, first + calibration :]], 1)
    share = (count - calibration) / outer.shape[1]
    # Every outer column is measured equally often: 5 standard errors.
    assert (outer.mean(0) - share).abs().max() <= 5 * (share * (1 - share) / 400) ** 0.5
    gaps = torch.cat([row.nonzero().flatten().diff() for row in outer])
    if even:
        assert {int(gap) for gap in gaps.unique()} <= {math.floor(1 / share), math.ceil(1 / share)}
    elif share < 1:
        assert len(gaps.unique()) > 3


def test_points_are_drawn_by_the_square_of_their_nearness_to_the_middle() -> None:
    height, width, count = 9, 12, 3000
    masks = torch.stack([point_mask(height, width, 4.0, 0.1, generator(seed)) for seed in range(count)])
    assert (masks.sum((1, 2)) == 27).all()
    often = masks.mean(0)
    radius = torch.hypot((torch.arange(9.0)[:, None] - 4) / 9, (torch.arange(12.0) - 6) / 12)
    always = often == 1
    assert int(always.sum()) == 11 and radius[always].max() <= radius[~always].min()
    # One point beside the middle one, of a small grid: with probability proportional to (1 - r)^2.
    drawn = sum(point_mask(3, 4, 6.0, 0.0, generator(seed)) for seed in range(4000)).double()  # type: ignore[union-attr]
    radius = torch.hypot((torch.arange(3.0)[:, None] - 1) / 3, (torch.arange(4.0) - 2) / 4).double()
    weights = (1 - radius / (radius.max() + 1 / 4)) ** 2
    weights[1, 2] = 0
    expected = 4000 * weights / weights.sum()
    others = expected > 0
    assert drawn[1, 2] == 4000
    assert ((drawn - expected) ** 2 / expected)[others].sum() < 29.6  # 10 degrees of freedom: P = 0.001


def test_the_default_centre_is_that_of_fast_mri() -> None:
    for acceleration, lines in ((4.0, 26), (8.0, 13)):  # 8% and 4% of 320 columns
        masks = operators.make(
            "mri", image_shape=(2, 4, 320), acceleration=acceleration, generators=[generator(i) for i in range(60)]
        ).get_buffer("mask")
        assert int((masks.mean(0) == 1).sum()) == lines


# --- sensitivities ---------------------------------------------------------------------------------------------------


def largest_step(maps: torch.Tensor) -> float:
    """Largest difference of two neighbours along a row, within 0.8 of the way to the border."""
    place = torch.arange(maps.shape[-1]) / (maps.shape[-1] / 2) - 1
    inside = torch.hypot(place[:, None], place)[:, :-1] < 0.8
    return float(maps.diff(dim=-1).abs()[:, inside].max())


def test_simulated_sensitivities() -> None:
    maps = birdcage_maps(8, 40, 40)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(40, 40, dtype=torch.float64))
    # Smooth: at twice the resolution, neighbours within a disc differ by half as much.
    finer = birdcage_maps(8, 80, 80)
    assert largest_step(maps) < 0.1 and largest_step(maps) / largest_step(finer) == pytest.approx(2, rel=0.1)
    # Coil n looks from the angle 2 pi n / 8: it is strongest at that border. Row 20, column 20 is the middle.
    border = [(20, 39), (38, 38), (39, 20), (38, 2), (20, 1), (2, 2), (1, 20), (2, 38)]
    for coil, (row, column) in enumerate(border):
        assert int(maps[:, row, column].abs().argmax()) == coil
    # The definition of sigpy's birdcage_maps((8, 40, 40)), at one place of one coil.
    dx, dy = (31 - 20) / 20 - 1.5 * math.cos(math.pi / 4), (7 - 20) / 20 - 1.5 * math.sin(math.pi / 4)
    theirs = np.exp(1j * (np.arctan2(dx, -dy) - math.pi / 4)) / math.hypot(dx, dy)
    assert complex(maps[1, 7, 31] / theirs).imag == pytest.approx(0, abs=1e-12)
    assert complex(maps[1, 7, 31] / theirs).real > 0


def test_files(tmp_path: Path) -> None:
    maps, mask, x = birdcage_maps(3, 6, 8), torch.arange(8) % 2, normal(2, 2, 6, 8)
    np.save(tmp_path / "maps.npy", maps.numpy())
    np.save(tmp_path / "mask.npy", mask.numpy())
    settings: dict[str, Any] = {"mask": "file", "file": str(tmp_path / "mask.npy")}
    made = operators.make("mri", image_shape=(2, 6, 8), maps=str(tmp_path / "maps.npy"), **settings)
    assert torch.equal(made(x), MultiCoilMRI((2, 6, 8), mask, maps)(x))
    assert torch.equal(operators.make("mri", image_shape=(2, 6, 8), **settings)(x), MRI((2, 6, 8), mask)(x))
    np.save(tmp_path / "maps.npy", maps.numpy()[0])
    with pytest.raises(InputError, match=r"maps have shape \(6, 8\); expected \[N, H, W\]"):
        operators.make("mri", image_shape=(2, 6, 8), maps=str(tmp_path / "maps.npy"))
    np.save(tmp_path / "mask.npy", np.ones((2, 6, 8)))
    with pytest.raises(InputError, match=r"mask\.npy has shape \(2, 6, 8\)"):
        operators.make("mri", image_shape=(2, 6, 8), **settings)
    np.save(tmp_path / "mask.npy", maps.numpy()[0])
    with pytest.raises(InputError, match=r"mask\.npy cannot be read .*complex128, not numbers"):
        operators.make("mri", image_shape=(2, 6, 8), **settings)


@pytest.mark.parametrize(
    ("settings", "shape", "said"),
    [
        ({}, (3, 8, 8), "the images have 3 channels; expected 2, the real and the imaginary part"),
        ({}, (1, 8, 8), "the images have 1 channel; expected 2"),
        ({"acceleration": 9.0}, (2, 8, 8), "acceleration=9.0; expected a number from 1 to 8"),
        ({"center_fraction": 0.6}, (2, 8, 8), "is 5 of 8 columns or points, but acceleration 4.0 leaves 2"),
        ({"mask": "radial"}, (2, 8, 8), "allowed: one of random, equispaced, variable_density, file"),
        ({"mask": "file"}, (2, 8, 8), "file: missing; mask: file needs the path of the mask"),
        ({"file": "mask.npy"}, (2, 8, 8), "file: is for mask: file"),
        (
            {"mask": "file", "file": "m.npy", "acceleration": 8.0},
            (2, 8, 8),
            "acceleration: is for masks that are drawn",
        ),
        ({"mask": "file", "file": "m.npy"}, (2, 8, 8), r"the mask m\.npy is not a file"),
        ({"maps": "maps.npy", "coils": 8}, (2, 8, 8), "coils: is for simulated sensitivities"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        operators.make("mri", image_shape=shape, **settings)


def test_bad_masks_are_named() -> None:
    for bad, said in ((torch.ones(7), "shape"), (torch.zeros(8), "at least one 1"), (torch.full((8,), 0.5), "only 0")):
        with pytest.raises(InputError, match=said):
            MRI((2, 6, 8), bad)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coils", [1, 4])
def test_the_default_sampler_samples_as_with_a_matrix(coils: int) -> None:
    """Means of 2000 samples whose standard deviations are at most 1, within 5 standard errors of a difference."""
    operator = operators.make("mri", image_shape=(2, 4, 6), acceleration=2.0, coils=coils)
    assert operator.has_spectral == (coils == 1)
    prior = GaussianMixture([1.0], torch.zeros(1, 2, 4, 6), 1.0)
    noise, y = GaussianNoise(0.5), operator(normal(1, 2, 4, 6)).float()
    torch.manual_seed(0)
    sampler = samplers.make("random_walk", step_scale=0.5, preconditioned=True)
    means = [
        sampler.sample(prior, torch.logspace(1, -2, 40).tolist(), Measurement(a, noise, y), num_samples=2000).mean(0)
        for a in (operator, operators.Dense.of(operator))
    ]
    assert means[1].norm() > 1
    assert (means[0] - means[1]).abs().max() < 5 * (2 / 2000) ** 0.5


@pytest.mark.parametrize("name", ["ddrm", "ddnm_plus", "pigdm", "diffpir"])
def test_samplers_that_need_a_spectrum_take_one_coil(name: str) -> None:
    operator = operators.make("mri", image_shape=(2, 4, 6), acceleration=2.0)
    prior = GaussianMixture([1.0], torch.zeros(1, 2, 4, 6), 1.0)
    measurement = operator.measure(normal(1, 2, 4, 6).float(), GaussianNoise(0.1))
    assert samplers.make(name).sample(prior, [2.0, 1.0, 0.5, 0.1], measurement, num_samples=2).isfinite().all()
    several = operators.make("mri", image_shape=(2, 4, 6), acceleration=2.0, coils=2)
    measurement = several.measure(normal(1, 2, 4, 6).float(), GaussianNoise(0.1))
    if name in ("ddrm", "ddnm_plus"):
        with pytest.raises(InputError, match="spectral"):
            samplers.make(name).sample(prior, [2.0, 1.0, 0.5, 0.1], measurement)
    else:
        assert samplers.make(name).sample(prior, [2.0, 1.0, 0.5, 0.1], measurement).isfinite().all()


def test_few_iterations_for_many_coils_are_a_step_towards_the_solution() -> None:
    """In the space of images. In that of measurements, eight times as large, they end three times as far away."""
    operator = operators.make(
        "mri", image_shape=(2, 32, 32), generators=[generator(0, 0)], acceleration=4, coils=8, mask="random"
    )
    x, z, eta, sigma = normal(1, 2, 32, 32), normal(1, 2, 32, 32, seed=1), 0.01, 1.0
    y = operator(x) + eta * normal(1, *operator.measurement_shape, seed=2)
    exact = operator.proximal(z, y, eta, sigma)
    few = operator.proximal(z, y, eta, sigma, tolerance=0.1, iterations=20)
    assert (few - exact).norm() < 0.9 * (exact - z).norm()
    tolerance, iterations = operator.rough(z, y)
    rough = operator.proximal(z, y, eta, sigma, tolerance=tolerance, iterations=iterations)
    assert (rough - exact).norm() < 0.5 * (exact - z).norm()
    residual = operator.adjoint(y - operator(exact)) / eta**2 - (exact - z) / sigma**2
    assert residual.norm() < 1e-9 * (operator.adjoint(y) / eta**2).norm()


def test_the_zero_filled_image_starts_a_walk() -> None:
    for coils in (1, 3):
        operator = operators.make(
            "mri", image_shape=(2, 8, 8), generators=[generator(0, 0)], acceleration=1, coils=coils
        )
        x = normal(2, 2, 8, 8)
        torch.testing.assert_close(operator.interpolated(operator(x)), x)  # all of k-space: nothing is filled in
