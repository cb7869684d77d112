"""Weights from files: the public formats and ours give the recorded outputs; what cannot be used says why."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from randomwalk.denoisers.adapters import VPDenoiser
from randomwalk.denoisers.checkpoints import load_denoiser, make_denoiser, read_config, resolve_device, save_denoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.networks import build_network, first_difference, infer_settings
from randomwalk.errors import InputError, RunError
from randomwalk.training.trainer import initial_state
from score_sde import ncsnpp_settings

REFERENCE = Path(__file__).parents[1] / "reference"
UNET_FILE = REFERENCE / "unet_tinyA_weights.pt"
NCSNPP_FILE = REFERENCE / "ncsnpp_tiny_checkpoint.pth"
VP = {"name": "vp", "beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000}
VE = {"name": "ve", "sigma_min": 0.01, "sigma_max": 348.0}
SMALL = {
    "name": "unet",
    "image_size": 16,
    "in_channels": 1,
    "model_channels": 32,
    "out_channels": 1,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
}


def manifest(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / f"{name}.json").read_text())  # type: ignore[no-any-return]


UNET = {"name": "unet", **manifest("unet_tinyA")["unet_constructor"]}
del UNET["use_fp16"]  # not a setting here: false
NCSNPP = {"name": "ncsnpp", **ncsnpp_settings(manifest("ncsnpp_tiny")["config"])}


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    """Largest over the images of max|difference| / max|expected|."""
    reference = torch.from_numpy(expected)
    difference = (found - reference).abs().flatten(1).amax(1)
    return float((difference / reference.abs().flatten(1).amax(1)).max())


def sigma_at(denoiser: VPDenoiser, t: np.ndarray) -> Tensor:
    """The noise level whose timestep is t, from the table of the denoiser; float64."""
    return torch.from_numpy(np.interp(t, np.arange(len(denoiser.table)), denoiser.table.numpy()))


def unet_error(denoiser: NetworkDenoiser) -> float:
    """Relative error of the noise that the denoiser predicts, against the recorded output of the tiny UNet."""
    assert isinstance(denoiser, VPDenoiser)
    reference = np.load(REFERENCE / "unet_tinyA_io.npz")
    sigma = sigma_at(denoiser, reference["t_float64"])[:, None, None, None]
    x = (torch.from_numpy(reference["x"]) * (1 + sigma**2).sqrt()).float()  # the network sees sqrt(alpha_bar) x
    found = -denoiser.score(x, sigma.flatten()) * sigma.float()
    return relative_error(found, reference["out_float64"][:, :3])


def ncsnpp_error(denoiser: NetworkDenoiser, expected: str) -> float:
    """Relative error of the score, against a recorded output of the tiny NCSN++ (for pixels in [0, 1])."""
    reference = np.load(REFERENCE / "ncsnpp_tiny_io.npz")
    x, sigma = torch.from_numpy(reference["x"]), torch.from_numpy(reference["sigma"])
    return relative_error(2 * denoiser.score(2 * x - 1, 2 * sigma), reference[expected])


def filled(settings: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the network in which no tensor is zero or alike."""
    generator = torch.Generator().manual_seed(seed)
    state = build_network(settings).state_dict()
    return {
        k: v if v.dtype == torch.float64 else 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()
    }


def tiny_state() -> dict[str, Tensor]:
    return torch.load(UNET_FILE, weights_only=True)  # type: ignore[no-any-return]


