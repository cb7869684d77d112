"""The sampler predictor_corrector: known walks in other words, its law on a Gaussian, and the law of its draws.

On a Gaussian every step but those of langevin, whose length is random, is affine in the state and in the draws: the law
of the end is computed from the sampler itself by unit draws, and must be that of the recursion written out here, which
must approach the exact answer with more steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from posterior_tools import PRIOR, SHAPE, SIZE, Law, NextLevel, Script, check_law, error, gaussian, must_fail, normal
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, InputError, samplers
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.rng import StepNoise, generator
from randomwalk.samplers import schedules
from randomwalk.samplers.predictor_corrector import PredictorCorrector
from score_sde import correctors, predictors, sdes

SIGMA_MIN, SIGMA_MAX = 1e-3, 20.0
SDES: dict[str, dict[str, Any]] = {name: {"name": name} for name in sdes.SDES}
SDES["ve"]["sigma_min"] = SIGMA_MIN
START = Law(PRIOR.mean, PRIOR.covariance + SIGMA_MAX**2 * torch.eye(SIZE, dtype=torch.float64))
EVERY_SDE = pytest.mark.parametrize("sde", SDES)
EVERY_PREDICTOR = pytest.mark.parametrize("predictor", predictors.PREDICTORS)


def make(sde: str = "vp", **settings: Any) -> PredictorCorrector:
    """The sampler, without a corrector unless one is named."""
    return PredictorCorrector(sde=SDES[sde], **{"corrector": "none", **settings})


def levels(num: int) -> Tensor:
    return schedules.make("karras", num, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)


# ------------------------------------------------------------------------------------------- known walks in other words


@pytest.mark.parametrize(
    ("walk", "sde", "settings"),
    [
        (("ve_reverse_diffusion", {}), "ve", {"predictor": "reverse_diffusion"}),
        (("ve_reverse_diffusion", {}), "edm", {"predictor": "reverse_diffusion"}),
        (("probability_flow", {}), "ve", {"predictor": "reverse_diffusion", "probability_flow": True}),
        (("ddpm_small", {}), "ve", {"predictor": "ancestral"}),
        (("ddpm_small", {}), "edm", {"predictor": "ancestral"}),
        (("ddpm_small", {}), "sub_vp", {"predictor": "ancestral"}),
        (("ddpm_large", {}), "vp", {"predictor": "ancestral"}),
        (("ddpm_large", {}), "ou", {"predictor": "ancestral"}),
        *((("ddim", {}), sde, {"predictor": "ancestral", "probability_flow": True}) for sde in SDES),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0] if isinstance(value, tuple) else "",
)
def test_it_contains_the_named_walks(walk: tuple[str, dict[str, Any]], sde: str, settings: dict[str, Any]) -> None:
    """Path by path, with the same draws: the coordinates of the SDE change nothing there."""
    name, own = walk
    x, draws, sigmas = SIGMA_MAX * normal(3, *SHAPE, seed=1), normal(20, 3, *SHAPE, seed=2), levels(12)
    prior = GaussianMixture([0.4, 0.6], normal(2, *SHAPE, seed=3), 0.2)
    ends, paths = [], []
    for sampler in (make(sde, **settings), samplers.make(name, **own)):
        path: list[Tensor] = []
        ends.append(
            sampler.sample(
                prior,
                sigmas,
                start=x,
                draws=StepNoise(lambda k, x: draws[k]),
                callback=lambda k, x, s, path=path: path.append(x.clone()),
            )
        )
        paths.append(torch.stack(path))
    # All steps of both are the same function of the state in float64; the largest states are 20.
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-9, atol=1e-9)
    assert torch.equal(paths[0][-1], ends[0])


def test_score_sdes_algorithm() -> None:
    """Algorithm 5 of the publication for VP, langevin before reverse diffusion, written out for one image."""
    prior, sigmas, snr = gaussian(PRIOR), levels(8).tolist(), 0.16
    x, draws = SIGMA_MAX * normal(1, *SHAPE, seed=1), normal(100, 1, *SHAPE, seed=2)
    z, used = x / math.sqrt(1 + sigmas[0] ** 2), iter(draws)
    for k, sigma in enumerate(sigmas):
        alpha_bar, next_alpha_bar = (1 / (1 + s**2) for s in (sigma, [*sigmas, 0.0][k + 1]))
        alpha = alpha_bar / next_alpha_bar

        def score(z: Tensor, alpha_bar: float = alpha_bar, sigma: float = sigma) -> Tensor:
            return prior.score(z / math.sqrt(alpha_bar), sigma) / math.sqrt(alpha_bar)

        for _ in range(2):
            grad, n = score(z), next(used)
            epsilon = 2 * alpha * (snr * n.norm() / grad.norm()) ** 2
            z = z + epsilon * grad + (2 * epsilon).sqrt() * n
        z = (2 - math.sqrt(alpha)) * z + (1 - alpha) * score(z)
        if k + 1 < len(sigmas):
            z = z + math.sqrt(1 - alpha) * next(used)
    sampler = PredictorCorrector(sde={"name": "vp"}, corrector_steps=2, snr=snr)
    end = sampler.sample(prior, sigmas, start=x, draws=StepNoise(lambda k, x: draws[k]))
    torch.testing.assert_close(end, z, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- law on a Gaussian


def recursion(sampler: PredictorCorrector, sigmas: Tensor) -> Law:
    """Law of the end on the Gaussian prior, along each principal axis of it, in the coordinates of the SDE."""
    eigenvalues, Q = torch.linalg.eigh(PRIOR.covariance)
    sde, flow = sampler.clock, sampler.probability_flow
    table = [*((x.t, x.a, x.s) for x in (sampler.table(sigmas.tolist())[k] for k in range(len(sigmas)))), (0, 1, 0)]
    centre = Q.T @ PRIOR.mean
    m, V = table[0][1] * centre, table[0][1] ** 2 * (eigenvalues + sigmas[0] ** 2)
    for (t, a, s), (t_, a_, s_) in itertools.pairwise(table):
        H = 1 / (a**2 * eigenvalues + s**2)  # score(z) = -H (z - a centre)
        if sampler.corrector == "annealed_langevin":
            tau = 2 * (a / a_) ** 2 * (sampler.snr * s) ** 2
            kept = (1 - tau * H) ** sampler.corrector_steps
            m = a * centre + kept * (m - a * centre)
            V = kept**2 * V + 2 * tau * (1 - kept**2) / (tau * H * (2 - tau * H))
        added = s**2 - (a / a_) ** 2 * s_**2  # variance that one step of the exact chain adds
        if sampler.predictor == "euler_maruyama" or (sampler.predictor, sampler.sde.name) == (
            "reverse_diffusion",
            "sub_vp",
        ):
            g2 = sde.diffusion(t) ** 2 * (t - t_)
            keep, pull, spread = 1 + sde.rate(t) / 2 * (t - t_), g2 * (0.5 if flow else 1), g2
        elif sampler.predictor == "reverse_diffusion":
            keep, pull, spread = 2 - a / a_, added * (0.5 if flow else 1), added
        elif sampler.predictor == "ancestral":
            keep, pull = a_ / a, a_ / a * (s * (s - a / a_ * s_) if flow else added)
            spread = added if sampler.sde.name in ("vp", "ou") else added * s_**2 / s**2
        else:
            keep, pull, spread = a_ / a, 0 * a, 0 * a
        m, V = keep * m - pull * H * (m - a * centre), (keep - pull * H) ** 2 * V
        if not flow and s_ > 0:
            V = V + spread
    return Law(Q @ m, (Q * V) @ Q.T)


def dissect(sampler: PredictorCorrector, sigmas: Tensor, denoiser: Denoiser | None = None) -> Law:
    """Law of the end on the Gaussian prior from the sampler itself, without sampling error: by its response to the
    start and to every draw."""
    per_level = sampler.corrections + (sampler.predictor != "none" and not sampler.probability_flow)
    total = SIZE * (1 + per_level * len(sigmas))
    script = torch.cat([torch.zeros(1, total, dtype=torch.float64), torch.eye(total, dtype=torch.float64)])
    x = START.mean + script[:, :SIZE] @ torch.linalg.cholesky(START.covariance).T
    draws = Script(script[:, SIZE:])
    end = sampler.sample(denoiser or gaussian(PRIOR), sigmas, start=x.reshape(-1, *SHAPE), draws=draws).flatten(1)
    response = end[1:] - end[0]
    return Law(end[0], response.T @ response)


CORRECTED = pytest.mark.parametrize("corrector", ["none", "annealed_langevin"])


@EVERY_SDE
@EVERY_PREDICTOR
@CORRECTED
def test_the_law_approaches_that_of_the_data(sde: str, predictor: str, corrector: str) -> None:
    """First order: four times the levels leave a quarter of the error; half is required, since with a corrector, and
    where two errors of first order nearly cancel, the numbers of levels are not yet large."""
    sampler = make(sde, predictor=predictor, corrector=corrector)
    check_law(dissect(sampler, levels(8)), recursion(sampler, levels(8)))
    first, last = (error(recursion(sampler, levels(num)), PRIOR) for num in (100, 400))
    assert last < 0.5 * first and last < 0.03


@EVERY_SDE
@EVERY_PREDICTOR
def test_the_flow_approaches_the_data(sde: str, predictor: str) -> None:
    sampler = make(sde, predictor=predictor, probability_flow=True)
    check_law(dissect(sampler, levels(8)), recursion(sampler, levels(8)))
    first, last = (error(recursion(sampler, levels(num)), PRIOR) for num in (100, 400))
    assert last < 0.3 * first and last < 0.08


@EVERY_SDE
def test_langevin_steps_alone_approach_the_data(sde: str) -> None:
    sampler = make(sde, predictor="none", corrector="annealed_langevin", corrector_steps=20)
    few = make(sde, predictor="none", corrector="annealed_langevin", corrector_steps=2)
    check_law(dissect(few, levels(8)), recursion(few, levels(8)))
    first, last = (error(recursion(sampler, levels(num)), PRIOR) for num in (100, 400))
    assert last < 0.3 * first and last < 0.04


def test_euler_maruyama_of_ve_leaves_the_noise_of_its_lowest_level() -> None:
    sampler = PredictorCorrector(sde={"name": "ve", "sigma_min": 0.3}, predictor="euler_maruyama", corrector="none")
    sigmas = schedules.make("geometric", 1000, sigma_min=0.3, sigma_max=SIGMA_MAX)
    noisy = Law(PRIOR.mean, PRIOR.covariance + 0.3**2 * torch.eye(SIZE, dtype=torch.float64))
    law = recursion(sampler, sigmas)
    assert error(law, noisy) < 0.01 and error(law, PRIOR) > 0.3
    check_law(dissect(sampler, sigmas[:6]), recursion(sampler, sigmas[:6]))


def mutate(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    """A mistake that the sampler could make."""
    correct, euler = correctors.annealed_langevin, predictors.reverse_diffusion

    def half(score: Tensor, z: Tensor, noise: Tensor, *rest: Any) -> predictors.Step:
        mean, std = correct(score, z, noise, *rest)
        return predictors.Step(mean, std / math.sqrt(2))

    def no_alpha(score: Tensor, z: Tensor, noise: Tensor, level: Any, below: Any, *rest: Any) -> predictors.Step:
        return correct(score, z, noise, level, level, *rest)

    def half_score(sde: Any, score: Tensor, *rest: Any) -> predictors.Step:
        return euler(sde, score / 2, *rest)

    if mutation == "half the score":
        monkeypatch.setitem(predictors.PREDICTORS, "reverse_diffusion", half_score)
    elif mutation != "sigma' for sigma":
        wrong = half if mutation == "no sqrt(2)" else no_alpha
        monkeypatch.setitem(correctors.CORRECTORS, "annealed_langevin", wrong)


@pytest.mark.parametrize("mutation", ["no sqrt(2)", "no alpha", "half the score", "sigma' for sigma"])
def test_a_wrong_sampler_has_another_law(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, sigmas = make("vp", corrector="annealed_langevin"), levels(8)
    expected = recursion(sampler, sigmas)
    check_law(dissect(sampler, sigmas), expected)
    mutate(monkeypatch, mutation)
    prior = gaussian(PRIOR)
    denoiser = NextLevel(prior, sigmas) if mutation == "sigma' for sigma" else prior
    must_fail(check_law, dissect(sampler, sigmas, denoiser), expected)


# --------------------------------------------------------------------------------- langevin, whose steps are not affine


def draws_of(seed: int) -> Callable[[int, Tensor], Tensor]:
    source = torch.Generator().manual_seed(seed)
    return lambda k, x: torch.randn(x.shape, generator=source, dtype=x.dtype)


PIXELS, VARIANCE, IMAGES = 3 * 16 * 16, 0.5, 150


def variance_of_langevin(sigmas: Tensor, snr: float) -> float:
    """Variance of the end by VP's reverse diffusion with langevin, of equal pixels, where these are many.

    With the variance V of the state and W of p_t the score has the norm ``sqrt(d V) / W``: so long is the step.
    """
    s2 = (1 / (1 + sigmas**2)).tolist()
    V = s2[0] * (VARIANCE + float(sigmas[0]) ** 2)
    for k, (alpha_bar, below) in enumerate(zip(s2, [*s2[1:], 1.0], strict=True)):
        alpha, W = alpha_bar / below, alpha_bar * VARIANCE + 1 - alpha_bar
        tau = 2 * alpha * snr**2 * W**2 / V
        V = (1 - tau / W) ** 2 * V + 2 * tau
        V = (2 - math.sqrt(alpha) - (1 - alpha) / W) ** 2 * V + (1 - alpha if k + 1 < len(s2) else 0)
    return V


def images(norms: str, snr: float = 0.16, denoiser: Denoiser | None = None) -> Tensor:
    """Ends of the walks of 150 images, in units of the data."""
    prior = GaussianMixture([1.0], torch.full((1, 3, 16, 16), 0.2, dtype=torch.float64), VARIANCE)
    sigmas = levels(30)
    x = prior.sample(IMAGES, generator(1)) + SIGMA_MAX * normal(IMAGES, 3, 16, 16, seed=3)
    sampler = PredictorCorrector(sde={"name": "vp"}, snr=snr, norms=norms)
    end = sampler.sample(NextLevel(prior, sigmas) if denoiser else prior, sigmas, start=x, draws=StepNoise(draws_of(4)))
    return (end - 0.2) / math.sqrt(variance_of_langevin(sigmas, snr))


def check_images(z: Tensor) -> None:
    """Unit normal, within five standard errors and what a finite number d of pixels does: ``(1 + 2 / d)^2``."""
    num = z.numel()
    assert abs(float(z.mean())) < 5 / math.sqrt(num)
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / num) + (1 + 2 / PIXELS) ** 2 - 1


@pytest.mark.parametrize("norms", correctors.NORMS)
def test_langevin_has_the_expected_law_on_images(norms: str) -> None:
    check_images(images(norms))


def test_the_error_of_langevin_falls_with_its_steps() -> None:
    """Levels do not remove it, where the corrector has the last word: its own steps must be short. At most
    ``1 / (1 - snr^2)``, which the predictor's first order comes on top of."""
    off = [variance_of_langevin(levels(num), snr) / VARIANCE - 1 for num, snr in ((400, 0.16), (1600, 0.16))]
    assert 0.02 < off[1] < 0.16**2 / (1 - 0.16**2) + 0.002 and abs(off[0] - off[1]) < 0.005
    assert abs(variance_of_langevin(levels(1600), 0.04) / VARIANCE - 1) < 0.005


