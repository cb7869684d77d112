"""The denoiser of a finite set of images is exact, at any noise level and for any number of images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randomwalk import GaussianMixture, InputError, samplers
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.rng import ImageDraws, generator

# Sums over 7 images and 48 pixels in float64, in exponents of up to |x|^2 / sigma^2 = 1e6.
FLOAT64 = 1e-9


def pictures(num: int = 7, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.rand((num, 3, 4, 4), generator=draws, dtype=torch.float64) - 1


def noisy(images: Tensor, sigma: float, num: int = 5) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    which = torch.randint(len(images), (num,), generator=draws)
    return images[which] + sigma * torch.randn((num, *images.shape[1:]), generator=draws, dtype=images.dtype)


def worst(denoiser: EmpiricalDenoiser) -> float:
    """Largest difference to a Gaussian mixture with covariance 0, of D and of sigma times the score."""
    reference = GaussianMixture(torch.ones(len(denoiser.images)), denoiser.images, 0.0)
    errors = []
    for sigma in (1e-2, 0.3, 1.0, 3.0, 100.0):
        x = noisy(denoiser.images, sigma)
        for given in (sigma, torch.full((5,), sigma, dtype=torch.float64)):
            errors.append((denoiser(x, given) - reference(x, sigma)).abs().max())
            errors.append(sigma * (denoiser.score(x, given) - reference.score(x, sigma)).abs().max())
    return float(torch.stack(errors).max())


class WithoutTwo(EmpiricalDenoiser):
    """The softmax of ``-distance / sigma^2``."""

    def responsibilities(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return super().responsibilities(x, torch.as_tensor(sigma) / math.sqrt(2))


class Linear(EmpiricalDenoiser):
    """The distance, not its square."""

    @staticmethod
    def _distances(z: Tensor, part: Tensor) -> Tensor:
        return torch.cdist(z, part.flatten(1))


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_it_is_a_mixture_without_covariance(chunk: int) -> None:
    assert worst(EmpiricalDenoiser(pictures(), chunk)) < FLOAT64


@pytest.mark.parametrize("wrong", [WithoutTwo, Linear])
def test_other_weights_are_not(wrong: type[EmpiricalDenoiser]) -> None:
    assert worst(wrong(pictures())) > 1e-3


def test_the_ends_of_the_range() -> None:
    """Near 0 the nearest image, far away the mean of all; nothing overflows at either, nor far from all images."""
    images = pictures()
    denoiser = EmpiricalDenoiser(images)
    x = images + 0.01
    for sigma in (0.0, 1e-150, 1e-3):
        assert torch.equal(denoiser(x, sigma), images)
    mean = images.mean(0).expand_as(images)
    assert (denoiser(x, 1e6) - mean).abs().max() < 1e-9  # weights differ by distance^2 / (2 sigma^2) = 1e-11
    far = denoiser(1e8 * torch.ones_like(x), 0.1)  # of all, the brightest
    assert torch.equal(far, images[images.flatten(1).sum(1).argmax()].expand_as(far))
    single = EmpiricalDenoiser(images[:1].float())
    for sigma in (1e-3, 1.0, 1e4):
        assert torch.equal(single(x.float(), sigma), images[:1].float().expand(7, -1, -1, -1))


def test_each_image_has_its_noise_level_and_type() -> None:
    denoiser, x = EmpiricalDenoiser(pictures().float()), noisy(pictures(), 1.0)
    levels = torch.tensor([0.1, 0.5, 1.0, 2.0, 30.0])
    rows = [denoiser(x[i : i + 1], float(level)) for i, level in enumerate(levels)]
    torch.testing.assert_close(denoiser(x, levels), torch.cat(rows), rtol=1e-7, atol=1e-7)  # 0.1 in float32
    assert denoiser(x.float(), 1.0).dtype == torch.float32
    torch.testing.assert_close(denoiser(x.float(), 1.0).double(), denoiser(x, 1.0), rtol=1e-5, atol=1e-5)
    assert (denoiser.channels, denoiser.image_size) == (3, 4)


def test_its_jacobian_is_the_covariance() -> None:
    """sigma^2 dD/dx = Cov[X | x], here from the probabilities of the images."""
    images, sigma = pictures(3), 1.5
    denoiser, x, v = EmpiricalDenoiser(images), noisy(images, sigma, 2), torch.ones(2, 3, 4, 4, dtype=torch.float64)
    out, product = denoiser.linearized(x, sigma)
    weights = denoiser.responsibilities(x, sigma)
    centred = images.flatten(1)[None] - out.flatten(1)[:, None]
    along = (weights * (centred @ v[0].flatten()))[..., None]
    torch.testing.assert_close(product(v).flatten(1), (along * centred).sum(1) / sigma**2, rtol=FLOAT64, atol=FLOAT64)


def test_labels_name_an_image() -> None:
    images = pictures()
    denoiser, x = EmpiricalDenoiser(images), noisy(images, 2.0)
    label = torch.tensor([0, 6, 3, 3, 1])
    assert torch.equal(denoiser(x, 2.0, label), images[label])
    torch.testing.assert_close(denoiser.score(x, 2.0, label), (images[label] - x) / 4)


@pytest.mark.parametrize("name", ["heun", "ddim", "ddpm_small"])
def test_what_it_samples_are_the_images(name: str) -> None:
    images = pictures(3)
    denoiser = EmpiricalDenoiser(images)
    draws = ImageDraws([generator(0, i) for i in range(12)], torch.device("cpu"))
    levels = torch.logspace(1.5, -2, 40).tolist()
    end = samplers.make(name).sample(denoiser, levels, start=levels[0] * draws.normal((3, 4, 4)).double(), draws=draws)
    distances = (end[:, None] - images).flatten(2).abs().amax(2).amin(1)
    # At sigma = 0.01 images 4 apart are told from one another without doubt, and the last step goes to D.
    assert distances.max() < 1e-6
    assert len({int(d.argmin()) for d in (end[:, None] - images).flatten(2).square().sum(2)}) > 1


@pytest.mark.parametrize("images", [torch.zeros(0, 3, 4, 4), torch.zeros(3, 4, 4), torch.full((1, 1, 2, 2), math.nan),
                                    torch.zeros(1, 3, 4, 4, dtype=torch.uint8)])  # fmt: skip
def test_what_is_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match="expected finite images"):
        EmpiricalDenoiser(images)
