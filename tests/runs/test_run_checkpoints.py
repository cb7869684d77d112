"""Checkpoints, of which a damaged one is noticed and the one before it is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randomwalk.errors import InputError
from randomwalk.runs import checkpoints
from randomwalk.runs.folder import RunFolder

NUM_FLIPS = 200


def state_of(seed: int) -> dict[str, Any]:
    """State of a small training, as the trainers write it."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Linear(12, 3))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 12)).sum().backward()
    optimizer.step()
    return {"images": seed, "seconds": 1.5, "network": network.state_dict(), "optimizer": optimizer.state_dict()}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else type(a) is type(b) and a == b


def read(folder: RunFolder) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    checkpoints.read(folder, found.append, "cpu")
    return found[0]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def directory_of(path: Path) -> int:
    """Place of the list of records at the end of the archive."""
    return path.read_bytes().index(b"PK\x01\x02")


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """At random places of the whole file, as many in its list of records, and that by which PyTorch takes a record for
    a folder and its tensor for empty."""
    folder, state = RunFolder(tmp_path), state_of(1)
    checkpoints.write(folder, state)
    path = folder.file("checkpoint.pt")
    whole, directory = path.read_bytes(), directory_of(path)
    draws = np.random.default_rng(0)
    bits = [*draws.integers(8 * len(whole), size=NUM_FLIPS), *draws.integers(8 * directory, 8 * len(whole), 50)]
    noticed = 0
    for bit in [*map(int, bits), 8 * (directory + 38) + 4]:
        path.write_bytes(whole)
        flip(path, bit)
        if checkpoints.damage(path):
            noticed += 1
        else:
            assert equal(read(folder), state), bit
    assert noticed > NUM_FLIPS / 2


def test_the_check_is_what_notices(tmp_path: Path) -> None:
    """PyTorch alone loads a tensor with a flipped bit."""
    folder, state = RunFolder(tmp_path), state_of(1)
    checkpoints.write(folder, state)
    path = folder.file("checkpoint.pt")
    weight = state["network"]["0.weight"].numpy().tobytes()
    flip(path, 8 * path.read_bytes().index(weight) + 20)
    assert not equal(torch.load(path, weights_only=True), state)
    assert "checksum" in checkpoints.damage(path)
    with pytest.raises(InputError, match=r"checkpoint\.pt: is damaged .*checksum"):
        read(folder)


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    for seed in (1, 2, 3):
        checkpoints.write(folder, state_of(seed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint_before.pt"]
    path = folder.file("checkpoint.pt")
    if harm == "missing":
        path.unlink()
    elif harm == "flipped":
        flip(path, 8 * (directory_of(path) // 2))
    else:
        path.write_bytes(path.read_bytes()[:-200] if harm == "cut" else b"")
    assert checkpoints.settle(folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {path} is damaged (") and line.endswith("continuing from checkpoint_before.pt")
    assert equal(read(folder), state_of(2))
    checkpoints.write(folder, state_of(4))  # keeps the good one, not the damaged one
    assert checkpoints.damage(folder.file("checkpoint_before.pt")) == ""
    assert checkpoints.settle(folder) and capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_not_a_file_is_no_checkpoint(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "checkpoint.pt")
    checkpoints.write(RunFolder(tmp_path), {"step": 1}, "checkpoint_before.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt: is not a file"):
        checkpoints.settle(RunFolder(tmp_path))


def test_two_damaged_checkpoints_are_one_message_and_none_is_a_start(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not checkpoints.settle(folder)
    for seed in (1, 2):
        checkpoints.write(folder, state_of(seed))
    for name in ("checkpoint.pt", "checkpoint_before.pt"):
        folder.file(name).write_bytes(b"no checkpoint")
    with pytest.raises(
        InputError, match=r"checkpoint\.pt: .* and so is .*checkpoint_before\.pt .* restore one .*delete"
    ):
        checkpoints.settle(folder)
