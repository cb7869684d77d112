"""Plan of photo_restoration.py: degradations, candidates for the settings of every method, and the chosen settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError
from randomwalk.rng import generator
from support.common import ROOT
from support.engine import Settings, combinations, read_yaml, write_setting
from support.photo_baselines import CLASSICAL
from support.photo_peers import library_of
from support.photo_problems import Case, make_operator

PLAN = Path(__file__).parents[1] / "photo_restoration.yaml"
SETTINGS = Path(__file__).parents[1] / "photo_restoration_settings.yaml"
CLASSICAL_SECTION, NETWORK_SECTION = "classical", "photo"
"""Section of that file; the others have the names of networks."""
DPIR = "DPIR (deepinv)"
BEFORE = "random_walk, T set"
"""The walk whose temperatures are set in each case, of 40 evaluations."""
SAMPLE = "random_walk, a sample"
Chosen = Mapping[str, Mapping[str, Any]]
"""Settings of a case by method."""


def walk_of(evaluations: int) -> str:
    """Title of the walk at its default, with a number of evaluations."""
    return f"random_walk, {evaluations}"


DEFAULT = walk_of(24)


@dataclass(frozen=True)
class Plan:
    """Content of photo_restoration.yaml.

    Attributes:
        cases: all degradations at all noise levels, and after them those for the eye.
        classical, samplers, peers, samples: candidates for the settings of each method, by its title; `samples` are for
            the eye alone.
        walks: settings of the walk at its default with each number of evaluations, by its title.
        curve: settings of the walk along the distortion-perception curve, by its title.
        kinds: degradations that take the settings of peers and samples, by the one on which they are chosen.
        tune_noise: level of noise at which those are chosen, for all levels.
        pictures: layout of the figure: its rows ``(degradation, noise)``, the step ``every`` between the photographs
            shown, and the ``side`` of the tiles.
    """

    cases: Sequence[Case]
    classical: Mapping[str, Sequence[Settings]]
    samplers: Mapping[str, Sequence[Settings]]
    peers: Mapping[str, Sequence[Settings]]
    samples: Mapping[str, Sequence[Settings]]
    walks: Chosen
    curve: Chosen
    kinds: Mapping[str, Sequence[str]]
    tune_noise: float
    pictures: Mapping[str, Any]

    def candidates(self, case: Case, network: bool, libraries: Collection[str]) -> dict[str, Sequence[Settings]]:
        """Candidates of every method whose settings are chosen for a case.

        Args:
            network: whether to include the methods that need a network.
            libraries: of peers, that are installed.
        """
        operator = make_operator(case.operator, (3, 64, 64), generator(0))
        found: dict[str, Sequence[Settings]] = {}
        if not case.for_the_eye:
            found |= {title: self.classical.get(title, [{}]) for title, c in CLASSICAL.items() if c.suits(operator)}
        if network:
            found |= {title: tries for title, tries in self.peers.items() if library_of(title) in libraries}
            found |= self.samples if case.for_the_eye else self.samplers
        return found

    def fixed(self, case: Case) -> Chosen:
        """Settings of the walks that are the same in all cases."""
        return self.curve if case.for_the_eye else self.walks

    def takes_settings_of(self, case: Case, title: str) -> list[Case]:
        """Cases that take the settings of a method that are chosen in a case; none where they are chosen in another.

        DPIR, the closest of the peers, has settings for each degradation, and the others for each kind of degradation.
        """
        if title not in (*self.peers, *self.samples):
            return [case]
        if case.noise != self.tune_noise:
            return []
        kind = [case.degradation] if title == DPIR else self.kinds.get(case.degradation, ())
        return [of for of in self.cases if of.degradation in kind and of.by == case.by]

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
    """Read photo_restoration.yaml.

    Raises:
        InputError: it names a classical method or a case that does not exist.
    """
    data = read_yaml(path)
    cases = [
        Case(name, what["title"], what["operator"], noise)
        for name, what in data["degradations"].items()
        for noise in data["noise"]
    ]
    eye = [replace(case, by="lpips") for case in cases if [case.degradation, case.noise] in data["eye"]]
    if len(eye) != len(data["eye"]):
        raise InputError(f"{path}: eye: names a degradation or a noise level that the file does not have")
    groups = ("classical", "samplers", "peers", "samples")
    tries = {key: {title: combinations(given) for title, given in data[key].items()} for key in groups}
    if unknown := sorted(set(tries["classical"]) - set(CLASSICAL)):
        raise InputError(f"{path}: classical: {', '.join(unknown)}; known are {', '.join(CLASSICAL)}")
    walk = data["walk"]
    walks = {walk_of(number): default_walk(walk["config"], number) for number in walk["evaluations"]}
    curve = {
        f"random_walk, kappa {kappa}{', last denoised' if last else ''}": default_walk(
            walk["config"], 24, kappa=kappa, last_denoised=last
        )
        for last in (True, False)
        for kappa in walk["curve"]
    }
    classical, samplers, peers, samples = (tries[key] for key in groups)
    rest = data["kinds"], data["tune_noise"], data["pictures"]
    return Plan([*cases, *eye], classical, samplers, peers, samples, walks, curve, *rest)


def default_walk(config: str, evaluations: int, **changes: Any) -> Settings:
    """Settings of the walk in a file of configs/, with a number of evaluations.

    Args:
        config: path in configs/.
        changes: of other settings.
    """
    task = load_sample_config(ROOT / "configs" / config)
    sampler = {**task.sampler.model_dump(exclude={"name", "schedule"}, exclude_unset=True), **changes}
    schedule = task.sampler.schedule
    return {
        **sampler,
        "schedule": schedule.name,
        "num_steps": evaluations - sampler["last_denoised"],
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
        "start_mean": task.start.mean,
    }


def quick(settings: Mapping[str, Any]) -> Settings:
    """The same settings with a sixth of the steps."""
    return {k: max(2, v // 6) if k in ("num_steps", "evaluations") else v for k, v in settings.items()}


# --- chosen settings -------------------------------------------------------------------------------------------------


def read_settings(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Chosen settings by case and method: ``{"settings": {...}, "psnr" or "lpips": on the validation images}``.

    Args:
        path: photo_restoration_settings.yaml by default.
    """
    data = read_yaml(path or SETTINGS)
    found: dict[str, dict[str, Any]] = {}
    for section in (CLASSICAL_SECTION, NETWORK_SECTION):
        for case, methods in data.get(section, {}).items():
            found.setdefault(case, {}).update(methods)
    return found