def tiny_checkpoint() -> dict[str, Any]:
    return torch.load(NCSNPP_FILE, weights_only=True)  # type: ignore[no-any-return]


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def complaint(path: Path, **options: Any) -> str:
    """The message with which loading fails; it names the file."""
    with pytest.raises(InputError) as caught:
        load_denoiser(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- the public formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_guided_diffusion_file_gives_the_recorded_output(weights: str) -> None:
    denoiser = load_denoiser(UNET_FILE, network=UNET, denoiser=VP, weights=weights)
    assert unet_error(denoiser) < 1e-5
    assert (denoiser.channels, denoiser.image_size) == (3, 32)


def test_score_sde_file_gives_the_recorded_outputs_of_both_sets_of_weights() -> None:
    assert ncsnpp_error(load_denoiser(NCSNPP_FILE, network=NCSNPP, denoiser=VE), "out_ema") < 1e-5
    assert ncsnpp_error(load_denoiser(NCSNPP_FILE, network=NCSNPP, denoiser=VE, weights="raw"), "out") < 1e-5


def test_score_sde_weights_are_not_mistaken_for_each_other() -> None:
    assert ncsnpp_error(load_denoiser(NCSNPP_FILE, network=NCSNPP, denoiser=VE), "out") > 1e-2


def test_number_of_sigmas_in_the_file_does_not_matter() -> None:
    denoiser = load_denoiser(NCSNPP_FILE, network={**NCSNPP, "num_scales": 2000}, denoiser=VE)
    assert ncsnpp_error(denoiser, "out_ema") < 1e-5
    sigmas = denoiser.network.sigmas
    assert isinstance(sigmas, Tensor) and sigmas.shape == (2000,) and sigmas.dtype == torch.float64


def test_sigmas_may_be_missing(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    del checkpoint["model"]["module.sigmas"]
    path = saved(tmp_path / "without.pth", checkpoint)
    assert ncsnpp_error(load_denoiser(path, network=NCSNPP, denoiser=VE), "out_ema") < 1e-5


@pytest.mark.parametrize("layout", ["module.", "model.", "state_dict", "model", "float16", "legacy", "safetensors"])
def test_usual_disguises_of_a_state_dict_are_accepted(layout: str, tmp_path: Path) -> None:
    state, path = tiny_state(), tmp_path / "weights"
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "legacy":
        saved(path, state, _use_new_zipfile_serialization=False)
    elif layout == "float16":
        saved(path, {key: value.half() for key, value in state.items()})
    elif layout.endswith("."):
        saved(path, {layout + key: value for key, value in state.items()})
    else:
        saved(path, {layout: state, "step": 3})
    denoiser = load_denoiser(path, network=UNET, denoiser=VP)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert unet_error(denoiser) < (1e-2 if layout == "float16" else 1e-5)


def test_averaged_weights_may_have_names(tmp_path: Path) -> None:
    state = tiny_state()
    path = saved(tmp_path / "named.pt", {"model": {k: v + 1 for k, v in state.items()}, "ema": state})
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP)) < 1e-5
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP, weights="raw")) > 1e-2


def test_averages_of_a_part_of_the_parameters_are_refused_with_their_names(tmp_path: Path) -> None:
    state = tiny_state()
    missing = [key for key in state if key.startswith("out.")]
    ema = {key: value for key, value in state.items() if key not in missing}
    path = saved(tmp_path / "part.pt", {"model": state, "ema": ema})
    message = complaint(path, network=UNET, denoiser=VP)
    names = ", ".join(missing[:3])
    assert f"(ema) lack {len(missing)} of the network's {len(state)} parameters ({names}, ...)" in message
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP, weights="raw")) < 1e-5
    with pytest.raises(InputError, match=r"averaged weights \(ema\) lack 4 of"):
        initial_state(str(path), build_network(UNET))


@pytest.mark.parametrize("averaged", ["ema_model.module.", "model_ema.", "ema."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_both_sets_may_be_side_by_side(averaged: str, wrapped: bool, tmp_path: Path) -> None:
    """Lightning's checkpoints have both, and the counter of the averaging module."""
    state = tiny_state()
    both = {f"model.{key}": value + 1 for key, value in state.items()}
    both |= {averaged + key: value for key, value in state.items()}
    both |= {f"{averaged.split('.')[0]}.n_averaged": torch.tensor(7)}
    path = saved(tmp_path / "two.ckpt", {"state_dict": both, "epoch": 3} if wrapped else both)
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP)) < 1e-5
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP, weights="raw")) > 1e-2
    ema = initial_state(str(path), build_network(UNET))
    assert all(torch.equal(ema[key], value) for key, value in state.items())


