"""Noise that a sampler leaves: the forecast against the sampler itself, and against the bundled networks."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_tools import ROOT, make_config

from randomwalk import samplers
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers import ddpm_table
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.errors import InputError
from randomwalk.rng import StepNoise
from randomwalk.samplers import schedules
from randomwalk.samplers.remainder import DETAIL_LIMIT, NOISE_LIMIT, Remainder, noise_of_walk, remainder, spread_of_walk
from randomwalk.sampling import run as sampling
from randomwalk.sampling.foresight import forecast, notes_of, schedule_notes
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

CONFIGS = ROOT / "configs"
RANGE: dict[str, Any] = {"sigma_min": 0.02, "sigma_max": 40.0}
NAMES = ("sigmoid", "geometric", "karras", "cosine", "linear")
CPU = torch.device("cpu")


def task_of(name: str, *changes: str) -> Task:
    return load_task(load_sample_config(CONFIGS / f"{name}.yaml", changes), CPU)


# --- the recursions --------------------------------------------------------------------------------------------------


def test_two_steps_by_hand() -> None:
    """Levels 2 and 1, c = 1/2, T = 1 then none: r = 5 gives ``(5 - 1)^2 + 4``, and then 1/2 less."""
    plan = samplers.RandomWalk(step_scale=0.5, initial_temperature=1.0).plan([2.0, 1.0])
    assert noise_of_walk(plan, 5.0, response=0.0) == pytest.approx(20**0.5 - 0.5)
    # With 1/2 it is less by sqrt(5 / 2), but at most by 1.3, times the level.
    assert noise_of_walk(plan, 5.0, response=0.5) == pytest.approx((3.7**2 + 4) ** 0.5 - 0.65)
    assert noise_of_walk(plan, 1.0, response=0.5) == pytest.approx(4.25**0.5 - 0.65)
    assert noise_of_walk(samplers.RandomWalk(step_scale=0.5).plan([1.0]), 1.44, response=0.5) == pytest.approx(
        1.44 - 0.5 * 1.2
    )
    # w = 1: v = 26, then (1 - 2/5)^2 v + 4, then (1 - 1/4)^2 v.
    spread = spread_of_walk(plan, 5.0, torch.ones(1, dtype=torch.float64))
    assert float(spread) == pytest.approx((0.75**2 * (0.6**2 * 26 + 4)) ** 0.5)


WALK = samplers.RandomWalk(step_scale=0.4, initial_temperature=0.4, final_temperature=0.9)
DDPM = samplers.make("ddpm_small")
MOMENTUM = samplers.RandomWalk(step_scale=0.9, initial_temperature=0.4, final_temperature=0.9, momentum=0.6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", [WALK, DDPM, MOMENTUM], ids=["walk", "ddpm", "momentum"])
def test_spread_is_that_of_the_sampler(sampler: samplers.WalkSampler, name: str) -> None:
    """Draws of the walk over an exact Gaussian: n of them know the standard deviation to ``1 / sqrt(2 n)``."""
    sigmas, w, n = schedules.make(name, 40, **RANGE), 0.2, 40_000
    draws = torch.Generator().manual_seed(1)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=draws, dtype=x.dtype)

    exact = GaussianMixture([1.0], torch.zeros(1, 1, 1, 1, dtype=torch.float64), w**2)
    start = (9 + w**2) ** 0.5 * normal(torch.zeros(n, 1, 1, 1, dtype=torch.float64))
    end = sampler.sample(exact, sigmas, start=start, draws=StepNoise(lambda _, x: normal(x)))
    expected = float(spread_of_walk(sampler.plan(sigmas), 3.0, torch.tensor([w], dtype=torch.float64)))
    assert float(end.std()) == pytest.approx(expected, rel=4 / (2 * n) ** 0.5)


class UpToLevel(Denoiser):
    """Removes all the noise of a black image, up to the stated level."""

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return x * (1 - float(sigma) / x.std()).clamp(min=0)


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_that_of_the_sampler(name: str) -> None:
    sigmas, black = schedules.make(name, 60, **RANGE), torch.zeros(1, 1, 200, 200, dtype=torch.float64)
    draws = torch.Generator().manual_seed(2)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=draws, dtype=x.dtype)

    end = WALK.sample(UpToLevel(), sigmas, start=normal(black), draws=StepNoise(lambda _, x: normal(x)))
    # Each step's noise is known to 1 / sqrt(2 n) = 0.35% of itself; what is above the level stays, so errors do.
    assert float(end.std()) == pytest.approx(noise_of_walk(WALK.plan(sigmas), 1.0, 0.0), rel=0.02)


@pytest.mark.parametrize("name", ["karras", "linear"])
def test_a_sampler_that_is_no_walk_is_run(name: str) -> None:
    """Without noise of its own predictor_corrector's VE flow is DDIM's first order, whose forecast is a recursion."""
    sigmas = schedules.make(name, 40, **RANGE)
    sde = {"name": "edm", "sigma_max": 50.0}
    flow = samplers.make(
        "predictor_corrector", sde=sde, predictor="euler_maruyama", corrector="none", probability_flow=True
    )
    run, known = remainder(flow, sigmas), remainder(samplers.make("ddim"), sigmas)
    assert run is not None and known is not None
    assert run.detail == pytest.approx(known.detail, abs=1e-9) and run.noise == pytest.approx(known.noise, abs=1e-9)


def test_limits() -> None:
    assert Remainder(NOISE_LIMIT, -DETAIL_LIMIT).good and Remainder(NOISE_LIMIT, DETAIL_LIMIT).good
    assert not Remainder(NOISE_LIMIT * 1.01, 0).good
    assert not Remainder(0, DETAIL_LIMIT * 1.01).good and not Remainder(0, -DETAIL_LIMIT * 1.01).good
    assert remainder(samplers.make("ode"), schedules.make("linear", 5, **RANGE)) is None


def test_few_steps_of_an_order_too_high() -> None:
    """Multistep formulas of order 3 go wrong by more than those of order 2 where the steps are few."""
    few, more = (schedules.make("karras", n, **RANGE) for n in (8, 20))
    second, third = samplers.make("dpmpp_2m"), samplers.make("dpmpp_3m")
    errors = [remainder(sampler, sigmas) for sampler in (second, third) for sigmas in (few, more)]
    details = [abs(found.detail) for found in errors if found is not None]
    assert details[2] > 2 * details[0] and max(details[1], details[3]) < 0.1


# --- the bundled networks --------------------------------------------------------------------------------------------

UNCONDITIONAL = ["vp_uncond_sigmoidSchedule", "vp_uncond_pretrainedSchedule", "ve_uncond"]
BUNDLED = [*itertools.product(UNCONDITIONAL[::2], NAMES), (UNCONDITIONAL[1], "pretrained")]


@pytest.mark.parametrize(("file", "name"), BUNDLED)
def test_the_forecast_is_what_the_bundled_networks_leave(file: str, name: str) -> None:
    """Noise in the two outer rows of pixels, which are black in every image: of 4 images, with 40 steps."""
    task = task_of(file, f"sampler.schedule.name={name}", "sampler.schedule.num_steps=40", "num_images=4")
    found = forecast(task, task.sigmas)
    assert found is not None
    x = task.sample(task.batches()[0], None).x[:, 0]
    x[:, 2:-2, 2:-2] = -1
    left = float(((x + 1).square().sum() / (4 * (32**2 - 28**2))).sqrt())
    if found.noise > 4 * NOISE_LIMIT:  # it grew from step to step, and errors with it: ruined is all that can be said
        assert left > 4 * NOISE_LIMIT
        return
    # The forecast is within 20% for NCSN++; the response of the epsilon network is a fit, and its own
    # error, 0.02, is there without any other.
    assert 0.8 * found.noise < left < math.hypot((1.2 if file == "ve_uncond" else 1.45) * found.noise, 0.02)


# --- the shipped files -----------------------------------------------------------------------------------------------


def offered(path: Path) -> list[str]:
    """The names that the comments of a file offer for its schedule."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "CUSTOMIZE" in line]
    line = next((line for line in lines if line.lstrip().startswith("schedule:")), "")
    return re.findall(r"\b(?:" + "|".join(schedules.SCHEDULES) + r")\b", line.partition("CUSTOMIZE:")[2])


