"""Residuals, and what is shown of a measurement, with operators that measure only a part of an image."""

from __future__ import annotations

import pytest
import torch

from randomwalk.operators import Blur, Inpainting, Operator, make
from randomwalk.sampling import measuring
from randomwalk.sampling.batch import Batch, SampleId, visible_and_baseline


def test_the_residual_is_the_mean_over_the_known_pixels() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :1] = 1  # a quarter
    operator, x = Inpainting((3, 4, 4), mask), torch.zeros(1, 3, 4, 4)
    batch = Batch([SampleId(0, 0)], x, measurement=0.3 * torch.ones(1, 3, 4, 4), noise_std=0.2)
    assert measuring.residuals(operator, batch) == pytest.approx([1.5])


def test_noise_on_missing_pixels_is_not_shown() -> None:
    mask = (torch.arange(16) % 2).reshape(1, 1, 4, 4).float()
    y = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    visible, baseline = visible_and_baseline(Inpainting((3, 4, 4), mask), y)
    torch.testing.assert_close(visible, mask * y)
    assert baseline is visible


def test_without_a_closed_form_the_measurement_itself_is_shown() -> None:
    kernel = torch.tensor([[0.0, 0.2, 0.0], [0.3, 0.3, 0.1], [0.0, 0.1, 0.0]])
    y = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    visible, baseline = visible_and_baseline(Blur((1, 6, 6), kernel, "reflect"), y)
    assert visible is y and baseline is y


class EverySecondRow(Operator):
    """An operator without a spectral decomposition, whose measurements are smaller than images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * x[..., ::2, :]


def test_a_smaller_measurement_is_compared_with_its_adjoint() -> None:
    y = torch.ones(1, 1, 3, 6)
    visible, baseline = visible_and_baseline(EverySecondRow((1, 6, 6)), y)
    assert visible is y and baseline is not None
    torch.testing.assert_close(baseline, torch.tensor([3.0, 0, 3, 0, 3, 0])[:, None].expand(1, 1, 6, 6))


def test_projections_are_shown_by_their_filtered_back_projection() -> None:
    operator = make("tomography", image_shape=(1, 9, 9), views=6)
    y = operator(torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)))
    visible, baseline = visible_and_baseline(operator, y)
    assert torch.equal(visible, y) and baseline is not None
    assert torch.equal(baseline, operator.interpolated(y))
