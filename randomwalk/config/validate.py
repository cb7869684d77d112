"""Check plain data against the classes of this package, and say in plain words what is wrong.

YAML files come here as a :class:`Document`, and the keywords of Python's ``make`` functions through :func:`complete`.
The words come from the JSON schema of the class, so that a message and the user's editor agree on what is allowed.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
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
from randomwalk.config.yamltext import Document, KeyPath, shown_key
from randomwalk.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

_MOST_LINES = 20
_MOST_ERRORS = 100  # to explain; several can be of one line
_ABOUT_A_KEY = re.compile(r"^([a-z_0-9.]+): (.*)$", re.DOTALL)  # the text of our own validators
_LIMITS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "divisible by",
}


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
    errors = error.errors(include_url=False)
    found = [_problem(details, schema_of(model), document, renamed) for details in errors[:_MOST_ERRORS]]
    # The branches of a union report one value several times: first comes the report of a validator of ours.
    problems = dict.fromkeys((path for path, _, _ in found), "")
    problems |= {path: text for path, text, _ in reversed(found)}
    problems |= {path: text for path, text, is_ours in reversed(found) if is_ours}
    lines = [f"{_dotted(path)}{document.origin(path)}: {text}" for path, text in problems.items()]
    if len(lines) == 1:
        return InputError(f"{document.where}: {lines[0]}")
    number = len(lines) + max(len(errors) - _MOST_ERRORS, 0)
    rest = [f"... and {number - _MOST_LINES} more"] if number > _MOST_LINES else []
    return InputError("\n  ".join([f"{document.where}: {number} problems", *lines[:_MOST_LINES], *rest]))


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


def _problem(
    details: ErrorDetails, schema: Schema, document: Document, renamed: Mapping[str, str]
) -> tuple[KeyPath, str, bool]:
    """Key path and explanation of a problem, and whether a validator of ours wrote the explanation."""
    kind, (path, node, section, union) = details["type"], _walk(details["loc"], schema)
    if kind == "value_error":
        text = str(details["ctx"]["error"])
        match = _ABOUT_A_KEY.match(text)
        return ((*path, *match[1].split(".")), match[2], True) if match else (path, text, True)
    if kind == "missing":
        return path, f"missing; expected {describe(node, schema)}", False
    names = list(node.get("discriminator", {}).get("mapping", {}))  # those that can select a section
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        path = (*path, node["discriminator"]["propertyName"])
        if kind == "union_tag_not_found":
            return path, f"missing; expected {_one_of(names)}", False
        value = document.value(path)
        hint = _suggestion(value, names)
        return path, f"found {_shown(value, True)}; {hint}allowed: {_one_of(names)}", False
    if kind == "extra_forbidden":
        return path, _unknown_key(path, section, union, schema, document, renamed), False
    value = document.value(path)
    properties = node.get("properties", {})
    names = names or resolve(properties.get("name", {}), schema).get("enum", [])
    branches = [node, *(resolve(branch, schema) for branch in node.get("anyOf", []))]
    choices = [choice for branch in branches for choice in branch.get("enum", [])]
    hint = _suggestion(value, choices)
    if isinstance(value, str) and value in names:
        hint = f"did you mean {_dotted(path)}.name={value}? "
    elif isinstance(value, str) and "path" in properties:
        hint = f"did you mean {_dotted(path)}.path={value}? "
    shown = _shown(value, text_expected=bool(choices or names) or "const" in node)
    return path, f"found {shown}; {hint}allowed: {describe(node, schema)}", False


def _walk(location: tuple[str | int, ...], schema: Schema) -> tuple[KeyPath, Schema, Schema, Schema]:
    """Follow the location of a pydantic error through the schema.

    Parts of such a location are not keys of the user: the chosen name of a section is dropped, and the walk ends at the
    branches of a union, since the value is wrong as a whole.

    Returns:
        The key path, and the schemas of its value, of the section around it, and of the union of which that section
        is one (empty if it is not of a union).
    """
    path: KeyPath = ()
    node = section = resolve(schema, schema)
    union: Schema = {}
    union_of_node: Schema = {}
    for part in location:
        if part in node.get("discriminator", {}).get("mapping", {}):
            union_of_node, node = node, resolve({"$ref": node["discriminator"]["mapping"][part]}, schema)
            continue
        if "properties" in node and isinstance(part, str):
            inner = node["properties"].get(part, {})
        elif "items" in node and isinstance(part, int):
            inner = node["items"]
        else:
            break
        path, section, union, union_of_node = (*path, part), node, union_of_node, {}
        node = resolve(inner, schema)
    return path, node, section, union


def _unknown_key(
    path: KeyPath, section: Schema, union: Schema, schema: Schema, document: Document, renamed: Mapping[str, str]
) -> str:
    """Explanation of a key that its section does not have, with a pointer to the intended one."""
    known, dotted, value = _keys(section), _dotted(path), document.value(path)
    branches = union.get("discriminator", {}).get("mapping", {})
    others = [n for n in branches if path[-1] in resolve({"$ref": branches[n]}, schema).get("properties", {})]
    hint = hints.renamed(dotted, value, renamed)
    if not hint and others:
        in_file = document.origins and document.origins.get(path) != "--set" and all(isinstance(p, str) for p in path)
        remove = f", so remove it: --set {dotted}=" if in_file else ""
        hint = f"it is for name: {', '.join(others)}{remove}; "
    for data in (document.data, {}):  # first among the sections that this config has chosen, then among all
        hint = hint or hints.elsewhere(dotted, value, known, hints.keys_of(schema, data))
    name = section["properties"].get("name", {}).get("const")
    return f"unknown key; {hint}{f'known with name: {name}' if name else 'known here'}: {', '.join(known)}"


# --- words -----------------------------------------------------------------------------------------------------------


def _dotted(path: KeyPath) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{shown_key(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _keys(section: Schema) -> list[str]:
    return sorted(section["properties"], key=lambda key: key != "name")


def _one_of(choices: list[Any]) -> str:
    words = [str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _suggestion(value: Any, known: list[str]) -> str:
    if not isinstance(value, str) or len(value) > 100:
        return ""
    close = difflib.get_close_matches(value.lower(), map(str, known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}? " if close else ""


def _shown(value: Any, text_expected: bool) -> str:
    """``value`` as the user would write it, shortened, with a mark on text where text is not expected."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        keys = ", ".join(shown_key(str(key)) for key in list(value)[:4])
        return f"a section ({keys}{', ...' if len(value) > 4 else ''})" if value else "an empty section"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:40]}...{value[-15:]}"
        return repr(shown) + ("" if text_expected else " (text)")
    if isinstance(value, float) and value - value != 0:
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    short = reprlib.Repr()
    short.maxlevel, short.maxlist = 2, 6
    return short.repr(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


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
    match node.get("type"):
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return "text that is not empty" if node.get("minLength") else "text"
        case "array":
            count = node.get("minItems")
            more = "" if count == node.get("maxItems") else "or more "
            size = f"{count} {more}entries" if count else "entries"
            return f"a list of {size}, each {describe(node.get('items', {}), schema)}"
    what = {"integer": "a whole number", "number": "a number"}.get(node.get("type", ""), "a value")
    limits = [f"{words} {_number(node[key])}" for key, words in _LIMITS.items() if key in node]
    return f"{what} {' and '.join(limits)}".strip()
