"""Draw docs/photographs.webp, the four pictures and what configs/photo_*.yaml made of them.

First `python sample.py --diffusion_config configs/photo_TASK.yaml` for the four tasks, then
`PYTHONPATH=. python data/degraded/overview.py`. The PSNR is that of the files, against data/photographs.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from randomwalk.report import Row, overview

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
TASKS = {
    "denoise": ("noisy", "coffee"),
    "inpainting": ("painted", "chelsea"),
    "super_resolution": ("small", "astronaut"),
    "deblur": ("blurred", "coffee"),
}
"""Degraded picture and truth."""


def pixels(path: Path) -> np.ndarray:
    """uint8 ``[H, W, 3]``."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def main() -> None:
    """One column for each task."""
    given, restored, captions = [], [], []
    for task, (degraded, name) in TASKS.items():
        truth = pixels(ROOT / "data" / "photographs" / f"{name}.png")
        y = pixels(FOLDER / f"{degraded}.png")
        x = pixels(ROOT / "results" / f"photo_{task}" / "images" / f"0000_{degraded}_sample0.png")
        error = np.square(x.astype(float) - truth).mean()
        factor = len(truth) // len(y)
        given.append(y.repeat(factor, axis=0).repeat(factor, axis=1))
        restored.append(x)
        captions.append(f"{10 * np.log10(255**2 / error):.1f} dB")
    titles = [f"photo_{task}.yaml" for task in TASKS]
    picture = overview([Row("given", given), Row("restored", restored, captions)], titles, side=256)
    picture.convert("RGB").save(ROOT / "docs" / "photographs.webp", quality=90, method=6)


if __name__ == "__main__":
    main()
