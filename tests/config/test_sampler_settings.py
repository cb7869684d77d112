"""The settings of samplers in YAML are those of the classes; which names go with a measurement."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from config_examples import SAMPLE, message_of
from pydantic import ValidationError
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, InputError, samplers
from randomwalk.config import SampleConfig, Settings
from randomwalk.config import samplers as vocabulary
from randomwalk.config.files import load_sample_config
from randomwalk.config.samplers import POSTERIOR_NAMES, PRIOR_NAMES, ScheduleSettings
from randomwalk.samplers import SAMPLERS, Problem, Sampler


@pytest.fixture
def sample(tmp_path: Any) -> Callable[..., SampleConfig]:
    def load(text: str, *changes: str) -> SampleConfig:
        path = tmp_path / "task.yaml"
        path.write_text(text)
        return load_sample_config(path, list(changes))

    return load


NEED_MORE = ("random_walk", "predictor_corrector", "posterior_mean")
"""Samplers with settings without a default, or (posterior_mean) without a schedule."""


def declared() -> dict[str, type[Settings]]:
    """The settings classes of all samplers, by name."""
    unions = (get_args(vocabulary.PriorSettings), get_args(vocabulary.PosteriorSettings))
    return {get_args(c.model_fields["name"].annotation)[0]: c for c in {*unions[0], *unions[1]}}


def test_every_sampler_has_settings_and_every_settings_a_sampler() -> None:
    assert SAMPLERS.keys() == declared().keys() == {*PRIOR_NAMES, *POSTERIOR_NAMES}
    for name, made in SAMPLERS.items():
        assert issubclass(made, declared()[name]) and made.model_fields["name"].default == name


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_setting_of_yaml_is_declared_again(name: str) -> None:
    """A class of the library has no setting of its own, and each has a line of help for the schema."""
    fields = SAMPLERS[name].model_fields
    assert fields.keys() == declared()[name].model_fields.keys()
    assert not fields.keys() & inspect.get_annotations(SAMPLERS[name]).keys()
    assert all(fields[key].description for key in fields.keys() - {"name", "schedule"})


@pytest.mark.parametrize("name", SAMPLERS)
def test_kinds_are_those_of_the_names(name: str) -> None:
    kind = SAMPLERS[name].needs.measurement
    assert (kind != "none", kind != "required") == (name in POSTERIOR_NAMES, name in PRIOR_NAMES)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in NEED_MORE])
def test_a_section_makes_its_sampler(name: str) -> None:
    schedule = ScheduleSettings(name="geometric", num_steps=5, sigma_min=0.02, sigma_max=30.0)
    section = declared()[name](schedule=schedule)
    made = samplers.from_settings(section)
    assert type(made) is SAMPLERS[name] and made.model_dump() == section.model_dump()
    assert made == samplers.make(name, schedule=schedule.model_dump())
    assert len(made.levels(Denoiser())) == 5
    with pytest.raises(ValidationError, match="frozen"):
        made.schedule = None  # type: ignore[misc]


def test_a_sampler_of_ones_own_needs_a_subclass_alone() -> None:
    """Euler's method for the probability flow, with a setting."""

    class Euler(Sampler):
        strength: float = 1.0

        def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
            return x + self.strength * (sigma_next - sigma) * (x - problem.denoiser(x, sigma)) / sigma

    start, sigmas = torch.ones(2, 1, 2, 2), [3.0, 1.0, 0.5]
    exact = GaussianMixture([1.0], torch.zeros(1, 1, 2, 2), 0.25)
    expected = samplers.make("ddim").sample(exact, sigmas, start=start)
    torch.testing.assert_close(Euler().sample(exact, sigmas, start=start), expected)
    with pytest.raises(InputError, match="sampler Euler: strength: found 'much'"):
        Euler(strength="much")  # type: ignore[arg-type]


def test_samplers_of_the_prior_take_no_measurement(sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, SAMPLE, "sampler.name=ddim", "sampler.step_scale=")
    assert "sampler.name" in message and "'ddim'" in message and "with a measurement" in message
    for name in POSTERIOR_NAMES:
        assert name in message
    assert "probability_flow" not in message


@pytest.mark.parametrize("name", [n for n in POSTERIOR_NAMES if n not in (*PRIOR_NAMES, "posterior_mean")])
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
