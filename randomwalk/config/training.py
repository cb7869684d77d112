"""One training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from randomwalk.config.base import (
    WHOLE,
    Batch,
    Count,
    Device,
    Fit,
    Natural,
    NonNegative,
    Number,
    OutputPath,
    Pair,
    PathText,
    Positive,
    Precision,
    Seed,
    Settings,
    Side,
    Text,
)
from randomwalk.config.labels import Labels, check_labels
from randomwalk.config.networks import DenoiserSettings, NetworkSettings, UNetSettings
from randomwalk.config.objective import LogNormalLevels, Objective, check_objective


class TrainData(Settings):
    """The training images."""

    dataset: Literal["folder", "mnist", "fashion_mnist", "cifar10"] = "folder"
    """A folder or zip of images, or a standard set."""
    path: PathText | Annotated[list[PathText], Field(min_length=1, max_length=1000)]
    """The folder or zip, or a list of them; for standard sets the folder they are kept in, or downloaded into."""
    image_size: Side
    channels: Literal[1, 2, 3] = 3
    """1 for grey, 3 for colour; of complex arrays 2, the parts of the numbers."""
    range: Annotated[list[Number], Pair] | Literal["auto"] | None = None
    """For arrays in files of instruments (.npy, .npz, .mat, .h5, .nii, DICOM, TIFF): the numbers of their units that
    become -1 and 1; nothing is clipped. auto takes the least and the largest number of all training files. Without it,
    the files are pictures."""
    array: Text | None = None
    """Name of the array in each .npz, .mat or .h5 file; by default the only one."""
    axis: Annotated[int, Field(ge=0, le=2), WHOLE] | None = None
    """Axis of volumes along which each slice is an image. By default the first of three axes has the channels of an
    image."""
    fit: Fit = "resize"
    """How images get their size: resize the short side and crop the centre; crop at random; or pad with black."""
    flip: bool = True
    """Mirror each image with probability 1/2, drawn anew each time."""
    turn: bool = False
    """Rotate the images by a random multiple of 90 degrees."""
    rescale: Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Pair] | None = None
    """[smallest, largest] scale of a random crop, drawn anew each time: relative to the image with fit: crop, and to
    the image resized to cover image_size with fit: resize, so that 1 is the largest crop."""
    grey: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images that are turned grey, drawn anew each time: their luma in all three channels. These, and
    images that are grey anyway, get grey noise, one third of the variance in each channel, so that a network for
    colours learns to denoise grey pictures as three copies."""
    camera: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images in colour that have a camera's noise instead of white noise, at levels below 75 of 255:
    shot noise or white noise, demosaicked, smoothed and compressed as JPEG at random. Needs log_normal levels."""
    cache: bool = False
    """Decode all images at the start and keep them in memory; with fit: resize no larger than needed."""
    num_validation: Natural = 256
    """Images held out for validation: the last ones in a seeded order. Without validation_path."""
    validation_path: PathText | None = None
    """Folder or zip of validation images; then none are held out."""
    validation_size: Side | None = None
    """Side of the validation images, for networks of any size; image_size by default."""

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> TrainData:
        if self.rescale is not None:
            if self.fit == "pad":
                raise ValueError("rescale: is for fit: crop and resize, but fit is pad; remove it")
            if self.rescale[0] > self.rescale[1]:
                raise ValueError(f"rescale: found {self.rescale}; allowed: [smallest, largest]")
            if self.fit == "resize" and self.rescale[0] < 1:
                raise ValueError(f"rescale: found {self.rescale}; allowed with fit: resize: 1 and more")
        _check_arrays(self)
        if self.grey and self.channels == 1:
            raise ValueError(f"grey: found {self.grey:g}, but with channels: 1 all images are grey; remove it")
        if self.camera and self.channels == 1:
            raise ValueError(f"camera: found {self.camera:g}, but it is for colours and channels is 1; remove it")
        if self.dataset != "folder" and isinstance(self.path, list):
            raise ValueError(f"path: found a list; allowed with dataset {self.dataset}: one path")
        if self.dataset != "folder" and self.validation_path is not None:
            raise ValueError(f"validation_path: is for dataset: folder, but dataset is {self.dataset}; remove it")
        return self


def _check_arrays(data: TrainData) -> None:
    """Refuse settings of arrays without a range, and those of pictures with one."""
    if data.range is None:
        for key, found in (("array", data.array), ("axis", data.axis)):
            if found is not None:
                raise ValueError(f"{key}: is for arrays; set range: [low, high] or auto too, or remove it")
        if data.channels == 2:
            raise ValueError("channels: found 2; allowed without range: 1 or 3")
        return
    for key, used in (("dataset", data.dataset != "folder"), ("grey", data.grey), ("camera", data.camera)):
        if used:
            raise ValueError(
                f"{key}: found {getattr(data, key)}; it is for pictures, but range is for arrays; remove it"
            )
    if isinstance(data.range, list) and not data.range[0] < data.range[1]:
        raise ValueError(f"range: found {data.range}; allowed: [low, high], as in [-1000, 2000], or auto")


class PointData(Settings):
    """Points in the plane, drawn anew at every step."""

    dataset: Literal["points"]
    set: Literal[
        "swiss_roll", "moons", "circles", "s_curve", "checkerboard", "pinwheel",
        "gaussian", "eight_gaussians", "mixture",
    ]  # fmt: skip
    """A distribution of randomwalk/studies/points/datasets.py. All have standard deviation 2."""

    @property
    def image_size(self) -> int:
        """A point is an image of one pixel."""
        return 1

    @property
    def channels(self) -> int:
        """Its coordinates."""
        return 2


def _folder_by_default(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {**data, "dataset": renamed(data.get("dataset", "folder"))}


def renamed(dataset: Any) -> Any:
    """The present name of a set: Fashion-MNIST's own files once had one of their own."""
    return "fashion_mnist" if dataset == "fashion_mnist_files" else dataset


