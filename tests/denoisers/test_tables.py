"""Noise tables of VP networks: against closed forms, and with exact denoisers written as epsilon networks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sampling_tools import NETWORK, make_config, save_images, save_weights
from torch import Tensor, nn

from randomwalk import samplers, training
from randomwalk.config.files import load_train_config
from randomwalk.config.networks import VPDenoiserSettings
from randomwalk.config.objective import Objective
from randomwalk.config.validate import validate
from randomwalk.config.yamltext import Document
from randomwalk.denoisers.adapters import VPDenoiser
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.checkpoints import build_network, load_denoiser, read_config, save_denoiser
from randomwalk.denoisers.ddpm_table import ddpm_sigmas
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.errors import InputError
from randomwalk.sampling.loading import load_task
from randomwalk.training.levels import make_levels


def alpha_bar_linear(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(t + 1))


def alpha_bar_scaled(t: int) -> float:
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    return math.prod(1 - (low + (high - low) * i / 999) ** 2 for i in range(t + 1))


def alpha_bar_cosine(t: int) -> float:
    """The product telescopes up to the last step, whose beta is cut at 0.999."""

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    last = 0.001 if t == 999 else 1.0
    return f(min(t + 1, 999) / 1000) / f(0) * last


GIVEN = [1 - (k + 1) ** 2 / 150 for k in range(12)]
ALPHA_BARS: dict[str, tuple[dict[str, Any], int, Callable[[int], float]]] = {
    "linear": ({}, 1000, alpha_bar_linear),
    "scaled_linear": ({"table": "scaled_linear"}, 1000, alpha_bar_scaled),
    "cosine": ({"table": "cosine"}, 1000, alpha_bar_cosine),
    "alphas_cumprod": ({"table": {"alphas_cumprod": GIVEN}}, 12, lambda t: GIVEN[t]),
    "betas": (
        {"table": {"betas": [0.01 * (k + 1) for k in range(30)]}},
        30,
        lambda t: math.prod(1 - 0.01 * (k + 1) for k in range(t + 1)),
    ),
}


class EpsilonOf(nn.Module):
    """The noise that an exact denoiser finds in z = sqrt(alpha_bar) x, told the timestep alone."""

    def __init__(self, exact: GaussianMixture, sigmas: list[float]) -> None:
        super().__init__()
        self.exact, self.sigmas = exact, sigmas

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        sigma = torch.tensor(np.interp(t.double().numpy(), range(len(self.sigmas)), self.sigmas))
        s = sigma.reshape(-1, 1, 1, 1)
        x = z * (1 + s**2).sqrt()
        return (x - self.exact(x, sigma)) / s


def table_of(**settings: Any) -> Tensor:
    """Noise levels of a denoiser with these settings."""
    made = make_adapter("vp", nn.Identity(), **settings)
    assert isinstance(made, VPDenoiser)
    return made.table


@pytest.mark.parametrize("name", ALPHA_BARS)
def test_an_exact_denoiser_on_each_table(name: str) -> None:
    """D of the adapter is D of the mixture, at levels of the table and between them."""
    settings, length, alpha_bar = ALPHA_BARS[name]
    sigmas = [math.sqrt((1 - alpha_bar(t)) / alpha_bar(t)) for t in range(length)]
    means = torch.tensor([[-0.5], [0.4], [0.1]], dtype=torch.float64).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    exact = GaussianMixture([0.3, 0.5, 0.2], means, [0.01, 0.04, 0.2]).double()
    denoiser = make_adapter("vp", EpsilonOf(exact, sigmas), **settings)
    assert denoiser.sigma_min == pytest.approx(sigmas[0], rel=1e-9)
    assert denoiser.sigma_max == pytest.approx(sigmas[-1], rel=1e-9)
    draws = torch.Generator().manual_seed(0)
    for place in (0.0, 0.3, 1.0, length / 3, length / 2 + 0.25, length - 2.5, length - 1.0):
        sigma = float(np.interp(place, range(length), sigmas))
        x = torch.randn(5, 1, 2, 2, generator=draws, dtype=torch.float64) * math.sqrt(0.25 + sigma**2)
        torch.testing.assert_close(denoiser(x, sigma), exact(x, sigma), rtol=0, atol=1e-6)


def test_another_table_is_told_apart() -> None:
    """The test above can fail: on the linear table, the network of the cosine one denoises something else."""
    sigmas = [math.sqrt(1 / alpha_bar_cosine(t) - 1) for t in range(1000)]
    exact = GaussianMixture([1.0], torch.zeros(1, 1, 2, 2, dtype=torch.float64), [0.25]).double()
    wrong = make_adapter("vp", EpsilonOf(exact, sigmas))
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert (wrong(x, 0.5) - exact(x, 0.5)).abs().max() > 0.01


def test_the_linear_table_is_ddpms_to_the_bit() -> None:
    for settings in ({}, {"beta_min": 2e-4, "beta_max": 0.03, "num_timesteps": 500}):
        full = {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000} | settings
        table = table_of(**settings)
        assert table.dtype == torch.float64 and torch.equal(table, ddpm_sigmas(**full))


@pytest.mark.parametrize("kind", ["npy", "pt", "txt", "csv", "array"])
def test_numbers_from_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"table.{kind}"
    values = np.array(GIVEN)
    if kind == "npy":
        np.save(path, values)
    elif kind == "pt":
        torch.save(torch.tensor(GIVEN, dtype=torch.float64), path)
    elif kind in ("txt", "csv"):
        np.savetxt(path, values[None] if kind == "csv" else values, delimiter=",", fmt="%.17g")
    table = table_of(table={"alphas_cumprod": values if kind == "array" else str(path)})
    torch.testing.assert_close(table, table_of(table={"alphas_cumprod": GIVEN}), rtol=1e-15, atol=0)


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "safetensors"])
def test_numbers_from_the_checkpoint_of_a_training(suffix: str, tmp_path: Path) -> None:
    """The diffusion around a network keeps its table in float32 beside it; the file without a description says so."""
    betas = [1 - alpha_bar_cosine(t) / (alpha_bar_cosine(t - 1) if t else 1.0) for t in range(1000)]
    state = {f"model.{k}": v for k, v in build_network({**NETWORK, "norm_groups": 32}).state_dict().items()}
    state["betas"] = torch.tensor(betas, dtype=torch.float32)
    path = tmp_path / f"theirs.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "ema": {"ema_model": state}}, path)
    torch.testing.assert_close(table_of(table={"betas": str(path)}), table_of(table="cosine"), rtol=1e-5, atol=0)
    with pytest.raises(InputError, match=r"table: \{betas: .*theirs"):
        load_denoiser(path)
    with pytest.raises(InputError, match="has no tables called alphas_cumprod"):
        table_of(table={"alphas_cumprod": str(path)})


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"table": "squaredcos"}, ["'squaredcos'", "one of linear, cosine, scaled_linear"]),
        ({"table": "cosine", "beta_min": 1e-4}, ["cosine", "beta_min"]),
        ({"table": {"betas": [0.1, 0.2]}, "num_timesteps": 2}, ["num_timesteps", "determine it"]),
        ({"table": {"alphas": [0.9, 0.8]}}, ["found a section (alphas)", "keys alphas_cumprod, betas"]),
        ({"table": {"alphas_cumprod": [0.9, 0.5, 0.0]}}, ["ends with 0", "leave out"]),
        ({"table": {"alphas_cumprod": [0.1, 0.2, 0.3]}}, ["are these betas?"]),
        ({"table": {"alphas_cumprod": [0.9, 0.9, 0.3]}}, ["fall from the first"]),
        ({"table": {"betas": [0.9, 0.5, 0.1]}}, ["are these alphas_cumprod?"]),
        ({"table": {"betas": [0.1, 1.5]}}, ["outside 0 to 1", "1.5"]),
        ({"table": {"betas": [[0.1, 0.5]]}}, ["found a section (betas)", "keys alphas_cumprod, betas"]),
        ({"table": {"betas": "nothing.npy"}}, ["nothing.npy", "is not a file"]),
        ({"table": {"betas": ["a", "b"]}}, ["found a section (betas)", "keys alphas_cumprod, betas"]),
        ({"table": "scaled_linear", "beta_min": 0.5}, ["beta_min: found 0.5", "beta_max, which is 0.012"]),
    ],
    ids=str,
)
def test_what_is_no_table(settings: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        table_of(**settings)
    for part in parts:
        assert part in str(caught.value), caught.value


# --- in YAML, and in files with weights ------------------------------------------------------------------------------


def settings_of(**keys: Any) -> VPDenoiserSettings:
    """Settings of a VP denoiser in a config."""
    return validate(VPDenoiserSettings, Document({"name": "vp", **keys}, "task.yaml"))


def test_settings_have_the_published_betas() -> None:
    linear, scaled, cosine = settings_of(), settings_of(table="scaled_linear"), settings_of(table="cosine")
    assert (linear.beta_min, linear.beta_max, linear.num_timesteps) == (1e-4, 0.02, 1000)
    assert (scaled.beta_min, scaled.beta_max, scaled.num_timesteps) == (0.00085, 0.012, 1000)
    assert (cosine.beta_min, cosine.beta_max, cosine.num_timesteps) == (None, None, 1000)
    assert linear.model_fields_set == {"name"}  # what the user has not written contradicts no file
    assert settings_of(beta_max=0.01).beta_max == 0.01


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"table": "cosin"}, ["table", "'cosin'", "did you mean cosine?", "alphas_cumprod"]),
        ({"table": "cosine", "beta_max": 0.02}, ["beta_max", "cosine has none"]),
        ({"table": {"betas": [0.1, 0.2]}, "num_timesteps": 2}, ["num_timesteps", "determine it"]),
        ({"table": {}}, ["alphas_cumprod", "missing"]),
        ({"table": {"betas": "a", "alphas_cumprod": "b"}}, ["betas", "one of the two"]),
    ],
    ids=str,
)
def test_messages_of_the_settings(keys: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        settings_of(**keys)
    for part in parts:
        assert part in str(caught.value), caught.value


def save(path: Path, denoiser: dict[str, Any]) -> Path:
    """A tiny network that says how it denoises."""
    state = build_network(NETWORK).state_dict()
    save_denoiser(path, {"network": NETWORK, "denoiser": denoiser}, state)
    return path


def test_weights_record_their_table(tmp_path: Path) -> None:
    """Also one from a file, which may be gone later; a config that says the same agrees, another one does not."""
    given, numbers = tmp_path / "table.npy", tmp_path / "numbers.safetensors"
    np.save(given, GIVEN)
    save(numbers, {"name": "vp", "table": {"alphas_cumprod": str(given)}})
    cosine = save(tmp_path / "cosine.safetensors", settings_of(table="cosine").model_dump())
    torch.testing.assert_close(load_denoiser(cosine).table, table_of(table="cosine"), rtol=0, atol=0)
    load_denoiser(cosine, denoiser={"name": "vp", "table": "cosine"})
    with pytest.raises(InputError, match=r"denoiser\.table is 'cosine' in the file, and 'linear' in the config"):
        load_denoiser(cosine, denoiser={"name": "vp", "table": "linear"})
    load_denoiser(numbers, denoiser={"name": "vp", "table": {"alphas_cumprod": str(given)}})
    given.unlink()
    assert torch.equal(load_denoiser(numbers).table, table_of(table={"alphas_cumprod": GIVEN}))


def test_files_from_before_there_were_tables(tmp_path: Path) -> None:
    old = save_weights(tmp_path / "old.safetensors")  # {"name": "vp"} and no more
    assert torch.equal(load_denoiser(old).table, ddpm_sigmas(1e-4, 0.02, 1000))
    load_denoiser(old, denoiser={"name": "vp", "beta_min": 1e-4, "table": "linear"})
    with pytest.raises(InputError, match=r"network\.denoiser\.beta_min is 0.0001 in the file"):
        load_denoiser(old, denoiser={"name": "vp", "beta_min": 2e-4})
    config = read_config(old)
    assert config is not None and json.loads(json.dumps(config))["denoiser"]["table"] == "linear"


def test_the_pretrained_schedule_follows_the_table(tmp_path: Path) -> None:
    weights = save(tmp_path / "cosine.safetensors", {"name": "vp", "table": "cosine"})
    sampler = {"name": "ddim", "schedule": {"name": "pretrained", "num_steps": 1000}}
    config = make_config(
        tmp_path / "a", sampler=sampler, network={"path": str(weights)}, data=None, measurement=None, num_images=1
    )
    task = load_task(config, torch.device("cpu"))
    expected = [math.sqrt(1 / alpha_bar_cosine(t) - 1) for t in range(999, -1, -1)]
    np.testing.assert_allclose(task.sigmas.numpy(), expected, rtol=1e-9)
    config.sampler.schedule.name = "even_time"
    with pytest.raises(InputError, match=r"even_time.*pretrained follows the table"):
        samplers.from_settings(config.sampler).levels(load_denoiser(weights))


@pytest.mark.parametrize("table", ["cosine", {"alphas_cumprod": "table.npy"}], ids=str)
def test_a_training_on_another_table(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns at the levels of its table, and its weights are used at them without a word in the config."""
    monkeypatch.chdir(tmp_path)
    np.save("table.npy", GIVEN)
    save_images(tmp_path / "images", 4)
    task = {
        "output": "run", "data": {"path": "images", "image_size": 12, "channels": 1, "num_validation": 1},
        "network": NETWORK, "denoiser": {"name": "vp", "table": table}, "num_images": 4, "batch_size": 2,
        "device": "cpu", "validation_sigmas": [0.5],
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(task))
    assert training.run(load_train_config("train.yaml")) == 0
    assert training.run(load_train_config("run/config.yaml"), resume="run") == 0  # the written config is one too
    Path("table.npy").unlink()
    expected = table_of(table="cosine" if table == "cosine" else {"alphas_cumprod": GIVEN})
    loaded = load_denoiser("run/model.safetensors")
    assert isinstance(loaded, VPDenoiser) and torch.equal(loaded.table, expected)
    levels = make_levels(Objective(), loaded)
    torch.testing.assert_close(levels(torch.tensor([0.0, 0.999999])), expected[[0, -1]], rtol=0, atol=0)


def test_weights_without_a_description_are_offered_no_table(tmp_path: Path) -> None:
    torch.save(build_network({**NETWORK, "norm_groups": 32}).state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(InputError) as caught:
        load_denoiser(tmp_path / "theirs.pt")
    message = str(caught.value)
    assert "table: FILL_IN" in message and "usual" not in message and "beta_min: 0.0001" not in message
    for part in ("linear", "cosine", "scaled_linear", "alphas_cumprod", "--noise_schedule", "scheduler_config.json"):
        assert part in message, part
