"""The package: public names, requirements, bundled files, and its networks beside other packages of their names."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sampling_tools import ROOT

import randomwalk
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.weight_files import read_config
from randomwalk.errors import InputError
from randomwalk.images.sources import open_images
from randomwalk.lookup import find_file, optional_library

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")


def test_the_stub_has_the_names_of_the_package() -> None:
    """Editors and type checkers read the stub; both lists must be one."""
    found = {}
    for node in ast.parse((ROOT / "randomwalk" / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            [alias] = node.names
            assert alias.asname == alias.name, "only X as X is exported"
            found[alias.name] = (node.module, alias.name)
    assert sorted(found) == randomwalk.__all__
    assert set(randomwalk.__all__) <= set(dir(randomwalk))
    for name, (module, attribute) in found.items():
        whole = importlib.import_module(module)
        expected = getattr(whole, attribute, None) or importlib.import_module(f"{module}.{attribute}")
        assert getattr(randomwalk, name) is expected, name


def test_importing_the_package_does_not_import_pytorch() -> None:
    code = "import sys, randomwalk; dir(randomwalk); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_loading_the_bundled_weights_does_not_import_the_compiler_of_pytorch() -> None:
    """A draw on the device meta would: 1.6 s before the first step. The levels of NCSN++ are computed there."""
    code = (
        "import sys, pathlib, torch; from randomwalk.denoisers.checkpoints import load_denoiser\n"
        "known = 'torch._dynamo' in sys.modules\n"
        "for path in sorted(pathlib.Path('pretrained_models').glob('*.safetensors')):\n"
        "    if path.stem != 'fashion_ve': load_denoiser(path)\n"
        "assert known or 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(line for name in ("ode", "mpi", "bridge") for line in extras[name])]
    assert sorted((ROOT / "requirements.txt").read_text().split("\n")[:-1]) == sorted(needed)
    lines = (ROOT / "requirements-dev.txt").read_text().split("\n")[:-1]
    named = [*extras["deepinv"], *extras["diffusers"], *extras["instruments"]]
    dev = [*named, *(line for line in extras["dev"] if not line.startswith("randomwalk"))]
    assert sorted(lines) == sorted(["-r requirements.txt", *dev])


def test_bundled_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_sample_config("configs/photo_denoise.yaml")
    assert Path(config.network.path) == ROOT / "pretrained_models" / "photo.safetensors"
    assert config.output == "results/photo_denoise"
    assert read_config("pretrained_models/photo.safetensors")
    assert len(open_images("data/fashion_mnist")) == 64
    mine = tmp_path / "pretrained_models" / "photo.safetensors"
    mine.parent.mkdir()
    mine.touch()
    assert find_file("pretrained_models/photo.safetensors") == "pretrained_models/photo.safetensors"
    for path in ("data", "data/mine.png", "configs/../train.py", "other/photo.png", str(mine)):
        assert find_file(path) == path


def test_a_missing_library_names_its_extra() -> None:
    with pytest.raises(InputError, match=r"the report needs nowhere, .*pip install nowhere, .* extra \[bridge\]"):
        optional_library("nowhere.inside", "bridge", "the report")


def test_another_package_of_the_networks_name_is_not_taken_in_silence(tmp_path: Path) -> None:
    """In a checkout that Python finds after the public guided-diffusion, as with ``pip install -e``."""
    (tmp_path / "guided_diffusion").mkdir()
    (tmp_path / "guided_diffusion" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", "import randomwalk"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    message = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and message.startswith("ImportError: randomwalk in")
    assert str(tmp_path / "guided_diffusion") in message


def builder() -> ModuleType:
    """The module that builds the wheel."""
    pytest.importorskip("hatchling", reason="builds the wheel")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


def test_the_wheel_has_every_file_that_a_module_reads() -> None:
    """All tracked files of the packages are in it: modules, types, and data such as the template of the report."""
    build = builder()
    hook = build.WheelHook(str(ROOT), {}, None, None, "", "wheel")
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize("standard", data)
    included = set(data["force_include"].values())
    hook.finalize("standard", data, "")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "randomwalk"], capture_output=True, text=True
    ).stdout.split()
    assert "randomwalk/runs/report/template.html" in included
    assert set(listed) <= included, sorted(set(listed) - included)


def test_the_wheel_renames_the_networks() -> None:
    """All imports and the table of networks; and nothing else, such as weights that are called score_sde in a text."""
    build = builder()
    for package in ("randomwalk", *build.NETWORKS):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(build.renamed(file.read_text()))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not any(name.split(".")[0] in build.NETWORKS for name in names), file
    text = (
        '    from score_sde import sdes\n{"a": ("guided_diffusion", "UNet"), "b": "score_sde.sdes"}  # of score_sde\n'
    )
    assert build.renamed(text) == (
        '    from randomwalk._bundled.score_sde import sdes\n{"a": ("randomwalk._bundled.guided_diffusion", "UNet"), '
        '"b": "randomwalk._bundled.score_sde.sdes"}  # of score_sde\n'
    )
