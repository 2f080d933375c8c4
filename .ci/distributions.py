"""Try distributions as someone does who installs one without extras and follows docs/tour.md.

    python .ci/distributions.py dist/*               # pip installs every requirement anew
    python .ci/distributions.py --linked dist/*.whl  # requirements are hard links to those here

Either way a distribution gets an environment of its own, which holds what it requires and no
more. The tour's commands run there, in a folder with a few generated photographs, except those
that ask the network, need a GPU or take minutes. README's own need timm and weights from elsewhere.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NAME = "ccrop-pipeline"
# What a command of the tour has in it if it asks the network, needs a GPU, or takes minutes.
LEFT_OUT = ("ccrop quickstart", "runs/beside", "ccrop demo")
PHOTOS = """
import numpy as np
from pathlib import Path
from PIL import Image
draw = np.random.default_rng(0)
for number in range(80):
    coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path = Path("photos", ("cat", "dog")[number % 2], f"{number:03}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((160, 120), Image.Resampling.BICUBIC).save(path)
"""
PUBLIC_FACE = "import ccrop_pipeline as face; [getattr(face, name) for name in dir(face)]"


def main() -> None:
    """Check what each distribution holds, then try it."""
    parser = argparse.ArgumentParser(description="Try distributions by a tour of the commands.")
    parser.add_argument("distributions", nargs="+", type=Path)
    parser.add_argument("--linked", action="store_true")
    arguments = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    for path in arguments.distributions:
        check_contents(path)
        with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="trial-") as folder:
            trial = Trial(Path(folder))
            trial.install(path.resolve(), linked=arguments.linked)
            trial.take_tour()
        print(f"{path.name}: every command runs on its requirements alone.")


def check_contents(path: Path) -> None:
    """Stop unless the archive holds every tracked file: a wheel the packages', an sdist all."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith(".")}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
        packages = ("ccrop_pipeline/", "cli/")
        tracked = {re.sub("^cli/", "ccrop_cli/", n) for n in tracked if n.startswith(packages)}
    else:
        with tarfile.open(path) as archive:
            held = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(tracked - held):
        sys.exit(f"{path.name} lacks {len(missing)} tracked files: {', '.join(missing[:9])}")


class Trial:
    """An environment and a folder to run commands in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv/bin"
        (self.site,) = (folder / "venv/lib").glob("python*/site-packages")
        self.place = folder / "place"
        self.place.mkdir()

    def run(self, *command: str) -> None:
        """Run a command of the environment in the folder, and say how long it took."""
        started = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        program = self.bin / command[0]
        done = subprocess.run(
            [program, *command[1:]],
            cwd=self.place,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        line = " ".join(command).strip().replace("\n", " ")[:90]
        if done.returncode:
            sys.exit(f"{done.stdout}\nexit status {done.returncode}: {line}")
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    def install(self, path: Path, *, linked: bool) -> None:
        """Install a distribution without extras."""
        if linked:
            self.run("pip", "install", "--quiet", "--no-deps", str(path))
            (installed,) = distributions(name=NAME, path=[str(self.site)])
            for needed in requirements_of(installed):
                link_files(needed, self.site)
        else:
            self.run("pip", "install", "--quiet", str(path))
        self.run("pip", "check")

    def take_tour(self) -> None:
        """Run what a newcomer runs."""
        self.run("python", "-c", PUBLIC_FACE)
        self.run("python", "-c", PHOTOS)
        self.run("ccrop", "--help")
        self.run("ccrop", "recipes")
        for command in tour():
            self.run(*command.split())


def requirements_of(root: Distribution) -> list[Distribution]:
    """Return all that a distribution requires, directly or not, as installed for this Python."""
    needed: dict[tuple[str, frozenset[str]], Distribution] = {}
    waiting = [(root, frozenset[str]())]
    while waiting:
        parent, extras = waiting.pop()
        for requirement in map(Requirement, parent.requires or ()):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            key = (requirement.name, frozenset(requirement.extras))
            if key not in needed:
                needed[key] = distribution(requirement.name)
                waiting.append((needed[key], key[1]))
    return list(needed.values())


def link_files(installed: Distribution, site: Path) -> None:
    """Make hard links, in another site-packages, to the files of an installed distribution."""
    for file in installed.files or ():
        original, link = Path(str(installed.locate_file(file))), site / file
        if ".." not in file.parts and original.exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(original, link)


def tour() -> list[str]:
    """Return the commands of docs/tour.md, in order."""
    commands = re.findall(r"^ccrop .+$", (ROOT / "docs/tour.md").read_text(), re.M)
    return [line for line in commands if not any(word in line for word in LEFT_OUT)]


if __name__ == "__main__":
    main()
