"""predictor_corrector and even_time by name: through the YAML file, sample.py, and a network that is told its time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config_examples import SAMPLE, message_of
from sampling_tools import NETWORK, arrays_of, make_config, read_metrics, write_config

import sample as command
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.config.samplers import PredictorCorrectorSettings
from randomwalk.denoisers.checkpoints import build_network, save_denoiser
from randomwalk.errors import InputError
from randomwalk.samplers import schedules
from randomwalk.sampling.loading import load_task
from score_sde import sdes

CPU = torch.device("cpu")
FREE: dict[str, Any] = {"measurement": None, "data": None, "num_images": 3, "animation_frames": 0}
EVEN = {"name": "even_time", "num_steps": 5, "sigma_min": 0.05, "sigma_max": 20.0}


def sampler(**settings: Any) -> dict[str, Any]:
    return {"name": "predictor_corrector", "sde": {"name": "sub_vp"}, "schedule": EVEN, **settings}


def weights_told(path: Path, denoiser: dict[str, Any]) -> dict[str, str]:
    """A tiny network with seeded weights, and an adapter; the section ``network`` of a config."""
    draws = torch.Generator().manual_seed(0)
    state = {
        key: 0.03 * torch.randn(w.shape, generator=draws) for key, w in build_network(NETWORK).state_dict().items()
    }
    save_denoiser(path, {"network": NETWORK, "denoiser": denoiser}, state)
    return {"path": str(path)}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., SampleConfig]:
    def load(text: str, *changes: str) -> SampleConfig:
        path = tmp_path / "task.yaml"
        path.write_text(text)
        return load_sample_config(path, list(changes))

    return load


# ------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("predictor: ancestral", "sampler.sde"),
        ("sde: {name: cosine}", "sampler.sde"),
        ("sde: {name: vp}, predictor: heun", "sampler.predictor"),
        (
            "sde: {name: vp}, corrector: none, snr: 0.1",
            "sampler.snr (--set): is for a corrector, but corrector is none",
        ),
        ("sde: {name: vp}, corrector: none, corrector_steps: 2", "sampler.corrector_steps (--set): is for a corrector"),
        (
            "sde: {name: vp}, corrector: annealed_langevin, norms: batch",
            "sampler.norms (--set): is for the corrector langevin",
        ),
        ("sde: {name: vp}, predictor: none, corrector: none", "expected at least one of them"),
        (
            "sde: {name: vp}, predictor: none, probability_flow: true",
            "sampler.probability_flow (--set): is for a predictor",
        ),
    ],
)
def test_impossible_settings_are_named(load: Callable[..., SampleConfig], settings: str, said: str) -> None:
    change = f"sampler={{name: predictor_corrector, {settings}, schedule: {{name: even_time, num_steps: 5}}}}"
    assert said in message_of(load, SAMPLE, change, "data=", "measurement=", "num_images=2")


def test_what_a_run_writes_down_can_be_read_again(load: Callable[..., SampleConfig]) -> None:
    """All keys, also those that are for another choice: a run without a corrector is resumed from them."""
    settings = "name: predictor_corrector, sde: {name: vp}, corrector: none"
    change = f"sampler={{{settings}, schedule: {{name: even_time, num_steps: 5}}}}"
    config = load(SAMPLE, change, "data=", "measurement=", "num_images=2")
    written = config.model_dump()["sampler"]
    assert PredictorCorrectorSettings(**written).model_dump() == written


# -------------------------------------------------------------------------------------------------- from the outside


def test_sample_py_runs_it_and_says_what_it_costs(tmp_path: Path) -> None:
    path = write_config(tmp_path, **FREE, sampler=sampler(corrector_steps=2))
    assert command.main(command.parser().parse_args(["--config", str(path)])) == 0
    run = tmp_path / "run"
    images = arrays_of(run)
    assert len(images) == 3 and all(np.isfinite(image).all() for image in images.values())
    assert {row["evaluations"] for row in read_metrics(run)} == {"15"}  # 5 levels, 2 steps of langevin and one
    # Norms of each sample: an image is the same in a batch of another size.
    one = make_config(tmp_path / "one", **FREE, sampler=sampler(corrector_steps=2), batch_size=1)
    assert command.main(command.parser().parse_args(["--config", str(tmp_path / "one" / "task.yaml")])) == 0
    for name, image in arrays_of(Path(one.output)).items():
        np.testing.assert_allclose(image, images[name], rtol=0, atol=1e-4)  # float32 convolutions, in other batches


@pytest.mark.parametrize("name", sdes.SDES)
def test_every_sde_goes_with_every_network(name: str, tmp_path: Path) -> None:
    """The network knows the time of one SDE, the sampler steps in that of another."""
    network = weights_told(tmp_path / "told.safetensors", {"name": "sde", "sde": {"name": "ou"}, "prediction": "v"})
    config = make_config(tmp_path / "task", **FREE, network=network, sampler=sampler(sde={"name": name}))
    task = load_task(config, CPU)
    made = task.sample(task.batches()[0], None)
    assert made.x.isfinite().all() and made.evaluations == 10


# ---------------------------------------------------------------------------------------------------------- schedule


def levels(tmp_path: Path, **changes: Any) -> torch.Tensor:
    return load_task(make_config(tmp_path, **FREE, **changes), CPU).sigmas


def test_even_time_is_that_of_the_sampler(tmp_path: Path) -> None:
    expected = schedules.make("even_time", 5, sigma_min=0.05, sigma_max=20.0, sde=sdes.make("sub_vp", beta_max=10.0))
    found = levels(tmp_path, sampler=sampler(sde={"name": "sub_vp", "beta_max": 10.0}))
    assert torch.equal(found, expected)


def test_even_time_is_else_that_of_the_network(tmp_path: Path) -> None:
    heun = {"name": "heun", "schedule": {"name": "even_time", "num_steps": 5}}
    sde = {"name": "sde", "sde": {"name": "ou", "end_time": 8.0}}
    network = weights_told(tmp_path / "told.safetensors", sde)
    found, ou = levels(tmp_path / "ou", network=network, sampler=heun), sdes.make("ou", end_time=8.0)
    torch.testing.assert_close(ou.time(found).diff(), torch.full((4,), -2.0, dtype=torch.float64), rtol=1e-3, atol=0)
    # Of a DDPM network: beta(t) is num_timesteps times the beta of a step.
    found, vp = levels(tmp_path / "vp", sampler=heun), sdes.make("vp")
    assert float(found[0]) == pytest.approx(157.4, abs=0.1)
    assert float(vp.time(found).diff().diff().abs().max()) < 1e-12


def test_even_time_needs_an_sde(tmp_path: Path) -> None:
    network = weights_told(tmp_path / "edm.safetensors", {"name": "edm"})
    with pytest.raises(
        InputError, match="neither the sampler nor the denoiser has one; expected the sampler predictor"
    ):
        levels(tmp_path / "task", network=network, sampler={"name": "heun", "schedule": EVEN})


def test_levels_below_those_of_the_sde_are_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'ve' has no noise level below 0\.1"):
        levels(tmp_path, sampler=sampler(sde={"name": "ve", "sigma_min": 0.1}))
