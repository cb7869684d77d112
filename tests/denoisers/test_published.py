"""Published weights by name or by their tensors, checkpoints as they lie about, and pickles that hold code."""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from guided_diffusion import unet_settings
from randomwalk import InputError, load_denoiser
from randomwalk.config.networks import VPDenoiserSettings, Weights
from randomwalk.denoisers import published as module
from randomwalk.denoisers.checkpoints import load_prior
from randomwalk.denoisers.networks import build_network, full_settings
from randomwalk.denoisers.published import PUBLISHED, alike, published

CPU = torch.device("cpu")
PARAMETERS = {  # millions, as their publications say: Dhariwal and Nichol 2021, tables 11 and 12; Nichol 2021
    "imagenet64": 296, "imagenet128": 422, "imagenet256": 554, "imagenet512": 559, "lsun_bedroom": 552,
    "improved_imagenet64_cond": 270,
}  # fmt: skip
FLAGS = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "0.5,1", "learn_sigma": True}
FLAGS |= {"attention_resolutions": "8", "num_head_channels": 16, "resblock_updown": True, "use_scale_shift_norm": True}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_published_size(name: str) -> None:
    """And are known again by their tensors, by which those with equal settings cannot be told apart."""
    settings, denoiser = published(name)
    assert full_settings(settings)["out_channels"] == 6
    VPDenoiserSettings.model_validate(denoiser)
    with torch.device("meta"):
        state = build_network(settings).state_dict()
    if name in PARAMETERS:
        assert sum(v.numel() for v in state.values()) / 1e6 == pytest.approx(PARAMETERS[name], rel=0.015)
    names = alike(state)
    assert name in names and all(published(other) == published(name) for other in names)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """State dict of a small network that is published as "small", with classes, and as "other", of another table."""
    table = {"small": ({**FLAGS, "class_cond": True, "norm": 16}, {"name": "vp", "table": "cosine"})}
    monkeypatch.setattr(module, "PUBLISHED", table)
    made = {**unet_settings(**FLAGS, class_cond=True), "name": "unet", "norm_groups": 16}
    del made["use_fp16"]
    monkeypatch.setattr(module, "unet_settings", lambda **_: {**{k: v for k, v in made.items() if k != "name"},
                                                              "use_fp16": False})  # fmt: skip
    torch.manual_seed(0)
    network = build_network(made)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.state_dict()


