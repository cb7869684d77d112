"""What photo_restoration.yaml says: which degradations, with which candidates for the settings of every method."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from randomwalk.errors import InputError
from randomwalk.rng import generator
from randomwalk.run_folder import RunFolder, alone_in
from support.photo_baselines import CLASSICAL
from support.photo_methods import PLUG_AND_PLAY
from support.photo_problems import Case, make_operator
from support.photographs import MODELS

PLAN = Path(__file__).parents[1] / "photo_restoration.yaml"
SETTINGS = Path(__file__).parents[1] / "photo_restoration_settings.yaml"
SETTINGS_HEAD = """\
# Written by photo_restoration.py --tune: settings of every method in each case, and their PSNR on the validation
# photographs.
"""
CLASSICAL_SECTION = "classical"
"""Of that file; the others are those of the networks."""
WALK = "random_walk"
Settings = dict[str, Any]
Chosen = Mapping[str, Mapping[str, Any]]
"""Of a case: settings by method."""


@dataclass(frozen=True)
class Plan:
    """The file.

    Attributes:
        cases: all degradations at all noise levels.
        classical, samplers: candidates for the settings of each method, by its name.
        plug_and_play: the same.
        pictures: rows ``(degradation, noise)``, ``every`` how many photographs, and the ``side`` of the tiles.
    """

    cases: Sequence[Case]
    classical: Mapping[str, Sequence[Settings]]
    plug_and_play: Sequence[Settings]
    samplers: Mapping[str, Sequence[Settings]]
    pictures: Mapping[str, Any]

    def candidates(self, case: Case, network: bool, deepinv: bool) -> dict[str, Sequence[Settings]]:
        """Settings to choose among, of every method that can do a case.

        Args:
            network: with those that need a network.
            deepinv: whether the library is there.
        """
        operator = make_operator(case.operator, (3, 64, 64), generator(0))
        found = {title: self.classical.get(title, [{}]) for title, c in CLASSICAL.items() if c.suits(operator)}
        if network and deepinv:
            found[PLUG_AND_PLAY] = self.plug_and_play
        return {**found, **(self.samplers if network else {})}

    def of(self, degradations: Sequence[str] | None, noise: Sequence[float] | None) -> list[Case]:
        """The cases of some degradations and noise levels; None means all.

        Raises:
            InputError: one that there is not.
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
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def combinations(settings: Mapping[str, Any]) -> list[Settings]:
    """Every combination of the elements of the lists among the settings; the first takes the first of each."""
    choices = [value if isinstance(value, list) else [value] for value in settings.values()]
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*choices)]


def quick(settings: Settings) -> Settings:
    """The same with a sixth of the steps."""
    steps = settings.get("num_steps")
    return settings if steps is None else {**settings, "num_steps": max(2, steps // 6)}


# --- what --tune chose -----------------------------------------------------------------------------------------------


def read_settings(model: str, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """What was chosen, by case and method: ``{"settings": {...}, "psnr": on the validation images}``.

    Args:
        model: the network of the methods that need one.
        path: photo_restoration_settings.yaml by default.
    """
    data = _read(path or SETTINGS)
    found: dict[str, dict[str, Any]] = {}
    for section in (CLASSICAL_SECTION, MODELS[model]):
        for case, methods in data.get(section, {}).items():
            found.setdefault(case, {}).update(methods)
    return found


def write_settings(model: str, case: str, title: str, found: Mapping[str, Any], path: Path | None = None) -> None:
    """Write what was chosen for a method in a case, and leave the others as they are, also those that another process
    writes meanwhile."""
    path = path or SETTINGS
    section = CLASSICAL_SECTION if title in CLASSICAL else MODELS[model]
    with alone_in(path.parent):
        data = _read(path)
        data.setdefault(section, {}).setdefault(case, {})[title] = dict(found)
        text = SETTINGS_HEAD + yaml.safe_dump(data, sort_keys=False, width=120)
        RunFolder(path.parent).write_text(path.name, text)


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def settings_of(plan: Plan, case: Case, model: str | None, deepinv: bool, small: bool) -> tuple[Chosen, str]:
    """The settings of the methods to measure in a case, and which of the samplers besides the walk is one.

    Args:
        model: the network; None for classical methods alone.
        small: take the first candidates, and fewer steps, instead of what was chosen.

    Raises:
        InputError: nothing was chosen yet.
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
