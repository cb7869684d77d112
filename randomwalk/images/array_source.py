"""Images that are arrays in the files of instruments, mapped from their units to [-1, 1] and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from randomwalk.config.base import SampleFit
from randomwalk.errors import InputError
from randomwalk.images import instruments, kinds
from randomwalk.images.instruments import Stored
from randomwalk.images.masks import Grow, Mask
from randomwalk.images.pictures import Header, Picture
from randomwalk.images.sources import MASK, ImageSource, digest_of, files_in
from randomwalk.images.tensors import fit_to, to_pixels, to_tensor
from randomwalk.lookup import printable

MOST_UNITS = 1e9
"""Largest number in a range that is found; see `randomwalk.config.base.Number`."""
COLOURS = 3
"""Channels of a network that takes an array of one channel as equal colours."""


class ArraySource(ImageSource):
    """Arrays in the files of instruments, each an image ``[C, H, W]``, or each slice of a volume.

    An array with two axes has one channel; the first of three are channels, unless ``axis`` says that there are slices.
    Complex numbers are two channels, the real part first.

    Args:
        files: of the arrays.
        names: name of each file, for messages and result files.
        where: name of the whole source in messages.
        dataset: name of the array in each file, in formats that name them.
        axis: along which a volume has its slices; None if the arrays are images.
        left_out: names of the files among the arrays that are none.
        measured: whether they are measurements that are no images, see `values`; results are images all the same.

    Attributes:
        range: numbers that become -1 and 1.
    """

    range = (-1.0, 1.0)

    def __init__(
        self,
        files: Sequence[Path],
        names: Sequence[str],
        where: str,
        dataset: str | None = None,
        axis: int | None = None,
        left_out: Sequence[str] = (),
        measured: bool = False,
    ) -> None:
        self.measured = measured
        self._files, self._file_names, self._dataset, self._axis = list(files), list(names), dataset, axis
        self._last: tuple[int, Stored] | None = None
        self._digests: dict[int, str] = {}
        places = [(f, k) for f in range(len(files)) for k in self._slices(f)]
        self.places: list[tuple[int, int | None]] = places
        """Number of each image's file, and of its slice; None for a whole file, or one that cannot be read."""
        super().__init__(
            [self._name(*place) for place in places],
            lambda i: self._file_of(i).read_bytes(),
            where,
            open=lambda i: self._file_of(i).open("rb"),
            beside=self._read_beside,
            digest=self._digest_of,
            left_out=left_out,
        )

    # --- files ---------------------------------------------------------------------------------------------------

    def _slices(self, file: int) -> Sequence[int | None]:
        if self._axis is None:
            return [None]
        try:
            return range(self._stored(file).values.shape[self._axis])
        except InputError:
            return [None]

    def _name(self, file: int, slice: int | None) -> str:
        name = self._file_names[file]
        stem, suffix = kinds.stem_of(name), kinds.suffix_of(name)
        return name if slice is None else f"{stem}_slice{slice:04d}{suffix}"

    def _file_of(self, i: int) -> Path:
        return self._files[self.places[i][0]]

    def _stored(self, file: int) -> Stored:
        """Array of a file; the last one is kept, since the slices of a volume are read one by one."""
        if self._last is None or self._last[0] != file:
            axes = (2, 3) if not self.measured else (1, 2, 3) if self._axis is None else (2, 3, 4)
            found = instruments.read(self._files[file], self._dataset, axes)
            if self._axis is not None and found.values.ndim < 3:
                raise InputError(f"{self._files[file]}: has two axes, but data.axis is for volumes; remove data.axis")
            self._last = file, found
        return self._last[1]

    def _read_beside(self, i: int, ending: str) -> bytes | None:
        path = self._path_beside(i, ending)
        return path.read_bytes() if path.is_file() else None

    def _path_beside(self, i: int, ending: str) -> Path:
        path = self._file_of(i)
        return path.with_name(f"{kinds.stem_of(path.name)}{ending}")

    def _digest_of(self, i: int) -> str:
        file = self.places[i][0]
        if file not in self._digests:
            try:
                self._digests[file] = digest_of(self._files[file].read_bytes())
            except OSError as error:
                raise InputError(f"{self._files[file]}: cannot be read ({error.strerror})") from error
        return self._digests[file]

    def _file(self, i: int) -> IO[bytes] | np.ndarray:
        return np.zeros((1, 1), np.uint8)  # of no format of pictures: see `header` and `jpeg_steps`

    def without_masks(self) -> ArraySource:
        """The source without the arrays that are masks of others."""
        stems = [kinds.stem_of(name) for name in self._file_names]
        masks = {f"{stem}{MASK}" for stem in stems}
        kept = [k for k, stem in enumerate(stems) if stem not in masks]
        left_out = [name for name in self.left_out if kinds.stem_of(name) not in masks]
        found = ArraySource(
            [self._files[k] for k in kept], [self._file_names[k] for k in kept], self.where, self._dataset, self._axis,
            left_out, self.measured,
        )  # fmt: skip
        found.range = self.range
        return found

    def num_pages(self, i: int) -> int:
        """One: files of arrays have slices, not pages."""
        return 1

    def of_page(self, page: Any) -> ImageSource:
        """The source itself: files of arrays have slices, not pages."""
        return self

    # --- images --------------------------------------------------------------------------------------------------

    def values(self, i: int) -> np.ndarray:
        """Array ``i`` as it is in its file, or its slice.

        Raises:
            InputError: it cannot be read; see `instruments.read`.
        """
        file, slice = self.places[i]
        values = self._stored(file).values
        return values if slice is None or self._axis is None else np.take(values, slice, self._axis)

    def planes(self, i: int) -> np.ndarray:
        """Image ``i`` in the units of its file, float64 ``[C, H, W]``, the two parts of complex numbers apart.

        Raises:
            InputError: it cannot be read; see `instruments.read`.
        """
        values = self.values(i)
        values = values[(None,) * (3 - values.ndim)]
        if np.iscomplexobj(values):
            values = np.concatenate([values.real, values.imag])
        return values.astype(np.float64)

    def extent(self) -> tuple[float, float]:
        """Least and largest number of all arrays that can be read; of complex ones -m and m, the largest of a part.

        Raises:
            InputError: none can be read, or all numbers are equal, or out of bounds.
        """
        low, high, error = np.inf, -np.inf, None
        for file in range(len(self._files)):
            try:
                values = self._stored(file).values
            except InputError as found:
                error = error or found
                continue
            if np.iscomplexobj(values):
                most = max(float(np.abs(values.real).max()), float(np.abs(values.imag).max()))
                low, high = min(low, -most), max(high, most)
            else:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        if error is not None and low > high:
            raise error
        if not low < high:
            raise InputError(
                f"{self.where}: all numbers are {low:g}, which gives no range; set data.range: [low, high]"
            )
        if max(-low, high) > MOST_UNITS:
            raise InputError(f"{self.where}: its numbers reach {max(-low, high):.3g}; allowed: up to {MOST_UNITS:g}")
        return low, high

    def header(self, i: int) -> Header:
        """Size of image ``i``; it is grey if it has one channel."""
        channels, height, width = self.planes(i).shape
        return Header(height, width, channels == 1)

    def colourless(self, i: int) -> bool:
        """Whether image ``i`` has one channel; others are never taken for grey, however alike they are."""
        return self.header(i).grey

    def picture(self, i: int) -> Picture:
        """Image ``i`` for looking at: 8 bits over `range`, complex numbers by their magnitude."""
        pixels = to_pixels(self._tensor(i))
        return Picture(pixels[..., None] if pixels.ndim == 2 else pixels)

    def _tensor(self, i: int) -> Tensor:
        """Image ``i`` in [-1, 1], and beyond where it exceeds `range`; float32 ``[C, H, W]``."""
        low, high = self.range
        file, _ = self.places[i]
        if np.iscomplexobj(self._stored(file).values) and low != -high:
            raise InputError(
                f"{self._files[file]}: is complex, so that data.range is that of both parts, [-high, high]; found "
                f"[{low:g}, {high:g}]"
            )
        return torch.from_numpy(((self.planes(i) - low) * (2 / (high - low)) - 1).astype(np.float32))

    def pixels(self, i: int, channels: int) -> np.ndarray:
        """Image ``i`` as float32 ``[H, W, channels]``; `range` becomes [-1, 1], nothing is cut.

        Raises:
            InputError: it cannot be read, or has another number of channels.
        """
        x = self._tensor(i)
        if len(x) != channels and (len(x), channels) != (1, COLOURS):
            stored = self._stored(self.places[i][0]).values
            why = " (it is complex, which takes two)" if np.iscomplexobj(stored) else ""
            volume = "" if stored.ndim < 3 or self._axis is not None else "; a volume needs data.axis: 0, 1 or 2"
            raise InputError(
                f"{self.where}: {self.names[i]} has {len(x)} channel{'s' if len(x) > 1 else ''}{why}, but "
                f"{channels} {'are' if channels > 1 else 'is'} expected{volume}"
            )
        return x.expand(channels, -1, -1).permute(1, 2, 0).contiguous().numpy()

    def load(self, i: int, channels: int, size: Sequence[int], fit: SampleFit) -> Tensor:
        """Image ``i`` as float32 ``[channels, H, W]`` with ``(H, W) = size``; see `pixels`.

        Raises:
            InputError: it cannot be read, has another number of channels, or with "keep" is smaller than the size.
        """
        pixels, (height, width) = self.pixels(i, channels), size
        if fit != "keep":
            return to_tensor(fit_to(pixels, size, fit)).contiguous()
        if pixels.shape[0] < height or pixels.shape[1] < width:
            found = f"{pixels.shape[0]}x{pixels.shape[1]} pixels, expected {height}x{width}"
            raise InputError(f"{self.where}: {self.names[i]} has {found}")
        return to_tensor(pixels[:height, :width]).contiguous()

    # --- masks ---------------------------------------------------------------------------------------------------

    def _mask_file(self, i: int) -> tuple[str, bytes | None]:
        ending, data = super()._mask_file(i)
        for suffix in kinds.ARRAY_SUFFIXES if data is None else ():
            found = self._read_beside(i, f"{MASK}{suffix}")
            if found is not None:
                return f"{MASK}{suffix}", found
        return ending, data

    def mask(self, i: int, grow: Grow = "auto", invert: bool = False, file: str | None = None) -> Mask:
        """Mask of image ``i``: a picture, see `ImageSource.mask`, or an array that is not 0 where pixels are known.

        An array may have the axes of the volume, or those of a slice for all of them; `grow` is for painted masks.
        """
        ending, data = self._mask_file(i) if file is None else ("", None)
        path = self._path_beside(i, ending) if file is None else Path(file)
        if file is None and data is None:
            raise InputError(
                f"{path.parent}: there is no {path.stem}.npy or .png next to {self.names[i]} (mask: beside)"
            )
        if not kinds.array_suffix(path.name) or kinds.has_picture_name(path.name) or not path.is_file():
            return super().mask(i, grow, invert, file)
        values = instruments.read(path).values
        slice = self.places[i][1]
        if values.ndim == 3 and slice is not None and self._axis is not None:
            if slice >= values.shape[self._axis]:
                raise InputError(
                    f"{path}: has {values.shape[self._axis]} slices, and that of {self.names[i]} is wanted"
                )
            values = np.take(values, slice, self._axis)
        if values.shape != self.size(i):
            shown = ["x".join(map(str, shape)) for shape in (values.shape, self.size(i))]
            raise InputError(f"{path}: has {shown[0]} pixels, but {self.names[i]} has {shown[1]}")
        known = (values == 0) if invert else (values != 0)
        if known.all() or not known.any():
            raise InputError(
                f"{path}: keeps {'all pixels' if known.any() else 'no pixel'} of {self.names[i]}; expected "
                f"{'0 where pixels are known and others' if invert else '0'} where they are missing"
            )
        return Mask(torch.from_numpy(known.astype(np.float32)), [])

    # --- results -------------------------------------------------------------------------------------------------

    def groups(self, images: Sequence[int]) -> dict[int, list[int]]:
        """Images by their files."""
        found: dict[int, list[int]] = {}
        for i in images:
            found.setdefault(self.places[i][0], []).append(i)
        return found

    def file_name(self, file: int) -> tuple[str, str]:
        """Name of a file without its suffix, and the suffix of the format of its results."""
        name, suffix = printable(self._file_names[file]), kinds.array_suffix(self._file_names[file])
        found = suffix or instruments.suffix_of(self._files[file])
        changed = instruments.without_places(self._stored(file)).suffix if self.measured else ""
        return (name.removesuffix(suffix) if suffix else name), changed if changed == ".npy" else found

    def num_slices(self, file: int) -> int:
        """Number of images in a file."""
        return sum(place[0] == file for place in self.places)

    def encoded(self, file: int, results: Mapping[int, np.ndarray], spread: bool = False, grey: bool = True) -> bytes:
        """Bytes of a file in the format and units of file number ``file``, with results in place of its images.

        Args:
            file: number of the file.
            results: ``[C, H, W]`` in [-1, 1] by image, all of one file; slices without one become NaN.
            spread: whether they are standard deviations, which have no offset.
            grey: whether the channels of a result are copies where the file has one channel.
        """
        like, (low, high) = self._stored(file), self.range
        like = instruments.without_places(like) if self.measured else like
        offset = 0.0 if spread else (low + high) / 2
        own_axes = like.values.ndim - (self._axis is not None)
        made = {}
        for i, x in results.items():
            copies = grey and len(x) != self.planes(i).shape[0]
            values = x.mean(0, dtype=np.float64, keepdims=True) if copies else x.astype(np.float64)
            values = values * ((high - low) / 2) + offset
            if np.iscomplexobj(like.values) and len(values) % 2 == 0:
                values = values[: len(values) // 2] + 1j * values[len(values) // 2 :]
            made[self.places[i][1]] = values[0] if len(values) == 1 and (self.measured or own_axes < 3) else values
        if self._axis is None:
            [whole] = made.values()
        else:
            first = next(iter(made.values()))
            blank = np.full_like(first, np.nan)
            whole = np.stack([made.get(k, blank) for k in range(like.values.shape[self._axis])], self._axis)
        return instruments.encode(whole, like)


def open_arrays(
    path: str | Path, dataset: str | None = None, axis: int | None = None, measured: bool = False
) -> ArraySource:
    """Open the arrays of a folder (with its subfolders), or one file of them, in the order of their names.

    Args:
        path: folder or file.
        dataset, axis, measured: see :class:`ArraySource`.

    Raises:
        InputError: there are none.
    """
    path = Path(path)
    if path.is_file():
        return ArraySource([path], [path.name], str(path.parent), dataset, axis, (), measured)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such folder or file of arrays")
    found = sorted(file for file in files_in(path) if not kinds.is_hidden(str(file.relative_to(path))))
    files = [file for file in found if file.is_file() and instruments.suffix_of(file)]
    left_out = [str(file.relative_to(path)) for file in found if file not in set(files)]
    if not files:
        raise InputError("\n  ".join([f"{path}: no arrays in it", *kinds.left_out_notes(str(path), left_out, True)]))
    return ArraySource(
        files, [str(file.relative_to(path)) for file in files], str(path), dataset, axis, left_out, measured
    )
