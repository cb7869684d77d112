"""A U-Net for photographs of any size: convolutions only, no normalisation, half the resolution from the start."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.blocks import timestep_embedding


class ResidualBlock(nn.Module):
    """``h + conv(silu((1 + scale) conv(silu(h)) + shift))``, scale and shift from the code of the noise level.

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
        inner = self.first(F.silu(h)) * (1 + scale) + shift
        out: Tensor = h + self.second(F.silu(inner))
        return out


class GatedBlock(nn.Module):
    """``h + conv(relu(conv(h)) (1 + gain))``, the gain from the code of the noise level.

    Nothing acts on the trunk but sums. The second convolution and the gain start at 0, so that the block starts as the
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
    """Residual blocks at several resolutions, of which the highest is half that of the image.

    Pixels are taken in blocks of 2 x 2 (Shi et al. 2016, arXiv 1609.05158), as FFDNet does for speed (Zhang et al.
    2018, arXiv 1710.04026); the levels of the U-Net are joined by sums, and nothing is normalised, as in DRUNet (Zhang
    et al. 2021, arXiv 2008.13751). Nothing attends either, so that an output pixel depends on the pixels around it
    alone: images may have any size. They are continued by their mirror image to a multiple of ``2^levels``, and cut
    again.

    Args:
        image_size: side of the training images; only recorded.
        num_channels: of the images.
        widths: channels of each level.
        num_blocks: of each level on the way down, and again on the way up; the lowest level has them once.
        code_size: of the positional code of the noise level; even.
        time_scale: factor of the network's time before the code, which is made for times up to about 1000.
        block: "modulated" (`ResidualBlock`, and a SiLU before the last convolution) or "gated" (`GatedBlock`).
    """

    any_size = True

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
        """Output ``[B, C, H, W]`` of images ``x [B, C, H, W]`` at the times ``t [B]``, whatever their unit."""
        height, width = x.shape[-2:]
        code = self.embed(timestep_embedding(self.time_scale * t, self.code_size, 1000).to(self.last.weight.dtype))
        h = self.first(F.pixel_unshuffle(mirrored(x, self.multiple), 2))
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
    """Images continued to the right and below, to the next multiple in height and width: by their mirror image, and by
    their last pixels where they are too small for that."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not bottom and not right:
        return x
    fits = bottom < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if fits else "replicate")
