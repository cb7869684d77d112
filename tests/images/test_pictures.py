"""Picture files in and out: orientation, bits, transparency, profiles."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from randomwalk.errors import InputError
from randomwalk.images import pictures, png16
from randomwalk.images.pictures import Picture
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_tensor

DRAWS = np.random.default_rng(0)
COLOUR = DRAWS.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = DRAWS.integers(0, 256, (5, 7), dtype=np.uint8)
ALPHA = DRAWS.integers(0, 256, (5, 7), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def deep(channels: int, height: int = 21, width: int = 13) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def upper_bytes(data: bytes) -> np.ndarray:
    """Pixels that Pillow reads from a file with 16 bits per channel."""
    found = np.asarray(Image.open(io.BytesIO(data)))
    found = (found >> 8).astype(np.uint8) if found.dtype != np.uint8 else found
    grey_and_alpha = data[25] == 4  # Pillow makes colours of the grey
    return found[..., 2:] if grey_and_alpha else found.reshape(*found.shape[:2], -1)


def filtered(lines: np.ndarray, distance: int) -> bytes:
    """Lines of bytes ``[n, length]`` with the five filters of PNG in turn, by their definition."""
    out, above = [], np.zeros(lines.shape[1], int)
    for n, line in enumerate(lines.astype(int)):
        left = np.concatenate([np.zeros(distance, int), line])[: len(line)]
        corner = np.concatenate([np.zeros(distance, int), above])[: len(line)]
        guess = left + above - corner
        near = np.stack([left, above, corner])
        paeth = np.take_along_axis(near, np.abs(near - guess).argmin(0)[None], 0)[0]
        expected = [0 * line, left, above, (left + above) // 2, paeth][n % 5]
        out.append(bytes([n % 5]) + (line - expected).astype(np.uint8).tobytes())
        above = line
    return b"".join(out)


def png_with_all_filters(pixels: np.ndarray, interlaced: bool) -> bytes:
    height, width, channels = pixels.shape
    raw = b""
    for left, top, across, down in png16.ADAM7 if interlaced else png16.WHOLE:
        part = np.ascontiguousarray(pixels[top::down, left::across].astype(">u2"))
        if part.size:
            raw += filtered(part.view(np.uint8).reshape(len(part), -1), 2 * channels)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    return png16._file((b"IHDR", header), (b"IDAT", zlib.compress(raw)))


# --- 16 bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bits_are_read_whatever_the_filters(channels: int, interlaced: bool) -> None:
    pixels = deep(channels)
    data = png_with_all_filters(pixels, interlaced)
    np.testing.assert_array_equal(upper_bytes(data), pixels >> 8)  # the file is what it is meant to be
    picture = pictures.read(data, "x")
    colours = channels - (channels in (2, 4))
    np.testing.assert_array_equal(picture.pixels, pixels[..., :colours])
    if channels in (2, 4):
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, pixels[..., -1])
    else:
        assert picture.alpha is None
    assert pictures.read_header(io.BytesIO(data), "x") == pictures.Header(21, 13, grey=picture.grey)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_result_keeps_its_sixteen_bits(channels: int, transparent: bool) -> None:
    alpha = deep(1)[..., 0] if transparent else None
    picture = Picture(deep(channels), alpha, SRGB)
    data = pictures.encode(picture.tensor(3), picture)
    expected = picture.pixels if alpha is None else np.concatenate([picture.pixels, alpha[..., None]], axis=2)
    np.testing.assert_array_equal(upper_bytes(data), expected >> 8)
    np.testing.assert_array_equal(png16.decode(data), expected)
    assert pictures.read(data, "x").profile == SRGB


def test_sixteen_bits_are_not_cut_to_eight() -> None:
    picture = pictures.read(png16.encode(deep(3)), "x")
    x = picture.tensor(3)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), deep(3) / 32767.5 - 1, atol=2e-7)
    np.testing.assert_array_equal(picture.on_white(3), deep(3) >> 8)


def test_a_colour_declared_transparent_is_so_in_sixteen_bits() -> None:
    pixels = deep(3)
    key = struct.pack(">HHH", *pixels[2, 3])
    data = png16.encode(pixels)
    start = data.index(b"IDAT") - 4
    chunk = png16._file((b"tRNS", key))[8:-12]
    picture = pictures.read(data[:start] + chunk + data[start:], "x")
    assert picture.alpha is not None
    expected = np.full((21, 13), 65535)
    expected[2, 3] = 0
    np.testing.assert_array_equal(picture.alpha, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_in_any_format(kind: str) -> None:
    grey = deep(1)
    picture = pictures.read(saved(Image.fromarray(grey[..., 0]), kind), "x")
    np.testing.assert_array_equal(picture.pixels, grey)


# --- orientation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_as_the_camera_was_held(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(COLOUR), kind, exif=exif, **options))
    tagged = Image.fromarray(COLOUR)
    tagged.getexif()[pictures.ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(tagged))
    source = open_images(tmp_path)
    np.testing.assert_array_equal(source.picture(0).pixels, upright)
    np.testing.assert_array_equal(source.pixels(0, 3), upright)
    assert source.size(0) == upright.shape[:2]


def test_sixteen_bits_are_turned_too() -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    data = png16.encode(deep(4))
    start = data.index(b"IDAT") - 4
    chunk = png16._file((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))[8:-12]
    picture = pictures.read(data[:start] + chunk + data[start:], "x")
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.pixels, np.rot90(deep(4), -1)[..., :3])
    np.testing.assert_array_equal(picture.alpha, np.rot90(deep(4), -1)[..., 3])


def test_a_broken_orientation_does_not_keep_a_picture_from_being_read() -> None:
    data = saved(Image.fromarray(COLOUR), exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(pictures.read(data, "x").pixels, COLOUR)


# --- kinds ---------------------------------------------------------------------------------------------------


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(ALPHA))
    return image


def animation() -> bytes:
    frames = [Image.fromarray(COLOUR).quantize(), Image.fromarray(255 - COLOUR).quantize()]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


KINDS = {
    "grey": (saved(Image.fromarray(GREY)), GREY[..., None], None),
    "grey and alpha": (saved(with_alpha(Image.fromarray(GREY))), GREY[..., None], ALPHA),
    "colour": (saved(Image.fromarray(COLOUR)), COLOUR, None),
    "colour and alpha": (saved(with_alpha(Image.fromarray(COLOUR))), COLOUR, ALPHA),
    "palette": (saved(Image.fromarray(COLOUR).quantize(256)), COLOUR, None),
    "one bit": (saved(Image.fromarray(GREY > 127)), np.where(GREY > 127, 255, 0)[..., None], None),
    "animation": (animation(), COLOUR, None),
    "a grey declared transparent": (
        saved(Image.fromarray(GREY), transparency=int(GREY[1, 1])),
        GREY[..., None],
        np.where(GREY[1, 1] == GREY, 0, 255),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(kind: str) -> None:
    data, pixels, alpha = KINDS[kind]
    picture = pictures.read(data, "x")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == np.uint8
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha)
    header = pictures.read_header(io.BytesIO(data), "x")
    assert (header.height, header.width, header.grey) == (5, 7, picture.grey)
    if kind != "a grey declared transparent":  # written back as an alpha channel
        again = pictures.read(pictures.encode(picture.tensor(3), picture), "x")
        np.testing.assert_array_equal(again.pixels, pixels)
        assert (again.alpha is None) == (alpha is None)


def test_training_and_networks_of_one_size_see_white_behind_transparency() -> None:
    data, pixels, alpha = KINDS["colour and alpha"]
    share = alpha[..., None] / 255
    shown = pictures.read(data, "x").on_white(3)
    np.testing.assert_allclose(shown, share * pixels + (1 - share) * 255, atol=1.01)


def test_eight_bits_are_the_numbers_that_they_always_were() -> None:
    picture = pictures.read(KINDS["colour"][0], "x")
    assert torch.equal(picture.tensor(3), to_tensor(COLOUR))
    grey = pictures.read(KINDS["grey"][0], "x")
    assert torch.equal(grey.tensor(3), to_tensor(GREY[..., None]).expand(3, -1, -1))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114]) / 127.5 - 1
    np.testing.assert_allclose(picture.tensor(1)[0].numpy(), luma, atol=1e-6)
    np.testing.assert_array_equal(picture.on_white(1)[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))


# --- colours -------------------------------------------------------------------------------------------------


def cmyk_profile() -> bytes:
    """An ICC profile by which any amount of cyan is nearly black, and everything without cyan is white."""
    corners = [(255, 128, 128) if c == 0 else (20, 128, 128) for c in (0, 1) for _ in range(8)]  # L, a, b in 8 bits
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + bytes(sum(corners, ())) + 3 * ramp
    tags = {
        b"A2B0": table,
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    body, entries, start = b"", [], 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        entries.append(name + struct.pack(">II", start + len(body), len(content)))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    assert len(head) == 128
    return head + struct.pack(">I", len(tags)) + b"".join(entries) + body


def test_cmyk_by_its_profile_or_by_the_plain_formula() -> None:
    cyan = np.zeros((4, 4, 4), np.uint8)
    cyan[:2, :, 0], cyan[2:, :, 2] = 255, 255  # cyan above, yellow below
    image = Image.fromarray(cyan, "CMYK")
    plain = pictures.read(saved(image, "TIFF"), "x")
    np.testing.assert_array_equal(plain.pixels[0, 0], [0, 255, 255])
    np.testing.assert_array_equal(plain.pixels[3, 0], [255, 255, 0])
    managed = pictures.read(saved(image, "TIFF", icc_profile=cmyk_profile()), "x")
    assert managed.pixels[0, 0].max() < 60 and managed.pixels[3, 0].min() > 230
    assert managed.profile is None  # the result is sRGB
    assert pictures.read(saved(image, "JPEG"), "x").pixels[0, 0, 0] < 5
    with pytest.raises(InputError, match=r"photo: .*profile is not for CMYK"):
        pictures.read(saved(image, "TIFF", icc_profile=SRGB), "photo:")


def test_the_profile_of_a_result_is_that_of_its_colours() -> None:
    picture = pictures.read(saved(Image.fromarray(COLOUR), icc_profile=SRGB), "x")
    assert picture.profile == SRGB
    assert pictures.read(pictures.encode(picture.tensor(3), picture), "x").profile == SRGB
    grey = pictures.read(pictures.encode(picture.tensor(1), picture), "x")
    assert grey.grey and grey.profile is None


# --- results -------------------------------------------------------------------------------------------------


def test_a_grey_result_is_the_mean_of_its_channels_and_never_stretched() -> None:
    x = torch.tensor([-3.0, 0.5, 1.0])[:, None, None].expand(3, 5, 7)
    picture = Picture(GREY[..., None], ALPHA)
    found = pictures.read(pictures.encode(x, picture), "x")
    assert found.grey and found.alpha is not None
    np.testing.assert_array_equal(found.pixels, round((-0.5 + 1) * 127.5))
    np.testing.assert_array_equal(found.alpha, ALPHA)
    bright = pictures.read(pictures.encode(torch.full((3, 5, 7), 2.0), Picture(COLOUR)), "x")
    np.testing.assert_array_equal(bright.pixels, 255)


def test_transparency_follows_the_size() -> None:
    alpha = np.zeros((6, 8), np.uint16)
    alpha[:, 4:] = 65535
    picture = Picture(np.zeros((6, 8, 3), np.uint16), alpha)
    cut = pictures.read(pictures.encode(torch.zeros(3, 5, 6), picture), "x")
    larger = pictures.read(pictures.encode(torch.zeros(3, 12, 16), picture), "x")
    assert cut.alpha is not None and larger.alpha is not None
    np.testing.assert_array_equal(cut.alpha, alpha[:5, :6])
    assert larger.alpha.shape == (12, 16)
    np.testing.assert_array_equal(larger.alpha[:, [0, 4, 11, 15]], [[0, 0, 65535, 65535]] * 12)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.linspace(0, 2, 35, dtype=np.float32), r"are floating-point numbers from 0 to 2; expected 0 \(black\)"),
        (np.linspace(-0.1, 1, 35, dtype=np.float32), r"are floating-point numbers from -0\.1 to 1;"),
        (np.where(np.arange(35) == 7, np.nan, 0.5).astype(np.float32), "are floating-point numbers and not all finite"),
        (np.arange(35, dtype=np.int32) * 2000, "are numbers outside 0 to 65535"),
        (np.arange(35, dtype=np.int32) - 1, "are numbers outside 0 to 65535"),
    ],
)
def test_numbers_whose_white_nobody_knows_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"photo: does not decode as an image .*{message}"):
        pictures.read(saved(Image.fromarray(pixels.reshape(5, 7)), "TIFF"), "photo:")


@pytest.mark.parametrize("broken", ["cut", "cut deep", "text", "empty", "deep without pixels"])
def test_a_broken_file_is_one_message(broken: str, tmp_path: Path) -> None:
    data = {
        "cut": KINDS["colour"][0][:-60],
        "cut deep": png16.encode(deep(3))[:-300],
        "text": b"no picture",
        "empty": b"",
        "deep without pixels": png16.encode(deep(3))[:33],
    }[broken]
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(InputError, match=r"broken\.png does not decode as an image \(.+\)") as caught:
        open_images(tmp_path / "broken.png").picture(0)
    assert "\n" not in str(caught.value)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "._a.png"):
        (tmp_path / "in" / name).write_bytes(KINDS["colour"][0])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.png", "a.png")
        archive.write(tmp_path / "in" / "a.png", "__MACOSX/._a.png")
    assert open_images(tmp_path / "in").names == open_images(tmp_path / "all.zip").names == ["a.png"]


def test_an_encrypted_zip_is_one_message(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.png", KINDS["colour"][0])
    data = bytearray((tmp_path / "all.zip").read_bytes())
    for start, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(start) + offset] |= 1  # the flag of encryption
    (tmp_path / "all.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"all\.zip: a\.png cannot be read \(.*encrypted"):
        open_images(tmp_path / "all.zip").picture(0)


def test_sizes_are_known_without_decoding(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(KINDS["colour"][0][:-60])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "cut.png", "cut.png")
    for path in (tmp_path, tmp_path / "all.zip"):
        assert open_images(path).size(0) == (5, 7)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
        {"compression": "zlib", "predictor": True, "tile": (16, 16), "byteorder": ">"},
        {"tile": (16, 32)},
        {"rowsperstrip": 3},
    ],
)
def test_colour_tiff_files_of_16_bits_keep_them(options: dict[str, Any], alpha: bool) -> None:
    """Files of another library, every bit of them."""
    import tifffile

    values = np.random.default_rng(3).integers(0, 65536, (21, 37, 3 + alpha), dtype=np.uint16)
    file = io.BytesIO()
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(file, values, photometric="rgb", **extra, **options)
    found = pictures.read(file.getvalue(), "a.tif")
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels, values[..., :3])
    if alpha:
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, values[..., 3])
    header = pictures.read_header(io.BytesIO(file.getvalue()), "a.tif")
    assert (header.height, header.width, header.grey) == (21, 37, False)
    with pytest.raises(InputError, match=r"a\.tif does not decode"):
        pictures.read(file.getvalue()[: len(file.getvalue()) // 2], "a.tif")


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib"},
        {"planarconfig": "separate", "rowsperstrip": 4},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"extratags": [(274, "H", 1, 6, True)]},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_files_of_floating_point_numbers_from_black_0_to_white_1(
    kind: str, options: dict[str, Any], channels: int
) -> None:
    import tifffile

    values = np.random.default_rng(5).random((21, 37, channels)).astype(kind)
    options = {key: value for key, value in options.items() if key != "planarconfig" or channels == 3}
    stored = values.transpose(2, 0, 1) if "planarconfig" in options else values if channels == 3 else values[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb" if channels == 3 else "minisblack", **options)
    found = pictures.read(file.getvalue(), "a.tif")
    expected = (values.astype(np.float32).astype(np.float64) * 65535).round()
    expected = np.rot90(expected, -1) if "extratags" in options else expected
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, expected)
    header = pictures.read_header(io.BytesIO(file.getvalue()), "a.tif")
    assert (header.height, header.width, header.grey) == (*expected.shape[:2], channels == 1)
    if not options:
        file = io.BytesIO()
        tifffile.imwrite(file, 255 * stored, photometric="rgb" if channels == 3 else "minisblack")
        with pytest.raises(InputError, match=r"numbers from .* to 25\d.*; expected 0 \(black\) to 1 \(white\)"):
            pictures.read(file.getvalue(), "a.tif")


def test_a_colour_tiff_of_16_bits_is_turned_upright() -> None:
    import tifffile

    values = np.random.default_rng(4).integers(0, 65536, (5, 9, 3), dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    found = pictures.read(file.getvalue(), "a.tif")
    np.testing.assert_array_equal(found.pixels, np.rot90(values, -1))
    header = pictures.read_header(io.BytesIO(file.getvalue()), "a.tif")
    assert (header.height, header.width) == (9, 5)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"planarconfig": "separate"}, 3),
        ({"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 5}, 3),
        ({"planarconfig": "separate", "compression": "zlib", "predictor": True, "tile": (16, 16)}, 4),
        ({"bigtiff": True}, 3),
        ({"bigtiff": True, "compression": "zlib", "predictor": True}, 4),
        ({"bigtiff": True, "planarconfig": "separate", "rowsperstrip": 3}, 3),
        ({}, 1),
        ({"bigtiff": True, "compression": "zlib", "predictor": True}, 1),
    ],
)
def test_every_layout_of_a_tiff_of_16_bits(options: dict[str, Any], channels: int) -> None:
    """Separate planes, which Pillow decodes wrongly, and the large kind of TIFF."""
    import tifffile

    values = np.random.default_rng(3).integers(0, 65536, (21, 37, channels), dtype=np.uint16)
    stored = values.transpose(2, 0, 1) if "planarconfig" in options else values
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    file = io.BytesIO()
    tifffile.imwrite(
        file, stored[..., 0] if channels == 1 else stored, photometric="minisblack" if channels == 1 else "rgb",
        **extra, **options,
    )  # fmt: skip
    found = pictures.read(file.getvalue(), "a.tif")
    np.testing.assert_array_equal(found.pixels, values[..., : min(channels, 3)])
    if channels == 4:
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, values[..., 3])


def test_a_negative_in_a_tiff_is_shown_as_a_positive() -> None:
    import tifffile

    values = deep(1)[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="miniswhite")
    np.testing.assert_array_equal(pictures.read(file.getvalue(), "x").pixels[..., 0], 65535 - values)


@pytest.mark.parametrize("kind", ["assocalpha", "unspecified"])
def test_a_fourth_channel_of_a_tiff_is_what_its_tag_says(kind: str) -> None:
    """Colours that were multiplied by their alpha are divided by it; a channel without a meaning is none."""
    import tifffile

    draws = np.random.default_rng(4)
    colours, alpha = draws.random((21, 37, 3)), draws.uniform(0.2, 1, (21, 37, 1))
    multiplied = colours * alpha if kind == "assocalpha" else colours
    values = np.concatenate([multiplied, alpha], axis=2)
    file = io.BytesIO()
    stored = (values * 65535).round().astype(np.uint16)
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=[kind])
    found = pictures.read(file.getvalue(), "x")
    if kind == "unspecified":
        assert found.alpha is None
        np.testing.assert_array_equal(found.pixels, stored[..., :3])
    else:
        assert found.alpha is not None
        np.testing.assert_array_equal(found.alpha, stored[..., 3])
        np.testing.assert_allclose(
            found.pixels / 65535, colours, atol=5.5 / 65535
        )  # half a step of both over 0.2, and once more


@pytest.mark.parametrize("white", [4095, 65535])
def test_a_colour_ppm_of_more_than_8_bits_keeps_them(white: int) -> None:
    values = np.random.default_rng(5).integers(0, white + 1, (5, 7, 3))
    data = b"P6\n# of a raw converter\n7 5\n%d\n" % white + values.astype(">u2").tobytes()
    found = pictures.read(data, "x")
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels, (values * (65535 / white)).round())
    with pytest.raises(InputError, match="x does not decode"):
        pictures.read(data[:-3], "x")
