"""Training of denoisers on images: data, loss, loop, and the run around them (Park et al. 2024, arXiv 2411.18702)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.config.files import dump
from randomwalk.errors import InputError
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import NAME as REPORT
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
        facts = data.facts() if context.is_main else {}
        if context.is_main and held.is_resumed:
            check_same_data(folder, facts)
        held.begin(data.config, facts)
        trainer = Trainer(config, context, folder, data)
        if held.is_resumed:
            trainer.resume()
        if context.is_main:
            warnings = data.warnings()
            warn(warnings)
            held.keep_notes(warnings)
            start = f"from {data.unit[:-1]} {trainer.images_seen}" if trainer.images_seen else "from the start"
            print(f"{trainer.description()}; {start}", flush=True)
        trainer.run()
        if context.is_main:
            trainer.write_report()
            print(
                f"weights: {folder.file(MODEL)}\n"
                f"numbers: {folder.file('log.csv')}, {folder.file('validation.csv')}\n"
                f"figures: {folder.file('samples.png')}, {folder.file('curves.png')}\n"
                f"report:  {folder.file(REPORT)}"
            )
    return 0


def check_same_data(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Raise InputError if a run is resumed with other images than it began with, or other or reordered classes."""
    began, advice = folder.facts(), "put the folders back as they were, or start a new run"
    if isinstance(then := began.get("classes"), list) and then != facts.get("classes", []):
        now = ", ".join(facts.get("classes", []))
        raise InputError(
            f"--resume {folder.path}: the classes are {now}, but were {', '.join(map(str, then))} when it began; "
            f"{advice}"
        )
    if began.get("images", facts.get("images")) != facts.get("images"):
        raise InputError(f"--resume {folder.path}: the images in data.path have changed since it began; {advice}")


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