def test_initial_weights_are_the_averaged_ones_of_score_sde() -> None:
    found = initial_state(str(NCSNPP_FILE), build_network(NCSNPP))
    averages = tiny_checkpoint()["ema"]["shadow_params"]
    assert torch.equal(found["all_modules.1.weight"], averages[0])


# --- our format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_file_gives_back_what_was_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    ema, raw, path = filled(NCSNPP, 1), filled(NCSNPP, 2), tmp_path / "ours.safetensors"
    training = {"images": 7, "command": "python train.py"}
    save_denoiser(path, {"network": NCSNPP, "denoiser": VE, "training": training}, ema, raw, dtype)
    for weights, state in (("ema", ema), ("raw", raw)):
        loaded = load_denoiser(path, weights=weights)
        assert (loaded.channels, loaded.image_size, loaded.sigma_max) == (3, 16, 696.0)
        for key, value in loaded.network.state_dict().items():
            assert value.dtype == state[key].dtype
            assert torch.equal(value, state[key].to(dtype).float() if value.dtype == torch.float32 else state[key])
    config = read_config(path)
    assert config is not None and config["training"] == training and config["network"]["nf"] == 16
    assert list(tmp_path.iterdir()) == [path]


def test_both_sets_of_weights_may_share_memory(tmp_path: Path) -> None:
    state = filled(NCSNPP)
    save_denoiser(tmp_path / "x", {"network": NCSNPP, "denoiser": VE}, state, state)
    for weights in ("ema", "raw"):
        loaded = load_denoiser(tmp_path / "x", weights=weights).network.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_float16_halves_the_file(tmp_path: Path) -> None:
    config = {"network": SMALL, "denoiser": VP, "training": {}}
    sizes = []
    for dtype in (torch.float32, torch.float16):
        save_denoiser(tmp_path / "x", config, filled(SMALL), dtype=dtype)
        sizes.append((tmp_path / "x").stat().st_size)
    assert 1.9 < sizes[0] / sizes[1] < 2.1


