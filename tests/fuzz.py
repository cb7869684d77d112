# ruff: noqa: E402
"""Damaged and hostile configurations: each is accepted, or refused by one message that names the file and the key.

    python tests/fuzz.py --examples 20000 [--seed N] [--jobs 2]

Every YAML file of configs/, and the paper's layout, is mutated: types, ranges, lists, keys, texts, encodings, YAML's
own machinery (aliases, merge keys, tags), and changes by ``--set``. An accepted one goes on to what a dry run does as
far as it is cheap: files are looked at, the config is written and read again, noise levels, operators and networks are
made (networks without memory). Printed are the counts of what happened, and for each failure a case that shows it.

A failure is another exception than `InputError`, a message that names nothing or does not end, five seconds of
processor time, or an attempt to write a file, make a folder or start a program.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import torch

from randomwalk import operators, samplers
from randomwalk.cli.file_checks import check_files
from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.base import Settings
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.files import dump, load_sampling, load_training
from randomwalk.config.generated import CONFIGS
from randomwalk.config.hints import keys_of
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.validate import schema_of
from randomwalk.config.yamltext import read_document
from randomwalk.denoisers import adapters
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.networks import build_network
from randomwalk.errors import InputError
from randomwalk.lookup import printable
from randomwalk.rng import generator

SECONDS = 5.0
"""Most processor time of one case."""
PART = 250
"""Cases with seeds of their own: what a case does depends on those before it in its part."""
LONGEST = 3000
"""Most characters of a line of a message: an unknown key of a network is answered by all the keys there are."""

GOOD = ("accepted", "unready", "refused")
"""Outcomes that are no failures."""

# --- what is counted -------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """Counts of outcomes, and one reproducer of each kind of failure.

    Attributes:
        counts: of ``accepted``, ``unready`` (a good config whose files are missing or do not fit), ``refused``,
            ``traceback``, ``hang``, ``forbidden`` and ``message``.
        failures: reproducer and number by what happened and where.
        messages: a sample of refusals.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[str, int]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, outcome: str, what: str, case: object) -> None:
        """Count the outcome of a case; ``what`` says where it failed, or is the message of a refusal."""
        self.counts[outcome] += 1
        if outcome in ("refused", "unready"):
            self.messages.append(what)
        elif outcome not in GOOD:
            shown, number = self.failures.get(f"{outcome}: {what}", (repr(case), 0))
            self.failures[f"{outcome}: {what}"] = (min(shown, repr(case), key=len), number + 1)

    def merge(self, other: Report) -> None:
        """Add the counts of another report."""
        self.counts += other.counts
        for what, (case, number) in other.failures.items():
            shown, before = self.failures.get(what, (case, 0))
            self.failures[what] = (min(shown, case, key=len), before + number)
        self.messages += other.messages

    def text(self) -> str:
        """Counts, and the failures with the most frequent first."""
        kinds = (*GOOD, "traceback", "hang", "forbidden", "message")
        lines = [f"{sum(self.counts.values()):,} cases: " + ", ".join(f"{self.counts[k]:,} {k}" for k in kinds)]
        for what, (case, number) in sorted(self.failures.items(), key=lambda item: -item[1][1]):
            lines += ["", f"{number} x {what}", f"  {case if len(case) < 1500 else case[:1500] + ' ...'}"]
        return "\n".join(lines)


class Hang(BaseException):
    """A case took too long."""


class Forbidden(BaseException):
    """A case tried to write, or to start something."""


