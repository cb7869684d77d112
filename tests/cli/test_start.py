"""Quick to say no: what is missing is reported without PyTorch, and a start that fails leaves no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sampling_tools import ROOT, make_config, save_images, save_weights, write_config

from randomwalk import training
from randomwalk.cli import options as cli
from randomwalk.cli.file_checks import check_files
from randomwalk.config.files import load_sample_config, load_training
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.studies import bridge
from randomwalk.training.trainer import Trainer

DRIVER = """
import contextlib, io, json, runpy, sys
root, cases = sys.argv[1], json.loads(sys.stdin.read())
sys.path[0] = root
results = []
for script, *arguments in cases:
    out, err, sys.argv = io.StringIO(), io.StringIO(), [script, *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(f"{root}/{script}", run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        except ImportError as error:
            status = str(error)
    results.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def run_without_torch(folder: Path, cases: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of scripts that are started in ``folder``, where to import torch is an error."""
    stubs = folder.parent / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "torch.py").write_text('raise ImportError("torch was imported")\n')
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ROOT)],
        input=json.dumps(cases),
        env={**os.environ, "PYTHONPATH": str(stubs)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [(status, out, err) for status, out, err in json.loads(done.stdout)]


TRAIN: dict[str, Any] = {
    "output": "runs/one",
    "data": {"path": "images", "image_size": 8, "channels": 1, "num_validation": 2},
    "network": {"name": "mlp", "num_channels": 1},
    "denoiser": {"name": "vp"},
    "num_images": 8,
    "batch_size": 4,
    "device": "cpu",
    "validation_sigmas": [0.5],
    "validate_images": 1000,
}
UNET = {
    "name": "unet", "image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1],
    "num_res_blocks": 1,
}  # fmt: skip


def populate(folder: Path) -> None:
    """Tasks that would run, and the damaged and misplaced things that they are then pointed at."""
    write_config(folder, count=3)
    task = yaml.safe_load((folder / "task.yaml").read_text())
    task["output"], task["network"]["path"], task["data"]["path"] = "runs/one", "weights.safetensors", "images"
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    (folder / "train.yaml").write_text(yaml.safe_dump({**TRAIN, "network": UNET}))
    (folder / "legacy.yaml").write_text((ROOT / "tests" / "legacy" / "vp_inpainting.yaml").read_text())
    whole = (folder / "weights.safetensors").read_bytes()
    torch.save({"a": torch.zeros(1000)}, folder / "whole.pt")
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    (folder / "cut_early.safetensors").write_bytes(whole[:600])
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:-300])
    (folder / "page.pt").write_text("<!DOCTYPE html><html>sign in</html>")
    (folder / "empty.pt").touch()
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "notes.txt").write_text("no image")
    (folder / "texts.png").write_text("no image")
    (folder / "a_file").touch()
    for name in ("task", "train"):  # runs that were interrupted
        (folder / f"{name}_run").mkdir()
        (folder / f"{name}_run" / "config.yaml").write_text((folder / f"{name}.yaml").read_text())
        (folder / f"{name}_run" / "run.json").write_text("{}")


SAMPLE_SLIPS = [
    ("network.path=weigths.safetensors", ["weigths.safetensors: does not exist", "did you mean weights.safetensors?"]),
    ("network.path=nowhere/w.pt", ["nowhere/w.pt: does not exist", "there is no folder nowhere"]),
    ("network.path=images", ["images is a folder"]),
    ("network.path=empty.pt", ["empty.pt is empty"]),
    ("network.path=page.pt", ["page.pt is a web page"]),
    ("network.path=texts/notes.txt", ["notes.txt is not a file with weights"]),
    ("network.path=cut.safetensors", ["cut.safetensors is damaged or incomplete"]),
    ("network.path=cut_early.safetensors", ["cut_early.safetensors is damaged or incomplete"]),
    ("network.path=cut.pt", ["cut.pt is damaged or incomplete"]),
    ("network.denoiser={name: vp, table: {betas: table.npy}}", ["network.denoiser.table.betas", "table.npy"]),
    ("data.path=image", ["data.path: image: there is no such folder", "did you mean images?"]),
    ("data.path=empty", ["data.path: empty: no images in it", "nothing"]),
    ("data.path=texts", ["data.path: texts: no images in it", "notes.txt"]),
    ("data.path=texts.png", ["data.path: texts.png", "neither a zip nor an image"]),
    (
        "measurement.operator={name: inpainting, mask: file, file: m.png}",
        ["operator.file: m.png does not exist", "mask"],
    ),
    (
        "measurement.operator={name: inpainting, mask: file, file: texts.png}",
        ["texts.png", "cannot be read as an image"],
    ),
    ("measurement.operator={name: blur, file: k.npy}", ["operator.file: k.npy does not exist", "the kernel"]),
    ("measurement.operator={name: blur, file: empty}", ["operator.file: empty is a folder"]),
    ("output=a_file/run", ["output: a_file/run cannot be created", "a_file is a file"]),
    ("sampler.num_steps=3", ["sampler.num_steps", "did you mean sampler.schedule.num_steps?"]),
    ("sampler.schedule.num_steps=0", ["found 0"]),
]
OTHER_SLIPS: list[tuple[list[str], list[str]]] = [
    (["sample.py", "--diffusion_config", "tusk.yaml"], ["tusk.yaml: does not exist", "task.yaml"]),
    (["sample.py", "task.yaml"], ["--diffusion_config task.yaml"]),
    (["sample.py", "--diffusion_config", "task.yaml", "--seed", "3"], ["--set seed=3"]),
    (["sample.py", "--diffusion_config", "task.yaml", "--out", "run"], ["--set KEY=run", "did you mean output?"]),
    (["sample.py", "--diffusion_config", "task.yaml", "--num-steps=9"], ["KEY=9", "mean sampler.schedule.num_steps?"]),
    (["sample.py", "--diffusion_config", "task.yaml", "--set", "seed"], ["--set seed: expected KEY=VALUE"]),
    (["sample.py", "--resume", "runs/none"], ["--resume runs/none: there is no such folder"]),
    (["sample.py", "--resume", "images"], ["--resume images: is not a run folder: config.yaml is missing"]),
    (["sample.py", "--resume", "images/picture a.png"], ["is a file; expected the folder of a run"]),
    (["sample.py", "--diffusion_config", "train.yaml"], ["python train.py --config train.yaml"]),
    (["train.py", "--config", "task.yaml"], ["python sample.py --diffusion_config task.yaml"]),
    (["sample.py", "--resume", "train_run"], ["python train.py --resume train_run"]),
    (["train.py", "--resume", "task_run"], ["python sample.py --resume task_run"]),
    (["train.py", "train.yaml"], ["--config train.yaml"]),
    (["train.py", "--config", "train.yaml", "--lr", "1e-3"], ["did you mean optimizer.learning_rate?"]),
    (["train.py", "--resume", "runs/none"], ["--resume runs/none: there is no such folder"]),
    *(
        (["train.py", "--config", "train.yaml", "--set", change], parts)
        for change, parts in (
            ("data.path=image", ["data.path: image: there is no such folder", "did you mean images?"]),
            ("data.path=[images, empty]", ["data.path: empty: no images in it"]),
            ("data.validation_path=none", ["data.validation_path: none: there is no such folder"]),
            ("initial_weights=none.pt", ["initial_weights: none.pt does not exist"]),
            ("initial_weights=cut.pt", ["cut.pt is damaged"]),
            ("denoiser.table={alphas_cumprod: none.npy}", ["denoiser.table.alphas_cumprod: none.npy does not exist"]),
            ("output=a_file/run", ["output: a_file/run cannot be created"]),
            ("lr=1e-3", ["lr (--set)", "did you mean optimizer.learning_rate?"]),
            ("epochs=3", ["did you mean num_images?"]),
            ("image_size=3", ["did you mean data.image_size or network.image_size?"]),
        )
    ),
    *(
        (["train.py", "--config", str(ROOT / config), "--set", f"{key}=none", "output=runs/one"], [key, "none"])
        for config, key in (("configs/score_embedding/one_32.yaml", "data.path"),)
    ),
    (
        ["sample.py", "--config", str(ROOT / "configs/bridge/moons_to_swiss_roll_sample.yaml"), "--set",
         "bridge.path=none.safetensors", "output=runs/one"],
        ["bridge.path: none.safetensors does not exist"],
    ),
]  # fmt: skip


def test_what_is_missing_is_said_without_pytorch(tmp_path: Path) -> None:
    """Every kind of missing thing: status 2, one message that names it, and nothing is left behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    populate(folder)
    before = sorted(folder.rglob("*"))
    cases = [
        (["sample.py", "--diffusion_config", "task.yaml", "--set", change], parts) for change, parts in SAMPLE_SLIPS
    ]
    cases += OTHER_SLIPS
    for (arguments, parts), (status, out, err) in zip(
        cases, run_without_torch(folder, [arguments for arguments, _ in cases]), strict=True
    ):
        assert status == 2, (arguments, status, out, err)
        assert "error: " in err and "Traceback" not in err and out == "", (arguments, out, err)
        for part in parts:
            assert part in err, (arguments, part, err)
    assert sorted(folder.rglob("*")) == before


def test_the_stub_is_seen(tmp_path: Path) -> None:
    """Where nothing is missing PyTorch is imported, so that the test above can fail."""
    folder = tmp_path / "work"
    folder.mkdir()
    populate(folder)
    cases = [["sample.py", "--diffusion_config", "task.yaml"], ["train.py", "--config", "train.yaml"]]
    for status, _, _ in run_without_torch(folder, cases):
        assert status == "torch was imported"


def test_a_dry_run_prints_the_translation_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    populate(folder)
    arguments = [
        "sample.py",
        "--diffusion_config",
        "legacy.yaml",
        "--dry-run",
        "--set",
        "langevin_hyperparam.num_iters=2",
    ]
    [(status, out, err)] = run_without_torch(folder, [arguments])
    assert status == 2 and "ffhq_10m.pt: does not exist" in err and "layout of the paper's own code" in err
    (folder / "printed.yaml").write_text(out)
    printed = load_sample_config(folder / "printed.yaml")
    expected = load_sample_config(folder / "legacy.yaml", ["langevin_hyperparam.num_iters=2"])
    assert printed.model_dump() == expected.model_dump()
    assert printed.sampler.schedule.num_steps == 2


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    config = make_config(tmp_path, network={"path": "nowhere.pt"}, data={"path": "nowhere"})
    with pytest.raises(InputError, match=r"(?s)nowhere\.pt: does not exist.*\n  data\.path: nowhere: there is no such"):
        check_files(config)


def test_masks_beside_images(tmp_path: Path) -> None:
    operator = {"name": "inpainting", "mask": "beside"}
    changes = {"measurement": {"operator": operator, "noise": {"std": 0.1}}}
    config = make_config(tmp_path, data={"path": str(save_images(tmp_path / "photos", 1)), "fit": "keep"}, **changes)
    with pytest.raises(InputError, match=r"no image has its mask beside it .* photo_mask\.png"):
        check_files(config)
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "picture a_mask.png")
    check_files(config)


def test_what_is_there_is_not_refused(tmp_path: Path) -> None:
    """Arrays, links to folders and loops of links among them."""
    config = make_config(tmp_path)
    check_files(config)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "loop").symlink_to(tmp_path / "linked")
    config.data = config.data.model_copy(update={"path": str(tmp_path / "linked")})  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no images in it"):
        check_files(config)
    (tmp_path / "linked" / "images").symlink_to(tmp_path / "images")
    check_files(config)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "y.npy", np.zeros((4, 4)))
    config.data = config.data.model_copy(update={"path": str(tmp_path / "arrays")})  # type: ignore[union-attr]
    check_files(config)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_the_configs_find_what_they_bring(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every config only what is not in the repository is missing: downloads, trainings to be made, own pictures."""
    monkeypatch.chdir(ROOT)
    load = load_training if "train" in path.stem or "score_embedding" in str(path) else load_any
    try:
        check_files(load(path))
    except InputError as error:
        for line in str(error).splitlines():
            assert not any(
                f"{brought}/" in line.split(":")[0] for brought in ("pretrained_models/fashion_", "data/")
            ), line


def load_any(path: Path) -> Any:
    """A config of either program."""
    from randomwalk.config.files import load_sampling

    try:
        return load_sampling(path)
    except InputError:
        return load_training(path)


# --- a start that fails leaves no folder -----------------------------------------------------------------------------


def start_of_training(tmp_path: Path, **changes: Any) -> Any:
    """A training on three images, in a folder with two parents that are not there."""
    save_images(tmp_path / "images", 4)
    task = {**TRAIN, "network": UNET, "output": str(tmp_path / "runs" / "of_today" / "one"), **changes}
    task["data"] = {**TRAIN["data"], "path": str(tmp_path / "images")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(task))
    return load_training(tmp_path / "train.yaml")


def fails(error: Exception) -> Callable[..., Any]:
    """A function that raises."""

    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize("error", [InputError("no"), RunError("no"), OSError("no"), RuntimeError("CUDA error")])
def test_a_training_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    config = start_of_training(tmp_path)
    for where in ("__init__", "train_step"):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, where, fails(error))
            # What the system refuses is a failure of the run, as anywhere else.
            with pytest.raises(RunError if isinstance(error, OSError) else type(error), match=r"no|CUDA"):
                training.run(config)
        assert not (tmp_path / "runs").exists(), where


def test_weights_that_do_not_fit_leave_no_folder(tmp_path: Path) -> None:
    config = start_of_training(tmp_path, initial_weights=str(save_weights(tmp_path / "others.safetensors")))
    config = config.model_copy(update={"network": config.network.model_copy(update={"model_channels": 64})})
    with pytest.raises(InputError, match="does not fit the network"):
        training.run(config)
    assert not (tmp_path / "runs").exists()


def test_a_training_that_has_begun_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the log is a result; and an interruption is no failure."""
    config = start_of_training(tmp_path, log_every=1)
    monkeypatch.setattr(Trainer, "validate", fails(RunError("later")))
    with pytest.raises(RunError, match="later"):
        training.run(config)
    assert (Path(config.output) / "log.csv").is_file()
    other = config.model_copy(update={"output": str(tmp_path / "other")})
    monkeypatch.setattr(Trainer, "train_step", fails(KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        training.run(other)
    assert (tmp_path / "other" / "config.yaml").is_file()


def test_an_empty_folder_of_the_users_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, count=1)
    Path(config.output).mkdir()
    monkeypatch.setattr("randomwalk.sampling.task.Task.sample", fails(RunError("at once")))
    with pytest.raises(RunError, match=r"^at once$"):
        sampling.run(config)
    assert list(Path(config.output).iterdir()) == []


def test_a_run_with_results_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config, calls = make_config(tmp_path), []
    real = sampling.load_task(config, torch.device("cpu")).__class__.sample

    def second_fails(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise RunError("later")
        return real(*arguments, **settings)

    monkeypatch.setattr("randomwalk.sampling.task.Task.sample", second_fails)
    assert cli.run(lambda: sampling.run(config)) == 1
    assert f"--resume {config.output}" in capfd.readouterr().err and any(Path(config.output).glob("state/*.json"))
    monkeypatch.setattr("randomwalk.sampling.task.Task.sample", real)
    assert sampling.run(config, RunFolder.resume(config.output)) == 0


def test_a_resumed_run_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, count=1)
    folder = RunFolder.create(config.output)
    folder.write_text("config.yaml", (tmp_path / "task.yaml").read_text())
    monkeypatch.setattr("randomwalk.sampling.task.Task.sample", fails(RunError("again")))
    with pytest.raises(RunError, match="again"):
        sampling.run(config, RunFolder.resume(config.output))
    assert folder.has("config.yaml")


def test_a_bridge_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "runs" / "bridge"
    config = load_training(ROOT / "configs/bridge/moons_to_swiss_roll.yaml", [f"output={output}", "device=cpu"])
    monkeypatch.setattr("randomwalk.studies.bridge.training.BridgeTrainer", fails(RunError("no")))
    with pytest.raises(RunError, match="no"):
        bridge.training.run(config)  # type: ignore[attr-defined]
    assert not (tmp_path / "runs").exists()
