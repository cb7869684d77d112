"""The SDEs against recorded ones, and against the integrals of their own coefficients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde import sdes
from score_sde.sdes import SDE, Level
from score_sde.times import ContinuousTime, DiscreteTime

REFERENCE = Path(__file__).parents[1] / "reference"
CONFIG = json.loads((REFERENCE / "sde_config.json").read_text())
# Against a recorded float32 number: its own rounding, a few of them where it is a product.
FLOAT32 = 1e-5
# Between two float64 computations: rounding of exponents up to 20, and of differences of them.
FLOAT64 = 1e-12

TAGS: dict[str, SDE] = {
    "vp": sdes.make("vp", beta_min=CONFIG["vp"]["beta_min"], beta_max=CONFIG["vp"]["beta_max"]),
    "subvp": sdes.make("sub_vp", beta_min=CONFIG["subvp"]["beta_min"], beta_max=CONFIG["subvp"]["beta_max"]),
    "ve348": sdes.make("ve", sigma_min=CONFIG["ve348"]["sigma_min"], sigma_max=CONFIG["ve348"]["sigma_max"]),
    "ve50": sdes.make("ve", sigma_min=CONFIG["ve50"]["sigma_min"], sigma_max=CONFIG["ve50"]["sigma_max"]),
}
ALL: dict[str, SDE] = {name: sdes.make(name) for name in sdes.SDES}
EVERY = pytest.mark.parametrize("name", ALL)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(REFERENCE / "sde_marginals.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within the tolerance relative to the largest number of each row."""
    actual, expected = actual.double().reshape(len(expected), -1), expected.double().reshape(len(expected), -1)
    scale = expected.abs().amax(1, keepdim=True)
    assert ((actual - expected).abs() <= tolerance * scale).all(), ((actual - expected).abs() / scale).max()


def table_step(sde: SDE, num: int, t: Tensor) -> tuple[Level, Level]:
    """Level and the one below, of the recorded discretisation: the index is ``t (num - 1)``, truncated."""
    index = (t * (num - 1) / sde.T).long()  # in float32, as there
    levels, clean = sde.levels(num), Level.clean()
    pairs = zip(fields(levels), fields(clean), strict=True)
    return levels[index], Level(*(torch.where(index > 0, one[index - 1], end) for one, end in pairs))


def fields(level: Level) -> tuple[Tensor, Tensor, Tensor]:
    return level.t, level.a, level.s


# ----------------------------------------------------------------------------------------------- recorded numbers


@pytest.mark.parametrize("tag", TAGS)
def test_marginals_are_the_recorded_ones(tag: str, recorded: dict[str, Tensor]) -> None:
    sde, x, t = TAGS[tag], recorded["x"], recorded["t"].double()
    mean, std = sde.marginal(x.double(), t)
    close(mean, recorded[f"{tag}_mean"], FLOAT32)
    close(mean, recorded[f"{tag}_mean_f64"], FLOAT64)
    # The float64 record subtracts an exponential from 1: at t = 1e-5, where 1e-6 is left of it, ten digits are right
    # (and of sub-VP, which has no square root, as many).
    close(std, recorded[f"{tag}_std_f64"], 1e-10)
    # In float32 the same subtraction leaves two digits at t = 1e-5 and four at 1e-3 (VE subtracts nothing).
    trusted = (t > 0.02) | torch.tensor(tag.startswith("ve"))
    close(std[trusted], recorded[f"{tag}_std"][trusted], FLOAT32)


@pytest.mark.parametrize("tag", TAGS)
def test_drift_and_diffusion_are_the_recorded_ones(tag: str, recorded: dict[str, Tensor]) -> None:
    sde, x, t = TAGS[tag], recorded["x"], recorded["t"].double()
    close(sde.drift(x, t), recorded[f"{tag}_drift"], FLOAT32)
    trusted = (t > 0.02) | torch.tensor(tag != "subvp")  # 1 - exp(-2B) in float32, see above
    close(sde.diffusion(t)[trusted], recorded[f"{tag}_diffusion"][trusted], FLOAT32)
    close(sde.prior_log_prob(recorded["logp_z"].double()), recorded[f"{tag}_prior_logp"], FLOAT32)


