"""Diffusion Schroedinger bridge matching: fit one direction, let it make new pairs, fit the other one on them.

    fit 0      the backward drift, on pairs of the first coupling
    fit n      the forward drift for odd n, on pairs (X_0, X_1) that the backward process made from X_1 ~ target;
               the backward drift for even n, on pairs that the forward process made from X_0 ~ source

(Shi et al. 2023, arXiv 2303.16852, algorithm 1). A fit is the Markovian projection; Brownian bridges between simulated
ends are the reciprocal projection. Exact fits would keep both ends in every iteration; with fits that err, taking the
start of each pair from the data repairs the error of the other direction's end, as in iterative proportional fitting
(arXiv 2410.02601). Every fit starts from the weights, the optimizer state and the average of the
last fit of its direction; pairs are simulated with averaged weights.

All that is random is a function of (seed, fit, step) alone, so that a checkpoint after each fit is enough for a resumed
run to end with the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from randomwalk.config.bridge import BridgeConfig
from randomwalk.errors import RunError
from randomwalk.progress import bar
from randomwalk.rng import generator
from randomwalk.run_folder import RunFolder, write_csv
from randomwalk.studies.bridge.ends import as_images, as_points
from randomwalk.studies.bridge.matching import time_of
from randomwalk.studies.bridge.model import Bridge, save_bridge
from randomwalk.studies.bridge.simulation import host_noise, simulate, time_grid
from randomwalk.studies.points import metrics
from randomwalk.training.ema import EMA
from randomwalk.training.muon import MuonAndAdam
from randomwalk.training.optimizer import learning_rate, make_optimizer

CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"
_INITIAL, _SPREAD, _PAIRS, _BATCH, _CHECK = range(5)  # what a stream (seed, this, ...) is for
LOG = ("fit", "direction", "step", "loss", "gradient_norm", "learning_rate", "seconds")
FITS = ("fit", "direction", "transport_cost", "chamfer", "loss", "seconds")
NUM_SPREAD = 100_000
NUM_CHECK = 2000


def build_bridge(config: BridgeConfig) -> Bridge:
    """The untrained bridge of a config, its weights drawn from the seed."""
    torch.manual_seed(int(generator(config.seed, _INITIAL).integers(2**31)))
    ends = {"source": config.bridge.source.model_dump(), "target": config.bridge.target.model_dump()}
    made = Bridge(config.network.model_dump(), {"name": "bridge", "sigma": config.bridge.sigma, "spread": 1.0, **ends})
    draws = generator(config.seed, _SPREAD)
    way = made.target.sample(NUM_SPREAD, draws) - made.source.sample(NUM_SPREAD, draws)
    spread = round(float((way.astype(float) ** 2).mean() ** 0.5), 4)
    made.settings["spread"] = made.forward_drift.spread = made.backward_drift.spread = spread
    return made


@dataclass
class _Direction:
    """What training keeps of one direction besides its network."""

    optimizer: torch.optim.Adam | MuonAndAdam
    ema: EMA
    steps: int = 0


class BridgeTrainer:
    """One training.

    Args:
        config: its settings.
        device: where the networks are; pairs are kept there too.
        folder: where checkpoints, weights and logs are written.

    Attributes:
        fit: how many fits are done.
    """

    def __init__(self, config: BridgeConfig, device: torch.device, folder: RunFolder) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.bridge = build_bridge(config).to(device)
        self.fit, self.seconds = 0, 0.0
        self.logs: dict[str, list[dict[str, Any]]] = {"log.csv": [], "fits.csv": []}
        self.directions = {forward: self._direction(forward) for forward in (False, True)}

    def _direction(self, forward: bool) -> _Direction:
        network = self.bridge.drift(forward).network
        optimizer = make_optimizer(self.config.optimizer, network.parameters())
        return _Direction(optimizer, EMA(network, self.config.ema.half_life_images, self.config.ema.warmup_ratio))

    # --- plan ----------------------------------------------------------------------------------------------------

    def num_steps(self, fit: int) -> int:
        """Optimizer steps of a fit."""
        return self.config.bridge.first_steps if fit < 2 else self.config.bridge.steps

    def total_steps(self, forward: bool) -> int:
        """Optimizer steps of all fits of a direction."""
        return sum(self.num_steps(fit) for fit in range(int(forward), self.config.bridge.iterations, 2))

    def learning_rate(self, step: int, forward: bool) -> float:
        """Of a direction's step."""
        return learning_rate(self.config.optimizer, step, self.total_steps(forward), self.config.batch_size)

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        kept = {
            str(int(forward)): {"optimizer": d.optimizer.state_dict(), "ema": d.ema.average, "steps": d.steps}
            for forward, d in self.directions.items()
        }
        return {"fit": self.fit, "seconds": self.seconds, "bridge": self.bridge.state_dict(), "directions": kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved `state`."""
        self.bridge.load_state_dict(state["bridge"])
        for forward, direction in self.directions.items():
            kept = state["directions"][str(int(forward))]
            direction.optimizer.load_state_dict(kept["optimizer"])
            direction.steps = kept["steps"]
            for name, value in kept["ema"].items():
                direction.ema.average[name].copy_(value)
        self.fit, self.seconds = state["fit"], state["seconds"]

    def resume(self) -> None:
        """Load the folder's checkpoint, if there is one yet, and the logs up to it.

        Raises:
            InputError: it is damaged, or of another config.
        """
        self.folder.read_torch(CHECKPOINT, self.device, self.load_state)
        for name in self.logs:
            self.logs[name] = [row for row in self.folder.read_csv(name) if int(row["fit"]) < self.fit]

    def averaged(self) -> dict[str, Tensor]:
        """State dict of the bridge with averaged parameters."""
        found = dict(self.bridge.state_dict())
        for forward, direction in self.directions.items():
            prefix = "forward_drift.network." if forward else "backward_drift.network."
            found |= {prefix + name: value for name, value in direction.ema.average.items()}
        return found

    def averaged_bridge(self) -> Bridge:
        """A copy of the bridge with averaged parameters, to simulate with."""
        with torch.random.fork_rng(devices=[]):
            made = Bridge(self.bridge.network, self.bridge.settings)
        made.load_state_dict(self.averaged())
        return made.eval().requires_grad_(False).to(self.device)

    def save(self) -> None:
        """Write the weights, the logs and, last, the checkpoint, each whole or not at all."""
        training = {
            "fits": self.fit, "minutes": round(self.seconds / 60, 1), "config": self.config.model_dump(mode="json")
        }  # fmt: skip
        save_bridge(self.folder, MODEL, self.bridge, self.averaged(), training)
        write_csv(self.folder, "log.csv", LOG, self.logs["log.csv"])
        write_csv(self.folder, "fits.csv", FITS, self.logs["fits.csv"])
        self.folder.write_torch(CHECKPOINT, self.state())

    # --- pairs ---------------------------------------------------------------------------------------------------

    def pairs(self, fit: int) -> tuple[Tensor, Tensor]:
        """The coupling that a fit learns from: X_0 and X_1, ``[n, 2, 1, 1]`` each, a function of (seed, fit) and of the
        averaged weights of the other direction."""
        settings, draws = self.config.bridge, generator(self.config.seed, _PAIRS, fit)
        if fit == 0:
            x0 = as_images(self.bridge.source.sample(settings.num_pairs, draws))
            if settings.first_coupling == "reference":
                x1 = x0 + settings.sigma * host_noise(draws)(0, x0)
            else:
                x1 = as_images(self.bridge.target.sample(settings.num_pairs, draws))
            return x0.to(self.device), x1.to(self.device)
        forward = fit % 2 == 0  # the process that makes the pairs: the other one
        start = as_images(self.bridge.start(forward).sample(settings.num_pairs, draws), self.device)
        times = time_grid(settings.num_steps, settings.grid, backward=not forward)
        drift = self.averaged_bridge().drift(forward)
        end = simulate(drift, start, times, settings.sigma, host_noise(draws))
        if not torch.isfinite(end).all():
            raise RunError(f"the simulated points of fit {fit} are not finite. Lower optimizer.learning_rate")
        return (start, end) if forward else (end, start)

    def check_pairs(self, fit: int, x0: Tensor, x1: Tensor) -> dict[str, float]:
        """Transport cost of a coupling, and Chamfer distance of the simulated end to fresh points of its law."""
        simulated = as_points((x1 if fit % 2 == 0 else x0)[:NUM_CHECK])
        law = self.bridge.end(fit % 2 == 0)
        found = {"transport_cost": float((x1 - x0).square().flatten(1).sum(1).mean())}
        if len(simulated) >= metrics.CLOUD:
            exact = law.sample(len(simulated), generator(self.config.seed, _CHECK, fit))
            found["chamfer"] = metrics.chamfer(simulated, exact).value
        return found

    # --- the run -------------------------------------------------------------------------------------------------

    def train_step(self, x0: Tensor, x1: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One optimizer step of the present fit on a batch of its pairs; the mean loss and the gradient's norm."""
        forward = self.fit % 2 == 1
        direction, drift = self.directions[forward], self.bridge.drift(forward)
        draws, batch = generator(self.config.seed, _BATCH, self.fit, step), self.config.batch_size
        chosen = torch.from_numpy(draws.integers(len(x0), size=batch)).to(self.device)
        # One clock in each of `batch` equal parts of [0, 1], all shifted by the same amount.
        clock = (torch.arange(batch, device=self.device) + float(draws.random())) / batch
        z = host_noise(draws)(0, x0[:1].expand(batch, -1, -1, -1))
        for group in direction.optimizer.param_groups:
            group["lr"] = self.learning_rate(direction.steps, forward)
        direction.optimizer.zero_grad(set_to_none=True)
        loss = drift.loss(x0[chosen], x1[chosen], time_of(clock), z).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            drift.network.parameters(), self.config.optimizer.gradient_clip or math.inf
        )
        direction.optimizer.step()
        direction.steps += 1
        direction.ema.update(drift.network, batch, direction.steps * batch)
        return loss.detach(), norm

    def run_fit(self, tick: Callable[..., None]) -> None:
        """The next fit, and its lines in the logs.

        Args:
            tick: of a progress bar over the steps.

        Raises:
            RunError: the loss is no longer finite; the last checkpoint stays.
        """
        started, steps = time.perf_counter(), self.num_steps(self.fit)
        name = "forward" if self.fit % 2 == 1 else "backward"
        tick(0, label=f"fit {self.fit + 1} of {self.config.bridge.iterations}, {name}")
        x0, x1 = self.pairs(self.fit)
        checked, losses = self.check_pairs(self.fit, x0, x1), []
        for step in range(steps):
            loss, norm = self.train_step(x0, x1, step)
            if (step + 1) % self.config.log_every == 0 or step + 1 == steps:
                if not (torch.isfinite(loss) and torch.isfinite(norm)):
                    raise RunError(
                        f"the loss or its gradient is not finite in fit {self.fit}, step {step} (loss {float(loss)}); "
                        f"{self.folder.state_of(CHECKPOINT)}. Lower optimizer.learning_rate"
                    )
                losses.append(float(loss))
                rate = self.learning_rate(self.directions[name == "forward"].steps - 1, name == "forward")
                row = {"step": step + 1, "loss": losses[-1], "gradient_norm": float(norm), "learning_rate": rate}
                self._add("log.csv", name, row | {"seconds": self.seconds + time.perf_counter() - started})
            tick(1, f"loss {losses[-1]:.3f}" if losses else "")
        self.seconds += time.perf_counter() - started
        late = losses[len(losses) // 2 :]
        self._add("fits.csv", name, checked | {"loss": sum(late) / len(late), "seconds": self.seconds})
        self.fit += 1

    def _add(self, name: str, direction: str, values: Mapping[str, float]) -> None:
        rounded = {key: f"{value:.6g}" for key, value in values.items()}
        self.logs[name].append({"fit": self.fit, "direction": direction, **rounded})

    def run(self) -> None:
        """All fits that are left, with a checkpoint after each."""
        fits = range(self.config.bridge.iterations)
        done = sum(self.num_steps(fit) for fit in range(self.fit))
        total = sum(self.num_steps(fit) for fit in fits)
        with bar(total, "training", initial=done) as tick:
            for _ in fits[self.fit :]:
                self.run_fit(tick)
                self.save()