TrainingData = Annotated[TrainData | PointData, Field(discriminator="dataset"), BeforeValidator(_folder_by_default)]


class Optimizer(Settings):
    """Adam, or Muon for convolution kernels beside Adam for the rest."""

    name: Literal["adam", "muon"] = "adam"
    learning_rate: Positive = 2e-4
    warmup_images: Natural = 10_000
    """Images over which the learning rate rises linearly from 0."""
    decay: Literal["none", "cosine", "linear"] = "none"
    """Decay of the learning rate to 0 after the warm-up: half a cosine, or constant and then linear."""
    cooldown: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the training over which `decay: linear` falls."""
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Decay of Adam's averages of the gradient and of its square."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of Muon's average of the gradient."""
    weight_decay: NonNegative = 0.0
    gradient_clip: Positive | None = 1.0
    """Largest norm of the gradient."""


class LowRank(Settings):
    """Training of a low-rank difference (Hu et al. 2021, arXiv 2106.09685): a kernel W becomes W + (alpha / rank) B A.

    The initial weights stay as they are. The exported file holds the factors alone, and names these weights.
    """

    rank: Annotated[int, Field(ge=1, le=1024), WHOLE] = 8
    """Rows of A and columns of B."""
    alpha: Positive = 8.0
    """Size of the difference: at twice the rank, the factors count twice."""


class EMASettings(Settings):
    """Exponential moving average of the parameters."""

    half_life_images: Positive = 500_000
    warmup_ratio: Positive | None = 0.05
    """The half-life is at most this share of the images seen so far."""


