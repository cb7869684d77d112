"""Build of the wheel: everything that the package needs goes into ``randomwalk/``.

The network packages `guided_diffusion` and `score_sde` have names that public packages have too, and one of two
packages with the same name would overwrite the other. The wheel holds them as `randomwalk._bundled.guided_diffusion`
and `randomwalk._bundled.score_sde`, with the imports changed to these names, so both can be installed. Configs,
bundled weights and example images go into `randomwalk/_bundled` too, where `randomwalk.lookup` finds them.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NETWORKS = ("guided_diffusion", "score_sde")
FILES = (
    "configs/**/*.yaml", "configs/schema/*.json", "pretrained_models/*.safetensors", "pretrained_models/*.md",
    "data/photographs/*", "data/degraded/*.png", "data/fashion_mnist/*", "data/instruments/*",
)  # fmt: skip
DATA = (".html", ".npz")
"""Suffixes of files in the packages that their modules read."""


class WheelHook(BuildHookInterface):
    """Puts the files of a wheel together; an editable installation (``pip install -e``) uses the checkout as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the modules with changed imports to a temporary folder and list what goes into the wheel."""
        if version != "standard":
            return
        root = Path(self.root)
        self.changed = tempfile.TemporaryDirectory()
        (Path(self.changed.name) / "_bundled.py").write_text('"""What lies beside the package in a checkout."""\n')
        included = {str(Path(self.changed.name) / "_bundled.py"): "randomwalk/_bundled/__init__.py"}
        for package in ("randomwalk", *NETWORKS):
            for source in sorted((root / package).rglob("*")):
                name = source.relative_to(root)
                target = name if package == "randomwalk" else Path("randomwalk/_bundled") / name
                if source.suffix in DATA:
                    included[str(source)] = target.as_posix()
                if source.suffix not in (".py", ".pyi", ".typed"):
                    continue
                changed = Path(self.changed.name) / name
                changed.parent.mkdir(parents=True, exist_ok=True)
                changed.write_text(renamed(source.read_text(encoding="utf-8")), encoding="utf-8")
                included[str(changed)] = target.as_posix()
        for source in sorted(path for pattern in FILES for path in root.glob(pattern) if path.is_file()):
            included[str(source)] = f"randomwalk/_bundled/{source.relative_to(root).as_posix()}"
        build_data["force_include"].update(included)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        if version == "standard":
            self.changed.cleanup()


def renamed(text: str) -> str:
    """Rename the network packages to their names in the wheel, in imports and in the table of networks."""
    names = "|".join(NETWORKS)
    text = re.sub(rf"^(\s*(?:from|import) )({names})\b", r"\1randomwalk._bundled.\2", text, flags=re.MULTILINE)
    return re.sub(rf'"({names})(\.|", ")', r'"randomwalk._bundled.\1\2', text)
