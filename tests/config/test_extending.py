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
FILES = {
    "An operator": 4,
    "A sampler": 5,  # an order is measured on a row of its own
    "A schedule": 3,  # its file has the table
    "A network": 4,
}


def edits(section: str) -> list[tuple[str, str, str]]:
    """``(path, kind, code)`` of every block; its file is the last one named before it."""
    found = []
    for block in BLOCK.finditer(section):
        path = re.findall(r"`([^` ]+/[^` ]+\.py)`", section[: block.start()])[-1]
        found.append((path, block[1], block[2]))
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
        if kind == "python":
            assert not file.exists()
            file.write_text(code, encoding="utf-8")
        else:
            file.write_text(changed(file.read_text(encoding="utf-8"), code, path), encoding="utf-8")
    return copy


def test_each_example_takes_its_places_and_no_other() -> None:
    found = {section.split(" with")[0]: len({path for path, *_ in edits(section)}) for section in NAMED}
    assert found == FILES


def test_what_needs_no_change_runs() -> None:
    code = "\n".join(block[2] for block in BLOCK.finditer(FIRST))
    shapes = ["[32, 1, 32, 32]", "[4, 1, 32, 32]", "[8, 1, 32, 32]"]
    assert run(ROOT, "-c", code).splitlines() == [f"torch.Size({shape})" for shape in shapes]


@pytest.mark.parametrize(
    ("name", "tests", "number"),
    [
        ("average", ["tests/operators/test_operators.py"], 5),
        ("reverse_sde", ["tests/samplers/test_samplers.py", "tests/samplers/test_contract.py"], 3),
        ("reverse_sde", ["tests/samplers/test_solver_orders.py"], 1),
        ("flow", ["tests/samplers/test_schedules.py"], 9),
        ("conv", ["tests/denoisers/test_networks.py"], 1),
        # The declarations and the tables agree, and nothing has been left out.
        ("every or declared or tables", ["tests/config/test_config.py", "tests/config/test_sampler_settings.py"], 3),
        ("every_walk or every_stated or every_network", ["tests/samplers", "tests/denoisers/test_networks.py"], 3),
    ],
)
def test_the_new_rows_are_tested(name: str, tests: list[str], number: int, program: Path) -> None:
    said = run(program, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", name, *tests)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) >= number, said


def test_the_settings_page_has_the_new_lines(program: Path) -> None:
    run(program, "-m", "randomwalk.config", "--docs")
    page = (program / "docs" / "settings.md").read_text(encoding="utf-8")
    for line in ("measurement.operator: average", "sampler: reverse_sde", "network.architecture: conv", "`flow`"):
        assert line in page


def test_the_new_names_sample(program: Path) -> None:
    """A network of the new kind, a schedule, a sampler; and an operator, with a sampler of the posterior."""
    code = (
        "from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser;"
        "config = {'network': {'name': 'conv', 'image_size': 16, 'num_channels': 1, 'width': 8}, 'denoiser':"
        " {'name': 'edm'}};"
        "save_denoiser('conv.safetensors', config, make_denoiser(**config).network.state_dict())"
    )
    run(program, "-c", code)
    task = (
        "output: {name}\nnetwork: {{path: conv.safetensors}}\nsampler: {{name: {name}, schedule: {schedule}}}\n{rest}"
    )
    schedule = "{name: flow, num_steps: 3, sigma_min: 0.02, sigma_max: 20}"
    measured = (
        "data: {path: data/fashion_mnist, num_images: 2}\nmeasurement: {operator: {name: average}, noise: {std: 0.1}}\n"
    )
    for name, rest in (("reverse_sde", "num_images: 2\n"), ("dps", measured)):
        (program / "task.yaml").write_text(task.format(name=name, schedule=schedule, rest=rest))
        run(program, "sample.py", "--diffusion_config", "task.yaml")
        assert list((program / name).glob("**/*.png"))
