"""One thread for every test, since tensors are small, and so that sums do not depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # its scripts are modules for their tests
