"""Pipelines of diffusers as priors: the trajectories of the library's own schedulers; needs that library."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import randomwalk
from randomwalk import InputError, load_denoiser
from randomwalk.config.networks import Weights
from randomwalk.denoisers.checkpoints import load_prior
from randomwalk.denoisers.diffusers_folders import load_diffusers
from randomwalk.denoisers.guidance import guided

os.environ.setdefault("HF_HUB_OFFLINE", "1")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
CPU = torch.device("cpu")


def unet(**settings: Any) -> Any:
    """A small network with random weights, of outputs of the size of its inputs."""
    torch.manual_seed(0)
    made = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8, **settings,
    )  # fmt: skip
    with torch.no_grad():
        made.conv_out.weight.mul_(3)
    return made.eval()


def saved(folder: Path, network: Any, scheduler: Any) -> Path:
    """The folder of a pipeline, as the library writes it, of a network and a scheduler."""
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    kinds = {"unet": network, "scheduler": scheduler}
    index = {"_class_name": "DDPMPipeline", **{key: ["diffusers", type(made).__name__] for key, made in kinds.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


TABLES: list[dict[str, Any]] = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    {"trained_betas": [0.001 * 1.004**k for k in range(1000)]},
]


def misses(folder: Path, network: nn.Module, scheduler: Any, draws: bool) -> float:
    """Largest difference at any step between a scheduler's states and ours, in units of the state, in float64.

    The library's state is ``z = sqrt(alpha_bar) x``. Ours is moved by DDIM's step, or DDPM's with the same draws.
    """
    denoiser, network = load_denoiser(folder).double(), network.double()
    table = denoiser.times.table  # type: ignore[attr-defined]
    times = [int(t) for t in scheduler.timesteps if int(t) < len(table)]
    stride = 1000 // scheduler.num_inference_steps
    normal = torch.randn((len(times) + 1, 2, 1, 8, 8), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = normal[-1]
    x = z * (1 + table[times[0]] ** 2).sqrt()
    worst = 0.0
    for k, t in enumerate(times):
        sigma, before = float(table[t]), t - stride
        below = float(table[before]) if before >= 0 else 0.0
        with torch.no_grad():
            denoised = denoiser(x, sigma)
            output = network(z, t).sample
        if draws:
            share = (below / sigma) ** 2  # of the state; DDPM's posterior variance is sigma'^2 (1 - share)
            x = denoised + share * (x - denoised) + below * (1 - share) ** 0.5 * normal[k]
            z = scheduler.step(output, t, z, generator=Fixed(normal[k])).prev_sample
        else:
            x = denoised + below / sigma * (x - denoised)
            z = scheduler.step(output, t, z).prev_sample
        worst = max(worst, float((x * (1 + below**2) ** -0.5 - z).abs().max() / (1 + z.abs().max())))
    return worst


class Fixed:
    """Stands for a generator: the draws of the library are ours."""

    def __init__(self, draw: Tensor) -> None:
        self.draw = draw


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("table", TABLES, ids=lambda t: "-".join(map(str, list(t)[:2])) + str(t.get("beta_schedule")))
def test_ddim_is_the_librarys(table: dict[str, Any], prediction: str, tmp_path: Path) -> None:
    network = unet()
    scheduler = diffusers.DDIMScheduler(**table, prediction_type=prediction, clip_sample=False)
    folder = saved(tmp_path / "pipeline", network, scheduler)
    scheduler.set_timesteps(20)
    assert misses(folder, network, scheduler, False) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("table", TABLES[:3], ids=lambda t: str(t["beta_schedule"]))
def test_ddpm_is_the_librarys(
    table: dict[str, Any], prediction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the small variance, the draws being the same."""
    from diffusers.schedulers import scheduling_ddpm

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, generator, **_: generator.draw)
    network = unet()
    scheduler = diffusers.DDPMScheduler(**table, prediction_type=prediction, clip_sample=False)
    folder = saved(tmp_path / "pipeline", network, scheduler)
    scheduler.set_timesteps(20)
    assert misses(folder, network, scheduler, True) < 1e-5