_watching: list[str] | None = None
_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.")
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    if event == "open":
        _, mode, flags = arguments
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if not writes and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
    elif event == "import":
        if arguments[0] not in ("antigravity", "this"):
            return
    elif not event.startswith((*_WRITES, *_STARTS)):
        return
    _watching.append(f"{event} {arguments[:1]!r}"[:80])
    raise Forbidden(_watching[-1])


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Stop the code inside after `SECONDS` of processor time, and when it would write or start something.

    Yields:
        What it tried, also if the code caught the exception.
    """
    global _watching

    def stop(_signal: int, frame: Any) -> None:
        place = next((f for f in traceback.extract_stack(frame)[::-1] if "randomwalk" in f.filename), None)
        raise Hang(f"at {Path(place.filename).name}:{place.lineno}" if place else "")

    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    handlers = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    _watching = []
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 30 * SECONDS)  # for one that waits
    try:
        yield _watching
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _watching = None
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), handlers, strict=True):
            signal.signal(number, handler)
        sys.dont_write_bytecode = before


def outcome_of(
    work: Callable[[], object],
    wrong_with: Callable[[str], str | None],
    refusals: tuple[type[Exception], ...] = (InputError,),
) -> tuple[str, str]:
    """Run a case, watched: its outcome, and the message of the refusal or the place of the failure.

    Args:
        work: the case; any result counts as accepted.
        wrong_with: says of the message of a refusal in what it fails; None if it does not.
        refusals: exceptions by which a case may be refused.
    """
    try:
        with watched() as tried:
            work()
    except refusals as error:
        wrong = wrong_with(str(error))
        result = ("message", f"{wrong}: {str(error)[:300]!r}") if wrong else ("refused", str(error))
    except Hang as error:
        return "hang", str(error)
    except Forbidden as error:
        return "forbidden", str(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if str(ROOT) in f.filename and "site-packages" not in f.filename]
        place = [*frames, *ours][-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "traceback", f"{type(error).__name__} at {where}: {str(error)[:160]}"
    else:
        result = ("accepted", "")
    return ("forbidden", tried[0]) if tried else result


# --- one case --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A mutated file, and the changes by ``--set``.

    Attributes:
        program: sample or train.
        content: of the file.
        overrides: ``KEY=VALUE`` each.
        keys: those that were mutated, of which a refusal must name one; empty if the file as such was.
    """

    program: str
    content: bytes
    overrides: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def run_case(case: Case, folder: Path) -> tuple[str, str]:
    """Load a case, and go on as a dry run does; its outcome as of `outcome_of`."""
    file = folder / "case.yaml"
    file.write_bytes(case.content)
    load: Callable[..., Settings] = load_sampling if case.program == "sample" else load_training
    again: Callable[..., Settings] = load
    loaded: list[Settings] = []

    def work() -> None:
        config = load(file, case.overrides)
        loaded.append(config)
        written = dump(config).encode("utf-8")
        with unwatched():
            file.write_bytes(written)
        if again(file).model_dump() != config.model_dump():
            raise AssertionError("the written config is another one")
        dry_run(config)

    def wrong(message: str) -> str | None:
        if loaded:  # about a file, whose name the command escapes when it shows the message
            return unclear("\n".join(map(printable, message.split("\n"))))
        return unclear(message) or unnamed(message, case, str(file))

    outcome, what = outcome_of(work, wrong)
    return ("unready" if loaded and outcome == "refused" else outcome), what


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Let the fuzzer itself write a file."""
    global _watching
    before, _watching = _watching, None
    try:
        yield
    finally:
        _watching = before


def unclear(message: str) -> str | None:
    """The fault of a message as text, if it has one."""
    lines = message.split("\n")
    if len(lines) > 25 or max(map(len, lines)) > LONGEST:
        return f"too long, {len(lines)} lines of up to {max(map(len, lines))} characters"
    if not all(line.isprintable() for line in lines):
        return "control characters"
    if "pydantic" in message or "Input should" in message or "Traceback" in message:
        return "jargon"
    return None


def unnamed(message: str, case: Case, file: str) -> str | None:
    """The fault of a message about a config: the file or the key is missing in it."""
    if message.startswith("--set "):
        return None
    if not message.startswith(file):
        return "no file"
    about_the_file = r"(, line \d+: | \(line \d+\)| is |: is |: has |: holds |, translated )"
    names = [name for key in case.keys for name in _names(key)]
    named = not names or any(name in message for name in names)
    return None if named or re.match(re.escape(file) + about_the_file, message) else "no key"


def _names(key: str) -> list[str]:
    """The parts of a dotted key by which a message can name it: as they are, or with escapes."""
    return [shown[:30] for part in key.split(".") if part for shown in (part, repr(part)[1:-1])]


# --- what a dry run does, as far as it is cheap ----------------------------------------------------------------------


class _Stub(Denoiser):
    """Denoiser of an unknown file."""

    sigma_min, sigma_max = 0.002, 80.0

    def own_levels(self, u: torch.Tensor) -> torch.Tensor:
        return self.sigma_max ** (1 - u) * self.sigma_min**u


@cache
def _build(description: str) -> None:
    with torch.device("meta"):
        build_network(yaml.safe_load(description))


def build(network: Settings) -> None:
    """Make a network, without memory."""
    _build(dump(network))


def dry_run(config: Settings) -> None:
    """Check the files of a config, and make its networks, denoisers, noise levels and operators."""
    if isinstance(config, SampleConfig):
        _dry_sampling(config)
    elif isinstance(config, TrainConfig):
        build(config.network)
        adapters.make(network=torch.nn.Identity(), **config.denoiser.model_dump(exclude_none=True))
    elif isinstance(config, BridgeConfig | ScoreEmbeddingConfig):
        build(config.network)
    else:
        assert isinstance(config, BridgeSampleConfig)
    check_files(config)


def _dry_sampling(config: SampleConfig) -> None:
    denoiser: Denoiser = _Stub()
    if config.network.architecture is not None:
        build(config.network.architecture)
    if config.network.denoiser is not None:
        denoiser = adapters.make(network=torch.nn.Identity(), **config.network.denoiser.model_dump(exclude_none=True))
    if config.measurement is not None:
        settings_ = config.measurement.operator.model_dump(exclude_none=True)
        shape = (3, *(config.image_size or (32, 32)))
        with contextlib.suppress(InputError):  # of the sizes of this image
            if max(shape) <= 64:
                operators.make(image_shape=shape, generators=[generator(0, 0)], **settings_)
    sampler = samplers.from_settings(config.sampler)
    sigmas = sampler.levels(denoiser)
    if not torch.isfinite(sigmas).all():
        raise AssertionError("noise levels that are no numbers")
    sampler.check_levels(denoiser, sigmas)
    sampler.num_steps(len(sigmas))
    sampler.plan(sigmas, None) if config.measurement is None else None


# --- mutations -------------------------------------------------------------------------------------------------------


@cache
def sources() -> tuple[tuple[str, Path], ...]:
    """Program and path of every config, and of two in the layout of the paper's code."""
    files = sorted([*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "tests/legacy").glob("*.yaml")])
    return tuple(("train" if _is_training(file) else "sample", file) for file in files)


