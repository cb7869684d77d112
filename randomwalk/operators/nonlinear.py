"""Operators that are not linear: high-dynamic-range clipping and JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.tensors import LUMA
from randomwalk.operators.operator import Operator


class HDR(Operator):
    """``A(x) = clip(factor x, -1, 1)``: an exposure too high for the sensor, sought is what it clipped.

    Not linear; the derivative is ``factor`` where nothing is clipped and 0 elsewhere.
    Source: Mardani et al. 2024, arXiv 2305.04391, with factor 2.

    Args:
        image_shape: ``(C, H, W)``.
        factor: positive.
    """

    linear = False

    def __init__(self, image_shape: Sequence[int], factor: float = 2.0) -> None:
        super().__init__(image_shape)
        if not 0 < factor < float("inf"):
            raise InputError(f"hdr: factor={factor}; expected a positive number")
        self.factor = factor

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        return (self.factor * x).clamp(-1, 1)

    def norm(self) -> float:
        return self.factor


class JPEG(Operator):
    """A JPEG codec at a quality, with a derivative: an approximation in two ways.

    ``A(x)`` is what encoding and decoding makes of the image: YCbCr, chroma averaged over 2 x 2 pixels (4:2:0) and
    interpolated, cosine transform of 8 x 8 blocks, coefficients rounded to multiples of the quantization table. It
    differs from a codec's in that colours and pixels are not rounded to bytes. The *derivative* of the rounding and of
    the clipping, 0 or undefined, is replaced by 1 ("straight-through"), so that the gradient is the one of a codec that
    does not quantize, at the residual of the one that does.

    Source: ITU-T T.81 (1992), annex A and K.1; tables scaled by quality as in the library of the IJG. The derivative:
    Bengio, Leonard and Courville 2013, arXiv 1308.3432.

    Args:
        image_shape: ``(C, H, W)``, C 1 (grey) or 3 (RGB); any size (blocks at the border repeat the edge).
        quality: 1 to 100.
        subsampling: of the chroma, "4:2:0" or "4:4:4" (none).
    """

    linear = False
    cosines: Tensor
    tables: Tensor

    def __init__(self, image_shape: Sequence[int], quality: int = 10, subsampling: str = "4:2:0") -> None:
        super().__init__(image_shape)
        if not isinstance(quality, int) or not 1 <= quality <= 100:
            raise InputError(f"jpeg: quality={quality!r}; expected a whole number from 1 to 100")
        if subsampling not in ("4:2:0", "4:4:4"):
            raise InputError(f"jpeg: subsampling={subsampling!r}; expected 4:2:0 or 4:4:4")
        if image_shape[0] not in (1, 3):
            raise InputError(f"jpeg: the images have {image_shape[0]} channels; expected 1 (grey) or 3 (RGB)")
        self.halved = subsampling == "4:2:0" and image_shape[0] == 3
        place = torch.arange(8, dtype=torch.float64)
        cosines = torch.cos((2 * place + 1) * place[:, None] * torch.pi / 16) / 2
        cosines[0] /= 2**0.5
        self.register_buffer("cosines", cosines)
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        tables = torch.tensor([_LUMA_TABLE, _CHROMA_TABLE]).reshape(2, 8, 8)
        self.register_buffer("tables", ((tables * scale + 50) // 100).clamp(1, 255).double())
        self.register_buffer("colours", torch.tensor(_YCBCR, dtype=torch.float64))

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        _, height, width = self.image_shape
        side = 16 if self.halved else 8
        level = _pad_to(127.5 * (x + 1), side) - 128  # bytes, shifted as the standard does
        if len(level[0]) == 1:
            return _to_pixels(self._quantize(level, self.tables[0]))[..., :height, :width]
        colours = self.get_buffer("colours").to(x.dtype)
        luma, chroma = self._mix(colours, level + 128).split([1, 2], 1)
        luma = self._quantize(luma - 128, self.tables[0]) + 128
        if self.halved:
            chroma = self._quantize(torch.nn.functional.avg_pool2d(chroma, 2), self.tables[1])
            chroma = torch.nn.functional.interpolate(chroma, scale_factor=2, mode="bilinear")
        else:
            chroma = self._quantize(chroma, self.tables[1])
        rgb = self._mix(torch.linalg.inv(self.get_buffer("colours")).to(x.dtype), torch.cat([luma, chroma], 1))
        return _to_pixels(rgb - 128)[..., :height, :width]

    def norm(self) -> float:
        """Bound of the derivative as it is defined here: that of the change of colours and back, with 4:2:0."""
        colours = self.get_buffer("colours")
        bound = torch.linalg.svdvals(colours)[0] * torch.linalg.svdvals(torch.linalg.inv(colours))[0]
        return float(bound) if self.halved else 1.0

    def _quantize(self, plane: Tensor, table: Tensor) -> Tensor:
        """Planes ``[B, C, 8 h, 8 w]`` with the cosine coefficients of their blocks rounded."""
        batch, channels, height, width = plane.shape
        cosines, table = self.cosines.to(plane.dtype), table.to(plane.dtype)
        blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
        coefficients = cosines @ blocks @ cosines.T / table
        rounded = coefficients + (coefficients.round() - coefficients).detach()
        decoded = cosines.T @ (rounded * table) @ cosines
        return decoded.transpose(3, 4).reshape(plane.shape)

    @staticmethod
    def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
        return torch.einsum("dc,bchw->bdhw", matrix, planes)


def _pad_to(x: Tensor, side: int) -> Tensor:
    """The image with its last row and column repeated until its sides are multiples of ``side``."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % side, 0, -x.shape[-2] % side), mode="replicate")


def _to_pixels(level: Tensor) -> Tensor:
    """[-1, 1] pixels of shifted bytes, clipped, the derivative going on as if not."""
    x = (level + 128) / 127.5 - 1
    return x + (x.clamp(-1, 1) - x).detach()


_YCBCR = [[*LUMA], [-0.299 / 1.772, -0.587 / 1.772, 0.5], [0.5, -0.587 / 1.402, -0.114 / 1.402]]
_LUMA_TABLE = [
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
]
_CHROMA_TABLE = [
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99),
]