def test_another_table_or_prediction_is_seen(tmp_path: Path) -> None:
    network = unet()
    folder = saved(tmp_path / "pipeline", network, diffusers.DDIMScheduler(clip_sample=False))
    for other in ({"beta_schedule": "scaled_linear"}, {"prediction_type": "v_prediction"}):
        scheduler = diffusers.DDIMScheduler(clip_sample=False, **other)
        scheduler.set_timesteps(20)
        assert misses(folder, network.float(), scheduler, False) > 1e-3


@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPC"])
def test_other_schedulers_of_the_same_networks(kind: str, tmp_path: Path) -> None:
    """Their samplers differ, what they say of the network does not."""
    made = getattr(diffusers, "UniPCMultistepScheduler" if kind == "UniPC" else kind)
    table = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    first = load_diffusers(saved(tmp_path / "a", unet(), made(**table, prediction_type="v_prediction")))
    ddim = diffusers.DDIMScheduler(**table, prediction_type="v_prediction")
    second = load_diffusers(saved(tmp_path / "b", unet(), ddim))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(first(x, 1.0), second(x, 1.0))


def test_score_sde_ve(tmp_path: Path) -> None:
    """As its pipeline calls it: pixels in [0, 1], told sigma; the score is of those."""
    network = unet(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    denoiser = load_diffusers(saved(tmp_path / "pipeline", network, scheduler))
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((0.02, 100.0))
    u, sigma = torch.rand(2, 1, 8, 8), 0.7
    with torch.no_grad():
        score = network(u, torch.full((2,), sigma)).sample
        scheduler.set_timesteps(10)
        scheduler.set_sigmas(10)
        torch.testing.assert_close(denoiser.score(2 * u - 1, 2 * sigma), score / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(denoiser(2 * u - 1, 2 * sigma), 2 * (u + sigma**2 * score) - 1, rtol=1e-4, atol=1e-4)


def test_karras_ve(tmp_path: Path) -> None:
    """As its pipeline calls it: ``D = x + sigma (sigma / 2) model((x + 1) / 2, sigma / 2)``."""
    network = unet(time_embedding_type="fourier")
    folder = saved(tmp_path / "pipeline", network, diffusers.ScoreSdeVeScheduler())
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", "KarrasVeScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = {"_class_name": "KarrasVeScheduler", "sigma_min": 0.02, "sigma_max": 100}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    denoiser = load_diffusers(folder)
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((0.02, 100.0))
    x, sigma = torch.randn(2, 1, 8, 8), 1.3
    with torch.no_grad():
        output = sigma / 2 * network((x + 1) / 2, torch.full((2,), sigma / 2)).sample
        torch.testing.assert_close(denoiser(x, sigma), x + sigma * output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm(kind: str, prediction: str, tmp_path: Path) -> None:
    network = unet()
    scheduler = getattr(diffusers, kind)(sigma_data=0.8, sigma_min=0.01, sigma_max=20.0, prediction_type=prediction)
    denoiser = load_diffusers(saved(tmp_path / "pipeline", network, scheduler))
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((0.01, 20.0))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.3)
    with torch.no_grad():
        output = network(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
        expected = scheduler.precondition_outputs(x, output, sigma)
        torch.testing.assert_close(denoiser(x, 1.3), expected, rtol=1e-4, atol=1e-4)


def test_flow_matching(tmp_path: Path) -> None:
    """Velocity along the straight path, told ``1000 t``; its even times are shifted as the library's."""
    network = unet()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    denoiser = load_diffusers(saved(tmp_path / "pipeline", network, scheduler))
    x, t = torch.randn(2, 1, 8, 8), 0.6
    with torch.no_grad():
        velocity = network((1 - t) * x, torch.tensor(1000 * t)).sample
        torch.testing.assert_close(denoiser(x, t / (1 - t)), (1 - t) * x - t * velocity, rtol=1e-4, atol=1e-4)
    even = torch.linspace(0.999 / (3 - 2 * 0.999), 0.001 / (3 - 2 * 0.001), 5, dtype=torch.float64)
    shifted = 3 * even / (1 + 2 * even)
    torch.testing.assert_close(denoiser.own_levels(torch.linspace(0, 1, 5).double()), shifted / (1 - shifted))
    scheduler.set_timesteps(sigmas=even.tolist())
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), shifted, rtol=1e-5, atol=1e-6)


def test_classes(tmp_path: Path) -> None:
    network = unet(num_class_embeds=4)
    folder = saved(tmp_path / "pipeline", network, diffusers.DDIMScheduler())
    denoiser = load_denoiser(folder, null_label=3)
    assert denoiser.num_classes == 4
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    sigma = float(denoiser.times.table[500])  # type: ignore[attr-defined]
    with torch.no_grad():
        noise = network(x / (1 + sigma**2) ** 0.5, torch.tensor(500), labels).sample
        found = guided(denoiser, [2, 0])(x, sigma)
        torch.testing.assert_close(found, x - sigma * noise, rtol=1e-4, atol=1e-4 * sigma)
        assert not torch.allclose(guided(denoiser, [2, 0], 3.0)(x, sigma), found)
    assert denoiser.channels == 1 and denoiser.image_size == 8


def test_times_that_are_looked_up(tmp_path: Path) -> None:
    network = unet(time_embedding_type="learned", num_train_timesteps=1000)
    denoiser = load_denoiser(saved(tmp_path / "pipeline", network, diffusers.DDIMScheduler()))
    table = denoiser.times.table  # type: ignore[attr-defined]
    x, sigma = torch.randn(2, 1, 8, 8), float(0.7 * table[300] + 0.3 * table[301])
    with torch.no_grad():
        noise = network(x / (1 + sigma**2) ** 0.5, torch.tensor(300)).sample
        torch.testing.assert_close(denoiser(x, sigma), x - sigma * noise, rtol=1e-4, atol=1e-4)


def test_a_model_alone_takes_the_denoiser_of_the_config(tmp_path: Path) -> None:
    network = unet()
    network.save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match=r"has no scheduler, .* or network\.denoiser"):
        load_denoiser(tmp_path / "unet")
    section = {"name": "diffusers", "path": str(tmp_path / "unet"), "denoiser": {"name": "vp", "table": "cosine"}}
    given = load_prior(Weights.model_validate(section), CPU)
    whole = load_denoiser(
        saved(tmp_path / "whole", network, diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    )
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(given(x, 0.5), whole(x, 0.5), rtol=1e-3, atol=1e-3)


def test_pickles_are_read_only_if_told(tmp_path: Path) -> None:
    network = unet()
    folder = saved(tmp_path / "pipeline", network, diffusers.DDIMScheduler())
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"weights are a pickle .* network\.pickles: true"):
        load_denoiser(folder)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert load_denoiser(folder, pickles=True)(x, 1.0).shape == x.shape


