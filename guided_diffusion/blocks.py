"""Building blocks of the ADM UNet: normalisation, resampling, residual and attention blocks.

Attribute names (`in_layers`, `emb_layers`, `qkv`, ...) are the state-dict keys of the public checkpoints.

Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_GROUPS = 32
Module = TypeVar("Module", bound=nn.Module)


class GroupNorm(nn.GroupNorm):
    """Group normalisation computed in float32 (or wider) and returned in the dtype of its input."""

    def __init__(self, channels: int, groups: int = NORM_GROUPS) -> None:
        if channels % groups:
            raise ValueError(f"{channels} channels are not divisible by the {groups} normalisation groups")
        super().__init__(groups, channels)

    def forward(self, input: Tensor) -> Tensor:
        # Without autocast, the types agree and `.to` does nothing.
        dtype = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.group_norm(input.to(dtype), self.num_groups, weight, bias, self.eps).to(input.dtype)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with zero padding 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def zeroed(module: Module) -> Module:
    """Set every parameter of `module` to zero, so that the block around it starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding [cos(t f_k), sin(t f_k)] with f_k = max_period^(-k/half), k < half = dim // 2.

    Args:
        t: [B] times on the 0..999 scale, of any dtype, fractional allowed; rounded to float32.
        dim: length of the embedding; an odd one ends in a zero.

    Returns:
        [B, dim] float32. Source: Ho et al. 2020 (as ordered by Dhariwal & Nichol 2021: cosines first).
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) / half * index)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Context of full precision, for cheap and sensitive parts; meta tensors do not support autocast."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class Upsample(nn.Module):
    """Double height and width by nearest neighbour, optionally followed by a 3x3 convolution."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Halve height and width by a strided 3x3 convolution, or by averaging 2x2 pixels."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op = conv3x3(channels, channels, stride=2) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Residual block skip(x) + f(x, emb), where emb is the time (and class) embedding.

    The embedding enters after the first convolution: added to it, or with `use_scale_shift_norm` as scale s
    and shift b of the second normalisation, norm(h) (1 + s) + b. With `resample` ("up" or "down") both
    branches change resolution by 2, the residual branch between its first activation and first convolution.
    The last convolution starts at zero. Dropout acts in training mode only.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        *,
        out_channels: int | None = None,
        use_scale_shift_norm: bool = False,
        resample: str | None = None,
        use_checkpoint: bool = False,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(GroupNorm(channels, norm_groups), nn.SiLU(), conv3x3(channels, out_channels))
        self.resample = _resampler(resample, channels)
        emb_width = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, emb_width))
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels, norm_groups),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(conv3x3(out_channels, out_channels)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, C, H, W], emb [B, E] -> [B, C_out, H', W']."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, use_reentrant=False)
        return self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        in_norm, in_act, in_conv = self.in_layers
        out_norm, out_act, dropout, out_conv = self.out_layers
        h = in_conv(self.resample(in_act(in_norm(x))))
        modulation = self.emb_layers(emb)[:, :, None, None].to(h.dtype)
        if self.use_scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, out_norm(h), 1 + scale)
        else:
            h = out_norm(h + modulation)
        return self.skip_connection(self.resample(x)) + out_conv(dropout(out_act(h)))


def _resampler(resample: str | None, channels: int) -> nn.Module:
    """Resampling without parameters inside a residual block."""
    if resample is None:
        return nn.Identity()
    if resample not in ("up", "down"):
        raise ValueError(f"resample must be 'up', 'down' or None, got {resample!r}")
    return Upsample(channels, use_conv=False) if resample == "up" else Downsample(channels, use_conv=False)


class PointwiseConv(nn.Conv1d):
    """Convolution of kernel size 1 over tokens [B, T, C], with weight [C_out, C, 1] as in the checkpoints.

    It is computed as a matrix product, which reads a channels-last image without rearranging it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight[:, :, 0], self.bias)


class AttentionBlock(nn.Module):
    """Residual self-attention over pixels, x + proj(softmax(q k^T / sqrt(d)) v), with d channels per head.

    The 3C channels of `qkv` are laid out as [heads, (q, k, v), d] in older checkpoints and as
    [(q, k, v), heads, d] with `use_new_attention_order`. The number of heads is `num_heads`, or
    channels / `num_head_channels` where that is not -1. The output projection starts at zero.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_new_attention_order: bool = False,
        use_checkpoint: bool = False,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        divisor = num_heads if num_head_channels == -1 else num_head_channels
        if divisor < 1 or channels % divisor:
            name = "num_heads" if num_head_channels == -1 else "num_head_channels"
            raise ValueError(f"{channels} attention channels are not divisible by {name} {divisor}")
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.use_new_attention_order = use_new_attention_order
        self.use_checkpoint = use_checkpoint
        self.norm = GroupNorm(channels, norm_groups)
        self.qkv = PointwiseConv(channels, 3 * channels)
        self.proj_out = zeroed(PointwiseConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self._split_heads(self.qkv(tokens))
        mixed = F.scaled_dot_product_attention(q, k, v)  # [B, heads, T, d], scaled by 1/sqrt(d)
        h = self.proj_out(mixed.transpose(1, 2).flatten(2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, 3C] -> q, k, v, each [B, heads, T, d]."""
        if self.use_new_attention_order:
            q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).unbind(2)
        else:
            q, k, v = qkv.unflatten(2, (self.num_heads, 3, -1)).unbind(3)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