def test_by_name_and_by_tensors(small: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files in float16 too; the learned variance is left out, the classes are known, and it is said what was taken."""
    torch.save({key: value.half() for key, value in small.items()}, tmp_path / "x.pt")
    named = load_denoiser(tmp_path / "x.pt", published="small")
    found = load_prior(Weights.model_validate({"path": str(tmp_path / "x.pt")}), CPU)
    assert named.num_classes == found.num_classes == 1000 and named.channels == 3 and named.image_size == 16
    x, labels = torch.randn(2, 3, 16, 16), torch.tensor([5, 999])
    z = x / (1 + 0.5**2) ** 0.5
    with torch.no_grad():
        assert torch.equal(named(x, 0.5, labels), found(x, 0.5, labels))
        t = named.times.label(torch.tensor([0.5, 0.5]))  # type: ignore[attr-defined, operator]
        noise = named.network(z, t, labels)[:, :3]
        torch.testing.assert_close(named(x, 0.5, labels), x - 0.5 * noise, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().err
    assert "has the tensors of the published small, whose settings were taken: {'image_size': 16" in said
    assert named.notes == ()
    with pytest.raises(InputError, match=r"network\.published 'tiny': unknown; expected one of small"):
        load_denoiser(tmp_path / "x.pt", published="tiny")


def test_classifiers_and_upsamplers_are_refused(small: dict[str, Tensor], tmp_path: Path) -> None:
    classifier = {k: v for k, v in small.items() if not k.startswith(("output_blocks.", "label_emb."))}
    torch.save(classifier, tmp_path / "classifier.pt")
    wide = dict(small)
    wide["input_blocks.0.0.weight"] = torch.randn(16, 6, 3, 3)
    torch.save(wide, tmp_path / "upsampler.pt")
    for name, said in (("classifier", "is a classifier of noisy images"), ("upsampler", "is an upsampler")):
        for published_as in (None, "small"):
            with pytest.raises(InputError, match=said):
                load_denoiser(tmp_path / f"{name}.pt", published=published_as)


def test_rescaled_timesteps() -> None:
    """improved-diffusion shows its 4000 timesteps to the network as 0 to 1000."""
    seen: list[Tensor] = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return z

    from randomwalk.denoisers.adapters import make

    settings = published("improved_cifar10_uncond")[1]
    denoiser = make(network=network, **settings)  # type: ignore[arg-type]
    denoiser(torch.zeros(1, 1, 1, 1), float(denoiser.times.table[1234]))  # type: ignore[attr-defined]
    assert len(denoiser.times.table) == 4000 and float(seen[0]) == pytest.approx(1234 / 4)  # type: ignore[attr-defined]


# --- checkpoints of trainings ----------------------------------------------------------------------------------------


def saved_with(name: str, content: Mapping[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint whose settings are of the class called ``name``."""
    place, _, own = name.rpartition(".")
    made = types.ModuleType(place)
    base = dict if own == "AttributeDict" else types.SimpleNamespace
    kind = type(own, (base,), {"__module__": place, "__qualname__": own})  # is not there when the file is read
    setattr(made, own, kind)
    with monkeypatch.context() as patch:
        for k in range(1, place.count(".") + 1):
            patch.setitem(sys.modules, place.rsplit(".", k)[0], types.ModuleType("parent"))
        patch.setitem(sys.modules, place, made)
        torch.save({**content, "hyper_parameters": kind(width=3)}, path)


@pytest.mark.parametrize(
    "name", ["pytorch_lightning.utilities.parsing.AttributeDict", "omegaconf.dictconfig.DictConfig"]
)
def test_settings_beside_the_weights_are_left_out(
    name: str, small: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of Lightning, in classes of libraries that need not be there; what was found and taken is said."""
    ema = {f"ema_model.module.{key}": value + 0.01 for key, value in small.items()}
    state = {"state_dict": {**{f"model.{key}": value for key, value in small.items()}, **ema}, "epoch": 3}
    saved_with(name, state, tmp_path / "x.ckpt", monkeypatch)
    denoiser = load_denoiser(tmp_path / "x.ckpt", published="small")
    torch.testing.assert_close(denoiser.network.state_dict()["out.2.bias"], small["out.2.bias"] + 0.01)
    taken, left = denoiser.notes
    assert "took state_dict.ema_model.module (averaged, " in taken and "and left state_dict.model" in taken
    assert f"ignored its training settings, which are objects of {name}" in left


def test_a_namespace_too_and_nothing_else(small: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": small, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "x.pt")
    assert "argparse.Namespace" in load_denoiser(tmp_path / "x.pt", published="small").notes[1]

    class Run:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "run").mkdir, ())

    torch.save({"model": small, "args": Run()}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="would run code"):
        load_denoiser(tmp_path / "y.pt", published="small")
    assert not (tmp_path / "run").exists()


def test_shards_of_accelerate(small: dict[str, Tensor], tmp_path: Path) -> None:
    names = list(small)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: small[key].contiguous() for key in keys}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    denoiser = load_denoiser(tmp_path / "model.safetensors.index.json", published="small")
    assert all(torch.equal(value, small[key]) for key, value in denoiser.network.state_dict().items())
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors: does not exist"):
        load_denoiser(tmp_path / "model.safetensors.index.json", published="small")
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="lists files that are not beside it"):
        load_denoiser(tmp_path / "model.safetensors.index.json", published="small")


# --- pickles of EDM --------------------------------------------------------------------------------------------------

POISON = "raise SystemExit('the code in the pickle was run')"


class Persistent:
    """Pickles a module as EDM's torch_utils.persistence does: with source code, and its state."""

    def __init__(self, module: nn.Module, class_name: str, arguments: dict[str, Any]) -> None:
        self.module, self.class_name, self.arguments = module, class_name, arguments

    def __reduce__(self) -> Any:
        from torch_utils.persistence import _reconstruct_persistent_obj  # type: ignore[import-not-found]

        state = {**vars(self.module), "_init_args": (), "_init_kwargs": self.arguments}
        state["_modules"] = {
            name: part if isinstance(part, nn.ModuleDict) else Persistent(part, type(part).__name__, {})
            for name, part in self.module._modules.items()
        }
        meta = {"type": "class", "version": 6, "module_src": POISON, "class_name": self.class_name, "state": state}
        return (_reconstruct_persistent_obj, (meta,))


def test_a_pickle_of_edm_is_converted_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deepinv = pytest.importorskip("deepinv", reason="needs deepinv")
    from randomwalk.denoisers import edm_pickles

    settings = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 0, "model_channels": 32}
    settings |= {"num_blocks": 1, "attn_resolutions": [16], "channel_mult": [1, 2]}
    torch.manual_seed(0)
    song = deepinv.models.NCSNpp("ddpm", pretrained=None, augment_dim=0, **settings)
    names = {"torch_utils": types.ModuleType("torch_utils")}
    names["torch_utils.persistence"] = types.ModuleType("torch_utils.persistence")

    def run(meta: Any) -> None:
        exec(meta["module_src"])

    run.__module__, run.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    names["torch_utils.persistence"]._reconstruct_persistent_obj = run  # type: ignore[attr-defined]
    around = nn.Module()
    around.sigma_data = 0.5  # type: ignore[assignment]
    around.model = song
    with monkeypatch.context() as patch:
        for name, made in names.items():
            patch.setitem(sys.modules, name, made)
        network = Persistent(song, "SongUNet", {**settings, "embedding_type": "positional"})
        wrapper = Persistent(around, "EDMPrecond", {"img_resolution": 32})

        def reduced() -> Any:
            function, (meta,) = Persistent.__reduce__(wrapper)
            meta["state"]["_modules"] = {"model": network}
            return function, (meta,)

        wrapper.__class__ = type("Wrapper", (Persistent,), {"__reduce__": lambda self: reduced()})
        with (tmp_path / "edm.pkl").open("wb") as file:
            pickle.dump({"ema": wrapper, "loss_fn": None}, file)
    with pytest.raises(InputError, match=r"holds its own source code; .* python -m randomwalk\.denoisers\.edm_pickles"):
        load_denoiser(tmp_path / "edm.pkl")
    section = edm_pickles.convert(tmp_path / "edm.pkl", tmp_path / "edm.safetensors")
    denoiser = load_prior(Weights.model_validate(section), CPU)
    x = 0.5 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():  # EDM's formula, for pixels in [-1, 1] of standard deviation 0.5
        s, d = 0.8, 0.5
        total = s**2 + d**2
        c_noise = torch.full((2,), s).log() / 4
        raw = song.eval().forward_unet(x / total**0.5, c_noise)
        expected = d**2 / total * x + s * d / total**0.5 * raw
        torch.testing.assert_close(denoiser(x, s), expected, rtol=1e-4, atol=1e-4)
    assert denoiser.image_size == 32
    for content, said in (({"G_ema": 1}, "holds no network of EDM"), (b"text", "holds no network of EDM")):
        (tmp_path / "other.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match=said):
            edm_pickles.convert(tmp_path / "other.pkl", tmp_path / "x")
    (tmp_path / "other.pkl").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(InputError, match="cannot be read as a pickle of EDM"):
        edm_pickles.convert(tmp_path / "other.pkl", tmp_path / "x")
