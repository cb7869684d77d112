"""Reading and writing picture files: upright, at full precision, with transparency, colour profile and metadata.

A `Picture` keeps the format of its file (transparency, grey or colour, 8 or 16 bits, what it says besides the pixels),
so that a result can be written in the same one.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images import kinds, metadata, png16, tiff16
from randomwalk.images.png16 import Chunk
from randomwalk.images.tensors import LUMA, strips

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")
ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation."""
BROKEN = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""Errors of the decoders for damaged files."""


@dataclass(frozen=True)
class Header:
    """Height and width (upright) of a picture, whether it is grey, and the number of pictures in its file."""

    height: int
    width: int
    grey: bool
    pages: int = 1


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: upright, ``[H, W, C]``, uint8 or uint16, with C = 1 for grey and 3 for colour.
        alpha: ``[H, W]`` of the same type, largest where opaque; None without transparency.
        profile: ICC profile of the colours, if the file has one.
        metadata: what else the file says; see `randomwalk.images.metadata`.
        jpeg: whether the file is a JPEG, which has rings around edges.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    metadata: tuple[Chunk, ...] = ()
    jpeg: bool = False

    @property
    def grey(self) -> bool:
        """Whether there is a single channel."""
        return self.pixels.shape[2] == 1

    @property
    def white(self) -> int:
        """Value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @property
    def colourless(self) -> bool:
        """Whether all pixels that are seen are grey, up to the difference of 1/255 that lossy formats make."""
        if self.grey:
            return True
        seen = self.pixels if self.alpha is None else self.pixels[self.alpha > 0]
        return int(np.ptp(seen, axis=-1).max(initial=0)) <= self.white // 255

    def continued(self) -> Picture:
        """The picture with its visible part reflected into the part that is wholly transparent.

        What is hidden there, often black, would otherwise enter the visible pixels beside it.
        """
        if self.alpha is None or self.alpha.all() or not self.alpha.any():
            return self
        visible = self.alpha > 0
        nearest = distance_transform_edt(~visible, return_distances=False, return_indices=True)
        limits = np.array(visible.shape)[:, None, None] - 1
        beyond = (2 * nearest - np.indices(visible.shape, nearest.dtype)).clip(0, limits)
        rows, columns = np.where(visible[tuple(beyond)], beyond, nearest)
        return replace(self, pixels=self.pixels[rows, columns])

    def tensor(self, channels: int) -> Tensor:
        """Pixels as float32 ``[channels, H, W]`` in [-1, 1] at full precision, including transparent ones.

        Grey becomes equal channels; colours become their luma ``0.299 red + 0.587 green + 0.114 blue``.
        """
        height, width, own = self.pixels.shape
        out = torch.empty((channels, height, width))
        for rows in strips(height, own * width):
            x = torch.from_numpy(self.pixels[rows].astype(np.float32)).permute(2, 0, 1) / (self.white / 2) - 1
            if channels == 1 and not self.grey:
                x = torch.einsum("c,chw->hw", torch.tensor(LUMA), x)[None]
            out[:, rows] = x
        return out

    def on_white(self, channels: int) -> np.ndarray:
        """Pixels as uint8 ``[H, W, channels]``, as a viewer shows them: 16 bits cut to 8, transparency over white."""
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


