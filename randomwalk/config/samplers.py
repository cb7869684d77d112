"""Noise schedules and samplers, of the prior and of the posterior."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from randomwalk.config.base import Count, Fraction, Natural, NonNegative, Positive, Settings, TwoOrMore, check_order
from randomwalk.config.networks import SDESettings


class ScheduleSettings(Settings):
    """Decreasing noise levels, in [-1, 1] pixel units. Without a range, that of the denoiser."""

    name: Literal["pretrained", "sigmoid", "linear", "cosine", "geometric", "karras", "even_time"]
    """pretrained: even steps in what the network is told of the noise level. even_time: in the time of the SDE of the
    sampler predictor_corrector, or else of the denoiser."""
    num_steps: Count
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    beta_min: Positive | None = None
    """With beta_max and num_timesteps: the range of this DDPM table instead of sigma_min and sigma_max."""
    beta_max: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_timesteps: TwoOrMore | None = None
    t0: Positive | None = None
    """Steepness of the sigmoid schedule (0.3 by default)."""
    rho: Positive | None = None
    """Exponent of the Karras schedule (7 by default)."""

    @model_validator(mode="after")
    def _one_range(self) -> ScheduleSettings:
        table = {"beta_min": self.beta_min, "beta_max": self.beta_max, "num_timesteps": self.num_timesteps}
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given_table = [key for key, value in table.items() if value is not None]
        given_sigmas = [key for key, value in sigmas.items() if value is not None]
        if given_table and len(given_table) < len(table):
            missing = next(key for key in table if key not in given_table)
            raise ValueError(f"{missing}: missing; beta_min, beta_max and num_timesteps are given together or not")
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


class SamplerBase(Settings):
    """What all samplers have."""

    schedule: ScheduleSettings


class RandomWalkSettings(SamplerBase):
    """The paper's walk: tau = c sigma^2, temperature linear from T0 to T1, no noise on the last step."""

    name: Literal["random_walk"]
    step_scale: Positive
    """c in tau = c sigma^2 (or in the preconditioned step)."""
    initial_temperature: NonNegative = 0.0
    """T0: 1 is Langevin dynamics, less is colder, 0 adds no noise."""
    final_temperature: NonNegative = 1.0
    preconditioned: bool = False
    """With a measurement: step c (I/sigma^2 + A^T A/eta^2)^-1 instead of min(c sigma^2, eta^2)."""


# --- of the prior ----------------------------------------------------------------------------------------------------


class AnnealedLangevinSettings(SamplerBase):
    """NCSN (Song & Ermon 2019, arXiv 1907.05600): L steps of tau = c sigma^2 at each level, T = 1."""

    name: Literal["annealed_langevin"]
    step_scale: Positive = 0.1
    steps_per_level: Count = 3


class TemplateSettings(SamplerBase):
    """A named setting of the template without parameters of its own."""

    name: Literal["ve_reverse_diffusion", "ddpm_small", "ddpm_large", "probability_flow"]


class DPMSolverSettings(SamplerBase):
    """DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095): multistep solvers of the probability flow, order 2 and 3."""

    name: Literal["dpmpp_2m", "dpmpp_3m"]


class HeunSettings(SamplerBase):
    """EDM (Karras et al. 2022, arXiv 2206.00364): Heun's method for the probability flow, with noise if asked for."""

    name: Literal["heun"]
    s_churn: NonNegative = 0.0
    """How much noise is added, over all steps; 0 is deterministic."""
    s_min: NonNegative = 0.0
    """Lowest level at which it is added."""
    s_max: Positive | None = None
    """Highest level at which it is added (no limit by default)."""
    s_noise: Positive = 1.0
    """Its standard deviation, relative to what the level says."""

    @model_validator(mode="after")
    def _ordered(self) -> HeunSettings:
        check_order("s_min", self.s_min, "s_max", self.s_max)
        return self


