"""Training checkpoints of others: the averaged weights are taken in every layout, or the file is refused by its keys.

The layouts are those that public training codes write. Where the class that writes one is installed, it writes it here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.networks import build_network
from randomwalk.denoisers.state_dicts import looks_averaged
from randomwalk.denoisers.weight_files import read_weights
from randomwalk.errors import InputError
from randomwalk.training.trainer import initial_state

UNET = {"name": "unet", "image_size": 8, "in_channels": 1, "model_channels": 8, "out_channels": 1, "norm_groups": 2}
UNET |= {"num_res_blocks": 1, "attention_resolutions": [2], "channel_mult": [1, 2]}
VP = {"name": "vp", "table": "linear"}
NCSNPP = {"name": "ncsnpp", "image_size": 8, "num_channels": 1, "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1}
NCSNPP |= {"attn_resolutions": []}


class Case:
    """A network with its raw and its averaged weights, and an optimizer with a state."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.net = build_network(settings)
        loss = sum(p.square().sum() for p in self.net.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        self.opt = optimizer.state_dict()
        self.averaged_net = copy.deepcopy(self.net)
        with torch.no_grad():
            for parameter in self.averaged_net.parameters():
                if parameter.requires_grad:
                    parameter.add_(1.0)
        self.raw, self.ema = dict(self.net.state_dict()), dict(self.averaged_net.state_dict())
        self.shadow = [p.detach() for p in self.averaged_net.parameters() if p.requires_grad]

    def swa(self) -> dict[str, Tensor]:
        averaged = AveragedModel(self.net)
        averaged.update_parameters(self.averaged_net)
        return dict(averaged.state_dict())

    def ema_pytorch(self, inner: str = "") -> dict[str, Tensor]:
        """The state dict of lucidrains' EMA."""
        counters = {"initted": torch.tensor(True), "step": torch.tensor(10)}
        return counters | under(f"online_model.{inner}", self.raw) | under(f"ema_model.{inner}", self.ema)

    def lit_ema(self, inner: str) -> dict[str, Tensor]:
        """Buffers of latent diffusion's LitEma, whose names have no dots."""
        names = [name for name, parameter in self.net.named_parameters() if parameter.requires_grad]
        buffers = {f"{inner}{name}".replace(".", ""): self.ema[name] for name in names}
        return {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(5)} | buffers


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def lightning(c: Case) -> dict[str, Any]:
    return {"epoch": 3, "optimizer_states": [c.opt], "callbacks": {}, "hyper_parameters": {"ema": {"decay": 0.99}}}


LAYOUTS: dict[str, Callable[[Case], Any]] = {
    "ema": lambda c: {"model": c.raw, "ema": c.ema, "optimizer": c.opt, "step": 3},
    "model_ema": lambda c: {"model": c.raw, "model_ema": c.ema, "opt": c.opt},  # k-diffusion
    "ema_model": lambda c: {"model": c.raw, "ema_model": c.ema},
    "net_model": lambda c: {"net_model": c.raw, "ema_model": c.ema, "sched": {}, "optim": c.opt, "step": 2},
    "state_dict_ema": lambda c: {"state_dict": c.raw, "state_dict_ema": c.ema, "arch": "unet", "optimizer": c.opt},
    "ema_state_dict": lambda c: {"model_state_dict": c.raw, "ema_state_dict": c.ema, "optimizer_state_dict": c.opt},
    "model_ema_state_dict": lambda c: {"model_state_dict": c.raw, "model_ema_state_dict": c.ema},
    "G_ema": lambda c: {"G": c.raw, "D": {"0.weight": torch.ones(2, 2)}, "G_ema": c.ema},
    "params_ema": lambda c: {"params": c.raw, "params_ema": c.ema},
    "EDM-like": lambda c: {"net": c.raw, "ema": c.ema, "optimizer_state": c.opt, "augment_pipe": None},
    "ema first": lambda c: {"ema": c.ema, "model": c.raw},
    "only ema": lambda c: {"ema": c.ema},
    "bare": lambda c: c.ema,  # guided-diffusion's ema_0.9999_100000.pt
    "bare model": lambda c: {"model_state_dict": c.ema, "optimizer_state_dict": c.opt},
    "shadow_params": lambda c: {"model": under("module.", c.raw), "step": 3, "optimizer": c.opt,
        "ema": {"decay": 0.99, "num_updates": 3, "shadow_params": c.shadow, "collected_params": list(c.raw.values())}},
    "shadow_params at the top": lambda c: {"model": c.raw, "shadow_params": c.shadow},
    "only shadow_params": lambda c: {"decay": 0.99, "optimization_step": 9, "shadow_params": c.shadow},  # diffusers
    "shadow, named": lambda c: {"model": c.raw, "shadow": {n: v for n, v in c.ema.items() if n != "sigmas"}},
    "tuple of averages": lambda c: {"model": c.raw, "optimizer_states": [
        {"opt": c.opt, "ema": tuple(c.shadow), "current_step": 3}]},
    "AveragedModel": lambda c: {"model": c.raw, "ema": c.swa()},
    "AveragedModel of any name": lambda c: {"model": c.raw, "second": c.swa()},
    "AveragedModel alone": lambda c: c.swa(),
    "ema-pytorch": lambda c: {"step": 9, "model": under("model.", c.raw), "opt": c.opt, "ema": c.ema_pytorch("model."),
        "scaler": None, "version": "2.0"},
    "ema-pytorch alone": lambda c: c.ema_pytorch(),
    "Lightning, EMA beside": lambda c: {**lightning(c), "state_dict": {
        **under("model.", c.raw), **under("ema_model.module.", c.ema), "ema_model.n_averaged": torch.tensor(4)}},
    "Lightning, ema-pytorch": lambda c: {**lightning(c), "state_dict": {
        **under("unet.", c.raw), **under("ema.", c.ema_pytorch())}},
    "Lightning, callback of names": lambda c: {**lightning(c), "state_dict": under("net.", c.raw),
        "callbacks": {"EMA{'decay': 0.9}": {"cur_step": 7, "ema_weights": under("net.", c.ema)}}},
    "Lightning, callback of a list": lambda c: {**lightning(c),
        "state_dict": {**under("net.", c.raw), "loss.weight": torch.ones(3)},
        "callbacks": {"EMA": {"cur_step": 7, "ema_weights": [*c.ema.values(), torch.ones(3)]}}},
    "Lightning, WeightAveraging": lambda c: {**lightning(c), "state_dict": under("model.", c.ema),
        "current_model_state": under("model.", c.raw), "averaging_state": {"n_averaged": torch.tensor(3)}},
    "latent diffusion": lambda c: {**lightning(c), "state_dict": {"betas": torch.ones(9),
        **under("model.diffusion_model.", c.raw), **under("model_ema.", c.lit_ema("diffusion_model."))}},
    "MMEngine": lambda c: {"meta": {}, "message_hub": {}, "state_dict": c.ema,
        "ema_state_dict": {"steps": torch.tensor(4), **under("module.", c.raw)}},
    "MMCV": lambda c: {"meta": {}, "state_dict": {
        **c.raw, **{f"ema_{name.replace('.', '_')}": value for name, value in c.ema.items()}}},
    "list": lambda c: [{"model": c.raw, "ema": c.ema}],
    "tuple": lambda c: (c.ema, c.opt),
    "deep": lambda c: {"trainer": {"state": {"networks": [{"raw": c.raw, "averaged": c.ema}]}}},
}  # fmt: skip
PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "unet.", "network.", "diffusion_model.", "denoise_fn."]
PREFIXES += ["model.diffusion_model.", "module._orig_mod.", "_orig_mod.module.model.", "any_name_at_all."]
CASES = {"unet": Case(UNET), "ncsnpp": Case(NCSNPP)}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def chosen(path: Path, case: Case, weights: str = "ema") -> dict[str, Tensor]:
    return read_weights(path, weights).state_for(case.net)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def complaint(path: Path, case: Case, weights: str = "ema") -> str:
    with pytest.raises(InputError) as caught:
        chosen(path, case, weights)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("network", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_averages_are_taken(layout: str, network: str, tmp_path: Path) -> None:
    case = CASES[network]
    path = saved(tmp_path / "theirs.pt", LAYOUTS[layout](case))
    found = chosen(path, case)
    if "only shadow_params" in layout and network == "ncsnpp":
        found = {**case.raw, **found}  # a list of parameters has no buffers
    assert same(found, case.ema) and not same(case.raw, case.ema)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    """Of the only set, of both in their dictionaries, and of both side by side; in torch's files and in safetensors."""
    case = CASES["unet"]
    raw, ema = under(prefix, case.raw), under(prefix, case.ema)
    beside = {**raw, **under("ema_model.", ema)}
    for i, content in enumerate([ema, {"state_dict": ema}, {"model": raw, "ema": ema}, beside]):
        assert same(chosen(saved(tmp_path / f"{i}.pt", content), case), case.ema)
    save_file({name: value.contiguous() for name, value in beside.items()}, tmp_path / "x.safetensors")
    assert same(chosen(tmp_path / "x.safetensors", case), case.ema)
    assert same(chosen(tmp_path / "3.pt", case, "raw"), case.raw)


def test_names_of_wrappers_are_those_that_torch_gives() -> None:
    net = CASES["unet"].net
    assert all(key.startswith("module.") for key in nn.DataParallel(net).state_dict())
    assert all(key.startswith("_orig_mod.") for key in torch.compile(net).state_dict())


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "only" not in name and "bare" not in name])
def test_the_raw_weights_on_request(layout: str, tmp_path: Path) -> None:
    case = CASES["unet"]
    path = saved(tmp_path / "theirs.pt", LAYOUTS[layout](case))
    if layout == "AveragedModel alone":
        assert "no weights of the network without averaging; it has: module" in complaint(path, case, "raw")
    else:
        assert same(chosen(path, case, "raw"), case.ema if layout == "tuple" else case.raw)


