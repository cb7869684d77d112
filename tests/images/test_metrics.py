"""Figures of merit against their formulas and against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from randomwalk.images import metrics


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 24, 20, generator=draws) * 1.6 - 0.8
    noise = torch.randn(truth.shape, generator=draws) * torch.tensor([0.05, 0.3, 0.8]).reshape(3, 1, 1, 1)
    return truth + noise, truth


def test_psnr_is_that_of_each_image_on_the_true_range(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, truth = images
    expected = 10 * np.log10(4 / ((x.clamp(-1, 1) - truth).numpy().astype(np.float64) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(metrics.psnr(x, truth).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("at_a_time", [2**18, 14 * 60, 1])
def test_ssim_agrees_with_scikit_image(
    images: tuple[torch.Tensor, torch.Tensor], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SSIM_PIXELS", at_a_time)  # 24 rows at once, or 14 and 10, or 11, 11 and 2
    x, truth = images
    settings = {"channel_axis": 0, "data_range": 2, "gaussian_weights": True, "use_sample_covariance": False}
    expected = []
    for b in range(3):
        # Ours averages over the whole image, mirrored at its edges; scikit-image leaves the border out.
        mirrored = [np.pad(v[b].double().numpy(), ((0, 0), (5, 5), (5, 5)), "reflect") for v in (x.clamp(-1, 1), truth)]
        _, full = structural_similarity(*mirrored, full=True, **settings)
        expected.append(full[:, 5:-5, 5:-5].mean())
    np.testing.assert_allclose(metrics.ssim(x, truth).numpy(), expected, atol=1e-5)


def test_ssim_of_a_single_image_and_of_one_too_small() -> None:
    x = torch.linspace(-1, 1, 144).reshape(1, 1, 12, 12)
    assert metrics.ssim(x, x).tolist() == pytest.approx([1.0])
    assert math.isnan(metrics.ssim(x[..., :8, :8], x[..., :8, :8])[0])
    assert metrics.qualities(x[..., :8, :8], x[..., :8, :8] * 0.9)[0]["ssim"] is None


def test_psnr_minmax_is_the_papers(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, truth = images
    a, b = (v.numpy().astype(np.float64) for v in (x, truth))
    a, b = ((v - v.min((1, 2, 3), keepdims=True)) / np.ptp(v, (1, 2, 3), keepdims=True) for v in (a, b))
    expected = 10 * np.log10(1 / ((a - b) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(metrics.psnr_minmax(x, truth).numpy(), expected, rtol=1e-5)
    assert metrics.psnr_minmax(0.3 * truth + 0.2, truth).min() > 100  # blind to brightness and contrast
    assert metrics.psnr(0.3 * truth + 0.2, truth).max() < 20


def test_metrics_leave_their_arguments_alone(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, truth = images
    copies = x.clone(), truth.clone()
    metrics.qualities(x, truth)
    assert torch.equal(x, copies[0]) and torch.equal(truth, copies[1])


def test_mean_over_images_counts_an_image_once() -> None:
    rows = [{"image": 0, "psnr": 10.0}, {"image": 0, "psnr": 14.0}, {"image": 1, "psnr": 20.0}, {"image": 2}]
    mean, error = metrics.over_images(rows, "psnr") or (0, 0)
    assert mean == pytest.approx(16)
    assert error == pytest.approx(np.std([12, 20], ddof=1) / math.sqrt(2))
    assert metrics.over_images(rows, "ssim") is None
    assert math.isnan(metrics.mean_and_error([3.0])[1])
