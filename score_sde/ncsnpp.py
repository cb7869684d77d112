"""NCSN++: the noise-conditional score network of score_sde (variance exploding).

An independent implementation with the parameter names, order and numerics of the public score_sde_pytorch network, so
that its checkpoints load unchanged. Source: Y. Song, J. Sohl-Dickstein, D. P. Kingma, A. Kumar, S. Ermon,
B. Poole, "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score_sde import layers
from score_sde.settings import NCSNppSettings


def _settings(values: dict[str, Any]) -> NCSNppSettings:
    known = [field.name for field in fields(NCSNppSettings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"NCSNpp has no setting {', '.join(unknown)}; supported: {', '.join(known)}")
    return NCSNppSettings(**values)


class NCSNpp(nn.Module):
    """Score network s(x, sigma), an estimate of the gradient of log p(x; sigma) with respect to x.

    A U-Net with an input pyramid (the image, repeatedly downsampled, enters every level) and an output
    pyramid (every level adds to the repeatedly upsampled output), conditioned on log sigma.

    All layers are in one flat list, `all_modules`, in the order of their use: this gives the public state-dict
    names, and `forward` walks along the list with an iterator. Attention depends only on `image_size` and the
    level, so the network accepts images of other sizes, including non-square ones, whose sides are divisible by
    2^(levels - 1). For half precision use autocast: `.half()` or `.bfloat16()` would also round the Fourier
    frequencies, which shifts their phases by whole turns.

    Args:
        settings: see `NCSNppSettings`; the defaults are those of the FFHQ-256 network.

    Raises:
        ValueError: unknown or unsupported setting (the message lists what is supported).
    """

    sigmas: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = s = _settings(settings)
        # Part of the public state dict, but not used here: with the Fourier embedding, num_scales determines
        # only the length of this table.
        log_sigmas = torch.linspace(math.log(s.sigma_max), math.log(s.sigma_min), s.num_scales, dtype=torch.float64)
        self.register_buffer("sigmas", log_sigmas.exp())
        encoder, widths = self._encoder_modules()
        decoder = self._decoder_modules(widths)
        self.all_modules = nn.ModuleList([*self._embedding_modules(), *encoder, *decoder])

    # ------------------------------------------------------------------------------ construction

    def _embedding_modules(self) -> list[nn.Module]:
        s = self.settings
        modules: list[nn.Module] = []
        size = s.nf
        if s.embedding_type == "fourier":
            modules.append(layers.GaussianFourierProjection(s.nf, s.fourier_scale))
            size = 2 * s.nf
        if s.conditional:
            modules += [layers.linear(size, 4 * s.nf), layers.linear(4 * s.nf, 4 * s.nf)]
        return modules

    def _residual_block(self, in_channels: int, out_channels: int, resample: str | None = None) -> nn.Module:
        s = self.settings
        return layers.ResidualBlock(
            in_channels,
            out_channels,
            4 * s.nf,
            kind=s.resblock_type,
            resample=resample,
            fir_kernel=s.filter_taps,
            dropout=s.dropout,
            skip_rescale=s.skip_rescale,
            init_scale=s.init_scale,
        )

    def _attention(self, channels: int) -> nn.Module:
        return layers.AttentionBlock(channels, self.settings.skip_rescale, self.settings.init_scale)

    def _resampling_module(self, channels: int, direction: str) -> nn.Module:
        s = self.settings
        if s.resblock_type == "biggan":
            return self._residual_block(channels, channels, resample=direction)
        if not s.resamp_with_conv:
            return layers.PlainResample(s.filter_taps, up=direction == "up")
        kind = layers.Upsample if direction == "up" else layers.Downsample
        return kind(channels, channels, s.filter_taps)

    def _encoder_modules(self) -> tuple[list[nn.Module], list[int]]:
        """Modules from the input to the bottleneck, and the widths of the skip connections."""
        s = self.settings
        modules: list[nn.Module] = [layers.conv3x3(s.num_channels, s.nf)]
        width, widths, pyramid = s.nf, [s.nf], s.num_channels
        for level, multiplier in enumerate(s.ch_mult):
            for _ in range(s.num_res_blocks):
                modules.append(self._residual_block(width, s.nf * multiplier))
                width = s.nf * multiplier
                if s.attends(level):
                    modules.append(self._attention(width))
                widths.append(width)
            if level == len(s.ch_mult) - 1:
                break
            modules.append(self._resampling_module(width, "down"))
            if s.progressive_input == "input_skip":
                modules.append(layers.Combine(pyramid, width, s.progressive_combine))
                width *= 2 if s.progressive_combine == "cat" else 1
            elif s.progressive_input == "residual":
                modules.append(layers.Downsample(pyramid, width, s.filter_taps))
                pyramid = width
            widths.append(width)
        modules += [
            self._residual_block(width, width),
            self._attention(width),
            self._residual_block(width, width),
        ]
        return modules, widths

    def _decoder_modules(self, widths: list[int]) -> list[nn.Module]:
        s = self.settings
        modules: list[nn.Module] = []
        width, widths, pyramid = widths[-1], list(widths), 0
        top = len(s.ch_mult) - 1
        for level in range(top, -1, -1):
            for _ in range(s.num_res_blocks + 1):
                modules.append(self._residual_block(width + widths.pop(), s.nf * s.ch_mult[level]))
                width = s.nf * s.ch_mult[level]
            if s.attends(level):
                modules.append(self._attention(width))
            if s.progressive == "output_skip":
                modules += [layers.GroupNorm(width), layers.conv3x3(width, s.num_channels, s.init_scale)]
            elif s.progressive == "residual" and level == top:
                modules += [layers.GroupNorm(width), layers.conv3x3(width, width)]
            elif s.progressive == "residual":
                modules.append(layers.Upsample(pyramid, width, s.filter_taps))
            pyramid = width
            if level > 0:
                modules.append(self._resampling_module(width, "up"))
        if s.progressive != "output_skip":
            modules += [layers.GroupNorm(width), layers.conv3x3(width, s.num_channels, s.init_scale)]
        return modules

    # ------------------------------------------------------------------------------ evaluation

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Score at `x` for noise of standard deviation `sigma`, both in the units of the pixels.

        Args:
            x: noisy images `[B, C, H, W]`, clean pixels in [0, 1], or in [-1, 1] if `centered`.
            sigma: positive; a number, a 0-d tensor, or one value per image `[B]`.

        Returns:
            The score, shaped and typed like `x`: the last layer's output divided by sigma, or the output
            itself if not `scale_by_sigma`.

        Raises:
            ValueError: wrong shape, or a height or width that cannot be halved often enough.
        """
        s = self.settings
        self._check_input(x)
        sigma = self._one_per_image(sigma, x)
        modules: Iterator[Any] = iter(self.all_modules)
        embedding = self._embed(sigma, modules)
        image = x if s.centered else 2 * x - 1.0
        h, skips = self._encode(image, embedding, modules)
        h = self._decode(h, skips, embedding, modules).to(x.dtype)
        return h / sigma[:, None, None, None].to(x.dtype) if s.scale_by_sigma else h

    def _check_input(self, x: Tensor) -> None:
        s = self.settings
        if x.dim() != 4 or x.shape[1] != s.num_channels:
            raise ValueError(f"expected images [batch, {s.num_channels}, height, width], got {list(x.shape)}")
        if x.shape[2] % s.size_divisor or x.shape[3] % s.size_divisor:
            raise ValueError(
                f"height and width must be divisible by {s.size_divisor} for {len(s.ch_mult)} levels, "
                f"got {x.shape[2]} x {x.shape[3]}"
            )

    @staticmethod
    def _one_per_image(sigma: Tensor | float, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device)
        if sigma.dim() > 1 or (sigma.dim() == 1 and sigma.shape[0] not in (1, x.shape[0])):
            raise ValueError(
                f"sigma must be a number or one value per image [{x.shape[0]}], got shape {list(sigma.shape)}"
            )
        return sigma.expand(x.shape[0])

    def _embed(self, sigma: Tensor, modules: Iterator[Any]) -> Tensor | None:
        """Activated embedding of the noise level `[B, 4 nf]` (None if not conditional).

        "positional" embeds the fractional index of sigma in the descending geometric table `sigmas`, which at the
        levels of the table is the integer index of the public code.
        """
        s = self.settings
        with torch.autocast(sigma.device.type, enabled=False):
            if s.embedding_type == "fourier":
                features = next(modules)(sigma.log())
            else:
                scale = (s.num_scales - 1) / math.log(s.sigma_max / s.sigma_min)
                index = (math.log(s.sigma_max) - sigma.log()) * scale
                features = layers.sinusoidal_embedding(index, s.nf)
            if not s.conditional:
                return None
            first, second = next(modules), next(modules)
            return F.silu(second(F.silu(first(features.to(first.weight.dtype)))))

    def _run(self, module: nn.Module, h: Tensor, *embedding: Tensor | None) -> Tensor:
        if self.settings.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(module, h, *embedding, use_reentrant=False)
        return module(h, *embedding)

    def _resample(self, module: nn.Module, h: Tensor, embedding: Tensor | None) -> Tensor:
        return self._run(module, h, embedding) if self.settings.resblock_type == "biggan" else module(h)

    def _encode(self, image: Tensor, embedding: Tensor | None, modules: Iterator[Any]) -> tuple[Tensor, list[Tensor]]:
        """Features at the bottleneck, and the features for the decoder's skip connections."""
        s = self.settings
        pyramid = image
        h = next(modules)(image)
        skips = [h]
        for level in range(len(s.ch_mult)):
            for _ in range(s.num_res_blocks):
                h = self._run(next(modules), h, embedding)
                if s.attends(level):
                    h = self._run(next(modules), h)
                skips.append(h)
            if level == len(s.ch_mult) - 1:
                break
            h = self._resample(next(modules), h, embedding)
            if s.progressive_input == "input_skip":
                pyramid = layers.downsample(pyramid, s.filter_taps)
                h = next(modules)(pyramid, h)
            elif s.progressive_input == "residual":
                h = pyramid = layers.add_residual(next(modules)(pyramid), h, s.skip_rescale)
            skips.append(h)
        h = self._run(next(modules), h, embedding)
        h = self._run(next(modules), h)
        return self._run(next(modules), h, embedding), skips

    def _decode(self, h: Tensor, skips: list[Tensor], embedding: Tensor | None, modules: Iterator[Any]) -> Tensor:
        s = self.settings
        pyramid: Tensor | None = None
        for level in range(len(s.ch_mult) - 1, -1, -1):
            for _ in range(s.num_res_blocks + 1):
                h = self._run(next(modules), torch.cat([h, skips.pop()], dim=1), embedding)
            if s.attends(level):
                h = self._run(next(modules), h)
            if s.progressive == "output_skip":
                output = self._head(h, modules)
                output = output.to(torch.promote_types(output.dtype, torch.float32))  # a sum over levels
                pyramid = output if pyramid is None else layers.upsample(pyramid, s.filter_taps) + output
            elif s.progressive == "residual" and pyramid is None:
                pyramid = self._head(h, modules)
            elif s.progressive == "residual":
                h = pyramid = layers.add_residual(next(modules)(pyramid), h, s.skip_rescale)
            if level > 0:
                h = self._resample(next(modules), h, embedding)
        if s.progressive == "output_skip":
            assert pyramid is not None  # there is at least one level
            return pyramid
        return self._head(h, modules)

    @staticmethod
    def _head(h: Tensor, modules: Iterator[Any]) -> Tensor:
        # In float32 even under autocast: at a large sigma, the rounding errors of bf16 would exceed the prediction.
        norm, conv = next(modules), next(modules)
        with torch.autocast(h.device.type, enabled=False):
            return conv(F.silu(norm(h.to(conv.weight.dtype))))