def read(data: bytes, name: str, page: int = 0) -> Picture:
    """Decode a picture file.

    The picture is turned upright by its EXIF data. CMYK becomes sRGB by the file's profile, or by the plain formula if
    there is none; palettes become colours, and 1-bit pictures grey. PNG and TIFF files of 16 bits keep their precision;
    floating-point numbers from 0 to 1 become 16 bits.

    Args:
        data: bytes of the file.
        name: name of the file in messages.
        page: which of the pictures in it, counted from 0; see `Header`.

    Raises:
        InputError: it is damaged, not a picture, has fewer pages, or its values do not fit into 16 bits.
    """
    try:
        with kinds.open_picture(io.BytesIO(data), name) as image:
            _go_to(image, page)
            turn = _orientation(image)
            turned = (tiff16.orientation(image) if image.format == "TIFF" else turn) >= 5
            profile = image.info.get("icc_profile") or None
            if png16.is_png16(data) and page == 0:
                array = png16.decode(data)
                key = image.info.get("transparency")  # the one colour that the file declares transparent
                if key is not None and array.shape[2] in (1, 3):
                    opaque = (array != np.array(key)).any(axis=2, keepdims=True)
                    array = np.concatenate([array, opaque.astype(np.uint16) * 65535], axis=2)
            elif tiff16.is_tiff16(image):
                array, turn = tiff16.decode(data, image), tiff16.orientation(image)
            elif tiff16.is_float_colour(image):
                array, turn = tiff16.in_16_bits(tiff16.decode(data, image)), tiff16.orientation(image)
            elif image.format == "PPM" and data[:2] == b"P6" and (white := _white_of_ppm(image)) > 255:
                array = _ppm16(data, image, white)
            else:
                image.load()
                array = _to_array(image, profile)
            if image.mode in ("CMYK", "LAB"):
                profile = None
            about, jpeg = metadata.chunks_of(image, data, page, turned), image.format in ("JPEG", "MPO")
    except BROKEN as error:
        raise InputError(f"{name} does not decode as an image ({error})") from error
    if turn >= 5:
        array = array.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    has_alpha = array.shape[2] in (2, 4)
    pixels = array[..., : array.shape[2] - has_alpha]
    return Picture(np.ascontiguousarray(pixels), array[..., -1] if has_alpha else None, profile, about, jpeg)


def read_header(file: IO[bytes], name: str, page: int = 0) -> Header:
    """Size and kind of the picture that `read` would return, without decoding it.

    Raises:
        InputError: it is not a picture, or has fewer pages.
    """
    try:
        beginning = file.read(26)
        file.seek(0)
        with kinds.open_picture(file, name) as image:
            _go_to(image, page)
            width, height = image.size if _orientation(image) < 5 else reversed(image.size)
            grey = png16.is_grey(beginning) if png16.is_png16(beginning) else image.mode in GREY_MODES
            try:
                pages = _num_pages(image)
            except Exception:  # of damaged pages further on, besides those of the first
                pages = 1
            return Header(height, width, grey, pages)
    except BROKEN as error:
        raise InputError(f"{name} does not decode as an image ({error})") from error


def _num_pages(image: Image.Image) -> int:
    """Number of pages of a TIFF, or of frames of a GIF and the like."""
    return int(getattr(image, "n_frames", 1)) if image.format in kinds.STACKS else 1


def _go_to(image: Image.Image, page: int) -> None:
    """Seek a page.

    Raises:
        ValueError: there is no such page.
        Image.DecompressionBombError: it is too large.
    """
    if page == 0:
        return
    try:
        count = _num_pages(image)
        if page < count:
            image.seek(page)
    except Exception as error:
        raise ValueError(f"page {page + 1} cannot be found: {error}") from error
    if page >= count:
        raise ValueError(f"it has {count} page{'s' if count > 1 else ''}, and page {page + 1} was asked for")
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"page {page + 1} has {image.width} x {image.height} pixels")


def jpeg_steps(file: IO[bytes]) -> tuple[float, float]:
    """How coarse a JPEG file's luminance is, of 255: mean steps of its low and of its high frequencies; 0 for others.

    The cosine transform of 8 x 8 pixels is rounded to multiples of the quantisation table; the means are those of its
    first and last 4 x 4 entries: 4.9, 13 and 27 (low) at Pillow's quality 85, 60 and 30.
    """
    try:
        with kinds.open_picture(file, "") as image:
            table = getattr(image, "quantization", None)
    except BROKEN:
        return 0.0, 0.0
    return steps_of(table[0]) if table else (0.0, 0.0)


def steps_of(table: Sequence[int]) -> tuple[float, float]:
    """`jpeg_steps` of a file with this quantisation table of the luminance."""
    steps = np.reshape(table, (8, 8))
    return float(steps[:4, :4].mean()), float(steps[4:, 4:].mean())


