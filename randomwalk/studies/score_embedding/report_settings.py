"""The settings of a run in words, for its report."""

from __future__ import annotations

import math

from randomwalk.config.score_embedding import (
    DDPMMethod,
    EmbeddingMethod,
    ExactSettings,
    IntensitySettings,
    LegacySettings,
    PositionSettings,
    ValuePairSettings,
)
from randomwalk.studies.score_embedding.report_data import Run, alpha_bar_end
from score_sde.sdes import PowerVE

Pair = tuple[str, str]


def title(run: Run) -> str:
    """Method and data of the run, in a line."""
    method, n = run.config.method, len(run.truth)
    name = method.sampler.upper() if isinstance(method, DDPMMethod) else "Score embedding"
    if isinstance(method, EmbeddingMethod) and method.embedding != "score":
        name = {"none": "Score matching without embedding", "random": "Embedding of a random field"}[method.embedding]
    return f"{name}: {n} image{'s' if n > 1 else ''}, {run.truth.shape[2]} x {run.truth.shape[3]} pixels"


def subtitle(run: Run) -> str:
    """Where it is and where and when it was made, as far as that is known."""
    parts = [run.folder.name]
    for key in ("device_name", "started"):
        if run.environment.get(key):
            parts.append(str(run.environment[key]).replace("T", " ")[:40])
    return "  ·  ".join(parts)


def settings(run: Run) -> list[Pair]:
    """Label and value of everything that a reader needs to judge the numbers."""
    return [*_data(run), *_method(run), *_training(run), *_sampling(run)]


def _data(run: Run) -> list[Pair]:
    data, network = run.config.data, run.config.network
    images = f"{len(run.truth)} of {data.dataset}" if data.dataset != "folder" else f"{len(run.truth)} of {data.path}"
    if data.class_name is not None:
        images += f", class {data.class_name}"
    parameters = run.parameters()
    told = ", told which image to make" if network.num_classes is not None else ""
    where = ", ".join(map(str, network.attn_resolutions))
    attention = f"attention at {where}" if where else "attention in the middle"
    blocks = f"{network.num_res_blocks} block{'s' if network.num_res_blocks > 1 else ''}"
    shape = f"{network.nf} x {network.ch_mult}, {blocks}, {attention}"
    pairs = [
        ("images", images),
        ("size", f"{run.truth.shape[1]} x {run.truth.shape[2]} x {run.truth.shape[3]}"),
        ("network", f"{network.name}, {shape}, dropout {network.dropout:g}"),
        ("time enters", f"{network.embedding}{told}"),
    ]
    if parameters is not None:
        pairs.insert(3, ("parameters", f"{parameters:,}"))
    return pairs


def _method(run: Run) -> list[Pair]:
    method = run.config.method
    if isinstance(method, DDPMMethod):
        last = alpha_bar_end(method.beta_min, method.beta_max, method.num_timesteps)
        left = f"{last:.2g}"
        if last > 0.001:
            left += f": {100 * math.sqrt(last):.0f}% of the image is still there in training where sampling starts"
        steps = method.num_steps or method.num_timesteps
        return [
            ("method", f"{method.name}, epsilon prediction; sampler {method.sampler}, {steps} steps"),
            ("beta", f"{method.beta_min:g} to {method.beta_max:g}, {method.num_timesteps} timesteps"),
            ("alpha_bar_T", left),
        ]
    end = float(PowerVE(method.base).std(1.0))
    moved = {
        "score": f"score, {'both components' if method.component == 'sum' else method.component}",
        "random": "random field of the score's norm",
        "none": "none",
    }
    batches = "one image at all levels" if method.batches == "by_image" else "images and levels at random"
    pairs = [
        ("method", f"score_embedding, g = {method.base:g}^t, std(1) = {end:.3f}"),
        ("levels N", f"{method.num_levels}, times {method.times}"),
        ("embedding", moved[method.embedding]),
    ]
    if method.embedding != "none":
        pairs += [("density", _density(method)), ("solver", _solver(run, method))]
    return [*pairs, ("batches", batches), ("time scale", f"{method.time_scale:g}")]


def _density(method: EmbeddingMethod) -> str:
    density = method.density
    if isinstance(density, ValuePairSettings):
        return f"{density.name}, {density.estimator}"
    if isinstance(density, IntensitySettings):
        return f"{density.name}, offset {density.offset:g}"
    assert isinstance(density, PositionSettings)
    return f"{density.name}, {density.num_points} points"


def _solver(run: Run, method: EmbeddingMethod) -> str:
    solver = method.solver
    if isinstance(solver, ExactSettings):
        return f"exact ({solver.method}), {solver.boundary}, spacing {solver.spacing:g}"
    iterations = len({row["iteration"] for row in run.table("convergence")})
    took = f", {iterations} iterations" if iterations else ""
    if isinstance(solver, LegacySettings):
        return f"legacy (the published matrix), spacing {solver.spacing:g}, tolerance {solver.tolerance:g}{took}"
    which = f"semi_implicit ({solver.linear_solver}, {solver.quadratic}), {solver.boundary}"
    return f"{which}, spacing {solver.spacing:g}, tolerance {solver.tolerance:g}{took}"


def _training(run: Run) -> list[Pair]:
    config, optimizer = run.config, run.config.optimizer
    log = run.table("log")
    peak = max(row["learning_rate"] for row in log)
    reached = f"{optimizer.learning_rate:g}; peak reached {peak:.3g}"
    if peak < 0.99 * optimizer.learning_rate:
        reached += f", {100 * peak / optimizer.learning_rate:.0f}% of it"
    if optimizer.decay != "none":
        reached += f"; {optimizer.decay} decay"
    steps = math.ceil(optimizer.warmup_images / config.batch_size)
    warmup = f"{steps} steps ({optimizer.warmup_images} images)" if optimizer.warmup_images else "none"
    average = "off"
    if config.ema is not None:
        average = f"half-life {config.ema.half_life_images:g} images"
        if config.ema.warmup_ratio is not None:
            average += f", at most {config.ema.warmup_ratio:g} of those seen"
    last = log[-1]
    clip = "none" if optimizer.gradient_clip is None else f"{optimizer.gradient_clip:g}"
    return [
        ("steps", f"{last['step']:.0f} of {config.num_steps} (epoch {last['epoch']:g})"),
        ("batch", f"{config.batch_size}, {config.precision}"),
        ("learning rate", reached),
        ("warm-up", warmup),
        ("gradient clip", clip),
        ("EMA", average),
    ]


def _sampling(run: Run) -> list[Pair]:
    sampling, method = run.config.sampling, run.config.method
    start = {
        "normal": "N(0, I)",
        "prior": "N(0, I)"
        if isinstance(method, DDPMMethod)
        else "N(0, std(1)^2): the distribution at the end of the SDE",
        "truth": f"{100 * sampling.truth_weight:g}% of the true image and noise: it is told the answer",
    }[sampling.start]
    pairs = [("start of sampling", start)]
    if isinstance(method, EmbeddingMethod):
        last = "with" if sampling.tweedie else "without"
        pairs.append(("sampler", f"Dormand-Prince, tolerance {sampling.tolerance:g}, {last} a last denoising step"))
    stretched = "on: hides errors of brightness and contrast" if sampling.minmax else "off"
    return [*pairs, ("samples", f"{len(run.samples)} of each image; seed {run.config.seed}"), ("min-max", stretched)]
