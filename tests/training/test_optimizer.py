"""The optimizers of a training, their learning rate, and its end after given minutes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from randomwalk.config.training import Optimizer
from randomwalk.training.muon import Muon, MuonAndAdam, orthogonalized
from randomwalk.training.optimizer import Descent, learning_rate, make_optimizer


@pytest.mark.parametrize("shape", [(48, 432), (96, 32), (64, 64)])
def test_orthogonalized_keeps_the_singular_vectors_and_levels_the_values(shape) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix)
    assert found.shape == shape
    in_basis = u.T @ found @ vh.T
    values = in_basis.diagonal()
    large = s > 0.1 * s[0]  # five iterations do not lift the smallest of a square matrix
    assert values[large].min() > 0.6 and values.max() < 1.3
    assert (in_basis - values.diag()).norm() < 0.1 * in_basis.norm()  # bf16, amplified by the iteration


def test_a_step_of_muon_is_its_formula() -> None:
    """From zero momentum: W - lr 0.2 sqrt(max(m, n)) orth((1 - mu^2) G), which does not depend on the scale of G."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(32, 40, 3, 3).to(memory_format=torch.channels_last))
    before, kernel.grad = kernel.detach().clone(), torch.randn_like(kernel)
    Muon([kernel], lr=0.1).step()
    rows = kernel.grad.permute(0, 2, 3, 1).reshape(32, 360)
    expected = orthogonalized(rows).reshape(32, 3, 3, 40).permute(0, 3, 1, 2) * 0.1 * 0.2 * math.sqrt(360)
    taken = (before - kernel).detach()
    assert (taken - expected).norm() < 0.1 * expected.norm()  # another scale is rounded otherwise in bf16
    # That of Adam's first step is lr; Muon's has a root mean square of about a fifth of it.
    assert 0.1 * 0.2 * 0.7 < float(taken.square().mean().sqrt()) < 0.1 * 0.2 * 1.2


def test_muon_takes_the_kernels_between_wide_layers_and_adam_the_rest() -> None:
    network = nn.Sequential(nn.Conv2d(12, 32, 3), nn.Conv2d(32, 48, 3), nn.Conv2d(48, 12, 3), nn.Linear(64, 64))
    made = make_optimizer(Optimizer(name="muon", learning_rate=0.01), network.parameters())
    assert isinstance(made, MuonAndAdam)
    adam, muon = made.parts
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(48, 32, 3, 3)]
    assert len(adam.param_groups[0]["params"]) == 7
    assert isinstance(make_optimizer(Optimizer(), network.parameters()), torch.optim.Adam)


def test_the_state_of_muon_and_adam_is_saved_and_loaded() -> None:
    def trained(steps: int, state: dict | None = None, weights: dict | None = None) -> tuple[nn.Module, MuonAndAdam]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
        optimizer = MuonAndAdam(network.parameters(), lr=1e-3, momentum=0.9)
        if state is not None and weights is not None:
            network.load_state_dict(weights)
            optimizer.load_state_dict(state)
        x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
        for _ in range(steps):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        return network, optimizer

    whole, _ = trained(4)
    half, optimizer = trained(2)
    resumed, _ = trained(2, optimizer.state_dict(), half.state_dict())
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_learns_a_convolution() -> None:
    """An inner layer learns a given orthogonal map from noise."""
    torch.manual_seed(0)
    target = torch.linalg.qr(torch.randn(32, 32))[0][:, :, None, None]
    layer = nn.Conv2d(32, 32, 1, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.05, momentum=0.9)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        x = torch.randn(8, 32, 4, 4)
        optimizer.zero_grad()
        (layer(x) - nn.functional.conv2d(x, target)).square().mean().backward()
        optimizer.step()
    assert float((layer.weight.detach() - target).abs().max()) < 0.02


def test_the_learning_rate_rises_stays_and_falls() -> None:
    settings = Optimizer(learning_rate=1.0, warmup_images=80, decay="linear", cooldown=0.25)
    rates = [learning_rate(settings, 8 * step, 8, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.5)
    assert rates[9] == rates[50] == rates[75] == 1.0
    assert rates[80] == pytest.approx(0.8) and rates[100] == 0.0
    cosine = settings.model_copy(update={"decay": "cosine", "warmup_images": 0})
    assert [learning_rate(cosine, 8, 8, done) for done in (0, 0.5, 1)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize(("clip", "kept"), [(0.5, 0.5), (10.0, 5.0), (None, 5.0)])
def test_gradients_are_shortened_to_the_clip_and_their_own_norm_is_returned(clip: float | None, kept: float) -> None:
    network = nn.Linear(2, 1, bias=False)
    descent = Descent(network, network.parameters(), Optimizer(learning_rate=1e-3, gradient_clip=clip), None, 1)
    _, norm = descent.step([network(torch.tensor([[3.0, 4.0]])).sum()], 0.0)
    assert float(norm) == pytest.approx(5)
    assert network.weight.grad is not None
    torch.testing.assert_close(network.weight.grad, torch.tensor([[3.0, 4.0]]) * kept / 5)
