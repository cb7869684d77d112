"""U-Net of DDPM as in score embedding: conditioned on the time itself and, optionally, on a label.

Source: Ho et al. 2020, arXiv 2006.11239, appendix B; Na, Gao and Wan 2024, arXiv 2404.06661 (the embeddings).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde import layers


class Stage(nn.Module):
    """Residual block, optionally followed by attention."""

    def __init__(self, in_channels: int, out_channels: int, code_size: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.block = layers.ResidualBlock(
            in_channels, out_channels, code_size, kind="ddpm", fir_kernel=None, dropout=dropout, skip_rescale=False
        )
        self.attention = layers.AttentionBlock(out_channels, False, 0.0) if attends else None

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        h = self.block(h, code)
        return h if self.attention is None else self.attention(h)


class DDPMUNet(nn.Module):
    """``network(x, t, y)``: residual blocks at several resolutions, with attention at some of them and in the middle.

    Each level has ``num_res_blocks`` blocks in the encoder and one more in the decoder, with skip connections. The time
    enters every block as a bias for each channel. The output is that of the last convolution, without scaling, computed
    in float32 even under autocast.

    Args:
        image_size: side of the training images; with `attn_resolutions` it determines where attention acts. Images of
            other sizes are accepted if they can be halved as often.
        num_channels: channels of the images.
        nf: channels of the first level.
        ch_mult: channels of each level, in multiples of ``nf``.
        num_res_blocks: residual blocks of each level.
        attn_resolutions: widths of the feature maps with attention.
        dropout: dropout probability in the residual blocks.
        resamp_with_conv: resample with 3x3 convolutions; otherwise average 2x2 pixels and repeat pixels.
        embedding: embedding of the time. "linear": the number itself, repeated ``nf`` times, so that the network sees
            an affine map of it. "fourier": its sines and cosines at ``nf / 2`` frequencies, log-spaced from 1 to
            ``1 / max_positions``.
        max_positions: see ``embedding``.
        num_classes: number of classes; if given, ``forward`` needs labels, and a learned vector for each is added to
            the embedded time. For a network conditioned on the index of a training image, the number of these images.
        centered: whether images are in [-1, 1]; otherwise they are in [0, 1], and the network sees ``2 x - 1``.

    Raises:
        ValueError: a setting is not supported.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int = 3,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        embedding: str = "linear",
        max_positions: float = 10_000.0,
        num_classes: int | None = None,
        centered: bool = False,
    ) -> None:
        super().__init__()
        self.divisor = 2 ** (len(ch_mult) - 1)
        self.num_channels, self.nf, self.centered = num_channels, nf, centered
        self.embedding, self.max_positions = embedding, max_positions
        self.time = nn.Sequential(layers.linear(nf, 4 * nf), nn.SiLU(), layers.linear(4 * nf, 4 * nf))
        self.classes = nn.Embedding(num_classes, 4 * nf) if num_classes is not None else None
        self.first = layers.conv3x3(num_channels, nf)
        attends = [image_size // 2**level in attn_resolutions for level in range(len(ch_mult))]
        widths = [nf * multiple for multiple in ch_mult]
        self._build(widths, attends, num_res_blocks, dropout, resamp_with_conv)
        self.norm, self.last = layers.GroupNorm(widths[0]), layers.conv3x3(widths[0], num_channels, 0.0)

    def _build(self, widths: list[int], attends: list[bool], blocks: int, dropout: float, with_conv: bool) -> None:
        def stage(in_channels: int, out_channels: int, attention: bool) -> Stage:
            return Stage(in_channels, out_channels, 4 * self.nf, dropout, attention)

        def resampling(channels: int, up: bool) -> nn.Module:
            if not with_conv:
                return layers.PlainResample(None, up=up)
            return (layers.Upsample if up else layers.Downsample)(channels, channels, None)

        def down() -> Iterator[nn.Module]:
            width = self.nf
            for level, next_width in enumerate(widths):
                for _ in range(blocks):
                    yield stage(width, next_width, attends[level])
                    width = next_width
                    skips.append(width)
                if level < len(widths) - 1:
                    yield resampling(width, up=False)
                    skips.append(width)

        def up() -> Iterator[nn.Module]:
            width = widths[-1]
            for level in reversed(range(len(widths))):
                for i in range(blocks + 1):
                    yield stage(width + skips.pop(), widths[level], attends[level] and i == blocks)
                    width = widths[level]
                if level > 0:
                    yield resampling(width, up=True)

        skips = [self.nf]
        self.down = nn.ModuleList(down())
        self.middle = nn.ModuleList([stage(widths[-1], widths[-1], True), stage(widths[-1], widths[-1], False)])
        self.up = nn.ModuleList(up())

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """Evaluate the network; the output has the shape and type of x.

        Args:
            x: images ``[B, C, H, W]``.
            t: time or noise level in the network's unit, a number or ``[B]``.
            y: labels ``[B]``, if the network is class-conditional.

        Raises:
            ValueError: shapes do not match, or labels are missing or not expected.
        """
        if x.dim() != 4 or x.shape[1] != self.num_channels:
            raise ValueError(f"expected images [batch, {self.num_channels}, height, width], got {list(x.shape)}")
        if x.shape[2] % self.divisor or x.shape[3] % self.divisor:
            size = f"{x.shape[2]} x {x.shape[3]}"
            raise ValueError(f"height and width must be divisible by {self.divisor} for this network, got {size}")
        code = self._code(t, y, x)
        h = self.first(x if self.centered else 2 * x - 1)
        skips = [h]
        for module in self.down:
            h = module(h, code) if isinstance(module, Stage) else module(h)
            skips.append(h)
        for module in self.middle:
            h = module(h, code)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], 1), code) if isinstance(module, Stage) else module(h)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.last(F.silu(self.norm(h.to(self.last.weight.dtype))))
        return out.to(x.dtype)

    def _code(self, t: Tensor | float, y: Tensor | None, x: Tensor) -> Tensor:
        """Activated embedding of time and label, ``[B, 4 nf]``."""
        t = torch.as_tensor(t, device=x.device)
        if t.dim() > 1 or (t.dim() == 1 and len(t) not in (1, len(x))):
            raise ValueError(f"t must be a number or one value per image [{len(x)}], got shape {list(t.shape)}")
        t = t.to(torch.promote_types(t.dtype, torch.float32)).expand(len(x))
        if (y is None) != (self.classes is None):
            raise ValueError(
                "this network has no classes: no labels" if self.classes is None else "this network needs labels"
            )
        with torch.autocast(x.device.type, enabled=False):
            if self.embedding == "linear":
                features = t[:, None].expand(-1, self.nf)
            else:
                features = layers.sinusoidal_embedding(t, self.nf, self.max_positions)
            code = self.time(features.to(self.last.weight.dtype))
            if self.classes is not None:
                code = code + self.classes(y)
            return F.silu(code)
