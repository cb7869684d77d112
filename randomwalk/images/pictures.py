"""Picture files as people have them, in and out: turned upright, at full precision, with what belongs to them.

A `Picture` keeps what a result is written with again: transparency, grey or colour, 8 or 16 bits, the colour profile.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images import png16
from randomwalk.images.tensors import LUMA

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")
ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
BROKEN = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What the decoders raise when a file is damaged."""


@dataclass(frozen=True)
class Header:
    """What the beginning of a file says: height and width (upright) and whether the picture is grey."""

    height: int
    width: int
    grey: bool


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: ``[H, W, C]``, uint8 or uint16, C = 1 if it is grey and else 3; upright.
        alpha: ``[H, W]``, of the same type, the largest value for opaque; None without transparency.
        profile: the ICC profile that the colours refer to, if the file has one.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None

    @property
    def grey(self) -> bool:
        """Whether it has brightness alone."""
        return self.pixels.shape[2] == 1

    @property
    def white(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def colourless(self) -> bool:
        """Whether all is grey, in a file with colours too: lossy formats make channels differ by one of 255."""
        return self.grey or int(np.ptp(self.pixels, axis=2).max()) <= self.white // 255

    def tensor(self, channels: int) -> Tensor:
        """float32 ``[channels, H, W]`` in [-1, 1] at full precision, what lies under transparent pixels included.

        Grey becomes equal channels; colours become their luma ``0.299 red + 0.587 green + 0.114 blue``.
        """
        x = torch.from_numpy(self.pixels.astype(np.float32)).permute(2, 0, 1) / (self.white / 2) - 1
        if channels == 1 and not self.grey:
            x = torch.einsum("c,chw->hw", torch.tensor(LUMA), x)[None]
        return x.expand(channels, -1, -1).contiguous()

    def on_white(self, channels: int) -> np.ndarray:
        """uint8 ``[H, W, channels]`` as a viewer shows it: 16 bits cut to 8, transparency over white."""
        pixels, alpha = _upper_byte(self.pixels), self.alpha
        if alpha is None and pixels.shape[2] == channels:
            return pixels
        image = Image.fromarray(pixels[..., 0] if self.grey else pixels)
        if alpha is not None:
            image = image.convert("RGB")
            image.putalpha(Image.fromarray(_upper_byte(alpha)))
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return array[..., None] if channels == 1 else array


def read(data: bytes, name: str) -> Picture:
    """The picture in a file; of an animation its first frame.

    It is turned as its EXIF data say. CMYK becomes sRGB by the profile in the file, or by the plain formula without
    one; palettes become colours, and 1-bit pictures grey. PNG files of 16 bits keep them, and so do grey ones
    of other formats.

    Args:
        data: of the file.
        name: what to call it in messages.

    Raises:
        InputError: it is damaged, or no picture, or its numbers are beyond 16 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turn = _orientation(image)
            profile = image.info.get("icc_profile") or None
            if png16.is_png16(data):
                array = _with_key_as_alpha(png16.decode(data), image.info.get("transparency"))
            else:
                image.load()
                array = _to_array(image, profile)
            if image.mode in ("CMYK", "LAB"):
                profile = None
    except BROKEN as error:
        raise InputError(f"{name} does not decode as an image ({error})") from error
    array = _turned(array, turn)
    has_alpha = array.shape[2] in (2, 4)
    pixels = array[..., : array.shape[2] - has_alpha]
    return Picture(np.ascontiguousarray(pixels), array[..., -1] if has_alpha else None, profile)


def read_header(file: IO[bytes], name: str) -> Header:
    """Size and kind of the picture that `read` gives, without decoding it.

    Raises:
        InputError: it is no picture.
    """
    try:
        beginning = file.read(26)
        file.seek(0)
        with Image.open(file) as image:
            width, height = image.size if _orientation(image) < 5 else reversed(image.size)
            grey = png16.is_grey(beginning) if png16.is_png16(beginning) else image.mode in GREY_MODES
            return Header(height, width, grey)
    except BROKEN as error:
        raise InputError(f"{name} does not decode as an image ({error})") from error


def encode(x: Tensor, like: Picture, coloured: bool = False) -> bytes:
    """A PNG file of an image that was made from the picture ``like``, with all that belongs to that.

    Grey stays grey (the channels are averaged) unless it has been coloured, and 16 bits stay 16; transparency and
    profile are written back. If x has another size, transparency is cut at the right and the bottom or, where x is
    larger, scaled.

    Args:
        x: ``[C, H, W]`` in [-1, 1]; clipped and rounded, never stretched. With C = 1 it is grey in any case.
        like: where bits, transparency, kind and profile come from.
        coloured: whether x has colours although ``like`` has none.
    """
    grey = (like.grey and not coloured) or x.shape[0] == 1
    x = x.detach().float().cpu().mean(0, keepdim=True) if grey else x.detach().float().cpu()
    x = x.double() if like.pixels.dtype == np.uint16 else x  # single precision is off by some of 65535
    values = ((x.clamp(-1, 1) + 1) * (like.white / 2)).round().numpy()
    array = values.transpose(1, 2, 0).astype(like.pixels.dtype)
    if like.alpha is not None:
        array = np.concatenate([array, _alpha_of_size(like.alpha, *array.shape[:2])[..., None]], axis=2)
    profile = like.profile if grey == like.grey else None
    if array.dtype == np.uint16:
        return png16.encode(array, profile)
    out = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(out, "PNG", icc_profile=profile)
    return out.getvalue()


# --- decoding ------------------------------------------------------------------------------------------------


def _to_array(image: Image.Image, profile: bytes | None) -> np.ndarray:
    """``[H, W, C]``, alpha last: uint16 where Pillow has more than 8 bits, else uint8."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("its pixels are numbers outside 0 to 65535; save it with 8 or 16 bits")
        return array.astype(np.uint16)[..., None]
    if image.mode in ("CMYK", "LAB"):
        image = _to_srgb(image, profile)
    see_through = image.getbands()[-1] in ("A", "a") or "transparency" in image.info
    mode = ("LA" if see_through else "L") if image.mode in GREY_MODES else ("RGBA" if see_through else "RGB")
    array = np.asarray(image.convert(mode))
    return array[..., None] if array.ndim == 2 else array


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is not None:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    elif image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its colour profile is not one of {image.mode}: {error}") from error
    assert converted is not None
    return converted


def _with_key_as_alpha(array: np.ndarray, key: object) -> np.ndarray:
    """With an alpha channel that is 0 where the pixel has the one colour that the file declares transparent."""
    if key is None or array.shape[2] in (2, 4):
        return array
    opaque = (array != np.array(key)).any(axis=2, keepdims=True)
    return np.concatenate([array, opaque.astype(np.uint16) * 65535], axis=2)


def _orientation(image: Image.Image) -> int:
    """How the picture must be turned, from 1 (not at all) to 8, by the EXIF data before the pixels."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # That of the base class: PngImageFile's would decode the picture to look behind the pixels too.
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error, OSError, EOFError, KeyError):
        return 1  # the picture itself may be sound
    return found if found in range(1, 9) else 1


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """``[H, W, C]`` upright, by the table of EXIF."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _upper_byte(array: np.ndarray) -> np.ndarray:
    return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array


def _alpha_of_size(alpha: np.ndarray, height: int, width: int) -> np.ndarray:
    if height <= alpha.shape[0] and width <= alpha.shape[1]:
        return alpha[:height, :width]
    scaled = Image.fromarray(alpha.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled).clip(0, np.iinfo(alpha.dtype).max).round().astype(alpha.dtype)
