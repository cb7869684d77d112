"""Fixtures of the tests of configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.files import load_sample_config, load_train_config


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., SampleConfig]:
    """``sample(text, *overrides)`` loads a sampling task."""

    def load(text: str | bytes, *overrides: str) -> SampleConfig:
        (tmp_path / "task.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_sample_config(tmp_path / "task.yaml", overrides)

    return load


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., TrainConfig]:
    """``train(text, *overrides)`` loads a training."""

    def load(text: str, *overrides: str) -> TrainConfig:
        (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
        return load_train_config(tmp_path / "task.yaml", overrides)

    return load