def test_channels_last_weights_are_saved_in_order(tmp_path: Path) -> None:
    network = build_network(SMALL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.load_state_dict(filled(SMALL))
    save_denoiser(tmp_path / "x", {"network": SMALL, "denoiser": VP}, network.state_dict())
    assert first_difference(network, load_denoiser(tmp_path / "x").network.state_dict()) is None
    assert torch.equal(load_file(tmp_path / "x")["ema.out.2.weight"], filled(SMALL)["out.2.weight"])


def test_nothing_unusable_is_saved_and_the_old_file_stays(tmp_path: Path) -> None:
    path, config, state = tmp_path / "x", {"network": SMALL, "denoiser": VP, "training": {}}, filled(SMALL)
    path.write_text("old")
    with pytest.raises(RunError, match=r"raw\.out\.2\.bias"):
        save_denoiser(path, config, state, {**state, "out.2.bias": torch.tensor([math.nan])})
    with pytest.raises(RunError, match=r"ema\.out\.2\.bias.*float16"):
        save_denoiser(path, config, {**state, "out.2.bias": torch.tensor([1e6])}, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"out\.2\.bias \[1\] is missing"):
        save_denoiser(path, config, {k: v for k, v in state.items() if k != "out.2.bias"})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_our_file_and_the_config_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_denoiser(path, {"network": SMALL, "denoiser": VP, "training": {}}, filled(SMALL))
    load_denoiser(path, network={**SMALL, "channel_mult": (1, 2), "num_heads": 1, "dropout": 0.3}, denoiser=VP)
    message = complaint(path, network={**SMALL, "num_heads": 2})
    assert "network.architecture.num_heads is 1 in the file, and 2 in the config" in message
    assert "model_channels is 32 in the file, and 64" in complaint(path, network={**SMALL, "model_channels": 64})
    assert "network.architecture.name is 'unet' in the file, and 'ncsnpp'" in complaint(path, network=NCSNPP)
    message = complaint(path, denoiser={"name": "vp", "beta_max": 0.03})
    assert "network.denoiser.beta_max is 0.02 in the file, and 0.03 in the config" in message
    assert "nf is unknown to 'unet'" in complaint(path, network={"nf": 3})


def test_our_file_says_which_weights_it_has(tmp_path: Path) -> None:
    save_denoiser(tmp_path / "x", {"network": SMALL, "denoiser": VP, "training": {}}, filled(SMALL))
    assert "no weights called 'raw'; it has: ema" in complaint(tmp_path / "x", weights="raw")


@pytest.mark.parametrize("config", ["{", "[]", '{"network": {}, "denoiser": {"name": "vp"}}', None])
def test_our_file_with_a_damaged_description(config: str | None, tmp_path: Path) -> None:
    metadata = {"format": "randomwalk"} | ({} if config is None else {"config": config})
    save_file({"ema.x": torch.zeros(1)}, tmp_path / "x", metadata)
    assert "damaged" in complaint(tmp_path / "x")


def test_our_file_that_contradicts_itself(tmp_path: Path) -> None:
    config = {"network": {**SMALL, "model_channels": 64}, "denoiser": VP}
    tensors = {f"ema.{key}": value for key, value in filled(SMALL).items()}
    save_file(tensors, tmp_path / "x", {"format": "randomwalk", "config": json.dumps(config)})
    message = complaint(tmp_path / "x")
    assert "contradicts its own description: time_embed.0.weight is [128, 32] in the file and [256, 64]" in message


def test_public_weights_survive_the_way_through_our_format(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_denoiser(path, {"network": UNET, "denoiser": VP}, tiny_state())
    assert unet_error(load_denoiser(path)) < 1e-5
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "randomwalk"


# --- what a file tells about its network -----------------------------------------------------------------------


def shapes(name: str) -> dict[str, Tensor]:
    """A manifest as a state dict without memory."""
    return {key: torch.empty(shape, device="meta") for key, shape in manifest(name)["state_dict"].items()}


@pytest.mark.parametrize("name", ["unet_tinyA", "unet_tinyB", "unet_ffhq256_manifest"])
def test_unet_settings_are_read_off_the_file(name: str) -> None:
    constructor, told = manifest(name)["unet_constructor"], infer_settings(shapes(name))
    assert told is not None and told.pop("name") == "unet" and len(told) == 9
    assert told == {key: constructor[key] for key in told}


def test_ncsnpp_settings_are_read_off_the_file() -> None:
    state = {key.removeprefix("module."): value for key, value in tiny_checkpoint()["model"].items()}
    told = infer_settings(state, image_size=16)
    assert told is not None and told.pop("name") == "ncsnpp" and len(told) == 13
    for key, value in told.items():
        expected = NCSNPP.get(key, value)
        assert value == (pytest.approx(expected) if isinstance(value, float) else _listed(expected)), key


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    "change",
    [
        {"resblock_updown": True, "num_classes": 5},
        {"use_scale_shift_norm": True, "num_res_blocks": 3, "channel_mult": [1, 1, 3]},
        {"attention_resolutions": [1, 4], "channel_mult": [2, 2, 1], "in_channels": 4, "out_channels": 4},
        {"channel_mult": [1], "attention_resolutions": []},
    ],
)
def test_unet_settings_of_other_networks(change: dict[str, Any]) -> None:
    told = infer_settings(build_network({**SMALL, **change}).state_dict())
    assert told is not None
    assert {key: told[key] for key in change} == change


@pytest.mark.parametrize(
    "change",
    [
        {"num_res_blocks": 2, "ch_mult": [1, 3, 2], "attn_resolutions": [16, 4]},
        {"progressive_combine": "cat", "num_channels": 1},
        {"conditional": False, "attn_resolutions": []},
    ],
)
def test_ncsnpp_settings_of_other_networks(change: dict[str, Any]) -> None:
    told = infer_settings(build_network({**NCSNPP, **change}).state_dict(), image_size=16)
    assert told is not None
    assert {key: told[key] for key in change} == change


@pytest.mark.parametrize(
    "change",
    [
        {"progressive": "none"},
        {"progressive": "residual"},
        {"progressive_input": "none"},
        {"progressive_input": "residual"},
        {"resblock_type": "ddpm"},
        {"progressive": "none", "progressive_input": "none"},
        {"embedding_type": "positional"},
    ],
)
def test_unusual_ncsnpp_loads_though_its_settings_cannot_be_told(change: dict[str, Any], tmp_path: Path) -> None:
    settings = {**NCSNPP, **change}
    state = filled(settings)
    network = load_denoiser(saved(tmp_path / "x", state), network=settings, denoiser=VE).network
    assert torch.equal(network.state_dict()["all_modules.2.bias"], state["all_modules.2.bias"])


def test_without_a_description_there_is_one_to_paste() -> None:
    yaml = pytest.importorskip("yaml")
    message = complaint(UNET_FILE)
    snippet = yaml.safe_load(message.split("\n\n")[1])["network"]
    open_keys = [key for key, value in snippet["architecture"].items() if value == "FILL_IN"]
    assert open_keys == ["image_size", "num_head_channels", "use_new_attention_order"]
    snippet["architecture"] |= {key: UNET[key] for key in open_keys}
    assert snippet["denoiser"] == {"name": "vp", "table": "FILL_IN"}
    snippet["denoiser"]["table"] = "linear"
    assert unet_error(load_denoiser(UNET_FILE, network=snippet["architecture"], denoiser=snippet["denoiser"])) < 1e-5
    assert "architecture" not in complaint(UNET_FILE, network=UNET)
    assert "denoiser:" not in complaint(UNET_FILE, denoiser=VP)


def test_without_a_description_of_ncsnpp_there_is_one_to_paste() -> None:
    yaml = pytest.importorskip("yaml")
    message = complaint(NCSNPP_FILE)
    snippet = yaml.safe_load(message.split("\n\n")[1])["network"]
    assert "attention: 2" in message  # 8 = 16 / 2
    snippet["architecture"] |= {"image_size": 16, "attn_resolutions": [8]}
    loaded = load_denoiser(NCSNPP_FILE, network=snippet["architecture"], denoiser=snippet["denoiser"])
    assert ncsnpp_error(loaded, "out_ema") < 1e-5


def test_an_unknown_network_without_description(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", nn.Linear(2, 2).state_dict())
    assert "its first tensor is 'weight'" in complaint(path)
    state = tiny_state()
    del state["middle_block.1.qkv.bias"]
    assert "middle_block.1.qkv.bias [192] is missing" in complaint(saved(tmp_path / "y.pt", state))


# --- files that do not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, difference",
    [
        ({"model_channels": 64}, "time_embed.0.weight is [128, 32] in the file and [256, 64] in the network"),
        ({"in_channels": 6}, "input_blocks.0.0.weight is [32, 3, 3, 3] in the file and [32, 6, 3, 3]"),
        ({"out_channels": 3}, "out.2.weight is [6, 32, 3, 3] in the file and [3, 32, 3, 3]"),
        ({"num_res_blocks": 2}, "input_blocks."),
        ({"channel_mult": [1, 2, 2]}, "input_blocks."),
        ({"attention_resolutions": [1, 2]}, "input_blocks.1.1.norm.weight [32] is missing in the file"),
        ({"attention_resolutions": []}, "input_blocks.3.1.norm.weight [64] is in the file and not in the network"),
        (
            {"use_scale_shift_norm": False},
            "input_blocks.1.0.emb_layers.1.weight is [64, 128] in the file and [32, 128]",
        ),
        ({"resblock_updown": False}, "input_blocks.2.0.in_layers.0.weight [32] is in the file and not in the network"),
    ],
)
def test_misfit_names_the_tensor_and_the_setting(change: dict[str, Any], difference: str) -> None:
    message = complaint(UNET_FILE, network={**UNET, **change}, denoiser=VP)
    ((key, value),) = change.items()
    shown = json.dumps(value)
    assert f"does not fit the network in the config: {difference}" in message
    assert f"network.architecture.{key}: the file says {json.dumps(UNET[key])}, the config {shown}" in message


@pytest.mark.parametrize(
    "change",
    [
        {"nf": 32},
        {"ch_mult": [1, 1]},
        {"ch_mult": [1, 2, 2]},
        {"num_res_blocks": 2},
        {"attn_resolutions": [16]},
        {"num_channels": 1},
        {"sigma_max": 50.0},
        {"progressive": "none"},
        {"resblock_type": "ddpm"},
    ],
)
def test_misfit_of_ncsnpp_names_the_setting(change: dict[str, Any]) -> None:
    message = complaint(NCSNPP_FILE, network={**NCSNPP, **change}, denoiser=VE)
    (key,) = change
    assert f"network.architecture.{key}: the file says " in message


def test_the_other_network() -> None:
    message = complaint(UNET_FILE, network=NCSNPP, denoiser=VE)
    assert "network.architecture.name: the file says unet, the config ncsnpp" in message
    message = complaint(NCSNPP_FILE, network=UNET, denoiser=VP)
    assert "network.architecture.name: the file says ncsnpp, the config unet" in message


def test_settings_that_make_no_network() -> None:
    message = complaint(UNET_FILE, network={**UNET, "model_channels": 48}, denoiser=VP)
    assert "model_channels: the file says 32, the config 48" in message
    assert "colour" in complaint(UNET_FILE, network={**UNET, "colour": 1}, denoiser=VP)
    assert "expected one of unet, photo_unet, ncsnpp" in complaint(UNET_FILE, network={"name": "vgg"}, denoiser=VP)
    assert "expected one of vp, ve, edm" in complaint(UNET_FILE, network=UNET, denoiser={"name": "vpx"})
    classes = complaint(UNET_FILE, network={**UNET, "num_classes": 5}, denoiser=VP)
    assert "num_classes: the file says null, the config 5" in classes


def test_incomplete_file(tmp_path: Path) -> None:
    state = tiny_state()
    del state["middle_block.1.qkv.bias"]
    message = complaint(saved(tmp_path / "x.pt", state), network=UNET, denoiser=VP)
    assert "middle_block.1.qkv.bias [192] is missing in the file. No setting explains it" in message


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = tiny_state()
    state["out.0.weight"][3] = math.inf
    message = complaint(saved(tmp_path / "x.pt", state), network=UNET, denoiser=VP)
    assert "out.0.weight has values that are NaN or infinite" in message
    checkpoint = tiny_checkpoint()
    checkpoint["ema"]["shadow_params"][0][0] = math.nan
    path = saved(tmp_path / "y.pt", checkpoint)
    assert "all_modules.1.weight has values that are NaN" in complaint(path, network=NCSNPP, denoiser=VE)
    load_denoiser(path, network=NCSNPP, denoiser=VE, weights="raw")


def test_weights_of_another_type(tmp_path: Path) -> None:
    state = tiny_state()
    state["out.0.weight"] = state["out.0.weight"].int()
    message = complaint(saved(tmp_path / "x.pt", state), network=UNET, denoiser=VP)
    assert "out.0.weight is of type torch.int32" in message


def test_averaged_list_that_does_not_fit(tmp_path: Path) -> None:
    options = {"network": NCSNPP, "denoiser": VE}
    checkpoint = tiny_checkpoint()
    last = checkpoint["ema"]["shadow_params"].pop()
    message = complaint(saved(tmp_path / "x.pth", checkpoint), **options)
    assert "has 159 tensors, but the network has 160 trainable parameters" in message
    checkpoint["ema"]["shadow_params"].insert(0, last)
    message = complaint(saved(tmp_path / "x.pth", checkpoint), **options)
    assert "ema.shadow_params[0], which is all_modules.1.weight, is [3] in the file and [64, 32]" in message
    checkpoint["ema"] = {"decay": 0.999}
    assert "in an unknown layout" in complaint(saved(tmp_path / "x.pth", checkpoint), **options)


def test_unet_without_convolutions_between_the_resolutions(tmp_path: Path) -> None:
    """Of guided-diffusion's conv_resample: false, which is named, in place of settings that would not help."""
    settings = {**UNET, "resblock_updown": False}
    state = {
        key: value
        for key, value in build_network(settings).state_dict().items()
        if not key.endswith((".op.weight", ".op.bias", ".conv.weight", ".conv.bias"))
    }
    path = saved(tmp_path / "x.pt", state)
    for options in ({}, {"network": settings, "denoiser": VP}, {"denoiser": VP}):
        message = complaint(path, **options)  # type: ignore[arg-type]
        assert "input_blocks.2 has no weights: it seems to be a UNet with conv_resample: false" in message
        assert "the config" not in message.replace("the network in the config", "") and "FILL_IN" not in message


def test_the_checkpoint_of_a_run_names_the_weights_beside(tmp_path: Path) -> None:
    state = tiny_state()
    content = {"step": 3, "seconds": 1.0, "network": {k: v + 1 for k, v in state.items()}, "ema": state}
    path = saved(tmp_path / "checkpoint.pt", content)
    assert unet_error(load_denoiser(path, network=UNET, denoiser=VP)) < 1e-5  # a copy, from which nothing goes on
    (tmp_path / "config.yaml").touch()
    (tmp_path / "model.safetensors").touch()
    message = complaint(path, network=UNET, denoiser=VP)
    assert f"--resume; the weights to use are in {tmp_path / 'model.safetensors'}" in message


# --- files that are not weights --------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in complaint(tmp_path / "ffhq_10m.pt", network=UNET, denoiser=VP)
    assert "is a folder" in complaint(tmp_path)


def archive(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_a_hole(data: bytes) -> bytes:
    """File of a download that reserved the space and did not get all the parts."""
    middle = len(data) // 2
    return data[:middle] + bytes(4096) + data[middle + 4096 :]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("holiday.txt", "sun")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<html><title>Google Drive - Virus scan warning", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "is not a file with weights"),
        (b"PK\x03\x04", "is damaged"),
        (b"\x80", "is damaged"),
        (b"\x80\x02garbage", "is damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "is damaged"),
        (UNET_FILE.read_bytes()[:100_000], "is damaged or incomplete"),
        (with_a_hole(UNET_FILE.read_bytes()), "has a wrong checksum"),
        (zipped(), "is damaged, or not a file of torch.save"),
        (archive([1, 2]), "holds list"),
        (archive(torch.zeros(2)), "holds Tensor"),
        (archive({}), "a dictionary with nothing in it"),
        (archive({"epoch": 3, "lr": 0.1}), "a dictionary with 'epoch', 'lr'"),
        (archive({"model": {"a": "b"}}), "a dictionary with 'model'"),
    ],
)
def test_other_content(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert expected in complaint(path, network=UNET, denoiser=VP)


def test_cut_short_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_denoiser(path, {"network": SMALL, "denoiser": VP}, filled(SMALL))
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged or incomplete" in complaint(path)
    with pytest.raises(InputError, match="is damaged or incomplete"):
        read_config(path)


class Touch:
    """Pickles as a call of ``Path.touch``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("layout", ["archive", "pickle"])
def test_pickles_that_would_run_code_are_refused(layout: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "executed", tmp_path / "evil.pt"
    content = {**tiny_state(), "payload": Touch(victim)}
    if layout == "archive":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"payload": Touch(victim)}, protocol=2))
    message = complaint(path, network=UNET, denoiser=VP)
    assert "is refused: loading it would run code" in message
    assert not victim.exists()
    torch.load(path, weights_only=False) if layout == "archive" else pickle.loads(path.read_bytes())
    assert victim.exists()  # it would have


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", nn.Linear(2, 2))
    assert "it asks for torch.nn.modules.linear.Linear" in complaint(path, network=UNET, denoiser=VP)


# --- how it comes out ------------------------------------------------------------------------------------------


def test_ready_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    denoiser = load_denoiser(UNET_FILE, network={**UNET, "dropout": 0.5}, denoiser=VP, precision="bf16", device="auto")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in denoiser.modules())
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    weight = denoiser.network.get_parameter("input_blocks.1.0.in_layers.2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert denoiser.autocast_dtype == torch.bfloat16 and weight.dtype == torch.float32
    assert denoiser.sigma_max == pytest.approx(157.4, rel=1e-3)


def test_bf16_is_close(tmp_path: Path) -> None:
    denoiser = load_denoiser(UNET_FILE, network=UNET, denoiser=VP, precision="bf16")
    assert 1e-5 < unet_error(denoiser) < 0.1


def test_compile_wraps_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: nn.Sequential(network))
    denoiser = load_denoiser(UNET_FILE, network=UNET, denoiser=VP, compile=True)
    assert isinstance(denoiser.network, nn.Sequential) and unet_error_of_inner(denoiser) < 1e-5


def unet_error_of_inner(denoiser: NetworkDenoiser) -> float:
    denoiser.network = denoiser.network[0]  # type: ignore[index]
    return unet_error(denoiser)


def test_options_that_do_not_exist() -> None:
    with pytest.raises(InputError, match=r"no weights at network.weights: best; expected ema, raw, or one of its sets"):
        load_denoiser(UNET_FILE, network=UNET, denoiser=VP, weights="best")
    with pytest.raises(InputError, match=r"precision: 'fp8' is not known"):
        load_denoiser(UNET_FILE, precision="fp8")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu") == resolve_device("cpu")
    for name in ("gpu", "meta", "cuda:x"):
        with pytest.raises(InputError, match=r"is not known; auto, cpu, mps, cuda or cuda:N"):
            resolve_device(name)
    with pytest.raises(InputError, match=r"device: cuda:0 is not available.*use cpu or auto"):
        load_denoiser(UNET_FILE, network=UNET, denoiser=VP, device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match=r"cuda:2 is not there; this machine has cuda:0 to cuda:1"):
        resolve_device("cuda:2")


PLAIN_NCSNPP = {"name": "ncsnpp", "image_size": 16, "nf": 16, "ch_mult": [1], "num_res_blocks": 1}
EDM = {"name": "edm", "sigma_data": 0.4}


@pytest.mark.parametrize(("network", "denoiser", "channels"), [(SMALL, VP, 1), (SMALL, EDM, 1), (PLAIN_NCSNPP, VE, 3)])
def test_make_denoiser_knows_its_images(network: dict[str, Any], denoiser: dict[str, Any], channels: int) -> None:
    made = make_denoiser(network, denoiser)
    assert (made.channels, made.image_size) == (channels, 16)


@pytest.mark.parametrize(("network", "denoiser"), [(SMALL, VE), (PLAIN_NCSNPP, VP), (PLAIN_NCSNPP, EDM)])
def test_a_network_is_not_read_in_the_wrong_way(network: dict[str, Any], denoiser: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"denoiser {denoiser['name']} around network {network['name']}"):
        make_denoiser(network, denoiser)
