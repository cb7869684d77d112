"""The YAML layout of the paper's own code: every task, exact numbers, and messages in its own keys."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from randomwalk.config import SampleConfig
from randomwalk.config.files import dump, load_sample_config, load_train_config
from randomwalk.config.hints import keys_of
from randomwalk.config.legacy_layout import NATIVE_NAMES, NO_EFFECT, VETask, VPTask
from randomwalk.config.validate import schema_of
from randomwalk.config.yamltext import read_document
from randomwalk.errors import InputError

FOLDER = Path(__file__).parents[1] / "legacy"
CONFIGS = Path(__file__).parents[2] / "configs"
UNCONDITIONAL = {"measurement": {"operator": {"name": "uncondition"}, "noise": {"name": "gaussian", "sigma": 0.0}}}


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with values at dotted keys replaced, or removed (None)."""
    result = copy.deepcopy(base)
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
        if value is None:
            section.pop(key)
        else:
            section[key] = value
    return result


def load(tmp_path: Path, base: str, changes: dict[str, Any], overrides: tuple[str, ...] = ()) -> SampleConfig:
    """A file of this folder, changed."""
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(changed(read_document(FOLDER / base).data, changes)), encoding="utf-8")
    return load_sample_config(file, overrides)


VP, VE = "vp_inpainting.yaml", "ve_super_resolution.yaml"
VE_INPAINTING = {
    "langevin_hyperparam.scaling_constant_of_step_size": 0.29487,
    "measurement.operator": {"name": "inpainting"},
    "measurement.mask_opt": {"mask_type": "random", "mask_prob_range": [0.92, 0.92], "image_size": 256},
}
VP_SUPER_RESOLUTION = {
    "langevin_hyperparam.scaling_constant_of_step_size": 0.15651,
    "measurement.operator": {"name": "super_resolution", "in_shape": [1, 3, 256, 256], "scale_factor": 4},
    "measurement.mask_opt": None,
}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vp_inpainting": (VP, {}),
    "vp_super_resolution": (VP, VP_SUPER_RESOLUTION),
    "vp_uncond_sigmoidSchedule": (
        VP,
        UNCONDITIONAL
        | {
            "langevin_hyperparam.num_iters": 100,
            "langevin_hyperparam.temperature": 0.1,
            "langevin_hyperparam.scaling_constant_of_step_size": 0.7,
        },
    ),
    "vp_uncond_pretrainedSchedule": (
        VP,
        UNCONDITIONAL
        | {
            "langevin_hyperparam.schedule": "denoiser",
            "langevin_hyperparam.num_iters": 1000,
            "langevin_hyperparam.temperature": 0.4,
            "langevin_hyperparam.scaling_constant_of_step_size": 0.4,
        },
    ),
    "ve_super_resolution": (VE, {}),
    "ve_inpainting": (VE, VE_INPAINTING),
    "ve_uncond": (
        VE,
        UNCONDITIONAL
        | {"langevin_hyperparam.temperature": 0.4, "langevin_hyperparam.scaling_constant_of_step_size": 0.16},
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_becomes_our_config_of_the_same_task(task: str, tmp_path: Path) -> None:
    """Weights, measurement, schedule, sampler and start equal those of configs/ffhq256, written independently."""
    base, changes = TASKS[task]
    ours = load_sample_config(CONFIGS / "ffhq256" / f"{task}.yaml").model_dump()
    translated = load(tmp_path, base, changes).model_dump()
    for config in (ours, translated):
        config["network"]["path"] = Path(config["network"]["path"]).name
    for section in ("network", "measurement", "sampler", "start"):
        assert translated[section] == ours[section], section


def test_vp_numbers() -> None:
    config = load_sample_config(FOLDER / VP)
    assert config.sampler.model_dump(exclude_none=True) == {
        "name": "random_walk",
        "step_scale": 0.77683,
        "initial_temperature": 0.0,
        "final_temperature": 1.0,
        "preconditioned": False,
        "prior_weight": 1.0,
        "down_to_noise": False,
        "last_denoised": False,
        "momentum": 0.0,
        "turns": 1,
        "schedule": {
            "name": "sigmoid",
            "num_steps": 750,
            "beta_min": 1e-4,
            "beta_max": 0.02,
            "num_timesteps": 1000,
        },
    }
    assert (config.start.mean, config.start.std) == (0, 1)
    assert config.measurement is not None and config.data is not None
    assert config.measurement.noise.model_dump() == {
        "name": "gaussian",
        "std": 0.2,
        "pixel_range": [-1, 1],
        "white": False,
    }
    assert config.measurement.operator.model_dump(exclude_none=True) == {
        "name": "inpainting",
        "mask": "random",
        "missing": 0.92,
        "margin": 0,
        "grow": "auto",
        "invert": False,
    }
    assert (config.data.path, config.data.num_images, config.output) == ("./faces", None, "./out/vp_inpainting")
    assert (config.seed, config.device, config.network.weights) == (0, "auto", "ema")
    assert config.network.architecture is not None
    unet = config.network.architecture.model_dump()
    assert (unet["channel_mult"], unet["attention_resolutions"], unet["out_channels"]) == ([1, 1, 2, 2, 4, 4], [16], 6)


def test_ve_numbers_are_doubled() -> None:
    config = load_sample_config(FOLDER / VE)
    schedule = config.sampler.schedule
    assert (schedule.name, schedule.num_steps, schedule.sigma_min, schedule.sigma_max) == ("geometric", 1000, 0.02, 696)
    assert (config.start.mean, config.start.std) == (-1, 2)
    assert config.measurement is not None and config.network.denoiser is not None
    assert config.measurement.noise.model_dump() == {
        "name": "gaussian",
        "std": 0.2,
        "pixel_range": [0, 1],
        "white": False,
    }
    assert config.network.denoiser.model_dump() == {"name": "ve", "sigma_min": 0.01, "sigma_max": 348}
    assert (config.network.weights, config.seed, config.device) == ("raw", 42, "cuda:1")
    assert (config.animation_frames, config.output) == (0, "./out/ve_super_resolution")


def test_ve_translation_is_the_same_walk() -> None:
    """The paper's step on u in [0, 1] and ours on x = 2u - 1, with the translated numbers, stay equal.

    Prior: u ~ Normal(m, s^2) in each pixel; measurement: every second pixel, noise eta on [0, 1].
    """
    config = load_sample_config(FOLDER / VE)
    schedule, sampler = config.sampler.schedule, config.sampler
    assert config.measurement is not None and config.start.std is not None
    assert schedule.sigma_min is not None and schedule.sigma_max is not None
    low, high = config.measurement.noise.pixel_range
    eta, eta_u = config.measurement.noise.std * 2 / (high - low), 0.2
    draws = np.random.default_rng(0)
    mask, m, s = np.arange(8) % 2, draws.uniform(size=8), 0.3
    start, y_u = draws.normal(size=8), mask * draws.uniform(size=8)
    u, x, y = start, config.start.mean + config.start.std * start, 2 * y_u - mask
    for k, level in enumerate(np.linspace(0, 1, 20)):
        noise = draws.normal(size=8)
        sigma_u = 348 ** (1 - level) * 0.01**level
        tau_u = min(0.15651 * sigma_u**2, eta_u**2)
        drift_u = (m - u) / (s**2 + sigma_u**2) - mask * (mask * u - y_u) / eta_u**2
        u = u + tau_u * drift_u + np.sqrt(2 * tau_u * k / 19) * noise
        sigma = schedule.sigma_max ** (1 - level) * schedule.sigma_min**level
        tau = min(sampler.model_dump()["step_scale"] * sigma**2, eta**2)
        drift = (2 * m - 1 - x) / (4 * s**2 + sigma**2) - mask * (mask * x - y) / eta**2
        x = x + tau * drift + np.sqrt(2 * tau * k / 19) * noise
        np.testing.assert_allclose(x, 2 * u - 1, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("lengths", "box_size"), [([128, 129], 128), ([100, 100], 100), ([20, 31], [20, 30])], ids=str)
def test_box_masks(lengths: list[int], box_size: int | list[int], tmp_path: Path) -> None:
    options = {"mask_type": "box", "mask_len_range": lengths, "margin": [8, 8]}
    config = load(tmp_path, VP, {"measurement.mask_opt": options})
    assert config.measurement is not None
    operator = config.measurement.operator.model_dump()
    assert (operator["mask"], operator["box_size"], operator["margin"]) == ("box", box_size, 8)
    default = load(tmp_path, VP, {"measurement.mask_opt": {k: v for k, v in options.items() if k != "margin"}})
    assert default.measurement is not None and default.measurement.operator.model_dump()["margin"] == 16


def test_denoising_and_linear_schedule(tmp_path: Path) -> None:
    changes = {"measurement.operator": {"name": "noise"}, "langevin_hyperparam.schedule": "linear"}
    config = load(tmp_path, VP, changes)
    assert config.measurement is not None and config.measurement.operator.name == "denoising"
    assert config.sampler.schedule.name == "linear"


def test_lists_in_text(tmp_path: Path) -> None:
    """The multipliers and resolutions of a UNet may be text with commas."""
    config = load(tmp_path, VP, {"model.channel_mult": "1,2, 2", "model.attention_resolutions": "32,16"})
    assert config.network.architecture is not None
    unet = config.network.architecture.model_dump()
    assert (unet["channel_mult"], unet["attention_resolutions"]) == ([1, 2, 2], [8, 16])


def test_overrides_use_the_keys_of_the_file_and_ours() -> None:
    config = load_sample_config(FOLDER / VP, ["sampler.schedule.num_steps=10", "data.num_images=2"])
    assert config.data is not None and (config.sampler.schedule.num_steps, config.data.num_images) == (10, 2)
    config = load_sample_config(
        FOLDER / VP,
        ["langevin_hyperparam.num_iters=2", "data.root=mine", "measurement.noise.sigma=0.1", "batch_size=4", "seed=5",
         "measurement.mask_opt.mask_prob_range=[0.5, 0.5]", "langevin_hyperparam.schedule=linear"],
    )  # fmt: skip
    schedule = config.sampler.schedule
    assert (schedule.num_steps, schedule.name, config.batch_size, config.seed) == (2, "linear", 4, 5)
    assert config.data is not None and config.data.path == "mine" and config.measurement is not None
    assert config.measurement.noise.std == 0.1 and config.measurement.operator.model_dump()["missing"] == 0.5


@pytest.mark.parametrize("key", ["gpu", "machinesetup.gpu", "machinesetup.gpu_idx"])
def test_the_names_that_the_readme_uses(key: str, tmp_path: Path) -> None:
    """It tells users to edit gpu and pretrained_check_point, which the files have as other keys, in sections."""
    without = {"machinesetup.gpu_idx": None, "model.pretrained_check_point": None}
    config = load(tmp_path, VP, without | {key: 2, "pretrained_check_point": "mine.pt"})
    assert (config.device, config.network.path) == ("cuda:2", "mine.pt")
    config = load_sample_config(FOLDER / VP, [f"{key}=3", "pretrained_check_point=mine.pt"])
    assert (config.device, config.network.path) == ("cuda:3", "mine.pt")


def test_two_names_of_one_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gpu \(line \d+\): is another name for machinesetup\.gpu_idx \(line \d+\)"):
        load(tmp_path, VP, {"gpu": 1})


NATIVE = CONFIGS / "ffhq256" / "vp_inpainting.yaml"
THEIRS = [
    ("gpu=1", "here it is device"),
    ("gpu_idx=1", "did you mean device?"),
    ("machinesetup={gpu_idx: 1, save_dir: out}", "machinesetup.gpu_idx is device, machinesetup.save_dir is output"),
    ("pretrained_check_point=a.pt", "here it is network.path"),
    ("model.pretrained_check_point=a.pt", "here model.pretrained_check_point is network.path"),
    ("langevin_hyperparam.num_iters=2", "langevin_hyperparam.num_iters is sampler.schedule.num_steps"),
    ("langevin_hyperparam.temperature=0", "langevin_hyperparam.temperature is sampler.initial_temperature"),
    ("langevin_hyperparam.scaling_constant_of_step_size=1", "scaling_constant_of_step_size is sampler.step_scale"),
    ("langevin_hyperparam.schedule=linear", "langevin_hyperparam.schedule is sampler.schedule.name"),
    ("langevin_hyperparam.save_image=true", "langevin_hyperparam.save_image is animation_frames"),
    ("data.root=faces", "here it is data.path"),
    ("measurement.noise.sigma=0.1", "here it is measurement.noise.std"),
    ("measurement.operator.scale_factor=4", "here it is measurement.operator.factor"),
    ("measurement.mask_opt.mask_prob_range=[0.5, 0.5]", "mask_prob_range is measurement.operator.missing"),
    ("vp_diffusion.beta_at_clean=1e-4", "vp_diffusion.beta_at_clean is network.denoiser.beta_min"),
]


@pytest.mark.parametrize(("change", "pointer"), THEIRS, ids=lambda v: v.partition("=")[0])
def test_their_keys_in_a_file_of_ours(change: str, pointer: str) -> None:
    with pytest.raises(InputError, match="unknown key") as caught:
        load_sample_config(NATIVE, [change])
    assert pointer in str(caught.value), caught.value


OURS: list[tuple[dict[str, Any], str]] = [
    ({"device": "cpu"}, "here it is machinesetup.gpu_idx"),
    ({"output": "runs"}, "here it is machinesetup.save_dir"),
    ({"network": {"path": "a.pt"}}, "here network.path is model.pretrained_check_point"),
    ({"sampler": {"schedule": {"num_steps": 5}}}, "sampler.schedule.num_steps is langevin_hyperparam.num_iters"),
    ({"data.path": "faces"}, "here it is data.root"),
    ({"measurement.noise.std": 0.1}, "here it is measurement.noise.sigma"),
    ({"batch_size": 4}, "here it is given as --set batch_size=VALUE"),
    ({"data.num_images": 4}, "here it is given as --set data.num_images=VALUE"),
]


@pytest.mark.parametrize(("changes", "pointer"), OURS, ids=lambda v: next(iter(v)) if type(v) is dict else "")
def test_our_keys_in_a_file_of_theirs(changes: dict[str, Any], pointer: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown key") as caught:
        load(tmp_path, VP, changes)
    assert pointer in str(caught.value), caught.value


def test_every_key_of_ours_that_is_pointed_to_exists() -> None:
    ours = {key for file in (NATIVE, CONFIGS / "ffhq256" / "ve_inpainting.yaml") for key in native_keys(file)}
    assert set(NATIVE_NAMES.values()) <= ours


def keys_without_effect(task: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted paths of the marked keys of a class and of its sections."""
    found = set()
    for key, info in task.model_fields.items():
        if NO_EFFECT in info.metadata:
            found.add(prefix + key)
        for section in (info.annotation, *get_args(info.annotation)):
            if isinstance(section, type) and issubclass(section, BaseModel):
                found |= keys_without_effect(section, f"{prefix}{key}.")
    return found


DEAD = {"vp": keys_without_effect(VPTask), "ve": keys_without_effect(VETask)}


def native_keys(file: Path) -> list[str]:
    """All that a config like this file can have, with any operator."""
    data = read_document(file).data
    return keys_of(schema_of(SampleConfig), {**data, "measurement": {}})


def test_every_key_that_had_an_effect_has_a_pointer() -> None:
    """Of those that the paper's files set; some are constants here, or are settled by the network's kind."""
    constant = {
        "vp": {"model.class_cond", "model.use_fp16", "measurement.mask_opt.randomize_box", "measurement.operator.name",
               "measurement.noise.name", "seed"},
        "ve": {"imagedetail.centered", "training.continuous", "training.sde", "model.nonlinearity",
               "measurement.operator.name", "measurement.noise.name", "seed"},
    }  # fmt: skip
    for kind, name in (("vp", VP), ("ve", VE)):
        given = [".".join(map(str, path)) for path, line in read_document(FOLDER / name).origins.items() if line]
        leaves = [key for key in given if not any(other.startswith(f"{key}.") for other in given)]
        dead = {*DEAD[kind], *constant[kind], "data.name", "eval.batch_size"}
        assert [key for key in leaves if key not in dead and key not in NATIVE_NAMES] == []


@pytest.mark.parametrize("name", [VP, VE])
def test_dump_of_a_translation_is_a_native_config(name: str, tmp_path: Path) -> None:
    config = load_sample_config(FOLDER / name)
    (tmp_path / "ours.yaml").write_text(dump(config), encoding="utf-8")
    again = load_sample_config(tmp_path / "ours.yaml")
    assert again.model_dump() == config.model_dump() and again.notes == ()


# --- notes -----------------------------------------------------------------------------------------------------------


def test_notes_name_the_keys_that_are_not_used(tmp_path: Path) -> None:
    notes = "\n".join(load_sample_config(FOLDER / VP).notes)
    assert "vp_diffusion.(clip_denoised, dynamic_threshold, model_mean_type" in notes
    assert "measurement.mask_opt.mask_len_range" in notes  # it is for boxes
    assert "mask_prob_range" not in notes and "beta_at_clean" not in notes and "learn_sigma" not in notes
    notes = "\n".join(load_sample_config(FOLDER / VE).notes)
    for part in ("optim.(lr, optimizer)", "training.(batch_size, n_iters, reduce_mean)", "eval.enable_bpd", "seed was"):
        assert part in notes
    notes = "\n".join(load(tmp_path, *TASKS["ve_uncond"]).notes)
    assert "measurement.noise" in notes and "num_images" in notes
    mask = {"mask_type": "random", "mask_prob_range": [0.5, 0.5], "fix_location_factor": 1}
    notes = "\n".join(load(tmp_path, VP, VP_SUPER_RESOLUTION | {"measurement.mask_opt": mask}).notes)
    assert "measurement.mask_opt" in notes and "fix_location_factor" not in notes  # the section says it all


def test_sections_of_the_other_network_are_named(tmp_path: Path) -> None:
    notes = "\n".join(load(tmp_path, VP, {"training": {"n_iters": 1}, "optim": {}, "seed": 3}).notes)
    assert "), optim, training, vp_diffusion.(" in notes and "seed was" in notes


def test_keys_without_effect() -> None:
    assert {"vp_diffusion.sampler", "vp_diffusion.timestep_respacing", "model.dropout"} <= DEAD["vp"]
    assert {"sampling.snr", "optim.lr", "model.ema_rate", "langevin_hyperparam.schedule"} <= DEAD["ve"]
    used = {"vp_diffusion.beta_at_clean", "langevin_hyperparam.num_iters", "model.sigma_max", "training.sde", "seed"}
    assert not used & (DEAD["vp"] | DEAD["ve"])


@pytest.mark.parametrize("name", [VP, VE])
def test_keys_without_effect_have_none_here(name: str, tmp_path: Path) -> None:
    """Whatever value such a key has, the translation is the same (the dropout of an idle layer apart)."""
    plain = load_sample_config(FOLDER / name)
    kind = name[:2]
    data = read_document(FOLDER / name).data
    given = [k for k in DEAD[kind] if k.partition(".")[2] in data.get(k.partition(".")[0], {})]
    assert len(given) > 8
    other = load(tmp_path, name, {key: "something else" for key in given if key != "model.dropout"})
    assert other.model_dump() == plain.model_dump()


# --- messages --------------------------------------------------------------------------------------------------------

PROBLEMS: list[tuple[str, dict[str, Any], list[str]]] = [
    (VP, {"langevin_hyperparam.num_iter": 5}, ["langevin_hyperparam.num_iter", "unknown", "num_iters"]),
    (VP, {"vp_difusion": {}}, ["vp_difusion", "unknown", "did you mean vp_diffusion"]),
    (VP, {"langevin_hyperparam.schedule": "gentle"}, ["langevin_hyperparam.schedule", "'gentle'", "denoiser"]),
    (VP, {"langevin_hyperparam.num_iters": 0}, ["langevin_hyperparam.num_iters", "0", "at least 1"]),
    (VP, {"langevin_hyperparam.temperature": "x"}, ["langevin_hyperparam.temperature", "'x'", "number"]),
    (VP, {"machinesetup.gpu_idx": "0"}, ["machinesetup.gpu_idx", "'0' (text)", "whole number"]),
    (VP, {"machinesetup.save_dir": None}, ["machinesetup.save_dir", "missing"]),
    (VP, {"measurement": None}, ["measurement", "missing"]),
    (VP, {"measurement.operator.name": "motion_blur"}, ["measurement.operator.name", "'motion_blur'", "inpainting"]),
    (VP, {"measurement.noise.name": "poisson"}, ["measurement.noise.name", "'poisson'", "gaussian"]),
    (VP, {"measurement.noise.sigma": 0.0}, ["measurement.noise.sigma", "found 0", "above 0"]),
    (VP, {"measurement.mask_opt": None}, ["measurement.mask_opt", "missing", "mask_type"]),
    (VP, {"measurement.mask_opt.mask_type": "extreme"}, ["mask_opt.mask_type", "'extreme'", "random, box"]),
    (VP, {"measurement.mask_opt.mask_prob_range": [0.3, 0.7]}, ["mask_prob_range", "[0.3, 0.7]", "two equal"]),
    (VP, {"measurement.mask_opt.mask_prob_range": None}, ["mask_opt.mask_prob_range", "missing", "share"]),
    (VP, {"measurement.mask_opt.image_size": 128}, ["measurement.mask_opt.image_size", "128", "256"]),
    (
        VP,
        {"measurement.mask_opt": {"mask_type": "box", "mask_len_range": [9, 5]}},
        ["mask_opt.mask_len_range", "[9, 5]", "lowest"],
    ),
    (VP, {"measurement.mask_opt": {"mask_type": "box"}}, ["mask_opt.mask_len_range", "missing"]),
    (
        VP,
        {"measurement.mask_opt": {"mask_type": "box", "mask_len_range": [5, 9], "margin": [1, 2]}},
        ["mask_opt.margin", "[1, 2]", "two equal"],
    ),
    (VP, {"measurement.mask_opt.randomize_box": False}, ["mask_opt.randomize_box", "found false", "allowed: true"]),
    (VP, {"model.noise_perturbation_type": "subvp"}, ["model.noise_perturbation_type", "'subvp'", "vp, ve"]),
    (VP, {"model.noise_perturbation_type": None}, ["model.noise_perturbation_type", "missing", "vp, ve"]),
    (VP, {"model": 3}, ["model", "found 3", "section"]),
    (VP, {"model.use_fp16": True}, ["model.use_fp16", "found true", "allowed: false"]),
    (VP, {"model.image_size": 96}, ["model.channel_mult", '""', "64, 128, 256"]),
    (VP, {"model.channel_mult": "1,x"}, ["model.channel_mult", "'1,x'"]),
    (VP, {"model.attention_resolutions": 7}, ["model.attention_resolutions", "found 7", "divisors of 256"]),
    (VP, {"vp_diffusion.steps": 500}, ["vp_diffusion.steps", "500", "1000"]),
    (VP, {"vp_diffusion.beta_at_clean": 0.03}, ["vp_diffusion.beta_at_clean", "0.03", "below 0.02"]),
    (VE, {"model.sigma_min": 400.0}, ["model.sigma_min", "400", "below sigma_max", "348"]),
    (VE, {"model.nonlinearity": "elu"}, ["model.nonlinearity", "'elu'", "swish"]),
    (VE, {"model.nf": None}, ["model.nf", "missing"]),
    (VE, {"imagedetail.centered": True}, ["imagedetail.centered", "found true", "false"]),
    (VE, {"training.sde": "vpsde"}, ["training.sde", "'vpsde'", "vesde"]),
    (VE, {"measurement.operator.in_shape": [1, 3, 64, 64]}, ["operator.in_shape", "[1, 3, 64, 64]", "256, 256"]),
    (VE, {"measurement.operator.scale_factor": 1}, ["operator.scale_factor", "found 1", "at least 2"]),
    (VE, {"optim.learning_rate": 1}, ["optim.learning_rate", "unknown key", "lr"]),
]


@pytest.mark.parametrize(("base", "changes", "parts"), PROBLEMS, ids=lambda v: next(iter(v)) if type(v) is dict else "")
def test_messages_name_the_keys_of_the_file(
    base: str, changes: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, base, changes)
    message = str(caught.value)
    assert "task.yaml" in message and "pydantic" not in message and "http" not in message
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_tag_that_would_run_code_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / VP).read_text(encoding="utf-8")
    marker = tmp_path / "executed"
    line = f"  sampler: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]"
    (tmp_path / "evil.yaml").write_text(text.replace("  sampler: ddpm", line), encoding="utf-8")
    with pytest.raises(InputError, match=r"evil\.yaml, line \d+: the tag .* would run code; refused"):
        load_sample_config(tmp_path / "evil.yaml")
    assert not marker.exists()


def test_train_py_refuses_a_sampling_task() -> None:
    with pytest.raises(InputError, match=r"sampling task.*sample\.py"):
        load_train_config(FOLDER / VP)
