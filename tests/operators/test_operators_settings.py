"""What each operator's settings do: masks, kernels, selections; and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operator_cases import dense, normal, random_kernel
from PIL import Image
from torch import Tensor

from randomwalk import InputError, operators
from randomwalk.config.operators import Boundary
from randomwalk.operators import Measurement
from randomwalk.operators.blur import Blur
from randomwalk.operators.fourier import line_mask
from randomwalk.operators.inpainting import box_mask, random_mask
from randomwalk.operators.kernels import gaussian_profile, random_motion
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import generator


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_super_resolution_keeps_a_constant(factor: int) -> None:
    operator = operators.SuperResolution((1, 3 * factor, factor), factor)
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
    with pytest.raises(InputError, match=r"mask\.png has 6x8 pixels, but the image has 8x8"):
        operators.make("inpainting", image_shape=(3, 8, 8), **settings)
    (tmp_path / "mask.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"mask\.png does not decode"):
        operators.make("inpainting", image_shape=(3, 6, 8), **settings)


def test_holes_are_filled_in_smoothly() -> None:
    """A ramp solves Laplace's equation; in a large hole of another picture the answer is near the exact one."""
    known = torch.ones(1, 1, 40, 50)
    known[..., 8:25, 12:30] = 0
    known[..., 30:33, 20:45] = 0
    ramp = torch.linspace(-1, 1, 50).expand(1, 2, 40, 50) + torch.linspace(0, 1, 40)[:, None]
    made = operators.Inpainting((2, 40, 50), known).interpolated(ramp * known)
    assert torch.equal(made * known, ramp * known)
    assert (made - ramp).abs().max() < 0.1 * (17 * 1 / 39 + 18 * 2 / 49)  # of what the ramp rises in the first hole
    assert torch.equal(operators.Inpainting((2, 40, 50), torch.ones(40, 50)).interpolated(ramp), ramp)


# --- blurs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "zero", "circular"])
@pytest.mark.parametrize("taps", [(3, 5), (4, 2), (11, 17)])
def test_blur_is_a_convolution_of_a_continued_image(boundary: Boundary, taps: tuple[int, int]) -> None:
    kernel, x = random_kernel(*taps), normal(2, 3, 8, 9)
    rows, columns = ((n - 1 - n // 2, n // 2) for n in taps)
    modes: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "zero": "constant", "circular": "wrap"}
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), rows, columns), modes[boundary]))
    weight = kernel.flip(0, 1).expand(3, 1, *taps)  # conv2d correlates
    expected = torch.nn.functional.conv2d(padded, weight, groups=3)
    operator = operators.blur_with_kernel((3, 8, 9), kernel, boundary)
    torch.testing.assert_close(operator(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "intensity"), [(61, 0.5), (61, 1.0), (9, 1.0), (15, 0.0), (1, 0.5)])
def test_motion_kernels(size: int, intensity: float) -> None:
    place = torch.arange(size, dtype=torch.float64) - size // 2
    for seed in range(30):
        kernel = random_motion(size, intensity, generator(seed))
        assert kernel.shape == (size, size) and (kernel >= 0).all()
        assert kernel.sum().item() == pytest.approx(1)
        mean = torch.stack([(kernel.sum(1) * place).sum(), (kernel.sum(0) * place).sum()])
        assert mean.abs().max() < 1e-9  # the blur does not shift the image
        # The spread of a path of length l is at most that of a straight one, l^2 / 12; pixels add 1/4 on each axis.
        spread = (kernel.sum(1) * place**2).sum() + (kernel.sum(0) * place**2).sum()
        assert spread <= (size - 1) ** 2 / 12 + 0.5 + 1e-9
        if intensity == 0:  # ... and no straight one is shorter than half the kernel
            assert spread >= ((size - 1) / 2) ** 2 / 12 - 1e-9


