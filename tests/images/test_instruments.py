"""Arrays of instruments: read, written back in the same format and units, and refused by one message each."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from array_tools import (
    AFFINE,
    COMPLEX,
    NAMED,
    SAVE,
    SUFFIXES,
    dicom,
    library,
    npy_bytes,
    save,
    save_dicom,
    save_h5,
    save_nifti,
    scan,
)  # fmt: skip
from PIL import Image

from randomwalk.errors import InputError
from randomwalk.images import instruments
from randomwalk.images.array_source import open_arrays

# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(6, 9), (4, 6, 9)])
def test_an_array_is_read_and_written_in_its_format(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    library(suffix)
    values = scan(*shape)
    stored = instruments.read(save(tmp_path / f"a{suffix}", values))
    np.testing.assert_array_equal(stored.values, values)
    result = values * 0.5 + 3
    data = instruments.encode(result, stored)
    assert data == instruments.encode(result, stored)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"b{suffix}").write_bytes(data)
    again = instruments.read(tmp_path / "out" / f"b{suffix}")
    step = np.ptp(result) / 65535 if suffix == ".dcm" else 0  # 16 bits, rounded to the nearest
    np.testing.assert_allclose(again.values, result, atol=0.5001 * step, rtol=0)


@pytest.mark.parametrize("suffix", COMPLEX)
def test_complex_numbers_stay_complex(suffix: str, tmp_path: Path) -> None:
    library(suffix)
    values = (scan(5, 7) + 1j * scan(5, 7, seed=1)).astype(np.complex64)
    stored = instruments.read(save(tmp_path / f"a{suffix}", values))
    np.testing.assert_array_equal(stored.values, values)
    (tmp_path / f"b{suffix}").write_bytes(instruments.encode(2 * values, stored))
    np.testing.assert_array_equal(instruments.read(tmp_path / f"b{suffix}").values, 2 * values)


def test_double_precision_and_whole_numbers_keep_what_they_can(tmp_path: Path) -> None:
    for dtype, expected in (("f8", "f8"), ("f2", "f4"), ("i2", "f4"), ("i4", "f8"), (">f4", "f4"), ("?", "f4")):
        stored = instruments.read(save(tmp_path / "a.npy", np.eye(3).astype(dtype)))
        (tmp_path / "b.npy").write_bytes(instruments.encode(np.eye(3) + 1e-12, stored))
        assert np.load(tmp_path / "b.npy").dtype == np.dtype(expected), dtype


def test_nifti_keeps_affine_units_and_description(tmp_path: Path) -> None:
    nibabel = library(".nii")
    stored = instruments.read(save(tmp_path / "a.nii.gz", scan(6, 9, 4)))
    (tmp_path / "b.nii.gz").write_bytes(instruments.encode(scan(6, 9, 4), stored))
    again = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(again.affine, AFFINE)
    assert again.header.get_xyzt_units() == ("mm", "sec") and again.header["descrip"] == b"a scan"
    assert again.header.get_zooms() == nibabel.load(tmp_path / "a.nii.gz").header.get_zooms() == (1.5, 2.0, 3.0)


def test_an_enlarged_nifti_covers_the_same_place(tmp_path: Path) -> None:
    nibabel = library(".nii")
    stored = instruments.read(save(tmp_path / "a.nii", scan(6, 9, 4)))
    (tmp_path / "b.nii").write_bytes(instruments.encode(scan(12, 27, 4), stored))
    before, after = nibabel.load(tmp_path / "a.nii").affine, nibabel.load(tmp_path / "b.nii").affine
    for corner, larger in (([-0.5, -0.5, 0], [-0.5, -0.5, 0]), ([5.5, 8.5, 3], [11.5, 26.5, 3])):
        np.testing.assert_allclose(after @ [*larger, 1], before @ [*corner, 1], atol=1e-5)


def test_nifti_of_one_slice_and_scaled_whole_numbers(tmp_path: Path) -> None:
    nibabel = library(".nii")
    image = nibabel.Nifti1Image(np.arange(54, dtype=np.int16).reshape(6, 9, 1, 1), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    stored = instruments.read(tmp_path / "a.nii")
    slope, inter = nibabel.load(tmp_path / "a.nii").dataobj.slope, nibabel.load(tmp_path / "a.nii").dataobj.inter
    np.testing.assert_allclose(stored.values, slope * np.arange(54).reshape(6, 9) + inter)
    (tmp_path / "b.nii").write_bytes(instruments.encode(stored.values * 2, stored))
    again = nibabel.load(tmp_path / "b.nii")
    assert again.shape == (6, 9, 1, 1)
    np.testing.assert_allclose(np.asarray(again.dataobj)[..., 0, 0], stored.values * 2)


def test_dicom_is_read_in_units_and_the_result_is_a_new_derived_image(tmp_path: Path) -> None:
    pydicom = library(".dcm")
    numbers = np.arange(54).reshape(6, 9) * 40
    dicom(numbers, slope=0.5, intercept=-1024).save_as(tmp_path / "IM0001", enforce_file_format=True)
    stored = instruments.read(tmp_path / "IM0001")  # DICOM by its content
    np.testing.assert_array_equal(stored.values, numbers * 0.5 - 1024)
    result = np.linspace(-3000.123, 5000.7, 12 * 9).reshape(12, 9)  # beyond the range of the file
    (tmp_path / "b.dcm").write_bytes(instruments.encode(result, stored))
    again = pydicom.dcmread(tmp_path / "b.dcm")
    found = again.pixel_array * float(again.RescaleSlope) + float(again.RescaleIntercept)
    assert np.abs(found - result).max() < 0.51 * 8001 / 65535
    assert again.PatientName == "Doe^J" and again.StudyInstanceUID == "1.2.3" and again.SliceThickness == 3
    assert again.SOPInstanceUID != "1.2.3.4" and again.ImageType[0] == "DERIVED"
    assert list(again.PixelSpacing) == [0.75, 2.0]  # twice as many rows on the same area
    assert list(again.ImagePositionPatient) == [10.0, 20 - 0.375, 30.0]


def test_hdf5_keeps_name_attributes_and_pairs(tmp_path: Path) -> None:
    h5py = library(".h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        pairs = np.zeros((5, 6), [("real", "f4"), ("imag", "f4")])
        pairs["real"], pairs["imag"] = scan(5, 6), scan(5, 6, seed=1)
        file["raw/kspace"] = pairs
        file["raw/kspace"].attrs["unit"] = "T"
        file["raw/time"] = np.arange(5.0)
        file["other"] = np.ones((3, 3))
    stored = instruments.read(tmp_path / "a.h5", "raw/kspace")
    np.testing.assert_array_equal(stored.values, scan(5, 6) + 1j * scan(5, 6, seed=1))
    (tmp_path / "b.h5").write_bytes(instruments.encode(stored.values, stored))
    with h5py.File(tmp_path / "b.h5") as file:
        item = file["raw/kspace"]
        assert item.attrs["unit"] == "T" and item.dtype.names == ("real", "imag") and list(file) == ["raw"]
        np.testing.assert_array_equal(item["imag"], scan(5, 6, seed=1))


def test_matlab_7_3_is_read_with_its_axes_in_order(tmp_path: Path) -> None:
    h5py = library(".h5")
    values = scan(5, 7)
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["scan"] = values.T  # MATLAB stores columns one after the other
        file["label"] = np.array([[72, 105]], np.uint16)
        file["label"].attrs["MATLAB_class"] = np.bytes_("char")
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + data[512:])
    stored = instruments.read(tmp_path / "a.mat")
    np.testing.assert_array_equal(stored.values, values)
    (tmp_path / "b.mat").write_bytes(instruments.encode(values + 1, stored))
    np.testing.assert_array_equal(scipy.io.loadmat(tmp_path / "b.mat")["scan"], values + 1)


def test_tiff_keeps_its_resolution_and_description(tmp_path: Path) -> None:
    stored = instruments.read(save(tmp_path / "a.tif", scan(6, 9)))
    (tmp_path / "b.tif").write_bytes(instruments.encode(scan(12, 9), stored))
    with Image.open(tmp_path / "b.tif") as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        assert tags[270] == "a scan" and (float(tags[282]), float(tags[283])) == (100, 100) and tags[296] == 3


def test_one_of_several_arrays_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=scan(3, 4), two=scan(4, 5))
    stored = instruments.read(tmp_path / "a.npz", "two")
    np.testing.assert_array_equal(stored.values, scan(4, 5))
    (tmp_path / "b.npz").write_bytes(instruments.encode(stored.values, stored))
    with np.load(tmp_path / "b.npz") as archive:
        assert archive.files == ["two"]


# --- damaged and odd files -------------------------------------------------------------------------------------------

Make = Callable[[Path], object]


def bad(value: float) -> np.ndarray:
    values = scan(6, 9)
    values[2, 3] = value
    return values


def cut_short(path: Path, make: Make, share: float = 0.6) -> None:
    """Keep the beginning of a good file."""
    make(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def of_any(suffix: str) -> dict[str, tuple[Make, str]]:
    """Odd files of every kind, and a word of the message about each."""
    put = SAVE[suffix]
    return {
        "no bytes": (lambda path: path.write_bytes(b""), "cannot be read"),
        "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4000)), "cannot be read"),
        "a page of the web": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 99), "cannot be read"),
        "a pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "cannot be read"),
        "cut short": (lambda path: cut_short(path, lambda p: put(p, scan(40, 50))), "cannot be read"),
        "only a beginning": (lambda path: cut_short(path, lambda p: put(p, scan(40, 50)), 0.01), "cannot be read"),
        "a folder": (lambda path: path.mkdir(), "is not a file"),
    }  # fmt: skip


def of_numbers(suffix: str) -> dict[str, tuple[Make, str]]:
    """Files of a format that holds any numbers."""
    put = SAVE[suffix]
    return {
        "NaN": (lambda path: put(path, bad(np.nan)), "not finite"),
        "infinite": (lambda path: put(path, bad(-np.inf)), "not finite"),
        "five axes": (lambda path: put(path, np.ones((2, 3, 2, 3, 2), np.float32)), "5 axes (2x3x2x3x2)"),
    }


def of_arrays(suffix: str) -> dict[str, tuple[Make, str]]:
    """Files of a format that holds arrays of any kind."""
    put = SAVE[suffix]
    return {
        "empty": (lambda path: put(path, np.ones((0, 5))), "is empty (0x5)"),
        "a text": (lambda path: put(path, np.array([["a", "b"], ["c", "d"]])), "not numbers"),
        "a line": (lambda path: put(path, np.ones(5)), "1 axes"),
    }


class Bomb:
    """Object whose unpickling fails the test."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def pickled() -> np.ndarray:
    return np.array([[Bomb(), Bomb()]], dtype=object)


