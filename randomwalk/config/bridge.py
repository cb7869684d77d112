"""Schroedinger bridges: the training of a bridge between two distributions of points, and its use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from randomwalk.config.base import (
    WHOLE,
    Batch,
    Count,
    Device,
    Frames,
    Number,
    OutputPath,
    Pair,
    PathText,
    Positive,
    Seed,
    Settings,
    Steps,
)
from randomwalk.config.networks import MLPSettings
from randomwalk.config.training import EMASettings, Optimizer

Grid = Literal["cosine", "uniform"]
Points = Annotated[int, Field(ge=1, le=10_000_000), WHOLE]
NUM_POINTS = 10_000
"""Fresh starting points if the config says nothing."""
MOST_POSITIONS = 100_000_000
"""Most positions of points that are kept for each direction, 8 bytes each."""


class SetEnd(Settings):
    """A distribution of randomwalk/studies/points/datasets.py. All have standard deviation 2."""

    name: Literal[
        "swiss_roll", "moons", "circles", "s_curve", "checkerboard", "pinwheel", "gaussian", "eight_gaussians",
        "mixture",
    ]  # fmt: skip


class NormalEnd(Settings):
    """A Gaussian in the plane. Between two of them (or `gaussian`) the bridge is known in closed form."""

    name: Literal["normal"]
    mean: Annotated[list[Number], Pair] = Field(default=[0.0, 0.0])
    covariance: Annotated[list[Annotated[list[Number], Pair]], Pair] = Field(default=[[1.0, 0.0], [0.0, 1.0]])

    @model_validator(mode="after")
    def _is_a_covariance(self) -> NormalEnd:
        (a, b), (c, d) = self.covariance
        if b != c or a <= 0 or a * d - b * c <= 0:
            raise ValueError(
                f"covariance: found {self.covariance}; allowed: a symmetric, positive definite matrix [[a, b], [b, d]]"
            )
        return self


EndSettings = Annotated[SetEnd | NormalEnd, Field(discriminator="name")]


class BridgeSettings(Settings):
    """Diffusion Schroedinger bridge matching by iterative Markovian fitting (Shi et al. 2023, arXiv 2303.16852)."""

    source: EndSettings
    """Start of the forward process, at t = 0."""
    target: EndSettings
    """Start of the backward process, at t = 1."""
    sigma: Positive = 1.0
    """Standard deviation of the reference Brownian motion at time 1, in the units of the points. Smaller values are
    closer to optimal transport and need more iterations."""
    first_coupling: Literal["independent", "reference"] = "independent"
    """The pairs of the first iteration: independent points of both sets, or of the source and of Brownian motion."""
    iterations: Steps = 20
    """Fits of the backward and the forward process in turn; each but the first on pairs from the other one."""
    first_steps: Count = 5000
    """Optimizer steps of the first fit of each direction, from random weights."""
    steps: Count = 2000
    """Optimizer steps of every later fit, from the weights of the previous one."""
    num_pairs: Points = 20_000
    """Pairs simulated for every fit."""
    num_steps: Steps = 60
    """Steps of their simulation."""
    grid: Grid = "cosine"
    """Times of the simulation: dense at both ends, or even."""

    @model_validator(mode="after")
    def _both_directions(self) -> BridgeSettings:
        if self.iterations < 2:
            raise ValueError(f"iterations: found {self.iterations}; allowed: at least 2, one for each direction")
        return self


def _check_positions(num_points: int, num_steps: int) -> None:
    """Raise ValueError if the positions of all points after all steps do not fit into a usual memory."""
    if num_points * num_steps > MOST_POSITIONS:
        raise ValueError(
            f"num_steps: found {num_steps} for {num_points} points, all of whose positions are kept; allowed: at most "
            f"{MOST_POSITIONS:,} positions, the product of the two"
        )


class BridgeEvaluation(Settings):
    """Measurements and figures at the end of a training."""

    num_points: Annotated[int, Field(ge=200, le=1_000_000), WHOLE] = 10_000
    """Points that start in each direction."""
    num_steps: Annotated[int, Field(ge=2, le=100_000), WHOLE] = 100
    """Steps of their simulation."""
    floor_repeats: Annotated[int, Field(ge=1, le=1000), WHOLE] = 10
    """Pairs of exact sets, whose distance is that of a perfect bridge."""
    num_transport: Annotated[int, Field(ge=100, le=20_000), WHOLE] = 1000
    """Points of each set for the optimal transport with whose cost the bridge is compared."""
    animation_frames: Frames = 36
    """Frames of the animation of each direction; 0 writes none."""

    @model_validator(mode="after")
    def _is_kept(self) -> BridgeEvaluation:
        _check_positions(self.num_points, self.num_steps)
        return self


class BridgeConfig(Settings):
    """One training of a bridge: `python train.py --config FILE`."""

    seed: Seed = 0
    output: OutputPath
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    bridge: BridgeSettings
    network: MLPSettings
    """Network of each direction. Its time runs from 0 to 1, so time_scale should be near 1000."""
    optimizer: Optimizer = Optimizer()
    """Optimizer; its "images" are pairs of points."""
    ema: EMASettings = EMASettings(half_life_images=100_000)
    batch_size: Batch = 512
    """Pairs in one optimizer step."""
    log_every: Count = 100
    """Steps between two lines of log.csv."""
    evaluation: BridgeEvaluation = BridgeEvaluation()
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    @model_validator(mode="after")
    def _network_of_points(self) -> BridgeConfig:
        if self.network.num_channels != 2:
            found = self.network.num_channels
            raise ValueError(f"network.num_channels: found {found}; allowed: 2, the coordinates of a point")
        if self.network.num_classes is not None:
            raise ValueError("network.num_classes: a bridge has no classes; remove it")
        return self


class BridgeWeights(Settings):
    """A trained bridge."""

    path: PathText
    """The model.safetensors of its training."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the parameters, or the parameters themselves."""


class BridgeSampleConfig(Settings):
    """One use of a trained bridge: `python sample.py --config FILE`."""

    seed: Seed = 0
    output: OutputPath
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    bridge: BridgeWeights
    direction: Literal["forward", "backward", "both"] = "both"
    """From source to target, from target to source, or both."""
    points: PathText | None = None
    """A .npy file of starting points [n, 2] instead of fresh ones, for one direction."""
    num_points: Points | None = None
    """Number of fresh starting points; 10,000 by default without `points`."""
    num_steps: Annotated[int, Field(ge=2, le=100_000), WHOLE] = 100
    """Steps of the simulation."""
    grid: Grid = "cosine"
    """Times of the simulation: dense at both ends, or even."""
    animation_frames: Frames = 36
    """Frames of the animation of each direction; 0 writes none."""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    @model_validator(mode="after")
    def _start(self) -> BridgeSampleConfig:
        if self.points is not None and self.direction == "both":
            raise ValueError("points: can start one direction only; set direction to forward or backward")
        if self.points is not None and self.num_points is not None:
            raise ValueError("num_points: is for fresh points; remove it, or points")
        if self.points is None:
            _check_positions(self.num_points or NUM_POINTS, self.num_steps)
        return self
