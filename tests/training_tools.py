"""Tools for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from randomwalk.training.trainer import Trainer


@contextmanager
def interrupted_at(step: int, error: type[BaseException]) -> Iterator[None]:
    """Make every training in the block end with ``error`` after ``step`` steps."""
    take = Trainer.train_step

    def dies(self: Trainer, *arguments: Any) -> Any:
        if self.step == step:
            raise error
        return take(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patch.setattr(Trainer, "train_step", dies)
        yield
