"""Pages of runs as tests see them: the data that a page shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

WHEN_AND_WHERE = ("run", "commands", "settings", "resume", "written")
"""Entries of a page that depend on when, where and by which command a run was made."""


def data_of(page: Path) -> Any:
    """Data of a page, read as the browser does."""
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    [text] = found
    return json.loads(text)


def lasting(page: Path) -> Any:
    """Data of a page that must not depend on when, where and in how many parts the run was made."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(inner) for key, inner in value.items() if key != "seconds"}
        return [without_times(inner) for inner in value] if isinstance(value, list) else value

    return without_times({key: value for key, value in data_of(page).items() if key not in WHEN_AND_WHERE})
