"""Typed settings: the whole vocabulary of the YAML files, and the keywords of Python's ``make`` functions.

A setting is declared once, as a field of a class in this package: its name, type, bounds, default and one line of
help. From that follow the key in YAML and its checks (:mod:`randomwalk.config.validate`), the JSON schema by which
editors complete it (``python -m randomwalk.config --schema``), its line in ``docs/settings.md`` (``--docs``), and the
keyword in Python, since ``operators.make`` and the other ``make`` functions check their keywords against the same
class. Files are read by :mod:`randomwalk.config.files`. Nothing here imports PyTorch.
"""

from randomwalk.config.base import Settings
from randomwalk.config.sampling import SampleConfig
from randomwalk.config.training import TrainConfig

__all__ = ["SampleConfig", "Settings", "TrainConfig"]