def test_wrong_langevin_steps_have_another_law(monkeypatch: pytest.MonkeyPatch) -> None:
    must_fail(lambda z, _: check_images(z), images("sample", denoiser=Denoiser()), None)  # sigma' for sigma

    def half(*arguments: Any) -> predictors.Step:
        mean, std = correctors.langevin(*arguments)
        return predictors.Step(mean, std / math.sqrt(2))

    monkeypatch.setitem(correctors.CORRECTORS, "langevin", half)
    must_fail(lambda z, _: check_images(z), images("sample"), None)


def test_langevin_in_few_dimensions_is_off_as_stated() -> None:
    """By its norms, at one level: the variance settles at ``(1 + 2 / d)^2`` of what it should be for norms of each
    sample, and at 1 for means over the batch. (So in eight dimensions do not take it.)"""
    clean = sdes.Level.clean()
    for norms, expected in (("sample", (1 + 2 / 8) ** 2), ("batch", 1.0)):
        z, noise = normal(1500, 8, seed=5), draws_of(6)
        for k in range(300):
            draw = noise(k, z)
            z = correctors.langevin(-z, z, draw, clean, clean, 0.1, norms).draw(draw)
        # Five standard errors of 12,000 squares, and 1 / (1 - snr^2) for the length of the steps.
        assert abs(float(z.square().mean()) / expected - 1) < 5 * math.sqrt(2 / z.numel()) + 0.1**2


