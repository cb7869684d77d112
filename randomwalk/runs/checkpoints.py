"""Checkpoints of a training: the newest and the one before it, each checked when it is read.

A checkpoint is a zip archive, as ``torch.save`` writes it, in which every record has a checksum (CRC-32). PyTorch does
not look at it, so that a flipped bit would go on as another weight.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder

CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"
_FOLDER = 0x10
"""Attribute of a record that is a folder: PyTorch would take its contents for empty, without a word."""


def before(name: str) -> str:
    """Name of the checkpoint before the newest one."""
    path = Path(name)
    return f"{path.stem}_before{path.suffix}"


def write(folder: RunFolder, state: dict[str, Any], name: str = CHECKPOINT) -> None:
    """Write a checkpoint, and keep the one before it."""
    folder.write_torch(name, state, before(name))


class _DamageError(Exception):
    """A file is damaged; the message says how."""


def _load(path: Path, device: Any) -> dict[str, Any]:
    """Check and load a checkpoint.

    Raises:
        InputError: it is no file, or cannot be read at all.
        _DamageError: it is missing or damaged.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for its writer
        raise InputError(f"{path}: is not a file; expected a checkpoint; move it away to continue without it")
    try:
        with zipfile.ZipFile(path) as file:
            if (record := file.testzip()) is not None:
                raise _DamageError(f"the checksum of its record {record} is wrong")
            if any(record.external_attr & _FOLDER for record in file.infolist()):
                raise _DamageError("a record is marked as a folder")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (_DamageError, torch.OutOfMemoryError):
        raise
    except FileNotFoundError as error:
        raise _DamageError("it is missing") from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise _DamageError(str(error).strip().partition("\n")[0] or type(error).__name__) from error
    return state


def damage(path: Path) -> str:
    """Find damage in the file of a checkpoint; empty if there is none.

    Raises:
        InputError: it cannot be read at all.
    """
    try:
        _load(path, "cpu")
    except _DamageError as error:
        return str(error)
    return ""


def settle(folder: RunFolder, name: str = CHECKPOINT) -> bool:
    """Put the checkpoint before in the place of a damaged or missing newest one, and say so; only under the lock.

    Returns:
        Whether there is a checkpoint.

    Raises:
        InputError: both are damaged.
    """
    newest, older = folder.file(name), folder.file(before(name))
    wrong = damage(newest)
    if not wrong:
        return True
    if not older.exists():
        if not newest.exists():
            return False
        raise InputError(
            f"{newest}: is damaged ({wrong}), and there is no {older.name}; restore it from a copy, or delete it to "
            "train from the start"
        )
    if also := damage(older):
        raise InputError(
            f"{newest}: is damaged ({wrong}), and so is {older} ({also}); restore one of them from a copy, or delete "
            "both to train from the start"
        )
    older.replace(newest)
    print(f"note: {newest} is damaged ({wrong}); continuing from {older.name}", file=sys.stderr, flush=True)
    return True


def read(folder: RunFolder, use: Callable[[dict[str, Any]], None], device: Any, name: str = CHECKPOINT) -> None:
    """Load a checkpoint to ``device`` and pass its contents to ``use``; do nothing if there is none.

    Raises:
        InputError: it is damaged, or ``use`` fails on it.
    """
    path = folder.file(name)
    if not path.is_file():
        return
    try:
        use(_load(path, device))
    except _DamageError as error:
        raise InputError(f"{path}: is damaged ({error}); continue from the one before it with --resume") from error
    except InputError:
        raise
    except Exception as error:  # a checkpoint of anything else
        raise InputError(f"{path}: is not a checkpoint of this config ({error})") from error
