"""YAML text to plain data, safely and strictly.

Scalars follow YAML 1.2, as editors do: ``1e-4`` is a number, ``yes`` and ``on`` are text. Tags create nothing but
plain data: ``!!python/tuple`` is read as a list, every other Python tag is refused. Keys are text and occur once.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

from randomwalk.config.base import PATH_KEYS
from randomwalk.errors import InputError
from randomwalk.lookup import find_file

KeyPath = tuple[str | int, ...]

_MAX_BYTES = 1_000_000
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of characters in UTF-16; those in the gap stand for bytes of file names that are not UTF-8."""
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9][0-9_]*", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    "merge": ("<<", ["<"]),
}
"""Patterns of unquoted scalars by type, and the characters with which each can begin."""


@dataclass
class Document:
    """Plain data, with the place of each value in the user's input.

    Attributes:
        data: the top-level section.
        where: its name in messages.
        origins: "line 12" or "--set" by key path; a value without one has the place of its section.
    """

    data: dict[str, Any]
    where: str
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Place of the value at ``path``, or of the innermost section around it with a place: ``" (line 12)"``."""
        found = (self.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origins)
        return next((f" ({origin})" for origin in found), "")

    def value(self, path: KeyPath) -> Any:
        """The value at ``path``, which exists."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value


def shown_key(part: str) -> str:
    """A key as a message shows it: shortened, and quoted if it holds what a terminal does not print."""
    short = part if len(part) <= 60 else f"{part[:40]}...{part[-15:]}"
    return short if short.isprintable() and short.strip() == short != "" else repr(short)


def read_document(path: str | Path) -> Document:
    """The YAML file at ``path``.

    Raises:
        InputError: it cannot be read, is not YAML, or is not a section of keys.
    """
    file = Path(find_file(path))
    if file.is_dir():
        raise InputError(f"{file}: is a folder; expected a YAML file")
    if not file.exists():
        names = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.7)
        hint = f"; did you mean {file.parent / close[0]}?" if close else ""
        raise InputError(f"{file}: does not exist{hint}")
    try:
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise InputError(f"{file}: has {size:,} bytes; expected a YAML file of at most {_MAX_BYTES:,}")
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: is not UTF-8 text; expected a YAML file") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    data, origins = _parse(text, str(path))
    if isinstance(data, dict):
        return Document(data, str(path), origins)
    what = "holds a list" if isinstance(data, list) else f"holds the single value {data!r}"[:86]
    state = "is empty" if data is None else f"{what} at the top level"
    raise InputError(f"{path}: {state}; expected keys and values, such as seed: 0")


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Change ``document`` in place by ``a.b.c=value`` (the value is YAML) and ``a.b.c=`` (removes the key); return it.

    Raises:
        InputError: no ``=``, a value that is not YAML, or a path through something that is not a section.
    """
    for override in overrides:
        dotted, equals, text = override.partition("=")
        path = tuple(dotted.strip().split("."))
        if not equals or not all(path):
            raise InputError(
                f"--set {shown_key(override)}: expected KEY=VALUE, such as --set sampler.schedule.num_steps=50"
            )
        if _HALF.search(dotted):
            raise InputError(f"--set {shown_key(dotted)}: is not text; expected a key of the config")
        if len(path) > _MAX_DEPTH:
            raise InputError(f"--set {shown_key(dotted)}: is nested too deeply; expected at most {_MAX_DEPTH} keys")
        section = document.data
        for depth, key in enumerate(path[:-1], start=1):
            if section.get(key) is None:  # missing sections are added
                section[key] = {}
                document.origins[path[:depth]] = "--set"
            section = section[key]
            if not isinstance(section, dict):
                raise InputError(
                    f"{document.where}: {'.'.join(map(shown_key, path))} (--set): "
                    f"{'.'.join(map(shown_key, path[:depth]))} is {reprlib.repr(section)}, not a section with keys; "
                    "set it as a whole"
                )
        for known in [known for known in document.origins if known[: len(path)] == path]:
            del document.origins[known]
        if text.strip():
            section[path[-1]] = _given(path[-1], text, f"--set {shown_key(dotted)}")
            document.origins[path] = "--set"
        else:
            section.pop(path[-1], None)
    return document


def _given(key: str, text: str, where: str) -> Any:
    """Value of an override: YAML, but a path is taken to the letter, unless YAML reads quoted text, a list or nothing.

    So ``output=my #1`` needs no quotes, and a name may have characters that YAML does not know.
    """
    if key not in PATH_KEYS:
        return _parse(text, where)[0]
    if text.lstrip()[0] in "\"'[{" or text.strip() in ("null", "Null", "NULL"):
        with contextlib.suppress(InputError):
            return _parse(text, where)[0]
    return text


# --- parsing ---------------------------------------------------------------------------------------------------------


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    try:
        return int(text) if node.tag == _TAG + "int" else float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except ValueError:
        raise ConstructorError(None, None, f"{text[:40]!r} is not a number", node.start_mark) from None


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    text = loader.construct_scalar(node)
    if text.lower() not in ("true", "false"):
        raise ConstructorError(None, None, f"{text[:40]!r} is not true or false", node.start_mark)
    return bool(text.lower() == "true")


def _refuse(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    tag = node.tag.replace(_TAG, "!!")
    reason = "would run code; refused" if tag.startswith("!!python/") else "is not understood; remove it"
    raise ConstructorError(None, None, f"the tag {tag} {reason}", node.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, restricted to the scalars and tags of this module, and in the number of values."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > _MAX_VALUES:
            raise ConstructorError(
                None, None, f"more than {_MAX_VALUES:,} values; expected fewer", self.peek_event().start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    yaml_multi_constructors: ClassVar[dict[str | None, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        _TAG + "null": lambda loader, node: None,
        _TAG + "bool": _boolean,
        _TAG + "int": _number,
        _TAG + "float": _number,
        _TAG + "str": yaml.SafeLoader.construct_yaml_str,
        _TAG + "seq": yaml.SafeLoader.construct_yaml_seq,
        _TAG + "map": yaml.SafeLoader.construct_yaml_map,
        _TAG + "python/tuple": yaml.SafeLoader.construct_yaml_seq,
        None: _refuse,
    }


class Dumper(yaml.SafeDumper):
    """Writer whose output the loader of this module reads back unchanged."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = Dumper.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


