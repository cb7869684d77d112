"""Small configurations for tests, and a check that every message passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from randomwalk.errors import InputError

SAMPLE = """\
output: results/x
network: {path: w.safetensors}
data: {path: images}
measurement:
  operator: {name: inpainting, missing: 0.75}
  noise: {std: 0.2}
sampler:
  name: random_walk
  step_scale: 0.5
  schedule:
    name: geometric
    num_steps: 30
    sigma_min: 2e-2
    sigma_max: 3e1
"""
TRAIN = """\
output: results/x
data: {path: images, image_size: 32, channels: 1}
network: {name: unet, image_size: 32, in_channels: 1, out_channels: 1}
denoiser: {name: ve}
num_images: 1e6
"""


def message_of(load: Callable[..., Any], *arguments: Any) -> str:
    """Message of the InputError that ``load`` raises, checked to be without jargon."""
    with pytest.raises(InputError) as caught:
        load(*arguments)
    message = str(caught.value)
    for jargon in (
        "pydantic",
        "http",
        "Input should",
        "function-",
        "constrained",
        "type=",
        "Value error",
        "validation error",
    ):
        assert jargon not in message, message
    return message
