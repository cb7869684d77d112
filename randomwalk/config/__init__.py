"""Typed configuration of ``sample.py`` and ``train.py``.

The classes of this package are the whole vocabulary of the YAML files: each key with its type, range, default and one
line of explanation, which the JSON schema (``python -m randomwalk.config --schema``) hands to the editor. Files are
read by :mod:`randomwalk.configio`. Nothing here imports PyTorch.
"""

from randomwalk.config.base import Settings
from randomwalk.config.measurement import (
    GaussianNoiseSettings,
    IdentitySettings,
    InpaintingSettings,
    Measurement,
    OperatorSettings,
    SuperResolutionSettings,
)
from randomwalk.config.networks import (
    DenoiserSettings,
    EDMDenoiserSettings,
    NCSNppSettings,
    NetworkSettings,
    UNetSettings,
    VEDenoiserSettings,
    VPDenoiserSettings,
    Weights,
)
from randomwalk.config.samplers import (
    AnnealedLangevinSettings,
    DAPSSettings,
    DDIMSettings,
    DDNMPlusSettings,
    DDRMSettings,
    DiffPIRSettings,
    DPSSettings,
    MMPSSettings,
    PiGDMSettings,
    PosteriorSettings,
    PriorSettings,
    RandomWalkSettings,
    SamplerSettings,
    ScheduleSettings,
    SplitGibbsSettings,
    TDSSettings,
    TemplateSettings,
)
from randomwalk.config.sampling import SampleConfig, SampleData, Start
from randomwalk.config.training import (
    EMASettings,
    LevelSettings,
    LogNormalLevels,
    LogUniformLevels,
    Objective,
    Optimizer,
    TrainConfig,
    TrainData,
    UniformTimestepLevels,
)

__all__ = [
    "AnnealedLangevinSettings",
    "DAPSSettings",
    "DDIMSettings",
    "DDNMPlusSettings",
    "DDRMSettings",
    "DPSSettings",
    "DenoiserSettings",
    "DiffPIRSettings",
    "EDMDenoiserSettings",
    "EMASettings",
    "GaussianNoiseSettings",
    "IdentitySettings",
    "InpaintingSettings",
    "LevelSettings",
    "LogNormalLevels",
    "LogUniformLevels",
    "MMPSSettings",
    "Measurement",
    "NCSNppSettings",
    "NetworkSettings",
    "Objective",
    "OperatorSettings",
    "Optimizer",
    "PiGDMSettings",
    "PosteriorSettings",
    "PriorSettings",
    "RandomWalkSettings",
    "SampleConfig",
    "SampleData",
    "SamplerSettings",
    "ScheduleSettings",
    "Settings",
    "SplitGibbsSettings",
    "Start",
    "SuperResolutionSettings",
    "TDSSettings",
    "TemplateSettings",
    "TrainConfig",
    "TrainData",
    "UNetSettings",
    "UniformTimestepLevels",
    "VEDenoiserSettings",
    "VPDenoiserSettings",
    "Weights",
]
