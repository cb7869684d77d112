"""Images by the probability flow: closed forms, the starts, tolerances; and the tables of what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randomwalk import GaussianMixture, RunError, samplers
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers import integrate
from randomwalk.studies.score_embedding import sampling
from randomwalk.studies.score_embedding.sampling import flow, score_of, start
from score_sde import sdes
from score_sde.sdes import SDE

Score = Callable[[Tensor, Tensor], Tensor]
BASES = (2.0, 5.0, 25.0)


def images(num: int = 2) -> Tensor:
    """In [0, 1]."""
    draws = torch.Generator().manual_seed(0)
    return torch.rand((num, 3, 6, 6), generator=draws, dtype=torch.float64)


def normal(num: int = 2, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn((num, 3, 6, 6), generator=draws, dtype=torch.float64)


def exact(truth: Tensor, sde: SDE) -> Score:
    """The score of one image for each row: ``-(u - a u0) / s^2``."""

    def score(u: Tensor, t: Tensor) -> Tensor:
        mean, std = sde.marginal(truth.to(u), t)
        return -(u - mean) / sdes.broadcast(std, u) ** 2

    return score


def closed_form(truth: Tensor, begin: Tensor, sde: SDE, t: float) -> Tensor:
    """``a u0 + s(t) / s(T) (u(T) - a(T) u0)``."""
    level, top = sde.level(t), sde.level(sde.T)
    return level.a * truth + level.s / top.s * (begin - top.a * truth)


def rms(x: Tensor) -> float:
    """Of the image where it is worst."""
    return float(x.flatten(1).square().mean(1).sqrt().max())


def misses(score: Score, truth: Tensor, begin: Tensor, sde: SDE, tolerance: float) -> float:
    """Distance to the closed form as a multiple of what the tolerance allows: each accepted step (6 evaluations) adds
    at most ``tolerance (1 + |u|)``, and the exact flow only brings states closer to one another."""
    way = flow(score, begin, sde, tweedie=False, rtol=tolerance, atol=tolerance)
    allowed = way.evaluations / 6 * tolerance * (1 + float(begin.abs().max()))
    return rms(way.images - closed_form(truth, begin, sde, 1e-3)) / allowed


@pytest.mark.parametrize("kind", sampling.STARTS)
@pytest.mark.parametrize("base", BASES)
def test_the_flow_of_one_image_is_a_straight_way(base: float, kind: str) -> None:
    """From each start, at each tolerance, and with the last step the image itself; what is left without it."""
    sde, truth = sdes.PowerVE(base), images()
    begin = start(kind, normal(), sde, truth)
    assert misses(exact(truth, sde), truth, begin, sde, 1e-3) < 1
    without = flow(exact(truth, sde), begin, sde, tweedie=False, rtol=1e-6, atol=1e-6).images
    assert rms(without - closed_form(truth, begin, sde, 1e-3)) < 1e-5
    left = float(sde.std(1e-3) / sde.std(1.0)) * rms(begin - truth)  # with base 25 near the published tolerance
    assert rms(without - truth) == pytest.approx(left, rel=0.01) and left > 1e-3
    assert rms(flow(exact(truth, sde), begin, sde).images - truth) < 1e-12
    single = flow(exact(truth, sde), begin.float(), sde).images
    assert single.dtype == torch.float32 and rms(single.double() - truth) < 1e-6


@pytest.mark.parametrize("sde", [sdes.VP(), sdes.OU(5.0), sdes.PowerVE(1.0)], ids=["vp", "ou", "flat"])
def test_a_drift_is_followed_too(sde: SDE) -> None:
    truth, begin = images(), normal()
    assert misses(exact(truth, sde), truth, begin, sde, 1e-6) < 1
    assert rms(flow(exact(truth, sde), begin, sde).images - truth) < 1e-10


def test_a_wrong_score_or_factor_is_seen() -> None:
    sde, truth = sdes.PowerVE(5.0), images()
    begin, right = start("prior", normal(), sde), exact(truth, sde)
    wrong: dict[str, Score] = {
        "no half": lambda u, t: 2 * right(u, t),
        "divided by std": lambda u, t: right(u, t) * sdes.broadcast(sde.std(t), u),
        "of another base": exact(truth, sdes.PowerVE(6.0)),
    }
    for name, score in wrong.items():
        assert misses(score, truth, begin, sde, 1e-6) > 10, name
    # std for std^2 in the last step.
    last = flow(lambda u, t: right(u, t) / sdes.broadcast(sde.std(t), u), begin, sde, t_end=0.9)
    assert rms(last.images - truth) > 0.1


def test_evaluations_and_frames_are_what_they_say() -> None:
    sde, truth = sdes.PowerVE(5.0), images()
    begin, asked = start("prior", normal(), sde), []

    def score(u: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,) and t.dtype == u.dtype and bool((t >= 1e-3).all() and (t <= 1).all())
        asked.append(float(t[0]))
        return exact(truth, sde)(u, t)

    way = flow(score, begin, sde, num_frames=5, rtol=1e-7, atol=1e-7)
    assert way.evaluations == len(asked) > 20 and asked[0] == 1.0 and asked[-1] == 1e-3
    assert way.frames.shape == (5, *begin.shape) and torch.equal(way.frames[-1], way.images)
    assert torch.equal(way.frames[0], begin)
    for frame, t in zip(way.frames[1:4], (0.75025, 0.5005, 0.25075), strict=True):  # evenly from 1 to 1e-3
        assert rms(frame - closed_form(truth, begin, sde, t)) < 1e-4  # between the steps of order 5, of order 4
    less = flow(score, begin, sde, tweedie=False, rtol=1e-7, atol=1e-7)
    assert less.evaluations == way.evaluations - 1
    assert not way.images.requires_grad


# --- several images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "prior"])
@pytest.mark.parametrize("base", BASES)
def test_with_the_closed_form_score_of_three_images_it_makes_one_of_them(base: float, kind: str) -> None:
    """At the last time the images, 4 apart, are told from one another by factors of e^(16 / 0.002)."""
    sde, three = sdes.PowerVE(base), images(3)
    way = flow(score_of(EmpiricalDenoiser(2 * three - 1), sde), start(kind, normal(6), sde), sde)
    distance, nearest = (way.images[:, None] - three).abs().flatten(2).amax(2).min(1)
    assert distance.max() < 1e-6
    assert len(set(nearest.tolist())) > 1


def test_each_of_three_as_often_as_it_should() -> None:
    """From the law at T, image k being there with its probability; 3 x 200 draws of points in the plane, whose classes
    overlap at T. A deterministic map of exact draws: 200 of each, within 4 standard deviations of a binomial law."""
    sde = sdes.PowerVE(5.0)
    three = torch.tensor([[0.1, 0.2], [0.8, 0.3], [0.4, 0.9]], dtype=torch.float64).reshape(3, 2, 1, 1)
    noise = torch.randn((600, 2, 1, 1), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    begin = three.repeat(200, 1, 1, 1) + sde.std(1.0) * noise
    score = score_of(EmpiricalDenoiser(2 * three - 1), sde)
    way = flow(score, begin, sde)
    found = torch.bincount((way.images[:, None] - three).flatten(2).square().sum(2).argmin(1), minlength=3)
    assert ((found - 200).abs() < 4 * math.sqrt(600 * 2 / 9)).all()
    skewed = torch.bincount(
        (flow(score, begin + 2.0, sde).images[:, None] - three).flatten(2).square().sum(2).argmin(1), minlength=3
    )
    assert ((skewed - 200).abs() > 4 * math.sqrt(600 * 2 / 9)).any()


def test_it_is_the_flow_of_the_other_samplers() -> None:
    """For a mixture, against the solver in variance-exploding coordinates, from the same state to the same level."""
    sde = sdes.PowerVE(5.0)
    data = GaussianMixture([0.3, 0.7], torch.tensor([[-0.9, 0.2], [0.4, -0.6]], dtype=torch.float64), 0.04)
    draws = ImageDraws([generator(0, i) for i in range(8)], torch.device("cpu"))
    begin = start("prior", draws.normal((2, 1, 1)).double(), sde)
    levels = [2 * float(sde.std(1.0)), 2 * float(sde.std(1e-3))]
    there = samplers.make("ode", rtol=1e-8, atol=1e-8).sample(data, levels, start=2 * begin - 1, draws=draws)
    here = flow(score_of(data, sde), begin, sde, rtol=1e-8, atol=1e-8).images
    assert (2 * here - 1 - there).abs().max() < 1e-5  # 100 steps of 1e-8, which the flow may stretch apart

    def halved(u: Tensor, t: Tensor) -> Tensor:
        """Without the chain rule's 2."""
        return score_of(data, sde)(u, t) / 2

    wrong = flow(halved, begin, sde, rtol=1e-8, atol=1e-8).images
    assert (2 * wrong - 1 - there).abs().max() > 1e-2


