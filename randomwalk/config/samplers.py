"""Noise schedules and samplers, of the prior and of the posterior: the one declaration of their settings.

The classes of `randomwalk.samplers` inherit from these, so that name, type, default, bounds and help of a setting are
written here and nowhere else: each is a key of YAML, a line of the schema and a keyword in Python. Equations, sources
and biases are in the docstrings of the samplers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from randomwalk.config.base import WHOLE, Fraction, NonNegative, Positive, Settings, Steps, TableSize, check_order
from randomwalk.config.networks import SDESettings


class ScheduleSettings(Settings):
    """Decreasing noise levels, in [-1, 1] pixel units. Without a range, that of the denoiser."""

    name: Literal["pretrained", "sigmoid", "linear", "cosine", "geometric", "karras", "even_time"]
    """pretrained: uniform steps in the noise level as the network is given it. even_time: in the time of the SDE of the
    sampler predictor_corrector, or else of the denoiser."""
    num_steps: Steps
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    beta_min: Positive | None = None
    """With beta_max and num_timesteps: the range of this DDPM table instead of sigma_min and sigma_max."""
    beta_max: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_timesteps: TableSize | None = None
    t0: Annotated[float, Field(ge=1e-3, le=1000)] | None = None
    """Steepness of the sigmoid schedule (0.3 by default)."""
    rho: Annotated[float, Field(ge=0.1, le=1000)] | None = None
    """Exponent of the Karras schedule (7 by default)."""

    @model_validator(mode="after")
    def _one_range(self) -> ScheduleSettings:
        table = {"beta_min": self.beta_min, "beta_max": self.beta_max, "num_timesteps": self.num_timesteps}
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given_table = [key for key, value in table.items() if value is not None]
        given_sigmas = [key for key, value in sigmas.items() if value is not None]
        if given_table and len(given_table) < len(table):
            missing = next(key for key in table if key not in given_table)
            raise ValueError(
                f"{missing}: missing; beta_min, beta_max and num_timesteps are given together or not at all"
            )
        if given_table and given_sigmas:
            raise ValueError(
                f"{given_sigmas[0]}: found beside {given_table[0]}; allowed: sigma_min and sigma_max, or beta_min, "
                "beta_max and num_timesteps, not both"
            )
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        check_order("beta_min", self.beta_min, "beta_max", self.beta_max)
        return self

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> ScheduleSettings:
        for key, owner in (("t0", "sigmoid"), ("rho", "karras")):
            if getattr(self, key) is not None and self.name != owner:
                raise ValueError(f"{key}: is for the {owner} schedule, but name is {self.name}; remove it")
        for key in ("sigma_min", "sigma_max"):
            if self.name == "pretrained" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key}: the pretrained schedule follows the network's own noise table; remove it, or choose "
                    "another name, such as geometric"
                )
        return self


def _require_name(schema: dict[str, Any]) -> None:
    """Have the schema ask for the name, which Python may leave out: there it is the class."""
    properties = schema.get("properties", {})
    if properties.get("name", {}).pop("default", None) is not None:
        required = {"name", *schema.get("required", [])}
        schema["required"] = [key for key in properties if key in required]


class SamplerBase(Settings):
    """Settings of every sampler."""

    model_config = ConfigDict(json_schema_extra=_require_name)

    schedule: ScheduleSettings


MOST_STEPS = 1_000_000
"""Most steps of a sampler that plans all of them before the first."""
Repeats = Annotated[int, Field(ge=1, le=1000), WHOLE]
"""Evaluations of the network at one level."""
StepScale = Annotated[float, Field(gt=0, lt=2)]
"""c of steps c sigma^2, with which a walk diverges from 2 on."""


class RandomWalkSettings(SamplerBase):
    """The paper's walk: tau = c sigma^2, temperature linear from T0 to T1, no noise on the last step."""

    name: Literal["random_walk"] = "random_walk"
    step_scale: StepScale
    """c in tau = c sigma^2 (or in the preconditioned step); the walk diverges from 2 on."""
    initial_temperature: NonNegative = 0.0
    """T0: 1 is Langevin dynamics, less is colder, 0 adds no noise."""
    final_temperature: NonNegative = 1.0
    """T1: 1 samples, 0 climbs to a mode."""
    preconditioned: bool = False
    """With a measurement: step c (lambda I/sigma^2 + A^T A/eta^2)^-1 instead of min(c sigma^2, eta^2)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.0
    """Share of the velocity that a step keeps; 0 is the walk without one. For exact samples with many measurements.
    auto follows the number of levels."""
    prior_weight: Positive | Literal["auto"] = 1.0
    """lambda, with `preconditioned`: weight of the prior's score; 1 samples the posterior, less trusts y more; auto
    lets through no more of y's noise than the next level."""
    kappa: Fraction | Literal["auto"] | None = None
    """Temperature that follows the next level sigma': where nothing is measured, noise of kappa sigma' is left after
    each step; where y is seen, its own noise is. Instead of T0 and T1. auto falls with the level, to 0."""
    down_to_noise: bool = False
    """With a measurement: where its noise is above the lowest level, the levels end there, spaced anew."""
    last_denoised: bool = False
    """Denoise the last state once more, at 0.65 of the last level: one image for PSNR rather than a sample."""
    turns: Literal[1, 8] = 1
    """8: the network sees the image turned and mirrored in another way at each step; for networks of photographs."""

    @model_validator(mode="after")
    def _one_temperature(self) -> RandomWalkSettings:
        for key, usual in (("initial_temperature", 0.0), ("final_temperature", 1.0)):
            if self.kappa is not None and getattr(self, key) != usual:
                raise ValueError(f"{key}: found beside kappa, which sets all temperatures; remove one of them")
        if self.kappa is not None and self.momentum != 0:
            raise ValueError("momentum: found beside kappa, which assumes steps without momentum; remove one of them")
        return self


