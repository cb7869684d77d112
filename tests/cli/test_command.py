"""The command `randomwalk`: dispatch, restore and check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
from PIL import Image, ImageDraw, ImageFilter
from sampling_tools import ROOT

from randomwalk.cli.main import COMMANDS, main
from randomwalk.config.files import load_sample_config
from randomwalk.sampling import run as sampling

DEGRADED = ROOT / "data" / "degraded"
SIDE = 64


def cut(name: str, folder: Path, side: int = SIDE) -> Path:
    """A corner of a degraded photograph, so that a walk takes a second."""
    path = folder / f"{name}.png"
    with Image.open(DEGRADED / path.name) as image:
        image.crop((96, 96, 96 + side, 96 + side)).save(path)
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a command is refused, with status 2 and no traceback."""
    try:
        status = main(words)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    error = capsys.readouterr().err
    assert status == 2 and "error: " in error and "Traceback" not in error
    return error


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_without_pytorch(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text('raise ImportError("torch was imported")\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "randomwalk", name, "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"usage: randomwalk {name}" in done.stdout


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["retore"], capsys)
    assert all(name in message for name in COMMANDS)


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [
        ("denoise", "noisy", []),
        ("super_resolution", "small", ["--enlarge", "2"]),
        ("inpainting", "painted", ["--fill", "painted_mask.png"]),
    ],
)
def test_restore_gives_the_pixels_of_the_config(
    task: str, name: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = cut(name, tmp_path)
    if task == "inpainting":
        cut("painted_mask", tmp_path)
    before = set(tmp_path.iterdir())
    assert main(["restore", str(photo), "--device", "cpu", *options]) == 0
    assert set(tmp_path.iterdir()) - before == {tmp_path / f"{name}_restored.png"}
    changes = [f"data.path={photo}", f"output={tmp_path / 'run'}", "device=cpu", "animation_frames=0"]
    assert sampling.run(load_sample_config(f"configs/photo_{task}.yaml", changes)) == 0
    expected = np.asarray(Image.open(tmp_path / "run" / "images" / f"0000_{name}_sample0.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"{name}_restored.png")), expected)


def test_restore_keeps_what_is_not_painted_unless_noise_is_to_be_removed(tmp_path: Path) -> None:
    """A grainy photograph with a soft red stroke; the mask is the stroke's layer of a painting program."""
    before = np.asarray(Image.open(cut("noisy", tmp_path, side := 80)))
    stroke = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(stroke).line([(20, 60), (230, 180)], fill=255, width=16)
    cover = stroke.resize((side, side), Image.Resampling.BOX)
    layer = Image.new("RGB", (side, side), (200, 20, 30))
    layer.putalpha(cover)
    layer.save(tmp_path / "layer.png")
    painted = Image.open(tmp_path / "noisy.png")
    painted.paste((200, 20, 30), mask=cover)
    painted.save(tmp_path / "noisy.png")
    words = ["restore", str(tmp_path / "noisy.png"), "--fill", str(tmp_path / "layer.png"), "--device", "cpu"]
    untouched = np.asarray(cover) == 0
    for more, kept in (([], True), (["--noise", "auto"], False), (["--photons", "auto"], False)):
        assert main([*words, *more, "--output", str(tmp_path / "filled.png"), "--overwrite"]) == 0
        after = np.asarray(Image.open(tmp_path / "filled.png"))
        near = np.asarray(cover.filter(ImageFilter.MaxFilter(3))) > 0
        assert (after[~near] == before[~near]).all() == kept
        assert (after[untouched & near] != before[untouched & near]).any()  # grown by a pixel
        red = np.abs(after[~untouched].astype(float) - (200, 20, 30)).max(1)
        assert (red > 20).mean() > 0.9


def test_restore_enlarges_what_was_reduced_without_a_filter(tmp_path: Path) -> None:
    with Image.open(ROOT / "data" / "photographs" / "astronaut.png") as image:
        truth = np.asarray(image.convert("RGB").crop((60, 20, 188, 148)))
    small = Image.fromarray(truth[::2, ::2].copy())
    small.save(tmp_path / "small.png")
    words = ["restore", str(tmp_path / "small.png"), "--enlarge", "2", "--device", "cpu", "--overwrite"]
    psnr = {}
    for kind in ("strided", "bicubic"):
        assert main([*words, "--downsampling", kind, "--output", str(tmp_path / "large.png")]) == 0
        error = np.asarray(Image.open(tmp_path / "large.png")).astype(float) - truth
        psnr[kind] = 10 * np.log10(255**2 / np.mean(error**2))
    pillow = np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC)).astype(float) - truth
    assert psnr["strided"] > 10 * np.log10(255**2 / np.mean(pillow**2)) + 0.5
    assert psnr["strided"] > psnr["bicubic"] + 0.5


def shaken(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Blur a photograph by SciPy, cut a part out, add noise and save it with the kernel; the truth and the picture."""
    sharp = np.asarray(Image.open(ROOT / "data" / "photographs" / "coffee.png").convert("RGB"), np.float64)[
        60:156, 60:156
    ]
    kernel = np.zeros((9, 9), np.uint8)
    kernel[np.arange(9), [4, 4, 3, 4, 5, 6, 6, 5, 5]] = [255, 220, 180, 150, 120, 100, 90, 80, 70]
    Image.fromarray(kernel).save(folder / "kernel.png")
    Image.fromarray(kernel[::-1, ::-1]).save(folder / "turned.png")
    y = np.stack([scipy.signal.convolve2d(sharp[..., c], kernel / kernel.sum(), mode="valid") for c in range(3)], -1)
    y = (y + np.random.default_rng(0).normal(0, 2, y.shape)).round().clip(0, 255)
    Image.fromarray(y.astype(np.uint8)).save(folder / "shaken.png")
    return sharp[4:-4, 4:-4], y


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((found - truth) ** 2).mean()))


def test_restore_sharpens_by_an_image_of_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photograph that goes on beyond its border: better by 4 dB, at the rim too, and in place."""
    truth, y = shaken(tmp_path)
    words = ["restore", str(tmp_path / "shaken.png"), "--device", "cpu", "--output", str(tmp_path / "sharp.png")]
    assert main([*words, "--deblur", str(tmp_path / "kernel.png")]) == 0
    said = capsys.readouterr().err
    assert "turned" not in said and "residual" not in said and "does not look" not in said
    restored = np.asarray(Image.open(tmp_path / "sharp.png"), np.float64)
    assert restored.shape == truth.shape
    assert psnr(restored, truth) > psnr(y, truth) + 4
    rim = np.ones(truth.shape[:2], bool)
    rim[12:-12, 12:-12] = False
    assert psnr(restored[rim], truth[rim]) > psnr(y[rim], truth[rim]) + 3


def test_restore_notices_that_the_kernel_is_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, y = shaken(tmp_path)
    words = ["restore", str(tmp_path / "shaken.png"), "--device", "cpu", "--output", str(tmp_path / "sharp.png")]
    assert main([*words, "--deblur", str(tmp_path / "turned.png")]) == 0
    assert "the kernel turned by 180 degrees gives the more natural picture: try with --flip" in capsys.readouterr().err
    assert main([*words, "--deblur", str(tmp_path / "turned.png"), "--flip", "--overwrite"]) == 0
    assert "turned by 180" not in capsys.readouterr().err
    assert psnr(np.asarray(Image.open(tmp_path / "sharp.png"), np.float64), truth) > psnr(y, truth) + 4


def test_restore_never_overwrites_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = cut("noisy", tmp_path)
    output = tmp_path / "noisy_restored.png"
    output.write_bytes(b"mine")
    assert "--overwrite" in refused(["restore", str(photo)], capsys)
    assert output.read_bytes() == b"mine"
    assert main(["restore", str(photo), "--overwrite", "--noise", "25", "--device", "cpu"]) == 0
    assert Image.open(output).size == (SIDE, SIDE)


def test_restore_refuses_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = cut("noisy", tmp_path)
    Image.new("L", (SIDE, SIDE), "white").save(tmp_path / "white.png")
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    slips = [
        (["none.jpg"], "none.jpg"),
        ([str(tmp_path)], "is a folder"),
        ([str(photo), "--output", str(tmp_path / "x.jpg")], "ends in .png"),
        ([str(photo), "--output", str(tmp_path / "none" / "x.png")], "there is no folder"),
        ([str(photo), "--fill", str(tmp_path / "none.png")], "none.png does not exist"),
        ([str(photo), "--fill", str(tmp_path / "white.png")], "keeps all pixels"),
        ([str(photo), "--fill", str(tmp_path / "small.png")], "8x8 pixels"),
        ([str(photo), "--deblur", "none.png"], "none.png does not exist"),
        ([str(photo), "--deblur", "defocus:wide"], "expected defocus:RADIUS or motion:LENGTH:ANGLE"),
        ([str(photo), "--deblur", "defocus:-1"], "greater than 0"),
        ([str(photo), "--deblur", "1.5", "--flip"], "turns a kernel that is read from a file"),
        ([str(photo), "--enlarge", "1"], "whole number from 2"),
        ([str(photo), "--noise", "-3"], "positive number"),
        ([str(photo), "--grow", "2"], "--grow: is for --fill"),
        ([str(photo), "--fill", str(tmp_path / "small.png"), "--grow", "1.5"], "number of pixels"),
        ([str(photo), "--enlarge", "2", "--invert"], "--invert: is for --fill"),
        ([str(photo), "--downsampling", "box"], "--downsampling: is for --enlarge"),
        ([str(photo), "--enlarge", "2", "--downsampling", "boxes"], "boxes does not exist"),
        ([str(photo), "--device", "gpu"], "device"),
        ([str(photo), "--enlarge", "2", "--deblur", "1"], "not allowed with"),
    ]
    before = sorted(tmp_path.iterdir())
    for words, part in slips:
        assert part in refused(["restore", *words], capsys), words
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_of_restore_prints_a_config_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = cut("noisy", tmp_path)
    for words, name in (("1.2", "gaussian_blur"), ("defocus:2.5", "defocus_blur"), ("motion:9:30", "motion_blur")):
        assert main(["restore", str(photo), "--deblur", words, "--dry-run", "--device", "cpu"]) == 0
        (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
        config = load_sample_config(tmp_path / "printed.yaml")
        assert config.data is not None and config.data.path == str(photo)
        assert config.measurement is not None and config.measurement.operator.name == name
        assert getattr(config.measurement.operator, "boundary", None) == "unknown"
    assert not (tmp_path / "noisy_restored.png").exists()


def test_check_says_whether_all_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["check", "--device", "cpu"]) == 0
    report = capsys.readouterr().out
    for word in ("Python", "torch", "device", "precision", "free memory", "PSNR", "all is well"):
        assert word in report
    monkeypatch.setattr("randomwalk.cli.check.LEAST_GAIN", 100.0)
    assert main(["check", "--device", "cpu"]) == 1
