"""Write phantoms for training: python data/phantoms.py tomography FOLDER

Writes one array for each image (``.npy``): the attenuation of bodies in 1/cm, from 0 to 0.5, or complex slices of
heads. The heads are drawn from a template that the package nilearn holds (``pip install nilearn``):

    python data/phantoms.py mri FOLDER --template SITE_PACKAGES/nilearn/datasets/data

``scan`` makes slices to test with from a scan of a head, such as Colin27 of Debian's package mricron-data: axial slices
of 230 mm, the magnitudes those of the scan, the phase drawn:

    python data/phantoms.py scan FOLDER --volume /usr/share/mricron/templates/ch2.nii.gz --number 8
    python data/phantoms.py ct_scan FOLDER --volume /usr/share/doc/invesalius-examples/examples/Cranium.inv3 --number 8

``ct_scan`` takes a scan of a head in Hounsfield units, in the file of InVesalius that Debian's package
invesalius-examples has, as attenuation in 1/cm.
"""

import argparse
import plistlib
import sys
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from randomwalk.images import instruments
from randomwalk.images.phantoms import MOST, WATER, body, brain_slice, draws_of, read_tissues, smooth_phase

FIELD = 230
"""Side of a slice of a scan, in voxels of 1 mm."""


def scan_slice(volume: np.ndarray, share: float, side: int, draws: np.random.Generator) -> np.ndarray:
    """An axial slice of a volume ``[X, Y, Z]`` at a share of its height, complex64 ``[side, side]``."""
    plane = volume[:, ::-1, round(share * (volume.shape[2] - 1))].T.astype(np.float32)
    rows, columns = (FIELD - length for length in plane.shape)
    field = np.pad(plane, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    small = np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BOX))
    return (small / np.quantile(small, 0.999) * np.exp(1j * smooth_phase(side, draws))).astype(np.complex64)


def read_invesalius(file: Path) -> np.ndarray:
    """Hounsfield units ``[slices, rows, columns]`` of a project of InVesalius: a tar with a plist and raw numbers."""
    with tarfile.open(file) as archive:
        members = {PurePosixPath(member.name).name: member for member in archive.getmembers()}
        about = plistlib.load(archive.extractfile(members["main.plist"]))["matrix"]
        raw = archive.extractfile(members[about["filename"]]).read()
    return np.frombuffer(raw, about["dtype"]).reshape(about["shape"])


def ct_slice(volume: np.ndarray, share: float, side: int) -> np.ndarray:
    """A slice of Hounsfield units as attenuation in 1/cm from 0 to 0.5, float32 ``[side, side]``."""
    plane = volume[round(share * (len(volume) - 1))].astype(np.float32)
    small = np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BOX))
    return (WATER * (1 + small / 1000)).clip(0, MOST)


def main() -> None:
    """Write the images that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["tomography", "mri", "scan", "ct_scan"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--template", type=Path, help="folder of nilearn with the template, for mri")
    parser.add_argument("--volume", type=Path, help="file of the scan, for scan")
    parser.add_argument("--number", type=int, default=3000, help="of images (3000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first image (0); each has its own draws")
    parser.add_argument("--side", type=int, default=128, help="in pixels (128)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.kind == "mri" and chosen.template is None:
        parser.error("mri needs --template")
    scanned = chosen.kind in ("scan", "ct_scan")
    if scanned and chosen.volume is None:
        parser.error(f"{chosen.kind} needs --volume")
    tissues = read_tissues(chosen.template) if chosen.kind == "mri" else None
    read = read_invesalius if chosen.kind == "ct_scan" else lambda file: instruments.read(file).values
    volume = read(chosen.volume) if scanned else None
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for k in range(chosen.first, chosen.first + chosen.number):
        draws = draws_of(k, chosen.seed)
        share = (k - chosen.first + 0.5) / chosen.number
        if volume is not None and chosen.kind == "scan":  # from the ears to the crown
            image = scan_slice(volume, 0.35 + 0.4 * share, chosen.side, draws)
        elif volume is not None:
            image = ct_slice(volume, 0.1 + 0.75 * share, chosen.side)
        else:
            image = body(chosen.side, draws) if tissues is None else brain_slice(tissues, chosen.side, draws)
        np.save(chosen.folder / f"{k:05d}.npy", image)
    print(f"{chosen.folder}: {chosen.number} images of {chosen.side} x {chosen.side}")


if __name__ == "__main__":
    main()
