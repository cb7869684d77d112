"""Building blocks of NCSN++ and DDPM's U-Net: FIR resampling, embeddings, residual and attention blocks.

Attribute names (`GroupNorm_0`, `Conv_0`, `NIN_0`, ...) follow the public checkpoints, so that a state
dict of score_sde_pytorch loads without renaming. Images are `[batch, channel, height, width]`.

Source: Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
ICLR 2021, appendix H; the FIR filters come from T. Karras et al., StyleGAN2 (CVPR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = math.sqrt(2.0)


# --------------------------------------------------------------------------------------------------
# Initialisation
# --------------------------------------------------------------------------------------------------


def init_weight_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Fill `weight` in place from U(-a, a), a^2 = 3 scale / mean(fan_in, fan_out).

    The weight is [out, in, ...] (or [in, out]: the mean of the fans is symmetric).  A scale of 0 means
    1e-10, as in the public code: nearly zero, but not exactly, so gradients reach the layers before it.
    """
    receptive_field = math.prod(weight.shape[2:])
    mean_fan = receptive_field * (weight.shape[0] + weight.shape[1]) / 2
    bound = math.sqrt(3.0 * (scale if scale else 1e-10) / mean_fan)
    return nn.init.uniform_(weight, -bound, bound)


def conv3x3(
    in_channels: int, out_channels: int, init_scale: float = 1.0, *, stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    """3x3 convolution with variance-scaled weights and zero bias."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding)
    init_weight_(conv.weight, init_scale)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """1x1 convolution with variance-scaled weights and zero bias."""
    conv = nn.Conv2d(in_channels, out_channels, 1)
    init_weight_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer with variance-scaled weights and zero bias."""
    layer = nn.Linear(in_features, out_features)
    init_weight_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class GroupNorm(nn.GroupNorm):
    """Group normalisation with min(channels / 4, 32) groups, computed in float32 or better.

    Half-precision inputs (autocast) are normalised in float32 and returned in their own dtype.

    Raises:
        ValueError: the channels cannot be split into that many groups.
    """

    def __init__(self, channels: int) -> None:
        groups = min(channels // 4, 32)
        if groups == 0 or channels % groups:
            raise ValueError(
                f"{channels} channels cannot be normalised in min(channels // 4, 32) = {groups} groups; "
                "choose nf so that every width is at least 4 and divisible by its number of groups "
                "(a multiple of 32 always is)"
            )
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


# --------------------------------------------------------------------------------------------------
# Resampling by two
# --------------------------------------------------------------------------------------------------


def _fir_weight(taps: Sequence[float], gain: float, x: Tensor) -> Tensor:
    """Depthwise weight [C, 1, K, K]: gain * outer(taps, taps) / sum(taps)^2, in the dtype of x.

    It has only K^2 values and is built on every call: a buffer outside the state dict would be lost when a network
    made on the meta device is materialised.
    """
    norm = gain / sum(taps) ** 2
    table = [[norm * a * b for b in taps] for a in taps]
    return x.new_tensor(table).expand(x.shape[1], 1, -1, -1)


def fir_upsample(x: Tensor, taps: Sequence[float] = (1, 3, 3, 1), margin: int = 0) -> Tensor:
    """Upsample by two: insert zeros, then convolve with the separable filter `taps` x `taps`.

    The filter is normalised to keep a constant image constant; pixels outside the image are zero, so a
    constant fades at the border. `[B, C, H, W]` -> `[B, C, 2H + 2 margin, 2W + 2 margin]`: a margin keeps that many
    more pixels of the filtered image on each side, for a convolution that follows.
    """
    crop = (len(taps) - 2) // 2 - margin
    with torch.autocast(x.device.type, enabled=False):
        # A transposed convolution inserts zeros and convolves; its output has 2H - 2 + K rows.
        weight = _fir_weight(taps, 4.0, x)
        y = F.conv_transpose2d(x, weight, stride=2, padding=max(crop, 0), groups=x.shape[1])
    before = max(-crop, 0)
    after = [2 * (n + margin) - m - before for n, m in zip(x.shape[-2:], y.shape[-2:], strict=True)]
    if before or any(after):  # not for [1, 3, 3, 1], only for filters of another length
        y = F.pad(y, (before, after[1], before, after[0]))
    return y


def fir_downsample(x: Tensor, taps: Sequence[float] = (1, 3, 3, 1), stride: int = 2, margin: int = 0) -> Tensor:
    """Convolve with the separable filter `taps` x `taps` and keep every second pixel.

    `[B, C, H, W]` -> `[B, C, H / 2, W / 2]`; pixels outside the image are zero. With
    `stride=1, margin=1` it only filters, with one more row and column on each side, as needed by a following 3x3
    convolution with stride 2.
    """
    with torch.autocast(x.device.type, enabled=False):
        weight = _fir_weight(tuple(reversed(taps)), 1.0, x)  # conv2d correlates: reverse to convolve
        padding = (len(taps) - 1) // 2 + margin
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])