def test_both_readers_take_them(tmp_path: Path) -> None:
    """The sampling's and the training's, which says its own setting."""
    case = CASES["unet"]
    path = saved(tmp_path / "theirs.ckpt", LAYOUTS["Lightning, EMA beside"](case))
    assert same(dict(load_denoiser(path, network=UNET, denoiser=VP).network.state_dict()), case.ema)
    assert same(initial_state(str(path), case.net), case.ema)
    assert same(initial_state(str(path), case.net, "state_dict.model"), case.raw)
    two = saved(tmp_path / "two.pt", [case.raw, case.ema])
    with pytest.raises(InputError, match="initial_set: 0"):
        initial_state(str(two), case.net)


@pytest.mark.parametrize(
    ("content", "parts", "choice"),
    [
        (lambda c: {"model": c.raw, "ema_0.99": c.raw, "ema_0.999": c.ema}, ["ema_0.99, ema_0.999"], "ema_0.999"),
        (lambda c: {"model": c.raw, "ema_params": [list(c.raw.values()), c.shadow]},
         ["ema_params.0, ema_params.1"], "ema_params.1"),
        (lambda c: {"model": c.raw, "best_model": c.ema}, ["model, best_model", "none of which"], "best_model"),
        (lambda c: {"nets": [c.raw, c.ema]}, ["nets.0, nets.1", "none of which"], "nets.1"),
        (lambda c: {"state_dict": {**under("a.", c.raw), **under("b.c.", c.ema)}},
         ["state_dict.a, state_dict.b.c"], "state_dict.b"),
    ],
)  # fmt: skip
def test_sets_that_cannot_be_told_apart(content: Any, parts: list[str], choice: str, tmp_path: Path) -> None:
    case = CASES["unet"]
    path = saved(tmp_path / "theirs.pt", content(case))
    message = complaint(path, case)
    for part in [*parts, "has several sets of", "network.weights: "]:
        assert part in message, message
    assert same(chosen(path, case, choice), case.ema)
    assert "expected ema, raw, or one of its sets" in complaint(path, case, "ema_2")


