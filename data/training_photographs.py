"""Prepare the photographs of configs/photo: python data/training_photographs.py --bsds BSDS500 --cbsd68 CBSD68

Makes ``data/BSDS500/{train, test, val32}`` with links to the photographs of the Berkeley segmentation data set, where
val32 has those of ``val`` that are not in CBSD68. ``--backgrounds FOLDER`` also makes ``data/BSDS500/backgrounds`` from
the photographs of Debian's packages lomiri-wallpapers-16.04 and mate-backgrounds (``FOLDER`` is /usr/share/backgrounds
if they are installed), scaled down far enough to remove the noise and sharpening of the camera.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent / "BSDS500"
SIDE = 16
SAME = 3.0
"""Mean difference of two thumbnails, out of 255, below which they show the same photograph."""
NOT_PHOTOGRAPHS = {"Elephants", "Elephants_3840x2160", "Elephants_5640x3172", "GreenTraditional"} | {
    "umang_by_Abhishek_Mudgal", "analogpattern_by_Peter_Nerlich",
}  # fmt: skip
MEGAPIXELS = ((6, 2), (12, 3), (np.inf, 4))
"""Factors by which pictures are scaled down, each with the megapixels below which it applies."""


def thumbnail(path: Path) -> np.ndarray:
    """Thumbnail of a photograph, ``[SIDE, SIDE, 3]``."""
    return np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE)), dtype=float)


def link(files: Iterable[Path], folder: Path) -> None:
    """Link the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).symlink_to(file.resolve())
    print(f"{folder}: {len(list(folder.iterdir()))} photographs")


def scale_down(files: Iterable[Path], folder: Path) -> None:
    """Save the photographs among the files into a folder, scaled down."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.stem in NOT_PHOTOGRAPHS:
            continue
        image = Image.open(file).convert("RGB")
        factor = next(factor for most, factor in MEGAPIXELS if image.width * image.height < 1e6 * most)
        size = (image.width // factor, image.height // factor)
        image.resize(size, Image.Resampling.LANCZOS).save(folder / f"{file.stem}.png")
    print(f"{folder}: {len(list(folder.iterdir()))} photographs")


def main() -> None:
    """Prepare the folders that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bsds", type=Path, required=True, help="the folder with train, test and val")
    parser.add_argument("--cbsd68", type=Path, required=True, help="the folder with the 68 test photographs")
    parser.add_argument("--backgrounds", type=Path, help="the folder of the two packages")
    chosen = parser.parse_args()
    for part in ("train", "test"):
        link(sorted((chosen.bsds / part).glob("*.jpg")), OUT / part)
    tests = [thumbnail(path) for path in sorted(chosen.cbsd68.glob("*.png"))]
    apart = [
        path
        for path in sorted((chosen.bsds / "val").glob("*.jpg"))
        if min(np.abs(thumbnail(path) - test).mean() for test in tests) > SAME
    ]
    link(apart, OUT / "val32")
    if chosen.backgrounds is not None:
        folders = [chosen.backgrounds, chosen.backgrounds / "mate" / "nature"]
        scale_down((file for folder in folders for file in sorted(folder.glob("*.jpg"))), OUT / "backgrounds")


if __name__ == "__main__":
    main()