def upsample(x: Tensor, fir_kernel: Sequence[float] | None) -> Tensor:
    """Upsample by two, with a FIR filter or (None) by repeating pixels."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if fir_kernel is None else fir_upsample(x, fir_kernel)


def downsample(x: Tensor, fir_kernel: Sequence[float] | None) -> Tensor:
    """Downsample by two, with a FIR filter or (None) by averaging 2x2 pixels."""
    return F.avg_pool2d(x, 2) if fir_kernel is None else fir_downsample(x, fir_kernel)


class FIRConv2d(nn.Module):
    """3x3 convolution merged with FIR resampling by two (padding once for both, as in StyleGAN2).

    Up: zero insertion, 3x3 convolution and filter, i.e. filter first with a margin, then convolve.
    Down: filter with a margin, then 3x3 convolution with stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, fir_kernel: Sequence[float], up: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(init_weight_(torch.empty(out_channels, in_channels, 3, 3)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.fir_kernel, self.up = tuple(fir_kernel), up

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return F.conv2d(fir_upsample(x, self.fir_kernel, margin=1), self.weight, self.bias)
        x = fir_downsample(x, self.fir_kernel, stride=1, margin=1)
        return F.conv2d(x, self.weight, self.bias, stride=2)


class Upsample(nn.Module):
    """Upsampling by two followed by a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, fir_kernel: Sequence[float] | None) -> None:
        super().__init__()
        if fir_kernel is None:
            self.Conv_0 = conv3x3(in_channels, out_channels)
        else:
            self.Conv2d_0 = FIRConv2d(in_channels, out_channels, fir_kernel, up=True)
        self.fir = fir_kernel is not None

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv2d_0(x) if self.fir else self.Conv_0(upsample(x, None))


class Downsample(nn.Module):
    """Downsampling by two with a strided 3x3 convolution, low-pass filtered first if FIR."""

    def __init__(self, in_channels: int, out_channels: int, fir_kernel: Sequence[float] | None) -> None:
        super().__init__()
        if fir_kernel is None:
            self.Conv_0 = conv3x3(in_channels, out_channels, stride=2, padding=0)
        else:
            self.Conv2d_0 = FIRConv2d(in_channels, out_channels, fir_kernel, up=False)
        self.fir = fir_kernel is not None

    def forward(self, x: Tensor) -> Tensor:
        # Without a filter, only the right and the bottom are padded.
        return self.Conv2d_0(x) if self.fir else self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class PlainResample(nn.Module):
    """Resampling by two without parameters (a "ddpm" network with resamp_with_conv=False)."""

    def __init__(self, fir_kernel: Sequence[float] | None, up: bool) -> None:
        super().__init__()
        self.fir_kernel, self.up = fir_kernel, up

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.fir_kernel) if self.up else downsample(x, self.fir_kernel)


# --------------------------------------------------------------------------------------------------
# Embeddings of the noise level
# --------------------------------------------------------------------------------------------------


class GaussianFourierProjection(nn.Module):
    """Random Fourier features [sin(2 pi W v), cos(2 pi W v)] of a scalar v, here log sigma.

    W ~ N(0, scale^2) is fixed.  `[B]` -> `[B, 2 size]`.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, v: Tensor) -> Tensor:
        # The phase reaches thousands of radians: float32 (or better), multiplied in the order of the public code,
        # since another order alone changes the network's output by 1e-6.
        phase = v[:, None] * self.W.to(v.dtype)[None, :] * 2 * math.pi
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


def sinusoidal_embedding(index: Tensor, size: int, max_positions: float = 10000.0) -> Tensor:
    """Transformer position embedding, sines first: `[B]` -> `[B, size]`, frequencies 1 ... 1 / max_positions."""
    half = size // 2
    exponents = torch.arange(half, dtype=index.dtype, device=index.device)
    phase = index[:, None] * torch.exp(exponents * (-math.log(max_positions) / (half - 1)))[None, :]
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=-1), (0, size % 2))


