"""A network that gives the score of [0, 1] pixels, told the time of an SDE, is a denoiser like all others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randomwalk import GaussianMixture, InputError, load_denoiser, samplers
from randomwalk.denoisers import adapters as denoisers
from randomwalk.denoisers.adapters import ScoreDenoiser
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser
from randomwalk.denoisers.guidance import guided
from randomwalk.rng import ImageDraws, generator

SDES: dict[str, dict[str, Any]] = {
    "power_ve": {"name": "power_ve", "base": 5.0},
    "flat": {"name": "power_ve", "base": 1.0},
    "ve": {"name": "ve", "sigma_min": 0.01, "sigma_max": 20.0},
    "edm": {"name": "edm", "sigma_max": 10.0},
}
DATA = GaussianMixture([0.3, 0.7], torch.tensor([[-0.9, 0.2], [0.4, -0.6]], dtype=torch.float64), 0.04)  # in [-1, 1]
# The same as (x + 1) / 2.
IN_UNITS = GaussianMixture([0.3, 0.7], torch.tensor([[0.05, 0.6], [0.7, 0.2]], dtype=torch.float64), 0.01)
NETWORK = {"name": "ddpm_unet", "image_size": 8, "num_channels": 1, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1,
           "attn_resolutions": [4]}  # fmt: skip


def std(name: str, t: Tensor) -> Tensor:
    """s(t) by the published formulas; nothing of the code."""
    return {
        "power_ve": lambda: ((5 ** (2 * t) - 1) / (2 * math.log(5))).sqrt(),
        "flat": lambda: t.sqrt(),
        "ve": lambda: 0.01 * 2000**t,
        "edm": lambda: t,
    }[name]()


class Exact(nn.Module):
    """Perfect network: it knows the data in [0, 1] pixels, its SDE and the scale of its time."""

    def __init__(self, name: str, time_scale: float, mutation: str = "") -> None:
        super().__init__()
        self.name, self.time_scale, self.mutation = name, time_scale, mutation

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        assert t.shape == u.shape[:1]
        sigma = std(self.name, (t if self.mutation == "time not scaled" else t / self.time_scale).double())
        if self.mutation == "data in [-1, 1]":
            return DATA.score(u, sigma)
        score = IN_UNITS.score(u, 2 * sigma if self.mutation == "sigma of [-1, 1]" else sigma)
        return score * sigma[:, None, None, None] if self.mutation == "times std" else score


def worst(network: Exact, time_scale: float) -> float:
    """Largest error of D, relative to 1 + sigma, and of the score, relative to 1 / sigma."""
    found = denoisers.make("score", network, sde=SDES[network.name], time_scale=time_scale)
    assert isinstance(found, ScoreDenoiser)
    normal = torch.randn((5, 2, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for sigma in torch.logspace(math.log10(found.sigma_min), math.log10(found.sigma_max), 7).tolist():
        x = (0.5 + sigma**2) ** 0.5 * normal
        for given in (sigma, torch.full((5,), sigma, dtype=torch.float64)):
            errors.append(float((found(x, given) - DATA(x, sigma)).abs().max()) / (1 + sigma))
            errors.append(float((found.score(x, given) - DATA.score(x, sigma)).abs().max()) * sigma)
    return max(errors)


@pytest.mark.parametrize("time_scale", [1.0, 2.5])
@pytest.mark.parametrize("name", SDES)
def test_an_exact_score_makes_an_exact_denoiser(name: str, time_scale: float) -> None:
    """From the lowest level to the highest. The formula above loses half of its digits near t = 1e-3 and base 1."""
    assert worst(Exact(name, time_scale), time_scale) < 1e-9


@pytest.mark.parametrize("mutation", ["time not scaled", "data in [-1, 1]", "sigma of [-1, 1]", "times std"])
def test_another_convention_does_not(mutation: str) -> None:
    assert worst(Exact("power_ve", 2.5, mutation), 2.5) > 1e-2


def test_the_range_is_that_of_the_times_and_of_pixels_twice_as_wide() -> None:
    found = denoisers.make("score", nn.Identity(), sde={"name": "power_ve", "base": 2.0})
    assert found.sigma_max == pytest.approx(2 * 1.471, abs=1e-3)
    assert found.sigma_min == pytest.approx(2 * 0.0316, abs=1e-4)
    with pytest.raises(InputError, match=r"sigma = 3.1 is outside the range"):
        found(torch.zeros(1, 3, 8, 8), 3.1)


def test_every_sampler_can_use_it() -> None:
    """Heun's way from 2 std(1) down ends with the mean of the mixture, within 4 standard errors of 400 draws."""
    found = denoisers.make("score", Exact("power_ve", 1.0), sde={"name": "power_ve", "base": 5.0})
    levels = torch.logspace(math.log10(found.sigma_max), math.log10(found.sigma_min), 15).tolist()
    draws = ImageDraws([generator(0, i) for i in range(400)], torch.device("cpu"))
    # What arrives from the data at the highest level is not forgotten: the start is the mixture there.
    data = DATA.sample(400, generator(1)).reshape(400, 2, 1, 1)
    x = data + found.sigma_max * draws.normal((2, 1, 1)).double()
    end = samplers.make("heun").sample(found, levels, start=x, draws=draws)
    mean = torch.tensor([0.3 * -0.9 + 0.7 * 0.4, 0.3 * 0.2 - 0.7 * 0.6], dtype=torch.float64)
    spread = torch.tensor([0.04 + 0.21 * 1.3**2, 0.04 + 0.21 * 0.8**2], dtype=torch.float64).sqrt() / 20
    assert ((end.flatten(1).mean(0) - mean).abs() < 4 * spread).all()
    assert float((end.flatten(1)[:, 0] < -0.25).double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 400))


