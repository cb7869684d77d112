"""Does embedding a score into the training image make its training faster? The ablation that the paper does not have.

A network learns one photograph, again and again: with the correct score embedded, with the published one, with a random
field of the same norm, with none; and as DDPM and DDIM, with the published settings and with normal ones. Measured is
when a sample has SSIM 0.90 and 0.95 to the photograph and keeps it, in optimizer steps and in seconds (of density,
solver and training; measuring stops the clock). The closed-form score of the photograph stands beside them:
it needs no training. The arms are full configurations, in score_embedding_ablation.yaml.

A record of every run is written when it ends; --resume FOLDER goes on with those that are there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from support import ablation_report, arms
from support.common import ROOT, Report, parser, start
from support.engine import Record, Records

from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.rng import ImageDraws, measurement_stream
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding import measures, sampling, training
from randomwalk.studies.score_embedding.images import load_images
from randomwalk.studies.score_embedding.methods import ScoreEmbedding, make_method

SETTINGS = Path(__file__).with_suffix(".yaml")
PHOTOGRAPHS = ROOT / "data" / "photographs"
NAMES = ("astronaut", "chelsea", "coffee")


def do(job: arms.Job) -> Record:
    """Train, and read what was measured; a training that fails is a run that did not get there."""
    arms.one_thread()
    if not job.arm.trained:
        return closed_form(job)
    with tempfile.TemporaryDirectory(prefix="ablation") as place, arms.quiet():
        folder = RunFolder.create(Path(place) / "run")
        try:
            trainer = training.train(job.config, folder, resolve_device(job.config.device))
        except RunError as error:
            return {"failed": str(error), "curve": {key: [] for key in CURVE}, "timings": {}}
        return read(folder) | {"shift": arms.shift(trainer)}


def closed_form(job: arms.Job) -> Record:
    """A sample by the score of the training set, from the start and by the sampler of the other arms."""
    config = job.config
    images, _ = load_images(config.data)
    method = make_method(config.method, images, config.batch_size, None)
    assert isinstance(method, ScoreEmbedding)
    noise = ImageDraws([measurement_stream(config.seed, 0)]).normal(images.shape[1:])
    settings = config.sampling
    start_at = sampling.start(settings.start, noise, method.sde, images[:1], settings.truth_weight)
    score = sampling.score_of(EmpiricalDenoiser(2 * images - 1), method.sde)
    made = sampling.flow(
        score, start_at, method.sde, t_end=method.settings.eps, rtol=settings.tolerance, atol=settings.tolerance,
        tweedie=settings.tweedie,
    )  # fmt: skip
    found = made.images.clamp(0, 1)
    value = {"ssim": measures.ssim(found, images), "mse": measures.mse(found, images)}
    curve: dict[str, list[float]] = {"step": [0], "seconds": [0.0], "evaluations": [made.evaluations]}
    curve |= {name: [float(v[0])] for name, v in value.items()}
    return {"curve": curve, "timings": {}, "untrained": True, "shift": []}


CURVE = ("step", "seconds", "ssim", "mse", "evaluations")


def read(folder: RunFolder) -> Record:
    """The record of a run's folder: curve (mean over samples), and seconds by stage."""
    rows: dict[int, list[dict[str, str]]] = {}
    for row in folder.read_csv("profile.csv"):
        rows.setdefault(int(row["step"]), []).append(row)
    curve: dict[str, list[float]] = {key: [] for key in CURVE}
    for step in sorted(rows):
        curve["step"].append(step)
        for key in CURVE[1:]:
            curve[key].append(sum(float(row[key]) for row in rows[step]) / len(rows[step]))
    return {"curve": curve, "timings": {row["stage"]: float(row["seconds"]) for row in folder.read_csv("timings.csv")}}


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--images", nargs="+", default=list(NAMES), metavar="NAME", help="of data/photographs (all)")
    made.add_argument("--arms", nargs="+", metavar="NAME", help="only these of the YAML file")
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="of each: weights, noise, start of samples (3)")
    made.add_argument("--processes", type=int, default=1, metavar="N", help="side by side, one thread each (1)")
    made.add_argument("--resume", metavar="FOLDER", help="of an earlier run: what is there is not done again")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Run what is missing, and print."""
    for name in ("seeds", "processes"):
        if getattr(chosen, name) < 1:
            raise InputError(f"--{name} {getattr(chosen, name)}: expected 1 or more")
    if missing := [name for name in chosen.images if not (PHOTOGRAPHS / f"{name}.png").is_file()]:
        raise InputError(f"--images: {', '.join(missing)}; expected names of the .png files in {PHOTOGRAPHS}")
    found = arms.chosen(arms.load(SETTINGS, chosen.quick), chosen.arms)
    if chosen.quick:
        chosen.images, chosen.seeds = chosen.images[:1], min(chosen.seeds, 2)
    arms.one_thread()
    device = str(resolve_device(chosen.device))
    jobs = [  # the seeds outside, so that an early look has all arms
        arms.Job(image, arm, seed, config_of(arm, image, seed, device))
        for seed in range(chosen.seeds)
        for image in chosen.images
        for arm in found
    ]
    report = Report("score_embedding_ablation", chosen, device, ["scipy"])
    report.settings["arms"] = {arm.name: arm.data for arm in found}
    records = arms.run(jobs, do, Records(report.folder, chosen.resume), chosen.processes)
    outcomes: dict[tuple[str, str], list[Record]] = {}
    for job, record in zip(jobs, records, strict=True):
        outcomes.setdefault((job.case, job.arm.name), []).append(record)
    ablation_report.write(report, found, {job.arm.name: job.config for job in jobs}, chosen.images, outcomes)
    return report.finish()


def config_of(arm: arms.Arm, image: str, seed: int, device: str) -> ScoreEmbeddingConfig:
    """The configuration of a run on one photograph."""
    return arm.config(seed, device, {"path": str(PHOTOGRAPHS / f"{image}.png"), "num_images": 1})


if __name__ == "__main__":
    start(main, options())
