"""Arrays of numbers in .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from randomwalk.errors import InputError


def read_array(path: str | Path, where: str, *, complex_too: bool = False) -> np.ndarray:
    """Read an array of finite real numbers, of any shape, as float64.

    Args:
        path: a .npy file.
        where: beginning of the message: what the file is for, and its name.
        complex_too: also read complex numbers, and return complex128 in any case.

    Raises:
        InputError: it is damaged, holds something else, or is shorter than its header says.
    """
    if not Path(path).is_file():  # reading a pipe would wait for its writer
        raise InputError(f"{where} is not a file; expected a .npy file")
    try:
        # Mapped, so that a header with an absurd shape is noticed before there is memory for it.
        found = np.load(path, allow_pickle=False, mmap_mode="r")
        if not isinstance(found, np.ndarray) or found.dtype.kind not in ("fiubc" if complex_too else "fiub"):
            raise ValueError(f"it holds {getattr(found, 'dtype', 'several arrays')}, not numbers")
        array = np.array(found, dtype=np.complex128 if complex_too else np.float64)
    except Exception as error:  # a damaged header can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where} cannot be read as a .npy file of numbers: {reason[:300]}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{where} has entries that are not finite numbers")
    return array
