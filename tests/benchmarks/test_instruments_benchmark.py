"""The benchmark of instruments: total variation against its optimum, the problems' noise, and a short run."""

from __future__ import annotations

from pathlib import Path

import instruments
import numpy as np
import pytest
import torch
from support.photo_baselines import gradient
from support.photo_problems import Problem

from randomwalk.operators import Dense
from randomwalk.operators.noise import GaussianNoise

PLAN = instruments.read_yaml(instruments.HERE / "instruments.yaml")


class Interpolating(Dense):
    def interpolated(self, y: torch.Tensor) -> torch.Tensor:
        return self.adjoint(y)


def test_total_variation_is_at_its_optimum() -> None:
    """No change of the image by a little lowers the objective."""
    draws = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 36, generator=draws, dtype=torch.float64)
    operator = Interpolating((1, 6, 6), matrix / torch.linalg.matrix_norm(matrix, 2))
    truth = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    truth[..., 2:5, 1:4] = 1
    noise = GaussianNoise(0.05)
    y = operator(truth) + noise.std * torch.randn(1, *operator.measurement_shape, generator=draws, dtype=torch.float64)

    def objective(x: torch.Tensor) -> float:
        length = gradient(x).square().sum((0, 2)).sqrt().sum()
        return float((operator(x) - y).square().sum() / 2 + 0.4 * noise.std * length)

    found = instruments.total_variation(Problem(operator, noise, y, truth), 0.4)
    least = objective(found)
    for _ in range(200):
        other = found + 0.02 * torch.randn(found.shape, generator=draws, dtype=torch.float64)
        assert objective(other) > least
    assert least < objective(operator.interpolated(y)) and least < objective(truth)


@pytest.mark.parametrize("title", ["CT, 60 views", "CT, 30 views"])
def test_the_noise_of_a_problem_is_what_it_says(title: str) -> None:
    [case] = [case for case in instruments.cases(PLAN, ["tomography"]) if case.title == title]
    [truth] = instruments.phantoms(case, 7, 1, 48, None)
    problem = case.problem(truth, 7)
    assert problem.operator.norm() < 1.001
    errors = (problem.y - problem.operator(truth)) / problem.noise.std
    assert errors.std().item() == pytest.approx(1, abs=5 / (2 * errors.numel()) ** 0.5 + 0.01)
    assert errors.mean().abs().item() < 5 / errors.numel() ** 0.5 + 0.01


def test_scores_are_those_of_the_object() -> None:
    """Half of an image is air, which all samples get wrong."""
    truth = torch.full((1, 1, 4, 4), -1.0)
    truth[..., :2] = 0.0
    samples = truth.repeat(8, 1, 1, 1) + torch.linspace(-0.1, 0.1, 8)[:, None, None, None]
    samples[..., 2:] += 1
    assert max(instruments.scores_within(samples, truth)) < 0.1


def test_other_arrays_keep_their_units(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((8, 8), 0.25))
    [case] = [case for case in instruments.cases(PLAN, ["tomography"]) if case.title == "CT, 60 views"]
    [image] = instruments.others(case, tmp_path)
    assert image.shape == (1, 1, 8, 8) and float(image.abs().max()) == 0
