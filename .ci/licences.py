"""Write docs/licences.md from the metadata of the packages that are installed.

    python .ci/licences.py

A package that is not installed keeps the row that the page has, or gets a question mark, for
which `tests/test_licences.py` asks.
"""

import re
import tomllib
from importlib.metadata import PackageMetadata, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/licences.md"
# What the licence file of a package says whose metadata says nothing.
BY_FILE = {"cuda-toolkit": "NVIDIA, proprietary", "torchcodec": "BSD-3-Clause"}
BY_FILE |= {"mlcroissant": "Apache-2.0"}  # its wheel has none; its repository does
SHORT = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA, proprietary",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "NVIDIA, proprietary",
    "Other/Proprietary License": "NVIDIA, proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
DEMANDING = re.compile(r"GPL|MPL|EPL|proprietary|unknown")
TEXT = """# Licences

ccrop is under Apache-2.0. It contains no code of the packages below; pip installs them beside
it. `make licences` writes this page from their metadata, and a test asks for each package that
`pyproject.toml` names.

## What ccrop requires

| package | licence | needed by |
|---|---|---|
{direct}

`dev` is for work on ccrop alone.

## What is not permissive

Of these packages and all that they require in turn, as `make setup` installs them on Linux, the
following set conditions beyond keeping a notice. What wandb, mlflow-skinny and trackio require in
turn was not looked into.

| package | licence | needed by |
|---|---|---|
{demanding}

NVIDIA's libraries come with builds of torch for CUDA; the builds for a CPU have none. Wheels of
NumPy and SciPy hold parts of GCC (GPL with the exception for its runtime library). For a list of
everything in an environment, `pip install pip-licenses`, then `pip-licenses --order=license`.
"""


def main() -> None:
    """Write the page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"ccrop": project["dependencies"], **project["optional-dependencies"]}
    kept = dict(re.findall(r"^\| (\S+) \| (.+?) \|", PAGE.read_text(), re.M))
    direct, demanding = [], {}
    for group, lines in groups.items():
        for name in (Requirement(line).name for line in lines):
            if name != project["name"]:
                licence = licence_of(name) or kept.get(name, "?")
                direct.append(f"| {name} | {licence} | {group} |")
        for name in closure(lines):
            licence = licence_of(name) or ""
            if DEMANDING.search(licence) and "OR Apache" not in licence:
                name = re.sub(r"^(nvidia-|cuda-toolkit).*", "cuda-toolkit, nvidia-*", name)
                demanding.setdefault((name, licence), group)
    rows = [f"| {name} | {licence} | {group} |" for (name, licence), group in demanding.items()]
    PAGE.write_text(TEXT.format(direct="\n".join(direct), demanding="\n".join(sorted(rows))))


def licence_of(name: str) -> str | None:
    """Return the licence of a package by its metadata, None if it is not installed."""
    try:
        metadata: PackageMetadata = distribution(name).metadata
    except PackageNotFoundError:
        return None
    text = metadata["License-Expression"] or metadata["License"] or ""
    text = "" if "\n" in text or len(text) > 120 else SHORT.get(text, text)
    lines = [line.split(" :: ") for line in metadata.get_all("Classifier") or ()]
    classifiers = [SHORT.get(line[-1], line[-1]) for line in lines if line[0] == "License"]
    return text or " OR ".join(classifiers) or BY_FILE.get(name, "unknown")


def closure(lines: list[str]) -> set[str]:
    """Return the names of the installed packages that these lines require, directly or not."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        parent = waiting.pop()
        key = (parent.name, frozenset(parent.extras))
        if key in seen or licence_of(parent.name) is None:
            continue
        seen.add(key)
        for requirement in map(Requirement, distribution(parent.name).requires or ()):
            marker = requirement.marker
            if not marker or any(marker.evaluate({"extra": e}) for e in {"", *parent.extras}):
                waiting.append(requirement)
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
