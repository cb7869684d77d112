"""Plan of `every_config.py` for a file of `configs/`: its kind, requirements, short form and stated duration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.files import load_sampling, load_training
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.training import PointData
from randomwalk.config.yamltext import read_document
from randomwalk.errors import InputError
from support.common import ROOT

CONFIGS = ROOT / "configs"
Config = SampleConfig | BridgeSampleConfig | TrainConfig | BridgeConfig | ScoreEmbeddingConfig
WEIGHTS = "model.safetensors"
"""Files that every training leaves."""
FEW_STEPS, FEW_IMAGES, FEW_POINTS = 12, 2, 500
NARROW = {"model_channels": 32, "nf": 16}
"""Widths of the networks of a quick training, where the config's are wider."""


@dataclass(frozen=True)
class Job:
    """A file of `configs/`.

    Attributes:
        name: its path below `configs/`.
        config: what is in it; None if it is not valid, which the command that is run will say.
        trains: whether it is for train.py.
        text: the file.
    """

    name: str
    config: Config | None
    trains: bool
    text: str

    @property
    def command(self) -> list[str]:
        """Command as a user types it after `python`."""
        return ["train.py", "--config", self.path] if self.trains else ["sample.py", "--diffusion_config", self.path]

    @property
    def path(self) -> str:
        """The file from the project's root."""
        return f"configs/{self.name}"

    @property
    def weights(self) -> tuple[str, str] | None:
        """The key and the value that name the weights of a sampling task."""
        if isinstance(self.config, SampleConfig):
            return "network.path", self.config.network.path
        return ("bridge.path", self.config.bridge.path) if isinstance(self.config, BridgeSampleConfig) else None


def read_jobs(names: Sequence[str] = ()) -> list[Job]:
    """The files of `configs/`, or those of these names and the trainings whose weights they use, these first.

    Raises:
        InputError: there is no file of such a name.
    """
    found = sorted(p for p in CONFIGS.rglob("*.yaml") if "schema" not in p.parts)
    jobs = {str(path.relative_to(CONFIGS)): _read(path) for path in found}
    wanted = [name.removeprefix("configs/") for name in names] or list(jobs)
    if unknown := [name for name in wanted if name not in jobs]:
        raise InputError(f"configs/{unknown[0]}: there is no such file")
    ordered: dict[str, Job] = {}
    for name in wanted:
        if (training := trained_by(jobs[name], list(jobs.values()))) is not None:
            ordered.setdefault(training.name, training)
        ordered.setdefault(name, jobs[name])
    return list(ordered.values())


def _read(path: Path) -> Job:
    data = read_document(path).data
    bridge = data.get("bridge")
    samples = "sampler" in data or (isinstance(bridge, dict) and "path" in bridge)
    config: Config | None
    try:
        config = load_sampling(path) if samples else load_training(path)
    except InputError:
        config = None
    return Job(str(path.relative_to(CONFIGS)), config, not samples, path.read_text(encoding="utf-8"))


def trained_by(job: Job, jobs: Sequence[Job]) -> Job | None:
    """The training whose weights a sampling task uses, if it is one of these."""
    if job.weights is None:
        return None
    outputs = {f"{j.config.output}/{WEIGHTS}": j for j in jobs if j.trains and j.config is not None}
    return outputs.get(job.weights[1])


# --- shorter -------------------------------------------------------------------------------------------------------


def quick(job: Job, training: Job | None = None) -> list[str]:
    """Changes with which a file is done within seconds: few steps, two images, a narrow network."""
    config = job.config
    if isinstance(config, SampleConfig):
        points = training is not None and isinstance(getattr(training.config, "data", None), PointData)
        if points:
            return [f"num_images={FEW_POINTS}", "animation_frames=2"]
        schedule = config.sampler.schedule
        enough = small_pictures(config) or schedule is None or schedule.num_steps <= FEW_STEPS
        few = [] if enough else [f"sampler.schedule.num_steps={FEW_STEPS}"]
        changes = [*few, f"num_samples={min(config.num_samples, FEW_IMAGES)}", "animation_frames=2"]
        if config.num_images is not None:
            changes.append(f"num_images={min(config.num_images, FEW_IMAGES)}")
        elif config.data is not None and not Path(config.data.path).is_file():
            changes.append(f"data.num_images={min(config.data.num_images or FEW_IMAGES, FEW_IMAGES)}")
        return changes
    if isinstance(config, BridgeSampleConfig):
        return [f"num_points={FEW_POINTS}", f"num_steps={FEW_STEPS}", "animation_frames=2"]
    if isinstance(config, BridgeConfig):
        return [
            *("bridge.iterations=2", "bridge.first_steps=20", "bridge.steps=10", "bridge.num_pairs=500"),
            *("bridge.num_steps=10", "evaluation.num_points=200", "evaluation.animation_frames=2", "log_every=5"),
        ]
    if isinstance(config, ScoreEmbeddingConfig):
        return [*probe(job), *_narrow(config)]
    if isinstance(config, TrainConfig):
        batch, steps = (64, 12) if isinstance(config.data, PointData) else (4, 4)
        images = [] if isinstance(config.data, PointData) else ["data.num_validation=4", "data.validation_size="]
        return [f"batch_size={batch}", *_of_length(batch * steps, batch), *images, "compile=false", *_narrow(config)]
    return []


