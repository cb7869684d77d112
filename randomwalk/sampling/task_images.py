"""Images of a sampling task: where they come from, their names, sizes and shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.images.sources import ImageSource
from randomwalk.images.tensors import Size
from randomwalk.operators.operator import ImageShape
from randomwalk.sampling.sizes import Sizing, sizing_of


@dataclass
class TaskImages:
    """Images of a sampling task; in an unconditional run only their number and shape.

    Attributes:
        config: the settings.
        shape: ``(C, H, W)`` of the images, with margins; of the largest if they keep their own size.
        source: the true or measured images; None in an unconditional run.
        names: name of each image, empty in an unconditional run.
        sizes: size of each image if they keep their own, None for one that cannot be read; None if all have one size.
        greys: whether each image is grey while the network takes colour; empty unless images keep their own size.
    """

    config: SampleConfig
    shape: ImageShape
    source: ImageSource | None
    names: list[str] = field(default_factory=list)
    sizes: list[Size | None] | None = None
    greys: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def is_grey(self, image: int) -> bool:
        """Whether an image is grey while the network takes colour: it is repeated in all channels."""
        return bool(self.greys) and self.greys[image]

    @cached_property
    def sizing(self) -> Sizing:
        """Size of the true image that belongs to one of the source; see `sizes.sizing_of`."""
        return sizing_of(self.config)

    def shape_of(self, image: int) -> ImageShape:
        """Shape ``(C, H, W)`` of an image.

        Raises:
            InputError: it cannot be read, or is too small; see `sizing`.
        """
        if self.sizes is None:
            return self.shape
        assert self.source is not None
        size = self.sizes[image] or self.source.size(image)
        return (self.shape[0], *self.sizing(size, self.names[image]))

    def load(self, image: int, shape: ImageShape) -> Tensor:
        """Load an image of the source as ``[C, H, W]`` of this shape.

        Raises:
            InputError: it does not decode.
        """
        assert self.source is not None and self.config.data is not None
        channels, *size = shape
        return self.source.load(image, channels, size, self.config.data.fit)
