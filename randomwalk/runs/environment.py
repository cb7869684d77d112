"""Command, versions and machine of a run."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import randomwalk


def command_line() -> str:
    """Command line of this process, quoted for a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def git_commit() -> str | None:
    """Commit of the source, with ``-dirty`` if it was changed; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def environment(device: str, world_size: int, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Contents of run.json about the command, versions and machine of a run."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command_line(),
        "git_commit": git_commit(),
        "versions": {
            "randomwalk": randomwalk.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
        "device": device,
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        **(extra or {}),
    }