def small_pictures(config: SampleConfig) -> bool:
    """True if the quick form restores small cuts of the config's photographs, with all steps."""
    return config.data is not None and config.data.fit == "keep" and (ROOT / config.data.path).is_dir()


def _narrow(config: TrainConfig | ScoreEmbeddingConfig) -> list[str]:
    widths = {key: getattr(config.network, key, 0) for key in NARROW}
    return [f"network.{key}={NARROW[key]}" for key, width in widths.items() if width > 2 * NARROW[key]]


def _of_length(images: int, batch: int) -> list[str]:
    """Changes of a training: this many images, a line of log.csv for each step, one validation at the end."""
    ends = [f"{key}={images}" for key in ("num_images", "checkpoint_images", "validate_images")]
    return [*ends, "log_every=1", f"optimizer.warmup_images={batch}"]


def probe(job: Job) -> list[str]:
    """Changes with which a training shows how fast it is: a few steps of its own network and batch."""
    config = job.config
    if isinstance(config, TrainConfig):
        steps = 200 if isinstance(config.data, PointData) else 6
        images = [] if isinstance(config.data, PointData) else ["data.num_validation=4"]
        return [*_of_length(config.batch_size * steps, config.batch_size), *images]
    if isinstance(config, BridgeConfig):
        return ["bridge.iterations=2", "bridge.first_steps=200", "log_every=20", "evaluation.num_points=200"]
    if isinstance(config, ScoreEmbeddingConfig):
        return ["num_steps=4", *(["method.num_steps=4"] if config.method.name == "ddpm" else [])]
    return []


def units(config: Config) -> tuple[int, str]:
    """Length of a training and what it is counted in, as its log.csv does."""
    if isinstance(config, TrainConfig):
        return config.num_images, "images"
    if isinstance(config, ScoreEmbeddingConfig):
        return config.num_steps, "step"
    assert isinstance(config, BridgeConfig)
    return 2 * config.bridge.first_steps + (config.bridge.iterations - 2) * config.bridge.steps, "step"


def shortened(job: Job, share: float) -> list[str]:
    """Changes with which a training has this share of its length. Its learning rate falls accordingly sooner."""
    config = job.config
    if share >= 1:
        return []
    if isinstance(config, TrainConfig):
        batch = config.batch_size
        images = max(2, round(share * config.num_images / batch)) * batch
        warmup = min(config.optimizer.warmup_images, images // 10)
        return [
            f"num_images={images}",
            f"checkpoint_images={min(config.checkpoint_images, images)}",
            f"validate_images={min(config.validate_images, images)}",
            f"log_every={min(config.log_every, max(1, images // batch // 4))}",
            f"optimizer.warmup_images={warmup}",
        ]
    if isinstance(config, ScoreEmbeddingConfig):
        return [f"num_steps={max(2, round(share * config.num_steps))}"]
    if isinstance(config, BridgeConfig):
        steps = {key: max(2, round(share * getattr(config.bridge, key))) for key in ("first_steps", "steps")}
        return [f"bridge.{key}={value}" for key, value in steps.items()]
    return []


# --- what the file says ----------------------------------------------------------------------------------------------

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: float(k + 1) for k, word in enumerate(_WORDS)} | {
    **{"a": 1.0, "an": 1.0, "half a": 0.5, "half an": 0.5, "a quarter of an": 0.25},
    **{"fifteen": 15.0, "twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0},
}
SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_NUMBER = "|".join([r"\d+(?:\.\d+)?", *sorted(map(re.escape, NUMBERS), key=len, reverse=True)])
_NOT_HERE = r" (?:at|on) (?:a GPU|\d+ TFLOP)"
_DURATION = re.compile(
    rf"(?<![\w.])(?<!images )({_NUMBER})\s+(?:processor[- ])?({'|'.join(SECONDS)})s?(?![-\w]|{_NOT_HERE})( in all)?",
    re.IGNORECASE,
)


def says(text: str) -> float | None:
    """Processor seconds stated in the comments of a file; None without such a statement.

    Where there are several durations it is the one "in all", else the first.
    """
    comments = " ".join(found[1] for line in text.splitlines() if (found := re.match(r"\s*#\s?(.*)", line)))
    durations = list(_DURATION.finditer(comments))
    chosen = next((d for d in durations if d[3]), durations[0] if durations else None)
    if chosen is None:
        return None
    number = chosen[1].lower()
    return NUMBERS.get(number, 0.0) * SECONDS[chosen[2].lower()] or float(number) * SECONDS[chosen[2].lower()]
