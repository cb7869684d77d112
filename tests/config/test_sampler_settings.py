"""What YAML can say of a posterior sampler is what its class can be told, with the same defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from config_examples import SAMPLE, message_of

from randomwalk.config import SampleConfig, Settings
from randomwalk.config import samplers as vocabulary
from randomwalk.config.files import load_sample_config
from randomwalk.config.samplers import POSTERIOR_NAMES, PRIOR_NAMES
from randomwalk.samplers import posterior

START = {"start_mean", "start_std"}
"""Of random_walk: the section start of the file."""
RANDOM_WALK = {"step_scale", "initial_temperature"}
"""Whose defaults in YAML are older than the class: the former is required there, the latter is 0."""


def settings_of(name: str) -> type[Settings]:
    union = get_args(vocabulary.PosteriorSettings) or (vocabulary.PosteriorSettings,)
    return next(c for c in union if name in get_args(c.model_fields["name"].annotation))


@pytest.fixture
def sample(tmp_path: Any) -> Callable[..., SampleConfig]:
    def load(text: str, *changes: str) -> SampleConfig:
        path = tmp_path / "task.yaml"
        path.write_text(text)
        return load_sample_config(path, list(changes))

    return load


def test_every_sampler_has_settings_and_every_settings_a_sampler() -> None:
    assert set(POSTERIOR_NAMES) == posterior.POSTERIOR_SAMPLERS.keys()
    assert len(POSTERIOR_NAMES) == len(set(POSTERIOR_NAMES))


@pytest.mark.parametrize("name", POSTERIOR_NAMES)
def test_settings_and_defaults_are_those_of_the_class(name: str) -> None:
    model = settings_of(name).model_fields
    own = {f.name: f.default for f in fields(posterior.POSTERIOR_SAMPLERS[name]) if f.name != "sigmas"}
    assert MISSING not in own.values()
    assert set(model) - {"name", "schedule"} == set(own) - START
    for key in set(own) - START - (RANDOM_WALK if name == "random_walk" else set()):
        assert model[key].default == own[key], key
        assert type(model[key].default) is type(own[key]), key
        assert model[key].description or name == "random_walk", f"{key}: a line for the schema"


@pytest.mark.parametrize("name", [name for name in POSTERIOR_NAMES if name != "random_walk"])
def test_what_yaml_allows_by_default_the_class_takes(name: str, sample: Callable[..., SampleConfig]) -> None:
    schedule = "{name: geometric, num_steps: 5, sigma_min: 0.02, sigma_max: 30.0}"
    config = sample(SAMPLE, f"sampler={{name: {name}, schedule: {schedule}}}")
    settings = config.sampler.model_dump(exclude={"schedule"}, exclude_none=True)
    assert posterior.make(sigmas=[3.0, 2.0, 1.0], **settings).num_steps >= 3


def test_samplers_of_the_prior_take_no_measurement(sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, SAMPLE, "sampler.name=ddim", "sampler.step_scale=")
    assert "sampler.name" in message and "'ddim'" in message and "with a measurement" in message
    for name in POSTERIOR_NAMES:
        assert name in message
    assert "probability_flow" not in message


@pytest.mark.parametrize("name", [name for name in POSTERIOR_NAMES if name not in PRIOR_NAMES])
def test_samplers_of_the_posterior_need_a_measurement(name: str, sample: Callable[..., SampleConfig]) -> None:
    changes = [f"sampler={{name: {name}, schedule: {{name: karras, num_steps: 5}}}}"]
    message = message_of(sample, SAMPLE, *changes, "data=", "measurement=", "num_images=2")
    assert "sampler.name" in message and "without a measurement" in message
    assert "random_walk, annealed_langevin" in message and "num_images" not in message
    # Those with a measurement start where they must.
    assert "start" in message_of(sample, SAMPLE, *changes, "start.std=2")


def test_random_walk_goes_with_and_without(sample: Callable[..., SampleConfig]) -> None:
    assert sample(SAMPLE, "start.std=2").start.std == 2
    assert sample(SAMPLE, "data=", "measurement=", "num_images=2", "start.mean=-1").measurement is None
