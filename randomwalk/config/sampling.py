"""One sampling task: data, measurement, sampler and output."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from randomwalk.config.base import (
    WHOLE,
    Batch,
    Device,
    Frames,
    Images,
    Number,
    OutputPath,
    Pair,
    PathText,
    Positive,
    Precision,
    SampleFit,
    Seed,
    Settings,
    Side,
    Text,
)
from randomwalk.config.labels import Guidance
from randomwalk.config.measurement import Measurement
from randomwalk.config.networks import Weights
from randomwalk.config.noise import NoiseInUnits
from randomwalk.config.operators import (
    ARRAYS,
    PICTURES,
    AnyBlurSettings,
    DeepinvSettings,
    InpaintingSettings,
    MRISettings,
    SuperResolutionSettings,
    TomographySettings,
    parts_of,
)
from randomwalk.config.samplers import POSTERIOR_NAMES, PRIOR_NAMES, SamplerSettings

SAMPLING = (
    "{name: random_walk, step_scale: 0.3, initial_temperature: 1, preconditioned: true, "
    "schedule: {name: karras, num_steps: 400, sigma_min: 0.02, sigma_max: 3}}"
)
"""Settings that draw samples of the posterior."""


class Start(Settings):
    """Start of the walk: mean + std * Normal(0, I). With a measurement, for random_walk only."""

    mean: Number | Literal["measurement"] = 0.0
    """Mean of every pixel; or measurement: the small image of super_resolution enlarged by cubic interpolation, that of
    inpainting with its holes filled in smoothly, the filtered back-projection of tomography, the zero-filled image of
    mri, or the blurred image as it is."""
    std: Positive | None = None
    """Standard deviation; the highest sigma of the schedule by default."""


# --- sample.py -------------------------------------------------------------------------------------------------------


class SampleData(Settings):
    """The true images, or the measurements themselves (`measurement.given`). Unconditional runs need none."""

    path: PathText
    """A folder, a zip or one image file; any mode and size (see `fit`)."""
    num_images: Images | None = None
    """Number of images to use, in name order; all by default."""
    fit: SampleFit = "resize"
    """How images get the network's size: resize the short side and crop the centre, crop, or pad; or keep their own
    size, for networks of any size. Then only images of the same size share a batch."""
    page: Images | Literal["all"] = 1
    """Which page of a file with several (TIFF), or frame of an animation (GIF, WebP, PNG, AVIF): a number from 1, or
    all, each of them an image."""
    gps: bool = True
    """Keep the coordinates at which a photograph was taken in its results, with the rest of its metadata."""
    range: Annotated[list[Number], Pair] | Literal["auto"] | None = None
    """For arrays in files of instruments (.npy, .npz, .mat, .h5, .nii, DICOM, TIFF): the numbers of their units that
    become -1 and 1, in which the noise is stated too; nothing is clipped. auto takes the least and the largest number
    of all files. Without it, the files are pictures. Where the files are k-space, projections or what deepinv measures
    (`measurement.given`), the range is that of the images."""
    dataset: Text | None = None
    """Name of the array in each .npz, .mat or .h5 file; by default the only one."""
    axis: Annotated[int, Field(ge=0, le=2), WHOLE] | None = None
    """Axis of volumes along which each slice is an image; the results are volumes again. By default the first of three
    axes has the channels of an image."""

    @model_validator(mode="after")
    def _arrays_or_pictures(self) -> SampleData:
        if self.range is None and (self.dataset is not None or self.axis is not None):
            key = "axis" if self.dataset is None else "dataset"
            raise ValueError(f"{key}: is for arrays; set range: [low, high] or auto too, or remove it")
        if self.range is not None and self.page != 1:
            raise ValueError(
                f"page: found {self.page}, but with range the files are arrays; allowed: axis, for volumes"
            )
        if isinstance(self.range, list) and not self.range[0] < self.range[1]:
            raise ValueError(f"range: found {self.range}; allowed: [low, high], as in [-1000, 2000], or auto")
        return self


class SampleConfig(Settings):
    """One sampling task: `python sample.py --diffusion_config FILE`."""

    seed: Seed = 0
    """Seed of all random numbers: image i depends on the seed and i alone."""
    output: OutputPath
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    network: Weights
    guidance: Guidance | None = None
    """Class labels, for class-conditional networks. Without them these make images of any class, if trained to."""
    data: SampleData | None = None
    measurement: Measurement | None = None
    sampler: SamplerSettings
    start: Start = Start()
    num_images: Images | None = None
    """Number of images of an unconditional run."""
    image_size: Annotated[list[Side], Pair] | None = None
    """[height, width]; the network's training size by default. With projections or what deepinv measures
    (`measurement.given`) the size of the images, by default the network's, if it takes only that, and for projections a
    square as wide as the detector."""
    num_samples: Images = 1
    """Samples per measurement. With several, their mean, standard deviation and calibration are written."""
    intervals: PathText | None = None
    """File that `randomwalk calibrate` wrote: the lower and upper ends of intervals that cover the true pixels as often
    as they say, on average over pictures like those that it was found on."""
    batch_size: Batch = 16
    """Samples computed together. Particle methods always compute all samples of an image together."""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    precision: Precision = "auto"
    """Precision of the network; the state of the walk is always float32. auto: bf16 where the device has units for it,
    but fp32 where rounding changes the result: where the sampler differentiates the network or controls its error, and
    for networks of points."""
    max_memory: Positive | None = None
    """Memory limit of a process in GiB, for networks of any size: large images are denoised in overlapping tiles.
    60% of the free memory of the device by default."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile the network. auto: on a GPU, where the images have one size and the run is long."""
    animation_frames: Frames = 24
    """Frames of the progress animation, for images of up to 512 pixels along a side; 0 writes none."""
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def given(self) -> bool:
        """Whether the images are the measurements."""
        return self.measurement is not None and self.measurement.given

    @property
    def measured_arrays(self) -> bool:
        """Whether the files are measurements that are no images, with axes of their own."""
        return (
            self.measurement is not None
            and self.measurement.given
            and self.measurement.operator.name in ARRAYS
            and self.data is not None
            and self.data.range is not None
        )

    @property
    def sizes_unknown(self) -> bool:
        """Whether the files do not tell the size of the images."""
        return (
            self.measured_arrays
            and self.measurement is not None
            and isinstance(self.measurement.operator, TomographySettings | DeepinvSettings)
        )

    @property
    def masks_beside(self) -> bool:
        """Whether images come with masks next to them."""
        return self.painted_mask is not None and self.painted_mask.mask == "beside"

    @property
    def painted_mask(self) -> InpaintingSettings | None:
        """Part of the operator that has a painted mask for the images as they are; None if there is none.

        In a composition, only masks beside images are for them, and a file has the size of what its part measures.
        """
        parts = [] if self.measurement is None else parts_of(self.measurement.operator)
        masked = [part for part in parts if isinstance(part, InpaintingSettings)]
        kinds = ("file", "beside") if len(parts) == 1 else ("beside",)
        return next((part for part in masked if part.mask in kinds), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on a translated file for its reader, one line each."""
        return self._notes

    @model_validator(mode="after")
    def _sampler_and_measurement(self) -> SampleConfig:
        measured = self.measurement is not None
        allowed, where = (POSTERIOR_NAMES, "with") if measured else (PRIOR_NAMES, "without")
        if self.sampler.name not in allowed:
            raise ValueError(
                f"sampler.name: found {self.sampler.name!r}; allowed {where} a measurement: {', '.join(allowed)}"
            )
        if measured and self.sampler.name != "random_walk" and self.start != Start():
            raise ValueError(
                f"start: is for the sampler random_walk; {self.sampler.name} chooses its own start; remove it"
            )
        interpolated = self.measurement is not None and isinstance(
            self.measurement.operator,
            InpaintingSettings | SuperResolutionSettings | AnyBlurSettings | TomographySettings,
        )
        if self.start.mean == "measurement" and not interpolated:
            raise ValueError(
                "start.mean: found measurement, which is for inpainting, super_resolution, tomography and blurs; "
                "remove it"
            )
        if self.intervals is not None and (not measured or self.num_samples < 2):
            raise ValueError("intervals: is for several samples of a measurement; set num_samples, or remove it")
        if self.sampler.name == "posterior_mean" and self.num_samples > 1:
            raise ValueError(
                f"num_samples: found {self.num_samples}, but posterior_mean makes one image, the mean; for samples "
                f"take the sampler {SAMPLING}"
            )
        return self

    @model_validator(mode="after")
    def _noise_is_in_units_of_the_data(self) -> SampleConfig:
        found = None if self.data is None else self.data.range
        noise = None if self.measurement is None else self.measurement.noise
        if found is None or not isinstance(noise, NoiseInUnits):
            return self
        if "pixel_range" in noise.model_fields_set and noise.pixel_range != found:
            raise ValueError(
                f"measurement.noise.pixel_range: found {noise.pixel_range}, but the noise of arrays is in the units of "
                f"data.range, {found}; remove it"
            )
        if isinstance(found, list):
            noise.pixel_range = found
        return self

    @model_validator(mode="after")
    def _arrays_have_a_range(self) -> SampleConfig:
        if self.data is None or self.measurement is None or not self.measurement.given:
            return self
        operator, found = self.measurement.operator, self.data.range
        if operator.name not in ARRAYS or operator.name in PICTURES:
            return self
        if not isinstance(found, list):
            raise ValueError(
                f"data.range: {'missing' if found is None else 'found auto'}; the files of {operator.name} are arrays "
                "that are no images, which do not tell it; expected [low, high], the numbers of the images that become "
                f"-1 and 1{', [-high, high] for complex images' if isinstance(operator, MRISettings) else ''}"
            )
        if isinstance(operator, MRISettings) and found[0] != -found[1]:
            raise ValueError(
                f"data.range: found {found}, but images are complex, and the range is that of both parts; allowed: "
                "[-high, high]"
            )
        return self

    @model_validator(mode="after")
    def _measurements_keep_their_size(self) -> SampleConfig:
        if self.measurement is None or self.data is None:
            return self
        if self.measurement.given:
            if "fit" in self.data.model_fields_set and self.data.fit != "keep":
                raise ValueError(
                    f"data.fit: found {self.data.fit}, but given measurements keep their size; allowed: keep, or no fit"
                )
            self.data.fit = "keep"
        if self.masks_beside and self.data.fit != "keep":
            raise ValueError(f"data.fit: found {self.data.fit}; allowed with mask: beside: keep, as the masks do")
        return self

    @model_validator(mode="after")
    def _has_its_images(self) -> SampleConfig:
        if self.measurement is not None and self.data is None:
            raise ValueError("data: missing; a measurement needs data.path, the folder of the true images")
        if self.measurement is None and self.data is not None:
            raise ValueError("data: is for runs with a measurement; add the section measurement, or remove data")
        if self.measurement is None and self.num_images is None:
            raise ValueError("num_images: missing; an unconditional run needs it")
        if self.measurement is not None and self.num_images is not None:
            raise ValueError("num_images: is for unconditional runs; with a measurement use data.num_images")
        if self.image_size is not None and self.data is not None and self.data.fit == "keep" and not self.sizes_unknown:
            raise ValueError(
                "image_size: with data.fit: keep the images keep their own; remove it, or choose another fit"
            )
        return self
