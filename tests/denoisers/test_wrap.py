"""`randomwalk.wrap`: an exact network, written in any convention, is the exact denoiser; the samplers cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import randomwalk
from randomwalk import GaussianMixture, InputError, operators, samplers
from randomwalk.config.samplers import POSTERIOR_NAMES, PRIOR_NAMES
from randomwalk.denoisers.guidance import guided
from randomwalk.training.levels import even_time

MIXTURE = GaussianMixture([0.3, 0.7], torch.tensor([[-0.5, 0.2], [0.6, -0.4]], dtype=torch.float64), 0.09)
STRAIGHT = (lambda t: 1 - t, lambda t: t)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = (1 - BETAS).cumprod(0)
FALLING = torch.linspace(math.log(50), math.log(0.01), 200, dtype=torch.float64).exp()
COSINE = (lambda t: torch.cos(t * math.pi / 2), lambda t: torch.sin(t * math.pi / 2))
Pair = tuple[Tensor, Tensor]


def between(table: Tensor, index: Tensor) -> Tensor:
    left = index.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[left], table[left + 1], index - left)


def preserving(sigma: Tensor) -> Pair:
    return (1 + sigma**2).rsqrt(), sigma * (1 + sigma**2).rsqrt()


VP_SIGMAS = ((1 - ALPHA_BAR) / ALPHA_BAR).sqrt()
CONVENTIONS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Pair]]] = {
    # what wrap is told; alpha and beta by what the network is told
    "betas": ({"betas": BETAS.tolist()}, lambda t: preserving(between(VP_SIGMAS, t))),
    "alphas_cumprod": ({"alphas_cumprod": ALPHA_BAR}, lambda t: preserving(between(VP_SIGMAS, t))),
    "share of the index": (
        {"betas": BETAS.numpy(), "time_scale": 1 / 1000}, lambda t: preserving(between(VP_SIGMAS, 1000 * t))
    ),
    "vp told ln sigma": (
        {"betas": BETAS, "time": "log_sigma"}, lambda t: preserving((4 * t).exp())
    ),
    "falling sigmas": ({"sigmas": FALLING}, lambda t: (torch.ones_like(t), between(FALLING, t))),
    "rising sigmas": ({"sigmas": FALLING.flip(0)}, lambda t: (torch.ones_like(t), between(FALLING.flip(0), t))),
    "told sigma": ({"sigmas": (0.01, 50.0), "time": "sigma"}, lambda t: (torch.ones_like(t), t)),
    "cosine": ({"alpha_sigma": COSINE, "times": (0.01, 0.99)}, lambda t: (COSINE[0](t), COSINE[1](t))),
    "cosine, 999 t": (
        {"alpha_sigma": COSINE, "time_scale": 999.0}, lambda t: (COSINE[0](t / 999), COSINE[1](t / 999))
    ),
    "exploding": ({"alpha_sigma": (lambda t: 1.0, lambda t: 25**t), "times": (0.0, 1.0)}, lambda t: (t**0, 25**t)),
    "straight": ({"alpha_sigma": STRAIGHT, "time_scale": 1000.0}, lambda t: (1 - t / 1000, t / 1000)),
    "backwards": ({"alpha_sigma": STRAIGHT[::-1]}, lambda t: (t, 1 - t)),
}  # fmt: skip


class Exact(nn.Module):
    """Perfectly trained network of the mixture in a convention, which is told ``time_scale t``."""

    def __init__(
        self, predicts: str, pair: Callable[[Tensor], Pair], pixels: tuple[float, float], time_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.predicts, self.pair = predicts, pair
        self.scale, self.offset = (pixels[1] - pixels[0]) / 2, sum(pixels) / 2

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        z, t = z.double(), t.double()
        shape = (-1, *[1] * (z.ndim - 1))
        a, b = (c.reshape(shape) for c in self.pair(t))
        x = (z / a - self.offset) / self.scale
        sigma = (b / a / self.scale).flatten()
        u = self.scale * MIXTURE(x, sigma) + self.offset
        score = MIXTURE.score(x, sigma) / self.scale / a  # of z = a (scale x + offset)
        noise = -b * score
        if self.predicts == "flow":
            ends = [self.pair(t + self.time_scale * h) for h in (-1e-6, 1e-6)]
            rate = [((late - early) / 2e-6).reshape(shape) for early, late in zip(*ends, strict=True)]
            return rate[0] * u + rate[1] * noise
        return {"epsilon": noise, "x0": u, "v": a * noise - b * u, "score": score}[self.predicts]


def made(name: str, predicts: str, pixels: tuple[float, float] = (-1, 1), **other: Any) -> Any:
    told, pair = CONVENTIONS[name]
    network = Exact(predicts, pair, pixels, told.get("time_scale", 1.0))
    return randomwalk.wrap(network, predicts, pixels=pixels, **{**told, **other})  # type: ignore[arg-type]


def miss(denoiser: Any) -> float:
    """Largest error of D in units of 1 + sigma, and of the score in those of the noise's."""
    worst, normal = 0.0, torch.randn((4, 2, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = math.log(max(denoiser.sigma_min, 0.01)), math.log(min(denoiser.sigma_max, 100.0))
    for sigma in torch.linspace(low + 1e-9, high - 1e-9, 6, dtype=torch.float64).exp().tolist():
        x = (1 + sigma**2) ** 0.5 * normal
        for given in (sigma, torch.full((4,), sigma, dtype=torch.float64)):
            off = (denoiser(x, given) - MIXTURE(x, sigma)).abs().max() / (1 + sigma)
            off_score = (denoiser.score(x, given) - MIXTURE.score(x, sigma)).abs().max() * sigma
            worst = max(worst, float(off), float(off_score))
    return worst


@pytest.mark.parametrize("pixels", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("predicts", ["epsilon", "x0", "v", "score", "flow"])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_an_exact_network_is_the_exact_denoiser(name: str, predicts: str, pixels: tuple[float, float]) -> None:
    if predicts == "flow" and "alpha_sigma" not in CONVENTIONS[name][0]:
        pytest.skip("a velocity is along a path")
    assert miss(made(name, predicts, pixels)) < 1e-6


def test_a_network_of_another_convention_is_not() -> None:
    assert miss(made("betas", "epsilon", alphas_cumprod=ALPHA_BAR**1.3, betas=None)) > 1e-3
    assert miss(made("straight", "flow", time_scale=999.0)) > 1e-4
    told, pair = CONVENTIONS["backwards"]
    assert miss(randomwalk.wrap(Exact("flow", pair, (-1, 1)), "flow")) > 1e-1  # of noise to image
    assert miss(randomwalk.wrap(Exact("x0", pair, (0, 1)), "x0", **told)) > 1e-1  # [0, 1] taken for [-1, 1]
    assert miss(randomwalk.wrap(Exact("v", pair, (-1, 1)), "epsilon", **told)) > 1e-1
    told, pair = CONVENTIONS["falling sigmas"]
    assert miss(randomwalk.wrap(Exact("score", pair, (-1, 1)), "score", sigmas=FALLING.flip(0))) > 1e-1


def test_flow_is_the_straight_path_by_default() -> None:
    def pair(t: Tensor) -> Pair:
        return 1 - t, t

    assert miss(randomwalk.wrap(Exact("flow", pair, (-1, 1)), "flow")) < 1e-6


@pytest.mark.parametrize("name", [*PRIOR_NAMES, *(n for n in POSTERIOR_NAMES if n not in PRIOR_NAMES)])
def test_every_sampler_takes_it(name: str) -> None:
    """With the same draws it makes the samples that it makes of the mixture itself."""
    wrapped, settings = (
        made("straight", "flow", (0, 1)),
        {
            "predictor_corrector": {"sde": {"name": "ve", "sigma_min": 0.02, "sigma_max": 5.0}},
            "random_walk": {"step_scale": 0.5},
        },
    )
    sampler = samplers.make(name, **settings.get(name, {}))
    sigmas, measurement, found = [3.0, 1.5, 0.7, 0.3, 0.1, 0.05], None, []
    if sampler.needs.measurement == "required":
        damage: dict[str, Any] = {"name": "inpainting", "mask": "random", "missing": 0.5}
        damage = {"name": "denoising"} if name == "posterior_mean" else damage
        operator = operators.make(image_shape=(2, 1, 1), **damage)
        clean = torch.tensor([[0.5, -0.3], [-0.4, 0.1]]).reshape(2, 2, 1, 1)
        measurement = operator.measure(clean, randomwalk.GaussianNoise(0.2), draws=None)
    for prior in (MIXTURE, wrapped):
        torch.manual_seed(0)
        given = {"shape": (4, 2, 1, 1)} if measurement is None else {"num_samples": 2}
        found.append(sampler.sample(prior, sigmas, measurement, **given))  # type: ignore[arg-type]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_its_own_levels_are_even_in_its_time() -> None:
    u = torch.linspace(0, 1, 5, dtype=torch.float64)
    t = 0.999 - u * 0.998
    torch.testing.assert_close(made("straight", "flow", (0, 1)).own_levels(u), 2 * t / (1 - t))
    torch.testing.assert_close(made("backwards", "x0").own_levels(u), t / (1 - t))
    expected = 2 * between(FALLING, 199 * u)
    torch.testing.assert_close(made("falling sigmas", "score", (0, 1)).own_levels(u), expected, rtol=1e-6, atol=0)
    sampler = samplers.make("ddim", schedule={"name": "pretrained", "num_steps": 5})
    assert sampler.levels(made("straight", "flow")).tolist() == pytest.approx((t / (1 - t)).tolist())


def test_shifted_times_are_those_of_esser() -> None:
    """``t = s u / (1 + (s - 1) u)``; in training too, whose levels are the same times in the other order."""
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    even = 0.999 - u * 0.998
    shifted = 3 * even / (1 + 2 * even)
    ends = 3 * 0.001 / 1.002, 3 * 0.999 / 2.998
    denoiser = randomwalk.wrap(nn.Identity(), "flow", shift=3.0, times=ends)
    own = randomwalk.denoisers.make("flow", nn.Identity(), shift=3.0, t_min=ends[0], t_max=ends[1])
    for made_levels in (denoiser.own_levels(u), own.own_levels(u)):
        torch.testing.assert_close(made_levels, shifted / (1 - shifted))
    assert isinstance(denoiser, randomwalk.denoisers.SDEDenoiser)
    torch.testing.assert_close(even_time(denoiser)(1 - u), shifted / (1 - shifted))


def test_the_flow_denoiser_of_a_training_is_the_same() -> None:
    for predicts, scale in (("flow", 999.0), ("flow", 250.0)):
        network = Exact(predicts, lambda t, s=scale: (1 - t / s, t / s), (-1, 1), scale)
        assert miss(randomwalk.denoisers.make("flow", network, time_scale=scale)) < 1e-6
    wrong = Exact("flow", lambda t: (1 - t / 1000, t / 1000), (-1, 1), 1000.0)
    assert miss(randomwalk.denoisers.make("flow", wrong)) > 1e-4


@pytest.mark.parametrize(
    "output",
    [
        lambda f: SimpleNamespace(sample=f),
        lambda f: {"sample": f},
        lambda f: (f, None),
        lambda f: torch.cat([f, 0 * f], 1),
    ],
    ids=["object", "dictionary", "tuple", "learned variance"],
)
def test_any_output(output: Callable[[Tensor], Any]) -> None:
    exact = Exact("epsilon", CONVENTIONS["betas"][1], (-1, 1))
    assert miss(randomwalk.wrap(lambda z, t: output(exact(z, t)), "epsilon", betas=BETAS)) < 1e-6


def test_whole_times_are_integers() -> None:
    seen: list[Tensor] = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return z

    denoiser = randomwalk.wrap(network, "epsilon", alphas_cumprod=ALPHA_BAR, whole_times=True)
    denoiser(torch.zeros(2, 1, 1, 1), float(VP_SIGMAS[300] * 0.4 + VP_SIGMAS[301] * 0.6))
    assert seen[0].dtype == torch.int64 and seen[0].tolist() == [301, 301]


def test_classes() -> None:
    def network(z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label.to(z)[:, None, None, None].expand_as(z)

    denoiser = randomwalk.wrap(
        network, "x0", sigmas=(0.1, 9.0), time="sigma", num_classes=3, null_label=2, classes=["cat", "dog"]
    )
    x = torch.zeros(2, 1, 1, 1)
    assert guided(denoiser, ["dog", "cat"])(x, 1.0).flatten().tolist() == [1.0, 0.0]
    assert guided(denoiser, ["dog", "cat"], 3.0)(x, 1.0).flatten().tolist() == [2 + 3 * (1 - 2), 2 + 3 * (0 - 2)]
    assert denoiser(x, 1.0).flatten().tolist() == [2.0, 2.0]  # of any class
    with pytest.raises(InputError, match=r"the network is class-conditional: use randomwalk\.denoisers\.guided"):
        randomwalk.wrap(network, "x0", sigmas=(0.1, 9.0), time="sigma", num_classes=2)(x, 1.0)
    with pytest.raises(InputError, match=r"cannot be called as network\(z, t, label\)"):
        plain = randomwalk.wrap(lambda z, t: z, "x0", sigmas=(0.1, 9.0), time="sigma", num_classes=3)
        guided(plain, [1])(x, 1.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"predicts": "noise", "betas": BETAS}, "predicts='noise'; expected one of epsilon, x0, v, score, flow"),
        ({"predicts": "epsilon"}, "found no schedule; expected one of betas, alphas_cumprod, sigmas, alpha_sigma"),
        ({"predicts": "x0", "betas": BETAS, "sigmas": FALLING}, "found betas and sigmas; expected one of"),
        ({"predicts": "flow", "betas": BETAS}, "a velocity is the derivative along a path"),
        ({"predicts": "x0", "betas": ALPHA_BAR}, r"wrap.betas: falls from .*; are these alphas_cumprod\?"),
        ({"predicts": "x0", "alphas_cumprod": BETAS}, r"wrap.alphas_cumprod: .* are these betas\?"),
        ({"predicts": "x0", "sigmas": [1.0, 3.0, 2.0]}, "sigmas: expected at least two positive numbers that rise or"),
        ({"predicts": "x0", "betas": BETAS, "time": "t"}, "time='t'; allowed with betas: index, sigma, log_sigma"),
        ({"predicts": "x0", "alpha_sigma": STRAIGHT, "times": (0, 1)}, r"is 0 to inf at times 0 to 1"),
        ({"predicts": "x0", "alpha_sigma": (lambda t: 1.0, lambda t: (t - 0.5) ** 2 + 1)}, "must rise, or fall"),
        ({"predicts": "x0", "alpha_sigma": STRAIGHT, "whole_times": True}, "whole_times is for networks that take"),
        ({"predicts": "flow", "times": (0, 1)}, "times from 0 to 1: expected 0 < t_min < t_max < 1"),
        ({"predicts": "x0", "alpha_sigma": STRAIGHT, "shift": 3.0}, "shift=3 is for flow on the straight path"),
        ({"predicts": "x0", "betas": BETAS, "pixels": (1, 0)}, r"pixels=\(1, 0\); expected \(black, white\)"),
        ({"predicts": "x0", "betas": BETAS, "pixels": (0, 1, 2)}, r"pixels=\(0, 1, 2\); expected \(black, white\)"),
        ({"predicts": "flow", "shift": 0.0}, r"shift=0.0: expected a positive number"),
        ({"predicts": "x0", "betas": ["low", "high"]}, "wrap.betas: is not a list of numbers"),
        ({"predicts": "v", "alphas_cumprod": []}, "wrap.alphas_cumprod: has shape .* expected a list of at least two"),
        ({"predicts": "x0", "sigmas": [1.0, math.inf]}, "sigmas: expected at least two positive numbers"),
        ({"predicts": "x0", "sigmas": ["low", "high"]}, "wrap: sigmas: expected a list of numbers"),
        ({"predicts": "x0", "alpha_sigma": STRAIGHT[:1]}, "alpha_sigma and times: expected two functions of t"),
        ({"predicts": "x0", "alpha_sigma": math.cos}, "alpha_sigma and times: expected two functions of t"),
        (
            {"predicts": "x0", "alpha_sigma": (math.cos, math.sin)},
            "alpha_sigma: cannot be called with a float64",
        ),
        ({"predicts": "x0", "betas": BETAS, "whole_times": True, "time_scale": 2.0}, "time_scale=2 and whole_times"),
        ({"predicts": "x0", "betas": BETAS, "num_classes": 3, "null_label": 3}, "null_label=3; expected one of num_cl"),
        ({"predicts": "x0", "betas": BETAS, "num_classes": 1, "classes": ["a", "b"]}, "2 names in classes for num_cl"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        randomwalk.wrap(nn.Identity(), **settings)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InputError, match="network: found int; expected a module or a function"):
        randomwalk.wrap(5, "x0", betas=BETAS)  # type: ignore[arg-type]


def test_a_last_level_of_pure_noise_is_left_out_where_the_prediction_determines_the_image() -> None:
    table = torch.cat([ALPHA_BAR, torch.zeros(1)])
    assert randomwalk.wrap(nn.Identity(), "v", alphas_cumprod=table).sigma_max == pytest.approx(float(VP_SIGMAS[-1]))
    with pytest.raises(InputError, match="ends with 0, a level of pure noise"):
        randomwalk.wrap(nn.Identity(), "epsilon", alphas_cumprod=table)


def test_a_network_of_another_size_or_signature_is_refused() -> None:
    x = torch.zeros(2, 3, 4, 4)
    for network, said in (
        (lambda z, t: z[..., :2], r"turns \[2, 3, 4, 4\] into \[2, 3, 4, 2\]; expected the same shape"),
        (lambda z, t: z[:, :1], r"into \[2, 1, 4, 4\]"),
        (lambda z, t: "none", "returns str; expected a tensor, or one called sample"),
        (lambda z: z, r"cannot be called as network\(z, t\) .* give a function that does"),
    ):
        with pytest.raises(InputError, match=said):
            randomwalk.wrap(network, "x0", betas=np.linspace(1e-4, 0.02, 1000))(x, 1.0)  # type: ignore[arg-type]

    def broken(z: Tensor, t: Tensor) -> Tensor:
        return z + "text"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):  # the network's own mistake is not explained away
        randomwalk.wrap(broken, "x0", betas=BETAS)(x, 1.0)