SHIPPED = [
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if re.search("path: pretrained_models/(fashion|photo)", path.read_text(encoding="utf-8"))
    and "name: posterior_mean" not in path.read_text(encoding="utf-8")  # which has no schedule
]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_schedule_that_a_file_offers_leaves_no_noise(name: str) -> None:
    task = task_of(name)
    for schedule in [task.config.sampler.schedule.name, *offered(CONFIGS / f"{name}.yaml")]:
        config = load_sample_config(CONFIGS / f"{name}.yaml", [f"sampler.schedule.name={schedule}"])
        found = forecast(task, samplers.from_settings(config.sampler).levels(task.denoiser))
        assert found is None or found.good, (schedule, found)
    assert schedule_notes(task) == []


@pytest.mark.parametrize("name", [*UNCONDITIONAL, "vp_posterior"])
def test_a_schedule_that_leaves_noise_is_told_with_what_helps(name: str) -> None:
    task = task_of(name, "sampler.schedule.name=linear")
    (note,) = [note for note in notes_of(task) if note.startswith("sampler.schedule")]
    assert "linear with num_steps" in note and "noise" in note and "\n" not in note
    changes = re.findall(r"(sampler\.schedule\.\w+=\S+)", note)
    assert changes and schedule_notes(task_of(name, "sampler.schedule.name=linear", *changes)) == []


