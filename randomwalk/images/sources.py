"""Image sources: folders, zips and standard sets, decoded one image at a time."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Literal

import numpy as np
from torch import Tensor

from randomwalk.config.base import SampleFit
from randomwalk.errors import InputError
from randomwalk.images import kinds, pictures
from randomwalk.images.masks import Grow, Mask, read_mask, read_mask_file
from randomwalk.images.pictures import Header, Picture
from randomwalk.images.standard_sets import Split, load_standard_set
from randomwalk.images.tensors import Size, fit_to, to_pixels, to_tensor
from randomwalk.lookup import find_file, printable

UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error)
"""Errors of zips that are damaged, encrypted or compressed in a way that Python does not support."""
STAMPED = 4096
"""Bytes at either end of a file that its stamp depends on."""
LOOKED_AT = 2**24
"""Bytes of a file in a zip that are looked at to tell whether it is a picture, if its suffix does not say so."""
MASK = "_mask"
"""Suffix of a mask's name: the mask of photo.jpg is photo_mask.png."""


class ImageSource:
    """Images in a fixed order, decoded one at a time.

    Args:
        names: name of each image, for messages and result files; as `printable` shows them.
        read: ``read(i)`` gives the bytes of file ``i``, or a uint8 array ``[H, W]`` or ``[H, W, C]``, or a float32
            array ``[H, W, C]`` in [-1, 1].
        where: name of the whole source in messages.
        labels: class index of each image; None if unknown.
        classes: names of the classes, if there are labels.
        open: ``open(i)`` opens file ``i``, so that `header` reads only its beginning; optional.
        beside: ``beside(i, ending)`` gives the bytes of the file next to image ``i`` that is called like it but for
            this ending (``_mask.png``), or None.
        digest: ``digest(i)`` gives a text that differs if the bytes of file ``i`` do; by default that of `read`.
        left_out: names of the files among the images that are none.

    Attributes:
        pages: page of each image in its file, from 0.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], bytes | np.ndarray],
        where: str,
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        open: Callable[[int], IO[bytes]] | None = None,
        beside: Callable[[int, str], bytes | None] | None = None,
        digest: Callable[[int], str] | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        self.names = [printable(name) for name in names]
        self.where = printable(where)
        self.labels = None if labels is None else labels.astype(np.int64)
        self.classes = [printable(name) for name in classes]
        self.left_out = [printable(name) for name in left_out]
        self.pages = [0] * len(self.names)
        self._num_pages: dict[int, int] = {}
        self._read, self._open, self._beside = read, open, beside
        self._digest = digest or (lambda i: digest_of(read(i)))

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, i: int) -> Picture:
        """Image ``i`` with everything in its file.

        Raises:
            InputError: it cannot be decoded.
        """
        raw = self._read(i)
        if isinstance(raw, np.ndarray):
            raw = to_pixels(to_tensor(raw)) if raw.dtype == np.float32 else raw
            return Picture(raw[..., None] if raw.ndim == 2 else raw)
        return pictures.read(raw, f"{self.where}: {self.names[i]}", self.pages[i])

    def digest(self, i: int, with_mask: bool = False) -> str | None:
        """Text that differs if the file of image ``i`` has other bytes; None if it cannot be read.

        Args:
            i: index of the image.
            with_mask: include the bytes of the mask next to it.
        """
        try:
            mask = self._mask_file(i)[1] if with_mask else None
            return self._digest(i) + (f" {digest_of(mask)}" if mask is not None else "")
        except InputError:
            return None

    def stamp(self, i: int) -> str:
        """Text that differs if file ``i`` has another size, beginning or end: quicker than `digest`; empty if it cannot
        be read."""
        try:
            if self._open is None:
                return self._digest(i)
            with self._open(i) as file:
                checksum = zlib.crc32(file.read(STAMPED))
                size = file.seek(0, io.SEEK_END)
                file.seek(max(size - STAMPED, 0))
                return f"{size} {zlib.crc32(file.read(STAMPED), checksum):08x}"
        except (InputError, *UNREADABLE):
            return ""

    def header(self, i: int) -> Header:
        """Size and kind of image ``i``, without decoding it.

        Raises:
            InputError: it is not an image.
        """
        found = self._file(i)
        if isinstance(found, np.ndarray):
            return Header(found.shape[0], found.shape[1], found.ndim == 2 or found.shape[2] == 1)
        with found:
            header = pictures.read_header(found, f"{self.where}: {self.names[i]}", self.pages[i])
        self._num_pages[i] = header.pages
        return header

    def colourless(self, i: int) -> bool:
        """Whether image ``i`` is grey, or has colours that are all grey; see `Picture.colourless`."""
        return self.picture(i).colourless

    def jpeg_steps(self, i: int) -> tuple[float, float]:
        """See `pictures.jpeg_steps`; 0 for an array."""
        found = self._file(i)
        if isinstance(found, np.ndarray):
            return 0.0, 0.0
        with found:
            return pictures.jpeg_steps(found)

    def _file(self, i: int) -> IO[bytes] | np.ndarray:
        """File ``i``, opened; of a source without files its array."""
        if self._open is not None:
            return self._open(i)
        raw = self._read(i)
        return raw if isinstance(raw, np.ndarray) else io.BytesIO(raw)

    def size(self, i: int) -> Size:
        """Height and width of image ``i``; see `header`."""
        header = self.header(i)
        return (header.height, header.width)

    def mask(self, i: int, grow: Grow = "auto", invert: bool = False, file: str | None = None) -> Mask:
        """Mask of image ``i``, see `read_mask`: for photo.jpg the file photo_mask.png, or with another suffix.

        Args:
            i: index of the image.
            grow, invert: see `read_mask`.
            file: mask to take instead of the one next to the image.

        Raises:
            InputError: there is none, it cannot be decoded, its size differs, or it keeps all pixels or none.
        """
        if file is not None:
            found, mask = read_mask_file(file)
        else:
            found, mask = self._mask_beside(i)
        photograph = partial(self.picture, i)
        return read_mask(found, mask, self.size(i), self.names[i], grow=grow, invert=invert, photograph=photograph)

    def _mask_beside(self, i: int) -> tuple[Picture, str]:
        """The mask next to image ``i``, and its name in messages."""
        name = PurePath(self.names[i])
        ending, data = self._mask_file(i)
        mask = f"{kinds.stem_of(name.name)}{ending}"
        if data is None:
            place = "" if self.where == "." else f"{self.where}: "
            raise InputError(f"{place}there is no {mask} next to {name} (mask: beside)")
        return pictures.read(data, f"{self.where}: {name.with_name(mask)}"), f"{self.where}: {name.with_name(mask)}"

    def _mask_file(self, i: int) -> tuple[str, bytes | None]:
        """End of the name of the mask next to image ``i``, and its bytes; None without one."""
        endings = [f"{MASK}{case}" for suffix in kinds.SUFFIXES for case in (suffix, suffix.upper())]
        found = ((ending, self._beside(i, ending)) for ending in endings if self._beside is not None)
        return next(((ending, data) for ending, data in found if data is not None), (endings[0], None))

    def without_masks(self) -> ImageSource:
        """The source without the images that are masks of others."""
        stems = [kinds.stem_of(name) for name in self.names]
        masks = {f"{stem}{MASK}" for stem in stems}
        kept = [i for i, stem in enumerate(stems) if stem not in masks]
        return self._chosen(kept, [self.names[i] for i in kept])

    def num_pages(self, i: int) -> int:
        """Number of pages in file ``i``, such as those of a TIFF or the frames of a GIF; 1 if it cannot be read.

        The file is not opened again if its `header` was read.
        """
        try:
            return self._num_pages[i] if i in self._num_pages else self.header(i).pages
        except InputError:
            return 1

    def of_page(self, page: int | Literal["all"]) -> ImageSource:
        """The source with one page of each file, counted from 1, or with each page as an image."""
        if page != "all":
            return self._chosen(range(len(self)), self.names, [page - 1] * len(self))
        counts = [self.num_pages(i) for i in range(len(self))]
        places = [i for i, count in enumerate(counts) for _ in range(count)]
        pages = [k for count in counts for k in range(count)]
        names = [
            self.names[i]
            if counts[i] == 1
            else f"{kinds.stem_of(self.names[i])}_page{k + 1}{kinds.suffix_of(self.names[i])}"
            for i, k in zip(places, pages, strict=True)
        ]
        return self._chosen(places, names, pages)

    def _chosen(self, places: Sequence[int], names: Sequence[str], pages: Sequence[int] | None = None) -> ImageSource:
        """Some of the images, under these names, each of a page of its file; of the same page by default."""
        opened, beside = self._open, self._beside
        found = ImageSource(
            names,
            lambda i: self._read(places[i]),
            self.where,
            None if self.labels is None else self.labels[list(places)],
            self.classes,
            None if opened is None else lambda i: opened(places[i]),
            None if beside is None else lambda i, ending: beside(places[i], ending),
            lambda i: self._digest(places[i]),
            self.left_out,
        )
        found.pages = [self.pages[i] for i in places] if pages is None else list(pages)
        return found

    def pixels(self, i: int, channels: int) -> np.ndarray:
        """Image ``i`` as uint8 ``[H, W, channels]``, where grey and colour are converted into each other; a float32
        array stays as it is."""
        raw = self._read(i) if self._open is None else None
        return raw if isinstance(raw, np.ndarray) and raw.dtype == np.float32 else self.picture(i).on_white(channels)

    def load(self, i: int, channels: int, size: Sequence[int], fit: SampleFit) -> Tensor:
        """Image ``i`` as float32 ``[channels, H, W]`` in [-1, 1] with ``(H, W) = size``.

        Args:
            i: index of the image.
            channels: 1 or 3.
            size: height and width of the result.
            fit: see `fit_to`. "keep" never scales, keeps 16 bits, continues the picture where it is wholly transparent
                (see `Picture.continued`), and crops at the right and the bottom.

        Raises:
            InputError: the image cannot be decoded, or with "keep" it is smaller than the size.
        """
        if fit != "keep":
            return to_tensor(fit_to(self.pixels(i, channels), size, fit))
        x, (height, width) = self.picture(i).continued().tensor(channels), size
        if x.shape[1] < height or x.shape[2] < width:
            raise InputError(
                f"{self.where}: {self.names[i]} does not decode as an image ({x.shape[1]}x{x.shape[2]} pixels, "
                f"not {height}x{width} as its header says)"
            )
        return x[:, :height, :width]


def open_dataset(dataset: str, path: str | Path, split: Split = "train") -> ImageSource:
    """Open a data set by its name in YAML: the images of a folder, or a split of a standard set.

    Raises:
        InputError: it is not there; see `load_standard_set`.
    """
    if dataset == "folder":
        return open_images(path)
    found = load_standard_set(dataset, path, split)
    names = [f"{split}{i:05d}" for i in range(len(found.images))]
    return ImageSource(names, lambda i: found.images[i], str(found.where), found.labels, found.classes)


def open_images(path: str | Path) -> ImageSource:
    """Open the pictures of a folder (with its subfolders), of a zip, or a single picture, in the order of their names.

    A file is a picture by its suffix, or if it has none of those known by its content. Others, and broken links, are in
    `ImageSource.left_out`. Hidden files are skipped, such as the ._photo.jpg that macOS puts next to photo.jpg in its
    zips. Links are followed. If all pictures are in subfolders, the outermost subfolders are their classes, in the
    order of `in_order`.

    Raises:
        InputError: there are no pictures, or a link leads back to a folder that contains it.
    """
    path = Path(find_file(path))
    if path.is_dir():
        source = _of_folder(path)
    elif path.is_file() and zipfile.is_zipfile(path):
        source = _of_zip(path)
    elif path.is_file():
        source = _of_files([path], [path.name], str(path.parent))
    else:
        raise InputError(f"{path}: there is no such folder, zip or image")
    if not len(source):
        raise InputError("\n  ".join([f"{path}: no images in it", *kinds.left_out_notes(str(path), source.left_out)]))
    return source


def digest_of(data: bytes | np.ndarray) -> str:
    """SHA-256 of bytes, or of the values of an array."""
    return hashlib.sha256(data.tobytes() if isinstance(data, np.ndarray) else data).hexdigest()


def _of_folder(folder: Path) -> ImageSource:
    files, left_out = [], []
    for path in sorted(files_in(folder)):
        name = str(path.relative_to(folder))
        reason = _reason_against(path, name)
        if reason is None:
            files.append(path)
        elif not kinds.is_hidden(name):
            left_out.append(f"{name}{reason}")
    return _of_files(files, [str(path.relative_to(folder)) for path in files], str(folder), left_out)


def _reason_against(path: Path, name: str) -> str | None:
    """Why a file does not count as a picture, to be written after its name; None if it does."""
    if path.name.startswith("."):
        return ""
    if not path.is_file():
        return " (broken link)" if not path.exists() else " (no file)"
    if kinds.has_picture_name(name) or kinds.is_hidden(name):
        return None if kinds.has_picture_name(name) else ""
    try:
        with path.open("rb") as file:
            return None if kinds.is_picture(file, name) else ""
    except OSError as error:
        return f" ({error.strerror})"


def files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder, following links to folders."""
    outside = frozenset(str(path) for path in Path(os.path.realpath(folder)).parents)
    ancestors = {folder: outside}  # of each folder to come
    for name, folders, files in os.walk(folder, followlinks=True):
        where = Path(name)
        inside = ancestors.pop(where) | {os.path.realpath(where)}
        for path in (where / name for name in folders):
            if os.path.realpath(path) in inside:
                raise InputError(f"{path}: is a link to a folder that contains it, so it never ends; remove it")
            ancestors[path] = inside
        for path in (where / name for name in files):
            if path.is_symlink():
                try:
                    path.stat()
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        raise InputError(f"{path}: is a link that leads to itself; remove it") from error
            yield path


