"""Single steps of predictors and correctors: against recorded ones, and against what they are meant to be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde import sdes
from score_sde.correctors import CORRECTORS, annealed_langevin, langevin
from score_sde.predictors import PREDICTORS, Step, ancestral, euler_maruyama, reverse_diffusion, unchanged
from score_sde.sdes import SDE, Level

REFERENCE = Path(__file__).parents[1] / "reference"
CONFIG = json.loads((REFERENCE / "sde_config.json").read_text())
SDES: dict[str, SDE] = {
    "vp": sdes.make("vp", beta_min=CONFIG["vp"]["beta_min"], beta_max=CONFIG["vp"]["beta_max"]),
    "subvp": sdes.make("sub_vp", beta_min=CONFIG["subvp"]["beta_min"], beta_max=CONFIG["subvp"]["beta_max"]),
    "ve348": sdes.make("ve", sigma_min=CONFIG["ve348"]["sigma_min"], sigma_max=CONFIG["ve348"]["sigma_max"]),
    "ve50": sdes.make("ve", sigma_min=CONFIG["ve50"]["sigma_min"], sigma_max=CONFIG["ve50"]["sigma_max"]),
}
NAMES = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
}
RAISED = {("subvp", "ancestral_sampling"), *((("subvp", f"{c}_n{n}")) for c in ("langevin", "ald") for n in (1, 2))}
ALL: dict[str, SDE] = {name: sdes.make(name) for name in sdes.SDES}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(REFERENCE / "sde_steps.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def levels_of(tag: str, t: Tensor, euler: bool = False) -> tuple[Level, Level]:
    """The level at each t of the record and the one below; a and s are NaN where a step must not look at them.

    Euler's steps are of length 1 / N from t itself; the others begin at the index ``t (N - 1)``, truncated.
    """
    sde, num, nan = SDES[tag], CONFIG[tag]["N"], torch.full((len(t),), torch.nan, dtype=torch.float64)
    if euler:
        return Level(t.double(), nan, nan), Level(t.double() - 1 / num, nan, nan)
    index = (t * (num - 1) / sde.T).long()  # in float32, as there
    table, clean = sde.levels(num), Level.clean()
    below = [torch.where(index > 0, getattr(table, key)[index - 1], getattr(clean, key)) for key in ("t", "a", "s")]
    return table[index], Level(*below)


def close(actual: Tensor, expected: Tensor) -> None:
    """Float32 on both sides: 1e-5 of the largest number of each image."""
    off, scale = (actual - expected).abs().flatten(1).amax(1), expected.abs().flatten(1).amax(1)
    assert (off <= 1e-5 * scale).all(), off / scale


@pytest.mark.parametrize("tag", SDES)
@pytest.mark.parametrize("step", [*NAMES, "reverse_diffusion_ode"])
def test_predictors_make_the_recorded_steps(step: str, tag: str, recorded: dict[str, Tensor]) -> None:
    key, flow = f"{tag}_{step}", step.endswith("_ode")
    assert (f"{key}_x" in recorded) != ((tag, step) in RAISED)
    if f"{key}_x" not in recorded:
        return
    predict = PREDICTORS[NAMES[step.removesuffix("_ode")]]
    level, below = levels_of(tag, recorded["t"], predict is euler_maruyama or tag == "subvp")
    if tag == "subvp":  # Euler: dt = 1 / N
        below = replace(below, t=level.t - 1 / CONFIG[tag]["N"])
    found = predict(SDES[tag], recorded[f"{tag}_score"], recorded[f"{tag}_x"], level, below, flow)
    close(found.mean, recorded[f"{key}_x_mean"])
    close(found.draw(recorded[f"{key}_noise"][0]), recorded[f"{key}_x"])
    assert flow == (not found.std.any())


def score_of(recorded: dict[str, Tensor], tag: str, z: Tensor) -> Tensor:
    """The recorded score is that of a Gaussian of independent pixels; here in float64."""
    level = SDES[tag].level(recorded["t"].double())
    k, std = level.a.reshape(-1, 1, 1, 1), level.s.reshape(-1, 1, 1, 1)
    m, s = recorded["prior_mean"].double(), recorded["prior_std"].double()
    return (-(z - k * m) / (k**2 * s**2 + std**2)).float()


@pytest.mark.parametrize("tag", SDES)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_correctors_make_the_recorded_steps(corrector: str, steps: int, tag: str, recorded: dict[str, Tensor]) -> None:
    """With norms of the batch, as there; its annealed corrector takes alpha from the table, and s at t itself."""
    key, snr = f"{tag}_{corrector}_n{steps}", float(recorded["snr"])
    assert (f"{key}_x" in recorded) != ((tag, f"{corrector}_n{steps}") in RAISED)
    if f"{key}_x" not in recorded:
        return
    level, below = levels_of(tag, recorded["t"])
    level = replace(level, s=SDES[tag].std(recorded["t"].double()))
    z = recorded[f"{tag}_x"]
    correct = {"langevin": langevin, "ald": annealed_langevin}[corrector]
    for noise in recorded[f"{key}_noise"]:
        step = correct(score_of(recorded, tag, z), z, noise, level, below, snr, "batch")
        z = step.draw(noise)
    close(step.mean, recorded[f"{key}_x_mean"])
    close(z, recorded[f"{key}_x"])


# --------------------------------------------------------------------------------------- what the steps are meant to be


def pair(name: str) -> tuple[SDE, Level, Level]:
    """Two levels of each SDE, one a quarter above the other in sigma."""
    sde = ALL[name]
    return sde, sde.level(sde.time(1.0)), sde.level(sde.time(0.8))


EVERY = pytest.mark.parametrize("name", ALL)
Z = torch.randn((6, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = torch.randn((6, 3, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@EVERY
def test_ancestral_steps_are_exact_where_the_data_are_one_point(name: str) -> None:
    """z' and z given x0 are jointly normal, ``z = r z' + sqrt(V) n``: regression of z' on z."""
    sde, level, below = pair(name)
    x0, slope = 0.7, level.a / below.a * below.s**2 / level.s**2
    score = -(Z - level.a * x0) / level.s**2
    step = ancestral(sde, score, Z, level, below)
    torch.testing.assert_close(step.mean, below.a * x0 + slope * (Z - level.a * x0), rtol=1e-12, atol=1e-12)
    if not sde.preserves_variance:
        torch.testing.assert_close(step.std**2, below.s**2 - slope**2 * level.s**2, rtol=1e-11, atol=0)
    flow = ancestral(sde, score, Z, level, below, flow=True)
    torch.testing.assert_close(flow.mean, below.a * x0 + below.s / level.s * (Z - level.a * x0), rtol=1e-12, atol=1e-12)
    assert not flow.std.any()