def test_labels_reach_the_network_and_guidance_knows_them() -> None:
    network, settings = {**NETWORK, "num_classes": 3}, {"name": "score", "sde": SDES["power_ve"]}
    made = make_denoiser(network, settings).eval()
    assert (made.channels, made.image_size, made.num_classes) == (1, 8, 3)
    with torch.no_grad():
        nn.init.normal_(made.network.last.weight, std=0.1)  # type: ignore[union-attr, arg-type]
        for block in (module for module in made.network.modules() if hasattr(module, "Conv_1")):
            nn.init.normal_(block.Conv_1.weight, std=0.1)  # type: ignore[union-attr, arg-type]
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        told = made(x, 1.0, torch.tensor([0, 2]))
        assert float((told[1] - made(x, 1.0, torch.tensor([0, 1]))[1]).abs().max()) > 1e-3
        assert torch.equal(guided(made, [0, 2])(x, 1.0), told)
    with pytest.raises(InputError, match=r"guidance: missing; the network has 3 classes"):
        guided(made, None)


def test_files_keep_it(tmp_path: Path) -> None:
    denoiser = {"name": "score", "sde": {"name": "power_ve", "base": 5.0}, "time_scale": 4.0, "eps": 0.002}
    made = make_denoiser(NETWORK, denoiser).eval()
    nn.init.normal_(made.network.last.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    path = tmp_path / "model.safetensors"
    save_denoiser(path, {"network": NETWORK, "denoiser": denoiser}, made.network.state_dict())
    loaded = load_denoiser(path)
    assert isinstance(loaded, ScoreDenoiser) and (loaded.sigma_min, loaded.time_scale) == (made.sigma_min, 4.0)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        # In another memory layout, whose convolutions sum in another order.
        torch.testing.assert_close(loaded(x, 1.0), made(x, 1.0), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"network.denoiser.time_scale is 4.0 in the file, and 1.0 in the config"):
        load_denoiser(path, denoiser={**denoiser, "time_scale": 1.0})


def test_what_does_not_go_together_is_refused() -> None:
    ncsnpp = {"name": "ncsnpp", "image_size": 8, "nf": 16, "ch_mult": [1], "num_res_blocks": 1}
    allowed = r"denoiser score around network ncsnpp: .* the other networks take a time"
    with pytest.raises(InputError, match=allowed):
        make_denoiser(ncsnpp, {"name": "score", "sde": SDES["power_ve"]})
    with pytest.raises(InputError, match="denoiser ve around network ddpm_unet"):
        make_denoiser(NETWORK, {"name": "ve"})
    for settings, said in (
        ({"sde": {"name": "vp"}}, "sde.name: found 'vp'; allowed: one of edm, power_ve, ve"),
        ({"sde": {"name": "power_ve", "base": 0.9}}, "sde.base: found 0.9; allowed: a number of at least 1"),
        ({"sde": {"name": "power_ve"}, "eps": 1.0}, "eps: found 1.0; allowed: a time below 1"),
        ({}, "sde"),
    ):
        with pytest.raises(InputError, match=said):
            denoisers.make("score", nn.Identity(), **settings)
