"""Arrays in the files of instruments: NumPy, MATLAB, HDF5, NIfTI, DICOM and TIFF, read and written in their units.

A `Stored` keeps what its file says besides the values (affine, spacing, name, attributes), so that a result can be
written in the same format. h5py, nibabel and pydicom are imported when a file of theirs is read.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from randomwalk.errors import InputError
from randomwalk.images.kinds import ARRAY_SUFFIXES, array_suffix
from randomwalk.lookup import optional_library, printable

MOST_VALUES = 2**31
"""Most entries of an array: 8 GiB in single precision."""
MOST_NAMES = 10
"""Arrays of a file that are named in a message."""
WANTED = {
    (2, 3): "an image with 2, or 3 with channels or slices",
    (1, 2, 3): "a measurement with 1 to 3, or more with data.axis, the axis of the slices",
    (2, 3, 4): "slices of measurements, with 2 to 4",
}
"""Expected arrays in messages, by the numbers of axes that they may have."""
DICOM_MARK = (128, b"DICM")
MATLAB_CLASSES = (
    "double",
    "single",
    "logical",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
TIFF_MODES = ("F", "I", "I;16", "I;16B", "L")
DESCRIPTION = 270
KEPT_TAGS = (DESCRIPTION, 282, 283, 296)
"""TIFF tags that are written again: description, resolution across and down, and its unit."""


@dataclass(frozen=True)
class Stored:
    """An array with what its file says besides the values.

    Attributes:
        values: finite real or complex numbers in the units of the file, with two or three axes.
        suffix: of files of this format.
        about: what the format keeps besides.
    """

    values: np.ndarray
    suffix: str
    about: Any = None


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        what: its name in messages.
        read: ``read(path, dataset)`` gives the values and what else the file says, or raises any error.
        write: ``write(values, like)`` gives the bytes of a file.
        named: whether a file has arrays with names.
    """

    what: str
    read: Callable[[Path, str | None], tuple[np.ndarray, Any]]
    write: Callable[[np.ndarray, Stored], bytes]
    named: bool = False


def suffix_of(path: Path) -> str:
    """Suffix of a file's format, ``.dcm`` for a DICOM file without one; empty if it is of no known format."""
    found = array_suffix(path.name).lower()
    if found or path.suffix.lower() in (*ARRAY_SUFFIXES, ".gz"):
        return found
    try:
        with path.open("rb") as file:
            file.seek(DICOM_MARK[0])
            return ".dcm" if file.read(4) == DICOM_MARK[1] else ""
    except OSError:
        return ""


def read(path: Path, dataset: str | None = None, axes: Sequence[int] = (2, 3)) -> Stored:
    """Read an array of finite numbers.

    Nothing in the file is executed, and its size is checked before its values are read.

    Args:
        path: the file.
        dataset: name of the array, in formats whose files have several; None takes the only one.
        axes: numbers of axes that it may have.

    Raises:
        InputError: it is damaged, has no such array, or a library that reads it is missing.
    """
    if not path.is_file():  # reading a pipe would wait for its writer
        raise InputError(f"{path}: is not a file")
    suffix = suffix_of(path)
    if not suffix:
        raise InputError(f"{path}: is of no format of arrays; expected {', '.join(ARRAY_SUFFIXES)}")
    kind = FORMATS[suffix]
    try:
        if dataset is not None and not kind.named:
            raise ValueError(f"data.dataset names {dataset!r}, but its one array has no name; remove data.dataset")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about entries of headers that nothing here reads
            values, about = kind.read(path, dataset)
        _check(values.shape, values.dtype)
        if values.ndim not in axes:
            shown = "x".join(map(str, values.shape))
            raise ValueError(f"it has {values.ndim} axes ({shown}); expected {WANTED[tuple(axes)]}")
        if not np.isfinite(values).all():
            raise ValueError("it has entries that are not finite numbers")
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as {kind.what}: {printable(reason)[:300]}") from error
    return Stored(values, suffix, about)


