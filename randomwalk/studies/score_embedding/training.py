"""Training runs of score embedding and of DDPM on few images: the run behind ``train.py``, and its results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from randomwalk.config.files import dump, load_training
from randomwalk.config.resumption import changes
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.errors import InputError
from randomwalk.progress import bar
from randomwalk.runs.checkpoints import CHECKPOINT, MODEL
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.session import only_process, session
from randomwalk.studies.score_embedding import measures, report
from randomwalk.studies.score_embedding.trainer import Trainer
from randomwalk.training.foreseen import short_of_warmup, warn

REMADE = ("sampling", "profile", "device")
"""Settings that may change with ``--no-train``."""
METRICS = ("image", "name", "sample", "mse", "psnr", "ssim", "evaluations")
CROSSINGS = ("level", "kind", "image", "seconds", "step", "epoch", "mse")


def run(config: ScoreEmbeddingConfig, resume: str | None = None, dry_run: bool = False, no_train: bool = False) -> int:
    """Train in a new folder, or resume the run in the folder ``resume``; then make samples and a report.

    Args:
        config: of the training.
        resume: folder of an earlier run.
        dry_run: only check the config and the data.
        no_train: make samples and report again, for the run in the folder ``resume`` or in that of the config.

    Returns:
        The exit status.

    Raises:
        InputError: there are several processes, or the folder cannot be used.
        RunError: the training failed; its last checkpoint stays.
    """
    context = only_process(config.device, "training on few images")
    if dry_run:
        print(dump(config), end="")
        print(f"# ok: {description(Trainer(config, context.device, RunFolder(config.output)))}")
        return 0
    earlier = finished(config, resume) if no_train else RunFolder.resume(resume) if resume else None
    with session("train", config.output, context, earlier) as held:
        held.begin(config, may_change=REMADE if no_train else None)
        folder, trainer = held.folder, Trainer(config, context.device, held.folder)
        if earlier is not None:
            trainer.resume()
        warn(short_of_warmup(config.optimizer, config.num_steps * config.batch_size))
        start = f"from step {trainer.step}" if trainer.step else "from the start"
        print(f"{description(trainer)}; {start}", flush=True)
        trainer.prepare()
        if not no_train:
            trainer.run()
        with bar(2, "after training", "parts") as tick:
            tick(0, "samples")
            write_results(trainer)
            tick(1, "report")
            paths = report.write(folder)
            tick(1, "done")
        print("\n".join([*summary(trainer), f"weights: {folder.file(MODEL)}", *map(str, paths)]))
    return 0


def train(config: ScoreEmbeddingConfig, folder: RunFolder, device: torch.device) -> Trainer:
    """Train in a new folder, without a report, for benchmarks."""
    trainer = Trainer(config, device, folder)
    trainer.prepare()
    trainer.run()
    write_results(trainer)
    return trainer


def finished(config: ScoreEmbeddingConfig, resume: str | None) -> RunFolder:
    """Find the folder of a finished run of a config.

    Raises:
        InputError: there is none, or it is of another config.
    """
    folder = RunFolder(resume or config.output)
    if not (folder.has("config.yaml") and folder.has(CHECKPOINT)):
        raise InputError(f"--no-train: {folder.path} holds no finished run; train first, without --no-train")
    began = load_training(folder.file("config.yaml"))
    if not isinstance(began, ScoreEmbeddingConfig):
        raise InputError(f"--no-train: {folder.path} is a different kind of training")
    changes(began, config, f"--no-train: {folder.path}", REMADE)
    return folder


def description(trainer: Trainer) -> str:
    """One line on the method, the images and the device."""
    config = trainer.config
    size = " x ".join(map(str, trainer.images.shape[2:]))
    parameters = sum(p.numel() for p in trainer.descent.parameters)
    images = f"{len(trainer.images)} image{'s' if len(trainer.images) > 1 else ''} of {size}"
    return f"{config.method.name}, {images}, {parameters:,} parameters, on {trainer.device}"


def write_results(trainer: Trainer) -> None:
    """Make the final samples; write them, their measurements, the crossings of the profile and the timings."""
    folder, settings = trainer.folder, trainer.config.sampling
    with trainer.clock.stage("sampling"):
        made, rows = trainer.samples()
    shape = (-1, settings.num_samples, *made.images.shape[1:])
    samples = made.images.float().cpu().reshape(shape).transpose(0, 1)
    first = made.frames.float().cpu().reshape(len(made.frames), *shape)[:, :, 0]
    folder.write_array("samples.npy", samples.clamp(0, 1).numpy())
    folder.write_array("frames.npy", np.asarray(first))
    named = [row | {"name": trainer.names[row["image"]]} for row in rows]
    write_csv(folder, "metrics.csv", METRICS, named)
    if trainer.logs["profile.csv"]:
        write_csv(folder, "crossings.csv", CROSSINGS, crossings(trainer))
    trainer.save_timings()


def crossings(trainer: Trainer) -> list[dict[str, Any]]:
    """Times at which the SSIM of the profile crosses each level, for each image and for their mean."""
    profile, rows = trainer.config.profile, trainer.logs["profile.csv"]
    images = sorted({int(row["image"]) for row in rows})
    found = []
    for level in profile.levels:
        for kind, hold in (("sustained", profile.hold), ("first", 1)):
            for image in [*images, None]:
                cells: dict[str, Any] = {"level": level, "kind": kind, "image": "mean" if image is None else image}
                seconds, values = measures.curve(rows, "seconds", "ssim", image)
                place = measures.sustained_crossing(seconds, values, level, hold)
                if place is not None:
                    cells["seconds"] = f"{place:.4f}"
                    for column in ("step", "epoch", "mse"):
                        at = measures.interpolate(seconds, measures.curve(rows, "seconds", column, image)[1], place)
                        cells[column] = f"{at:.6g}"
                found.append(cells)
    return found


def summary(trainer: Trainer) -> list[str]:
    """Lines to print at the end."""
    seconds = trainer.clock.seconds
    lines = [
        f"{trainer.clock.total:.1f} s: density {seconds['density']:.2f}, solve {seconds['solve']:.2f}, training "
        f"{seconds['training']:.1f} ({trainer.step} steps)"
    ]
    if trainer.logs["profile.csv"]:
        for cells in crossings(trainer):
            if cells["kind"] == "sustained" and cells["image"] == "mean":
                reached = f"after {float(cells['seconds']):.1f} s" if "seconds" in cells else "not reached"
                lines.append(f"SSIM {cells['level']:g}, sustained: {reached}")
    return lines
