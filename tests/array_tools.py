"""Small arrays in the files of instruments."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

AFFINE = np.array([[0.0, -2.0, 0, 11], [1.5, 0, 0, -7], [0, 0, 3.0, 5], [0, 0, 0, 1]])
"""Of an image whose rows run along y and columns along -x, with pixels of 1.5 by 2 mm and slices of 3 mm."""
SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".nii", ".nii.gz", ".dcm", ".tif")
LIBRARIES = {".h5": "h5py", ".nii": "nibabel", ".nii.gz": "nibabel", ".dcm": "pydicom"}
COMPLEX = (".npy", ".npz", ".mat", ".h5", ".nii")
NAMED = (".npz", ".mat", ".h5")


def library(suffix: str) -> Any:
    """Library of a format; the test is skipped where it is not installed."""
    return pytest.importorskip(LIBRARIES[suffix]) if suffix in LIBRARIES else None


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nibabel = library(".nii")
    image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
    image.header["descrip"] = b"a scan"
    image.header.set_xyzt_units("mm", "sec")
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def dicom(stored: np.ndarray, slope: float = 0.5, intercept: float = -1000.0, **tags: Any) -> Any:
    """DICOM object of stored whole numbers of 16 bits, whose units are ``slope * stored + intercept``."""
    pydicom = library(".dcm")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header = pydicom.Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    header.PatientName, header.StudyInstanceUID, header.Modality = "Doe^J", "1.2.3", "CT"
    header.PixelSpacing, header.SliceThickness = [1.5, 2.0], 3.0
    header.ImagePositionPatient, header.ImageOrientationPatient = [10.0, 20.0, 30.0], [1.0, 0, 0, 0, 1.0, 0]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = stored.shape[-2:]
    if stored.ndim > 2:
        header.NumberOfFrames = len(stored)
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    header.PixelData = stored.astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    for key, value in tags.items():
        setattr(header, key, value)
    return header


def save_dicom(path: Path, values: np.ndarray, **tags: Any) -> None:
    """Save values that are multiples of a half, from -1000 to 31000."""
    header = dicom(((values + 1000) * 2).round(), **tags)
    header.save_as(path, enforce_file_format=True)


def save_h5(path: Path, **arrays: Any) -> None:
    with library(".h5").File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
            file[name].attrs["element_size_um"] = [1.5, 2.0]
            file[name].attrs["unit"] = "kHz"


def save_tiff(path: Path, values: np.ndarray) -> None:
    pages = [Image.fromarray(page) for page in values.reshape(-1, *values.shape[-2:])]
    tags = {270: "a scan", 282: 100.0, 283: 50.0, 296: 3}
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tags)


SAVE: dict[str, Callable[[Path, np.ndarray], Any]] = {
    ".npy": np.save,
    ".npz": lambda path, values: np.savez(path, scan=values),
    ".mat": lambda path, values: scipy.io.savemat(path, {"scan": values}),
    ".h5": lambda path, values: save_h5(path, scan=values),
    ".nii": save_nifti,
    ".nii.gz": save_nifti,
    ".dcm": save_dicom,
    ".tif": save_tiff,
}


def save(path: Path, values: np.ndarray) -> Path:
    """Save an array in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = next(suffix for suffix in reversed(SUFFIXES) if path.name.endswith(suffix))
    SAVE[suffix](path, values)
    return path


def scan(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth values from about -900 to 2000, multiples of a half, float32."""
    draws = np.random.default_rng(seed)
    waves = sum(
        np.cos(np.arange(n) * draws.uniform(0.2, 0.5) + draws.uniform(0, 6)).reshape([-1] + [1] * (len(shape) - k - 1))
        for k, n in enumerate(shape)
    )
    return (np.round(2 * (550 + 1400 * waves / len(shape))) / 2).astype(np.float32)


def npy_bytes(values: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, **options)
    return out.getvalue()