@pytest.mark.parametrize("name", ["vp", "ou"])
def test_large_variances_are_exact_where_the_data_are_normal(name: str) -> None:
    sde, level, below = pair(name)
    ratio, step = level.a / below.a, ancestral(sde, -Z, Z, level, below)
    torch.testing.assert_close(step.mean, ratio * Z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.std**2, 1 - ratio**2, rtol=1e-11, atol=0)


@EVERY
@pytest.mark.parametrize("flow", [False, True], ids=["reverse", "flow"])
def test_short_steps_of_all_predictors_are_steps_of_the_reverse_process(flow: bool, name: str) -> None:
    """With dt -> 0, (mean - z) / dt converges to the drift and std^2 / dt to g^2, at first order."""
    sde = ALL[name]

    def score(z: Tensor, t: Tensor) -> Tensor:
        return torch.sin(z) - z

    process = (sde.probability_flow if flow else sde.reverse)(score)
    for predict in PREDICTORS.values():
        errors = []
        for dt in (2e-4 * sde.T, 1e-4 * sde.T):
            level, below = sde.level(0.4 * sde.T), sde.level(0.4 * sde.T - dt)
            step = predict(sde, score(Z, level.t), Z, level, below, flow)
            drift, added = process.drift(Z, level.t), process.diffusion(level.t) ** 2
            off = ((Z - step.mean) / dt - drift).abs().max() / drift.abs().max()
            errors.append(max(float(off), float((step.std**2 / dt - added).abs() / sde.diffusion(level.t) ** 2)))
        assert errors[1] < 0.01 and (errors[1] < 0.6 * errors[0] or errors[1] < 1e-10)