def encode(x: Tensor, like: Picture, coloured: bool = False, gps: bool = True) -> bytes:
    """Encode an image that was made from the picture ``like`` as a PNG file of the same format.

    Grey stays grey (the channels are averaged) unless it was coloured, and 16 bits stay 16; transparency, profile and
    metadata are kept. If x has another size, transparency is cropped at the right and the bottom, or scaled where x is
    larger.

    Args:
        x: ``[C, H, W]`` in [-1, 1]; clipped and rounded, never stretched. C = 1 is always grey.
        like: picture that gives the bits, transparency, kind and profile.
        coloured: whether x has colours although ``like`` has none.
        gps: keep the coordinates in the metadata.
    """
    grey = (like.grey and not coloured) or x.shape[0] == 1
    channels, height, width = x.shape
    array = np.empty((height, width, 1 if grey else channels), like.pixels.dtype)
    for rows in strips(height, channels * width):
        strip = x[:, rows].detach().float().cpu()
        strip = strip.mean(0, keepdim=True) if grey else strip
        strip = strip.double() if array.dtype == np.uint16 else strip  # float32 would be off by a few of 65535
        values = ((strip.clamp(-1, 1) + 1) * (like.white / 2)).round().numpy()
        array[rows] = values.transpose(1, 2, 0).astype(array.dtype)
    if like.alpha is not None:
        alpha = like.alpha[:height, :width]
        if alpha.shape != (height, width):
            whole = Image.fromarray(like.alpha.astype(np.float32))
            scaled = np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC))
            alpha = scaled.clip(0, like.white).round().astype(like.alpha.dtype)
        array = np.concatenate([array, alpha[..., None]], axis=2)
    if array.dtype == np.uint16:
        data = png16.encode(array)
    else:
        out = io.BytesIO()
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(out, "PNG")
        data = out.getvalue()
    about = [*metadata.profile_chunks(like.profile), *like.metadata]
    return png16.with_chunks(data, metadata.written(about, width, height, grey == like.grey, gps))


def _white_of_ppm(image: Image.Image) -> int:
    """Largest value in an opened PPM file."""
    arguments = image.tile[0][3]  # type: ignore[attr-defined]
    found = arguments[-1] if isinstance(arguments, tuple) else arguments
    return found if isinstance(found, int) else 255


def _ppm16(data: bytes, image: Image.Image, white: int) -> np.ndarray:
    """Decode a colour PPM of 16 bits, which Pillow cuts to 8, to uint16 ``[H, W, 3]``."""
    start = image.tile[0][2]  # type: ignore[attr-defined]
    found = np.frombuffer(data, ">u2", 3 * image.width * image.height, start)
    values = found.astype(np.float64) * (65535 / white) if white < 65535 else found
    return values.round().clip(0, 65535).astype(np.uint16).reshape(image.height, image.width, 3)


def _to_array(image: Image.Image, profile: bytes | None) -> np.ndarray:
    """Pixels ``[H, W, C]``, alpha last: uint16 where Pillow has more than 8 bits, otherwise uint8."""
    if image.mode == "F":
        return tiff16.in_16_bits(np.asarray(image))[..., None]
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("its pixels are numbers outside 0 to 65535; save it with 8 or 16 bits")
        return array.astype(np.uint16)[..., None]
    if image.mode in ("CMYK", "LAB"):
        image = _to_srgb(image, profile)
    has_alpha = image.getbands()[-1] in ("A", "a") or "transparency" in image.info
    mode = ("L" if image.mode in GREY_MODES else "RGB") + ("A" if has_alpha else "")
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
        raise ValueError(f"its colour profile is not for {image.mode}: {error}") from error
    assert converted is not None
    return converted


def _orientation(image: Image.Image) -> int:
    """Orientation in the EXIF data before the pixels, from 1 (upright) to 8."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # The method of the base class: PngImageFile's would decode the picture to look behind the pixels too.
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error, OSError, EOFError, KeyError):
        return 1  # the picture itself may be intact
    return found if found in range(1, 9) else 1


def _upper_byte(array: np.ndarray) -> np.ndarray:
    return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
