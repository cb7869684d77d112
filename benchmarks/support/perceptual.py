"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), where the weights of its network are at hand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def lpips_missing() -> str | None:
    """Reason why LPIPS cannot be measured, since nothing is downloaded for it; None if it can."""
    from torchvision.models import AlexNet_Weights

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if path.is_file():
        return None
    return f"LPIPS is left out: the weights of torchvision's AlexNet are not there ({path})"


def lpips(x: Tensor, truth: Tensor) -> float:
    """Distance of two images ``[1, 3, H, W]`` in [-1, 1] in the features of AlexNet; values outside are clipped."""
    with torch.no_grad():
        return float(_metric()(x.clamp(-1, 1).cpu(), truth.cpu()))


@functools.cache
def _metric() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex")
