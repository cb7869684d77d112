"""The README is short, and every command and snippet in it works.

Commands run as written, with fewer images and steps; installations are run by .ci/run and .ci/wheel.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SMALLER = {
    "sample.py": ["animation_frames=0", "sampler.schedule.num_steps=2"],
    "train.py": ["num_images=16", "batch_size=4", "data.num_validation=2", "validate_images=16"],
}
INSTALLED = {
    "pip install -r requirements.txt": (".ci/run", "-r requirements.txt\n"),
    "pip install .": (".ci/wheel", '--no-deps --wheel-dir "$folder/dist" .\n'),
    'pip install ".[ode,bridge,mpi]"': (".ci/wheel", 'install --quiet --disable-pip-version-check ".[ode,bridge,mpi]"'),
}
"""Installations, and the script of CI that runs each, with the words by which it does."""


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_all_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert links and all((ROOT / link).exists() for link in links), links


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name: a photograph, its mask, a kernel, and images to train on."""
    from PIL import Image

    made = tmp_path_factory.mktemp("readme")
    photo = Image.open(ROOT / "data" / "photographs" / "astronaut.png").convert("RGB").resize((72, 64))
    photo.save(made / "photo.jpg", quality=95)
    mask = Image.new("L", photo.size, 255)
    mask.paste(0, (20, 20, 30, 28))
    mask.save(made / "mask.png")
    for k in range(6):
        (made / "my_images").mkdir(exist_ok=True)
        photo.rotate(15 * k).save(made / "my_images" / f"{k}.png")
    for name in ("configs", "pretrained_models", "data"):
        (made / name).symlink_to(ROOT / name)
    return made


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("pip")])
def test_a_command_runs(command: str, folder: Path, tmp_path: Path) -> None:
    words = shlex.split(command)
    if words[0] == "python":
        script, *rest = words[1:]
        extra = ["output=" + str(tmp_path / "run"), *SMALLER[script]]
        if script == "sample.py":
            text = (ROOT / rest[1]).read_text(encoding="utf-8")
            extra.append("num_images=1" if "\nnum_images" in text else "data.num_images=1")
        words = [sys.executable, str(ROOT / script), *rest, "--set", *extra]
    else:
        assert words[:2] == ["randomwalk", "restore"]
        words = [sys.executable, "-m", *words, "--output", str(tmp_path / "restored.png")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.iterdir())


def test_ci_installs_as_it_says() -> None:
    installs = [c for c in COMMANDS if c.startswith("pip")]
    assert set(installs) == set(INSTALLED)
    for script, words in INSTALLED.values():
        assert words in (ROOT / script).read_text(encoding="utf-8")


def test_snippets_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + c_noise[:, None, None, None]

    network = Network()
    before = network.layer.weight.detach().clone()
    names = {
        "network": network,
        "batches": [torch.rand(4, 1, 8, 8) for _ in range(2)],
        "optimizer": torch.optim.Adam(network.parameters()),
    }
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet, names)  # the README's own code
    x, measurement, restored = names["x"], names["measurement"], names["restored"]
    assert x.shape == (4, 1, 32, 32) and restored.shape == (8, 1, 32, 32)  # type: ignore[attr-defined]
    error = (restored.unflatten(0, (4, 2)) - x[:, None]).square().mean().sqrt()  # type: ignore[attr-defined, index]
    blind = (measurement.operator.adjoint(measurement.y) - x).square().mean().sqrt()  # type: ignore[attr-defined]
    assert error < blind / 2
    assert not torch.equal(network.layer.weight, before)
