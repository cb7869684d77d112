"""What ``train.py`` does with a config of score embedding, or of the method that it is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from randomwalk import distributed
from randomwalk.config import files as configio
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.errors import InputError
from randomwalk.progress import bar
from randomwalk.run_folder import RunFolder, differences, environment, write_csv
from randomwalk.studies.score_embedding import measures, report
from randomwalk.studies.score_embedding.trainer import CHECKPOINT, MODEL, Trainer

METRICS = ("image", "name", "sample", "mse", "psnr", "ssim", "evaluations")
CROSSINGS = ("level", "kind", "image", "seconds", "step", "epoch", "mse")


def run(config: ScoreEmbeddingConfig, resume: str | None = None, dry_run: bool = False, no_train: bool = False) -> int:
    """Train as ``config`` says, in a new folder or on from the checkpoint of the folder ``resume``, and report.

    Args:
        no_train: make samples and report anew, of the run in the folder ``resume`` or in that of the config.

    Returns:
        The exit status.
    """
    if distributed.launch().size > 1:
        raise InputError("few images are learnt by one process; start train.py without torchrun or mpiexec")
    device = distributed.choose_device(config.device)
    if dry_run:
        return check(config, device)
    if no_train:
        folder = finished(config, resume)
    else:
        folder = RunFolder.resume(resume) if resume else RunFolder.create(config.output)
    try:
        with folder.gone_if_it_fails():
            if not (resume or no_train):
                folder.write_text("config.yaml", configio.dump(config))
                folder.write_json("run.json", environment(str(device), 1))
            folder.lock()
            return _in_folder(config, folder, device, bool(resume or no_train), no_train)
    finally:
        folder.unlock()


def _in_folder(
    config: ScoreEmbeddingConfig, folder: RunFolder, device: torch.device, goes_on: bool, no_train: bool
) -> int:
    folder.remove_leftovers()
    trainer = Trainer(config, device, folder)
    if goes_on:
        trainer.resume()
    start = f"from step {trainer.step}" if trainer.step else "from the start"
    print(f"{description(trainer)}; {start}, in {folder.path}", flush=True)
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
    """One training in a fresh folder, without a report; for benchmarks."""
    folder.write_text("config.yaml", configio.dump(config))
    folder.write_json("run.json", environment(str(device), 1))
    trainer = Trainer(config, device, folder)
    trainer.prepare()
    trainer.run()
    write_results(trainer)
    return trainer


def finished(config: ScoreEmbeddingConfig, resume: str | None) -> RunFolder:
    """The folder of a run of this config that has ended.

    Raises:
        InputError: there is none, or it is of another config.
    """
    folder = RunFolder(resume or config.output)
    if not (folder.has("config.yaml") and folder.has(CHECKPOINT)):
        raise InputError(f"--no-train: {folder.path} holds no finished run; train first, without --no-train")
    kept = configio.load_training(folder.file("config.yaml")).model_dump(mode="json")
    ignored = ("device", "output", "sampling", "profile")
    changed = [k for k in differences(kept, config.model_dump(mode="json")) if k.split(".")[0] not in ignored]
    if changed:
        raise InputError(
            f"--no-train: the config differs from {folder.file('config.yaml')} in {', '.join(changed)}; only sampling "
            "and device may"
        )
    return folder


def check(config: ScoreEmbeddingConfig, device: torch.device) -> int:
    """Print the resolved config and try everything that can be tried without training."""
    print(configio.dump(config), end="")
    trainer = Trainer(config, device, RunFolder(config.output))
    print(f"# ok: {description(trainer)}")
    return 0


def description(trainer: Trainer) -> str:
    """One line that says what is trained on what."""
    config = trainer.config
    size = " x ".join(map(str, trainer.images.shape[2:]))
    parameters = sum(p.numel() for p in trainer.parameters)
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
    if trainer.rows["profile.csv"]:
        write_csv(folder, "crossings.csv", CROSSINGS, crossings(trainer))
    trainer.save_timings()


def crossings(trainer: Trainer) -> list[dict[str, Any]]:
    """When the SSIM of the profile crossed each level, of each image and of their mean."""
    profile, rows = trainer.config.profile, trainer.rows["profile.csv"]
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
    """What to print at the end."""
    seconds = trainer.clock.seconds
    lines = [
        f"{trainer.clock.total:.1f} s: density {seconds['density']:.2f}, solve {seconds['solve']:.2f}, training "
        f"{seconds['training']:.1f} ({trainer.step} steps)"
    ]
    if trainer.rows["profile.csv"]:
        for cells in crossings(trainer):
            if cells["kind"] == "sustained" and cells["image"] == "mean":
                reached = f"after {float(cells['seconds']):.1f} s" if "seconds" in cells else "not reached"
                lines.append(f"SSIM {cells['level']:g}, sustained: {reached}")
    return lines