def test_others_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pipeline", unet(), diffusers.DDIMScheduler())
    index = json.loads((folder / "model_index.json").read_text())
    for change, said in (
        ({"vae": ["diffusers", "AutoencoderKL"]}, "it works on latents of AutoencoderKL"),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel is conditioned on a text"),
        ({"scheduler": ["diffusers", "VQDiffusionScheduler"]}, "has no noise table that is known here"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index | change))
        if "scheduler" in change:
            (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "VQDiffusionScheduler"}')
        with pytest.raises(InputError, match=said):
            load_denoiser(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(InputError, match=r"model_index\.json cannot be read"):
        load_denoiser(folder)
    with pytest.raises(InputError, match="neither an existing folder nor the id of a repository"):
        load_diffusers("nowhere/at/all")
    with pytest.raises(InputError, match=r"cannot be read by diffusers .*a repository is downloaded once, online"):
        load_diffusers("google/ddpm-cat-256")


def moved(folder: Path) -> Path:
    """The folder as that of the first pipelines: all files in one place."""
    for name in ("unet", "scheduler"):
        for file in (folder / name).iterdir():
            file.rename(folder / file.name)
        (folder / name).rmdir()
    return folder


def test_a_folder_without_folders_is_alike(tmp_path: Path) -> None:
    table = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    one, other = (saved(tmp_path / name, unet(), diffusers.DDIMScheduler(**table)) for name in "ab")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_denoiser(moved(one))(x, 1.0), load_denoiser(other)(x, 1.0))