def test_motion_kernels_are_as_curved_as_intensity_says() -> None:
    place = torch.arange(41, dtype=torch.float64) - 20

    def straightness(intensity: float) -> float:
        shares = []
        for seed in range(40):
            kernel = random_motion(41, intensity, generator(seed))
            cross = (kernel * place[:, None] * place).sum()
            rows, columns = (kernel.sum(1) * place**2).sum(), (kernel.sum(0) * place**2).sum()
            low, high = torch.linalg.eigvalsh(torch.stack([rows, cross, cross, columns]).reshape(2, 2))
            shares.append(float(low / high))
        return float(np.median(shares))

    assert 3 * straightness(0.0) < straightness(0.3) < straightness(1.0) / 3


def test_blur_from_a_file(tmp_path: Path) -> None:
    kernel = random_kernel(5, 3)
    np.save(tmp_path / "kernel.npy", kernel.numpy())
    operator = operators.make("blur", image_shape=(1, 8, 8), file=tmp_path / "kernel.npy")
    expected = operators.Blur((1, 8, 8), kernel / kernel.sum(), "reflect")
    x = normal(1, 1, 8, 8)
    torch.testing.assert_close(operator(x), expected(x), rtol=1e-12, atol=1e-12)
    grey = np.array([[0, 51, 255], [102, 0, 0], [0, 0, 153]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "kernel.png")
    operator = operators.make("blur", image_shape=(1, 8, 8), file=tmp_path / "kernel.png", center=False)
    assert torch.equal(operator.get_buffer("kernel")[0, 0], torch.from_numpy(grey.astype(float)) / grey.sum())
    (tmp_path / "kernel.png").write_bytes(b"not an image")
    np.save(tmp_path / "kernel.npy", np.ones(3))
    np.save(tmp_path / "zero.npy", np.array([[1.0, -1.0]]))
    with pytest.raises(InputError, match="sums to 0; use normalize: false"):
        operators.make("blur", image_shape=(1, 8, 8), file=tmp_path / "zero.npy")
    for file, said in (
        ("kernel.png", "does not decode"),
        ("kernel.npy", "expected rows and columns"),
        ("no", "cannot"),
    ):
        with pytest.raises(InputError, match=said):
            operators.make("blur", image_shape=(1, 8, 8), file=tmp_path / file)


def test_a_product_kernel_has_closed_forms_at_any_boundary() -> None:
    product = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([3.0, 1]))
    cases: tuple[tuple[Tensor, Boundary, bool], ...] = (
        (product, "reflect", True),
        (random_kernel(3, 3), "reflect", False),
        (random_kernel(3, 3), "circular", True),
    )
    for kernel, boundary, closed in cases:
        operator = operators.blur_with_kernel((1, 6, 6), kernel, boundary)
        assert operator.has_spectral == closed