# --- of the prior ----------------------------------------------------------------------------------------------------


class AnnealedLangevinSettings(SamplerBase):
    """NCSN (Song & Ermon 2019, arXiv 1907.05600): L steps of tau = c sigma^2 at each level, T = 1."""

    name: Literal["annealed_langevin"] = "annealed_langevin"
    step_scale: StepScale = 0.1
    """c; the walk diverges from 2 on."""
    steps_per_level: Repeats = 3
    """L."""


class VEReverseDiffusionSettings(SamplerBase):
    """Reverse diffusion of the VE SDE (Song et al. 2021, arXiv 2011.13456): tau = sigma^2 - sigma'^2, T = 1/2."""

    name: Literal["ve_reverse_diffusion"] = "ve_reverse_diffusion"


class DDPMSmallSettings(SamplerBase):
    """DDPM with the posterior variance (Ho et al. 2020, arXiv 2006.11239); also the ancestral step of the VE SDE."""

    name: Literal["ddpm_small"] = "ddpm_small"


class DDPMLargeSettings(SamplerBase):
    """DDPM with the forward variance (Ho et al. 2020, arXiv 2006.11239)."""

    name: Literal["ddpm_large"] = "ddpm_large"


class ProbabilityFlowSettings(SamplerBase):
    """Probability-flow ODE (Song et al. 2021, arXiv 2011.13456) by Euler's method in sigma^2."""

    name: Literal["probability_flow"] = "probability_flow"


class DPMSolver2MSettings(SamplerBase):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): multistep solver of the probability flow, of order 2."""

    name: Literal["dpmpp_2m"] = "dpmpp_2m"


class DPMSolver3MSettings(SamplerBase):
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095): multistep solver of the probability flow, of order 3."""

    name: Literal["dpmpp_3m"] = "dpmpp_3m"


