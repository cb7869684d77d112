"""ADM U-Net of Dhariwal & Nichol 2021 with the state-dict names of its checkpoints, and a U-Net for photographs."""

from __future__ import annotations

from guided_diffusion.photo_unet import PhotoUNet
from guided_diffusion.unet import UNet, unet_settings

__all__ = ["PhotoUNet", "UNet", "unet_settings"]
