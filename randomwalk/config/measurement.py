"""A measurement: operator and noise."""

from __future__ import annotations

from pydantic import model_validator

from randomwalk.config.base import Settings
from randomwalk.config.noise import OF_PIXELS, GaussianNoiseSettings, NoiseSettings, PoissonNoiseSettings
from randomwalk.config.operators import (
    ARRAYS,
    PICTURES,
    CompositionSettings,
    InpaintingSettings,
    MotionBlurSettings,
    MRISettings,
    OperatorSettings,
    blurs_of,
    parts_of,
)


class Measurement(Settings):
    """y = A(x) + noise. Without this section, sampling is unconditional."""

    operator: OperatorSettings
    noise: NoiseSettings
    """Gaussian by default."""
    given: bool = False
    """The files in `data.path` are the measurements, as pictures or arrays (`data.range`); the true images are
    unknown."""
    keep_known: bool | None = None
    """With given pictures that have missing pixels: return the known pixels as they are, to the bit. By default so
    unless the noise is given as a number, which is then removed from the known pixels too."""
    estimate_noise: bool = False
    """Add the noise of `noise`, but give the sampler a level estimated from each measurement: a test of `std: auto`."""

    @property
    def noise_is_estimated(self) -> bool:
        """Whether the sampler gets an estimated noise level."""
        return self.estimate_noise or "auto" in (getattr(self.noise, "std", None), getattr(self.noise, "peak", None))

    @property
    def tells_cameras(self) -> bool:
        """Whether each picture is looked at for the noise of a camera."""
        return self.given and getattr(self.noise, "std", None) == "auto" and not getattr(self.noise, "white", False)

    @property
    def keeps_known(self) -> bool:
        """Whether the known pixels of the result are those of the measurement."""
        if self.keep_known is not None:
            return self.keep_known
        return self._has_known_pixels and (self.noise.name == "none" or self.noise_is_estimated)

    @property
    def _has_known_pixels(self) -> bool:
        return self.given and isinstance(self.operator, InpaintingSettings)

    @model_validator(mode="after")
    def _pixels_can_be_kept(self) -> Measurement:
        if self.keep_known is not None and not self._has_known_pixels:
            raise ValueError(
                "keep_known: is for the operator inpainting and measurements that are given (given: true); remove it"
            )
        return self

    @model_validator(mode="after")
    def _pictures_can_be_given(self) -> Measurement:
        for operator in parts_of(self.operator) if self.given else ():
            if isinstance(operator, MotionBlurSettings) and operator.length is None:
                raise ValueError(
                    "given: motion_blur without length draws a random kernel; give length and angle, or use blur, with "
                    "a file of the kernel"
                )
            alone = operator is self.operator
            if operator.name not in PICTURES and not (alone and operator.name in ARRAYS):
                raise ValueError(
                    f"given: {operator.name}{'' if alone else ' in a composition'} makes measurements that are not "
                    f"images; allowed: {', '.join(PICTURES)}, or a composition of these; and "
                    f"{', '.join(name for name in ARRAYS if name not in PICTURES)} alone"
                )
            if isinstance(operator, InpaintingSettings) and operator.mask not in ("file", "beside"):
                raise ValueError(f"given: found mask: {operator.mask}, which is random; allowed: file or beside")
        return self

    @model_validator(mode="after")
    def _kspace_can_be_given(self) -> Measurement:
        mri = self.operator
        if not isinstance(mri, MRISettings):
            return self
        if self.given and mri.mask not in ("file", "nonzero"):
            raise ValueError(f"given: found mask: {mri.mask}, which is drawn; allowed: file or nonzero")
        if not self.given and mri.mask == "nonzero":
            raise ValueError("operator.mask: nonzero is that of a given k-space (given: true); take another")
        if self.given and mri.coils > 1:
            raise ValueError(
                f"operator.coils: {mri.coils} sensitivities are simulated, and are not those of a given k-space; give "
                "maps, a file with the sensitivities of its coils"
            )
        return self

    @model_validator(mode="after")
    def _given_blurs_go_on_beyond_the_border(self) -> Measurement:
        for blur in blurs_of(self.operator) if self.given else ():
            if "boundary" not in blur.model_fields_set:
                blur.boundary = "unknown"
        return self

    @model_validator(mode="after")
    def _noise_can_be_estimated(self) -> Measurement:
        if not self.noise_is_estimated:
            return self
        photons = isinstance(self.noise, PoissonNoiseSettings)
        key = "peak" if photons else "std"
        value = getattr(self.noise, key, None)
        what = "estimate_noise: this" if self.estimate_noise else f"noise.{key}: found auto, which"
        if self.estimate_noise and not isinstance(self.noise, GaussianNoiseSettings):
            raise ValueError(f"{what} is for gaussian noise, but the noise is {self.noise.name}; remove it")
        if value == "auto" and not self.given:
            also = "" if photons else ", with estimate_noise: true if the sampler must estimate it"
            raise ValueError(
                f"noise.{key}: found auto, which is for measurements that are given (given: true); allowed: how much "
                f"noise to add{also}"
            )
        if isinstance(self.noise, GaussianNoiseSettings) and self.noise.std != "auto" and self.given:
            raise ValueError(f"estimate_noise: noise.std is known, {self.noise.std:g}; remove it, or use std: auto")
        for operator in parts_of(self.operator):
            if operator.name not in PICTURES or operator.name in ("demosaic", "hdr", "jpeg"):
                raise ValueError(
                    f"{what} is for measurements that are images with independent noise, but the operator is "
                    f"{operator.name}; allowed with it: noise with a known {key}"
                )
        return self

    @model_validator(mode="after")
    def _photons_come_from_pixels(self) -> Measurement:
        last = self.operator.second if isinstance(self.operator, CompositionSettings) else self.operator
        if self.noise.name in OF_PIXELS and last.name in (
            "compressed_sensing",
            "fourier_subsampling",
            "mri",
            "tomography",
            "phase_retrieval",
        ):
            raise ValueError(
                f"noise.name: found {self.noise.name}, which is for pixels, but {last.name} does not measure pixels; "
                f"allowed with it: gaussian, laplace, none{', beer_lambert' if last.name == 'tomography' else ''}"
            )
        if self.noise.name == "beer_lambert" and last.name not in ("tomography", "deepinv"):
            raise ValueError(
                f"noise.name: found beer_lambert, which is for the projections of tomography, but the operator is "
                f"{last.name}; allowed with it: another noise"
            )
        return self
