"""Denoising by one evaluation, of Gaussian noise and of counts of photons."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from config_examples import message_of
from given_tools import DENOISING, config_for, noisy_photograph, save_picture
from sampling_tools import arrays_of, read_metrics
from torch import Tensor

from randomwalk import operators, samplers
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError
from randomwalk.images.anscombe import TABLE, stabilised, unbiased_inverse
from randomwalk.operators import Identity, Measurement
from randomwalk.operators.noise import GaussianNoise, LaplaceNoise, Noise, PoissonNoise
from randomwalk.sampling import run as sampling

SHAPE = (3, 4, 6)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture() -> GaussianMixture:
    return GaussianMixture([0.3, 0.7], draw(2, *SHAPE, seed=1), torch.tensor([0.3, 0.5], dtype=torch.float64) ** 2)


def posterior_mean(y: Tensor, noise: Noise, denoiser: Denoiser, turns: int = 1) -> Tensor:
    measurement = Measurement(Identity(tuple(y.shape[1:])), noise, y)
    return samplers.make("posterior_mean", turns=turns).sample(denoiser, None, measurement)


class Blur(Denoiser):
    """A denoiser that treats all directions alike."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        around = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] + padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]
        return (x + sigma * around.tanh()) / (1 + sigma)


class Sideways(Denoiser):
    """One that does not."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x.roll(1, -1)


def test_it_is_the_mean_of_the_posterior() -> None:
    """Of a Gaussian mixture: the means of the components given y, weighted by their evidence."""
    y, eta, prior = draw(5, *SHAPE, seed=2), 0.4, mixture()
    means, stds = draw(2, *SHAPE, seed=1), torch.tensor([0.3, 0.5], dtype=torch.float64)
    total = stds**2 + eta**2
    error = (y[:, None] - means).flatten(2).square().sum(2)
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
    weight = (shares.log() - error / (2 * total) - math.prod(SHAPE) / 2 * total.log()).softmax(1)
    given = means + (stds**2 / total)[:, None, None, None] * (y[:, None] - means)
    expected = (weight[:, :, None, None, None] * given).sum(1)
    torch.testing.assert_close(posterior_mean(y, GaussianNoise(eta), prior), expected, rtol=0, atol=1e-6)


def test_turns_change_nothing_where_all_directions_are_alike() -> None:
    y, noise = draw(2, *SHAPE), GaussianNoise(0.5)
    counted = CountingDenoiser(Blur())
    torch.testing.assert_close(posterior_mean(y, noise, counted, turns=4), posterior_mean(y, noise, Blur()))
    assert counted.evaluations == 4
    turned = (y.roll(1, -1) + y.roll(-1, -1) + y.roll(1, -2) + y.roll(-1, -2)) / 4
    torch.testing.assert_close(posterior_mean(y, noise, Sideways(), turns=4), turned)


def test_below_the_lowest_level_the_score_of_that_level_is_taken() -> None:
    y, prior = draw(2, *SHAPE), mixture()
    prior.sigma_min = 0.1
    expected = y + 0.02**2 * prior.score(y, 0.1)
    torch.testing.assert_close(posterior_mean(y, GaussianNoise(0.02), prior), expected)
    assert (prior(y, 0.1) - y).abs().max() > 10 * (expected - y).abs().max()


@pytest.mark.parametrize("read_std", [0.0, 0.4, 3.0])
def test_the_inverse_of_the_transform_of_counts_is_unbiased(read_std: float) -> None:
    """The mean of the transform of simulated counts goes back to the mean of the counts."""
    number = 200_000
    draws = np.random.default_rng(0)
    for mean in (0.2, 1.0, 4.0, 30.0, TABLE + 20):
        counts = draws.poisson(mean, number) + read_std * draws.standard_normal(number)
        z = stabilised(torch.from_numpy(counts), read_std)
        found = float(unbiased_inverse(z.mean(), read_std))
        slope = max(float(z.mean()) / 2, (mean + read_std**2) ** 0.5)  # of the inverse, near z / 2
        assert abs(found - mean) < 5 * slope * float(z.std()) / number**0.5 + 1e-3
    algebraic = (z.mean() / 2) ** 2 - 3 / 8 - read_std**2
    assert abs(float(algebraic) - mean) > 0.2  # which it is not by itself
    assert float(z.std()) == pytest.approx(1, abs=0.02)
    assert unbiased_inverse(torch.tensor([0.0, 1.0]), read_std).min() >= 0


class Constant(Denoiser):
    """The best denoiser of images that are constant."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen = float((x - x.mean((-2, -1), keepdim=True)).std()), sigma
        return x.mean((-2, -1), keepdim=True).expand_as(x)


