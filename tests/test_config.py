"""Configuration files: all of ours load, nothing unsafe or unknown does, and messages say what to change."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from randomwalk import config as vocabulary
from randomwalk.config import SampleConfig, TrainConfig, UNetSettings
from randomwalk.config.base import Settings
from randomwalk.config.yamltext import read_document
from randomwalk.configio import (
    describe_missing_weights,
    dump,
    load_sample_config,
    load_train_config,
    main,
    write_schemas,
)
from randomwalk.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
SAMPLING = [
    "vp_inpainting",
    "vp_super_resolution",
    "vp_uncond_sigmoidSchedule",
    "vp_uncond_pretrainedSchedule",
    "ve_inpainting",
    "ve_super_resolution",
    "ve_uncond",
    "ffhq256/vp_inpainting",
    "ffhq256/vp_super_resolution",
    "ffhq256/vp_uncond_sigmoid",
    "ffhq256/vp_uncond_pretrained",
    "ffhq256/ve_inpainting",
    "ffhq256/ve_super_resolution",
    "ffhq256/ve_uncond",
]
TRAINING = ["vp_train", "ve_train"]

SAMPLE = """\
output: results/x
network: {path: w.safetensors}
data: {path: images}
measurement:
  operator: {name: inpainting, missing: 0.75}
  noise: {std: 0.2}
sampler:
  name: random_walk
  step_scale: 0.5
  schedule:
    name: geometric
    num_steps: 30
    sigma_min: 2e-2
    sigma_max: 3e1