@pytest.mark.parametrize("tag", TAGS)
def test_forward_steps_are_the_recorded_ones(tag: str, recorded: dict[str, Tensor]) -> None:
    sde, x, t = TAGS[tag], recorded["x"], recorded["t"]
    num = CONFIG[tag]["N"]
    if tag == "subvp":  # it has no table there: Euler with dt = 1 / N at t itself; a and s are not asked for
        level, nan = sde.level(t.double()), torch.full((len(t),), math.nan, dtype=torch.float64)
        below = Level(level.t - 1 / num, nan, nan)
    else:
        level, below = table_step(sde, num, t)
    f, G = sde.discretize(x, level, below)
    # VP's f = sqrt(1 - beta) x - x is recorded in float32, which leaves an error of two roundings of x.
    rounding = 2 * torch.finfo(torch.float32).eps * x.abs()
    expected = recorded[f"{tag}_discrete_f"]
    assert ((f - expected).abs() <= FLOAT32 * expected.abs() + (rounding if tag == "vp" else 0)).all()
    trusted = (t > 0.02) | torch.tensor(tag != "subvp")
    close(G[trusted], recorded[f"{tag}_discrete_G"][trusted], FLOAT32)


def test_tables_are_the_recorded_ones(recorded: dict[str, Tensor]) -> None:
    levels = TAGS["vp"].levels(1000)
    close(levels.a**2, recorded["vp_alphas_cumprod"], FLOAT32)
    close(levels.a**2 + levels.s**2, torch.ones(1000), FLOAT64)
    ratio, added = sdes.transition(levels[1:], levels[:-1])
    close(added, recorded["vp_discrete_betas"][1:], FLOAT32)
    close(1 - ratio**2, added, 1e-11)  # a beta of 1e-4 beside 1: four digits less than float64 has
    for tag in ("ve348", "ve50"):
        close(TAGS[tag].levels(CONFIG[tag]["N"]).sigma, recorded[f"{tag}_discrete_sigmas"], FLOAT32)


def test_ornstein_uhlenbeck_is_the_recorded_one(recorded: dict[str, Tensor]) -> None:
    sde = sdes.make("ou", end_time=CONFIG["ou"]["T"])
    x, t = recorded["ou_x"], recorded["ou_t"].double()
    mean, std = sde.marginal(x, t)
    assert sde.T == 1
    for actual, key in ((mean, "mean"), (sde.drift(x, t), "drift")):
        close(actual, recorded[f"ou_{key}"], FLOAT32)
    for actual, key in ((std, "std"), (sde.diffusion(t), "diffusion")):
        # sqrt(1 - exp(-t)) in float32 has four digits at t = 1e-3; the row t = 0 is exact.
        rows = (t == 0) | (t > 0.02)
        close(actual[rows, None].expand(-1, x.shape[1]), recorded[f"ou_{key}"][rows], FLOAT32)


# ------------------------------------------------------------------------------- the coefficients among themselves


def times_of(sde: SDE, num: int = 9) -> Tensor:
    """Times of the whole range, from 1e-5 T to T, even in their logarithm."""
    return sde.T * 10 ** torch.linspace(-5, 0, num, dtype=torch.float64)


# 200 steps of a method of order 4 over exponents of about 10: (10 / 200)^4, and 9e-7 is the worst that was measured.
RUNGE_KUTTA = 6e-6