def _of_files(files: Sequence[Path], names: Sequence[str], where: str, left_out: Sequence[str] = ()) -> ImageSource:
    def open_file(path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def read(path: Path) -> bytes:
        with open_file(path) as file:
            return file.read()

    def beside(i: int, ending: str) -> bytes | None:
        path = files[i].with_name(f"{kinds.stem_of(files[i].name)}{ending}")
        return read(path) if path.is_file() else None

    labels, classes = _classes_of(names)
    return ImageSource(
        names, lambda i: read(files[i]), where, labels, classes, lambda i: open_file(files[i]), beside, None, left_out
    )


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise InputError(f"{path}: is a damaged zip ({error}); restore it, or unpack what can be saved") from error


def _is_picture_of(archive: zipfile.ZipFile, name: str) -> bool:
    if PurePosixPath(name).name.startswith("."):
        return False
    if kinds.has_picture_name(name) or kinds.is_hidden(name):
        return kinds.has_picture_name(name)
    try:
        with archive.open(name) as file:
            return kinds.is_picture(io.BytesIO(file.read(LOOKED_AT)), name)
    except UNREADABLE:
        return False


def _of_zip(path: Path) -> ImageSource:
    with _opened_zip(path) as archive:
        members = {info.filename: f"zip {info.file_size} {info.CRC:08x}" for info in archive.infolist()}
        files = sorted(name for name in members if not name.endswith("/"))
        names = [name for name in files if _is_picture_of(archive, name)]
    left_out = sorted({name for name in files if not kinds.is_hidden(name)} - {*names})

    def read(name: str) -> bytes:
        # Opened anew each time, so that worker processes do not share a file position.
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except UNREADABLE as error:
            raise InputError(f"{path}: {name} cannot be read ({error})") from error

    def beside(i: int, ending: str) -> bytes | None:
        image = PurePosixPath(names[i])
        name = str(image.with_name(f"{kinds.stem_of(image.name)}{ending}"))
        return read(name) if name in members else None

    labels, classes = _classes_of(names)
    return ImageSource(
        names, lambda i: read(names[i]), str(path), labels, classes, None, beside, lambda i: members[names[i]], left_out
    )


def _classes_of(names: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    """Labels and classes from the outermost folders, if every image is in one."""
    parts = [Path(name).parts for name in names]
    if not all(len(folders) > 1 for folders in parts):
        return None, []
    classes = in_order({folders[0] for folders in parts})
    numbers = {name: k for k, name in enumerate(classes)}
    return np.array([numbers[folders[0]] for folders in parts], dtype=np.int64), classes


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of classes: numbers first and by value (2 before 10), the others alphabetically."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