class ODESettings(SamplerBase):
    """Probability flow by torchdiffeq: a tolerance instead of a number of steps; every level costs a step at least."""

    name: Literal["ode"]
    method: Literal["dopri5", "dopri8", "bosh3", "adaptive_heun"] = "dopri5"
    rtol: Positive = 1e-5
    """Relative tolerance, of every image."""
    atol: Positive = 1e-5
    """Absolute tolerance, where pixels are in [-1, 1]."""
    shared_steps: bool = False
    """Make the images of a batch with the same steps: faster on a GPU, but an image depends on those beside it."""


class PredictorCorrectorSettings(SamplerBase):
    """Score-SDE (Song et al. 2021, arXiv 2011.13456): any predictor with any corrector, in the time of any SDE."""

    name: Literal["predictor_corrector"]
    sde: SDESettings
    """Whose steps are made; of the network's or not."""
    predictor: Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"] = "reverse_diffusion"
    """A step to the next level."""
    corrector: Literal["langevin", "annealed_langevin", "none"] = "langevin"
    """Steps at a level, before the predictor's."""
    snr: Positive = 0.16
    """The "signal-to-noise ratio" of the corrector: the length of its steps goes with the square."""
    corrector_steps: Count = 1
    """Of the corrector at each level."""
    norms: Literal["sample", "batch"] = "sample"
    """Of langevin: of each sample, which is for images and not for points; or (as Score-SDE) means over the batch, on
    which a sample then depends."""
    probability_flow: bool = False
    """Predict along the flow, without noise."""

    @model_validator(mode="after")
    def _does_something(self) -> PredictorCorrectorSettings:
        if self.predictor == "none" and self.corrector == "none":
            raise ValueError("corrector: none, and predictor: none; expected one of them at least")
        if self.predictor == "none" and self.probability_flow:
            raise ValueError("probability_flow: is for a predictor, but predictor is none; remove it")
        # The config of a run has all keys: the others may be there with their defaults.
        changed = {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}
        for key in ("snr", "corrector_steps"):
            if self.corrector == "none" and key in changed:
                raise ValueError(f"{key}: is for a corrector, but corrector is none; remove it")
        if self.corrector != "langevin" and "norms" in changed:
            raise ValueError(f"norms: is for the corrector langevin, but corrector is {self.corrector}; remove it")
        return self


class DDIMSettings(SamplerBase):
    """DDIM (Song et al. 2021, arXiv 2010.02502)."""

    name: Literal["ddim"]
    eta: Fraction = 0.0
    """0 is deterministic, 1 is DDPM with the small variance."""


# --- of the posterior ------------------------------------------------------------------------------------------------
# Equations, sources, and what each is biased by: randomwalk/posterior/NAME.py.


class DPSSettings(SamplerBase):
    """DPS (Chung et al. 2023, arXiv 2209.14687): a DDIM step, then one down the slope of the residual's norm."""

    name: Literal["dps"]
    guidance: NonNegative = 1.0
    """zeta, the length of the guidance step; to be chosen for each task and number of steps."""
    stochasticity: Fraction = 1.0
    """Of the DDIM step: 0 is deterministic, 1 is DDPM."""


class PiGDMSettings(SamplerBase):
    """PiGDM (Song et al. 2023): DDIM with a Gaussian guess of p(y | x_sigma), by the pseudo-inverse."""

    name: Literal["pigdm"]
    stochasticity: Fraction = 1.0
    """Of the DDIM step: 0 is deterministic, 1 is DDPM."""
    data_std: Positive = 1.0
    """Standard deviation of the data, in [-1, 1] pixel units."""
    adaptive_weight: bool = False
    """The weight of the paper's algorithm, which pulls to A x = y, in place of that of the score."""


class DDRMSettings(SamplerBase):
    """DDRM (Kawar et al. 2022, arXiv 2201.11793): diffusion in the singular basis of A. For about 20 steps."""

    name: Literal["ddrm"]
    stochasticity: Fraction = 0.85
    """Share of new noise where nothing is measured."""
    stochasticity_measured: Fraction = 1.0
    """How far the measured part goes to y where y is more precise than the noise level."""


