"""The ADM UNet of Dhariwal & Nichol 2021 (guided-diffusion), with the state-dict names of its checkpoints."""

from __future__ import annotations

from guided_diffusion.unet import UNet, unet_settings

__all__ = ["UNet", "unet_settings"]
