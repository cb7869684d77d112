"""U-Net for photographs of any size: only convolutions, no normalisation, at half the resolution and below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.blocks import timestep_embedding, without_autocast


class ResidualBlock(nn.Module):
    """``h + conv(silu((1 + scale) conv(silu(h)) + shift))``, with scale and shift from the code of the noise level.

    The second convolution and the modulation start at 0, so that the block starts as the identity.
    """

    def __init__(self, width: int, code_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(code_size, 2 * width)
        for parameter in (*self.second.parameters(), *self.modulation.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.modulation(code)[:, :, None, None].chunk(2, 1)
        inner = torch.addcmul(shift, self.first(F.silu(h)), 1 + scale)
        out: Tensor = h + self.second(F.silu(inner))
        return out


class GatedBlock(nn.Module):
    """``h + conv(relu(conv(h)) (1 + gain))``, with the gain from the code of the noise level.

    The trunk has nothing but sums. The second convolution and the gain start at 0, so that the block starts as the
    identity.
    """

    def __init__(self, width: int, code_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gain = nn.Linear(code_size, width)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        for parameter in (self.first.bias, self.second.weight, *self.gain.parameters()):
            nn.init.zeros_(parameter)  # type: ignore[arg-type]

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        gain = self.gain(code)[:, :, None, None]
        out: Tensor = h + self.second(F.relu(self.first(h)) * (1 + gain))
        return out


class PhotoUNet(nn.Module):
    """Residual blocks at several resolutions, the highest of which is half that of the image.

    Blocks of 2 x 2 pixels become channels (Shi et al. 2016, arXiv 1609.05158), as in FFDNet (Zhang et al. 2018, arXiv
    1710.04026); the skip connections are sums, and there is no normalisation, as in DRUNet (Zhang et al. 2021, arXiv
    2008.13751). Without attention, an output pixel depends only on the pixels around it, so images may have any size:
    they are padded by reflection to a multiple of ``2^levels`` and cropped again.

    Args:
        image_size: side of the training images; only recorded.
        num_channels: channels of the images.
        widths: channels of each level.
        num_blocks: blocks of each level in the encoder and again in the decoder; the lowest level has them once.
        code_size: length of the positional code of the noise level; even.
        time_scale: factor of the time before the code, whose frequencies suit times up to about 1000.
        block: "modulated" (`ResidualBlock`, and a SiLU before the last convolution) or "gated" (`GatedBlock`).

    Raises:
        ValueError: the settings are inconsistent.
    """

    def __init__(
        self,
        image_size: int = 64,
        num_channels: int = 3,
        widths: Sequence[int] = (64, 96, 128, 128),
        num_blocks: Sequence[int] = (3, 2, 1, 2),
        code_size: int = 128,
        time_scale: float = 1.0,
        block: str = "modulated",
    ) -> None:
        super().__init__()
        kinds: dict[str, type[nn.Module]] = {"modulated": ResidualBlock, "gated": GatedBlock}
        self.multiple = 2 ** len(widths)
        self.code_size, self.time_scale = code_size, time_scale
        self.embed = nn.Sequential(
            nn.Linear(code_size, code_size), nn.SiLU(), nn.Linear(code_size, code_size), nn.SiLU()
        )

        def blocks(k: int) -> nn.ModuleList:
            return nn.ModuleList(kinds[block](widths[k], code_size) for _ in range(num_blocks[k]))

        steps = range(len(widths) - 1)
        self.first = nn.Conv2d(4 * num_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(blocks(k) for k in steps)
        self.shrink = nn.ModuleList(nn.Conv2d(widths[k], widths[k + 1], 2, stride=2) for k in steps)
        self.middle = blocks(len(widths) - 1)
        self.grow = nn.ModuleList(nn.Conv2d(widths[k + 1], 4 * widths[k], 1) for k in steps)
        self.up = nn.ModuleList(blocks(k) for k in steps)
        self.last_activation = nn.SiLU() if block == "modulated" else nn.Identity()
        self.last = nn.Conv2d(widths[0], 4 * num_channels, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network for images ``x [B, C, H, W]`` at times ``t [B]`` in the network's unit."""
        height, width = x.shape[-2:]
        code = self.embed(timestep_embedding(self.time_scale * t, self.code_size, 1000).to(self.last.weight.dtype))
        with without_autocast(x):  # in bfloat16 the image would be rounded by more than noise of one grey level
            h = self.first(F.pixel_unshuffle(mirrored(x, self.multiple), 2))
        h = h.to(code.dtype)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, code)
            skips.append(h)
            h = shrink(h)
        for block in self.middle:
            h = block(h, code)
        for blocks, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = skips.pop() + F.pixel_shuffle(grow(h), 2)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, code)
        return F.pixel_shuffle(self.last(self.last_activation(h)), 2)[..., :height, :width]


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """Pad images at the right and the bottom to the next multiple in height and width, by reflection or, where they are
    too small for that, by their last pixels."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not bottom and not right:
        return x
    fits = bottom < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if fits else "replicate")
