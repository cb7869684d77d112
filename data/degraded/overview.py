"""Draw docs/photographs.webp: the four degraded pictures, and their restorations by configs/photo_*.yaml.

First `python sample.py --diffusion_config configs/photo_TASK.yaml` for the four tasks, then
`PYTHONPATH=. python data/degraded/overview.py`. The PSNR compares the files with data/photographs.
"""

from pathlib import Path

from torch import Tensor

from randomwalk.images import metrics
from randomwalk.images.sheets import Row, overview
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_pixels

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
TASKS = {
    "denoise": ("noisy", "coffee"),
    "inpainting": ("painted", "chelsea"),
    "super_resolution": ("small", "astronaut"),
    "deblur": ("blurred", "coffee"),
}
"""Degraded picture and truth."""


def picture(path: Path) -> Tensor:
    """Load a picture, ``[3, H, W]`` in [-1, 1]."""
    source = open_images(path)
    return source.load(0, 3, source.size(0), "keep")


def main() -> None:
    """Draw one column for each task."""
    given, restored, captions = [], [], []
    for task, (degraded, name) in TASKS.items():
        truth = picture(ROOT / "data" / "photographs" / f"{name}.png")
        y = picture(FOLDER / f"{degraded}.png")
        x = picture(ROOT / "results" / f"photo_{task}" / "images" / f"0000_{degraded}_sample0.png")
        factor = truth.shape[1] // y.shape[1]
        given.append(to_pixels(y.repeat_interleave(factor, 1).repeat_interleave(factor, 2)))
        restored.append(to_pixels(x))
        captions.append(f"{float(metrics.psnr(x[None], truth[None])):.1f} dB")
    titles = [f"photo_{task}.yaml" for task in TASKS]
    drawn = overview([Row("given", given), Row("restored", restored, captions)], titles, side=256)
    drawn.convert("RGB").save(ROOT / "docs" / "photographs.webp", quality=90, method=6)


if __name__ == "__main__":
    main()
