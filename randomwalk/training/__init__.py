"""Training: the template of arXiv 2411.18702, its settings, and the loop around it."""

from __future__ import annotations

import sys

from randomwalk import configio, distributed
from randomwalk.config import TrainConfig
from randomwalk.runs import RunFolder, environment
from randomwalk.training.sets import TrainingSet, open_training_set
from randomwalk.training.trainer import MODEL, Trainer, build_denoiser

__all__ = ["Trainer", "run"]


def run(config: TrainConfig, resume: str | None = None, dry_run: bool = False) -> int:
    """Train as ``config`` says, in a new folder or on from the checkpoint of the folder ``resume``.

    Returns:
        The exit status.
    """
    if dry_run:
        return check(config)
    context = distributed.connect(config.device)
    try:
        if context.is_main:
            folder = RunFolder.resume(resume) if resume else RunFolder.create(config.output)
            path = context.broadcast(str(folder.path))
        else:
            path = context.broadcast()
        folder = RunFolder(path)
        trainer = Trainer(config, context, folder)
        if context.is_main:
            if not resume:
                folder.write_text("config.yaml", configio.dump(trainer.config))
                folder.write_json("run.json", environment(str(context.device), context.size))
            folder.lock()
        if resume:
            trainer.resume()
        if context.is_main:
            start = f"from image {trainer.step * config.batch_size}" if trainer.step else "from the start"
            warn(trainer.data)
            print(f"{trainer.description()}; {start}, in {folder.path}", flush=True)
        trainer.run()
        if context.is_main:
            print(f"weights: {folder.file(MODEL)}\nnumbers: {folder.file('log.csv')}, {folder.file('validation.csv')}\n"
                  f"pictures: {folder.file('samples.png')}, {folder.file('curves.png')}")
    except BaseException as error:
        context.fail(str(error) or type(error).__name__)
        raise
    finally:
        distributed.cleanup(context)
    return 0


def warn(data: TrainingSet) -> None:
    """Say what can be seen to ruin the training."""
    for line in data.warnings():
        print(f"warning: {line}", file=sys.stderr, flush=True)


def check(config: TrainConfig) -> int:
    """Print the resolved config and try everything that can be tried without training."""
    distributed.choose_device(config.device)
    data = open_training_set(config)
    print(configio.dump(data.config), end="", flush=True)
    data.check()
    warn(data)
    parameters = sum(p.numel() for p in build_denoiser(data.config).parameters())
    print(f"# ok: {data.description}, {parameters:,} parameters")
    return 0
