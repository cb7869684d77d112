"""Tomography: projections known in closed form, the conventions of other libraries, filtered back-projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import normal

from randomwalk import InputError, operators
from randomwalk.operators.tomography import Tomography

ANGLES = torch.arange(0.0, 360.0, 20.0, dtype=torch.float64)


def grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """X to the right, Y upwards, the origin in the middle, in pixels."""
    rows = (height - 1) / 2 - torch.arange(height, dtype=torch.float64)
    return torch.arange(width, dtype=torch.float64) - (width - 1) / 2, rows[:, None]


def blobs(size: int) -> torch.Tensor:
    """Smooth image ``[1, 1, size, size]`` within the largest circle, without symmetry."""
    x, y = (place / size for place in grid(size, size))
    first = torch.exp(-((x - 0.12) ** 2 + (y - 0.05) ** 2) / (2 * 0.06**2))
    both = first - 0.6 * torch.exp(-((x + 0.1) ** 2 + (y + 0.15) ** 2) / (2 * 0.08**2))
    return (both * (torch.hypot(x, y) < 0.5 - 1 / size))[None, None]


def error(found: Any, expected: Any) -> float:
    """Distance relative to the norm."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float((found - expected).norm() / expected.norm())


def ellipse_error(size: int) -> float:
    """Error of the projections of an ellipse in the unit of a pixel of side ``1 / size``."""
    a, b, x0, y0, parts = 0.32, 0.18, 0.07, -0.1, 8
    x, y = (place / (size * parts) for place in grid(size * parts, size * parts))
    inside = (((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 <= 1).double()
    image = torch.nn.functional.avg_pool2d(inside[None, None], parts)
    operator = Tomography((1, size, size), ANGLES, pixel_size=1 / size)
    t = (torch.arange(operator.detectors, dtype=torch.float64) - (operator.detectors - 1) / 2) / size
    cosine, sine = ANGLES.deg2rad().cos()[:, None], ANGLES.deg2rad().sin()[:, None]
    squared = (a * cosine) ** 2 + (b * sine) ** 2
    chord = 2 * a * b * (squared - (t - x0 * cosine - y0 * sine) ** 2).clamp_min(0).sqrt() / squared
    return error(operator(image)[0, 0], chord)


def test_projections_of_an_ellipse() -> None:
    """Interpolated edges are wrong by a part of a pixel, where projections begin like a square root."""
    coarse, fine = ellipse_error(40), ellipse_error(80)
    assert fine < 0.02 and coarse > 1.7 * fine


def test_an_even_image_has_the_lengths_of_its_chords() -> None:
    """Of a 6 x 4 rectangle with pixels of side 0.5, seen from the front, the side and the back."""
    operator = Tomography((1, 6, 4), torch.tensor([0.0, 90.0, 180.0]), 5, pixel_size=0.5)
    y = operator(torch.ones(1, 1, 6, 4, dtype=torch.float64))[0, 0]
    half = 0.5 * 6 / 2  # a ray through the border between a pixel and nothing meets half of it
    torch.testing.assert_close(y[0], torch.tensor([half, 3, 3, 3, half], dtype=torch.float64))
    torch.testing.assert_close(y[2], y[0])
    torch.testing.assert_close(y[1], torch.full((5,), 2.0, dtype=torch.float64))
    assert Tomography((1, 6, 4), torch.zeros(1)).detectors == 8  # sqrt(52) = 7.2 pixels
    assert Tomography((1, 6, 4), torch.zeros(1), detector_spacing=2.0).detectors == 4


def test_the_detector_runs_to_the_right_at_0_and_upwards_at_90() -> None:
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 1, 4] = 1  # 2 to the right and 1 above the middle
    y = Tomography((1, 5, 5), torch.tensor([0.0, 90.0, 180.0, 270.0]), 5)(x)[0, 0]
    assert y.argmax(1).tolist() == [4, 3, 0, 1]
    torch.testing.assert_close(y.sum(1), torch.ones(4, dtype=torch.float64))


def test_units() -> None:
    x = normal(1, 1, 6, 7)
    pixels = Tomography((1, 6, 7), ANGLES, 9)
    length = Tomography((1, 6, 7), ANGLES, 9, pixel_size=0.2)
    torch.testing.assert_close(length(x), 0.2 * pixels(x), rtol=1e-6, atol=1e-6)
    wider = Tomography((1, 6, 7), ANGLES, 5, pixel_size=0.2, detector_spacing=0.4)
    torch.testing.assert_close(wider(x), length(x)[..., ::2], rtol=1e-6, atol=1e-6)


def test_views() -> None:
    shape = (1, 4, 5)
    for settings, expected in (
        ({"views": 4}, [0, 45, 90, 135]),
        ({"views": 4, "arc": 360.0}, [0, 90, 180, 270]),
        ({"views": [3.0, -20.5]}, [3, -20.5]),
    ):
        assert operators.make("tomography", image_shape=shape, **settings).get_buffer("angles").tolist() == expected


def test_projections_are_those_of_scikit_image() -> None:
    """Odd sizes, whose middle is a pixel, as it is there at any size. It rotates the image: another interpolation."""
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    x = blobs(41)
    theirs = transform.radon(x[0, 0].numpy(), ANGLES.numpy(), circle=True).T
    ours = Tomography((1, 41, 41), ANGLES, 41)(x)[0, 0]
    assert error(ours, theirs) < 0.01
    assert error(ours[::9], theirs[::9]) < 1e-6  # 0 and 180 degrees, where nothing is interpolated


@pytest.mark.parametrize("size", [40, 41])
def test_projections_are_those_of_deepinv(size: int) -> None:
    physics = pytest.importorskip("deepinv", reason="needs deepinv").physics
    theirs = physics.Tomography(ANGLES.float(), size, circle=True, normalize=False)
    x = blobs(size)
    y, ours = theirs.A(x.float())[0, 0].T, Tomography((1, size, size), ANGLES, size)(x)[0, 0]
    assert error(ours, y) < 0.01
    torch.testing.assert_close(ours[::9].float(), y[::9], rtol=1e-5, atol=1e-5)


def test_filtered_back_projection_is_that_of_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    angles = torch.arange(0.0, 180.0, 10.0, dtype=torch.float64)
    x, y = grid(31, 31)
    inside = (x**2 + y**2) <= 15**2
    sinogram = normal(1, 1, 18, 31)
    for window, name, tolerance in (("none", "ramp", 1e-6), ("hann", "hann", 0.03)):  # theirs is not quite periodic
        ours = Tomography((1, 31, 31), angles, 31, window=window).interpolated(sinogram)[0, 0]  # type: ignore[arg-type]
        theirs = transform.iradon(sinogram[0, 0].T.numpy(), angles.numpy(), filter_name=name, circle=True)
        assert error(ours[inside], np.asarray(theirs)[inside.numpy()]) < tolerance


@pytest.mark.parametrize(
    ("views", "settings"),
    [
        (torch.arange(0.0, 180.0, 3.0), {}),
        (torch.arange(0.0, 360.0, 3.0), {}),
        (torch.arange(0.0, 180.0, 3.0), {"pixel_size": 0.1, "detector_spacing": 0.07}),
        (torch.cat([torch.arange(0.0, 60.0, 1.5), torch.arange(60.0, 180.0, 4.0)]).flip(0), {}),
    ],
    ids=["half a turn", "a turn", "units", "uneven views"],
)
def test_filtered_back_projection_restores_a_smooth_image(views: torch.Tensor, settings: dict[str, float]) -> None:
    """Up to the error of linear interpolation, which is of second order in the size of a pixel."""
    errors = []
    for size in (24, 48):
        x = torch.cat([blobs(size), 2 * blobs(size).flip(2)], 1)
        operator = Tomography((2, size, size), views, window="none", **settings)  # type: ignore[arg-type]
        errors.append(error(operator.interpolated(operator(x)), x))
    assert errors[1] < 0.03 and errors[0] > 3 * errors[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"views": 0}, "views: found 0"),
        ({"views": [400.0]}, "views"),
        ({"views": [10.0], "arc": 360.0}, "arc: is for a number of views"),
        ({"window": "hamming"}, "allowed: one of none, hann"),
        ({"pixel_size": 0.0}, "pixel_size: found 0.0; allowed: a number above 0"),
        ({"views": 100_000, "detectors": 65_536}, "are a matrix of 1.0e.11 entries, more than"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        operators.make("tomography", image_shape=(1, 8, 8), **settings)


@pytest.mark.parametrize("settings", [{}, {"pixel_size": 0.2, "detector_spacing": 0.08}], ids=["pixels", "units"])
@pytest.mark.parametrize("damping", [0.0, 0.3, 3.0])
def test_the_preconditioner_is_near_to_the_inverse(settings: dict[str, float], damping: float) -> None:
    """It leaves less than half of a smooth image, so that each step of conjugate gradients wins a factor of 2."""
    operator, x = Tomography((1, 24, 24), torch.arange(0.0, 180.0, 3.0), **settings), blobs(24)  # type: ignore[arg-type]
    damping *= operator.norm() ** 2
    moved = operator.adjoint(operator(x)) + damping * x
    assert error(operator.preconditioner(damping, x)(moved), x) < 0.5


def test_the_proximal_map_is_the_minimum() -> None:
    operator = Tomography((1, 6, 5), torch.arange(0.0, 180.0, 30.0), pixel_size=0.3)
    matrix = operator(torch.eye(30, dtype=torch.float64).reshape(30, 1, 6, 5)).reshape(30, -1).T
    z, y, eta, sigma = normal(1, 1, 6, 5), normal(1, *operator.measurement_shape, seed=1), 0.2, 0.7
    left = matrix.T @ matrix / eta**2 + torch.eye(30, dtype=torch.float64) / sigma**2
    expected = torch.linalg.solve(left, matrix.T @ y.flatten() / eta**2 + z.flatten() / sigma**2)
    torch.testing.assert_close(operator.proximal(z, y, eta, sigma).flatten(), expected, rtol=1e-8, atol=1e-8)