def absurd(path: Path) -> None:
    with path.open("wb") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (999_999, 999_999)}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(bytes(400))


def several(path: Path, **arrays: Any) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, arrays)
    else:
        save_h5(path, **arrays)


def many_entries(path: Path) -> None:
    with library(".h5").File(path, "w") as file:
        file.create_dataset("scan", shape=(10**6, 10**6), dtype="f4", chunks=(100, 100))  # takes no space


def npz_of_junk(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scan.npy", b"junk")


def nifti_of_shape(path: Path, *shape: int) -> None:
    """A header that promises more than there is."""
    save_nifti(path, scan(6, 9))
    data = bytearray(path.read_bytes() if path.suffix == ".nii" else gzip.decompress(path.read_bytes()))
    data[40:56] = np.array([len(shape), *shape, *[1] * (7 - len(shape))], "<i2").tobytes()
    path.write_bytes(bytes(data) if path.suffix == ".nii" else gzip.compress(bytes(data)))


def not_compressed(path: Path) -> None:
    save_nifti(path.with_suffix(".nii"), scan(6, 9))
    path.with_suffix(".nii").rename(path)


def nifti_of_colours(path: Path) -> None:
    save_nifti(path, np.zeros((4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def pages_of_two_sizes(path: Path) -> None:
    pages = [Image.fromarray(scan(4, 5)), Image.fromarray(scan(6, 5))]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def enhanced(path: Path) -> None:
    pydicom = library(".dcm")
    group = pydicom.Dataset()
    group.PixelValueTransformationSequence = [pydicom.Dataset()]
    save_dicom(path, scan(6, 9), SharedFunctionalGroupsSequence=[group])


def without_pixels(path: Path) -> None:
    header = dicom(scan(6, 9))
    del header.PixelData
    header.save_as(path, enforce_file_format=True)


ODD: dict[str, dict[str, tuple[Make, str]]] = {
    ".npy": of_any(".npy") | of_numbers(".npy") | of_arrays(".npy") | {
        "objects": (lambda path: np.save(path, pickled(), allow_pickle=True), "objects"),
        "fields": (lambda path: np.save(path, np.zeros((3, 3), [("a", "f4"), ("b", "i4")])), "not numbers"),
        "absurd shape": (absurd, "mmap length"),
        "an archive": (lambda path: path.write_bytes(_zipped()), "call it .npz"),
        "dates": (lambda path: np.save(path, np.zeros((3, 3), "M8[s]")), "not numbers"),
    },
    ".npz": of_any(".npz") | of_numbers(".npz") | of_arrays(".npz") | {
        "objects": (lambda path: np.savez(path, scan=pickled()), "allow_pickle"),
        "two arrays": (lambda path: several(path, a=scan(3, 4), b=scan(3, 4)), "2 arrays (a, b); name one"),
        "no array": (lambda path: np.savez(path), "no array"),
        "junk inside": (npz_of_junk, "cannot be read"),
        "a single array": (lambda path: path.write_bytes(npy_bytes(scan(3, 4))), "call it .npy"),
    },
    ".mat": of_any(".mat") | {
        **of_numbers(".mat"),
        "empty": of_arrays(".mat")["empty"],
        "a text": (lambda path: several(path, scan="text"), "no array"),
        "cells": (lambda path: several(path, scan=np.array([[1, "a"]], dtype=object)), "no array"),
        "a struct": (lambda path: several(path, scan={"x": scan(3, 4)}), "no array"),
        "sparse": (lambda path: several(path, scan=scipy.sparse.eye(4).tocsc()), "no array"),
        "two arrays": (lambda path: several(path, a=scan(3, 4), b=scan(3, 4)), "2 arrays (a, b); name one"),
    },
    ".h5": of_any(".h5") | {
        **of_numbers(".h5"),
        "empty": of_arrays(".h5")["empty"],
        "a text": (lambda path: several(path, scan="text"), "no array"),
        "a line": (lambda path: several(path, scan=np.ones(5)), "no array"),
        "two arrays": (lambda path: several(path, a=scan(3, 4), b=scan(3, 4)), "2 arrays (a, b); name one"),
        "more than there is memory for": (many_entries, "allowed: at most"),
    },
    ".nii": of_any(".nii") | of_numbers(".nii") | {
        "absurd shape": (lambda path: nifti_of_shape(path, 30000, 30000, 30000), "allowed: at most"),
        "a larger shape": (lambda path: nifti_of_shape(path, 600, 900), "cannot be read"),
        "a negative shape": (lambda path: nifti_of_shape(path, 6, -9), "cannot be read"),
        "empty": (lambda path: nifti_of_shape(path, 6, 0), "is empty (6x0)"),
        "colours": (nifti_of_colours, "not numbers"),
    },
    ".dcm": of_any(".dcm") | {
        "colours": (lambda path: save_dicom(path, scan(6, 9), SamplesPerPixel=3), "colours"),
        "a palette": (lambda path: save_dicom(path, scan(6, 9), PhotometricInterpretation="PALETTE COLOR"), "colours"),
        "no pixels": (without_pixels, "no pixels"),
        "fewer pixels than rows": (lambda path: save_dicom(path, scan(6, 9), Rows=600), "cannot be read"),
        "units for each frame": (enhanced, "units of their own"),
        "no rows": (lambda path: save_dicom(path, scan(6, 9), Rows=0), "is empty (0x9)"),
        "absurd frames": (lambda path: save_dicom(path, scan(6, 9), NumberOfFrames=10**9), "allowed: at most"),
        "an unknown compression": (
            lambda path: _with_syntax(path, "1.2.840.10008.1.2.4.100"), "cannot be read",
        ),
        "infinite slope": (lambda path: save_dicom(path, scan(6, 9), RescaleSlope="1e400"), "cannot be read"),
    },
    ".tif": of_any(".tif") | {
        "NaN": of_numbers(".tif")["NaN"],
        "infinite": of_numbers(".tif")["infinite"],
        "colours": (lambda path: Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path), "the kind RGB"),
        "a palette": (lambda path: Image.new("P", (4, 5)).save(path), "the kind P"),
        "pages of two sizes": (pages_of_two_sizes, "different sizes"),
        "a PNG": (lambda path: Image.new("L", (4, 5)).save(path, "PNG"), "cannot be read"),
    },
}  # fmt: skip
ODD[".nii.gz"] = of_any(".nii.gz") | of_numbers(".nii.gz") | {
    "not compressed": (not_compressed, "cannot be read"),
    "a larger shape": (lambda path: nifti_of_shape(path, 600, 900), "cannot be read"),
}  # fmt: skip


def _zipped() -> bytes:
    out = io.BytesIO()
    np.savez(out, scan=scan(3, 4))
    return out.getvalue()


def _with_syntax(path: Path, syntax: str) -> None:
    header = dicom(scan(6, 9))
    header.file_meta.TransferSyntaxUID = syntax
    pydicom = library(".dcm")
    header.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    header["PixelData"].is_undefined_length = True
    header.save_as(path, enforce_file_format=True)


CASES = [(suffix, what) for suffix, cases in ODD.items() for what in cases]


def test_there_are_ten_of_each_kind() -> None:
    assert set(ODD) == set(SUFFIXES) and all(len(cases) >= 10 for cases in ODD.values())


@pytest.mark.parametrize(("suffix", "what"), CASES, ids=lambda text: text)
def test_an_odd_file_is_one_message(suffix: str, what: str, tmp_path: Path) -> None:
    library(suffix)
    make, words = ODD[suffix][what]
    path = tmp_path / f"a{suffix}"
    make(path)
    with pytest.raises(InputError) as caught:
        instruments.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message and len(message) < 600


@pytest.mark.parametrize("suffix", NAMED)
def test_a_name_that_is_not_there_is_answered_with_those_that_are(suffix: str, tmp_path: Path) -> None:
    library(suffix)
    several(tmp_path / f"a{suffix}", one=scan(3, 4), two=scan(3, 4))
    with pytest.raises(InputError, match=r"no array 'three' \(data\.dataset\); it has one, two"):
        instruments.read(tmp_path / f"a{suffix}", "three")


def test_a_name_is_for_formats_that_have_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its one array has no name; remove data\.dataset"):
        instruments.read(save(tmp_path / "a.npy", scan(3, 4)), "scan")


@pytest.mark.parametrize("suffix", [".h5", ".nii", ".dcm"])
def test_a_missing_library_is_one_message(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {".h5": "h5py", ".nii": "nibabel", ".dcm": "pydicom"}[suffix]
    monkeypatch.setitem(__import__("sys").modules, name, None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(InputError, match=rf"reading a{suffix} needs {name}, .*: pip install {name}"):
        instruments.read(path)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_has_its_arrays_in_order_and_names_the_rest(tmp_path: Path) -> None:
    save(tmp_path / "b" / "x.npy", scan(3, 4))
    save(tmp_path / "a.tif", scan(5, 6))
    for name in ("notes.txt", "c.png", ".hidden.npy"):
        (tmp_path / name).write_bytes(b"text")
    source = open_arrays(tmp_path)
    assert source.names == ["a.tif", "b/x.npy"] and source.left_out == ["c.png", "notes.txt"]
    assert [source.size(i) for i in range(2)] == [(5, 6), (3, 4)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_has_slices_along_its_axis(axis: int, tmp_path: Path) -> None:
    values = scan(3, 4, 5)
    source = open_arrays(save(tmp_path / "v.npy", values), axis=axis)
    assert source.names == [f"v_slice{k:04d}.npy" for k in range(values.shape[axis])]
    for k in range(len(source)):
        np.testing.assert_array_equal(source.planes(k)[0], np.take(values, k, axis))
    source.range = (-1000.0, 3000.0)
    results = {k: (source.planes(k) + 1000) / 2000 - 1 for k in range(len(source))}
    (tmp_path / "w.npy").write_bytes(source.encoded(0, results))
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), values, rtol=1e-6)
    del results[1]
    (tmp_path / "w.npy").write_bytes(source.encoded(0, results))
    missing = np.isnan(np.load(tmp_path / "w.npy"))
    assert np.take(missing, 1, axis).all() and missing.sum() == np.take(missing, 1, axis).size


def test_the_range_maps_units_and_clips_nothing(tmp_path: Path) -> None:
    source = open_arrays(save(tmp_path / "a.npy", np.array([[-1000.0, 2000.0], [500.0, 5000.0]])))
    assert source.extent() == (-1000, 5000)
    source.range = (-1000.0, 2000.0)
    x = source.load(0, 1, (2, 2), "keep")
    np.testing.assert_allclose(x[0], [[-1, 1], [0, 3]])
    assert source.picture(0).pixels[..., 0].tolist() == [[0, 255], [128, 255]]
    assert source.load(0, 3, (2, 2), "keep").shape == (3, 2, 2)


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_an_array_is_fitted_without_loss_of_precision(fit: Any, tmp_path: Path) -> None:
    values = np.full((6, 8), 0.123456789)
    source = open_arrays(save(tmp_path / "a.npy", values))
    x = source.load(0, 1, (12, 12), fit)
    assert x.shape == (1, 12, 12) and float(x[0, 6, 6]) == pytest.approx(0.123456789, abs=1e-6)
    if fit == "pad":
        assert float(x[0, 0, 0]) == -1


def test_complex_numbers_are_two_channels_and_shown_by_magnitude(tmp_path: Path) -> None:
    values = np.array([[3 + 4j, 0], [-5, 5j]]) * 2
    source = open_arrays(save(tmp_path / "a.npy", values))
    assert source.extent() == (-10, 10)
    source.range = (-10.0, 10.0)
    x = source.load(0, 2, (2, 2), "keep")
    np.testing.assert_allclose(x, [[[0.6, 0], [-1, 0]], [[0.8, 0], [0, 1]]], atol=1e-7)
    assert source.picture(0).pixels[..., 0].tolist() == [[255, 0], [255, 255]]
    (tmp_path / "b.npy").write_bytes(source.encoded(0, {0: x.numpy()}))
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), values, rtol=1e-6)
    with pytest.raises(InputError, match=r"has 2 channels \(it is complex, which takes two\), but 1 is expected"):
        source.load(0, 1, (2, 2), "keep")
    source.range = (0.0, 10.0)
    with pytest.raises(
        InputError, match=r"a\.npy: is complex, so that data\.range .* \[-high, high\]; found \[0, 10\]"
    ):
        source.load(0, 2, (2, 2), "keep")


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    source = open_arrays(save(tmp_path / "a.npy", scan(40, 6, 7)))
    with pytest.raises(InputError, match=r"has 40 channels, but 1 is expected; a volume needs data\.axis: 0, 1 or 2"):
        source.load(0, 1, (6, 7), "keep")
    flat = open_arrays(save(tmp_path / "b.npy", scan(6, 7)), axis=0)
    with pytest.raises(InputError, match=r"b\.npy: has two axes, but data\.axis is for volumes"):
        flat.size(0)
    with pytest.raises(InputError, match="all numbers are 3, which gives no range"):
        open_arrays(save(tmp_path / "c.npy", np.full((3, 3), 3.0))).extent()
    with pytest.raises(InputError, match=r"its numbers reach 1e\+12; allowed: up to 1e\+09"):
        open_arrays(save(tmp_path / "d.npy", np.eye(3) * 1e12)).extent()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no arrays in it"):
        open_arrays(tmp_path / "empty")


def test_masks_are_arrays_or_pictures_beside(tmp_path: Path) -> None:
    known = np.random.default_rng(0).random((6, 9)) > 0.4
    for name in ("a", "b"):
        save(tmp_path / f"{name}.npy", scan(6, 9))
    np.save(tmp_path / "a_mask.npy", known)
    Image.fromarray(np.where(known, 255, 0).astype(np.uint8)).save(tmp_path / "b_mask.png")
    source = open_arrays(tmp_path).without_masks()
    assert source.names == ["a.npy", "b.npy"] and source.left_out == []
    source.range = (-1000.0, 2000.0)
    for i in range(2):
        np.testing.assert_array_equal(source.mask(i).known, known)
    np.testing.assert_array_equal(source.mask(0, invert=True).known, ~known)
    before = source.digest(0, with_mask=True)
    np.save(tmp_path / "a_mask.npy", ~known)
    assert open_arrays(tmp_path).without_masks().digest(0, with_mask=True) != before
    for wrong, words in ((known[:4], "has 4x9 pixels, but a.npy has 6x9"), (np.ones((6, 9)), "keeps all pixels")):
        np.save(tmp_path / "a_mask.npy", wrong)
        with pytest.raises(InputError, match=words):
            source.mask(0)
    (tmp_path / "a_mask.npy").unlink()
    with pytest.raises(InputError, match=r"there is no a_mask\.npy or \.png next to a\.npy \(mask: beside\)"):
        source.mask(0)