def test_two_modes_are_reached() -> None:
    """Sub-VP with annealed Langevin on a mixture in the plane: shares, means and spreads of the modes."""
    prior = GaussianMixture([0.3, 0.7], torch.tensor([[-1.5, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.09)
    num = 6_000
    sigmas = schedules.make("karras", 100, sigma_min=SIGMA_MIN, sigma_max=10.0)
    x = prior.sample(num, generator(1)) + 10 * normal(num, 2, seed=3)
    sampler = make("sub_vp", corrector="annealed_langevin")
    left = (end := sampler.sample(prior, sigmas, start=x, draws=StepNoise(draws_of(4))))[:, 0] < -0.4
    # 100 levels and Langevin's own steps leave some percent; the rest is of the draws.
    assert abs(float(left.double().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / num) + 0.01
    for rows, centre in ((left, [-1.5, 0.0]), (~left, [1.0, 0.5])):
        z = (end[rows] - torch.tensor(centre, dtype=torch.float64)) / 0.3
        assert (z.mean(0).abs() < 5 / math.sqrt(len(z)) + 0.02).all()
        assert (z.square().mean(0) - 1).abs().max() < 5 * math.sqrt(2 / len(z)) + 0.04


# -------------------------------------------------------------------------------------------------- as a sampler


@pytest.mark.parametrize("norms", correctors.NORMS)
def test_an_image_does_not_depend_on_those_beside_it(norms: str) -> None:
    """But with norms of the batch it does."""
    prior, sigmas = gaussian(PRIOR), levels(6)
    x, draws = SIGMA_MAX * normal(4, *SHAPE, seed=1), normal(20, 4, *SHAPE, seed=2)
    sampler = PredictorCorrector(sde=SDES["sub_vp"], norms=norms)
    whole = sampler.sample(prior, sigmas, start=x, draws=StepNoise(lambda k, x: draws[k]))
    alone = sampler.sample(prior, sigmas, start=x[1:2], draws=StepNoise(lambda k, x: draws[k, 1:2]))
    difference = float((alone - whole[1:2]).abs().max())
    assert difference < 1e-12 if norms == "sample" else difference > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"predictor": "ancestral"},
        {"corrector": "langevin"},
        {"corrector": "annealed_langevin", "corrector_steps": 3},
        {"predictor": "none", "corrector": "langevin", "corrector_steps": 2},
        {"probability_flow": True},
    ],
)
def test_it_costs_what_it_says(settings: dict[str, Any]) -> None:
    sampler, counting, calls = make(**settings), CountingDenoiser(gaussian(PRIOR)), []
    sigmas = levels(5).tolist()
    sampler.sample(
        counting, sigmas, start=normal(2, *SHAPE, seed=1), callback=lambda k, x, sigma: calls.append((k, sigma))
    )
    assert counting.evaluations == sampler.num_evaluations(5)
    assert calls == list(enumerate(sigmas)) and len(calls) == sampler.num_steps(5)


@EVERY_SDE
def test_single_precision_follows_double(sde: str) -> None:
    """12 levels down to 1e-3, in float32: states of size 20 and scores of size 1000 are rounded to 7 digits."""
    x, draws, prior = SIGMA_MAX * normal(3, *SHAPE, seed=1), normal(50, 3, *SHAPE, seed=2), gaussian(PRIOR)
    sampler = make(sde, corrector="langevin")
    double = sampler.sample(prior, levels(12), start=x, draws=StepNoise(lambda k, x: draws[k]))
    single = sampler.sample(prior, levels(12), start=x.float(), draws=StepNoise(lambda k, x: draws[k].float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sde": {"name": "cosine"}}, "sde.name: found 'cosine'; .*allowed: one of .*ou, .*vp"),
        ({"sde": {"name": "ve", "beta_min": 1}}, "sde.beta_min: unknown key"),
        ({"sde": {}}, "sde.name: missing"),
        (
            {"predictor": "heun"},
            "predictor: found 'heun'; allowed: one of euler_maruyama, reverse_diffusion, ancestral",
        ),
        ({"corrector": "ald"}, "corrector: found 'ald'; allowed: one of langevin, annealed_langevin, none"),
        ({"norms": "image"}, "norms: found 'image'; .*allowed: one of sample, batch"),
        ({"snr": 0.0}, "snr: found 0.0; allowed: a number above 0"),
        ({"corrector_steps": 0}, "corrector_steps: found 0; allowed: a whole number of at least 1"),
        ({"corrector_steps": 1.5}, "corrector_steps: found 1.5; allowed: a whole number"),
        ({"predictor": "none", "corrector": "none"}, "corrector: found none beside predictor: none"),
        ({"predictor": "none", "probability_flow": True}, "probability_flow: is for a predictor"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        samplers.make("predictor_corrector", **{"sde": {"name": "vp"}, **settings})


def test_levels_below_those_of_the_sde_are_refused() -> None:
    with pytest.raises(InputError, match=r"no noise level below 0\.001, but the schedule goes down to 0\.0005"):
        make("ve").sample(gaussian(PRIOR), [1.0, 5e-4], start=normal(1, *SHAPE, seed=1))
    make("ve").sample(gaussian(PRIOR), [1.0, SIGMA_MIN * (1 - 1e-7)], start=normal(1, *SHAPE, seed=1))  # by rounding
