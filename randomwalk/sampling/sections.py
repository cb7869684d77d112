"""Sections of a sampling config as arguments of what they describe."""

from __future__ import annotations

from typing import Any

from randomwalk.config import SampleConfig
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource


def settings_of(section: Any, without: set[str] | None = None) -> dict[str, Any]:
    """A section of the config as keyword arguments; what was left out keeps the default of the called."""
    found: dict[str, Any] = section.model_dump(exclude_none=True, exclude=without)
    return found


def described(section: Any, own: bool) -> dict[str, Any] | None:
    """What the config says of the network; beside a file that describes itself only what was written, not defaults."""
    return None if section is None else section.model_dump(exclude_none=True, exclude_unset=own)


def names_of(config: SampleConfig, source: ImageSource | None) -> list[str]:
    """Names of the images of a run; empty ones for images that are made from nothing.

    Raises:
        InputError: more are asked for than there are.
    """
    if source is None or config.data is None:
        return [""] * (config.num_images or 0)
    if (config.data.num_images or 0) > len(source):
        raise InputError(f"data.num_images: {config.data.num_images} asked for, but {source.where} has {len(source)}")
    return source.names[: config.data.num_images]
