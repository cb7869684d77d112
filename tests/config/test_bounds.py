"""Every number of the settings has bounds, of which a machine can meet those that size something."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from randomwalk.config import legacy_layout, networks
from randomwalk.config.files import load_sampling, load_training
from randomwalk.config.generated import CONFIGS
from randomwalk.config.networks import MOST_PARAMETERS
from randomwalk.config.validate import complete, schema_of
from randomwalk.denoisers.networks import build_network
from randomwalk.errors import InputError

MODELS: dict[str, type[BaseModel]] = {**CONFIGS, "vp_task": legacy_layout.VPTask, "ve_task": legacy_layout.VETask}
UNUSED = "NoEffect and NotNeeded keys of the paper's layout hold anything, and nothing reads them"

Schema = dict[str, Any]


def leaves(node: Any, path: str) -> Iterator[tuple[str, Schema]]:
    """Numbers and lists of a schema, with their paths."""
    if isinstance(node, list):
        for inner in node:
            yield from leaves(inner, path)
    elif isinstance(node, dict):
        if node.get("type") in ("integer", "number", "array") and not {"enum", "const"} & node.keys():
            yield path, node
        for key, inner in node.items():
            yield from leaves(inner, path if key in ("properties", "$defs", "items", "anyOf") else f"{path}.{key}")


@pytest.mark.parametrize("name", MODELS)
def test_every_number_has_finite_bounds(name: str) -> None:
    found = list(leaves(schema_of(MODELS[name]), name))
    assert found
    for path, node in found:
        if node["type"] == "array":
            assert node["maxItems"] <= 1_000_000, path
            continue
        low, high = (node.get(end, node.get(f"exclusive{end.capitalize()}")) for end in ("minimum", "maximum"))
        assert low is not None and high is not None and math.isfinite(low) and math.isfinite(high), path


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, TypeAdapter[Any]]]:
    """Fields of a model and of its sections that are no sections themselves, by name."""
    for section in sections(model):
        for key, info in section.model_fields.items():
            if any(mark in info.metadata for mark in (legacy_layout.NO_EFFECT, legacy_layout.NOT_NEEDED)):
                continue  # see UNUSED
            annotation = info.rebuild_annotation()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                continue
            config = ConfigDict(strict=True, allow_inf_nan=False)
            yield f"{section.__name__}.{key}", TypeAdapter(annotation, config=config)


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and the sections that its fields can hold."""
    found: set[type[BaseModel]] = set()

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found.add(annotation)
            for info in annotation.model_fields.values():
                visit(info.annotation)
        for inner in getattr(annotation, "__args__", ()):
            visit(inner)

    visit(model)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_nothing_takes_a_number_that_is_none(name: str) -> None:
    wrong = []
    for path, adapter in fields_of(MODELS[name]):
        for odd in (math.nan, math.inf, -math.inf, 1e308, 10**30, 10**400):
            for value in (odd, [odd], [odd, odd]):
                try:
                    adapter.validate_python(value)
                except (ValidationError, InputError):
                    continue
                wrong.append(f"{path}={value}"[:80])
    assert not wrong


NETWORKS = [
    "configs/vp_train.yaml",
    "configs/ve_train.yaml",
    "configs/photo/train.yaml",
    "configs/toy/moons_train.yaml",
]


@pytest.mark.parametrize("file", [*NETWORKS, "configs/score_embedding/one_32_small.yaml"])
def test_the_estimate_of_the_parameters(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a factor of 3 of the network's, so that nothing usual is refused and nothing absurd is built."""
    settings = load_training(file).network.model_dump()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(settings).parameters())
    monkeypatch.setattr(networks, "MOST_PARAMETERS", parameters / 3)
    with pytest.raises(InputError, match="parameters; allowed: at most"):
        complete("network", networks.NetworkSettings, settings)
    monkeypatch.setattr(networks, "MOST_PARAMETERS", parameters * 3)
    complete("network", networks.NetworkSettings, settings)


@pytest.mark.parametrize(
    "override",
    [
        "network.hidden=16384 network.num_blocks=64",
        "network={name: unet, image_size: 1, model_channels: 16384, channel_mult: [16384]}",
        "network={name: photo_unet, image_size: 1, widths: [16384, 16384], num_blocks: [64, 64]}",
        "network={name: ncsnpp, image_size: 64, nf: 4096, ch_mult: [1, 64]}",
        "network={name: mlp, num_classes: 1000000, hidden: 16384}",
    ],
)
def test_networks_that_no_machine_holds(override: str) -> None:
    changes = override.split(" network.") if override.startswith("network.") else [override]
    changes = [change if change.startswith("network") else f"network.{change}" for change in changes]
    with pytest.raises(InputError, match=r"moons_train.yaml: network\.\w+ .*parameters; allowed: at most 4e\+09"):
        load_training(Path("configs/toy/moons_train.yaml"), changes)
    assert MOST_PARAMETERS == 4e9


@pytest.mark.parametrize("value", ["5e-324", "1e-320", "1e-13"])
def test_numbers_as_good_as_0(value: str) -> None:
    with pytest.raises(InputError, match=r"learning_rate.*as good as 0; allowed: a number of at least 1e-12"):
        load_training("configs/toy/moons_train.yaml", [f"optimizer.learning_rate={value}"])


@pytest.mark.parametrize(
    ("file", "override", "found"),
    [
        ("vp_inpainting", "sampler={name: ddnm_plus, travel_repeats: 1000, schedule: {name: cosine, num_steps: 2000}}",
         "sampler.travel_repeats.*: found 1000, which makes 1,999,001 steps"),
        ("bridge/moons_to_swiss_roll_sample", "num_steps=20000", "num_steps.*: found 20000 for 10000 points"),
        ("bridge/moons_to_swiss_roll", "evaluation.num_steps=20000", "evaluation.num_steps.*: found 20000 for 10000"),
    ],
)  # fmt: skip
def test_products_that_no_machine_holds(file: str, override: str, found: str) -> None:
    load = load_training if file.endswith("roll") else load_sampling
    with pytest.raises(InputError, match=f"{file}.yaml: {found}.*allowed: at most"):
        load(Path(f"configs/{file}.yaml"), [override])
