"""Denoisers of deepinv as priors here, and ours as deepinv's; needs that library."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import randomwalk
from randomwalk import GaussianMixture, GaussianNoise, InputError, load_denoiser, operators, samplers
from randomwalk.config.networks import Weights
from randomwalk.denoisers.checkpoints import load_prior
from randomwalk.denoisers.deepinv_models import NOISE_RANGES, as_denoiser, load_deepinv, to_deepinv_model
from randomwalk.denoisers.guidance import guided

deepinv = pytest.importorskip("deepinv", reason="needs deepinv")
CPU = torch.device("cpu")
MIXTURE = GaussianMixture([0.4, 0.6], torch.tensor([[-0.5] * 12, [0.3] * 12], dtype=torch.float64), 0.04)

# Small ones of every class whose published weights are known.
SMALL: dict[str, dict[str, Any]] = {
    "DRUNet": {"nc": [8, 8, 8, 8], "nb": 1},
    "GSDRUNet": {"nc": [8, 8, 8, 8], "nb": 1},
    "FFDNet": {"img_channels": 3, "n_conv_layers": 3, "nf": 16},
    "SCUNet": {"config": [1] * 7, "dim": 64},
    "Restormer": {"dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1, "heads": [1] * 4},
    "RAM": {},
    "DnCNN": {"depth": 3, "nf": 8},
    "NCSNpp": {"img_resolution": 32, "model_channels": 32, "num_blocks": 1, "attn_resolutions": [16]},
    "ADMUNet": {"img_resolution": 32, "model_channels": 32, "num_blocks": 1, "attn_resolutions": [16]},
    "DiffUNet": {},
}
SLOW = {"RAM", "DiffUNet"}
"""Their size cannot be chosen."""


def small(name: str, **other: Any) -> Any:
    pretrained = {"RAM": False}.get(name)
    return load_deepinv(name, "download", {**SMALL[name], "pretrained": pretrained, **other}).eval()


def test_every_class_with_known_weights_has_a_case() -> None:
    assert SMALL.keys() == NOISE_RANGES.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_denoiser_is_what_the_library_computes(name: str) -> None:
    """``D(x, sigma) = 2 model((x + 1) / 2, sigma / 2) - 1``, inside its noise range."""
    torch.manual_seed(0)
    denoiser = small(name)
    model = denoiser.network.network.model
    low, high = NOISE_RANGES[name]
    sigma, x = 2 * (low * high) ** 0.5, 0.3 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        level = {"sigma": sigma / 2} if "sigma" in inspect.signature(model.forward).parameters else {"t": sigma / 2}
        expected = 2 * model((x + 1) / 2, **level) - 1
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(denoiser(x, torch.full((2,), sigma)), expected, rtol=1e-4, atol=1e-4)
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((2 * low, 2 * high)) and denoiser.channels == 3
    with pytest.raises(InputError, match="is outside the range of this denoiser"):
        denoiser(x, 2.1 * high)


class Exact(nn.Module):
    """The exact denoiser in the library's convention, told the noise level or not."""

    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        if self.blind:
            sigma = torch.full((len(x),), 0.1)
        return (MIXTURE(2 * x.double() - 1, 2 * sigma.double()).to(x) + 1) / 2


def test_an_exact_one_is_exact_and_a_blind_one_at_its_level() -> None:
    x = torch.randn(3, 12, 1, 1, dtype=torch.float64)
    told, blind = as_denoiser(Exact(False), (0.01, 10.0)), as_denoiser(Exact(True), (0.099, 0.101))
    for sigma in (0.05, 0.2, 3.0):
        torch.testing.assert_close(told(x, sigma), MIXTURE(x, sigma), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(told.score(x, sigma), MIXTURE.score(x, sigma), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(blind(x, 0.2), MIXTURE(x, 0.2), rtol=1e-6, atol=1e-6)
    operator = operators.make("inpainting", image_shape=(12, 1, 1), mask="random", missing=0.5)
    measurement = operator.measure(x, GaussianNoise(0.1))
    made = []
    for prior in (told, MIXTURE):
        torch.manual_seed(0)
        made.append(samplers.make("diffpir").sample(prior, [2.0, 1.0, 0.3, 0.1], measurement))
    torch.testing.assert_close(*made, rtol=1e-5, atol=1e-5)


def test_classes_of_the_networks_of_edm() -> None:
    """One-hot labels; the label after the last is none, the zero vector."""
    torch.manual_seed(0)
    denoiser = small("ADMUNet", label_dim=3)
    assert denoiser.num_classes == 4 and denoiser.null_label == 3
    model, x = denoiser.network.network.model, 0.3 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for parameter in model.parameters():  # a new network has zeros where the labels enter
            nn.init.normal_(parameter, std=0.1)
        labels = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        expected, other = (
            2 * model((x + 1) / 2, sigma=0.5, class_labels=told) - 1 for told in (labels, labels.roll(1, 1))
        )
        assert (expected - other)[0].abs().max() > 1e-2 and torch.equal(expected[1], other[1])
        found = denoiser(x, 1.0, torch.tensor([1, 3]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(guided(denoiser, [1, 2])(x, 1.0)[:1], expected[:1], rtol=1e-4, atol=1e-4)


def test_weights_of_a_file(tmp_path: Path) -> None:
    """A state dict is read without running code; by one section of YAML."""
    torch.manual_seed(0)
    theirs = deepinv.models.DnCNN(pretrained=None, depth=3, nf=8)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "x.pth")
    section = {"name": "deepinv", "model": "DnCNN", "path": str(tmp_path / "x.pth"), "noise_range": [0.01, 0.2]}
    section["settings"] = {"depth": 3, "nf": 8}
    denoiser = load_prior(Weights.model_validate(section), CPU)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, 0.1), 2 * theirs((x + 1) / 2) - 1)
    for settings, difference in (
        ({"depth": 4, "nf": 8}, "is missing in the file"),
        ({"depth": 3, "nf": 16}, r"in_conv.weight is \[8, 3, 3, 3\] in the file and \[16, 3, 3, 3\] in the network"),
    ):
        section["settings"] = settings
        with pytest.raises(InputError, match=f"does not fit deepinv's DnCNN with these settings: .*{difference}"):
            load_prior(Weights.model_validate(section), CPU)
    broken = {name: value * math.nan for name, value in theirs.state_dict().items()}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"in_conv\.weight has values that are NaN or infinite"):
        load_deepinv("DnCNN", str(tmp_path / "nan.pth"), {"depth": 3, "nf": 8})
    with pytest.raises(InputError, match=r"noise_range: \[0.3, 0.1\]; expected the lowest and the highest sigma"):
        load_deepinv("DnCNN", str(tmp_path / "x.pth"), {"depth": 3, "nf": 8}, (0.3, 0.1))