def runge_kutta(slope: Callable[[Tensor, Tensor], Tensor], y: Tensor, times: Tensor) -> Tensor:
    """dy/dt = slope(y, t) from the first time to the last, by the classical method of order 4."""
    for t, h in zip(times[:-1], times.diff(), strict=True):
        k1 = slope(y, t)
        k2 = slope(y + h / 2 * k1, t + h / 2)
        k3 = slope(y + h / 2 * k2, t + h / 2)
        k4 = slope(y + h * k3, t + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def mean_and_variance_from_coefficients(sde: SDE, end: float, steps: int = 250) -> Tensor:
    """Mean and variance of z_T given x0 = 1, from the linear drift f and the diffusion g alone.

    They solve ``dm/dt = f(m, t)`` and ``dV/dt = 2 f(V, t) + g^2``.
    """
    start = sde.std(0.0) ** 2  # sigma_min^2 of VE, else 0

    def slope(y: Tensor, t: Tensor) -> Tensor:
        return torch.stack([sde.drift(y[0], t), 2 * sde.drift(y[1], t) + sde.diffusion(t) ** 2])

    times = end * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2
    return runge_kutta(slope, torch.stack([torch.ones_like(start), start]), times)


@EVERY
def test_time_is_the_inverse_of_sigma(name: str) -> None:
    sde = ALL[name]
    t = times_of(sde)
    close(sde.sigma(sde.time(sde.sigma(t))), sde.sigma(t), FLOAT64)
    # VE knows ln sigma with 16 digits: t as much of T, not of itself.
    assert ((sde.time(sde.sigma(t)) - t).abs() <= FLOAT64 * (sde.T if name == "ve" else t)).all()
    assert (sde.sigma(t).diff() > 0).all()


@EVERY
def test_marginals_follow_from_drift_and_diffusion(name: str) -> None:
    sde = ALL[name]
    for t in (0.1 * sde.T, sde.T):
        mean, variance = mean_and_variance_from_coefficients(sde, t)
        torch.testing.assert_close(sde.mean_coefficient(t), mean, rtol=RUNGE_KUTTA, atol=0)
        torch.testing.assert_close(sde.std(t), variance.sqrt(), rtol=RUNGE_KUTTA, atol=0)


def half_variance(base: float, start: float, end: float) -> float:
    """``1/2 int g^2`` with g = base^t, by quadrature: Simpson's rule of 2000 intervals, error (2 ln base / 2000)^4."""
    t = np.linspace(start, end, 2001)
    weights = np.where(np.arange(2001) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1
    return float((weights * base ** (2 * t)).sum() * (end - start) / 6000 / 2)


BASES = (1.0, 1.0 + 1e-12, 1.0 + 1e-6, 2.0, 5.0, 25.0)


@pytest.mark.parametrize("base", BASES)
def test_the_variance_of_a_power_is_the_integral(base: float) -> None:
    """To ten digits, near t = 0 and base 1 too, and additive over intervals; the published std(1)."""
    sde = sdes.PowerVE(base)
    for t in (1e-12, 1e-3, 0.3, 1.0):
        assert float(sde.variance(t)) / 2 == pytest.approx(half_variance(base, 0.0, t), rel=1e-10, abs=0)
        assert float(sde.time(sde.std(t))) == pytest.approx(t, rel=FLOAT64, abs=0)
    parts = float(sde.variance(0.3)) + 2 * half_variance(base, 0.3, 1.0)
    assert float(sde.variance(1.0)) == pytest.approx(parts, rel=1e-10, abs=0)
    assert float(sde.std(0.0)) == float(sde.time(0.0)) == 0
    published = {2.0: 1.471, 5.0: 2.731, 25.0: 9.845}.get(base, 1.0)
    assert float(sde.std(1.0)) == sde.prior_std == pytest.approx(published, abs=5e-4)
    assert float(sde.std(1e-3)) == pytest.approx(0.0316, abs=1e-4)


def test_the_textbook_formula_of_a_power_would_cancel() -> None:
    textbook = (25 ** (2 * 1e-12) - 1) / (2 * math.log(25))
    assert textbook / 2 != pytest.approx(half_variance(25.0, 0.0, 1e-12), rel=1e-6, abs=0)


class SquareRoot(sdes.SubVP):
    """Sub-VP with the standard deviation of VP, as if its formula had the square root."""

    def std(self, t: float | Tensor) -> Tensor:
        return sdes.VP.std(self, t)


class WithoutTwo(sdes.PowerVE):
    """g = base^t, with ``(base^(2t) - 1) / ln base``."""

    def variance(self, t: float | Tensor) -> Tensor:
        return 2 * super().variance(t)


class Doubled(sdes.VP):
    """VP whose a is exp(-B), not exp(-B / 2)."""

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return 2 * super().log_mean_coefficient(t)


@pytest.mark.parametrize("wrong", [SquareRoot(), Doubled(), WithoutTwo()], ids=["square root", "doubled", "two"])
def test_wrong_marginals_do_not_follow(wrong: SDE) -> None:
    mean, variance = mean_and_variance_from_coefficients(wrong, 0.5)
    off = max(abs(float(wrong.mean_coefficient(0.5) / mean - 1)), abs(float(wrong.std(0.5) / variance.sqrt() - 1)))
    assert off > 0.01


@EVERY
def test_reverse_and_flow_keep_the_law_of_a_gaussian(name: str) -> None:
    """On Normal(m, v) both drifts are linear in z; so the moments of their ends are those of the marginal."""
    sde, mean, variance = ALL[name], 0.7, 0.3

    def score(z: Tensor, t: Tensor) -> Tensor:
        level = sde.level(t)
        return -(z - level.a * mean) / (level.a**2 * variance + level.s**2)

    start, end = sde.level(sde.T), sde.level(0.01 * sde.T)
    ends = [math.log(float(level.sigma)) for level in (start, end)]
    times = sde.time(torch.linspace(*ends, 200, dtype=torch.float64).exp())
    exact = torch.stack([end.a * mean, end.a**2 * variance + end.s**2])
    for process in (sde.reverse(score), sde.probability_flow(score)):

        def slope(y: Tensor, t: Tensor, process: sdes.Reverse = process) -> Tensor:
            drift = process.drift(torch.tensor([0.0, 1.0], dtype=torch.float64), t)
            # Backwards in time what is added is -g^2 dt, dt < 0.
            spread = 2 * (drift[1] - drift[0]) * y[1] - process.diffusion(t) ** 2
            return torch.stack([drift[0] + (drift[1] - drift[0]) * y[0], spread])

        law = torch.stack([start.a * mean, start.a**2 * variance + start.s**2])
        torch.testing.assert_close(runge_kutta(slope, law, times), exact, rtol=RUNGE_KUTTA, atol=0)


@EVERY
def test_discrete_chains_have_the_marginals_of_their_table(name: str) -> None:
    """Step by step from the data to the last level; sub-VP's is Euler's, and nears it with more levels."""

    def end(num: int) -> tuple[float, float]:
        levels = ALL[name].levels(num)
        mean, variance, below = torch.ones(1, dtype=torch.float64), torch.zeros((), dtype=torch.float64), Level.clean()
        for level in levels:
            factor = 1 + ALL[name].discretize(torch.ones(1, dtype=torch.float64), level, below)[0]
            G = ALL[name].discretize(mean, level, below)[1]
            mean, variance, below = factor * mean, factor[0] ** 2 * variance + G**2, level
        return abs(float(mean / levels.a[-1]) - 1), abs(float(variance.sqrt() / levels.s[-1]) - 1)

    if name == "sub_vp":
        (m1, v1), (m2, v2) = end(500), end(1000)
        assert m2 < 0.55 * m1 and v2 < 0.55 * v1 and m2 < 0.03  # first order: halved
    else:
        assert max(end(300)) < 1e-10


@EVERY
def test_prior_is_the_law_at_the_end_of_time(name: str) -> None:
    sde = ALL[name]
    # What is left of data of size 1: a(T) = 0.0066, of OU too. VE and EDM forget nothing, beside sigma_max; nor does
    # power_ve, whose noise at T is 9.8 with base 25.
    assert abs(float(sde.std(sde.T)) / sde.prior_std - 1) < 1e-4
    assert float(sde.mean_coefficient(sde.T)) / sde.prior_std < (0.11 if name == "power_ve" else 0.021)
    z = sde.sample_prior(torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(2, 3, 2, 2))
    assert float(z.max()) == 2 * sde.prior_std
    exact = torch.distributions.Normal(z.new_zeros(()), sde.prior_std).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(sde.prior_log_prob(z), exact, rtol=FLOAT64, atol=0)


def test_levels_are_indexed_and_end_in_the_data() -> None:
    levels = ALL["vp"].levels(25)
    assert len(levels) == 25 and levels[1:3].t.shape == (2,)
    assert float(levels[3].sigma) == float(levels.sigma[3])
    assert fields(Level.clean()) == (0.0, 1.0, 0.0) and float(Level.clean().sigma) == 0
    with pytest.raises(
        ValueError, match=r"20 levels: .* needs more than 20"
    ):  # the last beta would be 1: nothing is left
        ALL["vp"].levels(20)


# -------------------------------------------------------------------------------------------------- time of networks


@EVERY
def test_a_continuous_label_is_999_times_the_share_of_time(name: str) -> None:
    sde = ALL[name]
    times, t = ContinuousTime(sde), times_of(sde)
    torch.testing.assert_close(times.label(sde.sigma(t)) / 999, t / sde.T, rtol=FLOAT64, atol=FLOAT64)
    assert times.sigma_max == float(sde.sigma(sde.T)) and times.sigma_min == float(sde.sigma(1e-5 * sde.T))
    torch.testing.assert_close(times.levels(torch.tensor([0.0, 1.0])), sde.sigma(sde.T * torch.tensor([1e-5, 1.0])))


@EVERY
def test_a_discrete_label_is_the_index_in_the_table(name: str) -> None:
    table = ALL[name].levels(1000).sigma
    times = DiscreteTime(table)
    assert torch.equal(times.label(table), torch.arange(1000, dtype=torch.float64))  # exactly, at every level
    between = times.label(table[:-1] + 0.25 * table.diff())
    torch.testing.assert_close(between, torch.arange(999) + 0.25, rtol=1e-9, atol=1e-9, check_dtype=False)
    assert times.label(torch.tensor([0.5 * table[0], 2 * table[-1]])).tolist() == [0, 999]
    assert torch.equal(times.levels(torch.tensor([0.0, 0.9999, 1.0])), table[[0, 999, 999]])


def test_labels_of_ve_count_the_other_way_than_in_score_sde() -> None:
    """There label 0 is sigma_max: ``round((T - t)(N - 1))``. Here it is sigma_min, as for VP."""
    sde = TAGS["ve50"]
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    there = ((sde.T - t) * 99).round()
    here = DiscreteTime(sde.levels(100).sigma).label(sde.sigma(t))
    torch.testing.assert_close(here, 99 - there, rtol=0, atol=1e-9)


@pytest.mark.parametrize("table", [[1.0], [1.0, 1.0], [2.0, 1.0]])
def test_an_impossible_table_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        DiscreteTime(torch.tensor(table))


def test_the_table_of_vp_is_its_closed_form_at_both_ends() -> None:
    """Index i is the time ``i / (N - 1)``, as in the published code, and ``beta`` there ``beta(t) / N``."""
    vp, num = sdes.VP(0.1, 20.0), 50
    levels = vp.levels(num)
    close(levels.t, torch.arange(num, dtype=torch.float64) / (num - 1), FLOAT64)
    beta = 1 - (levels.a / torch.cat([torch.ones(1, dtype=torch.float64), levels.a[:-1]])) ** 2
    close(beta, (0.1 + 19.9 * levels.t) / num, FLOAT64)
    close(levels.a**2 + levels.s**2, torch.ones(num, dtype=torch.float64), FLOAT64)


@EVERY
def test_the_quantiles_of_a_continuous_time_begin_and_end_at_its_range(name: str) -> None:
    time = ContinuousTime(ALL[name], start=0.01)
    ends = time.levels(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([time.sigma_min, time.sigma_max], rel=1e-12)


def test_a_level_outside_the_table_has_the_label_of_the_nearest_end() -> None:
    time = DiscreteTime(torch.tensor([0.1, 0.3, 1.0]))
    assert time.label(torch.tensor([0.01, 0.1, 0.2, 1.0, 5.0])).tolist() == pytest.approx([0, 0, 0.5, 2, 2], abs=1e-6)


def test_a_chain_of_even_times_begins_above_the_data() -> None:
    assert sdes.OU(10.0).levels(4).t.tolist() == [2.5, 5.0, 7.5, 10.0]
