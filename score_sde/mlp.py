"""Small network for points: images of one pixel, whose channels are the coordinates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positional_code(t: Tensor, size: int) -> Tensor:
    """Encode t by sines and cosines at ``size / 2`` frequencies from 1 to 1e-4, ``[B] -> [B, size]``, float32."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(size // 2, device=t.device) / (size // 2))
    phase = t.float()[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], 1)


class ResidualBlock(nn.Module):
    """``h + W2 silu(W1 norm(h) * (1 + scale) + shift)``, with scale and shift from the code of time and class."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.first, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.modulation = nn.Linear(hidden, 2 * hidden)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.modulation(code).chunk(2, 1)
        out: Tensor = h + self.second(F.silu(self.first(self.norm(h)) * (1 + scale) + shift))
        return out


class TimeMLP(nn.Module):
    """Residual blocks of two linear layers each, with a positional code of time.

    Args:
        num_channels: number of coordinates.
        image_size: must be 1.
        hidden: width of the layers.
        num_blocks: number of residual blocks.
        code_size: length of the positional code; even.
        time_scale: factor of the time before the code, whose frequencies suit times up to about 1000.
        num_classes: number of classes; if given, ``forward`` needs labels.

    Raises:
        ValueError: ``image_size`` is not 1, or ``code_size`` is odd.
    """

    def __init__(
        self,
        num_channels: int = 2,
        image_size: int = 1,
        hidden: int = 128,
        num_blocks: int = 3,
        code_size: int = 64,
        time_scale: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.code_size, self.time_scale = code_size, time_scale
        self.time = nn.Sequential(nn.Linear(code_size, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.classes = nn.Embedding(num_classes, hidden) if num_classes is not None else None
        self.first = nn.Linear(num_channels, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(num_blocks))
        self.norm, self.last = nn.LayerNorm(hidden), nn.Linear(hidden, num_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Evaluate the network; the output has the shape of x.

        Args:
            x: points ``[B, C, 1, 1]``.
            t: time or noise level, in the network's unit, ``[B]``.
            y: class labels ``[B]``, if the network is class-conditional.
        """
        code = self.time(positional_code(t * self.time_scale, self.code_size).to(self.first.weight.dtype))
        if self.classes is not None:
            if y is None:
                raise ValueError("this network is class-conditional and needs labels")
            code = code + self.classes(y)
        code = F.silu(code)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, code)
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out.reshape(x.shape)
