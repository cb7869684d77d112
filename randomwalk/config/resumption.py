"""Settings that may change when a run is resumed, program by program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from randomwalk.config.base import Settings
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.sampling import SampleConfig
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.training import TrainConfig
from randomwalk.errors import InputError

_OPTIMIZER = tuple(
    f"optimizer.{key}"
    for key in ("learning_rate", "warmup_images", "decay", "cooldown", "betas", "momentum", "weight_decay",
                "gradient_clip")
)  # fmt: skip
MAY_CHANGE: dict[type[Settings], tuple[str, ...]] = {
    SampleConfig: ("device", "max_memory", "intervals"),
    BridgeSampleConfig: ("device",),
    TrainConfig: (
        "num_images", "max_minutes", "log_every", "checkpoint_images", "validate_images", "batch_size", "accumulate",
        *_OPTIMIZER, "device", "precision", "compile", "gradient_checkpointing", "workers", "data.cache", "export_raw",
        "export_dtype",
    ),
    BridgeConfig: (
        "bridge.iterations", "log_every", "batch_size", *_OPTIMIZER, "evaluation", "device",
    ),
    ScoreEmbeddingConfig: (
        "num_steps", "time_limit", "checkpoint_steps", "batch_size", *_OPTIMIZER, "device", "precision", "sampling",
        "profile",
    ),
}  # fmt: skip
"""Keys, or whole sections, by the class of the config: those that leave what is done so far as it is. ``output``, where
the run already is, counts for nothing."""


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Values that differ between two nested mappings, ``[of a, of b]`` by dotted key."""
    found: dict[str, list[Any]] = {}
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found[f"{prefix}{key}"] = [left, right]
    return found


def changes(began: Settings, now: Settings, where: str, allowed: tuple[str, ...] | None = None) -> dict[str, list[Any]]:
    """Changes of a config on resumption, ``[old, new]`` by dotted key.

    Args:
        began: the config in the folder of the run.
        now: the one to go on with.
        where: option and folder, for the message.
        allowed: keys that may change; those of `MAY_CHANGE` by default.

    Raises:
        InputError: a setting has changed that may not.
    """
    allowed = MAY_CHANGE[type(began)] if allowed is None else allowed
    found = differences(began.model_dump(mode="json"), now.model_dump(mode="json"))
    found.pop("output", None)
    refused = [key for key in found if not any(key == one or key.startswith(f"{one}.") for one in allowed)]
    if refused:
        shown = ", ".join(f"{key} ({_shown(found[key][0])} in its config.yaml)" for key in refused)
        raise InputError(
            f"{where}: the config differs from that of the run in {shown}; undo the change, or start a new run. "
            f"May change: {', '.join(allowed)}"
        )
    return found


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
