"""Make the degraded pictures of this folder from data/photographs: PYTHONPATH=. python data/degraded/make.py"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from randomwalk import operators
from randomwalk.images.tensors import to_pixels
from randomwalk.operators import Operator

FOLDER = Path(__file__).parent
PHOTOGRAPHS = FOLDER.parent / "photographs"
PAINT = (225, 25, 35)


def photograph(name: str) -> torch.Tensor:
    """Load a photograph, ``[1, 3, H, W]`` in [-1, 1]."""
    pixels = np.array(Image.open(PHOTOGRAPHS / name))
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 127.5 - 1


def degrade(truth: str, operator: Operator, std: float, made: str, seed: int) -> None:
    """Save A x plus noise of standard deviation ``std`` (out of 255) as an 8-bit picture."""
    y = operator(photograph(truth))
    y = y + 2 * std / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(to_pixels(y[0])).save(FOLDER / made, optimize=True)


def paint(truth: str, made: str, mask: str) -> None:
    """Paint words and scratches over a photograph, and save the mask: white where the photograph is visible."""
    picture = Image.open(PHOTOGRAPHS / truth)
    paint = Image.new("L", picture.size, 255)
    pen = ImageDraw.Draw(paint)
    for top, text in ((20, "Chelsea the cat"), (118, "write on me"), (205, "all will be well")):
        pen.text((14, top), text, font=ImageFont.load_default(27), fill=0)
    scratches = [(0, 170), (90, 150), (256, 98)], [(190, 0), (205, 120), (180, 256)], [(30, 256), (110, 60), (130, 0)]
    for points in scratches:
        pen.line(points, fill=0, width=3)
    paint = paint.point(lambda value: 255 * (value > 250))  # the soft edges of the letters are paint too
    picture.paste(PAINT, mask=paint.point(lambda value: 255 - value))
    picture.save(FOLDER / made, optimize=True)
    paint.convert("1").save(FOLDER / mask, optimize=True)


def main() -> None:
    """Make all pictures."""
    shape = {"image_shape": (3, 256, 256)}
    degrade("coffee.png", operators.make("denoising", **shape), 25, "noisy.png", seed=0)
    degrade("astronaut.png", operators.make("super_resolution", **shape, factor=2), 2, "small.png", seed=1)
    degrade("coffee.png", operators.make("gaussian_blur", **shape, std=1.6), 2, "blurred.png", seed=2)
    paint("chelsea.png", "painted.png", "painted_mask.png")


if __name__ == "__main__":
    main()
