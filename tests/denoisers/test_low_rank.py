"""Low-rank differences: none at the start, the same merged and apart, and refused with other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from any_size_tools import DENOISER, NETWORK, save_photo_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from randomwalk.denoisers import low_rank
from randomwalk.denoisers.checkpoints import load_denoiser, make_denoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.weight_files import read_config, read_difference, read_weights
from randomwalk.errors import InputError, RunError

ALPHA, RANK = 6.0, 3
X = torch.randn((2, 3, 20, 28), generator=torch.Generator().manual_seed(0))
LEVELS = torch.tensor([0.1, 0.7])


def begun(base: Path, alpha: float = ALPHA) -> NetworkDenoiser:
    """The denoiser of the base's weights with factors, as a training starts."""
    torch.manual_seed(0)
    made = make_denoiser(NETWORK, DENOISER)
    made.network.load_state_dict(read_weights(base).tensors)
    low_rank.add_factors(made.network, RANK, alpha)
    return made


def trained(base: Path, alpha: float = ALPHA) -> NetworkDenoiser:
    """The same with factors that are not zero."""
    made = begun(base, alpha)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return made


def saved(path: Path, made: NetworkDenoiser, base: Path, dtype: torch.dtype = torch.float32) -> Path:
    low_rank.save(path, made.network.state_dict(), {"path": str(base), "weights": "ema"}, ALPHA, {"images": 3}, dtype)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_photo_weights(tmp_path / "base.safetensors", 1.0)


def test_at_the_start_the_network_is_the_base_to_the_last_bit(base: Path) -> None:
    assert torch.equal(begun(base)(X, LEVELS), load_denoiser(base)(X, LEVELS))


