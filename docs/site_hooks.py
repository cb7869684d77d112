"""Hooks of mkdocs: pages from outside of docs/, links that work in the site as in the repository, and equations.

Equations become MathML, which browsers draw themselves: the site needs no script and no network for them.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "documents.md",  # docs/README.md would be the index of the site
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/README.md": "benchmarks/README.md",
    **{f"pretrained_models/{path.name}": f"pretrained_models/{path.name}"
       for suffix in ("md", "png") for path in (ROOT / "pretrained_models").glob(f"*.{suffix}")},
}  # fmt: skip
"""Place in the site of files of the repository."""
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
"""Equation in a page, as arithmatex leaves it."""
CORRECTIONS = (
    (r"<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"),  # a relation: n ~ Normal
    (r"<mi>(&#x000[4-7][0-9A-F];)</mi>", r'<mi mathvariant="normal">\1</mi>'),  # upright: E[X]
    (r"(<mi>(?:log|ln|exp|sin|cos|tan|sinh|cosh|tanh)</mi>)(?=<m(?!o\b))", r'\1<mspace width="0.17em" />'),  # log p
    (r"(<mo>&#x0003D;</mo>)<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>'),  # x = -u
)
"""What latex2mathml leaves to improve."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/."""
    files.remove(files.get_file_from_path("README.md"))
    for source, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that leave docs/ or enter it."""
    place = page.file.src_uri
    if place in ("index.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        markdown = markdown.replace("](docs/README.md", "](documents.md").replace("](docs/", "](")
        return markdown.replace('src="docs/', 'src="')
    if place == "documents.md":
        markdown = re.sub(r"\]\(examples/(\w+)\.py\)", r"](examples/\1.md)", markdown)
    if place.startswith(("pretrained_models/", "benchmarks/")):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\(\.\./(pretrained_models|benchmarks)/", r"](\1/", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Typeset the equations: TeX becomes MathML.

    Raises:
        PluginError: a macro that is not known.
    """

    def typeset(found: re.Match[str]) -> str:
        block, tex = found[1] == "div", html.unescape(found[2]).strip()
        equation = convert(tex, display="block" if block else "inline")
        for pattern, better in CORRECTIONS:
            equation = re.sub(pattern, better, equation)
        if "\\" in equation:
            raise PluginError(f"an unknown macro in the equation {tex}")
        return f'<div class="equation">{equation}</div>' if block else equation

    return EQUATION.sub(typeset, content)
