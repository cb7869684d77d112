"""The page docs/extending.md, applied to a copy of the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EDIT = re.compile(
    r"(?:New file|In) `([^`]+)`(?:, (before|after) `([^`]+)`)?:\n\n```(?:python|text)\n(.*?)```", re.DOTALL
)


def test_an_operator_takes_four_places(tmp_path: Path) -> None:
    for name in ("randomwalk", "guided_diffusion", "score_sde", "tests/operators"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/conftest.py", "tests/operator_cases.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    edits = EDIT.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert len({path for path, *_ in edits}) == 4
    for path, where, anchor, code in edits:
        file = tmp_path / path
        if not where:
            assert not file.exists()
            file.write_text(code, encoding="utf-8")
            continue
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        assert lines.count(f"{anchor}\n") == 1, f"{path} has no line {anchor!r}"
        lines.insert(lines.index(f"{anchor}\n") + (where == "after"), code)
        file.write_text("".join(lines), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(
        "output: x\nnetwork: {path: w}\ndata: {path: images}\n"
        "measurement: {operator: {name: average}, noise: {std: 1}}\n"
        "sampler: {name: dps, schedule: {name: karras, num_steps: 5}}\n"
    )
    code = (
        "from randomwalk.config.files import load_sample_config as load; from randomwalk import operators;"
        "from randomwalk.config.generated import settings_page;"
        "settings = load('task.yaml').measurement.operator.model_dump();"
        "assert operators.make(image_shape=(1, 4, 6), **settings).measurement_shape == (1, 2, 3);"
        "assert 'measurement.operator: average' in settings_page()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    # pytest fails too if no test is selected.
    for command in (["-c", code], ["-m", "pytest", "-q", "-n", "0", "-k", "average", "tests/operators"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
