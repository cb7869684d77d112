"""Densities and solvers of score embedding on a device without float64 give what they give on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_tools import stand_in
from torch import Tensor

from randomwalk.studies.score_embedding import cole_hopf, density, sampling, solvers
from randomwalk.studies.score_embedding.solution import Solution
from score_sde import sdes

TIMES = solvers.level_times(4, 0.1)
SDE = sdes.make("power_ve", base=2.0)


def images(size: int = 6) -> Tensor:
    """Two images of two channels."""
    return torch.rand(2, 2, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", density.DENSITIES)
def test_densities(name: str) -> None:
    expected = density.make(name, images())
    with stand_in() as device:
        found = density.make(name, images().to(device))
    assert found.device.type == "cpu" and torch.equal(found, expected)


SOLVED: list[tuple[str, dict[str, Any]]] = [
    ("exact", {"method": "matrix"}),
    ("exact", {"method": "matrix", "boundary": "dirichlet"}),
    ("exact", {"method": "dct"}),
    ("semi_implicit", {"linear_solver": "lu"}),
    ("semi_implicit", {"linear_solver": "bicgstab"}),
    ("semi_implicit", {"linear_solver": "adi"}),
    ("legacy", {}),
]


@pytest.mark.parametrize(("name", "settings"), SOLVED, ids=str)
def test_solvers(name: str, settings: dict[str, Any]) -> None:
    def solved(m0: Tensor) -> Solution:
        return solvers.SOLVERS[name](m0, TIMES, SDE, **settings)

    m0 = density.intensity(images()).float()
    expected = solved(m0)
    with stand_in() as device:
        found = solved(m0.to(device))
    for one, other in zip(vars(found).values(), vars(expected).values(), strict=True):
        if isinstance(one, Tensor):
            assert one.device.type == "cpu" and torch.equal(one, other)
        else:
            assert one == other


def test_prepared_kernels() -> None:
    made = cole_hopf.make_kernels((6, 6), TIMES, SDE, device="cpu")
    with stand_in() as device:
        found = cole_hopf.make_kernels((6, 6), TIMES, SDE, device=device)
    assert torch.equal(found.rows, made.rows) and found.rows.device.type == "cpu"


def test_the_flow() -> None:
    """The score is on the device in float32, the state on the CPU in float64, and the frames on the device again."""

    def made(device: torch.device | str) -> Tensor:
        truth = images().to(device)

        def score(u: Tensor, t: Tensor) -> Tensor:
            assert u.device.type == t.device.type == torch.device(device).type and u.dtype == t.dtype == torch.float32
            return (truth - u) / sdes.broadcast(SDE.std(t.cpu()).float().to(device), u) ** 2

        start = truth + float(SDE.std(SDE.T)) * torch.ones(truth.shape).to(device)
        return sampling.flow(score, start, SDE, t_end=0.1).images.cpu()

    expected = made("cpu")
    with stand_in() as device:
        found = made(device)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, images(), rtol=0, atol=1e-5)  # by Tweedie's formula


def test_every_solver_is_tried() -> None:
    assert {name for name, _ in SOLVED} == solvers.SOLVERS.keys()