"""
TRAIN = """\
output: results/x
data: {path: images, image_size: 32, channels: 1}
network: {name: unet, image_size: 32, in_channels: 1, out_channels: 1}
denoiser: {name: ve}
num_images: 1e6
"""


@pytest.fixture
def sample(tmp_path: Path) -> Callable[..., SampleConfig]:
    """``sample(text, *overrides)`` loads a sampling task."""

    def load(text: str | bytes, *overrides: str) -> SampleConfig:
        (tmp_path / "task.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_sample_config(tmp_path / "task.yaml", overrides)

    return load


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., TrainConfig]:
    """``train(text, *overrides)`` loads a training."""

    def load(text: str, *overrides: str) -> TrainConfig:
        (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
        return load_train_config(tmp_path / "task.yaml", overrides)

    return load


def message_of(load: Callable[..., Any], *arguments: Any) -> str:
    """The message of the InputError that ``load`` raises, in plain words."""
    with pytest.raises(InputError) as caught:
        load(*arguments)
    message = str(caught.value)
    for jargon in (
        "pydantic",
        "http",
        "Input should",
        "function-",
        "constrained",
        "type=",
        "Value error",
        "validation error",
    ):
        assert jargon not in message, message
    return message


# --- our own files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLING + TRAINING)
def test_every_config_loads_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    load = load_train_config if name in TRAINING else load_sample_config
    config = load(CONFIGS / f"{name}.yaml")
    (tmp_path / "resolved.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "resolved.yaml").model_dump() == config.model_dump()


def test_no_config_is_forgotten() -> None:
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    assert found == {*SAMPLING, *TRAINING}


@pytest.mark.parametrize("name", SAMPLING + TRAINING)
def test_every_config_names_its_schema_and_says_what_to_customize(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert schema is not None and "# CUSTOMIZE" in text
    kind = "train" if name in TRAINING else "sample"
    assert (path.parent / schema[1]).resolve() == CONFIGS / "schema" / f"{kind}.schema.json"
    assert (path.parent / schema[1]).is_file()


def test_schemas_are_current(tmp_path: Path) -> None:
    for path in write_schemas(tmp_path):
        committed = json.loads((CONFIGS / "schema" / path.name).read_text(encoding="utf-8"))
        assert json.loads(path.read_text(encoding="utf-8")) == committed, "run python -m randomwalk.config --schema"


def test_the_schema_knows_names_ranges_and_explanations() -> None:
    schema = json.loads((CONFIGS / "schema" / "sample.schema.json").read_text(encoding="utf-8"))
    schedule = schema["$defs"]["ScheduleSettings"]
    assert schedule["additionalProperties"] is False and "karras" in schedule["properties"]["name"]["enum"]
    assert schedule["properties"]["num_steps"]["minimum"] == 1
    assert schema["$defs"]["SuperResolutionSettings"]["properties"]["factor"]["minimum"] == 2
    assert "appended" in schema["properties"]["output"]["description"]


def test_schemas_are_written_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--schema", str(tmp_path / "new")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"{k}.schema.json") for k in ("sample", "train")]
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
            assert architecture.model_dump(exclude={"name"}) == published


# The paper's settings: (levels, initial temperature, step scale) of its code in the version of February 2025.
PAPER = {
    "vp_uncond_sigmoid": ("sigmoid", 100, 0.1, 0.7),
    "vp_uncond_pretrained": ("pretrained", 1000, 0.4, 0.4),
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
    code = "import sys, randomwalk.configio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_names_and_settings_are_those_of_the_code() -> None:
    """The tables that names are looked up in, and the settings of their entries, against the vocabulary."""
    import guided_diffusion
    import score_sde
    from randomwalk import denoisers, operators, samplers, schedules

    def names(union: Any) -> dict[str, type[Settings]]:
        classes = get_args(get_args(union)[0])
        return {name: c for c in classes for name in get_args(c.model_fields["name"].annotation)}

    def settings(model: type[Settings]) -> set[str]:
        return set(model.model_fields) - {"name", "schedule"}

    assert names(vocabulary.OperatorSettings).keys() == operators.OPERATORS.keys()
    assert names(vocabulary.SamplerSettings).keys() == samplers.SAMPLERS.keys()
    assert names(vocabulary.DenoiserSettings).keys() == denoisers.DENOISERS.keys()
    schedule_names = get_args(vocabulary.ScheduleSettings.model_fields["name"].annotation)
    assert set(schedule_names) == set(schedules.SCHEDULES)
    for union, table in (
        (vocabulary.OperatorSettings, operators.OPERATORS),
        (vocabulary.SamplerSettings, samplers.SAMPLERS),
        (vocabulary.DenoiserSettings, denoisers.DENOISERS),
        (vocabulary.NetworkSettings, {"unet": guided_diffusion.UNet, "ncsnpp": score_sde.NCSNpp}),
    ):
        for name, model in names(union).items():
            parameters = inspect.signature(table[name]).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                assert settings(model) <= set(parameters), name


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
    ddim = sample(SAMPLE, "sampler.name=ddim", "sampler.step_scale=", "sampler.eta=0.5")
    assert ddim.sampler.model_dump()["eta"] == 0.5


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sampler.schedule.steps=3", ["sampler.schedule.steps (--set)", "unknown key", "num_steps"]),
        ("smapler.name=ddim", ["smapler", "unknown key", "did you mean sampler?"]),
        ("seed.x=3", ["seed (--set)", "a section (x)", "whole number"]),
        ("output.x=3", ["output.x (--set)", "'results/x'", "not a section"]),
        ("seed", ["--set seed", "KEY=VALUE"]),
        ("=3", ["--set =3", "KEY=VALUE"]),
        ("a..b=3", ["--set a..b=3", "KEY=VALUE"]),
        ("seed=[1", ["--set seed", "expected ',' or ']'"]),
        ("seed=!!python/object/apply:os.getcwd []", ["--set seed", "would run code; refused"]),
        ("data={path: a, path: b}", ["--set data", "'path' occurs twice"]),
        ("sampler.name=ddim", ["sampler.step_scale (line 9)", "unknown key", "with name: ddim: ", "eta"]),
    ],
)
def test_messages_about_overrides(override: str, parts: list[str], sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, SAMPLE, override)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# --- messages --------------------------------------------------------------------------------------------------------

SAMPLE_PROBLEMS = [
    ("sampler.schedule.num_steps=0", ["sampler.schedule.num_steps", "found 0", "whole number of at least 1"]),
    ("sampler.schedule.num_steps=2.5", ["sampler.schedule.num_steps", "found 2.5", "whole number"]),
    ("sampler.schedule.num_steps=true", ["sampler.schedule.num_steps", "found true", "whole number"]),
    ("sampler.schedule.num_steps='30'", ["sampler.schedule.num_steps", "found '30' (text)", "whole number"]),
    ("sampler.schedule.num_steps=null", ["sampler.schedule.num_steps", "found nothing (null)", "whole number"]),
    ("sampler.schedule.num_steps=", ["sampler.schedule.num_steps", "missing", "whole number"]),
    ("sampler.schedule.num_step=3", ["sampler.schedule.num_step", "unknown key", "did you mean num_steps?", "rho"]),
    ("sampler.schedule.name=cosin", ["sampler.schedule.name", "'cosin'", "did you mean cosine?", "karras"]),
    ("sampler.schedule.sigma_max=.inf", ["sampler.schedule.sigma_max", "found .inf", "a number above 0"]),
    ("sampler.schedule.sigma_max=.nan", ["sampler.schedule.sigma_max", "found .nan", "a number above 0"]),
    ("sampler.schedule.sigma_max=1e999", ["sampler.schedule.sigma_max", "found .inf", "a number above 0"]),
    ("sampler.schedule.sigma_max=-1", ["sampler.schedule.sigma_max", "found -1", "a number above 0"]),
    ("sampler.schedule.sigma_max=true", ["sampler.schedule.sigma_max", "found true", "a number above 0"]),
    ("sampler.schedule.sigma_max=1e-3", ["schedule.sigma_min (line 13)", "found 0.02", "below sigma_max", "0.001"]),
    ("sampler.schedule.beta_min=1e-4", ["sampler.schedule.beta_max", "missing", "together"]),
    ("sampler.schedule.t0=1", ["sampler.schedule.t0", "sigmoid", "name is geometric"]),
    ("sampler.schedule.name=pretrained", ["sampler.schedule.sigma_min", "noise table", "geometric"]),
    ("sampler.name=walk", ["sampler.name", "'walk'", "random_walk", "ddim"]),
    ("sampler.name=3", ["sampler.name", "found 3", "random_walk", "ddim"]),
    ("sampler.name=", ["sampler.name", "missing", "random_walk", "ddim"]),
    ("sampler=3", ["sampler", "found 3", "a section with name", "random_walk"]),
    ("sampler=", ["sampler", "missing", "a section with name", "random_walk"]),
    ("sampler.step_scale=[1, 2]", ["sampler.step_scale", "found [1, 2]", "a number above 0"]),
    ("measurement.operator.name=inpaint", ["measurement.operator.name", "did you mean inpainting?", "denoising"]),
    ("measurement.operator.missing=1", ["measurement.operator.missing", "found 1", "at least 0 and below 1"]),
    ("measurement.operator.mask=bx", ["measurement.operator.mask", "'bx'", "random, box, file"]),
    ("measurement.operator.mask=box", ["measurement.operator.box_size", "missing", "mask: box"]),
    ("measurement.operator.mask=file", ["measurement.operator.file", "missing", "mask: file"]),
    ("measurement.operator.box_size=3", ["measurement.operator.box_size", "mask is random"]),
    ("measurement.operator.box_size=[3]", ["operator.box_size", "[3]", "whole number", "or a list of 2 entries"]),
    ("measurement.operator={name: inpainting, mask: box, box_size: [5, 3]}", ["box_size", "[5, 3]", "smallest"]),
    ("measurement.operator={name: super_resolution, factor: 1}", ["operator.factor", "found 1", "at least 2"]),
    ("measurement.noise={}", ["measurement.noise.std", "missing", "a number above 0"]),
    ("measurement.noise.std=0", ["measurement.noise.std", "found 0", "above 0"]),
    ("measurement.noise.pixel_range=[1, 0]", ["measurement.noise.pixel_range", "[1.0, 0.0]", "[black, white]"]),
    ("measurement.noise.pixel_range=[0, 1, 2]", ["noise.pixel_range", "[0, 1, 2]", "a list of 2 entries"]),
    ("measurement=null", ["data", "measurement", "remove"]),
    ("data=null", ["data", "missing", "data.path"]),
    ("num_images=3", ["num_images", "unconditional", "data.num_images"]),
    ("network.path=''", ["network.path", "found ''", "not empty"]),
    ("network.weights=best", ["network.weights", "'best'", "ema, raw"]),
    ("network.denoiser={sigma_min: 1}", ["network.denoiser.name", "missing", "edm, ve, vp"]),
    ("network.denoiser={name: VP}", ["network.denoiser.name", "'VP'", "did you mean vp?", "edm, ve, vp"]),
    ("network.denoiser={name: vp, beta_max: 1}", ["network.denoiser.beta_max", "found 1", "above 0 and below 1"]),
    ("network.denoiser={name: vp, beta_min: 0.5}", ["network.denoiser.beta_min", "0.5", "below beta_max", "0.02"]),
    ("network.denoiser={name: edm, sigma_max: 1e-3}", ["network.denoiser.sigma_min", "0.002", "0.001"]),
    (
        "network.architecture={name: unet, image_size: 36}",
        ["network.architecture.image_size", "found 36", "multiple of 8", "4 levels of channel_mult"],
    ),
    (
        "network.architecture={name: unet, image_size: 32, out_channels: 4}",
        ["network.architecture.out_channels", "found 4", "allowed: 3, or 6"],
    ),
    (
        "network.architecture={name: ncsnpp, image_size: 32, ch_mult: [1, 0]}",
        ["network.architecture.ch_mult[1]", "found 0", "at least 1"],
    ),
    (
        "network.architecture={name: unet, image_size: 32, num_head_channels: 0}",
        ["network.architecture.num_head_channels", "found 0", "-1, or a whole number of at least 1"],
    ),
    ("network={path: a, file: b}", ["network.file", "unknown key", "path, weights"]),
    ("image_size=[32]", ["image_size", "found [32]", "a list of 2 entries"]),
    ("image_size=[32, x]", ["image_size[1]", "found 'x' (text)", "whole number"]),
    ("device=gpu", ["device", "'gpu'", "auto, cpu, cuda or cuda:1"]),
    ("precision=fp16", ["precision", "'fp16'", "fp32, bf16"]),
    ("compile=yes", ["compile", "'yes' (text)", "true or false"]),
    ("compile=1", ["compile", "found 1", "true or false"]),
    ("seed=-1", ["seed", "found -1", "at least 0"]),
    ("output=7", ["output", "found 7", "text"]),
    ("data.fit=stretch", ["data.fit", "'stretch'", "resize, crop, pad"]),
    ("start=1", ["start", "found 1", "a section with the keys mean, std"]),
]


@pytest.mark.parametrize(("override", "parts"), SAMPLE_PROBLEMS, ids=lambda v: v if isinstance(v, str) else "")
def test_messages_about_sampling(override: str, parts: list[str], sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, SAMPLE, override)
    assert "task.yaml: " in message and "\n" not in message
    for part in parts:
        assert part in message, message


TRAIN_PROBLEMS = [
    ("data.image_size=28", ["data.image_size", "found 28", "32", "network.image_size"]),
    ("data.channels=2", ["data.channels", "found 2", "one of 1, 3"]),
    ("data.channels=3", ["data.channels", "found 3", "allowed: 1", "network.in_channels"]),
    ("network={name: ncsnpp, image_size: 32}", ["data.channels", "found 1", "allowed: 3", "network.num_channels"]),
    ("network.out_channels=2", ["network.out_channels", "found 2", "allowed: 1"]),
    ("network={name: resnet}", ["network.name", "'resnet'", "ncsnpp, unet"]),
    ("accumulate=3", ["accumulate", "found 3", "divisor of batch_size", "128"]),
    ("objective.levels.name=uniform_timestep", ["objective.levels.name", "uniform_timestep", "log_uniform"]),
    ("objective.levels.name=lognormal", ["objective.levels.name", "'lognormal'", "log_normal", "log_uniform"]),
    ("objective.weight=none", ["objective.weight", "'none'", "snr_clipped"]),
    ("optimizer.betas=[0.9, 1]", ["optimizer.betas[1]", "found 1", "below 1"]),
    ("optimizer.betas=[0.9]", ["optimizer.betas", "found [0.9]", "a list of 2 entries"]),
    ("optimizer.lr=1e-3", ["optimizer.lr", "unknown key", "learning_rate"]),
    ("ema.half_life_images=0", ["ema.half_life_images", "found 0", "above 0"]),
    ("num_images=", ["num_images", "missing", "whole number"]),
    ("validation_sigmas=[0.1, -1]", ["validation_sigmas[1]", "found -1", "above 0"]),
    ("export_dtype=bf16", ["export_dtype", "'bf16'", "float32, float16"]),
]


@pytest.mark.parametrize(("override", "parts"), TRAIN_PROBLEMS, ids=lambda v: v if isinstance(v, str) else "")
def test_messages_about_training(override: str, parts: list[str], train: Callable[..., TrainConfig]) -> None:
    assert train(TRAIN).num_images == 1_000_000
    message = message_of(train, TRAIN, override)
    assert "task.yaml: " in message and "\n" not in message
    for part in parts:
        assert part in message, message


def test_all_problems_in_one_message(sample: Callable[..., SampleConfig]) -> None:
    text = SAMPLE.replace("num_steps: 30", "num_steps: 0").replace("step_scale: 0.5", "step_size: 0.5")
    lines = message_of(sample, text.replace("output: results/x\n", "")).split("\n")
    assert lines[0].endswith("task.yaml: 4 problems") and len(lines) == 5
    assert "  output: missing; expected text that is not empty" in lines
    assert "  sampler.schedule.num_steps (line 11): found 0; allowed: a whole number of at least 1" in lines
    assert "  sampler.step_scale (line 6): missing; expected a number above 0" in lines
    assert any(line.startswith("  sampler.step_size (line 8): unknown key; did you mean step_scale?") for line in lines)


def test_a_message_stays_short(sample: Callable[..., SampleConfig]) -> None:
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{y}: &{y} [*{x}, *{x}, *{x}, *{x}, *{x}, *{x}, *{x}, *{x}]\n"
        for x, y in zip("abcdefgh", "bcdefghi", strict=True)
    )
    message = message_of(sample, bomb + "seed: [*i, *i, *i, *i, *i, *i, *i, *i]\n")
    assert "seed" in message and len(message) < 6000
    assert len(message_of(sample, SAMPLE, "seed=" + "x" * 5000)) < 300
    many = message_of(sample, SAMPLE + "".join(f"key{i}: 0\n" for i in range(30)))
    assert "30 problems" in many and "... and 10 more" in many


# --- files that are no configuration ---------------------------------------------------------------------------------

UNREADABLE: list[tuple[str | bytes, str]] = [
    ("", "task.yaml: is empty"),
    ("# only a comment\n", "task.yaml: is empty"),
    ("- seed: 0\n", "task.yaml: holds a list at the top level"),
    ("just words\n", "task.yaml: holds the single value 'just words' at the top level"),
    ("seed: 0\nseed: 1\n", "task.yaml, line 2: the key 'seed' occurs twice, first on line 1"),
    ("data:\n  path: a\n  fit: pad\n  path: b\n", "task.yaml, line 4: the key 'path' occurs twice, first on line 2"),
    ("seed: 0\ndata: {path: a\n", "task.yaml, line 3: expected ',' or '}'"),
    ("seed: 0\noutput: a: b\n", "task.yaml, line 2: mapping values are not allowed here (quote text"),
    ("seed: 0\n\tdata: 1\n", "task.yaml, line 2: found character '\\t' that cannot start any token"),
    ("seed: *x\n", "task.yaml, line 1: found undefined alias 'x'"),
    ("seed: 0\n---\nseed: 1\n", "task.yaml, line 2: expected a single document"),
    ("1: 2\n", "task.yaml, line 1: the key '1' is not text"),
    ("? [a]\n: b\n", "task.yaml, line 1: the key that is a list or a section is not text"),
    ("seed: !!int x\n", "task.yaml, line 1: 'x' is not a number"),
    ("compile: !!bool x\n", "task.yaml, line 1: 'x' is not true or false"),
    ("output: !mine x\n", "task.yaml, line 1: the tag !mine is not understood"),
    ("output: !!binary aGk=\n", "task.yaml, line 1: the tag !!binary is not understood"),
    ("[" * 1000, "task.yaml: is nested too deeply"),
    ("x" * 1_000_001, "task.yaml: has 1,000,001 bytes"),
    (b"seed: 0\noutput: \xff\xfe\n", "task.yaml, line 2: is not UTF-8 text"),
    (b"\x89PNG\r\n\x1a\n\x00", "task.yaml, line 1: is not UTF-8 text"),
    (b"seed: \x00\n", "task.yaml, line 1: contains a character that is not text"),
]


@pytest.mark.parametrize(("text", "expected"), UNREADABLE, ids=[e[:60] for _, e in UNREADABLE])
def test_files_that_are_not_yaml(text: str | bytes, expected: str, sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, text)
    assert expected in message and "\n" not in message, message


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "vp_inpainting.yaml").write_text(SAMPLE, encoding="utf-8")
    message = message_of(load_sample_config, tmp_path / "vp_inpaint.yaml")
    assert "vp_inpaint.yaml: does not exist; did you mean" in message and "vp_inpainting.yaml?" in message
    assert message_of(load_sample_config, tmp_path / "no" / "x.yaml").endswith("x.yaml: does not exist")
    assert "is a folder" in message_of(load_sample_config, tmp_path)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch executed']",
        "!!python/object/new:os.system ['touch executed']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch executed']",
        "!!python/object:pathlib.Path {}",
        "!!python/str x",
    ],
)
def test_python_tags_are_refused(tag: str, sample: Callable[..., SampleConfig], tmp_path: Path) -> None:
    message = message_of(sample, f"seed: 0\noutput: {tag}\n")
    assert re.search(r"task\.yaml, line 2: the tag !!python/\S+ would run code; refused", message), message
    assert not (tmp_path / "executed").exists() and not Path("executed").exists()


def test_the_wrong_command(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TRAIN, encoding="utf-8")
    assert re.search(r"is a training; .*python train\.py --config", message_of(load_sample_config, tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text(SAMPLE, encoding="utf-8")
    assert re.search(r"is a sampling task; .*python sample\.py", message_of(load_train_config, tmp_path / "a.yaml"))


def test_positions_survive_anchors(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x\n  b: 1\nc: *x\nd: {<<: *x, e: 2}\n", encoding="utf-8")
    document = read_document(tmp_path / "a.yaml")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert (document.origin(("a", "b")), document.origin(("c", "b")), document.origin(("d", "e"))) == (
        " (line 2)",
        " (line 3)",
        " (line 4)",
    )


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("pretrained_models/ffhq_10m.pt", ["ADM UNet", "Choi et al.", "ilvr_adm", "diffusion-posterior-sampling"]),
        ("pretrained_models/checkpoint_48.pth", ["NCSN++", "Song et al.", "score_sde_pytorch", "ffhq_256_ncsnpp"]),
        ("pretrained_models/fashion_ve.safetensors", ["bundled", "git checkout", "configs/ve_train.yaml"]),
        ("mine.pt", ["train.py", "current folder"]),
    ],
)
def test_missing_weights(path: str, parts: list[str]) -> None:
    message = describe_missing_weights(path)
    assert message.startswith(f"{path}: does not exist") and "network.path" in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", ["ve_inpainting", "ve_super_resolution", "ve_uncond"])
def test_tasks_of_the_bundled_ve_network_stay_in_its_range(name: str) -> None:
    """The range that it is trained on doubles in our units; without one of its own, a schedule takes it."""
    denoiser = load_train_config(CONFIGS / "ve_train.yaml").denoiser.model_dump()
    schedule = load_sample_config(CONFIGS / f"{name}.yaml").sampler.schedule
    assert schedule.sigma_min is None or schedule.sigma_min >= 2 * denoiser["sigma_min"]
    assert schedule.sigma_max is None or schedule.sigma_max <= 2 * denoiser["sigma_max"]
