"""What a file says besides its pixels is in the result: colour space, resolution, EXIF, XMP and text; GPS by choice."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_tools import DENOISING, config_for
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from PIL.TiffImagePlugin import IFDRational

from randomwalk.images import exif, pictures, png16
from randomwalk.sampling import run as sampling

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:GPSLatitude="48,8.25N"\n'
    b" exif:GPSAltitude='520/1' dc:rights=\"mine\"><exif:GPSLongitude>11,34.5E</exif:GPSLongitude>"
    b"<exif:GPSMapDatum/><dc:title>hut</dc:title></rdf:Description></x:xmpmeta>"
)
COLOUR = {
    b"gAMA": struct.pack(">I", 100_000),  # linear: drawn without it the picture is far too dark
    b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    b"cICP": bytes([12, 16, 0, 1]),  # Display P3 primaries with the curve of PQ
    b"cLLI": struct.pack(">II", 10_000_000, 4_000_000),
}


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Chunks of a PNG file, whose checksums must be right, by the specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, start = [], 8
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        content = data[start + 8 : start + 8 + length]
        assert struct.unpack_from(">I", data, start + 8 + length) == (zlib.crc32(kind + content),)
        found.append((kind, content))
        start += 12 + length
    return found


def with_chunks(data: bytes, added: dict[bytes, bytes]) -> bytes:
    return data[:33] + b"".join(chunk(kind, content) for kind, content in added.items()) + data[33:]


def result_of(data: bytes, gps: bool = True, enlarged: int = 1) -> bytes:
    """The file of a result with the pixels of the picture."""
    picture = pictures.read(data, "x")
    x = picture.tensor(3).repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2)
    return pictures.encode(x, picture, gps=gps)


def camera_data(orientation: int = 6) -> Image.Exif:
    made = Image.Exif()
    made[0x010F], made[0x0112], made[0x0132], made[0x013B] = "Maker", orientation, "2024:01:02 03:04:05", "A. Author"
    made.get_ifd(exif.CAMERA).update(
        {0x9003: "2024:01:02 03:04:05", 0xA002: 30, 0xA003: 24, 0x829A: IFDRational(1, 125), 0x927C: b"note" * 10}
    )
    degrees = tuple(IFDRational(n) for n in (48, 8, 15))
    made.get_ifd(exif.GPS).update({1: "N", 2: degrees, 3: "E", 4: degrees})
    return made


# --- colour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_what_changes_how_a_picture_looks_is_kept(deep: bool) -> None:
    data = png16.encode(PIXELS.astype(np.uint16) * 257) if deep else saved("PNG")
    found = chunks(result_of(with_chunks(data, COLOUR)))
    before = dict(found[: [kind for kind, _ in found].index(b"IDAT")])
    assert {kind: before[kind] for kind in COLOUR} == COLOUR
    assert struct.unpack(">IIB", before[b"IHDR"][:9]) == (30, 24, 16 if deep else 8)


def test_the_srgb_mark_is_kept_and_none_is_made_up() -> None:
    assert (b"sRGB", b"\1") in chunks(result_of(with_chunks(saved("PNG"), {b"sRGB": b"\1"})))
    assert [kind for kind, _ in chunks(result_of(saved("PNG")))] == [b"IHDR", b"IDAT", b"IEND"]
    assert [kind for kind, _ in chunks(result_of(saved("PPM")))] == [b"IHDR", b"IDAT", b"IEND"]


def test_a_coloured_result_of_a_grey_picture_has_no_profile_of_greys_but_its_gamma() -> None:
    data = with_chunks(saved_grey(), {**COLOUR, b"iCCP": b"x\0\0" + zlib.compress(SRGB)})
    picture = pictures.read(data, "x")
    kinds = [kind for kind, _ in chunks(pictures.encode(torch.zeros(3, 24, 30), picture, coloured=True))]
    assert b"gAMA" in kinds and not {b"iCCP", b"cHRM", b"cICP"} & {*kinds}


def saved_grey() -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS[..., 0]).save(out, "PNG")
    return out.getvalue()


def test_damaged_or_misplaced_chunks_are_left_out() -> None:
    data = with_chunks(saved("PNG"), {b"tEXt": b"Author\0me"})
    broken = data.replace(b"Author\0me", b"Author\0ME")  # the checksum is wrong
    with_late = data[:-12] + chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"Title\0late") + data[-12:]
    deep = with_chunks(png16.encode(PIXELS.astype(np.uint16)), {b"tEXt": b"Author\0me"})
    bomb = deep[:-12] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 25))) + deep[-12:]
    assert (b"tEXt", b"Title\0late") in chunks(result_of(with_late))
    assert b"gAMA" not in dict(chunks(result_of(with_late)))
    assert b"zTXt" not in dict(chunks(result_of(bomb))) and b"tEXt" in dict(chunks(result_of(bomb)))
    assert [kind for kind, _ in png16.chunks(broken, sound=True)] == [b"IHDR", b"IDAT", b"IEND"]


def test_a_large_profile_does_not_keep_a_result_from_being_read() -> None:
    large = SRGB + np.random.default_rng(0).bytes(2_000_000)
    picture = pictures.read(saved("JPEG", icc_profile=large), "x")
    assert pictures.read(pictures.encode(picture.tensor(3), picture), "x").profile == large


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_the_colour_space_of_an_avif_file_is_written_as_that_of_a_png() -> None:
    data = saved("AVIF")
    place = data.index(b"colrnclx") + 8
    assert b"cICP" not in dict(chunks(result_of(data)))  # sRGB
    bright = data[:place] + struct.pack(">HH", 12, 16) + data[place + 4 :]
    assert dict(chunks(result_of(bright)))[b"cICP"] == bytes([12, 16, 0, 1])


# --- EXIF ------------------------------------------------------------------------------------------------------------

FORMATS = [
    pytest.param("JPEG", {"quality": 95}),
    pytest.param("PNG", {}),
    pytest.param("WEBP", {"lossless": True}),
    pytest.param("AVIF", {}, marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")),
]


@pytest.mark.parametrize(("kind", "options"), FORMATS)
def test_the_camera_s_data_are_those_of_the_photograph_and_the_result_is_upright(
    kind: str, options: dict[str, Any]
) -> None:
    data = saved(kind, exif=camera_data(), **options)
    written = Image.open(io.BytesIO(result_of(data, enlarged=2)))
    found = written.getexif()
    assert written.size == (48, 60) and ImageOps.exif_transpose(written).size == (48, 60)
    assert found[0x0112] == 1 and found[0x010F] == "Maker" and found[0x013B] == "A. Author"
    camera, place = found.get_ifd(exif.CAMERA), found.get_ifd(exif.GPS)
    assert camera[0x9003] == "2024:01:02 03:04:05" and camera[0x829A] == IFDRational(1, 125)
    assert camera[0x927C] == b"note" * 10 and (camera[0xA002], camera[0xA003]) == (48, 60)
    assert place == {1: "N", 2: (48, 8, 15), 3: "E", 4: (48, 8, 15)}
    without = Image.open(io.BytesIO(result_of(data, gps=False))).getexif()
    assert without.get_ifd(exif.GPS) == {} and without.get_ifd(exif.CAMERA)[0x9003] == "2024:01:02 03:04:05"


@pytest.mark.parametrize("big", [False, True])
def test_tags_of_a_tiff_file_become_exif_data_without_those_of_its_pixels(big: bool) -> None:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file, PIXELS, photometric="rgb", description="a hut", software="scanner", datetime="2024:01:02 03:04:05",
        resolution=(300, 200), resolutionunit=2, metadata=None, bigtiff=big, extratags=[(315, "s", 0, "me", True)],
    )  # fmt: skip
    written = Image.open(io.BytesIO(result_of(file.getvalue())))
    found = dict(written.getexif())
    assert found[270] == "a hut" and found[305] == "scanner" and found[306] == "2024:01:02 03:04:05"
    assert found[315] == "me" and {*found} <= {270, 282, 283, 296, 305, 306, 315}
    assert written.info["dpi"] == pytest.approx((300, 200), abs=0.02)


@pytest.mark.parametrize("big", [False, True])
def test_each_page_has_its_own_tags(big: bool) -> None:
    import tifffile

    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big) as writer:
        for page in ("first", "second", "third"):
            writer.write(PIXELS, photometric="rgb", description=page, metadata=None)
    for k, page in enumerate(("first", "second", "third")):
        picture = pictures.read(file.getvalue(), "x", k)
        written = Image.open(io.BytesIO(pictures.encode(picture.tensor(3), picture)))
        assert written.getexif()[270] == page


def test_exif_data_written_as_text_become_a_chunk() -> None:
    """As ImageMagick writes them; Pillow would turn the result again."""
    block = camera_data().tobytes()
    text = f"\nexif\n{len(block):8d}\n{block.hex()}\n".encode()
    data = with_chunks(saved("PNG"), {b"zTXt": b"Raw profile type exif\0\0" + zlib.compress(text)})
    out = result_of(data)
    assert b"zTXt" not in dict(chunks(out)) and b"eXIf" in dict(chunks(out))
    written = Image.open(io.BytesIO(out))
    assert written.size == (24, 30) and written.getexif()[0x0112] == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_values_keep_their_bytes_and_the_thumbnail_of_the_old_picture_is_gone(order: str) -> None:
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    values = struct.pack(f"{order}2i", -3, 7)
    first = struct.pack(
        f"{order}H" + "HHII" * 2 + "HHIHH" + "I", 3, 37380, 10, 1, 8 + 2 + 36 + 4, 40000, 4, 1, 0xABCDEF01,
        274, 3, 1, 8, 0, 58,
    )  # fmt: skip
    thumbnail = struct.pack(f"{order}HHHIII", 1, 513, 4, 1, 80, 0) + b"\xff\xd8SECRET"
    out = exif.upright(head + first + values + thumbnail, 7, 5, gps=True)
    assert out is not None and b"SECRET" not in out and values in out
    found = Image.Exif()
    found.load(exif.PREFIX + out)
    assert dict(found) == {37380: IFDRational(-3, 7), 40000: 0xABCDEF01, 274: 1}


def test_damaged_exif_data_raise_nothing() -> None:
    block = camera_data().tobytes().removeprefix(exif.PREFIX)
    draws = np.random.default_rng(0)
    for n in range(len(block)):
        exif.upright(block[:n], 7, 5, gps=False)
        damaged = bytearray(block)
        damaged[n] ^= int(draws.integers(1, 256))
        exif.upright(bytes(damaged), 7, 5, gps=True)
        exif.of_tiff(bytes(damaged), 0)
    itself = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHII", exif.CAMERA, 4, 1, 8) * 2  # a circle
    assert len(exif.upright(itself, 7, 5, gps=True) or b"") < 1000


# --- XMP, text, resolution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "PNG, packed"])
def test_xmp_says_upright_and_loses_the_coordinates_on_demand(kind: str) -> None:
    if kind.startswith("PNG"):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip="packed" in kind)
        data = saved("PNG", pnginfo=info)
    else:
        data = saved(kind, xmp=XMP)
    upright = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) == 1
    kept, without = (Image.open(io.BytesIO(result_of(data, gps))) for gps in (True, False))
    text = kept.info["XML:com.adobe.xmp"]
    assert text == XMP.decode().replace('tiff:Orientation="6"', 'tiff:Orientation="1"')
    assert ImageOps.exif_transpose(kept).size == kept.size == ((30, 24) if upright else (24, 30))
    text = without.info["XML:com.adobe.xmp"]
    assert "GPS" not in text and 'dc:rights="mine"' in text and "<dc:title>hut</dc:title>" in text


def test_text_is_kept_and_coordinates_in_it_on_demand() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Zoë")
    info.add_text("Comment", "long " * 100, zip=True)
    info.add_itxt("Title", "漢字", zip=True)
    info.add_text("exif:GPSLatitude", "48/1")
    data = saved("PNG", pnginfo=info)
    kept, without = (Image.open(io.BytesIO(result_of(data, gps))).text for gps in (True, False))  # type: ignore[attr-defined]
    assert kept == {"Author": "Zoë", "Comment": "long " * 100, "Title": "漢字", "exif:GPSLatitude": "48/1"}
    assert {*kept} - {*without} == {"exif:GPSLatitude"}


@pytest.mark.parametrize(("kind", "comment"), [("JPEG", "für Zoë"), ("GIF", "plain")])
def test_a_comment_is_kept(kind: str, comment: str) -> None:
    out = result_of(saved(kind, comment=comment.encode()))
    assert Image.open(io.BytesIO(out)).info["Comment"] == comment


@pytest.mark.parametrize(
    ("kind", "options", "dpi"),
    [("JPEG", {}, (300, 200)), ("TIFF", {}, (300, 200)), ("PNG", {}, (300, 200)), ("BMP", {}, (300, 200)),
     ("PNG", {"exif": camera_data(6)}, (200, 300))],
)  # fmt: skip
def test_the_resolution_is_kept_and_turned_with_the_picture(
    kind: str, options: dict[str, Any], dpi: tuple[int, int]
) -> None:
    out = result_of(saved(kind, dpi=(300, 200), **options))
    assert Image.open(io.BytesIO(out)).info["dpi"] == pytest.approx(dpi, abs=0.03)


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_captions_and_keywords_are_kept_in_the_block_that_other_programs_read(kind: str) -> None:
    iptc = b"\x1c\x02\x69\x00\x03hut\x1c\x02\x78\x00\x0aA hut \xe2\x80\xa6."  # headline, caption
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    if kind == "JPEG":
        data, segment = saved("JPEG"), b"Photoshop 3.0\0" + block
        data = data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    else:
        import tifffile

        out = io.BytesIO()
        tifffile.imwrite(out, PIXELS, photometric="rgb", extratags=[(33723, 7, len(iptc), iptc, True)])
        data = out.getvalue()
    with Image.open(io.BytesIO(result_of(data))) as result:
        assert isinstance(result, PngImagePlugin.PngImageFile)
        _, name, length, *lines = result.text["Raw profile type iptc"].split("\n")
    assert name == "iptc" and int(length) == len(block) and bytes.fromhex("".join(lines)) == block
    again = [content for which, content in chunks(result_of(result_of(data))) if which == b"zTXt"]
    assert len(again) == 1  # a result that is restored again keeps it


@pytest.mark.parametrize("gps", [True, False])
def test_the_results_of_a_run_have_the_metadata_of_the_photograph(gps: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "photo.jpg").write_bytes(saved("JPEG", exif=camera_data(), xmp=XMP, icc_profile=SRGB))
    data = {"path": str(tmp_path / "in" / "photo.jpg"), **({} if gps else {"gps": False})}
    config = config_for(tmp_path, tmp_path / "in", DENOISING, data=data, num_samples=2)
    assert sampling.run(config) == 0
    for kind in ("sample0", "sample1", "mean"):
        written = Image.open(Path(config.output) / "images" / f"0000_photo_{kind}.png")
        found = written.getexif()
        assert written.size == (24, 30) and found[0x0112] == 1 and found[0x013B] == "A. Author"
        assert written.info["icc_profile"] == SRGB
        assert bool(found.get_ifd(exif.GPS)) == gps == ("GPS" in written.info["XML:com.adobe.xmp"])
