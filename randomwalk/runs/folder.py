"""Run folders, in which every file appears complete or not at all, and only one process works at a time."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from randomwalk.errors import InputError, RunError
from randomwalk.lookup import expand, near, printable

try:
    import fcntl
except ImportError:  # on Windows, where runs go without locks
    fcntl = None  # type: ignore[assignment]

_counter = itertools.count()
_BEFORE_RESULTS = {"config.yaml", "run.json", "schedule.png", "kernel.png", "report.html"}
"""Files that a run writes before its first result."""
LOGGED_WORDS, LOGGED_COUNTS = ("direction",), ("step", "images", "fit", "image", "sample")
"""Columns of logs with words, and with whole numbers; all others have numbers."""
_ATTEMPTS = 1000
"""Folders that are tried before giving up."""


def _is_leftover(path: Path) -> bool:
    """Whether it is a temporary file, as a process leaves behind that is killed while writing."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _temporary(name: str) -> str:
    """Beginning of the temporary names of a file: not its own name, which may be as long as names can be."""
    return f".{zlib.crc32(os.fsencode(name)):08x}-"


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
        path: an existing folder; see `claim`, `create` and `resume`.
        made: folders that were made for this run, if the run is new.
    """

    def __init__(self, path: str | Path, made: Sequence[Path] | None = None) -> None:
        self.path = Path(path)
        self._made = made
        self._lock: int | None = None

    @classmethod
    def claim(cls, output: str | Path) -> RunFolder:
        """Make and `lock` a new folder at ``output`` or, if there are files in it, beside it with the date and time.

        Nothing is written before the folder is locked. Of several processes that start at once, one gets it.

        Raises:
            InputError: no folder can be made there, or another process works in it.
        """
        wanted = candidate = Path(output)
        absent = [folder for folder in (wanted, *wanted.absolute().parents) if not folder.exists()]
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        others = (wanted.with_name(f"{wanted.name}_{stamp}" + (f"_{n}" if n else "")) for n in itertools.count())
        problem: OSError | None = None
        for _ in range(_ATTEMPTS):
            folder = cls(candidate, absent if candidate == wanted else [candidate, *absent])
            try:
                candidate.mkdir(parents=True, exist_ok=candidate == wanted)
                folder.lock()
            except FileNotFoundError as error:  # another process has removed it in the meantime
                problem = error
                continue
            except FileExistsError as error:
                problem = error
            except OSError as error:
                problem = error
                break
            except InputError:
                if candidate == wanted:
                    raise
            else:
                if all(_is_leftover(entry) for entry in candidate.iterdir()):
                    return folder
                folder.unlock()
            candidate = next(others)
        why = problem.strerror if problem is not None else "other folders keep appearing"
        raise InputError(f"output: {candidate} cannot be made ({why}); choose another folder") from problem

    @classmethod
    def create(cls, output: str | Path) -> RunFolder:
        """Make a new folder as `claim` does, without keeping the lock."""
        folder = cls.claim(output)
        folder.unlock()
        return folder

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
            raise InputError(f"--resume {path}: is not a run folder: config.yaml is missing")
        return folder

    @property
    def has_results(self) -> bool:
        """Whether it contains more than a run writes before its first result."""
        return any(
            path.is_file() and not (path.parent == self.path and path.name in _BEFORE_RESULTS)
            for path in self.path.rglob("*")
        )

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
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run has begun in it
                folder.rmdir()
        self._made = None
        self.unlock()  # not before: another process would begin in a folder that is about to go
        return True

    def file(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the file exists (then it is complete)."""
        try:
            return self.file(name).is_file()
        except OSError:  # a name that no file can have, in a damaged record
            return False

    def lock(self) -> None:
        """Keep other processes from working in this folder until `unlock` or the end of this process.

        Raises:
            FileNotFoundError: it is gone.
            InputError: another process works in it.
        """
        if fcntl is None:
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_gone = not os.path.samestat(os.fstat(handle), self.path.stat())
        except BlockingIOError as error:
            os.close(handle)
            raise InputError(
                f"{self.path}: another process is working in this folder; let it end first, or choose another output"
            ) from error
        except FileNotFoundError:
            is_gone = True
        except OSError:  # a file system without locks
            os.close(handle)
            return
        if is_gone:  # the process that held the lock has removed it
            os.close(handle)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        self._lock = handle

    def unlock(self) -> None:
        """Let other processes work in this folder again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove_leftovers(self) -> None:
        """Delete the temporary files of a process that was killed; only under `lock`."""
        for path in self.path.rglob(".*"):
            if _is_leftover(path):
                path.unlink(missing_ok=True)

    def remove_leftovers_of(self, name: str) -> None:
        """Delete the temporary files of one file of the folder, which no other process may be writing."""
        for path in self.path.glob(f"{_temporary(name)}*.tmp"):
            path.unlink(missing_ok=True)

    def write(
        self, name: str, save: Callable[[IO[bytes]], object], sync: bool = False, before: str | None = None
    ) -> Path:
        """Write a file by ``save``, which gets the open binary file.

        Args:
            name: path in the folder.
            save: writes the contents.
            sync: wait for the disk, so that the file survives a power failure.
            before: path in the folder under which the present file is kept, if there is one.

        Raises:
            InputError: a folder is in its place.
            RunError: the disk is full, or the folder is not writable.
        """
        path = self.file(name)
        unique = f"{socket.gethostname()[:64]}-{os.getpid()}-{next(_counter)}"
        temporary = path.with_name(f"{_temporary(path.name)}{unique}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                save(file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if before is not None and path.exists():
                path.replace(self.file(before))
            temporary.replace(path)
        except IsADirectoryError as error:
            raise InputError(f"{error.filename2}: is a folder where the run writes a file; move it away") from error
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # of the RuntimeError of torch.save
            if not isinstance(cause, OSError):
                raise
            raise RunError(f"{path} cannot be written: {cause.strerror or cause}") from error
        finally:
            with contextlib.suppress(OSError):
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

    def write_torch(self, name: str, value: Any, before: str | None = None) -> Path:
        """Write a checkpoint with ``torch.save`` so that it survives a power failure; ``before`` as for `write`."""
        import torch

        return self.write(name, lambda file: torch.save(value, file), sync=True, before=before)

    def state_of(self, checkpoint: str) -> str:
        """Clause about the last checkpoint for the message of a failed run."""
        if self.has(checkpoint):
            return f"the last checkpoint in {self.path} is from before"
        return f"there is no checkpoint in {self.path} yet"

    def read_csv(self, name: str) -> list[dict[str, Any]]:
        """Rows of a CSV file; none if it does not exist.

        Raises:
            InputError: it is damaged.
        """
        if not self.has(name):
            return []
        try:
            with self.file(name).open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{self.file(name)}: cannot be read ({error})") from error

    def read_log(
        self, name: str, is_kept: Callable[[dict[str, Any]], bool], needed: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Rows of a CSV file of numbers that are kept; none if it does not exist.

        Args:
            name: of the file.
            is_kept: whether a row is kept.
            needed: columns that have a number in every row; other cells may be empty.

        Raises:
            InputError: it is damaged.
        """
        rows = self.read_csv(name)
        try:
            for row in rows:
                for column, cell in [*row.items(), *((column, row[column]) for column in needed)]:
                    if column not in LOGGED_WORDS and (cell != "" or column in needed):
                        (int if column in LOGGED_COUNTS else float)(cell)
            return [row for row in rows if is_kept(row)]
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.file(name)}: is damaged ({printable(str(error))[:200]}); remove it to continue"
            ) from error

    def read_array(self, name: str, mapped: bool = False) -> np.ndarray:
        """Array of a ``.npy`` file; if ``mapped``, only the parts that are used are read.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            array: np.ndarray = np.load(self.file(name), allow_pickle=False, mmap_mode="r")
            if not isinstance(array, np.ndarray):
                raise ValueError("it holds several arrays")
            return array if mapped else np.array(array)
        except Exception as error:  # a damaged header can raise anything
            raise InputError(f"{self.file(name)}: cannot be read ({printable(str(error))[:200]})") from error

    def first_value(self, key: str, now: Any) -> Any:
        """Value of a setting when the run began; ``now`` if it has not changed since."""
        resumed = self.facts().get("resumed", [])
        return next((one["changed"][key][0] for one in resumed if key in one.get("changed", {})), now)

    def facts(self) -> dict[str, Any]:
        """Read what run.json says of the run; nothing if it does not exist.

        Raises:
            InputError: it is damaged.
        """
        found = self.read_json("run.json") if self.has("run.json") else {}
        resumed = found.get("resumed", []) if isinstance(found, dict) else None
        if not isinstance(resumed, list) or not all(
            isinstance(one, dict)
            and isinstance(change := one.get("changed", {}), dict)
            and all(isinstance(pair, list) and len(pair) == 2 for pair in change.values())
            for one in resumed
        ):
            raise InputError(
                f"{self.file('run.json')}: was not written by a run; remove it to continue, or start a new run"
            )
        return found

    def read_json(self, name: str) -> Any:
        """Value of a JSON file.

        Raises:
            InputError: it is missing or not JSON.
        """
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except RecursionError:
            raise InputError(f"{self.file(name)}: is nested too deeply") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file(name)}: cannot be read ({error})") from error


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
