"""Which files of a folder are pictures: those that decode, by name or content; the rest is counted and named."""

from __future__ import annotations

import io
import os
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from randomwalk.cli.file_checks import _check_images
from randomwalk.errors import InputError
from randomwalk.images import kinds, pictures
from randomwalk.images.kinds import left_out_notes
from randomwalk.images.sources import open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
MIXED = ["a.heic", "b.DNG", "c.npy", "d.eps", "notes.txt", "BMW", "P6 list", "Thumbs.db"]


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(autouse=True)
def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "heif_is_decoded", lambda: False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of several kinds of name, and files that are none."""
    path = tmp_path / "in"
    (path / "sub").mkdir(parents=True)
    for name in ("a.png", "b", "sub/IMG.2024.01", ".hidden.png"):
        (path / name).write_bytes(saved("PNG"))
    for name in ("c.JFIF", "IMG_0001"):
        (path / name).write_bytes(saved("JPEG"))
    contents = [HEIC, saved("TIFF"), b"\x93NUMPY\1\0", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n", b"no",
                b"BMW, prices of 2024", b"P6 1 is a picture, 2 is none", bytes(99)]  # fmt: skip
    for name, content in zip(MIXED, contents, strict=True):
        (path / name).write_bytes(content)
    return path


PICTURES = ["IMG_0001", "a.png", "b", "c.JFIF", "sub/IMG.2024.01"]


@pytest.mark.parametrize(
    ("suffix", "kind", "feature"),
    [("jfif", "JPEG", ""), ("jpe", "JPEG", ""), ("JPG", "JPEG", ""), ("avif", "AVIF", "avif"),
     ("jp2", "JPEG2000", "jpg_2000"), ("tga", "TGA", ""), ("pcx", "PCX", ""), ("webp", "WEBP", "webp"),
     ("bmp", "BMP", ""), ("dib", "DIB", ""), ("ppm", "PPM", ""), ("sgi", "SGI", ""), ("tif", "TIFF", "")],
)  # fmt: skip
def test_what_pillow_decodes_is_taken(suffix: str, kind: str, feature: str, tmp_path: Path) -> None:
    if feature and not features.check(feature):
        pytest.skip(f"Pillow without {feature}")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(saved(kind))
    source = open_images(tmp_path)
    assert source.names == [path.name] and source.left_out == []
    np.testing.assert_array_equal(source.picture(0).pixels, np.asarray(Image.open(path).convert("RGB")))
    assert source.size(0) == (6, 9)
    _check_images("data.path", tmp_path)


def test_a_folder_and_a_zip_are_sorted_by_content_and_the_rest_is_named(folder: Path) -> None:
    with zipfile.ZipFile(folder.parent / "in.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
        archive.writestr("__MACOSX/._a.png", b"no")
    for path in (folder, folder.parent / "in.zip"):
        source = open_images(path)
        assert source.names == PICTURES and source.left_out == sorted(MIXED)
        np.testing.assert_array_equal(source.picture(source.names.index("b")).pixels, PIXELS)
        first, *rest = left_out_notes("in", source.left_out)
        assert first == (
            "in: 8 files are not readable images: BMW, P6 list, Thumbs.db, a.heic, b.DNG, c.npy, d.eps, notes.txt"
        )
        assert [line.partition(":")[2].partition(":")[0] for line in rest] == [
            " 1 of them is HEIC", " 1 of them is a camera's raw file", " 1 of them is an array of numbers",
            " 1 of them is a page or a drawing",
        ]  # fmt: skip
        assert "pip install pillow-heif" in rest[0] and "heif-convert" in rest[0]
        assert "darktable-cli" in rest[1] and "rawpy" in rest[1] and "dcraw" in rest[1]


def test_many_names_are_cut_short_and_none_gives_no_line() -> None:
    [line] = left_out_notes("in", [f"{k:02d}.txt" for k in range(40)])
    assert line.startswith("in: 40 files are not readable images: 00.txt, ") and line.endswith("09.txt, ...")
    assert left_out_notes("in", []) == []
    assert left_out_notes("in", ["a.txt"]) == ["in: 1 file is not a readable image: a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_links_are_followed_and_broken_ones_named(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    for name in ("x.png", "y"):
        (other / name).write_bytes(saved("PNG"))
    (folder / "linked.png").symlink_to(other / "x.png")
    (folder / "linked").symlink_to(other / "y")
    (folder / "album").symlink_to(other)
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")  # to read it would wait for its writer
    source = open_images(folder)
    assert source.names == sorted([*PICTURES, "linked.png", "linked", "album/x.png", "album/y"])
    assert source.left_out == sorted([*MIXED, "gone.png (broken link)", "pipe.png (no file)"])


def test_a_broken_link_alone_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"there is no such folder, zip or image; it is a link to nowhere\.png"):
        _check_images("data.path", tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.heic", HEIC, ["is HEIC", "pillow-heif", "heif-convert"]),
        ("phone.jpg", HEIC, ["is HEIC", "pillow-heif", "heif-convert"]),
        ("b.dng", saved("TIFF"), ["raw file", "darktable-cli", "dcraw", "rawpy"]),
        ("b.CR2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), ["raw file", "darktable-cli"]),
        ("c", b"FUJIFILMCCD-RAW 0201" + bytes(40), ["raw file", "darktable-cli"]),
        ("d.jxl", b"\xff\x0a" + bytes(40), ["JPEG XL", "djxl"]),
        ("e.npy", b"\x93NUMPY" + bytes(40), ["array", "PNG or TIFF"]),
    ],
)
def test_a_single_file_is_answered_with_what_converts_it(
    name: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as quick:
        _check_images("data.path", path)
    with pytest.raises(InputError) as slow:
        open_images(path).picture(0)
    for caught in (quick, slow):
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_folder_of_raw_files_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / "in" / f"{k}.nef").write_bytes(saved("TIFF"))  # their thumbnail would decode
    for check in (lambda: _check_images("data.path", tmp_path / "in"), lambda: open_images(tmp_path / "in")):
        with pytest.raises(InputError, match=r"no images in it(.|\n)*3 of them are a camera's raw file.*rawpy"):
            check()


def test_a_raw_file_without_its_suffix_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(saved("TIFF", tiffinfo={kinds.DNG_VERSION: b"\1\4\0\0"}))
    (tmp_path / "tiff").write_bytes(saved("TIFF"))
    source = open_images(tmp_path)
    assert source.names == ["tiff"] and source.left_out == ["raw"]


def test_a_postscript_file_is_not_given_to_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program was started"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\n%%EOF\n")
    with pytest.raises(InputError, match=r"a\.png does not decode as an image \(it is a page or a drawing"):
        pictures.read(path.read_bytes(), str(path))


def test_with_the_package_heic_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is asked for its decoder, which Pillow then uses for HEIC and nothing else."""
    monkeypatch.undo()
    kinds.heif_is_decoded.cache_clear()
    registered: list[str] = []
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: registered.append("HEIF")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    asked: list[Any] = []
    (tmp_path / "a.heic").write_bytes(HEIC)

    def opened(file: Any, formats: Any) -> Image.Image:
        asked.append(formats)
        return Image.fromarray(PIXELS)

    monkeypatch.setattr(Image, "open", opened)
    try:
        source = open_images(tmp_path)
        assert source.names == ["a.heic"] and source.size(0) == (6, 9)
    finally:
        kinds.heif_is_decoded.cache_clear()
    assert registered == ["HEIF"] and asked[0] == ["HEIF"]
