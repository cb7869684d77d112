"""The models beside the networks in the benchmark of likelihoods, and what it keeps of each image."""

from __future__ import annotations

import math
from pathlib import Path

import likelihood
import pytest
import torch
from support import common, engine
from torch import Tensor

from randomwalk import GaussianMixture, InputError


def framed(count: int, seed: int) -> Tensor:
    """Byte images of 2 x 2 pixels in a black border of 2, with few of the grey values."""
    values = torch.randint(100, 110, (count, 1, 2, 2), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.pad(values / 127.5 - 1, (2, 2, 2, 2), value=-1.0)


def make_setup(folder: Path, *arguments: str) -> likelihood.Setup:
    options = likelihood.options().parse_args(["--out", str(folder), *arguments])
    report = common.Report("likelihood", options, "cpu")
    kept = engine.Records(report.folder, options.resume)
    return likelihood.Setup(options, report, kept, torch.device("cpu"), framed(400, 0), framed(50, 1), -0.3, 0.2)


def test_the_price_of_a_certain_pixel() -> None:
    """The mean of ``-log2(w Normal(u w; 0, sigma^2))`` over u even on (-1/2, 1/2)."""
    for sigma in (0.01, 0.02):
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000 - 0.5
        log_prob = torch.distributions.Normal(0.0, sigma).log_prob(u * 2 / 255)
        expected = float((-log_prob / math.log(2) - math.log2(2 / 255)).mean())
        assert likelihood.price(sigma) == pytest.approx(expected, abs=1e-6)


def test_the_histogram_is_a_code_of_the_training_images(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    found = likelihood.histogram(setup)
    train, test = (((part + 1) * 127.5).round().flatten(1) for part in (setup.train, setup.test))
    expected = 0.0
    for place in range(36):
        expected -= math.log2((int((train[:, place] == test[3, place]).sum()) + 1) / (400 + 256))
    assert found[3] == pytest.approx(expected / 36, abs=1e-10)


def test_the_gaussian_pays_the_price_for_the_border(tmp_path: Path) -> None:
    """The border is independent of the rest, and its share is known in closed form."""
    setup, sigma = make_setup(tmp_path), 0.02
    (found,) = likelihood.gaussian(setup, [sigma**2])
    inner = setup.train[..., 2:4, 2:4].flatten(1).double()
    spread = torch.cov(inner.T, correction=0) + sigma**2 * torch.eye(4)
    x = setup.dequantised()
    log_prob = torch.distributions.MultivariateNormal(inner.mean(0), spread).log_prob(x[..., 2:4, 2:4].flatten(1))
    bits = -log_prob / math.log(2) - 4 * math.log2(2 / 255)
    certain = torch.tensor(found) * 36 - bits
    assert setup.inner == 4
    # 32 pixels of 50 images: the price varies with the place in the cell.
    assert float(certain.mean()) / 32 == pytest.approx(likelihood.price(sigma), abs=3e-3)


def test_records_hold_what_is_asked_for_and_are_taken_over(tmp_path: Path) -> None:
    setup = make_setup(tmp_path / "a", "--batch-size", "3")
    denoiser = GaussianMixture([1.0], torch.full((1, 1, 6, 6), -0.3), 0.2)
    denoiser.sigma_min, denoiser.sigma_max = 0.02, 40.0
    run = likelihood.Run(5, 1e-3, 2)
    found = likelihood.measured(setup, "vp", denoiser, run)
    assert [len(found), found[0]["vjps"]] == [5, 2 * found[0]["evaluations"]]
    # An isotropic Gaussian does not move: the number is exact.
    expected = denoiser.log_prob(setup.dequantised()[:5].float(), 0.02).tolist()
    assert [record["log_prob"] for record in found] == pytest.approx(expected, rel=1e-5)
    again = make_setup(tmp_path / "b", "--resume", str(tmp_path / "a"))
    again.test = torch.full_like(again.test, math.nan)  # nothing is computed anew
    assert likelihood.measured(again, "vp", denoiser, run) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "1"], "--num-images 1"),
        (["--check-images", "300"], "at most --num-images 256"),
        (["--probes", "1"], "--probes 1"),
        (["--tolerance", "0"], "--tolerance 0"),
        (["--fashion-mnist", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        likelihood.main(likelihood.options().parse_args([*arguments, "--device", "cpu", "--out", str(tmp_path)]))
