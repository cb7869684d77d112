"""Configuration files in and out. Imports no PyTorch.

A file is read safely (:mod:`randomwalk.config.yamltext`), translated if it is in the layout of the paper's own code
(:mod:`randomwalk.config.legacy`), changed by ``--set``, and checked against the classes of :mod:`randomwalk.config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from randomwalk.config import SampleConfig, TrainConfig, legacy
from randomwalk.config.base import PATH_KEYS, Settings
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.validate import validate
from randomwalk.config.yamltext import Document, Dumper, apply_overrides, read_document
from randomwalk.errors import InputError
from randomwalk.lookup import program


def load_sample_config(path: str | Path, overrides: Sequence[str] = ()) -> SampleConfig:
    """The sampling task in a YAML file, in our layout or in that of the paper's code.

    Args:
        path: the file.
        overrides: ``"a.b.c=value"`` each, the value in YAML; an empty value removes the key. A file in the layout of
            the paper's code is changed by its own keys, and its translation by ours.

    Returns:
        The task; its ``notes`` list unused keys of a translated file.

    Raises:
        InputError: one message that lists all problems of the file.
    """
    document = read_document(path)
    notes: tuple[str, ...] = ()
    of_training = TrainConfig.model_fields.keys() - SampleConfig.model_fields.keys()
    if legacy.is_legacy(document.data):
        theirs, overrides = legacy.split_overrides(overrides)
        apply_overrides(document, theirs)
        document, notes = legacy.translate(document)
    elif "sampler" not in document.data and document.data.keys() & of_training:
        raise InputError(f"{path}: is a training; {_start_by('train', '--config', path)}")
    config = validate(SampleConfig, apply_overrides(document, overrides))
    config._notes = notes
    return config


def load_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The training in a YAML file.

    Args:
        path: the file.
        overrides: as for :func:`load_sample_config`.

    Raises:
        InputError: one message that lists all problems of the file.
    """
    document = read_document(path)
    if "sampler" in document.data or legacy.is_legacy(document.data):
        raise InputError(f"{path}: is a sampling task; {_start_by('sample', '--diffusion_config', path)}")
    return validate(TrainConfig, apply_overrides(document, overrides))


def load_sampling(path: str | Path, overrides: Sequence[str] = ()) -> SampleConfig | BridgeSampleConfig:
    """The task of ``sample.py``: sampling, or, with the key ``bridge``, the use of a trained bridge.

    Arguments and errors are those of :func:`load_sample_config`.
    """
    document = read_document(path)
    if "bridge" not in document.data:
        return load_sample_config(path, overrides)
    if not _has_weights(document):
        raise InputError(f"{path}: is the training of a bridge; {_start_by('train', '--config', path)}")
    return validate(BridgeSampleConfig, apply_overrides(document, overrides))


def load_training(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig | BridgeConfig | ScoreEmbeddingConfig:
    """The task of ``train.py``: the training of a denoiser, or, with the key ``bridge``, of a bridge, or, with the key
    ``method``, of score embedding or its baseline.

    Arguments and errors are those of :func:`load_train_config`.
    """
    document = read_document(path)
    if "method" in document.data:
        return validate(ScoreEmbeddingConfig, apply_overrides(document, overrides))
    if "bridge" not in document.data:
        return load_train_config(path, overrides)
    if _has_weights(document):
        raise InputError(f"{path}: is a task for a trained bridge; {_start_by('sample', '--config', path)}")
    return validate(BridgeConfig, apply_overrides(document, overrides))


def _start_by(name: str, option: str, path: str | Path) -> str:
    """Command for a config of another program, or for the run that it belongs to."""
    folder = Path(path).parent
    if Path(path).name == "config.yaml" and (folder / "run.json").is_file():
        return f"continue it with {program(name)} --resume {folder}"
    return f"start it with {program(name)} {option} {path}"


def _has_weights(document: Document) -> bool:
    """Whether the file is about a trained bridge."""
    section = document.data["bridge"]
    return isinstance(section, dict) and "path" in section


def dump(config: Settings) -> str:
    """The resolved configuration as YAML, defaults included; loading it gives an equal configuration."""
    data = _plain(config)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _plain(section: Settings) -> dict[str, Any]:
    """A section as plain data: its name first, without optional keys that are not set."""
    fields = type(section).model_fields
    data: dict[str, Any] = {}
    for key in sorted(fields, key=lambda key: key != "name"):
        value = getattr(section, key)
        if value is not None or fields[key].default is not None:
            data[key] = _plain(value) if isinstance(value, Settings) else value
            if key in PATH_KEYS:
                data[key] = _as_written(value)
    return data


def _as_written(path: Any) -> Any:
    """A path, or a list of them, in which nothing is to be expanded when it is read again."""
    if isinstance(path, list):
        return [_as_written(one) for one in path]
    return path.replace("$", "$$") if isinstance(path, str) else path