def _parse(text: str, where: str) -> tuple[Any, dict[KeyPath, str]]:
    """Plain data, and the line of every key."""
    try:
        loader = _Loader(text)  # reads the first characters and refuses non-text
        node = loader.get_single_node()
        if node is None:
            return None, {}
        origins: dict[KeyPath, str] = {}
        if _count(node, {}) > _MAX_VALUES:
            raise InputError(f"{where}: has more than {_MAX_VALUES:,} values, aliases included; expected fewer")
        _index(node, (), origins, set())
        return loader.construct_document(node), origins
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark and not where.startswith("--set") else ""
        problem = error.problem or error.context or "is not YAML"
        if problem.startswith("but ") and error.context:
            problem = f"{error.context}, {problem}"
        hint = " (quote text that contains a colon)" if "mapping values are not" in problem else ""
        raise InputError(f"{where}{line}: {problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise InputError(f"{where}, line {number}: contains a character that is not text; expected YAML") from error
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply") from None


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Number of values below ``node``, those behind an alias as often as it occurs; refuse one that holds itself.

    A few lines of aliases of aliases could otherwise stand for more values than any machine holds.
    """
    if id(node) not in counts:
        counts[id(node)] = -1
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
            raise ConstructorError(None, None, "half a character (\\uD800 to \\uDFFF) is not text", node.start_mark)
        counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    if counts[id(node)] < 0:
        raise ConstructorError(None, None, "an alias stands for the value that holds it", node.start_mark)
    return counts[id(node)]


def _index(node: yaml.Node, path: KeyPath, origins: dict[KeyPath, str], seen: set[int]) -> None:
    """Note the line of every key below ``node``; refuse keys that occur twice or are not text."""
    if id(node) in seen:  # an alias: its lines are those of the first use
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _index(item, (*path, i), origins, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == _TAG + "merge":
            _index(value, path, origins, seen)
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "that is a list or a section"
            raise ConstructorError(None, None, f"the key {shown} is not text", key.start_mark)
        if key.value in lines:
            problem = f"the key {key.value!r} occurs twice, first on line {lines[key.value]}; remove one"
            raise ConstructorError(None, None, problem, key.start_mark)
        lines[key.value] = line
        origins[(*path, key.value)] = f"line {line}"
        _index(value, (*path, key.value), origins, seen)
