"""Damaged photographs as other people have them: made with NumPy, SciPy and Pillow, without an operator of the library.

Photographs are arrays ``[H, W, 3]`` of float64 on the scale of 0 to 255, noise levels are of 255.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import interpolate, ndimage, signal

RIM = 12
"""Width in pixels of the rim, which is measured apart."""
SURROUNDINGS = 24
"""Pixels on every side of a blurred picture that a picture with known surroundings has besides."""
DIM = 40
"""White of a dim picture is the range's white over this."""


@dataclass(frozen=True)
class Stranger:
    """A damaged picture and what belongs to it.

    Attributes:
        files: contents by name; the first is the picture.
        truth: the undamaged photograph, with ``scale`` taken out.
        before: the picture that a user has without a restoration, like ``truth``.
        settings: of the config, in dotted keys; ``{folder}`` stands for the folder of the files.
        scale: the restoration is multiplied by it (about black) before it is compared.
        margin: pixels that are cut off the restoration on every side.
        known: ``[H, W]``, True where the picture was not damaged; None if it was everywhere.
    """

    files: dict[str, bytes]
    truth: np.ndarray
    before: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    margin: int = 0
    known: np.ndarray | None = None


# --- photographs and files -------------------------------------------------------------------------------------------


def middle(photo: np.ndarray, side: int) -> np.ndarray:
    """Cut the middle of a photograph, ``side`` pixels square."""
    top, left = ((have - side) // 2 for have in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def inside(pixels: np.ndarray, margin: int) -> np.ndarray:
    """Cut ``margin`` pixels off every side."""
    return pixels[margin : len(pixels) - margin, margin : pixels.shape[1] - margin]


def in_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Round and clip to bytes."""
    return pixels.clip(0, 255).round().astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture in 8 bits, as ``kind`` with Pillow's options."""
    out = io.BytesIO()
    Image.fromarray(in_8_bits(pixels)).save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Decode a picture of 8 bits, ``[H, W, 3]``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def encoded_in_16_bits(pixels: np.ndarray) -> bytes:
    """Encode a picture as a PNG of 16 bits, grey if it has two dimensions; 255 becomes 65535."""
    samples = (pixels * 257).clip(0, 65535).round().astype(">u2")
    height, width, colour = *samples.shape[:2], 2 if samples.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


# --- blur ------------------------------------------------------------------------------------------------------------


def gaussian(std: float) -> np.ndarray:
    """Sample a Gaussian to 4 standard deviations."""
    place = np.arange(-math.ceil(4 * std), math.ceil(4 * std) + 1)
    row = np.exp(-(place**2) / (2 * std**2))
    return np.outer(row, row) / row.sum() ** 2


def disc(radius: float) -> np.ndarray:
    """Draw a disc, each pixel by the covered share of 16 x 16 points in it."""
    half = math.ceil(radius)
    place = (np.arange((2 * half + 1) * 16) + 0.5) / 16 - half - 0.5
    inside_ = (place[:, None] ** 2 + place**2 <= radius**2).astype(float)
    kernel = inside_.reshape(2 * half + 1, 16, 2 * half + 1, 16).mean((1, 3))
    return kernel / kernel.sum()


def streak(length: int, angle: float = 30.0, bend: float = 6.0) -> np.ndarray:
    """Draw the bent path of a shaken camera: bright at one end, so that it is not its own mirror image."""
    kernel, middle_ = np.zeros((length, length)), (length - 1) / 2
    for t in np.linspace(-1, 1, 400):
        along, across = t * (length - 3) / 2, bend * (t**2 - 0.4)
        turn = math.radians(angle)
        x = middle_ + along * math.cos(turn) - across * math.sin(turn)
        y = middle_ + along * math.sin(turn) + across * math.cos(turn)
        row, column = int(min(max(y, 0), length - 2)), int(min(max(x, 0), length - 2))
        fy, fx, weight = y - row, x - column, 1.6 + t
        kernel[row : row + 2, column : column + 2] += weight * np.outer([1 - fy, fy], [1 - fx, fx])
    kernel = kernel.clip(0)
    return kernel / kernel.sum()


KERNELS: dict[str, Callable[[], np.ndarray]] = {
    "Gaussian 1.6": lambda: gaussian(1.6),
    "defocus 2.5": lambda: disc(2.5),
    "defocus 6": lambda: disc(6),
    "motion 21": lambda: streak(21),
}


def blurred(photo: np.ndarray, kernel: np.ndarray, noise: float, side: int, draws: np.random.Generator) -> np.ndarray:
    """Blur a larger photograph by SciPy, cut out ``side`` pixels and `SURROUNDINGS` around them, add noise, in 8 bits.

    The kernel is what a point of light becomes (convolution).
    """
    reach = side + 2 * SURROUNDINGS
    larger = middle(photo, reach + len(kernel) - 1)
    light = convolved(larger, kernel)
    return in_8_bits(light + noise * draws.standard_normal(light.shape)).astype(float)


def convolved(photo: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve a photograph by SciPy, without what would need pixels beyond its border."""
    return np.stack([signal.fftconvolve(photo[..., c], kernel, "valid") for c in range(3)], -1)


def blur_of(kernel: np.ndarray) -> tuple[dict[str, bytes], dict[str, Any]]:
    """File of a kernel, and the settings that name it."""
    files = {"kernel.png": encoded_in_16_bits(255 * kernel / kernel.max())}
    return files, {"measurement.operator": {"name": "blur", "file": "{folder}/kernel.png"}}


def blurred_photograph(
    photo: np.ndarray,
    side: int,
    draws: np.random.Generator,
    kernel: np.ndarray,
    noise: float,
    tapered: bool = False,
    surroundings: bool = False,
) -> Stranger:
    """Make a blurred photograph with its kernel as an image of 16 bits.

    Args:
        photo: the larger photograph.
        side: of the cut-out.
        draws: random numbers.
        kernel: see `KERNELS`.
        noise: its standard deviation.
        tapered: the border is mixed with the picture blurred once more, for a circular blur (MATLAB's edgetaper).
        surroundings: the picture has `SURROUNDINGS` more pixels on every side.
    """
    whole = blurred(photo, kernel, noise, side, draws)
    y = inside(whole, SURROUNDINGS)
    given = whole if surroundings else edgetaper(y, kernel) if tapered else y
    files, settings = blur_of(kernel)
    if tapered:
        settings["measurement.operator"]["boundary"] = "circular"
    return Stranger(
        {"photo.png": encoded(given), **files},
        middle(photo, side),
        y,
        settings,
        margin=SURROUNDINGS if surroundings else 0,
    )


def edgetaper(y: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Mix the border with the picture blurred circularly, by weights from the kernel's autocorrelation (MATLAB)."""
    weights = []
    for axis, size in enumerate(y.shape[:2]):
        line = np.fft.fft(kernel.sum(1 - axis), size - 1)
        auto = np.fft.ifft(np.abs(line) ** 2).real
        weights.append(1 - np.append(auto, auto[0]) / auto.max())
    keep = np.outer(*weights)[..., None]
    around = np.stack([ndimage.convolve(y[..., c], kernel, mode="wrap") for c in range(3)], -1)
    return keep * y + (1 - keep) * around


# --- masks -----------------------------------------------------------------------------------------------------------


def painted_photograph(photo: np.ndarray, side: int, draws: np.random.Generator, noise: float) -> Stranger:
    """Paint white strokes over a photograph with grain; the mask is what was painted, with soft edges.

    The truth has no grain.
    """
    large = Image.new("L", (4 * side, 4 * side), 255)
    draw = ImageDraw.Draw(large)
    truth = middle(photo, side)
    seen = truth + noise * draws.standard_normal(truth.shape)
    for _ in range(9):
        ends = draws.integers(0, 4 * side, 4).tolist()
        draw.line(ends, fill=0, width=int(draws.integers(12, 33)))
    draw.ellipse([side, side, side + 80, side + 64], fill=0)
    return masked(truth, seen, large.resize((side, side), Image.Resampling.BICUBIC), soft=True)


def square_photograph(photo: np.ndarray, side: int, draws: np.random.Generator, hole: int) -> Stranger:
    """Paint a white square of ``hole`` pixels over the middle of a photograph."""
    mask = Image.new("L", (side, side), 255)
    first = (side - hole) // 2
    ImageDraw.Draw(mask).rectangle([first, first, first + hole - 1, first + hole - 1], fill=0)
    return masked(middle(photo, side), middle(photo, side), mask, soft=False)


def sparse_photograph(photo: np.ndarray, side: int, draws: np.random.Generator, missing: float) -> Stranger:
    """Paint a share ``missing`` of the pixels of a photograph white."""
    mask = Image.fromarray(np.where(draws.random((side, side)) < missing, 0, 255).astype(np.uint8))
    return masked(middle(photo, side), middle(photo, side), mask, soft=False)


def masked(truth: np.ndarray, seen: np.ndarray, mask: Image.Image, soft: bool) -> Stranger:
    """Paint what is seen white where the mask is not, in 8 bits; around ``soft`` paint another pixel is damaged."""
    share = np.asarray(mask, float)[..., None] / 255
    y = in_8_bits(share * in_8_bits(seen) + (1 - share) * 255).astype(float)
    out = io.BytesIO()
    mask.save(out, "PNG")
    settings = {"measurement.operator": {"name": "inpainting", "mask": "file", "file": "{folder}/mask.png"}}
    known = ndimage.minimum_filter(np.asarray(mask), 3 if soft else 1) == 255
    return Stranger({"photo.png": encoded(y), "mask.png": out.getvalue()}, truth, y, settings, known=known)


def interpolated(one: Stranger) -> np.ndarray:
    """Fill in what is damaged by SciPy: linear between known pixels (Delaunay), the nearest of them at the border."""
    assert one.known is not None
    places, holes = np.argwhere(one.known), np.argwhere(~one.known)
    x = one.before.copy()
    values = interpolate.LinearNDInterpolator(places, one.before[one.known])(holes)
    nearest = interpolate.NearestNDInterpolator(places, one.before[one.known])(holes)
    x[~one.known] = np.where(np.isnan(values), nearest, values).round()
    return x


# --- noise -----------------------------------------------------------------------------------------------------------


def noisy_photograph(photo: np.ndarray, side: int, draws: np.random.Generator, noise: float, kind: str) -> Stranger:
    """Make a noisy photograph.

    Args:
        photo: the photograph.
        side: of the cut-out.
        draws: random numbers.
        noise: standard deviation of the white noise, before what ``kind`` says happens to it.
        kind: "white", "jpeg QUALITY [4:4:4|4:2:2|4:2:0]", "webp QUALITY", "resized", "demosaicked", "grey", "16 bits",
            or "dim" (16 bits, white at 1 / `DIM` of the range).
    """
    name, *words = kind.split()
    truth = middle(photo, side)
    n = noise * draws.standard_normal(truth.shape)
    if name in ("16", "dim"):
        scale = DIM if name == "dim" else 1
        y = (truth + n) / scale
        return Stranger({"photo.png": encoded_in_16_bits(y)}, truth, (y * scale).clip(0), scale=scale)
    if name == "grey":
        truth = in_8_bits(truth @ [0.299, 0.587, 0.114]).astype(float)
        y = truth + n[..., 0]
        shown = in_8_bits(y).astype(float)
        files = {"photo.png": encoded(y)}
        return Stranger(files, np.repeat(truth[..., None], 3, 2), np.repeat(shown[..., None], 3, 2))
    y = truth + n
    if name == "resized":
        larger = middle(photo, round(side / 0.7))
        y = larger + noise * draws.standard_normal(larger.shape)
        truth, y = (np.asarray(Image.fromarray(in_8_bits(v)).resize((side, side), Image.Resampling.BICUBIC), float)
                    for v in (larger, y))  # fmt: skip
    if name == "demosaicked":
        y = demosaicked(y)
    if name == "jpeg":
        data = encoded(y, "JPEG", quality=int(words[0]), subsampling=words[1] if words[1:] else "4:2:0")
        return Stranger({"photo.jpg": data}, truth, decoded(data))
    if name == "webp":
        data = encoded(y, "WEBP", quality=int(words[0]))
        return Stranger({"photo.webp": data}, truth, decoded(data))
    return Stranger({"photo.png": encoded(y)}, truth, in_8_bits(y).astype(float))


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """Shares ``[H, W, 3]`` of the colours in the pixels of a Bayer sensor: red and green above green and blue."""
    seen = np.zeros(pixels.shape)
    seen[::2, ::2, 0] = seen[::2, 1::2, 1] = seen[1::2, ::2, 1] = seen[1::2, 1::2, 2] = 1
    return seen


def demosaicked(pixels: np.ndarray) -> np.ndarray:
    """Keep what a Bayer sensor sees of a picture, and interpolate the rest linearly."""
    seen, cross = mosaic(pixels), np.outer([1, 2, 1], [1, 2, 1]) / 4
    sums, counts = (
        np.stack([ndimage.convolve(v[..., c], cross, mode="mirror") for c in range(3)], -1)
        for v in (seen * pixels, seen)
    )
    return np.where(seen > 0, pixels, sums / counts)


def camera_photograph(
    photo: np.ndarray, side: int, draws: np.random.Generator, photons: float, read: float, quality: int
) -> Stranger:
    """Photograph a picture: linear light, photons and read noise behind a Bayer filter, demosaicking, gamma, JPEG.

    Args:
        photo: the photograph.
        side: of the cut-out.
        draws: random numbers.
        photons: at white.
        read: standard deviation of the read noise, in photons.
        quality: of the JPEG file.
    """
    truth = middle(photo, side)
    light = (truth / 255) ** 2.2 * photons
    raw = (draws.poisson(light) + read * draws.standard_normal(light.shape)) / photons
    y = 255 * demosaicked(raw).clip(0, 1) ** (1 / 2.2)
    data = encoded(y, "JPEG", quality=quality)
    return Stranger({"photo.jpg": data}, truth, decoded(data))


def photon_photograph(
    photo: np.ndarray, side: int, draws: np.random.Generator, peak: float, kernel: np.ndarray | None = None
) -> Stranger:
    """Count photons, ``peak`` of them at white, in a file of 16 bits that is clipped at white; blurred by a kernel."""
    truth = middle(photo, side)
    light = truth if kernel is None else convolved(middle(photo, side + len(kernel) - 1), kernel).clip(0)
    files, settings = ({}, {}) if kernel is None else blur_of(kernel)
    y = (draws.poisson(light / 255 * peak) / peak * 255).clip(0, 255)
    return Stranger({"photo.png": encoded_in_16_bits(y), **files}, truth, y, settings)


# --- enlargement -----------------------------------------------------------------------------------------------------


def small_photograph(photo: np.ndarray, side: int, draws: np.random.Generator, factor: int, how: str) -> Stranger:
    """Shrink a photograph by Pillow, or by keeping a pixel of each square; enlarged by Pillow's bicubic before.

    Args:
        photo: the photograph.
        side: of the cut-out, a multiple of the factor.
        draws: not used: nothing is random.
        factor: divides the sides.
        how: bicubic, box, nearest, or strided, which keeps the first pixel of each square.
    """
    truth = middle(photo, side)
    image = Image.fromarray(in_8_bits(truth))
    if how == "strided":
        small = Image.fromarray(np.ascontiguousarray(in_8_bits(truth)[::factor, ::factor]))
    else:
        small = image.resize((side // factor, side // factor), Image.Resampling[how.upper()])
    before = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float)
    settings = {"measurement.operator": {"name": "super_resolution", "factor": factor, "downsampling": how}}
    return Stranger({"photo.png": encoded(np.asarray(small, float))}, truth, before, settings)
