"""Check plain data against the classes of this package, and say in plain words what is wrong.

YAML files come here as a :class:`Document`, and the keywords of Python's ``make`` functions through :func:`complete`.
The words come from the JSON schema of the class, so that a message and the user's editor agree on what is allowed.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from randomwalk import lookup
from randomwalk.config import hints
from randomwalk.config.base import named
from randomwalk.config.hints import Schema, resolve
from randomwalk.config.legacy_layout import NATIVE_NAMES
from randomwalk.config.yamltext import Document, KeyPath
from randomwalk.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

_MOST_LINES = 20
_ABOUT_A_KEY = re.compile(r"^([a-z_0-9.]+): (.*)$", re.DOTALL)  # the text of our own validators
_MISSING_TAG = "union_tag_not_found"
_WRONG_TAG = "union_tag_invalid"


def validate(model: type[Model], document: Document, renamed: Mapping[str, str] = NATIVE_NAMES) -> Model:
    """An instance of ``model``.

    Args:
        model: the class.
        document: the data.
        renamed: names here of the keys of another layout, for pointers.

    Raises:
        InputError: one message with a line for each problem: the key's path, what was found, what is allowed.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise explained(error, model, document, renamed) from None


def explained(
    error: ValidationError, model: type[BaseModel], document: Document, renamed: Mapping[str, str] = NATIVE_NAMES
) -> InputError:
    """The error in plain words, with a line for each problem; the arguments are those of `validate`."""
    problems: dict[KeyPath, str] = {}
    # The branches of a union report one value several times: first comes the report of a validator of ours.
    found = list(_problems(error, schema_of(model), document, renamed))
    for path, text, _ in sorted(found, key=lambda problem: not problem[2]):
        problems.setdefault(path, text)
    problems = {path: problems[path] for path, _, _ in found}
    lines = [f"{_dotted(path)}{document.origin(path)}: {text}" for path, text in problems.items()]
    if len(lines) == 1:
        return InputError(f"{document.where}: {lines[0]}")
    rest = [f"... and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return InputError("\n  ".join([f"{document.where}: {len(lines)} problems", *lines[:_MOST_LINES], *rest]))


def complete(kind: str, union: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of one class of a union: the given ones, checked, and the declared defaults of the others.

    Args:
        kind: what the union holds, for messages: "operator".
        union: such as ``OperatorSettings``.
        settings: ``{"name": ..., **settings}``; tuples, paths, arrays and tensors pass for what YAML has instead.

    Returns:
        ``{"name": ..., **settings}``, sections as dictionaries.

    Raises:
        InputError: an unknown name or key, or a value that is not allowed.
    """
    name = settings.get("name")
    model = lookup.find(kind, named(union), str(name))
    return validate(model, Document(_as_yaml(dict(settings)), f"{kind} {name}")).model_dump()


def _as_yaml(value: Any) -> Any:
    """A Python value as YAML would give it."""
    if isinstance(value, Mapping):
        return {key: _as_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value  # NumPy's and PyTorch's numbers and arrays


@cache
def schema_of(model: type[BaseModel]) -> Schema:
    """The JSON schema of ``model``, without the titles, which only repeat the keys."""
    schema: Schema = _without_titles(model.model_json_schema())
    return schema


def _without_titles(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_titles(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in node] if isinstance(node, list) else node


# --- one problem -----------------------------------------------------------------------------------------------------


def _problems(
    error: ValidationError, schema: Schema, document: Document, renamed: Mapping[str, str]
) -> Iterator[tuple[KeyPath, str, bool]]:
    """Key path and explanation of every problem, and whether a validator of ours wrote the explanation."""
    for details in error.errors(include_url=False):
        walk = _Walk(schema)
        walk.to(details["loc"])
        if details["type"] == "extra_forbidden":
            yield walk.path, _unknown_key(walk, document, renamed), False
        else:
            yield *_explain(details, walk, document), details["type"] == "value_error"


def _explain(details: ErrorDetails, walk: _Walk, document: Document) -> tuple[KeyPath, str]:
    kind, path, node, schema = details["type"], walk.path, walk.node, walk.schema
    if kind == "value_error":
        text = str(details["ctx"]["error"])
        if match := _ABOUT_A_KEY.match(text):
            return (*path, *match[1].split(".")), match[2]
        return path, text
    if kind == "missing":
        return path, f"missing; expected {describe(node, schema)}"
    if kind in (_MISSING_TAG, _WRONG_TAG):
        key = node["discriminator"]["propertyName"]
        names = list(node["discriminator"]["mapping"])
        path = (*path, key)
        if kind == _MISSING_TAG:
            return path, f"missing; expected {_one_of(names)}"
        value = document.value(path)
        return path, f"found {found(value, text_expected=True)}; {_suggestion(value, names)}allowed: {_one_of(names)}"
    value = document.value(path)
    choices = _choices(node, schema)
    names = _names_of_section(node, schema)
    hint = _suggestion(value, choices)
    if isinstance(value, str) and value in names:
        hint = f"did you mean {_dotted(path)}.name={value}? "
    elif isinstance(value, str) and "path" in node.get("properties", {}):
        hint = f"did you mean {_dotted(path)}.path={value}? "
    return path, (
        f"found {found(value, text_expected=bool(choices or names) or 'const' in node)}; "
        f"{hint}allowed: {describe(node, schema)}"
    )


def _unknown_key(walk: _Walk, document: Document, renamed: Mapping[str, str]) -> str:
    """Explanation of a key that its section does not have, with a pointer to the intended one."""
    path, known, dotted = walk.path, _keys(walk.section), _dotted(walk.path)
    name = walk.section["properties"].get("name", {}).get("const")
    others = [n for n, branch in walk.branches() if path[-1] in branch.get("properties", {})]
    hint = hints.renamed(dotted, document.value(path), renamed)
    if not hint and others:
        in_file = document.origins and document.origins.get(path) != "--set" and all(isinstance(p, str) for p in path)
        remove = f", so remove it: --set {dotted}=" if in_file else ""
        hint = f"it is for name: {_one_of(others).removeprefix('one of ')}{remove}; "
    for data in (document.data, {}):  # first among the sections that this config has chosen, then among all
        hint = hint or hints.elsewhere(dotted, document.value(path), known, hints.keys_of(walk.schema, data))
    here = f"known with name: {name}" if name else "known here"
    return f"unknown key; {hint}{here}: {', '.join(known)}"


def _choices(node: Schema, schema: Schema) -> list[Any]:
    """The values listed by a node or one of its branches."""
    branches = [resolve(branch, schema) for branch in node.get("anyOf", [])]
    return [*node.get("enum", []), *(choice for branch in branches for choice in branch.get("enum", []))]


def _names_of_section(node: Schema, schema: Schema) -> list[Any]:
    """The names that can select a section."""
    if "discriminator" in node:
        return list(node["discriminator"]["mapping"])
    return list(resolve(node.get("properties", {}).get("name", {}), schema).get("enum", []))


class _Walk:
    """Follows the location of a pydantic error through the schema.

    Parts of such a location are not keys of the user: the chosen name of a section is dropped, and the walk ends at the
    branches of a union, since the value is wrong as a whole.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.path: KeyPath = ()
        self.node = self.section = resolve(schema, schema)
        self.union: Schema = {}

    def to(self, location: tuple[str | int, ...]) -> None:
        """Walk to the key path, the schema of its value and the schema of the section around it."""
        union: Schema = {}
        for part in location:
            node = self.node
            if part in node.get("discriminator", {}).get("mapping", {}):
                union = node
                self.node = resolve({"$ref": node["discriminator"]["mapping"][part]}, self.schema)
            elif "properties" in node and isinstance(part, str):
                self.path, self.section, self.union, union = (*self.path, part), node, union, {}
                self.node = resolve(node["properties"].get(part, {}), self.schema)
            elif "items" in node and isinstance(part, int):
                self.path, self.section, self.union, union = (*self.path, part), node, {}, {}
                self.node = resolve(node["items"], self.schema)
            else:
                break

    def branches(self) -> Iterator[tuple[str, Schema]]:
        """The alternatives, by name, to the section around the value."""
        for name, reference in self.union.get("discriminator", {}).get("mapping", {}).items():
            yield name, resolve({"$ref": reference}, self.schema)


# --- words -----------------------------------------------------------------------------------------------------------


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _keys(section: Schema) -> list[str]:
    return sorted(section["properties"], key=lambda key: key != "name")


def _one_of(choices: list[Any]) -> str:
    words = [str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _suggestion(value: Any, known: list[str]) -> str:
    if not isinstance(value, str):
        return ""
    close = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}? " if close else ""


def found(value: Any, text_expected: bool = False) -> str:
    """``value`` as the user would write it, shortened, with a mark on text where text is not expected."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        keys = ", ".join(list(value)[:4])
        return f"a section ({keys}{', ...' if len(value) > 4 else ''})" if value else "an empty section"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:40]}...{value[-15:]}"
        return repr(shown) + ("" if text_expected else " (text)")
    if isinstance(value, float) and value - value != 0:
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    short = reprlib.Repr()
    short.maxlevel, short.maxlist = 2, 6
    return short.repr(value)


def describe(node: Schema, schema: Schema) -> str:
    """The values that a node of a JSON schema allows, in words."""
    if "$ref" in node:
        return describe(resolve(node, schema), schema)
    if "anyOf" in node:
        return ", or ".join(describe(branch, schema) for branch in node["anyOf"])
    if "discriminator" in node:
        key = node["discriminator"]["propertyName"]
        return f"a section with {key}: {_one_of(list(node['discriminator']['mapping']))}"
    if "const" in node or "enum" in node:
        return _one_of([str(c).lower() if isinstance(c, bool) else c for c in node.get("enum", [node.get("const")])])
    if "properties" in node:
        return f"a section with the keys {', '.join(_keys(node))}"
    if "examples" in node:
        return f"{', '.join(node['examples'][:-1])} or {node['examples'][-1]}"
    text = "text that is not empty" if node.get("minLength") else "text"
    words = {"boolean": "true or false", "string": text, "null": "null"}
    kind = node.get("type", "")
    if kind == "array":
        count = node.get("minItems")
        size = f"{count} or more entries" if count else "entries"
        size = f"{count} entries" if count is not None and count == node.get("maxItems") else size
        return f"a list of {size}, each {describe(node.get('items', {}), schema)}"
    return words.get(kind) or _describe_number(node)


def _describe_number(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    limits = [
        *([f"of at least {low}"] if low is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"at most {high}"] if high is not None else []),
        *([f"below {below}"] if below is not None else []),
        *([f"divisible by {node['multipleOf']}"] if "multipleOf" in node else []),
    ]
    what = {"integer": "a whole number", "number": "a number"}.get(node.get("type", ""), "a value")
    return " ".join([what, " and ".join(limits)]).strip()
