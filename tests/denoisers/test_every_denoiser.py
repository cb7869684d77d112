"""Every denoiser of a config, with every option that it declares, trained and sampled: it makes the class asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from randomwalk import samplers
from randomwalk.config import TrainConfig
from randomwalk.config.networks import DenoiserSettings, SDEDenoiserSettings
from randomwalk.denoisers.adapters import DENOISERS
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.guidance import guided
from randomwalk.distributed import Context, Launch
from randomwalk.rng import ImageDraws, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.samplers import schedules
from randomwalk.training import progress
from randomwalk.training.trainer import Trainer

RED, BLUE = (230, 40, 40), (40, 40, 230)
REDNESS = (230 - 40) / 127.5
"""Red less blue of a red picture. Small networks miss it, guidance exaggerates it: more than half is asked."""
MLP = {"name": "mlp", "num_channels": 3, "hidden": 48, "num_blocks": 2}
UNET = {"name": "unet", "image_size": 2, "in_channels": 3, "out_channels": 3, "model_channels": 16}
UNET |= {"channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": [], "num_head_channels": 16}
UNET |= {"norm_groups": 4}
DDPM_UNET = {"name": "ddpm_unet", "image_size": 2, "num_channels": 3, "nf": 32, "ch_mult": [1], "dropout": 0.0}
DDPM_UNET |= {"num_res_blocks": 1, "attn_resolutions": []}
NCSNPP = {"name": "ncsnpp", "image_size": 2, "num_channels": 3, "nf": 16, "ch_mult": [1], "num_res_blocks": 1}
NCSNPP |= {"attn_resolutions": [], "fir": False, "sigma_min": 0.01, "sigma_max": 2.0}
VE = {"name": "ve", "sigma_min": 0.01, "sigma_max": 2.0}
SDES: list[dict[str, Any]] = [
    {"name": "ou", "end_time": 8.0},
    {"name": "vp", "beta_min": 0.2, "beta_max": 15.0},
    {"name": "sub_vp", "beta_min": 0.2, "beta_max": 15.0},
    {"name": "ve", "sigma_min": 0.02, "sigma_max": 30.0},
    {"name": "power_ve", "base": 30.0},
    {"name": "edm", "sigma_max": 60.0},
]
DENOISER_CASES: list[dict[str, Any]] = [
    {"name": "vp", "beta_min": 2e-4, "beta_max": 0.03, "num_timesteps": 500},
    {"name": "vp", "table": "cosine", "num_timesteps": 500, "time_scale": 0.5},
    {"name": "edm", "sigma_data": 0.8, "sigma_min": 0.01, "sigma_max": 60.0},
    # Their network gives the score itself, which is as large as 1 / sigma: levels that a small one can learn.
    {"name": "score", "sde": {"name": "ve", "sigma_min": 0.1, "sigma_max": 3.0}, "time_scale": 999.0, "eps": 1e-3},
    {"name": "score", "sde": {"name": "power_ve", "base": 8.0}, "time_scale": 999.0, "eps": 0.02},
    {"name": "score", "sde": {"name": "edm", "sigma_max": 3.0}, "time_scale": 300.0, "eps": 0.1},
    {"name": "flow", "t_min": 0.005, "t_max": 0.99, "time_scale": 500.0, "shift": 1.5},
    *({"name": "sde", "sde": sde, "prediction": "v", "time": "log_sigma"} for sde in SDES if sde["name"] != "vp"),
    *(
        {"name": "sde", "sde": SDES[1], "prediction": prediction, "time": time, "num_levels": 200}
        for prediction in ("epsilon", "x0", "v", "score")
        for time in ("continuous", "log_sigma", "discrete")
    ),
]
CASES = [(MLP, denoiser) for denoiser in DENOISER_CASES]
CASES += [(UNET, DENOISER_CASES[0]), (UNET, DENOISER_CASES[2]), (DDPM_UNET, DENOISER_CASES[2])]
CASES += [(DDPM_UNET | {"embedding": "fourier"}, DENOISER_CASES[0])]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than the trainings here, and is looked at in other tests."""
    monkeypatch.setattr(progress, "curves", lambda *arguments: b"")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, red and blue pictures."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in (("red", RED), ("blue", BLUE)):
        (folder / name).mkdir()
        for i in range(20):
            pixels = np.clip(rng.normal(colour, 15, (2, 2, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def trained(network: dict[str, Any], denoiser: dict[str, Any], data: Path, output: Path, labels: Any) -> Path:
    """The weights of a training, which has two validations."""
    config = TrainConfig.model_validate({
        "output": str(output),
        "data": {"path": str(data), "image_size": network.get("image_size", 1), "num_validation": 4, "cache": True},
        "network": network,
        "denoiser": denoiser,
        "labels": labels,
        "optimizer": {"learning_rate": 3e-3, "warmup_images": 160},
        "ema": {"half_life_images": 320},
        "batch_size": 32,
        "num_images": 3200,
        "validate_images": 1600,
        "validation_sigmas": [0.5],
        "device": "cpu",
    })  # fmt: skip
    Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder.create(output)).run()
    return output / "model.safetensors"


def redness(weights: Path, sampler: str, labels: list[int] | None, scale: float = 1.0) -> Tensor:
    """Red less blue of 16 samples."""
    denoiser = load_denoiser(weights)
    levels = {"sigma_min": max(denoiser.sigma_min, 0.02), "sigma_max": min(denoiser.sigma_max, 5.0)}
    sigmas = schedules.make("karras", 24, **levels)
    draws = ImageDraws([generator(1, i) for i in range(16)], torch.device("cpu"))
    x = float(sigmas[0]) * draws.normal((3, denoiser.image_size, denoiser.image_size))
    with torch.inference_mode():
        x = samplers.make(sampler).sample(guided(denoiser, labels, scale), sigmas, start=x, draws=draws)
    return (x[:, 0] - x[:, 2]).flatten(1).mean(1)


def name_of(case: Any) -> str:
    told = [key for key in ("name", "sde", "time", "prediction") if key in case]
    return "-".join(str(case[key]["name"] if key == "sde" else case[key]) for key in told)


@pytest.mark.parametrize(("network", "denoiser"), CASES, ids=name_of)
def test_samples_are_of_the_class(network: dict[str, Any], denoiser: dict[str, Any], pictures: Path,
                                  tmp_path: Path) -> None:  # fmt: skip
    """By a walk, which calls the score, and by a solver that calls D; with the class alone, and guided."""
    weights = trained(network, denoiser, pictures, tmp_path / "run", {"auto": True})
    for sampler, scale in (("ddpm_small", 1.0), ("heun", 1.5)):
        found = redness(weights, sampler, [0, 1], scale)  # eight blue, eight red: in the order of the names
        assert float(found[:8].mean()) < -REDNESS / 2 and float(found[8:].mean()) > REDNESS / 2, found


def test_the_denoiser_without_classes(pictures: Path, tmp_path: Path) -> None:
    weights = trained(NCSNPP, VE, pictures / "red", tmp_path / "run", None)
    for sampler in ("ddpm_small", "heun"):
        assert float(redness(weights, sampler, None).mean()) > REDNESS / 2


def test_no_denoiser_and_no_option_is_left_out() -> None:
    """A new one fails here until it has a case."""
    tried = [*DENOISER_CASES, VE]
    assert {case["name"] for case in tried} == set(DENOISERS)
    for settings in get_args(get_args(DenoiserSettings)[0]):
        cases = [case for case in tried if case["name"] == only_name(settings)]
        options = set().union(*cases)
        assert options == set(settings.model_fields) - {"null_label"}  # which labels.auto sets
        if "sde" in options:
            allowed = get_args(settings.model_fields["sde"].annotation)
            assert {case["sde"]["name"] for case in cases} == {only_name(sde) for sde in allowed}
    for key in ("prediction", "time"):
        values = {case[key] for case in tried if case["name"] == "sde"}
        assert values == set(get_args(SDEDenoiserSettings.model_fields[key].annotation))


def only_name(settings: Any) -> str:
    """The one name that a settings class allows."""
    return str(get_args(settings.model_fields["name"].annotation)[0])
