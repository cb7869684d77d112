"""What became of each image with each method, so that a benchmark that was cut off can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from randomwalk.errors import InputError
from randomwalk.run_folder import RunFolder
from randomwalk.sampling.task import Task

Record = dict[str, Any]
"""Of one image with one method: qualities, ranks, counts of the network's work, seconds."""


class Records:
    """Records of all images, by task, method and image; each is saved when it is there, so that nothing is lost.

    Args:
        folder: where records.json is written.
        earlier: a folder that an earlier run with the same settings left, or several; what they have is not done again.
    """

    def __init__(self, folder: RunFolder, earlier: str | Sequence[str] | None) -> None:
        self.folder = folder
        self.found: dict[str, dict[str, dict[str, Any]]] = {}
        for left in [earlier] if isinstance(earlier, str) else earlier or []:
            path = Path(left) / "records.json"
            try:
                self._add(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise InputError(f"--resume {left}: {path} cannot be read ({error})") from error

    def _add(self, records: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Join with those of another run; where a method had another config there, those that came first stay."""
        for task, methods in records.items():
            for method, other in methods.items():
                own = self.found.setdefault(task, {}).setdefault(method, other)
                if own["config"] == other["config"]:
                    own["images"] = {**other["images"], **own["images"]}

    def of(self, task: str, method: str, config: Mapping[str, Any]) -> dict[str, Record]:
        """Records by image, those of an earlier run only if it had the same config."""
        kept = self.found.setdefault(task, {})
        if kept.get(method, {}).get("config") != config:
            kept[method] = {"config": dict(config), "images": {}}
        images: dict[str, Record] = kept[method]["images"]
        return images

    def save(self) -> None:
        """Write records.json."""
        self.folder.write_json("records.json", self.found)


def described(task: Task) -> dict[str, Any]:
    """What decides the result of an image, besides the image."""
    config = task.config
    parts = {"sampler": config.sampler, "measurement": config.measurement}
    return {
        **{key: json.loads(part.model_dump_json(exclude_none=True)) for key, part in parts.items() if part},
        "network": Path(config.network.path).stem,
        "seed": config.seed,
        "num_samples": config.num_samples,
        "precision": config.precision,
    }
