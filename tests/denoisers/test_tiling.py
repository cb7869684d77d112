"""Tiles: what they cover, that nothing is to be seen of them, and the memory that they take."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from any_size_tools import photograph, save_photo_weights
from sampling_tools import ROOT
from torch import Tensor

from randomwalk import operators, samplers
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.tiling import ALIGNMENT, TiledDenoiser, Tiling, spans, windows
from randomwalk.errors import InputError
from randomwalk.images.tensors import to_tensor
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers import schedules
from randomwalk.sampling import memory
from randomwalk.sampling.memory import GIB, LEAST_TILE, OVERLAP, PROGRAM, Budget, Ledger, bytes_per_pixel

CPU = torch.device("cpu")
SIZE = (250, 330)
TILING = Tiling(128, 128, 64)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    """Denoiser with a network of three resolutions and no zero weights."""
    path = tmp_path_factory.mktemp("weights") / "photo.safetensors"
    return load_denoiser(save_photo_weights(path, 1.0, widths=[8, 8, 8], num_blocks=[1, 1, 1]))


def noisy(sigma: float, rows: int = 1) -> Tensor:
    truth = torch.stack([to_tensor(photograph(*SIZE, seed=i)) for i in range(rows)])
    return truth + sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))


def energy(x: Tensor) -> float:
    return float(x.square().mean())


def psnr(error: Tensor) -> float:
    return float(10 * torch.log10(4 / error.square().mean()))


# --- where the tiles are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 31, 128, 129, 160, 161, 200, 512, 1000, 1001, 4000])
@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (128, 96), (512, 64), (96, 32)])
def test_tiles_cover_an_axis(length: int, tile: int, overlap: int) -> None:
    found = spans(length, tile, overlap)
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(start % ALIGNMENT == 0 and 0 < stop - start <= tile for start, stop in found)
    assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(found))
    assert len(found) == len(set(found)) == max(1, int(np.ceil((length - overlap) / (tile - overlap))))
    total = torch.zeros(length, dtype=torch.float64)
    for (start, stop), weight in zip(found, windows(found), strict=True):
        assert len(weight) == stop - start and weight.min() > 0
        assert start == 0 or weight[0] < 0.01
        assert stop == length or weight[-1] < 0.01
        total[start:stop] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("wrong", [(100, 128, 64), (128, 128, 128), (128, 128, 0), (64, 128, 96), (128, 128, 64, 0)])
def test_impossible_tilings_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Tiling(*wrong)


# --- that nothing is to be seen of them ------------------------------------------------------------------------


def test_tiles_of_a_pointwise_denoiser_change_nothing() -> None:
    class Pointwise(Denoiser):
        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return x.tanh() * torch.as_tensor(sigma).reshape(-1, 1, 1, 1)

    seen: list[tuple[int, int]] = []
    tiled = TiledDenoiser(Pointwise(), TILING, lambda *at: seen.append(at))
    x, sigma = noisy(1.0, 2), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(tiled(x, sigma), Pointwise()(x, sigma))
    assert seen == [(i, 3 * 5 * 2) for i in range(1, 31)]
    torch.testing.assert_close(tiled.score(x, sigma), Pointwise().score(x, sigma))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_tiled_is_whole(denoiser: Denoiser, sigma: float) -> None:
    """The change by the tiles has less than a thousandth of the energy of the network's, and the PSNR stays."""
    x, truth = noisy(sigma), to_tensor(photograph(*SIZE))
    with torch.no_grad():
        whole, tiled = denoiser(x, sigma), TiledDenoiser(denoiser, TILING)(x, sigma)
    change = tiled - whole
    assert 0 < energy(change) < 1e-3 * energy(whole - x)
    assert abs(psnr(tiled - truth) - psnr(whole - truth)) < 0.05


