"""Tools for tests of the benchmarks on photographs: made-up photographs, cases and a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support import photo_plan
from support.photo_problems import Case
from support.photographs import VALIDATION, Photograph
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser

PLAN = photo_plan.load_plan()


class Shrink(Denoiser):
    """Exact denoiser of pixels from Normal(0.2, 0.5^2)."""

    sigma_min, sigma_max = 0.005, 12.0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.2 + (x - 0.2) * 0.25 / (0.25 + float(sigma) ** 2)


def photograph(number: int = 0, side: int = 32) -> Photograph:
    """Made-up photograph of smooth colours."""
    grid = torch.linspace(-1, 1, side)
    waves = [torch.sin(3 * grid[:, None] + (c + 2) * grid[None] + number) for c in range(3)]
    return Photograph(VALIDATION, f"made_up_{number}.png", number, 0.8 * torch.stack(waves))


def case(noise: float = 2, **operator: Any) -> Case:
    """Made-up case of the benchmark."""
    return Case("made_up", "made up", operator, noise)


def alexnet(folder: Path) -> Path:
    """File with untrained weights of AlexNet's convolutions in torchvision's names."""
    from torchvision.models import alexnet as make

    torch.manual_seed(0)
    weights = {f"features.{name}": value for name, value in make(weights=None).features.state_dict().items()}
    path = folder / "alexnet.pth"
    torch.save(weights, path)
    return path
