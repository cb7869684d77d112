"""One thread for every test: the tensors are small, and timings and sums do not depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1] / "benchmarks")
)  # the modules of its scripts, for their tests