# --- sensing and Fourier space ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", ["hartley", "dense"])
def test_compressed_sensing_has_random_orthonormal_rows(matrix: str) -> None:
    settings: dict[str, Any] = {"ratio": 0.3, "matrix": matrix}
    rows = []
    for seed in range(400):
        operator = operators.make("compressed_sensing", image_shape=(1, 2, 5), generators=[generator(seed)], **settings)
        a = dense(operator)
        torch.testing.assert_close(a @ a.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
        rows.append(a)
    # Every direction is seen equally: E[A^T A] = (m / d) I, entries with standard errors below sqrt(m / d / 400).
    mean = torch.stack([a.T @ a for a in rows]).mean(0)
    assert (mean - 0.3 * torch.eye(10, dtype=torch.float64)).abs().max() < 5 * (0.3 / 400) ** 0.5
    assert torch.stack(rows).mean(0).abs().max() < 5 * (0.1 / 400) ** 0.5  # entries have the mean square 1 / d


def test_compressed_sensing_at_the_size_of_photographs() -> None:
    operator = operators.make("compressed_sensing", image_shape=(3, 256, 256), ratio=0.1)
    assert operator.measurement_shape == (19661,)
    y = normal(1, 19661).float()
    torch.testing.assert_close(operator(operator.adjoint(y)), y, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="196608 entries is too large"):
        operators.make("compressed_sensing", image_shape=(3, 256, 256), matrix="dense")


@pytest.mark.parametrize(("width", "acceleration", "center"), [(64, 4.0, 0.08), (33, 3.0, 0.1), (8, 1.0, 0.0)])
def test_line_masks(width: int, acceleration: float, center: float) -> None:
    masks = torch.stack([line_mask(width, acceleration, center, generator(seed)) for seed in range(500)])
    assert (masks.sum(1) == round(width / acceleration)).all()
    middle = width // 2  # where fftshift puts the zero frequency
    assert (masks[:, middle] == 1).all()
    often = masks.mean(0)
    if acceleration > 1:
        near, far = often[middle + 4 : middle + 9].mean(), often[-5:].mean()
        assert near > 2 * far > 0


def test_fourier_subsampling_sees_frequencies() -> None:
    only_zero = torch.zeros(8)
    only_zero[4] = 1
    operator = operators.FourierSubsampling((1, 6, 8), only_zero)
    x = normal(2, 1, 6, 8)
    y = operator(x)
    torch.testing.assert_close(y[:, 0, 3, 4], x.sum((1, 2, 3)) / 48**0.5)  # real part of the zero frequency
    assert (y[:, 1, 3, 4].abs() < 1e-12).all() and (y[..., :4] == 0).all() and (y[..., 5:] == 0).all()
    torch.testing.assert_close(operator.pinv(y), x.mean(3, keepdim=True).expand_as(x))
    exact = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"))
    every = operators.FourierSubsampling((1, 6, 8), torch.ones(8))(x)
    torch.testing.assert_close(torch.complex(*every.chunk(2, 1)), torch.fft.fftshift(exact, dim=(0, 1)))
    for bad, said in ((torch.ones(7), "shape"), (torch.zeros(8), "at least one 1"), (torch.full((8,), 0.5), "only 0")):
        with pytest.raises(InputError, match=said):
            operators.FourierSubsampling((1, 6, 8), bad)


def test_phase_retrieval_is_blind_to_what_it_says_and_differentiable_at_zero() -> None:
    operator = operators.make("phase_retrieval", image_shape=(1, 8, 6), oversample=4.0)
    x = normal(1, 1, 8, 6)
    for same in (-x, x.flip(-1, -2)):
        torch.testing.assert_close(operator(same), operator(x), rtol=1e-12, atol=1e-12)
    assert operator(x).square().sum().item() == pytest.approx(x.square().sum().item())
    zero = torch.zeros(1, 1, 8, 6, dtype=torch.float64)
    score = Measurement(operator, GaussianNoise(0.1), operator(x)).score(zero)
    assert torch.equal(score, torch.zeros_like(score))


# --- clipping and compression ----------------------------------------------------------------------------------------


def test_hdr_clips() -> None:
    operator = operators.make("hdr", image_shape=(1, 1, 4))
    x = torch.tensor([[[[-0.9, -0.2, 0.3, 0.8]]]])
    torch.testing.assert_close(operator(x), torch.tensor([[[[-1.0, -0.4, 0.6, 1.0]]]]))
    score = Measurement(operator, GaussianNoise(1.0), torch.zeros(1, 1, 1, 4)).score(x)
    torch.testing.assert_close(score, torch.tensor([[[[0.0, 0.8, -1.2, 0.0]]]]))


def photograph(channels: int) -> np.ndarray:
    """Bytes of a smooth coloured image with an edge, 40 x 50."""
    rows, columns = np.mgrid[0:40, 0:50]
    waves = [np.sin(rows / (5 + c) + c) * np.cos(columns / (7 - c)) + (columns > 23) * 0.5 for c in range(3)]
    pixels = np.clip(110 + 70 * np.stack(waves, -1), 0, 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize(("channels", "subsampling"), [(1, "4:4:4"), (3, "4:4:4"), (3, "4:2:0")])
def test_jpeg_is_what_a_codec_makes(channels: int, subsampling: str, quality: int) -> None:
    pixels = photograph(channels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    theirs = np.asarray(Image.open(buffer)).astype(float)
    x = torch.from_numpy(pixels / 127.5 - 1).reshape(1, 40, 50, channels).permute(0, 3, 1, 2)
    operator = operators.make("jpeg", image_shape=(channels, 40, 50), quality=quality, subsampling=subsampling)
    ours = ((operator(x) + 1) * 127.5).permute(0, 2, 3, 1).reshape(theirs.shape).numpy()
    # Codecs work with bytes: colours and pixels are rounded, each by half a level, and once in a while a coefficient.
    error, loss = np.abs(ours - theirs).mean(), np.abs(theirs - pixels).mean()
    assert error < 1.3
    if quality <= 30:
        assert loss > 3 * error


def test_jpeg_has_the_derivative_of_a_codec_that_does_not_round() -> None:
    operator = operators.make("jpeg", image_shape=(3, 16, 8), quality=5, subsampling="4:4:4")
    x, v = (normal(1, 3, 16, 8) / 2).requires_grad_(), normal(1, 3, 16, 8, seed=1)
    gradient = torch.autograd.grad((operator(x) * v).sum(), x)[0]
    torch.testing.assert_close(gradient, v, rtol=1e-9, atol=1e-9)  # without chroma subsampling that is the identity
    assert (operator(x) - x).abs().max() > 0.1


# --- composition -----------------------------------------------------------------------------------------------------


def test_composition() -> None:
    settings: dict[str, Any] = {
        "first": {"name": "gaussian_blur", "std": 1.0},
        "second": {"name": "super_resolution", "factor": 2},
    }
    operator = operators.make("composition", image_shape=(3, 8, 6), **settings)
    x = normal(2, 3, 8, 6)
    blur, smaller = (operators.make(**part, image_shape=(3, 8, 6)) for part in settings.values())
    assert torch.equal(operator(x), smaller(blur(x))) and operator.measurement_shape == (3, 4, 3)
    with pytest.raises(InputError, match=r"gives \(3, 4, 3\), but the second, GaussianBlur, takes images of shape"):
        operators.Composition(smaller, blur)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("blurring", {}, "unknown; expected one of denoising, inpainting, super_resolution, gaussian_blur"),
        ("super_resolution", {"scale": 4}, "scale: unknown key; .*known with name: super_resolution: name, factor"),
        ("denoising", {"factor": 4}, "factor: unknown key; it is for name: super_resolution|factor: unknown key"),
        ("super_resolution", {"factor": 5}, "factor 5 does not divide the image size 8x8"),
        ("super_resolution", {"factor": 0}, "factor: found 0; allowed: a whole number of at least 2"),
        ("inpainting", {"missing": 1.0}, "missing: found 1.0; allowed: a number of at least 0 and below 1"),
        ("inpainting", {"mask": "circle"}, "allowed: one of random, box, file, beside"),
        ("inpainting", {"mask": "box", "box_size": 7, "margin": 1}, "does not fit 8x8"),
        ("inpainting", {"mask": "box"}, "box_size: missing; mask: box needs the side"),
        ("inpainting", {"mask": "file"}, "file: missing; mask: file needs the path"),
        ("inpainting", {"grow": 1}, "grow: is for painted masks"),
        ("inpainting", {"invert": True}, "invert: is for painted masks"),
        ("gaussian_blur", {"std": 0.0}, "std: found 0.0; allowed: a number above 0"),
        ("gaussian_blur", {"kernel_size": 4}, "kernel_size: found 4; allowed: an odd number"),
        ("gaussian_blur", {"boundary": "mirror"}, "allowed: one of reflect, replicate, zero, circular"),
        ("motion_blur", {"kernel_size": 4}, "kernel_size: found 4; allowed: an odd number"),
        ("motion_blur", {"intensity": 1.5}, "intensity: found 1.5; allowed: a number of at least 0 and at most 1"),
        ("motion_blur", {"boundary": "mirror"}, "allowed: one of reflect"),
        ("blur", {}, "file: missing"),
        ("compressed_sensing", {"ratio": 0.0}, "ratio: found 0.0"),
        ("compressed_sensing", {"matrix": "gaussian"}, "allowed: one of hartley, dense"),
        ("fourier_subsampling", {"acceleration": 9.0}, "expected a number from 1 to 8"),
        ("fourier_subsampling", {"center_fraction": 0.6}, "is 5 of 8 columns, but acceleration 4.0 leaves 2"),
        ("phase_retrieval", {"oversample": -1.0}, "oversample: found -1.0"),
        ("hdr", {"factor": 0.0}, "factor: found 0.0; allowed: a number above 0"),
        ("jpeg", {"quality": 0}, "quality: found 0; allowed: a whole number of at least 1 and at most 100"),
        ("jpeg", {"subsampling": "4:2:2"}, "allowed: one of 4:2:0, 4:4:4"),
        (
            "composition",
            {"first": {"name": "compressed_sensing"}, "second": {"name": "denoising"}},
            r"gives measurements of shape \(48,\), which are not images",
        ),
        (
            "composition",
            {"first": {"name": "colorization"}, "second": {"name": "colorization"}},
            "the images have 1 channels; expected 3",
        ),
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


def test_lines_are_drawn_by_the_square_of_their_nearness_to_the_middle() -> None:
    """One line beside the middle one, of width 8: with probability proportional to ``(1 - |k - 4| / 4.5)^2``."""
    draws, count = generator(1), 4000
    drawn = sum(line_mask(8, 4.0, 0.0, draws) for _ in range(count))
    weights = (1 - (torch.arange(8) - 4).abs() / 4.5) ** 2
    weights[4] = 0
    assert drawn[4] == count  # type: ignore[index]
    expected = count * weights / weights.sum()
    others = expected > 0
    chi_squared = ((drawn - expected) ** 2 / expected)[others].sum()
    assert chi_squared < 22.5  # 6 degrees of freedom: P = 0.001


def test_a_mask_from_a_file_is_known_where_it_is_white(tmp_path: Path) -> None:
    pixels = np.array([[0, 254, 254, 255]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    operator = operators.make("inpainting", image_shape=(1, 1, 4), mask="file", file=str(tmp_path / "mask.png"), grow=0)
    assert operator(torch.ones(1, 1, 1, 4)).flatten().tolist() == [0, 0, 0, 1]


def test_a_gaussian_kernel_is_a_gaussian_out_to_four_standard_deviations() -> None:
    for std, radius in ((1.0, 4), (0.6, 2), (2.2, 9)):
        place = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weight = torch.exp(-(place**2) / (2 * std**2))
        torch.testing.assert_close(gaussian_profile(std, None), weight / weight.sum())
    assert len(gaussian_profile(2.2, 5)) == 5


def test_a_weak_frequency_of_a_circular_blur_is_inverted() -> None:
    """A thousandth of the strongest is; a ten-thousandth and less is not."""
    for weakest, kept in ((1e-3, 1.0), (2e-5, 0.0)):
        kernel = torch.tensor([[0.5 + weakest / 2, 0.5 - weakest / 2]], dtype=torch.float64)
        blur = Blur((1, 1, 4), kernel, "circular")
        fine = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).reshape(1, 1, 1, 4)
        torch.testing.assert_close(blur.pinv(blur(fine)), kept * fine, rtol=0, atol=1e-9)
