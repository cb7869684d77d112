"""The benchmarks on photographs: their images and degradations, and the methods that they compare."""

from __future__ import annotations

import math
import re
import sys
import types
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_benchmark_tools import PLAN, Shrink, alexnet, case, photograph
from support import (
    engine,
    perceptual,
    photo_baselines,
    photo_methods,
    photo_peers,
    photo_plan,
    photo_problems,
    photographs,
)
from support.photo_problems import Problem, make_problem

from randomwalk import operators
from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import generator

# --- photographs and degradations ------------------------------------------------------------------------------------


def test_images_are_cut_at_the_centre_to_multiples() -> None:
    x = torch.arange(11 * 9).reshape(1, 11, 9)
    assert torch.equal(photographs.cut(x, 5), x[:, 3:8, 2:7])
    assert photographs.cut(x, 0, 4).shape == (1, 8, 8) and torch.equal(photographs.cut(x, 0), x)
    assert photographs.cut(x, 10, 4).shape == (1, 8, 8)
    with pytest.raises(InputError, match="too small"):
        photographs.cut(x, 3, 4)
    assert photographs.spread(68, 4) == [0, 17, 34, 51] and photographs.spread(2, 5) == [0, 1]


def test_photographs_of_one_name_in_two_folders_are_two() -> None:
    keys = [replace(photograph(), name=name).key for name in ("a/1.png", "b/1.png", "b/1.jpg")]
    assert keys == ["validation/a/1.png", "validation/b/1.png", "validation/b/1.jpg"]


def test_the_draws_belong_to_the_photograph_and_not_to_the_others_of_a_run() -> None:
    law = case(10, name="inpainting", mask="random", missing=0.8)
    one, again = make_problem(law, photograph(3), 0), make_problem(replace(law, noise=2), photograph(3), 0)
    assert torch.equal(one.operator.mask, again.operator.mask)
    unit = [(p.y - p.operator(p.truth)) / p.noise.std for p in (one, again)]
    torch.testing.assert_close(*unit, atol=1e-4, rtol=0)
    others = (make_problem(law, photograph(4), 0), make_problem(law, replace(photograph(3), folder="set5"), 0))
    assert not any(torch.equal(one.operator.mask, other.operator.mask) for other in others)
    assert one.noise.std == pytest.approx(20 / 255)


def test_the_masks_of_text_and_boxes() -> None:
    text = photo_problems.text_mask(80, 120, generator(1), 18)
    assert text.shape == (80, 120) and set(text.unique().tolist()) == {0.0, 1.0}
    assert 0.1 < float((text == 0).float().mean()) < 0.4
    rows = (text == 0).any(1)
    assert rows[:27].any() and rows[-27:].any()  # a line in every 27 rows, from top to bottom
    assert (text == 0)[:, -18:].any()
    assert not torch.equal(text, photo_problems.text_mask(80, 120, generator(2), 18))
    one = photo_problems.boxes_mask(20, 30, generator(0), 1, 7)
    inside = (one == 0).nonzero()
    assert len(inside) == 49 and (inside.amax(0) - inside.amin(0)).tolist() == [6, 6]
    assert 49 < (photo_problems.boxes_mask(20, 30, generator(0), 4, 7) == 0).sum() <= 4 * 49
    with pytest.raises(InputError, match="do not fit 20x30"):
        photo_problems.boxes_mask(20, 30, generator(0), 1, 20)
    with pytest.raises(InputError, match=r"text: .*sise"):
        make_problem(case(name="inpainting", mask="text", sise=3), photograph(), 0)


# --- methods without a network ---------------------------------------------------------------------------------------


