"""MNIST, Fashion-MNIST and CIFAR-10, found on this machine or downloaded; only a download imports PyTorch."""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.client
import io
import math
import shutil
import socket
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import alone_in

Split = Literal["train", "test"]
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR_FOLDER, CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
_MOST_BYTES = 1 << 29
"""Largest array in a file of a set; the largest there is has 47 MB."""
PATIENCE = 5.0
"""Seconds within which a server must answer before a run begins."""
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""
FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
"""Errors of a download that breaks off."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of a disk that is full or may not be written to."""


@dataclass(frozen=True)
class StandardSet:
    """One split of a standard set.

    Attributes:
        images: uint8 ``[N, H, W]`` or ``[N, H, W, 3]``.
        labels: ``[N]``, indices into ``classes``.
        classes: names of the classes.
        where: folder of the files.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    where: Path


@dataclass(frozen=True)
class _Kind:
    """Class of a set in torchvision, its folder below the data folder, its address, its size and its classes."""

    torchvision: str
    folder: str
    address: str
    megabytes: int
    classes: tuple[str, ...]


KINDS = {
    "mnist": _Kind(
        "MNIST", "MNIST/raw", "https://ossci-datasets.s3.amazonaws.com/mnist", 12, tuple(str(k) for k in range(10))
    ),
    "fashion_mnist": _Kind(
        "FashionMNIST", "FashionMNIST/raw", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", 31,
        FASHION_CLASSES,
    ),
    "cifar10": _Kind("CIFAR10", CIFAR_FOLDER, f"https://www.cs.toronto.edu/~kriz/{CIFAR_ARCHIVE}", 170, ()),
}  # fmt: skip


def load_standard_set(name: str, path: str | Path, split: Split = "train", anywhere: bool = True) -> StandardSet:
    """Load a split of a set from ``path``, or from Debian's package; if it is in neither, download it into ``path``.

    Args:
        name: one of `KINDS`.
        path: the folder given to torchvision, or the one with the files.
        split: "train" or "test".
        anywhere: False looks only in ``path``.

    Raises:
        InputError: it is not there and cannot be downloaded, or it is damaged.
    """
    path = Path(path)
    folder = find_standard_set(name, path, split, anywhere)
    if folder is None:
        if not anywhere:
            raise InputError(f"{path}: there is no {name} in it. {_advice(name, path)}")
        _download(name, path)
        folder = find_standard_set(name, path, split)
        assert folder is not None
    if name == "cifar10":
        return _read_cifar10(folder, split)
    files = [file for file in _idx_files(folder, split) if file is not None]
    images, labels = (_read_idx(file) for file in files)
    classes = KINDS[name].classes
    if images.ndim != 3 or labels.shape != images.shape[:1] or (len(labels) and labels.max() >= len(classes)):
        raise InputError(
            f"{folder}: {files[0].name} and {files[1].name} are not images and their labels, from 0 to "
            f"{len(classes) - 1}: {list(images.shape)} and {list(labels.shape)}"
        )
    return StandardSet(images, labels, classes, folder)


def find_standard_set(name: str, path: str | Path, split: Split = "train", anywhere: bool = True) -> Path | None:
    """Folder with the files of a set, which are not read; None if there is none. See `load_standard_set`."""
    path = Path(path)
    places = [path, path / KINDS[name].folder, *([DEBIAN] if name == "fashion_mnist" and anywhere else [])]
    if name == "cifar10":
        files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
        return next((place for place in places if all((place / file).is_file() for file in files)), None)
    return next((place for place in places if None not in _idx_files(place, split)), None)


def check_standard_set(name: str, path: str | Path) -> None:
    """Check that a set is there or that its server answers; behind a proxy, only the download can tell.

    Raises:
        InputError: it is not there and cannot be downloaded.
    """
    path, address = Path(path), urlsplit(KINDS[name].address)
    try:
        there = find_standard_set(name, path) is not None or (name == "cifar10" and (path / CIFAR_ARCHIVE).is_file())
    except OSError as error:  # a name that is too long
        raise InputError(f"data.path: {path}: {error.strerror}") from error
    if there or getproxies():
        return
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname, port), timeout=PATIENCE).close()
    except OSError as error:
        raise _unobtainable(name, path, error) from error


def _idx_files(folder: Path, split: Split) -> list[Path | None]:
    """Files of the images and of the labels in a folder, gzipped or not; None for a missing one."""
    prefix = {"train": "train", "test": "t10k"}[split]
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    candidates = ([folder / f"{name}.gz", folder / name] for name in names)
    return [next((file for file in files if file.is_file()), None) for files in candidates]


def _read_idx(path: Path) -> np.ndarray:
    """Array in an IDX file (the format of MNIST and Fashion-MNIST) of uint8 values, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            ndim = head[3] if len(head) == 4 else 0
            sizes = file.read(4 * ndim)
            if head[:3] != b"\0\0\x08" or len(sizes) < 4 * ndim:
                raise InputError(f"{path}: is not an IDX file of bytes")
            shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
            count = math.prod(shape)
            if ndim not in (1, 3) or count > _MOST_BYTES:
                raise InputError(f"{path}: is damaged: its header says {shape}, which fits neither images nor labels")
            raw = file.read(count + 1)  # and no more, whatever it may unpack to
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if len(raw) != count:
        is_short = len(raw) < count
        raise InputError(
            f"{path}: is {'cut short' if is_short else 'damaged'}: its header says {shape}, but it holds "
            f"{len(raw) if is_short else 'more'} bytes"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _read_cifar10(folder: Path, split: Split) -> StandardSet:
    from torchvision import datasets  # compares the checksums before it unpickles

    try:
        found = datasets.CIFAR10(str(folder.parent), train=split == "train", download=False)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{folder}: is not CIFAR-10, or is damaged; delete it, and it is downloaded again") from error
    return StandardSet(np.asarray(found.data), np.asarray(found.targets), tuple(found.classes), folder)


def _download(name: str, path: Path) -> None:
    """Download a set into ``path``, where its files appear complete, and only once all of them have arrived.

    Processes that need the same set wait for the one that downloads it.

    Raises:
        InputError: it cannot be downloaded.
        RunError: the disk is full.
    """
    from torchvision import datasets

    kind = KINDS[name]
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    partial = nearest / f".{name}.partial"
    try:
        with alone_in(nearest):
            timeout = socket.getdefaulttimeout()
            if find_standard_set(name, path) is not None:
                return
            print(f"{name} is not in {path}: downloading it there ({kind.megabytes} MB)", file=sys.stderr)
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            try:
                socket.setdefaulttimeout(TIMEOUT)  # otherwise Python waits forever for a server that does not answer
                partial.mkdir()
                if (path / CIFAR_ARCHIVE).is_file() and name == "cifar10":
                    shutil.copyfile(path / CIFAR_ARCHIVE, partial / CIFAR_ARCHIVE)
                with contextlib.redirect_stdout(io.StringIO()):
                    getattr(datasets, kind.torchvision)(str(partial), download=True)
                target = path / kind.folder
                target.mkdir(parents=True, exist_ok=True)
                for file in (partial / kind.folder).iterdir():
                    if name == "cifar10" or file.suffix != ".gz":  # the others are there unpacked
                        file.replace(target / file.name)
            finally:
                socket.setdefaulttimeout(timeout)
                shutil.rmtree(partial, ignore_errors=True)
    except FAILURES as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise RunError(f"data.path: {name} cannot be written to {path}: {error.strerror}") from error
        raise _unobtainable(name, path, error) from error


def _unobtainable(name: str, path: Path, error: BaseException) -> InputError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    why = lines[-1].removeprefix("<urlopen error ").removesuffix(">")[:150]
    return InputError(
        f"data.path: there is no {name} in {path}, and it cannot be downloaded ({why}). {_advice(name, path)}"
    )


def _advice(name: str, path: Path) -> str:
    """Advice on how to get a set, with the command on a line of its own."""
    kind, quoted = KINDS[name], f"'{path}'" if set(str(path)) & set(" '\"$&;()") else str(path)
    if name == "cifar10":
        command = f"mkdir -p {quoted} && curl -fL {kind.address} | tar xz -C {quoted}"
    elif name == "fashion_mnist" and shutil.which("apt-get"):
        command = "sudo apt-get install dataset-fashion-mnist"
    else:
        files = "{train-images-idx3,train-labels-idx1,t10k-images-idx3,t10k-labels-idx1}"
        into = f"--create-dirs --output-dir {quoted}/{kind.folder}"
        command = f'curl -fL {into} -O "{kind.address}/{files}-ubyte.gz"'
    return f"Get it, here or on a machine with a connection, and start again:\n  {command}"
