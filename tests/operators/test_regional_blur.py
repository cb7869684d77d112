"""Blur with a kernel for each region: weights, conventions of other libraries, files, and given pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from given_tools import task_for
from operator_cases import build, normal, random_kernel

from randomwalk import InputError, operators
from randomwalk.operators import Blur, RegionalBlur
from randomwalk.operators.regional_blur import weights_of


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (3, 1)])
def test_weights_are_a_partition_of_unity(rows: int, columns: int) -> None:
    weights = weights_of(rows, columns, 12, 18)
    assert weights.shape == (rows * columns, 12, 18) and weights.min() >= 0
    torch.testing.assert_close(weights.sum(0), torch.ones(12, 18, dtype=torch.float64))
    for k, weight in enumerate(weights):  # the middle of a region lies between two pixels
        row, column = (k // columns + 0.5) * 12 / rows, (k % columns + 0.5) * 18 / columns
        near = weight[int(row - 0.5) : int(row + 1), int(column - 0.5) : int(column + 1)]
        assert near.min() >= 1 - 0.5 * (rows / 12 + columns / 18)
    if columns == 3:  # linear from one middle to the next
        steps = weights[:3].sum(0)[:6]
        line = weights_of(1, 3, 12, 18)[1, 0, 3:9]
        torch.testing.assert_close(line.diff(), torch.full((5,), 1 / 6, dtype=torch.float64))
        assert steps.min() >= 0


def test_equal_kernels_are_one_blur() -> None:
    kernel, x = random_kernel(3, 5), normal(2, 1, 9, 8)
    regional = RegionalBlur((1, 9, 8), kernel.expand(4, -1, -1), weights_of(2, 2, 9, 8), "reflect")
    torch.testing.assert_close(regional(x), Blur((1, 9, 8), kernel, "reflect")(x), rtol=1e-10, atol=1e-10)


def test_a_point_of_light_becomes_the_kernel_of_its_region() -> None:
    taps = torch.stack([random_kernel(3, 3, seed) for seed in range(2)])
    operator = RegionalBlur((1, 5, 20), taps, weights_of(1, 2, 5, 20), "zero")
    for k, column in enumerate((2, 17)):
        x = torch.zeros(1, 1, 5, 20, dtype=torch.float64)
        x[0, 0, 2, column] = 1
        torch.testing.assert_close(operator(x)[0, 0, 1:4, column - 1 : column + 2], taps[k])


@pytest.mark.parametrize("boundary", ["unknown", "circular", "reflect", "replicate"])
def test_the_conventions_are_those_of_deepinv(boundary: str) -> None:
    physics = pytest.importorskip("deepinv", reason="needs deepinv").physics
    taps = torch.stack([random_kernel(3, 5, seed) for seed in range(4)])
    weights, x = weights_of(2, 2, 11, 12), normal(2, 1, 11, 12)
    padding = "valid" if boundary == "unknown" else boundary
    theirs = physics.SpaceVaryingBlur(taps[None, None].float(), weights[None, None].float(), padding=padding)
    ours = RegionalBlur((1, 11, 12), taps, weights, boundary)  # type: ignore[arg-type]
    y = theirs.A(x.float())
    torch.testing.assert_close(ours(x).float(), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.adjoint(y.double()).float(), theirs.A_adjoint(y), rtol=1e-5, atol=1e-5)


def test_the_proximal_map_is_the_minimum() -> None:
    """Against the solution of the normal equations with the matrix."""
    operator = build(("regional_blur", {"kernels": 4, "boundary": "unknown"}, (1, 6, 7)))
    matrix = operator(torch.eye(42, dtype=torch.float64).reshape(42, 1, 6, 7)).reshape(42, -1).T
    z, y, eta, sigma = normal(1, 1, 6, 7), normal(1, *operator.measurement_shape, seed=1), 0.2, 0.7
    left = matrix.T @ matrix / eta**2 + torch.eye(42, dtype=torch.float64) / sigma**2
    expected = torch.linalg.solve(left, matrix.T @ y.flatten() / eta**2 + z.flatten() / sigma**2)
    torch.testing.assert_close(operator.proximal(z, y, eta, sigma).flatten(), expected, rtol=1e-8, atol=1e-8)


def test_kernels_of_files(tmp_path: Path) -> None:
    sizes = ((3, 7), (5, 1), (1, 1), (3, 3))
    files = []
    for k, size in enumerate(sizes):
        files.append(str(tmp_path / f"{k}.npy"))
        np.save(files[-1], random_kernel(*size, seed=k).numpy())
    settings = {"name": "regional_blur", "files": files, "regions": [2, 2], "boundary": "circular"}
    operator = operators.make(image_shape=(1, 12, 11), **settings)  # type: ignore[arg-type]
    assert isinstance(operator, RegionalBlur)
    ones = torch.ones(1, 1, 12, 11, dtype=torch.float64)
    torch.testing.assert_close(operator.adjoint(ones), ones)  # no light is lost
    for blur, size in zip(operator.blurs, sizes, strict=True):
        kernel = blur.kernel[0, 0]  # type: ignore[index]
        assert kernel.shape == (5, 7) and kernel.sum().item() == pytest.approx(1)
        top, left = (5 - size[0]) // 2, (7 - size[1]) // 2  # in the middle
        assert int((kernel != 0).sum()) == size[0] * size[1]
        assert (kernel[top : top + size[0], left : left + size[1]] != 0).all()
    with pytest.raises(InputError, match=r"files: found 4, but regions: \[3, 2\] are 6"):
        operators.make(image_shape=(1, 12, 11), **{**settings, "regions": [3, 2]})  # type: ignore[arg-type]
    np.save(files[1], np.array([[1.0, -1.0, 0.0]]))
    with pytest.raises(InputError, match=r"regional_blur: the kernel .*1\.npy sums to 0"):
        operators.make(image_shape=(1, 12, 11), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"kernels of shape \(2, 3, 3\) and weights of shape \(3, 4, 4\)"):
        RegionalBlur((1, 4, 4), torch.ones(2, 3, 3), torch.ones(3, 4, 4), "zero")


def test_a_given_picture_is_larger_inside(tmp_path: Path) -> None:
    """By the size of the largest kernel: what is beyond its border is unknown, as with one kernel."""
    from any_size_tools import photograph
    from given_tools import save_picture

    for k, size in enumerate(((3, 5), (5, 3))):
        np.save(tmp_path / f"{k}.npy", random_kernel(*size, seed=k).numpy())
    files = [str(tmp_path / f"{k}.npy") for k in range(2)]
    measurement = {
        "operator": {"name": "regional_blur", "files": files, "regions": [1, 2]},
        "noise": {"std": 5, "pixel_range": [0, 255]},
        "given": True,
    }
    save_picture(tmp_path / "in" / "a.png", photograph(20, 26))
    task = task_for(tmp_path, tmp_path / "in", measurement)
    assert task.images.shape_of(0) == (3, 24, 30) and task.load_measurable(0).shape == (3, 20, 26)
    assert task.measurements.trial_operator().shown_shape == (3, 20, 26)
