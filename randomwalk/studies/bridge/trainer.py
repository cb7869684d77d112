"""Diffusion Schroedinger bridge matching: fit one direction, simulate new pairs with it, fit the other one on them.

    fit 0      the backward drift, on pairs of the first coupling
    fit n      the forward drift for odd n, on pairs (X_0, X_1) that the backward process made from X_1 ~ target;
               the backward drift for even n, on pairs that the forward process made from X_0 ~ source

(Shi et al. 2023, arXiv 2303.16852, algorithm 1). A fit is the Markovian projection; Brownian bridges between simulated
ends are the reciprocal projection. Exact fits would keep both ends in every iteration; with inexact fits, taking the
start of each pair from the data repairs the error of the other direction's end, as in iterative proportional fitting
(arXiv 2410.02601). Every fit starts from the weights, the optimizer state and the average of the last fit of its
direction; pairs are simulated with averaged weights.

All random numbers are functions of (seed, fit, step), and pairs of the weights before the fit, so that a run that is
resumed anywhere ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from randomwalk.config.bridge import BridgeConfig
from randomwalk.errors import RunError
from randomwalk.rng import Stream, generator, seed_torch
from randomwalk.runs import report as reports
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.studies.bridge import report
from randomwalk.studies.bridge.matching import time_of
from randomwalk.studies.bridge.model import Bridge, save_bridge
from randomwalk.studies.bridge.simulation import host_noise, simulate, time_grid
from randomwalk.studies.points import metrics
from randomwalk.studies.points.datasets import as_images, as_points
from randomwalk.training.foreseen import short_of_warmup
from randomwalk.training.loop import Loop
from randomwalk.training.optimizer import Descent

LOG = ("fit", "direction", "step", "loss", "gradient_norm", "learning_rate", "seconds")
FITS = ("fit", "direction", "transport_cost", "chamfer", "loss", "seconds")
NUM_SPREAD = 100_000
NUM_CHECK = 2000


def build_bridge(config: BridgeConfig) -> Bridge:
    """Make the untrained bridge of a config; its weights are drawn from the seed."""
    seed_torch(torch.device("cpu"), config.seed, Stream.BRIDGE_WEIGHTS)
    ends = {"source": config.bridge.source.model_dump(), "target": config.bridge.target.model_dump()}
    made = Bridge(config.network.model_dump(), {"name": "bridge", "sigma": config.bridge.sigma, "spread": 1.0, **ends})
    draws = generator(config.seed, Stream.BRIDGE_SPREAD)
    difference = made.target.sample(NUM_SPREAD, draws) - made.source.sample(NUM_SPREAD, draws)
    spread = round(float((difference.astype(float) ** 2).mean() ** 0.5), 4)
    made.settings["spread"] = made.forward_drift.spread = made.backward_drift.spread = spread
    return made


class BridgeTrainer(Loop):
    """Training of a bridge.

    Args:
        config: its settings.
        device: where the networks and the pairs are.
        folder: of the run.

    Attributes:
        fit: number of fits done.
    """

    def __init__(self, config: BridgeConfig, device: torch.device, folder: RunFolder) -> None:
        self.config, self.fit = config, 0
        self.bridge = build_bridge(config).to(device)
        self.directions = {forward: self._descent(forward) for forward in (False, True)}
        self._pairs: tuple[Tensor, Tensor] | None = None
        self._checks: dict[str, float] = {}
        self._losses: list[float] = []
        super().__init__(folder, device, list(self.directions.values()))
        self.logs = {"log.csv": [], "fits.csv": []}
        self.needed = {"fits.csv": ("transport_cost",)}

    def num_steps(self, fit: int) -> int:
        """Optimizer steps of a fit."""
        return self.config.bridge.first_steps if fit < 2 else self.config.bridge.steps

    def _steps_before(self, fit: int) -> int:
        return sum(map(self.num_steps, range(fit)))

    def _descent(self, forward: bool) -> Descent:
        config, network = self.config, self.bridge.drift(forward).network
        return Descent(network, network.parameters(), config.optimizer, config.ema, config.batch_size)

    def steps_of(self, forward: bool) -> int:
        """Optimizer steps of all fits of a direction."""
        return sum(map(self.num_steps, range(int(forward), self.config.bridge.iterations, 2)))

    def place(self) -> tuple[int, int]:
        return self.step, self._steps_before(self.config.bridge.iterations)

    def warnings(self) -> list[str]:
        """Settings that are likely to spoil the training, one line each."""
        images = {forward: self.steps_of(forward) * self.config.batch_size for forward in (False, True)}
        least = min(images, key=lambda forward: images[forward])
        return short_of_warmup(self.config.optimizer, images[least], f"{'forward' if least else 'backward'} drift")

    @property
    def forward(self) -> bool:
        """Whether the present fit is of the forward drift."""
        return self.fit % 2 == 1

    @property
    def label(self) -> str:  # type: ignore[override]
        """The present fit, for the bar."""
        fit, direction = min(self.fit + 1, self.config.bridge.iterations), "forward" if self.forward else "backward"
        return f"fit {fit} of {self.config.bridge.iterations}, {direction}"

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        kept = {str(int(forward)): descent.state() for forward, descent in self.directions.items()}
        fit = {"fit": self.fit, "losses": self._losses, "seconds": self.seconds}
        return {**fit, "bridge": self.bridge.state_dict(), "directions": kept}

    def load_state(self, state: dict[str, Any]) -> None:
        self.bridge.load_state_dict(state["bridge"])
        for forward, descent in self.directions.items():
            kept = state["directions"][str(int(forward))]
            steps = kept["step"] if "step" in kept else kept["steps"]  # as it was once called
            descent.load_state(kept, steps, self.images_of(kept, steps, self.config.batch_size))
        self.fit, self.seconds = state["fit"], state["seconds"]
        self._losses = list(state.get("losses", []))

    def is_kept(self, row: dict[str, Any]) -> bool:
        fit = int(row["fit"])
        return fit < self.fit or (fit == self.fit and int(row.get("step") or self.fit_step + 1) <= self.fit_step)

    def averaged(self) -> dict[str, Tensor]:
        """State dict of the bridge with averaged parameters."""
        found = dict(self.bridge.state_dict())
        for forward, descent in self.directions.items():
            prefix = "forward_drift.network." if forward else "backward_drift.network."
            found |= {prefix + name: value for name, value in descent.averaged_state().items()}
        return found

    def averaged_bridge(self) -> Bridge:
        """Copy of the bridge with averaged parameters, to simulate with."""
        with torch.random.fork_rng(devices=[]):
            made = Bridge(self.bridge.network, self.bridge.settings)
        made.load_state_dict(self.averaged())
        return made.eval().requires_grad_(False).to(self.device)

    def export(self) -> None:
        training = {
            "fits": self.fit, "minutes": round(self.seconds / 60, 1), "config": self.config.model_dump(mode="json")
        }  # fmt: skip
        save_bridge(self.folder, MODEL, self.bridge, self.averaged(), training)
        write_csv(self.folder, "log.csv", LOG, self.logs["log.csv"])
        write_csv(self.folder, "fits.csv", FITS, self.logs["fits.csv"])

    # --- pairs ---------------------------------------------------------------------------------------------------

    def pairs(self, fit: int) -> tuple[Tensor, Tensor]:
        """Draw the coupling that a fit learns from.

        It is a function of (seed, fit) and of the averaged weights of the other direction.

        Returns:
            X_0 and X_1, ``[n, 2, 1, 1]`` each.

        Raises:
            RunError: the simulated points are not finite.
        """
        settings, draws = self.config.bridge, generator(self.config.seed, Stream.BRIDGE_PAIRS, fit)
        if fit == 0:
            x0 = as_images(self.bridge.source.sample(settings.num_pairs, draws))
            if settings.first_coupling == "reference":
                x1 = x0 + settings.sigma * host_noise(draws)(0, x0)
            else:
                x1 = as_images(self.bridge.target.sample(settings.num_pairs, draws))
            return x0.to(self.device), x1.to(self.device)
        forward = fit % 2 == 0  # direction of the process that makes the pairs: not the one that is fitted
        start = as_images(self.bridge.start(forward).sample(settings.num_pairs, draws), self.device)
        times = time_grid(settings.num_steps, settings.grid, backward=not forward)
        drift = self.averaged_bridge().drift(forward)
        end = simulate(drift, start, times, settings.sigma, host_noise(draws))
        if not torch.isfinite(end).all():
            raise RunError(f"the simulated points of fit {fit} are not finite. Lower optimizer.learning_rate")
        return (start, end) if forward else (end, start)

    def check_pairs(self, fit: int, x0: Tensor, x1: Tensor) -> dict[str, float]:
        """Transport cost of a coupling, and Chamfer distance of its simulated end to fresh points."""
        simulated = as_points((x1 if fit % 2 == 0 else x0)[:NUM_CHECK])
        found = {"transport_cost": float((x1 - x0).square().flatten(1).sum(1).mean())}
        if len(simulated) >= metrics.CLOUD:
            draws = generator(self.config.seed, Stream.BRIDGE_CHECK, fit)
            exact = self.bridge.end(fit % 2 == 0).sample(len(simulated), draws)
            found["chamfer"] = metrics.chamfer(simulated, exact).value
        return found

    # --- one step ------------------------------------------------------------------------------------------------

    @property
    def fit_step(self) -> int:
        """Number of steps taken in the present fit."""
        return self.step - self._steps_before(self.fit)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one optimizer step of the present fit on a batch of its pairs; returns loss and gradient norm."""
        if self._pairs is None:
            self._pairs = self.pairs(self.fit)
            self._checks = self.check_pairs(self.fit, *self._pairs)
        x0, x1 = self._pairs
        draws, batch = generator(self.config.seed, Stream.BRIDGE_BATCH, self.fit, self.fit_step), self.config.batch_size
        chosen = torch.from_numpy(draws.integers(len(x0), size=batch)).to(self.device)
        # One clock in each of `batch` equal parts of [0, 1], all shifted by the same amount.
        clock = (torch.arange(batch, device=self.device) + float(draws.random())) / batch
        z = host_noise(draws)(0, x0[:1].expand(batch, -1, -1, -1))
        loss = self.bridge.drift(self.forward).loss(x0[chosen], x1[chosen], time_of(clock), z).mean()
        descent = self.directions[self.forward]
        return descent.step([loss], descent.steps / self.steps_of(self.forward))

    def is_logged(self) -> bool:
        return self.fit_step % self.config.log_every == 0 or self.fit_step == self.num_steps(self.fit)

    def log(self, loss: Tensor, norm: Tensor) -> None:
        self._losses.append(float(loss))
        row = {"loss": float(loss), "gradient_norm": float(norm), "learning_rate": self.directions[self.forward].rate}
        self._add("log.csv", {"step": self.fit_step, **row, "seconds": self.seconds})

    def report(self) -> None:
        """End the fit if its steps are done."""
        if self.fit_step < self.num_steps(self.fit):
            return
        late = self._losses[len(self._losses) // 2 :]
        self._add("fits.csv", {**self._checks, "loss": sum(late) / len(late), "seconds": self.seconds})
        self.fit, self._pairs, self._losses = self.fit + 1, None, []

    def write_report(self, done: int | None = None, total: int = 0) -> None:
        page = report.training_page(self.folder, self.config, done is None)
        page.progress = None if done is None else {"done": done, "total": total, "unit": self.unit}
        reports.write(self.folder, page)

    def is_saved(self) -> bool:
        """A checkpoint is due after every fit."""
        return self._pairs is None

    def _add(self, name: str, values: Mapping[str, float]) -> None:
        rounded = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in values.items()}
        self.logs[name].append({"fit": self.fit, "direction": "forward" if self.forward else "backward", **rounded})
