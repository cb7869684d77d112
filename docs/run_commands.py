"""Run every command and snippet of the documentation, in order, as a newcomer would: python docs/run_commands.py

Each page's blocks of bash are run line by line in a copy of the project, and its blocks of Python together, as one
program; on the pages for MRI and CT each block where it stands. The first error ends the run. Pictures that a page
supposes (``photo.jpg``, ``my_images``, ...) are made from data/, and a Fashion-MNIST that a training has downloaded
there is used again. Trainings of images and of points are cut to half a minute, and benchmarks run their ``--quick``
version. Lines with a name in capitals (``FOLDER``) need data that only the reader has, and are counted, not run; so are
installations, unless ``--fresh`` makes an environment for them.

With ``--wheel`` the commands run in an empty folder, by the wheel in an environment of its own that borrows the
libraries of this one: ``python sample.py`` is ``randomwalk sample`` there, and lines that need a clone are counted,
with all lines of a block that begins with ``# In a clone``.

Pages that are left out, and where their commands are run:

* docs/bring_your_own_network.md: tests/denoisers/test_bring_your_own.py, every line of Python and YAML
* docs/mistakes.md, whose commands must fail: docs/mistakes.py --check
* docs/examples/: each build of the site executes them (docs/example_hooks.py)
* docs/score_embedding.md: trainings of hours by several processes; tests/benchmarks has their quick versions
* CONTRIBUTING.md: .ci/run and .github/workflows/ci.yml
* pretrained_models/photo.md and photo_camera.md: trainings on photographs that are not in the project

Commands within a sentence (docs/speed.md, docs/likelihood.md, benchmarks/README.md, ...) are measurements of minutes to
hours, and are not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{name}.md" for name in (
    "restore", "your_photographs", "report", "training", "samplers", "posterior", "points", "photographs", "extending",
    "fashion", "instruments", "mri", "ct", "course/1-walk", "course/2-sdes", "course/3-losses", "course/4-solvers",
    "course/5-conditional", "course/6-bridge",
)), *(f"pretrained_models/{name}.md" for name in ("fashion_labels", "fashion_vp", "fashion_ve"))]  # fmt: skip
BLOCK = re.compile(r"^( *)```(bash|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
IN_ORDER = ("docs/mri.md", "docs/ct.md")
"""Pages whose commands need what their Python makes, and the other way round: each block runs where it stands."""
MODULE = '"""'
"""Beginning of a block of Python that is a file to add, which ``tests/config/test_extending.py`` does."""
NAMES = {
    "README.md": """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c_noise):
        return self.layer(x) + c_noise[:, None, None, None]

network = Network()
batches, optimizer = [torch.rand(4, 1, 8, 8)], torch.optim.Adam(network.parameters())
""",
    "docs/posterior.md": """
import torch
import randomwalk

denoiser = randomwalk.GaussianMixture([0.5, 0.5], torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1), 0.1)
operator, noise, y = randomwalk.operators.Identity((1, 1, 1)), randomwalk.GaussianNoise(0.5), torch.zeros(1, 1, 1, 1)
sigmas = randomwalk.schedules.make("geometric", 20, sigma_min=0.02, sigma_max=10.0)
""",
}
"""What the Python of a page supposes that the reader has."""
PLACEHOLDER = re.compile(r"\b(FOLDER|RUN|FILE|38082\.jpg)\b")
SHORT = "max_minutes=0.5 validate_images=1000000"
"""What is added to the settings of a training of images or points."""
OF_A_CLONE = re.compile(r"\b(benchmarks|docs|tests)/|^(torchrun|mpiexec|git)\b")


