"""Training: the template of arXiv 2411.18702, its settings, and the loop around it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.config import files as configio
from randomwalk.errors import InputError
from randomwalk.run_folder import RunFolder, environment
from randomwalk.training.sets import ImageSet, OpenSet, TrainingSet
from randomwalk.training.trainer import MODEL, Trainer, build_denoiser

__all__ = ["Trainer", "run"]


def run(config: TrainConfig, resume: str | None = None, dry_run: bool = False, open_set: OpenSet = ImageSet) -> int:
    """Train as ``config`` says, in a new folder or on from the checkpoint of the folder ``resume``.

    Returns:
        The exit status.
    """
    if dry_run:
        return check(config, open_set)
    context = distributed.connect(config.device)
    folder: RunFolder | None = None
    try:
        if context.is_main:
            folder = RunFolder.resume(resume) if resume else RunFolder.create(config.output)
            context.broadcast(str(folder.path))
        else:
            folder = RunFolder(context.broadcast())
        trainer = Trainer(config, context, folder, open_set)
        if context.is_main:
            if not resume:
                folder.write_text("config.yaml", configio.dump(trainer.config))
                extra = {"classes": trainer.data.classes} if trainer.data.classes else {}
                folder.write_json("run.json", environment(str(context.device), context.size, extra))
            elif folder.has("run.json"):
                check_same_classes(folder, trainer.data.classes)
            folder.lock()
        if resume:
            trainer.resume()
        if context.is_main:
            start = f"from image {trainer.step * config.batch_size}" if trainer.step else "from the start"
            warn(trainer.data)
            print(f"{trainer.description()}; {start}, in {folder.path}", flush=True)
        trainer.run()
        if context.is_main:
            print(
                f"weights: {folder.file(MODEL)}\nnumbers: {folder.file('log.csv')}, {folder.file('validation.csv')}\n"
                f"pictures: {folder.file('samples.png')}, {folder.file('curves.png')}"
            )
    except BaseException as error:
        context.fail(str(error) or type(error).__name__)
        if folder is not None and isinstance(error, Exception):
            folder.discard()
        raise
    finally:
        distributed.cleanup(context)
    return 0


def check_same_classes(folder: RunFolder, classes: Sequence[str]) -> None:
    """Raise InputError if a run would go on with other classes than it began with, or with them in another order."""
    began = folder.read_json("run.json").get("classes")
    if began is not None and list(classes) != began:
        raise InputError(
            f"--resume {folder.path}: the classes are {', '.join(classes)}, and were {', '.join(began)} when it began; "
            "put the folders back as they were, or start a new run"
        )


def warn(data: TrainingSet) -> None:
    """Say what can be seen to ruin the training."""
    for line in data.warnings():
        print(f"warning: {line}", file=sys.stderr, flush=True)


def check(config: TrainConfig, open_set: OpenSet = ImageSet) -> int:
    """Print the resolved config and try everything that can be tried without training."""
    distributed.choose_device(config.device)
    data = open_set(config, True)
    print(configio.dump(data.config), end="", flush=True)
    for line in data.check():
        print(line, file=sys.stderr)
    warn(data)
    parameters = sum(p.numel() for p in build_denoiser(data.config).parameters())
    print(f"# ok: {data.description}, {parameters:,} parameters")
    return 0
