"""Runs on files of any name, and what a resumed run notices: changed inputs, damaged records and results."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from sampling_tools import ROOT, files_of, make_config, write_config

from randomwalk.cli.restore import config_of, output_of
from randomwalk.cli.restore import parser as restore_parser
from randomwalk.config.files import dump, load_sample_config
from randomwalk.errors import InputError
from randomwalk.images.kinds import stem_of
from randomwalk.images.sources import open_images
from randomwalk.lookup import expand, printable, shortened
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.names import plain_name

NAMES = [
    "line\nbreak", "tab\tand\x1b[31mred", os.fsdecode(b"latin \xe9"), "x" * 251, "é" * 125, "\U0001f600 face", "漢字",
    "हिन्दी", "-dash", "quote ' \" `", "100%s $HOME ~ #1: {}", "Case", "case", "semi;colon&|<>*?\\", "x" * 250 + "y",
]  # fmt: skip
"""Stems of image files, some as long as the system allows with ``.png``."""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[bytes]]:
    """A run of the command on images of all these names, with a folder, a config and an output of such names."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"odd \n $X \xff #1: dir")
    path = write_config(folder, count=1, batch_size=len(NAMES), animation_frames=1)
    [image] = (folder / "images").iterdir()
    for name in NAMES:
        shutil.copy(image, folder / "images" / f"{name}.png")
    image.unlink()
    config = folder / os.fsdecode(b"-\xfftask\n.yaml")
    path.rename(config)
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "output": "x"}))
    (folder / "data").mkdir()
    (folder / "images").rename(folder / "data" / "{set}\t")
    environ = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    changes = [f"data.path={folder / 'data' / '{set}'}\t", f"output={folder / 'run $Y %d'}"]
    changes = [change.replace(" $", " $$") for change in changes]  # the variables are not set
    changes[0] = changes[0].replace("$$", "$")  # but a file of that very name is found
    done = subprocess.run(
        [sys.executable, ROOT / "sample.py", f"--config={config}", "--set", *changes],
        cwd=folder, env={**os.environ, **environ}, capture_output=True,
    )  # fmt: skip
    return folder / "run $Y %d", done


def test_a_run_takes_files_of_any_name(named: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    run, done = named
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr and done.stdout.isascii()
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NAMES) == len(list((run / "images").glob("*_sample0.png")))
    assert {row["name"] for row in rows} == {printable(f"{name}.png") for name in NAMES}
    assert (run / "metrics.csv").read_text().count("\n") == len(NAMES) + 1, "a row is a line"
    written = [path.name for path in (run / "images").iterdir()]
    assert any("漢字" in name for name in written) and any("हिन्दी" in name for name in written)
    assert max(len(os.fsencode(name)) for name in written) <= 255 and not list(run.rglob("*.tmp"))


def test_it_can_be_resumed(named: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """The config that a run keeps means the same paths again, and a batch that is lost is made again."""
    run, _ = named
    before = files_of(run)
    (run / "state" / "batch_00000.json").unlink()
    assert sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run)) == 0
    assert files_of(run) == before


def test_names_of_results_keep_all_languages_and_are_one_word() -> None:
    assert plain_name("फ़ोटो 漢字 ÅÄÖ.тест-1_2") == "फ़ोटो_漢字_ÅÄÖ.тест-1_2"
    assert plain_name("می‌خواهم க்‍ஷ") == "می‌خواهم_க்‍ஷ"  # with marks that join and part letters
    assert plain_name("a/b \n\t$`'\"\\\udcff*c") == "a_b_c"
    assert shortened("é" * 10, 7) == "é" * 3 and shortened("short", 7) == "short"


@pytest.mark.parametrize("written", ["a$$b", "$$HOME/x", "~x$$"])
def test_a_path_means_the_same_when_its_config_is_read_again(written: str, tmp_path: Path) -> None:
    config = make_config(tmp_path, count=1, output=written)
    assert config.output == written.replace("$$", "$")
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load_sample_config(tmp_path / "again.yaml").output == config.output


def test_a_file_with_a_dollar_in_its_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "cost $NO_SUCH.png").touch()
    assert expand(tmp_path / "cost $NO_SUCH.png") == str(tmp_path / "cost $NO_SUCH.png")
    with pytest.raises(InputError, match="NO_SUCH is not set"):
        expand(tmp_path / "other $NO_SUCH.png")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("my #1 a: b", "my #1 a: b"), ("'quoted: x'", "quoted: x"), ("'half", "'half"), ("a\nb\udcff", "a\nb\udcff"),
     ("7", "7"), ("[a].png", "[a].png"), ("- %x", "- %x"), ("true", "true")],
)  # fmt: skip
def test_a_path_is_set_to_the_letter(given: str, meant: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, count=1)
    assert load_sample_config(path, [f"output={given}"]).output == meant


def test_a_number_behind_a_dot_is_no_suffix() -> None:
    names = ["scan.2023", "scan.2024", "in/scan.v2.TIF", "photo.jpeg", "phone.HEIC", "plain", ".png"]
    assert [stem_of(name) for name in names] == [
        "scan.2023",
        "scan.2024",
        "in/scan.v2",
        "photo",
        "phone",
        "plain",
        ".png",
    ]
    assert restore_output("scan.2023") != restore_output("scan.2024")


def restore_output(name: str) -> str:
    return output_of(restore_parser().parse_args([name])).name


