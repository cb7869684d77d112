"""What training minimises: laws of the noise level, weights, and three ways to see the error of a denoiser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from config_examples import TRAIN, message_of
from objective_tools import COVARIANCE, NAMES, Linear, estimates, expectation
from torch import Tensor

from randomwalk.config import TrainConfig
from randomwalk.config.files import load_train_config
from randomwalk.config.objective import Objective
from randomwalk.denoisers.adapters import SDEDenoiser, VEDenoiser
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.errors import InputError
from randomwalk.training.levels import ContinuousLevels, TableLevels, log_normal, log_uniform, make_levels
from randomwalk.training.losses import ImplicitScoreMatching, Probes, squared_error
from randomwalk.training.objectives import make_loss, make_weight
from score_sde import sdes
from score_sde.mlp import TimeMLP

UNIFORM = torch.linspace(0.5 / 20_000, 1 - 0.5 / 20_000, 20_000, dtype=torch.float64)
SDES = ["ou", "vp", "sub_vp", "ve", "power_ve", "edm"]


def objective(**settings: object) -> Objective:
    return Objective.model_validate(settings)


def weighted(denoiser: NetworkDenoiser, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The default denoising loss at given noise levels."""
    weight = make_weight(Objective(), denoiser, make_levels(Objective(), denoiser))
    return weight(torch.full_like(sigma, 0.5), sigma) * squared_error(denoiser, x, noise, sigma)


