"""Demosaicking: the Bayer patterns."""

from __future__ import annotations

import pytest
import torch
from operator_cases import normal

from randomwalk import InputError, operators


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_patterns(pattern: str) -> None:
    """A pixel holds the number of its colour: 0 red, 1 green, 2 blue."""
    x = torch.arange(3.0)[:, None, None].expand(1, 3, 3, 4)
    y = operators.make("demosaic", image_shape=(3, 3, 4), pattern=pattern)(x)[0, 0]
    a, b, c, d = ("RGB".index(colour) for colour in pattern)
    assert y.tolist() == [[a, b, a, b], [c, d, c, d], [a, b, a, b]]


def test_the_pattern_of_deepinv_is_bggr() -> None:
    physics = pytest.importorskip("deepinv", reason="needs deepinv").physics.Demosaicing((3, 5, 6))
    operator, x = operators.make("demosaic", image_shape=(3, 5, 6), pattern="BGGR"), normal(2, 3, 5, 6).float()
    torch.testing.assert_close(operator(x), physics.A(x).sum(1, keepdim=True))
    torch.testing.assert_close(operator.adjoint(operator(x)), physics.A_adjoint(physics.A(x)))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="the images have 1 channels; expected 3"):
        operators.make("demosaic", image_shape=(1, 4, 4))
    with pytest.raises(InputError, match="allowed: one of RGGB, BGGR, GRBG, GBRG"):
        operators.make("demosaic", image_shape=(3, 4, 4), pattern="RGBG")
