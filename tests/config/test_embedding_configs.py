"""The configs of score embedding: the published settings are those of the paper's tables, the normal ones match."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from randomwalk.config.files import load_training
from randomwalk.config.score_embedding import DDPMMethod, EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.studies.score_embedding.report_data import alpha_bar_end
from randomwalk.training.optimizer import learning_rate

CONFIGS = Path(__file__).parents[2] / "configs" / "score_embedding"
# images, size, batch, base, levels, epochs, learning rate, clip, time scale, time embedding, share of the truth
EMBEDDED = {
    "one_32": (1, 32, 20, 5.0, 20, 300, 8e-5, None, 1.0, "linear", None),
    "three_32": (3, 32, 10, 2.0, 10, 300, 1e-4, None, 2.0, "linear", None),
    "three_32_conditional": (3, 32, 10, 2.0, 10, 300, 1e-4, None, 1.0, "fourier", 0.6),
    "one_64": (1, 64, 10, 2.0, 10, 750, 1e-4, None, 1.0, "linear", None),
    "three_64": (3, 64, 10, 2.0, 10, 750, 1e-4, 1.0, 4.0, "linear", None),
    "three_64_conditional": (3, 64, 10, 2.0, 10, 750, 1e-4, 1.0, 1000.0, "fourier", 0.65),
}
# alpha_bar at the end and its digits, steps, peak of the learning rate, clip, share of the truth
PUBLISHED = {
    "one_32_ddpm": (4e-5, 5, 1200, 4.8e-5, 1.0, None),
    "one_32_ddim": (0.017, 3, 1500, 6.0e-5, 1.0, None),
    "three_32_ddpm": (0.105, 3, 1500, 3.0e-5, 1.0, 0.3),
    "three_32_ddim": (0.47, 2, 1200, 1e-4, 0.2, 0.3),
    "one_64_ddpm": (0.35, 2, 1750, 2e-4, 1.0, None),
    "one_64_ddim": (0.017, 3, 750, 1e-4, 1.0, None),
    "three_64_ddpm": (0.017, 3, 2500, 1e-5, 0.3, 0.3),
}
NORMAL = {f"{like}_{sampler}_normal": like for like in ("one_32", "three_32", "one_64") for sampler in ("ddpm", "ddim")}
SMALL = ["one_32_small", "three_32_small", "one_64_small", "one_32_ddpm_small", "one_32_ddim_small"]


def load(name: str) -> ScoreEmbeddingConfig:
    config = load_training(CONFIGS / f"{name}.yaml")
    assert isinstance(config, ScoreEmbeddingConfig)
    return config


def test_these_are_all_of_them() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*EMBEDDED, *PUBLISHED, *NORMAL, *SMALL}


@pytest.mark.parametrize("name", [*EMBEDDED, *PUBLISHED, *NORMAL, *SMALL])
def test_each_says_what_it_trains_and_how_long_it_takes(name: str) -> None:
    config, text = load(name), (CONFIGS / f"{name}.yaml").read_text()
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert f"python train.py --config configs/score_embedding/{name}.yaml" in header
    assert config.output == f"results/score_embedding/{name}"
    said = "Measured" if name in SMALL else f"an estimate: {config.num_steps} steps"
    assert said in header and any(unit in header for unit in (" seconds", " minutes", " hours"))
    told = config.sampling.start == "truth"
    assert told == ("of the true image" in header)


@pytest.mark.parametrize("name", EMBEDDED)
def test_published_settings_of_score_embedding(name: str) -> None:
    config = load(name)
    method, network, optimizer = config.method, config.network, config.optimizer
    assert isinstance(method, EmbeddingMethod)
    share = config.sampling.truth_weight if config.sampling.start == "truth" else None
    n = config.data.num_images
    found = (n, config.data.image_size, config.batch_size, method.base, method.num_levels, config.num_steps / n,
             optimizer.learning_rate, optimizer.gradient_clip, method.time_scale, network.embedding, share)  # fmt: skip
    assert found == EMBEDDED[name]
    assert network.resamp_with_conv == (config.data.image_size == 32)
    assert network.max_positions == (1000 if name == "three_32_conditional" else 10_000)
    assert config.ema is None and optimizer.warmup_images == 0 and method.batches == "by_image"


@pytest.mark.parametrize("name", [*EMBEDDED, *PUBLISHED, *NORMAL])
def test_the_network_is_the_published_one(name: str) -> None:
    network = load(name).network
    assert (network.nf, network.ch_mult, network.num_res_blocks, network.attn_resolutions, network.dropout) == (
        128, [1, 2, 2, 2], 2, [16], 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_of_the_baselines(name: str) -> None:
    config = load(name)
    method, optimizer = config.method, config.optimizer
    end, digits, steps, peak, clip, share = PUBLISHED[name]
    assert isinstance(method, DDPMMethod) and method.sampler == name.rsplit("_", 1)[1]
    assert round(alpha_bar_end(method.beta_min, method.beta_max, method.num_timesteps), digits) == end
    assert (config.num_steps, config.batch_size, optimizer.gradient_clip) == (steps, 20, clip)
    rates = [learning_rate(optimizer, 20 * step, 20, step / steps) for step in range(steps)]
    assert max(rates) == pytest.approx(peak, rel=1e-9)
    assert (config.sampling.truth_weight if config.sampling.start == "truth" else None) == share
    assert config.sampling.minmax and config.ema is not None
    # An average with decay d forgets half of a value in ln 2 / -ln d steps, of 20 images each.
    assert config.ema.half_life_images == pytest.approx(20 * math.log(2) / -math.log(0.9999), rel=1e-5)
    # (1 + n) / (10 + n) at step n is a half-life of ln 2 / 9 of the steps so far, to first order in 1 / n.
    assert config.ema.warmup_ratio == pytest.approx(math.log(2) / 9, abs=5e-4)


@pytest.mark.parametrize("name", NORMAL)
def test_normal_baselines_match_what_they_are_compared_with(name: str) -> None:
    config, other = load(name), load(NORMAL[name])
    assert isinstance(config.method, DDPMMethod) and config.method.sampler == name.split("_")[2]
    assert (config.method.beta_min, config.method.beta_max, config.method.num_timesteps) == (1e-4, 0.02, 1000)
    assert (config.batch_size, config.num_steps, config.data) == (other.batch_size, other.num_steps, other.data)
    assert config.network.num_classes == other.network.num_classes
    assert config.optimizer.warmup_images <= 20 * config.batch_size and config.ema is None
    assert config.sampling.start == "normal" and not config.sampling.minmax


@pytest.mark.parametrize("name", SMALL)
def test_small_variants_change_the_network_and_the_steps(name: str) -> None:
    config, big = load(name), load(name.removesuffix("_small").removesuffix("_ddpm").removesuffix("_ddim"))
    assert config.data == big.data and config.network.nf < big.network.nf
    if isinstance(config.method, EmbeddingMethod):
        assert config.method.model_copy(update={"time_scale": big.method.time_scale}) == big.method
        assert config.sampling.start == big.sampling.start
    else:
        assert (config.method.beta_min, config.method.beta_max) == (1e-4, 0.02)