class UniPCSettings(SamplerBase):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867): multistep predictor and corrector of the probability flow."""

    name: Literal["unipc"] = "unipc"
    solver_order: Literal[2, 3] = 2
    """Denoised images that predict a step; the corrector has one more. 3 is for 12 steps or more."""


class HeunSettings(SamplerBase):
    """EDM (Karras et al. 2022, arXiv 2206.00364): Heun's method for the probability flow, with noise if asked for."""

    name: Literal["heun"] = "heun"
    s_churn: NonNegative = 0.0
    """Amount of noise added over all steps; 0 is deterministic."""
    s_min: NonNegative = 0.0
    """Lowest level at which noise is added."""
    s_max: Positive | None = None
    """Highest level at which noise is added (no limit by default)."""
    s_noise: Positive = 1.0
    """Standard deviation of the added noise, relative to the exact one; other values than 1 change the distribution."""

    @model_validator(mode="after")
    def _ordered(self) -> HeunSettings:
        check_order("s_min", self.s_min, "s_max", self.s_max)
        return self


class ODESettings(SamplerBase):
    """Probability flow by torchdiffeq: a tolerance instead of a number of steps; every level costs at least a step."""

    name: Literal["ode"] = "ode"
    method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun"] = "dopri5"
    """Runge-Kutta method: bosh3 for loose tolerances, dopri8 for tight ones."""
    rtol: Positive = 1e-5
    """Relative tolerance of every image."""
    atol: Positive = 1e-5
    """Absolute tolerance, for pixels in [-1, 1]."""
    shared_steps: bool = False
    """Integrate a batch of images with common steps: faster on a GPU, but an image depends on the others."""


class PredictorCorrectorSettings(SamplerBase):
    """Score-SDE (Song et al. 2021, arXiv 2011.13456): any predictor with any corrector, in the time of any SDE."""

    name: Literal["predictor_corrector"] = "predictor_corrector"
    sde: SDESettings
    """The SDE that is discretised; it need not be that of the network."""
    predictor: Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"] = "reverse_diffusion"
    """Step to the next level."""
    corrector: Literal["langevin", "annealed_langevin", "none"] = "langevin"
    """Steps at a level, before the predictor's."""
    snr: Positive = 0.16
    """The "signal-to-noise ratio" of the corrector; the length of its steps is proportional to the square."""
    corrector_steps: Repeats = 1
    """Steps of the corrector at each level."""
    norms: Literal["sample", "batch"] = "sample"
    """Norms in the step of langevin: of each sample, for images and not for points; or (as Score-SDE) means over the
    batch, on which a sample then depends."""
    probability_flow: bool = False
    """Predict along the flow, without noise."""

    @model_validator(mode="after")
    def _does_something(self) -> PredictorCorrectorSettings:
        if self.predictor == "none" and self.corrector == "none":
            raise ValueError("corrector: found none beside predictor: none; expected at least one of them")
        if self.predictor == "none" and self.probability_flow:
            raise ValueError("probability_flow: is for a predictor, but predictor is none; remove it")
        # The config that a run writes has all keys, so the others may be there with their defaults.
        changed = {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}
        for key in ("snr", "corrector_steps"):
            if self.corrector == "none" and key in changed:
                raise ValueError(f"{key}: is for a corrector, but corrector is none; remove it")
        if self.corrector != "langevin" and "norms" in changed:
            raise ValueError(f"norms: is for the corrector langevin, but corrector is {self.corrector}; remove it")
        return self


class DDIMSettings(SamplerBase):
    """DDIM (Song et al. 2021, arXiv 2010.02502)."""

    name: Literal["ddim"] = "ddim"
    eta: Fraction = 0.0
    """0 is deterministic, 1 is DDPM with the small variance."""


# --- of the posterior ------------------------------------------------------------------------------------------------
# Equations, sources and biases: randomwalk/samplers/posterior/NAME.py.


def _no_schedule(value: Any) -> None:
    if value is not None:
        raise ValueError("posterior_mean has a single level, that of the noise; remove it")


class PosteriorMeanSettings(SamplerBase):
    """Denoising by Tweedie's formula: the mean of the posterior, D(y, eta), by one evaluation of the network."""

    name: Literal["posterior_mean"] = "posterior_mean"
    schedule: Annotated[Any, AfterValidator(_no_schedule)] = Field(default=None, json_schema_extra={"type": "null"})
    """None: its one level is that of the noise."""
    turns: Literal[1, 4] = 1
    """Turns of the image whose results are averaged: 4 are all quarter turns, for about 0.1 dB more."""