def test_details_that_are_lost_are_told() -> None:
    task = task_of("fashion/guided", "sampler.schedule.name=linear")
    (note,) = schedule_notes(task)
    assert re.search(r"the contrast of details \d+% too low; its lowest levels, 2\.07 and 0\.02, are", note)
    assert "--set sampler.schedule.name=geometric helps" in note


def test_where_everything_is_measured_nothing_is_said(tmp_path: Path) -> None:
    schedule = {"name": "linear", "num_steps": 6, "sigma_max": 20.0}
    walk = {"name": "random_walk", "step_scale": 0.7, "preconditioned": True, "schedule": schedule}
    noise = {"std": 0.05}
    for operator, notes in (({"name": "denoising"}, 0), ({"name": "inpainting", "missing": 0.5}, 1)):
        measurement = {"operator": operator, "noise": noise}
        config = make_config(tmp_path / str(notes), 1, sampler=walk, measurement=measurement)
        assert len(schedule_notes(load_task(config, CPU))) == notes


def test_the_note_comes_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = {"name": "linear", "num_steps": 6, "sigma_max": 20.0}
    sampler = {"name": "random_walk", "step_scale": 0.7, "schedule": schedule}
    config = make_config(tmp_path, 1, sampler=sampler, data=None, measurement=None, num_images=1)
    for start in (sampling.dry_run, sampling.run):
        assert start(config) == 0
        note = "note: sampler.schedule: linear with num_steps 6 leaves nothing but noise"
        assert capsys.readouterr().err.startswith(note)


# --- pretrained ------------------------------------------------------------------------------------------------------

NETWORKS = sorted(path.stem for path in (ROOT / "pretrained_models").glob("*.safetensors"))


@pytest.mark.parametrize("network", NETWORKS)
def test_pretrained_follows_whichever_network_is_loaded(network: str) -> None:
    task = task_of("vp_uncond_pretrainedSchedule", f"network.path=pretrained_models/{network}.safetensors")
    sigmas, denoiser = task.sigmas, task.denoiser
    assert sigmas[0] == pytest.approx(denoiser.sigma_max, rel=1e-9)
    assert sigmas[-1] == pytest.approx(denoiser.sigma_min, rel=1e-9)
    assert (sigmas.diff() < 0).all() and len(sigmas) == 500
    if network.endswith("_vp") and hasattr(denoiser, "table"):
        u = torch.linspace(0, 1, 500, dtype=torch.float64)
        torch.testing.assert_close(sigmas, ddpm_table.pretrained(u, denoiser.table))
    if network.endswith("fashion_ve"):
        expected = schedules.make("geometric", 500, sigma_min=denoiser.sigma_min, sigma_max=denoiser.sigma_max)
        torch.testing.assert_close(sigmas, expected)


def test_the_table_of_another_network_is_refused() -> None:
    table = [f"sampler.schedule.{pair}" for pair in ("beta_min=1e-4", "beta_max=0.02", "num_timesteps=1000")]
    own = task_of("vp_uncond_pretrainedSchedule", *table)
    torch.testing.assert_close(own.sigmas, task_of("vp_uncond_pretrainedSchedule").sigmas)
    for change in (["sampler.schedule.beta_max=0.03"], ["network.path=pretrained_models/fashion_ve.safetensors"]):
        with pytest.raises(InputError, match=r"not the noise table of this network.*remove the three keys"):
            task_of("vp_uncond_pretrainedSchedule", *table, *change)
