"""Messages about configurations: the key, what was found, what is allowed; and nothing unsafe is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from config_examples import SAMPLE, TRAIN, message_of

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.config.yamltext import read_document

# --- messages --------------------------------------------------------------------------------------------------------

SAMPLE_PROBLEMS = [
    ("sampler.schedule.num_steps=0", ["sampler.schedule.num_steps", "found 0", "whole number of at least 1"]),
    ("sampler.schedule.num_steps=2.5", ["sampler.schedule.num_steps", "found 2.5", "whole number"]),
    ("sampler.schedule.num_steps=true", ["sampler.schedule.num_steps", "found true", "whole number"]),
    ("sampler.schedule.num_steps='30'", ["sampler.schedule.num_steps", "found '30' (text)", "whole number"]),
    ("sampler.schedule.num_steps=null", ["sampler.schedule.num_steps", "found nothing (null)", "whole number"]),
    ("sampler.schedule.num_steps=", ["sampler.schedule.num_steps", "missing", "whole number"]),
    ("sampler.schedule.num_step=3", ["sampler.schedule.num_step", "unknown key", "did you mean num_steps?", "rho"]),
    ("num_steps=50", ["num_steps (--set)", "did you mean sampler.schedule.num_steps?"]),
    ("sampler.num_steps=50", ["sampler.num_steps", "did you mean sampler.schedule.num_steps?"]),
    ("steps=50", ["steps", "did you mean sampler.schedule.num_steps?"]),
    ("schedule.num_steps=50", ["schedule", "did you mean sampler.schedule.num_steps?"]),
    ("path=a.pt", ["path", "did you mean network.path or data.path?"]),
    ("ckpt=a.pt", ["ckpt", "did you mean network.path?"]),
    ("weights=a.pt", ["weights", "did you mean network.path?"]),
    ("network=a.pt", ["network", "did you mean network.path=a.pt?"]),
    ("data=photos", ["data", "did you mean data.path=photos?"]),
    ("sigma=0.1", ["sigma", "did you mean measurement.noise.std?"]),
    ("measurement.std=0.1", ["measurement.std", "did you mean measurement.noise.std?"]),
    ("missing=0.1", ["missing", "did you mean measurement.operator.missing?"]),
    ("mask=box", ["mask", "did you mean measurement.operator.mask?"]),
    ("operator=denoising", ["operator", "did you mean measurement.operator?"]),
    ("measurement.operator=denoising", ["did you mean measurement.operator.name=denoising?"]),
    ("sampler=dps", ["sampler", "did you mean sampler.name=dps?"]),
    ("sampler.schedule=cosine", ["did you mean sampler.schedule.name=cosine?"]),
    ("sampler.zeta=1", ["sampler.zeta", "unknown key"]),
    ("sampler.data_std=1", ["sampler.data_std", "it is for name: daps", "pigdm"]),
    ("eta=1", ["eta", "did you mean sampler.eta?"]),
    ("out_dir=a", ["out_dir", "did you mean output?"]),
    ("batch=4", ["batch", "did you mean batch_size?"]),
    ("cfg_scale=2", ["cfg_scale", "did you mean guidance.scale?"]),
    ("label=2", ["label", "did you mean guidance.labels?"]),
    ("gpu=1", ["gpu", "device"]),
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
    ("network.weights=3", ["network.weights", "3", "text"]),
    ("network.denoiser={sigma_min: 1}", ["network.denoiser.name", "missing", "edm, flow, score, sde, ve, vp"]),
    (
        "network.denoiser={name: VP}",
        ["network.denoiser.name", "'VP'", "did you mean vp?", "edm, flow, score, sde, ve, vp"],
    ),
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
    ("device=gpu", ["device", "'gpu'", "auto, cpu, mps, cuda or cuda:1"]),
    ("precision=fp16", ["precision", "'fp16'", "auto, fp32, bf16"]),
    ("compile=yes", ["compile", "'yes' (text)", "true or false"]),
    ("compile=1", ["compile", "found 1", "true or false"]),
    ("seed=-1", ["seed", "found -1", "at least 0"]),
    ("output=[7]", ["output", "found [7]", "text"]),
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
    ("data.channels=2", ["data.channels", "found 2", "allowed without range: 1 or 3"]),
    ("data.channels=3", ["data.channels", "found 3", "allowed: 1", "network.in_channels"]),
    ("network={name: ncsnpp, image_size: 32}", ["data.channels", "found 1", "allowed: 3", "network.num_channels"]),
    ("network.out_channels=2", ["network.out_channels", "found 2", "allowed: 1"]),
    ("network={name: resnet}", ["network.name", "'resnet'", "ncsnpp, photo_unet, unet"]),
    ("accumulate=3", ["accumulate", "found 3", "divisor of batch_size", "128"]),
    ("objective.levels.name=uniform_timestep", ["objective.levels.name", "uniform_timestep", "log_uniform"]),
    ("objective.levels.name=lognormal", ["objective.levels.name", "'lognormal'", "log_normal", "log_uniform"]),
    ("objective.weight=none", ["objective.weight", "'none'", "snr_clipped"]),
    ("optimizer.betas=[0.9, 1]", ["optimizer.betas[1]", "found 1", "below 1"]),
    ("optimizer.betas=[0.9]", ["optimizer.betas", "found [0.9]", "a list of 2 entries"]),
    ("optimizer.lr=1e-3", ["optimizer.lr", "unknown key", "did you mean learning_rate?"]),
    ("lr=1e-3", ["lr", "did you mean optimizer.learning_rate?"]),
    ("epochs=3", ["epochs", "did you mean num_images?"]),
    ("resolution=64", ["resolution", "did you mean data.image_size or network.image_size?"]),
    ("num_workers=2", ["num_workers", "did you mean workers?"]),
    ("fp16=true", ["fp16", "did you mean precision?"]),
    ("ema_decay=0.9", ["ema_decay", "did you mean ema.half_life_images?"]),
    ("denoiser.noise_schedule=cosine", ["denoiser.noise_schedule", "did you mean table?"]),
    ("denoiser=edm", ["denoiser", "did you mean denoiser.name=edm?"]),
    ("data_dir=photos", ["data_dir", "did you mean data.path?"]),
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
    allowed = "allowed: a whole number of at least 1 and at most 100,000"
    assert f"  sampler.schedule.num_steps (line 11): found 0; {allowed}" in lines
    assert "  sampler.step_scale (line 6): missing; expected a number above 0 and below 2" in lines
    assert any(line.startswith("  sampler.step_size (line 8): unknown key; did you mean step_scale?") for line in lines)


def test_a_message_stays_short(sample: Callable[..., SampleConfig]) -> None:
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{y}: &{y} [*{x}, *{x}, *{x}, *{x}, *{x}, *{x}, *{x}, *{x}]\n"
        for x, y in zip("abcdefgh", "bcdefghi", strict=True)
    )
    message = message_of(sample, bomb + "seed: [*i, *i, *i, *i, *i, *i, *i, *i]\n")
    assert "has more than 20,000 values, aliases included" in message and len(message) < 300
    assert len(message_of(sample, SAMPLE, "seed=" + "x" * 5000)) < 300
    many = message_of(sample, SAMPLE + "".join(f"key{i}: 0\n" for i in range(30)))
    assert "30 problems" in many and "... and 10 more" in many


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
        ("sampler.name=ddim", ["for name: annealed_langevin, random_walk, so remove it: --set sampler.step_scale="]),
        ("sampler.name=ddim", ["sampler.step_scale (line 9)", "unknown key", "with name: ddim: ", "eta"]),
    ],
)
def test_messages_about_overrides(override: str, parts: list[str], sample: Callable[..., SampleConfig]) -> None:
    message = message_of(sample, SAMPLE, override)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


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