class DPSSettings(SamplerBase):
    """DPS (Chung et al. 2023, arXiv 2209.14687): a DDIM step, then one down the gradient of the residual's norm."""

    name: Literal["dps"] = "dps"
    guidance: NonNegative = 1.0
    """zeta, the length of the guidance step; choose it for each task and number of steps."""
    stochasticity: Fraction = 1.0
    """Share of new noise in the DDIM step: 0 is deterministic, 1 is DDPM."""


class PiGDMSettings(SamplerBase):
    """PiGDM (Song et al. 2023): DDIM with a Gaussian approximation of p(y | x_sigma), by the pseudo-inverse."""

    name: Literal["pigdm"] = "pigdm"
    stochasticity: Fraction = 1.0
    """Share of new noise in the DDIM step: 0 is deterministic, 1 is DDPM."""
    data_std: Positive = 1.0
    """Standard deviation of the data, in [-1, 1] pixel units."""
    adaptive_weight: bool = False
    """The guidance weight of the paper's algorithm, which pulls to A x = y, in place of that of the score."""


class DDRMSettings(SamplerBase):
    """DDRM (Kawar et al. 2022, arXiv 2201.11793): diffusion in the singular basis of A. For about 20 steps."""

    name: Literal["ddrm"] = "ddrm"
    stochasticity: Fraction = 0.85
    """Share of new noise where nothing is measured."""
    stochasticity_measured: Fraction = 1.0
    """Share of y in the measured part, where y is more precise than the noise level."""


class DDNMPlusSettings(SamplerBase):
    """DDNM+ (Wang et al. 2023, arXiv 2212.00490): y replaces the measured part of the denoised image."""

    name: Literal["ddnm_plus"] = "ddnm_plus"
    stochasticity: Fraction = 0.85
    """Share of new noise where nothing is measured."""
    travel_length: Steps = 1
    """Levels that time travel goes back."""
    travel_repeats: Repeats = 1
    """Passes over each stretch of levels; 1 does not travel back."""

    @model_validator(mode="after")
    def _ends(self) -> DDNMPlusSettings:
        if self.schedule is None:  # made in Python, and given its levels later
            return self
        stretches = len(range(0, self.schedule.num_steps - self.travel_length, self.travel_length))
        steps = self.schedule.num_steps + stretches * self.travel_length * (self.travel_repeats - 1)
        if steps > MOST_STEPS:
            raise ValueError(
                f"travel_repeats: found {self.travel_repeats}, which makes {steps:,} steps with schedule.num_steps "
                f"{self.schedule.num_steps}; allowed: at most {MOST_STEPS:,} steps"
            )
        return self


class DiffPIRSettings(SamplerBase):
    """DiffPIR (Zhu et al. 2023, arXiv 2305.08995): denoise, solve for y nearby, add noise."""

    name: Literal["diffpir"] = "diffpir"
    strength: Positive = 1.0
    """lambda, weight of the denoised image against y."""
    stochasticity: Fraction = 0.3
    """zeta, share of new noise: 0 is deterministic."""


class SplittingSettings(SamplerBase):
    """Common part of daps and split_gibbs: how an image near another one is drawn given y."""

    inner: Literal["auto", "exact", "langevin"] = "auto"
    """exact for linear operators with a spectral decomposition and Gaussian noise, langevin for any; auto: exact where
    possible."""
    langevin_steps: Steps = 100
    """Langevin steps of each draw (inner: langevin); they do not evaluate the network."""
    langevin_step: Annotated[float, Field(gt=0, lt=2)] = 0.1
    """Size of these steps in units of the curvature; stable below 2, exact in the limit of 0."""