class DDNMPlusSettings(SamplerBase):
    """DDNM+ (Wang et al. 2023, arXiv 2212.00490): y replaces what it sees of the denoised image."""

    name: Literal["ddnm_plus"]
    stochasticity: Fraction = 0.85
    """Share of new noise where nothing is measured."""
    travel_length: Count = 1
    """Levels that time travel goes back."""
    travel_repeats: Count = 1
    """How often each stretch is walked; 1 does not travel back."""


class DiffPIRSettings(SamplerBase):
    """DiffPIR (Zhu et al. 2023, arXiv 2305.08995): denoise, solve for y nearby, add noise."""

    name: Literal["diffpir"]
    strength: Positive = 1.0
    """lambda, weight of the denoised image beside y."""
    stochasticity: Fraction = 0.3
    """zeta, share of new noise."""


class _SplittingSettings(SamplerBase):
    """What daps and split_gibbs have in common: how an image near another one is drawn given y."""

    inner: Literal["auto", "exact", "langevin"] = "auto"
    """exact for linear operators with a spectral decomposition and Gaussian noise, langevin for any; auto: the best."""
    langevin_steps: Count = 100
    """Of each draw (inner: langevin); no network is evaluated in them."""
    langevin_step: Annotated[float, Field(gt=0, lt=2)] = 0.1
    """Size of these steps, in units of the curvature."""


class DAPSSettings(_SplittingSettings):
    """DAPS (Zhang et al. 2024, arXiv 2407.01521): flow to an image, draw one near it given y, add the next noise."""

    name: Literal["daps"]
    ode_steps: Count = 5
    """Evaluations of the network at each level."""
    data_std: Positive | None = None
    """Standard deviation of the data: how near the draw is. Without it, the noise level."""


class SplitGibbsSettings(_SplittingSettings):
    """Split Gibbs (PnP-DM; Wu et al. 2024, arXiv 2405.18782): draws near x given y, and of the prior, in turn."""

    name: Literal["split_gibbs"]
    rho_min: NonNegative = 0.1
    """Lowest distance rho between the two, in [-1, 1] pixel units; the noise levels above it are the others."""
    prior_steps: Count = 10
    """Evaluations of the network at each level."""
    stochasticity: Fraction = 1.0
    """Of the prior's steps: 1 draws, 0 follows the probability flow."""


class MMPSSettings(SamplerBase):
    """MMPS (Rozet et al. 2024, arXiv 2405.13712): the mean given y by second-order Tweedie and conjugate gradients."""

    name: Literal["mmps"]
    iterations: Count = 3
    """Of conjugate gradients at each level, a backward pass through the network each."""
    stochasticity: Fraction = 1.0
    """Of the DDIM step: 0 is deterministic, 1 is DDPM."""


class TDSSettings(SamplerBase):
    """TDS (Wu et al. 2023, arXiv 2306.17775): weighted particles; num_samples is how many there are of each image."""

    name: Literal["tds"]
    data_std: Positive = 0.5
    """Standard deviation of the data, in [-1, 1] pixel units."""
    ess_threshold: Fraction = 0.5
    """Particles are resampled when their effective number is below this share of them."""


class TweedieSMCSettings(SamplerBase):
    """Ours: particles with second-order Tweedie moments, exact as they grow many; num_samples is how many they are."""

    name: Literal["tweedie_smc"]
    probes: Natural = 2
    """Random directions of the covariance besides those of y."""
    max_rank: Natural = 32
    """Directions of the covariance in all; where y has more numbers, conjugate gradients take over."""
    iterations: Count = 3
    """Of conjugate gradients, at every level."""
    data_std: Positive = 0.2
    """Standard deviation of the clean pixels, for the directions of the covariance that are left out."""
    ess_threshold: Fraction = 0.5
    """Particles are resampled when their effective number is below this share of them."""
    weighted: bool = True
    """false: independent samples without weights, faster and not exact."""


# --- all of them -----------------------------------------------------------------------------------------------------

PriorSettings = (
    RandomWalkSettings
    | AnnealedLangevinSettings
    | TemplateSettings
    | DDIMSettings
    | HeunSettings
    | DPMSolverSettings
    | ODESettings
    | PredictorCorrectorSettings
)
PosteriorSettings = (
    RandomWalkSettings
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
