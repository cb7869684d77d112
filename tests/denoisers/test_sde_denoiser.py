"""One conversion: any network of any SDE, in any convention, is the same denoiser in the walk's coordinates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randomwalk import GaussianMixture, InputError, load_denoiser
from randomwalk.denoisers import adapters as denoisers
from randomwalk.images.metrics import psnr
from randomwalk.images.sources import open_images
from score_sde import sdes
from score_sde.sdes import SDE

ROOT = Path(__file__).resolve().parents[2]
ALL: dict[str, SDE] = {name: sdes.make(name) for name in sdes.SDES}
EVERY = pytest.mark.parametrize("name", ALL)
MIXTURES: dict[str, GaussianMixture] = {
    "gaussian": GaussianMixture([1.0], torch.tensor([[0.5, -0.3]], dtype=torch.float64), torch.tensor([[0.2, 0.9]])),
    "mixture": GaussianMixture([0.3, 0.7], torch.tensor([[-1.5, 0.2], [1.0, -0.6]], dtype=torch.float64), 0.09),
}


def coefficients(name: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """a and s by the formulas of the publications, with the default settings; nothing of the code."""
    B = {"vp": 0.1 * t + 9.95 * t**2, "sub_vp": 0.1 * t + 9.95 * t**2, "ou": t}.get(name, 0 * t)
    s = {
        "vp": (-torch.expm1(-B)).sqrt(),
        "sub_vp": -torch.expm1(-B),
        "ou": (-torch.expm1(-B)).sqrt(),
        "ve": 0.01 * 5000**t,
        "power_ve": (torch.expm1(2 * math.log(25) * t) / (2 * math.log(25))).sqrt(),
        "edm": t,
    }[name]
    return (-B / 2).exp(), s


class Written(nn.Module):
    """Perfectly trained network of ``z`` and a label, which knows its SDE and the data.

    It works in the coordinates of the SDE, where the state is ``a X + s N``. Its input z is that state divided by
    ``sqrt(a^2 + s^2)``, so it has the variance of VP's.
    """

    def __init__(self, name: str, time: str, prediction: str, data: GaussianMixture, mutation: str = "") -> None:
        super().__init__()
        self.name, self.time, self.prediction, self.data, self.mutation = name, time, prediction, data, mutation

    def coefficients(self, label: Tensor) -> tuple[Tensor, Tensor]:
        if self.time == "continuous":
            a, s = coefficients(self.name, ALL[self.name].T * label / 999)
        elif self.time == "log_sigma":
            a, s = coefficients(self.name, ALL[self.name].time((4 * label).exp()))
        else:  # a fractional index: sigma is linear between the levels
            table = ALL[self.name].levels(1000).sigma
            left = label.floor().long().clamp(0, 998)
            sigma = torch.lerp(table[left], table[left + 1], label - left)
            a, s = coefficients(self.name, ALL[self.name].time(sigma))
        if self.mutation == "square root":
            s = s.sqrt()
        return (s, a) if self.mutation == "a and s mixed up" else (a, s)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        assert label.shape == z.shape[:1] and label.dtype == torch.float64
        a, s = (c[:, None, None, None] for c in self.coefficients(label))
        size = (a**2 + s**2).sqrt()
        state = size * z
        x, sigma = state / a, (s / a).flatten()
        score = self.data.score(x, sigma) / a  # of p_t, the density of a X + s N
        if self.prediction == "score":
            return size * score
        epsilon = -s * score
        if self.prediction == "epsilon":
            return epsilon
        x0 = self.data(x, sigma)
        return x0 if self.prediction == "x0" else (a * epsilon - s * x0) / size


def sigmas_of(denoiser: denoisers.SDEDenoiser) -> list[float]:
    """The ends of the range, and levels between."""
    low, high = math.log(denoiser.sigma_min), math.log(denoiser.sigma_max)
    return torch.linspace(low, high, 7, dtype=torch.float64).exp().tolist()


def misses(network: Written, sde: str, time: str, prediction: str) -> float:
    """Largest error of denoiser and score, relative to their size and to what float64 can tell."""
    data = network.data
    denoiser = denoisers.make("sde", network, sde={"name": sde}, prediction=prediction, time=time)
    assert isinstance(denoiser, denoisers.SDEDenoiser)
    normal = torch.randn((5, 2, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    worst = 0.0
    for sigma in sigmas_of(denoiser):
        x = 0.5 + (1 + sigma**2) ** 0.5 * normal
        exact, exact_score = data(x, sigma), data.score(x, sigma)
        # D is known to the rounding of x, which is of size sigma; the score to that of N / sigma, or if the network
        # gives x0 to that of (D - x) / sigma^2: in units of these, with five digits left of 1e-9 for the latter.
        size = 1 + sigma
        size_of_score = 1 / sigma + (1e-5 / sigma**2 if prediction == "x0" else 0)
        for given in (sigma, torch.full((5,), sigma, dtype=torch.float64)):
            off = (denoiser(x, given) - exact).abs().max() / size
            off_score = (denoiser.score(x, given) - exact_score).abs().max() / size_of_score
            worst = max(worst, float(off), float(off_score))
    return worst


TIMES = pytest.mark.parametrize("time", ["continuous", "log_sigma", "discrete"])


@pytest.mark.parametrize("data", MIXTURES)
@pytest.mark.parametrize("prediction", denoisers.PREDICTIONS)
@TIMES
@EVERY
def test_an_exact_network_makes_an_exact_denoiser(name: str, time: str, prediction: str, data: str) -> None:
    """Every SDE, convention of time and prediction, from the lowest to the highest level."""
    assert misses(Written(name, time, prediction, MIXTURES[data]), name, time, prediction) < 1e-9


@pytest.mark.parametrize("mutation", ["a and s mixed up", "square root"])
@pytest.mark.parametrize("prediction", denoisers.PREDICTIONS)
@TIMES
def test_a_network_of_another_sde_does_not(time: str, prediction: str, mutation: str) -> None:
    network = Written("sub_vp", time, prediction, MIXTURES["mixture"], mutation)
    assert misses(network, "sub_vp", time, prediction) > 1e-2


def test_a_network_of_another_prediction_or_time_does_not() -> None:
    for prediction in denoisers.PREDICTIONS:
        for other in set(denoisers.PREDICTIONS) - {prediction}:
            assert misses(Written("vp", "continuous", prediction, MIXTURES["mixture"]), "vp", "continuous", other) > 0.1
    assert misses(Written("ou", "discrete", "epsilon", MIXTURES["mixture"]), "ou", "continuous", "epsilon") > 1e-2
    assert misses(Written("ou", "continuous", "epsilon", MIXTURES["mixture"]), "vp", "continuous", "epsilon") > 1e-2
    assert misses(Written("vp", "continuous", "epsilon", MIXTURES["mixture"]), "vp", "log_sigma", "epsilon") > 1e-2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sde": {"name": "cosine"}}, "sde.name: found 'cosine'; allowed: one of edm, ou, power_ve, sub_vp, ve, vp"),
        (
            {"sde": {"name": "ve", "beta_min": 1.0}},
            "sde.beta_min: unknown key; it is for name: sub_vp, vp; known with name: ve: name, sigma_min, sigma_max",
        ),
        ({"sde": {"name": "vp", "beta_min": 30.0}}, "sde.beta_min: found 30.0; allowed: a number below beta_max"),
        ({"sde": {"name": "ve", "sigma_min": 60.0}}, "sde.sigma_min: found 60.0; allowed: a number below sigma_max"),
        ({"sde": {"name": "ou", "end_time": 0.0}}, "sde.end_time: found 0.0; allowed: a number above 0"),
        ({"sde": {"name": "power_ve", "base": 0.5}}, "sde.base: found 0.5; allowed: a number of at least 1"),
        ({"sde": {"name": "edm", "sigma_max": -1.0}}, "sde.sigma_max: found -1.0; allowed: a number above 0"),
        (
            {"sde": {"name": "vp"}, "prediction": "noise"},
            "prediction: found 'noise'; allowed: one of epsilon, x0, v, score",
        ),
        (
            {"sde": {"name": "vp"}, "time": "integer"},
            "time: found 'integer'; allowed: one of continuous, log_sigma, discrete",
        ),
        (
            {"sde": {"name": "ou"}, "time": "discrete", "num_levels": 1},
            "num_levels: found 1; allowed: a whole number of at least 2",
        ),
        ({"sde": {"name": "vp"}, "time": "discrete", "num_levels": 20}, r"20 levels: .* needs more than 20"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        denoisers.make("sde", nn.Identity(), **settings)


@pytest.mark.parametrize("name", ["edm", "sde"])
def test_the_time_of_edm_is_a_quarter_of_the_logarithm(name: str) -> None:
    """``c_noise = ln(sigma) / 4`` (Karras et al. 2022, table 1), and ``c_in`` makes the input of variance 1."""
    seen = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        seen.append((z, t))
        return torch.zeros_like(z)

    settings: dict[str, Any] = {"sigma_data": 0.5} if name == "edm" else {"sde": {"name": "vp"}, "time": "log_sigma"}
    denoiser = denoisers.make(name, network, **settings)  # type: ignore[arg-type]
    sigma, x = torch.tensor([0.05, 1.0, 9.0]), torch.ones(3, 1, 2, 2)
    denoiser(x, sigma)
    z, t = seen[0]
    assert t.tolist() == pytest.approx([math.log(s) / 4 for s in (0.05, 1.0, 9.0)], rel=1e-5)
    unit = 0.5 if name == "edm" else 1.0
    assert z[:, 0, 0, 0].tolist() == pytest.approx([(s**2 + unit**2) ** -0.5 for s in (0.05, 1.0, 9.0)], rel=1e-5)


PHOTO = ROOT / "pretrained_models" / "photo.safetensors"


def test_the_bundled_network_of_photographs_removes_the_noise_of_the_level_that_it_is_told() -> None:
    """A photograph with noise 25 of 255 (20.2 dB) is denoised to what its card says of such, about 31 dB."""
    x = open_images(ROOT / "data/photographs/chelsea.png").load(0, 3, (128, 128), "crop")[None]
    sigma = 2 * 25 / 255
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = load_denoiser(PHOTO)(x + sigma * noise, sigma)
    assert float(psnr(found, x)) > 30.0


def test_the_network_of_photographs_is_one_of_vp_that_predicts_v() -> None:
    """EDM's preconditioning is that of VP for pixels of unit variance, x / s: it sees VP's state and predicts -v."""
    ve = load_denoiser(PHOTO)
    assert isinstance(ve, denoisers.EDMDenoiser)
    s, asked = ve.sigma_data, ve.network

    class NegativeV(nn.Module):
        def forward(self, z: Tensor, log_sigma: Tensor) -> Tensor:
            return -asked(z, log_sigma + math.log(s) / 4)  # the network's levels are those of its own pixels

    vp = denoisers.make("sde", NegativeV(), sde={"name": "vp"}, prediction="v", time="log_sigma")
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for sigma in (0.02, 0.2, 2.0):
        with torch.inference_mode():
            expected, found = ve(x * (1 + sigma), sigma), s * vp(x * (1 + sigma) / s, sigma / s)
        assert float((found - expected).abs().max()) < 1e-5 * (1 + sigma)