def test_the_reverse_chain_of_sub_vp_is_eulers() -> None:
    sde, level, below = pair("sub_vp")
    for one, other in zip(*(p(sde, -Z, Z, level, below) for p in (euler_maruyama, reverse_diffusion)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@EVERY
def test_without_a_predictor_x_stays(name: str) -> None:
    _, level, below = pair(name)
    torch.testing.assert_close(unchanged(Z, level, below).draw(NOISE) / below.a, Z / level.a, rtol=1e-14, atol=0)


@EVERY
@pytest.mark.parametrize("corrector", CORRECTORS)
def test_corrector_steps_are_langevins(corrector: str, name: str) -> None:
    """One length for score and noise: the mean moves by tau score, and the noise has the variance 2 tau.

    (A half of the variance in place of 2 tau would be a dropped sqrt(2).)
    """
    _, level, below = pair(name)
    score = -Z / (level.a**2 + level.s**2)
    step = CORRECTORS[corrector](score, Z, NOISE, level, below, 0.16, "sample")
    size = NOISE.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1) if corrector == "langevin" else level.s
    tau = 2 * (level.a / below.a) ** 2 * (0.16 * size) ** 2
    torch.testing.assert_close(step.std, (2 * tau).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(step.mean, Z + tau.reshape(-1, 1, 1, 1) * score, rtol=1e-12, atol=1e-12)


def law_after_many(snr: float, variance: float) -> float:
    """Variance of Normal(0, variance) after Langevin steps of the length ``2 (snr s)^2``, at s^2 = variance."""
    level = Level.clean()
    level = replace(level, s=torch.tensor(variance, dtype=torch.float64).sqrt())
    one = torch.ones((1, 1), dtype=torch.float64)
    step = annealed_langevin(-one / variance, one, one, level, Level.clean(), snr)
    return float(step.std**2 / (1 - step.mean**2))


def test_the_variance_that_langevin_steps_settle_at_is_as_stated() -> None:
    assert law_after_many(0.16, 0.3) == pytest.approx(0.3 / (1 - 0.16**2), rel=1e-12)


@pytest.mark.parametrize("corrector", CORRECTORS)
def test_a_sample_does_not_depend_on_those_beside_it(corrector: str) -> None:
    _, level, below = pair("vp")
    score = -Z * torch.linspace(0.5, 3, 6, dtype=torch.float64).reshape(-1, 1, 1, 1)
    whole = CORRECTORS[corrector](score, Z, NOISE, level, below, 0.16, "sample").draw(NOISE)
    for i in range(6):
        one = slice(i, i + 1)
        alone = CORRECTORS[corrector](score[one], Z[one], NOISE[one], level, below, 0.16, "sample").draw(NOISE[one])
        assert torch.equal(alone, whole[one])


def test_with_norms_of_the_batch_it_does() -> None:
    _, level, below = pair("vp")
    whole = langevin(-Z, Z, NOISE, level, below, norms="batch").draw(NOISE)
    other = langevin(-Z[:3], Z[:3], NOISE[:3], level, below, norms="batch").draw(NOISE[:3])
    assert float((other - whole[:3]).abs().max()) > 1e-3
    alone = langevin(-Z[:1], Z[:1], NOISE[:1], level, below, norms="batch").draw(NOISE[:1])
    torch.testing.assert_close(alone, langevin(-Z, Z, NOISE, level, below).draw(NOISE)[:1], rtol=1e-14, atol=0)


@EVERY
def test_levels_of_each_sample_are_those_of_all(name: str) -> None:
    """Levels ``[B]`` give each sample the step of its own level."""
    sde = ALL[name]
    above, lower = sde.level(sde.time(torch.tensor([2.0, 1.0]))), sde.level(sde.time(torch.tensor([1.5, 0.5])))
    for predict in PREDICTORS.values():
        both = predict(sde, -Z[:2], Z[:2], above, lower, False).draw(NOISE[:2])
        for i in range(2):
            alone: Step = predict(sde, -Z[i : i + 1], Z[i : i + 1], above[i], lower[i], False)
            torch.testing.assert_close(alone.draw(NOISE[i : i + 1]), both[i : i + 1], rtol=1e-12, atol=1e-12)
    for correct in CORRECTORS.values():
        both = correct(-Z[:2], Z[:2], NOISE[:2], above, lower, 0.16, "sample").draw(NOISE[:2])
        alone = correct(-Z[1:2], Z[1:2], NOISE[1:2], above[1], lower[1], 0.16, "sample")
        torch.testing.assert_close(alone.draw(NOISE[1:2]), both[1:2], rtol=1e-12, atol=1e-12)
