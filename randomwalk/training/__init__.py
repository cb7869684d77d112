"""Training of denoisers on images: data, loss, loop, and the run around them (Park et al. 2024, arXiv 2411.18702)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.config.files import dump
from randomwalk.errors import InputError
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.session import session
from randomwalk.training.foreseen import warn
from randomwalk.training.sets import ImageSet, OpenSet
from randomwalk.training.trainer import Trainer, build_denoiser

__all__ = ["Trainer", "run"]


def run(config: TrainConfig, resume: str | None = None, dry_run: bool = False, open_set: OpenSet = ImageSet) -> int:
    """Train a denoiser in a new folder, or resume the run in the folder ``resume``.

    Args:
        config: of the training.
        resume: folder of an interrupted run.
        dry_run: only check the config and the data.
        open_set: opener of the training set.

    Returns:
        The exit status.

    Raises:
        InputError: a file is missing or does not fit.
        RunError: the training failed; its last checkpoint stays.
    """
    if dry_run:
        return check(config, open_set)
    context = distributed.connect(config.device)
    earlier = RunFolder.resume(resume) if resume else None
    with session("train", config.output, context, earlier) as held:
        folder, data = held.folder, open_set(config, context.is_main)
        if context.is_main and held.is_resumed and folder.has("run.json"):
            check_same_classes(folder, data.classes)
        held.begin(data.config, {"classes": data.classes} if data.classes else {})
        trainer = Trainer(config, context, folder, data)
        if held.is_resumed:
            trainer.resume()
        if context.is_main:
            warn(data.warnings())
            start = f"from {data.unit[:-1]} {trainer.images_seen}" if trainer.images_seen else "from the start"
            print(f"{trainer.description()}; {start}", flush=True)
        trainer.run()
        if context.is_main:
            print(
                f"weights: {folder.file(MODEL)}\n"
                f"numbers: {folder.file('log.csv')}, {folder.file('validation.csv')}\n"
                f"figures: {folder.file('samples.png')}, {folder.file('curves.png')}"
            )
    return 0


def check_same_classes(folder: RunFolder, classes: Sequence[str]) -> None:
    """Raise InputError if a run is resumed with other classes than it began with, or with them in another order."""
    began = folder.facts().get("classes")
    if isinstance(began, list) and list(classes) != began:
        now, then = ", ".join(classes), ", ".join(map(str, began))
        raise InputError(
            f"--resume {folder.path}: the classes are {now}, and were {then} when it began; put the folders back as "
            "they were, or start a new run"
        )


def check(config: TrainConfig, open_set: OpenSet = ImageSet) -> int:
    """Print the resolved config and check everything that can be checked without training.

    Returns:
        The exit status.
    """
    distributed.choose_device(config.device)
    data = open_set(config, True)
    print(dump(data.config), end="", flush=True)
    for line in data.check():
        print(line, file=sys.stderr)
    warn(data.warnings())
    parameters = sum(p.numel() for p in build_denoiser(data.config).parameters())
    print(f"# ok: {data.description}, {parameters:,} parameters")
    return 0