def test_no_seams(denoiser: Denoiser) -> None:
    """Where a tile ends, the change is no larger, and no steeper, than elsewhere."""
    x = noisy(0.5)
    with torch.no_grad():
        change = TiledDenoiser(denoiser, TILING)(x, 0.5) - denoiser(x, 0.5)
    for axis, sides in ((-2, (SIZE[0], TILING.height)), (-1, (SIZE[1], TILING.width))):
        ends = sorted({end for span in spans(*sides, TILING.overlap) for end in span} - {0, sides[0]})
        other = tuple(d for d in range(4) if d != axis % 4)
        size, step = change.square().mean(other), change.diff(dim=axis).square().mean(other)
        assert size[ends].mean() < size.mean() and step[[end - 1 for end in ends]].mean() < step.mean()


def test_a_walk_over_tiles_ends_where_the_whole_one_does(denoiser: Denoiser) -> None:
    truth = to_tensor(photograph(*SIZE))[None]
    operator = operators.make("inpainting", image_shape=truth.shape[1:], missing=0.5)
    y = operator(truth) + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    sigmas = schedules.make("geometric", 5, sigma_min=0.05, sigma_max=10.0)
    sampler = samplers.make("random_walk", step_scale=0.7, initial_temperature=0.1, preconditioned=True)
    measurement = Measurement(operator, GaussianNoise(0.1), y)

    def restored(by: Denoiser) -> Tensor:
        return sampler.sample(by, sigmas, measurement, draws=ImageDraws([generator(0)]))

    whole, tiled = restored(denoiser), restored(TiledDenoiser(denoiser, TILING))
    assert (whole - tiled).abs().max() > 0
    assert abs(psnr(whole.clamp(-1, 1) - truth) - psnr(tiled.clamp(-1, 1) - truth)) < 0.05


def test_products_with_the_jacobian_over_tiles(denoiser: Denoiser) -> None:
    x, v = noisy(0.5, 2), torch.randn((2, 3, *SIZE), generator=torch.Generator().manual_seed(1))
    sigma, seen = torch.tensor([0.5, 2.0]), []
    over_tiles = TiledDenoiser(denoiser, TILING, lambda *at: seen.append(at))
    _, whole = denoiser.linearized(x, sigma)
    out, tiled = over_tiles.linearized(x, sigma)
    found, expected = tiled(v), whole(v)
    assert 0 < energy(found - expected) < 0.01 * energy(expected - v)
    assert seen == 2 * [(i, 30) for i in range(1, 31)]
    torch.testing.assert_close(tiled(v), found)  # again, as solvers of linear systems ask for it
    differentiable = x.clone().requires_grad_()
    blended = over_tiles(differentiable, sigma)
    torch.testing.assert_close(out, blended.detach())
    torch.testing.assert_close(found, torch.autograd.grad(blended, differentiable, v)[0])


# --- the memory ------------------------------------------------------------------------------------------------


def test_the_ledger_counts_what_exists_at_a_time() -> None:
    x = torch.ones(1000)
    with Ledger() as ledger:
        a = x.exp()
        b = a[10:].sin()  # a view of a takes nothing
        del a
        b = b.cos()
        assert ledger.held == 4 * 990
    assert ledger.peak == 4 * 1990
    with Ledger() as ledger:
        y = x.clone().requires_grad_()
        z = y.exp().sin()  # exp is kept for the backward pass
        assert ledger.held == 3 * 4000
        z.sum().backward()
    assert ledger.peak >= 3 * 4000


@pytest.mark.parametrize("gradient", [False, True])
def test_tiles_take_the_memory_of_one(denoiser: Denoiser, gradient: bool) -> None:
    side = 384

    def peak(by: Denoiser) -> int:
        x = torch.zeros(1, 3, side, side)
        with Ledger() as ledger, torch.set_grad_enabled(gradient):
            by.linearized(x, 0.5)[1](x) if gradient else by(x, 0.5)
        return ledger.peak

    estimate = bytes_per_pixel(denoiser, CPU, gradient) / memory.LIBRARIES
    assert estimate * side**2 == pytest.approx(peak(denoiser), rel=0.1)
    images, tile = 4 * 12 * side**2, 1.2 * estimate * TILING.height * TILING.width
    assert peak(TiledDenoiser(denoiser, TILING)) < images + tile
    if gradient:
        assert peak(denoiser) > 2.5 * (images + tile)