def test_copies_of_one_set_are_no_choice(tmp_path: Path) -> None:
    case = CASES["unet"]
    copies = {name: value.clone() for name, value in case.ema.items()}
    assert same(chosen(saved(tmp_path / "x.pt", {"model": case.ema, "state_dict": copies}), case), case.ema)


FIRST = "time_embed.0.weight"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (lambda c: {"model": c.raw, "ema": {n: v for n, v in c.ema.items() if n != FIRST}},
         ["averaged weights (ema) lack 1 of", FIRST]),
        (lambda c: {"model": c.raw, "ema": {"shadow_params": c.shadow[:-1]}}, ["ema.shadow_params has", "tensors"]),
        (lambda c: {"model": c.raw, "ema": {"decay": 0.9}}, ["called averaged", "(ema)"]),
        (lambda c: {"model": c.raw, "ema": under("other_", c.ema)}, ["called averaged", f"ema.other_{FIRST}"]),
        (lambda c: {"model": c.raw, "ema": {f"x{i}": v for i, v in enumerate(c.shadow)}}, ["averaged", "ema.x0"]),
        (lambda c: {"model": c.raw, "swa": {"n_averaged": torch.tensor(0), **under("module.", c.ema)}},
         ["had not begun (swa.n_averaged is 0)"]),
        (lambda c: {"model": c.raw, "ema": {**c.ema_pytorch(), "initted": torch.tensor(False)}}, ["had not begun"]),
    ],
)  # fmt: skip
def test_averages_that_cannot_be_used_are_refused(content: Any, parts: list[str], tmp_path: Path) -> None:
    """They are never filled up with raw weights, nor are those taken in their place, except on request."""
    case = CASES["unet"]
    path = saved(tmp_path / "theirs.pt", content(case))
    message = complaint(path, case)
    for part in [*parts, "network.weights: raw"]:
        assert part in message, message
    with pytest.raises(InputError):
        load_denoiser(path, network=UNET, denoiser=VP)
    assert same(chosen(path, case, "raw"), case.raw)