def conv_denoiser(sde: str, prediction: str = "epsilon", time: str = "continuous") -> SDEDenoiser:
    """A denoiser whose network is a random convolution."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    return make_adapter("sde", lambda z, t: network(z), sde={"name": sde}, prediction=prediction, time=time)  # type: ignore[arg-type]


# --- value and gradient, without chance --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("d", "sigma"), [(2, 0.1), (2, 1.0), (3, 10.0)])
def test_value_at_the_exact_score_is_the_mean_squared_error(name: str, d: int, sigma: float) -> None:
    """``tr Cov[X | x] / d = tr(S sigma^2 (S + sigma^2 I)^-1) / d``, up to float64 rounding."""
    S, eye = torch.tensor(COVARIANCE[d], dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    exact = torch.linalg.inv(S + sigma**2 * eye)
    value = expectation(name, Linear(exact, torch.zeros(d).double()), S, sigma)
    assert value.item() == pytest.approx(sigma**2 * (S @ exact).trace().item() / d, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_of_any_linear_score(name: str) -> None:
    """Of ``s = -W x - b``: ``e = e_best + sigma^4 (tr((W - W*) C (W - W*)^T) + |b|^2) / d``, ``C = S + sigma^2 I``."""
    sigma, S = 0.7, torch.tensor(COVARIANCE[2], dtype=torch.float64)
    C = S + sigma**2 * torch.eye(2, dtype=torch.float64)
    best = torch.linalg.inv(C)
    W = torch.tensor([[0.9, -0.4], [0.2, 1.3]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    value = expectation(name, Linear(W, b), S, sigma)
    value.backward()
    off = (W - best).detach()
    excess = sigma**4 * ((off @ C @ off.T).trace() + b.square().sum()) / 2
    assert value.item() == pytest.approx((sigma**2 * (S @ best).trace() / 2 + excess).item(), rel=1e-10)
    torch.testing.assert_close(W.grad, sigma**4 * off @ C, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b.grad, sigma**4 * b.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_know_the_others(name: str) -> None:
    """Up to float64 rounding: a matrix product may sum in another order."""
    torch.manual_seed(0)
    denoiser = make_adapter("sde", TimeMLP(hidden=16, num_blocks=1).double(), sde={"name": "vp"})
    error, _ = estimates(2)[name]
    x, noise = torch.randn(2, 5, 2, 1, 1, dtype=torch.float64)
    sigma, probes = torch.rand(5, dtype=torch.float64) + 0.1, torch.randn(5, 4, 2, 1, 1, dtype=torch.float64)
    together = error(denoiser, x, noise, sigma, lambda shape: probes)
    for i in range(5):
        row = slice(i, i + 1)
        alone = error(denoiser, x[row], noise[row], sigma[row], lambda shape, row=row: probes[row])  # type: ignore[misc]
        torch.testing.assert_close(together[row], alone, rtol=1e-10, atol=1e-12)


def test_probes_have_unit_covariance() -> None:
    """Means of 20,000 products, of standard deviation at most sqrt(2): five standard errors are 0.05."""
    torch.manual_seed(0)
    for kind in ("rademacher", "gaussian"):
        e = Probes(kind, 2).draw(torch.zeros(10_000, 2, 1, 1), None)
        assert e.shape == (2, 10_000, 2, 1, 1)
        flat = e.reshape(-1, 2)
        torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(2), rtol=0, atol=0.05)
        assert (e.abs().unique().numel() == 1) == (kind == "rademacher")


# --- the usual losses, against their own formulas ----------------------------------------------------------------


def test_noise_level_laws_have_their_stated_distribution() -> None:
    network = torch.nn.Identity()
    vp, ve, edm = make_adapter("vp", network), VEDenoiser(network, 0.01, 50.0), make_adapter("edm", network)
    levels = make_levels(Objective(), vp)(UNIFORM)
    values, counts = torch.unique(levels, return_counts=True)
    assert torch.equal(values, vp.table) and counts.eq(20).all()
    log = make_levels(Objective(), ve)(UNIFORM).log()
    assert log.mean().item() == pytest.approx((math.log(0.02) + math.log(100)) / 2, abs=1e-9)
    assert log.std().item() == pytest.approx(math.log(5000) / math.sqrt(12), rel=1e-4)
    log = make_levels(Objective(), edm)(UNIFORM).log()
    assert log.mean().item() == pytest.approx(-1.2, abs=1e-6) and log.std().item() == pytest.approx(1.2, rel=1e-3)


def test_vp_loss_is_the_squared_error_of_epsilon() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    denoiser = make_adapter("vp", lambda z, t: network(z))  # type: ignore[arg-type]
    x, noise = torch.randn(2, 3, 2, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    alpha_bar = (1 / (1 + sigma**2))[:, None, None, None]
    z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
    expected = (noise - network(z)).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_ve_loss_is_denoising_score_matching_weighted_by_the_variance() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    denoiser = VEDenoiser(lambda u, s: network(u), 0.01, 50.0)  # type: ignore[arg-type]
    x, noise = torch.randn(2, 3, 1, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    s = (sigma / 2)[:, None, None, None]  # the network's pixels are in [0, 1]
    u = (x + 1) / 2 + s * noise
    expected = (s * network(u) + noise).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_edm_loss_is_the_unit_weighted_error_of_the_raw_network() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    denoiser = make_adapter("edm", lambda z, c: network(z))  # type: ignore[arg-type]
    x, noise = torch.randn(2, 2, 1, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.3, 5.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    s, d = sigma[:, None, None, None], 0.5
    noisy, total = x + s * noise, s**2 + d**2
    target = (x - d**2 / total * noisy) / (s * d / total.sqrt())
    expected = (network(noisy / total.sqrt()) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("levels", ["even_time", "logit_normal", None])
def test_flow_matching_is_the_template_with_another_law_and_weight(levels: str | None) -> None:
    """Loss and gradient of the squared velocity's error, ``||N - X - F((1 - t) X + t N, t)||^2``, t as published."""
    settings = {} if levels is None else {"levels": {"name": levels}}
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    denoiser = make_adapter("flow", lambda z, t: network(z) + t[:, None, None, None] / 999)  # type: ignore[arg-type]
    x, noise = torch.randn(2, 64, 2, 5, 5, dtype=torch.float64)
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    ours = make_loss(objective(**settings), denoiser)(denoiser, x, u, noise).mean()
    t = torch.sigmoid(torch.special.ndtri(u)) if levels == "logit_normal" else 0.001 + 0.998 * u
    t4 = t[:, None, None, None]
    output = network((1 - t4) * x + t4 * noise) + t4
    theirs = (noise - x - output).square().mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    same_gradients(ours, theirs, network, atol=1e-12)