def write_settings(case: str, title: str, found: Mapping[str, Any], path: Path | None = None) -> None:
    """Write the chosen settings of a method in a case."""
    section = CLASSICAL_SECTION if title in CLASSICAL else NETWORK_SECTION
    write_setting(path or SETTINGS, [section, case, title], dict(found))


def settings_of(plan: Plan, case: Case, network: bool, libraries: Collection[str], small: bool) -> Chosen:
    """Settings of the methods to measure in a case.

    Args:
        network: whether there is one; without it classical methods alone.
        libraries: of peers, that are installed.
        small: whether to take the first candidates with fewer steps instead of the chosen settings.

    Raises:
        InputError: no settings were chosen yet.
    """
    candidates = plan.candidates(case, network, libraries)
    fixed = plan.fixed(case) if network else {}
    if small:
        return {title: quick(s) for title, s in [*((t, tries[0]) for t, tries in candidates.items()), *fixed.items()]}
    found = read_settings().get(case.name, {})
    if missing := [title for title in candidates if title not in found]:
        raise InputError(
            f"{SETTINGS.name}: has no settings of {', '.join(missing)} for {case.name}; choose them by --tune "
            "--validation FOLDER first"
        )
    return {**{title: found[title]["settings"] for title in candidates}, **fixed}