def _is_training(file: Path) -> bool:
    data = read_document(file).data
    return "method" in data or not ("sampler" in data or "machinesetup" in data or "path" in data.get("bridge", {}))


@cache
def known_keys(program: str) -> tuple[str, ...]:
    """Dotted keys that the configs of a program can have."""
    names = ("sample", "bridge_sample") if program == "sample" else ("train", "bridge", "score_embedding")
    return tuple(dict.fromkeys(key for name in names for key in keys_of(schema_of(CONFIGS[name]), {})))


@cache
def known_names() -> tuple[str, ...]:
    """Words that select something somewhere."""
    return tuple(sorted(set(_words())))


def _words() -> Iterator[str]:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (word for word in [node.get("const"), *node.get("enum", [])] if isinstance(word, str))
            for inner in node.values():
                yield from walk(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from walk(inner)

    for model in CONFIGS.values():
        yield from walk(schema_of(model))


NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 100, 0.0, -0.0, 0.5, 1.5, 1e-3, 2.0, 1e6, 1e9, 1e12, 1e13, 65_536, 10**5, 10**9, 2**31,
    2**32, 2**63, 2**64,
    10**30, 10**400, 10**4000, -(10**30), 1e30, 1e308, -1e308, 1.7976931348623157e308, 5e-324, 1e-320, 1e-300,
    1e-30, 1e-13,
    float("inf"), float("-inf"), float("nan"), True, False,
]  # fmt: skip
TEXTS = [
    "", " ", "x", "auto", "none", "null", "1", "1e3", "0x10", "1:30", "2020-01-01", "\0", "a\0b", "a" * 256,
    "a" * 5000, "a/" * 2500,
    "a\nb", "\x1b[31mred", "\x07", "\u2028", "\ud800", "\udcff", "\U0001f600", "\u0663", "~", "~nobody/x",
    "$NO_SUCH", "${", "$", ".", "..", "/",
    "/dev/null", "/dev/zero", "/proc/self/mem", "https://example.org/x.pt", "C:\\x", "configs", "README.md",
    "data/photographs", "%s{0}",
]  # fmt: skip
TAGGED = [
    "!!python/object/apply:os.system ['touch executed']", "!!python/object/apply:os.mkdir ['executed']",
    "!!python/object/new:os.system [x]",
    "!!python/name:os.system ''", "!!python/module:antigravity ''", "!!python/tuple [1, 2]",
    "!!python/object:pathlib.Path {}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch executed']", "!!binary aGk=", "!!set {a, b}",
    "!!omap [a: 1]",
    "!!timestamp 2020-01-01", "!!float x", "!!float 1", "!!int 1:30", "!!int 0x10", "!!int ''", "!!bool ''",
    "!!null x", "!!map []", "!!seq {}",
    "!!str {}", "!!str []", "!!str 3", "!!map x", "!!seq x", "!mine x", "! x", "!!merge x", "!!value =",
    "!!int [1]", "!!float {a: 1}", "!!bool []",
    "!!null {}", "0o17", "1_0", "+1", "._", "-.inf", ".NaN", "1e", "=", "<<", "---", "...", "@x", "`x", "%x",
    "*none", "&a", "&a *a", "|", ">-",
    "'", '"', '"\\x00"', '"\\ud800"', '"\\uZZZZ"', "[", "{", "[}", "{a, b}", "{a: }", "[1, , 2]", "[,]", "? x",
    "- x", "x: y", "'a': b", "# x",
]  # fmt: skip
KEYS: list[Any] = [
    1, None, True, 1.5, "", " ", ".", "a.b", "\n", "\x1b[31m", "\0", "\ud800", "a" * 300, "<<", "name", "path",
    "__class__", "model_config", "self",
    "lr", "steps", "gpu", "weights", "root", "sigma", "task", "model", "machinesetup", "bridge", "method", "sampler",
]  # fmt: skip

