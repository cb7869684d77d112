"""Settings that may change when a run is resumed."""

from __future__ import annotations

from typing import Any

import pytest

from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.resumption import MAY_CHANGE, changes
from randomwalk.config.sampling import SampleConfig
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.training import TrainConfig
from randomwalk.config.validate import schema_of
from randomwalk.errors import InputError


def keys_of(node: Any, schema: Any) -> set[str]:
    """Dotted keys of a section, of all its variants."""
    if "$ref" in node:
        return keys_of(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    found: set[str] = set()
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        found |= keys_of(branch, schema)
    for key, value in node.get("properties", {}).items():
        found |= {key} | {f"{key}.{inner}" for inner in keys_of(value, schema)}
    return found


@pytest.mark.parametrize("model", MAY_CHANGE)
def test_every_setting_that_may_change_exists(model: Any) -> None:
    assert set(MAY_CHANGE[model]) <= keys_of(schema_of(model), schema_of(model))


def test_every_program_has_its_table_and_no_seed_in_it() -> None:
    assert set(MAY_CHANGE) == {SampleConfig, BridgeSampleConfig, TrainConfig, BridgeConfig, ScoreEmbeddingConfig}
    kept = ("seed", "output", "data", "network", "denoiser", "objective", "bridge", "method", "sampler", "measurement")
    assert not {key for keys in MAY_CHANGE.values() for key in keys} & set(kept)


def test_a_key_is_not_the_start_of_another() -> None:
    began = TrainConfig.model_validate(
        {
            "output": "run", "data": {"dataset": "points", "set": "moons"}, "denoiser": {"name": "edm"},
            "network": {"name": "mlp"}, "num_images": 8,
        }
    )  # fmt: skip
    longer = began.model_copy(update={"num_images": 16})
    assert changes(began, longer, "here") == {"num_images": [8, 16]}
    with pytest.raises(InputError, match=r"here: .* in num_images \(8 in its config\.yaml\).* May change: num$"):
        changes(began, longer, "here", ("num",))
