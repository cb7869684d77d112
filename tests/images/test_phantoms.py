"""Phantoms: their ranges, their draws, and parts that must be there."""

from __future__ import annotations

import plistlib
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from randomwalk.errors import InputError
from randomwalk.images import phantoms
from randomwalk.images.phantoms import draws_of

ROOT = Path(__file__).parents[2]
NUMBER = 12


def template() -> phantoms.Tissues:
    """A ball of white matter in a shell of grey matter."""
    z, y, x = np.mgrid[:40, :48, :40]
    radius = np.sqrt((z - 20) ** 2 + (y - 24) ** 2 + (x - 20) ** 2)
    brain, grey, white = radius < 16, (radius >= 10) & (radius < 15), radius < 10
    return phantoms.Tissues(brain.astype(np.float32), grey.astype(np.float32), white.astype(np.float32))


def test_bodies_are_tissue_in_air_with_bone_and_holes() -> None:
    bodies = np.stack([phantoms.body(64, draws_of(k)) for k in range(NUMBER)])
    assert bodies.dtype == np.float32 and bodies.shape == (NUMBER, 64, 64)
    assert bodies.min() == 0 and bodies.max() <= phantoms.MOST
    assert (bodies[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()  # air around
    water = np.abs(bodies / phantoms.WATER - 1) < 0.2
    assert 0.2 < water.mean() < 0.8
    inner = np.stack([phantoms.body(64, draws_of(k))[20:44, 20:44] for k in range(40)])
    assert (inner > 0.3).any((1, 2)).mean() > 0.6  # bones, not only around
    assert len(np.unique(bodies[0])) > 100  # texture


def test_slices_are_complex_with_a_smooth_phase_and_bounded_magnitudes() -> None:
    tissues = template()
    slices = np.stack([phantoms.brain_slice(tissues, 64, draws_of(k)) for k in range(NUMBER)])
    assert slices.dtype == np.complex64 and slices.shape == (NUMBER, 64, 64)
    magnitude = np.abs(slices)
    assert ((magnitude.max((1, 2)) > 0.5) & (magnitude.max((1, 2)) < 1.6)).all()
    both = (magnitude[:, :, 1:] > 0.05) & (magnitude[:, :, :-1] > 0.05)
    turns = np.angle(slices[:, :, 1:] * slices[:, :, :-1].conj())
    assert np.abs(turns[both]).max() < 0.5 and np.abs(turns[both]).mean() > 0.001
    assert np.std(np.angle(slices[magnitude > 0.1])) > 1  # any phase


def test_a_phantom_depends_on_its_draws_alone() -> None:
    for make in (lambda k: phantoms.body(32, draws_of(k)), lambda k: phantoms.brain_slice(template(), 32, draws_of(k))):
        np.testing.assert_array_equal(make(3), make(3))
        assert np.abs(make(3) - make(4)).max() > 0.1


def test_a_missing_template_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there; the package nilearn has it"):
        phantoms.read_tissues(tmp_path)


def test_the_script_writes_arrays_that_do_not_depend_on_their_number(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "data" / "phantoms.py"), "tomography", str(tmp_path), "--side", "16"]
    subprocess.run([*script, "--number", "2", "--first", "5"], check=True, capture_output=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00005.npy", "00006.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "00006.npy"), phantoms.body(16, draws_of(6)))
    refused = subprocess.run([sys.executable, script[1], "mri", str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 2 and "mri needs --template" in refused.stderr


def test_scans_become_slices_in_the_units_of_the_networks(tmp_path: Path) -> None:
    """A head of water and bone in Hounsfield units, and one of magnitudes, as their programs write them."""
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    volume = np.full((6, 32, 32), -1000, np.int16)
    volume[:, 8:24, 8:24], volume[:, 16, 16] = 0, 3000
    raw = tmp_path / "matrix.dat"
    raw.write_bytes(volume.tobytes())
    about = {"matrix": {"filename": "matrix.dat", "dtype": "int16", "shape": list(volume.shape)}}
    (tmp_path / "main.plist").write_bytes(plistlib.dumps(about))
    with tarfile.open(tmp_path / "head.inv3", "w:gz") as archive:
        for name in ("main.plist", "matrix.dat"):
            archive.add(tmp_path / name, f"folder/{name}")
    nibabel.save(nibabel.Nifti1Image(np.pad(volume + 1000, 4), np.eye(4)), tmp_path / "head.nii.gz")
    script = [sys.executable, str(ROOT / "data" / "phantoms.py")]
    for kind, file in (("ct_scan", "head.inv3"), ("scan", "head.nii.gz")):
        out = [str(tmp_path / kind), "--volume", str(tmp_path / file), "--number", "2", "--side", "16"]
        subprocess.run([*script, kind, *out], check=True, capture_output=True)
    body = np.load(tmp_path / "ct_scan" / "00001.npy")
    assert body.shape == (16, 16) and body.dtype == np.float32
    assert body[0, 0] == 0 and body[5, 5] == pytest.approx(0.2) and body.max() > 0.3  # air, water, bone
    head = np.load(tmp_path / "scan" / "00001.npy")
    assert head.shape == (16, 16) and head.dtype == np.complex64 and 0.9 < np.abs(head).max() < 1.1