PRODUCT = """
import torch
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.tiling import TiledDenoiser, Tiling

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

class Doubling(Denoiser):
    def forward(self, x, sigma):
        return 2 * x

for side in (160, 1024):  # the first loads what PyTorch needs for it
    x = torch.ones(1, 3, side, side)
    before = peak()
    _, product = TiledDenoiser(Doubling(), Tiling(128, 128, 64)).linearized(x, 0.5)
    assert torch.allclose(product(x), 2 * x)
print((peak() - before) * 1024 / x.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
def test_products_over_many_tiles_take_a_few_images() -> None:
    done = subprocess.run([sys.executable, "-c", PRODUCT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10


def test_more_images_than_fit_go_through_in_turn(denoiser: Denoiser) -> None:
    rows: list[int] = []
    denoiser.register_forward_hook(lambda module, inputs, out: rows.append(len(inputs[0])))
    x, sigma = noisy(0.5, 5), torch.linspace(0.1, 1, 5)
    with torch.no_grad():
        whole, parts = denoiser(x, sigma), TiledDenoiser(denoiser, Tiling(256, 352, 64, 2))(x, sigma)
    assert rows == [5, 2, 2, 1]
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_the_tiling_uses_the_bound_and_no_more() -> None:
    def choose(shape: tuple[int, int, int], gib: float, rows: int = 1) -> Tiling | None:
        return Budget(gib, "max_memory", 1000.0, 30).tiling(shape, rows)

    def taken(chosen: Tiling | None, shape: tuple[int, int, int], rows: int = 1) -> float:
        _, height, width = shape
        own = height * width * rows
        at_once = own if chosen is None else min(chosen.height, height) * min(chosen.width, width) * chosen.at_once
        return (PROGRAM + 30 * 12 * own + 1000 * at_once) / GIB

    assert choose((3, 500, 500), 4) is None
    assert choose((3, 500, 500), 4, rows=10) == Tiling(512, 512, OVERLAP, 8)
    square = choose((3, 2000, 2000), 3.5)
    assert square is not None and square.height == square.width and square.at_once == 1
    strip = choose((3, 300, 8000), 3)
    assert strip is not None and strip.height == 320 and strip.width > 1000
    assert choose((3, 8000, 300), 3) == Tiling(strip.width, strip.height, OVERLAP)
    for chosen, shape, gib in ((square, (3, 2000, 2000), 3.5), (strip, (3, 300, 8000), 3)):
        assert 0.85 * gib < taken(chosen, shape) <= gib
    with pytest.raises(InputError, match=r"max_memory is 2 GiB, but images of 2000x3000 .* take 3\.2, even in tiles"):
        choose((3, 2000, 3000), 2)
    assert choose((3, 2000, 3000), 3.2) is not None
    least = Tiling(LEAST_TILE, LEAST_TILE, OVERLAP)
    assert choose((3, 2000, 3000), taken(least, (3, 2000, 3000)) + 1e-6) == least
    for most in (3.2, 3.3):  # no bound was given, and more is free than the share by which tiles are chosen
        assert Budget(2, "60% of the free memory", 1000.0, 30, most_gib=most).tiling((3, 2000, 3000), 1) == least
    with pytest.raises(InputError, match=r"60% of the free memory is 2 GiB, but"):
        Budget(2, "60% of the free memory", 1000.0, 30, most_gib=3.0).tiling((3, 2000, 3000), 1)


def test_what_a_container_leaves(tmp_path: Path) -> None:
    assert memory._left_to_group(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 10\ninactive_file 1000\n")
    assert memory._left_to_group(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory._left_to_group(tmp_path) == 7000
    assert 0 < memory.free_memory(CPU, 2) == pytest.approx(memory.free_memory(CPU) / 2, rel=0.05)