def test_restore_makes_a_name_that_fits_and_expands_the_paths_of_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    photo = tmp_path / f"{'é' * 125}.png"
    args = restore_parser().parse_args(["~/" + photo.name, "--fill", "$HOME/mask.png"])
    config = config_of(args)
    assert args.photo == photo and args.fill == tmp_path / "mask.png"
    assert len(os.fsencode(output_of(args).name)) <= 255 and output_of(args).name.endswith("é_restored.png")
    assert len(os.fsencode(Path(config.output).name)) <= 255
    args = restore_parser().parse_args([str(photo), "--output", "~/out.png", "--deblur", "~/kernel.npy"])
    assert output_of(args) == tmp_path / "out.png"
    assert config_of(args).measurement.operator.file == str(tmp_path / "kernel.npy")  # type: ignore[union-attr]


# --- what a resumed run notices ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of three images in two batches, whose mask is a file."""
    folder = tmp_path_factory.mktemp("finished")
    mask = np.zeros((12, 12), np.uint8)
    mask[::2] = 255
    RunFolder(folder).write_image("mask.png", mask)
    operator = {"name": "inpainting", "mask": "file", "file": str(folder / "mask.png")}
    measurement = {"operator": operator, "noise": {"std": 0.2}}
    assert sampling.run(make_config(folder, count=3, measurement=measurement, animation_frames=1)) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the finished run, and of its inputs under the same relative names."""
    shutil.copytree(finished, tmp_path / "it")
    config = (tmp_path / "it/run/config.yaml").read_text().replace(str(finished), "it")
    (tmp_path / "it/run/config.yaml").write_text(config)
    facts = (tmp_path / "it/run/run.json").read_text().replace(str(finished), "it")
    (tmp_path / "it/run/run.json").write_text(facts)
    monkeypatch.chdir(tmp_path)
    return Path("it/run")


def resume(run: Path) -> int:
    return sampling.run(load_sample_config(run / "config.yaml"), RunFolder.resume(run))


def flip(path: Path, place: int = -20) -> None:
    """Change one bit of a file, whose size and time stay."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("name", ["images/picture b.png", "mask.png"])
def test_a_file_with_other_bytes_of_the_same_size_is_noticed(name: str, run: Path) -> None:
    os.utime(run.parent / name)
    assert resume(run) == 0, "a file that was only touched is the same"
    # In a comment of the PNG file, so that it decodes as before.
    data = (run.parent / name).read_bytes()
    (run.parent / name).write_bytes(data + b"a")
    facts = json.loads((run / "run.json").read_text())
    text = json.dumps(facts)
    with pytest.raises(
        InputError, match=rf"{Path(name).name}: (its contents have changed|is not the file).* began; restore"
    ):
        resume(run)
    assert json.loads((run / "run.json").read_text()) == json.loads(text), "a refused resume changes nothing"


def test_an_image_in_a_zip_or_a_mask_beside_has_a_digest_too(tmp_path: Path) -> None:
    def source_of(content: bytes) -> str | None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("a.png", content)
        return open_images(tmp_path / "set.zip").digest(0)

    assert source_of(b"abc") == source_of(b"abc") != source_of(b"abd")
    (tmp_path / "a.png").write_bytes(b"abc")
    found = []
    for mask in (b"1", b"2"):
        (tmp_path / "a_mask.png").write_bytes(mask)
        source = open_images(tmp_path).without_masks()
        found.append((source.digest(0), source.digest(0, with_mask=True)))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


DEEP = "[" * 100_000 + "]" * 100_000
JSON = ["{}", "[]", '"text"', "3", "null", DEEP, '{"inputs": ', '{"inputs": {"weights_sha256": 3, "images": [1]}}', ""]


@pytest.mark.parametrize("content", JSON, ids=lambda text: text[:12])
def test_another_run_json_is_one_message(content: str, run: Path) -> None:
    (run / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"it/run/run\.json: "):
        resume(run)


def test_without_run_json_a_run_goes_on(run: Path) -> None:
    (run / "run.json").unlink()
    assert resume(run) == 0 and "digests" in (run / "run.json").read_text()


RECORDS = [
    *JSON,
    '{"rows": [3], "skipped": [], "files": {}}',
    '{"rows": [{"image": 99, "sample": 0, "seconds": 1, "evaluations": 1}], "skipped": [], "files": {}}',
    '{"rows": [], "skipped": [{"image": "a", "reason": "b"}], "files": {}}',
    '{"rows": [], "skipped": [], "files": ["images/a.png"]}',
]


def damages() -> list[object]:
    def result(suffix: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda run: change(next(path for path in sorted(run.rglob(f"*_sample0{suffix}"))))

    found: list[object] = [
        pytest.param(result(suffix, change), id=f"{name} {suffix}")
        for suffix in (".npy", ".png")
        for name, change in {
            "flipped": flip, "empty": lambda path: path.write_bytes(b""),
            "short": lambda path: path.write_bytes(path.read_bytes()[:-9]), "gone": Path.unlink,
        }.items()
    ]  # fmt: skip
    for content in RECORDS:
        write = lambda run, content=content: (run / "state/batch_00000.json").write_text(content)  # noqa: E731
        found.append(pytest.param(write, id=f"record {content[:50]}"))
    return found


@pytest.mark.parametrize("damage", damages())
def test_a_batch_with_a_damaged_record_or_result_is_done_again(
    damage: Callable[[Path], object], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(run)
    damage(run)
    gone = sum(path.is_file() for path in run.rglob("*")) < len(before)
    assert resume(run) == 0
    after = files_of(run)
    assert after == before
    said = capsys.readouterr()
    assert "1 of 2 batches are already done" in said.out
    noted = [line for line in said.err.splitlines() if line.startswith("note:") and "is done again" in line]
    assert len(noted) == (0 if gone else 1)
