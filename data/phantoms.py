"""Write phantoms for training: python data/phantoms.py tomography FOLDER

Writes one array for each image (``.npy``): the attenuation of bodies in 1/cm, from 0 to 0.5, or complex slices of
heads. The heads are drawn from a template that the package nilearn holds (``pip install nilearn``):

    python data/phantoms.py mri FOLDER --template SITE_PACKAGES/nilearn/datasets/data
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from randomwalk.images.phantoms import body, brain_slice, read_tissues
from randomwalk.rng import Stream, generator


def main() -> None:
    """Write the images that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["tomography", "mri"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--template", type=Path, help="folder of nilearn with the template, for mri")
    parser.add_argument("--number", type=int, default=3000, help="of images (3000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first image (0); each has its own draws")
    parser.add_argument("--side", type=int, default=128, help="in pixels (128)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.kind == "mri" and chosen.template is None:
        parser.error("mri needs --template")
    tissues = read_tissues(chosen.template) if chosen.kind == "mri" else None
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for k in range(chosen.first, chosen.first + chosen.number):
        draws = generator(chosen.seed, Stream.PHANTOMS, k)
        image = body(chosen.side, draws) if tissues is None else brain_slice(tissues, chosen.side, draws)
        np.save(chosen.folder / f"{k:05d}.npy", image)
    print(f"{chosen.folder}: {chosen.number} images of {chosen.side} x {chosen.side}")


if __name__ == "__main__":
    main()
