"""Every line of docs/bring_your_own_network.md is run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_diffusers_folders import saved, unet
from torch import Tensor, nn

from randomwalk.config.networks import Weights
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.samplers import make

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bring_your_own_network.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Network(nn.Module):
    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return 0.1 * z


def names(tmp_path: Path) -> dict[str, Any]:
    """What the lines of the page use."""
    deepinv = pytest.importorskip("deepinv", reason="needs deepinv")
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    saved(tmp_path / "pipeline", unet(), diffusers.DDIMScheduler())
    unet().save_pretrained(tmp_path / "unet")
    model = deepinv.models.DnCNN(pretrained=None, depth=3, nf=8)
    torch.save(model.state_dict(), tmp_path / "dncnn.pth")
    physics = deepinv.physics.Denoising()
    other = lambda z, timesteps: SimpleNamespace(sample=0.1 * z)  # noqa: E731
    return {"network": Network(), "classes": Network(), "other": other, "model": model, "physics": physics}


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_line_of_python(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes a denoiser that a sampler can use, or an operator."""
    scope = names(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec("import randomwalk", scope)
    for line in block.splitlines():
        exec(line, scope)
        made = scope.pop("D", None)
        if made is None or getattr(made, "num_classes", None):
            continue
        assert isinstance(made, Denoiser)
        shape = (2, made.channels or 3, 8, 8)
        high = min(made.sigma_max, 10.0)
        sigmas = torch.linspace(high, max(made.sigma_min, high / 50), 4).tolist()
        assert make("ddim").sample(made, sigmas, shape=shape).shape == shape


def test_every_line_of_yaml_is_a_section() -> None:
    lines = [line for line in re.findall(r"`(network: \{.*?\})`", PAGE) if "..." not in line]
    assert len(lines) >= 5
    for line in lines:
        Weights.model_validate(yaml.safe_load(line)["network"])
