"""Write docs/mistakes.md: mistakes of a first-time user, each run as a real command, with the message that came.

python docs/mistakes.py           writes the page
python docs/mistakes.py --check   fails if the page is not what the program says now
"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mistakes.md"
WIDTH = 118


@dataclass(frozen=True)
class Mistake:
    """A command, its title, what to do about it, and the exit status that it should have."""

    title: str
    command: str
    remedy: str
    status: int = 2


MISTAKES = (
    Mistake(
        "A folder that is not there",
        "python sample.py --diffusion_config configs/photo_denoise.yaml --set data.path=my_photo",
        "Paths are relative to the folder that the command runs in. A name that is nearly right is suggested.",
    ),
    Mistake(
        "A folder in place of a photograph",
        "randomwalk restore my_photos",
        "`restore` takes one file. The message has the command for a folder.",
    ),
    Mistake(
        "A path with a space",
        "randomwalk restore my photo.jpg",
        "Put it in quotes: `randomwalk restore 'my photo.jpg'`.",
    ),
    Mistake(
        "A picture of an unknown kind",
        "randomwalk restore photo.heic",
        "Do what the message says. All kinds: [files](your_photographs.md#files).",
    ),
    Mistake(
        "No weights",
        "python sample.py --diffusion_config configs/ffhq256/vp_inpainting.yaml --set data.path=my_photos",
        "The configs in `configs/ffhq256` are for weights that others publish. The other configs need no download.",
    ),
    Mistake(
        "Grey for colour",
        "python train.py --config configs/folder_train.yaml --set data.path=my_photos data.channels=1",
        "The images and the network must have as many channels. For grey ones set `network.in_channels=1` and "
        "`network.out_channels=1` too.",
    ),
    Mistake(
        "Photographs for a network of one size",
        "python sample.py --diffusion_config configs/vp_posterior.yaml "
        "--set data.path=my_photos data.num_images=1 data.fit=keep",
        "The networks for Fashion-MNIST know clothes in 32 x 32 grey pixels and nothing else. For photographs take "
        "`pretrained_models/photo.safetensors`.",
    ),
    Mistake(
        "A key in the wrong place",
        "python sample.py --diffusion_config configs/photo_inpainting.yaml --set sampler.steps=50",
        "Use the key that is suggested. All keys: [settings](settings.md).",
    ),
    Mistake(
        "A tab in YAML",
        "python sample.py --diffusion_config tab.yaml",
        "YAML is indented with spaces.",
    ),
    Mistake(
        "A mask of another size",
        "randomwalk restore photo.jpg --fill small_mask.png",
        "Paint the mask on a copy of the photograph itself: [masks](your_photographs.md#painted-over).",
    ),
    Mistake(
        "A mask without a hole",
        "randomwalk restore photo.jpg --fill white.png",
        "White is kept and dark is filled in; `--invert` exchanges them.",
    ),
    Mistake(
        "Noise in the wrong unit, too small",
        "randomwalk restore photo.jpg --noise 0.1 --dry-run",
        "`--noise` is the standard deviation on the scale from 0 to 255. Without it the noise is estimated.",
        status=0,
    ),
    Mistake(
        "Noise in the wrong unit, too large",
        "python sample.py --diffusion_config configs/vp_posterior.yaml --set measurement.noise.std=25 --dry-run",
        "`measurement.noise.std` is in the units of `measurement.noise.pixel_range`. Change the one or the other.",
        status=0,
    ),
    Mistake(
        "Too few pictures to train on",
        "python train.py --config configs/folder_train.yaml --set data.path=my_photos",
        "Pictures that are kept apart validate the training. Add pictures, or set `data.num_validation` lower.",
    ),
    Mistake(
        "The wrong folder to resume",
        "python train.py --resume results/nothing",
        "Give the run folder, which the program prints first.",
    ),
)


def prepare(folder: Path) -> None:
    """Make what the commands find: links to the project's files, and a newcomer's own."""
    for name in ("sample.py", "train.py", "configs", "pretrained_models", "data"):
        (folder / name).symlink_to(ROOT / name)
    photo = Image.open(ROOT / "data" / "photographs" / "chelsea.png").convert("RGB").resize((96, 64))
    photo.save(folder / "photo.jpg")
    (folder / "my_photos").mkdir()
    for k in range(3):
        photo.rotate(k).save(folder / "my_photos" / f"{k}.png")
    Image.new("L", (32, 32), 255).save(folder / "small_mask.png")
    Image.new("L", photo.size, 255).save(folder / "white.png")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    text = (ROOT / "configs" / "photo_denoise.yaml").read_text(encoding="utf-8")
    (folder / "tab.yaml").write_text(text.replace("  path:", "\tpath:"), encoding="utf-8")
    command = folder / "bin" / "randomwalk"  # as an installation would make it
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m randomwalk "$@"\n')
    command.chmod(0o755)


def said(mistake: Mistake, folder: Path) -> str:
    """Answer of the program, without paths of the machine.

    Raises:
        SystemExit: another exit status than stated.
    """
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        ["bash", "-c", mistake.command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != mistake.status:
        raise SystemExit(f"{mistake.command}: status {done.returncode}; expected {mistake.status}\n{done.stderr}")
    text = done.stderr.replace(f"{folder}/", "").replace(f"{ROOT}/", "").replace(str(folder), "FOLDER")
    lines = [line for line in text.splitlines() if mistake.status or line.startswith("note: measurement")]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False) or [""])


def page() -> str:
    """The page, as the program answers now."""
    parts = [
        "# Mistakes, and what the program says",
        "The likeliest mistakes of a first run: what was typed, the answer, and what to do. Bad input ends with the "
        "exit status 2, before anything is computed or written; what is only doubtful is a note.",
        "`python docs/mistakes.py` runs every command of this page and writes it. With `--check` it tells whether the "
        "page is still true.",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        for mistake in MISTAKES:
            parts += [
                f"## {mistake.title}",
                f"```bash\n{mistake.command}\n```",
                f"```text\n{said(mistake, folder)}\n```",
            ]
            parts.append(mistake.remedy)
    return (
        "\n\n".join("\n".join(textwrap.wrap(p, WIDTH, break_on_hyphens=False)) if "\n" not in p else p for p in parts)
        + "\n"
    )


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the program says")
    check = parser.parse_args().check
    found = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    text = page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    changes = list(difflib.unified_diff(found.splitlines(), text.splitlines(), str(PAGE), "now", lineterm=""))
    print("\n".join(changes) or f"{PAGE.name} is what the program says")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