class DAPSSettings(SplittingSettings):
    """DAPS (Zhang et al. 2024, arXiv 2407.01521): flow to an image, draw one near it given y, add noise again."""

    name: Literal["daps"] = "daps"
    ode_steps: Repeats = 5
    """Evaluations of the network at each level."""
    data_std: Positive | None = None
    """Standard deviation of the data, which sets how near the draw is. By default the noise level sets it."""


class SplitGibbsSettings(SplittingSettings):
    """Split Gibbs (PnP-DM; Wu et al. 2024, arXiv 2405.18782): alternate draws given y and given the prior."""

    name: Literal["split_gibbs"] = "split_gibbs"
    rho_min: NonNegative = 0.1
    """Lowest distance rho between the two, in [-1, 1] pixel units; above it, rho follows the noise levels."""
    prior_steps: Repeats = 10
    """Evaluations of the network at each level."""
    stochasticity: Fraction = 1.0
    """Share of new noise in the steps of the prior: 1 draws, 0 follows the probability flow."""


class MMPSSettings(SamplerBase):
    """MMPS (Rozet et al. 2024, arXiv 2405.13712): the mean given y by second-order Tweedie and conjugate gradients."""

    name: Literal["mmps"] = "mmps"
    iterations: Repeats = 3
    """Iterations of conjugate gradients at each level, each a backward pass through the network."""
    stochasticity: Fraction = 1.0
    """Share of new noise in the DDIM step: 0 is deterministic, 1 is DDPM."""


class TDSSettings(SamplerBase):
    """TDS (Wu et al. 2023, arXiv 2306.17775): weighted particles; num_samples is their number for each image."""

    name: Literal["tds"] = "tds"
    data_std: Positive = 0.5
    """Standard deviation of the data, in [-1, 1] pixel units."""
    ess_threshold: Fraction = 0.5
    """Resample when the effective number of particles is below this share: 0 only at the end, 1 at every step."""


class TweedieSMCSettings(SamplerBase):
    """Ours: particles with second-order Tweedie moments, exact in the limit of many; num_samples is their number."""

    name: Literal["tweedie_smc"] = "tweedie_smc"
    probes: Annotated[int, Field(ge=0, le=1000), WHOLE] = 2
    """Random directions of the covariance in addition to those of y."""
    max_rank: Annotated[int, Field(ge=0, le=10_000), WHOLE] = 32
    """Largest number of directions of the covariance; if y has more entries, conjugate gradients take over."""
    iterations: Repeats = 3
    """Iterations of conjugate gradients at each level."""
    data_std: Positive = 0.2
    """Standard deviation of the clean pixels, for the directions of the covariance that are left out."""
    ess_threshold: Fraction = 0.5
    """Resample when the effective number of particles is below this share: 0 only at the end, 1 at every step."""
    weighted: bool = True
    """Weigh and resample the particles; false makes independent samples, faster and not exact."""


# --- all of them -----------------------------------------------------------------------------------------------------

PriorSettings = (
    RandomWalkSettings
    | AnnealedLangevinSettings
    | VEReverseDiffusionSettings
    | DDPMSmallSettings
    | DDPMLargeSettings
    | ProbabilityFlowSettings
    | DDIMSettings
    | HeunSettings
    | DPMSolver2MSettings
    | DPMSolver3MSettings
    | UniPCSettings
    | ODESettings
    | PredictorCorrectorSettings
)
PosteriorSettings = (
    RandomWalkSettings
    | PosteriorMeanSettings
    | DPSSettings
    | PiGDMSettings
    | DDRMSettings
    | DDNMPlusSettings
    | DiffPIRSettings
    | DAPSSettings
    | SplitGibbsSettings
    | MMPSSettings
    | TDSSettings
    | TweedieSMCSettings
)
SamplerSettings = Annotated[PriorSettings | PosteriorSettings, Field(discriminator="name")]


def _names(union: Any) -> tuple[str, ...]:
    return tuple(name for c in get_args(union) or (union,) for name in get_args(c.model_fields["name"].annotation))


PRIOR_NAMES = _names(PriorSettings)
"""Samplers for runs without a measurement."""
POSTERIOR_NAMES = _names(PosteriorSettings)
"""Samplers for runs with one."""