@pytest.mark.parametrize("flat", [False, True])
def test_a_repository_in_the_cache_of_the_library(flat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its download leaves it there."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    table = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    folder = saved(repository / "snapshots" / ("a" * 40), unet(), diffusers.DDIMScheduler(**table))
    expected = load_denoiser(folder)
    if flat:
        moved(folder)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_diffusers("someone/small")(x, 1.0), expected(x, 1.0))


def test_weights_in_half_precision(tmp_path: Path) -> None:
    network = unet()
    folder = saved(tmp_path / "pipeline", network, diffusers.DDIMScheduler())
    network.half().save_pretrained(folder / "unet", variant="fp16")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        whole = load_denoiser(folder)(x, 1.0)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        half = load_denoiser(folder)(x, 1.0)
    assert half.dtype == torch.float32 and 0 < (half - whole).abs().max() < 0.01


def changed(folder: Path, name: str, **settings: Any) -> Path:
    file = folder / name / ("config.json" if name == "unet" else "scheduler_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_damaged_ones_are_one_message(tmp_path: Path) -> None:
    def fresh(scheduler: Any = None, **settings: Any) -> Path:
        fresh.count += 1  # type: ignore[attr-defined]
        folder = tmp_path / str(fresh.count)  # type: ignore[attr-defined]
        return saved(folder, unet(**settings), scheduler or diffusers.DDIMScheduler())

    fresh.count = 0  # type: ignore[attr-defined]
    short, broken, bare, bald = fresh(), fresh(), fresh(), fresh()
    weights = short / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    network = unet()
    nn.init.constant_(network.conv_out.weight, torch.nan)
    network.half().save_pretrained(broken / "unet")
    (bare / "model_index.json").unlink()
    (bald / "scheduler" / "scheduler_config.json").unlink()
    flow, edm = diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.EDMEulerScheduler()
    for folder, said in (
        (short, r"diffusion_pytorch_model\.safetensors is .*incomplete"),
        (broken, r"weights conv_out\.weight have values that are not finite"),
        (bare, r"is a folder; .* also has a model_index\.json, which is missing"),
        (bald, r"scheduler_config\.json cannot be read \(No such file or directory\)"),
        (
            changed(fresh(), "scheduler", prediction_type="noise"),
            "prediction_type 'noise' is not known; one of",
        ),
        (changed(fresh(), "scheduler", beta_schedule="odd"), r"its settings cannot be read by diffusers \(odd is not"),
        (changed(fresh(flow), "scheduler", shift="high"), "shift is 'high'; expected a positive number"),
        (changed(fresh(edm), "scheduler", sigma_max=-3), "sigma_max is -3; expected a positive number"),
        (changed(fresh(), "unet", block_out_channels=[16, 32]), r"size mismatch for .* shape torch\.Size"),
        (fresh(class_embed_type="timestep"), "is conditioned on numbers instead of classes"),
    ):
        with pytest.raises(InputError, match=said):
            load_denoiser(folder)
    with pytest.raises(InputError, match="null_label is 9, but the network has 4 classes, from 0 to 3"):
        load_denoiser(fresh(num_class_embeds=4), null_label=9)
    with pytest.raises(InputError, match="null_label is 0, but the network has no classes"):
        load_denoiser(fresh(), null_label=0)
    with pytest.raises(InputError, match="the network is class-conditional"):
        load_denoiser(fresh(num_class_embeds=4))(torch.zeros(1, 1, 8, 8), 1.0)


def test_it_is_one_section_of_yaml(tmp_path: Path) -> None:
    """Sampled by the command, and resumable: the weights of a folder have a digest."""
    from randomwalk.cli.main import main

    folder = saved(tmp_path / "pipeline", unet(), diffusers.DDPMScheduler())
    text = f"""
output: {tmp_path / "run"}
num_images: 2
network: {{name: diffusers, path: {folder}}}
sampler: {{name: ddim, schedule: {{name: pretrained, num_steps: 5}}}}
device: cpu
"""
    (tmp_path / "sample.yaml").write_text(text)
    assert main(["sample", "--config", str(tmp_path / "sample.yaml")]) == 0
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]["weights_sha256"]) == 64


def test_the_library_is_not_imported_by_the_program() -> None:
    import subprocess
    import sys

    code = "import randomwalk.denoisers.checkpoints, sys; assert not {'diffusers', 'deepinv'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(randomwalk.__file__).parents[1])
