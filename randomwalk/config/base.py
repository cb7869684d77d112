"""Types of settings, and the base class of all sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from randomwalk.errors import InputError
from randomwalk.lookup import expand, find_file


def _whole(value: Any) -> Any:
    """Accept 2e6, which YAML reads as a float, as a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _expanded(path: str) -> str:
    try:
        return expand(path)
    except InputError as error:
        raise ValueError(str(error)) from error


def _any_text(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a text that may hold bytes which are not UTF-8, as names of files can, and which pydantic refuses."""
    if not isinstance(value, str):
        return check(value)
    check(value.encode(errors="replace").decode())
    return value


def _not_tiny(value: float) -> float:
    if value < _TINY:
        raise ValueError(f"found {value:g}, which is as good as 0; allowed: a number of at least {_TINY:g}")
    return value


_TINY, _HUGE = 1e-12, 1e9  # the squares of both, and what they are divided by, are numbers in float32

# Every number has bounds that a machine can meet: tests/config/test_bounds.py goes through all settings.
WHOLE = BeforeValidator(_whole)
Positive = Annotated[float, Field(gt=0, le=_HUGE), AfterValidator(_not_tiny)]
NonNegative = Annotated[float, Field(ge=0, le=_HUGE)]
Number = Annotated[float, Field(ge=-_HUGE, le=_HUGE)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63), WHOLE]
Natural = Annotated[int, Field(ge=0, le=1_000_000_000), WHOLE]
Count = Annotated[int, Field(ge=1, le=1_000_000_000_000), WHOLE]
"""A number that costs time and no memory, such as training images."""
Steps = Annotated[int, Field(ge=1, le=100_000), WHOLE]
"""Steps of a walk, or of a part of one."""
Images = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Batch = Annotated[int, Field(ge=1, le=65_536), WHOLE]
TableSize = Annotated[int, Field(ge=2, le=1_000_000), WHOLE]
"""Levels of a table of noise levels."""
Side = Annotated[int, Field(ge=1, le=65_536), WHOLE]
"""Height or width in pixels."""
Width = Annotated[int, Field(ge=1, le=16_384), WHOLE]
"""Channels in a network, of which `randomwalk.config.networks` bounds the parameters."""
Blocks = Annotated[int, Field(ge=1, le=64), WHOLE]
"""Residual blocks of one level of a network."""
Frames = Annotated[int, Field(ge=0, le=1000), WHOLE]
Pair = Field(min_length=2, max_length=2)
MOST_LEVELS = 16
Levels = Field(min_length=1, max_length=MOST_LEVELS)
"""A list with an entry for each resolution level of a network."""
Text = Annotated[str, Field(min_length=1, max_length=4096)]
OutputPath = Annotated[Text, WrapValidator(_any_text), AfterValidator(_expanded)]
"""A folder to write; `~` and `$VARIABLES` are expanded."""
PathText = Annotated[OutputPath, AfterValidator(find_file)]
"""A file or folder to read: expanded, and if it does not exist, the bundled one of that name."""
PATH_KEYS = frozenset({
    "path", "output", "file", "maps", "points", "validation_path", "intervals", "initial_weights", "alphas_cumprod",
    "betas", "camera_path",
})  # fmt: skip
"""Names of the settings whose text is a path."""
Fit = Literal["resize", "crop", "pad"]
SampleFit = Literal["resize", "crop", "pad", "keep"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", examples=["auto", "cpu", "mps", "cuda", "cuda:1"])
]


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, nothing is converted, and docstrings of keys are their help.

    Validators refuse with ``ValueError("key: what is wrong")``, the key relative to its section.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


def check_order(low_key: str, low: float | None, high_key: str, high: float | None) -> None:
    """Refuse a range whose lower end is not below the upper one; missing ends pass."""
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{low_key}: found {low}; allowed: a number below {high_key}, which is {high}")


def named(union: Any) -> dict[str, type[Settings]]:
    """The classes of a union of settings by the ``name`` that selects each in YAML and in Python.

    Args:
        union: such as ``OperatorSettings``.
    """
    classes = get_args(get_args(union)[0]) or get_args(union)
    return {name: cls for cls in classes for name in get_args(cls.model_fields["name"].annotation)}
