"""ADM U-Net of guided-diffusion, compatible with the state dicts of the public checkpoints.

Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", and openai/guided-diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.blocks import (
    NORM_GROUPS,
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    conv3x3,
    timestep_embedding,
    without_autocast,
    zeroed,
)

NUM_CLASSES = 1000
_DEFAULT_CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2),  # the public factory has no default here; this is the CIFAR-10 choice of Ho et al. 2020
}


class Stage(nn.Sequential):
    """Sequence of layers, in which residual blocks also receive the embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """Noise-predicting network eps(x, t) of Dhariwal & Nichol 2021.

    The resolution is halved between the levels of `channel_mult`; level i has channel_mult[i] *
    model_channels channels (a multiple of 32). Attention acts in the middle and at the levels whose
    downsampling rate is in `attention_resolutions`. A fresh network outputs exactly 0.

    Args:
        image_size: nominal image side in pixels; only recorded, since `forward` accepts any divisible size.
        in_channels, out_channels: image channels in and out (out is 2 * in with a learned variance).
        model_channels: base width.
        num_res_blocks: residual blocks per level of the encoder (the decoder has one more).
        attention_resolutions: downsampling rates (1, 2, 4, ...) at which to attend.
        dropout: probability, in training mode only.
        num_classes: number of class labels, or None for an unconditional network.
        use_checkpoint: recompute activations in the backward pass to save memory.
        use_fp16: accepted because public configurations have it, and ignored: the caller sets the precision,
            by autocast or by converting the module. Under autocast the normalisations, the time embedding
            and the output convolution stay in float32.
        num_heads, num_heads_upsample: attention heads in the encoder and in the decoder (-1: the same); see
            ``num_head_channels``.
        num_head_channels: channels per head; -1 uses the number of heads instead.
        use_scale_shift_norm: let the embedding scale and shift a normalisation instead of being added.
        resblock_updown: resample inside residual blocks instead of by convolutions.
        use_new_attention_order: channel layout of qkv, see `AttentionBlock`.
        norm_groups: groups of the normalisations, 32 in the public checkpoints. A narrow network needs fewer: with
            one channel per group, it cannot see the mean of its input, nor that of the noise.

    Raises:
        ValueError: the channels are not divisible by the groups or the heads.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.in_channels, self.out_channels = in_channels, out_channels
        self.model_channels = model_channels
        self.num_classes = num_classes
        self.size_divisor = 2 ** (len(channel_mult) - 1)
        emb_channels = 4 * model_channels
        self._resblock = partial(
            ResBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            use_checkpoint=use_checkpoint,
            norm_groups=norm_groups,
        )
        self._attention = partial(
            AttentionBlock,
            num_head_channels=num_head_channels,
            use_new_attention_order=use_new_attention_order,
            use_checkpoint=use_checkpoint,
            norm_groups=norm_groups,
        )
        self._resblock_updown = resblock_updown
        rates = set(attention_resolutions)
        widths = [int(mult * model_channels) for mult in channel_mult]

        # The modules are created in the order of the public state dict.
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)
        self.input_blocks, skip_widths = self._encoder(widths, num_res_blocks, rates, num_heads)
        self.middle_block = self._middle(widths[-1], num_heads)
        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = self._decoder(widths, skip_widths, num_res_blocks, rates, heads_up)
        self.out = nn.Sequential(GroupNorm(widths[0], norm_groups), nn.SiLU(), zeroed(conv3x3(widths[0], out_channels)))

    def _resampling(self, direction: str, channels: int) -> nn.Module:
        if self._resblock_updown:
            return self._resblock(channels, resample=direction)
        return (Upsample if direction == "up" else Downsample)(channels, use_conv=True)

    def _encoder(
        self, widths: list[int], num_res_blocks: int, rates: set[int], num_heads: int
    ) -> tuple[nn.ModuleList, list[int]]:
        """Stages of the encoder, and the channels of each one's output (its skip connection)."""
        stages = [Stage(conv3x3(self.in_channels, widths[0]))]
        skip_widths = [widths[0]]
        channels = widths[0]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [self._resblock(channels, out_channels=width)]
                channels = width
                if 2**level in rates:
                    layers.append(self._attention(channels, num_heads=num_heads))
                stages.append(Stage(*layers))
                skip_widths.append(channels)
            if level < len(widths) - 1:
                stages.append(Stage(self._resampling("down", channels)))
                skip_widths.append(channels)
        return nn.ModuleList(stages), skip_widths

    def _middle(self, channels: int, num_heads: int) -> Stage:
        """Stage at the lowest resolution."""
        return Stage(self._resblock(channels), self._attention(channels, num_heads=num_heads), self._resblock(channels))

    def _decoder(
        self, widths: list[int], skip_widths: list[int], num_res_blocks: int, rates: set[int], num_heads: int
    ) -> nn.ModuleList:
        """Stages of the decoder; each takes the last unused skip connection, concatenated to its input."""
        remaining = list(skip_widths)
        stages = []
        channels = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers: list[nn.Module] = [self._resblock(channels + remaining.pop(), out_channels=width)]
                channels = width
                if 2**level in rates:
                    layers.append(self._attention(channels, num_heads=num_heads))
                if level > 0 and i == num_res_blocks:
                    layers.append(self._resampling("up", channels))
                stages.append(Stage(*layers))
        return nn.ModuleList(stages)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: [B, in_channels, H, W], H and W divisible by 2**(levels - 1).
            t: [B] time on the 0..999 scale, integer or fractional; rounded to float32.
            y: [B] class labels, exactly when the network has `num_classes`.

        Returns:
            [B, out_channels, H, W] in the dtype of x.

        Raises:
            ValueError: sizes are not divisible, shapes do not match, or labels are missing or not expected.
        """
        self._check(x, t, y)
        with without_autocast(x):
            emb = self._embed(t, y)
        h = x.to(emb.dtype)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        with without_autocast(x):
            return self.out(h.to(emb.dtype)).to(x.dtype)

    def _embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Time embedding plus class embedding, [B, 4 * model_channels], in the dtype of the parameters."""
        dtype = next(self.time_embed.parameters()).dtype
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(dtype))
        return emb if y is None else emb + self.label_emb(y)

    def _check(self, x: Tensor, t: Tensor, y: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must have shape [B, {self.in_channels}, H, W], got {list(x.shape)}")
        if x.shape[2] % self.size_divisor or x.shape[3] % self.size_divisor:
            raise ValueError(
                f"image size {x.shape[2]}x{x.shape[3]} is not divisible by {self.size_divisor} "
                f"(2**(levels - 1)), which this network needs"
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have shape [{x.shape[0]}], one time per image, got {list(t.shape)}")
        if (y is None) != (self.num_classes is None):
            wanted = "needs class labels y" if y is None else "has no classes, so y must be None"
            raise ValueError(f"this network {wanted}")
        if y is not None and y.shape != t.shape:
            raise ValueError(f"y must have shape [{x.shape[0]}], one label per image, got {list(y.shape)}")


def unet_settings(
    *,
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str | Sequence[float] | None = "",
    learn_sigma: bool = False,
    class_cond: bool = False,
    use_checkpoint: bool = False,
    attention_resolutions: str | int | Sequence[int] = "16",
    num_heads: int = 1,
    num_head_channels: int = -1,
    num_heads_upsample: int = -1,
    use_scale_shift_norm: bool = False,
    dropout: float = 0.0,
    resblock_updown: bool = False,
    use_fp16: bool = False,
    use_new_attention_order: bool = False,
    in_channels: int = 3,
) -> dict[str, Any]:
    """Settings of `UNet` from the layout of the public model factory and its configuration files.

    Args:
        image_size: image side in pixels.
        num_channels: base width, `model_channels` of `UNet`.
        channel_mult: "1,2,4" or a sequence; empty for the default of the image size (32, 64, 128, 256, 512).
        learn_sigma: also predict a variance, doubling the output channels.
        class_cond: condition on the 1000 classes of ImageNet.
        attention_resolutions: image sides in pixels ("16,8", 16 or [16, 8]) at which to attend; "" for none.
        The other arguments are those of `UNet`.

    Returns:
        Keyword arguments of `UNet`; attention resolutions have become downsampling rates.

    Raises:
        ValueError: text that is not numbers, no default multipliers for this size, or an attention resolution that
            does not divide it.
    """
    return {
        "image_size": image_size,
        "in_channels": in_channels,
        "model_channels": num_channels,
        "out_channels": 2 * in_channels if learn_sigma else in_channels,
        "num_res_blocks": num_res_blocks,
        "attention_resolutions": _downsampling_rates(image_size, attention_resolutions),
        "dropout": dropout,
        "channel_mult": _channel_mult(image_size, channel_mult),
        "num_classes": NUM_CLASSES if class_cond else None,
        "use_checkpoint": use_checkpoint,
        "use_fp16": use_fp16,
        "num_heads": num_heads,
        "num_head_channels": num_head_channels,
        "num_heads_upsample": num_heads_upsample,
        "use_scale_shift_norm": use_scale_shift_norm,
        "resblock_updown": resblock_updown,
        "use_new_attention_order": use_new_attention_order,
    }


def _numbers(name: str, value: str | float | Sequence[float]) -> list[float]:
    """Numbers of "1,2", 1 or [1, 2]; whole ones as int."""
    if isinstance(value, str):
        items: Sequence[Any] = [part for part in value.split(",") if part.strip()]
    else:
        items = [value] if isinstance(value, int | float) else value
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers separated by commas, got {value!r}") from error
    return [int(number) if number.is_integer() else number for number in numbers]


def _channel_mult(image_size: int, value: str | Sequence[float] | None) -> list[float]:
    multipliers = _numbers("channel_mult", value or "") or list(_DEFAULT_CHANNEL_MULT.get(image_size, ()))
    if not multipliers:
        sizes = ", ".join(str(size) for size in sorted(_DEFAULT_CHANNEL_MULT))
        raise ValueError(
            f"there are no default channel multipliers for image size {image_size} (only for {sizes}): "
            f"give channel_mult, for example '1,2,2'"
        )
    return multipliers


def _downsampling_rates(image_size: int, value: str | int | Sequence[int]) -> list[int]:
    rates = []
    for resolution in _numbers("attention_resolutions", value):
        if resolution < 1 or image_size % resolution:
            raise ValueError(f"attention resolution {resolution} does not divide the image size {image_size}")
        rates.append(int(image_size // resolution))
    return rates