class TrainConfig(Settings):
    """One training: `python train.py --config FILE`."""

    seed: Seed = 0
    output: OutputPath
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    data: TrainingData
    network: NetworkSettings
    denoiser: DenoiserSettings
    labels: Labels | None = None
    """Class labels. Without this section the network is unconditional."""
    initial_weights: PathText | None = None
    """Weights of an earlier training of the same network to start from."""
    initial_set: Text = "ema"
    """Which of the weights in that file: as `network.weights` of a sampling config."""
    low_rank: LowRank | None = None
    """Train a low-rank difference to the initial weights' 2-D convolutions instead of the network."""
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    ema: EMASettings = EMASettings()
    batch_size: Batch = 128
    """Images in one optimizer step, over all processes."""
    accumulate: Count = 1
    """Parts into which a process splits its share of the batch, to save memory."""
    num_images: Count
    """Length of the training in images, counting repeats."""
    max_minutes: Positive | None = None
    """Minutes of training after which to end, with the decay of the learning rate rescaled to them."""
    precision: Precision = "auto"
    """Precision of the network; weights and gradients are float32. auto: bf16 where the device has units for it,
    but fp32 for networks of points, and for objectives that differentiate the network twice."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile the network."""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    workers: Annotated[int, Field(ge=0, le=1024), WHOLE] = 0
    """Processes that decode images in advance."""
    log_every: Count = 50
    """Steps between two lines of log.csv."""
    checkpoint_images: Count = 100_000
    """Images between two checkpoints."""
    validate_images: Count = 100_000
    """Images between two validations and sample grids."""
    validation_sigmas: Annotated[list[Positive], Field(max_length=100)] = Field(default=[0.1, 0.25, 0.5, 1.0])
    """Noise levels at which the denoising PSNR is measured, in [-1, 1] pixel units."""
    export_raw: bool = False
    """Also export the parameters without averaging."""
    export_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _network_fits_data(self) -> TrainConfig:
        network, data = self.network, self.data
        if data.image_size != network.image_size:
            raise ValueError(
                f"data.image_size: found {data.image_size}; allowed: {network.image_size}, which is network.image_size"
            )
        key, channels = (
            ("in_channels", network.in_channels)
            if isinstance(network, UNetSettings)
            else ("num_channels", network.num_channels)
        )
        size = getattr(data, "validation_size", None)
        if size not in (None, network.image_size) and not getattr(network, "any_size", False):
            raise ValueError(
                f"data.validation_size: found {size}; allowed: {network.image_size}, the only size that network "
                f"{network.name} takes"
            )
        if data.channels != channels:
            raise ValueError(f"data.channels: found {data.channels}; allowed: {channels}, which is network.{key}")
        if isinstance(network, UNetSettings) and network.out_channels != channels:
            raise ValueError(
                f"network.out_channels: found {network.out_channels}; allowed: {channels}, which is network.{key} "
                "(training learns no variance)"
            )
        return self

    @model_validator(mode="after")
    def _network_knows_the_classes(self) -> TrainConfig:
        check_labels(self.labels, self.data, self.network, self.denoiser)
        return self

    @model_validator(mode="after")
    def _difference_of_weights(self) -> TrainConfig:
        if self.low_rank is not None and self.initial_weights is None:
            raise ValueError("low_rank: is a difference to initial_weights, which are missing; add them")
        if self.low_rank is not None and self.export_raw:
            raise ValueError("export_raw: found true; allowed with low_rank: false, whose file has one set of factors")
        return self

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate: found {self.accumulate}; allowed: a divisor of batch_size, which is {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> TrainConfig:
        size = self.data.channels * self.data.image_size**2
        once = {
            "compile": self.compile,
            "gradient_checkpointing": self.gradient_checkpointing,
            "network.use_checkpoint": getattr(self.network, "use_checkpoint", False),
        }
        check_objective(self.objective, self.denoiser, size, once)
        if not isinstance(self.data, TrainData):
            return self
        for key, share in {"grey": self.data.grey, "camera": self.data.camera}.items():
            if share and self.objective.name != "denoising":
                raise ValueError(
                    f"data.{key}: found {share:g}; allowed: 0, since the noise of {self.objective.name} is white"
                )
        if self.data.camera and not isinstance(self.objective.levels, LogNormalLevels):
            raise ValueError(f"data.camera: found {self.data.camera:g}; it needs objective.levels.name: log_normal")
        return self