def test_an_untrained_difference_in_a_file_changes_nothing(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", begun(base), base)
    assert torch.equal(load_denoiser(path)(X, LEVELS), load_denoiser(base)(X, LEVELS))


def test_merged_is_as_apart_to_the_last_bit_in_bf16(base: Path, tmp_path: Path) -> None:
    """The kernels are rounded to bfloat16 after the difference was added."""
    made = trained(base)
    loaded = load_denoiser(saved(tmp_path / "difference.safetensors", made, base))
    made.autocast_dtype = loaded.autocast_dtype = torch.bfloat16
    assert torch.equal(made(X, LEVELS), loaded(X, LEVELS))


@pytest.mark.parametrize("alpha", [ALPHA, 1.0])
def test_merged_is_as_apart(alpha: float, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ALPHA", alpha)
    made = trained(base, alpha)
    loaded = load_denoiser(saved(tmp_path / "difference.safetensors", made, base))
    apart, merged, before = made(X, LEVELS), loaded(X, LEVELS), load_denoiser(base)(X, LEVELS)
    apart, merged = apart.detach(), merged.detach()
    assert float((merged - apart).abs().max()) < 1e-5 * float(apart.abs().max())
    assert float((merged - before).abs().max()) > 0.01 * float(apart.abs().max())
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in load_denoiser(base).parameters())


def test_the_difference_is_alpha_over_r_times_a_sum_of_outer_products(base: Path, tmp_path: Path) -> None:
    """``dW[o, i, y, x] = alpha / r sum_k B[o, k] A[k, (i, y, x)]``, by loops."""
    path = saved(tmp_path / "difference.safetensors", trained(base), base)
    before, after, factors = read_weights(base).tensors, read_weights(path).tensors, load_file(path)
    for name in ("first", "shrink.0", "grow.0", "last"):
        b, a = factors[f"ema.{name}.low_rank_b"], factors[f"ema.{name}.low_rank_a"]
        outer = torch.zeros_like(before[f"{name}.weight"])
        for k in range(RANK):
            outer += torch.einsum("o,iyx->oiyx", b[:, k], a[k].reshape(outer.shape[1:]))
        expected = before[f"{name}.weight"] + ALPHA / RANK * outer
        torch.testing.assert_close(after[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(after[key], before[key]) for key in before if not key.endswith(".weight"))


def test_gradients_of_the_factors_are_those_of_the_kernel(base: Path) -> None:
    """With G = dL/dW: ``dL/dB = alpha / r G A^T`` and ``dL/dA = alpha / r B^T G``; nothing else has a gradient."""
    made, whole = trained(base), load_denoiser(base)
    whole.network.load_state_dict(low_rank.merged(*low_rank.split(made.network.state_dict()), ALPHA))
    whole.requires_grad_(True)
    for each in (made, whole):
        each(X, LEVELS).square().sum().backward()
    kernels = dict(whole.network.named_parameters())
    for name, module in made.network.named_modules():
        if not isinstance(module, low_rank.LowRankConv2d):
            continue
        kernel = kernels[f"{name}.weight"].grad
        assert kernel is not None
        g = kernel.flatten(1) * ALPHA / RANK
        expected = {"low_rank_b": g @ module.low_rank_a.T, "low_rank_a": module.low_rank_b.T @ g}
        for key, value in expected.items():
            found = getattr(module, key).grad
            assert float((found - value).abs().max()) < 1e-4 * float(value.abs().max()), (name, key)
    with_gradient = {name.rpartition(".")[2] for name, p in made.named_parameters() if p.grad is not None}
    assert with_gradient == {"low_rank_a", "low_rank_b"}


def test_the_file_holds_the_factors_alone_and_names_the_base(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", trained(base), base, torch.float16)
    with safe_open(path, "pt") as file:
        assert {name.rpartition(".")[2] for name in file.keys()} == {"low_rank_a", "low_rank_b"}  # noqa: SIM118
        assert file.get_tensor("ema.first.low_rank_a").dtype == torch.float16
    found = read_difference(path)
    assert found is not None and found["training"] == {"images": 3} and found["alpha"] == ALPHA
    assert found["base"]["path"] == str(base)
    assert found["base"]["checksum"] == low_rank.checksum(read_weights(base).tensors)
    assert read_config(path) == read_config(base) and read_difference(base) is None


def test_factors_that_cannot_be_written_are_not(base: Path, tmp_path: Path) -> None:
    made = trained(base)
    made.network.first.low_rank_b.data[0, 0] = 1e6  # type: ignore[union-attr, index]
    with pytest.raises(RunError, match=r"was not written: ema\.first\.low_rank_b has values that are not finite"):
        saved(tmp_path / "difference.safetensors", made, base, torch.float16)
    assert not (tmp_path / "difference.safetensors").exists()


def test_the_checksum_does_not_depend_on_file_and_type() -> None:
    state = {"b": torch.randn(3, 4).half(), "a": torch.tensor([-0.0, 1.5])}
    same = {"a": torch.tensor([0.0, 1.5]), "b": state["b"].float()}
    others: list[dict[str, Tensor]] = [
        {**same, "a": same["a"] + 1e-6}, {"a": same["a"], "c": same["b"]}, {**same, "b": same["b"].reshape(4, 3)}
    ]  # fmt: skip
    assert low_rank.checksum(state) == low_rank.checksum(same)
    assert all(low_rank.checksum(other) != low_rank.checksum(state) for other in others)


def test_the_base_is_looked_for_beside_the_file_first(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", trained(base), base)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "difference.safetensors").write_bytes(path.read_bytes())
    expected = load_denoiser(path)(X, LEVELS)
    assert torch.equal(load_denoiser(moved / "difference.safetensors")(X, LEVELS), expected)  # where it was
    base.rename(moved / base.name)
    assert torch.equal(load_denoiser(moved / "difference.safetensors")(X, LEVELS), expected)  # beside
    with pytest.raises(
        InputError, match=r"difference\.safetensors is a difference to .*base\.safetensors, which is not"
    ):
        load_denoiser(path)


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", trained(base), base)
    save_photo_weights(base, 0.9)
    with pytest.raises(InputError, match=r"is a difference to other weights than those in .*base\.safetensors") as said:
        load_denoiser(path)
    assert "\n" not in str(said.value)


def test_a_difference_to_a_difference_is_refused(base: Path, tmp_path: Path) -> None:
    first = saved(tmp_path / "first.safetensors", trained(base), base)
    second = saved(tmp_path / "second.safetensors", trained(base), first)
    with pytest.raises(InputError, match="which is a difference itself; expected whole weights"):
        load_denoiser(second)


def test_weights_that_were_not_averaged_are_not_there(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", trained(base), base)
    with pytest.raises(InputError, match=r"has no weights called 'raw'; it has: ema"):
        load_denoiser(path, weights="raw")


def test_damaged_factors_are_refused(base: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "difference.safetensors", trained(base), base)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    whole = load_file(path)
    lacking = {key: value for key, value in whole.items() if key != "ema.last.low_rank_a"}
    turned = {**whole, "ema.last.low_rank_b": whole["ema.last.low_rank_b"].T.contiguous()}
    unknown = {**whole, "ema.nothing.low_rank_a": torch.ones(1), "ema.nothing.low_rank_b": torch.ones(1)}
    for tensors, message in (
        (lacking, "last has not both a kernel and two factors"),
        (turned, r"last has factors \[3, 12\] and \[3, 72\] for the kernel \[12, 8, 3, 3\]"),
        (unknown, "nothing has not both a kernel and two factors"),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(InputError, match=rf"difference\.safetensors is damaged: {message}"):
            load_denoiser(path)
    for config in ("{", "{}", '{"base": {"path": "x"}, "alpha": 1}', '{"base": 3, "alpha": 1}', "[]"):
        save_file(whole, path, {**metadata, "config": config})
        with pytest.raises(InputError, match="is damaged: it does not describe the weights"):
            load_denoiser(path)


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(InputError, match="low_rank: the network has no 2-D convolutions"):
        low_rank.add_factors(nn.Linear(3, 3), 2, 2.0)