def without_places(like: Stored) -> Stored:
    """The array without what its file says about the places of pixels, for an image made from what is no image.

    NIfTI and DICOM, which are about places, become NumPy.
    """
    if like.suffix in (".npy", ".npz", ".mat"):
        return like
    if FORMATS[like.suffix] is _HDF5:
        name, _, parts = like.about
        return Stored(like.values, like.suffix, (name, {}, parts))
    if FORMATS[like.suffix] is _TIFF:
        return Stored(like.values, like.suffix, {tag: text for tag, text in like.about.items() if tag == DESCRIPTION})
    return Stored(like.values, ".npy")


def encode(values: np.ndarray, like: Stored) -> bytes:
    """Encode an array in the format of another.

    Precision is that of the other, single at least. Where the image is larger or smaller, the spacing of its pixels
    and their places change with it, so that it covers the same area.

    Args:
        values: real or complex, with as many axes as ``like.values``.
        like: the array that it was made from.
    """
    values = values.astype(
        np.result_type(like.values.real.dtype, np.complex64 if np.iscomplexobj(values) else np.float32)
    )
    return FORMATS[like.suffix].write(np.ascontiguousarray(values), like)


def _check(shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuse what is no image and no volume, by what the header of a file says."""
    shown = "x".join(map(str, shape)) or "a single number"
    if dtype.kind not in "fiubc":
        raise ValueError(f"it holds {'objects' if dtype.kind == 'O' else dtype}, not numbers")
    if 0 in shape:
        raise ValueError(f"it is empty ({shown})")
    if np.prod(shape, dtype=float) > MOST_VALUES:
        raise ValueError(f"it has {shown} entries; allowed: at most {MOST_VALUES:,}")


def _chosen(names: Iterable[str], dataset: str | None) -> str:
    """Name of the array to take from a file that has these."""
    names = list(names)
    shown = ", ".join(map(printable, names[:MOST_NAMES])) + (", ..." if len(names) > MOST_NAMES else "")
    if dataset is not None and dataset not in names:
        raise ValueError(f"it has no array {dataset!r} (data.dataset); it has {shown or 'none'}")
    if dataset is None and len(names) != 1:
        raise ValueError(
            f"it has {len(names)} arrays ({shown}); name one by data.dataset" if names else "it has no array"
        )
    return dataset or names[0]


# --- NumPy -----------------------------------------------------------------------------------------------------------


def _read_npy(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    # Mapped, so that a header with an absurd shape is noticed before there is memory for it.
    found = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(found, np.ndarray):
        raise ValueError("it holds several arrays; call it .npz")
    _check(found.shape, found.dtype)
    return np.array(found), None


def _write_npy(values: np.ndarray, like: Stored) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def _read_npz(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("it holds one array; call it .npy")
    with archive:
        name = _chosen(archive.files, dataset)
        member = name if name in archive.zip.namelist() else f"{name}.npy"
        if archive.zip.getinfo(member).file_size > 16 * MOST_VALUES:
            raise ValueError(f"{name} is larger than {MOST_VALUES:,} entries")
        return np.asarray(archive[name]), name


def _write_npz(values: np.ndarray, like: Stored) -> bytes:
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **{like.about: values})
    return out.getvalue()


# --- MATLAB and HDF5 -------------------------------------------------------------------------------------------------


def _read_mat(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    with path.open("rb") as file:
        is_hdf5 = b"MATLAB 7.3" in file.read(128)
    if is_hdf5:
        values, about = _read_h5(path, dataset)
        return values.T, about[0]  # of columns, one after the other
    found = {name: shape for name, shape, kind in scipy.io.whosmat(path) if kind in MATLAB_CLASSES}
    name = _chosen(found, dataset)
    _check(found[name], np.dtype(float))
    return np.asarray(scipy.io.loadmat(path, variable_names=[name])[name]), name


def _write_mat(values: np.ndarray, like: Stored) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, {like.about.rpartition("/")[2]: values})
    text = b"MATLAB 5.0 MAT-file".ljust(116)  # without the date, so that the same array gives the same file
    return text + out.getvalue()[116:]


def _read_h5(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    h5py = optional_library("h5py", "instruments", f"reading {path.name}")
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: found.__setitem__(name, item) if isinstance(item, h5py.Dataset) else None)
        arrays = [name for name, item in found.items() if _has_numbers(item) and not name.startswith("#")]
        wanted = None if dataset is None else dataset.strip("/")
        name = _chosen([wanted] if wanted in found else arrays, wanted)
        item = found[name]
        parts = _parts_of(item.dtype)
        _check(item.shape or (), np.dtype(complex) if parts else item.dtype)
        values = item[()]
        if parts:
            values = values[parts[0]] + 1j * values[parts[1]]
        kept = {key: value for key, value in item.attrs.items() if np.asarray(value).dtype.kind in "fiubcSU"}
        return values, (name, kept, parts)


def _has_numbers(item: Any) -> bool:
    """Whether a dataset of HDF5 may be an image: numbers with two axes or more, and no text of MATLAB."""
    is_text = item.attrs.get("MATLAB_class") in (b"char", "char")
    return len(item.shape or ()) > 1 and (item.dtype.kind in "fiubc" or bool(_parts_of(item.dtype))) and not is_text


def _parts_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """Names of the two parts of complex numbers that are stored as pairs; empty for other types."""
    names = tuple(dtype.names or ())
    return names if names in (("real", "imag"), ("re", "im"), ("r", "i")) else ()


def _write_h5(values: np.ndarray, like: Stored) -> bytes:
    h5py = optional_library("h5py", "instruments", "writing HDF5")
    (name, kept, parts), out = like.about, io.BytesIO()
    if parts and np.iscomplexobj(values):
        pairs = np.empty(values.shape, [(part, values.real.dtype) for part in parts])
        pairs[parts[0]], pairs[parts[1]] = values.real, values.imag
        values = pairs
    with h5py.File(out, "w") as file:
        file.create_dataset(name, data=values).attrs.update(kept)
    return out.getvalue()


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _read_nifti(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    nibabel = optional_library("nibabel", "instruments", f"reading {path.name}")
    image = nibabel.load(path)
    shape = tuple(image.shape)
    while len(shape) > 2 and shape[-1] == 1:  # time, or the third axis of an image
        shape = shape[:-1]
    _check(shape, image.get_data_dtype())
    values = np.asanyarray(image.dataobj).reshape(shape)
    return values, (type(image), image.affine, image.header.copy(), len(image.shape))


def _write_nifti(values: np.ndarray, like: Stored) -> bytes:
    kind, affine, header, axes = like.about
    change = np.eye(4)
    for k, (before, after) in enumerate(zip(like.values.shape, values.shape, strict=True)):
        change[k, k] = before / after
        change[k, 3] = (before / after - 1) / 2  # the first pixel's centre, in those of before
    header = header.copy()
    header.set_data_dtype(values.dtype)
    image = kind(values.reshape(*values.shape, *[1] * (axes - values.ndim)), affine @ change, header)
    data = image.to_bytes()
    return gzip.compress(data, mtime=0) if like.suffix == ".nii.gz" else data


# --- DICOM -----------------------------------------------------------------------------------------------------------


def _read_dicom(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    pydicom = optional_library("pydicom", "instruments", f"reading {path.name}")
    header = pydicom.dcmread(path)
    if "PixelData" not in header and "FloatPixelData" not in header:
        raise ValueError("it has no pixels")
    if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise ValueError("its pixels are colours; expected one number for each")
    for key in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if any("PixelValueTransformationSequence" in group for group in header.get(key) or ()):
            raise ValueError("its frames have units of their own (an enhanced object); save one file for each frame")
    frames = int(header.get("NumberOfFrames") or 1)
    shape = (*([frames] if frames > 1 else []), int(header.Rows), int(header.Columns))
    _check(shape, np.dtype(float))
    values = pydicom.pixels.apply_modality_lut(header.pixel_array, header)
    return values.reshape(shape), header


def _write_dicom(values: np.ndarray, like: Stored) -> bytes:
    """Write 16 bits from the least to the largest value; where slices are missing, the least."""
    pydicom = optional_library("pydicom", "instruments", "writing DICOM")
    header, as_text = copy.deepcopy(like.about), pydicom.valuerep.format_number_as_ds
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    header.RescaleIntercept, header.RescaleSlope = as_text(low), as_text((high - low) / 65535 or 1.0)
    steps = (values - float(header.RescaleIntercept)) / float(header.RescaleSlope)
    pixels = np.nan_to_num(steps).round().clip(0, 65535).astype("<u2").tobytes()
    for key in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
                "ModalityLUTSequence", "FloatPixelData"):  # fmt: skip
        if key in header:
            delattr(header, key)
    (rows, columns), (old_rows, old_columns) = values.shape[-2:], like.values.shape[-2:]
    if "PixelSpacing" in header and (rows, columns) != (old_rows, old_columns):
        before = [float(spacing) for spacing in header.PixelSpacing]
        after = [before[0] * old_rows / rows, before[1] * old_columns / columns]
        if "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
            along = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)  # a row, then a column
            moved = along[0] * (after[1] - before[1]) / 2 + along[1] * (after[0] - before[0]) / 2
            place = np.array(header.ImagePositionPatient, dtype=float) + moved
            header.ImagePositionPatient = [as_text(float(x)) for x in place]
        header.PixelSpacing = [as_text(spacing) for spacing in after]
    header.Rows, header.Columns = rows, columns
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.ImageType = ["DERIVED", "SECONDARY", *list(header.get("ImageType", []))[2:]]
    old = str(header.get("SOPInstanceUID", ""))
    header.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[old, hashlib.sha256(pixels).hexdigest()])
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.PixelData = pixels
    header["PixelData"].VR = "OW"
    out = io.BytesIO()
    pydicom.dcmwrite(out, header, enforce_file_format=True)
    return out.getvalue()


# --- TIFF ------------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path, dataset: str | None) -> tuple[np.ndarray, Any]:
    with Image.open(path, formats=["TIFF"]) as image:
        tags = {tag: image.tag_v2[tag] for tag in KEPT_TAGS if tag in image.tag_v2}  # type: ignore[attr-defined]
        pages = []
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            if image.mode not in TIFF_MODES:
                raise ValueError(f"its pixels are of the kind {image.mode}; expected one number for each")
            pages.append(np.array(image))
    if len({page.shape for page in pages}) > 1:
        raise ValueError("its pages have different sizes")
    return pages[0] if len(pages) == 1 else np.stack(pages), tags


def _write_tiff(values: np.ndarray, like: Stored) -> bytes:
    pages = [Image.fromarray(page.astype(np.float32)) for page in values.reshape(-1, *values.shape[-2:])]
    tags = dict(like.about)
    for tag, axis in ((282, -1), (283, -2)):
        if tag in tags:
            tags[tag] = float(tags[tag]) * values.shape[axis] / like.values.shape[axis]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tags)
    return out.getvalue()


_NIFTI = Format("NIfTI", _read_nifti, _write_nifti)
_HDF5 = Format("HDF5", _read_h5, _write_h5, named=True)
_TIFF = Format("a TIFF file of numbers", _read_tiff, _write_tiff)
_DICOM = Format("DICOM", _read_dicom, _write_dicom)
FORMATS = {
    ".npy": Format("a .npy file of numbers", _read_npy, _write_npy),
    ".npz": Format("a .npz file of numbers", _read_npz, _write_npz, named=True),
    ".mat": Format("a MATLAB file", _read_mat, _write_mat, named=True),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".dcm": _DICOM,
    ".dicom": _DICOM,
    ".ima": _DICOM,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
"""Formats by the suffix of their files."""
