"""That every loss trains to the true score, through every network, and as part of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_tools import COVARIANCE
from scipy.stats import chi2
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from guided_diffusion import UNet
from randomwalk.config import TrainConfig
from randomwalk.config.objective import Objective
from randomwalk.denoisers.adapters import SDEDenoiser
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.distributed import Context, Launch
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.points.training import PointTrainingSet
from randomwalk.training.losses import Estimate, ImplicitScoreMatching, Normal
from randomwalk.training.objectives import Loss, make_loss
from randomwalk.training.trainer import Trainer
from score_sde import DDPMUNet, NCSNpp
from score_sde.mlp import TimeMLP

MEAN = [0.5, -1.0]
IMPLICIT: dict[str, Any] = {"name": "implicit_score_matching"}
HUTCHINSON = IMPLICIT | {"divergence": "hutchinson"}
SLICED: dict[str, Any] = {"name": "sliced_score_matching"}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "denoising": {},
    "denoising, likelihood": {"weight": "likelihood"},
    "implicit, exact": IMPLICIT,
    "implicit, hutchinson": HUTCHINSON | {"probes": "gaussian", "num_probes": 2},
    "sliced": SLICED,
}


class HalfDivergence(ImplicitScoreMatching):
    """A mutation: ``tr J / 2 + ||s||^2 / 2``."""

    def __call__(self, model: Any, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
        whole = super().__call__(model, x, noise, sigma, normal)
        noisy = x + sigma[:, None, None, None] * noise
        square = (model(noisy, sigma) - noisy).square().flatten(1).mean(1)
        return (whole + square) / 2


class NormOverTheBatch(ImplicitScoreMatching):
    """A mutation: ``||s||^2`` of the whole batch, in place of each row's."""

    def __call__(self, model: Any, x: Tensor, noise: Tensor, sigma: Tensor, normal: Normal | None = None) -> Tensor:
        whole = super().__call__(model, x, noise, sigma, normal)
        noisy = x + sigma[:, None, None, None] * noise
        square = (model(noisy, sigma) - noisy).square().flatten(1).mean(1)
        return whole - square + square.sum()


def truth() -> GaussianMixture:
    mean = torch.tensor([MEAN], dtype=torch.float64).reshape(1, 2, 1, 1)
    return GaussianMixture([1.0], mean, torch.tensor([COVARIANCE[2]], dtype=torch.float64))