def same_gradients(ours: Tensor, theirs: Tensor, network: torch.nn.Module, atol: float) -> None:
    found, expected = (torch.autograd.grad(loss, list(network.parameters())) for loss in (ours, theirs))
    for mine, published in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, published, rtol=1e-6, atol=atol)


def test_v_prediction_is_the_template_too() -> None:
    """Gradient of ``||alpha N - beta X - F||^2`` at uniform timesteps of a table."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    settings: dict[str, Any] = {"sde": {"name": "vp"}, "prediction": "v", "time": "discrete"}
    denoiser = make_adapter("sde", lambda z, t: network(z) + t[:, None, None, None] / 999, **settings)  # type: ignore[arg-type]
    x, noise = torch.randn(2, 64, 2, 5, 5, dtype=torch.float64)
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    ours = make_loss(Objective(), denoiser)(denoiser, x, u, noise).mean()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    index = (1000 * u).long()
    alpha_bar = (1 - beta).cumprod(0)[index][:, None, None, None]
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    theirs = (a * noise - b * x - (network(a * x + b * noise) + index[:, None, None, None] / 999)).square().mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    same_gradients(ours, theirs, network, atol=1e-9)


TARGETS = {
    "epsilon": lambda x, n, s: n,
    "x0": lambda x, n, s: x,
    "v": lambda x, n, s: (n - s * x) / (1 + s**2).sqrt(),
}


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "score"])
@pytest.mark.parametrize("time", ["continuous", "discrete"])
def test_own_weight_is_the_squared_error_of_what_the_network_predicts(prediction: str, time: str) -> None:
    """Of the score, weighted by the variance. float64; D - X loses two digits at sigma = 40."""
    denoiser = conv_denoiser("vp", prediction, time)
    x, noise = torch.randn(2, 3, 2, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    s = sigma[:, None, None, None]
    output = denoiser.predict(x + s * noise, sigma)
    if prediction == "score":
        std = s / (1 + s**2).sqrt()
        expected = (std * output + noise).square()
    else:
        expected = (TARGETS[prediction](x, noise, s) - output).square()
    torch.testing.assert_close(weighted(denoiser, x, noise, sigma), expected.flatten(1).mean(1), rtol=1e-9, atol=0)


# --- laws of the noise level -------------------------------------------------------------------------------------


def test_even_time_is_even_in_the_time_of_the_sde() -> None:
    for name in SDES:
        denoiser = conv_denoiser(name)
        levels = make_levels(Objective(), denoiser)
        share = denoiser.sde.time(levels(UNIFORM)) / denoiser.sde.T
        torch.testing.assert_close(share, 1e-5 + UNIFORM * (1 - 1e-5), rtol=1e-6, atol=1e-9)
        discrete = conv_denoiser(name, time="discrete")
        values, counts = torch.unique(make_levels(Objective(), discrete)(UNIFORM), return_counts=True)
        assert torch.equal(values, discrete.sde.levels(1000).sigma) and counts.eq(20).all()


def test_uniform_timestep_is_even_time_of_a_table() -> None:
    for denoiser in (make_adapter("vp", torch.nn.Identity()), conv_denoiser("sub_vp", time="discrete")):
        drawn = [
            make_levels(objective(levels={"name": n}), denoiser)(UNIFORM) for n in ("uniform_timestep", "even_time")
        ]
        assert torch.equal(*drawn)


def test_rate_is_the_derivative_of_the_law() -> None:
    """Central differences of step 1e-6: of relative error 1e-6 at these u, away from the ends."""
    u = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    laws = {name: make_levels(Objective(), conv_denoiser(name)) for name in SDES}
    laws |= {"log_normal": log_normal(-1.2, 1.2), "log_uniform": log_uniform(0.01, 50.0)}
    for name, levels in laws.items():
        assert isinstance(levels, ContinuousLevels)
        numeric = (levels(u + 1e-6).log() - levels(u - 1e-6).log()) / 1e-6
        torch.testing.assert_close(levels.rate(u), numeric, rtol=1e-6, atol=0, msg=name)
        assert levels.rate(u.float()).dtype == torch.float64


# --- the likelihood weight ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SDES)
def test_likelihood_weight_is_g_squared_in_the_coordinates_of_the_sde(name: str) -> None:
    """``w ||X - D||^2 = dt/du g(t)^2 ||score_z + N / s||^2``, row by row; up to float64 cancellation at small t."""
    denoiser = conv_denoiser(name)
    sde = denoiser.sde
    u = torch.linspace(0.001, 0.999, 7, dtype=torch.float64)
    x, noise = torch.randn(2, 7, 2, 4, 4, dtype=torch.float64)
    got = make_loss(objective(weight="likelihood"), denoiser)(denoiser, x, u, noise)
    level = sde.level(sde.T * (1e-5 + u * (1 - 1e-5)))
    z = sdes.broadcast(level.a, x) * x + sdes.broadcast(level.s, x) * noise
    score = denoiser.score(z / sdes.broadcast(level.a, x), level.sigma) / sdes.broadcast(level.a, x)
    error = (score + noise / sdes.broadcast(level.s, x)).square().flatten(1).mean(1)
    torch.testing.assert_close(got, sde.T * (1 - 1e-5) * sde.diffusion(level.t) ** 2 * error, rtol=1e-8, atol=0)


EIGENVALUES = torch.linalg.eigvalsh(torch.tensor(COVARIANCE[2], dtype=torch.float64))[:, None]


def expected_loss(weight: str, levels: ContinuousLevels | TableLevels, u: Tensor) -> float:
    """At the exact score: the mean over u of w times the mean squared error."""
    sigma = levels(u)
    w = make_weight(objective(weight=weight), Denoiser(), levels)(u, sigma)
    return float((w * (EIGENVALUES * sigma**2 / (EIGENVALUES + sigma**2)).mean(0)).mean())


def integral(low: float, high: float) -> float:
    """Of the mean squared error over sigma^4, in sigma^2: ``int l / (y (l + y)) dy = ln(y / (l + y))``."""
    at = [(y / (EIGENVALUES + y)).log().mean() for y in (low**2, high**2)]
    return float(at[1] - at[0])


@pytest.mark.parametrize("name", SDES)
def test_likelihood_loss_does_not_depend_on_the_law(name: str) -> None:
    """The midpoint rule on n = 1e6 errs by at most about ``(f'(1) - f'(0)) / (24 n^2)``; f is nowhere steeper than
    ``1 / (u + 1e-5)``, at u = 0, which makes 5e-4. Without the rate the same law misses."""
    denoiser = conv_denoiser(name)
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    expected = integral(denoiser.sigma_min, denoiser.sigma_max)
    even = make_levels(Objective(), denoiser)
    assert expected_loss("likelihood", even, u) == pytest.approx(expected, abs=1e-3)
    log = log_uniform(denoiser.sigma_min, denoiser.sigma_max)
    assert expected_loss("likelihood", log, u) == pytest.approx(expected, abs=1e-6)
    assert log.rate(u[::100_000]).std() < 1e-9  # importance sampling: the rate is the same everywhere
    assert abs(expected_loss("inverse_variance", even, u) - expected) > 0.1 * expected


@pytest.mark.parametrize("name", SDES)
def test_likelihood_loss_of_a_table_is_the_trapezoidal_rule(name: str) -> None:
    """Of a logistic function of ln sigma^2, whose second derivative is at most 0.0963."""
    table = sdes.make(name).levels(1000).sigma
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    bound = 0.0963 / 12 * float((2 * table.log().diff()).pow(3).sum())
    got = expected_loss("likelihood", TableLevels(table), u)
    assert got == pytest.approx(integral(float(table[0]), float(table[-1])), abs=bound + 1e-9)


# --- refusals ----------------------------------------------------------------------------------------------------


REFUSED = [
    (["objective.divergence=exact"], ["objective.divergence", "implicit_score_matching"]),
    (["objective.num_probes=2"], ["objective.num_probes", "denoising"]),
    (["objective.name=ssm"], ["objective.name", "'ssm'", "sliced_score_matching"]),
    (
        ["objective={name: implicit_score_matching, divergence: exact}"],
        ["objective.divergence", "1024 entries", "hutchinson", "at most 32"],
    ),
    (
        ["objective={name: implicit_score_matching, divergence: exact, probes: gaussian}"],
        ["objective.probes", "exact divergence needs none"],
    ),
    (["objective.name=sliced_score_matching", "compile=true"], ["compile", "differentiates twice"]),
    (["objective.name=sliced_score_matching", "network.use_checkpoint=true"], ["network.use_checkpoint", "twice"]),
    (["objective.levels.name=even_time", "denoiser={name: edm}"], ["objective.levels.name", "even_time", "log_normal"]),
    (
        ["objective.levels.name=uniform_timestep", "denoiser={name: sde, sde: {name: ve}}"],
        ["objective.levels.name", "continuous", "even_time"],
    ),
]


@pytest.mark.parametrize(("overrides", "parts"), REFUSED, ids=lambda v: v[0])
def test_settings_that_do_not_go_together_are_refused(overrides: list[str], parts: list[str], tmp_path: Path) -> None:
    def load(text: str, *more: str) -> TrainConfig:
        (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
        return load_train_config(tmp_path / "task.yaml", more)

    assert load(TRAIN, "objective={name: implicit_score_matching, probes: gaussian}").objective.num_probes is None
    message = message_of(load, TRAIN, *overrides)
    for part in parts:
        assert part in message, message


def test_what_a_denoiser_does_not_have_is_refused() -> None:
    even = objective(levels={"name": "even_time"})
    with pytest.raises(InputError, match="needs a denoiser with a time"):
        make_levels(even, make_adapter("ve", torch.nn.Identity()))
    with pytest.raises(InputError, match="uniform_timestep needs a table"):
        make_levels(objective(levels={"name": "uniform_timestep"}), conv_denoiser("ve"))
    with pytest.raises(InputError, match="log_uniform needs a range"):
        make_levels(objective(levels={"name": "log_uniform"}), Denoiser())
    with pytest.raises(InputError, match="each of the 50 values"):
        ImplicitScoreMatching(True)(Linear(torch.eye(50), torch.zeros(50)), *torch.zeros(2, 1, 2, 5, 5), torch.ones(1))


WEIGHTS = {
    "inverse_variance": lambda s: 1 / s**2,
    "uniform": lambda s: 1.0,
    "v": lambda s: 1 / s**2 + 1,
    "flow": lambda s: (1 + 1 / s) ** 2,
    "edm": lambda s: (s**2 + 0.3**2) / (0.3 * s) ** 2,
    "snr_clipped": lambda s: min(1 / s**2, 5.0),
    "likelihood": lambda s: 2 * 1.2 / 0.3989422804 / s**2,  # d ln sigma^2 / du at the median of log-normal(std 1.2)
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_is_its_formula(name: str) -> None:
    """At three levels, for data of standard deviation 0.3."""
    network = make_adapter("edm", torch.nn.Identity(), sigma_data=0.3)
    weight = make_weight(objective(weight=name, **({"gamma": 5.0} if name == "snr_clipped" else {})), network,
                         make_levels(Objective(), network))  # fmt: skip
    sigma = torch.tensor([0.05, 0.8, 7.0], dtype=torch.float64)
    found = weight(torch.full_like(sigma, 0.5), sigma)
    assert found.tolist() == pytest.approx([WEIGHTS[name](s) for s in sigma.tolist()], rel=1e-6)
