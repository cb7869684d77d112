"""Blurs against SciPy, their orientation, kernels by formula, and kernels from the files that people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from operator_cases import normal, random_kernel
from PIL import Image

from randomwalk import InputError, kernels, operators
from randomwalk.config.operators import BlurSettings, DefocusBlurSettings, GaussianBlurSettings, MotionBlurSettings
from randomwalk.operators import Blur, Composition, Dense, SeparableBlur, SuperResolution, blur_with_kernel
from randomwalk.operators.blur import fast_size, size_of_kernel

BOUNDARIES = ("unknown", "reflect", "replicate", "zero", "circular")


def valid(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([[scipy.signal.convolve2d(c, kernel.numpy(), mode="valid") for c in image] for image in x.numpy()])
    )


@pytest.mark.parametrize("taps", [(5, 3), (4, 2), (7, 7), (1, 6)])
@pytest.mark.parametrize("product", [False, True])
def test_with_unknown_surroundings_it_is_the_valid_part_of_the_convolution(
    taps: tuple[int, int], product: bool
) -> None:
    kernel, x = random_kernel(*taps), normal(2, 3, 14, 11)
    kernel = torch.outer(kernel[:, 0], kernel[0]) if product else kernel
    blur = blur_with_kernel((3, 14, 11), kernel, "unknown")
    assert isinstance(blur, SeparableBlur) == (product or 1 in taps)
    y = blur(x)
    torch.testing.assert_close(y, valid(x, kernel), rtol=1e-12, atol=1e-12)
    assert blur.measurement_shape == y.shape[1:] == blur.shown_shape == blur.cut(x).shape[1:]
    v = normal(*y.shape, seed=1)
    torch.testing.assert_close((y * v).sum(), (x * blur.adjoint(v)).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("taps", [(5, 3), (4, 6)])
def test_a_point_of_light_becomes_the_kernel_where_it_is(boundary: Any, taps: tuple[int, int]) -> None:
    """As `scipy.ndimage.convolve` does, at odd and even sizes; turned by 180 degrees it is another picture."""
    kernel, x = random_kernel(*taps), torch.zeros(1, 1, 15, 16, dtype=torch.float64)
    x[0, 0, 7, 8] = 1
    blur = blur_with_kernel((1, 15, 16), kernel, boundary)
    expected = torch.from_numpy(scipy.ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode="wrap"))[None, None]
    torch.testing.assert_close(blur(x), blur.cut(expected), rtol=1e-12, atol=1e-12)
    top, left = 7 - taps[0] // 2, 8 - taps[1] // 2
    torch.testing.assert_close(expected[0, 0, top : top + taps[0], left : left + taps[1]], kernel)
    turned = blur_with_kernel((1, 15, 16), kernel.flip(0, 1), boundary)
    assert (turned(x) - blur(x)).abs().max() > 0.1


def test_gaussian_blur_and_its_unknown_surroundings_are_those_of_scipy() -> None:
    x = normal(1, 1, 30, 28)
    blur = operators.make("gaussian_blur", image_shape=(1, 30, 28), std=1.6, boundary="unknown")
    theirs = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), 1.6, truncate=4.0)[6:-6, 6:-6]
    torch.testing.assert_close(blur(x)[0, 0], torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)


def test_an_image_smaller_than_the_kernel_has_no_measurement() -> None:
    for kernel in (random_kernel(7, 3), torch.ones(7, 3)):
        with pytest.raises(InputError, match=r"an image of 6x9 pixels has none with a kernel of 7x3"):
            blur_with_kernel((1, 6, 9), kernel, "unknown")


def test_the_place_of_a_measurement_in_a_composition() -> None:
    """A picture that was blurred and then made smaller shows the middle of the sharp one, and so the other way."""
    blur = Blur((1, 14, 12), random_kernel(3, 5), "unknown")
    first = Composition(blur, SuperResolution(blur.shown_shape, 2))
    assert first.margins == (1, 1, 2, 2) and first.shown_shape == (1, 12, 8)
    second = Composition(SuperResolution((1, 28, 24), 2), blur)
    assert second.margins == (2, 2, 4, 4) and second.shown_shape == (1, 24, 16)
    small = Composition(Blur((1, 30, 12), random_kernel(21, 1), "unknown"), SuperResolution((1, 10, 12), 2))
    assert small.margins == (10, 10, 0, 0)
    assert Dense.of(first).margins == first.margins


def test_sizes_for_fourier_transforms() -> None:
    assert [fast_size(n) for n in (1, 7, 11, 31, 97, 121, 211, 1021)] == [1, 8, 12, 32, 100, 125, 216, 1024]


# --- kernels by formula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5, 6.0, 7.3])
def test_defocus_weighs_pixels_by_their_share_of_the_disc(radius: float) -> None:
    kernel = kernels.defocus(radius).numpy()
    fine, size = 201, kernel.shape[0]
    place = (np.arange(size * fine) + 0.5) / fine - size / 2
    disc = (place[:, None] ** 2 + place**2 <= radius**2).reshape(size, fine, size, fine).mean((1, 3))
    np.testing.assert_allclose(kernel, disc / disc.sum(), atol=2e-3 / max(disc.sum(), 1))
    assert kernel.sum() == pytest.approx(1) and np.array_equal(kernel, kernel.T)
    assert kernel.max() * np.pi * radius**2 == pytest.approx(1, rel=1e-3) or radius < 1


def test_motion_is_a_bar_in_its_direction() -> None:
    np.testing.assert_allclose(kernels.motion(21), np.full((1, 21), 1 / 21), rtol=1e-12)
    np.testing.assert_allclose(kernels.motion(9, 90), np.full((9, 1), 1 / 9), rtol=1e-12)
    for length, angle in ((15.0, 30.0), (10.5, 120.0), (6.0, -45.0)):
        kernel = kernels.motion(length, angle)
        assert kernel.sum().item() == pytest.approx(1) and torch.equal(kernel, kernel.flip(0, 1))
        rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in kernel.shape)
        xx, yy = (kernel.sum(0) * columns**2).sum(), (kernel.sum(1) * rows**2).sum()
        xy = -(kernel * rows[:, None] * columns).sum()  # rows point down
        found = np.rad2deg(np.arctan2(2 * float(xy), float(xx - yy)) / 2)
        assert abs((found - angle + 90) % 180 - 90) < 2
        # The variance along a bar is l^2 / 12; its width and the pixels add a twelfth each, on both axes.
        assert float(xx + yy) == pytest.approx(length**2 / 12 + 3 / 12, rel=0.02)


def test_kernels_of_operators_are_those_of_the_module() -> None:
    x = normal(1, 1, 30, 30)
    for name, settings, kernel in (
        ("gaussian_blur", {"std": 1.6}, kernels.gaussian(1.6)),
        ("defocus_blur", {"radius": 2.5}, kernels.defocus(2.5)),
        ("motion_blur", {"length": 9.0, "angle": 20.0}, kernels.motion(9, 20)),
    ):
        made = operators.make(name, image_shape=(1, 30, 30), boundary="unknown", **settings)
        torch.testing.assert_close(made(x), valid(x, kernel), rtol=1e-10, atol=1e-10)
    sizes = (
        (GaussianBlurSettings(name="gaussian_blur", std=1.6), (13, 13)),
        (GaussianBlurSettings(name="gaussian_blur", std=1.6, kernel_size=5), (5, 5)),
        (DefocusBlurSettings(name="defocus_blur", radius=2.5), (5, 5)),
        (MotionBlurSettings(name="motion_blur", length=9.0), (1, 9)),
        (MotionBlurSettings(name="motion_blur", kernel_size=11), (11, 11)),
    )
    for found, expected in sizes:
        assert size_of_kernel(found) == expected


# --- kernels from files ----------------------------------------------------------------------------------------------

HOOK = np.zeros((9, 9), np.uint8)
HOOK[1, 1:6], HOOK[1:7, 5], HOOK[6, 5:8] = 200, 120, 255
HOOK[2, 2] = 30


def saved(folder: Path, pixels: Any, mode: str | None = None) -> Path:
    Image.fromarray(np.asarray(pixels), mode).save(folder / "kernel.png")
    return folder / "kernel.png"


def clean(folder: Path) -> torch.Tensor:
    found = kernels.read(saved(folder, HOOK))
    assert not [note for note in found.notes if "centre" not in note and "moves" not in note]
    return found.kernel


def same(found: kernels.KernelFile, expected: torch.Tensor, tolerance: float = 1e-9) -> bool:
    if found.kernel.shape != expected.shape:
        return False
    return bool((found.kernel / found.kernel.sum() - expected / expected.sum()).abs().max() < tolerance)


DEFECTS: dict[str, tuple[Any, str]] = {
    "pedestal": (np.pad(np.where(HOOK > 250, 253, HOOK), 14) + 2, "has a background of 0.8%"),
    "grey background": (np.pad(HOOK // 2, 14) + np.uint8(40), "has a background of 24.0%"),
    "inverted": (255 - HOOK, "black and white are exchanged"),
    "frame": (np.pad(np.pad(HOOK, 3), 2, constant_values=255), "has a frame of 2 pixels"),
    "inverted in a frame": (np.pad(255 - np.pad(HOOK, 3), 1), "has a frame of 1 pixel,"),
    "white on transparency": (np.dstack([np.full((9, 9, 3), 255, np.uint8), HOOK]), "is partly transparent"),
    "black on transparency": (np.dstack([np.zeros((9, 9, 3), np.uint8), HOOK]), "opaque ones as white"),
    "colour": (np.dstack([HOOK, HOOK, HOOK // 2]), "is in colour"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_files_of_other_people_are_mended_with_a_note(defect: str, tmp_path: Path) -> None:
    expected, (pixels, note) = clean(tmp_path), DEFECTS[defect]
    found = kernels.read(saved(tmp_path, pixels))
    assert same(found, expected, 4e-3 if defect in ("colour", "grey background") else 2e-3)
    assert sum(note in line for line in found.notes) == 1
    rest = [line for line in found.notes if note not in line and "centre" not in line and "moves" not in line]
    assert len(rest) == (defect == "inverted in a frame")  # which are two defects


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_noise_around_a_photographed_point_of_light_is_no_part_of_the_kernel(suffix: str, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for noise in (1, 3, 5):
        around = 3 * noise + noise * draws.standard_normal((200, 240))
        around[95:104, 115:124] += 230 / 255 * np.asarray(HOOK, float)
        Image.fromarray(around.clip(0, 255).round().astype(np.uint8)).save(tmp_path / f"k.{suffix}", quality=95)
        found = kernels.read(tmp_path / f"k.{suffix}", center=True)
        assert max(found.kernel.shape) <= 13
        assert sum("is subtracted" in line for line in found.notes) == 1
    around = (60 + 14 * draws.standard_normal((200, 240))).clip(0, 255).round().astype(np.uint8)
    around[100, 120] = 255
    notes = kernels.read(saved(tmp_path, around)).notes
    assert sum("of its brightest pixel all over it" in line for line in notes) == 1


def test_a_path_that_touches_the_border_is_no_noise(tmp_path: Path) -> None:
    path = np.zeros((21, 21), np.uint8)
    for place in ((0, 4), (0, 12), (20, 9), (7, 0), (13, 20), (3, 20)):
        path[place] = 100
    path[10, 5:16] = 255
    found = kernels.read(saved(tmp_path, path))
    assert np.array_equal(found.kernel, path) and not any("noise" in line or "subtr" in line for line in found.notes)


def test_sixteen_bits_keep_their_precision(tmp_path: Path) -> None:
    fine = HOOK.astype(np.uint16) * 200 + np.where(HOOK > 0, 77, 0).astype(np.uint16)
    Image.fromarray(fine).save(tmp_path / "kernel.png")
    found = kernels.read(tmp_path / "kernel.png", center=False)
    assert torch.equal(found.kernel, torch.from_numpy(fine.astype(np.float64))[1:-1, 1:-1])


@pytest.mark.parametrize(
    "kernel",
    [kernels.defocus(2.5), kernels.defocus(6), kernels.gaussian(1.6), kernels.motion(21), kernels.motion(9, 45),
     kernels.random_motion(21, 0.5, np.random.default_rng(3)), torch.ones(3, 3), torch.ones(1, 1)],
)  # fmt: skip
def test_a_sound_kernel_stays_as_it_is(kernel: torch.Tensor, tmp_path: Path) -> None:
    for pixels in (kernel, torch.nn.functional.pad(kernel, (5, 5, 5, 5))):
        grey = (255 * pixels / pixels.max()).round().byte().numpy()
        found = kernels.read(saved(tmp_path, grey))
        used = np.argwhere(grey)
        reach = np.abs(used - np.array(grey.shape) // 2).max(0)
        middle = [slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(grey.shape, reach, strict=True)]
        assert torch.equal(found.kernel, torch.from_numpy(grey.astype(np.float64))[tuple(middle)]) and not found.notes


def test_a_kernel_off_the_centre_does_not_move_the_picture_or_a_note_says_by_how_much(tmp_path: Path) -> None:
    disc = (255 * kernels.defocus(2.5) / kernels.defocus(2.5).max()).round().byte().numpy()
    off = np.pad(disc, ((2, 12), (9, 3)))
    found = kernels.read(saved(tmp_path, off))
    assert np.array_equal(found.kernel, disc)
    assert "centre of mass 5.0 pixels up and 3.0 to the right of its middle, and is moved there" in found.notes[0]
    kept = kernels.read(saved(tmp_path, off), center=False)
    assert kept.kernel.shape == (15, 11) and "moves the picture by 5.0 pixels up and 3.0 to the right" in kept.notes[0]
    even = kernels.read(saved(tmp_path, np.full((4, 4), 255, np.uint8)))
    assert even.kernel.shape == (5, 5) and "moves the picture by 0.5 pixels up and 0.5 to the left" in even.notes[0]
    odd_on_even = kernels.read(saved(tmp_path, np.pad(disc, ((3, 4), (4, 3)))))
    assert np.array_equal(odd_on_even.kernel, disc) and not odd_on_even.notes
    near = kernels.read(saved(tmp_path, np.pad(disc, ((1, 3), (2, 2)))))  # perhaps meant: said, and left alone
    assert near.kernel.shape == (7, 5)
    assert "moves the picture by 1.0 pixels up, where its centre of mass is; center: true" in near.notes[0]
    assert np.array_equal(kernels.read(saved(tmp_path, np.pad(disc, ((1, 3), (2, 2)))), center=True).kernel, disc)


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_a_file_is_turned_on_request_only(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path, HOOK)
    if suffix == "npy":
        path = tmp_path / "kernel.npy"
        np.save(path, HOOK.astype(float))
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    x[0, 0, 15, 15] = 1
    expected = scipy.ndimage.convolve(x[0, 0].numpy(), HOOK / HOOK.sum(), mode="constant")
    as_seen = operators.make("blur", image_shape=(1, 31, 31), file=str(path), center=False)(x)[0, 0]
    np.testing.assert_allclose(as_seen, expected, atol=1e-12)
    turned = operators.make("blur", image_shape=(1, 31, 31), file=str(path), center=False, flip=True)(x)[0, 0]
    np.testing.assert_allclose(turned, expected[::-1, ::-1], atol=1e-12)
    settings = BlurSettings(name="blur", file=str(path), center=False)
    assert size_of_kernel(settings) == kernels.read(path, center=False).kernel.shape


def test_files_without_a_kernel_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    for path, said in (
        (saved(tmp_path, np.zeros((5, 5), np.uint8)), "is black everywhere"),
        (tmp_path / "none.png", "cannot be read"),
        (tmp_path / "cube.npy", "expected rows and columns"),
    ):
        with pytest.raises(InputError, match=said):
            kernels.read(path)
    wide = np.zeros((1, 2100), np.uint8)
    wide[0, [0, -1]] = 255
    with pytest.raises(InputError, match="at most 2047 are allowed"):
        kernels.read(saved(tmp_path, wide))