def draws(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """X, u and N; u is even on the levels."""
    factor = torch.linalg.cholesky(torch.tensor(COVARIANCE[2], dtype=torch.float64))
    x = torch.tensor(MEAN, dtype=torch.float64) + torch.randn(n, 2, dtype=torch.float64) @ factor.T
    noise = torch.randn(n, 2, 1, 1, dtype=torch.float64)
    return x[:, :, None, None], (torch.arange(n, dtype=torch.float64) + 0.5) / n, noise


# --- a linear model: the error that is left is that of the draws, by theory ---------------------------------------


class LinearNetwork(nn.Module):
    """``A_t z + c_t``, for each of three levels t; the true score of a Gaussian is of this form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2, 3, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        ones = torch.cat([z.flatten(1), torch.ones_like(z[:, :1, 0, 0])], 1)
        return torch.einsum("bij,bj->bi", self.weight[t.round().long()], ones).reshape(z.shape)

    def at(self, weight: Tensor, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """The value of a function of this network at other weights."""
        with torch.no_grad():
            self.weight.copy_(weight.reshape(self.weight.shape))
        return function(*arguments)


def denoiser_of(prediction: str) -> SDEDenoiser:
    sde = {"name": "ve", "sigma_min": 0.3, "sigma_max": 3.0}
    return make_adapter("sde", LinearNetwork(), sde=sde, prediction=prediction, time="discrete", num_levels=3)


def true_weight(denoiser: SDEDenoiser) -> Tensor:
    """The weights ``[3, 2, 3]`` with which D is exact: found from three points, as D is affine in them and in x."""
    exact, network = truth(), denoiser.network
    assert isinstance(network, LinearNetwork)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[:, :, None, None]
    rows = []
    for sigma in denoiser.times.levels(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)):
        without = network.at(torch.zeros(18), denoiser, points, sigma)
        factor = (network.at(torch.ones(18), denoiser, points[:1], sigma) - without[:1])[0, 0, 0, 0]
        z = points.flatten(1) / (1 + sigma**2).sqrt()
        target = (exact(points, sigma) - without).flatten(1) / factor
        rows.append(torch.linalg.solve(torch.cat([z, torch.ones(3, 1, dtype=torch.float64)], 1), target).T)
    return torch.stack(rows).detach()


def misfit(objective: dict[str, Any], prediction: str, error: Estimate | None = None) -> tuple[float, float]:
    """How far the weights A that minimise the loss of 3000 draws are from the true ones A*.

    The loss is quadratic in A, so differences of any width are its derivatives, and one Newton step is the whole
    training. With the gradients g_i of the rows at A* and the Hessian H of the mean, ``Cov(A) = H^-1 Cov(g) H^-1 / n``.

    Returns:
        ``(A - A*)^T Cov^-1 (A - A*)``, which is chi-squared of 18 if A* is the optimum; and ``|A - A*| / |A*|``.
    """
    torch.manual_seed(0)
    denoiser, n = denoiser_of(prediction), 3000
    loss = make_loss(Objective.model_validate(objective), denoiser)
    loss = loss if error is None else Loss(loss.levels, loss.weight, error)
    data, probes = draws(n), torch.randn(n, 2, 2, 1, 1, dtype=torch.float64)
    network = denoiser.network
    assert isinstance(network, LinearNetwork)

    def losses(at: Tensor) -> Tensor:
        return network.at(at, loss, denoiser, *data, lambda shape: probes[:, : shape[0]])

    best, steps = true_weight(denoiser).flatten(), torch.eye(18, dtype=torch.float64)
    both = [(losses(best + step).detach(), losses(best - step).detach()) for step in steps]
    each = torch.stack([(up - down) / 2 for up, down in both])

    def gradient(at: Tensor) -> Tensor:
        return torch.autograd.grad(losses(at).mean(), network.weight)[0].flatten()

    at_best = gradient(best)
    inverse = torch.linalg.inv(torch.stack([gradient(best + step) - at_best for step in steps])).detach()
    off = inverse @ at_best
    covariance = inverse @ torch.cov(each) @ inverse / n
    return float(off @ torch.linalg.pinv(covariance) @ off), float(off.norm() / best.norm())


BOUND = chi2.isf(1e-4, 18)  # that of one world in 10,000; the draws are seeded


@pytest.mark.parametrize(
    ("name", "prediction"),
    [(name, "epsilon") for name in OBJECTIVES] + [("denoising", "x0"), ("denoising", "v"), ("sliced", "score")],
)
def test_each_loss_trains_a_linear_model_to_the_true_score(name: str, prediction: str) -> None:
    """Within what 3000 draws leave, 3% to 6% of the weights, and exactly as much as theory says that they leave."""
    chi_squared, relative = misfit(OBJECTIVES[name], prediction)
    assert chi_squared < BOUND
    assert relative < 0.1


@pytest.mark.parametrize("mutation", [HalfDivergence(True), NormOverTheBatch(True)])
def test_a_wrong_loss_does_not(mutation: Estimate) -> None:
    chi_squared, relative = misfit(IMPLICIT, "epsilon", mutation)
    assert chi_squared > 10 * BOUND and relative > 0.3


# --- a network: by Adam, over all noise levels --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sde", "time"),
    [("denoising", "vp", "discrete"), ("implicit, exact", "sub_vp", "continuous"), ("sliced", "ve", "continuous")],
)
def test_each_loss_trains_a_network_to_the_true_score(name: str, sde: str, time: str) -> None:
    """After 200 steps a small network gets at most 6% of the score's square wrong, averaged over even times.

    When this was written: 0.6% (denoising), 1.9% (implicit), 2.9% (sliced). Half of the divergence makes 25%.
    """
    torch.manual_seed(0)
    denoiser = make_adapter("sde", TimeMLP(hidden=32, num_blocks=1), sde={"name": sde}, time=time)
    loss = make_loss(Objective.model_validate(OBJECTIVES[name]), denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        loss(denoiser, *(t.float() for t in draws(128))).mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    x, u, noise = draws(4000)
    sigma = denoiser.times.levels(u)
    noisy = x + sigma[:, None, None, None] * noise
    with torch.no_grad():
        best = truth()(noisy, sigma)
        off = (denoiser(noisy.float(), sigma) - best).flatten(1) / sigma[:, None]
    score = (best - noisy).flatten(1) / sigma[:, None]
    assert off.square().mean() < 0.06 * score.square().mean()


def networks() -> dict[str, NetworkDenoiser]:
    unet = UNet(8, 1, 8, 1, 1, attention_resolutions=(2,), channel_mult=(1, 2), num_heads=2, norm_groups=4)
    ncsnpp = NCSNpp(image_size=8, num_channels=1, nf=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,))
    mlp = TimeMLP(1, hidden=8, num_blocks=1)
    ddpm_unet = DDPMUNet(8, 1, 8, (1, 1), 1, (4,), dropout=0.0, embedding="fourier")
    return {
        "unet": make_adapter("sde", unet, sde={"name": "vp"}, prediction="v"),
        "ncsnpp": make_adapter("ve", ncsnpp),
        "ddpm_unet": make_adapter("score", ddpm_unet, sde={"name": "power_ve", "base": 5.0}),
        "mlp": make_adapter("edm", mlp),
    }


@pytest.mark.parametrize("name", ["unet", "ncsnpp", "ddpm_unet", "mlp"])
@pytest.mark.parametrize("objective", [HUTCHINSON, SLICED], ids=lambda o: o["name"])
def test_every_network_has_a_second_derivative(name: str, objective: dict[str, Any]) -> None:
    """The gradient in a random direction is what a difference of width 2e-5 says, in float64: to some 1e-9 / 1e-5."""
    torch.manual_seed(0)
    denoiser = networks()[name].double()
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1 * torch.randn_like(p))  # layers that start at zero hide what is before them
    loss = make_loss(Objective.model_validate(objective), denoiser)
    shape = (2, 1, 1, 1) if name == "mlp" else (2, 1, 8, 8)
    x, noise, probes = torch.randn(3, *shape, dtype=torch.float64)
    u = torch.tensor([0.3, 0.6], dtype=torch.float64)

    def value() -> Tensor:
        return loss(denoiser, x, u, noise, lambda size: probes[:, None]).mean()

    gradient = torch.autograd.grad(value(), parameters, allow_unused=True)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * v).sum() for g, v in zip(gradient, direction, strict=True) if g is not None)

    def moved(width: float) -> float:
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(width * v)
        return float(value().detach())

    numeric = (moved(1e-5) - moved(-2e-5)) / 2e-5
    assert float(slope) == pytest.approx(numeric, rel=1e-4)  # type: ignore[arg-type]


# --- in a run ----------------------------------------------------------------------------------------------------


def trainer(output: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "output": str(output),
        "data": {"dataset": "points", "set": "moons"},
        "network": {"name": "mlp", "hidden": 16, "num_blocks": 1},
        "denoiser": {"name": "sde", "sde": {"name": "vp"}},
        "objective": SLICED | {"num_probes": 2},
        "batch_size": 8,
        "num_images": 64,
        "device": "cpu",
    }
    config = TrainConfig.model_validate(settings | changes)
    return Trainer(config, Context(Launch(), torch.device("cpu")), RunFolder(output), PointTrainingSet(config))


def steps(run: Trainer, number: int, model: nn.Module | None = None) -> dict[str, Tensor]:
    """The weights after so many steps more."""
    run.begin()
    run.model = run.denoiser if model is None else model
    for _ in range(number):
        run.train_step()
    return {name: p.detach().clone() for name, p in run.denoiser.named_parameters()}


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_resumed_run_takes_the_steps_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = steps(trainer(tmp_path), 4)
    first, second = trainer(tmp_path), trainer(tmp_path)
    steps(first, 2)
    torch.randn(7)  # a process that was started anew has another generator
    second.load_state(first.state())
    resumed = steps(second, 2)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_probes_belong_to_the_place_in_the_batch(tmp_path: Path, process_group: None) -> None:
    """So that a batch in parts, or under DDP, has the same gradient, up to the order of float32 sums."""
    runs = [trainer(tmp_path), trainer(tmp_path, accumulate=2), trainer(tmp_path)]
    for run in runs[:2]:
        steps(run, 1)
    steps(runs[2], 1, DistributedDataParallel(runs[2].denoiser))
    for run in runs[1:]:
        for ours, other in zip(runs[0].descent.parameters, run.descent.parameters, strict=True):
            assert ours.grad is not None and other.grad is not None
            torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_probes_differ_from_step_to_step_and_from_row_to_row(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    first, again = run._normal(0, (50,)), run._normal(0, (50,))
    run.descent.steps = 1
    second = run._normal(0, (50,))
    assert torch.equal(first, again)
    rows = torch.cat([first, second]).double()
    correlation = (rows @ rows.T / 50).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5 / 50**0.5
