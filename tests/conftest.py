"""One thread for every test: the tensors are small, and timings and sums do not depend on the machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