# --- tolerance, starts, failures -------------------------------------------------------------------------------


def test_an_image_meets_its_tolerance_beside_easy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image with a way to go beside 99 that are where they belong: the same steps as if it were alone."""
    sde, truth = sdes.PowerVE(25.0), images(100)
    begin = truth.clone()
    begin[0] = start("prior", normal(1), sde)[0]

    def error(rows: int) -> tuple[float, int]:
        way = flow(exact(truth[:rows], sde), begin[:rows], sde, tweedie=False, rtol=1e-6, atol=1e-6)
        return rms(way.images[:1] - closed_form(truth[:1], begin[:1], sde, 1e-3)), way.evaluations

    (alone, steps), (beside, as_many) = error(1), error(100)
    assert as_many == steps and beside == pytest.approx(alone, rel=1e-6)
    monkeypatch.setattr(integrate, "worst_rms", lambda x: x.square().mean().sqrt())  # the usual norm, over the batch
    assert error(100)[0] > 2 * alone


def test_the_starts() -> None:
    sde, truth, noise = sdes.PowerVE(5.0), images(), normal()
    torch.testing.assert_close(start("normal", noise, sde), noise)
    torch.testing.assert_close(start("prior", noise, sde), math.sqrt(24 / (2 * math.log(5))) * noise)
    torch.testing.assert_close(start("truth", noise, sde, truth), 0.4 * 5 * noise + 0.6 * truth)
    torch.testing.assert_close(start("truth", noise, sde, truth, 0.65), 0.35 * 5 * noise + 0.65 * truth)
    with pytest.raises(ValueError, match="needs the true images"):
        start("truth", noise, sde)
    with pytest.raises(ValueError, match="'uniform' is unknown; known are normal, prior, truth"):
        start("uniform", noise, sde)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_passed_on(value: float) -> None:
    sde, truth = sdes.PowerVE(5.0), images()
    right = exact(truth, sde)
    for when in (2.0, 0.5, 1.0001e-3):  # from the start, on the way, in the last step alone
        with pytest.raises(RunError, match="check the network"):
            flow(lambda u, t, when=when: right(u, t) if t[0] > when else value * u, start("prior", normal(), sde), sde)


def test_impossible_ends() -> None:
    for settings in ({"t_end": 0.0}, {"t_end": 1.0}, {"num_frames": 1}):
        with pytest.raises(ValueError, match="expected a time between 0 and 1, and 2 or more"):
            flow(lambda u, t: u, normal(), sdes.PowerVE(), **settings)  # type: ignore[arg-type]


# --- what it is compared with ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta_min", "beta_max", "alpha_bar", "root"),
    [
        (1e-4, 0.02, 4.0e-5, 0.006),
        (1e-4, 0.008, 0.017, 0.13),
        (5e-4, 0.004, 0.105, 0.32),
        (5e-4, 0.001, 0.47, 0.69),
        (1e-4, 0.002, 0.35, 0.59),
    ],
)
def test_what_is_left_of_the_image_at_the_end_of_the_published_tables(
    beta_min: float, beta_max: float, alpha_bar: float, root: float
) -> None:
    """Of 1000 steps; to the two digits that are printed. Little is left of the image only in the first of them."""
    table = make_adapter("vp", nn.Identity(), beta_min=beta_min, beta_max=beta_max).table
    left = 1 / (1 + float(table[-1]) ** 2)
    product = math.prod(1 - (beta_min + (beta_max - beta_min) * i / 999) for i in range(1000))
    assert left == pytest.approx(product, rel=1e-10)
    assert left == pytest.approx(alpha_bar, rel=0.03) and math.sqrt(left) == pytest.approx(root, rel=0.1)


class ExactEpsilon(nn.Module):
    """The noise in ``z = sqrt(alpha_bar) u0 + sqrt(1 - alpha_bar) n`` at a timestep of the table."""

    def __init__(self, truth: Tensor) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        alpha_bar = torch.linspace(1 - 1e-4, 1 - 0.02, 1000, dtype=torch.float64).cumprod(0)
        left = alpha_bar[t.round().long()][:, None, None, None]
        return (z - left.sqrt() * self.truth) / (1 - left).sqrt()


def test_an_exact_epsilon_finds_the_image_in_one_step() -> None:
    truth = 2 * images(1) - 1
    denoiser, draws = make_adapter("vp", ExactEpsilon(truth)), ImageDraws([generator(0)], torch.device("cpu"))
    for timestep in (999, 500, 0):
        sigma = float(denoiser.table[timestep])
        x = truth + sigma * normal(1)
        for name in ("ddim", "ddpm_small"):
            found = samplers.make(name).sample(denoiser, [sigma], start=x, draws=draws)
            assert (found - truth).abs().max() < 1e-11 * (1 + sigma)  # rounding of x
        off = make_adapter("vp", ExactEpsilon(truth), beta_max=0.021)  # a network of another table
        assert timestep == 0 or (off(x, sigma) - truth).abs().max() > 1e-3


def test_ddim_is_deterministic_and_ddpm_is_not() -> None:
    """With a network that is not exact, in 20 steps: eta = 0 does not look at the draws."""
    denoiser = make_adapter("vp", _Sine())
    levels = [float(denoiser.table[i]) for i in range(999, -1, -50)]
    begin = levels[0] * normal()

    def made(name: str, seed: int, **settings: Any) -> Tensor:
        draws = ImageDraws([generator(seed, i) for i in range(2)], torch.device("cpu"))
        return samplers.make(name, **settings).sample(denoiser, levels, start=begin, draws=draws)

    assert torch.equal(made("ddim", 0), made("ddim", 1))
    for name, settings in (("ddim", {"eta": 1.0}), ("ddpm_small", {})):
        assert (made(name, 0, **settings) - made(name, 1, **settings)).abs().max() > 1e-2


class _Sine(nn.Module):
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * z)
