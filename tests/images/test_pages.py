"""Files with several pictures: pages of a TIFF, frames of an animation."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given_tools import DENOISING, config_for, task_for
from PIL import Image, features
from sampling_tools import files_of, read_metrics

from randomwalk.cli.restore import config_of
from randomwalk.cli.restore import parser as restore_parser
from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.sources import open_images
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.foresight import notes_of

DRAWS = np.random.default_rng(0)
FRAMES = [np.full((20, 26, 3), (10 + 70 * k, 200 - 60 * k, 40), np.uint8) for k in range(3)]
LOSSLESS: dict[str, dict[str, Any]] = {
    "TIFF": {}, "GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100},
}  # fmt: skip


def stack(kind: str, frames: list[np.ndarray] = FRAMES) -> bytes:
    first, *rest = [Image.fromarray(pixels) for pixels in frames]
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=rest, **LOSSLESS[kind])
    return out.getvalue()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_page_of_every_kind(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    data = stack(kind)
    assert pictures.read_header(io.BytesIO(data), "x").pages == 3
    for k, pixels in enumerate(FRAMES):
        found = pictures.read(data, "x", k).pixels
        assert found.shape == (20, 26, 3) and np.abs(found.astype(int) - pixels).max() <= (3 if kind == "AVIF" else 0)
    with pytest.raises(InputError, match=r"x does not decode as an image \(it has 3 pages, and page 4 was asked for\)"):
        pictures.read(data, "x", 3)


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"bigtiff": True}, {"compression": "zlib"}])
def test_pages_of_16_bits_and_of_different_sizes(options: dict[str, Any]) -> None:
    import tifffile

    pages = [DRAWS.integers(0, 65536, size, dtype=np.uint16) for size in ((9, 14, 3), (5, 7, 3), (8, 8))]
    separate = options.get("planarconfig") == "separate"
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=bool(options.pop("bigtiff", False))) as writer:
        for values in pages:
            colour = values.ndim == 3
            stored = values.transpose(2, 0, 1) if separate and colour else values
            own = options if colour else {key: value for key, value in options.items() if key != "planarconfig"}
            writer.write(stored, photometric="rgb" if colour else "minisblack", metadata=None, **own)
    for k, values in enumerate(pages):
        found = pictures.read(out.getvalue(), "x", k)
        np.testing.assert_array_equal(found.pixels, values if values.ndim == 3 else values[..., None])
        header = pictures.read_header(io.BytesIO(out.getvalue()), "x", k)
        assert header == pictures.Header(*values.shape[:2], grey=values.ndim == 2, pages=len(pages))


def test_what_lies_beside_a_photograph_in_its_file_is_no_page() -> None:
    """Such as the gain map of a phone's JPEG (MPO)."""
    out = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(out, "MPO", save_all=True, append_images=[Image.fromarray(FRAMES[1])])
    assert Image.open(out).n_frames == 2  # type: ignore[attr-defined]
    assert pictures.read_header(out, "x").pages == 1


def test_a_later_page_that_is_a_bomb_is_refused() -> None:
    data = b"II*\0\x08\0\0\0"
    for side in (8, 30_000):
        tags = {256: side, 257: side, 258: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: 8}
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags.items())
        data += struct.pack("<I", len(data) + 4 if side == 8 else 0)
    assert pictures.read_header(io.BytesIO(data), "x").pages == 2
    assert pictures.read(data, "x", 0).pixels.shape == (8, 8, 1)
    for look in (lambda: pictures.read(data, "x", 1), lambda: pictures.read_header(io.BytesIO(data), "x", 1)):
        with pytest.raises(InputError, match=r"x does not decode as an image \(page 2 has 30000 x 30000 pixels\)"):
            look()


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    (path / "a.tif").write_bytes(stack("TIFF"))
    (path / "b.png").write_bytes(stack("PNG", FRAMES[:1]))
    (path / "c.gif").write_bytes(stack("GIF"))
    return path


def test_the_first_page_is_taken_and_a_note_says_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    task = task_for(tmp_path, folder, DENOISING)
    [note] = [line for line in notes_of(task) if "pages" in line]
    assert note == (
        "a.tif has 3 pages, of which the first is taken; so does another file: data.page (restore: --page) "
        "takes another, data.page: all takes each"
    )
    np.testing.assert_allclose(task.load_image(0)[:, 0, 0], FRAMES[0][0, 0] / 127.5 - 1, atol=1e-6)
    chosen = task_for(tmp_path / "2", folder, DENOISING, data={"path": str(folder / "a.tif"), "page": 2})
    assert not [line for line in notes_of(chosen) if "pages" in line]
    np.testing.assert_allclose(chosen.load_image(0)[:, 0, 0], FRAMES[1][0, 0] / 127.5 - 1, atol=1e-6)


def test_all_pages_are_images_of_their_own(folder: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path, folder, DENOISING, data={"path": str(folder), "page": "all"})
    assert sampling.run(config) == 0
    run = Path(config.output)
    names = ["a_page1.tif", "a_page2.tif", "a_page3.tif", "b.png", "c_page1.gif", "c_page2.gif", "c_page3.gif"]
    assert [row["name"] for row in read_metrics(run)] == names
    for i, k in enumerate((0, 1, 2, 0, 0, 1, 2)):
        y = np.asarray(Image.open(next((run / "images").glob(f"{i:04d}_*_measurement.png"))))
        np.testing.assert_array_equal(y, FRAMES[k])
    before = files_of(run)
    (run / "state" / "batch_00000.json").unlink()
    assert sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run)) == 0
    assert files_of(run) == before


def test_a_file_without_the_page_is_skipped_and_named(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_for(tmp_path, folder, DENOISING, data={"path": str(folder), "page": 3})
    assert sampling.run(config) == 1
    assert "b.png does not decode as an image (it has 1 page, and page 3 was asked for)" in capfd.readouterr().err


def test_pages_share_the_mask_beside_their_file(folder: Path) -> None:
    mask = np.full((20, 26), 255, np.uint8)
    mask[3:6] = 0
    Image.fromarray(mask).save(folder / "a_mask.png")
    source = open_images(folder).without_masks().of_page("all")
    assert source.names[:4] == ["a_page1.tif", "a_page2.tif", "a_page3.tif", "b.png"]
    assert all(float(source.mask(i, grow=0).known.sum()) == 17 * 26 for i in range(3))


def test_restore_takes_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(restore_parser().parse_args([str(folder / "a.tif"), "--page", "2", "--no-gps"]))
    assert config.data is not None and config.data.page == 2 and not config.data.gps
    with pytest.raises(SystemExit):
        restore_parser().parse_args([str(folder / "a.tif"), "--page", "0"])
    assert "whole number from 1" in capsys.readouterr().err
