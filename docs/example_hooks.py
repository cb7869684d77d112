"""Hook of mkdocs: run docs/examples/*.py as notebooks, and make a page and a download of each.

A cell that raises fails the build. Pictures are made here, and are in no commit.
"""

from __future__ import annotations

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300
"""Longest time of a cell; each example should take less than a minute."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@cache
def executed(text: str) -> Any:
    """The notebook of a file in the percent format, run in the project's folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(ROOT)}}, extra_arguments=["--log-level=ERROR"]
    )
    client.execute()
    return notebook


def page_of(notebook: Any, stem: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of an executed notebook, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = ""
        for output in cell.outputs:
            if output.output_type == "stream":
                printed += ANSI.sub("", output.text)
            elif "image/png" in output.data:
                name = f"{stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output.data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            else:
                printed += output.data.get("text/plain", "") + "\n"
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
    title, _, rest = parts[0].partition("\n")
    download = f"[Notebook]({stem}.ipynb) to run in the project's folder · [Python file]({stem}.py)"
    return "\n\n".join([title, download, rest.strip(), *parts[1:]]) + "\n", pictures


def on_files(files: Files, config: Any) -> Files:
    """Replace every example by its page, pictures and notebook; two run at a time."""
    sources = sorted((ROOT / "docs" / "examples").glob("*.py"))
    with ThreadPoolExecutor(2) as pool:
        notebooks = list(pool.map(executed, [source.read_text(encoding="utf-8") for source in sources]))
    for source, notebook in zip(sources, notebooks, strict=True):
        page, pictures = page_of(notebook, source.stem)
        made = {f"{source.stem}.md": page, f"{source.stem}.ipynb": nbformat.writes(notebook), **pictures}
        for name, content in made.items():
            files.append(File.generated(config, f"examples/{name}", content=content))
    return files