def lines_of(text: str) -> Iterator[str]:
    """Commands of a block of bash, without comments; a line that ends with a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*", "", line).strip()
        if command:
            yield command


def shortened(command: str) -> str:
    """The command, cut to half a minute if it trains a denoiser; a benchmark in its quick version."""
    if "python benchmarks/" in command:
        return command if "--quick" in command else f"{command} --quick"
    first, rest = re.match(r"(.*?)( && .*)?$", command).groups(default="")  # type: ignore[union-attr]
    if not re.search(r"\btrain(\.py)?\b", first) or "--resume" in first or "configs/bridge" in first:
        return command
    return f"{first} {SHORT if '--set' in first else f'--set {SHORT}'}{rest}"


def prepare(folder: Path, data: Path) -> None:
    """Make the pictures that the pages suppose, from those in ``data``, and link Fashion-MNIST if it is there."""
    made = {}
    if not (folder / "data" / "instruments").exists():
        shutil.copytree(data / "instruments", folder / "data" / "instruments")
    if (sets := ROOT / "data" / "FashionMNIST").is_dir():
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / "FashionMNIST").symlink_to(sets)
    for name in ("photo.jpg", "my_photo.jpg", "photo.png"):
        made[name] = Image.open(data / "degraded" / "noisy.png").convert("RGB")
    made["my_photo.png"] = Image.open(data / "degraded" / "painted.png").convert("RGB")
    made["my_photo_mask.png"] = Image.open(data / "degraded" / "painted_mask.png")
    made["mask.png"] = made["my_photo_mask.png"].resize(made["photo.png"].size)
    made["small.png"] = Image.open(data / "degraded" / "small.png").convert("RGB")
    made["blurred.jpg"] = Image.open(data / "degraded" / "blurred.png").convert("RGB")
    kernel = Image.new("L", (5, 5))
    for x, y, light in ((2, 2, 255), (1, 2, 160), (3, 2, 160), (2, 1, 160), (2, 3, 160)):
        kernel.putpixel((x, y), light)
    made["kernel.png"] = kernel
    for name, image in made.items():
        image.save(folder / name)
    (folder / "small_images").mkdir()
    shutil.copy(data / "degraded" / "small.png", folder / "small_images")
    for kind in ("cat", "dog"):
        (folder / "my_images" / kind).mkdir(parents=True)
        for k in range(80):
            source = Image.open(data / "photographs" / ("chelsea.png" if kind == "cat" else "coffee.png"))
            source.crop((k, k, k + 120, k + 120)).save(folder / "my_images" / kind / f"{k}.png")


def run(command: str, folder: Path, environment: dict[str, str]) -> float:
    """Run a command in a folder, and return the seconds that it took.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        print(f"FAILED ({done.returncode}): {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        raise SystemExit(1)
    return seconds


def environment_of(folder: Path, fresh: bool) -> dict[str, str]:
    """Variables for the commands; with ``fresh`` those of a new environment."""
    if not fresh:
        command = folder / "bin" / "randomwalk"  # as an installation would make it
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m randomwalk "$@"\n')
        command.chmod(0o755)
        path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)
    return {**os.environ, "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def environment_of_wheel(clone: Path) -> dict[str, str]:
    """Variables for the commands of a wheel of the clone, in an environment that borrows the libraries of this one."""
    made, dist = clone.parent / "environment", clone.parent / "dist"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(dist), str(clone)], check=True)
    own = sysconfig.get_path("purelib", vars={"base": str(made)})
    subprocess.run([*pip, "--python", str(made), "install", "--no-deps", str(next(dist.glob("*.whl")))], check=True)
    Path(own, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "PATH": f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def reason_to_leave(command: str, block: str, fresh: bool, wheel: bool) -> str:
    """Why a command of a block is counted and not run; an empty text if it is run."""
    if PLACEHOLDER.search(command):
        return "needs data of the reader's"
    if command.startswith("pip ") and not fresh:
        return "installs"
    return "needs a clone" if wheel and (block.startswith("# In a clone") or OF_A_CLONE.search(command)) else ""


def run_page(page: str, folder: Path, environment: dict[str, str], fresh: bool, wheel: bool) -> tuple[int, int]:
    """Run the commands of a page, then its Python as one program, or each block in its place on pages of `IN_ORDER`;
    numbers of commands and programs that ran, and of commands that were left.

    Raises:
        SystemExit: one failed.
    """
    blocks = [(kind, textwrap.dedent(text)) for _, kind, text in BLOCK.findall((ROOT / page).read_text("utf-8"))]
    if page not in IN_ORDER:
        program = "".join(text for kind, text in blocks if kind == "python" and not text.startswith(MODULE))
        blocks = [(kind, text) for kind, text in blocks if kind == "bash"]
        blocks += [("python", NAMES.get(page, "") + program)] if program else []
    ran = left = 0
    lines = ((k, c, text) for k, text in blocks for c in (lines_of(text) if k == "bash" else [text]))
    for language, command, block in lines:
        if language == "python":
            (folder / "snippets.py").write_text(command, encoding="utf-8")
            print(f"{run('python snippets.py', folder, environment):8.1f} s  its Python", flush=True)
            ran += 1
            continue
        if reason := reason_to_leave(command, block, fresh, wheel):
            print(f"  left out  {command}  ({reason})", flush=True)
            left += 1
            continue
        command = shortened(command)
        if wheel:
            command = re.sub(r"\bpython (sample|train)\.py", r"randomwalk \1", command)
        for made in folder.glob("*_restored.*"):  # the commands of a block are alternatives
            made.unlink()
        print(f"{run(command, folder, environment):8.1f} s  {command}", flush=True)
        ran += 1
    return ran, left


def main() -> int:
    """Run the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=PAGES, help="pages, relative to the project")
    kind_of_run = parser.add_mutually_exclusive_group()
    kind_of_run.add_argument("--fresh", action="store_true", help="in a new environment: run the installations too")
    kind_of_run.add_argument("--wheel", action="store_true", help="away from the clone, by the installed wheel")
    chosen = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = clone = Path(name) / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if chosen.wheel:
            folder = Path(name) / "empty"
            folder.mkdir()
        prepare(folder, clone / "data")
        environment = environment_of_wheel(clone) if chosen.wheel else environment_of(folder, chosen.fresh)
        ran = left = 0
        for page in chosen.pages:
            print(f"# {page}", flush=True)
            of_page = run_page(page, folder, environment, chosen.fresh, chosen.wheel)
            ran, left = ran + of_page[0], left + of_page[1]
    seconds = time.perf_counter() - began
    print(f"{len(chosen.pages)} pages: {ran} commands and programs ran in {seconds:.0f} s, {left} were left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
