"""Masks as painting programs make them: drawn with Pillow, antialiased by drawing large and reducing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from randomwalk import operators
from randomwalk.errors import InputError
from randomwalk.images import pictures
from randomwalk.images.masks import Mask, read_mask

WIDTH, HEIGHT = 60, 40
RED = (255, 0, 0)


def brush(scale: int = 8) -> np.ndarray:
    """How much of each pixel a stroke and a dot cover, uint8 ``[H, W]`` with 255 for all of it."""
    image = Image.new("L", (WIDTH * scale, HEIGHT * scale))
    pen = ImageDraw.Draw(image)
    pen.line([(5 * scale, 7 * scale), (30 * scale, 30 * scale), (52 * scale, 12 * scale)], fill=255, width=4 * scale)
    pen.ellipse([40 * scale, 28 * scale, 47 * scale, 35 * scale], fill=255)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def over_white(colour: tuple[int, int, int], cover: np.ndarray) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    image.paste(colour, mask=Image.fromarray(cover))
    return image


def layer(mode: str, colour: Any, cover: np.ndarray) -> Image.Image:
    """Paint on a transparent layer."""
    image = Image.new(mode, (WIDTH, HEIGHT), colour)
    image.putalpha(Image.fromarray(cover))
    return image


def palette(cover: np.ndarray) -> Image.Image:
    """Shades of red by a palette."""
    image = Image.fromarray(cover).convert("P")
    image.putpalette([value for k in range(256) for value in (255, 255 - k, 255 - k)])
    return image


def photograph() -> Image.Image:
    """Picture of many colours."""
    small = np.random.default_rng(0).integers(0, 240, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def saved(image: Image.Image, suffix: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, suffix, **options)
    return out.getvalue()


def read(image: Image.Image | bytes, *, photo: Image.Image | None = None, **settings: Any) -> Mask:
    data = image if isinstance(image, bytes) else saved(image)
    if photo is not None:
        settings["photograph"] = lambda: pictures.read(saved(photo), "photo.png")
    return read_mask(pictures.read(data, "mask.png"), "mask.png", (HEIGHT, WIDTH), "photo.png", **settings)


def widened(area: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(Image.fromarray(area.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


COVER = brush()
SOFT = int(((COVER > 0) & (COVER < 255)).sum())
MODES: dict[str, Image.Image] = {
    "L": Image.fromarray(255 - COVER),
    "I;16": Image.fromarray((255 - COVER.astype(np.uint16)) * 257),
    "P": palette(COVER),
    "RGB red on white": over_white(RED, COVER),
    "RGB blue on white": over_white((0, 40, 255), COVER),
    "LA": layer("L", 0, COVER),
    "RGBA black layer": layer("RGB", (0, 0, 0), COVER),
    "RGBA red layer": layer("RGB", RED, COVER),
    "RGBA white layer": layer("RGB", (255, 255, 255), COVER),
    "RGBA opaque": over_white((0, 0, 0), COVER).convert("RGBA"),
}


@pytest.mark.parametrize("kind", MODES)
def test_all_that_a_soft_brush_has_touched_is_unknown(kind: str) -> None:
    mask = read(MODES[kind])
    touched = COVER > 0
    np.testing.assert_array_equal(mask.known.numpy() == 0, widened(touched, 1))
    np.testing.assert_array_equal(read(MODES[kind], grow=0).known.numpy() == 0, touched)
    np.testing.assert_array_equal(read(MODES[kind], grow=3).known.numpy() == 0, widened(touched, 3))
    assert any(f"{SOFT} pixels are partly painted and count as unknown" in note for note in mask.notes)
    assert not any(note.startswith("warning") for note in mask.notes)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_hard_edge_stays_where_it_is(mode: str) -> None:
    hard = (COVER > 127).astype(np.uint8) * 255
    mask = read(Image.fromarray(255 - hard).convert(mode))
    np.testing.assert_array_equal(mask.known.numpy() == 0, hard > 0)
    assert mask.notes == []


@pytest.mark.parametrize(("colour", "quality"), [((0, 0, 0), 75), ((0, 0, 0), 95), (RED, 90)])
def test_the_rings_of_a_jpeg_mask_are_no_paint(colour: tuple[int, int, int], quality: int) -> None:
    """Its 8 x 8 blocks, or 16 x 16 with halved colours, have rings wherever there is an edge."""
    mask = read(saved(over_white(colour, COVER), "JPEG", quality=quality))
    unknown, touched = mask.known.numpy() == 0, COVER > 0
    assert unknown[touched].all()
    assert unknown.sum() < 1.3 * widened(touched, 1).sum()
    assert sum("is a JPEG file, with rings around its edges" in note for note in mask.notes) == 1
    turned = Image.fromarray(COVER)
    inverted = read(saved(turned, "JPEG", quality=quality), invert=True).known.numpy() == 0
    assert inverted[touched].all() and inverted.sum() < 1.3 * widened(touched, 1).sum()


def test_what_differs_from_a_copy_of_the_photograph_is_unknown() -> None:
    photo = photograph()
    painted = photo.copy()
    painted.paste(RED, mask=Image.fromarray(COVER))
    changed = (np.asarray(painted) != np.asarray(photo)).any(2)
    assert (changed <= (COVER > 0)).all()
    mask = read(painted, photo=photo)
    np.testing.assert_array_equal(mask.known.numpy() == 0, widened(changed, 1))
    assert "mask.png is a copy of photo.png: what differs is unknown" in mask.notes
    erased = photo.copy()
    erased.putalpha(Image.fromarray(255 - COVER))
    np.testing.assert_array_equal(read(erased, photo=photo).known.numpy() == 0, widened(COVER > 0, 1))


def test_a_photograph_with_paint_of_the_colour_of_its_mask_is_no_copy() -> None:
    painted = photograph()
    painted.paste((0, 0, 0), mask=Image.fromarray(COVER))
    mask = read(MODES["L"], photo=painted)
    np.testing.assert_array_equal(mask.known.numpy() == 0, widened(COVER > 0, 1))


def test_a_copy_that_lost_detail_or_shows_no_paint_is_refused() -> None:
    photo = photograph()
    painted = photo.copy()
    painted.paste(RED, mask=Image.fromarray(COVER))
    with pytest.raises(InputError, match=r"copy of photo\.png in a format that loses detail, .* save it as PNG"):
        read(saved(painted, "JPEG", quality=90), photo=photo)
    with pytest.raises(InputError, match="keeps all pixels"):
        read(photo, photo=photo)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (WIDTH, HEIGHT), 255), "keeps all pixels; expected a mask that is dark where"),
        (Image.new("L", (WIDTH, HEIGHT), 0), "keeps no pixel"),
        (
            Image.fromarray(250 - (COVER > 99) * np.uint8(250)),
            "fully white pixels are known, and the nearest to that is 250 of 255",
        ),
        (Image.new("L", (HEIGHT, WIDTH), 0), "mask.png has 60x40 pixels, but photo.png has 40x60"),
        (Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)), "keeps all pixels"),
    ],
)
def test_masks_that_are_refused(mask: Image.Image, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(mask)


def test_growing_until_nothing_is_left_is_refused() -> None:
    with pytest.raises(InputError, match="keeps no pixel once its unknown area is widened by 30"):
        read(MODES["L"], grow=30)


def test_an_inverted_mask_is_noticed_and_can_be_turned() -> None:
    inverted = Image.fromarray(COVER)
    [warning] = [note for note in read(inverted).notes if note.startswith("warning: ")]
    assert "of the pixels known" in warning and warning.endswith("set invert: true")
    turned = read(inverted, invert=True)
    np.testing.assert_array_equal(turned.known.numpy(), read(MODES["L"]).known.numpy())
    assert not any(note.startswith("warning") for note in turned.notes)
    np.testing.assert_array_equal(
        read(layer("L", 255, COVER), invert=True).known.numpy(), read(MODES["L"]).known.numpy()
    )


def test_single_pixels_are_not_taken_for_an_inverted_mask() -> None:
    scattered = (np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.2).astype(np.uint8) * 255
    assert read(Image.fromarray(scattered)).notes == []


@pytest.mark.parametrize("kind", ["P", "RGBA red layer", "I;16"])
def test_the_operator_reads_such_files(kind: str, tmp_path: Path) -> None:
    MODES[kind].save(tmp_path / "mask.png")
    for settings, expected in (({}, widened(COVER > 0, 1)), ({"grow": 0}, COVER > 0)):
        operator = operators.make(
            "inpainting", image_shape=(3, HEIGHT, WIDTH), mask="file", file=str(tmp_path / "mask.png"), **settings
        )
        np.testing.assert_array_equal(operator.get_buffer("mask")[0, 0].numpy() == 0, expected)