def test_total_variation_moves_two_halves_together() -> None:
    """Halves ``+a, -a`` of all colours: ``w TV = w sqrt(3) 2 (a - d) H``, so that ``3 H W d = 2 sqrt(3) w H``."""
    height, width, a = 6, 10, 0.5
    y = torch.full((1, 3, height, width), a)
    y[..., width // 2 :] = -a
    problem = Problem(operators.Identity(y.shape[1:]), GaussianNoise(0.1), y, y)
    x = photo_baselines.total_variation(problem, weight=3.0, iterations=2000)
    d = 2 * 0.3 / (math.sqrt(3) * width)
    torch.testing.assert_close(x, y - d * y.sign(), atol=1e-4, rtol=0)


def test_divergence_is_minus_the_adjoint_of_the_gradient() -> None:
    draws = torch.Generator().manual_seed(0)
    x, p = (torch.randn(*size, 2, 3, 5, 7, generator=draws, dtype=torch.float64) for size in ((), (2,)))
    left, right = (photo_baselines.gradient(x) * p).sum(), -(x * photo_baselines.divergence(p)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def exact(blur: Mapping[str, Any]) -> Problem:
    """A measurement with next to no noise."""
    return make_problem(case(1e-4, **blur), photograph(), 0)


BLURS = [
    {"name": "gaussian_blur", "std": 1.0},
    {"name": "motion_blur", "kernel_size": 5, "intensity": 0.3, "boundary": "circular"},
]


@pytest.mark.parametrize("blur", BLURS, ids=["reflecting", "circular"])
def test_deconvolutions_know_the_blur_and_its_border(blur: Mapping[str, Any]) -> None:
    problem = exact(blur)
    before = float(metrics.psnr(problem.y, problem.truth))
    few, many = (float(metrics.psnr(photo_baselines.richardson_lucy(problem, n), problem.truth)) for n in (5, 40))
    assert before < few < many
    assert float(metrics.psnr(photo_baselines.wiener(problem, 1e-6), problem.truth)) > 48


def test_every_case_has_its_classical_methods() -> None:
    cases = [c for c in PLAN.cases if not c.for_the_eye]
    names = {c.degradation: set(PLAN.candidates(c, network=False, libraries=())) for c in cases}
    blurs = {"the measurement itself", "Wiener filter", "Richardson-Lucy"}
    expected = {"inpainting": {"biharmonic"}, "super_resolution": {"bicubic interpolation"}, "blur": blurs}
    for name, titles in names.items():
        assert titles == {"total variation"} | next(of for part, of in expected.items() if part in name)
    for c in cases[::3]:
        problem = make_problem(c, photograph(side=48), 0)
        for title in names[c.degradation]:
            settings = photo_plan.quick(PLAN.candidates(c, network=False, libraries=())[title][0])
            x = photo_baselines.CLASSICAL[title](problem, **settings)
            assert x.shape == problem.truth.shape and x.abs().max() <= 1
            assert float(metrics.psnr(x, problem.truth)) > 14


def test_bm3d_is_given_pixels_and_noise_on_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def bm3d_rgb(pixels: np.ndarray, std: float) -> np.ndarray:
        seen.append((pixels, std))
        return pixels / 2

    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d_rgb=bm3d_rgb))
    assert photo_baselines.bm3d_missing() is None
    y = photograph().pixels[None]
    torch.testing.assert_close(photo_baselines.bm3d(y, 0.2), (y + 1) / 2 - 1)
    assert seen[0][1] == 0.1 and seen[0][0].shape == (32, 32, 3) and 0 <= seen[0][0].min() < seen[0][0].max() <= 1
    monkeypatch.setitem(sys.modules, "bm3d", None)
    assert "pip install bm3d" in (photo_baselines.bm3d_missing() or "")


def test_lpips_is_left_out_without_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = perceptual.default_alexnet()
    assert file.parent == tmp_path / "checkpoints"
    assert str(file) in (perceptual.lpips_missing(file) or "")
    file.parent.mkdir()
    file.touch()
    assert perceptual.lpips_missing(file) is None
    with pytest.raises(InputError, match="does not hold AlexNet's features"):
        perceptual.AlexNet(file)


