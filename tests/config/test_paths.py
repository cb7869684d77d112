"""Paths with ~ and $VARIABLES, in configs and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from randomwalk.config.base import OutputPath
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.config.generated import CONFIGS
from randomwalk.errors import InputError
from randomwalk.lookup import expand
from randomwalk.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a variable with a folder in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PHOTOS", "/mnt/photos")
    monkeypatch.delenv("NOT_SET", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "HOME"),
        ("~/a", "HOME/a"),
        ("$HOME/a", "HOME/a"),
        ("${HOME}/a", "HOME/a"),
        ("$PHOTOS", "/mnt/photos"),
        ("$PHOTOS/2$PHOTOS", "/mnt/photos/2/mnt/photos"),
        ("a~b/~", "a~b/~"),
        ("cost_5$.png", "cost_5$.png"),
        ("5$6", "5$6"),
        ("~no_such_user_here", "~no_such_user_here"),
    ],
)
def test_what_a_shell_would_put_there(written: str, meant: str, home: Path) -> None:
    assert expand(written) == meant.replace("HOME", str(home))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("$NOT_SET/a", r"found '\$NOT_SET/a', but the environment variable NOT_SET is not set"),
        ("a/${NOT_SET}", "variable NOT_SET is not set"),
        ("${}", r"variable \$\{\} is not set"),
        ("~no_such_user_here/a", "there is no home folder of ~no_such_user_here"),
    ],
)
def test_what_stands_for_nothing_is_refused(written: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand(written)


def test_every_setting_that_names_a_file_is_a_path() -> None:
    """By the names of the settings: one that is called like a path, and is plain text, would be taken literally."""
    named = {"path", "output", "file", "files", "maps", "points", "validation_path", "initial_weights", "camera_path"}
    found: dict[str, Any] = {}

    def visit(model: Any, seen: set[Any]) -> None:
        if model in seen:
            return
        seen.add(model)
        if hasattr(model, "model_fields"):
            for key, field in model.model_fields.items():
                if key in named:
                    found[f"{model.__name__}.{key}"] = (field.annotation, field.metadata)
                visit(field.annotation, seen)
        for part in get_args(model):
            if not isinstance(part, str):
                visit(part, seen)

    seen: set[Any] = set()
    for model in CONFIGS.values():
        visit(model, seen)
    expanding = get_args(OutputPath)[-1]
    assert len(found) == 20
    for name, (annotation, metadata) in found.items():
        assert expanding in metadata or str(expanding) in str(annotation), name


def test_paths_of_configs(tmp_path: Path, home: Path) -> None:
    changes = ["output=$HOME/run", "data.path=~/in", "data.fit=resize", "network.path=${PHOTOS}/w.pt"]
    config = load_sample_config(ROOT / "configs/vp_inpainting.yaml", changes)
    assert config.data is not None
    assert (config.output, config.data.path, config.network.path) == (f"{home}/run", f"{home}/in", "/mnt/photos/w.pt")
    changes = ["data.dataset=folder", "data.path=[~/a, $PHOTOS/b]", "data.validation_path=~/v", "initial_weights=~/w"]
    train = load_train_config(ROOT / "configs/vp_train.yaml", changes)
    assert train.data.path == [f"{home}/a", "/mnt/photos/b"]  # type: ignore[union-attr]
    assert train.data.validation_path == f"{home}/v"  # type: ignore[union-attr]
    assert train.initial_weights == f"{home}/w"
    with pytest.raises(InputError, match=r"output \(--set\): found '\$NOT_SET/x', but .* NOT_SET is not set$"):
        load_train_config(ROOT / "configs/vp_train.yaml", ["output=$NOT_SET/x"])
    with pytest.raises(InputError, match=r"data\.path.*NOT_SET is not set$"):
        load_train_config(ROOT / "configs/vp_train.yaml", ["data.dataset=folder", "data.path=[~/a, $NOT_SET]"])


def test_the_folder_of_a_run_is_found(home: Path) -> None:
    (home / "run").mkdir(parents=True)
    (home / "run" / "config.yaml").write_text("seed: 0")
    assert RunFolder.resume("~/run").path == RunFolder.resume("$HOME/run").path == home / "run"


@pytest.mark.parametrize("script", ["train.py --config", "sample.py --diffusion_config"])
def test_a_failed_start_leaves_no_folder_called_tilde(script: str, tmp_path: Path, home: Path) -> None:
    name, option = script.split()
    home.mkdir()
    (home / "c.yaml").write_text(yaml.safe_dump({"output": "~/run", "data": {"path": "$NOT_SET"}}))
    done = subprocess.run(
        [sys.executable, ROOT / name, f"{option}=~/c.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "NOT_SET is not set" in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"] and [p.name for p in home.iterdir()] == ["c.yaml"]