BOMBS = [
    "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9) if i else '1'}]\n" for i in range(12)),
    "".join(f"k{i}: &k{i} {{{', '.join(f'x{j}: *k{i - 1}' for j in range(9)) if i else 'x: 1'}}}\n" for i in range(12)),
    "".join(f"k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * 9) if i else '{x: 1}'}]}}\n" for i in range(12)),
    "".join(f"k{i}: &k{i}\n  <<: {f'*k{i - 1}' if i else '{a: 1}'}\n  x{i}: 1\n" for i in range(200)),
    "k: &k [*k]\n",
    "k: &k {x: *k}\n",
    "k: &k {<<: *k}\n",
    "k: " + "[" * 900 + "]" * 900 + "\n",
    "k: " + "{a: " * 300 + "1" + "}" * 300 + "\n",
    "".join(" " * i + "a:\n" for i in range(400)),
    "k: " + "- " * 400 + "x\n",
    "".join(f"key{i}: 1\n" for i in range(20_000)),
    "k: {" + ", ".join(f"key{i}: 1" for i in range(20_000)) + "}\n",
    "k: [" + "1, " * 100_000 + "]\n",
    "k: " + "9" * 5000 + "\n",
    "k: " + "9" * 100_000 + "\n",
    "k: 1" + "_" * 100_000 + "x\n",
    "k: " + "1e" * 10_000 + "\n",
    "k: '" + "\\" * 100_000 + "'\n",
    "k: " + "a" * 900_000 + "\n",
    "? " * 500 + "a\n",
    "<<: [{a: 1}, {b: 2}]\n",
    "<<: 3\n",
    "<<: [1]\n",
    "seed: &s 3\nbatch_size: *s\n",
    "%YAML 9.9\n---\n",
    "%TAG ! tag:yaml.org,2002:python/\n---\nk: !name:os.system x\n",
    "---\n---\n",
]  # fmt: skip