def test_lpips_is_that_of_torchmetrics(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    path = alexnet(tmp_path)
    theirs = _NoTrainLpips(net="alex", pnet_rand=True)
    ours = perceptual.AlexNet(path).features.state_dict()
    for part in (getattr(theirs.net, f"slice{k}") for k in range(1, 6)):
        part.load_state_dict({name: ours[name] for name in part.state_dict()})
    x, y = (photograph(n, 64).pixels[None] for n in (0, 5))
    with torch.no_grad():
        assert perceptual.lpips(x, y, path) == pytest.approx(float(theirs(x, y)), rel=1e-4)
    assert perceptual.lpips(x, x, path) == 0
    assert perceptual.lpips(x, 3 * y, path) == perceptual.lpips(x, (3 * y).clamp(-1, 1), path)


def test_the_distance_of_patches_is_that_of_their_features(tmp_path: Path) -> None:
    """A response sees 51 pixels; the same set is at the distance 0, in any order, and more noise is farther away."""
    path = alexnet(tmp_path)
    images = [photograph(n, 96).pixels for n in range(3)]
    found = perceptual.deep_features(images, path)
    assert found.shape[1] == 192
    changed = images[0].clone()
    changed[:, 80:] += 0.5
    one, other = (perceptual.deep_features([x], path).reshape(11, 11, 192) for x in (images[0], changed))
    rows = (one != other).any(-1).any(-1).nonzero().flatten().tolist()
    assert rows == [r for r in range(11) if 8 * r + 32 >= 80]  # row r sees pixels 8 r - 18 to 8 r + 32
    assert perceptual.patch_distance(images, images[::-1], path) == pytest.approx(0, abs=1e-6)
    noisy = [x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in images]
    noisier = [x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in images]
    near, far = (perceptual.patch_distance(x, images, path) for x in (noisy, noisier))
    assert 0 < near < far


# --- methods with a network ------------------------------------------------------------------------------------------


SPLIT = [
    {"name": "inpainting", "mask": "boxes", "count": 2, "size": 8},
    {"name": "super_resolution", "factor": 2},
    {"name": "gaussian_blur", "std": 1.0, "boundary": "zero"},  # A 1 is not 1 at the border
]
DECOMPOSED = [*SPLIT, {"name": "motion_blur", "kernel_size": 5, "intensity": 0.3, "boundary": "circular"}]


@pytest.mark.parametrize("start", ["adjoint", "measurement"])
@pytest.mark.parametrize("operator", SPLIT, ids=lambda settings: settings["name"])
def test_dpir_is_half_quadratic_splitting(operator: Mapping[str, Any], start: str) -> None:
    """Against the iteration in our own units: data with ``gamma = (level / eta)^2 / lambda``, then the denoiser."""
    pytest.importorskip("deepinv.optim")
    problem = make_problem(case(10, **operator), photograph(), 0)
    settings = {"evaluations": 3, "first_level": 49, "strength": 0.3, "start": start}
    found, counter = photo_peers.restore("DPIR (deepinv)", settings, problem, Shrink(), 0)
    assert counter.evaluations == 3 and counter.vjps == 0
    ones = torch.ones_like(problem.truth)
    known = problem.operator(problem.y) if operator["name"] == "inpainting" else problem.y
    x = problem.operator.adjoint(known + problem.operator(ones)) - 1  # of [0, 1] pixels A^T y, in ours
    if start == "measurement":
        x = problem.operator.interpolated(problem.y)
    for level in np.geomspace(49, 10, 3) / 255:
        gamma = (level / (10 / 255)) ** 2 / 0.3
        x = Shrink()(problem.operator.proximal(x, problem.y, gamma**-0.5, 1.0), 2 * level)
    torch.testing.assert_close(found, x, atol=2e-5, rtol=0)


@pytest.mark.parametrize("operator", DECOMPOSED, ids=lambda settings: settings["name"])
def test_their_physics_are_our_operators(operator: Mapping[str, Any]) -> None:
    """Of pixels on [0, 1]: y is that of the clean image plus noise, and singular vectors are orthonormal."""
    pytest.importorskip("deepinv.physics")
    problem = make_problem(case(10, **operator), photograph(), 0)
    unit, u = photo_peers.UnitProblem(problem), (problem.truth + 1) / 2
    for physics in (unit.physics(), unit.physics(decomposed=True)):
        torch.testing.assert_close(physics.A(u), problem.operator(u), atol=1e-5, rtol=0)
        v = problem.operator(u).sin()
        torch.testing.assert_close(physics.A_adjoint(v), problem.operator.adjoint(v), atol=1e-5, rtol=0)
        residual = (unit.y - physics.A(u)).square().sum() / (problem.y - problem.operator(problem.truth)).square().sum()
        assert float(residual) <= 0.25 + 1e-4 and physics.noise_model.sigma == pytest.approx(10 / 255)
    torch.testing.assert_close(physics.V(physics.V_adjoint(u)), u, atol=1e-5, rtol=0)
    torch.testing.assert_close(physics.U(physics.U_adjoint(v)), v, atol=1e-5, rtol=0)


MASKED = {
    "DPIR (deepinv)": (0.0, 0.1),
    "DiffPIR (deepinv)": (1.0, 2.0),
    "DDRM (deepinv)": (0.3, 0.6),
    "DPS (deepinv)": (3.0, 12.0),
    "PiGDM (deepinv)": (0.7, 1.1),
    "DiffPIR (azula)": (2.0, 3.0),
    "PiGDM (azula)": (0.1, 0.3),
    "MMPS (azula)": (0.7, 1.1),
}
"""How far known pixels are from their posterior mean, in units of the noise: 1 for an exact sampler, 0 for an estimate
of the mean. Wrong units of y or of its noise would double or halve it, and move the missing pixels' mean."""


@pytest.mark.parametrize("title", list(PLAN.peers))
def test_peers_sample_gaussian_pixels(title: str) -> None:
    """Pixels from Normal(m, v), of which some are missing: those that sample leave Normal(m, v) there, by the exact
    denoiser, and DPIR leaves m."""
    pytest.importorskip(photo_peers.library_of(title) or "")
    problem = make_problem(case(10, name="inpainting", mask="boxes", count=2, size=8), photograph(), 0)
    known, eta = problem.operator.mask.expand_as(problem.truth) > 0, problem.noise.std
    settings, state = {**PLAN.peers[title][0], "evaluations": 100}, torch.get_rng_state()
    x, counter = photo_peers.restore(title, settings, problem, Shrink(), 3)
    assert torch.equal(torch.get_rng_state(), state)
    again, _ = photo_peers.restore(title, settings, problem, Shrink(), 3)
    assert torch.equal(again, x)
    products = {"DPS": 1, "PiGDM": 1, "MMPS": 2}.get(title.split()[0], 0)
    assert (counter.evaluations, counter.vjps) == (100, 100 * products)
    missing, mean = x[~known], 0.2 + (problem.y - 0.2) * 0.25 / (0.25 + eta**2)
    off = float((x - mean)[known].square().mean().sqrt()) / eta
    assert MASKED[title][0] <= off <= MASKED[title][1]
    std = 0.0 if "DPIR" in title else 0.5
    assert abs(float(missing.mean()) - 0.2) < 3 * std / math.sqrt(missing.numel()) + 1e-3
    if "DDRM" not in title:  # deepinv's draws the noise of real decompositions a factor sqrt(2) too small
        assert float(missing.std()) == pytest.approx(std, abs=3 * std / math.sqrt(2 * missing.numel()) + 1e-3)


def test_vector_jacobian_products_are_counted() -> None:
    unit = photo_peers.UnitRange(Shrink())
    x = photograph().pixels[None].requires_grad_()
    unit(x, torch.tensor(0.1)).sum().backward()
    torch.func.vjp(lambda z: unit(z, 0.1), x.detach())[1](torch.ones_like(x))
    assert (unit.counter.evaluations, unit.counter.vjps) == (2, 2)
    with torch.no_grad():
        unit(x, 0.1)
    assert (unit.counter.evaluations, unit.counter.vjps) == (3, 2)


def test_levels_above_the_range_of_the_network() -> None:
    """There the image is scaled down with the noise, whose level is then the highest."""
    x, peer = 50 * photograph().pixels[None], photo_peers.Peer(Shrink())
    torch.testing.assert_close(peer.denoised(x, 24.0), Shrink()(x / 2, 12.0))
    torch.testing.assert_close(peer.denoised(x, 1e-4), Shrink()(x, 0.005))


def test_azula_is_given_the_image_at_its_own_scale() -> None:
    """Its state is ``alpha (x + sigma / alpha n)``."""
    pytest.importorskip("azula.noise")
    x, t = photograph().pixels[None], torch.tensor(0.7)
    denoiser = photo_peers.azula_denoiser(photo_peers.Peer(Shrink()), (3, 32, 32), 0.085)
    alpha, sigma = denoiser.schedule(t)
    assert alpha < 0.4
    found = denoiser((alpha * x).flatten(1), t).mean
    torch.testing.assert_close(found, Shrink()(x, float(sigma / alpha)).flatten(1))


def test_the_walk_starts_from_the_measurement() -> None:
    photo = photograph()
    problem = make_problem(case(10, name="super_resolution", factor=2), photo, 0)
    given = Measurement(problem.operator, problem.noise, problem.y)
    settings = PLAN.walks[photo_plan.walk_of(12)]
    sampler, sigmas = engine.make_sampler("random_walk", settings)
    draws = photo.draws(0, 1)
    start = problem.operator.interpolated(problem.y) + float(sigmas[0]) * draws.normal((3, 32, 32))
    expected = sampler.sample(Shrink(), sigmas, given, start=start, draws=draws)
    found, _ = engine.sample("random_walk, 12", settings, Shrink(), given, 1, photo.draws(0, 1))
    torch.testing.assert_close(found[0], expected, atol=0, rtol=0)


@pytest.mark.parametrize("title", [photo_plan.DPIR, "total variation"])
def test_no_method_gives_an_image_that_is_not_finite(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its PSNR, NaN, would upset the choice of the best settings."""
    photo, broken = photograph(side=16), torch.full((1, 3, 16, 16), math.nan)
    counter = CountingDenoiser(Shrink())
    monkeypatch.setattr(photo_peers, "restore", lambda *_: (broken, counter))
    monkeypatch.setitem(photo_methods.CLASSICAL, "total variation", lambda _: broken)
    problem = make_problem(case(10, name="gaussian_blur", std=1.0), photo, 0)
    with pytest.raises(RunError, match=f"{re.escape(title)}: the restored image is not finite"):
        photo_methods.restore(title, {}, problem, Shrink(), photo.draws(0, 1))


@pytest.mark.parametrize("name", list(PLAN.samplers))
def test_the_samplers_cost_about_the_same(name: str) -> None:
    photo = photograph(side=16)
    problem = make_problem(case(10, name="gaussian_blur", std=1.0), photo, 0)
    settings = PLAN.samplers[name][-1]
    found, again = (photo_methods.restore(name, settings, problem, Shrink(), photo.draws(0, 1)) for _ in range(2))
    assert torch.equal(found.x, again.x) and found.x.shape == problem.truth.shape
    assert 36 <= found.evaluations + 2 * found.vjps <= 40
    assert float(metrics.psnr(found.x, problem.truth)) > 10


def test_every_candidate_can_be_made() -> None:
    tasks = [photo_problems.make_operator(c.operator, (3, 64, 64), generator(0)) for c in PLAN.cases[::2]]
    for name, tries in {**PLAN.samplers, **PLAN.samples}.items():
        assert name.split(",")[0] in POSTERIOR_NAMES
        for settings in tries:
            sampler, _ = engine.make_sampler(name, settings)
            for operator in tasks:
                y = torch.zeros(1, *operator.measurement_shape)
                sampler.check(Measurement(operator, GaussianNoise(10 * 2 / 255), y))
