"""Training of denoisers on images: data, loss, loop, and the run around them (Park et al. 2024, arXiv 2411.18702)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.config.files import dump
from randomwalk.errors import InputError
from randomwalk.run_folder import RunFolder
from randomwalk.training.loop import MODEL
from randomwalk.training.session import session
from randomwalk.training.sets import ImageSet, OpenSet, TrainingSet
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
    try:
        data = open_set(config, context.is_main)
        earlier = RunFolder.resume(resume) if resume and context.is_main else None
        facts = {"classes": data.classes} if data.classes else {}
        with session(data.config, context, earlier, facts) as folder:
            if earlier is not None and folder.has("run.json"):
                check_same_classes(folder, data.classes)
            trainer = Trainer(config, context, folder, data)
            if resume:
                trainer.resume()
            if context.is_main:
                warn(data)
                start = f"from image {trainer.step * config.batch_size}" if trainer.step else "from the start"
                print(f"{trainer.description()}; {start}", flush=True)
            trainer.run()
            if context.is_main:
                print(
                    f"weights: {folder.file(MODEL)}\n"
                    f"numbers: {folder.file('log.csv')}, {folder.file('validation.csv')}\n"
                    f"figures: {folder.file('samples.png')}, {folder.file('curves.png')}"
                )
    except BaseException as error:
        context.fail(error)
        raise
    finally:
        distributed.cleanup(context)
    return 0


def check_same_classes(folder: RunFolder, classes: Sequence[str]) -> None:
    """Raise InputError if a run is resumed with other classes than it began with, or with them in another order."""
    began = folder.read_json("run.json").get("classes")
    if began is not None and list(classes) != began:
        raise InputError(
            f"--resume {folder.path}: the classes are {', '.join(classes)}, and were {', '.join(began)} when it began; "
            "put the folders back as they were, or start a new run"
        )


def warn(data: TrainingSet) -> None:
    """Print the warnings of a training set to the standard error."""
    for line in data.warnings():
        print(f"warning: {line}", file=sys.stderr, flush=True)


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
    warn(data)
    parameters = sum(p.numel() for p in build_denoiser(data.config).parameters())
    print(f"# ok: {data.description}, {parameters:,} parameters")
    return 0
