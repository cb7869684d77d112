"""The ADM UNet of Dhariwal & Nichol 2021 (guided-diffusion), with the state-dict names of its checkpoints, and a U-Net
for photographs of any size."""

from __future__ import annotations

from guided_diffusion.photo_unet import PhotoUNet
from guided_diffusion.unet import UNet, unet_settings

__all__ = ["PhotoUNet", "UNet", "unet_settings"]