def test_what_cannot_be_used_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"network.model 'Unknown': unknown; expected one of ADMUNet, "):
        load_deepinv("Unknown")
    with pytest.raises(InputError, match=r"network.noise_range: missing; the noise levels that deepinv's UNet"):
        load_deepinv("UNet")
    with pytest.raises(InputError, match=r"cannot be made with .*unexpected keyword argument 'width'"):
        load_deepinv("DRUNet", settings={"width": 3, "pretrained": None})

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"Name or service not known.*downloaded once, which takes a connection"):
        load_deepinv("DRUNet")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"name": "deepinv"}, "model: missing; expected a class of deepinv.models"),
        ({"name": "file", "path": "a.pt", "model": "DRUNet"}, "model: is for name: deepinv, but name is file"),
        ({"name": "deepinv", "model": "DRUNet", "noise_range": [0.2, 0.1]}, "noise_range: found 0.2; allowed"),
        ({"name": "diffusers", "path": "a", "weights": "raw"}, "weights: is for name: file and deepinv"),
    ],
)
def test_settings_of_other_formats_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Weights.model_validate(section)


# --- ours for them ---------------------------------------------------------------------------------------------------


def test_ours_is_a_denoiser_of_theirs() -> None:
    model = to_deepinv_model(MIXTURE)
    assert isinstance(model, deepinv.models.Denoiser)
    u = torch.rand(3, 12, 1, 1, dtype=torch.float64)
    for sigma in (0.1, torch.tensor([0.1, 0.2, 0.5])):
        expected = (MIXTURE(2 * u - 1, torch.as_tensor(2 * sigma).double().expand(3)) + 1) / 2
        torch.testing.assert_close(model(u, sigma), expected, rtol=1e-6, atol=1e-6)
    vp = to_deepinv_model(load_denoiser("pretrained_models/fashion_vp.safetensors"))
    with pytest.raises(InputError, match="is outside the range of this denoiser"):
        vp(torch.rand(1, 1, 32, 32), 100.0)  # 200 of ours, above 157
    with pytest.raises(InputError, match="is outside the range of this denoiser"):
        vp(torch.rand(2, 1, 32, 32), torch.tensor([0.1, 1e-6]))


def test_their_plug_and_play_runs_on_ours() -> None:
    """DPIR on a photograph with a missing part, with our bundled network: better than what went in."""
    from randomwalk.images.sources import open_images

    x = (open_images("data/photographs/chelsea.png").load(0, 3, (64, 64), "crop")[None] + 1) / 2
    physics = deepinv.physics.Inpainting((3, 64, 64), mask=0.5, rng=torch.Generator().manual_seed(0))
    physics.noise_model = deepinv.physics.GaussianNoise(0.05, rng=torch.Generator().manual_seed(0))
    y = physics(x)
    model = to_deepinv_model(randomwalk.load_denoiser("pretrained_models/photo.safetensors"))
    with torch.no_grad():
        found = deepinv.optim.DPIR(sigma=0.05, denoiser=model)(y, physics)
    filled = torch.where(physics.mask == 0, y.sum() / physics.mask.expand_as(y).sum(), y)  # with the mean of the rest
    assert (found - x).square().mean() < (filled - x).square().mean()


def test_their_sampler_draws_from_ours() -> None:
    """Their reverse SDE with the exact denoiser: mean and standard deviation of the mixture, at both components."""
    sde = deepinv.sampling.VarianceExplodingDiffusion(sigma_min=0.005, sigma_max=10.0, alpha=1.0)
    solver = deepinv.sampling.EulerSolver(timesteps=torch.linspace(1, 0.001, 150))
    sampler = deepinv.sampling.PosteriorDiffusion(
        data_fidelity=deepinv.optim.ZeroFidelity(), sde=sde, denoiser=to_deepinv_model(MIXTURE), solver=solver,
        device="cpu",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        found = sampler(y=None, physics=None, x_init=(400, 12, 1, 1), seed=0)
    x = (2 * found - 1).flatten(1).mean(1)
    share = float((x > -0.1).float().mean())
    assert abs(share - 0.6) < 5 * (0.6 * 0.4 / 400) ** 0.5
    for centre, some in ((0.3, x[x > -0.1]), (-0.5, x[x <= -0.1])):
        assert float(some.mean()) == pytest.approx(centre, abs=5 * 0.2 / (12 * len(some)) ** 0.5 + 0.02)