Data = dict[Any, Any]


def _paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _at(data: Any, path: Sequence[Any]) -> Any:
    for part in path:
        data = data[part]
    return data


def odd_values() -> st.SearchStrategy[Any]:
    """Values that no setting, or not this one, can have."""
    leaf = st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(TEXTS),
        st.sampled_from(known_names()),
        st.none(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.text(max_size=12),
    )
    lists = st.one_of(
        st.lists(leaf, max_size=4),
        leaf.map(lambda value: [value] * 1000),
        leaf.map(lambda value: [[[value]]]),
    )
    sections = st.one_of(
        st.just({}),
        st.dictionaries(st.sampled_from(KEYS), leaf, max_size=3),
        st.builds(lambda name, rest: {"name": name, **rest}, st.sampled_from(known_names()), st.just({})),
    )
    return st.one_of(leaf, leaf, leaf, lists, sections)


def _near(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, many of which are allowed."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int) and abs(value) > 1e300:
        return st.sampled_from([-value, value // 2])
    if isinstance(value, int | float):
        factors = [0.1, 0.5, 2, 4, 10, 100, 1000, 1e6]
        return st.sampled_from([type(value)(value * f) for f in factors] + [value + 1, value - 1, value + 0.5])
    if isinstance(value, str):
        return st.one_of(st.sampled_from(known_names()), st.sampled_from(TEXTS), st.text(max_size=12))
    if isinstance(value, list):
        return st.sampled_from([value[:-1], value + value[-1:], value[::-1], value * 4])
    return st.sampled_from([{"name": name} for name in known_names()])


def _dumped(data: Data) -> str:
    return yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=False)


class _Plain(yaml.SafeDumper):
    """Writer without aliases for equal lists."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_number(self, number: int) -> yaml.Node:
        """Write a whole number of any length, for which Python's own ``str`` has a limit."""
        return self.represent_scalar("tag:yaml.org,2002:int", _digits(number))


_Plain.add_representer(int, _Plain.represent_number)


def _digits(number: int) -> str:
    return str(number) if abs(number) < 10**400 else f"{'-' * (number < 0)}1{'0' * 4000}"


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Case:
    """A config with one to three mutations."""
    program, file = draw(st.sampled_from(sources()))
    text = file.read_text(encoding="utf-8")
    if draw(st.integers(0, 19)) == 0:  # the wrong program
        program = {"sample": "train", "train": "sample"}[program]
    kind = draw(st.sampled_from(["data", "data", "data", "set", "set", "tags", "text", "bytes", "bombs"]))
    if kind == "data":
        data = read_document(file).data
        keys = [_mutate(draw, data, program) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
        return Case(program, _dumped(data).encode(), (), sum(keys, ()) if all(keys) else ())
    if kind == "set":
        overrides = tuple(_override(draw, program) for _ in range(draw(st.integers(1, 3))))
        return Case(program, text.encode(), overrides, tuple(o.partition("=")[0].strip() for o in overrides))
    if kind == "tags":
        return _with_tag(draw, program, text)
    if kind == "bombs":
        bomb = draw(st.sampled_from(BOMBS))
        lines = text.splitlines(keepends=True)
        place = draw(st.sampled_from([0, len(lines)]))
        uses = ["", "seed: *k11\n", "betas: *k11\n", "more: {<<: *k11}\n"] if "&k11" in bomb else [""]
        use = draw(st.sampled_from(uses))
        return Case(program, "".join([*lines[:place], bomb, use, *lines[place:]]).encode())
    return Case(program, _mutated_text(draw, text) if kind == "text" else _mutated_bytes(draw, text))


def _mutate(draw: Callable[[st.SearchStrategy[Any]], Any], data: Data, program: str) -> tuple[str, ...]:
    """Change ``data`` in place; the dotted keys that a message can name."""
    paths = list(_paths(data)) or [("seed",)]
    kinds = ["value", "value", "near", "near", "near", "known", "known", "remove", "rename", "key", "move", "list"]
    kind = draw(st.sampled_from(kinds))
    path = draw(st.sampled_from(paths))
    if kind == "known":
        path = tuple(draw(st.sampled_from(known_keys(program))).split("."))
        parent = data
        for part in path[:-1]:
            parent = parent.setdefault(part, {}) if isinstance(parent, dict) else {}
            if not isinstance(parent, dict):
                return (".".join(path),)
        if isinstance(parent, dict):
            parent[path[-1]] = draw(odd_values())
        return (".".join(path),)
    if len(path) > 1 and not isinstance(_at(data, path[:-1]), dict | list):
        return ()
    parent, last = _at(data, path[:-1]), path[-1]
    dotted = ".".join(map(str, path))
    if kind == "value":
        parent[last] = draw(odd_values())
    elif kind == "near":
        parent[last] = draw(_near(parent[last]))
    elif kind == "list":
        parent[last] = [parent[last]] * draw(st.sampled_from([1, 2, 20]))
    elif kind == "remove":
        del parent[last]
        return ()  # what follows from it is named
    elif kind == "key":
        section = parent if isinstance(parent, dict) else data
        key = draw(st.one_of(st.sampled_from(KEYS), st.text(max_size=6)))
        section[key] = draw(odd_values())
        return (str(key), dotted)
    elif isinstance(parent, dict) and isinstance(last, str) and kind == "rename":
        spellings = [last[:-1], last + "s", last.upper(), last[::-1], last.replace("_", "-"), f" {last}"]
        spelt = draw(st.sampled_from(spellings))
        parent[spelt] = parent.pop(last)
        return ()
    elif kind == "move" and isinstance(parent, dict):
        target = _at(data, draw(st.sampled_from(paths))[:-1])
        if isinstance(target, dict):
            target[last] = copy.deepcopy(parent[last] if draw(st.booleans()) else parent.pop(last))
        return ()
    return (dotted,)


def _override(draw: Callable[[st.SearchStrategy[Any]], Any], program: str) -> str:
    key = draw(st.one_of(
        st.sampled_from(known_keys(program)), st.sampled_from(known_keys(program)),
        st.sampled_from([str(k) for k in KEYS]),
        st.text(max_size=10),
        st.sampled_from(["", ".", "a..b", "a.b.c.d.e.f", "data.path.x", "a" * 5000, ".".join("a" * 3000)]),
    ))  # fmt: skip
    value = draw(st.one_of(
        st.sampled_from(NUMBERS).map(lambda n: _digits(n) if isinstance(n, int) else str(n)), st.sampled_from(TEXTS),
        st.sampled_from(TAGGED), st.sampled_from(known_names()), st.text(max_size=12), st.sampled_from(BOMBS[:11]),
    ))  # fmt: skip
    return f"{key}{draw(st.sampled_from(['=', '=', '=', '=', '=', '', '==']))}{value}"


def _with_tag(draw: Callable[[st.SearchStrategy[Any]], Any], program: str, text: str) -> Case:
    """A value replaced by a text that YAML gives a meaning of its own."""
    lines = text.splitlines(keepends=True)
    values = [i for i, line in enumerate(lines) if re.match(r"^ *[a-z_]+: *[^ #\n]", line)]
    place = draw(st.sampled_from(values))
    key, _, _ = lines[place].partition(":")
    lines[place] = f"{key}: {draw(st.sampled_from(TAGGED))}\n"
    return Case(program, "".join(lines).encode())


def _mutated_text(draw: Callable[[st.SearchStrategy[Any]], Any], text: str) -> bytes:
    """Lines and characters out of place."""
    lines = text.splitlines(keepends=True)
    i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    at = draw(st.integers(0, len(text)))
    nasty = draw(st.sampled_from([*"\t\0\x85\u2028\ufeff\r\x1b'[{]&*!|%:-?#\n@", '"']))
    made = draw(st.sampled_from([
        lambda: text[:at], lambda: text[at:], lambda: text[:at] + nasty + text[at:],
        lambda: text[:at] + nasty * 50 + text[at:],
        lambda: "".join([*lines[:i], *lines[i + 1 :]]), lambda: "".join([*lines[:i], lines[j], *lines[i:]]),
        lambda: "".join([*lines, lines[i]]),
        lambda: text.replace("  ", "\t"), lambda: text.replace("\n", "\r"), lambda: text.replace("\n", "\r\n"),
        lambda: text.replace(": ", ":"),
        lambda: "".join(sorted(lines)), lambda: text + text, lambda: text + "---\n" + text,
        lambda: "".join(f" {line}" for line in lines[:i]) + "".join(lines[i:]),
        lambda: "- " + text.replace("\n", "\n  "), lambda: "".join(f"# {line}" for line in lines),
        lambda: text.replace("_", "-"),
    ]))  # fmt: skip
    return made().encode("utf-8")


def _mutated_bytes(draw: Callable[[st.SearchStrategy[Any]], Any], text: str) -> bytes:
    """Encodings, and bytes out of place."""
    content = text.encode()
    at, noise = draw(st.integers(0, len(content))), draw(st.binary(min_size=1, max_size=8))
    made = draw(st.sampled_from([
        lambda: text.encode("utf-16"), lambda: text.encode("utf-16-le"), lambda: text.encode("utf-32"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: b"\xef\xbb\xbf" * 2 + content, lambda: text.replace("o", "\xf6").encode("latin-1", "replace"),
        lambda: text.encode("cp037", "replace"),
        lambda: content[:at] + noise + content[at:], lambda: content[:at] + b"\0" * 100 + content[at:],
        lambda: content + b"\0" * 4096,
        lambda: noise, lambda: b"", lambda: b"\0", lambda: content[:at] + b"\xff\xfe" + content[at:],
        lambda: content * 200,
        lambda: text.replace("o", "\u043e").encode(), lambda: content[:at] + b"\xed\xa0\x80" + content[at:],
    ]))  # fmt: skip
    return made()


UNHURRIED: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
"""Settings of Hypothesis: the time is measured here."""

# --- command ---------------------------------------------------------------------------------------------------------


def fuzz(examples: int, start: int, folder: Path) -> Report:
    """Try examples, of which a seed determines all; the report."""
    report = Report()

    @seed(start)
    @settings(max_examples=examples, phases=[Phase.generate], **UNHURRIED)
    @given(cases())
    def attempt(case: Case) -> None:
        report.add(*run_case(case, folder), case)

    warm_up()
    attempt()
    return report


def warm_up() -> None:
    """Have PyTorch make the folders and imports of its own that building a network takes."""
    for name in ("configs/vp_train.yaml", "configs/ve_train.yaml", "configs/score_embedding/one_32_small.yaml"):
        with contextlib.suppress(InputError):  # of missing data
            dry_run(load_training(ROOT / name))


def _work(arguments: tuple[int, int]) -> Report:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # what takes more is a MemoryError, a failure
    with tempfile.TemporaryDirectory() as folder:
        return fuzz(*arguments, Path(folder))


def main(words: Sequence[str] | None = None) -> int:
    """Try as many examples as the command line says; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="show N random refusals too")
    options = parser.parse_args(words)
    begin = time.monotonic()
    parts = range(0, options.examples, PART)
    work = [(min(PART, options.examples - part), 1_000_000 * options.seed + part) for part in parts]
    report = Report()
    with contextlib.suppress(KeyboardInterrupt), multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for made in pool.imap_unordered(_work, work):
            report.merge(made)
            new = made.text().partition("\n")[2] if made.failures else ""
            print(report.text().partition("\n")[0] + new, file=sys.stderr, flush=True)
    print(report.text())
    print(f"{time.monotonic() - begin:.0f} s, seed {options.seed}")
    chosen = random.Random(options.seed).sample(report.messages, min(options.show, len(report.messages)))
    print(*(f"\n{message}" for message in chosen), sep="\n")
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
