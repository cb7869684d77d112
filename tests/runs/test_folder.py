"""Run folders, in which no file is ever incomplete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk.config.resumption import differences
from randomwalk.errors import InputError, RunError
from randomwalk.runs.environment import command_line, environment
from randomwalk.runs.folder import RunFolder, write_csv


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "a" / "run")
    assert first.path == tmp_path / "a" / "run"
    assert RunFolder.create(first.path).path == first.path  # empty: nobody's
    first.write_text("config.yaml", "x")
    names = {RunFolder.create(first.path).path.name for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("run_2") for name in names)


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("sub/a.txt", "before")

    def broken(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"sub/a\.txt cannot be written: No space"):
        folder.write("sub/a.txt", broken)
    assert folder.file("sub/a.txt").read_text() == "before"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.txt"]


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    folder.write_image("p.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), pixels)
    folder.write_array("a.npy", pixels)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), pixels)
    folder.write_torch("c.pt", {"x": torch.ones(2)})
    assert torch.equal(torch.load(tmp_path / "c.pt", weights_only=True)["x"], torch.ones(2))
    folder.write_json("r.json", {"a": [1]})
    assert folder.read_json("r.json") == {"a": [1]}
    write_csv(folder, "m.csv", ["a", "b"], [{"a": 1, "b": None}, {"a": "x,y", "c": 3}])
    assert (tmp_path / "m.csv").read_text() == 'a,b\n1,\n"x,y",\n'


@pytest.mark.parametrize("half", [144, 200])
def test_an_array_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path, half: int) -> None:
    """A bound on the size of files stands in for a full disk; the end of the array is what NumPy does not check."""
    resource = pytest.importorskip("resource")
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (half, bounds[1]))
    try:
        with pytest.raises((OSError, RunError)):
            RunFolder(tmp_path).write_array("a.npy", np.arange(40, dtype=np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert not list(tmp_path.iterdir())


def test_the_same_array_is_the_same_bytes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("a.npy", "b.npy"):
        folder.write_array(name, np.arange(5.0))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_only_the_holder_of_the_lock_works_in_a_folder(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.write_text("config.yaml", "x")
    (tmp_path / ".a.png.host-1-0.tmp").write_text("left by a killed process")
    first.lock()
    with pytest.raises(InputError, match="another process"):
        second.lock()
    first.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    first.unlock()
    second.lock()
    second.unlock()


@pytest.mark.parametrize(
    "text", ["step,loss\n1,x\n", "step,loss\n1e999,1\n", "stop,loss\n1,2\n", "step,loss\n1,2,3\n", "step,loss\n1\n",
             "step,loss\n1,\n", "step,lass\n1,2\n", "step,loss\n1,%s\n" % ("é" * 1000)]
)  # fmt: skip
def test_a_damaged_log_is_refused(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("log.csv", text)
    with pytest.raises(InputError, match=r"log\.csv: is damaged \(.{1,200}\); remove it to continue"):
        folder.read_log("log.csv", lambda row: int(row["step"]) <= 3, ("loss",))


def test_a_log_is_read_up_to_a_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("log.csv", "step,direction,loss,rate\n1,forward,2.5,\n2,backward,nan,1\n")
    assert folder.read_log("log.csv", lambda row: int(row["step"]) <= 1, ("loss",)) == [
        {"step": "1", "direction": "forward", "loss": "2.5", "rate": ""}
    ]
    assert folder.read_log("none.csv", lambda row: True) == []


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_damaged_array_is_refused(data: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.npy: cannot be read"):
            folder.read_array("a.npy")
        folder.write_bytes("a.npy", data)
    folder.write_array("a.npy", np.arange(3))
    np.testing.assert_array_equal(folder.read_array("a.npy"), np.arange(3))


def test_a_folder_in_the_place_of_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt" / "b").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a\.txt: is a folder where the run writes a file"):
        RunFolder(tmp_path).write_text("a.txt", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("resumed", [5, None, [3], [{"changed": 1}], [{"changed": {"seed": 1}}]])
def test_a_description_of_something_else_is_refused(resumed: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("run.json", {"resumed": resumed})
    with pytest.raises(InputError, match=r"run\.json: was not written by a run"):
        folder.facts()


def test_resume_wants_the_folder_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml is missing"):
        RunFolder.resume(tmp_path)


def test_differences_name_the_keys() -> None:
    a = {"seed": 1, "sampler": {"name": "ddim", "schedule": {"num_steps": 3}}, "x": None}
    b = {"seed": 1, "sampler": {"name": "ddim", "schedule": {"num_steps": 4}}}
    assert differences(a, b) == {"sampler.schedule.num_steps": [3, 4]}
    assert differences(a, a) == {}


def test_the_environment_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sample.py", "--config", "my file.yaml"])
    assert command_line().endswith("sample.py --config 'my file.yaml'")
    facts = environment("cpu", 2, {"seed": 5})
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["world_size"] == 2 and facts["seed"] == 5
