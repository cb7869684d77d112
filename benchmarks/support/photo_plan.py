"""Plan of photo_restoration.py: degradations, candidates for the settings of every method, and the chosen settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomwalk.errors import InputError
from randomwalk.rng import generator
from support.engine import Settings, combinations, read_yaml, write_setting
from support.photo_baselines import CLASSICAL
from support.photo_methods import PLUG_AND_PLAY
from support.photo_problems import Case, make_operator
from support.photographs import MODELS

PLAN = Path(__file__).parents[1] / "photo_restoration.yaml"
SETTINGS = Path(__file__).parents[1] / "photo_restoration_settings.yaml"
CLASSICAL_SECTION = "classical"
"""Section of that file; the others have the names of networks."""
WALK = "random_walk"
Chosen = Mapping[str, Mapping[str, Any]]
"""Settings of a case by method."""


@dataclass(frozen=True)
class Plan:
    """Content of photo_restoration.yaml.

    Attributes:
        cases: all degradations at all noise levels.
        classical, samplers: candidates for the settings of each method, by its name.
        plug_and_play: candidates for its settings.
        pictures: layout of the figure: its rows ``(degradation, noise)``, the step ``every`` between the photographs
            shown, and the ``side`` of the tiles.
    """

    cases: Sequence[Case]
    classical: Mapping[str, Sequence[Settings]]
    plug_and_play: Sequence[Settings]
    samplers: Mapping[str, Sequence[Settings]]
    pictures: Mapping[str, Any]

    def candidates(self, case: Case, network: bool, deepinv: bool) -> dict[str, Sequence[Settings]]:
        """Candidates of every method that can do a case.

        Args:
            network: whether to include the methods that need a network.
            deepinv: whether deepinv is installed.
        """
        operator = make_operator(case.operator, (3, 64, 64), generator(0))
        found = {title: self.classical.get(title, [{}]) for title, c in CLASSICAL.items() if c.suits(operator)}
        if network and deepinv:
            found[PLUG_AND_PLAY] = self.plug_and_play
        return {**found, **(self.samplers if network else {})}

    def of(self, degradations: Sequence[str] | None, noise: Sequence[float] | None) -> list[Case]:
        """Cases of some degradations and noise levels; None means all.

        Raises:
            InputError: an unknown degradation or noise level.
        """
        for option, wanted, have in (
            ("degradations", degradations, {case.degradation for case in self.cases}),
            ("noise", noise, {case.noise for case in self.cases}),
        ):
            if unknown := sorted(set(wanted or []) - have):  # type: ignore[type-var]
                raise InputError(
                    f"--{option} {', '.join(map(str, unknown))}: {PLAN.name} has {', '.join(map(str, sorted(have)))}"
                )
        chosen = [case for case in self.cases if degradations is None or case.degradation in degradations]
        return [case for case in chosen if noise is None or case.noise in noise]


def load_plan(path: Path = PLAN) -> Plan:
    """Read photo_restoration.yaml."""
    data = read_yaml(path)
    cases = [
        Case(name, what["title"], what["operator"], noise)
        for name, what in data["degradations"].items()
        for noise in data["noise"]
    ]
    classical, samplers = (
        {title: combinations(settings) for title, settings in data[key].items()} for key in ("classical", "samplers")
    )
    if unknown := sorted(set(classical) - set(CLASSICAL)):
        raise InputError(f"{path}: classical: {', '.join(unknown)}; known are {', '.join(CLASSICAL)}")
    return Plan(cases, classical, combinations(data["plug_and_play"]), samplers, data["pictures"])


def quick(settings: Settings) -> Settings:
    """The same settings with a sixth of the steps."""
    steps = settings.get("num_steps")
    return settings if steps is None else {**settings, "num_steps": max(2, steps // 6)}


# --- chosen settings -------------------------------------------------------------------------------------------------


def read_settings(model: str, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Chosen settings by case and method: ``{"settings": {...}, "psnr": on the validation images}``.

    Args:
        model: network of the methods that need one.
        path: photo_restoration_settings.yaml by default.
    """
    data = read_yaml(path or SETTINGS)
    found: dict[str, dict[str, Any]] = {}
    for section in (CLASSICAL_SECTION, MODELS[model]):
        for case, methods in data.get(section, {}).items():
            found.setdefault(case, {}).update(methods)
    return found


def write_settings(model: str, case: str, title: str, found: Mapping[str, Any], path: Path | None = None) -> None:
    """Write the chosen settings of a method in a case."""
    section = CLASSICAL_SECTION if title in CLASSICAL else MODELS[model]
    write_setting(path or SETTINGS, [section, case, title], dict(found))


def settings_of(plan: Plan, case: Case, model: str | None, deepinv: bool, small: bool) -> tuple[Chosen, str]:
    """Settings of the methods to measure in a case, and the name of the best sampler besides the walk.

    Args:
        model: the network; None for classical methods alone.
        deepinv: whether deepinv is installed.
        small: whether to take the first candidates with fewer steps instead of the chosen settings.

    Raises:
        InputError: no settings were chosen yet.
    """
    candidates = plan.candidates(case, model is not None, deepinv)
    others = [name for name in candidates if name in plan.samplers and name != WALK]
    if small:
        chosen = {title: quick(tries[0]) for title, tries in candidates.items()}
        best = others[0] if others else ""
    else:
        found = read_settings(model or next(iter(MODELS))).get(case.name, {})
        if missing := [title for title in candidates if title not in found]:
            raise InputError(
                f"{SETTINGS.name}: has no settings of {', '.join(missing)} for {case.name}"
                f"{f' with {MODELS[model]}' if model else ''}; choose them by --tune --validation FOLDER first"
            )
        chosen = {title: found[title]["settings"] for title in candidates}
        best = max(others, key=lambda name: float(found[name]["psnr"]), default="")
    return {title: s for title, s in chosen.items() if title not in others or title == best}, best