@pytest.mark.parametrize("noise", [PoissonNoise(8), PoissonNoise(30), PoissonNoise(30, 0.1)], ids=["8", "30", "read"])
def test_counts_of_photons_are_restored_without_bias(noise: PoissonNoise) -> None:
    """The mean over many pixels of a constant image, to five standard errors; the denoiser is told the right noise."""
    torch.manual_seed(0)
    for x in (-0.7, 0.0, 0.6):
        clean = torch.full((1, 1, 200, 200), x)
        denoiser = Constant()
        found = float(posterior_mean(noise.apply(clean), noise, denoiser).mean())
        error = (2 * (x + 1) / noise.peak + noise.read_std**2) ** 0.5 / 200
        assert abs(found - x) < 5 * error + 2e-3 / noise.peak
        assert denoiser.seen[0] == pytest.approx(denoiser.seen[1], rel=0.05 if x > -0.5 else 0.2)


def test_grey_copies_are_told_the_noise_of_one_channel() -> None:
    torch.manual_seed(0)
    y = PoissonNoise(40, 0.05).apply(torch.zeros(1, 1, 64, 64))
    one, three = Constant(), Constant()
    x = posterior_mean(y, PoissonNoise(40, 0.05), one)
    torch.testing.assert_close(
        posterior_mean(y.expand(-1, 3, -1, -1), PoissonNoise(40, 0.05).of_copies(3), three), x.expand(-1, 3, -1, -1)
    )
    assert three.seen[1] == pytest.approx(one.seen[1] * math.sqrt(3))


def test_what_is_not_denoising_is_refused() -> None:
    y = draw(1, *SHAPE)
    inpainting = operators.make("inpainting", image_shape=SHAPE, missing=0.5)
    for measurement, said in [
        (Measurement(inpainting, GaussianNoise(0.1), y), "is for denoising alone.*Inpainting: take .*random_walk"),
        (Measurement(Identity(SHAPE), LaplaceNoise(0.1), y), "noise 'laplace'; it supports gaussian, poisson"),
        (None, "needs a measurement"),
    ]:
        with pytest.raises(InputError, match=said):
            samplers.make("posterior_mean").sample(mixture(), None, measurement)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["num_samples=4"], ["num_samples", "one image, the mean", "{name: random_walk, step_scale: 0.3"]),
        (["sampler.schedule.name=karras"], ["sampler.schedule", "a single level, that of the noise"]),
        (["sampler.turns=2"], ["sampler.turns", "found 2", "1, 4"]),
    ],
)
def test_the_config_says_what_it_does_not_do(changes: list[str], said: list[str]) -> None:
    message = message_of(lambda: load_sample_config("configs/photo_denoise.yaml", changes))
    assert all(words in message for words in said), message


def test_the_settings_for_samples_are_right() -> None:
    said = message_of(lambda: load_sample_config("configs/photo_denoise.yaml", ["num_samples=4"]))
    section = said[said.index("{name: random_walk") :]
    config = load_sample_config("configs/photo_denoise.yaml", ["num_samples=4", f"sampler={section}"])
    assert config.sampler.name == "random_walk" and config.sampler.final_temperature == 1


def test_a_run_takes_one_evaluation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "photo.png", noisy_photograph(20, 26, 25))
    config = config_for(tmp_path, tmp_path / "photo.png", DENOISING, sampler={"name": "posterior_mean"})
    assert sampling.dry_run(config) == 0
    assert "posterior_mean, 1 steps for each batch, at the level of the noise" in capfd.readouterr().out
    assert sampling.run(config) == 0
    run = Path(config.output)
    [row] = read_metrics(run)
    assert row["evaluations"] == "1" and float(row["noise_of_255"]) == 25
    assert not (run / "schedule.png").exists()
    assert arrays_of(run)["0000_photo_sample0"].shape == (3, 20, 26)


class Identical(Denoiser):
    """One that is given flat areas as they are on average."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x.mean(-1, keepdim=True).expand_as(x)


def test_what_a_file_has_cut_off_is_put_back() -> None:
    """Rows of one brightness each, whose noise is cut off at black and white: the mean of each is the brightness."""
    std, number = 0.2, 40_000
    x = torch.tensor([-1.0, -0.9, -0.7, 0.0, 0.8, 0.95, 1.0], dtype=torch.float64)[:, None].expand(1, 1, 7, number)
    y = x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cut = y.clamp(-1, 1)
    found = posterior_mean(cut, GaussianNoise(std), Identical())
    inverse = 2.6  # at most, the slope of what is solved, at white: 1 / (1 - Phi(0)), and half as much again
    assert (found - x).abs().max() < 5 * inverse * std / number**0.5
    assert (cut.mean(-1) - x[..., 0]).abs().max() > 0.3 * std
    torch.testing.assert_close(posterior_mean(y, GaussianNoise(std), Identical()), Identical()(y, std))
    photons = PoissonNoise(50)
    y = photons.apply(x.float()[:, :, 4:])
    found = posterior_mean(y.clamp(max=1), photons, Identical())
    assert (found - x[:, :, 4:]).abs().max() < 0.01 < (y.clamp(max=1).mean(-1) - x[:, :, 4:, 0]).abs().max()
