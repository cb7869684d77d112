"""Run folders, in which every file appears complete or not at all, and only one process works at a time."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

import randomwalk
from randomwalk.errors import InputError
from randomwalk.lookup import expand, near

try:
    import fcntl
except ImportError:  # on Windows, where runs go without locks
    fcntl = None  # type: ignore[assignment]

_counter = itertools.count()
_BEFORE_RESULTS = {"config.yaml", "run.json", "schedule.png"}
"""Files that a run writes before its first result."""


class _Writer:
    """An open file that can only be written to, by Python.

    Args:
        file: the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


class RunFolder:
    """A folder whose files are written under a temporary name and then renamed.

    Names are relative to the folder; subfolders are made as needed. A process that is killed while writing leaves a
    ``.tmp`` file behind, never a truncated file.

    Args:
        path: an existing folder; see `create` and `resume`.
        made: folders that were made for this run, if the run is new.
    """

    def __init__(self, path: str | Path, made: Sequence[Path] | None = None) -> None:
        self.path = Path(path)
        self._made = made
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, output: str | Path) -> RunFolder:
        """Make a new folder at ``output`` or, if that is in use, beside it with the date and time in its name.

        Raises:
            InputError: no folder can be made there.
        """
        wanted = candidate = Path(output)
        parents = [parent for parent in wanted.absolute().parents if not parent.exists()]
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        names = (f"{wanted.name}_{stamp}" + (f"_{n}" if n else "") for n in itertools.count())
        try:
            while True:
                candidate.parent.mkdir(parents=True, exist_ok=True)
                if candidate == wanted and candidate.is_dir() and not any(candidate.iterdir()):
                    return cls(candidate, parents)
                try:
                    candidate.mkdir()
                    return cls(candidate, [candidate, *parents])
                except FileExistsError:
                    candidate = wanted.with_name(next(names))
        except OSError as error:
            raise InputError(f"output: {candidate} cannot be made ({error.strerror}); choose another folder") from error

    @classmethod
    def resume(cls, path: str | Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            InputError: it is not a run folder: config.yaml is missing.
        """
        folder = cls(expand(path))
        if not folder.path.exists():
            raise InputError(f"--resume {path}: there is no such folder{near(folder.path)}")
        if folder.path.is_file():
            raise InputError(f"--resume {path}: is a file; expected the folder of a run, such as {folder.path.parent}")
        if not folder.has("config.yaml"):
            raise InputError(f"--resume {path}: there is no config.yaml in it, so it is not the folder of a run")
        return folder

    @property
    def has_results(self) -> bool:
        """Whether it contains more than a run writes before its first result."""
        return any(
            path.is_file() and not (path.parent == self.path and path.name in _BEFORE_RESULTS)
            for path in self.path.rglob("*")
        )

    @contextlib.contextmanager
    def gone_if_it_fails(self) -> Iterator[RunFolder]:
        """Run the block, and `discard` the folder if the block fails before the first result."""
        try:
            yield self
        except Exception:
            self.discard()
            raise

    def keep(self) -> None:
        """Never discard the folder, since other processes write to it."""
        self._made = None

    def discard(self, with_results: bool = False) -> bool:
        """Remove a folder that `create` has made, and the parents made for it, unless it has results.

        Args:
            with_results: remove it even if it has results.

        Returns:
            Whether it was removed.
        """
        if self._made is None or (self.has_results and not with_results):
            return False
        self.unlock()
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run has begun in it
                folder.rmdir()
        self._made = None
        return True

    def file(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the file exists (then it is complete)."""
        return self.file(name).is_file()

    def lock(self, name: str = "config.yaml") -> None:
        """Keep other processes from working in this folder until `unlock` or the end of this process.

        Raises:
            InputError: another process works in it.
        """
        if fcntl is None:
            return
        handle = self.file(name).open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise InputError(f"{self.path}: another process is working in this folder; let it end first") from error
        except OSError:  # a file system without locks
            handle.close()
            return
        self._lock = handle

    def unlock(self) -> None:
        """Let other processes work in this folder again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove_leftovers(self) -> None:
        """Delete the temporary files of a process that was killed; only under `lock`."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def write(self, name: str, save: Callable[[IO[bytes]], object], sync: bool = False) -> Path:
        """Write a file by ``save``, which gets the open binary file.

        Args:
            name: path in the folder.
            save: writes the contents.
            sync: wait for the disk, so that the file survives a power failure.
        """
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{next(_counter)}.tmp")
        try:
            with temporary.open("wb") as file:
                save(file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write bytes."""
        return self.write(name, lambda file: file.write(data))

    def write_text(self, name: str, text: str) -> Path:
        """Write text as UTF-8."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file."""
        return self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_array(self, name: str, array: np.ndarray) -> Path:
        """Write a ``.npy`` file."""
        # Given a file of Python's, NumPy writes by the C library and does not notice that the disk is full at the end.
        return self.write(name, lambda file: np.save(_Writer(file), array, allow_pickle=False))

    def write_image(self, name: str, image: Any, **options: Any) -> Path:
        """Write an image: a uint8 array ``[H, W]`` or ``[H, W, 3]``, or a Pillow image (``options`` for its save)."""
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        kind = {".jpg": "JPEG"}.get(Path(name).suffix.lower(), Path(name).suffix[1:].upper())
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **options)
        return self.write_bytes(name, buffer.getvalue())

    def write_torch(self, name: str, value: Any) -> Path:
        """Write a checkpoint with ``torch.save`` so that it survives a power failure."""
        import torch

        return self.write(name, lambda file: torch.save(value, file), sync=True)

    def state_of(self, checkpoint: str) -> str:
        """Clause about the last checkpoint for the message of a failed run."""
        if self.has(checkpoint):
            return f"the last checkpoint in {self.path} is from before"
        return f"there is no checkpoint in {self.path} yet"

    def read_torch(self, name: str, device: Any, use: Callable[[Any], object]) -> None:
        """Load a checkpoint to ``device`` and pass its contents to ``use``; do nothing if there is none yet.

        Raises:
            InputError: it is damaged, or ``use`` fails on it.
        """
        import torch

        path = self.file(name)
        if not path.is_file():
            return
        try:
            use(torch.load(path, map_location=device, weights_only=True))
        except Exception as error:  # a damaged pickle can raise anything
            raise InputError(f"{path}: is not a checkpoint of this config ({error})") from error

    def read_csv(self, name: str) -> list[dict[str, Any]]:
        """Rows of a CSV file; none if it does not exist."""
        if not self.has(name):
            return []
        with self.file(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def read_json(self, name: str) -> Any:
        """Value of a JSON file.

        Raises:
            InputError: it is missing or not JSON.
        """
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file(name)}: cannot be read ({error})") from error


def command_line() -> str:
    """Command line of this process, quoted for a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def git_commit() -> str | None:
    """Commit of the source, with ``-dirty`` if it was changed; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
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


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings."""
    found: list[str] = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}")
    return found


def write_csv(folder: RunFolder, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as CSV; a missing or None value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return folder.write_text(name, text.getvalue())


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same folder, if the system has locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
