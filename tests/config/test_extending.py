"""The page docs/extending.md: its first part runs, and its second part is applied to a copy of the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from randomwalk.lookup import HOME

ROOT = Path(__file__).parents[2]
FIRST, *NAMED = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("\n## ")[1:-1]
BLOCK = re.compile(r"```(python|diff)\n(.*?)```", re.DOTALL)
COPIED = ("randomwalk", "guided_diffusion", "score_sde", "tests", "benchmarks", "docs", "pyproject.toml", "sample.py")
PLACES = {"An operator": 4, "A sampler": 4, "A schedule": 3, "A network": 4}  # the table of schedules is in their file
NEW_ROWS = (
    "test_operators.py::.*average",
    r"test_samplers.py::test_textbook_update\[reverse_sde\]",
    r"test_contract.py::test_a_sampler_makes_what_it_is_not_given\[reverse_sde\]",
    r"test_sampler_settings.py::test_a_section_makes_its_sampler\[reverse_sde\]",
    r"test_schedules.py::test_equation_of_each_schedule\[flow\]",
    r"test_networks.py::test_a_network_survives_a_file\[conv\]",
    # Nothing has been left out.
    "test_samplers.py::test_every_walk_has_a_textbook",
    "test_solver_orders.py::test_every_stated_order_is_measured",
    "test_sampler_settings.py::test_every_sampler_has_settings_and_every_settings_a_sampler",
    "test_networks.py::test_every_network_has_a_case",
    "test_config.py::test_every_declared_name_is_in_its_table_and_the_code_takes_its_settings",
    "test_config.py::test_packages_of_networks_repeat_the_declared_defaults_only",
)


def edits(section: str) -> list[tuple[str, str, str]]:
    """``(path, kind, code)``: new files, named before the block, and the diffs after each ``--- path``."""
    found = []
    for block in BLOCK.finditer(section):
        if block[1] == "python":
            found.append((re.findall(r"new file\s(?:is\s)?`([^`]+)`", section[: block.start()])[-1], "file", block[2]))
        else:
            found += [
                (path, "diff", code) for path, code in re.findall(r"--- (.+)\n((?:[ +-](?!--).*\n|@@\n)+)", block[2])
            ]
    return found


def changed(text: str, diff: str, path: str) -> str:
    """A file after a diff, whose parts are divided by ``@@`` and found by their own lines."""
    for part in diff.split("@@\n"):
        lines = part.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert f"\n{text}".count(f"\n{old}") == 1, f"{path} has not once:\n{old}"
        text = f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]
    return text


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with every edit of the page."""
    copy = tmp_path_factory.mktemp("program")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.pth"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for name in ("configs", "data", "pretrained_models"):
        (copy / name).symlink_to(HOME / name)
    for path, kind, code in (edit for section in NAMED for edit in edits(section)):
        file = copy / path
        if kind == "file":
            assert not file.exists()
            file.write_text(code, encoding="utf-8")
        else:
            file.write_text(changed(file.read_text(encoding="utf-8"), code, path), encoding="utf-8")
    return copy


def test_each_example_takes_its_places_and_no_other() -> None:
    found = {section.split(" with")[0]: len({path for path, *_ in edits(section)}) for section in NAMED}
    assert found == PLACES


def test_what_needs_no_change_runs() -> None:
    code = "\n".join(block[2] for block in BLOCK.finditer(FIRST))
    shapes = ["[32, 1, 32, 32]", "[4, 1, 32, 32]", "[8, 1, 32, 32]"]
    assert run(ROOT, "-c", code).splitlines() == [f"torch.Size({shape})" for shape in shapes]


def test_the_new_rows_are_tested(program: Path) -> None:
    files = {file: str(found) for row in NEW_ROWS for file in [row.split("::")[0]] for found in program.rglob(file)}
    words = {re.split("::|\\.\\*", row)[-1].split("\\[")[0] for row in NEW_ROWS}
    said = run(
        program, "-m", "pytest", "-vv", "-n", "0", "-p", "no:cacheprovider",
        "-k", f"({' or '.join(sorted(words))})", *files.values(),
    )  # fmt: skip
    for row in NEW_ROWS:
        assert re.search(f"{row}.* PASSED", said), f"{row}\n{said}"


def test_the_settings_page_has_the_new_lines(program: Path) -> None:
    run(program, "-m", "randomwalk.config", "--docs")
    page = (program / "docs" / "settings.md").read_text(encoding="utf-8")
    for line in (
        "measurement.operator: average",
        "sampler: reverse_sde",
        "network.architecture: conv",
        "karras, flow,",
    ):
        assert line in page


def test_the_new_names_sample(program: Path) -> None:
    """By the sampler, in the schedule, with a network of the new kind; the operator is made from its section."""
    code = """
from randomwalk import operators
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser

config = {"network": {"name": "conv", "image_size": 16, "width": 8}, "denoiser": {"name": "edm"}}
save_denoiser("conv.safetensors", config, make_denoiser(**config).network.state_dict())
settings = load_sample_config("measured.yaml").measurement.operator.model_dump()
assert operators.make(image_shape=(1, 4, 6), **settings).measurement_shape == (1, 2, 3)
"""
    task = "output: out\nnetwork: {path: conv.safetensors}\n"
    schedule = "schedule: {name: flow, num_steps: 3, sigma_min: 0.02, sigma_max: 20}"
    (program / "prior.yaml").write_text(f"{task}sampler: {{name: reverse_sde, {schedule}}}\nnum_images: 2\n")
    (program / "measured.yaml").write_text(
        f"{task}sampler: {{name: dps, {schedule}}}\ndata: {{path: images}}\n"
        "measurement: {operator: {name: average}, noise: {std: 1}}\n"
    )
    run(program, "-c", code)
    run(program, "sample.py", "--diffusion_config", "prior.yaml")
    assert list((program / "out").glob("**/*.png"))