# --------------------------------------------------------------------------------------------------
# Blocks
# --------------------------------------------------------------------------------------------------


def add_residual(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """x + h, divided by sqrt(2) if `rescale` (keeps the variance of independent summands)."""
    total = x + h
    return total.div_(SQRT2) if rescale else total  # in place: nothing else refers to the sum


class Combine(nn.Module):
    """Combination of input pyramid and features: a 1x1 convolution, then sum or concatenation."""

    def __init__(self, pyramid_channels: int, channels: int, method: str) -> None:
        super().__init__()
        self.Conv_0 = conv1x1(pyramid_channels, channels)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        projected = self.Conv_0(pyramid)
        return torch.cat([projected, h], dim=1) if self.method == "cat" else projected + h


class NIN(nn.Module):
    """Linear map of the last dimension, y = x W + b, with W stored as [in, out]."""

    def __init__(self, in_channels: int, out_channels: int, init_scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(init_weight_(torch.empty(in_channels, out_channels), init_scale))
        self.b = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W.t(), self.b)


class AttentionBlock(nn.Module):
    """Self-attention over pixels with a single head as wide as the block, and a residual connection."""

    def __init__(self, channels: int, skip_rescale: bool, init_scale: float) -> None:
        super().__init__()
        self.GroupNorm_0 = GroupNorm(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, init_scale)
        self.skip_rescale = skip_rescale

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)[:, None]  # [B, one head, H W, C]
        query, key, value = self.NIN_0(tokens), self.NIN_1(tokens), self.NIN_2(tokens)
        h = self.NIN_3(F.scaled_dot_product_attention(query, key, value))
        h = h[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])
        return add_residual(x, h, self.skip_rescale)


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv, plus the embedded noise level, GroupNorm-SiLU-dropout-conv, plus a shortcut.

    `kind="biggan"` resamples inside the block (`resample` "up" or "down": both branches, before the first
    convolution) and has a 1x1 convolution as shortcut whenever it resamples or changes the width;
    `kind="ddpm"` never resamples and has a NIN as shortcut.
    `embedding` passed to `forward` is already activated, `[B, embedding_size]`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_size: int,
        *,
        kind: str = "biggan",
        resample: str | None = None,
        fir_kernel: Sequence[float] | None = (1, 3, 3, 1),
        dropout: float = 0.0,
        skip_rescale: bool = True,
        init_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.GroupNorm_0 = GroupNorm(in_channels)
        self.Conv_0 = conv3x3(in_channels, out_channels)
        self.Dense_0 = linear(embedding_size, out_channels)
        self.GroupNorm_1 = GroupNorm(out_channels)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv3x3(out_channels, out_channels, init_scale)
        self.shortcut_kind = ""
        if kind == "biggan" and (in_channels != out_channels or resample is not None):
            self.shortcut_kind = "conv"
            self.Conv_2 = conv1x1(in_channels, out_channels)
        elif in_channels != out_channels:
            self.shortcut_kind = "nin"
            self.NIN_0 = NIN(in_channels, out_channels)
        self.resample, self.fir_kernel, self.skip_rescale = resample, fir_kernel, skip_rescale

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample is None:
            return x
        return upsample(x, self.fir_kernel) if self.resample == "up" else downsample(x, self.fir_kernel)

    def _shortcut(self, x: Tensor) -> Tensor:
        x = self._resample(x)
        if self.shortcut_kind == "conv":
            return self.Conv_2(x)
        return self.NIN_0(x.movedim(1, -1)).movedim(-1, 1) if self.shortcut_kind == "nin" else x

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self._resample(F.silu(self.GroupNorm_0(x)))
        h = self.Conv_0(h)
        if embedding is not None:
            h += self.Dense_0(embedding)[:, :, None, None]
        h = self.Dropout_0(F.silu(self.GroupNorm_1(h)))
        if self.resample == "up":
            # Upsampling acts on each channel separately, so it commutes with the 1x1 convolution, which is four
            # times cheaper before it. The bias must not fade at the border, so it is added to the other one.
            shortcut = upsample(F.conv2d(x, self.Conv_2.weight), self.fir_kernel)
            assert self.Conv_1.bias is not None and self.Conv_2.bias is not None
            h = F.conv2d(h, self.Conv_1.weight, self.Conv_1.bias + self.Conv_2.bias, padding=1)
            return add_residual(shortcut, h, self.skip_rescale)
        return add_residual(self._shortcut(x), self.Conv_1(h), self.skip_rescale)