def test_a_list_follows_the_order_of_the_training(tmp_path: Path) -> None:
    """Tensors of one shape in another order than here: the named weights beside them tell it."""
    case = CASES["unet"]
    names = list(case.raw)[::-1]
    content = {"model": {name: case.raw[name] for name in names}, "shadow_params": [case.ema[name] for name in names]}
    assert same(chosen(saved(tmp_path / "x.pt", content), case), case.ema)


@pytest.mark.parametrize(
    ("name", "beside"),
    [("model000100.pt", "ema_0.9999_000100.pt"), ("unet/x.pt", "unet_ema/x.pt"), ("unet/x.pt", "ema_unet/x.pt")],
)
def test_averages_in_a_file_beside(name: str, beside: str, tmp_path: Path) -> None:
    case = CASES["unet"]
    for file in (name, beside):
        (tmp_path / file).parent.mkdir(exist_ok=True)
    path = saved(tmp_path / name, case.raw)
    assert same(chosen(path, case), case.raw)
    saved(tmp_path / beside, case.ema)
    assert str(tmp_path / beside) in complaint(path, case)
    assert same(chosen(path, case, "raw"), case.raw)


def test_content_that_contains_itself(tmp_path: Path) -> None:
    case = CASES["unet"]
    content: dict[str, Any] = {"model": case.ema}
    content["again"] = [content]
    for _ in range(12):
        content = {f"{i}": content for i in range(10)}  # a trillion paths
    assert same(chosen(saved(tmp_path / "x.pt", content), case), case.ema)


@pytest.mark.parametrize(
    "word", ["ema", "state_dict_ema", "G_ema", "EMACallback", "netEMA", "AveragedModel", "swa_state"]
)
def test_words_of_averages(word: str) -> None:
    assert looks_averaged(word) and looks_averaged(f"x.{word}.y")


@pytest.mark.parametrize("word", ["model", "schema", "demand", "avgpool", "exp_avg", "remaining", "ema.online_model"])
def test_other_words(word: str) -> None:
    assert not looks_averaged(word)
