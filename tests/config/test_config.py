"""Configuration files: all of ours load, nothing unsafe or unknown does, and messages say what to change."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from config_examples import SAMPLE, TRAIN, message_of

from randomwalk.config import SampleConfig, Settings, TrainConfig
from randomwalk.config.base import named
from randomwalk.config.files import dump, load_sample_config, load_train_config, load_training
from randomwalk.config.generated import main, settings_page, write_schemas
from randomwalk.config.networks import DenoiserSettings, NetworkSettings, SDESettings, UNetSettings
from randomwalk.config.noise import NoiseSettings
from randomwalk.config.operators import InpaintingSettings, OperatorSettings
from randomwalk.config.samplers import ScheduleSettings
from randomwalk.config.weights import describe_missing_weights
from randomwalk.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SAMPLING = [
    "vp_inpainting",
    "vp_posterior",
    "vp_super_resolution",
    "ve_super_resolution",
    "photo_denoise",
    "photo_inpainting",
    "photo_super_resolution",
    "photo_deblur",
    "mri",
    "ct",
    "vp_uncond_sigmoidSchedule",
    "vp_uncond_pretrainedSchedule",
    "ve_inpainting",
    "ve_uncond",
    "ffhq256/vp_inpainting",
    "ffhq256/vp_super_resolution",
    "ffhq256/vp_uncond_sigmoidSchedule",
    "ffhq256/vp_uncond_pretrainedSchedule",
    "ffhq256/ve_inpainting",
    "ffhq256/ve_super_resolution",
    "ffhq256/ve_uncond",
    "posterior/random_walk",
    "posterior/random_walk_preconditioned",
    "posterior/random_walk_momentum",
    "posterior/dps",
    "posterior/pigdm",
    "posterior/ddrm",
    "posterior/ddnm_plus",
    "posterior/diffpir",
    "posterior/daps",
    "posterior/split_gibbs",
    "posterior/mmps",
    "posterior/tds",
    "posterior/tweedie_smc",
]
TRAINING = [
    "vp_train",
    "ve_train",
    "photo/train",
    "photo/camera_train",
    "folder_train",
    "phantom/ct_train",
    "phantom/mri_train",
]
SDES = ("vp_discrete", "vp_continuous", "sub_vp", "ve")
LESSONS = [f"{data}/{name}" for data in ("fashion", "mnist", "cifar10") for name in SDES]
SAMPLING += ["fashion/guided", "folder_sample"]
SAMPLING += [f"fashion/{kind}_{task}" for kind in ("vp", "ve") for task in ("inpainting", "super_resolution")]
SAMPLING += [f"{name}_sample" for name in (*LESSONS, "fashion/flow")]
TRAINING += [f"{name}_train" for name in (*LESSONS, "fashion/flow")]
TOYS = ["swiss_roll", "moons", "circles", "s_curve", "checkerboard", "eight_gaussians", "pinwheel", "mixture"]
SAMPLING += [f"toy/{name}_sample" for name in TOYS]
TRAINING += [f"toy/{name}_train" for name in TOYS]
BRIDGES = {
    "bridge/moons_to_swiss_roll": "bridge",
    "bridge/gaussian_to_swiss_roll": "bridge",
    "bridge/gaussian_to_gaussian": "bridge",
    "bridge/moons_to_swiss_roll_sample": "bridge_sample",
}
FEW_IMAGES = {
    f"score_embedding/{path.stem}": "score_embedding" for path in sorted((CONFIGS / "score_embedding").glob("*.yaml"))
}
"""tests/config/test_embedding_configs.py says which."""


# --- our own files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SAMPLING, *TRAINING, *FEW_IMAGES])
def test_every_config_loads_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    load: Callable[[Path], Settings] = load_sample_config if name in SAMPLING else load_training
    config = load(CONFIGS / f"{name}.yaml")
    (tmp_path / "resolved.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "resolved.yaml").model_dump() == config.model_dump()


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_sample_what_they_train(name: str) -> None:
    train = load_train_config(CONFIGS / f"{name}_train.yaml")
    sample = load_sample_config(CONFIGS / f"{name}_sample.yaml")
    assert sample.network.path == f"{train.output}/model.safetensors" and train.denoiser.name == "sde"
    assert sample.sampler.name == "predictor_corrector" and sample.guidance is not None
    assert sample.sampler.sde == train.denoiser.sde
    assert sample.guidance.labels == list(range(10)) and train.labels is not None
    assert (train.network.num_classes, train.denoiser.null_label) == (11, 10)  # type: ignore[union-attr]
    assert train.data.channels == (1 if not name.startswith("cifar10") else 3)
    steps = (sample.sampler.predictor, sample.sampler.corrector)
    if name.endswith("vp_continuous"):
        assert steps == ("euler_maruyama", "none")
    if name.endswith("sub_vp"):
        assert steps == ("reverse_diffusion", "langevin") and sample.sampler.snr == 0.16


def test_no_config_is_forgotten() -> None:
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    assert found == {*SAMPLING, *TRAINING, *BRIDGES, *FEW_IMAGES}


@pytest.mark.parametrize("name", [*SAMPLING, *TRAINING, *BRIDGES, *FEW_IMAGES])
def test_every_config_names_its_schema_and_says_what_to_customize(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert schema is not None and "# CUSTOMIZE" in text
    kind = (BRIDGES | FEW_IMAGES).get(name, "train" if name in TRAINING else "sample")
    assert (path.parent / schema[1]).resolve() == CONFIGS / "schema" / f"{kind}.schema.json"
    assert (path.parent / schema[1]).is_file()


def test_schemas_are_current(tmp_path: Path) -> None:
    for path in write_schemas(tmp_path):
        committed = json.loads((CONFIGS / "schema" / path.name).read_text(encoding="utf-8"))
        assert json.loads(path.read_text(encoding="utf-8")) == committed, "run python -m randomwalk.config --schema"


def test_the_page_of_settings_is_current() -> None:
    committed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_page() == committed, "run python -m randomwalk.config --docs"
    links = set(re.findall(r"\(#([^)]*)\)", committed))
    headings = re.findall(r"^#+ (.*)$", committed, re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9_-]", "", heading.lower().replace(" ", "-")) for heading in headings]
    assert links <= set(anchors) and len(anchors) == len(set(anchors))
    assert "| `missing` | a number of at least 0 and below 1 | `0.75` |" in committed


def test_the_schema_knows_names_ranges_and_explanations() -> None:
    schema = json.loads((CONFIGS / "schema" / "sample.schema.json").read_text(encoding="utf-8"))
    schedule = schema["$defs"]["ScheduleSettings"]
    assert schedule["additionalProperties"] is False and "karras" in schedule["properties"]["name"]["enum"]
    assert schedule["properties"]["num_steps"]["minimum"] == 1
    assert schema["$defs"]["SuperResolutionSettings"]["properties"]["factor"]["minimum"] == 2
    assert "appended" in schema["properties"]["output"]["description"]


def test_schemas_are_written_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--schema", str(tmp_path / "new")])
    names = ("sample", "train", "bridge", "bridge_sample", "score_embedding")
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"{name}.schema.json") for name in names]
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(["--schema", str(tmp_path / "file")])
    assert caught.value.code == 2 and "cannot be written" in capsys.readouterr().err


def test_the_ffhq_unet_is_the_published_one() -> None:
    manifest = json.loads((ROOT / "tests/reference/unet_ffhq256_manifest.json").read_text(encoding="utf-8"))
    published = {k: v for k, v in manifest["unet_constructor"].items() if k != "use_fp16"}
    for name in SAMPLING:
        if name.startswith("ffhq256/vp"):
            architecture = load_sample_config(CONFIGS / f"{name}.yaml").network.architecture
            assert isinstance(architecture, UNetSettings)
            assert architecture.model_dump(exclude={"name"}) == published | {"norm_groups": 32}


# The paper's settings: (levels, initial temperature, step scale) of its code in the version of February 2025.
PAPER = {
    "vp_uncond_sigmoidSchedule": ("sigmoid", 100, 0.1, 0.7),
    "vp_uncond_pretrainedSchedule": ("pretrained", 1000, 0.4, 0.4),
    "ve_uncond": ("geometric", 1000, 0.4, 0.16),
    "vp_super_resolution": ("sigmoid", 750, 0.0, 0.15651),
    "vp_inpainting": ("sigmoid", 750, 0.0, 0.77683),
    "ve_super_resolution": ("geometric", 1000, 0.0, 0.15651),
    "ve_inpainting": ("geometric", 1000, 0.0, 0.29487),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_ffhq_tasks_have_the_papers_settings(name: str) -> None:
    config = load_sample_config(CONFIGS / "ffhq256" / f"{name}.yaml")
    sampler = config.sampler.model_dump()
    settings = (sampler["schedule"]["name"], sampler["schedule"]["num_steps"], sampler["initial_temperature"])
    assert (*settings, sampler["step_scale"]) == PAPER[name] and not sampler["preconditioned"]
    if config.measurement is not None:
        assert config.measurement.noise.pixel_range == ([-1, 1] if name.startswith("vp") else [0, 1])
        assert config.measurement.noise.std == 0.2
    assert (config.start.mean, config.start.std) == ((0, 1) if name.startswith("vp") else (-1, 2))


def test_nothing_here_imports_torch() -> None:
    code = "import sys, randomwalk.config.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_declared_name_is_in_its_table_and_the_code_takes_its_settings() -> None:
    from randomwalk import operators
    from randomwalk.denoisers import adapters
    from randomwalk.denoisers.networks import NETWORKS
    from randomwalk.operators import noise
    from randomwalk.samplers import schedules
    from score_sde import sdes

    schedule_names = get_args(ScheduleSettings.model_fields["name"].annotation)
    assert set(schedule_names) == set(schedules.SCHEDULES)
    tables: tuple[tuple[Any, Mapping[str, Callable[..., Any]]], ...] = (
        (OperatorSettings, operators.OPERATORS),
        (NoiseSettings, noise.NOISES),
        (DenoiserSettings, adapters.DENOISERS),
        (NetworkSettings, NETWORKS),
        (SDESettings, sdes.SDES),
    )
    # Settings that `make` turns into others.
    units = {"name", "schedule", "pixel_range", "white", "gain"}
    for union, table in tables:
        assert named(union).keys() == table.keys()
        for name, model in named(union).items():
            parameters = inspect.signature(table[name]).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                assert set(model.model_fields) - units <= set(parameters), name


def test_packages_of_networks_repeat_the_declared_defaults_only() -> None:
    """They import nothing of the library. `UNet` and `NCSNpp` have those of their public checkpoints instead."""
    from randomwalk.denoisers.networks import NETWORKS
    from score_sde import sdes

    tables: tuple[tuple[Any, Mapping[str, Callable[..., Any]]], ...] = (
        (NetworkSettings, {name: made for name, made in NETWORKS.items() if name not in ("unet", "ncsnpp")}),
        (SDESettings, sdes.SDES),
    )
    for union, table in tables:
        for name, made in table.items():
            fields = named(union)[name].model_fields
            for key, parameter in inspect.signature(made).parameters.items():
                if parameter.default is not parameter.empty:
                    default = parameter.default
                    assert fields[key].default == (list(default) if isinstance(default, tuple) else default), key


def test_python_has_the_defaults_and_bounds_of_yaml(sample: Callable[..., SampleConfig]) -> None:
    from randomwalk import operators

    declared = sample(SAMPLE, "measurement.operator={name: inpainting}").measurement
    assert declared is not None and isinstance(declared.operator, InpaintingSettings)
    mask = operators.make("inpainting", image_shape=(1, 8, 8)).get_buffer("mask")
    assert 1 - mask.mean() == declared.operator.missing == 0.75
    said = "missing: found 1.0; allowed: a number of at least 0 and below 1"
    assert said.split(": ", 1)[1] in message_of(sample, SAMPLE, "measurement.operator.missing=1.0")
    with pytest.raises(InputError, match=f"^operator inpainting: {said}$"):
        operators.make("inpainting", image_shape=(1, 8, 8), missing=1.0)


# --- values ----------------------------------------------------------------------------------------------------------


def test_numbers_as_people_write_them(sample: Callable[..., SampleConfig]) -> None:
    config = sample(SAMPLE + "batch_size: 1_6\nstart: {mean: -.5, std: +1E+2}\n", "seed=2e3")
    assert (config.batch_size, config.seed, config.start.mean, config.start.std) == (16, 2000, -0.5, 100)
    assert config.sampler.schedule.sigma_min == 0.02  # 2e-2, a text in YAML 1.1
    assert isinstance(config.start.std, float) and isinstance(config.seed, int)


def test_text_stays_text(sample: Callable[..., SampleConfig], tmp_path: Path) -> None:
    for text in ("no", "on", "12:30", "2024-01-01", "1e4 runs", "é", "'1e4'", '"null"'):
        config = sample(SAMPLE, f"output={text}")
        assert config.output == text.strip("'\"")
        (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
        assert load_sample_config(tmp_path / "again.yaml").output == config.output


def test_anchors_merges_and_tuples(sample: Callable[..., SampleConfig]) -> None:
    text = SAMPLE + "image_size: !!python/tuple [16, 24]\nstart: &s {<<: {mean: 1.0, std: 3}, mean: 2.0}\n"
    config = sample(text)
    assert (config.image_size, config.start.mean, config.start.std) == ([16, 24], 2, 3)


def test_a_byte_order_mark_is_ignored(sample: Callable[..., SampleConfig]) -> None:
    assert sample("\ufeff" + SAMPLE).batch_size == 16


def test_dump_keeps_a_null_that_differs_from_the_default(train: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = train(TRAIN, "optimizer.gradient_clip=null")
    assert "gradient_clip: null" in dump(config) and "levels" not in dump(config)
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    assert load_train_config(tmp_path / "again.yaml").optimizer.gradient_clip is None


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides(sample: Callable[..., SampleConfig]) -> None:
    config = sample(
        SAMPLE,
        "sampler.schedule.name=karras",
        "sampler.schedule.rho=5",  # a key that the file does not have
        "start.std=2.5",  # nor this section
        "measurement.operator={name: super_resolution, factor: 2}",
        "sampler.schedule.sigma_min=",  # away
        "output=a=b",
    )
    schedule = config.sampler.schedule
    assert (schedule.name, schedule.rho, schedule.sigma_min, config.start.std) == ("karras", 5, None, 2.5)
    assert config.measurement is not None and config.measurement.operator.name == "super_resolution"
    assert config.output == "a=b"
    free = sample(SAMPLE, "measurement=null", "data=null", "num_images=3")
    assert free.measurement is None and free.num_images == 3
    without = ("measurement=", "data=", "num_images=3")
    ddim = sample(SAMPLE, "sampler.name=ddim", "sampler.step_scale=", "sampler.eta=0.5", *without)
    assert ddim.sampler.model_dump()["eta"] == 0.5


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("pretrained_models/ffhq_10m.pt", ["ADM UNet", "Choi et al.", "ilvr_adm", "diffusion-posterior-sampling"]),
        ("pretrained_models/checkpoint_48.pth", ["NCSN++", "Song et al.", "score_sde_pytorch", "ffhq_256_ncsnpp"]),
        ("pretrained_models/fashion_ve.safetensors", ["bundled", "git checkout", "configs/ve_train.yaml"]),
        ("pretrained_models/fashion_labels.safetensors", ["bundled", "configs/fashion/vp_continuous_train.yaml"]),
        ("mine.pt", ["train.py", "current folder"]),
    ],
)
def test_missing_weights(path: str, parts: list[str]) -> None:
    message = describe_missing_weights(path)
    assert message.startswith(f"{path}: does not exist") and "network.path" in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", ["fashion/ve_inpainting", "fashion/ve_super_resolution", "ve_uncond"])
def test_tasks_of_the_bundled_ve_network_stay_in_its_range(name: str) -> None:
    """The range that it is trained on doubles in our units; without one of its own, a schedule takes it."""
    denoiser = load_train_config(CONFIGS / "ve_train.yaml").denoiser.model_dump()
    schedule = load_sample_config(CONFIGS / f"{name}.yaml").sampler.schedule
    assert schedule.sigma_min is None or schedule.sigma_min >= 2 * denoiser["sigma_min"]
    assert schedule.sigma_max is None or schedule.sigma_max <= 2 * denoiser["sigma_max"]
