"""Names of the files of a run's images."""

from __future__ import annotations

import re

from randomwalk.images.kinds import stem_of
from randomwalk.lookup import shortened
from randomwalk.sampling.task import Task

PLAIN = "._-\u200c\u200d"
"""Marks that stay in names; the last two join and part letters in Persian and in the languages of India."""
MOST_BYTES = 150
"""Longest part of an image's name in the names of its files, which have at most 255 bytes with number and suffix."""


class Names:
    """Names of the files of a task's images, without folder and suffix."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._digits = max(4, len(str(len(task.images) - 1)))

    def numbered(self, image: int, name: str) -> str:
        """Number of an image, and a name."""
        return f"{image:0{self._digits}d}_{shortened(plain_name(name), MOST_BYTES)}"

    def stem(self, image: int) -> str:
        """Start of the names of an image's files: its number, and its own name if it has one."""
        if self._task.images.source is None:
            return f"{image:0{self._digits}d}"
        return self.numbered(image, stem_of(self._task.images.names[image]))

    def sample(self, image: int, sample: int | str) -> str:
        """Name of a sample's files."""
        kind = sample if isinstance(sample, str) else f"sample{sample}"
        return self.stem(image) if self._task.images.source is None else f"{self.stem(image)}_{kind}"


def plain_name(name: str) -> str:
    """Name with the letters, digits and symbols of all languages; ``_`` for what a shell or a system may not take."""
    kept = (c if c in PLAIN or (c.isalnum() if c.isascii() else c.isprintable()) else " " for c in name)
    return re.sub(" +", "_", "".join(kept))
